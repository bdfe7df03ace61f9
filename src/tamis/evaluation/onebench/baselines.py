"""What Plackett-Luce is compared with: means of scores, and Elo."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tamis import checks
from tamis.evaluation.onebench.pairwise import Array, oriented
from tamis.randomness import Seed, as_generator


def mean_scores(
    values: Array | Sequence[Sequence[float]],
    *,
    groups: Sequence[Any] | Array | None = None,
    higher_is_better: bool | Array | Sequence[bool] = True,
) -> Array:
    """The mean of each model's results; with groups, of results scaled to 0 to 1 within each group of samples.

    Args:
        values: (m, s) float, NaN where a model did not run.
        groups: (s,) data set of every sample; each weighs the same and is scaled by its own least and greatest result.
        higher_is_better: one for all samples, or (s,) bool.

    Returns:
        (m,) float64, NaN for a model without results.

    Raises:
        ValueError: for another shape.

    Example:
        >>> mean_scores([[1.0, 200.0], [0.0, 300.0]], groups=["a", "b"]).tolist()
        [0.5, 0.5]
    """
    table = oriented(values, higher_is_better)
    if groups is None:
        return _mean(table)
    checks.require(len(groups) == table.shape[1], f"groups must name {table.shape[1]} samples: got {len(groups)}.")
    _, of_sample = np.unique(np.asarray(groups), return_inverse=True)
    scaled = []
    for group in range(int(of_sample.max()) + 1):
        part = table[:, of_sample == group]
        ran = np.isfinite(part)
        low, high = part[ran].min(initial=np.inf), part[ran].max(initial=-np.inf)
        scaled.append(_mean((part - low) / (high - low if high > low else 1.0)))
    return _mean(np.array(scaled).T)


def elo_scores(
    values: Array | Sequence[Sequence[float]],
    *,
    k: float = 4.0,
    scale: float = 400.0,
    base: float = 10.0,
    start: float = 1000.0,
    higher_is_better: bool | Array | Sequence[bool] = True,
    seed: Seed = 0,
) -> Array:
    """Elo ratings: samples in random order, on each of which the models that ran meet in random pairs.

    Ratings depend on that order, which is why Plackett-Luce is preferred.

    Args:
        values: (m, s) float, NaN where a model did not run.
        k: largest change of a rating in a game.
        scale: difference of ratings at which the odds are ``base`` to one.
        base: see there.
        start: rating of all at the start, and the mean at all times.
        higher_is_better: one for all samples, or (s,) bool.
        seed: of orders and pairs.

    Returns:
        (m,) float64.

    Raises:
        ValueError: for another shape, or settings that are not positive.

    Example:
        >>> elo_scores([[1.0, 1.0], [0.0, 0.0]]).round(3).tolist()
        [1003.977, 996.023]
    """
    for name, value in (("k", k), ("scale", scale), ("base - 1", base - 1)):
        checks.positive(name, value)
    table, rng = oriented(values, higher_is_better), as_generator(seed)
    ratings = np.full(len(table), float(start))
    for sample in rng.permutation(table.shape[1]):
        column = table[:, sample]
        met = rng.permutation(np.flatnonzero(np.isfinite(column)))
        one, other = met[: len(met) // 2], met[len(met) // 2 : len(met) // 2 * 2]
        outcome = (np.sign(column[one] - column[other]) + 1) / 2
        change = k * (outcome - 1 / (1 + base ** ((ratings[other] - ratings[one]) / scale)))
        ratings[one] += change
        ratings[other] -= change
    return ratings


def _mean(table: Array) -> Array:
    ran = np.isfinite(table)
    counts = ran.sum(1)
    sums = np.where(ran, table, 0.0).sum(1)
    found: Array = np.divide(sums, counts, out=np.full(len(table), np.nan), where=counts > 0)
    return found
