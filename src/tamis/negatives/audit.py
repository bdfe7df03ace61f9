"""Audit: how many false negatives a mining rule lets through, measured on known positives that play unknown ones.

A known positive is *planted*: it is hidden, and treated like any other passage of the corpus. Of the planted positives
that reach the candidate pool, the share that would have become negatives is the *survival rate*, with a Wilson
interval. The margin is chosen on one half of them and verified on the other (see ``calibration``). Here stand the
planting, the shares, and what else leaks through a mined set: copies of positives, and hubs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tamis.intervals import wilson
from tamis.randomness import Seed, as_generator

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Planted:
    """Hidden positives, one per query, and the best evidence left to judge them by.

    Args:
        query: (p,) int64 query rows, each at most once.
        passage: (p,) int64 corpus rows of the hidden positives.
    """

    query: Array
    passage: Array

    def __len__(self) -> int:
        return len(self.query)


def plant(positives: Sequence[Array], text_groups: Array, *, seed: Seed, limit: int = 20_000) -> Planted:
    """Hide one positive of every query that has another one with another text; one each keeps draws independent.

    Args:
        positives: per query the corpus rows of its positives.
        text_groups: (n,) int64, equal for equal texts.
        seed: seed or generator.
        limit: at most this many queries, drawn at random.

    Returns:
        the hidden positives, by query row.

    Example:
        >>> len(plant([np.array([0, 1]), np.array([2])], np.arange(3), seed=0))
        1
    """
    rng = as_generator(seed)
    several = [i for i, rows in enumerate(positives) if len(rows) > 1 and len(set(text_groups[rows].tolist())) > 1]
    if len(several) > limit:
        several = sorted(rng.choice(several, limit, replace=False).tolist())
    hidden = [int(rng.choice(positives[i])) for i in several]
    return Planted(np.array(several, np.int64), np.array(hidden, np.int64))


def slack(scores: Array, reference: Array) -> Array:
    """How large a relative margin a hidden positive survives: ``(p - s) / |p|``, its score s, the positive's p.

    At the relative margin m a candidate is kept when ``s < p - m |p|``, which is ``m < slack``.

    Args:
        scores: (p,) float, scores of hidden positives.
        reference: (p,) float, the score of the positive that the margin is measured from.

    Returns:
        (p,) float64.
    """
    reference = np.asarray(reference, np.float64)
    size = np.where(np.isneginf(reference), 1.0, np.abs(reference))  # without a score nothing is survived: -inf
    return np.asarray((reference - np.asarray(scores, np.float64)) / np.maximum(size, 1e-9))


def needed(max_survival: float) -> int:
    """Planted positives that a bound asks for, both halves together: ``2 * (1 / max_survival - 1)``, rounded up.

    Example:
        >>> needed(0.02)
        98
    """
    return 2 * math.ceil(1 / max_survival - 1 - 1e-9)


def share(count: int, of: int) -> dict[str, Any]:
    """A count as a share with its Wilson interval, ready for a report.

    Args:
        count: how many.
        of: out of how many.

    Returns:
        n, count, rate (None when n is 0) and the 95 % interval.

    Example:
        >>> share(1, 50)["rate"]
        0.02
    """
    low, high = wilson(count, of)
    return {"n": of, "count": count, "rate": count / of if of else None, "interval": [low, high]}


def skew(negatives: Array, queries: Array, n_queries: int, n_passages: int) -> dict[str, Any]:
    """How evenly the negatives fall on queries and passages: hubs and short lists show here.

    Args:
        negatives: (m,) int64 corpus rows.
        queries: (m,) int64 query rows.
        n_queries: queries in all.
        n_passages: passages in all.

    Returns:
        negatives per query (mean, least), queries without any, distinct passages used and their share of the corpus,
        and the share of all negatives that the most used 1 % of the used passages take.
    """
    per_query = np.bincount(queries, minlength=n_queries)
    uses = np.sort(np.bincount(negatives, minlength=1)[np.unique(negatives)]) if len(negatives) else np.zeros(1, int)
    top = max(1, math.ceil(len(uses) / 100))
    return {
        "negatives": len(negatives),
        "per_query_mean": float(per_query.mean()) if n_queries else 0.0,
        "per_query_least": int(per_query.min()) if n_queries else 0,
        "queries_without": int((per_query == 0).sum()),
        "passages_used": len(uses) if len(negatives) else 0,
        "share_of_corpus": len(uses) / n_passages if len(negatives) else 0.0,
        "top_1_percent_take": float(uses[-top:].sum() / max(1, uses.sum())),
        "most_used": int(uses[-1]),
    }


def known_false(queries: Array, negatives: Array, truth: Sequence[Array]) -> dict[str, Any]:
    """Of the mined negatives, how many a fuller judgement calls positives.

    Args:
        queries: (m,) int64 query rows.
        negatives: (m,) int64 corpus rows.
        truth: per query all the corpus rows that answer it.

    Returns:
        the share of negatives that are false, with a Wilson interval (which takes negatives for independent).
    """
    width = 1 + max([int(negatives.max(initial=0)), *(int(rows.max(initial=0)) for rows in truth)])
    answers = np.concatenate([np.empty(0, np.int64), *(i * width + rows for i, rows in enumerate(truth))])
    return share(int(np.isin(queries * width + negatives, answers).sum()), len(negatives))


def duplicates(queries: Array, negatives: Array, positives: Sequence[Array], groups: Array) -> dict[str, int]:
    """Copies that a mined set must not hold: all of these are 0 for what ``mine`` wrote.

    Args:
        queries: (m,) int64 query rows.
        negatives: (m,) int64 corpus rows.
        positives: per query corpus rows.
        groups: (n,) int64, equal for equal normalised texts of the corpus.

    Returns:
        negatives that are a positive of their query, that have the normalised text of one, and that repeat the text of
        another negative of their query.
    """
    width = int(max(groups.max(initial=0), negatives.max(initial=0), len(groups))) + 1
    empty = np.empty(0, np.int64)
    own = np.concatenate([empty, *(i * width + rows for i, rows in enumerate(positives))])
    own_text = np.concatenate([empty, *(i * width + groups[rows] for i, rows in enumerate(positives))])
    by_row, by_text = queries * width + negatives, queries * width + groups[negatives]
    return {
        "negatives that are a positive of their query": int(np.isin(by_row, own).sum()),
        "negatives with the text of a positive": int(np.isin(by_text, own_text).sum()),
        "negatives that repeat a text for their query": len(by_text) - len(np.unique(by_text)),
    }
