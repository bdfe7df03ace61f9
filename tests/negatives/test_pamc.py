"""PamC: the worked graph, loss and graphs in plain loops, and what meta-nodes must not notice."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.negatives import (
    MetaNodeGraphClustering,
    adjacency_power,
    dec_target,
    knn_graph,
    meta_nodes,
    metanode_negatives,
    normalised_adjacency,
    pamc_loss,
    student_t_assignment,
)
from tests.behaviour import ArrayCase, LossCase

INF = math.inf
Z = torch.tensor([[1, 0], [0.6, 0.8], [0, 1], [-0.6, 0.8]], dtype=torch.float64)
CLUSTERS = torch.tensor([0, 0, 1, 1])
PATH = torch.tensor([[0, 1, 2], [1, 2, 3]])
EDGES, GAMMA = normalised_adjacency(PATH, torch.ones(3, dtype=torch.float64))


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def randint(high, shape, seed=0):
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(seed))


def make(seed: int) -> list:
    """The loss with ids, hard and soft assignments, the negative term, the target, and nearest neighbours."""
    z, q = randn(8, 4, seed=seed), randn(8, 3, seed=seed + 1).softmax(1)
    edges, gamma = normalised_adjacency(randint(8, (2, 12), seed), n_nodes=8)
    ids = torch.arange(8) % 3
    hard = LossCase("pamc_loss hard", lambda z: pamc_loss(z, edges, gamma, q), (z,), (gamma, q))
    weights = -randn(3, 3, seed=seed + 2).abs()
    return [
        LossCase("pamc_loss", lambda z: pamc_loss(z, edges, gamma, ids), (z,), (gamma,)),
        hard,
        LossCase("pamc_loss soft", lambda z, q: pamc_loss(z, edges, gamma, q, assignment="soft"), (z, q), (gamma,)),
        LossCase(
            "metanode_negatives", lambda z: metanode_negatives(z, ids, log_weights=weights).sum(), (z,), (weights,)
        ),
        LossCase(
            "self-training",
            lambda z, c: F.kl_div(student_t_assignment(z, c).log(), dec_target(q), reduction="batchmean"),
            (z, randn(3, 4, seed=seed + 3)),
            (q,),
        ),
        ArrayCase(
            "knn_graph",
            lambda seed, x: knn_graph(x, 2),
            (z.numpy(),),
            empty=lambda: knn_graph(np.zeros((0, 2)), 1),
            torch_too=True,
        ),
    ]


# --- worked numbers ---------------------------------------------------------------------------------------------------


def dense(edges, weights, n):
    matrix = torch.zeros(n, n, dtype=weights.dtype)
    matrix[edges[0], edges[1]] = weights
    return matrix


def test_worked_adjacency():
    """The row-normalised path graph with self loops, and the first row of A + A^2."""
    third = 1 / 3
    wanted = [[0.5, 0.5, 0, 0], [third, third, third, 0], [0, third, third, third], [0, 0, 0.5, 0.5]]
    adjacency = dense(EDGES, GAMMA, 4)
    assert torch.allclose(adjacency, torch.tensor(wanted, dtype=torch.float64))
    power = dense(*adjacency_power(EDGES, GAMMA, 2), 4)
    assert power[0].tolist() == pytest.approx([0.916667, 0.916667, 0.166667, 0], abs=5e-7)
    alone = dense(*adjacency_power(EDGES, GAMMA, 2, cumulative=False), 4)
    assert torch.allclose(alone, power - adjacency)


def test_worked_loss():
    """Meta-nodes, their cosine, p of every node, n of both clusters and the loss of the worked graph."""
    nodes = meta_nodes(Z, CLUSTERS)
    assert torch.allclose(nodes, torch.tensor([[1.6, 0.8], [-0.6, 1.8]], dtype=torch.float64))
    assert F.cosine_similarity(nodes[0], nodes[1], dim=0).item() == pytest.approx(0.141421, abs=5e-7)
    assert metanode_negatives(Z, CLUSTERS, 0.5).exp().tolist() == pytest.approx([2.0733, 2.0733], abs=5e-5)
    # One row's p at a time: the other rows keep only their self loop, p = 1 and log p = 0.
    for i, p in enumerate([1.1749, 1.2806, 1.3279, 1.2459]):
        here = EDGES[0] == i
        loops = torch.tensor([[j, j] for j in range(4) if j != i]).T
        edges, gamma = torch.cat([EDGES[:, here], loops], 1), torch.cat([GAMMA[here], torch.ones(3)])
        log_p = -4 * (pamc_loss(Z, edges, gamma, CLUSTERS) - metanode_negatives(Z, CLUSTERS).mean())
        assert log_p.exp().item() == pytest.approx(p, abs=5e-5)
    assert pamc_loss(Z, EDGES, GAMMA, CLUSTERS, tau=0.5).item() == pytest.approx(0.501137, abs=5e-7)


def test_worked_dense_loss():
    """When every node is its own cluster this is the dense loss, 1.297114."""
    value = pamc_loss(Z, EDGES, GAMMA, torch.arange(4))
    assert value.item() == pytest.approx(1.297114, abs=5e-7)
    assert value.item() == pytest.approx(loop_loss(Z, EDGES, GAMMA, [[i] for i in range(4)], 0.5, True), rel=1e-10)


def test_one_cluster_leaves_the_positives():
    """With one cluster n is 1; without itself there is no negative term either."""
    for include_self in (True, False):
        log_n = metanode_negatives(Z, torch.zeros(4, dtype=torch.int64), include_self=include_self)
        assert log_n.tolist() == [0.0]
    p = [1.1749, 1.2806, 1.3279, 1.2459]
    value = pamc_loss(Z, EDGES, GAMMA, torch.zeros(4, dtype=torch.int64)).item()
    assert value == pytest.approx(-sum(map(math.log, p)) / 4, abs=5e-5)


def test_worked_target():
    """The target's first row is (.989, .011), rows sum to one, and the divergence is .0684."""
    q = torch.tensor([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8], [0.1, 0.9]], dtype=torch.float64)
    target = dec_target(q)
    assert target[0].tolist() == pytest.approx([0.989, 0.011], abs=5e-4)
    assert target.sum(1).tolist() == pytest.approx([1.0] * 4)
    assert F.kl_div(q.log(), target, reduction="batchmean").item() == pytest.approx(0.0684, abs=5e-5)
    assert not dec_target(q.requires_grad_()).requires_grad


