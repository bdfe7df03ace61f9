"""Text normalisation: when two texts count as the same text."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

_NOT_WORD = re.compile(r"[\W_]+")


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
    folded = unicodedata.normalize("NFKC", text).casefold()
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
