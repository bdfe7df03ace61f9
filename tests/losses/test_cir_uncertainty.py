"""MGUR: the worked numbers, noise and losses in plain loops, who may take a gradient, and the schedule."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.losses import (
    GaussianFeatureAugmenter,
    MultiGrainedUncertaintyLoss,
    apply_fluctuation,
    coarse_weight,
    gaussian_feature_augment,
    uncertainty_regularized_loss,
)
from tests.behaviour import LossCase

T = torch.tensor([[1.0, 2, 3, 6], [0, 0, 4, 4]], dtype=torch.float64)
ALPHA = torch.tensor([[1.5, 1, 0.5, 1], [1, 1, 2, 0]], dtype=torch.float64)
BETA = torch.tensor([[2.0, 3, 3, 4], [2, 2, 1, 3]], dtype=torch.float64)
Q = torch.tensor([[0.2, 0.1, 0.3, 0.4], [0.1, 0, 0.5, 0.3]], dtype=torch.float64)


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def make(seed: int) -> list[LossCase]:
    """The function at both granularities, with decisions about the candidates; the module with its own noise."""
    query, target = randn(5, 4, seed=seed), randn(5, 4, seed=seed + 1)
    weights = -randn(5, 5, seed=seed + 2).abs()
    weights[1, 3] = -math.inf

    def plain(granularity):
        return LossCase(
            f"uncertainty_regularized_loss {granularity}",
            lambda q, t: uncertainty_regularized_loss(
                q, t, gaussian_feature_augment(t), progress=0.4, granularity=granularity, log_weights=weights
            ),
            (query, target),
            (weights,),
        )

    module = LossCase(
        "MultiGrainedUncertaintyLoss",
        lambda q, t: MultiGrainedUncertaintyLoss(10, GaussianFeatureAugmenter(seed=seed))(q, t, progress=0.3),
        (query, target),
    )
    augment = LossCase("gaussian_feature_augment", lambda t: gaussian_feature_augment(t).square().sum(), (target,))
    return [plain("batch"), plain("sample"), module, augment]


def loop_shaken(x, alpha, beta):
    """alpha IN(x) + beta, one element after the other."""
    out = torch.zeros_like(x)
    for i in range(len(x)):
        mean = sum(float(v) for v in x[i]) / x.shape[1]
        variance = sum((float(v) - mean) ** 2 for v in x[i]) / x.shape[1]
        for j in range(x.shape[1]):
            out[i, j] = alpha[i, j] * (float(x[i, j]) - mean) / math.sqrt(variance + 1e-5) + beta[i, j]
    return out


def loop_cross_entropy(query, candidates, weights=None):
    """The cross-entropy of every row, its own candidate at weight one."""
    losses = []
    for i in range(len(query)):
        scores = [float(query[i] @ c) for c in candidates]
        total = 0.0
        for j, score in enumerate(scores):
            total += math.exp(score + (float(weights[i, j]) if weights is not None and j != i else 0.0))
        losses.append(math.log(total) - scores[i])
    return losses


def deviation(values):
    mean = sum(values) / len(values)
    return math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))


def loop_loss(query, target, shaken, progress, gamma_scale, scale, granularity, weights):
    query, target = query * scale, target * scale
    coarse = loop_cross_entropy(query, shaken, weights)
    spreads = [deviation([float(v) for v in shaken.flatten()])] * len(query)
    if granularity == "sample":
        spreads = [deviation([float(v) for v in row]) for row in shaken]
    regularised = sum(0.5 * (math.exp(-s) * c + s) for s, c in zip(spreads, coarse, strict=True)) / len(query)
    fine = sum(loop_cross_entropy(query, target, weights)) / len(query)
    gamma = math.exp(-gamma_scale * progress)
    return gamma * regularised + (1 - gamma) * fine


# --- worked numbers ---------------------------------------------------------------------------------------------------


def test_worked_statistics():
    """Deviations 2.160247 and 2.309401 (n - 1), means 3 and 2; IN rows to the 1e-5 that its variance adds."""
    assert T.std(1).tolist() == pytest.approx([2.160247, 2.309401], abs=5e-7)
    assert T.mean(1).tolist() == [3.0, 2.0]
    normal = apply_fluctuation(T, torch.ones_like(T), torch.zeros_like(T))
    wanted = torch.tensor([[-1.06904, -0.534522, 0, 1.60357], [-1, -1, 1, 1]], dtype=torch.float64)
    assert torch.allclose(normal, wanted, rtol=0, atol=1e-5)


def test_worked_fluctuation():
    """The shaken targets of the worked noise, and their deviation over all entries, 1.659284."""
    shaken = apply_fluctuation(T, ALPHA, BETA)
    wanted = torch.tensor([[0.3964, 2.4655, 3, 5.6036], [1, 1, 3, 3]], dtype=torch.float64)
    assert torch.allclose(shaken, wanted, rtol=0, atol=5e-5)
    assert shaken.std().item() == pytest.approx(1.659284, abs=5e-6)


def test_worked_losses():
    """CE_aug .706343, L_u .896842, L_info .569646; at progress 0, .5 and 1 the loss is .896842, .768100, .690015."""
    shaken = apply_fluctuation(T, ALPHA, BETA)
    own = torch.arange(2)
    assert F.cross_entropy(Q @ shaken.T, own).item() == pytest.approx(0.706343, abs=5e-7)
    assert F.cross_entropy(Q @ T.T, own).item() == pytest.approx(0.569646, abs=5e-7)
    losses = [uncertainty_regularized_loss(Q, T, shaken, progress=p).item() for p in (0, 0.5, 1)]
    assert losses == pytest.approx([0.896842, 0.768100, 0.690015], abs=1e-6)
    fine = uncertainty_regularized_loss(Q, T, shaken, progress=1.0, gamma_scale=1000.0)
    assert fine.item() == pytest.approx(0.569646, abs=5e-7)


def test_no_noise_is_the_normalised_target():
    """Without spread in the noise (alpha 1, beta 0) the shaken target is IN(t), which has no affine part to learn."""
    normal = apply_fluctuation(T, torch.ones_like(T), torch.zeros_like(T))
    assert torch.equal(normal, F.layer_norm(T, (4,), eps=1e-5))
    assert not list(GaussianFeatureAugmenter().parameters())
    assert gaussian_feature_augment(T, alpha_scale=0.0, beta_scale=0.0).abs().max() == 0


def test_the_beginning_is_the_coarse_loss():
    """Progress 0 is L_u exactly, whatever the plain targets are, and gamma_scale 0 keeps it for good."""
    shaken = apply_fluctuation(T, ALPHA, BETA)
    spread = shaken.std()
    wanted = 0.5 * (torch.exp(-spread) * F.cross_entropy(Q @ shaken.T, torch.arange(2)) + spread)
    assert uncertainty_regularized_loss(Q, T, shaken, progress=0.0).item() == pytest.approx(wanted.item(), rel=1e-12)
    start = uncertainty_regularized_loss(Q, T, shaken, progress=0.0)
    assert torch.equal(uncertainty_regularized_loss(Q, 100 * T, shaken, progress=0.0), start)
    assert torch.equal(uncertainty_regularized_loss(Q, T, shaken, progress=0.9, gamma_scale=0.0), start)


def test_the_best_spread_is_the_log_of_the_cross_entropy():
    """exp(-s) CE + s is least at s = ln CE: the loss of targets with that spread is (1 + ln CE) / 2, others' higher."""
    # Queries of zeros have the cross-entropy ln b for any targets, so the spread is free.
    b = 40
    query, pattern = torch.zeros(b, 4, dtype=torch.float64), randn(b, 4)
    cross_entropy, unit = math.log(b), pattern / pattern.std()
    best = math.log(cross_entropy)
    losses = {
        s: uncertainty_regularized_loss(query, unit, s * unit, progress=0.0).item()
        for s in (0.6 * best, 0.99 * best, best, 1.01 * best, 1.7 * best)
    }
    assert losses[best] == pytest.approx((1 + math.log(cross_entropy)) / 2, rel=1e-9)
    assert min(losses, key=losses.__getitem__) == best


