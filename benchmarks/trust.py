"""How many negatives are false, how hard are they, and is the stated bound true: every rule on four tasks.

    python benchmarks/trust.py                        # three encoders, four tasks
    python benchmarks/trust.py --encoders minilm --tasks esco
    python benchmarks/trust.py --prevalence           # hidden positives left to 0, 10, 30, 100 % of the queries

Each miner sees one positive per query and picks four negatives. *False* is the share of the picks that are hidden
positives. *Hard* is the worth of the picks that are truly negative: the r-th (from 0) of a reference ranking, BM25 and
MiniLM merged, counts 1 / log2(2 + r) down to rank 50, over the best possible sum. Grey passages count for nothing.
"""

from __future__ import annotations

import argparse
from typing import Any

import hidden_tasks
import numpy as np
import rules
import torch
from hidden_tasks import Task, vectors

from tamis.lexical import LexicalIndex, reciprocal_rank_fusion

Array = np.ndarray[Any, Any]
TASKS, ENCODERS, N, DEEP = ("esco", "cwe", "hpo", "bible"), ("minilm", "static", "bm25"), 4, 50


class Judge:
    """The hidden truth of one task."""

    def __init__(self, task: Task) -> None:
        self.task, self.width = task, len(task.corpus)
        dense, _ = rules.ranked(vectors(task.train), vectors(task.corpus), task.shown)
        found, lexical = LexicalIndex(task.corpus).top_k(task.train, 200)
        lexical = np.where(found > 0, lexical, -1)
        reference, _ = reciprocal_rank_fusion([dense[:, :200], lexical], 260)
        self.hidden = self._keys([a - {int(s)} for a, s in zip(task.answers, task.shown, strict=True)])
        self.grey = self._keys([g - a for g, a in zip(task.grey, task.answers, strict=True)])
        keys = np.arange(len(reference))[:, None] * self.width + reference
        barred = np.concatenate([self.hidden, self.grey, np.arange(len(reference)) * self.width + task.shown])
        true = (reference >= 0) & ~np.isin(keys, barred)
        place = np.cumsum(true, 1) - 1
        worth = true & (place < DEEP)
        order = np.argsort(keys[worth])
        self.worthy, self.gains = keys[worth][order], (1 / np.log2(2 + place[worth]))[order]
        self.asked = np.array([len(a) > 1 for a in task.answers])

    def _keys(self, rows: list[set[int]]) -> Array:
        flat = [i * self.width + np.array(sorted(r), np.int64) for i, r in enumerate(rows)]
        return np.concatenate([np.empty(0, np.int64), *flat])

    def score(self, picks: Array, pool: Array) -> dict[str, float]:
        """What a miner's picks (q, n) are worth over queries with hidden answers; pool (q, k) is what it could pick."""
        keys = np.arange(len(picks))[:, None] * self.width + picks
        there = (picks >= 0) & self.asked[:, None]
        false, grey = np.isin(keys, self.hidden) & there, np.isin(keys, self.grey) & there
        place = np.minimum(np.searchsorted(self.worthy, keys[there]), len(self.worthy) - 1)
        gain = np.where(self.worthy[place] == keys[there], self.gains[place], 0).sum()
        best = (1 / np.log2(2 + np.arange(picks.shape[1]))).sum() * max(1, self.asked.sum())
        reached = np.isin(np.arange(len(pool))[:, None] * self.width + pool, self.hidden) & (pool >= 0)
        return {
            "false": false.sum() / max(1, (there & ~grey).sum()),
            "hard": gain / best,
            "survival": false.sum() / max(1, reached.sum()),
            "each": there.sum() / max(1, self.asked.sum()),
        }


