"""Graph clustering with the loss: an auto-encoder, K-means, then contrast and self-training together."""

from __future__ import annotations

import copy
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from tamis import checks
from tamis.clustering import kmeans
from tamis.negatives.pamc.graph import adjacency_power, knn_graph, normalised_adjacency
from tamis.negatives.pamc.objective import dec_target, pamc_loss, student_t_assignment
from tamis.randomness import child_seed

Array = np.ndarray[Any, Any]


class MetaNodeGraphClustering:
    """Clusters the nodes of a graph by PamC.

    The trimmed model of the official code of PamC (arXiv:2209.14067): an encoder, pre-trained as an auto-encoder;
    centres by the best of 20 runs of K-means; then ``n_epochs`` full steps of Adam on
    ``alpha pamc_loss + beta KL(P || Q)`` with P the target of the current assignments Q.

    Args:
        n_clusters: k.
        encoder: a trained module from rows to embeddings, copied and trained on; None pre-trains an auto-encoder.
        alpha: weight of the contrast; 0 leaves it out.
        beta: weight of the self-training.
        order: of the neighbourhood, see ``adjacency_power``; cumulative.
        tau: multiplies similarities.
        n_epochs: steps of the second stage.
        n_neighbors: of the graph when none is given.
        hidden: width of the auto-encoder's hidden layer.
        dim: columns of the embeddings.
        pretrain_epochs: of the auto-encoder, in batches of 256.
        learning_rate: of Adam, in both stages.
        contrast: "meta-nodes", or "dense" for negatives between all nodes, in quadratic memory.
        seed: of everything that is drawn.

    Raises:
        ValueError: for settings out of range.

    Example:
        >>> x = np.repeat(np.eye(2, 4, dtype=np.float32), 5, axis=0)
        >>> x = x + 0.1 * np.random.default_rng(0).random((10, 4), dtype=np.float32)
        >>> labels = MetaNodeGraphClustering(2, n_epochs=2, pretrain_epochs=20).fit(x).labels_
        >>> bool((labels[:5] == labels[0]).all() and (labels[5:] == 1 - labels[0]).all())
        True
    """

    labels_: Any
    embedding_: Any

    def __init__(
        self,
        n_clusters: int,
        *,
        encoder: nn.Module | None = None,
        alpha: float = 2.0,
        beta: float = 2.0,
        order: int = 1,
        tau: float = 0.5,
        n_epochs: int = 200,
        n_neighbors: int = 3,
        hidden: int = 256,
        dim: int = 10,
        pretrain_epochs: int = 150,
        learning_rate: float = 1e-3,
        contrast: Literal["meta-nodes", "dense"] = "meta-nodes",
        seed: int = 0,
    ) -> None:
        for name, value in (
            ("n_clusters", n_clusters),
            ("order", order),
            ("n_neighbors", n_neighbors),
            ("hidden", hidden),
            ("dim", dim),
        ):
            checks.at_least(name, value, 1)
        for name, number in (
            ("alpha", alpha),
            ("beta", beta),
            ("n_epochs", n_epochs),
            ("pretrain_epochs", pretrain_epochs),
        ):
            checks.at_least(name, number, 0)
        checks.positive("tau", tau)
        checks.positive("learning_rate", learning_rate)
        checks.one_of("contrast", contrast, ("meta-nodes", "dense"))
        self.n_clusters = n_clusters
        self.encoder = encoder
        self.alpha = alpha
        self.beta = beta
        self.order = order
        self.tau = tau
        self.n_epochs = n_epochs
        self.n_neighbors = n_neighbors
        self.hidden = hidden
        self.dim = dim
        self.pretrain_epochs = pretrain_epochs
        self.learning_rate = learning_rate
        self.contrast = contrast
        self.seed = seed

    def fit(
        self, embeddings: Array | Tensor, adjacency: tuple[Tensor, Tensor | None] | None = None
    ) -> MetaNodeGraphClustering:
        """Cluster the rows.

        Args:
            embeddings: (n, d) float, the features of the nodes.
            adjacency: (edge_index (2, e), edge_weight (e,) or None) of the graph, normalised here; None takes
                the nearest neighbours of the features.

        Returns:
            itself, with ``labels_`` (n,) int64 and ``embedding_`` (n, dim), arrays or tensors like the input, and
            ``encoder_``.

        Raises:
            ValueError: for rows that are not finite, fewer rows than clusters, or a graph that does not fit.
        """
        checks.matrix("embeddings", embeddings)
        checks.finite("embeddings", embeddings)
        n = len(embeddings)
        checks.require(
            n > self.n_clusters, f"embeddings must have more rows than clusters ({self.n_clusters}): got {n}."
        )
        source = torch.tensor(embeddings) if isinstance(embeddings, np.ndarray) else embeddings.detach()
        x = source if source.dtype == torch.float64 else source.float()
        edges, weights = (knn_graph(x, min(self.n_neighbors, n - 1)), None) if adjacency is None else adjacency
        graph = adjacency_power(*normalised_adjacency(edges, weights, n_nodes=n), self.order, n_nodes=n)
        encoder = self._pretrained(x) if self.encoder is None else copy.deepcopy(self.encoder)
        with torch.no_grad():
            z = encoder(x)
        starts = [kmeans(z, self.n_clusters, seed=child_seed(self.seed, "pamc centres", i)) for i in range(20)]
        centres = nn.Parameter(min(starts, key=lambda found: found.inertia).centroids.clone())
        optimizer = torch.optim.Adam([*encoder.parameters(), centres], lr=self.learning_rate)
        for _ in range(self.n_epochs):
            z = encoder(x)
            q = student_t_assignment(z, centres)
            loss = self.beta * nn.functional.kl_div(q.log(), dec_target(q), reduction="batchmean")
            if self.alpha > 0:
                clusters = q if self.contrast == "meta-nodes" else torch.arange(n, device=z.device)
                loss = loss + self.alpha * pamc_loss(z, *graph, clusters, tau=self.tau)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        with torch.no_grad():
            z = encoder(x)
            labels = student_t_assignment(z, centres).argmax(1)
        self.encoder_ = encoder
        arrays = isinstance(embeddings, np.ndarray)
        self.labels_, self.embedding_ = (v.cpu().numpy() if arrays else v for v in (labels, z.to(source.dtype)))
        return self

    def fit_predict(self, embeddings: Array | Tensor, adjacency: tuple[Tensor, Tensor | None] | None = None) -> Any:
        """The labels of ``fit``.

        Args:
            embeddings: (n, d) float.
            adjacency: see ``fit``.

        Returns:
            (n,) int64.
        """
        return self.fit(embeddings, adjacency).labels_

    def _pretrained(self, x: Tensor) -> nn.Module:
        """The encoder of an auto-encoder d - hidden - dim - hidden - d, trained on the squared error."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(child_seed(self.seed, "pamc encoder"))
            shapes = [(x.shape[1], self.hidden), (self.hidden, self.dim), (self.dim, self.hidden)]
            first, second, third, last = (nn.Linear(*s, dtype=x.dtype) for s in [*shapes, (self.hidden, x.shape[1])])
        encoder = nn.Sequential(first, nn.ReLU(), second).to(x.device)
        decoder = nn.Sequential(third, nn.ReLU(), last).to(x.device)
        optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=self.learning_rate)
        rng = np.random.default_rng(child_seed(self.seed, "pamc batches"))
        for _ in range(self.pretrain_epochs):
            for rows in np.array_split(rng.permutation(len(x)), range(256, len(x), 256)):
                loss = nn.functional.mse_loss(decoder(encoder(x[rows])), x[rows])
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
        return encoder
