"""``tamis decontaminate`` as a user meets it: every form of data, both directions, evidence, one line for mistakes."""

from __future__ import annotations

import csv
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tamis import cli, text_rows
from tamis.data import read, write_beir
from tamis.evaluation import decontaminate, measure_contamination
from tests import verses

RULES = "the sieve keeps what is coarse and lets the fine flour fall into the bin below"
LEAK = f"As they say, {RULES}, every day."
ROWS = [
    {"id": "a", "query": "how do I clean a drum sieve after a day of work", "positive": "with a brush and no water"},
    {"id": "b", "query": "what does a sieve do", "positive": LEAK},
    {"id": "c", "query": "Red  fox!", "positive": ["a fox with red fur", "vulpes vulpes"]},
    {"id": "d", "query": "a red fox hunts", "positive": "at night, alone"},
]
TESTS = [{"id": "t1", "text": RULES.upper()}, {"id": "t2", "text": "red fox"}, {"id": "t3", "text": "nothing like it"}]


def run(capsys, *arguments):
    """Exit code, stdout and stderr of a command."""
    try:
        cli.main([str(a) for a in arguments])
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    out = capsys.readouterr()
    return code, out.out, out.err


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def tests(tmp_path):
    return jsonl(tmp_path / "tests.jsonl", TESTS)


def kept(path):
    """The ids in a file of kept rows."""
    if path.suffix == ".parquet":
        return pq.read_table(path)["id"].to_pylist()
    if path.suffix == ".csv":
        with path.open(newline="") as file:
            return [row["id"] for row in csv.DictReader(file)]
    return [json.loads(line)["id"] for line in path.read_text().splitlines()]


def test_both_directions_with_evidence(capsys, tmp_path, tests):
    """Rows that hold a test text go, with scores, match and both texts; each test text says where it was found."""
    train, out = jsonl(tmp_path / "train.jsonl", ROWS), tmp_path / "out"
    code, text, err = run(capsys, "decontaminate", train, "--against", tests, "-o", out)
    assert (code, err) == (0, "")
    assert "4 rows, 2 dropped (50.0 %): 1 by positive, 1 by query" in text
    assert f"[{RULES}]" in text and f"[{RULES.upper()}]" in text and "2 have fewer than 8 tokens" in text
    lines = train.read_text().splitlines(keepends=True)
    assert (out / "train.jsonl").read_text() == lines[0] + lines[3]
    dropped = pq.read_table(out / "dropped.parquet").to_pylist()
    assert [(row["row"], row["id"], row["column"], row["test_id"], row["rule"]) for row in dropped] == [
        (2, "b", "positive", "t1", "longest"), (3, "c", "query", "t2", "equal"),
    ]  # fmt: skip
    assert (
        dropped[0] | {"text": LEAK, "test_text": RULES.upper(), "match": RULES, "test_match": RULES.upper()}
        == dropped[0]
    )
    assert [dropped[0][name] for name in ("longest", "token", "ngram", "extend")] == [1.0] * 4
    assert (dropped[0]["start"], dropped[0]["test_start"], dropped[0]["span"]) == (3, 0, 16)
    scored = pq.read_table(out / "tests.parquet").to_pylist()
    assert [(row["test_id"], row["contaminated"], row["too_short"], row["id"]) for row in scored] == [
        ("t1", True, False, "b"), ("t2", True, True, "c"), ("t3", False, True, None),
    ]  # fmt: skip
    assert (scored[0]["text"], scored[0]["match"], scored[0]["test_match"]) == (LEAK, RULES, RULES.upper())
    report = json.loads((out / "report.json").read_text())
    assert report["rows"] == 4 and report["dropped"] == 2 and report["settings"]["n"] == 8
    again = (out / "dropped.parquet").read_bytes()
    assert run(capsys, "decontaminate", train, "--against", tests, "-o", out)[0] == 0
    assert (out / "dropped.parquet").read_bytes() == again and not list(out.glob("*.tmp"))


