"""Noise on targets: features shaken by a Gaussian of their own mean and spread."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tamis import checks
from tamis.randomness import torch_generator


def gaussian_feature_augment(
    x: Tensor, *, alpha_scale: float = 1.0, beta_scale: float = 1.0, seed: int | torch.Generator = 0
) -> Tensor:
    """Shake every row with noise of its own mean and spread: ``alpha IN(x) + beta``.

    The augmenter of MGUR (arXiv:2211.07394): alpha ~ N(1, s) and beta ~ N(m, s) for each element, m and s the mean and
    the standard deviation (n - 1) of the row. The result is not normalised again: its length is the signal.

    Args:
        x: (b, d) float, d at least 2.
        alpha_scale: multiplies alpha.
        beta_scale: multiplies beta.
        seed: seed, or a generator that moves on with every call; with one seed every call draws the same noise.

    Returns:
        (b, d) of the same dtype. Gradient passes through IN(x) only.

    Raises:
        ValueError: fewer than two features.

    Example:
        >>> shaken = gaussian_feature_augment(torch.tensor([[1.0, 2.0, 3.0], [5.0, 5.0, 5.0]]), seed=0)
        >>> shaken[1]  # a row without spread is its mean
        tensor([5., 5., 5.])
    """
    _check_features("x", x)
    generator = torch_generator(seed)
    with torch.no_grad():
        rows = _at_least_float32(x)
        spread, mean = torch.std_mean(rows, dim=1, keepdim=True)
        # One draw for every precision and device, so that a seed means the same noise everywhere.
        noise = torch.randn((2, *x.shape), generator=generator, device=generator.device)
        noise = noise.to(rows)
        alpha = alpha_scale * (1 + spread * noise[0])
        beta = beta_scale * (mean + spread * noise[1])
    return apply_fluctuation(x, alpha, beta)


def apply_fluctuation(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """The fluctuation itself, for noise that is given: ``alpha IN(x) + beta``.

    The augmenter of MGUR (arXiv:2211.07394) after its draw. IN takes each row's mean off and divides by its biased
    deviation, with 1e-5 added to the variance.

    Args:
        x: (b, d) float, d at least 2.
        alpha: (b, d) float; takes no gradient.
        beta: (b, d) float; takes no gradient.

    Returns:
        (b, d) of the dtype of x.

    Raises:
        ValueError: shapes that differ, fewer than two features.

    Example:
        >>> apply_fluctuation(torch.tensor([[0.0, 4.0]]), torch.tensor([[1.0, 0.5]]), torch.tensor([[2.0, 1.0]]))
        tensor([[1.0000, 1.5000]])
    """
    _check_features("x", x)
    for name, noise in (("alpha", alpha), ("beta", beta)):
        checks.same_shape(name, noise, "x", x)
    rows = _at_least_float32(x)
    shaken = alpha.detach().to(rows) * F.layer_norm(rows, rows.shape[1:], eps=1e-5) + beta.detach().to(rows)
    return shaken.to(x.dtype)


class GaussianFeatureAugmenter(nn.Module):
    """``gaussian_feature_augment`` in training mode, the identity in evaluation mode.

    The augmenter of MGUR (arXiv:2211.07394). Where its generator stands is part of the state, so a resumed run draws
    what an unbroken one would have drawn.

    Args:
        alpha_scale: multiplies alpha.
        beta_scale: multiplies beta.
        seed: of the noise.

    Example:
        >>> augmenter = GaussianFeatureAugmenter(seed=0).eval()
        >>> augmenter(torch.tensor([[1.0, 2.0]]))
        tensor([[1., 2.]])
    """

    def __init__(self, alpha_scale: float = 1.0, beta_scale: float = 1.0, *, seed: int | torch.Generator = 0) -> None:
        super().__init__()
        self.alpha_scale = alpha_scale
        self.beta_scale = beta_scale
        self.generator = torch_generator(seed)

    def forward(self, x: Tensor) -> Tensor:
        """Shake every row, in training mode.

        Args:
            x: (b, d) float, d at least 2.

        Returns:
            (b, d) of the same dtype; x itself in evaluation mode.
        """
        if not self.training:
            return x
        return gaussian_feature_augment(
            x, alpha_scale=self.alpha_scale, beta_scale=self.beta_scale, seed=self.generator
        )

    def get_extra_state(self) -> Tensor:
        """The state of the generator.

        Returns:
            (bytes,) uint8.
        """
        return self.generator.get_state()

    def set_extra_state(self, state: Tensor) -> None:
        """Put the generator where it stood.

        Args:
            state: (bytes,) uint8, from ``get_extra_state``.
        """
        self.generator.set_state(state.cpu())


def _check_features(name: str, x: Tensor) -> None:
    checks.matrix(name, x)
    checks.require(
        x.shape[1] >= 2, f"{name} must have at least 2 features, to have a spread: got shape {tuple(x.shape)}."
    )


def _at_least_float32(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
