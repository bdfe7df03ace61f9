"""Plackett-Luce: worked numbers, choix and scipy as oracles, loops, and what must hold for every set of rankings."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis import plackett_luce as module
from tamis.plackett_luce import log_likelihood, plackett_luce, standard_errors, strong_components

WINS = np.array([[0, 3, 4], [1, 0, 2], [1, 2, 0]])
RANKINGS = [(0, 1, 2), (0, 2, 1), (1, 0, 2), (2, 0, 1)]
METHODS = ("ilsr", "mm")


def some_rankings(seed: int, items: int, count: int) -> list[list[int]]:
    """Rankings of two to all items, and a cycle, so that all are connected."""
    rng = np.random.default_rng(seed)
    cycle = [[i, (i + 1) % items] for i in range(items)]
    return cycle + [rng.permutation(items)[: rng.integers(2, items + 1)].tolist() for _ in range(count)]


def loops(theta, rankings) -> float:
    """The logarithm of the likelihood by its definition."""
    total = 0.0
    for ranking in rankings:
        for place in range(len(ranking)):
            total += theta[ranking[place]] - math.log(sum(math.exp(theta[i]) for i in ranking[place:]))
    return total


def test_worked_numbers():
    """The strengths of the specification, after one step and in the end, by both methods."""
    assert plackett_luce(wins=WINS, max_iter=1).tolist() == pytest.approx([0.830280, -0.348375, -0.481906], abs=5e-7)
    once = plackett_luce(rankings=RANKINGS, max_iter=1)
    assert once.tolist() == pytest.approx([0.835175, -0.417588, -0.417588], abs=5e-7)
    assert log_likelihood([1, 0, -1], rankings=[(0, 1, 2)]) == pytest.approx(-0.720868, abs=5e-7)
    for method in METHODS:
        two = plackett_luce(wins=np.array([[0, 3], [1, 0]]), method=method)
        assert two.tolist() == pytest.approx([0.549306, -0.549306], abs=5e-7)
        three = plackett_luce(wins=WINS, method=method)
        assert three.tolist() == pytest.approx([0.832497, -0.376119, -0.456378], abs=5e-7)
        four = plackett_luce(rankings=RANKINGS, method=method)
        assert four.tolist() == pytest.approx([0.782906, -0.391453, -0.391453], abs=5e-7)


@given(
    seed=st.integers(0, 2**32 - 1), items=st.integers(2, 7), count=st.integers(0, 12), alpha=st.sampled_from([0, 0.2])
)
@settings(max_examples=30, deadline=None)
def test_the_likelihood_is_greatest(seed, items, count, alpha):
    """Both methods should agree, agree with loops about the likelihood, and no small step should raise it."""
    rankings = some_rankings(seed, items, count)
    found = [plackett_luce(rankings=rankings, method=m, alpha=alpha, tol=1e-11, max_iter=100_000) for m in METHODS]
    assert found[0].mean() == pytest.approx(0, abs=1e-12)
    assert found[0].tolist() == pytest.approx(found[1].tolist(), abs=1e-6)

    def value(theta):
        theta = theta - np.log(np.exp(theta).sum() / items)  # the scale at which alpha is told
        return loops(theta, rankings) + alpha * items * float((theta - np.exp(theta)).sum())

    assert log_likelihood(found[0], rankings=rankings) == pytest.approx(loops(found[0], rankings))
    for i in range(items):
        for step in (-1e-3, 1e-3):
            moved = found[0].copy()
            moved[i] += step
            assert value(moved) <= value(found[0]) + 1e-12


@given(seed=st.integers(0, 2**32 - 1), items=st.integers(2, 7), alpha=st.sampled_from([0.0, 0.05]))
@settings(max_examples=30, deadline=None)
def test_agrees_with_choix(seed, items, alpha):
    """Wins and rankings should give the strengths that choix gives."""
    choix = pytest.importorskip("choix")
    rng = np.random.default_rng(seed)
    wins = rng.poisson(1.0, (items, items)) + np.roll(np.eye(items, dtype=int), 1, axis=1)
    np.fill_diagonal(wins, 0)
    theirs = choix.ilsr_pairwise_dense(wins.astype(float), alpha=alpha, max_iter=100_000)
    for method in METHODS:
        ours = plackett_luce(wins=wins, method=method, alpha=alpha, max_iter=100_000)
        assert ours.tolist() == pytest.approx((theirs - theirs.mean()).tolist(), abs=1e-6)
    rankings = some_rankings(seed, items, 6)
    theirs = choix.ilsr_rankings(items, rankings, alpha=alpha, max_iter=100_000)
    ours = plackett_luce(rankings=rankings, alpha=alpha, max_iter=100_000)
    assert ours.tolist() == pytest.approx((theirs - theirs.mean()).tolist(), abs=1e-6)


@given(seed=st.integers(0, 2**32 - 1), items=st.integers(2, 6))
@settings(max_examples=30, deadline=None)
def test_names_do_not_matter(seed, items):
    """Permuting the items should permute the strengths, and pairs be wins."""
    rng = np.random.default_rng(seed)
    rankings, order = some_rankings(seed, items, 5), rng.permutation(items)
    plain = plackett_luce(rankings=rankings, max_iter=100_000)
    renamed = plackett_luce(rankings=[[int(order[i]) for i in ranking] for ranking in rankings], max_iter=100_000)
    assert renamed[order].tolist() == pytest.approx(plain.tolist(), abs=1e-6)
    pairs = [ranking[:2] for ranking in rankings]
    wins = np.zeros((items, items))
    np.add.at(wins, tuple(np.array(pairs).T), 1)
    both = [plackett_luce(**seen, max_iter=100_000).tolist() for seen in ({"rankings": pairs}, {"wins": wins})]
    assert both[0] == pytest.approx(both[1], abs=1e-6)
    assert log_likelihood(plain, rankings=pairs) == pytest.approx(log_likelihood(plain, wins=wins))


def test_arrays_lists_and_blocks_agree(monkeypatch):
    """Padded arrays should be lists, and blocks should not show."""
    rankings = some_rankings(3, 6, 40)
    padded = np.full((len(rankings), 6), -1)
    for row, ranking in zip(padded, rankings, strict=True):
        row[: len(ranking)] = ranking
    whole = plackett_luce(rankings=rankings)
    errors = standard_errors(whole, rankings=rankings)
    assert (plackett_luce(rankings=padded) == whole).all()
    monkeypatch.setattr(module, "_BLOCK", 18)
    assert plackett_luce(rankings=padded).tolist() == pytest.approx(whole.tolist(), abs=1e-9)
    assert standard_errors(whole, rankings=rankings).tolist() == pytest.approx(errors.tolist())


def test_standard_errors_are_those_of_the_information():
    """They should agree with the second differences of the likelihood, and with what repeated draws show."""
    rankings = some_rankings(1, 4, 10)
    theta, step = plackett_luce(rankings=rankings), 1e-4
    hessian = np.zeros((4, 4))
    for i, j in itertools.product(range(4), repeat=2):
        for a, b in itertools.product((1, -1), repeat=2):
            moved = theta.copy()
            moved[i] += a * step
            moved[j] += b * step
            hessian[i, j] += a * b * loops(moved, rankings) / (4 * step**2)
    expected = np.sqrt(np.diag(np.linalg.pinv(-hessian, rcond=1e-5, hermitian=True)))
    assert standard_errors(theta, rankings=rankings).tolist() == pytest.approx(expected.tolist(), rel=1e-4)
    rng, strengths = np.random.default_rng(0), np.array([0.8, 0.0, -0.8])
    draws = []
    for _ in range(300):
        order = np.argsort(-(strengths + rng.gumbel(size=(60, 3))), axis=1)
        draws.append(plackett_luce(rankings=order))
    told = standard_errors(strengths, rankings=order)
    assert np.std(draws, axis=0).tolist() == pytest.approx(told.tolist(), rel=0.15)


def test_parts_that_are_not_connected_are_named():
    """An item that never loses, or that nobody met, should be named, and alpha should help."""
    with pytest.raises(ValueError, match=r"2 parts, and nothing outside ever beats part \[0\]; give alpha > 0"):
        plackett_luce(rankings=[(0, 1, 2), (0, 2, 1)])
    wins = np.array([[0, 1, 0, 0], [1, 0, 0, 0], [2, 0, 0, 1], [0, 0, 1, 0]])
    with pytest.raises(ValueError, match=r"nothing outside ever beats part \[2, 3\]"):
        plackett_luce(wins=wins)
    assert plackett_luce(wins=wins, alpha=0.01)[2] > 0
    assert strong_components(wins > 0) == [[0, 1], [2, 3]]
    with pytest.raises(ValueError, match="2 parts"):
        plackett_luce(rankings=[(0, 1), (1, 0)], items=3)


def test_too_few_rounds_are_told():
    """A warning should say how far the strengths still moved."""
    with pytest.warns(RuntimeWarning, match="after 2 rounds of 'mm': raise max_iter"):
        plackett_luce(wins=WINS * [[1, 1, 50]], method="mm", max_iter=2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plackett_luce(), "give either rankings or wins"),
        (lambda: plackett_luce(wins=WINS, rankings=RANKINGS), "give either rankings or wins"),
        (lambda: plackett_luce(wins=WINS[:2]), "wins must be square"),
        (lambda: plackett_luce(wins=-WINS), "wins must be counts, at least 0"),
        (lambda: plackett_luce(wins=WINS * math.nan), "wins must be finite"),
        (lambda: plackett_luce(wins=WINS, items=4), "items must be those of wins: 3, got 4"),
        (lambda: plackett_luce(wins=WINS, method="newton"), "method must be one of"),
        (lambda: plackett_luce(wins=WINS, alpha=-1), "alpha must be at least"),
        (lambda: plackett_luce(wins=WINS, max_iter=0), "max_iter must be at least 1"),
        (lambda: plackett_luce(rankings=[]), "rankings must hold at least one item"),
        (lambda: plackett_luce(rankings=[(0, 1, 0)]), "ranking 0 repeats one"),
        (lambda: plackett_luce(rankings=[(0, 1), (0, 5)], items=3), "rankings must hold items below 3: got 5"),
        (lambda: plackett_luce(rankings=np.array([[-1, 0, 1]])), "-1 only after the last"),
        (lambda: plackett_luce(rankings=np.array([[0, 1, -2]])), "rankings must hold item numbers from 0"),
        (lambda: plackett_luce(rankings=np.array([[0.5, 1.0]])), "rankings must hold integers"),
        (lambda: strong_components(WINS[:2] > 0), "beats must be square"),
    ],
)
def test_bad_input_is_refused(call, message):
    """Each mistake should be answered in a line that names the argument."""
    with pytest.raises(ValueError, match=message):
        call()
