"""Scan: every pair of rows whose inner product may reach a floor, found in bounded memory.

This is the engine under ``tamis.search``. Blocks of queries meet blocks of passages in matrix products that only find
candidates: their error is bounded (``tamis.rounding``), and what could reach the floor of its query is scored again as
one fixed float32 dot product. Maxima over groups of passages are compared with the floor first, so nearly all products
are read once, in the cache, and never sorted. Pairs that must not be found are struck from the products beforehand.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from tamis.rounding import PassageBlock, QueryTile, bfloat16_is_faster, is_converted, passage_blocks, query_tile

PAIRS = 2048  # pairs scored at once: two operands of this many rows stay in the cache

_TILE = 512
_PART = 4096  # passages per product: the products stay in the cache until their maxima are taken
_GROUP = 32
_LANES = 64  # reductions are several times as fast where whole vectors fit


class Found(NamedTuple):
    """Pairs of the queries [start, stop), by ascending row.

    Args:
        start: first query.
        stop: query after the last.
        rows: (m,) int64, query less start.
        columns: (m,) int64, passage.
        scores: (m,) float32.
    """

    start: int
    stop: int
    rows: Tensor
    columns: Tensor
    scores: Tensor


def dots(queries: Tensor, passages: Tensor, rows: Tensor, columns: Tensor, *, block: int = PAIRS) -> Tensor:
    """Inner products of given pairs in float32: the one definition of a score.

    Args:
        queries: (q, d) float.
        passages: (n, d) float.
        rows: (m,) int64, rows of queries, on the device of the result.
        columns: (m,) int64, rows of passages, likewise.
        block: pairs at once.

    Returns:
        (m,) float32; the score of a pair does not depend on its neighbours.

    Example:
        >>> dots(torch.ones(1, 2), torch.tensor([[1.0, 2.0]]), torch.tensor([0]), torch.tensor([0])).tolist()
        [3.0]
    """
    scores = torch.empty(len(rows), dtype=torch.float32, device=rows.device)
    left = scores.new_empty(min(block, len(rows)), queries.shape[1])  # fresh memory would take longer than the sums
    right = torch.empty_like(left)
    for start in range(0, len(rows), block):
        piece = slice(start, start + block)
        product = _take(passages, columns[piece], left).mul_(_take(queries, rows[piece], right))
        torch.sum(product, 1, out=scores[piece])
    return scores


def scan(
    queries: Tensor,
    passages: Tensor,
    floors: Tensor,
    *,
    precision: str,
    max_memory: int,
    count: int | None = None,
    barred: tuple[Tensor, Tensor] | None = None,
    ceiling: Tensor | None = None,
    advance: Callable[[int], object] | None = None,
) -> Iterator[Found]:
    """Yield all pairs whose score is at least the floor of the query, and some below it.

    Args:
        queries: (q, d) float, finite.
        passages: (n, d) float, finite; moved block by block to the device of floors.
        floors: (q,) float32; the caller may raise them between two yields.
        precision: "auto", "float32" or "bfloat16", of the products.
        max_memory: bytes for blocks.
        count: that only so many pairs per query matter; a floor that is still -inf is then put by what is seen.
        barred: CSR (indptr, columns) of pairs that are never yielded.
        ceiling: (q,) float32; pairs that reach it do not count, and few of them are yielded.
        advance: called with the number of pairs done since the last call.

    Yields:
        pairs by ascending blocks of passages.

    Example:
        >>> points, floor = torch.eye(2), torch.full((2,), 0.5)
        >>> [found.columns.tolist() for found in scan(points, points, floor, precision="float32", max_memory=2**20)]
        [[0, 1]]
    """
    auto = precision == "auto" and len(queries) * len(passages) > 1_000_000  # below that no choice is worth its trouble
    coarse = precision == "bfloat16" or (auto and bfloat16_is_faster(floors.device.type))
    job = _Job(queries, passages, floors, count, barred, ceiling, max_memory, advance)
    if coarse:
        finished = yield from _scan(job, torch.bfloat16, may_stop=auto)
    if not (coarse and finished):
        yield from _scan(job, torch.float32, may_stop=False)


@dataclass(frozen=True)
class _Job:
    """The arguments of ``scan``."""

    queries: Tensor
    passages: Tensor
    floors: Tensor
    count: int | None
    barred: tuple[Tensor, Tensor] | None
    ceiling: Tensor | None
    max_memory: int
    advance: Callable[[int], object] | None


def _scan(job: _Job, dtype: torch.dtype, *, may_stop: bool) -> Generator[Found, None, bool]:
    """Scan with products in ``dtype``; return False, with nothing yielded, where the bound separates too little."""
    device = job.floors.device
    plan = _plan(job, dtype)
    table = torch.empty(plan.parts, plan.tile, plan.part, dtype=dtype, device=device)
    for block in passage_blocks(job.passages, plan.block, dtype, device):
        for start in range(0, len(job.queries), plan.tile):
            tile = query_tile(job.queries[start : start + plan.tile].to(device, torch.float32), block)
            stop = start + len(tile.rows)
            maxima = _products(table, tile, block, plan)
            if job.barred is not None:
                _bar(table, maxima, job.barred, start, stop, block, plan)
            sure = maxima if job.ceiling is None else _cap(table, maxima, job.ceiling[start:stop], tile, plan)
            cut = _cut(job.floors[start:stop], sure, tile, job.count)
            reached = (maxima >= cut[:, None]).sum(1)
            # Among near copies, say, finer products are cheaper than to score nearly everything again.
            many = len(block.rows) // (4 * plan.group) + 4 * (job.count or 0)
            if may_stop and block.first == start == 0 and int(reached.sum()) > many * len(tile.rows):
                return False
            for low, high in _spans(reached.tolist(), plan):
                rows, columns = _survivors(table, maxima, cut, low, high, plan)
                scores = dots(tile.rows, block.rows, rows, columns)
                yield Found(start + low, start + high, rows - low, columns + block.first, scores)
            if job.advance is not None:
                job.advance(len(tile.rows) * len(block.rows))
    return True


@dataclass(frozen=True)
class _Plan:
    """Sizes: ``tile`` queries meet ``block`` passages in ``parts`` products of ``part`` passages.

    A part holds bands of ``group * lanes`` passages. A group takes every ``lanes``-th passage of its band, so that
    maxima over groups reduce whole vectors. Memory gathers at most ``gathered`` products at once.
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


