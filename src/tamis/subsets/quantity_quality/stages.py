"""Two-stage fine-tuning: noisy labels first, correct labels after."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tamis import checks
from tamis.checks import ArrayLike
from tamis.randomness import child_seed
from tamis.results import as_array

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Stage:
    """A part of the data to train on in one go.

    Args:
        name: what reports call it.
        rows: (n,) int64, rows of the data, none of which another stage has.
    """

    name: str
    rows: ArrayLike


@dataclass(frozen=True)
class StagePlan:
    """What a stage comes to.

    Args:
        name: of the stage.
        train: (m,) int64, rows to train on.
        validation: (v,) int64, rows that choose the checkpoint; they were paid for like the others.
        epochs: most epochs.
        warmup_steps: steps over which the learning rate rises.
    """

    name: str
    train: Array
    validation: Array
    epochs: int
    warmup_steps: int


@dataclass(frozen=True)
class StageReport:
    """What a stage did.

    Args:
        name: of the stage.
        scores: of the validation part after each epoch, the first before any; empty without one.
        best_epoch: whose model was kept, 0 for the one that the stage began with.
        steps: of the optimiser.
    """

    name: str
    scores: list[float] = field(default_factory=list)
    best_epoch: int = 0
    steps: int = 0


class SequentialSFT:
    """Stages of training on one model, each with a fresh optimiser, a warm-up, and the best checkpoint of its own.

    The two-stage fine-tuning of arXiv:2410.13215: noisy labels, then correct ones. A stage of n rows trains for at most
    ``max(1, max_examples / n)`` epochs, sets a part of its rows aside for validation, and warms up for no more than an
    epoch. A stage without rows is left out.

    When not to use: a handful of correct labels after many noisy ones overwrites what was learnt; a fifth of the budget
    for correct ones was the worst share in the claim at every budget. With ``keep_start`` a stage may decline.

    Args:
        stages: in order.
        batch_size: rows per step.
        validation: share of each stage's rows set aside, at least two; 0 for none, then a stage runs to its end and
            keeps its last model. A stage of fewer than four rows sets none aside, and trains for one epoch.
        max_examples: that a stage trains on, over all epochs.
        warmup_steps: over which the learning rate rises from a fraction of itself; at least 2, at most an epoch.
        patience: epochs without a better validation score after which a stage ends; None for no early end.
        keep_start: let the model that a stage began with stand for the best, too.
        seed: of the split and the batches.

    Raises:
        ValueError: for a row in two stages or twice in one, no rows at all, or an argument outside its range.

    Example:
        >>> plan = SequentialSFT([Stage("weak", np.arange(100)), Stage("oracle", np.arange(100, 110))]).plans
        >>> [(p.name, len(p.train), len(p.validation), p.epochs, p.warmup_steps) for p in plan]
        [('weak', 80, 20, 300, 3), ('oracle', 8, 2, 3000, 2)]
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        *,
        batch_size: int = 32,
        validation: float = 0.2,
        max_examples: int = 30_000,
        warmup_steps: int = 40,
        patience: int | None = 10,
        keep_start: bool = False,
        seed: int = 0,
    ) -> None:
        checks.at_least("batch_size", batch_size, 1)
        checks.require(0 <= validation < 1, f"validation must be a share from 0 to below 1: got {validation!r}.")
        checks.at_least("max_examples", max_examples, 1)
        checks.at_least("warmup_steps", warmup_steps, 0)
        checks.at_least("patience", 1 if patience is None else patience, 1)
        owner: dict[int, str] = {}
        for stage in stages:
            for row in as_array(stage.rows).tolist():
                checks.require(
                    row not in owner, f"stages must not share rows: row {row} is in {owner.get(row)} and {stage.name}."
                )
                owner[row] = stage.name
        checks.require(len(owner) > 0, "stages must hold at least one row: all are empty.")
        self.batch_size, self.validation, self.max_examples = batch_size, validation, max_examples
        self.warmup_steps, self.patience, self.keep_start, self.seed = warmup_steps, patience, keep_start, seed
        self.plans = [self._plan(stage) for stage in stages if len(stage.rows) > 0]

    def fit(
        self,
        model: nn.Module,
        *,
        optimizer: Callable[[], torch.optim.Optimizer],
        loss: Callable[[Tensor], Tensor],
        score: Callable[[Tensor], float] | None = None,
    ) -> list[StageReport]:
        """Train the model through all stages; it ends as the best checkpoint of the last one.

        Args:
            model: whose state is kept and brought back; in training mode for ``loss``, in evaluation for ``score``.
            optimizer: called at the start of each stage, gives a new one of the model's parameters.
            loss: of rows (b,) int64, a scalar with a gradient.
            score: of validation rows (v,) int64, larger is better; needed unless ``validation`` is 0.

        Returns:
            a report per stage that has rows.

        Raises:
            ValueError: when validation rows are set aside and there is no score, or a score is NaN.
        """
        checks.require(
            score is not None or not any(len(plan.validation) for plan in self.plans),
            "score must be given where rows are set aside for validation: pass one, or validation=0.",
        )
        return [self._run(plan, model, optimizer(), loss, score) for plan in self.plans]

    def _plan(self, stage: Stage) -> StagePlan:
        rng = np.random.default_rng(child_seed(self.seed, stage.name, "split"))
        rows = rng.permutation(as_array(stage.rows).astype(np.int64))
        aside = max(2, int(self.validation * len(rows))) if self.validation > 0 and len(rows) >= 4 else 0
        train = np.sort(rows[aside:])
        epochs = 1 if self.validation > 0 and aside == 0 else max(1, self.max_examples // len(rows))
        per_epoch = -(-len(train) // self.batch_size)
        return StagePlan(stage.name, train, np.sort(rows[:aside]), epochs, max(2, min(self.warmup_steps, per_epoch)))

    def _run(
        self,
        plan: StagePlan,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss: Callable[[Tensor], Tensor],
        score: Callable[[Tensor], float] | None,
    ) -> StageReport:
        judge = score if len(plan.validation) else None
        scores = [] if judge is None else [_judged(judge, model, plan)]
        best, kept, state, steps = (scores[0] if scores and self.keep_start else -np.inf), 0, None, 0
        if judge is not None and self.keep_start:
            state = copy.deepcopy(model.state_dict())
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: min(1.0, (s + 1) / plan.warmup_steps))
        for epoch in range(1, plan.epochs + 1):
            model.train()
            for batch in self._batches(plan, epoch):
                optimizer.zero_grad()
                loss(batch).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
                steps += 1
            if judge is None:
                continue
            scores.append(_judged(judge, model, plan))
            if scores[-1] > best:
                best, kept, state = scores[-1], epoch, copy.deepcopy(model.state_dict())
            if self.patience is not None and epoch - kept >= self.patience:
                break
        if state is not None:
            model.load_state_dict(state)
        return StageReport(plan.name, scores, plan.epochs if judge is None else kept, steps)

    def _batches(self, plan: StagePlan, epoch: int) -> Iterator[Tensor]:
        rng = np.random.default_rng(child_seed(self.seed, plan.name, epoch))
        yield from torch.split(torch.from_numpy(rng.permutation(plan.train)), self.batch_size)


def _judged(score: Callable[[Tensor], float], model: nn.Module, plan: StagePlan) -> float:
    model.eval()
    with torch.no_grad():
        value = float(score(torch.from_numpy(plan.validation)))
    checks.require(not np.isnan(value), f"score must be a number: it is NaN in the stage {plan.name}.")
    return value
