"""Bad input of every kind ends with one clear line and exit code 2; nothing in a data file is ever executed."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import resource
import shutil
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tamis import cli, data, encoders, files, ngrams, runs
from tests import fuzz_readers, tiny, verses

TABLES = [name for name in runs.OUTPUTS if name.endswith(".parquet")]


def run(capsys, *arguments):
    """Exit code, stdout and stderr of a command."""
    try:
        cli.main([str(a) for a in arguments])
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    out = capsys.readouterr()
    return code, out.out, out.err


def line_of(capsys, *arguments):
    """The line that a mistaken command ends with."""
    code, _, err = run(capsys, *arguments)
    assert code == 2 and err.startswith("tamis: ") and err.count("\n") == 1, (code, err)
    return err


def digests(folder):
    return {name: runs.file_digest(folder / name) for name in (*runs.OUTPUTS, runs.MANIFEST)}


@pytest.fixture
def job(tmp_path):
    """Sixty verses in BEIR layout with vectors of queries and passages."""
    rows = verses.rows()[:60]
    corpus = {f"{k} {i}": text for k, *texts in rows for i, text in enumerate(texts[1:])}
    positives = {k: [f"{k} 0", f"{k} 1"] for k, *_ in rows}
    found = data.from_python({k: query for k, query, *_ in rows}, corpus, positives)
    data.write_beir(found, tmp_path / "data")
    encoder = verses.LetterEncoder()
    np.save(tmp_path / "q.npy", encoder.encode(found.queries.texts))
    np.save(tmp_path / "c.npy", encoder.encode(found.corpus.texts))
    return tmp_path


def mine(job, *options, queries="q.npy", corpus="c.npy", out="out"):
    """The command that mines the job's data from its vectors."""
    given = ("--query-embeddings", job / queries, "--corpus-embeddings", job / corpus)
    return ("mine", job / "data", "-o", job / out, "--negatives", 3, *given, *options)


# Bad data


def first_line(name, old, new):
    """An accident: a part of the first line of a file of the data set is replaced."""

    def happen(folder):
        head, _, tail = (folder / name).read_bytes().partition(b"\n")
        assert old in head
        (folder / name).write_bytes(head.replace(old, new, 1) + b"\n" + tail)

    return happen


def appended(name, content):
    """An accident: bytes at the end of a file of the data set."""
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes() + content)


def whole(name, content):
    """An accident: a file of the data set holds something else."""
    return lambda folder: (folder / name).write_bytes(content)


def as_folder(folder):
    (folder / "corpus.jsonl").unlink()
    (folder / "corpus.jsonl").mkdir()


def as_loop(folder):
    (folder / "corpus.jsonl").unlink()
    (folder / "corpus.jsonl").symlink_to(folder / "corpus.jsonl")


def repacked(change):
    """An accident: the corpus in other bytes."""
    return lambda folder: (folder / "corpus.jsonl").write_bytes(change((folder / "corpus.jsonl").read_bytes()))


