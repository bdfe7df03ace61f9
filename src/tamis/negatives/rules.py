"""Rules: the settings that decide which candidates may be negatives.

The same rules judge the pool of every query and the planted positives of the audit; that is what makes the survival
rate a measurement of the run and not of something like it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from tamis import checks
from tamis.negatives import filters

Array = np.ndarray[Any, Any]
Scorer = Callable[[Array, Array], Array]


@dataclass(frozen=True)
class Reference:
    """The positive that each query's margin is measured from.

    Args:
        row: (q,) int64 corpus row.
        score: (q,) float32, similarity of query and positive.
        guide: (q,) float32, lowest or highest similarity of query and positives in the guide's eyes, or None.
    """

    row: Array
    score: Array
    guide: Array | None

    @classmethod
    def of(
        cls, queries: Array, positives: Sequence[Array], scorer: Scorer, guide: Scorer | None, against: str
    ) -> Reference:
        """Find the reference among the positives of each query.

        Args:
            queries: (q,) int64 query rows.
            positives: per entry of ``queries`` its positives, none empty.
            scorer: similarity of given pairs.
            guide: the guide's similarity of given pairs.
            against: "lowest" or "highest".

        Returns:
            one reference per entry of ``queries``.
        """
        if len(queries) == 0:
            empty = np.empty(0, np.float32)
            return cls(np.empty(0, np.int64), empty, None if guide is None else empty)
        counts = np.array([len(p) for p in positives])
        starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
        flat_queries, flat = np.repeat(queries, counts), np.concatenate(list(positives))
        extreme = np.minimum if against == "lowest" else np.maximum
        scores = scorer(flat_queries, flat)
        best = extreme.reduceat(scores, starts)
        places = np.flatnonzero(scores == np.repeat(best, counts))
        first = places[np.searchsorted(places, starts)]
        guided = None if guide is None else extreme.reduceat(guide(flat_queries, flat), starts)
        return cls(flat[first], best, guided)


@dataclass(frozen=True, kw_only=True)
class Rules:
    """Everything that may rule a candidate out by score or rank. See ``mine`` for the meaning of each."""

    absolute: float | None = None
    relative: float | None = None
    percentage: float | None = None
    max_survival: float | None = None
    against: str = "lowest"
    first_rank: int = 1
    last_rank: int | None = None
    min_score: float | None = None
    max_score: float | None = None
    guide_margin: float = 0.0
    score_ceiling: float | None = None
    odds_ceiling: float | None = None
    calibrated: bool = False

    def check(self) -> None:
        """Say in one line what cannot work.

        Raises:
            ValueError: for a setting out of its range or two that exclude each other.
        """
        one = np.ones(1)
        filters.margin_ceiling(one, absolute=self.absolute, relative=self.relative, percentage=self.percentage)
        filters.rank_window(np.ones((1, 1)), first=self.first_rank, last=self.last_rank)
        filters.score_range(np.ones((1, 1)), low=self.min_score, high=self.max_score)
        checks.one_of("against", self.against, ("lowest", "highest"))
        if self.max_survival is not None:
            inside = 0 < self.max_survival <= 1
            checks.require(inside, f"max_survival must lie between 0 (not included) and 1: got {self.max_survival!r}.")
            fixed = [k for k in ("absolute", "relative", "percentage") if getattr(self, k) is not None]
            checks.require(
                not fixed or self.calibrated,
                f"max_survival chooses the margin: leave out {', '.join(fixed)} or max_survival.",
            )

    def as_dict(self) -> dict[str, Any]:
        """The settings for a report."""
        return asdict(self)

    def ceiling(self, reference_scores: Array) -> Array:
        """(q,) float32, what a negative must stay below."""
        own = filters.margin_ceiling(
            reference_scores, absolute=self.absolute, relative=self.relative, percentage=self.percentage
        )
        return own if self.score_ceiling is None else np.minimum(own, np.float32(self.score_ceiling))

    def decide(
        self,
        scores: Array,
        ranks: Array,
        reference: Reference,
        guide_scores: Array | None,
        odds: Array | None = None,
    ) -> list[filters.Decision]:
        """Judge candidates.

        Args:
            scores: (q, k) float.
            ranks: (q, k) int.
            reference: one row per row of scores.
            guide_scores: (q, k) float, or None.
            odds: (q, k) float log-odds of being an answer, or None.

        Returns:
            one decision per rule that is in force.
        """
        ceiling = self.ceiling(reference.score)
        decisions = []
        if odds is not None and self.odds_ceiling is not None:
            bar = np.full(len(odds), self.odds_ceiling)
            decisions.append(
                filters.below_ceiling(
                    odds, bar, rival=reference.row, rival_score=reference.score, rule="likely an answer"
                )
            )
        if np.isfinite(ceiling).any() or len(ceiling) == 0:
            decisions.append(filters.below_ceiling(scores, ceiling, rival=reference.row, rival_score=reference.score))
        if guide_scores is not None and reference.guide is not None:
            decisions.append(
                filters.guide(guide_scores, reference.guide, margin=self.guide_margin, rival=reference.row)
            )
        if self.first_rank > 1 or self.last_rank is not None:
            decisions.append(filters.rank_window(ranks, first=self.first_rank, last=self.last_rank))
        if self.min_score is not None or self.max_score is not None:
            decisions.append(filters.score_range(scores, low=self.min_score, high=self.max_score))
        return decisions

    def without_margin(self) -> Rules:
        """The same rules, with nothing measured from a positive's score."""
        return replace(self, relative=None, absolute=None, percentage=None, score_ceiling=None)
