"""TAS-Balanced: worked numbers of bins and losses, batches of one topic, and draws as even as they are said to be."""

from __future__ import annotations

import math
import time
import warnings
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.batches import (
    DualSupervisionLoss,
    InBatchMarginMSELoss,
    MarginBins,
    MarginMSELoss,
    TopicBatchSampler,
    topics_of,
)
from tests.behaviour import ArrayCase, LossCase, SamplerCase

S_POS, S_NEG = torch.tensor([[5.0, 2.0], [1.0, 4.0]]), torch.tensor([[3.0, 1.0], [2.0, 4.5]])
T_POS, T_NEG = torch.tensor([[9.0, 3.0], [2.0, 8.0]]), torch.tensor([[6.0, 2.0], [3.0, 7.0]])
PAIR = torch.tensor([3.0, 0.5])


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def make(seed: int) -> list:
    """Cases for the shared checks: the three losses, the sampler, the draw of pairs."""
    s_pos, s_neg, t_pos, t_neg = (randn(4, 4, seed=seed + i) for i in range(4))
    pair = randn(4, seed=seed + 4)
    topics = np.random.default_rng(0).integers(6, size=90)
    dual = DualSupervisionLoss()
    return [
        LossCase("MarginMSELoss", lambda a, b: MarginMSELoss()(a, b, pair), (s_pos[0], s_neg[0]), (pair,)),
        LossCase(
            "InBatchMarginMSELoss",
            lambda a, b: InBatchMarginMSELoss()(a, b, t_pos, t_neg),
            (s_pos, s_neg),
            (t_pos, t_neg),
        ),
        LossCase(
            "DualSupervisionLoss", lambda a, b: dual(a, b, pair, t_pos, t_neg), (s_pos, s_neg), (pair, t_pos, t_neg)
        ),
        SamplerCase(
            "TopicBatchSampler",
            lambda seed, rank, world: TopicBatchSampler(topics, 8, seed=seed, rank=rank, num_replicas=world),
        ),
        ArrayCase(
            "MarginBins",
            lambda seed, margins, ids: MarginBins(margins, ids).draw(ids, seed),
            (np.arange(12.0) ** 2, np.arange(12) % 3),
            empty=lambda: MarginBins(np.empty(0), np.empty(0, dtype=int)),
        ),
    ]


# Bins


def test_worked_bins():
    """Margins 0 1 2 3 9 10 lie in bins 0 1 2 3 9 9: four pairs with probability 1/5, two with 1/10."""
    pairs = MarginBins(np.array([0.0, 1, 2, 3, 9, 10]), np.zeros(6, dtype=int))
    assert pairs.bins.tolist() == [0, 1, 2, 3, 9, 9]
    assert pairs.probabilities().tolist() == pytest.approx([0.2, 0.2, 0.2, 0.2, 0.1, 0.1])
    assert MarginBins(np.array([0.1, 0.35, 0.75, 0.4]), np.zeros(4, dtype=int)).bins.tolist() == [0, 3, 9, 4]


def test_equal_margins_are_one_bin():
    """Margins that are all equal have no width: all pairs lie in bin 0, and all are as likely."""
    pairs = MarginBins(np.full(4, 2.5), np.zeros(4, dtype=int))
    assert pairs.bins.tolist() == [0, 0, 0, 0]
    assert pairs.probabilities().tolist() == [0.25] * 4


def slow_draw_probabilities(margins, query_ids, n_bins, min_pairs):
    """The probability of each pair by the definition: a bin evenly among ten, again while it is empty, then a pair."""
    chance = [0.0] * len(margins)
    for query in set(query_ids):
        own = [i for i, q in enumerate(query_ids) if q == query]
        if len(own) < min_pairs:
            continue
        low, high = min(margins[i] for i in own), max(margins[i] for i in own)
        cells: dict[int, list[int]] = {}
        for i in own:
            cell = 0 if low == high else min(n_bins - 1, math.floor((margins[i] - low) * n_bins / (high - low)))
            cells.setdefault(cell, []).append(i)
        for members in cells.values():
            for i in members:
                chance[i] = 1 / len(cells) / len(members)
    return chance


