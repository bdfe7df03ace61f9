"""File readers and writers: JSONL, CSV, Parquet, saved datasets, tables of texts and embeddings.

Whatever bytes a file holds, it is read, or one line says what is wrong with it and where. Files are parsed, never
executed: no pickle is loaded. What is written appears whole or not at all.
"""

from __future__ import annotations

import csv
import json
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tamis.checks import one_line, require, shown
from tamis.labels import GROUP_COLUMNS, SPLIT_COLUMNS, label_of, some
from tamis.results import Table

Array = np.ndarray[Any, Any]

_LONGEST_FIELD = 2**31 - 1
_OTHER_KINDS = {
    b"\x1f\x8b": "it is packed by gzip, unpack it first",
    b"PK\x03\x04": "it is packed by zip, unpack it first",
    b"\xff\xfe": "it is UTF-16, save it as UTF-8",
    b"\xfe\xff": "it is UTF-16, save it as UTF-8",
    b"PAR1": "it is Parquet, name it so",
}


@contextmanager
def parsing(path: str | Path, what: str) -> Iterator[None]:
    """Turn whatever goes wrong while a file is parsed into one line that names the file.

    Args:
        path: the file.
        what: what it should be.

    Raises:
        ValueError: for any exception inside.
    """
    try:
        yield
    except Exception as error:  # parsers of foreign bytes raise what they like, from KeyError to OverflowError
        raise ValueError(f"{path} is not a readable {what}: {one_line(error)}.") from None


