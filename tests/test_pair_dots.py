"""Inner products of given pairs: one score for a pair, whichever way its rows lie and whatever stands around it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis import pair_dots
from tamis.pair_dots import dots


def normal(rows: int, columns: int, seed: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32))


def test_dots_of_mixed_formats():
    """Half-precision rows should be widened before they are multiplied."""
    queries, passages = normal(3, 9, 7), normal(4, 9, 8).half()
    rows, columns = torch.tensor([0, 2, 1]), torch.tensor([3, 3, 0])
    expected = (queries[rows].double() * passages[columns].double()).sum(1)
    torch.testing.assert_close(dots(queries, passages, rows, columns, block=2).double(), expected, rtol=1e-5, atol=1e-5)


@given(seed=st.integers(0, 2**32 - 1), columns=st.integers(1, 70), pairs=st.integers(0, 60))
@settings(max_examples=40, deadline=None)
def test_a_score_is_the_same_however_its_rows_lie(seed, columns, pairs):
    """Order of pairs, neighbours, strides and copies should not change one bit of a score."""
    generator = torch.Generator().manual_seed(seed)
    queries, passages = normal(7, columns, seed), normal(30, columns, seed + 1)
    rows = torch.randint(7, (pairs,), generator=generator).sort().values
    places = torch.randint(10, (pairs,), generator=generator)
    scores = dots(queries, passages[1::3], rows, places)
    torch.testing.assert_close(scores, (queries[rows] * passages[1::3][places]).sum(1), rtol=1e-4, atol=1e-4)
    order = torch.randperm(pairs, generator=generator)
    assert torch.equal(scores[order], dots(queries, passages[1::3], rows[order], places[order], block=3))
    assert torch.equal(scores, dots(queries, passages, rows, places * 3 + 1))
    wide = torch.cat([passages, passages], 1)[:, :columns]
    assert torch.equal(scores, dots(queries.flip(0), wide, 6 - rows, places * 3 + 1))
    for place in range(min(pairs, 3)):
        assert torch.equal(
            scores[place : place + 1], dots(queries, passages[1::3], rows[place : place + 1], places[place : place + 1])
        )


def test_pairs_may_repeat():
    """More pairs than there are places in the matrix should be scored, each as if it came alone."""
    queries, passages = normal(2, 11, 1), normal(3, 11, 2)
    rows, columns = torch.tensor([0, 1]).repeat_interleave(500), torch.arange(1000) % 3
    scores = dots(queries, passages, rows, columns)
    once = dots(queries, passages, torch.arange(2).repeat_interleave(3), torch.arange(3).repeat(2))
    assert torch.equal(scores, once[rows * 3 + columns])
    assert torch.equal(dots(queries, passages, rows[:500], columns[:500]), scores[:500])


@pytest.mark.parametrize("listed", [5, 16_384])
def test_pieces_do_not_show(monkeypatch, listed):
    """Pairs taken in many pieces should score as in one."""
    queries, passages = normal(6, 11, 1), normal(9, 11, 2)
    rows, columns = torch.arange(6).repeat_interleave(9), torch.arange(9).repeat(6)
    expected = dots(queries, passages, rows, columns)
    monkeypatch.setattr(pair_dots, "_LISTED", listed)
    assert torch.equal(dots(queries, passages, rows, columns), expected)


def test_without_the_sampled_product(monkeypatch):
    """A build of torch that lacks it should get the same scores to the last digits."""
    queries, passages = normal(6, 11, 1), normal(9, 11, 2).half()
    rows, columns = torch.arange(6).repeat_interleave(9), torch.arange(9).repeat(6)
    expected = dots(queries, passages, rows, columns)
    monkeypatch.setattr(pair_dots, "_samples", lambda: False)
    torch.testing.assert_close(dots(queries, passages, rows, columns, block=7), expected, rtol=1e-6, atol=1e-6)
