"""Filters: which candidates may be negatives, each rule an array of log-weights that adds to the others.

A rule looks at the score, the rank or the text of a candidate and gives 0 (keep) or ``-inf`` (drop). Every margin is
turned into a ceiling first, the score that a candidate must stay below, so that margins are safe for negative scores
and can be compared. A decision names its rule, the passage it compared with (the rival) and that passage's score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tamis import checks

Array = np.ndarray[Any, Any]
DROP = -np.inf


@dataclass(frozen=True)
class Decision:
    """What one rule says of every candidate.

    Args:
        rule: its name in reports.
        log_weights: float32, broadcastable to (q, k): 0 keeps, ``-inf`` drops, between counts less.
        rival: int64, broadcastable to (q, k): corpus row compared with, ``-1`` for none.
        rival_score: float32, broadcastable to (q, k): that row's score, NaN for none.
    """

    rule: str
    log_weights: Array
    rival: Array
    rival_score: Array


def margin_ceiling(
    positive_scores: Array,
    *,
    absolute: float | None = None,
    relative: float | None = None,
    percentage: float | None = None,
) -> Array:
    """The score that a negative must stay below, from the positive's score ``p``; the lowest of the margins given.

    Absolute: ``p - absolute``. Relative: ``p - relative * |p|``. Percentage (NV-Retriever, arXiv:2407.15831,
    TopK-PercPos): ``percentage * p`` for ``p >= 0`` and, so that a negative ``p`` moves the ceiling down too,
    ``p - (1 - percentage) |p|``.

    Args:
        positive_scores: (q,) float, the score of the positive that counts.
        absolute: in units of the score, at least 0.
        relative: share of the positive's score, at least 0.
        percentage: share of the positive's score that a negative may reach, in [0, 1].

    Returns:
        (q,) float32, ``+inf`` when no margin is given.

    Raises:
        ValueError: for a margin out of its range.

    Example:
        >>> margin_ceiling(np.array([0.8, -0.2]), percentage=0.95)
        array([ 0.76, -0.21], dtype=float32)
    """
    score = np.asarray(positive_scores, dtype=np.float64)
    # A positive without a score (-inf) lies below all that has one, and so does its ceiling.
    size = np.where(np.isneginf(score), 0.0, np.abs(score))
    ceiling = np.full(score.shape, np.inf)
    if absolute is not None:
        checks.at_least("absolute margin", absolute, 0)
        ceiling = np.minimum(ceiling, score - absolute)
    if relative is not None:
        checks.at_least("relative margin", relative, 0)
        ceiling = np.minimum(ceiling, score - relative * size)
    if percentage is not None:
        checks.between("percentage", percentage, 0, 1)
        ceiling = np.minimum(ceiling, score - (1 - percentage) * size)
    return ceiling.astype(np.float32)


def below_ceiling(scores: Array, ceiling: Array, *, rival: Array, rival_score: Array, rule: str = "margin") -> Decision:
    """Drop what scores at or above the ceiling of its query.

    Args:
        scores: (q, k) float.
        ceiling: (q,) float, see ``margin_ceiling``.
        rival: (q,) int64, the positive the ceiling comes from, -1 for none.
        rival_score: (q,) float, its score.
        rule: name in reports.

    Returns:
        the decision.

    Example:
        >>> one = np.array([0])
        >>> below_ceiling(np.array([[0.77, 0.75]]), np.array([0.76]), rival=one, rival_score=one).log_weights
        array([[-inf,   0.]], dtype=float32)
    """
    return Decision(rule, _drop(scores >= ceiling[:, None]), rival[:, None], rival_score[:, None])


def rank_window(ranks: Array, *, first: int = 1, last: int | None = None) -> Decision:
    """Drop what ranks before ``first`` or after ``last`` in the corpus, whatever the other filters say.

    Args:
        ranks: (q, k) int, 1 for the best passage that is not a known positive.
        first: the first rank allowed; 11 skips the first ten.
        last: the last rank allowed, None for all.

    Returns:
        the decision.
    """
    checks.at_least("first rank", first, 1)
    checks.require(last is None or last >= first, f"last rank must not be before the first: {last} < {first}.")
    outside = (ranks < first) | (ranks > last if last is not None else False)
    return _without_rival("rank window", outside)


def score_range(scores: Array, *, low: float | None = None, high: float | None = None) -> Decision:
    """Drop what scores below ``low`` or above ``high``.

    Args:
        scores: (q, k) float.
        low: floor, None for none.
        high: absolute ceiling, None for none.

    Returns:
        the decision.
    """
    checks.require(low is None or high is None or low <= high, f"score floor above the ceiling: {low} > {high}.")
    outside = np.zeros(scores.shape, dtype=bool)
    if low is not None:
        outside |= scores < low
    if high is not None:
        outside |= scores > high
    return _without_rival("score range", outside)


def guide(guide_scores: Array, guide_positive: Array, *, margin: float = 0.0, rival: Array) -> Decision:
    """Drop what a guide model finds more similar to the query than the positive, less a margin (GISTEmbed's rule).

    Args:
        guide_scores: (q, k) float, the guide's similarity of query and candidate.
        guide_positive: (q,) float, the guide's similarity of query and positive.
        margin: absolute, in units of the guide's score.
        rival: (q,) int64, the positive.

    Returns:
        the decision; strict, as in the paper: an equal score is kept at margin 0.
    """
    too_close = guide_scores > (guide_positive - margin)[:, None]
    return Decision("guide", _drop(too_close), rival[:, None], guide_positive[:, None])


def repeated_text(indices: Array, text_groups: Array) -> Decision:
    """Drop a candidate whose text stands higher in the same row already.

    Args:
        indices: (q, k) int64 corpus rows, -1 for none.
        text_groups: (n,) int64, equal for equal texts of the corpus.

    Returns:
        the decision; the rival is the first candidate with that text.
    """
    groups = np.where(indices >= 0, text_groups[indices], -1 - np.arange(indices.shape[1])[None])
    order = np.argsort(groups, axis=1, kind="stable")
    ordered = np.take_along_axis(groups, order, 1)
    again = np.zeros(indices.shape, dtype=bool)
    again[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    start = np.maximum.accumulate(np.where(again, 0, np.arange(indices.shape[1])[None]), axis=1)
    first = np.take_along_axis(order, start, 1)
    repeated, rival = np.zeros_like(again), np.full(indices.shape, -1)
    np.put_along_axis(repeated, order, again, 1)
    np.put_along_axis(rival, order, np.take_along_axis(indices, first, 1), 1)
    return Decision("repeated text", _drop(repeated), rival, np.full((1, 1), np.nan, np.float32))


def matches(rule: str, matched: Array, *, rival: Array) -> Decision:
    """Drop where a mask says so (same text as the query, say).

    Args:
        rule: name in reports.
        matched: (q, k) bool, what to drop.
        rival: broadcastable to (q, k), corpus rows, -1 for none.

    Returns:
        the decision.
    """
    return Decision(rule, _drop(matched), rival, np.full((1, 1), np.nan, np.float32))


def combine(decisions: Sequence[Decision], shape: tuple[int, int]) -> tuple[Array, Array]:
    """Add the log-weights and find the first rule that drops each candidate.

    Args:
        decisions: in the order in which rules take the blame.
        shape: (q, k), for no decisions at all.

    Returns:
        (q, k) float32 summed log-weights, and (q, k) int8 index of the first dropping rule, -1 for none.
    """
    total = np.zeros(shape, np.float32)
    blame = np.full(shape, -1, np.int8)
    for number, decision in enumerate(decisions):
        blame[(blame < 0) & np.isneginf(np.broadcast_to(decision.log_weights, shape))] = number
        total += decision.log_weights
    return total, blame


def _drop(mask: Array) -> Array:
    return np.where(mask, np.float32(DROP), np.float32(0))


def _without_rival(rule: str, mask: Array) -> Decision:
    return Decision(rule, _drop(mask), np.full((1, 1), -1), np.full((1, 1), np.nan, np.float32))
