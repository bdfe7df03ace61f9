"""kMQ and its rounds: worked numbers, a round-robin in loops, laws of the draws, and budgets that are met."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.subsets import (
    IterativeClusterSelector,
    KMeansQuality,
    cluster_rows,
    equal_quotas,
    feedback_weights,
    quality_probabilities,
)
from tamis.subsets.diversify_conquer import clusters
from tests.behaviour import ArrayCase


def blobs(seed: int, sizes=(12, 5, 3)) -> np.ndarray:
    """Rows around centres far apart."""
    rng = np.random.default_rng(seed)
    return np.repeat(10.0 * np.eye(len(sizes)), sizes, axis=0) + 0.1 * rng.normal(size=(sum(sizes), len(sizes)))


def make(seed: int) -> list:
    """Cases for the shared checks: kMQ, the clusters, and a run of all rounds."""
    rows, quality = blobs(seed), np.random.default_rng(seed).random(20)

    def rounds(budget):
        selector = IterativeClusterSelector(3, budget=budget, rounds=2).fit(rows)
        for _ in range(2):
            asked = selector.ask()
            selector.tell(asked, quality[asked])
        return selector.selection()

    return [
        ArrayCase(
            "KMeansQuality",
            lambda s, e, q: KMeansQuality(3, budget=8, seed=s).fit_select(e, q),
            (rows, quality),
            empty=lambda: KMeansQuality(3).fit_select(np.empty((0, 2))),
            torch_too=True,
            budget=(lambda budget: KMeansQuality(3, budget=budget).fit_select(rows, quality).indices, 20),
        ),
        ArrayCase("cluster_rows", lambda s, e: cluster_rows(e, 3, seed=s), (rows,)),
        ArrayCase("feedback_weights", lambda s, q: feedback_weights(q), (quality,)),
        ArrayCase(
            "IterativeClusterSelector",
            lambda s, q: rounds(9),
            (quality,),
            budget=(lambda budget: rounds(budget).indices, 20),
        ),
    ]


def test_worked_numbers():
    """Probabilities, feedback and quotas of the specification."""
    assert quality_probabilities([1, 2, 3]).tolist() == pytest.approx([0.090031, 0.244728, 0.665241], abs=5e-7)
    proportional = quality_probabilities([1, 2, 3], weighting="proportional")
    assert proportional.tolist() == pytest.approx([1 / 6, 1 / 3, 1 / 2])
    once = feedback_weights([1, 0, -1])
    assert once.tolist() == pytest.approx([0.665241, 0.244728, 0.090031], abs=5e-7)
    assert feedback_weights([1, 0, -1], np.full(3, 1 / 3)).tolist() == pytest.approx(once.tolist())
    plain = feedback_weights([3, 1, 0], [0.5, 0.25, 0.25], feedback="proportional")
    assert plain.tolist() == pytest.approx([6 / 7, 1 / 7, 0])
    twice = np.exp([2.0, 0, -2])
    assert feedback_weights([1, 0, -1], once).tolist() == pytest.approx((twice / twice.sum()).tolist())
    assert equal_quotas([10, 2, 1], 9, fill=False).tolist() == [3, 2, 1]
    assert equal_quotas([10, 2, 1], 9).tolist() == [6, 2, 1]


def test_large_scores_do_not_overflow():
    """Scores of 36 and far more should give a probability, not infinity."""
    assert quality_probabilities([3600.0, 36.0]).tolist() == [1.0, 0.0]
    assert quality_probabilities([36.0, 35.0], temperature=10).tolist() == pytest.approx([0.524979, 0.475021], abs=1e-6)


@given(seed=st.integers(0, 2**32 - 1), sizes=st.lists(st.integers(0, 9), min_size=1, max_size=7), share=st.floats(0, 1))
@settings(max_examples=80, deadline=None)
def test_quotas_are_a_round_robin(seed, sizes, share):
    """Quotas should meet the budget, and be what handing out one row after the other in turn gives, up to the order."""
    budget = int(share * sum(sizes))
    quota = equal_quotas(sizes, budget, seed=seed)
    assert quota.sum() == budget
    turns = [0] * len(sizes)
    while sum(turns) < budget:
        for cluster, size in enumerate(sizes):
            if turns[cluster] < size and sum(turns) < budget:
                turns[cluster] += 1
    assert sorted(np.minimum(quota, min(turns, default=0)).tolist()) == sorted(np.minimum(turns, min(turns)).tolist())
    open_clusters = [q for q, size in zip(quota.tolist(), sizes, strict=True) if q < size]
    assert not open_clusters or max(quota.tolist()) - min(open_clusters) <= 1
    assert all(q <= size for q, size in zip(quota.tolist(), sizes, strict=True))


@pytest.mark.parametrize("weighting", ["uniform", "proportional", "softmax"])
def test_the_whole_budget_is_everything_once(weighting):
    """A budget of all rows should return each once, whatever the weighting and however many have no quality."""
    quality = np.r_[np.zeros(10), np.ones(10)]
    chosen = KMeansQuality(3, budget=20, weighting=weighting).fit_select(blobs(0), quality)
    assert chosen.indices.tolist() == list(range(20))


def test_equal_quality_is_no_quality():
    """With equal quality every row of a cluster should come equally often (chi-square over 5,000 draws)."""
    labels, counts = np.repeat([0, 1], [6, 4]), np.zeros(10)
    selector = KMeansQuality(budget=4, seed=np.random.default_rng(0))
    for _ in range(5000):
        counts[selector.fit_select(np.zeros((10, 1)), np.full(10, 0.7), labels=labels).indices] += 1
    expected = 5000 * np.r_[np.full(6, 2 / 6), np.full(4, 2 / 4)]
    assert ((counts - expected) ** 2 / expected).sum() < 20


def test_draws_follow_quality():
    """One row of a cluster should be drawn with the probabilities of the softmax."""
    counts, rng = np.zeros(3), np.random.default_rng(1)
    selector = KMeansQuality(budget=1, seed=rng)
    for _ in range(4000):
        counts[selector.fit_select(np.zeros((3, 1)), np.array([1.0, 2.0, 3.0]), labels=np.zeros(3, int)).indices] += 1
    assert (counts / 4000).tolist() == pytest.approx([0.090, 0.245, 0.665], abs=0.025)


def test_clusters_of_a_sample_label_every_row(monkeypatch):
    """Where k-means sees a part only, all rows should still go to the nearest centroid, in any blocks."""
    rows = blobs(3, sizes=(200, 90, 60)).astype(np.float32)
    monkeypatch.setattr(clusters, "_BLOCK", 70)
    labels, centroids = cluster_rows(rows, 3, rows_per_cluster=30, seed=1)
    nearest = ((rows[:, None] - centroids) ** 2).sum(2).argmin(1)
    assert (labels == nearest).all()
    assert sorted(np.bincount(labels).tolist()) == [60, 90, 200]
    turned, _ = cluster_rows(rows * np.linspace(0.1, 9, 350)[:, None], 3, spherical=True, rows_per_cluster=50, seed=1)
    assert sorted(np.bincount(turned).tolist()) == [60, 90, 200]


def test_rounds_have_no_cluster_without_rows(monkeypatch):
    """A cluster that k-means left empty should hold no weight."""
    found = np.repeat([0, 2], 5), np.zeros((3, 1), dtype=np.float32)
    monkeypatch.setattr("tamis.subsets.diversify_conquer.rounds.cluster_rows", lambda *_, **__: found)
    selector = IterativeClusterSelector(3, budget=2, rounds=1).fit(np.zeros((10, 1)))
    assert selector.cluster_weights_.tolist() == [0.5, 0.5]
    assert np.bincount(selector.labels_).tolist() == [5, 5]


def test_mapped_rows(tmp_path, monkeypatch):
    """Rows in a file should be clustered like rows in memory."""
    rows = blobs(3, sizes=(200, 90, 60)).astype(np.float32)
    np.save(tmp_path / "rows.npy", rows)
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    for part in (20, 256):
        expected = cluster_rows(rows, 3, rows_per_cluster=part)
        with monkeypatch.context() as small:
            small.setattr(clusters.mapped, "PIECE", 7 * rows[:1].nbytes)
            found = cluster_rows(mapped, 3, rows_per_cluster=part)
        assert (found[0] == expected[0]).all() and (found[1] == expected[1]).all()


def test_without_filling_rows_are_missing():
    """The official behaviour should return fewer rows than asked for, and say why the others went."""
    labels = np.repeat([0, 1, 2], [10, 2, 1])
    chosen = KMeansQuality(budget=9, fill=False).fit_select(np.zeros((13, 1)), labels=labels)
    assert len(chosen.indices) == 6
    assert set(chosen.reasons["rule"]) == {"over its cluster's quota"}
    assert np.isneginf(chosen.log_weights).sum() == 7


# Rounds


@given(seed=st.integers(0, 2**32 - 1), rounds=st.integers(1, 4), share=st.floats(0, 1), floor=st.sampled_from([0, 0.5]))
@settings(max_examples=40, deadline=None)
def test_rounds_meet_the_budget_and_never_repeat(seed, rounds, share, floor):
    """Over all rounds exactly the budget should come, no row twice, even where weights lie on empty clusters."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(4, size=25)
    selector = IterativeClusterSelector(budget=int(25 * share), rounds=rounds, min_weight=floor, seed=seed)
    selector.fit(labels=labels)
    for _ in range(rounds):
        asked = selector.ask()
        assert (selector.ask() == asked).all()
        selector.tell(asked, 200.0 * rng.normal(size=len(asked)))
        assert selector.cluster_weights_.sum() == pytest.approx(1)
    chosen = selector.selection()
    assert len(chosen.indices) == len(set(chosen.indices.tolist())) == int(25 * share)
    assert len(selector.ask()) == 0
    assert len(selector.history_) == rounds


