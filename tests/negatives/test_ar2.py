"""AR2: the worked numbers, losses and lists in plain loops, and a loop in which only one model moves at a time."""

from __future__ import annotations

import copy
import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tamis.negatives import (
    AdversarialRetrieverLoss,
    AlternatingTrainer,
    RankerListwiseLoss,
    draw_lists,
    pairwise_rewards,
    refresh_topk,
)
from tests.behaviour import ArrayCase, LossCase

INF = math.inf
ESTIMATORS = ("official", "negatives", "exact")
G = torch.tensor([[2.0, 1.0, 0.0]], dtype=torch.float64)
K = torch.tensor([[3.0, 2.5, -1.0]], dtype=torch.float64)


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def make(seed: int) -> list:
    """Every estimator in both reductions, the ranker's loss, and the refresh of the top of the corpus."""
    scores, logits, weights = randn(4, 5, seed=seed), randn(4, 5, seed=seed + 1), -randn(4, 5, seed=seed + 2).abs()
    weights[1, 3] = -INF

    def case(estimator, reduction):
        loss = AdversarialRetrieverLoss(0.4, 2.0, estimator, reduction=reduction)
        name = f"AdversarialRetrieverLoss {estimator} {reduction}"
        return LossCase(name, lambda s: loss(s, logits, log_weights=weights), (scores,), (logits, weights))

    arrays = [randn(n, 3, seed=seed + n).float().numpy() for n in (4, 7)]
    ranker = RankerListwiseLoss()
    return [
        *(case(e, r) for e in ESTIMATORS for r in ("mean", "official")),
        LossCase("RankerListwiseLoss", lambda s: ranker(s, log_weights=weights), (logits,), (weights,)),
        ArrayCase(
            "refresh_topk",
            lambda seed, q, p, known, answers: refresh_topk(q, p, known, k=4, exclude=answers),
            (*arrays, np.array([0, 1, 6, 3]), np.array([[2, -1], [0, 5], [-1, -1], [1, 2]])),
            empty=lambda: refresh_topk(arrays[0][:0], arrays[1], np.zeros(0, dtype=np.int64), k=2),
            torch_too=True,
        ),
    ]


# --- worked numbers ---------------------------------------------------------------------------------------------------


def test_worked_rewards_and_distillation():
    """Rewards of the worked list, cross-entropy .803435 and divergence .086291, which have one gradient."""
    assert pairwise_rewards(K)[0].tolist() == pytest.approx([-0.693147, -0.474077, -0.018150], abs=5e-7)
    scores = G.clone().requires_grad_()
    loss = AdversarialRetrieverLoss(0.0)(scores, K)
    assert loss.item() == pytest.approx(0.803435, abs=5e-7)
    divergence = F.kl_div(scores.log_softmax(1), K.softmax(1), reduction="batchmean")
    assert divergence.item() == pytest.approx(0.086291, abs=5e-7)
    one, other = (torch.autograd.grad(x, scores)[0] for x in (loss, divergence))
    assert torch.allclose(one, other, atol=1e-12)


def test_worked_adversarial_losses():
    """L_A .993542 over all candidates, .711011 over the negatives, .898489 mixed by half; the ranker has .485413."""
    assert AdversarialRetrieverLoss(1.0)(G, K).item() == pytest.approx(0.993542, abs=5e-7)
    assert 2 * AdversarialRetrieverLoss(1.0, estimator="negatives")(G, K).item() == pytest.approx(0.711011, abs=5e-7)
    assert AdversarialRetrieverLoss()(G, K).item() == pytest.approx(0.898489, abs=5e-7)
    assert RankerListwiseLoss()(K).item() == pytest.approx(0.485413, abs=5e-7)


def test_worked_exact_estimator():
    """J = .351459 with gradient (0, .089641, -.089641): ascent on it moves mass to the confusing negative."""
    scores = G.clone().requires_grad_()
    objective = -AdversarialRetrieverLoss(1.0, estimator="exact")(scores, K)
    assert objective.item() == pytest.approx(0.351459, abs=5e-7)
    (gradient,) = torch.autograd.grad(objective, scores)
    assert gradient[0].tolist() == pytest.approx([0, 0.089641, -0.089641], abs=5e-7)


