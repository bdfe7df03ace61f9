"""ATSS: who gets positive anchors, and what a small detector makes of it.

Assignment: 600 objects of 16 to 400 pixels and aspects 1/3 to 3 on a 512 x 512 canvas, each assigned alone to square
anchors of five levels: how many have no positive at all, and how evenly positives are shared out. Training: a small
detector with three levels of anchors learns rectangles of 5 to 40 pixels in noise on 64 x 64 images, with ATSS and with
the fixed cut (0.5 and 0.4, every object keeps its best anchor); average precision at overlap 0.5 on fresh images.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tamis.boxes import box_iou, generalized_box_iou_loss, sigmoid_focal_loss
from tamis.claim import Claim, Gate
from tamis.targets import atss_assign, centerness_targets, iou_threshold_assign

CLAIM = Claim(
    metric="share of objects with a positive anchor",
    method="covered_atss",
    baseline="covered_fixed",
    at_least=0.4,
    seeds=3,
    every_seed=True,
    gates=(
        Gate(says="no object is left out", higher="covered_atss", at_least=1.0, every_seed=True),
        Gate(says="positives are at least 0.15 of the candidates", higher="share_of_candidates", at_least=0.15),
        Gate(says="and at most 0.25", higher="quarter", lower="share_of_candidates"),
        Gate(says="their number varies by less than 0.4 of its mean", higher="two_fifths", lower="variation_atss"),
        Gate(says="the detector is no worse", higher="ap50_atss", lower="ap50_fixed"),
    ),
)
SIDE, STRIDES, SCALE = 64, (4, 8, 16), 2.5
IMAGES, TESTS, STEPS, BATCH = 400, 200, 300, 16


def grid(side: int, stride: int, size: float) -> Tensor:
    at = (torch.arange(side // stride) + 0.5) * stride
    y, x = (part.flatten() for part in torch.meshgrid(at, at, indexing="ij"))
    return torch.stack([x - size / 2, y - size / 2, x + size / 2, y + size / 2], 1)


def objects(count: int, canvas: int, low: float, high: float, rng: torch.Generator) -> Tensor:
    """Boxes of log-uniform size and aspect, anywhere inside."""
    draw = torch.rand(count, 4, generator=rng)
    size, aspect = low * (high / low) ** draw[:, :1], 3.0 ** (2 * draw[:, 1:2] - 1)
    sides = torch.cat([size * aspect.sqrt(), size / aspect.sqrt()], 1).clamp(max=0.9 * canvas)
    corner = draw[:, 2:] * (canvas - sides)
    return torch.cat([corner, corner + sides], 1)


def assignment(seed: int) -> dict[str, float]:
    levels = [grid(512, stride, 8 * stride) for stride in (8, 16, 32, 64, 128)]
    boxes = objects(600, 512, 16, 400, torch.Generator().manual_seed(seed))
    counts = {"atss": [], "fixed": []}
    for box in boxes:
        counts["atss"].append(int((atss_assign(levels, box[None]).matched_gt >= 0).sum()))
        fixed = iou_threshold_assign(torch.cat(levels), box[None], low_quality=False)
        counts["fixed"].append(int((fixed.matched_gt >= 0).sum()))
    found = {}
    for name, count in counts.items():
        values = torch.tensor(count, dtype=torch.float64)
        found[f"covered_{name}"] = float((values > 0).double().mean())
        found[f"variation_{name}"] = float(values.std() / values.mean())
    return found | {"share_of_candidates": float(torch.tensor(counts["atss"]).double().mean() / 45)}


def scenes(count: int, rng: torch.Generator) -> tuple[Tensor, list[Tensor]]:
    """Noisy images with one to four bright rectangles, and their boxes."""
    images, boxes = 0.5 * torch.randn(count, 1, SIDE, SIDE, generator=rng), []
    for image in images:
        found = objects(int(torch.randint(1, 5, (1,), generator=rng)), SIDE, 5, 40, rng).round()
        found[:, 2:] = torch.maximum(found[:, 2:], found[:, :2] + 3)
        for x1, y1, x2, y2 in found.int().tolist():
            image[0, y1:y2, x1:x2] += 1.0
        boxes.append(found)
    return images, boxes


class Detector(nn.Module):
    """Three levels of features; heads that the levels share: object, box, centre-ness."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            stem = [nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU()]
            self.levels = nn.ModuleList([nn.Sequential(*stem, nn.Conv2d(32, 32, 3, 1, 1), nn.ReLU())])
            self.levels.extend(nn.Sequential(nn.Conv2d(32, 32, 3, 2, 1), nn.ReLU()) for _ in STRIDES[1:])
            self.tower = nn.Sequential(nn.Conv2d(32, 32, 3, 1, 1), nn.ReLU())
            self.head = nn.Conv2d(32, 6, 3, 1, 1)
        with torch.no_grad():
            self.head.bias[0] = -4.595  # 1 % at first

    def forward(self, images: Tensor) -> Tensor:
        """(b, anchors, 6): logit, box relative to its anchor, centre-ness."""
        found, features = [], images
        for level in self.levels:
            features = level(features)
            found.append(self.head(self.tower(features)).flatten(2).transpose(1, 2))
        return torch.cat(found, 1)


