"""The best split of a budget when the learning curves are known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tamis import checks
from tamis.subsets.equitable_sampling.curves import Curve, Curves, Utility, alpha_of, slope_of, utility_of

Array = np.ndarray[Any, Any]
Numbers = Array | Sequence[float]

_LEAST = 1e-12  # of what the whole budget buys: stands for no samples where an error would be infinite
_HALVINGS = 100


def optimal_allocation(
    curves: Sequence[Curve],
    costs: Numbers,
    budget: float,
    *,
    utility: Utility = "sum",
    weights: Numbers | None = None,
    minimum: Numbers | None = None,
    whole: bool = False,
) -> Array:
    """How many samples of each group a budget should buy (the static problem of arXiv:2202.01327).

    Maximises ``sum_g w_g U(1 - error_g(n_g))`` subject to ``sum_g c_g n_g = budget``: at the optimum a unit of money
    gains the same in every group, ``w_g U' |error_g'(n_g)| / c_g = lambda``, where a group is above its minimum, and
    lambda is found by bisection. "maxmin" brings all errors to one level instead, the lowest that the budget allows.

    Args:
        curves: one per group: ``PowerLawCurve``, or anything with ``predict(n)`` and ``derivative(n)`` of an error that
            falls, ever more slowly.
        costs: (g,) price of a sample.
        budget: money.
        utility: "sum" of performances; "maxmin", the worst group; or alpha of the alpha-fair family between (0 is the
            sum, 1 the sum of logarithms), for which every group must be able to get an error below 1.
        weights: (g,) of groups, population shares, say; None for equal. Only ratios count, and none for "maxmin".
        minimum: (g,) samples that are held already or must be bought, paid from the budget; None for 0.
        whole: whole numbers; the last few samples go one by one to where a unit of money gains most.

    Returns:
        (g,) float64 that cost the budget exactly, or int64 that cost no more. A group whose error cannot fall gets its
        minimum; where that is so of all, money is left over.

    Raises:
        ValueError: for arguments out of range, a budget under the price of the minimum, or, for alpha above 0, one that
            leaves a group with an error of 1 or more.

    Example:
        >>> from tamis.subsets import PowerLawCurve
        >>> curves = [PowerLawCurve(0, 4, 0.5), PowerLawCurve(0, 1, 0.5)]
        >>> optimal_allocation(curves, [1, 1], 1000).round(1).tolist()
        [715.9, 284.1]
        >>> optimal_allocation(curves, [1, 1], 1000, utility="maxmin", whole=True).tolist()
        [941, 59]
    """
    every, price, weight, least = _checked(curves, costs, budget, weights, minimum)
    alpha = alpha_of(utility)
    most = least + np.maximum(0.0, budget - price @ least) / price
    every.warn_where_rising(least, most)
    start = np.maximum(least, _LEAST * most)
    useful = (every.predict(start) > every.predict(most)) & (weight > 0)
    if not useful.any() or price @ least >= budget:
        return least if not whole else np.ceil(least).astype(np.int64)

    if np.isinf(alpha):
        high, low = float(every.predict(start)[useful].max()), float(every.predict(most)[useful].max())
        exact = _spend(
            lambda level: _until(lambda n: every.predict(n) > level, start, most, least, useful),
            low,
            high,
            budget,
            price,
        )
    else:

        def gain(n: Array) -> Array:
            return weight * slope_of(every.predict(n), alpha) * -every.derivative(n) / price

        def at(log_rate: float) -> Array:
            return _until(lambda n: gain(n) > np.exp(log_rate), start, most, least, useful)

        checks.require(
            alpha == 0 or bool(price @ at(700.0) <= budget),
            f"budget must bring every group's error below 1 for utility={utility!r}: {budget} does not.",
        )
        exact = _spend(at, -700.0, 700.0, budget, price)
    return _whole(every, exact, price, budget, alpha, weight, np.ceil(least)) if whole else exact


def _checked(
    curves: Sequence[Curve], costs: Numbers, budget: float, weights: Numbers | None, minimum: Numbers | None
) -> tuple[Curves, Array, Array, Array]:
    every, groups = Curves(curves), len(curves)
    found = []
    for name, value, default in (("costs", costs, 1.0), ("weights", weights, 1.0), ("minimum", minimum, 0.0)):
        array = np.full(groups, default) if value is None else np.asarray(value, dtype=np.float64)
        checks.require(array.shape == (groups,), f"{name} must have one entry per curve: {groups}, got {array.shape}.")
        checks.finite(name, array)
        found.append(array)
    price, weight, least = found
    checks.require(bool((price > 0).all()), f"costs must be positive: the lowest is {price.min():g}.")
    checks.require(
        bool((weight >= 0).all() and weight.any()), f"weights must not be negative, nor all 0: got {weight.tolist()}."
    )
    checks.require(bool((least >= 0).all()), f"minimum must not be negative: the lowest is {least.min():g}.")
    spent = float(price @ least)
    checks.require(
        budget >= spent * (1 - 1e-12) and np.isfinite(budget),
        f"budget must pay for the minimum, {spent:g}: got {budget!r}.",
    )
    return every, price, weight / weight.max(), least


def _until(wanting: Callable[[Array], Array], start: Array, most: Array, least: Array, useful: Array) -> Array:
    """Per group the number of samples at which it stops wanting more, by halving on a logarithmic scale."""
    low, high = np.log(start), np.log(most)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        more = wanting(np.exp(middle))
        low, high = np.where(more, middle, low), np.where(more, high, middle)
        if (high - low).max() < 1e-14:
            break
    return np.where(useful & wanting(start), np.clip(np.exp(high), least, most), least)


def _spend(bought: Callable[[float], Array], low: float, high: float, budget: float, price: Array) -> Array:
    """What is bought at the rate where it costs the budget; the less the higher the rate."""
    dear, cheap = bought(low), bought(high)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        now = bought(middle)
        if price @ now > budget:
            low, dear = middle, now
        else:
            high, cheap = middle, now
        if price @ (dear - cheap) <= 1e-13 * budget:
            break
    over, under = price @ dear - budget, budget - price @ cheap
    # The last two are next to each other, on either side of the budget.
    between: Array = cheap if over + under <= 0 else (under * dear + over * cheap) / (over + under)
    return between


def _whole(
    every: Curves, exact: Array, price: Array, budget: float, alpha: float, weight: Array, least: Array
) -> Array:
    """Whole numbers: a little below the exact ones, then one sample at a time to where money gains most."""
    groups = len(exact)
    counts: Array = np.maximum(least, np.floor(exact) - groups)
    checks.require(
        bool(price @ counts <= budget * (1 + 1e-12)),
        f"budget must pay for the minimum in whole samples: {price @ counts:g}.",
    )
    while True:
        able = price @ counts + price <= budget * (1 + 1e-12)
        rate = np.where(able, gain_of_batch(every, counts, np.ones(groups), price, alpha, weight), -np.inf)
        best = int(np.argmax(rate))
        if not rate[best] > 0:
            return counts.astype(np.int64)
        counts[best] += 1


def gain_of_batch(every: Curves, n: Array, batch: Array, price: Array, alpha: float, weight: Array) -> Array:
    """What a unit of money gains if it buys the next batch of a group.

    Args:
        every: curves.
        n: (g,) samples held.
        batch: (g,) samples to buy.
        price: (g,) of a sample.
        alpha: of the utility; infinity puts the groups in the order of their errors, worst first.
        weight: (g,) of groups.

    Returns:
        (g,) float, 0 where nothing is gained.

    Example:
        >>> from tamis.subsets import PowerLawCurve
        >>> curves = Curves([PowerLawCurve(0, 4, 0.5), PowerLawCurve(0, 1, 0.5)])
        >>> one = np.ones(2)
        >>> gain_of_batch(curves, np.array([4.0, 1.0]), np.array([12.0, 3.0]), one, 0.0, one).round(3).tolist()
        [0.083, 0.167]
    """
    before, after = every.predict(n), every.predict(n + batch)
    hopeful = (after < before) & (weight > 0)
    if np.isinf(alpha):
        rate = np.minimum(before, np.finfo(np.float64).max)
    else:
        with np.errstate(invalid="ignore"):
            rate = weight * (utility_of(after, alpha) - utility_of(before, alpha)) / (batch * price)
        # Infinity less infinity: the group has yet to reach an error below 1, and goes first.
        rate = np.where(np.isnan(rate), np.inf, rate)
    gain: Array = np.where(hopeful, np.maximum(rate, 0.0), 0.0)
    return gain
