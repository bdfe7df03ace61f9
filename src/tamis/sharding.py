"""Sharding: how a search is divided over workers, and what that takes, known before anything starts.

Passages go in shards of fixed bounds, each to one worker at a time; queries that are too many for a worker's memory
take turns, and every turn sees all shards. A shard gives back only what may still be among the best, so after the first
shards little comes back. All sizes are functions of the numbers of rows, so memory, object store and network are known
beforehand, and a lost shard is made again from the same rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from tamis import checks

Array = np.ndarray[Any, Any]
SHARD_BYTES = 2**28
WORKER_BYTES = 2**31
TEXT_BYTES = 2**28
"""Texts that are on their way to encoders at the most."""

_PROCESS = 400 * 2**20  # a Python process with torch loaded
_PER_CANDIDATE = 48  # bytes per query and candidate while a shard is searched: keys, scores, indices and their copies
_SENT = 8  # bytes of a candidate on the wire: uint32 and float32


@dataclass(frozen=True)
class ShardPlan:
    """A divided search. Bytes are upper bounds, but for the network, which is about right for passages in any order.

    Args:
        queries: how many.
        passages: how many.
        dimensions: of the vectors.
        depth: candidates per query.
        workers: how many search at once.
        shard_rows: passages per shard.
        query_rows: queries per turn.
        worker_bytes: of the process of one worker, above what it shares with others in the object store.
        store_bytes: of the object store, all workers together; on a cluster the driver's node holds at most so much.
        driver_bytes: of the process that plans and merges, above vectors and texts.
        network_bytes: what travels between driver and workers for the search.
    """

    queries: int
    passages: int
    dimensions: int
    depth: int
    workers: int
    shard_rows: int
    query_rows: int
    worker_bytes: int
    store_bytes: int
    driver_bytes: int
    network_bytes: int

    @property
    def shards(self) -> int:
        """How many shards there are."""
        return -(-self.passages // self.shard_rows)

    @property
    def turns(self) -> int:
        """How often all shards are gone through."""
        return -(-self.queries // self.query_rows)

    def __str__(self) -> str:
        turns = "" if self.turns == 1 else f", {self.turns} turns of {self.query_rows:,} queries"
        return (
            f"{self.shards:,} shards of {self.shard_rows:,} passages on {self.workers:,} workers{turns}; "
            f"each worker at most {_size(self.worker_bytes)}, object store at most {_size(self.store_bytes)}, "
            f"driver {_size(self.driver_bytes)} above vectors and texts, network about {_size(self.network_bytes)}"
        )


def plan_shards(
    queries: int,
    passages: int,
    dimensions: int,
    depth: int,
    *,
    workers: int,
    block_bytes: int,
    shard_rows: int | None = None,
    worker_bytes: int = WORKER_BYTES,
) -> ShardPlan:
    """Divide a search.

    Args:
        queries: how many.
        passages: how many.
        dimensions: of the vectors.
        depth: candidates per query.
        workers: how many search at once.
        block_bytes: memory for the blocks of each search.
        shard_rows: passages per shard; None for shards of 256 MB, and at least two for every worker.
        worker_bytes: what the process of a worker may take.

    Returns:
        the plan.

    Raises:
        ValueError: when a worker's memory does not even hold the blocks.

    Example:
        >>> plan = plan_shards(1000, 100_000, 384, 200, workers=4, block_bytes=2**28)
        >>> plan.shards, plan.shard_rows, plan.turns
        (8, 12500, 1)
    """
    for name, value in (("workers", workers), ("depth", depth), ("shard_rows", shard_rows or 1)):
        checks.at_least(name, value, 1)
    k, vector = min(depth, passages), 4 * dimensions
    if shard_rows is None:
        shard_rows = max(1024, min(SHARD_BYTES // vector, -(-passages // (2 * workers))))
    shard_rows = min(shard_rows, passages)
    left = worker_bytes - _PROCESS - block_bytes
    checks.require(
        left >= _PER_CANDIDATE * k,
        f"worker memory must hold the process and the blocks, {_size(_PROCESS + block_bytes)} and more: got "
        f"{_size(worker_bytes)}; raise worker_bytes, or give a --max-memory below 2GB.",
    )
    query_rows = min(queries, left // (_PER_CANDIDATE * k))
    query_rows = -(-queries // -(-queries // query_rows))  # turns of about one size
    shards, turns = -(-passages // shard_rows), -(-queries // query_rows)
    returned = query_rows * (4 + _SENT * min(k, shard_rows))
    store = query_rows * vector + min(workers, shards) * (shard_rows * vector + 8 * query_rows + returned)
    # The first shards give k per query; the s-th after them k / s, if the best lie anywhere.
    full = min(shards, workers)
    candidates = queries * k * (full + math.log(shards / full))
    network = turns * passages * vector + queries * vector + 8 * queries * shards + int(_SENT * candidates)
    return ShardPlan(
        queries, passages, dimensions, depth, workers, shard_rows, query_rows,
        _PROCESS + block_bytes + _PER_CANDIDATE * k * query_rows, max(store, TEXT_BYTES),
        20 * queries * k + returned + 2**29, network,
    )  # fmt: skip


def divided(exclude: tuple[Array, Array], bounds: Array) -> list[tuple[Array, Array]]:
    """Exclusions by shard.

    Args:
        exclude: CSR (indptr (q + 1,), columns).
        bounds: (shards + 1,) int64, ascending, the first passage of each shard and the end.

    Returns:
        per shard the pairs in it: query rows (m,) uint32, ascending, and passages (m,) uint32, counted in the shard.

    Example:
        >>> pairs = divided((np.array([0, 2, 3]), np.array([0, 5, 4])), np.array([0, 3, 6]))
        >>> [part.tolist() for part in pairs[1]]
        [[0, 1], [2, 1]]
    """
    indptr, columns = np.asarray(exclude[0], np.int64), np.asarray(exclude[1], np.int64)
    rows = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
    shard = np.searchsorted(bounds, columns, "right") - 1
    order = np.argsort(shard, kind="stable")  # rows stay ascending within a shard
    rows, columns = rows[order], columns[order]
    ends = np.searchsorted(shard[order], np.arange(len(bounds)))
    return [
        (rows[low:high].astype(np.uint32), (columns[low:high] - start).astype(np.uint32))
        for low, high, start in zip(ends[:-1], ends[1:], bounds[:-1], strict=True)
    ]


def _size(count: float) -> str:
    for unit, least in (("TB", 2**40), ("GB", 2**30)):
        if count >= least:
            return f"{count / least:.1f} {unit}"
    return f"{count / 2**20:.0f} MB"