def test_weights_are_those_of_the_feedback():
    """After rounds the weights should be the softmax of summed means, or of the last means alone."""
    labels = np.repeat([0, 1, 2], 30)
    for accumulate, factor in ((True, 2.0), (False, 1.0)):
        selector = IterativeClusterSelector(budget=30, rounds=3, accumulate=accumulate).fit(labels=labels)
        for _ in range(2):
            asked = selector.ask()
            selector.tell(asked, 1.0 - labels[asked])
        expected = np.exp(factor * np.array([1.0, 0, -1]))
        assert selector.cluster_weights_.tolist() == pytest.approx((expected / expected.sum()).tolist())


def test_a_floor_keeps_bad_clusters_open():
    """With a floor, a cluster without a chance should still get about its floor of the rows."""
    labels = np.repeat([0, 1], 400)
    shares = []
    for floor in (0.0, 0.5):
        selector = IterativeClusterSelector(budget=400, rounds=2, min_weight=floor, seed=1).fit(labels=labels)
        asked = selector.ask()
        selector.tell(asked, np.where(labels[asked] == 0, 50.0, 0.0))
        shares.append(float((labels[selector.ask()] == 1).mean()))
    assert shares[0] == 0.0
    assert 0.15 < shares[1] < 0.35


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: KMeansQuality(30, budget=3).fit_select(blobs(0)), "n_clusters must lie between 1 and 20: got 30"),
        (lambda: KMeansQuality(3, budget=21).fit_select(blobs(0)), "budget must be a count between 0 and 20"),
        (lambda: KMeansQuality(3).fit_select(blobs(0), np.full(20, math.nan)), "quality must be finite"),
        (lambda: KMeansQuality(3).fit_select(blobs(0), np.ones(3)), "one number per row: got shape"),
        (
            lambda: KMeansQuality(3, weighting="proportional").fit_select(blobs(0), -np.ones(20)),
            "at least 0 to draw in proportion to it: got -1",
        ),
        (lambda: KMeansQuality(3, weighting="best"), "weighting must be one of"),
        (lambda: KMeansQuality(3, temperature=0), "temperature must be positive"),
        (lambda: KMeansQuality(3, iterations=0), "iterations must be at least 1"),
        (lambda: IterativeClusterSelector(3, iterations=0), "iterations must be at least 1"),
        (lambda: KMeansQuality(3).fit_select(blobs(0), labels=np.zeros(3)), "labels must have one entry per row: 20"),
        (lambda: quality_probabilities([]), "quality must hold at least one row"),
        (lambda: equal_quotas([1, 2], 4), "budget must lie between 0 and 3"),
        (lambda: equal_quotas([-1, 2], 1), "sizes must be at least 0: got -1"),
        (lambda: feedback_weights([math.inf]), "scores must be finite"),
        (lambda: feedback_weights([-1.0], feedback="proportional"), "scores must be at least 0 to be proportional"),
        (lambda: IterativeClusterSelector().ask(), "call fit first"),
        (lambda: IterativeClusterSelector().fit(labels=np.zeros(30)).tell([0], [1.0]), "call ask before tell"),
        (lambda: IterativeClusterSelector().fit(), "give either embeddings or labels"),
        (lambda: cluster_rows(np.full((3, 1), math.nan), 2), "embeddings must be finite"),
    ],
)
def test_bad_input_is_refused(call, message):
    """Each mistake should be answered in a line that names the argument."""
    with pytest.raises(ValueError, match=message):
        call()


def test_only_the_rows_that_were_asked_for_can_be_told():
    """Other rows and scores with NaN should be refused, and the round stay open."""
    selector = IterativeClusterSelector(budget=4, rounds=2).fit(labels=np.zeros(9))
    asked = selector.ask()
    with pytest.raises(ValueError, match="indices must be the 2 rows"):
        selector.tell((asked + 1) % 9, np.ones(2))
    with pytest.raises(ValueError, match="scores must be finite"):
        selector.tell(asked, np.array([1.0, math.nan]))
    selector.tell(asked[::-1], np.ones(2))
