"""Boxes: torchvision as oracle where it is installed, and hand-made numbers."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.boxes import box_iou, centerness, generalized_box_iou_loss, require_boxes, sigmoid_focal_loss


def some(n: int, seed: int) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    corner = 10 * torch.rand(n, 2, generator=g, dtype=torch.float64)
    return torch.cat([corner, corner + 0.1 + 5 * torch.rand(n, 2, generator=g, dtype=torch.float64)], 1)


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_overlap_agrees_with_loops(seed):
    """IoU and generalized IoU should be their definitions, symmetric, and 1 and 0 for equal boxes."""
    one, other = some(5, seed), some(5, seed + 1)
    for a, b, iou, loss in zip(one, other, box_iou(one, other), generalized_box_iou_loss(one, other), strict=True):
        width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
        height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
        areas = [float((box[2] - box[0]) * (box[3] - box[1])) for box in (a, b)]
        union = sum(areas) - width * height
        hull = float((max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1])))
        assert float(iou) == pytest.approx(width * height / union)
        assert float(loss) == pytest.approx(1 - (width * height / union - (hull - union) / hull))
    assert torch.allclose(box_iou(one[:, None], other[None]), box_iou(other[:, None], one[None]).T)
    assert torch.allclose(box_iou(one, one), torch.ones(5, dtype=torch.float64))


def test_agrees_with_torchvision():
    """Overlap, generalized IoU loss and focal loss should be torchvision's."""
    ops = pytest.importorskip("torchvision.ops")
    one, other = some(6, 0), some(6, 1)
    assert torch.allclose(box_iou(one[:, None], other[None]), ops.box_iou(one, other))
    assert torch.allclose(generalized_box_iou_loss(one, other), ops.generalized_box_iou_loss(one, other), atol=1e-6)
    logits, targets = torch.randn(9, generator=torch.Generator().manual_seed(0)), torch.arange(9) % 2
    assert torch.allclose(sigmoid_focal_loss(logits, targets), ops.sigmoid_focal_loss(logits, targets.float()))


def test_focal_loss_is_cross_entropy_without_focus():
    """With gamma 0 and no alpha the plain cross-entropy should come out; certain logits should have a finite slope."""
    logits = torch.tensor([-200.0, -1.0, 0.5, 200.0], requires_grad=True)
    targets = torch.tensor([0.0, 1.0, 0.0, 1.0])
    plain = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    assert torch.allclose(sigmoid_focal_loss(logits, targets, alpha=-1, gamma=0), plain)
    sigmoid_focal_loss(logits, targets).sum().backward()
    assert bool(logits.grad.isfinite().all())


def test_centerness():
    """1 in the middle, the root of the ratios beside it, 0 on an edge and outside."""
    box = torch.tensor([0.0, 0.0, 4.0, 2.0])
    points = torch.tensor([[2.0, 1.0], [1.0, 1.0], [0.0, 1.0], [-1.0, -1.0], [5.0, 3.0]])
    assert centerness(points, box).tolist() == pytest.approx([1, math.sqrt(1 / 3), 0, 0, 0])


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        (torch.ones(2, 3), "must be \\(n, 4\\) boxes"),
        (torch.tensor([[0.0, 0, 1, math.nan]]), "must be finite"),
        (torch.tensor([[0.0, 0, 1, 1], [2, 0, 1, 1]]), "must have x1 < x2 and y1 < y2: row 1 is"),
    ],
)
def test_what_is_no_box_is_refused(boxes, message):
    """Each mistake should be answered in a line that names argument and row."""
    with pytest.raises(ValueError, match=f"gt_boxes {message}"):
        require_boxes("gt_boxes", boxes)
