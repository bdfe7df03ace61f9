"""Quality: texts that are not fit to be queries, by rules that need no model."""

from __future__ import annotations

import re
from collections.abc import Callable

_TAGS = "a|b|br|code|div|em|font|h[1-6]|hr|i|img|li|ol|p|pre|span|strong|table|tbody|td|th|tr|tt|u|ul"
_URL = re.compile(r"\b(?:https?|ftp)://\S|\bwww\.\w", re.IGNORECASE)
_HTML = re.compile(rf"</?(?:{_TAGS})(?:\s[^<>]*)?/?>", re.IGNORECASE)
# Control characters but tab and line ends, lone surrogates, private use, the replacement character, non-characters.
_INVALID = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ue000-\uf8ff\ufdd0-\ufdef\ufffd-\uffff]")


def text_quality_reasons(
    text: str,
    *,
    min_words: int = 3,
    max_foreign: float = 0.1,
    is_english: Callable[[str], bool] | None = None,
) -> tuple[str, ...]:
    """Why a text should not be a query: CoRNStack's screen of docstrings, before any embedding.

    The paper drops texts that are not English, too short, or that hold URLs, HTML tags or invalid characters; how each
    was decided is not published. Long texts pass on purpose.

    Args:
        text: one text.
        min_words: fewer words than this are too short.
        max_foreign: the share of letters outside ASCII from which on a text is not English; other languages in Latin
            letters pass, so give a detector where they occur.
        is_english: a detector to ask instead of counting letters.

    Returns:
        the rules that the text breaks, of "too short", "not English", "URL", "HTML" and "invalid character"; empty for
        a good text.

    Example:
        >>> text_quality_reasons("See <b>http://example.org</b>"), text_quality_reasons("Return the largest key.")
        (('too short', 'URL', 'HTML'), ())
    """
    letters = [c for c in text if c.isalpha()]
    foreign = sum(not c.isascii() for c in letters)
    english = is_english(text) if is_english is not None else foreign <= max_foreign * len(letters)
    rules = {
        "too short": len(text.split()) < min_words,
        "not English": not english,
        "URL": _URL.search(text) is not None,
        "HTML": _HTML.search(text) is not None,
        "invalid character": _INVALID.search(text) is not None,
    }
    return tuple(rule for rule, broken in rules.items() if broken)
