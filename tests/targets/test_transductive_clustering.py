"""Transductive clustering: the worked numbers, a transcription in loops, and an energy that never rises."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.targets import TransductiveClusterClassifier, knn_affinity, laplacian_bound_update
from tests.behaviour import ArrayCase

SUPPORT, QUERY = np.array([[0.0], [4.0]]), np.array([[1.0], [1.5], [2.5], [3.0]])
UNARY = (np.concatenate([SUPPORT, QUERY]) - SUPPORT.T) ** 2
PAIRS = np.array([[2, 3, 4, 5], [3, 2, 5, 4]])
CLAMP = np.array([0, 1, -1, -1, -1, -1])


def blobs(seed: int, shots: int = 2, per_class: int = 12, classes: int = 3, d: int = 4):
    """Gaussian classes: labelled rows, their labels, unlabelled rows and theirs."""
    rng = np.random.default_rng(seed)
    centres = 2 * rng.standard_normal((classes, d))
    support_labels = np.repeat(np.arange(classes), shots)
    query_labels = np.repeat(np.arange(classes), per_class)
    support = centres[support_labels] + rng.standard_normal((len(support_labels), d))
    return support, support_labels, centres[query_labels] + rng.standard_normal((len(query_labels), d)), query_labels


def make(seed: int) -> list[ArrayCase]:
    """The classifier, the update and the graph."""
    support, labels, query, _ = blobs(seed)

    def classify(_: int, x, y, q):
        return TransductiveClusterClassifier(temperature=0.1).fit_predict(x, y, q)

    def update(_: int, x):
        return laplacian_bound_update(x, knn_affinity(x, 3), 0.5)

    return [
        ArrayCase(
            "TransductiveClusterClassifier",
            classify,
            (support, labels, query),
            empty=lambda: classify(0, support, labels, query[:0]),
            torch_too=True,
        ),
        ArrayCase("laplacian_bound_update", update, (query,), empty=lambda: update(0, query[:0]), torch_too=True),
        ArrayCase("knn_affinity", lambda _, x: knn_affinity(x, 3), (query,), empty=lambda: knn_affinity(query[:0], 3)),
    ]


# --- worked numbers ---------------------------------------------------------------------------------------------------


def test_one_update():
    """softmax(-U), one update, and the energy before and after."""
    free = laplacian_bound_update(UNARY, PAIRS[:, :0], 1.0, CLAMP)[0][2:, 0]
    np.testing.assert_allclose(free, [0.999665, 0.982014, 0.017986, 0.000335353], atol=5e-7)
    assignments, energies = laplacian_bound_update(UNARY, PAIRS, 1.0, CLAMP, max_iter=1)
    np.testing.assert_allclose(assignments[2:, 0], [0.999872, 0.993303, 0.00669731, 0.000127914], atol=5e-7)
    np.testing.assert_allclose(energies, [4.499648, 4.486319], atol=5e-7)


def test_the_fixed_point():
    """Updates until nothing changes."""
    assignments, energies = laplacian_bound_update(UNARY, PAIRS, 1.0, CLAMP, max_iter=100, tol=0.0)
    np.testing.assert_allclose(assignments[2:, 0], [0.999875, 0.993305, 0.00669451, 0.000125058], atol=5e-7)
    assert energies[-1] == pytest.approx(4.486319, abs=5e-7)


def test_the_prototype_step():
    """Soft k-means from the first assignments, labelled rows clamped: prototypes 0.839552 and 3.160448."""
    model = TransductiveClusterClassifier(n_neighbors=1, normalize=None, max_outer=2, max_inner=1, tol=0.0)
    model.fit_predict(SUPPORT, np.array([0, 1]), QUERY)
    first = laplacian_bound_update(UNARY, PAIRS[:, :0], 0.0, CLAMP)[0]
    moved = first.T @ np.concatenate([SUPPORT, QUERY]) / first.sum(0)[:, None]
    np.testing.assert_allclose(moved.ravel(), [0.839552, 3.160448], atol=5e-7)
    assert model.n_iter_ == 2


def test_the_graph_of_the_pairs():
    """With one other neighbour the graph is 1-1.5 and 2.5-3."""
    assert knn_affinity(QUERY, 2).tolist() == [[0, 1, 2, 3], [1, 0, 3, 2]]


@pytest.mark.parametrize("seed", range(5))
def test_without_graph_and_warmth_it_is_the_nearest_prototype(seed):
    """Weight 0, fixed prototypes, temperature to 0."""
    support, labels, query, _ = blobs(seed)
    model = TransductiveClusterClassifier(laplacian_weight=0.0, prototype="fixed", temperature=1e-4, normalize=None)
    prototypes = np.stack([support[labels == c].mean(0) for c in range(3)])
    nearest = ((query[:, None] - prototypes) ** 2).sum(2).argmin(1)
    assert model.fit_predict(support, labels, query).tolist() == nearest.tolist()


# --- the transcription ------------------------------------------------------------------------------------------------


def loops(unary, affinity, weight, clamp, steps):
    """The plain update, one number after the other."""

    def softmax(values):
        top = max(values)
        raised = [math.exp(v - top) for v in values]
        return [r / sum(raised) for r in raised]

    def held(y):
        return [[float(c == k) for c in range(len(row))] if k >= 0 else row for row, k in zip(y, clamp, strict=True)]

    y = held([softmax([-u for u in row]) for row in unary])
    for _ in range(steps):
        y = held(
            [
                softmax(
                    [
                        -unary[p][k] + weight * sum(w * y[q][k] for q, w in enumerate(affinity[p]))
                        for k in range(len(y[0]))
                    ]
                )
                for p in range(len(y))
            ]
        )
    return np.array(y)


@pytest.mark.parametrize("seed", range(4))
def test_equals_the_loops(seed):
    """Dense weights, small enough that no step is shortened; and the same from pairs."""
    rng = np.random.default_rng(seed)
    unary, weights = rng.random((7, 3)), rng.random((7, 7))
    dense = np.triu(weights > 0.5, 1) * 1.0
    dense = dense + dense.T
    clamp = np.array([1, -1, -1, 0, -1, -1, -1])
    want = loops(unary.tolist(), dense.tolist(), 0.3, clamp.tolist(), 4)
    for graph in (dense, np.stack(np.nonzero(dense))):
        got, energies = laplacian_bound_update(unary, graph, 0.3, clamp, max_iter=4, tol=0.0)
        assert len(energies) == 5
        np.testing.assert_allclose(got, want, atol=1e-12)


# --- invariants -------------------------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31), st.floats(0, 50), st.integers(2, 9))
def test_the_energy_never_rises(seed, weight, n):
    """For any symmetric weights, also ones that make the plain update swing; rows stay on the simplex."""
    rng = np.random.default_rng(seed)
    dense = rng.random((n, n))
    assignments, energies = laplacian_bound_update(
        3 * rng.random((n, 3)), dense + dense.T, weight, max_iter=50, tol=0.0
    )
    assert (np.diff(energies) <= 1e-9).all()
    np.testing.assert_allclose(assignments.sum(1), 1)


def test_a_swinging_update_is_shortened():
    """Two rows that pull at each other from opposite classes would change places for ever."""
    unary = np.array([[0.0, 0.3], [0.3, 0.0]])
    assignments, energies = laplacian_bound_update(
        unary, np.array([[0, 1], [1, 0]]), 30.0, start=np.array([[0.99, 0.01], [0.01, 0.99]]), max_iter=200, tol=0.0
    )
    assert (np.diff(energies) <= 0).all()
    assert energies[-1] < energies[0] - 0.1
    assert np.isfinite(assignments).all()


@pytest.mark.parametrize("prototype", ["mean", "mode", "fixed"])
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_fitting(prototype, seed):
    """Energies fall, labelled rows stay one-hot, and the order of the unlabelled rows does not matter."""
    support, labels, query, _ = blobs(seed)
    order = np.random.default_rng(seed).permutation(len(query))
    model = TransductiveClusterClassifier(temperature=0.1, prototype=prototype)
    found = model.fit_predict(support, labels, query)
    assert (np.diff(model.energies_) <= 1e-9).all()
    assert (model.assignments_[: len(labels)] == np.eye(3)[labels]).all()
    again = TransductiveClusterClassifier(temperature=0.1, prototype=prototype).fit_predict(
        support, labels, query[order]
    )
    assert (again == found[order]).all()


def test_names_of_classes_do_not_matter():
    """Other labels of the same classes give the same answer in those labels; rectified too."""
    support, labels, query, _ = blobs(3)
    names = np.array([70, -5, 12])
    for rectify in (False, True):
        plain, named = (
            TransductiveClusterClassifier(temperature=0.1, rectify=rectify).fit_predict(support, y, query)
            for y in (labels, names[labels])
        )
        assert (names[plain] == named).all()


def test_rectifying_undoes_a_shift():
    """Unlabelled rows that are moved as a whole are moved back."""
    support, labels, query, truth = blobs(5, shots=12)
    moved = query + 3.0
    plain, rectified = (
        (TransductiveClusterClassifier(temperature=0.1, rectify=r).fit_predict(support, labels, moved) == truth).mean()
        for r in (False, True)
    )
    assert rectified > plain + 0.1


def test_a_graph_of_the_users():
    """Given neighbours, as pairs or weights, are used instead of the nearest."""
    support, labels, query, _ = blobs(1)
    pairs = knn_affinity(query, 3)
    dense = np.zeros((len(query), len(query)))
    dense[pairs[0], pairs[1]] = 1
    answers = []
    for graph in (None, pairs, dense):
        model = TransductiveClusterClassifier(normalize=None)
        model.fit_predict(support, labels, query, affinity=graph)
        answers.append(model.assignments_)
    np.testing.assert_allclose(answers[0], answers[1])
    np.testing.assert_allclose(answers[0], answers[2], atol=1e-12)


def test_the_official_graph():
    """Without symmetry every row has exactly its own neighbours; with it, every pair has its reverse."""
    rows = blobs(2)[2]
    assert np.bincount(knn_affinity(rows, 4, symmetric=False)[0]).tolist() == [3] * len(rows)
    pairs = set(map(tuple, knn_affinity(rows, 4).T.tolist()))
    assert pairs == {(b, a) for a, b in pairs}


def test_tensors_stay_tensors():
    """Tensors in, tensors out, in every attribute."""
    support, labels, query, _ = blobs(0)
    model = TransductiveClusterClassifier(temperature=0.1)
    found = model.fit_predict(torch.from_numpy(support), torch.from_numpy(labels), torch.from_numpy(query))
    assert isinstance(found, torch.Tensor) and isinstance(model.assignments_, torch.Tensor)


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"X_query": QUERY[:, :0]}, "X_query"),
        ({"X_query": np.array([[np.nan], [1.0], [2.0], [3.0]])}, "X_query must be finite"),
        ({"X_query": QUERY[:3]}, "n_neighbors must be at least 2 and below the 3 rows: got 3"),
        ({"y_support": np.array([0])}, "y_support must have one entry per row of X_support: 2 rows, 1"),
        ({"y_support": np.array([0.0, 1.0])}, "y_support must be .* integers"),
        ({"base_mean": np.zeros(3)}, "base_mean must have one entry per column: 1, got shape"),
        ({"affinity": np.array([[0], [9]])}, r"affinity must be \(2, m\) rows from 0 to 3"),
        ({"affinity": np.zeros((3, 3))}, r"affinity must be \(4, 4\) float"),
    ],
)
def test_bad_input(change, says):
    """One line that names the argument."""
    given = {"X_support": SUPPORT, "y_support": np.array([0, 1]), "X_query": QUERY} | change
    with pytest.raises(ValueError, match=says):
        TransductiveClusterClassifier().fit_predict(**given)


def test_bad_options():
    """Options out of range, negative weights and classes that are not there."""
    with pytest.raises(ValueError, match="laplacian_weight must be at least 0.0: got -1"):
        TransductiveClusterClassifier(laplacian_weight=-1)
    with pytest.raises(ValueError, match="weight must be at least 0.0: got -1"):
        laplacian_bound_update(UNARY, PAIRS, -1.0)
    with pytest.raises(ValueError, match="affinity must be finite and not negative"):
        laplacian_bound_update(UNARY, -np.ones((6, 6)), 1.0)
    with pytest.raises(ValueError, match=r"clamp must lie in -1..1, the classes: got \[5"):
        laplacian_bound_update(UNARY, PAIRS, 1.0, CLAMP + 5)
