"""Vectors: queries and passages under every encoder of a run, checked, and kept where a folder is given."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tamis import checks, encoders, mapped
from tamis.data import RetrievalData
from tamis.engine import HERE, Engine

Array = np.ndarray[Any, Any]
Model = encoders.Encoder | str | Path | None
Progress = Callable[[Iterable[int], str], Iterable[int]]


@dataclass(frozen=True)
class Embedder:
    """How the texts of a data set become vectors.

    Args:
        data: the texts.
        query_prompt: put before every query; None takes the encoder's own.
        passage_prompt: put before every passage; likewise.
        similarity: "cosine" makes rows of length one, "dot" leaves them.
        folder: keeps vectors, None for nowhere.
        progress: wraps the encoding loop.
        engine: encodes, see ``tamis.engine``.
    """

    data: RetrievalData
    query_prompt: str | None
    passage_prompt: str | None
    similarity: str
    folder: Path | None
    progress: Progress | None
    engine: Engine = HERE

    def both(self, model: Any, given: tuple[Any, Any], name: str) -> tuple[Array, Array]:
        """Vectors of queries (q, d) and passages (n, d) under one model, or those given instead."""
        sides = []
        own = {"query": "", "passage": ""} if model is None else encoders.prompts_of(model)
        prompts = (
            own["query"] if self.query_prompt is None else self.query_prompt,
            own["passage"] if self.passage_prompt is None else self.passage_prompt,
        )
        where = self.folder / name if self.folder is not None else None
        tables = ((self.data.queries.texts, "queries"), (self.data.corpus.texts, "corpus"))
        for (texts, stem), vectors, prompt in zip(tables, given, prompts, strict=True):
            if vectors is None:
                vectors = encoders.encode(
                    model,
                    texts,
                    prompt=prompt,
                    folder=where,
                    stem=stem,
                    progress=self.progress,
                    run=self.engine.encode,
                )
            called = f"the embeddings of the {stem}"
            matrix = encoders.as_matrix(vectors, called)
            checks.same_length(f"embeddings of the {stem}", matrix, f"the {stem}", texts)
            if self.similarity == "dot":
                for rows in mapped.pieces(matrix):
                    if not np.isfinite(matrix[rows]).all():
                        checks.finite(called, matrix)
            sides.append(matrix if self.similarity == "dot" else encoders.unit_rows(matrix, called))
        checks.matrix("the embeddings of the corpus", sides[1], columns=sides[0].shape[1])
        return sides[0], sides[1]

    def under_each(
        self, encoder: Model | Sequence[Model], given: tuple[Any, Any]
    ) -> tuple[list[tuple[Array, Array]], list[str]]:
        """Vectors under one encoder or several, and their names; given vectors stand for the first."""
        models: list[Any] = list(encoder) if isinstance(encoder, (list, tuple)) else [encoder]
        vectors: list[tuple[Array, Array]] = []
        names: list[str] = []
        for number, one in enumerate(models, 1):
            known = given if number == 1 else (None, None)
            model = None if all(v is not None for v in known) else encoders.resolve(one)
            names.append("given embeddings" if model is None else encoders.name_of(model))
            vectors.append(self.both(model, known, "embeddings" if number == 1 else f"embeddings-{number}"))
        return vectors, names