ACCIDENTS = {
    "corpus id twice": (
        appended("corpus.jsonl", b'{"_id": "1:1 0", "text": "x"}\n'),
        "the id '1:1 0' stands on line 1",
    ),
    "query id twice": (appended("queries.jsonl", b'{"_id": "1:1", "text": "x"}\n'), "the id '1:1' stands on line 1"),
    "mixed ids": (
        appended("corpus.jsonl", b'{"_id": 1, "text": "x"}\n{"_id": "1", "text": "y"}\n'),
        "line 122: the id '1' stands on line 121 already (1 and '1' are one id)",
    ),
    "id of another type": (
        first_line("corpus.jsonl", b'"1:1 0"', b"1.5"),
        "'_id' must be a text or an integer: got 1.5",
    ),
    "id with half a pair": (
        first_line("corpus.jsonl", b"1:1 0", b"\\ud800"),
        "line 1: an id must not be empty and must",
    ),
    "empty id": (first_line("corpus.jsonl", b"1:1 0", b" "), "line 1: an id must not be empty"),
    "empty text": (appended("corpus.jsonl", b'{"_id": "x", "text": ""}\n'), "line 121: the text of 'x' is empty"),
    "white text": (
        appended("queries.jsonl", b'{"_id": "x", "text": "\\u3000\\n"}\n'),
        "line 61: the text of 'x' is empty",
    ),
    "text missing": (
        appended("corpus.jsonl", b'{"_id": "x"}\n'),
        "line 121: 'text' and 'title' must be texts: got None",
    ),
    "unknown passage": (
        appended("qrels/train.tsv", b"1:1\tno\t1\n"),
        "line 122: corpus-id 'no' is not in corpus.jsonl",
    ),
    "unknown query": (
        appended("qrels/train.tsv", b"no\t1:1 0\t1\n"),
        "line 122: query-id 'no' is not in queries.jsonl",
    ),
    "no positive": (whole("qrels/train.tsv", b"1:1\t1:1 0\t0\n"), "train.tsv names no positive"),
    "score not finite": (
        appended("qrels/train.tsv", b"1:1\t1:1 0\tinf\n"),
        "line 122: score must be a number: got 'inf'",
    ),
    "judged twice": (appended("qrels/train.tsv", b"1:1\t1:1 0\t2\n"), "stand above already, with another score"),
    "deep": (appended("corpus.jsonl", b'{"a":' * 100_000 + b"\n"), "line 121: not valid JSON (nested too deep)"),
    "huge integer": (appended("corpus.jsonl", b'{"_id": ' + b"1" * 5000 + b"}\n"), "line 121: not valid JSON (Exceeds"),
    "NaN id": (appended("corpus.jsonl", b'{"_id": NaN, "text": "x"}\n'), "'_id' must be a text or an integer: got nan"),
    "key twice": (appended("corpus.jsonl", b'{"_id": 1, "_id": 2, "text": "x"}\n'), "the key '_id' stands twice"),
    "empty file": (whole("corpus.jsonl", b""), "corpus.jsonl is empty"),
    "folder for a file": (as_folder, "corpus.jsonl is not a readable file: Is a directory"),
    "links in a circle": (as_loop, "has no corpus.jsonl"),
    "gzip": (repacked(gzip.compress), "line 1: not UTF-8 (it is packed by gzip, unpack it first)"),
    "UTF-16": (
        repacked(lambda raw: raw.decode().encode("utf-16")),
        "line 1: not UTF-8 (it is UTF-16, save it as UTF-8)",
    ),
    "Latin 1": (appended("corpus.jsonl", b'{"_id": "x", "text": "caf\xe9"}\n'), "line 121: not UTF-8 (byte 25"),
    "bytes of nothing": (appended("corpus.jsonl", b"\0\0\0\n"), "line 121: not valid JSON"),
}


@pytest.mark.parametrize("name", ACCIDENTS)
def test_bad_data_costs_nothing(capsys, job, name):
    """Whatever is wrong with the data, one line names file, line and cure, and the finished results stay."""
    assert run(capsys, *mine(job))[0] == 0
    before = digests(job / "out")
    happen, says = ACCIDENTS[name]
    happen(job / "data")
    line = line_of(capsys, *mine(job))
    assert says in line and str(job) in line
    assert digests(job / "out") == before


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("x.csv", b'query,positive\nq,"p\nnever, closed\n', "line 2: not valid CSV (a quote is never closed)"),
        ("x.csv", b"query,query,positive\nq,r,p\n", "line 1: the column 'query' stands twice in the header"),
        ("x.csv", b'query,positive\n"q"x,p\n', "line 2: not valid CSV"),
        ("x.csv", b"query,positive\n" + b"q,p\n" * 3 + b"q,p,p\n", "line 5: more fields than the header has columns"),
        ("x.csv", b"query,positive\n", "x.csv is empty"),
        (
            "x.jsonl",
            b'{"query": "q", "positive": "p", "negative": 3}\n',
            "line 1: 'negative' must be a text, a list of",
        ),
        ("x.jsonl", b'{"query": ["q"], "positive": "p"}\n', "line 1: 'query' must be a text"),
        ("x.jsonl", b'{"query": "q", "positive": []}\n', "line 1: 'positive' must be a text or a list of texts"),
        ("x.jsonl", b'{"a\\nb": "q", "positive": "p"}\n', "has no query column"),
        ("x.parquet", b"PAR1", "x.parquet is not a readable Parquet file"),
        ("x.pkl", b"", "must end in .jsonl, .csv, .tsv or .parquet"),
    ],
)
def test_bad_files_of_pairs(capsys, tmp_path, name, content, says):
    """Files of pairs that cannot be used end the same way."""
    (tmp_path / name).write_bytes(content)
    assert says in line_of(capsys, "mine", tmp_path / name, "-o", tmp_path / "out")