ANCHORS = [grid(SIDE, stride, SCALE * stride) for stride in STRIDES]
FLAT = torch.cat(ANCHORS)


def decoded(deltas: Tensor, anchors: Tensor) -> Tensor:
    size, centre = anchors[:, 2:] - anchors[:, :2], (anchors[:, 2:] + anchors[:, :2]) / 2
    middle = centre + deltas[..., :2] * size
    half = size * deltas[..., 2:4].clamp(max=3).exp() / 2
    return torch.cat([middle - half, middle + half], -1)


def loss_of(output: Tensor, matched: Tensor, boxes: list[Tensor]) -> Tensor:
    """Focal, generalized IoU weighed by centre-ness, and centre-ness, as in the paper."""
    counted, positive = matched != -2, matched >= 0
    total = positive.sum().clamp(min=1)
    focal = sigmoid_focal_loss(output[..., 0], positive.float())[counted].sum() / total
    image, anchor = positive.nonzero().unbind(1)
    target = torch.stack([boxes[i][g] for i, g in zip(image.tolist(), matched[image, anchor].tolist(), strict=True)])
    central = centerness_targets(FLAT[anchor], target)
    overlap = generalized_box_iou_loss(decoded(output[image, anchor, 1:5], FLAT[anchor]), target)
    # An anchor of a fixed cut may have its centre outside, where centre-ness is 0.
    weight = central.clamp(min=0.01)
    boxed = 2 * (overlap * weight).sum() / weight.sum()
    centred = F.binary_cross_entropy_with_logits(output[image, anchor, 5], central, reduction="sum") / total
    return focal + boxed + centred


def average_precision(model: nn.Module, images: Tensor, boxes: list[Tensor], threshold: float = 0.0) -> float:
    """AP at overlap 0.5, all points, after suppression at 0.6; below the threshold there is no object."""
    with torch.no_grad():
        output = model(images)
    scores = (output[..., 0].sigmoid() * output[..., 5].sigmoid()).sqrt()
    hits, certain = [], []
    for score, raw, truth in zip(scores, output, boxes, strict=True):
        order = score.argsort(descending=True)[:100]
        order = order[raw[order, 0].sigmoid() >= threshold]
        found, free = decoded(raw[order, 1:5], FLAT[order]), torch.ones(len(truth), dtype=torch.bool)
        overlap, kept = box_iou(found[:, None], found[None]), []
        for place in range(len(order)):
            if not kept or float(overlap[place, kept].max()) <= 0.6:
                kept.append(place)
        against = box_iou(found[:, None], truth[None])
        for place in kept:
            best = int(torch.where(free, against[place], -1.0).argmax())
            hit = bool(free[best]) and float(against[place, best]) >= 0.5
            free[best] &= not hit
            hits.append(hit)
            certain.append(float(score[order[place]]))
    right = torch.tensor(hits)[torch.tensor(certain).argsort(descending=True)].double().cumsum(0)
    precision = right / torch.arange(1, len(right) + 1)
    recall = right / sum(len(truth) for truth in boxes)
    envelope = precision.flip(0).cummax(0).values.flip(0)
    return float((envelope * torch.diff(recall, prepend=recall.new_zeros(1))).sum())


def detect(kind: str, seed: int) -> float:
    rng = torch.Generator().manual_seed(seed)
    (images, boxes), tests = scenes(IMAGES, rng), scenes(TESTS, rng)
    assign = {
        "atss": lambda truth: atss_assign(ANCHORS, truth),
        "fixed": lambda truth: iou_threshold_assign(FLAT, truth),
    }[kind]
    matched = torch.stack([assign(truth).matched_gt for truth in boxes])
    model = Detector(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(STEPS):
        rows = torch.randint(IMAGES, (BATCH,), generator=rng)
        loss = loss_of(model(images[rows]), matched[rows], [boxes[i] for i in rows.tolist()])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return average_precision(model, *tests)


def run(seed: int) -> dict[str, float]:
    torch.set_num_threads(1)
    found = assignment(seed) | {"quarter": 0.25, "two_fifths": 0.4}
    return found | {f"ap50_{kind}": detect(kind, seed) for kind in ("atss", "fixed")}
