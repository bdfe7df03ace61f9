"""Training on a whole graph: MEOW with clusterings, AdaMEOW with learned weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from tamis import checks
from tamis.clustering import kmeans
from tamis.negatives.meow.encoder import GraphViews, HeteroContrastEncoder
from tamis.negatives.meow.graphs import HeteroGraph
from tamis.negatives.meow.prototypes import proto_nce, prototype_concentration
from tamis.negatives.meow.weighting import AdaptiveNegativeWeighting, cluster_negative_weights, weighted_info_nce
from tamis.randomness import child_seed


class MEOW:
    """Node embeddings by contrast of two views, with negatives weighted by clusterings.

    MEOW (arXiv:2212.13847) with its settings for ACM: anchor is the coarse view, clusters are those of the fine one and
    are found anew every epoch, and the loss is ``L_info + lambda_proto L_proto``. On small graphs the weights lost a
    little against plain negatives (claim): warm up, and compare with ``clusters=()``.

    Args:
        clusters: how many, per clustering; none gives plain negatives and no prototypes.
        lambda_proto: weight of the prototype loss.
        tau: temperature.
        hidden: columns of the embeddings.
        learning_rate: of Adam.
        dropout: share.
        feature_mask: share of features masked in the copy.
        edge_mask: share of edges dropped in the copy, one or one per meta-path.
        nei_max: neighbours kept per node and meta-path by PathSim; None keeps all.
        epochs: steps on the whole graph at most.
        patience: epochs without a lower loss after which training stops; None never stops.
        warmup_epochs: epochs with plain negatives at the start; 0 in the paper.
        measure: see ``prototype_concentration``.
        seed: of everything that is drawn.

    Raises:
        ValueError: for settings out of range.

    Example:
        >>> graph = HeteroGraph(torch.eye(6), [torch.block_diag(torch.ones(3, 3), torch.ones(3, 3))])
        >>> MEOW((2,), hidden=4, epochs=2).fit(graph).embedding_.shape
        torch.Size([6, 4])
    """

    embedding_: Tensor
    encoder_: HeteroContrastEncoder
    losses_: list[float]

    def __init__(
        self,
        clusters: Sequence[int] = (100, 300),
        *,
        lambda_proto: float = 1.0,
        tau: float = 0.4,
        hidden: int = 64,
        learning_rate: float = 7e-4,
        dropout: float = 0.2,
        feature_mask: float = 0.3,
        edge_mask: float | Sequence[float] = 0.3,
        nei_max: int | None = None,
        epochs: int = 1000,
        patience: int | None = 30,
        warmup_epochs: int = 0,
        measure: Literal["distance", "similarity"] = "distance",
        seed: int = 0,
    ) -> None:
        for k in clusters:
            checks.at_least("clusters", k, 1)
        checks.at_least("lambda_proto", lambda_proto, 0)
        checks.at_least("warmup_epochs", warmup_epochs, 0)
        checks.one_of("measure", measure, ("distance", "similarity"))
        _check_training(tau, learning_rate, epochs, patience)
        self.clusters, self.lambda_proto, self.tau, self.hidden = tuple(clusters), lambda_proto, tau, hidden
        self.learning_rate, self.dropout = learning_rate, dropout
        self.feature_mask, self.edge_mask, self.nei_max = feature_mask, edge_mask, nei_max
        self.epochs, self.patience, self.warmup_epochs = epochs, patience, warmup_epochs
        self.measure: Literal["distance", "similarity"] = measure
        self.seed = seed

    def fit(self, graph: HeteroGraph) -> MEOW:
        """Train on a graph.

        Args:
            graph: of n nodes.

        Returns:
            itself, with ``embedding_`` (n, hidden) float, the fine view without dropout; ``encoder_``; ``losses_``.

        Raises:
            ValueError: for a graph that does not fit, or more clusters than nodes.
        """
        graph.check()
        n = len(graph.features)
        for k in self.clusters:
            checks.require(k <= n, f"clusters must be at most {n}, the nodes of the graph: got {k}; ask for fewer.")
        views, encoder, generator = _start(
            graph, self.seed, self.hidden, self.dropout, self.nei_max, self.feature_mask, self.edge_mask
        )

        def loss_of(epoch: int, coarse: Tensor, fine: Tensor) -> Tensor:
            if not self.clusters or epoch < self.warmup_epochs:
                return weighted_info_nce(coarse, fine, tau=self.tau)
            seeds = [child_seed(self.seed, "meow clusters", epoch, level) for level in range(len(self.clusters))]
            found = [kmeans(fine.detach(), k, iterations=20, seed=s) for k, s in zip(self.clusters, seeds, strict=True)]
            loss = weighted_info_nce(coarse, fine, cluster_negative_weights([f.labels for f in found]), self.tau)
            if self.lambda_proto == 0:
                return loss
            levels = []
            for level in found:
                phi = prototype_concentration(
                    fine.detach(), level.centroids, level.labels, tau=self.tau, measure=self.measure
                )
                levels.append(proto_nce(coarse, level.centroids, level.labels, phi))
            return loss + self.lambda_proto * torch.stack(levels).mean()

        self.losses_ = _train(
            encoder,
            views,
            generator,
            loss_of,
            torch.optim.Adam(encoder.parameters(), lr=self.learning_rate),
            epochs=self.epochs,
            patience=self.patience,
            patient_from=self.warmup_epochs,
        )
        self.encoder_, self.embedding_ = encoder, _embedded(encoder, views)
        return self


class AdaMEOW:
    """Node embeddings by contrast of two views, with a learned weight for every negative.

    AdaMEOW (arXiv:2212.13847) with its settings: anchor is the fine view, the denominator holds the positive with its
    learned weight, and there are no prototypes. Compare with ``MEOW(clusters=())``, which needs no weights.

    Args:
        tau: temperature.
        hidden: columns of the embeddings.
        weighting_hidden: hidden units of the network of weights.
        normalize_weights: hold the mean weight of every row at 1; False in the paper.
        learning_rate: of Adam.
        weight_decay: the l2 coefficient.
        dropout: share.
        feature_mask: share of features masked in the copy.
        edge_mask: share of edges dropped in the copy, one or one per meta-path.
        nei_max: neighbours kept per node and meta-path by PathSim; None keeps all.
        epochs: steps on the whole graph.
        patience: epochs without a lower loss after which training stops; None never stops.
        seed: of everything that is drawn.

    Raises:
        ValueError: for settings out of range.

    Example:
        >>> graph = HeteroGraph(torch.eye(6), [torch.block_diag(torch.ones(3, 3), torch.ones(3, 3))])
        >>> AdaMEOW(hidden=4, epochs=2).fit(graph).embedding_.shape
        torch.Size([6, 4])
    """

    embedding_: Tensor
    encoder_: HeteroContrastEncoder
    weighting_: AdaptiveNegativeWeighting
    losses_: list[float]

    def __init__(
        self,
        *,
        tau: float = 1.0,
        hidden: int = 64,
        weighting_hidden: int = 16,
        normalize_weights: bool = False,
        learning_rate: float = 5e-5,
        weight_decay: float = 1e-5,
        dropout: float = 0.3,
        feature_mask: float = 0.3,
        edge_mask: float | Sequence[float] = 0.2,
        nei_max: int | None = None,
        epochs: int = 1200,
        patience: int | None = None,
        seed: int = 0,
    ) -> None:
        checks.at_least("weighting_hidden", weighting_hidden, 1)
        checks.at_least("weight_decay", weight_decay, 0)
        _check_training(tau, learning_rate, epochs, patience)
        self.tau, self.hidden, self.weighting_hidden = tau, hidden, weighting_hidden
        self.normalize_weights, self.learning_rate, self.weight_decay = normalize_weights, learning_rate, weight_decay
        self.dropout, self.feature_mask, self.edge_mask, self.nei_max = dropout, feature_mask, edge_mask, nei_max
        self.epochs, self.patience, self.seed = epochs, patience, seed

    def fit(self, graph: HeteroGraph) -> AdaMEOW:
        """Train on a graph.

        Args:
            graph: of n nodes.

        Returns:
            itself, with ``embedding_`` (n, hidden) float, the fine view without dropout; ``encoder_``, ``weighting_``
            and ``losses_``.

        Raises:
            ValueError: for a graph that does not fit.
        """
        views, encoder, generator = _start(
            graph, self.seed, self.hidden, self.dropout, self.nei_max, self.feature_mask, self.edge_mask
        )
        weighting = AdaptiveNegativeWeighting(
            self.hidden,
            self.weighting_hidden,
            normalize_weights=self.normalize_weights,
            seed=child_seed(self.seed, "adameow weights"),
        ).to(graph.features)

        def loss_of(epoch: int, coarse: Tensor, fine: Tensor) -> Tensor:
            weights = weighting.log_weights(fine, coarse)
            return weighted_info_nce(fine, coarse, tau=self.tau, include_positive=True, log_weights=weights)

        parameters: list[nn.Parameter] = [*encoder.parameters(), *weighting.parameters()]
        self.losses_ = _train(
            encoder,
            views,
            generator,
            loss_of,
            torch.optim.Adam(parameters, lr=self.learning_rate, weight_decay=self.weight_decay),
            epochs=self.epochs,
            patience=self.patience,
        )
        self.encoder_, self.weighting_, self.embedding_ = encoder, weighting, _embedded(encoder, views)
        return self


def _start(
    graph: HeteroGraph,
    seed: int,
    hidden: int,
    dropout: float,
    nei_max: int | None,
    feature_mask: float,
    edge_mask: float | Sequence[float],
) -> tuple[GraphViews, HeteroContrastEncoder, torch.Generator]:
    """Views, masked once as in the official code, an encoder, and the generator of its dropout."""
    generator = torch.Generator(graph.features.device).manual_seed(child_seed(seed, "meow"))
    views = GraphViews.of(graph, nei_max=nei_max, feature_mask=feature_mask, edge_mask=edge_mask, generator=generator)
    encoder = HeteroContrastEncoder(
        graph.features.shape[1],
        {name: x.shape[1] for name, x in graph.others.items()},
        [[name for name, _ in path] for path in views.contexts],
        hidden=hidden,
        dropout=dropout,
        seed=child_seed(seed, "meow encoder"),
    )
    return views, encoder.to(graph.features), generator


def _train(
    encoder: HeteroContrastEncoder,
    views: GraphViews,
    generator: torch.Generator,
    loss_of: Callable[[int, Tensor, Tensor], Tensor],
    optimizer: torch.optim.Optimizer,
    *,
    epochs: int,
    patience: int | None,
    patient_from: int = 0,
) -> list[float]:
    """Steps on the whole graph; patience begins when the loss is the one that is meant."""
    losses: list[float] = []
    encoder.train()
    for epoch in range(epochs):
        coarse, fine = encoder(views, generator=generator)
        loss = loss_of(epoch, encoder.project(coarse), encoder.project(fine))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
        counted = losses[patient_from:]
        if patience is not None and counted and len(counted) - 1 - counted.index(min(counted)) >= patience:
            break
    return losses


@torch.no_grad()
def _embedded(encoder: HeteroContrastEncoder, views: GraphViews) -> Tensor:
    fine: Tensor = encoder.eval()(views)[1]
    return fine


def _check_training(tau: float, learning_rate: float, epochs: int, patience: int | None) -> None:
    checks.positive("tau", tau)
    checks.positive("learning_rate", learning_rate)
    checks.at_least("epochs", epochs, 1)
    if patience is not None:
        checks.at_least("patience", patience, 1)
