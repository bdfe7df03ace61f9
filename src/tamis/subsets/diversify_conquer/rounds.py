"""Rounds: ask for rows, tell how they scored, and let the budget move to clusters that scored well."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch

from tamis import allocation, checks
from tamis.randomness import child_seed
from tamis.results import Selection, as_array
from tamis.subsets.diversify_conquer.clusters import cluster_rows, equal_quotas, known_labels

Array = np.ndarray[Any, Any]
ArrayLike = Array | torch.Tensor


def feedback_weights(
    scores: ArrayLike, previous: ArrayLike | None = None, *, feedback: Literal["softmax", "proportional"] = "softmax"
) -> Array:
    """Weights of clusters after a round: their mean scores, or the exponential of them, times the weights before.

    Args:
        scores: (k,) float, mean score of each cluster.
        previous: (k,) float, weights so far; left out, they do not count.
        feedback: "softmax" takes the exponential, as the official code does, "proportional" the scores themselves, as
            the paper has it; those must be at least 0, and clusters part much faster.

    Returns:
        (k,) float64 that adds up to 1; all equal where nothing is left.

    Raises:
        ValueError: for scores that are not finite, or below 0 where they are proportional; weights of another length.

    Example:
        >>> feedback_weights(np.array([1.0, 0.0, -1.0])).round(6).tolist()
        [0.665241, 0.244728, 0.090031]
    """
    c = as_array(scores).astype(np.float64)
    checks.require(c.ndim == 1 and len(c) > 0, f"scores must be (k,), not empty: got shape {c.shape}.")
    checks.finite("scores", c)
    before = np.ones(len(c)) if previous is None else as_array(previous).astype(np.float64)
    checks.same_length("previous", before, "scores", c)
    checks.one_of("feedback", feedback, ("softmax", "proportional"))
    low = float(c.min())
    checks.require(feedback == "softmax" or low >= 0, f"scores must be at least 0 to be proportional: got {low}.")
    raw = before * (np.exp(c - c.max()) if feedback == "softmax" else c)
    found: Array = raw / raw.sum() if raw.sum() > 0 else np.full(len(c), 1 / len(c))
    return found


class IterativeClusterSelector:
    """Spend a budget in rounds, more of it in clusters whose rows were worth it (arXiv:2409.11378).

    Call ``fit`` once, then ``ask`` for rows, train on all rows so far, score the new ones, ``tell``, and so on; after
    the last round ``selection`` has them all. Any score will do for which more is better: how much better the given
    answer is than the model's own, or the probability the model gives a row it did not learn from. When not to use:
    with scores that say how *easy* a row is. In the claim they starve junk and hard, clean classes alike, and accuracy
    falls to that of random rows; ``min_weight`` repairs part of it, and lets part of the junk in again.

    Args:
        n_clusters: for k-means; the official code has 512.
        budget: rows in all, a count or a share.
        rounds: over which it is spent, evenly.
        accumulate: multiply the weights of all rounds, as the paper has it; without it only the last round counts, as
            in the code.
        feedback: as in ``feedback_weights``.
        min_weight: least weight of a cluster as a part of the equal share, 0 to 1.
        spherical: cluster by direction.
        iterations: most rounds of k-means.
        seed: of clusters and draws.

    Attributes: labels_ (n,) int64 after ``fit``; cluster_weights_ (k,), that the next round draws by; history_, for
    each round the rows and, once told, their scores.

    Raises:
        ValueError: for an argument outside its range, or ``tell`` before ``ask``.

    Example:
        >>> selector = IterativeClusterSelector(budget=6, rounds=3).fit(labels=np.repeat([0, 1], 10))
        >>> for _ in range(3):
        ...     rows = selector.ask()
        ...     selector.tell(rows, np.where(rows < 10, 4.0, 0.0))
        >>> int((selector.selection().indices < 10).sum())
        5
    """

    labels_: Array
    cluster_weights_: Array

    def __init__(
        self,
        n_clusters: int = 512,
        *,
        budget: float = 0.05,
        rounds: int = 3,
        accumulate: bool = True,
        feedback: Literal["softmax", "proportional"] = "softmax",
        min_weight: float = 0.0,
        spherical: bool = False,
        iterations: int = 25,
        seed: int = 0,
    ) -> None:
        checks.at_least("n_clusters", n_clusters, 1)
        checks.at_least("iterations", iterations, 1)
        checks.at_least("rounds", rounds, 1)
        checks.one_of("feedback", feedback, ("softmax", "proportional"))
        checks.between("min_weight", min_weight, 0.0, 1.0)
        self.feedback: Literal["softmax", "proportional"] = feedback
        self.n_clusters, self.budget, self.rounds, self.accumulate = n_clusters, budget, rounds, accumulate
        self.min_weight, self.spherical, self.iterations, self.seed = min_weight, spherical, iterations, seed
        self.history_: list[dict[str, Array]] = []

    def fit(self, embeddings: ArrayLike | None = None, *, labels: ArrayLike | None = None) -> IterativeClusterSelector:
        """Find the clusters, or take those that are there, and begin anew.

        Args:
            embeddings: (n, d) float.
            labels: (n,) int, instead.

        Returns:
            itself.
        """
        checks.require((embeddings is None) != (labels is None), "give either embeddings or labels.")
        if labels is not None:
            self.labels_ = known_labels(labels)
        elif embeddings is not None:
            seed = child_seed(self.seed, "clusters")
            found, _ = cluster_rows(
                embeddings, self.n_clusters, spherical=self.spherical, iterations=self.iterations, seed=seed
            )
            self.labels_ = known_labels(found)  # clusters without rows would hold weight that no draw can use
        self._total = checks.budget_count(self.budget, len(self.labels_))
        self._clusters = int(self.labels_.max()) + 1
        self.cluster_weights_ = np.full(self._clusters, 1 / self._clusters)
        self.history_ = []
        return self

    def ask(self) -> Array:
        """The rows of the next round; asked again before ``tell``, the same ones.

        Returns:
            int64, in random order; none where the budget is spent.

        Raises:
            ValueError: before ``fit``.
        """
        checks.require(hasattr(self, "labels_"), "nothing to choose from yet: call fit first.")
        if self.history_ and "scores" not in self.history_[-1]:
            return self.history_[-1]["rows"].copy()
        number = len(self.history_)
        if number >= self.rounds:
            return np.empty(0, dtype=np.int64)
        count = self._total * (number + 1) // self.rounds - self._total * number // self.rounds
        rng = np.random.default_rng(child_seed(self.seed, "round", number))
        left = np.ones(len(self.labels_), dtype=bool)
        left[self._chosen()] = False
        held = np.bincount(self.labels_[left], minlength=self._clusters)
        quota = equal_quotas(held, count, seed=rng) if number == 0 else self._drawn(held, count, rng)
        order = np.where(left, rng.random(len(left)), -1.0)
        rank = allocation.rank_in_group(order, self.labels_)
        rows = rng.permutation(np.flatnonzero(rank < quota[self.labels_])).astype(np.int64)
        self.history_.append({"rows": rows})
        return rows.copy()

    def tell(self, indices: ArrayLike, scores: ArrayLike) -> None:
        """Say how the rows of the round scored.

        Args:
            indices: the rows that were asked for, in any order.
            scores: float, one each, more is better.

        Raises:
            ValueError: before ``ask``, for other rows, or scores that are not finite.
        """
        rows, values = as_array(indices).astype(np.int64), as_array(scores).astype(np.float64)
        waiting = bool(self.history_) and "scores" not in self.history_[-1]
        checks.require(waiting, "no rows were asked for: call ask before tell.")
        asked = self.history_[-1]["rows"]
        checks.same_length("scores", values, "indices", rows)
        checks.finite("scores", values)
        same = len(rows) == len(asked) and bool((np.sort(rows) == np.sort(asked)).all())
        checks.require(same, f"indices must be the {len(asked)} rows that were asked for.")
        clusters = self.labels_[rows]
        counts = np.bincount(clusters, minlength=self._clusters)
        sums = np.bincount(clusters, weights=values, minlength=self._clusters)
        mean = np.where(counts > 0, sums / np.maximum(counts, 1), values.mean() if len(values) else 0.0)
        before = self.cluster_weights_ if self.accumulate else None
        self.cluster_weights_ = feedback_weights(mean, before, feedback=self.feedback)
        self.history_[-1] = {"rows": rows, "scores": values, "cluster_scores": mean, "weights": self.cluster_weights_}

    def selection(self) -> Selection:
        """All rows so far.

        Returns:
            indices in the order of the rounds, scores (n,) as they were told (NaN elsewhere), log-weights, reasons.
        """
        chosen, n = self._chosen(), len(self.labels_)
        scores, weights = np.full(n, np.nan), np.full(n, -np.inf)
        weights[chosen] = 0.0
        for part in self.history_:
            scores[part["rows"]] = part.get("scores", np.nan)
        dropped = np.flatnonzero(np.isneginf(weights))
        share = self.cluster_weights_[self.labels_[dropped]]
        rule = np.full(len(dropped), "not drawn", dtype=object)
        reasons = {"row": dropped, "rule": rule, "rival": np.full(len(dropped), -1), "score": share}
        return Selection(chosen, scores, weights, reasons)

    def _chosen(self) -> Array:
        return np.concatenate([np.empty(0, dtype=np.int64), *(part["rows"] for part in self.history_)])

    def _drawn(self, held: Array, count: int, rng: np.random.Generator) -> Array:
        """Rows of each cluster by a multinomial draw; what a cluster has not left is drawn again among the others."""
        weights = (1 - self.min_weight) * self.cluster_weights_ + self.min_weight / self._clusters
        quota = np.zeros(self._clusters, dtype=np.int64)
        while (missing := count - int(quota.sum())) > 0:
            open_weights = np.where(held > quota, weights, 0.0)
            if open_weights.sum() <= 0:
                open_weights = (held - quota).astype(np.float64)
            quota = np.minimum(held, quota + rng.multinomial(missing, open_weights / open_weights.sum()))
        return quota
