"""Pair consistency: whether a query finds its own positive, by the positive's rank among all passages.

A pair whose positive is far from its query teaches little, and a margin measured from it is worth as little. What such
a query's candidates weigh is a decision like any other, with the positive and its score as evidence.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tamis import checks
from tamis.negatives.filters import DROP, Decision
from tamis.negatives.rules import Scorer

Array = np.ndarray[Any, Any]
BLOCK = 65_536  # pairs ranked at once


def check(within: int, depth: int) -> None:
    """Require a rank that a pool of ``depth`` candidates can tell."""
    checks.at_least("consistent_within", within, 1)
    checks.require(
        within <= depth,
        f"consistent_within must not be more than the candidates per query: got {within} and {depth}; raise depth.",
    )


def consistency(
    positives: Sequence[Array],
    rank_of: Scorer,
    pair_scores: Scorer,
    *,
    within: int,
    depth: int,
    log_weight: float = DROP,
) -> tuple[Decision, Array]:
    """Mistrust queries of which no positive is among their own nearest passages.

    The rank of a positive is 1 + the passages, other positives aside, that score higher. nomic-embed (arXiv:2402.01613)
    asks for 2 of a million; in a small corpus a rank is too easy.

    Args:
        positives: per query corpus rows, none empty.
        rank_of: rank that given (query rows, passage rows) would have in the pool, 0 where they would not reach it.
        pair_scores: scores of given pairs.
        within: the highest rank that passes.
        depth: candidates per query; ranks beyond it are not known.
        log_weight: what every candidate of a mistrusted query gets; -inf drops the query's negatives.

    Returns:
        the decision, broadcastable to the pool, with the best positive and its score as evidence; and the rank of that
        positive (q,) int64, 0 where it is beyond the depth.

    Raises:
        ValueError: for a rank below 1 or beyond the depth, or a log-weight above 0.

    Example:
        >>> rank, score = (lambda q, p: p + 1), (lambda q, p: 1 / (1 + p))
        >>> rule, ranks = consistency([np.array([0, 7]), np.array([3])], rank, score, within=2, depth=9)
        >>> rule.log_weights.tolist(), ranks
        ([[0.0], [-inf]], array([1, 4]))
    """
    check(within, depth)
    checks.require(log_weight <= 0, f"log_weight must be at most 0: got {log_weight!r}.")
    counts = np.array([len(p) for p in positives])
    query, passage = np.repeat(np.arange(len(positives)), counts), np.concatenate(list(positives))
    blocks = range(0, len(query), BLOCK)
    ranks = np.concatenate([rank_of(query[b : b + BLOCK], passage[b : b + BLOCK]) for b in blocks]).astype(np.int64)
    far = np.where(ranks > 0, ranks, np.iinfo(np.int64).max)
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    best = np.minimum.reduceat(far, starts)
    first = np.lexsort((far, query))[starts]
    score = np.asarray(pair_scores(query[first], passage[first]), np.float32)
    weights = np.where(best > within, np.float32(log_weight), np.float32(0))[:, None]
    rule = Decision(f"positive not in top {within}", weights, passage[first][:, None], score[:, None])
    return rule, ranks[first]
