"""Picking: which of the kept candidates become negatives, and the tables that say what was picked and dropped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tamis import checks
from tamis.negatives.candidates import Pool
from tamis.negatives.exclusions import COPY, GROUP, NEAR, NORMALISED, RULES
from tamis.negatives.filters import Decision
from tamis.randomness import Seed, as_generator, gumbel
from tamis.results import Candidates

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Picker:
    """How negatives are picked from the candidates that the rules keep.

    Args:
        negatives: how many per row at the most.
        how: "top" takes the best ranks, "random" draws uniformly, "softmax" draws with probability proportional to
            ``exp(score / temperature + log_weight)`` without replacement (Gumbel-softmax).
        temperature: of the softmax, in units of the score.
    """

    negatives: int
    how: str = "top"
    temperature: float = 0.05

    def check(self) -> None:
        """Say in one line what cannot work.

        Raises:
            ValueError: for an unknown way of picking or numbers out of range.
        """
        checks.at_least("negatives", self.negatives, 1)
        checks.one_of("pick", self.how, ("top", "random", "softmax"))
        checks.positive("pick_temperature", self.temperature)

    def keys(self, scores: Array, ranks: Array, seed: Seed) -> Array:
        """(q, k) float64, the order of picking, the highest first."""
        if self.how == "top":
            return -np.asarray(ranks, np.float64)
        if self.how == "random":
            return np.asarray(as_generator(seed).random(scores.shape))
        return scores.astype(np.float64) / self.temperature + gumbel(scores.shape, as_generator(seed))

    def pick(self, found: Candidates, log_weights: Array, seed: Seed) -> Array:
        """Pick the columns of the pool.

        Args:
            found: the pool.
            log_weights: (q, k) float, ``-inf`` is never picked.
            seed: seed or generator of the draw.

        Returns:
            (q, negatives) int64 columns; a short row ends in -1 and is never filled up.
        """
        keys = self.keys(found.scores, found.ranks, seed)
        if self.how == "softmax":
            keys = keys + log_weights
        keys = np.where(np.isneginf(log_weights) | ~found.present, -np.inf, keys)
        chosen = np.argsort(-keys, axis=1, kind="stable")[:, : self.negatives]
        return np.where(np.isneginf(np.take_along_axis(keys, chosen, 1)), -1, chosen)


def negative_columns(found: Candidates, picks: Array, log_weights: Array, positive_score: Array) -> dict[str, Array]:
    """The picked negatives as columns of one length, by query and then in the order of the pick."""
    query, place = np.nonzero(picks >= 0)
    column = picks[query, place]
    return {
        "query": query.astype(np.int64),
        "negative": found.indices[query, column],
        "rank": found.ranks[query, column],
        "score": found.scores[query, column].astype(np.float32),
        "positive_score": positive_score[query].astype(np.float32),
        "source": found.sources[query, column],
        "weight": np.exp(log_weights[query, column]).astype(np.float32),
    }


def kept_out(excluded: dict[str, Array], pool: Pool) -> dict[str, Array]:
    """The passages that never entered the search, with the rank that they would have had.

    Of what is out for its group, which may be a whole document for every query, only that is told which would have
    reached the pool.

    Args:
        excluded: see ``Exclusions.evidence``.
        pool: ranks them.

    Returns:
        the columns of ``excluded`` that are told, and rank (int32, 0 for nowhere).
    """
    rank = pool.rank_of(excluded["query"], excluded["candidate"])
    told = (rank > 0) | (excluded["rule"] < GROUP)
    return {name: values[told] for name, values in (excluded | {"rank": rank}).items()}


def dropped_columns(
    found: Candidates, decisions: Sequence[Decision], blame: Array, out: dict[str, Array], pool: Pool
) -> dict[str, Array]:
    """Every dropped candidate with its rule, rival and score, by query and rank; those kept out of the search too.

    Args:
        found: the pool.
        decisions: the rules, in order.
        blame: (q, k) int, index of the rule that dropped a candidate, -1 for none.
        out: passages kept out of the search, see ``kept_out``.
        pool: scores them.

    Returns:
        columns of one length: query, candidate, rank (0: not in the pool), score, source, rule, rival, rival_score.
    """
    query, column = np.nonzero((blame >= 0) & found.present)
    by = blame[query, column]
    rival, rival_score = np.full(len(query), -1, np.int64), np.full(len(query), np.nan, np.float32)
    for number, decision in enumerate(decisions):
        mine = by == number
        rival[mine] = np.broadcast_to(decision.rival, found.indices.shape)[query[mine], column[mine]]
        rival_score[mine] = np.broadcast_to(decision.rival_score, found.indices.shape)[query[mine], column[mine]]
    names = np.array([d.rule for d in decisions] or [""], dtype=object)
    out_score = np.full(len(out["query"]), np.nan, np.float32)
    has = np.flatnonzero(out["rival"] >= 0)
    out_score[has] = pool.pair_scores(out["query"][has], out["rival"][has])
    table = {
        "query": np.concatenate([query, out["query"]]),
        "candidate": np.concatenate([found.indices[query, column], out["candidate"]]),
        "rank": np.concatenate([found.ranks[query, column], out["rank"]]),
        "score": np.concatenate([found.scores[query, column], pool.pair_scores(out["query"], out["candidate"])]),
        "source": np.concatenate([found.sources[query, column], np.zeros(len(out_score), np.uint8)]),
        "rule": np.concatenate([names[by], np.array(RULES, dtype=object)[out["rule"]]]),
        "rival": np.concatenate([rival, out["rival"]]),
        "rival_score": np.concatenate([rival_score, out_score]),
    }
    order = np.lexsort((table["candidate"], table["rank"], table["query"]))
    return {name: values[order] for name, values in table.items()}


def passed_over_columns(found: Candidates, picks: Array, blame: Array) -> dict[str, Array]:
    """The candidates that the rules kept and nothing picked, by query and rank, in small integers: they are many.

    Args:
        found: the pool.
        picks: (q, negatives) int64 columns, see ``Picker.pick``.
        blame: (q, k) int, index of the rule that dropped a candidate, -1 for none.

    Returns:
        columns of one length: query, candidate, rank (int32), score (float32), source (uint8).
    """
    left = (blame < 0) & found.present
    rows, places = np.nonzero(picks >= 0)
    left[rows, picks[rows, places]] = False
    query, column = (axis.astype(np.int32) for axis in np.nonzero(left))
    return {
        "query": query,
        "candidate": found.indices[query, column].astype(np.int32),
        "rank": found.ranks[query, column],
        "score": found.scores[query, column].astype(np.float32),
        "source": found.sources[query, column],
    }


def known_columns(positives: Sequence[Array], pool: Pool) -> dict[str, Array]:
    """The known positives with score and rank, by query and then by rank, those out of the pool last.

    Args:
        positives: per query corpus rows.
        pool: scores and ranks them.

    Returns:
        columns of one length: query, positive (int32), rank (int32, 0 for nowhere), score (float32).
    """
    query = np.repeat(np.arange(len(positives)), [len(p) for p in positives])
    passage = np.concatenate(list(positives))
    rank, score = pool.rank_of(query, passage), pool.pair_scores(query, passage)
    order = np.lexsort((passage, -score, rank, rank == 0, query))
    columns = {"query": query, "positive": passage, "rank": rank, "score": score.astype(np.float32)}
    return {
        name: values[order].astype(np.int32) if values.dtype == np.int64 else values[order]
        for name, values in columns.items()
    }


def funnel(
    found: Candidates, decisions: Sequence[Decision], blame: Array, out: dict[str, Array], picked: int
) -> list[dict[str, Any]]:
    """What became of the candidates, rule by rule, as rows of a table; ``out`` is what ``kept_out`` gives."""
    present = int(found.present.sum())
    rows = [{"step": "candidates", "count": present + len(out["rule"])}]
    by_rule = np.bincount(out["rule"], minlength=len(RULES))
    counts = {"text of a positive": by_rule[[COPY, NORMALISED]].sum()} | dict(
        zip(RULES[NEAR:], by_rule[NEAR:], strict=True)
    )
    rows += [{"step": f"dropped: {rule}", "count": int(count)} for rule, count in counts.items() if count]
    for number, decision in enumerate(decisions):
        count = int(((blame == number) & found.present).sum())
        if count:
            rows.append({"step": f"dropped: {decision.rule}", "count": count})
    kept = int(((blame < 0) & found.present).sum())
    return [*rows, {"step": "kept", "count": kept}, {"step": "picked", "count": picked}]
