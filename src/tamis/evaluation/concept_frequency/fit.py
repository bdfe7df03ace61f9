"""How performance grows with frequency: on bins, and on the concepts themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from tamis import checks

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class LogLinearFit:
    """Performance against the logarithm of frequency.

    Args:
        slope_per_decade: of the binned fit, for ten times the frequency.
        intercept: of the binned fit, at frequency 1.
        rho: Pearson correlation of the bins.
        rho_linear: the same against the frequency itself.
        p_value: share of permutations of the concepts whose unbinned correlation is as large; at least 1 / (n + 1).
        bins: frequency (geometric mean), performance (mean) and count of each bin that was fitted.
        unbinned_rho: Pearson correlation of the concepts.
        unbinned_slope: per decade.
        unbinned_interval: its 95 % bootstrap over concepts.
        isotonic_r2: what the best rising curve through the bins explains of their variance; rho squared is the line's.
        dropped: concepts left out for a frequency that is not positive.
    """

    slope_per_decade: float
    intercept: float
    rho: float
    rho_linear: float
    p_value: float
    bins: dict[str, Array]
    unbinned_rho: float
    unbinned_slope: float
    unbinned_interval: tuple[float, float]
    isotonic_r2: float
    dropped: int


def loglinear_fit(
    frequency: Array,
    performance: Array,
    n_bins: int = 12,
    trim: tuple[int, int] = (1, 1),
    *,
    min_count: int = 1,
    zeros: Literal["drop", "log1p"] = "drop",
    samples: int = 2000,
    seed: int = 0,
) -> LogLinearFit:
    """Fit performance linearly in the logarithm of frequency.

    The fit of arXiv:2404.04125 on bins with log-spaced edges, the first and the last left out, and beside it the same
    on single concepts. When not to use: as proof that frequency is the cause; rare concepts may be harder ones.

    Args:
        frequency: (k,) float, how often each concept occurs.
        performance: (k,) float.
        n_bins: bins over the range of frequencies.
        trim: bins left out at the low and at the high end, of those that hold ``min_count`` concepts.
        min_count: concepts that a bin must hold.
        zeros: concepts of frequency 0 or below are dropped and counted; or "log1p" takes ``1 + frequency``.
        samples: bootstrap samples, and permutations.
        seed: of both.

    Returns:
        the fit.

    Raises:
        ValueError: shapes that do not fit, values that are not finite, fewer than three bins after the trim.

    Example:
        >>> f = np.array([2.0, 20.0, 200.0, 2000.0])
        >>> round(loglinear_fit(f, 10 * np.log10(f), n_bins=4, trim=(0, 0)).slope_per_decade, 6)
        10.0
    """
    counts, scores = np.asarray(frequency, dtype=np.float64), np.asarray(performance, dtype=np.float64)
    checks.require(counts.ndim == 1, f"frequency must be (k,): got shape {counts.shape}.")
    checks.same_length("performance", scores, "frequency", counts)
    checks.at_least("n_bins", n_bins, 3)
    checks.at_least("min_count", min_count, 1)
    checks.require(min(trim) >= 0, f"trim must not be negative: got {trim!r}.")
    checks.one_of("zeros", zeros, ("drop", "log1p"))
    checks.finite("frequency", counts)
    checks.finite("performance", scores)
    if zeros == "log1p":
        counts = 1 + np.maximum(counts, 0)
    kept = counts > 0
    counts, scores = counts[kept], scores[kept]
    checks.require(len(counts) >= 3, f"frequency must be positive for at least 3 concepts: it is for {len(counts)}.")
    logs = np.log(counts)
    edges = np.linspace(logs.min(), logs.max(), n_bins + 1)
    number = np.clip(np.searchsorted(edges, logs, side="right") - 1, 0, n_bins - 1)
    held = np.bincount(number, minlength=n_bins)
    used = np.flatnonzero(held >= min_count)
    used = used[trim[0] : len(used) - trim[1]]
    checks.require(
        len(used) >= 3, f"n_bins and trim must leave at least 3 bins: {len(used)} are left of {(held > 0).sum()}."
    )
    middle = (np.bincount(number, logs, n_bins) / np.maximum(held, 1))[used]
    height = (np.bincount(number, scores, n_bins) / np.maximum(held, 1))[used]
    slope, intercept = np.polyfit(middle, height, 1)
    rng = np.random.default_rng(seed)
    whole = _correlation(logs, scores)
    shuffled = np.array([_correlation(logs, rng.permutation(scores)) for _ in range(samples)])
    drawn = rng.integers(0, len(logs), (samples, len(logs)))
    slopes = _slopes(logs[drawn], scores[drawn])
    low, high = np.nanquantile(slopes, [0.025, 0.975])
    decade = np.log(10)
    return LogLinearFit(
        slope_per_decade=float(slope * decade),
        intercept=float(intercept),
        rho=_correlation(middle, height),
        rho_linear=_correlation(np.exp(middle), height),
        p_value=float((1 + (shuffled >= whole).sum()) / (samples + 1)),
        bins={"frequency": np.exp(middle), "performance": height, "count": held[used]},
        unbinned_rho=whole,
        unbinned_slope=float(_slopes(logs[None], scores[None])[0] * decade),
        unbinned_interval=(float(low * decade), float(high * decade)),
        isotonic_r2=_isotonic_r2(height, held[used]),
        dropped=int((~kept).sum()),
    )


def _correlation(x: Array, y: Array) -> float:
    one, other = x - x.mean(), y - y.mean()
    scale = float(np.sqrt((one**2).sum() * (other**2).sum()))
    return float((one * other).sum()) / scale if scale > 0 else 0.0


def _slopes(x: Array, y: Array) -> Array:
    """(s,), least-squares slopes row by row; NaN where x does not vary."""
    one = x - x.mean(1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        slopes: Array = (one * y).sum(1) / (one**2).sum(1)
    return slopes


def _isotonic_r2(height: Array, weight: Array) -> float:
    """What a rising step function explains, by pooling neighbours that fall; bins are few."""
    pools: list[list[float]] = []
    for value, w in zip(height.tolist(), weight.tolist(), strict=True):
        pools.append([value, w, 1])
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            last, before = pools.pop(), pools.pop()
            total = last[1] + before[1]
            pools.append([(last[0] * last[1] + before[0] * before[1]) / total, total, last[2] + before[2]])
    fitted = np.repeat([pool[0] for pool in pools], [int(pool[2]) for pool in pools])
    mean = np.average(height, weights=weight)
    spread = float((weight * (height - mean) ** 2).sum())
    return 1 - float((weight * (height - fitted) ** 2).sum()) / spread if spread > 0 else 0.0
