"""Which tasks a benchmark can do without: the most predictable one goes, and all is measured anew."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from tamis import checks
from tamis.evaluation.mmteb.regression import Estimator, Predictability, measured, warn_of_noise
from tamis.evaluation.mmteb.tables import ScoreTable, by_task, read_scores

Array = np.ndarray[Any, Any]
Groups = Mapping[Any, Hashable | Collection[Hashable]] | Sequence[Hashable | Collection[Hashable]]


@dataclass(frozen=True)
class TaskStep:
    """One look at the tasks that were left.

    Args:
        removed: the task that went, None at the last look.
        value: its correlation; at the last look that of the best that could have gone, NaN when none could.
        found: how predictable each task was.
    """

    removed: Hashable | None
    value: float
    found: Predictability


@dataclass(frozen=True)
class TaskSelection:
    """The tasks of a smaller benchmark.

    Args:
        kept: names, in the order of the table.
        removed: names, the first to go first.
        trace: every look at the tasks, the last of which removed none.
    """

    kept: list[Hashable]
    removed: list[Hashable]
    trace: list[TaskStep]


def select_tasks(
    scores: Any,
    *,
    threshold: float = 0.8,
    estimator: Estimator | None = None,
    ridge: float = 0.0,
    metric: Literal["spearman", "pearson"] = "spearman",
    keep: Iterable[Hashable] = (),
    groups: Groups | None = None,
    models: Sequence[Hashable] | None = None,
    tasks: Sequence[Hashable] | None = None,
) -> TaskSelection:
    """Drop tasks that the others predict, the most predictable first, until none reaches the threshold.

    The procedure of arXiv:2502.13595, section 2.3: linear regression from the other tasks, each model predicted by the
    others, Spearman over models. The paper takes 0.8, and 0.95 for English. When not to use: with fewer models than
    tasks nothing looks predictable; give a ridge penalty there.

    Args:
        scores: (n, t) array, or data frame with a row per model and a column per task; none missing.
        threshold: correlation from which on a task can go; above 1 none goes.
        estimator: with ``fit`` and ``predict``, copied before each fit; None for linear regression.
        ridge: penalty of the linear regression, relative to the mean sum of squares of a task.
        metric: what is held against the threshold; equal values go by name.
        keep: tasks that stay whatever they are.
        groups: per task its group, or several (its type, and its type within its language); the last task of a group
            stays. By name, or in the order of the tasks.
        models: n names, of an array.
        tasks: t names, of an array.

    Returns:
        kept and removed tasks, and the evidence.

    Raises:
        ValueError: for one model, missing scores, unknown tasks in ``keep`` or ``groups``, or a penalty below 0.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> a, b = rng.random((2, 20))
        >>> select_tasks(np.stack([a, 2 * a + 1, b], 1), tasks=["a", "also a", "b"]).kept
        ['also a', 'b']
    """
    table = read_scores(scores, models, tasks)
    checks.one_of("metric", metric, ("spearman", "pearson"))
    checks.require(not np.isnan(threshold), "threshold must be a number: got NaN.")
    checks.at_least("ridge", ridge, 0.0)
    checks.require(estimator is None or ridge == 0, "ridge is asked only of the built-in regression: leave it out.")
    staying = set(keep)
    unknown = next((name for name in staying if name not in table.tasks), None)
    checks.require(unknown is None, f"keep must name tasks of scores: {checks.shown(unknown)} is none of them.")
    of = _groups(groups, table.tasks)
    _warn_of_constants(table)
    if estimator is None and ridge == 0:
        warn_of_noise(table)
    removed: list[Hashable] = []
    trace: list[TaskStep] = []
    left = list(range(len(table.tasks)))
    while len(left) > 1:
        names = [table.tasks[t] for t in left]
        found = measured(ScoreTable(table.values[:, left], table.models, names), estimator, ridge)
        values = found.spearman if metric == "spearman" else found.pearson
        sizes = Counter(group for t in left for group in of[t])
        free = [
            place
            for place, t in enumerate(left)
            if names[place] not in staying and not np.isnan(values[place]) and all(sizes[g] > 1 for g in of[t])
        ]
        best = min(free, key=lambda place: (-values[place], str(names[place])), default=None)
        value = float("nan") if best is None else float(values[best])
        if best is None or value < threshold:
            trace.append(TaskStep(None, value, found))
            break
        trace.append(TaskStep(names[best], value, found))
        removed.append(names[best])
        del left[best]
    return TaskSelection([table.tasks[t] for t in left], removed, trace)


def _groups(groups: Groups | None, tasks: list[Hashable]) -> list[frozenset[Hashable]]:
    """The groups of every task."""
    if groups is None:
        return [frozenset()] * len(tasks)
    return [frozenset(e if isinstance(e, (list, tuple, set, frozenset)) else (e,)) for e in by_task(groups, tasks)]


def _warn_of_constants(table: ScoreTable) -> None:
    flat = [name for name, column in zip(table.tasks, table.values.T, strict=True) if np.ptp(column) == 0]
    if flat:
        warnings.warn(
            f"{len(flat)} tasks give every model one score and rank none, {checks.shown(flat[0])} first: no task is "
            "predicted by them, and they count as not predictable.",
            stacklevel=3,
        )
