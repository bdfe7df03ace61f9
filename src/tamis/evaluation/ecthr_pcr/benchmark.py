"""Dated pools, a split by time, and metrics per year."""

from __future__ import annotations

import datetime
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from tamis import checks, ranking
from tamis.rank_correlation import spearman

Array = np.ndarray[Any, Any]
View = Literal["facts", "law", "facts+law"]
Scorer = Callable[[Array], Array]
Date = str | int | datetime.date

BLOCK = 2**22  # scores at once
VIEWS = ("facts", "law", "facts+law")


@dataclass(frozen=True)
class TemporalSplit:
    """Queries by the time of their case; rows of the benchmark.

    Args:
        train: (a,) int64, dated up to ``train_until``.
        validation: (b,) int64, after that and up to ``val_until``.
        test: (c,) int64, later.
    """

    train: Array
    validation: Array
    test: Array


@dataclass(frozen=True)
class TemporalReport:
    """How well the cited cases were found.

    Args:
        metrics: means over queries: ``recall@k`` and ``mrr``.
        years: (y,) int64, years that have queries.
        queries: (y,) int64, how many.
        by_year: the metrics as (y,) arrays.
        slope: change of each metric per year, by least squares over the years; NaN for one year.
        spearman: rank correlation of each metric with the year; NaN where it is constant.
        rows: (q,) int64, the queries.
        each: the metrics of every query, (q,) arrays, for paired tests of two scorers.
        skipped: queries asked for that have no answer in their pool; they are not counted.
    """

    metrics: dict[str, float]
    years: Array
    queries: Array
    by_year: dict[str, Array]
    slope: dict[str, float]
    spearman: dict[str, float]
    rows: Array
    each: dict[str, Array]
    skipped: int


