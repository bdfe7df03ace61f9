"""ATSS: the worked numbers, a transcription in loops, invariances, and the fixed cut it is compared with."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.boxes import box_iou, generalized_box_iou_loss, sigmoid_focal_loss
from tamis.targets import adaptive_threshold, atss, atss_assign, centerness_targets, iou_threshold_assign
from tests.behaviour import ArrayCase


def grid(side: int, stride: float, size: float) -> torch.Tensor:
    """Square anchors on a grid, row by row."""
    at = (torch.arange(side, dtype=torch.float64) + 0.5) * stride
    y, x = (part.flatten() for part in torch.meshgrid(at, at, indexing="ij"))
    return torch.stack([x - size / 2, y - size / 2, x + size / 2, y + size / 2], 1)


LEVELS = [grid(4, 8, 16), grid(2, 16, 32)]
OBJECTS = torch.tensor([[4.0, 4, 20, 20], [14, 2, 30, 10]], dtype=torch.float64)


def some_objects(n: int, seed: int) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    size = 3 + 20 * torch.rand(n, 2, generator=g, dtype=torch.float64)
    corner = torch.rand(n, 2, generator=g, dtype=torch.float64) * (32 - size)
    return torch.cat([corner, corner + size], 1)


def make(seed: int) -> list:
    """Cases for the shared checks: both assignments, the threshold and the centre-ness."""
    objects, anchors = some_objects(4, seed).numpy(), [level.numpy() for level in LEVELS]
    scores = np.random.default_rng(seed).random((6, 3))
    return [
        ArrayCase("atss_assign", lambda s, o: atss_assign(anchors, o, topk=4), (objects,), torch_too=True),
        ArrayCase("iou_threshold_assign", lambda s, o: iou_threshold_assign(anchors[0], o), (objects,), torch_too=True),
        ArrayCase("adaptive_threshold", lambda s, v: adaptive_threshold(v), (scores,), torch_too=True),
        ArrayCase("centerness_targets", lambda s, o: centerness_targets(o, o + 1), (objects,), torch_too=True),
    ]


def loops(levels, objects, k, eps=0.01):
    """The algorithm, object by object."""
    anchors = torch.cat(levels)
    best = [(-1.0, -1)] * len(anchors)
    for number, (x1, y1, x2, y2) in enumerate(objects.tolist()):
        candidates, offset = [], 0
        for level in levels:
            distance = [
                (((a + c) / 2 - (x1 + x2) / 2) ** 2 + ((b + d) / 2 - (y1 + y2) / 2) ** 2, i)
                for i, (a, b, c, d) in enumerate(level.tolist())
            ]
            candidates += [i + offset for _, i in sorted(distance)[:k]]
            offset += len(level)
        overlap = [float(box_iou(anchors[i], objects[number])) for i in candidates]
        threshold = float(np.mean(overlap) + (np.std(overlap, ddof=1) if len(overlap) > 1 else 0.0))
        for i, value in zip(candidates, overlap, strict=True):
            a, b, c, d = anchors[i].tolist()
            x, y = (a + c) / 2, (b + d) / 2
            if value >= threshold and min(x - x1, y - y1, x2 - x, y2 - y) > eps and value > best[i][0]:
                best[i] = (value, number)
    return [number for _, number in best]


def test_worked_numbers():
    """Thresholds, the positives and the overlaps of the specification."""
    found = atss_assign(LEVELS, OBJECTS, topk=4)
    assert found.threshold.tolist() == pytest.approx([0.619672, 0.311451], abs=5e-7)
    assert (found.matched_gt >= 0).nonzero()[:, 0].tolist() == [2, 5]
    assert found.matched_gt[[2, 5]].tolist() == [1, 0]
    assert found.num_candidates.tolist() == [8, 8]
    nearest = torch.cat([LEVELS[0][[5, 1, 4, 6]], LEVELS[1]])
    overlaps = sorted(box_iou(nearest, OBJECTS[0]).tolist(), reverse=True)
    expected = [1, 1 / 3, 1 / 3, 1 / 3, 0.25, 0.176471, 0.176471, 0.126761]
    assert overlaps == pytest.approx(expected, abs=5e-7)


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 6), k=st.integers(1, 9))
@settings(max_examples=40, deadline=None)
def test_agrees_with_loops_and_knows_no_place(seed, n, k):
    """Assignments should be the algorithm's, whatever the blocks; moved and scaled they should stay; names too."""
    objects = some_objects(n, seed)
    found = atss_assign(LEVELS, objects, topk=k)
    assert found.matched_gt.tolist() == loops(LEVELS, objects, k)
    before, atss._BLOCK = atss._BLOCK, 30
    try:
        assert torch.equal(atss_assign(LEVELS, objects, topk=k).matched_gt, found.matched_gt)
    finally:
        atss._BLOCK = before
    scaled = atss_assign([4 * level for level in LEVELS], 4 * objects, topk=k, center_eps=0.04)
    assert torch.equal(scaled.matched_gt, found.matched_gt)
    moved = atss_assign([level + 64 for level in LEVELS], objects + 64, topk=k)
    assert torch.equal(moved.matched_gt, found.matched_gt)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    renamed = atss_assign(LEVELS, objects[order], torch.arange(1, n + 1)[order], topk=k)
    assert torch.equal(renamed.labels, torch.where(found.matched_gt >= 0, found.matched_gt + 1, 0))


