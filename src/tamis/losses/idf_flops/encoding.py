"""Sparse documents from token logits, sparse queries from a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from tamis import checks

Array = np.ndarray[Any, Any]
Kind = TypeVar("Kind", Array, Tensor)
Activation = Literal["log1p", "log1p_log1p"]


def splade_pool(
    logits: Tensor, mask: Tensor, *, activation: Activation = "log1p", prune_ratio: float | None = None
) -> Tensor:
    """Term weights of documents: the largest logit of each term over tokens, without the negative part, dampened.

    ``w_j = log(1 + max(0, max_t x_tj))``, the document encoder of Geng et al. (arXiv:2411.04403). Special tokens of the
    vocabulary are left as they come: drop them when writing an index.

    Args:
        logits: (n, t, v) float, a masked language model's logits over the vocabulary for each token.
        mask: (n, t) bool or int, 1 for tokens and 0 for padding, whose logits count as 0.
        activation: "log1p", or "log1p_log1p", the logarithm twice (arXiv:2504.14839).
        prune_ratio: keep weights above this share of the document's largest; None keeps all.

    Returns:
        (n, v) weights, not negative.

    Raises:
        ValueError: shapes that do not fit, no tokens, unknown activation, prune_ratio outside 0 to 1.

    Example:
        >>> logits = torch.tensor([[[0.0, 1.0, -1.0, 5.0]]])
        >>> splade_pool(logits, torch.ones(1, 1))
        tensor([[0.0000, 0.6931, 0.0000, 1.7918]])
    """
    checks.one_of("activation", activation, ("log1p", "log1p_log1p"))
    checks.require(
        logits.ndim == 3 and logits.shape[1] > 0,
        f"logits must be (n, t, v) with at least one token: got shape {tuple(logits.shape)}.",
    )
    checks.require(
        mask.shape == logits.shape[:2],
        f"mask must be {tuple(logits.shape[:2])}, one entry per token: got shape {tuple(mask.shape)}.",
    )
    weights = torch.relu(logits.masked_fill(~mask.bool()[:, :, None], 0.0).max(1).values).log1p()
    if activation == "log1p_log1p":
        weights = weights.log1p()
    if prune_ratio is None:
        return weights
    checks.between("prune_ratio", prune_ratio, 0.0, 1.0)
    return torch.where(weights > prune_ratio * weights.detach().amax(1, keepdim=True), weights, 0.0)


class IDFQueryEncoder(nn.Module):
    """Queries without a model: each token that occurs has its inverse document frequency, once.

    The query side of Geng et al. (arXiv:2411.04403), ``q_j = idf_j 1[j in query]``; the score of a document is
    ``q @ w``. When not to use: where queries and documents share few words and latency does not matter, a query encoder
    expands queries, and this does not.

    Args:
        idf: (v,) float, by token id; or a mapping from id to idf, the rest being unseen.
        special_ids: ids that are never part of a query.
        vocab_size: v, needed with a mapping.
        unseen: the idf of tokens that a mapping lacks: "one", as the official code has it, or "max", the largest given,
            since a token that no document had is rare.
        trainable: learn the table; negative entries then count as 0.

    Raises:
        ValueError: negative or NaN idf, ids outside the vocabulary, an empty table, a mapping without vocab_size.

    Example:
        >>> encode = IDFQueryEncoder(torch.tensor([0.5, 2.0, 4.0]), special_ids=[2])
        >>> encode(torch.tensor([[0, 1, 1, 2]]))
        tensor([[0.5000, 2.0000, 0.0000]])
    """

    idf: Tensor
    ordinary: Tensor

    def __init__(
        self,
        idf: Tensor | Mapping[int, float],
        special_ids: Sequence[int] = (),
        *,
        vocab_size: int | None = None,
        unseen: Literal["one", "max"] = "one",
        trainable: bool = False,
    ) -> None:
        super().__init__()
        checks.one_of("unseen", unseen, ("one", "max"))
        table = _table(idf, vocab_size, unseen)
        ids = torch.tensor([int(i) for i in special_ids], dtype=torch.int64)
        _in_vocabulary("special_ids", ids, len(table))
        ordinary = torch.ones(len(table), dtype=torch.bool)
        ordinary[ids] = False
        if trainable:
            self.idf = nn.Parameter(table)
        else:
            self.register_buffer("idf", table)
        self.register_buffer("ordinary", ordinary)

    def forward(self, input_ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Queries as sparse vectors.

        Args:
            input_ids: (n, t) int64, the tokens of each query; repeated ones count once.
            mask: (n, t) bool or int, 0 for padding; None takes all.

        Returns:
            (n, v) in the dtype of the table.

        Raises:
            ValueError: ids outside the vocabulary, shapes that do not fit.
        """
        checks.require(
            input_ids.ndim == 2 and input_ids.dtype == torch.int64,
            f"input_ids must be (n, t) int64: got {tuple(input_ids.shape)} {input_ids.dtype}.",
        )
        _in_vocabulary("input_ids", input_ids, len(self.idf))
        real = torch.ones_like(input_ids, dtype=torch.bool) if mask is None else mask.bool()
        checks.same_shape("mask", real, "input_ids", input_ids)
        present = torch.zeros(len(input_ids), len(self.idf), dtype=torch.int32, device=input_ids.device)
        present = present.scatter_reduce(1, input_ids, real.int(), "amax")
        return torch.relu(self.idf) * (present.bool() & self.ordinary)


