"""Jaccard: the exact join of two collections of texts by the Jaccard similarity of their shingle sets.

Two sets whose similarity reaches a threshold share one of the few rarest shingles of each (prefix filter: Bayardo, Ma
and Srikant 2007), with enough of both still to come (positional filter: Xiao, Wang, Lin and Yu 2008). What passes is
counted exactly, so no pair is missed and none is wrong. Work and memory go by blocks of texts and by candidates.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from tamis import checks
from tamis.shingles import SLACK, Shingles, ShingleSets, distinct_integers, spread

Array = np.ndarray[Any, Any]

_BLOCK = 16_384  # texts numbered at once
_THREADS = 8  # each holds a block
_CANDIDATES = 2**21  # pairs, or shingles of pairs, looked at once
_NOTHING = (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))


def jaccard_join(
    left: Sequence[str],
    right: Sequence[str] | None = None,
    *,
    threshold: float,
    unit: str = "word",
    size: int = 3,
    normalised: bool = False,
) -> tuple[Array, Array, Array]:
    """All pairs of texts whose shingle sets have a Jaccard similarity of at least the threshold, exactly.

    The texts of ``left`` are numbered whole, those of ``right`` in blocks, one on each of torch's threads; only what
    matches is kept of a block.

    Args:
        left: n texts.
        right: m texts; None for pairs within ``left``, each once, the lower row first.
        threshold: in (0, 1].
        unit: "word" or "character".
        size: units per shingle.
        normalised: whether the texts are normalised already.

    Returns:
        rows of left (p,) int64, rows of right (p,) int64 and similarities (p,) float64, by row of right, then of left.

    Example:
        >>> jaccard_join(["a b c d"], ["a b c d e", "e f"], threshold=0.6)
        (array([0]), array([0]), array([0.66666667]))
    """
    check_threshold(threshold)
    shingles = Shingles(left, unit=unit, size=size, normalised=normalised)
    if right is None:
        rows, others, scores = jaccard_pairs(shingles.sets, shingles.sets, threshold)
        once = rows < others
        return rows[once], others[once], scores[once]

    def matches(start: int) -> tuple[Array, Array, Array]:
        block = right[start : start + _BLOCK]
        near = shingles.may_match(block, threshold)
        own = shingles.sets_of([block[i] for i in near])
        rows, others, scores = _matches(shingles.sets, index, own, threshold)
        return rows, start + near[others], scores

    index = _by_token(shingles.sets, threshold)
    with ThreadPoolExecutor(min(_THREADS, torch.get_num_threads())) as pool:
        found = [_NOTHING, *pool.map(matches, range(0, len(right), _BLOCK))]
    return tuple(np.concatenate(column) for column in zip(*found, strict=True))  # type: ignore[return-value]


def jaccard_pairs(left: ShingleSets, right: ShingleSets, threshold: float) -> tuple[Array, Array, Array]:
    """All pairs of sets whose Jaccard similarity is at least the threshold, exactly.

    Args:
        left: n sets.
        right: m sets in the same numbering.
        threshold: in (0, 1].

    Returns:
        rows of left (p,) int64, rows of right (p,) int64 and similarities (p,) float64, by row of right, then of left.

    Example:
        >>> sets = Shingles(["a b c d", "a b c d e"]).sets
        >>> jaccard_pairs(sets, sets, 0.9)
        (array([0, 1]), array([0, 1]), array([1., 1.]))
    """
    check_threshold(threshold)
    return _matches(left, _by_token(left, threshold), right, threshold)


def check_threshold(threshold: float) -> None:
    """Require a threshold above 0 and at most 1."""
    checks.require(0 < threshold <= 1, f"threshold must lie between 0 (not included) and 1: got {threshold!r}.")


def _by_token(sets: ShingleSets, threshold: float) -> tuple[Array, Array, Array]:
    """``_prefixes`` in the order of the shingles."""
    rows, places, tokens = _prefixes(sets, threshold)
    order = np.argsort(tokens, kind="stable")
    return rows[order], places[order], tokens[order]


def _matches(
    left: ShingleSets, index: tuple[Array, Array, Array], right: ShingleSets, threshold: float
) -> tuple[Array, Array, Array]:
    """``jaccard_pairs`` with the prefixes of left at hand."""
    rows, places, tokens = index
    others, other_places, wanted = _prefixes(right, threshold)
    first = np.searchsorted(tokens, wanted)
    counts = np.searchsorted(tokens, wanted, "right") - first
    hit = counts > 0
    others, other_places, first, counts = others[hit], other_places[hit], first[hit], counts[hit]
    found = [_NOTHING]
    for piece in _pieces(others, counts, _CANDIDATES):
        here = counts[piece]
        entry = spread(first[piece], here)
        i, j = rows[entry], np.repeat(others[piece], here)
        ahead = np.minimum(left.sizes[i] - places[entry], right.sizes[j] - np.repeat(other_places[piece], here))
        # Pairs may still share ``ahead`` shingles, and need threshold / (1 + threshold) of both sizes together.
        may = ahead * (1 + threshold) >= threshold * (left.sizes[i] + right.sizes[j]) * (1 - SLACK)
        pair = distinct_integers(j[may] * len(left) + i[may])
        found += _verified(left, right, pair % len(left), pair // len(left), threshold)
    return tuple(np.concatenate(column) for column in zip(*found, strict=True))  # type: ignore[return-value]


def _prefixes(sets: ShingleSets, threshold: float) -> tuple[Array, Array, Array]:
    """Row, place within the set and number of the rarest shingles, one of which every match shares.

    Shingles without a number are the rarest: they come first and match nothing.
    """
    counts = np.diff(sets.indptr)
    hidden = sets.sizes - counts
    length = sets.sizes - np.ceil(threshold * sets.sizes * (1 - SLACK)).astype(np.int64) + 1
    shown = np.clip(length - hidden, 0, counts)
    rows = np.repeat(np.arange(len(sets)), shown)
    entry = spread(sets.indptr[:-1], shown)
    return rows, entry - sets.indptr[rows] + hidden[rows], sets.tokens[entry]


def _verified(
    left: ShingleSets, right: ShingleSets, i: Array, j: Array, threshold: float
) -> Iterator[tuple[Array, Array, Array]]:
    """Those of given pairs, sorted by ``j``, that reach the threshold."""
    small, large = np.minimum(left.sizes[i], right.sizes[j]), np.maximum(left.sizes[i], right.sizes[j])
    fits = small >= threshold * large * (1 - SLACK)
    i, j = i[fits], j[fits]
    width = 1 + int(max(left.tokens.max(initial=0), right.tokens.max(initial=0)))
    for piece in _pieces(np.arange(len(i)), np.diff(left.indptr)[i], _CANDIDATES):
        a, b = i[piece], j[piece]
        low, high = b[0], b[-1] + 1
        inside = right.tokens[right.indptr[low] : right.indptr[high]]
        keys = np.repeat(np.arange(high - low), np.diff(right.indptr[low : high + 1])) * width + inside
        counts = np.diff(left.indptr)[a]
        asked = np.repeat(b - low, counts) * width + left.tokens[spread(left.indptr[a], counts)]
        place = np.minimum(np.searchsorted(keys, asked), len(keys) - 1)
        shared = np.bincount(np.repeat(np.arange(len(a)), counts), keys[place] == asked, len(a))
        score = shared / (left.sizes[a] + right.sizes[b] - shared)
        good = score >= threshold
        yield a[good], b[good], score[good]


def _pieces(owners: Array, counts: Array, most: int) -> Iterator[slice]:
    """Slices of entries, each of about ``most`` counts in all, that part no owner; entries are sorted by owner."""
    ends = np.cumsum(counts)
    start = 0
    while start < len(owners):
        done = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + most, "right")))
        stop = len(owners) if stop >= len(owners) else int(np.searchsorted(owners, owners[stop]))
        if stop <= start:
            stop = int(np.searchsorted(owners, owners[start], "right"))
        yield slice(start, stop)
        start = stop
