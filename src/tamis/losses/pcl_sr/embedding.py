"""The discriminator whose features are the embedding, and the whole loss around it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tamis import checks
from tamis.losses.pcl_sr.loss import Variant, dual_contrastive_loss, restoration_info_nce
from tamis.losses.pcl_sr.views import frequency_negatives, haar_high_frequency, sharpened_positives
from tamis.randomness import torch_generator

GanLoss = Literal["bce", "lsgan", "contrastive"]


class TaskEmbeddingDiscriminator(nn.Module):
    """A discriminator of restored and real images whose block features are the embedding of the contrastive loss.

    The task embedding of arXiv:2111.13924, section III: convolutions with LeakyReLU 0.2, strides 1, 2, 1, 2, ...

    Args:
        image_size: height and width of the images, as the classifier is flat.
        channels: of the images.
        widths: channels of each block.
        wavelet: see the images through their Haar high-frequency bands.
        batch_norm: normalise in each block.
        hidden: width of the classifier.

    Raises:
        ValueError: no block, or a size that is too small.

    Example:
        >>> network = TaskEmbeddingDiscriminator(8, channels=1, widths=(4, 6), wavelet=True)
        >>> [tuple(f.shape) for f in network.features(torch.zeros(2, 1, 8, 8))]
        [(2, 4, 4, 4), (2, 6, 2, 2)]
    """

    def __init__(
        self,
        image_size: int,
        *,
        channels: int = 3,
        widths: Sequence[int] = (64, 64, 128, 128, 256, 256, 512, 512),
        wavelet: bool = False,
        batch_norm: bool = True,
        hidden: int = 1024,
    ) -> None:
        super().__init__()
        checks.require(len(widths) > 0, "widths must hold at least one block: got none.")
        checks.at_least("image_size", image_size, 2)
        self.wavelet = wavelet
        size, before = (image_size // 2, 3 * channels) if wavelet else (image_size, channels)
        blocks: list[nn.Module] = []
        for i, width in enumerate(widths):
            conv = nn.Conv2d(before, width, 3, stride=1 + i % 2, padding=1, bias=not batch_norm)
            norm = [nn.BatchNorm2d(width)] if batch_norm else []
            blocks.append(nn.Sequential(conv, *norm, nn.LeakyReLU(0.2)))
            size, before = (size + 1) // 2 if i % 2 else size, width
        self.blocks = nn.ModuleList(blocks)
        self.classifier = nn.Sequential(
            nn.Flatten(), nn.Linear(before * size * size, hidden), nn.LeakyReLU(0.2), nn.Linear(hidden, 1)
        )

    def features(self, images: Tensor) -> list[Tensor]:
        """Features after every block.

        Args:
            images: (b, c, h, w) float.

        Returns:
            one (b, c_i, h_i, w_i) per block.
        """
        x = haar_high_frequency(images) if self.wavelet else images
        found = []
        for block in self.blocks:
            x = block(x)
            found.append(x)
        return found

    def forward(self, images: Tensor) -> Tensor:
        """Scores, large for real images.

        Args:
            images: (b, c, h, w) float, of the size that the network was built for.

        Returns:
            (b,).
        """
        scores: Tensor = self.classifier(self.features(images)[-1])
        return scores.squeeze(1)


class PCLSRLoss(nn.Module):
    """L1 plus the contrastive loss in the features of a discriminator that is trained beside the network.

    The total loss of arXiv:2111.13924, section III. When not to use: where PSNR is all that counts; more weight buys
    high frequencies with it.

    Args:
        discriminator: the embedding; give its parameters to no other optimizer.
        weight: of the contrastive loss.
        layers: blocks whose features count, None for all; the paper's are (0, 2, 4, 6).
        n_positives: sharpened copies, beside the truth.
        n_negatives: blurred copies, beside the bicubic image.
        factor: of the sharpening.
        sigma: of the blur, in pixels.
        variant: see ``restoration_info_nce``.
        temperature: divides the similarities.
        gan: the discriminator's loss.
        lr: learning rate of the discriminator's Adam.
        value_range: the largest value of a pixel.
        align_corners: of the bicubic image; True is that of the official code.
        quantize: round blurred copies to 8 bits, as the official code does.
        seed: of the blurs and factors.

    Raises:
        ValueError: an option out of its range, or images whose shapes do not fit.

    Example:
        >>> loss = PCLSRLoss(TaskEmbeddingDiscriminator(8, channels=1, widths=(4,)), weight=0.0)
        >>> half = torch.full((1, 1, 8, 8), 0.5)
        >>> float(loss(half, half + 0.25, half[:, :, ::4, ::4]))
        0.25
    """

    def __init__(
        self,
        discriminator: TaskEmbeddingDiscriminator,
        *,
        weight: float = 1e-3,
        layers: Sequence[int] | None = None,
        n_positives: int = 3,
        n_negatives: int = 3,
        factor: tuple[float, float] = (0.5, 5.5),
        sigma: tuple[float, float] = (0.1, 2.0),
        variant: Variant = "infonce",
        temperature: float = 1.0,
        gan: GanLoss = "bce",
        lr: float = 1e-4,
        value_range: float = 1.0,
        align_corners: bool = False,
        quantize: bool = False,
        seed: int | torch.Generator = 0,
    ) -> None:
        super().__init__()
        checks.at_least("weight", weight, 0.0)
        checks.one_of("gan", gan, ("bce", "lsgan", "contrastive"))
        checks.positive("value_range", value_range)
        self.discriminator = discriminator
        self.weight, self.layers, self.variant, self.temperature = weight, layers, variant, temperature
        self.n_positives, self.n_negatives, self.factor, self.sigma = n_positives, n_negatives, factor, sigma
        self.gan, self.value_range, self.align_corners, self.quantize = gan, value_range, align_corners, quantize
        self.generator = torch_generator(seed)
        self.optimizer = torch.optim.Adam(discriminator.parameters(), lr=lr)

    def discriminator_step(self, sr: Tensor, hr: Tensor) -> float:
        """One step of the discriminator; no gradient reaches the images.

        Args:
            sr: (b, c, h, w) float, restored images.
            hr: (b, c, h, w) float, the truth.

        Returns:
            the discriminator's loss before the step.
        """
        checks.same_shape("sr", sr, "hr", hr)
        self.optimizer.zero_grad()
        real, fake = self.discriminator(hr.detach()), self.discriminator(sr.detach())
        if self.gan == "contrastive":
            loss = dual_contrastive_loss(real, fake)
        elif self.gan == "lsgan":
            loss = (real - 1).square().mean() + fake.square().mean()
        else:
            loss = F.softplus(-real).mean() + F.softplus(fake).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return float(loss.detach())

    def contrast(self, sr: Tensor, hr: Tensor, lr: Tensor) -> Tensor:
        """The contrastive loss alone.

        Args:
            sr: (b, c, h, w) float, restored images.
            hr: (b, c, h, w) float, the truth.
            lr: (b, c, h', w') float, the small images, before upsampling.

        Returns:
            scalar.
        """
        with torch.no_grad(), _eval_and_frozen(self.discriminator):
            up = F.interpolate(lr, size=hr.shape[2:], mode="bicubic", align_corners=self.align_corners)
            blurred = frequency_negatives(
                hr,
                self.n_negatives,
                sigma=self.sigma,
                quantize=self.quantize,
                value_range=self.value_range,
                generator=self.generator,
            )
            sharp = sharpened_positives(
                hr, self.n_positives, factor=self.factor, value_range=self.value_range, generator=self.generator
            )
            n_pos = 1 + self.n_positives
            views = torch.cat([hr[None], sharp, up.clamp(0, self.value_range)[None], blurred])
            found = [f.view(*views.shape[:2], *f.shape[1:]) for f in self.discriminator.features(views.flatten(0, 1))]
        with _eval_and_frozen(self.discriminator):
            own = self.discriminator.features(sr)
        return restoration_info_nce(
            own,
            [f[:n_pos] for f in found],
            [f[n_pos:] for f in found],
            layers=self.layers,
            variant=self.variant,
            temperature=self.temperature,
        )

    def forward(self, sr: Tensor, hr: Tensor, lr: Tensor) -> Tensor:
        """L1 plus the weighted contrast.

        Args:
            sr: (b, c, h, w) float, restored images.
            hr: (b, c, h, w) float, the truth.
            lr: (b, c, h', w') float, the small images, before upsampling.

        Returns:
            scalar.
        """
        checks.same_shape("sr", sr, "hr", hr)
        hr = hr.detach()
        low, high = float(hr.min()), float(hr.max())
        if low < 0 or high > self.value_range:
            warnings.warn(
                f"hr must lie in 0..{self.value_range:g}: got {low:g}..{high:g}; set value_range.", stacklevel=2
            )
        loss = (sr - hr).abs().mean()
        return loss + self.weight * self.contrast(sr, hr, lr) if self.weight else loss


@contextmanager
def _eval_and_frozen(module: nn.Module) -> Iterator[None]:
    """Eval mode and parameters without gradient for one forward pass; both as they were afterwards."""
    modes = [(m, m.training) for m in module.modules()]
    asked = [(p, p.requires_grad) for p in module.parameters()]
    module.eval().requires_grad_(False)
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
        for parameter, wanted in asked:
            parameter.requires_grad_(wanted)
