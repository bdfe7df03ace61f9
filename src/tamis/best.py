"""The best k of each row, whatever order the candidates come in: what makes a search in parts equal to a whole one.

Pairs compete as ``tamis.ranked_keys``, so the answer is the same however they were divided. What cannot enter any more
is known by the lowest score that a row still holds.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from tamis.ranked_keys import NOTHING, columns_of, keys_of, merge, scores_of

Array = np.ndarray[Any, Any]
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
        self._keys = torch.full((rows, k), NOTHING, dtype=torch.int64)

    @property
    def floors(self) -> Array:
        """(rows,) float32, the score below which nothing can enter; -inf while a row has an empty place."""
        floors: Array = scores_of(self._keys[:, -1]).numpy()
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
        keys = keys_of(torch.from_numpy(np.array(scores)), torch.from_numpy(columns.astype(np.int64)))
        step = max(1, _POOL // (k + int(counts.max(initial=0))))
        for start in range(0, rows, step):
            own = torch.from_numpy(counts[start : start + step].astype(np.int64))
            if int(own.max()) > 0:
                rows_of = torch.repeat_interleave(torch.arange(len(own), device=own.device), own)
                merge(self._keys[start : start + len(own)], rows_of, keys[ends[start] : ends[start + len(own)]])

    def result(self) -> tuple[Array, Array]:
        """Scores and columns, best first.

        Returns:
            scores (rows, k) float32 and columns (rows, k) int64; -inf and -1 where a row has fewer.
        """
        return scores_of(self._keys).numpy(), columns_of(self._keys).numpy()


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
