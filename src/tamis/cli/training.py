"""``tamis train`` and ``tamis evaluate``."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from tamis.cli.screen import progress, quiet_libraries, say, table
from tamis.results import MinedNegatives

if TYPE_CHECKING:
    from tamis.integrations.objectives import Guide, Objective
    from tamis.retrieval import Evaluation

Output = Annotated[Path, Parameter(name=["--output", "-o"])]
Loss = Literal[
    "contrastive", "batchformer", "cet", "cir_uncertainty", "compositional_nce", "gistembed", "lol", "meow", "mochi",
    "nbpo", "rtd", "spn4cir", "star_adore", "stationary",
]  # fmt: skip
Batches = Literal["no_duplicates", "guarded_clusters", "ngame", "tas_balanced"]


def train(
    mined: Path,
    *,
    output: Output,
    model: str | None = None,
    loss: Loss = "contrastive",
    batches: Batches = "no_duplicates",
    negatives: int = 4,
    epochs: float = 1.0,
    steps: int | None = None,
    batch_size: int = 32,
    learning_rate: float = 2e-5,
    temperature: float | None = None,
    freeze_layers: int = 0,
    max_length: int | None = None,
    refresh_every: int | None = None,
    guide: str | None = None,
    seed: int = 0,
) -> None:
    """Train a sentence-transformers model on mined negatives.

    No known positive of a query ever acts as its negative in a batch. A training that was stopped starts again from
    its first step.

    Args:
        mined: folder that tamis mine wrote.
        output: folder for the trained model.
        model: name or folder of the model to train; left out, the MiniLM of [minilm].
        loss: InfoNCE ("contrastive") or one of the methods; docs/which.md says what each is for. Those that want
            an old model's vectors take the mining encoder's.
        batches: batches without repeated texts, or batches of similar queries.
        negatives: mined negatives per query, at the most; 0 for in-batch negatives only.
        epochs: passes over the training pairs.
        steps: optimiser steps, instead of epochs.
        batch_size: queries per batch.
        learning_rate: of AdamW, with warm-up and linear decay.
        temperature: divides the similarities; left out, the loss has its own.
        freeze_layers: lower layers that do not learn; fewer seconds per step.
        max_length: tokens after which texts are cut.
        refresh_every: mine again with the weights of the moment after every so many epochs; left out, never.
        guide: the guide that tamis mine had, for refreshes.
        seed: of everything that is drawn.
    """
    import numpy as np

    from tamis import encoders, runs
    from tamis.files import write_text
    from tamis.integrations.refresh import Refreshed, line
    from tamis.integrations.sentence_transformers import SentenceEncoder
    from tamis.integrations.training import VECTORS
    from tamis.integrations.training import train as train_model

    if guide is not None and refresh_every is None:
        raise ValueError("guide is asked only when negatives are mined again: give --refresh-every, or leave it out.")
    found = runs.load(mined)
    if output.exists() and {p.name for p in output.iterdir()} - {VECTORS} and not (output / "modules.json").exists():
        raise ValueError(f"{output} is not empty and holds no model: name another output folder.")
    quiet_libraries()
    encoder = SentenceEncoder.load(model or encoders.default_model(), max_length=max_length)
    sampler = sampler_for(batches, found, encoder, batch_size=batch_size, negatives=negatives, seed=seed)

    def on_refresh(fresh: Refreshed) -> None:
        """A line on stderr; clusters of queries move with the weights too."""
        print(line(fresh.report, queries=len(found.queries)), file=sys.stderr, flush=True)
        if batches == "ngame":
            pairs = np.repeat(np.arange(len(found.queries)), [len(p) for p in found.positives])
            sampler.update(fresh.queries[pairs], fresh.report["epoch"])

    done = train_model(
        encoder.model,
        found,
        objective_for(
            loss,
            found,
            mined,
            dim=encoder.encode(["how many numbers"]).shape[1],
            steps=steps or math.ceil(epochs * len(sampler)),
            temperature=temperature,
            seed=seed,
        ),
        batch_sampler=sampler,
        output=output,
        negatives=negatives,
        epochs=epochs,
        steps=steps,
        learning_rate=learning_rate,
        freeze_layers=freeze_layers,
        prompts=(encoder.prompts["query"], encoder.prompts["passage"]),
        refresh_every=refresh_every,
        guide=None if guide is None else encoders.resolve(guide),
        known=mined,
        on_refresh=on_refresh,
        seed=seed,
        progress=sys.stderr.isatty(),
    )
    encoder.model.save_pretrained(str(output), create_model_card=False)
    write_text(output / "training.json", json.dumps(done, indent=1) + "\n")
    say(f"Trained  {done['steps']} steps in {done['seconds']:.0f} s, mean loss {done['loss']:.4f}; model in {output}")


def evaluate(
    model: str,
    data: Path,
    *,
    baseline: str | None = None,
    split: str | None = None,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    query_prompt: str | None = None,
    passage_prompt: str | None = None,
) -> None:
    """Judge how well a model retrieves: nDCG, MRR, recall, MAP, with a paired bootstrap against a baseline.

    Args:
        model: name or folder of the model.
        data: as for tamis mine.
        baseline: another model to compare with.
        split: which judgements; left out, test where there is one.
        output: folder for the per-query file (per_query.parquet) and metrics.json.
        query_prompt: put before queries; left out, the model's own.
        passage_prompt: put before passages; left out, the model's own.
    """
    from tamis import encoders, retrieval
    from tamis.data import read, splits_of

    split = split or ("test" if "test" in splits_of(data) else None)
    found = read(data, split=split)
    quiet_libraries()
    results = [
        retrieval.evaluate(encoders.load(name), found, query_prompt=query_prompt, passage_prompt=passage_prompt)
        for name in (model, *([baseline] if baseline else []))
    ]
    say(f"{len(found.queries):,} queries, {len(found.corpus):,} passages" + (f", split {split}" if split else ""))
    say(metrics_table(results))
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        results[0].write(output / "per_query.parquet")
        content: dict[str, Any] = {"model": model, "metrics": results[0].means()}
        if baseline:
            results[1].write(output / "per_query_baseline.parquet")
            content |= {"baseline": baseline, "against_baseline": results[0].against(results[1])}
        (output / "metrics.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        say(f"Per query in {output / 'per_query.parquet'}")


def metrics_table(results: list[Evaluation]) -> str:
    """Metrics of one model, or of a model and its baseline with the paired difference."""
    if len(results) == 1:
        return table([[metric, f"{value:.4f}"] for metric, value in results[0].means().items()])
    rows = []
    for metric, gap in results[0].against(results[1]).items():
        ours, theirs = (r.means()[metric] for r in results)
        interval = f"{gap['low']:+.4f} to {gap['high']:+.4f}"
        counts = f"{gap['wins']:.0f} / {gap['losses']:.0f}"
        rows.append([metric, f"{ours:.4f}", f"{theirs:.4f}", f"{gap['difference']:+.4f}", interval, counts])
    return table(rows, header=("", "model", "baseline", "difference", "95 % interval", "wins / losses"))


def objective_for(
    loss: Loss, found: MinedNegatives, mined: Path, *, dim: int, steps: int, temperature: float | None, seed: int
) -> Objective:
    """The objective that a name on the command line means."""
    from tamis.integrations import objectives
    from tamis.ngrams import text_groups

    given: dict[str, Any] = {} if temperature is None else {"temperature": temperature}
    match loss:
        case "contrastive":
            return objectives.contrastive(**given)
        case "batchformer":
            return objectives.BatchAttention(dim, seed=seed, **given)
        case "cet":
            return objectives.CoupledEstimation(found, seed=seed, **given)
        case "cir_uncertainty":
            return objectives.Uncertainty(steps, **given)
        case "compositional_nce":
            return objectives.TrackedSums(len(found.queries), **given)
        case "gistembed":
            return objectives.gistembed(guide_of(loss, mined), **given)
        case "lol":
            return objectives.Feedback(dim, seed=seed, **given)
        case "meow":
            return objectives.cluster_weighted(guide_of(loss, mined), seed=seed, **given)
        case "mochi":
            return objectives.Mixing(seed=seed, **given)
        case "nbpo":
            return objectives.NoisyNegatives(dim, seed=seed, **given)
        case "rtd":
            return objectives.target_anchored(**given)
        case "spn4cir":
            return objectives.WholeBank(guide_of(loss, mined), found.positives, **given)
        case "star_adore":
            return objectives.live_index(guide_of(loss, mined), found.positives, **given)
        case "stationary":
            return objectives.compatible(guide_of(loss, mined), text_groups(found.corpus.texts)[0], **given)


def guide_of(loss: str, mined: Path) -> Guide:
    """The vectors of the mining encoder that lie in the folder of the run."""
    from tamis.encoders import unit_rows
    from tamis.files import read_embeddings
    from tamis.integrations.objectives import Guide

    files = [mined / "embeddings" / f"{stem}.npy" for stem in ("queries", "corpus")]
    missing = next((f for f in files if not f.exists()), None)
    if missing is not None:
        raise ValueError(f"loss {loss} is guided by the mining encoder's vectors: {missing} is not there.")
    queries, passages = (unit_rows(read_embeddings(f), f"the vectors in {f}") for f in files)
    return Guide(queries, passages)


def sampler_for(
    batches: Batches, mined: MinedNegatives, encoder: Any, *, batch_size: int, negatives: int, seed: int
) -> Any:
    """The batch sampler that a name on the command line means."""
    from tamis import encoders
    from tamis.batches import (
        ClusterBatchSampler,
        GuardedClusterSampler,
        NoDuplicatesBatchSampler,
        TopicBatchSampler,
        guide_judge,
    )
    from tamis.clustering import kmeans
    from tamis.integrations.training import MinedRows
    from tamis.randomness import child_seed

    rows = MinedRows(mined, negatives=negatives)
    if batches == "no_duplicates":
        # Tiny batches teach less than the rows in them are worth.
        smallest = max(1, min(batch_size, len(rows)) // 2)
        sampler = NoDuplicatesBatchSampler(rows.keys(), batch_size, min_batch_size=smallest, seed=seed)
        if sampler.left_out.rows.size:
            why = ", ".join(f"{count:,}: {reason}" for reason, count in sampler.left_out.reasons.items())
            say(f"Batches  an epoch leaves out {sampler.left_out.rows.size:,} of {len(rows):,} pairs ({why})")
        return sampler
    size = min(batch_size, len(rows))
    queries = encoders.encode(
        encoder, mined.queries.texts, prompt=encoder.prompts["query"], stem="queries", progress=progress
    )[rows.queries]
    if batches == "tas_balanced":
        topics = kmeans(queries, max(1, len(rows) // (8 * size)), spherical=True, seed=child_seed(seed, "topics"))
        return TopicBatchSampler(topics.labels, size, seed=seed)
    if batches == "ngame":
        clusters = ClusterBatchSampler(
            len(rows), batch_size, cluster_size=size, schedule={}, power_of_two=False, shuffle_within=True, seed=seed
        )
        clusters.update(queries, 0)
        return clusters
    passages = encoders.encode(
        encoder, mined.corpus.texts, prompt=encoder.prompts["passage"], stem="corpus", progress=progress
    )[rows.positives]
    guarded = GuardedClusterSampler(len(rows), size, seed=seed)
    guarded.update(queries, 0, judge=guide_judge(queries, passages, keys=rows.groups[rows.positives]))
    return guarded
