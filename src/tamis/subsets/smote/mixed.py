"""SMOTE-NC: columns of numbers between two rows, columns of categories by a vote of the neighbours."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor, from_numpy

from tamis import checks
from tamis.results import as_array
from tamis.subsets.smote.interpolation import Segments, write_between
from tamis.subsets.smote.neighbors import nearest_rows
from tamis.subsets.smote.over_sampler import OverSampler, RandomState, drawn, members_of, random_state
from tamis.subsets.smote.strategy import Strategy
from tamis.subsets.smote.tables import is_frame, is_sparse, numeric_rows

Array = np.ndarray[Any, Any]


class SMOTENC(OverSampler):
    """SMOTE for tables with columns of numbers and of categories (SMOTE, section 6.1).

    A category that differs adds Med^2 to the squared distance, with Med the median over columns of numbers of their
    standard deviations in the class. A new row has the category that most of the k neighbours of its base have, ties
    broken at random. A drop-in for ``imblearn.over_sampling.SMOTENC``, with the same rows for an integer
    ``random_state``; where all numbers are integers Med stays a fraction here. Categories are found in X: there is no
    ``categorical_encoder``. Sparse rows are made dense.

    Args:
        categorical_features: indices or names of columns, a mask of bool over them, or "auto" for the categorical
            columns of a data frame. Some columns, not all.
        sampling_strategy: see ``sampling_targets``.
        random_state: an integer, a RandomState or Generator, or None.
        k_neighbors: neighbours, or an estimator with ``kneighbors`` for k + 1 of them.

    Attributes after ``fit_resample``: categorical_features_, continuous_features_, median_std_ (class -> Med),
    sampling_strategy_ and provenance_.

    Raises:
        ValueError: at ``fit_resample``, for columns that are not there or cannot be sorted, or a class too small.

    Example:
        >>> X = np.array([[0, "a"], [1, "a"], [2, "b"], [3, "a"], [9, "b"], [10, "b"]], dtype=object)
        >>> more, _ = SMOTENC([1], k_neighbors=1, random_state=0).fit_resample(X, np.array([0, 0, 0, 0, 1, 1]))
        >>> [(round(number, 4), word) for number, word in more[6:]]
        [(9.7152, 'b'), (9.3972, 'b')]
    """

    categorical_features_: Array
    continuous_features_: Array
    median_std_: dict[Any, float]

    def __init__(
        self,
        categorical_features: Any,
        *,
        sampling_strategy: Strategy = "auto",
        random_state: RandomState = None,
        k_neighbors: Any = 5,
    ) -> None:
        self.categorical_features, self.sampling_strategy = categorical_features, sampling_strategy
        self.random_state, self.k_neighbors = random_state, k_neighbors

    def _resample(self, X: Any, labels: Array) -> tuple[Any, Array, Segments]:
        table: Any = X if is_frame(X) else X.toarray() if is_sparse(X) else as_array(X)
        checks.matrix("X", table)
        checks.require(
            is_frame(table) or table.dtype.kind not in "SU",
            "X must hold numbers as numbers: got text; take dtype=object.",
        )
        self.categorical_features_ = _chosen(self.categorical_features, table)
        self.continuous_features_ = np.setdiff1d(np.arange(table.shape[1]), self.categorical_features_)
        for name, columns in (("categories", self.categorical_features_), ("numbers", self.continuous_features_)):
            checks.require(
                len(columns) > 0, f"SMOTENC needs columns of {name}: X has none; take SMOTE for numbers alone."
            )
        numbers = numeric_rows(
            table.iloc[:, self.continuous_features_] if is_frame(table) else table[:, self.continuous_features_]
        )
        sorts = [_coded(_column(table, j), j) for j in self.categorical_features_]
        codes = np.stack([code for _, code in sorts], axis=1)
        self.median_std_ = {}
        parts, voted, added = [], [codes[:0]], [labels[:0]]
        for value, count in self.sampling_strategy_.items():
            if count > 0:
                members = members_of(labels, value, "k_neighbors", self.k_neighbors)
                median = float(np.median(numbers[members].std(0, dtype=np.float64)))
                self.median_std_[value] = median
                encoded, own = _encoded(numbers[members], codes[members], median), np.arange(len(members))
                near = members[nearest_rows(encoded, own, own, self.k_neighbors)]
                place, neighbor, step = drawn(members, near, count, self.random_state)
                parts.append(Segments(members[place], neighbor, step))
                rng = random_state(self.random_state)
                voted.append(np.stack([_votes(codes[near[place], j], rng) for j in range(codes.shape[1])], axis=1))
                added.append(np.full(count, value, dtype=labels.dtype))
        whole = _joined(parts)
        between = np.empty((len(whole.base), numbers.shape[1]), numbers.dtype)
        write_between(numbers, whole, between)
        words = np.concatenate(voted)
        new = dict(zip(self.continuous_features_.tolist(), between.T, strict=True))
        new |= {j: sorts[i][0][words[:, i]] for i, j in enumerate(self.categorical_features_.tolist())}
        return _extended(X, table, new), np.concatenate(added), whole


def _chosen(features: Any, table: Any) -> Array:
    """The indices of the columns that are meant, in the order in which votes are drawn for them."""
    width = table.shape[1]
    if isinstance(features, str):
        known = features == "auto" and is_frame(table)
        checks.require(known, f"categorical_features must be columns, or 'auto' for a data frame: got {features!r}.")
        return np.flatnonzero([str(dtype) == "category" for dtype in table.dtypes])
    given = np.asarray(features)
    if given.dtype == bool:
        checks.require(len(given) == width, f"categorical_features must mask {width} columns: got {len(given)}.")
        return np.flatnonzero(given)
    if given.dtype.kind in "OU":
        names = list(table.columns) if is_frame(table) else []
        missing = [name for name in given.tolist() if name not in names]
        checks.require(not missing, f"categorical_features must name columns of a data frame: {missing} are not there.")
        given = np.array([names.index(name) for name in given.tolist()])
    inside = bool(((-width <= given) & (given < width)).all())
    checks.require(inside, f"categorical_features must be columns 0 to {width - 1}: got {given.tolist()}.")
    return np.array(list(dict.fromkeys((given.astype(np.int64) % width).tolist())), dtype=np.int64)


def _column(table: Any, j: int) -> Array:
    column: Array = table.iloc[:, j].to_numpy() if is_frame(table) else table[:, j]
    return column


def _coded(column: Array, j: int) -> tuple[Array, Array]:
    """The categories of a column, sorted, and the place of each row's among them."""
    try:
        categories, codes = np.unique(column, return_inverse=True)
    except TypeError as error:
        raise ValueError(
            f"X must hold categories of one type in a column: column {j} mixes types or lacks some."
        ) from error
    return categories, codes.reshape(-1)


