"""ECtHR-PCR: does a trained model fall behind with the years, does BM25, and do hard negatives help?

A generated court of 20 years with 60 issues: the words of an issue drift, 6 % a year, facts are ten words, and cases
cite recent ones of their issue. (Sizes were set on other seeds such that a pool never holds more cases of an issue than
the 50 that are looked at, or recall would fall with the pool.) A linear bi-encoder over TF-IDF of the words known by
year 11 learns from the citations of years 0 to 11, with random, BM25-hard and dynamic-hard negatives. Recall@50 per
test year (14 to 19) gives a slope. The control is a court without drift, where neither slope should differ from 0.
Uncited cases of the same topic are many, so hard negatives are mostly false ones.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from tamis.claim import Claim, Gate
from tamis.evaluation import (
    NegativeSampler,
    TemporalRetrievalBenchmark,
    bm25_scorer,
    dense_scorer,
    popularity_scorer,
    synthetic_court,
)

CLAIM = Claim(
    metric="slope of recall@50 per year, BM25 less the trained model",
    method="slope_bm25",
    baseline="slope_dense",
    at_least=0.005,
    seeds=5,
    gates=(
        Gate(says="the model's recall falls: Spearman with the year at most -0.6", higher="falls", at_least=0.6),
        Gate(says="BM25's slope is at most half of the model's", higher="half_slope_dense", lower="size_slope_bm25"),
        Gate(says="without drift the model's slope is within 0.005", higher="bound", lower="size_control_dense"),
        Gate(says="without drift BM25's slope is within 0.005", higher="bound", lower="size_control_bm25"),
        Gate(says="BM25-hard negatives do not beat random ones by a standard error", higher="margin_bm25"),
        Gate(says="dynamic ones do not either", higher="margin_dynamic"),
    ),
)
STEPS, BATCH, NEGATIVES, DIM = 300, 64, 4, 64


def tfidf(court: TemporalRetrievalBenchmark) -> tuple[torch.Tensor, torch.Tensor]:
    """TF-IDF of queries and documents over the words of the training years, rows of length 1."""
    known = court.years <= 2011
    texts = {"query": court.query_texts, "document": court.doc_texts}
    words = {word for text, old in zip(texts["document"], known, strict=True) if old for word in text.split()}
    vocabulary = {word: column for column, word in enumerate(sorted(words))}
    found = {}
    for side, lines in texts.items():
        rows, columns = [], []
        for row, line in enumerate(lines):
            kept = [vocabulary[word] for word in line.split() if word in vocabulary]
            rows += [row] * len(kept)
            columns += kept
        found[side] = np.zeros((len(court), len(vocabulary)), dtype=np.float32)
        np.add.at(found[side], (rows, columns), 1.0)
    frequency = (found["document"][known] > 0).sum(0)
    idf = np.log((known.sum() + 1) / (frequency + 1))
    return tuple(
        nn.functional.normalize(torch.from_numpy(found[s] * idf).float(), dim=1) for s in ("query", "document")
    )


def train(court, features, kind: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A linear bi-encoder's vectors of all queries and documents."""
    queries, documents = features
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layer = nn.Linear(queries.shape[1], DIM, bias=False)
    rows = court.split(2011, 2013).train
    rows = rows[court.pool_sizes[rows] > 60]
    scorer = {"bm25": bm25_scorer(court)}.get(kind) if kind != "dynamic" else dense_scorer(queries, documents)
    sampler = NegativeSampler(court, kind, scorer=scorer, depth=20, seed=seed)
    optimizer = torch.optim.Adam(layer.parameters(), lr=3e-3)

    def embed(features: torch.Tensor) -> torch.Tensor:
        return nn.functional.normalize(layer(features), dim=1)

    for step in range(STEPS):
        if kind == "dynamic" and step % 100 == 0 and step > 0:
            with torch.no_grad():
                sampler.refresh(dense_scorer(embed(queries), embed(documents)))
        asked = rng.choice(rows, BATCH, replace=False)
        positive = np.array([rng.choice(court.cited[row]) for row in asked])
        negative = sampler.draw(asked, NEGATIVES, step=step)
        q, p = embed(queries[asked]), embed(documents[positive])
        hard = embed(documents[negative.ravel()]).view(BATCH, NEGATIVES, DIM)
        scores = torch.cat([(q * p).sum(1, keepdim=True), torch.einsum("bd,bnd->bn", q, hard)], 1) / 0.05
        loss = nn.functional.cross_entropy(scores, torch.zeros(BATCH, dtype=torch.long))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return embed(queries).numpy(), embed(documents).numpy()


def run(seed: int) -> dict[str, float]:
    torch.set_num_threads(1)
    found = {}
    for name, drift in (("", 0.06), ("control_", 0.0)):
        court = synthetic_court(issues=60, facts_words=10, drift=drift, seed=seed)
        test, features = court.split(2011, 2013).test, tfidf(court)
        dense = train(court, features, "random", seed)
        reports = {
            "dense": court.evaluate(dense_scorer(*dense), queries=test),
            "bm25": court.evaluate(bm25_scorer(court), queries=test),
        }
        for scorer, report in reports.items():
            found[f"{name}slope_{scorer}"] = report.slope["recall@50"]
            found[f"size_{name}{scorer}" if name else f"size_slope_{scorer}"] = abs(report.slope["recall@50"])
            found[f"{name}recall_{scorer}"] = report.metrics["recall@50"]
        if not name:
            found["falls"] = -reports["dense"].spearman["recall@50"]
            for kind in ("bm25", "dynamic"):
                report = court.evaluate(dense_scorer(*train(court, features, kind, seed)), queries=test)
                gain = report.each["recall@50"] - reports["dense"].each["recall@50"]
                found[f"recall_{kind}_negatives"] = report.metrics["recall@50"]
                found[f"margin_{kind}"] = float(gain.std() / len(gain) ** 0.5 - gain.mean())
            popular = court.evaluate(popularity_scorer(court), queries=test)
            found["recall_popularity"] = popular.metrics["recall@50"]
    found["half_slope_dense"] = found["size_slope_dense"] / 2
    return found | {"bound": 0.005}
