"""Learned active policies: worked numbers, games by all corners, the gradient in closed form, and sessions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.subsets import (
    BanditProblem,
    IndexPolicy,
    LUCBPolicy,
    NetworkPolicy,
    PolicySession,
    RobustPolicyTrainer,
    TransductiveProblem,
    UCBPolicy,
    loss_table,
    minimax_regret,
    problem_complexity,
    scaled_to_complexity,
)
from tamis.subsets.learn_active.simulation import History
from tests.behaviour import ArrayCase

WORKED = np.array([[0.1, 0.5], [0.2, 0.3], [0.4, 0.25]])[:, :, None]


def make(seed: int) -> list:
    """Cases for the shared checks: complexity, tables and choices."""
    rng = np.random.default_rng(seed)
    theta, table = rng.normal(size=(2, 2, 3)), rng.random((4, 3, 2))
    problem = BanditProblem(3, 6)
    return [
        ArrayCase("problem_complexity", lambda s, t: problem_complexity(t), (theta[0, 0],)),
        ArrayCase("scaled_to_complexity", lambda s, t: scaled_to_complexity(t, 4.0), (theta,)),
        ArrayCase(
            "loss_table",
            lambda s, t: loss_table(problem, [IndexPolicy(1, 1)], t, rollouts=8, seed=s),
            (theta,),
        ),
        ArrayCase(
            "minimax_regret",
            lambda s, t: minimax_regret(t, mixture=True),
            (table,),
            empty=lambda: minimax_regret(np.empty((0, 2, 2))),
        ),
    ]


# Complexity


def test_complexities_of_the_specification():
    """Bandits of two and three arms, with the shares that are best."""
    value, shares = problem_complexity(np.array([1.0, 0.5]))
    assert value == pytest.approx(16)
    assert shares.tolist() == pytest.approx([0.5, 0.5], abs=1e-6)
    value, shares = problem_complexity(np.array([1.0, 0.5, 0.5]))
    assert value == pytest.approx((1 + math.sqrt(2)) ** 2 / 0.25)
    assert value == pytest.approx(23.313708, abs=5e-7)
    assert shares.tolist() == pytest.approx([0.414214, 0.292893, 0.292893], abs=1e-6)
    value, shares = problem_complexity(np.array([1.0, 0.5, 0.0]))
    assert value == pytest.approx(17.142441, abs=5e-6)
    assert shares.tolist() == pytest.approx([0.4691, 0.4643, 0.0666], abs=2e-4)


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(2, 5))
@settings(max_examples=15, deadline=None)
def test_complexity_is_the_least_maximum(seed, n):
    """No other shares should have a lower maximum, and scaling by s divide it by the square of s."""
    rng = np.random.default_rng(seed)
    theta = rng.normal(size=n)
    value, shares = problem_complexity(theta)
    best = int(theta.argmax())

    def maximum(shares):
        return max((1 / shares[best] + 1 / shares[i]) / (theta[best] - theta[i]) ** 2 for i in range(n) if i != best)

    assert shares.sum() == pytest.approx(1)
    assert maximum(shares) == pytest.approx(value, rel=1e-4)
    for other in rng.dirichlet(np.ones(n), 50):
        assert maximum(0.9 * shares + 0.1 * other) >= value * (1 - 1e-6)
    assert problem_complexity(3 * theta + 7)[0] == pytest.approx(value / 9, rel=1e-6)
    assert problem_complexity(scaled_to_complexity(theta, 5.0))[0] == pytest.approx(5.0, rel=1e-6)


def test_transductive_complexity():
    """With arms for questions and hypotheses the bandit's should come out; a useless question get nothing."""
    theta = np.array([1.0, 0.5, 0.0])
    general, shares = problem_complexity(theta, np.eye(3), np.eye(3))
    assert general == pytest.approx(17.142441, rel=5e-3)
    assert shares.tolist() == pytest.approx([0.4691, 0.4643, 0.0666], abs=0.02)
    value, shares = problem_complexity(np.array([1.0, 0.5, 9.0]), np.eye(3), np.eye(3)[:2])
    assert value == pytest.approx(16, rel=5e-3)
    assert shares[2] < 0.01