@given(
    rows=st.lists(st.tuples(st.integers(-3, 3), st.integers(-20, 20)), min_size=1, max_size=30),
    n_bins=st.integers(1, 12),
    min_pairs=st.integers(1, 3),
)
@settings(max_examples=100, deadline=None)
def test_probabilities_equal_the_plain_loops(rows, n_bins, min_pairs):
    """For any pairs the probabilities are those of the definition, and every query's add up to one."""
    query_ids, margins = np.array([q for q, _ in rows]), np.array([m / 4 for _, m in rows])
    if max(Counter(query_ids.tolist()).values()) < min_pairs:
        with pytest.raises(ValueError, match="must give some query at least"):
            MarginBins(margins, query_ids, n_bins, min_pairs=min_pairs)
        return
    pairs = MarginBins(margins, query_ids, n_bins, min_pairs=min_pairs)
    expected = slow_draw_probabilities(margins.tolist(), query_ids.tolist(), n_bins, min_pairs)
    assert pairs.probabilities().tolist() == pytest.approx(expected)
    for query in pairs.queries:
        assert pairs.probabilities()[query_ids == query].sum() == pytest.approx(1)
    drawn = pairs.draw(pairs.queries, seed=0)
    assert query_ids[drawn].tolist() == pairs.queries.tolist()


@pytest.mark.parametrize("balanced", [True, False])
def test_drawn_pairs_have_their_probabilities(balanced):
    """Draws are even over the bins that are not empty, or over pairs when asked not to balance."""
    margins = np.array([7.0, 0, 1, 2, 3, 9, 10, 4])
    pairs = MarginBins(margins, np.array([8, 5, 5, 5, 5, 5, 5, 8]))
    drawn = pairs.draw(np.full(20_000, 5), seed=1, balanced=balanced)
    counts = np.bincount(drawn, minlength=8)
    expected = 20_000 * (
        np.array([0, 2, 2, 2, 2, 1, 1, 0]) / 10 if balanced else np.array([0, 1, 1, 1, 1, 1, 1, 0]) / 6
    )
    assert counts[[0, 7]].tolist() == [0, 0]
    chi_square = ((counts - expected)[1:7] ** 2 / expected[1:7]).sum()
    assert chi_square < 20.5  # p = 1e-3 at 5 degrees of freedom


def test_queries_with_one_pair_are_left_out():
    """A query with fewer than two pairs is left out, as officially, and named; min_pairs=1 keeps it."""
    margins, ids = np.array([1.0, 2.0, 3.0]), np.array([4, 9, 4])
    pairs = MarginBins(margins, ids)
    assert pairs.queries.tolist() == [4] and pairs.left_out.tolist() == [9]
    assert pairs.knows(np.array([4, 9, 5])).tolist() == [True, False, False]
    with pytest.raises(ValueError, match="1 are not, the first is 9; leave them out"):
        pairs.draw(np.array([4, 9]), seed=0)
    assert MarginBins(margins, ids, min_pairs=1).draw(np.array([9, 9]), seed=0).tolist() == [1, 1]
    assert MarginBins(margins, ids).draw(4, seed=0).shape == ()


# Losses


def test_worked_losses():
    """Margin-MSE 1; dual supervision: pairs 1, in-batch 9, total 1 + 0.75 x 9 = 7.75."""
    t_pos, t_neg = torch.tensor([10.0, 8.0]), torch.tensor([7.0, 7.5])
    assert MarginMSELoss()(torch.tensor([5.0, 4.0]), torch.tensor([3.0, 4.5]), t_pos - t_neg).item() == 1.0
    assert MarginMSELoss()(S_POS.diagonal(), S_NEG.diagonal(), PAIR).item() == 1.0
    assert InBatchMarginMSELoss()(S_POS, S_NEG, T_POS, T_NEG).item() == 9.0
    assert DualSupervisionLoss()(S_POS, S_NEG, PAIR, T_POS, T_NEG).item() == 7.75
    assert DualSupervisionLoss(lambda_pair=0.5, lambda_in_batch=0)(S_POS, S_NEG, PAIR, T_POS, T_NEG).item() == 0.5


def slow_in_batch(s_pos, s_neg, t_pos, t_neg, weights):
    """The in-batch loss written out: both halves, off the diagonal, weighted means."""
    b, halves = len(s_pos), []
    for half, (s, t) in enumerate(((s_pos, t_pos), (s_neg, t_neg))):
        total = count = 0.0
        for i in range(b):
            for j in range(b):
                if i != j:
                    error = (s_pos[i][i] - s[i][j]) - (t_pos[i][i] - t[i][j])
                    total += weights[i][half * b + j] * error**2
                    count += weights[i][half * b + j]
        halves.append(total / count if count else 0.0)
    return sum(halves) / 2


