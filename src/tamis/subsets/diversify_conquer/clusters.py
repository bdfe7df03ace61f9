"""Clusters of rows, and equal quotas that small clusters cannot fill."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from tamis import allocation, checks, mapped
from tamis.clustering import kmeans
from tamis.randomness import Seed, as_generator
from tamis.results import as_array

Array = np.ndarray[Any, Any]
ArrayLike = Array | torch.Tensor

_BLOCK = 2**22  # scores of rows and centroids at once


def cluster_rows(
    embeddings: ArrayLike,
    n_clusters: int,
    *,
    spherical: bool = False,
    rows_per_cluster: int = 256,
    iterations: int = 25,
    seed: Seed = 0,
) -> tuple[Array, Array]:
    """Find clusters on a sample by k-means, and assign every row to the nearest centroid.

    Args:
        embeddings: (n, d) float, as the encoder gives them; a memory-mapped array is read piece by piece.
        n_clusters: 1 to n.
        spherical: compare directions only.
        rows_per_cluster: of the sample.
        iterations: most rounds of k-means.
        seed: seed or generator.

    Returns:
        labels (n,) int64 and centroids (k, d) float32.

    Raises:
        ValueError: for more clusters than rows, or rows that are not finite.

    Example:
        >>> labels, centroids = cluster_rows(np.array([[0.0], [0.1], [9.0]]), 2)
        >>> bool(labels[0] == labels[1] != labels[2]), centroids.shape
        (True, (2, 1))
    """
    rows = as_array(embeddings)
    checks.matrix("embeddings", rows)
    checks.between("n_clusters", n_clusters, 1, len(rows))
    rng = as_generator(seed)
    size = min(len(rows), n_clusters * rows_per_cluster)
    sample = np.sort(rng.choice(len(rows), size, replace=False)) if size < len(rows) else np.arange(len(rows))
    seen = np.asarray(rows, dtype=np.float32) if size == len(rows) else _copied(rows, sample)
    checks.finite("embeddings", seen)
    found = kmeans(seen, n_clusters, spherical=spherical, iterations=iterations, seed=rng)
    centroids = torch.from_numpy(np.asarray(found.centroids, dtype=np.float32))
    if size == len(rows):
        mapped.release(rows)
        return np.asarray(found.labels, dtype=np.int64), centroids.numpy()
    shift = centroids.square().sum(1) * (0.0 if spherical else 0.5)
    labels = np.empty(len(rows), dtype=np.int64)
    step = max(1, _BLOCK // n_clusters)
    scores = torch.empty((min(step, len(rows)), n_clusters), device="cpu")
    for start in range(0, len(rows), step):
        block = np.array(rows[start : start + step], dtype=np.float32)
        checks.require(bool(np.isfinite(block).all()), f"embeddings must be finite: rows from {start} on are not.")
        near = torch.addmm(-shift, torch.from_numpy(block), centroids.T, out=scores[: len(block)])
        labels[start : start + step] = near.argmax(1).numpy()
        mapped.release(rows, start, start + step)
    return labels, centroids.numpy()


def equal_quotas(sizes: ArrayLike, budget: int, *, fill: bool = True, seed: Seed = 0) -> Array:
    """The same number of rows for every cluster, as far as they have them.

    What small clusters leave goes round the others, in random order, until the budget is met.

    Args:
        sizes: (k,) int, rows of each cluster.
        budget: rows in all, at most the sum of sizes.
        fill: without it, every cluster gets ``budget // k`` at most, as in the official code, and rows are missing.
        seed: of the order in which single rows are handed out.

    Returns:
        (k,) int64.

    Raises:
        ValueError: for negative sizes or a budget above their sum.

    Example:
        >>> equal_quotas([10, 2, 1], 9).tolist(), equal_quotas([10, 2, 1], 9, fill=False).tolist()
        ([6, 2, 1], [3, 2, 1])
    """
    held = as_array(sizes).astype(np.int64)
    checks.require(held.ndim == 1 and len(held) > 0, "sizes must hold at least one cluster.")
    checks.require(bool((held >= 0).all()), f"sizes must be at least 0: got {held.min()}.")
    checks.between("budget", budget, 0, int(held.sum()))
    if not fill:
        return np.minimum(held, budget // len(held))
    level = int(np.floor(allocation.water_filling(np.ones(len(held)), budget, upper=held).max() + 1e-9))
    quota = np.minimum(held, level)
    more = np.flatnonzero(held > level)
    quota[as_generator(seed).permutation(more)[: budget - int(quota.sum())]] += 1
    return quota


def known_labels(labels: ArrayLike, rows: int | None = None) -> Array:
    """Clusters that a user already has, numbered from 0 by value.

    Args:
        labels: (n,) int.
        rows: how many there must be.

    Returns:
        (n,) int64.

    Raises:
        ValueError: for another shape.

    Example:
        >>> known_labels([7, 3, 7]).tolist()
        [1, 0, 1]
    """
    given = as_array(labels)
    checks.require(given.ndim == 1 and len(given) > 0, f"labels must be (n,), not empty: got shape {given.shape}.")
    checks.require(rows is None or len(given) == rows, f"labels must have one entry per row: {rows}, got {len(given)}.")
    return np.unique(given, return_inverse=True)[1].astype(np.int64)


def _copied(rows: Array, sample: Array) -> Array:
    """Some rows as float32, read piece by piece; ``sample`` ascends."""
    seen = np.empty((len(sample), rows.shape[1]), dtype=np.float32)
    step = max(1, mapped.PIECE // rows[:1].nbytes)
    for start in range(0, len(sample), step):
        piece = sample[start : start + step]
        seen[start : start + step] = rows[piece]
        mapped.release(rows, int(piece[0]), int(piece[-1]) + 1)
    return seen
