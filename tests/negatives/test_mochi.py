"""MoCHi: the worked numbers, mixtures in plain loops, and what every mixture must keep."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.contrastive import contrastive_loss, drop, to_logits, unit_rows
from tamis.extra_negatives import known_positive_log_weights
from tamis.guide_mask import false_negative_mask
from tamis.negatives import (
    FeatureQueue,
    Mixtures,
    MoCHiLoss,
    alignment,
    draw_mixtures,
    false_negative_log_weights,
    mix_hard_negatives,
    proxy_accuracy,
    uniformity,
)
from tamis.randomness import child_seed
from tests.behaviour import ArrayCase, LossCase

INF = math.inf
F64 = torch.float64
Q, K = torch.tensor([[1.0, 0.0]], dtype=F64), torch.tensor([[0.8, 0.6]], dtype=F64)
N = torch.tensor([[0.6, 0.8], [0.0, 1.0], [-1.0, 0.0]], dtype=F64)


def randn(*shape, seed=0, dtype=F64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def unit(*shape, seed=0, dtype=F64):
    return unit_rows(randn(*shape, seed=seed, dtype=dtype))


def recipe(first=(), second=(), share=(), partner=(), query_share=(), dtype=F64):
    """One query's mixtures from plain lists."""
    rows = [torch.tensor([x], dtype=torch.int64) for x in (first, second, partner)]
    a, b = (torch.tensor([x], dtype=dtype) for x in (share, query_share))
    return Mixtures(rows[0], rows[1], a, rows[2], b)


def make(seed: int) -> list:
    """The loss against a queue, against its own batch, with decisions; the diagnostics."""
    query, positive, queue = randn(5, 4, seed=seed), randn(5, 4, seed=seed + 1), randn(9, 4, seed=seed + 2)
    decided = randn(5, 9, seed=seed + 3)
    decided[0, 1] = -INF

    def build(**options):
        return MoCHiLoss(num_hard=4, num_pairs=6, num_query_mix=3, **options)

    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((6, 3)), rng.standard_normal((6, 3))
    scores = rng.random(6), rng.random((6, 2))
    return [
        LossCase("MoCHiLoss", lambda q, k, n: build()(q, k, n), (query, positive, queue)),
        LossCase(
            "MoCHiLoss in batch", lambda q, k: build()(q, k, k, mask=torch.eye(5, dtype=torch.bool)), (query, positive)
        ),
        LossCase(
            "MoCHiLoss weighted",
            lambda q, k: build(distinct=True)(q, k, queue, log_weights=decided, partner_log_weights=2 * decided),
            (query, positive),
            (decided,),
        ),
        ArrayCase(
            "alignment",
            lambda seed, a, b: alignment(a, b),
            rows,
            empty=lambda: alignment(np.empty((0, 3)), np.empty((0, 3))),
            torch_too=True,
        ),
        ArrayCase("uniformity", lambda seed, a: uniformity(a), rows[:1], empty=lambda: uniformity(np.empty((0, 3)))),
        ArrayCase(
            "proxy_accuracy",
            lambda seed, p, n: proxy_accuracy(p, n),
            scores,
            empty=lambda: proxy_accuracy(np.empty(0), np.empty((0, 3))),
            torch_too=True,
        ),
    ]


# --- worked numbers ---------------------------------------------------------------------------------------------------


def test_worked_mixtures_and_loss():
    """Both mixtures, their similarities, the base loss, the loss with both and its six probabilities."""
    both = recipe([0], [1], [0.5], [0], [0.25])
    vectors = both.vectors(Q, N)
    assert vectors[0].tolist() == [pytest.approx(x, abs=1e-6) for x in ([0.316228, 0.948683], [0.759257, 0.650791])]
    mixed = both.scores(Q, N)
    assert mixed[0].tolist() == pytest.approx([0.316228, 0.759257], abs=1e-6)
    positive, negatives = to_logits((Q * K).sum(1), 0.2), to_logits(Q @ N.T, 0.2)
    assert contrastive_loss(positive, [(negatives, None)]).item() == pytest.approx(0.326652, abs=1e-6)
    logits = [negatives, to_logits(mixed, 0.2)]
    assert contrastive_loss(positive, [(x, None) for x in logits]).item() == pytest.approx(0.829004, abs=1e-6)
    shares = torch.cat([positive[:, None], *logits], 1).softmax(1)[0]
    wanted = (0.436480, 0.160570, 0.00799450, 0.0000538660, 0.0388570, 0.356040)
    assert shares.tolist() == pytest.approx(wanted, abs=5e-6)  # given to five digits