def test_levels_with_few_anchors():
    """More candidates than a level has should be all of it; of a single anchor its own overlap is the threshold."""
    assert atss_assign(LEVELS, OBJECTS, topk=100).num_candidates.tolist() == [20, 20]
    alone = atss_assign([torch.tensor([[0.0, 0, 4, 4]])], torch.tensor([[1.0, 1, 5, 5]]))
    assert alone.matched_gt.tolist() == [0]
    assert alone.threshold.tolist() == pytest.approx([9 / 23])
    outside = atss_assign([torch.tensor([[0.0, 0, 4, 4]])], torch.tensor([[3.0, 3, 5, 5]]))
    assert outside.matched_gt.tolist() == [-1]


def test_an_anchor_of_two_objects_goes_to_the_larger_overlap():
    """The nearer object should have it, of equal ones the first."""
    anchor = torch.tensor([[0.0, 0, 4, 4]])
    assert atss_assign([anchor], torch.tensor([[0.0, 0, 8, 8], [0, 0, 5, 4]])).matched_gt.tolist() == [1]
    assert atss_assign([anchor], torch.tensor([[0.0, 0, 5, 4], [0, 0, 5, 4]])).matched_gt.tolist() == [0]


def test_no_objects_and_tiny_ones():
    """Without objects all should be background; one that is too small to hold a centre may have no positive."""
    nothing = atss_assign(LEVELS, torch.empty(0, 4))
    assert nothing.matched_gt.tolist() == [-1] * 20
    assert nothing.labels.tolist() == [0] * 20
    assert iou_threshold_assign(LEVELS[0], torch.empty(0, 4)).labels.tolist() == [0] * 16
    no_anchors = torch.empty(0, 4, dtype=torch.float64)
    assert len(atss_assign([no_anchors], OBJECTS).labels) == 0
    assert len(iou_threshold_assign(no_anchors, OBJECTS).labels) == 0
    tiny = torch.tensor([[15.995, 15.995, 16.005, 16.005]], dtype=torch.float64)
    assert (atss_assign(LEVELS, tiny).matched_gt >= 0).sum() == 0


