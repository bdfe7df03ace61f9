"""Exclusions: what may never become a negative of a query, by construction, because it is kept out of the search.

Ruled out are the positives of the query; passages with the text of one, or nearly so; what answers an equal or nearly
equal query, with the copies of that; and passages of the same group (the document, say) as a positive or the query.
Texts are compared normalised; nearly means that the sets of runs of three words have a Jaccard similarity of at least
the threshold, found exactly (``tamis.jaccard``). Every passage that is ruled out names its rule, its rival and the
similarity. Splits are kept apart by ``partition``, which needs no list of pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from tamis import checks
from tamis.data import RetrievalData
from tamis.jaccard import jaccard_join
from tamis.ngrams import normalise, text_groups
from tamis.shingles import spread

Array = np.ndarray[Any, Any]

RULES = (
    "positive",
    "same text as a positive",
    "same normalised text as a positive",
    "near-duplicate of a positive",
    "positive of an equal query",
    "positive of a near-equal query",
    "same group as a positive",
    "same group as the query",
)
"""Rules in the order in which they take the blame. The first is no evidence: a positive is what is asked for."""
COPY, NORMALISED, NEAR, EQUAL_QUERY, NEAR_QUERY, GROUP, QUERY_GROUP = range(1, 8)

_MOST = 2**27  # pairs of query and passage; each takes some forty bytes for a moment
_SHINGLE = 3


class Csr(NamedTuple):
    """A row's values are ``columns[indptr[row]:indptr[row + 1]]``."""

    indptr: Array
    columns: Array


@dataclass(frozen=True)
class Exclusions:
    """What is kept out of the search, and why.

    Args:
        exclude: CSR (indptr (q + 1,), columns), passages that are not to be found for a query, positives among them.
        evidence: all but the positives, by query and passage: query, candidate, rule (int, of ``RULES``), rival (corpus
            row of the positive that decides, -1 for none), other (query row whose positive the rival is, -1 for its
            own), score (Jaccard similarity of candidate and rival, NaN where a group decides).
        groups: (n,) int64, equal for equal normalised texts of the corpus.
        query_groups: (q,) int64, in the same numbers.
        kin: (n,) int64, equal for positives that rule each other out: a hidden one never comes back as a stranger.
        hideable: per query the positives that would come back if they were not known; at least one in any case.
        notes: sentences on what could not be done.
    """

    exclude: Csr
    evidence: dict[str, Array]
    groups: Array
    query_groups: Array
    kin: Array
    hideable: Sequence[Array]
    notes: tuple[str, ...] = ()

    def counts(self) -> dict[str, int]:
        """Pairs ruled out by each rule that rules any out."""
        found = np.bincount(self.evidence["rule"], minlength=len(RULES))
        return {rule: int(count) for rule, count in zip(RULES, found, strict=True) if count}


