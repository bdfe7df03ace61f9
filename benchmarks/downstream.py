"""Does it pay? nDCG@10 after equal training on the negatives of every rule, judged with all answers.

    python benchmarks/downstream.py                      # three tasks, five seeds; every finished run is kept
    python benchmarks/downstream.py --tasks esco --seeds 0

A miner sees one positive per query; the other answers are hidden in the corpus and count in the test. The upper three
layers of the shipped MiniLM learn, from equal numbers of steps of 16 queries with in-batch negatives and two mined ones
per query. The layers below are frozen, so their output is computed once. Products run in bfloat16 for every arm alike.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hidden_tasks
import numpy as np
import rules
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tokenizers import Tokenizer

from tamis import encoders

Array = np.ndarray[Any, Any]
Weights = dict[str, torch.Tensor]
STEPS = {"esco": 60, "cwe": 60, "hpo": 80}
ARMS = ("in-batch only", *(name for name in rules.RULES if name != "relative margin 0.05"), "guide", "Tamis", "oracle")
NORM, FROZEN, LAYERS, HEADS, LENGTH = 1e-12, 3, 6, 12, 64


def layer(weights: Weights, states: torch.Tensor, mask: torch.Tensor, number: int) -> torch.Tensor:
    """One layer of BERT."""
    stem = f"encoder.layer.{number}."
    b, length, width = states.shape

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.linear(x, weights[f"{stem}{name}.weight"], weights[f"{stem}{name}.bias"])

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.layer_norm(x, (width,), weights[f"{stem}{name}.weight"], weights[f"{stem}{name}.bias"], NORM)

    query, key, value = (
        linear(states, f"attention.self.{name}").view(b, length, HEADS, -1).transpose(1, 2)
        for name in ("query", "key", "value")
    )
    seen = F.scaled_dot_product_attention(query, key, value, attn_mask=mask[:, None, None, :])
    seen = linear(seen.transpose(1, 2).reshape(b, length, width), "attention.output.dense")
    states = norm(states + seen, "attention.output.LayerNorm")
    inner = F.gelu(linear(states, "intermediate.dense"))
    return norm(states + linear(inner, "output.dense"), "output.LayerNorm")


class FrozenStates:
    """Token states below the layers that learn, end to end in one tensor."""

    def __init__(self, texts: Sequence[str], weights: Weights, tokens: Tokenizer) -> None:
        ids = [one.ids for one in tokens.encode_batch(list(texts))]
        self.lengths = np.array([len(one) for one in ids])
        self.starts = np.concatenate([[0], np.cumsum(self.lengths)])
        self.states = torch.empty(int(self.starts[-1]), weights["embeddings.word_embeddings.weight"].shape[1])
        with torch.no_grad():
            for rows in np.array_split(np.argsort(self.lengths, kind="stable"), max(1, len(ids) // 64)):
                longest = int(self.lengths[rows].max())
                padded = torch.tensor([ids[i] + [0] * (longest - len(ids[i])) for i in rows])
                mask = torch.arange(longest) < torch.from_numpy(self.lengths[rows])[:, None]
                x = weights["embeddings.word_embeddings.weight"][padded]
                x = x + weights["embeddings.position_embeddings.weight"][:longest]
                x = x + weights["embeddings.token_type_embeddings.weight"][0]
                names = (weights["embeddings.LayerNorm.weight"], weights["embeddings.LayerNorm.bias"])
                x = F.layer_norm(x, x.shape[-1:], *names, NORM)
                for number in range(FROZEN):
                    x = layer(weights, x, mask, number)
                for i, row in enumerate(rows):
                    self.states[self.starts[row] : self.starts[row + 1]] = x[i, : self.lengths[row]]

    def batch(self, rows: Array) -> tuple[torch.Tensor, torch.Tensor]:
        """Padded states and mask of some texts."""
        lengths = torch.from_numpy(self.lengths[rows])
        mask = torch.arange(int(lengths.max())) < lengths[:, None]
        states = torch.zeros(*mask.shape, self.states.shape[1])
        states[mask] = torch.cat([self.states[self.starts[r] : self.starts[r + 1]] for r in rows])
        return states, mask


def pooled(weights: Weights, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The learning layers and the mean over tokens, as unit vectors."""
    with torch.autocast("cpu", torch.bfloat16):
        for number in range(FROZEN, LAYERS):
            states = layer(weights, states, mask, number)
    share = mask.float() / mask.sum(1, keepdim=True)
    return F.normalize((states.float() * share[..., None]).sum(1), dim=1)


