"""L1-A-MTRL: how many samples to draw from each source task, so that a shared representation serves one target task.

Heads of all tasks stand on one representation. The target's head is written as a combination of the source heads, and a
source gets samples in proportion to the absolute value of its coefficient. Of the many combinations that fit, the one
with the least sum of absolute values has few entries and gives the least variance for a number of samples; the least
squares one, whose squares were the earlier rule, spreads over all. Heads are unknown at first, so a round of equal
shares comes before; the training loop stays with the user.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from tamis import allocation, checks
from tamis.method import Method

METHOD = Method(
    title="Improved Active Multi-Task Representation Learning via Lasso",
    paper="arXiv:2306.02556",
    year=2023,
    claim="Samples by the least-L1 coefficients give a smaller error of the subspace than squares of least-L2 ones.",
    peers=("sklearn.linear_model.Lasso",),
    deviations=(
        "without alpha the equations are met exactly; of several least-L1 solutions the one with the least L2 norm",
        "counts add up to the total exactly, with every task's minimum within it",
        "costs per sample, but no fixed cost per task",
    ),
)

Array = np.ndarray[Any, Any]
_ROUNDS, _TOLERANCE = 20_000, 1e-11
_RIDGE = 1e-3  # small enough not to move a least-L1 solution, and it chooses among several


def task_relevance(
    source_heads: Array, target_head: Array, norm: Literal["l1", "l2"] = "l1", alpha: float | None = None
) -> Array:
    """Coefficients of the source heads that make the target's head.

    ``argmin ||nu||`` subject to ``W nu = w`` of arXiv:2306.02556, in the norm asked for; with ``alpha`` the lasso
    ``alpha ||nu||_1 + 1/2 ||W nu - w||^2``, for heads that are estimates. When not to use: with heads of different
    representations; put them on one basis first.

    Args:
        source_heads: (k, t) float, one column per source task.
        target_head: (k,) float.
        norm: "l1", or "l2" for the pseudo-inverse.
        alpha: weight of the penalty, about the noise of the heads; None asks for equality. scikit-learn's is alpha / k.

    Returns:
        (t,) float64.

    Raises:
        ValueError: shapes that do not fit, values that are not finite, a head outside the span of the others without
            alpha, alpha with "l2".

    Example:
        >>> heads, target = np.array([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]]), np.array([1.0, 1.0])
        >>> task_relevance(heads, target).round(6).tolist(), task_relevance(heads, target, "l2").round(6).tolist()
        ([0.0, 0.0, 1.0], [0.333333, 0.333333, 0.666667])
    """
    checks.one_of("norm", norm, ("l1", "l2"))
    heads, target = np.asarray(source_heads, dtype=np.float64), np.asarray(target_head, dtype=np.float64)
    checks.matrix("source_heads", heads)
    checks.require(
        target.shape == heads.shape[:1],
        f"target_head must have one entry per row of source_heads: {len(heads)}, got shape {target.shape}.",
    )
    checks.finite("source_heads", heads)
    checks.finite("target_head", target)
    if alpha is not None:
        checks.positive("alpha", alpha)
        checks.require(norm == "l1", "alpha goes with norm='l1': got norm='l2'.")
        return _lasso(heads, target, alpha)
    shortest = np.linalg.pinv(heads) @ target
    left = float(np.linalg.norm(heads @ shortest - target))
    checks.require(
        left <= 1e-8 * max(1.0, float(np.linalg.norm(target))),
        f"target_head must lie in the span of source_heads: {left:.3g} of it does not; give alpha.",
    )
    return shortest if norm == "l2" else _basis_pursuit(heads, target, shortest)


def allocate(
    relevance: Array,
    total: float,
    power: int = 1,
    costs: Sequence[float] | Array | None = None,
    minimum: int = 0,
) -> Array:
    """Samples for each task, in proportion to a power of its relevance.

    The allocation of arXiv:2306.02556: power 1 for least-L1 coefficients, 2 for least-L2 ones. For fixed coefficients
    power 1 minimises the variance ``sum nu^2 / n``. With costs ``n ~ |nu|^power / sqrt(cost)``, which minimises it for
    what is spent (ours).

    Args:
        relevance: (t,) float.
        total: samples in all; with costs, what may be spent.
        power: 1 or 2.
        costs: (t,) float, positive: of a sample of each task.
        minimum: samples that every task gets.

    Returns:
        (t,) int64 with sum ``total``; with costs, at most ``total`` is spent.

    Raises:
        ValueError: relevance that is zero or not finite, a total below the minimum of all tasks.

    Example:
        >>> allocate(np.array([3.0, 1.0]), 40).tolist(), allocate(np.array([0.0, 0.0, 1.0]), 600, minimum=10).tolist()
        ([30, 10], [10, 10, 580])
    """
    nu = np.abs(np.asarray(relevance, dtype=np.float64))
    checks.require(nu.ndim == 1 and len(nu) > 0, f"relevance must be (t,), not empty: got shape {nu.shape}.")
    checks.finite("relevance", nu)
    checks.one_of("power", power, (1, 2))
    checks.at_least("minimum", minimum, 0)
    checks.require(bool(nu.any()), "relevance must not be zero everywhere: take a smaller alpha, or equal shares.")
    weights = nu**power
    if costs is None:
        least = minimum * len(nu)
        checks.require(total >= least, f"total must be at least {least}, the minimum of {len(nu)} tasks: got {total}.")
        exact = allocation.water_filling(weights, total, lower=minimum)
        return allocation.round_to_total(exact, int(total), minimum)
    price = np.asarray(costs, dtype=np.float64)
    checks.same_length("costs", price, "relevance", nu)
    checks.require(bool((price > 0).all()), f"costs must be positive: the lowest is {price.min()!r}.")
    floor = float(minimum * price.sum())
    checks.require(total >= floor, f"total must be at least {floor:g}, the minimum of all tasks: got {total}.")
    exact = allocation.water_filling(weights / np.sqrt(price), total, lower=minimum, costs=price)
    return allocation.round_to_budget(exact, total, price, minimum)


class ActiveTaskSampler:
    """Ask how many samples to draw from each task, tell the heads that came of it.

    The rounds of arXiv:2306.02556: equal shares first, then, after each ``tell``, what is missing for the allocation of
    the relevance so far; totals double until the last round has the whole.

    Args:
        n_tasks: source tasks.
        explore: samples of each task in the first round, and the least of every task.
        total: samples in all, those of the first round included.
        norm: "l1" with power 1, or "l2" with power 2.
        alpha: of the lasso; None asks for equality.
        rounds: after the first.

    Attributes:
        counts_: (t,) int64, samples asked for so far.
        relevance_: (t,) float64, of the last ``tell``.

    Raises:
        ValueError: a total below ``explore`` for every task, or numbers below 1.

    Example:
        >>> sampler = ActiveTaskSampler(2, explore=5, total=30)
        >>> first = sampler.ask()
        >>> sampler.tell(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([3.0, 1.0]))
        >>> first.tolist(), sampler.ask().tolist()
        ([5, 5], [18, 2])
    """

    def __init__(
        self,
        n_tasks: int,
        explore: int,
        total: int,
        norm: Literal["l1", "l2"] = "l1",
        *,
        alpha: float | None = None,
        rounds: int = 1,
    ) -> None:
        for name, value in (("n_tasks", n_tasks), ("explore", explore), ("rounds", rounds)):
            checks.at_least(name, value, 1)
        checks.one_of("norm", norm, ("l1", "l2"))
        checks.require(
            total >= n_tasks * explore, f"total must be at least n_tasks * explore = {n_tasks * explore}: got {total}."
        )
        self.n_tasks, self.explore, self.total = n_tasks, explore, total
        self.norm, self.alpha, self.rounds = norm, alpha, rounds
        self.counts_: Array = np.zeros(n_tasks, np.int64)
        self.relevance_: Array | None = None
        self._round, self._asked = 0, False

    def ask(self) -> Array:
        """Samples to draw now.

        Returns:
            (t,) int64.

        Raises:
            ValueError: when the last ones have not been told of, or all rounds are over.
        """
        checks.require(not self._asked, "ask() must come after tell(): heads of the last samples are missing.")
        checks.require(self._round <= self.rounds, f"all {self.rounds} rounds are over: {self.counts_.sum()} samples.")
        if self._round == 0:
            wanted = np.full(self.n_tasks, self.explore, np.int64)
        else:
            assert self.relevance_ is not None
            share = max(int(self.counts_.sum()), round(self.total * 2.0 ** (self._round - self.rounds)))
            power = 1 if self.norm == "l1" else 2
            # What was drawn cannot be given back: water over what is there already.
            exact = allocation.water_filling(np.abs(self.relevance_) ** power, share, lower=self.counts_)
            wanted = allocation.round_to_total(exact, share, self.counts_) - self.counts_
        self.counts_ = self.counts_ + wanted
        self._asked = True
        return wanted

    def tell(self, heads: Array, target_head: Array) -> None:
        """The heads that were learned, on one common basis.

        Args:
            heads: (k, t) float, of the source tasks.
            target_head: (k,) float.

        Raises:
            ValueError: before ``ask``, or as ``task_relevance``; a relevance that is zero everywhere.
        """
        checks.require(self._asked, "tell() must come after ask().")
        relevance = task_relevance(heads, target_head, self.norm, self.alpha)
        checks.same_length("heads", np.asarray(heads).T, "n_tasks", self.counts_)
        checks.require(bool(relevance.any()), "relevance must not be zero everywhere: take a smaller alpha.")
        self.relevance_ = relevance
        self._round, self._asked = self._round + 1, False


class LinearMultiTask:
    """The reference learner: tasks that are linear in a few common directions, by alternating least squares.

    The setting of arXiv:2306.02556, ``y = x B w_t + noise`` with B orthonormal; the start is a singular value
    decomposition.

    Args:
        k: directions.
        sweeps: of the alternation.

    Attributes:
        basis_: (d, k) float64, orthonormal columns.
        heads_: (k, t) float64, on that basis.

    Raises:
        ValueError: k or sweeps below 1.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> tasks = [(x := rng.standard_normal((50, 4)), x[:, 0] * slope) for slope in (1.0, -2.0)]
        >>> model = LinearMultiTask(1).fit([x for x, _ in tasks], [y for _, y in tasks])
        >>> np.abs(model.basis_[:, 0]).round(6).tolist()
        [1.0, 0.0, 0.0, 0.0]
    """

    basis_: Array
    heads_: Array

    def __init__(self, k: int, *, sweeps: int = 10) -> None:
        checks.at_least("k", k, 1)
        checks.at_least("sweeps", sweeps, 1)
        self.k, self.sweeps = k, sweeps

    def fit(self, X: Sequence[Array], y: Sequence[Array]) -> LinearMultiTask:
        """Learn basis and heads.

        Args:
            X: t arrays (n_t, d), the rows of each task.
            y: t arrays (n_t,).

        Returns:
            the learner itself.

        Raises:
            ValueError: no tasks, shapes that do not fit, fewer columns than k.
        """
        checks.require(len(X) > 0, "X must hold at least one task: got none.")
        checks.same_length("y", y, "X", X)
        for rows, values in zip(X, y, strict=True):
            checks.matrix("X", rows, columns=X[0].shape[1])
            checks.same_length("y", values, "X", rows)
        d = X[0].shape[1]
        checks.require(self.k <= d, f"k must be at most the {d} columns: got {self.k}.")
        grams = np.stack([rows.T @ rows for rows in X])
        moments = np.stack([rows.T @ values for rows, values in zip(X, y, strict=True)])
        sizes = np.array([len(rows) for rows in X])[:, None]
        basis = np.linalg.svd((moments / np.sqrt(sizes)).T, full_matrices=False)[0][:, : self.k]
        basis = np.linalg.qr(np.pad(basis, ((0, 0), (0, self.k - basis.shape[1]))))[0]
        for _ in range(self.sweeps):
            heads = _heads(grams, moments, basis)
            whole = np.einsum("ti,tj,tab->aibj", heads, heads, grams).reshape(d * self.k, d * self.k)
            right = (moments.T @ heads).reshape(-1)
            basis = np.linalg.qr(np.linalg.lstsq(whole, right, rcond=None)[0].reshape(d, self.k))[0]
        self.basis_, self.heads_ = basis, _heads(grams, moments, basis).T
        return self

    def head(self, X: Array, y: Array) -> Array:
        """The head of another task on the basis.

        Args:
            X: (n, d) float.
            y: (n,) float.

        Returns:
            (k,) float64.
        """
        found: Array = np.linalg.lstsq(X @ self.basis_, y, rcond=None)[0]
        return found


def _heads(grams: Array, moments: Array, basis: Array) -> Array:
    """(t, k), least squares on the basis."""
    inner = basis.T @ grams @ basis
    heads: Array = np.einsum("tij,tj->ti", np.linalg.pinv(inner, hermitian=True), moments @ basis)
    return heads


def _lasso(heads: Array, target: Array, alpha: float) -> Array:
    """Coordinate descent down a path of penalties: a small one alone would crawl, its start decides the support."""
    squares = (heads**2).sum(0)
    used = np.flatnonzero(squares > 0).tolist()
    nu, residual = np.zeros(heads.shape[1]), target.copy()
    largest = float(np.abs(heads.T @ target).max())
    path = np.geomspace(largest, alpha, 60)[1:] if 0 < alpha < largest else [alpha]
    for penalty in path:
        for _ in range(_ROUNDS):
            moved = 0.0
            for j in used:
                pull = float(heads[:, j] @ residual) + squares[j] * nu[j]
                new = np.sign(pull) * max(abs(pull) - penalty, 0.0) / squares[j]
                if new != nu[j]:
                    residual -= (new - nu[j]) * heads[:, j]
                    moved = max(moved, abs(new - nu[j]))
                    nu[j] = new
            if moved <= _TOLERANCE:
                break
    return nu


def _basis_pursuit(heads: Array, target: Array, start: Array) -> Array:
    """Least L1 norm with equality, by alternating projection and shrinkage, then solved on the support that is left."""
    scale = float(np.abs(start).max())
    if scale == 0:
        return start
    inverse = np.linalg.pinv(heads)
    back = np.eye(heads.shape[1]) - inverse @ heads  # onto the directions that change nothing
    fixed = start / scale
    z, u, rho = fixed.copy(), np.zeros_like(fixed), 10.0
    for _ in range(_ROUNDS):
        x = fixed + back @ (z - u)
        old, v = z, x + u
        z = np.sign(v) * np.maximum(np.abs(v) - 1 / rho, 0) / (1 + _RIDGE / rho)
        u = u + x - z
        if max(float(np.abs(x - z).max()), float(np.abs(z - old).max())) <= _TOLERANCE:
            break
    support = np.abs(z) > 1e-7
    nu = np.zeros_like(z)
    nu[support] = np.linalg.lstsq(heads[:, support], target / scale, rcond=None)[0]
    met = float(np.linalg.norm(heads @ nu - target / scale)) <= 1e-8 * max(1.0, float(np.linalg.norm(target / scale)))
    same = np.array_equal(np.sign(nu), np.sign(np.where(support, z, 0)))
    return scale * (nu if met and same else x)
