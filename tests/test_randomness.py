"""Randomness: one seed one result, nothing global touched, draws that follow their law."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tamis import randomness


def test_seeds_and_generators():
    """A seed gives the same stream each time; a generator is passed through; nonsense is refused."""
    assert randomness.as_generator(7).random() == randomness.as_generator(7).random()
    own = np.random.default_rng(1)
    assert randomness.as_generator(own) is own
    for bad in (-1, True, "x"):
        with pytest.raises(ValueError, match="seed must be a non-negative integer"):
            randomness.as_generator(bad)
    made = randomness.torch_generator(3)
    assert torch.equal(torch.rand(2, generator=made), torch.rand(2, generator=randomness.torch_generator(3)))
    assert randomness.torch_generator(made) is made
    with pytest.raises(ValueError, match=r"torch\.Generator"):
        randomness.torch_generator(-3)


def test_child_seeds_differ_by_every_name():
    """Parts of a run get seeds of their own."""
    seeds = {randomness.child_seed(s, *names) for s in (0, 1) for names in ((), ("a",), ("a", 1), ("a", 2), (1, "a"))}
    assert len(seeds) == 10


def test_global_generators_stay_untouched():
    """No draw moves NumPy's or torch's global state."""
    before = np.random.get_state()[1].copy(), torch.random.get_rng_state()  # noqa: NPY002
    randomness.gumbel_top_k(np.zeros((4, 5)), 2, seed=0)
    randomness.torch_generator(0)
    assert np.array_equal(before[0], np.random.get_state()[1])  # noqa: NPY002
    assert torch.equal(before[1], torch.random.get_rng_state())


def test_gumbel_top_k_follows_plackett_luce():
    """First draws have the softmax's frequencies, and so do second draws given the first."""
    weights = np.array([0.5, 0.3, 0.15, 0.05])
    drawn = randomness.gumbel_top_k(np.tile(np.log(weights), (40_000, 1)), 2, seed=0)
    assert np.bincount(drawn[:, 0], minlength=4) / 40_000 == pytest.approx(weights, abs=0.01)
    second = drawn[drawn[:, 0] == 0, 1]
    assert np.bincount(second, minlength=4)[1:] / len(second) == pytest.approx(weights[1:] / 0.5, abs=0.015)


def test_gumbel_top_k_runs_out():
    """Columns of weight zero are never drawn, and a row that runs out says -1."""
    drawn = randomness.gumbel_top_k(np.array([[0.0, -np.inf, 1.0], [-np.inf] * 3]), 3, seed=1)
    assert sorted(drawn[0].tolist()) == [-1, 0, 2]
    assert drawn[1].tolist() == [-1, -1, -1]
    with pytest.raises(ValueError, match="k must be at least 1"):
        randomness.gumbel_top_k(np.zeros((1, 2)), 0, seed=0)
    with pytest.raises(ValueError, match="two-dimensional"):
        randomness.gumbel_top_k(np.zeros(2), 1, seed=0)