def find(data: RetrievalData, *, near_duplicates: float | None = 0.9) -> Exclusions:
    """Find what may never become a negative.

    Args:
        data: queries, passages and positives; groups and splits where the tables have them.
        near_duplicates: least Jaccard similarity of near texts, in (0, 1]; None compares equal texts only.

    Returns:
        the exclusions.

    Raises:
        ValueError: for a threshold out of its range, or groups so large that their pairs do not fit into memory.

    Example:
        >>> from tamis.data import from_python
        >>> find(from_python(["q"], ["The sieve.", "a pan", "the  SIEVE"], [[0]])).evidence["candidate"]
        array([2])
    """
    inside = near_duplicates is None or 0 < near_duplicates <= 1
    checks.require(inside, f"near_duplicates must lie in (0, 1], or be None for equal texts: got {near_duplicates!r}.")
    n = len(data.corpus)
    texts = [normalise(text) for text in data.corpus.texts]
    asked = [normalise(text) for text in data.queries.texts]
    groups, query_groups = text_groups(texts, asked, normalised=False)
    members = _by_label(groups)
    firsts = members.columns[members.indptr[:-1]]
    query = np.repeat(np.arange(len(data.queries)), [len(p) for p in data.positives])
    rows = np.concatenate(list(data.positives))

    near = _near_texts(texts, groups[rows], firsts, near_duplicates)
    strange = _of_other_queries(query, rows, query_groups, asked, near_duplicates)
    labels, query_labels = _labels(data.corpus.groups, data.queries.groups, len(data.queries))

    known = _Pairs.of(query, rows, rows, -1, COPY, 1.0)
    parts = [
        known._replace(rule=np.zeros_like(known.rule)),
        known.copied(groups, members),
        known._replace(rule=np.full_like(known.rule, NEAR)).near(groups, members, near),
        strange,
        strange.copied(groups, members),
        strange.near(groups, members, near),
    ]
    if labels is not None:
        everyone = np.arange(len(data.queries))
        answers = _Pairs.joined([known, strange])
        own = answers._replace(rule=np.full_like(answers.rule, GROUP), score=np.full(len(answers.score), np.nan))
        asking = _Pairs.of(everyone, everyone, -1, -1, QUERY_GROUP, np.nan)
        by_label = _by_label(labels)
        parts += [own.grouped(labels[own.candidate], by_label), asking.grouped(query_labels, by_label)]
    every = _Pairs.joined(parts)
    pair, first = np.unique(every.query * n + every.candidate, return_index=True)
    every = every.take(first)
    exclude = Csr(np.searchsorted(pair, np.arange(len(data.queries) + 1) * n), every.candidate)
    every = every.take(np.flatnonzero(every.rule > 0))
    if (every.rule == COPY).any():
        letters = text_groups(data.corpus.texts, normalised=False)[0]
        differs = (every.rule == COPY) & (letters[every.candidate] != letters[every.rival])
        every = every._replace(rule=np.where(differs, NORMALISED, every.rule))

    kin = _kin(n, groups, rows, near, labels)
    back = np.isin(query * n + kin[rows], strange.query * n + kin[strange.candidate])
    if labels is not None:
        back |= (query_labels[query] >= 0) & (labels[rows] == query_labels[query])
    splits, query_splits = _labels(data.corpus.splits, data.queries.splits, len(data.queries))
    notes = []
    if splits is not None:
        back |= (splits[rows] >= 0) & (query_splits[query] >= 0) & (splits[rows] != query_splits[query])
        elsewhere = (splits[every.candidate] >= 0) & (query_splits[every.query] >= 0)
        elsewhere &= splits[every.candidate] != query_splits[every.query]
        every = every.take(np.flatnonzero(~elsewhere))
        if (query_splits < 0).all():
            notes.append("Passages have splits and no query has one: no passage is kept out for its split.")
    return Exclusions(
        exclude, every._asdict(), groups, query_groups, kin, _hideable(data.positives, query, back), tuple(notes)
    )


class _Pairs(NamedTuple):
    """Query and candidate, with the rule, the rival, whose positive that is, and the similarity."""

    query: Array
    candidate: Array
    rule: Array
    rival: Array
    other: Array
    score: Array

    @classmethod
    def of(cls, query: Array, candidate: Array, rival: Any, other: Any, rule: Any, score: Any) -> _Pairs:
        columns = (query, candidate, rule, rival, other, np.asarray(score, np.float64))
        return cls(*(np.array(np.broadcast_to(column, query.shape)) for column in columns))

    @classmethod
    def joined(cls, parts: Sequence[_Pairs]) -> _Pairs:
        return cls(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))

    def take(self, rows: Array) -> _Pairs:
        return _Pairs(*(column[rows] for column in self))

    def spread(self, of: Csr, rows: Array) -> tuple[_Pairs, Array]:
        """Every pair once per value of its row, and where the values stand."""
        counts = np.diff(of.indptr)[rows]
        total = int(counts.sum())
        checks.require(
            total <= _MOST,
            f"exclusions must be at most {_MOST:,} pairs of query and passage: got {total:,}; groups or repeated texts "
            "are too large for that: leave the groups out, or drop repeated rows first.",
        )
        return self.take(np.repeat(np.arange(len(rows)), counts)), spread(of.indptr[rows], counts)

    def copied(self, groups: Array, members: Csr) -> _Pairs:
        """What has the text of a candidate."""
        pairs, at = self.spread(members, groups[self.candidate])
        return pairs._replace(candidate=members.columns[at])

    def near(self, groups: Array, members: Csr, near: tuple[Csr, Array]) -> _Pairs:
        """What has nearly the text of a candidate, the nearest first."""
        pairs, at = self.spread(near[0], groups[self.candidate])
        texts, scores = near[0].columns[at], near[1][at]
        order = np.argsort(-scores, kind="stable")
        pairs, at = pairs.take(order)._replace(score=scores[order]).spread(members, texts[order])
        return pairs._replace(candidate=members.columns[at])

    def grouped(self, labels: Array, members: Csr) -> _Pairs:
        """What has a label, for the first pair of each query and label."""
        width = len(members.indptr)
        labels = np.where(labels < width - 1, labels, -1)
        first = np.unique(self.query * width + labels + 1, return_index=True)[1]
        first = np.sort(first[labels[first] >= 0])
        pairs, at = self.take(first).spread(members, labels[first])
        return pairs._replace(candidate=members.columns[at])


