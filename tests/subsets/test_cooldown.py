"""Cooldown: worked probabilities and weights, equal means and the variance gap by enumeration, schedules, the switch,
and a sampler against a plain walk through the domains."""

from __future__ import annotations

import itertools
import json
import math
import pickle
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from tamis.randomness import child_seed
from tamis.subsets import (
    Cooldown,
    CooldownSwitch,
    TemperatureSampler,
    gradient_variance_gap,
    scalarization_weights,
    temperature_probs,
    unimax_probs,
)
from tests.behaviour import ArrayCase, SamplerCase

SIZES = [60, 25, 5]
KINDS = ("step", "linear", "cosine", "exponential")


def make(seed: int) -> list:
    """The sampler at one temperature, cooling, and with temperatures set by hand; probabilities and weights."""
    sizes = np.random.default_rng(seed).integers(1, 1000, 6).astype(np.float64)

    def build(**options):
        def one(seed, rank, world):
            return TemperatureSampler(SIZES, 50, seed=seed, rank=rank, num_replicas=world, **options)

        return one

    def changed(seed, rank, world):
        sampler = build(temperature=5.0)(seed, rank, world)
        for step, temperature in ((10, 2.0), (130, 1.0)):
            sampler.set_step(step)
            sampler.set_temperature(temperature)
        sampler.set_step(0)
        return sampler

    return [
        SamplerCase("warm", build(temperature=5.0)),
        SamplerCase("cooling", build(temperature=Cooldown(kind="cosine", at=0.8), num_epochs=4, batch_size=8)),
        SamplerCase("unimax", build(probabilities=unimax_probs(SIZES, 100, max_epochs=3))),
        SamplerCase("set by hand", changed),
        ArrayCase(
            "probs", lambda _, x: temperature_probs(x, 3), (sizes,), lambda: temperature_probs([], 3), torch_too=True
        ),
        ArrayCase(
            "weights", lambda _, x: scalarization_weights(x, 3), (sizes,), lambda: scalarization_weights([], 3),
            torch_too=True,
        ),
        ArrayCase(
            "unimax", lambda _, x: unimax_probs(x, 50, max_epochs=1), (sizes,),
            lambda: unimax_probs([], 5, max_epochs=1), torch_too=True,
        ),
    ]  # fmt: skip


# Probabilities and weights


@pytest.mark.parametrize(
    ("sizes", "temperature", "expected"),
    [
        ([900, 100], 1, [0.9, 0.1]),
        ([900, 100], 2, [0.75, 0.25]),
        ([900, 100], 5, [0.608127, 0.391873]),
        ([1e6, 1e4, 1e2], 5, [0.642427, 0.255755, 0.101818]),
        ([1e6, 1e4, 1e2], 100, [0.348796, 0.333098, 0.318106]),
        ([1e6, 1e4, 1e2], math.inf, [1 / 3] * 3),
        ([1e6, 1e4, 1e4], 1e-310, [1, 0, 0]),
    ],
)
def test_worked_probabilities(sizes, temperature, expected):
    """Sizes to the power of one over the temperature, over their sum, from the largest domain alone to uniform."""
    assert temperature_probs(sizes, temperature) == pytest.approx(expected, abs=5e-7)


@pytest.mark.parametrize(
    ("temperature", "weights", "chi_square"),
    [(2, [0.833333, 2.5], 0.25), (5, [0.675696, 3.918732], 0.946555)],
)
def test_worked_weights(temperature, weights, chi_square):
    """Weights are the ratio of probabilities, and the gap for equal gradients is chi-square."""
    assert scalarization_weights([900, 100], temperature) == pytest.approx(weights, abs=5e-7)
    p, q = (temperature_probs([900, 100], t) for t in (temperature, 1))
    assert gradient_variance_gap(p, q, [1, 1]) == pytest.approx(chi_square, abs=5e-7)
    assert gradient_variance_gap(p, q, [4, 4]) == pytest.approx(4 * chi_square, abs=2e-6)
    assert (p**2 / q).sum() - 1 == pytest.approx(chi_square, abs=5e-7)


