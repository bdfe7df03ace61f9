"""Engines: where the two heavy parts of a mining run happen, encoding and searching.

Everything else (filters, margins, audit) needs ids and scores only and stays in one place. An engine must give what
this machine gives, row for row, so a result never depends on it. ``HERE`` is this machine;
``tamis.integrations.ray.RayEngine`` is a cluster.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np

from tamis import search

Array = np.ndarray[Any, Any]


class Engine(Protocol):
    """Encodes batches of texts, and searches vectors."""

    def encode(self, encoder: Any, batches: Iterable[list[str]], /) -> Iterable[Any]:
        """Vectors (n, d) of each batch of n texts, in the order of the batches, which must not be divided.

        Args:
            encoder: object with ``encode(texts)``.
            batches: lists of texts, taken as they are needed.

        Returns:
            one matrix per batch.
        """
        ...

    def top_k(
        self, queries: Array, passages: Array, k: int, *, exclude: tuple[Array, Array], max_memory: int
    ) -> tuple[Array, Array]:
        """What ``tamis.search.top_k`` returns.

        Args:
            queries: (q, d) float.
            passages: (n, d) float.
            k: passages per query.
            exclude: CSR (indptr (q + 1,), columns), passages that are not to be found for a query.
            max_memory: bytes for the blocks of each search.

        Returns:
            scores (q, k) float32 and indices (q, k) int64.
        """
        ...


class ThisMachine:
    """The engine that needs nothing: one batch after the other, one search."""

    def encode(self, encoder: Any, batches: Iterable[list[str]], /) -> Iterable[Any]:
        """See ``Engine``."""
        return map(encoder.encode, batches)

    def top_k(
        self, queries: Array, passages: Array, k: int, *, exclude: tuple[Array, Array], max_memory: int
    ) -> tuple[Array, Array]:
        """See ``Engine``."""
        return search.top_k(queries, passages, k, exclude=exclude, max_memory=max_memory)


HERE = ThisMachine()