def test_sure_ranker_gives_the_hard_label():
    """With adv_lambda 0 and all of the ranker's probability on the positive the loss is -log p of it."""
    sure = torch.tensor([[1e4, 0.0, 0.0]], dtype=torch.float64)
    loss = AdversarialRetrieverLoss(0.0)(G, sure)
    assert loss.item() == pytest.approx(-G.log_softmax(1)[0, 0].item(), abs=1e-12)
    assert loss.item() == pytest.approx(RankerListwiseLoss()(G).item(), abs=1e-12)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_only_the_retriever_learns(estimator):
    """No gradient reaches the ranker's logits or the log-weights."""
    scores, logits, weights = (x.clone().requires_grad_() for x in (G, K, torch.zeros_like(G)))
    AdversarialRetrieverLoss(estimator=estimator)(scores, logits, log_weights=weights).backward()
    assert logits.grad is None and weights.grad is None and (scores.grad != 0).any()
    assert not pairwise_rewards(logits).requires_grad


# --- the transcription ------------------------------------------------------------------------------------------------


def loop_loss(scores, logits, weights, adv_lambda, temperature, estimator, reduction, retriever_temperature):
    """The retriever's loss list by list, with probabilities as they are written."""
    pulls, targets = [], []
    for s, k, w in zip(scores.tolist(), logits.tolist(), weights.tolist(), strict=True):
        w = [1.0, *map(math.exp, w[1:])]
        s = [x / retriever_temperature for x in s]
        n = len(s)
        z, z_ranker = (sum(w[i] * math.exp(x[i]) for i in range(n)) for x in (s, [x / temperature for x in k]))
        log_p = [x - math.log(z) for x in s]
        targets.append(-sum(w[i] * math.exp(k[i] / temperature) / z_ranker * log_p[i] for i in range(n)))
        reward = [math.log(1 / (1 + math.exp(k[i] - k[0]))) for i in range(n)]
        if estimator == "official":
            pulls.append(sum(w[i] * reward[i] * log_p[i] for i in range(n)))
        elif estimator == "negatives":
            total = sum(w[1:])
            pulls.append(sum(w[i] * reward[i] * log_p[i] for i in range(1, n)) / total if total else 0.0)
        else:
            total = sum(w[i] * math.exp(s[i]) for i in range(1, n))
            pulls.append(sum(w[i] * math.exp(s[i]) / total * reward[i] for i in range(1, n)) if total else 0.0)
    pull = sum(pulls) / (len(pulls) if reduction == "mean" else 1)
    return adv_lambda * pull + (1 - adv_lambda) * sum(targets) / len(targets)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("reduction", ["mean", "official"])
@pytest.mark.parametrize("seed", range(3))
def test_loss_equals_the_loops(estimator, reduction, seed):
    """Temperatures, weights, a dropped candidate and a list without any negative."""
    scores, logits = 2 * randn(5, 4, seed=seed), 2 * randn(5, 4, seed=seed + 1)
    weights = -randn(5, 4, seed=seed + 2).abs()
    weights[1, 2] = -INF
    weights[2, 1:] = -INF
    loss = AdversarialRetrieverLoss(0.3, 1.7, estimator, reduction=reduction, retriever_temperature=1.4)
    wanted = loop_loss(scores, logits, weights, 0.3, 1.7, estimator, reduction, 1.4)
    assert loss(scores, logits, log_weights=weights).item() == pytest.approx(wanted, rel=1e-10)


def test_ranker_loss_is_cross_entropy():
    """The mean over lists of the cross-entropy with target 0; dropped candidates are absent."""
    logits = randn(5, 4)
    target = torch.zeros(5, dtype=torch.int64)
    assert RankerListwiseLoss()(logits).item() == pytest.approx(F.cross_entropy(logits, target).item())
    weights = torch.zeros(5, 4)
    weights[:, 2] = -INF
    kept = F.cross_entropy(logits[:, [0, 1, 3]], target)
    assert RankerListwiseLoss()(logits, log_weights=weights).item() == pytest.approx(kept.item())


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_gradcheck_and_extremes(estimator):
    """Gradients are those of finite differences, and finite for scores of any size and for half precision."""
    logits, weights = randn(3, 4), torch.zeros(3, 4)
    weights[0, 1] = weights[1, 3] = -INF
    loss = AdversarialRetrieverLoss(estimator=estimator)
    assert torch.autograd.gradcheck(lambda s: loss(s, logits, log_weights=weights), (randn(3, 4).requires_grad_(),))
    far = torch.tensor([[-6e4, 6e4, 0.0], [6e4, 0.0, -6e4]], dtype=torch.float16, requires_grad=True)
    value = loss(far, far.detach().flip(1), log_weights=torch.tensor([[0.0, -INF, 0.0], [0.0, 0.0, -INF]]))
    assert value.dtype == torch.float32 and value.isfinite()
    assert torch.autograd.grad(value, far)[0].isfinite().all()


