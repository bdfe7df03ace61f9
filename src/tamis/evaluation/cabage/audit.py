"""The audit: how well a clone agrees with a model of your own after so many queries."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tamis import checks
from tamis.evaluation.cabage.losses import disagreement_loss, diversity_loss
from tamis.evaluation.cabage.networks import VectorClone, VectorGenerator, expand_output_
from tamis.evaluation.cabage.picking import class_balanced_hard_selection
from tamis.evaluation.cabage.replay import HardExampleReplay
from tamis.randomness import child_seed
from tamis.results import as_array

Array = np.ndarray[Any, Any]
Victim = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class AuditReport:
    """What an audit found.

    Args:
        queries: (p,) int64, queries spent when agreement was measured.
        fidelity: (p,) float, share of the test inputs on which clone and model give one label.
        spent: queries in all, never above the budget.
        labels: (c,) int64, labels that the model gave, in the order in which they turned up.
        counts: (c,) int64, how often each.
        label_entropy: of the labels given, over the logarithm of the number of classes: 1 is balanced.
        restarts: generators that were started anew because they had collapsed.

    Example:
        >>> curve = np.array([100, 200]), np.array([0.4, 0.7])
        >>> AuditReport(*curve, 200, np.arange(2), np.array([90, 110]), 0.99, 0).queries_to(0.5)
        200
    """

    queries: Array
    fidelity: Array
    spent: int
    labels: Array
    counts: Array
    label_entropy: float
    restarts: int

    def queries_to(self, fidelity: float) -> int | None:
        """The fewest queries after which the clone agreed this often.

        Args:
            fidelity: share of the test inputs, 0 to 1.

        Returns:
            queries, or None where the budget did not suffice.
        """
        reached = np.flatnonzero(self.fidelity >= fidelity)
        return int(self.queries[reached[0]]) if len(reached) else None


class ExtractabilityAudit:
    """Train clones on a model's answers to made-up inputs, and see how many queries they need (arXiv:2409.10643).

    Each round every generator takes a step towards inputs on which the clones disagree and that spread over the classes
    (``disagreement_loss + diversity_weight * diversity_loss``, which needs no gradient of the model), a few times as
    many candidates as queries are made, the balanced hard ones are asked, and the clones learn from the answers and
    from replayed pairs. With ``n_generators=1, replay="uniform", candidate_factor=1`` it is DisGUIDE. The model is a
    local module or function; use this on models that are yours, to choose limits on queries.

    Args:
        victim: the model in eval mode, or a function: inputs (b, ...) to scores (b, k), or to labels (b,) int.
        input_shape: of one input, with values in [0, 1] for the default generator.
        query_budget: inputs that may be asked.
        num_classes: of the model; left out, it is learned from the labels seen, and clones grow.
        n_generators: how many make candidates.
        clones: how many clones.
        batch_size: queries a round.
        candidate_factor: candidates per query.
        replay: "hard" draws stored pairs by their running loss, "uniform" all alike.
        replay_steps: batches replayed a round.
        replay_capacity: pairs stored.
        replay_bounds: least and greatest weight of a stored pair.
        diversity_weight: of the spread over classes in the generators' loss.
        restart_below: a generator whose candidates' predicted labels have under this share of the entropy that the best
            generator's have has collapsed and starts anew; 0 never restarts.
        answers: "label" trains on the model's labels by cross-entropy, "scores" on its scores by their absolute error.
        latent: dimension of the generators' noise.
        learning_rate: of Adam, for clones and generators.
        generator: makes a generator, a module from (b, latent) to inputs.
        clone: makes a clone of so many classes, a module from inputs to logits whose last layer is called ``head``.
        device: where generators and clones are, and what they make is asked; stored pairs stay in main memory.
        seed: of everything drawn.

    Returns:
        an audit; call ``run``.

    Raises:
        ValueError: for a budget below a batch, a model in training mode, or settings out of range.

    Example:
        >>> victim = lambda x: torch.stack([x[:, 0], 1 - x[:, 0]], 1)
        >>> audit = ExtractabilityAudit(victim, (2,), query_budget=200, num_classes=2, batch_size=20)
        >>> report = audit.run(torch.rand(100, 2, generator=torch.Generator().manual_seed(0)))
        >>> report.spent, bool(report.fidelity[-1] > 0.8)
        (200, True)
    """

    def __init__(
        self,
        victim: Victim,
        input_shape: Sequence[int],
        *,
        query_budget: int,
        num_classes: int | None = None,
        n_generators: int = 4,
        clones: int = 2,
        batch_size: int = 256,
        candidate_factor: int = 4,
        replay: Literal["hard", "uniform"] = "hard",
        replay_steps: int = 3,
        replay_capacity: int = 1_000_000,
        replay_bounds: tuple[float, float] = (0.05, 5.0),
        diversity_weight: float = 0.2,
        restart_below: float = 0.1,
        answers: Literal["label", "scores"] = "label",
        latent: int = 16,
        learning_rate: float = 1e-3,
        generator: Callable[[], nn.Module] | None = None,
        clone: Callable[[int], nn.Module] | None = None,
        device: str | torch.device = "cpu",
        seed: int = 0,
    ) -> None:
        for name, value, low in (
            ("n_generators", n_generators, 1), ("clones", clones, 2), ("batch_size", batch_size, 2),
            ("candidate_factor", candidate_factor, 1), ("replay_steps", replay_steps, 0), ("latent", latent, 1),
        ):  # fmt: skip
            checks.at_least(name, value, low)
        checks.require(
            query_budget >= batch_size,
            f"query_budget must be at least one batch of {batch_size}: got {query_budget}; lower batch_size.",
        )
        checks.one_of("replay", replay, ("hard", "uniform"))
        checks.one_of("answers", answers, ("label", "scores"))
        checks.positive("learning_rate", learning_rate)
        checks.require(
            num_classes is None or num_classes >= 2, f"num_classes must be at least 2, or None: got {num_classes}."
        )
        checks.require(
            answers == "label" or num_classes is not None, 'answers="scores" needs num_classes: how many scores come.'
        )
        checks.require(
            not (isinstance(victim, nn.Module) and victim.training),
            "victim must be in eval mode, or queries would change its statistics: call victim.eval().",
        )
        self.victim, self.query_budget, self.batch_size = victim, query_budget, batch_size
        self.candidate_factor, self.replay_steps, self.answers = candidate_factor, replay_steps, answers
        self.diversity_weight, self.restart_below, self.latent = diversity_weight, restart_below, latent
        self.learning_rate, self.seed, self.num_classes = learning_rate, seed, num_classes
        self.device = torch.device(device)
        self.spent = self.restarts = 0
        self.labels: list[int] = list(range(num_classes or 0))
        self.counts: list[int] = [0] * len(self.labels)
        shape = tuple(input_shape)
        self._generator = generator or (lambda: VectorGenerator(latent, shape))
        self._clone = clone or (lambda classes: VectorClone(shape, classes))
        self._noise = torch.Generator().manual_seed(child_seed(seed, "noise"))
        self._generators = [self._made(self._generator, "generator", i) for i in range(n_generators)]
        self._steps = [self._adam(module) for module in self._generators]
        self._outputs = max(2, len(self.labels))
        self._clones = [self._made(lambda: self._clone(self._outputs), "clone", i) for i in range(clones)]
        self._clone_steps = [self._adam(module) for module in self._clones]
        capacity = min(replay_capacity, query_budget)
        bounds = replay_bounds if replay == "hard" else (1.0, 1.0)
        evict: Literal["lowest", "oldest"] = "lowest" if replay == "hard" else "oldest"
        self._replay = HardExampleReplay(capacity, *bounds, evict=evict, seed=child_seed(seed, "replay"))
        self._inputs = torch.empty(capacity, *shape)
        self._answers = torch.empty((capacity, len(self.labels)) if answers == "scores" else capacity)

    def run(self, test_inputs: Tensor, *, measure_every: int = 1) -> AuditReport:
        """Spend what is left of the budget, and measure agreement on the way.

        Args:
            test_inputs: (n, *input_shape) float, real inputs to compare on; asking the model about them is not counted.
            measure_every: rounds between two measurements; the last round is always measured.

        Returns:
            the report.

        Raises:
            ValueError: for no test inputs, or a label that does not fit num_classes.
        """
        checks.require(len(test_inputs) > 0, "test_inputs must have at least one row to measure agreement on.")
        checks.at_least("measure_every", measure_every, 1)
        expected = _labels(self._answered(test_inputs.to(self.device)))
        curve, rounds = [], 0
        while self.spent < self.query_budget:
            self._round(min(self.batch_size, self.query_budget - self.spent))
            rounds += 1
            if rounds % measure_every == 0 or self.spent == self.query_budget:
                own = torch.tensor(self.labels)[self.predict(test_inputs).argmax(1).cpu()]
                curve.append((self.spent, float((own == expected.cpu()).double().mean())))
        counts = np.array(self.counts, dtype=np.int64)
        queries, fidelity = (np.array(column) for column in zip(*curve, strict=True)) if curve else (np.empty(0),) * 2
        entropy = _entropy(counts, len(counts))
        return AuditReport(queries, fidelity, self.spent, np.array(self.labels), counts, entropy, self.restarts)

    @torch.no_grad()
    def predict(self, inputs: Tensor) -> Tensor:
        """The clones' mean prediction.

        Args:
            inputs: (n, *input_shape) float.

        Returns:
            (n, classes) probabilities, a column per entry of ``labels``.
        """
        for module in self._clones:
            module.eval()
        placed = inputs.to(self.device)
        mean = torch.stack([module(placed).softmax(1) for module in self._clones]).mean(0)
        for module in self._clones:
            module.train()
        return mean[:, : max(1, len(self.labels))]

    def _round(self, size: int) -> None:
        for module, optimizer in zip(self._generators, self._steps, strict=True):
            probs = self._predictions(module(self._drawn(self.batch_size)))
            loss = disagreement_loss(probs) + self.diversity_weight * diversity_loss(probs)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        inputs = self._candidates(size)
        answers = self._asked(inputs)
        slots = self._replay.add(size)
        self._inputs[slots], self._answers[slots] = inputs.cpu(), answers.cpu().to(self._answers.dtype)
        self._learn(slots)
        for _ in range(self.replay_steps):
            self._learn(self._replay.draw(size))

    def _candidates(self, size: int) -> Tensor:
        """Inputs worth asking, out of several times as many, of which every generator makes an equal share."""
        total = size * self.candidate_factor
        ends = [total * i // len(self._generators) for i in range(len(self._generators) + 1)]
        made, entropies = [], []
        with torch.no_grad():
            for module, (start, stop) in zip(self._generators, itertools.pairwise(ends), strict=True):
                # Statistics of a batch are part of a generator, so it makes no batch of one.
                made.append(module(self._drawn(max(2, stop - start)))[: stop - start])
                predicted = np.bincount(as_array(self.predict(made[-1]).argmax(1)))
                entropies.append(_entropy(predicted, len(self.labels)))
            candidates = torch.cat(made)
            worst = int(np.argmin(entropies))
            if entropies[worst] < self.restart_below * max(entropies):
                self._restart(worst)
            if self.candidate_factor == 1:
                return candidates
            rows = class_balanced_hard_selection(self.predict(candidates), size, seed=child_seed(self.seed, self.spent))
        return candidates[rows]

    def _restart(self, number: int) -> None:
        self.restarts += 1
        self._generators[number] = self._made(self._generator, "restart", self.restarts)
        self._steps[number] = self._adam(self._generators[number])

    def _asked(self, inputs: Tensor) -> Tensor:
        """The model's answers: places in ``labels``, or scores; every input is counted."""
        checks.require(self.spent + len(inputs) <= self.query_budget, "the budget of queries is spent.")
        answered = self._answered(inputs)
        self.spent += len(inputs)
        labels = _labels(answered)
        if self.num_classes is not None:
            highest = int(labels.max())
            checks.require(
                highest < self.num_classes and int(labels.min()) >= 0,
                f"num_classes must cover every label of victim: got label {highest} with {self.num_classes}; "
                "leave it out to have clones grow.",
            )
        known = {label: place for place, label in enumerate(self.labels)}
        new = [label for label in dict.fromkeys(labels.tolist()) if label not in known]
        for label in new:
            known[label] = len(self.labels)
            self.labels.append(label)
            self.counts.append(0)
        self._grow()
        places = torch.tensor([known[label] for label in labels.tolist()], device="cpu")
        for place, count in enumerate(torch.bincount(places, minlength=len(self.labels)).tolist()):
            self.counts[place] += count
        return answered if self.answers == "scores" else places

    def _answered(self, inputs: Tensor) -> Tensor:
        with torch.no_grad():
            answered = self.victim(inputs.detach().clone())
        checks.require(
            not answered.requires_grad,
            "victim must answer without a gradient, or it would be trained: detach its answers.",
        )
        return answered

    def _grow(self) -> None:
        """Give every clone an output for each label seen; a clone begins with two."""
        missing = len(self.labels) - self._outputs
        if missing <= 0:
            return
        self._outputs += missing
        for i, module in enumerate(self._clones):
            head = getattr(module, "head", None)
            checks.require(
                isinstance(head, nn.Linear),
                "clone must call its last layer head, a Linear, to grow; or give num_classes.",
            )
            assert isinstance(head, nn.Linear)
            expand_output_(head, missing, seed=child_seed(self.seed, "head", i, len(self.labels)))
            self._clone_steps[i] = self._adam(module)

    def _learn(self, slots: Array) -> None:
        """One step of every clone on stored pairs, whose weights become the loss they had."""
        inputs, answers = (part[slots].to(self.device) for part in (self._inputs, self._answers))
        seen = torch.zeros(len(slots), device=self.device)
        for module, optimizer in zip(self._clones, self._clone_steps, strict=True):
            logits = module(inputs)
            if self.answers == "scores":
                each = (logits - answers).abs().mean(1)
            else:
                each = F.cross_entropy(logits, answers.long(), reduction="none")
            optimizer.zero_grad()
            each.mean().backward()
            optimizer.step()
            seen += each.detach() / len(self._clones)
        self._replay.update(slots, seen)

    def _predictions(self, inputs: Tensor) -> Tensor:
        return torch.stack([module(inputs).softmax(1) for module in self._clones], 1)

    def _drawn(self, count: int) -> Tensor:
        noise = torch.randn(count, self.latent, generator=self._noise)
        return noise.to(self.device)

    def _made(self, make: Callable[[], nn.Module], *names: object) -> nn.Module:
        """A module whose first weights depend on the seed alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(child_seed(self.seed, *names))
            return make().to(self.device)

    def _adam(self, module: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(module.parameters(), lr=self.learning_rate)


def _labels(answers: Tensor) -> Tensor:
    """Labels from labels or scores."""
    if answers.ndim == 1 and not answers.is_floating_point():
        return answers
    checks.require(
        answers.ndim == 2, f"victim must give scores (b, k) or integer labels (b,): got {tuple(answers.shape)}."
    )
    return answers.argmax(1)


def _entropy(counts: Array, classes: int) -> float:
    shares = counts[counts > 0] / max(1, counts.sum())
    return float(-(shares * np.log(shares)).sum() / math.log(max(2, classes))) + 0.0
