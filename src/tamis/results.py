"""Result types that carry evidence: plain dataclasses of arrays.

``Candidates`` come from search, ``MinedNegatives`` from mining, ``Selection`` from subset selection. Rows are integers
inside; the names (ids and texts) stand once, beside the arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from tamis.story import Story

Array = np.ndarray[Any, Any]

SOURCES = ("dense", "bm25")
"""Where a candidate came from, as bits: a candidate found by both has the source 3. Mining from several encoders or
from run files has other names, which stand with its results."""


def source_name(bits: int, names: Sequence[str] = SOURCES) -> str:
    """The names behind source bits.

    Args:
        bits: one per name, the first the lowest.
        names: of the sources of a run.

    Returns:
        the names, joined by a plus sign.

    Example:
        >>> source_name(3), source_name(5, ["minilm", "bm25", "bge"])
        ('dense+bm25', 'minilm+bge')
    """
    return "+".join(name for i, name in enumerate(names) if bits >> i & 1)


@dataclass(frozen=True)
class Candidates:
    """The passages found for each query, best first; a short row ends in ``-1``.

    Args:
        indices: (q, k) int64, row of the corpus, ``-1`` where nothing is.
        scores: (q, k) float32, the similarity that the margins judge; ``-inf`` where nothing is.
        ranks: (q, k) int32, rank in the corpus, 1 for the best, 0 where nothing is. Known positives are not counted.
        sources: (q, k) uint8, bits over ``names``.
        names: of the sources, the first has the lowest bit.
    """

    indices: Array
    scores: Array
    ranks: Array
    sources: Array
    names: tuple[str, ...] = SOURCES

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


def as_array(value: Any) -> Array:
    """The numbers of an array or a tensor as an array.

    Args:
        value: (n, ...) array, tensor or sequence.

    Returns:
        the same memory where that can be; float32 for a bfloat16 tensor.

    Example:
        >>> as_array([[1.0, 2.0]])
        array([[1., 2.]])
    """
    if not hasattr(value, "detach"):
        return np.asarray(value)
    plain = value.detach().cpu()
    array: Array = (plain.float() if str(plain.dtype) == "torch.bfloat16" else plain).numpy()
    return array


def selection_like(selection: Selection, rows: Any) -> Selection:
    """A selection of arrays as tensors on the device of ``rows``, floats in its dtype, where ``rows`` is a tensor.

    Args:
        selection: of arrays.
        rows: (n, ...) array or tensor that was selected from.

    Returns:
        the selection itself for an array.

    Example:
        >>> chosen = Selection(np.array([0]), np.array([0.5, 0.1]), np.array([0.0, -np.inf]))
        >>> selection_like(chosen, np.zeros((2, 3), dtype=np.float32)) is chosen
        True
    """
    if isinstance(rows, np.ndarray) or not hasattr(rows, "device"):
        return selection
    import torch

    def tensor(array: Array) -> Any:
        if array.dtype == object:
            return array
        made = torch.from_numpy(array).to(rows.device)
        return made.to(rows.dtype) if made.is_floating_point() and rows.is_floating_point() else made

    reasons = {name: tensor(values) for name, values in selection.reasons.items()}
    return Selection(tensor(selection.indices), tensor(selection.scores), tensor(selection.log_weights), reasons)


@dataclass(frozen=True)
class Table:
    """Names beside rows: ids and texts of queries or passages, and what they belong to where that is known.

    Args:
        ids: n names.
        texts: n texts.
        groups: per row the document (or the like) that it comes from, None where unknown; None for no column.
        splits: per row the split that it belongs to, None where it is free; None for no column.
    """

    ids: Sequence[str]
    texts: Sequence[str]
    groups: Sequence[str | None] | None = None
    splits: Sequence[str | None] | None = None

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
        summary: settings, counts, audit, names of the sources, seconds: everything that is not a column.
        passed_over: candidates that the rules kept and nothing picked, columns of one length: query, candidate, rank
            (int32), score (float32), source (uint8 bits); empty where they were not stored.
        known: the known positives, columns of one length: query, positive, rank (int32, where it would stand among the
            candidates if it were a stranger, 0 for nowhere), score (float32); empty where they were not stored.
    """

    queries: Table
    corpus: Table
    positives: Sequence[Array]
    negatives: dict[str, Array]
    dropped: dict[str, Array]
    reference_scores: Array
    summary: dict[str, Any]
    passed_over: dict[str, Array] = field(default_factory=dict)
    known: dict[str, Array] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.negatives["query"])

    @property
    def sources(self) -> tuple[str, ...]:
        """The names that the source bits stand for."""
        return tuple(self.summary.get("sources", SOURCES))

    def explain(self, query_id: str, *, limit: int = 20) -> Story:
        """The ranked story of one query: its positives, and what became of every candidate, and why.

        Args:
            query_id: id of the query.
            limit: the first so many candidates are told one by one, and every negative; the others are counted.

        Returns:
            a story that prints as text.

        Raises:
            ValueError: when there is no such query; names the nearest.
        """
        from tamis.story import tell

        return tell(self, query_id, limit=limit)

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
