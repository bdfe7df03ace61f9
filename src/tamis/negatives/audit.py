"""Audit: how many false negatives a mining rule lets through, measured on known positives that play unknown ones.

A known positive is *planted*: it is hidden, and treated like any other passage of the corpus. The share of planted
positives that reach the candidate pool and are then kept as negatives is the *survival rate*. A margin is chosen on
one half of them by a split-conformal quantile and verified on the other half, with a Wilson interval. Where queries
have one positive only, the scores of positives over queries stand in for hidden ones; that is a weaker evidence, and it
says so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tamis import checks
from tamis.intervals import wilson
from tamis.randomness import Seed, as_generator

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Planted:
    """Hidden positives, one per query, and the best evidence left to judge them by.

    Args:
        query: (p,) int64 query rows, each at most once.
        passage: (p,) int64 corpus rows of the hidden positives.
    """

    query: Array
    passage: Array

    def __len__(self) -> int:
        return len(self.query)


def plant(positives: Sequence[Array], text_groups: Array, *, seed: Seed, limit: int = 20_000) -> Planted:
    """Hide one positive of every query that has another one with another text; one each keeps draws independent.

    Args:
        positives: per query the corpus rows of its positives.
        text_groups: (n,) int64, equal for equal texts.
        seed: seed or generator.
        limit: at most this many queries, drawn at random.

    Returns:
        the hidden positives, by query row.

    Example:
        >>> len(plant([np.array([0, 1]), np.array([2])], np.arange(3), seed=0))
        1
    """
    rng = as_generator(seed)
    several = [i for i, rows in enumerate(positives) if len(rows) > 1 and len(set(text_groups[rows].tolist())) > 1]
    if len(several) > limit:
        several = sorted(rng.choice(several, limit, replace=False).tolist())
    hidden = [int(rng.choice(positives[i])) for i in several]
    return Planted(np.array(several, np.int64), np.array(hidden, np.int64))


def slack(scores: Array, reference: Array) -> Array:
    """How large a relative margin each hidden positive survives: ``(p - s) / |p|`` for its score s and the positive's p.

    At the relative margin m a candidate is kept when ``s < p - m |p|``, which is ``m < slack``.

    Args:
        scores: (p,) float, scores of hidden positives.
        reference: (p,) float, the score of the positive that the margin is measured from.

    Returns:
        (p,) float64.
    """
    reference = np.asarray(reference, np.float64)
    return (reference - np.asarray(scores, np.float64)) / np.maximum(np.abs(reference), 1e-9)


def conformal_bound(values: Array, max_survival: float) -> tuple[float, float]:
    """The split-conformal bound: the value that a new draw exceeds with probability at most ``max_survival``.

    With n exchangeable draws, the ``ceil((n + 1)(1 - a))``-th smallest bounds the chance of exceeding it by ``a``
    (Vovk, Gammerman and Shafer 2005; Lei et al. 2018). With fewer than ``1 / a - 1`` draws no value does; then the
    largest one is returned and what it does bound, ``1 / (n + 1)``.

    Args:
        values: (n,) float, calibration draws.
        max_survival: a, in (0, 1).

    Returns:
        the bound, and the level that the number of draws supports.

    Raises:
        ValueError: when there are no values.

    Example:
        >>> conformal_bound(np.arange(99.0), 0.05)
        (94.0, 0.05)
    """
    checks.require(0 < max_survival < 1, f"max_survival must lie between 0 and 1: got {max_survival!r}.")
    checks.require(len(values) > 0, "no planted positive is left to choose the margin from.")
    n = len(values)
    rank = math.ceil((n + 1) * (1 - max_survival) - 1e-9)
    level = max_survival if rank <= n else 1 / (n + 1)
    return float(np.sort(values)[min(rank, n) - 1]), level


def needed(max_survival: float) -> int:
    """Planted positives that a bound asks for, both halves together: ``2 * (1 / max_survival - 1)``, rounded up.

    Example:
        >>> needed(0.02)
        98
    """
    return 2 * math.ceil(1 / max_survival - 1 - 1e-9)


def share(count: int, of: int) -> dict[str, Any]:
    """A count as a share with its Wilson interval, ready for a report.

    Args:
        count: how many.
        of: out of how many.

    Returns:
        n, count, rate (None when n is 0) and the 95 % interval.

    Example:
        >>> share(1, 50)["rate"]
        0.02
    """
    low, high = wilson(count, of)
    return {"n": of, "count": count, "rate": count / of if of else None, "interval": [low, high]}


def survival_curve(
    calibration: Array, verification: Array, chosen: float | None, *, points: int = 81
) -> dict[str, list[float | None]]:
    """Survival against the margin on both halves, with the Wilson band of the second.

    Args:
        calibration: (n,) slack of the first half; ``-inf`` survives no margin.
        verification: (m,) slack of the second half.
        chosen: the margin chosen, which the curve must show, or None.
        points: how many margins.

    Returns:
        lists of one length: margin, calibration, verification (None for a half that is empty), low, high.
    """
    shown = 0.0 if chosen is None else chosen
    seen = np.concatenate([calibration, verification, [0.0, shown]])
    seen = seen[np.isfinite(seen)]
    low_end, high_end = min(shown, float(np.quantile(seen, 0.02))), max(shown, float(seen.max()))
    margins = np.unique(np.append(np.linspace(low_end, high_end + 1e-6, points), shown))

    def survival(half: Array) -> list[float | None]:
        return [float((half > m).mean()) if len(half) else None for m in margins]

    bands = [wilson(int((verification > m).sum()), len(verification)) for m in margins]
    return {
        "margin": margins.tolist(),
        "calibration": survival(calibration),
        "verification": survival(verification),
        "low": [b[0] for b in bands],
        "high": [b[1] for b in bands],
    }


def skew(negatives: Array, queries: Array, n_queries: int, n_passages: int) -> dict[str, Any]:
    """How evenly the negatives fall on queries and passages: hubs and short lists show here.

    Args:
        negatives: (m,) int64 corpus rows.
        queries: (m,) int64 query rows.
        n_queries: queries in all.
        n_passages: passages in all.

    Returns:
        negatives per query (mean, least), queries without any, distinct passages used and their share of the corpus,
        and the share of all negatives that the most used 1 % of the used passages take.
    """
    per_query = np.bincount(queries, minlength=n_queries)
    uses = np.sort(np.bincount(negatives, minlength=1)[np.unique(negatives)]) if len(negatives) else np.zeros(1, int)
    top = max(1, math.ceil(len(uses) / 100))
    return {
        "negatives": len(negatives),
        "per_query_mean": float(per_query.mean()) if n_queries else 0.0,
        "per_query_least": int(per_query.min()) if n_queries else 0,
        "queries_without": int((per_query == 0).sum()),
        "passages_used": len(uses) if len(negatives) else 0,
        "share_of_corpus": len(uses) / n_passages if len(negatives) else 0.0,
        "top_1_percent_take": float(uses[-top:].sum() / max(1, uses.sum())),
        "most_used": int(uses[-1]),
    }


def known_false(queries: Array, negatives: Array, truth: Sequence[Array]) -> dict[str, Any]:
    """Of the mined negatives, how many a fuller judgement calls positives.

    Args:
        queries: (m,) int64 query rows.
        negatives: (m,) int64 corpus rows.
        truth: per query all the corpus rows that answer it.

    Returns:
        the share of negatives that are false, with a Wilson interval (which takes negatives for independent).
    """
    width = 1 + max([int(negatives.max(initial=0)), *(int(rows.max(initial=0)) for rows in truth)])
    answers = np.concatenate([np.empty(0, np.int64), *(i * width + rows for i, rows in enumerate(truth))])
    return share(int(np.isin(queries * width + negatives, answers).sum()), len(negatives))


def duplicates(queries: Array, negatives: Array, positives: Sequence[Array], groups: Array) -> dict[str, int]:
    """Copies that a mined set must not hold: all of these are 0 for what ``mine`` wrote.

    Args:
        queries: (m,) int64 query rows.
        negatives: (m,) int64 corpus rows.
        positives: per query corpus rows.
        groups: (n,) int64, equal for equal normalised texts of the corpus.

    Returns:
        negatives that are a positive of their query, that have the normalised text of one, and that repeat the text of
        another negative of their query.
    """
    width = int(max(groups.max(initial=0), negatives.max(initial=0), len(groups))) + 1
    empty = np.empty(0, np.int64)
    own = np.concatenate([empty, *(i * width + rows for i, rows in enumerate(positives))])
    own_text = np.concatenate([empty, *(i * width + groups[rows] for i, rows in enumerate(positives))])
    by_row, by_text = queries * width + negatives, queries * width + groups[negatives]
    return {
        "negatives that are a positive of their query": int(np.isin(by_row, own).sum()),
        "negatives with the text of a positive": int(np.isin(by_text, own_text).sum()),
        "negatives that repeat a text for their query": len(by_text) - len(np.unique(by_text)),
    }
