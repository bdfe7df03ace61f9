"""Shingles: numbering, the first look, and the small tools."""

from __future__ import annotations

import numpy as np
import pytest

from tamis.jaccard import jaccard_join
from tamis.shingles import Shingles, distinct_integers, spread


def texts_of(rng, count, vocabulary):
    return [" ".join(f"w{k}" for k in rng.integers(0, vocabulary, rng.integers(1, 14))) for _ in range(count)]


def test_rare_shingles_come_first():
    """Numbers go by how many texts have a shingle; one that is not known has no number and still counts."""
    known = Shingles(["x y", "x z", "x"], size=1)
    assert known.sets.tokens.tolist() == [0, 2, 1, 2, 2]
    other = known.sets_of(["x new new y other"])
    assert (other.tokens.tolist(), other.sizes.tolist()) == ([0, 2], [4])


def test_characters_and_short_texts():
    """Runs of characters cross the spaces of the normalised text; a shorter text is one run, equal to itself only."""
    known = Shingles(["A-b", "ab", ""], unit="character", size=3)
    assert known.sets.sizes.tolist() == [1, 1, 1]
    assert len(set(known.sets.tokens.tolist())) == 3
    assert known.sets_of(["a b", "abc"]).tokens.tolist() == known.sets.tokens[:1].tolist()


def test_what_may_not_match_is_only_sorted_out():
    """The first look lets every match pass, and few others."""
    rng = np.random.default_rng(2)
    left = texts_of(rng, 20, 300)
    right = [*texts_of(rng, 200, 300), *(text + " w1" for text in left)]
    near = Shingles(left, size=2).may_match(right, 0.6)
    assert set(jaccard_join(left, right, threshold=0.6, size=2)[1].tolist()) <= set(near.tolist())
    assert len(near) < 60


def test_spread():
    """Ranges one after the other, empty ones among them."""
    assert spread(np.array([3, 9, 0]), np.array([2, 0, 1])).tolist() == [3, 4, 0]
    assert spread(np.array([], int), np.array([], int)).tolist() == []


def test_distinct_integers():
    """Each once, ascending; of none there are none."""
    assert distinct_integers(np.array([5, -1, 5, 2])).tolist() == [-1, 2, 5]
    assert distinct_integers(np.empty(0, np.int64)).tolist() == []


def test_bad_input():
    """A unit that is none and runs of no units are named."""
    with pytest.raises(ValueError, match="unit must be one of 'word', 'character': got 'line'"):
        Shingles(["a"], unit="line")
    with pytest.raises(ValueError, match="size must be at least 1: got 0"):
        Shingles(["a"], size=0)