# Choosing


def test_regrets_of_the_specification():
    """The single policy and the mixture with their greatest regrets."""
    single = minimax_regret(WORKED)
    assert single.regrets.tolist() == [pytest.approx(row) for row in ([0, 0.25], [0.1, 0.05], [0.3, 0])]
    assert (single.index, single.max_regret) == (1, pytest.approx(0.1))
    mixed = minimax_regret(WORKED, mixture=True)
    assert mixed.weights.tolist() == pytest.approx([1 / 6, 5 / 6, 0])
    assert mixed.max_regret == pytest.approx(1 / 12)


@given(seed=st.integers(0, 2**32 - 1), p=st.integers(1, 5), k=st.integers(1, 4), s=st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_mixtures_are_optimal(seed, p, k, s):
    """A mixture should be no worse than any policy, have the value it says, and be the program's optimum."""
    linprog = pytest.importorskip("scipy.optimize").linprog
    rng = np.random.default_rng(seed)
    table = rng.integers(0, 5, (p, k, s)) / 4
    found = minimax_regret(table, mixture=True)
    best = table.max(2).min(0)
    game = (table - best[None, :, None]).reshape(p, -1)
    assert found.weights.sum() == pytest.approx(1)
    assert (found.weights >= 0).all()
    assert (found.weights @ game).max() == pytest.approx(found.max_regret, abs=1e-9)
    assert found.max_regret <= minimax_regret(table).max_regret + 1e-9
    program = linprog(
        np.r_[np.zeros(p), 1.0], np.c_[game.T, -np.ones(game.shape[1])], np.zeros(game.shape[1]),
        np.r_[np.ones(p), 0.0][None], [1.0], bounds=[(0, None)] * p + [(None, None)],
    )  # fmt: skip
    assert found.max_regret == pytest.approx(program.fun, abs=1e-8)


def test_a_class_has_no_regret_against_its_own_best():
    """In every class one policy should have regret 0, and a wider class have the greater loss."""
    theta = np.array([[[1.0, 0, 0]], [[0.3, 0, 0]]])
    table = loss_table(BanditProblem(3, 9), [IndexPolicy(a, b) for a in (0, 4) for b in (0, 4)], theta, rollouts=2000)
    assert (minimax_regret(table).regrets.min(0) == 0).all()
    wider = np.concatenate([theta, theta[::-1]], 1)
    both = loss_table(BanditProblem(3, 9), [IndexPolicy(4, 4)], wider, rollouts=500).max(2)
    alone = loss_table(BanditProblem(3, 9), [IndexPolicy(4, 4)], wider[:, :1], rollouts=500).max(2)
    assert (both >= alone - 0.03).all()


# Policies and runs


def test_policies_by_hand():
    """Indices, the greatest upper bound, and the challenger that was asked less."""
    history = History(torch.tensor([[4.0, 1.0, 1.0]]), torch.tensor([[4.0, 0.5, -1.0]]), 6, 30)
    assert IndexPolicy(2.0, 4.0)(history).tolist() == [[4.0, 5.0, 2.0]]
    assert IndexPolicy()(history).tolist() == [[0.0, 0.0, 0.0]]
    bonus = math.sqrt(2 * math.log(6))
    upper = [1 + bonus / 2, 0.5 + bonus, -1 + bonus]
    assert UCBPolicy()(history).argmax(1).item() == int(np.argmax(upper))
    assert LUCBPolicy()(history).argmax(1).item() == 1
    assert UCBPolicy()(history).softmax(1).max().item() == 1.0


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(2, 6))
@settings(max_examples=20, deadline=None)
def test_the_network_knows_no_names(seed, n):
    """Permuting questions should permute its logits, and the other policies' too."""
    g = torch.Generator().manual_seed(seed)
    history = History(1 + 5 * torch.rand(3, n, generator=g), torch.randn(3, n, generator=g), 8, 30)
    order = torch.randperm(n, generator=g)
    renamed = History(history.counts[:, order], history.sums[:, order], 8, 30)
    for policy in (NetworkPolicy(8, seed=seed), IndexPolicy(2, 3), UCBPolicy(), LUCBPolicy()):
        with torch.no_grad():
            assert torch.allclose(policy(renamed), policy(history)[:, order], atol=1e-5)