def test_without_mixtures_it_is_infonce():
    """With s = t = 0, or in the warm-up, the loss is that of the real negatives to the bit, and cross-entropy's."""
    q, k, n = unit(6, 4), unit(6, 4, seed=1), unit(20, 4, seed=2)
    q, k, n = unit_rows(q), unit_rows(k), unit_rows(n)
    scores = unit_rows(q) @ unit_rows(n).T
    positive = (unit_rows(q) * unit_rows(k)).sum(1)
    wanted = contrastive_loss(to_logits(positive, 0.2), [(to_logits(scores, 0.2), None)])
    assert torch.equal(MoCHiLoss(num_hard=5, num_pairs=0, num_query_mix=0)(q, k, n), wanted)
    loss = MoCHiLoss(num_hard=500, warmup_steps=2)
    assert torch.equal(loss(q, k, n), wanted) and torch.equal(loss(q, k, n), wanted)
    with pytest.raises(ValueError, match="num_hard must be at most 20"):
        loss(q, k, n)
    logits = torch.cat([positive[:, None], scores], 1) / 0.2
    assert wanted.item() == pytest.approx(F.cross_entropy(logits, torch.zeros(6, dtype=torch.int64)).item(), rel=1e-12)


def test_ends_of_the_shares():
    """A share of one, i = j, and none of the query give the real negative; opposite parts stay finite."""
    same = recipe([0, 2], [1, 2], [1.0, 0.3], [1], [0.0])
    assert torch.allclose(same.vectors(Q, N)[0], N[[0, 2, 1]], atol=1e-12)
    assert torch.allclose(same.scores(Q, N)[0], (Q @ N[[0, 2, 1]].T)[0], atol=1e-12)
    for dtype in (torch.float32, F64):
        q, opposite = Q.to(dtype), unit_rows(torch.tensor([[-0.9999999, 1e-7], [1.0, 0.0]], dtype=dtype))
        near = recipe([0], [1], [0.5], [0, 0], [0.5, 0.4999999], dtype=dtype)
        vectors, scores = near.vectors(q, opposite), near.scores(q, opposite)
        assert vectors.isfinite().all() and (vectors.norm(dim=2) <= 1 + 1e-5).all()
        assert scores.isfinite().all() and (scores.abs() <= 1.01).all()
    assert recipe([0], [1], [0.5]).vectors(Q, torch.cat([Q, -Q])).eq(0).all()


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 6), st.floats(0, 0.99))
def test_mixed_with_the_query_is_nearer(seed, dim, most):
    """q.h' >= q.n, and more where the query has a share; below one half the mixture stays nearer to n than to q."""
    query, negatives = unit(4, dim, seed=seed), unit(7, dim, seed=seed + 1)
    drawn = draw_mixtures(query @ negatives.T, 5, 0, 9, query_mix_max=most, generator=seed)
    mixed, real = drawn.vectors(query, negatives), negatives[drawn.partner]
    before, after = (torch.einsum("bd,bsd->bs", query, x) for x in (real, mixed))
    assert (after >= before - 1e-12).all()
    strict = (drawn.query_share > 1e-6) & (before < 1 - 1e-6)
    assert (after > before)[strict].all()
    below = drawn.query_share < 0.499
    assert ((mixed * real).sum(2) >= after - 1e-9)[below].all()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 6), st.integers(0, 6), st.booleans())
