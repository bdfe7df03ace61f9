"""TREC run files: read as trec_eval orders them, written so that they read back, and what is wrong is named by line."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis import trec

QUERIES, CORPUS = ["q1", "q2", "q3"], ["a", "b", "c", "d"]
GOOD = "q1 Q0 b 1 2.5 x\nq1 Q0 a 2 1.25 x\nq3 Q0 d 1 -1e-3 x\n"


def read(tmp_path, content, name="a.trec"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return trec.read_run(path, QUERIES, CORPUS)


def rows(run):
    return list(zip(run.query.tolist(), run.passage.tolist(), run.scores.tolist(), strict=True))


EXPECTED = [(0, 1, 2.5), (0, 0, 1.25), (2, 3, pytest.approx(-1e-3))]


@pytest.mark.parametrize(
    "content",
    [
        GOOD,
        GOOD.replace(" ", "\t"),
        GOOD.replace(" ", "  "),
        "\ufeff" + GOOD,
        GOOD.replace("\n", "\r\n"),
        "\n" + GOOD.replace("\n", "\n\n"),
        GOOD.rstrip("\n"),
        gzip.compress(GOOD.encode(), mtime=0),
        "".join(reversed(GOOD.splitlines(keepends=True))),
    ],
    ids=["spaces", "tabs", "two spaces", "mark", "crlf", "blank lines", "no end", "gzip", "any order"],
)
def test_every_way_of_writing_it_reads_the_same(tmp_path, content):
    """Separators, line ends, compression, blank lines and the order of lines make no difference."""
    run = read(tmp_path, content)
    assert rows(run) == EXPECTED
    assert (run.name, run.foreign, run.missing) == ("a", 0, 1)
    assert run.scores.dtype == np.float32


def test_score_orders_and_the_rank_decides_between_equals(tmp_path):
    """The score stands above the rank, as in trec_eval; equal scores fall to the rank, then to the corpus row."""
    run = read(tmp_path, "q1 Q0 a 1 1 x\nq1 Q0 b 2 5 x\nq1 Q0 d 7 1 x\nq1 Q0 c 7 1 x\n")
    assert run.passage.tolist() == [1, 0, 2, 3]


def test_lines_of_other_queries_are_counted(tmp_path):
    """Queries that the data do not hold are left out and counted, whatever their lines say."""
    run = read(tmp_path, GOOD + "q9 Q0 nowhere 1 nan x\nq8 Q0 a 1 1 x\n")
    assert rows(run) == EXPECTED and run.foreign == 2


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("q1 Q0 a 1 2.5\n", "a.trec, line 1: a TREC run has six fields .* got 5"),
        (GOOD + "q1 Q0 c 1 2.5 x y\n", "line 4: a TREC run has six fields .* got 7"),
        (GOOD + "q2 Q0 z 1 2.5 x\n", "line 4: the passage 'z' is not in the corpus"),
        (GOOD + "q2 Q0 a 1 nan x\n", "line 4: the score must be a finite number: got 'nan'"),
        (GOOD + "q2 Q0 a 1 1e99 x\n", "line 4: the score must be a finite number: got '1e99'"),
        (GOOD + "q2 Q0 a 1 high x\n", "line 4: the score must be a finite number: got 'high'"),
        (GOOD + "q2 Q0 a first 1 x\n", "line 4: the rank must be a finite number: got 'first'"),
        (GOOD + "q1 Q0 a 3 0.5 x\n", "line 4: the passage 'a' stands on line 2 already for the query 'q1'"),
        ("", "names none of the 3 queries"),
        ("q7 Q0 a 1 1 x\n", "names none of the 3 queries"),
        (GOOD.encode() + b"q2 Q0 \xff 1 1 x\n", "line 4: not UTF-8"),
        (gzip.compress(GOOD.encode(), mtime=0)[:-9], "is not a whole gzip file"),
        ((GOOD + "\nq2 Q0 z 1 2.5 x\n").replace(" ", "\t"), "line 5: the passage 'z'"),
    ],
)
def test_bad_files_name_the_line(tmp_path, content, says):
    """What is wrong is said in one line with the file and the line."""
    with pytest.raises(ValueError, match=says):
        read(tmp_path, content)


def test_a_missing_file_is_named(tmp_path):
    """A file that is not there is said to be missing, with the form it should have."""
    with pytest.raises(FileNotFoundError, match=r"no.trec does not exist: give a TREC run file"):
        trec.read_run(tmp_path / "no.trec", QUERIES, CORPUS)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_what_is_written_reads_back(tmp_path_factory, data):
    """Any ranking comes back as it was, to the bit of its scores, compressed or not, fast path or slow."""
    path = tmp_path_factory.mktemp("run") / data.draw(st.sampled_from(["a.run", "a.run.gz"]))
    width = data.draw(st.integers(1, 4))
    indices = np.array([data.draw(st.permutations(range(4)))[:width] for _ in QUERIES])
    scores = data.draw(st.lists(st.floats(-(2.0**99), 2.0**99, width=32), min_size=3 * width, max_size=3 * width))
    scores = -np.sort(-np.array(scores, np.float32).reshape(3, width), axis=1)
    ends = np.arange(width) >= np.array([width, data.draw(st.integers(0, width)), width])[:, None]
    indices, scores = np.where(ends, -1, indices), np.where(ends, -np.inf, scores).astype(np.float32)
    assert trec.write_run(path, QUERIES, CORPUS, indices, scores) == (~ends).sum()
    run = trec.read_run(path, QUERIES, CORPUS)
    row, place = np.nonzero(~ends)
    assert (run.query.tolist(), run.passage.tolist()) == (row.tolist(), indices[row, place].tolist())
    assert np.array_equal(run.scores, scores[row, place])
    slow = trec._line_by_line(path, QUERIES, CORPUS)
    assert slow.passage.tolist() == run.passage.tolist() and np.array_equal(slow.score.astype(np.float32), run.scores)


def test_writing_refuses_what_cannot_be_read(tmp_path):
    """Rising scores, ids with spaces and shapes that do not fit are refused, and nothing is left behind."""
    path = tmp_path / "a.run"
    two = np.array([[0, 1]])
    cases = [
        ((["q"], CORPUS, two, np.array([[1.0, 2.0]])), "scores must fall along each row"),
        ((["q"], ["a b", "c"], two, np.array([[2.0, 1.0]])), "passage id 'a b' cannot stand in a TREC run"),
        (([""], CORPUS, two, np.array([[2.0, 1.0]])), "query id '' cannot stand in a TREC run"),
        ((["q"], CORPUS, two, np.array([[2.0]])), "scores must have the shape of indices"),
        ((QUERIES, CORPUS, two, np.array([[2.0, 1.0]])), "one entry per row of queries"),
        ((["q"], CORPUS, two, np.array([[np.nan, 1.0]])), "scores must be finite"),
    ]
    for arguments, says in cases:
        with pytest.raises(ValueError, match=says):
            trec.write_run(path, *arguments)
    assert list(tmp_path.iterdir()) == []


def test_names_of_runs():
    """A run is called by its file without the endings of format and compression."""
    names = ["a.trec", "b.run.gz", "top1000.v2.txt", ".trec", "plain"]
    assert [trec.run_name(f"x/{name}") for name in names] == ["a", "b", "top1000.v2", ".trec", "plain"]