def test_a_horizon_of_one_round_asks_everything_once():
    """With as many questions as arms each should be asked once, and the greatest answer win."""
    problem = BanditProblem(4, 4)
    runs = problem.run(IndexPolicy(), torch.zeros(20, 4) + torch.arange(4.0), seed=1)
    assert (runs.history.counts == 1).all()
    named = problem.recommend(runs.history)
    assert torch.equal(named, runs.history.sums.argmax(1))
    assert torch.equal(runs.losses, (named != 3).float())
    assert (runs.log_probs == 0).all()


def test_runs_share_their_luck():
    """Two policies with one seed should meet the same first answers; another seed give others."""
    problem, theta = BanditProblem(3, 9), torch.zeros(50, 3)
    one, two = (problem.run(policy, theta, seed=4) for policy in (IndexPolicy(), IndexPolicy()))
    assert torch.equal(one.history.sums, two.history.sums)
    assert not torch.equal(one.history.sums, problem.run(IndexPolicy(), theta, seed=5).history.sums)


def test_answers_have_their_means():
    """Gaussian and yes-or-no answers should have the means of the problem, and regret be a difference of values."""
    theta = torch.tensor([[0.9, 0.2]]).expand(4000, 2)
    for answers in ("gaussian", "bernoulli"):
        problem = BanditProblem(2, 2, answers=answers, loss="regret")
        runs = problem.run(IndexPolicy(), theta, seed=0)
        assert runs.history.sums.mean(0).tolist() == pytest.approx([0.9, 0.2], abs=0.05)
        wrong = problem.recommend(runs.history) == 1
        assert torch.allclose(runs.losses, 0.7 * wrong)


def test_hypotheses_are_found_through_other_questions():
    """With questions that are sums of what is wanted, least squares should find the best hypothesis."""
    queries, hypotheses = np.array([[1.0, 1.0], [1.0, -1.0]]), np.eye(2)
    problem = TransductiveProblem(queries, hypotheses, 40, noise=0.1)
    runs = problem.run(IndexPolicy(), torch.tensor([[0.2, 0.8]]).expand(30, 2), seed=0)
    assert runs.losses.sum() == 0


