"""k-center on digits: what do farthest-first rows cover that random ones leave, and do they teach more?

Pixels of handwritten digits; 20, 60 or 200 of 1,197 rows, the largest and the mean distance to a taken row, and the
accuracy of a logistic regression on the other 600. Random rows of the same number, and fresh random rows in every epoch
at equal steps (RS2), are the baselines.
"""

from __future__ import annotations

import numpy as np

from tamis.claim import Claim, Gate
from tamis.subsets import k_center_greedy

CLAIM = Claim(
    metric="minus the largest distance from a row to the nearest of 60 taken ones",
    method="minus_radius_60",
    baseline="minus_radius_random_60",
    at_least=5.0,
    seeds=5,
    every_seed=True,
    gates=(
        Gate(says="with 200 rows too", higher="minus_radius_200", lower="minus_radius_random_200", at_least=5.0),
        Gate(says="accuracy of 60 rows is no worse than random", higher="accuracy_60", lower="accuracy_random_60"),
    ),
    note="The mean distance (mean_*) is no better than that of random rows: k-center serves the worst row. RS2 sees "
    "all rows in the course of training, and is above both.",
)


def run(seed: int) -> dict[str, float]:
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression, SGDClassifier

    data = load_digits()
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(data.target))
    train, test = order[:1197], order[1197:]
    rows, labels = data.data[train], data.target[train]
    found: dict[str, float] = {}
    for count in (20, 60, 200):
        chosen = k_center_greedy(rows, budget=count, metric="euclidean", seed=seed).indices
        for name, part in (("", chosen), ("random_", rng.choice(len(rows), count, replace=False))):
            gaps = np.sqrt(((rows[:, None] - rows[part]) ** 2).sum(2).min(1))
            found[f"minus_radius_{name}{count}"] = -float(gaps.max())
            found[f"mean_{name}{count}"] = float(gaps.mean())
            model = LogisticRegression(max_iter=1000).fit(rows[part] / 16, labels[part])
            found[f"accuracy_{name}{count}"] = float(model.score(data.data[test] / 16, data.target[test]))
        fresh = SGDClassifier(loss="log_loss", alpha=1e-3, random_state=seed)
        for _ in range(30):
            part = rng.choice(len(rows), count, replace=False)
            fresh.partial_fit(rows[part] / 16, labels[part], classes=np.arange(10))
        found[f"accuracy_rs2_{count}"] = float(fresh.score(data.data[test] / 16, data.target[test]))
    return found
