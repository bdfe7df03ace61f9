"""L1-A-MTRL: worked numbers, a linear program and enumeration as oracles, optimality, and bad input."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.subsets import ActiveTaskSampler, LinearMultiTask, allocate, task_relevance
from tests.behaviour import ArrayCase

HEADS, TARGET = np.array([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]]), np.array([1.0, 1.0])


def make(seed: int) -> list[ArrayCase]:
    """Relevance and allocation."""
    rng = np.random.default_rng(seed)
    heads, target = rng.standard_normal((3, 7)), rng.standard_normal(3)
    return [
        ArrayCase(
            "task_relevance",
            lambda _, h, w: task_relevance(h, w),
            (heads, target),
            empty=lambda: task_relevance(heads[:, :0], target),
        ),
        ArrayCase(
            "allocate", lambda _, nu: allocate(nu, 100, minimum=3), (target,), empty=lambda: allocate(target[:0], 100)
        ),
    ]


# --- worked numbers ---------------------------------------------------------------------------------------------------


def test_the_two_norms():
    """The least-L1 coefficients are one task, the least-L2 ones all three."""
    np.testing.assert_allclose(task_relevance(HEADS, TARGET), [0, 0, 1], atol=1e-9)
    spread = task_relevance(HEADS, TARGET, "l2")
    np.testing.assert_allclose(spread, [1 / 3, 1 / 3, 2 / 3], atol=1e-9)
    assert (spread**2).sum() == pytest.approx(0.666667, abs=5e-7)


def test_six_hundred_samples():
    """By L1 all for the third task; by squares of L2 100, 100, 400; with ten at least 10, 10, 580."""
    assert allocate(task_relevance(HEADS, TARGET), 600).tolist() == [0, 0, 600]
    assert allocate(task_relevance(HEADS, TARGET, "l2"), 600, power=2).tolist() == [100, 100, 400]
    assert allocate(task_relevance(HEADS, TARGET), 600, minimum=10).tolist() == [10, 10, 580]


@pytest.mark.parametrize(("counts", "variance"), [([30, 10], 0.4), ([36, 4], 0.5), ([20, 20], 0.5)])
def test_the_variance(counts, variance):
    """For coefficients 3 and 1 and forty samples: by L1 0.4 = 16/40, by squares and equally 0.5."""
    nu = np.array([3.0, 1.0])
    assert (nu**2 / counts).sum() == pytest.approx(variance)
    if counts != [20, 20]:
        assert allocate(nu, 40, power=1 if counts[0] == 30 else 2).tolist() == counts


def test_costs():
    """A task of price 4 and one of price 1, alike in relevance: 5 and 10 samples for 30."""
    assert allocate(np.array([1.0, 1.0]), 30, costs=[4, 1]).tolist() == [5, 10]


# --- oracles ----------------------------------------------------------------------------------------------------------


def least_l1(heads, target):
    """The least L1 norm over all basic solutions of the linear program, by enumeration."""
    k, t = heads.shape
    best = np.inf
    for columns in itertools.combinations(range(t), k):
        part = heads[:, columns]
        if abs(np.linalg.det(part)) > 1e-9:
            best = min(best, float(np.abs(np.linalg.solve(part, target)).sum()))
    return best


@pytest.mark.parametrize("seed", range(8))
def test_equality_is_the_linear_program(seed):
    """No solution of the equations has a smaller L1 norm, and the equations hold."""
    rng = np.random.default_rng(seed)
    heads, target = rng.standard_normal((3, 8)), rng.standard_normal(3)
    nu = task_relevance(heads, target)
    np.testing.assert_allclose(heads @ nu, target, atol=1e-8)
    assert np.abs(nu).sum() == pytest.approx(least_l1(heads, target), rel=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_the_lasso_without_penalty_is_the_linear_program(seed):
    """A tiny penalty comes to within a thousandth of it."""
    rng = np.random.default_rng(100 + seed)
    heads, target = rng.standard_normal((2, 5)), rng.standard_normal(2)
    small = task_relevance(heads, target, alpha=1e-5)
    np.testing.assert_allclose(small, task_relevance(heads, target), atol=1e-3)


def test_the_lasso_of_scikit_learn():
    """Its alpha is ours over the length of the heads."""
    linear_model = pytest.importorskip("sklearn.linear_model")
    rng = np.random.default_rng(0)
    heads, target = rng.standard_normal((6, 9)), rng.standard_normal(6)
    want = linear_model.Lasso(alpha=0.3 / 6, fit_intercept=False, tol=1e-12, max_iter=100_000).fit(heads, target)
    np.testing.assert_allclose(task_relevance(heads, target, alpha=0.3), want.coef_, atol=1e-8)


def test_of_several_solutions_the_shortest():
    """Two equal heads share what one could carry."""
    heads = np.array([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    np.testing.assert_allclose(task_relevance(heads, np.array([1.0, 0.5])), [0.5, 0.5, 0.5], atol=1e-6)


# --- invariants -------------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31))
def test_rotation_and_optimality(seed):
    """Turned heads give the same coefficients; the lasso's conditions hold; L1 is never above that of L2."""
    rng = np.random.default_rng(seed)
    heads, target = rng.standard_normal((3, 6)), rng.standard_normal(3)
    turn = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    one = task_relevance(heads, target)
    np.testing.assert_allclose(task_relevance(turn @ heads, turn @ target), one, atol=1e-6)
    assert np.abs(one).sum() <= np.abs(task_relevance(heads, target, "l2")).sum() + 1e-8
    nu = task_relevance(heads, target, alpha=0.2)
    pull = heads.T @ (target - heads @ nu)
    assert (np.abs(pull) <= 0.2 + 1e-7).all()
    np.testing.assert_allclose(pull[nu != 0], 0.2 * np.sign(nu[nu != 0]), atol=1e-7)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=1, max_size=6), st.integers(0, 200), st.integers(0, 5))
