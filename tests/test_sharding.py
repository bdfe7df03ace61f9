"""How a search is divided: bounds of memory and network, and exclusions by shard."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.sharding import SHARD_BYTES, divided, plan_shards


def plan(queries=500_000, passages=10**8, dimensions=384, depth=200, workers=64, **more):
    return plan_shards(queries, passages, dimensions, depth, workers=workers, block_bytes=2**28, **more)


def test_a_large_search_by_hand():
    """100 M passages of 384 dimensions: 573 shards of 256 MB; turns of queries that fit a worker's 2 GB."""
    found = plan()
    assert found.shard_rows == SHARD_BYTES // (4 * 384) == 174_762
    assert found.shards == 573 and found.shard_rows * 4 * 384 <= SHARD_BYTES
    assert found.turns == 4 and found.query_rows == 125_000
    assert found.worker_bytes <= 2**31
    # Every turn sends all vectors; each query's first 64 shards return 200 candidates, the others some more.
    vectors = 4 * 10**8 * 384 * 4
    returned = 500_000 * 200 * 8 * (64 + np.log(573 / 64))
    assert found.network_bytes == pytest.approx(vectors + returned + 500_000 * (4 * 384 + 8 * 573), rel=1e-6)
    assert "573 shards of 174,762 passages on 64 workers, 4 turns of 125,000 queries" in str(found)


def test_small_searches_give_every_worker_two_shards():
    """A small corpus is divided by the workers, not by the size of a shard, and never into crumbs."""
    assert plan(queries=1000, passages=100_000, workers=4).shards == 8
    assert plan(queries=10, passages=500, workers=8).shards == 1
    assert plan(queries=10, passages=500, workers=8, shard_rows=100).shards == 5


@given(
    queries=st.integers(1, 10**7),
    passages=st.integers(1, 10**9),
    depth=st.integers(1, 2000),
    workers=st.integers(1, 999),
)
@settings(max_examples=100, deadline=None)
def test_bounds_hold_for_all_sizes(queries, passages, depth, workers):
    """Shards and turns cover everything, and a worker never takes more than it may."""
    found = plan(queries, passages, 384, depth, workers)
    assert found.worker_bytes <= 2**31
    assert found.shard_rows * found.shards >= passages > found.shard_rows * (found.shards - 1)
    assert found.query_rows * found.turns >= queries > found.query_rows * (found.turns - 1)


@given(seed=st.integers(0, 10**6), n=st.integers(1, 40), rows=st.integers(1, 12), size=st.integers(1, 15))
@settings(max_examples=60, deadline=None)
def test_exclusions_by_shard(seed, n, rows, size):
    """Every excluded pair is in the shard of its passage, and nothing else is."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 4, rows)
    indptr, columns = np.concatenate([[0], np.cumsum(counts)]), rng.integers(0, n, counts.sum())
    bounds = np.append(np.arange(0, n, size), n)
    parts = divided((indptr, columns), bounds)
    assert len(parts) == len(bounds) - 1
    found = [
        (int(r), int(c) + int(b))
        for (rs, cs), b in zip(parts, bounds, strict=False)
        for r, c in zip(rs, cs, strict=True)
    ]
    assert sorted(found) == sorted(zip(np.repeat(np.arange(rows), counts).tolist(), columns.tolist(), strict=True))
    assert all((np.diff(rs.astype(int)) >= 0).all() for rs, _ in parts)


def test_refuses_what_cannot_work():
    """Messages name the argument, the requirement and the cure."""
    with pytest.raises(ValueError, match="worker memory must hold the process and the blocks.*raise worker_bytes"):
        plan(worker_bytes=2**29)
    with pytest.raises(ValueError, match="workers must be at least 1: got 0"):
        plan(workers=0)
    with pytest.raises(ValueError, match="shard_rows must be at least 1: got -5"):
        plan(shard_rows=-5)
