"""The bound on rounded products: rigorous for all data, and tight enough to be of use."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis import rounding
from tamis.rounding import float32_is_exact, is_converted, passage_blocks, query_tile

CPU = torch.device("cpu")


def pair_of(seed: int, q: int, n: int, d: int, shift: float, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    queries, passages = (rng.standard_normal((rows, d)) * scale + shift for rows in (q, n))
    passages *= np.exp(rng.normal(0, 1, (n, 1)))
    return torch.from_numpy(queries).float(), torch.from_numpy(passages).float()


def products(tile: rounding.QueryTile, block: rounding.PassageBlock) -> torch.Tensor:
    if tile.rounded.dtype == torch.int8:
        return (tile.rounded.double() @ block.rounded.double().T).int()
    return tile.rounded @ block.rounded.T


shapes = st.tuples(st.integers(1, 12), st.integers(1, 40), st.integers(1, 200))
formats = st.sampled_from([torch.float32, torch.bfloat16, torch.int8])


@given(
    st.integers(0, 2**32 - 1), shapes, st.sampled_from([0.0, 1.0, -30.0]), st.sampled_from([1.0, 1e-3, 1e4]), formats
)
@settings(max_examples=60, deadline=None)
def test_no_product_leaves_its_bound(seed, shape, shift, scale, dtype):
    """|score - shift - step product| should stay within error + ulp |product| for every pair, against float64."""
    queries, passages = pair_of(seed, *shape, shift, scale)
    for block in passage_blocks(passages, 16, dtype, CPU):
        tile = query_tile(queries, block)
        product = products(tile, block).double() * tile.step[:, None]
        score = queries.double() @ block.rows.double().T
        gap = (score - tile.shift.double()[:, None] - product).abs()
        assert bool((gap <= tile.error.double()[:, None] + tile.ulp * product.abs()).all())


def test_products_that_vanish_are_within_the_bound():
    """Products of vectors so short that bfloat16 rounds them to zero should still be bounded."""
    queries, passages = pair_of(0, 3, 5, 8, 0.0, 1e-22)
    (block,) = passage_blocks(passages, 5, torch.bfloat16, CPU)
    tile = query_tile(queries, block)
    assert bool((tile.rounded @ block.rounded.T == 0).all())
    assert bool((queries.double() @ passages.double().T != 0).all())
    assert bool((tile.error.double()[:, None] > (queries.double() @ passages.double().T).abs()).all())


@given(st.integers(0, 2**32 - 1), shapes, formats, st.floats(-5, 5))
@settings(max_examples=60, deadline=None)
def test_thresholds_are_on_the_safe_side(seed, shape, dtype, level):
    """``least`` should never cut a pair that reaches the score, ``sure`` never vouch for one that does not."""
    queries, passages = pair_of(seed, *shape, 0.5, 1.0)
    (block,) = passage_blocks(passages, len(passages), dtype, CPU)
    tile = query_tile(queries, block)
    product = products(tile, block)
    score = queries.double() @ passages.double().T
    bound = torch.full((len(queries),), level)
    reaches = score >= level
    assert bool((product >= tile.least(bound)[:, None])[reaches].all())
    assert not bool((product > tile.sure(bound)[:, None])[~reaches].any())
    worst, place = product.min(1)
    assert bool((tile.score(worst) <= score.gather(1, place[:, None])[:, 0]).all())


def test_bound_is_tight_enough_to_use():
    """For unit vectors of 384 dimensions the bfloat16 bound should be under 0.005, well inside the worst 0.0078."""
    queries, passages = (torch.nn.functional.normalize(rows) for rows in pair_of(0, 8, 2000, 384, 0.0, 1.0))
    (block,) = passage_blocks(passages, 2000, torch.bfloat16, CPU)
    assert float(query_tile(queries, block).error.max()) < 0.005


def test_centring_shrinks_the_bound():
    """Passages around a common direction should have the bound of what differs between them."""
    queries, passages = pair_of(1, 8, 500, 64, 0.0, 0.01)
    passages = passages + 1.0
    (block,) = passage_blocks(passages, 500, torch.bfloat16, CPU)
    uncentred = queries.norm(dim=1) * passages.norm(dim=1).max() * 2.0**-8
    assert bool((query_tile(queries, block).error < uncentred / 4).all())


def test_blocks_cover_the_passages_in_order():
    """Blocks should hold all rows once, as float32, whatever the format of the passages."""
    passages = torch.arange(14, dtype=torch.float16).reshape(7, 2)
    assert is_converted(passages, CPU) and not is_converted(passages.float(), CPU)
    rows = [(block.first, block.rows.clone()) for block in passage_blocks(passages, 3, torch.float32, CPU)]
    assert [first for first, _ in rows] == [0, 3, 6]
    assert torch.equal(torch.cat([part for _, part in rows]), passages.float())


def test_passages_are_not_written_to():
    """Centring should happen in a copy."""
    _, passages = pair_of(2, 1, 50, 8, 3.0, 1.0)
    before = passages.clone()
    for _ in passage_blocks(passages, 20, torch.bfloat16, CPU):
        pass
    assert torch.equal(passages, before)


def test_rounding_down_never_goes_up():
    """The nearest lower value should come back, exact values and infinities unchanged."""
    values = torch.tensor([1.0, 1.001, -1.001, 0.3, -0.3, math.inf, -math.inf])
    low = rounding._round_down(values, torch.bfloat16).float()
    assert bool((low <= values).all()) and low[0] == 1.0
    assert bool((values - low)[:5].max() < 0.01) and low[5] == math.inf and low[6] == -math.inf


def test_float32_probe_sees_rounded_factors(monkeypatch):
    """The probe should tell products that keep all bits from products of rounded factors."""
    assert float32_is_exact(CPU)
    product = torch.Tensor.__matmul__
    monkeypatch.setattr(torch.Tensor, "__matmul__", lambda a, b: product(a.bfloat16(), b.bfloat16()).float())
    assert not float32_is_exact(CPU)


@pytest.mark.parametrize("faster", [True, False])
def test_speed_probe_follows_the_clock(monkeypatch, faster):
    """bfloat16 should be taken where its products are much faster, on the processor only."""
    ticks = iter([i * step for step in (1.0, 0.2 if faster else 0.9) for i in range(8)])
    monkeypatch.setattr(rounding.time, "perf_counter", lambda: next(ticks))
    rounding.bfloat16_is_faster.cache_clear()
    assert rounding.bfloat16_is_faster("cpu") is faster
    assert rounding.bfloat16_is_faster("cuda") is False
    rounding.bfloat16_is_faster.cache_clear()


def test_integer_bound_is_tight_enough_to_use():
    """For unit vectors of 384 dimensions the int8 bound should be under 0.025, half a standard deviation of scores."""
    queries, passages = (torch.nn.functional.normalize(rows) for rows in pair_of(0, 8, 2000, 384, 0.0, 1.0))
    (block,) = passage_blocks(passages, 2000, torch.int8, CPU)
    assert float(query_tile(queries, block).error.max()) < 0.025


@pytest.mark.parametrize("columns", [1, 2, 3, 384])
def test_integer_products_are_exact(columns):
    """int8 products of the formats' own rows should be whole numbers, also of one column and of largest entries."""
    queries, passages = pair_of(3, 5, 9, columns, 0.0, 1.0)
    (block,) = passage_blocks(passages, 9, torch.int8, CPU)
    tile = query_tile(queries, block)
    assert torch.equal(rounding.integer_products(tile.rounded, block.rounded), products(tile, block))


def test_integer_probe_refuses_what_saturates(monkeypatch):
    """Where int8 products are missing or clipped, they should not be taken."""
    monkeypatch.setattr(rounding, "bfloat16_is_faster", lambda device: True)

    def missing(*_, **__):
        raise RuntimeError("not on this machine")

    def clipped(left, right, *, out=None):
        return (left.double() @ right.double().T).clamp(-(2**15), 2**15 - 1).int()

    for broken in (missing, clipped):
        rounding.int8_is_faster.cache_clear()
        monkeypatch.setattr(rounding, "integer_products", broken)
        assert rounding.int8_is_faster("cpu") is False
    rounding.int8_is_faster.cache_clear()
