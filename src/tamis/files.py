"""File readers: JSONL, CSV, Parquet, saved datasets, tables of texts and embeddings, one clear line for what is wrong.

Files are parsed, never executed: no pickle is loaded.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tamis.checks import require
from tamis.results import Table

Array = np.ndarray[Any, Any]


def read_table(path: Path) -> Table:
    """Read ids and texts from a JSONL file with ``_id``, ``text`` and perhaps ``title``, which goes before the text.

    Args:
        path: the file.

    Returns:
        ids as strings, and texts, none empty.

    Raises:
        ValueError: for an id that is missing or there twice, or a text that is missing or empty; names the line.
    """
    seen: dict[str, int] = {}
    texts: list[str] = []
    for number, row in read_jsonl(path):
        key, text, title = row.get("_id", row.get("id")), row.get("text"), row.get("title") or ""
        if isinstance(key, bool) or not isinstance(key, (str, int)):
            raise ValueError(f"{path}, line {number}: '_id' must be a text or an integer: got {key!r:.60}.")
        if not isinstance(text, str) or not isinstance(title, str):
            raise ValueError(f"{path}, line {number}: 'text' and 'title' must be texts: got {text!r:.60}.")
        whole = f"{title} {text}".strip()
        if not whole:
            raise ValueError(f"{path}, line {number}: the text of {key!r} is empty.")
        if seen.setdefault(str(key), number) != number:
            raise ValueError(f"{path}, line {number}: the id {key!r} stands on line {seen[str(key)]} already.")
        texts.append(whole)
    require(bool(texts), f"{path} is empty: it must hold one JSON object per line.")
    return Table(list(seen), texts)


def read_embeddings(path: str | Path, ids: Sequence[str] | None = None) -> Array:
    """Read embeddings from ``.npy`` (memory-mapped) or Parquet (column ``embedding``, and ``id`` to put rows in order).

    Args:
        path: the file.
        ids: the ids of the rows wanted, for a Parquet file with an ``id`` column.

    Returns:
        (n, d) float array.

    Raises:
        ValueError: when the file does not hold a matrix of numbers or an id is missing.
    """
    path = Path(path)
    require(path.exists(), f"{path} does not exist: it should hold embeddings.")
    if path.suffix == ".npy":
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            raise ValueError(f"{path} is not a readable .npy file: {error}.") from None
    else:
        table = read_parquet(path)
        require("embedding" in table.column_names, f"{path} has no column 'embedding': {table.column_names}.")
        try:
            array = np.stack([np.asarray(v, np.float32) for v in table["embedding"].to_pylist()])
        except (ValueError, TypeError):
            raise ValueError(f"{path}: every embedding must be a list of numbers of one length.") from None
        if "id" in table.column_names and ids is not None:
            row = {str(name): i for i, name in enumerate(table["id"].to_pylist())}
            missing = next((i for i in ids if i not in row), None)
            require(missing is None, f"{path} has no embedding for the id {missing!r}.")
            array = array[[row[i] for i in ids]]
    require(
        array.ndim == 2 and array.dtype.kind == "f",
        f"{path} must hold a float matrix (n, d): got shape {array.shape} of {array.dtype}.",
    )
    return np.asarray(array) if not isinstance(array, np.memmap) else array


def choose_split(found: list[str], split: str | None, folder: Path) -> str:
    """The split that is asked for; left out, ``train``, or the only one there is.

    Args:
        found: names of the splits.
        split: the one asked for, or None.
        folder: for the message.

    Returns:
        the name of the split.

    Raises:
        ValueError: when it is not there or cannot be told.
    """
    listed = ", ".join(sorted(found)) or "none"
    if split is None:
        require(bool(found), f"{folder} has no qrels/*.tsv: the known positives are missing.")
        split = "train" if "train" in found else found[0] if len(found) == 1 else None
        require(split is not None, f"{folder} has several splits ({listed}) and no 'train': name one.")
    require(split in found, f"{folder} has no split {split!r}: there are {listed}.")
    return str(split)


def lines(path: Path) -> Iterator[str]:
    """Lines of a UTF-8 file, with or without a byte order mark.

    Raises:
        ValueError: for bytes that are not UTF-8; names the line.
    """
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            try:
                yield raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise ValueError(f"{path}, line {number}: not UTF-8 (byte {error.start}: {error.reason}).") from None


def read_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a JSONL file with their line numbers; blank lines are passed over.

    Raises:
        ValueError: for a line that is not a JSON object; names the line and the column.
    """
    for number, line in enumerate(lines(path), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            what = (
                f"{error.msg}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else "nested too deep"
            )
            raise ValueError(f"{path}, line {number}: not valid JSON ({what}).") from None
        if not isinstance(row, dict):
            raise ValueError(f"{path}, line {number}: expected a JSON object: got {type(row).__name__}.")
        yield number, row


def read_csv(path: Path, delimiter: str = ",") -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a CSV file with a header, with their line numbers.

    Raises:
        ValueError: for a row with more fields than the header; names the line.
    """
    reader = csv.DictReader(lines(path), delimiter=delimiter, restkey="", restval="")
    try:
        for row in reader:
            if "" in row:
                raise ValueError(f"{path}, line {reader.line_num}: more fields than the header has columns.")
            yield reader.line_num, row
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: not valid CSV ({error}).") from None


def read_parquet(path: Path) -> pa.Table:
    """Read a Parquet file whole.

    Raises:
        ValueError: when it is not one, or is cut off.
    """
    try:
        return pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} is not a readable Parquet file: {str(error).splitlines()[0]}") from None


def read_saved_dataset(folder: Path, split: str | None = None) -> pa.Table:
    """Read a folder that ``save_to_disk`` of the package ``datasets`` wrote, without that package.

    Args:
        folder: of a Dataset or of a DatasetDict.
        split: which part of a DatasetDict.

    Returns:
        the rows as an Arrow table.

    Raises:
        ValueError: when the folder is not complete.
    """
    if (folder / "dataset_dict.json").exists():
        names = json.loads((folder / "dataset_dict.json").read_text(encoding="utf-8")).get("splits", [])
        folder = folder / choose_split(names, split, folder)
    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    try:
        parts = []
        for file in state["_data_files"]:
            with pa.memory_map(str(folder / file["filename"])) as source:
                parts.append(pa.ipc.open_stream(source).read_all())
        return pa.concat_tables(parts)
    except (pa.ArrowException, OSError, KeyError) as error:
        raise ValueError(f"{folder} is not a readable saved dataset: {str(error).splitlines()[0]}") from None


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object per line, UTF-8; a lone surrogate is written as an escape."""
    with path.open("w", encoding="utf-8") as out:
        out.writelines(_as_line(row) for row in rows)


def _as_line(row: Mapping[str, Any]) -> str:
    line = json.dumps(row, ensure_ascii=False)
    try:
        line.encode()
    except UnicodeEncodeError:
        line = json.dumps(row)
    return line + "\n"