def bm25_idf(df: Kind, n_docs: int) -> Kind:
    """Inverse document frequencies as BM25 has them: ``log(1 + (N - df + 0.5) / (df + 0.5))``, never negative.

    The table of the queries of Geng et al. (arXiv:2411.04403).

    Args:
        df: (v,) int or float, in how many documents each term occurs.
        n_docs: N, how many documents there are.

    Returns:
        (v,) float: float64 for integers, else in the dtype of ``df``.

    Raises:
        ValueError: df below 0 or above n_docs, no terms.

    Example:
        >>> bm25_idf(np.array([1, 10, 500]), 1000).round(4)
        array([6.5033, 4.5574, 0.6931])
    """
    checks.at_least("n_docs", n_docs, 1)
    checks.require(df.ndim == 1 and len(df) > 0, f"df must be (v,) with v > 0: got shape {tuple(df.shape)}.")
    bad = int((~((df >= 0) & (df <= n_docs))).sum())
    checks.require(bad == 0, f"df must lie between 0 and n_docs = {n_docs}: {bad} of {len(df)} entries do not.")
    if isinstance(df, Tensor):
        counts = df if df.is_floating_point() else df.double()
        return torch.log1p((n_docs - counts + 0.5) / (counts + 0.5))
    floats = df if df.dtype.kind == "f" else df.astype(np.float64)
    found: Array = np.log1p((n_docs - floats + 0.5) / (floats + 0.5))
    return found


def _table(idf: Tensor | Mapping[int, float], vocab_size: int | None, unseen: str) -> Tensor:
    """The table (v,), a copy."""
    if isinstance(idf, Tensor):
        checks.require(
            idf.ndim == 1 and len(idf) > 0 and idf.is_floating_point(),
            f"idf must be (v,) float with v > 0: got {tuple(idf.shape)} {idf.dtype}.",
        )
        checks.require(
            vocab_size in (None, len(idf)), f"vocab_size must be the length of idf, {len(idf)}: got {vocab_size}."
        )
        table = idf.detach().clone()
    else:
        checks.require(
            vocab_size is not None and vocab_size > 0 and len(idf) > 0,
            f"vocab_size must be given with a mapping that is not empty: got {vocab_size!r} and {len(idf)} entries.",
        )
        table = torch.tensor([1.0 if unseen == "one" else float(max(idf.values()))]).repeat(int(vocab_size or 0))
        ids = torch.tensor(list(idf), dtype=torch.int64)
        _in_vocabulary("idf", ids, len(table))
        table[ids] = torch.tensor(list(idf.values()), dtype=table.dtype)
    bad = int((~(table.isfinite() & (table >= 0))).sum())
    checks.require(bad == 0, f"idf must be finite and not negative: {bad} of {len(table)} entries are not.")
    return table


def _in_vocabulary(name: str, ids: Tensor, size: int) -> None:
    low, high = (int(ids.min()), int(ids.max())) if ids.numel() else (0, 0)
    checks.require(
        0 <= low and high < size, f"{name} must hold ids in 0..{size - 1}, the vocabulary: got {low}..{high}."
    )
