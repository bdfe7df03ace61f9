"""Mapped: arrays in files, read piece by piece, so that they take memory only where they are being read.

Pages of a memory-mapped file count as resident memory of the process that touched them until the system wants them
back. Whoever walks through such an array can say when a piece is done; its pages stay in the system's file cache, which
belongs to nobody, and can be read again.
"""

from __future__ import annotations

import contextlib
import mmap
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
PIECE = 2**25  # bytes of a map that are read before they are given back


def is_mapped(value: Any) -> bool:
    """Whether a value is an array in a file, too large to be left in memory after it was read.

    Example:
        >>> is_mapped(np.zeros(3))
        False
    """
    return _map_of(value) is not None and value.nbytes > PIECE


def pieces(rows: Any) -> Iterator[slice]:
    """Slices of the rows of an array, of ``PIECE`` bytes each; the pages of one are given back before the next.

    Args:
        rows: (n, d), mapped or not.

    Yields:
        slices that cover the rows in order.

    Example:
        >>> list(pieces(np.zeros((3, 2))))
        [slice(0, 3, None)]
    """
    step = max(1, PIECE // max(1, rows[:1].nbytes))
    for start in range(0, len(rows), step):
        yield slice(start, min(start + step, len(rows)))
        release(rows, start, start + step)


def release(rows: Any, start: int = 0, stop: int | None = None) -> None:
    """Give back the pages of some rows of a mapped array; nothing happens to any other array.

    Args:
        rows: (n, d).
        start: first row.
        stop: row after the last, None for all.
    """
    found = _map_of(rows)
    if found is None or not hasattr(mmap, "MADV_DONTNEED") or not rows.flags["C_CONTIGUOUS"]:
        return
    part = rows[start:stop]
    first = part.__array_interface__["data"][0] - np.frombuffer(found, np.uint8).__array_interface__["data"][0]
    low = first // mmap.PAGESIZE * mmap.PAGESIZE
    with contextlib.suppress(OSError, ValueError):  # it is a hint, and not every file system takes it
        found.madvise(mmap.MADV_DONTNEED, low, first + part.nbytes - low)


def scratch(shape: tuple[int, ...]) -> Array:
    """A float32 array in a file that goes when the array goes.

    Args:
        shape: of the array.

    Returns:
        the array, zeros.

    Example:
        >>> scratch((2, 3)).shape
        (2, 3)
    """
    with tempfile.TemporaryFile() as file:
        array: Array = np.memmap(file, np.float32, "w+", shape=shape)
    return array


def _map_of(value: Any) -> Any:
    """The map under an array, None where there is none, or where giving pages back would lose what was written."""
    while isinstance(value, np.ndarray) and not isinstance(value, np.memmap):
        value = value.base
    if not isinstance(value, np.memmap) or value.mode == "c":
        return None
    return value._mmap  # type: ignore[attr-defined]
