"""Draws without replacement, many rows at a time."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def distinct_columns(rows: int, n: int, k: int, generator: np.random.Generator) -> Array:
    """For every row k of n columns, each set of k equally likely.

    Args:
        rows: b.
        n: columns to draw from.
        k: at most n.
        generator: advances.

    Returns:
        (b, k) int64, ascending in each row.

    Example:
        >>> distinct_columns(1, 3, 3, np.random.default_rng(0))
        array([[0, 1, 2]])
    """
    if 2 * k > n:
        return np.sort(generator.random((rows, n)).argpartition(k - 1, axis=1)[:, :k], axis=1)
    # Drawing again what came twice favours no column over another, so no set over another.
    drawn = generator.integers(n, size=(rows, k))
    while True:
        drawn.sort(axis=1)
        again = np.zeros((rows, k), dtype=bool)
        again[:, 1:] = drawn[:, 1:] == drawn[:, :-1]
        if not again.any():
            return drawn
        drawn[again] = generator.integers(n, size=int(again.sum()))
