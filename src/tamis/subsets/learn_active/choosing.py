"""The best of a finite family: least regret against the best policy of each class, alone or as a mixture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tamis import checks
from tamis.randomness import child_seed
from tamis.subsets.learn_active.simulation import Policy, TransductiveProblem

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class RegretChoice:
    """Which policy, or which mixture.

    Args:
        weights: (p,) float64, 1 for the chosen policy, or shares of a mixture.
        max_regret: the greatest loss beyond the best of a class, over classes.
        regrets: (p, k) float64, of every policy in every class.

    Example:
        >>> RegretChoice(np.array([0.2, 0.8]), 0.1, np.zeros((2, 3))).index
        1
    """

    weights: Array
    max_regret: float
    regrets: Array

    @property
    def index(self) -> int:
        """The policy with the most weight."""
        return int(self.weights.argmax())


def loss_table(
    problem: TransductiveProblem, policies: Sequence[Policy], theta: Array, *, rollouts: int = 1000, seed: int = 0
) -> Array:
    """Mean losses of policies on problems, all with the same answers and luck.

    Args:
        problem: what is asked.
        policies: p of them.
        theta: (k, s, d) float, s problems in each of k classes.
        rollouts: runs of each policy on each problem.
        seed: of the runs; report on another one than you choose by.

    Returns:
        (p, k, s) float64.

    Raises:
        ValueError: for theta of another shape or no rollouts.

    Example:
        >>> from tamis.subsets.learn_active.policies import IndexPolicy
        >>> from tamis.subsets.learn_active.simulation import BanditProblem
        >>> loss_table(BanditProblem(2, 20), [IndexPolicy()], np.array([[[5.0, 0.0]]]), rollouts=50).tolist()
        [[[0.0]]]
    """
    checks.at_least("rollouts", rollouts, 1)
    truth = torch.from_numpy(np.array(theta, dtype=np.float32))
    checks.require(truth.ndim == 3, f"theta must be (classes, problems, d): got shape {tuple(truth.shape)}.")
    classes, count, _ = truth.shape
    runs = truth.flatten(0, 1).repeat_interleave(rollouts, 0)
    found = []
    for policy in policies:
        with torch.no_grad():
            losses = problem.run(policy, runs, seed=child_seed(seed, "table") % 2**31).losses
        found.append(losses.double().view(classes, count, rollouts).mean(2).numpy())
    return np.array(found)


def minimax_regret(table: Array, *, mixture: bool = False) -> RegretChoice:
    """Choose the policy whose greatest regret is least: ``min_p max_k (max_s loss - best of the class)``.

    Args:
        table: (p, k, s) float, losses of policies on the problems of classes.
        mixture: allow a policy to be drawn at the start of each run, which is never worse; solved exactly.

    Returns:
        the choice; of equal policies the first.

    Raises:
        ValueError: for another shape or numbers that are not finite.

    Example:
        >>> table = np.array([[0.1, 0.5], [0.2, 0.3], [0.4, 0.25]])[:, :, None]
        >>> minimax_regret(table).index, minimax_regret(table, mixture=True).weights.round(4).tolist()
        (1, [0.1667, 0.8333, 0.0])
    """
    losses = np.asarray(table, dtype=np.float64)
    checks.require(
        losses.ndim == 3 and losses.size > 0, f"table must be (policies, classes, problems): got shape {losses.shape}."
    )
    checks.finite("table", losses)
    best = losses.max(2).min(0)
    regrets = losses.max(2) - best
    if not mixture:
        worst = regrets.max(1)
        weights = np.zeros(len(losses))
        weights[worst.argmin()] = 1.0
        return RegretChoice(weights, float(worst.min()), regrets)
    weights, value = _minimised((losses - best[None, :, None]).reshape(len(losses), -1))
    return RegretChoice(weights, value, regrets)


def _minimised(game: Array) -> tuple[Array, float]:
    """Shares of the rows with the least greatest column mean, by the simplex method with Bland's rule."""
    shift = 1.0 - game.min()
    matrix = (game + shift).T  # columns' constraints: matrix @ x <= 1, x >= 0, the sum of x greatest
    rows, columns = matrix.shape
    tableau = np.zeros((rows + 1, columns + rows + 1))
    tableau[:rows, :columns], tableau[:rows, columns:-1], tableau[:rows, -1] = matrix, np.eye(rows), 1.0
    tableau[-1, :columns] = -1.0
    basis = np.arange(columns, columns + rows)
    while True:
        entering = np.flatnonzero(tableau[-1, :-1] < -1e-12)
        if len(entering) == 0:
            break
        column = int(entering[0])
        able = np.flatnonzero(tableau[:rows, column] > 1e-12)
        ratios = tableau[able, -1] / tableau[able, column]
        tied = able[ratios <= ratios.min() + 1e-15]
        row = int(tied[basis[tied].argmin()])
        tableau[row] /= tableau[row, column]
        others = np.arange(rows + 1) != row
        tableau[others] -= np.outer(tableau[others, column], tableau[row])
        basis[row] = column
    x = np.zeros(columns + rows)
    x[basis] = tableau[:rows, -1]
    shares = np.maximum(x[:columns], 0.0)  # rounding may leave a little below 0
    total = shares.sum()
    return shares / total, float(1 / total - shift)
