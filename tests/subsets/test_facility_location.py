"""Facility location: plain greedy, the bound on the best set, given similarities, memory, and bad input."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.subsets import facility_location_greedy
from tests.behaviour import ArrayCase


def make(seed: int) -> list[ArrayCase]:
    """From embeddings and from similarities."""
    rows = np.random.default_rng(seed).standard_normal((40, 5))
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def by(budget):
        return facility_location_greedy(rows, budget=budget).indices

    return [
        ArrayCase(
            "facility_location_greedy",
            lambda _, x: facility_location_greedy(x, budget=7),
            (rows,),
            lambda: facility_location_greedy(rows[:0], budget=1),
            True,
            (by, 40),
        ),
        ArrayCase(
            "facility_location_greedy, similarities",
            lambda _, s: facility_location_greedy(similarities=s, budget=7),
            (unit @ unit.T,),
        ),
    ]


def cosines(rows):
    unit = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return np.maximum(unit @ unit.T, 0)


def value(similarities, chosen):
    return float(similarities[:, list(chosen)].max(1).sum()) if len(chosen) else 0.0


def plain_greedy(similarities, count, able):
    """Every gain afresh for every choice."""
    taken = []
    for _ in range(count):
        gains = [value(similarities, [*taken, j]) - value(similarities, taken) for j in able if j not in taken]
        left = [j for j in able if j not in taken]
        taken.append(left[int(np.argmax(gains))])
    return taken


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 10))
def test_equals_plain_greedy(seed, count):
    """The lazy choice is the greedy one, and its gains add up to the value."""
    rows = np.random.default_rng(seed).standard_normal((14, 3))
    similarities = cosines(rows)
    found = facility_location_greedy(rows, budget=count)
    assert value(similarities, found.indices) == pytest.approx(
        value(similarities, plain_greedy(similarities, count, range(14))), rel=1e-5
    )
    assert found.scores[found.indices].sum() == pytest.approx(value(similarities, found.indices), rel=1e-5)
    gains = found.scores[found.indices]
    assert (np.diff(gains) <= 1e-5).all()


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31))
def test_near_the_best(seed):
    """At least 1 - 1/e of the value of the best set of three."""
    similarities = cosines(np.random.default_rng(seed).standard_normal((9, 2)))
    found = facility_location_greedy(similarities=similarities, budget=3)
    best = max(value(similarities, c) for c in itertools.combinations(range(9), 3))
    assert value(similarities, found.indices) >= (1 - 1 / np.e) * best - 1e-6


def test_many_stale_rows(monkeypatch):
    """Looking at few rows at a time changes nothing."""
    rows = np.random.default_rng(1).standard_normal((200, 6))
    want = facility_location_greedy(rows, budget=30).indices.tolist()
    monkeypatch.setattr("tamis.subsets.facility_location._BATCH", 1)
    assert facility_location_greedy(rows, budget=30).indices.tolist() == want


def test_little_memory():
    """Similarities that do not fit are made again, and the choice is the same."""
    rows = np.random.default_rng(2).standard_normal((150, 6)).astype(np.float32)
    want = facility_location_greedy(rows, budget=0.1)
    found = facility_location_greedy(rows, budget=0.1, max_memory=5000)
    assert found.indices.tolist() == want.indices.tolist()
    np.testing.assert_allclose(found.scores, want.scores, rtol=1e-5)
    tensor = facility_location_greedy(torch.from_numpy(rows), budget=15)
    assert tensor.indices.tolist() == want.indices.tolist()


def test_evidence():
    """A dropped row names the taken row that is most similar, and how similar."""
    rows = np.array([[1.0, 0.0], [0.9, 0.1], [0.8, 0.2], [0.0, 1.0]])
    found = facility_location_greedy(rows, budget=2)
    assert found.indices.tolist() == [2, 3]
    assert found.reasons["row"].tolist() == [0, 1] and found.reasons["rival"].tolist() == [2, 2]
    np.testing.assert_allclose(found.reasons["score"], cosines(rows)[2, :2], rtol=1e-6)


def test_rows_that_may_not_be_taken():
    """They are represented all the same, and say why they are out."""
    rows = np.random.default_rng(4).standard_normal((12, 3))
    weights = np.where(np.arange(12) < 6, -np.inf, -0.5)
    found = facility_location_greedy(rows, budget=3, log_weights=weights)
    assert sorted(found.indices.tolist()) == sorted(plain_greedy(cosines(rows), 3, range(6, 12)))
    assert (found.log_weights[found.indices] == -0.5).all()
    assert set(found.reasons["rule"][:6].tolist()) == {"dropped before"}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"budget": 1}, "embeddings or similarities must be given, and not both"),
        ({"budget": 1, "similarities": np.ones((2, 3))}, r"similarities must be square: got shape \(2, 3\)"),
        ({"budget": 1, "similarities": np.full((2, 2), np.nan)}, "similarities must be finite"),
        ({"budget": 3, "similarities": np.eye(2)}, "budget must be a count between 0 and 2"),
        ({"budget": 1, "embeddings": np.zeros((2, 2))}, "embeddings"),
        (
            {"budget": 1, "similarities": np.eye(2), "log_weights": np.zeros(3)},
            "log_weights must have one entry per row",
        ),
    ],
)
def test_bad_input(options, says):
    """One line that names the argument."""
    with pytest.raises(ValueError, match=says):
        facility_location_greedy(**options)
