"""Tables as they come and go: arrays, tensors, sparse matrices, data frames and lists.

Frames, series and sparse matrices are known by what they can do, so neither pandas nor SciPy is imported before a user
brings one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from tamis import checks

Array = np.ndarray[Any, Any]


def is_frame(value: Any) -> bool:
    """Whether a value is a pandas data frame or series.

    Args:
        value: anything.

    Returns:
        whether rows are taken by ``iloc``.

    Example:
        >>> is_frame(np.zeros(3))
        False
    """
    return hasattr(value, "iloc")


def is_sparse(value: Any) -> bool:
    """Whether a value is a SciPy sparse matrix or array.

    Args:
        value: anything.

    Returns:
        whether it turns into CSR.

    Example:
        >>> is_sparse(np.zeros(3))
        False
    """
    return hasattr(value, "tocsr")


def numeric_rows(X: Any) -> Any:
    """The rows to compute with: a float or integer array, a tensor, or a sparse CSR matrix of floats.

    Args:
        X: (n, d) array, tensor, sparse matrix, data frame or list of lists.

    Returns:
        (n, d); the same memory where that can be.

    Raises:
        ValueError: for no rows, values that are no numbers, NaN or infinity.

    Example:
        >>> numeric_rows([[1, 2], [3, 4.5]]).dtype
        dtype('float64')
    """
    if is_sparse(X):
        rows = X.tocsr()
        checks.require(rows.shape[0] > 0, f"X must have at least one row: got shape {rows.shape}.")
        checks.finite("X", rows.data)
        return rows if rows.dtype.kind == "f" else rows.astype(np.float64)
    rows = X if isinstance(X, Tensor) else np.asarray(X)
    if isinstance(rows, np.ndarray) and rows.dtype.kind not in "fiu":
        try:
            rows = rows.astype(np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(
                "X must hold numbers: some columns do not; encode them, or name them to SMOTENC as categorical."
            ) from error
    checks.matrix("X", rows)
    checks.finite("X", rows)
    return rows


def label_array(y: Any) -> Array:
    """Labels as one array, one a row.

    Args:
        y: (n,) or (n, 1) array, tensor, series or list of classes; or (n, c) with a single one in every row.

    Returns:
        (n,) array; columns stand for themselves where y has several.

    Raises:
        ValueError: for labels that are no classes.

    Example:
        >>> label_array([[0, 1, 0], [0, 0, 1]]).tolist()
        [1, 2]
    """
    labels = y.detach().cpu().numpy() if isinstance(y, Tensor) else np.asarray(y)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim == 2:
        alone = bool(np.isin(labels, (0, 1)).all()) and bool((labels.sum(1) == 1).all())
        checks.require(
            alone, "y of several columns must have a single one in every row: a row of several classes came."
        )
        return np.asarray(labels.argmax(1))
    checks.require(labels.ndim == 1, f"y must be one-dimensional: got shape {labels.shape}.")
    if labels.dtype.kind == "f":
        checks.finite("y", labels)
        checks.require(bool((labels == np.rint(labels)).all()), "y must hold classes: got numbers that are not whole.")
    return labels


def room_for(rows: Any, added: int) -> Any:
    """A dense table with the rows first and room for more after them.

    Args:
        rows: (n, d) array or tensor.
        added: further rows.

    Returns:
        (n + added, d) of the same kind.

    Example:
        >>> room_for(np.ones((1, 2)), 3).shape
        (4, 2)
    """
    shape = (len(rows) + added, rows.shape[1])
    out = np.empty(shape, rows.dtype) if isinstance(rows, np.ndarray) else rows.new_empty(shape)
    out[: len(rows)] = rows.detach() if isinstance(rows, Tensor) else rows
    return out


def rows_like(X: Any, rows: Any) -> Any:
    """A table in the form that X came in: frames with its columns and dtypes, sparse formats, lists.

    Args:
        X: (n, d) what came.
        rows: (m, d) what goes.

    Returns:
        (m, d).

    Example:
        >>> rows_like([[1.0]], np.array([[1.0], [2.0]]))
        [[1.0], [2.0]]
    """
    if is_frame(X):
        return type(X)(rows, columns=X.columns).astype(X.dtypes)
    if is_sparse(X):
        return rows.asformat(X.format)
    return rows.tolist() if isinstance(X, list) else rows


def labels_like(y: Any, labels: Array, index: Any) -> Any:
    """Labels in the form that y came in.

    Args:
        y: what came.
        labels: (m,) as ``label_array`` gives them.
        index: of the table beside them, for a frame or series; None for no frame.

    Returns:
        (m,), or (m, c) where y had several columns.

    Example:
        >>> labels_like(torch.tensor([0, 1]), np.array([0, 1, 1]), None)
        tensor([0, 1, 1])
    """
    columns = getattr(y, "shape", (0,))[1:]
    full: Any = labels
    if columns and columns[0] > 1:
        full = np.eye(columns[0], dtype=np.int64)[labels]
    if isinstance(y, Tensor):
        return torch.from_numpy(full).to(y.device, y.dtype)
    if is_frame(y):
        shaped = (
            type(y)(full, columns=y.columns).astype(y.dtypes) if columns else type(y)(full, dtype=y.dtype, name=y.name)
        )
        return shaped if index is None else shaped.set_axis(index)
    if isinstance(y, list):
        return full.tolist()
    return full.astype(y.dtype) if isinstance(y, np.ndarray) and columns else full
