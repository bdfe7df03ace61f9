"""Density-based pruning of clusters, and the ranking by prototypes that it improves upon."""

from __future__ import annotations

from typing import Any

import numpy as np

from tamis import allocation, checks
from tamis.randomness import Seed, as_generator
from tamis.results import Selection, selection_like
from tamis.subsets.density_pruning.concepts import ORDERS, Concepts, Rows, find_concepts
from tamis.subsets.density_pruning.quotas import cluster_quotas, complexity_shares, inter_cluster_distances

Array = np.ndarray[Any, Any]


class DensityPruner:
    """Keep more of complex concepts and less of simple ones (density-based pruning, arXiv:2401.04578).

    Rows are clustered by spherical k-means; a cluster's complexity is the mean cosine distance of its rows to the
    centroid times the mean distance to its neighbours; the budget is shared by a softmax of complexity, within what
    clusters hold; in each cluster the rows farthest from the centroid stay. Drop copies first (``semantic_dedup``, and
    pass its log-weights on), otherwise they pass for dense concepts.

    When not to use: where wide clusters are wide because of noise. "hard" then keeps outliers, and random rows teach
    far more (0.55 against 0.14 in the claim); filter for quality first, or take ``which="random"``.

    Args:
        n_clusters: for k-means; the paper has 500 for 280 million pairs, 100 for DataComp medium.
        budget: rows to keep, a count, or a share of the rows that take part. It is what stays, not what goes.
        temperature: of the softmax over complexities, which span some 0.1 to 0.3.
        n_neighbors: nearest other centroids that distances are averaged over.
        min_per_cluster: least rows of a cluster, where it has one more than that.
        balance: least rows of a cluster as a part of the equal share ``budget / n_clusters``.
        which: rows kept of a cluster: "hard" are farthest from the centroid, "easy" nearest, "random" any.
        n_init: starts of k-means, the best of which counts. One start may leave two dense concepts in one cluster,
            whose width is then taken for complexity; in the claim that costs all of the gain.
        seed: seed or generator.

    Attributes after ``fit_select``: labels_ (n,) int64, -1 for rows left out; centroids_ (k, d) float32; sizes_,
    d_intra_, d_inter_, complexity_, target_share_ and quota_, each (k,); exact_quota_ (k,) before rounding.

    Raises:
        ValueError: for an argument outside its range.

    Example:
        >>> rng, labels = np.random.default_rng(0), np.repeat([0, 1, 2], 50)
        >>> rows = np.eye(3)[labels] + np.repeat([0.01, 0.1, 0.01], 50)[:, None] * rng.normal(size=(150, 3))
        >>> pruner = DensityPruner(budget=30, temperature=0.02, n_neighbors=2)
        >>> kept = pruner.fit_select(rows, labels=labels)
        >>> pruner.quota_.tolist(), len(kept.indices)
        ([8, 14, 8], 30)
    """

    labels_: Array
    centroids_: Array
    sizes_: Array
    d_intra_: Array
    d_inter_: Array
    complexity_: Array
    target_share_: Array
    quota_: Array
    exact_quota_: Array

    def __init__(
        self,
        n_clusters: int = 100,
        *,
        budget: float = 0.3,
        temperature: float = 0.1,
        n_neighbors: int = 20,
        min_per_cluster: int = 1,
        balance: float = 0.0,
        which: str = "hard",
        n_init: int = 10,
        seed: Seed = 0,
    ) -> None:
        checks.at_least("n_clusters", n_clusters, 1)
        checks.at_least("n_init", n_init, 1)
        checks.positive("temperature", temperature)
        checks.one_of("which", which, ORDERS)
        self.n_clusters, self.budget, self.temperature = n_clusters, budget, temperature
        self.n_neighbors, self.min_per_cluster, self.balance = n_neighbors, min_per_cluster, balance
        self.which, self.n_init, self.seed = which, n_init, seed

    def fit_select(self, embeddings: Rows, *, labels: Rows | None = None, log_weights: Rows | None = None) -> Selection:
        """Measure the concepts and choose the rows.

        Args:
            embeddings: (n, d) float, none zero, of any length; a memory-mapped array is read piece by piece.
            labels: (n,) int, clusters that are known already; their number replaces ``n_clusters``.
            log_weights: (n,) float: rows at ``-inf`` take no part; finite ones are passed on for rows that are kept.

        Returns:
            indices of the kept rows, ascending, exactly the budget; scores (n,), distance to the own centroid, NaN for
            rows left out; log_weights (n,); reasons of the dropped rows: row, rule, rival (the last row that their
            cluster kept, -1 where it kept none), score. Tensors for a tensor.

        Raises:
            ValueError: for no rows, a zero or infinite row, more clusters than rows, as many neighbours as clusters, or
                a budget under the floors of all clusters.
        """
        rng = as_generator(self.seed)
        concepts = find_concepts(
            embeddings, self.n_clusters, n_init=self.n_init, labels=labels, log_weights=log_weights, seed=rng
        )
        total = checks.budget_count(self.budget, int((concepts.labels >= 0).sum()))
        self.labels_, self.centroids_, self.sizes_ = concepts.labels, concepts.centroids, concepts.sizes
        self.d_intra_ = _mean_distances(concepts)
        self.d_inter_ = inter_cluster_distances(concepts.centroids, self.n_neighbors)
        self.complexity_, self.target_share_ = complexity_shares(
            self.d_intra_, self.d_inter_, temperature=self.temperature
        )
        self.quota_, self.exact_quota_ = cluster_quotas(
            self.target_share_, self.sizes_, total, min_per_cluster=self.min_per_cluster, balance=self.balance
        )
        rank = allocation.rank_in_group(concepts.keys(self.which, rng), concepts.labels)
        last = np.full(len(self.quota_), -1)
        inside = np.flatnonzero(concepts.labels >= 0)
        ends = inside[rank[inside] == self.quota_[concepts.labels[inside]] - 1]
        last[concepts.labels[ends]] = ends
        kept = np.zeros(len(rank), dtype=bool)
        kept[inside] = rank[inside] < self.quota_[concepts.labels[inside]]
        found = concepts.selection(
            kept, concepts.distance, "over its cluster's quota", last[concepts.labels], log_weights=log_weights
        )
        return selection_like(found, embeddings)


