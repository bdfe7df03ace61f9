"""Graphs as edges (2, e) with weights (e,): nearest neighbours, normalisation, powers."""

from __future__ import annotations

import warnings
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from tamis import checks, search

Array = np.ndarray[Any, Any]
Kind = TypeVar("Kind", Array, Tensor)


def knn_graph(embeddings: Kind, k: int, *, metric: Literal["euclidean", "cosine"] = "euclidean") -> Kind:
    """Edges from every row to its k nearest other rows, exactly.

    The graph of PamC (arXiv:2209.14067) for data without one; symmetry comes with ``normalised_adjacency``.

    Args:
        embeddings: (n, d) float; compared in float32.
        k: neighbours per row, from 1 to n - 1.
        metric: "euclidean" distance or "cosine" similarity.

    Returns:
        (2, n k) int64, array or tensor like embeddings: rows and their neighbours, nearest first.

    Raises:
        ValueError: for rows that are not finite, or k out of range.

    Example:
        >>> knn_graph(np.array([[0.0], [1.0], [5.0]]), 1)
        array([[0, 1, 2],
               [1, 0, 1]])
    """
    checks.one_of("metric", metric, ("euclidean", "cosine"))
    checks.matrix("embeddings", embeddings)
    checks.finite("embeddings", embeddings)
    n = len(embeddings)
    checks.between("k", k, 1, n - 1)
    x = torch.tensor(embeddings) if isinstance(embeddings, np.ndarray) else embeddings.detach()
    if metric == "cosine":
        queries = passages = torch.nn.functional.normalize(x.double(), dim=1).float()
    else:
        # The largest x . y - |y|^2 / 2 is the smallest distance; around the mean it loses least to rounding.
        x = x.double() - x.double().mean(0)
        queries = torch.cat([x, torch.ones_like(x[:, :1])], 1).float()
        passages = torch.cat([x, -x.square().sum(1, keepdim=True) / 2], 1).float()
    itself = torch.arange(n + 1, device=x.device), torch.arange(n, device=x.device)
    _, nearest = search.top_k(queries, passages, k, exclude=itself)
    edges = torch.stack([torch.arange(n, device=x.device).repeat_interleave(k), nearest.flatten()])
    return edges.numpy() if isinstance(embeddings, np.ndarray) else edges


