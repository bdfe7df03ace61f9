"""Picking: which of the kept candidates become negatives, and the tables that say what was picked and dropped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tamis import checks
from tamis.negatives.candidates import Pool
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


def dropped_columns(
    found: Candidates, decisions: Sequence[Decision], blame: Array, copies: dict[str, Array], pool: Pool
) -> dict[str, Array]:
    """Every dropped candidate with its rule, rival and score, by query and rank; copies of positives among them.

    Args:
        found: the pool.
        decisions: the rules, in order.
        blame: (q, k) int, index of the rule that dropped a candidate, -1 for none.
        copies: query, candidate, rival, exact (bool): passages ruled out before the search.
        pool: scores and ranks the copies.

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
    copied = np.where(copies["exact"], "same text as a positive", "same normalised text as a positive").astype(object)
    table = {
        "query": np.concatenate([query, copies["query"]]),
        "candidate": np.concatenate([found.indices[query, column], copies["candidate"]]),
        "rank": np.concatenate([found.ranks[query, column], pool.rank_of(copies["query"], copies["candidate"])]),
        "score": np.concatenate([found.scores[query, column], pool.pair_scores(copies["query"], copies["candidate"])]),
        "source": np.concatenate([found.sources[query, column], np.zeros(len(copied), np.uint8)]),
        "rule": np.concatenate([names[by], copied]) if len(query) else copied,
        "rival": np.concatenate([rival, copies["rival"]]),
        "rival_score": np.concatenate([rival_score, pool.pair_scores(copies["query"], copies["rival"])]),
    }
    order = np.lexsort((table["candidate"], table["rank"], table["query"]))
    return {name: values[order] for name, values in table.items()}


def known_answers(
    positives: Sequence[Array], groups: Array, texts: Sequence[str]
) -> tuple[tuple[Array, Array], dict[str, Array]]:
    """Passages that a query must never get: its positives and every passage with the text of one.

    Args:
        positives: per query corpus rows.
        groups: (n,) int64, equal for equal normalised texts of the corpus.
        texts: of the corpus, to tell copies to the letter from normalised ones.

    Returns:
        CSR (indptr (q + 1,), columns) of all of them, and the copies: query, candidate, rival, exact.
    """
    counts = np.array([len(p) for p in positives])
    query, rival = np.repeat(np.arange(len(positives)), counts), np.concatenate(list(positives))
    by_group = np.argsort(groups, kind="stable")
    ordered = groups[by_group]
    first = np.searchsorted(ordered, groups[rival], "left")
    size = np.searchsorted(ordered, groups[rival], "right") - first
    offset = np.arange(size.sum()) - np.repeat(np.cumsum(size) - size, size)
    query, rival, passage = np.repeat(query, size), np.repeat(rival, size), by_group[np.repeat(first, size) + offset]
    pair, at = np.unique(query * len(groups) + passage, return_index=True)
    query, rival, passage = query[at], rival[at], pair % len(groups)
    indptr = np.searchsorted(query, np.arange(len(positives) + 1))
    own = np.concatenate([i * len(groups) + p for i, p in enumerate(positives)])
    copy = ~np.isin(pair, own)
    copies = {"query": query[copy], "candidate": passage[copy], "rival": rival[copy]}
    letters = [texts[c] == texts[r] for c, r in zip(copies["candidate"], copies["rival"], strict=True)]
    return (indptr, passage), copies | {"exact": np.array(letters, dtype=bool)}


def funnel(
    found: Candidates, decisions: Sequence[Decision], blame: Array, copies: int, picked: int
) -> list[dict[str, Any]]:
    """What became of the candidates, rule by rule, as rows of a table."""
    present = int(found.present.sum())
    rows = [{"step": "candidates", "count": present + copies}]
    if copies:
        rows.append({"step": "dropped: text of a positive", "count": copies})
    for number, decision in enumerate(decisions):
        count = int(((blame == number) & found.present).sum())
        if count:
            rows.append({"step": f"dropped: {decision.rule}", "count": count})
    kept = int(((blame < 0) & found.present).sum())
    return [*rows, {"step": "kept", "count": kept}, {"step": "picked", "count": picked}]
