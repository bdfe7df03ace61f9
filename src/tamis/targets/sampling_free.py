"""Sampling-free detection: start from the right rate, let the box loss set the size of the class loss, sample nothing.

With one positive in a thousand, cross-entropy drowns in background not for want of sampling but for the size of its
gradient. Three pieces without a number to tune take it down: the bias of the classifier starts at the log-odds of a
positive, so the first loss is the entropy of the labels; in every step the class loss is scaled to the value of the
regression loss, which keeps its direction; and the score threshold is the rate of positives. It is the honest baseline
for any re-weighting where positives are rare.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tamis import checks
from tamis.distributed import sum_over_ranks
from tamis.method import Method

METHOD = Method(
    title="Is Heuristic Sampling Necessary in Training Deep Object Detectors?",
    paper="arXiv:1909.04868",
    year=2019,
    code="ChenJoya/sampling-free",
    claim="The largest gradient of the bias falls to a twentieth of cross-entropy's, and precision rises.",
    peers=("torchvision.models.detection.RetinaNet",),
    deviations=("a threshold from the rate in every head, where the code leaves a constant in one",),
)

_LEAST = 1e-12  # class losses below it are scaled as if they were so large


def imbalance_bias(
    prior: float | None = None,
    *,
    positives: int | None = None,
    total: int | None = None,
    num_classes: int = 1,
    activation: Literal["sigmoid", "softmax"] = "sigmoid",
    background: int = 0,
) -> Tensor:
    """The bias at which a classifier of constants has the least cross-entropy (section 3.2 of arXiv:1909.04868).

    For sigmoids ``-log((1 - p) / p)`` with p the share of ones among all logits. For a softmax over classes and
    background 0 for the classes and ``log(C (1 - p) / p)`` for the background, with p the share of positives.

    Args:
        prior: p, between 0 and 1.
        positives: anchors that are positive, instead, with
        total: anchors in all; p is then ``positives / total``, over the classes for sigmoids.
        num_classes: C, without the background.
        activation: of the classifier.
        background: place of the background in a softmax.

    Returns:
        (C,) float32 for sigmoids, (C + 1,) for a softmax.

    Raises:
        ValueError: for a prior outside (0, 1), or neither a prior nor counts.

    Example:
        >>> imbalance_bias(0.01).tolist()
        [-4.595119953155518]
        >>> imbalance_bias(positives=10, total=1000, num_classes=2).tolist()
        [-5.293304920196533, -5.293304920196533]
    """
    checks.at_least("num_classes", num_classes, 1)
    checks.one_of("activation", activation, ("sigmoid", "softmax"))
    checks.require((prior is None) != (positives is None), "give either prior, or positives and total.")
    if positives is not None:
        checks.require(total is not None and total > 0, f"total must be given with positives: got {total}.")
        assert total is not None
        prior = positives / total / (num_classes if activation == "sigmoid" else 1)
    assert prior is not None
    checks.require(0 < prior < 1, f"prior must lie between 0 and 1, both excluded: got {prior!r}.")
    odds = math.log((1 - prior) / prior)
    if activation == "sigmoid":
        return torch.full((num_classes,), -odds, dtype=torch.float32, device="cpu")
    checks.between("background", background, -1, num_classes)
    bias = torch.zeros(num_classes + 1, dtype=torch.float32, device="cpu")
    bias[background] = math.log(num_classes) + odds
    return bias


def init_classifier_bias_(
    layer: nn.Module,
    prior: float,
    *,
    num_classes: int = 1,
    activation: Literal["sigmoid", "softmax"] = "sigmoid",
    background: int = 0,
) -> nn.Module:
    """Set the bias of a classifier in place, for every anchor that the layer predicts.

    Args:
        layer: linear or convolution, with a bias of classes, or of anchors times classes.
        prior: as in ``imbalance_bias``.
        num_classes: likewise.
        activation: likewise.
        background: likewise.

    Returns:
        the layer.

    Raises:
        ValueError: for a layer without bias, or whose bias is no multiple of the classes.

    Example:
        >>> init_classifier_bias_(nn.Linear(4, 2), 0.01, num_classes=2).bias.tolist()
        [-4.595119953155518, -4.595119953155518]
    """
    bias = getattr(layer, "bias", None)
    checks.require(isinstance(bias, Tensor), "layer must have a bias to start from the rate of positives.")
    assert isinstance(bias, Tensor)
    values = imbalance_bias(prior, num_classes=num_classes, activation=activation, background=background)
    checks.require(
        len(bias) % len(values) == 0,
        f"layer must predict a multiple of {len(values)} numbers: it has {len(bias)}; set num_classes.",
    )
    with torch.no_grad():
        bias.copy_(values.repeat(len(bias) // len(values)))
    return layer


def estimate_prior(labels: Iterable[Any], *, num_classes: int = 1) -> float:
    """The rate of positives, from one pass of the assigner over the training data, added up over all ranks.

    Args:
        labels: of each image (a,) int: 0 background, above 0 a class, below 0 what does not count.
        num_classes: C sigmoids per anchor.

    Returns:
        share of ones among all logits: positives / (positives + background) / C.

    Raises:
        ValueError: where there is no positive, or nothing else.

    Example:
        >>> estimate_prior([torch.tensor([0, 0, 1, -1]), torch.tensor([0, 2, 0, 0])], num_classes=2)
        0.14285714285714285
    """
    checks.at_least("num_classes", num_classes, 1)
    positive = negative = 0
    device = torch.device("cpu")
    for part in labels:
        given = torch.as_tensor(part)
        device = given.device  # ranks may only be able to add up where their labels lie
        positive += int((given > 0).sum())
        negative += int((given == 0).sum())
    counts = sum_over_ranks(torch.tensor([positive, negative], dtype=torch.int64, device=device))
    positive, negative = int(counts[0]), int(counts[1])
    checks.require(
        positive > 0 and negative > 0, f"labels must hold positives and background: {positive} and {negative} came."
    )
    return positive / (positive + negative) / num_classes


def guided_loss_scaling(cls_loss: Tensor, guide_loss: Tensor, scale: float = 1.0, *, eps: float = 0.0) -> Tensor:
    """Scale a class loss to the value of a regression loss (section 3.3 of arXiv:1909.04868).

    ``scale * stop(guide / cls) * cls``: the direction of the gradient stays, its size is the guide's; the guide learns
    nothing from it. A batch without positives has no regression loss, and so teaches the classifier nothing. When not
    to use: where regression is easy. Its loss vanishes and starves the classifier, as the claim shows.

    Args:
        cls_loss: scalar, at least 0.
        guide_loss: scalar, at least 0.
        scale: 1 for one-stage detectors, 2 for the head of a two-stage one.
        eps: least class loss to divide by.

    Returns:
        scalar, equal to ``scale * guide_loss``.

    Raises:
        ValueError: for losses that are no scalars, or a scale that is not positive.

    Example:
        >>> w = torch.tensor(2.0, requires_grad=True)
        >>> scaled = guided_loss_scaling(w**2, torch.tensor(0.5))
        >>> scaled.backward()
        >>> scaled.item(), w.grad.item()
        (0.5, 0.5)
    """
    for name, loss in (("cls_loss", cls_loss), ("guide_loss", guide_loss)):
        checks.require(loss.ndim == 0, f"{name} must be a scalar: got shape {tuple(loss.shape)}; reduce it first.")
    checks.positive("scale", scale)
    checks.at_least("eps", eps, 0.0)
    exact = torch.promote_types(cls_loss.dtype, torch.float32)
    factor = scale * guide_loss.detach().to(exact) / cls_loss.detach().to(exact).clamp(min=max(eps, _LEAST))
    return factor.clamp(max=torch.finfo(cls_loss.dtype).max).to(cls_loss.dtype) * cls_loss


class GuidedLossScaling(nn.Module):
    """``guided_loss_scaling`` as a module.

    Args:
        scale: 1 for one-stage detectors, 2 for the head of a two-stage one.
        eps: least class loss to divide by.

    Returns:
        scalar.

    Raises:
        ValueError: for a scale that is not positive.

    Example:
        >>> GuidedLossScaling(2.0)(torch.tensor(4.0), torch.tensor(0.5)).item()
        1.0
    """

    def __init__(self, scale: float = 1.0, *, eps: float = 0.0) -> None:
        super().__init__()
        checks.positive("scale", scale)
        self.scale, self.eps = scale, eps

    def forward(self, cls_loss: Tensor, guide_loss: Tensor) -> Tensor:
        """Scale.

        Args:
            cls_loss: scalar.
            guide_loss: scalar.

        Returns:
            scalar.
        """
        return guided_loss_scaling(cls_loss, guide_loss, self.scale, eps=self.eps)


def adaptive_score_threshold(prior: float, num_classes: int = 1) -> float:
    """The score below which a detection is dropped: the rate of positives, ``prior * num_classes``.

    Args:
        prior: share of ones among all logits, as ``estimate_prior`` gives it.
        num_classes: C.

    Returns:
        score.

    Raises:
        ValueError: for a prior outside (0, 1), or a rate above 1.

    Example:
        >>> adaptive_score_threshold(0.0005, 80)
        0.04
    """
    checks.require(0 < prior < 1, f"prior must lie between 0 and 1, both excluded: got {prior!r}.")
    checks.at_least("num_classes", num_classes, 1)
    checks.require(prior * num_classes <= 1, f"prior must be a rate per logit: {prior} times {num_classes} is above 1.")
    return prior * num_classes
