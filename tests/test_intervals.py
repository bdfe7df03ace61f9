"""Intervals: known values, coverage, and agreement with a plain computation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tamis import intervals


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(0, 10, 0.0, 0.27753), (1, 10, 0.01788, 0.40415), (5, 10, 0.23659, 0.76341), (10, 10, 0.72247, 1.0), (0, 0, 0, 1)],
)
def test_wilson_known_values(successes, trials, low, high):
    """The Wilson interval equals its published values."""
    assert intervals.wilson(successes, trials) == pytest.approx((low, high), abs=1e-5)


@given(st.integers(1, 500), st.data())
def test_wilson_holds_the_share(trials, data):
    """The interval holds the share, lies in [0, 1], and mirrors when successes and failures swap."""
    successes = data.draw(st.integers(0, trials))
    low, high = intervals.wilson(successes, trials)
    assert 0 <= low <= successes / trials <= high <= 1
    assert intervals.wilson(trials - successes, trials) == pytest.approx((1 - high, 1 - low), abs=1e-12)


def test_wilson_refuses_impossible_counts():
    """More successes than trials, or a confidence of 1, is refused."""
    with pytest.raises(ValueError, match="successes must lie between 0 and trials: 3 of 2"):
        intervals.wilson(3, 2)
    with pytest.raises(ValueError, match="confidence must lie between 0 and 1"):
        intervals.wilson(1, 2, confidence=1.0)


def test_bootstrap_agrees_with_a_plain_loop():
    """The blocked bootstrap has the width that a loop over resamples has."""
    rng = np.random.default_rng(3)
    values = rng.normal(1.0, 2.0, 300)
    means = [values[rng.integers(0, 300, 300)].mean() for _ in range(4000)]
    assert intervals.bootstrap_mean(values) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), abs=0.03)


def test_bootstrap_covers_the_mean():
    """Of 200 intervals at 90 % about 180 hold the true mean."""
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(200):
        low, high = intervals.bootstrap_mean(rng.normal(0, 1, 60), confidence=0.9, samples=1000, seed=rng)
        held += low <= 0 <= high
    assert 165 <= held <= 195


def test_paired_bootstrap_counts_and_signs():
    """Wins, losses and ties are counted, and swapping the systems flips the sign."""
    ours, theirs = np.array([1.0, 0.5, 0.2, 0.4]), np.array([0.5, 0.5, 0.3, 0.1])
    found = intervals.paired_bootstrap(ours, theirs)
    assert (found["wins"], found["losses"], found["ties"]) == (2, 1, 1)
    assert found["difference"] == pytest.approx(0.175)
    assert intervals.paired_bootstrap(theirs, ours)["low"] == pytest.approx(-found["high"])
    with pytest.raises(ValueError, match="one entry per row of theirs"):
        intervals.paired_bootstrap(ours, theirs[:2])
