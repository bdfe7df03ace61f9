"""Which of many candidates are worth a query: as many of every class, the least certain first."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from tamis import checks
from tamis.randomness import Seed, as_generator
from tamis.results import as_array

Array = np.ndarray[Any, Any]
ArrayLike = Array | torch.Tensor


def class_balanced_hard_selection(probs: ArrayLike, k: int, *, seed: Seed = 0) -> ArrayLike:
    """Rows with an equal quota for every predicted class, in each class the least confident (arXiv:2409.10643).

    A class has ``k // classes`` places; places that its candidates leave empty, and the remainder, go to any others at
    random. No query is spent: predictions are those of the clones.

    Args:
        probs: (n, classes) float, predictions for n candidates.
        k: rows to return, at most n.
        seed: of what is filled up at random.

    Returns:
        (k,) int64, ascending rows, of the type of probs.

    Raises:
        ValueError: for k outside 0 to n, or probs that are no matrix or not finite.

    Example:
        >>> probs = np.array([[0.9, 0.1], [0.6, 0.4], [0.8, 0.2], [0.3, 0.7]])
        >>> class_balanced_hard_selection(probs, 2).tolist()
        [1, 3]
    """
    matrix = as_array(probs)
    checks.matrix("probs", matrix)
    checks.finite("probs", matrix)
    n, classes = matrix.shape
    checks.between("k", k, 0, n)
    predicted, confidence = matrix.argmax(1), matrix.max(1)
    order = np.lexsort((confidence, predicted))
    starts = np.searchsorted(predicted[order], np.arange(classes))
    place = np.arange(n) - starts[predicted[order]]
    chosen = order[place < k // classes]
    rest = np.setdiff1d(np.arange(n), chosen, assume_unique=True)
    more = as_generator(seed).choice(rest, k - len(chosen), replace=False)
    rows = np.sort(np.concatenate([chosen, more])).astype(np.int64)
    return torch.from_numpy(rows).to(probs.device) if isinstance(probs, torch.Tensor) else rows
