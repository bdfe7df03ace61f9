"""Learning curves: error as a power law of the number of samples, and what an aim makes of it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from tamis import checks

Array = np.ndarray[Any, Any]
Utility = str | float


class Curve(Protocol):
    """A group's error by its number of samples, falling and ever more slowly so.

    Example:
        >>> curve: Curve = PowerLawCurve(a=0.1, b=2.0, p=0.5)
        >>> round(float(curve.derivative(100)), 6)
        -0.001
    """

    def predict(self, n: Any) -> Any:
        """The error.

        Args:
            n: samples.

        Returns:
            a number.
        """

    def derivative(self, n: Any) -> Any:
        """How the error changes with one sample more.

        Args:
            n: samples.

        Returns:
            a number, negative.
        """


@dataclass(frozen=True)
class PowerLawCurve:
    """``error(n) = a + b n^-p``: what stays, what more data takes away, and how fast.

    Args:
        a: error that no amount of data removes.
        b: error that data removes, as it would be at one sample.
        p: exponent, above 0; about 0.5 for many learners.
        b_error: standard error of b, given a and p.

    Example:
        >>> curve = PowerLawCurve.fit([10, 100, 1000], [0.1 + 2 * n**-0.5 for n in (10, 100, 1000)])
        >>> round(curve.a, 4), round(curve.b, 4), round(curve.p, 4), round(float(curve.predict(400)), 4)
        (0.1, 2.0, 0.5, 0.2)
    """

    a: float
    b: float
    p: float
    b_error: float = 0.0

    def predict(self, n: Any) -> Any:
        """The error after n samples.

        Args:
            n: number or array of numbers from 0; at 0 the error is infinite where b is positive.

        Returns:
            float or array of the same shape.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            falling = np.where(np.asarray(self.b) > 0, self.b * np.asarray(n, dtype=np.float64) ** -self.p, 0.0)
        return (self.a + falling)[()]

    def derivative(self, n: Any) -> Any:
        """How the error changes per further sample.

        Args:
            n: number or array of numbers from 0.

        Returns:
            float or array of the same shape, never positive.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            slope = -self.p * self.b * np.asarray(n, dtype=np.float64) ** (-self.p - 1)
        return np.where(np.asarray(self.b) > 0, slope, 0.0)[()]

    @classmethod
    def fit(
        cls,
        n: Array | Sequence[float],
        error: Array | Sequence[float],
        sigma: Array | Sequence[float] | None = None,
        *,
        a: float | None = None,
        p: float | None = None,
    ) -> PowerLawCurve:
        """The curve nearest to measured errors, by least squares with a and b not negative.

        For each exponent a and b are a linear problem with a closed form; the exponent is found by a grid from 0.01 to
        4 and golden-section search around its best.

        Args:
            n: (m,) numbers of samples, positive.
            error: (m,) errors measured.
            sigma: (m,) standard deviations of the measurements beside one another; None for equal ones.
            a: what stays, if it is known.
            p: the exponent, if it is known.

        Returns:
            the curve.

        Raises:
            ValueError: for fewer points (or different n) than parameters to find, or numbers out of their range.
        """
        x, y = np.asarray(n, dtype=np.float64), np.asarray(error, dtype=np.float64)
        free = 1 + (a is None) + (p is None)
        checks.require(x.ndim == 1, f"n must be one-dimensional (m,): got shape {x.shape}.")
        checks.same_length("error", y, "n", x)
        checks.require(
            len(np.unique(x)) >= free,
            f"n must hold {free} different numbers of samples to find {free} parameters: {len(np.unique(x))} came; "
            "measure more sizes, or fix a and p.",
        )
        checks.require(bool((x > 0).all()), "n must be positive.")
        checks.finite("error", y)
        scatter = np.ones(len(x)) if sigma is None else np.asarray(sigma, dtype=np.float64)
        checks.same_length("sigma", scatter, "n", x)
        checks.require(bool(np.isfinite(scatter).all() and (scatter > 0).all()), "sigma must be positive and finite.")
        weight = scatter**-2
        if p is None:
            p = _best_exponent(x, y, weight, a)
        checks.positive("p", p)
        found_a, b, loss = _linear(x**-p, y, weight, a)
        residual = loss / max(1, len(x) - free)
        spread = x**-p if a is not None else x**-p - np.average(x**-p, weights=weight)
        return cls(found_a, b, float(p), float(np.sqrt(residual / (weight @ spread**2))))


def _linear(x: Array, y: Array, weight: Array, a: float | None) -> tuple[float, float, float]:
    """Weighted least squares of ``y = a + b x`` with both not negative, and its loss."""
    b = 0.0
    if a is None:
        mean_x, mean_y = np.average(x, weights=weight), np.average(y, weights=weight)
        b = float(weight @ ((x - mean_x) * (y - mean_y)) / (weight @ (x - mean_x) ** 2))
        a = float(mean_y - b * mean_x) if b > 0 else max(0.0, float(mean_y))
    if b == 0 or a < 0:
        # Either a is known, or it would be negative: then it is 0, and only b is free.
        a = max(0.0, a) if b else a
        b = float(weight @ (x * (y - a)) / (weight @ x**2))
    b = max(0.0, b)
    return float(a), b, float(weight @ (y - a - b * x) ** 2)


def _best_exponent(x: Array, y: Array, weight: Array, a: float | None) -> float:
    def loss(log_p: float) -> float:
        return _linear(x ** -np.exp(log_p), y, weight, a)[2]

    grid = np.linspace(np.log(0.01), np.log(4.0), 121)
    best = int(np.argmin([loss(g) for g in grid]))
    low, high = grid[max(0, best - 1)], grid[min(len(grid) - 1, best + 1)]
    golden = (np.sqrt(5) - 1) / 2
    for _ in range(60):
        left, right = high - golden * (high - low), low + golden * (high - low)
        low, high = (low, right) if loss(left) < loss(right) else (left, high)
    return float(np.exp((low + high) / 2))


class Curves:
    """The curves of all groups, evaluated together.

    Args:
        curves: one per group.

    Example:
        >>> Curves([PowerLawCurve(0, 4, 0.5), PowerLawCurve(0.5, 0, 0.5)]).predict(np.array([16.0, 0.0])).tolist()
        [1.0, 0.5]
    """

    def __init__(self, curves: Sequence[Curve]) -> None:
        checks.require(len(curves) > 0, "curves must hold one per group: there are none.")
        self._each = list(curves)
        self._law: PowerLawCurve | None = None
        laws = [c for c in curves if isinstance(c, PowerLawCurve)]
        if len(laws) == len(curves):
            fields: Any = [np.array([getattr(c, name) for c in laws], dtype=np.float64) for name in ("a", "b", "p")]
            self._law = PowerLawCurve(*fields)

    def predict(self, n: Array) -> Array:
        """Errors after n samples each.

        Args:
            n: (g,) float.

        Returns:
            (g,) float.
        """
        if self._law is not None:
            return np.asarray(self._law.predict(n))
        return np.array([float(curve.predict(x)) for curve, x in zip(self._each, n.tolist(), strict=True)])

    def derivative(self, n: Array) -> Array:
        """Changes of the errors per further sample.

        Args:
            n: (g,) float.

        Returns:
            (g,) float.
        """
        if self._law is not None:
            return np.asarray(self._law.derivative(n))
        return np.array([float(curve.derivative(x)) for curve, x in zip(self._each, n.tolist(), strict=True)])

    def warn_where_rising(self, low: Array, high: Array) -> None:
        """Warn of curves that rise, or fall faster later on, somewhere between two numbers of samples.

        Args:
            low: (g,) float.
            high: (g,) float.
        """
        if self._law is not None:
            return
        start = np.maximum(low, 1e-3 * np.maximum(high, 1e-9))
        slopes = np.array([self.derivative(start * (high / start) ** t) for t in np.linspace(0, 1, 33)])
        scale = 1e-9 + 1e-6 * np.abs(slopes).max(axis=0)
        bad = np.flatnonzero((slopes > scale).any(axis=0) | (np.diff(slopes, axis=0) < -scale).any(axis=0))
        if len(bad):
            warnings.warn(
                f"curves must fall, ever more slowly: that of group {bad[0]} does not; the split may be far from best.",
                stacklevel=3,
            )


def alpha_of(utility: Utility) -> float:
    """The order of fairness that a name stands for: "sum" is 0 and "maxmin" infinity.

    Args:
        utility: "sum", "maxmin", or a number from 0.

    Returns:
        the number.

    Raises:
        ValueError: for another word or a negative number.

    Example:
        >>> alpha_of("maxmin"), alpha_of(2)
        (inf, 2.0)
    """
    if isinstance(utility, str):
        checks.one_of("utility", utility, ("sum", "maxmin"))
        return 0.0 if utility == "sum" else np.inf
    checks.at_least("utility", utility, 0)
    return float(utility)


def utility_of(error: Array, alpha: float) -> Array:
    """What errors are worth: performance ``f = 1 - error`` under ``(f^(1 - alpha) - 1) / (1 - alpha)``.

    Alpha 0 is performance itself and 1 its logarithm; where f is not above 0, alpha above 0 gives minus infinity.

    Args:
        error: (g,) float.
        alpha: finite, from 0.

    Returns:
        (g,) float.

    Example:
        >>> utility_of(np.array([0.5]), 2.0).tolist()
        [-1.0]
    """
    if alpha == 0:
        return -np.asarray(error)
    performance = 1 - np.asarray(error)
    with np.errstate(divide="ignore", invalid="ignore"):
        worth = np.log(performance) if alpha == 1 else (performance ** (1 - alpha) - 1) / (1 - alpha)
    return np.where(performance > 0, worth, -np.inf)


def slope_of(error: Array, alpha: float) -> Array:
    """How much a small gain in performance is worth: ``f^-alpha``, infinite where f is not above 0.

    Args:
        error: (g,) float.
        alpha: finite, from 0.

    Returns:
        (g,) float.

    Example:
        >>> slope_of(np.array([0.5, 2.0]), 1.0).tolist()
        [2.0, inf]
    """
    if alpha == 0:
        return np.ones_like(np.asarray(error))
    performance = 1 - np.asarray(error)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return np.where(performance > 0, performance**-alpha, np.inf)
