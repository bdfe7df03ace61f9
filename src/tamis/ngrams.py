"""Text normalisation: when two texts count as the same text, and what their words are."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

Array = np.ndarray[Any, Any]

_NOT_WORD = re.compile(r"[\W_]+")
_WORD = re.compile(r"[^\W_]+")
# The time to normalise a run of combining marks grows with the square of its length. Before an ASCII character, which
# joins nothing that stands before it, a text may be cut.
_PIECE = re.compile(r"(?s).{1,2000}(?=[\x00-\x7f])|.{1,2000}")
_LOWER = bytes(range(256)).lower()  # of ASCII alone
# In UTF-8 every byte of a letter outside ASCII is at least 128.
_IN_WORD = np.array([byte >= 128 or chr(byte).isalnum() for byte in range(256)])


def normalise(text: str) -> str:
    """A text without case, punctuation, compatibility forms and extra spaces.

    A text of nothing but punctuation keeps its punctuation, so that ``"++"`` and ``"--"`` stay two texts.

    Args:
        text: any string.

    Returns:
        the normalised text.

    Example:
        >>> normalise("  The Sieve;  fine-meshed!")
        'the sieve fine meshed'
    """
    folded = _folded(text)
    return _NOT_WORD.sub(" ", folded).strip() or " ".join(folded.split())


def words(texts: Sequence[str]) -> tuple[Array, pa.LargeBinaryArray]:
    """Cut texts into their words: the runs of letters and digits of the normalised texts, punctuation left out.

    Texts of ASCII are cut together, several times as fast as one by one.

    Args:
        texts: n texts.

    Returns:
        words per text (n,) int64, and all words one after the other, in UTF-8.

    Example:
        >>> counts, found = words(["The Sieve; fine-meshed!", "..."])
        >>> counts.tolist(), found.to_pylist()
        ([4, 0], [b'the', b'sieve', b'fine', b'meshed'])
    """
    plain = [text if text.isascii() else _NOT_WORD.sub(" ", _folded(text)) for text in texts]
    whole = "\n".join(plain).encode("utf-8", "surrogatepass").translate(_LOWER)
    sizes = np.fromiter(map(len, plain), np.int64, len(plain))
    if len(whole) != int(sizes.sum()) + max(0, len(plain) - 1):
        sizes = np.array([len(text.encode("utf-8", "surrogatepass")) for text in plain], np.int64)
    letters = np.frombuffer(whole, np.uint8)
    inside = np.zeros(len(letters) + 2, dtype=bool)
    inside[1:-1] = _IN_WORD[letters]
    edges = np.flatnonzero(inside[1:] != inside[:-1])
    starts = edges[::2]
    offsets = np.zeros(len(starts) + 1, np.int64)
    np.cumsum(edges[1::2] - starts, out=offsets[1:])
    packed = letters[inside[1:-1]]
    found = pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), len(starts), [None, pa.py_buffer(offsets), pa.py_buffer(packed)]
    )
    return np.diff(np.searchsorted(starts, np.cumsum(sizes + 1)), prepend=0), found


def word_places(text: str) -> list[tuple[int, int]]:
    """Where each word of ``words`` stands in a text as it was written.

    Where normalisation parts or joins the words of what stands between two spaces, they share the place of the whole.

    Args:
        text: any string.

    Returns:
        start and end, in characters, of every word.

    Example:
        >>> word_places("The Sieve;")
        [(0, 3), (4, 9)]
    """
    places = []
    for piece in re.finditer(r"\S+", text):
        written = list(_WORD.finditer(piece.group()))
        known = _NOT_WORD.sub(" ", _folded(piece.group())).split()
        alike = [_folded(word.group()) for word in written] == known
        places += [(piece.start() + w.start(), piece.start() + w.end()) for w in written] if alike else []
        places += [] if alike else [piece.span()] * len(known)
    return places


def text_groups(*columns: Sequence[str], normalised: bool = True) -> tuple[Array, ...]:
    """Number the texts of several columns so that equal texts, and only those, have equal numbers.

    Args:
        columns: lists of texts.
        normalised: texts are equal when their normalised forms are; otherwise to the letter.

    Returns:
        one (n,) int64 array per column.

    Example:
        >>> text_groups(["A b", "c"], ["a  B!"])
        (array([0, 1]), array([0]))
    """
    numbers: dict[str, int] = {}
    groups = []
    for column in columns:
        keys = (normalise(text) for text in column) if normalised else iter(column)
        groups.append(np.fromiter((numbers.setdefault(k, len(numbers)) for k in keys), np.int64, len(column)))
    return tuple(groups)


def _folded(text: str) -> str:
    """A text in its compatibility form, without case."""
    pieces = _PIECE.findall(text) if len(text) > 2000 else [text]
    return "".join(unicodedata.normalize("NFKC", piece) for piece in pieces).casefold()
