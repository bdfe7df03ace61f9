"""CET: what was never judged is no negative, and a second model learns what was judged.

Labels come from a pool that annotators saw in part: a label is a relevant pair that was also selected. CET trains a
relevance model f and a selection model g side by side and lets each weigh the other's negatives. An unlabelled
candidate that was probably selected is a real negative and keeps its weight for f; one that was probably never seen
weighs little. Only ratios inside a list are identified, and only when g sees what the pool saw (ranks and scores of the
retrievers, length) while f sees the text. The paper's formulas were not at hand: the weights are our reconstruction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, softplus

from tamis import checks
from tamis.contrastive import contrastive_loss
from tamis.method import Method

METHOD = Method(
    title="Hard Negatives or False Negatives: Correcting Pooling Bias in Training Neural Ranking Models",
    paper="arXiv:2209.05072",
    year=2022,
    claim="Weights of a selection model recover most of what is lost to unjudged positives among strong negatives.",
    deviations=(
        "weights and losses are our reconstruction, in the form of dual learning for clicks; no official code is known",
        'weighting="posterior" (Bayes on calibrated sigmoids), form="pair", warm-up and cap of the weights',
        "further log-weights, which drop or weaken a candidate for both models",
    ),
)
Weighting = Literal["ratio", "posterior"]
Form = Literal["list", "pair"]
Reduction = Literal["mean", "sum", "none"]


class CoupledEstimationLoss(nn.Module):
    """Relevance and selection model trained together, each with the other's weights on its negatives.

    The coupled estimation of CET (arXiv:2209.05072), reconstructed: the sum of the two weighted list-wise losses
    of ``weighted_softmax_ce``, or of the pair-wise ones of ``weighted_pair_logistic``, with the weights of
    ``coupled_log_weights``. Give the two models different inputs: with the same ones they are interchangeable, and the
    method is no better than training without weights.

    Args:
        weighting: "ratio" or "posterior", see ``coupled_log_weights``.
        form: "list" (softmax over the list) or "pair" (logistic, normalised by the sum of weights).
        w_max: largest weight of the ratio.
        warmup_steps: for so many calls in training mode the relevance model's negatives all weigh one, while the
            selection model finds its feet. The count is part of the state.

    Raises:
        ValueError: w_max not positive, warmup_steps negative, unknown options.

    Example:
        >>> relevance, selection = torch.tensor([[1.0, 0.5, 0.0]]), torch.tensor([[0.8, 0.5, 0.2]]).log()
        >>> loss, stats = CoupledEstimationLoss()(relevance, selection)
        >>> round(stats["relevance_loss"], 4), round(stats["mean_weight"], 4)  # weights .625 and .25
        (0.386, 0.4375)
    """

    warmed: Tensor

    def __init__(
        self,
        *,
        weighting: Weighting = "ratio",
        form: Form = "list",
        w_max: float = 10.0,
        warmup_steps: int = 0,
    ) -> None:
        super().__init__()
        checks.one_of("weighting", weighting, ("ratio", "posterior"))
        checks.one_of("form", form, ("list", "pair"))
        checks.positive("w_max", w_max)
        checks.at_least("warmup_steps", warmup_steps, 0)
        self.weighting = weighting
        self.form = form
        self.w_max = w_max
        self.warmup_steps = warmup_steps
        self.register_buffer("warmed", torch.tensor(0))

    def forward(
        self,
        rel_scores: Tensor,
        sel_scores: Tensor,
        labels: Tensor | None = None,
        *,
        log_weights: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, float]]:
        """The loss of a batch of lists: one labelled positive and n unlabelled candidates each.

        Args:
            rel_scores: (b, 1 + n) float, logits of the relevance model.
            sel_scores: (b, 1 + n) float, logits of the selection model.
            labels: (b, 1 + n) bool or 0/1, one positive per row; None means the first column.
            log_weights: (b, 1 + n) float, further decisions, for both models; the positive is protected from them.

        Returns:
            scalar, the sum of the two means over lists, and a dict: "relevance_loss", "selection_loss", "mean_weight"
            of the relevance model's negatives, and "capped", the share of them at w_max.

        Raises:
            ValueError: shapes that do not fit, NaN or infinity, a row without a positive or with several.

        Example:
            >>> f, g = torch.zeros(1, 3), torch.zeros(1, 3)
            >>> round(CoupledEstimationLoss()(f, g, torch.tensor([[0, 1, 0]]))[0].item(), 4)  # twice log 3
            2.1972
        """
        target = _targets(rel_scores, labels)
        of_relevance, of_selection = coupled_log_weights(
            rel_scores, sel_scores, target=target, weighting=self.weighting, w_max=self.w_max
        )
        if self.training and self.warmup_steps > int(self.warmed):
            of_relevance = torch.zeros_like(of_relevance)
            self.warmed += 1
        if log_weights is not None:
            _check_log_weights(log_weights, rel_scores)
            extra = log_weights.detach().to(of_relevance.dtype)
            of_relevance, of_selection = of_relevance + extra, of_selection + extra
        loss_of = _list_loss if self.form == "list" else _pair_loss
        relevance = loss_of(rel_scores, of_relevance, target, "mean")
        selection = loss_of(sel_scores, of_selection, target, "mean")
        negatives = torch.ones_like(of_relevance, dtype=torch.bool).scatter_(1, target[:, None], False)
        weights = of_relevance[negatives].exp()
        stats = {
            "relevance_loss": float(relevance.detach()),
            "selection_loss": float(selection.detach()),
            "mean_weight": float(weights.mean()),
            "capped": float((weights >= self.w_max * (1 - 1e-6)).float().mean()),
        }
        return relevance + selection, stats


def coupled_log_weights(
    rel_scores: Tensor,
    sel_scores: Tensor,
    *,
    target: int | Tensor = 0,
    weighting: Weighting = "ratio",
    w_max: float = 10.0,
) -> tuple[Tensor, Tensor]:
    """What each model's negatives weigh by the other model, as log-weights without gradient.

    The bias weights of CET (arXiv:2209.05072), reconstructed. "ratio": for the relevance model S_i / S_+ with S
    the softmax of the selection scores over the list, of which only the difference of the two scores remains; for the
    selection model R_i / R_+. "posterior": P(not relevant | no label) = (1 - R) / (1 - R S) and P(not selected | no
    label) = (1 - S) / (1 - R S), with R and S sigmoids of scores that must be calibrated.

    Args:
        rel_scores: (b, m) float, logits of the relevance model.
        sel_scores: (b, m) float, logits of the selection model.
        target: the column of the positive, or (b,) int64, one per row; it has weight one.
        weighting: "ratio" or "posterior".
        w_max: cap of the ratio; a posterior is at most one.

    Returns:
        two (b, m) float: for the relevance model and for the selection model.

    Raises:
        ValueError: shapes that differ, NaN or infinity, a target outside the columns, w_max not positive.

    Example:
        >>> of_relevance, _ = coupled_log_weights(torch.zeros(1, 3), torch.tensor([[0.8, 0.5, 0.2]]).log())
        >>> of_relevance.exp()
        tensor([[1.0000, 0.6250, 0.2500]])
    """
    checks.one_of("weighting", weighting, ("ratio", "posterior"))
    checks.positive("w_max", w_max)
    column = _columns(rel_scores, target)[:, None]
    _check_scores("rel_scores", rel_scores)
    checks.same_shape("sel_scores", sel_scores, "rel_scores", rel_scores)
    _check_scores("sel_scores", sel_scores)
    f, g = (_at_least_float32(x.detach()) for x in (rel_scores, sel_scores))
    if weighting == "ratio":
        pair = [(x - x.gather(1, column)).clamp(max=math.log(w_max)) for x in (g, f)]
    else:
        # 1 - R S is (1 - R) + R (1 - S): a sum, which does not cancel where both are near one.
        unlabelled = torch.logaddexp(logsigmoid(-f), logsigmoid(f) + logsigmoid(-g))
        pair = [logsigmoid(-x) - unlabelled for x in (f, g)]
    of_relevance, of_selection = (weights.scatter(1, column, 0.0) for weights in pair)
    return of_relevance, of_selection


def weighted_softmax_ce(
    scores: Tensor, weights: Tensor, *, target: int | Tensor = 0, reduction: Reduction = "mean"
) -> Tensor:
    """Softmax cross-entropy in which every negative counts with a weight: ``-log e^s+ / (e^s+ + sum_i w_i e^s_i)``.

    L_R and L_S of CET (arXiv:2209.05072), reconstructed, and the form of debiased contrastive losses.

    Args:
        scores: (b, m) float, logits.
        weights: (b, m) float, not negative, taken without gradient; that of the positive is not used.
        target: the column of the positive, or (b,) int64, one per row.
        reduction: "mean" or "sum" over rows, or "none".

    Returns:
        scalar, or (b,) for "none".

    Raises:
        ValueError: shapes that differ, weights that are negative, NaN or infinite, NaN scores, a target outside.

    Example:
        >>> weights = torch.tensor([[1.0, 0.625, 0.25]])
        >>> round(weighted_softmax_ce(torch.tensor([[1.0, 0.5, 0.0]]), weights).item(), 6)
        0.385977
    """
    return _list_loss(scores, _log_of(weights, scores), _columns(scores, target), reduction)


def weighted_pair_logistic(
    scores: Tensor,
    weights: Tensor,
    *,
    target: int | Tensor = 0,
    normalise: bool = True,
    reduction: Reduction = "mean",
) -> Tensor:
    """Logistic loss of positive against each negative with weights: ``sum_i w_i softplus(s_i - s_+) / sum_i w_i``.

    The pair-wise alternative to ``weighted_softmax_ce`` for CET (arXiv:2209.05072), reconstructed. Here a common
    factor of a list's weights cancels only with ``normalise``.

    Args:
        scores: (b, m) float, logits.
        weights: (b, m) float, not negative, taken without gradient; that of the positive is not used.
        target: the column of the positive, or (b,) int64, one per row.
        normalise: divide by the sum of a row's weights; a row without any weight has loss 0.
        reduction: "mean" or "sum" over rows, or "none".

    Returns:
        scalar, or (b,) for "none".

    Raises:
        ValueError: as ``weighted_softmax_ce``.

    Example:
        >>> weights = torch.tensor([[1.0, 0.625, 0.25]])
        >>> round(weighted_pair_logistic(torch.tensor([[1.0, 0.5, 0.0]]), weights).item(), 6)
        0.42813
    """
    log_weights, column = _log_of(weights, scores), _columns(scores, target)
    return _pair_loss(scores, log_weights, column, reduction, normalise=normalise)


class SelectionModel(nn.Module):
    """A small network for the selection scores, on features of the retrieval and not of the text.

    The selection model of CET (arXiv:2209.05072); its features and size are our choice. Features are standardised
    by a sample, so ranks and scores of several retrievers may stand side by side. It is discarded after training.

    Args:
        features: (n, d) float, a sample of the features: their number, means and deviations are taken from it.
        hidden: widths of the hidden layers.
        seed: of the start.

    Raises:
        ValueError: features that are no finite matrix, a width below 1.

    Example:
        >>> model = SelectionModel(torch.tensor([[1.0, 20.0], [100.0, 3.0]]))
        >>> model(torch.tensor([[[1.0, 20.0], [7.0, 5.0], [100.0, 3.0]]])).shape
        torch.Size([1, 3])
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, features: Tensor, *, hidden: Sequence[int] = (32,), seed: int = 0) -> None:
        super().__init__()
        checks.matrix("features", features)
        checks.finite("features", features)
        for width in hidden:
            checks.at_least("hidden", width, 1)
        sample = _at_least_float32(features.detach())
        deviation = sample.std(0, correction=0)
        self.register_buffer("mean", sample.mean(0))
        self.register_buffer("deviation", torch.where(deviation > 0, deviation, torch.ones_like(deviation)))
        widths = [sample.shape[1], *hidden, 1]
        layers: list[nn.Module] = []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for inner, outer in pairwise(widths):
                layers += [nn.Linear(inner, outer, dtype=sample.dtype), nn.ReLU()]
        self.network = nn.Sequential(*layers[:-1]).to(sample.device)

    def forward(self, features: Tensor) -> Tensor:
        """Selection scores.

        Args:
            features: (..., d) float, the features of each pair: (b, 1 + n, d) for a batch of lists.

        Returns:
            logits, of the shape of features without the last axis.

        Raises:
            ValueError: for another number of features.
        """
        checks.require(
            features.shape[-1] == len(self.mean),
            f"features must have {len(self.mean)} columns: got shape {tuple(features.shape)}.",
        )
        scores: Tensor = self.network((features - self.mean) / self.deviation)
        return scores.squeeze(-1)


