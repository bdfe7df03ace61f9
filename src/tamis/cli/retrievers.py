"""The retrievers that a command line names: BM25, encoders, and run files, asked alike on a corpus or a part of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tamis import checks, encoders, search
from tamis.cli.screen import progress, quiet_libraries
from tamis.lexical import LexicalIndex
from tamis.trec import Run, read_run, run_name

if TYPE_CHECKING:
    from tamis.data import RetrievalData

Array = np.ndarray[Any, Any]
# Query rows, document rows (None for all) and ranks give scores and corpus rows (q, ranks), -1 where a ranking ended.
Rank = Callable[[Array, Array | None, int], tuple[Array, Array]]


@dataclass(frozen=True)
class System:
    """A retriever.

    Args:
        name: what reports call it.
        kind: "bm25", "encoder" or "run".
        rank: ranks documents for queries.
    """

    name: str
    kind: str
    rank: Rank


def retrievers(
    task: RetrievalData, names: Sequence[str] | None, files: Sequence[Path] | None, *, bm25: bool
) -> list[System]:
    """BM25, runs and encoders, in this order.

    Args:
        task: queries and corpus.
        names: names or folders of encoders; None, and without files, takes the MiniLM of [minilm].
        files: TREC run files.
        bm25: whether BM25 is one of them.

    Returns:
        the retrievers.

    Raises:
        ValueError: when two would have one name, for reports go by names.
    """
    files = files or ()
    models: Sequence[str | None] = names or ([] if files else [None])
    called = ["bm25"] * bm25 + [run_name(path) for path in files]
    called += ["minilm" if model is None else Path(model).name for model in models]
    twice = next((name for name in called if called.count(name) > 1), None)
    checks.require(
        twice is None, f"retrievers must have distinct names: {twice!r} stands twice; rename a file or folder."
    )
    quiet_libraries()
    loaded = [encoders.resolve(model) for model in models]
    found = [_bm25(task)] if bm25 else []
    found += [_run(read_run(path, task.queries.ids, task.corpus.ids), task) for path in files]
    return found + [_encoder(model, name, task) for model, name in zip(loaded, called[len(found) :], strict=True)]


def _bm25(task: RetrievalData) -> System:
    texts, asked = task.corpus.texts, task.queries.texts
    whole = LexicalIndex(texts)

    def rank(queries: Array, documents: Array | None, k: int) -> tuple[Array, Array]:
        # Words are weighed by the corpus at hand: on the small one BM25 is the BM25 of the small one.
        index = whole if documents is None else LexicalIndex([texts[i] for i in documents.tolist()])
        scores, found = index.top_k([asked[i] for i in queries.tolist()], k)
        return scores, found if documents is None else np.where(found >= 0, documents[found], -1)

    return System("bm25", "bm25", rank)


def _encoder(encoder: encoders.Encoder, name: str, task: RetrievalData) -> System:
    own = encoders.prompts_of(encoder)
    sides = (("query", "queries", task.queries.texts), ("passage", "passages", task.corpus.texts))
    asked, held = (
        encoders.unit_rows(
            encoders.encode(encoder, texts, prompt=own[side], stem=f"{stem} ({name})", progress=progress), f"the {stem}"
        )
        for side, stem, texts in sides
    )

    def rank(queries: Array, documents: Array | None, k: int) -> tuple[Array, Array]:
        there = held if documents is None else held[documents]
        scores, found = search.top_k(asked[queries], there, min(k, len(there)))
        return scores, found if documents is None else np.asarray(documents[found])

    return System(name, "encoder", rank)


def _run(run: Run, task: RetrievalData) -> System:
    q = len(task.queries)
    place = np.arange(len(run.query)) - np.searchsorted(run.query, run.query)
    scores, found = np.full((q, place.max() + 1), -np.inf, np.float32), np.full((q, place.max() + 1), -1)
    scores[run.query, place], found[run.query, place] = run.scores, run.passage

    def rank(queries: Array, documents: Array | None, k: int) -> tuple[Array, Array]:
        one, other = scores[queries], found[queries]
        if documents is not None:
            there = np.zeros(len(task.corpus) + 1, dtype=bool)  # the last is for -1
            there[documents] = True
            gone = ~there[other]
            order = np.argsort(gone, axis=1, kind="stable")
            one = np.take_along_axis(np.where(gone, np.float32(-np.inf), one), order, 1)
            other = np.take_along_axis(np.where(gone, -1, other), order, 1)
        return one[:, :k], other[:, :k]

    return System(run.name, "run", rank)