def _encoded(numbers: Array, codes: Array, median: float) -> Array:
    """Rows with the distances of SMOTE-NC: where a category differs two entries do, by Med / sqrt(2)."""
    sorts = [np.unique(column, return_inverse=True)[1] for column in codes.T]
    ends = np.cumsum([numbers.shape[1], *(int(column.max()) + 1 for column in sorts)])
    out = np.zeros((len(numbers), ends[-1]), dtype=np.result_type(numbers.dtype, np.float32))
    out[:, : ends[0]] = numbers
    for column, start in zip(sorts, ends, strict=False):
        out[np.arange(len(out)), start + column] = median / np.sqrt(2)
    return out


def _votes(codes: Array, rng: np.random.RandomState) -> Array:
    """The most frequent code of each row (m, k); at random, as imbalanced-learn draws, where several are."""
    ordered = np.sort(codes, axis=1)
    counts = sum((ordered == ordered[:, [j]]).astype(np.int64) for j in range(ordered.shape[1]))
    first = np.ones(ordered.shape, dtype=bool)
    first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    ties = np.argwhere(first & (counts == np.max(counts, axis=1, keepdims=True)))
    ties = ties[rng.permutation(len(ties))]
    row, at = np.unique(ties[:, 0], return_index=True)
    voted: Array = ordered[row, ties[at, 1]]
    return voted


def _joined(parts: list[Segments]) -> Segments:
    empty = np.zeros(0, dtype=np.int64)
    parts = parts or [Segments(empty, empty, np.zeros(0))]
    columns = zip(*((p.base, p.neighbor, p.step) for p in parts), strict=True)
    return Segments(*(np.concatenate(column) for column in columns))


def _extended(X: Any, table: Any, new: dict[int, Array]) -> Any:
    """A table in the form of X with new rows, given by column, after its own."""
    if is_frame(table):
        out = type(X)({j: np.concatenate([_column(table, j), new[j]]) for j in range(table.shape[1])})
        return out.set_axis(X.columns, axis=1)
    out = np.empty((len(table) + len(new[0]), table.shape[1]), table.dtype)
    out[: len(table)] = table
    for j, column in new.items():
        out[len(table) :, j] = column
    if isinstance(X, Tensor):
        return from_numpy(out).to(X.device, X.dtype)
    return type(X)(out) if is_sparse(X) else out
