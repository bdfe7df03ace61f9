"""BatchFormer: attention along the batch by hand, what is left of it in evaluation, and who pulls on whom."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy, layer_norm

from tamis.batches import BatchFormer, BatchFormerV2, cross_sample_gradient, duplicate_targets
from tests.behaviour import ArrayCase, LossCase, global_generators_untouched


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def make(seed: int) -> list:
    """Cases for the shared checks: a loss behind the layer, dense features, doubled targets."""
    labels = torch.arange(6) % 3
    former, dense = BatchFormer(4, dropout=0.0).double(), BatchFormerV2(4, dropout=0.0, num_layers=2).double()

    def loss(x):
        features, targets = former(x, labels)
        return cross_entropy(features, targets)

    ids = np.arange(4)
    return [
        LossCase("BatchFormer", loss, (randn(6, 4, seed=seed),)),
        LossCase("BatchFormerV2", lambda x: dense(x)[0].logsumexp(2).mean(), (randn(6, 3, 4, seed=seed),)),
        ArrayCase(
            "duplicate_targets",
            lambda seed, a, b: duplicate_targets(a, b),
            (ids, ids / 2),
            empty=lambda: duplicate_targets(ids[:0]),
            torch_too=True,
        ),
    ]


def slow_layer(x, layer, heads):
    """One post-norm transformer layer whose sequence is the batch, sample by sample and head by head."""
    n, c = x.shape
    size = c // heads
    attention = layer.self_attn
    q, k, v = (x @ attention.in_proj_weight.T + attention.in_proj_bias).split(c, dim=1)
    mixed = torch.zeros_like(x)
    for i in range(n):
        for h in range(heads):
            part = slice(h * size, (h + 1) * size)
            powers = [math.exp(float(q[i, part] @ k[j, part]) / math.sqrt(size)) for j in range(n)]
            for j in range(n):
                mixed[i, part] += powers[j] / sum(powers) * v[j, part]
    mixed = layer.norm1(x + attention.out_proj(mixed))
    return layer.norm2(mixed + layer.linear2(layer.linear1(mixed).relu()))


def test_evaluation_hands_back_what_came():
    """In evaluation mode features and targets are the very objects that came, and nothing is drawn."""
    x, y = randn(5, 8), torch.arange(5)
    for module in (BatchFormer(8).double().eval(), BatchFormerV2(8).double().eval()):
        with global_generators_untouched("BatchFormer"):
            features, labels = module(x, y)
        assert features is x and labels is y


def test_shapes_in_training():
    """Training gives 2 N rows of features and targets, and the first N rows are the input to the bit."""
    x, y, weights = randn(5, 8), torch.arange(5), randn(5, 2, seed=1)
    features, labels, doubled = BatchFormer(8).double()(x, y, weights)
    assert features.shape == (10, 8) and labels.shape == (10,) and doubled.shape == (10, 2)
    assert torch.equal(features[:5], x) and not torch.equal(features[5:], x)
    assert labels.tolist() == [0, 1, 2, 3, 4] * 2
    assert BatchFormer(8, shared_targets=False).double()(x, y)[1] is y


@pytest.mark.parametrize("num_layers", [1, 3])
def test_equals_the_plain_loops(num_layers):
    """The mixed features are those of attention over samples written out in loops, layer after layer."""
    x = randn(5, 8)
    module = BatchFormer(8, dropout=0.0, num_layers=num_layers, num_heads=2, dim_feedforward=5, seed=3).double()
    with torch.no_grad():
        expected = x
        for layer in module.encoder:
            expected = slow_layer(expected, layer, 2)
        torch.testing.assert_close(module(x)[0][5:], expected, atol=1e-12, rtol=0)


@given(seed=st.integers(0, 999), n=st.integers(1, 9))
@settings(max_examples=40, deadline=None)
def test_permuting_the_batch_permutes_the_features(seed, n):
    """There is no position in a batch: without dropout a permuted batch gives permuted features."""
    module, x = BatchFormer(8, dropout=0.0).double(), randn(n, 8, seed=seed)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        assert (module(x[order])[0][n:] - module(x)[0][n:][order]).abs().max() < 1e-6


def test_identity_in_place_of_the_layer():
    """With an identity for the layer the mean loss over 2 N rows and its gradient are those over N rows."""
    y, classifier = torch.arange(6) % 3, randn(8, 3, seed=1)
    module = BatchFormer(8)
    module.encoder = nn.Identity()
    one, two = randn(6, 8).requires_grad_(), randn(6, 8).requires_grad_()
    plain = cross_entropy(one @ classifier, y)
    features, labels = module(two, y)
    doubled = cross_entropy(features @ classifier, labels)
    plain.backward()
    doubled.backward()
    assert doubled.item() == pytest.approx(plain.item(), abs=1e-12)
    torch.testing.assert_close(two.grad, one.grad, atol=1e-12, rtol=0)


def test_one_sample_by_hand():
    """A single sample attends to itself with weight 1: x' = LN2(v + FF(v)), v = LN1(x + W_o W_v x + b)."""
    module, x = BatchFormer(8, dropout=0.0, seed=5).double(), randn(1, 8)
    layer = module.encoder[0]
    with torch.no_grad():
        attention = layer.self_attn
        value = x @ attention.in_proj_weight[16:].T + attention.in_proj_bias[16:]
        out = value @ attention.out_proj.weight.T + attention.out_proj.bias
        v = layer_norm(x + out, (8,), layer.norm1.weight, layer.norm1.bias)
        inner = (v @ layer.linear1.weight.T + layer.linear1.bias).clamp(min=0)
        feedforward = inner @ layer.linear2.weight.T + layer.linear2.bias
        expected = layer_norm(v + feedforward, (8,), layer.norm2.weight, layer.norm2.bias)
        torch.testing.assert_close(module(x)[0][1:], expected, atol=1e-6, rtol=0)


