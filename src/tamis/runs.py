"""Run folders: a lock, outputs that appear whole or not at all, and a manifest that tells what they were made from.

New outputs are written beside the old ones and take their names together, so a disk that is full costs nothing that
was there. The same command on the same inputs finds its own results and does nothing; a changed input, setting or
weight file is noticed by its digest. A folder that something else made is never written into.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tamis import __version__
from tamis.checks import one_line
from tamis.data import RetrievalData
from tamis.files import appearing, as_text, parsing, read_parquet
from tamis.results import SOURCES, MinedNegatives, Table, source_name

Array = np.ndarray[Any, Any]
MANIFEST = "manifest.json"
LOCK = ".tamis-lock"
_CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
ROWS = {"passed_over.parquet": "passed_over", "positives.parquet": "known"}  # by row numbers: these may be millions
OUTPUTS = ("negatives.parquet", "dropped.parquet", *ROWS, "queries.parquet", "corpus.parquet", "report.json")


@contextmanager
def locked(folder: Path) -> Iterator[Path]:
    """Hold a run folder for one run; the lock goes with the process, however it ends.

    Args:
        folder: made when it is not there.

    Yields:
        the folder.

    Raises:
        ValueError: when another run holds it, when it was not made by Tamis, or when it cannot be written to: the disk
            is full, for instance.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file: name a folder for the output.")
    try:
        if folder.is_dir() and any(folder.iterdir()) and not (folder / LOCK).exists():
            raise ValueError(f"{folder} is not empty and was not made by tamis: name another output folder.")
        folder.mkdir(parents=True, exist_ok=True)
        handle = (folder / LOCK).open("a+")
    except OSError as error:
        raise ValueError(f"{folder} cannot be written: {one_line(error)}.") from None
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{folder} is in use by another run: wait for it or name another output folder.") from None
        except OSError as error:
            raise ValueError(f"{folder} cannot be locked: {one_line(error)}; name a folder on another disk.") from None
        try:
            yield folder
        except OSError as error:
            if error.errno not in _CANNOT_WRITE:
                raise
            why = f"{folder} cannot be written: {one_line(error)}"
            raise ValueError(f"{why}; what is finished stays, and the same command goes on there.") from None


def digest_data(data: RetrievalData) -> str:
    """A digest of every id, text, label and judgement."""
    digest = hashlib.sha256()
    for table in (data.queries, data.corpus):
        for column in (table.ids, table.texts):
            for value in column:
                raw = value.encode("utf-8", "surrogatepass")
                digest.update(len(raw).to_bytes(8, "little") + raw)
        for kind, labels in (("groups", table.groups), ("splits", table.splits)):
            if labels is not None:
                digest.update(json.dumps([kind, *labels]).encode())
    for array in data.qrels():
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def run_key(data: RetrievalData, settings: Mapping[str, Any]) -> str:
    """A digest of what a run is made from: data, settings (fingerprints of encoders among them) and version."""
    content = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.sha256(f"{__version__}\n{digest_data(data)}\n{content}".encode()).hexdigest()


def is_current(folder: Path, key: str) -> bool:
    """Whether the folder holds whole outputs of exactly this run."""
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        made = {name: file_digest(folder / name) for name in OUTPUTS}
        return bool(manifest["key"] == key and manifest["outputs"] == made)
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return False


def save(mined: MinedNegatives, folder: Path, *, key: str) -> None:
    """Write the outputs of a mining run: all at once, the manifest last.

    Args:
        mined: what came out.
        folder: the run folder.
        key: see ``run_key``.
    """
    queries, corpus = mined.queries, mined.corpus
    kept, gone = mined.negatives, mined.dropped
    tables: dict[str, dict[str, Any]] = {
        "negatives.parquet": {
            "query_id": _take(queries.ids, kept["query"]),
            "negative_id": _take(corpus.ids, kept["negative"]),
            "rank": kept["rank"],
            "score": kept["score"],
            "positive_score": kept["positive_score"],
            "source": _sources(kept["source"], mined.sources),
            "weight": kept["weight"],
        },
        "dropped.parquet": {
            "query_id": _take(queries.ids, gone["query"]),
            "candidate_id": _take(corpus.ids, gone["candidate"]),
            "rank": gone["rank"],
            "score": gone["score"],
            "source": _sources(gone["source"], mined.sources),
            "rule": pa.array(gone["rule"].tolist(), pa.string()).dictionary_encode(),
            "rival_id": _take(corpus.ids, gone["rival"]),
            "rival_score": gone["rival_score"],
        },
        "queries.parquet": {
            "id": list(queries.ids),
            "text": [as_text(text) for text in queries.texts],
            "positives": [_take(corpus.ids, rows) for rows in mined.positives],
            "positive_score": mined.reference_scores,
        },
        "corpus.parquet": {"id": list(corpus.ids), "text": [as_text(text) for text in corpus.texts]},
        **{name: getattr(mined, table) for name, table in ROWS.items()},
    }
    with ExitStack() as stack:
        # What enters first takes its name last.
        manifest = stack.enter_context(appearing(folder / MANIFEST))
        new = {name: stack.enter_context(appearing(folder / name)) for name in OUTPUTS}
        for name, columns in tables.items():
            pq.write_table(pa.table(columns), new[name], compression="zstd" if name in ROWS else "snappy")
        new["report.json"].write_text(json.dumps(mined.summary, indent=1) + "\n", encoding="utf-8", errors="replace")
        outputs = {name: file_digest(path) for name, path in new.items()}
        content = {"key": key, "version": __version__, "outputs": outputs}
        manifest.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        (folder / MANIFEST).unlink(missing_ok=True)


