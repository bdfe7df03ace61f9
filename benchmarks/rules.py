"""The usual rules of negative mining on a similarity matrix, an oracle, and Tamis' default, as rows of passages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hidden_tasks
import numpy as np

import tamis

Array = np.ndarray[Any, Any]
DEPTH = 300


def ranked(queries: Array, corpus: Array, shown: Array) -> tuple[Array, Array]:
    """Rows and scores of the nearest passages without the shown positive, best first."""
    rows, scores = [], []
    for start in range(0, len(queries), 1024):
        block = queries[start : start + 1024] @ corpus.T
        block[np.arange(len(block)), shown[start : start + 1024]] = -np.inf
        depth = min(DEPTH, block.shape[1] - 1)
        part = np.argpartition(-block, depth - 1, axis=1)[:, :depth]
        score = np.take_along_axis(block, part, 1)
        order = np.argsort(-score, axis=1, kind="stable")
        rows.append(np.take_along_axis(part, order, 1))
        scores.append(np.take_along_axis(score, order, 1))
    return np.concatenate(rows), np.concatenate(scores)


RULES: dict[str, Callable[[Array, Array, Array], Array]] = {
    "naive": lambda score, rank, positive: rank > 0,
    "skip 10": lambda score, rank, positive: rank > 10,
    "skip 30": lambda score, rank, positive: rank > 30,
    "percentage 0.95": lambda score, rank, positive: score < 0.95 * positive,
    "percentage 0.90": lambda score, rank, positive: score < 0.90 * positive,
    "percentage 0.80": lambda score, rank, positive: score < 0.80 * positive,
    "relative margin 0.05": lambda score, rank, positive: score < positive - 0.05 * np.abs(positive),
}


def by_rule(name: str, rows: Array, scores: Array, positive: Array, n: int) -> Array:
    """(q, n) rows of the first candidates that a rule keeps, -1 where it keeps too few."""
    rank = np.broadcast_to(np.arange(1, rows.shape[1] + 1), rows.shape)
    return first(RULES[name](scores, rank, positive[:, None]), rows, n)


def by_guide(rows: Array, positive: Array, guide_queries: Array, guide_corpus: Array, shown: Array, n: int) -> Array:
    """GISTEmbed's rule: a second encoder must find a negative less similar to the query than the positive."""
    guided = np.einsum("qkd,qd->qk", guide_corpus[rows], guide_queries)
    return first(guided < np.einsum("qd,qd->q", guide_corpus[shown], guide_queries)[:, None], rows, n)


def oracle(rows: Array, task: hidden_tasks.Task, n: int) -> Array:
    """The hardest that are truly negative, grey ones left out: only who knows the hidden answers can do this."""
    width = len(task.corpus)
    bad = [
        np.array(sorted(a | g), np.int64) + i * width
        for i, (a, g) in enumerate(zip(task.answers, task.grey, strict=True))
    ]
    keys = np.arange(len(rows))[:, None] * width + rows
    return first(~np.isin(keys, np.concatenate(bad)), rows, n)


def first(keep: Array, rows: Array, n: int) -> Array:
    """(q, n) the first kept rows of each line, -1 where there are none left."""
    order = np.argsort(~keep, axis=1, kind="stable")[:, :n]
    return np.where(np.take_along_axis(keep, order, 1), np.take_along_axis(rows, order, 1), -1)


def by_tamis(task: hidden_tasks.Task, n: int, **settings: Any) -> tuple[Array, dict[str, Any]]:
    """Tamis' default, nothing set but the number of negatives; and its report."""
    mined = tamis.mine(task.train, task.corpus, [[int(i)] for i in task.shown], negatives=n, **settings)
    rows = np.full((len(task.train), n), -1)
    query = mined.negatives["query"]
    place = np.arange(len(query)) - np.searchsorted(query, query)
    rows[query, place] = mined.negatives["negative"]
    return rows, mined.summary
