"""Approximate search: inner products in the nearest of many lists only, with its recall measured.

Passages are divided into lists by k-means, a query looks into the lists with the closest centres (``probes``), and
passages in other lists are missed. How many are missed is never guessed: a sample of the queries is searched exactly as
well, and the share of the exact results that was found is returned with its interval. The scores that are returned are
exact inner products, computed again for every pair found. Needs FAISS (IVF, flat); the vectors are copied into its
index, so this search takes more memory than the exact one, also for vectors in files.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tamis import checks, mapped, search
from tamis.engine import HERE, Engine
from tamis.intervals import wilson
from tamis.randomness import as_generator, child_seed

Array = np.ndarray[Any, Any]
INDEXES = ("exact", "ivf")
LEAST = 1000
"""Passages below which lists make no sense: an exact search takes milliseconds."""

_SAMPLE = 200  # queries that are searched exactly as well
_TRAINING = 40  # passages per list that the centres are learned from; FAISS asks for 39
_BLOCK = 4096  # queries at once


@dataclass(frozen=True, eq=False)
class Recall:
    """How much of an exact search an approximate one found, on a sample of the queries.

    Args:
        lists: that the passages were divided into.
        probes: lists that a query looked into.
        found: (m,) int, per query of the sample how many of its exact results were found, or a tie of the last.
        of: (m,) int, per query how many exact results there are.
    """

    lists: int
    probes: int
    found: Array
    of: Array

    @property
    def rate(self) -> float:
        """The share that was found, 1 where there was nothing to find."""
        return float(self.found.sum() / self.of.sum()) if self.of.any() else 1.0

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the share, see ``clustered_interval``."""
        return clustered_interval(self.found, self.of)

    def as_dict(self) -> dict[str, Any]:
        """The numbers as they are stored."""
        return {
            "lists": self.lists, "probes": self.probes, "queries": len(self.of), "count": int(self.found.sum()),
            "n": int(self.of.sum()), "rate": self.rate, "interval": list(self.interval),
        }  # fmt: skip


def top_k(
    queries: Array,
    passages: Array,
    k: int,
    *,
    exclude: tuple[Array, Array] | None = None,
    probes: int | None = None,
    seed: int = 0,
    sample: int = _SAMPLE,
    max_memory: int = search.DEFAULT_MEMORY,
) -> tuple[Array, Array, Recall]:
    """About the k passages with the highest inner product for every query, and how many of them were found.

    Not for small corpora, where ``search.top_k`` is fast and misses nothing.

    Args:
        queries: (q, d) float32 or float16.
        passages: (n, d) likewise, at least ``LEAST`` rows; a memory-mapped array is read piece by piece.
        k: passages per query; a row that runs out of passages in its lists ends in index -1 and score -inf.
        exclude: CSR (indptr (q + 1,), columns): passages that are never returned for a query.
        probes: lists to look into per query; None for ``default_probes``.
        seed: of the centres and the sample.
        sample: queries that are searched exactly as well, at least 1.
        max_memory: bytes for the blocks of the exact search of the sample.

    Returns:
        scores (q, k) float32, exact, indices (q, k) int64, ties to the lower index, and the recall.

    Raises:
        ValueError: for too few passages, probes < 1, or what ``search.top_k`` refuses.
        TypeError: for other types.
        ImportError: when faiss is not installed.

    Example:
        >>> points = np.random.default_rng(0).standard_normal((1000, 4)).astype(np.float32)
        >>> scores, indices, recall = top_k(points[:5], points, 3, probes=25)
        >>> recall.rate, recall.lists
        (1.0, 25)
    """
    for name, value in (("queries", queries), ("passages", passages)):
        if not isinstance(value, np.ndarray):
            raise TypeError(f"{name} must be an array: got {type(value).__name__}.")
        checks.matrix(name, value)
    checks.at_least("k", k, 1)
    checks.at_least("sample", sample, 1)
    _feasible(len(passages), probes)
    faiss = checks.package("faiss")
    checks.finite("queries", queries)
    lists = lists_of(len(passages))
    probes = min(lists, default_probes(len(passages), k) if probes is None else probes)
    if exclude is None:
        exclude = (np.zeros(len(queries) + 1, np.int64), np.empty(0, np.int64))
    drawn = np.sort(as_generator(child_seed(seed, "recall")).permutation(len(queries))[:sample])
    # The exact search comes first: it refuses what no search can take.
    exact, _ = search.top_k(queries[drawn], passages, k, exclude=_rows_of(exclude, drawn), max_memory=max_memory)
    index = _index(faiss, passages, lists, child_seed(seed, "lists"))
    index.nprobe = probes
    scores = np.full((len(queries), k), -np.inf, np.float32)
    indices = np.full((len(queries), k), -1, np.int64)
    for rows, width in _alike(np.diff(exclude[0])):
        for start in range(0, len(rows), _BLOCK):
            part = rows[start : start + _BLOCK]
            block = np.ascontiguousarray(queries[part], np.float32)
            found = np.sort(index.search(block, min(k + width, len(passages)))[1], 1)
            own, columns = np.nonzero(found >= 0)
            passage = found[own, columns]
            open_to = ~_is_excluded(own, passage, _rows_of(exclude, part), len(passages))
            own, passage = own[open_to], passage[open_to]
            exactly = search.pair_scores(block.astype(queries.dtype), passages, own, passage)
            order = np.lexsort((passage, -exactly, own))
            own, passage, exactly = own[order], passage[order], exactly[order]
            place = np.arange(len(own)) - np.searchsorted(own, own)
            kept = place < k
            scores[part[own[kept]], place[kept]] = exactly[kept]
            indices[part[own[kept]], place[kept]] = passage[kept]
    return scores, indices, _recall(exact, scores[drawn], lists, probes)


