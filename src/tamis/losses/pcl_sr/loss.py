"""The losses: a restored image against positives and negatives in feature space, and the discriminator's own loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from tamis import checks
from tamis.contrastive import contrastive_loss, to_logits, unit_rows

Variant = Literal["infonce", "lmcl", "l1_ratio"]


def pixel_cosine(a: Tensor, b: Tensor) -> Tensor:
    """The mean over pixels of the cosine between channel vectors.

    The similarity of arXiv:2111.13924, section III.

    Args:
        a: (..., c, h, w) float, feature maps.
        b: likewise, of a shape that broadcasts against ``a``.

    Returns:
        (...), in [-1, 1].

    Example:
        >>> pixel_cosine(torch.tensor([[[1.0]], [[0.0]]]), torch.tensor([[[1.0]], [[1.0]]]))
        tensor(0.7071)
    """
    one, other = unit_rows(a.movedim(-3, -1)), unit_rows(b.movedim(-3, -1))
    return (one * other).sum(-1).mean((-2, -1))


def restoration_info_nce(
    sr_feats: Sequence[Tensor],
    pos_feats: Sequence[Tensor],
    neg_feats: Sequence[Tensor],
    *,
    layers: Sequence[int] | None = None,
    variant: Variant = "infonce",
    temperature: float = 1.0,
    epsilon: float = 3e-7,
) -> Tensor:
    """The contrastive loss of restored images, averaged over positives, images and layers.

    The contrastive loss of arXiv:2111.13924, section III. Positives and negatives are detached. When not to use: where
    PSNR is all that counts; the loss pays for high frequencies with it.

    Args:
        sr_feats: one (b, c, h, w) per layer, features of the restored images, with gradient.
        pos_feats: one (p, b, c, h, w) per layer.
        neg_feats: one (m, b, c, h, w) per layer.
        layers: which layers count, None for all.
        variant: "infonce"; "lmcl", without the positive in the denominator; or "l1_ratio", the distance to the positive
            over that to each negative, averaged.
        temperature: divides the similarities; the paper has none, which is 1.
        epsilon: added to the lower distance of "l1_ratio".

    Returns:
        scalar.

    Raises:
        ValueError: a layer out of range, shapes that do not fit, an unknown variant.

    Example:
        >>> same = torch.ones(1, 2, 2, 2)
        >>> round(float(restoration_info_nce([same], [same[None]], [same.expand(3, 1, 2, 2, 2)])), 4)  # log 4
        1.3863
    """
    checks.one_of("variant", variant, ("infonce", "lmcl", "l1_ratio"))
    checks.positive("temperature", temperature)
    checks.at_least("epsilon", epsilon, 0.0)
    checks.require(len(sr_feats) > 0, "sr_feats must hold at least one layer: got none.")
    checks.same_length("pos_feats", pos_feats, "sr_feats", sr_feats)
    checks.same_length("neg_feats", neg_feats, "sr_feats", sr_feats)
    chosen = range(len(sr_feats)) if layers is None else layers
    checks.require(len(chosen) > 0, "layers must name at least one layer: got none.")
    losses = []
    for layer in chosen:
        checks.require(
            0 <= layer < len(sr_feats), f"layers must lie in 0..{len(sr_feats) - 1}, the features: got {layer}."
        )
        sr, pos, neg = sr_feats[layer], pos_feats[layer].detach(), neg_feats[layer].detach()
        for name, others in (("pos_feats", pos), ("neg_feats", neg)):
            checks.require(
                sr.ndim == 4 and others.ndim == 5 and others.shape[1:] == sr.shape and len(others) > 0,
                f"{name} must be (n, *{tuple(sr.shape)}) at layer {layer}, with n >= 1: got {tuple(others.shape)}.",
            )
        if variant == "l1_ratio":
            near, far = ((others - sr).abs().mean((2, 3, 4)) for others in (pos, neg))
            losses.append((near[:, None] / (far[None] + epsilon)).mean())
            continue
        positive = to_logits(pixel_cosine(sr, pos), temperature).flatten()
        negative = to_logits(pixel_cosine(sr, neg), temperature).T.repeat(len(pos), 1)
        losses.append(contrastive_loss(positive, [(negative, None)], positive_in_denominator=variant == "infonce"))
    return torch.stack(losses).mean()


def dual_contrastive_loss(real: Tensor, fake: Tensor) -> Tensor:
    """The discriminator's loss: each real against all fakes, and each fake, with signs turned, against all reals.

    The discriminator loss "ContrasD" of the official code of arXiv:2111.13924.

    Args:
        real: (r,) float, scores of real images.
        fake: (f,) float, scores of restored images.

    Returns:
        scalar.

    Raises:
        ValueError: when either is empty or not one-dimensional.

    Example:
        >>> round(float(dual_contrastive_loss(torch.tensor([2.0, 1.0]), torch.tensor([-1.0, 0.0]))), 6)
        0.577452
    """
    for name, scores in (("real", real), ("fake", fake)):
        checks.require(
            scores.ndim == 1 and len(scores) > 0,
            f"{name} must be (n,) scores, at least one: got shape {tuple(scores.shape)}.",
        )
    first = contrastive_loss(real, [(fake.expand(len(real), -1), None)])
    return first + contrastive_loss(-fake, [((-real).expand(len(fake), -1), None)])
