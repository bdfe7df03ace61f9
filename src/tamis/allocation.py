"""Allocation: share a total out among groups that each have a floor and a ceiling, exactly, and in whole rows.

Three questions have one answer each. Given what every group would like, ``capped_simplex_projection`` moves all by the
same amount until the total fits. Given how much every group weighs, ``water_filling`` multiplies all by the same level.
Both solve for that one number from sorted breakpoints, so the optimum is exact and no solver is needed. Shares are then
made whole by largest remainders: ``round_to_total`` hits a number of rows, ``round_to_budget`` stays under a price.
``rank_in_group`` turns the quotas of groups into the choice of rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tamis import checks

Array = np.ndarray[Any, Any]
Shares = Array | Sequence[float]
Bound = float | Array | Sequence[float]

_SLACK = 1e-9  # relative: how far a total may lie outside its bounds through rounding alone


def capped_simplex_projection(target: Shares, total: float, lower: Bound = 0.0, upper: Bound = np.inf) -> Array:
    """The point nearest to ``target`` whose entries lie between bounds and add up to ``total``.

    Solves ``min |x - target|^2 s.t. sum(x) = total, lower <= x <= upper``. By its Karush-Kuhn-Tucker conditions
    ``x = clip(target + shift, lower, upper)`` with one shift for all; the sum is piecewise linear in the shift, with
    bends at the 2 k places where an entry meets a bound, so sorting these finds the segment and the shift on it.

    Args:
        target: (k,) float, what each group would like to have.
        total: the sum to hit, between the sums of the bounds.
        lower: one number for all, or (k,) float.
        upper: one number for all, or (k,) float; may be infinite.

    Returns:
        (k,) float64.

    Raises:
        ValueError: for no groups, NaN, a lower bound above its upper, or a total that the bounds do not allow.

    Example:
        >>> capped_simplex_projection([80.0, 30.0, 10.0], 120, lower=1, upper=[50, 100, 200]).tolist()
        [50.0, 45.0, 25.0]
    """
    wish, low, high = _checked("target", target, lower, upper)
    total = _reachable(total, low, high)
    return _fill(wish, np.ones_like(wish), total, low, high, np.ones_like(wish))


def water_filling(
    weights: Shares, total: float, *, lower: Bound = 0.0, upper: Bound = np.inf, costs: Shares | None = None
) -> Array:
    """Amounts in proportion to ``weights`` wherever the bounds allow it, that cost exactly ``total``.

    ``x = clip(level * weights, lower, upper)`` with one level for all such that ``sum(costs * x) = total``. With equal
    weights and ceilings this is the max-min fair split (UniMax, Chung et al. 2023: serve the smallest first and share
    the rest); with floors it is the proportional split after everyone has a minimum.

    Args:
        weights: (k,) float, not negative; a group of weight 0 stays at its floor.
        total: amount, or money where there are costs, to spend exactly.
        lower: one number for all, or (k,) float; not negative.
        upper: one number for all, or (k,) float; may be infinite.
        costs: (k,) float, positive: price of a unit in each group; None for 1.

    Returns:
        (k,) float64.

    Raises:
        ValueError: for no groups, NaN, a negative weight, or a total that floors, ceilings and weights do not allow.

    Example:
        >>> water_filling([1, 1, 1], 100, upper=[10, 200, 300]).tolist()
        [10.0, 45.0, 45.0]
    """
    weight, low, high = _checked("weights", weights, lower, upper)
    checks.require(bool((weight >= 0).all()), f"weights must not be negative: the lowest is {weight.min()!r}.")
    checks.require(bool((low >= 0).all()), f"lower must not be negative: the lowest is {low.min()!r}.")
    price = _prices(costs, len(weight))
    high = np.where(weight > 0, high, low)
    total = _reachable(total, price * low, price * high)
    return _fill(np.zeros_like(weight), weight, total, low, high, price)


def round_to_total(values: Shares, total: int, lower: Bound = 0, upper: Bound = np.inf) -> Array:
    """The whole numbers nearest to ``values`` that add up to ``total`` within bounds, by largest remainders.

    Values are first projected onto the total (which leaves them alone where they add up already), rounded down, and
    what is missing goes one each to the largest remainders (Hamilton's method); ties go to the earlier group. No other
    integers within the bounds and with this sum have a smaller squared distance to ``values``.

    Args:
        values: (k,) float.
        total: whole number to hit.
        lower: one number for all, or (k,); rounded up to a whole number.
        upper: one number for all, or (k,); rounded down to a whole number; may be infinite.

    Returns:
        (k,) int64 with sum ``total``.

    Raises:
        ValueError: for no groups, NaN, or a total that the bounds do not allow or that is not whole.

    Example:
        >>> round_to_total([2.6, 3.3, 4.1], 10).tolist(), round_to_total([2.6, 3.3, 4.1], 10, upper=[2, 9, 9]).tolist()
        ([3, 3, 4], [2, 4, 4])
    """
    checks.require(total == int(total), f"total must be a whole number: got {total!r}.")
    wish, low, high = _checked("values", values, lower, upper)
    low, high = np.ceil(low), np.floor(high)
    exact = capped_simplex_projection(wish, int(total), low, high)
    counts = np.floor(exact)
    missing = int(total) - int(counts.sum())
    remainder = np.where(counts < high, exact - counts, -1.0)
    counts[np.argsort(-remainder, kind="stable")[:missing]] += 1
    return counts.astype(np.int64)


def round_to_budget(values: Shares, budget: float, costs: Shares, lower: Bound = 0) -> Array:
    """Whole numbers next to ``values`` that cost no more than ``budget``: rounded down, then up where money is left.

    Groups are asked in the order of their remainders, largest first, and get one unit more if what is left pays for it.
    With prices that differ the budget cannot always be spent to the end; no group that was rounded down could have been
    paid from what is over.

    Args:
        values: (k,) float, amounts that together cost at most ``budget``.
        budget: money.
        costs: (k,) float, positive: price of a unit in each group.
        lower: one number for all, or (k,): nothing falls under this, rounded up to a whole number.

    Returns:
        (k,) int64.

    Raises:
        ValueError: for no groups, NaN, a price that is not positive, or a budget under the price of the floors.

    Example:
        >>> round_to_budget([2.5, 1.25], 10.0, costs=[3.0, 2.0]).tolist()
        [2, 2]
    """
    wish, low, _ = _checked("values", values, lower, np.inf)
    price = _prices(costs, len(wish))
    # A share like 2.9999999999 is 3 that was computed in floating point.
    counts = np.maximum(np.floor(wish + _SLACK * np.maximum(1.0, np.abs(wish))), np.ceil(low))
    left = budget * (1 + _SLACK) - float(price @ counts)
    checks.require(
        left >= 0,
        f"budget must pay for the values rounded down and the floors: they cost {price @ counts}, got {budget}.",
    )
    for group in np.argsort(counts - wish, kind="stable").tolist():
        if counts[group] < wish[group] and price[group] <= left:
            counts[group] += 1
            left -= price[group]
    return counts.astype(np.int64)


def rank_in_group(keys: Array, groups: Array) -> Array:
    """The place of every row in its group, largest key first: ``rank < quota[groups]`` is the choice of a quota each.

    Args:
        keys: (n,) float or int, what to rank by; equal keys go by row number.
        groups: (n,) int64 from 0, the group of each row; rows of a negative group are in none.

    Returns:
        (n,) int64, 0 for the first of each group; a row in no group has the largest int64.

    Raises:
        ValueError: where keys and groups are not one vector each of one length.

    Example:
        >>> rank_in_group(np.array([0.2, 0.9, 0.5, 0.9]), np.array([0, 0, 1, 0])).tolist()
        [2, 0, 0, 1]
    """
    checks.require(keys.ndim == 1, f"keys must be one-dimensional (n,): got shape {keys.shape}.")
    checks.same_shape("groups", groups, "keys", keys)
    inside = np.flatnonzero(groups >= 0)
    inside = inside[np.lexsort((-keys[inside], groups[inside]))]
    sizes = np.bincount(groups[inside]) if len(inside) else np.zeros(0, dtype=np.int64)
    rank = np.full(len(keys), np.iinfo(np.int64).max)
    rank[inside] = np.arange(len(inside)) - np.repeat(sizes.cumsum() - sizes, sizes)
    return rank


def _fill(start: Array, speed: Array, total: float, low: Array, high: Array, price: Array) -> Array:
    """``clip(start + t * speed, low, high)`` for the t at which it costs ``total``.

    The price is piecewise linear and never falls in t: at each bend one entry leaves its floor or meets its ceiling.
    """
    moving = speed > 0
    x = np.where(moving, low, np.clip(start, low, high))
    if not moving.any():
        return x
    begin, end = (b[moving] - start[moving] for b in (low, high))
    with np.errstate(over="ignore"):  # a weight next to nothing never leaves its floor
        begin, end = begin / speed[moving], end / speed[moving]
    bends = np.concatenate([begin[np.isfinite(begin)], end[np.isfinite(end)]])
    if not len(bends):
        bends = np.zeros(1)
    bends = np.unique(bends)

    def cost(t: float) -> float:
        return float(price @ np.where(moving, np.clip(start + t * speed, low, high), x))

    # Between two bends the same entries move, so a search over the bends leaves one linear equation.
    first, last = 0, len(bends)
    while first < last:
        middle = (first + last) // 2
        first, last = (middle + 1, last) if cost(bends[middle]) < total else (first, middle)
    left = bends[first - 1] if first > 0 else -np.inf
    right = bends[first] if first < len(bends) else np.inf
    t_begin, t_end = np.full(len(x), np.inf), np.full(len(x), np.inf)
    t_begin[moving], t_end[moving] = begin, end
    free = moving & (t_begin <= left) & (t_end >= right)
    x = np.where(moving & (t_end <= left), high, x)
    if not free.any():
        return x
    t = (total - float(price[~free] @ x[~free]) - float(price[free] @ start[free])) / float(price[free] @ speed[free])
    x[free] = np.clip(start[free] + t * speed[free], low[free], high[free])
    return x


def _checked(name: str, values: Shares, lower: Bound, upper: Bound) -> tuple[Array, Array, Array]:
    """Values and their bounds as float64 of one length."""
    wish = np.asarray(values, dtype=np.float64)
    checks.require(wish.ndim == 1 and len(wish) > 0, f"{name} must hold one number per group: got shape {wish.shape}.")
    checks.finite(name, wish)
    bounds = []
    for which, bound in (("lower", lower), ("upper", upper)):
        array = np.asarray(bound, dtype=np.float64)
        checks.require(
            array.shape in ((), wish.shape),
            f"{which} must be one number or one per group: {len(wish)} groups, got shape {array.shape}.",
        )
        checks.require(not np.isnan(array).any(), f"{which} must not be NaN.")
        bounds.append(np.broadcast_to(array, wish.shape).copy())
    low, high = bounds
    for group in np.flatnonzero(low > high)[:1]:
        raise ValueError(f"lower must not exceed upper: group {group} has {low[group]:g} and {high[group]:g}.")
    return wish, low, high


def _prices(costs: Shares | None, groups: int) -> Array:
    if costs is None:
        return np.ones(groups)
    price = np.asarray(costs, dtype=np.float64)
    checks.require(price.shape == (groups,), f"costs must have one entry per group: {groups}, got shape {price.shape}.")
    checks.finite("costs", price)
    checks.require(bool((price > 0).all()), f"costs must be positive: the lowest is {price.min()!r}.")
    return price


def _reachable(total: float, low: Array, high: Array) -> float:
    """The total, moved onto the nearer end of its range where it lies outside by rounding only."""
    least, most = float(low.sum()), float(high.sum())
    slack = _SLACK * max(1.0, abs(total))
    checks.require(
        least - slack <= total <= most + slack,
        f"total must lie between the sums of the bounds, {least:g} and {most:g}: got {total!r}.",
    )
    return min(max(float(total), least), most)
