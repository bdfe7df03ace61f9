"""Audit and calibration: planted positives behave as strangers would, and the bound that is stated is kept."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.negatives import audit, calibration
from tamis.negatives.mine import mine_negatives as mine


def world(seed, n=400, several=1.0, d=24):
    """Queries with two answers each, of which a share of the queries knows both."""
    rng = np.random.default_rng(seed)
    concepts = rng.standard_normal((60, d))[rng.integers(60, size=n)] + 0.9 * rng.standard_normal((n, d))
    owner = np.repeat(np.arange(n), 2)
    passages = concepts[owner] + rng.uniform(0.3, 1.6, (2 * n, 1)) * rng.standard_normal((2 * n, d))
    queries = concepts + 0.5 * rng.standard_normal((n, d))
    positives = [[2 * i, 2 * i + 1] if i < several * n else [2 * i] for i in range(n)]
    texts = [f"q{i}" for i in range(n)], [f"p{i}" for i in range(2 * n)]
    return dict(
        queries=texts[0], corpus=texts[1], positives=positives, query_embeddings=queries, corpus_embeddings=passages
    )


def test_planting_hides_one_of_several():
    """One positive of each query that has two with different texts is hidden, and always one of its own."""
    positives = [np.array([0, 1, 2]), np.array([3]), np.array([4, 5]), np.array([6, 7])]
    groups = np.array([0, 1, 2, 3, 4, 4, 6, 7])  # 4 and 5 are one text
    planted = audit.plant(positives, groups, seed=0)
    assert planted.query.tolist() == [0, 3]
    assert all(h in positives[q] for q, h in zip(planted.query, planted.passage, strict=True))
    assert len(audit.plant(positives, groups, seed=0, limit=1)) == 1


def test_slack_is_the_margin_that_is_survived():
    """A hidden positive at 0.6 against 0.8 survives margins below a quarter; signs do not matter."""
    assert audit.slack(np.array([0.6, -0.6]), np.array([0.8, -0.4])) == pytest.approx([0.25, 0.5])


def test_needed_and_share():
    """2 % needs 98 planted positives; a share carries its count and interval."""
    assert [audit.needed(a) for a in (0.02, 0.05, 0.1, 0.5)] == [98, 38, 18, 2]
    assert audit.share(0, 0)["rate"] is None
    assert audit.share(1, 4)["rate"] == 0.25


def test_survival_equals_mining_with_the_positive_really_hidden():
    """The survival that is computed in place equals a run in which each positive is hidden in earnest."""
    given_ = world(1, n=60)
    settings_ = {"negatives": 2, "depth": 3}
    stated = mine(**given_, percentage=0.9, **settings_).summary["audit"]["verification"]
    rng = calibration.as_generator(calibration.child_seed(0, "plant"))
    planted = audit.plant([np.array(p) for p in given_["positives"]], np.arange(120), seed=rng)
    survived = reached = 0
    for q, h in zip(planted.query, planted.passage, strict=True):
        known = [p if i != q else [r for r in p if r != h] for i, p in enumerate(given_["positives"])]
        one = mine(**(given_ | {"positives": known}), percentage=0.9, **settings_).negatives
        pool = mine(**(given_ | {"positives": known}), max_survival=1.0, negatives=3, depth=3).negatives
        reached += h in pool["negative"][pool["query"] == q]
        survived += h in one["negative"][one["query"] == q]
    assert 0 < survived < reached < 60
    assert (stated["count"], stated["n"]) == (survived, reached)


def test_candidates_that_are_dropped_do_not_compete():
    """A hidden positive behind candidates that a guide or a repeated text takes out would be picked."""

    class Guide:
        def encode(self, texts):
            return np.array([[1.0, 0.0] if t == "q" or t.startswith("near") else [0.6, 0.8] for t in texts])

    angles = np.deg2rad([0, 30, 32, 5, 10, 15, 60])
    vectors = np.stack([np.cos(angles), np.sin(angles)], 1)
    for names, settings_ in (
        (["one", "two", "near a", "near b", "near c", "far"], {"guide": Guide()}),
        (["one", "two", "copy", "copy", "Copy!", "far"], {}),
    ):
        found = mine(["q"], names, [[0, 1]], query_embeddings=vectors[:1], corpus_embeddings=vectors[1:],
                     max_survival=1.0, negatives=2, **settings_)  # fmt: skip
        assert found.summary["audit"]["verification"]["count"] == 1, names


@pytest.mark.parametrize("calibrate", ["odds", "margin"])
@pytest.mark.parametrize("target", [0.05, 0.2])
def test_the_bound_holds_on_average(target, calibrate):
    """Over twenty worlds the survival on the half that did not choose the margin is at most the bound."""
    rates = [
        mine(**world(s, n=200), max_survival=target, negatives=4, calibrate=calibrate).summary["audit"]["verification"][
            "rate"
        ]
        for s in range(20)
    ]
    assert np.mean(rates) <= target + 2 * np.std(rates) / np.sqrt(20)
    assert np.mean(rates) > 0  # the margin is not simply as strong as can be


def test_a_stricter_bound_never_gives_a_weaker_margin():
    """The margin grows as the bound shrinks."""
    given_ = world(3)
    margins = [
        mine(**given_, max_survival=t, calibrate="margin").summary["audit"]["margin"]["value"]
        for t in (0.4, 0.2, 0.1, 0.05, 0.02)
    ]
    assert margins == sorted(margins)


def test_one_positive_per_query_is_said_to_be_weaker():
    """Without queries of several positives, the scores of positives choose a ceiling, and the report says so."""
    found = mine(**world(4, several=0.0), max_survival=0.05, calibrate="margin").summary["audit"]
    assert (found["mode"], found["margin"]["kind"]) == ("positive scores", "score ceiling")
    assert "does not cover hidden positives that score lower" in found["warnings"][0]
    assert found["verification"]["rate"] <= 0.1


def test_one_positive_per_query_judged_by_odds():
    """Without queries of several positives, their odds as strangers choose the ceiling, and the report says so."""
    found = mine(**world(4, several=0.0)).summary["audit"]
    assert (found["mode"], found["margin"]["kind"]) == ("positive odds", "odds ceiling")
    assert found["target"] == calibration.bound_alone(found["expected_false"])
    assert "look less like answers to the query" in found["warnings"][0]
    assert found["verification"]["interval"][0] <= found["target"]


def test_too_few_to_tell():
    """Ten queries give a cautious margin and a warning that says how many would be needed."""
    found = mine(**world(5, n=10, several=0.0), max_survival=0.02).summary["audit"]
    assert found["mode"] == "none" and found["margin"]["value"] == calibration.CAUTIOUS
    assert "needs 98 of either" in found["warnings"][0]
    few = mine(**world(5, n=20), max_survival=0.02).summary["audit"]
    assert "needs 98" in few["warnings"][0] and few["supported"] > 0.02


def test_a_given_margin_is_measured_too():
    """With a margin of the user's the audit measures survival on all planted positives."""
    found = mine(**world(6), percentage=0.9).summary["audit"]
    assert found["verification"]["n"] == found["reached_pool"] and found["calibration"]["n"] == 0
    assert found["margin"] == {"kind": "relative", "value": pytest.approx(0.1)}


