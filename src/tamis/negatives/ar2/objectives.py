"""The two sides of the game as losses on scores (b, 1 + n), the positive in the first column."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from tamis import checks
from tamis.contrastive import contrastive_loss, to_logits

Estimator = Literal["official", "negatives", "exact"]


class AdversarialRetrieverLoss(nn.Module):
    """What the retriever minimises: soft targets of the ranker, and a pull towards candidates that fool it.

    The retriever's objective of AR2 (arXiv:2110.03611): ``lambda L_A + (1 - lambda) L_D``, with L_D the
    cross-entropy of softmax(retriever) under softmax(ranker / temperature), and L_A from the rewards
    ``r_i = log sigmoid(K_0 - K_i)``. L_A alone has no pull to the positive: near lambda 1 the retriever runs after
    false negatives, so stay at 0.5 or below. No gradient reaches the ranker.

    Args:
        adv_lambda: share of L_A, from 0 (pure distillation, the default of the official code) to 1.
        temperature: of the ranker's distribution.
        estimator: of L_A. "official" is sum_i r_i log p_i over all candidates, the positive (r = log 1/2) too;
            "negatives" the mean of r_i log p_i over the negatives; "exact" the expectation sum_i p_i r_i with p the
            softmax over the negatives of the list, in which the positive has no part.
        reduction: over queries. "mean" of both parts; "official" sums L_A and takes the mean of L_D.
        retriever_temperature: divides the retriever's scores; the square root of their dimension is the official
            code's ``scale_simmila``.

    Raises:
        ValueError: adv_lambda outside 0 to 1, a temperature that is not positive, unknown options.

    Example:
        >>> loss = AdversarialRetrieverLoss()
        >>> round(loss(torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([[3.0, 2.5, -1.0]])).item(), 6)
        0.898489
    """

    def __init__(
        self,
        adv_lambda: float = 0.5,
        temperature: float = 1.0,
        estimator: Estimator = "official",
        *,
        reduction: Literal["mean", "official"] = "mean",
        retriever_temperature: float = 1.0,
    ) -> None:
        super().__init__()
        checks.between("adv_lambda", adv_lambda, 0.0, 1.0)
        checks.positive("temperature", temperature)
        checks.one_of("estimator", estimator, ("official", "negatives", "exact"))
        checks.one_of("reduction", reduction, ("mean", "official"))
        checks.positive("retriever_temperature", retriever_temperature)
        self.adv_lambda = adv_lambda
        self.temperature = temperature
        self.estimator = estimator
        self.reduction = reduction
        self.retriever_temperature = retriever_temperature

    def forward(self, retriever_scores: Tensor, ranker_logits: Tensor, *, log_weights: Tensor | None = None) -> Tensor:
        """The loss of a batch of lists.

        Args:
            retriever_scores: (b, 1 + n) float, the positive first.
            ranker_logits: (b, 1 + n) float, taken without gradient.
            log_weights: (b, 1 + n) float: -inf is a place without a candidate, a finite number lets one count as
                ``exp(log_weights)`` candidates. No gradient; the positive is protected.

        Returns:
            scalar. float32 for half-precision scores.

        Raises:
            ValueError: fewer than two candidates, shapes that differ, NaN or infinity.
        """
        _check_lists("retriever_scores", retriever_scores)
        checks.same_shape("ranker_logits", ranker_logits, "retriever_scores", retriever_scores)
        _check_lists("ranker_logits", ranker_logits)
        scores = to_logits(retriever_scores, self.retriever_temperature)
        logits = to_logits(ranker_logits.detach(), 1.0).to(scores.dtype)
        weights = _protected(log_weights, scores)
        log_p = _log_probabilities(scores, weights)
        target = (_log_probabilities(logits / self.temperature, weights) + weights).exp()
        loss = -(1 - self.adv_lambda) * (target * log_p).sum(1).mean()
        if self.adv_lambda == 0:
            return loss
        adversarial = self._adversarial(scores, log_p, pairwise_rewards(logits), weights)
        return loss + self.adv_lambda * (adversarial.sum() if self.reduction == "official" else adversarial.mean())

    def _adversarial(self, scores: Tensor, log_p: Tensor, rewards: Tensor, weights: Tensor) -> Tensor:
        """(b,): the pull towards confusing candidates, of each list."""
        if self.estimator == "official":
            return (weights.exp() * rewards * log_p).sum(1)
        if self.estimator == "negatives":
            counts = weights[:, 1:].exp()
            total = counts.sum(1)
            return (counts * rewards[:, 1:] * log_p[:, 1:]).sum(1) / torch.where(total > 0, total, 1.0)
        share = (_log_probabilities(scores[:, 1:], weights[:, 1:]) + weights[:, 1:]).exp()
        return (share * rewards[:, 1:]).sum(1)


class RankerListwiseLoss(nn.Module):
    """What the ranker minimises: the cross-entropy of the positive in its list.

    The ranker's objective of AR2 (arXiv:2110.03611), by the contrastive core.

    Example:
        >>> round(RankerListwiseLoss()(torch.tensor([[3.0, 2.5, -1.0]])).item(), 6)
        0.485413
    """

    def forward(self, ranker_logits: Tensor, *, log_weights: Tensor | None = None) -> Tensor:
        """The loss of a batch of lists.

        Args:
            ranker_logits: (b, 1 + n) float, the positive first.
            log_weights: (b, 1 + n) float, see ``AdversarialRetrieverLoss``.

        Returns:
            scalar, the mean over lists.

        Raises:
            ValueError: fewer than two candidates, shapes that differ, NaN or infinity.
        """
        _check_lists("ranker_logits", ranker_logits)
        weights = _protected(log_weights, to_logits(ranker_logits, 1.0))
        return contrastive_loss(ranker_logits[:, 0], [(ranker_logits[:, 1:], weights[:, 1:])])


def pairwise_rewards(ranker_logits: Tensor) -> Tensor:
    """Log of the ranker's probability that the positive beats each candidate: low where it is fooled.

    ``log sigmoid(K_0 - K_i)``, the pairwise factorisation of AR2's policy gradient (arXiv:2110.03611).

    Args:
        ranker_logits: (b, 1 + n) float, the positive first.

    Returns:
        (b, 1 + n) float, at most 0, without gradient; log 1/2 for the positive itself.

    Example:
        >>> pairwise_rewards(torch.tensor([[3.0, 2.5, -1.0]]))
        tensor([[-0.6931, -0.4741, -0.0181]])
    """
    logits = to_logits(ranker_logits.detach(), 1.0)
    return logsigmoid(logits[:, :1] - logits)


def _log_probabilities(scores: Tensor, log_weights: Tensor) -> Tensor:
    """Log of e^s_i / sum_j w_j e^s_j, the denominator by the contrastive core; 0 probability mass gives no NaN."""
    peak = (scores + log_weights).detach().amax(1, keepdim=True)
    centred = scores - torch.where(peak.isneginf(), 0.0, peak)
    nothing = torch.zeros_like(centred[:, 0])
    log_sum = contrastive_loss(nothing, [(centred, log_weights)], positive_in_denominator=False, reduction="none")
    return centred - log_sum[:, None]


def _protected(log_weights: Tensor | None, scores: Tensor) -> Tensor:
    """Log-weights (b, 1 + n) with a zero for the positive."""
    if log_weights is None:
        return torch.zeros_like(scores)
    checks.same_shape("log_weights", log_weights, "the scores", scores)
    bad = log_weights.isnan() | log_weights.isposinf()
    checks.require(not bool(bad.any()), "log_weights must be numbers or -inf: got NaN or +inf.")
    weights = log_weights.detach().to(scores.dtype).clone()
    weights[:, 0] = 0.0
    return weights


def _check_lists(name: str, scores: Tensor) -> None:
    checks.matrix(name, scores)
    checks.require(
        scores.shape[1] > 1,
        f"{name} must have two candidates or more, the positive first: got shape {tuple(scores.shape)}.",
    )
    checks.finite(name, scores.detach())
