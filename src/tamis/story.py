"""Stories: what became of every candidate of one query, in the order of their ranks, and why.

A mined set answers "how many were dropped by the margin"; a story answers "why is this passage no negative". It has the
query, its known positives with score and rank, the score that a negative had to stay below, and then the candidates:
picked, kept but passed over, or dropped by which rule against which rival. What lies between is counted, not left out.
"""

from __future__ import annotations

import difflib
import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from tamis import checks
from tamis.markup import clipped, escape, number
from tamis.results import MinedNegatives, source_name

Array = np.ndarray[Any, Any]
HEAD = ("rank", "score", "found by", "verdict", "passage")
_SNIPPET = 90


@dataclass(frozen=True)
class Standing:
    """One passage in the story of a query.

    Args:
        kind: "positive", "negative", "passed over" or "dropped".
        name: its id.
        text: its text.
        rank: among the candidates; for what was ruled out before the search, where it would stand; 0 for nowhere.
        score: its score, ``-inf`` for none, NaN for unknown.
        found_by: names of the sources, joined by plus signs; empty for what was ruled out before the search.
        place: 1 for the negative that was picked first.
        rule: what dropped it.
        rival: id of the passage that it was compared with.
        rival_score: that passage's score.
    """

    kind: str
    name: str
    text: str
    rank: int
    score: float
    found_by: str = ""
    place: int = 0
    rule: str = ""
    rival: str = ""
    rival_score: float = math.nan

    @property
    def verdict(self) -> str:
        """What became of it, in words; in brackets the passage that it was compared with, and that one's score."""
        if self.kind == "negative":
            return f"negative {self.place}"
        if self.kind == "passed over":
            return "kept, not picked"
        if self.kind == "positive":
            return "known positive"
        score = "" if math.isnan(self.rival_score) else f" {_score(self.rival_score)}"
        rival = f" ({shown(self.rival, 40)}{score})" if self.rival else ""
        return f"dropped: {self.rule}{rival}"

    @property
    def standing(self) -> str:
        """Its rank; in brackets where it would stand, a dash where it is nowhere."""
        if self.rank <= 0:
            return "\u2013"
        return f"{self.rank:,}" if self.found_by else f"({self.rank:,})"


@dataclass(frozen=True)
class Gap:
    """Candidates that are counted, not told one by one.

    Args:
        first: the rank where they begin, 0 for those that do not reach the pool.
        last: the rank where they end.
        counts: (what became of them, how many), the most frequent first.
    """

    first: int
    last: int
    counts: tuple[tuple[str, int], ...]

    def __str__(self) -> str:
        where = f"rank {self.first:,}" if self.first == self.last else f"ranks {self.first:,} to {self.last:,}"
        what = "; ".join(f"{count:,} {name}" for name, count in self.counts)
        return f"{where if self.first else 'out of reach'}: {what}"


@dataclass(frozen=True)
class Story:
    """The ranked story of one query; ``print`` shows it.

    Args:
        name: id of the query.
        query: its text.
        positives: its known positives.
        rows: the candidates in order of rank.
        summary: how many candidates there were and what became of them.
        bound: what a negative had to stay below, in a sentence.
        notes: what is not known.
    """

    name: str
    query: str
    positives: tuple[Standing, ...]
    rows: tuple[Standing | Gap, ...]
    summary: str
    bound: str
    notes: tuple[str, ...] = ()

    @property
    def brackets(self) -> str:
        """What brackets mean, where there are any."""
        told = (*self.positives, *(row for row in self.rows if isinstance(row, Standing)))
        if not any(row.standing.startswith("(") for row in told):
            return ""
        return "A rank in brackets is where a passage would stand that was ruled out before the search."

    def __str__(self) -> str:
        everything = (*self.positives, *self.rows)
        told = [row for row in everything if isinstance(row, Standing)]
        wide = [max(map(len, column)) for column in zip(HEAD[:4], *(cells(row)[:4] for row in told), strict=True)]

        def line(row: tuple[str, ...]) -> str:
            rank, score, found_by, verdict, passage = row
            return (
                f"  {rank:>{wide[0]}}  {score:>{wide[1]}}  {found_by:<{wide[2]}}  {verdict:<{wide[3]}}  {passage}"
            ).rstrip()

        lines = [f"Query {shown(self.name)}", f"  {shown(self.query, 400)}", "", "Known positives", line(HEAD)]
        lines += [line(cells(row)) for row in self.positives]
        lines += ["", self.summary, self.bound, line(HEAD)]
        lines += [f"  ... {row}" if isinstance(row, Gap) else line(cells(row)) for row in self.rows]
        closing = [note for note in (self.brackets, *self.notes) if note]
        return "\n".join([*lines, *(["", *closing] if closing else [])])


