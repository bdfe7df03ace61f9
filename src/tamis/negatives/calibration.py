"""Calibration: the weakest margin that keeps hidden positives out of the negatives at the rate that is asked for.

Planted positives are placed in the pool as strangers would be. For a margin it is then known which of them would have
been picked. The weakest margin is taken for which, on one half of them, the share picked stays below the bound at this
and at every stronger margin, with the correction of conformal risk control (Angelopoulos, Bates, Fisch, Lei and
Schuster 2022, equation 4); the other half verifies it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tamis.negatives import audit, filters
from tamis.negatives.candidates import Pool
from tamis.negatives.odds import Odds
from tamis.negatives.picking import Picker
from tamis.negatives.rules import Reference, Rules, Scorer
from tamis.randomness import as_generator, child_seed

Array = np.ndarray[Any, Any]
CAUTIOUS = 0.1  # relative margin where the data are too few to choose one (NV-Retriever's tables favour 0.05 to 0.1)
TOO_HARD = 0.0  # relative margin beside the odds: what scores like the positive is pushed from where that stands
GRID = 200
PLANTED = 0.02  # survival asked for by default where planted positives measure it
FEW = 0.05  # where they are too few for that
FALSE = 0.04  # where queries' only positives stand in: the share of negatives that may be false by the odds, which have
# been seen to miss some of what is false; it is meant to stay below 0.05
ALONE = (0.05, 1 / 3)  # and the bounds of survival that this may ask for


@dataclass(frozen=True)
class Trial:
    """Hidden positives as candidates: where they stand in the pool, and which candidates they compete with.

    Args:
        hidden: how many were hidden; those that do not reach the pool cannot become negatives and are left out below.
        query: (p,) int64 query rows.
        passage: (p,) int64 corpus rows.
        score: (p,) float similarity to the query, or log-odds of being an answer; what the ceiling is set on.
        open: (p,) bool, whether every rule but the margin keeps them.
        key: (p,) float, order of picking, the highest first.
        reference: of the positives that are left; None where a query has no other.
        rival_scores: (p, k) float, the same of the pool.
        rival_keys: (p, k) float keys of the pool, ``-inf`` for candidates that another rule drops.
        negatives: how many are picked per query.
        by_odds: whether ``score`` holds log-odds.
    """

    hidden: int
    query: Array
    passage: Array
    score: Array
    open: Array
    key: Array
    reference: Reference | None
    rival_scores: Array
    rival_keys: Array
    negatives: int
    by_odds: bool = False

    def __len__(self) -> int:
        return len(self.score)

    def kept(self, ceiling: Array) -> Array:
        """(p,) bool, which hidden positives the rules would keep below these ceilings (p,)."""
        return np.asarray(self.open & (self.score < ceiling))

    def picked(self, ceiling: Array) -> Array:
        """(p,) bool, which hidden positives would be among the negatives below these ceilings (p,)."""
        ahead = (self.rival_scores < ceiling[:, None]) & (self.rival_keys > self.key[:, None])
        return np.asarray(self.kept(ceiling) & (ahead.sum(1) < self.negatives))


def place(
    planted: audit.Planted,
    reference: Reference | None,
    pool: Pool,
    rules: Rules,
    picker: Picker,
    guide: Scorer | None,
    open_rivals: Array,
    *,
    seed: int,
    odds: Odds | None = None,
    left_of: Sequence[Array] | None = None,
) -> Trial:
    """Place hidden positives in the pool.

    Args:
        planted: query rows and corpus rows.
        reference: per planted positive what it is compared with, None for its query's own positive playing stranger.
        pool: the candidates.
        rules: all that may rule a candidate out.
        picker: how negatives are picked.
        guide: the guide's similarity of given pairs, if it is in force.
        open_rivals: (q, k) bool, the candidates that every rule but the margin keeps; only these compete.
        seed: of the draws of the picker.
        odds: judges by the odds of being an answer; the margin of the rules is then one rule among the others.
        left_of: per planted positive the known ones that are left, for the odds.

    Returns:
        those that reach the pool.
    """
    rank = pool.rank_of(planted.query, planted.passage)
    reached = np.flatnonzero(rank > 0)
    query, passage, rank = planted.query[reached], planted.passage[reached], rank[reached]
    score = pool.pair_scores(query, passage)
    found = pool.candidates
    others = rules.without_margin() if odds is None or reference is None else rules
    if reference is None:
        left, base = None, Reference(passage, score, None)
    else:
        guided = None if reference.guide is None else reference.guide[reached]
        left = base = Reference(reference.row[reached], reference.score[reached], guided)
    own_guide = None if guide is None or reference is None else guide(query, passage)[:, None]
    own, _ = filters.combine(others.decide(score[:, None], rank[:, None], base, own_guide), (len(query), 1))
    keys = picker.keys(found.scores[query], found.ranks[query], child_seed(seed, "rivals"))
    own_key = picker.keys(score[:, None], rank[:, None] - np.float32(0.5), child_seed(seed, "hidden"))[:, 0]
    rivals = found.scores[query]
    if odds is not None:
        score = odds.of(query, passage, rank, None if left_of is None else [left_of[i] for i in reached.tolist()])
        rivals = odds.candidates[query]
    return Trial(
        hidden=len(planted),
        query=query,
        passage=passage,
        score=score,
        open=~np.isneginf(own[:, 0]),
        # A hidden positive stands before the candidate whose rank it takes.
        key=own_key,
        reference=left,
        rival_scores=rivals,
        rival_keys=np.where(open_rivals[query], keys, -np.inf),
        negatives=picker.negatives,
        by_odds=odds is not None,
    )


def plant_and_place(
    positives: Sequence[Array],
    groups: Array,
    pool: Pool,
    rules: Rules,
    picker: Picker,
    guide: Scorer | None,
    open_rivals: Array,
    *,
    seed: int,
    odds: Odds | None = None,
) -> Trial:
    """Hide one positive of every query that has several, and place them in the pool against positives that are left.

    As many are left as a query drawn at random has: a margin measured from the lowest of five known positives is no
    evidence for queries that have one.
    """
    rng = as_generator(child_seed(seed, "plant"))
    planted = audit.plant(positives, groups, seed=rng)
    counts = np.array([len(p) for p in positives])
    known = []
    for query, hidden in zip(planted.query, planted.passage, strict=True):
        left = positives[query][groups[positives[query]] != groups[hidden]]
        known.append(np.sort(rng.permutation(left)[: rng.choice(counts)]))
    reference = Reference.of(planted.query, known, pool.pair_scores, guide, rules.against)
    return place(planted, reference, pool, rules, picker, guide, open_rivals, seed=seed, odds=odds, left_of=known)


def choose_margin(
    rules: Rules, trial: Trial, own: Callable[[], Trial], *, seed: int, expected: float | None = None
) -> tuple[Rules, dict[str, Any]]:
    """Choose the margin if ``max_survival`` asks for it, and measure the survival rate either way.

    Args:
        rules: the settings.
        trial: planted positives in the pool.
        own: gives every query's positive in the pool as a stranger, for data with one positive per query.
        seed: of the split into halves.
        expected: the share of negatives that would be false without a ceiling, as far as the odds can tell.

    Returns:
        the rules with the margin in them, and the audit as plain numbers and sentences.
    """
    target = rules.max_survival
    alone = False
    if target is None and rules.calibrated:
        enough = [bound for bound in (PLANTED, FEW) if len(trial) >= audit.needed(bound)]
        alone = trial.by_odds and not enough
        target = bound_alone(expected or 0.0) if alone else enough[0] if enough and trial.by_odds else PLANTED
    report: dict[str, Any] = {
        "planted": trial.hidden, "reached_pool": len(trial), "target": target, "mode": "planted", "warnings": [],
        "expected_false": expected,
    }  # fmt: skip
    if target is None or target == 1:
        _measure(rules, trial, (np.arange(0), np.arange(len(trial))), report)
        return rules, report
    wanted = audit.needed(target)
    stand_ins = own() if alone or len(trial) < wanted else None
    if stand_ins is not None and len(stand_ins) >= wanted:
        report["mode"] = "positive odds" if stand_ins.by_odds else "positive scores"
        unlike = "look less like answers to the query" if stand_ins.by_odds else "score lower"
        report["warnings"].append(
            f"{len(trial)} planted positives reached the pool and a bound of {target:.3g} needs {wanted}: the ceiling "
            f"comes from the queries' own positives. It does not cover hidden positives that {unlike} than those."
        )
        rules = _chosen(rules, stand_ins, target, report, seed)
        if len(trial):
            report["cross_check"] = audit.share(int(trial.picked(ceiling_of(rules, trial)).sum()), len(trial))
    elif len(trial) >= 4:
        rules = _chosen(rules, trial, target, report, seed)
    else:
        rules = replace(rules, relative=CAUTIOUS)
        queries = 0 if stand_ins is None else len(stand_ins)
        report |= {"mode": "none", "margin": {"kind": "relative", "value": CAUTIOUS}}
        report["warnings"].append(
            f"No margin can be chosen from {len(trial)} planted positives and {queries} queries; a bound of "
            f"{target:.3g} needs {wanted} of either. A relative margin of {CAUTIOUS:g} stands in; its rate is unknown."
        )
        report["says"] = "Nothing is known of how many of these negatives are false."
    return rules, report


def bound_alone(expected: float) -> float:
    """The survival to ask for where a share of the negatives would be false without a ceiling.

    If a ceiling lets a share s of the answers pass, about ``s * expected`` of the negatives are false; this is the
    s at which that is ``FALSE``, within ``ALONE``. Data that hide few answers are filtered little.

    Args:
        expected: in [0, 1].

    Returns:
        the bound.

    Example:
        >>> bound_alone(0.16), bound_alone(0.01)
        (0.25, 0.3333333333333333)
    """
    least, most = ALONE
    return float(np.clip(FALSE / max(expected, FALSE), least, most))


def halves(count: int, seed: int) -> tuple[Array, Array]:
    """Which of ``count`` hidden positives choose the margin, and which verify it: int64 (m,) each."""
    order = as_generator(child_seed(seed, "halves")).permutation(count)
    return order[: count // 2], order[count // 2 :]


def _chosen(rules: Rules, trial: Trial, target: float, report: dict[str, Any], seed: int) -> Rules:
    """The rules with the weakest margin that holds on the first half, measured on the second."""
    first, second = halves(len(trial), seed)
    steps = _steps(trial)
    rates = np.array([trial.picked(_ceiling_at(step, trial))[first].sum() for step in steps])
    bounds = (np.maximum.accumulate(rates[::-1])[::-1] + 1) / (len(first) + 1)
    held = np.flatnonzero(bounds <= target)
    at = int(held[0]) if len(held) else len(steps) - 1
    report["supported"] = float(bounds[at])
    if not len(held):
        report["warnings"].append(
            f"{len(trial)} hidden positives reached the pool; a bound of {target:.3g} needs {audit.needed(target)}, so "
            f"the strongest margin is taken, and it bounds survival at {bounds[at]:.3f}."
        )
    step = float(steps[at])
    if trial.by_odds:
        rules = replace(rules, odds_ceiling=step)
    elif trial.reference is None:
        rules = replace(rules, score_ceiling=step, relative=0.0)
    else:
        rules = replace(rules, relative=step)
    _measure(rules, trial, (first, second), report)
    return rules


def _steps(trial: Trial) -> Array:
    """Margins to try, the weakest first: those at which the hidden positives start to be dropped."""
    if trial.by_odds or trial.reference is None:
        ceilings = np.unique(np.quantile(trial.score, np.linspace(0, 1, GRID), method="nearest"))[::-1]
        above = ceilings[:1] + 1 if trial.by_odds else np.nextafter(ceilings[:1], np.float32(np.inf))
        return np.concatenate([above, ceilings]).astype(np.float64)
    slack = np.maximum(audit.slack(trial.score, trial.reference.score), 0)
    # A hair above each slack, so that the hidden positive it belongs to is dropped in float32 too.
    return np.unique(np.append(np.quantile(slack, np.linspace(0, 1, GRID), method="nearest") + 1e-6, 0.0))


def _ceiling_at(step: float, trial: Trial) -> Array:
    if trial.by_odds or trial.reference is None:
        return np.full(len(trial), step)
    return filters.margin_ceiling(trial.reference.score, relative=step)


def ceiling_of(rules: Rules, trial: Trial) -> Array:
    """(p,) float, what the score or the log-odds of a hidden positive must stay below."""
    if trial.by_odds or trial.reference is None:
        own = rules.odds_ceiling if trial.by_odds else rules.score_ceiling
        return np.full(len(trial), np.inf if own is None else own)
    return rules.ceiling(trial.reference.score)


def _measure(rules: Rules, trial: Trial, halves: tuple[Array, Array], report: dict[str, Any]) -> None:
    """Add survival rates on both halves, the curve, and a sentence to the report."""
    first, second = halves
    ceiling = ceiling_of(rules, trial)
    picked, kept = trial.picked(ceiling), trial.kept(ceiling)
    report["calibration"] = audit.share(int(picked[first].sum()), len(first))
    report["verification"] = audit.share(int(picked[second].sum()), len(second))
    report["kept_by_rules"] = audit.share(int(kept[second].sum()), len(second))
    report["margin"] = _margin(rules)
    if len(trial):
        report["curve"] = _curve(trial, halves, report["margin"])
    if len(second) == 0:
        report["mode"] = "none"
        report["warnings"].append("No known positive could be hidden and reach the pool: nothing is measured.")
    elif len(second) < 50:
        report["warnings"].append(f"Only {len(second)} hidden positives verify the rate: the interval is wide.")
    report["says"] = _says(report)


def _margin(rules: Rules) -> dict[str, Any]:
    if rules.odds_ceiling is not None:
        return {"kind": "odds ceiling", "value": rules.odds_ceiling}
    if rules.score_ceiling is not None:
        return {"kind": "score ceiling", "value": rules.score_ceiling}
    if rules.absolute is not None:
        return {"kind": "absolute", "value": rules.absolute}
    given = [m for m in (rules.relative, None if rules.percentage is None else 1 - rules.percentage) if m is not None]
    return {"kind": "relative", "value": max(given)} if given else {"kind": "none", "value": None}


def _curve(trial: Trial, halves: tuple[Array, Array], margin: dict[str, Any]) -> dict[str, list[float | None]]:
    """Survival against the margin on both halves, with the Wilson band of the second."""
    steps = _steps(trial)
    steps = np.unique(steps[np.linspace(0, len(steps) - 1, min(60, len(steps))).astype(int)])
    if margin["kind"] in ("relative", "score ceiling", "odds ceiling"):
        steps = np.unique(np.append(steps, margin["value"]))
    curve: dict[str, list[float | None]] = {
        "margin": steps.tolist(),
        "calibration": [],
        "verification": [],
        "low": [],
        "high": [],
    }
    for step in steps:
        picked = trial.picked(_ceiling_at(float(step), trial))
        for name, half in zip(("calibration", "verification"), halves, strict=True):
            curve[name].append(float(picked[half].mean()) if len(half) else None)
        low, high = audit.share(int(picked[halves[1]].sum()), len(halves[1]))["interval"]
        curve["low"].append(low)
        curve["high"].append(high)
    return curve


def _says(report: dict[str, Any]) -> str:
    """The audit in one sentence."""
    seen = report["verification"]
    if seen["rate"] is None:
        return "Nothing is known of how many of these negatives are false."
    low, high = seen["interval"]
    who = (
        "known positives that were hidden and reached the candidate pool"
        if report["mode"] == "planted"
        else "queries' own positives, taken for strangers in the candidate pool"
    )
    return (
        f"Of {seen['n']} {who}, {seen['count']} would have become negatives: survival rate {seen['rate']:.1%} "
        f"({low:.1%} to {high:.1%})."
    )