def read_table(path: Path) -> Table:
    """Read ids and texts from a JSONL file with ``_id``, ``text`` and perhaps ``title``, which goes before the text.

    A line may say, at its top or inside ``metadata``, which ``group`` (or ``document``, ``doc_id``) and which ``split``
    its row belongs to.

    Args:
        path: the file.

    Returns:
        ids as strings, and texts, none empty; groups and splits where a line names one.

    Raises:
        ValueError: for an id that is missing or there twice, or a text that is missing or empty; names the line.
    """
    seen: dict[str, int] = {}
    texts: list[str] = []
    groups: list[str | None] = []
    splits: list[str | None] = []
    for number, row in read_jsonl(path):
        key, text, title = row.get("_id", row.get("id")), row.get("text"), row.get("title") or ""
        where = f"{path}, line {number}"
        if isinstance(key, bool) or not isinstance(key, (str, int)):
            raise ValueError(f"{where}: '_id' must be a text or an integer: got {shown(key)}.")
        if not isinstance(text, str) or not isinstance(title, str):
            wrong = title if isinstance(text, str) else text
            raise ValueError(f"{where}: 'text' and 'title' must be texts: got {shown(wrong)}.")
        whole = f"{title} {text}".strip()
        if not whole:
            raise ValueError(f"{where}: the text of {shown(key)} is empty.")
        first = seen.setdefault(as_id(key, where), number)
        if first != number:
            raise ValueError(f"{where}: the id {shown(key)} stands on line {first} already (1 and '1' are one id).")
        texts.append(as_text(whole))
        groups.append(label_of(row, GROUP_COLUMNS))
        splits.append(label_of(row, SPLIT_COLUMNS))
    require(bool(texts), f"{path} is empty: it must hold one JSON object per line.")
    return Table(list(seen), texts, some(groups), some(splits))


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
    require(path.is_file(), f"{path} does not exist or is no file: it should hold embeddings.")
    if path.suffix == ".npy":
        with parsing(path, ".npy file"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the file is old
            array: Array = np.lib.format.open_memmap(path, mode="r")  # refuses pickles and archives
    else:
        table = read_parquet(path)
        require("embedding" in table.column_names, f"{path} has no column 'embedding': {shown(table.column_names)}.")
        array = _matrix(table["embedding"], path)
        if "id" in table.column_names and ids is not None:
            names = [str(name) for name in table["id"].to_pylist()]
            row = {name: i for i, name in enumerate(names)}
            twice = next((name for i, name in enumerate(names) if row[name] != i), None)
            require(twice is None, f"{path} has several embeddings for the id {shown(twice)}.")
            missing = next((i for i in ids if i not in row), None)
            require(missing is None, f"{path} has no embedding for the id {shown(missing)}.")
            array = array[[row[i] for i in ids]]
    require(
        array.ndim == 2 and array.dtype.kind == "f",
        f"{path} must hold a float matrix (n, d): got shape {array.shape} of {array.dtype}.",
    )
    return array


def as_id(key: object, where: str) -> str:
    """An id as a string that every file can hold.

    Raises:
        ValueError: for an empty id, or one with half a surrogate pair.
    """
    name = str(key)
    if not name.strip() or as_text(name) != name:
        raise ValueError(f"{where}: an id must not be empty and must be valid Unicode: got {shown(key)}.")
    return name


def as_text(text: str) -> str:
    """A text that every file and tokenizer can take: half a surrogate pair becomes U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


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
    listed = " ".join(", ".join(sorted(found)).split()) or "none"
    if split is None:
        require(bool(found), f"{folder} has no split: qrels/*.tsv (BEIR) or */state.json is missing.")
        split = "train" if "train" in found else found[0] if len(found) == 1 else None
        require(split is not None, f"{folder} has several splits ({listed}) and no 'train': name one.")
    require(split in found, f"{folder} has no split {split!r}: there are {listed}.")
    return str(split)


def lines(path: Path) -> Iterator[str]:
    """Lines of a UTF-8 file, with or without a byte order mark.

    Raises:
        ValueError: for bytes that are not UTF-8; names the line.
    """
    with parsing(path, "file"):
        file = path.open("rb")
    with file:
        for number, raw in enumerate(file, 1):
            try:
                yield raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                known = (why for start, why in _OTHER_KINDS.items() if number == 1 and raw.startswith(start))
                why = next(known, f"byte {error.start}: {error.reason}")
                raise ValueError(f"{path}, line {number}: not UTF-8 ({why}).") from None


def read_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a JSONL file with their line numbers; blank lines are passed over.

    Raises:
        ValueError: for a line that is not a JSON object, or one with a key that stands twice; names the line.
    """
    for number, line in enumerate(lines(path), 1):
        if line.strip():
            yield number, json_row(line, path, number)


def json_row(line: str, path: Path, number: int) -> dict[str, Any]:
    """The object on one line of a JSONL file.

    Args:
        line: the line.
        path: the file, for messages.
        number: of the line, likewise.

    Returns:
        the object.

    Raises:
        ValueError: as ``read_jsonl``.
    """
    try:
        row = _DECODE(line)
    except RecursionError:
        raise ValueError(f"{path}, line {number}: not valid JSON (nested too deep).") from None
    except ValueError as error:
        found = isinstance(error, json.JSONDecodeError)
        what = f"{error.msg}, column {error.colno}" if found else one_line(error)  # type: ignore[attr-defined]
        raise ValueError(f"{path}, line {number}: not valid JSON ({what}).") from None
    if not isinstance(row, dict):
        raise ValueError(f"{path}, line {number}: expected a JSON object: got {type(row).__name__}.")
    return row


def read_csv(path: Path, delimiter: str = ",") -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a CSV file with a header, with the number of the line that each begins on.

    Raises:
        ValueError: for a row with more fields than the header, and for quotes in the wrong place; names the line.
    """
    reader = csv.reader(lines(path), delimiter=delimiter, strict=True)
    header: list[str] = []
    number = 1
    limit = csv.field_size_limit(_LONGEST_FIELD)  # the library's limit is 131,072 letters, less than a long passage
    try:
        for fields in reader:
            if not header:
                header = fields
                twice = next((name for name in header if name and header.count(name) > 1), None)
                require(twice is None, f"{path}, line {number}: the column {shown(twice)} stands twice in the header.")
            elif len(fields) > len(header):
                raise ValueError(f"{path}, line {number}: more fields than the header has columns.")
            elif fields:
                yield number, dict(zip(header, fields + [""] * (len(header) - len(fields)), strict=True))
            number = reader.line_num + 1
    except csv.Error as error:
        what = "a quote is never closed" if "unexpected end" in str(error) else one_line(error)
        raise ValueError(f"{path}, line {number}: not valid CSV ({what}).") from None
    finally:
        csv.field_size_limit(limit)


def read_parquet(path: Path) -> pa.Table:
    """Read one Parquet file whole.

    Raises:
        ValueError: when it is not one, or is cut off.
    """
    with parsing(path, "Parquet file"), pq.ParquetFile(path) as file:
        table = file.read()
        table.validate(full=True)
        return table


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
        folder = folder / choose_split([file.parent.name for file in folder.glob("*/state.json")], split, folder)
    with parsing(folder, "saved dataset"):
        parts = []
        for file in json.loads((folder / "state.json").read_bytes())["_data_files"]:
            with pa.memory_map(str(folder / Path(file["filename"]).name)) as source:
                parts.append(pa.ipc.open_stream(source).read_all())
        table = pa.concat_tables(parts)
        table.validate(full=True)  # a damaged file may point outside its own buffers
        return table


def rows_of(table: Table) -> Iterator[dict[str, str]]:
    """The rows of a table as ``read_table`` reads them, with group and split where there is one."""
    columns = {"_id": table.ids, "text": table.texts, "group": table.groups, "split": table.splits}
    given = {name: column for name, column in columns.items() if column is not None}
    for values in zip(*given.values(), strict=True):
        yield {name: value for name, value in zip(given, values, strict=True) if value is not None}


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object per line, UTF-8; the file appears when it is whole."""
    with appearing(path) as temporary, temporary.open("w", encoding="utf-8", errors="replace") as out:
        out.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def write_text(path: Path, text: str) -> None:
    """Write a file that appears whole; what cannot be UTF-8 becomes a question mark."""
    with appearing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="replace")


@contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """A temporary name to write to: the file appears under its own name when it is whole, or not at all.

    Args:
        path: the file.

    Yields:
        the temporary name; it is gone when the block fails.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())  # on the disk before the name changes
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; of a key that stands twice nobody could say which value is meant."""
    row = dict(pairs)
    if len(row) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {shown(next(n for n in names if names.count(n) > 1))} stands twice")
    return row


_DECODE = json.JSONDecoder(object_pairs_hook=_object).decode


def _matrix(column: pa.ChunkedArray, path: Path) -> Array:
    """A column of lists of floats as a matrix, without a Python object per number."""
    kind = column.type
    listed = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    require(
        listed and pa.types.is_floating(kind.value_type) and column.null_count == 0 and len(column) > 0,
        f"{path}: every embedding must be a list of floats: got {len(column)} rows of {shown(str(kind))}.",
    )
    lengths = pc.unique(pc.list_value_length(column))
    require(len(lengths) == 1, f"{path}: every embedding must have the same length: got {len(lengths)} lengths.")
    values = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks]
    return np.concatenate(values).astype(np.float32, copy=False).reshape(len(column), lengths[0].as_py())
