"""STAR and ADORE: the worked numbers, both losses and the live search in plain loops, and who may learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.extra_negatives import known_positive_log_weights
from tamis.negatives import DynamicIndex, LambdaPairLoss, STARLoss, adore_step, mine_static
from tamis.negatives.star_adore import adore
from tests.behaviour import ArrayCase, LossCase

INF = math.inf
Q = torch.eye(2, dtype=torch.float64)
POSITIVES = torch.tensor([[1.0, 0.5], [0.2, 1.0]], dtype=torch.float64)
HARD = torch.tensor([[0.9, 0.1], [0.3, 0.8]], dtype=torch.float64)
LIST = torch.tensor([[3.0, 2.5, 2.0, 1.0]], dtype=torch.float64)
THIRD = torch.tensor([[False, False, True, False]])


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def lists(b=4, k=6, seed=0):
    """Scores and labels, one to three positives per list."""
    scores = randn(b, k, seed=seed)
    order = torch.rand(b, k, generator=torch.Generator().manual_seed(seed)).argsort(1)
    return scores, order < (torch.arange(b) % 3 + 1)[:, None]


def make(seed: int) -> list:
    """STAR pooled and with a number; list losses with each metric; the step against an index; the static miner."""
    q, p, h = randn(4, 3, seed=seed), randn(4, 3, seed=seed + 1), randn(6, 3, seed=seed + 2)
    drops = -randn(4, 4, seed=seed + 3).abs(), -randn(4, 6, seed=seed + 4).abs()
    drops[0][0, 1] = drops[1][2, 3] = -INF
    scores, labels = lists(seed=seed)
    weights = -randn(4, 6, seed=seed + 5).abs()
    index, positives = DynamicIndex(randn(9, 3, seed=seed + 6, dtype=torch.float32)), torch.tensor([0, 3, 4, 8])

    def star(alpha):
        loss = STARLoss(alpha)
        return lambda q, p, h: loss(q, p, h, log_weights=drops[0], hard_log_weights=drops[1])

    def ranked(metric, cut=None):
        loss = LambdaPairLoss(metric, cut=cut)
        return lambda scores: loss(scores, labels, log_weights=weights)

    arrays = [x.float().numpy() for x in (q, randn(7, 3, seed=seed + 7))]
    return [
        LossCase("STARLoss pooled", star("pooled"), (q, p, h), drops),
        LossCase("STARLoss 0.5", star(0.5), (q, p, h), drops),
        *(LossCase(f"LambdaPairLoss {m}", ranked(m), (scores,), (weights,)) for m in ("mrr", "dcg", None)),
        LossCase("LambdaPairLoss cut", ranked("mrr", 3), (scores,), (weights,)),
        LossCase("adore_step", lambda q: adore_step(q, index, positives, top_k=4)[0], (q,)),
        ArrayCase(
            "mine_static",
            lambda seed, q, p, known: mine_static(q, p, known, k=4),
            (*arrays, np.array([[0, 2], [1, -1], [6, 5], [3, -1]])),
            empty=lambda: mine_static(arrays[0][:0], arrays[1], np.zeros(0, dtype=np.int64), k=2),
            torch_too=True,
        ),
    ]


# --- worked numbers ---------------------------------------------------------------------------------------------------


def test_worked_star():
    """The pair losses of the worked batch, their mean .472009, and .485773 with one hard pair dropped."""
    scores = Q @ POSITIVES.T, Q @ HARD.T
    own = scores[0].diagonal()[:, None]
    in_batch, hard = (F.softplus(s - own) for s in scores)
    # The in-batch losses: query 0 against passage 1 scores .2, query 1 against passage 0 scores .5.
    assert [in_batch[0, 1].item(), in_batch[1, 0].item()] == pytest.approx([0.371101, 0.474077], abs=5e-7)
    assert hard.tolist() == [
        pytest.approx([0.644397, 0.403186], abs=5e-7),
        pytest.approx([0.341154, 0.598139], abs=5e-7),
    ]
    loss = STARLoss()
    assert loss(Q, POSITIVES, HARD).item() == pytest.approx(0.472009, abs=5e-7)
    dropped = torch.tensor([[0.0, -INF], [0.0, 0.0]])
    assert loss(Q, POSITIVES, HARD, hard_log_weights=dropped).item() == pytest.approx(0.485773, abs=5e-7)
    # L_hard + alpha * L_random: (.644397 + .403186 + .341154 + .598139) / 4 and (.371101 + .474077) / 2.
    assert STARLoss(0.5)(Q, POSITIVES, HARD).item() == pytest.approx(0.496719 + 0.5 * 0.422589, abs=2e-6)


def test_worked_lists():
    """.354653 without a cut, .600100 with one at 2; one positive above one negative is .237038."""
    assert LambdaPairLoss()(LIST, THIRD).item() == pytest.approx(0.354653, abs=5e-7)
    assert LambdaPairLoss(cut=2)(LIST, THIRD).item() == pytest.approx(0.600100, abs=5e-7)
    pair = LambdaPairLoss()(torch.tensor([[3.0, 2.5]]), torch.tensor([[1, 0]])).item()
    assert pair == pytest.approx(0.237038, abs=5e-7) == pytest.approx(0.5 * math.log1p(math.exp(-0.5)), abs=5e-7)


def test_worked_positive_that_was_not_retrieved():
    """Appended as fifth of four: .772925 without a cut and 1.158353 with one at 4."""
    index = DynamicIndex(torch.tensor([[3.0], [2.5], [2.0], [1.0], [0.4]]))
    query, positive = torch.ones(1, 1, dtype=torch.float64), torch.tensor([4])
    for cut, wanted in ((None, 0.772925), (4, 1.158353)):
        loss, stats = adore_step(query, index, positive, top_k=4, metric_cut=cut)
        assert loss.item() == pytest.approx(wanted, abs=5e-7)
        assert stats == {"mrr": 0.0, "recall": 0.0, "appended": 1.0}


def test_uniform_weights_are_the_mean_pairwise_loss():
    """One positive and no metric: the mean of softplus over its negatives; DCG takes 1 / log2(1 + r)."""
    wanted = np.mean([math.log1p(math.exp(s - 2.0)) for s in (3.0, 2.5, 1.0)])
    assert LambdaPairLoss(None)(LIST, THIRD).item() == pytest.approx(wanted)
    gain = [1 / math.log2(1 + r) for r in (1, 2, 3, 4)]
    wanted = np.mean([abs(gain[2] - gain[j]) * math.log1p(math.exp(LIST[0, j] - 2.0)) for j in (0, 1, 3)])
    assert LambdaPairLoss("dcg")(LIST, THIRD).item() == pytest.approx(wanted)
    assert LambdaPairLoss(lambda r: 1 / r)(LIST, THIRD).item() == pytest.approx(0.354653, abs=5e-7)


# --- the transcriptions -----------------------------------------------------------------------------------------------


def loop_star(q, p, h, in_batch, hard, alpha):
    totals = [[0.0, 0.0], [0.0, 0.0]]
    for i in range(len(q)):
        own = float(q[i] @ p[i])
        for which, (passages, weights) in enumerate(((p, in_batch), (h, hard))):
            for j in range(len(passages)):
                if which == 0 and i == j:
                    continue
                w = math.exp(weights[i, j])
                totals[which][0] -= w * math.log(math.exp(own) / (math.exp(own) + math.exp(float(q[i] @ passages[j]))))
                totals[which][1] += w
    (random, n_random), (difficult, n_difficult) = totals
    if alpha == "pooled":
        return (random + difficult) / (n_random + n_difficult)
    return difficult / n_difficult + alpha * random / n_random


@pytest.mark.parametrize("alpha", ["pooled", 0.3])
@pytest.mark.parametrize("seed", range(3))
def test_star_equals_the_loops(alpha, seed):
    """Two-way softmax pair by pair, weights and drops included."""
    q, p, h = randn(5, 3, seed=seed), randn(5, 3, seed=seed + 1), randn(7, 3, seed=seed + 2)
    weights = -randn(5, 5, seed=seed + 3).abs(), -randn(5, 7, seed=seed + 4).abs()
    weights[0][1, 2] = weights[1][3] = -INF
    found = STARLoss(alpha)(q, p, h, log_weights=weights[0], hard_log_weights=weights[1])
    assert found.item() == pytest.approx(loop_star(q, p, h, *weights, alpha), rel=1e-10)


def loop_lambda(scores, labels, ranks, weights, metric, cut, sigma):
    total = 0.0
    for y, label, rank, weight in zip(scores, labels, ranks, weights, strict=True):
        gain = {"mrr": lambda r: 1 / r, "dcg": lambda r: 1 / math.log2(1 + r)}.get(metric)
        value = pairs = 0.0
        for i in range(len(y)):
            for j in range(len(y)):
                if label[i] and not label[j]:
                    both = math.exp(weight[i]) * math.exp(weight[j])
                    pairs += both
                    if gain is not None:
                        g = [gain(int(rank[x])) if cut is None or rank[x] <= cut else 0.0 for x in (i, j)]
                        both *= abs(g[0] - g[1])
                    value += both * math.log1p(math.exp(-sigma * float(y[i] - y[j])))
        total += value / pairs
    return total / len(scores)


@pytest.mark.parametrize(("metric", "cut"), [("mrr", None), ("mrr", 3), ("dcg", None), ("dcg", 2), (None, None)])
@pytest.mark.parametrize("seed", range(3))
def test_lists_equal_the_loops(metric, cut, seed):
    """Every pair of every list, with ranks of their own, weights and drops."""
    scores, labels = lists(seed=seed)
    ranks = torch.rand(4, 6, generator=torch.Generator().manual_seed(seed)).argsort(1) + 1
    weights = -randn(4, 6, seed=seed + 5).abs()
    weights[0, (~labels[0]).nonzero()[0]] = -INF
    found = LambdaPairLoss(metric, cut=cut, sigma=0.7)(scores, labels, ranks=ranks, log_weights=weights)
    assert found.item() == pytest.approx(loop_lambda(scores, labels, ranks, weights, metric, cut, 0.7), rel=1e-10)


def loop_step(queries, vectors, ids, positives, top_k, cut, true_rank):
    """Search, label, append and weigh, one query after the other."""
    losses, reciprocal, recall, appended = [], [], [], 0
    for q, known in zip(queries, positives, strict=True):
        known = [int(x) for x in known if x >= 0]
        scores = [float(q @ v.double()) for v in vectors]
        order = sorted(range(len(vectors)), key=lambda row: -scores[row])
        found, ranks = order[:top_k], list(range(1, top_k + 1))
        hits = [r for r, row in enumerate(found, 1) if int(ids[row]) in known]
        own = [row for x in known for row in range(len(vectors)) if int(ids[row]) == x]
        reciprocal.append(1 / hits[0] if hits else 0.0)
        recall.append(len(hits) / len(own))
        if not hits:
            appended += 1
            ranks = ranks + [order.index(row) + 1 if true_rank else top_k + 1 + n for n, row in enumerate(own)]
            found = found + own
        y = torch.tensor([[scores[row] for row in found]])
        labels = [[int(ids[row]) in known for row in found]]
        losses.append(loop_lambda(y, labels, [ranks], [[0.0] * len(found)], "mrr", cut, 1.0))
    b = len(losses)
    return sum(losses) / b, {"mrr": sum(reciprocal) / b, "recall": sum(recall) / b, "appended": appended / b}


@pytest.mark.parametrize("true_rank", [False, True])
@pytest.mark.parametrize("cut", [None, 4])
@pytest.mark.parametrize("seed", range(3))
def test_step_equals_the_loops(true_rank, cut, seed, monkeypatch):
    """Documents with repeated ids, several positives, some not retrieved; blocks of any size give the same."""
    q, vectors = randn(8, 4, seed=seed), randn(40, 4, seed=seed + 1, dtype=torch.float32)
    ids = torch.arange(40) % 30 + 100
    positives = torch.stack([torch.arange(8) + 100, torch.arange(8) + 115], 1)
    positives[::2, 1] = -1
    index = DynamicIndex(vectors, ids)
    wanted, wanted_stats = loop_step(q, vectors, ids, positives, 6, cut, true_rank)
    assert wanted_stats["appended"] > 0
    gradients = []
    for gathered in (2**24, 100):
        monkeypatch.setattr(adore, "_GATHERED", gathered)
        queries = q.clone().requires_grad_()
        loss, stats = adore_step(queries, index, positives, top_k=6, metric_cut=cut, true_rank=true_rank)
        loss.backward()
        gradients.append(queries.grad)
        assert loss.item() == pytest.approx(wanted, rel=1e-8)  # torch's softplus(x) is x beyond 20
        assert stats == pytest.approx(wanted_stats, rel=1e-6)
    assert torch.allclose(*gradients, atol=1e-12)


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_static_mining_equals_the_loops(kind):
    """The best of the others by inner product, copies of a positive under its id left out, kept when asked for."""
    rng = np.random.default_rng(0)
    q, p = (rng.standard_normal(shape).astype(np.float32) for shape in ((6, 4), (20, 4)))
    ids = np.arange(20) % 17
    known = np.stack([np.arange(6), np.full(6, -1)], 1)
    known[0, 1] = 9
    for exclude in (True, False):
        found = mine_static(*map(kind, (q, p, known)), k=19, ids=kind(ids), exclude_positives=exclude)
        assert isinstance(found, type(kind(q)))
        for row in range(6):
            order = sorted(range(20), key=lambda i: -float(q[row] @ p[i]))
            kept = [i for i in order if not exclude or ids[i] not in known[row]]
            wanted = (kept + [-1] * 19)[:19]
            assert found[row].tolist() == wanted


# --- who may learn, and what stays the same ---------------------------------------------------------------------------


def test_queries_learn_and_nothing_else():
    """No gradient reaches the index or the log-weights; the queries' is that of finite differences."""
    vectors = randn(12, 3, dtype=torch.float32).requires_grad_()
    index, positives = DynamicIndex(vectors), torch.tensor([1, 2, 5])
    q = randn(3, 3, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda q: adore_step(q, index, positives, top_k=4)[0], (q,), eps=1e-7)
    adore_step(q, index, positives, top_k=4)[0].backward()
    assert vectors.grad is None and (q.grad != 0).any()
    scores, labels = lists()
    weights = torch.zeros(4, 6, requires_grad=True)
    LambdaPairLoss()(scores.requires_grad_(), labels, log_weights=weights).backward()
    pair = torch.zeros(2, 2, requires_grad=True)
    parts = [x.clone().requires_grad_() for x in (Q, POSITIVES, HARD)]
    STARLoss()(*parts, log_weights=pair, hard_log_weights=pair).backward()
    assert weights.grad is None and pair.grad is None
    assert all((x.grad != 0).any() for x in parts)
    assert torch.autograd.gradcheck(STARLoss(), parts)


