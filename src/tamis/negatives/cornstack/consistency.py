"""Consistency: which pairs are clean, by the rank and the score of the positive among all passages."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from tamis import checks, search
from tamis.results import Selection

Array = np.ndarray[Any, Any]
Kind = TypeVar("Kind", Array, Tensor)

_QUERIES = 512  # rows of queries per product
_CELL = 96  # bytes that one score may cost: the product, its masks, the places of near scores, and copies of these


def consistency_filter(
    queries: search.ArrayLike,
    positives: search.ArrayLike,
    *,
    k: int = 2,
    min_score: float | str = 0.7,
    bidirectional: bool = False,
    shard_size: int | None = None,
    similarity: str = "cosine",
    max_memory: int = search.DEFAULT_MEMORY,
) -> Selection:
    """Keep the pairs whose positive is among the k nearest of its query and similar enough.

    The dual consistency filter of CoRNStack: pair i stays when ``1 + #{j: S_ij > S_ii} <= k`` and
    ``S_ii >= min_score``. Equal scores do not count against a pair. In a small pool a rank is too easy: state the size
    of the shard with k.

    Args:
        queries: (n, d) float, rows of unit length, from an embedder that is not the one to be trained.
        positives: (n, d) float, likewise; row i belongs to query i. Remove duplicate pairs first.
        k: the highest rank that passes.
        min_score: the lowest score that passes, or "quantile:0.2" to drop the lowest fifth. It depends on the embedder.
        bidirectional: ask for the rank of the query among all queries too; generic passages pass a one-way rank.
        shard_size: search shards of so many consecutive pairs; None searches all.
        similarity: "cosine", which requires unit rows, or "dot" for vectors as they are.
        max_memory: bytes for the blocks of scores.

    Returns:
        as NumPy arrays: kept rows; scores (n,) float32 S_ii; log_weights (n,) float32; and reasons, per dropped row:
        row, rule ("rank", "reverse rank" or "score"), rank, rival (the highest-scoring other row), rival_score, pool
        (size of the shard).

    Raises:
        ValueError: for rows that are not finite or not of unit length, or settings out of range.

    Example:
        >>> queries = np.array([[1.0, 0.0], [0.6, 0.8]], dtype=np.float32)
        >>> found = consistency_filter(queries, np.eye(2, dtype=np.float32), k=1, min_score=0.9)
        >>> found.indices, found.scores, found.reasons["rule"]
        (array([0]), array([1. , 0.8], dtype=float32), array(['score'], dtype='<U12'))
    """
    rule = ConsistencyFilter(k=k, min_score=min_score, bidirectional=bidirectional, shard_size=shard_size)
    return _judge(queries, positives, rule, similarity, max_memory)[0]


@dataclass(frozen=True, kw_only=True)
class ConsistencyFilter:
    """The settings of ``consistency_filter``, held for several data sets; gives mask, ranks and scores.

    Args:
        k: the highest rank that passes.
        min_score: the lowest score that passes, or "quantile:0.2".
        bidirectional: ask for the rank in both directions.
        shard_size: search shards of so many pairs; None searches all.

    Example:
        >>> swapped = np.eye(2, dtype=np.float32)[::-1].copy()
        >>> ConsistencyFilter().fit_transform(np.eye(2, dtype=np.float32), swapped)
        (array([False, False]), array([2, 2]), array([0., 0.], dtype=float32))
    """

    k: int = 2
    min_score: float | str = 0.7
    bidirectional: bool = False
    shard_size: int | None = None

    def fit_transform(self, queries: search.ArrayLike, positives: search.ArrayLike) -> tuple[Array, Array, Array]:
        """Judge the pairs of one data set.

        Args:
            queries: (n, d) float, unit rows.
            positives: (n, d) float, unit rows.

        Returns:
            mask (n,) bool, ranks (n,) int64 of the positives for their queries, scores (n,) float32.
        """
        selection, ranks = _judge(queries, positives, self, "cosine", search.DEFAULT_MEMORY)
        return np.isfinite(selection.log_weights), ranks, selection.scores


def consistency_ranks(
    queries: Kind,
    positives: search.ArrayLike,
    *,
    shard_size: int | None = None,
    similarity: str = "cosine",
    max_memory: int = search.DEFAULT_MEMORY,
) -> tuple[Kind, Kind, Kind, Kind]:
    """The rank of every positive for its own query, ``1 + #{j: S_ij > S_ii}``, in bounded memory.

    Products in blocks count what is surely above S_ii; what is within the rounding error is scored again as one fixed
    dot product, so that equal passages tie exactly, wherever they stand.

    Args:
        queries: (n, d) float.
        positives: (n, d) float, row i belongs to query i.
        shard_size: search shards of so many consecutive pairs; None searches all.
        similarity: "cosine", which requires unit rows, or "dot".
        max_memory: bytes for the blocks of scores.

    Returns:
        of the type of queries: ranks (n,) int64, scores (n,) float32 S_ii, rivals (n,) int64 the other row that scores
        highest (-1 in a shard of one), rival_scores (n,) float32 (-inf there).

    Raises:
        ValueError: for rows that are not finite or not of unit length, or settings out of range.

    Example:
        >>> queries, positives = torch.tensor([[1.0, 0.0], [0.6, 0.8]]), torch.eye(2)
        >>> [part.tolist() for part in consistency_ranks(positives, queries)][::2]
        [[1, 1], [1, 0]]
    """
    checks.one_of("similarity", similarity, ("cosine", "dot"))
    checks.positive("max_memory", max_memory)
    checks.same_length("positives", positives, "queries", queries)
    q, p = _checked("queries", queries, similarity), _checked("positives", positives, similarity)
    n = len(q)
    shard_size = n if shard_size is None else shard_size
    checks.at_least("shard_size", shard_size, 1)
    device = q.device
    scores = torch.empty(n, device=device)
    ranks, rivals = torch.empty((2, n), dtype=torch.int64, device=device)
    for start in range(0, n, shard_size):
        shard = slice(start, min(start + shard_size, n))
        scores[shard], ranks[shard], rivals[shard] = _rank_shard(q[shard], p[shard], max_memory)
        rivals[shard] += torch.where(rivals[shard] >= 0, start, 0)
    rival_scores = torch.full((n,), -torch.inf, device=device)
    known = (rivals >= 0).nonzero()[:, 0]
    rival_scores[known] = search.pair_scores(q, p, known, rivals[known])
    parts = (ranks, scores, rivals, rival_scores)
    if isinstance(queries, np.ndarray):
        return tuple(part.numpy() for part in parts)  # type: ignore[return-value]
    return parts


def _judge(
    queries: search.ArrayLike, positives: search.ArrayLike, asked: ConsistencyFilter, similarity: str, max_memory: int
) -> tuple[Selection, Array]:
    """What ``consistency_filter`` returns, and the ranks of all positives."""
    checks.at_least("k", asked.k, 1)
    q, p = _tensor(queries), _tensor(positives)

    def ranked(one: Tensor, other: Tensor) -> list[Array]:
        parts = consistency_ranks(one, other, shard_size=asked.shard_size, similarity=similarity, max_memory=max_memory)
        return [part.cpu().numpy() for part in parts]

    ranks, scores, rivals, rival_scores = ranked(q, p)
    low = scores < _threshold(asked.min_score, scores)
    rule = np.where(ranks > asked.k, "rank", np.where(low, "score", "")).astype("<U12")
    reason = [ranks, rivals, rival_scores]
    if asked.bidirectional:
        back, _, *others = ranked(p, q)
        failed = (back > asked.k) & (rule != "rank")
        rule[failed] = "reverse rank"
        reason = [np.where(failed, b, a) for a, b in zip(reason, [back, *others], strict=True)]
    keep, dropped = np.flatnonzero(rule == ""), np.flatnonzero(rule != "")
    n, size = len(scores), asked.shard_size or len(scores)
    reasons = {"row": dropped, "rule": rule[dropped]}
    reasons |= {name: part[dropped] for name, part in zip(("rank", "rival", "rival_score"), reason, strict=True)}
    reasons["pool"] = np.minimum(n - dropped // size * size, size)
    return Selection(keep, scores, np.where(rule == "", 0.0, -np.inf).astype(np.float32), reasons), ranks


def _rank_shard(queries: Tensor, passages: Tensor, max_memory: int) -> tuple[Tensor, Tensor, Tensor]:
    """Scores of the pairs, ranks within the shard, and the best other row of the shard (-1 for none)."""
    n, d = passages.shape
    own_rows = torch.arange(n, device=queries.device)
    own = search.pair_scores(queries, passages, own_rows, own_rows)
    ranks = torch.ones_like(own_rows)
    best, rivals = torch.full_like(own, -torch.inf), torch.full_like(own_rows, -1)
    tile = min(n, _QUERIES)
    block = max(1, int(max_memory) // (tile * _CELL + 4 * d))
    longest = float(torch.linalg.vector_norm(passages.float(), dim=1).max())
    for first in range(0, n, block):
        part = passages[first : first + block].to(queries.device, torch.float32)
        for start in range(0, n, tile):
            rows = queries[start : start + tile].float()
            here = own[start : start + tile, None]
            products = rows @ part.T
            itself = own_rows[max(first, start) : min(first + block, start + tile)]
            products[itself - start, itself - first] = -torch.inf
            # Sums of d terms in float32, whatever their order, differ by less than this.
            error = 4 * (d + 16) * 2.0**-24 * longest * torch.linalg.vector_norm(rows, dim=1, keepdim=True)
            above = (products > here + error).sum(1)
            near = ((products - here).abs() <= error).nonzero()
            ties = (
                search.pair_scores(queries, passages, near[:, 0] + start, near[:, 1] + first) > own[near[:, 0] + start]
            )
            above += torch.bincount(near[ties, 0], minlength=len(rows))
            ranks[start : start + tile] += above
            highest, where = products.max(1)
            better = highest > best[start : start + tile]
            best[start : start + tile][better] = highest[better]
            rivals[start : start + tile][better] = where[better] + first
    return own, ranks, rivals


def _threshold(min_score: float | str, scores: Array) -> float:
    if not isinstance(min_score, str):
        checks.require(bool(np.isfinite(min_score)), f"min_score must be finite: got {min_score!r}.")
        return float(min_score)
    word, _, share = min_score.partition(":")
    try:
        level = float(share)
    except ValueError:
        level = float("nan")
    checks.require(
        word == "quantile" and 0 <= level <= 1,
        f'min_score must be a number or "quantile:" with a share, as "quantile:0.2": got {min_score!r}.',
    )
    return float(np.quantile(scores, level))


def _tensor(embeddings: search.ArrayLike) -> Tensor:
    if isinstance(embeddings, Tensor):
        return embeddings
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch warns of read-only memory, which is never written to
        return torch.from_numpy(embeddings)


def _checked(name: str, embeddings: search.ArrayLike, similarity: str) -> Tensor:
    tensor = _tensor(embeddings).detach()
    checks.matrix(name, tensor)
    checks.finite(name, tensor)
    if similarity == "cosine":
        norms = torch.linalg.vector_norm(tensor.float(), dim=1)
        row = int((norms - 1).abs().argmax())
        checks.require(
            bool((norms[row] - 1).abs() < 1e-2),
            f"{name} must have rows of unit length: row {row} has length {float(norms[row]):.3g}; divide the rows by "
            'their lengths, or take similarity="dot".',
        )
    return tensor
