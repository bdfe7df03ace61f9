"""Extra negatives: queue, bank and index hold what they should, and mask known positives alike."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tamis.contrastive import info_nce
from tamis.extra_negatives import (
    DynamicIndex,
    FeatureQueue,
    StaticBank,
    extra_block,
    known_positive_log_weights,
)


def rows(count: int, dim: int = 4, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))


@given(st.integers(1, 9), st.lists(st.integers(1, 12), min_size=1, max_size=6))
def test_a_queue_holds_the_last_rows(size, pushes):
    """After any pushes the queue holds the last ``size`` ids, each beside its own row."""
    queue, ids, vectors = FeatureQueue(size, 2, normalize=False), [], []
    for count in pushes:
        fresh = torch.arange(len(ids), len(ids) + count)
        block = torch.stack([fresh.float(), -fresh.float()], 1)
        queue.push(block, fresh)
        ids += fresh.tolist()
        vectors += block.tolist()
    assert sorted(queue.ids.tolist()) == ids[-size:]
    assert queue.vectors.tolist() == [vectors[i] for i in queue.ids.tolist()]


def test_a_queue_is_saved_with_the_model():
    """Its state dict brings rows, ids and age back."""
    queue, other = FeatureQueue(3, 4), FeatureQueue(3, 4)
    queue.push(rows(5), torch.arange(5))
    other.load_state_dict(queue.state_dict())
    other.push(rows(1, seed=1), torch.tensor([9]))
    queue.push(rows(1, seed=1), torch.tensor([9]))
    assert torch.equal(queue.vectors, other.vectors) and sorted(other.ids.tolist()) == [3, 4, 9]


def test_no_source_carries_a_gradient():
    """A loss over queue, bank and index moves the queries and none of the three."""
    stored = rows(6).requires_grad_()
    queue = FeatureQueue(6, 4)
    queue.push(stored, torch.arange(6))
    queries, positives = rows(2, seed=1).requires_grad_(), rows(2, seed=2)
    for source in (queue, StaticBank(stored), DynamicIndex(stored)):
        block = extra_block(queries, source.vectors, source.ids, torch.tensor([0, 1]))
        info_nce(queries, positives, blocks=[block]).backward()
        assert not source.vectors.requires_grad
    assert stored.grad is None and queries.grad is not None and bool(queries.grad.any())


def test_known_positives_are_masked_in_all_three_alike():
    """The same rows under the same ids give the same loss from any source, equal to dropping them by hand."""
    stored, ids = torch.nn.functional.normalize(rows(6), dim=1), torch.tensor([3, 1, 4, 1, 5, 9])
    queue = FeatureQueue(6, 4)
    queue.push(stored, ids)
    queries, positives, known = rows(2, seed=1), rows(2, seed=2), torch.tensor([[1, 5], [4, -1]])
    by_hand = []
    for row, answers in enumerate(known.tolist()):
        kept = torch.tensor([i not in answers for i in ids.tolist()])
        by_hand.append(
            info_nce(
                queries[[row]],
                positives[[row]],
                blocks=[extra_block(queries[[row]], stored[kept], ids[kept], known[[row]])],
            )
        )
    for source in (queue, StaticBank(stored, ids), DynamicIndex(stored, ids)):
        block = extra_block(queries, source.vectors, source.ids, known)
        # Alone each query has only its own positive in the batch, so the other's is left out here too.
        alone = torch.full((2, 2), -torch.inf).fill_diagonal_(0.0)
        seen = info_nce(queries, positives, log_weights=alone, blocks=[block], reduction="none")
        assert seen.tolist() == pytest.approx([float(x) for x in by_hand], rel=1e-5)


def test_known_positive_log_weights_with_a_list_per_query():
    """Each query may bring its own candidates; -1 in either place means nothing."""
    found = known_positive_log_weights(torch.tensor([[1, -1], [2, 3]]), torch.tensor([[1, -1, 2], [1, 2, 3]]))
    assert found.tolist() == [[-np.inf, 0, 0], [0, -np.inf, -np.inf]]


def test_from_encoder():
    """Every batch is encoded in its order, without gradient, in evaluation mode, and the mode comes back."""
    encoder = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Dropout(0.5)).train()
    batches = [rows(2), rows(3, seed=1)]
    bank = StaticBank.from_encoder(encoder, batches)
    expected = torch.nn.functional.normalize(torch.cat([encoder[0](b) for b in batches]), dim=1).half()
    assert torch.equal(bank.vectors, expected) and bank.vectors.dtype == torch.float16 and encoder.training
    assert len(bank) == 5 and bank.ids.tolist() == list(range(5))


def test_an_index_follows_the_queries():
    """Row by row the nearest documents are those of a full sort of the inner products."""
    index, queries = DynamicIndex(rows(20)), rows(3, seed=1)
    scores, found = index.search(queries, 5)
    whole = queries @ index.vectors.T
    assert found.tolist() == whole.argsort(1, descending=True)[:, :5].tolist()
    assert torch.allclose(scores, whole.gather(1, found))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: FeatureQueue(0, 2), "size must be at least 1: got 0"),
        (lambda: FeatureQueue(2, 2).push(rows(1)), r"embeddings must .*2 columns"),
        (lambda: FeatureQueue(2, 4).push(rows(1) * torch.nan), "embeddings must be finite"),
        (lambda: StaticBank(rows(3), torch.arange(2)), "3"),
        (lambda: StaticBank(rows(3), torch.ones(3)), "ids must be .* int64"),
        (lambda: StaticBank.from_encoder(torch.nn.Identity(), []), "loader must give at least one batch"),
        (lambda: DynamicIndex(rows(3)).search(rows(1), 4), "k must be from 1 to 3, .* got 4"),
        (lambda: known_positive_log_weights(torch.zeros(1, 1, 1).long(), torch.arange(2)), "positive_ids must be"),
        (lambda: known_positive_log_weights(torch.arange(3), torch.zeros(2, 2).long()), r"ids must be .*one row per"),
    ],
)
def test_bad_input(call, message):
    """One line that names the argument."""
    with pytest.raises(ValueError, match=message):
        call()
