"""A margin chosen on planted positives keeps hidden positives out at the rate that it states; top-k does not.

Queries ask for one of 1,000 concepts; every concept has two to six passages that answer it, at various distances. Of
half of the queries all answers are known, so that they can be planted; of every query of the other half one answer,
drawn at random, is hidden for good. The share of those hidden answers (among those that reach the candidate pool) that
end up among the negatives is the truth that the audit's bound speaks of.
"""

from __future__ import annotations

import numpy as np

from tamis.claim import Claim, Gate
from tamis.negatives.mine import mine_negatives as mine
from tamis.results import MinedNegatives

BOUND = 0.05
CLAIM = Claim(
    metric="share of hidden positives in the pool that do not become negatives",
    method="calibrated",
    baseline="top-k",
    at_least=0.2,
    seeds=5,
    every_seed=True,
    gates=(
        Gate(says=f"the true survival is at most {BOUND}, on the mean of the seeds", higher="bound", lower="survival"),
        Gate(says="at least 6 of 8 negatives are still found per query", higher="negatives_per_query", at_least=6.0),
    ),
)


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def world(seed: int) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Query vectors (1,000, 64), passage vectors (n, 64) and the rows of all answers per query."""
    rng = np.random.default_rng(seed)
    themes = rng.standard_normal((100, 64))
    concepts = themes[rng.integers(100, size=1000)] + 0.8 * rng.standard_normal((1000, 64))
    owner = np.repeat(np.arange(1000), rng.integers(2, 7, size=1000))
    spread = rng.uniform(0.3, 1.8, size=(len(owner), 1))
    passages = concepts[owner] + spread * rng.standard_normal((len(owner), 64))
    queries = concepts + 0.5 * rng.standard_normal((1000, 64))
    answers = [np.flatnonzero(owner == c) for c in range(1000)]
    return unit(queries).astype(np.float32), unit(passages).astype(np.float32), answers


def survival(hidden: dict[int, int], mined: MinedNegatives, reach: np.ndarray) -> float:
    """Of the hidden answers that reach the pool, the share among the negatives of their query."""
    picked = set(zip(mined.negatives["query"].tolist(), mined.negatives["negative"].tolist(), strict=True))
    reached = [(q, h) for q, h in hidden.items() if reach[q] <= 200]
    return sum(pair in picked for pair in reached) / len(reached)


def run(seed: int) -> dict[str, float]:
    """Survival of hidden answers for top-k and for the calibrated margin."""
    queries, passages, answers = world(seed)
    rng = np.random.default_rng([seed, 1])
    hidden = {q: int(rng.choice(answers[q])) for q in range(500, 1000)}
    known = [a if q < 500 else a[a != hidden[q]] for q, a in enumerate(answers)]
    scores = queries @ passages.T
    reach = np.zeros(1000)
    for q, h in hidden.items():
        strangers = np.setdiff1d(np.arange(len(passages)), known[q])
        reach[q] = 1 + (scores[q, strangers] > scores[q, h]).sum()
    texts = [f"passage {i}" for i in range(len(passages))], [f"query {i}" for i in range(1000)]
    given = {"query_embeddings": queries, "corpus_embeddings": passages, "negatives": 8, "seed": seed}
    plain = mine(texts[1], texts[0], known, max_survival=1.0, **given)
    careful = mine(texts[1], texts[0], known, max_survival=BOUND, calibrate="margin", **given)
    rates = survival(hidden, plain, reach), survival(hidden, careful, reach)
    return {
        "top-k": 1 - rates[0],
        "calibrated": 1 - rates[1],
        "survival": rates[1],
        "stated": careful.summary["audit"]["verification"]["rate"],
        "bound": BOUND,
        "margin": careful.summary["audit"]["margin"]["value"],
        "negatives_per_query": len(careful) / 1000,
    }