def test_totals_are_exact(relevance, extra, minimum):
    """The counts add up, none is below the minimum, and no single move lowers the variance by much."""
    nu = np.array(relevance)
    if not np.abs(nu).any():
        return
    total = minimum * len(nu) + extra
    counts = allocate(nu, total, minimum=minimum)
    assert counts.sum() == total and (counts >= minimum).all()
    spent = allocate(nu, total + 3, costs=np.arange(1, len(nu) + 1) / len(nu), minimum=minimum)
    assert spent @ (np.arange(1, len(nu) + 1) / len(nu)) <= total + 3 + 1e-6 and (spent >= minimum).all()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 3), st.sampled_from(["l1", "l2"]))
def test_rounds_add_up(seed, rounds, norm):
    """Ask and tell to the end: the total is met exactly and every task has its first round."""
    rng = np.random.default_rng(seed)
    sampler = ActiveTaskSampler(6, 4, 200, norm, rounds=rounds)
    drawn = np.zeros(6, int)
    for _ in range(rounds):
        drawn += sampler.ask()
        sampler.tell(rng.standard_normal((3, 6)), rng.standard_normal(3))
    drawn += sampler.ask()
    assert drawn.sum() == 200 and (drawn >= 4).all() and (drawn == sampler.counts_).all()
    sampler.tell(rng.standard_normal((3, 6)), rng.standard_normal(3))
    with pytest.raises(ValueError, match="rounds are over"):
        sampler.ask()


def test_the_learner_finds_the_directions():
    """Without noise the subspace and the products of basis and heads are exact; a further head fits."""
    rng = np.random.default_rng(3)
    basis = np.linalg.qr(rng.standard_normal((8, 2)))[0]
    heads = rng.standard_normal((2, 5))
    X = [rng.standard_normal((30, 8)) for _ in range(5)]
    model = LinearMultiTask(2, sweeps=20).fit(X, [x @ basis @ heads[:, t] for t, x in enumerate(X)])
    np.testing.assert_allclose(model.basis_ @ model.heads_, basis @ heads, atol=1e-5)
    new = rng.standard_normal(2)
    np.testing.assert_allclose(model.basis_ @ model.head(X[0], X[0] @ basis @ new), basis @ new, atol=1e-5)


# --- bad input --------------------------------------------------------------------------------------------------------


def test_bad_input():
    """One line that names the argument."""
    with pytest.raises(ValueError, match="target_head must have one entry per row of source_heads: 2"):
        task_relevance(HEADS, np.ones(3))
    with pytest.raises(ValueError, match="source_heads must be finite"):
        task_relevance(HEADS * np.nan, TARGET)
    with pytest.raises(ValueError, match="target_head must lie in the span of source_heads: 1 of it does not"):
        task_relevance(np.array([[1.0], [0.0]]), np.array([0.0, 1.0]))
    with pytest.raises(ValueError, match="alpha goes with norm='l1'"):
        task_relevance(HEADS, TARGET, "l2", alpha=1.0)
    with pytest.raises(ValueError, match="relevance must not be zero everywhere"):
        allocate(task_relevance(HEADS, TARGET, alpha=100.0), 10)
    with pytest.raises(ValueError, match="total must be at least 15, the minimum of 3 tasks: got 9"):
        allocate(np.ones(3), 9, minimum=5)
    with pytest.raises(ValueError, match="costs must be positive"):
        allocate(np.ones(2), 9, costs=[1, 0])
    with pytest.raises(ValueError, match=r"total must be at least n_tasks \* explore = 20: got 10"):
        ActiveTaskSampler(4, 5, 10)
    sampler = ActiveTaskSampler(3, 1, 10)
    with pytest.raises(ValueError, match=r"tell\(\) must come after ask\(\)"):
        sampler.tell(HEADS, TARGET)
    sampler.ask()
    with pytest.raises(ValueError, match=r"ask\(\) must come after tell\(\)"):
        sampler.ask()
    with pytest.raises(ValueError, match="heads must have one entry per row of n_tasks: 3 rows, 2"):
        sampler.tell(HEADS[:, :2], TARGET)
    with pytest.raises(ValueError, match="k must be at most the 2 columns: got 3"):
        LinearMultiTask(3).fit([np.ones((4, 2))], [np.ones(4)])
