"""IDF-FLOPS on bags of words: which terms do documents keep when the matching function knows how rare a term is?

1,500 documents over 600 terms: 25 draws from 60 stop terms, 7 from the 12 terms of one of 60 topics, 4 from all others.
A query has 3 topic terms and 3 stop terms of a document. Documents learn term weights log(1 + relu(MLP(x) + 4 a x)) by
InfoNCE with 32 queries and 32 random negatives (none of the query's topic) and FLOPS with a quadratic ramp, 500 steps.
Query terms weigh 1 ("plain"), their BM25 idf ("idf") or that over its mean ("scaled"), for three weights (lambda)
of the penalty: precision at 10 by topic on 300 queries, terms and stop terms per document, postings that a query reads.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tamis.claim import Claim, Gate
from tamis.contrastive import info_nce
from tamis.losses import FlopsLoss, IDFQueryEncoder, QuadraticRamp, bm25_idf, splade_pool

CLAIM = Claim(
    metric="stop terms per document at lambda 0.03, a third of plain's minus idf's",
    method="third_of_stop_plain_0.03",
    baseline="stop_idf_0.03",
    at_least=0.0,
    seeds=3,
    gates=(
        Gate(
            says="precision at 10 of idf is not more than 0.01 below plain's (all gates at lambda 0.03)",
            higher="precision_idf_0.03",
            lower="precision_plain_0.03",
            at_least=-0.01,
        ),
        Gate(
            says="precision at 10 of idf is not more than 0.01 above plain's",
            higher="precision_plain_0.03",
            lower="precision_idf_0.03",
            at_least=-0.01,
        ),
        Gate(
            says="documents of idf have at least 0.9 times the terms of plain's",
            higher="terms_idf_0.03",
            lower="nine_tenths_of_terms_plain_0.03",
        ),
        Gate(says="a query reads fewer postings with idf", higher="cost_plain_0.03", lower="cost_idf_0.03"),
    ),
    note="Stop terms fall more than threefold at one lambda, but so does length, which was to stay: the idf stretches "
    "the scores about fourfold, so one lambda presses harder, and plain documents of that length (lambda 0.3) have "
    "as few stop terms. With the idf over its mean, on the scale of plain, documents of 14 terms have half the stop "
    "terms of plain ones of 17 and find more. How queries relate to documents is open in the paper's setting; on other "
    "seeds, not in these rows: with stop terms at random plain training drops them by itself and idf adds nothing, and "
    "with topic terms that the document may lack only the scaled arm gains.",
)
DOCS, TERMS, STOPS, TOPICS, BATCH, STEPS, LAMBDAS = 1500, 600, 60, 60, 32, 500, (0.03, 0.3, 1.0)


class World:
    """Documents as counts (1500, 600) with their topics, and queries as token ids (q, 6)."""

    def __init__(self, seed: int) -> None:
        self.rng = torch.Generator().manual_seed(seed)
        self.own = torch.stack([self.shuffled(TERMS - STOPS)[:12] + STOPS for _ in range(TOPICS)])
        self.topics = torch.randint(TOPICS, (DOCS,), generator=self.rng)
        stops = torch.randint(STOPS, (DOCS, 25), generator=self.rng)
        topical = self.own[self.topics].gather(1, torch.randint(12, (DOCS, 7), generator=self.rng))
        others = torch.randint(STOPS, TERMS, (DOCS, 4), generator=self.rng)
        self.words = torch.cat([stops, topical, others], 1)
        self.counts = torch.zeros(DOCS, TERMS).scatter_add(1, self.words, torch.ones(DOCS, 36))
        self.idf = bm25_idf((self.counts > 0).sum(0), DOCS).float()

    def shuffled(self, n: int) -> Tensor:
        """0 to n - 1 in random order."""
        return torch.randperm(n, generator=self.rng)

    def queries(self, docs: Tensor) -> Tensor:
        """Three stop terms and three topic terms of each document."""
        places = [torch.randint(low, high, (len(docs), 3), generator=self.rng) for low, high in ((0, 25), (25, 32))]
        return self.words[docs].gather(1, torch.cat(places, 1))


class Documents(nn.Module):
    """Term weights from counts: what the words suggest, and the words themselves."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.expand = nn.Sequential(nn.Linear(TERMS, 128), nn.ReLU(), nn.Linear(128, TERMS))
        self.keep = nn.Parameter(torch.ones(TERMS))

    def forward(self, counts: Tensor) -> Tensor:
        """Weights (b, 600) for counts (b, 600)."""
        x = counts.log1p()
        logits = self.expand(x) + 4 * self.keep * x
        return splade_pool(logits[:, None], torch.ones(len(x), 1))


def trained(world: World, encode: IDFQueryEncoder, weight: float, seed: int) -> dict[str, float]:
    """The measures after training one arm."""
    model, penalty, ramp = Documents(seed), FlopsLoss(), QuadraticRamp(weight, 200)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    world.rng.manual_seed(1000 + seed)  # all arms learn from the same batches
    for step in range(STEPS):
        rows = world.shuffled(DOCS)[: 2 * BATCH]
        documents, queries = model(world.counts[rows]), encode(world.queries(rows[:BATCH]))
        same = world.topics[rows[:BATCH], None] == world.topics[rows]
        hidden = torch.zeros(same.shape).masked_fill(same, -torch.inf)
        loss = info_nce(queries, documents, metric="dot", temperature=1.0, log_weights=hidden)
        optimizer.zero_grad()
        (loss + ramp(step) * penalty(documents)).backward()
        optimizer.step()
    with torch.no_grad():
        documents, asked = model(world.counts), world.shuffled(DOCS)[:300]
        queries = encode(world.queries(asked))
        right = world.topics[(queries @ documents.T).topk(10, 1).indices] == world.topics[asked, None]
        active, sought = documents > 0, queries > 0
    return {
        "precision": float(right.float().mean()),
        "terms": float(active.sum(1).float().mean()),
        "stop": float(active[:, :STOPS].sum(1).float().mean()),
        "cost": float((active.float().mean(0) * sought.float().mean(0)).sum()),
    }


def run(seed: int) -> dict[str, float]:
    torch.set_num_threads(1)
    world, found = World(seed), {}
    tables = {"plain": torch.ones(TERMS), "idf": world.idf, "scaled": world.idf / world.idf.mean()}
    for arm, table in tables.items():
        for weight in LAMBDAS:
            measures = trained(world, IDFQueryEncoder(table), weight, seed)
            found |= {f"{name}_{arm}_{weight:g}": value for name, value in measures.items()}
    return found | {
        "third_of_stop_plain_0.03": found["stop_plain_0.03"] / 3,
        "nine_tenths_of_terms_plain_0.03": 0.9 * found["terms_plain_0.03"],
    }