@given(b=st.integers(2, 6), seed=st.integers(0, 999), drop=st.sampled_from([0.0, 0.4, 1.0]))
@settings(max_examples=60, deadline=None)
def test_in_batch_loss_equals_the_plain_loops(b, seed, drop):
    """Scores of any kind, with candidates left out or weighed, give the number of the plain transcription."""
    tables = [randn(b, b, seed=seed + i) for i in range(4)]
    weights = randn(b, 2 * b, seed=seed + 4)
    weights[torch.rand(b, 2 * b, generator=torch.Generator().manual_seed(seed)) < drop] = -torch.inf
    got = InBatchMarginMSELoss()(*tables, weights)
    assert got.item() == pytest.approx(slow_in_batch(*(t.tolist() for t in tables), weights.exp().tolist()), rel=1e-9)
    plain = slow_in_batch(*(t.tolist() for t in tables), [[1.0] * (2 * b)] * b)
    assert InBatchMarginMSELoss()(*tables).item() == pytest.approx(plain, rel=1e-9)


@given(seed=st.integers(0, 999), b=st.integers(2, 6))
@settings(max_examples=50, deadline=None)
def test_a_constant_per_query_changes_nothing(seed, b):
    """Constants per query on student or teacher leave the loss; a student equal to the teacher up to one has none."""
    s_pos, s_neg, t_pos, t_neg = (randn(b, b, seed=seed + i) for i in range(4))
    pair, shift = randn(b, seed=seed + 4), 5 * randn(b, 1, seed=seed + 5)
    loss = DualSupervisionLoss()
    base = loss(s_pos, s_neg, pair, t_pos, t_neg).item()
    assert loss(s_pos + shift, s_neg + shift, pair, t_pos, t_neg).item() == pytest.approx(base)
    assert loss(s_pos, s_neg, pair, t_pos + shift, t_neg + shift).item() == pytest.approx(base)
    own = (t_pos - t_neg).diagonal()
    assert loss(t_pos + shift, t_neg + shift, own, t_pos, t_neg).item() == pytest.approx(0, abs=1e-12)


def test_no_gradient_leaks_into_teachers():
    """Teachers and log-weights are judges: no gradient reaches them, even where they ask for one."""
    student = [S_POS.clone().requires_grad_(), S_NEG.clone().requires_grad_()]
    judges = [x.clone().requires_grad_() for x in (PAIR, T_POS, T_NEG, torch.zeros(2, 4))]
    DualSupervisionLoss()(*student, *judges).backward()
    assert all(x.grad is None for x in judges)
    assert all(bool((x.grad != 0).all()) for x in student)


def test_what_is_left_out_may_be_infinite():
    """A candidate with log-weight -inf gives neither value nor gradient, though its score is infinite."""
    s_pos = S_POS.clone()
    s_pos[0, 1] = torch.inf
    s_pos.requires_grad_()
    drop = torch.zeros(2, 4)
    drop[0, 1] = -torch.inf
    loss = InBatchMarginMSELoss()(s_pos, S_NEG, T_POS, T_NEG, drop)
    loss.backward()
    assert loss.item() == 9.0 and bool(s_pos.grad.isfinite().all())


# Batches


def test_one_topic_per_batch():
    """With one cluster per batch and clusters no smaller than a batch, every batch is of one topic and full."""
    topics = np.repeat(np.arange(5), [8, 9, 20, 8, 30])
    sampler = TopicBatchSampler(topics, 8, num_batches=200)
    for batch in sampler:
        assert len(set(batch)) == 8 and len(set(topics[batch])) == 1
    assert sampler.purity.tolist() == [1.0] * 200


def test_a_small_cluster_goes_on_with_another():
    """A cluster of 5 gives all its rows to a batch of 8, which another cluster fills with 3."""
    topics = np.array([0] * 5 + [1] * 40)
    sampler = TopicBatchSampler(topics, 8, num_batches=300)
    mixes = Counter(tuple(np.bincount(topics[batch], minlength=2).tolist()) for batch in sampler)
    assert set(mixes) == {(0, 8), (5, 3)}
    assert abs(mixes[5, 3] - 150) < 5 * math.sqrt(300 / 4)
    assert set(sampler.purity.tolist()) == {1.0, 0.625}


