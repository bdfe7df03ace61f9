"""RS2: worked epochs, a plain walk through the passes, equal visits, coverage, wrapped samplers, steps, the measure."""

from __future__ import annotations

import itertools
import math
import pickle
import time
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SubsetRandomSampler, TensorDataset

from tamis.randomness import child_seed
from tamis.subsets import RepeatedRandomSampler, TimeToAccuracy, rs2_indices
from tests.behaviour import ArrayCase, SamplerCase


def make(seed: int) -> list:
    """The sampler in its three ways and over batches, and the function."""

    def build(data=97, **options):
        def one(seed, rank, world):
            return RepeatedRandomSampler(data, 0.3, seed=seed, rank=rank, num_replicas=world, **options)

        return one

    return [
        SamplerCase("carry", build()),
        SamplerCase("drop", build(boundary="drop")),
        SamplerCase("replacement", build(replacement=True)),
        SamplerCase("batches", build([[i, i + 1] for i in range(0, 60, 2)])),
        ArrayCase("rs2_indices", lambda s: rs2_indices(50, 0.3, 4, s), (), lambda: rs2_indices(0, 0.3, 0)),
    ]


def epochs(n, fraction, count, seed=0, **options):
    """The first epochs, as lists."""
    return [rs2_indices(n, fraction, epoch, seed, **options).tolist() for epoch in range(count)]


# Worked epochs


@pytest.mark.parametrize("seed", range(20))
def test_worked_carry(seed):
    """n 10, k 3: ten epochs visit each row three times, each ten draws are a pass, and no epoch has a row twice."""
    drawn = epochs(10, 0.3, 20, seed)
    assert all(len(set(rows)) == 3 for rows in drawn)
    stream = list(itertools.chain.from_iterable(drawn))
    assert all(sorted(stream[at : at + 10]) == list(range(10)) for at in range(0, 60, 10))
    assert set(Counter(stream[:30]).values()) == {3}


def test_worked_drop():
    """n 10, k 3: epochs 0 to 2 are disjoint, epoch 3 begins a new permutation, of which it takes the first three."""
    firsts = set()
    for seed in range(20):
        drawn = epochs(10, 0.3, 6, seed, boundary="drop")
        assert len({row for rows in drawn[:3] for row in rows}) == 9
        assert len({row for rows in drawn[3:] for row in rows}) == 9
        (missing,) = set(range(10)) - {row for rows in drawn[:3] for row in rows}
        firsts.add(missing in drawn[3])
    assert firsts == {True, False}


@pytest.mark.parametrize("options", [{}, {"boundary": "drop"}, {"replacement": True}])
def test_the_whole_is_a_permutation_each_epoch(options):
    """Fraction 1 gives all rows in a fresh random order, every way alike in law."""
    drawn = epochs(5, 1.0, 600, **options)
    assert all(sorted(rows) == [0, 1, 2, 3, 4] for rows in drawn)
    places = np.zeros((5, 5))
    for rows in drawn:
        places[np.arange(5), rows] += 1
    assert ((places - 120) ** 2 / 120).sum() < 39.3  # p = 1e-3 at 16 degrees of freedom
    assert len({tuple(rows) for rows in drawn}) > 110


def test_coverage():
    """Ten independent tenths cover 0.651322 of the rows on the mean, ten tenths of one pass all."""
    covered = {True: [], False: []}
    for seed in range(200):
        for replacement in covered:
            drawn = epochs(1000, 0.1, 10, seed, replacement=replacement)
            covered[replacement].append(len(set(itertools.chain.from_iterable(drawn))) / 1000)
    assert 1 - 0.9**10 == pytest.approx(0.651322, abs=1e-6)
    assert np.mean(covered[True]) == pytest.approx(0.651322, abs=0.01)
    assert set(covered[False]) == {1.0}


def test_the_mean_is_unbiased():
    """The mean over all 120 parts of three of ten numbers of the mean of the part is the mean of all; and epochs of
    either way draw the 120 parts alike, so no reweighing is needed."""
    values = np.random.default_rng(0).standard_normal(10)
    parts = list(itertools.combinations(range(10), 3))
    assert len(parts) == 120
    assert np.mean([values[list(part)].mean() for part in parts]) == pytest.approx(values.mean(), abs=1e-12)
    for epoch, options in ((3, {}), (4, {}), (3, {"replacement": True})):  # epoch 3 goes over the end of a pass
        found = Counter(tuple(sorted(rs2_indices(10, 0.3, epoch, seed, **options))) for seed in range(3000))
        assert sum((found[part] - 25) ** 2 / 25 for part in parts) < 173.6  # p = 1e-3 at 119 degrees of freedom


