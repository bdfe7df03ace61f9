"""Concepts: clusters of unit rows with unit centroids, found in bounded memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tamis import checks, clustering, mapped, search
from tamis.encoders import unit_rows
from tamis.randomness import Seed, as_generator
from tamis.results import Selection, as_array

Array = np.ndarray[Any, Any]
Rows = Array | torch.Tensor

ORDERS = ("hard", "easy", "random")


@dataclass(frozen=True)
class Concepts:
    """Rows and the clusters they belong to.

    Args:
        units: (n, d) float32, rows of length one; in a file where the embeddings are.
        labels: (n,) int64, 0 to k - 1, and -1 for rows that take no part.
        centroids: (k, d) float32 of length one.
        distance: (n,) float32, one minus the cosine with the own centroid; NaN for rows that take no part.

    Example:
        >>> rows = np.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
        >>> found = find_concepts(rows, 0, labels=np.array([0, 1, 1]), log_weights=None, seed=0)
        >>> found.sizes.tolist(), round(float(found.distance[2]), 4)
        ([1, 2], 0.0513)
    """

    units: Array
    labels: Array
    centroids: Array
    distance: Array

    @property
    def sizes(self) -> Array:
        """(k,) int64, rows in each cluster."""
        return np.bincount(self.labels[self.labels >= 0], minlength=len(self.centroids))

    def keys(self, order: str, seed: Seed) -> Array:
        """What to rank rows by, largest first.

        Args:
            order: "hard" is far from the centroid first, "easy" near, "random" any.
            seed: for "random".

        Returns:
            (n,) float.
        """
        if order == "random":
            return as_generator(seed).random(len(self.labels))
        return self.distance if order == "hard" else -self.distance

    def selection(self, kept: Array, scores: Array, rule: str, rivals: Array, *, log_weights: Rows | None) -> Selection:
        """What was kept, with a reason for every other row.

        Args:
            kept: (n,) bool.
            scores: (n,) float, what the method thought of every row.
            rule: that dropped the rows which took part and were not kept.
            rivals: (n,) int64, the row that a dropped one lost against, -1 for none.
            log_weights: (n,) float that the rows came with, or None.

        Returns:
            the selection, as arrays.
        """
        before = np.zeros(len(kept)) if log_weights is None else as_array(log_weights)
        dropped = np.flatnonzero(~kept)
        out = self.labels[dropped] < 0
        return Selection(
            indices=np.flatnonzero(kept),
            scores=scores,
            log_weights=np.where(kept, before, -np.inf).astype(scores.dtype),
            reasons={
                "row": dropped,
                "rule": np.where(out, np.array("dropped before", dtype=object), rule),
                "rival": np.where(out, -1, rivals[dropped]),
                "score": scores[dropped],
            },
        )


def find_concepts(
    embeddings: Rows,
    n_clusters: int,
    *,
    n_init: int = 1,
    iterations: int = 25,
    rows_per_cluster: int = 256,
    labels: Rows | None,
    log_weights: Rows | None,
    seed: Seed,
) -> Concepts:
    """Cluster rows by cosine, or take the clusters that are there.

    Args:
        embeddings: (n, d) float.
        n_clusters: clusters for spherical k-means.
        n_init: starts of k-means, the best of which counts.
        iterations: most rounds of k-means.
        rows_per_cluster: that k-means sees, drawn at random; all rows are assigned to what it finds.
        labels: (n,) int, clusters that are known already; None finds them.
        log_weights: (n,) float, ``-inf`` leaves a row out; None for all rows.
        seed: seed or generator.

    Returns:
        the concepts; labels are numbered by value.

    Raises:
        ValueError: for no rows, zero or infinite rows, more clusters than rows, or arrays of another length.

    Example:
        >>> rows = np.array([[1.0, 0.0], [0.0, 2.0], [0.0, 1.0]])
        >>> find_concepts(rows, 0, labels=np.array([7, 9, 9]), log_weights=None, seed=0).centroids.tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    checks.matrix("embeddings", embeddings)
    units = unit_rows(as_array(embeddings), "embeddings")
    if log_weights is not None:
        checks.same_length("log_weights", log_weights, "embeddings", embeddings)
    out = np.zeros(len(units), dtype=bool) if log_weights is None else np.isneginf(as_array(log_weights))
    checks.require(not out.all(), "log_weights must leave some rows: all are -inf.")
    if labels is None:
        found, centroids, cosine = _clustered(
            units, np.flatnonzero(~out), n_clusters, n_init, iterations, rows_per_cluster, seed
        )
    else:
        checks.same_length("labels", labels, "embeddings", embeddings)
        values, found = np.unique(as_array(labels), return_inverse=True)
        found = np.where(out, -1, found)
        centroids = _mean_directions(units, found, len(values))
        cosine = np.empty(len(units), dtype=np.float32)
        for rows in mapped.pieces(units):
            cosine[rows] = np.einsum("nd,nd->n", units[rows], centroids[found[rows]])
    distance = np.where(out, np.nan, np.maximum(1 - cosine, 0)).astype(np.float32)
    return Concepts(units, np.where(out, -1, found), centroids, distance)


def take_rows(units: Array, rows: Array) -> Array:
    """Copy some rows; of a file no more than a piece is in memory at a time.

    Args:
        units: (n, d) float32.
        rows: (m,) int64, ascending.

    Returns:
        (m, d) float32.

    Example:
        >>> take_rows(np.eye(3, dtype=np.float32), np.array([0, 2])).tolist()
        [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    """
    taken = np.empty((len(rows), units.shape[1]), dtype=np.float32)
    for piece in mapped.pieces(units):
        first, last = np.searchsorted(rows, [piece.start, piece.stop])
        taken[first:last] = units[rows[first:last]]
    return taken


def _clustered(
    units: Array, rows: Array, n_clusters: int, n_init: int, iterations: int, rows_per_cluster: int, seed: Seed
) -> tuple[Array, Array, Array]:
    checks.between("n_clusters", n_clusters, 1, len(rows))
    rng = as_generator(seed)
    most = rows_per_cluster * n_clusters
    sample = rows if len(rows) <= most else np.sort(rng.choice(rows, most, replace=False))
    seen = units if len(sample) == len(units) else take_rows(units, sample)
    fits = [clustering.kmeans(seen, n_clusters, spherical=True, iterations=iterations, seed=rng) for _ in range(n_init)]
    centroids = min(fits, key=lambda fit: fit.inertia).centroids
    del seen
    labels, cosine = np.empty(len(units), dtype=np.int64), np.empty(len(units), dtype=np.float32)
    for piece in mapped.pieces(units):
        scores, nearest = search.top_k(units[piece], centroids, 1)
        labels[piece], cosine[piece] = nearest[:, 0], scores[:, 0]
    return labels, centroids, cosine


def _mean_directions(units: Array, labels: Array, k: int) -> Array:
    """Means of clusters scaled to length one; one of opposite rows that cancel out stays zero, at distance 1 of all."""
    sums = torch.zeros((k, units.shape[1]), dtype=torch.float64, device="cpu")
    for rows in mapped.pieces(units):
        inside = labels[rows] >= 0
        block = torch.from_numpy(np.asarray(units[rows][inside], dtype=np.float64))
        sums.index_add_(0, torch.from_numpy(labels[rows][inside]), block)
    centroids: Array = torch.nn.functional.normalize(sums, dim=1).float().numpy()
    return centroids
