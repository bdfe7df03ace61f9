"""Small networks for an audit, and a head that grows when a new class is seen."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tamis import checks
from tamis.randomness import torch_generator


def expand_output_(linear: nn.Linear, n: int = 1, *, scale: float = 1e-3, seed: int | torch.Generator = 0) -> nn.Linear:
    """Append output units in place, so weak that what was predicted before stays predicted.

    The new rows are small random numbers, the new biases the least of the old ones. Optimisers hold the old parameters:
    make a new one.

    Args:
        linear: the last layer, with a bias.
        n: units to append.
        scale: standard deviation of the new weights.
        seed: of the new weights.

    Returns:
        the same layer; its old rows are the same bits.

    Raises:
        ValueError: for a layer without a bias, or n < 1.

    Example:
        >>> expand_output_(nn.Linear(3, 2), 2).weight.shape
        torch.Size([4, 3])
    """
    checks.at_least("n", n, 1)
    checks.require(linear.bias is not None, "linear must have a bias: new classes start from its least entry.")
    weight, bias = linear.weight.data, linear.bias.data
    generator = torch_generator(seed)
    rows = scale * torch.randn(n, weight.shape[1], generator=generator, dtype=torch.float32, device=generator.device)
    linear.weight = nn.Parameter(torch.cat([weight, rows.to(weight.device, weight.dtype)]))
    linear.bias = nn.Parameter(torch.cat([bias, bias.min().expand(n)]))
    linear.out_features = len(linear.weight)
    return linear


class VectorGenerator(nn.Module):
    """Noise to inputs in [0, 1]: two layers, then a normalisation without parameters, without which it turns grey.

    Args:
        latent: dimension of the noise.
        shape: of one input.
        hidden: width.

    Example:
        >>> VectorGenerator(4, (2, 3))(torch.randn(5, 4)).shape
        torch.Size([5, 2, 3])
    """

    def __init__(self, latent: int, shape: Sequence[int], hidden: int = 128) -> None:
        super().__init__()
        self.shape, size = tuple(shape), math.prod(shape)
        self.layers = nn.Sequential(
            nn.Linear(latent, hidden), nn.ReLU(), nn.Linear(hidden, size), nn.BatchNorm1d(size, affine=False)
        )

    def forward(self, noise: Tensor) -> Tensor:
        """Make up inputs.

        Args:
            noise: (b, latent) float.

        Returns:
            (b, *shape) float in [0, 1].
        """
        return torch.sigmoid(2 * self.layers(noise)).view(-1, *self.shape)


class VectorClone(nn.Module):
    """Inputs to logits: two hidden layers; ``head`` is the last one, which can grow.

    Args:
        shape: of one input.
        classes: outputs to begin with.
        hidden: width.

    Example:
        >>> VectorClone((2, 3), 4)(torch.zeros(5, 2, 3)).shape
        torch.Size([5, 4])
    """

    def __init__(self, shape: Sequence[int], classes: int, hidden: int = 128) -> None:
        super().__init__()
        first, second = nn.Linear(math.prod(shape), hidden), nn.Linear(hidden, hidden)
        self.body = nn.Sequential(nn.Flatten(), first, nn.ReLU(), second, nn.ReLU())
        self.head = nn.Linear(hidden, classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """Score every class.

        Args:
            inputs: (b, *shape) float.

        Returns:
            (b, classes) logits.
        """
        logits: Tensor = self.head(self.body(inputs))
        return logits
