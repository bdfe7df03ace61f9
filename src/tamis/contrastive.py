"""The contrastive core: one softmax with every switch in the open.

A row's loss is ``-positive + log(sum of weighted exponentials)`` over any number of blocks of candidates: in-batch,
anchor-anchor, hard negatives, a bank, synthetic points. Decisions about candidates are log-weights added to the logits:
0 keeps, negative counts less, ``-inf`` drops; the positive is protected from all of them. Similarities are matrix
products, never a (b, m, d) tensor. ``chunk_rows`` bounds the memory of the scores; ``tamis.recompute.cached_loss``
(GradCache) does it for the encoder. Value and gradients stay those of the plain form.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from tamis import checks
from tamis.recompute import by_rows

Metric = Literal["cosine", "dot"]
Masked = Literal["-inf", "zero"]
Reduction = Literal["mean", "sum", "none"]
Block = tuple[Tensor, Tensor | None]
"""Scores (b, k) of further candidates, and their log-weights (b, k) or None."""


def similarity(a: Tensor, b: Tensor, metric: Metric = "cosine") -> Tensor:
    """Every row of ``a`` against every row of ``b``, as one matrix product.

    The cosine similarity or inner product of the InfoNCE loss (van den Oord et al., arXiv:1807.03748, equation 4).

    Args:
        a: (n, d) float: rows need not be normalised.
        b: (m, d) float, likewise; or (n, k, d), candidates that belong to one row each.
        metric: "cosine" or "dot" (the bare inner product).

    Returns:
        (n, m), or (n, k), in the dtype of the rows.

    Raises:
        ValueError: when the shapes do not fit.

    Example:
        >>> similarity(torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
        tensor([[0.6000, 0.8000]])
    """
    checks.one_of("metric", metric, ("cosine", "dot"))
    checks.matrix("a", a, allow_empty=True)
    checks.require(
        b.shape[-1] == a.shape[1] and (b.ndim == 2 or (b.ndim == 3 and len(b) == len(a))),
        f"b must be (m, {a.shape[1]}) or ({len(a)}, k, {a.shape[1]}): got shape {tuple(b.shape)}.",
    )
    if metric == "cosine":
        a, b = unit_rows(a), unit_rows(b)
    return a @ b.T if b.ndim == 2 else torch.bmm(b, a[:, :, None]).squeeze(2)


def unit_rows(x: Tensor) -> Tensor:
    """Rows of length one, so that matrix products of them are cosines; rows of zeros stay zero.

    The normalisation of SimCLR's similarity (arXiv:2002.05709, section 2.1).

    Args:
        x: (..., d) float.

    Returns:
        the same shape and dtype.

    Example:
        >>> unit_rows(torch.tensor([[3.0, 4.0]]))
        tensor([[0.6000, 0.8000]])
    """
    # In half precision the norm may overflow and the guard against zero rows would round to zero.
    return F.normalize(_at_least_float32(x), dim=-1).to(x.dtype)


def own_columns(
    rows: int,
    candidates: int,
    *,
    positive_columns: Tensor | None = None,
    rank_offset: int = 0,
    device: torch.device | None = None,
) -> Tensor:
    """The column of each row's positive among the candidates.

    The index of the positive in equation 4 of arXiv:1807.03748; with candidates gathered over devices, those of this
    device begin at ``rank_offset``.

    Args:
        rows: b, how many queries.
        candidates: m, how many candidates.
        positive_columns: (b,) int64, or None for ``rank_offset + 0, 1, ..., b - 1``.
        rank_offset: candidates of lower ranks, which stand before this device's own.
        device: of the result.

    Returns:
        (b,) int64.

    Raises:
        ValueError: when a positive lies outside the candidates, or both ways of placing it are used.

    Example:
        >>> own_columns(2, 6, rank_offset=4)
        tensor([4, 5])
    """
    checks.require(rank_offset >= 0, f"rank_offset must not be negative: got {rank_offset}.")
    if positive_columns is None:
        checks.require(
            rank_offset + rows <= candidates,
            f"candidates must hold the positive of every query: {rows} queries from rank_offset {rank_offset} need "
            f"{rank_offset + rows} rows, got {candidates}.",
        )
        return torch.arange(rank_offset, rank_offset + rows, device=device)
    checks.require(rank_offset == 0, "rank_offset must be 0 when positive_columns are given: add it to them.")
    checks.require(
        positive_columns.ndim == 1 and len(positive_columns) == rows and positive_columns.dtype == torch.int64,
        f"positive_columns must be ({rows},) int64, one per query: got {tuple(positive_columns.shape)} "
        f"{positive_columns.dtype}.",
    )
    low, high = int(positive_columns.min()), int(positive_columns.max())
    checks.require(
        0 <= low and high < candidates,
        f"positive_columns must lie in 0..{candidates - 1}, the candidates: got {low}..{high}.",
    )
    return positive_columns


def drop(mask: Tensor, log_weights: Tensor | None = None, *, dtype: torch.dtype = torch.float32) -> Tensor:
    """Turn a mask into log-weights, on top of those already decided.

    Args:
        mask: (b, m) bool, True drops.
        log_weights: (b, m) float to add to, or None for zeros.
        dtype: of the result when there is nothing to add to.

    Returns:
        (b, m) float, ``-inf`` where the mask is True.

    Example:
        >>> drop(torch.tensor([[True, False]]))
        tensor([[-inf, 0.]])
    """
    if log_weights is None:
        log_weights = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
    checks.same_shape("log_weights", log_weights, "mask", mask)
    return log_weights.masked_fill(mask, -torch.inf)


def contrastive_loss(
    positive: Tensor,
    blocks: Sequence[Block],
    *,
    positive_in_denominator: bool = True,
    mask: Masked = "-inf",
    reduction: Reduction = "mean",
) -> Tensor:
    """The contrastive loss on logits: ``-p_i + log([exp p_i] + sum_j w_ij exp(s_ij))`` over all blocks.

    Equation 4 of arXiv:1807.03748 with weighted exponentials; without the positive in the denominator it is the
    decoupled form (arXiv:2110.06848). A row without any term in its denominator has loss 0 and gradient 0.

    Args:
        positive: (b,) float, the logit of each row's positive, after temperature.
        blocks: pairs of logits (b, k) and log-weights (b, k) or None; the positive is in none of them.
        positive_in_denominator: keep ``exp p_i`` in the denominator.
        mask: what an entry with log-weight ``-inf`` is: "-inf" is absent, "zero" counts as the logit 0 (``exp 0 = 1``).
        reduction: "mean" or "sum" over rows, or "none".

    Returns:
        scalar, or (b,) for "none". Half-precision logits give float32, which a loss scaler cannot overflow.

    Raises:
        ValueError: shapes that do not fit, unknown options.

    Example:
        >>> float(contrastive_loss(torch.tensor([0.0]), [(torch.zeros(1, 3), None)]))  # log 4
        1.3862943649291992
    """
    checks.one_of("mask", mask, ("-inf", "zero"))
    checks.one_of("reduction", reduction, ("mean", "sum", "none"))
    checks.require(positive.ndim == 1, f"positive must be (b,), one logit per row: got shape {tuple(positive.shape)}.")
    checks.require(len(positive) > 0, "positive must have at least one row: got an empty batch.")
    positive = _at_least_float32(positive)
    terms = [_weighted(logits, weights, len(positive), mask) for logits, weights in blocks]
    terms = [t for t in terms if t.shape[1] > 0]
    if positive_in_denominator:
        terms.append(positive[:, None])
    log_sum, present = _log_sum(terms) if terms else (positive, torch.zeros_like(positive, dtype=torch.bool))
    losses = torch.where(present, log_sum - positive, torch.zeros_like(positive))
    return _reduce(losses, reduction)


def info_nce(
    queries: Tensor,
    candidates: Tensor,
    *,
    positive_columns: Tensor | None = None,
    rank_offset: int = 0,
    temperature: float | Tensor = 0.05,
    scale: float | Tensor | None = None,
    metric: Metric = "cosine",
    log_weights: Tensor | None = None,
    blocks: Sequence[Block] = (),
    positive_in_denominator: bool = True,
    mask: Masked = "-inf",
    reduction: Reduction = "mean",
    chunk_rows: int | None = None,
) -> Tensor:
    """InfoNCE of queries against candidates that hold each query's positive.

    Equation 4 of arXiv:1807.03748 with in-batch candidates, log-weights and further blocks.

    Args:
        queries: (b, d) float: rows need not be normalised.
        candidates: (m, d) float, m >= b, in-batch positives first, or gathered over devices.
        positive_columns: (b,) int64, the candidate that is each query's positive; default ``rank_offset + arange(b)``.
        rank_offset: where this device's own candidates begin among gathered ones.
        temperature: divides every similarity, those of the blocks too; a tensor may learn.
        scale: multiplies them instead of the division, when given.
        metric: "cosine" or "dot".
        log_weights: (b, m) float, added after the temperature. What it says of the positive is not used: the
            positive is protected and keeps weight one.
        blocks: further similarities (b, k), before the temperature, with their log-weights (b, k) or None.
        positive_in_denominator: keep the positive in its own denominator.
        mask: "-inf" or "zero", see ``contrastive_loss``.
        reduction: "mean", "sum" or "none".
        chunk_rows: compute this many rows of scores at a time, again in the backward pass, so that memory grows with
            ``chunk_rows * m``, not ``b * m``; value and gradients are the same.

    Returns:
        scalar, or (b,) for "none".

    Raises:
        ValueError: temperature or scale not positive, shapes that do not fit, a positive outside the candidates.

    Example:
        >>> pairs = torch.eye(2)
        >>> round(float(info_nce(pairs, pairs, temperature=1.0)), 4)  # log(1 + 1/e)
        0.3133
    """
    checks.one_of("metric", metric, ("cosine", "dot"))
    checks.one_of("reduction", reduction, ("mean", "sum", "none"))
    checks.matrix("queries", queries)
    checks.matrix("candidates", candidates, columns=queries.shape[1])
    columns = own_columns(
        len(queries),
        len(candidates),
        positive_columns=positive_columns,
        rank_offset=rank_offset,
        device=queries.device,
    )
    for name, scores in [("log_weights", log_weights), *(("block", s) for s, _ in blocks)]:
        if scores is not None:
            checks.matrix(name, scores, columns=len(candidates) if name == "log_weights" else None, allow_empty=True)
            checks.same_length(name, scores, "queries", queries)
    if metric == "cosine":
        queries, candidates = unit_rows(queries), unit_rows(candidates)

    def losses_of(rows: slice) -> tuple[Tensor]:
        own = columns[rows, None]
        logits = to_logits(queries[rows] @ candidates.T, temperature, scale)
        weights = None if log_weights is None else log_weights[rows].scatter(1, own, 0.0)
        extra = [(to_logits(s[rows], temperature, scale), w if w is None else w[rows]) for s, w in blocks]
        loss = contrastive_loss(
            logits.gather(1, own).squeeze(1),
            [(logits.scatter(1, own, -torch.inf), weights), *extra],
            positive_in_denominator=positive_in_denominator,
            mask=mask,
            reduction="none",
        )
        return (loss,)

    (losses,) = by_rows(losses_of, len(queries), chunk_rows)
    return _reduce(losses, reduction)


def to_logits(similarities: Tensor, temperature: float | Tensor, scale: float | Tensor | None = None) -> Tensor:
    """Similarities divided by a temperature, or multiplied by a scale when one is given; at least float32.

    Args:
        similarities: any shape, float.
        temperature: positive; a tensor may learn.
        scale: positive, or None.

    Returns:
        logits of the same shape.

    Raises:
        ValueError: when the one that is used is not positive.

    Example:
        >>> to_logits(torch.tensor([0.5]), 0.05), to_logits(torch.tensor([0.5]), 0.05, scale=4.0)
        (tensor([10.]), tensor([2.]))
    """
    similarities = _at_least_float32(similarities)
    if scale is not None:
        _positive("scale", scale)
        return similarities * scale
    _positive("temperature", temperature)
    return similarities / temperature


def _positive(name: str, value: float | Tensor) -> None:
    checks.positive(name, float(value.detach() if isinstance(value, Tensor) else value))


def _at_least_float32(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _weighted(logits: Tensor, log_weights: Tensor | None, rows: int, mask: Masked) -> Tensor:
    """Logits of one block plus log-weights, dropped entries as ``mask`` says."""
    checks.matrix("block", logits, allow_empty=True)
    checks.require(len(logits) == rows, f"block must have one row per positive: {rows} positives, {len(logits)} rows.")
    logits = _at_least_float32(logits)
    if log_weights is None:
        return logits
    checks.same_shape("log_weights", log_weights, "block", logits)
    weighted = logits + log_weights.to(logits.dtype)
    if mask == "-inf":
        return weighted
    return weighted.masked_fill(torch.isneginf(log_weights), 0.0)


def _log_sum(terms: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Log of the sum of exponentials over all terms, and which rows have any; others get a finite number, gradient 0.

    ``torch.logsumexp`` gives a row of ``-inf`` the gradient NaN, and one over a concatenation copies every block.
    """
    peak = torch.stack([t.detach().amax(1) for t in terms]).amax(0)
    present = peak != -torch.inf
    peak = torch.where(present, peak, torch.zeros_like(peak))
    total = torch.stack([(t - peak[:, None]).exp_().sum(1) for t in terms]).sum(0)
    return torch.where(present, total, torch.ones_like(total)).log() + peak, present


def _reduce(losses: Tensor, reduction: Reduction) -> Tensor:
    if reduction == "none":
        return losses
    return losses.mean() if reduction == "mean" else losses.sum()
