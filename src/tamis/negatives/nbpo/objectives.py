"""The objectives on scores, and what the noise says of a sampled negative.

With s the sigmoid, R a preference and g a noise score: P(recorded) = s(R) s(-g) and P(not recorded) =
s(-R) + s(g) s(R). Everything is computed from log s, so that no score is too large.
"""

from __future__ import annotations

from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from tamis import checks

Array = np.ndarray[Any, Any]
Kind = TypeVar("Kind", Array, Tensor)
Reduction = Literal["mean", "sum", "none"]
Variant = Literal["likelihood", "surrogate", "surrogate_gradient"]


def nbpo_loss(
    pos_scores: Tensor,
    neg_scores: Tensor,
    pos_noise: Tensor,
    neg_noise: Tensor,
    *,
    variant: Variant = "likelihood",
    log_weights: Tensor | None = None,
    repeat_positive: bool = True,
    reduction: Reduction = "mean",
) -> Tensor:
    """The noise-robust likelihood of positives and sampled negatives, as a loss over pairs (positive, negative).

    The objectives of NBPO (arXiv:2007.07204): "likelihood" is ``-log`` of P(recorded) and P(not recorded), the code's
    NBPO-o; "surrogate" is minus the two probabilities, NBPO-s; "surrogate_gradient" has the gradient of the paper's
    final NBPO, where each derivative s(x) s(-x) of the surrogate becomes s(-x). That field is the gradient of no
    function, so there the value is one of constants held fixed and says little.

    Args:
        pos_scores: (b,) float, preferences R of the positives, logits.
        neg_scores: (b, n) float, preferences of n sampled negatives of each positive's user.
        pos_noise: (b,) float, noise scores g of the positives, logits.
        neg_noise: (b, n) float.
        variant: "likelihood", "surrogate" or "surrogate_gradient".
        log_weights: (b, n) float or None, further decisions on the negatives, without gradient: the term of the
            negative is multiplied by the exponential; at ``-inf`` the pair is absent, with its share of the positive.
        repeat_positive: every pair holds its whole positive, as in the official code, so n negatives make a positive
            count n times. False gives it 1 / n of itself per pair, so that it counts once.
        reduction: over pairs; "sum" goes with the paper's step sizes and weight decay, "none" is (b, n).

    Returns:
        scalar, or (b, n) for "none", where absent pairs are 0.

    Raises:
        ValueError: shapes that do not fit, NaN or infinity, unknown options.

    Example:
        >>> R, g = torch.tensor([0.5]), torch.tensor([-1.0])
        >>> round(nbpo_loss(R, R[:, None], g, g[:, None]).item(), 4)  # .7873 for the positive, .6071 for the negative
        1.3944
    """
    checks.one_of("variant", variant, ("likelihood", "surrogate", "surrogate_gradient"))
    _check(pos_scores, neg_scores)
    checks.same_shape("pos_noise", pos_noise, "pos_scores", pos_scores)
    checks.same_shape("neg_noise", neg_noise, "neg_scores", neg_scores)
    for name, value in (("pos_noise", pos_noise), ("neg_noise", neg_noise)):
        checks.finite(name, value.detach())
    pos, neg, pos_g, neg_g = (_at_least_float32(x) for x in (pos_scores, neg_scores, pos_noise, neg_noise))
    if variant == "surrogate_gradient":
        with torch.no_grad():
            pos_kept, pos_liked = (-pos_g).sigmoid(), pos.sigmoid()
            neg_lost, neg_liked = neg_g.sigmoid(), neg.sigmoid()
        positive = pos_kept * logsigmoid(pos) + pos_liked * logsigmoid(-pos_g)
        negative = neg_lost * logsigmoid(neg) + logsigmoid(-neg) + neg_liked * logsigmoid(neg_g)
    else:
        positive, negative = logsigmoid(pos) + logsigmoid(-pos_g), _log_unrecorded(neg, neg_g)
        if variant == "surrogate":
            positive, negative = positive.exp(), negative.exp()
    return _over_pairs(-positive, -negative, log_weights, repeat_positive, reduction)


def bpo_loss(
    pos_scores: Tensor,
    neg_scores: Tensor,
    *,
    log_weights: Tensor | None = None,
    repeat_positive: bool = True,
    reduction: Reduction = "mean",
) -> Tensor:
    """The plain point-wise likelihood: positives up, sampled negatives down.

    BPO of arXiv:2007.07204: ``-log s(R)`` of the positive and ``-log s(-R)`` of the negative.

    Args:
        pos_scores: (b,) float, logits.
        neg_scores: (b, n) float, logits of n sampled negatives each.
        log_weights: (b, n) float or None, see ``nbpo_loss``.
        repeat_positive: see ``nbpo_loss``.
        reduction: over pairs.

    Returns:
        scalar, or (b, n) for "none".

    Raises:
        ValueError: shapes that do not fit, NaN or infinity, unknown options.

    Example:
        >>> round(bpo_loss(torch.zeros(1), torch.zeros(1, 2)).item(), 4)  # 2 log 2
        1.3863
    """
    _check(pos_scores, neg_scores)
    positive, negative = -logsigmoid(_at_least_float32(pos_scores)), -logsigmoid(-_at_least_float32(neg_scores))
    return _over_pairs(positive, negative, log_weights, repeat_positive, reduction)


