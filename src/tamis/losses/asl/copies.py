"""Metrics of copy detection: all pairs of all queries in one ranking."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from tamis import checks
from tamis.ranking import average_precision

Array = np.ndarray[Any, Any]


def micro_average_precision(scores: Array | Tensor, labels: Array | Tensor, num_positives: int) -> float:
    """Average precision of all pairs of all queries in one ranking.

    The first metric of ASL (arXiv:2205.12358), which is that of the Image Similarity Challenge 2021: among equal scores
    the wrong pairs come first. Pairs scored ``-inf`` were filtered and are not predictions.

    Args:
        scores: (n,) or (q, k) float, one per predicted pair.
        labels: bool, likewise, True for a pair that is a copy.
        num_positives: pairs that are copies, predicted or not.

    Returns:
        a share in [0, 1].

    Raises:
        ValueError: shapes that do not fit, NaN scores, more copies predicted than there are.

    Example:
        >>> micro_average_precision(np.array([0.9, 0.8, 0.7]), np.array([True, False, True]), 2)
        0.8333333333333333
    """
    hits = _ranked(scores, labels, num_positives)
    return float(average_precision(hits[None, :], np.array([num_positives]))[0])


def recall_at_precision(
    scores: Array | Tensor, labels: Array | Tensor, num_positives: int, precision: float = 0.9
) -> float:
    """The highest recall of a threshold at which the precision is still ``precision``.

    The second metric of ASL (arXiv:2205.12358), at a precision of 90 %.

    Args:
        scores: (n,) or (q, k) float, one per predicted pair, ``-inf`` for those filtered.
        labels: bool, likewise.
        num_positives: pairs that are copies, predicted or not.
        precision: in [0, 1].

    Returns:
        a share in [0, 1]; 0 when no threshold is so precise.

    Raises:
        ValueError: as ``micro_average_precision``.

    Example:
        >>> recall_at_precision(np.array([0.9, 0.8, 0.7]), np.array([True, False, True]), 2)
        0.5
    """
    checks.between("precision", precision, 0.0, 1.0)
    found = np.cumsum(_ranked(scores, labels, num_positives))
    precise = found / np.arange(1, len(found) + 1) >= precision
    return float(found[precise].max(initial=0) / num_positives)


@dataclass(frozen=True)
class DirectedCopyBenchmark:
    """Queries of which some are edits of a reference and the others only look like one.

    After NDEC, the data set of ASL (arXiv:2205.12358): its hard negatives are what cosine cannot tell from a copy, such
    as a reference with more around it.

    Args:
        sources: (q,) int, the reference of which the query is an edit; -1 for a negative query.

    Example:
        >>> benchmark = DirectedCopyBenchmark(np.array([1, -1]))
        >>> benchmark.evaluate(np.array([[0.2, 0.9], [0.1, 0.95]]), precision=0.5)
        {'micro_average_precision': 0.5, 'recall_at_precision': 1.0}
    """

    sources: Array

    def evaluate(
        self, scores: Array | Tensor, references: Array | Tensor | None = None, *, precision: float = 0.9
    ) -> dict[str, float]:
        """Both metrics of scores, filtered or not.

        Args:
            scores: (q, m) float against all references, or (q, k) of those found; ``-inf`` is no prediction.
            references: (q, k) int, the references found; None when the scores are of all references in order.
            precision: of "recall_at_precision".

        Returns:
            "micro_average_precision" and "recall_at_precision".

        Raises:
            ValueError: shapes that do not fit, no query that is an edit.
        """
        given = _array(scores)
        checks.matrix("scores", given)
        checks.same_length("scores", given, "sources", self.sources)
        columns = np.arange(given.shape[1])[None, :] if references is None else _array(references)
        if references is not None:
            checks.same_shape("references", columns, "scores", given)
        edits = self.sources[:, None]
        labels, positives = (columns == edits) & (edits >= 0), int((self.sources >= 0).sum())
        return {
            "micro_average_precision": micro_average_precision(given, labels, positives),
            "recall_at_precision": recall_at_precision(given, labels, positives, precision),
        }


def _ranked(scores: Array | Tensor, labels: Array | Tensor, num_positives: int) -> Array:
    """Whether each prediction is right, by falling score, the wrong ones first among equals."""
    values, right = _array(scores), _array(labels)
    checks.same_shape("labels", right, "scores", values)
    checks.require(right.dtype == np.bool_, f"labels must be bool: got {right.dtype}.")
    checks.at_least("num_positives", num_positives, 1)
    checks.require(not np.isnan(values).any(), "scores must hold no NaN.")
    predicted = values.ravel() != -np.inf
    values, right = values.ravel()[predicted], right.ravel()[predicted]
    checks.require(
        int(right.sum()) <= num_positives,
        f"num_positives must count all copies: {num_positives}, and {int(right.sum())} are predicted.",
    )
    hits: Array = right[np.lexsort((right, -values))].astype(np.float64)
    return hits


def _array(values: Array | Tensor) -> Array:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
