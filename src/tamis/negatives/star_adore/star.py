"""STAR: static hard negatives, mined once, with the batch's own passages as random ones."""

from __future__ import annotations

from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from tamis import checks
from tamis.contrastive import similarity
from tamis.extra_negatives import DynamicIndex

Array = np.ndarray[Any, Any]
Kind = TypeVar("Kind", Array, Tensor)


def mine_static(
    queries: Kind,
    passages: Kind,
    positives: Kind,
    *,
    k: int = 200,
    ids: Kind | None = None,
    exclude_positives: bool = True,
) -> Kind:
    """The passages nearest to every query under the encoder of this moment, without its known positives.

    The static hard negatives of STAR (arXiv:2104.08051): the warm-up model's top 200, of which training draws one for
    each query at each step. They go stale as the encoders move, and with a weak miner they can be worse than random
    ones: do not train on them alone.

    Args:
        queries: (q, d) float; compared by inner product.
        passages: (n, d) float.
        positives: (q,) or (q, r) int64, ids of each query's known positives; -1 fills up shorter rows.
        k: passages per query, at most n; 200 in the paper.
        ids: (n,) int64, ids of the passages, by which positives are known; one id for the copies of a passage.
            Default 0 to n - 1.
        exclude_positives: leave the known positives out.

    Returns:
        (q, k) int64, rows of passages, best first; -1 where a query runs out of them.

    Raises:
        ValueError: shapes that do not fit, numbers that are not finite, k above n.

    Example:
        >>> passages = np.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]], dtype=np.float32)
        >>> mine_static(passages[:1], passages, np.array([0]), k=2)
        array([[1, 2]])
    """
    asked, docs, known = (_tensor(x) for x in (queries, passages, positives))
    index = DynamicIndex(docs, None if ids is None else _tensor(ids))
    checks.matrix("queries", asked)
    _check_ids("positives", known)
    checks.same_length("positives", known, "queries", asked)
    _, rows = index.search(asked, k, exclude=known if exclude_positives else None)
    return rows.numpy() if isinstance(queries, np.ndarray) else rows


class STARLoss(nn.Module):
    """Pairwise logistic loss of every query against all passages and all hard negatives of the batch.

    The training loss of STAR (arXiv:2104.08051): ``softplus(s_ij - s_ii)`` pair by pair, which is not a softmax over
    the row; scores are bare inner products. Hard negatives of other queries are random ones to a query.

    Args:
        alpha: "pooled", the mean over all pairs, as the official code has it; a number is the paper's
            ``L_hard + alpha * L_random``, with the mean over the hard negatives and the mean over the batch's passages.

    Raises:
        ValueError: negative alpha.

    Example:
        >>> queries, passages = torch.eye(2), torch.tensor([[1.0, 0.5], [0.2, 1.0]])
        >>> round(STARLoss()(queries, passages, torch.tensor([[0.9, 0.1], [0.3, 0.8]])).item(), 6)
        0.472009
    """

    def __init__(self, alpha: float | Literal["pooled"] = "pooled") -> None:
        super().__init__()
        if alpha != "pooled":
            checks.require(
                not isinstance(alpha, str) and alpha >= 0, f'alpha must be "pooled" or at least 0: got {alpha!r}.'
            )
        self.alpha = alpha

    def forward(
        self,
        queries: Tensor,
        positives: Tensor,
        hard_negatives: Tensor,
        *,
        log_weights: Tensor | None = None,
        hard_log_weights: Tensor | None = None,
    ) -> Tensor:
        """The loss of a batch.

        Args:
            queries: (b, d) float.
            positives: (b, d) float, row i answers query i.
            hard_negatives: (m, d) float, those of all queries, m = b * h; may be none, (0, d).
            log_weights: (b, b) float, -inf drops a passage of the batch for a query (one of its other positives, see
                ``tamis.extra_negatives.known_positive_log_weights``), a finite number weighs the pair. The diagonal is
                no pair. No gradient.
            hard_log_weights: (b, m) float, likewise for the hard negatives.

        Returns:
            scalar; 0 when no pair is left. float32 for half-precision vectors.

        Raises:
            ValueError: shapes that do not fit, log-weights that are NaN or infinite upwards, a batch without any
                negative.
        """
        checks.matrix("queries", queries)
        checks.same_shape("positives", positives, "queries", queries)
        checks.matrix("hard_negatives", hard_negatives, columns=queries.shape[1], allow_empty=True)
        checks.require(
            len(queries) > 1 or len(hard_negatives) > 0,
            "queries must be two or more where there are no hard_negatives: got 1, and nothing to compare it with.",
        )
        own = torch.eye(len(queries), dtype=torch.bool, device=queries.device)
        scores = _at_least_float32(similarity(queries, positives, "dot"))
        hard_scores = _at_least_float32(similarity(queries, hard_negatives, "dot"))
        target = scores.diagonal()[:, None]
        random_sum, random_weight = _weighted_pairs(scores - target, "log_weights", log_weights, own)
        hard_sum, hard_weight = _weighted_pairs(hard_scores - target, "hard_log_weights", hard_log_weights, None)
        if self.alpha == "pooled":
            return (random_sum + hard_sum) / _or_one(random_weight + hard_weight)
        return hard_sum / _or_one(hard_weight) + float(self.alpha) * random_sum / _or_one(random_weight)


def _weighted_pairs(
    gaps: Tensor, name: str, log_weights: Tensor | None, absent: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Weighted sum of the pairs' losses and the sum of weights."""
    if log_weights is None:
        weights = torch.ones_like(gaps)
    else:
        checks.same_shape(name, log_weights, "the scores", gaps)
        bad = log_weights.isnan() | log_weights.isposinf()
        checks.require(not bool(bad.any()), f"{name} must be numbers or -inf: got NaN or +inf.")
        weights = log_weights.detach().to(gaps.dtype).exp()
    if absent is not None:
        weights = weights.masked_fill(absent, 0.0)
    return (weights * softplus(gaps)).sum(), weights.sum()


def _or_one(total: Tensor) -> Tensor:
    return torch.where(total > 0, total, torch.ones_like(total))


def _tensor(values: Array | Tensor) -> Tensor:
    # torch warns of memory that it may not write to, and takes no negative strides.
    return torch.from_numpy(np.require(values, requirements=("C", "W"))) if isinstance(values, np.ndarray) else values


def _check_ids(name: str, ids: Tensor) -> None:
    checks.require(
        ids.ndim in (1, 2) and ids.dtype == torch.int64 and ids.numel() > 0,
        f"{name} must be (b,) or (b, r) int64 ids: got {tuple(ids.shape)} {ids.dtype}.",
    )


def _at_least_float32(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
