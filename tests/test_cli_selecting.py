"""``tamis dedup`` and ``tamis select``: rows as they came, evidence for each that went, and clear lines."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tamis.cli import main

TEXTS = [
    "the quick brown fox jumps over the lazy dog today",
    "The quick brown fox jumps over the lazy dog, today!",
    "something else entirely is written in this row",
    "a fourth row of words that repeats nothing before it",
]


@pytest.fixture
def rows(tmp_path):
    """Four rows, the second a copy of the first."""
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"id": f"r{i}", "text": t, "n": i}) + "\n" for i, t in enumerate(TEXTS)))
    return path


def run(*arguments) -> None:
    try:
        main([str(a) for a in arguments])
    except SystemExit as end:
        assert end.code in (0, None), end.code


def stopped(capsys, *arguments) -> str:
    """The one line of a command that stops with code 2."""
    with pytest.raises(SystemExit) as end:
        main([str(a) for a in arguments])
    said = capsys.readouterr().err
    assert end.value.code == 2 and said.count("\n") == 1
    return said


def test_dedup_keeps_lines_to_the_byte(rows, tmp_path, capsys):
    """The first of two copies stays, its line unchanged; the evidence names both and their similarity."""
    run("dedup", rows, "-o", tmp_path / "kept")
    lines = rows.read_text().splitlines(keepends=True)
    assert (tmp_path / "kept" / "rows.jsonl").read_text() == lines[0] + lines[2] + lines[3]
    (dropped,) = pq.read_table(tmp_path / "kept" / "dropped.parquet").to_pylist()
    assert (dropped["id"], dropped["row"], dropped["rival_id"], dropped["rival"]) == ("r1", 2, "r0", 1)
    assert dropped["rule"] == "near-duplicate" and dropped["score"] == 1.0 and dropped["rival_text"] == TEXTS[0]
    report = json.loads((tmp_path / "kept" / "report.json").read_text())
    assert (report["rows"], report["kept"], report["rules"]) == (4, 3, {"near-duplicate": 1})
    said = capsys.readouterr().out
    assert "3 of 4 rows kept" in said and "row 2, near-duplicate, 1.000" in said


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_dedup_of_tables(tmp_path, suffix):
    """Parquet and CSV come back as they were, less the copies."""
    table = pa.table({"id": [f"r{i}" for i in range(4)], "text": TEXTS})
    path = tmp_path / f"rows.{suffix}"
    if suffix == "parquet":
        pq.write_table(table, path)
    else:
        path.write_text("id,text\n" + "".join(f'r{i},"{t}"\n' for i, t in enumerate(TEXTS)))
    run("dedup", path, "-o", tmp_path / "kept")
    kept = tmp_path / "kept" / path.name
    if suffix == "parquet":
        assert pq.read_table(kept).to_pylist() == table.take([0, 2, 3]).to_pylist()
    else:
        assert [line.split(",")[0] for line in kept.read_text().splitlines()] == ["id", "r0", "r2", "r3"]


def test_dedup_by_vectors(rows, tmp_path):
    """Given vectors decide instead of words."""
    np.save(tmp_path / "v.npy", np.array([[1, 0], [0, 1], [1, 0.01], [-1, 0]], dtype=np.float32))
    run("dedup", rows, "-o", tmp_path / "kept", "--embeddings", tmp_path / "v.npy")
    assert pq.read_table(tmp_path / "kept" / "dropped.parquet")["id"].to_pylist() == ["r2"]


@pytest.mark.parametrize(("budget", "count"), [("2", 2), ("0.75", 3), ("4", 4), ("1.0", 4)])
def test_random_rows(rows, tmp_path, budget, count):
    """Exactly the budget, as a count or a share; the same seed gives the same rows, each dropped one has a reason."""
    for name in ("a", "b"):
        run("select", rows, "--budget", budget, "--method", "random", "-o", tmp_path / name)
    one, other = ((tmp_path / name / "rows.jsonl").read_bytes() for name in ("a", "b"))
    assert one == other and len(one.splitlines()) == count
    rules = pq.read_table(tmp_path / "a" / "dropped.parquet")["rule"].to_pylist()
    assert rules == ["not drawn"] * (4 - count)


@pytest.mark.parametrize("method", ["diversify_conquer", "facility_location", "k_center"])
def test_other_methods(rows, tmp_path, method):
    """Two of four rows, each of the others with the kept row that stands for it."""
    np.save(tmp_path / "v.npy", np.array([[1, 0], [0.9, 0.1], [0, 1], [0.1, 0.9]], dtype=np.float32))
    run(
        *("select", rows, "--budget", "2", "--method", method),
        *("--embeddings", tmp_path / "v.npy", "-o", tmp_path / "kept"),
    )
    dropped = pq.read_table(tmp_path / "kept" / "dropped.parquet").to_pylist()
    assert sorted(int(row["rival_id"][1]) // 2 for row in dropped) == sorted(int(row["id"][1]) // 2 for row in dropped)
    assert len((tmp_path / "kept" / "rows.jsonl").read_text().splitlines()) == 2


def test_density_pruning(tmp_path):
    """The method's own choice on given vectors, with the last kept row of the cluster as the rival."""
    from tamis.subsets import DensityPruner

    rng = np.random.default_rng(0)
    vectors = (np.eye(3)[np.arange(60) % 3] + 0.1 * rng.standard_normal((60, 3))).astype(np.float32)
    np.save(tmp_path / "v.npy", vectors)
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"id": str(i), "text": f"text {i}"}) + "\n" for i in range(60)))
    run(
        "select", path, "--budget", "20", "--clusters", "3", "--embeddings", tmp_path / "v.npy", "-o", tmp_path / "kept"
    )
    kept = [int(json.loads(line)["id"]) for line in (tmp_path / "kept" / "rows.jsonl").read_text().splitlines()]
    assert kept == DensityPruner(3, budget=20, n_neighbors=2).fit_select(vectors).indices.tolist()
    dropped = pq.read_table(tmp_path / "kept" / "dropped.parquet").to_pylist()
    assert len(dropped) == 40 and all(int(row["rival_id"]) in kept for row in dropped)


