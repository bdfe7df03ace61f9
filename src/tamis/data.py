"""Readers: files, folders and plain Python objects become one form, rows of integers beside ids and texts.

A retrieval data set is queries, passages and, for each query, the passages known to answer it. It comes in BEIR
layout, as a file of pairs or triplets, as a saved Hugging Face dataset, or as lists and dicts. Whatever is wrong with
it is said in one line that names the file and the line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tamis.checks import require, shown
from tamis.files import (
    as_id,
    as_text,
    choose_split,
    parsing,
    read_csv,
    read_jsonl,
    read_parquet,
    read_saved_dataset,
    read_table,
    rows_of,
    write_jsonl,
)
from tamis.judgements import grades_of, in_row_order, read_qrels
from tamis.labels import GROUP_COLUMNS, SPLIT_COLUMNS, Labels, by_text, in_order, label_of, some
from tamis.results import Table

Array = np.ndarray[Any, Any]

QUERY_COLUMNS = ("query", "anchor", "question", "sentence1", "sentence_A")
POSITIVE_COLUMNS = ("positive", "positives", "pos", "passage", "document", "answer", "sentence2", "sentence_B")
NEGATIVE_COLUMNS = ("negative", "negatives", "neg")
SPLITS = ("train", "dev", "validation", "test")


@dataclass(frozen=True)
class RetrievalData:
    """Queries, passages, and the known positives of every query.

    Args:
        queries: ids and texts.
        corpus: ids and texts of the passages.
        positives: per query the rows of its positives in the corpus, int64, sorted, without repeats, never empty.
        grades: per query the grade of each positive, float64.
        name: what messages and reports call it.
    """

    queries: Table
    corpus: Table
    positives: list[Array]
    grades: list[Array]
    name: str = "data"

    def qrels(self) -> tuple[Array, Array, Array]:
        """The judgements as CSR arrays: ``indptr`` (q + 1,), ``columns`` and ``grades`` (one entry per judgement)."""
        indptr = np.concatenate([[0], np.cumsum([len(p) for p in self.positives])]).astype(np.int64)
        empty_rows, empty_grades = np.empty(0, np.int64), np.empty(0)
        return indptr, np.concatenate([empty_rows, *self.positives]), np.concatenate([empty_grades, *self.grades])


def read(path: str | Path, *, split: str | None = None) -> RetrievalData:
    """Read a retrieval data set from a file or a folder.

    Args:
        path: a folder in BEIR layout, a folder written by ``save_to_disk`` of ``datasets``, or a JSONL, CSV, TSV or
            Parquet file of pairs or triplets (columns ``query`` and ``positive``, further names as in the README).
        split: which judgements or which split of a DatasetDict; left out, ``train``, or the only one there is.

    Returns:
        the data, with at least one query.

    Raises:
        FileNotFoundError: when there is nothing at ``path``.
        ValueError: when the content is not usable; the message names file and line.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: give a data folder or a file of pairs.")
    if path.is_dir():
        if (path / "corpus.jsonl").exists() or (path / "queries.jsonl").exists():
            return read_beir(path, split=split)
        if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
            return _from_table(read_saved_dataset(path, split), path)
        raise ValueError(
            f"{path} is neither a BEIR folder (corpus.jsonl, queries.jsonl, qrels/*.tsv) nor a saved dataset "
            "(dataset_info.json); a file of pairs is given by its own name."
        )
    suffix = path.suffix.lower()
    if suffix in (".jsonl", ".json", ".ndjson"):
        rows = list(read_jsonl(path))
        require(bool(rows), f"{path} is empty: it must hold one JSON object per line.")
        return _from_rows(rows, path)
    if suffix in (".csv", ".tsv"):
        return _from_rows(list(read_csv(path, "\t" if suffix == ".tsv" else ",")), path)
    if suffix in (".parquet", ".pq"):
        return _from_table(read_parquet(path), path)
    raise ValueError(
        f"{path} must end in .jsonl, .csv, .tsv or .parquet, or be a folder: got {suffix or 'no suffix'!r}."
    )


