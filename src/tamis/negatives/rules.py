"""Rules: the settings that decide which candidates may be negatives, and the margin chosen from planted positives.

The same rules judge the pool of every query and the planted positives of the audit; that is what makes the survival
rate a measurement of the run and not of something like it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from tamis import checks
from tamis.negatives import audit, filters
from tamis.negatives.candidates import Pool
from tamis.randomness import as_generator, child_seed

Array = np.ndarray[Any, Any]
Scorer = Callable[[Array, Array], Array]
CAUTIOUS = 0.1  # relative margin where the data are too few to choose one (NV-Retriever's tables favour 0.05 to 0.1)


@dataclass(frozen=True)
class Reference:
    """The positive that each query's margin is measured from.

    Args:
        row: (q,) int64 corpus row.
        score: (q,) float32, similarity of query and positive.
        guide: (q,) float32, lowest or highest similarity of query and positives in the guide's eyes, or None.
    """

    row: Array
    score: Array
    guide: Array | None

    @classmethod
    def of(
        cls, queries: Array, positives: Sequence[Array], scorer: Scorer, guide: Scorer | None, against: str
    ) -> Reference:
        """Find the reference among the positives of each query.

        Args:
            queries: (q,) int64 query rows.
            positives: per entry of ``queries`` its positives, none empty.
            scorer: similarity of given pairs.
            guide: the guide's similarity of given pairs.
            against: "lowest" or "highest".

        Returns:
            one reference per entry of ``queries``.
        """
        if len(queries) == 0:
            empty = np.empty(0, np.float32)
            return cls(np.empty(0, np.int64), empty, None if guide is None else empty)
        counts = np.array([len(p) for p in positives])
        starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
        flat_queries, flat = np.repeat(queries, counts), np.concatenate(list(positives))
        extreme = np.minimum if against == "lowest" else np.maximum
        scores = scorer(flat_queries, flat)
        best = extreme.reduceat(scores, starts)
        places = np.flatnonzero(scores == np.repeat(best, counts))
        first = places[np.searchsorted(places, starts)]
        guided = None if guide is None else extreme.reduceat(guide(flat_queries, flat), starts)
        return cls(flat[first], best, guided)


@dataclass(frozen=True)
class Trial:
    """Planted positives as candidates: where they would stand in the pool, and what they would be compared with.

    Args:
        query: (p,) int64 query rows.
        score: (p,) float32 similarity of the hidden positive.
        rank: (p,) int32 rank it would have, 0 where it does not reach the pool.
        guide: (p,) float32 in the guide's eyes, or None.
        reference: of the positives that are left.
        planted: how many were hidden, before those that do not reach the pool are left out.
    """

    query: Array
    score: Array
    rank: Array
    guide: Array | None
    reference: Reference
    planted: int

    @classmethod
    def of(
        cls,
        planted: audit.Planted,
        positives: Sequence[Array],
        groups: Array,
        pool: Pool,
        guide: Scorer | None,
        against: str,
    ) -> Trial:
        """Place the planted positives; those that do not reach the pool cannot become negatives and are left out."""
        rank = pool.rank_of(planted.query, planted.passage)
        reached = np.flatnonzero(rank > 0)
        query, hidden = planted.query[reached], planted.passage[reached]
        left = [positives[q][groups[positives[q]] != groups[h]] for q, h in zip(query, hidden, strict=True)]
        return cls(
            query,
            pool.pair_scores(query, hidden),
            rank[reached],
            None if guide is None else guide(query, hidden),
            Reference.of(query, left, pool.pair_scores, guide, against),
            len(planted),
        )

    def __len__(self) -> int:
        return len(self.query)


@dataclass(frozen=True, kw_only=True)
class Rules:
    """Everything that may rule a candidate out by score or rank. See ``mine`` for the meaning of each."""

    absolute: float | None = None
    relative: float | None = None
    percentage: float | None = None
    max_survival: float | None = None
    against: str = "lowest"
    first_rank: int = 1
    last_rank: int | None = None
    min_score: float | None = None
    max_score: float | None = None
    guide_margin: float = 0.0
    score_ceiling: float | None = None

    def check(self) -> None:
        """Say in one line what cannot work.

        Raises:
            ValueError: for a setting out of its range or two that exclude each other.
        """
        one = np.ones(1)
        filters.margin_ceiling(one, absolute=self.absolute, relative=self.relative, percentage=self.percentage)
        filters.rank_window(np.ones((1, 1)), first=self.first_rank, last=self.last_rank)
        filters.score_range(np.ones((1, 1)), low=self.min_score, high=self.max_score)
        checks.one_of("against", self.against, ("lowest", "highest"))
        if self.max_survival is not None:
            inside = 0 < self.max_survival <= 1
            checks.require(inside, f"max_survival must lie between 0 (not included) and 1: got {self.max_survival!r}.")
            fixed = [k for k in ("absolute", "relative", "percentage") if getattr(self, k) is not None]
            checks.require(not fixed, f"max_survival chooses the margin: leave out {', '.join(fixed)} or max_survival.")

    def as_dict(self) -> dict[str, Any]:
        """The settings for a report."""
        return asdict(self)

    def ceiling(self, reference_scores: Array) -> Array:
        """(q,) float32, what a negative must stay below."""
        own = filters.margin_ceiling(
            reference_scores, absolute=self.absolute, relative=self.relative, percentage=self.percentage
        )
        return own if self.score_ceiling is None else np.minimum(own, np.float32(self.score_ceiling))

    def decide(
        self, scores: Array, ranks: Array, reference: Reference, guide_scores: Array | None
    ) -> list[filters.Decision]:
        """Judge candidates.

        Args:
            scores: (q, k) float.
            ranks: (q, k) int.
            reference: one row per row of scores.
            guide_scores: (q, k) float, or None.

        Returns:
            one decision per rule that is in force.
        """
        ceiling = self.ceiling(reference.score)
        decisions = []
        if np.isfinite(ceiling).any() or len(ceiling) == 0:
            decisions.append(filters.below_ceiling(scores, ceiling, rival=reference.row, rival_score=reference.score))
        if guide_scores is not None and reference.guide is not None:
            decisions.append(
                filters.guide(guide_scores, reference.guide, margin=self.guide_margin, rival=reference.row)
            )
        if self.first_rank > 1 or self.last_rank is not None:
            decisions.append(filters.rank_window(ranks, first=self.first_rank, last=self.last_rank))
        if self.min_score is not None or self.max_score is not None:
            decisions.append(filters.score_range(scores, low=self.min_score, high=self.max_score))
        return decisions

    def keeps(self, trial: Trial) -> Array:
        """(p,) bool, which planted positives would be kept as negatives."""
        guide = None if trial.guide is None else trial.guide[:, None]
        decisions = self.decide(trial.score[:, None], trial.rank[:, None], trial.reference, guide)
        log_weights, _ = filters.combine(decisions, (len(trial), 1))
        return np.asarray(~np.isneginf(log_weights[:, 0]))

    def picks(self, trial: Trial, pool: Pool, negatives: int) -> Array:
        """(p,) bool, which planted positives would be among the hardest ``negatives`` that the rules keep."""
        found = pool.candidates
        scores, ranks = found.scores[trial.query], found.ranks[trial.query]
        without_guide = replace(trial.reference, guide=None)
        decisions = self.decide(scores, ranks, without_guide, None)
        log_weights, _ = filters.combine(decisions, scores.shape)
        harder = (~np.isneginf(log_weights)) & (ranks > 0) & (ranks < trial.rank[:, None])
        return np.asarray(self.keeps(trial) & (harder.sum(1) < negatives))


def choose_margin(
    rules: Rules, trial: Trial, reference: Reference, pool: Pool, *, negatives: int, seed: int
) -> tuple[Rules, dict[str, Any]]:
    """Choose the margin if ``max_survival`` asks for it, and measure the survival rate either way.

    Args:
        rules: the settings.
        trial: planted positives in the pool.
        reference: of every query, for data with one positive per query.
        pool: the candidates.
        negatives: how many are picked per query.
        seed: of the split into halves.

    Returns:
        the rules with the margin in them, and the audit as plain numbers and sentences.
    """
    target = rules.max_survival
    report: dict[str, Any] = {"planted": trial.planted, "reached_pool": len(trial), "target": target, "warnings": []}
    halves = _halves(len(trial), seed)
    if target is None or target == 1:
        halves = halves[0][:0], np.arange(len(trial))
        report["mode"] = "planted" if len(trial) else "none"
        if not len(trial):
            report["warnings"].append("No known positive could be planted and reach the pool: nothing is measured.")
    else:
        wanted, own = audit.needed(target), _own_scores(reference, pool)
        if len(trial) < wanted <= len(own):
            rules = _by_positive_scores(rules, target, own, trial, report, seed)
        elif len(trial) >= 4:
            rules = _by_planted(rules, target, trial, halves[0], report)
        else:
            rules = replace(rules, relative=CAUTIOUS)
            report["mode"] = "none"
            report["warnings"].append(
                f"No margin can be chosen from {len(trial)} planted positives and {len(own)} queries; a bound of "
                f"{target:g} needs {wanted} of either. A relative margin of {CAUTIOUS:g} stands in, its rate unknown."
            )
    if report["mode"] == "planted":
        _measure(rules, trial, halves, pool, negatives, report)
    report["says"] = _says(report)
    return rules, report


def _halves(n: int, seed: int) -> tuple[Array, Array]:
    order = as_generator(child_seed(seed, "halves")).permutation(n)
    return order[: n // 2], order[n // 2 :]


def _by_planted(rules: Rules, target: float, trial: Trial, half: Array, report: dict[str, Any]) -> Rules:
    """The relative margin that bounds the survival of planted positives."""
    bound, level = audit.conformal_bound(_slack(rules, trial)[half], target)
    wanted = audit.needed(target)
    report |= {"mode": "planted", "supported": level}
    if len(trial) < wanted:
        report["warnings"].append(
            f"{len(trial)} planted positives reached the pool; a bound of {target:g} needs {wanted} of them, so this "
            f"margin bounds survival at {level:.3f} and not at {target:g}."
        )
    # A hair above the bound, so that the planted positive that set it is dropped in float32 too.
    return replace(rules, relative=max(0.0, bound + 1e-6) if np.isfinite(bound) else 0.0)


def _slack(rules: Rules, trial: Trial) -> Array:
    """Slack of the planted positives; those that another rule drops survive no margin."""
    others = replace(rules, relative=None, absolute=None, percentage=None).keeps(trial)
    return np.where(others, audit.slack(trial.score, trial.reference.score), -np.inf)


def _measure(
    rules: Rules, trial: Trial, halves: tuple[Array, Array], pool: Pool, negatives: int, report: dict[str, Any]
) -> None:
    """Add survival rates on both halves, the share that would be picked, and the curve to the report."""
    first, second = halves
    kept, picked = rules.keeps(trial), rules.picks(trial, pool, negatives)
    report["calibration"] = audit.share(int(kept[first].sum()), len(first))
    report["verification"] = audit.share(int(kept[second].sum()), len(second))
    report["picked"] = audit.share(int(picked[second].sum()), len(second))
    if rules.absolute is None:
        by_percentage = None if rules.percentage is None else 1 - rules.percentage
        margin = max((m for m in (rules.relative, by_percentage) if m is not None), default=None)
        slack = _slack(rules, trial)
        report["margin"] = {"kind": "relative" if margin is not None else "none", "value": margin}
        report["curve"] = audit.survival_curve(slack[first], slack[second], margin)
    else:
        report["margin"] = {"kind": "absolute", "value": rules.absolute}
    if len(second) < 50:
        report["warnings"].append(f"Only {len(second)} planted positives verify the rate: the interval is wide.")


def _own_scores(reference: Reference, pool: Pool) -> Array:
    """Scores of the queries' own positives, of those that would reach the pool as strangers."""
    queries = np.arange(len(reference.score))
    return reference.score[pool.rank_of(queries, reference.row) > 0]


