"""LoL: of two revisions of one query, the one that saw more feedback must not have the larger loss.

Pseudo-relevance feedback turns a query and the first k passages found into a new query, and more passages can carry it
away from what was asked. Here every training query is revised several times with nested feedback, each revision has its
loss against the same passages, and a hinge on every pair of revisions charges what the larger feedback lost. The
regulariser looks at losses only, so it serves wherever one example is seen with nested amounts of context. It has an
easy way out, to ignore the feedback: watch the quality of the revisions and the loss with little feedback beside it.
"""

from __future__ import annotations

import math
import warnings
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from tamis import checks
from tamis.contrastive import contrastive_loss, drop, similarity, to_logits, unit_rows
from tamis.method import Method
from tamis.randomness import Seed, as_generator, torch_generator

Array = np.ndarray[Any, Any]

METHOD = Method(
    title="LoL: A Comparative Regularization Loss over Query Reformulation Losses for Pseudo-Relevance Feedback",
    paper="arXiv:2204.11545",
    year=2022,
    code="zycdev/LoL",
    claim="A small weight, picked on validation queries, lowers query drift and costs little precision.",
    peers=(),
    deviations=(
        "detach_less keeps the hinge from raising the loss with less feedback; the official code has it commented out",
        "of several positives the lowest-scoring one is the target, as in the official code",
        "VectorPRF gates the vectors of the feedback; the paper encodes query and passages as one text",
    ),
)


def comparative_regularization(
    losses: Tensor,
    amounts: Tensor,
    margin: float = 0.0,
    detach_less: bool = False,
    reduction: Literal["mean", "sum", "none"] = "mean",
) -> Tensor:
    """Hinge on pairs of revisions of one example: ``max(0, margin + L_more - L_less)``.

    The comparative regularisation of LoL (arXiv:2204.11545). The mean is over all pairs of the batch,
    satisfied ones included.

    Args:
        losses: (b, r) float, the loss of each revision, all against the same candidates.
        amounts: (b, r) int, how much context each revision saw, in any order; equal amounts form no pair.
        margin: 0 in the paper.
        detach_less: no gradient into the loss with less context, which the hinge would otherwise raise.
        reduction: "mean" or "sum" over pairs, or "none".

    Returns:
        scalar, 0 when there is no pair; for "none" (b, r, r), at [i, j, k] the hinge of j against k, 0 unless j saw
        more. float32 for half-precision losses.

    Raises:
        ValueError: shapes that differ, losses that are not finite, unknown reduction.

    Warns:
        UserWarning: when there is one revision only.

    Example:
        >>> losses = torch.tensor([[1.0, 1.3, 0.7], [0.5, 0.2, 0.9]])
        >>> round(comparative_regularization(losses, torch.tensor([[5, 3, 0], [5, 3, 0]])).item(), 6)
        0.2
    """
    checks.one_of("reduction", reduction, ("mean", "sum", "none"))
    checks.matrix("losses", losses)
    checks.same_shape("amounts", amounts, "losses", losses)
    checks.finite("losses", losses.detach())
    if losses.shape[1] == 1:
        warnings.warn(
            "losses hold one revision per row, so there is nothing to compare: give two or more.", stacklevel=2
        )
    losses = losses.to(torch.promote_types(losses.dtype, torch.float32))
    less = losses.detach() if detach_less else losses
    pairs = amounts[:, :, None] > amounts[:, None, :]
    # relu, not clamp: a tie has no gradient.
    hinges = torch.relu(margin + losses[:, :, None] - less[:, None, :]) * pairs
    if reduction == "none":
        return hinges
    return hinges.sum() / (pairs.sum().clamp(min=1) if reduction == "mean" else 1)


class LoLLoss(nn.Module):
    """The mean loss of all revisions plus the weighted comparative regularisation.

    The training loss of LoL (arXiv:2204.11545).

    Args:
        lambda_cr: weight of the regularisation; 1 in the paper, explored up to 2. Too much of it teaches a reformulator
            to ignore its feedback, so choose it by the precision on validation queries.
        margin: see ``comparative_regularization``.
        detach_less: see ``comparative_regularization``.

    Raises:
        ValueError: negative lambda_cr.

    Example:
        >>> losses = torch.tensor([[1.0, 1.3, 0.7], [0.5, 0.2, 0.9]])
        >>> round(LoLLoss()(losses, torch.tensor([[5, 3, 0], [5, 3, 0]])).item(), 6)
        0.966667
    """

    def __init__(self, lambda_cr: float = 1.0, *, margin: float = 0.0, detach_less: bool = False) -> None:
        super().__init__()
        checks.at_least("lambda_cr", lambda_cr, 0.0)
        self.lambda_cr = lambda_cr
        self.margin = margin
        self.detach_less = detach_less

    def forward(self, losses: Tensor, amounts: Tensor) -> Tensor:
        """The loss of a batch of revised queries.

        Args:
            losses: (b, r) float, from ``reformulation_loss``, say.
            amounts: (b, r) int.

        Returns:
            scalar.
        """
        mean = losses.to(torch.promote_types(losses.dtype, torch.float32)).mean()
        if self.lambda_cr == 0:
            return mean
        return mean + self.lambda_cr * comparative_regularization(losses, amounts, self.margin, self.detach_less)


