"""Export: mined negatives in the forms that trainers read.

A triplet has one row per negative, an n-tuple one row per positive with its negatives in columns (short lists end in
None), a labelled pair one row per text with label 1 or 0, a labelled list one row per query. The file formats are those
of FlagEmbedding, Tevatron and MS MARCO triples.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tamis import checks
from tamis.files import appearing
from tamis.results import MinedNegatives

COLUMN_FORMATS = ("triplet", "n-tuple", "labeled-pair", "labeled-list")
FILE_FORMATS = ("flagembedding", "tevatron", "msmarco")


def columns(mined: MinedNegatives, form: str) -> dict[str, list[Any]]:
    """The negatives as columns of texts, in the names that sentence-transformers documents.

    Args:
        mined: the negatives; queries without any are left out.
        form: "triplet" (anchor, positive, negative), "n-tuple" (anchor, positive, negative_1, ...), "labeled-pair"
            (anchor, text, label), "labeled-list" (anchor, texts, labels).

    Returns:
        column name -> values, all of one length.

    Raises:
        ValueError: for an unknown form.
    """
    checks.one_of("form", form, COLUMN_FORMATS)
    text = mined.corpus.texts
    rows: list[tuple[Any, ...]] = []
    groups = list(grouped(mined))
    if form == "triplet":
        rows = [
            (mined.queries.texts[q], text[p], text[n])
            for q, negatives in groups
            for p in mined.positives[q]
            for n in negatives
        ]
        names = ["anchor", "positive", "negative"]
    elif form == "n-tuple":
        width = max((len(n) for _, n in groups), default=0)
        for q, negatives in groups:
            tail = [text[n] for n in negatives] + [None] * (width - len(negatives))
            rows += [(mined.queries.texts[q], text[p], *tail) for p in mined.positives[q]]
        names = ["anchor", "positive", *(f"negative_{i}" for i in range(1, width + 1))]
    elif form == "labeled-pair":
        for q, negatives in groups:
            anchor = mined.queries.texts[q]
            rows += [(anchor, text[p], 1) for p in mined.positives[q]] + [(anchor, text[n], 0) for n in negatives]
        names = ["anchor", "text", "label"]
    else:
        for q, negatives in groups:
            own = [*mined.positives[q], *negatives]
            labels = [1] * len(mined.positives[q]) + [0] * len(negatives)
            rows.append((mined.queries.texts[q], [text[i] for i in own], labels))
        names = ["anchor", "texts", "labels"]
    return {name: [row[i] for row in rows] for i, name in enumerate(names)}


def lines(mined: MinedNegatives, form: str) -> Iterator[str]:
    """The negatives as lines of a file.

    Args:
        mined: the negatives; queries without any are left out.
        form: "flagembedding" and "tevatron" are JSONL with ids, "msmarco" is query, positive and negative between tabs.

    Yields:
        one line each, with its line end.

    Raises:
        ValueError: for an unknown form.
    """
    checks.one_of("form", form, FILE_FORMATS)
    text, ids = mined.corpus.texts, mined.corpus.ids
    score = {}
    for q, n, s in zip(*(mined.negatives[c].tolist() for c in ("query", "negative", "score")), strict=True):
        score[q, n] = round(s, 6)
    for q, negatives in grouped(mined):
        positives, query = mined.positives[q].tolist(), mined.queries.texts[q]
        if form == "flagembedding":
            row: dict[str, Any] = {
                "query": query,
                "pos": [text[p] for p in positives],
                "neg": [text[n] for n in negatives],
                "pos_id": [ids[p] for p in positives],
                "neg_id": [ids[n] for n in negatives],
                "neg_scores": [score[q, n] for n in negatives],
            }
            yield _json_line(row)
        elif form == "tevatron":
            passages = [
                [{"docid": ids[i], "title": "", "text": text[i]} for i in part] for part in (positives, negatives)
            ]
            row = {"query_id": mined.queries.ids[q], "query": query}
            yield _json_line(row | {"positive_passages": passages[0], "negative_passages": passages[1]})
        else:
            for p in positives:
                for n in negatives:
                    yield "\t".join(" ".join(t.split()) for t in (query, text[p], text[n])) + "\n"


def write(mined: MinedNegatives, form: str, path: Path) -> int:
    """Write one of the file formats, or a column format as Parquet; the file appears when it is whole.

    Args:
        mined: the negatives.
        form: one of ``COLUMN_FORMATS`` (Parquet) or ``FILE_FORMATS``.
        path: the file.

    Returns:
        how many rows were written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    checks.require(not path.is_dir(), f"{path} is a folder: name a file for the export.")
    count = 0
    with appearing(path) as temporary:
        if form in COLUMN_FORMATS:
            table = pa.table(columns(mined, form))
            pq.write_table(table, temporary)
            return int(table.num_rows)
        with temporary.open("w", encoding="utf-8", errors="replace") as out:
            for line in lines(mined, form):
                out.write(line)
                count += 1
    return count


def grouped(mined: MinedNegatives) -> Iterator[tuple[int, list[int]]]:
    """Query row and rows of its negatives in order, for every query that has any."""
    query, negative = mined.negatives["query"], mined.negatives["negative"]
    starts = np.flatnonzero(np.diff(query, prepend=-1))
    for start, part in zip(starts, np.split(negative, starts[1:]), strict=bool(len(query))):
        yield int(query[start]), part.tolist()


def _json_line(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"
