"""Exact search by inner product in bounded memory: top-k, range search, and scores of given pairs.

Every returned score is one fixed float32 dot product, so results do not depend on block sizes, threads or precision,
and equal scores fall to the lower passage index. ``tamis.scan`` finds the pairs that may matter by blocked matrix
products with an error bound; here they are merged. Peak memory is a setting. Tensors stay on their device, arrays are
not copied, and memory-mapped ones are read block by block and given back (``tamis.mapped``).
"""

from __future__ import annotations

import functools
import math
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from tamis import checks, mapped
from tamis.best_pairs import best_pairs
from tamis.pair_dots import PAIRS, dots
from tamis.ranked_keys import LARGEST_COLUMN, NOTHING, columns_of, scores_of
from tamis.scan import scan
from tamis.workers import side_by_side

Array = np.ndarray[Any, Any]
ArrayLike = Array | Tensor
Progress = Callable[[int, int], object]
Kind = TypeVar("Kind", Array, Tensor)

DEFAULT_MEMORY = 536_870_912
PRECISIONS = ("auto", "float32", "bfloat16", "int8")

_LARGEST_NORM = 1e18  # products of two such norms stay well inside float32
_SHARE, _QUERIES = 2**26, 256  # memory and queries that make a part worth its own thread


def top_k(
    queries: Kind,
    passages: ArrayLike,
    k: int,
    *,
    exclude: tuple[ArrayLike, ArrayLike] | None = None,
    ceiling: ArrayLike | None = None,
    precision: str = "auto",
    max_memory: int = DEFAULT_MEMORY,
    progress: Progress | None = None,
) -> tuple[Kind, Kind]:
    """The k passages with the highest inner product for every query, exactly, best first.

    The inner product is taken as it is: normalise the rows first where cosine similarity is meant.

    Args:
        queries: (q, d) float32, float16 or bfloat16, tensor or array.
        passages: (n, d) likewise; a memory-mapped array is read block by block.
        k: passages per query, at least 1; a row that runs out of passages ends in index -1 and score -inf.
        exclude: CSR (indptr (q + 1,), columns): passages that are never returned for a query.
        ceiling: (q,) float: only scores strictly below it are returned.
        precision: "float32", "bfloat16" or "int8", of the products that find candidates; the result is the same.
            "auto" takes the format in which the processor is fastest and the error bound leaves few candidates.
        max_memory: bytes for blocks, above the inputs and the result; blocks of memory-mapped passages count.
        progress: called as ``progress(done, total)``, in query-passage pairs, from any thread but one at a time.

    Returns:
        scores (q, k) float32 and indices (q, k) int64, of the type of queries. Ties go to the lower index.

    Raises:
        ValueError: for shapes that do not fit, rows that are not finite, k < 1, or a malformed exclude.
        TypeError: for other types.

    Example:
        >>> scores, indices = top_k(np.eye(3, dtype=np.float32)[:1], np.eye(3, dtype=np.float32), 2)
        >>> indices.tolist(), scores.tolist()
        ([[0, 1]], [[1.0, 0.0]])
    """
    checks.at_least("k", k, 1)
    q, p, device = _operands(queries, passages, precision, max_memory)
    indptr, columns = (None, None) if exclude is None else _csr(exclude, len(q), len(p), device)
    below = None if ceiling is None else _ceiling(ceiling, len(q), device)
    keys = torch.full((len(q), k), NOTHING, dtype=torch.int64, device=device)
    parts = _parts(q, p, device, max_memory)
    advance, release = _counter(progress, len(q) * len(p)), _releaser(passages)

    def work(start: int, stop: int) -> Iterator[None]:
        barred = None if indptr is None or columns is None else (indptr[start : stop + 1], columns)
        limit = None if below is None else below[start:stop]
        yield from best_pairs(
            q[start:stop],
            p,
            keys[start:stop],
            barred=barred,
            ceiling=limit,
            precision=precision,
            max_memory=max_memory // parts,
            advance=advance,
            release=release,
        )

    side_by_side(work, len(q), parts)
    return _like(queries, scores_of(keys)), _like(queries, columns_of(keys))


