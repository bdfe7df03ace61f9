"""Filters: worked numbers, signs, and agreement with plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tamis.negatives import filters

NONE = np.array([-1])


def test_margins_are_safe_for_negative_scores():
    """Whatever the sign of the positive, a larger margin lowers the ceiling."""
    scores = np.array([0.8, 0.0, -0.5])
    assert filters.margin_ceiling(scores, absolute=0.1) == pytest.approx([0.7, -0.1, -0.6])
    assert filters.margin_ceiling(scores, relative=0.05) == pytest.approx([0.76, 0.0, -0.525])
    assert filters.margin_ceiling(scores, percentage=0.95) == pytest.approx([0.76, 0.0, -0.525])
    assert filters.margin_ceiling(scores, absolute=0.01, percentage=0.95) == pytest.approx([0.76, -0.01, -0.525])
    assert np.isinf(filters.margin_ceiling(scores)).all()


@given(st.floats(-2, 2), st.floats(0, 1), st.floats(0, 1))
def test_ceiling_falls_with_the_margin(score, one, two):
    """The ceiling never rises when the margin grows, and never exceeds the positive's score."""
    weak, strong = sorted([one, two])
    for kind in ("absolute", "relative"):
        first, second = (filters.margin_ceiling(np.array([score]), **{kind: m})[0] for m in (weak, strong))
        assert second <= first <= np.float32(score)


def test_bad_margins():
    """Negative margins and percentages outside [0, 1] are refused."""
    one = np.ones(1)
    with pytest.raises(ValueError, match="absolute margin must be at least 0: got -1"):
        filters.margin_ceiling(one, absolute=-1)
    with pytest.raises(ValueError, match="relative margin must be at least 0"):
        filters.margin_ceiling(one, relative=-0.1)
    with pytest.raises(ValueError, match="percentage must lie between 0 and 1: got 95"):
        filters.margin_ceiling(one, percentage=95)


def test_rank_window_and_score_range():
    """The window looks at ranks alone, the range at scores alone, both ends included."""
    ranks, scores = np.array([[1, 2, 3, 4]]), np.array([[0.9, 0.8, 0.7, 0.6]])
    assert np.isneginf(filters.rank_window(ranks, first=2, last=3).log_weights).tolist() == [[True, False, False, True]]
    decided = filters.score_range(scores, low=0.7, high=0.8).log_weights
    assert np.isneginf(decided).tolist() == [[True, False, False, True]]
    with pytest.raises(ValueError, match="last rank must not be before the first: 2 < 3"):
        filters.rank_window(ranks, first=3, last=2)
    with pytest.raises(ValueError, match="score floor above the ceiling"):
        filters.score_range(scores, low=1, high=0)


def test_guide_is_strict():
    """A candidate that the guide scores like the positive stays; anything above goes."""
    decided = filters.guide(np.array([[0.5, 0.51]]), np.array([0.5]), rival=NONE)
    assert np.isneginf(decided.log_weights).tolist() == [[False, True]]
    decided = filters.guide(np.array([[0.45, 0.35]]), np.array([0.5]), margin=0.1, rival=NONE)
    assert np.isneginf(decided.log_weights).tolist() == [[True, False]]


@given(st.lists(st.lists(st.integers(-1, 6), min_size=5, max_size=5), min_size=1, max_size=6))
def test_repeated_text_against_a_loop(rows):
    """The first candidate of a text stays and is the rival of the later ones, as a loop finds it."""
    indices, groups = np.array(rows), np.array([0, 0, 1, 2, 1, 3, 3])
    decided = filters.repeated_text(indices, groups)
    rival = np.broadcast_to(decided.rival, indices.shape)
    for i, row in enumerate(rows):
        seen: dict[int, int] = {}
        for j, passage in enumerate(row):
            if passage < 0:
                assert decided.log_weights[i, j] == 0
                continue
            first = seen.setdefault(int(groups[passage]), passage)
            repeated = first != passage or row.index(passage) != j
            assert bool(np.isneginf(decided.log_weights[i, j])) == repeated
            if repeated:
                assert rival[i, j] == first


def test_combine_adds_and_blames_the_first():
    """Log-weights add up; the first rule that drops takes the blame; a soft weight drops nothing."""
    shape = (1, 3)
    soft = filters.Decision("soft", np.array([[-0.5, 0.0, 0.0]], np.float32), NONE, NONE)
    one = filters.matches("one", np.array([[False, True, False]]), rival=NONE)
    two = filters.matches("two", np.array([[False, True, True]]), rival=NONE)
    total, blame = filters.combine([soft, one, two], shape)
    assert total.tolist() == [[-0.5, -np.inf, -np.inf]]
    assert blame.tolist() == [[-1, 1, 2]]
    assert filters.combine([], shape)[0].tolist() == [[0, 0, 0]]
