"""What all over-samplers share: scikit-learn's protocol, the ways in and out, and the draw of segments."""

from __future__ import annotations

import abc
import inspect
from collections.abc import Callable
from typing import Any, Self

import numpy as np

from tamis import checks
from tamis.subsets.smote.interpolation import Provenance, Segments, sparse_between, write_between
from tamis.subsets.smote.neighbors import count_of
from tamis.subsets.smote.strategy import sampling_targets
from tamis.subsets.smote.tables import is_frame, is_sparse, label_array, labels_like, numeric_rows, room_for, rows_like

Array = np.ndarray[Any, Any]
RandomState = int | np.random.RandomState | np.random.Generator | None


class OverSampler(abc.ABC):
    """Adds rows to small classes; the classes below say which.

    Attributes after ``fit_resample``: sampling_strategy_, new rows asked for per class; provenance_, where each came
    from; n_features_in_; feature_names_in_ for a data frame.

    Example:
        >>> from tamis.subsets import SMOTE
        >>> SMOTE(random_state=1).set_params(k_neighbors=3)
        SMOTE(random_state=1, k_neighbors=3)
    """

    _estimator_type = "sampler"  # imbalanced-learn's pipelines know samplers by it

    sampling_strategy_: dict[Any, int]
    provenance_: Provenance
    n_features_in_: int
    feature_names_in_: Array
    sampling_strategy: Any

    @abc.abstractmethod
    def _resample(self, X: Any, labels: Array) -> tuple[Any, Array, Segments]:
        """All rows, the labels of the new ones, and where these come from."""

    def fit_resample(self, X: Any, y: Any) -> tuple[Any, Any]:
        """The rows with new ones after them, class by class.

        Args:
            X: (n, d) finite numbers: array, tensor, sparse matrix, data frame or list.
            y: (n,) classes: array, tensor, series or list; or (n, c) with a single one in every row.

        Returns:
            X (n + m, d) and y (n + m,), each of the kind and dtype that came.

        Raises:
            ValueError: for values that are no finite numbers, classes too small for their neighbours, or a strategy
                that does not fit.
        """
        labels = label_array(y)
        n = X.shape[0] if hasattr(X, "shape") else len(X)
        checks.require(n > 0, "X must have at least one row: got none.")
        checks.require(len(labels) == n, f"y must have one entry per row of X: {n} rows, {len(labels)} y.")
        self.sampling_strategy_ = sampling_targets(self.sampling_strategy, labels)
        rows, added, segments = self._resample(X, labels)
        self.provenance_ = segments.provenance(X)
        self.n_features_in_ = rows.shape[1]
        if is_frame(X):
            self.feature_names_in_ = np.asarray(X.columns, dtype=object)
        table = rows_like(X, rows)
        index = table.index if is_frame(table) else None
        return table, labels_like(y, np.concatenate([labels, added]), index)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The arguments as they were given, for scikit-learn's ``clone`` and searches.

        Args:
            deep: also those of an estimator among them, as ``name__argument``.

        Returns:
            name -> value.
        """
        found = {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}
        if deep:
            for name, value in list(found.items()):
                if hasattr(value, "get_params") and not isinstance(value, type):
                    found |= {f"{name}__{inner}": v for inner, v in value.get_params().items()}
        return found

    def set_params(self, **params: Any) -> Self:
        """Change arguments by name, those of an estimator among them by ``name__argument``.

        Args:
            params: name -> value.

        Returns:
            the sampler itself.

        Raises:
            ValueError: for a name that is no argument.
        """
        known = list(inspect.signature(type(self)).parameters)
        for name, value in params.items():
            own, _, inner = name.partition("__")
            checks.require(own in known, f"{type(self).__name__} has no argument {own!r}: it takes {', '.join(known)}.")
            if inner:
                getattr(self, own).set_params(**{inner: value})
            else:
                setattr(self, own, value)
        return self

    def __repr__(self) -> str:
        signature = inspect.signature(type(self)).parameters
        changed = [f"{n}={getattr(self, n)!r}" for n, p in signature.items() if getattr(self, n) is not p.default]
        return f"{type(self).__name__}({', '.join(changed)})"


def random_state(seed: RandomState) -> np.random.RandomState:
    """NumPy's older generator, whose draws are those of imbalanced-learn.

    Args:
        seed: an integer starts one anew at every call; a RandomState or a Generator goes on; None is from the system.

    Returns:
        the generator.

    Raises:
        ValueError: for another seed.

    Example:
        >>> random_state(0).randint(100), random_state(0).randint(100)
        (44, 44)
    """
    if isinstance(seed, np.random.RandomState):
        return seed
    if isinstance(seed, np.random.Generator):
        return np.random.RandomState(seed.bit_generator)
    whole = isinstance(seed, (int, np.integer)) and not isinstance(seed, bool) and 0 <= seed < 2**32
    checks.require(
        seed is None or whole, f"random_state must be an integer in [0, 2**32), a RandomState or None: got {seed!r}."
    )
    return np.random.RandomState(seed)


def drawn(base: Array, neighbors: Array, count: int, seed: RandomState) -> tuple[Array, Array, Array]:
    """Segments drawn uniformly from all pairs of a row and one of its neighbours, and a step along each.

    Args:
        base: (b,) int64, rows.
        neighbors: (b, k) int64, their neighbours.
        count: how many.
        seed: see ``random_state``.

    Returns:
        places (m,) in base, neighbours (m,), steps (m,) in [0, 1).

    Example:
        >>> place, neighbor, step = drawn(np.array([7, 8]), np.array([[8], [7]]), 3, 0)
        >>> place.tolist(), neighbor.tolist(), step.round(3).tolist()
        ([0, 1, 1], [8, 7, 7], [0.844, 0.858, 0.847])
    """
    rng = random_state(seed)
    pairs = rng.randint(0, neighbors.size, size=count)
    rows, columns = pairs // neighbors.shape[1], pairs % neighbors.shape[1]
    return rows, neighbors[rows, columns], rng.uniform(size=count)


def members_of(labels: Array, value: Any, name: str, neighbors: Any) -> Array:
    """The rows of a class, which must be more than the neighbours that each is to have.

    Args:
        labels: (n,).
        value: the class.
        name: of the argument that says how many neighbours.
        neighbors: its value.

    Returns:
        (m,) int64 ascending.

    Raises:
        ValueError: where the class is too small.

    Example:
        >>> members_of(np.array([0, 1, 1]), 1, "k_neighbors", 1).tolist()
        [1, 2]
    """
    k, members = count_of(name, neighbors), np.flatnonzero(labels == value)
    checks.require(
        len(members) > k,
        f"class {value!r} must have more rows than {name}: it has {len(members)}, {name} is {k}; lower it.",
    )
    return members


def resampled(
    X: Any,
    labels: Array,
    targets: dict[Any, int],
    segments_of: Callable[[Any, Any, int], Segments],
    *,
    normalize: bool = False,
) -> tuple[Any, Array, Segments]:
    """All rows and, class after class, those at the ends of the segments that are chosen for each.

    Args:
        X: (n, d) as it came.
        labels: (n,).
        targets: class -> new rows.
        segments_of: called with (rows, class, new rows).
        normalize: bring new rows to length one.

    Returns:
        rows (n + m, d), labels of the new ones (m,), and the segments.

    Example:
        >>> middle = Segments(np.array([0]), np.array([1]), np.array([0.5]))
        >>> rows, added, _ = resampled([[0.0], [1.0]], np.array([0, 1]), {1: 1}, lambda rows, value, count: middle)
        >>> rows.tolist(), added.tolist()
        ([[0.0], [1.0], [0.5]], [1])
    """
    rows = numeric_rows(X)
    empty = np.zeros(0, dtype=np.int64)
    parts, added = [Segments(empty, empty, np.zeros(0))], [labels[:0]]
    for value, count in targets.items():
        if count > 0:
            parts.append(segments_of(rows, value, count))
            added.append(np.full(len(parts[-1].base), value, dtype=labels.dtype))
    parts = parts[1:] or parts
    factors = [np.ones(len(p.base)) if p.factor is None else p.factor for p in parts]
    whole = Segments(
        np.concatenate([p.base for p in parts]),
        np.concatenate([p.neighbor for p in parts]),
        np.concatenate([p.step for p in parts]),
        None if all(p.factor is None for p in parts) else np.concatenate(factors),
    )
    if is_sparse(rows):
        # vstack has no format of its own here: the caller's is put back with everything else
        stacked = checks.package("scipy.sparse").vstack([rows, sparse_between(rows, whole, normalize=normalize)])
        return stacked.tocsr(), np.concatenate(added), whole
    out = room_for(rows, len(whole.base))
    write_between(rows, whole, out[len(rows) :], normalize=normalize)
    return out, np.concatenate(added), whole
