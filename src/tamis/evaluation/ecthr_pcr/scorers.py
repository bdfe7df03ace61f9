"""Scorers for the benchmark: words, vectors, and how often a case was cited so far."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from tamis import checks
from tamis.evaluation.ecthr_pcr.benchmark import Scorer, TemporalRetrievalBenchmark
from tamis.results import as_array

Array = np.ndarray[Any, Any]
ArrayLike = Array | torch.Tensor


def bm25_scorer(benchmark: TemporalRetrievalBenchmark) -> Scorer:
    """BM25 of the query view against the document view, over one index of all cases.

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
        found = np.full((len(rows), len(benchmark)), -np.inf)
        places, ranks = np.nonzero(columns >= 0)
        found[places, columns[places, ranks]] = values[places, ranks]
        return found

    return score


def dense_scorer(query_embeddings: ArrayLike, doc_embeddings: ArrayLike) -> Scorer:
    """Inner products of vectors, one of each kind per case.

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


def popularity_scorer(benchmark: TemporalRetrievalBenchmark) -> Scorer:
    """How often a case was cited before the query: a strong baseline that reads no word.

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
            before = citing < benchmark.pool_sizes[row]
            found[place] = np.bincount(cited[before], minlength=n) + np.arange(n) / n
        return found

    return score
