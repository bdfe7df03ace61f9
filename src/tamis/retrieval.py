"""Retrieval: how well an encoder finds the known positives of a data set, per query.

The passages are ranked by the exact similarity; metrics and ties go by trec_eval's rules (see ``ranking``).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tamis import encoders, ranking, search
from tamis.data import RetrievalData
from tamis.intervals import paired_bootstrap

Array = np.ndarray[Any, Any]
HEADLINE = ("nDCG@10", "MRR@10", "recall@10", "recall@100", "MAP@100")
DEPTH = 100


@dataclass(frozen=True)
class Evaluation:
    """Metrics of one encoder.

    Args:
        name: of the encoder.
        query_ids: one per row of the metrics.
        per_query: metric name -> (q,) float64.
    """

    name: str
    query_ids: list[str]
    per_query: dict[str, Array]

    def means(self) -> dict[str, float]:
        """The mean of every metric over the queries."""
        return {metric: float(values.mean()) for metric, values in self.per_query.items()}

    def against(self, other: Evaluation, *, seed: int = 0) -> dict[str, dict[str, float]]:
        """Paired bootstrap of every metric against another encoder on the same queries."""
        return {m: paired_bootstrap(v, other.per_query[m], seed=seed) for m, v in self.per_query.items()}

    def write(self, path: Path) -> None:
        """One row per query: query_id and every metric."""
        pq.write_table(pa.table({"query_id": self.query_ids, **self.per_query}), path)


def evaluate(
    encoder: encoders.Encoder,
    data: RetrievalData,
    *,
    query_prompt: str | None = None,
    passage_prompt: str | None = None,
) -> Evaluation:
    """Rank the corpus for every query by cosine similarity and judge the ranking.

    Args:
        encoder: the encoder.
        data: queries, passages and judgements.
        query_prompt: put before queries; None takes the encoder's own, if it has one.
        passage_prompt: put before passages; likewise.

    Returns:
        the metrics of ``HEADLINE`` per query.
    """
    own = encoders.prompts_of(encoder)
    sides = []
    for texts, prompt, name in (
        (data.queries.texts, own["query"] if query_prompt is None else query_prompt, "queries"),
        (data.corpus.texts, own["passage"] if passage_prompt is None else passage_prompt, "passages"),
    ):
        sides.append(encoders.unit_rows(encoders.encode(encoder, texts, prompt=prompt, stem=name), f"the {name}"))
    # Twice the depth leaves room for ties across the cut, which the ids decide.
    scores, indices = search.top_k(sides[0], sides[1], min(2 * DEPTH, len(data.corpus)))
    # trec_eval breaks ties by document id, highest first.
    order = np.argsort(np.argsort(np.array(data.corpus.ids, dtype=object), kind="stable"), kind="stable")
    found = ranking.evaluate(
        np.asarray(indices), np.asarray(scores), data.qrels(), ks=(10, DEPTH), tie_keys=order[np.asarray(indices)]
    )
    return Evaluation(encoders.name_of(encoder), list(data.queries.ids), {m: found[m] for m in HEADLINE})
