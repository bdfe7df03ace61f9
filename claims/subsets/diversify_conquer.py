"""kMQ and rounds on digits: is an equal quota better than chance, and do rounds starve clusters of junk?

A pool with very uneven classes (110 rows of the most frequent, 4 of the rarest), 20 clusters, 60 rows chosen, logistic
regression, accuracy on balanced digits. Then 150 rows of junk with random labels join the pool, around three noise
prototypes, and 90 rows are chosen at once, or in three rounds whose scores are the probability that a model fitted to
the other rows gives the label. Repeated random sampling (rs2) sees a fresh random part of the pool every epoch, in as
many steps of gradient descent as the fixed choices are given there (`sgd_*`); it may use the labels of the whole pool.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch import nn

from tamis.claim import Claim, Gate
from tamis.subsets import IterativeClusterSelector, KMeansQuality, rs2_indices

CLAIM = Claim(
    metric="accuracy with 60 rows, equal quotas against random",
    method="accuracy_km",
    baseline="accuracy_random",
    at_least=0.04,
    seeds=20,
    gates=(
        Gate(says="equal quotas win in most seeds", higher="km_wins", at_least=0.5),
        Gate(says="rounds choose at most 0.65 of the junk", higher="junk_allowed", lower="junk_rounds"),
    ),
    note=(
        "The gate on junk is met where weights are multiplied by mean scores, feedback='proportional', the paper's "
        "form. By their exponential, the code's form and the default, rounds take 0.79 of the static junk "
        "(junk_rounds_softmax), more than the gate allows. Static quotas are more accurate than every form of rounds, "
        "for classes that are hard and clean score low too; without a floor, rounds are no better than random rows "
        "(accuracy_random_with_junk, sgd_random_with_junk: both differences are within chance). A floor gives part of "
        "the accuracy back and takes 0.74 of the junk. Repeated random sampling is far ahead of any fixed choice "
        "(sgd_rs2, sgd_rs2_with_junk), since it learns from the labels of the whole pool."
    ),
)
CLUSTERS = 20


def fit(x: np.ndarray, y: np.ndarray) -> LogisticRegression:
    return LogisticRegression(max_iter=300).fit(x, y)


def accuracy(x, y, rows, test) -> float:
    return float(fit(x[rows], y[rows]).score(*test))


def left_out_probability(x: np.ndarray, y: np.ndarray, rng: np.random.Generator, folds: int = 3) -> np.ndarray:
    """The probability of each row's label by a model that was fitted to the other folds."""
    fold, found = rng.permutation(len(x)) % folds, np.zeros(len(x))
    for number in range(folds):
        inside = fold == number
        model = fit(x[~inside], y[~inside])
        columns = {label: column for column, label in enumerate(model.classes_.tolist())}
        probs = model.predict_proba(x[inside])
        known = [columns.get(label, -1) for label in y[inside].tolist()]
        found[inside] = [row[column] if column >= 0 else 0.0 for row, column in zip(probs, known, strict=True)]
    return found


def sgd(x, y, part, test, seed: int, epochs: int = 60) -> float:
    """Accuracy of softmax regression after so many epochs over ``part(epoch)``, a tenth of the steps at each rate."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Linear(x.shape[1], 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 3 * epochs)
    inputs, labels = torch.tensor(x, dtype=torch.float32), torch.tensor(y)
    for epoch in range(epochs):
        for rows in np.array_split(part(epoch), 3):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs[rows]), labels[rows]).backward()
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        right = model(torch.tensor(test[0], dtype=torch.float32)).argmax(1).numpy() == test[1]
    return float(right.mean())


def shuffled(rows: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(rows)


def run(seed: int) -> dict[str, float]:
    torch.set_num_threads(1)
    rng = np.random.default_rng(seed)
    x, y = load_digits(return_X_y=True)
    x, order = x / 16, np.random.default_rng(0).permutation(len(y))
    test = x[order[:600]], y[order[:600]]
    rest = order[600:]
    sizes = [max(4, int(110 * 0.65**rank)) for rank in range(10)]
    pool = np.concatenate(
        [rng.permutation(rest[y[rest] == label])[:size] for label, size in zip(rng.permutation(10), sizes, strict=True)]
    )
    px, py = x[pool], y[pool]
    chance = rng.choice(len(px), 60, replace=False)
    quota = KMeansQuality(CLUSTERS, budget=60, seed=seed).fit_select(px).indices
    found = {"accuracy_random": accuracy(px, py, chance, test)}
    found["accuracy_km"] = accuracy(px, py, quota, test)
    found["km_wins"] = float(found["accuracy_km"] > found["accuracy_random"])
    fixed = {"random": chance, "km": quota}
    for name, rows in fixed.items():
        found[f"sgd_{name}"] = sgd(px, py, partial(shuffled, rows, seed), test, seed)
    found["sgd_rs2"] = sgd(px, py, lambda epoch: rs2_indices(len(px), 60 / len(px), epoch, seed), test, seed)

    prototypes = rng.uniform(size=(3, x.shape[1]))
    junk = prototypes[np.arange(150) % 3] + 0.05 * rng.normal(size=(150, x.shape[1]))
    jx, jy = np.concatenate([px, junk]), np.concatenate([py, rng.integers(10, size=150)])
    static = KMeansQuality(CLUSTERS, budget=90, seed=seed).fit_select(jx)
    found["junk_static"] = float((static.indices >= len(px)).mean())
    found["accuracy_static"] = accuracy(jx, jy, static.indices, test)
    ways = (("rounds", "proportional", 0.0), ("rounds_floor", "proportional", 0.5), ("rounds_softmax", "softmax", 0.0))
    for name, feedback, floor in ways:
        selector = IterativeClusterSelector(
            CLUSTERS, budget=90, rounds=3, feedback=feedback, min_weight=floor, seed=seed
        ).fit(jx)
        for _ in range(3):
            asked = selector.ask()
            rows = selector.selection().indices
            scores = left_out_probability(jx[rows], jy[rows], rng)
            selector.tell(asked, scores[-len(asked) :])
        rows = selector.selection().indices
        found[f"junk_{name}"] = float((rows >= len(px)).mean())
        found[f"accuracy_{name}"] = accuracy(jx, jy, rows, test)
        if name == "rounds":
            found["sgd_rounds"] = sgd(jx, jy, partial(shuffled, rows, seed), test, seed)
    random_rows = rng.choice(len(jx), 90, replace=False)
    found["junk_random"] = float((random_rows >= len(px)).mean())
    found["accuracy_random_with_junk"] = accuracy(jx, jy, random_rows, test)
    for name, rows in {"static": static.indices, "random_with_junk": random_rows}.items():
        found[f"sgd_{name}"] = sgd(jx, jy, partial(shuffled, rows, seed), test, seed)
    found["sgd_rs2_with_junk"] = sgd(jx, jy, lambda epoch: rs2_indices(len(jx), 90 / len(jx), epoch, seed), test, seed)
    found["junk_allowed"] = 0.65 * found["junk_static"]
    return found