def test_mistakes_are_one_line(rows, tmp_path, capsys):
    """Budget, files and vectors that do not fit; nothing is written."""
    out = tmp_path / "out"
    assert "budget" in stopped(capsys, "select", rows, "--budget", "7", "--method", "random", "-o", out)
    assert "budget must be a count" in stopped(capsys, "select", rows, "--budget", "half", "-o", out)
    assert "clusters must" in stopped(capsys, "select", rows, "--budget", "2", "--clusters", "9", "-o", out)
    assert "does not exist" in stopped(capsys, "dedup", tmp_path / "none.jsonl", "-o", out)
    assert "threshold" in stopped(capsys, "dedup", rows, "-o", out, "--threshold", "2")
    np.save(tmp_path / "v.npy", np.ones((3, 2), dtype=np.float32))
    said = stopped(capsys, "dedup", rows, "-o", out, "--embeddings", tmp_path / "v.npy")
    assert "embeddings must have one entry per row of data: 4 rows, 3" in said
    both = ["--encoder", "x", "--embeddings", tmp_path / "v.npy"]
    assert "exclude each other" in stopped(capsys, "select", rows, "--budget", "2", "-o", out, *both)
    named = tmp_path / "report.json"
    named.write_text("{}")
    assert "report.json" in stopped(capsys, "dedup", named, "-o", out)
    beir = tmp_path / "beir"
    beir.mkdir()
    (beir / "corpus.jsonl").write_text("")
    assert "is a BEIR folder: give one of its files" in stopped(capsys, "dedup", beir, "-o", out)
    assert not out.exists() or not list(out.glob("*.jsonl"))
