"""ONEBench: is the order of models kept when most results are missing and their scales differ?

Thirty models with strengths 0.25 apart have a result on each of 3,000 samples (Gumbel noise); half of the samples are
cut to right or wrong at a threshold of their own, and every sample is multiplied by 10 to a power from -2 to 2.
Kendall's tau with the true order, when 0, 50, 90 and 95 % of the cells are missing: Plackett-Luce on comparisons within
samples, the mean of the scores, Elo, and single random orders.
"""

from __future__ import annotations

import numpy as np

from tamis.claim import Claim, Gate
from tamis.evaluation import elo_scores, mean_scores, to_pairwise
from tamis.plackett_luce import plackett_luce
from tamis.rank_correlation import kendall

MISSING = (0, 50, 90, 95)
CLAIM = Claim(
    metric="Kendall's tau with 95 % of the cells missing",
    method="plackett_luce_95",
    baseline="mean_95",
    at_least=0.10,
    seeds=3,
    gates=(
        Gate(says="at least 0.90 with 95 % missing", higher="plackett_luce_95", at_least=0.90),
        *(
            Gate(says=f"not below Elo with {m} % missing", higher=f"plackett_luce_{m}", lower=f"elo_{m}")
            for m in MISSING
        ),
    ),
)
MODELS, SAMPLES = 30, 3000


def results(rng: np.random.Generator) -> np.ndarray:
    values = 0.25 * np.arange(MODELS)[:, None] + rng.gumbel(size=(MODELS, SAMPLES))
    low, high = values.min(0), values.max(0)
    cut = values > low + (high - low) * rng.random(SAMPLES)
    values = np.where(np.arange(SAMPLES) % 2 == 0, values, cut)
    return values * 10 ** rng.uniform(-2, 2, SAMPLES)


def run(seed: int) -> dict[str, float]:
    rng, truth, found = np.random.default_rng(seed), np.arange(MODELS), {}
    values = results(rng)
    for share in MISSING:
        left = np.where(rng.random(values.shape) < share / 100, np.nan, values)
        found[f"plackett_luce_{share}"] = kendall(truth, plackett_luce(wins=to_pairwise(left)))
        found[f"mean_{share}"] = kendall(truth, mean_scores(left))
        found[f"elo_{share}"] = kendall(truth, elo_scores(left, seed=rng))
    found["random_order"] = kendall(truth, rng.permutation(MODELS))
    return found
