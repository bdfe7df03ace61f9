"""kMQ: equal quotas for clusters, rows by quality within."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch

from tamis import allocation, checks
from tamis.randomness import Seed, as_generator
from tamis.results import Selection, as_array, selection_like
from tamis.subsets.diversify_conquer.clusters import cluster_rows, equal_quotas, known_labels

Array = np.ndarray[Any, Any]
ArrayLike = Array | torch.Tensor
Weighting = Literal["uniform", "proportional", "softmax"]

WEIGHTINGS = ("uniform", "proportional", "softmax")


def quality_probabilities(quality: ArrayLike, *, weighting: Weighting = "softmax", temperature: float = 1.0) -> Array:
    """Probability of each row of one cluster to be drawn first.

    Args:
        quality: (m,) float.
        weighting: "softmax" of quality over the temperature, "proportional" to quality, or "uniform".
        temperature: of the softmax; scores that span more than a few units need a higher one, or the best is certain.

    Returns:
        (m,) float64 that adds up to 1.

    Raises:
        ValueError: for quality with NaN, or below 0 where it is proportional.

    Example:
        >>> quality_probabilities(np.array([1.0, 2.0, 3.0])).round(6).tolist()
        [0.090031, 0.244728, 0.665241]
    """
    keys = _log_weights(as_array(quality), len(quality), weighting, temperature)
    checks.require(len(keys) > 0, "quality must hold at least one row.")
    if np.isneginf(keys).all():
        return np.full(len(keys), 1 / len(keys))
    shares = np.exp(keys - keys.max())
    found: Array = shares / shares.sum()
    return found


class KMeansQuality:
    """Cover all clusters evenly and draw by quality within them (kMQ; without quality kM, arXiv:2409.11378).

    When not to use: where clusters of junk are as large as good ones, for each gets its equal share; filter first, or
    take ``IterativeClusterSelector``.

    Args:
        n_clusters: for k-means; the official code has 1,024 with quality and 4,096 without.
        budget: rows to keep, a count or a share; met exactly unless ``fill`` is off.
        weighting: as in ``quality_probabilities``.
        temperature: as in ``quality_probabilities``.
        fill: whether what small clusters leave goes to others.
        spherical: cluster by direction; for text embeddings that are not normalised.
        iterations: most rounds of k-means; from its start by k-means++, few leave little to gain.
        seed: seed or generator.

    Attributes after ``fit_select``: labels_ (n,) int64, centroids_ (k, d) float32 (None for given labels), sizes_ and
    quota_ (k,) int64.

    Raises:
        ValueError: for an argument outside its range.

    Example:
        >>> rows = np.repeat([[0.0], [5.0], [9.0]], [10, 2, 1], axis=0)
        >>> chosen = KMeansQuality(3, budget=9).fit_select(rows)
        >>> len(chosen.indices), int((chosen.indices >= 10).sum())
        (9, 3)
    """

    labels_: Array
    centroids_: Array | None
    sizes_: Array
    quota_: Array

    def __init__(
        self,
        n_clusters: int = 1024,
        *,
        budget: float = 0.1,
        weighting: Weighting = "softmax",
        temperature: float = 1.0,
        fill: bool = True,
        spherical: bool = False,
        iterations: int = 25,
        seed: Seed = 0,
    ) -> None:
        checks.at_least("n_clusters", n_clusters, 1)
        checks.at_least("iterations", iterations, 1)
        checks.one_of("weighting", weighting, WEIGHTINGS)
        checks.positive("temperature", temperature)
        self.n_clusters, self.budget, self.temperature, self.fill = n_clusters, budget, temperature, fill
        self.weighting: Weighting = weighting
        self.spherical, self.iterations, self.seed = spherical, iterations, seed

    def fit_select(
        self, embeddings: ArrayLike, quality: ArrayLike | None = None, *, labels: ArrayLike | None = None
    ) -> Selection:
        """Cluster and draw.

        Args:
            embeddings: (n, d) float; only their number counts where labels are given.
            quality: (n,) float, more is better; left out, all rows of a cluster are alike.
            labels: (n,) int, clusters that are known already.

        Returns:
            indices in ascending order; scores (n,), quality, or NaN without; log_weights (n,); reasons of the dropped
            rows: row, rule, rival (the row of their cluster that was drawn first, -1 for none), score. Tensors for a
            tensor.

        Raises:
            ValueError: for more clusters than rows, a budget above the rows, or quality of another length, with NaN, or
                below 0 where it is proportional.
        """
        n = len(embeddings)
        checks.require(n > 0, "embeddings must have at least one row.")
        rng = as_generator(self.seed)
        count = checks.budget_count(self.budget, n)
        given = None if quality is None else as_array(quality)
        keys = _log_weights(given, n, "uniform" if given is None else self.weighting, self.temperature)
        if labels is None:
            self.labels_, self.centroids_ = cluster_rows(
                embeddings, self.n_clusters, spherical=self.spherical, iterations=self.iterations, seed=rng
            )
        else:
            self.labels_, self.centroids_ = known_labels(labels, n), None
        clusters = self.n_clusters if labels is None else int(self.labels_.max()) + 1
        self.sizes_ = np.bincount(self.labels_, minlength=clusters)
        self.quota_ = equal_quotas(self.sizes_, count, fill=self.fill, seed=rng)
        # Gumbel noise on log-weights: the largest of each cluster are a draw without replacement. Rows of quality 0 are
        # drawn last, in random order.
        noise = rng.gumbel(size=n)
        order = np.where(np.isneginf(keys), noise - 1e6, keys + noise)
        rank = allocation.rank_in_group(order, self.labels_)
        kept = rank < self.quota_[self.labels_]
        rivals = np.full(clusters, -1)
        firsts = np.flatnonzero(kept & (rank == 0))
        rivals[self.labels_[firsts]] = firsts
        scores = np.full(n, np.nan) if given is None else given.astype(np.float64)
        weights = np.where(kept, 0.0, -np.inf)
        dropped = np.flatnonzero(~kept)
        rule = np.full(len(dropped), "over its cluster's quota", dtype=object)
        rival = rivals[self.labels_[dropped]]
        reasons = {"row": dropped, "rule": rule, "rival": rival, "score": scores[dropped]}
        return selection_like(Selection(np.flatnonzero(kept), scores, weights, reasons), embeddings)


def _log_weights(quality: Array | None, n: int, weighting: str, temperature: float) -> Array:
    """Log of the weights that rows are drawn by, (n,)."""
    checks.one_of("weighting", weighting, WEIGHTINGS)
    checks.positive("temperature", temperature)
    if quality is None:
        return np.zeros(n)
    values = quality.astype(np.float64)
    checks.require(values.shape == (n,), f"quality must be ({n},), one number per row: got shape {values.shape}.")
    checks.finite("quality", values)
    if weighting == "uniform":
        return np.zeros(n)
    if weighting == "softmax":
        found: Array = (values - values.max(initial=0)) / temperature
        return found
    low = values.min(initial=0)
    checks.require(low >= 0, f"quality must be at least 0 to draw in proportion to it: got {low}.")
    with np.errstate(divide="ignore"):
        return np.log(values)
