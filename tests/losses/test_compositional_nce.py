"""MECO: the worked numbers, a transcription in loops, and the invariants of a likelihood."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.losses import CompositionalNLLLoss, nce_loss, partition_estimate
from tests.behaviour import LossCase


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make(seed: int) -> list:
    """Cases for the shared checks: one average, one per row, STORM, and the noise-contrastive loss."""
    x, z, zs = randn(6, seed=seed), randn(8, seed=seed + 1), randn(6, 8, seed=seed + 2)
    q, qs, index = randn(8, seed=seed + 3), randn(6, 8, seed=seed + 4), torch.arange(6)

    def twice(loss, *inputs, **more):
        loss(*inputs)
        return loss(*inputs, **more)

    return [
        LossCase("one average", lambda a, b: twice(CompositionalNLLLoss(), a, b, q), (x, z), (q,)),
        LossCase(
            "an average per row",
            lambda a, b: twice(CompositionalNLLLoss(0.5, 6), a, b, qs, index),
            (x, zs),
            (qs,),
        ),
        LossCase(
            "storm",
            lambda a, b: twice(CompositionalNLLLoss(0.5, 1, "storm"), a, b, q, previous_noise_logp=0.9 * b),
            (x, z),
            (q,),
        ),
        LossCase("nce_loss", nce_loss, (x, z)),
        LossCase("partition_estimate", lambda a: partition_estimate(a, q).log_z, (z,), ()),
    ]


@pytest.mark.parametrize("theta", [0.0, 1.0, 3.0])
def test_the_estimate_is_that_of_the_integral(theta):
    """E_q g = sqrt(2 pi) = 2.506628 for p = exp(-(x - theta)^2 / 2) and q = N(0, 4), by 80 Gauss-Hermite nodes."""
    nodes, weights = np.polynomial.hermite.hermgauss(80)
    z, log_weights = torch.tensor(2 * math.sqrt(2) * nodes), torch.tensor(weights / math.sqrt(math.pi)).log()
    log_q = -(z**2) / 8 - math.log(2 * math.sqrt(2 * math.pi))
    found = partition_estimate(-((z - theta) ** 2) / 2, log_q, log_weights=log_weights)
    assert found.log_z.exp().item() == pytest.approx(math.sqrt(2 * math.pi), abs=1e-9)
    assert found.log_z.exp().item() == pytest.approx(2.506628, abs=1e-6)


@pytest.mark.parametrize(("estimator", "u"), [("ema", 2.5), ("storm", 2.75)])
def test_the_average_of_the_worked_numbers(estimator, u):
    """From u=2, g=3 and gamma=.5: 2.5, or 2.75 by STORM whose old value was 2.5; log 2.5 = .916291."""
    loss = CompositionalNLLLoss(0.5, 1, estimator)
    x, g, log_q = torch.zeros(1), torch.tensor([1.0, 3.0]).log(), torch.zeros(2)
    loss(x, g, log_q)
    found = loss(x, torch.tensor([2.0, 4.0]).log(), log_q, previous_noise_logp=torch.tensor([2.0, 3.0]).log())
    assert found.item() == pytest.approx(math.log(u), abs=1e-6)
    assert loss.log_u.exp().item() == pytest.approx(u, abs=1e-5)


def test_without_memory_it_is_the_batch_s_own_likelihood():
    """gamma=1: value and gradients are autograd's of -mean l(x) + logsumexp(l(z) - log q(z)) - log m."""
    x, z, log_q = randn(5).requires_grad_(), randn(7, seed=1).requires_grad_(), randn(7, seed=2)
    found = CompositionalNLLLoss(1.0)(x, z, log_q)
    plain = -x.mean() + torch.logsumexp(z - log_q, 0) - math.log(7)
    assert found.item() == pytest.approx(plain.item(), abs=1e-12)
    pairs = zip(torch.autograd.grad(found, (x, z)), torch.autograd.grad(plain, (x, z)), strict=True)
    assert all(torch.allclose(a, b, atol=1e-14) for a, b in pairs)


@settings(max_examples=12, deadline=None)
@given(st.floats(-200, 200), st.floats(0.05, 1.0), st.sampled_from(["ema", "storm"]))
def test_a_constant_in_the_model_changes_nothing(k, gamma, estimator):
    """Adding k to l everywhere shifts log_u by k and leaves the value and the gradient of the parameter."""
    found = []
    for shift in (0.0, k):
        loss, theta = CompositionalNLLLoss(gamma, 1, estimator), torch.tensor(0.5, dtype=torch.float64)
        for step in range(3):
            old, theta = theta.detach(), theta.detach().clone().add_(0.1).requires_grad_()
            x, z = randn(4, seed=step), 2 * randn(60, seed=step + 10)
            before = old * z - z**2 / 2 + shift
            value = loss(theta * x + shift, theta * z - z**2 / 2 + shift, -(z**2) / 8, previous_noise_logp=before)
        found.append((value.item(), torch.autograd.grad(value, theta)[0].item(), loss.log_u.item()))
    (value, gradient, log_u), (moved, turned, shifted) = found
    assert moved == pytest.approx(value, abs=1e-3)
    assert turned == pytest.approx(gradient, abs=1e-3)
    assert shifted - log_u == pytest.approx(k, abs=1e-3)