def test_seeds_and_generators():
    """A seed gives one noise, a generator moves on, an augmenter moves on, and two of one seed keep step."""
    x = randn(3, 5)
    assert torch.equal(gaussian_feature_augment(x, seed=4), gaussian_feature_augment(x, seed=4))
    assert not torch.equal(gaussian_feature_augment(x, seed=4), gaussian_feature_augment(x, seed=5))
    one, other = GaussianFeatureAugmenter(seed=4), GaussianFeatureAugmenter(seed=4)
    first = one(x)
    assert torch.equal(first, gaussian_feature_augment(x, seed=4)) and torch.equal(first, other(x))
    second = one(x)
    assert not torch.equal(first, second) and torch.equal(second, other(x))
    assert one.eval()(x) is x


def test_rows_without_spread():
    """A constant row becomes its mean; loss and gradient stay finite, for one such row and for nothing else."""
    for rows in ([[2.0, 2.0, 2.0]], [[2.0, 2.0, 2.0], [1.0, 2.0, 4.0]]):
        x = torch.tensor(rows, requires_grad=True)
        shaken = gaussian_feature_augment(x)
        assert shaken[0].tolist() == [2.0, 2.0, 2.0]
        for granularity in ("batch", "sample"):
            loss = uncertainty_regularized_loss(0.1 * x, x, shaken, progress=0.5, granularity=granularity)
            (gradient,) = torch.autograd.grad(loss, x, retain_graph=True)
            assert bool(loss.isfinite()) and bool(gradient.isfinite().all())