@given(
    sizes=st.lists(st.integers(1, 10**6), min_size=1, max_size=6),
    temperature=st.floats(0.3, 50),
    scale=st.floats(1e-3, 1e9),
)
@settings(max_examples=100, deadline=None)
def test_probabilities_do_not_depend_on_the_scale(sizes, temperature, scale):
    """Sizes times a constant give the same probabilities, which are those of the plain formula; weights average to 1
    over proportional draws, and are 1 at temperature 1."""
    probs = temperature_probs(sizes, temperature)
    powers = [size ** (1 / temperature) for size in sizes]
    assert probs == pytest.approx([power / math.fsum(powers) for power in powers], rel=1e-9)
    assert temperature_probs([size * scale for size in sizes], temperature) == pytest.approx(probs, rel=1e-9)
    assert temperature_probs(sizes, 1.0) @ scalarization_weights(sizes, temperature) == pytest.approx(1)
    assert scalarization_weights(sizes, 1.0) == pytest.approx([1.0] * len(sizes))


def test_large_sizes():
    """Sizes of 10 to the 15 and far beyond neither overflow nor warn."""
    assert temperature_probs([1e15, 1e15], 0.01).tolist() == [0.5, 0.5]
    assert temperature_probs([10**15, 10**3], 3) == pytest.approx([1e4 / (1e4 + 1), 1 / (1e4 + 1)])
    assert temperature_probs([1e300, 1e-300], 1.0).tolist() == [1.0, 0.0]


def test_means_are_equal_and_variances_differ_by_the_gap():
    """Two domains of three gradients, enumerated: drawing and weighing have one mean, and the gap between their
    variances is the formula; for any way of drawing that is weighed back too."""
    gradients = np.random.default_rng(0).standard_normal((2, 3, 4)) * np.array([1.0, 3.0])[:, None, None]
    moments = (gradients**2).sum(2).mean(1)
    target = temperature_probs([900, 100], 5)
    for drawn in (temperature_probs([900, 100], 1), np.array([0.3, 0.7]), target):
        weights = scalarization_weights([900, 100], 5, drawn=drawn)
        means, variances = [], []
        for rates, weight in ((target, np.ones(2)), (drawn, weights)):
            found = [
                (rates[i] / 3, weight[i] * gradients[i, j]) for i, j in itertools.product(range(2), range(3))
            ]  # fmt: skip
            mean = sum(rate * g for rate, g in found)
            means.append(mean)
            variances.append(sum(rate * ((g - mean) ** 2).sum() for rate, g in found))
        assert means[0] == pytest.approx(means[1], abs=1e-12)
        assert variances[1] - variances[0] == pytest.approx(gradient_variance_gap(target, drawn, moments), abs=1e-12)
    assert gradient_variance_gap(target, [0.3, 0.7], moments) < 0  # more of the large gradients is less variance


@given(
    p=st.lists(st.floats(0.01, 1), min_size=2, max_size=6), seed=st.integers(0, 99)
)  # fmt: skip
@settings(max_examples=80, deadline=None)
def test_equal_gradients_never_gain_by_weighing(p, seed):
    """For equal second moments the gap is never negative, and zero when nothing is weighed."""
    target = np.array(p) / sum(p)
    drawn = np.random.default_rng(seed).dirichlet(np.ones(len(p))) + 0.01
    drawn /= drawn.sum()
    assert gradient_variance_gap(target, drawn, np.ones(len(p))) >= -1e-12
    assert gradient_variance_gap(target, target, np.ones(len(p))) == pytest.approx(0, abs=1e-12)


def test_a_domain_that_does_not_count_is_not_asked_for():
    """A domain of target 0 adds nothing, whether it is drawn or not."""
    for q in ([0.5, 0.5, 0.0], [0.25, 0.25, 0.5]):
        rest = np.array(q[:2])
        expected = 0.25 / rest[0] + 0.25 / rest[1] - 1
        assert gradient_variance_gap([0.5, 0.5, 0.0], q, [1, 1, 9]) == pytest.approx(expected)


