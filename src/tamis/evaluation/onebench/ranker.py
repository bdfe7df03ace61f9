"""Models by strength, with intervals from resampled samples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tamis import checks
from tamis.evaluation.onebench.pairwise import Array, Tie, oriented, to_pairwise
from tamis.plackett_luce import plackett_luce, strong_components

_BLOCK = 2**22  # wins of resampled tables at once


class ModelRanker:
    """Rank models from a sparse table of results in any metrics (sections 3.2 and 3.3 of arXiv:2412.06745).

    After ``fit``: ``scores_`` (m,) strengths with mean 0, ``ranking_`` (m,) models best first, ``wins_`` (m, m),
    ``models_`` names. Not for one dense table of one metric: there the mean of the scores says the same.

    Args:
        tie: as in ``to_pairwise``.
        alpha: as in ``tamis.plackett_luce``; above 0 also ranks models that no chain of wins connects.

    Returns:
        an estimator; call ``fit``.

    Raises:
        ValueError: for a model without results, or models that are not connected.

    Example:
        >>> table = np.array([[3, 2, 9, 1], [1, 3, 8, np.nan], [2, 1, 9, 0]])
        >>> ranker = ModelRanker().fit(table, models=["a", "b", "c"])
        >>> [ranker.models_[i] for i in ranker.ranking_], ranker.scores_.round(3).tolist()
        (['a', 'c', 'b'], [0.754, -0.491, -0.262])
    """

    def __init__(self, *, tie: Tie = "both", alpha: float = 0.0) -> None:
        checks.one_of("tie", tie, ("both", "half", "drop"))
        checks.at_least("alpha", alpha, 0.0)
        self.tie, self.alpha = tie, alpha
        self.models_: list[str] = []
        self.scores_: Array = np.empty(0)
        self.ranking_: Array = np.empty(0, dtype=np.int64)
        self.wins_: Array = np.empty((0, 0))

    def fit(
        self,
        values: Array | Sequence[Sequence[float]],
        *,
        models: Sequence[str] | None = None,
        higher_is_better: bool | Array | Sequence[bool] = True,
    ) -> ModelRanker:
        """Compare within samples, and find the strengths.

        Args:
            values: (m, s) float, NaN where a model did not run; ``results_table`` makes it of a long table.
            models: names for messages and ``models_``.
            higher_is_better: one for all samples, or (s,) bool.

        Returns:
            itself.
        """
        table = oriented(values, higher_is_better)
        self.models_ = [str(i) for i in range(len(table))] if models is None else [str(name) for name in models]
        checks.same_length("models", self.models_, "values", table)
        ran = np.isfinite(table)
        idle = np.flatnonzero(~ran.any(1))
        checks.require(len(idle) == 0, f"every model must have a result: {self._named(idle)} has none; leave it out.")
        self.wins_ = to_pairwise(table, tie=self.tie)
        if self.alpha == 0:
            self._require_connected()
        self.scores_ = plackett_luce(wins=self.wins_, alpha=self.alpha)
        self.ranking_ = np.argsort(-self.scores_, kind="stable")
        self._table = table
        return self

    def resample(self, resamples: int = 200, *, seed: int = 0) -> Array:
        """Strengths when samples are drawn anew, with replacement.

        Where a draw leaves models unconnected, a hundredth of a game between all pairs is added to it.

        Args:
            resamples: draws.
            seed: of the draws.

        Returns:
            (resamples, m) float64.

        Raises:
            ValueError: before ``fit``.
        """
        checks.require(len(self.models_) > 0, "nothing is ranked yet: call fit first.")
        checks.at_least("resamples", resamples, 1)
        rng, samples = np.random.default_rng(seed), self._table.shape[1]
        n, found = len(self.models_), []
        step = max(1, _BLOCK // max(samples, n * n))
        for start in range(0, resamples, step):
            count = min(step, resamples - start)
            drawn = rng.multinomial(samples, np.full(samples, 1 / samples), size=count).T
            for wins in np.moveaxis(to_pairwise(self._table, tie=self.tie, weights=drawn), 2, 0):
                loose = self.alpha == 0 and len(strong_components(wins > 0)) > 1
                found.append(plackett_luce(wins=wins + 0.01 * loose, alpha=self.alpha))
        return np.array(found)

    def confidence_interval(
        self, confidence: float = 0.95, *, resamples: int = 200, seed: int = 0
    ) -> tuple[Array, Array]:
        """Percentile intervals of the strengths.

        Args:
            confidence: share of the draws inside.
            resamples: draws.
            seed: of the draws.

        Returns:
            low (m,) and high (m,).
        """
        checks.require(0 < confidence < 1, f"confidence must lie between 0 and 1: got {confidence!r}.")
        draws = self.resample(resamples, seed=seed)
        low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
        return low, high

    def _require_connected(self) -> None:
        beats = self.wins_ > 0
        parts = strong_components(beats)
        if len(parts) == 1:
            return
        top = next(part for part in parts if not np.delete(beats[:, part].any(1), part).any())
        raise ValueError(
            f"models must be connected by wins in both directions: they fall into {len(parts)} parts, and no other "
            f"ever beats {self._named(np.array(top))}; give alpha > 0, or rank the parts apart."
        )

    def _named(self, models: Array) -> str:
        names = [self.models_[i] for i in models[:4].tolist()]
        return ", ".join(names) + (f" and {len(models) - 4} more" if len(models) > 4 else "")
