"""The best k of each row, however the candidates are divided."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.best import Best, above


def sorted_whole(scores, k):
    """By score, then by lower column, in plain Python."""
    rows = []
    for row in scores:
        order = sorted(range(len(row)), key=lambda c: (-row[c], c))[:k]
        rows.append([(float(row[c]), c) for c in order] + [(-np.inf, -1)] * (k - len(order)))
    return rows


@given(seed=st.integers(0, 10**6), n=st.integers(1, 30), k=st.integers(1, 8), parts=st.integers(1, 6))
@settings(max_examples=60, deadline=None)
def test_any_division_gives_the_whole(seed, n, k, parts):
    """Parts in any order, cut at the floors of the moment, give the k best with ties to the lower column."""
    rng = np.random.default_rng(seed)
    scores = rng.choice([-1.5, -0.0, 0.0, 0.25, 3.0], (4, n)).astype(np.float32)
    best = Best(4, k)
    columns = rng.permutation(n)
    for part in np.array_split(columns, parts):
        order = np.lexsort((np.broadcast_to(part, (4, len(part))), -scores[:, part]), axis=1)
        best.take(*above(np.take_along_axis(scores[:, part], order, 1), part[order], best.floors))
    found = [[(float(s), int(c)) for s, c in zip(*row, strict=True)] for row in zip(*best.result(), strict=True)]
    assert found == sorted_whole(scores, k)


def test_floors_say_what_cannot_enter():
    """A row with an empty place takes everything; a full one nothing below its last."""
    best = Best(2, 2)
    assert best.floors.tolist() == [-np.inf, -np.inf]
    best.take(np.array([2, 1]), np.array([5, 3, 4]), np.array([0.5, 0.25, 1.0], np.float32))
    assert best.floors.tolist() == [0.25, -np.inf]
    counts, columns, scores = above(
        np.array([[0.3, 0.25, 0.2]], np.float32), np.array([[9, 1, 2]]), np.array([0.25], np.float32)
    )
    assert (counts.tolist(), columns.tolist()) == ([2], [9, 1]) and scores.dtype == np.float32


def test_rows_without_anything():
    """No pairs leave everything as it was; -inf and -1 stand where a row has fewer than k."""
    best = Best(3, 2)
    best.take(np.zeros(3, np.uint32), np.empty(0, np.uint32), np.empty(0, np.float32))
    best.take(np.array([0, 1, 0], np.uint32), np.array([7], np.uint32), np.array([-2.0], np.float32))
    scores, columns = best.result()
    assert columns.tolist() == [[-1, -1], [7, -1], [-1, -1]] and scores[1].tolist() == [-2.0, -np.inf]
