"""Rank correlation, against scipy and against loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis import rank_correlation
from tamis.rank_correlation import average_ranks, kendall, spearman


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(2, 40), levels=st.integers(1, 12))
@settings(max_examples=80, deadline=None)
def test_agrees_with_scipy(seed, n, levels):
    """Ranks, Spearman's and Kendall's should be scipy's, ties and constants included."""
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(seed)
    a, b = rng.integers(levels, size=(2, n)).astype(float)
    assert average_ranks(a).tolist() == stats.rankdata(a).tolist()
    if len(set(a)) == 1 or len(set(b)) == 1:
        assert math.isnan(spearman(a, b))
        assert math.isnan(kendall(a, b))
        return
    assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-12)
    assert kendall(a, b) == pytest.approx(stats.kendalltau(a, b).statistic, abs=1e-12)
    assert kendall(np.exp(a), -b) == pytest.approx(-kendall(a, b), abs=1e-12)


def test_blocks_do_not_show(monkeypatch):
    """Kendall's should not depend on how many rows are compared at once; columns are ranked each by itself."""
    a, b = np.random.default_rng(0).random((2, 50))
    whole = kendall(a, b)
    monkeypatch.setattr(rank_correlation, "_BLOCK", 7)
    assert kendall(a, b) == whole
    both = average_ranks(np.stack([a, b], 1))
    assert (both[:, 1] == average_ranks(b)).all()


@pytest.mark.parametrize(
    ("one", "other", "message"),
    [
        ([1.0, 2.0], [1.0], "other must have one entry per row of one"),
        ([1.0], [1.0], "the number of scores must be at least 2"),
        ([1.0, math.nan], [1.0, 2.0], "one must be finite"),
        ([[1.0], [2.0]], [1.0, 2.0], "scores must be one-dimensional"),
    ],
)
def test_bad_input_is_refused(one, other, message):
    """Each mistake should be answered in a line."""
    for call in (spearman, kendall):
        with pytest.raises(ValueError, match=message):
            call(one, other)
