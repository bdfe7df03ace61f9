"""Report: one HTML page that shows a mined set to a person who must decide whether to trust it.

The page is one file: no script, nothing fetched, and a content policy that forbids both. It says first what the audit
found, then where the candidates went, how the scores lie, and last shows examples to judge by eye. The caller fills
``ReportPage`` with plain numbers and texts; every text is escaped here. The same page gives the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from tamis import charts, checks, files, sparks
from tamis.charts import Histogram as Histogram
from tamis.charts import SurvivalCurve as SurvivalCurve
from tamis.markup import clipped, escape, number, table
from tamis.story import Story, as_html

EXAMPLES = 20
_KEY: tuple[tuple[charts.Kind, str], ...] = (
    ("positive", "known positive"),
    ("kept", "kept as a negative"),
    ("dropped", "dropped"),
)
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


@dataclass(frozen=True)
class Tile:
    """A headline number.

    Args:
        label: what it is.
        value: text, or a number that is formatted here.
        note: a short line below it, an interval for instance.
    """

    label: str
    value: str | float
    note: str = ""


@dataclass(frozen=True)
class Passage:
    """A passage of an example, with its evidence.

    Args:
        text: the passage.
        score: its similarity to the query, None or not finite for unknown.
        rank: its rank in the corpus.
        source: where it was found, "dense" or "bm25" for instance.
        name: its id.
        rule: what dropped it; dropped candidates only.
        rival: text of the passage it was compared with.
        rival_score: that passage's score.
        tag: a short remark, "an answer by the full labels" for instance.
    """

    text: str
    score: float | None = None
    rank: int | None = None
    source: str = ""
    name: str = ""
    rule: str = ""
    rival: str = ""
    rival_score: float | None = None
    tag: str = ""


@dataclass(frozen=True)
class Example:
    """One query with its positives, its hardest negatives and the nearest candidates that were dropped.

    Args:
        query: text.
        positives: known positives.
        kept: negatives, the hardest first.
        dropped: dropped candidates, the nearest first.
        name: id of the query.
        ceiling: the score that a negative had to stay below.
        story: what became of all its candidates.
    """

    query: str
    positives: Sequence[Passage] = ()
    kept: Sequence[Passage] = ()
    dropped: Sequence[Passage] = ()
    name: str = ""
    ceiling: float | None = None
    story: Story | None = None


@dataclass(frozen=True)
class TrainingRow:
    """One model of the comparison; the difference and its interval are None for the model compared with.

    Args:
        model: its name.
        ndcg: nDCG@10, mean over the test queries.
        mrr: MRR@10, likewise.
        difference: see ``Training``.
        low: lower end of its interval.
        high: upper end.
    """

    model: str
    ndcg: float
    mrr: float
    difference: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Training:
    """Models trained or compared.

    Args:
        rows: one per model.
        difference: what the difference is, "nDCG@10 to Tamis negatives" for instance.
        notes: sentences above the table.
    """

    rows: Sequence[TrainingRow]
    difference: str = "difference, 95% interval"
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Section:
    """Anything else: sentences and a table.

    Args:
        title: heading.
        paragraphs: sentences.
        header: titles of columns.
        rows: cells, texts or numbers.
    """

    title: str
    paragraphs: Sequence[str] = ()
    header: Sequence[str] = ()
    rows: Sequence[Sequence[object]] = ()


@dataclass(frozen=True, kw_only=True)
class ReportPage:
    """Everything on the page; what is left out is left out of the page, with a line that says so where it matters.

    Args:
        title: heading.
        subtitle: facts below it: data set, counts, encoder, when.
        tiles: headline numbers.
        warnings: sentences that stand first, highlighted.
        audit: what the audit says, in sentences.
        curve: survival against the margin.
        funnel: (label, count): the candidates, "dropped: RULE" for each rule, what was kept, what was picked.
        histograms: scores of positives, kept and dropped.
        marks: (label, score): vertical lines in the histograms.
        score: what the scores are, "cosine similarity" for instance.
        examples: at most ``EXAMPLES`` are shown.
        training: comparison of models.
        sections: other notes.
        details: group -> name -> value: plan, settings, versions.
    """

    title: str
    subtitle: Sequence[str] = ()
    tiles: Sequence[Tile] = ()
    warnings: Sequence[str] = ()
    audit: Sequence[str] = ()
    curve: SurvivalCurve | None = None
    funnel: Sequence[tuple[str, int]] = ()
    histograms: Sequence[Histogram] = ()
    marks: Sequence[tuple[str, float]] = ()
    score: str = "score"
    examples: Sequence[Example] = ()
    training: Training | None = None
    sections: Sequence[Section] = ()
    details: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def render(page: ReportPage) -> str:
    """Draw the page.

    Args:
        page: its numbers and texts.

    Returns:
        HTML that stands alone, and can be encoded as UTF-8.

    Raises:
        ValueError: for arrays of a chart that do not fit each other.

    Example:
        >>> html = render(ReportPage(title="Wool & silk", funnel=[("candidates", 200), ("kept", 50)]))
        >>> "Wool &amp; silk" in html, "25.0%" in html, "<script" in html
        (True, True, False)
    """
    parts = [
        ("audit", "How far to trust it", _audit(page)),
        ("funnel", "Where the candidates went", _funnel(page)),
        ("scores", "How the scores lie", _scores(page)),
    ]
    if page.training is not None:
        parts.append(("training", "What training made of it", _training(page.training)))
    parts += [(f"section-{i}", s.title, _section(s)) for i, s in enumerate(page.sections, 1)]
    parts.append(("examples", "Judge by eye", _examples(page)))
    if page.details:
        parts.append(("details", "How it was made", _details(page.details)))
    links = "".join(f'<li><a href="#{name}">{escape(title)}</a></li>' for name, title, _ in parts)
    body = "".join(
        f'<section id="{name}"><h2>{escape(title)}</h2>{content}</section>\n' for name, title, content in parts
    )
    style = resources.files("tamis").joinpath("report.css").read_text(encoding="utf-8")
    facts = "".join(f"<li>{escape(fact)}</li>" for fact in page.subtitle)
    tiles = "".join(
        f'<div class="tile"><dt>{escape(t.label)}</dt><dd>{escape(number(t.value))}'
        f"{f'<small>{escape(t.note)}</small>' if t.note else ''}</dd></div>"
        for t in page.tiles
    )
    facts = f'<ul class="facts">{facts}</ul>' if facts else ""
    tiles = f'<dl class="tiles">{tiles}</dl>' if tiles else ""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(page.title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        f"<header><h1>{escape(page.title)}</h1>{facts}</header>\n{tiles}\n<nav><ul>{links}</ul></nav>\n{body}"
        "<footer>Made by tamis. This file stands alone: it runs no script and loads nothing.</footer>\n"
        "</main>\n</body>\n</html>\n"
    )


def write(path: str | Path, html: str) -> None:
    """Write the page so that it appears whole or not at all.

    Args:
        path: the file; its folder must be there.
        html: from ``render``.

    Raises:
        ValueError: when there is no such folder, or the path is a folder itself.
    """
    path = Path(path)
    checks.require(path.parent.is_dir(), f"{path.parent} is not a folder: make it first, or name another place.")
    checks.require(not path.is_dir(), f"{path} is a folder: name a file for the report.")
    files.write_text(path, html)


def _audit(page: ReportPage) -> str:
    warnings = "".join(f"<p>{escape(sentence)}</p>" for sentence in page.warnings)
    words = _paragraphs(page.audit, "verdict") or _missing(
        "Nothing was audited: how many of these negatives are false is not known."
    )
    if page.curve is None:
        picture = _missing("No survival curve was measured.")
    else:
        picture = f"<figure><figcaption>Survival rate by margin</figcaption>{charts.survival(page.curve)}</figure>"
    box = f'<div class="warning" role="note"><h3>Mind this</h3>{warnings}</div>' if warnings else ""
    return words + box + picture


def _funnel(page: ReportPage) -> str:
    return f"<figure>{sparks.funnel(page.funnel)}</figure>" if page.funnel else _missing("No candidates were counted.")


def _scores(page: ReportPage) -> str:
    if not page.histograms:
        return _missing("No scores were recorded.")
    return f"<figure>{charts.histograms(page.histograms, page.marks, axis=page.score)}</figure>"


def _training(training: Training) -> str:
    rows = training.rows
    if not rows:
        return _missing("No model was compared.")
    known = [v for r in rows for v in (r.difference, r.low, r.high) if v is not None]
    scale = charts.Scale.around([0.0, *known], room=0.05)
    best = max((r.ndcg for r in rows if math.isfinite(r.ndcg)), default=math.nan)
    lines = []
    for r in rows:
        gap, line = "\u2013", ""
        if r.difference is not None:
            gap = f"{'+' if r.difference > 0 else ''}{number(r.difference, 4)}"
            if r.low is not None and r.high is not None:
                gap += f" <small>{number(r.low, 4)} to {number(r.high, 4)}</small>"
                line = sparks.whisker(r.difference, r.low, r.high, scale)
        strong = "number best" if r.ndcg == best else "number"
        label = f' data-label="{escape(training.difference)}"' if r.difference is not None else ""
        lines.append(
            f'<tr><th scope="row">{escape(r.model)}</th>'
            f'<td class="{strong}" data-label="nDCG@10">{number(r.ndcg, 4)}</td>'
            f'<td class="number" data-label="MRR@10">{number(r.mrr, 4)}</td>'
            f'<td class="number gap"{label}>{gap}</td><td class="bar">{line}</td></tr>'
        )
    head = (
        '<tr><th scope="col">model</th><th scope="col" class="number">nDCG@10</th><th scope="col" class="number">MRR@10'
        f'</th><th scope="col" class="number">{escape(training.difference)}</th><td class="bar"></td></tr>'
    )
    body = f'<table class="training"><thead>{head}</thead><tbody>{"".join(lines)}</tbody></table>'
    return f'{_paragraphs(training.notes)}<div class="scroll">{body}</div>'


def _section(section: Section) -> str:
    grid = table(section.header, section.rows, style="plain") if section.rows else ""
    return _paragraphs(section.paragraphs) + grid or _missing("Nothing was recorded.")


def _details(groups: Mapping[str, Mapping[str, Any]]) -> str:
    blocks = (
        f'<div class="group"><h3>{escape(title)}</h3>'
        + table((), [(name, _setting(value)) for name, value in rows.items()], style="settings")
        + "</div>"
        for title, rows in groups.items()
    )
    return f'<div class="groups">{"".join(blocks)}</div>'


def _setting(value: object) -> str:
    """A setting as it was given: a float keeps its digits."""
    return f"{value:g}" if isinstance(value, float) and math.isfinite(value) else number(value)


def _examples(page: ReportPage) -> str:
    shown = page.examples[:EXAMPLES]
    if not shown:
        return _missing("There are no examples to show.")
    everything = [p for e in shown for p in (*e.positives, *e.kept, *e.dropped)]
    scale = charts.Scale.around([*(p.score for p in everything), *(e.ceiling for e in shown)], room=0.03)
    cut = f" The first {len(shown)} of {len(page.examples):,} are shown." if len(page.examples) > len(shown) else ""
    ceiling = ""
    if any(e.ceiling is not None for e in shown):
        ceiling = "; the upright dashes are the ceiling that a negative had to stay below"
    lead = (
        f"The line below each query shows its scores{ceiling}.{cut} A kept passage that answers the query is a false "
        "negative that the rules let through; a dropped one that does not is a good negative lost."
    )
    cards = "".join(_example(i, example, scale) for i, example in enumerate(shown, 1))
    return f'<p class="lead">{lead}</p>{sparks.key(_KEY)}{cards}'


def _example(index: int, example: Example, scale: charts.Scale) -> str:
    own = {p.text for p in example.positives}
    columns: tuple[tuple[charts.Kind, str, Sequence[Passage], str], ...] = (
        ("positive", "Known positive", example.positives, "No positive was given."),
        ("kept", "Kept: the hardest negatives", example.kept, "Nothing was kept for this query."),
        ("dropped", "Dropped: the nearest candidates", example.dropped, "Nothing was dropped for this query."),
    )
    points = [(kind, p.score) for kind, _, passages, _ in columns for p in passages]
    name = f" <small>{escape(example.name)}</small>" if example.name else ""
    blocks = "".join(
        f'<div class="column {kind}"><h4>{title}</h4>'
        + ("".join(_passage(p, own) for p in passages) or _missing(otherwise))
        + "</div>"
        for kind, title, passages, otherwise in columns
    )
    return (
        f'<article class="example"><h3>Query {index}{name}</h3><div class="query">{clipped(example.query)}</div>'
        f'{sparks.strip(points, scale, example.ceiling)}<div class="columns">{blocks}</div>'
        f"{as_html(example.story) if example.story else ''}</article>\n"
    )


def _passage(passage: Passage, own: set[str]) -> str:
    known = passage.score is not None and math.isfinite(passage.score)
    facts = [f"<b>{number(passage.score)}</b>"] if known else []
    facts += [f"rank {passage.rank:,}"] if passage.rank is not None else []
    facts += [escape(v) for v in (passage.source, passage.name) if v]
    rival, score = "", passage.rival_score
    known = score is not None and math.isfinite(score)
    if passage.rival and passage.rival in own:
        rival = f", against the known positive{f' ({number(score)})' if known else ''}"
    elif passage.rival:
        rival = f", against a passage{f' scored {number(score)}' if known else ''}:{clipped(passage.rival, 140)}"
    rule = f'<div class="reason">rule <b>{escape(passage.rule)}</b>{rival}</div>' if passage.rule else ""
    tag = f' <span class="tag">{escape(passage.tag)}</span>' if passage.tag else ""
    line = f'<p class="meta">{" · ".join(facts)}{tag}</p>' if facts or tag else ""
    return f'<div class="passage">{line}{clipped(passage.text)}{rule}</div>'


def _paragraphs(sentences: Iterable[str], style: str = "") -> str:
    kind = f' class="{style}"' if style else ""
    return "".join(f"<p{kind}>{escape(s)}</p>" for s in sentences)


def _missing(sentence: str) -> str:
    return f'<p class="missing">{escape(sentence)}</p>'
