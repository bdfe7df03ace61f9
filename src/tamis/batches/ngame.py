"""NGAME: batches made of clusters, so that ordinary in-batch negatives are hard ones.

Embeddings of the queries are cut into small balanced clusters, and every batch is filled with whole clusters: the other
rows of a batch lie close, and no index and no extra encoding per step is needed. Clusters start as single rows, which
is random batching, grow on a schedule, and are made anew every few epochs as the encoder moves. The loss takes the k
hardest negatives of each row and leans on those that violate the margin most. Every label of a row counts as a
positive, not just the one drawn: in dense batches a shared label would otherwise be taken for a hard negative.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import chain
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from tamis import checks
from tamis.clustering import balanced_bisect
from tamis.method import Method
from tamis.randomness import child_seed
from tamis.sampling import Batches, EpochSampler

Array = np.ndarray[Any, Any]
Kind = TypeVar("Kind", Array, Tensor)

METHOD = Method(
    title="NGAME: Negative Mining-aware Mini-batching for Extreme Classification",
    paper="arXiv:2207.04452",
    year=2022,
    code="Extreme-classification/ngame",
    claim="One cluster of 64 rows per batch of 64 beats random batches in P@1 and gives harder in-batch negatives.",
    peers=(),
    deviations=(
        "places in the top k that no true negative fills are left out of the mean and the softmax",
        "new clusters act in the epoch they were made for; the official loop draws that epoch's order before it",
        "shuffle_within, power_of_two=False, log_weights",
        "stage 2 of the paper (extreme classifiers, score fusion) is not part of this method",
    ),
)

NGAME_SCHEDULE: Mapping[int, float] = MappingProxyType({e: 2 for e in (10, 20, 25, 50, 75, 100, 125, 150, 200)})
"""The curriculum of the official configuration (LF-AmazonTitles-131K, 300 epochs): cluster sizes double."""


class ClusterBatchSampler(EpochSampler[list[int]]):
    """Batches of whole clusters, after section 3 of NGAME: clusters in random order, cut into batches.

    Call ``update`` with fresh embeddings before an epoch for which ``due`` says so. Until the first update every row is
    its own cluster, so batches are random. A cluster can straddle two batches. Under several ranks every rank must
    update with the same embeddings. The clusters are part of ``state_dict``.

    Args:
        num_rows: rows of the data.
        batch_size: rows per batch.
        cluster_size: rows per cluster at epoch 0.
        schedule: ``{epoch: factor}``: from that epoch on clusters are larger by the factor, up to all rows. A size
            takes effect at the next update. The default doubles as the paper does; ``{}`` keeps one size.
        refresh_interval: epochs between updates.
        power_of_two: number of clusters a power of two, as in the official code: clusters then hold between half of the
            size and the size. False gives ``ceil(num_rows / size)`` clusters.
        shuffle_within: also shuffle rows inside each cluster. The official code keeps their order, so straddling
            clusters fall apart at the same rows.
        drop_last: leave out the last batch when it is short.
        seed: seed of the run.
        rank: which of the ``num_replicas`` processes this is.
        num_replicas: processes that share the batches, see ``EpochSampler``.
        uneven: "drop" or "repeat" for an incomplete last round of batches, see ``EpochSampler``.

    Returns:
        a batch sampler for ``DataLoader(batch_sampler=...)``.

    Raises:
        ValueError: for sizes below 1, a cluster larger than the data, or a factor or epoch that is not positive.

    Example:
        >>> sampler = ClusterBatchSampler(4, batch_size=2, cluster_size=2)
        >>> sampler.update(np.array([[0.0, 1.0], [1.0, 0.0], [0.1, 0.9], [0.9, 0.1]]), epoch=0)
        >>> sorted(sorted(batch) for batch in sampler)
        [[0, 2], [1, 3]]
    """

    def __init__(
        self,
        num_rows: int,
        batch_size: int,
        *,
        cluster_size: int = 1,
        schedule: Mapping[int, float] = NGAME_SCHEDULE,
        refresh_interval: int = 5,
        power_of_two: bool = True,
        shuffle_within: bool = False,
        drop_last: bool = False,
        seed: int = 0,
        rank: int = 0,
        num_replicas: int = 1,
        uneven: str = "drop",
    ) -> None:
        super().__init__(seed=seed, rank=rank, num_replicas=num_replicas, uneven=uneven)
        checks.at_least("num_rows", num_rows, 1)
        checks.at_least("batch_size", batch_size, 1)
        checks.between("cluster_size", cluster_size, 1, num_rows)
        checks.at_least("refresh_interval", refresh_interval, 1)
        for epoch, factor in schedule.items():
            checks.positive("the epoch of a schedule", epoch)
            checks.positive("the factor of a schedule", factor)
        self.num_rows = num_rows
        self.batch_size = batch_size
        self.first_cluster_size = cluster_size
        self.schedule = dict(schedule)
        self.refresh_interval = refresh_interval
        self.power_of_two = power_of_two
        self.shuffle_within = shuffle_within
        self.drop_last = drop_last
        self.clusters: Tensor | None = None
        self.updated_for: int | None = None

    def cluster_size_at(self, epoch: int) -> int:
        """The size of the clusters that an update for this epoch makes.

        Args:
            epoch: number of the epoch, from 0.

        Returns:
            rows per cluster, from 1 to all rows.
        """
        factor = math.prod(f for start, f in self.schedule.items() if start <= epoch)
        return min(self.num_rows, max(1, round(self.first_cluster_size * factor)))

    def due(self, epoch: int) -> bool:
        """Whether this epoch should begin with an update: its clusters have more than one row and are not made yet.

        Args:
            epoch: number of the epoch, from 0.

        Returns:
            True every ``refresh_interval`` epochs, but not again for an epoch that was updated for (or resumed in).
        """
        waits = self.updated_for is None or self.updated_for < epoch
        return waits and self.cluster_size_at(epoch) > 1 and epoch % self.refresh_interval == 0

    def update(self, embeddings: Kind, epoch: int) -> None:
        """Cluster the rows anew, with the size that the schedule has for this epoch.

        Args:
            embeddings: (num_rows, d) float, from the current encoder; only directions count.
            epoch: number of the epoch that is to use them, from 0.

        Raises:
            ValueError: for another number of rows, NaN, or rows of length zero.
        """
        checks.at_least("epoch", epoch, 0)
        checks.require(
            len(embeddings) == self.num_rows,
            f"embeddings must have one row per row of the data: {self.num_rows} rows, {len(embeddings)} embeddings.",
        )
        labels = balanced_bisect(
            embeddings,
            cluster_size=self.cluster_size_at(epoch),
            power_of_two=self.power_of_two,
            seed=child_seed(self.seed, "ngame clusters", epoch),
        )
        self.clusters = torch.as_tensor(labels).cpu()
        self.updated_for = epoch
        self._replan()

    def plan(self, epoch: int) -> Batches:
        """All batches of an epoch, over all ranks: clusters in random order, cut into slices of ``batch_size``.

        Args:
            epoch: number of the epoch, from 0.

        Returns:
            the batches.
        """
        rng = np.random.default_rng(child_seed(self.seed, "ngame", epoch))
        clusters = np.arange(self.num_rows) if self.clusters is None else self.clusters.numpy()
        place = rng.permutation(int(clusters.max()) + 1)[clusters]
        rows = rng.permutation(self.num_rows) if self.shuffle_within else np.arange(self.num_rows)
        rows = rows[np.argsort(place[rows], kind="stable")]
        return Batches.of_size(rows, self.batch_size, drop_last=self.drop_last)

    def _more_state(self) -> dict[str, Any]:
        return {"clusters": self.clusters, "updated_for": self.updated_for}

    def _load_more_state(self, state: Mapping[str, Any]) -> None:
        clusters = state["clusters"]
        checks.require(
            clusters is None or len(clusters) == self.num_rows,
            f"state must hold clusters for the rows of the data: {self.num_rows} rows, "
            f"{0 if clusters is None else len(clusters)} in the state.",
        )
        self.clusters, self.updated_for = clusters, state["updated_for"]


class TripletOHNM(nn.Module):
    """Triplet margin loss with online hard negative mining (step 6 of NGAME), on embeddings and cosine similarity.

    Args:
        margin: by how much a positive is to beat a negative, in cosine.
        num_negatives: hardest negatives per row (k).
        temperature: of the softmax over the chosen negatives (tau).
        aggressive: weigh negatives by that softmax, through which the gradient flows.
        masked_softmax: give no weight to negatives that do not violate the margin; the official code gives them
            logit 0.

    Returns:
        the mean over rows and chosen negatives, a scalar; see ``triplet_ohnm``.

    Example:
        >>> rows = torch.eye(4, 8)
        >>> loss = TripletOHNM(num_negatives=2)
        >>> loss(rows, rows).item(), round(loss(rows, rows.roll(1, 0)).item(), 3)
        (0.0, 0.65)
    """

    def __init__(
        self,
        *,
        margin: float = 0.3,
        num_negatives: int = 10,
        temperature: float = 0.1,
        aggressive: bool = True,
        masked_softmax: bool = False,
    ) -> None:
        super().__init__()
        checks.at_least("num_negatives", num_negatives, 1)
        checks.positive("temperature", temperature)
        self.margin = margin
        self.num_negatives = num_negatives
        self.temperature = temperature
        self.aggressive = aggressive
        self.masked_softmax = masked_softmax

    def forward(
        self, queries: Tensor, passages: Tensor, targets: Tensor | None = None, log_weights: Tensor | None = None
    ) -> Tensor:
        """Loss of a batch: passage i is the positive of query i.

        Args:
            queries: (b, d) float.
            passages: (b, d) float.
            targets: (b, b) bool, see ``multilabel_targets``; None means that only passage i belongs to query i.
            log_weights: (b, b) float, see ``triplet_ohnm``.

        Returns:
            a scalar.

        Raises:
            ValueError: for NaN, rows of length zero, other shapes, or ``num_negatives`` not below b.
        """
        for name, value in (("queries", queries), ("passages", passages)):
            checks.matrix(name, value)
            checks.finite(name, value.detach())
            checks.require(
                bool(value.detach().any(dim=1).all()),
                f"{name} must have a direction: a row has length zero; leave it out.",
            )
        checks.same_shape("passages", passages, "queries", queries)
        scores = nn.functional.normalize(queries, dim=1) @ nn.functional.normalize(passages, dim=1).T
        if targets is None:
            targets = torch.eye(len(scores), dtype=torch.bool, device=scores.device)
        return triplet_ohnm(
            scores,
            targets,
            margin=self.margin,
            num_negatives=self.num_negatives,
            temperature=self.temperature,
            aggressive=self.aggressive,
            masked_softmax=self.masked_softmax,
            log_weights=log_weights,
        )


def triplet_ohnm(
    scores: Tensor,
    targets: Tensor,
    *,
    margin: float = 0.3,
    num_negatives: int = 10,
    temperature: float = 0.1,
    aggressive: bool = True,
    masked_softmax: bool = False,
    log_weights: Tensor | None = None,
) -> Tensor:
    """The loss of ``TripletOHNM`` on scores: relu(s- - s+ + margin) over the k hardest negatives of each row.

    With ``aggressive`` each term is multiplied by softmax(s- / temperature) over the row's chosen negatives, where
    terms of zero have logit 0, or none with ``masked_softmax``. Rows with fewer than k true negatives count only those.

    Args:
        scores: (b, m) float, m >= b; the positive of row i is column i.
        targets: (b, m) bool, True where a column is a positive of the row, the diagonal among them.
        margin: in units of the scores.
        num_negatives: k, below m.
        temperature: in units of the scores.
        aggressive: weigh by the softmax.
        masked_softmax: leave terms of zero out of the softmax.
        log_weights: (b, m) float: ``-inf`` is never chosen, anything else multiplies the term by its exponential. It
            takes no gradient.

    Returns:
        a scalar: the mean over the negatives chosen.

    Raises:
        ValueError: for other shapes, a diagonal that is not all True, or k not below m.

    Example:
        >>> scores = torch.tensor([[0.9, 0.8], [0.1, 0.9]])
        >>> targets = torch.eye(2, dtype=torch.bool)
        >>> round(triplet_ohnm(scores, targets, num_negatives=1, aggressive=False).item(), 4)  # (0.2 + 0) / 2
        0.1
    """
    checks.matrix("scores", scores)
    b, m = scores.shape
    checks.require(m >= b, f"scores must have a column for every row's positive: got shape {tuple(scores.shape)}.")
    checks.same_shape("targets", targets, "scores", scores)
    checks.require(num_negatives < m, f"num_negatives must be below the columns of scores: {m}, got {num_negatives}.")
    targets = targets.bool()
    checks.require(
        bool(targets.diagonal().all()), "targets must be True on the diagonal: column i is row i's positive."
    )
    candidate = ~targets
    if log_weights is not None:
        checks.same_shape("log_weights", log_weights, "scores", scores)
        candidate = candidate & ~torch.isneginf(log_weights)
    _, columns = scores.detach().masked_fill(~candidate, -math.inf).topk(num_negatives, dim=1)
    chosen = candidate.gather(1, columns)
    negative = scores.gather(1, columns)
    terms = torch.relu(negative - scores.diagonal()[:, None] + margin).masked_fill(~chosen, 0)
    if aggressive:
        violates = terms.detach() > 0
        logits = (negative / temperature).masked_fill(~violates, -math.inf if masked_softmax else 0)
        logits = logits.masked_fill(~chosen, -math.inf)
        # A row without a logit has only terms of zero: any weights will do, but not the NaN of an empty softmax.
        empty = torch.isneginf(logits.detach()).all(dim=1, keepdim=True)
        terms = terms * torch.softmax(logits.masked_fill(empty, 0), dim=1)
    if log_weights is not None:
        terms = terms * log_weights.detach().gather(1, columns).masked_fill(~chosen, 0).exp()
    return terms.sum() / chosen.sum().clamp_min(1)


def multilabel_targets(positive_ids: Kind, label_sets: Sequence[Sequence[int]] | tuple[Array, Array]) -> Kind:
    """Which columns of a batch are positives of which rows, by all labels of each row (step 5 of NGAME).

    Args:
        positive_ids: (b,) int, the label drawn for each row; column j stands for it.
        label_sets: the labels of each row: b sequences of ints, or CSR as a tuple of arrays (indptr (b + 1,), labels).

    Returns:
        (b, b) bool, array or tensor like ``positive_ids``: True where the label of column j is in the set of row i.

    Raises:
        ValueError: for another number of sets, or a drawn label that is not in its row's set.

    Example:
        >>> multilabel_targets(np.array([5, 7, 5]), [[5, 7], [7], [5]]).tolist()
        [[True, True, True], [False, True, False], [True, False, True]]
    """
    ids = positive_ids.cpu().numpy() if isinstance(positive_ids, Tensor) else np.asarray(positive_ids)
    checks.require(ids.ndim == 1 and len(ids) > 0, f"positive_ids must be (b,) and not empty: got shape {ids.shape}.")
    if isinstance(label_sets, tuple):
        lengths, labels = np.diff(label_sets[0]), np.asarray(label_sets[1])
    else:
        lengths = np.array([len(labels) for labels in label_sets])
        labels = np.array(list(chain.from_iterable(label_sets)), dtype=np.int64)
    checks.same_length("label_sets", lengths, "positive_ids", ids)
    drawn, column = np.unique(ids, return_inverse=True)
    place = np.searchsorted(drawn, labels).clip(max=len(drawn) - 1)
    known = drawn[place] == labels
    member = np.zeros((len(ids), len(drawn)), dtype=bool)
    member[np.repeat(np.arange(len(ids)), lengths)[known], place[known]] = True
    targets = member[:, column]
    missing = np.flatnonzero(~targets.diagonal())
    checks.require(
        len(missing) == 0,
        f"positive_ids must be labels of their own rows: {len(missing)} are not, the first is row "
        f"{missing[0] if len(missing) else 0}.",
    )
    return torch.from_numpy(targets).to(positive_ids.device) if isinstance(positive_ids, Tensor) else targets