def read_beir(folder: Path, *, split: str | None = None) -> RetrievalData:
    """Read a folder in BEIR layout: ``corpus.jsonl``, ``queries.jsonl`` and ``qrels/<split>.tsv``.

    Args:
        folder: the folder; a title in the corpus goes before the text.
        split: name of the judgement file without its suffix.

    Returns:
        the queries that have a positive in the split, and the whole corpus.

    Raises:
        ValueError: for a missing file, a bad line, an id that is twice there or nowhere.
    """
    for name in ("corpus.jsonl", "queries.jsonl"):
        require(
            (folder / name).exists(), f"{folder} has no {name}: a BEIR folder needs corpus.jsonl and queries.jsonl."
        )
    corpus = read_table(folder / "corpus.jsonl")
    queries = read_table(folder / "queries.jsonl")
    path = folder / "qrels" / f"{choose_split([p.stem for p in (folder / 'qrels').glob('*.tsv')], split, folder)}.tsv"
    judged = read_qrels(path, queries.ids, corpus.ids)
    kept = sorted(judged)
    positives, grades = zip(*(in_row_order(judged[i]) for i in kept), strict=True)
    labels = [None if c is None else some([c[i] for i in kept]) for c in (queries.groups, queries.splits)]
    table = Table([queries.ids[i] for i in kept], [queries.texts[i] for i in kept], *labels)
    return RetrievalData(table, corpus, list(positives), list(grades), as_text(folder.resolve().name))


def from_python(
    queries: Sequence[str] | Mapping[Any, str],
    corpus: Sequence[str] | Mapping[Any, str] | None,
    positives: Sequence[Any] | Mapping[Any, Any],
    *,
    query_groups: Labels | None = None,
    corpus_groups: Labels | None = None,
    query_splits: Labels | None = None,
    corpus_splits: Labels | None = None,
    name: str = "data",
) -> RetrievalData:
    """Lists and dicts as a retrieval data set.

    Args:
        queries: texts, or id -> text.
        corpus: texts, or id -> text; None makes the corpus of the positives' texts.
        positives: per query (in order, or by query id) one positive or several. With a dict corpus they are ids; with a
            list they are row numbers or texts of the corpus; without a corpus they are texts. id -> grade works too.
        query_groups: per query the document (or the like) that it was made from, in order or by id; None for unknown.
        corpus_groups: per passage likewise; without a corpus, by text.
        query_splits: per query the split it belongs to, in order or by id; None for none.
        corpus_splits: per passage likewise; without a corpus, by text.
        name: what reports call it.

    Returns:
        the data; ids are strings from here on.

    Raises:
        ValueError: for a query without positives, an unknown id, an empty text.
        TypeError: when positives are one string.
    """
    if isinstance(positives, str):
        raise TypeError("positives must hold one entry per query: got a single string; wrap it in a list.")
    query_ids, query_texts = _ids_and_texts(queries, "queries")
    if isinstance(positives, Mapping):
        by_id = {str(k): v for k, v in positives.items()}
        unknown = next(iter(by_id.keys() - set(query_ids)), None)
        require(unknown is None, f"positives name the query {unknown!r}, which is not among the queries.")
        missing = next((q for q in query_ids if q not in by_id), None)
        require(missing is None, f"every query needs a positive: query {missing!r} has none.")
        given = [by_id[q] for q in query_ids]
    else:
        require(
            len(positives) == len(query_ids),
            f"positives must have one entry per query: {len(query_ids)} queries, {len(positives)} positives.",
        )
        given = list(positives)
    entries = [grades_of(entry, query_ids[i]) for i, entry in enumerate(given)]
    if corpus is None:
        texts = list(dict.fromkeys(text for entry in entries for text in entry))
        bad = next((t for t in texts if not isinstance(t, str)), None)
        require(bad is None, f"without a corpus, positives must be texts: got {shown(bad)}.")
        corpus_ids, corpus_texts = _ids_and_texts(texts, "positives")
        rows: dict[Any, int] = {text: i for i, text in enumerate(texts)}
    else:
        corpus_ids, corpus_texts = _ids_and_texts(corpus, "corpus")
        if isinstance(corpus, Mapping):
            rows = {key: i for i, key in enumerate(corpus)} | {name: i for i, name in enumerate(corpus_ids)}
        else:
            rows = {text: i for i, text in reversed(list(enumerate(corpus)))} | {i: i for i in range(len(corpus))}
    found, grades = [], []
    for query, entry in zip(query_ids, entries, strict=True):
        unknown = next((p for p in entry if p not in rows), None)
        if unknown is not None:
            raise ValueError(f"query {query!r}: positive {shown(unknown)} is not in the corpus.")
        row, grade = in_row_order({rows[p]: g for p, g in entry.items()})
        found.append(row)
        grades.append(grade)
    keys = list(queries) if isinstance(queries, Mapping) else query_ids
    named = list(corpus) if isinstance(corpus, Mapping) else texts if corpus is None else corpus_ids
    return RetrievalData(
        Table(query_ids, query_texts, *in_order("query", keys, query_groups, query_splits)),
        Table(corpus_ids, corpus_texts, *in_order("corpus", named, corpus_groups, corpus_splits)),
        found,
        grades,
        as_text(name),
    )


