"""What learns the two scores: tables of users and items, or a head on embeddings; and uniform negatives."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from tamis import checks
from tamis.contrastive import similarity
from tamis.randomness import Seed, as_generator, torch_generator

Array = np.ndarray[Any, Any]
Kind = TypeVar("Kind", Array, Tensor)


class NoisyNegativeModel(nn.Module):
    """Matrix factorisation with a second pair of tables for the noise.

    The model of arXiv:2007.07204: R = U_u . V_i and g = P_u . Q_i, with its start: U, V uniform in [0, 1) over
    sqrt(dim), P and Q uniform in [0, 5) and (-5, 0] over sqrt(noise_dim), so that g begins near -6 and hardly any
    positive counts as unrecorded.

    Args:
        n_users: users u.
        n_items: items i.
        dim: columns of U and V.
        noise_dim: columns of P and Q.
        noise_start: the width 5 of the noise tables' start.
        seed: seed or torch generator of the start.

    Raises:
        ValueError: for sizes below 1.

    Example:
        >>> model = NoisyNegativeModel(3, 4)
        >>> scores, noise = model(torch.tensor([0, 2]), torch.tensor([[0, 1, 2], [1, 2, 3]]))
        >>> scores.shape, -9 < noise.mean().item() < -4
        (torch.Size([2, 3]), True)
    """

    def __init__(
        self,
        n_users: int,
        n_items: int,
        *,
        dim: int = 50,
        noise_dim: int = 50,
        noise_start: float = 5.0,
        seed: int | torch.Generator = 0,
    ) -> None:
        super().__init__()
        for name, value in (("n_users", n_users), ("n_items", n_items), ("dim", dim), ("noise_dim", noise_dim)):
            checks.at_least(name, value, 1)
        generator = torch_generator(seed)

        def table(rows: int, columns: int, width: float) -> nn.Parameter:
            return nn.Parameter(torch.rand(rows, columns, generator=generator) * width / math.sqrt(columns))

        self.users, self.items = table(n_users, dim, 1.0), table(n_items, dim, 1.0)
        self.noise_users, self.noise_items = (
            table(n_users, noise_dim, noise_start),
            table(n_items, noise_dim, -noise_start),
        )

    def forward(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """Preference and noise of pairs of users and items.

        Args:
            users: (b,) int64.
            items: (b,) int64, one item each, or (b, n), n items each.

        Returns:
            R and g, both of the shape of items.

        Raises:
            ValueError: when items do not have one row per user.
        """
        checks.require(users.ndim == 1, f"users must be (b,): got shape {tuple(users.shape)}.")
        checks.require(items.ndim in (1, 2), f"items must be (b,) or (b, n): got shape {tuple(items.shape)}.")
        checks.same_length("items", items, "users", users)
        return _pair_dots(self.users[users], self.items, items), _pair_dots(
            self.noise_users[users], self.noise_items, items
        )

    def preferences(self, users: Tensor) -> Tensor:
        """Preferences of users for all items, to rank by.

        Args:
            users: (b,) int64.

        Returns:
            (b, n_items) float.
        """
        return self.users[users] @ self.items.T

    def parameter_groups(self, preference_decay: float, noise_decay: float) -> list[dict[str, Any]]:
        """Groups for ``torch.optim.SGD`` with the paper's two weight decays.

        SGD on whole tables is the official update ``X += eta (dX - lambda X)`` when the loss is a sum over pairs; with
        a mean divide both decays by the number of pairs in a batch and multiply eta by it.

        Args:
            preference_decay: lambda_r, of U and V.
            noise_decay: lambda_phi, of P and Q.

        Returns:
            two groups.
        """
        return [
            {"params": [self.users, self.items], "weight_decay": preference_decay},
            {"params": [self.noise_users, self.noise_items], "weight_decay": noise_decay},
        ]


class NoiseHead(nn.Module):
    """Noise scores for texts: a bilinear form of low rank on embeddings, plus a constant.

    The product P_u . Q_i of arXiv:2007.07204 with linear maps of embeddings in place of the tables. The embeddings are
    detached, so the noise learns and the encoder does not move to please it.

    Args:
        query_dim: columns of the queries.
        passage_dim: columns of the passages.
        dim: rank of the form.
        start: the constant; -6.25 is where the paper's tables begin on average.
        seed: seed or torch generator of the start.

    Raises:
        ValueError: for sizes below 1.

    Example:
        >>> NoiseHead(8, 8)(torch.zeros(2, 8), torch.zeros(3, 8))[0].tolist()
        [-6.25, -6.25, -6.25]
    """

    def __init__(
        self,
        query_dim: int,
        passage_dim: int,
        *,
        dim: int = 50,
        start: float = -6.25,
        seed: int | torch.Generator = 0,
    ) -> None:
        super().__init__()
        for name, value in (("query_dim", query_dim), ("passage_dim", passage_dim), ("dim", dim)):
            checks.at_least(name, value, 1)
        generator = torch_generator(seed)
        self.query_map, self.passage_map = (
            nn.Parameter(torch.randn(size, dim, generator=generator) / math.sqrt(size))
            for size in (query_dim, passage_dim)
        )
        self.constant = nn.Parameter(torch.tensor(float(start)))

    def forward(self, queries: Tensor, passages: Tensor) -> Tensor:
        """The noise score g of every query with every passage, or with its own.

        Args:
            queries: (b, query_dim) float.
            passages: (m, passage_dim) float, or (b, n, passage_dim), passages that belong to one query each.

        Returns:
            (b, m) or (b, n).
        """
        left, right = queries.detach() @ self.query_map, passages.detach() @ self.passage_map
        return similarity(left, right, "dot") + self.constant


class UniformNegativeSampler:
    """Draws items uniformly among those that are no recorded positive of the user, with replacement.

    The sampler of BPR and BPO (arXiv:2007.07204). Draws a rank among the user's free items and finds the item by one
    binary search: what rejection gives, at a cost that does not grow with the number of positives.

    Args:
        user_positives: the items of each user: a sequence of sequences of ints, or CSR as a tuple of arrays
            (indptr (n_users + 1,), items).
        n_items: items 0, ..., n_items - 1.
        n_negatives: items per draw.

    Raises:
        ValueError: for items out of range, a malformed CSR, or a user whose positives are all items.

    Example:
        >>> sampler = UniformNegativeSampler([[0, 2], [1]], 3, n_negatives=2)
        >>> sampler(np.array([0, 0]), seed=0)
        array([[1, 1],
               [1, 1]])
    """

    def __init__(
        self, user_positives: Sequence[Sequence[int]] | tuple[Array, Array], n_items: int, *, n_negatives: int = 4
    ) -> None:
        checks.at_least("n_items", n_items, 1)
        checks.at_least("n_negatives", n_negatives, 1)
        if isinstance(user_positives, tuple):
            indptr, items = np.asarray(user_positives[0]), np.asarray(user_positives[1])
            lengths = np.diff(indptr)
            checks.require(
                len(indptr) > 0 and indptr[0] == 0 and indptr[-1] == len(items) and bool((lengths >= 0).all()),
                f"user_positives as CSR must go from 0 to its {len(items)} items in steps that are not negative.",
            )
        else:
            lengths = np.array([len(items) for items in user_positives], dtype=np.int64)
            items = np.array(list(chain.from_iterable(user_positives)))
        items = items if len(items) else items.astype(np.int64)
        checks.require(items.dtype.kind in "iu", f"user_positives must hold integers, the items: got {items.dtype}.")
        checks.require(len(lengths) > 0, "user_positives must have at least one user: got none.")
        _check_range("user_positives", items, n_items)
        users, items = np.divmod(
            np.unique(np.repeat(np.arange(len(lengths)), lengths) * n_items + items.astype(np.int64)), n_items
        )
        self.n_items, self.n_negatives = n_items, n_negatives
        counts = np.bincount(users, minlength=len(lengths))
        self._first = np.concatenate([[0], np.cumsum(counts)])
        self._free = n_items - counts
        full = np.flatnonzero(self._free == 0)
        checks.require(
            len(full) == 0,
            f"user_positives must leave every user an item: {len(full)} users have all {n_items}, the first is "
            f"{full[0] if len(full) else 0}; leave them out.",
        )
        # How many free items of its user stand before each positive; sorted within a user, and so over all.
        before = items - (np.arange(len(items)) - self._first[users])
        self._keys = users * (n_items + 1) + before

    def __call__(self, users: Kind, *, seed: Seed) -> Kind:
        """Negatives for a batch of users.

        Args:
            users: (b,) int.
            seed: seed or generator; a generator advances, so give every batch the same one.

        Returns:
            (b, n_negatives) int64, array or tensor like users.

        Raises:
            ValueError: for users that are not known.
        """
        rows = users.cpu().numpy() if isinstance(users, Tensor) else np.asarray(users)
        checks.require(rows.ndim == 1, f"users must be (b,): got shape {rows.shape}.")
        _check_range("users", rows, len(self._free))
        shape = (len(rows), self.n_negatives)
        ranks = as_generator(seed).integers(self._free[rows][:, None], size=shape)
        passed = np.searchsorted(self._keys, rows[:, None] * (self.n_items + 1) + ranks, side="right")
        items: Array = ranks + passed - self._first[rows][:, None]
        return torch.from_numpy(items).to(users.device) if isinstance(users, Tensor) else items


def _pair_dots(left: Tensor, table: Tensor, items: Tensor) -> Tensor:
    """Rows of ``left`` (b, d) with rows of a table: by columns of items, so that nothing of size (b, n, d) is built."""
    if items.ndim == 1:
        return (left * table[items]).sum(1)
    return torch.stack([(left * table[column]).sum(1) for column in items.unbind(1)], dim=1)


def _check_range(name: str, values: Array, size: int) -> None:
    if len(values):
        low, high = values.min(), values.max()
        checks.require(low >= 0 and high < size, f"{name} must lie in 0..{size - 1}: got {low}..{high}.")
