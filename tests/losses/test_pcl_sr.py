"""PCL-SR: the worked numbers, a transcription in loops, and where gradients may go."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.losses import (
    PCLSRLoss,
    TaskEmbeddingDiscriminator,
    dual_contrastive_loss,
    frequency_negatives,
    haar_high_frequency,
    pixel_cosine,
    restoration_info_nce,
    sharpened_positives,
)
from tests.behaviour import LossCase


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def images(seed=0, size=8, b=2):
    return torch.rand(b, 1, size, size, generator=torch.Generator().manual_seed(seed))


def at(*cosines):
    """One-pixel features (n, 1, 2, 1, 1) with these cosines to (1, 0)."""
    return torch.tensor([[c, math.sqrt(1 - c * c)] for c in cosines], dtype=torch.float64).view(-1, 1, 2, 1, 1)


def small(**options):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = TaskEmbeddingDiscriminator(8, channels=1, widths=(4, 6, 8), wavelet=True, hidden=8)
    return PCLSRLoss(network, **options)


def make(seed: int) -> list:
    """Cases for the shared checks: the three variants, and the discriminator's loss."""
    sr, pos, neg = (
        randn(2, 3, 4, 4, seed=seed),
        randn(2, 2, 3, 4, 4, seed=seed + 1),
        randn(3, 2, 3, 4, 4, seed=seed + 2),
    )
    cases = [
        LossCase(
            f"restoration_info_nce {v}",
            lambda s, v=v: restoration_info_nce([s], [pos], [neg], variant=v),
            (sr,),
            (pos, neg),
        )
        for v in ("infonce", "lmcl", "l1_ratio")
    ]
    return [
        *cases,
        LossCase("dual_contrastive_loss", dual_contrastive_loss, (randn(3, seed=seed), randn(4, seed=seed + 3))),
    ]


def test_worked_info_nce_lmcl_and_two_positives():
    """The similarities .9 against .5 and .2 give the numbers of the worked example."""
    sr, neg = at(1.0)[0], at(0.5, 0.2)
    for pos, variant, expected in (
        (at(0.9), "infonce", 0.773300),
        (at(0.9), "lmcl", 0.154355),
        (at(0.9, 0.7), "infonce", 0.829620),
    ):
        assert float(restoration_info_nce([sr], [pos], [neg], variant=variant)) == pytest.approx(expected, abs=1e-6)


def test_worked_l1_ratio():
    """Distances .1 and .4 give one quarter exactly without the epsilon, and a little less with it."""
    sr = torch.zeros(1, 1, 2, 2, dtype=torch.float64)
    args = [sr], [sr[None] + 0.1], [sr[None] - 0.4]
    assert float(restoration_info_nce(*args, variant="l1_ratio", epsilon=0.0)) == pytest.approx(0.25, abs=1e-12)
    assert float(restoration_info_nce(*args, variant="l1_ratio")) == pytest.approx(0.1 / (0.4 + 3e-7), abs=1e-12)


def test_worked_pixel_cosine():
    """The worked maps have the mean cosine .853553."""
    sr = torch.tensor([[[1.0, 0], [0, 2]], [[0, 1], [1, 0]]], dtype=torch.float64)
    hr = torch.tensor([[[1.0, 1], [0, 1]], [[0, 1], [2, 1]]], dtype=torch.float64)
    assert float(pixel_cosine(sr, hr)) == pytest.approx(0.853553, abs=1e-6)


def test_worked_dual_contrastive_loss():
    """Real scores (2, 1) and fake ones (-1, 0) give .577452."""
    value = dual_contrastive_loss(torch.tensor([2.0, 1.0]), torch.tensor([-1.0, 0.0]))
    assert float(value) == pytest.approx(0.577452, abs=1e-6)


def test_all_the_same_gives_log_of_the_count():
    """Where the restored image, the positive and n negatives are one, the loss is log(1 + n)."""
    x = randn(2, 3, 4, 4)
    value = restoration_info_nce([x], [x[None]], [x.expand(5, *x.shape)])
    assert float(value) == pytest.approx(math.log(6), abs=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(1, 5))
def test_transcription_and_bounds(seed, p, m):
    """The loss is that of plain loops and lies in [log(1 + m e^-2), log(1 + m e^2)]."""
    sr, pos, neg = (
        randn(2, 3, 2, 2, seed=seed),
        randn(p, 2, 3, 2, 2, seed=seed + 1),
        randn(m, 2, 3, 2, 2, seed=seed + 2),
    )

    def sim(a, b):
        total = 0.0
        for y in range(2):
            for x in range(2):
                u, v = a[:, y, x].tolist(), b[:, y, x].tolist()
                total += sum(i * j for i, j in zip(u, v, strict=True)) / math.hypot(*u) / math.hypot(*v)
        return total / 4

    losses = []
    for i in range(2):
        below = sum(math.exp(sim(sr[i], neg[j, i])) for j in range(m))
        for k in range(p):
            top = math.exp(sim(sr[i], pos[k, i]))
            losses.append(-math.log(top / (top + below)))
    value = float(restoration_info_nce([sr], [pos], [neg]))
    assert value == pytest.approx(sum(losses) / len(losses), abs=1e-9)
    assert math.log(1 + m * math.exp(-2)) <= value <= math.log(1 + m * math.exp(2))


