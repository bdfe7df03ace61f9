"""ATSS: each object draws its own line between positive and negative anchors, from the overlaps of its neighbours.

A fixed cut on overlap starves small and elongated objects, whose best anchors never reach it. Here an object looks at
the anchors whose centres are nearest to its own, a few on every level of the pyramid, and takes the mean plus the
standard deviation of their overlaps for its threshold; positives are those above it whose centre lies inside. Whatever
its scale and shape, about a fifth of its candidates become positive. ``adaptive_threshold`` is the same idea for any
small set of candidates per query.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tamis import checks
from tamis.boxes import BACKGROUND, IGNORED, box_iou, require_boxes
from tamis.boxes import centerness as _centerness
from tamis.method import Method

METHOD = Method(
    title="Bridging the Gap Between Anchor-based and Anchor-free Detection via Adaptive Training Sample Selection",
    paper="arXiv:1912.02424",
    year=2020,
    code="sfzhang15/ATSS",
    claim="No object is left without a positive anchor, whatever its size, and a detector finds more of them.",
    peers=("mmdet.models.task_modules.assigners.ATSSAssigner",),
    deviations=(
        "anchors at equal distance are taken in their order",
        "a single candidate has standard deviation 0, so its own overlap is the threshold",
    ),
)

_BLOCK = 2**22  # distances at once


class AssignResult(NamedTuple):
    """What each anchor is to learn.

    Args:
        matched_gt: (a,) int64, row of the object, -1 for background, -2 for anchors that do not count.
        labels: (a,) int64, label of the object, 0 for background, -1 for anchors that do not count.
        iou: (a,) float, overlap with that object, 0 elsewhere.
        threshold: (g,) float, lowest overlap of a positive, per object.
        num_candidates: (g,) int64, anchors that were considered.
    """

    matched_gt: Any
    labels: Any
    iou: Any
    threshold: Any
    num_candidates: Any


def adaptive_threshold(
    scores: Any, *, mode: Literal["mean_plus_std", "mean"] = "mean_plus_std", n_std: float = 1.0, mask: Any = None
) -> Any:
    """A threshold for each column from its own scores: mean plus standard deviation (with Bessel's correction).

    Args:
        scores: (c, g) float, c candidates of g queries.
        mode: with or without the deviation.
        n_std: how many of them.
        mask: (c, g) bool, candidates that are there.

    Returns:
        (g,) float; of one candidate its own score, of none infinity.

    Raises:
        ValueError: for another shape.

    Example:
        >>> adaptive_threshold(torch.tensor([[0.2], [0.4], [0.6]])).tolist()
        [0.6000000238418579]
    """
    checks.one_of("mode", mode, ("mean_plus_std", "mean"))
    values = _tensor("scores", scores)
    checks.require(values.ndim == 2, f"scores must be (candidates, queries): got shape {tuple(values.shape)}.")
    there = torch.ones_like(values, dtype=torch.bool) if mask is None else torch.as_tensor(mask, device=values.device)
    checks.same_shape("mask", there, "scores", values)
    count = there.sum(0)
    kept = torch.where(there, values, torch.zeros_like(values))
    mean = kept.sum(0) / count.clamp(min=1)
    found = mean
    if mode == "mean_plus_std":
        spread = torch.where(there, (values - mean).square(), torch.zeros_like(values)).sum(0)
        found = mean + n_std * (spread / (count - 1).clamp(min=1)).sqrt()
    return _like(torch.where(count > 0, found, torch.full_like(found, torch.inf)), scores)


def atss_assign(
    anchors_per_level: Sequence[Any],
    gt_boxes: Any,
    gt_labels: Any = None,
    *,
    topk: int = 9,
    anchors_per_location: int = 1,
    center_eps: float = 0.01,
) -> AssignResult:
    """Match anchors to objects by thresholds of the objects' own (algorithm 1 of arXiv:1912.02424).

    Args:
        anchors_per_level: of each level of the pyramid (a_l, 4) float, in pixels.
        gt_boxes: (g, 4) float, objects; none is allowed.
        gt_labels: (g,) int from 1, 1 for all by default; 0 is the background.
        topk: candidates of an object per level, times anchors per location; fewer where a level has fewer.
        anchors_per_location: how many share a centre.
        center_eps: pixels by which an anchor's centre must lie inside the object.

    Returns:
        the assignment of all anchors, level after level, of the type of gt_boxes. An anchor that would serve several
        objects goes to the one it overlaps most.

    Raises:
        ValueError: for boxes without width or height, labels of another length or below 1, or topk < 1.

    Example:
        >>> anchors = torch.tensor([[0.0, 0, 4, 4], [4, 0, 8, 4], [8, 0, 12, 4]])
        >>> found = atss_assign([anchors], torch.tensor([[3.5, 0.0, 8.5, 4.0]]), topk=3)
        >>> found.matched_gt.tolist(), round(found.threshold.item(), 4)
        ([-1, 0, -1], 0.7338)
    """
    checks.at_least("topk", topk, 1)
    checks.at_least("anchors_per_location", anchors_per_location, 1)
    checks.require(len(anchors_per_level) > 0, "anchors_per_level must hold at least one level.")
    objects = _tensor("gt_boxes", gt_boxes)
    levels = [_tensor("anchors_per_level", level).to(objects) for level in anchors_per_level]
    for level in levels:
        require_boxes("anchors_per_level", level)
    anchors = torch.cat(levels)
    labels = _labels(gt_labels, objects)
    empty = anchors.new_zeros(0, dtype=torch.int64)
    if len(objects) == 0:
        return _result(anchors, objects, labels, empty, empty, anchors.new_zeros(0), gt_boxes)
    step = max(1, _BLOCK // max(1, len(anchors)))
    parts = [
        _candidates(levels, objects[start : start + step], topk * anchors_per_location)
        for start in range(0, len(objects), step)
    ]
    candidates = torch.cat(parts, 1)  # (c, g)
    boxes = anchors[candidates]
    overlap = box_iou(boxes, objects)
    threshold = torch.as_tensor(adaptive_threshold(overlap))
    centre = (boxes[..., :2] + boxes[..., 2:]) / 2
    inside = torch.minimum(centre - objects[:, :2], objects[:, 2:] - centre).amin(-1) > center_eps
    rows, columns = ((overlap >= threshold) & inside).nonzero().unbind(1)
    return _result(anchors, objects, labels, candidates[rows, columns], columns, threshold, gt_boxes, len(candidates))


def iou_threshold_assign(
    anchors: Any,
    gt_boxes: Any,
    gt_labels: Any = None,
    *,
    positive: float = 0.5,
    negative: float = 0.4,
    low_quality: bool = True,
) -> AssignResult:
    """Match anchors to objects by fixed cuts on overlap, as RetinaNet does: the baseline.

    Args:
        anchors: (a, 4) float.
        gt_boxes: (g, 4) float.
        gt_labels: (g,) int from 1.
        positive: overlap from which on an anchor is positive.
        negative: overlap below which it is background; those between do not count.
        low_quality: let every object have the anchors that overlap it most, however little that is.

    Returns:
        the assignment, of the type of gt_boxes.

    Raises:
        ValueError: for boxes without width or height, or cuts in the wrong order.

    Example:
        >>> anchors = torch.tensor([[0.0, 0, 4, 4], [4, 0, 8, 4]])
        >>> iou_threshold_assign(anchors, torch.tensor([[4.0, 0.0, 8.0, 3.0]])).labels.tolist()
        [0, 1]
    """
    checks.require(0 <= negative <= positive <= 1, f"0 <= negative <= positive <= 1 must hold: {negative}, {positive}.")
    objects = _tensor("gt_boxes", gt_boxes)
    places = _tensor("anchors", anchors).to(objects)
    require_boxes("anchors", places)
    labels = _labels(gt_labels, objects)
    threshold = objects.new_full((len(objects),), positive)
    empty = places.new_zeros(0, dtype=torch.int64)
    if len(objects) == 0 or len(places) == 0:
        return _result(places, objects, labels, empty, empty, threshold, gt_boxes)
    best, own = places.new_full((len(places),), -1.0), torch.zeros_like(places[:, 0], dtype=torch.int64)
    forced = torch.zeros_like(own, dtype=torch.bool)
    step = max(1, _BLOCK // len(places))
    for start in range(0, len(objects), step):
        overlap = box_iou(places[:, None], objects[start : start + step][None])
        top, which = overlap.max(1)
        own = torch.where(top > best, which + start, own)
        best = torch.maximum(best, top)
        if low_quality:
            most = overlap.amax(0)
            forced |= ((overlap == most) & (most > 0)).any(1)
    chosen = ((best >= positive) | forced).nonzero()[:, 0]
    found = _result(places, objects, labels, chosen, own[chosen], threshold, objects, len(places))
    between = (found.matched_gt == BACKGROUND) & (best >= negative)
    matched = found.matched_gt.masked_fill(between, IGNORED)
    told = found.labels.masked_fill(between, -1)
    return AssignResult(*(_like(part, gt_boxes) for part in (matched, told, *found[2:])))


def centerness_targets(anchors: Any, boxes: Any) -> Any:
    """How central the centres of positive anchors lie in their objects, which weighs their box losses.

    Args:
        anchors: (p, 4) float.
        boxes: (p, 4) float, the object of each.

    Returns:
        (p,) float in [0, 1].

    Raises:
        ValueError: for other shapes.

    Example:
        >>> centerness_targets(torch.tensor([[0.0, 1, 2, 3]]), torch.tensor([[0.0, 0, 4, 4]])).tolist()
        [0.5773502588272095]
    """
    places, objects = _tensor("anchors", anchors), _tensor("boxes", boxes)
    checks.same_shape("boxes", objects, "anchors", places)
    return _like(_centerness((places[:, :2] + places[:, 2:]) / 2, objects), boxes)


def _candidates(levels: list[Tensor], objects: Tensor, k: int) -> Tensor:
    """On every level the anchors nearest to each object, (c, g)."""
    middle = (objects[:, :2] + objects[:, 2:]) / 2
    found, offset = [], 0
    for level in levels:
        centres = (level[:, :2] + level[:, 2:]) / 2
        distance = (centres[:, None] - middle[None]).square().sum(2)
        nearest = distance.sort(stable=True, dim=0).indices[: min(k, len(level))]
        found.append(nearest + offset)
        offset += len(level)
    return torch.cat(found)


def _result(
    anchors: Tensor,
    objects: Tensor,
    labels: Tensor,
    rows: Tensor,
    columns: Tensor,
    threshold: Tensor,
    like: Any,
    candidates: int = 0,
) -> AssignResult:
    """Positive pairs as an assignment; the greatest overlap of an anchor counts, of equal ones the first object."""
    overlap = box_iou(anchors[rows], objects[columns])
    best = anchors.new_zeros(len(anchors)).scatter_reduce(0, rows, overlap, "amax")
    none = len(objects)
    own = torch.where(overlap == best[rows], columns, none)
    matched = torch.full_like(best, none, dtype=torch.int64).scatter_reduce(0, rows, own, "amin")
    background = matched == none
    matched = matched.masked_fill(background, BACKGROUND)
    told = torch.cat([labels, labels.new_zeros(1)])[matched]
    counts = torch.full_like(labels, candidates)
    return AssignResult(*(_like(part, like) for part in (matched, told, best, threshold, counts)))


def _labels(labels: Any, objects: Tensor) -> Tensor:
    if len(objects) > 0:
        require_boxes("gt_boxes", objects)
    else:
        checks.require(objects.numel() == 0, f"gt_boxes must be (g, 4) boxes: got shape {tuple(objects.shape)}.")
    if labels is None:
        return torch.ones(len(objects), dtype=torch.int64, device=objects.device)
    given = torch.as_tensor(labels, device=objects.device)
    fits = given.shape == (len(objects),)
    checks.require(fits, f"gt_labels must have one entry per object: {len(objects)}, got {given.numel()}.")
    checks.require(bool((given >= 1).all()), "gt_labels must be from 1 on: 0 is the background.")
    return given.long()


def _tensor(name: str, value: Any) -> Tensor:
    found = value if isinstance(value, Tensor) else torch.from_numpy(np.array(value))
    if not found.is_floating_point():
        raise TypeError(f"{name} must be float: got {found.dtype}.")
    return found if found.dtype == torch.float64 else found.float()


def _like(value: Tensor, source: Any) -> Any:
    """A result of the kind and float format of the input."""
    if not isinstance(source, Tensor):
        array = value.cpu().numpy()
        return array.astype(np.asarray(source).dtype) if array.dtype.kind == "f" else array
    return value.to(source.dtype) if value.is_floating_point() else value
