"""Moving averages per block as logarithms: the recursion, blocks left alone, and no number too large."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.indexed_ema import IndexedEMA


def logs(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64).log()


def test_worked_numbers():
    """u=2, g=3, gamma=.5: the average is 2.5, log 2.5 = .916291, and STORM with an old value of 2.5 gives 2.75."""
    plain, storm = IndexedEMA(gamma=0.5), IndexedEMA(gamma=0.5, estimator="storm")
    for average in (plain, storm):
        average.update(logs(2))
    assert plain.update(logs(3)).item() == pytest.approx(0.916291, abs=1e-6)
    assert storm.update(logs(3), previous=logs(2.5)).exp().item() == pytest.approx(2.75, abs=1e-6)


@pytest.mark.parametrize("estimator", ["ema", "storm"])
def test_it_is_the_recursion_in_loops(estimator):
    """Blocks with rows follow the recursion on the mean of their rows; others stay where they were."""
    rng = torch.Generator().manual_seed(0)
    average, u = IndexedEMA(5, 0.3, estimator=estimator), [None] * 5
    for _ in range(20):
        index = torch.randint(0, 5, (4,), generator=rng)
        new, old = (torch.rand(4, generator=rng, dtype=torch.float64) + 0.5 for _ in range(2))
        found = average.update(new.log(), index, previous=old.log())
        for block in set(index.tolist()):
            rows = [i for i in range(4) if index[i] == block]
            g, before = (sum(x[i].item() for i in rows) / len(rows) for x in (new, old))
            if u[block] is None:
                u[block] = g
            elif estimator == "ema":
                u[block] = 0.7 * u[block] + 0.3 * g
            else:
                u[block] = max(0.7 * (u[block] - before) + g, 1e-3 * (0.7 * u[block] + 0.3 * g))
        for row, block in enumerate(index.tolist()):
            assert found[row].exp().item() == pytest.approx(u[block], rel=1e-5)
    expected = torch.tensor([-math.inf if x is None else math.log(x) for x in u])
    assert torch.allclose(average.log_u, expected, atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-300, 300), min_size=1, max_size=8), st.floats(0.01, 1), st.floats(-2000, 2000))
def test_a_shift_of_all_logarithms_shifts_the_average(values, gamma, shift):
    """The average is linear: multiplying every value by a constant multiplies it, however large the constant."""
    plain, moved = IndexedEMA(gamma=gamma), IndexedEMA(gamma=gamma)
    for value in torch.tensor(values, dtype=torch.float64):
        one, two = plain.update(value[None]), moved.update(value[None] + shift)
    assert two.item() - one.item() == pytest.approx(shift, abs=0.01)


def test_storm_never_turns_negative():
    """Where the recursion would go below zero, the floor holds it and counts."""
    average = IndexedEMA(gamma=0.1, estimator="storm", floor=1e-3)
    average.update(logs(1))
    found = average.update(logs(0.1), previous=logs(5))
    assert found.exp().item() == pytest.approx(1e-3 * (0.9 + 0.01))
    assert average.floored == 1


def test_it_is_saved_and_loaded():
    """The averages travel in the state_dict."""
    one, two = IndexedEMA(3), IndexedEMA(3)
    one.update(logs(2, 3), torch.tensor([0, 2]))
    two.load_state_dict(one.state_dict())
    assert torch.equal(two.log_u, one.log_u)
    assert two.read(torch.tensor([1, 2])).tolist() == [-math.inf, pytest.approx(math.log(3))]


def test_no_rows_move_nothing():
    """An empty batch is no news."""
    average = IndexedEMA(2)
    assert len(average.update(torch.zeros(0), torch.zeros(0, dtype=torch.int64))) == 0
    assert bool(average.log_u.isneginf().all())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: IndexedEMA(gamma=0.0), r"gamma must lie in \(0, 1\]"),
        (lambda: IndexedEMA(gamma=1.5), r"gamma must lie in \(0, 1\]"),
        (lambda: IndexedEMA(0), "num_blocks must be at least 1"),
        (lambda: IndexedEMA(floor=0.0), "floor must lie"),
        (lambda: IndexedEMA(estimator="sgd"), "estimator must be one of"),
        (lambda: IndexedEMA(2).update(torch.zeros(1)), "index must say which of the 2 blocks"),
        (lambda: IndexedEMA(2).update(torch.zeros(1), torch.tensor([2])), r"index must lie in 0\.\.1"),
        (lambda: IndexedEMA(2).update(torch.zeros(2), torch.tensor([1])), r"index must be \(2,\) int64"),
        (lambda: IndexedEMA().update(torch.zeros(1, 1)), r"log_values must be \(b,\)"),
        (lambda: IndexedEMA().update(torch.tensor([torch.nan])), "log_values must hold no NaN"),
    ],
)
def test_bad_input(call, message):
    """Bad arguments are answered with what they must be."""
    with pytest.raises(ValueError, match=message):
        call()


def test_storm_wants_old_values():
    """Once a block has a value, STORM cannot do without those under the old parameters."""
    average = IndexedEMA(estimator="storm")
    average.update(torch.zeros(1))
    with pytest.raises(ValueError, match="previous must be given"):
        average.update(torch.zeros(1))