def picks_of(task: Task, encoder: str) -> tuple[dict[str, Array], dict[str, Any], Array]:
    """Every miner's picks, Tamis' report, and the pool of 200 that it judges."""
    seen: dict[str, Array] = {}
    settings: dict[str, Any] = {"candidates_from": "bm25"}
    if encoder == "bm25":
        index = LexicalIndex(task.corpus)
        own = (np.arange(len(task.train) + 1), task.shown)
        scores, rows = index.top_k(task.train, rules.DEPTH, exclude=own)
        scores = np.where((rows >= 0) & (scores > 0), scores, -np.inf)
        positive = index.pair_scores(task.train, np.arange(len(task.train)), task.shown)
    else:
        queries, corpus = vectors(task.train, encoder), vectors(task.corpus, encoder)
        settings = {"query_embeddings": queries, "corpus_embeddings": corpus}
        rows, scores = rules.ranked(queries, corpus, task.shown)
        positive = np.einsum("qd,qd->q", queries, corpus[task.shown])
    rows = np.where(np.isneginf(scores), -1, rows)
    seen["random"] = np.random.default_rng(0).integers(len(task.corpus), size=(len(task.train), N))
    for name in rules.RULES:
        seen[name] = rules.by_rule(name, rows, scores, positive, N)
    other = "minilm" if encoder == "static" else "static"
    guide = vectors(task.train, other), vectors(task.corpus, other)
    seen[f"guide ({other})"] = rules.by_guide(rows, positive, *guide, task.shown, N)
    if encoder != "bm25":
        seen["sentence-transformers"] = neighbour(task, encoder)
    seen["Tamis"], summary = rules.by_tamis(task, N, **settings)
    seen["oracle"] = rules.oracle(rows, task, N)
    return seen, summary, rows[:, :200]


def neighbour(task: Task, encoder: str) -> Array:
    """``mine_hard_negatives`` with the settings of its documentation's example: margin 0, ranks 10 to 50, top."""
    from datasets import Dataset
    from sentence_transformers.util import mine_hard_negatives

    known = {t: v for part in (task.train, task.corpus) for t, v in zip(part, vectors(part, encoder), strict=True)}

    class Known:
        device = "cpu"

        def encode(self, texts: list[str], **_: Any) -> Array:
            return np.stack([known[t] for t in texts])

        encode_query = encode_document = encode

        def similarity(self, a: Any, b: Any) -> Any:
            return torch.as_tensor(np.asarray(a) @ np.asarray(b).T)

        def similarity_pairwise(self, a: Any, b: Any) -> Any:
            return torch.as_tensor((np.asarray(a) * np.asarray(b)).sum(1))

    pairs = Dataset.from_dict({"query": task.train, "answer": [task.corpus[i] for i in task.shown.tolist()]})
    mined = mine_hard_negatives(
        pairs, Known(), corpus=task.corpus, range_min=10, range_max=50, relative_margin=0.05, num_negatives=N,
        sampling_strategy="top", output_format="triplet", verbose=False,
    )  # fmt: skip
    row = {text: i for i, text in enumerate(task.corpus)}
    lists: dict[str, list[int]] = {}
    for query, negative in zip(mined["query"], mined["negative"], strict=True):
        lists.setdefault(query, []).append(row[negative])
    out = np.full((len(task.train), N), -1)
    for i, query in enumerate(task.train):
        own = lists.get(query, [])[:N]
        out[i, : len(own)] = own
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS))
    parser.add_argument("--encoders", nargs="+", default=list(ENCODERS))
    parser.add_argument("--prevalence", action="store_true")
    chosen = parser.parse_args()
    for encoder in chosen.encoders:
        print(f"\n### {encoder}: false, hard (negatives per query)\n")
        rows: dict[str, list[str]] = {}
        for name in chosen.tasks:
            whole = hidden_tasks.load(name)
            shares = (0.0, 0.1, 0.3, 1.0) if chosen.prevalence else (1.0,)
            for share in shares:
                task = whole if share == 1 else hidden_tasks.with_prevalence(whole, share)
                judge = Judge(task)
                if chosen.prevalence:
                    judge.asked[:] = True
                picks, summary, pool = picks_of(task, encoder)
                for miner, picked in picks.items():
                    got = judge.score(picked, pool)
                    rows.setdefault(miner, []).append(f"{got['false']:.3f}, {got['hard']:.3f} ({got['each']:.1f})")
                told, true = summary["audit"], judge.score(picks["Tamis"], pool)["survival"]
                seen = told.get("verification", {"rate": None, "interval": [None, None]})
                rows.setdefault("stated bound: measured: true", []).append(
                    f"{told['target']}: {seen['rate']} {seen['interval']}: {true:.3f} ({told['mode']})"
                )
        titles = [f"{t} {s:.0%}" if chosen.prevalence else t for t in chosen.tasks for s in shares]
        print("| | " + " | ".join(titles) + " |\n" + "|---" * (1 + len(titles)) + "|")
        for miner, cells in rows.items():
            print(f"| {miner} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