def test_dense_features():
    """V2 with one place is V1; with several places each attends over the batch by itself, in either layout."""
    x = randn(4, 3, 8)
    flat, dense = BatchFormer(8, dropout=0.0).double(), BatchFormerV2(8, dropout=0.0).double()
    dense.load_state_dict(flat.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(dense(x[:, :1])[0][:, 0], flat(x[:, 0])[0], atol=1e-12, rtol=0)
        (both,) = dense(x)
        assert both.shape == (8, 3, 8) and torch.equal(both[:4], x)
        for place in range(3):
            torch.testing.assert_close(both[:, place], flat(x[:, place])[0], atol=1e-12, rtol=0)
        turned = BatchFormerV2(8, dropout=0.0, batch_first=False).double()
        features, labels = turned(x.transpose(0, 1), torch.arange(4))
        torch.testing.assert_close(features.transpose(0, 1), both, atol=1e-12, rtol=0)
        assert labels.tolist() == [0, 1, 2, 3] * 2


def test_who_pulls_on_whom():
    """In training every sample pulls on every other; in evaluation, or without the layer, exactly none does."""
    module, x = BatchFormer(8, dropout=0.0).double(), randn(5, 8)
    apart = ~torch.eye(5, dtype=torch.bool)
    pull = cross_sample_gradient(module, x)
    assert pull.shape == (5, 5) and bool((pull[apart] > 1e-6).all())
    off = cross_sample_gradient(module.eval(), x)
    assert bool((off[apart] == 0).all()) and bool((off.diagonal() > 0).all())
    assert bool((cross_sample_gradient(nn.Identity(), x)[apart] == 0).all())


def test_pull_equals_finite_differences():
    """An entry is the length of the gradient of one sample's losses, both copies, in another sample's features."""
    module, x, y = BatchFormer(4, dropout=0.0).double(), randn(3, 4), torch.tensor([0, 1, 2])

    def losses(features):
        return cross_entropy(features, y.repeat(len(features) // 3), reduction="none")

    pull = cross_sample_gradient(module, x, losses=losses)
    with torch.no_grad():
        slopes = []
        for c in range(4):
            step = torch.zeros_like(x)
            step[2, c] = 1e-6
            up, down = losses(module(x + step)[0]), losses(module(x - step)[0])
            slopes.append(float((up - down)[0] + (up - down)[3]) / 2e-6)
    assert pull[0, 2].item() == pytest.approx(math.hypot(*slopes), rel=1e-6)


def test_diagnostic_leaves_everything_as_it_was():
    """The diagnostic draws its dropout aside, and leaves no gradient in weights or samples."""
    module, x = BatchFormer(8), randn(4, 8, dtype=torch.float32).requires_grad_()
    with global_generators_untouched("cross_sample_gradient"):
        assert not cross_sample_gradient(module, x).requires_grad
    assert x.grad is None and all(p.grad is None for p in module.parameters())


def test_half_precision_computes_in_the_weights_own():
    """Features in bfloat16 are mixed in float32, layer norm and all, and come back in bfloat16."""
    module, x = BatchFormer(8, dropout=0.0), randn(4, 8).bfloat16()
    with torch.no_grad():
        features = module(x)[0]
        assert features.dtype == torch.bfloat16
        assert torch.equal(features[4:], module(x.float())[0][4:].bfloat16())


def test_weights_come_from_the_seed():
    """Equal seeds give equal weights, layers differ from one another, and torch's generator is left alone."""
    with global_generators_untouched("BatchFormer"):
        one, two, other = BatchFormer(8, num_layers=2), BatchFormer(8, num_layers=2), BatchFormer(8, seed=1)
    assert torch.equal(one.encoder[0].linear1.weight, two.encoder[0].linear1.weight)
    assert not torch.equal(one.encoder[0].linear1.weight, one.encoder[1].linear1.weight)
    assert not torch.equal(one.encoder[0].linear1.weight, other.encoder[0].linear1.weight)


def test_own_group_for_the_optimiser():
    """The layer's weights go to the optimiser with a learning rate of their own."""
    module, backbone = BatchFormer(8), nn.Linear(8, 8)
    optimizer = torch.optim.AdamW(
        [{"params": backbone.parameters()}, module.param_group(2e-4, weight_decay=0.0)], lr=1e-3
    )
    assert [group["lr"] for group in optimizer.param_groups] == [1e-3, 2e-4]
    assert len(optimizer.param_groups[1]["params"]) == len(list(module.parameters()))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: BatchFormer(6), "dim must be divisible by num_heads: got 6 and 4"),
        (lambda: BatchFormer(8, dropout=1.0), "dropout must lie in"),
        (lambda: BatchFormer(8, num_layers=0), "num_layers must be at least 1: got 0"),
        (lambda: BatchFormerV2(8, dim_feedforward=0), "dim_feedforward must be at least 1"),
        (lambda: BatchFormer(8)(torch.ones(8)), r"x must be two-dimensional \(n, d\): got shape \(8,\)"),
        (lambda: BatchFormer(8)(torch.ones(0, 8)), "x must have at least one row"),
        (lambda: BatchFormer(8)(torch.ones(2, 4)), "x must have 8 columns"),
        (lambda: BatchFormer(8)(torch.ones(3, 8), torch.ones(2)), "target 0 must have one entry per row of x: 3 rows"),
        (lambda: BatchFormerV2(8)(torch.ones(3, 8)), "x must be three-dimensional with 8 features and not empty"),
        (lambda: BatchFormerV2(8)(torch.ones(0, 2, 8)), "and not empty"),
        (lambda: duplicate_targets(), "needs at least one tensor"),
        (lambda: duplicate_targets(torch.ones(2), torch.ones(3)), "target 1 must have one entry per row of target 0"),
        (lambda: cross_sample_gradient(nn.Identity(), torch.ones(0, 2)), "x must have at least one row"),
        (
            lambda: cross_sample_gradient(nn.Identity(), torch.ones(4, 2), losses=lambda f: f.sum()),
            "losses must give one number per row of the features, 4 or 8",
        ),
    ],
)
def test_bad_input(call, message):
    """What cannot be is answered in one line."""
    with pytest.raises(ValueError, match=message):
        call()
