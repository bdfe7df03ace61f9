"""Samplers that resume: a whole epoch is planned from (seed, epoch), and only the place in the plan is state.

A sampler says what an epoch is (``plan``); the base deals the plan over ranks, counts it, and saves the place. Because
a plan is a function of seed and epoch, iterating twice gives the same batches twice, every rank computes the same plan
without talking, and a run resumes in the middle of an epoch with the batches that are left, also on another number of
ranks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from torch.utils.data import Sampler

from tamis import checks

Array = np.ndarray[Any, Any]
Item = TypeVar("Item")

UNEVEN = ("drop", "repeat")


class Batches(Sequence[list[int]]):
    """Batches of one epoch as a flat array of rows and the places where batches begin; each batch is a list of ints.

    Args:
        indices: (m,) int, rows of the data, batch after batch.
        offsets: (batches + 1,) int, ``indices[offsets[i]:offsets[i + 1]]`` is batch i.

    Example:
        >>> list(Batches(np.array([4, 0, 2]), np.array([0, 2, 3])))
        [[4, 0], [2]]
    """

    def __init__(self, indices: Array, offsets: Array) -> None:
        self.indices = indices
        self.offsets = offsets

    @classmethod
    def of_size(cls, indices: Array, batch_size: int, *, drop_last: bool = False) -> Batches:
        """Consecutive slices of ``batch_size`` rows; the last may be shorter, or is dropped.

        Example:
            >>> len(Batches.of_size(np.arange(5), 2)), len(Batches.of_size(np.arange(5), 2, drop_last=True))
            (3, 2)
        """
        full = len(indices) // batch_size
        offsets = np.arange(full + 1) * batch_size
        if not drop_last and full * batch_size < len(indices):
            offsets = np.append(offsets, len(indices))
        return cls(indices[: offsets[-1]], offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            return [self[j] for j in range(*i.indices(len(self)))]
        place = range(len(self))[i]
        return self.indices[self.offsets[place] : self.offsets[place + 1]].tolist()

    @property
    def sizes(self) -> Array:
        """(batches,) int, rows in each batch."""
        return np.diff(self.offsets)


class EpochSampler(Sampler[Item]):
    """A sampler whose epochs are plans: a subclass gives ``plan(epoch)``, everything else is here.

    Rank r of w takes items r, r + w, r + 2 w, ... of the plan, so ranks never share one. All ranks get equally many:
    the last incomplete round is dropped, or filled up from the beginning of the plan. Item is ``list[int]`` for a batch
    sampler (``DataLoader(batch_sampler=...)``) and ``int`` for a row sampler (``DataLoader(sampler=...)``).

    ``state_dict`` holds how many items of the plan all ranks together have taken. It counts an item as taken when the
    sampler hands it out; a DataLoader with workers fetches ahead, so tell ``state_dict`` how many items the training
    has really used. The world may have another size when the state is loaded: the rest of the plan is dealt anew.

    Args:
        seed: seed of the whole run; epoch e draws from ``child_seed(seed, ..., e)``.
        rank: which of the ``num_replicas`` processes this is. Leave it at 0 of 1 under a trainer that deals batches
            itself (accelerate does).
        num_replicas: processes that share the plan.
        uneven: "drop" leaves out the items of the last round when it is incomplete, "repeat" fills that round with the
            first items of the plan.

    Raises:
        ValueError: for a negative seed, a rank outside the replicas, or another word for ``uneven``.

    Example:
        >>> class Countdown(EpochSampler[int]):
        ...     def plan(self, epoch):
        ...         return [3, 2, 1, 0]
        >>> list(Countdown(rank=1, num_replicas=2))
        [2, 0]
    """

    def __init__(self, *, seed: int = 0, rank: int = 0, num_replicas: int = 1, uneven: str = "drop") -> None:
        super().__init__()
        checks.require(
            isinstance(seed, (int, np.integer)) and not isinstance(seed, bool) and seed >= 0,
            f"seed must be a non-negative integer: got {seed!r}.",
        )
        checks.at_least("num_replicas", num_replicas, 1)
        checks.between("rank", rank, 0, num_replicas - 1)
        checks.one_of("uneven", uneven, UNEVEN)
        self.seed = int(seed)
        self.epoch = 0
        self.rank = rank
        self.num_replicas = num_replicas
        self.uneven = uneven
        # Places in the plan, counted over all ranks: where the next iteration begins, where the latest one began, and
        # how far that one has dealt.
        self._start = self._began = self._taken = 0
        self._planned: tuple[tuple[int, int], Sequence[Item]] | None = None

    def plan(self, epoch: int) -> Sequence[Item]:
        """All items of an epoch over all ranks, in order: a function of ``self.seed`` and ``epoch`` alone.

        Args:
            epoch: number of the epoch, from 0.

        Returns:
            the items; ``Batches`` for a batch sampler.
        """
        raise NotImplementedError(f"{type(self).__name__} must define plan(epoch).")

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes next. A place loaded for this very epoch is kept, any other epoch begins at its start.

        Args:
            epoch: number of the epoch, from 0.
        """
        checks.at_least("epoch", epoch, 0)
        if epoch != self.epoch:
            self.epoch, self._start, self._began, self._taken = epoch, 0, 0, 0

    def __len__(self) -> int:
        """Items that the next iteration gives on this rank (and on every other)."""
        left = len(self._plan()) - self._start
        rounds = left // self.num_replicas if self.uneven == "drop" else -(-left // self.num_replicas)
        checks.require(
            rounds > 0 or left == 0 or self._start > 0,
            f"an epoch must have a batch for every rank: {left} batches, {self.num_replicas} ranks; "
            'take uneven="repeat", smaller batches or fewer ranks.',
        )
        return rounds

    def __iter__(self) -> Iterator[Item]:
        plan, start, rounds = self._plan(), self._start, len(self)
        self._began = self._taken = start
        for i in range(rounds):
            place = start + i * self.num_replicas + self.rank
            # With the last round the epoch is over, also for what was too little to deal.
            self._taken = start + (i + 1) * self.num_replicas if i < rounds - 1 else len(plan)
            yield plan[place % len(plan)]
        self._start = 0

    def state_dict(self, *, used: int | None = None) -> dict[str, Any]:
        """The place in the epoch, the same on every rank.

        Args:
            used: items this rank has used since the iteration began, where that is fewer than it was handed (workers
                that fetch ahead). None takes what was handed out.

        Returns:
            seed, epoch, position (items of the plan taken by all ranks) and planned (items in the plan).

        Raises:
            ValueError: when ``used`` is negative.
        """
        position = self._taken
        if used is not None:
            checks.at_least("used", used, 0)
            position = min(self._began + used * self.num_replicas, len(self._plan()))
        place = {"seed": self.seed, "epoch": self.epoch, "position": position, "planned": len(self._plan())}
        return {**place, **self._more_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where a state was saved: the next iteration gives the items of that epoch that are left.

        Rank and number of replicas stay those of this sampler.

        Args:
            state: what ``state_dict`` returned.

        Raises:
            ValueError: when the state was saved for another plan (other data or another batch size).
        """
        before = self.seed, self.epoch, self._more_state()
        self._restore(int(state["seed"]), int(state["epoch"]), state)
        planned = len(self._plan())
        if planned != state["planned"]:
            self._restore(*before)
            raise ValueError(
                f"state must belong to this data and batch size: it was saved for {state['planned']} batches an epoch, "
                f"there are {planned}."
            )
        self._start = self._began = self._taken = int(state["position"])

    def _plan(self) -> Sequence[Item]:
        key = (self.seed, self.epoch)
        if self._planned is None or self._planned[0] != key:
            self._planned = key, self.plan(self.epoch)
        return self._planned[1]

    def _restore(self, seed: int, epoch: int, state: Mapping[str, Any]) -> None:
        self._load_more_state(state)  # first, as it may refuse the state
        self.seed, self.epoch = seed, epoch
        self._replan()

    def _more_state(self) -> dict[str, Any]:
        """What else the plan is made from and changes as the run goes on; a subclass that has such things says so."""
        return {}

    def _load_more_state(self, state: Mapping[str, Any]) -> None:
        """Take back what ``_more_state`` gave."""

    def _replan(self) -> None:
        """Forget the plan, because what it is made from has changed."""
        self._planned = None
