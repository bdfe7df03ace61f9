"""Judgements: which passages answer a query and how well, from a qrels file or from a Python object."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tamis.checks import require, shown
from tamis.files import lines

Array = np.ndarray[Any, Any]


def read_qrels(path: Path, queries: Sequence[str], corpus: Sequence[str]) -> dict[int, dict[int, float]]:
    """Read the judgements of a BEIR folder: query-id, corpus-id and score between tabs, or the four columns of TREC.

    Args:
        path: the file; a first line that ends in "score" is passed over.
        queries: ids of the queries, distinct.
        corpus: ids of the passages, distinct.

    Returns:
        query row -> passage row -> score, where the score is above 0; at least one.

    Raises:
        ValueError: for an id that is not there, a score that is no finite number, or a pair that is judged twice with
            different scores; names the line.
    """
    query_row = {name: i for i, name in enumerate(queries)}
    passage_row = {name: i for i, name in enumerate(corpus)}
    judged: dict[int, dict[int, float]] = {}
    for number, line in enumerate(lines(path), 1):
        fields = line.rstrip("\r\n").split("\t")
        if not line.strip() or (number == 1 and fields[-1].strip().lower() in ("score", "relevance", "grade")):
            continue
        if len(fields) == 4:  # the four columns of TREC: query, 0, passage, grade
            fields = [fields[0], fields[2], fields[3]]
        where = f"{path}, line {number}"
        if len(fields) != 3:
            raise ValueError(f"{where}: expected query-id, corpus-id, score: got {len(fields)} fields.")
        query, passage, grade = fields
        if query not in query_row:
            raise ValueError(f"{where}: query-id {shown(query)} is not in queries.jsonl.")
        if passage not in passage_row:
            raise ValueError(f"{where}: corpus-id {shown(passage)} is not in corpus.jsonl.")
        try:
            value = float(grade)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise ValueError(f"{where}: score must be a number: got {shown(grade)}.")
        if judged.setdefault(query_row[query], {}).setdefault(passage_row[passage], value) != value:
            raise ValueError(f"{where}: {shown(query)} and {shown(passage)} stand above already, with another score.")
    positives = {query: {p: g for p, g in row.items() if g > 0} for query, row in judged.items()}
    found = {query: row for query, row in positives.items() if row}
    require(bool(found), f"{path} names no positive: every score is 0 or the file is empty.")
    return found


def grades_of(entry: Any, query: str) -> dict[Any, float]:
    """The positives of one query with their grades, from whatever stands for them.

    Args:
        entry: one id, row number or text, several of them, or id -> grade.
        query: its id, for messages.

    Returns:
        positive -> grade, above 0.

    Raises:
        ValueError: for a query without positives, or a grade that is no finite number.
        TypeError: for a positive that is neither id nor text.

    Example:
        >>> grades_of({"a": 2, "b": 0}, "q"), grades_of(["a", "b"], "q")
        ({'a': 2.0}, {'a': 1.0, 'b': 1.0})
    """
    if isinstance(entry, Mapping):
        grades = entry
    else:
        several = isinstance(entry, Iterable) and not isinstance(entry, str)
        answers = [int(a) if isinstance(a, np.integer) else a for a in (entry if several else [entry])]
        odd = next((a for a in answers if a is None or not isinstance(a, Hashable)), ...)
        if odd is not ...:
            raise TypeError(f"query {shown(query)}: positives must be ids or texts: got {shown(odd)}.")
        grades = dict.fromkeys(answers, 1.0)
    for grade in grades.values():
        if not isinstance(grade, (int, float, np.number)) or not math.isfinite(grade):
            raise ValueError(f"query {shown(query)}: grades must be finite numbers: got {shown(grade)}.")
    found = {answer: float(grade) for answer, grade in grades.items() if grade > 0}
    require(bool(found), f"every query needs a positive: query {shown(query)} has none.")
    return found


def in_row_order(judged: Mapping[int, float]) -> tuple[Array, Array]:
    """Passage rows (p,) int64, rising, and their grades (p,) float64."""
    rows = sorted(judged)
    return np.array(rows, np.int64), np.array([judged[r] for r in rows], np.float64)
