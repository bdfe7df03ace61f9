"""Candidates: the pool that negatives are picked from, found by one view of the data or by several merged.

A view is one way of searching: the vectors of an encoder, BM25, or a run file that another system wrote. Known
positives and passages with a positive's text never enter a view; they are ruled out inside the search, so that a query
with thousands of positives widens no other row. Several views are merged by reciprocal rank, every candidate keeps the
names of the views that found it, and carries the score of the first view, so that one margin judges all. Where a hidden
positive would stand is found by putting it into every view and merging again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tamis import checks, search
from tamis.engine import HERE, Engine
from tamis.lexical import LexicalIndex
from tamis.negatives.merging import Merged, blocks
from tamis.results import SOURCES, Candidates
from tamis.trec import Run

Array = np.ndarray[Any, Any]
MOST = 8  # views, one bit each


@dataclass(frozen=True)
class Pool:
    """Candidates, and what is needed to place any other pair among them.

    Args:
        candidates: the pool.
        pair_scores: scores of given (query rows, passage rows), in the units of the candidates' scores; ``-inf`` where
            the view that scores has none (a run file that does not hold the pair).
        rank_of: rank in the pool that given pairs would have if they had not been ruled out, 0 where they would not
            reach it.
        score: what the scores are: "similarity", "BM25 score" or "score of RUN".
        notes: sentences on what the views could not do.
    """

    candidates: Candidates
    pair_scores: Callable[[Array, Array], Array]
    rank_of: Callable[[Array, Array], Array]
    score: str = "similarity"
    notes: tuple[str, ...] = ()

    def warnings(self, reference: Array) -> list[str]:
        """Sentences on what the views could not do.

        Args:
            reference: (q,) float, per query the score of the positive that its margin is measured from.

        Returns:
            the notes, and how many queries have no such score.
        """
        lacking = int(np.isneginf(reference).sum())
        if lacking == 0:
            return list(self.notes)
        return [
            *self.notes,
            f"The {self.score} is missing for a positive of {lacking:,} of {len(reference):,} queries, and what a run "
            "does not hold lies below all that it holds: a margin leaves these queries no negative. Give an encoder or "
            'BM25 as well, or measure against the "highest" positive.',
        ]


@dataclass(frozen=True)
class View:
    """One way of searching: its candidates, how it scores any pair, and where a pair would stand.

    Args:
        name: of the source.
        indices: (q, k) int64, best first, -1 where a row has ended.
        scores: (q, k) float32.
        pair_scores: scores of given (query rows, passage rows), ``-inf`` where it has none.
        rank_of: rank in this view that given pairs would have, 0 where they would not reach it.
        score: see ``Pool``.
        notes: see ``Pool``.
    """

    name: str
    indices: Array
    scores: Array
    pair_scores: Callable[[Array, Array], Array]
    rank_of: Callable[[Array, Array], Array]
    score: str
    notes: tuple[str, ...] = ()


def kinds(source: str | Sequence[str], runs: int) -> tuple[bool, bool]:
    """Whether vectors and whether BM25 are asked for.

    Args:
        source: "dense", "bm25", "both", or a sequence of "dense" and "bm25"; empty for run files alone.
        runs: how many run files there are.

    Returns:
        dense, bm25.

    Raises:
        ValueError: for an unknown source, or none at all.
    """
    if isinstance(source, str):
        checks.one_of("candidates", source, ("dense", "bm25", "both"))
        return source != "bm25", source != "dense"
    for one in source:
        checks.one_of("candidates", one, SOURCES)
    checks.require(len(source) + runs > 0, "candidates must come from somewhere: name dense, bm25, or a run file.")
    return "dense" in source, "bm25" in source


def named(names: Sequence[str]) -> list[str]:
    """Names of sources made distinct, and free of the plus sign that joins them.

    Example:
        >>> named(["minilm", "minilm", "a+b"])
        ['minilm', 'minilm-2', 'a-b']
    """
    distinct: list[str] = []
    for name in names:
        plain = name.replace("+", "-") or "source"
        tries = (plain if n == 1 else f"{plain}-{n}" for n in range(1, len(names) + 1))
        distinct.append(next(t for t in tries if t not in distinct))
    return distinct


def views(
    depth: int,
    exclude: tuple[Array, Array],
    *,
    vectors: Sequence[tuple[Array, Array]] = (),
    encoders: Sequence[str] = (),
    texts: tuple[Sequence[str], Sequence[str]] | None = None,
    runs: Sequence[Run] = (),
    shape: tuple[int, int],
    max_memory: int = search.DEFAULT_MEMORY,
    engine: Engine = HERE,
) -> list[View]:
    """Every way of searching that is asked for: encoders first, then BM25, then run files.

    Args:
        depth: candidates per query and view.
        exclude: CSR (indptr (q + 1,), columns), passages that are not to be found for a query.
        vectors: per encoder those of queries (q, d) and passages (n, d).
        encoders: their names; a single one is called "dense".
        texts: of queries and passages, where BM25 is asked for.
        runs: see ``tamis.trec.read_run``.
        shape: how many queries and passages there are.
        max_memory: bytes for the blocks of the search.
        engine: searches the vectors, see ``tamis.engine``.

    Returns:
        the views, with distinct names.
    """
    own = ["dense"] if len(vectors) == 1 else [name.rstrip("/").rpartition("/")[2] for name in encoders]
    names = iter(named([*own, *(["bm25"] if texts is not None else []), *(run.name for run in runs)]))
    found = [dense(pair, depth, exclude, name=next(names), max_memory=max_memory, engine=engine) for pair in vectors]
    if texts is not None:
        found.append(bm25(texts, depth, exclude, name=next(names)))
    for number, run in enumerate(runs):
        judge = runs[0] if number > 0 and not vectors and texts is None else None
        found.append(listed(run, *shape, depth, exclude, name=next(names), scored_by=judge))
    return found


def find(views: Sequence[View], depth: int) -> Pool:
    """Find the candidates of every query in one view, or in several merged by reciprocal rank.

    Args:
        views: at least one, with distinct names; the first gives the scores.
        depth: candidates per query.

    Returns:
        the pool; what the first view cannot score is not in it.

    Raises:
        ValueError: for no view, too many, or two of one name.
    """
    checks.require(len(views) > 0, "views must hold at least one way of searching: got none.")
    checks.require(len(views) <= MOST, f"views must be at most {MOST}: got {len(views)} encoders and files.")
    names = [view.name for view in views]
    checks.require(len(set(names)) == len(names), f"views must have distinct names: got {', '.join(names)}.")
    # One name of each kind keeps its bit in every run, so that runs of the plain kind can be put side by side.
    names_of_bits = SOURCES if set(names) <= set(SOURCES) else tuple(names)
    bits = np.array([1 << names_of_bits.index(name) for name in names], np.uint8)
    first, notes = views[0], tuple(note for view in views for note in view.notes)
    if len(views) == 1:
        sources = np.full(first.indices.shape, bits[0])
        found = _ranked(first.indices, first.scores, sources, names_of_bits)
        return Pool(found, first.pair_scores, first.rank_of, first.score, notes)
    merged = Merged.of([view.indices for view in views], [view.rank_of for view in views], depth)
    indices = merged.union[:, :depth]
    rows, columns = np.nonzero(indices >= 0)
    scores = np.full(indices.shape, -np.inf, np.float32)
    scores[rows, columns] = first.pair_scores(rows, indices[rows, columns])
    unscored = int(np.isneginf(scores[rows, columns]).sum())
    checks.require(
        unscored == 0,
        f"the first view must score every candidate: {first.name} has none for {unscored:,}; "
        "give it first to the other views (scored_by).",
    )
    sources = ((merged.ranks[:, :, :depth] > 0) * bits[:, None, None]).sum(0).astype(np.uint8)
    found = _ranked(indices, scores, sources, names_of_bits)
    return Pool(found, first.pair_scores, merged.rank_of, first.score, notes)


def dense(
    vectors: tuple[Array, Array],
    depth: int,
    exclude: tuple[Array, Array],
    *,
    name: str = "dense",
    max_memory: int = search.DEFAULT_MEMORY,
    engine: Engine = HERE,
) -> View:
    """Candidates by inner product.

    Args:
        vectors: of queries (q, d) and passages (n, d).
        depth: candidates per query.
        exclude: CSR (indptr (q + 1,), columns), passages that are not to be found for a query.
        name: of the source.
        max_memory: bytes for the blocks of the search.
        engine: searches, see ``tamis.engine``.

    Returns:
        the view.
    """
    queries, passages = vectors
    scores, indices = engine.top_k(queries, passages, depth, exclude=exclude, max_memory=max_memory)

    def pair_scores(query_rows: Array, passage_rows: Array) -> Array:
        return np.asarray(search.pair_scores(queries, passages, query_rows, passage_rows))

    return _by_score(name, np.asarray(indices), np.asarray(scores), pair_scores, "similarity")


def bm25(
    texts: tuple[Sequence[str], Sequence[str]], depth: int, exclude: tuple[Array, Array], *, name: str = "bm25"
) -> View:
    """Candidates that share words with the query, by BM25.

    Args:
        texts: of queries and passages.
        depth: candidates per query.
        exclude: CSR, as for ``dense``.
        name: of the source.

    Returns:
        the view.
    """
    queries, passages = texts
    index = LexicalIndex(passages)
    scores, indices = index.top_k(queries, depth, exclude=exclude)
    # A passage that shares no word with the query is no candidate: BM25 has nothing to say of it.
    found = (scores > 0) & (indices >= 0)
    scores, indices = np.where(found, scores, -np.inf).astype(np.float32), np.where(found, indices, -1)

    def pair_scores(query_rows: Array, passage_rows: Array) -> Array:
        return np.asarray(index.pair_scores(queries, query_rows, passage_rows))

    return _by_score(name, indices, scores, pair_scores, "BM25 score", floor=0.0)


def listed(
    run: Run,
    queries: int,
    passages: int,
    depth: int,
    exclude: tuple[Array, Array],
    *,
    name: str = "",
    scored_by: Run | None = None,
) -> View:
    """Candidates that a run file lists. It has no score for a pair that it does not hold.

    Args:
        run: see ``tamis.trec.read_run``.
        queries: how many there are.
        passages: how many there are.
        depth: candidates per query.
        exclude: CSR, as for ``dense``; an excluded passage keeps the place that it has in the run.
        name: of the source; left out, that of the run.
        scored_by: the run that the margins judge by, where no encoder and no BM25 can score a pair: lines that it does
            not hold are left out, because no margin could judge them.

    Returns:
        the view.
    """
    name = name or run.name
    query, passage, line_scores, notes = run.query, run.passage, run.scores, []
    if run.foreign:
        notes.append(f"{run.foreign:,} lines of the run {name} are of other queries and were left out.")
    if run.missing:
        notes.append(f"The run {name} holds nothing for {run.missing:,} of {queries:,} queries.")
    if scored_by is not None:
        held = np.isin(query * passages + passage, scored_by.query * passages + scored_by.passage)
        query, passage, line_scores = query[held], passage[held], line_scores[held]
        if not held.all():
            notes.append(
                f"{int((~held).sum()):,} lines of the run {name} have no score in the first run, by which the margins "
                "judge, and were left out; an encoder or BM25 could score them."
            )
    keys = query * passages + passage
    barred = np.isin(keys, np.repeat(np.arange(queries), np.diff(exclude[0])) * passages + exclude[1])
    before: Array = np.cumsum(~barred) - (~barred).astype(
        np.int64
    )  # lines before each, of all queries, that are not ruled out
    ranks: Array = (before - before[np.searchsorted(query, query)] + 1).astype(np.int32)
    indices, scores = np.full((queries, depth), -1, np.int64), np.full((queries, depth), -np.inf, np.float32)
    kept = ~barred & (ranks <= depth)
    indices[query[kept], ranks[kept] - 1] = passage[kept]
    scores[query[kept], ranks[kept] - 1] = line_scores[kept]
    # An entry of no pair stands last, so that a search always ends at an entry.
    order = np.argsort(keys)
    keys = np.append(keys[order], -1)
    ranks, line_scores = np.append(ranks[order], np.int32(0)), np.append(line_scores[order], np.float32(-np.inf))

    def look_up(query_rows: Array, passage_rows: Array) -> tuple[Array, Array]:
        wanted = query_rows * passages + passage_rows
        place = np.searchsorted(keys[:-1], wanted)
        return place, keys[place] == wanted

    def pair_scores(query_rows: Array, passage_rows: Array) -> Array:
        place, there = look_up(query_rows, passage_rows)
        return np.where(there, line_scores[place], np.float32(-np.inf))

    def rank_of(query_rows: Array, passage_rows: Array) -> Array:
        place, there = look_up(query_rows, passage_rows)
        return np.where(there & (ranks[place] <= depth), ranks[place], 0).astype(np.int32)

    return View(name, indices, scores, pair_scores, rank_of, f"score of {name}", tuple(notes))


def _by_score(
    name: str,
    indices: Array,
    scores: Array,
    pair_scores: Callable[[Array, Array], Array],
    what: str,
    floor: float = -np.inf,
) -> View:
    """A view that can score, and so place, any pair; equal scores fall to the lower row."""

    def rank_of(queries: Array, passages: Array) -> Array:
        score = pair_scores(queries, passages)
        ranks = np.zeros(len(queries), np.int32)
        for part in blocks(len(queries), indices.shape[1]):
            own, row, columns = score[part, None], scores[queries[part]], indices[queries[part]]
            ahead = (row > own) | ((row == own) & (columns < passages[part, None]) & (columns >= 0))
            ranks[part] = 1 + ahead.sum(1)
        return np.where((ranks <= indices.shape[1]) & (score > floor), ranks, 0).astype(np.int32)

    return View(name, indices, scores, pair_scores, rank_of, what)


def _ranked(indices: Array, scores: Array, sources: Array, names: tuple[str, ...]) -> Candidates:
    ranks = np.where(indices >= 0, np.arange(1, indices.shape[1] + 1, dtype=np.int32)[None], 0).astype(np.int32)
    return Candidates(indices, scores, ranks, np.where(indices >= 0, sources, 0).astype(np.uint8), names)
