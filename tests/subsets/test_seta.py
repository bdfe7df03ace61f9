"""SeTa and InfoBatch: worked windows, exact groups against all cuts, plain transcriptions, weights, resuming."""

from __future__ import annotations

import itertools
import math
import pickle
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from tamis import distributed
from tamis.subsets import IndexedDataset, InfoBatchSampler, SeTaSampler, loss_groups
from tamis.subsets.seta import groups as groups_module
from tests.behaviour import ArrayCase, SamplerCase

SIX = np.array([0.1, 0.1, 1.0, 1.1, 5.0, 5.2])
FOUR = np.array([0.1, 0.2, 0.3, 2.0])


def seen(sampler, epoch, losses):
    """The sampler in an epoch that begins with these losses of all rows."""
    sampler.update(np.arange(len(losses)), losses)
    sampler.set_epoch(epoch)
    return sampler


def make(seed: int) -> list:
    """Both samplers with losses of all rows, and the groups."""
    losses = np.random.default_rng(seed).exponential(size=97)

    def build(kind):
        def one(seed, rank, world):
            sampler = kind(97, 8, seed=seed, rank=rank, num_replicas=world)
            # Another epoch and back: the losses are those that epoch 0 begins with.
            return seen(seen(sampler, 1, losses), 0, losses)

        return one

    return [
        SamplerCase("SeTaSampler", build(SeTaSampler)),
        SamplerCase("InfoBatchSampler", build(InfoBatchSampler)),
        ArrayCase(
            "loss_groups", lambda _, x: loss_groups(x, 4), (losses,), lambda: loss_groups(losses[:0], 1), torch_too=True
        ),
    ]


# Windows


def test_worked_windows():
    """k 5, a 0.6: starts 1, 2, 0, 1, 2, 0 in epochs 1 to 6, and all in epoch 0; k 10, a 0.5: epoch 7 starts at 1."""
    sampler = SeTaSampler(100, 40, num_groups=5, window_scale=0.6)
    assert [sampler.window(t) for t in range(7)] == [(0, 5), (1, 4), (2, 5), (0, 3), (1, 4), (2, 5), (0, 3)]
    assert SeTaSampler(100, 40, num_groups=10, window_scale=0.5).window(7) == (1, 6)


def test_worked_groups():
    """One group of three at a time: rows 2 and 3, then 4 and 5, then 0 and 1; epoch 0 takes all."""
    sampler = SeTaSampler(6, 8, prune_ratio=0.0, num_groups=3, window_scale=0.34)
    assert sorted(seen(sampler, 0, SIX)) == [0, 1, 2, 3, 4, 5]
    found = [sorted(seen(sampler, t, SIX)) for t in (1, 2, 3)]
    assert found == [[2, 3], [4, 5], [0, 1]]


def test_epochs_that_do_not_prune():
    """The last epochs take a random nine tenths whatever the losses, also where delta E is no whole number."""
    sampler = SeTaSampler(100, 10, num_groups=5, window_scale=0.4, delta=0.875)
    assert sampler.pruned_epochs == 8 and SeTaSampler(100, 100, delta=0.29).pruned_epochs == 29
    losses = np.repeat([0.0, 1.0, 2.0, 3.0, 4.0], 20) + np.linspace(0, 0.1, 100)
    assert len(seen(sampler, 7, losses)) < 60
    parts = [set(seen(sampler, t, losses)) for t in (8, 9)]
    assert [len(part) for part in parts] == [90, 90] and parts[0] != parts[1]


def test_one_group_is_random_sampling():
    """One group and r = 0 is a permutation each epoch; with r = 0.5 every epoch draws half of the rows anew."""
    whole = SeTaSampler(20, 400, prune_ratio=0.0, num_groups=1, window_scale=1.0)
    half = SeTaSampler(20, 400, prune_ratio=0.5, num_groups=1, window_scale=1.0)
    orders, counts = set(), np.zeros(20)
    for t in range(400):
        orders.add(tuple(seen(whole, t, np.arange(20.0))))
        assert sorted(whole) == list(range(20))
        rows = list(seen(half, t, np.arange(20.0)))
        assert len(set(rows)) == 10
        counts[rows] += 1
    assert len(orders) == 400
    assert ((counts - 200) ** 2 / 100).sum() * 19 / 20 < 43.8  # p = 1e-3 at 19 degrees of freedom