def test_one_pair():
    """A batch of one has cross-entropy 0, so half the spread is left of the coarse loss and nothing of the fine one."""
    query, target = randn(1, 6).requires_grad_(), randn(1, 6, seed=1).requires_grad_()
    shaken = gaussian_feature_augment(target)
    loss = uncertainty_regularized_loss(query, target, shaken, progress=0.0)
    loss.backward()
    assert loss.item() == pytest.approx(0.5 * shaken.std().item())
    assert bool(target.grad.isfinite().all()) and query.grad.abs().max() == 0
    assert uncertainty_regularized_loss(query, target, shaken, progress=1.0, gamma_scale=1e3).item() == 0


# --- gradients --------------------------------------------------------------------------------------------------------


def test_gradient_passes_through_the_normalisation_only():
    """Noise drawn from the target is a constant: no gradient to alpha and beta, and none through mean and spread."""
    target = randn(3, 5).requires_grad_()
    alpha, beta = randn(3, 5, seed=1).requires_grad_(), randn(3, 5, seed=2).requires_grad_()
    upstream = randn(3, 5, seed=3)
    (apply_fluctuation(target, alpha, beta) * upstream).sum().backward()
    assert alpha.grad is None and beta.grad is None and target.grad.abs().max() > 0
    (drawn,) = torch.autograd.grad((gaussian_feature_augment(target, seed=7) * upstream).sum(), target)
    noise = torch.randn((2, 3, 5), generator=torch.Generator().manual_seed(7)).double()
    frozen = target.detach()
    fixed = 1 + frozen.std(1, keepdim=True) * noise[0]
    (wanted,) = torch.autograd.grad((fixed * F.layer_norm(target, (5,), eps=1e-5) * upstream).sum(), target)
    assert torch.allclose(drawn, wanted, rtol=0, atol=1e-12)


def test_the_spread_takes_a_gradient():
    """sigma is no detached weight: where the cross-entropy cannot move, the loss still moves the target by it."""
    target = randn(1, 6).requires_grad_()
    shaken = apply_fluctuation(target, 2 + randn(1, 6, seed=1), randn(1, 6, seed=2))
    uncertainty_regularized_loss(torch.zeros(1, 6).double(), target, shaken, progress=0.0).backward()
    assert target.grad.abs().max() > 1e-4


@pytest.mark.parametrize("granularity", ["batch", "sample"])
def test_gradcheck(granularity):
    """Gradients to query, target and shaken target are those of finite differences."""
    inputs = tuple(randn(3, 4, seed=s).requires_grad_() for s in range(3))
    assert torch.autograd.gradcheck(
        lambda q, t, a: uncertainty_regularized_loss(q, t, a, progress=0.6, scale=1.3, granularity=granularity), inputs
    )


# --- the transcriptions -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_fluctuation_equals_the_loops(seed):
    """Random targets and noise, element by element."""
    x, alpha, beta = (randn(4, 6, seed=10 * seed + i) for i in range(3))
    assert torch.allclose(apply_fluctuation(x, alpha, beta), loop_shaken(x, alpha, beta), atol=1e-12)


