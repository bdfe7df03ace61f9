"""BatchFormer on long-tailed digits: does it help rare classes on top of a re-balanced loss?

Scikit-learn's digits with classes of 120 down to 2 training images, in a random order, and 50 test images each. A small
network is trained for 60 epochs with plain cross-entropy or balanced softmax, each with and without BatchFormer, whose
rate is a fifth of the backbone's. "doubled" repeats the features without a layer, the control for twice the rows. The
pull is the mean gradient of one sample's loss in another sample's features, at the end of training.
"""

from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy

from tamis.batches import BatchFormer, cross_sample_gradient, duplicate_targets
from tamis.claim import Claim, Gate

CLAIM = Claim(
    metric="accuracy over ten classes, long-tailed training",
    method="balanced_batchformer",
    baseline="balanced",
    at_least=0.0,
    seeds=8,
    gates=(
        Gate(
            says="with the layer, samples pull on one another in training",
            higher="pull_training",
            at_least=1e-6,
            every_seed=True,
        ),
        Gate(
            says="in evaluation none does, to the bit",
            higher="no_pull",
            lower="pull_evaluation",
            every_seed=True,
        ),
        Gate(says="doubled rows alone change nothing", higher="doubled", lower="plain", at_least=-0.005),
    ),
)
EPOCHS, BATCH, TESTS = 60, 64, 50


def world(seed: int) -> tuple[torch.Tensor, ...]:
    """Training images and labels, test images and labels, training images per class."""
    rng = np.random.default_rng(seed)
    images, labels = load_digits(return_X_y=True)
    train, test, counts = [], [], np.empty(10, dtype=np.int64)
    for rank, c in enumerate(rng.permutation(10)):
        rows = rng.permutation(np.flatnonzero(labels == c))
        counts[c] = max(2, round(120 * 50 ** (-rank / 9)))
        test.append(rows[:TESTS])
        train.append(rows[TESTS : TESTS + counts[c]])
    x, y = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)
    train, test = np.concatenate(train), np.concatenate(test)
    return x[train], y[train], x[test], y[test], torch.tensor(counts)


def train(data: tuple[torch.Tensor, ...], seed: int, *, balanced: bool, layer: str | None) -> dict[str, float]:
    """Accuracy over all test images, over the three most and the three least frequent classes, and the pull."""
    x, y, test_x, test_y, counts = data
    prior = counts.float().log() if balanced else torch.zeros(10)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        backbone, classifier = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64)), nn.Linear(64, 10)
        former = BatchFormer(64, seed=seed)
        groups = [{"params": [*backbone.parameters(), *classifier.parameters()]}, former.param_group(2e-4)]
        optimizer = torch.optim.Adam(groups, lr=1e-3)
        for epoch in range(EPOCHS):
            order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1000 * seed + epoch))
            for rows in order.split(BATCH):
                features, targets = backbone(x[rows]), y[rows]
                if layer == "batchformer":
                    features, targets = former(features, targets)
                elif layer == "doubled":
                    features, targets = duplicate_targets(features, targets)
                loss = cross_entropy(classifier(features) + prior, targets)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        with torch.no_grad():
            right = (classifier(backbone(test_x)).argmax(1) == test_y).float()
            features = backbone(x[order[:32]])
        ranked = counts.argsort(descending=True)
        many, few = (torch.isin(test_y, part) for part in (ranked[:3], ranked[-3:]))
        numbers = {"all": right.mean(), "many": right[many].mean(), "few": right[few].mean()}
        if layer == "batchformer":
            own = y[order[:32]]

            def losses(f: torch.Tensor) -> torch.Tensor:
                return cross_entropy(classifier(f) + prior, own.repeat(len(f) // 32), reduction="none")

            apart = ~torch.eye(32, dtype=torch.bool)
            numbers["training"] = cross_sample_gradient(former, features, losses=losses)[apart].mean()
            numbers["evaluation"] = cross_sample_gradient(former.eval(), features, losses=losses)[apart].mean()
    return {name: float(value) for name, value in numbers.items()}


def run(seed: int) -> dict[str, float]:
    torch.set_num_threads(1)
    data, numbers = world(seed), {"no_pull": 0.0}
    for name, balanced, layer in (
        ("plain", False, None),
        ("doubled", False, "doubled"),
        ("batchformer", False, "batchformer"),
        ("balanced", True, None),
        ("balanced_batchformer", True, "batchformer"),
    ):
        found = train(data, seed, balanced=balanced, layer=layer)
        numbers |= {name: found["all"], f"{name}_many": found["many"], f"{name}_few": found["few"]}
        if name == "balanced_batchformer":
            numbers |= {"pull_training": found["training"], "pull_evaluation": found["evaluation"]}
    return numbers
