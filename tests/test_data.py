"""Readers: every form of input becomes the same data, and every mistake one clear line."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tamis import data
from tamis.files import read_embeddings

PAIRS = [("what is a sieve", "a tool"), ("what is flour", "ground grain"), ("what is a sieve", "a mesh in a frame")]


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def beir(folder, qrels="q1\td1\t1\nq2\td2\t2\nq2\td1\t0\n"):
    write(folder / "corpus.jsonl", '{"_id": "d1", "title": "T", "text": "one"}\n{"_id": "d2", "text": "two"}\n')
    write(
        folder / "queries.jsonl",
        '{"_id": "q1", "text": "uno"}\n{"_id": "q2", "text": "due"}\n{"_id": "q3", "text": "tre"}\n',
    )
    write(folder / "qrels" / "train.tsv", "query-id\tcorpus-id\tscore\n" + qrels)
    return folder


def same_pairs(found):
    assert found.queries.texts == ["what is a sieve", "what is flour"]
    assert sorted(found.corpus.texts) == ["a mesh in a frame", "a tool", "ground grain"]
    assert [sorted(found.corpus.texts[i] for i in rows) for rows in found.positives] == [
        ["a mesh in a frame", "a tool"],
        ["ground grain"],
    ]


def test_files_of_pairs_read_alike(tmp_path):
    """JSONL, CSV, TSV, Parquet and a saved dataset of the same pairs are the same data."""
    write(tmp_path / "p.jsonl", "".join(json.dumps({"query": q, "positive": p}) + "\n" for q, p in PAIRS))
    write(tmp_path / "p.csv", "anchor,positive\n" + "".join(f"{q},{p}\n" for q, p in PAIRS))
    write(tmp_path / "p.tsv", "question\tanswer\n" + "".join(f"{q}\t{p}\n" for q, p in PAIRS))
    table = pa.table({"query": [q for q, _ in PAIRS], "pos": [[p] for _, p in PAIRS]})
    pq.write_table(table, tmp_path / "p.parquet")
    for name in ("p.jsonl", "p.csv", "p.tsv", "p.parquet"):
        same_pairs(data.read(tmp_path / name))


def test_saved_datasets_read_without_the_package(tmp_path):
    """A Dataset and a DatasetDict written by ``datasets`` read as their pairs do."""
    datasets = pytest.importorskip("datasets")
    made = datasets.Dataset.from_dict({"query": [q for q, _ in PAIRS], "positive": [p for _, p in PAIRS]})
    made.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": made, "test": made.select([0])}).save_to_disk(str(tmp_path / "two"))
    same_pairs(data.read(tmp_path / "one"))
    same_pairs(data.read(tmp_path / "two"))
    assert len(data.read(tmp_path / "two", split="test").queries) == 1
    with pytest.raises(ValueError, match="no split 'dev': there are test, train"):
        data.read(tmp_path / "two", split="dev")


def test_triplets_bring_their_negatives_into_the_corpus(tmp_path):
    """The negatives of a triplet file are passages too."""
    path = write(tmp_path / "t.jsonl", '{"anchor": "q", "positive": "p", "negative": "n", "negative_2": "m"}\n')
    assert data.read(path).corpus.texts == ["p", "n", "m"]


def test_beir_folder(tmp_path):
    """Titles go before texts, grade 0 is no positive, queries without a positive are left out."""
    found = data.read(beir(tmp_path))
    assert (found.queries.ids, found.corpus.texts) == (["q1", "q2"], ["T one", "two"])
    assert [p.tolist() for p in found.positives] == [[0], [1]]
    assert [g.tolist() for g in found.grades] == [[1.0], [2.0]]
    assert data.splits_of(tmp_path) == ["train"]


def test_beir_round_trip(tmp_path):
    """What is written in BEIR layout reads back the same."""
    found = data.read(beir(tmp_path / "a"))
    data.write_beir(found, tmp_path / "b")
    again = data.read(tmp_path / "b")
    assert (again.queries, again.corpus) == (found.queries, found.corpus)
    assert all(np.array_equal(a, b) for a, b in zip(again.positives, found.positives, strict=True))


@pytest.mark.parametrize(
    ("qrels", "says"),
    [
        ("q9\td1\t1\n", "line 2: query-id 'q9' is not in queries.jsonl"),
        ("q1\td9\t1\n", "line 2: corpus-id 'd9' is not in corpus.jsonl"),
        ("q1\td1\tmany\n", "line 2: score must be a number: got 'many'"),
        ("q1\td1\n", "line 2: expected query-id, corpus-id, score: got 2 fields"),
        ("q1\td1\t0\n", "names no positive"),
    ],
)
def test_bad_qrels_name_the_line(tmp_path, qrels, says):
    """A judgement that cannot be used names its file and line."""
    with pytest.raises(ValueError, match=says):
        data.read(beir(tmp_path, qrels))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.jsonl", '{"query": "q", "positive": "p"}\n{"query": \n', "line 2: not valid JSON"),
        ("a.jsonl", '["q", "p"]\n', "line 1: expected a JSON object: got list"),
        ("a.jsonl", "[" * 100_000 + "\n", "line 1: not valid JSON"),
        (
            "a.jsonl",
            '{"query": "q", "positive": "p"}\n{"query": "", "positive": "p"}\n',
            "line 2: 'query' must be a text",
        ),
        ("a.jsonl", '{"query": "q", "positive": ["p", 3]}\n', "line 1: 'positive' must be a text or a list of texts"),
        ("a.jsonl", '{"question": "q", "other": "p"}\n', "has no column of positives"),
        ("a.jsonl", "\n", "is empty"),
        ("a.csv", "query,positive\na,b,c\n", "line 2: more fields than the header"),
        ("a.csv", "query,positive\na,\n", "line 2: 'positive' must be a text"),
        ("a.parquet", "PAR1 no", "not a readable Parquet file"),
        ("a.xlsx", "", "must end in .jsonl, .csv, .tsv or .parquet"),
    ],
)
def test_bad_files_say_where(tmp_path, name, content, says):
    """A file that cannot be used gives one line with its name and, for text, the line."""
    with pytest.raises(ValueError, match=says) as caught:
        data.read(write(tmp_path / name, content))
    assert "\n" not in str(caught.value)


def test_bad_bytes_and_missing_files(tmp_path):
    """Bytes that are not UTF-8 and paths that lead nowhere are named."""
    (tmp_path / "a.jsonl").write_bytes(b'{"query": "q", "positive": "p"}\n\xff\xfe\n')
    with pytest.raises(ValueError, match="line 2: not UTF-8"):
        data.read(tmp_path / "a.jsonl")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        data.read(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="neither a BEIR folder"):
        data.read(tmp_path / "empty")


def test_a_table_says_what_is_wrong(tmp_path):
    """Ids that are there twice and empty texts are named with their lines."""
    beir(tmp_path)
    for line, says in (
        ('{"_id": "d1", "text": "again"}', "line 3: the id 'd1' stands on line 1 already"),
        ('{"_id": "d3", "text": "  "}', "line 3: the text of 'd3' is empty"),
        ('{"text": "x"}', "line 3: '_id' must be a text or an integer"),
    ):
        write(tmp_path / "corpus.jsonl", '{"_id": "d1", "text": "one"}\n{"_id": "d2", "text": "two"}\n' + line + "\n")
        with pytest.raises(ValueError, match=says):
            data.read(tmp_path)


def test_several_splits_need_a_name(tmp_path):
    """Without train, one of several splits must be named."""
    beir(tmp_path)
    for name in ("dev", "test"):
        write(tmp_path / "qrels" / f"{name}.tsv", "q1\td1\t1\n")
    (tmp_path / "qrels" / "train.tsv").unlink()
    with pytest.raises(ValueError, match=r"several splits \(dev, test\)"):
        data.read(tmp_path)
    assert len(data.read(tmp_path, split="test").queries) == 1


def test_python_objects():
    """Lists and dicts, ids and row numbers and texts all name the same positives."""
    texts = ["one", "two", "three"]
    for corpus, positives in (
        (texts, [[0], [1, 2]]),
        (texts, [0, ["two", "three"]]),
        ({"a": "one", "b": "two", "c": "three"}, {"0": "a", "1": {"b": 1, "c": 2.0}}),
        ({1: "one", 2: "two", 3: "three"}, [[1], np.array([2, 3])]),
        (None, ["one", ["two", "three"]]),
    ):
        found = data.from_python(["x", "y"], corpus, positives)
        assert [[found.corpus.texts[i] for i in rows] for rows in found.positives] == [["one"], ["two", "three"]]


@pytest.mark.parametrize(
    ("queries", "corpus", "positives", "error", "says"),
    [
        (["q"], ["a"], "a", TypeError, "positives must hold one entry per query: got a single string"),
        ("q", ["a"], [0], TypeError, "queries must be a list or a dict of texts: got a single string"),
        (["q"], ["a"], [[7]], ValueError, "query '0': positive 7 is not in the corpus"),
        (["q", "r"], ["a"], [[0]], ValueError, "one entry per query: 2 queries, 1 positives"),
        (["q"], ["a"], [[]], ValueError, "every query needs a positive: query '0' has none"),
        (["q", " "], ["a"], [0, 0], ValueError, "queries must be texts, none empty: '1'"),
        (["q"], ["a", 3], [0], ValueError, "corpus must be texts, none empty: '1' holds 3"),
        ({1: "q", "1": "r"}, ["a"], [0, 0], ValueError, "queries must have distinct ids"),
        ({"q": "q"}, ["a"], {"q": 0, "z": 0}, ValueError, "positives name the query 'z'"),
        ({"q": "q", "r": "r"}, ["a"], {"q": 0}, ValueError, "query 'r' has none"),
        ([], ["a"], [], ValueError, "queries must hold at least one text"),
    ],
)
def test_bad_python_objects(queries, corpus, positives, error, says):
    """What cannot be used is said in one line that names argument and item."""
    with pytest.raises(error, match=says):
        data.from_python(queries, corpus, positives)


def test_embeddings(tmp_path):
    """Vectors come from .npy or Parquet, in the order of the ids; anything else is refused in one line."""
    vectors = np.arange(6, dtype=np.float32).reshape(3, 2)
    np.save(tmp_path / "v.npy", vectors)
    assert np.array_equal(read_embeddings(tmp_path / "v.npy"), vectors)
    pq.write_table(pa.table({"id": ["c", "a", "b"], "embedding": list(vectors)}), tmp_path / "v.parquet")
    assert np.array_equal(read_embeddings(tmp_path / "v.parquet", ["a", "b", "c"]), vectors[[1, 2, 0]])
    with pytest.raises(ValueError, match="no embedding for the id 'z'"):
        read_embeddings(tmp_path / "v.parquet", ["z"])
    np.save(tmp_path / "o.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="not a readable .npy file"):
        read_embeddings(tmp_path / "o.npy")
    np.save(tmp_path / "i.npy", np.arange(3))
    with pytest.raises(ValueError, match="must hold a float matrix"):
        read_embeddings(tmp_path / "i.npy")


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200), st.sampled_from(["jsonl", "csv", "tsv", "parquet"]))
def test_no_bytes_crash_a_reader(tmp_path, content, suffix):
    """Any bytes give data or one line of ValueError, never another exception."""
    path = tmp_path / f"x.{suffix}"
    path.write_bytes(content)
    try:
        data.read(path)
    except ValueError as error:
        assert str(path) in str(error) or "row" in str(error)