def bpr_loss(
    pos_scores: Tensor, neg_scores: Tensor, *, log_weights: Tensor | None = None, reduction: Reduction = "mean"
) -> Tensor:
    """Bayesian personalised ranking, the pair-wise baseline: ``-log s(R_i - R_j)``.

    BPR-Opt of Rendle et al. (arXiv:1205.2618, section 4.1), a baseline of arXiv:2007.07204.

    Args:
        pos_scores: (b,) float, logits.
        neg_scores: (b, n) float, logits of n sampled negatives each.
        log_weights: (b, n) float or None: the pair is multiplied by the exponential, at ``-inf`` it is absent.
        reduction: over pairs.

    Returns:
        scalar, or (b, n) for "none".

    Raises:
        ValueError: shapes that do not fit, NaN or infinity, unknown options.

    Example:
        >>> round(bpr_loss(torch.tensor([1.0]), torch.tensor([[0.0]])).item(), 4)
        0.3133
    """
    _check(pos_scores, neg_scores)
    losses = -logsigmoid(_at_least_float32(pos_scores)[:, None] - _at_least_float32(neg_scores))
    return _over_pairs(torch.zeros_like(losses[:, 0]), losses, log_weights, True, reduction)


def false_negative_posterior(neg_scores: Kind, neg_noise: Kind) -> Kind:
    """How likely a negative is a positive that was not recorded.

    Bayes on the model of arXiv:2007.07204: ``s(g) s(R) / (s(-R) + s(g) s(R))``, which is ``s(R + log s(g))``.

    Args:
        neg_scores: any shape, float, preferences R, logits.
        neg_noise: the same shape, noise scores g, logits.

    Returns:
        probabilities of the same shape, kind and dtype, without gradient.

    Raises:
        ValueError: shapes that differ, NaN or infinity.

    Example:
        >>> false_negative_posterior(np.array([0.5]), np.array([-1.0])).round(6)
        array([0.307196])
    """
    return _like(_posterior_logit(neg_scores, neg_noise).sigmoid(), neg_scores)


def false_negative_log_weights(neg_scores: Kind, neg_noise: Kind) -> Kind:
    """The posterior as a decision: the log of the probability that the negative is one, to be added to other rules.

    ``log(1 - posterior)`` of ``false_negative_posterior`` (arXiv:2007.07204), exact where the posterior rounds to 1.

    Args:
        neg_scores: any shape, float, preferences R, logits.
        neg_noise: the same shape, noise scores g, logits.

    Returns:
        log-weights of the same shape, kind and dtype, at most 0, without gradient.

    Raises:
        ValueError: shapes that differ, NaN or infinity.

    Example:
        >>> false_negative_log_weights(np.array([0.5]), np.array([-1.0])).round(6)
        array([-0.367008])
    """
    return _like(logsigmoid(-_posterior_logit(neg_scores, neg_noise)), neg_scores)


def _log_unrecorded(scores: Tensor, noise: Tensor) -> Tensor:
    return torch.logaddexp(logsigmoid(-scores), logsigmoid(noise) + logsigmoid(scores))


def _posterior_logit(scores: Array | Tensor, noise: Array | Tensor) -> Tensor:
    checks.same_shape("neg_noise", noise, "neg_scores", scores)
    for name, value in (("neg_scores", scores), ("neg_noise", noise)):
        checks.finite(name, value)
    # An array is copied: torch does not share one that cannot be written to.
    tensors = (torch.tensor(x) if isinstance(x, np.ndarray) else x.detach() for x in (scores, noise))
    preference, flip = (_at_least_float32(x) for x in tensors)
    return preference + logsigmoid(flip)


def _over_pairs(
    positive: Tensor, negative: Tensor, log_weights: Tensor | None, repeat_positive: bool, reduction: Reduction
) -> Tensor:
    """Losses of pairs from losses of positives (b,) and negatives (b, n); the mean is over the pairs that are there."""
    checks.one_of("reduction", reduction, ("mean", "sum", "none"))
    present = torch.ones_like(negative, dtype=torch.bool)
    if log_weights is not None:
        checks.same_shape("log_weights", log_weights, "neg_scores", negative)
        checks.require(
            not bool((log_weights.isnan() | log_weights.isposinf()).any()),
            "log_weights must be numbers or -inf: got NaN or +inf.",
        )
        present = ~torch.isneginf(log_weights)
        negative = negative * log_weights.detach().to(negative.dtype).exp()
    pairs_of = present.sum(1, keepdim=True).clamp_min(1)
    whole = positive[:, None] if repeat_positive else positive[:, None] / pairs_of
    losses = (whole + negative).masked_fill(~present, 0.0)
    if reduction == "none":
        return losses
    return losses.sum() / present.sum().clamp_min(1) if reduction == "mean" else losses.sum()


def _check(pos_scores: Tensor, neg_scores: Tensor) -> None:
    checks.require(pos_scores.ndim == 1, f"pos_scores must be (b,): got shape {tuple(pos_scores.shape)}.")
    checks.matrix("neg_scores", neg_scores)
    checks.same_length("pos_scores", pos_scores, "neg_scores", neg_scores)
    checks.require(neg_scores.shape[1] > 0, "neg_scores must have at least one negative per positive: got none.")
    for name, value in (("pos_scores", pos_scores), ("neg_scores", neg_scores)):
        checks.finite(name, value.detach())


def _at_least_float32(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _like(value: Tensor, source: Kind) -> Kind:
    return value.numpy().astype(source.dtype) if isinstance(source, np.ndarray) else value.to(source.dtype)