class ApproximateSearch:
    """An engine, see ``tamis.engine``, that searches approximately on this machine and keeps the recall.

    Args:
        probes: see ``top_k``.
        seed: see ``top_k``.

    Attributes:
        recalls: of the searches so far.

    Example:
        >>> ApproximateSearch(probes=8).recalls
        []
    """

    def __init__(self, *, probes: int | None = None, seed: int = 0) -> None:
        self.probes, self.seed = probes, seed
        self.recalls: list[Recall] = []

    def encode(self, encoder: Any, batches: Iterable[list[str]], /) -> Iterable[Any]:
        """See ``tamis.engine.Engine``."""
        return map(encoder.encode, batches)

    def top_k(
        self, queries: Array, passages: Array, k: int, *, exclude: tuple[Array, Array], max_memory: int
    ) -> tuple[Array, Array]:
        """See ``tamis.engine.Engine``; not what ``search.top_k`` returns, but most of it."""
        scores, indices, recall = top_k(
            queries, passages, k, exclude=exclude, probes=self.probes, seed=self.seed, max_memory=max_memory
        )
        self.recalls.append(recall)
        return scores, indices

    def report(self) -> dict[str, Any]:
        """The recall of each search so far, and of all together with a sentence, as it is stored in a summary."""
        checks.require(len(self.recalls) > 0, "report must come after a search: there was none.")
        found, of = (np.concatenate([getattr(r, side) for r in self.recalls]) for side in ("found", "of"))
        largest = max(self.recalls, key=lambda recall: recall.lists)
        together = Recall(largest.lists, largest.probes, found, of)
        low, high = together.interval
        many = "" if len(self.recalls) == 1 else f", the largest of {len(self.recalls)} searches"
        says = (
            f"approximate search ({together.probes:,} of {together.lists:,} lists{many}): recall {together.rate:.1%} "
            f"({low:.1%} to {high:.1%}) against the exact search, on {len(of):,} queries; a planted positive counts as "
            "found"
        )
        return {"kind": "ivf", **together.as_dict(), "says": says, "searches": [r.as_dict() for r in self.recalls]}


def check(index: str, probes: int | None, *, ray: bool, passages: int, vectors: bool) -> None:
    """Refuse, before any work, a search that cannot be had.

    Args:
        index: "exact" or "ivf".
        probes: lists to look into per query, None left out.
        ray: that a cluster is to search.
        passages: how many.
        vectors: that vectors are searched at all.

    Raises:
        ValueError: for an unknown index, probes of an exact search or < 1, a cluster, no vectors, or few passages.
        ImportError: when faiss is not installed.
    """
    checks.one_of("index", index, INDEXES)
    if index == "exact":
        checks.require(probes is None, f"probes are for an approximate search: got {probes} and index exact; use ivf.")
        return
    checks.require(not ray, "index ivf searches on this machine: it cannot go with engine ray; use index exact.")
    checks.require(vectors, "index ivf searches vectors: candidates must come from an encoder (dense or both).")
    _feasible(passages, probes)


def searcher(
    index: str, probes: int | None, engine: Engine, *, seed: int, passages: int, vectors: bool
) -> ApproximateSearch | None:
    """What searches instead of an engine, after ``check``.

    Args:
        index: "exact" or "ivf".
        probes: lists to look into per query, None left out.
        engine: that encodes, and would search.
        seed: of the centres and the sample.
        passages: how many.
        vectors: that vectors are searched at all.

    Returns:
        the approximate search; None for the engine's own.

    Example:
        >>> searcher("exact", None, HERE, seed=0, passages=10, vectors=True) is None
        True
    """
    check(index, probes, ray=engine is not HERE, passages=passages, vectors=vectors)
    return ApproximateSearch(probes=probes, seed=seed) if index == "ivf" else None


