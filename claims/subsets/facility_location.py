"""Facility location on digits: do greedy rows represent the data better than random ones, and teach more?

Pixels of handwritten digits, cosine; 20, 60 or 200 of 1,197 rows, the mean similarity of a row to its nearest taken
one, and the accuracy of a logistic regression on the other 600. Random rows of the same number, and fresh random rows
in every epoch at equal steps (RS2), are the baselines.
"""

from __future__ import annotations

import numpy as np

from tamis.claim import Claim, Gate
from tamis.subsets import facility_location_greedy

CLAIM = Claim(
    metric="mean similarity of a row to the nearest of 60 taken ones",
    method="similarity_60",
    baseline="similarity_random_60",
    at_least=0.01,
    seeds=5,
    every_seed=True,
    gates=(
        Gate(says="with 20 rows too", higher="similarity_20", lower="similarity_random_20", at_least=0.01),
        Gate(says="20 rows teach more", higher="accuracy_20", lower="accuracy_random_20", at_least=0.05),
        Gate(says="60 rows teach more", higher="accuracy_60", lower="accuracy_random_60", at_least=0.0),
    ),
    note="RS2 sees all rows in the course of training: it teaches more than 20 and 200 fixed rows, and as much as 60.",
)


def run(seed: int) -> dict[str, float]:
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression, SGDClassifier

    data = load_digits()
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(data.target))
    train, test = order[:1197], order[1197:]
    rows, labels = data.data[train], data.target[train]
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    found: dict[str, float] = {}
    for count in (20, 60, 200):
        chosen = facility_location_greedy(rows, budget=count).indices
        for name, part in (("", chosen), ("random_", rng.choice(len(rows), count, replace=False))):
            found[f"similarity_{name}{count}"] = float((unit @ unit[part].T).max(1).mean())
            model = LogisticRegression(max_iter=1000).fit(rows[part] / 16, labels[part])
            found[f"accuracy_{name}{count}"] = float(model.score(data.data[test] / 16, data.target[test]))
        fresh = SGDClassifier(loss="log_loss", alpha=1e-3, random_state=seed)
        for _ in range(30):
            part = rng.choice(len(rows), count, replace=False)
            fresh.partial_fit(rows[part] / 16, labels[part], classes=np.arange(10))
        found[f"accuracy_rs2_{count}"] = float(fresh.score(data.data[test] / 16, data.target[test]))
    return found