def normalised_adjacency(
    edge_index: Tensor, edge_weight: Tensor | None = None, *, n_nodes: int | None = None
) -> tuple[Tensor, Tensor]:
    """The graph made symmetric, with self loops, every row divided by its sum.

    The adjacency of the official code of PamC (arXiv:2209.14067): the maximum of both directions, plus the identity,
    divided by the degree.

    Args:
        edge_index: (2, e) int64, edges from the first row to the second; of repeated ones the largest counts.
        edge_weight: (e,) float, not negative; None is ones.
        n_nodes: how many nodes there are; None is the largest index plus one.

    Returns:
        edge_index (2, m), sorted, and edge_weight (m,).

    Raises:
        ValueError: for edges of other shape or out of range, or weights that are negative or not finite.

    Example:
        >>> edges, weights = normalised_adjacency(torch.tensor([[0], [1]]), n_nodes=3)
        >>> edges.tolist(), weights.tolist()
        ([[0, 0, 1, 1, 2], [0, 1, 0, 1, 2]], [0.5, 0.5, 0.5, 0.5, 1.0])
    """
    edge_weight = torch.ones(edge_index.shape[-1], device=edge_index.device) if edge_weight is None else edge_weight
    n = check_edges(edge_index, edge_weight, n_nodes)
    rows, columns = edge_index
    both_ways = torch.cat([rows * n + columns, columns * n + rows])
    keys, place = both_ways.unique(return_inverse=True)  # type: ignore[no-untyped-call]
    both = torch.cat([edge_weight, edge_weight]).detach()
    largest = both.new_zeros(len(keys)).scatter_reduce(0, place, both, "amax")
    loops = torch.arange(n, device=edge_index.device)
    edges = torch.cat([torch.stack([keys // n, keys % n]), torch.stack([loops, loops])], 1)
    edges, weights = _parts(_sparse(edges, torch.cat([largest, largest.new_ones(n)]), n))
    degrees = weights.new_zeros(n).index_add(0, edges[0], weights)
    return edges, weights / degrees[edges[0]]


def adjacency_power(
    edge_index: Tensor, edge_weight: Tensor, order: int, *, cumulative: bool = True, n_nodes: int | None = None
) -> tuple[Tensor, Tensor]:
    """The power of a weighted graph, ``A + A^2 + ... + A^order``, or ``A^order`` alone.

    The neighbourhood of order r of PamC (arXiv:2209.14067; ``influence`` in the official code). Powers fill up: keep
    the order low.

    Args:
        edge_index: (2, e) int64.
        edge_weight: (e,) float, say of ``normalised_adjacency``.
        order: r, at least 1.
        cumulative: the sum of all powers up to the order.
        n_nodes: how many nodes there are; None is the largest index plus one.

    Returns:
        edge_index (2, m), sorted, and edge_weight (m,), without gradient.

    Raises:
        ValueError: for an order below 1, edges of other shape or out of range, weights negative or not finite.

    Example:
        >>> edges = torch.tensor([[0, 1, 2], [1, 2, 0]])  # a ring
        >>> adjacency_power(edges, torch.ones(3), 2, cumulative=False)[0].tolist()
        [[0, 1, 2], [2, 0, 1]]
    """
    checks.at_least("order", order, 1)
    n = check_edges(edge_index, edge_weight, n_nodes)
    adjacency = _sparse(edge_index, edge_weight.detach(), n)
    power = total = adjacency
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")  # what the product uses inside
        for _ in range(order - 1):
            power = torch.sparse.mm(power, adjacency)
            total = total + power
    return _parts((total if cumulative else power).coalesce())


def check_edges(edge_index: Tensor, edge_weight: Tensor, n_nodes: int | None = None) -> int:
    """Require edges (2, e) among the nodes and a weight for each that is finite and not negative.

    The inputs of PamC (arXiv:2209.14067).

    Args:
        edge_index: (2, e) int64.
        edge_weight: (e,) float.
        n_nodes: how many nodes there are; None is the largest index plus one.

    Returns:
        how many nodes there are.

    Raises:
        ValueError: unless it is so.

    Example:
        >>> check_edges(torch.tensor([[0, 4], [1, 2]]), torch.ones(2))
        5
    """
    checks.require(
        edge_index.ndim == 2 and len(edge_index) == 2 and edge_index.dtype == torch.int64,
        f"edge_index must be (2, e) int64: got {tuple(edge_index.shape)} {edge_index.dtype}.",
    )
    checks.require(
        tuple(edge_weight.shape) == (edge_index.shape[1],),
        f"edge_weight must have one entry per edge: {edge_index.shape[1]} edges, got shape {tuple(edge_weight.shape)}.",
    )
    if edge_index.shape[1] == 0:
        checks.require(n_nodes is not None and n_nodes > 0, "n_nodes must be given for a graph without edges.")
        return int(n_nodes or 0)
    low, high = int(edge_index.min()), int(edge_index.max())
    n = high + 1 if n_nodes is None else n_nodes
    checks.require(low >= 0 and high < n, f"edge_index must lie in 0..{n - 1}, the nodes: got {low}..{high}.")
    checks.finite("edge_weight", edge_weight.detach())
    checks.require(
        float(edge_weight.detach().min()) >= 0,
        f"edge_weight must not be negative: got {float(edge_weight.detach().min()):g}.",
    )
    return n


def _sparse(edges: Tensor, weights: Tensor, n: int) -> Tensor:
    return torch.sparse_coo_tensor(edges, weights, (n, n), check_invariants=False).coalesce()


def _parts(matrix: Tensor) -> tuple[Tensor, Tensor]:
    return matrix.indices(), matrix.values()