def load(folder: Path) -> MinedNegatives:
    """Read back what ``save`` wrote.

    Args:
        folder: a run folder.

    Returns:
        the negatives with their evidence.

    Raises:
        ValueError: when the folder holds no finished run.
    """
    if not (folder / MANIFEST).exists():
        raise ValueError(f"{folder} holds no finished mining run: run `tamis mine DATA -o {folder}` first.")
    # A folder of an earlier version has no tables of rows.
    there = [name for name in OUTPUTS if name.endswith(".parquet") and (name not in ROWS or (folder / name).exists())]
    tables = {name: read_parquet(folder / name) for name in there}
    with parsing(folder, "mining run"):
        return _from_tables(tables, json.loads((folder / "report.json").read_bytes()))


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _from_tables(tables: Mapping[str, Any], summary: dict[str, Any]) -> MinedNegatives:
    queries = Table(tables["queries.parquet"]["id"].to_pylist(), tables["queries.parquet"]["text"].to_pylist())
    corpus = Table(tables["corpus.parquet"]["id"].to_pylist(), tables["corpus.parquet"]["text"].to_pylist())
    query_row = {name: i for i, name in enumerate(queries.ids)}
    passage_row: dict[str | None, int] = {name: i for i, name in enumerate(corpus.ids)} | {None: -1}
    names = summary.get("sources", SOURCES)
    bits = {source_name(b, names): b for b in range(2 ** len(names))}

    def rows(table: pa.Table, column: str, of: Mapping[Any, int]) -> Array:
        return np.array([of[v] for v in table[column].to_pylist()], np.int64)

    def numbers(table: pa.Table, column: str) -> Array:
        return np.asarray(table[column].to_numpy())

    def sources(table: pa.Table) -> Array:
        return np.array([bits[v] for v in table["source"].to_pylist()], np.uint8)

    kept, gone = tables["negatives.parquet"], tables["dropped.parquet"]
    return MinedNegatives(
        queries=queries,
        corpus=corpus,
        positives=[
            np.array([passage_row[p] for p in ids], np.int64)
            for ids in tables["queries.parquet"]["positives"].to_pylist()
        ],
        negatives={
            "query": rows(kept, "query_id", query_row),
            "negative": rows(kept, "negative_id", passage_row),
            "source": sources(kept),
            **{c: numbers(kept, c) for c in ("rank", "score", "positive_score", "weight")},
        },
        dropped={
            "query": rows(gone, "query_id", query_row),
            "candidate": rows(gone, "candidate_id", passage_row),
            "source": sources(gone),
            "rule": np.array(gone["rule"].to_pylist(), dtype=object),
            "rival": rows(gone, "rival_id", passage_row),
            **{c: numbers(gone, c) for c in ("rank", "score", "rival_score")},
        },
        reference_scores=numbers(tables["queries.parquet"], "positive_score"),
        summary=summary,
        **{
            table: {column: numbers(tables[name], column) for column in tables[name].column_names}
            for name, table in ROWS.items()
            if name in tables
        },
    )


def _take(names: Sequence[str], rows: Array) -> list[str | None]:
    return [names[i] if i >= 0 else None for i in rows.tolist()]


def _sources(bits: Array, names: Sequence[str]) -> Any:
    return pa.array([source_name(b, names) for b in bits.tolist()], pa.string()).dictionary_encode()
