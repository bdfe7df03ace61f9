"""Calibrated negatives: a worked case, the whole chain in plain loops, an invariant, and bad input."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.negatives import calibrated_negatives
from tamis.negatives.calibrated import CalibratedNegatives
from tamis.negatives.calibration import bound_alone
from tests.behaviour import ArrayCase


def world(seed: int, queries: int = 120, others: int = 240, d: int = 24):
    """Concepts with three passages each; the first is known, two are hidden; others answer nothing."""
    rng = np.random.default_rng(seed)
    concepts = rng.standard_normal((queries + others, d))
    owner = np.concatenate([np.repeat(np.arange(queries), 3), queries + np.arange(others)])
    passages = concepts[owner] + 0.5 * rng.standard_normal((len(owner), d))
    asked = concepts[:queries] + 0.9 * rng.standard_normal((queries, d))
    return asked.astype(np.float32), passages.astype(np.float32), owner, [[3 * i] for i in range(queries)]


def make(seed: int) -> list[ArrayCase]:
    queries, passages, _, positives = world(seed, queries=40, others=60)

    def call(draw: int, q: np.ndarray, p: np.ndarray):
        mined = calibrated_negatives(q, p, positives, negatives=3, seed=draw)
        return mined.indices, mined.log_weights

    empty = np.empty((0, 4), np.float32)
    return [ArrayCase("calibrated", call, (queries, passages), empty=lambda: calibrated_negatives(empty, empty, []))]


def false_share(mined: CalibratedNegatives, owner: np.ndarray) -> float:
    there = mined.indices >= 0
    return float((there & (owner[mined.indices] == np.arange(len(there))[:, None])).sum() / there.sum())


def test_hidden_positives_stay_out():
    """Of the two nearest passages of a query most are hidden positives; of its negatives few are."""
    queries, passages, owner, positives = world(0)
    mined = calibrated_negatives(queries, passages, positives, negatives=2)
    nearest = mined.candidates[:, :2]
    naive = (owner[nearest] == np.arange(len(queries))[:, None]).mean()
    assert naive > 0.5
    assert false_share(mined, owner) < 0.1 * naive
    assert mined.audit["mode"] == "positive odds"
    assert mined.audit["target"] == bound_alone(mined.audit["expected_false"])


def test_several_positives_are_planted():
    """Where queries have two positives, one is hidden, the passages' view judges it too, and the bound is 0.02."""
    queries, passages, owner, positives = world(1)
    mined = calibrated_negatives(queries, passages, [[p[0], p[0] + 1] for p in positives], negatives=2)
    assert mined.audit["mode"] == "planted" and mined.audit["target"] == 0.02
    assert false_share(mined, owner) < 0.1


def test_the_bound_follows_what_there_is_to_filter():
    """Data that hide two answers of three ask for a stricter bound than data that hide none."""
    queries, passages, owner, positives = world(0)
    hiding = calibrated_negatives(queries, passages, positives, negatives=2)
    alone = np.flatnonzero((owner >= len(queries)) | np.isin(np.arange(len(owner)), np.concatenate(positives)))
    bare = calibrated_negatives(queries, passages[alone], [[i] for i in range(len(queries))], negatives=2)
    assert hiding.audit["expected_false"] > 2 * bare.audit["expected_false"]
    assert hiding.audit["target"] < bare.audit["target"]


@pytest.mark.parametrize(("expected", "bound"), [(0.0, 1 / 3), (0.05, 1 / 3), (0.2, 0.2), (0.4, 0.1), (1.0, 0.05)])
def test_the_bound_leaves_four_in_a_hundred(expected, bound):
    """Bound times expected share is four in a hundred, within 0.05 and a third."""
    assert bound_alone(expected) == pytest.approx(bound)


def test_picks_are_the_hardest_that_are_kept():
    """Row by row: walk down the candidates, skip the dropped ones, stop at n."""
    queries, passages, _, positives = world(2)
    mined = calibrated_negatives(queries, passages, positives, negatives=3)
    for row, log_weights, picks in zip(mined.candidates, mined.log_weights, mined.indices, strict=True):
        kept = [i for i, w in zip(row.tolist(), log_weights.tolist(), strict=True) if i >= 0 and w > -np.inf][:3]
        assert picks.tolist() == kept + [-1] * (3 - len(kept))


def test_nothing_above_the_positive():
    """However unlikely an answer it is, a candidate that scores above the positive is left out."""
    queries, passages, _, positives = world(3)
    mined = calibrated_negatives(queries, passages, positives, negatives=3)
    q = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    p = passages / np.linalg.norm(passages, axis=1, keepdims=True)
    for own, known, picks in zip(q, positives, mined.indices, strict=True):
        assert all(own @ p[i] < own @ p[known[0]] + 1e-6 for i in picks if i >= 0)


def test_a_handful_of_queries_falls_back_to_a_margin():
    """Ten queries teach nothing of odds: the cautious margin stands in, and the report says that nothing is known."""
    queries, passages, _, positives = world(4, queries=10, others=50)
    mined = calibrated_negatives(queries, passages, positives, negatives=2)
    assert mined.audit["margin"] == {"kind": "relative", "value": 0.1}
    assert "Nothing is known" in mined.audit["says"]


@settings(deadline=None, max_examples=8)
@given(st.integers(0, 10_000))
def test_a_stricter_bound_keeps_fewer(seed):
    """What is dropped under a weaker bound is dropped under a stronger one."""
    queries, passages, _, positives = world(seed, queries=80, others=80)
    weak = calibrated_negatives(queries, passages, positives, negatives=2, max_survival=0.4)
    strict = calibrated_negatives(queries, passages, positives, negatives=2, max_survival=0.1)
    assert np.isneginf(strict.log_weights[np.isneginf(weak.log_weights)]).all()
    assert weak.candidates.tolist() == strict.candidates.tolist()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"positives": [[0]] * 3}, "3 positives, 5 query_embeddings|positives must have one entry per"),
        ({"positives": [[0]] * 4 + [[]]}, "query 4 has none"),
        ({"positives": [[0]] * 4 + [[99]]}, r"query 4 names \[99\]"),
        ({"corpus_embeddings": np.ones((9, 3), np.float32)}, "corpus_embeddings"),
        ({"max_survival": 0.0}, "max_survival must lie between 0"),
        ({"negatives": 0}, "negatives must be at least 1"),
        ({"depth": 0}, "depth must be at least 1"),
    ],
)
def test_bad_input(change, message):
    """One line names the argument and what came."""
    good = {
        "query_embeddings": np.eye(5, 8, dtype=np.float32) + 0.1,
        "corpus_embeddings": np.eye(9, 8, dtype=np.float32) + 0.1,
        "positives": [[0]] * 5,
    }
    settings = good | change
    arrays = [settings.pop(name) for name in good]
    with pytest.raises(ValueError, match=message):
        calibrated_negatives(*arrays, **settings)
