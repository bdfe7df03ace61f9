"""The two samplers, and a data set that says which row it gives."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from tamis import checks, distributed
from tamis.randomness import child_seed
from tamis.sampling import EpochSampler
from tamis.subsets.seta.groups import loss_groups

Array = np.ndarray[Any, Any]
Kind = TypeVar("Kind", Array, Tensor)
_SLACK = 1e-9  # 0.29 * 100 is a little below 29


class IndexedDataset(Dataset[tuple[int, Any]]):
    """A data set that gives ``(index, sample)``, so that a training loop can tell the sampler whose losses it has.

    What arXiv:2503.13385 asks of the data; a collator then sees the index as first entry of every pair.

    Args:
        dataset: any data set with a length and rows by number.

    Example:
        >>> IndexedDataset(["a", "b"])[1]
        (1, 'b')
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[int, Any]:
        return index, self.dataset[index]


class _LossSampler(EpochSampler[int]):
    """What both share: the last loss of every row, the losses as the epoch found them, and how much was saved."""

    def __init__(
        self,
        num_samples: int,
        num_epochs: int,
        *,
        prune_ratio: float,
        delta: float,
        init_score: float,
        seed: int,
        rank: int,
        num_replicas: int,
        uneven: str,
    ) -> None:
        super().__init__(seed=seed, rank=rank, num_replicas=num_replicas, uneven=uneven)
        checks.at_least("num_samples", num_samples, 1)
        checks.at_least("num_epochs", num_epochs, 1)
        checks.require(0 <= prune_ratio < 1, f"prune_ratio must lie in [0, 1): got {prune_ratio!r}.")
        checks.between("delta", delta, 0, 1)
        checks.require(not math.isnan(init_score), "init_score must be a number or infinite: got nan.")
        self.num_samples, self.num_epochs = num_samples, num_epochs
        self.prune_ratio, self.delta = prune_ratio, delta
        self.pruned_epochs = math.floor(delta * num_epochs + _SLACK)
        self.scores = np.full(num_samples, init_score, dtype=np.float32)
        self.not_finite = 0
        self._known = self.scores.copy()
        self._past_epochs = self._past_rows = 0

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes next: its rows are chosen by the losses that are known now.

        Args:
            epoch: number of the epoch, from 0. The epoch at hand goes on as it was planned.
        """
        if epoch != self.epoch:
            past = (1, len(self._planned[1])) if self._planned is not None else (0, 0)
            super().set_epoch(epoch)
            self._past_epochs, self._past_rows = self._past_epochs + past[0], self._past_rows + past[1]
            self._known = self.scores.copy()
            self._replan()

    def update(self, indices: Kind | Sequence[int], losses: Kind | Sequence[float]) -> None:
        """Note the losses of the rows of a batch, for the choice of later epochs; call it after every batch.

        Where torch.distributed is in use the rows of all ranks are gathered, so all ranks must call.

        Args:
            indices: (b,) int, rows of the data. Of a row that comes twice the later loss counts.
            losses: (b,) float, the loss of each row by itself, not weighted and not their mean; takes no gradient.

        Raises:
            ValueError: another number of losses than of indices, or an index outside the data.
            TypeError: indices that are not integers.
        """
        rows, values = self._rows(indices), torch.as_tensor(losses).detach()
        checks.require(
            tuple(values.shape) == tuple(rows.shape),
            f"losses must be (b,), one for each of the {len(rows)} indices: got shape {tuple(values.shape)}; "
            'take the loss with reduction="none".',
        )
        if distributed.place()[1] > 1:
            rows = distributed.gather(rows.to(values.device)).rows
            values = distributed.gather(values).rows
        noted = values.float().cpu().numpy()
        self.not_finite += int((~np.isfinite(noted)).sum())
        self.scores[rows.cpu().numpy()] = noted

    def weights(self, indices: Kind) -> Kind:
        """What the loss of each row is to be multiplied by in this epoch, before the mean over the batch.

        Args:
            indices: (b,) int, rows of the data that this epoch holds.

        Returns:
            (b,) float32, of the kind of ``indices``.

        Raises:
            ValueError: an index outside the data.
            TypeError: indices that are not integers.
        """
        rows = self._rows(indices)
        found = torch.from_numpy(self._weights(rows.cpu().numpy())).to(rows.device)
        weights: Kind = found if isinstance(indices, Tensor) else found.numpy()
        return weights

    @property
    def saved_ratio(self) -> float:
        """Share of the samples of full training that the epochs planned until now leave out."""
        rows = self._past_rows + len(self._plan())
        return 1 - rows / (self.num_samples * (self._past_epochs + 1))

    def _prunes(self, epoch: int) -> bool:
        return epoch < self.pruned_epochs

    def _weights(self, rows: Array) -> Array:
        return np.ones(len(rows), dtype=np.float32)

    def _rows(self, indices: Any) -> Tensor:
        rows = torch.as_tensor(indices)
        checks.require(rows.ndim == 1, f"indices must be (b,): got shape {tuple(rows.shape)}.")
        if rows.is_floating_point() and len(rows):
            raise TypeError(f"indices must be integers: got {rows.dtype}.")
        outside = rows[(rows < 0) | (rows >= self.num_samples)].tolist()
        checks.require(
            not outside,
            f"indices must lie in 0..{self.num_samples - 1}, the rows of the data: got {outside[:1]}.",
        )
        return rows.long()

    def _more_state(self) -> dict[str, Any]:
        return {
            "scores": torch.from_numpy(self.scores.copy()),
            "known": torch.from_numpy(self._known.copy()),
            "not_finite": self.not_finite,
            "past": (self._past_epochs, self._past_rows),
        }

    def _load_more_state(self, state: Mapping[str, Any]) -> None:
        checks.require(
            len(state["scores"]) == self.num_samples,
            f"state must hold losses for the rows of the data: {self.num_samples} rows, {len(state['scores'])} losses.",
        )
        self.scores, self._known = (state[name].cpu().numpy().copy() for name in ("scores", "known"))
        self.not_finite, (self._past_epochs, self._past_rows) = state["not_finite"], state["past"]


class SeTaSampler(_LossSampler):
    """Rows of an epoch by SeTa: a random part, of which a window of loss groups that slides from easy to hard.

    The sampler of arXiv:2503.13385: epoch 0 takes the whole random part; later ones take groups
    ``t mod (k - w + 1)`` to that plus w, with ``w = round(k * window_scale)``; the last epochs take the random part
    again. Losses are not reweighed. One group is random sampling anew each epoch (RS2). When not to use: with noisy
    labels, where random sampling of as many rows does better; or with mixed samples, which have no loss of their own.

    Args:
        num_samples: rows of the data.
        num_epochs: epochs of the whole training.
        prune_ratio: share that is dropped at random, in [0, 1).
        num_groups: k, fewer than the rows that are left.
        window_scale: share of the groups in the window, in (0, 1].
        delta: share of the epochs that prune by loss.
        init_score: loss of rows that no epoch has visited; ``math.inf`` counts them as hardest.
        seed: seed of the run.
        rank: which of the ``num_replicas`` processes this is.
        num_replicas: processes that share the rows, see ``EpochSampler``.
        uneven: "drop" or "repeat" for an incomplete last round, see ``EpochSampler``.

    Attributes:
        scores: (num_samples,) float32, the last loss of every row.
        not_finite: losses that were NaN or infinite.
        pruned_epochs: epochs that prune by loss, the later ones do not.

    Returns:
        a sampler for ``DataLoader(sampler=...)``.

    Raises:
        ValueError: an option out of its range, a window without a group, or no fewer groups than rows that are left.

    Example:
        >>> sampler = SeTaSampler(6, 8, prune_ratio=0.0, num_groups=3, window_scale=0.34)
        >>> sampler.update(np.arange(6), np.array([0.1, 0.1, 1.0, 1.1, 5.0, 5.2]))
        >>> sampler.set_epoch(1)
        >>> sorted(sampler), sampler.window(1)
        ([2, 3], (1, 2))
    """

    def __init__(
        self,
        num_samples: int,
        num_epochs: int,
        *,
        prune_ratio: float = 0.1,
        num_groups: int = 5,
        window_scale: float = 0.9,
        delta: float = 0.875,
        init_score: float = 3.0,
        seed: int = 0,
        rank: int = 0,
        num_replicas: int = 1,
        uneven: str = "drop",
    ) -> None:
        super().__init__(
            num_samples,
            num_epochs,
            prune_ratio=prune_ratio,
            delta=delta,
            init_score=init_score,
            seed=seed,
            rank=rank,
            num_replicas=num_replicas,
            uneven=uneven,
        )
        checks.at_least("num_groups", num_groups, 1)
        checks.require(0 < window_scale <= 1, f"window_scale must lie in (0, 1]: got {window_scale!r}.")
        self.num_groups, self.window_size = num_groups, round(num_groups * window_scale)
        checks.require(
            self.window_size > 0,
            f"window_scale must leave a group in the window: {num_groups} groups times {window_scale} round to 0.",
        )
        self._kept = math.floor(num_samples * (1 - prune_ratio) + _SLACK)
        checks.require(
            num_groups < self._kept,
            f"num_groups must be below the {self._kept} rows that are left of {num_samples}: got {num_groups}.",
        )

    def window(self, epoch: int) -> tuple[int, int]:
        """The groups that an epoch takes.

        Args:
            epoch: number of the epoch, from 0.

        Returns:
            the first group and the one behind the last; all groups in epoch 0 and in epochs that do not prune.
        """
        if epoch == 0 or not self._prunes(epoch):
            return 0, self.num_groups
        start = epoch % (self.num_groups - self.window_size + 1)
        return start, start + self.window_size

    def plan(self, epoch: int) -> list[int]:
        """All rows of an epoch, over all ranks, by the losses that were known at its beginning.

        Args:
            epoch: number of the epoch, from 0.

        Returns:
            the rows in random order.
        """
        rng = np.random.default_rng(child_seed(self.seed, "seta", epoch))
        rows = rng.permutation(self.num_samples)[: self._kept]
        first, behind = self.window(epoch)
        if behind - first < self.num_groups:
            group = loss_groups(self._known[rows], self.num_groups)
            rows = rows[(first <= group) & (group < behind)]
        chosen: list[int] = rows.tolist()
        return chosen


class InfoBatchSampler(_LossSampler):
    """Rows of an epoch by InfoBatch: all rows with a loss of at least the mean, and a random part of the others.

    The sampler of Qin et al. (ICLR 2024), which SeTa builds on. Rows below the mean are kept with probability
    ``1 - prune_ratio`` and weigh one over that, so the expected gradient is that of all rows, up to rounding down the
    number kept. The last epochs take all rows with weight 1. When not to use: with noisy labels, as wrong ones have
    high losses and always stay.

    Args:
        num_samples: rows of the data.
        num_epochs: epochs of the whole training.
        prune_ratio: share of the rows below the mean that is dropped, in [0, 1).
        delta: share of the epochs that prune.
        rescale: weigh the rows below the mean that stay.
        seed: seed of the run.
        rank: which of the ``num_replicas`` processes this is.
        num_replicas: processes that share the rows, see ``EpochSampler``.
        uneven: "drop" or "repeat" for an incomplete last round, see ``EpochSampler``.

    Attributes:
        scores: (num_samples,) float32, the last loss of every row.
        not_finite: losses that were NaN or infinite; such rows always stay.
        pruned_epochs: epochs that prune, the later ones do not.

    Returns:
        a sampler for ``DataLoader(sampler=...)``.

    Raises:
        ValueError: an option out of its range.

    Example:
        >>> sampler = InfoBatchSampler(4, 8)
        >>> sampler.update(np.arange(4), np.array([0.1, 0.2, 0.3, 2.0]))
        >>> sampler.set_epoch(1)
        >>> len(sampler), 3 in list(sampler), sampler.weights(np.array([0, 3])).tolist()
        (2, True, [2.0, 1.0])
    """

    def __init__(
        self,
        num_samples: int,
        num_epochs: int,
        *,
        prune_ratio: float = 0.5,
        delta: float = 0.875,
        rescale: bool = True,
        seed: int = 0,
        rank: int = 0,
        num_replicas: int = 1,
        uneven: str = "drop",
    ) -> None:
        super().__init__(
            num_samples,
            num_epochs,
            prune_ratio=prune_ratio,
            delta=delta,
            init_score=math.inf,  # no row is below the mean before its first loss
            seed=seed,
            rank=rank,
            num_replicas=num_replicas,
            uneven=uneven,
        )
        self.rescale = rescale

    def plan(self, epoch: int) -> list[int]:
        """All rows of an epoch, over all ranks, by the losses that were known at its beginning.

        Args:
            epoch: number of the epoch, from 0.

        Returns:
            the rows in random order.
        """
        rng = np.random.default_rng(child_seed(self.seed, "infobatch", epoch))
        rows = rng.permutation(self.num_samples)
        low = self._low()[rows] & self._prunes(epoch)
        kept = math.floor(int(low.sum()) * (1 - self.prune_ratio) + _SLACK)
        chosen: list[int] = rows[~low | (np.cumsum(low) <= kept)].tolist()
        return chosen

    def _weights(self, rows: Array) -> Array:
        low = self._low()[rows] & (self.rescale and self._prunes(self.epoch))
        return np.where(low, np.float32(1 / (1 - self.prune_ratio)), np.float32(1))

    def _low(self) -> Array:
        """True for the rows below the mean of the losses that are finite."""
        finite = np.isfinite(self._known)
        if not finite.any():
            return finite
        losses = self._known[finite].astype(np.float64)
        # The mean of equal numbers can come out above them.
        below: Array = finite & (self._known < min(losses.mean(), losses.max()))
        return below
