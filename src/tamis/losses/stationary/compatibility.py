"""How compatible versions are: queries of a new model against galleries that older ones embedded."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tamis import checks, search
from tamis.contrastive import unit_rows

Array = np.ndarray[Any, Any]
ArrayLike = Array | Tensor
Metric = Callable[[Array, Array, Array, Array], float]
"""Called with query features (q, d), gallery features (n, d), query labels (q,) and gallery labels (n,)."""


def compatibility_matrix(
    query_features: Sequence[ArrayLike],
    gallery_features: Sequence[ArrayLike],
    query_labels: ArrayLike,
    gallery_labels: ArrayLike,
    *,
    metric: str | Metric = "recall@1",
    templates: bool = False,
) -> Array:
    """Retrieval scores of every version's queries against its own and every older version's gallery.

    The compatibility matrix of d-Simplex-HOC (arXiv:2405.02581, section 5).

    Args:
        query_features: one (q, d) float per version, oldest first; rows need not be normalised.
        gallery_features: one (n, d) float per version.
        query_labels: (q,) int.
        gallery_labels: (n,) int.
        metric: "recall@k", the share of queries with an item of their label among the k of highest cosine; or a
            function of query features, gallery features, query labels and gallery labels.
        templates: one mean of unit features per label in place of the gallery's items, as the official code does.

    Returns:
        (t, t) float64: at [i, j] queries of version i against the gallery of version j <= i; NaN above the diagonal.

    Raises:
        ValueError: versions or shapes that do not fit, a metric that is not known.

    Example:
        >>> old, new = torch.eye(2), torch.eye(2).flip(0)  # two versions that have swapped their axes
        >>> compatibility_matrix([old, new], [old, new], torch.arange(2), torch.arange(2))
        array([[ 1., nan],
               [ 0.,  1.]])
    """
    checks.require(len(query_features) > 0, "query_features must hold one array per version: got none.")
    checks.same_length("gallery_features", gallery_features, "query_features", query_features)
    score = _recall(metric) if isinstance(metric, str) else metric
    q_labels, g_labels = _labels("query_labels", query_labels), _labels("gallery_labels", gallery_labels)
    width = query_features[0].shape[-1]
    queries = [_features("query_features", x, q_labels, "query_labels", width) for x in query_features]
    galleries = [_features("gallery_features", x, g_labels, "gallery_labels", width) for x in gallery_features]
    if templates:
        names, places = np.unique(g_labels, return_inverse=True)
        galleries = [_means(x, places, len(names)) for x in galleries]
        g_labels = names
    matrix = np.full((len(queries), len(queries)), np.nan)
    for new in range(len(queries)):
        for old in range(new + 1):
            matrix[new, old] = score(queries[new], galleries[old], q_labels, g_labels)
    return matrix


def average_compatibility(matrix: ArrayLike) -> float:
    """The share of pairs of versions where the new queries do strictly better in the old gallery than the old ones did.

    AC of d-Simplex-HOC (arXiv:2405.02581): ``M[i, j] > M[j, j]`` over all i > j. Equal values do not count.

    Args:
        matrix: (t, t) float, t at least 2; what stands above the diagonal is not looked at.

    Returns:
        a share in [0, 1].

    Raises:
        ValueError: not a square matrix of two versions or more, NaN on or below the diagonal.

    Example:
        >>> round(average_compatibility(np.array([[0.60, 0, 0], [0.58, 0.70, 0], [0.61, 0.72, 0.80]])), 6)
        0.666667
    """
    return float((_gains(_checked(matrix, 2)) > 0)[np.tril_indices(len(matrix), -1)].mean())


def average_accuracy(matrix: ArrayLike, *, ignore_zeros: bool = False) -> float:
    """The mean of the matrix on and below the diagonal.

    AA of d-Simplex-HOC (arXiv:2405.02581).

    Args:
        matrix: (t, t) float; what stands above the diagonal is not looked at.
        ignore_zeros: leave out entries that are exactly 0, as the official code does.

    Returns:
        the mean; 0 when all entries are left out.

    Raises:
        ValueError: not a square matrix, NaN on or below the diagonal.

    Example:
        >>> round(average_accuracy(np.array([[0.60, 0, 0], [0.58, 0.70, 0], [0.61, 0.72, 0.80]])), 6)
        0.668333
    """
    lower = _checked(matrix, 1)[np.tril_indices(len(matrix))]
    lower = lower[lower != 0] if ignore_zeros else lower
    return float(lower.mean()) if len(lower) else 0.0


@dataclass(frozen=True)
class CompatibilityReport:
    """What a matrix says of every pair of versions.

    Args:
        names: t names of the versions, oldest first.
        matrix: (t, t) float64.
        gains: (t, t) float64, ``M[i, j] - M[j, j]``, what queries of i gain over those of j in the gallery of j; NaN
            where i <= j.
        backfill: (t, t) bool, True where the gain is not above zero: embed the gallery of j again with i.
        average_compatibility: share of pairs without need of a backfill.
        average_accuracy: mean on and below the diagonal.
    """

    names: tuple[str, ...]
    matrix: Array
    gains: Array
    backfill: Array
    average_compatibility: float
    average_accuracy: float

    def __str__(self) -> str:
        lines = [f"AC {self.average_compatibility:.3f}, AA {self.average_accuracy:.3f}"]
        for new, old in zip(*np.tril_indices(len(self.names), -1), strict=True):
            verdict = "backfill needed" if self.backfill[new, old] else "keep the gallery"
            lines.append(
                f"{self.names[new]} queries in the gallery of {self.names[old]}: {self.matrix[new, old]:.3f} "
                f"({self.gains[new, old]:+.3f}), {verdict}"
            )
        return "\n".join(lines)


def compatibility_report(matrix: ArrayLike, names: Sequence[str] | None = None) -> CompatibilityReport:
    """Read a compatibility matrix: averages, and for every pair of versions whether the old gallery can stay.

    AC and AA of d-Simplex-HOC (arXiv:2405.02581) with the verdict of each pair.

    Args:
        matrix: (t, t) float, t at least 2, from ``compatibility_matrix``.
        names: t names of the versions; None numbers them.

    Returns:
        the report; ``print`` shows it.

    Raises:
        ValueError: not a square matrix of two versions or more, another number of names.

    Example:
        >>> print(compatibility_report(np.array([[0.60, 0], [0.58, 0.70]])))
        AC 0.000, AA 0.627
        v1 queries in the gallery of v0: 0.580 (-0.020), backfill needed
    """
    values = _checked(matrix, 2)
    names = [f"v{i}" for i in range(len(values))] if names is None else names
    checks.same_length("names", names, "matrix", values)
    gains = _gains(values)
    below = np.tri(len(values), k=-1, dtype=bool)
    gains[~below] = np.nan
    return CompatibilityReport(
        names=tuple(names),
        matrix=values,
        gains=gains,
        backfill=below & ~(gains > 0),
        average_compatibility=average_compatibility(values),
        average_accuracy=average_accuracy(values),
    )


def _recall(metric: str) -> Metric:
    found = re.fullmatch(r"recall@([1-9]\d*)", metric)
    if found is None:
        raise ValueError(f'metric must be "recall@k" with a number, as "recall@1", or a function: got {metric!r}.')
    k = int(found[1])

    def recall(queries: Array, gallery: Array, query_labels: Array, gallery_labels: Array) -> float:
        checks.between("k of the metric", k, 1, len(gallery))
        nearest = search.top_k(_unit(queries), _unit(gallery), k)[1]
        return float((gallery_labels[nearest] == query_labels[:, None]).any(1).mean())

    return recall


def _gains(matrix: Array) -> Array:
    gains: Array = matrix - np.diag(matrix)[None, :]
    return gains


def _checked(matrix: ArrayLike, least: int) -> Array:
    values = _array(matrix).astype(np.float64)
    checks.require(
        values.ndim == 2 and values.shape[0] == values.shape[1] and len(values) >= least,
        f"matrix must be square with a row per version, at least {least}: got shape {values.shape}.",
    )
    missing = int(np.isnan(values[np.tril_indices(len(values))]).sum())
    checks.require(missing == 0, f"matrix must be filled on and below the diagonal: {missing} entries are NaN.")
    return values


def _features(name: str, features: ArrayLike, labels: Array, labels_name: str, width: int) -> Array:
    checks.matrix(name, features, columns=width)
    checks.same_length(name, features, labels_name, labels)
    values = _array(features)
    checks.finite(name, values)
    return values


def _labels(name: str, labels: ArrayLike) -> Array:
    checks.require(
        labels.ndim == 1 and len(labels) > 0, f"{name} must be (n,), one per row: got shape {tuple(labels.shape)}."
    )
    return _array(labels)


def _means(features: Array, places: Array, count: int) -> Array:
    sums = torch.zeros(count, features.shape[1])
    sums.index_add_(0, torch.from_numpy(places), torch.from_numpy(_unit(features)))
    means: Array = sums.numpy() / np.bincount(places)[:, None].astype(np.float32)
    return means


def _unit(features: Array) -> Array:
    rows: Array = unit_rows(torch.tensor(features, dtype=torch.float32)).numpy()
    return rows


def _array(values: ArrayLike) -> Array:
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        return values.float().numpy() if values.dtype == torch.bfloat16 else values.numpy()
    return np.asarray(values)
