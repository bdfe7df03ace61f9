"""Training: what a batch holds, that no known answer acts as a negative, and that a real model learns."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tamis.integrations import objectives
from tamis.negatives.mine import mine_negatives as mine
from tests import verses

training = pytest.importorskip("tamis.integrations.training")
pytest.importorskip("sentence_transformers")


@pytest.fixture(scope="module")
def mined():
    return mine(verses.data(both=250), encoder=verses.LetterEncoder(), percentage=0.97, negatives=3)


def test_no_known_answer_is_a_negative(mined):
    """In every batch a query's other positives, and passages with their texts, have the log-weight -inf."""
    rows = training.MinedRows(mined, negatives=3)
    rng = np.random.default_rng(0)
    for _ in range(20):
        index = rng.integers(0, len(rows), 24)
        queries, passages, facts = rows.batch(index)
        assert len(passages) == facts.log_weights.shape[1] and len(queries) == 24
        for row, query in enumerate(facts.queries.tolist()):
            known = set(mined.positives[query].tolist())
            for column, passage in enumerate(facts.passages.tolist()):
                dropped = torch.isneginf(facts.log_weights[row, column]).item()
                if column == row:
                    assert not dropped and passage in known
                elif passage in known:
                    assert dropped


def test_batches_are_ragged_and_limited(mined):
    """A row brings as many negatives as it has, at most the limit, each once per batch, in-batch only with limit 0."""
    for limit in (0, 1, 3):
        rows = training.MinedRows(mined, negatives=limit)
        _, passages, facts = rows.batch(range(16))
        extra = facts.passages[16:].tolist()
        assert len(extra) == len(set(extra)) <= 16 * limit and len(passages) == 16 + len(extra)
        assert not set(extra) & set(facts.passages[:16].tolist())


def test_weights_reach_their_own_column(mined):
    """A negative that counts half has the log-weight log(1/2) for its own query and 0 for the others."""
    half = dict(mined.negatives) | {"weight": np.full(len(mined), 0.5, np.float32)}
    weighted = type(mined)(**(vars(mined) | {"negatives": half}))
    rows = training.MinedRows(weighted, negatives=2)
    _, _, facts = rows.batch([0, 50])
    own = facts.log_weights[:, 2:]
    values = set(np.round(own[torch.isfinite(own)].tolist(), 4))
    assert values == {0.0, -0.6931}


class Words(torch.nn.Module):
    """Two texts' features as given; the smallest thing that a loss can call a model."""

    def forward(self, features):
        return {"sentence_embedding": features["x"]}


def test_the_loss_equals_a_plain_softmax(mined):
    """The contrastive objective on a batch equals cross-entropy over the candidates that are left."""
    rows = training.MinedRows(mined, negatives=3)
    _, passages, facts = rows.batch([0, 1, 2, 400])
    torch.manual_seed(0)
    q, p = torch.randn(4, 8), torch.randn(len(passages), 8)
    loss = training.MinedLoss(Words(), objectives.contrastive(temperature=0.1))
    ours = loss([{"x": q}, {"x": p}], vars(facts))
    unit = torch.nn.functional.normalize
    logits = unit(q, dim=1) @ unit(p, dim=1).T / 0.1 + facts.log_weights
    assert ours.item() == pytest.approx(torch.nn.functional.cross_entropy(logits, torch.arange(4)).item(), rel=1e-5)


def test_freezing_names_what_it_cannot_find():
    """A model without numbered layers cannot be frozen in part, and says so."""
    with pytest.raises(ValueError, match="freeze_layers must be 0 here"):
        training.freeze(torch.nn.Linear(2, 2), 2)
    assert training.freeze(torch.nn.Linear(2, 2), 0) == []
