"""k-means on a line, exactly: groups of losses from easy to hard."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from tamis import checks

Array = np.ndarray[Any, Any]
Kind = TypeVar("Kind", Array, Tensor)

_EXACT = 2**20  # different values up to which the optimum is searched among all cuts


def loss_groups(losses: Kind, k: int) -> Kind:
    """Groups of losses with the least sum of squared distances to their means, numbered from easy to hard.

    The grouping of SeTa (arXiv:2503.13385) as the global optimum, by dynamic programming over the cuts of the sorted
    values. Beyond 2^20 different values the cuts are searched among as many quantiles and then moved by Lloyd's
    rounds. No group is empty: with fewer than k different values the largest groups of equal ones are cut evenly.

    Args:
        losses: (n,) float: in any order; those that are NaN or infinite belong to the last group.
        k: groups, from 1 to n.

    Returns:
        (n,) int64 in 0..k-1, larger for larger losses.

    Raises:
        ValueError: no losses, or k outside 1 to n.

    Example:
        >>> loss_groups(np.array([5.2, 0.1, 1.0, 0.1, 5.0, 1.1]), 3).tolist()
        [2, 0, 1, 0, 2, 1]
    """
    given = losses.detach().double().cpu().numpy() if isinstance(losses, Tensor) else np.asarray(losses, np.float64)
    checks.require(given.ndim == 1 and len(given) > 0, f"losses must be (n,) and not empty: got shape {given.shape}.")
    checks.between("k", k, 1, len(given))
    finite = np.isfinite(given)
    if finite.sum() < k:  # the others make groups of their own, behind the finite ones
        given = np.where(finite, given, given[finite].max(initial=0.0) + 1.0)
        finite[:] = True
    groups = np.full(len(given), k - 1, dtype=np.int64)
    rows = np.flatnonzero(finite)
    rows = rows[np.argsort(given[rows], kind="stable")]
    values, first, counts = np.unique(given[rows], return_index=True, return_counts=True)
    cuts = first[_cuts(values, counts, k)] if len(values) > k else _even_cuts(first, counts, k)
    groups[rows] = np.searchsorted(cuts, np.arange(len(rows)), side="right")
    return torch.from_numpy(groups).to(losses.device) if isinstance(losses, Tensor) else groups


def _even_cuts(first: Array, counts: Array, k: int) -> Array:
    """Where groups 1..k-1 begin when there are no more values than groups: the largest are cut until there are k."""
    pieces = np.ones(len(counts), dtype=np.int64)
    for _ in range(k - len(counts)):
        pieces[np.argmax(counts / pieces)] += 1
    starts = [f + np.arange(p) * c // p for f, c, p in zip(first, counts, pieces, strict=True)]
    return np.concatenate(starts)[1:]


def _cuts(values: Array, counts: Array, k: int) -> Array:
    """Places in the sorted ``values`` where groups 1..k-1 begin."""
    if len(values) <= _EXACT:
        return _optimal_cuts(values, counts, k)
    bins = np.linspace(0, len(values), _EXACT, endpoint=False).astype(np.int64)
    weight = np.add.reduceat(counts, bins)
    means = np.add.reduceat(values * counts, bins) / weight
    cuts = bins[_optimal_cuts(means, weight, k)]
    for _ in range(100):
        begin = np.concatenate([[0], cuts])
        centre = np.add.reduceat(values * counts, begin) / np.add.reduceat(counts, begin)
        moved = np.searchsorted(values, (centre[1:] + centre[:-1]) / 2, side="right")
        if np.array_equal(moved, cuts) or (np.diff(moved, prepend=0, append=len(values)) == 0).any():
            break
        cuts = moved
    return cuts


def _optimal_cuts(values: Array, counts: Array, k: int) -> Array:
    """The best cuts of all, by dynamic programming in O(k m log m); asks for more than k values."""
    if k == 1:
        return np.empty(0, dtype=np.int64)
    centred = values - np.average(values, weights=counts)  # sums of squares of centred values keep their digits
    weight, total, square = (
        np.concatenate([[0.0], np.cumsum(x)]) for x in (counts, counts * centred, counts * centred**2)
    )

    def cost(begin: Array, end: Array) -> Array:
        spread = square[end] - square[begin] - (total[end] - total[begin]) ** 2 / (weight[end] - weight[begin])
        never_negative: Array = np.maximum(spread, 0.0)
        return never_negative

    m = len(values)
    best = np.concatenate([[np.inf], cost(np.zeros(m, dtype=np.int64), np.arange(1, m + 1))])
    choices = []
    for groups in range(2, k):
        ends = np.arange(groups, m + 1)
        value, choice = _best_begins(best, cost, ends, groups - 1)
        best, chosen = np.full(m + 1, np.inf), np.zeros(m + 1, dtype=np.int64)
        best[ends], chosen[ends] = value, choice
        choices.append(chosen)
    begins = np.arange(k - 1, m)
    cuts = [int(begins[np.argmin(best[begins] + cost(begins, np.full(len(begins), m)))])]
    for chosen in reversed(choices):
        cuts.append(int(chosen[cuts[-1]]))
    return np.array(cuts[::-1])


def _best_begins(best: Array, cost: Any, ends: Array, least: int) -> tuple[Array, Array]:
    """For every end the begin of its last group that costs least in all.

    The best begin never falls as the end rises, so ends are taken coarse to fine, all of one level at once, and each
    looks only between the begins of its neighbours.
    """
    n = len(ends)
    value, choice = np.empty(n), np.empty(n, dtype=np.int64)
    step = 1 << (n - 1).bit_length()
    while step:
        at = np.arange(step - 1, n, 2 * step)
        if len(at):
            low = np.where(at >= step, choice[at - step], least)
            high = np.where(at + step < n, choice[np.minimum(at + step, n - 1)], ends[-1] - 1)
            high = np.maximum(np.minimum(high, ends[at] - 1), low)
            lengths = high - low + 1
            offsets = np.cumsum(lengths) - lengths
            begins = np.arange(lengths.sum()) + np.repeat(low - offsets, lengths)
            sums = best[begins] + cost(begins, np.repeat(ends[at], lengths))
            value[at] = np.minimum.reduceat(sums, offsets)
            hits = np.flatnonzero(sums == np.repeat(value[at], lengths))[::-1]  # reversed: the first hit is kept
            choice[at[np.searchsorted(offsets, hits, side="right") - 1]] = begins[hits]
        step //= 2
    return value, choice