def test_search_follows_the_update():
    """After a step of the encoder the next list is that of the new queries: one that was dropped is gone."""
    index = DynamicIndex(torch.eye(3))
    encoder = torch.nn.Linear(1, 3, bias=False)
    encoder.weight.data = torch.tensor([[0.0], [1.0], [0.5]])
    optimizer = torch.optim.SGD(encoder.parameters(), lr=2.0)
    mrr = []
    for _ in range(3):
        loss, stats = adore_step(encoder(torch.ones(1, 1)), index, torch.tensor([0]), top_k=2)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        mrr.append(stats["mrr"])
    assert mrr[0] == 0.0 and mrr[-1] == 1.0


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.floats(-50, 50), st.sampled_from(["mrr", "dcg", None]))
def test_only_differences_of_scores_count(seed, shift, metric):
    """A constant added to a list's scores changes nothing, nor do two negatives that swap scores and ranks."""
    scores, labels = lists(seed=seed)
    loss = LambdaPairLoss(metric)
    ranks = torch.arange(1, 7).repeat(4, 1)
    wanted = loss(scores, labels, reduction="none")
    assert torch.allclose(loss(scores + shift, labels, reduction="none"), wanted, atol=1e-10)
    for row in range(4):
        i, j = (~labels[row]).nonzero().flatten()[:2].tolist()
        for table in (scores, ranks):
            table[row, [i, j]] = table[row, [j, i]]
    assert torch.allclose(loss(scores, labels, ranks=ranks, reduction="none"), wanted, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 5), st.integers(0, 5))
