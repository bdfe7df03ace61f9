"""Clustering: balanced binary bisection, k-means, and assignment under capacities.

``balanced_bisect`` cuts rows into groups of one size by halving them again and again along the best cosine split;
``kmeans`` is Lloyd's algorithm in blocks, plain or spherical; ``balanced_assign`` gives every row a cluster when every
cluster has only so much room. All three are exact in their memory bound, take arrays or tensors, and return the same
kind. Peak memory is the input, one float copy of it where rows are normalised, and one block.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from tamis import checks
from tamis.randomness import Seed, as_generator

Array = np.ndarray[Any, Any]
Kind = TypeVar("Kind", Array, Tensor)

_SPLIT_BLOCK = 4_000_000  # bytes of rows that are split together: they stay in the processor's cache
_BLOCK = 64_000_000  # bytes of scores and rows in one block of k-means


class KMeans(NamedTuple):
    """What ``kmeans`` found.

    Args:
        labels: (n,) int64, the cluster of each row.
        centroids: (k, d), of the input's dtype.
        inertia: sum of squared distances of rows to their centroids.
    """

    labels: Any
    centroids: Any
    inertia: float


def balanced_bisect(
    embeddings: Kind,
    *,
    num_clusters: int | None = None,
    cluster_size: int | None = None,
    power_of_two: bool = True,
    tol: float = 1e-4,
    seed: Seed = 0,
) -> Kind:
    """Cut rows into clusters whose sizes differ by at most one, by balanced binary spherical 2-means.

    The clustering of NGAME (Dahiya et al., 2022; the official code's ``b_kmeans_dense``): every set is split around two
    of its rows, sorted by the difference of the two cosines and cut in the middle; centroids become the normalised
    means until the mean cosine of rows with their centroid gains less than ``tol``. Ties go by row number.

    Args:
        embeddings: (n, d) float: rows need not be normalised, only their direction counts; computed in float32.
        num_clusters: how many clusters, or give ``cluster_size``.
        cluster_size: rows per cluster; asks for ``ceil(n / cluster_size)`` clusters, so none is larger.
        power_of_two: round the number of clusters up to a power of two, as the official code does (one row is never
            split, so there are at most n clusters); False gives exactly the number asked for.
        tol: least gain of the mean cosine for one more round.
        seed: seed or generator.

    Returns:
        (n,) int64 labels 0, 1, ...; neighbouring labels are neighbours in the tree of splits.

    Raises:
        ValueError: for no rows, NaN, a row of length zero, or a number or size of clusters outside 1 to n.

    Example:
        >>> rows = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
        >>> labels = balanced_bisect(rows, num_clusters=2)
        >>> bool(labels[0] == labels[1] != labels[2] == labels[3])
        True
    """
    source = _tensor("embeddings", embeddings)
    n, device = len(source), source.device
    checks.require(
        (num_clusters is None) != (cluster_size is None), "give either num_clusters or cluster_size, and only one."
    )
    checks.positive("tol", tol)
    if num_clusters is None:
        assert cluster_size is not None
        checks.between("cluster_size", cluster_size, 1, n)
        num_clusters = math.ceil(n / cluster_size)
    checks.between("num_clusters", num_clusters, 1, n)
    unit, rng = _unit_rows(source.float(), "embeddings"), as_generator(seed)
    leaves = torch.tensor([2 ** math.ceil(math.log2(num_clusters)) if power_of_two else num_clusters], device=device)
    order, sizes = torch.arange(n, device=device), torch.tensor([n], device=device)
    while bool(((leaves > 1) & (sizes > 1)).any()):
        order, sizes, leaves = _split_level(unit, order, sizes, leaves, tol, rng)
    labels = torch.empty(n, dtype=torch.int64, device=device)
    labels[order] = torch.repeat_interleave(torch.arange(len(sizes), device=device), sizes)
    return _like(labels, embeddings)


def kmeans(
    embeddings: Kind,
    k: int,
    *,
    spherical: bool = False,
    init: str = "k-means++",
    iterations: int = 25,
    block_bytes: int = _BLOCK,
    seed: Seed = 0,
) -> KMeans:
    """Lloyd's k-means in blocks, plain (squared distance) or spherical (cosine).

    Starts from k-means++ (Arthur and Vassilvitskii 2007, with greedy trials) on a sample of
    ``max(8 k, 10,000)`` rows, or from k random rows; a cluster that runs empty restarts at the row that is farthest
    from its centroid. Stops when no row changes its cluster.

    Args:
        embeddings: (n, d) float; float64 is computed in float64, everything else in float32.
        k: clusters, from 1 to n.
        spherical: normalise rows and centroids to length 1.
        init: "k-means++" or "random".
        iterations: most rounds of moving the centroids, at least 1.
        block_bytes: memory for one block of rows and scores.
        seed: seed or generator.

    Returns:
        ``KMeans(labels, centroids, inertia)``: (n,) int64, (k, d) of the input's dtype, and the sum of squared
        distances of rows (normalised ones if spherical) to their centroids. Labels belong to the centroids returned.

    Raises:
        ValueError: for no rows, NaN, k outside 1 to n, or rows of length zero if spherical.

    Example:
        >>> found = kmeans(np.array([[0.0], [1.0], [10.0], [11.0]]), 2)
        >>> sorted(found.centroids.ravel().tolist()), found.inertia
        ([0.5, 10.5], 1.0)
    """
    source = _tensor("embeddings", embeddings)
    checks.between("k", k, 1, len(source))
    checks.at_least("iterations", iterations, 1)
    checks.one_of("init", init, ("k-means++", "random"))
    rows = source if source.dtype == torch.float64 else source.float()
    rng = as_generator(seed)
    rows = _unit_rows(rows, "embeddings") if spherical else rows
    take = max(1, block_bytes // (rows.element_size() * (k + rows.shape[1])))
    blocks = [slice(start, start + take) for start in range(0, len(rows), take)]
    centroids = _first_centroids(rows, k, init, rng)
    labels, gains = _nearest(rows, centroids, blocks)
    for _ in range(iterations):
        centroids = _means(rows, labels, gains, centroids, blocks)
        centroids = torch.nn.functional.normalize(centroids, dim=1) if spherical else centroids
        before = labels
        labels, gains = _nearest(rows, centroids, blocks)
        if torch.equal(before, labels):
            break
    inertia = sum(float((rows[b] - centroids[labels[b]]).square().sum(dtype=torch.float64)) for b in blocks)
    return KMeans(_like(labels, embeddings), _like(centroids.to(source.dtype), embeddings), inertia)


def balanced_assign(scores: Kind, capacities: int | Kind, *, order: str = "regret") -> Kind:
    """Give every row one column, none more rows than its capacity, close to the highest total score.

    "regret" serves rows by what they would lose at their second choice (best score minus second best, largest first)
    and gives each its best column with room. "score" takes all (row, column) pairs from the highest score down. Both
    equal the plain loop over that order; they are computed as deferred acceptance (Gale and Shapley 1962), which
    reaches the same assignment in rounds over all rows at once. Ties go by row number, then by column number.

    Args:
        scores: (n, k) float, larger is better; for distances hand in their negative.
        capacities: rows per column, one int for all or (k,) int; their sum must be at least n.
        order: "regret" or "score".

    Returns:
        (n,) int64, the column of each row.

    Raises:
        ValueError: when there is not room for all rows, or a score is NaN or infinite.

    Example:
        >>> balanced_assign(np.array([[3.0, 2.0], [5.0, 1.0], [4.0, 3.5]]), np.array([1, 2])).tolist()
        [1, 0, 1]
    """
    table = _tensor("scores", scores)
    n, k = table.shape
    checks.one_of("order", order, ("regret", "score"))
    room = torch.as_tensor(capacities, device=table.device).to(torch.int64)
    room = room.expand(k) if room.ndim == 0 else room
    checks.require(room.shape == (k,), f"capacities must have one entry per column of scores: {k}, got {len(room)}.")
    checks.require(bool((room >= 0).all()), "capacities must not be negative.")
    checks.require(
        int(room.sum()) >= n, f"capacities must make room for all rows: {n} rows, room for {int(room.sum())}."
    )
    best = torch.topk(table, min(2, k), dim=1).values
    regret = best[:, 0] - best[:, -1]
    chosen = torch.full((n,), -1, device=table.device)
    waiting = torch.arange(n, device=table.device)
    # A full column closes to whoever stands behind the last row it holds: (value, row) of that row.
    bar = torch.where(room > 0, -math.inf, math.inf).to(table.dtype)
    bar_row = torch.full((k,), n, device=table.device)
    while len(waiting):
        value = regret[waiting, None] if order == "regret" else table[waiting]
        open_ = (value > bar) | ((value == bar) & (waiting[:, None] < bar_row))
        chosen[waiting] = table[waiting].masked_fill(~open_, -math.inf).argmax(dim=1)
        held = torch.nonzero(chosen >= 0).flatten()
        column = chosen[held]
        value = regret[held] if order == "regret" else table[held, column]
        # Rows of one column side by side, best first: two stable sorts, rows are in ascending order already.
        ranked = torch.argsort(value, descending=True, stable=True)
        ranked = ranked[torch.argsort(column[ranked], stable=True)]
        held, column, value = held[ranked], column[ranked], value[ranked]
        count = torch.bincount(column, minlength=k)
        first = count.cumsum(0) - count
        place = torch.arange(len(held), device=table.device) - first[column]
        waiting = held[place >= room[column]]
        chosen[waiting] = -1
        full = torch.nonzero((count >= room) & (room > 0)).flatten()
        last = first[full] + room[full] - 1
        bar[full], bar_row[full] = value[last], held[last]
    return _like(chosen, scores)


def _tensor(name: str, value: Kind) -> Tensor:
    """A tensor over the memory of ``value``, checked to be a finite float matrix."""
    checks.matrix(name, value)
    with warnings.catch_warnings():  # a read-only array is only ever read here
        warnings.simplefilter("ignore", UserWarning)
        tensor = value if isinstance(value, Tensor) else torch.from_numpy(np.ascontiguousarray(value))
    tensor = tensor.detach()
    tensor = tensor if tensor.is_floating_point() else tensor.double()
    for start in range(0, len(tensor), 65_536):
        if not bool(torch.isfinite(tensor[start : start + 65_536]).all()):
            checks.finite(name, tensor)
    return tensor


def _like(value: Tensor, source: Kind) -> Kind:
    return value if isinstance(source, Tensor) else value.numpy()


def _unit_rows(rows: Tensor, name: str) -> Tensor:
    norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    zero = torch.nonzero(norms[:, 0] == 0).flatten()
    checks.require(
        len(zero) == 0,
        f"{name} must have a direction: {len(zero)} rows have length zero, the first is row "
        f"{int(zero[0]) if len(zero) else 0}; leave them out or add a constant feature.",
    )
    unit: Tensor = rows / norms
    return unit


def _split_level(
    unit: Tensor, order: Tensor, sizes: Tensor, leaves: Tensor, tol: float, rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Split every segment of ``order`` that is to hold more than one leaf, all of one kind in blocks."""
    device, d = order.device, unit.shape[1]
    starts = sizes.cumsum(0) - sizes
    draws = torch.from_numpy(rng.random((len(sizes), 2))).to(device)
    first = (draws[:, 0] * sizes).long()
    second = (first + 1 + (draws[:, 1] * (sizes - 1)).long()) % sizes
    order = order.clone()
    left_leaves = (leaves + 1) // 2
    left_sizes = torch.where((leaves > 1) & (sizes > 1), (sizes * left_leaves + leaves - 1) // leaves, sizes)
    # Sizes differ by at most one and leaves too, so segments come in a few kinds, each a regular (g, m, d) array.
    for size, count in torch.unique(torch.stack([sizes, leaves], 1), dim=0).tolist():
        if size == 1 or count == 1:
            continue
        which = torch.nonzero((sizes == size) & (leaves == count)).flatten()
        keep = int(left_sizes[which[0]])
        for part in torch.split(which, max(1, _SPLIT_BLOCK // (size * d * 4))):
            places = starts[part, None] + torch.arange(size, device=device)
            index = order[places]
            # The first level is the data itself: a view instead of a copy.
            rows = unit[None] if size == len(unit) else unit[index]
            left = _split(rows, first[part], second[part], keep, tol)
            halves = index[left].view(len(part), keep), index[~left].view(len(part), size - keep)
            order[places] = torch.cat(halves, dim=1)
    both = torch.stack([left_sizes, sizes - left_sizes], 1).flatten()
    both_leaves = torch.stack([left_leaves, leaves - left_leaves], 1).flatten()
    present = both > 0
    return order, both[present], both_leaves[present]


def _split(rows: Tensor, first: Tensor, second: Tensor, keep: int, tol: float) -> Tensor:
    """Balanced spherical 2-means on g sets of m unit rows (g, m, d): True for the ``keep`` rows of the left half."""
    g, m, _ = rows.shape
    at = torch.arange(g, device=rows.device)
    total = rows.sum(dim=1)
    direction = rows[at, second] - rows[at, first]
    result = torch.empty((g, m), dtype=torch.bool, device=rows.device)
    before = torch.full((g,), -2.0, device=rows.device)
    running = torch.ones(g, dtype=torch.bool, device=rows.device)
    while len(at):
        gap = torch.bmm(direction[:, None], rows.transpose(1, 2))[:, 0]
        left = _smallest(gap, keep)
        result[at[running]] = left[running]
        left_sum = torch.bmm(left[:, None].to(rows.dtype), rows)[:, 0]
        right_sum = total - left_sum
        lengths = torch.stack([left_sum.norm(dim=1), right_sum.norm(dim=1)])
        # The sum of cosines of unit rows with their normalised mean is the length of their sum.
        similarity = lengths.sum(0) / m
        running &= similarity - before >= tol
        before = similarity
        safe = lengths.clamp_min(torch.finfo(rows.dtype).tiny)[:, :, None]
        direction = right_sum / safe[1] - left_sum / safe[0]
        if 2 * int(running.sum()) <= len(at):  # copying the rest pays once half of the sets are done
            at, total, direction, before, rows = (x[running] for x in (at, total, direction, before, rows))
            running = running[running]
    return result


def _smallest(values: Tensor, keep: int) -> Tensor:
    """True for the ``keep`` smallest entries of each row; equal ones go by column, as in a stable sort."""
    bar = torch.kthvalue(values, keep, dim=1, keepdim=True).values
    below, equal = values < bar, values == bar
    room = keep - below.sum(dim=1, keepdim=True)
    return below | (equal & (equal.cumsum(dim=1) <= room))


def _nearest(rows: Tensor, centroids: Tensor, blocks: list[slice]) -> tuple[Tensor, Tensor]:
    """Nearest centroid of each row, and how far it is: half the squared distance less half the squared length."""
    half = centroids.square().sum(dim=1) / 2
    found = [torch.addmm(-half, rows[block], centroids.T).max(dim=1) for block in blocks]
    return torch.cat([f.indices for f in found]), -torch.cat([f.values for f in found])


def _means(rows: Tensor, labels: Tensor, gains: Tensor, centroids: Tensor, blocks: list[slice]) -> Tensor:
    """Means of the clusters; an empty one takes over the farthest row of a cluster that has others."""
    k = len(centroids)
    count = torch.bincount(labels, minlength=k)
    empty = torch.nonzero(count == 0).flatten().tolist()
    if empty:
        far = torch.cat([rows[b].square().sum(dim=1) / 2 + gains[b] for b in blocks])
        candidates = iter(torch.topk(far, min(len(rows), len(empty) + k)).indices.tolist())
        labels = labels.clone()
        for cluster, row in zip(empty, _movable(candidates, labels, count), strict=False):
            count[labels[row]] -= 1
            count[cluster], labels[row] = 1, cluster
    sums = torch.zeros_like(centroids)
    for block in blocks:
        sums.index_add_(0, labels[block], rows[block])
    return torch.where(count[:, None] > 0, sums / count.clamp_min(1)[:, None], centroids)


def _movable(candidates: Iterator[int], labels: Tensor, count: Tensor) -> Iterator[int]:
    return (row for row in candidates if count[labels[row]] > 1)


def _first_centroids(rows: Tensor, k: int, init: str, rng: np.random.Generator) -> Tensor:
    n = len(rows)
    if init == "random":
        return rows[torch.from_numpy(rng.choice(n, k, replace=False)).to(rows.device)]
    most = max(8 * k, 10_000)
    sample = rows if n <= most else rows[torch.from_numpy(np.sort(rng.choice(n, most, replace=False))).to(rows.device)]
    lengths = sample.square().sum(dim=1)
    # Greedy trials find better starts; where clusters are many, for no more work than four rounds over all rows.
    trials = 2 + int(math.log(k)) if k <= 64 else max(1, min(24, 4 * n // len(sample)))
    chosen = [int(rng.integers(len(sample)))]
    nearest = (lengths + lengths[chosen[0]] - 2 * (sample @ sample[chosen[0]])).clamp_min(0)
    while len(chosen) < k:
        mass = nearest.cumsum(0, dtype=torch.float64)
        draws = torch.from_numpy(rng.random(trials)).to(rows.device) * mass[-1]
        picks = torch.searchsorted(mass, draws, right=True).clamp_max(len(sample) - 1)
        offered = (lengths + lengths[picks, None] - 2 * (sample[picks] @ sample.T)).clamp_min(0)
        offered = torch.minimum(offered, nearest)
        best = int(offered.sum(dim=1).argmin())
        chosen.append(int(picks[best]))
        nearest = offered[best]
    return sample[torch.tensor(chosen, device=rows.device)]
