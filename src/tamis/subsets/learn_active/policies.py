"""Policies: indices made by hand, a network, and a session that asks a user one question after the other."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tamis import checks
from tamis.randomness import child_seed
from tamis.subsets.learn_active.simulation import History, Policy, TransductiveProblem

Array = np.ndarray[Any, Any]

_CERTAIN = 1e4  # a logit that leaves the others no chance


@dataclass(frozen=True)
class IndexPolicy:
    """Questions by a softmax of ``mean_weight * mean + bonus / sqrt(count)``; both 0 ask uniformly.

    Args:
        mean_weight: how greedy.
        bonus: how much what was asked seldom is preferred.

    Example:
        >>> history = History(torch.tensor([[1.0, 4.0]]), torch.tensor([[0.0, 4.0]]), 5, 30)
        >>> IndexPolicy(2.0, 4.0)(history).tolist()
        [[4.0, 4.0]]
    """

    mean_weight: float = 0.0
    bonus: float = 0.0

    def __call__(self, history: History) -> Tensor:
        """Logits of the next question.

        Args:
            history: of b runs.

        Returns:
            (b, n) float.
        """
        return self.mean_weight * history.means + self.bonus / history.counts.clamp(min=0.25).sqrt()


@dataclass(frozen=True)
class UCBPolicy:
    """The question with the greatest ``mean + sqrt(2 log t / count)``.

    Args:
        scale: of the bonus.

    Example:
        >>> history = History(torch.tensor([[1.0, 9.0]]), torch.tensor([[0.5, 9.0]]), 10, 30)
        >>> UCBPolicy()(history).argmax(1).tolist()
        [0]
    """

    scale: float = 1.0

    def __call__(self, history: History) -> Tensor:
        """Logits of the next question.

        Args:
            history: of b runs.

        Returns:
            (b, n) float.
        """
        bonus = math.sqrt(2 * math.log(max(history.step, 2)))
        value = history.means + self.scale * bonus / history.counts.clamp(min=1e-6).sqrt()
        return _CERTAIN * (value == value.amax(1, keepdim=True)).to(value)


@dataclass(frozen=True)
class LUCBPolicy:
    """The best arm or its strongest challenger, whichever was asked less.

    Args:
        scale: of the bonus of challengers.

    Example:
        >>> history = History(torch.tensor([[5.0, 2.0, 3.0]]), torch.tensor([[5.0, 1.0, 0.0]]), 10, 30)
        >>> LUCBPolicy()(history).argmax(1).tolist()
        [1]
    """

    scale: float = 1.0

    def __call__(self, history: History) -> Tensor:
        """Logits of the next question.

        Args:
            history: of b runs.

        Returns:
            (b, n) float.
        """
        rows = torch.arange(len(history.counts), device=history.counts.device)
        best = history.means.argmax(1)
        value = history.means + self.scale / history.counts.clamp(min=1e-6).sqrt()
        value = value.index_put((rows, best), value.new_tensor(-math.inf))
        other = value.argmax(1)
        chosen = torch.where(history.counts[rows, best] <= history.counts[rows, other], best, other)
        return _CERTAIN * nn.functional.one_hot(chosen, history.counts.shape[1]).to(value)


class NetworkPolicy(nn.Module):
    """One small network for every question, so that permuting them permutes the policy.

    It sees of each question its mean, count, one over the root of the count and the gap to the best mean, and how far
    the run is; questions see one another through the mean of a hidden layer.

    Args:
        hidden: width.
        seed: of the first weights.

    Returns:
        logits (b, n).

    Raises:
        ValueError: for a width below 1.

    Example:
        >>> history = History(torch.ones(2, 3), torch.zeros(2, 3), 3, 30)
        >>> NetworkPolicy(8)(history).shape
        torch.Size([2, 3])
    """

    def __init__(self, hidden: int = 32, *, seed: int = 0) -> None:
        super().__init__()
        checks.at_least("hidden", hidden, 1)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(child_seed(seed, "policy"))
            self.first = nn.Sequential(nn.Linear(5, hidden), nn.Tanh())
            self.second = nn.Sequential(nn.Linear(2 * hidden, hidden), nn.Tanh(), nn.Linear(hidden, 1))

    def forward(self, history: History) -> Tensor:
        """Logits of the next question.

        Args:
            history: of b runs.

        Returns:
            (b, n) float.
        """
        means, counts = history.means, history.counts
        seen = [
            means,
            counts / history.horizon,
            counts.clamp(min=0.25).rsqrt(),
            means.amax(1, keepdim=True) - means,
            torch.full_like(means, history.step / history.horizon),
        ]
        own = self.first(torch.stack(seen, 2))
        context = own.mean(1, keepdim=True).expand_as(own)
        logits: Tensor = self.second(torch.cat([own, context], 2)).squeeze(2)
        return logits


class PolicySession:
    """Ask a user one question after the other, by a policy: ask, tell, and recommend in the end.

    Args:
        problem: questions, hypotheses and horizon.
        policy: from history to logits.
        seed: of the choices.

    Returns:
        a session.

    Raises:
        ValueError: for an answer without a question, or one that is not finite.

    Example:
        >>> from tamis.subsets.learn_active.simulation import BanditProblem
        >>> session = PolicySession(BanditProblem(2, 4), IndexPolicy())
        >>> for answer in (0.0, 1.0, 1.0, 1.0):
        ...     _ = session.ask()
        ...     session.tell(answer)
        >>> session.ask() is None, session.recommend()
        (True, 1)
    """

    def __init__(self, problem: TransductiveProblem, policy: Policy, *, seed: int = 0) -> None:
        self.problem, self.policy, self.seed = problem, policy, seed
        self._counts, self._sums = torch.zeros(2, 1, problem.n)
        self._step, self._asked = 0, -1

    def ask(self) -> int | None:
        """The next question; asked again before ``tell``, the same one. None when the horizon is reached.

        Returns:
            row of the questions, or None.
        """
        if self._asked >= 0 or self._step >= self.problem.horizon:
            return self._asked if self._asked >= 0 else None
        if self.problem.forced_start and self._step < self.problem.n:
            self._asked = self._step
        else:
            with torch.no_grad():
                probs = self.policy(self._history()).softmax(1)[0].double().numpy()
            rng = np.random.default_rng(child_seed(self.seed, "question", self._step))
            self._asked = int(rng.choice(len(probs), p=probs / probs.sum()))
        return self._asked

    def tell(self, answer: float) -> None:
        """Give the answer to the question that was asked.

        Args:
            answer: number.

        Raises:
            ValueError: where nothing was asked, or the answer is not finite.
        """
        checks.require(self._asked >= 0, "no question was asked: call ask before tell.")
        checks.require(math.isfinite(answer), f"answer must be finite: got {answer!r}.")
        self._counts[0, self._asked] += 1
        self._sums[0, self._asked] += float(answer)
        self._step, self._asked = self._step + 1, -1

    def recommend(self) -> int:
        """The hypothesis that looks best so far.

        Returns:
            row of the hypotheses.
        """
        return int(self.problem.recommend(self._history())[0])

    def _history(self) -> History:
        return History(self._counts, self._sums, self._step, self.problem.horizon)
