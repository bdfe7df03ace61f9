"""What mixing changes: how hard the task is, how close positives lie, how far everything spreads."""

from __future__ import annotations

import math
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from tamis import checks
from tamis.contrastive import unit_rows

Array = np.ndarray[Any, Any]
Kind = TypeVar("Kind", Array, Tensor)

_BLOCK = 1 << 22  # products of pairs at a time


def alignment(queries: Kind, positives: Kind, *, power: float = 2.0) -> float:
    """Mean distance of positive pairs on the unit sphere, to a power; smaller is closer.

    The alignment of Wang and Isola (arXiv:2005.10242), which MoCHi (arXiv:2010.01028) is judged by.

    Args:
        queries: (n, d) float: rows need not be normalised.
        positives: (n, d) float, likewise.
        power: of the distance.

    Returns:
        the mean.

    Raises:
        ValueError: for shapes that differ, no rows, or NaN.

    Example:
        >>> round(alignment(np.eye(2), np.eye(2)[::-1]), 6)  # two right angles
        2.0
    """
    checks.positive("power", power)
    checks.same_shape("positives", positives, "queries", queries)
    a, b = _rows("queries", queries), _rows("positives", positives)
    return float(torch.linalg.vector_norm(a - b, dim=1).pow(power).mean())


def uniformity(embeddings: Kind, *, t: float = 2.0) -> float:
    """How evenly rows cover the unit sphere: ``-log mean exp(-t d^2)`` over pairs of two rows; larger is more even.

    The uniformity of Wang and Isola (arXiv:2005.10242) with its sign turned, as in MoCHi (arXiv:2010.01028).

    Args:
        embeddings: (n, d) float, n at least 2: rows need not be normalised.
        t: of the Gaussian.

    Returns:
        a number from 0, all rows equal, to about 2 t in many dimensions.

    Raises:
        ValueError: for fewer than two rows, or NaN.

    Example:
        >>> uniformity(np.eye(3))  # d^2 is 2 for every pair
        4.0
    """
    checks.positive("t", t)
    x = _rows("embeddings", embeddings)
    checks.require(len(x) > 1, f"embeddings must have at least two rows to form a pair: got {len(x)}.")
    total = x.new_zeros((), dtype=torch.float64)
    for start in range(0, len(x), max(1, _BLOCK // len(x))):
        block = x[start : start + max(1, _BLOCK // len(x))]
        near = torch.exp(2 * t * (block @ x.T - 1).clamp_max(0))
        near[torch.arange(len(block)), start + torch.arange(len(block))] = 0
        total += near.sum(dtype=torch.float64)
    return -math.log(float(total) / (len(x) * (len(x) - 1))) + 0.0


def proxy_accuracy(positive_scores: Kind, negative_scores: Kind) -> float:
    """Share of queries whose positive beats all of their negatives: how well the training task itself is solved.

    The proxy task of MoCHi (arXiv:2010.01028); with mixtures among the negatives it falls. A tie is no win.

    Args:
        positive_scores: (b,) float.
        negative_scores: (b, k) float; ``-inf`` where a negative is left out.

    Returns:
        the share.

    Raises:
        ValueError: for shapes that do not fit or no rows.

    Example:
        >>> proxy_accuracy(np.array([0.9, 0.2]), np.array([[0.1, 0.5], [0.3, 0.0]]))
        0.5
    """
    checks.matrix("negative_scores", negative_scores)
    shape = tuple(positive_scores.shape)
    checks.require(len(shape) == 1, f"positive_scores must be (b,): got shape {shape}.")
    checks.same_length("positive_scores", positive_scores, "negative_scores", negative_scores)
    return float((positive_scores[:, None] > negative_scores).all(1).sum()) / len(positive_scores)


def _rows(name: str, value: Array | Tensor) -> Tensor:
    checks.matrix(name, value)
    checks.finite(name, value)
    tensor = torch.tensor(np.ascontiguousarray(value)) if isinstance(value, np.ndarray) else value.detach()
    return unit_rows(tensor.float() if tensor.dtype != torch.float64 else tensor)
