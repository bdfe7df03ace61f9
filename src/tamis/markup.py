"""Markup: text and numbers from data as HTML that is safe, valid and easy to read.

Whatever stands in a data set may stand in a text: tags, quotes, control characters, half a surrogate pair, a megabyte
in one line. Here it becomes escaped UTF-8, clipped where it is long, with the whole behind one click.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Sequence

import numpy as np

# Controls but tab and line feed, and the non-characters that HTML forbids: a browser drops or mangles them silently.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufdd0-\ufdef\ufffe\uffff]")
_FIGURE = re.compile(r"[<>+\u2212-]?[\d,.]+ ?%?|\u2013|")
_NUMBERS = (int, float, np.number, type(None))
CLIP = 280
WHOLE = 20_000


def escape(text: object) -> str:
    """Text from data, safe inside HTML and inside quoted attributes, and always valid UTF-8.

    Args:
        text: anything; control characters and lone surrogates become U+FFFD.

    Returns:
        escaped text.

    Example:
        >>> escape('<b> & "c"')
        '&lt;b&gt; &amp; &quot;c&quot;'
    """
    plain = str(text).replace("\r\n", "\n").replace("\r", "\n")
    plain = plain.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return html.escape(_UNPRINTABLE.sub("\ufffd", plain))


def number(value: object, digits: int = 3) -> str:
    """A number as readers like it: thousands apart, floats to ``digits``, a dash for what is not there.

    Args:
        value: a number, None, or a text, which is left as it is.
        digits: of a float after the point.

    Returns:
        text, not escaped.

    Example:
        >>> number(12345), number(0.61234), number(float("nan")), number("top")
        ('12,345', '0.612', '–', 'top')
    """
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, (int, np.integer)):
        return f"{int(value):,}".replace("-", "\u2212")
    if isinstance(value, (float, np.floating)):
        return f"{float(value):,.{digits}f}".replace("-", "\u2212") if math.isfinite(value) else "\u2013"
    return "\u2013" if value is None else str(value)


def share(value: float, *, even: bool = False) -> str:
    """A share in percent; what is not quite nothing or not quite all never reads as 0% or 100%.

    Args:
        value: the share, in [0, 1].
        even: keeps the decimal of whole percents, so that a column is aligned.

    Returns:
        text, not escaped.

    Example:
        >>> share(0.5), share(0.0123), share(0.00004), share(0.9999), share(1.0)
        ('50%', '1.2%', '<0.1%', '>99.9%', '100%')
    """
    if 0 < value < 0.001:
        return "<0.1%"
    if 0.999 < value < 1:
        return ">99.9%"
    digits = f"{100 * value:.1f}"
    return (digits if even else digits.removesuffix(".0")) + "%"


def clipped(text: str, clip: int = CLIP) -> str:
    """A text from data as a block: whole when it is short, else its beginning, the whole behind a click.

    Args:
        text: any.
        clip: characters that are shown at once, when they are not nearly all.

    Returns:
        HTML.
    """
    if not text.strip():
        return '<p class="text missing">(empty text)</p>'
    flat = " ".join(text.split())
    short = clip + clip // 3  # a click for one more line is a nuisance
    if len(text) <= short and text.count("\n") < 6:
        return f'<p class="text" dir="auto">{escape(text.strip())}</p>'
    if len(flat) <= short:
        return f'<p class="text" dir="auto">{escape(flat)}</p>'
    head = flat[:clip]
    cut = head.rfind(" ")
    head = head[:cut] if cut > clip // 2 else head
    more = f"whole text, {len(text):,} characters"
    over = f'<p class="missing">The first {WHOLE:,} characters are shown.</p>' if len(text) > WHOLE else ""
    return (
        f'<details class="long"><summary><span class="text head" dir="auto">{escape(head)}\u2026</span> '
        f'<span class="more">{more}</span></summary><p class="text" dir="auto">{escape(text[:WHOLE].strip())}</p>{over}'
        "</details>"
    )


def table(header: Sequence[str], rows: Sequence[Sequence[object]], *, style: str = "") -> str:
    """A table; columns that hold only numbers are set to the right.

    Args:
        header: column titles; empty for none.
        rows: cells, as ``number`` takes them.
        style: its class in the style sheet.

    Returns:
        HTML; cells and titles are escaped.
    """
    width = max([len(header), *(len(row) for row in rows)], default=0)
    padded = [[*row, *[""] * (width - len(row))] for row in rows]
    right = [bool(padded) and all(_numeric(row[c]) for row in padded) for c in range(width)]
    style_of = [' class="number"' if r else "" for r in right]
    head = "".join(f'<th scope="col"{s}>{escape(h)}</th>' for s, h in zip(style_of, header, strict=False))
    lines = ("".join(f"<td{s}>{escape(number(v))}</td>" for s, v in zip(style_of, row, strict=True)) for row in padded)
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    top = f"<thead><tr>{head}</tr></thead>" if any(header) else ""
    return f'<div class="scroll"><table class="{style}">{top}<tbody>{body}</tbody></table></div>'


def _numeric(value: object) -> bool:
    return _FIGURE.fullmatch(value) is not None if isinstance(value, str) else isinstance(value, _NUMBERS)
