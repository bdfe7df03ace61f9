"""Allocation: exact by its optimality conditions, by worked numbers and by trying every whole number."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tamis.allocation import (
    capped_simplex_projection,
    rank_in_group,
    round_to_budget,
    round_to_total,
    water_filling,
)

SIZES = np.array([50.0, 100.0, 200.0])


def _problem(values: st.SearchStrategy[float]) -> st.SearchStrategy[tuple[np.ndarray, np.ndarray, np.ndarray, float]]:
    """Values, floors, ceilings (some infinite) and where the total lies between the sums of the bounds."""

    def of_length(k: int) -> st.SearchStrategy[tuple[np.ndarray, np.ndarray, np.ndarray, float]]:
        floats = st.floats(0, 50).map(lambda v: round(v, 3))
        gaps = st.one_of(floats, st.just(np.inf), st.just(0.0))
        return st.tuples(
            arrays(np.float64, k, elements=values),
            arrays(np.float64, k, elements=floats),
            arrays(np.float64, k, elements=gaps),
            st.floats(0, 1),
        ).map(lambda p: (p[0], p[1], p[1] + p[2], p[3]))

    return st.integers(1, 8).flatmap(of_length)


def _total(low: np.ndarray, high: np.ndarray, share: float) -> float:
    least, most = low.sum(), np.where(np.isfinite(high), high, low + 80.0).sum()
    return float(least + share * (most - least))


def test_projection_worked_numbers() -> None:
    """Sizes 50, 100, 200 with softmax targets give the numbers worked out by hand, with their shift."""
    shares = np.exp(np.array([3.0, 2.0, 0.6]))
    shares /= shares.sum()
    target = 120 * shares
    assert target == pytest.approx([82.270817, 30.265742, 7.463440], abs=1e-6)
    x = capped_simplex_projection(target, 120, lower=1, upper=SIZES)
    assert x == pytest.approx([50, 46.401151, 23.598849], abs=1e-6)
    assert x[1] - target[1] == pytest.approx(16.135409, abs=1e-6)
    x = capped_simplex_projection(200 * shares, 200, lower=1, upper=SIZES)
    assert x == pytest.approx([50, 94.001918, 55.998082], abs=1e-6)


@given(_problem(st.floats(-100, 100)))
@settings(deadline=None)
def test_projection_meets_the_kkt_conditions(problem: tuple[np.ndarray, np.ndarray, np.ndarray, float]) -> None:
    """The total is hit, the bounds hold, and one shift explains every entry: free, at its floor or at its ceiling."""
    target, low, high, share = problem
    total = _total(low, high, share)
    x = capped_simplex_projection(target, total, low, high)
    assert x.sum() == pytest.approx(total, abs=1e-9)
    assert (x >= low).all()
    assert (x <= high).all()
    moved = x - target
    at_floor, at_ceiling = x == low, x == high
    # Entries over their floor were not held up: their move is at most the shift. Entries under their ceiling: at least.
    assert moved[~at_floor].max(initial=-np.inf) <= moved[~at_ceiling].min(initial=np.inf) + 1e-9


@given(_problem(st.floats(-100, 100)), st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_no_feasible_point_is_nearer(problem: tuple[np.ndarray, np.ndarray, np.ndarray, float], seed: int) -> None:
    """Moving any amount from one entry to another, within the bounds, never comes nearer to the target."""
    target, low, high, share = problem
    x = capped_simplex_projection(target, _total(low, high, share), low, high)
    rng = np.random.default_rng(seed)
    for a, b in itertools.permutations(range(len(x)), 2):
        step = rng.random() * min(x[a] - low[a], high[b] - x[b], 10.0)
        other = x.copy()
        other[a] -= step
        other[b] += step
        assert ((other - target) ** 2).sum() >= ((x - target) ** 2).sum() - 1e-9


def test_projection_agrees_with_bisection() -> None:
    """On thousands of groups the sorted bends give what bisection on the shift gives."""
    rng = np.random.default_rng(0)
    target, low = rng.normal(10, 20, 5000), rng.random(5000)
    high = low + rng.integers(0, 60, 5000)
    left, right = -500.0, 500.0
    for _ in range(200):
        middle = (left + right) / 2
        left, right = (middle, right) if np.clip(target + middle, low, high).sum() < 60_000 else (left, middle)
    x = capped_simplex_projection(target, 60_000, low, high)
    np.testing.assert_allclose(x, np.clip(target + right, low, high), atol=1e-9)


def test_projection_at_the_ends_of_its_range() -> None:
    """A total at the sum of the floors or the ceilings gives these, and one group gets everything."""
    low, high = np.array([1.0, 2.0, 0.0]), np.array([2.0, 2.0, 7.5])
    target = [9.0, -4.0, 1.0]
    assert capped_simplex_projection(target, 3.0, low, high).tolist() == low.tolist()
    assert capped_simplex_projection(target, 11.5, low, high).tolist() == high.tolist()
    assert capped_simplex_projection([3.0], 8.0).tolist() == [8.0]
    assert capped_simplex_projection([3.0, 1.0], 8.0, lower=-np.inf).tolist() == [5.0, 3.0]


def test_projection_leaves_alone_what_fits() -> None:
    """A target that already has the total and lies within the bounds is its own projection; it is not written to."""
    target = np.array([0.25, 0.5, 0.25])
    target.flags.writeable = False
    assert capped_simplex_projection(target, 1.0, 0.0, 1.0).tolist() == target.tolist()


def test_water_filling_worked_numbers() -> None:
    """Floors first, then shares in proportion; prices count; equal weights under ceilings are the UniMax split."""
    assert water_filling([0, 0, 1], 600, lower=10) == pytest.approx([10, 10, 580])
    assert water_filling([0.5, 1.0], 30, costs=[4, 1]) == pytest.approx([5, 10])
    assert water_filling([3, 1], 40) == pytest.approx([30, 10])
    assert water_filling([1, 1, 1], 100, upper=[10, 200, 30]) == pytest.approx([10, 60, 30])


def test_equal_weights_are_the_unimax_loop() -> None:
    """Serving the smallest group first, each with an equal share of what is left, is water-filling."""
    rng = np.random.default_rng(1)
    caps = rng.integers(1, 1000, 50).astype(float)
    total = left = 0.4 * caps.sum()
    expected = np.zeros(50)
    for served, group in enumerate(np.argsort(caps)):
        expected[group] = min(left / (50 - served), caps[group])
        left -= expected[group]
    np.testing.assert_allclose(water_filling(np.ones(50), total, upper=caps), expected, atol=1e-9)


@given(_problem(st.floats(0.01, 100)), st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_water_filling_has_one_level(problem: tuple[np.ndarray, np.ndarray, np.ndarray, float], seed: int) -> None:
    """The budget is spent exactly, the bounds hold, and amount over weight is one level except where a bound holds."""
    weights, low, high, share = problem
    price = np.random.default_rng(seed).uniform(0.1, 10, len(weights))
    total = _total(price * low, price * high, share)
    x = water_filling(weights, total, lower=low, upper=high, costs=price)
    assert price @ x == pytest.approx(total, rel=1e-9, abs=1e-9)
    assert (x >= low).all()
    assert (x <= high).all()
    level = x / weights
    over_floor, under_ceiling = level[x > low], level[x < high]
    assert over_floor.max(initial=-np.inf) <= under_ceiling.min(initial=np.inf) * (1 + 1e-9) + 1e-9


def test_weight_zero_stays_at_its_floor() -> None:
    """A group without weight takes nothing, and a total that only it could take is refused."""
    assert water_filling([0, 2], 10, lower=[3, 0]).tolist() == [3.0, 7.0]
    with pytest.raises(ValueError, match="total must lie between the sums of the bounds, 3 and 8"):
        water_filling([0, 2], 10, lower=[3, 0], upper=[100, 5])


@given(st.integers(1, 4), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=60)
def test_rounding_is_the_nearest_whole_point(k: int, seed: int) -> None:
    """Of all whole numbers within the bounds and with the total, none lies nearer to the values."""
    rng = np.random.default_rng(seed)
    values = rng.uniform(-2, 7, k).round(int(rng.integers(0, 4)))
    low = rng.integers(0, 3, k)
    high = low + rng.integers(0, 5, k)
    total = int(rng.integers(low.sum(), high.sum() + 1))
    counts = round_to_total(values, total, low, high)
    assert counts.dtype == np.int64
    every = np.array(list(itertools.product(*[range(a, b + 1) for a, b in zip(low, high, strict=True)])))
    every = every[every.sum(1) == total]
    assert counts.tolist() in every.tolist()
    assert ((counts - values) ** 2).sum() == pytest.approx(((every - values) ** 2).sum(1).min(), abs=1e-9)


def test_rounding_of_shares_in_floating_point() -> None:
    """Values that are whole up to rounding become these numbers, ties go to the earlier group, bounds are whole."""
    assert round_to_total([0.1 * 30, 0.3 / 0.1, 4.0], 10).tolist() == [3, 3, 4]
    assert round_to_total([0.5, 0.5, 0.5, 0.5], 2).tolist() == [1, 1, 0, 0]
    assert round_to_total([1.0, 1.0], 2, lower=0.2, upper=1.9).tolist() == [1, 1]
    assert round_to_total(np.full(3, 1e9 / 3), 10**9).sum() == 10**9


def test_budget_rounding_spends_what_it_can() -> None:
    """Largest remainders are served first where the money lasts, and a whole share in floating point stays whole."""
    assert round_to_budget([2.5, 1.25], 10.0, [3.0, 2.0]).tolist() == [2, 2]
    assert round_to_budget([200.0, 200.0], 1000, [4, 1]).tolist() == [200, 200]
    assert round_to_budget([0.3 / 0.1, 1.0], 4.0, [1, 1]).tolist() == [3, 1]
    assert round_to_budget([0.2, 3.9], 5.0, [1, 1], lower=1).tolist() == [1, 4]


@given(st.integers(1, 6), st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_budget_rounding_stays_under_the_price(k: int, seed: int) -> None:
    """Every count is the value rounded down or up, the price stays within the budget, and nobody who lost could pay."""
    rng = np.random.default_rng(seed)
    values, price = rng.uniform(0, 20, k), rng.uniform(0.5, 5, k)
    budget = float(price @ values)
    counts = round_to_budget(values, budget, price)
    assert ((counts == np.floor(values)) | (counts == np.ceil(values))).all()
    left = budget - price @ counts
    assert left >= -1e-6
    assert (price[counts < values] > left - 1e-6).all()


@given(st.integers(0, 40), st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_ranks_are_those_of_a_plain_sort(n: int, seed: int) -> None:
    """In every group the rows stand in the order of a stable sort by descending key; rows of no group come last."""
    rng = np.random.default_rng(seed)
    keys, groups = rng.integers(0, 6, n).astype(float), rng.integers(-1, 4, n)
    rank = rank_in_group(keys, groups)
    for group in range(4):
        rows = [int(i) for i in np.flatnonzero(groups == group)]
        for place, row in enumerate(sorted(rows, key=lambda i: -keys[i])):
            assert rank[row] == place
    assert (rank[groups < 0] == np.iinfo(np.int64).max).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: capped_simplex_projection([], 1), "target must hold one number per group: got shape \\(0,\\)"),
        (lambda: capped_simplex_projection([np.nan, 1], 1), "target must be finite: 1 rows"),
        (lambda: capped_simplex_projection([1, 2], 1, lower=[1, 1]), "sums of the bounds, 2 and inf: got 1"),
        (lambda: capped_simplex_projection([1, 2], 9, upper=4), "sums of the bounds, 0 and 8: got 9"),
        (lambda: capped_simplex_projection([1, 2], 9, upper=[1, 2, 3]), "upper must be one number or one per group: 2"),
        (lambda: capped_simplex_projection([1, 2], 9, lower=np.nan), "lower must not be NaN"),
        (lambda: capped_simplex_projection([1, 2], 9, 5, [6, 4]), "lower must not exceed upper: group 1"),
        (lambda: capped_simplex_projection([1, 2], np.nan), "total must lie between"),
        (lambda: water_filling([-1, 2], 9), "weights must not be negative: the lowest is"),
        (lambda: water_filling([1, 2], 9, lower=-1), "lower must not be negative"),
        (lambda: water_filling([1, 2], 9, costs=[1]), "costs must have one entry per group: 2"),
        (lambda: water_filling([1, 2], 9, costs=[1, 0]), "costs must be positive"),
        (lambda: round_to_total([1, 2], 2.5), "total must be a whole number: got 2.5"),
        (lambda: round_to_total([1, 2], 2, upper=0.5), "sums of the bounds, 0 and 0: got 2"),
        (lambda: rank_in_group(np.zeros(3), np.zeros(2, int)), "groups must have the shape of keys: \\(3,\\)"),
        (lambda: round_to_budget([4, 2], 5, [1, 1]), "budget must pay for the values rounded down"),
    ],
)
def test_bad_input_is_named(call: object, message: str) -> None:
    """What cannot be shared out is refused in one line that says why."""
    with pytest.raises(ValueError, match=message):
        call()
