"""Sparks: pictures small enough for a table row or a line of text, in the style of ``charts``.

Bars of the funnel, the scores of one query on a line, and a difference with its interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from tamis.charts import Kind, Scale
from tamis.markup import escape, share

# A lane for each kind, so that scores that are nearly equal do not hide each other.
_LANES: dict[Kind, int] = {"positive": 6, "kept": 18, "dropped": 30}
_FLOOR = 38


def funnel(steps: Sequence[tuple[str, int]]) -> str:
    """Bars of what became of the candidates; the dropped parts lie where they were cut off.

    Args:
        steps: (label, count); the first is the whole, a label "dropped: RULE" is a part taken from what was left.

    Returns:
        an HTML table, a bar in each row.
    """
    whole, left = max(steps[0][1], 1), steps[0][1]
    rows = []
    for label, count in steps:
        gone = label.startswith("dropped")
        left -= count if gone else 0
        start, width = (100 * max(left, 0) / whole if gone else 0.0), max(100 * count / whole, 0.05)
        kind = "dropped" if gone else "kept" if left < steps[0][1] or count < steps[0][1] else "whole"
        bar = f'<rect class="{kind}" x="{min(start, 100):.2f}%" y="1" width="{min(width, 100):.2f}%" height="14"/>'
        name = label.removeprefix("dropped").removeprefix(":").strip() or label
        word = '<span class="word">dropped</span> ' if gone else ""
        picture = f'<svg height="16" aria-hidden="true">{bar if count else ""}</svg>'
        rows.append(
            f'<tr class="{kind}"><th scope="row">{word}{escape(name)}</th><td class="bar">{picture}</td>'
            f"<td>{count:,}</td><td>{share(count / whole, even=True)}</td></tr>"
        )
    head = '<tr><th scope="col">step</th><td class="bar"></td><th scope="col">count</th><th scope="col">share</th></tr>'
    return f'<table class="funnel"><thead>{head}</thead><tbody>{"".join(rows)}</tbody></table>'


def strip(points: Sequence[tuple[Kind, float | None]], scale: Scale, ceiling: float | None = None) -> str:
    """Scores of one query on a line: its positives, what was kept and what was dropped.

    Args:
        points: (kind, score); scores that are not finite are left out.
        scale: shared by all the strips of a page, so that they can be compared.
        ceiling: the score that a negative had to stay below.

    Returns:
        an SVG, empty when no score is known.
    """
    known = [(kind, float(v)) for kind, v in points if v is not None and math.isfinite(v)]
    if not known:
        return ""
    parts = [f'<line class="axis" x1="0" x2="100%" y1="{_FLOOR}" y2="{_FLOOR}"/>']
    for tick in scale.ticks(4):
        at = scale.at(tick)
        parts.append(f'<line class="axis" x1="{at}%" x2="{at}%" y1="{_FLOOR}" y2="{_FLOOR + 4}"/>')
        parts.append(f'<text class="tick" x="{at}%" y="{_FLOOR + 17}" text-anchor="middle">{tick:g}</text>')
    if ceiling is not None and math.isfinite(ceiling):
        at = scale.at(ceiling)
        parts.append(f'<line class="mark" x1="{at}%" x2="{at}%" y1="0" y2="{_FLOOR}"/>')
    parts += [_dot(kind, f"{scale.at(v)}%", _LANES[kind]) for kind, v in known]
    alt = "Scores: " + (", ".join(f"{kind} {v:.3f}" for kind, v in known) or "none")
    return f'<svg class="strip" role="img" aria-label="{escape(alt)}" height="{_FLOOR + 20}">{"".join(parts)}</svg>'


def whisker(value: float, low: float, high: float, scale: Scale) -> str:
    """A difference as a dot, its interval as a line, and a tick at zero.

    Args:
        value: the difference.
        low: lower end of the interval.
        high: upper end.
        scale: shared by the rows of a table.

    Returns:
        an SVG, empty when a number is not finite.
    """
    if not all(math.isfinite(v) for v in (value, low, high)):
        return ""
    kind = "clear" if low > 0 or high < 0 else "unclear"
    return (
        f'<svg class="whisker {kind}" height="16" aria-hidden="true">'
        f'<line class="zero" x1="{scale.at(0)}%" x2="{scale.at(0)}%" y1="0" y2="16"/>'
        f'<line class="range" x1="{scale.at(low)}%" x2="{scale.at(high)}%" y1="8" y2="8"/>'
        f'<circle cx="{scale.at(value)}%" cy="8" r="4"/></svg>'
    )


def key(entries: Sequence[tuple[Kind, str]]) -> str:
    """The legend of the strips: dots, because shapes differ as well as colours.

    Args:
        entries: (kind, label).

    Returns:
        an HTML list.
    """
    items = "".join(
        f'<li><svg width="14" height="14" aria-hidden="true">{_dot(kind, "7", 7)}</svg>{escape(label)}</li>'
        for kind, label in entries
    )
    return f'<ul class="legend">{items}</ul>'


def _dot(kind: Kind, x: str, y: int) -> str:
    """A disc for a positive, a square for a kept and a ring for a dropped passage."""
    if kind == "kept":
        return f'<rect class="dot kept" x="{x}" y="{y}" width="8" height="8" transform="translate(-4 -4)"/>'
    return f'<circle class="dot {kind}" cx="{x}" cy="{y}" r="{5 if kind == "positive" else 4.5}"/>'
