"""Pixel hardness: a learned map says how much each element of a dense prediction counts.

Some pixels are hard, at edges and on thin things, and the momentary loss is a noisy witness of which. A side branch,
fed with detached features, learns a positive map by maximising the loss that the map weighs, while the model minimises
it. As a function of the image the map is steadier than the loss, and its sigmoid above a floor keeps every weight
within a fixed ratio of every other. The branch is thrown away after training. Nothing here knows of images: any losses
with any features will do, tokens of a text for instance.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tamis import checks
from tamis.method import Method

METHOD = Method(
    title="Not All Pixels Are Equal: Learning Pixel Hardness for Semantic Segmentation",
    paper="arXiv:2305.08462",
    year=2023,
    code="Menoly-xin/Hardness-Level-Learning",
    claim="The learned map is high on edges and thin things, steadier than the loss, and costs no accuracy.",
    peers=("mmsegmentation OHEMPixelSampler", "torchvision.ops.sigmoid_focal_loss"),
    deviations=(
        "elements that are masked take no part in the normaliser; normalize_ignored=True counts them as the code does",
        'normalize_over="sample", inputs of one dimension and tokens',
    ),
)

_MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}


class HardnessLosses(NamedTuple):
    """What ``hardness_weighted_loss`` gives; a training step minimises ``task + hardness``.

    Args:
        task: scalar, the weighted loss; its gradient reaches the losses alone.
        hardness: scalar, the branch's; its gradient reaches the hardness logits alone.
        weights: shaped like the losses, detached, adding up to 1.
    """

    task: Tensor
    hardness: Tensor
    weights: Tensor


def hardness_weighted_loss(
    losses: Tensor,
    hardness_logits: Tensor,
    *,
    floor: float = 0.1,
    hardness_weight: float = 0.01,
    mask: Tensor | None = None,
    normalize_over: Literal["batch", "sample"] = "batch",
    normalize_ignored: bool = False,
    check: bool = False,
) -> HardnessLosses:
    """Weigh losses by a map, and give the map a loss of its own (equations 3 to 5 of arXiv:2305.08462).

    With ``h = sigmoid(S) + floor`` and ``H = h / sum(h)``: ``task = sum(stop(H) * l)`` and
    ``hardness = -hardness_weight * sum(H * stop(l))``. Weights differ by ``(1 + floor) / floor`` at most, as a factor.
    On several ranks each normalises over its own batch.

    Args:
        losses: (b, ...) float, loss of every element, none negative, in any unit.
        hardness_logits: shaped like losses, float.
        floor: what every element counts at the least.
        hardness_weight: of the map's own loss.
        mask: shaped like losses, bool: elements that count; the others take no loss and no weight.
        normalize_over: whether weights add up to 1 over the batch, or each sample has an equal share of it.
        normalize_ignored: let elements that do not count take weight all the same, as the official code does.
        check: look for losses that are negative or NaN, which costs a pass.

    Returns:
        task, hardness, weights; zeros that carry a gradient where no element counts.

    Raises:
        ValueError: for shapes that differ, floor <= 0, or, with check, a loss that is negative or NaN.

    Example:
        >>> logits, losses = torch.tensor([[0.0, 2.0], [-1.0, -3.0]]), torch.tensor([[0.2, 1.5], [0.1, 0.05]])
        >>> task, hardness, weights = hardness_weighted_loss(losses, logits)
        >>> round(task.item(), 4), round(hardness.item(), 6), [round(x, 4) for x in weights.flatten().tolist()]
        (0.7798, -0.007798, [0.2861, 0.4677, 0.1759, 0.0703])
    """
    checks.positive("floor", floor)
    checks.at_least("hardness_weight", hardness_weight, 0.0)
    checks.one_of("normalize_over", normalize_over, ("batch", "sample"))
    checks.require(losses.ndim > 0, "losses must have one entry per element: got a scalar; reduce nothing.")
    checks.same_shape("hardness_logits", hardness_logits, "losses", losses)
    counted = torch.ones_like(losses, dtype=torch.bool)
    if mask is not None:
        checks.same_shape("mask", mask, "losses", losses)
        counted = mask.to(losses.device, torch.bool)
    if check:
        bad = int((~(losses.detach()[counted] >= 0)).sum())
        checks.require(bad == 0, f"losses must be at least 0: {bad} of {int(counted.sum())} are negative or NaN.")
    with torch.autocast(losses.device.type, enabled=False):
        exact = torch.promote_types(losses.dtype, torch.float32)
        weights = _weights(hardness_logits.to(exact), counted, floor, normalize_over, normalize_ignored)
        plain = torch.where(counted, losses, losses.new_zeros(())).to(exact)
        task = (weights.detach() * plain).sum()
        hardness = -hardness_weight * (weights * plain.detach()).sum()
    return HardnessLosses(task.to(losses.dtype), hardness.to(losses.dtype), weights.detach().to(losses.dtype))


class HardnessHead(nn.Module):
    """A head with one output per element: two layers, as the heads of the tasks have.

    Args:
        channels: of the features.
        hidden: channels between the two layers.
        kind: "tokens" for features (b, n, channels), "1d" for (b, channels, n), "2d" for (b, channels, h, w).

    Returns:
        logits (b, n), or (b, h, w) for "2d".

    Raises:
        ValueError: for features of another shape.

    Example:
        >>> HardnessHead(8, kind="2d")(torch.zeros(2, 8, 5, 6)).shape
        torch.Size([2, 5, 6])
    """

    def __init__(self, channels: int, *, hidden: int = 64, kind: Literal["tokens", "1d", "2d"] = "2d") -> None:
        super().__init__()
        checks.one_of("kind", kind, ("tokens", "1d", "2d"))
        self.channels, self.kind = channels, kind
        layers: tuple[nn.Module, nn.Module]
        if kind == "tokens":
            layers = nn.Linear(channels, hidden), nn.Linear(hidden, 1)
        elif kind == "1d":
            layers = nn.Conv1d(channels, hidden, 3, padding=1), nn.Conv1d(hidden, 1, 1)
        else:
            layers = nn.Conv2d(channels, hidden, 3, padding=1), nn.Conv2d(hidden, 1, 1)
        self.layers = nn.Sequential(layers[0], nn.ReLU(), layers[1])

    def forward(self, features: Tensor) -> Tensor:
        """Score every element.

        Args:
            features: (b, n, channels), (b, channels, n) or (b, channels, h, w) float, by kind.

        Returns:
            logits (b, n), or (b, h, w).
        """
        place, dims = (2, 3) if self.kind == "tokens" else (1, 4 if self.kind == "2d" else 3)
        checks.require(
            features.ndim == dims and features.shape[place] == self.channels,
            f"features of kind {self.kind!r} must have {dims} dimensions and {self.channels} channels in dimension "
            f"{place}: got shape {tuple(features.shape)}.",
        )
        logits: Tensor = self.layers(features)
        return logits.squeeze(place)


class HardnessLevelLoss(nn.Module):
    """The task's loss weighed by a map that learns along: one scalar to minimise (equation 6 of arXiv:2305.08462).

    The head sees detached features, so it cannot bend the backbone to its purpose. Give its parameters to the optimiser
    together with the model's. Not for accuracy alone: in the claim mean IoU is that of plain cross-entropy, and better
    only where a tenth of the labels is wrong.

    Args:
        head: maps features to logits of shape (b, ...) or (b, 1, ...); ``HardnessHead`` is one.
        floor: as in ``hardness_weighted_loss``.
        hardness_weight: likewise.
        normalize_over: likewise.
        normalize_ignored: likewise.

    Returns:
        scalar, task plus hardness.

    Raises:
        ValueError: for logits that cannot be resized to the losses.

    Example:
        >>> loss = HardnessLevelLoss(HardnessHead(4, kind="tokens"))
        >>> round(loss(torch.zeros(2, 3, 4), torch.ones(2, 3)).item(), 4)
        0.99
    """

    def __init__(
        self,
        head: nn.Module,
        *,
        floor: float = 0.1,
        hardness_weight: float = 0.01,
        normalize_over: Literal["batch", "sample"] = "batch",
        normalize_ignored: bool = False,
    ) -> None:
        super().__init__()
        self.head = head
        self.floor, self.hardness_weight = floor, hardness_weight
        self.normalize_over: Literal["batch", "sample"] = normalize_over
        self.normalize_ignored = normalize_ignored

    def logits(self, features: Tensor | Sequence[Tensor], size: Sequence[int]) -> Tensor:
        """The hardness logits, interpolated where the features are coarser or finer than the losses.

        Args:
            features: one tensor or several levels, as the head takes them; detached here.
            size: (b, ...), shape of the losses.

        Returns:
            logits of that shape.
        """
        inputs = features.detach() if isinstance(features, Tensor) else [level.detach() for level in features]
        found: Tensor = self.head(inputs)
        wanted = tuple(size)
        if found.ndim == len(wanted) + 1 and found.shape[1] == 1:
            found = found.squeeze(1)
        if tuple(found.shape) == wanted:
            return found
        checks.require(
            found.ndim == len(wanted) and len(found) == wanted[0] and found.ndim - 1 in _MODES,
            f"the head must give logits (b, ...) or (b, 1, ...) for losses {wanted}: got {tuple(found.shape)}.",
        )
        mode = _MODES[found.ndim - 1]
        return F.interpolate(found[:, None], wanted[1:], mode=mode, align_corners=False)[:, 0]

    def forward(self, features: Tensor | Sequence[Tensor], losses: Tensor, mask: Tensor | None = None) -> Tensor:
        """Weigh the losses and add the map's own.

        Args:
            features: one tensor or several levels, as the head takes them.
            losses: (b, ...) float, loss of every element.
            mask: shaped like losses, bool: elements that count.

        Returns:
            scalar to minimise.
        """
        found = hardness_weighted_loss(
            losses,
            self.logits(features, losses.shape),
            floor=self.floor,
            hardness_weight=self.hardness_weight,
            mask=mask,
            normalize_over=self.normalize_over,
            normalize_ignored=self.normalize_ignored,
        )
        return found.task + found.hardness


def _weights(logits: Tensor, counted: Tensor, floor: float, normalize_over: str, normalize_ignored: bool) -> Tensor:
    """Weights that add up to 1 over all elements that are normalised over; 0 where nothing is."""
    levels = torch.sigmoid(logits) + floor
    if not normalize_ignored:
        levels = levels * counted
    if normalize_over == "batch":
        return levels / levels.sum().clamp(min=torch.finfo(levels.dtype).tiny)
    sums = levels.flatten(1).sum(1) if levels.ndim > 1 else levels
    share = levels / sums.clamp(min=torch.finfo(levels.dtype).tiny).view(-1, *[1] * (levels.ndim - 1))
    return share / (sums > 0).sum().clamp(min=1)
