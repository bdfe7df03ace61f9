"""Objectives over the passages of the batch: InfoNCE and what is put on top of it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tamis.batches.batchformer import BatchFormer
from tamis.batches.rtd import TargetAnchoredContrastive
from tamis.contrastive import info_nce
from tamis.integrations.objectives.facts import BatchFacts, Guide, Objective
from tamis.losses.cir_uncertainty import MultiGrainedUncertaintyLoss
from tamis.losses.gistembed import GISTEmbedLoss
from tamis.losses.lol import LoLLoss, VectorPRF, reformulation_loss
from tamis.negatives.mochi import MoCHiLoss


def contrastive(*, temperature: float = 0.05) -> Objective:
    """InfoNCE over the batch's positives and mined negatives, known answers masked."""

    def objective(queries: Tensor, positives: Tensor, negatives: Tensor, facts: BatchFacts) -> Tensor:
        candidates = torch.cat([positives, negatives])
        return info_nce(queries, candidates, temperature=temperature, log_weights=facts.log_weights.to(queries))

    return objective


def gistembed(guide: Guide, *, temperature: float = 0.05, margin: float = 0.0, softness: float = 0.0) -> Objective:
    """GISTEmbed over the batch, guided by vectors that stand still.

    Args:
        guide: of the guide.
        temperature: divides the similarities.
        margin: absolute margin of the guide's threshold.
        softness: width of the slope above the threshold; 0 drops at once.

    Returns:
        the objective.
    """
    loss = GISTEmbedLoss(temperature=temperature, margin=margin, softness=softness)

    def objective(queries: Tensor, positives: Tensor, negatives: Tensor, facts: BatchFacts) -> Tensor:
        b = len(queries)
        asked, seen = guide.of(facts, queries)
        log_weights = facts.log_weights.to(queries)
        some = len(negatives) > 0
        value: Tensor = loss(
            queries,
            positives,
            negatives if some else None,
            guide_anchors=asked,
            guide_positives=seen[:b],
            guide_negatives=seen[b:] if some else None,
            positive_log_weights=log_weights[:, :b],
            negative_log_weights=log_weights[:, b:] if some else None,
        )
        return value

    return objective


class Mixing(nn.Module):
    """MoCHi: the hardest candidates of the batch, and mixtures of them and of the query.

    Args:
        temperature: divides the similarities.
        hard: how many of the hardest may be mixed; a smaller batch mixes what it has.
        pairs: mixtures of two negatives per query.
        query_mix: mixtures of the query and a negative per query.
        seed: of all draws.
    """

    def __init__(
        self, *, temperature: float = 0.05, hard: int = 16, pairs: int = 8, query_mix: int = 4, seed: int = 0
    ) -> None:
        super().__init__()
        self.hard = hard
        self.loss = MoCHiLoss(temperature, hard, pairs, query_mix, seed=seed)

    def forward(self, queries: Tensor, positives: Tensor, negatives: Tensor, facts: BatchFacts) -> Tensor:
        """The mean over queries."""
        candidates, weights = torch.cat([positives, negatives]), facts.log_weights.to(queries)
        own = torch.eye(len(queries), len(candidates), dtype=torch.bool, device=queries.device)
        absent = own | torch.isneginf(weights)
        self.loss.num_hard = max(1, min(self.hard, int((~absent).sum(1).min())))
        weights = weights.masked_fill(own, -torch.inf)
        value: Tensor = self.loss(queries, positives, candidates, mask=absent, log_weights=weights)
        return value


class BatchAttention(nn.Module):
    """BatchFormer: InfoNCE twice, on the embeddings and on what a layer over the batch makes of them.

    Queries see queries and passages see passages: a query that saw its own positive would have nothing left to learn.

    Args:
        dim: columns of the embeddings.
        temperature: divides the similarities.
        seed: of the layer.
    """

    def __init__(self, dim: int, *, temperature: float = 0.05, seed: int = 0) -> None:
        super().__init__()
        self.former, self.plain = BatchFormer(dim, seed=seed), contrastive(temperature=temperature)

    def forward(self, queries: Tensor, positives: Tensor, negatives: Tensor, facts: BatchFacts) -> Tensor:
        """The mean of the two losses; the plain one alone in evaluation."""
        b, value = len(queries), self.plain(queries, positives, negatives, facts)
        if not self.training:
            return value
        asked = self.former(queries)[0][b:]
        seen = self.former(torch.cat([positives, negatives]))[0][b + len(negatives) :]
        return (value + self.plain(asked, seen[:b], seen[b:], facts)) / 2


def target_anchored(*, temperature: float = 0.07) -> Objective:
    """RTD's symmetric loss: queries against fixed positives, and each other; mined negatives are not used.

    Args:
        temperature: divides the cosines.

    Returns:
        the objective.
    """
    loss = TargetAnchoredContrastive(temperature=temperature)

    def objective(queries: Tensor, positives: Tensor, negatives: Tensor, facts: BatchFacts) -> Tensor:
        b = len(queries)
        # Rows that answer each other's queries are one target.
        same = torch.isneginf(facts.log_weights[:, :b]) | torch.eye(
            b, dtype=torch.bool, device=facts.log_weights.device
        )
        ids = (same | same.T).int().argmax(1)
        value: Tensor = loss(queries, positives.detach(), target_ids=ids.to(queries.device))
        return value

    return objective


class Feedback(nn.Module):
    """LoL: queries revised with the best passages of the batch; more feedback must not do worse than less.

    Args:
        dim: columns of the embeddings.
        temperature: divides the similarities.
        passages: of feedback at the most.
        seed: of the reformulator.
    """

    def __init__(self, dim: int, *, temperature: float = 0.05, passages: int = 3, seed: int = 0) -> None:
        super().__init__()
        self.temperature, self.passages = temperature, passages
        self.reformulate, self.loss = VectorPRF(dim, seed=seed), LoLLoss()

    def forward(self, queries: Tensor, positives: Tensor, negatives: Tensor, facts: BatchFacts) -> Tensor:
        """The mean loss of the query as it is and of its revision, with the comparison of the two."""
        queries, candidates = (
            torch.nn.functional.normalize(x, dim=1) for x in (queries, torch.cat([positives, negatives]))
        )
        scores = (queries @ candidates.T).detach()
        best = scores.topk(min(self.passages, len(candidates)), dim=1).indices
        amounts = torch.tensor([[best.shape[1], 0]], device=queries.device).expand(len(queries), 2)
        revisions = self.reformulate(queries, candidates[best], amounts)
        own = torch.eye(len(queries), len(candidates), dtype=torch.bool, device=queries.device)
        losses = reformulation_loss(
            revisions, candidates, own, temperature=self.temperature, log_weights=facts.log_weights.to(queries)
        )
        value: Tensor = self.loss(losses, amounts)
        return value


class Uncertainty(nn.Module):
    """MGUR over the batch's queries and positives; mined negatives are not used.

    Args:
        steps: of the whole training, over which the loss goes from coarse to fine.
        temperature: divides the similarities.
    """

    def __init__(self, steps: int, *, temperature: float = 0.05) -> None:
        super().__init__()
        self.loss = MultiGrainedUncertaintyLoss(steps, scale=temperature**-0.5)

    def forward(self, queries: Tensor, positives: Tensor, negatives: Tensor, facts: BatchFacts) -> Tensor:
        """The loss at this point of the schedule, which each call in training mode moves on."""
        value: Tensor = self.loss(queries, positives, log_weights=facts.log_weights[:, : len(queries)].to(queries))
        if self.training:
            self.loss.step()
        return value
