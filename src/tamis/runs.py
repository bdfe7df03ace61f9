"""Run folders: a lock, outputs that appear whole or not at all, and a manifest that tells what they were made from.

The same command on the same inputs finds its own results and does nothing; a changed input, setting or weight file is
noticed by its digest. A folder that something else made is never written into.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tamis import __version__
from tamis.data import RetrievalData
from tamis.results import MinedNegatives, Table, source_name

Array = np.ndarray[Any, Any]
MANIFEST = "manifest.json"
LOCK = ".tamis-lock"
OUTPUTS = ("negatives.parquet", "dropped.parquet", "queries.parquet", "corpus.parquet", "report.json")


@contextmanager
def locked(folder: Path) -> Iterator[Path]:
    """Hold a run folder for one run; the lock goes with the process, however it ends.

    Args:
        folder: made when it is not there.

    Yields:
        the folder.

    Raises:
        ValueError: when another run holds it, or when it was not made by Tamis.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file: name a folder for the output.")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / LOCK).exists():
        raise ValueError(f"{folder} is not empty and was not made by tamis: name another output folder.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = (folder / LOCK).open("a+")
    except OSError as error:
        raise ValueError(f"{folder} cannot be written: {error.strerror}.") from None
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ValueError(f"{folder} is in use by another run: wait for it or name another output folder.") from None
        yield folder


def digest_data(data: RetrievalData) -> str:
    """A digest of every id, text and judgement."""
    digest = hashlib.sha256()
    for table in (data.queries, data.corpus):
        for column in (table.ids, table.texts):
            for value in column:
                raw = value.encode("utf-8", "surrogatepass")
                digest.update(len(raw).to_bytes(8, "little") + raw)
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
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return bool(manifest["key"] == key) and all(
            file_digest(folder / name) == digest for name, digest in manifest["outputs"].items()
        )
    except (OSError, ValueError, KeyError):
        return False


def save(mined: MinedNegatives, folder: Path, *, key: str) -> None:
    """Write the outputs of a mining run, the manifest last.

    Args:
        mined: what came out.
        folder: the run folder.
        key: see ``run_key``.
    """
    (folder / MANIFEST).unlink(missing_ok=True)
    queries, corpus = mined.queries, mined.corpus
    kept, gone = mined.negatives, mined.dropped
    _write_table(
        folder / "negatives.parquet",
        {
            "query_id": _take(queries.ids, kept["query"]),
            "negative_id": _take(corpus.ids, kept["negative"]),
            "rank": kept["rank"],
            "score": kept["score"],
            "positive_score": kept["positive_score"],
            "source": _sources(kept["source"]),
            "weight": kept["weight"],
        },
    )
    _write_table(
        folder / "dropped.parquet",
        {
            "query_id": _take(queries.ids, gone["query"]),
            "candidate_id": _take(corpus.ids, gone["candidate"]),
            "rank": gone["rank"],
            "score": gone["score"],
            "source": _sources(gone["source"]),
            "rule": pa.array(gone["rule"].tolist(), pa.string()).dictionary_encode(),
            "rival_id": _take(corpus.ids, gone["rival"]),
            "rival_score": gone["rival_score"],
        },
    )
    positives = [_take(corpus.ids, rows) for rows in mined.positives]
    _write_table(
        folder / "queries.parquet",
        {
            "id": list(queries.ids),
            "text": _texts(queries.texts),
            "positives": positives,
            "positive_score": mined.reference_scores,
        },
    )
    _write_table(folder / "corpus.parquet", {"id": list(corpus.ids), "text": _texts(corpus.texts)})
    write_text(folder / "report.json", json.dumps(mined.summary, indent=1) + "\n")
    outputs = {name: file_digest(folder / name) for name in OUTPUTS}
    write_text(folder / MANIFEST, json.dumps({"key": key, "version": __version__, "outputs": outputs}, indent=1) + "\n")


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
    tables = {name: pq.read_table(folder / name) for name in OUTPUTS if name.endswith(".parquet")}
    queries = Table(tables["queries.parquet"]["id"].to_pylist(), tables["queries.parquet"]["text"].to_pylist())
    corpus = Table(tables["corpus.parquet"]["id"].to_pylist(), tables["corpus.parquet"]["text"].to_pylist())
    query_row = {name: i for i, name in enumerate(queries.ids)}
    passage_row: dict[str | None, int] = {name: i for i, name in enumerate(corpus.ids)} | {None: -1}
    bits = {source_name(b): b for b in range(4)}

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
        summary=json.loads((folder / "report.json").read_text(encoding="utf-8")),
    )


def write_text(path: Path, text: str) -> None:
    """Write a file that appears whole; what cannot be UTF-8 becomes a question mark."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8", errors="replace")
    _settle(temporary, path)


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_table(path: Path, columns: Mapping[str, Any]) -> None:
    temporary = path.with_name(path.name + ".tmp")
    pq.write_table(pa.table(dict(columns)), temporary)
    _settle(temporary, path)


def _settle(temporary: Path, path: Path) -> None:
    """Move a finished file into place, on the disk before the name changes."""
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)


def _take(names: Sequence[str], rows: Array) -> list[str | None]:
    return [names[i] if i >= 0 else None for i in rows.tolist()]


def _sources(bits: Array) -> Any:
    return pa.array([source_name(b) for b in bits.tolist()], pa.string()).dictionary_encode()


def _texts(texts: Sequence[str]) -> list[str]:
    """Texts that Parquet can hold: a lone surrogate becomes a question mark."""
    return [t.encode("utf-8", "replace").decode() for t in texts]
