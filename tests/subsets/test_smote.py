"""SMOTE and its kin: worked numbers, a transcription in plain loops, imbalanced-learn as the oracle, invariants."""

from __future__ import annotations

import functools
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.subsets import ADASYN, SMOTE, SMOTENC, BorderlineSMOTE, adasyn_counts, smote_interpolate
from tamis.subsets.smote.interpolation import Segments, write_between
from tamis.subsets.smote.neighbors import nearest_rows
from tests.behaviour import ArrayCase


def make(seed):
    """Cases for the shared behaviour test."""
    rng = np.random.default_rng(seed)
    X, y = rng.normal(size=(60, 3)), np.repeat([0, 1], [45, 15])
    X[y == 1] += 0.5
    empty = np.zeros((0, 3)), np.zeros(0, dtype=int)

    def resample(sampler):
        return lambda seed, X, y: sampler(random_state=seed).fit_resample(X, y)

    cases = [
        ArrayCase(s.__name__, resample(s), (X, y), empty=lambda s=s: s().fit_resample(*empty), torch_too=True)
        for s in (SMOTE, BorderlineSMOTE, ADASYN)
    ]
    mixed = functools.partial(SMOTENC, [2])
    whole = np.column_stack([X[:, :2], np.arange(60) % 3])
    cases.append(
        ArrayCase("SMOTENC", resample(mixed), (whole, y), empty=lambda: mixed().fit_resample(*empty), torch_too=True)
    )
    neighbors, pairs = rng.integers(60, size=(60, 4)), (rng.integers(60, size=9), rng.integers(4, size=9))
    cases.append(
        ArrayCase(
            "smote_interpolate",
            lambda seed, *inputs: smote_interpolate(*inputs),
            (X, neighbors, *pairs, rng.random(9)),
            empty=lambda: smote_interpolate(empty[0], neighbors[:0], *pairs, rng.random(9)),
            torch_too=True,
        )
    )
    return cases


def cloud(seed, n=300, d=4, few=40, dtype=np.float64):
    """Two overlapping classes, the second one small."""
    rng = np.random.default_rng(seed)
    X, y = rng.normal(size=(n, d)), np.zeros(n, dtype=int)
    y[rng.choice(n, few, replace=False)] = 1
    X[y == 1] += 1
    return X.astype(dtype), y


def slow_nearest(rows, queries, among, k):
    """The definition: sort all other rows by distance, then by index."""
    out = []
    for q in queries:
        others = [(float(((rows[q].astype(float) - rows[j].astype(float)) ** 2).sum()), j) for j in among if j != q]
        out.append([j for _, j in sorted(others)[:k]])
    return np.array(out)


# 1. Worked numbers


def test_a_quarter_of_the_way_to_a_neighbour():
    """From [0, 0] a quarter of the way to [1, 0] lies [0.25, 0]."""
    X = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
    new = smote_interpolate(X, np.array([[1], [0], [0]]), np.array([0]), np.array([0]), np.array([0.25]))
    assert new.tolist() == [[0.25, 0.0]]


def test_adasyn_counts_are_rounded_shares():
    """Shares 1, 1/2, 0 of ten rows are 6.67, 3.33 and 0: rounded 7, 3, 0."""
    assert adasyn_counts(np.array([1, 0.5, 0]), 10).tolist() == [7, 3, 0]


@pytest.mark.parametrize("seed", range(5))
def test_equal_to_imbalanced_learn_on_breast_cancer(seed):
    """145 new rows, 212 + 145 = 357 of the smaller class, bit for bit those of imbalanced-learn."""
    peer = pytest.importorskip("imblearn.over_sampling")
    X, y = pytest.importorskip("sklearn.datasets").load_breast_cancer(return_X_y=True)
    expected = peer.SMOTE(random_state=seed).fit_resample(X, y)
    found = SMOTE(random_state=seed).fit_resample(X, y)
    assert len(found[0]) - len(X) == 145
    assert np.bincount(found[1]).tolist() == [357, 357]
    assert all(np.array_equal(a, b) for a, b in zip(expected, found, strict=True))