def from_pairs(
    queries: Sequence[str],
    positives: Sequence[Any],
    negatives: Sequence[Any] | None,
    groups: Sequence[Any] | None = None,
    splits: Sequence[Any] | None = None,
    *,
    name: str = "data",
) -> RetrievalData:
    """Rows of (query, positive) become queries with all their positives: equal query texts are one query.

    Args:
        queries: one text per row.
        positives: one text, or a list of texts, per row.
        negatives: texts that join the corpus, one or a list per row, or None.
        groups: the document that a row's query and positives come from, see ``tamis.labels.by_text``.
        splits: the split of all the texts of a row, likewise.
        name: what reports call it.

    Returns:
        the data; the corpus is every positive and negative text, once each.
    """
    merged: dict[str, dict[str, float]] = {}
    rows = []
    for number, (query, answers) in enumerate(zip(queries, positives, strict=True), 1):
        texts = [answers] if isinstance(answers, str) else answers
        if not isinstance(query, str) or not texts or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"row {number}: query and positives must be texts: got {shown((query, answers))}.")
        merged.setdefault(query, {}).update(dict.fromkeys(texts, 1.0))
        rows.append((query, texts, [] if negatives is None else _as_texts(negatives[number - 1])))
    pool = dict.fromkeys(text for texts in merged.values() for text in texts)
    pool.update(dict.fromkeys(text for _, _, others in rows for text in others))
    labels = by_text(rows, groups, splits)
    return from_python(
        list(merged), list(pool), [list(t) for t in merged.values()],
        query_groups=[labels["query_groups"].get(t) for t in merged],
        corpus_groups=[labels["corpus_groups"].get(t) for t in pool],
        query_splits=[labels["query_splits"].get(t) for t in merged],
        corpus_splits=[labels["corpus_splits"].get(t) for t in pool],
        name=name,
    )  # fmt: skip


def write_beir(data: RetrievalData, folder: Path, *, split: str = "train") -> None:
    """Write a data set in BEIR layout; other splits already in the folder stay.

    Args:
        data: the data.
        folder: made when it is not there; ``queries.jsonl`` is extended by queries it does not hold yet.
        split: name of the judgement file.
    """
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    known = read_table(folder / "queries.jsonl") if (folder / "queries.jsonl").exists() else Table([], [])
    queries = {row["_id"]: row for table in (known, data.queries) for row in rows_of(table)}
    write_jsonl(folder / "queries.jsonl", queries.values())
    write_jsonl(folder / "corpus.jsonl", ({"_id": row["_id"], "title": "", **row} for row in rows_of(data.corpus)))
    with (folder / "qrels" / f"{split}.tsv").open("w", encoding="utf-8") as out:
        out.write("query-id\tcorpus-id\tscore\n")
        for query, rows, grades in zip(data.queries.ids, data.positives, data.grades, strict=True):
            out.writelines(f"{query}\t{data.corpus.ids[r]}\t{g:g}\n" for r, g in zip(rows, grades, strict=True))


def splits_of(path: str | Path) -> list[str]:
    """The splits of a BEIR folder, in the order train, dev, validation, test, others; none for other data."""
    found = [p.stem for p in (Path(path) / "qrels").glob("*.tsv")]
    return sorted(found, key=lambda s: (SPLITS.index(s) if s in SPLITS else len(SPLITS), s))


