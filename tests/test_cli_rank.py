"""``tamis rank``: wide, turned and long tables give one ranking; places, intervals and clear lines."""

from __future__ import annotations

import json
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tamis.cli import main
from tamis.evaluation import ModelRanker


@pytest.fixture
def values() -> np.ndarray:
    """Three models on 60 samples of scales of their own, a third of the results missing."""
    rng = np.random.default_rng(0)
    table = (np.array([0.0, 2.0, 2.1])[:, None] + rng.gumbel(size=(3, 60))) * 10 ** rng.uniform(-2, 2, 60)
    return np.where(rng.random(table.shape) < 0.3, math.nan, table)


def cell(value: float) -> str:
    return "" if math.isnan(value) else repr(float(value))


def wide(path, values) -> None:
    lines = ["id,weak,good,best", *(f"s{i}," + ",".join(map(cell, column)) for i, column in enumerate(values.T))]
    path.write_text("\n".join(lines) + "\n")


def run(*arguments) -> None:
    try:
        main([str(a) for a in arguments])
    except SystemExit as end:
        assert end.code in (0, None), end.code


def stopped(capsys, *arguments) -> str:
    """The one line of a command that stops with code 2."""
    with pytest.raises(SystemExit) as end:
        main([str(a) for a in arguments])
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


def ranking(path) -> list[dict]:
    return json.loads(path.read_text())["ranking"]


def test_one_ranking_whatever_the_form(tmp_path, values, capsys):
    """A wide table, one that is turned and a long one should rank as the Python call does."""
    wide(tmp_path / "wide.csv", values)
    turned = {"name": ["weak", "good", "best"]} | {f"s{i}": column for i, column in enumerate(values.T)}
    pq.write_table(pa.table(turned), tmp_path / "turned.parquet")
    names = ["weak", "good", "best"]
    with (tmp_path / "long.jsonl").open("w") as file:
        for model, row in zip(names, values, strict=True):
            for sample, value in enumerate(row.tolist()):
                if not math.isnan(value):
                    file.write(json.dumps({"model": model, "sample": sample, "value": value}) + "\n")
    run("rank", tmp_path / "wide.csv", "-o", tmp_path / "wide.json")
    run("rank", tmp_path / "turned.parquet", "--rows", "models", "-o", tmp_path / "turned.json")
    run("rank", tmp_path / "long.jsonl", "-o", tmp_path / "long.json")
    expected = ModelRanker().fit(values).scores_
    for form in ("wide", "turned", "long"):
        found = {row["model"]: row for row in ranking(tmp_path / f"{form}.json")}
        assert [found[name]["strength"] for name in names] == pytest.approx(expected.tolist(), abs=1e-9)
        assert [found[name]["results"] for name in names] == np.isfinite(values).sum(1).tolist()
    told = capsys.readouterr().out
    assert "3 models, 60 samples" in told
    assert "weak" in told


def test_places_are_spans_where_models_are_close(tmp_path, values):
    """The weak model should be third in every draw; the two others may change places."""
    wide(tmp_path / "wide.csv", values)
    run("rank", tmp_path / "wide.csv", "-o", tmp_path / "out.json")
    rows = {row["model"]: row for row in ranking(tmp_path / "out.json")}
    assert rows["weak"]["place"] == [3, 3]
    assert rows["good"]["place"] == rows["best"]["place"] == [1, 2]
    assert all(row["low"] <= row["strength"] <= row["high"] for row in rows.values())
    assert sum(row["wins"] for row in rows.values()) == sum(row["losses"] for row in rows.values())


def test_direction_of_each_sample(tmp_path, values):
    """Errors among scores should count the other way round, in a wide and in a long table."""
    down = np.arange(60) % 2 == 0
    flipped = np.where(down, -values, values)
    columns = dict(zip(["weak", "good", "best"], flipped, strict=True)) | {"better": np.where(down, "lower", "higher")}
    pq.write_table(pa.table(columns), tmp_path / "wide.parquet")
    run("rank", tmp_path / "wide.parquet", "--direction", "better", "-o", tmp_path / "out.json")
    assert [row["model"] for row in ranking(tmp_path / "out.json")][-1] == "weak"
    wide(tmp_path / "all.csv", -values)
    run("rank", tmp_path / "all.csv", "--lower-is-better", "-o", tmp_path / "all.json")
    assert [row["strength"] for row in ranking(tmp_path / "all.json")] == pytest.approx(
        [row["strength"] for row in ranking(tmp_path / "out.json")]
    )


def test_columns_can_be_chosen(tmp_path, values):
    """A column of numbers that is no model should be left out where that is said."""
    table = pa.table({"number": list(range(60)), "weak": values[0], "good": values[1], "best": values[2]})
    pq.write_table(table, tmp_path / "t.parquet")
    run("rank", tmp_path / "t.parquet", "--skip", "number", "-o", tmp_path / "skip.json")
    assert {row["model"] for row in ranking(tmp_path / "skip.json")} == {"weak", "good", "best"}
    run("rank", tmp_path / "t.parquet", "--models", "weak", "--models", "best", "-o", tmp_path / "two.json")
    assert [row["model"] for row in ranking(tmp_path / "two.json")] == ["best", "weak"]


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("a,b\n1,0\n2,1\n", [], "they fall into 2 parts, and no other ever beats a; give alpha > 0"),
        ("a,b\n1,\n2,\n", [], "only the column 'a' holds numbers"),
        ("a,b\nx,y\n", [], "no column holds numbers"),
        ("a,b\n", [], "holds no rows"),
        ("a\n1\n", [], "only the column 'a' holds numbers"),
        ("a,b\n1,2\n", ["--skip", "c"], "has no column 'c'; there are: a, b"),
        ("a,b,d\n1,2,up\n", ["--direction", "d"], "a direction must be one of higher, lower"),
        ("model,sample,value\na,1,x\n", [], "the column 'value' must hold numbers: got 'x'"),
        ("model,sample,value\na,1,1\na,1,2\n", [], "'a' has 2 on '1'"),
        ("a,b\n1,0\n0,1\n", ["--confidence", "1"], "confidence must lie between 0 and 1"),
        ("a,b\n1,0\n0,1\n", ["--resamples", "0"], "resamples must be at least 1"),
    ],
)
def test_bad_tables_are_refused_in_one_line(tmp_path, capsys, text, options, message):
    """Each mistake should be one line on stderr with code 2, and write nothing."""
    (tmp_path / "t.csv").write_text(text)
    assert message in stopped(capsys, "rank", tmp_path / "t.csv", "-o", tmp_path / "out.json", *options)
    assert not (tmp_path / "out.json").exists()
    assert "the ending of results" in stopped(capsys, "rank", tmp_path / "t.xls")