def test_large_numbers_stay_finite():
    """l(z) - log q(z) = 1e4 in float32 gives a finite loss and gradient, also after an average that was small."""
    loss = CompositionalNLLLoss(0.1)
    loss(torch.zeros(2), torch.zeros(4), torch.zeros(4))
    z = torch.full((4,), 1e4, requires_grad=True)
    value = loss(torch.full((2,), 1e4), z, torch.zeros(4))
    value.backward()
    assert bool(value.isfinite())
    assert bool(z.grad.isfinite().all())


@pytest.mark.parametrize("blocks", [1, 4])
def test_it_is_the_algorithm_in_loops(blocks):
    """Values and gradients over ten steps are those of a transcription with plain numbers."""
    gamma, m, theta, u = 0.3, 5, 0.7, {}
    loss = CompositionalNLLLoss(gamma, blocks)
    for step in range(10):
        index = torch.randperm(blocks, generator=torch.Generator().manual_seed(step))[: max(1, blocks - 1)]
        rows = len(index)
        x, z = randn(rows if blocks > 1 else 6, seed=step), 2 * randn(rows, m, seed=50 + step)
        log_q = -(z**2) / 8
        parameter = torch.tensor(theta, dtype=torch.float64, requires_grad=True)
        noise, q, where = (z, log_q, index) if blocks > 1 else (z[0], log_q[0], None)
        value = loss(parameter * x - x**2 / 2, parameter * noise - noise**2 / 2, q, where)
        (found,) = torch.autograd.grad(value, parameter)
        total = slope = 0.0
        for row in range(rows):
            g = [math.exp(theta * a - a * a / 2 - b) for a, b in zip(z[row].tolist(), log_q[row].tolist(), strict=True)]
            block, mean = int(index[row]), sum(g) / m
            u[block] = (1 - gamma) * u[block] + gamma * mean if block in u else mean
            total += math.log(u[block]) / rows
            slope += sum(w * a for w, a in zip(g, z[row].tolist(), strict=True)) / (m * u[block] * rows)
        for a in x.tolist():
            total -= (theta * a - a * a / 2) / len(x)
            slope -= a / len(x)
        assert value.item() == pytest.approx(total, abs=1e-5)
        assert found.item() == pytest.approx(slope, abs=1e-5)
        theta -= 0.1 * slope


def test_dropped_noise_has_no_say():
    """A sample with log q = +inf or l = -inf has no gradient, and a row without any noise counts as 0."""
    z = torch.tensor([[0.0, 5.0, -torch.inf], [1.0, 2.0, 3.0]], dtype=torch.float64, requires_grad=True)
    log_q = torch.tensor([[0.0, torch.inf, 0.0], [torch.inf] * 3], dtype=torch.float64)
    loss = CompositionalNLLLoss(0.5, 3)
    value = loss(torch.tensor([1.0, 1.0], dtype=torch.float64), z, log_q, torch.tensor([0, 2]))
    value.backward()
    assert value.item() == pytest.approx((-1 + math.log(1 / 3)) / 2)
    assert torch.allclose(z.grad, torch.tensor([[0.5, 0, 0], [0, 0, 0]], dtype=torch.float64))
    assert loss.log_u[1:].isneginf().all()


def test_a_known_partition_function_needs_no_average():
    """log_z takes the place of the average: unbiased gradients, and nothing is tracked."""
    x, z, log_q = randn(5), randn(7, seed=1).requires_grad_(), randn(7, seed=2)
    loss = CompositionalNLLLoss()
    value = loss(x, z, log_q, log_z=torch.tensor(1.5))
    value.backward()
    assert value.item() == pytest.approx(1.5 - x.mean().item())
    assert torch.allclose(z.grad, (z.detach() - log_q - 1.5).exp() / 7)
    assert bool(loss.log_u.isneginf())


def test_evaluation_moves_nothing_and_state_is_kept():
    """In evaluation the average stands still; a loaded state_dict goes on where the saved one was."""
    x, z, log_q = randn(5), randn(7, seed=1), randn(7, seed=2)
    loss, other = CompositionalNLLLoss(0.2), CompositionalNLLLoss(0.2)
    loss(x, z, log_q)
    before = loss.log_u.clone()
    loss.eval()(x, 2 * z, log_q)
    assert torch.equal(loss.log_u, before)
    other.load_state_dict(loss.state_dict())
    assert "average.log_u" in loss.state_dict()
    assert other(x, 2 * z, log_q).item() == loss.train()(x, 2 * z, log_q).item()


