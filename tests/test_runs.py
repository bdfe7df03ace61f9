"""Run folders: whole or not at all, never someone else's, the same again."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from tamis import export, runs
from tamis.negatives.mine import mine_negatives as mine
from tests import verses


@pytest.fixture(scope="module")
def mined():
    return mine(verses.data(both=200), encoder=verses.LetterEncoder(), percentage=0.92, negatives=3)


def test_round_trip(mined, tmp_path):
    """What is saved loads back the same, column by column."""
    mined.save(tmp_path / "run")
    again = runs.load(tmp_path / "run")
    assert again.queries == mined.queries and again.corpus == mined.corpus
    for ours, theirs in ((again.negatives, mined.negatives), (again.dropped, mined.dropped)):
        assert set(ours) == set(theirs)
        for name, values in theirs.items():
            assert (
                values.tolist() == pytest.approx(ours[name].tolist(), nan_ok=True)
                if values.dtype.kind == "f"
                else (values.tolist() == ours[name].tolist())
            )
    assert all(np.array_equal(a, b) for a, b in zip(again.positives, mined.positives, strict=True))
    assert json.loads(json.dumps(mined.summary)) == again.summary


def test_the_same_run_writes_the_same_bytes(mined, tmp_path):
    """Parquet files of two saves are equal to the byte."""
    for name in ("a", "b"):
        mined.save(tmp_path / name)
    for file in runs.OUTPUTS:
        assert runs.file_digest(tmp_path / "a" / file) == runs.file_digest(tmp_path / "b" / file)


def test_current_until_something_changes(mined, tmp_path):
    """A finished run is known by its key, and a damaged output or another key is noticed."""
    data = verses.data()
    key = runs.run_key(data, {"negatives": 3})
    assert key != runs.run_key(data, {"negatives": 4}) and key != runs.run_key(verses.data(both=1), {"negatives": 3})
    folder = tmp_path / "run"
    with runs.locked(folder):
        runs.save(mined, folder, key=key)
    assert runs.is_current(folder, key) and not runs.is_current(folder, "other")
    (folder / "negatives.parquet").write_bytes(b"cut")
    assert not runs.is_current(folder, key)


def test_foreign_folders_and_files_are_left_alone(tmp_path):
    """A folder with files of others, or a file, is no output folder."""
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(ValueError, match="is not empty and was not made by tamis"), runs.locked(tmp_path):
        pass
    with pytest.raises(ValueError, match="is a file: name a folder"), runs.locked(tmp_path / "mine.txt"):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


HOLDER = """
import sys, pathlib
from tamis import runs
with runs.locked(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_two_runs_cannot_share_a_folder(tmp_path):
    """While one process holds the folder another is told so, and gets it when the first is gone, however it went."""
    other = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "run")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert other.stdout.readline() == b"held\n"
    with pytest.raises(ValueError, match="is in use by another run"), runs.locked(tmp_path / "run"):
        pass
    other.kill()
    other.communicate()
    with runs.locked(tmp_path / "run"):
        pass


def test_an_unfinished_run_does_not_load(tmp_path):
    """A folder without manifest is answered with the command that makes one."""
    with pytest.raises(ValueError, match="holds no finished mining run: run `tamis mine"):
        runs.load(tmp_path)


def test_lone_surrogates_and_control_characters_survive(tmp_path):
    """Texts that are no valid UTF-8 do not stop a run."""
    found = mine(["q\ud800"], ["a\x00", "b\udfff", "c"], [[0]], query_embeddings=np.eye(3)[:1] + 1,
                 corpus_embeddings=np.eye(3) + 1, max_survival=1.0)  # fmt: skip
    found.save(tmp_path / "run")
    assert runs.load(tmp_path / "run").corpus.texts == ["a\x00", "b\ufffd", "c"]
    assert export.write(found, "flagembedding", tmp_path / "x.jsonl") == 1


def test_column_formats(mined):
    """Every form holds each negative as often as it should and never a positive."""
    pairs = sum(len(mined.positives[q]) for q in mined.negatives["query"])
    triplets = export.columns(mined, "triplet")
    assert list(triplets) == ["anchor", "positive", "negative"] and len(triplets["anchor"]) == pairs
    tuples = export.columns(mined, "n-tuple")
    assert list(tuples)[2:] == ["negative_1", "negative_2", "negative_3"]
    assert sum(n is not None for c in list(tuples)[2:] for n in tuples[c]) == pairs
    labeled = export.columns(mined, "labeled-pair")
    assert labeled["label"].count(0) == len(mined)
    lists = export.columns(mined, "labeled-list")
    assert sum(row.count(0) for row in lists["labels"]) == len(mined)
    with pytest.raises(ValueError, match="form must be one of 'triplet'"):
        export.columns(mined, "pairs")


def test_file_formats(mined, tmp_path):
    """The lines of FlagEmbedding, Tevatron and MS MARCO hold what their readers ask for."""
    queries = len(np.unique(mined.negatives["query"]))
    assert export.write(mined, "flagembedding", tmp_path / "a") == queries
    row = json.loads((tmp_path / "a").read_text().splitlines()[0])
    assert set(row) == {"query", "pos", "neg", "pos_id", "neg_id", "neg_scores"} and isinstance(row["pos"], list)
    assert len(row["neg"]) == len(row["neg_id"]) == len(row["neg_scores"])
    export.write(mined, "tevatron", tmp_path / "b")
    row = json.loads((tmp_path / "b").read_text().splitlines()[0])
    assert set(row["negative_passages"][0]) == {"docid", "title", "text"}
    count = export.write(mined, "msmarco", tmp_path / "c")
    assert all(line.count("\t") == 2 for line in (tmp_path / "c").read_text().splitlines()) and count > queries
    export.write(mined, "triplet", tmp_path / "d.parquet")


def test_to_dataset(mined):
    """The triplets come as a Dataset."""
    pytest.importorskip("datasets")
    assert mined.to_dataset("triplet").column_names == ["anchor", "positive", "negative"]
