"""Quotas: how much of the budget each cluster gets, from how wide it is and how far from its neighbours."""

from __future__ import annotations

from typing import Any

import numpy as np

from tamis import allocation, checks, search

Array = np.ndarray[Any, Any]


def inter_cluster_distances(centroids: Array, n_neighbors: int = 20) -> Array:
    """How far each centroid is from its nearest neighbours: ``d_inter`` of arXiv:2401.04578.

    Args:
        centroids: (k, d) float, none zero, of any length.
        n_neighbors: how many nearest other centroids count, below k.

    Returns:
        (k,) float64, the mean of one minus the cosine over these neighbours.

    Raises:
        ValueError: when there are not that many other centroids.

    Example:
        >>> corner = np.sqrt(0.5)
        >>> inter_cluster_distances(np.array([[1.0, 0.0], [0.0, 1.0], [corner, corner]]), 2).round(6).tolist()
        [0.646447, 0.646447, 0.292893]
    """
    checks.matrix("centroids", centroids)
    checks.require(
        1 <= n_neighbors < len(centroids),
        f"n_neighbors must be less than the number of clusters: {len(centroids)} clusters, got {n_neighbors}.",
    )
    length = np.linalg.norm(centroids, axis=1, keepdims=True)
    units = np.asarray(centroids, dtype=np.float64) / np.where(length > 0, length, 1)
    narrow, own = units.astype(np.float32), np.arange(len(units))
    _, nearest = search.top_k(narrow, narrow, n_neighbors, exclude=(np.arange(len(units) + 1), own))
    total = np.zeros(len(units))
    for column in nearest.T:  # one neighbour of every cluster at a time: no (k, n_neighbors, d) array
        total += 1 - np.einsum("kd,kd->k", units, units[column])
    return np.maximum(total / n_neighbors, 0)


def complexity_shares(d_intra: Array, d_inter: Array, *, temperature: float = 0.1) -> tuple[Array, Array]:
    """Complexity of clusters and the share of the budget that each should get (arXiv:2401.04578).

    ``C = d_intra * d_inter`` and ``P = softmax(C / temperature)``. C spans some 0.1 to 0.3, so the temperature decides
    everything: 0.5 is nearly even, 0.02 nearly gives all to one cluster.

    Args:
        d_intra: (k,) float, mean distance of a cluster's rows to its centroid; NaN for a cluster without rows.
        d_inter: (k,) float, mean distance to its neighbours.
        temperature: above 0; infinity gives equal shares.

    Returns:
        complexity (k,) float64, where NaN has become the mean of the rest, and shares (k,) float64, summing to 1.

    Raises:
        ValueError: for arrays of two lengths, no cluster with rows, or a temperature that is not positive.

    Example:
        >>> _, shares = complexity_shares(np.array([0.5, 0.4, 0.3]), np.array([0.6, 0.5, 0.2]))
        >>> shares.round(4).tolist()
        [0.6856, 0.2522, 0.0622]
    """
    checks.positive("temperature", temperature)
    checks.same_shape("d_inter", d_inter, "d_intra", d_intra)
    complexity = np.asarray(d_intra, dtype=np.float64) * np.asarray(d_inter, dtype=np.float64)
    missing = np.isnan(complexity)
    checks.require(not missing.all(), "d_intra and d_inter must be known for some cluster: all are NaN.")
    complexity[missing] = complexity[~missing].mean()
    weights = np.exp((complexity - complexity.max()) / temperature)
    return complexity, weights / weights.sum()


def cluster_quotas(
    shares: Array, sizes: Array, total: int, *, min_per_cluster: int = 1, balance: float = 0.0
) -> tuple[Array, Array]:
    """Rows to keep of each cluster: as near to the shares as what clusters hold allows, and ``total`` in all.

    The quadratic program of arXiv:2401.04578, ``min |x - total * shares|^2`` with ``sum(x) = total`` and
    ``floor <= x <= sizes``, solved exactly; then whole numbers by largest remainders. The floor of a cluster is
    ``max(min_per_cluster, int(balance * total / k))``, but one row less than it has where it has fewer.

    Args:
        shares: (k,) float, of the total that each cluster should get.
        sizes: (k,) int, rows that each cluster has.
        total: rows to keep.
        min_per_cluster: least rows of a cluster.
        balance: least rows of a cluster as a part of the equal share, from 0 to 1.

    Returns:
        quotas (k,) int64, and (k,) float64 what they were before rounding.

    Raises:
        ValueError: when clusters hold fewer rows than the total, or their floors come to more.

    Example:
        >>> shares = np.array([0.685590, 0.252215, 0.062195])
        >>> quotas, exact = cluster_quotas(shares, np.array([50, 100, 200]), 120)
        >>> quotas.tolist(), exact.round(4).tolist()
        ([50, 46, 24], [50.0, 46.4012, 23.5988])
    """
    checks.same_shape("sizes", sizes, "shares", shares)
    checks.at_least("min_per_cluster", min_per_cluster, 0)
    checks.between("balance", balance, 0, 1)
    floor = np.clip(max(min_per_cluster, int(balance * total / len(sizes))), 0, np.maximum(sizes - 1, 0))
    checks.require(
        floor.sum() <= total <= sizes.sum(),
        f"budget must lie between the floors of all clusters and their rows, {floor.sum()} and {sizes.sum()}: got "
        f"{total}; lower min_per_cluster or balance, or take fewer clusters.",
    )
    exact = allocation.capped_simplex_projection(total * np.asarray(shares, np.float64), total, floor, sizes)
    return allocation.round_to_total(exact, total, floor, sizes), exact
