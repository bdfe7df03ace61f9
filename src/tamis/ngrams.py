"""Text normalisation: when two texts count as the same text."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

_NOT_WORD = re.compile(r"[\W_]+")
# The time to normalise a run of combining marks grows with the square of its length. Before an ASCII character, which
# joins nothing that stands before it, a text may be cut.
_PIECE = re.compile(r"(?s).{1,2000}(?=[\x00-\x7f])|.{1,2000}")


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
    pieces = _PIECE.findall(text) if len(text) > 2000 else [text]
    folded = "".join(unicodedata.normalize("NFKC", piece) for piece in pieces).casefold()
    return _NOT_WORD.sub(" ", folded).strip() or " ".join(folded.split())


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
