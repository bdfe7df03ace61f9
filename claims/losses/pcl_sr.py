"""PCL-SR on generated images: does the contrast restore high-frequency energy that L1 leaves out, and at what price?

Grey 32 x 32 images are sums of gratings and half-planes; a small network enlarges their blurred, four times smaller
copies, with L1 alone and with the contrast beside it. Energy is the Haar high-frequency energy of the restored over
the true images (ideal 1), PSNR is in dB.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tamis.claim import Claim, Gate
from tamis.losses import (
    PCLSRLoss,
    TaskEmbeddingDiscriminator,
    frequency_negatives,
    haar_high_frequency,
    pixel_cosine,
)

CLAIM = Claim(
    metric="Haar high-frequency energy over that of the truth, against 1.5 times that of L1",
    method="energy_pcl",
    baseline="energy_l1_times_1.5",
    at_least=0.0,
    every_seed=True,
    gates=(
        Gate(says="PSNR falls by less than 0.4 dB", higher="psnr_pcl", lower="psnr_l1", at_least=-0.4),
        Gate(says="the contrast has a gradient", higher="gradient_norm", at_least=1e-9, every_seed=True),
        Gate(says="a step on the image favours truth over blur", higher="step_gain", at_least=1e-9, every_seed=True),
    ),
    note=(
        "Four of five seeds pass: the energy doubles on average, and in seed 0 it is 1.42 times that of L1. The gain "
        "goes with the gradient that the discriminator sends to the image, which is weakest in seed 0 (0.22, against "
        "0.31 to 1.10): the loss restores what its own discriminator, trained for 300 steps, has learned to see."
    ),
)
SIZE, BATCH, STEPS = 32, 16, 300


def world(n: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Images (n, 1, 32, 32) and their low-resolution copies (n, 1, 8, 8)."""
    y, x = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(n, 3, 1, 1, generator=rng)

    angle, edge, phase = uniform(0, math.pi), uniform(0, 2 * math.pi), uniform(0, 2 * math.pi)
    gratings = torch.sin(2 * math.pi * uniform(0.05, 0.4) * (x * angle.cos() + y * angle.sin()) + phase)
    side = (x - SIZE / 2) * edge.cos() + (y - SIZE / 2) * edge.sin() > uniform(-SIZE / 3, SIZE / 3)
    hr = (0.5 + (0.12 * gratings + side * uniform(-0.3, 0.3)).sum(1, keepdim=True)).clamp(0, 1)
    blurred = frequency_negatives(hr, 1, kernel_sizes=(7,), sigma=(1.0, 1.0))[0]
    return hr, F.avg_pool2d(blurred, 4)


class Enlarger(nn.Module):
    """The bicubic image plus what three convolutions add to it."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 32, 5, padding=2), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(),
            nn.Conv2d(32, 16, 3, padding=1), nn.PixelShuffle(4),
        )  # fmt: skip

    def forward(self, lr: Tensor) -> Tensor:
        """Images (b, 1, 32, 32) of (b, 1, 8, 8)."""
        return F.interpolate(lr, scale_factor=4, mode="bicubic", align_corners=False) + self.body(lr)


def train(seed: int, weight: float, hr: Tensor, lr: Tensor) -> tuple[Enlarger, PCLSRLoss]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = Enlarger()
        judge = TaskEmbeddingDiscriminator(
            SIZE, channels=1, widths=(24, 32, 48), wavelet=True, batch_norm=False, hidden=64
        )
    loss = PCLSRLoss(
        judge, weight=weight, n_positives=2, factor=(1.0, 2.5), sigma=(0.5, 2.0), temperature=0.1, lr=1e-3, seed=seed
    )
    optimizer, rng = torch.optim.Adam(network.parameters(), lr=1e-3), torch.Generator().manual_seed(seed)
    for _ in range(STEPS):
        rows = torch.randint(len(hr), (BATCH,), generator=rng)
        sr = network(lr[rows])
        if weight:
            loss.discriminator_step(sr, hr[rows])
        optimizer.zero_grad()
        loss(sr, hr[rows], lr[rows]).backward()
        optimizer.step()
    return network, loss


def preference(loss: PCLSRLoss, sr: Tensor, hr: Tensor, blurred: Tensor) -> float:
    """Similarity to the truth less that to blurred copies, mean over layers."""
    own, true = loss.discriminator.features(sr), loss.discriminator.features(hr)
    blurs = [loss.discriminator.features(b) for b in blurred]
    gaps = [
        pixel_cosine(o, t) - pixel_cosine(o, torch.stack(b)).mean(0) for o, t, *b in zip(own, true, *blurs, strict=True)
    ]
    return float(torch.stack(gaps).mean())


def run(seed: int) -> dict[str, float]:
    torch.set_num_threads(1)
    rng = torch.Generator().manual_seed(1000 + seed)
    (hr, lr), (test, test_lr) = world(200, rng), world(60, rng)
    found: dict[str, float] = {}
    for name, weight in (("l1", 0.0), ("pcl", 1e-3)):
        network, loss = train(seed, weight, hr, lr)
        with torch.no_grad():
            sr = network(test_lr)
            energy = haar_high_frequency(sr).square().sum() / haar_high_frequency(test).square().sum()
            found[f"energy_{name}"] = float(energy)
            found[f"psnr_{name}"] = float(-10 * (sr - test).square().mean((1, 2, 3)).log10().mean())
    sr.requires_grad_()
    (gradient,) = torch.autograd.grad(loss.contrast(sr, test, test_lr), sr)
    with torch.no_grad():
        blurred = frequency_negatives(test, 3, sigma=(0.5, 2.0), generator=seed)
        moved = sr - 0.05 * gradient / gradient.norm()
        gain = preference(loss, moved, test, blurred) - preference(loss, sr, test, blurred)
    return found | {
        "energy_l1_times_1.5": 1.5 * found["energy_l1"], "gradient_norm": float(gradient.norm()), "step_gain": gain,
    }  # fmt: skip