@given(
    sizes=st.lists(st.integers(1, 1000), min_size=1, max_size=8), cap=st.floats(0.5, 5), share=st.floats(0.01, 1)
)  # fmt: skip
@settings(max_examples=100, deadline=None)
def test_unimax_equals_the_plain_loop(sizes, cap, share):
    """In ascending order each domain gets an equal share of what is left, or its cap."""
    budget = share * cap * sum(sizes)
    left, given = budget, [0.0] * len(sizes)
    for done, i in enumerate(sorted(range(len(sizes)), key=lambda i: sizes[i])):
        given[i] = min(left / (len(sizes) - done), cap * sizes[i])
        left -= given[i]
    expected = [amount / budget for amount in given]
    assert unimax_probs(sizes, budget, max_epochs=cap) == pytest.approx(expected, rel=1e-6, abs=1e-9)


# Schedules and the switch


def test_worked_schedules():
    """The step at 0.3 of ten is 5 in steps 0, 1, 2 and 1 from then on; half way the others are where they should be."""
    assert [Cooldown()(t, 10) for t in range(10)] == [5.0] * 3 + [1.0] * 7
    assert [Cooldown(at=0.1)(t, 30) for t in (2, 3)] == [5.0, 1.0]  # 0.1 * 30 is above 3 as it is computed
    half = {kind: Cooldown(5, 1, 0.5, kind)(25, 100) for kind in KINDS}
    assert half == pytest.approx({"step": 5, "linear": 3, "cosine": 3, "exponential": math.sqrt(5)})
    quarter = Cooldown(5, 1, 1.0, "cosine")(1, 4)
    assert quarter == pytest.approx(3 + math.sqrt(2))
    assert Cooldown(math.inf, 1.0)(0, 10) == math.inf
    assert Cooldown(at=0.0)(0, 10) == 1.0 and Cooldown(at=1.0)(9, 10) == 5.0
    assert isinstance(Cooldown()(3, 10), float)


@given(
    kind=st.sampled_from(KINDS), at=st.floats(0, 1), start=st.floats(1, 50), end=st.floats(0.1, 1),
    steps=st.integers(1, 200),
)  # fmt: skip
@settings(max_examples=100, deadline=None)
def test_schedules_fall(kind, at, start, end, steps):
    """No temperature rises or leaves the range; from the share on it is the end; arrays give what numbers give."""
    schedule = Cooldown(start, end, at, kind)
    found = schedule(np.arange(steps + 1), steps)
    assert (np.diff(found) <= 1e-9).all() and found.max() <= start * (1 + 1e-12) and found[-1] == end
    assert found.tolist() == pytest.approx([schedule(t, steps) for t in range(steps + 1)], rel=1e-12)
    assert (found[np.arange(steps + 1) >= at * steps] == end).all()
    if at * steps > 1e-3:
        assert found[0] == pytest.approx(start)


def test_the_switch_cools_when_the_loss_has_risen():
    """Three checks in a row above the lowest cool, one that meets it begins anew; then nothing matters any more."""
    switch = CooldownSwitch(patience=3)
    temperatures = []
    for loss in (0.6, 0.4, 0.5, 0.45, 0.4, 0.41, math.nan, 0.42, 0.1):
        switch.tell(loss)
        temperatures.append(switch.ask())
    assert temperatures == [5.0] * 7 + [1.0] * 2
    assert (switch.reason, switch.told) == ("loss", 8)


def test_the_switch_cools_when_a_domain_is_worn():
    """More passes than the cap cool at once; as many do not."""
    switch = CooldownSwitch(start=9.0, end=2.0, max_epochs=4.0)
    switch.tell(0.5, epochs_seen=4.0)
    assert switch.ask() == 9.0
    switch.tell(0.4, epochs_seen=4.1)
    assert (switch.ask(), switch.reason) == (2.0, "epochs")
    forever = CooldownSwitch(max_epochs=math.inf)
    forever.tell(0.5, epochs_seen=1e9)
    assert forever.ask() == 5.0