# --- the transcription ------------------------------------------------------------------------------------------------


def loop_loss(z, edges, gamma, members, tau, include_self, log_weights=None):
    """The official code node after node and cluster after cluster; clusters are lists of rows, empty ones left out."""

    def cosine(a, b):
        lengths = a.norm() * b.norm()
        return float(a @ b / lengths) if lengths > 0 else 0.0

    total = 0.0
    for i in range(len(z)):
        p = 0.0
        for (a, b), weight in zip(edges.T.tolist(), gamma.tolist(), strict=True):
            if a == i:
                p += weight * math.exp(tau * (0.0 if a == b else cosine(z[a], z[b])))
        total -= math.log(p + 1e-10) / len(z)
    kept = [k for k, rows in enumerate(members) if rows]
    mu = {k: sum(z[i] for i in members[k]) for k in kept}
    for k in kept:
        n = 1.0 if include_self else 0.0
        for other in kept:
            if other != k:
                n += math.exp(tau * cosine(mu[k], mu[other]) + (0.0 if log_weights is None else log_weights[k, other]))
        total += math.log(n) / len(kept)
    return total


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("include_self", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
def test_equals_the_loops(seed, include_self, weighted):
    """Random graphs with an empty cluster, nodes without edges, edges of weight zero and decisions on cluster pairs."""
    z, ids = randn(9, 3, seed=seed), 2 * randint(3, (9,), seed)
    ids[:3] = torch.tensor([0, 2, 4])
    edges = randint(9, (2, 15), seed + 5).unique(dim=1)
    gamma = randn(edges.shape[1], seed=seed).relu()
    log_weights = -randn(5, 5, seed=seed + 7).abs() if weighted else None
    if weighted:
        log_weights[0, 2] = -INF
    members = [[i for i in range(9) if ids[i] == k] for k in range(5)]
    found = pamc_loss(z, edges, gamma, ids, tau=1.5, include_self=include_self, log_weights=log_weights)
    wanted = loop_loss(z, edges, gamma, members, 1.5, include_self, log_weights)
    assert found.item() == pytest.approx(wanted, rel=1e-10)


def test_powers_equal_matrix_products():
    """Any order, alone and cumulative, by dense products; in the loss, order_adjacency is the cumulative power."""
    edges, gamma = normalised_adjacency(randint(7, (2, 9)), randn(9).abs(), n_nodes=7)
    matrix = dense(edges, gamma, 7)
    assert matrix.sum(1).tolist() == pytest.approx([1.0] * 7)
    for order in (1, 2, 3):
        powers = [torch.linalg.matrix_power(matrix, r) for r in range(1, order + 1)]
        assert torch.allclose(dense(*adjacency_power(edges, gamma, order), 7), sum(powers))
        assert torch.allclose(dense(*adjacency_power(edges, gamma, order, cumulative=False), 7), powers[-1])
    z, ids = randn(7, 3), randint(3, (7,))
    direct = pamc_loss(z, edges, gamma, ids, order_adjacency=3)
    assert direct.item() == pytest.approx(pamc_loss(z, *adjacency_power(edges, gamma, 3), ids).item(), rel=1e-12)


def test_normalisation_takes_the_larger_direction():
    """Both directions get the larger weight, repeated edges count once, a self loop stands beside the identity."""
    edges = torch.tensor([[0, 1, 0, 2], [1, 0, 1, 2]])
    found = dense(*normalised_adjacency(edges, torch.tensor([2.0, 1.0, 3.0, 4.0]), n_nodes=4), 4)
    wanted = torch.tensor([[1.0, 3, 0, 0], [3, 1, 0, 0], [0, 0, 5, 0], [0, 0, 0, 1]])
    assert torch.allclose(found, wanted / wanted.sum(1, keepdim=True))


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_neighbours_equal_brute_force(metric):
    """The k nearest other rows by distances one after the other, also far from the origin."""
    x = randn(30, 4, seed=3).numpy() + 20.0 * (metric == "euclidean")
    edges = knn_graph(x, 4, metric=metric)
    assert edges[0].tolist() == np.repeat(np.arange(30), 4).tolist()
    for i in range(30):
        if metric == "euclidean":
            keys = [math.dist(x[i], y) for y in x]
        else:
            keys = [-float(x[i] @ y) / np.linalg.norm(x[i]) / np.linalg.norm(y) for y in x]
        keys[i] = INF
        assert edges[1, 4 * i : 4 * i + 4].tolist() == np.argsort(keys)[:4].tolist()


def test_student_t_equals_the_formula():
    """The kernel by distances one after the other, for two degrees of freedom."""
    z, centres = randn(5, 3), randn(4, 3, seed=1)
    for degrees in (1.0, 3.0):
        found = student_t_assignment(z, centres, degrees=degrees)
        for i in range(5):
            kernel = [(1 + float((z[i] - c).square().sum()) / degrees) ** (-(degrees + 1) / 2) for c in centres]
            assert found[i].tolist() == pytest.approx([x / sum(kernel) for x in kernel], rel=1e-10)


# --- gradients and numbers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("assignment", ["hard", "soft"])
def test_gradcheck(assignment):
    """Gradients in float64 are those of finite differences, through the soft assignments too."""
    z, q = Z.clone().requires_grad_(), randn(4, 3).softmax(1).requires_grad_(assignment == "soft")
    inputs = (z, q) if assignment == "soft" else (z,)
    assert torch.autograd.gradcheck(
        lambda z, q=q: pamc_loss(z, EDGES, GAMMA, q, assignment=assignment, tau=0.7), inputs
    )


def test_decisions_take_no_gradient():
    """Neither edge weights, nor log-weights, nor hard assignments receive a gradient."""
    q, weights = randn(4, 3).softmax(1).requires_grad_(), torch.zeros(3, 3).requires_grad_()
    gamma, z = GAMMA.clone().requires_grad_(), Z.clone().requires_grad_()
    pamc_loss(z, EDGES, gamma, q, log_weights=weights, order_adjacency=2).backward()
    assert z.grad.abs().sum() > 0
    assert q.grad is None and gamma.grad is None and weights.grad is None


def test_hard_assignments_are_the_largest_and_soft_ones_mix():
    """Hard meta-nodes are sums over the argmax, soft ones Q^T Z; a one-hot Q gives both alike."""
    q = randn(4, 3).softmax(1)
    assert torch.equal(meta_nodes(Z, q), meta_nodes(Z, q.argmax(1)))
    assert torch.allclose(meta_nodes(Z, q, assignment="soft"), q.T @ Z)
    one_hot = F.one_hot(CLUSTERS, 3).double()
    assert torch.allclose(meta_nodes(Z, one_hot, assignment="soft"), meta_nodes(Z, CLUSTERS))


def test_zero_meta_nodes_and_empty_clusters_are_finite():
    """A meta-node of length zero has similarity zero and small gradients; an empty cluster is as if it were not."""
    z = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, 0.0]], requires_grad=True)
    value = pamc_loss(z, EDGES, GAMMA.float(), torch.tensor([0, 0, 1, 1]))
    value.backward()
    assert value.isfinite() and z.grad.isfinite().all() and z.grad.abs().max() < 10
    assert metanode_negatives(z, torch.tensor([0, 0, 1, 1])).exp().tolist() == pytest.approx([2.0, 2.0])
    gaps, none = (pamc_loss(Z, EDGES, GAMMA, ids) for ids in (torch.tensor([1, 1, 7, 7]), CLUSTERS))
    assert gaps.item() == pytest.approx(none.item(), rel=1e-12)


