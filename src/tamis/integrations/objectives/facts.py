"""What an objective is given, and what it may have beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tamis.extra_negatives import NO_ID

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class BatchFacts:
    """What a loss may know of a batch beside the embeddings.

    Args:
        log_weights: (b, b + m) float32, queries against positives and then negatives; ``-inf`` for known answers.
        queries: (b,) int64 query rows.
        passages: (b + m,) int64 corpus rows, positives first.
    """

    log_weights: Tensor
    queries: Tensor
    passages: Tensor


Objective = Callable[[Tensor, Tensor, Tensor, BatchFacts], Tensor]
"""``objective(queries (b, d), positives (b, d), negatives (m, d), facts) -> scalar``."""


@dataclass(frozen=True)
class Guide:
    """Vectors that stand still, by row: those of the encoder that mined will do.

    Args:
        queries: (q, d) float32, rows of length one.
        passages: (n, d) float32, rows of length one.
    """

    queries: Array
    passages: Array

    def of(self, facts: BatchFacts, like: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors of the batch's queries (b, d) and of its passages (b + m, d)."""
        sides = (self.queries, facts.queries), (self.passages, facts.passages)
        queries, passages = (torch.from_numpy(np.asarray(v[rows.cpu().numpy()])).to(like) for v, rows in sides)
        return queries, passages


class KnownAnswers:
    """The known positives of given queries as a table.

    Args:
        positives: per query corpus rows.
    """

    def __init__(self, positives: Sequence[Array]) -> None:
        self._positives = positives

    def of(self, facts: BatchFacts) -> Tensor:
        """(b, r) int64 corpus rows, filled up with -1."""
        own = [torch.as_tensor(self._positives[q], dtype=torch.int64) for q in facts.queries.tolist()]
        return nn.utils.rnn.pad_sequence(own, batch_first=True, padding_value=NO_ID)
