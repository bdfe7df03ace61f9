"""Fresh candidate lists, and the loop that trains ranker and retriever in turn."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from tamis import checks
from tamis.extra_negatives import DynamicIndex
from tamis.negatives.ar2.objectives import AdversarialRetrieverLoss, RankerListwiseLoss
from tamis.randomness import Seed, as_generator, gumbel_top_k

Array = np.ndarray[Any, Any]
Kind = TypeVar("Kind", Array, Tensor)


@dataclass(frozen=True)
class CandidateLists:
    """A batch for both models: queries, and the candidates of each with the positive first.

    Args:
        queries: (b,) int64, rows of the queries.
        candidates: (b, 1 + n) int64, rows of the passages; where there is none, the row of the positive.
        log_weights: (b, 1 + n) float, 0 for a candidate, ``-inf`` for a place without one.
    """

    queries: Tensor
    candidates: Tensor
    log_weights: Tensor


def refresh_topk(
    queries: Kind,
    passages: Kind,
    positives: Kind,
    *,
    k: int = 100,
    ids: Kind | None = None,
    exclude: Kind | None = None,
) -> Kind:
    """Search the whole corpus again with the vectors of this moment, and leave out what answers the query.

    Step (a) of every iteration of AR2 (arXiv:2110.03611), from whose top 100 the negatives are drawn.

    Args:
        queries: (q, d) float; compared by inner product.
        passages: (n, d) float, encoded by the current retriever.
        positives: (q,) or (q, r) int64, ids of each query's known positives; -1 fills up shorter rows.
        k: passages per query, at most n.
        ids: (n,) int64, ids of the passages; default 0 to n - 1.
        exclude: (q, s) int64, ids of further passages that are no negatives, those that hold the answer, say; -1 fills
            up shorter rows.

    Returns:
        (q, k) int64, rows of passages, best first; -1 where a query runs out of them.

    Raises:
        ValueError: shapes that do not fit, numbers that are not finite, k above n.

    Example:
        >>> passages = np.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]], dtype=np.float32)
        >>> refresh_topk(passages[:1], passages, np.array([0]), k=2)
        array([[1, 2]])
    """
    asked, docs, known = (_tensor(x) for x in (queries, passages, positives))
    index = DynamicIndex(docs, None if ids is None else _tensor(ids))
    checks.matrix("queries", asked)
    tables = [known] if exclude is None else [known, _tensor(exclude)]
    for name, table in zip(("positives", "exclude"), tables, strict=False):
        checks.require(
            table.ndim in (1, 2) and table.dtype == torch.int64 and table.numel() > 0,
            f"{name} must be ({len(asked)},) or ({len(asked)}, r) int64 ids: got {tuple(table.shape)} {table.dtype}.",
        )
        checks.same_length(name, table, "queries", asked)
    barred = torch.cat([table.reshape(len(table), -1) for table in tables], dim=1)
    _, rows = index.search(asked, k, exclude=barred)
    return rows.numpy() if isinstance(queries, np.ndarray) else rows


def draw_lists(found: Tensor, positives: Tensor, queries: Tensor, *, negatives: int = 15, seed: Seed) -> CandidateLists:
    """Lists for a batch of queries: one known positive each, and negatives drawn from what was found.

    The lists of AR2 (arXiv:2110.03611): the positive and 15 of the top 100, without replacement.

    Args:
        found: (q, k) int64, rows of passages from ``refresh_topk``; -1 where there is none.
        positives: (q,) or (q, r) int64, rows of the known positives, of which one is drawn; -1 fills up shorter rows.
        queries: (b,) int64, the queries of the batch, rows of found.
        negatives: n, at least 1; a query with fewer has places without a candidate.
        seed: seed or generator; a generator advances, so give every batch the same one.

    Returns:
        lists of 1 + n candidates.

    Raises:
        ValueError: shapes that do not fit, a query without a positive.

    Example:
        >>> lists = draw_lists(torch.tensor([[4, 2, -1]]), torch.tensor([0]), torch.tensor([0]), negatives=3, seed=0)
        >>> sorted(lists.candidates[0].tolist()), lists.log_weights.tolist()
        ([0, 0, 2, 4], [[0.0, 0.0, 0.0, -inf]])
    """
    checks.matrix("found", found)
    checks.same_length("positives", positives, "found", found)
    checks.at_least("negatives", negatives, 1)
    for name, rows in (("found", found), ("positives", positives), ("queries", queries)):
        checks.require(rows.dtype == torch.int64, f"{name} must be int64 rows: got {rows.dtype}.")
    rng, known = as_generator(seed), positives.reshape(len(positives), -1)
    own = [(table[queries.to(table.device)].cpu().numpy(), count) for table, count in ((known, 1), (found, negatives))]
    drawn = [_draw(table, count, rng) for table, count in own]
    lost = np.flatnonzero(drawn[0][:, 0] < 0)
    checks.require(
        len(lost) == 0,
        f"positives must hold one or more for every query: {len(lost)} queries of the batch have none, the first is "
        f"query {int(queries[lost[0]]) if len(lost) else ''}.",
    )
    candidates = torch.from_numpy(np.concatenate(drawn, axis=1)).to(found.device)
    log_weights = torch.zeros(candidates.shape, device=found.device).masked_fill(candidates < 0, -torch.inf)
    return CandidateLists(queries, torch.where(candidates < 0, candidates[:, :1], candidates), log_weights)


class AlternatingTrainer:
    """Rounds of ranker steps and retriever steps on lists that are mined anew.

    The training loop of AR2 (arXiv:2110.03611) after both models are warmed up. A step of one model runs the other in
    evaluation mode without a graph, or not at all, so only one of them ever gets gradients. The ranker's learning rate
    is a tenth of the retriever's in the paper: swapping them destroys the balance.

    Args:
        retriever: called with the queries (b,) and candidates (b, 1 + n) of ``CandidateLists``, rows; gives scores
            (b, 1 + n).
        ranker: likewise, gives logits.
        miner: called with the number of the round; gives ``CandidateLists``, batch after batch, from a search under
            the retriever of this moment. What it gives is used again from the start when it ends before the round.
        retriever_optimizer: of the retriever's parameters; 1e-5 in the paper.
        ranker_optimizer: of the ranker's parameters; 1e-6 in the paper.
        ranker_steps: ranker steps in a round.
        retriever_steps: retriever steps in a round.
        refresh_every: rounds from one call of the miner to the next.
        loss: of the retriever, called with its scores, the ranker's logits and ``log_weights``; default
            ``AdversarialRetrieverLoss()``.

    Raises:
        ValueError: steps below 0, refresh_every below 1, models that share a parameter.

    Example:
        >>> tables = [torch.zeros(1, 2, requires_grad=True) for _ in range(2)]
        >>> sgd = [torch.optim.SGD([table], lr=1.0) for table in tables]
        >>> models = [lambda queries, candidates, table=table: table[queries] for table in tables]
        >>> lists = CandidateLists(torch.tensor([0]), torch.tensor([[0, 1]]), torch.zeros(1, 2))
        >>> steps = {"ranker_steps": 1, "retriever_steps": 1, "retriever_optimizer": sgd[0], "ranker_optimizer": sgd[1]}
        >>> round(AlternatingTrainer(*models, lambda _: [lists], **steps).train_round()["retriever_loss"], 4)
        0.6954
    """

    def __init__(
        self,
        retriever: Callable[[Tensor, Tensor], Tensor],
        ranker: Callable[[Tensor, Tensor], Tensor],
        miner: Callable[[int], Iterable[CandidateLists]],
        *,
        retriever_optimizer: torch.optim.Optimizer,
        ranker_optimizer: torch.optim.Optimizer,
        ranker_steps: int = 500,
        retriever_steps: int = 2000,
        refresh_every: int = 1,
        loss: Callable[..., Tensor] | None = None,
    ) -> None:
        checks.at_least("ranker_steps", ranker_steps, 0)
        checks.at_least("retriever_steps", retriever_steps, 0)
        checks.at_least("refresh_every", refresh_every, 1)
        held = [{id(p) for g in o.param_groups for p in g["params"]} for o in (retriever_optimizer, ranker_optimizer)]
        checks.require(
            not held[0] & held[1], "retriever and ranker must share no parameter: each stands still in turn."
        )
        self.retriever, self.ranker, self.miner = retriever, ranker, miner
        self.retriever_optimizer, self.ranker_optimizer = retriever_optimizer, ranker_optimizer
        self.ranker_steps, self.retriever_steps, self.refresh_every = ranker_steps, retriever_steps, refresh_every
        self.loss = AdversarialRetrieverLoss() if loss is None else loss
        self.ranker_loss = RankerListwiseLoss()
        self.rounds = 0
        self._lists: Iterator[CandidateLists] | None = None

    def train_round(self) -> dict[str, float]:
        """Mine if it is time, then the ranker's steps, then the retriever's.

        Returns:
            "round", and the mean losses of its steps: "ranker_loss" and "retriever_loss" (NaN without steps).

        Raises:
            ValueError: when the miner gives nothing.
        """
        if self._lists is None or self.rounds % self.refresh_every == 0:
            _mode(self.retriever, training=False)
            _mode(self.ranker, training=False)
            self._lists = _endless(self.miner(self.rounds))
        lists = self._lists
        ranker = [self._ranker_step(next(lists)) for _ in range(self.ranker_steps)]
        retriever = [self._retriever_step(next(lists)) for _ in range(self.retriever_steps)]
        self.rounds += 1
        return {"round": self.rounds - 1, "ranker_loss": _mean(ranker), "retriever_loss": _mean(retriever)}

    def train(self, rounds: int) -> list[dict[str, float]]:
        """So many rounds.

        Args:
            rounds: how many.

        Returns:
            what ``train_round`` returned, round by round.
        """
        return [self.train_round() for _ in range(rounds)]

    def state_dict(self) -> dict[str, Any]:
        """How many rounds are done, and both optimizers; the models are saved where they live.

        Returns:
            a dict for ``load_state_dict``.
        """
        return {
            "rounds": self.rounds,
            "retriever_optimizer": self.retriever_optimizer.state_dict(),
            "ranker_optimizer": self.ranker_optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after the round in which the state was taken; the next round begins with a call of the miner.

        Args:
            state: from ``state_dict``.
        """
        self.rounds = int(state["rounds"])
        self.retriever_optimizer.load_state_dict(state["retriever_optimizer"])
        self.ranker_optimizer.load_state_dict(state["ranker_optimizer"])
        self._lists = None

    def _ranker_step(self, lists: CandidateLists) -> Tensor:
        _mode(self.ranker, training=True)
        logits = self.ranker(lists.queries, lists.candidates)
        return _step(self.ranker_optimizer, self.ranker_loss(logits, log_weights=lists.log_weights))

    def _retriever_step(self, lists: CandidateLists) -> Tensor:
        _mode(self.ranker, training=False)
        with torch.no_grad():
            logits = self.ranker(lists.queries, lists.candidates)
        _mode(self.retriever, training=True)
        scores = self.retriever(lists.queries, lists.candidates)
        return _step(self.retriever_optimizer, self.loss(scores, logits, log_weights=lists.log_weights))


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> Tensor:
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    optimizer.zero_grad()
    return loss.detach()


def _mode(model: object, *, training: bool) -> None:
    if isinstance(model, nn.Module) and model.training != training:
        model.train(training)


def _mean(losses: list[Tensor]) -> float:
    return float(torch.stack(losses).mean()) if losses else float("nan")


def _endless(batches: Iterable[CandidateLists]) -> Iterator[CandidateLists]:
    while True:
        count = 0
        for count, lists in enumerate(batches, 1):  # noqa: B007
            yield lists
        checks.require(
            count > 0,
            "miner must give lists for a whole round: it gave none, or its iterator has ended.",
        )


def _draw(table: Array, count: int, rng: np.random.Generator) -> Array:
    """(b, count) entries of each row without replacement; -1 where the row has run out of them."""
    columns = gumbel_top_k(np.where(table < 0, -np.inf, 0.0), count, rng)
    drawn = np.where(columns < 0, -1, np.take_along_axis(table, columns.clip(0), 1))
    return np.pad(drawn, ((0, 0), (0, count - drawn.shape[1])), constant_values=-1)


def _tensor(values: Array | Tensor) -> Tensor:
    # torch warns of memory that it may not write to, and takes no negative strides.
    return torch.from_numpy(np.require(values, requirements=("C", "W"))) if isinstance(values, np.ndarray) else values
