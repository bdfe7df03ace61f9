"""NGAME: worked numbers, a plain transcription of the loss, the schedule, and batches of whole clusters."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.batches import NGAME_SCHEDULE, ClusterBatchSampler, TripletOHNM, multilabel_targets, triplet_ohnm
from tests.behaviour import ArrayCase, LossCase, SamplerCase

SCORES = torch.tensor([[0.9, 0.7, 0.2, 0.5], [0.3, 0.4, 0.6, 0.1], [0.2, 0.1, 0.8, 0.75], [0.5, 0.2, 0.1, 0.3]])
TARGETS = torch.eye(4, dtype=torch.bool)
SHARED = TARGETS.clone()
SHARED[0, 1] = True


def make(seed):
    generator = torch.Generator().manual_seed(seed)
    queries, passages = (torch.randn(6, 5, generator=generator, dtype=torch.float64) for _ in range(2))

    def build(seed, rank, num_replicas):
        sampler = ClusterBatchSampler(64, 8, cluster_size=8, seed=seed, rank=rank, num_replicas=num_replicas)
        sampler.update(np.random.default_rng(0).standard_normal((64, 4)), 0)
        return sampler

    ids = np.array([3, 4, 3])
    return [
        LossCase(name="TripletOHNM", call=TripletOHNM(num_negatives=3), inputs=(queries, passages)),
        SamplerCase(name="ClusterBatchSampler", build=build),
        ArrayCase(
            name="multilabel_targets",
            call=lambda seed, ids: multilabel_targets(ids, [[3], [4, 3], [3]]),
            inputs=(ids,),
            empty=lambda: multilabel_targets(ids[:0], []),
            torch_too=True,
        ),
    ]


def slow_loss(scores, targets, margin, k, temperature, aggressive, masked):
    """Step 6 of the method in plain loops; rows with fewer than k negatives count those they have."""
    total, count = 0.0, 0
    for i, row in enumerate(scores):
        negatives = sorted((row[j] for j in range(len(row)) if not targets[i][j]), reverse=True)[:k]
        losses = [max(0.0, s - row[i] + margin) for s in negatives]
        weights = [1.0] * len(losses)
        if aggressive and losses:
            powers = [
                math.exp(s / temperature) if loss > 0 else (0.0 if masked else 1.0)
                for s, loss in zip(negatives, losses, strict=True)
            ]
            weights = [p / sum(powers) if sum(powers) else 0.0 for p in powers]
        total += sum(w * loss for w, loss in zip(weights, losses, strict=True))
        count += len(losses)
    return total / max(count, 1)


def test_worked_numbers():
    """The loss of the worked example: plain, aggressive as in the official code, aggressive with a masked softmax."""
    plain = triplet_ohnm(SCORES, SHARED, num_negatives=2, aggressive=False)
    assert plain.item() == pytest.approx(0.206250, abs=5e-7)
    aggressive = triplet_ohnm(SCORES, SHARED, num_negatives=2)
    assert aggressive.item() == pytest.approx(0.152676, abs=5e-7)
    masked = triplet_ohnm(SCORES, SHARED, num_negatives=2, masked_softmax=True)
    assert masked.item() == pytest.approx(0.152693, abs=5e-7)


def test_a_shared_label_is_no_negative():
    """Without the second label of row 0 its score .7 becomes a negative with a loss of .1."""
    with_it = triplet_ohnm(SCORES, SHARED, num_negatives=2, aggressive=False)
    without = triplet_ohnm(SCORES, TARGETS, num_negatives=2, aggressive=False)
    assert (without - with_it).item() * 8 == pytest.approx(0.1, abs=1e-6)


@given(data=st.data(), b=st.integers(2, 7), extra=st.integers(0, 3))
@settings(max_examples=100, deadline=None)
def test_loss_equals_the_plain_loops(data, b, extra):
    """Scores, masks and switches of any kind give the number of the plain transcription."""
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 999)))
    scores = torch.rand(b, b + extra, generator=generator, dtype=torch.float64) * 2 - 1
    targets = torch.rand(b, b + extra, generator=generator) < data.draw(st.sampled_from([0.0, 0.3, 1.0]))
    targets |= torch.eye(b, b + extra, dtype=torch.bool)
    k = data.draw(st.integers(1, b + extra - 1))
    aggressive, masked = data.draw(st.booleans()), data.draw(st.booleans())
    got = triplet_ohnm(
        scores, targets, margin=0.2, num_negatives=k, temperature=0.3, aggressive=aggressive, masked_softmax=masked
    )
    expected = slow_loss(scores.tolist(), targets.tolist(), 0.2, k, 0.3, aggressive, masked)
    assert got.item() == pytest.approx(expected, abs=1e-12)


def test_rows_short_of_negatives_are_not_diluted():
    """A place of the top k without a true negative counts neither in the mean nor in the softmax."""
    few = torch.tensor([[True, False, True, True], [False, True, False, False], *TARGETS[2:].tolist()])
    got = triplet_ohnm(SCORES[:2], few[:2], num_negatives=3, aggressive=False)
    row_0, row_1 = max(0, 0.7 - 0.9 + 0.3), [0.3 - 0.4 + 0.3, 0.6 - 0.4 + 0.3, 0.0]
    assert got.item() == pytest.approx((row_0 + sum(row_1)) / 4)
    alone = triplet_ohnm(SCORES[:1], few[:1], num_negatives=3)
    assert alone.item() == pytest.approx(row_0)


def test_no_negative_at_all():
    """A batch of one label has loss zero and gradient zero, not NaN."""
    scores = SCORES.clone().requires_grad_()
    for masked in (False, True):
        loss = triplet_ohnm(scores, torch.ones(4, 4, dtype=torch.bool), num_negatives=2, masked_softmax=masked)
        loss.backward()
        assert loss.item() == 0
        assert torch.equal(scores.grad, torch.zeros(4, 4))


@pytest.mark.parametrize("masked", [False, True])
def test_gradient(masked):
    """The gradient is that of finite differences: it flows through the softmax."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(5, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    targets = torch.eye(5, dtype=torch.bool)
    assert torch.autograd.gradcheck(
        lambda s: triplet_ohnm(s, targets, num_negatives=3, masked_softmax=masked, margin=0.4), (scores,)
    )


