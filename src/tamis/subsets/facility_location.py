"""Facility location: rows that are, on the average, most similar to all rows.

The value of a set is the sum over all rows of the similarity to the most similar row of the set. It is submodular: what
a row adds can only fall as the set grows, so the greedy choice is within 1 - 1/e of the best, and a gain that was
computed earlier is an upper bound now. Lazy greedy looks only at rows whose old bound could still win, here many at a
time. Similarities come from embeddings, are made block by block where they do not fit, or are given.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from tamis import checks
from tamis.encoders import unit_rows
from tamis.method import Method
from tamis.results import Selection, as_array, selection_like

METHOD = Method(
    title="Facility location by lazy greedy selection (Minoux 1978; Nemhauser et al. 1978)",
    paper="staple",
    year=1978,
    claim="Greedy rows represent all rows better than random ones of the same number, and teach more.",
    peers=("apricot.FacilityLocationSelection", "submodlib.FacilityLocationFunction"),
    deviations=("ties go to the lower row", "similarities below zero count as zero"),
)

Array = np.ndarray[Any, Any]
Rows = Array | torch.Tensor
DEFAULT_MEMORY = 1_073_741_824
_BATCH = 32  # rows whose gains are made afresh at once


def facility_location_greedy(
    embeddings: Rows | None = None,
    *,
    budget: float,
    similarities: Rows | None = None,
    log_weights: Rows | None = None,
    max_memory: int = DEFAULT_MEMORY,
) -> Selection:
    """Take the row that adds most, until the budget is met.

    ``f(S) = sum_i max(0, max_{j in S} s_ij)`` with the cosine for s. When not to use: to keep what is rare; the sum is
    about the many. ``k_center_greedy`` serves the worst-off row.

    Args:
        embeddings: (n, d) float, none zero.
        budget: rows to take, a count, or a share of the rows that may be taken.
        similarities: (n, n) float, symmetric, instead of embeddings.
        log_weights: (n,) float: rows at ``-inf`` may not be taken, and still want to be represented; finite ones are
            passed on.
        max_memory: bytes for similarities; where all do not fit, they are made again for each row that is looked at.

    Returns:
        indices (m,), in the order of choice; scores (n,), the gain of a taken row, and for the others a bound of what
        it would add; log_weights (n,); reasons of the dropped rows: row, rule, rival (the taken row that represents
        it), score (their similarity). Tensors for a tensor.

    Raises:
        ValueError: for no rows, both or neither of embeddings and similarities, a matrix that is not square, values
            that are not finite, or a budget out of range.

    Example:
        >>> rows = np.array([[1.0, 0.0], [0.9, 0.1], [0.8, 0.2], [0.0, 1.0]])
        >>> facility_location_greedy(rows, budget=2).indices.tolist()
        [2, 3]
    """
    checks.require(
        (embeddings is None) != (similarities is None), "embeddings or similarities must be given, and not both."
    )
    source = embeddings if embeddings is not None else similarities
    assert source is not None
    columns = _Columns(embeddings, similarities, max_memory)
    n = columns.n
    before = np.zeros(n) if log_weights is None else as_array(log_weights).astype(np.float64)
    checks.require(len(before) == n, f"log_weights must have one entry per row: {n} rows, {len(before)}.")
    able = ~np.isneginf(before)
    count = checks.budget_count(budget, int(able.sum()))

    reached, rival = np.zeros(n, dtype=np.float32), np.full(n, -1)
    bound = np.where(able, columns.totals(), -np.inf)
    taken: list[int] = []
    fresh = able.copy()  # whose bound is the gain as things stand
    while len(taken) < count:
        best = int(bound.argmax())
        while not fresh[best]:
            # The rows with the highest old bounds: one of them is the answer, or beats the rest with its new gain.
            stale = np.flatnonzero(~fresh & (bound > -np.inf))
            part = stale[np.argpartition(-bound[stale], min(_BATCH, len(stale)) - 1)[:_BATCH]]
            bound[part] = np.maximum(columns.of(part) - reached, 0).sum(1, dtype=np.float64)
            fresh[part] = True
            best = int(bound.argmax())
        column = columns.of(np.array([best]))[0]
        closer = column > reached
        rival[closer] = best
        np.maximum(reached, column, out=reached)
        taken.append(best)
        columns.gains[best] = bound[best]
        bound[best] = -np.inf
        fresh[:] = False
    kept = np.zeros(n, dtype=bool)
    kept[taken] = True
    dropped = np.flatnonzero(~kept)
    found = Selection(
        np.array(taken, dtype=np.int64),
        np.where(kept, columns.gains, np.where(able, bound, np.nan)),
        np.where(kept, before, -np.inf),
        {
            "row": dropped,
            "rule": np.where(able[dropped], np.array("represented", dtype=object), "dropped before"),
            "rival": rival[dropped],
            "score": reached[dropped].astype(np.float64),
        },
    )
    return selection_like(found, source)


class _Columns:
    """Similarities of some rows with all rows, none below zero: held whole where they fit, else made when asked for."""

    def __init__(self, embeddings: Rows | None, similarities: Rows | None, max_memory: int) -> None:
        checks.positive("max_memory", max_memory)
        self._rows: Array | None = None
        self._whole: Array | None = None
        if similarities is not None:
            checks.matrix("similarities", similarities)
            checks.finite("similarities", similarities)
            given = as_array(similarities)
            checks.require(
                given.shape[0] == given.shape[1], f"similarities must be square: got shape {tuple(given.shape)}."
            )
            given = np.asarray(given, dtype=np.float32)
            self._whole = given if float(given.min()) >= 0 else np.maximum(given, 0)
            self.n = len(given)
        else:
            assert embeddings is not None
            checks.matrix("embeddings", embeddings)
            self._rows = np.ascontiguousarray(unit_rows(as_array(embeddings), "embeddings"), dtype=np.float32)
            self.n = len(self._rows)
            if 4 * self.n**2 <= max_memory:
                self._whole = self._made(slice(None))
        self._step = max(1, max_memory // (8 * self.n))
        self.gains = np.zeros(self.n)

    def of(self, rows: Array) -> Array:
        """(r, n) float32."""
        return self._whole[rows] if self._whole is not None else self._made(rows)

    def totals(self) -> Array:
        """(n,) float64, what each row is worth alone."""
        blocks = [slice(start, start + self._step) for start in range(0, self.n, self._step)]
        parts = (self._whole[b] if self._whole is not None else self._made(b) for b in blocks)
        return np.concatenate([part.sum(1, dtype=np.float64) for part in parts])

    def _made(self, rows: Any) -> Array:
        assert self._rows is not None
        products = torch.from_numpy(self._rows[rows]) @ torch.from_numpy(self._rows).T
        made: Array = products.clamp_(min=0).numpy()
        return made