def test_what_is_only_odd_is_read(tmp_path):
    """A mark of byte order, both line ends, NUL, control characters, long fields and an index column do no harm."""
    long = "word " * 100_000
    (tmp_path / "a.csv").write_bytes(f'\ufeff,query,positive\r\n0,q\0,"p\x07\n2"\r\n1,r,{long}\r\n'.encode())
    found = data.read(tmp_path / "a.csv")
    assert (found.queries.texts, found.corpus.texts) == (["q\0", "r"], ["p\x07\n2", long])
    (tmp_path / "b.jsonl").write_bytes(b'\xef\xbb\xbf{"query": "a\\ud800", "positive": "p", "score": NaN}\r\n\r\n')
    assert data.read(tmp_path / "b.jsonl").queries.texts == ["a\ufffd"]


@pytest.mark.parametrize("cut", [0.1, 0.5, 0.9])
def test_half_a_parquet_file(capsys, job, cut):
    """Parquet files that end too soon are told as such: pairs, embeddings, and results of mining."""
    table = pa.table({"query": ["q"] * 500, "positive": [f"p {i}" for i in range(500)], "embedding": [[1.0]] * 500})
    pq.write_table(table, job / "x.parquet")
    assert run(capsys, *mine(job))[0] == 0
    for path in (job / "x.parquet", job / "out" / "negatives.parquet"):
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * cut)])
    assert "x.parquet is not a readable Parquet file" in line_of(capsys, "mine", job / "x.parquet", "-o", job / "new")
    assert "x.parquet is not a readable Parquet file" in line_of(capsys, *mine(job, queries="x.parquet"))
    assert "negatives.parquet is not a readable Parquet file" in line_of(capsys, "audit", job / "out")
    assert run(capsys, *mine(job))[0] == 0
    assert run(capsys, "audit", job / "out")[0] == 0


# Embeddings


def bad_vectors(good):
    """Vectors that cannot be used, with what is said of them."""
    broken = {name: good.copy() for name in ("nan", "inf", "zero", "huge")}
    broken["nan"][3, 0], broken["inf"][4, 0], broken["zero"][5] = np.nan, np.inf, 0
    return {
        "objects": (np.array([{}, []], dtype=object), "is not a readable .npy file"),
        "integers": (np.ones(good.shape, np.int64), "must hold a float matrix (n, d): got shape (60, 256) of int64"),
        "one axis": (good[:, 0], "must hold a float matrix (n, d): got shape (60,) of float32"),
        "three axes": (good[None], "must hold a float matrix (n, d): got shape (1, 60, 256) of float32"),
        "rows": (good[:-1], "60 rows, 59"),
        "columns": (good[:, 247:], "must have 9 columns"),
        "nan": (broken["nan"], "must be finite: 1 rows hold NaN or infinity, the first is row 3"),
        "inf": (broken["inf"], "must be finite: 1 rows hold NaN or infinity, the first is row 4"),
        "huge": (broken["huge"].astype(np.float64) * 1e300, "must be finite: 60 rows hold NaN or infinity"),
        "zero": (broken["zero"], "must not hold zero vectors: row 5 is zero"),
        "complex": (good.astype(np.complex64), "of complex64"),
        "fields": (np.zeros(60, dtype=[("a", "f4")]), "must hold a float matrix (n, d)"),
    }


@pytest.mark.parametrize("name", bad_vectors(np.ones((60, 256), np.float32)))
def test_bad_embeddings(capsys, job, name):
    """Vectors of a wrong kind, shape or value are refused with what they must be, in files and in memory."""
    vectors, says = bad_vectors(np.load(job / "q.npy"))[name]
    np.save(job / "bad.npy", vectors, allow_pickle=True)
    assert says in line_of(capsys, *mine(job, queries="bad.npy"))
    if name not in ("rows", "columns", "zero", "nan", "inf", "huge"):
        with pytest.raises(ValueError, match="must be"):
            encoders.as_matrix(vectors, "x")


