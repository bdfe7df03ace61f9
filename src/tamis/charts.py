"""Charts: small hand-made SVG pictures whose text keeps its size at any page width.

The drawing area is the SVG itself and stretches with the page: lines, dots and text stand at percentages, and curves
lie in a nested SVG that is stretched while its strokes are not. Labels of the axes hang outside, in the padding of the
box. Colours are classes of the page's style sheet, so one drawing serves light, dark and print. Every number becomes a
coordinate through ``Scale``, which gives finite percentages only.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from tamis import checks
from tamis.markup import escape, number, share, table

Array = np.ndarray[Any, Any]
Numbers = Sequence[float | None] | Array
Kind = Literal["positive", "kept", "dropped"]
KINDS = ("positive", "kept", "dropped")

_HUGE = 1e100
_RATES = (0.0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)


@dataclass(frozen=True)
class Histogram:
    """How the scores of one group are spread.

    Args:
        label: what the legend says.
        edges: (n + 1,) float, increasing, finite.
        counts: (n,) int or float, not negative.
        kind: "positive", "kept" or "dropped"; gives the colour.
    """

    label: str
    edges: Numbers
    counts: Numbers
    kind: Kind


@dataclass(frozen=True)
class SurvivalCurve:
    """Which share of hidden positives would become negatives, margin by margin.

    Args:
        margin: (m,) float, increasing.
        verification: (m,) share on the half that verifies; None or NaN leaves a gap, here and below.
        low: (m,) lower end of the interval of ``verification``.
        high: (m,) upper end.
        calibration: (m,) share on the half that chose the margin; empty for none.
        chosen: the margin in force.
        max_survival: the share that was asked for.
        axis: what the margin is.
    """

    margin: Numbers
    verification: Numbers
    low: Numbers = ()
    high: Numbers = ()
    calibration: Numbers = ()
    chosen: float | None = None
    max_survival: float | None = None
    axis: str = "relative margin"


@dataclass(frozen=True)
class Scale:
    """Maps a range of numbers to 0 to 100 percent, by the square root of the distance from ``low`` if ``root``.

    Example:
        >>> Scale(0.0, 1.0).at(0.25), Scale(0.0, 1.0, root=True).at(0.25)
        (25.0, 50.0)
    """

    low: float
    high: float
    root: bool = False

    @classmethod
    def around(cls, values: Iterable[float | None], *, room: float = 0.0, root: bool = False) -> Scale:
        """The scale that holds every finite value, with ``room`` on both sides as a share of the span."""
        finite = [float(v) for v in values if v is not None and abs(v) < _HUGE]
        low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
        wide = high - low > 1e-5 * max(abs(low), abs(high), 1e-3)
        pad = (high - low) * room if wide else max(abs(low) * 0.1, 0.01)
        return cls(low - pad, high + pad, root)

    def at(self, value: float) -> float:
        """Where the value stands, in percent; values outside stand on the edge."""
        part = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return round(100 * (math.sqrt(part) if self.root else part), 2)

    def ticks(self, about: int = 5) -> list[float]:
        """Round numbers inside the scale.

        Example:
            >>> Scale(0.31, 0.93).ticks()
            [0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
        """
        raw = (self.high - self.low) / about
        power = 10.0 ** math.floor(math.log10(raw))
        step = next((m for m in (1, 2, 2.5, 5) if m * power >= raw * 0.8), 10) * power
        first = math.ceil(self.low / step - 1e-9)
        count = math.floor(self.high / step + 1e-9) - first + 1
        return [float(f"{(first + i) * step:.10g}") for i in range(count)]


def histograms(series: Sequence[Histogram], marks: Sequence[tuple[str, float]] = (), *, axis: str = "score") -> str:
    """Histograms over each other, each as shares of its own group, for the groups differ in size.

    Args:
        series: the groups; one without counts stands in the legend only.
        marks: (label, score) of vertical lines; those outside the drawn range or not finite are left out.
        axis: what the score is.

    Returns:
        an HTML figure.

    Raises:
        ValueError: for edges and counts that do not fit.
    """
    drawn, legend, ranges = [], [], []
    for group in series:
        edges, counts = _floats(group.edges), _floats(group.counts)
        checks.one_of("kind", group.kind, KINDS)
        fits = len(edges) == len(counts) + 1
        checks.require(fits, f"edges must be one more than counts: {len(counts)} counts, {len(edges)} edges.")
        checks.finite("edges", edges)
        checks.finite("counts", counts)
        checks.require(bool((np.diff(edges) > 0).all()), f"edges of {group.label!r} must increase.")
        checks.require(bool((counts >= 0).all()), f"counts of {group.label!r} must not be negative.")
        legend.append((group.kind, f"{group.label} ({counts.sum():,.0f})"))
        if counts.sum() > 0:
            drawn.append((group.kind, edges, counts / counts.sum() / np.diff(edges)))
            held = edges[_touched(counts)]
            ranges.append(f"{group.label} from {held[0]:.3g} to {held[-1]:.3g}")
    if not drawn:
        return _legend(legend) + '<p class="missing">There are no scores to draw.</p>'
    unit = float(f"{np.median(np.diff(drawn[0][1])):.3g}")
    x = Scale.around(v for _, edges, heights in drawn for v in edges[_touched(heights)])
    y = Scale(0.0, 1.08 * unit * max(float(heights.max()) for *_, heights in drawn))
    paths = []
    for kind, edges, heights in drawn:
        inside = np.flatnonzero(_touched(heights))
        first, last = inside[0], inside[-1]
        across = np.repeat([x.at(v) for v in edges[first : last + 1]], 2)
        up = [100.0, *np.repeat([100 - y.at(v * unit) for v in heights[first:last]], 2), 100.0]
        paths.append(f'<path class="area {kind}" d="{_path(across, up)}"/>')
    inside_marks = [(label, v) for label, v in marks if math.isfinite(v) and x.low <= v <= x.high]
    alt = "Histograms of scores: " + "; ".join(ranges)
    ticks = [(y.at(v), share(v)) for v in y.ticks(4)]
    note = f"share of each group, per {unit:g} of score"
    return _legend(legend) + _frame(alt, note, x, ticks, _stretched(paths), inside_marks, axis)


def survival(curve: SurvivalCurve) -> str:
    """Survival against the margin, with the band of the verifying half, the chosen margin and the bound.

    Args:
        curve: the numbers.

    Returns:
        an HTML figure. The scale of shares is by square root, which keeps zero and spreads the small rates.

    Raises:
        ValueError: for columns of different length or a rate outside [0, 1].
    """
    margin = _floats(curve.margin)
    lines = {n: _floats(getattr(curve, n)) for n in ("verification", "calibration", "low", "high")}
    for name, values in lines.items():
        if len(values):
            checks.same_length(name, values, "margin", margin)
        else:
            lines[name] = np.full(len(margin), np.nan)
    seen = np.concatenate([v[np.isfinite(v)] for v in lines.values()])
    for rate in seen[(seen < 0) | (seen > 1)]:
        checks.between("survival rate", float(rate), 0, 1)
    if not len(seen) or not np.isfinite(margin).any():
        return '<p class="missing">No survival rate was measured.</p>'
    bound, chosen = _finite(curve.max_survival), _finite(curve.chosen)
    x = Scale.around([*margin.tolist(), chosen])
    y = Scale(0.0, min(1.0, 1.05 * max(float(seen.max()), bound or 0.0, 0.02)), root=True)

    def heights(name: str) -> list[float]:
        return [100 - y.at(v) if math.isfinite(v) else math.nan for v in lines[name]]

    across = [x.at(v) if math.isfinite(v) else math.nan for v in margin]
    known = np.isfinite(lines["low"]) & np.isfinite(lines["high"]) & np.isfinite(margin)
    back = [*np.flatnonzero(known), *np.flatnonzero(known)[::-1]]
    edge = [*np.array(heights("high"))[known], *np.array(heights("low"))[known][::-1]]
    paths = [f'<path class="band" d="{_path([across[i] for i in back], edge)}Z"/>'] if known.sum() > 1 else []
    legend = [("verification", "verification half, with 95% interval" if paths else "verification half")]
    if np.isfinite(lines["calibration"]).any():
        paths.append(f'<path class="line calibration" d="{_path(across, heights("calibration"))}"/>')
        legend.append(("calibration", "calibration half, which chose the margin"))
    paths.append(f'<path class="line verification" d="{_path(across, heights("verification"))}"/>')
    ticks: list[tuple[float, str]] = []
    extra = ""
    if bound is not None and 0 <= bound <= y.high:
        at = 100 - y.at(bound)
        legend.append(("bound", f"asked for: at most {share(bound)}"))
        extra = (
            f'<line class="bound" x1="0" x2="100%" y1="{at:.2f}%" y2="{at:.2f}%"/>'
            f'<text class="bound" x="0" dx="-8" y="{at:.2f}%" dy="4" text-anchor="end">{share(bound)}</text>'
        )
    for rate in (r for r in _RATES if r <= y.high):
        gaps = [abs(y.at(rate) - p) for p, _ in ticks] + ([abs(y.at(rate) - y.at(bound))] if extra and bound else [])
        if min(gaps, default=100.0) > 8:
            ticks.append((y.at(rate), share(rate)))
    marks = []
    if chosen is not None:
        here = int(np.nanargmin(np.abs(margin - chosen)))
        near = abs(margin[here] - chosen) <= 0.01 * (x.high - x.low)
        rate = float(lines["verification"][here]) if near else math.nan
        marks = [(f"chosen {chosen:.3g}" + (f", survival {share(rate)}" if math.isfinite(rate) else ""), chosen)]
        if math.isfinite(rate):
            extra += f'<circle class="verification" cx="{x.at(chosen)}%" cy="{100 - y.at(rate):.2f}%" r="4.5"/>'
    alt = f"Survival rate against {curve.axis}" + (f"; {marks[0][0]}" if marks else "")
    note = "share of hidden positives that would become negatives (square-root scale)"
    picture = _frame(alt, note, x, ticks, _stretched(paths) + extra, marks, curve.axis)
    return _legend(legend) + picture + _numbers(curve.axis, margin, lines)


def _numbers(axis: str, margin: Array, lines: dict[str, Array]) -> str:
    """The curve as a table behind a click, for those who cannot see it or want to read it off."""
    names = [name for name, values in lines.items() if np.isfinite(values).any()]
    cells = [[share(v, even=True) if math.isfinite(v) else "\u2013" for v in lines[name]] for name in names]
    rows = [[number(float(m)), *row] for m, row in zip(margin, zip(*cells, strict=True), strict=True)]
    grid = table([axis, *({"low": "95% from", "high": "to"}.get(name, name) for name in names)], rows, style="plain")
    return f'<details class="numbers"><summary><span class="more">the numbers</span></summary>{grid}</details>'


def _legend(entries: Sequence[tuple[str, str]]) -> str:
    swatch = (
        '<svg width="26" height="12" aria-hidden="true"><line class="swatch {0}" x1="1" x2="25" y1="6" y2="6"/></svg>'
    )
    return f'<ul class="legend">{"".join(f"<li>{swatch.format(c)}{escape(label)}</li>" for c, label in entries)}</ul>'


def _frame(
    alt: str,
    note: str,
    x: Scale,
    y_ticks: Sequence[tuple[float, str]],
    body: str,
    marks: Sequence[tuple[str, float]],
    axis: str,
) -> str:
    """Axes, grid and vertical marks around a body; every mark's label has a row of its own above the plot."""
    parts = []
    for at, label in y_ticks:
        height = f"{100 - at:.2f}%"
        parts.append(f'<line class="grid" x1="0" x2="100%" y1="{height}" y2="{height}"/>')
        parts.append(f'<text class="tick" x="0" dx="-8" y="{height}" dy="4" text-anchor="end">{label}</text>')
    for value in x.ticks():
        at = x.at(value)
        parts.append(f'<line class="axis" x1="{at}%" x2="{at}%" y1="100%" y2="100%" transform="translate(0 5)"/>')
        parts.append(f'<text class="tick" x="{at}%" y="100%" dy="20" text-anchor="middle">{value:g}</text>')
    parts.append('<line class="axis" x1="0" x2="100%" y1="100%" y2="100%"/>')
    for row, (label, value) in enumerate(marks):
        at = x.at(value)
        anchor = "start" if at < 30 else "end" if at > 70 else "middle"
        parts.append(f'<line class="mark" x1="{at}%" x2="{at}%" y1="{-4 - 18 * row}" y2="100%"/>')
        text = f'<text class="mark" x="{at}%" y="{-9 - 18 * row}" text-anchor="{anchor}">{escape(label)}</text>'
        parts.append(text)
    parts.append(body)
    top = 12 + 18 * len(marks)
    return (
        f'<p class="axis-note">{escape(note)}</p><div class="plot" style="padding-top:{top}px">'
        f'<svg role="img" aria-label="{escape(alt)}" height="240">{"".join(parts)}</svg></div>'
        f'<p class="axis-label">{escape(axis)}</p>'
    )


def _stretched(paths: Sequence[str]) -> str:
    return f'<svg viewBox="0 0 100 100" preserveAspectRatio="none" width="100%" height="100%">{"".join(paths)}</svg>'


def _path(across: Iterable[float], up: Iterable[float]) -> str:
    """Path data through the points; a point that is not finite breaks the line."""
    parts, pen = [], "M"
    for x, y in zip(across, up, strict=True):
        if math.isfinite(x) and math.isfinite(y):
            parts.append(f"{pen}{x:.2f} {y:.2f}")
            pen = "L"
        else:
            pen = "M"
    return "".join(parts)


def _touched(heights: Array) -> Array:
    """(n + 1,) bool, the edges between the first and the last bin that holds anything."""
    held = np.flatnonzero(heights > 0)
    edges = np.zeros(len(heights) + 1, bool)
    edges[held[0] : held[-1] + 2] = True
    return edges


def _floats(values: Numbers) -> Array:
    return np.array([math.nan if v is None else float(v) for v in values], np.float64)


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None