def _near_texts(texts: Sequence[str], wanted: Array, firsts: Array, threshold: float | None) -> tuple[Csr, Array]:
    """Per text of the corpus the other texts that are near, for the texts of positives; and their similarities."""
    count = len(firsts)
    if threshold is None:
        return Csr(np.zeros(count + 1, np.int64), np.empty(0, np.int64)), np.empty(0)
    distinct = [texts[i] for i in firsts]
    of = np.unique(wanted)
    left, right, scores = jaccard_join(
        [distinct[i] for i in of], distinct, threshold=threshold, size=_SHINGLE, normalised=True
    )
    left = of[left]
    order = np.lexsort((right, left))
    order = order[left[order] != right[order]]
    return Csr(np.searchsorted(left[order], np.arange(count + 1)), right[order]), scores[order]


def _of_other_queries(
    query: Array, rows: Array, query_groups: Array, asked: Sequence[str], threshold: float | None
) -> _Pairs:
    """The positives of equal and of near-equal queries, for every query."""
    texts, number = np.unique(query_groups, return_inverse=True)
    by_text = _by_label(number)
    width = 1 + int(rows.max())
    keys = number[query] * width + rows
    order = np.argsort(keys, kind="stable")
    answer, first, times = np.unique(keys[order], return_index=True, return_counts=True)
    answers = Csr(np.searchsorted(answer, np.arange(len(texts) + 1) * width), answer % width)
    first_asks, last_asks = query[order][first], query[order][first + times - 1]
    several = np.flatnonzero(np.diff(by_text.indptr) > 1)
    links = [(several, several, np.full(len(several), EQUAL_QUERY), np.ones(len(several)))]
    if threshold is not None:
        distinct = [asked[i] for i in by_text.columns[by_text.indptr[:-1]]]
        a, b, scores = jaccard_join(distinct, threshold=threshold, size=_SHINGLE, normalised=True)
        rules = np.full(len(a), NEAR_QUERY)
        links += [(a, b, rules, scores), (b, a, rules, scores)]
    of, answered_by, rule, score = (np.concatenate(column) for column in zip(*links, strict=True))
    pairs, at = _Pairs.of(of, answered_by, -1, -1, rule, score).spread(by_text, of)
    pairs = pairs._replace(query=by_text.columns[at])
    pairs, at = pairs.spread(answers, pairs.candidate)
    # A positive of two equal queries is one of another query for both.
    other = np.where(first_asks[at] == pairs.query, last_asks[at], first_asks[at])
    pairs = pairs._replace(candidate=answers.columns[at], rival=answers.columns[at], other=other)
    return pairs.take(np.flatnonzero(pairs.other != pairs.query))


def _labels(of_passages: Any, of_queries: Any, queries: int) -> tuple[Array | None, Array]:
    """Labels as numbers, -1 for none; None where the passages have no labels."""
    if of_passages is None:
        return None, np.full(queries, -1)
    numbers: dict[str, int] = {}
    columns = [
        np.fromiter((-1 if label is None else numbers.setdefault(label, len(numbers)) for label in column), np.int64)
        for column in (of_passages, of_queries if of_queries is not None else [None] * queries)
    ]
    return columns[0], columns[1]


def _by_label(labels: Array) -> Csr:
    """The rows of each label, ascending; rows with the label -1 are left out."""
    order = np.argsort(labels, kind="stable")
    order = order[labels[order] >= 0]
    return Csr(np.searchsorted(labels[order], np.arange(int(labels.max(initial=-1)) + 2)), order)


def _kin(n: int, groups: Array, rows: Array, near: tuple[Csr, Array], labels: Array | None) -> Array:
    """Connected parts of the positives' texts by nearness and by group; every other text by itself."""
    texts = int(groups.max()) + 1
    of = np.zeros(texts, dtype=bool)
    of[groups[rows]] = True
    a, b = np.repeat(np.arange(texts), np.diff(near[0].indptr)), near[0].columns
    a, b = a[of[b]], b[of[b]]
    if labels is not None:
        labelled = rows[labels[rows] >= 0]
        a, b = np.concatenate([a, groups[labelled]]), np.concatenate([b, texts + labels[labelled]])
    parent = np.arange(texts + (0 if labels is None else 1 + int(labels.max(initial=-1))))
    while True:
        new = parent.copy()
        np.minimum.at(new, a, parent[b])
        np.minimum.at(new, b, parent[a])
        new = new[new]
        if np.array_equal(new, parent):
            return np.asarray(parent[groups])
        parent = new


def _hideable(positives: Sequence[Array], query: Array, back: Array) -> Sequence[Array]:
    """Positives that are ruled out for no other reason than being known, or one where there is none."""
    if not back.any():
        return positives
    left = list(positives)
    starts = np.searchsorted(query, np.arange(len(positives) + 1))
    for i in np.unique(query[back]):
        kept = ~back[starts[i] : starts[i + 1]]
        left[i] = positives[i][kept] if kept.any() else positives[i][:1]
    return left
