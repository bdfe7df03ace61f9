"""Scan: every pair of rows whose inner product may reach a floor, found in bounded memory.

This is the engine under ``tamis.search``. Blocks of queries meet blocks of passages in matrix products that only find
candidates: their error is bounded (``tamis.rounding``), and what could reach the floor of its query is scored again as
one fixed float32 dot product. Maxima over groups of passages, and over groups of groups, are compared with the floor
first, so nearly all products are read once, in the cache, and never sorted. While a query has no floor yet, the best of
its first products are scored alone, and what they reach is the floor for the others. Pairs that must not be found are
struck from the products beforehand.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from tamis.blocking import GROUP, Plan, plan_blocks, products_in
from tamis.pair_dots import dots
from tamis.rounding import (
    PassageBlock,
    QueryTile,
    bfloat16_is_faster,
    int8_is_faster,
    integer_products,
    is_converted,
    passage_blocks,
    query_tile,
)

_NAMED = {"int8": torch.int8, "bfloat16": torch.bfloat16, "float32": torch.float32}


class Found(NamedTuple):
    """Pairs of the queries [start, stop), by ascending row.

    Args:
        start: first query.
        stop: query after the last.
        rows: (m,) int64, query less start.
        columns: (m,) int64, passage.
        scores: (m,) float32.
        share: of the passages that these queries have met, these included.
    """

    start: int
    stop: int
    rows: Tensor
    columns: Tensor
    scores: Tensor
    share: float


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
    release: Callable[[int, int], object] | None = None,
    spread: bool = False,
) -> Iterator[Found]:
    """Yield all pairs whose score is at least the floor of the query, and some below it.

    Args:
        queries: (q, d) float, finite.
        passages: (n, d) float, finite; moved block by block to the device of floors.
        floors: (q,) float32; the caller may raise them between two yields.
        precision: "auto", "float32", "bfloat16" or "int8", of the products.
        max_memory: bytes for blocks.
        count: that only so many pairs per query matter; a floor that is still -inf is then put by what is seen, at the
            place that ``stand_in`` says.
        barred: CSR (indptr, columns) of pairs that are never yielded.
        ceiling: (q,) float32; pairs that reach it do not count, and few of them are yielded.
        advance: called with the number of pairs done since the last call.
        release: called with (start, stop) of passages that are done with; their memory is then counted as taken.
        spread: passages come in blocks that are fair samples of all.

    Yields:
        pairs, a block of passages after the other.

    Example:
        >>> points, floor = torch.eye(2), torch.full((2,), 0.5)
        >>> [found.columns.tolist() for found in scan(points, points, floor, precision="float32", max_memory=2**20)]
        [[0, 1]]
    """
    auto = precision == "auto"
    job = _Job(queries, passages, floors, count, barred, ceiling, max_memory, advance, release, spread)
    for dtype in _formats(job) if auto else (_NAMED[precision],):
        finished = yield from _scan(job, dtype, may_stop=auto and dtype != torch.float32)
        if finished:
            return


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
    release: Callable[[int, int], object] | None
    spread: bool


def stand_in(count: int, share: float) -> int:
    """The place among the best of a fair sample that stands in for the ``count``-th of all.

    Of the ``count`` best a sample holds ``count * share`` on average, and four standard deviations more hardly ever.
    Where it does, the floor was too high, which shows in the end: fewer than ``count`` pairs reach it.

    Args:
        count: pairs that matter.
        share: of all that the sample holds; with 1 nothing is guessed.

    Returns:
        1 to count.

    Example:
        >>> stand_in(50, 0.1), stand_in(50, 1.0)
        (17, 50)
    """
    expected = count * share
    return min(count, math.ceil(expected + 4 * math.sqrt(expected * (1 - share)) + 3 * (share < 1)))


def _formats(job: _Job) -> list[torch.dtype]:
    """The formats worth trying on this machine, coarsest first."""
    device = job.floors.device.type
    large = len(job.queries) * len(job.passages) > 1_000_000  # below that no choice is worth its trouble
    coarse = large and bfloat16_is_faster(device)
    # Its bound leaves several times the pairs, which pays where few are wanted; and its sums must fit into int32.
    few = 1000 * (job.count or 0) < len(job.passages) and job.passages.shape[1] < 2**17
    fits = coarse and few and int8_is_faster(device)
    return [torch.int8] * fits + [torch.bfloat16] * coarse + [torch.float32]


def _scan(job: _Job, dtype: torch.dtype, *, may_stop: bool) -> Generator[Found, None, bool]:
    """Scan with products in ``dtype``; return False, with nothing yielded, where the bound separates too little."""
    device = job.floors.device
    plan = plan_blocks(
        len(job.queries),
        (job.passages.shape[0], job.passages.shape[1]),
        dtype,
        copied=is_converted(job.passages, device) or job.release is not None,
        count=job.count,
        max_memory=job.max_memory,
    )
    table = torch.empty(plan.parts, plan.tile, plan.part, dtype=products_in(dtype), device=device)
    met = 0
    for block in passage_blocks(job.passages, plan.block, dtype, device, job.release, spread=job.spread):
        met += len(block.rows)
        share = met / len(job.passages)
        count = stand_in(job.count or 0, share if job.spread else 1.0)
        for start in range(0, len(job.queries), plan.tile):
            tile = query_tile(job.queries[start : start + plan.tile].to(device, torch.float32), block)
            stop = start + len(tile.rows)
            floors = job.floors[start:stop]  # a view: it rises when the caller raises it
            maxima = _products(table, tile, block, plan)
            if job.barred is not None:
                _bar(table, maxima, job.barred, start, stop, block, plan)
            sure = maxima if job.ceiling is None else _cap(table, maxima, job.ceiling[start:stop], tile, plan)
            unsettled = 0 < count <= sure.shape[1] and bool(torch.isneginf(floors).any())
            best = _cut(floors, tile, sure.dtype)
            if unsettled:
                best = _first_cut(best, floors, sure, count)
            if (
                may_stop
                and block.first == start == 0
                and _separates_little(job, count, floors, maxima, best, tile, plan)
            ):
                return False
            _mend(table, maxima, best, plan)
            for found in _pairs(table, maxima, best, None, plan):
                yield _scored(found, tile, block, start, share)
            if unsettled:
                least = _cut(torch.maximum(floors, tile.score(best)), tile, table.dtype)
                _mend(table, maxima, least, plan)
                for found in _pairs(table, maxima, least, best, plan):
                    yield _scored(found, tile, block, start, share)
            if job.advance is not None:
                job.advance(len(tile.rows) * len(block.rows))
        if job.release is not None:
            job.release(block.first, block.first + len(block.rows))
    return True


def _products(table: Tensor, tile: QueryTile, block: PassageBlock, plan: Plan) -> Tensor:
    """Fill the table with products; return their maxima (queries, groups)."""
    size, parts = len(tile.rows), -(-len(block.rows) // plan.part)
    maxima = table.new_empty(size, parts * plan.part // plan.group)
    for number in range(parts):
        passages = block.rounded[number * plan.part : (number + 1) * plan.part]
        products = table[number, :size]
        if len(passages) < plan.part:
            products.fill_(_lowest(table.dtype))
        if table.dtype != torch.int32:
            with torch.autocast(table.device.type, enabled=False):
                torch.mm(tile.rounded, passages.T, out=products[:, : len(passages)])
        elif len(passages) == plan.part:
            integer_products(tile.rounded, passages, out=products)
        else:
            products[:, : len(passages)] = integer_products(tile.rounded, passages)
        _maximum(products, maxima, number, plan)
    return maxima


def _maximum(products: Tensor, maxima: Tensor, number: int, plan: Plan) -> None:
    """Maxima of the groups of one product; of a bfloat16 group without positive products it may be another of them."""
    width = plan.part // plan.group
    if products.dtype == torch.bfloat16 and products.device.type == "cpu":
        # The bits of positive floats are ordered like integers, above those of negative ones, and seven times as fast.
        products, maxima = products.view(torch.int16), maxima.view(torch.int16)
    out = maxima[:, number * width : (number + 1) * width].view(len(maxima), -1, plan.lanes)
    torch.amax(products.view(len(maxima), -1, plan.group, plan.lanes), 2, out=out)


def _mend(table: Tensor, maxima: Tensor, cut: Tensor, plan: Plan) -> None:
    """Take the maxima again, in floats, where a cut is so low that those of negative products count."""
    if table.dtype != torch.bfloat16 or bool((cut > 0).all()):
        return
    width = plan.part // plan.group
    for number in range(maxima.shape[1] // width):
        out = maxima[:, number * width : (number + 1) * width]
        products = table[number, : len(maxima)].view(len(maxima), -1, plan.group, plan.lanes)
        out.copy_(products.amax(2).flatten(1))


def _members(table: Tensor, rows: Tensor, groups: Tensor, plan: Plan) -> Tensor:
    """The products of given groups, (m, group), copied."""
    if plan.lanes == 1:
        return table.view(-1, plan.group).index_select(0, plan.place(rows, plan.first(groups)) // plan.group)
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
    plan: Plan,
) -> None:
    """Put barred pairs to -inf. Each costs only its own group, however many one query has."""
    indptr = barred[0][start : stop + 1]
    columns = barred[1][int(indptr[0]) : int(indptr[-1])] - block.first
    rows = torch.repeat_interleave(torch.arange(stop - start, device=columns.device), indptr.diff())
    if block.stride > 1:
        columns = torch.where(columns % block.stride == 0, columns // block.stride, -1)
    inside = (columns >= 0) & (columns < len(block.rows))
    rows, columns = rows[inside], columns[inside]
    table.view(-1)[plan.place(rows, columns)] = _lowest(table.dtype)
    groups = columns // (plan.group * plan.lanes) * plan.lanes + columns % plan.lanes
    for piece in plan.pieces(len(rows)):
        maxima[rows[piece], groups[piece]] = _members(table, rows[piece], groups[piece], plan).amax(1)


def _cap(table: Tensor, maxima: Tensor, ceiling: Tensor, tile: QueryTile, plan: Plan) -> Tensor:
    """Return the maxima that are surely below the ceiling, after putting products that surely reach it to -inf.

    A few such products only hide their group, and are left to the caller; many would hide what is to be found.
    """
    high = tile.sure(ceiling)[:, None]
    _mend(table, maxima, high, plan)
    if int((maxima > high).sum()) > maxima.numel() // 16:
        for number in range(maxima.shape[1] * plan.group // plan.part):
            products = table[number, : len(maxima)]
            products.masked_fill_(products > high, _lowest(table.dtype))
            _maximum(products, maxima, number, plan)
    return maxima.masked_fill(maxima >= tile.least(ceiling)[:, None], _lowest(table.dtype))


def _cut(floors: Tensor, tile: QueryTile, dtype: torch.dtype) -> Tensor:
    """The lowest product that may matter, per query; never the lowest number, which marks what is barred or padding."""
    return tile.least(floors).clamp(min=_lowest(dtype, 1))


def _first_cut(cut: Tensor, floors: Tensor, sure: Tensor, count: int) -> Tensor:
    """For queries without a floor a product that so many of their products reach; their scores will be the floor."""
    # The maxima of so many groups belong to so many passages.
    nth = sure.topk(count, 1).values[:, -1].clamp(min=_lowest(sure.dtype, 1))
    return torch.where(torch.isneginf(floors), nth, cut)


def _separates_little(
    job: _Job, count: int, floors: Tensor, maxima: Tensor, cut: Tensor, tile: QueryTile, plan: Plan
) -> bool:
    """Whether so many products lie within the error that another format would be cheaper than to score them again."""
    guess = torch.where(torch.isneginf(floors), tile.score(cut) + tile.error, floors)
    reached = int((maxima >= _cut(guess, tile, maxima.dtype)[:, None]).sum())
    if tile.rounded.dtype == torch.int8:
        # Against bfloat16 a passage saves about a nanosecond and a pair costs some hundred, in each of several blocks.
        many = len(job.passages) // 4000 + count
    else:
        many = plan.block // (4 * plan.group) + 4 * count
    return reached > many * len(maxima)


def _spans(reached: list[int], plan: Plan) -> Iterator[tuple[int, int]]:
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


def _pairs(
    table: Tensor, maxima: Tensor, cut: Tensor, above: Tensor | None, plan: Plan
) -> Iterator[tuple[int, int, Tensor, Tensor]]:
    """Row and column (within the block) of every product from ``cut`` to below ``above``, in ranges of rows."""
    rows, groups = _reached(maxima, cut)
    counts = torch.bincount(rows, minlength=len(maxima))
    ends = [0, *counts.cumsum(0).tolist()]
    for low, high in _spans(counts.tolist(), plan):
        piece = slice(ends[low], ends[high])
        row, group = rows[piece], groups[piece]
        members = _members(table, row, group, plan)
        wanted = members >= cut[row][:, None]
        if above is not None:
            wanted &= members < above[row][:, None]
        hits, member = wanted.nonzero().unbind(1)
        if len(hits) > 0:
            yield low, high, row[hits], plan.first(group)[hits] + member * plan.lanes


def _reached(maxima: Tensor, cut: Tensor) -> tuple[Tensor, Tensor]:
    """Row and group of every maximum that reaches the cut, by row."""
    size, groups = maxima.shape
    if maxima.dtype != torch.int32 or groups % GROUP != 0:
        rows, columns = (maxima >= cut[:, None]).nonzero().unbind(1)
        return rows, columns
    # Maxima of maxima: comparisons are slow in torch, maxima of integers are not.
    above = maxima.view(size, -1, GROUP).amax(2)
    rows, places = (above >= cut[:, None]).nonzero().unbind(1)
    few = maxima.view(-1, GROUP).index_select(0, rows * above.shape[1] + places)
    hits, members = (few >= cut[rows][:, None]).nonzero().unbind(1)
    return rows[hits], places[hits] * GROUP + members


def _scored(
    found: tuple[int, int, Tensor, Tensor], tile: QueryTile, block: PassageBlock, start: int, share: float
) -> Found:
    low, high, rows, columns = found
    scores = dots(tile.rows, block.rows, rows, columns)
    return Found(start + low, start + high, rows - low, columns * block.stride + block.first, scores, share)


def _lowest(dtype: torch.dtype, above: int = 0) -> float:
    """The lowest value of a format of products, or the one above it."""
    if dtype == torch.int32:
        return -(2**31) + above
    return torch.finfo(dtype).min if above else -math.inf
