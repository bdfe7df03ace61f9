"""Rows between rows, in blocks that stay in the cache."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tamis import checks
from tamis.search import Kind

Array = np.ndarray[Any, Any]
ArrayLike = Array | Tensor

_BYTES = 2**19  # of a block in float64


@dataclass(frozen=True)
class Provenance:
    """Where new rows come from: ``x_base + step * (x_neighbor - x_base)``.

    Args:
        base: (m,) int64, row of the data that a new row starts from.
        neighbor: (m,) int64, row that it goes towards.
        step: (m,) float64, how far, 0 stays at the base; (m, d) where every feature has its own.
    """

    base: ArrayLike
    neighbor: ArrayLike
    step: ArrayLike


@dataclass(frozen=True)
class Segments:
    """As ``Provenance``, with a factor on the difference itself that some of them have.

    The factor is kept apart because ``step * (factor * x)`` and ``(step * factor) * x`` may round differently.

    Args:
        base: (m,) int64.
        neighbor: (m,) int64.
        step: (m,) or (m, d) float64.
        factor: (m,) float64, or None for none.

    Example:
        >>> half = Segments(np.array([0]), np.array([1]), np.array([0.5]), np.array([0.5]))
        >>> half.provenance(None).step.tolist()
        [0.25]
    """

    base: Array
    neighbor: Array
    step: Array
    factor: Array | None = None

    def pieces(self, columns: int) -> Iterator[tuple[slice, Segments]]:
        """Short runs of segments, each with its place.

        Args:
            columns: of the rows, which says how many fit.

        Yields:
            place and segments.
        """
        size = max(1, _BYTES // (8 * columns))
        for start in range(0, len(self.base), size):
            at = slice(start, start + size)
            factor = None if self.factor is None else self.factor[at]
            yield at, Segments(self.base[at], self.neighbor[at], self.step[at], factor)

    def provenance(self, rows: Any) -> Provenance:
        """As a record for users.

        Args:
            rows: (n, d), a tensor for tensors.

        Returns:
            the record.
        """
        step = self.step if self.factor is None else self.step * self.factor
        parts = (self.base, self.neighbor, step)
        if isinstance(rows, Tensor):
            return Provenance(*(torch.from_numpy(part).to(rows.device) for part in parts))
        return Provenance(*parts)


def smote_interpolate(X: Kind, neighbors: ArrayLike, rows: ArrayLike, cols: ArrayLike, steps: ArrayLike) -> Kind:
    """New rows on the segments between rows and their neighbours (SMOTE, section 4.2).

    ``x_new = x_i + u (x_j - x_i)`` with ``i = rows``, ``j = neighbors[rows, cols]`` and ``u = steps``.

    Args:
        X: (n, d) float or integer, array or tensor.
        neighbors: (n, k) int, rows of X that are neighbours of each row.
        rows: (m,) int, the row that each new one starts from.
        cols: (m,) int, which of its neighbours it goes towards.
        steps: (m,) float, how far; (m, d) for every feature on its own, which fills the box instead of the segment.

    Returns:
        (m, d) of the kind, dtype and device of X; integers are cut off, not rounded.

    Raises:
        ValueError: for arrays whose shapes do not fit.

    Example:
        >>> X = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
        >>> neighbors = np.array([[1, 2], [0, 2], [0, 1]])
        >>> smote_interpolate(X, neighbors, np.array([0, 2]), np.array([0, 1]), np.array([0.25, 0.5])).tolist()
        [[0.25, 0.0], [0.5, 1.0]]
    """
    checks.matrix("X", X)
    table, base, column, step = (_host(part) for part in (neighbors, rows, cols, steps))
    checks.matrix("neighbors", table)
    checks.same_length("neighbors", table, "X", X)
    checks.same_length("cols", column, "rows", base)
    checks.same_length("steps", step, "rows", base)
    checks.require(
        step.ndim == 1 or step.shape[1:] == tuple(X.shape[1:]),
        f"steps must have shape (m,) or (m, {X.shape[1]}): got {step.shape}.",
    )
    segments = Segments(base, table[base, column], step.astype(np.float64))
    new = (
        np.empty((len(base), X.shape[1]), X.dtype) if isinstance(X, np.ndarray) else X.new_empty(len(base), X.shape[1])
    )
    write_between(X, segments, new)
    return new


def write_between(rows: ArrayLike, segments: Segments, out: ArrayLike, *, normalize: bool = False) -> None:
    """Write the end of each step into ``out``.

    Args:
        rows: (n, d) array or tensor.
        segments: m of them.
        out: (m, d) like the rows, written to.
        normalize: bring new rows to length one.

    Example:
        >>> rows, out = np.array([[1.0, 0.0], [0.0, 1.0]]), np.empty((1, 2))
        >>> write_between(rows, Segments(np.array([0]), np.array([1]), np.array([0.5])), out, normalize=True)
        >>> out.round(4).tolist()
        [[0.7071, 0.7071]]
    """
    for at, piece in segments.pieces(rows.shape[1]):
        base = _taken(rows, piece.base)
        difference = _taken(rows, piece.neighbor)
        difference -= base
        if piece.factor is not None:
            difference *= _beside(piece.factor, rows)
        new = _beside(piece.step, rows) * difference
        new += base
        if normalize:
            length = (new * new).sum(1)[:, None] ** 0.5
            new /= length + (length == 0)
        out[at] = new


def sparse_between(rows: Any, segments: Segments, *, normalize: bool = False) -> Any:
    """The end of each step as a CSR matrix.

    Args:
        rows: (n, d) sparse CSR matrix of floats.
        segments: m of them, with one step per row.
        normalize: bring new rows to length one.

    Returns:
        (m, d) of the class and dtype of the rows.

    Example:
        >>> from scipy.sparse import csr_array
        >>> step = Segments(np.array([0]), np.array([1]), np.array([0.25]))
        >>> sparse_between(csr_array([[4.0, 0.0], [0.0, 4.0]]), step).toarray().tolist()
        [[3.0, 1.0]]
    """
    base, difference = rows[segments.base], rows[segments.neighbor] - rows[segments.base]
    if segments.factor is not None:
        difference.data *= np.repeat(segments.factor, np.diff(difference.indptr))
    difference.data = difference.data * np.repeat(segments.step, np.diff(difference.indptr))
    new = base + difference
    if normalize:
        length = np.sqrt(np.asarray(new.multiply(new).sum(1), dtype=np.float64).ravel())
        new.data = new.data / np.repeat(length + (length == 0), np.diff(new.indptr))
    return new.astype(rows.dtype)


def _host(values: ArrayLike) -> Array:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def _taken(rows: Any, indices: Array) -> Any:
    """Copies of rows, floats in their own dtype and integers in float64, where differences cannot wrap around."""
    if isinstance(rows, Tensor):
        taken = rows.detach().index_select(0, torch.from_numpy(indices).to(rows.device))
        return taken if taken.is_floating_point() else taken.double()
    copied = np.take(rows, indices, axis=0)
    return copied if copied.dtype.kind == "f" else copied.astype(np.float64)


def _beside(values: Array, rows: Any) -> Any:
    """Float64 numbers, one or more per row, ready to be multiplied with rows."""
    column = values.reshape(len(values), -1)
    return torch.from_numpy(column).to(rows.device) if isinstance(rows, Tensor) else column
