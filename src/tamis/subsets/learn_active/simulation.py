"""Many problems at once: questions asked by a policy, answers drawn, a hypothesis named in the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from tamis import checks

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class History:
    """What is known so far in each of b runs.

    Args:
        counts: (b, n) float, how often each question was asked.
        sums: (b, n) float, sums of the answers.
        step: questions asked.
        horizon: questions in all.

    Example:
        >>> History(torch.tensor([[2.0, 0.0]]), torch.tensor([[3.0, 0.0]]), 2, 10).means.tolist()
        [[1.5, 0.0]]
    """

    counts: Tensor
    sums: Tensor
    step: int
    horizon: int

    @property
    def means(self) -> Tensor:
        """(b, n) mean answers, 0 where nothing was asked."""
        return self.sums / self.counts.clamp(min=1)


Policy = Callable[[History], Tensor]
"""From a history to logits (b, n) of the next question."""


@dataclass(frozen=True)
class Rollouts:
    """Runs that are over.

    Args:
        losses: (b,) float.
        history: the last one.
        log_probs: (b,) float, sum of the log-probabilities of the questions chosen, with a gradient where asked for.
    """

    losses: Tensor
    history: History
    log_probs: Tensor


class TransductiveProblem:
    """Questions x, hypotheses z and an unknown theta: answers have the mean <x, theta>, the best z is wanted.

    Args:
        queries: (n, d) float.
        hypotheses: (m, d) float.
        horizon: questions that may be asked.
        noise: standard deviation of Gaussian answers.
        answers: "gaussian", or "bernoulli" with means between 0 and 1.
        loss: "error", whether the wrong hypothesis is named, or "regret", how much worse it is.
        forced_start: ask every question once before the policy chooses.

    Raises:
        ValueError: for a horizon below the forced start, or shapes that do not fit.

    Example:
        >>> problem = TransductiveProblem(np.eye(2), np.array([[1.0, 0.0], [0.0, 1.0]]), 10)
        >>> runs = problem.run(lambda h: torch.zeros_like(h.counts), torch.tensor([[3.0, 0.0]]).expand(50, 2), seed=0)
        >>> runs.losses.sum().item()
        0.0
    """

    def __init__(
        self,
        queries: Array,
        hypotheses: Array,
        horizon: int,
        *,
        noise: float = 1.0,
        answers: Literal["gaussian", "bernoulli"] = "gaussian",
        loss: Literal["error", "regret"] = "error",
        forced_start: bool = True,
    ) -> None:
        self.queries, self.hypotheses = (torch.from_numpy(np.array(a, dtype=np.float32)) for a in (queries, hypotheses))
        checks.matrix("queries", self.queries)
        checks.matrix("hypotheses", self.hypotheses, columns=self.queries.shape[1])
        checks.one_of("answers", answers, ("gaussian", "bernoulli"))
        checks.one_of("loss", loss, ("error", "regret"))
        checks.positive("noise", noise)
        n = len(self.queries)
        checks.require(
            not forced_start or horizon >= n,
            f"horizon must be at least {n} to ask every question once: got {horizon}; or forced_start=False.",
        )
        checks.at_least("horizon", horizon, 1)
        self.horizon, self.noise, self.answers, self.loss = horizon, noise, answers, loss
        self.forced_start, self.n = forced_start, n

    def recommend(self, history: History) -> Tensor:
        """The hypothesis that looks best: by least squares, with a little weight on zero where questions are few.

        Args:
            history: of b runs.

        Returns:
            (b,) int64.
        """
        x = self.queries.to(history.counts)
        gram = torch.einsum("bn,nd,ne->bde", history.counts, x, x)
        gram = gram + 1e-6 * torch.eye(x.shape[1], device=gram.device, dtype=gram.dtype)
        theta = torch.linalg.solve(gram, history.sums @ x)
        named: Tensor = (theta @ self.hypotheses.to(theta).T).argmax(1)
        return named

    def run(self, policy: Policy, theta: Tensor, *, seed: int | Tensor = 0, gradient: bool = False) -> Rollouts:
        """Let a policy ask until the horizon, in all runs at once.

        All chance is drawn before, so two policies with one seed meet the same answers and luck.

        Args:
            policy: history to logits.
            theta: (b, d) float, the truth of each run.
            seed: of answers and choices.
            gradient: whether log-probabilities keep their gradient.

        Returns:
            losses, the last history and log-probabilities.
        """
        means = theta @ self.queries.to(theta).T
        b, n = means.shape
        rng = torch.Generator().manual_seed(int(seed))
        chance = torch.rand(self.horizon, b, generator=rng)
        draw = torch.randn if self.answers == "gaussian" else torch.rand
        luck = draw(self.horizon, b, generator=rng)
        chance, luck = chance.to(theta), luck.to(theta)
        counts, sums = torch.zeros_like(means), torch.zeros_like(means)
        total = means.new_zeros(b)
        rows = torch.arange(b, device=theta.device)
        for step in range(self.horizon):
            if self.forced_start and step < n:
                chosen = torch.full_like(rows, step)
            else:
                with torch.set_grad_enabled(gradient):
                    logits = policy(History(counts, sums, step, self.horizon)).log_softmax(1)
                ends = logits.detach().exp().cumsum(1)
                chosen = (chance[step, :, None] * ends[:, -1:] >= ends).sum(1).clamp(max=n - 1)
                total = total + logits[rows, chosen]
            mean = means[rows, chosen]
            answer = mean + self.noise * luck[step] if self.answers == "gaussian" else (luck[step] < mean).to(mean)
            counts, sums = counts.clone(), sums.clone()
            counts[rows, chosen] += 1
            sums[rows, chosen] += answer
        history = History(counts, sums, self.horizon, self.horizon)
        named = self.recommend(history)
        values = theta @ self.hypotheses.to(theta).T
        best = values.max(1)
        losses = best.values - values[rows, named]
        return Rollouts((losses > 0).to(theta) if self.loss == "error" else losses, history, total)


class BanditProblem(TransductiveProblem):
    """Arms: questions and hypotheses are the arms, theta their means.

    Args:
        n_arms: how many.
        horizon: pulls.
        noise: standard deviation of Gaussian answers.
        answers: as in ``TransductiveProblem``.
        loss: as in ``TransductiveProblem``.
        forced_start: pull every arm once before the policy chooses.

    Raises:
        ValueError: for a horizon below the number of arms with a forced start.

    Example:
        >>> BanditProblem(5, 30).n
        5
    """

    def __init__(
        self,
        n_arms: int,
        horizon: int,
        *,
        noise: float = 1.0,
        answers: Literal["gaussian", "bernoulli"] = "gaussian",
        loss: Literal["error", "regret"] = "error",
        forced_start: bool = True,
    ) -> None:
        checks.at_least("n_arms", n_arms, 2)
        arms = np.eye(n_arms)
        super().__init__(arms, arms, horizon, noise=noise, answers=answers, loss=loss, forced_start=forced_start)

    def recommend(self, history: History) -> Tensor:
        """The arm with the best mean.

        Args:
            history: of b runs.

        Returns:
            (b,) int64.
        """
        return torch.where(history.counts > 0, history.means, -torch.inf).argmax(1)
