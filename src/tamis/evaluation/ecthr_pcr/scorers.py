"""Scorers for the benchmark: words, vectors, and how often a case was cited so far."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch

from tamis import checks, search
from tamis.evaluation.ecthr_pcr.benchmark import Scorer, TemporalRetrievalBenchmark
from tamis.results import as_array

Array = np.ndarray[Any, Any]
ArrayLike = Array | torch.Tensor


def bm25_scorer(benchmark: TemporalRetrievalBenchmark) -> Scorer:
    """BM25 of the query view against the document view, over one index of all cases.

    How rare a word is and how long a text is are taken over that index, later cases included; what lies after a query
    is never found. Scores are those of ``tamis.lexical``, without the constant factor ``k1 + 1``.

    Args:
        benchmark: whose texts are indexed.

    Returns:
        a scorer.

    Example:
        >>> cases = {"a": {"facts": "red fox"}, "b": {"facts": "snow"}, "c": {"facts": "fox"}}
        >>> court = TemporalRetrievalBenchmark(cases, {"c": ["a"]}, {"a": 1, "b": 2, "c": 3})
        >>> court.evaluate(bm25_scorer(court), ks=[1]).metrics
        {'recall@1': 1.0, 'mrr': 1.0}
    """
    from tamis.lexical import LexicalIndex

    index, texts = LexicalIndex(benchmark.doc_texts), benchmark.query_texts

    def score(rows: Array) -> Array:
        values, columns = index.top_k([texts[row] for row in rows.tolist()], len(benchmark))
        return _spread(values, columns, len(benchmark))

    return score


def dense_scorer(query_embeddings: ArrayLike, doc_embeddings: ArrayLike) -> Scorer:
    """Inner products of vectors, one of each kind per case; all of them, for whole rankings.

    Args:
        query_embeddings: (n, d) float, by row of the benchmark.
        doc_embeddings: (n, d) float.

    Returns:
        a scorer.

    Raises:
        ValueError: for vectors of other shapes.

    Example:
        >>> dense_scorer(np.eye(2), np.eye(2))(np.array([1])).tolist()
        [[0.0, 1.0]]
    """
    queries, documents = as_array(query_embeddings), as_array(doc_embeddings)
    checks.matrix("query_embeddings", queries)
    checks.matrix("doc_embeddings", documents, columns=queries.shape[1])

    def score(rows: Array) -> Array:
        found: Array = queries[rows] @ documents.T
        return found

    return score


def search_scorer(
    benchmark: TemporalRetrievalBenchmark, query_embeddings: ArrayLike, doc_embeddings: ArrayLike, *, k: int = 1000
) -> Scorer:
    """The k best of each pool by exact search (``tamis.search.top_k``), for vectors on a device or memory-mapped.

    Args:
        benchmark: whose pools are searched.
        query_embeddings: (n, d) float32, float16 or bfloat16, by row of the benchmark.
        doc_embeddings: (n, d) likewise.
        k: as deep as recall is asked for; what ranks below counts as not found.

    Returns:
        a scorer.

    Raises:
        ValueError: for other than one vector per case, or k < 1.

    Example:
        >>> court = TemporalRetrievalBenchmark({n: {"facts": n} for n in "abc"}, {}, {"a": 1, "b": 2, "c": 3})
        >>> vectors = np.eye(3, dtype=np.float32)
        >>> search_scorer(court, vectors, vectors + 1, k=1)(np.array([2])).tolist()
        [[1.0, -inf, -inf]]
    """
    n, queries = len(benchmark), cast(Any, query_embeddings)
    checks.at_least("k", k, 1)
    for name, vectors in (("query_embeddings", query_embeddings), ("doc_embeddings", doc_embeddings)):
        checks.require(len(vectors) == n, f"{name} must have one row per case: {n} cases, {len(vectors)} rows.")

    def score(rows: Array) -> Array:
        outside = np.arange(n) >= benchmark.pool_sizes[rows][:, None]
        outside[np.arange(len(rows)), rows] = True
        barred = np.concatenate([[0], np.cumsum(outside.sum(1))]), np.nonzero(outside)[1]
        values, columns = search.top_k(queries[rows], doc_embeddings, min(k, n), exclude=barred)
        return _spread(as_array(values), as_array(columns), n)

    return score


def popularity_scorer(benchmark: TemporalRetrievalBenchmark) -> Scorer:
    """How often a case was cited before the query: a baseline that reads no word.

    It is strong where all cite the same few cases, and below chance where cases cite what is recent and of their issue,
    as those of ``synthetic_court`` do.

    Args:
        benchmark: whose citations are counted.

    Returns:
        a scorer; of equally many citations the later case comes first.

    Example:
        >>> cases = {name: {"facts": name} for name in "abcd"}
        >>> cites = {"c": ["a"], "d": ["a"]}
        >>> court = TemporalRetrievalBenchmark(cases, cites, dict(zip("abcd", range(1, 5))))
        >>> popularity_scorer(court)(np.array([3])).round(2).tolist()
        [[1.0, 0.25, 0.5, 0.75]]
    """
    n = len(benchmark)
    citing = np.repeat(np.arange(n), [len(rows) for rows in benchmark.cited])
    cited = np.concatenate([*benchmark.cited, np.empty(0, dtype=np.int64)])

    def score(rows: Array) -> Array:
        found = np.empty((len(rows), n))
        for place, row in enumerate(rows.tolist()):
            before = (citing < benchmark.pool_sizes[row]) & (citing != row)
            found[place] = np.bincount(cited[before], minlength=n) + np.arange(n) / n
        return found

    return score


def _spread(values: Array, columns: Array, n: int) -> Array:
    """Scores (b, n) of what a search found; -inf for the rest."""
    found = np.full((len(values), n), -np.inf)
    places, ranks = np.nonzero(columns >= 0)
    found[places, columns[places, ranks]] = values[places, ranks]
    return found
