"""Matrix products in a coarse number format, with a rigorous bound on what the rounding can change.

The inner product of a query and a passage differs from the product of their rounded copies by at most
``|q - q'| |p| + |q'| |p - p'|`` (Cauchy and Schwarz), plus the rounding of sums and of the result. The norms are
measured, not assumed, so the bound is a few times tighter than one from the format alone. Passages are centred before
they are rounded: a shift of all passages changes no query's ranking, and shorter vectors have smaller errors. Formats
are bfloat16, whose products are rounded once more, and int8 with one step for all passages and one for each query,
whose products are exact integers.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

_ULP = {torch.float32: 0.0, torch.bfloat16: 2.0**-8}  # relative rounding of a product; that of float32 is in the slack
_SAMPLE = 4096  # rows that the centre is the mean of
_PIECE = 1024  # rows converted at once, in the cache
_LEVELS = 127  # of int8 on either side of zero
_TINY = 2.0**-120  # products too small for the format may become zero


@dataclass(frozen=True)
class PassageBlock:
    """Every ``stride``-th passage from ``first`` on: as they are in float32, and centred and rounded for the products.

    Args:
        first: row of the first.
        rows: (m, d) float32.
        rounded: (m, d) of the coarse format.
        centre: (d,) float32, what was subtracted.
        norm: bound on the norms of the centred passages.
        error: bound on the norms of their rounding errors.
        reach: bound on the norm of a passage plus that of the centre.
        step: what a unit of ``rounded`` stands for.
        stride: from a row to the next.
    """

    first: int
    rows: Tensor
    rounded: Tensor
    centre: Tensor
    norm: float
    error: float
    reach: float
    step: float = 1.0
    stride: int = 1


def passage_blocks(
    passages: Tensor,
    size: int,
    dtype: torch.dtype,
    device: torch.device,
    release: Callable[[int, int], object] | None = None,
    *,
    spread: bool = False,
) -> Iterator[PassageBlock]:
    """Walk through passages in blocks, rounded to ``dtype`` on ``device``.

    Args:
        passages: (n, d) float32, float16 or bfloat16, on any device.
        size: passages per block.
        dtype: float32, which leaves them as they are, bfloat16 or int8.
        device: where the products are taken.
        release: called with (start, stop) of passages of which a few were read.
        spread: each block is spread over all passages, and so a fair sample of them, instead of one after the other.

    Yields:
        blocks in order; each reuses the memory of the one before.

    Example:
        >>> points = torch.tensor([[1.0, 0.0], [1.0, 2.0], [1.0, 4.0]])
        >>> block = next(passage_blocks(points, 2, torch.bfloat16, torch.device("cpu")))
        >>> block.rounded.tolist(), block.error
        ([[0.0, -2.0], [0.0, 0.0]], 0.0)
    """
    n, d = passages.shape
    centre = _centre(passages, device, release)
    if dtype == torch.float32:
        centre.zero_()
    inexact = 2.0**-8 if dtype == torch.float32 and not float32_is_exact(device) else 0.0
    kept = centre.new_empty(size if is_converted(passages, device) else 0, d)
    rounded = torch.zeros(size if dtype != torch.float32 else 0, _width(d, dtype), dtype=dtype, device=device)
    scratch = centre.new_empty(2, min(size, _PIECE), d)  # fresh memory would take longer than the arithmetic
    blocks = -(-n // size)
    for number in range(blocks):
        first, stride = (number, blocks) if spread else (number * size, 1)
        rows = passages[first::stride] if spread else passages[first : first + size]
        if len(kept) > 0:
            rows = kept[: len(rows)].copy_(rows)
        step = _step(rows, centre, scratch[0]) if dtype == torch.int8 else 1.0
        norm = error = reach = 0.0
        for start in range(0, len(rows), _PIECE):
            piece = rows[start : start + _PIECE]
            reach = max(reach, _longest(piece))
            if dtype != torch.float32:
                centred = torch.sub(piece, centre, out=scratch[0, : len(piece)])
                near = _rounded(centred, step, rounded[start : start + len(piece), :d], scratch[1, : len(piece)])
                norm, error = max(norm, _longest(centred)), max(error, _longest(near.sub_(centred)))
        if dtype == torch.float32:
            norm, error = reach, reach * inexact
        reach += float(torch.linalg.vector_norm(centre))
        known = rounded[: len(rows)] if len(rounded) > 0 else rows
        yield PassageBlock(first, rows, known, centre, norm, error, reach, step, stride)


@dataclass(frozen=True)
class QueryTile:
    """Queries before one block: ``|score - shift - step * product| <= error + ulp * |product|`` for its passages.

    Args:
        rows: (m, d) float32.
        rounded: (m, d) of the coarse format.
        shift: (m,) float32, inner product with the centre of the passages.
        error: (m,) float32.
        ulp: relative rounding of a product, 0 where a step is not 1.
        step: (m,) float64, what a unit of a product stands for.
    """

    rows: Tensor
    rounded: Tensor
    shift: Tensor
    error: Tensor
    ulp: float
    step: Tensor

    def least(self, score: Tensor) -> Tensor:
        """The lowest product (m,) that a pair of at least this score (m,) can have."""
        bound = score - self.shift - self.error
        return self._product(torch.where(bound > 0, bound / (1 + self.ulp), bound / (1 - self.ulp)))

    def sure(self, score: Tensor) -> Tensor:
        """A product (m,) above which every pair has at least this score (m,)."""
        bound = score - self.shift + self.error
        return -self._product(-torch.where(bound > 0, bound / (1 - self.ulp), bound / (1 + self.ulp)))

    def score(self, product: Tensor) -> Tensor:
        """The lowest score (m,) that a pair of this product (m,) can have."""
        product = (product * self.step).float()
        return product - self.ulp * product.abs() - self.error + self.shift

    def _product(self, value: Tensor) -> Tensor:
        """The product that stands for a value, rounded down."""
        if self.rounded.dtype == torch.int8:
            return (value / self.step).floor().clamp(-(2**31) + 1, 2**31 - 1).int()
        return _round_down(value, self.rounded.dtype)


def query_tile(rows: Tensor, block: PassageBlock) -> QueryTile:
    """Round queries for products with a block of passages, and bound the error.

    Args:
        rows: (m, d) float32, on the device of the block.
        block: the passages.

    Returns:
        the rounded queries with their bounds.

    Example:
        >>> points = torch.eye(2)
        >>> block = next(passage_blocks(points, 2, torch.float32, torch.device("cpu")))
        >>> bool(query_tile(points, block).error.max() < 1e-5)
        True
    """
    norm = torch.linalg.vector_norm(rows, dim=1)
    step = torch.ones(len(rows), dtype=torch.float64, device=rows.device)
    if block.rounded.dtype == torch.int8:
        own = (rows.abs().amax(1, keepdim=True) / _LEVELS).clamp(min=torch.finfo(torch.float32).tiny)
        rounded = torch.zeros(len(rows), block.rounded.shape[1], dtype=torch.int8, device=rows.device)
        near = _rounded(rows, own, rounded[:, : rows.shape[1]], torch.empty_like(rows))
        step *= own[:, 0].double() * block.step
    else:
        rounded = rows.to(block.rounded.dtype)
        near = rounded.float()
    error = torch.linalg.vector_norm(rows - near, dim=1)
    if rounded.dtype == torch.float32:
        error = norm * (block.error / block.norm if block.norm > 0 else 0.0)
    ulp, d = _ULP.get(rounded.dtype, 0.0), rows.shape[1]
    # A graphics processor may add partial sums in bfloat16.
    split = 4 * ulp if rows.device.type == "cuda" else 0.0
    # Sums of d terms in float32, in whatever order: the product, the score, the shift, and the arithmetic on them.
    slack = 4 * (d + 16) * 2.0**-24
    bound = error * block.norm + (norm + error) * block.error + norm * (slack * block.reach + split * block.norm)
    tiny = d * _TINY * (1 + norm + block.reach)
    shift = (rows * block.centre).sum(1)  # not a matrix product, which autocast would round
    return QueryTile(rows, rounded, shift, 1.001 * bound + tiny, ulp, step)


def is_converted(passages: Tensor, device: torch.device) -> bool:
    """Whether a float32 copy of each block is needed, because the passages are of another format or elsewhere.

    Args:
        passages: (n, d) float.
        device: where the products are taken.

    Returns:
        whether blocks are copies and not views.

    Example:
        >>> is_converted(torch.zeros(2, 2, dtype=torch.float16), torch.device("cpu"))
        True
    """
    return passages.dtype != torch.float32 or passages.device != device


@functools.cache
def bfloat16_is_faster(device: str) -> bool:
    """Whether products in bfloat16 take well under the time of float32 and are added up in float32; measured once.

    Args:
        device: type of the device; only "cpu" is measured, elsewhere products are not what takes the time.

    Returns:
        whether to take bfloat16.

    Example:
        >>> bfloat16_is_faster("cuda")
        False
    """
    if device != "cpu":
        return False
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        left, right = (torch.ones(shape, dtype=dtype, device=device) for shape in ((256, 1024), (1024, 512)))
        runs = []
        for _ in range(4):
            start = time.perf_counter()
            product = left @ right
            runs.append(time.perf_counter() - start)
        seconds[dtype] = min(runs)
        if not bool((product == 1024).all()):
            return False
    return seconds[torch.bfloat16] < 0.6 * seconds[torch.float32]


@functools.cache
def int8_is_faster(device: str) -> bool:
    """Whether torch multiplies int8, adds up exactly, and takes under 0.8 of the time of bfloat16; measured once.

    Args:
        device: type of the device; only "cpu" is measured.

    Returns:
        whether to take int8.

    Example:
        >>> int8_is_faster("cuda")
        False
    """
    if device != "cpu" or not bfloat16_is_faster(device):
        return False
    seconds = {}
    for dtype in (torch.bfloat16, torch.int8):
        # Products of the largest entries are what an instruction that saturates gets wrong.
        left, right = (torch.full(shape, _LEVELS, dtype=dtype, device=device) for shape in ((256, 1024), (512, 1024)))
        right[::2] *= -1
        runs = []
        for _ in range(4):
            start = time.perf_counter()
            try:
                product = integer_products(left, right) if dtype == torch.int8 else left @ right.T
            except (AttributeError, RuntimeError):  # other builds of torch lack it
                return False
            runs.append(time.perf_counter() - start)
        seconds[dtype] = min(runs)
    expected = 1024 * _LEVELS**2 * torch.ones(512, dtype=torch.int32, device=device)
    expected[::2] *= -1
    return bool((product == expected).all()) and seconds[torch.int8] < 0.8 * seconds[torch.bfloat16]


def integer_products(left: Tensor, right: Tensor, *, out: Tensor | None = None) -> Tensor:
    """All inner products of int8 rows as int32.

    Args:
        left: (m, d) int8, d at least 2.
        right: (n, d) int8.
        out: (m, n) int32 that stands together, to be filled.

    Returns:
        (m, n) int32.

    Example:
        >>> rows = torch.tensor([[1, 2], [3, 4]], dtype=torch.int8)
        >>> integer_products(rows, rows).tolist()
        [[5, 11], [11, 25]]
    """
    multiply: Callable[..., Tensor] = torch._int_mm
    return multiply(left, right.T) if out is None else multiply(left, right.T, out=out)


def float32_is_exact(device: torch.device) -> bool:
    """Whether float32 products keep all bits of their factors; settings of torch may have them rounded first.

    Args:
        device: where the products are taken.

    Returns:
        whether a product told 1 + 2**-12 from 1.

    Example:
        >>> float32_is_exact(torch.device("cpu"))
        True
    """
    fine = 1 + 2.0**-12
    with torch.autocast(device.type, enabled=False):
        left = torch.full((128, 256), fine, dtype=torch.float32, device=device)
        product = left @ torch.ones_like(left).T
    return bool((product == 256 * fine).all())


def _centre(passages: Tensor, device: torch.device, release: Callable[[int, int], object] | None) -> Tensor:
    """The mean of a sample; any vector may be the centre."""
    stride = -(-len(passages) // _SAMPLE)
    step = stride * (16 if release is not None else _SAMPLE)
    total = torch.zeros(passages.shape[1], dtype=torch.float32, device=device)
    for start in range(0, len(passages), step):
        total += passages[start : start + step : stride].to(device, torch.float32).sum(0)
        if release is not None:
            release(start, start + step)
    return total / -(-len(passages) // stride)


def _width(columns: int, dtype: torch.dtype) -> int:
    """Columns in a format: torch takes an int8 matrix of one column for a row."""
    return max(2, columns) if dtype == torch.int8 else columns


def _step(rows: Tensor, centre: Tensor, scratch: Tensor) -> float:
    """The least step of int8 that clips no entry of the centred rows."""
    largest = 0.0
    for start in range(0, len(rows), len(scratch)):
        piece = rows[start : start + len(scratch)]
        least, most = torch.aminmax(torch.sub(piece, centre, out=scratch[: len(piece)]))
        largest = max(largest, -float(least), float(most))
    return max(largest / _LEVELS, torch.finfo(torch.float32).tiny)


def _rounded(rows: Tensor, step: float | Tensor, out: Tensor, scratch: Tensor) -> Tensor:
    """Round rows into ``out``; return what the rounded ones stand for, in float32."""
    if out.dtype == torch.int8:
        out.copy_(torch.div(rows, step, out=scratch).round_().clamp_(-_LEVELS, _LEVELS))
        return scratch.mul_(step)
    return scratch.copy_(out.copy_(rows))


def _longest(rows: Tensor) -> float:
    return float(torch.linalg.vector_norm(rows, dim=1).max())


def _round_down(values: Tensor, dtype: torch.dtype) -> Tensor:
    near = values.to(dtype)
    return torch.where(near.to(values.dtype) > values, torch.nextafter(near, near.new_tensor(-math.inf)), near)
