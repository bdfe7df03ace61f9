"""Which samples answer a question, which cells to fill next, and what missing cells cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from tamis import checks, search
from tamis.evaluation.onebench.baselines import mean_scores
from tamis.evaluation.onebench.pairwise import Array, Tie, oriented, to_pairwise
from tamis.plackett_luce import plackett_luce, strong_components
from tamis.randomness import Seed, as_generator
from tamis.rank_correlation import kendall


def query_samples(
    sample_embeddings: Array,
    query: Array,
    *,
    k: int | None = None,
    threshold: float | None = None,
    where: Array | None = None,
) -> Array:
    """The samples that test a capability: nearest to a query by cosine, and of the right kind (arXiv:2412.06745, 3.4).

    Args:
        sample_embeddings: (s, d) float, rows need not be normalised.
        query: (d,) float.
        k: so many of the nearest.
        threshold: only of at least this cosine.
        where: (s,) bool, samples that may be returned, by their metadata.

    Returns:
        int64, nearest first; hand ``values[:, found]`` to ``ModelRanker``.

    Raises:
        ValueError: for other shapes, or without both k and threshold.

    Example:
        >>> query_samples(np.eye(3, dtype=np.float32), np.array([0.5, 1.0, 0.0]), k=2).tolist()
        [1, 0]
    """
    checks.matrix("sample_embeddings", sample_embeddings)
    checks.require(k is not None or threshold is not None, "give k, how many samples, or threshold, how near.")
    asked: Array = np.asarray(query, dtype=np.float32)
    columns = sample_embeddings.shape[1]
    checks.require(asked.shape == (columns,), f"query must be ({columns},): got shape {asked.shape}.")
    allowed = np.arange(len(sample_embeddings))
    if where is not None:
        checks.same_length("where", where, "sample_embeddings", sample_embeddings)
        allowed = np.flatnonzero(np.asarray(where, dtype=bool))
    if len(allowed) == 0:
        return allowed.astype(np.int64)
    rows: Array = np.asarray(sample_embeddings, dtype=np.float32)[allowed]
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    rows = rows / np.where(lengths > 0, lengths, np.float32(1))
    asked = asked / np.float32(max(float(np.linalg.norm(asked)), 1e-30))
    count = len(rows) if k is None else k
    checks.at_least("k", count, 1)
    scores, found = search.top_k(asked[None], rows, min(count, len(rows)))
    kept = found[0] if threshold is None else found[0][scores[0] >= threshold]
    near: Array = allowed[kept[kept >= 0]].astype(np.int64)
    return near


def next_cells(
    values: Array | Sequence[Sequence[float]],
    k: int,
    *,
    tie: Tie = "both",
    higher_is_better: bool | Array | Sequence[bool] = True,
) -> tuple[Array, Array]:
    """The missing cells whose result would most settle the order of neighbours in the ranking (an addition of ours).

    A new result of a model meets those on its sample. Each meeting holds information ``p (1 - p)`` about a difference
    of strengths, and lowers the variance of each difference of neighbours, first order, by its squared covariance with
    it; neighbours count by how near their difference is to zero in standard errors.

    Args:
        values: (m, s) float, NaN where a model did not run.
        k: cells.
        tie: as in ``to_pairwise``.
        higher_is_better: one for all samples, or (s,) bool.

    Returns:
        models (c,) and samples (c,) int64, most useful first; fewer than k where no more cells are missing.

    Raises:
        ValueError: for another shape, or k < 1.

    Example:
        >>> table = np.array([[3, 2, np.nan], [1, 3, 2], [0, np.nan, 1.5]])
        >>> [cells.tolist() for cells in next_cells(table, 1)]
        [[2], [1]]
    """
    checks.at_least("k", k, 1)
    table = oriented(values, higher_is_better)
    wins = to_pairwise(table, tie=tie)
    wins = wins + 0.01 * (len(strong_components(wins > 0)) > 1)
    np.fill_diagonal(wins, 0.0)
    theta = plackett_luce(wins=wins)
    share = 1 / (1 + np.exp(theta[None, :] - theta[:, None]))
    held = share * (1 - share)
    information = (wins + wins.T) * held
    covariance = np.linalg.pinv(np.diag(information.sum(1)) - information, hermitian=True)
    order = np.argsort(-theta, kind="stable")
    above, below = order[:-1], order[1:]
    toward = covariance[above] - covariance[below]  # (m - 1, m): of a neighbours' difference with each strength
    variance = toward[np.arange(len(above)), above] - toward[np.arange(len(above)), below]
    unsettled = np.exp(-0.5 * (theta[above] - theta[below]) ** 2 / np.maximum(variance, 1e-30))
    gain = np.zeros_like(held)
    for weight, row in zip(unsettled, toward, strict=True):
        gain += weight * (row[:, None] - row[None, :]) ** 2
    ran = np.isfinite(table)
    worth = np.where(ran, -np.inf, (gain * held) @ ran)
    count = min(k, int((~ran).sum()))
    best = np.argsort(-worth, axis=None, kind="stable")[:count]
    models, samples = np.divmod(best, table.shape[1])
    return models.astype(np.int64), samples.astype(np.int64)


def missing_sweep(
    values: Array | Sequence[Sequence[float]],
    reference: Array | Sequence[float],
    *,
    missing: Sequence[float] = (0.0, 0.5, 0.9, 0.95),
    drop: Literal["cells", "samples"] = "cells",
    tie: Tie = "both",
    alpha: float = 1e-6,
    seed: Seed = 0,
) -> dict[str, Array]:
    """How well the order of models is kept when results go missing at random.

    Args:
        values: (m, s) float, more is better, NaN where a model did not run.
        reference: (m,) float, the order to keep, best has most.
        missing: shares that are taken away.
        drop: single "cells", or whole "samples".
        tie: as in ``to_pairwise``.
        alpha: as in ``tamis.plackett_luce``; a little, so that few results do not stop the sweep.
        seed: of what is taken away.

    Returns:
        "missing", and Kendall's tau with the reference of "plackett_luce" and of the "mean", each (len(missing),).

    Raises:
        ValueError: for other shapes or shares outside [0, 1).

    Example:
        >>> table = np.arange(4)[:, None] + np.random.default_rng(0).normal(size=(4, 500))
        >>> missing_sweep(table, np.arange(4), missing=[0.5])["plackett_luce"].tolist()
        [1.0]
    """
    checks.one_of("drop", drop, ("cells", "samples"))
    table, rng = oriented(values), as_generator(seed)
    checks.same_length("reference", reference, "values", table)
    taus: dict[str, list[float]] = {"plackett_luce": [], "mean": []}
    for share in missing:
        checks.require(0 <= share < 1, f"missing must hold shares from 0 to below 1: got {share!r}.")
        gone = rng.random(table.shape if drop == "cells" else (1, table.shape[1])) < share
        left = np.where(gone, np.nan, table)
        means = mean_scores(left)
        taus["plackett_luce"].append(kendall(reference, plackett_luce(wins=to_pairwise(left, tie=tie), alpha=alpha)))
        worst = np.nanmin(means) - 1 if np.isfinite(means).any() else 0.0
        taus["mean"].append(kendall(reference, np.where(np.isfinite(means), means, worst)))
    return {"missing": np.asarray(missing, dtype=np.float64)} | {key: np.array(tau) for key, tau in taus.items()}