def test_mixtures_have_length_one_and_raise_the_loss(seed, pairs, with_query, per_query):
    """Every mixture has length one and no gradient, and negatives that are added only ever raise a query's loss."""
    query = unit(3, 4, seed=seed).requires_grad_()
    negatives = unit(3, 8, 4, seed=seed + 1) if per_query else unit(8, 4, seed=seed + 1).requires_grad_()
    mixed = mix_hard_negatives(query, negatives, 4, pairs, with_query, generator=seed)
    assert mixed.shape == (3, pairs + with_query, 4) and not mixed.requires_grad
    assert torch.allclose(mixed.norm(dim=2), torch.ones(()).to(mixed), atol=1e-9)
    losses = [
        MoCHiLoss(num_hard=4, num_pairs=s, num_query_mix=t, reduction="none", seed=seed)(query, query, negatives)
        for s, t in ((0, 0), (pairs, with_query))
    ]
    assert (losses[1] >= losses[0]).all()


def test_seeds_and_generators():
    """A seed gives the same mixtures again, a generator and the steps of a loss do not, and steps are saved."""
    q, n = unit(3, 4), unit(9, 4, seed=1)
    one = mix_hard_negatives(q, n, 5, 4, 2, generator=7)
    assert torch.equal(one, mix_hard_negatives(q, n, 5, 4, 2, generator=7))
    source = torch.Generator().manual_seed(7)
    assert torch.equal(one, mix_hard_negatives(q, n, 5, 4, 2, generator=source))
    assert not torch.equal(one, mix_hard_negatives(q, n, 5, 4, 2, generator=source))
    loss = MoCHiLoss(num_hard=5, num_pairs=4, num_query_mix=2)
    first, second = loss(q, q, n), loss(q, q, n)
    assert first != second
    again = MoCHiLoss(num_hard=5, num_pairs=4, num_query_mix=2)
    again(q, q, n)
    resumed = MoCHiLoss(num_hard=5, num_pairs=4, num_query_mix=2)
    resumed.load_state_dict(again.state_dict())
    assert resumed(q, q, n) == second
    resumed.eval()
    assert resumed(q, q, n) == resumed(q, q, n) and int(resumed.steps) == 2


