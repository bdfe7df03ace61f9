"""MoCHi on 500 fine classes: a harder task, embeddings that spread further, and no recall lost.

20 super-classes of 25 sub-classes have points in an 8-dimensional content; a view adds a fresh style and passes both
through a random network. MoCo learns from two views of fresh samples of 400 sub-classes; mixing begins at step 150.
Measured on the 100 held-out sub-classes: the share of queries whose nearest gallery item is of their own sub-class, and
the uniformity of the gallery; over the last 100 steps the proxy accuracy, the share of queries whose positive beats all
negatives, mixed ones included. Settings are (hardest, pairs, mixed with the query).
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn

from tamis.claim import Claim, Gate
from tamis.contrastive import unit_rows
from tamis.negatives import FeatureQueue, MoCHiLoss, proxy_accuracy, uniformity
from tamis.randomness import child_seed

STEPS, WARMUP, BATCH, SUPER, SUB = 1200, 150, 128, 20, 25
ARMS = {"infonce": (1, 0, 0), "mochi_pairs": (64, 64, 0), "mochi": (64, 64, 16)}
CLAIM = Claim(
    metric="uniformity on held-out classes, -log mean exp(-2 d^2)",
    method="uniformity_mochi",
    baseline="uniformity_infonce",
    at_least=0.04,
    seeds=5,
    every_seed=True,
    gates=(
        Gate(
            says="uniformity is up by 0.04 in every seed",
            higher="uniformity_mochi",
            lower="uniformity_infonce",
            at_least=0.04,
            every_seed=True,
        ),
        Gate(
            says="and so it is without mixing the query",
            higher="uniformity_mochi_pairs",
            lower="uniformity_infonce",
            at_least=0.04,
            every_seed=True,
        ),
        Gate(says="the proxy task is harder", higher="proxy_infonce", lower="proxy_mochi", at_least=0.02),
        Gate(says="and without mixing the query", higher="proxy_infonce", lower="proxy_mochi_pairs", at_least=0.02),
        Gate(says="recall@1 is not lower by 0.01", higher="recall_mochi", lower="recall_infonce", at_least=-0.01),
        Gate(says="nor without mixing the query", higher="recall_mochi_pairs", lower="recall_infonce", at_least=-0.01),
    ),
)


def network(sizes: tuple[int, ...], generator: torch.Generator) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        layer = nn.utils.skip_init(nn.Linear, before, after)
        for parameter in layer.parameters():
            nn.init.uniform_(parameter, -(before**-0.5), before**-0.5, generator=generator)
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def world(seed: int) -> dict[str, Tensor]:
    """Two views of every training sample (steps, batch, 64); queries and gallery of held-out sub-classes."""
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    first, second = (randn(n, m) * 1.5 / math.sqrt(n) for n, m in ((16, 96), (96, 64)))
    points = (randn(SUPER, 1, 8) + 0.35 * randn(SUPER, SUB, 8)).reshape(-1, 8)
    order = torch.randperm(len(points), generator=generator)
    test, train = points[order[: len(points) // 5]], points[order[len(points) // 5 :]]

    def view(content: Tensor) -> Tensor:
        inside = torch.tanh(torch.cat([content, randn(*content.shape)], -1) @ first)
        x: Tensor = torch.tanh(inside @ second)
        return x + 0.05 * randn(*x.shape)

    def sample(labels: Tensor, among: Tensor) -> Tensor:
        return among[labels] + 0.05 * randn(*labels.shape, 8)

    content = sample(torch.randint(len(train), (STEPS, BATCH), generator=generator), train)
    labels = torch.randint(len(test), (3000,), generator=generator)
    return {"one": view(content), "two": view(content), "test": view(sample(labels, test)), "labels": labels}


def score(data: dict[str, Tensor], setting: tuple[int, int, int], seed: int) -> tuple[float, float, float]:
    """Recall@1, uniformity and proxy accuracy of one arm."""
    start = torch.Generator().manual_seed(child_seed(seed, "mochi claim"))
    encoder, momentum = network((64, 256, 256, 32), start), network((64, 256, 256, 32), start)
    momentum.load_state_dict(encoder.state_dict())
    queue, loss_of = FeatureQueue(512, 32), MoCHiLoss(0.2, *setting, WARMUP, seed=seed)
    optimizer = torch.optim.Adam(encoder.parameters(), lr=1e-3)
    solved = []
    for step in range(STEPS):
        with torch.no_grad():
            keys = unit_rows(momentum(data["two"][step]))
        if step:
            query = encoder(data["one"][step])
            if step >= STEPS - 100:
                negatives, positives, mixed = loss_of.scores(query, keys, queue.vectors)
                solved.append(proxy_accuracy(positives, torch.cat([negatives, mixed], 1)))
            optimizer.zero_grad()
            loss_of(query, keys, queue.vectors).backward()
            optimizer.step()
            with torch.no_grad():
                for slow, fast in zip(momentum.parameters(), encoder.parameters(), strict=True):
                    slow.lerp_(fast, 0.01)
        queue.push(keys)
    with torch.no_grad():
        queries, gallery = unit_rows(encoder(data["test"])).split([1000, 2000])
    labels = data["labels"]
    right = labels[1000:][(queries @ gallery.T).argmax(1)] == labels[:1000]
    return float(right.float().mean()), uniformity(gallery), sum(solved) / len(solved)


def run(seed: int) -> dict[str, float]:
    torch.set_num_threads(1)
    data, out = world(seed), {}
    for arm, setting in ARMS.items():
        out[f"recall_{arm}"], out[f"uniformity_{arm}"], out[f"proxy_{arm}"] = score(data, setting, seed)
    return out