class Lab:
    """One task, its frozen states, and training and judging on them."""

    def __init__(self, name: str) -> None:
        folder = Path(encoders.default_model())
        weights = load_file(str(folder / "model.safetensors"))
        self.weights = {k: v for k, v in weights.items() if v.is_floating_point() and not k.startswith("pooler")}
        tokens = Tokenizer.from_file(str(folder / "tokenizer.json"))
        tokens.no_padding()
        tokens.enable_truncation(LENGTH)
        self.task = hidden_tasks.load(name, train=4000, test=400, passages=6000)
        self.queries, self.corpus, self.test = (
            FrozenStates(texts, self.weights, tokens) for texts in (self.task.train, self.task.corpus, self.task.test)
        )

    def trained(self, negatives: Array, steps: int, seed: int, *, size: int = 16, rate: float = 1e-4) -> Weights:
        """Weights after some steps of the contrastive loss at temperature 0.05."""
        rng = random.Random(seed)
        learning = {k for k in self.weights if k.startswith("encoder.layer.") and int(k.split(".")[2]) >= FROZEN}
        weights = {k: v.clone().requires_grad_(k in learning) for k, v in self.weights.items()}
        optimizer = torch.optim.AdamW([weights[k] for k in sorted(learning)], lr=rate, weight_decay=0.01)
        order: list[int] = []
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = rate * min(1, (step + 1) / (0.1 * steps)) * (1 - step / steps)
            if len(order) < size:
                order = rng.sample(range(len(self.task.train)), len(self.task.train))
            rows = np.array([order.pop() for _ in range(size)])
            mined = negatives[rows].ravel()
            passages = np.concatenate([self.task.shown[rows], mined[mined >= 0]])
            queries = pooled(weights, *self.queries.batch(rows))
            scores = queries @ pooled(weights, *self.corpus.batch(passages)).T / 0.05
            optimizer.zero_grad()
            F.cross_entropy(scores, torch.arange(size)).backward()
            optimizer.step()
        return {k: v.detach() for k, v in weights.items()}

    def ndcg(self, weights: Weights) -> Array:
        """nDCG@10 of every test query, all answers counted."""
        sides = []
        with torch.no_grad():
            for texts in (self.test, self.corpus):
                out = torch.empty(len(texts.lengths), texts.states.shape[1])
                for rows in np.array_split(np.argsort(texts.lengths, kind="stable"), max(1, len(out) // 64)):
                    out[torch.from_numpy(rows)] = pooled(weights, *texts.batch(rows))
                sides.append(out)
        top = torch.topk(sides[0] @ sides[1].T, 10).indices.tolist()
        gain = 1 / np.log2(np.arange(2, 12))
        hits = np.array([[i in own for i in row] for row, own in zip(top, self.task.test_answers, strict=True)])
        best = np.array([gain[: len(own)].sum() for own in self.task.test_answers])
        return np.asarray(hits @ gain / best)

    def negatives(self, arm: str) -> Array:
        """(q, 2) the negatives of an arm, -1 for none."""
        task = self.task
        if arm == "in-batch only":
            return np.full((len(task.train), 2), -1)
        queries, corpus = hidden_tasks.vectors(task.train), hidden_tasks.vectors(task.corpus)
        if arm == "Tamis":
            return rules.by_tamis(task, 2, query_embeddings=queries, corpus_embeddings=corpus)[0]
        rows, scores = rules.ranked(queries, corpus, task.shown)
        positive = np.einsum("qd,qd->q", queries, corpus[task.shown])
        if arm == "oracle":
            return rules.oracle(rows, task, 2)
        if arm == "guide":
            guide = hidden_tasks.vectors(task.train, "static"), hidden_tasks.vectors(task.corpus, "static")
            return rules.by_guide(rows, positive, *guide, task.shown, 2)
        return rules.by_rule(arm, rows, scores, positive, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=list(STEPS))
    parser.add_argument("--arms", nargs="+", default=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(5)))
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    kept = hidden_tasks.CACHE / "downstream"
    kept.mkdir(parents=True, exist_ok=True)
    results: dict[tuple[str, str], list[Array]] = {}
    for name in chosen.tasks:
        lab = Lab(name)
        results[name, "zero-shot"] = [lab.ndcg(lab.weights)] * len(chosen.seeds)
        for seed in chosen.seeds:
            for arm in chosen.arms:
                file = kept / f"{name}.{arm.replace(' ', '_')}.{seed}.npy"
                if not file.exists():
                    start = time.process_time()
                    negatives = lab.negatives(arm)
                    np.save(file, lab.ndcg(lab.trained(negatives, STEPS[name], seed)))
                    false = np.mean(
                        [n in lab.task.answers[q] for q, row in enumerate(negatives) for n in row if n >= 0]
                    )
                    spent = time.process_time() - start
                    print(
                        f"# {name} {arm} {seed}: {np.load(file).mean():.4f}, {false:.3f} false, {spent:.0f} CPU s",
                        flush=True,
                    )
                results.setdefault((name, arm), []).append(np.load(file))
    print(table(results, chosen.tasks, ["zero-shot", *chosen.arms]))


def table(results: dict[tuple[str, str], list[Array]], tasks: Sequence[str], arms: Sequence[str]) -> str:
    """Means over queries and seeds, and the difference of Tamis to each arm with its paired interval."""
    lines = ["| arm | " + " | ".join(f"{t} | Tamis minus it" for t in tasks) + " | mean |"]
    lines.append("|---" * (2 + 2 * len(tasks)) + "|")
    for arm in arms:
        cells, means = [], []
        for task in tasks:
            own = np.mean(results[task, arm], axis=0)
            means.append(own.mean())
            cells.append(f"{own.mean():.3f}")
            if (task, "Tamis") in results and arm != "Tamis":
                low, high = interval(np.array(results[task, "Tamis"]) - np.array(results[task, arm]))
                difference = np.mean(results[task, "Tamis"]) - own.mean()
                cells.append(f"{difference:+.3f} ({low:+.3f}, {high:+.3f})")
            else:
                cells.append("")
        lines.append(f"| {arm} | " + " | ".join(cells) + f" | {np.mean(means):.3f} |")
    return "\n".join(lines)


def interval(difference: Array, samples: int = 10_000) -> tuple[float, float]:
    """The middle 95 % of the mean difference (seeds, queries) when seeds and queries are both drawn again."""
    rng = np.random.default_rng(0)
    seeds, queries = difference.shape
    by_seed = rng.multinomial(queries, np.full(queries, 1 / queries), samples) @ difference.T / queries
    means = (rng.multinomial(seeds, np.full(seeds, 1 / seeds), samples) * by_seed).sum(1) / seeds
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


if __name__ == "__main__":
    main()