def tell(mined: MinedNegatives, query_id: str, *, limit: int = 20) -> Story:
    """The ranked story of one query.

    Args:
        mined: the negatives with their evidence.
        query_id: id of the query.
        limit: the first so many candidates are told one by one, and every negative; the others are counted.

    Returns:
        the story.

    Raises:
        ValueError: for a limit below 1, or when there is no such query; names the nearest.
    """
    checks.at_least("limit", limit, 1)
    ids = mined.queries.ids
    query = next((i for i, name in enumerate(ids) if name == str(query_id)), None)
    if query is None:
        raise ValueError(f"no query has the id {str(query_id)!r:.80}: {_nearest(mined, str(query_id))}.")
    standings = _candidates(mined, query)
    kinds = Counter(row.kind for row in standings)
    kept = f"{kinds['passed over']:,} kept and not picked" if mined.passed_over else "others kept and not picked"
    total = f"{len(standings):,} candidates: " if mined.passed_over else "Of the candidates "
    notes = []
    if not mined.passed_over:
        notes.append("What was kept and not picked is not in these results: mine again to see it.")
    if not mined.known:
        notes.append("Scores and ranks of the positives are not in these results: mine again to see them.")
    return Story(
        name=ids[query],
        query=mined.queries.texts[query],
        positives=tuple(_positives(mined, query)),
        rows=tuple(_told(standings, limit)),
        summary=f"{total}{kinds['negative']:,} picked, {kept}, {kinds['dropped']:,} dropped",
        bound=_bound(mined, query),
        notes=tuple(notes),
    )


def ceilings(mined: MinedNegatives) -> Array:
    """The score that a negative of each query had to stay below.

    Args:
        mined: the negatives with their settings.

    Returns:
        (q,) float, ``inf`` where no margin was in force.
    """
    from tamis.negatives.filters import margin_ceiling

    rules = mined.summary["settings"]
    kinds = {kind: rules.get(kind) for kind in ("absolute", "relative", "percentage")}
    ceiling = margin_ceiling(mined.reference_scores, **kinds)
    bound = rules.get("score_ceiling")
    return ceiling if bound is None else np.minimum(ceiling, np.float32(bound))


def cells(row: Standing) -> tuple[str, str, str, str, str]:
    """A passage as the texts of a row: rank, score, sources, verdict, id and the beginning of its text."""
    name = "" if row.name == row.text else f"[{shown(row.name, 40)}] "
    return row.standing, _score(row.score), row.found_by, row.verdict, f"{name}{shown(row.text, _SNIPPET)}"


def shown(text: str, clip: int = 120) -> str:
    """A text from data on one line of a screen: clipped, and nothing in it that a terminal would obey.

    Example:
        >>> shown("one  two three four", 12)
        'one two thr…'
    """
    flat = " ".join(text.split())
    plain = "".join(c if c.isprintable() else "\ufffd" for c in flat[: clip + 1])
    return plain if len(plain) <= clip else plain[: clip - 1] + "\u2026"


def as_html(story: Story) -> str:
    """The story as a table behind a click; every text is escaped.

    Args:
        story: the story.

    Returns:
        HTML.
    """
    rows = []
    for row in (*story.positives, *story.rows):
        if isinstance(row, Gap):
            rows.append(f'<tr class="gap"><td></td><td colspan="4">\u2026 {escape(row)}</td></tr>')
            continue
        rank, score, found_by, verdict, _ = cells(row)
        style = {"positive": "positive", "negative": "kept", "dropped": "dropped"}.get(row.kind, "passed")
        name = "" if row.name == row.text else f'<span class="name">{escape(row.name)}</span>'
        rows.append(
            f'<tr class="{style}"><td class="number">{rank}</td><td class="number">{score}</td>'
            f'<td>{escape(found_by)}</td><th scope="row">{escape(verdict)}</th>'
            f"<td>{name}{clipped(row.text, 140)}</td></tr>"
        )
    head = "".join(
        f'<th scope="col"{number_style}>{title}</th>'
        for title, number_style in zip(HEAD, (' class="number"', ' class="number"', "", "", ""), strict=True)
    )
    words = "".join(f"<p>{escape(line)}</p>" for line in (story.bound, story.brackets, *story.notes) if line)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    return (
        f'<details class="story"><summary><span class="more">the ranked story</span> '
        f"<small>{escape(story.summary)}</small></summary>{words}"
        f'<div class="scroll">{table}</div></details>'
    )


