"""k-center: rows such that every row of the data is near one of them.

The greedy rule of Gonzalez takes, again and again, the row that is farthest from all that were taken; the largest
distance that is left is at most twice the least possible. It covers the rare as well as the frequent, and outliers
first of all. One pass over the rows per taken row, no matrix of pairs: embeddings may be memory-mapped. Rows that are
there already (labelled ones, say) may be the start.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from tamis import checks, mapped
from tamis.encoders import unit_rows
from tamis.method import Method
from tamis.randomness import Seed, as_generator
from tamis.results import Selection, as_array, selection_like

METHOD = Method(
    title="k-center by farthest-first traversal (Gonzalez 1985)",
    paper="staple",
    year=1985,
    claim="The farthest-first rows leave a far smaller largest distance than random rows of the same number.",
    peers=("skactiveml.pool.CoreSet", "apricot"),
    deviations=("ties go to the lower row",),
)

Array = np.ndarray[Any, Any]
Rows = Array | torch.Tensor


def k_center_greedy(
    embeddings: Rows,
    *,
    budget: float,
    centers: Rows | None = None,
    metric: str = "cosine",
    log_weights: Rows | None = None,
    seed: Seed | None = None,
) -> Selection:
    """Take the row that is farthest from all taken rows, until the budget is met.

    The greedy 2-approximation of Gonzalez (1985). When not to use: on data with outliers or mislabelled rows, which are
    what it takes first; and below a few hundred rows random ones often teach as much.

    Args:
        embeddings: (n, d) float; a memory-mapped array is read piece by piece.
        budget: rows to take, ``centers`` among them; a count, or a share of the rows that take part.
        centers: (c,) int, rows that are taken already and come first; None begins with the row nearest to the mean.
        metric: "cosine", one minus the cosine, or "euclidean".
        log_weights: (n,) float: rows at ``-inf`` take no part; finite ones are passed on.
        seed: begin with a random row instead of the one nearest to the mean.

    Returns:
        indices (m,), in the order of choice; scores (n,), the distance of every row to its nearest taken row, NaN for
        rows left out; log_weights (n,); reasons of the dropped rows: row, rule, rival (the nearest taken row), score.
        Tensors for a tensor.

    Raises:
        ValueError: for no rows, a zero row under "cosine", values that are not finite, budget or centers out of range.

    Example:
        >>> rows = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [-1.0, 0.0]])
        >>> k_center_greedy(rows, budget=3, centers=np.array([0])).indices.tolist()
        [0, 3, 2]
    """
    checks.matrix("embeddings", embeddings)
    checks.one_of("metric", metric, ("cosine", "euclidean"))
    rows = as_array(embeddings)
    if metric == "cosine":
        rows = unit_rows(rows, "embeddings")
    else:
        checks.finite("embeddings", embeddings)
        rows = np.asarray(rows, dtype=np.float32) if rows.dtype != np.float32 else rows
    before = np.zeros(len(rows)) if log_weights is None else as_array(log_weights).astype(np.float64)
    checks.same_length("log_weights", before, "embeddings", embeddings)
    part = ~np.isneginf(before)
    checks.require(bool(part.any()), "log_weights must leave some rows: all are -inf.")
    count = checks.budget_count(budget, int(part.sum()))
    given = np.zeros(0, dtype=np.int64) if centers is None else as_array(centers).astype(np.int64)
    _check_centers(given, part, count)

    nearest = np.full(len(rows), np.inf, dtype=np.float32)
    rival = np.full(len(rows), -1)
    taken: list[int] = []
    out = np.flatnonzero(~part)
    for row in given.tolist():
        _take(rows, row, nearest, rival)
        taken.append(row)
    if not taken and count:
        first = _central(rows, part) if seed is None else int(as_generator(seed).choice(np.flatnonzero(part)))
        _take(rows, first, nearest, rival)
        taken.append(first)
    while len(taken) < count:
        left = nearest.copy()
        left[out] = -1
        left[taken] = -1  # a copy of a taken row is at distance 0 too, and may have to be taken
        row = int(left.argmax())
        _take(rows, row, nearest, rival)
        taken.append(row)

    scores = np.where(part, np.sqrt(2 * nearest) if metric == "euclidean" else nearest, np.nan)
    kept = np.zeros(len(rows), dtype=bool)
    kept[taken] = True
    dropped = np.flatnonzero(~kept)
    rules = np.where(part[dropped], np.array("covered", dtype=object), "dropped before")
    found = Selection(
        np.array(taken, dtype=np.int64),
        scores,
        np.where(kept, before, -np.inf),
        {
            "row": dropped,
            "rule": rules,
            "rival": np.where(part[dropped], rival[dropped], -1),
            "score": scores[dropped],
        },
    )
    return selection_like(found, embeddings)


def _take(rows: Array, row: int, nearest: Array, rival: Array) -> None:
    """Half the squared distance to a new center, which is one minus the cosine of unit rows, where it is nearer."""
    center = np.asarray(rows[row])
    for piece in mapped.pieces(rows):
        gap = rows[piece] - center
        distance = np.einsum("nd,nd->n", gap, gap) / 2
        closer = distance < nearest[piece]
        nearest[piece][closer] = distance[closer]
        rival[piece][closer] = row
    mapped.release(rows)
    nearest[row], rival[row] = 0.0, row


def _central(rows: Array, part: Array) -> int:
    """The row nearest to the mean of those that take part."""
    total = np.zeros(rows.shape[1])
    for piece in mapped.pieces(rows):
        total += rows[piece][part[piece]].sum(0, dtype=np.float64)
    nearest = np.full(len(rows), np.inf, dtype=np.float32)
    mean = (total / part.sum()).astype(np.float32)
    for piece in mapped.pieces(rows):
        gap = rows[piece] - mean
        nearest[piece] = np.einsum("nd,nd->n", gap, gap)
    nearest[~part] = np.inf
    return int(nearest.argmin())


def _check_centers(given: Array, part: Array, count: int) -> None:
    checks.require(given.ndim == 1, f"centers must be (c,) rows: got shape {given.shape}.")
    checks.require(
        not len(given) or (0 <= int(given.min()) and int(given.max()) < len(part)),
        f"centers must be rows from 0 to {len(part) - 1}: got {given.tolist()[:5]}.",
    )
    checks.require(len(np.unique(given)) == len(given), f"centers must be different rows: got {given.tolist()[:5]}.")
    checks.require(bool(part[given].all()), "centers must take part: log_weights has -inf for one of them.")
    checks.require(len(given) <= count, f"budget must be at least the {len(given)} centers: got {count}.")
