"""The rows of an epoch as a function of seed and epoch."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tamis import checks
from tamis.randomness import child_seed

Array = np.ndarray[Any, Any]

BOUNDARIES = ("carry", "drop")
_SLACK = 1e-9  # 0.29 * 100 is a little below 29


def rs2_indices(
    n: int, fraction: float, epoch: int, seed: int = 0, *, replacement: bool = False, boundary: str = "carry"
) -> Array:
    """The rows of one epoch of RS2, drawn from the seed and the number of the epoch alone.

    RS2 of arXiv:2305.18424, with and without replacement across epochs; within an epoch no row comes twice.
    It takes time and memory for two permutations of the rows at most, whatever the epoch.

    Args:
        n: rows of the data.
        fraction: share of the rows in an epoch, in (0, 1]; rounded down to whole rows.
        epoch: number of the epoch, from 0.
        seed: seed of the run.
        replacement: draw every epoch from all rows, rather than from those that the pass at hand has left.
        boundary: what an epoch does that finds too few rows left: "carry" takes them and goes on in the next pass, so
            that all rows come equally often; "drop" leaves them out and begins the next pass.

    Returns:
        (floor(fraction * n),) int64, in the order of training.

    Raises:
        ValueError: no rows, a fraction outside (0, 1] or too small for a row, a negative epoch or seed, or another
            word for the boundary.

    Example:
        >>> [rs2_indices(6, 0.5, epoch).tolist() for epoch in range(2)]
        [[1, 5, 0], [3, 2, 4]]
    """
    k = part_of(n, fraction)
    checks.at_least("epoch", epoch, 0)
    checks.at_least("seed", seed, 0)
    checks.one_of("boundary", boundary, BOUNDARIES)
    n, epoch = int(n), int(epoch)  # NumPy's integers would name other streams
    if replacement:
        return np.random.default_rng(child_seed(seed, "rs2", "epoch", epoch)).choice(n, k, replace=False)
    if boundary == "drop":
        number, place = divmod(epoch, n // k)
        return _pass(n, number, seed)[place * k : (place + 1) * k]
    if 2 * k <= n:
        return _carried(n, k, epoch, seed)
    # A large part leaves a small one out, and all rows come equally often when all are left out equally often.
    order = np.random.default_rng(child_seed(seed, "rs2", "epoch", epoch)).permutation(n)
    if k == n:
        return order
    left_out = np.zeros(n, dtype=bool)
    left_out[_carried(n, n - k, epoch, seed)] = True
    return order[~left_out[order]]


def part_of(n: int, fraction: float) -> int:
    """Whole rows in an epoch, ``floor(fraction * n)``.

    Args:
        n: rows of the data.
        fraction: share of them, in (0, 1].

    Returns:
        how many, at least 1.

    Raises:
        ValueError: no rows, a fraction outside its range, or one too small for a row.

    Example:
        >>> part_of(100, 0.29)
        29
    """
    checks.at_least("n", n, 1)
    checks.require(0 < fraction <= 1, f"fraction must lie in (0, 1]: got {fraction!r}.")
    k = math.floor(n * fraction + _SLACK)
    checks.require(k > 0, f"fraction must leave at least one row: {fraction!r} of {n} rows is less.")
    return k


def _pass(n: int, number: int, seed: int) -> Array:
    """The rows as a pass over the data shuffles them."""
    return np.random.default_rng(child_seed(seed, "rs2", "pass", number)).permutation(n)


def _carried(n: int, k: int, epoch: int, seed: int) -> Array:
    """The rows of an epoch of k from where earlier ones, pass after pass, have come to; k is half of n at most."""
    number, place = divmod(epoch * k, n)
    rows = _joined_pass(n, k, number, seed)[place : place + k]
    if len(rows) < k:
        rows = np.concatenate([rows, _joined_pass(n, k, number + 1, seed)[: k - len(rows)]])
    return rows


def _joined_pass(n: int, k: int, number: int, seed: int) -> Array:
    """A pass whose first rows are none of those with which the pass before ends in the same epoch.

    Rows that would clash move back, but never into the end of the pass that goes into an epoch with the next one. So
    the ends are those of the shuffle itself, and a pass depends on the one before and on no earlier one.
    """
    order = _pass(n, number, seed)
    ending, next_ending = number * n % k, (number + 1) * n % k
    if ending == 0:
        return order
    clash = np.zeros(n, dtype=bool)
    clash[_pass(n, number - 1, seed)[n - ending :]] = True
    body = order[: n - next_ending]
    first = np.flatnonzero(~clash[body])[: k - ending]
    return np.concatenate([body[first], np.delete(body, first), order[n - next_ending :]])
