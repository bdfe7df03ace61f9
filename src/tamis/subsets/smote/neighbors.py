"""Nearest rows by Euclidean distance, exact in float64, at the price of a search in less.

``tamis.search`` finds candidates by inner products of centred float32 rows; the distances of these few are taken again
in float64. What the k-th of them proves about all other rows, with the rounding of the products accounted for, settles
most rows at once; for the others every row that might still be nearer is fetched. A row is never its own neighbour, and
equal distances fall to the lower index.
"""

from __future__ import annotations

import copy
import math
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tamis import checks, search
from tamis.scan import scan

Array = np.ndarray[Any, Any]

_SPARE = 3  # candidates beyond k: the distance of the last one must prove that all others are farther
_HELD = 2_000_000  # pairs that wait to be ranked
_BYTES = 2**21  # of rows gathered at once: both sides of the differences stay in the cache
_MEMORY = 2**28


def count_of(name: str, neighbors: Any) -> int:
    """How many neighbours are meant, by a number or by an estimator that looks for them and for the row itself.

    Args:
        name: of the argument, for the message.
        neighbors: int, or an object with ``n_neighbors`` and ``kneighbors``.

    Returns:
        the number, at least 1.

    Raises:
        ValueError: for a number below 1, or an object that cannot look for neighbours.

    Example:
        >>> count_of("k_neighbors", 5)
        5
    """
    if hasattr(neighbors, "kneighbors"):
        neighbors = neighbors.n_neighbors - 1
    whole = isinstance(neighbors, (int, np.integer)) and not isinstance(neighbors, bool)
    checks.require(
        whole and neighbors >= 1,
        f"{name} must be a whole number of at least 1, or an estimator with kneighbors: got {checks.shown(neighbors)}.",
    )
    return int(neighbors)


def nearest_rows(rows: Any, queries: Array, among: Array, neighbors: Any) -> Array:
    """The nearest rows to some rows, themselves left out, nearest first.

    Args:
        rows: (n, d) float array, tensor or sparse CSR matrix.
        queries: (q,) int64, rows whose neighbours are wanted; all of them are among ``among``.
        among: (m,) int64 ascending, rows that may be neighbours, more than k.
        neighbors: k, or an estimator with ``fit``, ``kneighbors`` and ``n_neighbors`` of k + 1.

    Returns:
        (q, k) int64, indices of ``rows``.

    Example:
        >>> points = np.array([[0.0], [1.0], [3.0], [1.0]])
        >>> nearest_rows(points, np.array([1, 2]), np.arange(4), 2).tolist()
        [[3, 0], [1, 3]]
    """
    k, own = count_of("neighbors", neighbors), np.searchsorted(among, queries)
    if hasattr(neighbors, "kneighbors"):
        places = _asked(rows[queries], rows[among], own, neighbors)
    elif hasattr(rows, "tocsr"):
        places = _of_sparse(rows[queries], rows[among], own, k)
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torch warns of read-only memory, which is never written to
            tensor = rows.detach() if isinstance(rows, Tensor) else torch.from_numpy(_floats(rows))
        parts = (torch.from_numpy(np.array(part)).to(tensor.device) for part in (queries, among, own))
        places = _of_dense(tensor, k, *parts).cpu().numpy()
    return among[places]


def _floats(rows: Array) -> Array:
    """Rows as torch takes them: it knows few kinds of integers."""
    return np.ascontiguousarray(rows if rows.dtype.kind == "f" else rows.astype(np.float64))


def _of_dense(rows: Tensor, k: int, queries: Tensor, among: Tensor, own: Tensor) -> Tensor:
    """Places in ``among`` of the k nearest to each query, without its own place."""
    device = rows.device
    units, norms, scale = _centred(rows, among)
    passages = torch.cat([units, (norms.mean() - norms)[:, None].float() / 2], 1)
    del units
    asked = passages[own]
    asked[:, -1] = 1
    barred = torch.arange(len(queries) + 1, device=device), own
    width = min(k + _SPARE, len(among) - 1)
    scores, places = search.top_k(asked, passages, width, exclude=barred, max_memory=_MEMORY)
    here = torch.arange(len(queries), device=device)
    distances = _distances(rows, queries, among, here.repeat_interleave(width), places.flatten()).view(-1, width)
    order = places.argsort(1)
    order = order.gather(1, distances.gather(1, order).argsort(stable=True, dim=1))
    found, kth = places.gather(1, order)[:, :k], distances.gather(1, order[:, k - 1 : k])[:, 0]
    if width == len(among) - 1:
        return found
    floors = _floors(norms[own], norms.mean(), kth * scale**2, rows.shape[1])
    left = (floors <= scores[:, -1]).nonzero()[:, 0]
    if len(left) > 0:
        barred = torch.arange(len(left) + 1, device=device), own[left]
        asked, queries, kth = asked[left], queries[left], kth[left]
        held: list[tuple[Tensor, Tensor, Tensor]] = []
        for pairs in scan(asked, passages, floors[left], precision="auto", max_memory=_MEMORY, barred=barred):
            row = pairs.start + pairs.rows
            squares = _distances(rows, queries, among, row, pairs.columns)
            near = squares <= kth[row]
            held.append((row[near], pairs.columns[near], squares[near]))
            if sum(len(part[0]) for part in held) > _HELD:
                held = [_best(held, k)]
        found[left] = _best(held, k)[1].view(-1, k)
    return found