def reformulation_loss(
    revisions: Tensor,
    passages: Tensor,
    positives: Tensor,
    *,
    temperature: float | Tensor = 1.0,
    metric: Literal["cosine", "dot"] = "dot",
    log_weights: Tensor | None = None,
) -> Tensor:
    """The ranking loss of every revision against one set of passages.

    The reformulation loss of LoL (arXiv:2204.11545): cross-entropy of a positive over the passages without
    the query's other positives. The target is the positive that scores lowest for the revision.

    Args:
        revisions: (b, r, d) float, the vectors of each query's revisions.
        passages: (m, d) float, the same for all.
        positives: (b, m) bool, which passages answer each query.
        temperature: divides the scores; 1 in the official code.
        metric: "dot", as in the official code, or "cosine".
        log_weights: (b, m) float, further decisions, the same for all revisions of a query; they take no gradient,
            and the target is protected.

    Returns:
        (b, r) float.

    Raises:
        ValueError: a query without a positive, shapes that do not fit.

    Example:
        >>> revisions = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
        >>> reformulation_loss(revisions, torch.eye(2), torch.tensor([[True, False]]))
        tensor([[0.3133, 1.3133]])
    """
    checks.require(revisions.ndim == 3, f"revisions must be (b, r, d): got shape {tuple(revisions.shape)}.")
    checks.matrix("passages", passages, columns=revisions.shape[2])
    b, r, d = revisions.shape
    checks.require(
        positives.dtype == torch.bool and tuple(positives.shape) == (b, len(passages)),
        f"positives must be ({b}, {len(passages)}) bool: got {tuple(positives.shape)} {positives.dtype}.",
    )
    lost = (~positives.any(1)).nonzero().flatten()
    checks.require(
        len(lost) == 0,
        f"positives must name a passage for every query: {len(lost)} queries have none, the first is "
        f"{int(lost[0]) if len(lost) else ''}.",
    )
    decided = None if log_weights is None else log_weights.detach()
    weights = drop(positives, decided, dtype=torch.promote_types(revisions.dtype, torch.float32))
    logits = to_logits(similarity(revisions.reshape(b * r, d), passages, metric), temperature)
    # The revisions of a query stand one after the other.
    answers = positives.repeat_interleave(r, 0)
    target = logits.detach().masked_fill(~answers, torch.inf).argmin(1, keepdim=True)
    block = (logits, weights.repeat_interleave(r, 0))
    return contrastive_loss(logits.gather(1, target).squeeze(1), [block], reduction="none").view(b, r)


def nested_feedback(
    n_max: int, n_revisions: int, seed: Seed, *, rows: int = 1, shuffle: bool = False
) -> tuple[Array, Array]:
    """Draw how much feedback each revision sees, and which: every smaller set is a prefix of the larger ones.

    The comparison of LoL (arXiv:2204.11545): distinct sizes from 0 (the original query) to ``n_max``.

    Args:
        n_max: passages of feedback at most; 5 in the paper.
        n_revisions: revisions per query; 2 in the paper.
        seed: seed or generator.
        rows: queries.
        shuffle: take passages of the first ``n_max`` at random instead of the best ones.

    Returns:
        amounts (rows, n_revisions) int64, falling, and places (rows, n_revisions, n_max) int64 in the ranking of the
        first pass, ``-1`` beyond the amount.

    Raises:
        ValueError: fewer sizes than revisions.

    Example:
        >>> amounts, places = nested_feedback(3, 2, seed=0)
        >>> amounts.tolist(), places.tolist()
        ([[3, 2]], [[[0, 1, 2], [0, 1, -1]]])
    """
    checks.at_least("n_max", n_max, 1)
    checks.between("n_revisions", n_revisions, 1, n_max + 1)
    checks.at_least("rows", rows, 1)
    rng = as_generator(seed)
    sizes = rng.random((rows, n_max + 1)).argsort(1)[:, :n_revisions]
    amounts = -np.sort(-sizes, axis=1)
    order = rng.random((rows, n_max)).argsort(1) if shuffle else np.broadcast_to(np.arange(n_max), (rows, n_max))
    return amounts, np.where(np.arange(n_max) < amounts[:, :, None], order[:, None, :], -1)


