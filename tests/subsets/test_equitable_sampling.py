"""Equitable sampling: worked numbers, brute force, optimality, fits, the adaptive loop, bad input."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.subsets import (
    AdaptiveAllocator,
    PowerLawCurve,
    interacting_allocation,
    optimal_allocation,
    subsample_sizes,
)
from tests.behaviour import ArrayCase

HALF = [PowerLawCurve(0, 4, 0.5), PowerLawCurve(0, 1, 0.5)]


def make(seed):
    rng = np.random.default_rng(seed)
    costs, weights = rng.uniform(1, 3, 4), rng.uniform(1, 3, 4)
    curves = [PowerLawCurve(0.1, b, p) for b, p in zip(rng.uniform(1, 5, 4), rng.uniform(0.3, 0.8, 4), strict=True)]

    def collected(seed, costs):
        names = list(range(len(costs)))
        table = dict(zip(names, costs.tolist(), strict=True))
        plan = AdaptiveAllocator(names, table, 400, batch=10, start=5, p=0.5, a=0.1, explore=0.3, seed=seed)
        while asked := plan.ask():
            for group in asked:
                plan.tell(group, plan.counts[group], float(curves[group].predict(plan.counts[group])))
        return np.array([plan.counts[g] for g in names])

    return [
        ArrayCase(
            name="optimal_allocation",
            call=lambda seed, costs, weights: optimal_allocation(curves, costs, 500, weights=weights),
            inputs=(costs, weights),
            empty=lambda: optimal_allocation([], costs[:0], 500),
        ),
        ArrayCase(
            name="AdaptiveAllocator",
            call=collected,
            inputs=(costs,),
            empty=lambda: AdaptiveAllocator([], {}, 10, batch=1),
        ),
        ArrayCase(
            name="interacting_allocation",
            call=lambda seed, costs: interacting_allocation(lambda n: 1 / np.sqrt(n + n.mean()), costs, 100),
            inputs=(costs,),
            empty=lambda: interacting_allocation(lambda n: n, costs[:0], 100),
        ),
    ]


def loss(curves, n):
    return sum(float(curve.predict(x)) for curve, x in zip(curves, n, strict=True))


# Known curves


def test_sum_of_errors_worked_numbers():
    """Two groups of equal price get the split and the loss worked out by hand; an equal split loses more."""
    n = optimal_allocation(HALF, [1, 1], 1000)
    assert n == pytest.approx([715.896347, 284.103653], abs=1e-6)
    assert loss(HALF, n) == pytest.approx(0.208826, abs=1e-6)
    assert loss(HALF, [500, 500]) == pytest.approx(0.223607, abs=1e-6)


def test_prices_worked_numbers():
    """A price of 4 against 1 makes the two numbers equal, and the money is spent."""
    n = optimal_allocation(HALF, [4, 1], 1000)
    assert n == pytest.approx([200, 200], abs=1e-6)
    assert loss(HALF, n) == pytest.approx(0.353553, abs=1e-6)


def test_worst_group_worked_numbers():
    """Max-min brings both errors to one level."""
    n = optimal_allocation(HALF, [1, 1], 1000, utility="maxmin")
    assert n == pytest.approx([941.176471, 58.823529], abs=1e-6)
    assert [c.predict(x) for c, x in zip(HALF, n, strict=True)] == pytest.approx([0.130384, 0.130384], abs=1e-6)


@given(st.integers(1, 7), st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.5, 1.0, 3.0]))
@settings(deadline=None, max_examples=12)
def test_money_gains_the_same_everywhere(groups, seed, alpha):
    """The rate is one number for all groups above their minimum, and no higher at the minimum; the money is spent."""
    rng = np.random.default_rng(seed)
    curves = [PowerLawCurve(*x) for x in rng.uniform([0, 0.5, 0.2], [0.3, 6, 1.2], (groups, 3))]
    costs, weights = rng.uniform(0.2, 5, groups), rng.uniform(0.1, 3, groups)
    minimum = rng.choice([0, 30], groups)
    budget = float(costs @ minimum) + 2e5
    n = optimal_allocation(curves, costs, budget, utility=alpha, weights=weights, minimum=minimum)
    assert costs @ n == pytest.approx(budget, rel=1e-12)
    assert (n >= minimum).all()
    error = np.array([c.predict(x) for c, x in zip(curves, n, strict=True)])
    slope = np.array([-c.derivative(x) for c, x in zip(curves, n, strict=True)])
    rate = weights * (1 - error) ** -alpha * slope / costs
    inner = n > minimum * (1 + 1e-9)
    assert np.ptp(rate[inner]) <= 1e-9 * rate[inner].max()
    assert (rate[~inner] <= rate[inner].max() * (1 + 1e-9)).all()


@given(st.integers(2, 6), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=12)
def test_max_min_levels_all_that_are_above_their_minimum(groups, seed):
    """Groups above their minimum share the highest error, and the money is spent."""
    rng = np.random.default_rng(seed)
    curves = [PowerLawCurve(*x) for x in rng.uniform([0, 0.5, 0.3], [0.05, 6, 1.0], (groups, 3))]
    costs, minimum = rng.uniform(0.2, 5, groups), rng.choice([0, 50], groups)
    n = optimal_allocation(curves, costs, float(costs @ minimum) + 3000, utility="maxmin", minimum=minimum)
    error = np.array([c.predict(x) for c, x in zip(curves, n, strict=True)])
    assert costs @ n == pytest.approx(costs @ minimum + 3000, rel=1e-12)
    inner = n > minimum * (1 + 1e-9)
    assert error[inner] == pytest.approx(np.full(inner.sum(), error.max()), rel=1e-9)


def test_between_the_sum_and_the_worst_group():
    """The larger alpha, the nearer the errors; a very large one is nearly max-min."""
    gaps = []
    for alpha in (0.0, 1.0, 5.0, 500.0):
        n = optimal_allocation(HALF, [1, 1], 1000, utility=alpha)
        gaps.append(float(HALF[0].predict(n[0]) - HALF[1].predict(n[1])))
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] < 0.01
    assert optimal_allocation(HALF, [1, 1], 1000, utility="sum").tolist() == pytest.approx(
        optimal_allocation(HALF, [1, 1], 1000, utility=0).tolist()
    )


def test_equal_groups_scales_and_what_cannot_learn():
    """Equal groups share equally, only ratios of weights count, and a group without gain gets its minimum."""
    alike = [PowerLawCurve(0.1, 2, 0.7)] * 4
    assert optimal_allocation(alike, [1] * 4, 100) == pytest.approx([25] * 4)
    one = optimal_allocation(HALF, [1, 2], 100, weights=[1, 3])
    assert optimal_allocation(HALF, [1, 2], 100, weights=[10, 30]) == pytest.approx(one)
    for utility in ("sum", "maxmin", 2.0):
        n = optimal_allocation([PowerLawCurve(0.9, 0, 0.5), *HALF], [1, 1, 1], 1000, utility=utility, minimum=[7, 0, 0])
        assert n[0] == 7
        assert n.sum() == pytest.approx(1000)
    still = optimal_allocation([PowerLawCurve(0.9, 0, 0.5)] * 2, [1, 1], 50, minimum=[3, 4])
    assert still.tolist() == [3, 4]
    assert optimal_allocation(HALF, [1, 1], 7, minimum=[3, 4]).tolist() == [3, 4]


@pytest.mark.parametrize("utility", ["sum", "maxmin"])
@pytest.mark.parametrize("curves", [HALF, [PowerLawCurve(0.2, 1, 1.0), PowerLawCurve(0.0, 3, 0.4)]])
def test_whole_numbers_are_the_best_of_all(curves, utility):
    """Of all splits of 12 samples none has a smaller sum, or a smaller worst error."""
    aim = loss if utility == "sum" else (lambda cs, n: max(float(c.predict(x)) for c, x in zip(cs, n, strict=True)))
    n = optimal_allocation(curves, [1, 1], 12, utility=utility, whole=True)
    assert n.dtype == np.int64
    assert n.sum() == 12
    assert aim(curves, n) == pytest.approx(min(aim(curves, (i, 12 - i)) for i in range(1, 12)))


@given(st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=12)
def test_whole_numbers_of_three_groups_are_the_best_of_all(seed):
    """The same for random curves of three groups at one price, by trying every split."""
    rng = np.random.default_rng(seed)
    curves = [PowerLawCurve(*x) for x in rng.uniform([0, 0.5, 0.3], [0.3, 6, 1.0], (3, 3))]
    n = optimal_allocation(curves, [1, 1, 1], 15, whole=True)
    best = min(loss(curves, (i, j, 15 - i - j)) for i, j in itertools.product(range(1, 14), repeat=2) if i + j < 15)
    assert loss(curves, n) == pytest.approx(best)


def test_whole_numbers_stay_within_the_budget():
    """With prices that differ nothing is overspent, and no group could be paid one more."""
    costs = np.array([3.5, 1.25, 7.0])
    curves = [*HALF, PowerLawCurve(0.1, 9, 0.3)]
    n = optimal_allocation(curves, costs, 300, minimum=[2, 2.5, 0], whole=True)
    assert (n >= [2, 3, 0]).all()
    assert 300 - costs.min() < costs @ n <= 300


class Shifted:
    """A learning curve of a user: finite at no samples at all."""

    def __init__(self, b):
        self.b = b

    def predict(self, n):
        return self.b / (1 + n)

    def derivative(self, n):
        return -self.b / (1 + n) ** 2


def test_curves_of_other_forms():
    """Any falling convex curve will do: for b / (1 + n) shares go with the root of b, after the shift."""
    n = optimal_allocation([Shifted(9.0), Shifted(4.0)], [1, 1], 98)
    assert n == pytest.approx([59, 39])
    n = optimal_allocation([Shifted(100.0), Shifted(0.01)], [1, 1], 5)
    assert n == pytest.approx([5, 0])


class Rising(Shifted):
    def predict(self, n):
        return self.b * n

    def derivative(self, n):
        return self.b


def test_a_rising_curve_is_warned_of():
    """A custom curve that rises is named, as the answer may be wrong."""
    with pytest.warns(UserWarning, match="curves must fall, ever more slowly: that of group 1 does not"):
        optimal_allocation([Shifted(1.0), Rising(0.1)], [1, 1], 10)


# Fits


def test_fit_worked_numbers():
    """A curve through exact points is found again."""
    n = np.array([10, 30, 100, 300, 1000])
    curve = PowerLawCurve.fit(n, 0.1 + 2 * n**-0.5)
    assert (curve.a, curve.b, curve.p) == pytest.approx((0.1, 2, 0.5), abs=1e-4)


@given(st.floats(0, 0.5), st.floats(0.2, 5), st.floats(0.1, 1.5))
@settings(deadline=None, max_examples=25)
def test_fits_of_exact_points_predict_them(a, b, p):
    """Whatever the curve, its points are met, and with known a and p, b is exact."""
    n = np.array([8, 16, 32, 64, 128, 256])
    error = a + b * n**-p
    curve = PowerLawCurve.fit(n, error)
    np.testing.assert_allclose(curve.predict(n), error, atol=1e-5)
    assert PowerLawCurve.fit(n, error, a=a, p=p).b == pytest.approx(b)


def test_fits_are_least_squares():
    """No curve on a fine grid has a smaller weighted loss, and neither a nor b is negative."""
    rng = np.random.default_rng(0)
    n = np.repeat([5.0, 10, 20, 40], 5)
    for trial in range(5):
        error = 0.05 * trial + n**-0.6 + 0.05 * rng.normal(size=20)
        sigma = rng.uniform(0.5, 2, 20)
        curve = PowerLawCurve.fit(n, error, sigma)
        assert min(curve.a, curve.b) >= 0
        best = (((curve.predict(n) - error) / sigma) ** 2).sum()
        a, b, p = np.meshgrid(np.linspace(0, 0.5, 26), np.linspace(0, 4, 41), np.linspace(0.05, 4, 80))
        guess = a[..., None] + b[..., None] * n ** -p[..., None]
        assert best <= (((guess - error) / sigma) ** 2).sum(-1).min() + 1e-9


def test_rising_errors_give_a_flat_curve():
    """Errors that rise with the data promise nothing: b is 0 and a is their mean."""
    curve = PowerLawCurve.fit([10, 20, 40], [0.1, 0.2, 0.3])
    assert (curve.b, curve.a) == (0, pytest.approx(0.2))
    assert curve.derivative(10) == 0
    assert curve.predict(0) == pytest.approx(0.2)


def test_the_error_of_b_is_that_of_repeated_fits():
    """The standard error is what b scatters by when the noise is drawn anew."""
    rng = np.random.default_rng(0)
    n = np.repeat([10.0, 20, 40, 80], 10)
    fits = [PowerLawCurve.fit(n, 3 * n**-0.5 + 0.1 * rng.normal(size=40), a=0, p=0.5) for _ in range(400)]
    assert np.mean([f.b_error for f in fits]) == pytest.approx(np.std([f.b for f in fits]), rel=0.1)


# Unknown curves


def spend(plan, curves, noise=0.0, seed=0, each=1):
    """Run the loop to its end on errors from known curves."""
    rng, history = np.random.default_rng(seed), []
    while asked := plan.ask():
        history.append(asked)
        for group in asked:
            for n in subsample_sizes(plan.counts[group]) * each:
                plan.tell(group, n, float(curves[group].predict(n)) + noise * rng.normal())
    return history


def test_exact_errors_and_batches_of_one_give_the_optimum():
    """Told exact errors, batch 1 ends at the best whole split of 12."""
    for utility in ("sum", "maxmin"):
        plan = AdaptiveAllocator([0, 1], {0: 1, 1: 1}, 12, batch=1, start=2, utility=utility, a=0, p=0.5)
        spend(plan, HALF)
        expected = optimal_allocation(HALF, [1, 1], 12, utility=utility, whole=True, minimum=[2, 2])
        assert list(plan.counts.values()) == expected.tolist()


def test_all_three_parameters_are_found_from_subsamples():
    """With nothing known of the curves but exact errors of subsamples, the split is the best up to a batch."""
    curves = [PowerLawCurve(0.1, 4, 0.5), PowerLawCurve(0.3, 2, 0.8), PowerLawCurve(0.0, 1, 0.4)]
    plan = AdaptiveAllocator([0, 1, 2], {0: 1, 1: 2, 2: 1}, 2000, batch=20, start=20)
    spend(plan, curves)
    expected = optimal_allocation(curves, [1, 2, 1], 2000)
    assert np.abs(np.array(list(plan.counts.values())) - expected).max() <= 20
    assert plan.left == pytest.approx(0, abs=40)


def test_noisy_errors_come_near():
    """With noise on every error the loss is within 2 % of the best."""
    plan = AdaptiveAllocator([0, 1], {0: 1, 1: 1}, 1000, batch=25, start=20, a=0, p=0.5)
    spend(plan, HALF, noise=0.02, each=3)
    assert loss(HALF, plan.counts.values()) <= 1.02 * 0.208826


def test_the_budget_is_kept_and_the_last_batch_is_cut():
    """Spending stops where no sample can be paid, and the last batch is as large as the money allows."""
    plan = AdaptiveAllocator(["a", "b"], {"a": 1.5, "b": 1.0}, 57.0, batch=10, start=5, a=0, p=0.5)
    history = spend(plan, {"a": HALF[0], "b": HALF[1]})
    assert history[0] == {"a": 5, "b": 5}
    assert all(len(asked) == 1 for asked in history[1:])
    assert 0 <= plan.left < 1.0
    assert plan.ask() == {}


def test_weights_move_batches_and_exploring_reaches_all():
    """A group of weight 0 gets its start only; with exploring it gets more."""
    for explore in (0.0, 0.5):
        plan = AdaptiveAllocator(
            [0, 1], {0: 1, 1: 1}, 300, batch=10, start=10, weights={0: 0, 1: 1}, a=0, p=0.5, explore=explore
        )
        spend(plan, HALF)
        assert (plan.counts[0] == 10) == (explore == 0)


def test_a_bonus_prefers_what_is_uncertain():
    """Of two groups with one curve the one measured with more noise gets more when its standard error counts."""
    counts = []
    for bonus in (0.0, 3.0):
        plan = AdaptiveAllocator([0, 1], {0: 1, 1: 1}, 400, batch=10, start=20, a=0, p=0.5, bonus=bonus)
        while asked := plan.ask():
            for group in asked:
                for sign in (-1, 1) if group == 0 else (0, 0):
                    n = plan.counts[group]
                    plan.tell(group, n, 2 / n**0.5 * (1 + 0.3 * sign))
        counts.append(plan.counts[0])
    assert counts[0] == 200
    assert counts[1] > counts[0]


def test_subsample_sizes():
    """Sizes are the fractions of what is held, each once, without those that are too small."""
    assert subsample_sizes(80) == [10, 20, 40, 80]
    assert subsample_sizes(3, fractions=(0.1, 0.5, 0.6, 1)) == [2, 3]


# Groups that learn from one another


def test_without_sharing_it_is_the_known_optimum():
    """Where groups learn from their own samples alone, projected gradients find the split of the closed form."""
    n = interacting_allocation(lambda n: np.array([4, 1]) / np.sqrt(n), [4, 1], 1000)
    assert n == pytest.approx([200, 200], rel=1e-3)
    n = interacting_allocation(lambda n: np.array([4, 1]) / np.sqrt(n), [1, 1], 1000, utility=2.0)
    assert n == pytest.approx(optimal_allocation(HALF, [1, 1], 1000, utility=2.0), rel=1e-3)


def test_with_sharing_it_is_the_best_of_a_fine_grid():
    """Where samples help the other group too, no split on a grid is better."""
    share = np.array([[1.0, 0.1], [0.4, 1.0]])
    errors = lambda n: np.array([4, 3]) / np.sqrt(share @ n)  # noqa: E731
    n = interacting_allocation(errors, [1, 1], 1000)
    assert n.sum() == pytest.approx(1000)
    best = min(errors(np.array([x, 1000 - x])).sum() for x in np.linspace(1, 999, 2000))
    assert errors(n).sum() <= best + 1e-6


ONE = {"x": 1.0}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: optimal_allocation(HALF, [1, 1], 5, minimum=[3, 3]), "budget must pay for the minimum, 6: got 5"),
        (lambda: optimal_allocation(HALF, [1, -1], 5), "costs must be positive: the lowest is -1"),
        (lambda: optimal_allocation(HALF, [1], 5), "costs must have one entry per curve: 2"),
        (lambda: optimal_allocation(HALF, [1, 1], 5, weights=[0, 0]), "weights must not be negative, nor all 0"),
        (lambda: optimal_allocation(HALF, [1, 1], 5, minimum=[-1, 0]), "minimum must not be negative"),
        (lambda: optimal_allocation(HALF, [1, 1], 5, utility="mean"), "utility must be one of 'sum', 'maxmin'"),
        (lambda: optimal_allocation(HALF, [1, 1], 5, utility=-1), "utility must be at least 0"),
        (lambda: optimal_allocation(HALF, [1, 1], 5, utility=1), "budget must bring every group's error below 1"),
        (lambda: PowerLawCurve.fit([10, 20], [0.2, 0.1]), "n must hold 3 different numbers of samples to find 3"),
        (lambda: PowerLawCurve.fit([10, 10, 20], [0.2, 0.1, 0.1]), "n must hold 3 different numbers"),
        (lambda: PowerLawCurve.fit([0, 10, 20], [0.2, 0.1, 0.1]), "n must be positive"),
        (lambda: PowerLawCurve.fit([5, 10, 20], [0.2, 0.1, np.nan]), "error must be finite"),
        (lambda: PowerLawCurve.fit([5, 10, 20], [0.2, 0.1, 0.1], [1, 1, 0]), "sigma must be positive"),
        (lambda: AdaptiveAllocator(["x"], ONE, 10, 5), "budget must pay for 20 samples of each group, 20: got 10"),
        (
            lambda: AdaptiveAllocator(["x", "y"], ONE, 99, 5),
            "costs must have an entry for every group: none for \\['y'\\]",
        ),
        (lambda: AdaptiveAllocator(["x"], {"x": -1}, 99, 5), "costs must be positive"),
        (lambda: AdaptiveAllocator(["x", "x"], ONE, 99, 5), "groups must have different names"),
        (lambda: AdaptiveAllocator(["x"], ONE, 99, 0), "batch must be at least 1"),
        (lambda: AdaptiveAllocator(["x"], ONE, 99, 5).tell("y", 1, 0.1), "group must be one of \\['x'\\]: got 'y'"),
        (lambda: AdaptiveAllocator(["x"], ONE, 99, 5).tell("x", 1, 0.1), "n must lie above 0 and up to 0: got 1"),
        (lambda: interacting_allocation(lambda n: n, [1], 5, utility="maxmin"), "utility must have a gradient"),
        (lambda: interacting_allocation(lambda n: n * np.nan, [1], 5), "errors must be finite"),
        (lambda: interacting_allocation(lambda n: n, [0], 5), "costs must be positive"),
        (lambda: subsample_sizes(1), "n must be at least 2"),
        (lambda: subsample_sizes(9, fractions=(2,)), "fractions must lie above 0"),
    ],
)
def test_bad_input_is_named(call, message):
    """What cannot be split is refused in one line that says why."""
    with pytest.raises(ValueError, match=message):
        call()


def test_asking_twice_is_refused():
    """A batch without a measured error would be bought blindly."""
    plan = AdaptiveAllocator(["x", "y"], {"x": 1, "y": 1}, 99, 5)
    plan.ask()
    plan.tell("x", 20, 0.1)
    with pytest.raises(ValueError, match="errors must be told before the next batch: none came for \\['y'\\]"):
        plan.ask()
