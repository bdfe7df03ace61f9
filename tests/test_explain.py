"""Stories: every candidate of a query told once, in order, with its verdict, on screen, in a pipe and on the page."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest

from tamis import cli, mining_report, runs, story
from tamis.cli import explaining
from tamis.negatives.mine import mine_negatives as mine
from tests import verses
from tests.test_report import NASTY, Reader

# The query lies at 0 degrees, its positives at 20 and 90; "twin" is a copy of the first, "f" repeats "e".
ANGLES = np.deg2rad([20, 90, 5, 40, 60, 60, 80, 20])
CORPUS = {
    "p1": "The answer",
    "p2": "Another",
    "near": "c",
    "d": "d",
    "e": "e",
    "f": "E!",
    "g": "g",
    "twin": "the ANSWER",
}


@pytest.fixture
def small():
    vectors = np.stack([np.cos(ANGLES), np.sin(ANGLES)], 1)
    return mine({"q-1": "what?", "q-2": "how?"}, CORPUS, {"q-1": ["p1", "p2"], "q-2": ["g"]}, against="highest",
                query_embeddings=np.array([[1.0, 0.0], [0.0, 1.0]]), corpus_embeddings=vectors,
                negatives=1, percentage=0.95)  # fmt: skip


@pytest.fixture(scope="module")
def mined():
    return mine(verses.data(both=200), encoder=verses.LetterEncoder(), percentage=0.92, negatives=3, depth=60)


def test_worked_story(small):
    """cos 20 = 0.9397 is the highest positive, so the bound is 0.8927: only cos 5 is above it; d is picked."""
    told = small.explain("q-1")
    assert [(row.name, row.standing, row.verdict) for row in told.rows] == [
        ("near", "1", "dropped: margin (p1 0.9397)"),
        ("twin", "(2)", "dropped: same normalised text as a positive (p1 0.9397)"),
        ("d", "2", "negative 1"),
        ("e", "3", "kept, not picked"),
        ("f", "4", "dropped: repeated text (e)"),
        ("g", "5", "kept, not picked"),
    ]
    assert [(row.name, row.rank) for row in told.positives] == [("p1", 2), ("p2", 6)]
    assert [row.score for row in told.positives] == pytest.approx([np.cos(np.deg2rad(20)), 0], abs=1e-6)
    assert [row.score for row in told.rows] == pytest.approx(np.cos(np.deg2rad([5, 20, 40, 60, 60, 80])), abs=1e-6)
    assert (
        told.bound
        == "A negative had to stay below the similarity 0.8927 (percentage 0.95; highest positive at 0.9397)."
    )
    assert told.summary == "6 candidates: 1 picked, 2 kept and not picked, 3 dropped"
    assert all(row.found_by == "dense" for row in told.rows if row.name != "twin")


def test_it_prints_as_lines(small):
    """The text has the query, the bound, one line per passage in columns, and says what brackets mean."""
    lines = str(small.explain("q-1")).splitlines()
    assert lines[:2] == ["Query q-1", "  what?"]
    (negative,) = [line for line in lines if "negative 1" in line]
    assert re.fullmatch(r" +2  0\.7660  dense +negative 1 +d", negative.replace("[d] ", ""))
    assert "A rank in brackets is where a passage would stand that was ruled out before the search." in lines[-1]
    starts = {line.index("dense") for line in lines if "dense" in line}
    assert len(starts) == 1
    assert not any(line.endswith(" ") for line in lines)


@pytest.mark.parametrize("limit", [1, 3, 1000])
def test_every_candidate_is_told_or_counted_once(mined, limit):
    """Rows and counts together are the whole pool and what was ruled out; every negative is told, in order of rank."""
    for query in (0, 7, 150, 400):
        told = mined.explain(mined.queries.ids[query], limit=limit)
        rows = [row for row in told.rows if isinstance(row, story.Standing)]
        gaps = [row for row in told.rows if isinstance(row, story.Gap)]
        counted = sum(count for gap in gaps for _, count in gap.counts)
        own = {t: (columns["query"] == query).sum() for t, columns in
               (("n", mined.negatives), ("d", mined.dropped), ("p", mined.passed_over))}  # fmt: skip
        assert len(rows) + counted == sum(own.values()) >= 60
        assert [row.place for row in rows if row.kind == "negative"] == list(range(1, own["n"] + 1))
        assert len(gaps) == 0 if limit == 1000 else len(gaps) > 0
        ranks = [row.rank if isinstance(row, story.Standing) else row.first for row in told.rows]
        assert [r for r in ranks if r > 0] == sorted(r for r in ranks if r > 0)
        if limit == 1000:
            pool = [row.rank for row in rows if row.found_by]
            assert pool == list(range(1, 61))


def test_passed_over_and_the_others_are_the_whole_pool(mined):
    """The three tables share no pair, and together hold exactly the candidates of the search."""
    pairs = [
        set(zip(t["query"].tolist(), t[c].tolist(), strict=True))
        for t, c in ((mined.negatives, "negative"), (mined.dropped, "candidate"), (mined.passed_over, "candidate"))
    ]
    assert sum(map(len, pairs)) == len(set.union(*pairs))
    searched = sum(row["count"] for row in mined.summary["funnel"] if row["step"] == "candidates")
    assert len(set.union(*pairs)) == searched
    assert {a.dtype for a in mined.passed_over.values()} == {np.dtype(t) for t in ("int32", "float32", "uint8")}


def test_a_saved_run_tells_the_same_story(mined, tmp_path):
    """What was saved and loaded tells what the fresh result tells, to the letter."""
    mined.save(tmp_path / "run")
    again = runs.load(tmp_path / "run")
    for query in mined.queries.ids[::97]:
        assert str(again.explain(query)) == str(mined.explain(query))


def test_earlier_results_say_what_they_do_not_hold(small):
    """Without the stored candidates the story tells what there is and how to see the rest."""
    told = replace(small, passed_over={}, known={}).explain("q-1")
    assert [row.name for row in told.rows] == ["near", "twin", "d", "f"]
    assert told.summary == "Of the candidates 1 picked, others kept and not picked, 3 dropped"
    assert len(told.notes) == 2 and all("mine again" in note for note in told.notes)
    assert [row.standing for row in told.positives] == ["–", "–"]
    (alone,) = replace(small, known={}).explain("q-2").positives
    assert alone.score == pytest.approx(np.sin(np.deg2rad(80)))


def test_positives_that_a_judge_added_are_told(small):
    """A positive that mining made of a candidate stands among the positives."""
    added = replace(small, positives=[np.append(small.positives[0], 4), small.positives[1]])
    assert [row.name for row in added.explain("q-1").positives] == ["p1", "p2", "e"]


def test_bounds_without_margin_and_without_score(small):
    """No margin is said to be none, and a positive without a score is said to have none."""
    settings = small.summary["settings"]
    free = replace(small, summary=small.summary | {"settings": settings | {"percentage": None}})
    assert free.explain("q-1").bound == "No margin was in force."
    lacking = replace(small, reference_scores=np.full(2, -np.inf, np.float32))
    assert "has no similarity, so nothing is known to lie below it" in lacking.explain("q-1").bound
    capped = replace(small, summary=small.summary | {"settings": settings | {"score_ceiling": 0.5}})
    assert "below the similarity 0.5000 (percentage 0.95, score ceiling 0.5;" in capped.explain("q-1").bound


def test_unknown_queries_are_answered_with_the_nearest(small):
    """A mistyped id is answered with the nearest ids, a text with the queries that hold it; a limit of 0 is refused."""
    with pytest.raises(ValueError, match="no query has the id 'q1': the nearest are 'q-1', 'q-2'"):
        small.explain("q1")
    with pytest.raises(ValueError, match="queries whose text holds it: 'q-1'"):
        small.explain("WHAT?")
    with pytest.raises(ValueError, match="limit must be at least 1: got 0"):
        small.explain("q-1", limit=0)


def test_nothing_in_a_text_reaches_the_terminal_or_the_page_as_a_command(small):
    """Escapes, tags, line ends and lone surrogates in texts and ids are shown, not obeyed."""
    nasty = f"\x1b[31m{NASTY}[bold]\n\r"
    told = replace(
        small,
        queries=replace(small.queries, texts=[nasty, "how?"]),
        corpus=replace(small.corpus, ids=[f"{i}{nasty}" for i in range(8)], texts=[nasty] * 8),
    ).explain("q-1")
    text = str(told)
    assert "\x1b" not in text and "\ud800" not in text and "\r" not in text and "[bold]" in text
    assert len(text.splitlines()) == len(str(small.explain("q-1")).splitlines())
    page = story.as_html(told)
    plain = Reader(story.as_html(small.explain("q-1")))
    assert "script" not in {tag for tag, _ in Reader(page).tags} and "<script>alert" in Reader(page).text
    allowed = "details summary span small p div table thead tbody tr th td"
    assert {tag for tag, _ in plain.tags} <= set(allowed.split())
    page.encode("utf-8")


def test_the_page_opens_the_story_of_every_example(mined):
    """Each example of the report has its story behind a click, with the same candidates as in the text."""
    page = mining_report.page_of(mined)
    html = mining_report.render(page)
    assert html.count('<details class="story">') == len(page.examples) > 5
    first = page.examples[0].story
    shown = Reader(story.as_html(first))
    assert "the ranked story" in shown.text and first.summary in shown.text and first.bound in shown.text
    assert len(shown.all("tr")) == 1 + len(first.positives) + len(first.rows)
    assert len(shown.all("tr", **{"class": "kept"})) == sum(
        getattr(row, "kind", "") == "negative" for row in first.rows
    )


def command(capsys, *arguments):
    try:
        cli.main([str(a) for a in arguments])
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    out = capsys.readouterr()
    return code, out.out, out.err


def test_command_line(capsys, mined, tmp_path):
    """In a pipe the command prints the text; an unknown id costs one line with the nearest ids and exit code 2."""
    mined.save(tmp_path / "run")
    code, text, err = command(capsys, "explain", tmp_path / "run", mined.queries.ids[3], "--limit", 5)
    assert (code, err) == (0, "") and text == f"{mined.explain(mined.queries.ids[3], limit=5)}\n"
    code, text, err = command(capsys, "explain", tmp_path / "run", "1:999")
    assert (code, text) == (2, "") and err.count("\n") == 1
    assert err.startswith("tamis: no query has the id '1:999': the nearest are '1:")
    code, _, err = command(capsys, "explain", tmp_path / "none", "1:1")
    assert code == 2 and "holds no finished mining run" in err


@pytest.mark.parametrize("width", [60, 100, 200])
def test_in_a_terminal_it_is_a_table(small, capsys, width, monkeypatch):
    """On a terminal the story is a table that fits its width, with every verdict in it."""
    monkeypatch.setattr("sys.stdout", out := io.StringIO())
    explaining.draw(small.explain("q-1"), width=width)
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    flat = " ".join(" ".join(lines).split())
    assert "Query q-1" in flat and "negative 1" in flat and "A rank in brackets" in flat


def test_runs_are_told_by_their_names(tmp_path):
    """With candidates from a run file the story names it, and says which pairs have no score."""
    (tmp_path / "web.trec").write_text("q Q0 c 1 3 x\nq Q0 a 2 2 x\nq Q0 d 3 1 x\n")
    corpus = {name: f"text {name}" for name in "abcd"}
    found = mine({"q": "words"}, corpus, {"q": ["a", "b"]}, candidates_from=[], runs=[tmp_path / "web.trec"],
                 against="highest", relative_margin=0.1)  # fmt: skip
    told = found.explain("q")
    assert [(row.name, row.standing, row.score) for row in told.positives] == [("a", "(2)", 2.0), ("b", "–", -np.inf)]
    assert [(row.found_by, row.verdict) for row in told.rows] == [
        ("web", "dropped: margin (a 2.0000)"),
        ("web", "negative 1"),
    ]
    assert "below the score of web 1.8000" in told.bound and "no score" in str(told)
    json.dumps(found.summary, allow_nan=False)
