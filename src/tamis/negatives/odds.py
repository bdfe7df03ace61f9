"""Odds: how likely each candidate of a run is an unknown answer, see ``tamis.two_views``; a part of ``mine``.

The candidates of the pool are the unlabelled pairs, the known positives stand among them as strangers. A planted
positive is judged by both views, compared with the positives that are left; a query's only positive by the query's view
alone, since nothing is left to compare it with, which makes it look less like an answer than a hidden one does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tamis.lexical import LexicalIndex
from tamis.negatives.candidates import Pool
from tamis.negatives.merging import blocks
from tamis.search import pair_scores
from tamis.two_views import Answers, PairScores, PassageView, QueryView, Seen, updated

Array = np.ndarray[Any, Any]
FEWEST = 20  # known positives in the pool below which nothing is learned


class Odds:
    """The log-odds of every candidate, and of any other pair.

    Args:
        pool: the candidates.
        positives: per query corpus rows.
        passages: how many there are.
        passage_scores: similarity of given (corpus rows, corpus rows); None leaves the passages' view out.
    """

    def __init__(
        self, pool: Pool, positives: Sequence[Array], passages: int, passage_scores: PairScores | None
    ) -> None:
        found = pool.candidates
        self._pool, self._answers = pool, Answers.of(positives, pool.pair_scores)
        everyone = np.arange(len(positives))
        judged = found.present & np.isfinite(found.scores)
        candidates = self._candidates(judged)
        ranks = pool.rank_of(self._answers.query, self._answers.passage)
        inside = (ranks > 0) & np.isfinite(self._answers.score)
        self.known = int(inside.sum())
        known = self._seen(self._answers.query[inside], self._answers.passage[inside], ranks[inside], self._answers)
        owners = np.bincount(self._answers.passage, minlength=passages)
        self._query_view = QueryView(candidates, known, len(everyone), passages, owners)
        log_odds = self._query_view.log_odds(candidates)
        probability = self._query_view.probability(log_odds)
        self._passage_view = None
        if passage_scores is not None:
            self._passage_view = PassageView(candidates, probability, self._answers, passage_scores, passages)
            ratios = self._passage_view.log_ratios
            log_odds += ratios
            for part in blocks(len(ratios), 1):
                probability[part] = updated(probability[part], ratios[part])
        self.candidates = np.full(found.indices.shape, -np.inf)
        self.candidates[judged] = log_odds
        self._probability = np.zeros(found.indices.shape, np.float32)
        self._probability[judged] = probability

    @classmethod
    def learn(
        cls, pool: Pool, positives: Sequence[Array], passages: int, passage_scores: PairScores | None
    ) -> Odds | None:
        """The odds, or None where too few known positives reach the pool to learn from."""
        reached = sum(
            int((pool.rank_of(np.full(len(p), i), p) > 0).sum()) for i, p in enumerate(positives[: 20 * FEWEST])
        )
        if reached < FEWEST or not pool.candidates.present.any():
            return None
        return cls(pool, positives, passages, passage_scores)

    def false_share(self, picks: Array) -> float:
        """The share of some picks that are answers, as far as the two views can tell.

        Args:
            picks: (q, n) int64 columns of the pool, -1 for none.

        Returns:
            the mean probability of being an answer, 0 without picks.
        """
        there = picks >= 0
        likely = np.take_along_axis(self._probability, np.maximum(picks, 0), 1)
        return float(likely[there].mean()) if there.any() else 0.0

    def of(self, query: Array, passage: Array, rank: Array, left: Sequence[Array] | None) -> Array:
        """Log-odds of known positives taken for strangers.

        Args:
            query: (p,) int64 query rows.
            passage: (p,) int64 corpus rows.
            rank: (p,) int, their ranks in the pool.
            left: per pair the other known positives that it is compared with; None leaves the passages' view out.

        Returns:
            (p,) float64.
        """
        if left is None:
            return self._query_view.log_odds(self._seen(query, passage, rank, None), known=True)
        each = np.repeat(np.arange(len(query)), [len(rows) for rows in left])
        rows = np.concatenate([np.empty(0, np.int64), *left])
        others = Answers(each, rows, self._pool.pair_scores(query[each], rows))
        pairs = self._seen(query, passage, rank, others, rows=np.arange(len(query)))
        log_odds = self._query_view.log_odds(pairs, known=True)
        if self._passage_view is None:
            return log_odds
        numbered = Seen(np.arange(len(query)), pairs.passage, pairs.score, pairs.rank)
        return log_odds + self._passage_view.log_ratio(numbered, others)

    def _candidates(self, judged: Array) -> Seen:
        """The candidates as the search sees them, looked at in blocks of queries."""
        found = self._pool.candidates
        span = (
            float(np.min(found.scores, where=judged, initial=0.0)),
            float(np.max(found.scores, where=judged, initial=0.0)),
        )
        seen = []
        for part in blocks(len(judged), 16 * judged.shape[1]):
            rows, columns = np.nonzero(judged[part])
            passage, ranks = found.indices[part][rows, columns], found.ranks[part][rows, columns]
            seen.append(self._seen(rows + part.start, passage, ranks, self._answers, span=span).narrow())
        return Seen.joined(seen)

    def _seen(
        self,
        query: Array,
        passage: Array,
        rank: Array,
        answers: Answers | None,
        rows: Array | None = None,
        span: tuple[float, float] | None = None,
    ) -> Seen:
        """Pairs with the rank that counts the known positives above them; ``span`` holds all scores."""
        score = self._pool.pair_scores(query, passage).astype(np.float64)
        if answers is None:
            return Seen(query, passage, score, rank)
        owner = query if rows is None else rows
        order = np.lexsort((answers.score, answers.query))
        lowest, highest = span or (float(score.min(initial=0.0)), float(score.max(initial=0.0)))
        least, most = lowest - 1, highest + 1
        # Only whether a known positive lies above a candidate counts, and a run may hold no score of it.
        held, ordered = answers.query[order], np.clip(answers.score[order].astype(np.float64), least, most)
        # One sorted key per (query, score) lets a single search count the scores above.
        low, width = least, 2 * (most - least)
        keys = held * width + (ordered - low)
        above = np.searchsorted(held, owner, "right") - np.searchsorted(keys, owner * width + (score - low), "right")
        return Seen(query, passage, score, rank + np.maximum(above, 0))


def passage_scores(vectors: Sequence[tuple[Array, Array]], texts: Sequence[str], by_words: bool) -> PairScores | None:
    """How alike two passages are: by the first encoder, else by BM25 with one of them for a query, else unknown.

    Args:
        vectors: per encoder those of queries and passages.
        texts: of the passages.
        by_words: whether BM25 is in use.

    Returns:
        function of (corpus rows, corpus rows), or None.
    """
    if vectors:
        passages = vectors[0][1]
        return lambda one, other: np.asarray(pair_scores(passages, passages, one, other))
    if not by_words:
        return None
    index = LexicalIndex(texts)

    def by_bm25(one: Array, other: Array) -> Array:
        distinct, row = np.unique(one, return_inverse=True)
        return np.asarray(index.pair_scores([texts[i] for i in distinct.tolist()], row, other))

    return by_bm25
