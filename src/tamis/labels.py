"""Labels of rows: which document a text comes from and which split it belongs to, where the data say so.

A label is a short string or None. A column of labels stands beside the ids and texts of a ``Table``; a column without a
single label is None, so that data without labels carry nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tamis.checks import require

GROUP_COLUMNS = ("group", "document", "doc_id")
SPLIT_COLUMNS = ("split",)

Labels = Sequence[Any] | Mapping[Any, Any]
Column = list[str | None]


def label_of(row: Mapping[str, Any], names: Sequence[str]) -> str | None:
    """The first of some columns that a row fills with a text or a number, itself or in its ``metadata``.

    Args:
        row: a row by column.
        names: the columns, in order of preference.

    Returns:
        the label as a string, or None where there is none.

    Example:
        >>> label_of({"text": "a", "metadata": {"doc_id": 7}}, GROUP_COLUMNS)
        '7'
    """
    metadata = row.get("metadata")
    for place in (row, metadata if isinstance(metadata, Mapping) else {}):
        for name in names:
            label = as_label(place.get(name))
            if label is not None:
                return label
    return None


def as_label(value: object) -> str | None:
    """A text or a number as a label; None for what is missing, blank, or anything else."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)) or value != value:
        return None
    return str(value).strip() or None


def some(labels: Sequence[str | None]) -> Column | None:
    """A column of labels, or None when it holds none."""
    return list(labels) if any(label is not None for label in labels) else None


def in_order(
    side: str, keys: Sequence[Any], groups: Labels | None, splits: Labels | None
) -> tuple[Column | None, Column | None]:
    """Groups and splits that come by row or by key, as one label per row.

    Args:
        side: "query" or "corpus", for messages.
        keys: the keys of the rows, in order.
        groups: one label per row, or key -> label; None for none.
        splits: likewise.

    Returns:
        the columns groups and splits; None for one without a label in it.

    Raises:
        ValueError: for a key that is not there, or another number of labels than rows.
        TypeError: when the labels are one string.
    """
    return _column(f"{side}_groups", keys, groups), _column(f"{side}_splits", keys, splits)


def by_text(
    rows: Sequence[tuple[str, Sequence[str], Sequence[str]]], groups: Labels | None, splits: Labels | None
) -> dict[str, dict[str, Any]]:
    """Labels of the distinct texts of rows of pairs, whose label is that of all their texts.

    A query that stands in several rows takes the first label; so does a positive its group. A passage that occurs in
    several splits is free, as it belongs to none of them alone. The group of a row says nothing of its negatives.

    Args:
        rows: query, positives and negatives of every row.
        groups: one label per row, or None.
        splits: likewise.

    Returns:
        the arguments of ``from_python`` by name, each text -> label.
    """
    found: dict[str, dict[str, Any]] = {
        key: {} for key in ("query_groups", "corpus_groups", "query_splits", "corpus_splits")
    }
    for i, (query, positives, negatives) in enumerate(rows):
        if groups is not None and groups[i] is not None:
            found["query_groups"].setdefault(query, groups[i])
            for text in positives:
                found["corpus_groups"].setdefault(text, groups[i])
        if splits is not None:
            found["query_splits"].setdefault(query, splits[i])
            for text in (*positives, *negatives):
                if found["corpus_splits"].setdefault(text, splits[i]) != splits[i]:
                    found["corpus_splits"][text] = None
    return found


def _column(name: str, keys: Sequence[Any], given: Labels | None) -> Column | None:
    if given is None:
        return None
    if isinstance(given, str):
        raise TypeError(f"{name} must hold one label per row: got a single string.")
    if isinstance(given, Mapping):
        unknown = next(iter(given.keys() - set(keys)), None)
        require(unknown is None, f"{name} names {unknown!r:.60}, which is not there.")
        given = [given.get(key) for key in keys]
    require(len(given) == len(keys), f"{name} must have one entry per row: {len(keys)} rows, {len(given)} entries.")
    return some([as_label(label) for label in given])