def test_module_is_the_loss_of_cosines():
    """TripletOHNM normalises, and by default only the diagonal is positive."""
    generator = torch.Generator().manual_seed(1)
    queries, passages = torch.randn(8, 4, generator=generator), torch.randn(8, 4, generator=generator)
    loss = TripletOHNM(num_negatives=3, margin=0.2)
    scores = torch.cosine_similarity(queries[:, None], passages[None], dim=2)
    expected = triplet_ohnm(scores, torch.eye(8, dtype=torch.bool), num_negatives=3, margin=0.2)
    assert loss(queries, passages).item() == pytest.approx(expected.item(), abs=1e-6)
    assert loss(queries * 7, passages / 3).item() == pytest.approx(expected.item(), abs=1e-6)


def test_log_weights():
    """-inf takes a negative away as a shared label would; a finite weight multiplies its terms."""
    drop = torch.zeros(4, 4)
    drop[0, 1] = -math.inf
    got = triplet_ohnm(SCORES, TARGETS, num_negatives=2, log_weights=drop)
    assert got.item() == pytest.approx(triplet_ohnm(SCORES, SHARED, num_negatives=2).item())
    halved = triplet_ohnm(SCORES, TARGETS, num_negatives=2, log_weights=torch.full((4, 4), math.log(0.5)))
    assert halved.item() == pytest.approx(triplet_ohnm(SCORES, TARGETS, num_negatives=2).item() / 2)


def test_targets_by_all_labels():
    """T[i, j] is whether label j is in the set of row i, from lists, CSR, arrays and tensors."""
    sets = [[5, 7], [7, 9], [5], [9]]
    ids = np.array([5, 7, 5, 9])
    expected = [[label in have for label in ids] for have in sets]
    csr = np.array([0, 2, 4, 5, 6]), np.array([5, 7, 7, 9, 5, 9])
    assert multilabel_targets(ids, sets).tolist() == expected
    assert multilabel_targets(ids, csr).tolist() == expected
    tensor = multilabel_targets(torch.tensor(ids), sets)
    assert tensor.dtype == torch.bool and tensor.tolist() == expected