def test_moments_of_pairs_of_all_rows():
    """With all others as neighbours the mean is that of the class, the variance 2/3 - 1/(3 (n - 1)) of it: 0.619048."""
    rng = np.random.default_rng(0)
    few = rng.normal(size=(8, 2))
    X, y = np.concatenate([few, rng.normal(size=(9, 2))]), np.repeat([1, 0], [8, 9])
    count = 400_000
    new = SMOTE(k_neighbors=7, random_state=0, sampling_strategy={1: 8 + count}).fit_resample(X, y)[0][17:]
    assert len(new) == count
    assert np.allclose(new.mean(0), few.mean(0), atol=0.01)
    assert np.allclose(new.var(0) / few.var(0), 0.619048, atol=0.005)


@pytest.mark.parametrize("per_feature", [False, True])
@pytest.mark.parametrize("base", ["uniform", "balanced"])
def test_new_rows_lie_where_provenance_says(per_feature, base):
    """Every new row lies on the segment of two rows of its class, or in their box."""
    X, y = cloud(0)
    sampler = SMOTE(random_state=1, per_feature=per_feature, base=base)
    more, labels = sampler.fit_resample(X, y)
    came = sampler.provenance_
    new, start, end = more[len(X) :], X[came.base], X[came.neighbor]
    assert len(new) == len(came.base) == 220
    assert set(y[came.base]) == set(y[came.neighbor]) == set(labels[len(X) :]) == {1}
    assert bool((came.base != came.neighbor).all())
    if per_feature:
        assert came.step.shape == new.shape
        assert bool(((new >= np.minimum(start, end) - 1e-12) & (new <= np.maximum(start, end) + 1e-12)).all())
        share = (new - start) / (end - start)
        assert float(np.ptp(share, axis=1).max()) > 0.5  # not one segment
    else:
        along = ((new - start) * (end - start)).sum(1) / ((end - start) ** 2).sum(1)
        nearest = start + np.clip(along, 0, 1)[:, None] * (end - start)
        assert float(np.abs(new - nearest).max()) < 1e-9
        assert np.allclose(along, came.step)


