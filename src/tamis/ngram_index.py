"""N-gram index: where texts repeat each other token by token, exactly, in memory that the indexed side alone decides.

The texts of one side are cut into tokens and numbered; their n-grams stand sorted by a 64-bit hash, and no two of them
share one. The texts of the other side stream past in blocks: a table of bits turns nearly all their n-grams away, a
hash finds the rest, and equal tokens confirm it, so nothing collides. Hits on one diagonal are joined into runs, each
as long as the two texts agree, and runs may be followed further over some differing tokens. N-grams never reach over
the border of a text; a text of fewer than n tokens is matched only by a text that equals it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from tamis import checks
from tamis.shingles import spread
from tamis.tokens import BORDER, TOKENIZERS, Tokenizer, TokenRows, Vocabulary, text_blocks, tokenise

Array = np.ndarray[Any, Any]

_PAIRS = 2**19  # places compared at once
_MULTIPLIER, _FOLD = np.uint64(0x9E3779B97F4A7C15), np.uint64(32)


@dataclass(frozen=True)
class Matches:
    """Runs of equal tokens, none part of another, by row, then by row of the index, then by start.

    Args:
        rows: (m,) int64, row of the text that was asked about.
        starts: (m,) int64, the run's first token in it.
        others: (m,) int64, row of the index.
        other_starts: (m,) int64, the run's first token in it.
        lengths: (m,) int64, tokens; fewer than n where two short texts are equal.
        left: (m, b + 1) int64, for a budget of b skips: how many more tokens agree to the left before the first
            differing one, between the first and the second, and so on.
        right: (m, b + 1) int64, likewise to the right.
    """

    rows: Array
    starts: Array
    others: Array
    other_starts: Array
    lengths: Array
    left: Array
    right: Array

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, which: Array) -> Matches:
        """Some of the runs: numbers of runs, or (m,) bool."""
        return Matches(*(getattr(self, field.name)[which] for field in fields(self)))

    def swapped(self) -> Matches:
        """The same runs with the two sides exchanged; their order stays."""
        return replace(self, rows=self.others, starts=self.other_starts, others=self.rows, other_starts=self.starts)

    def best(self) -> tuple[Array, Array, Array]:
        """Per run the span around it that holds the most equal tokens within the budget of skips.

        Returns:
            equal tokens (m,), how far the span begins before the run (m,), and its length with the skips (m,), int64.
            A span begins and ends on an equal token; of several the one furthest to the right.
        """
        budget = self.left.shape[1] - 1
        sides = [np.cumsum(side, 1) for side in (self.left, self.right)]
        gains = np.stack([sides[0][:, k] + sides[1][:, budget - k] for k in range(budget + 1)], 1)
        taken = np.argmax(gains, 1)[:, None]
        reach = [_reach(self.left, taken), _reach(self.right, budget - taken)]
        return self.lengths + gains.max(1), reach[0], reach[0] + self.lengths + reach[1]

    def stretches(self) -> tuple[Array, Array, Array, Array]:
        """The runs and every stretch of equal tokens that the budget reaches from them.

        Returns:
            number of the run, first token in the text, first token in the text of the index, and length, (s,) int64.
        """
        number = np.arange(len(self))
        parts = [(number, self.starts, self.other_starts, self.lengths)]
        before, after = np.zeros_like(self.lengths), self.lengths.copy()
        for k in range(self.left.shape[1]):
            before = before + self.left[:, k]
            parts.append((number, self.starts - before, self.other_starts - before, self.left[:, k]))
            parts.append((number, self.starts + after, self.other_starts + after, self.right[:, k]))
            before, after = before + 1, after + self.right[:, k] + 1
        columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
        some = columns[3] > 0
        return columns[0][some], columns[1][some], columns[2][some], columns[3][some]


class NGramIndex:
    """The n-grams of texts: how often each occurs, and the runs that other texts have in common with them.

    Holds 4 bytes a token, 8 an n-gram, 16 a distinct n-gram and a table of at most 128 MB.

    Args:
        texts: n texts to begin with.
        n: tokens per n-gram.
        tokenizer: see ``tamis.tokens.tokenise``.

    Example:
        >>> index = NGramIndex(["x a b c d y f g h z"], n=3)
        >>> index.count("F, g; h"), [m.lengths.tolist() for m in index.matches(["a b c d e f g h i j"])]
        (1, [[4, 3]])
    """

    def __init__(self, texts: Iterable[Any] = (), *, n: int = 8, tokenizer: Tokenizer = "word") -> None:
        checks.at_least("n", n, 1)
        if not callable(tokenizer):
            checks.one_of("tokenizer", tokenizer, TOKENIZERS)
        self.n = int(n)
        self._tokenizer = tokenizer
        self._vocabulary = Vocabulary()
        self._added: list[TokenRows] = []
        self._sorted: _Sorted | None = None
        self.add(texts)

    def add(self, texts: Iterable[Any]) -> NGramIndex:
        """Add texts; what was added before keeps its rows.

        Args:
            texts: m texts; they are taken block by block and not kept.

        Returns:
            the index itself.
        """
        for block in text_blocks(texts):
            self._added.append(self._cut(block, grow=True))
            self._sorted = None
        return self

    def __len__(self) -> int:
        """Texts."""
        return sum(len(block.lengths) for block in self._added)

    @property
    def lengths(self) -> Array:
        """(n,) int64, tokens of every text."""
        return self._table.block.lengths

    @property
    def occurrences(self) -> Array:
        """(g,) int64, how often each distinct n-gram occurs in the index."""
        return np.diff(self._table.first)

    def token_counts(self, texts: Iterable[Any]) -> Array:
        """How many tokens other texts have.

        Args:
            texts: m texts.

        Returns:
            (m,) int64.
        """
        counts = [tokenise(block, self._tokenizer)[0] for block in text_blocks(texts)]
        return np.concatenate([np.empty(0, np.int64), *counts])

    def count(self, ngram: Any) -> int:
        """How often an n-gram occurs in the index.

        Args:
            ngram: a text of n tokens.

        Returns:
            the count.

        Raises:
            ValueError: for a text of another number of tokens.
        """
        block = self._cut([ngram], grow=False)
        size = int(block.lengths[0])
        checks.require(size == self.n, f"ngram must have {self.n} tokens: got {size}, {checks.shown(ngram)}.")
        return int(self.occurrences[self._hits(block)[1]].sum())

    def tally(self, texts: Sequence[Any]) -> Array:
        """How often each distinct n-gram of the index occurs in other texts.

        Args:
            texts: a block of texts.

        Returns:
            (g,) int64, in the order of ``occurrences``.
        """
        return np.bincount(self._hits(self._cut(texts, grow=False))[1], minlength=len(self.occurrences))

    def matches(self, texts: Sequence[Any], *, skip_budget: int = 0, wanted: Array | None = None) -> Iterator[Matches]:
        """The runs that texts have in common with those of the index, each as long as it can be.

        Args:
            texts: a block of texts.
            skip_budget: differing tokens that a run may be followed over; only what is equal is counted.
            wanted: (g,) bool, the distinct n-grams that count; the others match nothing. None for all.

        Yields:
            matches of some of the texts at a time, as many as fit; a text is never parted.
        """
        block, table = self._cut(texts, grow=False), self._table
        at, gram = self._hits(block)
        if wanted is not None:
            at, gram = at[wanted[gram]], gram[wanted[gram]]
        hit = np.zeros(len(block.tokens), dtype=bool)
        hit[at] = True
        owner = block.owner(at)
        counts = np.diff(table.first)[gram]
        for piece in _pieces(owner, counts):
            here = np.repeat(at[piece], counts[piece])
            there = table.order[spread(table.first[gram[piece]], counts[piece])]
            yield self._runs(block, hit, here, there, skip_budget)

    def _runs(self, block: TokenRows, hit: Array, here: Array, there: Array, skip_budget: int) -> Matches:
        """The runs among pairs of places whose n-grams are equal."""
        own, mine = self._table.block, block.tokens
        goes_on = hit[here - 1] & (mine[here - 1] == own.tokens[there - 1])
        ends = ~(hit[here + 1] & (mine[here + self.n] == own.tokens[there + self.n]))
        first = [x[~goes_on] for x in (here, there)]
        last = [x[ends] for x in (here, there)]
        first, last = ([x[np.lexsort((a, a - b))] for x in (a, b)] for a, b in (first, last))
        rows, others = block.owner(first[0]), own.owner(first[1])
        order = np.lexsort((first[1], first[0], others, rows))
        rows, others, here, there = rows[order], others[order], first[0][order], first[1][order]
        lengths = np.minimum(last[0][order] - here + self.n, block.lengths[rows])
        left, right = (np.zeros((len(rows), skip_budget + 1), np.int64) for _ in range(2))
        if skip_budget:
            _follow(mine, here - 1, own.tokens, there - 1, -1, left)
            _follow(mine, here + lengths, own.tokens, there + lengths, 1, right)
        return Matches(rows, here - block.starts[rows], others, there - own.starts[others], lengths, left, right)

    def _hits(self, block: TokenRows) -> tuple[Array, Array]:
        """Where in a block an n-gram of the index begins, ascending, and its number."""
        table = self._table
        hashes = _hashes(block.tokens, self.n, table.salt)
        maybe = np.flatnonzero(table.seen[(hashes >> table.shift).view(np.int64)])
        gram = np.searchsorted(table.hashes, hashes[maybe])
        found = np.flatnonzero(gram < len(table.hashes))
        found = found[table.hashes[gram[found]] == hashes[maybe[found]]]
        at, gram = maybe[found], gram[found]
        owner = block.owner(at)
        good = at - block.starts[owner] < block.windows[owner]
        instance = table.order[table.first[gram]] if len(gram) else gram
        for k in range(self.n):
            good &= block.tokens[at + k] == table.block.tokens[instance + k]
        return at[good], gram[good]

    def _cut(self, texts: Sequence[Any], *, grow: bool) -> TokenRows:
        counts, tokens = tokenise(texts, self._tokenizer)
        return TokenRows.of(counts, self._vocabulary.numbers(tokens, grow=grow), self.n)

    @property
    def _table(self) -> _Sorted:
        if self._sorted is None:
            self._sorted = _Sorted.of(TokenRows.joined(self._added, self.n), self.n)
            self._added = [self._sorted.block]
        return self._sorted


@dataclass(frozen=True)
class _Sorted:
    """The n-grams of a block in the order of their hashes, which differ where the n-grams do."""

    block: TokenRows
    salt: int
    hashes: Array  # (g,) uint64, ascending
    first: Array  # (g + 1,) where the places of each distinct n-gram begin in order
    order: Array  # places in the block
    seen: Array  # whether a hash with these first bits is there
    shift: np.uint64

    @classmethod
    def of(cls, block: TokenRows, n: int) -> _Sorted:
        places = spread(block.starts, block.windows)
        for salt in range(64):
            hashes = _hashes(block.tokens, n, salt)[places] if len(places) else np.empty(0, np.uint64)
            by = np.argsort(hashes, kind="stable")
            order, hashes = places[by], hashes[by]
            again = np.flatnonzero(hashes[1:] == hashes[:-1])
            if all((block.tokens[order[again] + k] == block.tokens[order[again + 1] + k]).all() for k in range(n)):
                break
        else:
            raise RuntimeError("no hash tells the n-grams apart")
        heads = np.concatenate([[True], hashes[1:] != hashes[:-1]])[: len(hashes)]
        first = np.append(np.flatnonzero(heads), len(hashes))
        hashes = hashes[heads]
        bits = min(27, max(10, (16 * len(hashes)).bit_length()))
        shift = np.uint64(64 - bits)
        seen = np.zeros(1 << bits, dtype=bool)
        seen[(hashes >> shift).view(np.int64)] = True
        return cls(block, salt, hashes, first, order, seen, shift)


def _hashes(tokens: Array, n: int, salt: int) -> Array:
    """(t - n + 1,) uint64 hashes of all runs of n tokens, out of those of powers of two."""

    def scrambled(values: Array, step: int = 0) -> Array:
        # Without the step a token of the one part could change places with one of the other.
        values = (values + np.uint64(step)) * _MULTIPLIER
        values ^= values >> _FOLD
        return values

    size = max(0, len(tokens) - n + 1)
    power = scrambled(tokens.astype(np.uint64) + np.uint64(salt << 32))
    whole, done, width = np.zeros(size, np.uint64), 0, 1
    while width <= n:
        if n & width:
            whole = scrambled(whole, n + width) + power[done : done + size]
            done += width
        if 2 * width <= n:
            power = scrambled(power[:-width], width) + power[width:]
        width *= 2
    return scrambled(whole)


def _follow(one: Array, at: Array, other: Array, there: Array, step: int, stretches: Array) -> None:
    """Fill (m, b + 1) stretches: equal tokens from two places on, in steps, between one skipped token and the next."""
    live = np.flatnonzero((one[at] != BORDER) & (other[there] != BORDER))
    skipped = np.zeros(len(at), np.int64)
    while len(live):
        equal = one[at[live]] == other[there[live]]
        stretches[live[equal], skipped[live[equal]]] += 1
        skipped[live[~equal]] += 1
        at, there = at + step, there + step
        inside = (one[at[live]] != BORDER) & (other[there[live]] != BORDER)
        live = live[inside & (skipped[live] < stretches.shape[1])]


def _reach(stretches: Array, taken: Array) -> Array:
    """(m,) tokens to the far end of the last stretch that is not empty, with ``taken`` (m, 1) skips."""
    steps = np.arange(stretches.shape[1])
    ends = np.cumsum(stretches, 1) + steps
    return np.asarray(np.where((stretches > 0) & (steps <= taken), ends, 0).max(1))


def _pieces(owner: Array, counts: Array) -> Iterator[slice]:
    """Slices of hits with about ``_PAIRS`` pairs each, that part no owner; hits are sorted by owner."""
    ends = np.cumsum(counts)
    start = 0
    while start < len(owner):
        done = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + _PAIRS, "right")))
        if stop < len(owner):
            edge = int(np.searchsorted(owner, owner[stop]))
            stop = edge if edge > start else int(np.searchsorted(owner, owner[start], "right"))
        yield slice(start, stop)
        start = stop
