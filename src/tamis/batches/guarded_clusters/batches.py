"""The sampler: clusters, groups of neighbouring clusters, and rows that change places inside a group."""

from __future__ import annotations

import math
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from tamis import checks
from tamis.batches.guarded_clusters.judging import Judge
from tamis.clustering import balanced_bisect
from tamis.randomness import child_seed
from tamis.sampling import Batches, EpochSampler

Array = np.ndarray[Any, Any]
Kind = TypeVar("Kind", Array, Tensor)

_BLOCK = 2**22  # pairs judged, or placed, at a time


class GuardedClusterSampler(EpochSampler[list[int]]):
    """Batches of neighbouring rows in which no two are likely false negatives of each other.

    Call ``update`` with embeddings and a judge; before it batches are random. Clusters hold ``batch_size`` rows or one
    fewer, and about ``spread`` neighbouring ones form a group, inside which rows may change places. Batches keep the
    sizes of their clusters, and every row is in one batch. Give the loss ``guarded_log_weights`` too: in the claim
    keeping apart alone won little, as the few that stay together are the hardest. Groups, and the pairs to keep apart,
    are part of ``state_dict``; the judge is not. Not for data without hidden positives: every row that leaves its
    cluster makes two batches less dense. Where labels went through one encoder with documents, instead of having
    vectors of their own as in the claim, one trial seed showed no gain: twins could not be told apart anyway.

    Args:
        num_rows: rows of the data.
        batch_size: most rows per batch.
        spread: neighbouring clusters that exchange rows. 1 exchanges none, and leaves all to the log-weights.
        seed: seed of the run.
        rank: which of the ``num_replicas`` processes this is.
        num_replicas: processes that share the batches, see ``EpochSampler``.
        uneven: "drop" or "repeat" for an incomplete last round of batches, see ``EpochSampler``.

    Returns:
        a batch sampler for ``DataLoader(batch_sampler=...)``.

    Raises:
        ValueError: for sizes below 1.

    Example:
        >>> from tamis.batches import guide_judge
        >>> rows = np.array([[0.0, 1.0], [0.1, 1.0], [1.0, 0.0], [1.0, 0.1]])
        >>> sampler = GuardedClusterSampler(4, 2, spread=2)
        >>> sampler.update(rows, epoch=0, judge=guide_judge(rows, rows, keys=np.array([5, 5, 6, 6])))
        >>> sorted(sorted(batch) for batch in sampler) in ([[0, 2], [1, 3]], [[0, 3], [1, 2]]), sampler.together
        (True, 0)
    """

    def __init__(
        self,
        num_rows: int,
        batch_size: int,
        *,
        spread: int = 4,
        seed: int = 0,
        rank: int = 0,
        num_replicas: int = 1,
        uneven: str = "drop",
    ) -> None:
        super().__init__(seed=seed, rank=rank, num_replicas=num_replicas, uneven=uneven)
        checks.at_least("num_rows", num_rows, 1)
        checks.at_least("batch_size", batch_size, 1)
        checks.at_least("spread", spread, 1)
        self.num_rows = num_rows
        # Not named batch_size: batches can be shorter, see NoDuplicatesBatchSampler.
        self.max_batch_size = min(batch_size, num_rows)
        self.spread = spread
        self.clusters: Tensor | None = None
        self.pairs = torch.empty(0, 2, dtype=torch.int64)

    def update(self, embeddings: Kind, epoch: int, *, judge: Judge, apart_below: float = math.log(0.5)) -> None:
        """Cluster the rows anew, and judge all pairs that could share a batch.

        Args:
            embeddings: (num_rows, d) float, from the current encoder; only directions count.
            epoch: number of the epoch that is to use them, from 0.
            judge: rows (g, m) int64 to log-weights (g, m, m), ``guide_judge`` say. Called on sets of rows of one group,
                in which a row may come twice to fill up.
            apart_below: pairs with a log-weight at or below it, in either direction, are kept apart; the default
                separates what is rather false than true.

        Raises:
            ValueError: for another number of rows, NaN, rows of length zero, or log-weights of another shape.
        """
        checks.at_least("epoch", epoch, 0)
        checks.require(
            len(embeddings) == self.num_rows,
            f"embeddings must have one row per row of the data: {self.num_rows} rows, {len(embeddings)} embeddings.",
        )
        labels = balanced_bisect(
            embeddings,
            cluster_size=self.max_batch_size,
            power_of_two=False,
            seed=child_seed(self.seed, "guarded clusters", epoch),
        )
        self.clusters = torch.as_tensor(labels).cpu()
        found = []
        for group in self._groups():
            wanted = (len(group), group.shape[1], group.shape[1])
            log_weights = judge(torch.from_numpy(group.clip(min=0)))
            checks.require(
                tuple(log_weights.shape) == wanted,
                f"judge must give log-weights {wanted}: got {tuple(log_weights.shape)}.",
            )
            false = (log_weights <= apart_below).cpu().numpy()
            g, i, j = np.nonzero(np.triu(false | false.transpose(0, 2, 1), 1))
            pairs = np.stack([group[g, i], group[g, j]], 1)
            found.append(pairs[(pairs >= 0).all(1)])
        self.pairs = torch.from_numpy(np.concatenate(found))
        self._replan()

    def plan(self, epoch: int) -> Batches:
        """All batches of an epoch, over all ranks, in random order.

        Args:
            epoch: number of the epoch, from 0.

        Returns:
            the batches.
        """
        rng = np.random.default_rng(child_seed(self.seed, "guarded", epoch))
        if self.clusters is None:
            return Batches.of_size(rng.permutation(self.num_rows), self.max_batch_size)
        batch = self.clusters.numpy().copy()
        groups, pairs = self.groups, self.pairs.numpy()
        pairs = pairs[np.argsort(groups[pairs[:, 0]], kind="stable")]
        owner = groups[pairs[:, 0]]
        # Groups without a pair to part are their clusters.
        busy = np.bincount(owner, minlength=int(groups.max()) + 1) > 0
        for block in self._groups(busy) if self.spread > 1 else ():
            begin, end = np.searchsorted(owner, [groups[block[0, 0]], groups[block[-1, 0]] + 1])
            batch[block[block >= 0]] = _dealt(block, batch, pairs[begin:end], rng)
        order = rng.permutation(int(batch.max()) + 1)[batch]
        rows = rng.permutation(self.num_rows)
        rows = rows[np.argsort(order[rows], kind="stable")]
        return Batches(rows, np.concatenate([[0], np.cumsum(np.bincount(order))]))

    @property
    def groups(self) -> Array:
        """(num_rows,) int64, the group of each row, inside which rows change places; all 0 before an update."""
        if self.clusters is None:
            return np.zeros(self.num_rows, dtype=np.int64)
        clusters = self.clusters.numpy()
        count = int(clusters.max()) + 1
        groups: Array = clusters * max(1, round(count / self.spread)) // count  # of one size but for one cluster
        return groups

    @property
    def together(self) -> int:
        """Pairs to be kept apart that share a batch in this epoch all the same."""
        plan = self._plan()
        assert isinstance(plan, Batches)
        batch = np.empty(self.num_rows, dtype=np.int64)
        batch[plan.indices] = np.repeat(np.arange(len(plan)), plan.sizes)
        left, right = self.pairs.numpy().T
        return int((batch[left] == batch[right]).sum())

    @property
    def moved(self) -> float:
        """Share of rows whose batch is mostly of another cluster than theirs, this epoch: the price in density."""
        plan = self._plan()
        assert isinstance(plan, Batches)
        if self.clusters is None:
            return 0.0
        home = self.clusters.numpy()[plan.indices]
        batch = np.repeat(np.arange(len(plan)), plan.sizes)
        pairs, counts = np.unique(batch * (int(home.max()) + 1) + home, return_counts=True)
        first = np.flatnonzero(np.diff(pairs // (int(home.max()) + 1), prepend=-1))
        return float(1 - np.maximum.reduceat(counts, first).sum() / self.num_rows)

    def _groups(self, wanted: Array | None = None) -> list[Array]:
        """Rows of each group side by side, -1 fills up: blocks of (groups, m)."""
        group = self.groups
        sizes = np.bincount(group)
        wide = int(sizes.max())
        table = np.full((len(sizes), wide), -1)
        order = np.argsort(group, kind="stable")
        table[group[order], np.arange(self.num_rows) - np.repeat(np.cumsum(sizes) - sizes, sizes)] = order
        table = table if wanted is None else table[wanted]
        return np.array_split(table, -(-table.size * wide // _BLOCK)) if len(table) else []

    def _more_state(self) -> dict[str, Any]:
        return {"clusters": self.clusters, "pairs": self.pairs}

    def _load_more_state(self, state: Any) -> None:
        clusters = state["clusters"]
        checks.require(
            clusters is None or len(clusters) == self.num_rows,
            f"state must hold clusters for the rows of the data: {self.num_rows} rows, "
            f"{0 if clusters is None else len(clusters)} in the state.",
        )
        self.clusters, self.pairs = clusters, state["pairs"]


def _dealt(rows: Array, home: Array, pairs: Array, rng: np.random.Generator) -> Array:
    """New batch of every real row of some groups (g, m), in the order of ``rows[rows >= 0]``.

    Rows with partners are placed one after another, those with the most first, all groups at once: into the batch with
    the fewest partners, the own one where it is as good. All others stay at home while there is room.
    """
    g, m = rows.shape
    real = rows >= 0
    place = np.empty(len(home), dtype=np.int64)
    place[rows[real]] = np.flatnonzero(real)
    a, b = place[pairs.T]
    apart = np.zeros((g * m, m), dtype=bool)
    apart[a, b % m] = apart[b, a % m] = True
    apart = apart.reshape(g, m, m)
    partners = apart.sum(2)
    homes = home[rows.clip(min=0)]
    first = np.where(real, homes, len(home)).min(1)[:, None]
    slot = np.where(real, homes - first, -1)
    spread = int(slot.max()) + 1
    # A batch keeps the size of its cluster.
    every = np.arange(g)
    room = np.bincount((every[:, None] * spread + slot)[real], minlength=g * spread).reshape(g, spread)
    # How many partners of a row each batch of its group holds so far.
    met = np.zeros((g, spread, m), dtype=np.int32)
    noise = rng.random((g, m))
    order = np.argsort(-(partners + noise), axis=1)
    dealt = np.full((g, m), -1)
    for t in range(int((partners > 0).sum(1).max(initial=0))):
        row = order[:, t]
        active = partners[every, row] > 0
        cost = (
            met[every, :, row] + 0.5 * (np.arange(spread) != slot[every, row][:, None]) + 0.1 * rng.random((g, spread))
        )
        best = np.where(room > 0, cost, np.inf).argmin(1)
        at, to, who = every[active], best[active], row[active]
        dealt[at, who] = to
        room[at, to] -= 1
        met[at, to] += apart[at, who]
    _fill(dealt, slot, real, room, noise)
    batch: Array = (first + dealt)[real]
    return batch


def _fill(dealt: Array, slot: Array, real: Array, room: Array, noise: Array) -> None:
    """Give the remaining rows of each group their home while it has room, and then any batch with room, in place."""
    g, spread = room.shape
    for overflow in (False, True):
        at, who = np.nonzero((dealt < 0) & real)
        # Rows of a group in random order; in the first round by home, in the second against all places left.
        key = at * spread + (0 if overflow else slot[at, who])
        order = np.lexsort((noise[at, who], key))
        at, who, key = at[order], who[order], key[order]
        first = np.flatnonzero(np.diff(key, prepend=-1))
        nth = np.arange(len(key)) - np.repeat(first, np.diff(first, append=len(key)))
        if overflow:
            to = (nth[:, None] >= room.cumsum(1)[at]).sum(1)
        else:
            keep = nth < room[at, slot[at, who]]
            at, who = at[keep], who[keep]
            to = slot[at, who]
        dealt[at, who] = to
        room -= np.bincount(at * spread + to, minlength=g * spread).reshape(g, spread)