@pytest.mark.parametrize("weight", ["uniform", "size"])
def test_how_often_clusters_come(weight):
    """Clusters come alike, or by their rows; chi-square at p > 1e-3."""
    sizes = np.array([8, 10, 12, 30, 40])
    topics = np.repeat(np.arange(5), sizes)
    sampler = TopicBatchSampler(topics, 8, weight=weight, num_batches=5000, seed=2)
    counts = np.bincount([topics[batch[0]] for batch in sampler], minlength=5)
    expected = 5000 * (sizes / sizes.sum() if weight == "size" else np.full(5, 0.2))
    assert ((counts - expected) ** 2 / expected).sum() < 18.5  # p = 1e-3 at 4 degrees of freedom


def test_rows_of_a_cluster_come_alike():
    """Inside a cluster every row, and every pair of rows, is as likely as any other."""
    sampler = TopicBatchSampler(np.zeros(6, dtype=int), 2, num_batches=6000, seed=1)
    pairs = Counter(tuple(sorted(batch)) for batch in sampler)
    assert len(pairs) == 15
    assert sum((n - 400) ** 2 / 400 for n in pairs.values()) < 36.1  # p = 1e-3 at 14 degrees of freedom


def test_several_clusters_per_batch():
    """With two clusters per batch each gives half, and no cluster comes twice; redrawing, one may."""
    topics = np.repeat(np.arange(6), 40)
    two = [
        np.bincount(topics[b], minlength=6) for b in TopicBatchSampler(topics, 8, clusters_per_batch=2, num_batches=99)
    ]
    assert all(sorted(counts[counts > 0].tolist()) == [4, 4] for counts in two)
    again = TopicBatchSampler(topics, 8, clusters_per_batch=2, redraw_clusters=True, num_batches=600, seed=1)
    alone = sum(len(set(topics[batch])) == 1 for batch in again)
    assert abs(alone - 100) < 5 * math.sqrt(600 * 5 / 36)  # one draw in six repeats the first


def test_redrawing_repeats_rows_only_when_asked():
    """Without redrawing no batch holds a row twice, whatever the clusters; with it a small cluster may repeat."""
    topics = np.array([0] * 3 + [1] * 6)
    assert all(len(set(batch)) == 8 for batch in TopicBatchSampler(topics, 8, num_batches=100))
    again = TopicBatchSampler(topics, 8, redraw_clusters=True, num_batches=100)
    assert min(len(set(batch)) for batch in again) < 8 and {len(batch) for batch in again} == {8}


@given(
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=12),
    batch_size=st.integers(1, 20),
    per_batch=st.integers(1, 4),
    weight=st.sampled_from(["uniform", "size"]),
    seed=st.integers(0, 99),
)
@settings(max_examples=100, deadline=None)
def test_any_clusters_give_full_batches_of_different_rows(sizes, batch_size, per_batch, weight, seed):
    """Batches are full, without a repeated row, and a cluster never gives more than its share."""
    topics = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    per_batch = min(per_batch, batch_size)
    share = batch_size // per_batch
    if sum(min(size, share) for size in sizes) < batch_size:
        with pytest.raises(ValueError, match="clusters must fill a batch"):
            TopicBatchSampler(topics, batch_size, clusters_per_batch=per_batch)
        return
    sampler = TopicBatchSampler(
        topics, batch_size, clusters_per_batch=per_batch, weight=weight, num_batches=7, seed=seed
    )
    for batch, purity in zip(sampler, sampler.purity, strict=True):
        counts = np.bincount(topics[batch])
        assert len(set(batch)) == batch_size and counts.max() <= share
        assert purity == counts.max() / batch_size


def test_rare_clusters_that_a_batch_needs():
    """Where every batch needs clusters that are next to never drawn, the race finds them without hanging."""
    topics = np.array([0] * 100_000 + list(range(1, 5)))
    sampler = TopicBatchSampler(topics, 8, clusters_per_batch=2, weight="size", num_batches=50)
    assert all(sorted(np.bincount(topics[batch]).tolist()) == [1, 1, 1, 1, 4] for batch in sampler)


def test_clusters_without_pairs_are_left_out():
    """A cluster none of whose queries has a pair is left out with a warning; single queries are left out quietly."""
    pairs = MarginBins(np.arange(8.0), np.array([0, 0, 1, 1, 2, 2, 3, 3]))
    topics = np.array([5, 5, 5, 5, 5, 6, 6, -1])
    with pytest.warns(UserWarning, match="1 clusters have no usable row and are left out, the first is 6"):
        sampler = TopicBatchSampler(topics, 2, usable=pairs.knows(np.arange(8)), num_batches=50)
    assert sampler.left_out.tolist() == [6]
    assert {row for batch in sampler for row in batch} == {0, 1, 2, 3}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        TopicBatchSampler(topics[:5], 2, usable=torch.tensor([True, True, False, True, True]))


