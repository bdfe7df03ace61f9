"""Objectives: every loss learns from mined batches, and none pushes a known answer away."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import numpy as np
import pytest
import torch
from torch import nn

from tamis import cli, data
from tamis.cli import training
from tamis.data import from_python
from tamis.integrations import objectives
from tamis.integrations.objectives import BatchFacts, Guide, Objective
from tamis.negatives.mine import mine_negatives
from tamis.ngrams import text_groups
from tests import tiny as tiny_model
from tests import verses

D, B, M = 16, 12, 6


@pytest.fixture(scope="module")
def mined():
    return mine_negatives(verses.data(both=250), encoder=verses.LetterEncoder(), percentage=0.97, negatives=3)


def unit(rows: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((rows, D)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def guide(mined) -> Guide:
    """Queries lie near their first positive."""
    passages = unit(len(mined.corpus), 2)
    queries = passages[[p[0] for p in mined.positives]] + 0.3 * unit(len(mined.queries), 1)
    return Guide(queries / np.linalg.norm(queries, axis=1, keepdims=True), passages)


OBJECTIVES: dict[str, Callable[..., Objective]] = {
    "contrastive": lambda mined: objectives.contrastive(),
    "gistembed": lambda mined: objectives.gistembed(guide(mined)),
    "cet": lambda mined: objectives.CoupledEstimation(mined, warmup_steps=2),
    "nbpo": lambda mined: objectives.NoisyNegatives(D),
    "stationary": lambda mined: objectives.compatible(guide(mined), text_groups(mined.corpus.texts)[0]),
    "lol": lambda mined: objectives.Feedback(D),
    "cir_uncertainty": lambda mined: objectives.Uncertainty(40),
    "compositional_nce": lambda mined: objectives.TrackedSums(len(mined.queries)),
    "meow": lambda mined: objectives.cluster_weighted(guide(mined), sizes=(20, 100)),
    "mochi": lambda mined: objectives.Mixing(),
    "spn4cir": lambda mined: objectives.WholeBank(guide(mined), mined.positives),
    "star_adore": lambda mined: objectives.live_index(guide(mined), mined.positives),
    "batchformer": lambda mined: objectives.BatchAttention(D),
    "rtd": lambda mined: objectives.target_anchored(),
}
TOUCHES_ALL = {"stationary", "lol", "batchformer"}  # a passage is drawn to its old place, is feedback or is attended to
STILL = {"spn4cir", "star_adore"}  # passages stand still: queries are to find them in the guide's vectors


def batch(mined) -> tuple[list[torch.Tensor], BatchFacts]:
    """Random embeddings of queries, positives and negatives, and their facts; negative 0 answers every query."""
    rng = np.random.default_rng(0)
    queries = rng.choice(len(mined.queries), B, replace=False)
    positives = np.array([mined.positives[q][0] for q in queries])
    negatives = rng.choice(np.setdiff1d(np.arange(len(mined.corpus)), positives), M, replace=False)
    log_weights = torch.zeros(B, B + M)
    log_weights[:, B] = -torch.inf
    facts = BatchFacts(log_weights, torch.from_numpy(queries), torch.from_numpy(np.concatenate([positives, negatives])))
    return [torch.from_numpy(unit(rows, seed)) for rows, seed in ((B, 3), (B, 4), (M, 5))], facts


def parameters(objective: Objective) -> list[nn.Parameter]:
    return list(objective.parameters()) if isinstance(objective, nn.Module) else []


@pytest.mark.parametrize("name", OBJECTIVES)
def test_it_learns(mined, name):
    """Free embeddings under 40 steps of the loss: every query ends nearer to its positive than to the others."""
    objective = OBJECTIVES[name](mined)
    embeddings, facts = batch(mined)
    if name in STILL:  # these come last, when the queries have found the neighbourhood
        embeddings[0] = 0.6 * embeddings[0] + torch.from_numpy(guide(mined).queries[facts.queries])
    learned = [e.clone().requires_grad_() for e in embeddings]
    optimizer = torch.optim.Adam([*learned, *parameters(objective)], lr=0.03)
    for _ in range(40):
        optimizer.zero_grad()
        objective(*learned, facts).backward()
        optimizer.step()
    passages = torch.from_numpy(guide(mined).passages[facts.passages[:B]]) if name in STILL else learned[1]
    scores = nn.functional.normalize(learned[0], dim=1) @ nn.functional.normalize(passages, dim=1).T
    assert (scores.argmax(1) == torch.arange(B)).float().mean() >= 0.9


@pytest.mark.parametrize("name", [n for n in OBJECTIVES if n not in TOUCHES_ALL])
def test_a_known_answer_is_not_pushed(mined, name):
    """A passage that answers every query of the batch gets no gradient as a negative."""
    objective = OBJECTIVES[name](mined)
    embeddings, facts = batch(mined)
    learned = [e.clone().requires_grad_() for e in embeddings]
    objective(*learned, facts).backward()
    gradient = learned[2].grad
    assert gradient is None or not bool(gradient[0].any())


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_batch_without_negatives(mined, name):
    """In-batch negatives alone do."""
    objective = OBJECTIVES[name](mined)
    (queries, positives, _), facts = batch(mined)
    few = BatchFacts(facts.log_weights[:, :B], facts.queries, facts.passages[:B])
    assert torch.isfinite(objective(queries, positives, torch.empty(0, D), few))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A mining run of the smallest model, with its vectors."""
    pytest.importorskip("sentence_transformers")
    base = tmp_path_factory.mktemp("objectives")
    model = tiny_model.save(base)
    given = verses.data(both=20)
    few = from_python(
        dict(zip(given.queries.ids[:60], given.queries.texts[:60], strict=True)),
        dict(zip(given.corpus.ids, given.corpus.texts, strict=True)),
        {
            i: [given.corpus.ids[p] for p in own]
            for i, own in zip(given.queries.ids[:60], given.positives[:60], strict=True)
        },
    )
    data.write_beir(few, base / "data")
    run("mine", base / "data", "-o", base / "mined", "--encoder", model, "--negatives", 2, "--percentage", 0.99)
    return base


def run(*arguments: object) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main([str(a) for a in arguments])
    assert end.value.code == 0


@pytest.mark.parametrize("loss", get_args(training.Loss))
def test_every_loss_trains_a_model(folder, tmp_path, loss):
    """``tamis train --loss NAME`` takes two steps and saves a model."""
    model, output = folder / "model", tmp_path / "out"
    run("train", folder / "mined", "-o", output, "--model", model, "--loss", loss, "--steps", 2, "--batch-size", 12)
    assert (output / "modules.json").exists()


@pytest.mark.parametrize("batches", get_args(training.Batches))
def test_every_sampler_trains_a_model(folder, tmp_path, batches):
    """``tamis train --batches NAME`` takes two steps and saves a model."""
    model, output = folder / "model", tmp_path / "out"
    run(
        "train",
        folder / "mined",
        "-o",
        output,
        "--model",
        model,
        "--batches",
        batches,
        "--steps",
        2,
        "--batch-size",
        12,
    )
    assert (output / "modules.json").exists()