def _by_positive_scores(
    rules: Rules, target: float, own: Array, trial: Trial, report: dict[str, Any], seed: int
) -> Rules:
    """The score ceiling that bounds the survival of a hidden positive that scores as other queries' positives do."""
    first, second = (own[half] for half in _halves(len(own), seed))
    bound, level = audit.conformal_bound(-first.astype(np.float64), target)
    ceiling = -bound
    rules = replace(rules, score_ceiling=ceiling, relative=0.0)
    report |= {
        "mode": "positive scores",
        "supported": level,
        "margin": {"kind": "score ceiling", "value": ceiling},
        "calibration": audit.share(int((first < ceiling).sum()), len(first)),
        "verification": audit.share(int((second < ceiling).sum()), len(second)),
        "curve": _ceiling_curve(first, second, ceiling),
    }
    report["warnings"].append(
        f"{len(trial)} planted positives reached the pool and a bound of {target:g} needs {audit.needed(target)}: the "
        "ceiling comes from the scores of known positives over queries. It does not cover hidden positives that score "
        "lower than known ones do."
    )
    if len(trial):
        report["cross_check"] = audit.share(int(rules.keeps(trial).sum()), len(trial))
    return rules


def _ceiling_curve(first: Array, second: Array, chosen: float) -> dict[str, list[float | None]]:
    """The survival curve over score ceilings; survival grows with the ceiling."""
    flipped = audit.survival_curve(-first, -second, -chosen)
    ceilings: list[float | None] = [None if m is None else -m for m in flipped["margin"]]
    others = {key: flipped[key][::-1] for key in ("calibration", "verification", "low", "high")}
    return {"margin": ceilings[::-1], **others}


def _says(report: dict[str, Any]) -> str:
    """The audit in one sentence."""
    if report["mode"] == "none":
        return "Nothing is known of how many of these negatives are false."
    seen = report["verification"]
    low, high = seen["interval"]
    rate = "unknown" if seen["rate"] is None else f"{seen['rate']:.1%} ({low:.1%} to {high:.1%})"
    if report["mode"] == "planted":
        return (
            f"Of {seen['n']} known positives that were hidden and reached the candidate pool, {seen['count']} would "
            f"have been kept as negatives: survival rate {rate}."
        )
    return (
        f"Of {seen['n']} queries' own positives, {seen['count']} score below the ceiling, where a hidden positive like "
        f"them would have been kept: survival rate {rate}."
    )
