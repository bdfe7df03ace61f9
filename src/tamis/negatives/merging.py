"""Merging: several views of one corpus become one ranking by reciprocal rank, and a stranger finds its place in it.

Everything that any view found is kept with its rank in each view. A passage that was ruled out is placed by putting it
into every view: what stands behind it there moves one rank back, the last entry falls out, and the sums are compared
again. So the rank is that of the merged views with the passage really in them, without a second search.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tamis.lexical import reciprocal_rank_fusion

Array = np.ndarray[Any, Any]
CONSTANT = 60  # of reciprocal rank fusion (Cormack, Clarke and Buettcher 2009)
_BLOCK = 2**22  # entries at once


@dataclass(frozen=True)
class Merged:
    """Views merged by reciprocal rank.

    Args:
        union: (q, u) int64, all that any view found, in merged order; -1 where a row has ended.
        ranks: (v, q, u) int32, the rank of each in every view, 0 where the view did not find it.
        placed: per view the ranks that given (query rows, passage rows) would have in it, 0 for none.
        widths: per view how many candidates it may hold.
        depth: candidates of the merged ranking.
    """

    union: Array
    ranks: Array
    placed: Sequence[Callable[[Array, Array], Array]]
    widths: Sequence[int]
    depth: int

    @classmethod
    def of(cls, rankings: Sequence[Array], placed: Sequence[Callable[[Array, Array], Array]], depth: int) -> Merged:
        """Merge block by block of queries.

        Args:
            rankings: per view (q, k) int64, best first, -1 where a row has ended.
            placed: see the class.
            depth: see the class.

        Returns:
            the merged views.
        """
        widths = [ranking.shape[1] for ranking in rankings]
        q, width = len(rankings[0]), sum(widths)
        parts = list(blocks(q, width))
        unions, ranks = [], []
        for part in parts:
            some = [ranking[part] for ranking in rankings]
            union, _ = reciprocal_rank_fusion(some, width, constant=CONSTANT)
            # Nothing is cut off but empty places: a stranger may change which candidates are ahead of it.
            union = union[:, : int((union >= 0).sum(1).max(initial=0))]
            unions.append(union)
            ranks.append(np.stack([_places(union, ranking) for ranking in some]))
        whole = max([depth, *(union.shape[1] for union in unions)])
        joined, places = np.full((q, whole), -1, np.int64), np.zeros((len(rankings), q, whole), np.int32)
        for part, union, rank in zip(parts, unions, ranks, strict=True):
            joined[part, : union.shape[1]] = union
            places[:, part, : union.shape[1]] = rank
        return cls(joined, places, placed, widths, depth)

    def rank_of(self, queries: Array, passages: Array) -> Array:
        """Where each passage stands when it is put into every view and the views are merged again.

        Args:
            queries: (m,) int64 query rows.
            passages: (m,) int64 corpus rows, none of them among the candidates of its query.

        Returns:
            (m,) int32, 0 where it does not reach the merged ranking.
        """
        given = np.stack([place(queries, passages) for place in self.placed])
        found = np.zeros(len(queries), np.int32)
        for part in blocks(len(queries), self.union.shape[1]):
            columns = self.union[queries[part]]
            fused, own = np.zeros(columns.shape), np.zeros(len(columns))
            for width, ranks, put in zip(self.widths, self.ranks, given[:, part], strict=True):
                # What each rank gives: nothing for what is not there, and nothing for what is pushed out at the end.
                gives = np.concatenate([[0.0], 1.0 / (CONSTANT + np.arange(1, width + 1)), [0.0]])
                rank = ranks[queries[part]]
                fused += gives[rank + ((rank >= put[:, None]) & (put[:, None] > 0))]
                own += gives[put]
            ahead = (fused > own[:, None]) | ((fused == own[:, None]) & (columns < passages[part, None]))
            rank = 1 + (ahead & (fused > 0)).sum(1)
            found[part] = np.where((own > 0) & (rank <= self.depth), rank, 0)
        return found


def blocks(rows: int, width: int) -> list[slice]:
    """Rows in parts of a few million entries, so that what is made of a part fits into memory.

    Args:
        rows: how many.
        width: entries per row.

    Returns:
        slices that cover the rows in order.
    """
    step = max(1, _BLOCK // max(1, width))
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]


def _places(union: Array, ranking: Array) -> Array:
    """(q, u) int32, the rank that the entries of one array have in the same row of another, 0 for none."""
    width = 2 + int(max(union.max(initial=0), ranking.max(initial=0)))
    row = np.arange(len(union))[:, None] * width
    keys, wanted = (row + ranking + 1).ravel(), row + union + 1
    there = np.flatnonzero(ranking.ravel() >= 0)
    if len(there) == 0:
        return np.zeros(union.shape, np.int32)
    order = there[np.argsort(keys[there], kind="stable")]
    ordered = keys[order]
    place = np.minimum(np.searchsorted(ordered, wanted), len(order) - 1)
    return np.where(ordered[place] == wanted, order[place] % ranking.shape[1] + 1, 0).astype(np.int32)
