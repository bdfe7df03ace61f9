"""Replay: stored pairs are drawn in proportion to the loss they last had, within bounds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import Sampler

from tamis import checks
from tamis.randomness import child_seed
from tamis.results import as_array

Array = np.ndarray[Any, Any]
ArrayLike = Array | torch.Tensor


class HardExampleReplay(Sampler[int]):
    """Slots of a store of bounded size, drawn in proportion to a running loss (arXiv:2409.10643).

    The store itself is the user's: ``add`` says into which slots new items go, ``draw`` which slots to learn from, and
    ``update`` takes the losses these had. New items have the highest weight, so each is seen early. With labels that
    may be wrong the upper bound matters, for what cannot be learned keeps a high loss. As a torch sampler it yields
    ``num_samples`` slots an epoch, with replacement.

    Args:
        capacity: slots.
        w_min: lowest weight; a positive one keeps every item in play.
        w_max: highest weight; equal bounds draw uniformly.
        evict: what a full store gives up, "lowest" weight or "oldest" item; ties go to the oldest.
        num_samples: slots per epoch when iterated, by default the capacity.
        seed: of the draws.

    Returns:
        slots, int.

    Raises:
        ValueError: for a capacity below 1 or bounds that are not 0 < w_min <= w_max.

    Example:
        >>> replay = HardExampleReplay(3, w_min=0.1, w_max=5.0)
        >>> replay.add(2).tolist(), len(replay.weights)
        ([0, 1], 2)
        >>> replay.update(np.array([0, 1]), np.array([0.0, 9.0]))
        >>> replay.weights.tolist(), replay.add(2).tolist()
        ([0.1, 5.0], [2, 0])
    """

    def __init__(
        self,
        capacity: int,
        w_min: float = 0.05,
        w_max: float = 5.0,
        *,
        evict: Literal["lowest", "oldest"] = "lowest",
        num_samples: int | None = None,
        seed: int = 0,
    ) -> None:
        checks.at_least("capacity", capacity, 1)
        checks.require(
            0 < w_min <= w_max < float("inf"),
            f"w_min and w_max must be 0 < w_min <= w_max: got {w_min!r} and {w_max!r}.",
        )
        checks.one_of("evict", evict, ("lowest", "oldest"))
        self.capacity, self.w_min, self.w_max, self.evict = capacity, float(w_min), float(w_max), evict
        self.num_samples = capacity if num_samples is None else num_samples
        self.seed, self.epoch = seed, 0
        self._weights = np.empty(0)
        self._born = np.empty(0, dtype=np.int64)
        self._added = self._drawn = 0

    @property
    def weights(self) -> Array:
        """The weights (n,) of the slots in use, a copy."""
        return self._weights.copy()

    def add(self, count: int) -> Array:
        """Take in new items, and give up others where there is no room.

        Args:
            count: new items, at most the capacity.

        Returns:
            (count,) int64, the slot of each.
        """
        checks.between("count", count, 0, self.capacity)
        used = len(self._weights)
        fresh = min(count, self.capacity - used)
        self._weights = np.concatenate([self._weights, np.full(fresh, self.w_max)])
        self._born = np.concatenate([self._born, np.full(fresh, -1)])
        keys = (self._born[:used],) if self.evict == "oldest" else (self._born[:used], self._weights[:used])
        slots = np.concatenate([np.arange(used, used + fresh), np.lexsort(keys)[: count - fresh]]).astype(np.int64)
        self._weights[slots] = self.w_max
        self._born[slots] = self._added + np.arange(count)
        self._added += count
        return slots

    def draw(self, count: int) -> Array:
        """Draw slots in proportion to their weights, with replacement.

        Args:
            count: slots to draw.

        Returns:
            (count,) int64.

        Raises:
            ValueError: when nothing was added yet.
        """
        rng = np.random.default_rng(child_seed(self.seed, "draw", self._drawn))
        self._drawn += 1
        return self._draw(count, rng)

    def update(self, slots: ArrayLike, losses: ArrayLike) -> None:
        """Set the weights of slots to their losses, clipped to the bounds.

        Args:
            slots: (m,) int, in use; of a slot given twice the last loss counts.
            losses: (m,) float, mean over the clones, say.

        Raises:
            ValueError: for other lengths, slots that are not in use, or a loss that is NaN.
        """
        places, values = as_array(slots), as_array(losses).astype(np.float64)
        checks.same_length("losses", values, "slots", places)
        checks.require(not bool(np.isnan(values).any()), "losses must hold no NaN: has a clone diverged?")
        inside = places.size == 0 or (places.min() >= 0 and places.max() < len(self._weights))
        checks.require(inside, f"slots must be in use, 0 to {len(self._weights) - 1}.")
        self._weights[places] = np.clip(values, self.w_min, self.w_max)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose draws iteration gives.

        Args:
            epoch: number of the epoch.
        """
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng(child_seed(self.seed, "epoch", self.epoch))
        yield from self._draw(self.num_samples, rng).tolist()

    def __len__(self) -> int:
        return self.num_samples

    def state_dict(self) -> dict[str, Any]:
        """What is needed to go on from here.

        Returns:
            plain arrays and numbers.
        """
        return {
            "weights": self._weights.copy(), "born": self._born.copy(), "added": self._added, "drawn": self._drawn,
            "epoch": self.epoch, "seed": self.seed,
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state.

        Args:
            state: from ``state_dict``.
        """
        checks.require(
            len(state["weights"]) <= self.capacity,
            f"state must fit into the capacity of {self.capacity}: it has {len(state['weights'])} slots.",
        )
        self._weights, self._born = np.array(state["weights"]), np.array(state["born"])
        self._added, self._drawn = state["added"], state["drawn"]
        self.epoch, self.seed = state["epoch"], state["seed"]

    def _draw(self, count: int, rng: np.random.Generator) -> Array:
        checks.require(len(self._weights) > 0, "the replay is empty: add items before drawing.")
        ends = np.cumsum(self._weights)
        slots = np.searchsorted(ends, rng.random(count) * ends[-1], side="right")
        found: Array = np.minimum(slots, len(ends) - 1)
        return found
