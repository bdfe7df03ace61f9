"""How many rows each class is to gain."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tamis import checks

Array = np.ndarray[Any, Any]
Strategy = str | float | Mapping[Any, int] | Callable[[Any], Mapping[Any, int]]

_NAMES = ("auto", "not majority", "not minority", "minority", "all")


def sampling_targets(strategy: Strategy, labels: Array) -> dict[Any, int]:
    """Turn a ``sampling_strategy`` into the number of new rows of each class, as imbalanced-learn does.

    Args:
        strategy: "auto" or "not majority" (all classes but the largest, up to its size), "not minority", "minority",
            "all"; a float, for two classes the ratio of smaller to larger afterwards; a mapping from class to its size
            afterwards; or a function of the labels that gives such a mapping.
        labels: (n,) of at least two classes.

    Returns:
        class -> new rows, in order of the classes. Of classes of one size the first counts as largest or smallest.

    Raises:
        ValueError: for an unknown name, a ratio outside (0, 1] or for more than two classes, a class that is not there,
            or one that would shrink.
        TypeError: for a strategy of another kind.

    Example:
        >>> labels = np.array([0] * 6 + [1] * 4 + [2])
        >>> sampling_targets("auto", labels), sampling_targets({2: 3}, labels)
        ({1: 2, 2: 5}, {2: 2})
    """
    values, counted = np.unique(labels, return_counts=True)
    counts = dict(zip(values.tolist(), counted.tolist(), strict=True))
    checks.require(len(counts) > 1, f"y must hold at least two classes: got {len(counts)}.")
    largest, smallest = max(counts, key=lambda c: counts[c]), min(counts, key=lambda c: counts[c])
    if isinstance(strategy, str):
        checks.one_of("sampling_strategy", strategy, _NAMES)
        left_out = {"not minority": smallest, "all": None, "minority": None}.get(strategy, largest)
        chosen = [smallest] if strategy == "minority" else [c for c in counts if c != left_out or strategy == "all"]
        return {c: counts[largest] - counts[c] for c in chosen}
    if isinstance(strategy, (int, float, np.integer, np.floating)) and not isinstance(strategy, bool):
        return _by_ratio(float(strategy), counts, largest)
    wanted = strategy(labels) if callable(strategy) else strategy
    if not isinstance(wanted, Mapping):
        raise TypeError(
            f"sampling_strategy must be a name, a ratio, a mapping from class to size or a function that gives one: "
            f"got {checks.shown(wanted)}."
        )
    for c, size in wanted.items():
        checks.require(c in counts, f"sampling_strategy must name classes of y: {c!r} is not among {list(counts)}.")
        checks.require(
            size >= counts[c], f"sampling_strategy cannot shrink a class: {c!r} has {counts[c]} rows, {size} asked."
        )
    return {c: int(wanted[c]) - counts[c] for c in counts if c in wanted}


def _by_ratio(ratio: float, counts: dict[Any, int], largest: Any) -> dict[Any, int]:
    checks.require(0 < ratio <= 1, f"sampling_strategy as a ratio must lie in (0, 1]: got {ratio!r}.")
    checks.require(
        len(counts) == 2,
        f"sampling_strategy can be a ratio for two classes only: y has {len(counts)}; name their sizes.",
    )
    new = {c: int(counts[largest] * ratio - size) for c, size in counts.items() if c != largest}
    checks.require(
        all(count > 0 for count in new.values()),
        f"sampling_strategy cannot shrink a class: {ratio!r} is below the ratio that y has, {counts}; raise it.",
    )
    return new
