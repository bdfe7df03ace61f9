"""Objectives: every loss learns from mined batches, and none pushes a known answer away."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from tamis.integrations import objectives
from tamis.integrations.objectives import BatchFacts, Guide, Objective
from tamis.negatives.mine import mine_negatives
from tamis.ngrams import text_groups
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
}
TOUCHES_ALL = {"stationary", "lol"}  # every passage is drawn to its old place, or may be feedback


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
    learned = [e.clone().requires_grad_() for e in embeddings]
    optimizer = torch.optim.Adam([*learned, *parameters(objective)], lr=0.03)
    for _ in range(40):
        optimizer.zero_grad()
        objective(*learned, facts).backward()
        optimizer.step()
    scores = nn.functional.normalize(learned[0], dim=1) @ nn.functional.normalize(learned[1], dim=1).T
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
