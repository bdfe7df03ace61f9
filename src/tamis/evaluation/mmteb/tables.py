"""Tables of scores: models by tasks, from an array with names or from a data frame."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tamis import checks
from tamis.results import as_array

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class ScoreTable:
    """Scores with the names of their rows and columns.

    Args:
        values: (n, t) float64, a copy; NaN where a score is missing.
        models: n names.
        tasks: t names.
    """

    values: Array
    models: list[Hashable]
    tasks: list[Hashable]


def read_scores(
    scores: Any, models: Sequence[Hashable] | None, tasks: Sequence[Hashable] | None, *, missing: bool = False
) -> ScoreTable:
    """Models and tasks with their scores.

    Args:
        scores: (n, t) array, or a data frame (pandas or alike) with a row per model and a column per task.
        models: n names; left out, the index of the data frame, or 0 .. n - 1.
        tasks: t names; left out, the columns of the data frame, or 0 .. t - 1.
        missing: whether NaN will do.

    Returns:
        the table.

    Raises:
        ValueError: for fewer than two models, no tasks, names that do not fit, or scores that are missing or infinite.

    Example:
        >>> read_scores([[0.5, 0.1], [0.7, 0.2]], ["a", "b"], None).tasks
        [0, 1]
    """
    # A data frame is told by what it has, so that none of the packages that make them is needed.
    framed = hasattr(scores, "columns") and hasattr(scores, "to_numpy")
    try:
        values = np.array(scores.to_numpy() if framed else as_array(scores), dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError("scores must be numbers, a row per model and a column per task: got something else.") from None
    checks.matrix("scores", values)
    checks.require(len(values) > 1, "scores must have at least two models (rows): got one.")
    checks.require(values.shape[1] > 0, "scores must have at least one task (column): got none.")
    if framed and models is None:
        models = list(getattr(scores, "index", range(len(values))))
    if framed and tasks is None:
        tasks = list(scores.columns)
    rows: list[Hashable] = list(range(len(values)) if models is None else models)
    columns: list[Hashable] = list(range(values.shape[1]) if tasks is None else tasks)
    for name, named, size, what in (
        ("models", rows, len(values), "row"),
        ("tasks", columns, values.shape[1], "column"),
    ):
        checks.require(
            len(named) == size, f"{name} must name each {what} of scores: {size} {what}s, {len(named)} names."
        )
        twice = next((key for key in named if named.count(key) > 1), None)
        checks.require(twice is None, f"{name} must have distinct names: {checks.shown(twice)} stands twice.")
    if missing:
        checks.require(not np.isinf(values).any(), "scores must not be infinite; NaN stands for a missing one.")
    else:
        for i, j in np.argwhere(~np.isfinite(values))[:1]:
            raise ValueError(
                f"scores must be finite: model {checks.shown(rows[i])} has {values[i, j]} on task "
                f"{checks.shown(columns[j])}; leave out that task or that model."
            )
    return ScoreTable(values, rows, columns)


def by_task(groups: Mapping[Any, Any] | Sequence[Any], tasks: Sequence[Hashable]) -> list[Any]:
    """What is said of every task, by name or in order.

    Args:
        groups: task -> entry, or one entry per task.
        tasks: t names.

    Returns:
        t entries.

    Raises:
        ValueError: for a task without an entry, or an entry without a task.

    Example:
        >>> by_task({"b": 1, "a": 2}, ["a", "b"])
        [2, 1]
    """
    if not isinstance(groups, Mapping):
        checks.require(
            len(groups) == len(tasks), f"groups must have one entry per task: {len(tasks)} tasks, {len(groups)} groups."
        )
        return list(groups)
    missing = next((name for name in tasks if name not in groups), None)
    checks.require(missing is None, f"groups must name every task: {checks.shown(missing)} has none.")
    foreign = next((name for name in groups if name not in tasks), None)
    checks.require(foreign is None, f"groups must name tasks of scores: {checks.shown(foreign)} is none of them.")
    return [groups[name] for name in tasks]
