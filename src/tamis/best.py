"""The best k of each row, whatever order the candidates come in: what makes a search in parts equal to a whole one.

A pair becomes one integer that orders by score and then by lower column, so the k largest integers are the answer
however the pairs were divided. What cannot enter any more is known by the lowest score that a row still holds.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

Array = np.ndarray[Any, Any]
_NOTHING = torch.iinfo(torch.int64).min  # of an empty place, below every other key
_LOW_BITS = 2**32 - 1
_POOL = 2**24  # keys that compete at once


class Best:
    """The k best columns of each row so far.

    Args:
        rows: how many.
        k: columns to keep per row.

    Example:
        >>> best = Best(1, 2)
        >>> for column in (7, 3, 5):
        ...     best.take(np.array([1]), np.array([column]), np.array([0.5], np.float32))
        >>> best.result()[1].tolist()
        [[3, 5]]
    """

    def __init__(self, rows: int, k: int) -> None:
        self._keys = torch.full((rows, k), _NOTHING, dtype=torch.int64)

    @property
    def floors(self) -> Array:
        """(rows,) float32, the score below which nothing can enter; -inf while a row has an empty place."""
        floors: Array = _scores(self._keys[:, -1]).numpy()
        return floors

    def take(self, counts: Array, columns: Array, scores: Array) -> None:
        """Let further pairs compete; none of them may have come before.

        Args:
            counts: (rows,) int, how many pairs each row has.
            columns: (m,) int below 2**32 - 1, row after row.
            scores: (m,) float32, without NaN.
        """
        rows, k = self._keys.shape
        ends = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        keys = _keys(torch.from_numpy(np.array(scores)), torch.from_numpy(columns.astype(np.int64)))
        step = max(1, _POOL // (k + int(counts.max(initial=0))))
        for start in range(0, rows, step):
            own = torch.from_numpy(counts[start : start + step].astype(np.int64))
            size, width = len(own), int(own.max())
            if width == 0:
                continue
            pool = torch.full((size, k + width), _NOTHING, dtype=torch.int64)
            pool[:, :k] = self._keys[start : start + size]
            row = torch.repeat_interleave(torch.arange(size), own)
            begins = torch.from_numpy(ends[start : start + size] - ends[start])
            new = keys[ends[start] : ends[start + size]]
            pool[row, k + torch.arange(len(new)) - begins[row]] = new
            self._keys[start : start + size] = pool.topk(k, 1).values

    def result(self) -> tuple[Array, Array]:
        """Scores and columns, best first.

        Returns:
            scores (rows, k) float32 and columns (rows, k) int64; -inf and -1 where a row has fewer.
        """
        columns = torch.where(self._keys == _NOTHING, -1, _LOW_BITS - (self._keys & _LOW_BITS))
        return _scores(self._keys).numpy(), columns.numpy()


def above(scores: Array, columns: Array, floors: Array) -> tuple[Array, Array, Array]:
    """What of a sorted result may still enter the best of a whole.

    Args:
        scores: (rows, k) float32, best first, -inf where a row has ended.
        columns: (rows, k) int, -1 likewise.
        floors: (rows,) float32, see ``Best.floors``.

    Returns:
        counts (rows,) uint32, columns (m,) uint32 and scores (m,) float32, row after row.

    Example:
        >>> above(np.array([[0.9, 0.4]], np.float32), np.array([[3, 1]]), np.array([0.5], np.float32))[1]
        array([3], dtype=uint32)
    """
    kept = (columns >= 0) & (scores >= floors[:, None])  # an equal score may win by its lower column
    return kept.sum(1).astype(np.uint32), columns[kept].astype(np.uint32), scores[kept].astype(np.float32)


def _keys(scores: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    bits = (scores + 0.0).view(torch.int32)  # adding zero makes one zero of two
    return (_ordered(bits).long() << 32) | (_LOW_BITS - columns)


def _scores(keys: torch.Tensor) -> torch.Tensor:
    scores = _ordered((keys >> 32).int()).view(torch.float32)
    return torch.where(keys == _NOTHING, -torch.inf, scores)


def _ordered(bits: torch.Tensor) -> torch.Tensor:
    """The bits of floats as integers of the same order; its own inverse."""
    return torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
