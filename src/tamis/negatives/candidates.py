"""Candidates: the pool that negatives are picked from, by dense vectors, by BM25, or by both merged.

Known positives and passages with a positive's text never enter the pool; they are ruled out inside the search, so that
a query with thousands of positives widens no other row. Merged pools are ordered by reciprocal rank and carry the
dense score, so that one margin judges all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tamis import checks, search
from tamis.lexical import LexicalIndex, reciprocal_rank_fusion
from tamis.results import Candidates

Array = np.ndarray[Any, Any]
CONSTANT = 60  # of reciprocal rank fusion (Cormack, Clarke and Buettcher 2009)


@dataclass(frozen=True)
class Pool:
    """Candidates, and what is needed to place any other pair among them.

    Args:
        candidates: the pool.
        pair_scores: scores of given (query rows, passage rows), in the units of the candidates' scores.
        rank_of: rank that given pairs would have in the pool, 0 where they would not reach it.
    """

    candidates: Candidates
    pair_scores: Callable[[Array, Array], Array]
    rank_of: Callable[[Array, Array], Array]


def find(
    source: str,
    depth: int,
    exclude: tuple[Array, Array],
    *,
    vectors: tuple[Array, Array] | None,
    texts: tuple[Sequence[str], Sequence[str]],
    max_memory: int = search.DEFAULT_MEMORY,
) -> Pool:
    """Find the candidates of every query.

    Args:
        source: "dense", "bm25" or "both".
        depth: candidates per query.
        exclude: CSR (indptr (q + 1,), columns), passages that are not to be found for a query.
        vectors: query (q, d) and passage (n, d) vectors, for "dense" and "both".
        texts: of queries and passages, for "bm25" and "both".
        max_memory: bytes for the blocks of the search.

    Returns:
        the pool.

    Raises:
        ValueError: for an unknown source.
    """
    checks.one_of("candidates", source, ("dense", "bm25", "both"))
    views = []
    if source in ("dense", "both"):
        checks.require(vectors is not None, f"candidates={source!r} needs an encoder or embeddings.")
        assert vectors is not None
        views.append(_dense(vectors, depth, exclude, max_memory))
    if source in ("bm25", "both"):
        views.append(_bm25(texts, depth, exclude))
    if len(views) == 2:
        return _merged(views[0], views[1], depth)
    view = views[0]
    sources = np.where(view.indices >= 0, 1 if source == "dense" else 2, 0).astype(np.uint8)
    return Pool(_ranked(view.indices, view.scores, sources), view.pair_scores, view.rank_of)


@dataclass(frozen=True)
class _View:
    """One way of searching: its candidates and how it scores any pair."""

    indices: Array
    scores: Array
    pair_scores: Callable[[Array, Array], Array]
    floor: float = -np.inf

    def rank_of(self, queries: Array, passages: Array) -> Array:
        """1 + the candidates that score higher; 0 where the pair would not be among them."""
        score = self.pair_scores(queries, passages)
        rows = self.scores[queries]
        reached = ((score > rows[:, -1]) | (self.indices[queries, -1] < 0)) & (score > self.floor)
        return np.where(reached, 1 + (rows > score[:, None]).sum(1), 0).astype(np.int32)


def _dense(vectors: tuple[Array, Array], depth: int, exclude: tuple[Array, Array], max_memory: int) -> _View:
    queries, passages = vectors
    scores, indices = search.top_k(queries, passages, depth, exclude=exclude, max_memory=max_memory)

    def pair_scores(query_rows: Array, passage_rows: Array) -> Array:
        return np.asarray(search.pair_scores(queries, passages, query_rows, passage_rows))

    return _View(np.asarray(indices), np.asarray(scores), pair_scores)


def _bm25(texts: tuple[Sequence[str], Sequence[str]], depth: int, exclude: tuple[Array, Array]) -> _View:
    queries, passages = texts
    index = LexicalIndex(passages)
    scores, indices = index.top_k(queries, depth, exclude=exclude)
    # A passage that shares no word with the query is no candidate: BM25 has nothing to say of it.
    found = (scores > 0) & (indices >= 0)
    scores, indices = np.where(found, scores, -np.inf).astype(np.float32), np.where(found, indices, -1)

    def pair_scores(query_rows: Array, passage_rows: Array) -> Array:
        return np.asarray(index.pair_scores(queries, query_rows, passage_rows))

    return _View(indices, scores, pair_scores, floor=0.0)


def _merged(dense: _View, lexical: _View, depth: int) -> Pool:
    indices, fused = reciprocal_rank_fusion([dense.indices, lexical.indices], depth, constant=CONSTANT)
    rows, columns = np.nonzero(indices >= 0)
    scores = np.full(indices.shape, -np.inf, np.float32)
    scores[rows, columns] = dense.pair_scores(rows, indices[rows, columns])
    sources = (_member(indices, dense.indices) + 2 * _member(indices, lexical.indices)).astype(np.uint8)

    def rank_of(queries: Array, passages: Array) -> Array:
        ranks = np.stack([view.rank_of(queries, passages) for view in (dense, lexical)])
        own = np.where(ranks > 0, 1.0 / (CONSTANT + ranks), 0.0).sum(0)
        row = fused[queries]
        reached = (own > 0) & ((own > row[:, -1]) | (indices[queries, -1] < 0))
        return np.where(reached, 1 + (row > own[:, None]).sum(1), 0).astype(np.int32)

    return Pool(_ranked(indices, scores, sources), dense.pair_scores, rank_of)


def _member(indices: Array, of: Array) -> Array:
    """Where a candidate of one pool stands in the same row of another; empty places never do."""
    width = 2 + int(max(indices.max(initial=0), of.max(initial=0)))
    row = np.arange(len(indices))[:, None] * width
    return np.isin(row + indices + 1, (row + of + 1)[of >= 0]) & (indices >= 0)


def _ranked(indices: Array, scores: Array, sources: Array) -> Candidates:
    ranks = np.where(indices >= 0, np.arange(1, indices.shape[1] + 1, dtype=np.int32)[None], 0).astype(np.int32)
    return Candidates(indices, scores, ranks, np.where(indices >= 0, sources, 0).astype(np.uint8))
