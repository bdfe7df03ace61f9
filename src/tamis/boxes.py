"""Boxes of a detector: areas, overlap, how central a point lies, and the losses that go with them.

Boxes are (x1, y1, x2, y2) with x1 < x2 and y1 < y2, in pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from tamis import checks

BACKGROUND, IGNORED = -1, -2
"""What an anchor is matched to where that is no object."""


def require_boxes(name: str, boxes: Tensor) -> None:
    """Refuse what are no boxes.

    Args:
        name: of the argument, for the message.
        boxes: (n, 4) float.

    Raises:
        ValueError: for another shape, numbers that are not finite, or a box without width or height; names the row.

    Example:
        >>> require_boxes("gt_boxes", torch.tensor([[0.0, 0.0, 2.0, 1.0]]))
    """
    checks.require(
        boxes.ndim == 2 and boxes.shape[1] == 4, f"{name} must be (n, 4) boxes: got shape {tuple(boxes.shape)}."
    )
    checks.finite(name, boxes)
    flat = ~((boxes[:, 2:] > boxes[:, :2]).all(1))
    if bool(flat.any()):
        row = int(flat.nonzero()[0])
        raise ValueError(f"{name} must have x1 < x2 and y1 < y2: row {row} is {boxes[row].tolist()}.")


def box_iou(one: Tensor, other: Tensor) -> Tensor:
    """Intersection over union of boxes, pair by pair with broadcasting.

    Args:
        one: (..., 4) float.
        other: (..., 4) float; give ``one[:, None]`` and ``other[None]`` for all pairs.

    Returns:
        (...,) float in [0, 1].

    Example:
        >>> box_iou(torch.tensor([0.0, 0, 2, 2]), torch.tensor([1.0, 0, 3, 2])).item()
        0.3333333432674408
    """
    return _overlap(one, other)[0]


def centerness(points: Tensor, boxes: Tensor) -> Tensor:
    """How central a point lies in its box: 1 in the middle, 0 at an edge, ``sqrt(min/max * min/max)`` of its distances.

    Args:
        points: (..., 2) float.
        boxes: (..., 4) float.

    Returns:
        (...,) float; 0 outside.

    Example:
        >>> centerness(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 0.0, 4.0, 4.0])).item()
        0.5773502588272095
    """
    near, far = points - boxes[..., :2], boxes[..., 2:] - points
    ratio = torch.minimum(near, far) / torch.maximum(near, far)
    return ratio.clamp(min=0).prod(-1).sqrt() * (torch.minimum(near, far) > 0).all(-1)


def generalized_box_iou_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """One less the generalized IoU (Rezatofighi et al. 2019), which has a slope where boxes do not meet.

    Args:
        predicted: (..., 4) float.
        target: (..., 4) float.

    Returns:
        (...,) float in [0, 2].

    Example:
        >>> generalized_box_iou_loss(torch.tensor([0.0, 0, 1, 1]), torch.tensor([2.0, 0, 3, 1])).item()
        1.3333333730697632
    """
    iou, union = _overlap(predicted, target)
    low = torch.minimum(predicted[..., :2], target[..., :2])
    high = torch.maximum(predicted[..., 2:], target[..., 2:])
    hull = (high - low).clamp(min=0).prod(-1)
    return 1 - iou + (hull - union) / hull.clamp(min=torch.finfo(hull.dtype).tiny)


def sigmoid_focal_loss(logits: Tensor, targets: Tensor, *, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Focal loss of every logit (Lin et al. 2017): cross-entropy that counts what is sure and right for little.

    Args:
        logits: float, any shape.
        targets: 0 or 1, of that shape.
        alpha: weight of positives, 1 - alpha of negatives; below 0 for none.
        gamma: how fast weight falls with certainty.

    Returns:
        float of that shape.

    Example:
        >>> round(sigmoid_focal_loss(torch.tensor([0.0]), torch.tensor([1.0])).item(), 6)
        0.043322
    """
    targets = targets.to(logits.dtype)
    loss = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    wrong = torch.sigmoid(torch.where(targets > 0.5, -logits, logits))
    loss = loss * wrong**gamma
    return loss * torch.where(targets > 0.5, alpha, 1 - alpha) if alpha >= 0 else loss


def _overlap(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """IoU and union."""
    sides = torch.minimum(one[..., 2:], other[..., 2:]) - torch.maximum(one[..., :2], other[..., :2])
    shared = sides.clamp(min=0).prod(-1)
    union = (one[..., 2:] - one[..., :2]).prod(-1) + (other[..., 2:] - other[..., :2]).prod(-1) - shared
    return shared / union.clamp(min=torch.finfo(union.dtype).tiny), union
