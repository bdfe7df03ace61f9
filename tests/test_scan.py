"""The scan under the search: nothing that may matter is missed, nothing barred is seen, and little else is yielded."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.pair_dots import dots
from tamis.scan import scan

MEMORIES = (3_000, 40_000, 2**24)


def normal(rows: int, columns: int, seed: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32))


def seen(queries, passages, floors, **options) -> list[tuple[int, int]]:
    found = scan(queries, passages, floors, **options)
    return [
        (part.start + i, j) for part in found for i, j in zip(part.rows.tolist(), part.columns.tolist(), strict=True)
    ]


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("max_memory", MEMORIES)
def test_every_pair_above_its_floor_comes_once(precision, max_memory):
    """No pair that reaches its floor should be missing, none should come twice, and few should come below it."""
    queries, passages = normal(30, 40, 1), normal(900, 40, 2)
    floors = torch.linspace(5, 15, 30)
    pairs = seen(queries, passages, floors, precision=precision, max_memory=max_memory)
    reached = {tuple(pair) for pair in (queries.double() @ passages.double().T >= floors[:, None]).nonzero().tolist()}
    assert len(pairs) == len(set(pairs))
    assert reached <= set(pairs)
    assert len(pairs) < (1.3 if precision == "int8" else 1.2) * len(reached) + 10


@pytest.mark.parametrize("max_memory", MEMORIES)
def test_rows_ascend_and_scores_are_the_dots(max_memory):
    """Each part should be sorted by row and carry the scores that ``dots`` gives."""
    queries, passages = normal(20, 16, 3), normal(300, 16, 4)
    for part in scan(queries, passages, torch.full((20,), 3.0), precision="bfloat16", max_memory=max_memory):
        assert bool((part.rows.diff() >= 0).all()) and int(part.rows.max()) < part.stop - part.start
        assert torch.equal(part.scores, dots(queries, passages, part.rows + part.start, part.columns))


@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 30), memory=st.sampled_from(MEMORIES))
@settings(max_examples=25, deadline=None)
def test_count_keeps_the_best_of_every_query(seed, count, memory):
    """Without a floor, the count best of every query should be among the pairs, barred ones never."""
    queries, passages = normal(7, 12, seed), normal(250, 12, seed + 1)
    scores = queries.double() @ passages.double().T
    barred = scores.topk(3, 1).indices.sort(1).values
    scores.scatter_(1, barred, -torch.inf)
    best = {(i, j) for i, row in enumerate(scores.topk(count, 1).indices.tolist()) for j in row}
    pairs = set(
        seen(
            queries,
            passages,
            torch.full((7,), -torch.inf),
            precision="bfloat16",
            max_memory=memory,
            count=count,
            barred=(torch.arange(0, 24, 3), barred.flatten()),
        )
    )
    assert best <= pairs
    assert not pairs & {(i, j) for i, row in enumerate(barred.tolist()) for j in row}


def test_first_block_is_cut_by_group_maxima():
    """Even before a floor is known, a search for few should yield few pairs."""
    queries, passages = normal(10, 32, 5), normal(8000, 32, 6)
    pairs = seen(queries, passages, torch.full((10,), -torch.inf), precision="float32", max_memory=2**28, count=5)
    assert 50 <= len(pairs) < 200


@pytest.mark.parametrize("share", [0.001, 0.05, 0.5])
def test_a_ceiling_does_not_loosen_the_cut(share):
    """Few pairs should be yielded under a ceiling too, whether few or most groups of passages reach it."""
    queries, passages = normal(10, 32, 9), normal(8000, 32, 10)
    ceiling = (queries @ passages.T).quantile(1 - share, dim=1)
    floors = torch.full((10,), -torch.inf)
    pairs = seen(queries, passages, floors, precision="float32", max_memory=2**28, count=5, ceiling=ceiling)
    assert 50 <= len(pairs) < 200