def test_the_curve_shows_the_margin_and_falls():
    """The curve holds the chosen margin, agrees with the rate there, and the band holds the curve."""
    found = mine(**world(7), max_survival=0.1, calibrate="margin").summary["audit"]
    curve, margin = found["curve"], found["margin"]["value"]
    at = curve["margin"].index(margin)
    assert curve["verification"][at] == pytest.approx(found["verification"]["rate"])
    assert all(
        low <= v <= high for low, v, high in zip(curve["low"], curve["verification"], curve["high"], strict=True)
    )
    assert curve["verification"][-1] == 0


def test_leaks_are_counted():
    """A set with a positive, its copy and a repeat among the negatives is found out."""
    queries, negatives = np.array([0, 0, 0, 1]), np.array([0, 2, 2, 3])
    groups = np.array([0, 1, 0, 3])
    found = audit.duplicates(queries, negatives, [np.array([0]), np.array([1])], groups)
    assert list(found.values()) == [1, 3, 2]
    skew = audit.skew(negatives, queries, 3, 10)
    assert (skew["queries_without"], skew["most_used"], skew["passages_used"]) == (1, 2, 3)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 1000))
def test_known_false_against_a_loop(seed):
    """Counting false negatives against a fuller judgement equals a loop."""
    rng = np.random.default_rng(seed)
    queries, negatives = np.sort(rng.integers(0, 5, 30)), rng.integers(0, 12, 30)
    truth = [np.unique(rng.integers(0, 12, rng.integers(0, 4))) for _ in range(5)]
    count = sum(n in truth[q] for q, n in zip(queries, negatives, strict=True))
    assert audit.known_false(queries, negatives, truth)["count"] == count
