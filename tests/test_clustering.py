"""Clustering: bisection, k-means and assignment against plain loops, and k-means against scikit-learn."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.clustering import balanced_assign, balanced_bisect, kmeans


def blobs(n, k, d, seed, spread=0.3):
    rng = np.random.default_rng(seed)
    owner = np.arange(n) % k
    return rng.standard_normal((k, d))[owner] + spread * rng.standard_normal((n, d)), owner


def slow_bisect(rows, clusters, tol, seed):
    """Level by level in plain loops, in float64, with stable argsort and row order restored after every cut."""
    rng = np.random.default_rng(seed)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    level = [(list(range(len(rows))), clusters)]
    while any(leaves > 1 and len(members) > 1 for members, leaves in level):
        draws, below = rng.random((len(level), 2)), []
        for (members, leaves), (u, v) in zip(level, draws, strict=True):
            if leaves == 1 or len(members) == 1:
                below.append((members, leaves))
                continue
            m, left_leaves = len(members), (leaves + 1) // 2
            first = int(u * m)
            second = (first + 1 + int(v * (m - 1))) % m
            centroids, old, new = (unit[members[first]], unit[members[second]]), -1e6, -2.0
            while new - old >= tol:
                gap = [unit[i] @ centroids[1] - unit[i] @ centroids[0] for i in members]
                ranked = [members[j] for j in np.argsort(gap, kind="stable")]
                cut = math.ceil(m * left_leaves / leaves)
                halves = sorted(ranked[:cut]), sorted(ranked[cut:])
                means = [np.mean([unit[i] for i in half], axis=0) for half in halves]
                centroids = [mean / np.linalg.norm(mean) for mean in means]
                old, new = new, sum(unit[i] @ c for half, c in zip(halves, centroids, strict=True) for i in half) / m
            below += [(halves[0], left_leaves), (halves[1], leaves - left_leaves)]
        level = below
    labels = np.empty(len(rows), dtype=int)
    for label, (members, _) in enumerate(level):
        labels[members] = label
    return labels


@pytest.mark.parametrize(("n", "clusters", "exact"), [(10, 4, False), (97, 8, False), (60, 7, True), (13, 16, False)])
def test_bisect_equals_plain_loops(n, clusters, exact):
    """The blocked bisection gives the labels of the plain one, from the same draws."""
    rows = np.random.default_rng(n).standard_normal((n, 6))
    asked = min(clusters, n)
    labels = balanced_bisect(rows, num_clusters=asked, power_of_two=not exact, seed=5)
    assert slow_bisect(rows, clusters, 1e-4, 5).tolist() == labels.tolist()


def test_bisect_of_ten_into_four():
    """Ten rows in four clusters are a partition into sizes 3, 2, 3, 2 in some order."""
    labels = balanced_bisect(np.random.default_rng(0).standard_normal((10, 3)), num_clusters=4)
    assert sorted(np.bincount(labels).tolist()) == [2, 2, 3, 3]


def test_bisect_of_one_row():
    """One row is one cluster."""
    assert balanced_bisect(np.ones((1, 3)), num_clusters=1).tolist() == [0]


def test_bisect_into_singletons():
    """With more leaves than rows every row is a cluster of its own, and labels stay without gaps."""
    labels = balanced_bisect(np.random.default_rng(0).standard_normal((5, 2)), cluster_size=1)
    assert sorted(labels.tolist()) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("seed", range(10))
def test_first_cut_separates_two_blobs(seed):
    """Two separated blobs of equal size are cut apart exactly, whichever rows the cut starts from."""
    rows, owner = blobs(200, 2, 16, seed=seed, spread=0.2)
    labels = balanced_bisect(rows, num_clusters=2, seed=seed)
    assert abs(np.corrcoef(labels, owner)[0, 1]) == pytest.approx(1)


def test_bisect_rounds_up_to_a_power_of_two_unless_told():
    """Twelve clusters asked for are sixteen as in the official code, or exactly twelve."""
    rows = np.random.default_rng(1).standard_normal((100, 4))
    assert balanced_bisect(rows, num_clusters=12).max() + 1 == 16
    assert balanced_bisect(rows, num_clusters=12, power_of_two=False).max() + 1 == 12


@given(n=st.integers(1, 60), data=st.data(), exact=st.booleans(), same=st.booleans())
@settings(max_examples=40, deadline=None)
def test_bisect_is_a_balanced_partition(n, data, exact, same):
    """Sizes differ by at most one and no label is missing, also where all rows are the same."""
    clusters = data.draw(st.integers(1, n))
    rows = np.ones((n, 3)) if same else np.random.default_rng(n).standard_normal((n, 3))
    labels = balanced_bisect(rows, num_clusters=clusters, power_of_two=not exact, seed=n)
    sizes = np.bincount(labels)
    expected = clusters if exact else min(n, 2 ** math.ceil(math.log2(clusters)))
    assert len(sizes) == expected
    assert sizes.max() - sizes.min() <= 1


def test_bisect_size_never_exceeds_what_was_asked():
    """cluster_size is an upper bound."""
    rows = np.random.default_rng(2).standard_normal((1000, 4))
    for size in (1, 7, 64, 1000):
        assert np.bincount(balanced_bisect(rows, cluster_size=size)).max() <= size
        assert np.bincount(balanced_bisect(rows, cluster_size=size, power_of_two=False)).max() <= size


def test_bisect_blocks_do_not_matter(monkeypatch):
    """Splitting one segment at a time gives the labels of splitting many together."""
    rows = np.random.default_rng(3).standard_normal((500, 8)).astype(np.float32)
    together = balanced_bisect(rows, cluster_size=8, seed=1)
    monkeypatch.setattr("tamis.clustering._SPLIT_BLOCK", 1)
    assert np.array_equal(together, balanced_bisect(rows, cluster_size=8, seed=1))


def test_bisect_keeps_kind_and_input():
    """Tensors give tensors, arrays arrays, both int64 and the same; a read-only array is fine."""
    rows = np.random.default_rng(4).standard_normal((50, 4)).astype(np.float32)
    rows.setflags(write=False)
    from_array = balanced_bisect(rows, num_clusters=8, seed=2)
    from_tensor = balanced_bisect(torch.tensor(rows), num_clusters=8, seed=2)
    assert from_array.dtype == np.int64 and from_tensor.dtype == torch.int64
    assert from_array.tolist() == from_tensor.tolist()


def test_bisect_tightens_clusters():
    """On clustered data, members are far more alike than rows at large."""
    rows, _ = blobs(512, 16, 12, seed=0)
    labels = balanced_bisect(rows, cluster_size=32)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cosine = unit @ unit.T
    inside = labels[:, None] == labels
    assert cosine[inside].mean() > 0.9 > 0.5 > cosine[~inside].mean()


def test_bisect_refuses_bad_input():
    """Messages name the argument, the requirement and what came."""
    rows = np.ones((4, 2))
    with pytest.raises(ValueError, match="either num_clusters or cluster_size"):
        balanced_bisect(rows)
    with pytest.raises(ValueError, match="cluster_size must lie between 1 and 4: got 5"):
        balanced_bisect(rows, cluster_size=5)
    with pytest.raises(ValueError, match="num_clusters must lie between 1 and 4: got 0"):
        balanced_bisect(rows, num_clusters=0)
    with pytest.raises(ValueError, match="the first is row 1"):
        balanced_bisect(np.array([[1.0, 0.0], [0.0, 0.0]]), num_clusters=1)
    with pytest.raises(ValueError, match="embeddings must be finite.*row 0"):
        balanced_bisect(np.array([[np.nan, 0.0]]), num_clusters=1)
    with pytest.raises(ValueError, match="at least one row"):
        balanced_bisect(np.empty((0, 2)), num_clusters=1)
    with pytest.raises(ValueError, match="tol must be positive"):
        balanced_bisect(rows, num_clusters=2, tol=0)


def slow_inertia(rows, labels, centroids):
    return sum(((rows[i] - centroids[labels[i]]) ** 2).sum() for i in range(len(rows)))


@pytest.mark.parametrize("spherical", [False, True])
@pytest.mark.parametrize("init", ["k-means++", "random"])
def test_kmeans_is_a_fixed_point(spherical, init):
    """Every row has its nearest centroid, every centroid is the mean of its rows, and the inertia is theirs."""
    rows, _ = blobs(300, 5, 4, seed=1, spread=0.4)
    found = kmeans(rows, 5, spherical=spherical, init=init, iterations=200, seed=3)
    if spherical:
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    distances = [[((row - c) ** 2).sum() for c in found.centroids] for row in rows]
    assert np.argmin(distances, axis=1).tolist() == found.labels.tolist()
    for j in range(5):
        mean = rows[found.labels == j].mean(axis=0)
        np.testing.assert_allclose(found.centroids[j], mean / np.linalg.norm(mean) if spherical else mean, atol=1e-9)
    assert found.inertia == pytest.approx(slow_inertia(rows, found.labels, found.centroids))


@pytest.mark.parametrize("k", [3, 12, 80])
def test_kmeans_inertia_is_near_scikit_learn(k):
    """The inertia is within five percent of scikit-learn's from one start."""
    cluster = pytest.importorskip("sklearn.cluster")
    rows, _ = blobs(1000, 12, 8, seed=2)
    theirs = cluster.KMeans(k, n_init=1, random_state=0, algorithm="lloyd").fit(rows).inertia_
    ours = min(kmeans(rows, k, iterations=100, seed=seed).inertia for seed in range(2))
    assert ours <= 1.05 * theirs