def test_any_epoch_is_drawn_at_once():
    """Epoch ten to the ninth takes as long as epoch 0, has no row twice, and NumPy's integers draw as Python's do."""
    started = time.process_time()
    late = rs2_indices(1000, 0.37, 10**9)
    assert time.process_time() - started < 0.5
    assert len(set(late.tolist())) == 370
    assert np.array_equal(late, rs2_indices(np.int64(1000), 0.37, np.int64(10**9), np.int64(0)))


# The plain walk


def slow_passes(n, k, count, seed):
    """Epochs of k rows by walking through the passes one row at a time; k is half of n at most."""

    def shuffled(number):
        return np.random.default_rng(child_seed(seed, "rs2", "pass", number)).permutation(n).tolist()

    drawn, left, number = [], shuffled(0), 0
    for _ in range(count):
        rows = []
        if len(left) < k:
            rows, number = left, number + 1
            left = shuffled(number)
            # Rows that will share an epoch with the next pass stay where the shuffle put them.
            more = k - len(rows)
            kept = n - (n - more) % k
            for _ in range(more):
                row = next(row for row in left[: kept - (n - len(left))] if row not in rows)
                rows = [*rows, row]
                left.remove(row)
        else:
            rows, left = left[:k], left[k:]
        drawn.append(rows)
    return drawn


