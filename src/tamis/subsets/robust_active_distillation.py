"""Robust active distillation: which points to send to a teacher that is wrong on some of them.

The points a student is least sure of teach most, and on them a teacher is most often wrong. If an adversary may declare
any m points mislabelled, the best distribution to draw from cuts off the uninformative tail and draws from the rest in
*inverse* proportion to the gain, so that every point that is kept contributes the same and none is worth attacking. The
game has a closed form, found by sorting, also where a wrong label costs something.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from tamis import checks
from tamis.method import Method
from tamis.randomness import Seed, as_generator, gumbel_top_k
from tamis.results import Selection, as_array, selection_like

METHOD = Method(
    title="Robust Active Distillation",
    paper="arXiv:2210.01213",
    year=2023,
    code="",
    claim="With a teacher that is wrong where the student is unsure, it beats uniform choice and margin sampling.",
    peers=("modAL", "scikit-activeml"),
    deviations=(
        "distinct points by default: the support grows where more are asked for than it holds",
        "the form with losses is solved in closed form too, without a linear program",
    ),
)

Array = np.ndarray[Any, Any]
ArrayLike = Array | torch.Tensor
Gain = Literal["margin", "entropy", "confidence"]

_LEAST = 1e-6  # gains are clipped to it: the inverse of nothing is infinite


class RobustDistribution(NamedTuple):
    """The solution of the game.

    Args:
        q: (n,) float64, probability of each point.
        support: points with a probability above 0.
        value: gain that is sure whatever m points are wrong.
    """

    q: Array
    support: int
    value: float


def robust_active_distribution(
    gains: ArrayLike, num_mislabeled: int, losses: ArrayLike | None = None, *, at_least: int = 1
) -> RobustDistribution:
    """The distribution with the greatest gain when any m points may be mislabelled (theorem 1 of arXiv:2210.01213).

    Solves ``max_q min_{|S| <= m} sum_{i not in S} q_i g_i - sum_{i in S} q_i l_i``. With points by descending gain,
    ``a_i = g_i + l_i`` and ``H_k = sum_{i <= k} 1 / a_i``, the value of the k first is ``(sum g_i / a_i - m) / H_k`` at
    ``q_i = 1 / (a_i H_k)``; the best k is taken, the smallest of equal ones. Without losses that is ``(k - m) / H_k``.

    Args:
        gains: (n,) float, how informative each point is; clipped to at least 1e-6.
        num_mislabeled: m, points *of the pool* that may be wrong, 0 to n - 1. Too low is worse than uniform choice.
        losses: (n,) float >= 0, what a wrong label costs; none by default.
        at_least: the least support; more than one point gives up value.

    Returns:
        q, support, value.

    Raises:
        ValueError: for gains or losses that are negative or not finite, or m outside 0 to n - 1.

    Example:
        >>> q, support, value = robust_active_distribution(np.array([1.0, 0.8, 0.5, 0.2]), 1)
        >>> q.round(6).tolist(), support, round(value, 6)
        ([0.235294, 0.294118, 0.470588, 0.0], 3, 0.470588)
    """
    g = _nonnegative("gains", gains)
    n = len(g)
    checks.between("num_mislabeled", num_mislabeled, 0, n - 1)
    checks.between("at_least", at_least, 1, n)
    g = np.maximum(g, _LEAST)
    cost = np.zeros(n) if losses is None else _nonnegative("losses", losses)
    checks.same_length("losses", cost, "gains", g)
    order = np.argsort(-g, kind="stable")
    inverse = 1.0 / (g + cost)[order]
    mass = np.cumsum(inverse)
    earned = np.arange(1, n + 1) if losses is None else np.cumsum(g[order] * inverse)
    values = (earned - num_mislabeled) / mass
    support = at_least + int(values[at_least - 1 :].argmax())
    q, value = np.zeros(n), float(values[support - 1])
    cheapest = int(cost.argmin())
    if at_least == 1 and value < -cost[cheapest]:  # every choice loses: lose the least
        q[cheapest] = 1.0
        return RobustDistribution(q, 1, -float(cost[cheapest]))
    q[order[:support]] = inverse[:support] / mass[support - 1]
    return RobustDistribution(q, support, value)


def active_gains(probs: ArrayLike, gain: Gain = "margin") -> Array:
    """How much there is to learn about each point: the usual measures of a student's uncertainty.

    Args:
        probs: (n, c) float, the student's predictions, rows adding up to 1.
        gain: "margin" is 1 less the gap of the two best, "confidence" 1 less the best, "entropy" over log c.

    Returns:
        (n,) float64, 0 for a certain student.

    Raises:
        ValueError: for rows that are no probabilities.

    Example:
        >>> active_gains(np.array([[0.7, 0.2, 0.1]])).round(2).tolist()
        [0.5]
    """
    checks.one_of("gain", gain, ("margin", "entropy", "confidence"))
    p = as_array(probs).astype(np.float64)
    checks.matrix("probs", p)
    checks.require(p.shape[1] > 1, f"probs must be of at least 2 classes: got shape {p.shape}.")
    checks.finite("probs", p)
    wrong = np.flatnonzero((p < -1e-6).any(1) | (np.abs(p.sum(1) - 1) > 1e-3))
    if len(wrong) > 0:
        row = int(wrong[0])
        raise ValueError(f"probs must be probabilities that add up to 1: row {row} adds up to {p[row].sum():.4g}.")
    if gain == "entropy":
        found: Array = -(p * np.log(np.maximum(p, 1e-300))).sum(1) / math.log(p.shape[1])
        return found
    best = np.partition(p, -2, axis=1)[:, -2:]
    return 1 - best[:, 1] + (best[:, 0] if gain == "margin" else 0.0)


def active_baseline(
    probs: ArrayLike,
    budget: float,
    *,
    strategy: Literal["margin", "entropy", "uniform", "prop_gain"] = "margin",
    seed: Seed = 0,
) -> Array:
    """What the robust choice is compared with.

    Args:
        probs: (n, c) float, the student's predictions.
        budget: points to choose, a count or a share.
        strategy: the points of the smallest margin or of the highest entropy, any, or drawn in proportion to the margin
            gain.
        seed: of the draws.

    Returns:
        int64, distinct points, in order of choice.

    Raises:
        ValueError: for a budget out of range or rows that are no probabilities.

    Example:
        >>> active_baseline(np.array([[0.9, 0.1], [0.6, 0.4], [0.7, 0.3]]), 2).tolist()
        [1, 2]
    """
    checks.one_of("strategy", strategy, ("margin", "entropy", "uniform", "prop_gain"))
    gains = active_gains(probs, "entropy" if strategy == "entropy" else "margin")
    count = checks.budget_count(budget, len(gains))
    if strategy == "uniform":
        return as_generator(seed).choice(len(gains), count, replace=False).astype(np.int64)
    if strategy == "prop_gain":
        return _drawn(np.log(np.maximum(gains, _LEAST)), count, seed)
    best: Array = np.argsort(-gains, kind="stable")[:count].astype(np.int64)
    return best


class RobustActiveDistillation:
    """Choose the points to ask a teacher about; also a query strategy as modAL takes it.

    Ask, train on the answers, predict again, ask again. Not for a teacher that is always right: there the plain margin
    earns more, and with ``teacher_error=0`` that is nearly what is chosen.

    Args:
        teacher_error: share of the pool on which the teacher is wrong, 1 less its accuracy on a labelled part.
        num_mislabeled: the number itself, instead.
        gain: as in ``active_gains``.
        replacement: draw with replacement, as the theory has it; points may then repeat.

    Returns:
        a strategy; call ``query``, or hand it to modAL.

    Raises:
        ValueError: for a share outside [0, 1).

    Example:
        >>> probs = np.array([[0.5, 0.5], [0.6, 0.4], [0.9, 0.1], [1.0, 0.0]])
        >>> sorted(RobustActiveDistillation(teacher_error=0.25).query(probs, 2, seed=0).indices.tolist())
        [0, 1]
    """

    def __init__(
        self,
        teacher_error: float = 0.1,
        *,
        num_mislabeled: int | None = None,
        gain: Gain = "margin",
        replacement: bool = False,
    ) -> None:
        checks.require(
            0 <= teacher_error < 1, f"teacher_error must be a share from 0 to below 1: got {teacher_error!r}."
        )
        checks.one_of("gain", gain, ("margin", "entropy", "confidence"))
        self.teacher_error, self.num_mislabeled = teacher_error, num_mislabeled
        self.gain: Gain = gain
        self.replacement = replacement

    def query(self, student_proba: ArrayLike, n_instances: float, *, seed: Seed = 0) -> Selection:
        """Choose points by the student's predictions.

        Args:
            student_proba: (n, c) float, rows adding up to 1.
            n_instances: points to ask about, a count or a share.
            seed: of the draw.

        Returns:
            indices in order of the draw, scores q (n,), log-weights and reasons; without replacement exactly so many
            distinct ones.

        Raises:
            ValueError: for more points than there are, or predictions that are no probabilities.
        """
        gains = active_gains(student_proba, self.gain)
        n = len(gains)
        count = checks.budget_count(n_instances, n)
        # Rounded first: 1 - 0.9 is a little more than a tenth.
        assumed = math.ceil(round(n * self.teacher_error, 9)) if self.num_mislabeled is None else self.num_mislabeled
        m = min(assumed, n - 1) if self.num_mislabeled is None else assumed
        found = robust_active_distribution(gains, m, at_least=1 if self.replacement else max(1, count))
        with np.errstate(divide="ignore"):
            keys = np.log(found.q)
        if self.replacement:
            indices = as_generator(seed).choice(n, count, p=found.q).astype(np.int64)
        else:
            indices = _drawn(keys, count, seed)
        weights = np.full(n, -np.inf)
        weights[indices] = 0.0
        dropped = np.flatnonzero(np.isneginf(weights))
        rule = np.where(found.q[dropped] > 0, "not drawn", "uninformative tail").astype(object)
        reasons = {"row": dropped, "rule": rule, "rival": np.full(len(dropped), -1), "score": gains[dropped]}
        return selection_like(Selection(indices, found.q, weights, reasons), student_proba)

    def __call__(
        self, classifier: Any, X: Any, n_instances: int = 1, random_state: Seed = 0
    ) -> Array:  # the names of modAL's strategies
        """Choose rows of a pool, as modAL calls a query strategy.

        Args:
            classifier: with ``predict_proba``.
            X: (n, d) pool.
            n_instances: rows to ask about.
            random_state: of the draw.

        Returns:
            (n_instances,) int64.
        """
        chosen: Array = self.query(np.asarray(classifier.predict_proba(X)), n_instances, seed=random_state).indices
        return chosen


def _drawn(keys: Array, count: int, seed: Seed) -> Array:
    """Rows drawn without replacement in proportion to the exponential of their keys."""
    return gumbel_top_k(keys[None], count, seed)[0] if count > 0 else np.empty(0, dtype=np.int64)


def _nonnegative(name: str, values: ArrayLike) -> Array:
    found = as_array(values).astype(np.float64)
    checks.require(
        found.ndim == 1 and len(found) > 0, f"{name} must be one-dimensional, not empty: {found.shape} came."
    )
    checks.finite(name, found)
    checks.require(bool((found >= 0).all()), f"{name} must be at least 0: got {found.min():.4g}.")
    return found