def test_balanced_bases_are_used_equally():
    """base="balanced" starts floor(G / n) or one more times from every row of the class."""
    X, y = cloud(1)
    sampler = SMOTE(random_state=0, base="balanced")
    sampler.fit_resample(X, y)
    used = np.bincount(sampler.provenance_.base, minlength=len(X))[y == 1]
    assert set(used.tolist()) == {220 // 40, 220 // 40 + 1}
    few = SMOTE(random_state=0, base="balanced", sampling_strategy={1: 60})
    few.fit_resample(X, y)
    assert len(set(few.provenance_.base.tolist())) == 20  # fewer than rows: a random part, each once


# 2. A transcription in plain loops


def slow_smote(X, y, k, seed, wanted):
    """The recipe of the specification, pair by pair."""
    rows, labels = [*X], [*y]
    for c in np.unique(y):
        count = wanted - int((y == c).sum())
        members = np.flatnonzero(y == c)
        if count == 0:
            continue
        near = slow_nearest(X, members, members, k)
        rng = np.random.RandomState(seed)
        pairs, steps = rng.randint(0, len(members) * k, count), rng.uniform(size=count)
        for pair, u in zip(pairs, steps, strict=True):
            i, j = members[pair // k], near[pair // k, pair % k]
            rows.append((X[i] + u * (X[j] - X[i])).astype(X.dtype))
            labels.append(c)
    return np.array(rows), np.array(labels)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equal_to_plain_loops(dtype):
    """Three classes, one after the other, each with draws from the same seed."""
    X, y = cloud(3, n=120, few=30, dtype=dtype)
    y[np.flatnonzero(y == 0)[:25]] = 2
    expected = slow_smote(X, y, 4, 11, int(np.bincount(y).max()))
    found = SMOTE(k_neighbors=4, random_state=11).fit_resample(X, y)
    assert np.array_equal(expected[0], found[0])
    assert np.array_equal(expected[1], found[1])
    assert found[0].dtype == dtype


def test_borderline_and_adasyn_equal_plain_loops():
    """Danger is m / 2 <= others < m; ADASYN's shares are of k; both counted row by row."""
    X, y = cloud(4, n=150, few=30)
    everything, few = np.arange(150), np.flatnonzero(y == 1)
    danger = [i for i in few if 5 <= sum(y[j] == 0 for j in slow_nearest(X, [i], everything, 10)[0]) < 10]
    sampler = BorderlineSMOTE(random_state=0)
    sampler.fit_resample(X, y)
    assert sampler.in_danger_indices[1].tolist() == danger
    assert set(sampler.provenance_.base.tolist()) <= set(danger)
    ratios = np.array([sum(y[j] == 0 for j in slow_nearest(X, [i], everything, 5)[0]) / 5 for i in few])
    adaptive = ADASYN(random_state=0)
    adaptive.fit_resample(X, y)
    counts = np.bincount(adaptive.provenance_.base, minlength=150)[few]
    assert counts.tolist() == [round(r / ratios.sum() * 90) for r in ratios]


@pytest.mark.parametrize("kind", ["array", "tensor", "sparse"])
@pytest.mark.parametrize("world", ["plain", "copies", "lattice", "outlier", "far", "huge", "tiny", "alike"])
def test_neighbours_equal_plain_loops(kind, world):
    """Exact in every world: copies and ties, one enormous row, rows far from zero, large or small numbers."""
    rng = np.random.default_rng(5)
    rows = rng.normal(size=(90, 5))
    if world == "copies":
        rows = rows[rng.integers(12, size=90)]
    if world == "lattice":
        rows = rng.integers(0, 3, size=(90, 5)).astype(float)
    if world == "outlier":
        rows[7] *= 1e9
    if world == "far":
        rows += 1e6
    if world == "huge":
        rows *= 1e120
    if world == "tiny":
        rows *= 1e-153
    if world == "alike":
        rows[:] = 2.5
    among = np.flatnonzero(rng.random(90) < 0.8)
    queries = among[::2]
    given = {"array": rows, "tensor": torch.tensor(rows)}.get(kind)
    if kind == "sparse":
        given = pytest.importorskip("scipy.sparse").csr_matrix(rows)
    for k in (1, 6, len(among) - 1):
        assert np.array_equal(nearest_rows(given, queries, among, k), slow_nearest(rows, queries, among, k))


def test_neighbours_of_many_copies_fit_in_memory(monkeypatch):
    """Pairs that wait are ranked when they are many, which changes nothing."""
    from tamis.subsets.smote import neighbors

    rows = np.random.default_rng(0).integers(0, 2, size=(200, 4)).astype(float)
    every = np.arange(200)
    expected = slow_nearest(rows, every, every, 5)
    monkeypatch.setattr(neighbors, "_HELD", 50)
    monkeypatch.setattr(neighbors, "_MEMORY", 2**12)
    assert np.array_equal(nearest_rows(rows, every, every, 5), expected)


# 3. Invariants


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 10_000),
    st.integers(1, 4),
    st.sampled_from(["lattice", "float"]),
    st.sampled_from(["array", "tensor"]),
)
def test_originals_first_and_classes_as_asked(seed, k, world, kind):
    """The old rows stand first, every class has the size of the largest, and new rows are convex combinations."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(k + 1, 20, size=3)
    y = rng.permutation(np.repeat([0, 1, 2], counts))
    X = rng.integers(0, 3, size=(len(y), 2)).astype(float) if world == "lattice" else rng.normal(size=(len(y), 2))
    sampler = SMOTE(k_neighbors=k, random_state=seed)
    given = (X, y) if kind == "array" else (torch.tensor(X), torch.tensor(y))
    more, labels = sampler.fit_resample(*given)
    assert type(more) is type(given[0])
    assert np.array_equal(np.asarray(more[: len(X)]), X)
    assert set(np.bincount(np.asarray(labels)).tolist()) == {int(counts.max())}
    came = sampler.provenance_
    start, end = X[np.asarray(came.base)], X[np.asarray(came.neighbor)]
    between = start + np.asarray(came.step)[:, None] * (end - start)
    assert np.array_equal(np.asarray(more[len(X) :]), between)
    assert bool((np.asarray(came.base) != np.asarray(came.neighbor)).all())


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.floats(1e-6, 1e6), st.integers(1, 12))
def test_neighbours_do_not_depend_on_scale_or_units(seed, scale, k):
    """Powers of two rescale distances exactly, so the neighbours stay."""
    rows = np.random.default_rng(seed).normal(size=(40, 3))
    every = np.arange(40)
    factor = 2.0 ** np.floor(np.log2(scale))
    assert np.array_equal(nearest_rows(rows, every, every, k), nearest_rows(rows * factor, every, every, k))


def test_normalized_rows_have_length_one():
    """normalize=True brings new rows back to the sphere, in the direction that the plain ones have."""
    X, y = cloud(6, d=8)
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    plain = SMOTE(random_state=0).fit_resample(X, y)[0][len(X) :]
    unit = SMOTE(random_state=0, normalize=True).fit_resample(X, y)[0]
    assert np.array_equal(unit[: len(X)], X)
    assert np.allclose(np.linalg.norm(unit, axis=1), 1)
    assert np.allclose(unit[len(X) :], plain / np.linalg.norm(plain, axis=1, keepdims=True))
    sparse = pytest.importorskip("scipy.sparse")
    assert np.allclose(SMOTE(random_state=0, normalize=True).fit_resample(sparse.csr_matrix(X), y)[0].toarray(), unit)
    nothing = np.empty((1, 2))
    write_between(
        np.array([[1.0, 0.0], [-1.0, 0.0]]),
        Segments(np.array([0]), np.array([1]), np.array([0.5])),
        nothing,
        normalize=True,
    )
    assert nothing.tolist() == [[0.0, 0.0]]  # the middle of two opposite rows has no direction, and no NaN either


def test_whole_numbers_do_not_wrap_around():
    """Unsigned bytes are interpolated as numbers and cut off, never differences modulo 256."""
    X = np.array([[200], [10], [250], [0]], dtype=np.uint8)
    new = smote_interpolate(X, np.array([[1], [0], [3], [2]]), np.arange(4), np.zeros(4, int), np.full(4, 0.5))
    assert new.dtype == np.uint8
    assert new.tolist() == [[105], [105], [125], [125]]
    rows, y = cloud(21)
    counts = (100 * np.abs(rows)).astype(np.uint16)
    expected = SMOTE(random_state=0).fit_resample(counts.astype(float), y)[0]
    assert np.array_equal(SMOTE(random_state=0).fit_resample(counts, y)[0], expected.astype(np.uint16))


# 4. imbalanced-learn as the oracle


def both(name, X, y, **arguments):
    """The results of imbalanced-learn's class and of ours of the same name."""
    peer = getattr(pytest.importorskip("imblearn.over_sampling"), name)
    own = {"SMOTE": SMOTE, "SMOTENC": SMOTENC, "BorderlineSMOTE": BorderlineSMOTE, "ADASYN": ADASYN}[name]
    return peer(**arguments).fit_resample(X, y), own(**arguments).fit_resample(X, y)