def save_to_disk(folder, table):
    """What ``save_to_disk`` of ``datasets`` leaves, as far as it is read."""
    (folder / "test").mkdir(parents=True)
    for split in (folder, folder / "test"):
        with pa.OSFile(str(split / "data.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema) as out:
            out.write_table(table)
        (split / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data.arrow"}]}))
    return folder


@pytest.mark.parametrize("form", ["csv", "tsv", "parquet", "folder"])
def test_every_form_comes_out_as_it_went_in(capsys, tmp_path, tests, monkeypatch, form):
    """CSV, Parquet and saved datasets lose the same rows as JSONL, in blocks of any size."""
    monkeypatch.setattr(text_rows, "_ROWS", 3)
    rows = [row | {"positive": row["positive"] if isinstance(row["positive"], str) else "x"} for row in ROWS]
    table = pa.Table.from_pylist(rows).append_column("vector", pa.array([[1.0]] * 4))
    path, target = tmp_path / f"train.{form}", f"train.{form}"
    if form == "parquet":
        pq.write_table(table, path)
    elif form == "folder":
        path, target = save_to_disk(tmp_path / "train", table), "train.parquet"
    else:
        with path.open("w", newline="") as file:
            out = csv.DictWriter(file, list(rows[0]), delimiter="\t" if form == "tsv" else ",")
            out.writeheader()
            out.writerows(rows)
    code, _, err = run(capsys, "decontaminate", path, "--against", tests, "-o", tmp_path / "out")
    assert (code, err) == (0, "")
    if form in ("parquet", "folder"):
        assert pq.read_table(tmp_path / "out" / target).equals(table.take([0, 3]))
    elif form == "csv":
        assert kept(tmp_path / "out" / target) == ["a", "d"]
    else:
        assert (tmp_path / "out" / target).read_text().splitlines()[0] == "id\tquery\tpositive"
    assert pq.read_table(tmp_path / "out" / "dropped.parquet")["row"].to_pylist() in ([2, 3], [3, 4])


def test_tables_may_be_tests_too(capsys, tmp_path):
    """Test sets may be given several times, in any form; equal texts count once."""
    train = jsonl(tmp_path / "train.jsonl", ROWS)
    save_to_disk(tmp_path / "saved", pa.table({"question": ["Red fox!"], "text": [RULES]}))
    pq.write_table(pa.table({"text": [RULES]}), tmp_path / "more.parquet")
    code, text, _ = run(capsys, "decontaminate", train, "--against", tmp_path / "saved", "--against",
                        tmp_path / "more.parquet", "-o", tmp_path / "out")  # fmt: skip
    assert code == 0 and "saved, question" in text and "saved, text" in text and "more" not in text.split("Written")[0]
    assert kept(tmp_path / "out" / "train.jsonl") == ["a", "d"]


def beir(folder, split):
    write_beir(verses.data(both=20), folder, split=split)
    return folder


def test_a_beir_folder_stays_one(capsys, tmp_path):
    """Queries and passages that hold a test text go with their judgements; what is left is read as before."""
    train = beir(tmp_path / "train", "train")
    data = read(train)
    words = data.queries.texts[5].split()
    passage = data.corpus.texts[40]
    tests = jsonl(tmp_path / "tests.jsonl", [{"text": " ".join(words[:12])}, {"text": passage}])
    code, text, err = run(
        capsys, "decontaminate", train, "--against", tests, "-o", tmp_path / "out", "--threshold", 0.9
    )
    assert (code, err) == (0, "")
    left = read(tmp_path / "out")
    assert data.queries.ids[5] not in left.queries.ids and data.corpus.ids[40] not in left.corpus.ids
    dropped = pq.read_table(tmp_path / "out" / "dropped.parquet")
    assert set(dropped["column"].to_pylist()) == {"query", "passage"}
    assert len(left.corpus) == len(data.corpus) - dropped["column"].to_pylist().count("passage")
    assert "judgements with them" in text
    out = tmp_path / "queries alone"
    code, _, _ = run(capsys, "decontaminate", train, "--against", tests, "-o", out, "--columns", "query")
    assert code == 0 and (out / "corpus.jsonl").read_bytes() == (train / "corpus.jsonl").read_bytes()


def test_a_shared_corpus_is_pointed_out(capsys, tmp_path):
    """Against itself a folder loses what it is made of, and the line says how to look at queries alone."""
    folder = beir(tmp_path / "data", "train")
    beir(folder, "test")
    code, text, _ = run(capsys, "decontaminate", folder, "--against", folder, "-o", tmp_path / "out")
    assert code == 0 and "give --columns query --against-columns query" in text
    code, text, _ = run(capsys, "decontaminate", folder, "--against", folder, "-o", tmp_path / "out",
                        "--columns", "query", "--against-columns", "positive", "--threshold", 1, "--n", 13)  # fmt: skip
    assert code == 0 and "by passage" not in text


@pytest.mark.parametrize(
    "options",
    [
        {"metric": "token"},
        {"metric": "ngram", "n": 4, "threshold": 0.5},
        {"metric": "extend", "skip_budget": 2, "n": 3},
        {"metric": "longest", "strict": False, "skip_budget": 1, "n": 3},
        {"mincount": 2, "n": 3},
        {"short": "zero"},
        {"tokenizer": "character", "n": 30},
    ],
)
def test_every_option_is_that_of_the_library(capsys, tmp_path, monkeypatch, options):
    """The command drops what the library drops and scores as it does, whatever the options, in several blocks."""
    monkeypatch.setattr(text_rows, "_ROWS", 50)
    rows = verses.rows()
    train = [row[2] for row in rows[:200]] + ["Jesus"]
    tests = list(dict.fromkeys([row[3] for row in rows[50:250]] + ["jesus"]))
    one = jsonl(tmp_path / "train.jsonl", [{"text": text} for text in train])
    two = jsonl(tmp_path / "tests.jsonl", [{"text": text} for text in tests])
    flags = [
        part
        for name, value in options.items()
        for part in (["--no-strict"] if name == "strict" else [f"--{name.replace('_', '-')}", value])
    ]
    code, _, err = run(capsys, "decontaminate", one, "--against", two, "-o", tmp_path / "out", *flags)
    assert (code, err) == (0, "")
    kept = decontaminate(train, tests, **options)
    dropped = pq.read_table(tmp_path / "out" / "dropped.parquet")
    metric = options.get("metric", "longest")
    assert (np.array(dropped["row"]) - 1).tolist() == kept.reasons["row"].tolist()
    assert dropped["rule"].to_pylist() == kept.reasons["rule"].tolist()
    assert dropped[metric].to_pylist() == kept.reasons["score"].tolist()
    assert dropped["test_text"].to_pylist() == [tests[i] for i in kept.reasons["rival"]]
    library = {name: value for name, value in options.items() if name not in ("metric", "threshold")}
    found = measure_contamination(tests, train, **{"short": "whole"} | library)
    scored = pq.read_table(tmp_path / "out" / "tests.parquet")
    for name in ("longest", "token", "ngram", "extend"):
        assert scored[name].to_pylist() == getattr(found, name).tolist()
    holders = [None if row < 0 else train[row] for row in found.matches["row"]]
    assert scored["text"].to_pylist() == holders


def mistakes(tmp_path, tests):
    """(arguments, what the line must say) for mistakes of every kind."""
    train = jsonl(tmp_path / "train.jsonl", ROWS)
    number = jsonl(tmp_path / "number.jsonl", [{"query": "q"}, {"query": 3}])
    empty = jsonl(tmp_path / "empty.jsonl", [])
    other = jsonl(tmp_path / "other.jsonl", [{"words": "a b"}])
    blank = jsonl(tmp_path / "blank.jsonl", [{"text": " "}])
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"query": "a"}\n{"query": \n')
    cut = tmp_path / "cut.parquet"
    cut.write_bytes(b"PAR1 and no more")
    named = tmp_path / "tests.parquet"
    pq.write_table(pa.table({"text": ["a b"]}), named)
    full = tmp_path / "full"
    full.mkdir()
    (full / "letter.txt").write_text("mine")
    folder = beir(tmp_path / "beir", "train")
    out, against = tmp_path / "out", ("--against", tests)
    return [
        ((tmp_path / "nowhere", *against, "-o", out), "nowhere does not exist"),
        ((train, "--against", tmp_path / "nowhere", "-o", out), "nowhere does not exist"),
        ((number, *against, "-o", out), "number.jsonl, line 2: 'query' must be a text or a list of texts: got 3"),
        ((broken, *against, "-o", out), "broken.jsonl, line 2: not valid JSON"),
        ((empty, *against, "-o", out), "empty.jsonl is empty"),
        ((train, "--against", blank, "-o", out), "blank.jsonl holds no test text"),
        ((other, *against, "-o", out), "other.jsonl has no column of texts"),
        ((train, *against, "-o", out, "--columns", "body"), "train.jsonl has no column 'body'"),
        ((folder, *against, "-o", out, "--columns", "body"), "its columns are query and passage, got 'body'"),
        ((folder, *against, "-o", out, "--split", "dev"), "no split 'dev': there are train"),
        ((cut, *against, "-o", out), "cut.parquet is not a readable Parquet file"),
        ((tmp_path / "full" / "letter.txt", *against, "-o", out), "must end in .jsonl, .csv, .tsv or .parquet"),
        ((named, *against, "-o", out), "tests.parquet is called as one of the results: rename it"),
        ((train, *against, "-o", full), "is not empty and was not made by tamis"),
        ((train, *against, "-o", out, "--threshold", 0), "threshold must lie between 0 (not included) and 1: got 0"),
        ((train, *against, "-o", out, "--n", 0), "n must be at least 1: got 0"),
        ((train, *against, "-o", out, "--skip-budget", -1), "skip_budget must be at least 0"),
        ((train, *against, "-o", out, "--metric", "bleu"), "--metric"),
        ((train, "-o", out), "--against"),
        ((train, *against), "--output"),
    ]  # fmt: skip


def test_mistakes_get_one_line_and_exit_code_2(capsys, tmp_path, tests):
    """Every mistake ends with exit code 2 and one line on stderr; nothing half-written is left."""
    for arguments, says in mistakes(tmp_path, tests):
        code, _, err = run(capsys, "decontaminate", *arguments)
        assert code == 2, arguments
        assert says in err and err.startswith("tamis: ") and err.count("\n") == 1, (arguments, err)
    assert not [path for path in (tmp_path / "out").glob("*") if path.name != ".tamis-lock"]


def test_help_shows_an_example(capsys):
    """The page says what is written and how to call it."""
    code, text, _ = run(capsys, "decontaminate", "--help")
    flat = " ".join(text.split())
    assert code == 0 and "tamis decontaminate train.jsonl --against" in flat and "dropped.parquet" in flat