def test_archives_and_tables_are_no_vectors(capsys, job):
    """An .npz under another name, integers in Parquet, rows of several lengths, and an id that stands twice."""
    with (job / "z.npy").open("wb") as file:
        np.savez(file, a=np.ones((2, 2)))
    assert "z.npy is not a readable .npy file" in line_of(capsys, *mine(job, queries="z.npy"))
    for table, says in (
        ({"embedding": [[1, 2]] * 60}, "every embedding must be a list of floats: got 60 rows of 'list<"),
        ({"embedding": [[1.0], [1.0, 2.0]]}, "every embedding must have the same length: got 2 lengths"),
        ({"embedding": [None, [1.0]]}, "every embedding must be a list of floats"),
        ({"embedding": [[1.0], [2.0]], "id": ["1:1", "1:1"]}, "has several embeddings for the id '1:1'"),
        ({"vectors": [[1.0]]}, "has no column 'embedding': ['vectors']"),
    ):
        pq.write_table(pa.table(table), job / "e.parquet")
        assert says in line_of(capsys, *mine(job, queries="e.parquet"))
    assert "does not exist or is no file" in line_of(capsys, *mine(job, queries="data"))


# Objects of Python


@pytest.mark.parametrize(
    ("positives", "error", "says"),
    [
        ("a", TypeError, "positives must hold one entry per query: got a single string; wrap it in a list"),
        ([[]], ValueError, "every query needs a positive: query '0' has none"),
        ([{"a": "high"}], ValueError, "grades must be finite numbers: got 'high'"),
        ([{"a": float("nan")}], ValueError, "grades must be finite numbers: got nan"),
        ([[["a"]]], TypeError, r"positives must be ids or texts: got \['a'\]"),
        ([None], TypeError, "positives must be ids or texts: got None"),
        (["b"], ValueError, "positive 'b' is not in the corpus"),
    ],
)
def test_bad_positives(positives, error, says):
    """Positives that cannot be used are named with their query."""
    with pytest.raises(error, match=says):
        data.from_python(["q"], ["a", "c"], positives)


def test_bad_ids_in_memory():
    """Ids that no file can hold are refused; texts are mended."""
    with pytest.raises(ValueError, match="corpus: an id must not be empty and must be valid Unicode"):
        data.from_python(["q"], {"\ud800": "a"}, [["\ud800"]])
    with pytest.raises(ValueError, match="positives must be texts, none empty"):
        data.from_python(["q"], None, [" "])
    found = data.from_python(["q\udc80"], ["a\ud800", "b"], ["a\ud800"], name="n\udc80")
    assert (found.queries.texts, found.corpus.texts, found.name) == (["q\ufffd"], ["a\ufffd", "b"], "n\ufffd")


# The output folder


def test_a_corpus_smaller_than_the_list(capsys, tmp_path):
    """With fewer passages than negatives the lists are short, and the summary says how many there are."""
    np.save(tmp_path / "q.npy", np.eye(3, dtype=np.float32)[:2] + 0.1)
    np.save(tmp_path / "c.npy", np.eye(3, dtype=np.float32) + 0.1)
    found = data.from_python(["x", "y"], ["a", "b", "c"], [[0], [1]])
    data.write_beir(found, tmp_path / "data")
    code, text, err = run(capsys, *mine(tmp_path, "--max-survival", 1))
    assert (code, err) == (0, "") and "Mined    4 negatives for 2 queries from 3 passages" in text


def test_a_corpus_of_nothing_but_positives(capsys, tmp_path):
    """Where every passage answers every query there is nothing to mine, and a warning says so."""
    np.save(tmp_path / "v.npy", np.ones((1, 3), np.float32))
    data.write_beir(data.from_python(["x"], ["a"], [[0]]), tmp_path / "data")
    code, text, _ = run(capsys, *mine(tmp_path, queries="v.npy", corpus="v.npy"))
    assert code == 0 and "1 of 1 queries got no negative" in text


def test_foreign_and_locked_folders(capsys, job):
    """A folder with files of others, one that cannot be written, and a file are no output folders and stay."""
    (job / "foreign").mkdir()
    (job / "foreign" / "thesis.tex").write_text("years")
    assert "is not empty and was not made by tamis" in line_of(capsys, *mine(job, out="foreign"))
    assert [p.name for p in (job / "foreign").iterdir()] == ["thesis.tex"]
    assert "is a file: name a folder" in line_of(capsys, *mine(job, out="q.npy"))
    assert "cannot be written" in line_of(capsys, *mine(job, out="q.npy/out"))
    assert "is not empty and was not made by tamis" in line_of(capsys, *mine(job, out="data"))
    with runs.locked(job / "out"):
        assert "is in use by another run: wait for it" in line_of(capsys, *mine(job))


