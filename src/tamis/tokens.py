"""Tokens of texts, numbered: words, characters, or what a function makes of a text, laid end to end with borders.

Tokens that are equal have equal numbers and no others do, so that whoever compares numbers compares texts. The numbers
of one vocabulary grow with the texts that are added to it; of texts that are only compared with those, a token that is
not there has the number of all unknown ones. A border stands between two texts, and nothing that is compared holds one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tamis import checks
from tamis.ngrams import normalise, words
from tamis.shingles import spread

Array = np.ndarray[Any, Any]
Tokenizer = str | Callable[[Any], Iterable[Any]]
TOKENIZERS = ("word", "character")
BORDER = 0
"""The number between two texts."""

_UNKNOWN = 1
_FIRST = 2
_ROWS, _LETTERS, _STEP = 16_384, 4 * 2**20, 64  # of a block of texts


def text_blocks(texts: Iterable[Any]) -> Iterator[list[Any]]:
    """Texts in blocks of a bounded number and size; a longer text is a block of its own.

    Args:
        texts: texts, or lists of tokens.

    Yields:
        lists of texts, none empty.

    Raises:
        TypeError: for a single string.
    """
    if isinstance(texts, str):
        raise TypeError("texts must be a list or a stream of texts: got a single string; wrap it in a list.")
    stream = iter(texts)
    block: list[Any] = []
    letters = 0
    # A few at a time: what is asked of every text by itself would cost as much as to cut it.
    while few := list(islice(stream, _STEP)):
        size = _letters(few)
        parts = [few] if letters + size <= _LETTERS else [[text] for text in few]
        for part in parts:
            size = _letters(part)
            if block and (len(block) + len(part) > _ROWS or letters + size > _LETTERS):
                yield block
                block, letters = [], 0
            block += part
            letters += size
    if block:
        yield block


def tokenise(texts: Sequence[Any], tokenizer: Tokenizer) -> tuple[Array, pa.Array]:
    """Cut texts into tokens.

    Args:
        texts: n texts.
        tokenizer: "word" (runs of letters and digits of the normalised text), "character" (of the normalised text), or
            a function from a text to its tokens, integers or strings; ``list`` where texts are lists of tokens already.

    Returns:
        tokens per text (n,) int64, and all tokens one after the other.

    Raises:
        TypeError: for a text that is no string, without a tokenizer that takes it; for tokens of another kind.

    Example:
        >>> tokenise(["The Sieve", "fine-meshed"], "word")[1].to_pylist()
        [b'the', b'sieve', b'fine', b'meshed']
    """
    if callable(tokenizer):
        lists = [list(tokenizer(text)) for text in texts]
        flat: list[Any] = list(chain.from_iterable(lists))
        if flat and isinstance(flat[0], str):
            flat = [token.encode("utf-8", "surrogatepass") if isinstance(token, str) else token for token in flat]
        kind = pa.int64() if not flat or isinstance(flat[0], (int, np.integer)) else pa.large_binary()
        try:
            tokens = pa.array(flat, kind)
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
            raise TypeError(f"tokenizer must give integers or strings: {checks.one_line(error)}.") from None
        if tokens.null_count:
            raise TypeError("tokenizer must give integers or strings: got None.")
        return np.array([len(found) for found in lists], np.int64), tokens
    if set(map(type, texts)) - {str}:
        row = next((i for i, text in enumerate(texts) if not isinstance(text, str)), None)
        if row is not None:
            raise TypeError(f"texts must be strings: row {row} holds {checks.shown(texts[row])}; give a tokenizer.")
    if tokenizer == "word":
        return words(texts)
    clean = [normalise(text) for text in texts]
    points = np.frombuffer("".join(clean).encode("utf-32-le", "surrogatepass"), np.uint32)
    return np.array([len(text) for text in clean], np.int64), pa.array(points)


@dataclass(frozen=True)
class TokenRows:
    """Numbered tokens of t texts end to end: a border before each and after the last, short texts filled up to n.

    Args:
        tokens: (p,) int32, numbers and borders.
        starts: (t,) int64, the place where each text begins.
        lengths: (t,) int64, tokens of each.
        windows: (t,) int64, n-grams of each: one, the whole, of a short text, none of an empty one.
    """

    tokens: Array
    starts: Array
    lengths: Array
    windows: Array

    @classmethod
    def of(cls, lengths: Array, numbers: Array, n: int) -> TokenRows:
        """Lay numbered tokens out, ``lengths`` (t,) of them for every text."""
        places = np.maximum(lengths, n) + 1
        starts = np.cumsum(places) - places + 1
        tokens = np.zeros(int(places.sum()) + 1, np.int32)
        tokens[spread(starts, lengths)] = numbers
        return cls(tokens, starts, lengths, np.maximum(lengths - n + 1, np.minimum(lengths, 1)))

    @classmethod
    def joined(cls, blocks: Sequence[TokenRows], n: int) -> TokenRows:
        """The rows of several one after the other."""
        if not blocks:
            return cls.of(np.empty(0, np.int64), np.empty(0, np.int32), n)
        first, *others = blocks
        if not others:
            return first
        shift = np.cumsum([0, *(len(block.tokens) - 1 for block in blocks)])
        return cls(
            np.concatenate([first.tokens, *(block.tokens[1:] for block in others)]),
            np.concatenate([block.starts + by for block, by in zip(blocks, shift[:-1], strict=True)]),
            np.concatenate([block.lengths for block in blocks]),
            np.concatenate([block.windows for block in blocks]),
        )

    def owner(self, at: Array) -> Array:
        """The texts that places (m,) belong to."""
        return np.asarray(np.searchsorted(self.starts, at, "right") - 1)


class Vocabulary:
    """Numbers of tokens, equal for equal tokens only."""

    def __init__(self) -> None:
        self._known: pa.Array | None = None

    def numbers(self, tokens: pa.Array, *, grow: bool) -> Array:
        """Number tokens: (m,) int32. One that is not known is added, or has the number of all that are unknown."""
        if len(tokens) == 0:
            return np.empty(0, np.int32)
        encoded = tokens.dictionary_encode()
        found = encoded.dictionary
        known = found[:0] if self._known is None else self._known
        if found.type != known.type:
            raise TypeError(f"tokenizer must give one kind of tokens: got {known.type} and then {found.type}.")
        places = pc.index_in(found, value_set=known)
        if grow:
            self._known = known = pa.concat_arrays([known, found.filter(pc.is_null(places))])
            places = pc.index_in(found, value_set=known)
        return np.asarray(np.asarray(pc.fill_null(pc.add(places, _FIRST), _UNKNOWN))[encoded.indices.to_numpy()])


def _letters(texts: Sequence[Any]) -> int:
    """Letters of texts, or tokens of lists; none of what has no length."""
    try:
        return sum(map(len, texts))
    except TypeError:
        return sum(len(text) for text in texts if hasattr(text, "__len__"))
