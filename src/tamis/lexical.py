"""Search by shared words: BM25 over texts, and reciprocal rank fusion of several rankings.

BM25 (Robertson et al. 1995, in the variant of Lucene) weighs each word of a passage once, when the index is built by
the package ``bm25s``; the score of a pair is the sum of the weights of the query's words. Only passages that share a
word with the query are found. Weights are always added in the order of the query's words, so the score of a pair is the
same wherever it is asked for, and equal scores fall to the lower passage index.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any, TypeVar

import numpy as np
import torch

from tamis import checks

Array = np.ndarray[Any, Any]
Ranking = TypeVar("Ranking", Array, torch.Tensor)

_SCORES = 2**22  # scores held at once: 16 MB stay in the cache
_GROUP = 32


class LexicalIndex:
    """A BM25 index that ranks passages for queries and scores given pairs.

    Equation: sum over the query's words of ``idf * tf / (tf + k1 (1 - b + b length / mean length))`` with
    ``idf = ln(1 + (n - df + 0.5) / (df + 0.5))``, k1 = 1.5 and b = 0.75; a word that a query repeats counts again.

    Args:
        passage_texts: n texts; words are runs of two or more word characters, in lower case.
        stop_words: words that do not count: a language that ``bm25s`` knows, or the words themselves.

    Raises:
        ValueError: when there are no passages.
        ImportError: when ``bm25s`` is not installed, with the line that installs it.

    Example:
        >>> index = LexicalIndex(["a red fox", "a red red rose", "snow"])
        >>> scores, indices = index.top_k(["red"], 3)
        >>> print(indices, scores.round(4))
        [[ 1  0 -1]] [[0.2314 0.188    -inf]]
    """

    def __init__(self, passage_texts: Sequence[str], *, stop_words: str | Sequence[str] = "english") -> None:
        checks.require(len(passage_texts) > 0, "passage_texts must hold at least one text: got none.")
        self._stop_words = stop_words if isinstance(stop_words, str) else list(stop_words)
        self._size = len(passage_texts)
        tokens = self._tokenize(passage_texts)
        self._vocabulary: dict[str, int] = dict(tokens.vocab)
        if self._vocabulary:
            model = checks.package("bm25s").BM25()
            model.index(tokens, show_progress=False)
            docs, ends = model.scores["indices"], model.scores["indptr"][: len(self._vocabulary) + 1]
            order = np.lexsort((docs, np.repeat(np.arange(len(self._vocabulary)), np.diff(ends))))
            self._starts, self._docs, self._weights = ends, docs[order], model.scores["data"][order]
        else:
            self._starts, self._docs, self._weights = np.zeros(1, int), np.zeros(0, int), np.zeros(0, np.float32)

    def top_k(
        self, query_texts: Sequence[str], k: int, *, exclude: tuple[Array, Array] | None = None
    ) -> tuple[Array, Array]:
        """The k passages with the highest BM25 score for every query, best first.

        Args:
            query_texts: q texts.
            k: passages per query, at least 1; rows end in index -1 and score -inf when no other passage shares a word.
            exclude: CSR (indptr (q + 1,), columns): passages that are never returned for a query.

        Returns:
            scores (q, k) float32 and indices (q, k) int64. Ties go to the lower index.

        Raises:
            ValueError: for k < 1 or a malformed exclude.

        Example:
            >>> LexicalIndex(["red fox", "red rose"]).top_k(["red rose"], 1)[1].tolist()
            [[1]]
        """
        checks.at_least("k", k, 1)
        q, n = len(query_texts), self._size
        indptr, columns = _csr(exclude, q, n)
        owners, words = self._words(query_texts)
        scores, indices = np.full((q, k), -np.inf, np.float32), np.full((q, k), -1, np.int64)
        step = max(1, min(q, _SCORES // n))
        table: Array = np.empty((step, n), np.float32)
        for start in range(0, q, step):
            stop = min(q, start + step)
            found = table[: stop - start]
            found[:] = 0.0
            low, high = np.searchsorted(owners, [start, stop])
            # One step per word of a query, not per posting: far faster than to lay all the lists out and add them once.
            for owner, word in zip(owners[low:high].tolist(), words[low:high].tolist(), strict=True):
                postings = slice(self._starts[word], self._starts[word + 1])
                np.add.at(found[owner - start], self._docs[postings], self._weights[postings])
            barred = columns[indptr[start] : indptr[stop]]
            found[np.repeat(np.arange(stop - start), np.diff(indptr[start : stop + 1])), barred] = 0.0
            rows, hits = np.nonzero(found >= _floor(found, k)[:, None])
            values = found[rows, hits]
            order = np.lexsort((hits, -values, rows))
            _fill(scores[start:stop], indices[start:stop], rows[order], values[order], hits[order])
        return scores, indices

    def pair_scores(self, query_texts: Sequence[str], query_rows: Array, passage_rows: Array) -> Array:
        """BM25 scores of given pairs, as ``top_k`` gives them; 0 where a pair shares no word.

        Args:
            query_texts: q texts.
            query_rows: (m,) int, rows of query_texts.
            passage_rows: (m,) int, rows of the passages.

        Returns:
            (m,) float32.

        Raises:
            ValueError: for rows that are not there.

        Example:
            >>> index = LexicalIndex(["red fox", "red rose"])
            >>> print(index.pair_scores(["red rose"], np.array([0, 0]), np.array([0, 1])).round(4))
            [0.0729 0.3502]
        """
        query_rows = _rows("query_rows", query_rows, "query_texts", len(query_texts))
        passage_rows = _rows("passage_rows", passage_rows, "the passages", self._size)
        checks.same_length("passage_rows", passage_rows, "query_rows", query_rows)
        owners, words = self._words(query_texts)
        scores = np.zeros(len(query_rows), np.float32)
        if len(self._docs) == 0:
            return scores
        keys = np.repeat(np.arange(len(self._starts) - 1), np.diff(self._starts)) * self._size + self._docs
        starts = np.searchsorted(owners, np.arange(len(query_texts) + 1))
        lengths = np.diff(starts)
        for turn in range(int(lengths[query_rows].max(initial=0))):
            pairs = np.flatnonzero(lengths[query_rows] > turn)
            wanted = words[starts[query_rows[pairs]] + turn] * self._size + passage_rows[pairs]
            place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
            scores[pairs] += np.where(keys[place] == wanted, self._weights[place], np.float32(0))
        return scores

    def _tokenize(self, texts: Sequence[str]) -> Any:
        return checks.package("bm25s").tokenize(list(texts), stopwords=self._stop_words, show_progress=False)

    def _words(self, texts: Sequence[str]) -> tuple[Array, Array]:
        """Owner and word of every known word of the texts, in order."""
        tokens = self._tokenize(texts)
        known = np.array([self._vocabulary.get(word, -1) for word in tokens.vocab], dtype=np.int64)
        owners = np.repeat(np.arange(len(texts)), [len(ids) for ids in tokens.ids])
        words = known[np.fromiter(chain.from_iterable(tokens.ids), np.int64, count=len(owners))]
        return owners[words >= 0], words[words >= 0]


def lexical_top_k(
    query_texts: Sequence[str],
    passage_texts: Sequence[str],
    k: int,
    *,
    exclude: tuple[Array, Array] | None = None,
    stop_words: str | Sequence[str] = "english",
) -> tuple[Array, Array]:
    """The k passages with the highest BM25 score for every query; see ``LexicalIndex``.

    Args:
        query_texts: q texts.
        passage_texts: n texts.
        k: passages per query, at least 1.
        exclude: CSR (indptr (q + 1,), columns): passages that are never returned for a query.
        stop_words: words that do not count: a language that ``bm25s`` knows, or the words themselves.

    Returns:
        scores (q, k) float32 and indices (q, k) int64; rows that run out end in -inf and -1.

    Raises:
        ValueError: for k < 1, no passages, or a malformed exclude.
        ImportError: when ``bm25s`` is not installed.

    Example:
        >>> lexical_top_k(["red rose"], ["snow", "a red fox", "a rose and a rose"], 2)[1].tolist()
        [[2, 1]]
    """
    return LexicalIndex(passage_texts, stop_words=stop_words).top_k(query_texts, k, exclude=exclude)


def reciprocal_rank_fusion(rankings: Sequence[Ranking], k: int, *, constant: float = 60) -> tuple[Ranking, Ranking]:
    """Merge rankings by the sum of ``1 / (constant + rank)`` (Cormack, Clarke and Buettcher 2009, equation 1).

    Args:
        rankings: (q, k_i) int arrays, best first; -1 where a row has ended.
        k: entries per query to return, at least 1.
        constant: added to every rank, which counts from 1.

    Returns:
        indices (q, k) int64 and fused scores (q, k) float64, of the type of the rankings; ties go to the lower index,
        rows that run out end in -1 and -inf.

    Raises:
        ValueError: for no rankings, k < 1, a constant below 0, or rankings with different numbers of rows.

    Example:
        >>> reciprocal_rank_fusion([np.array([[7, 3]]), np.array([[3, 5]])], 2)[0].tolist()
        [[3, 7]]
    """
    checks.require(len(rankings) > 0, "rankings must hold at least one ranking: got none.")
    checks.at_least("k", k, 1)
    checks.at_least("constant", constant, 0)
    arrays = [value.cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value) for value in rankings]
    for number, array in enumerate(arrays):
        checks.matrix(f"rankings[{number}]", array, allow_empty=True)
        checks.same_length(f"rankings[{number}]", array, "rankings[0]", arrays[0])
    q, width = len(arrays[0]), 1 + max(int(array.max(initial=0)) for array in arrays)
    merged = np.concatenate(arrays, axis=1).astype(np.int64)
    ranks = np.concatenate([np.arange(1, array.shape[1] + 1) for array in arrays])
    rows, columns = np.nonzero(merged >= 0)
    keys, owner = np.unique(rows * width + merged[rows, columns], return_inverse=True)
    fused = np.bincount(owner, 1.0 / (constant + ranks[columns]), minlength=len(keys))
    order = np.lexsort((keys, -fused, keys // width))
    scores, indices = np.full((q, k), -np.inf), np.full((q, k), -1, np.int64)
    _fill(scores, indices, keys[order] // width, fused[order], keys[order] % width)
    first = rankings[0]
    if isinstance(first, torch.Tensor):
        return torch.from_numpy(indices).to(first.device), torch.from_numpy(scores).to(first.device)
    return indices, scores


def _floor(found: Array, k: int) -> Array:
    """A positive bound per row that the k best reach: the k-th largest maximum over groups, if there are as many."""
    tiny = np.nextafter(np.float32(0), np.float32(1))
    lanes = found.shape[1] // _GROUP
    if lanes < k:
        return np.full(len(found), tiny, np.float32)
    scores = torch.from_numpy(found)
    maxima = scores[:, : lanes * _GROUP].reshape(len(found), _GROUP, lanes).amax(1)
    floor: Array = np.maximum(maxima.topk(k, 1).values[:, -1].numpy(), tiny)
    return floor


def _fill(scores: Array, indices: Array, rows: Array, values: Array, columns: Array) -> None:
    """Write entries that are sorted by row, best first, into the first places of their rows."""
    place = np.arange(len(rows)) - np.searchsorted(rows, rows)
    kept = place < scores.shape[1]
    scores[rows[kept], place[kept]] = values[kept]
    indices[rows[kept], place[kept]] = columns[kept]


def _csr(exclude: tuple[Array, Array] | None, q: int, n: int) -> tuple[Array, Array]:
    if exclude is None:
        return np.zeros(q + 1, np.int64), np.empty(0, np.int64)
    indptr, columns = np.asarray(exclude[0], np.int64), _rows("exclude[1]", exclude[1], "the passages", n)
    good = indptr.shape == (q + 1,) and indptr[0] == 0 and indptr[-1] == len(columns) and (np.diff(indptr) >= 0).all()
    checks.require(
        bool(good),
        f"exclude must be CSR (indptr, columns): indptr of {q + 1} entries rising from 0 to {len(columns)}, "
        f"got {len(indptr)} entries.",
    )
    return indptr, columns


def _rows(name: str, value: Array, of: str, size: int) -> Array:
    rows = np.asarray(value, np.int64)
    checks.require(rows.ndim == 1, f"{name} must be one-dimensional: got shape {rows.shape}.")
    if len(rows) > 0:
        low, high = int(rows.min()), int(rows.max())
        checks.require(0 <= low and high < size, f"{name} must be rows of {of}, 0 to {size - 1}: got {low} to {high}.")
    return rows
