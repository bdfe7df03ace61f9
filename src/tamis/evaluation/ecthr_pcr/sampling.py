"""The ways of the paper to draw negatives; all are dated before the query, and none is cited by it."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from tamis import checks
from tamis.evaluation.ecthr_pcr.benchmark import BLOCK, Scorer, TemporalRetrievalBenchmark
from tamis.randomness import child_seed

Array = np.ndarray[Any, Any]
Kind = Literal["random", "bm25", "dynamic", "curriculum", "graph"]


class NegativeSampler:
    """Draw negatives for queries, by chance or by difficulty (the strategies of arXiv:2404.00596).

    "random" takes any; "bm25" and "dynamic" one of the ``depth`` best by a scorer, fixed or set anew with ``refresh``;
    "curriculum" moves through the ranking from the far end to the top while ``progress`` goes from 0 to 1; "graph"
    takes cases that cited the query's answers before the query did, and what else these cited. Where fewer are left
    than asked for, random ones fill up. Uncited is not irrelevant, and the hardest are mostly what could be cited: in
    the claim "bm25", "dynamic" and "graph" lose to "random", and only "curriculum" gains on it.

    Args:
        benchmark: pools and citations.
        kind: how to draw.
        scorer: that ranks, for "bm25", "dynamic" and "curriculum".
        depth: of the best that are drawn from.
        seed: of the draws.

    Returns:
        a sampler; call ``draw``.

    Raises:
        ValueError: for a kind that needs a scorer and has none.

    Example:
        >>> cases = {name: {"facts": name} for name in "abcd"}
        >>> court = TemporalRetrievalBenchmark(cases, {"d": ["a"]}, dict(zip("abcd", range(1, 5))))
        >>> sorted(NegativeSampler(court, "random").draw(np.array([3]), 2)[0].tolist())
        [1, 2]
    """

    def __init__(
        self,
        benchmark: TemporalRetrievalBenchmark,
        kind: Kind = "random",
        *,
        scorer: Scorer | None = None,
        depth: int = 50,
        seed: int = 0,
    ) -> None:
        checks.one_of("kind", kind, ("random", "bm25", "dynamic", "curriculum", "graph"))
        checks.at_least("depth", depth, 1)
        needs = kind in ("bm25", "dynamic", "curriculum")
        checks.require(not needs or scorer is not None, f"scorer must be given for {kind!r}: it ranks the candidates.")
        self.benchmark, self.kind, self.depth, self.seed = benchmark, kind, depth, seed
        self._scorer = scorer
        self._known: dict[int, Array] = {}
        self._citing: dict[int, list[int]] = {}
        for row, cited in enumerate(benchmark.cited):
            for other in cited.tolist():
                self._citing.setdefault(other, []).append(row)

    def refresh(self, scorer: Scorer) -> None:
        """Rank by another scorer from now on: that of the model as it is.

        Args:
            scorer: rows of queries (b,) to scores (b, n).
        """
        self._scorer = scorer
        self._known = {}

    def draw(self, queries: Array, n: int, *, step: int = 0, progress: float = 0.0) -> Array:
        """Negatives for some queries.

        Args:
            queries: (b,) int, rows of the benchmark.
            n: negatives of each.
            step: number of the draw; the same step gives the same negatives.
            progress: 0 to 1, how far the training is, for "curriculum".

        Returns:
            (b, n) int64 rows, distinct within a query.

        Raises:
            ValueError: for a query whose pool has fewer cases that it does not cite.
        """
        checks.at_least("n", n, 1)
        checks.between("progress", progress, 0.0, 1.0)
        rows = np.asarray(queries, dtype=np.int64)
        if self.kind in ("bm25", "dynamic", "curriculum"):
            self._rank(rows)
        found = np.empty((len(rows), n), dtype=np.int64)
        for place, row in enumerate(rows.tolist()):
            rng = np.random.default_rng(child_seed(self.seed, step, row))
            found[place] = self._drawn(row, n, progress, rng)
        return found

    def _drawn(self, row: int, n: int, progress: float, rng: np.random.Generator) -> Array:
        free = np.ones(int(self.benchmark.pool_sizes[row]), dtype=bool)
        free[self.benchmark.cited[row]] = False
        if row < len(free):
            free[row] = False
        checks.require(
            int(free.sum()) >= n,
            f"n must be at most the earlier cases that a query does not cite: {self.benchmark.ids[row]!r} has "
            f"{int(free.sum())}, {n} are asked for.",
        )
        near = self._near(row, progress, n)
        near = near[free[near]] if len(near) else near
        chosen = rng.permutation(near)[:n]
        free[chosen] = False
        rest = rng.choice(np.flatnonzero(free), n - len(chosen), replace=False)
        return np.concatenate([chosen, rest])

    def _near(self, row: int, progress: float, n: int) -> Array:
        """The candidates that difficulty prefers."""
        if self.kind == "random":
            return np.empty(0, dtype=np.int64)
        if self.kind == "graph":
            answers, limit = self.benchmark.cited[row].tolist(), int(self.benchmark.pool_sizes[row])
            # Only what was cited before the query: later citations would show the future to the training.
            citing = {case for answer in answers for case in self._citing[answer] if case < limit and case != row}
            return np.array(
                sorted(citing.union(*(self.benchmark.cited[case].tolist() for case in citing))), dtype=np.int64
            )
        ranked = self._known[row]
        if self.kind != "curriculum":
            return ranked[: self.depth]
        window = max(n, min(self.depth, len(ranked)))
        start = round((1 - progress) * max(0, len(ranked) - window))
        return ranked[start : start + window]

    def _rank(self, rows: Array) -> None:
        new = np.unique([row for row in rows.tolist() if row not in self._known]).astype(np.int64)
        if len(new) == 0 or self._scorer is None:
            return
        kept = len(self.benchmark) if self.kind == "curriculum" else self.depth
        step = max(1, BLOCK // len(self.benchmark))
        for start in range(0, len(new), step):
            part = new[start : start + step]
            scores = np.asarray(self._scorer(part), dtype=np.float64)
            for row, score in zip(part.tolist(), scores, strict=True):
                score = score[: self.benchmark.pool_sizes[row]].copy()
                score[self.benchmark.cited[row]] = -np.inf
                if row < len(score):
                    score[row] = -np.inf
                order = np.argsort(-score, kind="stable")
                self._known[row] = order[np.isfinite(score[order])][:kept].astype(np.int32)
