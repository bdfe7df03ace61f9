"""Inner products of given pairs of rows: the one definition of a score.

On a processor they are the sampled product of two dense matrices, which reads each row where it lies; elsewhere, and
where a build of torch lacks that product, rows are gathered, multiplied and added up. Either way the score of a pair is
added up in an order that depends on the number of columns alone, so it does not depend on the pairs around it.
"""

from __future__ import annotations

import functools
import warnings

import torch
from torch import Tensor

PAIRS = 2048  # pairs whose rows are gathered at once: two operands of this many rows stay in the cache

_LISTED = 16_384  # pairs whose rows are read where they lie, at once


def dots(queries: Tensor, passages: Tensor, rows: Tensor, columns: Tensor, *, block: int = PAIRS) -> Tensor:
    """Inner products of given pairs in float32.

    Args:
        queries: (q, d) float.
        passages: (n, d) float.
        rows: (m,) int64, rows of queries, on the device of the result; ascending ones are read in place.
        columns: (m,) int64, rows of passages, likewise.
        block: pairs at once, where rows must be copied.

    Returns:
        (m,) float32; the score of a pair does not depend on its neighbours.

    Example:
        >>> dots(torch.ones(1, 2), torch.tensor([[1.0, 2.0]]), torch.tensor([0]), torch.tensor([0])).tolist()
        [3.0]
    """
    scores = torch.empty(len(rows), dtype=torch.float32, device=rows.device)
    if rows.device.type != "cpu" or not _samples():
        return _gathered(queries, passages, rows, columns, scores, block)
    ascending = bool((rows.diff() >= 0).all())
    left_lies, right_lies = ascending and _lies(queries) and queries.is_contiguous(), _lies(passages)
    step = _LISTED if left_lies and right_lies else min(block, PAIRS)
    for start in range(0, len(rows), step):
        row, column = rows[start : start + step], columns[start : start + step]
        own = torch.arange(len(row), device=row.device)
        right, column = _stretched(passages, column) if right_lies else (_copied(passages, column), own)
        first, after = int(row[0]), int(row[-1]) + 1
        # A sparse matrix has no more entries than places: pairs that come again and again need rows of their own.
        if left_lies and len(row) <= (after - first) * len(right):
            left, row = queries[first:after], row - first
        else:
            left, row = _copied(queries, row), own
        scores[start : start + step] = _sampled(left, right, row, column)
    return scores


def _sampled(left: Tensor, right: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """The entries (rows, columns) of ``left @ right.T``, for ascending rows."""
    kind = torch.int32 if len(right) < 2**31 else torch.int64
    indptr = torch.searchsorted(rows, torch.arange(len(left) + 1, device=rows.device)).to(kind)
    nothing = torch.zeros(len(rows), dtype=torch.float32, device=rows.device)
    places = torch.sparse_csr_tensor(indptr, columns.to(kind), nothing, (len(left), len(right)), check_invariants=False)
    product: Tensor = torch.sparse.sampled_addmm(places, left, right.T, beta=0.0)
    return product.values()


@functools.cache
def _samples() -> bool:
    """Whether torch has the sampled product; asked once, which also takes its word of warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        one = torch.ones(1, 1, dtype=torch.float32, device="cpu")
        zero = torch.zeros(1, dtype=torch.int64, device="cpu")
        try:
            return _sampled(one, one, zero, zero).tolist() == [1.0]
        except (AttributeError, RuntimeError):
            return False


def _gathered(queries: Tensor, passages: Tensor, rows: Tensor, columns: Tensor, scores: Tensor, block: int) -> Tensor:
    left = scores.new_empty(min(block, len(rows)), queries.shape[1])  # fresh memory would take longer than the sums
    right = torch.empty_like(left)
    for start in range(0, len(rows), block):
        piece = slice(start, start + block)
        product = _take(passages, columns[piece], left).mul_(_take(queries, rows[piece], right))
        torch.sum(product, 1, out=scores[piece])
    return scores


def _lies(matrix: Tensor) -> bool:
    """Whether rows can be read where they lie: they are all or every so many rows of a contiguous matrix."""
    if matrix.dtype != torch.float32 or matrix.device.type != "cpu" or matrix.stride(1) != 1:
        return False
    return matrix.stride(0) > 0 and matrix.stride(0) % matrix.shape[1] == 0


def _stretched(matrix: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """The contiguous matrix that has every so many rows in common with a given one, and the places of rows in it."""
    columns = matrix.shape[1]
    apart = matrix.stride(0) // columns
    return matrix.as_strided(((len(matrix) - 1) * apart + 1, columns), (columns, 1)), rows * apart


def _copied(matrix: Tensor, rows: Tensor) -> Tensor:
    return matrix.index_select(0, rows.to(matrix.device)).to(rows.device, torch.float32)


def _take(matrix: Tensor, rows: Tensor, out: Tensor) -> Tensor:
    out = out[: len(rows)]
    if matrix.dtype != torch.float32 or matrix.device != out.device:
        return out.copy_(matrix.index_select(0, rows.to(matrix.device)))
    return torch.index_select(matrix, 0, rows, out=out)
