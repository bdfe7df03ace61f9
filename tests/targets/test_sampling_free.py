"""Sampling-free detection: the worked numbers, gradients by hand, and the optimum of every rate."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from tamis.targets import (
    GuidedLossScaling,
    adaptive_score_threshold,
    estimate_prior,
    guided_loss_scaling,
    imbalance_bias,
    init_classifier_bias_,
)
from tests.behaviour import LossCase


def make(seed: int) -> list:
    """Cases for the shared checks: the scaling of a class loss by another loss, as function and as module."""
    g = torch.Generator().manual_seed(seed)
    logits, errors = torch.randn(5, generator=g, dtype=torch.float64), torch.rand(5, generator=g, dtype=torch.float64)
    targets = torch.arange(5) % 2

    def scaled(z):
        return guided_loss_scaling(F.binary_cross_entropy_with_logits(z, targets.to(z.dtype)), errors.mean())

    def module(z):
        return GuidedLossScaling(2.0)(F.binary_cross_entropy_with_logits(z, targets.to(z.dtype)), errors.mean())

    return [
        LossCase("guided_loss_scaling", scaled, (logits,), (errors,)),
        LossCase("GuidedLossScaling", module, (logits.clone(),), (errors,)),
    ]


def test_biases_of_the_specification():
    """The log-odds of three rates, and their loss on ten positives in 10,000."""
    assert [imbalance_bias(p).item() for p in (0.01, 0.5, 0.001)] == pytest.approx([-4.595120, 0, -6.906755], abs=5e-6)
    targets = torch.zeros(10_000, dtype=torch.float64)
    targets[:10] = 1
    losses, slopes = [], []
    for bias in (0.0, imbalance_bias(0.01).item(), imbalance_bias(positives=10, total=10_000).item()):
        b = torch.tensor(bias, dtype=torch.float64, requires_grad=True)
        loss = F.binary_cross_entropy_with_logits(b.expand(10_000), targets, reduction="sum")
        slopes.append(torch.autograd.grad(loss, b)[0].item())
        losses.append(loss.item() / 10_000)
    entropy = -(0.001 * math.log(0.001) + 0.999 * math.log(0.999))
    assert losses == pytest.approx([0.693147, 0.0146455, entropy], abs=5e-7)
    assert entropy == pytest.approx(0.00790726, abs=5e-9)
    assert slopes == pytest.approx([4990, 90, 0], abs=1e-2)


@given(positives=st.integers(1, 50), rest=st.integers(51, 5000), classes=st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_biases_are_the_optimum(positives, rest, classes):
    """The expected positives at the bias should be those there are, and no other constant have a lower loss."""
    total = positives + rest
    bias = imbalance_bias(positives=positives, total=total, num_classes=classes).double()
    assert float(bias.sigmoid().sum() * total) == pytest.approx(positives, rel=1e-4)
    soft = imbalance_bias(positives=positives, total=total, num_classes=classes, activation="softmax").double()
    shares = soft.softmax(0)
    assert float(shares[0]) == pytest.approx(rest / total, rel=1e-4)
    assert shares[1:].tolist() == pytest.approx([positives / total / classes] * classes, rel=1e-4)
    last = imbalance_bias(0.1, num_classes=classes, activation="softmax", background=-1)
    assert torch.equal(last, imbalance_bias(0.1, num_classes=classes, activation="softmax").roll(-1))


def test_layers_start_from_the_rate():
    """Every anchor of a layer should have the bias; weights should stay."""
    layer = nn.Conv2d(3, 6, 1)
    weight = layer.weight.detach().clone()
    assert init_classifier_bias_(layer, 0.01, num_classes=2) is layer
    assert layer.bias.tolist() == pytest.approx([-4.595120] * 6)
    assert torch.equal(layer.weight, weight)
    soft = init_classifier_bias_(nn.Linear(3, 6), 0.5, num_classes=2, activation="softmax")
    assert soft.bias.tolist() == pytest.approx([math.log(2), 0, 0] * 2)


def test_the_rate_is_counted():
    """Ignored anchors should not count, classes share the positives."""
    parts = [torch.tensor([0, 0, 1, -1, -1]), torch.tensor([3, 0, 0, 0])]
    assert estimate_prior(parts) == 2 / 7
    assert estimate_prior([part.numpy() for part in parts], num_classes=4) == 2 / 7 / 4
    assert adaptive_score_threshold(2 / 7 / 4, 4) == pytest.approx(2 / 7)


def test_scaling_of_the_specification():
    """The value should be the guide's, the slope that of the class loss times the ratio, and the guide have none."""
    w = torch.tensor(2.0, requires_grad=True)
    guide = torch.tensor(0.5, requires_grad=True)
    scaled = guided_loss_scaling(w**2, guide)
    assert scaled.item() == 0.5
    gradients = torch.autograd.grad(scaled, (w, guide), allow_unused=True)
    assert gradients[0].item() == 0.5
    assert gradients[1] is None
    twice = guided_loss_scaling(w**2, guide, 2.0)
    assert twice.item() == 1.0
    assert torch.autograd.grad(twice, w)[0].item() == 1.0
    same = guided_loss_scaling(w**2, (w**2).detach())
    assert torch.autograd.grad(same, w)[0].item() == 4.0


