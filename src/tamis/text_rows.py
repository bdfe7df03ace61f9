"""Rows of texts that stream: a file is read block by block, and the rows that are kept are written as they came.

JSONL lines keep their bytes, CSV and TSV their columns, Parquet its schema; a saved Hugging Face dataset is written as
Parquet. The texts of a row are those of some of its columns, each a text or a list of texts. What is wrong with a row
is said in one line that names file and row; nothing of the file is held but a block.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tamis.checks import require, shown
from tamis.data import POSITIVE_COLUMNS, QUERY_COLUMNS
from tamis.files import as_text, json_row, lines, parsing, read_csv, read_saved_dataset

Array = np.ndarray[Any, Any]
Write = Callable[["RowBlock", Array], None]
TEXT_COLUMNS = (*QUERY_COLUMNS, *POSITIVE_COLUMNS, "text", "content")
SUFFIXES = (".jsonl", ".json", ".ndjson", ".csv", ".tsv", ".parquet", ".pq")

_BESIDE = ("_id", "id", "title")
_ROWS, _LETTERS = 8192, 4 * 2**20  # of a block


@dataclass(frozen=True)
class RowBlock:
    """Some rows of a file, and their texts.

    Args:
        numbers: r numbers of lines, or of rows from 1 on.
        ids: r names: what ``_id`` or ``id`` holds, else the number.
        raw: the rows as they came: lines, dicts, or an Arrow table.
        texts: t texts, none empty.
        owners: (t,) int64, the row of the block that each text belongs to.
        columns: t names of the columns that the texts stand in.
    """

    numbers: Sequence[int]
    ids: Sequence[str]
    raw: Any
    texts: list[str]
    owners: Array
    columns: list[str]

    def __len__(self) -> int:
        return len(self.numbers)


class TextRows:
    """A file of rows with texts, or a saved dataset, read as often as it is asked for.

    Args:
        path: a JSONL, CSV, TSV or Parquet file, or a folder that ``save_to_disk`` of ``datasets`` wrote.
        columns: that hold the texts; None for those of the first row that are known: queries, positives and texts.
        split: which split of a saved DatasetDict.
        only: ids of the rows that are read; the others are passed over. None for all.

    Raises:
        FileNotFoundError: when there is nothing at ``path``.
        ValueError: for a file of another kind, one without rows, or one without these columns.
    """

    def __init__(
        self,
        path: Path,
        *,
        columns: Sequence[str] | None = None,
        split: str | None = None,
        only: Collection[str] | None = None,
    ) -> None:
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist: give a file of texts or a folder.")
        self.path, self._split, self._only = path, split, only
        if not path.is_dir() and path.suffix.lower() not in SUFFIXES:
            suffix = path.suffix or "no suffix"
            raise ValueError(f"{path} must end in .jsonl, .csv, .tsv or .parquet, or be a folder: got {suffix!r}.")
        there = self._header = self._names()
        self.columns = [c for c in TEXT_COLUMNS if c in there] if columns is None else list(columns)
        missing = next((c for c in self.columns if c not in there), None)
        require(missing is None, f"{path} has no column {missing!r}: its columns are {shown(there)}.")
        known = ", ".join(TEXT_COLUMNS)
        require(
            bool(self.columns), f"{path} has no column of texts ({known}): its columns are {shown(there)}; name one."
        )

    @property
    def target(self) -> str:
        """The name that kept rows are written under."""
        return f"{self.path.name}.parquet" if self.path.is_dir() else self.path.name

    def blocks(self) -> Iterator[RowBlock]:
        """The rows from the first to the last.

        Yields:
            blocks of a bounded number of rows and letters.
        """
        rows: list[tuple[int, dict[str, Any], Any]] = []
        letters = 0
        for row in self._rows():
            if self._only is not None and _name(row[0], row[1]) not in self._only:
                continue
            rows.append(row)
            letters += sum(len(value) for value in row[1].values() if isinstance(value, str))
            if len(rows) >= _ROWS or letters >= _LETTERS:
                yield self._block(rows)
                rows, letters = [], 0
        if rows:
            yield self._block(rows)

    @contextmanager
    def writer(self, path: Path) -> Iterator[Write]:
        """Write rows to a file of the same kind.

        Args:
            path: the file; give a temporary name and rename it when it is whole.

        Yields:
            a function of a block and (r,) bool, which of its rows to write.
        """
        with ExitStack() as stack:
            if self._is_table:
                schema = self._tables()[0]
                table = stack.enter_context(pq.ParquetWriter(path, schema))

                def write(block: RowBlock, kept: Array) -> None:
                    if kept.any():
                        rows = [raw for raw, keep in zip(block.raw, kept.tolist(), strict=True) if keep]
                        table.write_table(_taken(rows))

            elif self._delimiter is not None:
                text = stack.enter_context(path.open("w", encoding="utf-8", newline="", errors="replace"))
                sheet = csv.writer(text, delimiter=self._delimiter, lineterminator="\n")
                sheet.writerow(self._header)

                def write(block: RowBlock, kept: Array) -> None:
                    sheet.writerows(row.values() for row, keep in zip(block.raw, kept.tolist(), strict=True) if keep)

            else:
                out = stack.enter_context(path.open("w", encoding="utf-8", newline="", errors="replace"))

                def write(block: RowBlock, kept: Array) -> None:
                    out.writelines(line for line, keep in zip(block.raw, kept.tolist(), strict=True) if keep)

            yield write

    @property
    def _is_table(self) -> bool:
        return self.path.is_dir() or self.path.suffix.lower() in (".parquet", ".pq")

    @property
    def _delimiter(self) -> str | None:
        return {".csv": ",", ".tsv": "\t"}.get(self.path.suffix.lower())

    def _tables(self) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
        """Schema and batches of a table."""
        if self.path.is_dir():
            table = read_saved_dataset(self.path, self._split)
            return table.schema, iter(table.to_batches(max_chunksize=_ROWS))
        with parsing(self.path, "Parquet file"):
            file = pq.ParquetFile(self.path)
            return file.schema_arrow, file.iter_batches(batch_size=_ROWS)

    def _names(self) -> list[str]:
        """The columns of the first row."""
        if self._is_table:
            schema, batches = self._tables()
            with parsing(self.path, "Parquet file"):
                first = next(batches, None)
            found = list(schema.names) if first is not None else None
        else:
            row = next(self._rows(), None)
            found = list(row[1]) if row is not None else None
        if found is None:
            raise ValueError(f"{self.path} is empty: it must hold a text per row.")
        return found

    def _rows(self) -> Iterator[tuple[int, dict[str, Any], Any]]:
        """Number, columns and raw form of every row."""
        if self._is_table:
            batches, number = self._tables()[1], 0
            wanted = [c for c in dict.fromkeys((*self.columns, *_BESIDE)) if c in self._header]
            while True:
                with parsing(self.path, "Parquet file"):
                    batch = next(batches, None)
                    rows = [] if batch is None else batch.select(wanted).to_pylist()
                if batch is None:
                    return
                for place, row in enumerate(rows):
                    number += 1
                    yield number, row, (batch, place)
        elif self._delimiter is not None:
            for number, row in read_csv(self.path, self._delimiter):
                yield number, row, row
        else:
            for number, line in enumerate(lines(self.path), 1):
                if line.strip():
                    ended = line if line.endswith("\n") else line + "\n"
                    yield number, json_row(line, self.path, number), ended

    def _block(self, rows: list[tuple[int, dict[str, Any], Any]]) -> RowBlock:
        texts: list[str] = []
        owners: list[int] = []
        columns: list[str] = []
        for place, (number, row, _) in enumerate(rows):
            for column in self.columns:
                for text in self._texts(row, column, number):
                    texts.append(text)
                    owners.append(place)
                    columns.append(column)
        names = [_name(number, row) for number, row, _ in rows]
        raw = [form for _, _, form in rows]
        return RowBlock([number for number, _, _ in rows], names, raw, texts, np.array(owners, np.int64), columns)

    def _texts(self, row: dict[str, Any], column: str, number: int) -> list[str]:
        """The texts of one cell; a title goes before the text."""
        value = row.get(column)
        cells = value if isinstance(value, list) else [] if value is None else [value]
        bad = next((cell for cell in cells if cell is not None and not isinstance(cell, str)), None)
        if bad is not None:
            unit = "row" if self._is_table else "line"
            raise ValueError(
                f"{self.path}, {unit} {number}: {column!r} must be a text or a list of texts: got {shown(value)}."
            )
        title = row.get("title")
        if column == "text" and isinstance(title, str) and title:
            cells = [f"{title} {cell or ''}" for cell in cells]
        return [as_text(cell) for cell in cells if cell and cell.strip()]


def _name(number: int, row: dict[str, Any]) -> str:
    """The id of a row, or its number."""
    name = row.get("_id", row.get("id"))
    return str(number if name is None else name)


def _taken(rows: list[tuple[pa.RecordBatch, int]]) -> pa.Table:
    """Rows of batches as a table."""
    places: dict[int, list[int]] = {}
    batches = {}
    for batch, place in rows:
        batches[id(batch)] = batch
        places.setdefault(id(batch), []).append(place)
    return pa.Table.from_batches([batches[key].take(pa.array(found)) for key, found in places.items()])
