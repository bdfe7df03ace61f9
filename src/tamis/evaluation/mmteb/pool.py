"""Which documents of a corpus stay: the judged ones and those that several systems rank high, and whom that favours.

Documents that no system ranks high hardly take a place among the first ten of any, so leaving them out changes little.
A system that took no part in the pool is the exception: its own hard negatives are gone, and it scores too high. How
much too high is measured by leaving each pooled system out in turn.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from tamis import checks, ranking
from tamis.judgements import grades_of
from tamis.randomness import Seed, as_generator

Array = np.ndarray[Any, Any]
Ranking = Mapping[Any, Sequence[Hashable]]
Judgements = Mapping[Any, Any]


@dataclass(frozen=True)
class Pool:
    """The documents of a smaller retrieval task, and why each is there.

    Args:
        queries: ids that are kept, in the order of the judgements.
        documents: d ids, the relevant ones first, then those of each system in turn.
        systems: s names.
        relevant: (d,) bool, judged relevant to a kept query.
        contributed: (d, s) bool, whether the system ranks it within the depth for a kept query.
        best_rank: (d,) int64, the best rank from 1 in any system within the depth, 0 where it is only judged.

    Example:
        >>> runs = {"bm25": {"q": ["a", "b"]}, "minilm": {"q": ["b", "a"]}}
        >>> pool_corpus(runs, {"q": {"c": 1}}, depth=1).without("bm25")
        ['c', 'b']
    """

    queries: list[Hashable]
    documents: list[Hashable]
    systems: list[str]
    relevant: Array
    contributed: Array
    best_rank: Array

    def without(self, system: str) -> list[Hashable]:
        """The documents that were here too if a system had taken no part.

        Args:
            system: its name.

        Returns:
            ids, in the order of ``documents``.

        Raises:
            ValueError: when the system is not one of the pool's.
        """
        checks.one_of("system", system, self.systems)
        others = [place for place, name in enumerate(self.systems) if name != system]
        stays = self.relevant | self.contributed[:, others].any(1)
        return [name for name, there in zip(self.documents, stays, strict=True) if there]


@dataclass(frozen=True)
class PoolBias:
    """What a pool does to the score of a system that took no part in it.

    Args:
        systems: s names, those of the pool.
        inside: (s,) float64, mean nDCG@k on the pool.
        outside: (s,) on the pool without the system's own documents.
        bias: (s,) outside less inside: by so much the pool flatters a system like this one.
        short: (s,) int64, queries of which fewer than k documents are left when the system is out: its run is not deep
            enough, and ``outside`` is a lower bound.
    """

    systems: list[str]
    inside: Array
    outside: Array
    bias: Array
    short: Array


def pool_corpus(
    runs: Mapping[str, Ranking],
    qrels: Judgements,
    *,
    depth: int = 250,
    max_queries: int | None = 1000,
    seed: Seed = 0,
) -> Pool:
    """Keep the documents that any system ranks within the depth for any query, and all judged relevant ones.

    The hard-negative pool of arXiv:2502.13595, section 2.3. When not to use: to judge systems unlike all pooled ones;
    they are flattered, see ``pool_bias``.

    Args:
        runs: system -> query -> documents, best first.
        qrels: query -> {document: grade} or relevant documents; queries without a grade above 0 do not count.
        depth: ranks of each system that are pooled.
        max_queries: more are drawn down to so many; None for all.
        seed: of that draw.

    Returns:
        kept queries and documents, and where each came from.

    Raises:
        ValueError: for no runs, no query with a relevant document, a document ranked twice for one query, or a run of
            other queries.

    Example:
        >>> pool = pool_corpus({"bm25": {"q": ["a", "b", "c"]}}, {"q": {"c": 1}}, depth=1)
        >>> pool.documents, pool.best_rank.tolist()
        (['c', 'a'], [0, 1])
    """
    checks.require(len(runs) > 0, "runs must hold at least one system: got none.")
    checks.at_least("depth", depth, 1)
    relevant = _relevant(qrels)
    queries = list(relevant)
    if max_queries is not None:
        checks.at_least("max_queries", max_queries, 1)
        if len(queries) > max_queries:
            drawn = as_generator(seed).choice(len(queries), max_queries, replace=False)
            queries = [queries[i] for i in np.sort(drawn)]
    row: dict[Hashable, int] = {}
    for query in queries:
        for document in relevant[query]:
            row.setdefault(document, len(row))
    judged = len(row)
    ranked = {name: _ranked(name, run, queries, row, depth) for name, run in runs.items()}
    contributed = np.zeros((len(row), len(runs)), dtype=bool)
    best = np.full(len(row), depth + 1)
    for place, table in enumerate(ranked.values()):
        _, ranks = np.nonzero(table >= 0)
        documents = table[table >= 0]
        contributed[documents, place] = True
        np.minimum.at(best, documents, ranks + 1)
    best[best > depth] = 0
    return Pool(queries, list(row), list(runs), np.arange(len(row)) < judged, contributed, best)


def pool_ndcg(
    runs: Mapping[str, Ranking], qrels: Judgements, documents: Collection[Hashable] | None = None, *, k: int = 10
) -> dict[str, Array]:
    """nDCG@k of every system when only some documents are there.

    Other documents are taken out of each ranking and the next ones move up (arXiv:2502.13595 scores its reduced corpora
    by nDCG@10). Only as true as the runs are deep.

    Args:
        runs: system -> query -> documents, best first.
        qrels: query -> {document: grade} or relevant documents; each query with a relevant one counts.
        documents: that are there; None for all.
        k: cutoff.

    Returns:
        system -> (q,) float64, in the order of the queries of ``qrels``.

    Raises:
        ValueError: as ``pool_corpus``.

    Example:
        >>> runs = {"bm25": {"q": ["a", "b", "c"]}}
        >>> pool_ndcg(runs, {"q": ["c"]})["bm25"].tolist(), pool_ndcg(runs, {"q": ["c"]}, ["c"])["bm25"].tolist()
        ([0.5], [1.0])
    """
    checks.require(len(runs) > 0, "runs must hold at least one system: got none.")
    checks.at_least("k", k, 1)
    relevant = _relevant(qrels)
    judge = _Judge(runs, relevant, list(relevant))
    return {name: judge.ndcg(name, documents, k)[0] for name in runs}


def pool_bias(runs: Mapping[str, Ranking], qrels: Judgements, pool: Pool, *, k: int = 10) -> PoolBias:
    """How much the pool flatters a system that took no part in it, by leaving each pooled one out.

    Not in arXiv:2502.13595; the leave-out test of pooled collections (Zobel 1998).

    Args:
        runs: as for ``pool_corpus``, at least the systems of the pool; deeper than the pool's depth where possible.
        qrels: likewise.
        pool: the pool.
        k: cutoff.

    Returns:
        scores with and without the system's own documents.

    Raises:
        ValueError: when a system or query of the pool is missing.

    Example:
        >>> runs = {"one": {"q": ["a", "b", "c"]}, "two": {"q": ["c", "b", "a"]}}
        >>> pool = pool_corpus(runs, {"q": ["c"]}, depth=1)
        >>> pool_bias(runs, {"q": ["c"]}, pool).bias.round(4).tolist()
        [0.3691, 0.0]
    """
    missing = next((name for name in pool.systems if name not in runs), None)
    checks.require(missing is None, f"runs must hold the systems of the pool: {missing!r} is missing.")
    relevant = _relevant(qrels)
    unjudged = next((query for query in pool.queries if query not in relevant), None)
    checks.require(unjudged is None, f"qrels must judge the queries of the pool: {unjudged!r} is missing.")
    judge = _Judge({name: runs[name] for name in pool.systems}, relevant, pool.queries)
    inside, outside, short = [], [], []
    for name in pool.systems:
        inside.append(judge.ndcg(name, pool.documents, k)[0].mean())
        left = pool.without(name)
        scores, lengths = judge.ndcg(name, left, k)
        outside.append(scores.mean())
        short.append(int((lengths < min(k, len(left))).sum()))
    gain = np.array(outside) - np.array(inside)
    return PoolBias(list(pool.systems), np.array(inside), np.array(outside), gain, np.array(short, np.int64))


class _Judge:
    """Runs and judgements as arrays over one numbering of the documents."""

    def __init__(self, runs: Mapping[str, Ranking], relevant: dict[Any, dict[Any, float]], queries: list[Any]) -> None:
        self._row: dict[Hashable, int] = {}
        self._runs = {name: _ranked(name, run, queries, self._row, None) for name, run in runs.items()}
        judged = [relevant[query] for query in queries]
        columns = [self._row.setdefault(document, len(self._row)) for entry in judged for document in entry]
        grades = np.array([grade for entry in judged for grade in entry.values()])
        self._qrels = (np.cumsum([0, *map(len, judged)]), np.array(columns), grades)

    def ndcg(self, name: str, documents: Collection[Hashable] | None, k: int) -> tuple[Array, Array]:
        """nDCG@k (q,) over the documents that are there, and how many of them each ranking holds."""
        table = self._runs[name]
        there = table >= 0
        if documents is not None:
            known = np.zeros(len(self._row) + 1, dtype=bool)
            known[[self._row[document] for document in documents if document in self._row]] = True
            there &= known[table]
        order = np.argsort(~there, axis=1, kind="stable")[:, :k]
        first = np.where(np.take_along_axis(there, order, 1), np.take_along_axis(table, order, 1), -1)
        gains = ranking.gains_from(first, self._qrels)
        return ranking.ndcg(gains, ranking.ideal_from(self._qrels, k), k), there.sum(1)


def _relevant(qrels: Judgements) -> dict[Any, dict[Any, float]]:
    """Query -> relevant document -> grade, of the queries that have one."""
    checks.require(isinstance(qrels, Mapping), "qrels must map queries to their documents: got something else.")
    empty: list[Any] = []
    found = {}
    for query, entry in qrels.items():
        nothing = not any(g > 0 for g in entry.values()) if isinstance(entry, Mapping) else not entry
        if nothing:
            empty.append(query)
        else:
            found[query] = grades_of(entry, str(query))
    checks.require(bool(found), f"qrels must hold a query with a relevant document: none of {len(empty)} has one.")
    return found


def _ranked(name: str, run: Ranking, queries: Iterable[Any], row: dict[Hashable, int], depth: int | None) -> Array:
    """Numbers of the ranked documents (q, w), -1 where a ranking has ended; new documents get the next numbers."""
    listed = [list(run.get(query, ()))[:depth] for query in queries]
    lengths = np.array([len(documents) for documents in listed], np.int64)
    checks.require(bool(lengths.any()), f"runs must rank documents of the queries: {name!r} names none of them.")
    for document in chain.from_iterable(listed):
        row.setdefault(document, len(row))
    table = np.full((len(listed), int(lengths.max())), -1, np.int64)
    table[np.arange(table.shape[1]) < lengths[:, None]] = [row[d] for d in chain.from_iterable(listed)]
    ordered = np.sort(table, axis=1)
    for query in np.flatnonzero(((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any(1))[:1]:
        raise ValueError(f"runs must rank a document once: {name!r} ranks one twice for query number {query}.")
    return table