def test_noise_has_the_moments_of_the_rows():
    """alpha is N(1, s) and beta N(m, s), independent for each element: mean and variance over 4,000 draws."""
    x = torch.tensor([[0.3, 0.9, 1.4, 0.1]], dtype=torch.float64)
    m, s = float(x.mean()), float(x.std())
    normal = F.layer_norm(x, (4,), eps=1e-5)[0]
    shaken = gaussian_feature_augment(x.expand(4000, 4), seed=0)
    # alpha IN + beta has the mean IN + m and the variance s^2 (IN^2 + 1).
    variance = s * s * (normal**2 + 1)
    assert bool(((shaken.mean(0) - normal - m).abs() < 4 * (variance / 4000).sqrt()).all())
    assert bool(((shaken.var(0) / variance - 1).abs() < 4 * math.sqrt(2 / 4000)).all())
    correlation = torch.corrcoef(shaken.T) - torch.eye(4)
    assert correlation.abs().max() < 4 / math.sqrt(4000)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("granularity", ["batch", "sample"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("progress", "gamma_scale", "scale"), [(0.0, 1.0, 1.0), (0.3, 1.0, 1.4), (1.0, 2.5, 0.7)])
def test_loss_equals_the_loops(seed, granularity, weighted, progress, gamma_scale, scale):
    """Both granularities, weights, schedule and scale: the value of the loops."""
    query, target, shaken = (randn(5, 4, seed=10 * seed + i) for i in range(3))
    weights = randn(5, 5, seed=9) if weighted else None
    options = {"progress": progress, "gamma_scale": gamma_scale, "scale": scale, "granularity": granularity}
    got = uncertainty_regularized_loss(query, target, shaken, log_weights=weights, **options).item()
    assert got == pytest.approx(loop_loss(query, target, shaken, weights=weights, **options), rel=1e-10)


def test_module_is_normalise_shake_and_loss():
    """The module equals its parts: rows of length 4 by default, the noise of its augmenter, and its own count."""
    query, target = randn(4, 6), randn(4, 6, seed=1)
    loss = MultiGrainedUncertaintyLoss(4, GaussianFeatureAugmenter(seed=3))
    loss.step()
    q, t = (4 * F.normalize(x, dim=1) for x in (query, target))
    noise = torch.Generator().manual_seed(3)
    wanted = uncertainty_regularized_loss(q, t, gaussian_feature_augment(t, seed=noise), progress=0.25)
    assert loss(query, target).item() == pytest.approx(wanted.item(), rel=1e-12)
    given = uncertainty_regularized_loss(q, t, gaussian_feature_augment(t, seed=noise), progress=0.9)
    assert loss(query, target, progress=0.9).item() == pytest.approx(given.item(), rel=1e-12)
    # As the plain function on unit rows does with its own scale.
    unit = [F.normalize(x, dim=1) for x in (query, target)]
    shaken = gaussian_feature_augment(4 * unit[1], seed=3)
    own_scale = uncertainty_regularized_loss(*unit, shaken, progress=0.25, scale=4.0)
    assert own_scale.item() == pytest.approx(wanted.item(), rel=1e-12)
    fine = uncertainty_regularized_loss(*unit, shaken, progress=1.0, gamma_scale=1e3, scale=4.0)
    assert fine.item() == pytest.approx(F.cross_entropy(16 * unit[0] @ unit[1].T, torch.arange(4)).item(), rel=1e-12)


# --- invariants and state ---------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.permutations(list(range(4))), st.floats(0, 1), st.sampled_from(["batch", "sample"]))
def test_the_order_of_pairs_does_not_matter(seed, order, progress, granularity):
    """Pairs may stand in any order; between start and end the loss lies between its coarse and its fine part."""
    query, target, shaken = (randn(4, 5, seed=seed + i) for i in range(3))

    def loss(*parts, **options):
        return uncertainty_regularized_loss(*parts, granularity=granularity, **options).item()

    value = loss(query, target, shaken, progress=progress)
    assert loss(query[order], target[order], shaken[order], progress=progress) == pytest.approx(value, abs=1e-9)
    coarse = loss(query, target, shaken, progress=0.0)
    fine = loss(query, target, shaken, progress=1.0, gamma_scale=1e3)
    assert min(coarse, fine) - 1e-9 <= value <= max(coarse, fine) + 1e-9


def test_the_schedule():
    """exp(-gamma_scale progress): from 1 to .368, and nothing left at a large scale."""
    assert [coarse_weight(p) for p in (0, 0.5, 1)] == pytest.approx([1, 0.60653, 0.36788], abs=5e-6)
    assert coarse_weight(1.0, 1000.0) == 0.0


def test_state_is_saved_and_restored():
    """A module that takes the state of another goes on as that one would have: same count, same noise."""
    query, target = randn(4, 6), randn(4, 6, seed=1)
    one, other = (MultiGrainedUncertaintyLoss(8, GaussianFeatureAugmenter(seed=s)) for s in (0, 1))
    for _ in range(3):
        one(query, target)
        one.step()
    other.load_state_dict(one.state_dict())
    assert other.progress == 3 / 8
    assert torch.equal(one(query, target), other(query, target))
    for _ in range(20):
        one.step()
    assert one.progress == 1.0


def test_evaluation_mode_shakes_nothing():
    """In evaluation mode the coarse term sees the plain targets, and two calls agree."""
    query, target = randn(4, 6), randn(4, 6, seed=1)
    loss = MultiGrainedUncertaintyLoss(8).eval()
    q, t = (4 * F.normalize(x, dim=1) for x in (query, target))
    assert loss(query, target).item() == pytest.approx(uncertainty_regularized_loss(q, t, t, progress=0.0).item())
    assert torch.equal(loss(query, target), loss(query, target))


def test_half_precision():
    """bfloat16: shaken targets keep the dtype, the loss is float32 and near the exact one."""
    query, target = randn(4, 6), randn(4, 6, seed=1)
    shaken = gaussian_feature_augment(target.bfloat16(), seed=0)
    assert shaken.dtype == torch.bfloat16
    got = uncertainty_regularized_loss(query.bfloat16(), target.bfloat16(), shaken, progress=0.5)
    want = uncertainty_regularized_loss(query, target, gaussian_feature_augment(target, seed=0), progress=0.5)
    assert got.dtype == torch.float32 and got.item() == pytest.approx(want.item(), rel=0.03)


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: uncertainty_regularized_loss(Q, T[:1], T, progress=0),
            r"target must have the shape of query: \(2, 4\)",
        ),
        (lambda: uncertainty_regularized_loss(Q, T, T[:, :3], progress=0), "target_aug must have the shape of query"),
        (lambda: uncertainty_regularized_loss(Q, T, T, progress=7), "progress must lie between 0.0 and 1.0: got 7"),
        (lambda: uncertainty_regularized_loss(Q, T, T, progress=-0.1), "progress must lie between"),
        (
            lambda: uncertainty_regularized_loss(Q[:, :1], T[:, :1], T[:, :1], progress=0),
            "query must have at least 2 fe",
        ),
        (lambda: uncertainty_regularized_loss(Q, T, T, progress=0, scale=0), "scale must be positive: got 0"),
        (
            lambda: uncertainty_regularized_loss(Q, T, T, progress=0, granularity="row"),
            "granularity must be one of 'ba",
        ),
        (lambda: uncertainty_regularized_loss(Q[:0], T[:0], T[:0], progress=0), "query must have at least one row"),
        (lambda: gaussian_feature_augment(T[:, :1]), "x must have at least 2 features, to have a spread"),
        (lambda: apply_fluctuation(T, ALPHA[:1], BETA), "alpha must have the shape of x"),
        (lambda: apply_fluctuation(T, ALPHA, BETA[:, :2]), "beta must have the shape of x"),
        (lambda: coarse_weight(0.5, -1.0), "gamma_scale must be at least 0"),
        (lambda: MultiGrainedUncertaintyLoss(0), "total_steps must be at least 1: got 0"),
        (lambda: MultiGrainedUncertaintyLoss(1, scale=-4), "scale must be positive"),
        (lambda: GaussianFeatureAugmenter(seed=-1), "seed must be a non-negative integer"),
    ],
)
def test_bad_input(call, message):
    """Bad input is answered with the argument, what it must be, and what came."""
    with pytest.raises(ValueError, match=message):
        call()
