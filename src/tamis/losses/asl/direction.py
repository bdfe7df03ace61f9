"""The direction of a match: which references are long enough to contain the query."""

from __future__ import annotations

import math
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from tamis import checks
from tamis.contrastive import similarity

Array = np.ndarray[Any, Any]
Kind = TypeVar("Kind", Array, Tensor)


def norm_ratio_log_weights(
    query_norms: Kind, reference_norms: Kind, *, threshold: float = 1.0, penalty: float = float("inf")
) -> Kind:
    """Log-weights that drop the references too short to contain the query.

    The test-time filter of ASL (arXiv:2205.12358): keep where ``|q| / |r| <= threshold``. With a finite penalty it is
    ``-penalty * relu(log(|q| / |r|) - log(threshold))``, which is ours.

    Args:
        query_norms: (n,) float, at least 0.
        reference_norms: (m,) float for all pairs, or (n, k) for the references found for each query.
        threshold: positive; 1 is the paper.
        penalty: positive; infinite drops.

    Returns:
        (n, m) or (n, k) float of the kind of the norms, 0 keeps. No gradient reaches the norms.

    Raises:
        ValueError: negative or NaN norms, shapes that do not fit.

    Example:
        >>> norm_ratio_log_weights(np.array([2.0]), np.array([1.0, 2.0, 3.0]))
        array([[-inf,   0.,   0.]])
    """
    checks.positive("threshold", threshold)
    checks.positive("penalty", penalty)
    q, r = _tensor("query_norms", query_norms).detach(), _tensor("reference_norms", reference_norms).detach()
    checks.require(q.ndim == 1, f"query_norms must be (n,): got shape {tuple(q.shape)}.")
    checks.require(
        r.ndim == 1 or (r.ndim == 2 and len(r) == len(q)),
        f"reference_norms must be (m,) or ({len(q)}, k): got shape {tuple(r.shape)}.",
    )
    for name, norms in (("query_norms", q), ("reference_norms", r)):
        checks.require(bool((norms >= 0).all()), f"{name} must be lengths, at least 0: got NaN or a negative number.")
    q, r = torch.broadcast_tensors(q[:, None], r if r.ndim == 2 else r[None, :])  # type: ignore[no-untyped-call]
    too_long = q > threshold * r
    excess = torch.log(q) - torch.log(r) - math.log(threshold)
    # An excess rounded to nothing would make NaN of an infinite penalty.
    excess = torch.where(too_long, excess, 1.0).clamp(min=torch.finfo(excess.dtype).tiny)
    weights = torch.where(too_long, -penalty * excess, 0.0)
    return _like(query_norms, weights)


def filter_by_norm_ratio(
    scores: Kind, query_norms: Kind, reference_norms: Kind, *, threshold: float = 1.0, penalty: float = float("inf")
) -> Kind:
    """Scores of a search with the log-weights of the norms added: ``-inf`` for what is no copy.

    The test of ASL (arXiv:2205.12358). Search by cosine first and filter what was found. A store of normalised vectors
    has lost the norms: keep them in a field of their own.

    Args:
        scores: (n, m) or (n, k) float.
        query_norms: (n,) float.
        reference_norms: (m,) float for all pairs, or (n, k) of what was found.
        threshold: positive; 1 is the paper.
        penalty: see ``norm_ratio_log_weights``.

    Returns:
        the shape and kind of the scores.

    Raises:
        ValueError: shapes that do not fit.

    Example:
        >>> filter_by_norm_ratio(np.array([[0.9, 0.8]]), np.array([2.0]), np.array([1.0, 3.0]))
        array([[-inf,  0.8]])
    """
    weights = norm_ratio_log_weights(query_norms, reference_norms, threshold=threshold, penalty=penalty)
    checks.same_shape("scores", scores, "the norms' log-weights", weights)
    total = _tensor("scores", scores) + _tensor("weights", weights)
    return _like(scores, total.to(_tensor("scores", scores).dtype))


def directed_similarity(query: Kind, reference: Kind, threshold: float = 1.0) -> tuple[Kind, Kind]:
    """Cosine of every query with every reference, and whether the query may be a copy of the reference.

    The test of ASL (arXiv:2205.12358). The cosine is symmetric; the masks of the two directions are each other's
    complement at a threshold of 1, but for pairs of equal norms, which both keep.

    Args:
        query: (n, d) float, not normalised.
        reference: (m, d) float, not normalised.
        threshold: positive, the largest ``|q| / |r|`` that is kept.

    Returns:
        cosines (n, m) float and keep (n, m) bool.

    Raises:
        ValueError: shapes that do not fit.

    Example:
        >>> directed_similarity(np.array([[3.0, 4.0]]), np.array([[6.0, 8.0], [1.0, 0.0]]))
        (array([[1. , 0.6]]), array([[ True, False]]))
    """
    checks.matrix("query", query)
    checks.matrix("reference", reference, columns=query.shape[1])
    q, r = _tensor("query", query), _tensor("reference", reference)
    cosine = similarity(q, r)
    norms = [
        # In half precision the squares may overflow.
        torch.linalg.vector_norm(x.detach(), dim=1, dtype=torch.promote_types(x.dtype, torch.float32))
        for x in (q, r)
    ]
    keep = norm_ratio_log_weights(*norms, threshold=threshold) == 0
    return _like(query, cosine), _like(query, keep)


def _tensor(name: str, values: Array | Tensor) -> Tensor:
    if isinstance(values, np.ndarray):
        # torch takes no negative strides, and warns of memory that it may not write to.
        values = torch.from_numpy(np.require(values, requirements=("C", "W")))
    checks.require(values.is_floating_point(), f"{name} must be floating-point numbers: got {values.dtype}.")
    return values


def _like(given: Kind, values: Tensor) -> Kind:
    return values.numpy() if isinstance(given, np.ndarray) else values
