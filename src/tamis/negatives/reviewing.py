"""Reviewing: what second opinions have said so far of the candidates, and what to ask next.

The board grows as answers come: scores of the cross-encoder, verdicts of the judge, and the log-weights that follow.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tamis import checks
from tamis.negatives import audit
from tamis.negatives.cross_encoder import Pair, PairScorer
from tamis.negatives.filters import DROP
from tamis.negatives.judge import Judge
from tamis.negatives.rules import Reference
from tamis.results import Candidates, Table

Array = np.ndarray[Any, Any]


@dataclass
class Board:
    """What is known so far of every candidate.

    Args:
        found: the pool, (q, k).
        weights: (q, k) float32 log-weights.
        reference: the positive that each query is judged by.
        queries: ids and texts.
        corpus: ids and texts.
        scores: (q, k) float32 of the cross-encoder, NaN where it was not asked.
        positive: (q,) float32, its scores of the references, likewise.
        by_scorer: (q, k) bool, dropped by the cross-encoder.
        by_judge: (q, k) bool, confirmed by the judge as answers.
        judged: (q, k) bool.
        counts: verdicts by kind.
    """

    found: Candidates
    weights: Array
    reference: Reference
    queries: Table
    corpus: Table
    scores: Array
    positive: Array
    by_scorer: Array
    by_judge: Array
    judged: Array
    counts: dict[str, int]

    @classmethod
    def of(cls, found: Candidates, log_weights: Array, reference: Reference, queries: Table, corpus: Table) -> Board:
        """A board on which nothing is known."""
        shape = found.indices.shape
        checks.same_shape("log_weights", log_weights, "the candidates", found.indices)
        return cls(
            found=found,
            weights=np.array(log_weights, np.float32),
            reference=reference,
            queries=queries,
            corpus=corpus,
            scores=np.full(shape, np.nan, np.float32),
            positive=np.full(shape[0], np.nan, np.float32),
            by_scorer=np.zeros(shape, bool),
            by_judge=np.zeros(shape, bool),
            judged=np.zeros(shape, bool),
            counts={"positive": 0, "negative": 0, "unsure": 0},
        )

    def pairs(self, rows: Array, passages: Array) -> list[Pair]:
        """The texts of (query rows, corpus rows)."""
        queries, corpus = self.queries.texts, self.corpus.texts
        return [(queries[q], corpus[p]) for q, p in zip(rows.tolist(), passages.tolist(), strict=True)]

    def settle(self, decide: Callable[[Array], Array], scorer: PairScorer | None) -> Array:
        """Pick, score what is new among the picks, drop what is too close, and pick again, until nothing changes."""
        while True:
            picks = decide(self.weights)
            if scorer is None:
                return picks
            rows, columns = places(picks)
            new = np.isnan(self.scores[rows, columns])
            rows, columns = self._affordable(rows[new], columns[new], scorer.left)
            if len(rows) == 0:
                return picks
            bare = np.unique(rows[np.isnan(self.positive[rows])])
            candidates = self.pairs(rows, self.found.indices[rows, columns])
            scores = scorer.scores([*candidates, *self.pairs(bare, self.reference.row[bare])])
            self.positive[bare] = scores[len(rows) :]
            self.scores[rows, columns] = scores[: len(rows)]
            false = scores[: len(rows)] >= scorer.ceiling(self.positive[rows])
            self.by_scorer[rows[false], columns[false]] = True
            self.weights[rows[false], columns[false]] = DROP

    def suspects(self, picks: Array) -> tuple[Array, Array]:
        """Picks that no one has judged, the most suspicious first: by the cross-encoder, then by the similarity."""
        rows, columns = places(picks)
        new = ~self.judged[rows, columns]
        rows, columns = rows[new], columns[new]
        slack = self.positive[rows] - self.scores[rows, columns]
        unscored = np.isnan(slack)
        order = np.lexsort((np.where(unscored, self._slack(rows, columns), slack), unscored))
        return rows[order], columns[order]

    def ask(self, judge: Judge, rows: Array, columns: Array) -> None:
        """Judge picks one by one, each verdict noted before the next is asked."""
        for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
            passage, positive = int(self.found.indices[row, column]), int(self.reference.row[row])
            texts = self.queries.texts[row], self.corpus.texts[passage], self.corpus.texts[positive]
            answer = judge.verdict(*texts, ids=(self.queries.ids[row], self.corpus.ids[passage]))
            self._take(np.array([row]), np.array([column]), np.array([answer]))

    def note(self, rows: Array, passages: Array, verdicts: Array) -> int:
        """Take verdicts of a file; gives how many of them are on pairs that are no candidates."""
        width = len(self.corpus) + 1
        at_row, at_column = np.nonzero(self.found.present)
        pool = at_row * width + self.found.indices[at_row, at_column]
        _, place, given = np.intersect1d(pool, rows * width + passages, assume_unique=True, return_indices=True)
        self._take(at_row[place], at_column[place], verdicts[given])
        return len(rows) - len(given)

    def _take(self, rows: Array, columns: Array, answers: Array) -> None:
        positive, negative = answers > 0.5, answers < 0.5
        self.judged[rows, columns] = True
        self.by_judge[rows[positive], columns[positive]] = True
        self.weights[rows[positive], columns[positive]] = DROP
        for word, is_so in (("positive", positive), ("negative", negative), ("unsure", ~(positive | negative))):
            self.counts[word] += int(is_so.sum())

    def _affordable(self, rows: Array, columns: Array, left: float) -> tuple[Array, Array]:
        """The most suspicious of these picks that the budget allows, with the positives they need."""
        if 2 * len(rows) <= left:
            return rows, columns
        order = np.argsort(self._slack(rows, columns), kind="stable")
        rows, columns = rows[order], columns[order]
        first = np.zeros(len(rows), bool)
        first[np.unique(rows, return_index=True)[1]] = True
        cost = np.cumsum(1 + (first & np.isnan(self.positive[rows])))
        return rows[cost <= left], columns[cost <= left]

    def _slack(self, rows: Array, columns: Array) -> Array:
        # Where a view has no score for a pair there is -inf, and perhaps no difference: such picks come last.
        with np.errstate(invalid="ignore"):
            return audit.slack(self.found.scores[rows, columns], self.reference.score[rows])


def places(picks: Array) -> tuple[Array, Array]:
    """Rows and columns of the pool that are picked."""
    rows, order = np.nonzero(picks >= 0)
    return rows, picks[rows, order]
