"""Jaccard: the exact join against a literal one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis import jaccard, shingles
from tamis.jaccard import jaccard_join, jaccard_pairs
from tamis.ngrams import normalise
from tamis.shingles import Shingles


def sets_of(text: str, unit: str, size: int) -> set[tuple[str, ...]]:
    clean = normalise(text)
    units = clean.split(" ") if unit == "word" else list(clean)
    return {tuple(units[i : i + size]) for i in range(max(1, len(units) - size + 1))}


def literal(left, right, threshold, unit, size):
    """Every pair by Python's own sets, by row of right, then of left."""
    found = []
    for j, other in enumerate(right):
        for i, text in enumerate(left):
            a, b = sets_of(text, unit, size), sets_of(other, unit, size)
            similarity = len(a & b) / len(a | b)
            if similarity >= threshold:
                found.append((i, j, similarity))
    return found


def joined(*arguments, **settings):
    return list(zip(*(column.tolist() for column in jaccard_join(*arguments, **settings)), strict=True))


def texts_of(rng, count, vocabulary):
    return [" ".join(f"w{k}" for k in rng.integers(0, vocabulary, rng.integers(1, 14))) for _ in range(count)]


def test_worked_numbers():
    """abcd has the runs abc, bcd and abcde those and cde: 2 of 3; two short texts are one run each."""
    assert joined(["a b c d"], ["a b c d e"], threshold=0.6) == [(0, 0, 2 / 3)]
    assert joined(["a b c d"], ["a b c d e"], threshold=0.67) == []
    assert joined(["A b!"], ["a  B", "a"], threshold=0.1) == [(0, 0, 1.0)]
    assert joined(["abcd"], ["abce"], threshold=0.3, unit="character", size=2) == [(0, 0, 0.5)]


@pytest.mark.parametrize("unit", ["word", "character"])
@pytest.mark.parametrize("largest", [2**62, 40])
def test_equals_the_literal_join(monkeypatch, unit, largest):
    """No pair is missed and none is wrong, at thresholds that floats do not hold exactly, and when codes overflow."""
    monkeypatch.setattr(shingles, "_LARGEST", largest)
    monkeypatch.setattr(jaccard, "_BLOCK", 7)
    rng = np.random.default_rng(largest % 7)
    for trial in range(25):
        left = texts_of(rng, 12, int(rng.integers(2, 12)))
        right = [*texts_of(rng, 15, int(rng.integers(2, 12))), *left[:4], "漢字 \ud800 ", "", "!!"]
        size, threshold = 1 + trial % 5, float(rng.choice([0.1, 0.3, 0.55, 0.7, 0.9, 1.0]))
        expected = literal(left, right, threshold, unit, size)
        assert joined(left, right, threshold=threshold, unit=unit, size=size) == expected


def test_small_pieces_change_nothing(monkeypatch):
    """Candidates are looked at in pieces; how large they are does not show."""
    texts = texts_of(np.random.default_rng(0), 60, 4)
    whole = joined(texts, threshold=0.3, size=2)
    monkeypatch.setattr(jaccard, "_CANDIDATES", 3)
    assert joined(texts, threshold=0.3, size=2) == whole
    assert all(a < b for a, b, _ in whole)


def test_a_part_of_the_sets():
    """Sets that are taken out of order join as they did."""
    texts = texts_of(np.random.default_rng(1), 30, 4)
    sets = Shingles(texts, size=2).sets
    rows = np.array([7, 3, 21])
    a, b, s = jaccard_pairs(sets.take(rows), sets, 0.4)
    expected = literal([texts[i] for i in rows], texts, 0.4, "word", 2)
    assert list(zip(a.tolist(), b.tolist(), s.tolist(), strict=True)) == expected


@given(st.lists(st.text("ab ", max_size=12), min_size=1, max_size=8), st.floats(0.05, 1.0), st.integers(1, 4))
@settings(max_examples=80, deadline=None)
def test_any_texts(texts, threshold, size):
    """Whatever the texts, the join within them is the literal one."""
    expected = [row for row in literal(texts, texts, threshold, "word", size) if row[0] < row[1]]
    assert joined(texts, threshold=threshold, size=size) == expected


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"threshold": 0.0}, r"threshold must lie between 0 \(not included\) and 1: got 0.0"),
        ({"threshold": float("nan")}, "threshold must lie between"),
        ({"threshold": 0.5, "unit": "line"}, "unit must be one of 'word', 'character': got 'line'"),
        ({"threshold": 0.5, "size": 0}, "size must be at least 1: got 0"),
    ],
)
def test_bad_input(settings, message):
    """A setting out of its range is named with what came."""
    with pytest.raises(ValueError, match=message):
        jaccard_join(["a"], ["a"], **settings)