def _list_loss(scores: Tensor, log_weights: Tensor, target: Tensor, reduction: Reduction) -> Tensor:
    """The contrastive core with the positive taken out of the block."""
    column = target[:, None]
    negatives = log_weights.scatter(1, column, -torch.inf)
    return contrastive_loss(scores.gather(1, column).squeeze(1), [(scores, negatives)], reduction=reduction)


def _pair_loss(
    scores: Tensor, log_weights: Tensor, target: Tensor, reduction: Reduction, *, normalise: bool = True
) -> Tensor:
    checks.one_of("reduction", reduction, ("mean", "sum", "none"))
    scores, column = _at_least_float32(scores), target[:, None]
    weights = log_weights.to(scores.dtype).scatter(1, column, -torch.inf).exp()
    losses = (weights * softplus(scores - scores.gather(1, column))).sum(1)
    if normalise:
        total = weights.sum(1)
        losses = losses / torch.where(total > 0, total, torch.ones_like(total))
    if reduction == "none":
        return losses
    return losses.mean() if reduction == "mean" else losses.sum()


def _log_of(weights: Tensor, scores: Tensor) -> Tensor:
    _check_scores("scores", scores)
    checks.same_shape("weights", weights, "scores", scores)
    checks.finite("weights", weights.detach())
    low = float(weights.detach().min())
    checks.require(low >= 0, f"weights must not be negative: got {low:g}.")
    return _at_least_float32(weights.detach()).log()