def test_layers_are_averaged():
    """The loss over two layers is the mean of the losses of each."""
    sr, pos, neg = ([randn(*n, 2, 3, 2, 2, seed=s + i) for i in (0, 9)] for s, n in ((0, ()), (1, (2,)), (2, (3,))))
    one, two = (float(restoration_info_nce(sr, pos, neg, layers=[i])) for i in (0, 1))
    assert float(restoration_info_nce(sr, pos, neg)) == pytest.approx((one + two) / 2)


def test_blur_keeps_constants_and_lowers_high_frequency():
    """A blur keeps a constant image and takes energy from the Haar bands of any other."""
    flat = torch.full((2, 3, 9, 7), 0.3)
    assert torch.allclose(frequency_negatives(flat), flat.expand(3, -1, -1, -1, -1), atol=1e-6)
    x = images(size=16)
    for blurred in frequency_negatives(x, 4, sigma=(0.5, 2.0)):
        energy = [haar_high_frequency(i).square().sum((1, 2, 3)) for i in (blurred, x)]
        assert bool((energy[0] < energy[1]).all())


def test_quantized_blur_has_whole_levels():
    """A quantised blur holds multiples of 1/255 only, and the seed decides it."""
    levels = frequency_negatives(images(), quantize=True, generator=3) * 255
    assert torch.allclose(levels, levels.round(), atol=1e-4)
    assert torch.equal(levels, frequency_negatives(images(), quantize=True, generator=3) * 255)


def test_sharpening_factors():
    """Factor 1 is the identity, 0 the smoothed image with its border kept."""
    x = images().double()
    assert torch.allclose(sharpened_positives(x, 1, factor=(1.0, 1.0))[0], x)
    smooth = sharpened_positives(x, 1, factor=(0.0, 0.0))[0]
    expected = (x[0, 0, 2:5, 3:6].sum() + 4 * x[0, 0, 3, 4]) / 13
    assert float(smooth[0, 0, 3, 4]) == pytest.approx(float(expected))
    assert torch.equal(smooth[:, :, 0], x[:, :, 0])


def test_gradient_reaches_the_restored_image_alone():
    """The contrast sends gradient to sr, none to hr, lr or the discriminator, whose state stays as it was."""
    loss = small(weight=1.0)
    sr, hr, lr = images(1).requires_grad_(), images(2).requires_grad_(), images(3, 2).requires_grad_()
    before = {k: v.clone() for k, v in loss.state_dict().items()}
    loss.contrast(sr, hr, lr).backward()
    assert sr.grad is not None and bool((sr.grad != 0).any())
    assert hr.grad is None and lr.grad is None
    assert all(p.grad is None and p.requires_grad for p in loss.parameters())
    assert all(m.training for m in loss.discriminator.modules())
    assert all(torch.equal(before[k], v) for k, v in loss.state_dict().items())


@pytest.mark.parametrize("gan", ["bce", "lsgan", "contrastive"])
def test_discriminator_step_learns(gan):
    """Steps on fixed images lower the discriminator's loss and send no gradient to them."""
    loss = small(gan=gan, lr=1e-2)
    sr, hr = images(1).requires_grad_(), images(2)
    values = [loss.discriminator_step(sr, hr) for _ in range(15)]
    assert values[-1] < values[0]
    assert sr.grad is None


def test_bad_inputs_are_named():
    """Every wrong argument is answered by a line that names it."""
    x = images()
    with pytest.raises(ValueError, match="sr must have the shape of hr"):
        small()(x, images(size=4), x)
    with pytest.raises(ValueError, match="layers must lie in 0..2"):
        small(layers=(3,))(x, x, x)
    with pytest.raises(ValueError, match="kernel_sizes must be odd"):
        frequency_negatives(x, kernel_sizes=(4,))
    with pytest.raises(ValueError, match="factor must be"):
        sharpened_positives(x, factor=(-1.0, 1.0))
    with pytest.raises(ValueError, match="even height and width"):
        haar_high_frequency(images(size=5))
    with pytest.raises(ValueError, match="neg_feats must be"):
        restoration_info_nce([x], [x[None]], [x])
    with pytest.warns(UserWarning, match="set value_range"):
        small()(x, x * 255, x)
