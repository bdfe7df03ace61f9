"""What matches cover: of the samples of a test set, whatever texts the matches come from, and of one pair at a time."""

from __future__ import annotations

from typing import Any

import numpy as np

from tamis.ngram_index import Matches
from tamis.shingles import spread

Array = np.ndarray[Any, Any]


class Coverage:
    """Which tokens and n-grams of samples are matched, and the longest match of each, as matches come in.

    Args:
        lengths: (n,) int64, tokens of every sample.
        n: tokens per n-gram.

    Example:
        >>> coverage = Coverage(np.array([4]), 2)
        >>> coverage.result(None)["token"].tolist()
        [0.0]
    """

    def __init__(self, lengths: Array, n: int) -> None:
        self._lengths, self._n = lengths, n
        self._starts = np.cumsum(lengths + 1) - lengths - 1  # a place that is never covered parts two samples
        self._grams, self._covered, self._extended = np.zeros((3, int((lengths + 1).sum())), dtype=bool)
        self._best = {name: np.zeros(len(lengths), np.int64) for name in ("start", "corpus_start", "span", "equal")}
        self._best = {"row": np.full(len(lengths), -1), **self._best}

    def add(self, matches: Matches) -> None:
        """Take matches in.

        Args:
            matches: whose ``rows`` are the samples; of a later call, the other side's rows must not be lower.
        """
        at = self._starts[matches.rows] + matches.starts
        self._grams[spread(at, np.maximum(matches.lengths - self._n + 1, 1))] = True
        self._covered[spread(at, matches.lengths)] = True
        number, start, _, length = matches.stretches()
        self._extended[spread(self._starts[matches.rows[number]] + start, length)] = True
        equal, before, span = matches.best()
        order = np.lexsort((matches.other_starts, matches.starts, matches.others, -equal, matches.rows))
        head = order[np.flatnonzero(np.diff(matches.rows[order], prepend=-1))]
        head = head[equal[head] > self._best["equal"][matches.rows[head]]]
        columns = (matches.others, matches.starts - before, matches.other_starts - before, span, equal)
        for column, values in zip(self._best.values(), columns, strict=True):
            column[matches.rows[head]] = values[head]

    @property
    def holders(self) -> Array:
        """(n,) int64, the other side's row of the longest match of each sample, -1 for none."""
        return self._best["row"].copy()

    def result(self, bridged: int | None) -> dict[str, Any]:
        """The fields of ``Contamination``.

        Args:
            bridged: None for the longest match within one text; else matches are stitched over gaps of so many tokens.

        Returns:
            name -> values.
        """
        tokens = np.maximum(self._lengths, 1)
        longest = self._best["equal"] if bridged is None else self._stitched(bridged)
        return {
            "longest": longest / tokens,
            "token": self._sums(self._covered) / tokens,
            "ngram": self._sums(self._grams) / np.maximum(self._lengths - self._n + 1, 1),
            "extend": self._sums(self._extended) / tokens,
            "too_short": self._lengths < self._n,
            "tokens": self._lengths.copy(),
            "matches": {name: column.copy() for name, column in self._best.items()},
        }

    def _sums(self, flags: Array) -> Array:
        """Flags set per sample."""
        total = np.concatenate([[0], np.cumsum(flags)])
        return np.asarray(total[self._starts + self._lengths] - total[self._starts])

    def _stitched(self, bridged: int) -> Array:
        """Covered tokens of the longest row of runs with small gaps, per sample."""
        edges = np.flatnonzero(np.diff(self._covered, prepend=False, append=False))
        starts, ends = edges[::2], edges[1::2]
        owner = np.searchsorted(self._starts, starts, "right") - 1
        return _union(owner, starts, ends - starts, len(self._lengths), bridged)[1]


def pair_coverage(matches: Matches, lengths: Array, n: int, bridged: int | None) -> dict[str, Array]:
    """The fields of ``Leaks``: what each text holds of each sample.

    Args:
        matches: rows are texts, others are samples; sorted by both.
        lengths: (s,) int64, tokens of every sample.
        n: tokens per n-gram.
        bridged: as for ``Coverage.result``.

    Returns:
        name -> (p,) values, by text, then by sample.

    Example:
        >>> from tamis.ngram_index import NGramIndex
        >>> found = next(NGramIndex(["a b c d"], n=2).matches(["b c d"]))
        >>> pair_coverage(found, np.array([4]), 2, None)["token"].tolist()
        [0.75]
    """
    changes = (np.diff(matches.rows, prepend=-1) != 0) | (np.diff(matches.others, prepend=-1) != 0)
    heads = np.flatnonzero(changes)
    pair, count = np.cumsum(changes) - 1, len(heads)
    samples = matches.others[heads]
    tokens, grams = lengths[samples], np.maximum(lengths[samples] - n + 1, 1)
    covered, stitched = _union(pair, matches.other_starts, matches.lengths, count, bridged or 0)
    matched, _ = _union(pair, matches.other_starts, np.maximum(matches.lengths - n + 1, 1), count, 0)
    number, _, start, length = matches.stretches()
    extended, _ = _union(pair[number], start, length, count, 0)
    equal, before, span = matches.best()
    best = np.lexsort((matches.starts, matches.other_starts, -equal, pair))
    best = best[np.flatnonzero(np.diff(pair[best], prepend=-1))]
    return {
        "rows": matches.rows[heads],
        "samples": samples,
        "longest": (equal[best] if bridged is None else stitched) / tokens,
        "token": covered / tokens,
        "ngram": matched / grams,
        "extend": extended / tokens,
        "starts": (matches.starts - before)[best],
        "sample_starts": (matches.other_starts - before)[best],
        "spans": span[best],
        "equal": equal[best],
    }


def _union(owner: Array, starts: Array, lengths: Array, count: int, gap: int) -> tuple[Array, Array]:
    """Places covered by the intervals of each owner, and those of its longest chain with gaps of at most ``gap``."""
    ends = starts + lengths
    width = int(ends.max(initial=0)) + gap + 1
    order = np.lexsort((starts, owner))
    whose, starts, ends = owner[order], (owner * width + starts)[order], (owner * width + ends)[order]
    before = np.maximum.accumulate(np.concatenate([[0], ends[:-1]])) if len(ends) else ends
    new = np.maximum(0, ends - np.maximum(starts, before))
    apart = np.diff(whose, prepend=-1) != 0
    chain = np.cumsum(apart | (starts > before + gap)) - 1
    sums = np.bincount(chain, new).astype(np.int64)
    longest = np.zeros(count, np.int64)
    np.maximum.at(longest, whose[np.flatnonzero(np.diff(chain, prepend=-1))], sums)
    return np.bincount(whose, new, count).astype(np.int64), longest
