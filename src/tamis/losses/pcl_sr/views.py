"""Positives and negatives of one image: sharpened and blurred copies, and the Haar bands that tell them apart."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from tamis import checks
from tamis.randomness import torch_generator


def frequency_negatives(
    hr: Tensor,
    n: int = 3,
    *,
    kernel_sizes: Sequence[int] = (3, 5, 7, 9, 11),
    sigma: tuple[float, float] = (0.1, 2.0),
    quantize: bool = False,
    value_range: float = 1.0,
    generator: int | torch.Generator = 0,
) -> Tensor:
    """Blurred copies of images, each with a random Gaussian kernel of its own: hard negatives for a restored image.

    The negatives of arXiv:2111.13924, section III, without the bicubic image.

    Args:
        hr: (b, c, h, w) float, images.
        n: blurred copies of every image.
        kernel_sizes: odd sizes that height and width of a kernel are drawn from.
        sigma: least and largest standard deviation in pixels, drawn for each axis.
        quantize: round to 255 levels of ``value_range``, as the official code does.
        value_range: the largest value of a pixel.
        generator: seed, or a CPU generator, which advances.

    Returns:
        (n, b, c, h, w), dtype and device of ``hr``, without gradient.

    Raises:
        ValueError: an even kernel size, a sigma that is not positive, or shapes that do not fit.

    Example:
        >>> round(float(frequency_negatives(torch.full((1, 1, 8, 8), 0.5), n=1).mean()), 4)
        0.5
    """
    _images("hr", hr)
    checks.at_least("n", n, 1)
    for size in kernel_sizes:
        checks.require(size >= 1 and size % 2 == 1, f"kernel_sizes must be odd and positive: got {size}.")
    checks.require(len(kernel_sizes) > 0, "kernel_sizes must hold at least one size: got none.")
    checks.require(0 < sigma[0] <= sigma[1], f"sigma must be (low, high) with 0 < low <= high: got {sigma!r}.")
    checks.positive("value_range", value_range)
    rng = torch_generator(generator)
    b, c, h, w = hr.shape
    images = hr.detach().expand(n, b, c, h, w).reshape(1, n * b * c, h, w)
    half = max(kernel_sizes) // 2
    for axis in (0, 1):
        sizes = torch.tensor(kernel_sizes)[torch.randint(len(kernel_sizes), (n * b, 1), generator=rng)]
        deviations = sigma[0] + (sigma[1] - sigma[0]) * torch.rand(n * b, 1, generator=rng, dtype=torch.float64)
        offsets = torch.arange(-half, half + 1, device=rng.device)[None]
        kernels = torch.exp(-(offsets**2) / (2 * deviations**2)) * (offsets.abs() <= sizes // 2)
        kernels = (kernels / kernels.sum(1, keepdim=True)).to(hr).repeat_interleave(c, 0)
        shape = (n * b * c, 1, -1, 1) if axis == 0 else (n * b * c, 1, 1, -1)
        padding = (0, 0, half, half) if axis == 0 else (half, half, 0, 0)
        images = F.conv2d(F.pad(images, padding, mode="replicate"), kernels.view(shape), groups=n * b * c)
    if quantize:
        images = (images * (255 / value_range)).round() * (value_range / 255)
    return images.view(n, b, c, h, w)


def sharpened_positives(
    hr: Tensor,
    n: int = 3,
    *,
    factor: tuple[float, float] = (0.5, 5.5),
    value_range: float = 1.0,
    generator: int | torch.Generator = 0,
) -> Tensor:
    """Sharpened copies of images: further positives for a restored image.

    The positives of arXiv:2111.13924, section III, without the truth itself. An image is moved away from (factor above
    1) or towards (below 1) its smoothed copy; the outermost pixels are not smoothed.

    Args:
        hr: (b, c, h, w) float, values in 0..value_range.
        n: copies of every image.
        factor: least and largest factor, drawn for every copy; 1 is the identity, 0 the smoothed image.
        value_range: the largest value of a pixel; results are clipped to it.
        generator: seed, or a CPU generator, which advances.

    Returns:
        (n, b, c, h, w), dtype and device of ``hr``, without gradient.

    Raises:
        ValueError: a negative factor, or shapes that do not fit.

    Example:
        >>> dot = torch.zeros(1, 1, 3, 3).index_fill(2, torch.tensor(1), 0.5)
        >>> round(float(sharpened_positives(dot, n=1, factor=(2.0, 2.0))[0, 0, 0, 1, 1]), 4)
        0.7308
    """
    _images("hr", hr)
    checks.at_least("n", n, 1)
    checks.require(0 <= factor[0] <= factor[1], f"factor must be (low, high) with 0 <= low <= high: got {factor!r}.")
    checks.positive("value_range", value_range)
    hr = hr.detach()
    c = hr.shape[1]
    kernel = torch.ones(c, 1, 3, 3, dtype=hr.dtype, device=hr.device)
    kernel[:, :, 1, 1] = 5
    smooth = hr.clone()
    if min(hr.shape[2:]) >= 3:
        smooth[:, :, 1:-1, 1:-1] = F.conv2d(hr, kernel / 13, groups=c)
    drawn = torch.rand(n, len(hr), 1, 1, 1, generator=torch_generator(generator), dtype=torch.float64)
    factors = (factor[0] + (factor[1] - factor[0]) * drawn).to(hr)
    return torch.lerp(smooth[None], hr[None], factors).clamp(0, value_range)


def haar_high_frequency(images: Tensor) -> Tensor:
    """The three Haar bands of an image that hold high frequencies: LH, HL and HH.

    The optional wavelet front end of the discriminator of arXiv:2111.13924, section III.

    Args:
        images: (b, c, h, w) float, h and w even.

    Returns:
        (b, 3c, h/2, w/2).

    Raises:
        ValueError: an odd height or width.

    Example:
        >>> haar_high_frequency(torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]]])).flatten()
        tensor([0.5000, 0.5000, 0.5000])
    """
    _images("images", images)
    h, w = images.shape[2:]
    checks.require(h % 2 == 0 and w % 2 == 0, f"images must have even height and width: got {h} x {w}.")
    a, b = images[:, :, ::2, ::2], images[:, :, ::2, 1::2]
    c, d = images[:, :, 1::2, ::2], images[:, :, 1::2, 1::2]
    return torch.cat([a - b + c - d, a + b - c - d, a - b - c + d], 1) / 2


def _images(name: str, value: Tensor) -> None:
    checks.require(
        value.ndim == 4 and value.numel() > 0 and value.is_floating_point(),
        f"{name} must be float images (b, c, h, w), not empty: got shape {tuple(value.shape)} {value.dtype}.",
    )