def _from_table(table: pa.Table, path: Path) -> RetrievalData:
    """The columns of an Arrow table that are known, as data."""
    names = table.column_names
    query, positive, negatives = _column_names(names, str(path))
    wanted = dict.fromkeys((query, positive, *negatives, *GROUP_COLUMNS, *SPLIT_COLUMNS, "metadata"))
    with parsing(path, "table"):
        rows = table.select([c for c in wanted if c in names]).to_pylist()
    return _from_rows(list(enumerate(rows, 1)), path, unit="row")


def _from_rows(rows: list[tuple[int, dict[str, Any]]], path: Path, *, unit: str = "line") -> RetrievalData:
    """Rows of a file, with their numbers, as data."""
    require(bool(rows), f"{path} is empty: it must hold a query and a positive per row.")
    query, positive, negatives = _column_names(list(rows[0][1]), str(path))
    wants = {query: "a text, not empty", positive: "a text or a list of texts, not empty"}
    wants |= dict.fromkeys(negatives, "a text, a list of texts, or nothing")
    for number, row in rows:
        for column, want in wants.items():
            value = row.get(column)
            cells = value if isinstance(value, list) and column != query else [value]
            good = (isinstance(v, str) and v.strip() for v in cells)
            free = column in negatives and all(v is None or isinstance(v, str) for v in cells)
            if not (free or (cells and all(good))):
                raise ValueError(f"{path}, {unit} {number}: {column!r} must be {want}: got {shown(value)}.")
    others = [[t for c in negatives for t in _as_texts(row.get(c))] for _, row in rows] if negatives else None
    groups, splits = (some([label_of(row, labels) for _, row in rows]) for labels in _label_columns(query, positive))
    name = path.name if path.is_dir() else path.stem
    return from_pairs([r[query] for _, r in rows], [r[positive] for _, r in rows], others, groups, splits, name=name)


def _as_texts(value: object) -> list[str]:
    """The texts of a cell: one, several, or none."""
    cells = value if isinstance(value, list) else [value]
    return [text for text in cells if isinstance(text, str) and text.strip()]


def _label_columns(query: str, positive: str) -> tuple[list[str], list[str]]:
    """The columns that may hold the group and the split of a row: those that are not its texts."""
    return [c for c in GROUP_COLUMNS if c not in (query, positive)], list(SPLIT_COLUMNS)


def _column_names(names: Sequence[str], where: str) -> tuple[str, str, list[str]]:
    query = next((c for c in QUERY_COLUMNS if c in names), None)
    positive = next((c for c in POSITIVE_COLUMNS if c in names), None)
    if query is None or positive is None:
        lacking = "a query column (" + ", ".join(QUERY_COLUMNS) + ")"
        if query is not None:
            lacking = "a column of positives (" + ", ".join(POSITIVE_COLUMNS) + ")"
        raise ValueError(f"{where} has no {lacking[2:]}: its columns are {shown(list(names))}.")
    twice = next((c for c in (query, positive) if list(names).count(c) > 1), None)
    require(twice is None, f"{where} has the column {twice!r} several times.")
    return query, positive, [c for c in names if c in NEGATIVE_COLUMNS or c.startswith("negative_")]


def _ids_and_texts(given: Sequence[str] | Mapping[Any, str], name: str) -> tuple[list[str], list[str]]:
    if isinstance(given, str):
        raise TypeError(f"{name} must be a list or a dict of texts: got a single string; wrap it in a list.")
    ids = [as_id(k, name) for k in given] if isinstance(given, Mapping) else [str(i) for i in range(len(given))]
    texts = list(given.values()) if isinstance(given, Mapping) else list(given)
    require(bool(texts), f"{name} must hold at least one text: got none.")
    for key, text in zip(ids, texts, strict=True):
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"{name} must be texts, none empty: {shown(key)} holds {shown(text)}.")
    require(len(set(ids)) == len(ids), f"{name} must have distinct ids: some are equal as strings.")
    return ids, [as_text(text) for text in texts]
