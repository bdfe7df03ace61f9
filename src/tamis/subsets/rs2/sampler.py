"""The sampler, over rows or over what another sampler yields."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler

from tamis import checks
from tamis.results import as_array
from tamis.sampling import EpochSampler
from tamis.subsets.rs2.drawing import BOUNDARIES, part_of, rs2_indices

Array = np.ndarray[Any, Any]


class RepeatedRandomSampler(EpochSampler[Any]):
    """A fresh random part of the rows every epoch, for ``DataLoader(sampler=...)``.

    The sampler of arXiv:2305.18424. It draws from all rows of a data set, from a list of rows, or from what another
    sampler yields: that one is read once, now, so its batches stay as they are; it must neither shard by rank nor
    yield without end. A fixed part is ``RepeatedRandomSampler(rs2_indices(n, 0.1, 0), 1.0)``, full training is
    ``fraction=1.0``. Take ``drop_last=True`` in the loader where an epoch ends in a batch of few rows, which would come
    often and step as far as a full one. When not to use: where time allows many full epochs on right labels, which end
    a little higher.

    Args:
        data_source: number of rows; or a sampler, or a list or array (n,) of row numbers, to draw from those; or a data
            set with a length. A row listed twice counts twice. Of a batch sampler whole batches are drawn.
        fraction: share in an epoch, in (0, 1]; rounded down.
        replacement: draw every epoch from all, rather than from those that the pass at hand has left.
        boundary: "carry" or "drop" for the end of a pass, see ``rs2_indices``.
        seed: seed of the run.
        rank: which of the ``num_replicas`` processes this is.
        num_replicas: processes that share an epoch, see ``EpochSampler``.
        uneven: "drop" or "repeat" for an incomplete last round, see ``EpochSampler``.

    Attributes:
        num_samples: items that are drawn from.
        part: items in an epoch over all ranks.

    Raises:
        ValueError: as ``rs2_indices``, or fewer items in an epoch than ranks.
        TypeError: a data source without a length.

    Example:
        >>> sampler = RepeatedRandomSampler([10, 11, 12, 13], fraction=0.5)
        >>> first = list(sampler)
        >>> sampler.set_epoch(1)
        >>> sorted(first + list(sampler)), sampler.steps(batch_size=2, epochs=40)
        ([10, 11, 12, 13], 40)
    """

    def __init__(
        self,
        data_source: int | Sized | Sampler[Any] | Sequence[int] | Array | Tensor,
        fraction: float = 0.1,
        *,
        replacement: bool = False,
        boundary: str = "carry",
        seed: int = 0,
        rank: int = 0,
        num_replicas: int = 1,
        uneven: str = "drop",
    ) -> None:
        super().__init__(seed=seed, rank=rank, num_replicas=num_replicas, uneven=uneven)
        self.num_samples, self._items = _population(data_source)
        checks.require(self.num_samples > 0, "data_source must hold at least one row: it has none.")
        self.part = part_of(self.num_samples, fraction)
        checks.one_of("boundary", boundary, BOUNDARIES)
        checks.require(
            uneven == "repeat" or self.part >= num_replicas,
            f"fraction must leave an item for every rank: {self.part} of {self.num_samples} items, {num_replicas} "
            'ranks; take a larger fraction or uneven="repeat".',
        )
        self.fraction, self.replacement, self.boundary = fraction, replacement, boundary

    def plan(self, epoch: int) -> list[Any]:
        """All items of an epoch over all ranks.

        Args:
            epoch: number of the epoch, from 0.

        Returns:
            rows, or what the sampler that is drawn from yields.
        """
        drawn = rs2_indices(
            self.num_samples, self.fraction, epoch, self.seed, replacement=self.replacement, boundary=self.boundary
        )
        if isinstance(self._items, list):
            return [self._items[place] for place in drawn.tolist()]
        rows: list[Any] = (drawn if self._items is None else self._items[drawn]).tolist()
        return rows

    def steps(self, batch_size: int, epochs: int, *, drop_last: bool = False) -> int:
        """The optimizer steps of a whole training, over which the learning rate has to fall.

        Args:
            batch_size: items per step on this rank; 1 where items are batches.
            epochs: of this sampler.
            drop_last: the loader leaves incomplete batches out.

        Returns:
            how many, on this and on every rank.
        """
        checks.at_least("batch_size", batch_size, 1)
        checks.at_least("epochs", epochs, 0)
        dropped = self.part // self.num_replicas
        items = dropped if self.uneven == "drop" else -(-self.part // self.num_replicas)
        return epochs * (items // batch_size if drop_last else -(-items // batch_size))

    def _more_state(self) -> dict[str, Any]:
        way = "replacement" if self.replacement else self.boundary
        return {"drawn_from": self.num_samples, "way": way}

    def _load_more_state(self, state: Mapping[str, Any]) -> None:
        for name, here in self._more_state().items():
            checks.require(
                state[name] == here,
                f"state must belong to a sampler like this one: {name} was {state[name]!r} and is {here!r}.",
            )


def _population(data_source: Any) -> tuple[int, Array | list[Any] | None]:
    """How many items there are, and which; None for the rows from 0 on."""
    if isinstance(data_source, (int, np.integer)):
        return int(data_source), None
    if isinstance(data_source, Sampler):
        with torch.random.fork_rng(devices=[]):  # torch's own samplers draw from the global generator
            items = list(data_source)
        # Sorted, so that a sampler in random order gives every process and every start the same.
        return len(items), np.sort(items) if _are_rows(items) else items
    if not isinstance(data_source, Sized):
        raise TypeError(
            "data_source must be a number of rows, a sampler, a list of rows or a data set with a length: got "
            f"{type(data_source).__name__}."
        )
    if isinstance(data_source, (list, tuple, range)) and _are_rows(data_source):
        return len(data_source), np.sort(data_source)
    if isinstance(data_source, (np.ndarray, Tensor)) and data_source.ndim == 1:
        rows = as_array(data_source)
        if rows.dtype.kind in "iu":
            return len(rows), np.sort(rows)
    return len(data_source), None


def _are_rows(items: Sequence[Any]) -> bool:
    return len(items) > 0 and all(isinstance(i, (int, np.integer)) for i in items)