def test_large_tau_and_half_precision():
    """No tau overflows, also from half precision, which is computed in float32."""
    z = Z.half().requires_grad_()
    value = pamc_loss(z, EDGES, GAMMA.half(), CLUSTERS, tau=500.0)
    value.backward()
    assert value.dtype == torch.float32 and value.isfinite() and z.grad.isfinite().all()


def test_negatives_need_no_square_of_the_rows():
    """What is kept for the backward pass is no larger than the embeddings; rows one by one would keep a square."""
    z = randn(300, 4).requires_grad_()
    for ids, largest in ((randint(5, (300,)), 300 * 4), (torch.arange(300), 300 * 300)):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, kept=sizes: kept.append(t.numel()) or t, lambda t: t):
            metanode_negatives(z, ids)
        assert max(sizes) == largest


# --- invariants -------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 5), st.floats(1e-3, 1e3))
def test_scale_names_and_means_do_not_matter(seed, k, scale):
    """A positive factor on Z, other names for the clusters, and means instead of sums leave the loss unchanged."""
    z, ids = randn(6, 3, seed=seed), randint(k, (6,), seed)
    edges, gamma = normalised_adjacency(randint(6, (2, 8), seed), n_nodes=6)
    gamma = gamma.double()
    plain = pamc_loss(z, edges, gamma, ids).item()
    assert pamc_loss(scale * z, edges, gamma, ids).item() == pytest.approx(plain, rel=1e-9, abs=1e-12)
    names = torch.randperm(k, generator=torch.Generator().manual_seed(seed)) + 3
    assert pamc_loss(z, edges, gamma, names[ids]).item() == pytest.approx(plain, rel=1e-9, abs=1e-12)
    means = F.one_hot(ids, k).double()
    means = means / means.sum(0).clamp_min(1)
    # Rows of Q that are not zero, though columns no longer sum to one: a mean is Q^T Z with columns that do.
    averaged = pamc_loss(z, edges, gamma, means, assignment="soft").item()
    assert averaged == pytest.approx(plain, rel=1e-9, abs=1e-12)


