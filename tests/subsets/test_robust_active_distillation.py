"""Robust active distillation: worked numbers, the linear program as oracle, and what must hold for every game."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.subsets import RobustActiveDistillation, active_baseline, active_gains, robust_active_distribution
from tests.behaviour import ArrayCase

GAINS = np.array([1.0, 0.8, 0.5, 0.2])


def probabilities(seed: int, n: int = 40, classes: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.ones(classes), n)


def make(seed: int) -> list:
    """Cases for the shared checks: the choice, its distribution and the baselines."""
    probs = probabilities(seed)
    rad = RobustActiveDistillation(0.2)
    return [
        ArrayCase(
            "RobustActiveDistillation",
            lambda s, p: rad.query(p, 7, seed=s),
            (probs,),
            empty=lambda: rad.query(np.empty((0, 3)), 1),
            torch_too=True,
            budget=(lambda budget: rad.query(probs, budget).indices, len(probs)),
        ),
        ArrayCase("robust_active_distribution", lambda s, p: robust_active_distribution(p[:, 0], 5), (probs,)),
        ArrayCase("active_gains", lambda s, p: active_gains(p, "entropy"), (probs,)),
        ArrayCase(
            "active_baseline",
            lambda s, p: active_baseline(p, 9, strategy="prop_gain", seed=s),
            (probs,),
            empty=lambda: active_baseline(np.empty((0, 3)), 1),
            budget=(lambda budget: active_baseline(probs, budget, strategy="uniform"), len(probs)),
        ),
    ]


def sure(q, gains, losses, m) -> float:
    """What a distribution earns against the worst set of m points, by trying all."""
    return min(
        sum(q[i] * gains[i] for i in range(len(q)) if i not in wrong) - sum(q[i] * losses[i] for i in wrong)
        for wrong in itertools.combinations(range(len(q)), m)
    )


@pytest.mark.parametrize(
    ("m", "support", "value", "q"),
    [
        (0, 1, 1.0, [1, 0, 0, 0]),
        (1, 3, 0.470588, [0.235294, 0.294118, 0.470588, 0]),
        (2, 3, 0.235294, [0.235294, 0.294118, 0.470588, 0]),
        (3, 4, 0.108108, [0.108108, 0.135135, 0.216216, 0.540541]),
    ],
)
def test_worked_numbers(m, support, value, q):
    """The distributions of the specification should come out."""
    found = robust_active_distribution(GAINS, m)
    assert found.support == support
    assert found.value == pytest.approx(value, abs=5e-7)
    assert found.q.tolist() == pytest.approx(q, abs=5e-7)


def test_values_of_every_support():
    """The values for m = 1 of the supports from 1 to 4."""
    values = [robust_active_distribution(GAINS, 1, at_least=k).value for k in (3, 4)]
    assert values == pytest.approx([0.470588, 0.324324], abs=5e-7)
    firsts = [robust_active_distribution(GAINS[:k], min(1, k - 1), at_least=k).value for k in (2,)]
    assert firsts == pytest.approx([0.444444], abs=5e-7)


def test_equal_gains_are_drawn_uniformly():
    """With equal gains everything should be kept, whatever m."""
    for m in range(1, 6):
        found = robust_active_distribution(np.full(6, 0.3), m)
        assert found.q.tolist() == pytest.approx([1 / 6] * 6)
        assert found.value == pytest.approx((6 - m) / 6 * 0.3)


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(2, 8), cost=st.sampled_from(["none", "any", "like gains"]))
@settings(max_examples=60, deadline=None)
def test_agrees_with_the_linear_program(seed, n, cost):
    """The value should be the optimum of the program, the distribution earn it, and no other earn more."""
    linprog = pytest.importorskip("scipy.optimize").linprog
    rng = np.random.default_rng(seed)
    gains, m = rng.random(n) + 1e-3, int(rng.integers(n))
    losses = {"none": np.zeros(n), "any": rng.random(n) * 2, "like gains": 0.7 * gains}[cost]
    found = robust_active_distribution(gains, m, None if cost == "none" else losses)
    # Variables q, t, s: maximise q g - m t - sum s, with s >= q (g + l) - t.
    objective = np.concatenate([-gains, [m], np.ones(n)])
    bound = np.hstack([np.diag(gains + losses), -np.ones((n, 1)), -np.eye(n)])
    equal = np.concatenate([np.ones(n), np.zeros(n + 1)])[None]
    best = linprog(objective, bound, np.zeros(n), equal, [1.0])
    assert found.value == pytest.approx(-best.fun, abs=1e-9)
    assert found.q.sum() == pytest.approx(1)
    assert sure(found.q, gains, losses, m) == pytest.approx(found.value, abs=1e-9)
    if cost == "like gains":
        assert robust_active_distribution(gains, m, 0 * gains).value == pytest.approx(
            robust_active_distribution(gains, m).value
        )


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(2, 30), scale=st.floats(0.1, 50))
@settings(max_examples=40, deadline=None)
def test_scale_order_and_equal_contributions(seed, n, scale):
    """Scaling gains should scale the value, permuting them permute q, and each kept point contribute the same."""
    rng = np.random.default_rng(seed)
    gains, m, order = rng.random(n) + 0.01, int(rng.integers(n)), rng.permutation(n)
    found = robust_active_distribution(gains, m)
    scaled = robust_active_distribution(gains * scale, m)
    assert scaled.q.tolist() == pytest.approx(found.q.tolist())
    assert scaled.value == pytest.approx(scale * found.value)
    assert robust_active_distribution(gains[order], m).q.tolist() == pytest.approx(found.q[order].tolist())
    kept = found.q > 0
    assert int(kept.sum()) == found.support
    assert np.ptp((found.q * gains)[kept]) < 1e-12
    assert gains[kept].min() >= gains[~kept].max(initial=0)


def test_gains():
    """Margin, confidence and entropy by hand."""
    probs = np.array([[0.7, 0.2, 0.1], [1.0, 0.0, 0.0], [1 / 3] * 3])
    assert active_gains(probs).tolist() == pytest.approx([0.5, 0.0, 1.0])
    assert active_gains(probs, "confidence").tolist() == pytest.approx([0.3, 0.0, 2 / 3])
    entropy = -(0.7 * math.log(0.7) + 0.2 * math.log(0.2) + 0.1 * math.log(0.1)) / math.log(3)
    assert active_gains(probs, "entropy").tolist() == pytest.approx([entropy, 0.0, 1.0])


def test_draws_follow_the_distribution():
    """With replacement points should come as often as q says; without, each once, and the tail say why it went."""
    probs = np.stack([np.array([1.0, 0.8, 0.5, 0.2]) / 2, 1 - np.array([1.0, 0.8, 0.5, 0.2]) / 2], 1)
    rad = RobustActiveDistillation(num_mislabeled=1, replacement=True)
    chosen = rad.query(np.tile(probs, (1, 1)), 4, seed=0)
    counts = np.zeros(4)
    for seed in range(2000):
        np.add.at(counts, rad.query(probs, 4, seed=seed).indices, 1)
    assert (counts / counts.sum()).tolist() == pytest.approx([0.2353, 0.2941, 0.4706, 0], abs=0.02)
    assert chosen.scores.tolist() == pytest.approx([0.235294, 0.294118, 0.470588, 0], abs=5e-7)
    once = RobustActiveDistillation(num_mislabeled=1).query(probs, 2, seed=1)
    assert len(set(once.indices.tolist())) == 2
    rules = dict(zip(once.reasons["row"].tolist(), once.reasons["rule"].tolist(), strict=True))
    assert rules.pop(3) == "uninformative tail"
    assert set(rules.values()) == {"not drawn"}


def test_the_teachers_error_becomes_a_count():
    """A share should be a number of points of the pool, rounded up, and a right teacher leave the hardest alone."""
    probs = probabilities(0, n=30)
    by_share = RobustActiveDistillation(1 - 0.9).query(probs, 3, seed=2).scores
    assert by_share.tolist() == robust_active_distribution(active_gains(probs), 3, at_least=3).q.tolist()
    right = RobustActiveDistillation(0.0).query(probs, 3, seed=2).indices
    assert sorted(right.tolist()) == sorted(active_baseline(probs, 3).tolist())


def test_as_modal_calls_it():
    """A classifier and a pool should do."""

    class Student:
        def predict_proba(self, rows):
            return probabilities(1, n=len(rows))

    strategy = RobustActiveDistillation(0.1)
    chosen = strategy(Student(), np.zeros((20, 4)), n_instances=5, random_state=3)
    assert chosen.tolist() == strategy.query(probabilities(1, n=20), 5, seed=3).indices.tolist()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: robust_active_distribution(GAINS, 4), "num_mislabeled must lie between 0 and 3: got 4"),
        (lambda: robust_active_distribution(-GAINS, 1), "gains must be at least 0: got -1"),
        (lambda: robust_active_distribution(GAINS * math.nan, 1), "gains must be finite"),
        (lambda: robust_active_distribution(GAINS, 1, GAINS[:2]), "losses must have one entry per row of gains"),
        (lambda: robust_active_distribution(GAINS[:0], 0), "gains must be one-dimensional, not empty"),
        (lambda: RobustActiveDistillation(1.0), "teacher_error must be a share from 0 to below 1"),
        (lambda: RobustActiveDistillation(gain="loss"), "gain must be one of"),
        (lambda: RobustActiveDistillation().query(probabilities(0), 41), "budget must be a count between 0 and 40"),
        (lambda: RobustActiveDistillation().query(2 * probabilities(0), 3), "row 0 adds up to 2"),
        (lambda: RobustActiveDistillation(num_mislabeled=40).query(probabilities(0), 3), "num_mislabeled must lie"),
        (lambda: active_gains(np.ones((3, 1))), "at least 2 classes"),
        (lambda: active_baseline(probabilities(0), 3, strategy="core"), "strategy must be one of"),
        (lambda: active_gains(torch.full((2, 2), math.nan)), "probs must be finite"),
    ],
)
def test_bad_input_is_refused(call, message):
    """Each mistake should be answered in a line that names the argument."""
    with pytest.raises(ValueError, match=message):
        call()
