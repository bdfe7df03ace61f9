"""A score and its column as one integer that orders by score, then by lower column.

The bits of a float order like an integer, so the k largest keys of a row are its best k in one well-defined order,
however the pairs were divided and in whatever order they came.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

NOTHING = torch.iinfo(torch.int64).min
"""The key of an empty place, below every other."""
LARGEST_COLUMN = 2**32 - 2
_LOW_BITS = 2**32 - 1


def keys_of(scores: Tensor, columns: Tensor) -> Tensor:
    """One key per pair.

    Args:
        scores: (m,) float32, without NaN.
        columns: (m,) int64, 0 to ``LARGEST_COLUMN``.

    Returns:
        (m,) int64.

    Example:
        >>> keys = keys_of(torch.tensor([0.5, 0.5, -1.0]), torch.tensor([7, 3, 1]))
        >>> keys.argsort(descending=True).tolist()
        [1, 0, 2]
    """
    bits = (scores + 0.0).view(torch.int32)  # adding zero makes one zero of two
    return (_flip(bits).long() << 32) | (_LOW_BITS - columns)


def scores_of(keys: Tensor) -> Tensor:
    """The scores in keys.

    Args:
        keys: int64, any shape.

    Returns:
        float32, ``-inf`` for an empty place.

    Example:
        >>> scores_of(keys_of(torch.tensor([0.5]), torch.tensor([7]))).tolist()
        [0.5]
    """
    scores = _flip((keys >> 32).int()).view(torch.float32)
    return torch.where(keys == NOTHING, -math.inf, scores)


def columns_of(keys: Tensor) -> Tensor:
    """The columns in keys.

    Args:
        keys: int64, any shape.

    Returns:
        int64, -1 for an empty place.

    Example:
        >>> columns_of(torch.tensor([NOTHING])).tolist()
        [-1]
    """
    return torch.where(keys == NOTHING, -1, _LOW_BITS - (keys & _LOW_BITS))


def merge(keys: Tensor, rows: Tensor, new: Tensor) -> None:
    """Let new keys compete with the k best of each row, in place.

    Args:
        keys: (n, k) int64, each row descending.
        rows: (m,) int64, ascending, the row of each new key.
        new: (m,) int64.
    """
    size, k = keys.shape
    ends = torch.searchsorted(rows, torch.arange(size + 1, device=rows.device))
    width = int(ends.diff().max())
    pool = keys.new_full((size, k + width), NOTHING)
    pool[:, :k] = keys
    pool[rows, k + torch.arange(len(rows), device=rows.device) - ends[rows]] = new
    keys.copy_(pool.topk(k, 1).values)


def _flip(bits: Tensor) -> Tensor:
    """Turn the order of negative floats around; its own inverse."""
    return torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
