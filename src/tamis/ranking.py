"""Ranking metrics on arrays, per query, by the definitions and the tie rule of trec_eval.

A ranking is an array of gains (q, k): the grade of what stands at each rank, 0 for what is not relevant or not judged.
The metrics are sums over such arrays; a grade above 0 is relevant, gains of nDCG are linear in the grade. Judgements
come as CSR arrays (indptr, columns, grades), one row per query. Scores are compared in float32, as trec_eval does, and
equal ones go to the document whose id is later in string order. A query without relevant documents scores 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tamis import checks

Array = np.ndarray[Any, Any]
Qrels = tuple[Array, Array, Array]

_KEY_LIMIT = 2**32 - 2


def ndcg(gains: Array, ideal_gains: Array, k: int) -> Array:
    """Normalised discounted cumulative gain at rank k with linear gains (trec_eval's ``ndcg_cut``).

    The sum of ``gain / log2(1 + rank)`` over the first k ranks, divided by that of the best possible ranking
    (Järvelin and Kekäläinen 2002, with the discount from rank 2 on).

    Args:
        gains: (q, w) float, grades in rank order; negative ones count as 0.
        ideal_gains: (q, m) float, grades of all judged documents in any order; see ``ideal_from``.
        k: cutoff, at least 1; may exceed w.

    Returns:
        (q,) float64 in [0, 1]; 0 where nothing is relevant.

    Raises:
        ValueError: for arrays that do not fit, or gains above the ideal.

    Example:
        >>> ndcg(np.array([[0.0, 2.0, 1.0]]), np.array([[2.0, 1.0]]), 10).round(4)
        array([0.6697])
    """
    gains, ideal = _gains(gains, k), _gains(-np.sort(-np.asarray(ideal_gains, dtype=np.float64)), k, "ideal_gains")
    checks.same_length("ideal_gains", ideal, "gains", gains)
    width = max(gains.shape[1], ideal.shape[1])
    discounts = 1 / np.log2(np.arange(2, width + 2))
    reached, best = (np.einsum("ij,j->i", g, discounts[: g.shape[1]]) for g in (gains, ideal))
    for row in np.flatnonzero(reached > best * (1 + 1e-9))[:1]:
        raise ValueError(f"ideal_gains must hold all judged grades: query {row} has gains above its ideal.")
    return np.minimum(_ratio(reached, best), 1.0)


def mrr(gains: Array, k: int) -> Array:
    """Reciprocal of the first relevant rank, 0 when that is after k; its mean over queries is MRR@k.

    Args:
        gains: (q, w) float, grades in rank order.
        k: cutoff, at least 1.

    Returns:
        (q,) float64 in [0, 1].

    Example:
        >>> mrr(np.array([[0.0, 2.0, 1.0], [0.0, 0.0, 0.0]]), 10)
        array([0.5, 0. ])
    """
    relevant = _relevant(gains, k)
    if relevant.shape[1] == 0:
        return np.zeros(len(relevant))
    reciprocal: Array = np.where(relevant.any(1), 1 / (1 + relevant.argmax(1)), 0.0)
    return reciprocal


def recall(gains: Array, num_relevant: Array, k: int) -> Array:
    """Share of all relevant documents that stand in the first k ranks.

    Args:
        gains: (q, w) float, grades in rank order.
        num_relevant: (q,) int, relevant documents of each query, found or not.
        k: cutoff, at least 1.

    Returns:
        (q,) float64 in [0, 1]; 0 where nothing is relevant.

    Raises:
        ValueError: when more is found than num_relevant says.

    Example:
        >>> recall(np.array([[0.0, 2.0, 1.0]]), np.array([4]), 2)
        array([0.25])
    """
    found = _relevant(gains, k).sum(1)
    return _ratio(found, _counts(num_relevant, found))


def precision(gains: Array, k: int) -> Array:
    """Share of the first k ranks that is relevant; ranks that do not exist count as not relevant.

    Args:
        gains: (q, w) float, grades in rank order.
        k: cutoff, at least 1.

    Returns:
        (q,) float64 in [0, 1].

    Example:
        >>> precision(np.array([[0.0, 2.0, 1.0]]), 5)
        array([0.4])
    """
    return np.asarray(_relevant(gains, k).sum(1) / k)


def success(gains: Array, k: int) -> Array:
    """1 where a relevant document stands in the first k ranks, else 0.

    Args:
        gains: (q, w) float, grades in rank order.
        k: cutoff, at least 1.

    Returns:
        (q,) float64, 0 or 1.

    Example:
        >>> success(np.array([[0.0, 2.0, 1.0]]), 1), success(np.array([[0.0, 2.0, 1.0]]), 2)
        (array([0.]), array([1.]))
    """
    return np.asarray(_relevant(gains, k).any(1), dtype=np.float64)


def average_precision(gains: Array, num_relevant: Array, k: int | None = None) -> Array:
    """Precision at the ranks of the relevant documents found, summed and divided by all relevant documents.

    The mean over queries is MAP (trec_eval's ``map``, and ``map_cut`` with a cutoff).

    Args:
        gains: (q, w) float, grades in rank order.
        num_relevant: (q,) int, relevant documents of each query, found or not.
        k: cutoff, at least 1; None for the whole ranking.

    Returns:
        (q,) float64 in [0, 1]; 0 where nothing is relevant.

    Raises:
        ValueError: when more is found than num_relevant says.

    Example:
        >>> average_precision(np.array([[0.0, 2.0, 1.0]]), np.array([2])).round(4)
        array([0.5833])
    """
    # Sums over the few relevant places only: a ranking is mostly zeros.
    rows, ranks = np.nonzero(_relevant(gains, k))
    found = np.bincount(rows, minlength=len(gains))
    nth = 1 + _place(found)
    total = np.bincount(rows, weights=nth / (1 + ranks), minlength=len(gains))
    return _ratio(total, _counts(num_relevant, found))


def rank_documents(scores: Array, tie_keys: Array, *, depth: int | None = None) -> Array:
    """The order in which trec_eval ranks documents: score in float32 descending, then id descending.

    Args:
        scores: (q, k) float, in any order.
        tie_keys: (q, k) int in [-1, 2**32 - 3]: the place of each document's id in the sorted list of all ids (sort
            them as Python strings or UTF-8 bytes, which agree). Higher goes first; a document with no id has -1.
        depth: how many ranks are wanted; None for all.

    Returns:
        (q, min(depth, k)) int64, columns of scores in rank order.

    Raises:
        ValueError: for NaN, or arrays that do not fit.

    Example:
        >>> rank_documents(np.array([[0.5, 0.9, 0.5]]), np.array([[0, 1, 2]]))
        array([[1, 2, 0]])
    """
    scores, tie_keys = np.asarray(scores), np.asarray(tie_keys)
    checks.matrix("scores", scores, allow_empty=True)
    checks.same_shape("tie_keys", tie_keys, "scores", scores)
    checks.at_least("depth", 1 if depth is None else depth, 1)
    width = scores.shape[1]
    depth = width if depth is None else min(depth, width)
    order = np.tile(np.arange(depth), (len(scores), 1))
    block = max(1, 2**17 // max(1, width))  # what a block needs stays in the cache
    for start in range(0, len(scores), block):
        part = scores[start : start + block].astype(np.float32, copy=False)
        # Search gives rankings that are in order but for ties; sorting the others costs more than all the rest.
        falling = (part[:, :-1] >= part[:, 1:]).all(1) & ~np.isnan(part[:, :1]).any(1)
        tied = (part[:, :depth][:, : width - 1] == part[:, 1 : depth + 1]).any(1)
        near = falling & (part[:, depth - 1 : depth] > part[:, 2 * depth : 2 * depth + 1]).any(1)
        for which, columns in ((near & tied, 2 * depth), (~near & (tied | ~falling), width)):
            rows = np.flatnonzero(which)
            if len(rows):
                keys = _descending(part[rows, :columns], tie_keys[start + rows, :columns])
                order[start + rows] = _first(keys, depth)
    return order


def gains_from(indices: Array, qrels: Qrels) -> Array:
    """Grades of ranked documents, looked up in the judgements.

    Args:
        indices: (q, k) int, rows of the corpus in rank order, -1 where nothing is.
        qrels: CSR: indptr (q + 1,) int, columns (m,) int rows of the corpus, grades (m,) float.

    Returns:
        (q, k) float64; 0 for what is not judged, negative grades as 0.

    Raises:
        ValueError: for malformed judgements, or a judged document that is ranked twice.

    Example:
        >>> gains_from(np.array([[7, 3, -1]]), (np.array([0, 2]), np.array([3, 9]), np.array([2.0, 1.0])))
        array([[0., 2., 0.]])
    """
    indices = np.asarray(indices)
    checks.matrix("indices", indices, allow_empty=True)
    _, rows, columns, grades = _judged(qrels, len(indices))
    gains = np.zeros(indices.shape)
    if indices.size == 0 or len(columns) == 0:
        return gains
    width = 1 + int(max(indices.max(), columns.max()))
    order = np.argsort(rows * width + columns)
    known = (rows * width + columns)[order]
    for pair in known[1:][known[1:] == known[:-1]][:1]:
        query, document = divmod(int(pair), width)
        raise ValueError(f"qrels must judge a document once per query: query {query} judges document {document} twice.")
    # Nearly all documents are not judged: a table of hashes rules them out before the search in the sorted pairs.
    bits = min(24, 4 + len(known).bit_length())
    wanted = np.zeros(2**bits, dtype=bool)
    wanted[_hash(known, bits)] = True
    pairs = indices + width * np.arange(len(indices))[:, None]
    q, place = np.nonzero(wanted[_hash(pairs, bits)] & (indices >= 0))
    asked = pairs[q, place]
    at = np.minimum(np.searchsorted(known, asked), len(known) - 1)
    hit = known[at] == asked
    for pair in known[np.flatnonzero(np.bincount(at[hit]) > 1)[:1]]:
        query, document = divmod(int(pair), width)
        raise ValueError(f"indices must name a document once per query: query {query} names document {document} twice.")
    gains[q[hit], place[hit]] = grades[order][at[hit]]
    return gains


def ideal_from(qrels: Qrels, k: int) -> Array:
    """The k highest grades of every query, the gains of the best possible ranking.

    Args:
        qrels: CSR as in ``gains_from``.
        k: cutoff, at least 1.

    Returns:
        (q, k) float64, descending, filled up with 0.

    Example:
        >>> ideal_from((np.array([0, 3]), np.array([3, 9, 4]), np.array([1.0, 2.0, -1.0])), 3)
        array([[2., 1., 0.]])
    """
    checks.at_least("k", k, 1)
    counts, rows, _, grades = _judged(qrels, len(qrels[0]) - 1)
    order = np.lexsort((-grades, rows))
    place = _place(counts)
    kept = place < k
    ideal = np.zeros((len(counts), k))
    ideal[rows[kept], place[kept]] = grades[order][kept]
    return ideal


def evaluate(
    indices: Array, scores: Array, qrels: Qrels, *, ks: Sequence[int] = (10, 100), tie_keys: Array | None = None
) -> dict[str, Array]:
    """All metrics of a search result at several cutoffs, per query.

    Average them over the queries you mean: trec_eval leaves out queries without judgements, ``np.diff(indptr) == 0``.

    Args:
        indices: (q, k) int, rows of the corpus in any order, -1 where nothing was found.
        scores: (q, k) float, larger is better; -inf where nothing was found.
        qrels: CSR as in ``gains_from``.
        ks: cutoffs, each at least 1.
        tie_keys: (q, k) int as in ``rank_documents``; None takes the rows themselves, so that the later row goes first.

    Returns:
        "nDCG@k", "MRR@k", "recall@k", "precision@k", "MAP@k" and "success@k" for every k -> (q,) float64.

    Raises:
        ValueError: for NaN, arrays that do not fit, malformed judgements, or a judged document that is ranked twice.

    Example:
        >>> found = evaluate(np.array([[3, 7]]), np.array([[0.5, 0.9]]), (np.array([0, 1]), np.array([3]), np.ones(1)))
        >>> found["MRR@10"], found["recall@10"]
        (array([0.5]), array([1.]))
    """
    indices = np.asarray(indices)
    checks.require(len(ks) > 0 and min(ks) >= 1, f"ks must be cutoffs of at least 1: got {tuple(ks)}.")
    checks.matrix("indices", indices, allow_empty=True)
    checks.same_shape("scores", np.asarray(scores), "indices", indices)
    order = rank_documents(scores, indices if tie_keys is None else tie_keys, depth=max(ks))
    gains = gains_from(np.take_along_axis(indices, order, 1), qrels)
    counts, rows, _, grades = _judged(qrels, len(indices))
    num_relevant = np.bincount(rows[grades > 0], minlength=len(counts))
    ideal = ideal_from(qrels, max(ks))
    found: dict[str, Array] = {}
    for k in ks:
        found[f"nDCG@{k}"] = ndcg(gains, ideal, k)
        found[f"MRR@{k}"] = mrr(gains, k)
        found[f"recall@{k}"] = recall(gains, num_relevant, k)
        found[f"precision@{k}"] = precision(gains, k)
        found[f"MAP@{k}"] = average_precision(gains, num_relevant, k)
        found[f"success@{k}"] = success(gains, k)
    return found


def _gains(gains: Array, k: int | None, name: str = "gains") -> Array:
    """The first k columns as float64 without negative grades."""
    if k is not None:
        checks.at_least("k", k, 1)
    gains = np.asarray(gains)
    checks.matrix(name, gains, allow_empty=True)
    gains = gains[:, :k].astype(np.float64, copy=False)
    lowest = gains.min(initial=0.0)
    checks.require(not np.isnan(lowest), f"{name} must hold no NaN.")
    return gains if lowest == 0 else np.maximum(gains, 0.0)


def _relevant(gains: Array, k: int | None) -> Array:
    """Where a relevant document stands, (q, min(k, w)) bool."""
    mask: Array = _gains(gains, k) > 0
    return mask


def _counts(num_relevant: Array, found: Array) -> Array:
    counts = np.asarray(num_relevant)
    checks.same_length("num_relevant", counts, "gains", found)
    for row in np.flatnonzero(counts < found)[:1]:
        raise ValueError(f"num_relevant must count all: query {row} has {counts[row]}, its ranking {found[row]}.")
    return counts


def _ratio(part: Array, whole: Array) -> Array:
    return np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0)


def _place(counts: Array) -> Array:
    """0, 1, ... within each of the rows that have so many entries."""
    return np.asarray(np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts))


def _first(keys: Array, depth: int) -> Array:
    """Columns of the lowest keys of each row, in order."""
    if depth == keys.shape[1]:
        return np.argsort(keys, axis=1)
    lowest = np.argpartition(keys, depth - 1, axis=1)[:, :depth]
    return np.take_along_axis(lowest, np.argsort(np.take_along_axis(keys, lowest, 1), axis=1), 1)


def _descending(scores: Array, tie_keys: Array) -> Array:
    """One integer per document whose ascending order is the ranking: the bits of a float order like an integer."""
    checks.require(not np.isnan(scores).any(), "scores must hold no NaN.")
    in_range = tie_keys.size == 0 or (tie_keys.min() >= -1 and tie_keys.max() < _KEY_LIMIT)
    checks.require(in_range, f"tie_keys must be places of ids, -1 to {_KEY_LIMIT - 1}.")
    bits = (scores + 0.0).view(np.int32)  # adding zero makes one zero of two
    bits ^= (bits >> 31) & 0x7FFFFFFF
    keys: Array = (~bits).astype(np.int64)
    keys <<= 32
    keys += _KEY_LIMIT - 1
    keys -= tie_keys.astype(np.int64, copy=False)
    return keys


def _hash(pairs: Array, bits: int) -> Array:
    """The highest ``bits`` bits of a product that mixes all bits (Knuth's multiplicative hashing)."""
    mixed = pairs.astype(np.uint64)
    mixed *= np.uint64(0x9E3779B97F4A7C15)
    mixed >>= np.uint64(64 - bits)
    return mixed


def _judged(qrels: Qrels, q: int) -> tuple[Array, Array, Array, Array]:
    """Judgements per query, and query, column and grade (not below 0) of each."""
    indptr, columns, grades = (np.asarray(part) for part in qrels)
    counts = np.diff(indptr)
    checks.require(
        indptr.ndim == 1 and len(indptr) == q + 1 and indptr[0] == 0 and bool((counts >= 0).all()),
        f"qrels must be CSR with an indptr of {q + 1} entries that starts at 0 and never falls: got {len(indptr)}.",
    )
    checks.require(
        len(columns) == len(grades) == indptr[-1],
        f"qrels must have {indptr[-1]} columns and grades (indptr[-1]): got {len(columns)} and {len(grades)}.",
    )
    checks.require(len(columns) == 0 or columns.min() >= 0, "qrels must have columns of at least 0.")
    checks.require(not np.isnan(grades).any(), "qrels must have grades that are numbers: got NaN.")
    return counts, np.repeat(np.arange(q), counts), columns.astype(np.int64), np.maximum(grades, 0).astype(np.float64)
