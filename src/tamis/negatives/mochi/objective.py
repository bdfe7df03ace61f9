"""The loss: real negatives and mixtures in one denominator."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from tamis import checks
from tamis.contrastive import contrastive_loss, drop, similarity, to_logits, unit_rows
from tamis.negatives.mochi.mixing import draw_mixtures
from tamis.randomness import child_seed


class MoCHiLoss(nn.Module):
    """InfoNCE against given negatives and mixtures of the hardest of them.

    The training loss of MoCHi (arXiv:2010.01028) with its default (N, s, t) = (1024, 1024, 128). Mixtures carry no
    gradient, their similarities are made from similarities, and the queue stays as it is. Steps are counted in training
    mode: they end the warm-up, seed the draws, and are saved with the module.
    Do not use it where classes are few: log-weights on the real negatives did more than mixing (claim mochi_aware).

    Args:
        temperature: tau.
        num_hard: N, how many of the hardest negatives may be mixed.
        num_pairs: s, mixtures of two negatives per query.
        num_query_mix: t, mixtures of the query and a negative per query.
        warmup_steps: calls in training mode without mixing at the start.
        query_mix_max: the query's share of a mixture stays below it.
        distinct: never mix a negative with itself.
        reduction: "mean" or "sum" over queries, or "none".
        seed: of all draws.

    Raises:
        ValueError: for settings out of range.

    Example:
        >>> loss = MoCHiLoss(num_hard=1, num_pairs=2, num_query_mix=0)
        >>> q, k, n = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.8, 0.6]]), torch.tensor([[0.6, 0.8]])
        >>> round(loss(q, k, n).item(), 4)  # two copies of the only negative: log(1 + 3 / e)
        0.7437
    """

    steps: Tensor

    def __init__(
        self,
        temperature: float = 0.2,
        num_hard: int = 1024,
        num_pairs: int = 1024,
        num_query_mix: int = 128,
        warmup_steps: int = 0,
        *,
        query_mix_max: float = 0.5,
        distinct: bool = False,
        reduction: Literal["mean", "sum", "none"] = "mean",
        seed: int = 0,
    ) -> None:
        super().__init__()
        checks.positive("temperature", temperature)
        for name, count, least in (
            ("num_hard", num_hard, 1 + distinct),
            ("num_pairs", num_pairs, 0),
            ("num_query_mix", num_query_mix, 0),
            ("warmup_steps", warmup_steps, 0),
        ):
            checks.at_least(name, count, least)
        checks.require(0 <= query_mix_max < 1, f"query_mix_max must lie in [0, 1): got {query_mix_max!r}.")
        checks.one_of("reduction", reduction, ("mean", "sum", "none"))
        self.temperature, self.num_hard = temperature, num_hard
        self.num_pairs, self.num_query_mix = num_pairs, num_query_mix
        self.warmup_steps, self.query_mix_max, self.distinct = warmup_steps, query_mix_max, distinct
        self.reduction: Literal["mean", "sum", "none"] = reduction
        self.seed = seed
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(
        self,
        query: Tensor,
        positive: Tensor,
        negatives: Tensor,
        *,
        mask: Tensor | None = None,
        log_weights: Tensor | None = None,
        partner_log_weights: Tensor | None = None,
    ) -> Tensor:
        """The loss of a batch.

        Args:
            query: (b, d) float: rows need not be normalised.
            positive: (b, d) float.
            negatives: (k, d) float, shared (a queue, the batch), or (b, k, d), each query's own. Gradients pass to
                them as negatives and not as parts of mixtures.
            mask: (b, k) bool, True leaves a negative out, itself and as a partner; for negatives of the same batch,
                the identity.
            log_weights: (b, k) float, decisions on the negatives, for themselves and as partners of mixtures.
            partner_log_weights: (b, k) float, further decisions that only the partners of mixtures see. Whatever
                is drawn, a mixture itself counts in full. A query that they leave nothing to mix gets no mixtures.

        Returns:
            scalar, or (b,) for "none".

        Raises:
            ValueError: shapes that do not fit, or past the warm-up fewer than ``num_hard`` negatives to mix.
        """
        scores, positive_scores, mixed = self.scores(
            query, positive, negatives, mask=mask, log_weights=log_weights, partner_log_weights=partner_log_weights
        )
        if self.training:
            self.steps += 1
        weights = None if log_weights is None else log_weights.detach()
        weights = weights if mask is None else drop(mask, weights, dtype=scores.dtype)
        blocks = [(to_logits(scores, self.temperature), weights), (to_logits(mixed, self.temperature), None)]
        return contrastive_loss(to_logits(positive_scores, self.temperature), blocks, reduction=self.reduction)

    def scores(
        self,
        query: Tensor,
        positive: Tensor,
        negatives: Tensor,
        *,
        mask: Tensor | None = None,
        log_weights: Tensor | None = None,
        partner_log_weights: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The cosine similarities that the loss of this step is made of, say for ``proxy_accuracy``.

        Args:
            query: (b, d) float.
            positive: (b, d) float.
            negatives: (k, d) or (b, k, d) float.
            mask: (b, k) bool.
            log_weights: (b, k) float.
            partner_log_weights: (b, k) float.

        Returns:
            of the negatives (b, k), of the positives (b,), of the mixtures (b, s + t), or (b, 0) in the warm-up; -inf
            for those of a query without anything to mix.
        """
        checks.matrix("query", query)
        checks.same_shape("positive", positive, "query", query)
        query, negatives = unit_rows(query), unit_rows(negatives.to(query))
        scores = similarity(query, negatives, "dot")
        for name, decision in (
            ("mask", mask),
            ("log_weights", log_weights),
            ("partner_log_weights", partner_log_weights),
        ):
            if decision is not None:
                checks.same_shape(name, decision, "the similarities of queries and negatives", scores)
        positive_scores = (query * unit_rows(positive)).sum(1)
        if int(self.steps) < self.warmup_steps or self.num_pairs + self.num_query_mix == 0:
            return scores, positive_scores, scores.new_empty(len(query), 0)
        given = [w.detach().to(scores) for w in (log_weights, partner_log_weights) if w is not None]
        partners = torch.stack(given).sum(0) if given else None
        alone = torch.zeros_like(scores[:, :1], dtype=torch.bool)
        if partners is not None:
            decided = partners if mask is None else drop(mask, partners)
            alone = ((decided > -torch.inf).sum(1) <= self.distinct)[:, None]
            partners = partners.masked_fill(alone, 0.0)
        recipe = draw_mixtures(
            scores,
            self.num_hard,
            self.num_pairs,
            self.num_query_mix,
            query_mix_max=self.query_mix_max,
            mask=mask,
            log_weights=partners,
            temperature=self.temperature,
            generator=child_seed(self.seed, "mochi", int(self.steps)),
            distinct=self.distinct,
        )
        # Similarities to negatives that learn carry a gradient into them, which a mixture must not have.
        known = None if negatives.requires_grad else scores
        return scores, positive_scores, recipe.scores(query, negatives, known).masked_fill(alone, -torch.inf)
