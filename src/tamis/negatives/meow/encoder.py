"""The graph encoder: meta-path adjacencies for the coarse view, and the nodes along the paths for the fine one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tamis import checks
from tamis.contrastive import unit_rows
from tamis.negatives.meow.graphs import (
    HeteroGraph,
    mask_edges,
    mask_features,
    pathsim_topk,
    symmetric_normalisation,
)


@dataclass(frozen=True)
class GraphViews:
    """A graph made ready for the encoder: pruned, normalised, and with a masked copy (MEOW, arXiv:2212.13847).

    Args:
        features: (n, f) float.
        masked_features: (n, f) float.
        adjacencies: one (n, n) float per meta-path, normalised.
        masked_adjacencies: likewise, with edges dropped.
        contexts: per meta-path the (type, (n, n_type) float), rows with sum one, or zero where there are no neighbours.
        others: (n_type, f_type) float by name.

    Example:
        >>> graph = HeteroGraph(torch.eye(2), [torch.ones(2, 2)])
        >>> GraphViews.of(graph, generator=torch.Generator()).adjacencies[0].sum(1).round(decimals=4).tolist()
        [1.0, 1.0]
    """

    features: Tensor
    masked_features: Tensor
    adjacencies: Sequence[Tensor]
    masked_adjacencies: Sequence[Tensor]
    contexts: Sequence[Sequence[tuple[str, Tensor]]]
    others: Mapping[str, Tensor]

    @classmethod
    def of(
        cls,
        graph: HeteroGraph,
        *,
        nei_max: int | None = None,
        feature_mask: float = 0.3,
        edge_mask: float | Sequence[float] = 0.3,
        generator: torch.Generator,
    ) -> GraphViews:
        """Prune by PathSim, mask, normalise.

        Args:
            graph: what comes.
            nei_max: neighbours kept per node and meta-path; None keeps all.
            feature_mask: share of features set to zero in the masked copy.
            edge_mask: share of edges dropped there, one for all meta-paths or one each.
            generator: torch generator.

        Returns:
            the views.

        Raises:
            ValueError: for shapes that do not fit or shares out of range.
        """
        graph.check()
        pruned = [a if nei_max is None else a * (pathsim_topk(a, nei_max) > 0) for a in graph.adjacencies]
        shares = [edge_mask] * len(pruned) if isinstance(edge_mask, int | float) else list(edge_mask)
        checks.same_length("edge_mask", shares, "adjacencies", pruned)
        contexts = graph.contexts or [()] * len(pruned)
        return cls(
            graph.features,
            mask_features(graph.features, feature_mask, generator),
            [symmetric_normalisation(a) for a in pruned],
            [mask_edges(a, share, generator) for a, share in zip(pruned, shares, strict=True)],
            # The official code of MEOW divides by zero neighbours; like that of AdaMEOW, such a mean is zero here.
            [[(name, m / m.sum(1, keepdim=True).clamp_min(1e-12)) for name, m in path] for path in contexts],
            graph.others,
        )


class HeteroContrastEncoder(nn.Module):
    """Two embeddings of every node: coarse, from its own features, and fine, with those of the nodes along the paths.

    The encoder of MEOW and AdaMEOW (arXiv:2212.13847): a linear map per type; one graph convolution of two layers,
    normalised over the whole matrix, for both views; the fine view is the attention-weighted sum of its embeddings
    along every meta-path, whole and masked. Dense: for graphs whose (n, n) matrices fit in memory.

    Args:
        feature_dim: f.
        context_dims: columns of the features of every other type.
        contexts: per meta-path the types along it.
        hidden: columns of all embeddings.
        dropout: share, in training mode.
        seed: of the start.

    Raises:
        ValueError: for sizes below 1 or dropout outside [0, 1).

    Example:
        >>> graph = HeteroGraph(torch.eye(3), [torch.ones(3, 3)])
        >>> views = GraphViews.of(graph, generator=torch.Generator())
        >>> coarse, fine = HeteroContrastEncoder(3, {}, [()], hidden=8).eval()(views)
        >>> coarse.shape, fine.shape
        (torch.Size([3, 8]), torch.Size([3, 8]))
    """

    def __init__(
        self,
        feature_dim: int,
        context_dims: Mapping[str, int],
        contexts: Sequence[Sequence[str]],
        *,
        hidden: int = 64,
        dropout: float = 0.2,
        seed: int = 0,
    ) -> None:
        super().__init__()
        checks.at_least("feature_dim", feature_dim, 1)
        checks.at_least("hidden", hidden, 1)
        checks.require(0 <= dropout < 1, f"dropout must lie in [0, 1): got {dropout!r}.")
        self.dropout = dropout
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.target = nn.Linear(feature_dim, hidden)
            self.types = nn.ModuleDict({name: nn.Linear(dim, hidden) for name, dim in context_dims.items()})
            self.paths = nn.ModuleList(
                nn.ModuleList(nn.Linear(hidden, hidden, bias=False) for _ in path) for path in contexts
            )
            self.convolutions = nn.ModuleList(nn.Linear(hidden, hidden, bias=False) for _ in range(2))
            self.slope = nn.PReLU()
            self.attention = nn.Linear(hidden, hidden)
            nn.init.xavier_normal_(self.attention.weight, gain=1.414)
            self.attended = nn.Parameter(nn.init.xavier_normal_(torch.empty(1, hidden), gain=1.414)[0])
            self.projection = nn.Linear(hidden, hidden)

    def forward(self, views: GraphViews, *, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Embed all nodes.

        Args:
            views: of a graph with n nodes.
            generator: of the dropout; needed in training mode, unless it is 0.

        Returns:
            coarse (n, hidden) and fine (n, hidden) float.

        Raises:
            ValueError: in training mode with dropout and without a generator.
        """
        checks.require(
            generator is not None or not self.training or self.dropout == 0,
            "generator must be given in training mode: dropout draws from it.",
        )
        whole = F.elu(self._dropped(self.target(views.features), generator))
        masked = F.elu(self._dropped(self.target(views.masked_features), generator))
        types = {name: F.elu(self._dropped(layer(views.others[name]), generator)) for name, layer in self.types.items()}
        coarse = self._convolved(whole, torch.stack(list(views.adjacencies)).mean(0), generator)
        embedded = []
        for path, layers, adjacency, masked_adjacency in zip(
            views.contexts, self.paths, views.adjacencies, views.masked_adjacencies, strict=True
        ):
            assert isinstance(layers, nn.ModuleList)
            seen = torch.zeros_like(whole)
            for (name, incidence), layer in zip(path, layers, strict=True):
                seen = seen + self._dropped(layer(incidence @ types[name]), generator)
            embedded += [
                self._convolved(F.elu(whole + seen), adjacency, generator),
                self._convolved(F.elu(masked + seen), masked_adjacency, generator),
            ]
        embedded = [unit_rows(z) for z in embedded]
        attended = self._dropped(self.attended, generator)
        shares = torch.stack([torch.tanh(self.attention(z)).mean(0) @ attended for z in embedded]).softmax(0)
        return coarse, torch.stack([z * share for z, share in zip(embedded, shares, strict=True)]).sum(0)

    def project(self, z: Tensor) -> Tensor:
        """The projection shared by both views: tanh of a linear map, brought to length one.

        Args:
            z: (n, hidden) float.

        Returns:
            (n, hidden) float.
        """
        return unit_rows(torch.tanh(self.projection(z)))

    def _convolved(self, x: Tensor, adjacency: Tensor, generator: torch.Generator | None) -> Tensor:
        first, second = self.convolutions
        x = self.slope(adjacency @ self._dropped(first(x), generator))
        x = adjacency @ self._dropped(second(x), generator)
        return F.layer_norm(x, x.shape)

    def _dropped(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        if not self.training or self.dropout == 0:
            return x
        kept = torch.rand(x.shape, generator=generator, device=x.device) >= self.dropout
        return x * kept / (1 - self.dropout)