def test_dropped_pairs_are_absent(seed, b, m):
    """A hard negative at -inf for all is as good as gone, and one that counts twice is one that stands there twice."""
    q, p, h = randn(b, 3, seed=seed), randn(b, 3, seed=seed + 1), randn(m + 1, 3, seed=seed + 2)
    weights = torch.zeros(b, m + 1)
    weights[:, -1] = -INF
    loss = STARLoss()
    assert torch.allclose(loss(q, p, h, hard_log_weights=weights), loss(q, p, h[:m]))
    weights[:, -1] = math.log(2.0)
    assert torch.allclose(loss(q, p, h, hard_log_weights=weights), loss(q, p, torch.cat([h, h[-1:]])), atol=1e-6)


def test_known_positives_are_masked_by_id():
    """A batch that holds a passage twice: the other copy is no negative."""
    ids = torch.tensor([7, 7])
    alone = STARLoss()(Q, POSITIVES, HARD, log_weights=known_positive_log_weights(ids, ids))
    scores = Q @ HARD.T - (Q @ POSITIVES.T).diagonal()[:, None]
    assert alone.item() == pytest.approx(F.softplus(scores).mean().item())


def test_extreme_scores_and_half_precision():
    """Large gaps stay finite, half precision is computed in float32, and a batch without pairs has loss 0."""
    far = torch.tensor([[6e4, -6e4, 0.0]], dtype=torch.float16, requires_grad=True)
    loss = LambdaPairLoss()(far, torch.tensor([[False, True, False]]))
    assert loss.dtype == torch.float32 and loss.isfinite()
    assert torch.autograd.grad(loss, far)[0].isfinite().all()
    assert STARLoss()(Q.half(), POSITIVES.half(), HARD.half()).dtype == torch.float32
    nothing = torch.full((2, 2), -INF)
    for alpha in ("pooled", 1.0):
        assert STARLoss(alpha)(Q, POSITIVES, HARD, log_weights=nothing, hard_log_weights=nothing).item() == 0.0