def _columns(scores: Tensor, target: int | Tensor) -> Tensor:
    """The positive's column of each row, (b,) int64."""
    checks.matrix("scores", scores)
    if isinstance(target, Tensor):
        checks.require(
            target.shape == scores.shape[:1] and target.dtype == torch.int64,
            f"target must be an int or ({len(scores)},) int64: got {tuple(target.shape)} {target.dtype}.",
        )
    else:
        target = torch.full(scores.shape[:1], target, dtype=torch.int64, device=scores.device)
    low, high = int(target.min()), int(target.max())
    checks.require(
        low >= 0 and high < scores.shape[1],
        f"target must lie in 0..{scores.shape[1] - 1}, the columns of scores: got {low}..{high}.",
    )
    return target


def _targets(scores: Tensor, labels: Tensor | None) -> Tensor:
    if labels is None:
        return _columns(scores, 0)
    checks.same_shape("labels", labels, "rel_scores", scores)
    marked = labels != 0
    counts = marked.sum(1)
    wrong = torch.nonzero(counts != 1).flatten()
    checks.require(
        len(wrong) == 0,
        f"labels must mark one positive per row: row {int(wrong[0]) if len(wrong) else 0} has "
        f"{int(counts[wrong[0]]) if len(wrong) else 1}; make a row for each positive and leave out rows without one.",
    )
    return marked.int().argmax(1)


def _check_scores(name: str, scores: Tensor) -> None:
    checks.matrix(name, scores)
    checks.require(scores.shape[1] > 1, f"{name} must have a positive and negatives: got shape {tuple(scores.shape)}.")
    checks.finite(name, scores.detach())


def _check_log_weights(log_weights: Tensor, scores: Tensor) -> None:
    checks.same_shape("log_weights", log_weights, "rel_scores", scores)
    bad = log_weights.isnan() | log_weights.isposinf()
    checks.require(not bool(bad.any()), "log_weights must be numbers or -inf: got NaN or +inf.")


def _at_least_float32(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
