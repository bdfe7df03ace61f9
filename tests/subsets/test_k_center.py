"""k-center: plain loops, the bound of two, given centers, copies, files, and bad input."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.subsets import k_center_greedy
from tests.behaviour import ArrayCase

CORNERS = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 4.0], [1.0, 0.0]])


def make(seed: int) -> list[ArrayCase]:
    """By cosine, and by Euclidean distance from a random row."""
    rows = np.random.default_rng(seed).standard_normal((40, 5))

    def by(budget):
        return k_center_greedy(rows, budget=budget).indices

    return [
        ArrayCase(
            "k_center_greedy",
            lambda _, x: k_center_greedy(x, budget=7),
            (rows,),
            lambda: k_center_greedy(rows[:0], budget=1),
            True,
            (by, 40),
        ),
        ArrayCase(
            "k_center_greedy, euclidean", lambda s, x: k_center_greedy(x, budget=7, metric="euclidean", seed=s), (rows,)
        ),
    ]


def loops(rows, count, first):
    """Farthest first, one distance after the other."""
    taken = [first]
    while len(taken) < count:
        gaps = [
            min(float(np.linalg.norm(r - rows[t])) for t in taken) if i not in taken else -1 for i, r in enumerate(rows)
        ]
        taken.append(int(np.argmax(gaps)))
    return taken


def test_four_points():
    """From the origin the farthest is the far corner, then the near one."""
    found = k_center_greedy(CORNERS, budget=3, centers=np.array([0]), metric="euclidean")
    assert found.indices.tolist() == [0, 1, 2]
    np.testing.assert_allclose(found.scores, [0, 0, 0, 1])
    assert found.reasons["row"].tolist() == [3] and found.reasons["rival"].tolist() == [0]
    assert found.reasons["rule"].tolist() == ["covered"] and found.log_weights.tolist() == [0, 0, 0, -np.inf]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 12))
def test_equals_the_loops(seed, count):
    """The same rows in the same order as plain loops, and distances to the nearest of them."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((12, 3)).astype(np.float32)
    found = k_center_greedy(rows, budget=count, metric="euclidean")
    assert found.indices[0] == np.linalg.norm(rows - rows.mean(0), axis=1).argmin()
    assert found.indices.tolist() == loops(rows, count, int(found.indices[0]))
    gaps = np.linalg.norm(rows[:, None] - rows[found.indices], axis=2).min(1)
    np.testing.assert_allclose(found.scores, gaps, atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 3))
def test_at_most_twice_the_best(seed, count):
    """No choice of as many rows leaves less than half of the largest distance."""
    rows = np.random.default_rng(seed).standard_normal((9, 2))
    found = k_center_greedy(rows, budget=count, metric="euclidean", seed=seed)
    apart = np.linalg.norm(rows[:, None] - rows, axis=2)
    best = min(apart[:, list(c)].min(1).max() for c in itertools.combinations(range(9), count))
    assert found.scores.max() <= 2 * best + 1e-5


def test_cosine_is_euclidean_on_unit_rows():
    """The lengths of rows do not matter, and scores are one minus the cosine."""
    rng = np.random.default_rng(3)
    rows = rng.standard_normal((30, 4))
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    one = k_center_greedy(rows * rng.uniform(0.5, 3, (30, 1)), budget=6, centers=np.array([4]))
    two = k_center_greedy(unit, budget=6, centers=np.array([4]), metric="euclidean")
    assert one.indices.tolist() == two.indices.tolist()
    np.testing.assert_allclose(one.scores, 1 - (unit @ unit[one.indices].T).max(1), atol=1e-6)


def test_copies_are_taken_last_and_the_budget_is_met():
    """With more budget than different rows, copies fill it."""
    rows = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    assert sorted(k_center_greedy(rows, budget=2).indices.tolist())[1] == 2
    assert sorted(k_center_greedy(rows, budget=4).indices.tolist()) == [0, 1, 2, 3]
    assert k_center_greedy(rows, budget=0).indices.size == 0


def test_rows_left_out():
    """Rows at minus infinity are neither taken nor covered; finite weights pass on."""
    weights = np.array([0.0, -np.inf, -0.5, 0.0])
    found = k_center_greedy(CORNERS, budget=2, metric="euclidean", log_weights=weights, centers=np.array([0]))
    assert found.indices.tolist() == [0, 2] and found.log_weights.tolist() == [0, -np.inf, -0.5, -np.inf]
    assert np.isnan(found.scores[1])
    assert found.reasons["rule"].tolist() == ["dropped before", "covered"]
    assert found.reasons["rival"].tolist() == [-1, 0]


def test_files_and_tensors(tmp_path):
    """A memory-mapped array and a tensor give the same rows."""
    rows = np.random.default_rng(0).standard_normal((500, 8), dtype=np.float32)
    np.save(tmp_path / "rows.npy", rows)
    want = k_center_greedy(rows, budget=0.02).indices.tolist()
    assert k_center_greedy(np.load(tmp_path / "rows.npy", mmap_mode="r"), budget=0.02).indices.tolist() == want
    found = k_center_greedy(torch.from_numpy(rows), budget=10)
    assert isinstance(found.indices, torch.Tensor) and found.indices.tolist() == want


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"budget": 5}, "budget must be a count between 0 and 4"),
        ({"budget": 1, "centers": np.array([0, 1])}, "budget must be at least the 2 centers: got 1"),
        ({"budget": 2, "centers": np.array([9])}, "centers must be rows from 0 to 3"),
        ({"budget": 3, "centers": np.array([1, 1])}, "centers must be different rows"),
        ({"budget": 1, "metric": "dot"}, "metric must be one of 'cosine', 'euclidean': got 'dot'"),
        ({"budget": 1, "log_weights": np.full(4, -np.inf)}, "log_weights must leave some rows"),
        ({"budget": 1, "log_weights": np.zeros(3)}, "log_weights must have one entry per row of embeddings"),
    ],
)
def test_bad_input(given, says):
    """One line that names the argument."""
    with pytest.raises(ValueError, match=says):
        k_center_greedy(CORNERS + 1, **given)
    with pytest.raises(ValueError, match="embeddings"):
        k_center_greedy(CORNERS, budget=1)  # a row of length zero has no direction
