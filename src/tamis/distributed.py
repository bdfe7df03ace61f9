"""Losses over the batch of all ranks: rows are gathered with their gradients, and masks see the ids of all rows.

Every rank embeds its part of the batch, gathers the others' rows, and scores either its own rows against all columns
(``rank_offset`` says where its own begin) or everything against everything. Both give the loss and the gradients that
one process would get from the whole batch, under one rule: **gather sums gradients over ranks, and the trainer averages
them**, as DistributedDataParallel does. The first way shares the scores out and needs a mean that knows how many rows
the other ranks have (``mean_over_ranks``); the second works for any loss and computes it on every rank.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from tamis import checks


class Gathered(NamedTuple):
    """Rows of all ranks, in the order of ranks.

    Args:
        rows: (m, ...), the same on every rank.
        offset: where this rank's own rows begin, the ``rank_offset`` of losses.
    """

    rows: Tensor
    offset: int


def place(group: dist.ProcessGroup | None = None) -> tuple[int, int]:
    """Which rank this is, of how many: what samplers take as ``rank`` and ``num_replicas``.

    Args:
        group: a process group; None is all ranks.

    Returns:
        rank and number of ranks; 0 and 1 where torch.distributed is not in use.

    Example:
        >>> place()
        (0, 1)
    """
    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank(group), dist.get_world_size(group)


def gather(rows: Tensor, group: dist.ProcessGroup | None = None) -> Gathered:
    """The rows of all ranks, one below the other; gradients of them come back to the rank that they are from.

    In the backward pass the gradients of all ranks are summed, so what one rank's loss owes to another's embedding is
    not lost. All ranks must call, and run the backward pass, in the same order; with ``tamis.recompute.cached_loss``
    call it in the loss, not in the encoder.

    Args:
        rows: (b, ...) float, or ids and labels of any type, which take no gradient; b may differ between ranks and may
            be 0, the other dimensions may not.
        group: a process group; None is all ranks.

    Returns:
        the rows, and where this rank's own begin. Without torch.distributed, the rows themselves.

    Raises:
        ValueError: for a tensor without rows, or ranks whose rows differ in shape or type.

    Example:
        >>> gather(torch.eye(2)).rows is not None, gather(torch.tensor([7, 8])).offset
        (True, 0)
    """
    checks.require(rows.ndim > 0, "rows must have a first dimension: got a scalar.")
    rank, world = place(group)
    if world == 1:
        return Gathered(rows, 0)
    sizes = _sizes(rows, group)
    gathered: Tensor = _Gather.apply(rows, sizes, rank, group)  # type: ignore[no-untyped-call]
    return Gathered(gathered, sum(sizes[:rank]))


def mean_over_ranks(losses: Tensor, *, rows: int | None = None, group: dist.ProcessGroup | None = None) -> Tensor:
    """The mean loss of the whole batch, from each rank's losses of its own rows.

    The value is that of the whole batch, on every rank; the gradient is this rank's part times the number of ranks,
    so that the trainer's average over ranks is the gradient of the whole. Ranks may have different numbers of rows.

    Args:
        losses: (b,) float, the losses of this rank's rows (``reduction="none"``), or their mean as a scalar.
        rows: over how many rows a scalar is the mean.
        group: a process group; None is all ranks.

    Returns:
        scalar.

    Raises:
        ValueError: for a scalar without rows, or no rows on any rank.

    Example:
        >>> mean_over_ranks(torch.tensor([1.0, 3.0])).item(), mean_over_ranks(torch.tensor(2.0), rows=8).item()
        (2.0, 2.0)
    """
    checks.require(losses.ndim <= 1, f"losses must be (b,) or a scalar: got shape {tuple(losses.shape)}.")
    checks.require(
        losses.ndim == 1 or rows is not None, "rows must be given with a scalar: how many it is the mean of."
    )
    count = len(losses) if losses.ndim == 1 else int(rows or 0)
    own = losses.sum() if losses.ndim == 1 else losses * count
    _, world = place(group)
    total = torch.stack([own.detach().double(), own.new_tensor(count, dtype=torch.float64)])
    if world > 1:
        dist.all_reduce(total, group=group)
    checks.require(bool(total[1] > 0), "losses must have at least one row on some rank: got none.")
    part = own * (world / total[1]).to(own.dtype)
    return part + ((total[0] / total[1]).to(own.dtype) - part.detach())


def sum_over_ranks(counts: Tensor, *, group: dist.ProcessGroup | None = None) -> Tensor:
    """Counts of all ranks added up, without a gradient.

    Args:
        counts: any shape, the same on every rank.
        group: a process group; None is all ranks.

    Returns:
        a new tensor of that shape.

    Example:
        >>> sum_over_ranks(torch.tensor([3, 4])).tolist()
        [3, 4]
    """
    total = counts.detach().clone()
    if place(group)[1] > 1:
        dist.all_reduce(total, group=group)
    return total


class _Gather(torch.autograd.Function):
    """All rows forward; backward the sum over ranks of the gradients of this rank's rows."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, sizes: list[int], rank: int, group: dist.ProcessGroup | None) -> Tensor:
        ctx.place = sizes, rank, group
        # Collectives want equal shapes, so shorter ranks are filled up.
        longest = max(sizes)
        padded = rows.new_zeros(longest, *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded, group=group)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        sizes, rank, group = ctx.place
        (gradient,) = gradients
        # Sums over many ranks would lose bits in half precision.
        total = gradient.to(torch.promote_types(gradient.dtype, torch.float32)).clone().contiguous()
        dist.all_reduce(total, group=group)
        first = sum(sizes[:rank])
        return total[first : first + sizes[rank]].to(gradient.dtype), None, None, None


_TYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.bool)
_DIMENSIONS = 8


def _sizes(rows: Tensor, group: dist.ProcessGroup | None) -> list[int]:
    """How many rows each rank has, once it is certain that they fit below one another."""
    rank, world = place(group)
    checks.require(rows.dtype in _TYPES, f"rows must be float, int64, int32 or bool: got {rows.dtype}.")
    shape = [*rows.shape, *[-1] * (_DIMENSIONS - rows.ndim), _TYPES.index(rows.dtype)]
    table = torch.zeros(world, len(shape), dtype=torch.int64, device=rows.device)
    table[rank] = torch.tensor(shape)
    dist.all_reduce(table, group=group)
    other = next((r for r, line in enumerate(table[:, 1:].tolist()) if line != shape[1:]), None)
    if other is not None:
        theirs = [n for n in table[other, :-1].tolist() if n >= 0]
        raise ValueError(
            f"rows must differ between ranks only in their number: rank {rank} has {tuple(rows.shape)} {rows.dtype}, "
            f"rank {other} has {tuple(theirs)} {_TYPES[int(table[other, -1])]}."
        )
    sizes: list[int] = table[:, 0].tolist()
    return sizes
