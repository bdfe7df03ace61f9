"""The command line as a user meets it: results, and one line with exit code 2 for every mistake."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tamis import cli, runs
from tamis.data import write_beir
from tests import verses


@pytest.fixture
def beir(tmp_path):
    """The verses in BEIR layout, and their vectors."""
    folder = tmp_path / "data"
    data = verses.data(both=300)
    write_beir(data, folder)
    encoder = verses.LetterEncoder()
    np.save(tmp_path / "q.npy", encoder.encode(data.queries.texts))
    np.save(tmp_path / "c.npy", encoder.encode(data.corpus.texts))
    return folder


def run(capsys, *arguments):
    """Exit code, stdout and stderr of a command."""
    try:
        cli.main([str(a) for a in arguments])
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    out = capsys.readouterr()
    return code, out.out, out.err


def vectors(beir):
    return "--query-embeddings", beir.parent / "q.npy", "--corpus-embeddings", beir.parent / "c.npy"


def test_mine_audit_report_export(capsys, beir, tmp_path):
    """The chain on given vectors: plan, funnel, audit, truth, page, export; the second run has nothing to do."""
    out = tmp_path / "mined"
    code, text, err = run(capsys, "mine", beir, "-o", out, *vectors(beir), "--negatives", 4)
    assert (code, err) == (0, "")
    assert "Plan" in text and "dropped: margin" in text and "survival rate" in text
    code, text, _ = run(capsys, "mine", beir, "-o", out, *vectors(beir), "--negatives", 4)
    assert code == 0 and "Nothing changed since the last run" in text
    code, text, _ = run(capsys, "mine", beir, "-o", out, *vectors(beir), "--negatives", 3)
    assert code == 0 and "Nothing changed" not in text
    code, text, _ = run(capsys, "audit", out, "--truth", beir)
    assert code == 0 and "negatives that are a positive of their query  0" in text and "Truth" in text
    code, text, _ = run(capsys, "report", out)
    assert code == 0 and "<html" in (out / "report.html").read_text()
    code, text, _ = run(capsys, "export", out, "-o", tmp_path / "x.jsonl", "--form", "tevatron")
    assert code == 0 and json.loads((tmp_path / "x.jsonl").read_text().splitlines()[0])["negative_passages"]


def test_a_killed_run_ends_the_same(capsys, beir, tmp_path):
    """Outputs of a run that was stopped before its manifest was written are made again to the byte."""
    out = tmp_path / "mined"
    run(capsys, "mine", beir, "-o", out, *vectors(beir))
    before = {name: runs.file_digest(out / name) for name in runs.OUTPUTS if name.endswith("parquet")}
    (out / runs.MANIFEST).unlink()
    (out / "negatives.parquet").write_bytes(b"cut")
    run(capsys, "mine", beir, "-o", out, *vectors(beir))
    assert before == {name: runs.file_digest(out / name) for name in before}


def mistakes(beir, tmp_path):
    """(arguments, what the line must say) for mistakes of every kind."""
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"query": "q", "positive": "p"}\n{"query": "q"\n')
    cut = tmp_path / "cut.parquet"
    pq.write_table(pa.table({"query": ["q"] * 100, "positive": ["p"] * 100}), cut)
    cut.write_bytes(cut.read_bytes()[:200])
    nan = tmp_path / "nan.npy"
    broken = np.load(beir.parent / "q.npy")
    broken[5, 0] = np.nan
    np.save(nan, broken)
    unknown = tmp_path / "unknown"
    write_beir(verses.data(), unknown)
    with (unknown / "qrels" / "train.tsv").open("a") as file:
        file.write("1:1\tnobody\t1\n")
    full = tmp_path / "full"
    full.mkdir()
    (full / "letter.txt").write_text("mine")
    out = tmp_path / "out"
    return [
        (("mine", tmp_path / "nowhere", "-o", out), "nowhere does not exist"),
        (("mine", bad, "-o", out), "bad.jsonl, line 2: not valid JSON"),
        (("mine", cut, "-o", out), "cut.parquet is not a readable Parquet file"),
        (("mine", unknown, "-o", out), "corpus-id 'nobody' is not in corpus.jsonl"),
        (("mine", beir, "-o", out, "--query-embeddings", nan, "--corpus-embeddings", beir.parent / "c.npy"),
         "the first is row 5"),
        (("mine", beir, "-o", out, *vectors(beir), "--percentage", 95), "percentage must lie between 0 and 1: got 95"),
        (("mine", beir, "-o", full, *vectors(beir)), "is not empty and was not made by tamis"),
        (("mine", beir, "-o", out, *vectors(beir), "--max-memory", "lots"), "max-memory must be a size like"),
        (("mine", beir, "-o", out, *vectors(beir), "--split", "test"), "no split 'test': there are train"),
        (("mine", beir, "-o", out, "--encoder", "./no-model"), "no-model does not exist"),
        (("mine", beir), "--output"),
        (("mine", beir, "-o", out, "--negatives", "many"), "--negatives"),
        (("mine", beir, "-o", out, "--colour", "red"), "--colour"),
        (("audit", out), "holds no finished mining run"),
        (("methods", "zzz"), "no method matches 'zzz'"),
        (("claims", "zzz"), "no claim is called 'zzz'"),
        (("nonsense",), "nonsense"),
    ]  # fmt: skip


def test_mistakes_get_one_line_and_exit_code_2(capsys, beir, tmp_path):
    """Every mistake ends with exit code 2 and one line on stderr that names what is wrong."""
    for arguments, says in mistakes(beir, tmp_path):
        code, _, err = run(capsys, *arguments)
        assert code == 2, arguments
        assert says in err and err.startswith("tamis: ") and err.count("\n") == 1, (arguments, err)


def test_methods_and_claims_list(capsys):
    """The catalogue shows methods with their claims, and what is still to come as not there."""
    code, text, _ = run(capsys, "methods")
    assert code == 0 and "gistembed" in text
    code, text, _ = run(capsys, "methods", "gistembed")
    assert "arXiv:2402.16829" in text and "tests/losses/test_gistembed.py" in text
    code, text, _ = run(capsys, "methods", "--planned")
    assert "planned and not here" in text and " gistembed " not in text and "dart_math" in text
    code, text, _ = run(capsys, "claims")
    assert code == 0 and "gistembed" in text
