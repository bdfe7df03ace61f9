"""Batches of one topic, or of a few: which queries share a batch."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from tamis import checks
from tamis.randomness import child_seed
from tamis.sampling import Batches, EpochSampler

Array = np.ndarray[Any, Any]

_TRIES = 3  # rounds of drawing with rejection before the exact race over all clusters


class TopicBatchSampler(EpochSampler[list[int]]):
    """Full batches of queries from ``clusters_per_batch`` topics each (arXiv:2104.06967, section 3.1).

    Until a batch is full a cluster is drawn and gives ``batch_size // clusters_per_batch`` of its rows without
    replacement, or all when it is smaller. Batches are drawn independently, so an epoch is a number of batches and not
    a pass: a row may come in several of them or in none. Clusters come from any clustering, ``tamis.clustering.kmeans``
    on a baseline's embeddings say (the paper: 2,000 clusters of 400,000 queries). With all rows in one cluster batches
    are random. Not from a cold start: a model that has not learnt the coarse order yet learns it from random batches.

    Args:
        cluster_ids: (n,) int, the cluster of each row; a negative number is none, and such rows are never drawn.
        batch_size: rows per batch.
        clusters_per_batch: n, from 1 to ``batch_size`` (paper: 1).
        weight: "uniform" draws clusters alike, so rows of small clusters come more often; "size" by their rows.
        num_batches: batches of an epoch over all ranks; default as many as the rows fill.
        usable: (n,) bool, rows that may be drawn, those that have pairs (``MarginBins.knows``) say; default all.
        redraw_clusters: let a batch draw a cluster again and so a row twice, as the official loader does.
        seed: seed of the run.
        rank: which of the ``num_replicas`` processes this is.
        num_replicas: processes that share the batches, see ``EpochSampler``.
        uneven: "drop" or "repeat" for an incomplete last round of batches, see ``EpochSampler``.

    Returns:
        a batch sampler for ``DataLoader(batch_sampler=...)``.

    Raises:
        ValueError: for no usable row, sizes out of range, or clusters too small to fill a batch.
        TypeError: for clusters that are not integers.

    Warns:
        UserWarning: when a cluster has no usable row and is left out.

    Example:
        >>> sampler = TopicBatchSampler([0, 0, 1, 1, 1], batch_size=2, num_batches=4)
        >>> len(sampler), sampler.purity.tolist()
        (4, [1.0, 1.0, 1.0, 1.0])
    """

    def __init__(
        self,
        cluster_ids: Array | torch.Tensor | Sequence[int],
        batch_size: int,
        *,
        clusters_per_batch: int = 1,
        weight: str = "uniform",
        num_batches: int | None = None,
        usable: Array | torch.Tensor | None = None,
        redraw_clusters: bool = False,
        seed: int = 0,
        rank: int = 0,
        num_replicas: int = 1,
        uneven: str = "drop",
    ) -> None:
        super().__init__(seed=seed, rank=rank, num_replicas=num_replicas, uneven=uneven)
        clusters = np.asarray(cluster_ids.cpu() if isinstance(cluster_ids, torch.Tensor) else cluster_ids)
        checks.require(
            clusters.ndim == 1 and len(clusters) > 0,
            f"cluster_ids must be (n,) and not empty: got shape {clusters.shape}.",
        )
        if not np.issubdtype(clusters.dtype, np.integer):
            raise TypeError(f"cluster_ids must be integers: got {clusters.dtype}.")
        checks.at_least("batch_size", batch_size, 1)
        checks.between("clusters_per_batch", clusters_per_batch, 1, batch_size)
        checks.one_of("weight", weight, ("uniform", "size"))
        self.batch_size = batch_size
        self.redraw_clusters = redraw_clusters
        self._topic = clusters
        self._rows, self._size, self.left_out = _by_cluster(clusters, usable)
        self._first = np.cumsum(self._size) - self._size
        self._quota = batch_size // clusters_per_batch
        self._share = (self._size if weight == "size" else np.ones(len(self._size))) / (
            self._size.sum() if weight == "size" else len(self._size)
        )
        room = int(np.minimum(self._size, self._quota).sum())
        checks.require(
            redraw_clusters or room >= batch_size,
            f"clusters must fill a batch of {batch_size}: with {self._quota} rows at most from each they give {room}; "
            "take smaller batches, fewer clusters_per_batch or redraw_clusters=True.",
        )
        self.num_batches = max(1, len(self._rows) // batch_size) if num_batches is None else num_batches
        checks.at_least("num_batches", self.num_batches, 1)

    def plan(self, epoch: int) -> Batches:
        """All batches of an epoch, over all ranks.

        Args:
            epoch: number of the epoch, from 0.

        Returns:
            the batches, all of ``batch_size`` rows.
        """
        rng = np.random.default_rng(child_seed(self.seed, "tas_balanced", epoch))
        cluster, take = self._draws(rng)
        rows = np.empty(self.num_batches * self.batch_size, dtype=np.int64)
        place = np.cumsum(take) - take
        whole = take == self._size[cluster]
        within = _count_up(take[whole])
        rows[np.repeat(place[whole], take[whole]) + within] = (
            np.repeat(self._first[cluster[whole]], take[whole]) + within
        )
        part, part_place, part_take = cluster[~whole], place[~whole], take[~whole]
        for block in np.array_split(np.arange(len(part)), len(part) // 1024 + 1):  # small enough for the cache
            picks = _subsets(self._size[part[block]], part_take[block], rng)
            at = np.arange(len(picks))[:, None]
            real = picks >= 0
            rows[(part_place[block] + at)[real]] = (self._first[part[block]] + picks)[real]
        return Batches.of_size(self._rows[rows], self.batch_size)

    @property
    def purity(self) -> Array:
        """(batches,) float, the share of each batch's rows that its most common topic has, this epoch, all ranks."""
        plan = self._plan()
        assert isinstance(plan, Batches)
        batch = np.repeat(np.arange(self.num_batches), self.batch_size)
        topics, topic = np.unique(self._topic[plan.indices], return_inverse=True)
        pairs, counts = np.unique(batch * len(topics) + topic, return_counts=True)
        first = np.flatnonzero(np.diff(pairs // len(topics), prepend=-1))
        purity: Array = np.maximum.reduceat(counts, first) / self.batch_size
        return purity

    def _draws(self, rng: np.random.Generator) -> tuple[Array, Array]:
        """Clusters drawn and rows taken from each, batch after batch."""
        likely = float(np.minimum(self._size, self._quota) @ self._share)
        width = int(1.5 * self.batch_size / likely) + 2
        waiting = np.arange(self.num_batches)
        drawn = np.empty((self.num_batches, 0), dtype=np.int64)
        done: list[tuple[Array, Array, Array]] = []
        tries = 0
        while len(waiting):
            if tries < _TRIES or self.redraw_clusters:
                new = np.searchsorted(np.cumsum(self._share)[:-1], rng.random((len(waiting), width)), side="right")
            else:
                # Where rare clusters are needed: an exponential race orders all as drawing one by one would.
                race = rng.exponential(size=(len(waiting), len(self._share))) / self._share
                new = np.argsort(race, axis=1)
            drawn = np.concatenate([drawn, new], axis=1)
            take = np.minimum(self._size, self._quota)[drawn]
            if not self.redraw_clusters:
                take[_came_before(drawn)] = 0
            before = np.cumsum(take, axis=1) - take
            take = np.clip(self.batch_size - before, 0, take)
            full = take.sum(axis=1) == self.batch_size
            batch, column = np.nonzero(take[full])
            done.append((waiting[full][batch], drawn[full][batch, column], take[full][batch, column]))
            waiting, drawn = waiting[~full], drawn[~full]
            tries, width = tries + 1, 2 * width
        batch, cluster, taken = (np.concatenate(column) for column in zip(*done, strict=True))
        order = np.argsort(batch, kind="stable")
        return cluster[order], taken[order]


def topics_of(assignments: Mapping[Hashable, int], query_ids: Sequence[Hashable]) -> Array:
    """The cluster of each row from a table of query to cluster, as a file of clusters has it.

    The door to the clusters of arXiv:2104.06967, which are made once and kept.

    Args:
        assignments: query id -> cluster, an int that is not negative.
        query_ids: n ids, one per row.

    Returns:
        (n,) int64, -1 for a row without a cluster.

    Raises:
        ValueError: when a query of the table is none of the rows.

    Example:
        >>> topics_of({"q7": 3, "q9": 0}, ["q9", "q8", "q7"]).tolist()
        [0, -1, 3]
    """
    unknown = assignments.keys() - set(query_ids)
    checks.require(
        not unknown,
        f"assignments must be of known queries: {len(unknown)} are not among query_ids, such as "
        f"{checks.shown(min(unknown, key=str)) if unknown else None}.",
    )
    return np.array([assignments.get(query, -1) for query in query_ids], dtype=np.int64)


def _by_cluster(clusters: Array, usable: Array | torch.Tensor | None) -> tuple[Array, Array, Array]:
    """Usable rows side by side by cluster, how many each cluster has, and the clusters without any."""
    kept = clusters >= 0
    if usable is not None:
        checks.same_length("usable", usable, "cluster_ids", clusters)
        kept = kept & np.asarray(usable, dtype=bool)
    rows = np.flatnonzero(kept)
    checks.require(len(rows) > 0, "cluster_ids must leave a row to draw: no row has a cluster and is usable.")
    order = rows[np.argsort(clusters[rows], kind="stable")]
    names, size = np.unique(clusters[rows], return_counts=True)
    left_out = np.setdiff1d(clusters[clusters >= 0], names)
    if len(left_out):
        warnings.warn(
            f"{len(left_out)} clusters have no usable row and are left out, the first is {left_out[0]}.", stacklevel=3
        )
    return order, size, left_out


def _came_before(drawn: Array) -> Array:
    """True where a row holds an entry that stands further left already."""
    order = np.argsort(drawn, axis=1, kind="stable")
    ordered = np.take_along_axis(drawn, order, 1)
    again = np.zeros(drawn.shape, dtype=bool)
    np.put_along_axis(again, order[:, 1:], ordered[:, 1:] == ordered[:, :-1], 1)
    return again


def _count_up(lengths: Array) -> Array:
    """0, 1, ... for each length, one after another."""
    counted: Array = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return counted


def _subsets(size: Array, take: Array, rng: np.random.Generator) -> Array:
    """``take`` different places below ``size`` for each entry, all subsets alike (Floyd 1987); -1 fills up.

    Returns (most taken, entries): a column per entry.
    """
    picks = np.full((int(take.max(initial=0)), len(size)), -1, dtype=np.int64)
    for k in range(len(picks)):
        top = size - take + k
        pick = (rng.random(len(size)) * (top + 1)).astype(np.int64)
        picks[k] = np.where(k < take, np.where((picks[:k] == pick).any(0), top, pick), -1)
    return picks
