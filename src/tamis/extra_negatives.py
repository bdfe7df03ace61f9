"""Extra negatives: candidates from outside the batch, with ids, so that known positives are masked in all of them.

Three sources of the same thing. A queue holds what recent batches encoded, a static bank holds every candidate once and
for all, a dynamic index holds all documents and gives each query its nearest under the weights of this very step. Each
has ``vectors`` (n, d) and ``ids`` (n,); none of them carries a gradient. ``extra_block`` turns any of them into a block
of similarities and log-weights for ``tamis.contrastive.info_nce``, in which a candidate whose id is among the known
positives of a query has log-weight -inf.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from tamis import checks
from tamis.contrastive import Block, Metric, similarity, unit_rows
from tamis.search import top_k

NO_ID = -1  # the id of a row that is nobody's positive


class FeatureQueue(nn.Module):
    """First in, first out: the last ``size`` rows that were pushed, as buffers that are saved with the model.

    The queue of MoCo (arXiv:1911.05722) and the memory of XBM (arXiv:1912.06798), with ids. It begins empty:
    ``vectors`` and ``ids`` hold only rows that were pushed, so no random row is ever a negative.

    Args:
        size: rows it holds at most, at least 1.
        dim: d.
        normalize: bring rows to length one on their way in.

    Raises:
        ValueError: for a size or dim below 1.

    Example:
        >>> queue = FeatureQueue(2, 2)
        >>> queue.push(torch.eye(2), torch.tensor([7, 8]))
        >>> queue.push(torch.tensor([[0.0, 3.0]]), torch.tensor([9]))
        >>> queue.ids.sort().values.tolist()
        [8, 9]
    """

    _rows: Tensor
    _row_ids: Tensor
    _pushed: Tensor

    def __init__(self, size: int, dim: int, *, normalize: bool = True) -> None:
        super().__init__()
        checks.at_least("size", size, 1)
        checks.at_least("dim", dim, 1)
        self.size, self.dim, self.normalize = size, dim, normalize
        self.register_buffer("_rows", torch.zeros(size, dim))
        self.register_buffer("_row_ids", torch.full((size,), NO_ID, dtype=torch.int64))
        self.register_buffer("_pushed", torch.zeros((), dtype=torch.int64))

    def __len__(self) -> int:
        return min(int(self._pushed), self.size)

    @property
    def vectors(self) -> Tensor:
        """(n, d) float, a copy that later pushes leave as it is; in the order of storage, not of age."""
        return self._rows[: len(self)].clone()

    @property
    def ids(self) -> Tensor:
        """(n,) int64."""
        return self._row_ids[: len(self)].clone()

    @torch.no_grad()
    def push(self, embeddings: Tensor, ids: Tensor | None = None) -> None:
        """Put rows in, and the oldest out.

        Args:
            embeddings: (b, d) float; no gradient is kept. Of more rows than the queue holds, the last remain.
            ids: (b,) int64, of what the rows encode; left out, they are nobody's known positive.

        Raises:
            ValueError: for shapes that do not fit or rows that are not finite.
        """
        checks.matrix("embeddings", embeddings, columns=self.dim)
        checks.finite("embeddings", embeddings)
        if ids is None:
            ids = torch.full((len(embeddings),), NO_ID, dtype=torch.int64, device=embeddings.device)
        ids = _ids(ids, "embeddings", embeddings)
        rows = unit_rows(embeddings) if self.normalize else embeddings
        rows, ids = rows[-self.size :], ids[-self.size :]
        first = int(self._pushed) + len(embeddings) - len(rows)
        places = (first + torch.arange(len(rows), device=self._rows.device)) % self.size
        self._rows[places] = rows.to(self._rows)
        self._row_ids[places] = ids.to(self._row_ids)
        self._pushed += len(embeddings)


class StaticBank(nn.Module):
    """Every candidate, encoded once by a frozen encoder.

    The bank of SPN4CIR (arXiv:2404.11317): two copies of one item in it are unbeatable false negatives of each other,
    so give them one id, or leave one out. The vectors go stale when the encoder that made them is trained.

    Args:
        vectors: (n, d) float, of any precision; kept as they are, without gradient.
        ids: (n,) int64; default 0 to n - 1.

    Raises:
        ValueError: for shapes that do not fit or vectors that are not finite.

    Example:
        >>> bank = StaticBank(torch.eye(3))
        >>> bank.ids.tolist(), bank.vectors.requires_grad
        ([0, 1, 2], False)
    """

    vectors: Tensor
    ids: Tensor

    def __init__(self, vectors: Tensor, ids: Tensor | None = None) -> None:
        super().__init__()
        checks.matrix("vectors", vectors)
        checks.finite("vectors", vectors)
        ids = torch.arange(len(vectors), device=vectors.device) if ids is None else _ids(ids, "vectors", vectors)
        self.register_buffer("vectors", vectors.detach())
        self.register_buffer("ids", ids.to(vectors.device))

    def __len__(self) -> int:
        return len(self.vectors)

    @classmethod
    @torch.no_grad()
    def from_encoder(
        cls,
        encoder: Callable[[Any], Tensor],
        loader: Iterable[Any],
        *,
        normalize: bool = True,
        dtype: torch.dtype = torch.float16,
    ) -> StaticBank:
        """Encode every batch of a loader, in its order, without gradients and, for a module, in evaluation mode.

        Args:
            encoder: takes a batch, returns (b, d) float. A module comes back in the mode it was in.
            loader: batches of candidates.
            normalize: bring rows to length one.
            dtype: of the bank; scores are taken in float32.

        Returns:
            a bank whose ids are the positions in the loader.

        Raises:
            ValueError: for a loader without batches.
        """
        training = isinstance(encoder, nn.Module) and encoder.training
        if isinstance(encoder, nn.Module):
            encoder.eval()
        try:
            rows = [encoder(batch) for batch in loader]
        finally:
            if isinstance(encoder, nn.Module):
                encoder.train(training)
        checks.require(len(rows) > 0, "loader must give at least one batch of candidates: got none.")
        return cls(torch.cat([(unit_rows(r.float()) if normalize else r).to(dtype) for r in rows]))


class DynamicIndex:
    """All documents, searched exactly with the query vectors of this step.

    The live index that ADORE (arXiv:2104.08051) trains a query encoder against: the documents stand still, the queries
    move, and the nearest documents are searched anew for every batch.

    Args:
        vectors: (n, d) float; compared by inner product.
        ids: (n,) int64; default 0 to n - 1.

    Raises:
        ValueError: for shapes that do not fit or vectors that are not finite.

    Example:
        >>> index = DynamicIndex(torch.eye(3))
        >>> scores, rows = index.search(torch.tensor([[0.2, 0.9, 0.1]]), 2)
        >>> rows.tolist()
        [[1, 0]]
    """

    def __init__(self, vectors: Tensor, ids: Tensor | None = None) -> None:
        checks.matrix("vectors", vectors)
        checks.finite("vectors", vectors)
        self.vectors = vectors.detach()
        self.ids = torch.arange(len(vectors), device=vectors.device) if ids is None else _ids(ids, "vectors", vectors)
        self._by_id: tuple[Tensor, Tensor] | None = None  # sorted ids and their rows, made when first asked for

    def __len__(self) -> int:
        return len(self.vectors)

    @torch.no_grad()
    def search(self, queries: Tensor, k: int, *, exclude: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The k documents of highest inner product for every query, best first.

        Args:
            queries: (b, d) float; no gradient passes through.
            k: at most n.
            exclude: (b,) or (b, r) int64, ids that are never returned for a query; -1 fills up shorter rows.

        Returns:
            scores (b, k) float32 and rows (b, k) int64 of ``vectors``; ``ids[rows]`` are the documents' ids. A row
            that runs out of documents ends in score -inf and row -1.

        Raises:
            ValueError: for more documents than there are, or queries that are not finite.
        """
        checks.require(
            1 <= k <= len(self), f"k must be from 1 to {len(self)}, the documents of the index: got {k}; ask for fewer."
        )
        if exclude is not None:
            checks.same_length("exclude", exclude, "queries", queries)
        barred = None if exclude is None else self.rows_of(exclude)
        return top_k(queries.detach(), self.vectors, k, exclude=barred)

    @torch.no_grad()
    def rows_of(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """The rows that carry given ids: several where one passage stands in the index under one id more than once.

        Args:
            ids: (b,) or (b, r) int64; -1 is nobody's id, as is one that the index does not hold.

        Returns:
            CSR: indptr (b + 1,) int64 and rows (m,) int64, in the order of the ids.
        """
        if self._by_id is None:
            ordered, order = self.ids.sort(stable=True)
            self._by_id = ordered, order
        ordered, order = self._by_id
        table = ids.to(ordered.device).reshape(len(ids), -1)
        flat = table.reshape(-1)
        first, last = torch.searchsorted(ordered, flat), torch.searchsorted(ordered, flat, right=True)
        counts = torch.where(flat == NO_ID, 0, last - first)
        owner = torch.repeat_interleave(counts)
        nth = torch.arange(len(owner), device=flat.device) - (counts.cumsum(0) - counts)[owner]
        indptr = torch.zeros(len(table) + 1, dtype=torch.int64, device=flat.device)
        indptr[1:] = counts.view(table.shape).sum(1).cumsum(0)
        return indptr, order[first[owner] + nth]


def known_positive_log_weights(positive_ids: Tensor, ids: Tensor, *, dtype: torch.dtype = torch.float32) -> Tensor:
    """The log-weights that leave the known positives of every query out of its negatives.

    Args:
        positive_ids: (b,) or (b, r) int64, the known positives of each query; -1 fills up shorter rows.
        ids: (n,) or (b, n) int64, of the candidates, the same for all queries or each query's own.
        dtype: of the result.

    Returns:
        (b, n) float: -inf where the candidate is a known positive of the query, else 0.

    Raises:
        ValueError: for shapes that do not fit.

    Example:
        >>> known_positive_log_weights(torch.tensor([5, 6]), torch.tensor([4, 5]))
        tensor([[0., -inf],
                [0., 0.]])
    """
    positive_ids = positive_ids[:, None] if positive_ids.ndim == 1 else positive_ids
    checks.require(positive_ids.ndim == 2, f"positive_ids must be (b,) or (b, r): got {tuple(positive_ids.shape)}.")
    ids = ids[None] if ids.ndim == 1 else ids
    rows = len(positive_ids)
    checks.require(
        ids.ndim == 2 and len(ids) in (1, rows),
        f"ids must be (n,), or ({rows}, n) with one row per query: got {tuple(ids.shape)}.",
    )
    log_weights = torch.zeros(rows, ids.shape[1], dtype=dtype, device=ids.device)
    for column in positive_ids.to(ids.device).unbind(1):
        known = (ids == column[:, None]) & (column[:, None] != NO_ID)
        log_weights.masked_fill_(known, -torch.inf)
    return log_weights


def extra_block(
    queries: Tensor, vectors: Tensor, ids: Tensor, positive_ids: Tensor, *, metric: Metric = "cosine"
) -> Block:
    """Extra negatives as one more block of ``tamis.contrastive.info_nce``.

    Args:
        queries: (b, d) float; gradients pass to them.
        vectors: (n, d) float, of a queue, a bank or an index; none pass to these.
        ids: (n,) int64.
        positive_ids: (b,) or (b, r) int64, see ``known_positive_log_weights``.
        metric: "cosine" or "dot", that of the loss.

    Returns:
        similarities (b, n), before the temperature, and log-weights (b, n).

    Example:
        >>> queue = FeatureQueue(4, 2)
        >>> queue.push(torch.eye(2), torch.tensor([0, 1]))
        >>> scores, log_weights = extra_block(torch.eye(2), queue.vectors, queue.ids, torch.tensor([0, 1]))
        >>> scores.tolist(), log_weights.tolist()
        ([[1.0, 0.0], [0.0, 1.0]], [[-inf, 0.0], [0.0, -inf]])
    """
    checks.matrix("vectors", vectors, columns=queries.shape[1], allow_empty=True)
    ids = _ids(ids, "vectors", vectors)
    checks.same_length("positive_ids", positive_ids, "queries", queries)
    scores = similarity(queries, vectors.detach().to(queries), metric)
    return scores, known_positive_log_weights(positive_ids, ids.to(queries.device), dtype=scores.dtype)


def _ids(ids: Tensor, other: str, rows: Tensor) -> Tensor:
    checks.require(
        ids.ndim == 1 and ids.dtype == torch.int64, f"ids must be (n,) int64: got {tuple(ids.shape)} {ids.dtype}."
    )
    checks.same_length("ids", ids, other, rows)
    return ids