# --- the estimator ----------------------------------------------------------------------------------------------------


def blobs():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 20)
    return (4 * np.eye(3, 6)[labels] + 0.3 * rng.standard_normal((60, 6))).astype(np.float32), labels


@pytest.mark.parametrize("options", [{}, {"alpha": 0.0}, {"contrast": "dense"}])
def test_estimator_finds_blobs(options):
    """Three blobs are three clusters with either contrast and with none; the same seed gives the same result."""
    x, labels = blobs()
    settings = {"n_epochs": 5, "pretrain_epochs": 40, "hidden": 32, "dim": 4, **options}
    state = torch.get_rng_state()
    model = MetaNodeGraphClustering(3, **settings).fit(x)
    assert torch.equal(state, torch.get_rng_state())
    assert all(len(set(model.labels_[labels == k].tolist())) == 1 for k in range(3))
    assert len(set(model.labels_.tolist())) == 3
    assert isinstance(model.embedding_, np.ndarray) and model.embedding_.shape == (60, 4)
    again = MetaNodeGraphClustering(3, **settings).fit(torch.tensor(x))
    assert isinstance(again.labels_, torch.Tensor)
    assert np.array_equal(again.embedding_.numpy(), model.embedding_)


def test_estimator_takes_a_graph_and_an_encoder():
    """A graph is used instead of neighbours, and a given encoder is copied, not trained in place."""
    x, labels = blobs()
    encoder = torch.nn.Linear(6, 4)
    with torch.no_grad():
        encoder.weight.copy_(torch.eye(4, 6))
    before = encoder.weight.detach().clone()
    same = np.argwhere((labels[:, None] == labels) & ~np.eye(60, dtype=bool)).T
    model = MetaNodeGraphClustering(3, encoder=encoder, n_epochs=3)
    found = model.fit_predict(x, (torch.tensor(same), None))
    assert torch.equal(encoder.weight, before) and not torch.equal(model.encoder_.weight, before)
    other = MetaNodeGraphClustering(3, encoder=encoder, n_epochs=3).fit(x)
    assert not np.array_equal(other.embedding_, model.embedding_)
    assert all(len(set(found[labels == k].tolist())) == 1 for k in range(3))


