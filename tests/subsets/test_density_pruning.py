"""Density-based pruning and SemDeDup: worked numbers, plain loops, optimality, copies, order of rows, bad input."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis import mapped
from tamis.subsets import (
    DensityPruner,
    cluster_quotas,
    complexity_shares,
    inter_cluster_distances,
    prototype_selection,
    semantic_dedup,
)
from tamis.subsets.density_pruning import deduplication
from tests.behaviour import ArrayCase

D_INTRA, D_INTER = np.array([0.5, 0.4, 0.3]), np.array([0.6, 0.5, 0.2])
SIZES = np.array([50, 100, 200])
CORNER = np.array([[1.0, 0.0], [0.99, np.sqrt(1 - 0.99**2)], [0.0, 1.0]])


def world(seed, n=240, d=6, k=8):
    """Rows around centres of different widths, and the centre of each."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(k, size=n)
    rows = rng.normal(size=(k, d))[labels] + rng.uniform(0.02, 0.6, k)[labels, None] * rng.normal(size=(n, d))
    return rows * rng.uniform(0.5, 2, (n, 1)), labels


def make(seed):
    rows, labels = world(seed)

    def pruned(seed, rows, budget=0.4):
        return DensityPruner(8, budget=budget, n_neighbors=3, min_per_cluster=0, seed=seed).fit_select(rows)

    def ranked(seed, rows, budget=0.4):
        return prototype_selection(rows, budget=budget, n_clusters=8, which="random", seed=seed)

    return [
        ArrayCase(
            name="DensityPruner",
            call=pruned,
            inputs=(rows,),
            empty=lambda: pruned(0, rows[:0]),
            torch_too=True,
            budget=(lambda budget: pruned(0, rows, budget).indices, len(rows)),
        ),
        ArrayCase(
            name="prototype_selection",
            call=ranked,
            inputs=(rows,),
            empty=lambda: ranked(0, rows[:0]),
            torch_too=True,
            budget=(lambda budget: ranked(0, rows, budget).indices, len(rows)),
        ),
        ArrayCase(
            name="semantic_dedup",
            call=lambda seed, rows, labels: semantic_dedup(rows, labels=labels, keep="random", seed=seed),
            inputs=(rows, labels),
            empty=lambda: semantic_dedup(rows[:0]),
            torch_too=True,
        ),
        ArrayCase(
            name="complexity_shares",
            call=lambda seed, intra, inter: complexity_shares(intra, inter),
            inputs=(D_INTRA, D_INTER),
            empty=lambda: complexity_shares(D_INTRA[:0], D_INTER[:0]),
        ),
    ]


def slow_dedup(rows, labels, eps, keep):
    """SemDeDup in plain loops: the rows kept."""
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    kept = []
    for cluster in sorted(set(labels.tolist())):
        members = [int(i) for i in np.flatnonzero(labels == cluster)]
        centroid = units[members].mean(0)
        centroid /= np.linalg.norm(centroid)
        sign = -1 if keep == "hard" else 1
        order = sorted(members, key=lambda i: (sign * (1 - units[i] @ centroid), i))
        for place, j in enumerate(order):
            if not any(units[i] @ units[j] > 1 - eps for i in order[:place]):
                kept.append(j)
    return sorted(kept)


def slow_prune(rows, labels, total, temperature, neighbours, which):
    """The second stage in plain loops, the quotas by bisection on the shift: the rows kept."""
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    names = sorted(set(labels.tolist()))
    members = [np.flatnonzero(labels == name) for name in names]
    centroids = [units[m].mean(0) / np.linalg.norm(units[m].mean(0)) for m in members]
    complexity = []
    for j, centroid in enumerate(centroids):
        intra = np.mean([1 - units[i] @ centroid for i in members[j]])
        others = sorted(1 - centroid @ other for i, other in enumerate(centroids) if i != j)
        complexity.append(intra * np.mean(others[:neighbours]))
    shares = np.exp(np.array(complexity) / temperature)
    shares /= shares.sum()
    sizes = np.array([len(m) for m in members])
    floor = np.minimum(1, sizes - 1)
    low, high = -1e6, 1e6
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if np.clip(total * shares + middle, floor, sizes).sum() < total else (low, middle)
    exact = np.clip(total * shares + high, floor, sizes)
    quota = np.floor(exact + 1e-9).astype(int)
    for j in sorted(range(len(names)), key=lambda j: quota[j] - exact[j])[: total - quota.sum()]:
        quota[j] += 1
    kept = []
    for j, m in enumerate(members):
        sign = -1 if which == "hard" else 1
        kept += sorted(m.tolist(), key=lambda i: (sign * (1 - units[i] @ centroids[j]), i))[: quota[j]]
    return sorted(kept), quota


