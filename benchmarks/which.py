"""Which loss, which batches: every objective and sampler on two real tasks at equal steps, against in-batch negatives.

    python benchmarks/which.py                       # two tasks, three seeds; every finished run is kept
    python benchmarks/which.py --tasks esco --arms contrastive mochi --seeds 0

As in ``downstream.py`` the upper three layers of the shipped MiniLM learn from batches of 16 queries, and nDCG@10
counts all answers though the miner saw one per query. All arms but the first train on the same two mined negatives per
query, those of ``tamis.mine``; the guide of an objective that wants one is the model before training.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Iterator
from typing import Any

import downstream
import hidden_tasks
import numpy as np
import torch
from downstream import FROZEN, STEPS, Lab, Weights, pooled

import tamis
from tamis.batches import ClusterBatchSampler, GuardedClusterSampler, TopicBatchSampler, guide_judge
from tamis.clustering import kmeans
from tamis.integrations import objectives
from tamis.integrations.objectives import Guide, Objective
from tamis.integrations.training import MinedRows
from tamis.ngrams import text_groups
from tamis.results import MinedNegatives

Array = np.ndarray[Any, Any]
SIZE, RATE, SEEDS = 16, 1e-4, 3


class Bench:
    """One task with its mined negatives, and training with any objective and any order of rows."""

    def __init__(self, name: str) -> None:
        self.name, self.lab = name, Lab(name)
        task = self.lab.task
        self.guide = Guide(hidden_tasks.vectors(task.train), hidden_tasks.vectors(task.corpus))
        self.mined: MinedNegatives = tamis.mine(
            task.train,
            task.corpus,
            [[int(i)] for i in task.shown],
            negatives=2,
            query_embeddings=self.guide.queries,
            corpus_embeddings=self.guide.passages,
        )
        self.groups = text_groups(task.corpus)[0]

    def trained(self, objective: Objective, batches: Iterator[list[int]], steps: int, negatives: int) -> Weights:
        """The weights after some steps; what the objective itself learns, learns with them."""
        lab, rows = self.lab, MinedRows(self.mined, negatives=negatives)
        learning = {k for k in lab.weights if k.startswith("encoder.layer.") and int(k.split(".")[2]) >= FROZEN}
        weights = {k: v.clone().requires_grad_(k in learning) for k, v in lab.weights.items()}
        groups: list[dict[str, Any]] = [{"params": [weights[k] for k in sorted(learning)], "weight_decay": 0.01}]
        factors = [1.0]
        if isinstance(objective, torch.nn.Module) and list(objective.parameters()):
            groups.append({"params": list(objective.parameters()), "weight_decay": 0.0})
            factors.append(30.0)  # what starts from nothing has as many steps and further to go
        optimizer = torch.optim.AdamW(groups, lr=RATE)
        for step in range(steps):
            for group, factor in zip(optimizer.param_groups, factors, strict=True):
                group["lr"] = factor * RATE * min(1, (step + 1) / (0.1 * steps)) * (1 - step / steps)
            _, _, facts = rows.batch(next(batches))
            queries = pooled(weights, *lab.queries.batch(facts.queries.numpy())).float()
            passages = pooled(weights, *lab.corpus.batch(facts.passages.numpy())).float()
            optimizer.zero_grad()
            objective(queries, passages[: len(queries)], passages[len(queries) :], facts).backward()
            optimizer.step()
        return {k: v.detach() for k, v in weights.items()}


def shuffled(bench: Bench, seed: int) -> Iterator[list[int]]:
    """Batches of rows in random order, each row once per epoch."""
    rng, order = random.Random(seed), []
    while True:
        if len(order) < SIZE:
            order = rng.sample(range(len(bench.lab.task.train)), len(bench.lab.task.train))
        yield [order.pop() for _ in range(SIZE)]


def epochs(sampler: Any) -> Iterator[list[int]]:
    """The batches of a sampler, epoch after epoch."""
    epoch = 0
    while True:
        sampler.set_epoch(epoch)
        yield from sampler
        epoch += 1


LOSSES: dict[str, Callable[[Bench, int, int], Objective]] = {
    "contrastive": lambda bench, steps, seed: objectives.contrastive(),
    "gistembed": lambda bench, steps, seed: objectives.gistembed(bench.guide),
    "gistembed_soft": lambda bench, steps, seed: objectives.gistembed(bench.guide, margin=0.1, softness=0.1),
    "cet": lambda bench, steps, seed: objectives.CoupledEstimation(bench.mined, seed=seed),
    "nbpo": lambda bench, steps, seed: objectives.NoisyNegatives(384, seed=seed),
    "stationary": lambda bench, steps, seed: objectives.compatible(bench.guide, bench.groups),
    "lol": lambda bench, steps, seed: objectives.Feedback(384, seed=seed),
    "cir_uncertainty": lambda bench, steps, seed: objectives.Uncertainty(steps),
    "compositional_nce": lambda bench, steps, seed: objectives.TrackedSums(len(bench.mined.queries)),
    "meow": lambda bench, steps, seed: objectives.cluster_weighted(bench.guide, seed=seed),
    "mochi": lambda bench, steps, seed: objectives.Mixing(seed=seed),
    "batchformer": lambda bench, steps, seed: objectives.BatchAttention(384, seed=seed),
    "rtd": lambda bench, steps, seed: objectives.target_anchored(),
    "spn4cir": lambda bench, steps, seed: objectives.WholeBank(bench.guide, bench.mined.positives),
    "star_adore": lambda bench, steps, seed: objectives.live_index(bench.guide, bench.mined.positives),
}


def ngame(bench: Bench, seed: int) -> Iterator[list[int]]:
    sampler = ClusterBatchSampler(
        len(bench.guide.queries),
        SIZE,
        cluster_size=SIZE,
        schedule={},
        power_of_two=False,
        shuffle_within=True,
        seed=seed,
    )
    sampler.update(bench.guide.queries, 0)
    return epochs(sampler)


def tas_balanced(bench: Bench, seed: int) -> Iterator[list[int]]:
    queries = bench.guide.queries
    topics = kmeans(queries, len(queries) // (8 * SIZE), spherical=True, seed=seed).labels
    return epochs(TopicBatchSampler(topics, SIZE, seed=seed))


def guarded_clusters(bench: Bench, seed: int) -> Iterator[list[int]]:
    queries, own = bench.guide.queries, bench.lab.task.shown
    sampler = GuardedClusterSampler(len(queries), SIZE, seed=seed)
    sampler.update(queries, 0, judge=guide_judge(queries, bench.guide.passages[own], keys=bench.groups[own]))
    return epochs(sampler)


BATCHES: dict[str, Callable[[Bench, int], Iterator[list[int]]]] = {
    "ngame": ngame,
    "tas_balanced": tas_balanced,
    "guarded_clusters": guarded_clusters,
}


def run(bench: Bench, arm: str, seed: int) -> Array:
    """nDCG@10 of every test query after training one arm."""
    steps = STEPS[bench.name]
    torch.manual_seed(seed)
    if arm == "in-batch only":
        return bench.lab.ndcg(bench.trained(objectives.contrastive(), shuffled(bench, seed), steps, 0))
    if arm in BATCHES:
        return bench.lab.ndcg(bench.trained(objectives.contrastive(), BATCHES[arm](bench, seed), steps, 2))
    return bench.lab.ndcg(bench.trained(LOSSES[arm](bench, steps, seed), shuffled(bench, seed), steps, 2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=["esco", "cwe"])
    parser.add_argument("--arms", nargs="+", default=["in-batch only", *LOSSES, *BATCHES])
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(SEEDS)))
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    kept = hidden_tasks.CACHE / "which"
    kept.mkdir(parents=True, exist_ok=True)
    results: dict[tuple[str, str], Array] = {}
    for name in chosen.tasks:
        bench: Bench | None = None
        for arm in chosen.arms:
            for seed in chosen.seeds:
                file = kept / f"{name}.{arm.replace(' ', '_')}.{seed}.npy"
                if not file.exists():
                    bench = bench or Bench(name)
                    start = time.process_time()
                    np.save(file, run(bench, arm, seed))
                    spent = time.process_time() - start
                    print(f"# {name} {arm} {seed}: {np.load(file).mean():.4f}, {spent:.0f} CPU s", flush=True)
            files = [kept / f"{name}.{arm.replace(' ', '_')}.{seed}.npy" for seed in chosen.seeds]
            results[name, arm] = np.array([np.load(file) for file in files])
    print("| | " + " | ".join(f"{t} nDCG@10 | minus in-batch only" for t in chosen.tasks) + " |")
    print("|---" * (1 + 2 * len(chosen.tasks)) + "|")
    for arm in chosen.arms:
        cells = []
        for name in chosen.tasks:
            found = results[name, arm]
            gap = found - results.get((name, "in-batch only"), found)
            low, high = downstream.interval(gap)
            cells.append(f"{found.mean():.3f} | {gap.mean():+.3f} ({low:+.3f}, {high:+.3f})")
        print(f"| {arm} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