# --- invariants -------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 4), st.sampled_from(ESTIMATORS), st.floats(-30, 30))
def test_differences_and_counts(seed, n, estimator, shift):
    """A constant added to a list changes nothing; a negative that counts twice is one that stands there twice."""
    scores, logits = randn(3, 1 + n, seed=seed), randn(3, 1 + n, seed=seed + 1)
    loss = AdversarialRetrieverLoss(estimator=estimator)
    wanted = loss(scores, logits).item()
    assert loss(scores + shift, logits - shift).item() == pytest.approx(wanted, rel=1e-9, abs=1e-10)
    twice = torch.zeros(3, 1 + n, dtype=torch.float64)
    twice[:, -1] = math.log(2.0)
    doubled = [torch.cat([x, x[:, -1:]], 1) for x in (scores, logits)]
    found = loss(scores, logits, log_weights=twice).item()
    assert found == pytest.approx(loss(*doubled).item(), rel=1e-9, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 6), st.integers(1, 6))
def test_lists_are_drawn_without_replacement(seed, k, negatives):
    """Candidates are distinct, from what was found; what is missing has the positive's row and -inf."""
    rng = np.random.default_rng(seed)
    found = torch.from_numpy(rng.permuted(np.tile(np.arange(10, 20), (4, 1)), axis=1)[:, :k])
    found[0, k // 2 :] = -1
    positives = torch.tensor([[0, 5], [1, -1], [2, -1], [3, 7]])
    queries = torch.tensor([3, 0, 0, 1])
    lists = draw_lists(found, positives, queries, negatives=negatives, seed=seed)
    assert lists.candidates.shape == lists.log_weights.shape == (4, 1 + negatives)
    for query, row, weights in zip(queries, lists.candidates, lists.log_weights, strict=True):
        there = weights == 0
        assert int(row[0]) in positives[query].tolist() and row[0] >= 0 and there[0]
        pool, drawn = set(found[query].tolist()) - {-1}, row[1:][there[1:]].tolist()
        assert len(drawn) == len(set(drawn)) == min(len(pool), negatives) and set(drawn) <= pool
        assert (row[~there] == row[0]).all() and torch.isneginf(weights[~there]).all()


# --- fresh lists ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_refresh_equals_the_loops(kind):
    """The best by inner product without known positives, their copies and the passages that hold the answer."""
    rng = np.random.default_rng(0)
    q, p = (rng.standard_normal(shape).astype(np.float32) for shape in ((6, 4), (20, 4)))
    ids, known = np.arange(20) % 17, np.arange(6)
    answers = np.array([[9, 8], [-1, -1], [3, -1], [7, 10], [0, -1], [5, 5]])
    for exclude in (None, kind(answers)):
        found = refresh_topk(*map(kind, (q, p, known)), k=18, ids=kind(ids), exclude=exclude)
        assert isinstance(found, type(kind(q)))
        for row in range(6):
            barred = {known[row], *(answers[row] if exclude is not None else ())}
            order = sorted(range(20), key=lambda i: -float(q[row] @ p[i]))
            wanted = ([i for i in order if ids[i] not in barred] + [-1] * 18)[:18]
            assert found[row].tolist() == wanted


def test_draws_are_uniform_and_follow_the_seed():
    """Every candidate and every positive comes equally often; a generator advances; no global generator moves."""
    found, positives = torch.arange(10, 14).repeat(4000, 1), torch.tensor([0, 1]).repeat(4000, 1)
    before = torch.get_rng_state()
    lists = draw_lists(found, positives, torch.arange(4000), negatives=2, seed=0)
    assert torch.equal(before, torch.get_rng_state())
    counts = lists.candidates.flatten().bincount()
    assert counts[[0, 1]].tolist() == pytest.approx([2000, 2000], abs=150)
    assert counts[10:14].tolist() == pytest.approx([2000] * 4, abs=150)
    again = draw_lists(found, positives, torch.arange(4000), negatives=2, seed=0)
    assert torch.equal(lists.candidates, again.candidates)
    rng = np.random.default_rng(0)
    one, two = (draw_lists(found, positives, torch.arange(50), seed=rng) for _ in range(2))
    assert not torch.equal(one.candidates, two.candidates)


# --- the loop ---------------------------------------------------------------------------------------------------------


class Table(nn.Module):
    """Scores of pairs out of a table; notes in which mode it is called, and whether with a graph."""

    def __init__(self, seed):
        super().__init__()
        self.scores = nn.Parameter(randn(4, 6, seed=seed))
        self.calls = []

    def forward(self, queries, candidates):
        self.calls.append((self.training, torch.is_grad_enabled()))
        return self.scores[queries[:, None], candidates]


def mined(seed):
    """Endless batches."""
    rng = np.random.default_rng(seed)
    found = torch.arange(1, 6).repeat(4, 1)
    while True:
        yield draw_lists(found, torch.zeros(4, dtype=torch.int64), torch.arange(4), negatives=3, seed=rng)


def trainer_of(retriever, ranker, miner=mined, **options):
    optimizers = (torch.optim.Adam(m.parameters(), lr=lr) for m, lr in ((retriever, 0.1), (ranker, 0.01)))
    names = ("retriever_optimizer", "ranker_optimizer")
    steps = {"ranker_steps": 2, "retriever_steps": 3} | options
    return AlternatingTrainer(retriever, ranker, miner, **dict(zip(names, optimizers, strict=True)), **steps)


def test_rounds_equal_the_plain_loop():
    """Two rounds: mine, two ranker steps, three retriever steps under a ranker that stands still."""
    models, plain = ([Table(0), Table(1)] for _ in range(2))
    history = trainer_of(*models, loss=AdversarialRetrieverLoss(0.4)).train(2)
    retriever, ranker = plain
    optimizers = [torch.optim.Adam(m.parameters(), lr=lr) for m, lr in ((retriever, 0.1), (ranker, 0.01))]
    for number in range(2):
        batches, losses = mined(number), {"ranker_loss": [], "retriever_loss": []}
        for step, lists in enumerate(itertools.islice(batches, 5)):
            scores, logits = (m(lists.queries, lists.candidates) for m in plain)
            if step < 2:
                loss, name, optimizer = F.cross_entropy(logits, torch.zeros(4).long()), "ranker_loss", optimizers[1]
            else:
                loss = AdversarialRetrieverLoss(0.4)(scores, logits.detach())
                name, optimizer = "retriever_loss", optimizers[0]
            losses[name].append(loss.item())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        assert history[number] == pytest.approx({"round": number} | {k: np.mean(v) for k, v in losses.items()})
    for one, other in zip(models, plain, strict=True):
        assert torch.allclose(one.scores, other.scores, atol=1e-12)


def test_one_model_moves_at_a_time():
    """In the ranker's steps the retriever is not called and has no gradient, and the other way round."""
    retriever, ranker = Table(0), Table(1)
    trainer_of(retriever, ranker, retriever_steps=0).train_round()
    assert torch.equal(retriever.scores, Table(0).scores) and retriever.scores.grad is None and not retriever.calls
    assert not torch.equal(ranker.scores, Table(1).scores)
    retriever, ranker = Table(0), Table(1)
    trainer_of(retriever, ranker, ranker_steps=0).train_round()
    assert torch.equal(ranker.scores, Table(1).scores) and ranker.scores.grad is None
    assert not torch.equal(retriever.scores, Table(0).scores)
    # The ranker judges in evaluation mode without a graph, the retriever trains.
    assert set(ranker.calls) == {(False, False)} and set(retriever.calls) == {(True, True)}


@pytest.mark.parametrize("refresh_every", [1, 2, 3])
def test_the_miner_is_called_when_it_is_time(refresh_every):
    """Both models are in evaluation mode while it mines; between calls the batches go on."""
    retriever, ranker, calls = Table(0), Table(1), []

    def miner(number):
        calls.append(number)
        assert not retriever.training and not ranker.training
        return mined(number)

    trainer_of(retriever, ranker, miner, refresh_every=refresh_every).train(6)
    assert calls == list(range(0, 6, refresh_every))


def test_batches_that_end_begin_again():
    """A list of batches serves a round that is longer; an iterator that has ended, or nothing, is an error."""
    batches = list(itertools.islice(mined(0), 2))
    history = trainer_of(Table(0), Table(1), lambda _: batches).train_round()
    assert math.isfinite(history["retriever_loss"])
    for miner in (lambda _: [], lambda _: iter(batches)):
        with pytest.raises(ValueError, match="miner must give lists for a whole round"):
            trainer_of(Table(0), Table(1), miner).train_round()
    assert math.isnan(trainer_of(Table(0), Table(1), ranker_steps=0).train_round()["ranker_loss"])


def test_a_saved_loop_goes_on():
    """Three rounds are two rounds, saved and loaded, and one more."""
    whole = [Table(0), Table(1)]
    trainer_of(*whole).train(3)
    first = [Table(0), Table(1)]
    trainer = trainer_of(*first)
    trainer.train(2)
    state, models = copy.deepcopy(trainer.state_dict()), copy.deepcopy(first)
    resumed = trainer_of(*models)
    resumed.load_state_dict(state)
    assert resumed.train_round()["round"] == 2
    for one, other in zip(whole, models, strict=True):
        assert torch.equal(one.scores, other.scores)


def test_the_retriever_is_drawn_to_what_fools_the_ranker():
    """The adversarial part alone, exact: from equal scores the retriever's favourite becomes the confusing negative."""
    retriever, ranker = Table(0), Table(1)
    retriever.scores.data.zero_()
    ranker.scores.data = torch.tensor([3.0, 0.0, 0.0, 2.9, 0.0, 0.0], dtype=torch.float64).repeat(4, 1)
    loss = AdversarialRetrieverLoss(1.0, estimator="exact")
    trainer_of(retriever, ranker, ranker_steps=0, retriever_steps=20, loss=loss).train(2)
    assert (retriever.scores.argmax(1) == 3).all() and (retriever.scores[:, 0] == 0).all()


# --- bad inputs -------------------------------------------------------------------------------------------------------


def test_bad_inputs():
    """Short lists, shapes that differ, options out of range and lists without a positive are named."""
    loss, nan = AdversarialRetrieverLoss(), torch.tensor([[1.0, math.nan]])
    two, table, shared = torch.ones(1, 2), torch.arange(6).view(2, 3), Table(0)
    q, p, known = torch.ones(2, 2), torch.eye(2), torch.tensor([0, 1])
    for call, message in (
        (lambda: loss(torch.ones(2, 1), torch.ones(2, 1)), r"two candidates or more, .*got shape \(2, 1\)"),
        (lambda: loss(torch.ones(0, 2), torch.ones(0, 2)), "at least one row"),
        (lambda: loss(two, torch.ones(1, 3)), "ranker_logits must have the shape of retriever_scores"),
        (lambda: loss(nan, two), "retriever_scores must be finite"),
        (lambda: loss(two, nan), "ranker_logits must be finite"),
        (lambda: loss(two, two, log_weights=torch.ones(2, 2)), "log_weights must have the shape"),
        (lambda: loss(two, two, log_weights=nan), "log_weights must be numbers or -inf"),
        (lambda: RankerListwiseLoss()(torch.ones(2, 1)), "two candidates or more"),
        (lambda: AdversarialRetrieverLoss(1.5), "adv_lambda must lie between 0.0 and 1.0: got 1.5"),
        (lambda: AdversarialRetrieverLoss(-0.1), "adv_lambda must lie between"),
        (lambda: AdversarialRetrieverLoss(temperature=0.0), "temperature must be positive"),
        (lambda: AdversarialRetrieverLoss(retriever_temperature=-1.0), "retriever_temperature must be positive"),
        (lambda: AdversarialRetrieverLoss(estimator="all"), "estimator must be one of 'official'"),
        (lambda: AdversarialRetrieverLoss(reduction="sum"), "reduction must be one of 'mean', 'official'"),
        (lambda: refresh_topk(q, p, known, k=3), "k must be from 1 to 2"),
        (lambda: refresh_topk(q, p, known.float()), "positives must be .* int64 ids: got .*float32"),
        (lambda: refresh_topk(q, p, known[:1]), "positives must have one entry per row of queries"),
        (lambda: refresh_topk(q, p, known, k=1, exclude=known[:1, None]), "exclude must have one entry per row"),
        (lambda: refresh_topk(q * math.nan, p, known, k=1), "queries must be finite"),
        (lambda: draw_lists(table, known - 1, known, seed=0), "positives must hold one .*first is query 0"),
        (lambda: draw_lists(table, known[:1], known, seed=0), "positives must have one entry per row of found"),
        (lambda: draw_lists(table.float(), known, known, seed=0), "found must be int64 rows: got torch.float32"),
        (lambda: draw_lists(table, known, known, negatives=0, seed=0), "negatives must be at least 1"),
        (lambda: trainer_of(Table(0), Table(1), ranker_steps=-1), "ranker_steps must be at least 0"),
        (lambda: trainer_of(Table(0), Table(1), retriever_steps=-1), "retriever_steps must be at least 0"),
        (lambda: trainer_of(Table(0), Table(1), refresh_every=0), "refresh_every must be at least 1"),
        (lambda: trainer_of(shared, shared), "must share no parameter"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