class Rocchio(nn.Module):
    """Feedback by the mean: ``alpha q + beta mean(f_1 ... f_k)``, of length one. Nothing is learned.

    Rocchio's formula (1971) without negative passages, the baseline of LoL (arXiv:2204.11545).

    Args:
        alpha: weight of the query.
        beta: weight of the feedback's mean.

    Example:
        >>> Rocchio(1.0, 1.0)(torch.tensor([[1.0, 0.0]]), torch.tensor([[[0.0, 1.0]]]), torch.tensor([[1, 0]]))
        tensor([[[0.7071, 0.7071],
                 [1.0000, 0.0000]]])
    """

    def __init__(self, alpha: float = 1.0, beta: float = 0.75) -> None:
        super().__init__()
        self.alpha = alpha
        self.beta = beta

    def forward(self, queries: Tensor, feedback: Tensor, amounts: Tensor) -> Tensor:
        """Revise every query once for each of its amounts.

        Args:
            queries: (b, d) float.
            feedback: (b, k, d) float, passages in the order of their use.
            amounts: (b, r) int, how many of them each revision sees.

        Returns:
            (b, r, d) float, rows of length one.
        """
        seen = _seen(queries, feedback, amounts)
        shares = seen / amounts.clamp(min=1)[:, :, None]
        return unit_rows(self.alpha * queries[:, None, :] + self.beta * shares @ feedback)


class VectorPRF(nn.Module):
    """Feedback by learned attention on vectors: ``q + exp(a) sum_i sigmoid(gate(q, f_i, q.f_i)) f_i``, of length one.

    A small reformulator on which LoL (arXiv:2204.11545) can be tried; passages stay as they are. Each gate
    looks at one passage, so revisions with nested feedback share their gates.

    Args:
        dim: d.
        hidden: width of the gate.
        seed: of the first weights.

    Example:
        >>> prf = VectorPRF(2)
        >>> prf(torch.eye(2), torch.ones(2, 3, 2), torch.tensor([[3, 0], [1, 0]]))[:, 1]
        tensor([[1., 0.],
                [0., 1.]], grad_fn=<SelectBackward0>)
    """

    def __init__(self, dim: int, hidden: int = 32, *, seed: int = 0) -> None:
        super().__init__()
        checks.at_least("dim", dim, 1)
        checks.at_least("hidden", hidden, 1)
        generator = torch_generator(seed)

        def linear(inputs: int, outputs: int, fan_in: int, bias: bool = True) -> nn.Linear:
            layer: nn.Linear = nn.utils.skip_init(nn.Linear, inputs, outputs, bias=bias)  # type: ignore[no-untyped-call]
            for parameter in layer.parameters():
                nn.init.uniform_(parameter, -1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in), generator=generator)
            return layer

        # One layer on [q, f, q.f], in three parts so that no query is copied for each of its passages.
        self.of_query = linear(dim, hidden, 2 * dim + 1)
        self.of_passage = linear(dim, hidden, 2 * dim + 1, bias=False)
        self.of_score = linear(1, hidden, 2 * dim + 1, bias=False)
        self.gate = linear(hidden, 1, hidden)
        self.log_scale = nn.Parameter(torch.zeros(()))

    def forward(self, queries: Tensor, feedback: Tensor, amounts: Tensor) -> Tensor:
        """Revise every query once for each of its amounts.

        Args:
            queries: (b, d) float.
            feedback: (b, k, d) float, passages in the order of their use.
            amounts: (b, r) int, how many of them each revision sees.

        Returns:
            (b, r, d) float, rows of length one.
        """
        seen = _seen(queries, feedback, amounts)
        scores = torch.bmm(feedback, queries[:, :, None])
        hidden = self.of_query(queries)[:, None, :] + self.of_passage(feedback) + self.of_score(scores)
        gates = torch.sigmoid(self.gate(torch.relu(hidden))).transpose(1, 2)
        return unit_rows(queries[:, None, :] + self.log_scale.exp() * (seen * gates) @ feedback)


def _seen(queries: Tensor, feedback: Tensor, amounts: Tensor) -> Tensor:
    """(b, r, k): 1 where a revision sees a passage."""
    checks.matrix("queries", queries)
    b, d = queries.shape
    checks.require(
        feedback.ndim == 3 and len(feedback) == b and feedback.shape[2] == d,
        f"feedback must be ({b}, k, {d}): got shape {tuple(feedback.shape)}.",
    )
    k = feedback.shape[1]
    checks.matrix("amounts", amounts)
    checks.same_length("amounts", amounts, "queries", queries)
    low, high = int(amounts.min()), int(amounts.max())
    checks.require(
        0 <= low and high <= k, f"amounts must lie between 0 and {k}, the passages of feedback: got {low} to {high}."
    )
    places = torch.arange(k, device=feedback.device)
    return (places < amounts[:, :, None]).to(feedback.dtype)
