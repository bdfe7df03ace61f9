"""Pruning per class: the easiest, the hardest, or some of every difficulty."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch

from tamis import allocation, checks
from tamis.randomness import Seed, as_generator
from tamis.results import Selection, as_array, selection_like

Array = np.ndarray[Any, Any]
ArrayLike = Array | torch.Tensor
Order = Literal["easy", "hard", "stratified", "random"]

ORDERS = ("easy", "hard", "stratified", "random")


def stratified_quotas(sizes: ArrayLike, budget: int) -> Array:
    """Share a budget over strata: the smallest first, each ``min(size, rest // strata left)`` (CCS, Zheng et al. 2023).

    Args:
        sizes: (k,) int, rows of each stratum.
        budget: rows in all; more than there are gives everything.

    Returns:
        (k,) int64.

    Raises:
        ValueError: for negative sizes or budget.

    Example:
        >>> stratified_quotas([1, 5, 10], 9).tolist(), stratified_quotas([0, 2, 20], 12).tolist()
        ([1, 4, 4], [0, 2, 10])
    """
    held = as_array(sizes).astype(np.int64)
    checks.require(held.ndim == 1, f"sizes must be (k,): got shape {held.shape}.")
    checks.require(len(held) == 0 or int(held.min()) >= 0, "sizes must be at least 0.")
    checks.at_least("budget", budget, 0)
    quota, rest = np.zeros_like(held), min(budget, int(held.sum()))
    for done, stratum in enumerate(np.argsort(held, kind="stable").tolist()):
        quota[stratum] = min(int(held[stratum]), rest // (len(held) - done))
        rest -= int(quota[stratum])
    return quota


class ClassBalancedSelector:
    """The same number of rows of every class, by difficulty (the pruning of arXiv:2502.06434).

    When not to use easy rows: where many are kept. In the claim their lead over random ones is gone at five a class.

    Args:
        n_per_class: rows of each class.
        order: "easy" and "hard" keep one end, "random" any, "stratified" some of every difficulty (CCS).
        beta: share of each class, the hardest, that never takes part; they are often mislabelled.
        n_bins: strata between the least and the greatest score of a class.
        seed: of random choices.

    Returns:
        a selector; call ``select``.

    Raises:
        ValueError: for an argument outside its range.

    Example:
        >>> scores, labels = np.array([0.3, 0.1, 0.2, 0.9]), np.array([0, 0, 1, 1])
        >>> ClassBalancedSelector(1).select(scores, labels).indices.tolist()
        [1, 2]
    """

    def __init__(
        self, n_per_class: int, *, order: Order = "easy", beta: float = 0.0, n_bins: int = 50, seed: Seed = 0
    ) -> None:
        checks.at_least("n_per_class", n_per_class, 1)
        checks.one_of("order", order, ORDERS)
        checks.require(0 <= beta < 1, f"beta must be a share from 0 to below 1: got {beta!r}.")
        checks.at_least("n_bins", n_bins, 1)
        self.n_per_class, self.beta, self.n_bins, self.seed = n_per_class, beta, n_bins, seed
        self.order: Order = order

    def select(self, scores: ArrayLike, labels: ArrayLike, *, higher_is_harder: bool = True) -> Selection:
        """Choose.

        Args:
            scores: (n,) float, difficulty: EL2N, forgetting or loss; infinity is allowed.
            labels: (n,) int or str, classes.
            higher_is_harder: False for scores like the area under the margin.

        Returns:
            indices ascending; scores as given; log-weights; reasons of the dropped rows.

        Raises:
            ValueError: for a class with too few rows, scores with NaN, or other lengths.
        """
        given, y = as_array(scores).astype(np.float64), as_array(labels)
        checks.require(given.ndim == 1 and len(given) > 0, f"scores must be (n,), not empty: got shape {given.shape}.")
        checks.same_length("labels", y, "scores", given)
        checks.require(not bool(np.isnan(given).any()), "scores must hold no NaN: were all samples seen?")
        rng = as_generator(self.seed)
        names, classes = np.unique(y, return_inverse=True)
        sizes = np.bincount(classes)
        hard = given if higher_is_harder else -given
        left = allocation.rank_in_group(hard, classes) >= np.floor(self.beta * sizes)[classes]
        held = np.bincount(classes[left], minlength=len(sizes))
        short = np.flatnonzero(held < self.n_per_class)
        if len(short) > 0:
            raise ValueError(
                f"n_per_class must be at most the rows of every class: class {names[short[0]].item()!r} has "
                f"{held[short[0]]}, {self.n_per_class} are asked for."
            )
        kept = np.zeros(len(given), dtype=bool)
        if self.order == "stratified":
            for number in range(len(sizes)):
                kept[self._strata(np.flatnonzero(left & (classes == number)), hard, rng)] = True
        else:
            keys = {"easy": -hard, "hard": hard, "random": rng.random(len(hard))}[self.order]
            kept[left] = allocation.rank_in_group(keys[left], classes[left]) < self.n_per_class
        weights = np.where(kept, 0.0, -np.inf)
        dropped = np.flatnonzero(~kept)
        rule = np.where(left[dropped], f"not among the {self.order} of its class", "hardest share of its class")
        reasons = {
            "row": dropped, "rule": rule.astype(object), "rival": np.full(len(dropped), -1), "score": given[dropped],
        }  # fmt: skip
        return selection_like(Selection(np.flatnonzero(kept), given, weights, reasons), scores)

    def _strata(self, rows: Array, hard: Array, rng: np.random.Generator) -> Array:
        """Rows of one class from bins of equal width."""
        values = hard[rows]
        finite = np.isfinite(values)
        low, high = values[finite].min(initial=0.0), values[finite].max(initial=0.0)
        if finite.any():
            low = values[finite].min()
        # What was never learned lies beyond every number, in the last bin.
        capped = np.where(finite, values, high)
        width = max(high - low, np.finfo(np.float64).tiny)
        bins = np.minimum((self.n_bins * (capped - low) / width).astype(np.int64), self.n_bins - 1)
        quota = stratified_quotas(np.bincount(bins, minlength=self.n_bins), self.n_per_class)
        chosen: Array = rows[allocation.rank_in_group(rng.random(len(rows)), bins) < quota[bins]]
        return chosen