def test_losses_without_objects_have_a_gradient():
    """An image without objects should teach the background, and nothing about boxes or their centres."""
    anchors = torch.cat(LEVELS)
    found = atss_assign(LEVELS, torch.empty(0, 4, dtype=torch.float64))
    positive = found.matched_gt >= 0
    logits = torch.zeros(20, dtype=torch.float64, requires_grad=True)
    boxes = anchors.clone().requires_grad_()
    of_boxes = generalized_box_iou_loss(boxes[positive], torch.empty(0, 4, dtype=torch.float64))
    weights = centerness_targets(anchors[positive], torch.empty(0, 4, dtype=torch.float64))
    (sigmoid_focal_loss(logits, positive).sum() + (of_boxes * weights).sum()).backward()
    assert bool((logits.grad > 0).all())
    assert not boxes.grad.any()


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_the_order_of_anchors_does_not_matter(seed):
    """With distances all different, permuting the anchors of a level should permute what they are given."""
    level, objects = some_objects(30, seed), some_objects(4, seed + 1)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(seed))
    found, other = atss_assign([level, LEVELS[1]], objects), atss_assign([level[order], LEVELS[1]], objects)
    assert torch.equal(other.matched_gt[:30], found.matched_gt[:30][order])
    assert torch.equal(other.matched_gt[30:], found.matched_gt[30:])


def test_fixed_cuts():
    """Overlaps should be cut at both thresholds, and every object have its best anchor where that is asked for."""
    anchors = torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 9], [20, 20, 24, 24], [40, 40, 44, 44]])
    objects = torch.tensor([[0.0, 0, 4, 4], [21, 21, 30, 30]])
    strict = iou_threshold_assign(anchors, objects, torch.tensor([3, 7]), low_quality=False)
    assert strict.matched_gt.tolist() == [0, -2, -1, -1]
    assert strict.labels.tolist() == [3, -1, 0, 0]
    kind = iou_threshold_assign(anchors, objects, torch.tensor([3, 7]))
    assert kind.matched_gt.tolist() == [0, -2, 1, -1]
    assert kind.labels.tolist() == [3, -1, 7, 0]


def test_thresholds_of_any_scores():
    """Columns should have their own mean and deviation, masked entries none; of nothing no score should pass."""
    scores = np.array([[0.2, 0.5, 1.0], [0.4, 9.0, 1.0], [0.6, 9.0, 1.0]])
    mask = np.array([[1, 1, 0], [1, 0, 0], [1, 0, 0]], dtype=bool)
    assert adaptive_threshold(scores, mask=mask).tolist() == pytest.approx([0.6, 0.5, math.inf])
    assert adaptive_threshold(scores, mode="mean").tolist() == pytest.approx([0.4, 18.5 / 3, 1.0])
    assert adaptive_threshold(scores, n_std=2.0)[0] == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: atss_assign([], OBJECTS), "anchors_per_level must hold at least one level"),
        (lambda: atss_assign(LEVELS, OBJECTS, topk=0), "topk must be at least 1"),
        (lambda: atss_assign(LEVELS, OBJECTS.flip(1)), "gt_boxes must have x1 < x2 and y1 < y2: row 0"),
        (lambda: atss_assign(LEVELS, OBJECTS * math.nan), "gt_boxes must be finite"),
        (lambda: atss_assign(LEVELS, OBJECTS, [1]), "gt_labels must have one entry per object: 2, got 1"),
        (lambda: atss_assign(LEVELS, OBJECTS, [0, 1]), "gt_labels must be from 1 on"),
        (lambda: atss_assign([LEVELS[0].flip(1)], OBJECTS), "anchors_per_level must have x1 < x2"),
        (lambda: iou_threshold_assign(LEVELS[0], OBJECTS, negative=0.6), "0 <= negative <= positive <= 1 must hold"),
        (lambda: adaptive_threshold(torch.ones(3)), "scores must be \\(candidates, queries\\)"),
        (lambda: centerness_targets(OBJECTS, OBJECTS[:1]), "boxes must have the shape of anchors"),
    ],
)
def test_bad_input_is_refused(call, message):
    """Each mistake should be answered in a line that names the argument."""
    with pytest.raises(ValueError, match=message):
        call()


def test_integer_boxes_are_refused():
    """Integers would be rounded in silence somewhere; they should be refused by type."""
    with pytest.raises(TypeError, match="gt_boxes must be float"):
        atss_assign(LEVELS, OBJECTS.long())
