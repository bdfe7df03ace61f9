"""Calibrated negatives: keep what is unlikely to be an unknown answer, as far as a stated bound allows.

Fixed margins fit one data set and miss the next: at 0.9 of the positive's score one in five negatives of ESCO is false
and one in two hundred of the Gospels. This method learns from the data at hand how an answer looks, from the query and
from the query's known answers (``tamis.two_views`` holds the derivation), and drops the candidates with the highest
odds. How high is too high is the conformal choice of ``tamis.negatives.calibration``: at most a share ``max_survival``
of known positives, put among the candidates as strangers, would become negatives. Where queries have one positive each,
the odds also tell how many negatives would be false without a ceiling, and the bound is what leaves four in a hundred:
data that hide few answers lose few hard negatives. What scores above the positive is left out too: such candidates are
true negatives mostly, but a query that ranks them before its positive is one that the encoder has not understood, and
training on them does harm. Nothing is set per data set, and no label of a hidden
positive is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tamis import checks, encoders
from tamis.method import Method
from tamis.negatives import candidates, choosing, filters
from tamis.negatives.odds import passage_scores
from tamis.negatives.picking import Picker
from tamis.negatives.rules import Reference, Rules
from tamis.randomness import child_seed

METHOD = Method(
    title="Calibrated negatives: odds of being an unknown answer, from two views",
    paper="staple",
    year=2026,
    claim="Fewer of the negatives are false than under a fixed margin, they are harder, and the stated bound is true.",
    peers=("sentence_transformers.util.mine_hard_negatives",),
    deviations=("a method of our own; the default of tamis.mine",),
)

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class CalibratedNegatives:
    """Negatives and how far to trust them.

    Args:
        indices: (q, negatives) int64 corpus rows, the hardest first; a short row ends in -1.
        log_weights: (q, k) float32 over ``candidates``: 0 keeps, ``-inf`` drops.
        candidates: (q, k) int64 corpus rows, best first.
        audit: bound, measured survival rate and warnings, as in the report of ``tamis.mine``.
    """

    indices: Array
    log_weights: Array
    candidates: Array
    audit: dict[str, Any]


def calibrated_negatives(
    query_embeddings: Array,
    corpus_embeddings: Array,
    positives: Sequence[Any],
    *,
    negatives: int = 8,
    max_survival: float | None = None,
    depth: int = 200,
    seed: int = 0,
) -> CalibratedNegatives:
    """Mine negatives from vectors alone; ``tamis.mine`` does the same with texts, reports and every further rule.

    With u how a candidate looks from the query and v how it looks from the known positives, its log-odds are
    ``log P(answer | u) / P(not | u) + log P(v | answer) / P(v | not)``; see ``tamis.two_views``.

    Args:
        query_embeddings: (q, d) float: rows need not be normalised.
        corpus_embeddings: (n, d) float.
        positives: per query the rows of its known positives, at least one each.
        negatives: how many per query at the most.
        max_survival: share of hidden positives that may become negatives, in (0, 1); None for 0.02 where queries with
            several positives measure it, and ``calibration.bound_alone`` of the odds where queries have one each.
        depth: candidates per query.
        seed: of planting and of the halves that choose and verify.

    Returns:
        the negatives with their audit.

    Raises:
        ValueError: for shapes that do not fit, rows that are not there, or a query without positives.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> corpus = rng.standard_normal((400, 16)).astype(np.float32)
        >>> queries = corpus[:100] + 0.3 * rng.standard_normal((100, 16)).astype(np.float32)
        >>> mined = calibrated_negatives(queries, corpus, [[i] for i in range(100)], negatives=2)
        >>> mined.indices.shape, mined.audit["target"]
        ((100, 2), 0.3333333333333333)
    """
    queries = encoders.unit_rows(encoders.as_matrix(query_embeddings, "query_embeddings"), "query_embeddings")
    corpus = encoders.unit_rows(encoders.as_matrix(corpus_embeddings, "corpus_embeddings"), "corpus_embeddings")
    checks.matrix("corpus_embeddings", corpus, columns=queries.shape[1])
    checks.same_length("positives", positives, "query_embeddings", queries)
    checks.at_least("depth", depth, 1)
    known = [np.unique(np.asarray(rows, np.int64)) for rows in positives]
    for number, rows in enumerate(known):
        checks.require(len(rows) > 0, f"positives must name at least one passage per query: query {number} has none.")
        inside = rows[0] >= 0 and rows[-1] < len(corpus)
        checks.require(inside, f"positives must be rows of corpus_embeddings: query {number} names {rows.tolist()}.")
    picker = Picker(negatives)
    picker.check()
    rules = Rules(max_survival=max_survival, calibrated=True)
    rules.check()
    exclude = (np.concatenate([[0], np.cumsum([len(rows) for rows in known])]), np.concatenate(known))
    view = candidates.dense((queries, corpus), min(depth, len(corpus)), exclude)
    pool = candidates.find([view], min(depth, len(corpus)))
    found = pool.candidates
    chosen = choosing.choose(
        rules,
        picker,
        pool,
        known,
        reference=Reference.of(np.arange(len(known)), known, pool.pair_scores, None, rules.against),
        hideable=known,
        kin=np.arange(len(corpus)),
        passages=len(corpus),
        passage_scores=passage_scores([(queries, corpus)], (), False),
        seed=seed,
    )
    log_weights, _ = filters.combine(chosen.decisions, found.indices.shape)
    picks = picker.pick(found, log_weights, child_seed(seed, "pick"))
    indices = np.where(picks >= 0, np.take_along_axis(found.indices, np.maximum(picks, 0), 1), -1)
    return CalibratedNegatives(indices, log_weights, found.indices, chosen.report)