@pytest.fixture
def disk(tmp_path):
    """A small disk: a folder and a way to change its size."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(*options):
        if not sys.platform.startswith("linux") or os.geteuid() != 0 or shutil.which("mount") is None:
            return False
        return subprocess.run(["mount", "-t", "tmpfs", *options, str(place)], capture_output=True).returncode == 0

    if not mount("-o", "size=80k", "tmpfs"):
        pytest.skip("a file system cannot be mounted here")
    yield place, lambda size: mount("-o", f"remount,size={size}")
    subprocess.run(["umount", "-l", str(place)], check=True)


class Letters(verses.LetterEncoder):
    """Counts of letters whose vectors are asked for once."""

    def fingerprint(self):
        return "letters"


def test_a_full_disk(capsys, job, disk, monkeypatch):
    """Without space a run ends with one line; the shards that are finished stay, and with space it goes on."""
    place, resize = disk
    encoder = Letters()
    monkeypatch.setattr(encoders, "SHARD", 10)
    monkeypatch.setattr(encoders, "resolve", lambda _: encoder)
    command = ("mine", job / "data", "--negatives", 3, "-o")
    assert run(capsys, *command, job / "whole")[0] == 0
    all_texts, encoder.calls = encoder.calls, 0
    assert "No space left on device" in (line := line_of(capsys, *command, place / "out"))
    assert "what is finished stays, and the same command goes on there" in line
    first = encoder.calls
    assert 34 + 10 <= first < all_texts  # the plan tries 34 texts
    assert resize("230k")  # vectors fit, tables do not
    assert "No space left on device" in line_of(capsys, *command, place / "out")
    assert not list(place.glob("**/*.tmp")) and encoder.calls <= all_texts + 34 + 10
    assert resize("4m") and run(capsys, *command, place / "out")[0] == 0
    # Of two broken runs none repeats a shard but the one under way.
    assert encoder.calls <= all_texts + 2 * (34 + 10)
    expected = {name: runs.file_digest(job / "whole" / name) for name in TABLES}
    assert {name: runs.file_digest(place / "out" / name) for name in TABLES} == expected
    used = sum(p.stat().st_blocks * 512 for p in place.rglob("*")) // 1024
    before = digests(place / "out")
    assert resize(f"{used + 8}k")  # other results have no place beside these, which stay
    assert "No space left on device" in line_of(capsys, *mine(job, "--margin", 0.1, out="disk/out"))
    assert digests(place / "out") == before


LIMITED = """
import resource, sys
from tamis import cli, encoders
from tests import verses
encoders.resolve = lambda _: verses.LetterEncoder()
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))
cli.main(sys.argv[2:])
"""


@pytest.mark.slow
def test_a_limit_on_the_size_of_files(job):
    """A quota that ends a file ends the run with one line too, where no disk can be made to fill."""
    command = [sys.executable, "-c", LIMITED, "30000", "mine", str(job / "data"), "-o", str(job / "out")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "File too large" in done.stderr and done.stderr.count("\n") == 1, done.stderr


# Odd texts


HOSTILE = '</title><script>alert("x")</script><img src=x onerror=alert(1)>'
ODD = ["a\x00b\x1b[31m", "half \ud800 pair", "\ufeff\u202e\ufffe turned", HOSTILE, "\r\n\tline\u2028end", "\x7f\x9f"]


class Tags(HTMLParser):
    """The elements of a page and their attributes."""

    def __init__(self):
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}


def test_odd_texts_leave_valid_files(capsys, tmp_path):
    """Control characters, half pairs and tags in ids, texts and names come out as valid Parquet, JSON and HTML."""
    odd_ids = [text.replace("\ud800", "x") for text in ODD]
    corpus = [
        {"_id": f"{name}{i}", "text": text} for i, (name, text) in enumerate(zip(odd_ids * 3, ODD * 3, strict=True))
    ]
    queries = [{"_id": name, "text": f"{text} {i}"} for i, (name, text) in enumerate(zip(odd_ids, ODD, strict=True))]
    pairs = [{"query": q["text"], "positive": corpus[i]["text"], "negative": [c["text"] + "." for c in corpus]}
             for i, q in enumerate(queries)]  # fmt: skip
    name = "<script>alert(2)<"
    (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs), encoding="utf-8")
    found = data.read(tmp_path / f"{name}.jsonl")
    rng = np.random.default_rng(0)
    np.save(tmp_path / "q.npy", rng.normal(size=(len(found.queries), 8)) + 5)
    np.save(tmp_path / "c.npy", rng.normal(size=(len(found.corpus), 8)) + 5)
    out = tmp_path / "out"
    command = ("mine", tmp_path / f"{name}.jsonl", "-o", out, "--negatives", 3, "--max-survival", 1)
    vectors = ("--query-embeddings", tmp_path / "q.npy", "--corpus-embeddings", tmp_path / "c.npy")
    assert run(capsys, *command, *vectors)[0] == 0
    assert run(capsys, "report", out)[0] == 0
    for form in ("flagembedding", "tevatron"):
        assert run(capsys, "export", out, "-o", tmp_path / form, "--form", form)[0] == 0
        lines = (tmp_path / form).read_bytes().decode("utf-8").split("\n")
        assert all(isinstance(json.loads(line), dict) for line in lines if line) and len(lines) > 2
    for table in TABLES:
        pq.read_table(out / table).validate(full=True)
    report = (out / "report.json").read_bytes().decode("utf-8")
    assert json.loads(report)["data"]["name"] == name
    page = (out / "report.html").read_bytes().decode("utf-8")
    tags = Tags()
    tags.feed(page)
    assert "script" not in tags.tags and "img" not in tags.tags and "onerror" not in tags.attributes
    assert "&lt;script&gt;alert" in page
    assert not [c for c in page if ord(c) < 32 and c not in "\n\t"] and "\ufffe" not in page


def test_hostile_names_of_encoders_and_ids_are_escaped(capsys, job, monkeypatch):
    """Ids and the encoder's name reach the page as text."""
    encoder = Letters()
    encoder.name = HOSTILE
    monkeypatch.setattr(encoders, "resolve", lambda _: encoder)
    for name in ("corpus.jsonl", "queries.jsonl", "qrels/train.tsv"):
        path = job / "data" / name
        path.write_text(path.read_text().replace("1:", "1<script>alert(3)</script>:"))
    assert run(capsys, "mine", job / "data", "-o", job / "out")[0] == 0
    assert run(capsys, "report", job / "out")[0] == 0
    tags = Tags()
    tags.feed((job / "out" / "report.html").read_text())
    assert "script" not in tags.tags and "img" not in tags.tags