def _plan(job: _Job, dtype: torch.dtype) -> _Plan:
    """A third of the memory goes to the blocks; the rest is for what is converted, gathered and sorted."""
    q, (n, d) = len(job.queries), job.passages.shape
    room = max(1, job.max_memory // 3)
    stored = 4 * is_converted(job.passages, job.floors.device) + dtype.itemsize * (dtype != torch.float32)

    def passages(tile: int) -> int:
        return room // (stored * d + tile * dtype.itemsize * (_GROUP + 8) // _GROUP)

    tile = max(1, min(q, _TILE, room // (32 * (job.count or 1))))
    while tile > 16 and passages(tile) < min(n, 2 * _PART):
        tile = -(-tile // 2)
    block = min(n, max(_GROUP, passages(tile)))
    block = -(-n // -(-n // block))  # blocks of about one size
    group = _GROUP
    # Enough groups that the count-th largest maximum is near the count-th largest product.
    while job.count is not None and group > 1 and block < 4 * job.count * group:
        group //= 2
    lanes = min(_LANES, -(-block // group))
    part = min(_PART, -(-block // (group * lanes)) * group * lanes)
    parts = -(-block // part)
    return _Plan(tile, min(n, parts * part), parts, part, group, lanes, room // 32)


def _products(table: Tensor, tile: QueryTile, block: PassageBlock, plan: _Plan) -> Tensor:
    """Fill the table with products; return their maxima (queries, groups)."""
    size, parts = len(tile.rows), -(-len(block.rows) // plan.part)
    maxima = table.new_empty(size, parts * plan.part // plan.group)
    for number in range(parts):
        passages = block.rounded[number * plan.part : (number + 1) * plan.part]
        products = table[number, :size]
        if len(passages) < plan.part:
            products.fill_(-math.inf)
        with torch.autocast(table.device.type, enabled=False):
            torch.mm(tile.rounded, passages.T, out=products[:, : len(passages)])
        _maximum(products, maxima, number, plan)
    return maxima


def _maximum(products: Tensor, maxima: Tensor, number: int, plan: _Plan) -> None:
    width = plan.part // plan.group
    out = maxima[:, number * width : (number + 1) * width].view(len(maxima), -1, plan.lanes)
    torch.amax(products.view(len(maxima), -1, plan.group, plan.lanes), 2, out=out)


def _members(table: Tensor, rows: Tensor, groups: Tensor, plan: _Plan) -> Tensor:
    """The products of given groups, (m, group), copied."""
    flat = table.view(-1)
    span = (plan.group - 1) * plan.lanes
    windows = flat.as_strided((len(flat) - span, plan.group), (1, plan.lanes))
    return windows[plan.place(rows, plan.first(groups))]


def _bar(
    table: Tensor,
    maxima: Tensor,
    barred: tuple[Tensor, Tensor],
    start: int,
    stop: int,
    block: PassageBlock,
    plan: _Plan,
) -> None:
    """Put barred pairs to -inf. Each costs only its own group, however many one query has."""
    indptr = barred[0][start : stop + 1]
    columns = barred[1][int(indptr[0]) : int(indptr[-1])] - block.first
    rows = torch.repeat_interleave(torch.arange(stop - start, device=columns.device), indptr.diff())
    inside = (columns >= 0) & (columns < len(block.rows))
    rows, columns = rows[inside], columns[inside]
    table.view(-1)[plan.place(rows, columns)] = -math.inf
    groups = columns // (plan.group * plan.lanes) * plan.lanes + columns % plan.lanes
    for piece in plan.pieces(len(rows)):
        maxima[rows[piece], groups[piece]] = _members(table, rows[piece], groups[piece], plan).amax(1)


def _cap(table: Tensor, maxima: Tensor, ceiling: Tensor, tile: QueryTile, plan: _Plan) -> Tensor:
    """Return the maxima that are surely below the ceiling, after putting products that surely reach it to -inf.

    A few such products only hide their group, and are left to the caller; many would hide what is to be found.
    """
    high = tile.sure(ceiling)[:, None]
    if int((maxima > high).sum()) > maxima.numel() // 16:
        for number in range(maxima.shape[1] * plan.group // plan.part):
            products = table[number, : len(maxima)]
            products.masked_fill_(products > high, -math.inf)
            _maximum(products, maxima, number, plan)
    return maxima.masked_fill(maxima >= tile.least(ceiling)[:, None], -math.inf)


def _cut(floors: Tensor, sure: Tensor, tile: QueryTile, count: int | None) -> Tensor:
    """The lowest product that may matter, per query; never -inf, which marks what is barred or padding."""
    if count is not None and count <= sure.shape[1] and bool(torch.isneginf(floors).any()):
        # The maxima of so many groups belong to so many passages.
        nth = sure.topk(count, 1).values[:, -1].clamp(min=torch.finfo(sure.dtype).min)
        floors = torch.maximum(floors, tile.score(nth))
    return tile.least(floors).clamp(min=torch.finfo(sure.dtype).min)


def _spans(reached: list[int], plan: _Plan) -> Iterator[tuple[int, int]]:
    """Ranges of rows, each small enough that what it gathers fits even if every row were as long as the longest."""
    waiting = [(0, len(reached))]
    while waiting:
        low, high = waiting.pop()
        most = max(reached[low:high])
        if high - low > 1 and (high - low) * most * plan.group > plan.gathered:
            middle = (low + high) // 2
            waiting += [(middle, high), (low, middle)]
        elif most > 0:
            yield low, high


def _survivors(table: Tensor, maxima: Tensor, cut: Tensor, low: int, high: int, plan: _Plan) -> tuple[Tensor, Tensor]:
    """Row and column (within the block) of every product that reaches the cut, for the rows [low, high)."""
    rows, groups = (maxima[low:high] >= cut[low:high, None]).nonzero().unbind(1)
    rows = rows + low
    hits, members = (_members(table, rows, groups, plan) >= cut[rows][:, None]).nonzero().unbind(1)
    return rows[hits], plan.first(groups)[hits] + members * plan.lanes


def _take(matrix: Tensor, rows: Tensor, out: Tensor) -> Tensor:
    out = out[: len(rows)]
    if is_converted(matrix, out.device):
        return out.copy_(matrix.index_select(0, rows.to(matrix.device)))
    return torch.index_select(matrix, 0, rows, out=out)