def test_weights_are_clipped_and_counted():
    """A weight above exp(clip) counts as exp(clip), and is counted."""
    loss = CompositionalNLLLoss(log_weight_clip=1.0)
    z = torch.tensor([4.0, 0.0], requires_grad=True)
    loss(torch.zeros(1), z, torch.zeros(2), log_z=torch.tensor(0.0)).backward()
    assert z.grad.tolist() == pytest.approx([math.e / 2, 0.5])
    assert loss.clipped == 1


def noise_steps(scale):
    """Thirty batches of 16 from N(0, scale^2) for a model of mean 4."""
    loss, rng = CompositionalNLLLoss(0.2), torch.Generator().manual_seed(0)
    for _ in range(30):
        z = scale * torch.randn(16, generator=rng)
        loss(torch.zeros(1), 4 * z - z**2 / 2, -((z / scale) ** 2) / 2)


def test_narrow_noise_is_warned_of():
    """Noise N(0, 1) for a model of mean 4 comes to rest on fewer than two samples, and the loss says so."""
    with pytest.warns(UserWarning, match="fewer than two effective noise samples"):
        noise_steps(1.0)


def test_wide_noise_is_not():
    """Noise N(0, 16) for the same model gives no warning (which would be an error here)."""
    noise_steps(4.0)


def test_nce_is_the_logistic_loss_in_loops():
    """-mean log h(x) - nu mean log(1 - h(z)) with h = 1 / (1 + nu exp(-s)); nu is the ratio of the samples."""
    data, noise = randn(6), randn(3, seed=1)
    for nu in (None, 2.0):
        ratio = 0.5 if nu is None else nu
        plain = -sum(math.log(1 / (1 + ratio * math.exp(-s))) for s in data.tolist()) / 6
        plain -= ratio * sum(math.log(1 - 1 / (1 + ratio * math.exp(-s))) for s in noise.tolist()) / 3
        assert nce_loss(data, noise, nu).item() == pytest.approx(plain)


def test_the_effective_sample_size():
    """Equal weights are worth their number, one large weight is worth one; rows do not mix."""
    scores = torch.stack([torch.zeros(10), torch.tensor([50.0] + [0.0] * 9)]).double()
    found = partition_estimate(scores, torch.zeros_like(scores))
    assert found.effective_sample_size.tolist() == pytest.approx([10, 1])
    assert found.log_z.tolist() == pytest.approx([0, 50 - math.log(10)])


X, Z = torch.zeros(3), torch.zeros(4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: CompositionalNLLLoss(gamma=0.0), r"gamma must lie in \(0, 1\]"),
        (lambda: CompositionalNLLLoss(gamma=1.1), r"gamma must lie in \(0, 1\]"),
        (lambda: CompositionalNLLLoss(log_weight_clip=0.0), "log_weight_clip must be positive"),
        (lambda: CompositionalNLLLoss(num_blocks=3)(X, torch.zeros(3, 4), torch.zeros(3, 4)), "index must say"),
        (
            lambda: CompositionalNLLLoss(num_blocks=3)(X, torch.zeros(3, 4), torch.zeros(3, 4), torch.arange(1, 4)),
            r"index must lie in 0\.\.2",
        ),
        (lambda: CompositionalNLLLoss()(X, Z, torch.zeros(5)), "noise_log_q must have the shape of noise_logp"),
        (lambda: CompositionalNLLLoss()(X, Z, torch.full((4,), torch.nan)), "noise_log_q must hold no NaN"),
        (lambda: CompositionalNLLLoss()(X, torch.full((4,), torch.nan), Z), "noise_logp must hold no NaN"),
        (lambda: CompositionalNLLLoss()(X * torch.inf, Z, Z), "data_logp must be finite"),
        (lambda: CompositionalNLLLoss()(X[:0], Z, Z), r"data_logp must be \(n,\) with n > 0"),
        (lambda: CompositionalNLLLoss()(X, Z[:0], Z[:0]), r"noise_logp must be \(m,\) with m > 0"),
        (lambda: nce_loss(X, Z, 0.0), "nu must be positive"),
        (lambda: nce_loss(X, Z[:0]), "noise_logits must be"),
        (lambda: partition_estimate(Z, X), "noise_log_q must have the shape"),
    ],
)
def test_bad_input(call, message):
    """Bad arguments are answered with what they must be."""
    with pytest.raises(ValueError, match=message):
        call()