def prototype_selection(
    embeddings: Rows,
    *,
    budget: float,
    n_clusters: int = 100,
    balance: float = 0.0,
    which: str = "hard",
    labels: Rows | None = None,
    log_weights: Rows | None = None,
    seed: Seed = 0,
) -> Selection:
    """Rank all rows by their distance to the centroid of their cluster, and keep the top: self-supervised prototypes.

    The metric of Sorscher et al. 2022 (arXiv:2206.14486), the baseline of density-based pruning. Every
    cluster first keeps ``int(balance * budget / k)`` rows where it has them.

    When not to use: with balance 0 dense clusters lose all their rows (in the claim their accuracy falls to zero).

    Args:
        embeddings: (n, d) float, none zero, of any length; a memory-mapped array is read piece by piece.
        budget: rows to keep, a count, or a share of the rows that take part.
        n_clusters: for k-means.
        balance: least rows of a cluster as a part of the equal share, from 0 to 1.
        which: "hard" keeps what is farthest from its centroid, "easy" what is nearest, "random" any.
        labels: (n,) int, clusters that are known already.
        log_weights: (n,) float: rows at ``-inf`` take no part.
        seed: seed or generator.

    Returns:
        as ``DensityPruner.fit_select``; rivals are -1.

    Raises:
        ValueError: for no rows, a zero or infinite row, more clusters than rows, or an argument outside its range.

    Example:
        >>> rows = np.array([[1.0, 0.0], [1.0, 0.1], [1.0, -0.1], [0.0, 1.0], [0.5, 1.0], [-0.5, 1.0]])
        >>> labels = np.array([0, 0, 0, 1, 1, 1])
        >>> [prototype_selection(rows, budget=2, balance=b, labels=labels).indices.tolist() for b in (0, 1)]
        [[4, 5], [1, 4]]
    """
    checks.one_of("which", which, ORDERS)
    checks.between("balance", balance, 0, 1)
    rng = as_generator(seed)
    concepts = find_concepts(embeddings, n_clusters, labels=labels, log_weights=log_weights, seed=rng)
    inside = np.flatnonzero(concepts.labels >= 0)
    total = checks.budget_count(budget, len(inside))
    keys = concepts.keys(which, rng)
    floor = int(balance * total / len(concepts.centroids))
    rank = allocation.rank_in_group(keys, concepts.labels)[inside]
    # The floors of all clusters stand before everything else, whatever the distances.
    order = inside[np.lexsort((-keys[inside], rank >= floor))]
    kept = np.zeros(len(concepts.labels), dtype=bool)
    kept[order[:total]] = True
    rivals = np.full(len(kept), -1)
    found = concepts.selection(kept, concepts.distance, "nearer to its prototype", rivals, log_weights=log_weights)
    return selection_like(found, embeddings)


def _mean_distances(concepts: Concepts) -> Array:
    """Mean distance of each cluster's rows to its centroid, NaN for a cluster without rows."""
    inside = concepts.labels >= 0
    sums = np.bincount(concepts.labels[inside], concepts.distance[inside], minlength=len(concepts.centroids))
    sizes = concepts.sizes
    return np.where(sizes > 0, sums / np.maximum(sizes, 1), np.nan)
