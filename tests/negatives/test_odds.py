"""The odds of a run are learned in blocks: the same bytes whatever the blocks, in bounded memory."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from tamis import two_views
from tamis.negatives import candidates, merging
from tamis.negatives.odds import Odds, passage_scores

QUERIES, PASSAGES, DEPTH = 600, 3000, 40


def world(queries: int = QUERIES, depth: int = DEPTH):
    """A pool of unit vectors where every third query has two positives."""
    rng = np.random.default_rng(0)
    p = rng.standard_normal((PASSAGES, 24), dtype=np.float32)
    q = p[np.arange(queries) % PASSAGES] + 0.15 * rng.standard_normal((queries, 24), dtype=np.float32)
    for rows in (q, p):
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    last = PASSAGES - 1
    positives = [np.array([i % last, last] if i % 3 == 0 else [i % last]) for i in range(queries)]
    exclude = np.cumsum([0, *map(len, positives)]), np.concatenate(positives)
    pool = candidates.find([candidates.dense((q, p), depth, exclude)], depth)
    return pool, positives, passage_scores([(q, p)], [], False)


def learned(pool, positives, scores):
    odds = Odds.learn(pool, positives, PASSAGES, scores)
    several = np.arange(0, QUERIES, 3)
    left = [positives[i][1:] for i in several]
    rank = np.full(len(several), 2)
    picks = np.argsort(-odds.candidates, 1)[:, :5]
    return (
        odds.candidates,
        odds.of(several, several, rank, left),
        odds.of(several, several, rank, None),
        np.array([odds.known, odds.false_share(picks)]),
    )


@pytest.mark.parametrize("views", ["both", "queries"])
def test_blocks_change_no_byte(monkeypatch, views):
    """Odds should have the same bytes when queries and pairs are taken in small blocks as in one."""
    pool, positives, scores = world()
    scores = scores if views == "both" else None
    whole = learned(pool, positives, scores)
    monkeypatch.setattr(two_views, "BLOCK", 1024)
    monkeypatch.setattr(merging, "_BLOCK", 2**15)
    for one, other in zip(learned(pool, positives, scores), whole, strict=True):
        assert one.tobytes() == other.tobytes()


def test_memory_is_bounded(monkeypatch):
    """What is held for each candidate should be some numbers, not a row of features and its copies."""
    pool, positives, scores = world(3000, 100)
    monkeypatch.setattr(two_views, "BLOCK", 4096)
    monkeypatch.setattr(merging, "_BLOCK", 2**17)
    monkeypatch.setattr(two_views, "LEARN", 100)
    tracemalloc.start()
    try:
        Odds.learn(pool, positives, PASSAGES, scores)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 90 * pool.candidates.indices.size