def test_kmeans_reseeds_empty_clusters():
    """A start in which two centroids coincide still ends with k clusters where there are k distinct rows."""
    rows = np.array([[0.0]] * 40 + [[1.0]] * 2 + [[5.0]])
    for seed in range(20):
        found = kmeans(rows, 3, init="random", seed=seed)
        assert sorted(found.centroids.ravel().tolist()) == [0.0, 1.0, 5.0]
        assert found.inertia == 0


def test_kmeans_with_fewer_distinct_rows_than_clusters():
    """Too few distinct rows give empty clusters and no error or NaN."""
    found = kmeans(np.ones((6, 2)), 4)
    assert np.isfinite(found.centroids).all() and found.inertia == 0


def test_kmeans_blocks_kind_and_dtype():
    """Small blocks give the same labels; the centroids have the input's kind and dtype."""
    rows = np.random.default_rng(5).standard_normal((200, 6)).astype(np.float32)
    whole, blocked = kmeans(rows, 7, seed=1), kmeans(rows, 7, seed=1, block_bytes=500)
    assert np.array_equal(whole.labels, blocked.labels)
    assert whole.centroids.dtype == np.float32
    half = kmeans(torch.tensor(rows).half(), 7, seed=1)
    assert half.centroids.dtype == torch.float16 and half.labels.dtype == torch.int64


