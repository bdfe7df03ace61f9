"""Keys order pairs by score, then by lower column, and give both back."""

from __future__ import annotations

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from tamis.ranked_keys import LARGEST_COLUMN, NOTHING, columns_of, keys_of, merge, scores_of

SCORES = st.floats(width=32, allow_nan=False)
PAIRS = st.lists(st.tuples(SCORES, st.integers(0, LARGEST_COLUMN)), min_size=1, max_size=20)


@given(PAIRS)
def test_keys_order_as_the_pairs(pairs):
    """Sorting keys is sorting by falling score, equal scores by rising column; the two zeros are one score."""
    scores = torch.tensor([s for s, _ in pairs], dtype=torch.float32)
    columns = torch.tensor([c for _, c in pairs])
    keys = keys_of(scores, columns)
    found = [pairs[i] for i in keys.argsort(descending=True, stable=True).tolist()]
    assert found == sorted(pairs, key=lambda pair: (-(pair[0] + 0.0), pair[1]))
    assert torch.equal(scores_of(keys), scores) and torch.equal(columns_of(keys), columns)
    assert (keys > NOTHING).all()


def test_an_empty_place():
    """Nothing is minus infinity in column -1, and below the lowest pair."""
    empty = torch.tensor([NOTHING])
    assert scores_of(empty).tolist() == [-math.inf] and columns_of(empty).tolist() == [-1]
    assert keys_of(torch.tensor([-math.inf]), torch.tensor([LARGEST_COLUMN])) > empty


@given(st.integers(0, 2**31), st.integers(1, 4), st.integers(1, 5))
def test_merging_is_sorting(seed, n, k):
    """After any merges each row holds its k largest keys, descending."""
    rng = torch.Generator().manual_seed(seed)
    keys = torch.full((n, k), NOTHING)
    seen = [[NOTHING] * k for _ in range(n)]
    for _ in range(3):
        rows = torch.randint(n, (7,), generator=rng).sort().values
        new = torch.randint(-(2**62), 2**62, (7,), generator=rng)
        merge(keys, rows, new)
        for row, key in zip(rows.tolist(), new.tolist(), strict=True):
            seen[row].append(key)
    assert keys.tolist() == [sorted(row, reverse=True)[:k] for row in seen]
