"""Guarded clusters: who is kept apart, who stays at home, and what cannot be parted keeps its log-weight."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.batches import GuardedClusterSampler, guarded_log_weights, guide_judge
from tamis.contrastive import info_nce
from tests.behaviour import ArrayCase, SamplerCase


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def judge_of(pairs, n, weight=-torch.inf):
    """A judge that knows the false negatives by heart: (i, j) is one, in that direction alone."""
    table = torch.zeros(n, n)
    for i, j in pairs:
        table[i, j] = weight
    return lambda rows: table[rows[:, :, None], rows[:, None, :]]


def make(seed: int) -> list:
    """Cases for the shared checks: the sampler with pairs to part, the judge, the log-weights of a batch."""

    def build(seed, rank, world):
        sampler = GuardedClusterSampler(90, 8, seed=seed, rank=rank, num_replicas=world)
        keys = np.random.default_rng(0).integers(30, size=90)
        sampler.update(normal(90, 4), 0, judge=guide_judge(normal(90, 4), normal(90, 4), keys=keys))
        return sampler

    queries, positives, keys = normal(6, 4, seed=seed), normal(6, 4, seed=seed + 1), np.arange(6) % 4
    rows = torch.tensor([[0, 1, 4], [5, 2, 3]])
    return [
        SamplerCase("GuardedClusterSampler", build),
        ArrayCase(
            "guide_judge",
            lambda seed, q, p: guide_judge(q, p, keys=keys)(rows).numpy(),
            (queries, positives),
            empty=lambda: guide_judge(queries[:0], positives[:0]),
        ),
        ArrayCase(
            "guarded_log_weights",
            lambda seed, q, p: guarded_log_weights(guide_judge(q, p), [3, 1, 5]).numpy(),
            (queries, positives),
            empty=lambda: guarded_log_weights(guide_judge(queries, positives), []),
        ),
    ]


def slow_judge(queries, positives, keys, margin, rows):
    """The rule written out for one set of rows."""
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (queries, positives)]
    table = [[0.0] * len(rows) for _ in rows]
    for a, i in enumerate(rows):
        for b, j in enumerate(rows):
            liked = unit[0][i] @ unit[1][j] > unit[0][i] @ unit[1][i] - margin
            if a != b and (liked or keys[i] == keys[j]):
                table[a][b] = -np.inf
    return table


@given(seed=st.integers(0, 999), margin=st.sampled_from([0.0, 0.1, 0.5]), n=st.integers(1, 9))
@settings(max_examples=50, deadline=None)
def test_judge_equals_the_plain_loops(seed, margin, n):
    """The guide's judgement is that of the rule, pair by pair, and a row is no negative of itself to begin with."""
    queries, positives = normal(n, 3, seed=seed), normal(n, 3, seed=seed + 1)
    rng = np.random.default_rng(seed)
    keys, rows = rng.integers(4, size=n), rng.permutation(n)
    got = guide_judge(queries, positives, keys=keys, margin=margin)(torch.from_numpy(rows)[None])[0]
    assert got.tolist() == slow_judge(queries, positives, keys, margin, rows)
    assert guarded_log_weights(guide_judge(queries, positives, keys=keys, margin=margin), rows.tolist()).equal(got)


def test_log_weights_go_into_the_loss():
    """The log-weights of a batch take its false negatives out of the denominator."""
    rows = torch.eye(3, dtype=torch.float64)
    weights = guarded_log_weights(guide_judge(rows, rows, keys=torch.tensor([1, 1, 2])), [0, 1, 2])
    loss = info_nce(rows, rows, temperature=1.0, log_weights=weights, reduction="none")
    assert loss.exp().tolist() == pytest.approx([1 + 1 / np.e, 1 + 1 / np.e, 1 + 2 / np.e])


def test_before_an_update_batches_are_random():
    """Without clusters every row comes once, in batches of the size, and nothing has moved."""
    sampler = GuardedClusterSampler(50, 8)
    assert sorted(i for batch in sampler for i in batch) == list(range(50))
    assert [len(batch) for batch in sampler] == [8] * 6 + [2]
    assert sampler.together == 0 and sampler.moved == 0.0


