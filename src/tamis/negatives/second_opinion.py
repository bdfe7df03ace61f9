"""Second opinions: whoever reads query and passage together has a say on the negatives that would be picked.

Only picks are looked at, not the pool: what a cross-encoder scores at or above the query's positive, or a judge calls
an answer, is dropped, the next candidate takes its place, and only that one is looked at in turn. The judge is spent on
the most suspicious picks first. All of it adds to the log-weights as decisions that name rule, rival and score, and
what no one looked at is counted and said.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tamis import checks
from tamis.negatives.cross_encoder import PairScorer
from tamis.negatives.filters import DROP, Decision
from tamis.negatives.judge import Judge, read_verdicts
from tamis.negatives.reviewing import Board, places
from tamis.negatives.rules import Reference
from tamis.results import Candidates, Table

Array = np.ndarray[Any, Any]
Verdicts = tuple[Array, Array, Array]
TOGETHER = 32  # picks that are judged before replacements are picked for those confirmed


@dataclass(frozen=True)
class Opinions:
    """Who is asked for a second opinion.

    Args:
        scorer: a cross-encoder, or None.
        judge: or None.
        verdicts: of a file, see ``judge.read_verdicts``, or None.
        confirmed: whether an answer that the judge confirms is to "drop" or to become a "positive".
    """

    scorer: PairScorer | None = None
    judge: Judge | None = None
    verdicts: Verdicts | None = None
    confirmed: str = "drop"

    @classmethod
    def of(
        cls,
        cross_encoder: Any,
        judge: Any,
        queries: Table,
        corpus: Table,
        *,
        margin: float,
        sigmoid: bool,
        cross_encoder_budget: int | None,
        judge_budget: int | None,
        confirmed: str,
        folder: Path | None,
    ) -> Opinions:
        """Make them from what ``mine`` is given, or say in one line what cannot work.

        Args:
            cross_encoder: function of pairs, model with ``predict``, or None.
            judge: function of (query, passage, positive), file of verdicts, or None.
            queries: ids and texts.
            corpus: ids and texts.
            margin: see ``PairScorer``.
            sigmoid: see ``PairScorer``.
            cross_encoder_budget: see ``PairScorer``.
            judge_budget: see ``Judge``.
            confirmed: "drop" or "positive".
            folder: keeps scores and verdicts.

        Returns:
            the opinions.
        """
        checks.one_of("judge_confirmed", confirmed, ("drop", "positive"))
        scorer = None
        if cross_encoder is not None:
            scorer = PairScorer(
                cross_encoder, margin=margin, sigmoid=sigmoid, budget=cross_encoder_budget, folder=folder
            )
        if judge is None:
            return cls(scorer, confirmed=confirmed)
        if isinstance(judge, (str, Path)):
            return cls(scorer, verdicts=read_verdicts(judge, queries.ids, corpus.ids), confirmed=confirmed)
        return cls(scorer, Judge(judge, budget=judge_budget, folder=folder), confirmed=confirmed)


@dataclass(frozen=True)
class Reviewed:
    """What is left after the second opinions.

    Args:
        log_weights: (q, k) float32, those that came in plus the decisions.
        picks: (q, n) int64 columns, -1 where a row is short.
        decisions: one per second opinion that was asked, cross-encoder first.
        new_positives: (m,) int64 query rows and (m,) int64 corpus rows, answers that are to become positives.
        scores: (q, k) float32 of the cross-encoder, NaN where it was not asked.
        report: plain numbers and sentences.
    """

    log_weights: Array
    picks: Array
    decisions: list[Decision]
    new_positives: tuple[Array, Array]
    scores: Array
    report: dict[str, Any]


def review(
    found: Candidates,
    log_weights: Array,
    decide: Callable[[Array], Array],
    reference: Reference,
    queries: Table,
    corpus: Table,
    opinions: Opinions,
) -> Reviewed:
    """Replace the picks that a second opinion calls false, until it has no objection or its budget is spent.

    Args:
        found: the pool, (q, k).
        log_weights: (q, k) float, what the other rules say.
        decide: gives the picked columns (q, n) for log-weights; the same picks for the same log-weights.
        reference: the positive that each query is judged by.
        queries: ids and texts.
        corpus: ids and texts.
        opinions: verdicts of a file are known before anyone is asked; the cross-encoder drops what scores at or above
            its ceiling; the judge is asked about what it let pass.

    Returns:
        the picks, the decisions and a report.

    Raises:
        ValueError: when a scorer gives no scores, or a judge fails that keeps its verdicts in a folder.
    """
    scorer, judge, verdicts = opinions.scorer, opinions.judge, opinions.verdicts
    board = Board.of(found, log_weights, reference, queries, corpus)
    report: dict[str, Any] = {"warnings": []}
    outside = 0 if verdicts is None else board.note(*verdicts)
    if scorer is not None:
        some = np.arange(0, len(queries), max(1, len(queries) // 64))
        scorer.open(board.pairs(some, reference.row[some]))
    picks = board.settle(decide, scorer)
    failure = ""
    while judge is not None and judge.left > 0 and not failure:
        rows, columns = (x[: int(min(TOGETHER, judge.left))] for x in board.suspects(picks))
        if len(rows) == 0:
            break
        confirmed = int(board.by_judge.sum())
        try:
            board.ask(judge, rows, columns)
        except ValueError as error:
            if judge.folder is not None or judge.asked == 0:
                raise
            failure = str(error)
        if int(board.by_judge.sum()) > confirmed:
            picks = board.settle(decide, scorer)
    decisions = []
    if scorer is not None:
        decisions.append(_decision("cross-encoder", board.by_scorer, reference.row, board.positive))
        report["cross_encoder"] = _scorer_report(board, scorer, picks, report["warnings"])
    if judge is not None or verdicts is not None:
        decisions.append(_decision("judge", board.by_judge, reference.row, np.full(len(queries), np.nan, np.float32)))
        report["judge"] = _judge_report(board, opinions, picks, outside, failure, report["warnings"])
    rows, columns = np.nonzero(board.by_judge & (opinions.confirmed == "positive"))
    answers = (rows.astype(np.int64), found.indices[rows, columns])
    return Reviewed(board.weights, picks, decisions, answers, board.scores, report)


def with_new_positives(positives: Sequence[Array], new: tuple[Array, Array]) -> list[Array]:
    """Known positives and those that a judge confirmed, each row sorted.

    Args:
        positives: per query corpus rows.
        new: (m,) query rows and (m,) corpus rows.

    Returns:
        per query corpus rows; the arrays of other queries are passed through.

    Example:
        >>> with_new_positives([np.array([3]), np.array([1])], (np.array([0]), np.array([2])))
        [array([2, 3]), array([1])]
    """
    merged = list(positives)
    for query in np.unique(new[0]).tolist():
        merged[query] = np.union1d(positives[query], new[1][new[0] == query])
    return merged


def _decision(rule: str, mask: Array, rival: Array, score: Array) -> Decision:
    return Decision(rule, np.where(mask, np.float32(DROP), np.float32(0)), rival[:, None], score[:, None])


def _scorer_report(board: Board, scorer: PairScorer, picks: Array, warnings: list[str]) -> dict[str, Any]:
    rows, columns = places(picks)
    unscored = int(np.isnan(board.scores[rows, columns]).sum())
    emptied = int((board.by_scorer.any(1) & (picks < 0).all(1)).sum())
    if unscored:
        warnings.append(
            f"The cross-encoder's budget of {scorer.budget:,} pairs is spent: {unscored:,} of {len(rows):,} picked "
            "negatives have no second opinion."
        )
    if emptied:
        warnings.append(
            f"{emptied:,} queries lost every candidate to the cross-encoder, which finds all of them at least as "
            "relevant as the positive: the positive may be wrong (see consistent_within)."
        )
    return {
        "name": scorer.name,
        "margin": scorer.margin,
        "scale": "probability" if scorer.sigmoid else "score",
        "budget": scorer.budget,
        "pairs": scorer.asked,
        "dropped": int(board.by_scorer.sum()),
        "picks_scored": len(rows) - unscored,
        "picks_unscored": unscored,
        "queries_emptied": emptied,
    }


def _judge_report(
    board: Board, opinions: Opinions, picks: Array, outside: int, failure: str, warnings: list[str]
) -> dict[str, Any]:
    judge = opinions.judge
    rows, columns = places(picks)
    judged = int(board.judged[rows, columns].sum())
    if failure:
        warnings.append(f"{failure[:1].upper()}{failure[1:]} The others were not asked.")
    total = sum(board.counts.values())
    return {
        "name": "verdicts of a file" if judge is None else judge.name,
        "budget": None if judge is None else judge.budget,
        "verdicts": total,
        **board.counts,
        "confirmed": opinions.confirmed,
        "not_candidates": outside,
        "picks_judged": judged,
        "picks_unjudged": len(rows) - judged,
        "says": (
            f"Of {total:,} candidates that were judged, {board.counts['positive']:,} are answers; the most suspicious "
            "were judged first, so this is no estimate for the others."
            if judge is not None
            else f"The file has verdicts on {total:,} candidates, of which {board.counts['positive']:,} are answers."
        ),
    }
