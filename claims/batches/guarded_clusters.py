"""Guarded clusters where every label has unknown twins: dense batches, and the false negatives that come with them.

Documents and labels are noisy views of latent positions, as in NGAME's claim: 6,000 documents, 1,024 labels around 64
centres, but every four labels stand for one thing. A document is known by one of the four; all four are right answers.
A linear encoder of documents and a vector for every label learn from in-batch negatives, in random batches, in clusters
made anew every epoch, and in guarded clusters with the judge's log-weights in the loss; the guide that judges sees
latent positions through noise of its own. "apart_only" goes without the log-weights, "weighted_only" keeps the
clusters and has only them, "random_weighted" has them in random batches.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from tamis.batches import GuardedClusterSampler, guarded_log_weights, guide_judge
from tamis.claim import Claim, Gate
from tamis.contrastive import info_nce
from tamis.extra_negatives import known_positive_log_weights

CLAIM = Claim(
    metric="recall@4 of the four right labels of 1,000 test documents, after 8 epochs",
    method="guarded",
    baseline="clusters",
    at_least=0.01,
    seeds=5,
    gates=(
        Gate(says="guarded clusters beat random batches", higher="guarded", lower="random", at_least=0.01),
        Gate(
            says="keeping apart at least halves the false ones among in-batch negatives",
            higher="half_of_false_clusters",
            lower="false_apart_only",
            every_seed=True,
        ),
        Gate(says="guarded clusters are no worse than log-weights alone", higher="guarded", lower="weighted_only"),
    ),
)
LABELS, TWINS, TRAIN, TEST, BATCH, EPOCHS, MARGIN = 1024, 4, 6000, 1000, 64, 8, 0.02


class World:
    """Features of documents and labels, the label that each document is known by, and what the guide sees."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        centres = np.repeat(rng.standard_normal((64, 24)), LABELS // TWINS // 64, axis=0)
        things = centres + 0.35 * rng.standard_normal((LABELS // TWINS, 24))
        labels = np.repeat(things, TWINS, axis=0)
        self.owner = torch.from_numpy(rng.integers(LABELS, size=TRAIN + TEST))
        documents = labels[self.owner] + 0.25 * rng.standard_normal((TRAIN + TEST, 24))
        mixing = rng.standard_normal((24, 96)) / 5

        def view(latent: np.ndarray) -> Tensor:
            noisy = np.tanh(latent @ mixing) + 0.2 * rng.standard_normal((len(latent), 96))
            return torch.tensor(noisy, dtype=torch.float32)

        def guide(latent: np.ndarray) -> Tensor:
            return torch.tensor(latent + 0.15 * rng.standard_normal(latent.shape), dtype=torch.float32)

        self.documents, self.labels = view(documents), view(labels)
        asked, answers = guide(documents[:TRAIN]), guide(labels)[self.owner[:TRAIN]]
        self.judge = guide_judge(asked, answers, keys=self.owner[:TRAIN], margin=MARGIN)


def train(world: World, seed: int, *, clustered: bool, spread: int, weighted: bool) -> dict[str, float]:
    """Recall@4 at the end, the share of in-batch negatives that are false, and that of rows away from their cluster."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        encoder = torch.nn.Linear(96, 32)
    labels = encoder(world.labels).detach().clone().requires_grad_()
    optimizer = torch.optim.Adam([*encoder.parameters(), labels], lr=3e-3)
    sampler = GuardedClusterSampler(TRAIN, BATCH, spread=spread, seed=seed)
    owner, false, moved = world.owner, [], []
    for epoch in range(EPOCHS):
        sampler.set_epoch(epoch)
        if epoch > 0 and clustered:
            with torch.no_grad():
                sampler.update(encoder(world.documents[:TRAIN]), epoch, judge=world.judge)
            moved.append(sampler.moved)
        for batch in sampler:
            ids = owner[batch]
            log_weights = known_positive_log_weights(ids, ids)
            if weighted:
                log_weights = log_weights + guarded_log_weights(world.judge, batch)
            loss = info_nce(encoder(world.documents[batch]), labels[ids], log_weights=log_weights)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if epoch > 0:
                counted = log_weights == 0
                false.append(float(((ids[:, None] // TWINS == ids // TWINS) & counted).sum() / counted.sum()))
    with torch.no_grad():
        found = (encoder(world.documents[TRAIN:]) @ normalize(labels).T).topk(TWINS).indices
    right = float((found // TWINS == owner[TRAIN:, None] // TWINS).float().mean())
    return {"right": right, "false": float(np.mean(false)), "moved": float(np.mean(moved or [0.0]))}


def run(seed: int) -> dict[str, float]:
    torch.set_num_threads(1)
    world, numbers = World(seed), {}
    for name, clustered, spread, weighted in (
        ("random", False, 1, False),
        ("random_weighted", False, 1, True),
        ("clusters", True, 1, False),
        ("weighted_only", True, 1, True),
        ("apart_only", True, 4, False),
        ("guarded", True, 4, True),
    ):
        found = train(world, seed, clustered=clustered, spread=spread, weighted=weighted)
        numbers |= {name: found["right"], f"false_{name}": found["false"], f"moved_{name}": found["moved"]}
    return numbers | {"half_of_false_clusters": numbers["false_clusters"] / 2}