LETTERS = 10_000_000
BIG = {
    "words": "sieve flour mesh grain " * (LETTERS // 23),
    "one word": "x" * LETTERS,
    "spaces": "a" + " " * LETTERS + "b",
    "marks": "a" + "\u0301\u0316" * 200_000,
    "tags": "<b>&" * (LETTERS // 4),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", BIG)
def test_a_text_of_ten_megabytes(capsys, job, monkeypatch, kind):
    """One huge text costs seconds and megabytes, from reading to the page, with a model's tokenizer and with BM25."""
    path = job / "data" / "corpus.jsonl"
    path.write_text(path.read_text() + json.dumps({"_id": "big", "text": BIG[kind]}) + "\n")
    start, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    command = ("mine", job / "data", "-o", job / "out", "--encoder", tiny.save(job / "tiny"), "--candidates", "both")
    assert run(capsys, *command)[0] == 0
    assert run(capsys, "report", job / "out")[0] == 0
    assert time.process_time() - start < 30
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 900 * 1024
    assert (job / "out" / "report.html").stat().st_size < 2_000_000


def test_normal_forms_of_long_texts():
    """Cutting a long text before it is normalised changes nothing where an ASCII character stands now and then."""
    text = "Le\u0301ger caf\u0065\u0301 \ufb01ne-me\u0301she\u0301d " * 500
    assert ngrams.normalise(text) == " ".join(["léger café fine méshéd"] * 500)


# Nothing is executed


class Trap:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


def test_no_pickle_is_loaded(capsys, job):
    """Pickles as vectors, in any dress, are refused unread."""
    pickle.loads(pickle.dumps(Trap(job / "control")))
    assert (job / "control").exists()
    mark = job / "executed"
    np.save(job / "a.npy", np.array([Trap(mark)], dtype=object), allow_pickle=True)
    (job / "b.npy").write_bytes(pickle.dumps(Trap(mark)))
    with (job / "c.npz").open("wb") as file:
        np.savez(file, a=np.array([Trap(mark)], dtype=object))
    (job / "c.npz").rename(job / "z.npy")
    for name in ("a.npy", "b.npy", "z.npy"):
        assert "is not a readable .npy file" in line_of(capsys, *mine(job, queries=name))
    out = job / "cache"
    encoders.encode(Letters(), ["a", "b"], folder=out, stem="corpus")
    shutil.copy(job / "a.npy", out / "corpus.npy")
    assert len(encoders.encode(Letters(), ["a", "b"], folder=out, stem="corpus")) == 2
    assert not mark.exists()


def test_loading_scripts_of_datasets_are_never_run(tmp_path):
    """A script beside a saved dataset is not looked at, and its files are taken from its own folder only."""
    folder = tmp_path / "saved"
    folder.mkdir()
    for name in ("saved.py", "dataset.py", "__init__.py"):
        (folder / name).write_text(f"open({str(tmp_path / 'executed')!r}, 'w')")
    form = fuzz_readers.forms()["saved dataset"]
    for name, content in form.files.items():
        (folder / name).write_bytes(content)
    assert len(data.read(folder).queries) == 2
    (tmp_path / "elsewhere.arrow").write_bytes(form.files["data-0.arrow"])
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "../elsewhere.arrow"}]}))
    with pytest.raises(ValueError, match="is not a readable saved dataset: No such file or directory"):
        data.read(folder)
    assert not (tmp_path / "executed").exists()


