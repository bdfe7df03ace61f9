"""SMOTE, Borderline-SMOTE and ADASYN: which rows new ones start from, and which neighbours they go towards."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from tamis import checks
from tamis.results import as_array
from tamis.subsets.smote.interpolation import Segments
from tamis.subsets.smote.neighbors import count_of, nearest_rows
from tamis.subsets.smote.over_sampler import OverSampler, RandomState, drawn, members_of, random_state, resampled
from tamis.subsets.smote.strategy import Strategy
from tamis.subsets.smote.tables import is_sparse

Array = np.ndarray[Any, Any]

BASES = ("uniform", "balanced")
KINDS = ("borderline-1", "borderline-2")


class SMOTE(OverSampler):
    """New minority rows between minority rows and their nearest minority neighbours (SMOTE, section 4.2).

    ``x_new = x_i + u (x_j - x_i)``, with j one of the k nearest rows of the class of i and u uniform. A drop-in for
    ``imblearn.over_sampling.SMOTE``: for an integer ``random_state`` the same rows, bit for bit, unless distances tie.

    When not to use: before the split into train and test (the rows leak); with a linear model, where it gains nothing
    over weights; where probabilities count, unless the prior is corrected afterwards.

    Args:
        sampling_strategy: "auto" brings all classes to the size of the largest; see ``sampling_targets``.
        random_state: an integer, a RandomState or Generator, or None.
        k_neighbors: neighbours, or an estimator with ``kneighbors`` for k + 1 of them. With a handful of columns a
            tree is ten times as fast as the products here: pass scikit-learn's ``NearestNeighbors(n_neighbors=6)``.
        per_feature: a step of its own for every feature, as in the paper's pseudo-code: rows fill the box that the two
            rows span instead of the segment, and did a little better in the claim. Dense rows only.
        base: "uniform" draws pairs of row and neighbour, as imbalanced-learn does; "balanced" takes every row of the
            class equally often, as the paper does.
        normalize: bring new rows back to length one, for embeddings that have it.

    Attributes after ``fit_resample``: sampling_strategy_ and provenance_, the base, neighbour and step of new rows.

    Raises:
        ValueError: at ``fit_resample``, for an argument outside its range or a class of k rows or fewer.

    Example:
        >>> X = np.array([[0.0], [1.0], [2.0], [3.0], [9.0], [10.0]])
        >>> more, y = SMOTE(k_neighbors=1, random_state=0).fit_resample(X, np.array([0, 0, 0, 0, 1, 1]))
        >>> more[6:].round(4).tolist(), y[6:].tolist()
        ([[9.7152], [9.3972]], [1, 1])
    """

    def __init__(
        self,
        *,
        sampling_strategy: Strategy = "auto",
        random_state: RandomState = None,
        k_neighbors: Any = 5,
        per_feature: bool = False,
        base: str = "uniform",
        normalize: bool = False,
    ) -> None:
        self.sampling_strategy, self.random_state, self.k_neighbors = sampling_strategy, random_state, k_neighbors
        self.per_feature, self.base, self.normalize = per_feature, base, normalize

    def _resample(self, X: Any, labels: Array) -> tuple[Any, Array, Segments]:
        checks.one_of("base", self.base, BASES)
        checks.require(
            not (self.per_feature and is_sparse(X)), "per_feature needs dense rows: X is sparse; call X.toarray()."
        )

        def segments(rows: Any, value: Any, count: int) -> Segments:
            members = members_of(labels, value, "k_neighbors", self.k_neighbors)
            if self.normalize:
                _require_units(rows, members)
            near = nearest_rows(rows, members, members, self.k_neighbors)
            if self.base == "uniform" and not self.per_feature:
                place, neighbor, step = drawn(members, near, count, self.random_state)
                return Segments(members[place], neighbor, step)
            rng = random_state(self.random_state)
            if self.base == "uniform":
                place, column = np.divmod(rng.randint(0, near.size, size=count), near.shape[1])
            else:
                rounds, rest = divmod(count, len(members))
                place = np.concatenate([np.tile(np.arange(len(members)), rounds), rng.permutation(len(members))[:rest]])
                column = rng.randint(0, near.shape[1], size=count)
            step = rng.uniform(size=(count, rows.shape[1]) if self.per_feature else count)
            return Segments(members[place], near[place, column], step)

        return resampled(X, labels, self.sampling_strategy_, segments, normalize=self.normalize)


class BorderlineSMOTE(OverSampler):
    """SMOTE from minority rows near the border only: at least half of their m neighbours, not all, are others.

    Han, Wang and Mao 2005, borderline-SMOTE1 and 2. A drop-in for ``imblearn.over_sampling.BorderlineSMOTE``, with
    the same rows for an integer ``random_state``, and a warning where a class has no row in danger.

    Args:
        sampling_strategy: see ``sampling_targets``.
        random_state: an integer, a RandomState or Generator, or None.
        k_neighbors: neighbours to go towards, or an estimator for k + 1 of them.
        m_neighbors: neighbours in all data that tell whether a row is in danger, or an estimator for m + 1.
        kind: "borderline-1" goes towards rows of the class; "borderline-2" towards any row, at most half of the way
            to those of other classes.

    Attributes after ``fit_resample``: in_danger_indices, class -> (b,) rows in danger; sampling_strategy_, provenance_.

    Raises:
        ValueError: at ``fit_resample``, for an argument outside its range or too few rows for the neighbours.

    Example:
        >>> X = np.array([[0.0], [1.0], [2.0], [3.0], [4.0], [5.0], [6.0]])
        >>> sampler = BorderlineSMOTE(k_neighbors=1, m_neighbors=2, random_state=0)
        >>> more, y = sampler.fit_resample(X, np.array([0, 0, 0, 0, 1, 1, 1]))
        >>> more[7:].round(4).tolist(), sampler.in_danger_indices[1].tolist()
        ([[4.5488]], [4])
    """

    in_danger_indices: dict[Any, Array]

    def __init__(
        self,
        *,
        sampling_strategy: Strategy = "auto",
        random_state: RandomState = None,
        k_neighbors: Any = 5,
        m_neighbors: Any = 10,
        kind: str = "borderline-1",
    ) -> None:
        self.sampling_strategy, self.random_state, self.k_neighbors = sampling_strategy, random_state, k_neighbors
        self.m_neighbors, self.kind = m_neighbors, kind

    def _resample(self, X: Any, labels: Array) -> tuple[Any, Array, Segments]:
        checks.one_of("kind", self.kind, KINDS)
        everything, m = _all_rows(labels, "m_neighbors", self.m_neighbors), count_of("m_neighbors", self.m_neighbors)
        self.in_danger_indices = {}

        def segments(rows: Any, value: Any, count: int) -> Segments:
            members = members_of(labels, value, "k_neighbors", self.k_neighbors)
            others = (labels[nearest_rows(rows, members, everything, self.m_neighbors)] != value).sum(1)
            danger = members[(2 * others >= m) & (others < m)]
            if len(danger) == 0:
                warnings.warn(
                    f"class {value!r} has no row in danger among its {len(members)}, so it gains none; take SMOTE.",
                    UserWarning,
                    stacklevel=5,
                )
                return Segments(danger, danger, np.zeros(0))
            self.in_danger_indices[value] = danger
            among = members if self.kind == "borderline-1" else everything
            near = nearest_rows(rows, danger, among, self.k_neighbors)
            place, neighbor, step = drawn(danger, near, count, self.random_state)
            if self.kind == "borderline-1":
                return Segments(danger[place], neighbor, step)
            factor, foreign = np.ones(count), labels[neighbor] != value
            factor[foreign] = random_state(self.random_state).uniform(0.0, 0.5, size=int(foreign.sum()))
            return Segments(danger[place], neighbor, step, factor)

        return resampled(X, labels, self.sampling_strategy_, segments)


class ADASYN(OverSampler):
    """SMOTE with more new rows where more of the neighbours are of other classes.

    He, Bai, Garcia and Li 2008, with the counts of ``adasyn_counts``, whose rounded sum may miss what was asked for.
    A drop-in for ``imblearn.over_sampling.ADASYN``, with the same rows for an integer ``random_state``.

    When not to use: with wrong labels or outliers, which draw most of the new rows.

    Args:
        sampling_strategy: see ``sampling_targets``.
        random_state: an integer, a RandomState or Generator, or None.
        n_neighbors: neighbours in all data for the counts and in the class to go towards; or an estimator for one more.

    Attributes after ``fit_resample``: sampling_strategy_, new rows asked for, and provenance_, those that came.

    Raises:
        ValueError: at ``fit_resample``, for an argument outside its range, a class too small for its neighbours, or one
            that no other class is near.

    Example:
        >>> X = np.array([[0.0], [1.0], [2.0], [3.0], [4.0], [5.0], [6.0]])
        >>> sampler = ADASYN(n_neighbors=1, random_state=0)
        >>> more, _ = sampler.fit_resample(X, np.array([0, 0, 0, 0, 1, 1, 1]))
        >>> more[7:].round(4).tolist(), sampler.provenance_.base.tolist()
        ([[4.5488]], [4])
    """

    def __init__(
        self, *, sampling_strategy: Strategy = "auto", random_state: RandomState = None, n_neighbors: Any = 5
    ) -> None:
        self.sampling_strategy, self.random_state, self.n_neighbors = sampling_strategy, random_state, n_neighbors

    def _resample(self, X: Any, labels: Array) -> tuple[Any, Array, Segments]:
        everything, rng = _all_rows(labels, "n_neighbors", self.n_neighbors), random_state(self.random_state)

        def segments(rows: Any, value: Any, count: int) -> Segments:
            members = members_of(labels, value, "n_neighbors", self.n_neighbors)
            foreign = labels[nearest_rows(rows, members, everything, self.n_neighbors)] != value
            checks.require(
                bool(foreign.any()), f"class {value!r} has no neighbour of another class to be adapted to; take SMOTE."
            )
            counts = adasyn_counts(foreign.mean(1), count)
            total = int(counts.sum())
            checks.require(
                total > 0, f"class {value!r} would gain no row: its {count} all round to none; ask for more."
            )
            near = nearest_rows(rows, members, members, self.n_neighbors)
            place = np.repeat(np.arange(len(members)), counts)
            column = rng.randint(0, near.shape[1], size=total)
            return Segments(members[place], near[place, column], rng.uniform(size=total))

        return resampled(X, labels, self.sampling_strategy_, segments)


def adasyn_counts(ratios: Array, total: int) -> Array:
    """New rows per base row, in proportion to the share of other classes around it (ADASYN, steps 3 and 4).

    ``g_i = rint(G r_i / sum r)``, with halves to the even number; nothing is added to meet the total.

    Args:
        ratios: (n,) float, share of other classes among the neighbours, not all zero.
        total: rows asked for.

    Returns:
        (n,) int64.

    Raises:
        ValueError: for ratios that are negative or all zero.

    Example:
        >>> adasyn_counts(np.array([1.0, 0.5, 0.0]), 10).tolist()
        [7, 3, 0]
    """
    shares = np.asarray(ratios, dtype=np.float64)
    checks.require(
        bool((shares >= 0).all()) and bool((shares > 0).any()), "ratios must not be negative, nor all of them zero."
    )
    counts: Array = np.rint(shares / shares.sum() * total).astype(np.int64)
    return counts


def _all_rows(labels: Array, name: str, neighbors: Any) -> Array:
    """All rows, which must be more than the neighbours that each is to have."""
    k = count_of(name, neighbors)
    checks.require(len(labels) > k, f"X must have more rows than {name}: it has {len(labels)}, {name} is {k}.")
    return np.arange(len(labels))


def _require_units(rows: Any, members: Array) -> None:
    """Refuse rows of another length than one, which new rows would not lie among."""
    chosen = rows[members]
    squares = chosen.multiply(chosen) if is_sparse(chosen) else as_array(chosen) ** 2
    wrong = int((np.abs(np.asarray(squares.sum(1)) - 1) > 2e-2).sum())
    checks.require(
        wrong == 0, f"normalize needs rows of length one: {wrong} rows of a class are not; divide X by its norms first."
    )
