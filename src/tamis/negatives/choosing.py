"""Choosing: the rules of a run with their ceiling in them, learned and calibrated on the run's own candidates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tamis.negatives import audit, calibration, filters
from tamis.negatives.candidates import Pool
from tamis.negatives.filters import Decision
from tamis.negatives.odds import Odds
from tamis.negatives.picking import Picker
from tamis.negatives.rules import Reference, Rules, Scorer
from tamis.randomness import child_seed
from tamis.two_views import PairScores

Array = np.ndarray[Any, Any]
STRANGERS = 6000  # positives placed as strangers at the most; half of them give a bound of 0.02 to within 0.005


@dataclass(frozen=True)
class Chosen:
    """What was chosen, and how it was measured.

    Args:
        rules: with the ceiling in them.
        decisions: what every rule says of the candidates.
        trial: the planted positives.
        report: the audit as plain numbers and sentences.
    """

    rules: Rules
    decisions: list[Decision]
    trial: calibration.Trial
    report: dict[str, Any]


def choose(
    rules: Rules,
    picker: Picker,
    pool: Pool,
    positives: Sequence[Array],
    *,
    reference: Reference,
    earlier: Sequence[Decision] = (),
    hideable: Sequence[Array],
    kin: Array,
    passages: int,
    passage_scores: PairScores | None = None,
    by_odds: bool = True,
    guide: Scorer | None = None,
    guide_scores: Array | None = None,
    seed: int = 0,
) -> Chosen:
    """Choose the ceiling that ``max_survival`` asks for, on odds where they can be learned, else on a margin.

    Args:
        rules: the settings.
        picker: how negatives are picked.
        pool: the candidates.
        positives: per query corpus rows.
        reference: per query the positive that margins are measured from.
        earlier: what other rules said already (equal texts, say).
        hideable: per query the positives that may be planted.
        kin: (n,) int, equal for passages that must not be planted against each other.
        passages: how many there are.
        passage_scores: similarity of given (corpus rows, corpus rows), None where it is unknown.
        by_odds: False asks for a margin.
        guide: the guide's similarity of given pairs, if it is in force.
        guide_scores: (q, k) float, its scores of the candidates.
        seed: of planting and of the halves.

    Returns:
        what was chosen.
    """
    found = pool.candidates
    odds = None
    if rules.calibrated and by_odds:
        odds = Odds.learn(pool, positives, passages, passage_scores)
        rules = rules if odds is None else replace(rules, relative=calibration.TOO_HARD)

    def open_under(judged: Rules) -> Array:
        """The candidates that the rules keep, whatever is still to be chosen."""
        decided = [*earlier, *judged.decide(found.scores, found.ranks, reference, guide_scores)]
        return np.asarray(found.present & ~np.isneginf(filters.combine(decided, found.indices.shape)[0]))

    without = rules.without_margin()
    rivals = open_under(without if odds is None else rules)
    expected = None
    if odds is not None:
        unbounded = picker.pick(found, np.where(rivals, 0.0, -np.inf), child_seed(seed, "unbounded"))
        expected = odds.false_share(unbounded)
    trial = calibration.plant_and_place(hideable, kin, pool, rules, picker, guide, rivals, seed=seed, odds=odds)

    def own_positives() -> calibration.Trial:
        """Every query's own positive, taken for a stranger."""
        rows = np.arange(0, len(positives), -(-len(positives) // STRANGERS))
        planted = audit.Planted(rows, reference.row[rows])
        rivals = open_under(without)
        return calibration.place(planted, None, pool, rules, picker, guide, rivals, seed=seed, odds=odds)

    rules, report = calibration.choose_margin(rules, trial, own_positives, seed=seed, expected=expected)
    likely = None if odds is None else odds.candidates
    decisions = rules.decide(found.scores, found.ranks, reference, guide_scores, likely)
    return Chosen(rules, [*earlier, *decisions], trial, report)
