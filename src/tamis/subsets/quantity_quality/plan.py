"""Plans and results: how many labels of each kind a budget buys, and which way of spending it won."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from tamis import checks
from tamis.checks import ArrayLike
from tamis.results import as_array

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class BudgetPlan:
    """A labelling budget and two prices (arXiv:2410.13215). Labels kept for validation are paid for too.

    Args:
        budget: money, in the unit of the prices; with oracle_cost 1, how many correct labels it would buy.
        weak_cost: of a noisy label, a tenth of a correct one in the paper.
        oracle_cost: of a correct label.

    Raises:
        ValueError: for a budget or price that is not positive.

    Example:
        >>> BudgetPlan(16).grid([0.8, 0.4, 0.05])
        [(40, 12), (100, 6), (160, 0)]
    """

    budget: float
    weak_cost: float = 0.1
    oracle_cost: float = 1.0

    def __post_init__(self) -> None:
        for name in ("budget", "weak_cost", "oracle_cost"):
            checks.positive(name, getattr(self, name))
            checks.require(np.isfinite(getattr(self, name)), f"{name} must be finite: got {getattr(self, name)!r}.")

    def counts(self, share: float) -> tuple[int, int]:
        """What a share of the budget spent on correct labels leaves for noisy ones, both rounded down.

        Args:
            share: of the budget for correct labels, from 0 to 1.

        Returns:
            noisy labels, correct labels.

        Raises:
            ValueError: for a share outside 0 to 1.
        """
        checks.between("share", share, 0, 1)
        # Decimals as they are written: 0.3 / 0.1 is 3, which floating point takes for a little less.
        money, part, weak, oracle = (
            Fraction(str(float(x))) for x in (self.budget, share, self.weak_cost, self.oracle_cost)
        )
        correct = int(part * money / oracle)
        return int((money - correct * oracle) / weak), correct

    def grid(self, shares: Sequence[float]) -> list[tuple[int, int]]:
        """``counts`` for several shares; the paper has 0, .05, .2, .4, .6, .8, .95 and 1.

        Args:
            shares: of the budget for correct labels.

        Returns:
            per share, noisy and correct labels.
        """
        return [self.counts(share) for share in shares]

    def cost(self, n_weak: int, n_oracle: int) -> float:
        """The price of so many labels.

        Args:
            n_weak: noisy labels.
            n_oracle: correct labels.

        Returns:
            money.
        """
        return n_weak * self.weak_cost + n_oracle * self.oracle_cost


def regime(plan: BudgetPlan, results: Mapping[tuple[int, int], float], *, margin: float = 0.0) -> str:
    """Which way of spending a budget won: "quantity", "quality" or "mixed" (the three regimes of arXiv:2410.13215).

    Compares the best result of noisy labels alone, of correct labels alone and of both, among those the budget pays.
    Scores must come from held-out data that was not used to choose: the best of many noisy scores flatters mixtures.

    Args:
        plan: the budget and prices.
        results: (noisy labels, correct labels) -> score, larger is better; dearer ones are left out.
        margin: how far a mixture must stand above both others to be called so.

    Returns:
        "quantity", "quality" or "mixed"; a tie of the pure ones goes to "quality".

    Raises:
        ValueError: when noisy or correct labels alone were not tried within the budget.

    Example:
        >>> regime(BudgetPlan(16), {(160, 0): 0.77, (0, 16): 0.74, (80, 8): 0.70})
        'quantity'
    """
    slack = 1e-9 * plan.budget
    best = {"quantity": -np.inf, "quality": -np.inf, "mixed": -np.inf}
    for (weak, oracle), score in results.items():
        checks.require(weak >= 0 and oracle >= 0, f"results must have counts from 0: got {(weak, oracle)}.")
        checks.require(not np.isnan(score), f"results must not be NaN: {(weak, oracle)} is.")
        if plan.cost(weak, oracle) <= plan.budget + slack:
            kind = "quality" if weak == 0 else "quantity" if oracle == 0 else "mixed"
            best[kind] = max(best[kind], score)
    for kind, what in (("quantity", "noisy labels"), ("quality", "correct labels")):
        checks.require(
            best[kind] > -np.inf, f"results must hold {what} alone within the budget of {plan.budget}: there are none."
        )
    if best["mixed"] > max(best["quantity"], best["quality"]) + margin:
        return "mixed"
    return "quantity" if best["quantity"] > best["quality"] else "quality"


def pareto_frontier(costs: ArrayLike, scores: ArrayLike) -> Array:
    """Which results nothing beats: none costs no more, scores no less, and is better in one of the two.

    The frontier of methods and label counts that arXiv:2410.13215 draws.

    Args:
        costs: (n,) float.
        scores: (n,) float, larger is better.

    Returns:
        (n,) bool; equal results stand or fall together.

    Raises:
        ValueError: for no results, NaN, or arrays of two lengths.

    Example:
        >>> pareto_frontier([1, 2, 3, 4], [0.6, 0.7, 0.65, 0.9]).tolist()
        [True, True, False, True]
    """
    price, value = (np.asarray(as_array(x), dtype=np.float64) for x in (costs, scores))
    checks.require(price.ndim == 1 and len(price) > 0, f"costs must be a vector (n,) with entries: got {price.shape}.")
    checks.same_length("scores", value, "costs", price)
    for name, array in (("costs", price), ("scores", value)):
        checks.finite(name, array)
    order = np.lexsort((-value, price))
    ahead = np.maximum.accumulate(value[order])
    first = np.searchsorted(price[order], price[order])  # the cheapest of one price, whose best stands first
    before = np.where(first > 0, ahead[first - 1], -np.inf)
    mask = np.empty(len(price), dtype=bool)
    mask[order] = (value[order] == value[order][first]) & (value[order] > before)
    return mask


def calibrated_accuracy(scores: ArrayLike, labels: ArrayLike) -> float:
    """Accuracy at the threshold that calls as many items positive as there are.

    The calibrated accuracy of arXiv:2410.13215: a model trained on skewed labels may rank well and cut in the wrong
    place; this forgives the cut.

    Args:
        scores: (n,) float, larger is more likely positive.
        labels: (n,) 0 or 1.

    Returns:
        share of items on the right side of the quantile of scores at one minus the share of positives.

    Raises:
        ValueError: for no items, NaN, labels other than 0 and 1, or arrays of two lengths.

    Example:
        >>> calibrated_accuracy([0.9, 0.8, 0.7, 0.6], [1, 1, 0, 0])
        1.0
    """
    value, truth = as_array(scores), as_array(labels)
    checks.require(value.ndim == 1 and len(value) > 0, f"scores must be a vector (n,) with entries: got {value.shape}.")
    checks.same_length("labels", truth, "scores", value)
    checks.finite("scores", value)
    checks.require(bool(np.isin(truth, (0, 1)).all()), "labels must be 0 or 1.")
    positive = int(truth.sum())
    threshold = -np.inf if positive == len(value) else np.sort(value)[len(value) - positive - 1]
    return float(((value > threshold) == (truth == 1)).mean())
