"""The estimated performance gain by threshold, and the threshold where it is clearest."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tamis import checks
from tamis.randomness import Seed, as_generator

Array = np.ndarray[Any, Any]
ArrayLike = Array | torch.Tensor

_CELLS = 2**21  # numbers of a block of resamples


@dataclass(frozen=True)
class ContamCurve:
    """The gain by threshold: plot ``epg`` against ``share``.

    Args:
        threshold: (t,) float, samples that score at least this are contaminated.
        share: (t,) float, contaminated samples, of all.
        epg: (t,) float, mean of all samples minus mean of the clean ones; NaN where none is clean.
        z: (t,) float, the gain by its standard error; NaN where either part has fewer than two samples.
    """

    threshold: Any
    share: Any
    epg: Any
    z: Any


@dataclass(frozen=True)
class ThresholdChoice:
    """A threshold and what it says.

    Args:
        threshold: samples that score at least this are contaminated.
        share: of contaminated samples.
        epg: estimated performance gain there.
        z: the gain by its standard error there.
        p_value: share of permutations whose largest z reaches this one, the choice of the threshold paid for.
    """

    threshold: float
    share: float
    epg: float
    z: float
    p_value: float


def contam_curve(
    scores: ArrayLike,
    correct: ArrayLike,
    thresholds: ArrayLike | Sequence[float] | None = None,
    *,
    error: str = "closed",
    resamples: int = 1000,
    seed: Seed = 0,
) -> ContamCurve:
    """Estimated performance gain by threshold (ConTAM, arXiv:2411.03923).

    With C the samples that score at least t: ``EPG(t) = mean(all) - mean(not C) = |C| / N * (mean(C) - mean(not C))``.

    Args:
        scores: (n,) float contamination scores, no NaN.
        correct: (n,) float, how the model did on each sample, 0 or 1 or any real number.
        thresholds: (t,) float; None for every distinct score above the lowest.
        error: of z, "closed" for that of a difference of two means, or "bootstrap" over samples.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Returns:
        the curve, by ascending threshold where none were given; tensors for tensors.

    Raises:
        ValueError: for no samples, NaN, or arrays of different lengths.

    Example:
        >>> curve = contam_curve(np.array([0, 0.2, 0.5, 0.9, 1]), np.array([0, 1, 0, 1, 1]), [0.8])
        >>> curve.epg.round(6).tolist(), curve.share.tolist()
        ([0.266667], [0.4])
    """
    checks.one_of("error", error, ("closed", "bootstrap"))
    checks.at_least("resamples", resamples, 2)
    given, right = _vector("scores", scores), _vector("correct", correct)
    checks.same_length("correct", right, "scores", given)
    levels = np.unique(given)[1:] if thresholds is None else _vector("thresholds", thresholds, may_be_empty=True)
    order = np.argsort(-given, kind="stable")
    flagged = len(given) - np.searchsorted(given[order[::-1]], levels)
    if (flagged == len(given)).any():
        low = float(levels[flagged == len(given)].max())
        warnings.warn(f"threshold {low:g} leaves no clean samples: its gain is NaN.", stacklevel=2)
    epg, z = _gain(right[None, order], flagged)
    if error == "bootstrap":
        with np.errstate(divide="ignore", invalid="ignore"):
            z = epg / _bootstrap_error(right[order], flagged, resamples, as_generator(seed))
    columns = (levels, flagged / len(given), epg[0], z[0])
    return ContamCurve(*(_like(scores, column) for column in columns))


def select_threshold(
    scores: ArrayLike,
    correct: ArrayLike,
    *,
    method: str = "max_z",
    thresholds: ArrayLike | Sequence[float] | None = None,
    n_permutations: int = 1000,
    significance: float = 0.05,
    least_clean: int = 50,
    least_clean_share: float = 0.05,
    seed: Seed = 0,
) -> ThresholdChoice:
    """The threshold for one model and one benchmark (ConTAM, arXiv:2411.03923), and whether to believe it.

    The best of many thresholds looks good by chance; the p-value compares it with the best of as many when the results
    are shuffled. Do not read the gain as one of memory where the well-known samples are the easy ones as well.

    Args:
        scores: (n,) float contamination scores.
        correct: (n,) float, how the model did on each sample.
        method: "max_z" for the clearest gain, "max_epg" for the largest of those that are significant (of the clearest,
            where none is).
        thresholds: (t,) float; None for every distinct score above the lowest.
        n_permutations: of the results over the scores.
        significance: of "max_epg".
        least_clean: clean samples that a threshold must leave.
        least_clean_share: likewise, of all samples; the larger of the two holds.
        seed: of the permutations.

    Returns:
        the choice.

    Raises:
        ValueError: as ``contam_curve``, and where no threshold leaves enough clean samples and two contaminated ones.

    Example:
        >>> scores = np.repeat([0.0, 0.9], 100)
        >>> correct = np.concatenate([np.tile([0, 1], 50), np.tile([0, 1, 1, 1], 25)])
        >>> choice = select_threshold(scores, correct)
        >>> choice.threshold, choice.epg, choice.p_value < 0.01
        (0.9, 0.125, True)
    """
    checks.one_of("method", method, ("max_z", "max_epg"))
    checks.at_least("n_permutations", n_permutations, 1)
    checks.between("significance", significance, 0, 1)
    checks.at_least("least_clean", least_clean, 0)
    checks.between("least_clean_share", least_clean_share, 0, 1)
    given, right = _vector("scores", scores), _vector("correct", correct)
    checks.same_length("correct", right, "scores", given)
    levels = np.unique(given)[1:] if thresholds is None else _vector("thresholds", thresholds, may_be_empty=True)
    order = np.argsort(-given, kind="stable")
    flagged = len(given) - np.searchsorted(given[order[::-1]], levels)
    clean = max(2, least_clean, math.ceil(least_clean_share * len(given)))
    fits = (flagged >= 2) & (len(given) - flagged >= clean)
    checks.require(
        bool(fits.any()),
        f"no threshold leaves {clean} clean samples and two contaminated ones of {len(given)}: give more samples, or "
        "lower least_clean and least_clean_share.",
    )
    levels, flagged = levels[fits], flagged[fits]
    epg, z = (row[0] for row in _gain(right[None, order], flagged))
    rng = as_generator(seed)
    best = np.empty(n_permutations)
    size = max(1, _CELLS // len(right))
    for start in range(0, n_permutations, size):
        rows = best[start : start + size]
        shuffled = rng.permuted(np.broadcast_to(right, (len(rows), len(right))), axis=1)
        rows[:] = _known(_gain(shuffled, flagged)[1]).max(1)
    z = _known(z)
    p_values = (1 + (best >= z[:, None]).sum(1)) / (1 + n_permutations)
    choice = int(np.argmax(z))
    if method == "max_epg" and (p_values <= significance).any():
        choice = int(np.argmax(np.where(p_values <= significance, epg, -np.inf)))
    share = flagged[choice] / len(given)
    return ThresholdChoice(*map(float, (levels[choice], share, epg[choice], z[choice], p_values[choice])))


def _gain(ordered: Array, flagged: Array) -> tuple[Array, Array]:
    """EPG and z, (r, t), when the first ``flagged`` (t,) of each row of results (r, n) are contaminated."""
    n = ordered.shape[1]
    centred = ordered - ordered.mean(1, keepdims=True)  # so that variances do not cancel
    sums, squares = (np.cumsum(values, 1) for values in (centred, centred**2))
    totals = sums[:, -1:], squares[:, -1:]
    sums, squares = (np.concatenate([np.zeros((len(ordered), 1)), values], 1)[:, flagged] for values in (sums, squares))
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = [(flagged, sums, squares), (n - flagged, totals[0] - sums, totals[1] - squares)]
        means = [total / count for count, total, _ in parts]
        spread = sum(
            np.maximum(0.0, square - count * mean**2) / (count - 1) / count
            for (count, _, square), mean in zip(parts, means, strict=True)
        )
        share = flagged / n
        gap = np.where(flagged == 0, 0.0, share * (means[0] - means[1]))
        epg = np.where(flagged == n, np.nan, gap)
        z = np.where((flagged < 2) | (n - flagged < 2), np.nan, epg / (share * np.sqrt(spread)))
    return epg, z


def _bootstrap_error(ordered: Array, flagged: Array, resamples: int, rng: np.random.Generator) -> Array:
    """(t,) standard deviation of EPG over resampled samples; those that leave no clean sample are passed over."""
    n = len(ordered)
    drawn = []
    for start in range(0, resamples, max(1, _CELLS // n)):
        rows = min(max(1, _CELLS // n), resamples - start)
        weights = rng.multinomial(n, np.full(n, 1 / n), size=rows)
        before = [np.concatenate([np.zeros((rows, 1)), np.cumsum(w, 1)], 1) for w in (weights, weights * ordered)]
        clean, right = (total[:, -1:] - total[:, flagged] for total in before)
        with np.errstate(divide="ignore", invalid="ignore"):
            drawn.append(before[1][:, -1:] / n - right / clean)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a threshold without clean samples has no error
        return np.asarray(np.nanstd(np.concatenate(drawn), axis=0, ddof=1))


def _known(z: Array) -> Array:
    """Z with no gain at all where both parts are constant and equal."""
    return np.where(np.isnan(z), 0.0, z)


def _vector(name: str, values: Any, *, may_be_empty: bool = False) -> Array:
    array = values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
    array = np.asarray(array, np.float64)
    checks.require(array.ndim == 1, f"{name} must be a vector (n,): got shape {array.shape}.")
    checks.require(may_be_empty or len(array) > 0, f"{name} must hold at least one sample: got none.")
    checks.finite(name, array)
    return array


def _like(given: ArrayLike, array: Array) -> Any:
    if not isinstance(given, torch.Tensor):
        return array
    return torch.from_numpy(array).to(given.device, given.dtype if given.is_floating_point() else torch.float32)
