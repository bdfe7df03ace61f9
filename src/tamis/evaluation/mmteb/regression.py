"""Predicting a task from the others: one linear regression per task and left-out model, without fitting that many.

Leaving a model out is exact in closed form. With ``P`` the part of the identity that the regression leaves unexplained,
the error on a left-out model is its residual over its diagonal entry, ``(P y)_i / P_ii``. That holds for least squares
of any rank as long as no model has a direction of its own, for a ridge penalty always, and, with the pseudo-inverse of
the Gram matrix as ``P``, for the shortest solution where there are more tasks than models.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from tamis import checks
from tamis.evaluation.mmteb.tables import ScoreTable, read_scores
from tamis.rank_correlation import spearman

Array = np.ndarray[Any, Any]
_DIGITS = 9  # of a standard deviation: what differs by less is a tie


class Estimator(Protocol):
    """Anything with ``fit`` and ``predict``, as scikit-learn's regressions have them.

    Example:
        >>> class Mean:
        ...     def fit(self, X, y): self.mean = y.mean()
        ...     def predict(self, X): return [self.mean] * len(X)
        >>> task_predictability([[1, 0], [2, 1], [3, 0]], estimator=Mean()).predictions.tolist()
        [[2.5, 0.5], [2.0, 0.0], [1.5, 0.5]]
    """

    def fit(self, X: Array, y: Array, /) -> Any:
        """Learn from other tasks' scores.

        Args:
            X: (n, t) float64, a row per model.
            y: (n,) float64, scores on the task.

        Returns:
            nothing that is used.
        """
        ...

    def predict(self, X: Array, /) -> Any:
        """Scores on the task.

        Args:
            X: (1, t) float64, the model that was left out.

        Returns:
            one number, in any shape.
        """
        ...


@dataclass(frozen=True)
class Predictability:
    """How well each task follows from the others.

    Args:
        tasks: t names.
        spearman: (t,) correlation of ranks of observed and predicted scores, NaN for a constant task.
        pearson: (t,) likewise of values.
        mse: (t,) mean squared error in units of the observed variance.
        predictions: (n, t) the score of every model, predicted from the other models.
    """

    tasks: list[Hashable]
    spearman: Array
    pearson: Array
    mse: Array
    predictions: Array


def task_predictability(
    scores: Any,
    *,
    estimator: Estimator | None = None,
    ridge: float = 0.0,
    models: Sequence[Hashable] | None = None,
    tasks: Sequence[Hashable] | None = None,
) -> Predictability:
    """Predict every task's scores from the other tasks, each model by a regression on the other models.

    The measure of arXiv:2502.13595, section 2.3, with its regression as default. When not to use: least squares on
    fewer models than tasks fits noise; give a ridge penalty there.

    Args:
        scores: (n, t) array, or data frame with a row per model and a column per task; none missing.
        estimator: with ``fit`` and ``predict``, copied before each fit; None for linear regression.
        ridge: penalty of the linear regression, relative to the mean sum of squares of a task; 0 for none.
        models: n names, of an array.
        tasks: t names, of an array.

    Returns:
        correlations, errors and predictions.

    Raises:
        ValueError: for one model, one task, missing scores, a penalty below 0, or one given beside an estimator.

    Example:
        >>> a, b = np.random.default_rng(0).random((2, 20))
        >>> task_predictability(np.stack([a, 2 * a, b], 1), tasks=["a", "twice a", "b"]).spearman[:2].tolist()
        [1.0, 1.0]
    """
    table = read_scores(scores, models, tasks)
    checks.at_least("ridge", ridge, 0.0)
    checks.require(estimator is None or ridge == 0, "ridge is asked only of the built-in regression: leave it out.")
    checks.require(len(table.tasks) > 1, "scores must have at least two tasks, to predict one by the others: got one.")
    if estimator is None and ridge == 0:
        warn_of_noise(table)
    return measured(table, estimator, ridge)


def warn_of_noise(table: ScoreTable) -> None:
    """Say that the regression has as many unknowns as equations, and what helps.

    Args:
        table: models and tasks.

    Example:
        >>> warn_of_noise(read_scores(np.eye(5)[:, :3], None, None))
    """
    models, tasks = len(table.models), len(table.tasks)
    if models < tasks + 2:
        warnings.warn(
            f"scores have {tasks} tasks and only {models} models: least squares is under-determined; give ridge=0.1, "
            f"an estimator that reduces dimensions, or at least {tasks + 2} models.",
            stacklevel=3,
        )


def measured(table: ScoreTable, estimator: Estimator | None, ridge: float) -> Predictability:
    """Predictions of a table that was checked, and how good they are; see ``task_predictability``.

    Args:
        table: without missing scores.
        estimator: likewise.
        ridge: likewise.

    Returns:
        correlations, errors and predictions.

    Example:
        >>> measured(read_scores([[1, 0], [2, 1], [3, 0]], None, None), None, 1.0).predictions.round(2).tolist()
        [[2.71, 0.8], [2.0, 0.0], [1.29, 0.8]]
    """
    values, count = table.values, len(table.tasks)
    predictions = np.empty_like(values)
    figures = np.full((3, count), np.nan)
    for task in range(count):
        others, observed = np.delete(values, task, axis=1), values[:, task]
        if estimator is None:
            predictions[:, task] = left_out(others, observed, ridge)
        else:
            predictions[:, task] = _fitted(others, observed, estimator)
        figures[:, task] = _figures(observed, predictions[:, task])
    order, line, error = figures
    return Predictability(list(table.tasks), order, line, error, predictions)


def left_out(rows: Array, targets: Array, ridge: float = 0.0) -> Array:
    """The target of every row, as a linear regression on the other rows predicts it.

    Args:
        rows: (n, d) float.
        targets: (n,) float.
        ridge: penalty, relative to the mean sum of squares of a centred column.

    Returns:
        (n,) float64.

    Example:
        >>> left_out(np.array([[0.0], [1.0], [2.0]]), np.array([0.0, 1.0, 3.0])).round(4).tolist()
        [-1.0, 1.5, 2.0]
    """
    n = len(rows)
    centred = rows - rows.mean(0)
    left, strengths, _ = np.linalg.svd(centred, full_matrices=False)
    used = strengths > strengths.max(initial=0.0) * max(rows.shape) * np.finfo(np.float64).eps
    left, strengths = left[:, used], strengths[used]
    penalty = ridge * float((strengths**2).sum()) / max(1, rows.shape[1])
    centring = np.eye(n) - 1 / n
    if penalty > 0:
        unexplained = centring - (left * (strengths**2 / (strengths**2 + penalty))) @ left.T
    elif len(strengths) == n - 1:
        unexplained = (left / strengths**2) @ left.T
    else:
        unexplained = centring - left @ left.T
    own = np.diag(unexplained)
    # A row with a direction of its own: nothing is left of it, and what the others say must be asked of them.
    alone = (own < 1e-10 * own.max()) & (penalty == 0)
    errors = np.divide(unexplained @ (targets - targets.mean()), own, out=np.zeros(n), where=~alone)
    predicted: Array = targets - errors
    for row in np.flatnonzero(alone):
        x, y = np.delete(rows, row, axis=0), np.delete(targets, row)
        slopes = np.linalg.lstsq(x - x.mean(0), y - y.mean(), rcond=None)[0]
        predicted[row] = y.mean() + (rows[row] - x.mean(0)) @ slopes
    return predicted


def _fitted(rows: Array, targets: Array, estimator: Estimator) -> Array:
    predicted = np.empty(len(rows))
    for row in range(len(rows)):
        model = copy.deepcopy(estimator)
        model.fit(np.delete(rows, row, axis=0), np.delete(targets, row))
        said = np.asarray(model.predict(rows[row : row + 1]), dtype=np.float64).reshape(-1)
        checks.require(
            said.shape == (1,) and bool(np.isfinite(said).all()),
            f"estimator must predict one finite number per row: got {checks.shown(said)}.",
        )
        predicted[row] = said[0]
    return predicted


def _figures(observed: Array, predicted: Array) -> tuple[float, float, float]:
    """Spearman, Pearson and standardised squared error; NaN for a task without variance."""
    spread = observed.std()
    if spread <= 1e-12 * np.abs(observed).max(initial=0.0):
        return float("nan"), float("nan"), float("nan")
    one, other = ((x - observed.mean()) / spread for x in (observed, predicted))
    mse = float(((one - other) ** 2).mean())
    one, other = one.round(_DIGITS), other.round(_DIGITS)
    a, b = one - one.mean(), other - other.mean()
    norm = float(np.sqrt((a @ a) * (b @ b)))
    return spearman(one, other), float(a @ b) / norm if norm > 0 else float("nan"), mse
