"""Pairs of a query by the teacher's margin: bins of equal width, and draws that are even over them."""

from __future__ import annotations

from typing import Any

import numpy as np

from tamis import checks
from tamis.randomness import Seed, as_generator

Array = np.ndarray[Any, Any]


class MarginBins:
    """The (positive, negative) pairs of every query in bins of equal width between its least and largest margin.

    The balanced half of TAS-Balanced (arXiv:2104.06967, section 3.2). Drawing a bin and then a pair in it moves the
    mean margin towards the middle of the range: down where most negatives are easy, up where most are hard.

    Args:
        margins: (p,) float, the teacher's score of the positive less that of the negative, of every pair.
        query_ids: (p,) int, the query of each pair, in any order.
        n_bins: bins per query (paper: 10).
        min_pairs: queries with fewer pairs are left out, as in the official loader; 1 keeps all.

    Raises:
        ValueError: for no pairs, margins that are not finite, sizes below 1, or when no query has pairs enough.

    Example:
        >>> pairs = MarginBins(np.array([0.0, 1.0, 2.0, 3.0, 9.0, 10.0]), np.zeros(6, dtype=int))
        >>> pairs.bins.tolist(), pairs.probabilities().tolist()
        ([0, 1, 2, 3, 9, 9], [0.2, 0.2, 0.2, 0.2, 0.1, 0.1])
    """

    def __init__(self, margins: Array, query_ids: Array, n_bins: int = 10, *, min_pairs: int = 2) -> None:
        margins, query_ids = np.asarray(margins), np.asarray(query_ids)
        checks.require(
            margins.ndim == 1 and len(margins) > 0, f"margins must be (p,) and not empty: got shape {margins.shape}."
        )
        checks.finite("margins", margins)
        checks.same_length("query_ids", query_ids, "margins", margins)
        if not np.issubdtype(query_ids.dtype, np.integer):
            raise TypeError(f"query_ids must be integers: got {query_ids.dtype}; number the queries first.")
        checks.at_least("n_bins", n_bins, 1)
        checks.at_least("min_pairs", min_pairs, 1)
        queries, owner, counts = np.unique(query_ids, return_inverse=True, return_counts=True)
        enough = counts >= min_pairs
        checks.require(
            bool(enough.any()),
            f"query_ids must give some query at least {min_pairs} pairs: the most is {counts.max()}; lower min_pairs.",
        )
        self.n_bins = n_bins
        self.bins = _bins(margins.astype(np.float64), owner, len(queries), n_bins)
        self.queries = queries[enough]
        self.left_out = queries[~enough]

        # Pairs side by side by query and bin; a group is a bin that is not empty.
        key = owner * n_bins + self.bins
        self._pairs = np.argsort(key, kind="stable")
        self._pairs = self._pairs[enough[owner[self._pairs]]]
        groups, self._first, self._size = np.unique(key[self._pairs], return_index=True, return_counts=True)
        group_owner = (np.cumsum(enough) - 1)[groups // n_bins]
        self._bin_count = np.bincount(group_owner, minlength=len(self.queries))
        self._first_group = np.cumsum(self._bin_count) - self._bin_count
        self._pair_count = counts[enough]
        self._first_pair = np.cumsum(self._pair_count) - self._pair_count

    def knows(self, query_ids: Array) -> Array:
        """Which queries have pairs to draw; ``usable`` of ``TopicBatchSampler`` takes it.

        Args:
            query_ids: (b,) int.

        Returns:
            (b,) bool.
        """
        found: Array = np.isin(np.asarray(query_ids), self.queries)
        return found

    def draw(self, query_ids: Array, seed: Seed, *, balanced: bool = True) -> Array:
        """One pair for each query: a bin evenly among those that are not empty, then a pair evenly inside it.

        Args:
            query_ids: (b,) int, or one int; a query may come more than once.
            seed: seed or generator.
            balanced: False draws evenly over the query's pairs, without bins.

        Returns:
            (b,) int64 rows of ``margins``, or () for one query.

        Raises:
            ValueError: for a query without pairs, or one that was left out.

        Example:
            >>> pairs = MarginBins(np.array([0.0, 1.0, 5.0, 6.0]), np.array([7, 7, 8, 8]))
            >>> pairs.draw(np.array([8, 7, 8]), seed=0).tolist()
            [3, 0, 2]
        """
        asked = np.asarray(query_ids)
        place = np.searchsorted(self.queries, asked).clip(max=len(self.queries) - 1)
        unknown = np.flatnonzero(self.queries[place] != asked)
        checks.require(
            len(unknown) == 0,
            f"query_ids must be queries with pairs enough: {len(unknown)} are not, the first is "
            f"{asked.ravel()[unknown[0]] if len(unknown) else None}; leave them out with knows().",
        )
        rng = as_generator(seed)
        first, size = self._first_pair[place], self._pair_count[place]
        if balanced:
            group = self._first_group[place] + (rng.random(asked.shape) * self._bin_count[place]).astype(np.int64)
            first, size = self._first[group], self._size[group]
        rows: Array = self._pairs[first + (rng.random(asked.shape) * size).astype(np.int64)]
        return rows

    def probabilities(self) -> Array:
        """The probability of each pair when its query draws balanced.

        Returns:
            (p,) float64, 0 for pairs of queries that were left out.
        """
        groups = np.repeat(np.arange(len(self._size)), self._size)
        owner = np.repeat(np.arange(len(self.queries)), self._bin_count)
        probability = np.zeros(len(self.bins))
        probability[self._pairs] = 1 / (self._bin_count[owner[groups]] * self._size[groups])
        return probability


def _bins(margins: Array, owner: Array, queries: int, n_bins: int) -> Array:
    """(p,) int64: floor of the place in the query's range, the largest margin in the last bin, no range in bin 0."""
    low, high = np.full(queries, np.inf), np.full(queries, -np.inf)
    np.minimum.at(low, owner, margins)
    np.maximum.at(high, owner, margins)
    width = (high - low)[owner]
    place = np.divide((margins - low[owner]) * n_bins, width, out=np.zeros_like(margins), where=width > 0)
    bins: Array = np.minimum(place.astype(np.int64), n_bins - 1)
    return bins