def test_schedule():
    """{10: 2, 20: 2} gives size 1 up to epoch 9, 2 from 10 and 4 from 20, and never more than there are rows."""
    sampler = ClusterBatchSampler(100, 8, schedule={10: 2, 20: 2})
    assert [sampler.cluster_size_at(e) for e in (0, 1, 9, 10, 19, 20, 99)] == [1, 1, 1, 2, 2, 4, 4]
    assert ClusterBatchSampler(3, 2, schedule={1: 8}).cluster_size_at(1) == 3
    paper = ClusterBatchSampler(10_000, 8)
    assert [paper.cluster_size_at(e) for e in (9, 10, 20, 25, 199, 200, 299)] == [1, 2, 4, 8, 256, 512, 512]
    assert len(NGAME_SCHEDULE) == 9


def test_due():
    """Updates are due every five epochs once clusters have more than one row, and once per epoch."""
    sampler = ClusterBatchSampler(40, 8, schedule={10: 2})
    assert [e for e in range(26) if sampler.due(e)] == [10, 15, 20, 25]
    rows = np.random.default_rng(0).standard_normal((40, 3))
    sampler.update(rows, 10)
    assert not sampler.due(10) and sampler.due(15)
    assert [e for e in range(4) if ClusterBatchSampler(40, 8, cluster_size=4, refresh_interval=2).due(e)] == [0, 2]


@pytest.mark.parametrize("shuffle_within", [False, True])
@pytest.mark.parametrize("cluster_size", [1, 5, 64])
def test_every_row_once(cluster_size, shuffle_within):
    """An epoch has every index exactly once, before and after an update."""
    sampler = ClusterBatchSampler(256, 64, cluster_size=cluster_size, shuffle_within=shuffle_within)
    assert sorted(i for batch in sampler for i in batch) == list(range(256))
    sampler.update(np.random.default_rng(0).standard_normal((256, 4)), 0)
    assert sorted(i for batch in sampler for i in batch) == list(range(256))
    assert len(sampler) == len(list(sampler)) == 4


def test_clusters_of_one_row_are_a_random_permutation():
    """With cluster size 1 an update changes nothing but the draw: any order of rows is as likely."""
    sampler = ClusterBatchSampler(6, 6, seed=4)
    sampler.update(np.random.default_rng(0).standard_normal((6, 4)), 0)
    places = np.zeros((6, 6))
    for epoch in range(2000):
        sampler.set_epoch(epoch)
        places[next(iter(sampler)), np.arange(6)] += 1
    # Expected 2000 / 6; five standard deviations of a binomial.
    assert np.abs(places - 2000 / 6).max() < 5 * math.sqrt(2000 / 6 * 5 / 6)


def test_a_batch_is_one_cluster():
    """Batches of 64 from clusters of 64 hold one cluster each."""
    rows = np.random.default_rng(1).standard_normal((512, 8))
    sampler = ClusterBatchSampler(512, 64, cluster_size=64, seed=2)
    sampler.update(rows, 0)
    labels = sampler.clusters.numpy()
    assert [len(set(labels[batch])) for batch in sampler] == [1] * 8


def test_exact_number_of_clusters():
    """power_of_two=False makes ceil(n / size) clusters, so that clusters fill batches where n is no power of two."""
    rows = np.random.default_rng(1).standard_normal((96, 8))
    sampler = ClusterBatchSampler(96, 16, cluster_size=16, power_of_two=False)
    sampler.update(rows, 0)
    assert np.bincount(sampler.clusters.numpy()).tolist() == [16] * 6
    sampler = ClusterBatchSampler(96, 16, cluster_size=16)
    sampler.update(rows, 0)
    assert np.bincount(sampler.clusters.numpy()).tolist() == [12] * 8


def test_shuffle_within_clusters():
    """Rows of a cluster keep their order, as in the official code, unless told to shuffle; clusters are the same."""
    rows = np.random.default_rng(1).standard_normal((64, 8))
    orders = []
    for shuffle_within in (False, True):
        sampler = ClusterBatchSampler(64, 16, cluster_size=16, shuffle_within=shuffle_within)
        sampler.update(rows, 0)
        orders.append(list(sampler))
    assert all(batch == sorted(batch) for batch in orders[0])
    assert orders[0] != orders[1]
    assert [sorted(batch) for batch in orders[1]] == orders[0]