def test_float32_agrees():
    """With the same recipe the vectors and scores of float32 are those of float64 to 1e-6."""
    q, n = unit(5, 16), unit(30, 16, seed=1)
    drawn = draw_mixtures(q @ n.T, 10, 20, 10, generator=3)
    assert torch.allclose(drawn.vectors(q.float(), n.float()).double(), drawn.vectors(q, n), atol=1e-6)
    assert torch.allclose(drawn.scores(q.float(), n.float()).double(), drawn.scores(q, n), atol=1e-6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_agrees():
    """With the same recipe the GPU gives the mixtures of the CPU to 1e-6."""
    q, n = unit(5, 16), unit(30, 16, seed=1)
    drawn = draw_mixtures(q @ n.T, 10, 20, 10, generator=3)
    there = Mixtures(*(x.cuda() for x in (drawn.first, drawn.second, drawn.share, drawn.partner, drawn.query_share)))
    assert torch.allclose(there.vectors(q.cuda(), n.cuda()).cpu(), drawn.vectors(q, n), atol=1e-6)
    assert torch.allclose(there.scores(q.cuda(), n.cuda()).cpu(), drawn.scores(q, n), atol=1e-6)
    loss = MoCHiLoss(num_hard=10, num_pairs=20, num_query_mix=10).cuda()
    assert loss(q.cuda(), q.cuda(), n.cuda(), log_weights=torch.zeros(5, 30).cuda()).isfinite()


# --- the transcription ------------------------------------------------------------------------------------------------


def loop_loss(query, positive, negatives, drawn, temperature, weights):
    """One query after the other: mix, normalise, exponentiate, add."""
    losses = []
    for i in range(len(query)):
        own = negatives[i] if negatives.ndim == 3 else negatives
        total = math.exp(float(query[i] @ positive[i]) / temperature)
        for j, n in enumerate(own):
            total += math.exp(float(query[i] @ n) / temperature + float(weights[i, j]))
        mixed = []
        for r in range(drawn.first.shape[1]):
            a = float(drawn.share[i, r])
            mixed.append(a * own[drawn.first[i, r]] + (1 - a) * own[drawn.second[i, r]])
        for r in range(drawn.partner.shape[1]):
            b = float(drawn.query_share[i, r])
            mixed.append(b * query[i] + (1 - b) * own[drawn.partner[i, r]])
        for h in mixed:
            total += math.exp(float(query[i] @ (h / h.norm())) / temperature)
        losses.append(math.log(total) - float(query[i] @ positive[i]) / temperature)
    return losses


@pytest.mark.parametrize("per_query", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_equals_the_loops(per_query, seed):
    """The loss is that of the loops for the same draw, with shared negatives and with each query's own, weighted."""
    q, k = unit(4, 5, seed=seed), unit(4, 5, seed=seed + 10)
    n = unit(4, 7, 5, seed=seed + 20) if per_query else unit(7, 5, seed=seed + 20)
    scores = torch.einsum("bd,bkd->bk", q, n) if per_query else q @ n.T
    weights = randn(4, 7, seed=seed + 30)
    weights[1, 2] = -INF
    loss = MoCHiLoss(0.3, 4, 6, 3, reduction="none", seed=seed)
    drawn = draw_mixtures(scores, 4, 6, 3, log_weights=weights, temperature=0.3, generator=child_seed(seed, "mochi", 0))
    wanted = loop_loss(q, k, n, drawn, 0.3, weights)
    assert loss(q, k, n, log_weights=weights).tolist() == pytest.approx(wanted, rel=1e-9)


def test_gradient_is_that_of_fixed_vectors():
    """Queries get the gradient of the loss with the mixtures as constants; so do negatives, as negatives only."""
    q, k, n = unit(4, 5), unit(4, 5, seed=1), unit(7, 5, seed=2)
    drawn = draw_mixtures(q @ n.T, 4, 6, 3, generator=1)
    mixed = drawn.vectors(q, n)

    def gradients(of_vectors):
        inputs = [x.clone().requires_grad_() for x in (q, k, n)]
        query, positive, negatives = inputs
        scores = torch.bmm(mixed, query[:, :, None])[..., 0] if of_vectors else drawn.scores(query, negatives)
        blocks = [(query @ negatives.T / 0.2, None), (scores / 0.2, None)]
        return torch.autograd.grad(contrastive_loss((query * positive).sum(1) / 0.2, blocks), inputs)

    for one, other in zip(gradients(True), gradients(False), strict=True):
        assert torch.allclose(one, other, atol=1e-10)


def test_only_real_negatives_get_a_gradient():
    """A negative that is only ever a part of mixtures, and not one itself, moves nothing; log-weights never do."""
    q, n = unit(3, 4), unit(6, 4, seed=1).requires_grad_()
    assert not draw_mixtures(q @ n.T, 4, 5, 2).scores(q, n).requires_grad
    loss, plain = (MoCHiLoss(num_hard=4, num_pairs=s, num_query_mix=0) for s in (5, 0))
    moved = torch.autograd.grad(loss(q, q, n), n)[0]
    scores = loss.eval().scores(q, q, n)
    assert scores[0].requires_grad and not scores[2].requires_grad
    assert moved.abs().sum() > 0 and not torch.equal(moved, torch.autograd.grad(plain(q, q, n), n)[0])
    weights = torch.zeros(3, 6, dtype=F64, requires_grad=True)
    MoCHiLoss(num_hard=4, num_pairs=5, num_query_mix=1)(
        q.clone().requires_grad_(), q, n, log_weights=weights, partner_log_weights=weights
    ).backward()
    assert weights.grad is None


def test_no_vectors_of_mixtures_in_the_loss(monkeypatch):
    """The loss never asks for the vectors, and what it gathers is bounded: pairs in chunks give the same numbers."""
    q, n = unit(4, 5), unit(9, 5, seed=1)
    wanted = MoCHiLoss(num_hard=6, num_pairs=8, num_query_mix=2)(q, q, n)
    drawn = draw_mixtures(q @ n.T, 6, 8, 2)
    vectors = drawn.vectors(q, n)
    monkeypatch.setitem(draw_mixtures.__globals__, "_PAIRS", 16)
    assert torch.equal(drawn.vectors(q, n), vectors)

    def refuse(*_):
        raise AssertionError("the loss builds the vectors of mixtures")

    monkeypatch.setattr(Mixtures, "vectors", refuse)
    assert torch.allclose(MoCHiLoss(num_hard=6, num_pairs=8, num_query_mix=2)(q, q, n), wanted)


# --- the draw ---------------------------------------------------------------------------------------------------------


def test_partners_are_the_hardest_that_may_be_mixed():
    """Only the N most similar are drawn, uniformly; masked ones and copies of a known positive never."""
    scores = randn(3, 40)
    drawn = draw_mixtures(scores, 8, 20_000, 20_000)
    for i in range(3):
        hardest = set(scores[i].topk(8).indices.tolist())
        for rows in (drawn.first[i], drawn.second[i], drawn.partner[i]):
            assert set(rows.tolist()) == hardest
            assert np.abs(np.bincount(rows.numpy(), minlength=40)[list(hardest)] - 2500).max() < 250
    assert 0 <= drawn.share.min() < 0.01 and 0.99 < drawn.share.max() <= 1
    assert 0 <= drawn.query_share.min() < 0.01 and 0.49 < drawn.query_share.max() <= 0.5
    best = scores.argmax(1)
    masked = draw_mixtures(scores, 8, 500, 500, mask=F.one_hot(best, 40).bool())
    assert not (masked.first == best[:, None]).any() and not (masked.partner == best[:, None]).any()
    queue = FeatureQueue(40, 4)
    queue.push(unit(40, 4, dtype=torch.float32), torch.arange(40))
    known = known_positive_log_weights(best, queue.ids)
    weighted = draw_mixtures(scores, 8, 500, 500, log_weights=known)
    assert torch.equal(weighted.first, masked.first) and torch.equal(weighted.partner, masked.partner)


def test_distinct_pairs():
    """Distinct pairs hold two negatives, and every ordered pair comes as often as another; else one in N is a copy."""
    scores = torch.zeros(1, 5)
    loose, strict = (draw_mixtures(scores, 5, 40_000, 0, distinct=d) for d in (False, True))
    assert (loose.first == loose.second).double().mean().item() == pytest.approx(0.2, abs=0.01)
    assert not (strict.first == strict.second).any()
    counts = torch.bincount((strict.first * 5 + strict.second)[0], minlength=25)
    assert (counts[counts > 0] - 2000).abs().max() < 250 and (counts > 0).sum() == 20


@pytest.mark.parametrize("distinct", [False, True])
def test_partners_follow_their_weights(distinct):
    """A partner comes in proportion to its weight, the second one too, and distinct ones among those that are left."""
    odds = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=F64)
    drawn = draw_mixtures(
        torch.zeros(1, 4, dtype=F64), 4, 60_000, 60_000, log_weights=odds.log()[None] - 900, distinct=distinct
    )
    for rows in (drawn.first, drawn.partner):
        assert (torch.bincount(rows[0], minlength=4) / 60_000 - odds).abs().max() < 0.01
    second = torch.bincount(drawn.second[0], minlength=4) / 60_000
    wanted = sum(p * odds.index_fill(0, torch.tensor(i), 0) / (1 - p) for i, p in enumerate(odds))
    assert (second - (wanted if distinct else odds)).abs().max() < 0.01


def test_log_weights_change_who_is_hard():
    """A posterior and a guide's mask, as they come, keep false negatives out of the mixtures."""
    scores = torch.tensor([[0.9, 0.8, 0.5, 0.4, 0.1]])
    posterior = false_negative_log_weights(torch.tensor([[9.0, 8.0, -9.0, -9.0, -9.0]]), torch.full((1, 5), 9.0))
    drawn = draw_mixtures(scores, 2, 200, 0, log_weights=posterior)
    assert set(drawn.first[0].tolist()) == {2, 3}
    guide = drop(false_negative_mask(torch.tensor([[0.9, 0.2, 0.8, 0.1, 0.1]]), torch.tensor([0.7])))
    assert set(draw_mixtures(scores, 2, 200, 0, log_weights=guide).first[0].tolist()) == {1, 3}
    colder = draw_mixtures(scores, 1, 5, 0, log_weights=torch.tensor([[-1.0, 0, 0, 0, 0]]), temperature=0.05)
    warmer = draw_mixtures(scores, 1, 5, 0, log_weights=torch.tensor([[-1.0, 0, 0, 0, 0]]), temperature=0.2)
    assert set(colder.first[0].tolist()) == {0} and set(warmer.first[0].tolist()) == {1}


@pytest.mark.parametrize("distinct", [False, True])
def test_queries_with_little_or_nothing_to_mix(distinct):
    """Decisions may leave fewer than N: those are mixed; a query left with none gets no mixtures."""
    scores, decided = randn(2, 6), torch.full((2, 6), -INF, dtype=F64)
    decided[:, [1, 4]] = -3.0
    drawn = draw_mixtures(scores, 5, 300, 300, log_weights=decided, distinct=distinct)
    assert all(set(rows.flatten().tolist()) == {1, 4} for rows in (drawn.first, drawn.second, drawn.partner))
    decided[0] = -INF
    with pytest.raises(ValueError, match="negatives to mix: one has 0; leave it out"):
        draw_mixtures(scores, 5, 3, 3, log_weights=decided, distinct=distinct)
    q, n = unit(2, 4).requires_grad_(), unit(6, 4, seed=1)
    mixing, plain = (
        MoCHiLoss(num_hard=5, num_pairs=s, num_query_mix=0, distinct=distinct, reduction="none") for s in (4, 0)
    )
    losses = mixing(q, q.detach(), n, partner_log_weights=decided)
    bare = plain(q, q.detach(), n)
    assert losses[0] == bare[0] and losses[1] > bare[1]
    one, other = (torch.autograd.grad(x[0], q)[0] for x in (losses, bare))
    assert torch.allclose(one, other)


def test_partner_weights_leave_the_real_negatives():
    """Decisions for partners change what is mixed and not the real negatives; a mask changes both."""
    q, n = unit(3, 4), unit(8, 4, seed=1)
    decided = torch.zeros(3, 8, dtype=F64)
    decided[:, :3] = -INF
    plain = MoCHiLoss(num_hard=3, num_pairs=0, num_query_mix=0)
    assert plain(q, q, n, partner_log_weights=decided) == plain(q, q, n)
    mixing = MoCHiLoss(num_hard=3, num_pairs=4, num_query_mix=2).eval()
    _, _, partners = mixing.scores(q, q, n, partner_log_weights=decided)
    _, _, both = mixing.scores(q, q, n, log_weights=decided)
    assert torch.equal(partners, both)
    left_out = MoCHiLoss(num_hard=3, num_pairs=4, num_query_mix=2).eval()(q, q, n, mask=decided == -INF)
    assert left_out.item() == pytest.approx(mixing(q, q, n[3:]).item(), rel=1e-12)


# --- diagnostics ------------------------------------------------------------------------------------------------------


def test_diagnostics_equal_the_loops(monkeypatch):
    """Alignment, uniformity and proxy accuracy are those of plain loops; blocks change nothing."""
    a, b = randn(12, 5), randn(12, 5, seed=1)
    x, y = F.normalize(a), F.normalize(b)
    assert alignment(a, b) == pytest.approx(np.mean([float((p - q).norm()) ** 2 for p, q in zip(x, y, strict=True)]))
    assert alignment(a, b, power=1) == pytest.approx(float((x - y).norm(dim=1).mean()))
    pairs = [math.exp(-2 * float((x[i] - x[j]).square().sum())) for i in range(12) for j in range(12) if i != j]
    assert uniformity(a) == pytest.approx(-math.log(np.mean(pairs)))
    whole = uniformity(a.float())
    monkeypatch.setitem(uniformity.__globals__, "_BLOCK", 30)
    assert uniformity(a) == pytest.approx(-math.log(np.mean(pairs)))
    assert whole == pytest.approx(uniformity(a), rel=1e-5)
    assert uniformity(np.ones((4, 3))) == pytest.approx(0, abs=1e-12)
    negatives = randn(12, 7, seed=2)
    negatives[3] = -INF
    wins = [all(p > s for s in row) for p, row in zip(a[:, 0].tolist(), negatives.tolist(), strict=True)]
    assert proxy_accuracy(a[:, 0], negatives) == pytest.approx(np.mean(wins))


# --- bad inputs -------------------------------------------------------------------------------------------------------


def test_bad_inputs():
    """More hardest than there are, shares out of range, rows that are not unit, and shapes that differ are named."""
    q, n = unit(2, 3), unit(5, 3, seed=1)
    most = torch.zeros(2, 5, dtype=torch.bool)
    most[1, :3] = True
    for call, message in (
        (lambda: mix_hard_negatives(q, n, 6, 1, 1), r"num_hard must be at most 5, .*: got 6; ask for fewer"),
        (lambda: mix_hard_negatives(q, n, 3, 1, 1, mask=most), "num_hard must be at most 2"),
        (lambda: mix_hard_negatives(2 * q, n, 2, 1, 1, check=True), "query must have rows of length one: one is 1 off"),
        (lambda: mix_hard_negatives(q, n * 0.5, 2, 1, 1, check=True), "negatives must have rows of length one"),
        (lambda: mix_hard_negatives(q, n, 2, 1, 1, query_mix_max=1.0), r"query_mix_max must lie in \[0, 1\): got 1.0"),
        (lambda: mix_hard_negatives(q, n, 2, 1, 1, query_mix_max=-0.1), "query_mix_max must lie"),
        (lambda: mix_hard_negatives(q, n, 1, 1, 1, distinct=True), "num_hard must be at least 2"),
        (lambda: mix_hard_negatives(q, n, 2, -1, 1), "num_pairs must be at least 0: got -1"),
        (lambda: mix_hard_negatives(q, n, 2, 1, 1, mask=most[:, :4]), "mask must have the shape of similarities"),
        (lambda: draw_mixtures(q @ n.T, 2, 1, 1, log_weights=torch.zeros(5)), "log_weights must have the shape"),
        (
            lambda: draw_mixtures(q @ n.T, 2, 1, 1, log_weights=torch.full((2, 5), math.nan)),
            "log_weights must be numbers or -inf",
        ),
        (lambda: draw_mixtures(q @ n.T, 2, 1, 1, generator=-1), "seed must be a non-negative integer"),
        (lambda: MoCHiLoss(temperature=0), "temperature must be positive: got 0"),
        (lambda: MoCHiLoss(query_mix_max=2), "query_mix_max must lie"),
        (lambda: MoCHiLoss(num_hard=0), "num_hard must be at least 1: got 0"),
        (lambda: MoCHiLoss(reduction="median"), "reduction must be one of"),
        (lambda: MoCHiLoss(num_hard=2)(q, q[:1], n), "positive must have the shape of query"),
        (lambda: MoCHiLoss(num_hard=2)(q, q, n, mask=most[:1]), "mask must have the shape of the similarities"),
        (lambda: uniformity(q[:1]), "embeddings must have at least two rows to form a pair: got 1"),
        (lambda: alignment(q, n), "positives must have the shape of queries"),
        (lambda: alignment(q * math.nan, q), "queries must be finite"),
        (lambda: proxy_accuracy(q, q), "positive_scores must be"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_half_precision_and_other_dtypes_of_the_queue():
    """Half precision gives finite losses in float32, and a queue may have another dtype than the queries."""
    q, n = unit(3, 8), unit(12, 8, seed=1)
    loss = MoCHiLoss(num_hard=6, num_pairs=4, num_query_mix=2)
    wanted = loss.eval()(q, q, n).item()
    for dtype in (torch.float16, torch.bfloat16):
        found = loss(q.to(dtype), q.to(dtype), n.to(dtype))
        assert found.dtype == torch.float32 and found.item() == pytest.approx(wanted, rel=0.05)
    assert loss(q, q, n.float()).dtype == F64
