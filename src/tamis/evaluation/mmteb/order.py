"""The order of models: Borda points over unlike tasks, and how far two benchmarks agree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from tamis import checks
from tamis.evaluation.mmteb.tables import by_task, read_scores
from tamis.randomness import Seed, as_generator
from tamis.rank_correlation import average_ranks, kendall, spearman
from tamis.results import as_array

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Borda:
    """Models in order.

    Args:
        models: n names, in the order of the table.
        tasks: names of the tasks that count.
        points: (n, t) float64, one for every model beaten on a task and half a one for every tie.
        totals: (n,) sum over tasks.
        ranks: (n,) int64 from 1; equal totals share the best rank.
        mean: (n,) mean score over tasks, NaN where one is missing.
        mean_of_groups: (n,) mean over groups of the mean within each; the mean where there are no groups.
    """

    models: list[Hashable]
    tasks: list[Hashable]
    points: Array
    totals: Array
    ranks: Array
    mean: Array
    mean_of_groups: Array


@dataclass(frozen=True)
class Agreement:
    """How far two benchmarks agree on systems.

    Args:
        spearman: of the mean scores.
        kendall: tau-b, likewise.
        max_abs_diff: the largest change of a system's mean score.
        mean_abs_diff: the mean change.
        spearman_interval: percentile bootstrap.
        kendall_interval: likewise.
        defined: share of the resamples that have an order; the intervals speak of these.
    """

    spearman: float
    kendall: float
    max_abs_diff: float
    mean_abs_diff: float
    spearman_interval: tuple[float, float]
    kendall_interval: tuple[float, float]
    defined: float


def borda(
    scores: Any,
    *,
    missing: Literal["zero", "drop"] | None = None,
    groups: Mapping[Any, Hashable] | Sequence[Hashable] | None = None,
    models: Sequence[Hashable] | None = None,
    tasks: Sequence[Hashable] | None = None,
) -> Borda:
    """Rank models by Borda points: on every task, as many as there are models with a lower score.

    The count of arXiv:2502.13595 as in the official code: ties share the mean of their places, equal sums the best
    rank. When not to use: points say who is ahead, not by how much.

    Args:
        scores: (n, t) array, or data frame with a row per model and a column per task.
        missing: what NaN is: "zero" gives no points for it and leaves the others theirs, "drop" leaves out the tasks
            that a model lacks; None refuses it.
        groups: per task its group, for ``mean_of_groups``; by name, or in the order of the tasks.
        models: n names, of an array.
        tasks: t names, of an array.

    Returns:
        points, totals, ranks and means.

    Raises:
        ValueError: for missing scores without ``missing``, or tasks none of which every model has.

    Example:
        >>> borda([[0.9, 0.5, 0.7], [0.8, 0.6, 0.7], [0.7, 0.4, 0.9]]).totals.tolist()
        [3.5, 3.5, 2.0]
    """
    checks.one_of("missing", missing, (None, "zero", "drop"))
    table = read_scores(scores, models, tasks, missing=True)
    values, names = table.values, list(table.tasks)
    lacking = np.isnan(values)
    for row, column in np.argwhere(lacking)[: missing is None]:
        raise ValueError(
            f"scores must be there: model {checks.shown(table.models[row])} has none on task "
            f"{checks.shown(names[column])}; say missing='zero' or missing='drop'."
        )
    labels = None if groups is None else by_task(groups, names)
    if missing == "drop":
        whole = np.flatnonzero(~np.asarray(lacking.any(0))).tolist()
        checks.require(bool(whole), "missing='drop' leaves no task: every one lacks a model; say missing='zero'.")
        values, lacking = values[:, whole], lacking[:, whole]
        names = [names[task] for task in whole]
        labels = None if labels is None else [labels[task] for task in whole]
    points = np.zeros(values.shape)
    for task in range(values.shape[1]):
        there = np.flatnonzero(~lacking[:, task])
        if len(there):
            points[there, task] = average_ranks(values[there, task]) - 1 + len(values) - len(there)
    totals = points.sum(1)
    ranks = 1 + np.searchsorted(np.sort(-totals), -totals)
    mean = values.mean(1)
    grouped = mean if labels is None else _mean_of_groups(values, labels)
    return Borda(list(table.models), names, points, totals, ranks.astype(np.int64), mean, grouped)


def rank_agreement(
    full: Any, small: Any, *, samples: int = 1000, confidence: float = 0.95, seed: Seed = 0
) -> Agreement:
    """How far a small benchmark orders systems as the full one does.

    The comparison of arXiv:2502.13595, with bootstrap intervals. When not to use: rank correlation alone, for few
    systems that lie far apart; look at the differences too.

    Args:
        full: (n,) a score per system, or (n, q) one per system and query; a mapping or a pandas object goes by names.
        small: likewise, the same systems; scores per query may be of other or fewer queries.
        samples: resamples: of queries where both have them, paired where they are equally many, else of systems.
        confidence: of the two-sided intervals.
        seed: seed or generator.

    Returns:
        correlations with intervals, and the changes of the scores.

    Raises:
        ValueError: for fewer than two systems, other systems, or scores that are not finite.

    Example:
        >>> found = rank_agreement([0.1, 0.2, 0.3, 0.4], [0.2, 0.3, 0.5, 0.4])
        >>> round(found.spearman, 4), round(found.kendall, 4), round(found.max_abs_diff, 4)
        (0.8, 0.6667, 0.2)
    """
    checks.at_least("samples", samples, 1)
    checks.require(0 < confidence < 1, f"confidence must lie between 0 and 1: got {confidence!r}.")
    (one, names), (other, others) = _systems("full", full), _systems("small", small)
    if names is not None and others is not None:
        checks.require(
            Counter(names) == Counter(others) and len(set(names)) == len(names),
            "small must hold the systems of full, each once: their names differ.",
        )
        place = {name: i for i, name in enumerate(others)}
        other = other[[place[name] for name in names]]
    checks.same_length("small", other, "full", one)
    checks.at_least("the number of systems", len(one), 2)
    before, after = one.mean(1), other.mean(1)
    change = np.abs(after - before)
    drawn = _resamples(one, other, samples, as_generator(seed))
    ordered = np.array([spearman(a, b) for a, b in drawn])
    paired = np.array([kendall(a, b) for a, b in drawn])
    return Agreement(
        spearman=spearman(before, after),
        kendall=kendall(before, after),
        max_abs_diff=float(change.max()),
        mean_abs_diff=float(change.mean()),
        spearman_interval=_interval(ordered, confidence),
        kendall_interval=_interval(paired, confidence),
        defined=float((~np.isnan(ordered)).mean()),
    )


def zero_shot_percentage(trained_on: Collection[Hashable], tasks: Collection[Hashable]) -> int:
    """The share of a benchmark's tasks that a model was not trained on, in percent, rounded down.

    The figure of arXiv:2502.13595, as in the official code. It is as honest as the list of training sets.

    Args:
        trained_on: names of the model's training sets.
        tasks: names of the benchmark's tasks.

    Returns:
        0 to 100.

    Raises:
        ValueError: when there are no tasks.

    Example:
        >>> zero_shot_percentage({"NFCorpus", "ESCI"}, ["NFCorpus", "STS22", "SciFact"])
        66
    """
    names = set(tasks)
    checks.require(bool(names), "tasks must name at least one task: got none.")
    return 100 * len(names - set(trained_on)) // len(names)


def _mean_of_groups(values: Array, labels: list[Hashable]) -> Array:
    where = [[t for t, label in enumerate(labels) if label == group] for group in dict.fromkeys(labels)]
    return np.asarray(np.mean([values[:, part].mean(1) for part in where], axis=0))


def _systems(name: str, scores: Any) -> tuple[Array, list[Any] | None]:
    """Scores (n, q) of systems, and their names where they have any."""
    names: list[Any] | None = None
    if isinstance(scores, Mapping):
        names, scores = list(scores), list(scores.values())
    elif hasattr(scores, "index") and hasattr(scores, "to_numpy"):
        names, scores = list(scores.index), scores.to_numpy()
    try:
        values = np.asarray(as_array(scores), dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be numbers, equally many per system.") from None
    values = values[:, None] if values.ndim == 1 else values
    checks.matrix(name, values)
    checks.require(values.shape[1] > 0, f"{name} must hold a score per system: got none.")
    checks.finite(name, values)
    return values, names


def _resamples(one: Array, other: Array, samples: int, rng: np.random.Generator) -> list[tuple[Array, Array]]:
    """Mean scores of both benchmarks in every resample."""
    if one.shape[1] == 1 or other.shape[1] == 1:
        before, after = one.mean(1), other.mean(1)
        drawn = rng.integers(len(one), size=(samples, len(one)))
        return [(before[rows], after[rows]) for rows in drawn]
    paired = one.shape[1] == other.shape[1]
    means: list[tuple[Array, Array]] = []
    for _ in range(samples):
        columns = rng.integers(one.shape[1], size=one.shape[1])
        others = columns if paired else rng.integers(other.shape[1], size=other.shape[1])
        means.append((one[:, columns].mean(1), other[:, others].mean(1)))
    return means


def _interval(values: Array, confidence: float) -> tuple[float, float]:
    values = values[~np.isnan(values)]
    if len(values) == 0:
        return float("nan"), float("nan")
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