def test_complexity_and_shares_worked_numbers():
    """Complexity is the product of the two distances, and its softmax gives the shares worked out by hand."""
    complexity, shares = complexity_shares(D_INTRA, D_INTER)
    assert complexity == pytest.approx([0.30, 0.20, 0.06])
    assert shares == pytest.approx([0.685590, 0.252215, 0.062195], abs=1e-6)
    _, shares = complexity_shares(D_INTRA, D_INTER, temperature=0.5)
    assert shares == pytest.approx([0.410254, 0.335888, 0.253858], abs=1e-6)


def test_an_unknown_complexity_is_the_mean_of_the_rest():
    """A cluster without rows counts as complex as the others are on average."""
    complexity, _ = complexity_shares(np.array([0.5, np.nan, 0.3]), np.array([0.6, 0.5, 0.2]))
    assert complexity == pytest.approx([0.30, 0.18, 0.06])


def test_quotas_worked_numbers():
    """The exact program gives the numbers worked out by hand, with the shift that they share, and hits the total."""
    _, shares = complexity_shares(D_INTRA, D_INTER)
    assert 120 * shares == pytest.approx([82.270817, 30.265742, 7.463440], abs=1e-6)
    quota, exact = cluster_quotas(shares, SIZES, 120)
    assert exact == pytest.approx([50, 46.401151, 23.598849], abs=1e-6)
    assert exact[1] - 120 * shares[1] == pytest.approx(16.135409, abs=1e-6)
    assert quota.tolist() == [50, 46, 24]
    quota, exact = cluster_quotas(shares, SIZES, 200)
    assert exact == pytest.approx([50, 94.001918, 55.998082], abs=1e-6)
    assert quota.sum() == 200


def test_neighbour_distances_worked_numbers():
    """Three centroids in the plane have the mean distances worked out by hand, whatever their lengths."""
    corner = np.sqrt(0.5)
    centroids = np.array([[1.0, 0.0], [0.0, 1.0], [corner, corner]])
    expected = [0.646447, 0.646447, 0.292893]
    assert inter_cluster_distances(centroids, 2) == pytest.approx(expected, abs=1e-6)
    assert inter_cluster_distances(centroids * [[3], [0.2], [7]], 2) == pytest.approx(expected, abs=1e-6)


def test_two_equal_centroids_are_neighbours_at_no_distance():
    """A copy of a centroid is its nearest neighbour, and it does not take itself for one."""
    assert inter_cluster_distances(np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]]), 1) == pytest.approx([0, 0, 1])


def test_dedup_worked_numbers():
    """Of three rows in order only the second is near an earlier one, and only for the larger eps."""
    labels = np.zeros(3, dtype=int)
    for eps, kept in ((0.05, 2), (0.005, 3)):
        assert len(semantic_dedup(CORNER, eps=eps, labels=labels).indices) == kept
    # Row 2 is farthest from the centroid and comes first, then row 0: 1 has both before it.
    found = semantic_dedup(CORNER, labels=labels)
    assert found.indices.tolist() == [0, 2]
    assert found.scores.tolist() == pytest.approx([0, 0.99, -np.inf], abs=1e-6)
    assert found.reasons["row"].tolist() == [1]
    assert found.reasons["rival"].tolist() == [0]
    assert found.reasons["rule"].tolist() == ["semantic duplicate"]
    assert CORNER[1] @ CORNER[2] == pytest.approx(0.141067, abs=1e-6)


@pytest.mark.parametrize("keep", ["hard", "easy", "random"])
@pytest.mark.parametrize("eps", [1e-4, 0.05, 0.5])
def test_one_of_each_group_of_copies_stays(keep, eps):
    """Rows that occur several times, at any length, are there once afterwards."""
    rng = np.random.default_rng(0)
    base = np.linalg.qr(rng.normal(size=(12, 12)))[0]
    whose = np.repeat(np.arange(12), rng.integers(1, 9, 12))
    rows = base[whose] * rng.uniform(0.1, 9, (len(whose), 1))
    found = semantic_dedup(rows, eps=eps, n_clusters=3, keep=keep)
    assert sorted(whose[found.indices].tolist()) == list(range(12))


