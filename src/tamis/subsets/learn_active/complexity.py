"""How hard a problem is: the questions that any strategy needs, from an information-theoretic lower bound."""

from __future__ import annotations

from typing import Any

import numpy as np

from tamis import checks

Array = np.ndarray[Any, Any]

_ROUNDS = 60  # bisections and golden sections, to some twelve digits
_STEPS = 20_000


def problem_complexity(
    theta: Array, queries: Array | None = None, hypotheses: Array | None = None
) -> tuple[float, Array]:
    """The complexity of a problem and the best shares of the questions.

    ``C = min_l max_z |z - z*|^2_{A(l)^-1} / <theta, z* - z>^2`` with ``A(l) = sum_i l_i x_i x_i^T`` over shares l that
    add up to 1. For bandits that is ``min max (1 / l_* + 1 / l_i) / gap_i^2``, solved to machine precision; otherwise
    by mirror descent, to some three digits.

    Args:
        theta: (d,) float, the truth.
        queries: (n, d) float, x; left out, arms of a bandit.
        hypotheses: (m, d) float, z; left out, the queries.

    Returns:
        C and shares (n,).

    Raises:
        ValueError: where two hypotheses are equally good, which no number of questions tells apart.

    Example:
        >>> value, shares = problem_complexity(np.array([1.0, 0.5, 0.5]))
        >>> round(value, 6), shares.round(6).tolist()
        (23.313708, [0.414214, 0.292893, 0.292893])
    """
    truth = np.asarray(theta, dtype=np.float64)
    checks.require(truth.ndim == 1 and len(truth) > 0, f"theta must be (d,), not empty: got shape {truth.shape}.")
    checks.finite("theta", truth)
    if queries is None and hypotheses is None:
        value, shares = bandit_complexities(truth[None])
        return float(value[0]), shares[0]
    x = np.eye(len(truth)) if queries is None else np.asarray(queries, dtype=np.float64)
    checks.matrix("queries", x, columns=len(truth))
    z = x if hypotheses is None else np.asarray(hypotheses, dtype=np.float64)
    checks.matrix("hypotheses", z, columns=len(truth))
    values = z @ truth
    best = int(values.argmax())
    gaps = np.delete(values[best] - values, best)
    _require_gap(gaps)
    return _of_linear(x, np.delete(z[best] - z, best, axis=0), gaps)


def scaled_to_complexity(theta: Array, radius: float) -> Array:
    """A bandit's means, scaled so that its complexity is ``radius``: complexity falls with the square of the scale.

    Args:
        theta: (..., n) float.
        radius: complexity wanted.

    Returns:
        (..., n) float64.

    Raises:
        ValueError: for a tie for the best arm, or a radius that is not positive.

    Example:
        >>> scaled_to_complexity(np.array([1.0, 0.5]), 4.0).round(6).tolist()
        [2.0, 1.0]
    """
    checks.positive("radius", radius)
    means = np.asarray(theta, dtype=np.float64)
    rows = means.reshape(-1, means.shape[-1])
    factors = np.sqrt(bandit_complexities(rows)[0] / radius)
    found: Array = np.reshape(rows * factors[:, None], means.shape)
    return found


def bandit_complexities(theta: Array) -> tuple[Array, Array]:
    """Complexities of many bandits: golden sections over the best arm's share, bisections inside.

    Args:
        theta: (m, n) float, means of each.

    Returns:
        complexities (m,) and shares (m, n).

    Raises:
        ValueError: for a tie for the best arm.

    Example:
        >>> bandit_complexities(np.array([[1.0, 0.5]]))[0].round(6).tolist()
        [16.0]
    """
    m, n = theta.shape
    best = theta.argmax(1)
    others = np.arange(n) != best[:, None]
    squares = ((theta[np.arange(m), best][:, None] - theta) ** 2)[others].reshape(m, n - 1)
    _require_gap(squares)
    least = squares.min(1)

    def value_at(own: Array) -> Array:
        """The least maximum when the best arm's share is given: others then have 1 / (v gap^2 - 1 / own)."""
        low: Array = 1 / (own * least)
        high: Array = low + (n - 1) / ((1 - own) * least)
        for _ in range(_ROUNDS):
            middle = (low + high) / 2
            spent = own + (1 / np.maximum(middle[:, None] * squares - 1 / own[:, None], 1e-300)).sum(1)
            low, high = np.where(spent > 1, middle, low), np.where(spent > 1, high, middle)
        return high

    low, high, ratio = np.full(m, 1e-9), np.full(m, 1 - 1e-9), (5**0.5 - 1) / 2
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    at_left, at_right = value_at(left), value_at(right)
    for _ in range(_ROUNDS):
        down = at_left < at_right
        low, high = np.where(down, low, left), np.where(down, right, high)
        new = np.where(down, high - ratio * (high - low), low + ratio * (high - low))
        at_new = value_at(new)
        left, right = np.where(down, new, right), np.where(down, left, new)
        at_left, at_right = np.where(down, at_new, at_right), np.where(down, at_left, at_new)
    own = (low + high) / 2
    value = value_at(own)
    rest = 1 / np.maximum(value[:, None] * squares - 1 / own[:, None], 1e-300)
    shares = np.empty((m, n))
    shares[others] = (rest * ((1 - own) / rest.sum(1))[:, None]).ravel()
    shares[np.arange(m), best] = own
    return value, shares


def _of_linear(x: Array, differences: Array, gaps: Array) -> tuple[float, Array]:
    """Mirror descent on shares; the step falls with the root of the rounds, the best shares so far count."""
    shares, best, kept = np.full(len(x), 1 / len(x)), np.inf, np.full(len(x), 1 / len(x))
    scaled = differences / gaps[:, None]
    for step in range(1, _STEPS + 1):
        inverse = np.linalg.pinv((x * shares[:, None]).T @ x, hermitian=True)
        along = scaled @ inverse
        values = (along * scaled).sum(1)
        worst = int(values.argmax())
        if values[worst] < best:
            best, kept = float(values[worst]), shares
        gradient = -((x @ along[worst]) ** 2)
        shares = shares * np.exp(-np.clip(gradient / np.abs(gradient).max(), -1, 1) / step**0.5)
        shares = shares / shares.sum()
    return float(best), kept


def _require_gap(gaps: Array) -> None:
    checks.require(gaps.size > 0, "theta must have at least two hypotheses to tell apart.")
    checks.require(bool((gaps > 0).all()), "theta must have one best hypothesis: no questions tell a tie apart.")
