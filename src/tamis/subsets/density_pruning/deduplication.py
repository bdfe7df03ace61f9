"""SemDeDup: rows that nearly repeat an earlier row of their cluster."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from tamis import checks, mapped
from tamis.randomness import Seed, as_generator
from tamis.results import Selection, selection_like
from tamis.subsets.density_pruning.concepts import ORDERS, Rows, find_concepts, take_rows

Array = np.ndarray[Any, Any]

_PRODUCTS = 4_000_000  # bytes of similarities at once: they stay in the processor's cache


def semantic_dedup(
    embeddings: Rows,
    *,
    eps: float = 0.05,
    n_clusters: int | None = None,
    keep: str = "hard",
    labels: Rows | None = None,
    log_weights: Rows | None = None,
    seed: Seed = 0,
) -> Selection:
    """Drop every row whose cosine with an earlier row of its cluster exceeds ``1 - eps``.

    SemDeDup (Abbas et al. 2023, arXiv:2303.09540), the first stage of density-based pruning: within each cluster of
    spherical k-means rows are put in order, and row j goes if ``max_{i < j} cos(i, j) > 1 - eps``. Rows that went count
    as earlier rows too, so a chain of near copies shrinks to its head.

    When not to use: where every copy must go. Copies on two sides of a border between clusters both stay;
    ``drop_near_duplicates`` compares all rows, with kept ones only, at a higher cost.

    Args:
        embeddings: (n, d) float, none zero, of any length; a memory-mapped array is read piece by piece.
        eps: how far from 1 the cosine of a copy may be, above 0; under 1e-6 rounding decides.
        n_clusters: for k-means; None takes a third of the square root of n, where finding clusters and comparing
            within them take about equally long. More clusters have more borders, on two sides of which copies stay.
        keep: the first of the order: "hard" is farthest from the centroid, "easy" nearest, "random" any.
        labels: (n,) int, clusters that are known already.
        log_weights: (n,) float: rows at ``-inf`` take no part.
        seed: seed or generator.

    Returns:
        indices (m,) of the kept rows, ascending; scores (n,), the highest cosine with an earlier row, ``-inf`` for the
        first of a cluster and NaN where log_weights left a row out; log_weights (n,); reasons of the dropped rows: row,
        rule, rival (the earlier row that is most similar), score. Tensors for a tensor.

    Raises:
        ValueError: for no rows, a zero or infinite row, eps that is not positive, or more clusters than rows.

    Example:
        >>> rows = np.array([[1.0, 0.0], [0.99, np.sqrt(1 - 0.99**2)], [0.0, 1.0]])
        >>> kept = semantic_dedup(rows, labels=np.zeros(3, dtype=int), keep="easy", eps=0.05)
        >>> kept.indices.tolist(), kept.reasons["rival"].tolist(), round(float(kept.reasons["score"][0]), 4)
        ([1, 2], [1], 0.99)
    """
    checks.require(0 < eps <= 2, f"eps must lie above 0 and be at most 2: got {eps!r}.")
    checks.one_of("keep", keep, ORDERS)
    rng = as_generator(seed)
    clusters = max(1, round(math.sqrt(len(embeddings)) / 3)) if n_clusters is None else n_clusters
    # Copies fall into one cluster nearly as often after ten rounds as after twenty-five.
    concepts = find_concepts(embeddings, clusters, iterations=10, labels=labels, log_weights=log_weights, seed=rng)
    order = np.lexsort((-concepts.keys(keep, rng), concepts.labels))
    order = order[concepts.labels[order] >= 0]
    scores = np.full(len(concepts.labels), np.nan, dtype=np.float32)
    rivals = np.full(len(scores), -1)
    for start, rows, units in _clusters(concepts.units, order, concepts.sizes):
        best, earlier = _most_similar_earlier(units)
        members = order[start : start + rows]
        scores[members] = best
        rivals[members] = np.where(earlier < 0, -1, members[earlier])
    kept = (concepts.labels >= 0) & ~(scores > 1 - eps)
    found = concepts.selection(kept, scores, "semantic duplicate", rivals, log_weights=log_weights)
    return selection_like(found, embeddings)


def _clusters(units: Array, order: Array, sizes: Array) -> Iterator[tuple[int, int, Array]]:
    """Where each cluster starts in the order, its size and its rows; small clusters are read together.

    Rows are gathered by ascending number, and pages of a file are given back after each reading.
    """
    most = max(1, mapped.PIECE // max(1, units[:1].nbytes))
    ends = np.cumsum(sizes)
    cluster = 0
    while cluster < len(sizes):
        first = int(ends[cluster] - sizes[cluster])
        last = max(cluster + 1, int(np.searchsorted(ends, first + most, side="right")))
        wanted = order[first : int(ends[last - 1])]
        by_row = np.argsort(wanted)
        rows = np.empty((len(wanted), units.shape[1]), dtype=np.float32)
        rows[by_row] = take_rows(units, wanted[by_row])
        start = first
        for size in sizes[cluster:last].tolist():
            yield start, size, rows[start - first : start - first + size]
            start += size
        cluster = last


def _most_similar_earlier(units: Array) -> tuple[Array, Array]:
    """Per row the highest cosine with a row before it, ``-inf`` for the first, and which row that is, -1 for none."""
    rows = torch.from_numpy(units)
    best, earlier = torch.full((len(rows),), -math.inf, device="cpu"), torch.full((len(rows),), -1, device="cpu")
    step = max(1, min(256, _PRODUCTS // (4 * max(1, len(rows)))))
    for start in range(0, len(rows), step):
        block = rows[start : start + step]
        stop = start + len(block)
        products = block @ rows[:stop].T
        # Within the block itself only what stands before the diagonal is earlier.
        products[:, start:].masked_fill_(torch.ones_like(products[:, start:], dtype=torch.bool).triu(), -math.inf)
        top = products.max(dim=1)
        best[start:stop], earlier[start:stop] = top.values, top.indices
    if len(rows):
        earlier[0] = -1
    return best.numpy(), earlier.numpy()
