"""Partition: queries of one split search only the passages that are free to them, so that no list of pairs is needed.

A test document is never mined for a train query. Queries of one split make a part; its passages are those of that split
and those of none. Each part is searched by itself, without a copy of vectors that stand together, and the views of the
parts are put together: as if one search had left out, for each query, the passages of other splits. BM25 weighs words
by the passages of the part.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tamis import checks
from tamis.negatives.candidates import View
from tamis.results import Table
from tamis.trec import Run

Array = np.ndarray[Any, Any]
Rows = slice | Array
Exclude = tuple[Array, Array]
_MOST = 2**26


@dataclass(frozen=True)
class Part:
    """Queries that search the same passages.

    Args:
        queries: (a,) int64 query rows, ascending.
        passages: (b,) int64 corpus rows, ascending.
        strange: (c,) int64 places among ``passages`` of positives that belong to another split; they are there to be
            scored, and found for no query.
    """

    queries: Array
    passages: Array
    strange: Array


@dataclass(frozen=True)
class Searched:
    """What one search sees.

    Args:
        queries: the rows of its queries, as a slice or (a,) int64.
        passages: the rows of its passages, likewise (b,).
        exclude: CSR (indptr (a + 1,), columns) in its own rows.
        runs: in its own rows.
        shape: how many queries and passages it has.
    """

    queries: Rows
    passages: Rows
    exclude: Exclude
    runs: Sequence[Run]
    shape: tuple[int, int]

    @staticmethod
    def of(texts: Sequence[str], rows: Rows) -> Sequence[str]:
        """Some of the texts."""
        return texts[rows] if isinstance(rows, slice) else [texts[i] for i in rows.tolist()]


def parts_of(queries: Table, corpus: Table, positives: Sequence[Array]) -> list[Part]:
    """Divide the queries by split.

    Args:
        queries: with or without splits; a query without one searches everything.
        corpus: with or without splits.
        positives: per query corpus rows; those in another split than their query are kept, to be scored.

    Returns:
        one part, of everything, where either side has no splits; else one part per split of the queries.

    Raises:
        ValueError: when so many positives lie in another split than their query that splits mean nothing.
    """
    if queries.splits is None or corpus.splits is None:
        return [Part(np.arange(len(queries)), np.arange(len(corpus)), np.empty(0, np.int64))]
    parts = []
    for split in dict.fromkeys(queries.splits):
        mine = np.flatnonzero(np.array([own == split for own in queries.splits]))
        allowed = np.array([split is None or own is None or own == split for own in corpus.splits])
        known = np.unique(np.concatenate([positives[i] for i in mine.tolist()]))
        wrong = known[~allowed[known]]
        checks.require(
            len(wrong) * len(mine) <= _MOST,
            f"positives must lie in the split of their query or in none: {len(wrong):,} of the queries of {split!r} do "
            "not; correct the splits or leave them out.",
        )
        allowed[wrong] = True
        passages = np.flatnonzero(allowed)
        parts.append(Part(mine, passages, np.searchsorted(passages, wrong)))
    return parts


def search(
    parts: Sequence[Part],
    shape: tuple[int, int],
    exclude: Exclude,
    runs: Sequence[Run],
    views: Callable[[Searched], list[View]],
) -> list[View]:
    """Search every part by itself and put the views together.

    Args:
        parts: see ``parts_of``.
        shape: how many queries and passages there are.
        exclude: CSR (indptr (q + 1,), columns), passages that are not to be found for a query.
        runs: lists of candidates, which are divided too.
        views: searches one part.

    Returns:
        the views of all queries, in rows of the whole corpus.
    """
    if len(parts) == 1 and (len(parts[0].queries), len(parts[0].passages)) == shape and len(parts[0].strange) == 0:
        return views(Searched(slice(None), slice(None), exclude, runs, shape))
    owner, place = np.empty(shape[0], np.int64), np.empty(shape[0], np.int64)
    found = []
    for number, part in enumerate(parts):
        owner[part.queries], place[part.queries] = number, np.arange(len(part.queries))
        inside = np.full(shape[1], -1)
        inside[part.passages] = np.arange(len(part.passages))
        size = (len(part.queries), len(part.passages))
        own = [_run(run, part, inside, shape[0], first=number == 0) for run in runs]
        barred = _excluded(exclude, part, inside)
        found.append(views(Searched(_as_rows(part.queries), _as_rows(part.passages), barred, own, size)))
    return [_together([views[i] for views in found], parts, owner, place, shape) for i in range(len(found[0]))]


def _together(views: list[View], parts: Sequence[Part], owner: Array, place: Array, shape: tuple[int, int]) -> View:
    """The views of the parts as one."""
    depth = max(view.indices.shape[1] for view in views)
    indices, scores = np.full((shape[0], depth), -1, np.int64), np.full((shape[0], depth), -np.inf, np.float32)
    for view, part in zip(views, parts, strict=True):
        width = view.indices.shape[1]
        indices[part.queries, :width] = np.where(view.indices >= 0, part.passages[view.indices], -1)
        scores[part.queries, :width] = view.scores

    def asked(what: str, nothing: Any, queries: Array, passages: Array) -> Array:
        answer = np.full(len(queries), nothing)
        for number, (view, part) in enumerate(zip(views, parts, strict=True)):
            mine = np.flatnonzero(owner[queries] == number)
            at = np.minimum(np.searchsorted(part.passages, passages[mine]), len(part.passages) - 1)
            held = part.passages[at] == passages[mine]
            if held.any():
                answer[mine[held]] = getattr(view, what)(place[queries[mine[held]]], at[held])
        return answer

    return replace(
        views[0],
        indices=indices,
        scores=scores,
        pair_scores=lambda queries, passages: asked("pair_scores", np.float32(-np.inf), queries, passages),
        rank_of=lambda queries, passages: asked("rank_of", np.int32(0), queries, passages),
        notes=tuple(dict.fromkeys(note for view in views for note in view.notes)),
    )


def _excluded(exclude: Exclude, part: Part, inside: Array) -> Exclude:
    """The exclusions of a part, in its own rows, and its strange passages for all its queries."""
    indptr, columns = exclude
    counts = np.diff(indptr)[part.queries]
    query = np.repeat(np.arange(len(part.queries)), counts)
    ends = np.cumsum(counts)
    column = inside[columns[np.arange(counts.sum()) + np.repeat(indptr[part.queries] - ends + counts, counts)]]
    size = len(part.passages)
    everyone = np.arange(len(part.queries))[:, None] * size + part.strange
    pair = np.unique(np.concatenate([(query * size + column)[column >= 0], everyone.ravel()]))
    return np.searchsorted(pair, np.arange(len(part.queries) + 1) * size), pair % size


def _run(run: Run, part: Part, inside: Array, queries: int, *, first: bool) -> Run:
    """The lines of a run that belong to a part; what it notes of the whole is noted once."""
    local = np.full(queries, -1)
    local[part.queries] = np.arange(len(part.queries))
    kept = (local[run.query] >= 0) & (inside[run.passage] >= 0)
    return replace(
        run,
        query=local[run.query[kept]],
        passage=inside[run.passage[kept]],
        scores=run.scores[kept],
        foreign=run.foreign if first else 0,
        missing=run.missing if first else 0,
    )


def _as_rows(rows: Array) -> Rows:
    """A range as a slice, so that taking it copies nothing."""
    whole = len(rows) > 0 and rows[-1] - rows[0] + 1 == len(rows)
    return slice(int(rows[0]), int(rows[-1]) + 1) if whole else rows
