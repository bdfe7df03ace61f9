"""Rank correlation: how far two scores of the same things agree on their order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tamis import checks

Array = np.ndarray[Any, Any]
Scores = Array | Sequence[float]

_BLOCK = 1024  # rows of a matrix of signs at once


def average_ranks(scores: Scores) -> Array:
    """Ranks from 1, lowest first; equal scores share the mean of their ranks.

    Args:
        scores: (n,) float, or (n, m): each column by itself.

    Returns:
        float64 of the same shape.

    Raises:
        ValueError: for scores that are not finite.

    Example:
        >>> average_ranks([0.3, 0.1, 0.3]).tolist()
        [2.5, 1.0, 2.5]
    """
    values = np.asarray(scores, dtype=np.float64)
    checks.finite("scores", values)
    columns = values.reshape(len(values), -1)
    ranks = np.empty_like(columns)
    for column, rank in zip(columns.T, ranks.T, strict=True):
        _, inverse, counts = np.unique(column, return_inverse=True, return_counts=True)
        rank[:] = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return ranks.reshape(values.shape)


def spearman(one: Scores, other: Scores) -> float:
    """Spearman's correlation: Pearson's of average ranks.

    Args:
        one: (n,) float.
        other: (n,) float.

    Returns:
        -1 to 1; NaN where either is constant, for then there is no order to agree with.

    Raises:
        ValueError: for other lengths, fewer than two entries, or scores that are not finite.

    Example:
        >>> spearman([1, 2, 3, 4], [10, 30, 20, 40])
        0.8
    """
    a, b = _pair(one, other)
    a, b = (ranks - ranks.mean() for ranks in (average_ranks(a), average_ranks(b)))
    norm = np.sqrt((a @ a) * (b @ b))
    return float(np.clip(a @ b / norm, -1.0, 1.0)) if norm > 0 else float("nan")


def kendall(one: Scores, other: Scores) -> float:
    """Kendall's tau-b: concordant less discordant pairs, corrected for ties.

    Args:
        one: (n,) float.
        other: (n,) float.

    Returns:
        -1 to 1; NaN where either is constant.

    Raises:
        ValueError: for other lengths, fewer than two entries, or scores that are not finite.

    Example:
        >>> kendall([1, 2, 3, 4], [10, 30, 20, 40])
        0.6666666666666666
    """
    a, b = _pair(one, other)
    agreed = of_one = of_other = 0
    for start in range(0, len(a), _BLOCK):
        signs = [np.sign(x[start : start + _BLOCK, None] - x[None, :]).astype(np.int8) for x in (a, b)]
        agreed += int((signs[0] * signs[1]).sum(dtype=np.int64))
        of_one += int(np.count_nonzero(signs[0]))
        of_other += int(np.count_nonzero(signs[1]))
    return float(agreed / np.sqrt(of_one * of_other)) if of_one and of_other else float("nan")


def _pair(one: Scores, other: Scores) -> tuple[Array, Array]:
    a, b = np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)
    checks.require(a.ndim == b.ndim == 1, f"scores must be one-dimensional: got shapes {a.shape} and {b.shape}.")
    checks.same_length("other", b, "one", a)
    checks.at_least("the number of scores", len(a), 2)
    checks.finite("one", a)
    checks.finite("other", b)
    return a, b