def range_search(
    queries: Kind,
    passages: ArrayLike,
    threshold: float,
    *,
    precision: str = "auto",
    max_memory: int = DEFAULT_MEMORY,
    progress: Progress | None = None,
) -> tuple[Kind, Kind, Kind]:
    """All pairs whose inner product is at least the threshold, exactly, as a sparse matrix.

    Args:
        queries: (q, d) float32, float16 or bfloat16, tensor or array.
        passages: (n, d) likewise.
        threshold: the lowest score to return.
        precision: as in ``top_k``.
        max_memory: bytes for blocks, above the inputs and the result, which may itself be large.
        progress: as in ``top_k``.

    Returns:
        CSR of the pairs, of the type of queries: indptr (q + 1,) int64, columns (m,) int64 ascending within each row,
        scores (m,) float32.

    Raises:
        ValueError: for shapes that do not fit, rows that are not finite, or a threshold that is NaN.
        TypeError: for other types.

    Example:
        >>> points = np.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]], dtype=np.float32)
        >>> indptr, columns, scores = range_search(points, points, 0.7)
        >>> indptr.tolist(), columns.tolist()
        ([0, 2, 4, 5], [0, 1, 0, 1, 2])
    """
    checks.require(not math.isnan(threshold), f"threshold must be a number: got {threshold!r}.")
    q, p, device = _operands(queries, passages, precision, max_memory)
    floors = torch.full((len(q),), float(threshold), dtype=torch.float32, device=device)
    places, scores = [torch.empty(0, dtype=torch.int64, device=device)], [floors[:0]]
    parts, advance, lock = _parts(q, p, device, max_memory), _counter(progress, len(q) * len(p)), threading.Lock()
    release = _releaser(passages)

    def work(start: int, stop: int) -> Iterator[None]:
        for found in scan(
            q[start:stop],
            p,
            floors[start:stop],
            precision=precision,
            max_memory=max_memory // parts,
            advance=advance,
            release=release,
        ):
            kept = found.scores >= threshold
            place = (start + found.start + found.rows) * len(p) + found.columns
            with lock:
                places.append(place[kept])
                scores.append(found.scores[kept])
            yield

    side_by_side(work, len(q), parts)
    place, order = torch.cat(places).sort()
    indptr = torch.searchsorted(place, torch.arange(len(q) + 1, device=device) * len(p))
    return _like(queries, indptr), _like(queries, place % len(p)), _like(queries, torch.cat(scores)[order])


def pair_scores(
    queries: Kind, passages: ArrayLike, query_rows: ArrayLike, passage_rows: ArrayLike, *, block: int = PAIRS
) -> Kind:
    """Inner products of given pairs of rows, bit for bit the scores that ``top_k`` returns for them.

    Args:
        queries: (q, d) float32, float16 or bfloat16, tensor or array.
        passages: (n, d) likewise.
        query_rows: (m,) int, rows of queries.
        passage_rows: (m,) int, rows of passages.
        block: pairs scored at once; takes about ``8 * block * d`` bytes.

    Returns:
        (m,) float32, of the type of queries.

    Raises:
        ValueError: for shapes that do not fit or rows that are not there.
        TypeError: for other types.

    Example:
        >>> points = np.array([[1.0, 2.0], [3.0, 4.0]], dtype=np.float32)
        >>> pair_scores(points, points, np.array([0, 1]), np.array([1, 1])).tolist()
        [11.0, 25.0]
    """
    checks.at_least("block", block, 1)
    q, p, device = _matrices(queries, passages)
    rows = _rows("query_rows", query_rows, "queries", len(q), device)
    columns = _rows("passage_rows", passage_rows, "passages", len(p), device)
    checks.same_length("passage_rows", columns, "query_rows", rows)
    if not mapped.is_mapped(queries) and not mapped.is_mapped(passages):
        return _like(queries, dots(q, p, rows, columns, block=block))
    if mapped.is_mapped(queries):
        distinct, rows = torch.unique(rows, return_inverse=True)
        q = torch.cat([q[distinct[low:high].to(q.device)] for low, high in _walk(queries, distinct)])
    columns, order = columns.sort()
    rows, scores = rows[order], torch.empty(len(rows), dtype=torch.float32, device=device)
    for low, high in _walk(passages, columns):
        scores[order[low:high]] = dots(q, p, rows[low:high], columns[low:high], block=block)
    return _like(queries, scores)