def _centred(rows: Tensor, among: Tensor) -> tuple[Tensor, Tensor, float]:
    """Rows less their mean, scaled to norms of at most one: float32; their squared norms in float64; the scale."""
    pieces = torch.split(among, max(1, _BYTES // (8 * rows.shape[1])))
    mean = sum(rows[piece].double().sum(0) for piece in pieces) / len(among)
    norms = torch.cat([(rows[piece].double() - mean).square().sum(1) for piece in pieces])
    longest = math.sqrt(float(norms.max()))
    checks.require(math.isfinite(longest), "X must have squares that fit into float64: some overflow; scale it down.")
    # A power of two rounds nothing. Rows too close together for a scale all look alike, and are told apart by distance.
    scale = 2.0 ** -math.ceil(math.log2(longest)) if longest > 1e-150 else 1.0
    units = torch.cat([((rows[piece].double() - mean) * scale).float() for piece in pieces])
    return units, norms * scale**2, scale


def _floors(norms: Tensor, mean: Tensor, kth: Tensor, d: int) -> Tensor:
    """A product that every row at the squared distance ``kth`` or less reaches, however it was rounded.

    With h = (mean - |p|^2) / 2 the product is q.p + h = (|q|^2 + mean - |q - p|^2) / 2. Rounding the factors and h to
    float32 and adding up d + 1 terms errs by at most (d + 4) half-units of |q||p| + |h|, and |p| <= |q| + |q - p|.
    """
    longest = norms.sqrt() + kth.sqrt()
    error = (d + 5) * 2.0**-24 * 1.01 * (norms.sqrt() * longest + torch.maximum(mean, longest**2) / 2)
    floors = (norms + mean - kth) / 2 - error
    return torch.nextafter(floors.float(), torch.full_like(floors, -math.inf, dtype=torch.float32))


def _distances(rows: Tensor, queries: Tensor, among: Tensor, row: Tensor, place: Tensor) -> Tensor:
    """Squared distances of pairs (row of ``queries``, place in ``among``), by differences in float64."""
    step = max(1, _BYTES // (8 * rows.shape[1]))
    squares = torch.empty(len(row), dtype=torch.float64, device=rows.device)
    for start in range(0, len(row), step):
        piece = slice(start, start + step)
        difference = rows[queries[row[piece]]].double() - rows[among[place[piece]]].double()
        squares[piece] = difference.square_().sum(1)
    return squares


def _best(held: list[tuple[Tensor, Tensor, Tensor]], k: int) -> tuple[Tensor, Tensor, Tensor]:
    """The k nearest pairs of each row, by row, distance and place."""
    row, place, squares = (torch.cat(parts) for parts in zip(*held, strict=True))
    order = place.argsort()
    order = order[squares[order].argsort(stable=True)]
    order = order[row[order].argsort(stable=True)]
    sorted_rows = row[order]
    rank = torch.arange(len(order), device=row.device) - torch.searchsorted(sorted_rows, sorted_rows)
    kept = order[rank < k]
    return row[kept], place[kept], squares[kept]


def _of_sparse(asked: Any, passages: Any, own: Array, k: int) -> Array:
    """As ``_of_dense`` for CSR matrices: products in blocks, then distances of what they cannot tell apart."""
    norms = np.asarray(passages.multiply(passages).sum(1), dtype=np.float64).ravel()
    error = 8 * (passages.shape[1] + 4) * np.finfo(np.float64).eps * norms.max()
    places = np.empty((len(own), k), dtype=np.int64)
    step = max(1, _MEMORY // (64 * len(norms)))
    across = passages.T.tocsr().astype(np.float64)
    for start in range(0, len(own), step):
        mine, block = own[start : start + step], asked[start : start + step].astype(np.float64)
        squares = norms[mine][:, None] + norms - 2 * (block @ across).toarray()
        squares[np.arange(len(mine)), mine] = np.inf
        kth = np.partition(squares, k - 1, axis=1)[:, k - 1]
        row, place = (squares <= kth[:, None] + error).nonzero()
        difference = block[row] - passages[place].astype(np.float64)
        exact = np.asarray(difference.multiply(difference).sum(1)).ravel()
        order = np.lexsort((place, exact, row))
        rank = np.arange(len(order)) - np.searchsorted(row, row)
        places[start : start + step] = place[order[rank < k]].reshape(-1, k)
    return places


def _asked(asked: Any, passages: Any, own: Array, estimator: Any) -> Array:
    """What an estimator finds, without the row itself, or without the last where it did not find the row."""
    if isinstance(passages, Tensor):
        asked, passages = asked.detach().cpu().numpy(), passages.detach().cpu().numpy()
    found = copy.deepcopy(estimator).fit(passages).kneighbors(asked, return_distance=False)
    order = np.argsort(found == own[:, None], axis=1, kind="stable")
    return np.take_along_axis(np.asarray(found), order, axis=1)[:, :-1]
