"""Audit of second opinions: the survival rate under the run's cross-encoder, or a word that it is not in the rate.

A cross-encoder that rejects hidden positives lowers the survival rate, and an audit without it would speak of another
run. The hidden positives that would have been picked are few, so they are scored too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tamis.negatives import audit, calibration, filters
from tamis.negatives.cross_encoder import PairScorer
from tamis.negatives.rules import Rules
from tamis.negatives.second_opinion import Opinions, Reviewed

Array = np.ndarray[Any, Any]


def add_to_audit(
    measured: dict[str, Any],
    opinions: Opinions,
    reviewed: Reviewed,
    trial: calibration.Trial,
    rules: Rules,
    texts: tuple[Sequence[str], Sequence[str]],
    *,
    seed: int,
) -> None:
    """Let the audit speak of the run as it was: with the second opinions, or say that they are not in its numbers.

    Hidden positives compete with the candidates that the second opinions left, and those that would be picked are
    scored by the same cross-encoder. Where the margin was chosen on one half, the other half is counted.

    Args:
        measured: the audit, which gets ``second_opinion``, warnings and sentences.
        opinions: of the run.
        reviewed: what came of them.
        trial: the hidden positives in the pool.
        rules: with the margin of the run.
        texts: of queries and corpus.
        seed: of the run.
    """
    measured["warnings"] += reviewed.report["warnings"]
    if not reviewed.decisions:
        return
    counted = np.arange(len(trial))
    if measured["mode"] == "planted" and rules.max_survival not in (None, 1):
        counted = calibration.halves(len(trial), seed)[1]
    pairs, against = (np.empty(0, np.int64), np.empty(0, np.int64)), np.empty(0, np.int64)
    if len(trial) and trial.reference is not None:
        gone, _ = filters.combine(reviewed.decisions, reviewed.log_weights.shape)
        left = replace(trial, rival_keys=np.where(np.isneginf(gone[trial.query]), -np.inf, trial.rival_keys))
        rows = counted[left.picked(calibration.ceiling_of(rules, trial))[counted]]
        pairs, against = (trial.query[rows], trial.passage[rows]), trial.reference.row[rows]
    unscored = reviewed.report.get("cross_encoder", {}).get("picks_unscored", 0)
    found = planted_survival(opinions.scorer, pairs, against, texts, len(counted), unscored=unscored)
    if opinions.scorer is not None and (opinions.judge is not None or opinions.verdicts is not None):
        found["says"] += " The judge is not in this number."
    measured["second_opinion"] = found
    measured["says"] += " " + found["says"]


def planted_survival(
    scorer: PairScorer | None,
    pairs: tuple[Array, Array],
    reference: Array,
    texts: tuple[Sequence[str], Sequence[str]],
    reached: int,
    *,
    unscored: int = 0,
) -> dict[str, Any]:
    """Of the hidden positives that would have been picked, the share that the cross-encoder lets pass as well.

    These pairs come on top of the budget: they are few, and without them the audit would speak of another run.

    Args:
        scorer: the cross-encoder of the run; None when there was none, and then nothing is measured.
        pairs: (p,) query rows and (p,) corpus rows of the hidden positives that would have been picked.
        reference: (p,) corpus rows of the positives they are judged by.
        texts: of queries and corpus.
        reached: hidden positives that reached the pool, picked or not.
        unscored: picks of the run that the budget left unscored, to be said.

    Returns:
        measured; rejected, of those that would have been picked; survival, of those that reached the pool, with its
        interval; and a sentence.
    """
    if scorer is None or reached == 0:
        why = "no cross-encoder was asked" if scorer is None else "no hidden positive could be scored"
        return {"measured": False, "says": f"The second opinion is not in the survival rate: {why}."}
    query, passage = ([texts[0][i] for i in pairs[0].tolist()], [texts[1][i] for i in pairs[1].tolist()])
    known = [texts[1][i] for i in reference.tolist()]
    asked = scorer.asked
    scores = scorer.scores([*zip(query, passage, strict=True), *zip(query, known, strict=True)])
    rejected = int((scores[: len(query)] >= scorer.ceiling(scores[len(query) :])).sum())
    kept = audit.share(len(query) - rejected, reached)
    low, high = kept["interval"]
    says = (
        f"The cross-encoder rejects {rejected} of the {len(query)} hidden positives that would have become negatives: "
        f"survival rate {kept['rate']:.1%} ({low:.1%} to {high:.1%})."
    )
    found = {"measured": True, "pairs": scorer.asked - asked, "rejected": audit.share(rejected, len(query))}
    if unscored:
        says += f" That is not the rate of the {unscored:,} picks that its budget left unscored."
    return {**found, "survival": kept, "says": says}
