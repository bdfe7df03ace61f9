"""What a generator is trained for: inputs on which clones disagree, spread over all classes."""

from __future__ import annotations

import torch
from torch import Tensor

from tamis import checks

_TINY = 1e-6  # as in the predecessor's code: a class that is never predicted has a logarithm


def disagreement_loss(probs: Tensor) -> Tensor:
    """Minus the spread of the clones' predictions (DisGUIDE, the base of arXiv:2409.10643).

    ``-mean over inputs and classes of the standard deviation over clones``, with Bessel's correction; 0 where all
    clones agree.

    Args:
        probs: (b, m, k) float, what m >= 2 clones predict for b inputs.

    Returns:
        scalar, at most 0.

    Raises:
        ValueError: for another shape, or fewer than two clones.

    Example:
        >>> probs = torch.tensor([[[0.7, 0.3], [0.5, 0.5]], [[0.2, 0.8], [0.4, 0.6]]])
        >>> round(float(disagreement_loss(probs)), 6)
        -0.141421
    """
    _require_predictions(probs)
    checks.require(probs.shape[1] > 1, f"probs must come from at least 2 clones to disagree: got {probs.shape[1]}.")
    centred = probs - probs.mean(1, keepdim=True)
    squares = centred.square().sum(1) / (probs.shape[1] - 1)
    # The slope of a root at 0 is infinite: where clones agree there is no direction in which to pull them apart.
    apart = squares > 0
    return -torch.where(apart, squares.where(apart, torch.ones_like(squares)).sqrt(), squares).mean()


def diversity_loss(probs: Tensor) -> Tensor:
    """Minus the entropy of the mean prediction: ``sum_k p_k log p_k``, least where all classes come up equally often.

    Args:
        probs: (b, m, k) float, what m clones predict for b inputs.

    Returns:
        scalar, from ``-log k`` to about 0.

    Raises:
        ValueError: for another shape.

    Example:
        >>> probs = torch.tensor([[[0.7, 0.3], [0.5, 0.5]], [[0.2, 0.8], [0.4, 0.6]]])
        >>> round(float(diversity_loss(probs)), 6)
        -0.688138
    """
    _require_predictions(probs)
    mean = (probs + _TINY).mean((0, 1))
    return (mean * mean.log()).sum()


def _require_predictions(probs: Tensor) -> None:
    checks.require(
        probs.ndim == 3 and probs.numel() > 0,
        f"probs must be (inputs, clones, classes), none empty: got shape {tuple(probs.shape)}.",
    )