def lists_of(passages: int) -> int:
    """Lists for a corpus: four times the square root of its size, if that leaves 40 passages for each.

    Example:
        >>> lists_of(1000), lists_of(1_000_000)
        (25, 4000)
    """
    return max(1, min(round(4 * math.sqrt(passages)), passages // _TRAINING))


def default_probes(passages: int, k: int) -> int:
    """Lists to look into: one in thirty-two, at least eight, and enough to hold four times k passages.

    Args:
        passages: how many.
        k: passages per query.

    Returns:
        at most as many as there are.

    Example:
        >>> default_probes(1_000_000, 200), default_probes(2000, 200)
        (125, 20)
    """
    lists = lists_of(passages)
    return min(lists, max(8, lists // 32, -(-4 * k * lists // passages)))


def clustered_interval(found: Array, of: Array) -> tuple[float, float]:
    """Wilson's interval of a share of results that come in rows, one per query.

    Results of one query are missed together. They count as so many independent results as give the spread that is seen
    between queries, at least one and at most all of a query's.

    Args:
        found: (m,) int, per query.
        of: (m,) int, per query.

    Returns:
        the 95 % interval.

    Example:
        >>> low, high = clustered_interval(np.full(100, 10), np.full(100, 10))
        >>> round(low, 3), high
        (0.963, 1.0)
    """
    total, rows = int(of.sum()), int((of > 0).sum())
    if total == 0:
        return wilson(0, 0)
    rate = float(found.sum()) / total
    spread = float(((found - rate * of) ** 2).sum()) / total**2  # variance of a ratio of sums
    independent = rows if spread == 0 else round(min(total, max(rows, rate * (1 - rate) / spread)))
    # A share of whole results, rounded so that one miss stays a miss.
    return wilson(min(math.floor(rate * independent), independent), independent)


def _feasible(passages: int, probes: int | None) -> None:
    """Refuse what cannot be divided into lists."""
    checks.require(
        passages >= LEAST,
        f"index ivf must have at least {LEAST:,} passages to search: got {passages:,}; use index exact.",
    )
    if probes is not None:
        checks.at_least("probes", probes, 1)
    checks.package("faiss")


def _index(faiss: Any, passages: Array, lists: int, seed: int) -> Any:
    """A filled IVF index; vectors in files are read piece by piece."""
    d = passages.shape[1]
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(d), d, lists, faiss.METRIC_INNER_PRODUCT)
    index.cp.seed = seed % 2**31
    rows = as_generator(seed).permutation(len(passages))[: _TRAINING * lists]
    index.train(np.ascontiguousarray(passages[np.sort(rows)], np.float32))
    for piece in mapped.pieces(passages):
        index.add(np.ascontiguousarray(passages[piece], np.float32))
        mapped.release(passages, piece.start, piece.stop)
    return index


def _alike(counts: Array) -> list[tuple[Array, int]]:
    """Rows in groups of about as many exclusions, and that number: a row with many widens few others."""
    widths = np.where(counts > 0, 2 ** np.ceil(np.log2(np.maximum(counts, 1))).astype(np.int64), 0)
    return [(np.flatnonzero(widths == width), int(width)) for width in np.unique(widths)]


def _rows_of(csr: tuple[Array, Array], rows: Array) -> tuple[Array, Array]:
    """Some rows of a CSR."""
    indptr, columns = (np.asarray(part, np.int64) for part in csr)
    counts = np.diff(indptr)[rows]
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    places = np.arange(starts[-1]) + np.repeat(indptr[rows] - starts[:-1], counts)
    return starts, columns[places]


def _is_excluded(rows: Array, columns: Array, csr: tuple[Array, Array], passages: int) -> Array:
    """Which pairs a CSR holds."""
    barred = np.repeat(np.arange(len(csr[0]) - 1), np.diff(csr[0])) * passages + csr[1]
    return np.isin(rows * passages + columns, barred)


def _recall(exact: Array, scores: Array, lists: int, probes: int) -> Recall:
    """Of every row's exact results those found; a tie with the last of them counts as it."""
    there = np.isfinite(exact)
    last = np.min(exact, axis=1, where=there, initial=np.inf)
    of = there.sum(1)
    return Recall(lists, probes, np.minimum((scores >= last[:, None]).sum(1), of), of)
