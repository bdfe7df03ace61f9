"""Long texts in chunks: how the vectors of chunks become scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

from tamis import checks

Item = TypeVar("Item")

_BLOCK = 2**24  # scores of pairs of chunks at once


def split_chunks(items: Sequence[Item], chunk_len: int, stride: int | None = None) -> list[Sequence[Item]]:
    """Cut a text into windows.

    Args:
        items: words, tokens or paragraphs.
        chunk_len: items in a window.
        stride: from the start of a window to that of the next, at most chunk_len; by default chunk_len.

    Returns:
        windows, the last one may be shorter; one empty window for an empty text.

    Raises:
        ValueError: for a stride that would leave items out.

    Example:
        >>> split_chunks("abcdefg", 4, 3)
        ['abcd', 'defg']
    """
    checks.at_least("chunk_len", chunk_len, 1)
    step = chunk_len if stride is None else stride
    checks.between("stride", step, 1, chunk_len)
    last = max(0, -(-(len(items) - chunk_len) // step))
    return [items[place * step : place * step + chunk_len] for place in range(last + 1)]


class HierarchicalPooler(nn.Module):
    """Scores of long texts from the vectors of their chunks.

    "max" takes the best pair of chunks, "mean" the mean of a text's chunks, "attention" their mean weighed by a learned
    vector: ``softmax(chunks @ w)``. A text of one chunk scores alike in all.

    Args:
        kind: of the three.
        dimension: of the vectors, for "attention".

    Returns:
        scores (q, n) of texts.

    Raises:
        ValueError: for chunks of another shape, or a text without a chunk.

    Example:
        >>> queries, documents = torch.eye(2)[None], torch.tensor([[[0.1, 0.3], [0.9, 0.2]]])
        >>> scores = HierarchicalPooler("max")(queries, documents)
        >>> round(scores.item(), 2)
        0.9
    """

    def __init__(self, kind: Literal["max", "mean", "attention"] = "max", *, dimension: int | None = None) -> None:
        super().__init__()
        checks.one_of("kind", kind, ("max", "mean", "attention"))
        checks.require(
            kind != "attention" or dimension is not None, 'dimension must be given for "attention": of the vectors.'
        )
        self.kind = kind
        self.weight = nn.Parameter(torch.zeros(dimension or 0)) if kind == "attention" else None

    def pool(self, chunks: Tensor, mask: Tensor | None = None) -> Tensor:
        """One vector per text, for "mean" and "attention".

        Args:
            chunks: (b, c, d) float, vectors of chunks.
            mask: (b, c) bool, which of them are there.

        Returns:
            (b, d).

        Raises:
            ValueError: for "max", which has no such vector.
        """
        checks.require(self.kind != "max", 'one vector per text needs "mean" or "attention": "max" compares chunks.')
        there = self._mask(chunks, mask)
        logits = chunks.new_zeros(chunks.shape[:2]) if self.weight is None else chunks @ self.weight.to(chunks.dtype)
        shares = logits.masked_fill(~there, -torch.inf).softmax(1)
        found: Tensor = torch.einsum("bc,bcd->bd", shares, chunks.masked_fill(~there[..., None], 0.0))
        return found

    def forward(
        self,
        queries: Tensor,
        documents: Tensor,
        query_mask: Tensor | None = None,
        document_mask: Tensor | None = None,
    ) -> Tensor:
        """Inner products of texts.

        Args:
            queries: (q, c, d) float, chunks of each query.
            documents: (n, e, d) float, chunks of each document.
            query_mask: (q, c) bool.
            document_mask: (n, e) bool.

        Returns:
            (q, n) float.
        """
        if self.kind != "max":
            return self.pool(queries, query_mask) @ self.pool(documents, document_mask).T
        own, other = self._mask(queries, query_mask), self._mask(documents, document_mask)
        flat, absent = documents.flatten(0, 1), ~other.flatten()
        step = max(1, _BLOCK // (queries.shape[1] * len(flat)))
        found = []
        for start in range(0, len(queries), step):
            part = queries[start : start + step]
            scores = (part.flatten(0, 1) @ flat.T).masked_fill(absent, -torch.inf)
            best = scores.view(len(part), part.shape[1], len(documents), -1).amax(3)
            found.append(best.masked_fill(~own[start : start + step, :, None], -torch.inf).amax(1))
        return torch.cat(found)

    def _mask(self, chunks: Tensor, mask: Tensor | None) -> Tensor:
        checks.require(
            chunks.ndim == 3 and chunks.numel() > 0,
            f"chunks must be (texts, chunks, dimensions): got shape {tuple(chunks.shape)}.",
        )
        if mask is None:
            return torch.ones(chunks.shape[:2], dtype=torch.bool, device=chunks.device)
        checks.require(
            mask.shape == chunks.shape[:2],
            f"mask must be {tuple(chunks.shape[:2])}, one entry per chunk: got {tuple(mask.shape)}.",
        )
        there = mask.to(chunks.device, torch.bool)
        checks.require(bool(there.any(1).all()), "mask must leave every text a chunk.")
        return there
