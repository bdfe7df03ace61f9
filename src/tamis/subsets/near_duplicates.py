"""Near-duplicates: which rows repeat an earlier one, found exactly, each with the row it repeats.

Rows are embeddings, compared by cosine, or texts, compared by the Jaccard similarity of their shingle sets. Rows are
taken in their order: a row is kept unless a row that is kept already reaches the threshold with it; a dropped row names
the first kept row that does. So no two kept rows are near, and nothing is dropped for being near a row that is itself
dropped (no chains). The rows are halved again and again: what is kept of the first half clears the second half, which
takes one exact blocked search each, never the pairs of a cluster with itself, and gives what row by row would.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from tamis import checks, jaccard, search
from tamis.encoders import unit_rows
from tamis.method import Method
from tamis.ngrams import normalise, text_groups
from tamis.results import Selection, selection_like
from tamis.shingles import Shingles, spread

METHOD = Method(
    title="Exact near-duplicate removal by cosine or by shingles, first row kept",
    paper="staple",
    year=2026,
    claim="Exact Jaccard finds every planted noisy copy above the threshold and nothing else; MinHash LSH does not.",
    peers=("semhash.SemHash.self_deduplicate", "datasketch.MinHashLSH"),
    deviations=("a dropped row repeats a kept row, never one that is dropped too", "exact instead of hashed"),
)

Array = np.ndarray[Any, Any]
Rows = Array | torch.Tensor | Sequence[str]
Pairs = tuple[Array, Array, Array]

_LEAF = 2048  # rows whose pairs are all held at once


def drop_near_duplicates(
    rows: Rows,
    *,
    threshold: float = 0.9,
    unit: str = "word",
    size: int = 3,
    max_memory: int = search.DEFAULT_MEMORY,
) -> Selection:
    """Keep the first of every set of near-duplicates.

    Row i is kept unless ``similarity(i, j) >= threshold`` for a kept row j < i; its rival is the lowest such j.
    Similarity is the cosine of embeddings (float32), or ``|A & B| / |A | B|`` of the shingle sets A and B of texts.

    Args:
        rows: (n, d) float embeddings, none zero and of any length, array or tensor; or n texts.
        threshold: in (0, 1]; for embeddings in [-1, 1], where 1 asks for rounding errors to be nil: take 0.9999.
        unit: of shingles of texts, "word" or "character".
        size: units per shingle; a shorter text is one shingle.
        max_memory: bytes for the blocks of the search of embeddings.

    Returns:
        indices (m,) of the kept rows, ascending; scores (n,), the similarity with the rival, NaN for kept rows;
        log_weights (n,), 0 or -inf; reasons of the dropped rows: row, rule, rival, score. Tensors for a tensor.

    Raises:
        ValueError: for no rows, a zero or infinite embedding, or a threshold out of its range.
        TypeError: for rows that are neither embeddings nor texts.

    Example:
        >>> kept = drop_near_duplicates(["a b c d", "x y z", "A b, c d!"])
        >>> kept.indices.tolist(), kept.reasons["rival"].tolist(), kept.reasons["score"].tolist()
        ([0, 1], [0], [1.0])
    """
    if _is_embedding(rows):
        units = _units("rows", rows, threshold)

        def near(a: Array, b: Array) -> Pairs:
            found = search.range_search(_at(units, b), _at(units, a), threshold, max_memory=max_memory)
            indptr, columns, scores = (np.asarray(x.cpu() if isinstance(x, torch.Tensor) else x) for x in found)
            return columns, np.repeat(np.arange(len(b)), np.diff(indptr)), scores

        rival, score = _first_kept(len(units), near)
    else:
        rival, score = _texts_first_kept(_texts("rows", rows), threshold, unit, size)
    dropped = np.flatnonzero(rival >= 0)
    selection = Selection(
        indices=np.flatnonzero(rival < 0),
        scores=score,
        log_weights=np.where(rival < 0, 0.0, -np.inf).astype(score.dtype),
        reasons={
            "row": dropped,
            "rule": np.full(len(dropped), "near-duplicate", dtype=object),
            "rival": rival[dropped],
            "score": score[dropped],
        },
    )
    return selection_like(selection, rows)


def near_duplicate_pairs(
    left: Rows,
    right: Rows | None = None,
    *,
    threshold: float = 0.9,
    unit: str = "word",
    size: int = 3,
    max_memory: int = search.DEFAULT_MEMORY,
) -> tuple[Any, Any, Any]:
    """All pairs of rows that reach the threshold, exactly; the result is as large as there are pairs.

    Args:
        left: (n, d) float embeddings, none zero, or n texts.
        right: (m, d) embeddings or m texts; None for pairs within ``left``, each once, the lower row first.
        threshold: as in ``drop_near_duplicates``.
        unit: likewise.
        size: likewise.
        max_memory: bytes for the blocks of the search of embeddings.

    Returns:
        rows of left (p,) int64, rows of right (p,) int64, similarities (p,) float, by row of left, then of right.

    Raises:
        ValueError: as ``drop_near_duplicates``.
        TypeError: likewise, and where one side is embeddings and the other is texts.

    Example:
        >>> near_duplicate_pairs(np.array([[1.0, 0.0], [0.0, 2.0]]), np.array([[3.0, 4.0]]), threshold=0.7)
        (array([1]), array([0]), array([0.8], dtype=float32))
    """
    if _is_embedding(left) != (_is_embedding(left) if right is None else _is_embedding(right)):
        raise TypeError("left and right must both be embeddings or both be texts: got one of each.")
    if _is_embedding(left):
        sides = [_units("left", left, threshold)] + ([] if right is None else [_units("right", right, threshold)])
        indptr, columns, scores = search.range_search(sides[0], sides[-1], threshold, max_memory=max_memory)
        owners: Any = None
        if isinstance(indptr, torch.Tensor):
            owners = torch.repeat_interleave(torch.arange(len(indptr) - 1, device=indptr.device), indptr.diff())
            scores = scores.to(left.dtype)  # type: ignore[union-attr]
        else:
            owners = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
    else:
        sides = [_texts("left", left)] + ([] if right is None else [_texts("right", right)])
        owners, columns, scores = _text_pairs(sides[0], sides[-1], threshold, unit, size)
    if right is not None:
        return owners, columns, scores
    once = owners < columns
    return owners[once], columns[once], scores[once]


def _first_kept(n: int, near: Callable[[Array, Array], Pairs]) -> tuple[Array, Array]:
    """Per row the first kept row that it repeats, -1 where it is kept, and their similarity, NaN where it is kept.

    Args:
        n: rows.
        near: all near pairs between rows a and rows b, as places in a, places in b and similarities.
    """
    rival, score = np.full(n, -1), np.full(n, np.nan)

    def drop(first: Array, second: Array, pairs: Pairs) -> Array:
        """Record the first of every second; which of second are left."""
        a, b, s = pairs
        order = np.lexsort((a, b))
        b = b[order]
        head = order[np.flatnonzero(np.diff(b, prepend=-1))]
        rows = second[pairs[1][head]]
        rival[rows], score[rows] = first[a[head]], s[head]
        return second[rival[second] < 0]

    def settle(rows: Array) -> Array:
        """The kept rows of some that no earlier row outside them drops."""
        if len(rows) > _LEAF:
            first, second = settle(rows[: len(rows) // 2]), rows[len(rows) // 2 :]
            return np.concatenate([first, settle(drop(first, second, near(first, second)))])
        if len(rows) == 0:
            return rows
        a, b, s = near(rows, rows)
        a, b, s = (x[a < b] for x in (a, b, s))
        kept = _without_earlier(len(rows), a, b)
        useful = kept[a] & ~kept[b]
        return drop(rows, rows, (a[useful], b[useful], s[useful]))

    settle(np.arange(n))
    return rival, score


def _without_earlier(n: int, a: Array, b: Array) -> Array:
    """(n,) bool, rows kept in order: those that no kept row drops by a pair (a < b)."""
    kept, open_ = np.zeros(n, dtype=bool), np.ones(n, dtype=bool)
    while len(a):
        waits = np.zeros(n, dtype=bool)
        waits[b] = True
        kept |= open_ & ~waits
        open_ &= waits
        open_[b[kept[a]]] = False
        still = open_[a] & open_[b]
        a, b = a[still], b[still]
    return kept | open_


def _texts_first_kept(texts: Sequence[str], threshold: float, unit: str, size: int) -> tuple[Array, Array]:
    """``_first_kept`` of texts: equal texts are one row, which settles the cheapest and commonest case first."""
    jaccard.check_threshold(threshold)
    groups, firsts, distinct = _distinct_texts(texts)
    sets = Shingles(distinct, unit=unit, size=size, normalised=True).sets
    rival, score = _first_kept(len(distinct), lambda a, b: jaccard.jaccard_pairs(sets.take(a), sets.take(b), threshold))
    repeats = firsts[groups] != np.arange(len(texts))
    heir = np.where(rival < 0, np.arange(len(distinct)), rival)
    whose = np.where(repeats | (rival[groups] >= 0), firsts[heir[groups]], -1)
    return whose, np.where(repeats & (rival[groups] < 0), 1.0, score[groups])


def _text_pairs(left: Sequence[str], right: Sequence[str], threshold: float, unit: str, size: int) -> Pairs:
    """Near pairs of texts, by row of left: joined as distinct texts, then spread over the rows that have them."""
    sides = [_distinct_texts(texts) for texts in (left, right)]
    a, b, scores = jaccard.jaccard_join(
        sides[0][2], sides[1][2], threshold=threshold, unit=unit, size=size, normalised=True
    )
    for place, (groups, _, distinct) in enumerate(sides):
        ends = np.cumsum(np.bincount(groups, minlength=len(distinct)))
        of = (a, b)[place]
        counts = np.diff(ends, prepend=0)[of]
        rows = np.argsort(groups, kind="stable")[spread(ends[of] - counts, counts)]
        a, b, scores = (np.repeat(x, counts) for x in (a, b, scores))
        a, b = (rows, b) if place == 0 else (a, rows)
    order = np.lexsort((b, a))
    return a[order], b[order], scores[order]


def _distinct_texts(texts: Sequence[str]) -> tuple[Array, Array, list[str]]:
    """The number of each text among the distinct normalised ones, the first row of each of those, and themselves."""
    clean = [normalise(text) for text in texts]
    groups = text_groups(clean, normalised=False)[0]
    firsts = np.unique(groups, return_index=True)[1]
    return groups, firsts, [clean[i] for i in firsts]


def _is_embedding(rows: Rows) -> bool:
    return isinstance(rows, np.ndarray | torch.Tensor) and (not isinstance(rows, np.ndarray) or rows.dtype.kind != "U")


def _texts(name: str, rows: Any) -> Sequence[str]:
    if isinstance(rows, str) or not all(isinstance(text, str) for text in rows):
        raise TypeError(f"{name} must be embeddings (n, d) or a list of texts: got {type(rows).__name__}.")
    checks.require(len(rows) > 0, f"{name} must hold at least one text: got none.")
    return [str(text) for text in rows] if isinstance(rows, np.ndarray) else rows


def _units(name: str, rows: Any, threshold: float) -> Any:
    """Rows of length one in float32, on their device."""
    checks.between("threshold", threshold, -1, 1)
    checks.matrix(name, rows)
    if isinstance(rows, np.ndarray):
        return unit_rows(rows, name)
    wide = rows.detach().to(torch.float64 if rows.device.type == "cpu" else torch.float32)
    checks.finite(name, wide)
    norms = wide.norm(dim=1, keepdim=True)
    checks.require(bool((norms > 0).all()), f"{name} must not hold zero vectors: normalise or drop them first.")
    return (wide / norms).float()


def _at(units: Any, rows: Array) -> Any:
    """Some rows; no copy for a range of them."""
    if len(rows) and rows[-1] - rows[0] + 1 == len(rows):
        return units[rows[0] : rows[-1] + 1]
    return units[rows] if isinstance(units, np.ndarray) else units[torch.from_numpy(rows).to(units.device)]
