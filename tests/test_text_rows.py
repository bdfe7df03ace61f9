"""Rows of texts that stream in and out."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tamis import text_rows
from tamis.text_rows import TextRows


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def texts(rows):
    """(id, column, text) of every text of every block."""
    return [
        (block.ids[owner], column, text)
        for block in rows.blocks()
        for text, owner, column in zip(block.texts, block.owners.tolist(), block.columns, strict=True)
    ]


def test_texts_are_those_of_the_known_columns(tmp_path):
    """Texts and lists of texts, a title before its text; blank and missing ones are none; ids are names or numbers."""
    path = jsonl(
        tmp_path / "a.jsonl",
        [
            {"_id": 7, "query": "q", "text": "body", "title": "Head", "negative": "n"},
            {"query": ["x", None, "y"], "text": None, "title": "Lost"},
            {"query": " ", "other": 3},
        ],
    )
    rows = TextRows(path)
    assert rows.columns == ["query", "text"]
    assert texts(rows) == [("7", "query", "q"), ("7", "text", "Head body"), ("2", "query", "x"), ("2", "query", "y")]
    assert texts(rows) == texts(rows)
    assert texts(TextRows(path, columns=["negative"])) == [("7", "negative", "n")]
    assert [name for name, _, _ in texts(TextRows(path, only={"2"}))] == ["2", "2"]


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_kept_rows_are_written_as_they_came(tmp_path, monkeypatch, form):
    """Writing all rows gives the file, writing some gives those, across blocks and batches."""
    monkeypatch.setattr(text_rows, "_ROWS", 4)
    table = pa.table({"id": np.arange(10), "text": [f"a, {i}\n" for i in range(10)], "v": np.arange(10) / 4})
    path = tmp_path / f"a.{form}"
    if form == "parquet":
        pq.write_table(table, path, row_group_size=3)
    elif form == "jsonl":
        jsonl(path, table.to_pylist())
    else:
        path.write_text("id,text\n" + "".join(f'{i},"a, {i}\n"\n' for i in range(10)), encoding="utf-8")
    rows = TextRows(path)
    blocks = list(rows.blocks())
    assert [len(block) for block in blocks] == [4, 4, 2]
    for kept in (np.ones(10, bool), np.arange(10) % 3 == 0):
        with rows.writer(tmp_path / "out") as write:
            for number, block in enumerate(blocks):
                write(block, kept[4 * number : 4 * number + len(block)])
        if form == "parquet":
            assert pq.read_table(tmp_path / "out").equals(table.filter(pa.array(kept)))
        elif kept.all():
            assert (tmp_path / "out").read_bytes() == path.read_bytes()
        else:
            (tmp_path / "out").rename(tmp_path / f"out.{form}")
            left = [name for block in TextRows(tmp_path / f"out.{form}").blocks() for name in block.ids]
            assert left == ["0", "3", "6", "9"]


def test_long_rows_make_small_blocks(tmp_path, monkeypatch):
    """Blocks are bounded in letters too."""
    monkeypatch.setattr(text_rows, "_LETTERS", 10)
    path = jsonl(tmp_path / "a.jsonl", [{"text": "x" * 6}] * 5)
    assert [len(block) for block in TextRows(path).blocks()] == [2, 2, 1]


def test_a_line_keeps_its_bytes(tmp_path):
    """Spaces and escapes inside a line stay; a missing line end is added."""
    path = tmp_path / "a.jsonl"
    path.write_text('{"text" :  "\\u00e9"}\n\n{"text": "é"}', encoding="utf-8")
    rows = TextRows(path)
    with rows.writer(tmp_path / "out") as write:
        for block in rows.blocks():
            write(block, np.ones(len(block), bool))
    assert (tmp_path / "out").read_text(encoding="utf-8") == '{"text" :  "\\u00e9"}\n{"text": "é"}\n'


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.jsonl", "", "is empty: it must hold a text per row"),
        ("a.txt", "x", "must end in .jsonl, .csv, .tsv or .parquet, or be a folder: got '.txt'"),
        ("a.jsonl", '{"n": 1}\n', "has no column of texts"),
        ("a.csv", "n,m\n1,2\n", "has no column of texts"),
        ("a.parquet", "none", "is not a readable Parquet file"),
        ("a.jsonl", '{"text": "a"}\n{"text": [1]}\n', r"line 2: 'text' must be a text or a list of texts: got \[1\]"),
    ],
)
def test_bad_files_are_named(tmp_path, name, content, says):
    """One line says what is wrong with a file, and where."""
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=says):
        list(TextRows(tmp_path / name).blocks())
