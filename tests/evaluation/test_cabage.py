"""CaBaGe: the worked numbers, transcriptions in loops, the budget of queries, and clones that grow."""

from __future__ import annotations

import itertools
import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tamis.evaluation import (
    ExtractabilityAudit,
    HardExampleReplay,
    class_balanced_hard_selection,
    disagreement_loss,
    diversity_loss,
    expand_output_,
)
from tests.behaviour import ArrayCase, LossCase

WORKED = torch.tensor([[[0.7, 0.3], [0.5, 0.5]], [[0.2, 0.8], [0.4, 0.6]]], dtype=torch.float64)


def predictions(b, m, k, seed=0):
    return torch.randn(b, m, k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).softmax(2)


def make(seed: int) -> list:
    """Cases for the shared checks: both losses of a generator, and the choice of queries."""
    probs = predictions(6, 3, 4, seed)
    rows = predictions(30, 1, 4, seed)[:, 0].numpy()

    def choose(budget):
        count = budget if isinstance(budget, int) else round(budget * 30)
        return class_balanced_hard_selection(rows, count)

    return [
        LossCase("disagreement_loss", disagreement_loss, (probs,)),
        LossCase("diversity_loss", diversity_loss, (probs.clone(),)),
        ArrayCase(
            "class_balanced_hard_selection",
            lambda s, p: class_balanced_hard_selection(p, 11, seed=s),
            (rows,),
            empty=lambda: class_balanced_hard_selection(np.empty((0, 3)), 1),
            torch_too=True,
            budget=(choose, 30),
        ),
    ]


def two_classes(x):
    """A model of one line."""
    return (x[:, 0] > 0.5).long()


def bands(count):
    """A model of so many bands of the first number, with labels 3, 10, 17, ..."""
    return lambda x: 3 + 7 * (x[:, 0] * count).long().clamp(max=count - 1)


# What a generator is trained for


def test_worked_numbers():
    """Disagreement, diversity and their sum should be those of the specification."""
    assert float(disagreement_loss(WORKED)) == pytest.approx(-0.141421, abs=5e-7)
    assert float(diversity_loss(WORKED)) == pytest.approx(-0.688138, abs=1.1e-6)
    assert float(disagreement_loss(WORKED) + 0.2 * diversity_loss(WORKED)) == pytest.approx(-0.279049, abs=5e-7)


def test_extremes():
    """Identical clones should not disagree, uniform predictions be the most diverse and a certain one the least."""
    same = predictions(4, 1, 5).expand(4, 3, 5).clone().requires_grad_()
    loss = disagreement_loss(same)
    assert loss.item() == pytest.approx(0, abs=1e-12)
    loss.backward()
    assert bool(same.grad.isfinite().all())
    assert float(diversity_loss(torch.full((3, 2, 4), 0.25, dtype=torch.float64))) == pytest.approx(
        -math.log(4), abs=1e-5
    )
    certain = torch.zeros(3, 2, 4, dtype=torch.float64)
    certain[..., 1] = 1
    assert float(diversity_loss(certain)) == pytest.approx(0, abs=5e-5)


@given(seed=st.integers(0, 2**32 - 1), b=st.integers(1, 6), m=st.integers(2, 4), k=st.integers(2, 5))
@settings(max_examples=40, deadline=None)
def test_losses_agree_with_loops(seed, b, m, k):
    """Both losses should be their definitions, and know nothing of the order of inputs and clones."""
    probs = predictions(b, m, k, seed)
    spread = [
        math.sqrt(sum((float(probs[i, c, j]) - float(probs[i, :, j].mean())) ** 2 for c in range(m)) / (m - 1))
        for i in range(b)
        for j in range(k)
    ]
    assert float(disagreement_loss(probs)) == pytest.approx(-sum(spread) / len(spread))
    means = [sum(float(probs[i, c, j]) + 1e-6 for i in range(b) for c in range(m)) / (b * m) for j in range(k)]
    assert float(diversity_loss(probs)) == pytest.approx(sum(p * math.log(p) for p in means))
    assert float(disagreement_loss(probs.flip(0).flip(1))) == pytest.approx(float(disagreement_loss(probs)))


# Choosing queries