@pytest.mark.slow
def test_a_model_runs_no_code(tmp_path):
    """Pickled weights that hold code, and modules of a model's own, are refused in one line and not run."""
    torch = pytest.importorskip("torch")
    model = tiny.save(tmp_path)
    mark = tmp_path / "executed"
    pickled = shutil.copytree(model, tmp_path / "pickled")
    (pickled / "model.safetensors").unlink()
    torch.save({"x": Trap(mark)}, pickled / "pytorch_model.bin")
    own = shutil.copytree(model, tmp_path / "own")
    (own / "trap.py").write_text(f"open({str(mark)!r}, 'w')\nclass Trap: pass\n")
    modules = json.loads((own / "modules.json").read_text())
    modules[-1]["type"] = "trap.Trap"
    (own / "modules.json").write_text(json.dumps(modules))
    remote = shutil.copytree(model, tmp_path / "remote")
    (remote / "trap.py").write_text(f"open({str(mark)!r}, 'w')\nclass Trap: pass\n")
    config = json.loads((remote / "config.json").read_text())
    config |= {"auto_map": {"AutoConfig": "trap.Trap", "AutoModel": "trap.Trap"}, "model_type": "trap"}
    (remote / "config.json").write_text(json.dumps(config))
    cut = shutil.copytree(model, tmp_path / "cut")
    (cut / "model.safetensors").write_bytes((cut / "model.safetensors").read_bytes()[:500])
    for folder, says in (
        (pickled, "is not a readable model"),
        (own, "brings code of its own ('trap.Trap'), which is never run"),
        (remote, "is not a readable model"),
        (cut, "is not a readable model"),
    ):
        with pytest.raises(ValueError, match="model") as caught:
            encoders.resolve(str(folder))
        assert says in str(caught.value) and "\n" not in str(caught.value)
    assert not mark.exists()


@pytest.mark.slow
def test_safetensors_come_first(tmp_path):
    """Where a model has weights in both forms the pickle is not touched."""
    torch = pytest.importorskip("torch")
    model = tiny.save(tmp_path)
    torch.save({"x": Trap(tmp_path / "executed")}, model / "pytorch_model.bin")
    assert encoders.resolve(str(model)).encode(["a sieve"]).shape == (1, 32)
    assert not (tmp_path / "executed").exists()