def slow_seta(rows, losses, epoch, k, window):
    """The rows of a window, by trying all ways to cut the sorted losses."""
    order = sorted(rows, key=lambda row: losses[row])
    values = [losses[row] for row in order]
    cuts = min(itertools.combinations(range(1, len(order)), k - 1), key=lambda cuts: spread(values, cuts))
    edges = [0, *cuts, len(order)]
    start = epoch % (k - window + 1)
    return {row for g in range(start, start + window) for row in order[edges[g] : edges[g + 1]]}


def spread(values, cuts):
    """Sum of squared distances to the means of the parts."""
    edges = [0, *cuts, len(values)]
    return sum(sum((v - np.mean(part)) ** 2 for v in part) for part in (
        values[a:b] for a, b in itertools.pairwise(edges)
    ))  # fmt: skip


@given(
    n=st.integers(6, 12), k=st.integers(2, 4), scale=st.sampled_from([0.3, 0.6, 0.9]),
    epoch=st.integers(1, 6), seed=st.integers(0, 99),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_a_pruned_epoch_equals_the_plain_transcription(n, k, scale, epoch, seed):
    """The rows of an epoch are those of the window over the best groups, found by trying all."""
    losses = np.random.default_rng(seed).exponential(size=n).astype(np.float32)
    options = {"prune_ratio": 0.1, "num_groups": k, "seed": seed}
    sampler = SeTaSampler(n, 8, window_scale=scale, **options)
    # With all groups in the window an epoch gives the random part itself.
    part = list(seen(SeTaSampler(n, 8, window_scale=1.0, **options), epoch, losses))
    rows = list(seen(sampler, epoch, losses))
    assert len(part) == math.floor(0.9 * n + 1e-9) and len(set(rows)) == len(rows)
    assert set(rows) == slow_seta(part, losses, epoch, k, round(k * scale))
    assert rows == [row for row in part if row in set(rows)]


# Groups


@given(losses=st.lists(st.floats(0, 10, width=16), min_size=1, max_size=11), k=st.integers(1, 5), shift=st.booleans())
@settings(max_examples=150, deadline=None)
def test_groups_are_the_best(losses, k, shift):
    """No way to cut the sorted losses has a smaller sum of squares; groups are in order and none is empty."""
    k = min(k, len(losses))
    values = np.array(losses) + (1000.0 if shift else 0.0)
    groups = loss_groups(values, k)
    order = np.argsort(values, kind="stable")
    assert sorted(set(groups.tolist())) == list(range(k))
    by_loss = sorted(zip(values.tolist(), groups.tolist(), strict=True))
    assert all(a[1] <= b[1] for a, b in itertools.pairwise(by_loss) if a[0] < b[0])
    got = sum(float(((values[groups == g] - values[groups == g].mean()) ** 2).sum()) for g in range(k))
    best = min(spread(values[order], cuts) for cuts in itertools.combinations(range(1, len(values)), k - 1))
    assert got == pytest.approx(best, rel=1e-9, abs=1e-9)


def test_many_groups_are_the_best():
    """With hundreds of losses the cuts are those of the plain quadratic recursion."""
    values = np.sort(np.random.default_rng(0).lognormal(size=80))
    for k in (2, 3, 7):
        groups = loss_groups(values, k)
        got = sum(((values[groups == g] - values[groups == g].mean()) ** 2).sum() for g in range(k))
        best = [0.0] + [math.inf] * 80
        for _ in range(k):
            best = [math.inf] + [
                min(best[a] + ((values[a:b] - values[a:b].mean()) ** 2).sum() for a in range(b)) for b in range(1, 81)
            ]
        assert got == pytest.approx(best[80], rel=1e-9)


def test_equal_losses_are_cut_evenly():
    """All losses equal: even parts; fewer values than groups: the commonest value is cut."""
    assert loss_groups(np.full(7, 3.0), 3).tolist() == [0, 0, 1, 1, 2, 2, 2]
    assert loss_groups(np.array([1.0, 0, 1, 1, 1, 0]), 3).tolist() == [1, 0, 1, 2, 2, 0]


def test_losses_that_are_not_finite_are_hardest():
    """NaN and infinity belong to the last group and do not move the others; also where nothing else is left."""
    assert loss_groups(np.array([np.nan, 0.1, 5.0, np.inf, 0.2, -np.inf]), 2).tolist() == [1, 0, 1, 1, 0, 1]
    assert loss_groups(np.array([np.nan, 0.1, np.inf, np.inf]), 2).tolist() == [1, 0, 1, 1]
    assert loss_groups(np.array([np.nan, np.nan, np.inf, np.inf]), 2).tolist() == [0, 0, 1, 1]


def test_half_a_million_losses():
    """Half a million different losses are grouped in seconds, and no Lloyd round would move a cut."""
    losses = np.random.default_rng(0).lognormal(size=500_000)
    started = time.process_time()
    groups = loss_groups(losses, 3)
    assert time.process_time() - started < 5
    assert_stationary(losses, groups)


def test_more_losses_than_are_searched(monkeypatch):
    """Beyond the limit the cuts of quantiles are moved until no Lloyd round moves them; the sum of squares is near the
    least."""
    losses = np.random.default_rng(1).exponential(size=5000)
    exact = loss_groups(losses, 4)
    monkeypatch.setattr(groups_module, "_EXACT", 500)
    groups = loss_groups(losses, 4)
    assert_stationary(losses, groups)
    spreads = [sum(((losses[g == i] - losses[g == i].mean()) ** 2).sum() for i in range(4)) for g in (exact, groups)]
    assert spreads[0] <= spreads[1] <= 1.001 * spreads[0]


def assert_stationary(losses, groups):
    """Every loss is nearest to the mean of its own group."""
    means = np.bincount(groups, losses) / np.bincount(groups)
    assert np.array_equal(groups, np.searchsorted((means[1:] + means[:-1]) / 2, losses))


# InfoBatch


def test_worked_infobatch():
    """Mean 0.65: of rows 0, 1, 2 one stays, with weight 2, and row 3 always, with weight 1."""
    found = set()
    for seed in range(30):
        sampler = seen(InfoBatchSampler(4, 8, seed=seed), 1, FOUR)
        rows = sorted(sampler)
        assert len(rows) == 2 and rows[1] == 3
        assert sampler.weights(np.array(rows)).tolist() == [2.0, 1.0]
        found.add(rows[0])
    assert found == {0, 1, 2}
    plain = seen(InfoBatchSampler(4, 8, rescale=False), 1, FOUR)
    assert plain.weights(torch.tensor([0, 3])).tolist() == [1.0, 1.0]


def test_infobatch_is_unbiased():
    """Over the six ways to keep two of four low rows, weights times gradients average to the full sum; and all six
    come alike."""
    losses, gradient = np.array([0.1, 0.2, 0.3, 0.4, 5.0, 6.0]), np.random.default_rng(0).standard_normal(6)
    counts: dict[tuple[int, ...], int] = {}
    sums: dict[tuple[int, ...], float] = {}
    for seed in range(600):
        sampler = seen(InfoBatchSampler(6, 8, seed=seed), 1, losses)
        rows = np.array(sorted(sampler))
        key = tuple(rows.tolist())
        counts[key] = counts.get(key, 0) + 1
        sums[key] = float(sampler.weights(rows).astype(np.float64) @ gradient[rows])
    assert len(sums) == 6
    assert np.mean(list(sums.values())) == pytest.approx(gradient.sum(), abs=1e-12)
    assert sum((c - 100) ** 2 / 100 for c in counts.values()) < 20.5  # p = 1e-3 at 5 degrees of freedom


@pytest.mark.parametrize("epochs", [8, 10])
def test_weights_are_one_after_the_last_pruned_epoch(epochs):
    """After floor(delta E) epochs all rows come with weight 1, in every later epoch, and so with any E."""
    sampler = InfoBatchSampler(4, epochs)
    last = math.floor(0.875 * epochs)
    for t in range(1, epochs):
        seen(sampler, t, FOUR)
        assert len(sampler) == (2 if t < last else 4)
        assert sampler.weights(np.arange(4)).tolist() == ([2.0, 2.0, 2.0, 1.0] if t < last else [1.0] * 4)


@given(
    losses=st.lists(st.floats(0, 4, width=16), min_size=1, max_size=30),
    ratio=st.sampled_from([0.0, 0.3, 0.5, 0.95]),
    seed=st.integers(0, 99),
)
@settings(max_examples=100, deadline=None)
def test_infobatch_equals_the_plain_transcription(losses, ratio, seed):
    """All rows from the mean on, floor((1 - r) low) of the others, nothing twice."""
    losses = np.array(losses, dtype=np.float32)
    sampler = seen(InfoBatchSampler(len(losses), 8, prune_ratio=ratio, seed=seed), 1, losses)
    rows = list(sampler)
    mean = math.fsum(losses.tolist()) / len(losses)
    low = {i for i, loss in enumerate(losses.tolist()) if loss < mean and losses.min() < losses.max()}
    assert len(set(rows)) == len(rows) and set(range(len(losses))) - low <= set(rows)
    assert len(low & set(rows)) == math.floor(len(low) * (1 - ratio) + 1e-9)


def test_rows_without_a_loss_stay():
    """Before any loss all rows come; later a row without a loss, or with NaN, counts as high."""
    sampler = InfoBatchSampler(5, 8)
    assert sorted(sampler) == [0, 1, 2, 3, 4]
    sampler.update([0, 1, 2, 3], [0.1, 0.2, 3.0, math.nan])
    sampler.set_epoch(1)
    assert {2, 3, 4} <= set(sampler) and len(sampler) == 4 and sampler.not_finite == 1


# Losses, epochs, state


def test_an_epoch_keeps_the_losses_of_its_beginning():
    """Losses noted in an epoch change the next epoch and not this one, and a length asked for early changes nothing."""
    sampler = seen(InfoBatchSampler(4, 8), 1, FOUR)
    running = iter(sampler)
    first = next(running)
    weights = sampler.weights(np.arange(4)).tolist()
    sampler.update([0, 1, 2, 3], FOUR[::-1].copy())
    assert len([first, *running]) == len(sampler) == 2 and sampler.weights(np.arange(4)).tolist() == weights
    assert 3 in list(sampler)
    sampler.set_epoch(2)
    assert 0 in list(sampler) and sampler.weights(np.arange(4)).tolist() == [1.0, 2.0, 2.0, 2.0]


def test_resuming_in_an_epoch_after_updates():
    """A state saved between updates brings back the rest of the epoch and the losses for the next one."""
    losses = np.random.default_rng(0).exponential(size=50)
    sampler = seen(SeTaSampler(50, 8, num_groups=4, window_scale=0.5), 1, losses)
    running = iter(sampler)
    rows = [next(running) for _ in range(10)]
    sampler.update(rows, np.full(10, 9.0))
    state = pickle.loads(pickle.dumps(sampler.state_dict()))
    resumed = SeTaSampler(50, 8, num_groups=4, window_scale=0.5)
    resumed.load_state_dict(state)
    left = list(running)
    assert list(resumed) == left
    assert resumed.saved_ratio == sampler.saved_ratio
    for one in (sampler, resumed):
        one.set_epoch(2)
    assert list(resumed) == list(sampler) and np.array_equal(resumed.scores, sampler.scores)
    with pytest.raises(ValueError, match="state must hold losses for the rows of the data: 9 rows, 50 losses"):
        InfoBatchSampler(9, 8).load_state_dict(state)


def test_saved_ratio():
    """The share left out over the epochs planned: nothing in the first, half of four rows in each of two more."""
    sampler = InfoBatchSampler(4, 8)
    assert list(sampler) and sampler.saved_ratio == 0
    for t in (1, 2):
        assert list(seen(sampler, t, FOUR))
    assert sampler.saved_ratio == pytest.approx(1 - (4 + 2 + 2) / 12)


def test_losses_of_all_ranks_are_gathered(monkeypatch):
    """With torch.distributed in use the rows and losses of the other ranks are noted too."""
    others = {torch.int64: torch.tensor([3]), torch.float64: torch.tensor([7.0], dtype=torch.float64)}
    monkeypatch.setattr(distributed, "place", lambda: (0, 2))
    monkeypatch.setattr(
        distributed, "gather", lambda rows: distributed.Gathered(torch.cat([rows, others[rows.dtype]]), 0)
    )
    sampler = InfoBatchSampler(4, 8)
    sampler.update(np.array([1]), np.array([0.5]))
    assert sampler.scores.tolist() == [math.inf, 0.5, math.inf, 7.0]


def test_updates_take_no_gradient_and_write_nothing():
    """Losses come from the graph, in any dtype, and are left alone; weights come in float32."""
    losses = torch.tensor([1.0, 2.0], dtype=torch.bfloat16, requires_grad=True)
    sampler = InfoBatchSampler(3, 8)
    sampler.update(torch.tensor([2, 0]), losses * 2)
    assert sampler.scores.tolist() == [4.0, math.inf, 2.0] and losses.tolist() == [1.0, 2.0]
    weights = sampler.weights(torch.tensor([0, 2]))
    assert weights.dtype == torch.float32
    (losses * weights).mean().backward()
    assert losses.grad.tolist() == [0.5, 0.5]


def test_in_a_data_loader():
    """A loader over the indexed data gives batches whose indices say which losses they have."""
    data = IndexedDataset([10.0 * i for i in range(12)])
    sampler = InfoBatchSampler(12, 4)
    for epoch in range(2):
        sampler.set_epoch(epoch)
        count = 0
        for indices, values in DataLoader(data, batch_size=4, sampler=sampler):
            assert torch.equal(values, 10.0 * indices)
            sampler.update(indices, values)
            count += len(indices)
        assert count == (12, 9)[epoch]
    assert len(data) == 12


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: SeTaSampler(0, 8), "num_samples must be at least 1"),
        (lambda: SeTaSampler(9, 0), "num_epochs must be at least 1"),
        (lambda: SeTaSampler(9, 8, prune_ratio=1.0), r"prune_ratio must lie in \[0, 1\): got 1.0"),
        (lambda: InfoBatchSampler(9, 8, prune_ratio=-0.1), r"prune_ratio must lie in \[0, 1\): got -0.1"),
        (lambda: SeTaSampler(9, 8, delta=1.5), "delta must lie between 0 and 1"),
        (lambda: SeTaSampler(9, 8, init_score=math.nan), "init_score must be a number"),
        (lambda: SeTaSampler(9, 8, num_groups=0), "num_groups must be at least 1"),
        (lambda: SeTaSampler(9, 8, window_scale=0.0), r"window_scale must lie in \(0, 1\]"),
        (lambda: SeTaSampler(9, 8, num_groups=4, window_scale=0.1), "4 groups times 0.1 round to 0"),
        (lambda: SeTaSampler(9, 8, num_groups=8), "num_groups must be below the 8 rows that are left of 9: got 8"),
        (lambda: InfoBatchSampler(9, 8).update([1, 2], [0.5]), r"losses must be \(b,\), one for each of the 2 indices"),
        (lambda: InfoBatchSampler(9, 8).update([1, 2], torch.tensor(0.5)), r'got shape \(\); take .* reduction="none"'),
        (lambda: InfoBatchSampler(9, 8).update([1, 9], [0.5, 0.5]), r"indices must lie in 0..8, .*: got \[9\]"),
        (lambda: InfoBatchSampler(9, 8).weights(np.array([-1])), r"indices must lie in 0..8, .*: got \[-1\]"),
        (lambda: InfoBatchSampler(9, 8).weights(np.array([[1]])), r"indices must be \(b,\): got shape \(1, 1\)"),
        (lambda: loss_groups(np.empty(0), 1), r"losses must be \(n,\) and not empty"),
        (lambda: loss_groups(FOUR, 5), "k must lie between 1 and 4"),
    ],
)
def test_bad_input(call, message):
    """What cannot be is answered in one line."""
    with pytest.raises(ValueError, match=message):
        call()


def test_indices_are_integers():
    """Indices that are not integers are refused."""
    with pytest.raises(TypeError, match="indices must be integers: got torch.float64"):
        InfoBatchSampler(9, 8).update(np.array([1.0]), np.array([0.5]))