@given(n=st.integers(2, 25), seed=st.integers(0, 99), data=st.data())
@settings(max_examples=80, deadline=None)
def test_carry_equals_the_plain_walk(n, seed, data):
    """Epochs drawn one by one from their number are those of walking through the passes from the start."""
    k = data.draw(st.integers(1, n // 2))
    assert epochs(n, k / n, 30, seed) == slow_passes(n, k, 30, seed)


@given(n=st.integers(1, 30), seed=st.integers(0, 99), data=st.data())
@settings(max_examples=120, deadline=None)
def test_visits_are_equal(n, seed, data):
    """With carry no two rows ever differ by more than one visit, and all are equal after n epochs; no row comes twice
    in an epoch, whatever the fraction."""
    k = data.draw(st.integers(1, n))
    visits = np.zeros(n, dtype=int)
    for rows in epochs(n, k / n, n, seed):
        assert len(set(rows)) == len(rows) == k
        visits[rows] += 1
        assert visits.max() - visits.min() <= 1
    assert (visits == k).all()


@pytest.mark.parametrize("epoch", [0, 1, 2, 5])
def test_large_parts_leave_all_rows_out_alike(epoch):
    """Nine tenths of ten rows: over seeds every row is left out, and comes at every place, as often."""
    drawn = np.array([rs2_indices(10, 0.9, epoch, seed) for seed in range(2000)])
    places = np.array([np.bincount(column, minlength=10) for column in drawn.T])
    assert ((places - 200) ** 2 / 200).sum() < 139  # p = 1e-3 at 89 degrees of freedom, at least
    left_out = 2000 - places.sum(0)
    assert ((left_out - 200) ** 2 / 200).sum() < 27.9  # p = 1e-3 at 9


# The sampler


@pytest.mark.parametrize("world", [1, 2, 3])
def test_ranks_share_an_epoch(world):
    """Ranks deal the rows of the function out among them, and fill the last round up when asked to."""
    for uneven, each in (("drop", 29 // world), ("repeat", -(-29 // world))):
        options = {"seed": 4, "num_replicas": world, "uneven": uneven}
        shards = [RepeatedRandomSampler(97, 0.3, rank=rank, **options) for rank in range(world)]
        dealt = []
        for shard in shards:
            shard.set_epoch(7)
            assert len(shard) == each
            dealt.append(list(shard))
        rows = [row for round_ in zip(*dealt, strict=True) for row in round_]
        assert rows[:29] == rs2_indices(97, 0.3, 7, 4).tolist()[: len(rows)]
        assert shards[0].steps(8, 10) == 10 * math.ceil(each / 8)
        assert shards[0].steps(8, 10, drop_last=True) == 10 * (each // 8)


def test_iterating_twice_consumes_nothing():
    """A trainer that looks at the first batch before it trains gets the same epoch, and the next one is as it was."""
    sampler = RepeatedRandomSampler(20, 0.25)
    next(iter(sampler))
    first = list(sampler)
    assert first == list(sampler) == rs2_indices(20, 0.25, 0).tolist()
    sampler.set_epoch(1)
    assert list(sampler) == rs2_indices(20, 0.25, 1).tolist()


def test_what_is_drawn_from():
    """A number, a data set, a list of rows, arrays and tensors of rows, and a sampler; order does not matter."""
    rows = [12, 3, 44, 7, 9, 21, 5, 8]
    expected = list(RepeatedRandomSampler(rows, 0.5, seed=1))
    assert len(expected) == 4 and set(expected) < set(rows)
    same = [rows[::-1], tuple(rows), np.array(rows), torch.tensor(rows), SubsetRandomSampler(rows)]
    assert all(list(RepeatedRandomSampler(source, 0.5, seed=1)) == expected for source in same)
    whole = rs2_indices(8, 0.5, 0, 1).tolist()
    data = [range(8), RandomSampler(range(8)), np.zeros((8, 2)), np.zeros(8), ["a"] * 8, TensorDataset(torch.ones(8))]
    assert all(list(RepeatedRandomSampler(source, 0.5, seed=1)) == whole for source in (8, *data))
    assert all(isinstance(row, int) for row in RepeatedRandomSampler(np.array(rows), 0.5))


def test_reading_a_sampler_moves_no_global_generator():
    """torch's RandomSampler draws its order from the global generator, which stands afterwards where it stood."""
    before = torch.get_rng_state()
    RepeatedRandomSampler(RandomSampler(range(50)))
    assert torch.equal(torch.get_rng_state(), before)


def test_batches_of_a_batch_sampler():
    """Over a batch sampler an epoch is a fresh part of its batches, and all have come after a pass."""
    batches = BatchSampler(range(24), batch_size=3, drop_last=False)
    sampler = RepeatedRandomSampler(batches, 0.25)
    seen = []
    for epoch in range(4):
        sampler.set_epoch(epoch)
        assert len(sampler) == 2 == sampler.steps(1, 1)
        seen += [rows.tolist() for (rows,) in DataLoader(TensorDataset(torch.arange(24)), batch_sampler=sampler)]
    assert sorted(seen) == [[i, i + 1, i + 2] for i in range(0, 24, 3)]


def test_a_fixed_part():
    """The rows of one epoch with fraction 1 are a fixed part in an order of the epoch's own."""
    sampler = RepeatedRandomSampler(rs2_indices(50, 0.2, 0), 1.0)
    first = list(sampler)
    sampler.set_epoch(1)
    assert first != list(sampler) and sorted(first) == sorted(sampler) == sorted(rs2_indices(50, 0.2, 0).tolist())


def test_steps_are_those_of_the_loader():
    """The steps that the scheduler is told of are those that a loader takes."""
    sampler = RepeatedRandomSampler(1297, 0.1)
    for drop_last in (False, True):
        loader = DataLoader(range(1297), batch_size=32, sampler=sampler, drop_last=drop_last)
        taken = 0
        for epoch in range(3):
            sampler.set_epoch(epoch)
            taken += sum(1 for _ in loader)
        assert taken == sampler.steps(32, 3, drop_last=drop_last) == 3 * len(loader)


def test_resuming():
    """A state from the middle of an epoch brings back its rest, on another number of ranks too; a state of other data
    or another way is refused and changes nothing."""
    sampler = RepeatedRandomSampler(40, 0.5, seed=2)
    sampler.set_epoch(3)
    running = iter(sampler)
    taken = [next(running) for _ in range(6)]
    state = pickle.loads(pickle.dumps(sampler.state_dict()))
    ranks = [RepeatedRandomSampler(40, 0.5, seed=2, rank=rank, num_replicas=2) for rank in range(2)]
    for one in ranks:
        one.load_state_dict(state)
    left = [row for pair in zip(*ranks, strict=True) for row in pair]
    assert taken + left == rs2_indices(40, 0.5, 3, 2).tolist() and left == list(running)
    # 0.5 of 40 and 0.49 of 41 are 20 rows each.
    other = RepeatedRandomSampler(41, 0.49)
    with pytest.raises(ValueError, match="drawn_from was 40 and is 41"):
        other.load_state_dict(state)
    assert list(other) == rs2_indices(41, 0.49, 0).tolist()
    with pytest.raises(ValueError, match="way was 'carry' and is 'drop'"):
        RepeatedRandomSampler(40, 0.5, boundary="drop").load_state_dict(state)


# The recorder


def test_worked_time_to_accuracy():
    """0.6 after 2 s, 0.9 after 4 s, 0.8 after 10 s: 0.7 is met after 4 s, and the area is (0.6 2 + 0.9 6) / 10."""
    run = TimeToAccuracy()
    for step, (seconds, metric) in enumerate([(2, 0.6), (4, 0.9), (10, 0.8)], start=1):
        run.log(step * 10, step * 320, seconds, metric)
    assert (run.time_to(0.6), run.time_to(0.7), run.time_to(0.95)) == (2, 4, math.inf)
    assert (run.time_to(0.9, by="steps"), run.time_to(0.9, by="samples")) == (20, 640)
    assert [run.metric_at(t) for t in (0, 1.9, 2, 5, 99)] == [0, 0, 0.6, 0.9, 0.8]
    assert run.metric_at(20, by="steps") == 0.9
    assert run.area() == pytest.approx((0.6 * 2 + 0.9 * 6) / 10)
    assert run.area(20) == pytest.approx((0.6 * 2 + 0.9 * 6 + 0.8 * 10) / 20)
    assert (run.area(1), run.area(2)) == (0, 0)
    assert run.area(by="steps") == pytest.approx((0.6 * 10 + 0.9 * 10) / 30)
    assert TimeToAccuracy().time_to(0.0) == math.inf and TimeToAccuracy().metric_at(5) == 0


@given(
    points=st.lists(st.tuples(st.integers(0, 5), st.floats(0, 1)), min_size=1, max_size=8),
    until=st.integers(1, 50),
)
@settings(max_examples=100, deadline=None)
def test_the_area_is_the_mean_of_the_curve(points, until):
    """On whole seconds the area is the plain mean of the metric at each, also where two measurements share one."""
    run, now = TimeToAccuracy(), 0
    for step, (pause, metric) in enumerate(points):
        now += pause
        run.log(step, step, now, metric)
    assert run.area(until) == pytest.approx(sum(run.metric_at(t) for t in range(until)) / until)


def late_log():
    run = TimeToAccuracy()
    run.log(10, 320, 2.0, 0.5)
    run.log(9, 640, 3.0, 0.5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: rs2_indices(10, 0.0, 0), r"fraction must lie in \(0, 1\]: got 0.0"),
        (lambda: rs2_indices(10, 1.1, 0), r"fraction must lie in \(0, 1\]: got 1.1"),
        (lambda: rs2_indices(10, math.nan, 0), r"fraction must lie in \(0, 1\]: got nan"),
        (lambda: rs2_indices(10, 0.05, 0), "fraction must leave at least one row: 0.05 of 10 rows is less"),
        (lambda: rs2_indices(0, 0.5, 0), "n must be at least 1: got 0"),
        (lambda: rs2_indices(-3, 0.5, 0), "n must be at least 1: got -3"),
        (lambda: rs2_indices(10, 0.5, -1), "epoch must be at least 0"),
        (lambda: rs2_indices(10, 0.5, 0, -1), "seed must be at least 0"),
        (lambda: rs2_indices(10, 0.5, 0, boundary="wrap"), "boundary must be one of 'carry', 'drop': got 'wrap'"),
        (lambda: RepeatedRandomSampler(10, 0.05), "fraction must leave at least one row"),
        (lambda: RepeatedRandomSampler(10, boundary="wrap"), "boundary must be one of 'carry', 'drop'"),
        (lambda: RepeatedRandomSampler([]), "data_source must hold at least one row: it has none"),
        (lambda: RepeatedRandomSampler(10, 0.2, num_replicas=3), "for every rank: 2 of 10 items, 3 ranks; take a larg"),
        (lambda: RepeatedRandomSampler(10, 0.2, seed=-1), "seed must be a non-negative integer"),
        (lambda: RepeatedRandomSampler(10, 0.2).steps(0, 1), "batch_size must be at least 1"),
        (lambda: RepeatedRandomSampler(10, 0.2).steps(1, -1), "epochs must be at least 0"),
        (lambda: TimeToAccuracy().log(1, 1, 1.0, math.nan), "metric must be finite and not negative: got nan"),
        (lambda: TimeToAccuracy().log(1, 1, 1.0, -0.5), "metric must be finite and not negative: got -0.5"),
        (lambda: TimeToAccuracy().log(1, 1, math.inf, 0.5), "seconds must be finite and not fall: got inf after 0.0"),
        (late_log, "steps must be finite and not fall: got 9 after 10.0"),
        (lambda: TimeToAccuracy().time_to(0.5, by="hours"), "by must be one of 'seconds', 'steps', 'samples'"),
        (lambda: TimeToAccuracy().area(), "until must be positive: got 0.0"),
    ],
)
def test_bad_input(call, message):
    """What cannot be is answered in one line."""
    with pytest.raises(ValueError, match=message):
        call()


def test_a_source_without_a_length():
    """An iterator is no data source."""
    with pytest.raises(TypeError, match="data_source must be a number of rows, .*: got list_iterator"):
        RepeatedRandomSampler(iter([1, 2]))