def test_resume_keeps_the_clusters(tmp_path):
    """A state resumes mid-epoch with the clusters it was saved with, and no update is due for that epoch."""
    rows = np.random.default_rng(0).standard_normal((60, 4))
    sampler = ClusterBatchSampler(60, 8, cluster_size=4, seed=3)
    sampler.update(rows, 5)
    sampler.set_epoch(5)
    plan, iterator = list(sampler), iter(sampler)
    for _ in range(3):
        next(iterator)
    torch.save(sampler.state_dict(), tmp_path / "state.pt")
    fresh = ClusterBatchSampler(60, 8, cluster_size=4)
    fresh.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    fresh.set_epoch(5)
    assert not fresh.due(5) and fresh.due(10)
    assert list(fresh) == plan[3:]


def test_an_update_acts_at_the_next_iteration():
    """An epoch under way keeps its batches when the clusters change; the same embeddings give the same clusters."""
    rows = np.random.default_rng(0).standard_normal((64, 4))
    one, two = (ClusterBatchSampler(64, 8, cluster_size=8) for _ in range(2))
    before, iterator = list(one), iter(one)
    got = [next(iterator)]
    one.update(rows, 0)
    assert [*got, *iterator] == before
    two.update(torch.tensor(rows), 0)
    assert list(one) == list(two) != before


def test_refuses_bad_input():
    """Messages name the argument, the requirement and what came."""
    with pytest.raises(ValueError, match="num_negatives must be below the columns of scores: 4, got 4"):
        triplet_ohnm(SCORES, TARGETS, num_negatives=4)
    with pytest.raises(ValueError, match="targets must be True on the diagonal"):
        triplet_ohnm(SCORES, ~TARGETS, num_negatives=1)
    with pytest.raises(ValueError, match="targets must have the shape of scores"):
        triplet_ohnm(SCORES, TARGETS[:3], num_negatives=1)
    with pytest.raises(ValueError, match="log_weights must have the shape of scores"):
        triplet_ohnm(SCORES, TARGETS, num_negatives=1, log_weights=torch.zeros(4))
    with pytest.raises(ValueError, match="a column for every row's positive"):
        triplet_ohnm(SCORES[:, :3], TARGETS[:, :3], num_negatives=1)
    loss = TripletOHNM(num_negatives=1)
    with pytest.raises(ValueError, match="queries must have a direction"):
        loss(torch.zeros(3, 2), torch.ones(3, 2))
    with pytest.raises(ValueError, match="passages must be finite"):
        loss(torch.ones(3, 2), torch.full((3, 2), torch.nan))
    with pytest.raises(ValueError, match="num_negatives must be at least 1"):
        TripletOHNM(num_negatives=0)
    with pytest.raises(ValueError, match="temperature must be positive"):
        TripletOHNM(temperature=0)
    with pytest.raises(ValueError, match="cluster_size must lie between 1 and 4: got 5"):
        ClusterBatchSampler(4, 2, cluster_size=5)
    with pytest.raises(ValueError, match="factor of a schedule must be positive"):
        ClusterBatchSampler(4, 2, schedule={3: 0})
    sampler = ClusterBatchSampler(4, 2, cluster_size=2)
    with pytest.raises(ValueError, match="4 rows, 3 embeddings"):
        sampler.update(np.ones((3, 2)), 0)
    with pytest.raises(ValueError, match="embeddings must be finite"):
        sampler.update(np.full((4, 2), np.nan), 0)
    with pytest.raises(ValueError, match="embeddings must have a direction"):
        sampler.update(np.zeros((4, 2)), 0)
    with pytest.raises(ValueError, match="clusters for the rows of the data: 4 rows, 6"):
        other = ClusterBatchSampler(6, 2, cluster_size=2)
        other.update(np.random.default_rng(0).standard_normal((6, 2)), 0)
        sampler.load_state_dict(other.state_dict())
    with pytest.raises(ValueError, match="labels of their own rows: 1 are not, the first is row 1"):
        multilabel_targets(np.array([1, 2]), [[1], [3]])
    with pytest.raises(ValueError, match="one entry per row of positive_ids: 2 rows, 1"):
        multilabel_targets(np.array([1, 2]), [[1]])