def assert_same(expected, found):
    """Equal to the bit, of the same types and dtypes."""
    for a, b in zip(expected, found, strict=True):
        assert type(a) is type(b)
        if hasattr(a, "toarray"):
            assert a.format == b.format
            a, b = a.toarray(), b.toarray()
        assert np.asarray(a).dtype == np.asarray(b).dtype
        assert np.array_equal(a, b)


KINDS = [
    ("SMOTE", {}),
    ("SMOTE", {"k_neighbors": 3, "sampling_strategy": "minority"}),
    ("BorderlineSMOTE", {}),
    ("BorderlineSMOTE", {"kind": "borderline-2", "m_neighbors": 7}),
    ("ADASYN", {}),
    ("ADASYN", {"n_neighbors": 8}),
]


@pytest.mark.parametrize(("name", "arguments"), KINDS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("d", [3, 20])
def test_equal_to_imbalanced_learn(name, arguments, dtype, d):
    """Three classes, few and many columns (its trees and its products), single and double precision."""
    X, y = cloud(7, n=400, d=d, few=60, dtype=dtype)
    y[np.flatnonzero(y == 0)[::4]] = 2
    assert_same(*both(name, X, y, random_state=3, **arguments))


@pytest.mark.parametrize(("name", "arguments"), KINDS)
@pytest.mark.parametrize("form", ["csr_matrix", "csc_matrix", "csr_array"])
def test_sparse_rows_equal_imbalanced_learn(name, arguments, form):
    """Sparse matrices come back in their format, with the same numbers."""
    sparse = pytest.importorskip("scipy.sparse")
    X, y = cloud(8, d=12)
    X *= np.abs(X) > 0.8
    given = getattr(sparse, form)(X)
    if "kind" in arguments and form != "csr_array":  # imbalanced-learn 0.14 fails on these matrices
        found = BorderlineSMOTE(random_state=0, **arguments).fit_resample(given, y)
        dense = BorderlineSMOTE(random_state=0, **arguments).fit_resample(X, y)
        assert found[0].format == given.format
        assert np.array_equal(found[0].toarray(), dense[0])
    else:
        assert_same(*both(name, given, y, random_state=0, **arguments))


@pytest.mark.parametrize(
    "strategy",
    ["auto", "not majority", "not minority", "minority", "all", {2: 150}, {1: 60, 2: 99}, lambda y: {1: 50}],
)
def test_strategies_equal_imbalanced_learn(strategy):
    """Names, mappings and functions mean the same; so does the ratio for two classes."""
    X, y = cloud(9)
    assert_same(*both("SMOTE", X, y, random_state=0, sampling_strategy=0.4))
    y[np.flatnonzero(y == 0)[:70]] = 2
    assert_same(*both("SMOTE", X, y, random_state=0, sampling_strategy=strategy))


def test_forms_of_labels_and_rows_equal_imbalanced_learn():
    """Text, columns, one-hot rows and lists come back as they came; whole numbers stay whole."""
    X, y = cloud(10)
    y[np.flatnonzero(y == 0)[:50]] = 2
    for labels in (np.array(list("abc"))[y], y[:, None], np.eye(3, dtype=int)[y], y.astype(float)):
        assert_same(*both("SMOTE", X, labels, random_state=0))
    assert_same(*both("SMOTE", X.tolist(), y.tolist(), random_state=0))
    assert_same(*both("SMOTE", (1000 * X).astype(int), y, random_state=0))
    assert_same(*both("SMOTE", X.astype(object), y, random_state=0))


@pytest.mark.parametrize("name", ["SMOTE", "BorderlineSMOTE", "ADASYN"])
def test_a_generator_goes_on_as_in_imbalanced_learn(name):
    """A RandomState is drawn from class after class, in the same order; a Generator works too."""
    X, y = cloud(11)
    y[np.flatnonzero(y == 0)[:60]] = 2
    peer, own = getattr(pytest.importorskip("imblearn.over_sampling"), name), globals()[name]
    expected = peer(random_state=np.random.RandomState(5)).fit_resample(X, y)
    assert_same(expected, own(random_state=np.random.RandomState(5)).fit_resample(X, y))
    one, two = (own(random_state=np.random.default_rng(5)).fit_resample(X, y)[0] for _ in range(2))
    assert np.array_equal(one, two)
    assert len(own().fit_resample(X, y)[0]) == len(one)


def mixed_table(seed, n=260):
    """Four columns of numbers and two of categories, and two classes."""
    X, y = cloud(seed, n=n)
    rng = np.random.default_rng(seed)
    return X, rng.integers(0, 3, size=n), np.array(["red", "green", "blue", "grey"])[rng.integers(0, 4, n)], y


@pytest.mark.parametrize("seed", range(3))
def test_mixed_columns_equal_imbalanced_learn(seed):
    """Words and codes among numbers, by index, negative index or mask; ties between categories fall alike."""
    X, codes, words, y = mixed_table(seed)
    table = np.empty((len(X), 6), dtype=object)
    table[:, 0], table[:, 1], table[:, 2:5], table[:, 5] = X[:, 0], words, X[:, 1:], codes
    assert_same(*both("SMOTENC", table, y, categorical_features=[1, 5], random_state=seed))
    plain = np.column_stack([X, codes, codes[::-1]])
    for features in ([4, -1], [5, 4], [False] * 4 + [True] * 2):
        assert_same(*both("SMOTENC", plain, y, categorical_features=features, random_state=seed))
    assert_same(*both("SMOTENC", plain.astype(np.float32), y, categorical_features=[4, 5], random_state=seed))
    plain[y == 1, 1:4] = 1.0  # the median deviation is zero, so categories add nothing to distances
    assert_same(*both("SMOTENC", plain, y, categorical_features=[4, 5], random_state=seed))
    sparse = pytest.importorskip("scipy.sparse")
    assert_same(*both("SMOTENC", sparse.csr_matrix(plain), y, categorical_features=[4, 5], random_state=seed))


def test_categories_move_rows_apart_by_the_median_deviation():
    """Two rows that differ in one category stand Med^2 farther apart, squared; the vote of the neighbours wins."""
    X = np.array([[0.0, 0], [1.0, 0], [2.0, 0], [3.0, 1], [50.0, 2], [51.0, 2], [52.0, 2], [53.0, 2], [54.0, 2]])
    y = np.repeat([1, 0], [4, 5])
    sampler = SMOTENC([1], k_neighbors=3, random_state=0, sampling_strategy={1: 60, 0: 5})
    more, _ = sampler.fit_resample(X, y)
    assert sampler.median_std_ == {1: float(np.std([0, 1, 2, 3]))}
    assert set(more[9:, 1].tolist()) == {0.0}  # of three neighbours at least two have category 0
    assert sampler.sampling_strategy_ == {0: 0, 1: 56}


@pytest.mark.parametrize("name", ["SMOTE", "BorderlineSMOTE", "ADASYN", "SMOTENC"])
def test_data_frames_pass_through(name):
    """Columns, dtypes, names and the index come back as imbalanced-learn gives them."""
    pandas = pytest.importorskip("pandas")
    X, codes, words, y = mixed_table(12)
    frame = pandas.DataFrame(
        {"a": X[:, 0], "b": X[:, 1].astype(np.float32), "c": (100 * X[:, 2]).astype(int), "d": X[:, 3] > 0},
        index=np.arange(len(X)) * 2,
    )
    ways = [{}]
    if name == "SMOTENC":
        frame = frame.drop(columns="d").assign(e=pandas.Categorical(words), f=codes)
        ways = [{"categorical_features": "auto"}, {"categorical_features": ["f", "e"]}]
    for arguments in ways:
        for labels in (pandas.Series(y, name="t", index=frame.index), y, pandas.DataFrame({"t": y}, index=frame.index)):
            expected, found = both(name, frame, labels, random_state=0, **arguments)
            pandas.testing.assert_frame_equal(expected[0], found[0])
            if labels is y:
                assert np.array_equal(expected[1], found[1])
            else:
                same = pandas.testing.assert_frame_equal if labels.ndim == 2 else pandas.testing.assert_series_equal
                same(expected[1], found[1])


# 5. The protocol


def test_scikit_learn_is_not_imported():
    """Importing the module brings in neither scikit-learn nor pandas nor SciPy."""
    code = "import sys, tamis.subsets.smote; print(*(m for m in ('sklearn', 'pandas', 'scipy') if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize("sampler", [SMOTE(k_neighbors=3), SMOTENC([0]), BorderlineSMOTE(m_neighbors=4), ADASYN()])
def test_clone_and_parameters(sampler):
    """clone gives an equal sampler, set_params changes it, and an unknown name is refused."""
    copy = pytest.importorskip("sklearn.base").clone(sampler)
    assert copy is not sampler
    assert repr(copy) == repr(sampler)
    assert copy.get_params() == sampler.get_params() == pickle.loads(pickle.dumps(sampler)).get_params()
    assert copy.set_params(random_state=4).random_state == 4
    with pytest.raises(ValueError, match="has no argument 'depth': it takes .*random_state"):
        copy.set_params(depth=3)


def test_pipelines_and_searches():
    """imbalanced-learn's pipeline takes our sampler as its own, and a search sets its arguments."""
    pipeline = pytest.importorskip("imblearn.pipeline")
    from sklearn.model_selection import GridSearchCV
    from sklearn.tree import DecisionTreeClassifier

    X, y = cloud(13)
    steps = pipeline.make_pipeline(SMOTE(random_state=0), DecisionTreeClassifier(random_state=0))
    search = GridSearchCV(steps, {"smote__k_neighbors": [2, 5]}, cv=2).fit(X, y)
    assert search.best_params_["smote__k_neighbors"] in (2, 5)


def test_neighbours_by_an_estimator():
    """An estimator for k + 1 neighbours may look for them; its arguments can be set from outside."""
    estimator = pytest.importorskip("sklearn.neighbors").NearestNeighbors(n_neighbors=6)
    X, y = cloud(14)
    sparse = pytest.importorskip("scipy.sparse").csr_matrix(X)
    for rows in (X, torch.tensor(X), sparse):
        for name, argument in ((SMOTE, "k_neighbors"), (BorderlineSMOTE, "k_neighbors"), (ADASYN, "n_neighbors")):
            found = name(random_state=0, **{argument: estimator}).fit_resample(rows, y)[0]
            expected = name(random_state=0).fit_resample(rows, y)[0]
            dense = [m.toarray() if hasattr(m, "toarray") else np.asarray(m) for m in (found, expected)]
            assert np.array_equal(*dense)
    sampler = SMOTE(k_neighbors=estimator).set_params(k_neighbors__n_neighbors=3)
    assert sampler.get_params()["k_neighbors__n_neighbors"] == 3


def test_tensors_keep_dtype_and_place():
    """Half precisions stay half, labels stay labels, provenance is of tensors."""
    X, y = cloud(15)
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        sampler = SMOTE(random_state=0)
        more, labels = sampler.fit_resample(
            torch.tensor(X).to(dtype).requires_grad_(), torch.tensor(y, dtype=torch.int32)
        )
        assert more.dtype == dtype
        assert not more.requires_grad
        assert labels.dtype == torch.int32
        assert isinstance(sampler.provenance_.step, torch.Tensor)
        more, _ = SMOTENC([3], random_state=0).fit_resample(torch.tensor(X).round().to(dtype), y)
        assert more.dtype == dtype


# 6. Bad input


def test_bad_input_is_named():
    """Every refusal says what must be, what came, and what to do."""
    X, y = cloud(16, few=4)
    with pytest.raises(ValueError, match="class 1 must have more rows than k_neighbors: it has 4, k_neighbors is 5"):
        SMOTE().fit_resample(X, y)
    with pytest.raises(ValueError, match="class 1 must have more rows than n_neighbors: it has 4"):
        ADASYN(n_neighbors=4).fit_resample(X, y)
    with pytest.raises(ValueError, match="X must have more rows than m_neighbors: it has 300, m_neighbors is 300"):
        BorderlineSMOTE(k_neighbors=2, m_neighbors=300).fit_resample(X, y)
    hole = X.copy()
    hole[17, 2] = np.nan
    with pytest.raises(ValueError, match="X must be finite: 1 rows .* the first is row 17"):
        SMOTE(k_neighbors=2).fit_resample(hole, y)
    cases = [
        (0.01, "cannot shrink a class: 0.01 is below"),
        (1.5, r"must lie in \(0, 1\]"),
        ("majority", "sampling_strategy must be one of 'auto'"),
        ({1: 2}, "cannot shrink a class: 1 has 4 rows, 2 asked"),
        ({7: 2}, "must name classes of y: 7 is not among"),
    ]
    for strategy, message in cases:
        with pytest.raises(ValueError, match=message):
            SMOTE(k_neighbors=2, sampling_strategy=strategy).fit_resample(X, y)
    with pytest.raises(TypeError, match="sampling_strategy must be a name, a ratio, a mapping"):
        SMOTE(k_neighbors=2, sampling_strategy=[1]).fit_resample(X, y)
    with pytest.raises(ValueError, match="ratio for two classes only: y has 3"):
        SMOTE(sampling_strategy=0.5).fit_resample(X, np.arange(300) % 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k_neighbors": 0}, "k_neighbors must be a whole number of at least 1"),
        ({"k_neighbors": 2.5}, "k_neighbors must be a whole number"),
        ({"base": "even"}, "base must be one of 'uniform', 'balanced'"),
        ({"normalize": True}, "normalize needs rows of length one: 40 rows"),
        ({"random_state": -1}, "random_state must be an integer"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    """Arguments are judged when they are used, as scikit-learn's protocol wants."""
    with pytest.raises(ValueError, match=message):
        SMOTE(**arguments).fit_resample(*cloud(17))


def test_bad_tables_are_named():
    """Words without a column for them, labels that are no classes, lengths that differ."""
    X, y = cloud(18)
    with pytest.raises(ValueError, match="X must hold numbers"):
        SMOTE().fit_resample(np.array([["a"], ["b"]], dtype=object), [0, 1])
    with pytest.raises(ValueError, match="squares that fit into float64"):
        SMOTE().fit_resample(X * 1e200, y)
    with pytest.raises(ValueError, match="y must have one entry per row of X: 300 rows, 299 y"):
        SMOTE().fit_resample(X, y[:-1])
    with pytest.raises(ValueError, match="y must hold classes: got numbers that are not whole"):
        SMOTE().fit_resample(X, y + 0.5)
    with pytest.raises(ValueError, match="a row of several classes came"):
        SMOTE().fit_resample(X, np.ones((300, 2), dtype=int))
    with pytest.raises(ValueError, match="y must hold at least two classes: got 1"):
        SMOTE().fit_resample(X, np.zeros(300))
    with pytest.raises(ValueError, match="kind must be one of 'borderline-1'"):
        BorderlineSMOTE(kind="svm").fit_resample(X, y)
    with pytest.raises(ValueError, match="per_feature needs dense rows"):
        SMOTE(per_feature=True).fit_resample(pytest.importorskip("scipy.sparse").csr_matrix(X), y)
    with pytest.raises(ValueError, match=r"steps must have shape \(m,\) or \(m, 4\)"):
        smote_interpolate(X, y[:, None], y[:1], y[:1], np.zeros((1, 3)))
    with pytest.raises(ValueError, match="ratios must not be negative"):
        adasyn_counts(np.zeros(3), 4)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ([4], "must be columns 0 to 3"),
        ("auto", "or 'auto' for a data frame"),
        (["a"], r"must name columns of a data frame: \['a'\]"),
        ([True], "must mask 4 columns: got 1"),
        ([False] * 4, "needs columns of categories"),
        ([0, 1, 2, 3], "needs columns of numbers"),
    ],
)
def test_bad_columns_are_named(features, message):
    """Columns of categories must be there, and not be all."""
    with pytest.raises(ValueError, match=message):
        SMOTENC(features).fit_resample(*cloud(19))


def test_bad_categories_are_named():
    """A column that mixes words and numbers cannot be sorted, and text is no number."""
    X, y = cloud(20)
    table = X.astype(object)
    table[0, 3] = "red"
    with pytest.raises(ValueError, match="column 3 mixes types"):
        SMOTENC([3]).fit_resample(table, y)
    with pytest.raises(ValueError, match="take dtype=object"):
        SMOTENC([3]).fit_resample(table.astype(str), y)


def test_classes_that_cannot_gain_are_told():
    """No row in danger is a warning, where imbalanced-learn says nothing; no neighbour of another class an error."""
    X = np.concatenate([np.random.default_rng(0).normal(size=(50, 2)) + offset for offset in (0, 99)])
    y = np.repeat([0, 1], 50)
    keep = np.r_[0:50, 50:75]
    with pytest.warns(
        UserWarning, match="class 1 has no row in danger among its 25, so it gains none; take SMOTE"
    ) as told:
        more, labels = BorderlineSMOTE(random_state=0).fit_resample(X[keep], y[keep])
    assert told[0].filename == __file__
    assert np.array_equal(more, X[keep])
    assert np.array_equal(labels, y[keep])
    with pytest.raises(ValueError, match="class 1 has no neighbour of another class"):
        ADASYN().fit_resample(X[keep], y[keep])
    spread = X[:60].copy()
    spread[50:] = np.random.default_rng(1).normal(size=(10, 2))
    with pytest.raises(ValueError, match="class 1 would gain no row: its 1 all round to none"):
        ADASYN(sampling_strategy={1: 11}).fit_resample(spread, y[:60])
