"""Guard: which other passages may be negatives of a pair, and which come too close to its positive."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tamis import checks
from tamis.negatives.filters import margin_ceiling
from tamis.randomness import Seed, as_generator

Array = np.ndarray[Any, Any]

_ROUNDS = 20  # of random refill; each fills nearly all places that are left unless the corpus is nearly used up


@dataclass(frozen=True)
class Guarded:
    """Candidates behind the guard, best first; short rows end in -1.

    Args:
        indices: (n, t) int64, rows of the corpus, -1 where nothing is.
        scores: (n, t) float, -inf where nothing is; a random refill carries the lowest score of its row's search.
        filled: (n, t) bool, what was drawn at random to fill a short row.
        log_weights: (n, m) float32 in the shape of the given scores: 0 keeps, ``-inf`` drops.
        reasons: per dropped candidate: row, candidate, score, rule ("positive", "same text" or "guard"), rival (the
            positive) and rival_score.
    """

    indices: Array
    scores: Array
    filled: Array
    log_weights: Array
    reasons: dict[str, Array]


def guarded_candidates(
    scores: Array,
    positive_scores: Array,
    *,
    indices: Array | None = None,
    positives: Array | None = None,
    text_groups: Array | None = None,
    relative: float | None = 0.95,
    absolute: float | None = None,
    top_k: int | None = None,
    corpus_size: int | None = None,
    strict: bool = False,
    seed: Seed = 0,
) -> Guarded:
    """Drop the positive, its copies, and whatever scores close to it; keep the best of the rest.

    CoRNStack's guard against false negatives: a candidate stays when ``S_ij < relative * S_ii``.

    Args:
        scores: (n, m) float, similarity of text i and candidate j.
        positive_scores: (n,) float, similarity of text i and its positive.
        indices: (n, m) int, the corpus row of each candidate, -1 for none; None when candidate j is row j.
        positives: (n,) int, the corpus row of each positive; None when it is row i.
        text_groups: (corpus,) int, equal for equal texts, see ``tamis.ngrams.text_groups``.
        relative: the share of the positive's score that a candidate must stay below, in [0, 1]; None for no guard.
        absolute: a further distance that it must keep, in units of the score.
        top_k: how many to keep per row; None for all.
        corpus_size: rows of the corpus; rows with fewer than top_k candidates are then filled with random passages that
            the search did not bring up. None leaves them short.
        strict: raise instead when a row is short.
        seed: of the random refill.

    Returns:
        the candidates with their log-weights and the reason for every one dropped.

    Raises:
        ValueError: for NaN, arrays that do not fit, margins out of range, or a short row when strict.

    Example:
        >>> found = guarded_candidates(np.array([[0.8, 0.77, 0.75]]), np.array([0.8]))
        >>> found.indices, found.reasons["rule"]
        (array([[ 2, -1, -1]]), array(['positive', 'guard'], dtype='<U9'))
    """
    scores, positive_scores = np.asarray(scores), np.asarray(positive_scores)
    checks.matrix("scores", scores)
    checks.same_length("positive_scores", positive_scores, "scores", scores)
    checks.require(not np.isnan(scores).any(), "scores must hold no NaN; put -inf where no candidate is.")
    checks.finite("positive_scores", positive_scores)
    if relative is not None:
        checks.between("relative", relative, 0, 1)
    n, m = scores.shape
    top_k = m if top_k is None else top_k
    checks.at_least("top_k", top_k, 1)
    rows = np.arange(n) if positives is None else np.asarray(positives)
    checks.same_length("positives", rows, "scores", scores)
    columns = np.broadcast_to(np.arange(m), scores.shape) if indices is None else np.asarray(indices)
    checks.same_shape("indices", columns, "scores", scores)
    groups = None if text_groups is None else np.asarray(text_groups)

    there = (columns >= 0) & ~np.isneginf(scores)
    rule = np.zeros(scores.shape, np.int8)
    ceiling = margin_ceiling(positive_scores, percentage=relative, absolute=absolute)
    rule[there & (scores.astype(np.float32) >= ceiling[:, None])] = 3
    if groups is not None:
        rule[there & (groups[columns] == groups[rows][:, None])] = 2
    rule[there & (columns == rows[:, None])] = 1
    kept = there & (rule == 0)

    best = np.argsort(np.where(kept, -scores, np.inf), axis=1, kind="stable")[:, :top_k]
    found = np.take_along_axis(kept, best, 1)
    chosen = np.where(found, np.take_along_axis(columns, best, 1), -1).astype(np.int64)
    values = np.where(found, np.take_along_axis(scores, best, 1), -np.inf)
    short = np.flatnonzero(found.sum(1) < top_k)
    if strict and len(short):
        raise ValueError(
            f"{len(short)} rows have fewer than top_k={top_k} candidates behind the guard, the first is row {short[0]} "
            f"with {found[short[0]].sum()}: search deeper, or allow a refill with strict=False."
        )
    filled = np.zeros((n, top_k), dtype=bool)
    if top_k > m:
        pad = ((0, 0), (0, top_k - m))
        chosen, values = np.pad(chosen, pad, constant_values=-1), np.pad(values, pad, constant_values=-np.inf)
    if corpus_size is not None and indices is not None and len(short):
        listed = np.concatenate([columns[short], rows[short, None]], axis=1)
        chosen[short] = _refill(chosen[short], listed, rows[short], groups, corpus_size, as_generator(seed))
        lowest = np.where(there, scores, np.inf).min(1)
        filled = (chosen >= 0) & np.isneginf(values)
        values = np.where(filled, np.where(np.isinf(lowest), -1.0, lowest)[:, None], values)
    row, column = np.nonzero(rule)
    reasons = {
        "row": row,
        "candidate": columns[row, column],
        "score": scores[row, column],
        "rule": np.array(["", "positive", "same text", "guard"])[rule[row, column]],
        "rival": rows[row],
        "rival_score": positive_scores[row],
    }
    return Guarded(chosen, values, filled, np.where(kept, 0.0, -np.inf).astype(np.float32), reasons)


def _refill(
    chosen: Array, listed: Array, positives: Array, groups: Array | None, size: int, generator: np.random.Generator
) -> Array:
    """Put random rows of the corpus where nothing is, none of them listed, chosen before, or the positive's text."""
    chosen = chosen.copy()
    for _ in range(_ROUNDS):
        row, place = np.nonzero(chosen < 0)
        if len(row) == 0:
            break
        drawn = generator.integers(size, size=len(row))
        pairs = drawn + size * row
        used = np.concatenate([listed, chosen], axis=1)
        used_pairs = (used + size * np.arange(len(used))[:, None])[used >= 0]
        good = np.zeros(len(pairs), dtype=bool)
        good[np.unique(pairs, return_index=True)[1]] = True
        good &= ~np.isin(pairs, used_pairs)
        if groups is not None:
            good &= groups[drawn] != groups[positives[row]]
        chosen[row[good], place[good]] = drawn[good]
    order = np.argsort(chosen < 0, axis=1, kind="stable")
    return np.take_along_axis(chosen, order, 1)