def test_without_false_negatives_batches_are_clusters():
    """When the judge lets all pass, each batch is one cluster."""
    rows = normal(128, 6)
    sampler = GuardedClusterSampler(128, 16)
    sampler.update(rows, 0, judge=judge_of([], 128))
    clusters = sampler.clusters.numpy()
    assert all(len(set(clusters[batch])) == 1 and len(batch) == 16 for batch in sampler)
    assert len(sampler.pairs) == 0 and sampler.moved == 0.0


@pytest.mark.parametrize("seed", range(5))
def test_false_negatives_are_kept_apart(seed):
    """Twins beside each other end up in different batches of their group, and most rows stay at home."""
    rows = np.repeat(normal(128, 6, seed=seed), 2, axis=0) + 0.01 * normal(256, 6, seed=seed + 1)
    sampler = GuardedClusterSampler(256, 16, seed=seed)
    twins = [(i, i ^ 1) for i in range(0, 256, 8)]  # judged in one direction only
    sampler.update(rows, 0, judge=judge_of(twins, 256))
    clusters, where = sampler.clusters.numpy(), {}
    for number, batch in enumerate(sampler):
        assert len({c // 4 for c in clusters[batch]}) == 1 and len(batch) == 16
        where |= dict.fromkeys(batch, number)
    beside = [(i, j) for i, j in twins if clusters[i] == clusters[j]]
    assert len(beside) > 20
    assert all(where[i] != where[j] for i, j in twins)
    # Parting a pair moves one of the two, and one more row that makes room.
    assert sampler.together == 0 and 0 < sampler.moved <= 2 * len(beside) / 256


def test_spread_one_parts_nobody():
    """With a spread of 1, batches are the clusters, and what is together is counted."""
    rows = np.repeat(normal(32, 6), 2, axis=0)
    sampler = GuardedClusterSampler(64, 16, spread=1)
    sampler.update(rows, 0, judge=judge_of([(i, i + 1) for i in range(0, 64, 2)], 64))
    clusters = sampler.clusters.numpy()
    assert all(len(set(clusters[batch])) == 1 for batch in sampler)
    assert sampler.together == sum(clusters[i] == clusters[i + 1] for i in range(0, 64, 2)) == len(sampler.pairs) > 0
    assert sampler.moved == 0.0


def test_a_clique_is_spread_as_evenly_as_it_can():
    """Six rows that are all false negatives of one another, and four batches: two pairs must stay together."""
    rows = np.concatenate([np.ones((6, 3)), normal(26, 3)])
    everyone = [(i, j) for i in range(6) for j in range(6) if i != j]
    sampler = GuardedClusterSampler(32, 8, spread=4)
    sampler.update(rows, 0, judge=judge_of(everyone, 32))
    assert sorted(sum(i < 6 for i in batch) for batch in sampler) == [1, 1, 2, 2]
    assert sampler.together == 2


def test_the_bar_for_keeping_apart():
    """A finite log-weight parts when it is at or below the bar: by default, what is rather false than true."""
    rows = np.ones((8, 2)) + 0.01 * normal(8, 2)
    for weight, bar, parted in ((-0.5, np.log(0.5), False), (-0.8, np.log(0.5), True), (-0.5, -0.5, True)):
        sampler = GuardedClusterSampler(8, 4, spread=2)
        sampler.update(rows, 0, judge=judge_of([(0, 1)], 8, weight), apart_below=bar)
        assert len(sampler.pairs) == int(parted)
    assert GuardedClusterSampler.update.__kwdefaults__["apart_below"] == pytest.approx(np.log(0.5))


@given(
    n=st.integers(1, 60),
    batch_size=st.integers(1, 12),
    spread=st.integers(1, 5),
    share=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_every_row_once_in_batches_of_the_size(n, batch_size, spread, share, seed):
    """Whatever is to be kept apart, an epoch has every row once, in batches of the clusters' sizes, inside groups."""
    rng = np.random.default_rng(seed)
    pairs = np.argwhere(rng.random((n, n)) < share)
    sampler = GuardedClusterSampler(n, batch_size, spread=spread, seed=seed)
    sampler.update(rng.standard_normal((n, 3)), 0, judge=judge_of(pairs.tolist(), n))
    for epoch in range(2):
        sampler.set_epoch(epoch)
        batches = list(sampler)
        assert sorted(i for batch in batches for i in batch) == list(range(n))
        assert max(map(len, batches)) <= batch_size and len(batches) == len(sampler)
        assert sorted(map(len, batches)) == sorted(np.bincount(sampler.clusters.numpy()).tolist())
        groups = sampler.groups
        assert all(len(set(groups[batch])) == 1 for batch in batches)
        expected = sum(len({i, j} & set(batch)) == 2 for i, j in sampler.pairs.tolist() for batch in batches)
        assert sampler.together == expected


def test_groups_are_of_one_size():
    """Five clusters with a spread of 4 are one group, seven are two of 4 and 3: no cluster is left alone."""
    for n, sizes in ((40, [40]), (56, [32, 24]), (8, [8])):
        sampler = GuardedClusterSampler(n, 8)
        assert sampler.groups.tolist() == [0] * n
        sampler.update(normal(n, 4), 0, judge=judge_of([], n))
        assert np.bincount(sampler.groups).tolist() == sizes


def test_pairs_are_those_of_the_judge():
    """The pairs kept are all that the judge finds inside groups, each once, whichever direction it was found in."""
    rows, found = normal(60, 4), normal(60, 60, seed=3) < -1.2
    np.fill_diagonal(found, False)
    sampler = GuardedClusterSampler(60, 7, spread=3)
    sampler.update(rows, 0, judge=judge_of(np.argwhere(found).tolist(), 60))
    groups = sampler.groups
    expected = {(i, j) for i in range(60) for j in range(i) if (found | found.T)[i, j] and groups[i] == groups[j]}
    assert {(max(p), min(p)) for p in sampler.pairs.tolist()} == expected
    assert len(sampler.pairs) == len(expected)


def test_resume_keeps_clusters_and_pairs(tmp_path):
    """A state resumes mid-epoch with the groups and pairs it was saved with, without the judge."""
    rows = normal(64, 4)
    sampler = GuardedClusterSampler(64, 8, seed=3)
    sampler.update(rows, 0, judge=guide_judge(rows, rows, margin=0.1))
    plan, running = list(sampler), iter(sampler)
    for _ in range(3):
        next(running)
    torch.save(sampler.state_dict(), tmp_path / "state.pt")
    fresh = GuardedClusterSampler(64, 8)
    fresh.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert list(fresh) == plan[3:] and fresh.together == sampler.together
    with pytest.raises(ValueError, match="state must hold clusters for the rows of the data: 32 rows, 64"):
        GuardedClusterSampler(32, 8).load_state_dict(sampler.state_dict())


@pytest.mark.slow
def test_a_million_rows():
    """An epoch of a million rows, a third of them to be kept from a batch-mate, is planned in seconds."""
    n = 1_000_000
    sampler = GuardedClusterSampler(n, 64)
    sampler.clusters = torch.arange(n) // 64
    firsts = torch.arange(0, n, 6)
    sampler.pairs = torch.stack([firsts, firsts + 1], 1)
    started = time.process_time()
    assert len(sampler) == 15_625
    assert time.process_time() - started < 10
    assert sampler.together == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: GuardedClusterSampler(0, 2), "num_rows must be at least 1"),
        (lambda: GuardedClusterSampler(4, 0), "batch_size must be at least 1"),
        (lambda: GuardedClusterSampler(4, 2, spread=0), "spread must be at least 1"),
        (
            lambda: GuardedClusterSampler(4, 2).update(normal(3, 2), 0, judge=judge_of([], 4)),
            "embeddings must have one row per row of the data: 4 rows, 3 embeddings",
        ),
        (
            lambda: GuardedClusterSampler(4, 2).update(normal(4, 2), 0, judge=lambda rows: torch.zeros(1, 4)),
            r"judge must give log-weights \(1, 4, 4\): got \(1, 4\)",
        ),
        (lambda: guide_judge(normal(3, 2), normal(2, 2)), "positives must have the shape of queries"),
        (lambda: guide_judge(normal(3, 2), normal(3, 2), margin=-1), "margin must be at least 0"),
        (lambda: guide_judge(normal(3, 2), normal(3, 2), strategy="half"), "strategy must be one of"),
        (lambda: guide_judge(normal(3, 2), normal(3, 2), keys=np.arange(2)), "keys must have one entry per row"),
    ],
)
def test_bad_input(call, message):
    """What cannot be is answered in one line."""
    with pytest.raises(ValueError, match=message):
        call()