# Nothing stale


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A small model with prompts of its own."""
    folder = tiny.save(tmp_path_factory.mktemp("tiny"))
    path = folder / "config_sentence_transformers.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps(settings | {"prompts": {"query": "query: ", "document": "", "passage": ""}}))
    return folder


def changed_weight(job):
    from safetensors.numpy import load_file, save_file

    path = job / "model" / "model.safetensors"
    tensors = load_file(path)
    name = next(n for n in sorted(tensors) if n.endswith("word_embeddings.weight"))
    tensors[name][7, 0] += 0.5
    save_file(tensors, path, metadata={"format": "pt"})


def replaced(name, old, new):
    def happen(job):
        text = (job / name).read_text()
        assert old in text
        (job / name).write_text(text.replace(old, new, 1))

    return happen


CHANGES = {
    "query text": (replaced("data/queries.jsonl", '"text": "', '"text": "Lo, '), (), {"queries"}),
    "passage text": (replaced("data/corpus.jsonl", '"text": "', '"text": "Lo, '), (), {"corpus"}),
    "judgement": (replaced("data/qrels/train.tsv", "1:1\t1:1 1\t1\n", ""), (), set()),
    "grade": (replaced("data/qrels/train.tsv", "1:1\t1:1 1\t1\n", "1:1\t1:1 1\t2\n"), (), set()),
    "weight": (changed_weight, (), {"queries", "corpus"}),
    "own prompt": (replaced("model/config_sentence_transformers.json", '"query: "', '"ask: "'), (), {"queries"}),
    "prompt": (lambda job: None, ("--passage-prompt", "the "), {"corpus"}),
    "setting": (lambda job: None, ("--seed", 1), set()),
}


@pytest.mark.parametrize("name", CHANGES)
def test_changes_are_noticed(capsys, job, model, name):
    """A changed text, judgement, weight, prompt or setting is mined again, and encoded again where it must be."""
    shutil.copytree(model, job / "model")
    command = ("mine", job / "data", "-o", job / "out", "--negatives", 3, "--encoder", job / "model")
    assert run(capsys, *command)[0] == 0
    assert "Nothing changed since the last run" in run(capsys, *command)[1]
    vectors = {stem: (job / "out" / "embeddings" / f"{stem}.npy").read_bytes() for stem in ("queries", "corpus")}
    happen, options, encoded = CHANGES[name]
    happen(job)
    code, text, err = run(capsys, *command, *options)
    assert code == 0 and "Nothing changed" not in text, err
    changed = {
        stem for stem, old in vectors.items() if (job / "out" / "embeddings" / f"{stem}.npy").read_bytes() != old
    }
    assert changed == encoded
    code, _, _ = run(capsys, *command[:3], job / "fresh", *command[4:], *options)
    assert code == 0
    assert all(runs.file_digest(job / "out" / t) == runs.file_digest(job / "fresh" / t) for t in TABLES)


# Any bytes at all


@pytest.mark.parametrize("name", fuzz_readers.forms())
def test_damaged_files(tmp_path, name):
    """Two hundred damaged files of every kind give data that are whole, or one line that names the file."""
    form = fuzz_readers.forms()[name]
    assert fuzz_readers.outcome(form, form.files, tmp_path) == "data"
    outcomes = {fuzz_readers.case(form, seed, tmp_path)[0] for seed in range(200)}
    assert outcomes == {"data", "ValueError"}


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from(["query", "positive", "negative", "_id", "text", "title", "split", "group", "metadata"])
ROWS = st.lists(st.dictionaries(KEYS | st.text(max_size=4), VALUES, max_size=6), max_size=4)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ROWS, st.sampled_from(["jsonl", "beir"]))
def test_rows_of_any_values(tmp_path, rows, name):
    """Valid JSON with values of any type, NaN and half pairs among them, is data or one line."""
    form = fuzz_readers.forms()[name]
    target = "x.jsonl" if name == "jsonl" else "corpus.jsonl"
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    assert fuzz_readers.outcome(form, form.files | {target: content}, tmp_path) in ("data", "ValueError")


COLUMNS = st.sampled_from(
    [[None, "a", "b"], [1, 2, 3], ["a", "", "b"], [b"a", b"\xff", b"b"], [["a"], [], ["b"]], [[1], [2], None],
     [1.5, float("nan"), 2.0], [{"a": 1}, {"a": 2}, None], ["a\0", "\u2028", "\ufffe"], [True, None, False]]
)  # fmt: skip


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(COLUMNS, COLUMNS, COLUMNS, st.sampled_from(["negative", "split", "metadata", "doc_id"]))
def test_columns_of_any_type(tmp_path, query, positive, other, name):
    """Parquet columns of any type are data or one line."""
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"query": query, "positive": positive, name: other}), path)
    try:
        fuzz_readers.sound(data.read(path))
    except ValueError as error:
        assert str(path) in str(error) and len(str(error).splitlines()) == 1


def test_what_is_written_appears_whole_or_not_at_all(tmp_path):
    """A file whose writing fails leaves the old one, and nothing beside it."""
    path = tmp_path / "a.jsonl"
    files.write_jsonl(path, [{"a": "\ud800"}])
    before = path.read_bytes()
    assert json.loads(before.decode("utf-8")) == {"a": "?"}
    with pytest.raises(TypeError):
        files.write_jsonl(path, [{"a": 1}, {"a": object()}])
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["a.jsonl"]
