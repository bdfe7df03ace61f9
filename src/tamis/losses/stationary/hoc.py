"""The contrastive term: a new model's feature near the old model's feature of the same item."""

from __future__ import annotations

import warnings
from typing import Literal

import torch
from torch import Tensor, nn

from tamis import checks
from tamis.contrastive import drop, info_nce

SameClass = Literal["exclude", "zero_logit"]


def hoc_loss(
    new_features: Tensor,
    old_features: Tensor,
    labels: Tensor,
    scale: float = 10.0,
    same_class: SameClass = "exclude",
) -> Tensor:
    """Draw each new feature to the old model's feature of its item, away from those of other classes.

    Equation 4 of d-Simplex-HOC (arXiv:2405.02581): ``-S_ii + log sum_j exp S_ij`` over items j of other classes, with
    ``S_ij`` the scaled cosine of old feature i and new feature j; the positive is not in the sum, so the loss may be
    negative. The total loss of a new version is 0.1 times the classifier's loss plus 0.9 times this one; the first
    version has the classifier's loss alone.

    Args:
        new_features: (b, d) float.
        old_features: (b, d) float, the frozen old model's features of the same items; takes no gradient.
        labels: (b,) int.
        scale: multiplies the cosines; 10 in the paper.
        same_class: what items of the same class are in the sum: "exclude" leaves them out, "zero_logit" counts each,
            the item itself too, as ``exp 0``, as the official code does.

    Returns:
        scalar, the mean over items; an item without another class in the batch counts as 0 under "exclude".

    Raises:
        ValueError: shapes that do not fit, scale not positive, unknown same_class.

    Warns:
        UserWarning: when the batch holds one class only, under "exclude".

    Example:
        >>> old = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
        >>> new = torch.tensor([[1.0, 0.2], [-0.2, 1.0], [0.5, 1.0]])
        >>> round(hoc_loss(new, old, torch.tensor([0, 1, 0])).item(), 6)
        -5.522469
    """
    checks.one_of("same_class", same_class, ("exclude", "zero_logit"))
    checks.matrix("new_features", new_features)
    checks.same_shape("old_features", old_features, "new_features", new_features)
    checks.require(labels.ndim == 1, f"labels must be (b,), one per row: got shape {tuple(labels.shape)}.")
    checks.same_length("labels", labels, "new_features", new_features)
    same = labels[:, None] == labels[None, :]
    zero_logit = same_class == "zero_logit"
    if not zero_logit and bool(same.all()):
        # With two classes in a batch every item has one of the other class.
        warnings.warn(
            "labels hold one class only, so the loss of the batch is 0: mix classes in a batch.", stacklevel=2
        )
    # The core keeps the positive out of its block; the official code's zero stands in its place.
    itself = [(new_features.new_zeros(len(labels), 1), None)] if zero_logit else []
    return info_nce(
        old_features.detach(),
        new_features,
        scale=scale,
        log_weights=drop(same, dtype=torch.promote_types(new_features.dtype, torch.float32)),
        blocks=itself,
        positive_in_denominator=False,
        mask="zero" if zero_logit else "-inf",
    )


class HOCLoss(nn.Module):
    """``hoc_loss`` with its settings: equation 4 of d-Simplex-HOC (arXiv:2405.02581).

    Args:
        scale: multiplies the cosines; 10 in the paper.
        same_class: "exclude" or "zero_logit", see ``hoc_loss``.

    Raises:
        ValueError: scale not positive, unknown same_class.

    Example:
        >>> loss = HOCLoss(scale=1.0)
        >>> round(loss(torch.eye(2), torch.eye(2), torch.tensor([0, 1])).item(), 6)
        -1.0
    """

    def __init__(self, scale: float = 10.0, *, same_class: SameClass = "exclude") -> None:
        super().__init__()
        checks.positive("scale", scale)
        checks.one_of("same_class", same_class, ("exclude", "zero_logit"))
        self.scale = scale
        self.same_class: SameClass = same_class

    def forward(self, new_features: Tensor, old_features: Tensor, labels: Tensor) -> Tensor:
        """The loss of a batch.

        Args:
            new_features: (b, d) float.
            old_features: (b, d) float.
            labels: (b,) int.

        Returns:
            scalar.
        """
        return hoc_loss(new_features, old_features, labels, self.scale, self.same_class)
