"""Result types that carry evidence: plain dataclasses of arrays.

``Candidates`` come from search, ``MinedNegatives`` from mining, ``Selection`` from subset selection. Rows are integers
inside; the names (ids and texts) stand once, beside the arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

SOURCES = ("dense", "bm25")
"""Where a candidate came from, as bits: a candidate found by both has the source 3."""


def source_name(bits: int) -> str:
    """The names behind source bits.

    Example:
        >>> source_name(3)
        'dense+bm25'
    """
    return "+".join(name for i, name in enumerate(SOURCES) if bits >> i & 1)


@dataclass(frozen=True)
class Candidates:
    """The passages found for each query, best first; a short row ends in ``-1``.

    Args:
        indices: (q, k) int64, row of the corpus, ``-1`` where nothing is.
        scores: (q, k) float32, the similarity that the margins judge; ``-inf`` where nothing is.
        ranks: (q, k) int32, rank in the corpus, 1 for the best, 0 where nothing is. Known positives are not counted.
        sources: (q, k) uint8, bits of ``SOURCES``.
    """

    indices: Array
    scores: Array
    ranks: Array
    sources: Array

    @property
    def present(self) -> Array:
        """(q, k) bool, where a candidate is."""
        return self.indices >= 0


@dataclass(frozen=True)
class Selection:
    """A part of the data, with the reason for every row that was left out.

    Args:
        indices: (m,) int64, rows kept, in order of choice.
        scores: (n,) float, what the method thought of every row.
        log_weights: (n,) float, 0 keeps a row, ``-inf`` drops it, between counts it less.
        reasons: for dropped rows: rule, rival row and score, as a dict of arrays of one length.
    """

    indices: Array
    scores: Array
    log_weights: Array
    reasons: dict[str, Array] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """Names beside rows: ids and texts of queries or passages."""

    ids: Sequence[str]
    texts: Sequence[str]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class MinedNegatives:
    """Negatives with their evidence, and the candidates that were dropped with the rule that dropped them.

    Args:
        queries: ids and texts of the queries.
        corpus: ids and texts of the passages.
        positives: per query the rows of its known positives.
        negatives: columns of one length m: query (int64 row), negative (int64 row), rank (int32), score (float32),
            positive_score (float32, the positive the margin was measured from), source (uint8 bits), weight (float32).
        dropped: columns of one length: query, candidate, rank, score, source, rule (str), rival (int64 row of the
            corpus that it was compared with, -1 for none), rival_score (float32).
        reference_scores: (q,) float32, per query the score of the positive that the margin was measured from.
        summary: settings, counts, audit, seconds: everything that is not a column.
    """

    queries: Table
    corpus: Table
    positives: Sequence[Array]
    negatives: dict[str, Array]
    dropped: dict[str, Array]
    reference_scores: Array
    summary: dict[str, Any]

    def __len__(self) -> int:
        return len(self.negatives["query"])

    def to_dataset(self, form: str = "triplet") -> Any:
        """The negatives as a ``datasets.Dataset`` ready for sentence-transformers.

        Args:
            form: "triplet", "n-tuple", "labeled-pair" or "labeled-list", see ``tamis.export.columns``.

        Returns:
            a ``datasets.Dataset``.
        """
        from tamis.integrations.datasets import mined_to_dataset

        return mined_to_dataset(self, form)

    def save(self, folder: str | Path) -> None:
        """Write Parquet files and report into a folder, as ``tamis mine`` does; ``tamis.runs.load`` reads them back."""
        from tamis import runs

        with runs.locked(Path(folder)) as held:
            runs.save(self, held, key="")

    def report(self, path: str | Path) -> None:
        """Write one self-contained HTML page: funnel, scores, survival curve, examples to judge by eye.

        Args:
            path: the file.
        """
        from tamis.mining_report import write_page

        write_page(self, Path(path))