def test_losses_that_vanish():
    """A guide of 0 should switch the classifier off, a class loss of 0 give no infinity; losses can be used again."""
    w = torch.tensor(2.0, requires_grad=True)
    off = guided_loss_scaling(w**2, torch.tensor(0.0))
    off.backward()
    assert off.item() == w.grad.item() == 0
    zero = torch.tensor(0.0, requires_grad=True)
    done = guided_loss_scaling(zero**2, torch.tensor(100.0))
    done.backward()
    assert done.item() == 0
    assert math.isfinite(zero.grad.item())
    loss = w**2
    (guided_loss_scaling(loss, torch.tensor(0.5)) + loss).backward()
    assert loss.item() == 4.0


def test_half_precision_stays_finite():
    """A class loss below the least number of float16 should give neither infinity nor NaN, in value or slope."""
    for value in (0.0, 1e-7, 3.0):
        loss = torch.tensor(value, dtype=torch.float16, requires_grad=True)
        scaled = guided_loss_scaling(loss, torch.tensor(100.0))
        scaled.backward()
        assert scaled.dtype == torch.float16
        assert math.isfinite(scaled.item())
        assert math.isfinite(loss.grad.item())


@given(value=st.floats(1e-6, 1e6), guide=st.floats(0, 1e6), scale=st.floats(0.01, 10))
@settings(max_examples=50, deadline=None)
def test_the_value_is_always_the_guides(value, guide, scale):
    """Whatever the sizes, the scaled loss should have the value of the guide times the scale."""
    loss = torch.tensor(value, dtype=torch.float64)
    scaled = guided_loss_scaling(loss, torch.tensor(guide, dtype=torch.float64), scale)
    assert scaled.item() == pytest.approx(scale * guide)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: imbalance_bias(0.0), "prior must lie between 0 and 1"),
        (lambda: imbalance_bias(1.0), "prior must lie between 0 and 1"),
        (lambda: imbalance_bias(), "give either prior, or positives and total"),
        (lambda: imbalance_bias(positives=3), "total must be given with positives"),
        (lambda: imbalance_bias(0.1, activation="relu"), "activation must be one of"),
        (lambda: imbalance_bias(0.1, num_classes=2, activation="softmax", background=3), "background must lie between"),
        (lambda: init_classifier_bias_(nn.Linear(2, 2, bias=False), 0.1), "layer must have a bias"),
        (lambda: init_classifier_bias_(nn.Linear(2, 3), 0.1, num_classes=2), "a multiple of 2 numbers: it has 3"),
        (lambda: estimate_prior([torch.zeros(4)]), "positives and background: 0 and 4 came"),
        (lambda: guided_loss_scaling(torch.ones(2), torch.ones(())), "cls_loss must be a scalar"),
        (lambda: guided_loss_scaling(torch.ones(()), torch.ones(1)), "guide_loss must be a scalar"),
        (lambda: guided_loss_scaling(torch.ones(()), torch.ones(()), 0.0), "scale must be positive"),
        (lambda: adaptive_score_threshold(0.5, 3), "prior must be a rate per logit"),
    ],
)
def test_bad_input_is_refused(call, message):
    """Each mistake should be answered in a line that names the argument."""
    with pytest.raises(ValueError, match=message):
        call()
