"""Objectives over all passages, as the old model encoded them: only the queries' side learns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tamis.extra_negatives import NO_ID, DynamicIndex, StaticBank
from tamis.integrations.objectives.facts import BatchFacts, Guide, KnownAnswers, Objective
from tamis.negatives.spn4cir import BankInfoNCE
from tamis.negatives.star_adore import adore_step

Array = np.ndarray[Any, Any]


class WholeBank(nn.Module):
    """SPN4CIR's second stage: every query against every passage of the corpus as the old model encoded it.

    Only the queries' side learns: the bank stands still, so passages of the trained model must not be used with it.

    Args:
        guide: its passages are the bank.
        positives: per query corpus rows, none of them a negative.
        temperature: divides the similarities.
        chunk_size: rows of the bank that are scored at a time.
    """

    def __init__(
        self, guide: Guide, positives: Sequence[Array], *, temperature: float = 0.05, chunk_size: int = 65_536
    ) -> None:
        super().__init__()
        bank = StaticBank(torch.from_numpy(np.asarray(guide.passages)))
        self.loss = BankInfoNCE(bank, temperature=temperature, chunk_size=chunk_size)
        self._known = KnownAnswers(positives)

    def forward(self, queries: Tensor, positives: Tensor, negatives: Tensor, facts: BatchFacts) -> Tensor:
        """The mean over queries."""
        target = facts.passages[: len(queries)]
        known = self._known.of(facts).to(target.device)
        value: Tensor = self.loss(queries, target, torch.where(known == target[:, None], NO_ID, known))
        return value


def live_index(guide: Guide, positives: Sequence[Array], *, top_k: int = 50, temperature: float = 0.1) -> Objective:
    """ADORE: the queries' side learns from the top of an index of the old model's passages, searched at every step.

    Args:
        guide: its passages are the index.
        positives: per query corpus rows.
        top_k: documents retrieved per query.
        temperature: divides the similarities, as the slope of the pairwise loss.

    Returns:
        the objective.
    """
    index, known = DynamicIndex(torch.from_numpy(np.asarray(guide.passages))), KnownAnswers(positives)
    depth = min(top_k, len(index))
    moved: dict[torch.device, DynamicIndex] = {index.vectors.device: index}

    def objective(queries: Tensor, positives: Tensor, negatives: Tensor, facts: BatchFacts) -> Tensor:
        asked = nn.functional.normalize(queries, dim=1)
        if asked.device not in moved:
            moved[asked.device] = DynamicIndex(index.vectors.to(asked.device))
        answers = known.of(facts).to(asked.device)
        return adore_step(asked, moved[asked.device], answers, top_k=depth, sigma=1 / temperature)[0]

    return objective
