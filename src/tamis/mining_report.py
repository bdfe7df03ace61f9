"""The report page of a mined set: funnel, scores, survival curve, and examples chosen to be judged by eye."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tamis.charts import Kind
from tamis.report import (
    EXAMPLES,
    Example,
    Histogram,
    Passage,
    ReportPage,
    Section,
    SurvivalCurve,
    Tile,
    Training,
    TrainingRow,
    render,
    write,
)
from tamis.results import MinedNegatives, source_name
from tamis.story import ceilings, tell

Array = np.ndarray[Any, Any]
BINS = 60
SHOWN = 2  # kept and dropped passages per example
TOLD = 20  # candidates per story


def write_page(
    mined: MinedNegatives,
    path: Path,
    *,
    training: Sequence[Mapping[str, Any]] = (),
    truth: Mapping[str, Mapping[str, Any]] | None = None,
    answers: Sequence[Array] | None = None,
) -> None:
    """Write the report of a mined set as one self-contained HTML page.

    Args:
        mined: the negatives with their evidence.
        path: the file.
        training: rows of a comparison of models: model, nDCG@10, MRR@10, and gap (see ``intervals.paired_bootstrap``).
        truth: per miner the count, n and rate of negatives that a fuller judgement calls positives.
        answers: per query all corpus rows that answer it, if they are known: examples are marked by them.
    """
    write(path, render(page_of(mined, training=training, truth=truth, answers=answers)))


def page_of(
    mined: MinedNegatives,
    *,
    training: Sequence[Mapping[str, Any]] = (),
    truth: Mapping[str, Mapping[str, Any]] | None = None,
    answers: Sequence[Array] | None = None,
) -> ReportPage:
    """The numbers and texts of the page.

    Args:
        mined: the negatives with their evidence.
        training: see ``write_page``.
        truth: see ``write_page``.
        answers: per query all corpus rows that answer it, int64 (a,), if they are known.

    Returns:
        what ``report.render`` draws.
    """
    summary = mined.summary
    data, audit = summary["data"], summary["audit"]
    facts = [
        f"{data['queries']:,} queries, {data['passages']:,} passages, {data['positives']:,} known positives",
        _found_by(mined),
    ]
    facts += [search["says"] for search in [summary.get("search")] if search]
    return ReportPage(
        title=f"Negatives for {data['name']}",
        subtitle=facts,
        tiles=_tiles(mined, truth),
        warnings=audit["warnings"],
        audit=_audit_sentences(audit, truth),
        curve=_curve(audit),
        funnel=[(row["step"], row["count"]) for row in summary["funnel"]],
        histograms=_histograms(mined),
        marks=[("ceiling", audit["margin"]["value"])] if audit.get("margin", {}).get("kind") == "score ceiling" else (),
        score=summary.get("score", "BM25 score" if summary["settings"]["candidates_from"] == "bm25" else "similarity"),
        examples=_examples(mined, answers),
        training=_training(training),
        sections=[_skew(summary["skew"])],
        details={
            "Settings": {k: v for k, v in summary["settings"].items() if v not in (None, "")},
            "Versions": summary["versions"],
            "Seconds": summary["seconds"],
        },
    )


def _found_by(mined: MinedNegatives) -> str:
    """Who found the candidates."""
    settings = mined.summary["settings"]
    words = settings["candidates_from"] == "both" or "bm25" in settings["candidates_from"]
    parts = [f"encoder: {settings['encoder']}" if settings["encoder"] else "no encoder"]
    parts += ["BM25"] if words else []
    return ", ".join(parts + [f"run {name}" for name in settings.get("runs") or ()])


def _tiles(mined: MinedNegatives, truth: Mapping[str, Mapping[str, Any]] | None) -> list[Tile]:
    audit, skew = mined.summary["audit"], mined.summary["skew"]
    tiles = [Tile("negatives", len(mined), f"{skew['per_query_mean']:.1f} per query")]
    found = mined.summary.get("search")
    if found:
        low, high = found["interval"]
        tiles.append(Tile("recall of the search", f"{found['rate']:.1%}", f"{low:.1%} to {high:.1%} of an exact one"))
    seen = audit.get("verification")
    if seen and seen["rate"] is not None:
        low, high = seen["interval"]
        tiles.append(Tile("survival rate", f"{seen['rate']:.1%}", f"{low:.1%} to {high:.1%}"))
    margin = audit.get("margin")
    if margin and margin["value"] is not None:
        target = audit.get("target")
        note = f"for a survival of at most {target:.0%}" if target not in (None, 1) and seen else "as given"
        tiles.append(Tile(margin["kind"] + (" margin" if margin["kind"] == "relative" else ""), margin["value"], note))
    for name, found in (truth or {}).items():
        rate = "unknown" if found["rate"] is None else f"{found['rate']:.1%}"
        tiles.append(Tile(f"false, {name}", rate, f"{found['count']:,} of {found['n']:,}"))
    return tiles


def _audit_sentences(audit: Mapping[str, Any], truth: Mapping[str, Mapping[str, Any]] | None) -> list[str]:
    sentences = [audit["says"]]
    if audit["mode"] == "positive odds":
        sentences.append(
            f"Without a ceiling {audit['expected_false']:.1%} of the negatives would be false, as far as the odds can "
            "tell."
        )
    kept = audit.get("kept_by_rules")
    if kept and kept["rate"] is not None:
        sentences.append(
            f"The rules alone would have let {kept['rate']:.1%} of them pass; the others were passed over because "
            "harder candidates came first."
        )
    for name, found in (truth or {}).items():
        if found["rate"] is not None:
            sentences.append(
                f"By the full labels {found['count']:,} of the {found['n']:,} negatives of {name} are answers "
                f"({found['rate']:.1%})."
            )
    return sentences


def _curve(audit: Mapping[str, Any]) -> SurvivalCurve | None:
    curve = audit.get("curve")
    if not curve:
        return None
    margin = audit["margin"]
    target = audit.get("target")
    on_axis = margin["kind"] in ("relative", "score ceiling", "odds ceiling")
    return SurvivalCurve(
        margin=curve["margin"],
        verification=curve["verification"],
        low=curve["low"],
        high=curve["high"],
        calibration=() if all(v is None for v in curve["calibration"]) else curve["calibration"],
        chosen=margin["value"] if on_axis else None,
        max_survival=target if target != 1 else None,
        axis={"score ceiling": "score ceiling", "odds ceiling": "log-odds ceiling"}.get(
            margin["kind"], "relative margin"
        ),
    )


def _histograms(mined: MinedNegatives) -> list[Histogram]:
    groups: tuple[tuple[str, Array, Kind], ...] = (
        ("known positives", mined.reference_scores, "positive"),
        ("kept as negatives", mined.negatives["score"], "kept"),
        ("dropped", mined.dropped["score"], "dropped"),
    )
    finite = [(label, scores[np.isfinite(scores)], kind) for label, scores, kind in groups]
    everything = np.concatenate([scores for _, scores, _ in finite])
    if len(everything) == 0:
        return []
    edges = np.histogram_bin_edges(everything, BINS)
    return [Histogram(label, edges, np.histogram(s, edges)[0], kind) for label, s, kind in finite if len(s)]


def _examples(mined: MinedNegatives, answers: Sequence[Array] | None) -> list[Example]:
    """Half of them the queries with the hardest negatives, half spread over the others; a text is asked once."""
    kept = mined.negatives
    by_kept, by_dropped = _by_query(kept["query"]), _by_query(mined.dropped["query"])
    hardest = {q: float(kept["score"][rows].max()) for q, rows in by_kept.items()}
    order: list[int] = []
    asked: set[str] = set()
    for q in sorted(hardest, key=lambda q: (q not in by_dropped, -hardest[q], q)):
        text = mined.queries.texts[q]
        if text not in asked:
            asked.add(text)
            order.append(q)
    half = EXAMPLES // 2
    rest = order[half:]
    spread = np.unique(np.linspace(0, len(rest) - 1, half).astype(int)).tolist() if rest else []
    chosen = order[:half] + [rest[i] for i in spread]
    bounds = ceilings(mined)
    return [_example(mined, q, by_kept[q], by_dropped.get(q, []), answers, float(bounds[q])) for q in chosen]


def _example(
    mined: MinedNegatives,
    query: int,
    kept: Sequence[int],
    dropped: Sequence[int],
    answers: Sequence[Array] | None,
    ceiling: float,
) -> Example:
    texts, ids = mined.corpus.texts, mined.corpus.ids
    known = set(() if answers is None else answers[query].tolist())

    def tag(row: int) -> str:
        return "an answer by the full labels" if row in known else ""

    def name(row: int) -> str:
        return "" if ids[row] == texts[row] else ids[row]

    def negative(i: int) -> Passage:
        row = int(mined.negatives["negative"][i])
        facts = {c: mined.negatives[c][i] for c in ("score", "rank", "source")}
        source = source_name(int(facts["source"]), mined.sources)
        return Passage(texts[row], float(facts["score"]), int(facts["rank"]), source, name(row), tag=tag(row))

    def candidate(i: int) -> Passage:
        columns = mined.dropped
        row, rival = int(columns["candidate"][i]), int(columns["rival"][i])
        score = float(columns["rival_score"][i])
        rank = int(columns["rank"][i])
        return Passage(
            texts[row], float(columns["score"][i]), rank if rank > 0 else None,
            source_name(int(columns["source"][i]), mined.sources), name(row),
            rule=str(columns["rule"][i]), rival=texts[rival] if rival >= 0 else "",
            rival_score=score if np.isfinite(score) else None, tag=tag(row),
        )  # fmt: skip

    # What the margin dropped stands next to what it kept; copies and repeats tell less.
    by_margin = [i for i in dropped if mined.dropped["rule"][i] in ("margin", "guide")] or dropped
    lowest = sorted(by_margin, key=lambda i: (float(mined.dropped["score"][i]), i))
    hard = sorted(kept, key=lambda i: (-float(mined.negatives["score"][i]), i))
    known_answers = mined.positives[query][:3].tolist()
    # The score that is kept is that of the positive the margin was measured from.
    own = float(mined.reference_scores[query]) if len(mined.positives[query]) == 1 else None
    positives = [Passage(texts[p], own, name=name(p)) for p in known_answers]
    return Example(
        query=mined.queries.texts[query],
        positives=positives,
        kept=[negative(i) for i in hard[:SHOWN]],
        dropped=[candidate(i) for i in lowest[:SHOWN]],
        name=mined.queries.ids[query],
        ceiling=float(ceiling) if np.isfinite(ceiling) else None,
        story=tell(mined, mined.queries.ids[query], limit=TOLD),
    )


def _by_query(queries: Array) -> dict[int, list[int]]:
    order = np.argsort(queries, kind="stable")
    found, starts = np.unique(queries[order], return_index=True)
    return {int(q): part.tolist() for q, part in zip(found, np.split(order, starts[1:]), strict=bool(len(found)))}


def _training(rows: Sequence[Mapping[str, Any]]) -> Training | None:
    if not rows:
        return None
    lines = []
    for row in rows:
        gap = row["gap"] or {}
        lines.append(
            TrainingRow(
                row["model"], row["nDCG@10"], row["MRR@10"], gap.get("difference"), gap.get("low"), gap.get("high")
            )
        )
    return Training(
        lines,
        difference="Tamis minus this model, nDCG@10, 95 %",
        notes=["Every model was trained for the same steps from the same weights, and judged with all labels."],
    )


def _skew(skew: Mapping[str, Any]) -> Section:
    return Section(
        "How evenly the negatives fall",
        ["A passage that is a negative for many queries is a hub: a model learns to push it away from everything."],
        ("", ""),
        [
            ("queries without a negative", skew["queries_without"]),
            ("passages in use", skew["passages_used"]),
            ("share of the corpus in use", f"{skew['share_of_corpus']:.1%}"),
            ("share of all negatives that the most used 1 % of passages take", f"{skew['top_1_percent_take']:.1%}"),
            ("uses of the most used passage", skew["most_used"]),
        ],
    )