def test_selection_of_the_specification():
    """One of each class, the least confident, and then any of the rest."""
    confidence, predicted = (0.9, 0.6, 0.8, 0.5, 0.7, 0.4), (0, 0, 0, 1, 1, 2)
    probs = np.array(
        [[c if k == p else (1 - c) / 2 for k in range(3)] for c, p in zip(confidence, predicted, strict=True)]
    )
    assert class_balanced_hard_selection(probs, 3).tolist() == [1, 3, 5]
    more = {tuple(class_balanced_hard_selection(probs, 4, seed=s).tolist()) for s in range(40)}
    assert more == {tuple(sorted([1, 3, 5, other])) for other in (0, 2, 4)}


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 40), classes=st.integers(1, 5), share=st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_quota_is_kept(seed, n, classes, share):
    """Each class should have its quota or all it has, and what it gives up be more certain than what it keeps."""
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.ones(classes), n)
    k = int(share * n)
    rows = class_balanced_hard_selection(probs, k, seed=seed)
    assert len(set(rows.tolist())) == k
    predicted, confidence = probs.argmax(1), probs.max(1)
    for label in range(classes):
        members = [i for i in range(n) if predicted[i] == label]
        quota = sorted(members, key=lambda i: confidence[i])[: k // classes]
        assert set(quota) <= set(rows.tolist())


# Replay


def test_draws_follow_the_weights():
    """Weights 1 and 3 should be drawn one to three, equal weights alike."""
    replay = HardExampleReplay(4, w_min=1, w_max=3, seed=1)
    replay.add(2)
    replay.update(np.array([0, 1]), np.array([1.0, 3.0]))
    share = (replay.draw(10_000) == 1).mean()
    assert abs(share - 0.75) < 3 * math.sqrt(0.75 * 0.25 / 10_000)
    uniform = HardExampleReplay(5, w_min=1, w_max=1, seed=2)
    uniform.add(5)
    uniform.update(np.arange(5), np.arange(5) * 7.0)
    counts = np.bincount(uniform.draw(10_000), minlength=5)
    assert ((counts - 2000) ** 2 / 2000).sum() < 18.5  # chi-square, 4 degrees of freedom, 0.1 %


def test_what_a_full_store_gives_up():
    """The lowest weight should go, or the oldest item, and ties to the oldest."""
    lowest, oldest = HardExampleReplay(3), HardExampleReplay(3, evict="oldest")
    for replay in (lowest, oldest):
        assert replay.add(3).tolist() == [0, 1, 2]
        replay.update(torch.tensor([0, 1, 2]), torch.tensor([2.0, 1.0, 9.0]))
        assert replay.weights.tolist() == [2, 1, 5]
    assert lowest.add(1).tolist() == [1]
    assert oldest.add(2).tolist() == [0, 1]
    assert lowest.add(1).tolist() == [0]
    assert lowest.add(2).tolist() == [2, 1]  # all weigh 5 by now
    assert len(lowest.weights) == 3


@given(seed=st.integers(0, 2**32 - 1), capacity=st.integers(1, 8), adds=st.lists(st.integers(0, 8), max_size=8))
@settings(max_examples=60, deadline=None)
def test_a_store_agrees_with_a_list(seed, capacity, adds):
    """Slots, weights and what is given up should be those of a list that is searched through."""
    rng, replay = np.random.default_rng(seed), HardExampleReplay(capacity, w_min=0.5, w_max=2.0)
    clock, shelf = itertools.count(), {}
    for count in adds:
        count = min(count, capacity)
        expected = []
        for _ in range(count):
            slot = len(shelf) if len(shelf) < capacity else None
            if slot is None:
                free = [s for s in shelf if s not in expected]
                slot = min(free, key=lambda s: (shelf[s][0], shelf[s][1]))
            expected.append(slot)
            shelf[slot] = (2.0, next(clock))
        assert replay.add(count).tolist() == expected
        if shelf:
            slots, losses = rng.permutation(len(shelf))[:3], rng.exponential(1.5, 3)[: len(shelf)]
            replay.update(slots, losses)
            for slot, loss in zip(slots.tolist(), losses.tolist(), strict=True):
                shelf[slot] = (min(2.0, max(0.5, loss)), shelf[slot][1])
        assert replay.weights.tolist() == [shelf[s][0] for s in range(len(shelf))]


def test_replay_is_a_sampler_that_resumes():
    """Iteration should depend on seed and epoch alone; a saved state should draw on where it was."""
    replay = HardExampleReplay(6, num_samples=20, seed=3)
    replay.add(6)
    replay.update(np.arange(6), np.arange(6.0))
    first = list(replay)
    assert first == list(replay)
    assert len(first) == len(replay) == 20
    replay.set_epoch(1)
    assert list(replay) != first
    replay.draw(5)
    other = HardExampleReplay(6, num_samples=20)
    other.load_state_dict(pickle.loads(pickle.dumps(replay.state_dict())))
    assert list(other) == list(replay)
    assert other.draw(9).tolist() == replay.draw(9).tolist()
    assert other.add(2).tolist() == replay.add(2).tolist()


# A head that grows


def test_a_head_grows_without_forgetting():
    """Old rows should be the same bits, the new bias the least, and what was predicted stay predicted."""
    generator = torch.Generator().manual_seed(0)
    layer, x = nn.Linear(8, 4), torch.randn(50, 8, generator=generator)
    with torch.no_grad():
        layer.bias.copy_(torch.tensor([0.0, 1.0, -50.0, 2.0]))
    weight, bias, logits = layer.weight.detach().clone(), layer.bias.detach().clone(), layer(x).detach()
    expand_output_(layer, 3, seed=1)
    assert torch.equal(layer.weight[:4], weight)
    assert layer.bias.tolist() == [*bias.tolist(), -50, -50, -50]
    assert layer.out_features == 7
    assert torch.equal(layer(x).argmax(1), logits.argmax(1))
    # A wider product may round differently; the old rows by themselves give the same bits.
    assert torch.equal(nn.functional.linear(x, layer.weight[:4], layer.bias[:4]), logits)
    assert torch.allclose(layer(x)[:, :4], logits, atol=1e-6)
    assert bool(layer.weight[4:].any())


# The audit


def test_the_budget_is_never_exceeded():
    """Every input that the model answers while the audit asks should be counted, and no more asked than allowed."""
    asked = []

    def victim(x):
        asked.append(len(x))
        return two_classes(x)

    audit = ExtractabilityAudit(victim, (3,), query_budget=130, batch_size=50, candidate_factor=3, seed=1)
    report = audit.run(torch.rand(40, 3, generator=torch.Generator().manual_seed(0)))
    assert asked == [40, 50, 50, 30]  # the first is the test
    assert report.spent == report.counts.sum() == report.queries[-1] == 130
    assert report.queries.tolist() == [50, 100, 130]
    assert audit.run(torch.rand(4, 3)).spent == 130
    assert report.queries_to(2.0) is None
    assert report.queries_to(0.0) == 50


def test_same_seed_same_audit():
    """An audit should be a function of its seed and leave the global generators alone."""
    test = torch.rand(30, 4, generator=torch.Generator().manual_seed(5))
    torch.manual_seed(0)
    state = torch.get_rng_state()
    reports = [
        ExtractabilityAudit(two_classes, (4,), query_budget=120, num_classes=2, batch_size=30, seed=seed).run(test)
        for seed in (7, 7, 8)
    ]
    assert torch.equal(torch.get_rng_state(), state)
    assert reports[0].fidelity.tolist() == reports[1].fidelity.tolist()
    assert reports[0].counts.tolist() != reports[2].counts.tolist()


def test_classes_that_turn_up_are_learned():
    """Without a number of classes, clones should grow with the labels seen, whatever these are called."""
    audit = ExtractabilityAudit(bands(5), (2,), query_budget=1500, batch_size=50, learning_rate=3e-3, seed=0)
    test = torch.rand(300, 2, generator=torch.Generator().manual_seed(1))
    report = audit.run(test, measure_every=5)
    assert len(report.labels) >= 4
    assert set(report.labels.tolist()) <= {3, 10, 17, 24, 31}
    assert audit.predict(test).shape == (300, len(report.labels))
    assert report.fidelity[-1] > 0.6


def test_scores_can_be_learned():
    """With scores for answers, clones should come to agree too."""
    weights = torch.tensor([[3.0, -3.0], [-1.0, 1.0]])
    audit = ExtractabilityAudit(
        lambda x: x @ weights, (2,), query_budget=600, num_classes=2, batch_size=30, answers="scores", seed=0
    )
    assert audit.run(torch.rand(200, 2, generator=torch.Generator().manual_seed(1))).fidelity[-1] > 0.8


def test_a_collapsed_generator_starts_anew():
    """A generator that makes one input only should be replaced while others make many."""

    class Constant(nn.Module):
        made = 0

        def __init__(self):
            super().__init__()
            Constant.made += 1
            self.level = nn.Parameter(torch.zeros(1))
            self.spread = Constant.made > 1

        def forward(self, noise):
            return torch.sigmoid(self.level + 5 * self.spread * noise[:, :2])

    audit = ExtractabilityAudit(
        two_classes, (2,), query_budget=400, num_classes=2, batch_size=40, generator=Constant, n_generators=2, seed=0
    )
    assert audit.run(torch.rand(50, 2)).restarts >= 1
    assert Constant.made >= 3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: ExtractabilityAudit(two_classes, (2,), query_budget=10),
            "query_budget must be at least one batch",
        ),
        (lambda: ExtractabilityAudit(nn.Linear(2, 2), (2,), query_budget=300), "victim must be in eval mode"),
        (lambda: ExtractabilityAudit(two_classes, (2,), query_budget=300, clones=1), "clones must be at least 2"),
        (lambda: ExtractabilityAudit(two_classes, (2,), query_budget=300, replay="no"), "replay must be one of"),
        (
            lambda: ExtractabilityAudit(two_classes, (2,), query_budget=300, num_classes=1),
            "num_classes must be",
        ),
        (
            lambda: ExtractabilityAudit(two_classes, (2,), query_budget=300, answers="scores"),
            'answers="scores" needs num_classes',
        ),
        (
            lambda: ExtractabilityAudit(bands(5), (2,), query_budget=300, num_classes=2).run(torch.rand(5, 2)),
            "num_classes must cover every label of victim",
        ),
        (
            lambda: ExtractabilityAudit(lambda x: x.sum(), (2,), query_budget=300).run(torch.rand(5, 2)),
            "victim must give scores",
        ),
        (
            lambda: ExtractabilityAudit(two_classes, (2,), query_budget=300).run(torch.rand(0, 2)),
            "test_inputs must have at least one row",
        ),
        (lambda: HardExampleReplay(0), "capacity must be at least 1"),
        (lambda: HardExampleReplay(3, w_min=0), "w_min and w_max must be 0 < w_min"),
        (lambda: HardExampleReplay(3).draw(2), "the replay is empty"),
        (lambda: HardExampleReplay(3).add(4), "count must lie between 0 and 3"),
        (lambda: HardExampleReplay(3).update(np.array([0]), np.array([1.0])), "slots must be in use"),
        (lambda: HardExampleReplay(3).update(np.array([0]), np.array([math.nan])), "losses must hold no NaN"),
        (lambda: disagreement_loss(WORKED[:, :1]), "at least 2 clones"),
        (lambda: diversity_loss(WORKED[0]), "probs must be"),
        (lambda: class_balanced_hard_selection(WORKED[0].numpy(), 3), "k must lie between 0 and 2"),
        (lambda: expand_output_(nn.Linear(2, 2, bias=False)), "linear must have a bias"),
        (lambda: expand_output_(nn.Linear(2, 2), 0), "n must be at least 1"),
    ],
)
def test_bad_input_is_refused(call, message):
    """Each mistake should be answered in a line that names the argument."""
    with pytest.raises(ValueError, match=message):
        call()


def test_answers_must_not_train_the_model():
    """Answers that carry a gradient to the model's parameters should be refused."""
    weight = nn.Parameter(torch.ones(2, 3))

    def leaking(x):
        with torch.enable_grad():
            return x @ weight

    with pytest.raises(ValueError, match="victim must answer without a gradient"):
        ExtractabilityAudit(leaking, (2,), query_budget=300, num_classes=3).run(torch.rand(5, 2))
    assert weight.grad is None
