"""Intervals: Wilson for a share, bootstrap for a mean, paired bootstrap for a difference of two systems."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tamis import checks
from tamis.randomness import Seed, as_generator

Array = np.ndarray[Any, Any]


def wilson(successes: int, trials: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """The Wilson score interval of a share (Wilson 1927).

    Args:
        successes: how many of the trials came out.
        trials: how many there were; none gives (0, 1).
        confidence: of the two-sided interval, in (0, 1).

    Returns:
        the lower and the upper bound of the share.

    Raises:
        ValueError: when successes do not lie between 0 and trials.

    Example:
        >>> low, high = wilson(1, 10)
        >>> round(low, 4), round(high, 4)
        (0.0179, 0.4042)
    """
    checks.require(0 < confidence < 1, f"confidence must lie between 0 and 1: got {confidence!r}.")
    checks.require(0 <= successes <= trials, f"successes must lie between 0 and trials: {successes} of {trials}.")
    if trials == 0:
        return 0.0, 1.0
    z = math.sqrt(2) * _erfinv(confidence)
    share, z2 = successes / trials, z * z
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = z / (1 + z2 / trials) * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials * trials))
    return (0.0 if successes == 0 else centre - half), (1.0 if successes == trials else centre + half)


def bootstrap_mean(
    values: Array, *, confidence: float = 0.95, samples: int = 10_000, seed: Seed = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean.

    Args:
        values: (n,) float.
        confidence: of the two-sided interval.
        samples: resamples.
        seed: seed or generator.

    Returns:
        the lower and the upper bound of the mean.

    Raises:
        ValueError: when values are empty.

    Example:
        >>> low, high = bootstrap_mean(np.array([1.0, 2.0, 3.0, 4.0]))
        >>> low < 2.5 < high
        True
    """
    values = np.asarray(values, dtype=np.float64)
    checks.require(values.ndim == 1 and len(values) > 0, f"values must be a non-empty vector: got {values.shape}.")
    rng = as_generator(seed)
    means = np.empty(samples)
    block = max(1, 4_000_000 // len(values))  # a block of resamples stays under 32 MB
    for start in range(0, samples, block):
        stop = min(start + block, samples)
        means[start:stop] = values[rng.integers(len(values), size=(stop - start, len(values)))].mean(axis=1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def paired_bootstrap(
    ours: Array, theirs: Array, *, confidence: float = 0.95, samples: int = 10_000, seed: Seed = 0
) -> dict[str, float]:
    """Paired bootstrap over queries for the difference of two systems (Sakai 2006; Koehn 2004).

    Args:
        ours: (q,) float, a metric per query.
        theirs: (q,) float, the same metric and queries for the other system.
        confidence: of the two-sided interval.
        samples: resamples of the queries.
        seed: seed or generator.

    Returns:
        difference (mean of ours minus theirs), low, high (interval), and wins, losses, ties (counts of queries).

    Raises:
        ValueError: when the two do not have one entry per query each.

    Example:
        >>> paired_bootstrap(np.array([1.0, 0.5]), np.array([0.5, 0.5]))["difference"]
        0.25
    """
    checks.same_length("ours", ours, "theirs", theirs)
    gap = np.asarray(ours, dtype=np.float64) - np.asarray(theirs, dtype=np.float64)
    low, high = bootstrap_mean(gap, confidence=confidence, samples=samples, seed=seed)
    return {
        "difference": float(gap.mean()),
        "low": low,
        "high": high,
        "wins": int((gap > 0).sum()),
        "losses": int((gap < 0).sum()),
        "ties": int((gap == 0).sum()),
    }


def _erfinv(p: float) -> float:
    """Inverse error function by Newton steps from a rational start; exact to double precision for p in (0, 1)."""
    a = 0.147
    log_term = math.log(1 - p * p)
    half = 2 / (math.pi * a) + log_term / 2
    x = math.sqrt(math.sqrt(half * half - log_term / a) - half)
    for _ in range(4):
        x -= (math.erf(x) - p) * math.sqrt(math.pi) / 2 * math.exp(x * x)
    return x