@given(n=st.integers(1, 40), data=st.data(), spherical=st.booleans())
@settings(max_examples=40, deadline=None)
def test_kmeans_labels_and_inertia_hold_together(n, data, spherical):
    """Labels are in range and more rounds never raise the inertia."""
    k = data.draw(st.integers(1, n))
    rows = np.random.default_rng(n).standard_normal((n, 3))
    few, many = (kmeans(rows, k, spherical=spherical, iterations=i, seed=n) for i in (1, 30))
    assert set(many.labels.tolist()) == set(range(k))
    assert many.inertia <= few.inertia + 1e-9


def test_kmeans_refuses_bad_input():
    """Messages name the argument, the requirement and what came."""
    rows = np.ones((4, 2))
    with pytest.raises(ValueError, match="k must lie between 1 and 4: got 5"):
        kmeans(rows, 5)
    with pytest.raises(ValueError, match="init must be one of"):
        kmeans(rows, 2, init="best")
    with pytest.raises(ValueError, match="iterations must be at least 1"):
        kmeans(rows, 2, iterations=0)
    with pytest.raises(ValueError, match="must have a direction"):
        kmeans(np.zeros((3, 2)), 2, spherical=True)


def slow_assign(scores, capacities, order):
    n, k = scores.shape
    room, chosen = list(capacities), [-1] * n
    if order == "score":
        pairs = sorted((-scores[i, j], i, j) for i in range(n) for j in range(k))
        for _, i, j in pairs:
            if chosen[i] < 0 and room[j] > 0:
                chosen[i], room[j] = j, room[j] - 1
        return chosen
    best = np.sort(scores, axis=1)[:, ::-1]
    regret = best[:, 0] - (best[:, 1] if k > 1 else best[:, 0])
    for i in np.argsort(-regret, kind="stable"):
        j = max((j for j in range(k) if room[j] > 0), key=lambda j: scores[i, j])
        chosen[i], room[j] = j, room[j] - 1
    return chosen


