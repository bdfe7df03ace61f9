"""Robust active distillation on digits, with a teacher that is wrong on a quarter of the pool, where it is hard.

A logistic student learns from 100 labelled digits, asks the teacher about 200 of 1,197 others and learns again from all
300. The teacher is wrong on the quarter of the pool with the smallest student margins (plus noise), and then gives any
other class. Compared: margin sampling, in proportion to the gain, uniform, and the robust choice knowing the teacher's
error or half of it; with a teacher that is always right too. `wrong_*` is the share of wrong labels among those asked.
"""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from tamis.claim import Claim, Gate
from tamis.subsets import RobustActiveDistillation, active_baseline, active_gains

CLAIM = Claim(
    metric="accuracy after 200 answers of a teacher that is wrong on 25 %",
    method="accuracy_robust",
    baseline="accuracy_uniform",
    at_least=0.005,
    seeds=20,
    gates=(
        Gate(says="better than uniform in at least 60 % of the seeds", higher="beats_uniform", at_least=0.6),
        Gate(says="far above margin", higher="accuracy_robust", lower="accuracy_margin", at_least=0.15),
        Gate(
            says="with a teacher that is always right, margin wins or ties",
            higher="accuracy_margin_right_teacher",
            lower="accuracy_robust_right_teacher",
        ),
    ),
)
ASKED = 200


def fit(x: np.ndarray, y: np.ndarray) -> LogisticRegression:
    return LogisticRegression(max_iter=300).fit(x, y)


def run(seed: int) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    x, y = load_digits(return_X_y=True)
    x = x / 16
    order = rng.permutation(len(x))
    test, known, pool = order[:500], order[500:600], order[600:]
    probs = fit(x[known], y[known]).predict_proba(x[pool])
    n = len(pool)
    hard = np.argsort(1 - active_gains(probs) + 0.25 * rng.random(n))[: round(0.25 * n)]
    teacher = y[pool].copy()
    teacher[hard] = (teacher[hard] + rng.integers(1, 10, len(hard))) % 10
    chosen = {
        name: active_baseline(probs, ASKED, strategy=name, seed=seed) for name in ("margin", "prop_gain", "uniform")
    }
    chosen["robust"] = RobustActiveDistillation(0.25).query(probs, ASKED, seed=seed).indices
    chosen["robust_half_the_error"] = RobustActiveDistillation(0.125).query(probs, ASKED, seed=seed).indices
    chosen["robust_right_teacher"] = RobustActiveDistillation(0.0).query(probs, ASKED, seed=seed).indices
    chosen["margin_right_teacher"] = chosen["margin"]
    chosen["uniform_right_teacher"] = chosen["uniform"]
    found = {}
    for name, asked in chosen.items():
        answers = y[pool] if name.endswith("right_teacher") else teacher
        rows = np.concatenate([known, pool[asked]])
        labels = np.concatenate([y[known], answers[asked]])
        found[f"accuracy_{name}"] = float(fit(x[rows], labels).score(x[test], y[test]))
        found[f"wrong_{name}"] = float((answers[asked] != y[pool][asked]).mean())
    found["beats_uniform"] = float(found["accuracy_robust"] > found["accuracy_uniform"])
    return found
