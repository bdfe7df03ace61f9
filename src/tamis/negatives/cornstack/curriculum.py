"""Curriculum: draw negatives from a softmax over their scores that sharpens as training goes on."""

from __future__ import annotations

from typing import Any

import numpy as np

from tamis import checks
from tamis.randomness import child_seed

Array = np.ndarray[Any, Any]

SCHEDULES = ("linear", "geometric")


def curriculum_log_weights(scores: Array, temperature: float) -> Array:
    """Log-probabilities of the first draw, ``log softmax(S_ij / tau)`` over the candidates of each row.

    Args:
        scores: (n, m) float, similarity of text and candidate; -inf where no candidate is.
        temperature: tau, above 0; small ones are safe.

    Returns:
        (n, m) float64; -inf where no candidate is.

    Raises:
        ValueError: for a temperature that is not above 0.

    Example:
        >>> np.exp(curriculum_log_weights(np.array([[0.9, 0.8, 0.7, 0.6]]), 0.05)).round(6)
        array([[0.864955, 0.117059, 0.015842, 0.002144]])
    """
    checks.positive("temperature", temperature)
    scores = np.asarray(scores, dtype=np.float64)
    top = scores.max(axis=1, keepdims=True, initial=-np.inf)
    # The maximum goes first: at tau = 0.001 the exponents would be a thousand.
    shifted = (scores - np.where(np.isneginf(top), 0.0, top)) / temperature
    total = np.exp(shifted).sum(axis=1, keepdims=True)
    log_weights: Array = shifted - np.log(np.where(total > 0, total, 1.0))
    return log_weights


class CurriculumNegatives:
    """Negatives of a pair at a point of the training: soft and nearly random at first, the hardest at the end.

    CoRNStack's curriculum: n candidates without replacement, with probability proportional to ``exp(S_ij / tau_t)``
    and tau_t annealed from start to end. A draw is a function of seed, index, progress and step alone, so that it does
    not depend on the batch it is in, on the order of calls, or on the number of workers.

    Args:
        candidate_scores: (rows, m) float, similarity of text and candidate, -inf where no candidate is (see
            ``guarded_candidates``); it may be memory-mapped.
        tau_start: temperature at progress 0, in units of the score.
        tau_end: temperature at progress 1.
        n: negatives per pair.
        schedule: "linear" or "geometric".
        strict: raise when a row has fewer than n candidates; otherwise its draws end in -1.
        seed: seed of the run.

    Raises:
        ValueError: for NaN, settings out of range, or a short row when strict.

    Example:
        >>> negatives = CurriculumNegatives(np.array([[0.9, 0.8, 0.7, 0.6]]), n=2)
        >>> round(negatives.temperature(0.5), 4), negatives.sample(0, 1.0)
        (0.0255, array([0, 1]))
    """

    def __init__(
        self,
        candidate_scores: Array,
        *,
        tau_start: float = 0.05,
        tau_end: float = 0.001,
        n: int = 8,
        schedule: str = "linear",
        strict: bool = False,
        seed: int = 0,
    ) -> None:
        checks.matrix("candidate_scores", candidate_scores)
        checks.require(
            not bool((np.isnan(candidate_scores) | np.isposinf(candidate_scores)).any()),
            "candidate_scores must be numbers, or -inf where no candidate is: got NaN or inf.",
        )
        checks.positive("tau_start", tau_start)
        checks.positive("tau_end", tau_end)
        checks.at_least("n", n, 1)
        checks.one_of("schedule", schedule, SCHEDULES)
        self.candidate_scores = candidate_scores
        self.tau_start, self.tau_end = tau_start, tau_end
        self.n = n
        self.schedule = schedule
        self.seed = seed
        self.short = np.flatnonzero((~np.isneginf(candidate_scores)).sum(1) < n)
        """(s,) int64, rows with fewer than n candidates."""
        if strict and len(self.short):
            raise ValueError(
                f"candidate_scores must have n={n} candidates per row: {len(self.short)} rows have fewer, the first is "
                f"row {self.short[0]}; refill with guarded_candidates(corpus_size=...), or take strict=False."
            )

    def temperature(self, progress: float) -> float:
        """The temperature at a point of the training.

        Args:
            progress: share of the training that is done, in [0, 1].

        Returns:
            tau_t: between the ends, by equal differences ("linear") or equal ratios ("geometric").

        Raises:
            ValueError: for a progress outside [0, 1].
        """
        checks.between("progress", progress, 0, 1)
        if self.schedule == "geometric":
            return float(self.tau_start * (self.tau_end / self.tau_start) ** progress)
        return self.tau_start + (self.tau_end - self.tau_start) * progress

    def sample(self, index: int | Array, progress: float, *, step: int = 0) -> Array:
        """Draw n candidates for one row or for several.

        Args:
            index: row of the candidate scores, or (b,) int of them.
            progress: share of the training that is done, in [0, 1].
            step: a further number for a fresh draw at the same progress (the epoch, say).

        Returns:
            (n,) int64, or (b, n) for several rows: columns of the candidate scores, in order of the draw; -1 where a
            row has run out of candidates.

        Raises:
            ValueError: for a progress outside [0, 1], or an index that is not a row.
        """
        rows, size = np.atleast_1d(np.asarray(index, dtype=np.int64)), len(self.candidate_scores)
        outside = rows[(rows < 0) | (rows >= size)]
        checks.require(len(outside) == 0, f"index must name rows of candidate_scores, 0 to {size - 1}: got {outside}.")
        log_weights = curriculum_log_weights(self.candidate_scores[rows], self.temperature(progress))
        keys = log_weights + _gumbel(
            child_seed(self.seed, "curriculum", float(progress), step), rows, log_weights.shape
        )
        drawn = np.argsort(-keys, axis=1, kind="stable")[:, : self.n]
        drawn = np.where(np.isneginf(np.take_along_axis(keys, drawn, 1)), -1, drawn)
        drawn = np.pad(drawn, ((0, 0), (0, self.n - drawn.shape[1])), constant_values=-1)
        return drawn[0] if np.ndim(index) == 0 else drawn


def _gumbel(seed: int, rows: Array, shape: tuple[int, int]) -> Array:
    """Gumbel noise that is a function of seed, row and column: SplitMix64 (Steele, Lea and Flood 2014) per row.

    A generator per row would cost a Python loop over the rows; one for all would tie a draw to its batch.
    """
    golden = np.uint64(0x9E3779B97F4A7C15)
    starts = _mixed(rows.astype(np.uint64) * golden + np.uint64(seed))
    bits = _mixed(starts[:, None] + golden * np.arange(1, shape[1] + 1, dtype=np.uint64))
    uniform = ((bits >> np.uint64(11)) + 0.5) * 2.0**-53
    return np.asarray(-np.log(-np.log(uniform)))


def _mixed(bits: Array) -> Array:
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(bits ^ (bits >> np.uint64(31)))
