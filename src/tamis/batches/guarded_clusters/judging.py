"""Judges: how much one row's positive counts as a negative of another row."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from tamis import checks
from tamis.contrastive import drop, unit_rows
from tamis.guide_mask import false_negative_mask

Array = np.ndarray[Any, Any]
Kind = TypeVar("Kind", Array, Tensor)
Judge = Callable[[Tensor], Tensor]
"""Rows (g, m) int64 to log-weights (g, m, m): how much column j of a set counts as a negative of its row i."""


def guide_judge(
    queries: Kind,
    positives: Kind,
    *,
    keys: Kind | None = None,
    margin: float = 0.0,
    strategy: Literal["absolute", "relative"] = "absolute",
) -> Judge:
    """A judge from a guide's vectors: j is a false negative of i when the guide likes p_j for q_i as much as p_i.

    The rule of GISTEmbed (arXiv:2402.16829) for pairs that are not in a batch yet, with known ids on top.

    Args:
        queries: (n, d) float, the guide's embeddings of the queries: rows need not be normalised.
        positives: (n, d) float, of each query's positive.
        keys: (n,) int, ids of the positives: rows with one id are false negatives of each other in any case.
        margin: at least 0; lowers the bar of the positive, so that more counts as false.
        strategy: "absolute" or "relative", how the margin is taken, see ``tamis.guide_mask.false_negative_mask``.

    Returns:
        a function of rows (g, m) int64 that gives log-weights (g, m, m) float32: -inf for a false negative, 0 for any
        other and for the row itself.

    Raises:
        ValueError: shapes that do not fit.

    Example:
        >>> vectors = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> guide_judge(vectors, vectors, margin=0.1)(torch.tensor([[0, 1, 2]]))[0].tolist()
        [[0.0, -inf, 0.0], [-inf, 0.0, 0.0], [0.0, 0.0, 0.0]]
    """
    checks.matrix("queries", queries)
    checks.same_shape("positives", positives, "queries", queries)
    checks.at_least("margin", margin, 0.0)
    checks.one_of("strategy", strategy, ("absolute", "relative"))
    asked, answers = (unit_rows(_tensor(x)) for x in (queries, positives))
    ids = None if keys is None else _tensor(keys)
    if ids is not None:
        checks.same_length("keys", ids, "queries", queries)

    def judge(rows: Tensor) -> Tensor:
        g, m = rows.shape
        own = rows.to(asked.device)
        scores = torch.bmm(asked[own], answers[own].transpose(1, 2))
        itself = torch.eye(m, dtype=torch.bool, device=own.device).expand(g, m, m)
        threshold = scores.diagonal(dim1=1, dim2=2)
        false = false_negative_mask(scores.reshape(g * m, m), threshold.reshape(-1), margin, strategy).view(g, m, m)
        if ids is not None:
            key = ids.to(own.device)[own]
            false = false | (key[:, :, None] == key[:, None, :])
        return drop((false & ~itself).reshape(g * m, m)).view(g, m, m)

    return judge


def guarded_log_weights(judge: Judge, batch: list[int] | Tensor) -> Tensor:
    """The judge's log-weights of a batch, for the loss: what could not be kept apart still counts less.

    The masking of GISTEmbed (arXiv:2402.16829), or whatever the judge is, on the rows of a ``GuardedClusterSampler``.

    Args:
        judge: rows (g, m) int64 to log-weights (g, m, m).
        batch: (b,) rows.

    Returns:
        (b, b) float, as ``log_weights`` of ``tamis.contrastive.info_nce``.

    Example:
        >>> judge = guide_judge(torch.eye(3), torch.eye(3), keys=torch.tensor([1, 1, 2]))
        >>> guarded_log_weights(judge, [0, 1, 2])[0].tolist()
        [0.0, -inf, 0.0]
    """
    rows = torch.as_tensor(batch)
    checks.require(rows.ndim == 1 and len(rows) > 0, f"batch must be (b,) and not empty: got {tuple(rows.shape)}.")
    return judge(rows[None])[0]


def _tensor(value: Array | Tensor) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach()
    with warnings.catch_warnings():  # a read-only array is only ever read here
        warnings.simplefilter("ignore", UserWarning)
        return torch.from_numpy(value)