@given(n=st.integers(1, 30), k=st.integers(1, 6), data=st.data(), order=st.sampled_from(["regret", "score"]))
@settings(max_examples=120, deadline=None)
def test_assign_equals_the_plain_loop(n, k, data, order):
    """Rounds of deferred acceptance give what the plain loop gives, ties included, within the capacities."""
    seed = data.draw(st.integers(0, 999))
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 4, (n, k)).astype(float) if data.draw(st.booleans()) else rng.standard_normal((n, k))
    capacities = rng.integers(0, n + 1, k)
    capacities[rng.integers(k)] += max(0, n - capacities.sum())
    chosen = balanced_assign(scores, capacities, order=order)
    assert slow_assign(scores, capacities, order) == chosen.tolist()
    assert (np.bincount(chosen, minlength=k) <= capacities).all()


def test_assign_is_close_to_the_optimum():
    """With equal capacities the total score is within five percent of the best assignment there is."""
    optimize = pytest.importorskip("scipy.optimize")
    rows, _ = blobs(120, 6, 8, seed=3, spread=0.8)
    scores = -((rows[:, None] - kmeans(rows, 6).centroids) ** 2).sum(axis=2)
    best = scores.repeat(20, axis=1)
    optimum = best[optimize.linear_sum_assignment(best, maximize=True)].sum()
    got = scores[np.arange(120), balanced_assign(scores, 20)].sum()
    assert optimum >= got >= 1.05 * optimum  # scores are negative


def test_assign_takes_tensors():
    """A tensor gives a tensor, and capacities may be a tensor too."""
    chosen = balanced_assign(torch.tensor([[1.0, 0.0], [1.0, 0.5]]), torch.tensor([1, 1]))
    assert isinstance(chosen, torch.Tensor) and chosen.tolist() == [0, 1]


def test_assign_refuses_bad_input():
    """Messages name the argument, the requirement and what came."""
    scores = np.zeros((3, 2))
    with pytest.raises(ValueError, match="room for all rows: 3 rows, room for 2"):
        balanced_assign(scores, 1)
    with pytest.raises(ValueError, match="one entry per column of scores: 2, got 3"):
        balanced_assign(scores, np.array([1, 1, 1]))
    with pytest.raises(ValueError, match="must not be negative"):
        balanced_assign(scores, np.array([-1, 9]))
    with pytest.raises(ValueError, match="scores must be finite"):
        balanced_assign(np.array([[np.nan]]), 1)
    with pytest.raises(ValueError, match="order must be one of"):
        balanced_assign(scores, 2, order="greedy")


def test_global_generators_stay_untouched():
    """Clustering draws from its seed only."""
    before = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    rows = np.random.default_rng(0).standard_normal((30, 3))
    balanced_bisect(rows, num_clusters=4)
    kmeans(rows, 3)
    assert np.array_equal(before[0], np.random.get_state()[1])  # noqa: NPY002
    assert torch.equal(before[1], torch.get_rng_state())