class TemporalRetrievalBenchmark:
    """Texts that cite earlier ones, as a retrieval task in which nothing later than the query is ever seen.

    Rows are in order of date; ``ids``, ``dates`` and ``years`` say whose they are. Pools hold the whole case law before
    a query, that of the training years included.

    Args:
        corpus: id to ``{"facts": ..., "law": ...}``, each a text or a list of sentences.
        citations: id to the ids it cites; the version of a case dated last before the query is meant by its number.
        dates: id to its date, as ISO text (a time of day is ignored), a ``datetime.date`` or a year.
        query_view: what of a case is the query.
        doc_view: what of a case is found.
        allow_same_day: whether cases of the query's own date are in its pool.

    Attributes:
        ids: names, by date.
        years: (n,) int64.
        cited: per case the rows that it cites, ascending.
        dropped: number of citations to later or unknown cases, which are left out with a warning.

    Raises:
        ValueError: for a case without a date or facts, or one that cites itself; names it.

    Example:
        >>> corpus = {name: {"facts": name, "law": ""} for name in "abcd"}
        >>> dates = {"a": 2000, "b": 2001, "c": 2001, "d": 2003}
        >>> court = TemporalRetrievalBenchmark(corpus, {"d": ["a", "b"]}, dates)
        >>> court.candidates("d").tolist(), court.candidates("c").tolist()
        ([True, True, True, False], [True, False, False, False])
    """

    def __init__(
        self,
        corpus: Mapping[str, Mapping[str, str | Sequence[str]]],
        citations: Mapping[str, Sequence[str]],
        dates: Mapping[str, Date],
        *,
        query_view: View = "facts",
        doc_view: View = "facts+law",
        allow_same_day: bool = False,
    ) -> None:
        checks.one_of("query_view", query_view, VIEWS)
        checks.one_of("doc_view", doc_view, VIEWS)
        checks.require(len(corpus) > 0, "corpus must hold at least one case.")
        for name in corpus:
            checks.require(dates.get(name) is not None, f"dates must name every case: {name!r} has none.")
            checks.require(
                bool(_text(corpus[name].get("facts", ""))),
                f"corpus must hold the facts of every case: {name!r} has none.",
            )
        when = {name: _day(dates[name], name) for name in corpus}
        self.ids = sorted(corpus, key=lambda name: (when[name], name))
        self._row = {name: row for row, name in enumerate(self.ids)}
        self._days = np.array([when[name] for name in self.ids], dtype=np.int64)
        self.years = np.array([datetime.date.fromordinal(day).year for day in self._days.tolist()], dtype=np.int64)
        self.allow_same_day = allow_same_day
        self.pool_sizes = np.searchsorted(self._days, self._days, side="right" if allow_same_day else "left")
        self.dropped = 0
        self._citing = np.array([len(citations.get(name, ())) > 0 for name in self.ids], dtype=bool)
        self.cited = self._resolved(citations)
        if self.dropped > 0:
            warnings.warn(
                f"{self.dropped} citations are of later or unknown cases and are left out.", UserWarning, stacklevel=2
            )
        self._corpus, self.query_view, self.doc_view = corpus, query_view, doc_view

    def __len__(self) -> int:
        return len(self.ids)

    def texts(self, view: View) -> list[str]:
        """The texts of all cases.

        Args:
            view: "facts", "law" or "facts+law".

        Returns:
            n texts, by row.
        """
        checks.one_of("view", view, VIEWS)
        return [
            " ".join(filter(None, (_text(self._corpus[name].get(part, "")) for part in view.split("+"))))
            for name in self.ids
        ]

    @property
    def query_texts(self) -> list[str]:
        """Every case as a query, by row."""
        return self.texts(self.query_view)

    @property
    def doc_texts(self) -> list[str]:
        """Every case as a document, by row."""
        return self.texts(self.doc_view)

    def row(self, name: str) -> int:
        """The row of a case.

        Args:
            name: its id.

        Returns:
            row.

        Raises:
            ValueError: for an unknown id.
        """
        checks.require(name in self._row, f"no case is called {name!r}.")
        return self._row[name]

    def candidates(self, name: str) -> Array:
        """The pool of a query: all cases dated before it.

        Args:
            name: id of the query.

        Returns:
            (n,) bool, by row; never the query itself.
        """
        row = self.row(name)
        mask: Array = np.arange(len(self)) < self.pool_sizes[row]
        mask[row] = False
        return mask

    def split(self, train_until: int, val_until: int) -> TemporalSplit:
        """Divide the queries by time; there is no random split, which would show the future to the training.

        Args:
            train_until: last year of the training.
            val_until: last year of the validation.

        Returns:
            queries that have an answer, by row.

        Raises:
            ValueError: unless the validation ends later than the training.
        """
        checks.require(
            train_until < val_until, f"val_until must be later than train_until: {train_until}, {val_until}."
        )
        asked = np.array([len(rows) > 0 for rows in self.cited], dtype=bool)
        year = self.years
        parts = (year <= train_until, (year > train_until) & (year <= val_until), year > val_until)
        return TemporalSplit(*(np.flatnonzero(asked & part) for part in parts))

    def evaluate(
        self, scorer: Scorer, *, queries: Array | None = None, ks: Sequence[int] = (50, 100, 500, 1000)
    ) -> TemporalReport:
        """Recall and reciprocal rank of the cited cases, per year and over all.

        Args:
            scorer: rows of queries (b,) to scores (b, n) of all cases; those outside the pools are struck here.
            queries: rows to ask, by default all that cite anything.
            ks: depths of the recall.

        Returns:
            the report; means are over queries.

        Raises:
            ValueError: for scores of another shape or with NaN, or no query with an answer.
        """
        rows = np.flatnonzero(self._citing) if queries is None else np.asarray(queries, dtype=np.int64)
        counts = np.array([len(self.cited[row]) for row in rows.tolist()], dtype=np.int64)
        skipped = int((counts == 0).sum())
        rows, counts = rows[counts > 0], counts[counts > 0]
        checks.require(len(rows) > 0, "queries must hold at least one that cites an earlier case.")
        for k in ks:
            checks.at_least("ks", k, 1)
        values: dict[str, list[Array]] = {name: [] for name in (*(f"recall@{k}" for k in ks), "mrr")}
        step = max(1, BLOCK // len(self))
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            gains = self._gains(np.asarray(scorer(part)), part)
            for k in ks:
                found = ranking.recall(gains, counts[start : start + step], min(k, len(self)))
                values[f"recall@{k}"].append(found)
            values["mrr"].append(ranking.mrr(gains, len(self)))
        each = {name: np.concatenate(parts) for name, parts in values.items()}
        years, place = np.unique(self.years[rows], return_inverse=True)
        sizes = np.bincount(place)
        by_year = {name: np.bincount(place, weights=value) / sizes for name, value in each.items()}
        return TemporalReport(
            {name: float(value.mean()) for name, value in each.items()},
            years,
            sizes,
            by_year,
            {name: yearly_slope(years, value) for name, value in by_year.items()},
            {name: spearman(years, value) if len(years) > 1 else float("nan") for name, value in by_year.items()},
            rows,
            each,
            skipped,
        )

    def _gains(self, scores: Array, rows: Array) -> Array:
        """Whether the document at each rank is cited, (b, n); 0 for what the pool does not hold."""
        wanted = (len(rows), len(self))
        checks.require(scores.shape == wanted, f"scorer must return scores of shape {wanted}: got {scores.shape}.")
        checks.require(not bool(np.isnan(scores).any()), "scorer must return no NaN; use -inf for what is not found.")
        outside = np.arange(len(self)) >= self.pool_sizes[rows][:, None]
        outside[np.arange(len(rows)), rows] = True
        relevant = np.zeros(wanted, dtype=np.float32)
        for place, row in enumerate(rows.tolist()):
            relevant[place, self.cited[row]] = 1.0
        relevant[np.isneginf(scores)] = 0.0  # what the scorer did not find
        order = np.argsort(np.where(outside, np.inf, -scores.astype(np.float64)), axis=1, kind="stable")
        gains: Array = np.take_along_axis(relevant, order, 1)
        return gains

    def _resolved(self, citations: Mapping[str, Sequence[str]]) -> list[Array]:
        versions: dict[str, list[int]] = {}
        for row, name in enumerate(self.ids):
            versions.setdefault(name, []).append(row)
            if name[-1:].isalpha() and name[-1:].isupper() and name[:-1]:
                versions.setdefault(name[:-1], []).append(row)
        cited = []
        for row, name in enumerate(self.ids):
            found = set()
            for other in citations.get(name, ()):
                checks.require(other != name, f"a case cannot cite itself: {name!r} does.")
                earlier = [v for v in versions.get(other, ()) if v < self.pool_sizes[row] and v != row]
                self.dropped += not earlier
                if earlier:
                    found.add(max(earlier))
            cited.append(np.array(sorted(found), dtype=np.int64))
        self.dropped += sum(len(others) for name, others in citations.items() if name not in self._row)
        return cited


def yearly_slope(years: Array | Sequence[int], values: Array | Sequence[float]) -> float:
    """The change per year, by least squares.

    Args:
        years: (y,) int.
        values: (y,) float.

    Returns:
        slope; NaN for one year.

    Example:
        >>> round(yearly_slope([14, 15, 16], [0.6, 0.5, 0.4]), 12)
        -0.1
    """
    x, y = np.asarray(years, dtype=np.float64), np.asarray(values, dtype=np.float64)
    centred = x - x.mean()
    spread = centred @ centred
    return float(centred @ y / spread) if spread > 0 else float("nan")


def _text(part: str | Sequence[str]) -> str:
    return (part if isinstance(part, str) else " ".join(part)).strip()


def _day(date: Date, name: str) -> int:
    """A date as a number of days."""
    if isinstance(date, datetime.date):
        return date.toordinal()
    try:
        if isinstance(date, (int, np.integer)):
            return datetime.date(int(date), 1, 1).toordinal()
        return datetime.datetime.fromisoformat(date).toordinal()
    except (TypeError, ValueError):
        raise ValueError(f"dates must be ISO dates or years: {name!r} has {checks.shown(date)}.") from None
