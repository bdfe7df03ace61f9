"""Running means of positive quantities, one per block, kept as logarithms.

A compositional loss is a function of means that no batch holds: the partition function of a model, or one per anchor.
Each is tracked over steps, and only the blocks of the batch move. The quantities are exponentials of scores, so the
mean is never formed itself, only its logarithm. The variance-reduced form (STORM) also takes what the values were under
the old parameters; its mean can turn negative, so it is held above a share of the plain one, and how often is counted.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from tamis import checks, distributed

Estimator = Literal["ema", "storm"]


class IndexedEMA(nn.Module):
    """The logarithm of a moving average per block: ``u <- (1 - gamma) u + gamma g``.

    The inner estimator of compositional optimisation (Wang, Fang and Liu, arXiv:1411.3803), by blocks; "storm" is
    ``u <- (1 - gamma) (u - g_old) + g`` (Cutkosky and Orabona, arXiv:1905.10018). A block's first value is taken whole.

    Args:
        num_blocks: how many averages.
        gamma: weight of the new value, in (0, 1]; 1 keeps no memory.
        estimator: "ema" or "storm".
        floor: "storm" stays above this share of what "ema" would give.

    Attributes:
        log_u: (num_blocks,) float32 buffer, ``-inf`` for a block without a value.
        floored: int64 buffer, how often a value was held up by ``floor``.

    Raises:
        ValueError: gamma or floor outside (0, 1], no blocks, unknown estimator.

    Example:
        >>> average = IndexedEMA(gamma=0.5)
        >>> first, second = (average.update(torch.tensor([g]).log()) for g in (2.0, 3.0))
        >>> round(second.exp().item(), 6)
        2.5
    """

    log_u: Tensor
    floored: Tensor

    def __init__(
        self, num_blocks: int = 1, gamma: float = 0.1, *, estimator: Estimator = "ema", floor: float = 1e-3
    ) -> None:
        super().__init__()
        checks.at_least("num_blocks", num_blocks, 1)
        checks.require(0 < gamma <= 1, f"gamma must lie in (0, 1]: got {gamma!r}.")
        checks.require(0 < floor <= 1, f"floor must lie in (0, 1]: got {floor!r}.")
        checks.one_of("estimator", estimator, ("ema", "storm"))
        self.gamma, self.estimator, self.floor = gamma, estimator, floor
        self.register_buffer("log_u", torch.full((num_blocks,), -torch.inf))
        self.register_buffer("floored", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def update(self, log_values: Tensor, index: Tensor | None = None, *, previous: Tensor | None = None) -> Tensor:
        """Move the blocks of the batch; rows of one block count as their mean, over the rows of all ranks.

        Args:
            log_values: (b,) float, the logarithm of each row's value; b may be 0.
            index: (b,) int64, the block of each row; None when there is one block.
            previous: (b,) float, the logarithms of the same rows' values under the old parameters, for "storm"; needed
                once a block of the batch has a value.

        Returns:
            (b,) the new logarithm of each row's average, at least float32.

        Raises:
            ValueError: shapes that do not fit, NaN or +inf, an index out of range, a missing ``previous``.
        """
        index = self._index(log_values, index)
        values = log_values.detach().to(torch.promote_types(log_values.dtype, torch.float32))
        storm = self.estimator == "storm"
        if storm and previous is None:
            seen = int((~self.log_u[index].isneginf()).sum())
            checks.require(seen == 0, 'previous must be given for estimator="storm": the values under old parameters.')
            previous = values
        old_values = values if previous is None or not storm else previous.detach().to(values)
        checks.same_shape("previous", old_values, "log_values", values)
        for name, given in (("log_values", values), ("previous", old_values)):
            bad = int((given.isnan() | given.isposinf()).sum())
            checks.require(bad == 0, f"{name} must hold no NaN and no +inf: {bad} rows do.")

        blocks, place = torch.unique(distributed.gather(index).rows, return_inverse=True)
        new = _log_mean(distributed.gather(values).rows, place, len(blocks))
        old = self.log_u[blocks].to(new)
        keep = math.log1p(-self.gamma) if self.gamma < 1 else -math.inf
        average = torch.logaddexp(keep + old, math.log(self.gamma) + new)
        if storm:
            before = _log_mean(distributed.gather(old_values).rows, place, len(blocks))
            average, floored = _storm(old, before, new, average, self.gamma, self.floor)
            self.floored += (floored & ~old.isneginf()).sum()
        average = torch.where(old.isneginf(), new, average)
        self.log_u[blocks] = average.to(self.log_u)
        return average[torch.searchsorted(blocks, index)]

    def read(self, index: Tensor) -> Tensor:
        """The logarithms as they stand.

        Args:
            index: (b,) int64 blocks.

        Returns:
            (b,) float32, ``-inf`` for a block without a value.

        Raises:
            ValueError: an index out of range.
        """
        return self.log_u[self._index(index, index)]

    def _index(self, rows: Tensor, index: Tensor | None) -> Tensor:
        checks.require(rows.ndim == 1, f"log_values must be (b,), one per row: got shape {tuple(rows.shape)}.")
        if index is None:
            checks.require(
                len(self.log_u) == 1, f"index must say which of the {len(self.log_u)} blocks each row is of."
            )
            return torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
        checks.require(
            index.dtype == torch.int64 and index.shape == rows.shape,
            f"index must be ({len(rows)},) int64, one per row: got {tuple(index.shape)} {index.dtype}.",
        )
        low, high = (int(index.min()), int(index.max())) if len(index) else (0, 0)
        checks.require(
            0 <= low and high < len(self.log_u),
            f"index must lie in 0..{len(self.log_u) - 1}, the blocks: got {low}..{high}.",
        )
        return index


def _log_mean(values: Tensor, place: Tensor, blocks: int) -> Tensor:
    """Per block the logarithm of the mean of exponentials."""
    peak = values.new_full((blocks,), -torch.inf).scatter_reduce(0, place, values, "amax")
    peak = peak.masked_fill(peak.isneginf(), 0.0)
    total = values.new_zeros(blocks).index_add(0, place, (values - peak[place]).exp())
    return (total / torch.bincount(place, minlength=blocks)).log() + peak


def _storm(
    old: Tensor, before: Tensor, new: Tensor, plain: Tensor, gamma: float, floor: float
) -> tuple[Tensor, Tensor]:
    """The variance-reduced logarithm, and where the floor holds it up."""
    peak = torch.stack([old, before, new]).amax(0)
    peak = peak.masked_fill(peak.isneginf(), 0.0)
    total = (1 - gamma) * ((old - peak).exp() - (before - peak).exp()) + (new - peak).exp()
    least = floor * (plain - peak).exp()
    return torch.maximum(total, least).log() + peak, total < least
