"""TREC run files: what another system retrieved, one line ``query Q0 passage rank score tag`` each.

A run is ordered by its score, as trec_eval orders it; the rank in the file decides between equal scores, and then the
row of the corpus. Lines of queries that the data do not hold are counted and left out, because runs are often made for
more queries than are at hand; a passage that the corpus does not hold is an error, because then the ranks are those of
another corpus. Compressed files (gzip) are read by their content and written by their name.
"""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from tamis import checks
from tamis.checks import shown

Array = np.ndarray[Any, Any]
_COLUMNS = ("query", "q0", "passage", "rank", "score", "tag")


@dataclass(frozen=True)
class Run:
    """The lines of a run file as arrays, by query and then from the best to the worst.

    Args:
        name: what sources and messages call it: the file's name without its endings.
        query: (m,) int64 query rows.
        passage: (m,) int64 corpus rows.
        scores: (m,) float32.
        foreign: lines of queries that the data do not hold.
        missing: queries of the data that no line names.
    """

    name: str
    query: Array
    passage: Array
    scores: Array
    foreign: int = 0
    missing: int = 0


def read_run(path: str | Path, queries: Sequence[str], corpus: Sequence[str]) -> Run:
    """Read a run file.

    Args:
        path: the file, fields between spaces or tabs, perhaps compressed by gzip.
        queries: ids of the queries, distinct.
        corpus: ids of the passages, distinct.

    Returns:
        the lines whose query is among the queries.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: for a line that does not have six fields, a passage that is not in the corpus or twice there for one
            query, a rank or score that is no finite number; names the line. Also when no line names one of the queries.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: give a TREC run file (query Q0 passage rank score tag).")
    fields = _all_at_once(path, queries, corpus)
    if fields is None or not _sound(fields, len(corpus)):
        fields = _line_by_line(path, queries, corpus)  # slower; names the line that is wrong
    known = fields.query >= 0
    checks.require(bool(known.any()), f"{path} names none of the {len(queries):,} queries: its ids are others.")
    query, passage, rank, score = (column[known] for column in fields)
    order = np.lexsort((passage, rank, -score, query))
    missing = len(queries) - len(np.unique(query))
    scores = score[order].astype(np.float32)
    return Run(run_name(path), query[order], passage[order], scores, int((~known).sum()), missing)


def write_run(
    path: str | Path,
    queries: Sequence[str],
    corpus: Sequence[str],
    indices: Array,
    scores: Array,
    *,
    tag: str = "tamis",
) -> int:
    """Write a run file; it appears when it is whole.

    Args:
        path: the file; compressed when its name ends in ``.gz``.
        queries: ids of the queries.
        corpus: ids of the passages.
        indices: (q, k) int, corpus rows, best first; -1 where a row has ended.
        scores: (q, k) float, falling along each row, because readers order a run by its score.
        tag: name of the system.

    Returns:
        how many lines were written.

    Raises:
        ValueError: for shapes that do not fit, scores that rise, or an id that holds a space.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.run"
        >>> write_run(path, ["q"], ["a", "b"], np.array([[1, 0, -1]]), np.array([[2.5, 1.0, -np.inf]]))
        2
        >>> path.read_text().splitlines()
        ['q Q0 b 1 2.5 tamis', 'q Q0 a 2 1 tamis']
    """
    path = Path(path)
    checks.matrix("indices", indices)
    checks.same_shape("scores", scores, "indices", indices)
    checks.same_length("indices", indices, "queries", queries)
    row, place = np.nonzero(indices >= 0)
    passage, score = indices[row, place], scores[row, place]
    checks.finite("scores", score)
    rising = np.flatnonzero((np.diff(score) > 0) & (np.diff(row) == 0))
    checks.require(
        len(rising) == 0,
        "scores must fall along each row, because readers order a run by its score: those of query "
        f"{queries[row[rising[0]]] if len(rising) else ''!r} rise; give 1 / rank for a merged pool.",
    )
    for name, ids in (("query", np.unique(row)), ("passage", np.unique(passage))):
        names = queries if name == "query" else corpus
        bad = next((names[i] for i in ids.tolist() if not names[i] or any(c in ' "\t\r\n' for c in names[i])), None)
        checks.require(bad is None, f"the {name} id {bad!r} cannot stand in a TREC run: it is empty, or holds a space.")
    table = pa.table(
        {
            "query": pa.array(queries).take(pa.array(row)),
            "q0": pa.array(["Q0"] * len(row), pa.string()),
            "passage": pa.array(corpus).take(pa.array(passage)),
            "rank": (place + 1).astype(np.int32),
            "score": score.astype(np.float32),
            "tag": pa.array([tag] * len(row), pa.string()),
        }
    )
    temporary = path.with_name(path.name + ".tmp")
    options = csv.WriteOptions(include_header=False, delimiter=" ", quoting_style="none")
    compression = "gzip" if path.suffix == ".gz" else None
    with pa.output_stream(str(temporary), compression=compression) as out:
        csv.write_csv(table, out, options)
    temporary.replace(path)
    return len(row)


def run_name(path: str | Path) -> str:
    """What a run file is called: its name without the endings of compression and format.

    Example:
        >>> run_name("runs/bm25-top1000.trec.gz")
        'bm25-top1000'
    """
    stem = Path(path).name
    for ending in (".gz", ".txt", ".tsv", ".trec", ".run", ".res"):
        stem = stem.removesuffix(ending) if len(stem) > len(ending) else stem
    return stem


class _Fields(NamedTuple):
    """The columns of a run: rows of queries and corpus (-1 for unknown), rank and score."""

    query: Array
    passage: Array
    rank: Array
    score: Array


def _open(path: Path) -> IO[bytes] | gzip.GzipFile:
    """The bytes of a file, unpacked when they begin as gzip does."""
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rb") if packed else path.open("rb")


def _all_at_once(path: Path, queries: Sequence[str], corpus: Sequence[str]) -> _Fields | None:
    """The columns of a file with one separator between its fields; None for any other."""
    types = dict.fromkeys(_COLUMNS, pa.string()) | {"rank": pa.float64(), "score": pa.float64()}
    try:
        with _open(path) as file:
            first = file.readline()
            file.seek(0)
            table = csv.read_csv(
                file,
                read_options=csv.ReadOptions(column_names=list(_COLUMNS)),
                parse_options=csv.ParseOptions(delimiter="\t" if b"\t" in first else " ", quote_char=False),
                convert_options=csv.ConvertOptions(column_types=types, null_values=[]),
            )
    except (pa.ArrowException, OSError, EOFError, zlib.error):
        return None

    def rows(column: str, ids: Sequence[str]) -> Array:
        found = pc.index_in(table[column], value_set=pa.array(ids, pa.string()))
        return np.asarray(found.fill_null(-1).to_numpy()).astype(np.int64)

    try:
        return _Fields(rows("query", queries), rows("passage", corpus), *(table[c].to_numpy() for c in _COLUMNS[3:5]))
    except (pa.ArrowException, UnicodeError):  # ids with a lone surrogate are no Arrow strings
        return None


def _sound(fields: _Fields, passages: int) -> bool:
    """Whether the lines of known queries can stand as they are."""
    known = fields.query >= 0
    query, passage, rank, score = (column[known] for column in fields)
    if not ((passage >= 0).all() and np.isfinite(rank).all() and np.isfinite(_single(score)).all()):
        return False
    return len(np.unique(query * passages + passage)) == len(query)


def _single(score: Array) -> Array:
    with np.errstate(over="ignore"):
        return score.astype(np.float32)


def _line_by_line(path: Path, queries: Sequence[str], corpus: Sequence[str]) -> _Fields:
    query_row = {name: i for i, name in enumerate(queries)}
    passage_row = {name: i for i, name in enumerate(corpus)}
    seen: dict[tuple[int, int], int] = {}
    ranks: list[float] = []
    scores: list[float] = []
    foreign = 0
    for number, line in _lines(path):
        fields = line.rstrip("\r\n").split("\t") if "\t" in line else line.split()
        if not any(fields):
            continue
        where = f"{path}, line {number}"
        if len(fields) != 6:
            raise ValueError(
                f"{where}: a TREC run has six fields (query Q0 passage rank score tag): got {len(fields)}."
            )
        query, passage = query_row.get(fields[0], -1), passage_row.get(fields[2], -1)
        if query < 0:
            foreign += 1
            continue
        if passage < 0:
            raise ValueError(
                f"{where}: the passage {shown(fields[2])} is not in the corpus: the run is of another one."
            )
        rank, score = (
            _finite(f, f"{where}: the {name}") for f, name in zip(fields[3:5], ("rank", "score"), strict=True)
        )
        if seen.setdefault((query, passage), number) != number:
            raise ValueError(
                f"{where}: the passage {shown(fields[2])} stands on line {seen[query, passage]} already for the query "
                f"{shown(fields[0])}."
            )
        ranks.append(rank)
        scores.append(score)
    pairs = np.array(list(seen), np.int64).reshape(-1, 2)
    absent = np.full(foreign, -1)
    columns = (pairs[:, 0], pairs[:, 1], np.array(ranks), np.array(scores))
    return _Fields(*(np.concatenate([column, absent]) for column in columns))


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    number = 0
    try:
        with _open(path) as file:
            for number, raw in enumerate(file, 1):
                yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}, line {number}: not UTF-8 (byte {error.start}: {error.reason}).") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is not a whole gzip file after line {number}: {error}.") from None


def _finite(text: str, what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not np.isfinite(_single(np.array(value))):
        raise ValueError(f"{what} must be a finite number: got {shown(text)}.")
    return value
