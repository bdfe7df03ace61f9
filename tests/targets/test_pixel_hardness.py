"""Pixel hardness: the worked numbers, a transcription in loops, the gradients, and what must hold for every map."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.targets import HardnessHead, HardnessLevelLoss, hardness_weighted_loss
from tests.behaviour import LossCase

LOGITS = torch.tensor([[0.0, 2.0], [-1.0, -3.0]], dtype=torch.float64)
LOSSES = torch.tensor([[0.2, 1.5], [0.1, 0.05]], dtype=torch.float64)


def rand(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make(seed: int) -> list:
    """Cases for the shared checks: the two losses together, and the module on tokens."""
    losses, logits = rand(3, 4, 5, seed=seed), 4 * rand(3, 4, 5, seed=seed + 1) - 2
    mask = rand(3, 4, 5, seed=seed + 2) < 0.8
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = HardnessLevelLoss(HardnessHead(6, hidden=4, kind="tokens"))
    features = rand(3, 7, 6, seed=seed + 3)

    def both(losses, logits):
        found = hardness_weighted_loss(losses, logits, mask=mask)
        return found.task + found.hardness

    def on_tokens(losses):
        return module.to(features.dtype)(features, losses)

    return [
        LossCase("hardness_weighted_loss", both, (losses, logits)),
        LossCase("HardnessLevelLoss", on_tokens, (rand(3, 7, seed=seed + 4),), (features,)),
    ]


def transcription(losses, logits, mask, floor, coefficient, over_sample):
    """The definition in loops."""
    rows = [[(i, j) for j in range(losses.shape[1]) if mask[i, j]] for i in range(losses.shape[0])]
    pools = [row for row in rows if row] if over_sample else [[place for row in rows for place in row]]
    weights = torch.zeros_like(losses)
    for pool in pools:
        total = sum(1 / (1 + math.exp(-logits[place])) + floor for place in pool)
        for place in pool:
            weights[place] = (1 / (1 + math.exp(-logits[place])) + floor) / total / len(pools)
    task = sum(float(weights[p]) * float(losses[p]) for row in rows for p in row)
    return weights, task, -coefficient * task


def test_worked_numbers():
    """The example of the specification should come out, and the plain mean be what it is compared with."""
    task, hardness, weights = hardness_weighted_loss(LOSSES, LOGITS)
    assert weights.flatten().tolist() == pytest.approx([0.2861, 0.4677, 0.1759, 0.0703], abs=5e-5)
    assert float(task) == pytest.approx(0.779844, abs=5e-7)
    assert float(hardness) == pytest.approx(-0.00779844, abs=5e-9)
    assert float(LOSSES.mean()) == 0.4625


@pytest.mark.parametrize("floor", [0.01, 0.1, 3.0])
def test_a_constant_map_is_the_mean(floor):
    """Where all is equally hard, the weighted loss should be the plain mean."""
    task, _, weights = hardness_weighted_loss(LOSSES, torch.full_like(LOGITS, 1.7), floor=floor)
    assert weights.flatten().tolist() == pytest.approx([0.25] * 4)
    assert float(task) == pytest.approx(0.4625)


def test_gradients_go_where_they_should():
    """The task loss should move the losses alone, the map's loss the map alone, and by the formula."""
    losses, logits = LOSSES.clone().requires_grad_(), LOGITS.clone().requires_grad_()
    task, hardness, weights = hardness_weighted_loss(losses, logits)
    of_task = torch.autograd.grad(task, (losses, logits), retain_graph=True, allow_unused=True)
    of_map = torch.autograd.grad(hardness, (losses, logits), allow_unused=True)
    assert torch.allclose(of_task[0], weights)
    assert of_task[1] is None
    assert of_map[0] is None
    sigmoid = LOGITS.sigmoid()
    normaliser = (sigmoid + 0.1).sum()
    formula = -0.01 * sigmoid * (1 - sigmoid) / normaliser * (LOSSES - task.detach())
    assert torch.allclose(of_map[1], formula, atol=1e-15)
    assert of_map[1].sign().flatten().tolist() == [1, -1, 1, 1]


def test_the_branch_does_not_bend_the_backbone():
    """No gradient of the map's loss should reach the features, which also come as several levels."""
    features = rand(2, 4, 6, 6, seed=1).requires_grad_()
    module = HardnessLevelLoss(HardnessHead(4, hidden=3).double())
    module(features, rand(2, 6, 6)).backward()
    assert features.grad is None
    assert all(bool((p.grad != 0).any()) for p in module.parameters())

    class LastLevel(torch.nn.Module):
        def forward(self, levels):
            return levels[-1].mean(1, keepdim=True)

    logits = HardnessLevelLoss(LastLevel()).logits([rand(2, 3, 9, 9), features], (2, 6, 6))
    assert torch.equal(logits, features.detach().mean(1))


