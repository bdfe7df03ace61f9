"""Training a network against adversarial problems of every class of difficulty."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tamis import checks
from tamis.randomness import child_seed
from tamis.subsets.learn_active.complexity import bandit_complexities
from tamis.subsets.learn_active.policies import IndexPolicy, NetworkPolicy
from tamis.subsets.learn_active.simulation import BanditProblem, History, Policy

Array = np.ndarray[Any, Any]


class RobustPolicyTrainer:
    """Min-max policy optimisation over classes of bandits (arXiv:2010.15382).

    For each class of complexity a network and an adversary are trained in turn: the adversary holds particles, problems
    of the class, with weights; weights rise where the network errs, and particles move towards harder problems by the
    score of the answers, scaled back into their class. The network descends by REINFORCE with a baseline per particle.
    That gives the loss to beat in each class; a last network is then trained on the greatest regret against them. When
    not to use: before trying ``LUCBPolicy``, which is as good in the claim and needs no training.

    Args:
        problem: the bandit.
        radii: complexities of the classes, increasing.
        particles: problems per class.
        rollouts: runs per class and step.
        steps: of each training.
        learning_rate: of the network.
        particle_rate: by which particles move, as a share of their gaps.
        start: index policy that the network imitates before.
        hidden: width of the network.
        seed: of everything drawn.

    Attributes after ``fit``: losses_ (k,), of the best network of each class against its adversary; regrets_ (k,), of
    the last network; particles_ (k, particles, n).

    Raises:
        ValueError: for radii that do not increase.

    Example:
        >>> trainer = RobustPolicyTrainer(BanditProblem(3, 9), [4.0, 16.0], particles=4, rollouts=32, steps=2)
        >>> policy = trainer.fit()
        >>> trainer.particles_.shape, len(trainer.losses_)
        ((2, 4, 3), 2)
    """

    losses_: Array
    regrets_: Array
    particles_: Array

    def __init__(
        self,
        problem: BanditProblem,
        radii: Sequence[float],
        *,
        particles: int = 64,
        rollouts: int = 512,
        steps: int = 100,
        learning_rate: float = 3e-4,
        particle_rate: float = 1e-2,
        start: IndexPolicy | None = None,
        hidden: int = 32,
        seed: int = 0,
    ) -> None:
        checks.require(
            len(radii) > 0 and all(a < b for a, b in zip([0.0, *radii], radii, strict=False)),
            f"radii must be positive and increase: got {list(radii)}.",
        )
        for name, value in (("particles", particles), ("steps", steps)):
            checks.at_least(name, value, 1)
        checks.at_least("rollouts", rollouts, particles)
        self.problem, self.radii, self.particles, self.rollouts = problem, list(radii), particles, rollouts
        self.steps, self.learning_rate, self.particle_rate = steps, learning_rate, particle_rate
        self.start, self.hidden, self.seed = start or IndexPolicy(4.0, 6.0), hidden, seed

    def fit(self) -> NetworkPolicy:
        """Train.

        Returns:
            the network, which is a policy.
        """
        rng = np.random.default_rng(child_seed(self.seed, "particles"))
        shape = (len(self.radii), self.particles, self.problem.n)
        gaps = rng.gamma(1.0, size=shape) + 0.05
        gaps[..., 0] = 0.0  # the best arm
        first = self._imitated()
        best, adversaries = [], []
        for number in range(len(self.radii)):
            adversary = _Adversary(-gaps[number : number + 1], self.radii[number : number + 1], self.particle_rate)
            policy = self._trained(copy.deepcopy(first), adversary, np.zeros(1), f"class {number}")
            seed = child_seed(self.seed, "best", number)
            best.append(adversary.losses(self.problem, [policy, self.start], seed).min())
            adversaries.append(adversary)
        self.losses_ = np.array(best)
        together = _Adversary(np.concatenate([a.means.numpy() for a in adversaries]), self.radii, self.particle_rate)
        policy = self._trained(copy.deepcopy(first), together, self.losses_, "all")
        self.particles_ = together.means.numpy().copy()
        found = together.losses(self.problem, [policy], child_seed(self.seed, "end"))
        self.regrets_ = np.maximum(found[0] - self.losses_, 0.0)
        return policy

    def _imitated(self) -> NetworkPolicy:
        """A network that has learned the logits of the index policy on random histories."""
        policy = NetworkPolicy(self.hidden, seed=self.seed)
        optimizer = torch.optim.Adam(policy.parameters(), lr=1e-2)
        rng = torch.Generator().manual_seed(child_seed(self.seed, "imitation") % 2**31)
        n, horizon = self.problem.n, self.problem.horizon
        for _ in range(400):
            counts = 1 + torch.poisson(torch.rand(256, n, generator=rng) * horizon / n, generator=rng)
            sums = counts * torch.randn(256, n, generator=rng) + counts.sqrt() * torch.randn(256, n, generator=rng)
            history = History(counts, sums, int(counts.sum(1).mean()), horizon)
            wanted = self.start(history)
            error = (policy(history) - wanted) - (policy(history) - wanted).mean(1, keepdim=True)
            optimizer.zero_grad()
            error.square().mean().backward()
            optimizer.step()
        return policy

    def _trained(self, policy: NetworkPolicy, adversary: _Adversary, best: Array, name: str) -> NetworkPolicy:
        optimizer = torch.optim.Adam(policy.parameters(), lr=self.learning_rate)
        for step in range(self.steps):
            theta, owner = adversary.drawn(self.rollouts)
            seed = child_seed(self.seed, name, step) % 2**31
            runs = self.problem.run(policy, theta, seed=seed, gradient=True)
            weights, advantage = adversary.weighed(runs.losses, owner, best)
            optimizer.zero_grad()
            (weights * advantage * runs.log_probs).sum().backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
            optimizer.step()
            adversary.move(runs.losses, runs.history, theta, owner, self.problem.noise)
        return policy


class _Adversary:
    """Particles of several classes, with weights within a class and over classes."""

    means: Tensor
    shares: Tensor

    def __init__(self, means: Array, radii: Sequence[float], rate: float) -> None:
        self.radii, self.rate = list(radii), rate
        self.place(means)
        self.seen = torch.full(self.means.shape[:2], 0.5)  # running losses
        self.slope = torch.zeros(self.means.shape[0] * self.means.shape[1], self.means.shape[2])  # with momentum

    def drawn(self, rollouts: int) -> tuple[Tensor, Tensor]:
        """Means of the runs, and which particle each is of, evenly."""
        classes, particles, n = self.means.shape
        owner = torch.arange(classes * particles, device=self.means.device).repeat_interleave(
            max(1, rollouts // particles)
        )
        return self.means.view(-1, n)[owner], owner

    def weighed(self, losses: Tensor, owner: Tensor, best: Array) -> tuple[Tensor, Tensor]:
        """Weight of every run in the softened maximum over classes and particles, and its loss above its particle's."""
        classes, particles, _ = self.means.shape
        per = len(owner) // (classes * particles)
        mean = losses.view(-1, per).mean(1)
        self.seen += 0.2 * (mean.view(classes, particles) - self.seen)
        inner = (10 * self.seen).softmax(1)
        regret = (inner * self.seen).sum(1) - torch.from_numpy(best).to(self.seen)
        outer = (30 * regret).softmax(0)
        weights = (outer[:, None] * inner).flatten()[owner] / per
        return weights, losses - mean[owner]

    def move(self, losses: Tensor, history: History, theta: Tensor, owner: Tensor, noise: float) -> None:
        """Ascend along the class: by the score of the answers, less what only makes a problem smaller.

        With ``a_i = share_i^2 gap_i^2``, normalised, the complexity falls with gap i at the rate ``2 C a_i / gap_i``
        (the multipliers of its minimax); scaling back into the class cancels just that part of the slope.
        """
        classes, particles, n = self.means.shape
        score = (history.sums - history.counts * theta) / noise**2
        centred = losses - losses.view(-1, len(owner) // (classes * particles)).mean(1)[owner]
        self.slope.mul_(0.9).index_add_(0, owner, centred[:, None] * score)
        gaps, slope = -self.means.view(-1, n)[:, 1:], -self.slope[:, 1:]
        active = self.shares[:, 1:].square() * gaps.square()
        active = active / active.sum(1, keepdim=True)
        along = slope - (slope * gaps).sum(1, keepdim=True) * active / gaps
        size = gaps.amax(1, keepdim=True)
        step = self.rate * size * along / along.norm(dim=1, keepdim=True).clamp(min=1e-12)
        moved = torch.maximum(gaps + step, 0.01 * size)
        # Beyond twenty times the least gap an arm is out of play, and could grow without end.
        moved = torch.minimum(moved, 20 * moved.amin(1, keepdim=True)).view(classes, particles, n - 1)
        worst, hardest = self.seen.argmin(1), self.seen.argmax(1)
        rows = torch.arange(classes, device=moved.device)
        moved[rows, worst] = (moved[rows, worst] + moved[rows, hardest]) / 2  # what counts for nothing starts anew
        self.seen[rows, worst] = self.seen.mean(1)
        self.place(torch.cat([moved.new_zeros(classes, particles, 1), -moved], 2).numpy())

    def place(self, means: Array) -> None:
        """Take particles, best arm first, scaled into their classes."""
        flat = np.asarray(means, dtype=np.float64).reshape(-1, means.shape[2])
        values, shares = bandit_complexities(flat)
        scale = np.sqrt(values / np.repeat(self.radii, means.shape[1]))
        self.means = torch.from_numpy((flat * scale[:, None]).reshape(means.shape)).float()
        self.shares = torch.from_numpy(shares).float()

    def losses(self, problem: BanditProblem, policies: Sequence[Policy], seed: int) -> Array:
        """Greatest mean loss of policies over the particles of each class, (p, k)."""
        classes, particles, n = self.means.shape
        theta = self.means.view(-1, n).repeat_interleave(200, 0)
        found = []
        for policy in policies:
            with torch.no_grad():
                runs = problem.run(policy, theta, seed=seed % 2**31)
            found.append(runs.losses.view(classes, particles, 200).mean(2).amax(1).numpy())
        return np.array(found, dtype=np.float64)