def _parts(q: Tensor, p: Tensor, device: torch.device, max_memory: int) -> int:
    """Into how many parts of the queries a search is worth dividing."""
    if device.type != "cpu" or len(q) * len(p) < 4_000_000:
        return 1
    return max(1, min(torch.get_num_threads(), max_memory // _SHARE, len(q) // _QUERIES))


def _releaser(passages: ArrayLike) -> Callable[[int, int], object] | None:
    """Gives back the memory of passages in a file; None where they are not."""
    return functools.partial(mapped.release, passages) if mapped.is_mapped(passages) else None


def _walk(matrix: ArrayLike, rows: Tensor) -> Iterator[tuple[int, int]]:
    """Which of some ascending rows lie in each piece of a matrix in a file; pieces are given back when done with."""
    piecewise = isinstance(matrix, np.ndarray) and mapped.is_mapped(matrix)
    for piece in mapped.pieces(matrix) if piecewise else (slice(0, len(matrix)),):
        low, high = torch.searchsorted(rows, torch.tensor([piece.start, piece.stop], device=rows.device)).tolist()
        if high > low:
            yield low, high


def _counter(progress: Progress | None, total: int) -> Callable[[int], None] | None:
    """Adds up the steps of all parts for ``progress``."""
    if progress is None:
        return None
    lock, done = threading.Lock(), 0

    def advance(pairs: int) -> None:
        nonlocal done
        with lock:
            done += pairs
            progress(done, total)

    return advance


def _operands(queries: ArrayLike, passages: ArrayLike, precision: str, max_memory: int) -> tuple[Tensor, Tensor, Any]:
    checks.one_of("precision", precision, PRECISIONS)
    checks.positive("max_memory", max_memory)
    q, p, device = _matrices(queries, passages)
    _measured("queries", q, queries)
    _measured("passages", p, passages)
    return q, p, device


def _matrices(queries: ArrayLike, passages: ArrayLike) -> tuple[Tensor, Tensor, torch.device]:
    q, p = _tensor("queries", queries), _tensor("passages", passages)
    checks.matrix("queries", q)
    checks.matrix("passages", p, columns=q.shape[1])
    checks.require(len(p) <= LARGEST_COLUMN, f"passages must be fewer than 2**32 - 1: got {len(p)} rows.")
    return q, p, q.device if p.device.type == "cpu" else p.device


def _tensor(name: str, value: ArrayLike) -> Tensor:
    """The same memory as a tensor, without its gradient."""
    kinds = "float32, float16 or bfloat16"
    if isinstance(value, Tensor):
        if value.dtype not in (torch.float32, torch.float16, torch.bfloat16):
            raise TypeError(f"{name} must be {kinds}: got {value.dtype}; call {name}.float().")
        return value.detach()
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{name} must be a tensor or an array: got {type(value).__name__}.")
    if value.dtype.newbyteorder("=") not in (np.float32, np.float16):
        raise TypeError(f"{name} must be {kinds}: got {value.dtype}; call {name}.astype(np.float32).")
    if min(value.strides, default=0) < 0 or not value.dtype.isnative:
        value = np.ascontiguousarray(value, dtype=value.dtype.newbyteorder("="))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch warns of read-only memory, which is never written to
        return torch.from_numpy(value)


def _measured(name: str, matrix: Tensor, source: ArrayLike) -> None:
    """Refuse rows that are not finite or whose products could overflow, before any work is done."""
    step = max(1, min(4 * PAIRS, 2**24 // matrix.shape[1]))
    for start in range(0, len(matrix), step):
        norms = torch.linalg.vector_norm(matrix[start : start + step].float(), dim=1)
        mapped.release(source, start, start + step)
        if bool((norms <= _LARGEST_NORM).all()):
            continue
        row = start + int((~(norms <= _LARGEST_NORM)).nonzero()[0])
        checks.require(bool(matrix[row].isfinite().all()), f"{name} must be finite: row {row} holds NaN or infinity.")
        raise ValueError(f"{name} must have norms of at most {_LARGEST_NORM:g}: row {row} is longer; scale them down.")


def _integers(name: str, value: ArrayLike, device: torch.device) -> Tensor:
    if not isinstance(value, Tensor):
        array = np.asarray(value)
        checks.require(array.dtype.kind in "iu" or array.size == 0, f"{name} must hold integers: got {array.dtype}.")
        value = torch.from_numpy(array.astype(np.int64))
    checks.require(not value.is_floating_point(), f"{name} must hold integers: got {value.dtype}.")
    checks.require(value.ndim == 1, f"{name} must be one-dimensional: got shape {tuple(value.shape)}.")
    return value.to(device, torch.int64)


def _rows(name: str, value: ArrayLike, of: str, size: int, device: torch.device) -> Tensor:
    rows = _integers(name, value, device)
    if len(rows) > 0:
        low, high = int(rows.min()), int(rows.max())
        checks.require(0 <= low and high < size, f"{name} must be rows of {of}, 0 to {size - 1}: got {low} to {high}.")
    return rows


def _csr(exclude: tuple[ArrayLike, ArrayLike], q: int, n: int, device: torch.device) -> tuple[Tensor, Tensor]:
    indptr = _integers("exclude[0]", exclude[0], device)
    columns = _rows("exclude[1]", exclude[1], "passages", n, device)
    checks.require(
        len(indptr) == q + 1 and int(indptr[0]) == 0 and int(indptr[-1]) == len(columns),
        f"exclude must be CSR (indptr, columns): indptr of {q + 1} entries from 0 to {len(columns)}, "
        f"got {len(indptr)} entries.",
    )
    checks.require(bool((indptr.diff() >= 0).all()), "exclude must be CSR (indptr, columns): indptr decreases.")
    return indptr, columns


def _ceiling(ceiling: ArrayLike, q: int, device: torch.device) -> Tensor:
    tensor = ceiling if isinstance(ceiling, Tensor) else torch.from_numpy(np.array(ceiling, dtype=np.float32))
    checks.require(tensor.shape == (q,), f"ceiling must have one entry per query: {q}, got {tuple(tensor.shape)}.")
    tensor = tensor.detach().to(device, torch.float32)
    checks.require(not bool(tensor.isnan().any()), "ceiling must hold no NaN; put inf where there is none.")
    return tensor


def _like(reference: Kind, result: Tensor) -> Kind:
    """A result of the kind of the input, on its device."""
    if isinstance(reference, np.ndarray):
        return result.cpu().numpy()
    return result.to(reference.device)
