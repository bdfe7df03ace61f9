"""datasets: Hugging Face datasets in and out."""

from __future__ import annotations

from typing import Any

from tamis import checks, export
from tamis.data import NEGATIVE_COLUMNS, POSITIVE_COLUMNS, QUERY_COLUMNS, RetrievalData, from_pairs
from tamis.results import MinedNegatives


def mined_to_dataset(mined: MinedNegatives, form: str = "triplet") -> Any:
    """Mined negatives as a ``datasets.Dataset`` ready for sentence-transformers.

    Args:
        mined: the negatives.
        form: see ``tamis.export.columns``.

    Returns:
        a ``datasets.Dataset``.

    Raises:
        ImportError: when ``datasets`` is not installed; says how to install it.
    """
    return checks.package("datasets").Dataset.from_dict(export.columns(mined, form))


def from_dataset(dataset: Any, *, split: str | None = None) -> RetrievalData:
    """A ``datasets.Dataset`` of pairs or triplets, or one split of a DatasetDict, as a retrieval data set.

    Args:
        dataset: columns as for files of pairs: a query column, a column of positives, perhaps negatives.
        split: which part of a DatasetDict; left out, ``train``, or the only one.

    Returns:
        the data.

    Raises:
        ValueError: when a column or the split is missing.
    """
    if isinstance(dataset, dict):
        found = list(dataset)
        name = split or ("train" if "train" in found else found[0] if len(found) == 1 else None)
        checks.require(name in found, f"split must be one of {', '.join(map(str, found))}: got {split!r}.")
        dataset = dataset[name]
    names = list(dataset.column_names)
    query = next((c for c in QUERY_COLUMNS if c in names), None)
    positive = next((c for c in POSITIVE_COLUMNS if c in names), None)
    if query is None or positive is None:
        raise ValueError(f"the dataset needs a query and a positive column: its columns are {', '.join(names)}.")
    others = [c for c in names if c in NEGATIVE_COLUMNS or c.startswith("negative_")]
    negatives = None
    if others:
        cells = zip(*(dataset[c] for c in others), strict=True)
        negatives = [[t for cell in row for t in (cell if isinstance(cell, list) else [cell]) if t] for row in cells]
    return from_pairs(list(dataset[query]), list(dataset[positive]), negatives)