def test_the_map_is_resized_to_the_losses():
    """A coarse map should be interpolated, in one and in two dimensions."""
    wide = HardnessLevelLoss(HardnessHead(4, hidden=3)).logits(torch.rand(2, 4, 3, 3), (2, 12, 9))
    assert wide.shape == (2, 12, 9)
    long = HardnessLevelLoss(HardnessHead(4, hidden=3, kind="1d")).logits(torch.rand(2, 4, 5), (2, 20))
    assert long.shape == (2, 20)


@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(1, 4), st.integers(1, 6)),
    floor=st.floats(0.01, 2),
    over_sample=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_agrees_with_loops_and_keeps_its_promises(seed, shape, floor, over_sample):
    """Weights should be those of the definition, add up to 1, stay within the ratio, and scale with the losses."""
    losses, logits = 3 * rand(*shape, seed=seed), 40 * rand(*shape, seed=seed + 1) - 20
    mask = rand(*shape, seed=seed + 2) < 0.7
    over = "sample" if over_sample else "batch"
    found = hardness_weighted_loss(losses, logits, floor=floor, mask=mask, normalize_over=over)
    weights, task, hardness = transcription(losses, logits, mask, floor, 0.01, over_sample)
    assert torch.allclose(found.weights, weights, atol=1e-12)
    assert float(found.task) == pytest.approx(task)
    assert float(found.hardness) == pytest.approx(hardness)
    if bool(mask.any()):
        assert float(found.weights.sum()) == pytest.approx(1.0)
        if not over_sample:
            kept = found.weights[mask]
            assert float(kept.max() / kept.min()) <= (1 + floor) / floor * (1 + 1e-9)
    double = hardness_weighted_loss(2 * losses, logits, floor=floor, mask=mask, normalize_over=over)
    assert float(double.task) == pytest.approx(2 * float(found.task))
    assert torch.equal(double.weights, found.weights)
    twice = hardness_weighted_loss(
        losses.repeat(2, 1), logits.repeat(2, 1), floor=floor, mask=mask.repeat(2, 1), normalize_over=over
    )
    assert float(twice.task) == pytest.approx(float(found.task))


def test_what_is_masked():
    """Masked elements should take weight only where that is asked for, NaN there should not matter."""
    mask = torch.tensor([[True, True], [True, False]])
    losses = LOSSES.clone()
    losses[1, 1] = math.nan
    found = hardness_weighted_loss(losses, LOGITS, mask=mask, check=True)
    assert float(found.weights[1, 1]) == 0
    assert math.isfinite(float(found.task))
    official = hardness_weighted_loss(losses, LOGITS, mask=mask, normalize_ignored=True)
    everything = hardness_weighted_loss(LOSSES * mask, LOGITS)
    assert float(official.task) == pytest.approx(float(everything.task))
    assert float(official.task) < float(found.task)


def test_nothing_to_learn_from():
    """With every element masked, both losses should be zero and still have a graph."""
    losses, logits = LOSSES.clone().requires_grad_(), LOGITS.clone().requires_grad_()
    found = hardness_weighted_loss(losses, logits, mask=torch.zeros(2, 2, dtype=torch.bool))
    assert found.task.item() == found.hardness.item() == 0
    (found.task + found.hardness).backward()
    assert not losses.grad.any()
    assert not logits.grad.any()


def test_half_precision_sums_in_float32():
    """A large map in bfloat16 should not lose its small weights in the sum."""
    losses = torch.ones(4, 4096, dtype=torch.bfloat16)
    found = hardness_weighted_loss(losses, torch.zeros_like(losses))
    assert found.task.dtype == torch.bfloat16
    assert float(found.task) == 1.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: hardness_weighted_loss(LOSSES, LOGITS[:1]), "hardness_logits must have the shape of losses"),
        (lambda: hardness_weighted_loss(LOSSES, LOGITS, floor=0), "floor must be positive: got 0"),
        (lambda: hardness_weighted_loss(LOSSES, LOGITS, hardness_weight=-1), "hardness_weight must be at least"),
        (lambda: hardness_weighted_loss(-LOSSES, LOGITS, check=True), "losses must be at least 0: 4 of 4"),
        (lambda: hardness_weighted_loss(LOSSES, LOGITS, mask=torch.ones(2)), "mask must have the shape of losses"),
        (lambda: hardness_weighted_loss(LOSSES.sum(), LOGITS.sum()), "losses must have one entry per element"),
        (lambda: hardness_weighted_loss(LOSSES, LOGITS, normalize_over="pixel"), "normalize_over must be one of"),
        (lambda: HardnessHead(4, kind="3d"), "kind must be one of"),
        (lambda: HardnessHead(4)(torch.zeros(2, 5, 3, 3)), "4 channels in dimension 1"),
        (
            lambda: HardnessLevelLoss(HardnessHead(4))(torch.zeros(2, 4, 3, 3), torch.zeros(2, 3)),
            "the head must give logits",
        ),
    ],
)
def test_bad_input_is_refused(call, message):
    """Each mistake should be answered in a line that names the argument."""
    with pytest.raises(ValueError, match=message):
        call()