def test_length_and_default():
    """An epoch has one pass's worth of batches by default, or as many as asked for, shared over ranks."""
    topics = np.zeros(100, dtype=int)
    assert len(TopicBatchSampler(topics, 8)) == 12
    assert len(TopicBatchSampler(torch.tensor(topics), 8, num_batches=30, rank=1, num_replicas=4)) == 7
    assert len(TopicBatchSampler(topics[:3].tolist(), 3)) == 1


def test_a_million_rows():
    """An epoch of a million rows in 2,000 clusters is planned in well under seconds."""
    topics = np.random.default_rng(0).integers(2000, size=1_000_000)
    sampler = TopicBatchSampler(topics, 32)
    started = time.process_time()
    assert len(sampler) == 31_250
    assert time.process_time() - started < 2


def test_topics_of():
    """A table of clusters is laid on the rows; rows without one get -1, queries nobody knows are refused."""
    assert topics_of({"a": 3, "b": 0}, ["b", "x", "a"]).tolist() == [0, -1, 3]
    with pytest.raises(ValueError, match="1 are not among query_ids, such as 'z'"):
        topics_of({"a": 3, "z": 0}, ["a"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: TopicBatchSampler([], 2), r"cluster_ids must be \(n,\) and not empty"),
        (lambda: TopicBatchSampler([0, 0], 3), "clusters must fill a batch of 3"),
        (lambda: TopicBatchSampler([0, 0], 2, clusters_per_batch=3), "clusters_per_batch must lie between 1 and 2"),
        (lambda: TopicBatchSampler([0, 0], 2, weight="rows"), "weight must be one of 'uniform', 'size'"),
        (lambda: TopicBatchSampler([-1, -1], 1), "no row has a cluster and is usable"),
        (lambda: TopicBatchSampler([0, 0], 1, num_batches=0), "num_batches must be at least 1"),
        (lambda: TopicBatchSampler([0, 0], 1, usable=np.array([True])), "usable must have one entry per row"),
        (lambda: MarginBins(np.array([1.0, np.nan]), np.array([0, 0])), "margins must be finite"),
        (lambda: MarginBins(np.array([1.0, 2.0]), np.array([0])), "query_ids must have one entry per row of margins"),
        (lambda: MarginBins(np.array([1.0, 2.0]), np.array([0, 1])), "at least 2 pairs: the most is 1"),
        (lambda: MarginBins(np.array([1.0, 2.0]), np.array([0, 0]), 0), "n_bins must be at least 1"),
        (lambda: MarginMSELoss()(PAIR, PAIR[:1], PAIR), "negatives must have the shape of positives"),
        (lambda: MarginMSELoss()(PAIR[:0], PAIR[:0], PAIR[:0]), r"positives must be \(b,\) and not empty"),
        (lambda: InBatchMarginMSELoss()(S_POS, S_NEG, T_POS[:1], T_NEG), "teacher_positives must have the shape of"),
        (lambda: InBatchMarginMSELoss()(S_POS, S_NEG, T_POS, T_NEG.T[:1]), "teacher_negatives must have the shape of"),
        (lambda: InBatchMarginMSELoss()(S_POS[:1, :1], S_NEG, T_POS, T_NEG), r"\(b, b\) with b at least 2"),
        (
            lambda: InBatchMarginMSELoss()(S_POS, S_NEG, T_POS, T_NEG, torch.zeros(2, 2)),
            r"log_weights must be \(2, 4\)",
        ),
        (lambda: DualSupervisionLoss(lambda_pair=-1), "lambda_pair must be at least 0"),
    ],
)
def test_bad_input(call, message):
    """What cannot be is answered in one line."""
    with pytest.raises(ValueError, match=message):
        call()


def test_integers_are_asked_for():
    """Clusters and queries are integers; names go through a table first."""
    with pytest.raises(TypeError, match="cluster_ids must be integers: got float64"):
        TopicBatchSampler(np.array([0.0, 1.0]), 1)
    with pytest.raises(TypeError, match="query_ids must be integers"):
        MarginBins(np.array([0.0, 1.0]), np.array(["a", "a"]))
