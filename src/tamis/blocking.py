"""Blocking: the sizes of the blocks in which a scan multiplies, so that they fit into a memory and into the cache.

Queries in tiles meet passages in blocks; a block is multiplied in parts small enough to stay in the cache until the
maxima over groups of passages are taken. All sizes follow from the memory that is allowed, the format, and how many
pairs per query are wanted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

GROUP = 32  # passages whose products are represented by the largest

_TILE = 512
_PART = 8192  # bytes of products per query and part: a part stays in the cache until its maxima are taken
_LANES = 64  # reductions are several times as fast where whole vectors fit


@dataclass(frozen=True)
class Plan:
    """Sizes: ``tile`` queries meet ``block`` passages in ``parts`` products of ``part`` passages.

    A part holds bands of ``group * lanes`` passages. A group takes every ``lanes``-th passage of its band, so that
    maxima over groups reduce whole vectors of floats. Memory gathers at most ``gathered`` products at once.

    Args:
        tile: queries.
        block: passages.
        parts: products per block.
        part: passages per product.
        group: passages per group.
        lanes: distance of the passages of a group.
        gathered: products gathered at once.
    """

    tile: int
    block: int
    parts: int
    part: int
    group: int
    lanes: int
    gathered: int

    def place(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Places of products in the flat table."""
        return (columns // self.part * self.tile + rows) * self.part + columns % self.part

    def first(self, groups: Tensor) -> Tensor:
        """Column of the first member of each group."""
        return groups // self.lanes * (self.group * self.lanes) + groups % self.lanes

    def pieces(self, length: int) -> Iterator[slice]:
        """Slices of a list of groups whose members may be gathered at once."""
        step = max(1, self.gathered // self.group)
        return (slice(start, start + step) for start in range(0, length, step))


def plan_blocks(
    queries: int, passages: tuple[int, int], dtype: torch.dtype, *, copied: bool, count: int | None, max_memory: int
) -> Plan:
    """Choose the sizes: a third of the memory goes to the blocks; the rest is for what is converted and gathered.

    Args:
        queries: how many.
        passages: how many, and of how many dimensions.
        dtype: the format whose products are taken.
        copied: whether a float32 copy of each block is needed.
        count: how many pairs per query matter, None for all above a floor.
        max_memory: bytes for blocks.

    Returns:
        the sizes.

    Example:
        >>> plan = plan_blocks(1000, (100_000, 384), torch.int8, copied=False, count=10, max_memory=2**27)
        >>> plan.tile, plan.part, plan.group, plan.lanes
        (512, 2048, 32, 1)
    """
    q, (n, d) = queries, passages
    room = max(1, max_memory // 3)
    stored = 4 * copied + dtype.itemsize * (dtype != torch.float32)
    size = products_in(dtype).itemsize

    def fitting(tile: int) -> int:
        return room // (stored * d + tile * size * (GROUP + 8) // GROUP)

    tile = max(1, min(q, _TILE, room // (32 * (count or 1))))
    while tile > 16 and fitting(tile) < min(n, 2 * _PART // size):
        tile = -(-tile // 2)
    block = min(n, max(GROUP, fitting(tile)))
    block = -(-n // -(-n // block))  # blocks of about one size
    group = GROUP
    # Enough groups that the count-th largest maximum is near the count-th largest product.
    while count is not None and group > 1 and block < 2 * count * group:
        group //= 2
    # Whole groups of integers side by side are reduced as fast, and gathered many times as fast.
    alone = dtype == torch.int8 and group == GROUP
    lanes = 1 if alone else min(_LANES, -(-block // group))
    band = group * lanes
    if alone and block >= group * GROUP:
        band *= GROUP  # maxima of maxima come out even
    part = min(_PART // size, -(-block // band) * band)
    parts = -(-block // part)
    return Plan(tile, min(n, parts * part), parts, part, group, lanes, room // 32)


def products_in(dtype: torch.dtype) -> torch.dtype:
    """The format of products of a format.

    Example:
        >>> products_in(torch.int8)
        torch.int32
    """
    return torch.int32 if dtype == torch.int8 else dtype
