"""Heterogeneous graphs as meta-paths between the nodes of one type, with the nodes met on the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tamis import checks


@dataclass(frozen=True)
class HeteroGraph:
    """A graph as MEOW (arXiv:2212.13847) sees it.

    Args:
        features: (n, f) float, of the nodes that get embeddings.
        adjacencies: one (n, n) float per meta-path: how many such paths join two nodes, self loops included.
        contexts: per meta-path the (type, incidence) of the nodes along it: (n, n_type) float, a type for every place
            between the ends; empty for a path without context.
        others: (n_type, f_type) float, features of the other types by name.

    Example:
        >>> writes = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])  # papers and authors
        >>> contexts = [[("author", writes)]]
        >>> HeteroGraph(torch.eye(3), [writes @ writes.T], contexts, {"author": torch.eye(2)}).check()
        >>> (writes @ writes.T)[1].tolist()
        [1.0, 2.0, 1.0]
    """

    features: Tensor
    adjacencies: Sequence[Tensor]
    contexts: Sequence[Sequence[tuple[str, Tensor]]] = ()
    others: Mapping[str, Tensor] = field(default_factory=dict)

    def check(self) -> None:
        """Require shapes that fit.

        Raises:
            ValueError: unless they do.
        """
        checks.matrix("features", self.features)
        checks.finite("features", self.features)
        n = len(self.features)
        checks.require(len(self.adjacencies) > 0, "adjacencies must hold at least one meta-path: got none.")
        for adjacency in self.adjacencies:
            _square(adjacency)
            checks.same_length("adjacencies", adjacency, "features", self.features)
        checks.require(
            len(self.contexts) in (0, len(self.adjacencies)),
            f"contexts must have one entry per meta-path: {len(self.adjacencies)} paths, {len(self.contexts)} entries.",
        )
        for name, incidence in (pair for path in self.contexts for pair in path):
            checks.require(name in self.others, f"others must hold the features of every context type: {name!r} lacks.")
            wanted = (n, len(self.others[name]))
            checks.require(
                tuple(incidence.shape) == wanted,
                f"contexts of type {name!r} must be {wanted}: got {tuple(incidence.shape)}.",
            )


def pathsim_topk(adj: Tensor, k: int) -> Tensor:
    """Keep, for every node, the k neighbours most alike to it.

    The pruning of MEOW (arXiv:2212.13847) by PathSim, ``s_ij = 2 A_ij / (A_ii + A_jj)``. Ties go by column. Not
    symmetric: a node may be among another's neighbours and not the reverse.

    Args:
        adj: (n, n) float, numbers of meta-paths, not negative.
        k: neighbours, itself included where it has paths to itself; at least 1.

    Returns:
        (n, n) float: the PathSim of the kept pairs, else 0. ``adj * (result > 0)`` are their numbers of paths.

    Raises:
        ValueError: for a matrix that is not square, negative numbers, or k below 1.

    Example:
        >>> pathsim_topk(torch.tensor([[2.0, 1.0], [1.0, 4.0]]), 2)[0, 1].item()
        0.3333333432674408
    """
    _square(adj)
    checks.finite("adj", adj)
    checks.require(bool((adj >= 0).all()), "adj must not be negative: it counts paths.")
    checks.at_least("k", k, 1)
    own = adj.diagonal()
    both = own[:, None] + own
    alike = torch.where(adj > 0, 2 * adj / both.clamp_min(torch.finfo(adj.dtype).tiny), torch.zeros_like(adj))
    # A path without paths back to its ends has no PathSim; its own number keeps it in order.
    alike = torch.where((both == 0) & (adj > 0), adj, alike)
    order = alike.argsort(dim=1, descending=True, stable=True)[:, :k]
    return torch.zeros_like(alike).scatter(1, order, alike.gather(1, order))


def symmetric_normalisation(adj: Tensor) -> Tensor:
    """``D^-1/2 A D^-1/2`` with the row sums D; rows without neighbours stay zero.

    The adjacency of the graph convolutions in MEOW (arXiv:2212.13847).

    Args:
        adj: (n, n) float, not negative.

    Returns:
        (n, n) float.

    Raises:
        ValueError: for a matrix that is not square.

    Example:
        >>> symmetric_normalisation(torch.ones(4, 4))[0].tolist()
        [0.25, 0.25, 0.25, 0.25]
    """
    _square(adj)
    degrees = adj.sum(1)
    scale = torch.where(degrees > 0, degrees, torch.ones_like(degrees)).rsqrt()
    return scale[:, None] * adj * scale


def mask_edges(adj: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Drop a share of the edges, give the others and every self loop weight one, and normalise.

    The masked copy of MEOW (arXiv:2212.13847), as in the official code.

    Args:
        adj: (n, n) float.
        share: of the edges, self loops not counted, rounded down.
        generator: torch generator.

    Returns:
        (n, n) float, normalised.

    Raises:
        ValueError: for a share outside 0 to 1.

    Example:
        >>> mask_edges(torch.ones(2, 2), 1.0, torch.Generator()).tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    _square(adj)
    checks.between("share", share, 0, 1)
    loops = torch.eye(len(adj), dtype=adj.dtype, device=adj.device)
    edges = ((adj != 0) & (loops == 0)).nonzero()
    order = torch.randperm(len(edges), generator=generator, device=generator.device)
    kept = edges[order.to(adj.device)[int(share * len(edges)) :]]
    return symmetric_normalisation(loops.index_put((kept[:, 0], kept[:, 1]), loops.new_ones(())))


def mask_features(features: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Set a share of the features that are not zero to zero.

    The masked copy of MEOW (arXiv:2212.13847), as in the official code.

    Args:
        features: (n, f) float.
        share: rounded down.
        generator: torch generator.

    Returns:
        (n, f) float.

    Raises:
        ValueError: for a share outside 0 to 1.

    Example:
        >>> mask_features(torch.ones(2, 2), 0.5, torch.Generator()).sum().item()
        2.0
    """
    checks.between("share", share, 0, 1)
    places = features.flatten().nonzero().flatten()
    order = torch.randperm(len(places), generator=generator, device=generator.device)
    gone = places[order.to(features.device)[: int(share * len(places))]]
    return features.flatten().index_fill(0, gone, 0.0).view_as(features)


def _square(adj: Tensor) -> None:
    checks.require(
        adj.ndim == 2 and adj.shape[0] == adj.shape[1], f"adj must be square (n, n): got shape {tuple(adj.shape)}."
    )