@given(losses=st.lists(st.floats(0, 1, width=16), max_size=12), cut=st.integers(0, 12), patience=st.integers(1, 4))
@settings(max_examples=100, deadline=None)
def test_the_switch_resumes(losses, cut, patience):
    """A switch brought back between checks goes on as if nothing had been, and cools at the first check that has
    ``patience`` losses in a row above the lowest before."""
    whole, first, second = (CooldownSwitch(patience=patience) for _ in range(3))
    for loss in losses:
        whole.tell(loss)
    for loss in losses[:cut]:
        first.tell(loss)
    second.load_state_dict(pickle.loads(pickle.dumps(first.state_dict())))
    for loss in losses[cut:]:
        second.tell(loss)
    assert second.state_dict() == whole.state_dict()
    ends = (
        t
        for t in range(patience, len(losses))
        if all(losses[s] > min(losses[: t - patience + 1]) for s in range(t - patience + 1, t + 1))
    )
    end = next(ends, None)
    assert (whole.reason, whole.told) == (("", len(losses)) if end is None else ("loss", end + 1))


# The sampler


def slow_rows(sizes, count, temperature_at, seed, epoch_rows):
    """Rows by drawing one domain after another and walking through its passes, from the first epoch on."""
    starts = [sum(sizes[:i]) for i in range(len(sizes))]

    def stream(domain):
        for number in itertools.count():
            rng = np.random.default_rng(child_seed(seed, "stream", domain, number))
            if sizes[domain] > 2048:  # fewer rows than half of 4096 are shuffled for many passes at once
                yield from (starts[domain] + rng.permutation(sizes[domain])).tolist()
            else:
                many = np.tile(np.arange(sizes[domain]), (4096 // sizes[domain], 1))
                yield from (starts[domain] + rng.permuted(many, axis=1)).ravel().tolist()

    streams = [stream(i) for i in range(len(sizes))]
    rows = []
    for draw in range(count):
        if draw % epoch_rows == 0:
            luck = np.random.default_rng(child_seed(seed, "cooldown", draw // epoch_rows)).random(epoch_rows).tolist()
        powers = [size ** (1 / temperature_at(draw)) for size in sizes]
        bar, domain = powers[0], 0
        while luck[draw % epoch_rows] * sum(powers) >= bar and domain < len(sizes) - 1:
            domain += 1
            bar += powers[domain]
        rows.append(next(streams[domain]))
    return rows


@given(
    sizes=st.lists(st.integers(1, 40) | st.just(3000), min_size=1, max_size=4),
    epoch_rows=st.integers(1, 60),
    batch_size=st.integers(1, 20),
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 99),
)
@settings(max_examples=40, deadline=None)
def test_epochs_equal_the_plain_walk(sizes, epoch_rows, batch_size, kind, seed):
    """All epochs, in any order, are those of drawing row by row with the temperature of the row's step."""
    schedule = Cooldown(5.0, 1.0, 0.6, kind)
    options = {"temperature": schedule, "num_epochs": 3, "batch_size": batch_size, "seed": seed}
    steps = math.ceil(epoch_rows / batch_size)

    def temperature_at(draw):
        epoch, place = divmod(draw, epoch_rows)
        return schedule(epoch * steps + place // batch_size, 3 * steps)

    expected = slow_rows(sizes, 3 * epoch_rows, temperature_at, seed, epoch_rows)
    sampler = TemperatureSampler(sizes, epoch_rows, **options)
    for epoch in (2, 0, 1):
        sampler.set_epoch(epoch)
        assert list(sampler) == expected[epoch * epoch_rows : (epoch + 1) * epoch_rows]


@pytest.mark.parametrize("temperature", [1.0, 2.0, math.inf])
def test_domains_are_drawn_by_their_probability(temperature):
    """Over many draws domains come as often as they should, within chance."""
    sampler = TemperatureSampler(SIZES, 20_000, temperature=temperature)
    domains = np.searchsorted([60, 85], list(sampler), side="right")
    expected = 20_000 * temperature_probs(SIZES, temperature)
    assert ((np.bincount(domains) - expected) ** 2 / expected).sum() < 13.8  # p = 1e-3 at 2 degrees of freedom
    # Every draw is by itself: a domain follows itself as often as any other.
    follows = np.bincount(domains[1:][domains[:-1] == 2], minlength=3)
    expected = follows.sum() * temperature_probs(SIZES, temperature)
    assert ((follows - expected) ** 2 / expected).sum() < 13.8


def test_rows_of_a_domain_come_pass_after_pass():
    """Through all epochs every domain gives all its rows before one comes again, and its passes are counted."""
    sampler = TemperatureSampler([5000, 60, 7], 2500, temperature=3.0, num_epochs=4)
    streams = [[], [], []]
    for epoch in range(4):
        sampler.set_epoch(epoch)
        for row in sampler:
            streams[(row >= 5000) + (row >= 5060)].append(row)
        expected = [len(stream) / size for stream, size in zip(streams, (5000, 60, 7), strict=True)]
        assert sampler.epochs_seen_.tolist() == expected
    for stream, size in zip(streams, (5000, 60, 7), strict=True):
        for begin in range(0, len(stream), size):
            part = stream[begin : begin + size]
            assert len(set(part)) == len(part)
    assert streams[2][:7] != streams[2][7:14]
    assert expected[0] > 1 and expected[2] > 100


def test_passes_are_counted_row_by_row():
    """In the middle of an epoch the passes are those of the rows that were handed out, over all ranks."""
    for world in (1, 2):
        sampler = TemperatureSampler([20, 4], 30, temperature=4.0, num_replicas=world, rank=world - 1)
        plan = sampler.plan(0)
        for done, _ in enumerate(sampler, start=1):
            small = sum(row >= 20 for row in plan[: done * world])
            assert sampler.epochs_seen_.tolist() == [(done * world - small) / 20, small / 4]


def test_domains_by_row():
    """Rows may lie in any order, and the temperature may work on other sizes than rows (tokens, say)."""
    ids = np.array([1, 0, 1, 1, 0, 1, 2, 1])
    sampler = TemperatureSampler(None, 600, domain_ids=torch.from_numpy(ids), temperature=2.0)
    assert sampler.domain_rows.tolist() == [2, 5, 1]
    blocks = TemperatureSampler([2, 5, 1], 600, temperature=2.0)
    order = [1, 4, 0, 2, 3, 5, 7, 6]
    assert list(sampler) == [order[row] for row in blocks]
    tokens = TemperatureSampler([100, 100, 200], 8000, domain_ids=ids)
    found = np.bincount(ids[list(tokens)])
    assert ((found - np.array([2000, 2000, 4000])) ** 2 / np.array([2000, 2000, 4000])).sum() < 13.8


def test_given_probabilities():
    """UniMax's probabilities are drawn with until a temperature is set; a domain of probability 0 never comes."""
    probs = unimax_probs(SIZES, 200, max_epochs=4)
    sampler = TemperatureSampler(SIZES, 20_000, probabilities=probs)
    found = np.bincount(np.searchsorted([60, 85], list(sampler), side="right"))
    assert ((found - 20_000 * probs) ** 2 / (20_000 * probs)).sum() < 13.8
    assert sampler.temperature is None
    sampler.set_epoch(1)
    sampler.set_temperature(1.0)
    assert sampler.temperature == 1.0
    assert set(TemperatureSampler(SIZES, 500, probabilities=[0.0, 1.0, 0.0])) == set(range(60, 85))


def test_going_to_a_step():
    """The rows after a step are those that a run from the start has from there on."""
    options = {"temperature": Cooldown(), "num_epochs": 3, "batch_size": 8}
    running = TemperatureSampler(SIZES, 50, **options)
    assert running.steps == 3 * 7
    batches = []
    for epoch in range(3):
        running.set_epoch(epoch)
        rows = list(running)
        batches += [rows[i : i + 8] for i in range(0, 50, 8)]
    for step in (0, 3, 7, 13, 20):
        sampler = TemperatureSampler(SIZES, 50, **options)
        sampler.set_step(step)
        end = step // 7 * 7 + 7
        assert len(sampler) == len(list(itertools.chain(*batches[step:end])))
        assert list(sampler) == list(itertools.chain(*batches[step:end]))
        assert sampler.temperature == (5.0 if end < 0.3 * 21 else 1.0)


def test_a_temperature_set_in_the_middle():
    """It holds from the next row on, in the iteration that runs; rows before it stay, all ranks agree, and the epoch
    comes again as it was."""
    options = {"temperature": 50.0, "seed": 3}
    plain = TemperatureSampler([90, 10], 400, **options)
    warm = plain.plan(0)
    ranks = [TemperatureSampler([90, 10], 400, rank=r, num_replicas=2, **options) for r in range(2)]
    running = [iter(sampler) for sampler in ranks]
    dealt = [[next(run) for run in running] for _ in range(100)]
    for sampler in ranks:
        assert sampler.temperature == 50.0
        sampler.set_temperature(0.2)
        sampler.set_temperature(0.2)
    dealt += list(zip(*running, strict=True))
    rows = [row for round_ in dealt for row in round_]
    assert rows[:200] == warm[:200] and sum(row >= 90 for row in warm[200:]) > 50
    assert all(row < 90 for row in rows[200:])  # (90 / 10) ** 5 to one
    assert [row for pair in zip(*ranks, strict=True) for row in pair] == rows
    assert ranks[0].state_dict()["changes"] == [(200, 0.2)]
    small = sum(row >= 90 for row in rows)
    assert ranks[0].epochs_seen_.tolist() == [(400 - small) / 90, small / 10]


def test_resuming_after_a_temperature_was_set():
    """A state brings back the temperatures that were set, the rest of the epoch, the passes and the next epoch."""
    options = {"temperature": Cooldown(at=0.9), "num_epochs": 3}
    sampler = TemperatureSampler([90, 10], 60, **options)
    sampler.set_epoch(1)
    running = iter(sampler)
    for _ in range(20):
        next(running)
    sampler.set_temperature(1.5)
    state = json.loads(json.dumps(sampler.state_dict()))
    resumed = TemperatureSampler([90, 10], 60, **options)
    resumed.load_state_dict(state)
    assert resumed.temperature == 1.5 and np.array_equal(resumed.epochs_seen_, sampler.epochs_seen_)
    assert list(resumed) == list(running)
    for one in (sampler, resumed):
        one.set_epoch(2)
    assert list(resumed) == list(sampler) and np.array_equal(resumed.epochs_seen_, sampler.epochs_seen_)
    for one in (sampler, resumed):
        one.set_epoch(0)
    assert list(resumed) == list(sampler) == list(TemperatureSampler([90, 10], 60, **options))


def test_going_back_forgets_later_temperatures():
    """A temperature set at an earlier place takes the place of later ones, and counts made with those are dropped."""
    sampler = TemperatureSampler([90, 10], 50, temperature=5.0)
    sampler.set_step(120)
    sampler.set_temperature(0.5)
    sampler.plan(4)
    sampler.set_step(10)
    sampler.set_temperature(1.0)
    fresh = TemperatureSampler([90, 10], 50, temperature=5.0)
    fresh.set_step(10)
    fresh.set_temperature(1.0)
    assert [sampler.plan(e) for e in (4, 1, 0)] == [fresh.plan(e) for e in (4, 1, 0)]
    assert sampler.state_dict()["changes"] == [(10, 1.0)]


def test_a_temperature_set_between_epochs():
    """Set at the beginning of an epoch that is not planned yet, it leaves the epochs before as they were; set before
    an epoch that is planned already, it changes that one."""
    sampler = TemperatureSampler([90, 10], 50, temperature=5.0)
    first = list(sampler)
    sampler.set_epoch(1)
    second = list(sampler)
    sampler.set_epoch(2)
    sampler.set_temperature(0.2)
    assert all(row < 90 for row in sampler)
    for epoch, rows in ((1, second), (0, first)):
        sampler.set_epoch(epoch)
        assert list(sampler) == rows
    later = TemperatureSampler([90, 10], 50, temperature=5.0)
    later.set_epoch(1)
    assert list(later) == second
    later.set_epoch(0)
    later.set_temperature(0.2)
    later.set_epoch(1)
    assert all(row < 90 for row in later) and list(later) == later.plan(1) != later.plan(0)


def test_a_state_of_another_sampler_is_refused():
    """Other domains, another schedule or other steps are named, and nothing changes."""
    state = TemperatureSampler(SIZES, 50, temperature=Cooldown()).state_dict()
    for other, message in (
        (TemperatureSampler([60, 25, 6], 50, temperature=Cooldown()), "domain_sizes was .* and is"),
        (TemperatureSampler(SIZES, 50, temperature=Cooldown(at=0.5)), "temperature was .* and is"),
        (TemperatureSampler(SIZES, 50, temperature=Cooldown(), num_epochs=2), "num_epochs was 1 and is 2"),
        (TemperatureSampler(SIZES, 25, temperature=Cooldown(5, 1)), "saved for 50 batches .*, there are 25"),
    ):
        before = list(other)
        with pytest.raises(ValueError, match=message):
            other.load_state_dict(state)
        assert list(other) == before


def test_in_a_data_loader_with_the_switch():
    """A loader's batches cool in the middle of an epoch once the switch says so."""
    sampler = TemperatureSampler([1000, 10], 640, temperature=50.0)
    switch = CooldownSwitch(start=50.0, end=0.5, max_epochs=4.0)
    small = []
    for batch in DataLoader(range(1010), batch_size=16, sampler=sampler):
        small.append(int((batch >= 1000).sum()))
        switch.tell(0.5, epochs_seen=sampler.epochs_seen_[1])
        sampler.set_temperature(switch.ask())
    cooled = switch.told
    assert switch.reason == "epochs" and 3 <= cooled < 20
    assert 40 < sum(small[:cooled]) <= 40 + 16 and sum(small[cooled + 1 :]) == 0  # (1000 / 10) ** 2 to one


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: temperature_probs([5, 0], 2), "sizes must be positive: domain 1 has 0"),
        (lambda: temperature_probs([5, -1], 2), "sizes must not be negative: the lowest is -1"),
        (lambda: temperature_probs([5, math.nan], 2), "sizes must be finite"),
        (lambda: temperature_probs([[5, 1]], 2), r"sizes must hold one number per domain: got shape \(1, 2\)"),
        (lambda: temperature_probs([], 2), r"sizes must hold one number per domain: got shape \(0,\)"),
        (lambda: temperature_probs([5, 1], 0), "temperature must be positive: got 0"),
        (lambda: temperature_probs([5, 1], -1.0), "temperature must be positive: got -1.0"),
        (lambda: temperature_probs([5, 1], math.nan), "temperature must be positive: got nan"),
        (lambda: scalarization_weights([5, 1], 2, drawn=[1.0]), "drawn must have one entry per row of sizes"),
        (lambda: scalarization_weights([5, 1], 2, drawn=[0.5, 0.6]), "drawn must add up to 1: got 1.1"),
        (lambda: scalarization_weights([5, 1], 2, drawn=[1.0, 0.0]), "drawn must be positive: domain 1 has 0"),
        (lambda: gradient_variance_gap([0.5, 0.5], [1.0, 0.0], [1, 1]), "q must be positive wherever p_target is"),
        (lambda: gradient_variance_gap([0.5, 0.6], [0.5, 0.5], [1, 1]), "p_target must add up to 1: got 1.1"),
        (lambda: gradient_variance_gap([0.5, 0.5], [0.5, 0.5], [1, -1]), "second_moments must not be negative"),
        (lambda: gradient_variance_gap([0.5, 0.5], [0.5, 0.5], [1]), "second_moments must have one entry per row of"),
        (lambda: unimax_probs([5, 1], 13, max_epochs=2), "budget must be at most max_epochs passes .*, 12: got 13"),
        (lambda: unimax_probs([5, 1], 0, max_epochs=2), "budget must be positive"),
        (lambda: unimax_probs([5, 1], 5, max_epochs=0), "max_epochs must be positive"),
        (lambda: Cooldown(1.0, 5.0), "start must be at least end, 5.0, to cool down: got 1.0"),
        (lambda: Cooldown(5.0, 0.0), "end must be positive: got 0.0"),
        (lambda: Cooldown(at=1.1), "at must lie between 0 and 1"),
        (lambda: Cooldown(kind="stepp"), "kind must be one of 'step', 'linear', 'cosine', 'exponential'"),
        (lambda: Cooldown(math.inf, kind="linear"), "start must be finite to fall linear"),
        (lambda: Cooldown()(0, 0), "steps must be at least 1"),
        (lambda: Cooldown()(-1, 5), "step must not be negative: got -1"),
        (lambda: CooldownSwitch(start=0.5), "start must be at least end"),
        (lambda: CooldownSwitch(patience=0), "patience must be at least 1"),
        (lambda: CooldownSwitch(max_epochs=0), "max_epochs must be positive"),
        (lambda: CooldownSwitch().tell(0.5, epochs_seen=-1), "epochs_seen must be at least 0"),
        (lambda: TemperatureSampler(SIZES, 0), "num_samples must be at least 1"),
        (lambda: TemperatureSampler(SIZES, 5, num_epochs=0), "num_epochs must be at least 1"),
        (lambda: TemperatureSampler(SIZES, 5, batch_size=0), "batch_size must be at least 1"),
        (lambda: TemperatureSampler(SIZES, 5, temperature=0), "temperature must be positive"),
        (lambda: TemperatureSampler([5, 0], 5), "sizes must be positive: domain 1 has 0"),
        (lambda: TemperatureSampler([5, 1.5], 5), "domain_sizes must be whole numbers of rows: give domain_ids beside"),
        (lambda: TemperatureSampler(None, 5), "domain_sizes or domain_ids must be given"),
        (lambda: TemperatureSampler(None, 5, domain_ids=[]), r"domain_ids must be \(n,\) and not empty"),
        (lambda: TemperatureSampler(None, 5, domain_ids=[0, -1]), "domain_ids must be 0 or more: the lowest is -1"),
        (lambda: TemperatureSampler(None, 5, domain_ids=[0, 2]), r"every domain a row: domain \[1\] has none"),
        (lambda: TemperatureSampler([1, 1], 5, domain_ids=[0, 2]), "below the 2 domains: the highest is 2"),
        (lambda: TemperatureSampler([1, 1], 5, domain_ids=[0, 0]), r"every domain a row: domain \[1\] has none"),
        (lambda: TemperatureSampler(SIZES, 5, probabilities=[0.5, 0.5]), "one for each of the 3 domains with sum 1"),
        (lambda: TemperatureSampler(SIZES, 5, probabilities=[0.5, 0.4, 0.2]), "with sum 1: got"),
        (lambda: TemperatureSampler(SIZES, 5).set_step(-1), "step must be at least 0"),
        (lambda: TemperatureSampler(SIZES, 5).set_temperature(0), "temperature must be positive"),
    ],
)
def test_bad_input(call, message):
    """What cannot be is answered in one line."""
    with pytest.raises(ValueError, match=message):
        call()


def test_ids_are_integers():
    """Ids that are no integers are refused."""
    with pytest.raises(TypeError, match="domain_ids must be integers: got float64"):
        TemperatureSampler(None, 5, domain_ids=np.array([0.0, 1.0]))


def test_every_draw_is_dealt():
    """Ranks that fill the last round up deal all rows of the plan, and its first ones again."""
    options = {"num_replicas": 3, "uneven": "repeat", "temperature": 2.0}
    ranks = [TemperatureSampler(SIZES, 50, rank=rank, **options) for rank in range(3)]
    plan = ranks[0].plan(0)
    assert Counter(row for rank in ranks for row in rank) == Counter([*plan, plan[0]])
