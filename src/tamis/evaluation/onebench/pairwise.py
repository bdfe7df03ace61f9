"""From results in any metric to who beat whom: only results on one sample are ever compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from tamis import checks

Array = np.ndarray[Any, Any]
Tie = Literal["both", "half", "drop"]

_BLOCK = 2**24  # comparisons at once


def to_pairwise(
    values: Array | Sequence[Sequence[float]],
    *,
    tie: Tie = "both",
    higher_is_better: bool | Array | Sequence[bool] = True,
    weights: Array | None = None,
) -> Array:
    """Count how often each model did better than each other on a sample (section 3.2 of arXiv:2412.06745).

    Args:
        values: (m, s) float, result of every model on every sample; NaN where it did not run.
        tie: what equal results count: a win for "both", as in the official code, "half" a win for each, or nothing.
        higher_is_better: one for all samples, or (s,) bool.
        weights: (s,) or (s, r) float, how often each sample counts, for r tables at once; all once by default.

    Returns:
        (m, m) float64, wins of the row's model over the column's; (m, m, r) for r sets of weights.

    Raises:
        ValueError: for another shape or infinite results.

    Example:
        >>> to_pairwise([[0.9, 1.0, 3.0], [0.4, 1.0, float("nan")]]).tolist()
        [[0.0, 2.0], [1.0, 0.0]]
    """
    table = oriented(values, higher_is_better)
    checks.one_of("tie", tie, ("both", "half", "drop"))
    models, samples = table.shape
    counts = np.ones((samples, 1)) if weights is None else np.asarray(weights, dtype=np.float64).reshape(samples, -1)
    wins = np.zeros((models, models, counts.shape[1]))
    share = {"both": 1.0, "half": 0.5, "drop": 0.0}[tie]
    step = max(1, _BLOCK // models)
    for start in range(0, samples, step):
        part, count = table[:, start : start + step], counts[start : start + step].astype(np.float32)
        for model in range(models):
            # float32 counts are exact up to 2**24 samples a block.
            wins[model] += (part[model] > part).astype(np.float32) @ count
            if share:
                wins[model] += share * ((part[model] == part).astype(np.float32) @ count)
    wins[np.arange(models), np.arange(models)] = 0.0
    return wins if weights is not None and np.ndim(weights) == 2 else wins[:, :, 0]


def results_table(
    models: Sequence[Any] | Array, samples: Sequence[Any] | Array, values: Sequence[float] | Array
) -> tuple[Array, list[Any], list[Any]]:
    """A long table, one row per result, as a matrix of models and samples.

    Args:
        models: (r,) names or numbers.
        samples: (r,) names or numbers.
        values: (r,) float; NaN is as good as no row.

    Returns:
        values (m, s) float64 with NaN where nothing is, names of the models and of the samples, in the order in which
        they come first.

    Raises:
        ValueError: for columns of other lengths, no rows, or a model that has two results on one sample.

    Example:
        >>> results_table(["a", "b", "a"], ["x", "x", "y"], [1.0, 2.0, 3.0])[0].tolist()
        [[1.0, 3.0], [2.0, nan]]
    """
    checks.same_length("models", models, "values", values)
    checks.same_length("samples", samples, "values", values)
    checks.require(len(values) > 0, "values must hold at least one result.")
    rows, row_names = _numbered(models)
    columns, column_names = _numbered(samples)
    place = rows * len(column_names) + columns
    _, first, counts = np.unique(place, return_index=True, return_counts=True)
    if counts.max() > 1:
        twice = int(first[counts.argmax()])
        raise ValueError(
            f"a model must have one result per sample: {models[twice]!r} has {counts.max()} on {samples[twice]!r}; "
            "average them first."
        )
    table = np.full((len(row_names), len(column_names)), np.nan)
    table.flat[place] = np.asarray(values, dtype=np.float64)
    return table, row_names, column_names


def oriented(
    values: Array | Sequence[Sequence[float]], higher_is_better: bool | Array | Sequence[bool] = True
) -> Array:
    """Results as float64 in which more is better.

    Args:
        values: (m, s) float.
        higher_is_better: one for all samples, or (s,) bool.

    Returns:
        (m, s) float64.

    Raises:
        ValueError: for another shape, fewer than two models, or infinite results.

    Example:
        >>> oriented([[1.0, 2.0], [3.0, 4.0]], [True, False]).tolist()
        [[1.0, -2.0], [3.0, -4.0]]
    """
    table = np.array(values, dtype=np.float64)
    checks.matrix("values", table)
    checks.require(len(table) >= 2, f"values must be of at least 2 models: got {len(table)}.")
    checks.require(table.shape[1] >= 1, "values must be of at least one sample.")
    checks.require(not bool(np.isinf(table).any()), "values must be finite or NaN (did not run): got infinity.")
    up = np.asarray(higher_is_better, dtype=bool)
    if up.ndim > 0:
        checks.require(
            up.shape == (table.shape[1],),
            f"higher_is_better must have one entry per sample: {table.shape[1]}, got {up.size}.",
        )
    return np.where(up, table, -table)


def _numbered(names: Sequence[Any] | Array) -> tuple[Array, list[Any]]:
    """Numbers of names in the order in which they come first."""
    known: dict[Any, int] = {}
    listed = names.tolist() if isinstance(names, np.ndarray) else names
    numbers = np.fromiter((known.setdefault(name, len(known)) for name in listed), np.int64, len(listed))
    return numbers, list(known)
