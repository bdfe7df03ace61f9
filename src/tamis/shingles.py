"""Shingles: texts as sets of word or character n-grams, numbered so that other texts compare with them.

A text is normalised (``tamis.ngrams``) and cut into runs of ``size`` neighbouring words or characters; a shorter text
is one shingle. Shingles are numbered, not hashed, so nothing collides; the rarest have the lowest numbers. Texts that
come later are numbered the same way, and a first look sorts out those that share too little with all the first ones
together. ``tamis.jaccard`` joins the sets.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tamis import checks
from tamis.ngrams import normalise

Array = np.ndarray[Any, Any]
UNITS = ("word", "character")
SLACK = 1e-9  # a filter may let a text or a pair too many through, never too few

_LARGEST = 2**62


@dataclass(frozen=True)
class ShingleSets:
    """Sets of numbered shingles in CSR form, rare shingles first.

    Args:
        indptr: (n + 1,) int64.
        tokens: (m,) int64, numbers of the shingles, ascending within a row, each once; the lowest are the rarest.
        sizes: (n,) int64, distinct shingles of a row; more than it has tokens where some have no number.
    """

    indptr: Array
    tokens: Array
    sizes: Array

    def __len__(self) -> int:
        return len(self.sizes)

    def take(self, rows: Array) -> ShingleSets:
        """Some of the sets.

        Args:
            rows: (r,) int, which.

        Returns:
            the sets in that order.
        """
        counts = np.diff(self.indptr)[rows]
        indptr = np.concatenate([[0], np.cumsum(counts)])
        return ShingleSets(indptr, self.tokens[spread(self.indptr[rows], counts)], self.sizes[rows])


class Shingles:
    """The shingle sets of texts, and the numbering under which other texts compare with them.

    Args:
        texts: n texts.
        unit: "word" or "character".
        size: units per shingle.
        normalised: whether the texts are normalised already.

    Example:
        >>> shingles = Shingles(["the red fox", "the red box"], size=2)
        >>> shingles.sets.tokens.tolist(), shingles.sets_of(["a red fox"]).sizes.tolist()
        ([0, 2, 1, 2], [2])
    """

    def __init__(self, texts: Sequence[str], *, unit: str = "word", size: int = 3, normalised: bool = False) -> None:
        checks.one_of("unit", unit, UNITS)
        checks.at_least("size", size, 1)
        self._unit, self._size = unit, size
        cut = _Cut(texts if normalised else [normalise(text) for text in texts], unit, size)
        self._dictionary, self._normalised = cut.dictionary, normalised
        self._tables: list[Array] = []
        codes = _packed((cut.flat[cut.at + k] for k in range(size)), len(self._dictionary) + 1, self._tables)
        self._codes, number = np.unique(codes, return_inverse=True)
        indptr, tokens = cut.distinct(number, len(self._codes))
        order = np.argsort(np.bincount(tokens, minlength=len(self._codes)), kind="stable")
        self._rank = np.empty(len(order), np.int64)
        self._rank[order] = np.arange(len(order))
        self.sets = _sorted(indptr, self._rank[tokens], np.diff(indptr))
        self._shift = 64 - min(27, max(10, (16 * len(self._codes)).bit_length()))
        self._seen = np.zeros(1 << (64 - self._shift), dtype=bool)
        self._seen[_mixed(self._codes) >> np.uint64(self._shift)] = True

    def sets_of(self, texts: Sequence[str]) -> ShingleSets:
        """The sets of other texts, with the numbers of these; a shingle that is not among these has none.

        Args:
            texts: m texts.

        Returns:
            their sets.
        """
        cut = _Cut(texts if self._normalised else [normalise(text) for text in texts], self._unit, self._size)
        codes = _packed((cut.flat[cut.at + k] for k in range(self._size)), len(cut.dictionary) + 1, [])
        _, where, number = np.unique(codes, return_index=True, return_inverse=True)
        indptr, tokens = cut.distinct(number, len(where))
        own = self._coded(cut, cut.at[where])
        place = np.minimum(np.searchsorted(self._codes, own), max(0, len(self._codes) - 1))
        rank = np.full(len(own), -1, np.int64)
        if len(self._codes):
            rank = np.where(self._codes[place] == own, self._rank[place], -1)
        tokens = rank[tokens]
        seen = tokens >= 0
        return _sorted(np.concatenate([[0], np.cumsum(seen)])[indptr], tokens[seen], np.diff(indptr))

    def may_match(self, texts: Sequence[str], threshold: float) -> Array:
        """Rows of texts that have enough shingles in common with all of these together: few miss, none that matches.

        Args:
            texts: m texts.
            threshold: in (0, 1].

        Returns:
            (r,) int64 rows, ascending. The others have no match; these cost the trouble to look.
        """
        cut = _Cut(texts if self._normalised else [normalise(text) for text in texts], self._unit, self._size)
        codes = self._coded(cut, cut.at)
        hit = (codes >= 0) & self._seen[_mixed(codes) >> np.uint64(self._shift)]
        hits = np.bincount(cut.owner, hit, len(texts))
        strange = np.zeros(len(cut.at), np.uint64)
        for k in range(self._size):
            strange = _mixed(strange + cut.flat[cut.at + k].view(np.uint64))
        keys = distinct_integers((cut.owner[~hit] << 40) | (strange[~hit] >> np.uint64(24)).view(np.int64))
        # Collisions make too few of the strange shingles, repetitions too many of the known: both let a text pass.
        unknown = np.bincount(keys >> 40, minlength=len(texts))
        return np.flatnonzero(hits * (1 - threshold) >= threshold * unknown * (1 - SLACK))

    def _coded(self, cut: _Cut, at: Array) -> Array:
        """Codes of shingles of other texts, -1 for those that hold a unit or a run that is not known."""
        known = np.concatenate([[0], _places(cut.dictionary, self._dictionary)])
        flat = known[cut.flat]
        return _packed((flat[at + k] for k in range(self._size)), len(self._dictionary) + 1, self._tables, again=True)


def spread(starts: Array, counts: Array) -> Array:
    """The places ``starts[i], starts[i] + 1, ...``, ``counts[i]`` of them for every i, one after the other.

    Args:
        starts: (n,) int.
        counts: (n,) int.

    Returns:
        (sum of counts,) int64.

    Example:
        >>> spread(np.array([5, 0]), np.array([2, 3])).tolist()
        [5, 6, 0, 1, 2]
    """
    ends = np.cumsum(counts)
    return np.asarray(np.arange(int(counts.sum())) + np.repeat(starts - ends + counts, counts))


def distinct_integers(values: Array) -> Array:
    """Distinct integers in ascending order; several times as fast as ``np.unique``, which hashes.

    Args:
        values: (n,) int.

    Returns:
        (m,) int.

    Example:
        >>> distinct_integers(np.array([3, 1, 3])).tolist()
        [1, 3]
    """
    ordered = np.sort(values)
    first = np.ones(len(ordered), dtype=bool)
    np.not_equal(ordered[1:], ordered[:-1], out=first[1:])
    return np.asarray(ordered[first])


class _Cut:
    """Texts cut into units: their numbers in one row, and where every shingle starts.

    Args:
        texts: n normalised texts.
        unit: "word" or "character".
        size: units per shingle; a shorter text is filled up with the unit 0, which no text has.
    """

    def __init__(self, texts: Sequence[str], unit: str, size: int) -> None:
        lengths, units, self.dictionary = _words(texts) if unit == "word" else _characters(texts)
        self.count = len(texts)
        padded = np.maximum(lengths, size)
        starts = np.cumsum(padded) - padded
        self.flat = np.zeros(int(padded.sum()), np.int64)
        self.flat[spread(starts, lengths)] = units
        self.owner = np.repeat(np.arange(len(texts)), padded - size + 1)
        self.at = spread(starts, padded - size + 1)

    def distinct(self, number: Array, kinds: int) -> tuple[Array, Array]:
        """CSR of the distinct numbers of every text, out of the numbers of all its shingles."""
        width = max(1, kinds)
        pair = distinct_integers(self.owner * width + number)
        return np.searchsorted(pair, np.arange(self.count + 1) * width), pair % width


def _words(texts: Sequence[str]) -> tuple[Array, Array, pa.Array]:
    """Words per text, the numbers of all words from 1 on, and the words."""
    raw = pa.array([text.encode("utf-8", "surrogatepass") for text in texts], pa.large_binary())
    lists = pc.split_pattern(raw, b" ")
    encoded = lists.values.dictionary_encode()
    return np.diff(lists.offsets.to_numpy()).astype(np.int64), encoded.indices.to_numpy() + 1, encoded.dictionary


def _characters(texts: Sequence[str]) -> tuple[Array, Array, pa.Array]:
    """Characters per text, the numbers of all characters from 1 on, and the characters as code points."""
    points = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), np.uint32)
    present = np.bincount(points, minlength=1) > 0
    number = np.cumsum(present)
    return np.array([len(t) for t in texts], np.int64), number[points], pa.array(np.flatnonzero(present))


def _places(values: pa.Array, dictionary: pa.Array) -> Array:
    """Places of values in a dictionary, from 1 on; -1 for none."""
    return np.asarray(pc.fill_null(pc.add(pc.index_in(values, value_set=dictionary), 1), -1).to_numpy(), np.int64)


def _packed(columns: Iterable[Array], base: int, tables: list[Array], *, again: bool = False) -> Array:
    """One integer per run of units below ``base``, equal for equal runs only; -1 where a unit is -1.

    Where the integers would grow too large, runs are numbered; the tables hold those numbers for the next time.
    """
    codes, top, step = np.zeros(1, np.int64), 1, 0
    for column in columns:
        if top * base >= _LARGEST:
            if not again:
                tables.append(distinct_integers(codes))
            place = np.minimum(np.searchsorted(tables[step], codes), max(0, len(tables[step]) - 1))
            codes = np.where(tables[step][place] == codes, place, -1) if len(tables[step]) else codes
            top, step = len(tables[step]), step + 1
        bad = (codes < 0) | (column < 0)
        codes, top = np.where(bad, -1, codes * base + column), top * base
    return codes


def _mixed(codes: Array) -> Array:
    """Scramble integers (a multiplication and a shift)."""
    mixed = codes.view(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return mixed ^ (mixed >> np.uint64(29))


def _sorted(indptr: Array, tokens: Array, sizes: Array) -> ShingleSets:
    """Sets with their tokens in ascending order."""
    rows = np.repeat(np.arange(len(sizes)), np.diff(indptr))
    width = 1 + int(tokens.max(initial=0))
    return ShingleSets(np.asarray(indptr, np.int64), np.sort(rows * width + tokens) % width, sizes)