def _candidates(mined: MinedNegatives, query: int) -> list[Standing]:
    """Every candidate of a query, by rank; those that do not reach the pool last."""
    texts, ids = mined.corpus.texts, mined.corpus.ids

    def rows(columns: dict[str, Array], kind: str, what: str) -> list[tuple[int, Standing]]:
        found = []
        at = np.flatnonzero(columns["query"] == query) if columns else np.empty(0, np.int64)
        for place, i in enumerate(at.tolist(), 1):
            row = int(columns[what][i])
            evidence: dict[str, Any] = {"place": place} if kind == "negative" else {}
            if kind == "dropped":
                rival = int(columns["rival"][i])
                evidence = {
                    "rule": str(columns["rule"][i]),
                    "rival": ids[rival] if rival >= 0 else "",
                    "rival_score": float(columns["rival_score"][i]),
                }
            rank, score = int(columns["rank"][i]), float(columns["score"][i])
            sources = source_name(int(columns["source"][i]), mined.sources)
            found.append((row, Standing(kind, ids[row], texts[row], rank, score, sources, **evidence)))
        return found

    everything = [
        *rows(mined.negatives, "negative", "negative"),
        *rows(mined.passed_over, "passed over", "candidate"),
        *rows(mined.dropped, "dropped", "candidate"),
    ]
    # What was ruled out before the search stands before the candidate whose rank it would take.
    everything.sort(key=lambda item: (item[1].rank <= 0, item[1].rank, item[1].found_by != "", item[0]))
    return [standing for _, standing in everything]


def _positives(mined: MinedNegatives, query: int) -> list[Standing]:
    texts, ids = mined.corpus.texts, mined.corpus.ids
    if not mined.known:
        own = mined.positives[query].tolist()
        score = float(mined.reference_scores[query]) if len(own) == 1 else math.nan
        return [Standing("positive", ids[p], texts[p], 0, score) for p in own]
    known = mined.known
    at = np.flatnonzero(known["query"] == query)
    told = known["positive"][at].tolist()
    measured = [
        Standing("positive", ids[p], texts[p], int(known["rank"][i]), float(known["score"][i]))
        for i, p in zip(at.tolist(), told, strict=True)
    ]
    # A judge may have made positives of candidates: these stand in the story with their rank below.
    added = [p for p in mined.positives[query].tolist() if p not in told]
    return [*measured, *(Standing("positive", ids[p], texts[p], 0, math.nan) for p in added)]


def _told(standings: list[Standing], limit: int) -> list[Standing | Gap]:
    """The first ones and every negative; the others counted, gap by gap."""
    rows: list[Standing | Gap] = []
    gap: list[Standing] = []

    def close() -> None:
        if gap:
            counts = Counter(f"dropped: {row.rule}" if row.kind == "dropped" else row.verdict for row in gap)
            rows.append(Gap(gap[0].rank, gap[-1].rank, tuple(counts.most_common())))
            gap.clear()

    for number_, row in enumerate(standings):
        if gap and row.rank <= 0 < gap[-1].rank:
            close()
        if number_ < limit or row.kind == "negative":
            close()
            rows.append(row)
        else:
            gap.append(row)
    close()
    return rows


def _bound(mined: MinedNegatives, query: int) -> str:
    """What a negative of the query had to stay below."""
    ceiling, reference = float(ceilings(mined)[query]), float(mined.reference_scores[query])
    what = mined.summary.get("score", "score")
    if math.isinf(ceiling) and ceiling > 0:
        return "No margin was in force."
    if math.isinf(reference):
        return f"A known positive has no {what}, so nothing is known to lie below it: the margin drops all."
    rules = mined.summary["settings"]
    named = [
        f"{name} {rules[key]:.4g}"
        for key, name in (
            ("absolute", "absolute margin"),
            ("relative", "relative margin"),
            ("percentage", "percentage"),
            ("score_ceiling", "score ceiling"),
        )
        if rules.get(key) is not None
    ]
    at = f"{rules.get('against', 'lowest')} positive at {_score(reference)}"
    odds = rules.get("odds_ceiling")
    likely = "" if odds is None else f" Its log-odds of being an answer had to stay below {_score(odds)}."
    return f"A negative had to stay below the {what} {_score(ceiling)} ({', '.join(named)}; {at}).{likely}"


def _score(value: float) -> str:
    return "no score" if value == -math.inf else number(value, 4)


def _nearest(mined: MinedNegatives, asked: str) -> str:
    """Ids that are like what was asked for, or of queries whose text holds it."""
    ids, folded = mined.queries.ids, " ".join(asked.split()).casefold()
    holding = [
        name
        for name, text in zip(ids, mined.queries.texts, strict=True)
        if len(folded) > 3 and folded in text.casefold()
    ]
    if holding:
        return "queries whose text holds it: " + ", ".join(repr(name) for name in holding[:5])
    sample = [name for name in ids if abs(len(name) - len(asked)) <= 2] if len(ids) > 20_000 else list(ids)
    near = difflib.get_close_matches(asked, sample[:100_000], n=3, cutoff=0.0)
    return "the nearest are " + ", ".join(repr(name) for name in near or ids[:3])
