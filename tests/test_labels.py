"""Labels: groups and splits on their way in from every kind of data, and back out."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tamis import runs
from tamis.data import from_pairs, from_python, read, write_beir
from tamis.labels import as_label, label_of


def write_lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def beir(folder, queries, corpus):
    write_lines(folder / "queries.jsonl", queries)
    write_lines(folder / "corpus.jsonl", corpus)
    (folder / "qrels").mkdir()
    (folder / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\nq1\ta\t1\n", encoding="utf-8")
    return folder


def test_beir(tmp_path):
    """A line says its group and split at its top or in its metadata; an absent column is None."""
    folder = beir(
        tmp_path / "data",
        [
            {"_id": "q0", "text": "other", "split": "dev"},
            {"_id": "q1", "text": "where", "metadata": {"split": "train"}},
        ],
        [
            {"_id": "a", "text": "one", "doc_id": 7},
            {"_id": "b", "text": "two", "metadata": {"document": "Seven", "split": "test"}},
            {"_id": "c", "text": "three", "metadata": "none", "group": None},
        ],
    )
    data = read(folder)
    assert (data.queries.groups, data.queries.splits) == (None, ["train"])
    assert (data.corpus.groups, data.corpus.splits) == (["7", "Seven", None], [None, "test", None])


def test_beir_without_labels(tmp_path):
    """Data without labels carry none, and are written as they were."""
    data = read(beir(tmp_path / "data", [{"_id": "q1", "text": "x"}], [{"_id": "a", "text": "one", "group": " "}]))
    assert (data.queries.groups, data.queries.splits, data.corpus.groups, data.corpus.splits) == (None,) * 4
    write_beir(data, tmp_path / "out")
    line = json.loads((tmp_path / "out" / "corpus.jsonl").read_text(encoding="utf-8"))
    assert list(line.items()) == [("_id", "a"), ("title", ""), ("text", "one")]


def test_write_and_read_again(tmp_path):
    """What is written comes back, and queries of an earlier split keep their labels."""
    data = from_python({"x": "q", "y": "r"}, {"a": "one", "b": "two"}, {"x": ["a"], "y": ["b"]},
                       query_splits={"x": "train"}, corpus_groups={"b": 3}, corpus_splits=["train", None])  # fmt: skip
    write_beir(data, tmp_path)
    later = from_python({"z": "s"}, {"a": "one", "b": "two"}, {"z": ["a"]}, corpus_groups={"b": 3})
    write_beir(later, tmp_path, split="test")
    again = read(tmp_path, split="train")
    assert (again.queries, again.corpus.groups) == (data.queries, [None, "3"])
    assert read(tmp_path, split="test").queries.splits is None


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_files_of_pairs(tmp_path, kind):
    """A row's group and split are those of its texts; a column of texts called document is no group."""
    rows = [
        {"query": "q", "positive": "one", "document": "D", "split": "train"},
        {"query": "r", "positive": "two", "document": "D", "split": "test"},
        {"query": "r", "positive": "one", "document": "E", "split": "test"},
    ]
    path = tmp_path / f"pairs.{kind}"
    if kind == "jsonl":
        write_lines(path, rows)
    elif kind == "csv":
        path.write_text("\n".join([",".join(rows[0]), *(",".join(r.values()) for r in rows)]) + "\n", encoding="utf-8")
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    data = read(path)
    assert data.queries.groups == ["D", "D"] and data.queries.splits == ["train", "test"]
    assert data.corpus.texts == ["one", "two"]
    # The first row names the group of a text; a text of two splits is free.
    assert data.corpus.groups == ["D", "D"] and data.corpus.splits == [None, "test"]
    renamed = [{"query": r["query"], "document": r["positive"], "group": r["document"]} for r in rows]
    write_lines(tmp_path / "other.jsonl", renamed)
    assert read(tmp_path / "other.jsonl").corpus.groups == ["D", "D"]


def test_negatives_of_a_row_are_of_its_split_and_of_no_group():
    """A negative stands in the split of its row; which document it comes from the row does not say."""
    data = from_pairs(["q"], ["one"], [["two"]], ["D"], ["test"])
    assert (data.corpus.groups, data.corpus.splits) == (["D", None], ["test", "test"])


def test_labels_of_texts_without_a_corpus():
    """Without a corpus, labels go by the text of the positive."""
    data = from_python(["q"], None, [["one", "two"]], corpus_groups={"two": "D"})
    assert data.corpus.groups == [None, "D"]


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"query_groups": ["a", "b"]}, ValueError, "query_groups must have one entry per row: 1 rows, 2 entries"),
        ({"corpus_splits": {"z": "test"}}, ValueError, "corpus_splits names 'z', which is not there"),
        ({"corpus_groups": "ab"}, TypeError, "corpus_groups must hold one label per row: got a single string"),
    ],
)
def test_bad_labels(settings, error, message):
    """Labels that do not fit the rows are named."""
    with pytest.raises(error, match=message):
        from_python(["q"], {"a": "one"}, [["a"]], **settings)


def test_what_is_a_label():
    """Texts and numbers are labels; what is blank, missing, not a number or made of parts is none."""
    assert [as_label(v) for v in ("a ", 3, 2.5, " ", None, float("nan"), True, ["a"])] == ["a", "3", "2.5", *[None] * 5]
    assert label_of({"group": [], "metadata": {"doc_id": "x"}}, ("group", "doc_id")) == "x"


def test_a_changed_label_is_another_run():
    """Labels decide what is mined, so they belong to the digest of the data."""
    digests = {
        runs.digest_data(from_python(["q"], ["a", "b"], [[0]], **settings))
        for settings in ({}, {"corpus_groups": ["x", "x"]}, {"corpus_splits": ["x", "x"]}, {"query_splits": ["x"]})
    }
    assert len(digests) == 4
