"""Matrix products in a coarse number format, with a rigorous bound on what the rounding can change.

The inner product of a query and a passage differs from the product of their rounded copies by at most
``|q - q'| |p| + |q'| |p - p'|`` (Cauchy and Schwarz), plus the rounding of sums and of the result. The norms are
measured, not assumed, so the bound is a few times tighter than one from the format alone. Passages are centred before
they are rounded: a shift of all passages changes no query's ranking, and shorter vectors have smaller errors.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

_ULP = {torch.float32: 0.0, torch.bfloat16: 2.0**-8}  # relative rounding of a product; that of float32 is in the slack
_PIECE = 4096  # rows converted at once
_TINY = 2.0**-120  # products too small for the format may become zero


@dataclass(frozen=True)
class PassageBlock:
    """Passages ``first ...``: as they are in float32, and centred and rounded for the products.

    Args:
        first: row of the first.
        rows: (m, d) float32.
        rounded: (m, d) of the coarse format.
        centre: (d,) float32, what was subtracted.
        norm: bound on the norms of the centred passages.
        error: bound on the norms of their rounding errors.
        reach: bound on the norm of a passage plus that of the centre.
    """

    first: int
    rows: Tensor
    rounded: Tensor
    centre: Tensor
    norm: float
    error: float
    reach: float


def passage_blocks(passages: Tensor, size: int, dtype: torch.dtype, device: torch.device) -> Iterator[PassageBlock]:
    """Walk through passages in blocks, rounded to ``dtype`` on ``device``.

    Args:
        passages: (n, d) float32, float16 or bfloat16, on any device.
        size: passages per block.
        dtype: float32, which leaves them as they are, or bfloat16.
        device: where the products are taken.

    Yields:
        blocks in order; each reuses the memory of the one before.

    Example:
        >>> points = torch.tensor([[1.0, 0.0], [1.0, 2.0], [1.0, 4.0]])
        >>> block = next(passage_blocks(points, 2, torch.bfloat16, torch.device("cpu")))
        >>> block.rounded.tolist(), block.error
        ([[0.0, -2.0], [0.0, 0.0]], 0.0)
    """
    n, d = passages.shape
    # Any vector may be the centre, so the mean of a sample does.
    centre = passages[:: -(-n // _PIECE)].to(device, torch.float32).mean(0)
    if dtype == torch.float32:
        centre.zero_()
    inexact = 2.0**-8 if dtype == torch.float32 and not float32_is_exact(device) else 0.0
    kept = centre.new_empty(size if is_converted(passages, device) else 0, d)
    rounded = torch.empty(size if dtype != torch.float32 else 0, d, dtype=dtype, device=device)
    for first in range(0, n, size):
        rows = passages[first : first + size]
        if len(kept) > 0:
            rows = kept[: len(rows)].copy_(rows)
        norm = error = reach = 0.0
        for start in range(0, len(rows), _PIECE):
            piece = rows[start : start + _PIECE]
            reach = max(reach, _longest(piece))
            if dtype != torch.float32:
                centred = piece - centre
                near = rounded[start : start + len(piece)].copy_(centred)
                norm, error = max(norm, _longest(centred)), max(error, _longest(centred.sub_(near.float())))
        if dtype == torch.float32:
            norm, error = reach, reach * inexact
        reach += float(torch.linalg.vector_norm(centre))
        yield PassageBlock(first, rows, rounded[: len(rows)] if len(rounded) > 0 else rows, centre, norm, error, reach)


@dataclass(frozen=True)
class QueryTile:
    """Queries before one block: ``|score - shift - product| <= error + ulp * |product|`` for each of its passages.

    Args:
        rows: (m, d) float32.
        rounded: (m, d) of the coarse format.
        shift: (m,) float32, inner product with the centre of the passages.
        error: (m,) float32.
        ulp: relative rounding of a product.
    """

    rows: Tensor
    rounded: Tensor
    shift: Tensor
    error: Tensor
    ulp: float

    def least(self, score: Tensor) -> Tensor:
        """The lowest product (m,) that a pair of at least this score (m,) can have."""
        bound = score - self.shift - self.error
        return _round_down(torch.where(bound > 0, bound / (1 + self.ulp), bound / (1 - self.ulp)), self.rounded.dtype)

    def sure(self, score: Tensor) -> Tensor:
        """A product (m,) above which every pair has at least this score (m,)."""
        bound = score - self.shift + self.error
        return -_round_down(-torch.where(bound > 0, bound / (1 - self.ulp), bound / (1 + self.ulp)), self.rounded.dtype)

    def score(self, product: Tensor) -> Tensor:
        """The lowest score (m,) that a pair of this product (m,) can have."""
        product = product.float()
        return product - self.ulp * product.abs() - self.error + self.shift


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
    rounded = rows.to(block.rounded.dtype)
    norm = torch.linalg.vector_norm(rows, dim=1)
    error = torch.linalg.vector_norm(rows - rounded.float(), dim=1)
    if rounded.dtype == torch.float32:
        error = norm * (block.error / block.norm if block.norm > 0 else 0.0)
    ulp, d = _ULP[rounded.dtype], rows.shape[1]
    # A graphics processor may add partial sums in bfloat16.
    split = 4 * ulp if rows.device.type == "cuda" else 0.0
    # Sums of d terms in float32, in whatever order: the product, the score, the shift, and the arithmetic on them.
    slack = 4 * (d + 16) * 2.0**-24
    bound = error * block.norm + (norm + error) * block.error + norm * (slack * block.reach + split * block.norm)
    tiny = d * _TINY * (1 + norm + block.reach)
    shift = (rows * block.centre).sum(1)  # not a matrix product, which autocast would round
    return QueryTile(rows, rounded, shift, 1.001 * bound + tiny, ulp)


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


def _longest(rows: Tensor) -> float:
    return float(torch.linalg.vector_norm(rows, dim=1).max())


def _round_down(values: Tensor, dtype: torch.dtype) -> Tensor:
    near = values.to(dtype)
    return torch.where(near.to(values.dtype) > values, torch.nextafter(near, near.new_tensor(-math.inf)), near)
