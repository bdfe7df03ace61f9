"""``tamis rank``: models by strength from a table of results in any metrics, however much of it is missing."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from tamis.cli.screen import say, table

if TYPE_CHECKING:
    import numpy as np

    from tamis.evaluation import ModelRanker

LONG = ("model", "sample", "value")
_WORDS = {"higher": True, "lower": False, "max": True, "min": False, "true": True, "false": False}


def rank(
    results: Path,
    *,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    rows: Literal["samples", "models"] = "samples",
    models: list[str] | None = None,
    skip: list[str] | None = None,
    direction: str | None = None,
    lower_is_better: bool = False,
    tie: Literal["both", "half", "drop"] = "both",
    alpha: float = 0.0,
    confidence: float = 0.95,
    resamples: int = 200,
    seed: int = 0,
) -> None:
    """Rank models from results on samples, by comparisons within samples alone.

    Metrics may differ from sample to sample, and results may be missing. A table is wide, a row per sample with a
    column of numbers per model (or turned, --rows models), or long, with the columns model, sample and value. Places
    are given as a span where resampling the samples moves a model. Models that no chain of wins connects are named.

    Example: tamis rank results.parquet -o ranking.json

    Args:
        results: Parquet, CSV, TSV or JSONL file.
        output: JSON file for the ranking.
        rows: of a wide table; with models the first column that holds no numbers has their names.
        models: columns of a wide table that are models, may be given again; left out, all that hold numbers.
        skip: columns that are not, may be given again.
        direction: column that says higher or lower, which is better, of each row's sample.
        lower_is_better: of all samples.
        tie: what equal results count: a win for both, half a win for each, or nothing.
        alpha: above 0 draws strengths together, and ranks models that are not connected.
        confidence: of the intervals.
        resamples: times that samples are drawn anew for the intervals.
        seed: of the draws.
    """
    import numpy as np

    from tamis import checks
    from tamis.evaluation import ModelRanker

    started = time.perf_counter()
    columns = _columns(results)
    long = set(LONG) <= set(columns) and rows == "samples" and models is None
    values, names, up = (_long if long else _wide)(results, columns, rows, models, skip or [], direction)
    checks.require(not (lower_is_better and direction), "lower_is_better and direction exclude each other.")
    if lower_is_better:
        up = np.zeros(values.shape[1], dtype=bool)
    ranker = ModelRanker(tie=tie, alpha=alpha).fit(values, models=names, higher_is_better=up)
    checks.require(0 < confidence < 1, f"confidence must lie between 0 and 1: got {confidence!r}.")
    found = _summary(ranker, values, ranker.resample(resamples, seed=seed), confidence)
    say(f"{len(names)} models, {values.shape[1]:,} samples, {np.isfinite(values).mean():.1%} of the results there")
    header = ["place", "model", "strength", f"{confidence:.0%} interval", "wins", "losses", "ties", "results"]
    say(table([_shown(row) for row in found], header=header))
    if output is not None:
        from tamis.files import write_text

        settings = {"tie": tie, "alpha": alpha, "confidence": confidence, "resamples": resamples, "seed": seed}
        seconds = round(time.perf_counter() - started, 2)
        report = {"results": str(results), "ranking": found, "settings": settings, "seconds": seconds}
        write_text(output, json.dumps(report, indent=1) + "\n")
        say(f"Written to {output}")


def _summary(ranker: ModelRanker, values: np.ndarray, draws: np.ndarray, confidence: float) -> list[dict[str, Any]]:
    """One row per model, best first; places are quantiles of the places in the draws."""
    import numpy as np

    ends = [(1 - confidence) / 2, (1 + confidence) / 2]
    low, high = np.quantile(draws, ends, axis=0)
    places = (-draws).argsort(axis=1, kind="stable").argsort(axis=1) + 1
    first, last = np.quantile(places, ends, axis=0, method="nearest").astype(int)
    met = np.isfinite(values)
    found = []
    for model in ranker.ranking_.tolist():
        same = (values == values[model]) & met & met[model]
        same[model] = False
        ties = float(same.sum())
        share = {"both": 1.0, "half": 0.5, "drop": 0.0}[ranker.tie] * ties
        found.append(
            {
                "model": ranker.models_[model],
                "place": [int(first[model]), int(last[model])],
                "strength": float(ranker.scores_[model]),
                "low": float(low[model]),
                "high": float(high[model]),
                "wins": float(ranker.wins_[model].sum() - share),
                "losses": float(ranker.wins_[:, model].sum() - share),
                "ties": ties,
                "results": int(met[model].sum()),
            }
        )
    return found


def _shown(row: dict[str, Any]) -> list[Any]:
    first, last = row["place"]
    counts = [round(row[key]) for key in ("wins", "losses", "ties", "results")]
    interval = f"{row['low']:+.3f} to {row['high']:+.3f}"
    place = str(first) if first == last else f"{first}-{last}"
    return [place, row["model"], f"{row['strength']:+.3f}", interval, *counts]


def _columns(path: Path) -> dict[str, list[Any]]:
    """The columns of a table."""
    from tamis import checks, files

    kind = path.suffix.lower()
    checks.one_of("the ending of results", kind, (".parquet", ".csv", ".tsv", ".jsonl"))
    if kind == ".parquet":
        columns: dict[str, list[Any]] = files.read_parquet(path).to_pydict()
    else:
        read = files.read_jsonl(path) if kind == ".jsonl" else files.read_csv(path, "\t" if kind == ".tsv" else ",")
        rows = [row for _, row in read]
        names = dict.fromkeys(name for row in rows for name in row)
        columns = {name: [row.get(name) for row in rows] for name in names}
    checks.require(bool(columns) and len(next(iter(columns.values()))) > 0, f"{path} holds no rows.")
    return columns


def _wide(
    path: Path,
    columns: dict[str, list[Any]],
    rows: str,
    models: list[str] | None,
    skip: list[str],
    direction: str | None,
) -> tuple[np.ndarray, list[str], Any]:
    import numpy as np

    from tamis import checks

    for name in [*(models or []), *skip, *([direction] if direction else [])]:
        _require_column(path, columns, name)
    left_out = {*skip, direction}
    if models is not None and rows == "models":
        raise ValueError("models names columns, and with --rows models each row is a model: give one of the two.")
    parsed = {name: _numbers(column) for name, column in columns.items() if name not in left_out}
    if models is not None:
        for name in models:
            checks.require(parsed.get(name) is not None, f"{path}: column {name!r} of models must hold numbers.")
    numeric = models or [name for name, numbers in parsed.items() if numbers is not None]
    checks.require(
        bool(numeric), f"{path}: no column holds numbers; give a column per model, or the columns {', '.join(LONG)}."
    )
    matrix = np.array([parsed[name] for name in numeric])
    if rows == "samples":
        checks.require(
            len(numeric) > 1, f"{path}: only the column {numeric[0]!r} holds numbers, and 2 models are needed."
        )
        return matrix, numeric, True if direction is None else _directions(path, columns[direction])
    checks.require(direction is None, "direction is a column of samples, and with --rows models a column is a sample.")
    named = next((name for name, numbers in parsed.items() if numbers is None), None)
    names = [str(i + 1) for i in range(matrix.shape[1])] if named is None else [str(name) for name in columns[named]]
    return matrix.T, names, True


def _long(
    path: Path,
    columns: dict[str, list[Any]],
    rows: str,
    models: list[str] | None,
    skip: list[str],
    direction: str | None,
) -> tuple[np.ndarray, list[str], Any]:
    import numpy as np

    from tamis.evaluation import results_table

    numbers = _numbers(columns["value"])
    if numbers is None:
        wrong = next(value for value in columns["value"] if _number(value) is None)
        raise ValueError(f"{path}: the column 'value' must hold numbers: got {wrong!r}.")
    values, names, samples = results_table(columns["model"], columns["sample"], numbers)
    if direction is None:
        return values, [str(name) for name in names], True
    _require_column(path, columns, direction)
    told: dict[Any, bool] = {}
    for sample, up in zip(columns["sample"], _directions(path, columns[direction]), strict=True):
        if told.setdefault(sample, bool(up)) != up:
            raise ValueError(f"{path}: {direction!r} says both higher and lower of sample {sample!r}.")
    return values, [str(name) for name in names], np.array([told[sample] for sample in samples])


def _require_column(path: Path, columns: dict[str, list[Any]], name: str) -> None:
    from tamis import checks

    checks.require(name in columns, f"{path} has no column {name!r}; there are: {', '.join(columns)}.")


def _directions(path: Path, column: list[Any]) -> list[bool]:
    found = [_WORDS.get(str(value).strip().lower()) for value in column]
    for value, up in zip(column, found, strict=True):
        if up is None:
            raise ValueError(f"{path}: a direction must be one of {', '.join(_WORDS)}: got {value!r}.")
    return [bool(up) for up in found]


def _numbers(column: list[Any]) -> list[float] | None:
    """The numbers of a column, NaN where a cell is empty; None where a cell holds something else, or none a number."""
    found = [_number(value) for value in column]
    if any(value is None for value in found) or all(math.isnan(value) for value in found if value is not None):
        return None
    return [value for value in found if value is not None]


def _number(value: Any) -> float | None:
    if value is None or (isinstance(value, str) and value.strip().lower() in ("", "nan", "null", "none", "na")):
        return math.nan
    if isinstance(value, str) and value.strip().lower() in ("true", "false"):
        return float(value.strip().lower() == "true")
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
