"""Groups that learn from one another: the best split by projected gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tamis import allocation, checks
from tamis.subsets.equitable_sampling.curves import Utility, alpha_of, utility_of

Array = np.ndarray[Any, Any]
Numbers = Array | Sequence[float]


def interacting_allocation(
    errors: Callable[[Array], Array],
    costs: Numbers,
    budget: float,
    *,
    utility: Utility = "sum",
    weights: Numbers | None = None,
    minimum: Numbers | None = None,
    iterations: int = 500,
    tol: float = 1e-10,
) -> Array:
    """The split of a budget where every group's error depends on the samples of all groups.

    Projected gradient ascent in money, on ``{sum m = budget, m >= costs * minimum}``, with step sizes found by trial:
    greedy collection is optimal only for groups that learn from their own samples (arXiv:2202.01327). It finds the
    maximum where the utility is concave in the split, and else one near the equal split that it starts from.

    Args:
        errors: called with (g,) float numbers of samples, all positive, gives (g,) errors; gradients are taken by
            central differences.
        costs: (g,) price of a sample.
        budget: money.
        utility: "sum", or alpha of the alpha-fair family; the worst group alone has no gradient: take a large alpha.
        weights: (g,) of groups; None for equal.
        minimum: (g,) samples at least; None for a thousandth of what an equal share of the budget buys.
        iterations: most steps.
        tol: relative gain under which it stops.

    Returns:
        (g,) float64 that cost the budget.

    Raises:
        ValueError: for arguments out of range, "maxmin", or errors that are not finite at the start.

    Example:
        >>> shared = lambda n: np.array([4 / np.sqrt(n[0] + 0.1 * n[1]), 1 / np.sqrt(n[1] + 0.1 * n[0])])
        >>> interacting_allocation(shared, [1, 1], 1000).round(0).tolist()
        [764.0, 236.0]
    """
    price = np.asarray(costs, dtype=np.float64)
    checks.require(price.ndim == 1 and len(price) > 0, f"costs must hold one per group: got shape {price.shape}.")
    checks.finite("costs", price)
    checks.require(bool((price > 0).all()), f"costs must be positive: the lowest is {price.min():g}.")
    checks.positive("budget", budget)
    alpha, groups = alpha_of(utility), len(price)
    checks.require(bool(np.isfinite(alpha)), "utility must have a gradient: take a large alpha in place of 'maxmin'.")
    share = np.ones(groups) if weights is None else np.asarray(weights, dtype=np.float64)
    least = budget / (1000 * groups * price) if minimum is None else np.asarray(minimum, dtype=np.float64)
    for name, value in (("weights", share), ("minimum", least)):
        checks.same_shape(name, value, "costs", price)
        checks.require(bool((value >= 0).all()), f"{name} must not be negative: the lowest is {value.min():g}.")
    floor = price * least

    def worth(money: Array) -> float:
        return float(share @ utility_of(np.asarray(errors(money / price), dtype=np.float64), alpha))

    money = allocation.capped_simplex_projection(np.full(groups, budget / groups), budget, floor)
    now, step = worth(money), budget
    checks.require(bool(np.isfinite(now)), "errors must be finite, and below 1 for alpha above 0, at an equal split.")
    for _ in range(iterations):
        slope = _gradient(worth, money)
        length = np.abs(slope).max()
        if length == 0:
            break
        while step > 1e-12 * budget:
            ahead = allocation.capped_simplex_projection(money + step * slope / length, budget, floor)
            then = worth(ahead)
            if then > now:
                break
            step /= 2
        else:
            break
        gained, money, now, step = then - now, ahead, then, 2 * step
        if gained <= tol * max(1.0, abs(now)):
            break
    return money / price


def _gradient(worth: Callable[[Array], float], money: Array) -> Array:
    slope = np.empty(len(money))
    for group in range(len(money)):
        shift = np.zeros(len(money))
        shift[group] = 1e-5 * money[group]
        slope[group] = (worth(money + shift) - worth(money - shift)) / (2 * shift[group])
    return slope