@given(st.integers(0, 2**32 - 1), st.sampled_from(["hard", "easy"]), st.sampled_from([0.01, 0.1, 0.3]))
@settings(deadline=None, max_examples=25)
def test_dedup_is_the_plain_loop(seed, keep, eps):
    """Kept rows are those of the loop over earlier rows, dropped ones included; the rival explains every drop."""
    rows, labels = world(seed, n=60, k=3, d=4)
    found = semantic_dedup(rows, eps=eps, labels=labels, keep=keep)
    assert found.indices.tolist() == slow_dedup(rows, labels, eps, keep)
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cosine = np.einsum("nd,nd->n", units[found.reasons["row"]], units[found.reasons["rival"]])
    np.testing.assert_allclose(cosine, found.reasons["score"], atol=1e-6)
    assert (labels[found.reasons["row"]] == labels[found.reasons["rival"]]).all()


def test_a_chain_of_copies_shrinks_to_its_head():
    """Rows each near the one before go all, also those that are near dropped rows only."""
    angles = 0.1 * np.arange(20)
    rows = np.stack([np.cos(angles), np.sin(angles)], 1)
    found = semantic_dedup(rows, eps=0.01, labels=np.zeros(20, dtype=int), keep="hard")
    assert len(found.indices) == 2  # both ends are farthest from the middle; every other row follows one of them
    assert found.indices.tolist() == [0, 19]


def test_blocks_within_a_large_cluster_change_nothing(monkeypatch):
    """However few similarities are held at once, and however few rows are read at once, the result is the same."""
    rows, labels = world(3, n=600, k=4)
    whole = semantic_dedup(rows, eps=0.1, labels=labels)
    monkeypatch.setattr(deduplication, "_PRODUCTS", 4 * 150 * 7)
    monkeypatch.setattr(mapped, "PIECE", 6 * 4 * 100)
    assert semantic_dedup(rows, eps=0.1, labels=labels).indices.tolist() == whole.indices.tolist()


@given(st.integers(0, 2**32 - 1), st.sampled_from(["hard", "easy"]), st.sampled_from([0.02, 0.1, 1.0]))
@settings(deadline=None, max_examples=25)
def test_pruning_is_the_plain_loop(seed, which, temperature):
    """With known clusters the rows and quotas are those of plain loops with quotas by bisection."""
    rows, labels = world(seed, n=90, k=5, d=4)
    pruner = DensityPruner(budget=40, temperature=temperature, n_neighbors=2, which=which)
    found = pruner.fit_select(rows, labels=labels)
    kept, quota = slow_prune(rows, labels, 40, temperature, 2, which)
    assert pruner.quota_.tolist() == quota.tolist()
    assert found.indices.tolist() == kept