def test_the_gradient_of_a_single_choice():
    """With two arms and one question the estimate should be p (1 - p) times the difference of the losses."""

    class Coin(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.logit = torch.nn.Parameter(torch.tensor(0.4))

        def forward(self, history):
            return torch.stack([self.logit.expand(len(history.counts)), history.counts[:, 0] * 0], 1)

    coin = Coin()
    problem = BanditProblem(2, 1, forced_start=False, noise=1e-3)
    runs = problem.run(coin, torch.tensor([[1.0, 0.0]]).expand(40_000, 2), seed=0, gradient=True)
    losses = (runs.history.counts[:, 1] > 0).float()  # asking the first arm costs nothing, the second one
    estimate = torch.autograd.grad((losses * runs.log_probs).mean(), coin.logit)[0].item()
    p = torch.sigmoid(torch.tensor(0.4)).item()
    assert estimate == pytest.approx(p * (1 - p) * (0 - 1), abs=3 * 0.5 / math.sqrt(40_000))


def test_a_session_asks_one_question_after_the_other():
    """Asked again it should repeat, then go on, and name the best arm in the end; seeds decide."""
    problem = BanditProblem(3, 12)
    rows = []
    for _ in range(2):
        session, asked = PolicySession(problem, IndexPolicy(2.0, 2.0), seed=5), []
        while (question := session.ask()) is not None:
            assert session.ask() == question
            asked.append(question)
            session.tell([0.0, 3.0, 0.5][question])
        rows.append(asked)
        assert session.recommend() == 1
    assert rows[0] == rows[1]
    assert rows[0][:3] == [0, 1, 2]
    assert len(rows[0]) == 12


def test_training_repeats_and_keeps_problems_in_their_class():
    """The same seed should give the same network, and particles stay at their complexity."""
    trained = []
    for _ in range(2):
        trainer = RobustPolicyTrainer(BanditProblem(3, 9), [4.0, 16.0], particles=4, rollouts=32, steps=3, seed=1)
        trained.append(trainer.fit())
    for one, two in zip(trained[0].parameters(), trained[1].parameters(), strict=True):
        assert torch.equal(one, two)
    for means, radius in zip(trainer.particles_, [4.0, 16.0], strict=True):
        assert [problem_complexity(row)[0] for row in means] == pytest.approx([radius] * 4, rel=1e-3)
    assert trainer.losses_.shape == trainer.regrets_.shape == (2,)
    assert (trainer.regrets_ >= 0).all()


def test_an_adversary_finds_harder_problems():
    """Against uniform questions, weights and particles should move to problems with more errors."""
    from tamis.subsets.learn_active.training import _Adversary

    problem, rng = BanditProblem(4, 16), np.random.default_rng(0)
    gaps = rng.gamma(0.3, size=(1, 12, 4)) + 0.05
    gaps[..., 0] = 0
    adversary = _Adversary(scaled_to_complexity(-gaps, 16.0), [16.0], 0.05)
    before = problem.run(IndexPolicy(), adversary.drawn(12 * 300)[0], seed=9).losses.view(12, 300).mean(1)
    for step in range(25):
        theta, owner = adversary.drawn(12 * 60)
        runs = problem.run(IndexPolicy(), theta, seed=step)
        adversary.weighed(runs.losses, owner, np.zeros(1))
        adversary.move(runs.losses, runs.history, theta, owner, problem.noise)
    assert [problem_complexity(row)[0] for row in adversary.means[0].numpy()] == pytest.approx([16.0] * 12, rel=1e-3)
    after = problem.run(IndexPolicy(), adversary.drawn(12 * 300)[0], seed=9).losses.view(12, 300).mean(1)
    assert after.mean() > before.mean() + 0.01


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: problem_complexity(np.array([1.0, 1.0])), "theta must have one best hypothesis"),
        (lambda: problem_complexity(np.array([1.0])), "at least two hypotheses"),
        (lambda: scaled_to_complexity(np.array([1.0, 0.0]), 0.0), "radius must be positive"),
        (lambda: BanditProblem(5, 4), "horizon must be at least 5 to ask every question once: got 4"),
        (lambda: BanditProblem(1, 4), "n_arms must be at least 2"),
        (lambda: TransductiveProblem(np.eye(2), np.eye(3), 4), "hypotheses must have 2 columns"),
        (lambda: BanditProblem(2, 4, answers="poisson"), "answers must be one of"),
        (lambda: RobustPolicyTrainer(BanditProblem(2, 4), [4.0, 4.0]), "radii must be positive and increase"),
        (lambda: RobustPolicyTrainer(BanditProblem(2, 4), []), "radii must be positive and increase"),
        (lambda: RobustPolicyTrainer(BanditProblem(2, 4), [4.0], rollouts=3), "rollouts must be at least 64"),
        (lambda: minimax_regret(np.ones((2, 2))), "table must be"),
        (lambda: loss_table(BanditProblem(2, 4), [], np.ones((1, 2))), "theta must be"),
        (lambda: PolicySession(BanditProblem(2, 4), IndexPolicy()).tell(1.0), "call ask before tell"),
        (lambda: NetworkPolicy(0), "hidden must be at least 1"),
    ],
)
def test_bad_input_is_refused(call, message):
    """Each mistake should be answered in a line that names the argument."""
    with pytest.raises(ValueError, match=message):
        call()


def test_answers_must_be_numbers():
    """NaN should be refused and the question stay open."""
    session = PolicySession(BanditProblem(2, 4), IndexPolicy())
    session.ask()
    with pytest.raises(ValueError, match="answer must be finite"):
        session.tell(math.nan)
    assert session.ask() == 0