# --- bad inputs -------------------------------------------------------------------------------------------------------


def test_bad_inputs():
    """Ids out of range, a tau that is not positive and graphs that do not fit are named."""
    q, nan = randn(4, 3).softmax(1), Z * math.nan
    for call, message in (
        (lambda: pamc_loss(Z, EDGES, GAMMA, CLUSTERS, tau=-1.0), "tau must be positive: got -1.0"),
        (lambda: metanode_negatives(Z, CLUSTERS, 0.0), "tau must be positive"),
        (lambda: metanode_negatives(Z, CLUSTERS - 1), "assignments as ids must be integers from 0: got -1"),
        (lambda: metanode_negatives(Z, CLUSTERS.double()), "assignments as ids must be integers"),
        (lambda: metanode_negatives(Z, CLUSTERS[:2]), "assignments must have one entry per row of z: 4 rows, 2"),
        (lambda: metanode_negatives(nan, CLUSTERS), "z must be finite"),
        (lambda: metanode_negatives(Z[:0], CLUSTERS[:0]), "z must have at least one row"),
        (lambda: metanode_negatives(Z, -q), "assignments must be floats, not negative"),
        (lambda: metanode_negatives(Z, 0 * q), "assignments must have a positive number in every row"),
        (lambda: metanode_negatives(Z, CLUSTERS, assignment="soft"), r"assignments must be \(n, k\) for soft"),
        (lambda: metanode_negatives(Z, CLUSTERS, assignment="mixed"), "assignment must be one of"),
        (
            lambda: metanode_negatives(Z, CLUSTERS + 2, log_weights=torch.zeros(3, 3)),
            "log_weights must have a row for every cluster: got 3 rows, and cluster 3",
        ),
        (lambda: metanode_negatives(Z, CLUSTERS, log_weights=torch.zeros(3, 2)), "log_weights must have 3 columns"),
        (lambda: metanode_negatives(Z, CLUSTERS, log_weights=torch.full((2, 2), INF)), "numbers or -inf"),
        (lambda: pamc_loss(Z, EDGES + 1, GAMMA, CLUSTERS), r"edge_index must lie in 0\.\.3, the nodes: got 1\.\.4"),
        (lambda: pamc_loss(Z, EDGES.T, GAMMA, CLUSTERS), r"edge_index must be \(2, e\) int64"),
        (lambda: pamc_loss(Z, EDGES, GAMMA[1:], CLUSTERS), "edge_weight must have one entry per edge: 10 edges"),
        (lambda: pamc_loss(Z, EDGES, -GAMMA, CLUSTERS), "edge_weight must not be negative"),
        (lambda: pamc_loss(Z, EDGES, GAMMA * math.nan, CLUSTERS), "edge_weight must be finite"),
        (lambda: adjacency_power(EDGES, GAMMA, 0), "order must be at least 1: got 0"),
        (lambda: normalised_adjacency(EDGES[:, :0]), "n_nodes must be given for a graph without edges"),
        (lambda: knn_graph(Z, 4), "k must lie between 1 and 3: got 4"),
        (lambda: knn_graph(nan, 1), "embeddings must be finite"),
        (lambda: knn_graph(Z, 1, metric="manhattan"), "metric must be one of"),
        (lambda: student_t_assignment(Z, Z[:, :1]), "centres must have 2 columns"),
        (lambda: student_t_assignment(Z, Z, degrees=0.0), "degrees must be positive"),
        (lambda: dec_target(-q), "q must be floats, not negative"),
        (lambda: MetaNodeGraphClustering(0), "n_clusters must be at least 1"),
        (lambda: MetaNodeGraphClustering(2, tau=-0.5), "tau must be positive"),
        (lambda: MetaNodeGraphClustering(2, contrast="none"), "contrast must be one of"),
        (lambda: MetaNodeGraphClustering(4).fit(Z), "embeddings must have more rows than clusters"),
        (lambda: MetaNodeGraphClustering(2).fit(nan), "embeddings must be finite"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