@given(st.integers(0, 2**32 - 1), st.integers(10, 300), st.sampled_from([0.02, 0.1, 1.0]))
@settings(deadline=None, max_examples=25)
def test_quotas_meet_the_kkt_conditions(seed, total, temperature):
    """Quotas add up to the budget; away from its bounds every cluster is moved from its target by one amount."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 120, 10)
    total = min(total, int(sizes.sum()))
    _, shares = complexity_shares(rng.random(10), rng.random(10), temperature=temperature)
    quota, exact = cluster_quotas(shares, sizes, total)
    assert quota.sum() == total
    assert (quota <= sizes).all()
    assert (np.abs(quota - exact) < 1).all()
    inner = (exact > np.minimum(1, sizes - 1)) & (exact < sizes)
    shifts = (exact - total * shares)[inner]
    assert np.ptp(shifts) <= 1e-9 if len(shifts) else True


def test_an_infinite_temperature_gives_equal_quotas_and_the_whole_total_keeps_all():
    """Without a preference clusters share alike; a budget of everything keeps everything."""
    rows, labels = world(0, n=400, k=4)
    pruner = DensityPruner(budget=40, temperature=np.inf, n_neighbors=2)
    pruner.fit_select(rows, labels=labels)
    assert pruner.quota_.tolist() == [10, 10, 10, 10]
    found = DensityPruner(budget=1.0, n_neighbors=2).fit_select(rows, labels=labels)
    assert found.indices.tolist() == list(range(400))
    assert not len(found.reasons["row"])


def test_hard_and_easy_are_two_ends_and_balance_is_a_floor():
    """What hard keeps is no nearer than what easy keeps of the same cluster; balance gives every cluster its part."""
    rows, labels = world(1, n=400, k=4)
    found = {
        w: DensityPruner(budget=0.2, n_neighbors=2, which=w).fit_select(rows, labels=labels) for w in ("hard", "easy")
    }
    for cluster in range(4):
        ends = [
            found[w].scores[i]
            for w in ("hard", "easy")
            for i in [found[w].indices[labels[found[w].indices] == cluster]]
        ]
        assert ends[0].min() >= ends[1].max()
    pruner = DensityPruner(budget=80, temperature=0.001, n_neighbors=2, balance=0.5)
    pruner.fit_select(rows, labels=labels)
    assert pruner.quota_.min() == 10


def test_a_dropped_row_names_the_last_row_that_was_kept():
    """The rival is of the same cluster, was kept, and is at least as far from the centroid."""
    rows, labels = world(2)
    found = DensityPruner(budget=0.3, n_neighbors=2).fit_select(rows, labels=labels)
    row, rival = found.reasons["row"], found.reasons["rival"]
    assert (labels[row] == labels[rival]).all()
    assert set(rival.tolist()) <= set(found.indices.tolist())
    assert (found.scores[rival] >= found.reasons["score"]).all()


def test_stages_compose_by_log_weights():
    """Rows that de-duplication dropped take no part in clusters, quotas or budget; finite weights are passed on."""
    rows, _ = world(4)
    rows = np.concatenate([rows, rows[:100]])
    first = semantic_dedup(rows, eps=1e-4, n_clusters=4)
    assert len(first.indices) == 240
    pruner = DensityPruner(6, budget=0.5, n_neighbors=2)
    found = pruner.fit_select(rows, log_weights=first.log_weights)
    assert len(found.indices) == 120
    assert set(found.indices.tolist()) <= set(first.indices.tolist())
    assert pruner.sizes_.sum() == 240
    rules, counts = np.unique(found.reasons["rule"].astype(str), return_counts=True)
    assert dict(zip(rules.tolist(), counts.tolist(), strict=True)) == {
        "dropped before": 100,
        "over its cluster's quota": 120,
    }
    alone = DensityPruner(6, budget=0.5, n_neighbors=2).fit_select(rows[first.indices])
    assert found.indices.tolist() == first.indices[alone.indices].tolist()
    weights = np.where(np.arange(len(rows)) % 2, -0.5, 0.0)
    found = DensityPruner(6, budget=0.5, n_neighbors=2).fit_select(rows, log_weights=weights)
    assert found.log_weights[found.indices].tolist() == weights[found.indices].tolist()


def test_prototypes_delete_dense_concepts_unless_they_are_balanced():
    """Ranked over all clusters at once, the tight cluster loses everything; a floor per cluster prevents that."""
    rng = np.random.default_rng(0)
    rows = np.concatenate(
        [np.array([9, 0]) + 0.01 * rng.normal(size=(50, 2)), np.array([0, 9]) + rng.normal(size=(50, 2))]
    )
    labels = np.repeat([0, 1], 50)
    found = prototype_selection(rows, budget=20, labels=labels)
    assert (labels[found.indices] == 1).all()
    found = prototype_selection(rows, budget=20, balance=0.5, labels=labels)
    assert np.bincount(labels[found.indices]).tolist() == [5, 15]
    for chosen in (0, 1):
        inside = found.indices[labels[found.indices] == chosen]
        others = np.setdiff1d(np.flatnonzero(labels == chosen), inside)
        assert found.scores[inside].min() >= found.scores[others].max()


def test_a_mapped_array_gives_what_memory_gives(tmp_path, monkeypatch):
    """Rows in a file, read in small pieces and with k-means on a sample, are clustered and chosen alike."""
    rows, _ = world(5, n=3000)
    np.save(tmp_path / "rows.npy", rows.astype(np.float32))
    expected = DensityPruner(8, n_neighbors=3).fit_select(rows.astype(np.float32))
    monkeypatch.setattr(mapped, "PIECE", 4096)
    found = DensityPruner(8, n_neighbors=3).fit_select(np.load(tmp_path / "rows.npy", mmap_mode="r"))
    assert found.indices.tolist() == expected.indices.tolist()
    assert len(semantic_dedup(np.load(tmp_path / "rows.npy", mmap_mode="r")).indices) <= 3000


def test_rotation_and_length_change_nothing():
    """Only directions count: rotated and stretched rows keep the same rows."""
    rows, labels = world(6)
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 6)))[0]
    pruner = DensityPruner(budget=0.3, n_neighbors=2)
    expected = pruner.fit_select(rows, labels=labels).indices.tolist()
    assert pruner.fit_select(3 * rows @ turn, labels=labels).indices.tolist() == expected


def test_half_precision_tensors_are_taken():
    """A bfloat16 tensor gives a selection in tensors, its scores in bfloat16."""
    rows, labels = world(0)
    found = semantic_dedup(torch.tensor(rows, dtype=torch.bfloat16), labels=torch.tensor(labels))
    assert found.scores.dtype == torch.bfloat16
    assert found.indices.dtype == torch.int64


ROWS, LABELS = world(0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: DensityPruner(0), "n_clusters must be at least 1: got 0"),
        (lambda: DensityPruner(n_init=0), "n_init must be at least 1: got 0"),
        (lambda: DensityPruner(temperature=0), "temperature must be positive: got 0"),
        (lambda: DensityPruner(which="best"), "which must be one of 'hard', 'easy', 'random': got 'best'"),
        (lambda: DensityPruner(300).fit_select(ROWS), "n_clusters must lie between 1 and 240: got 300"),
        (
            lambda: DensityPruner(20).fit_select(ROWS),
            "n_neighbors must be less than the number of clusters: 20 clusters",
        ),
        (
            lambda: DensityPruner(n_neighbors=2, budget=3).fit_select(ROWS, labels=LABELS),
            "budget must lie between the fl",
        ),
        (
            lambda: DensityPruner(n_neighbors=2, budget=999).fit_select(ROWS, labels=LABELS),
            "budget must be a count betw",
        ),
        (lambda: DensityPruner(n_neighbors=2, balance=2).fit_select(ROWS, labels=LABELS), "balance must lie between 0"),
        (lambda: semantic_dedup(ROWS * (LABELS > 0)[:, None]), "embeddings must not hold zero vectors"),
        (lambda: semantic_dedup(np.full((3, 2), np.nan)), "embeddings must be finite"),
        (
            lambda: semantic_dedup(ROWS, labels=LABELS[:5]),
            "labels must have one entry per row of embeddings: 240 rows, 5",
        ),
        (lambda: semantic_dedup(ROWS, log_weights=LABELS[:5]), "log_weights must have one entry per row"),
        (lambda: semantic_dedup(ROWS, log_weights=np.full(240, -np.inf)), "log_weights must leave some rows"),
        (lambda: semantic_dedup(ROWS, eps=0), "eps must lie above 0 and be at most 2: got 0"),
        (lambda: semantic_dedup(ROWS[0]), "embeddings must be two-dimensional"),
        (lambda: complexity_shares(np.full(3, np.nan), np.ones(3)), "must be known for some cluster"),
        (lambda: complexity_shares(np.ones(3), np.ones(2)), "d_inter must have the shape of d_intra"),
        (lambda: cluster_quotas(np.ones(2) / 2, np.array([3, 4]), 8), "budget must lie between .*, 2 and 7: got 8"),
        (lambda: cluster_quotas(np.ones(2) / 2, np.array([3, 4]), 1), "budget must lie between .*, 2 and 7: got 1"),
    ],
)
def test_bad_input_is_named(call, message):
    """What cannot be pruned is refused in one line that says why."""
    with pytest.raises(ValueError, match=message):
        call()


def test_every_order_of_a_small_cluster_is_bounded_by_dropping_one():
    """Whatever the order, two near rows never both stay."""
    rows = np.concatenate([CORNER, [[1.0, 0.02]]])
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    for seed in range(10):
        kept = semantic_dedup(rows, labels=np.zeros(4, dtype=int), keep="random", seed=seed).indices
        assert all(units[i] @ units[j] <= 0.95 for i, j in itertools.combinations(kept, 2))
