"""The fixed classifier: corners of a regular simplex, and which class has which."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tamis import checks
from tamis.contrastive import Reduction, info_nce


def d_simplex(num_classes: int, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Tensor:
    """The corners of a regular simplex around the origin: unit rows, every two at the cosine ``-1 / (K - 1)``.

    The fixed classifier of d-Simplex-HOC (arXiv:2405.02581): identity and one row of ``(1 - sqrt(K)) / (K - 1)``,
    centred, rows of length one. The rows sum to zero.

    Args:
        num_classes: K, at least 2.
        dtype: of the result; None is torch's default.
        device: of the result.

    Returns:
        (K, K - 1) float.

    Raises:
        ValueError: fewer than two classes.

    Example:
        >>> d_simplex(3)
        tensor([[ 0.9659, -0.2588],
                [-0.2588,  0.9659],
                [-0.7071, -0.7071]])
    """
    checks.at_least("num_classes", num_classes, 2)
    d = num_classes - 1
    last = torch.full((1, d), (1 - (1 + d) ** 0.5) / d, dtype=torch.float64)
    corners = torch.cat([torch.eye(d, dtype=torch.float64), last])
    corners -= corners.mean(0)
    corners /= torch.linalg.vector_norm(corners, dim=1, keepdim=True)
    return corners.to(dtype=dtype or torch.get_default_dtype(), device=device)


class DSimplexClassifier(nn.Module):
    """A classifier that never learns: logits are inner products of features with the corners of a simplex.

    The classifier of d-Simplex-HOC (arXiv:2405.02581), without bias, temperature or normalisation of the features: on
    unit features alone the loss could not fall. Corners without a class yet take part in the softmax. Features must
    have K - 1 dimensions; end the backbone with ``nn.Linear(width, K - 1, bias=False)`` where it has another width.

    Args:
        num_classes: K, corners kept ready, more than there are classes today; 1,024 in the official code.
        class_map: (c,) the corner of each label, no corner twice; None gives label i corner i. It must be the same for
            all versions, so it is saved in ``state_dict`` with the corners.

    Raises:
        ValueError: fewer than two corners, a corner given twice or out of range.

    Example:
        >>> classifier = DSimplexClassifier(4)
        >>> round(classifier.loss(classifier.weight, torch.arange(4)).item(), 6)
        0.582658
    """

    weight: Tensor
    class_map: Tensor

    def __init__(self, num_classes: int, class_map: Sequence[int] | Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("weight", d_simplex(num_classes))
        corners = torch.arange(num_classes) if class_map is None else torch.as_tensor(class_map)
        checks.require(
            corners.ndim == 1 and len(corners) > 0 and corners.dtype == torch.int64,
            f"class_map must be (c,) integers: got {tuple(corners.shape)} {corners.dtype}.",
        )
        _in_range("class_map", corners, num_classes, "the corners")
        twice = len(corners) - len(set(corners.tolist()))
        checks.require(twice == 0, f"class_map must give every label its own corner: {twice} labels share one.")
        self.register_buffer("class_map", corners.clone())

    def forward(self, features: Tensor) -> Tensor:
        """Logits of all corners.

        Args:
            features: (b, K - 1) float, not normalised.

        Returns:
            (b, K) in the dtype of the features.

        Raises:
            ValueError: features of another width.
        """
        self._check(features)
        return features @ self.weight.to(features.dtype).T

    def corners(self, labels: Tensor) -> Tensor:
        """The corner of each label.

        Args:
            labels: (b,) int64.

        Returns:
            (b,) int64.

        Raises:
            ValueError: a label without a corner.
        """
        checks.require(
            labels.ndim == 1 and labels.dtype == torch.int64,
            f"labels must be (b,) int64: got {tuple(labels.shape)} {labels.dtype}.",
        )
        _in_range("labels", labels, len(self.class_map), "the labels that class_map knows")
        return self.class_map[labels]

    def loss(self, features: Tensor, labels: Tensor, *, reduction: Reduction = "mean") -> Tensor:
        """Cross-entropy of each label's corner over all corners.

        Args:
            features: (b, K - 1) float, not normalised.
            labels: (b,) int64.
            reduction: "mean", "sum" or "none".

        Returns:
            scalar, or (b,) for "none".

        Raises:
            ValueError: features of another width, a label without a corner.
        """
        self._check(features)
        checks.same_length("labels", labels, "features", features)
        return info_nce(
            features,
            self.weight.to(features.dtype),
            positive_columns=self.corners(labels),
            temperature=1.0,
            metric="dot",
            reduction=reduction,
        )

    def _check(self, features: Tensor) -> None:
        d = self.weight.shape[1]
        checks.matrix("features", features)
        checks.require(
            features.shape[1] == d,
            f"features must have {d} columns for {d + 1} corners: got shape {tuple(features.shape)}; end the backbone "
            f"with nn.Linear({features.shape[1]}, {d}, bias=False).",
        )


def _in_range(name: str, values: Tensor, stop: int, what: str) -> None:
    low, high = (int(values.min()), int(values.max())) if len(values) else (0, 0)
    checks.require(0 <= low and high < stop, f"{name} must lie in 0..{stop - 1}, {what}: got {low}..{high}.")
