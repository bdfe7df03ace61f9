"""The k best by guessed floors: exact whether the guess holds or not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis import best_pairs as module
from tamis.best_pairs import best_pairs
from tamis.ranked_keys import NOTHING, columns_of, scores_of
from tamis.scan import stand_in

SMALL = 40_000  # bytes: several blocks of a few hundred passages


def normal(rows: int, columns: int, seed: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32))


def best(queries, passages, k, **options) -> torch.Tensor:
    keys = torch.full((len(queries), k), NOTHING)
    for _ in best_pairs(queries, passages, keys, max_memory=SMALL, **options):
        pass
    assert not bool(scores_of(keys).isnan().any())
    return columns_of(keys)


def expected(queries, passages, k) -> torch.Tensor:
    return (queries.double() @ passages.double().T).topk(k, 1).indices


@pytest.fixture
def searches(monkeypatch) -> list[int]:
    """How many queries each scan was asked for."""
    sizes, scan = [], module.scan

    def spy(queries, *rest, **options):
        sizes.append(len(queries))
        return scan(queries, *rest, **options)

    monkeypatch.setattr(module, "scan", spy)
    return sizes


def test_stand_in_is_hardly_ever_too_high():
    """A fair sample should hold more of the best than the place says in under one of ten thousand draws."""
    rng = np.random.default_rng(0)
    for count, share in [(51, 1 / 14), (51, 0.5), (10, 0.05), (200, 0.9), (1, 0.1)]:
        held = rng.hypergeometric(count, 1_000_000 - count, int(share * 1_000_000), size=200_000)
        place = stand_in(count, share)
        assert 1 <= place <= count
        assert place == count or (held > place).mean() < 1e-4
    assert stand_in(7, 1.0) == 7


def test_a_guess_that_holds_costs_one_search(searches):
    """Passages in no particular order should be searched once, and exactly."""
    queries, passages = normal(40, 24, 1), normal(3000, 24, 2)
    assert torch.equal(best(queries, passages, 10, precision="bfloat16"), expected(queries, passages, 10))
    assert searches == [40]


def test_a_guess_that_fails_is_made_good(searches):
    """Where the first block holds all the best of some queries, those should be searched again, and only those."""
    queries, passages = normal(40, 24, 3), normal(3000, 24, 4)
    for period in range(4, 40):  # one of them is the number of blocks
        crafted = passages.clone()
        crafted[::period] = passages[::period] + 2 * queries[0]
        searches.clear()
        assert torch.equal(best(queries, crafted, 30, precision="bfloat16"), expected(queries, crafted, 30))
        if len(searches) > 1:
            break
    assert searches[0] == 40
    assert 1 <= searches[1] < 40


@given(
    seed=st.integers(0, 2**32 - 1),
    k=st.integers(1, 30),
    precision=st.sampled_from(["float32", "bfloat16", "int8"]),
    order=st.sampled_from(["as it comes", "sorted", "interleaved"]),
    barred=st.booleans(),
    capped=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_exact_in_any_order(seed, k, precision, order, barred, capped):
    """Sorted and interleaved passages, with pairs barred and scores capped, should give the k best all the same."""
    queries, passages = normal(9, 12, seed), normal(900, 12, seed + 1)
    if order != "as it comes":
        ranked = passages[(passages @ queries[0]).argsort(descending=True)]
        passages = ranked if order == "sorted" else ranked.view(30, 30, 12).transpose(0, 1).reshape(900, 12)
    scores = queries.double() @ passages.double().T
    columns = scores.topk(5, 1).indices.sort(1).values if barred else torch.empty(9, 0, dtype=torch.int64)
    scores.scatter_(1, columns, -torch.inf)
    ceiling = scores.sort(1, descending=True).values[:, 20].float() - 1e-3 if capped else None
    if ceiling is not None:
        scores[scores >= ceiling[:, None]] = -torch.inf
    indptr = torch.arange(10) * columns.shape[1]
    given_bars = (indptr, columns.flatten()) if barred else None
    found = best(queries, passages, k, precision=precision, barred=given_bars, ceiling=ceiling)
    assert torch.equal(found, scores.topk(k, 1).indices)