def test_reductions():
    """Sum and mean are of the lists' own values."""
    scores, labels = lists()
    rows = LambdaPairLoss()(scores, labels, reduction="none")
    assert rows.shape == (4,)
    assert LambdaPairLoss()(scores, labels, reduction="sum").item() == pytest.approx(rows.sum().item())
    assert LambdaPairLoss()(scores, labels).item() == pytest.approx(rows.mean().item())


def test_index_finds_rows_by_id_and_leaves_ids_out():
    """rows_of is CSR over repeated ids; a search with exclude never returns them, and ends in -1 with nothing left."""
    index = DynamicIndex(torch.eye(5), torch.tensor([7, 3, 7, 1, 9]))
    indptr, rows = index.rows_of(torch.tensor([[7, -1], [1, 9], [4, 3]]))
    assert indptr.tolist() == [0, 2, 4, 5] and rows.tolist() == [0, 2, 3, 4, 1]
    scores, rows = index.search(torch.ones(2, 5), 4, exclude=torch.tensor([[7, 3], [9, -1]]))
    assert rows.tolist() == [[3, 4, -1, -1], [0, 1, 2, 3]] and scores[0].tolist() == [1, 1, -INF, -INF]


# --- bad inputs -------------------------------------------------------------------------------------------------------


def test_bad_inputs():
    """Lists without both kinds, positives that are missing, doubled or unknown, and an index that is broken."""
    index = DynamicIndex(randn(5, 2, dtype=torch.float32))
    q, loss, nan = torch.ones(2, 2), LambdaPairLoss(), torch.tensor([[1.0, math.nan]])
    known, pairs = torch.tensor([0, 1]), torch.tensor([[True, False]])
    for call, message in (
        (lambda: adore_step(q, index, known, top_k=6), "k must be from 1 to 5.*got 6"),
        (lambda: adore_step(q, index, torch.tensor([0, -1])), "positives must hold one or more .*first is row 1"),
        (lambda: adore_step(q, index, torch.tensor([[0, 0], [1, 2]])), "name a passage once: 1 .*first is row 0"),
        (lambda: adore_step(q, index, torch.tensor([[0, 1], [1, 7]])), "must be ids of the index: .*first is row 1"),
        (lambda: adore_step(q, index, known[:1]), r"positives must be \(2,\) or \(2, r\) int64 ids"),
        (lambda: adore_step(q, index, known.float()), "int64 ids: got .*float32"),
        (lambda: adore_step(q * math.nan, index, known, top_k=2), "queries must be finite"),
        (lambda: adore_step(torch.ones(2, 3), index, known), "query_embeddings must have 2 columns"),
        (lambda: adore_step(q, index, torch.arange(5).repeat(2, 1), top_k=3), "leave every list a negative"),
        (lambda: DynamicIndex(nan), "vectors must be finite: 1 rows"),
        (lambda: loss(nan, pairs), "scores must be finite"),
        (lambda: loss(q[:1], torch.ones(1, 2)), "labels must leave every list a negative: 1 have none.*row 0"),
        (lambda: loss(q[:1], torch.zeros(1, 2)), "labels must leave every list a positive"),
        (lambda: loss(q[:1], pairs, log_weights=torch.tensor([[-INF, 0.0]])), "leave every list a positive"),
        (lambda: loss(q[:1], pairs, log_weights=nan), "log_weights must be numbers or -inf"),
        (lambda: loss(q, pairs), "labels must have the shape of scores"),
        (lambda: loss(q[:1], pairs, ranks=torch.tensor([[0, 1]])), "ranks must begin at 1"),
        (lambda: loss(q[:1], pairs, ranks=torch.tensor([1, 2])), "ranks must have the shape"),
        (lambda: loss(q[:1], pairs, reduction="max"), "reduction must be one of"),
        (lambda: LambdaPairLoss(lambda r: r[:, :1])(q[:1], pairs), "what metric returns must have the shape"),
        (lambda: LambdaPairLoss("map"), "metric must be one of 'mrr', 'dcg'"),
        (lambda: LambdaPairLoss(cut=0), "cut must be at least 1"),
        (lambda: LambdaPairLoss(None, cut=3), "cut must be None where no metric is"),
        (lambda: LambdaPairLoss(sigma=0.0), "sigma must be positive"),
        (lambda: STARLoss(-1.0), 'alpha must be "pooled" or at least 0'),
        (lambda: STARLoss("mean"), 'alpha must be "pooled" or at least 0'),
        (lambda: STARLoss()(Q, POSITIVES[:1], HARD), "positives must have the shape of queries"),
        (lambda: STARLoss()(Q, POSITIVES, HARD[:, :1]), "hard_negatives must have 2 columns"),
        (lambda: STARLoss()(Q[:1], POSITIVES[:1], HARD[:0]), "queries must be two or more"),
        (lambda: STARLoss()(Q, POSITIVES, HARD, log_weights=Q[:1]), "log_weights must have the shape"),
        (lambda: STARLoss()(Q, POSITIVES, HARD, hard_log_weights=Q / 0), "hard_log_weights must be numbers"),
        (lambda: mine_static(q, torch.eye(2), known, k=3), "k must be from 1 to 2"),
        (lambda: mine_static(q, torch.eye(2), known[:1]), "positives must have one entry per row of queries"),
        (lambda: mine_static(q, torch.eye(2), known.float()), "positives must be"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
