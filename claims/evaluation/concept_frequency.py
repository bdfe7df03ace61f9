"""Concept frequency: does accuracy follow the logarithm of how often a concept was seen? Are captions counted right?

600 concepts with Zipf frequencies, a prototype each in 40 dimensions; what is learned of a concept is its prototype
with noise that shrinks with the square root of its frequency, the mean of so many training rows. Accuracy of the
nearest centre on 20 test rows per concept. Then the texts of the CWE catalogue, counted by the index and by a scan.
"""

from __future__ import annotations

import re

import numpy as np

from tamis.claim import Claim, Gate
from tamis.evaluation import ConceptIndex, loglinear_fit

CLAIM = Claim(
    metric="Pearson correlation of binned accuracy with log frequency, against that with frequency",
    method="rho_log",
    baseline="rho_linear",
    at_least=0.1,
    seeds=10,
    gates=(
        Gate(says="single concepts scatter, and the trend is there", higher="unbinned_rho", at_least=0.25),
        Gate(says="the hundred most frequent are above the hundred rarest", higher="head", lower="tail", at_least=0.1),
        Gate(says="permutation p below 0.01", higher="hundredth", lower="p_value", every_seed=True),
        Gate(says="permuted accuracies have no trend", higher="fifth", lower="permuted_rho", every_seed=True),
        Gate(says="counts equal a scan of the captions", higher="counts_equal", at_least=1.0, every_seed=True),
    ),
    note="Bins average the scatter away: the unbinned correlation is the one to believe.",
)
CONCEPTS, D, TESTS = 600, 40, 20


def run(seed: int) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    frequency = np.maximum(6000 / np.arange(1, CONCEPTS + 1), 2)
    prototypes = rng.standard_normal((CONCEPTS, D))
    centres = prototypes + 2 * rng.standard_normal((CONCEPTS, D)) / np.sqrt(frequency)[:, None]
    rows = prototypes[:, None] + 2 * rng.standard_normal((CONCEPTS, TESTS, D))
    nearest = ((centres**2).sum(1) - 2 * rows.reshape(-1, D) @ centres.T).argmin(1).reshape(CONCEPTS, TESTS)
    accuracy = (nearest == np.arange(CONCEPTS)[:, None]).mean(1)
    fit = loglinear_fit(frequency, accuracy, n_bins=8, trim=(0, 0), min_count=3, seed=seed)
    permuted = loglinear_fit(frequency, rng.permutation(accuracy), samples=1, seed=seed)
    return {
        "rho_log": fit.rho,
        "rho_linear": fit.rho_linear,
        "unbinned_rho": fit.unbinned_rho,
        "head": float(accuracy[:100].mean()),
        "tail": float(accuracy[-100:].mean()),
        "p_value": fit.p_value,
        "hundredth": 0.01,
        "permuted_rho": abs(permuted.unbinned_rho),
        "fifth": 0.2,
        "counts_equal": counted_right(seed),
    }


def counted_right(seed: int) -> float:
    """Whether fifty words are in as many texts as a scan says; of the CWE texts, or of generated ones without them."""
    rng = np.random.default_rng(seed)
    try:
        from tamis import sample_data

        texts = list(sample_data.cwe().corpus.texts)
    except ImportError:
        texts = [" ".join(f"word{chr(97 + i)}" for i in rng.integers(0, 26, 12)) for _ in range(300)]
    spelt = sorted({w for t in texts for w in re.findall(r"[a-z]+", t.casefold())})
    chosen = [spelt[i] for i in rng.choice(len(spelt), min(50, len(spelt)), replace=False)]
    split = [[re.sub(r"[^a-z]", "", w) for w in re.split(r"[^a-z0-9]+", t.casefold())] for t in texts if t.isascii()]
    index = ConceptIndex().add(t for t in texts if t.isascii())
    return float(index.frequency(chosen, missing="strict").tolist() == [sum(w in t for t in split) for w in chosen])
