"""Objectives that weigh the candidates of the batch, or hold them to what an old model made of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tamis.clustering import kmeans
from tamis.contrastive import info_nce, similarity, to_logits
from tamis.integrations.objectives.facts import BatchFacts, Guide, Objective
from tamis.integrations.objectives.in_batch import contrastive
from tamis.losses.compositional_nce import CompositionalNLLLoss
from tamis.losses.stationary import hoc_loss
from tamis.negatives.cet import SelectionModel, coupled_log_weights, weighted_softmax_ce
from tamis.negatives.meow import cluster_negative_weights
from tamis.negatives.nbpo import NoiseHead, nbpo_loss
from tamis.randomness import child_seed
from tamis.results import MinedNegatives

Array = np.ndarray[Any, Any]


class CoupledEstimation(nn.Module):
    """CET's weights on each query's own mined negatives, from a selection model on how the search saw them.

    A mined negative that the search ranked like a positive was probably looked at and not labelled, so it weighs like a
    negative; one that nobody would have looked at weighs less. Other queries' passages keep the weight they have.

    Args:
        mined: the negatives, with the scores and ranks of the search.
        temperature: divides the similarities.
        warmup_steps: batches during which the weights are one, while the selection model learns.
        seed: of the selection model.
    """

    def __init__(
        self, mined: MinedNegatives, *, temperature: float = 0.05, warmup_steps: int = 20, seed: int = 0
    ) -> None:
        super().__init__()
        self.temperature, self.warmup_steps, self.steps = temperature, warmup_steps, 0
        self._passages = len(mined.corpus)
        negatives, known = mined.negatives, mined.known
        pairs = [
            np.concatenate([negatives["query"], known["query"]]),
            np.concatenate([negatives["negative"], known["positive"]]),
        ]
        keys = pairs[0].astype(np.int64) * self._passages + pairs[1]
        rank = np.concatenate([negatives["rank"], known["rank"]]).astype(np.float64)
        rank = np.log(np.where(rank > 0, rank, 2 * max(1.0, rank.max(initial=1.0))))
        score = np.concatenate([negatives["score"], known["score"]])
        features = np.stack([rank, np.where(np.isfinite(score), score, 0)], 1).astype(np.float32)
        order = np.argsort(keys, kind="stable")
        self._keys, self._features = keys[order], features[order]
        self.selection = SelectionModel(torch.from_numpy(self._features), seed=seed)

    def forward(self, queries: Tensor, positives: Tensor, negatives: Tensor, facts: BatchFacts) -> Tensor:
        """The sum of the relevance model's loss and the selection model's."""
        keys = (facts.queries[:, None] * self._passages + facts.passages[None]).cpu().numpy()
        place = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        own = torch.from_numpy(self._keys[place] == keys).to(queries.device)
        features = torch.from_numpy(self._features[place]).to(queries)
        given = facts.log_weights.to(queries)
        relevance = similarity(queries, torch.cat([positives, negatives])) / self.temperature
        selection = self.selection(features)
        target = torch.arange(len(queries), device=queries.device)
        of_relevance, of_selection = coupled_log_weights(relevance.detach(), selection.detach(), target=target)
        ready = self.steps >= self.warmup_steps
        self.steps += int(self.training)
        weights = given + torch.where(own, of_relevance, 0.0) if ready else given
        # Only what the search saw of a query has features: the selection model learns on that alone.
        chosen = torch.where(own, given + of_selection, -torch.inf).exp()
        loss = info_nce(queries, torch.cat([positives, negatives]), temperature=self.temperature, log_weights=weights)
        return loss + weighted_softmax_ce(selection, chosen, target=target)


class NoisyNegatives(nn.Module):
    """NBPO's likelihood over the batch: every negative may be an answer that was not recorded.

    Args:
        dim: columns of the embeddings.
        temperature: divides the similarities, which are the preferences; a logistic saturates where a softmax does
            not, and at 0.05 the noise explains every negative before the model learns.
        seed: of the noise.
    """

    def __init__(self, dim: int, *, temperature: float = 0.2, seed: int = 0) -> None:
        super().__init__()
        self.temperature, self.noise = temperature, NoiseHead(dim, dim, seed=seed)

    def forward(self, queries: Tensor, positives: Tensor, negatives: Tensor, facts: BatchFacts) -> Tensor:
        """The mean over positives."""
        candidates = torch.cat([positives, negatives])
        scores = similarity(queries, candidates) / self.temperature
        noise = self.noise(queries, candidates)
        # The preferences of a cosine have a middle that is not 0. That of the batch is taken off, with its gradient:
        # the logistic would else be content to move queries and passages apart as a whole.
        given = facts.log_weights.to(queries)
        scores = scores - scores[~torch.isneginf(given)].mean()
        own = torch.eye(len(queries), len(candidates), dtype=torch.bool, device=queries.device)
        weights = given.masked_fill(own, -torch.inf)
        return nbpo_loss(scores.diagonal(), scores, noise.diagonal(), noise, log_weights=weights)


class TrackedSums(nn.Module):
    """MECO with one partition function per query: its sum over negatives is remembered from epoch to epoch.

    A small batch sees few of a query's negatives; what earlier ones added stays in the average, and a negative is
    weighed against that. The positive is in the numerator alone, and known answers are nowhere. In a single epoch no
    query comes twice, and it is InfoNCE without the positive in the denominator.

    Args:
        num_queries: how many queries the training set has.
        temperature: divides the similarities.
        gamma: weight of the batch in the average. A query comes once per epoch and the model has moved by then, hence
            more than for one partition function of all.
    """

    def __init__(self, num_queries: int, *, temperature: float = 0.05, gamma: float = 0.9) -> None:
        super().__init__()
        self.temperature, self.loss = temperature, CompositionalNLLLoss(gamma, num_queries)

    def forward(self, queries: Tensor, positives: Tensor, negatives: Tensor, facts: BatchFacts) -> Tensor:
        """The mean over queries."""
        scores = to_logits(similarity(queries, torch.cat([positives, negatives])), self.temperature)
        own = torch.eye(len(queries), scores.shape[1], dtype=torch.bool, device=queries.device)
        weights = facts.log_weights.to(scores).masked_fill(own, -torch.inf)
        value: Tensor = self.loss(scores.diagonal(), scores, -weights, facts.queries.to(queries.device))
        return value


def compatible(guide: Guide, groups: Array, *, temperature: float = 0.05, weight: float = 0.9) -> Objective:
    """InfoNCE and, for passages, the pull to where the old model put them, so that an old index stays of use.

    Args:
        guide: vectors of the old model.
        groups: (n,) int, equal for passages of equal text.
        temperature: divides the similarities.
        weight: of d-Simplex-HOC's compatibility loss; the rest is InfoNCE's.

    Returns:
        the objective.
    """
    plain = contrastive(temperature=temperature)

    def objective(queries: Tensor, positives: Tensor, negatives: Tensor, facts: BatchFacts) -> Tensor:
        _, old = guide.of(facts, queries)
        labels = torch.from_numpy(groups[facts.passages.cpu().numpy()]).to(queries.device)
        drawn = hoc_loss(torch.cat([positives, negatives]), old, labels)
        return (1 - weight) * plain(queries, positives, negatives, facts) + weight * drawn

    return objective


def cluster_weighted(
    guide: Guide, *, temperature: float = 0.05, sizes: tuple[int, ...] = (50, 200, 800), seed: int = 0
) -> Objective:
    """InfoNCE with MEOW's weights: what lies in the positive's cluster counts less, and nothing where all agree.

    Args:
        guide: its passages are clustered, once.
        temperature: divides the similarities.
        sizes: clusters of each clustering; those with more than half as many clusters as there are passages are left
            out.
        seed: of the clusterings.

    Returns:
        the objective.
    """
    few = [k for k in sizes if 2 * k <= len(guide.passages)] or [max(1, len(guide.passages) // 2)]
    found = [
        torch.from_numpy(
            kmeans(guide.passages, k, spherical=True, iterations=10, seed=child_seed(seed, f"k={k}")).labels
        )
        for k in few
    ]

    def objective(queries: Tensor, positives: Tensor, negatives: Tensor, facts: BatchFacts) -> Tensor:
        rows, b = facts.passages.cpu(), len(queries)
        apart = cluster_negative_weights([labels[rows] for labels in found])[:b] / len(found)
        weights = facts.log_weights.to(queries) + apart.log().to(queries)
        return info_nce(queries, torch.cat([positives, negatives]), temperature=temperature, log_weights=weights)

    return objective
