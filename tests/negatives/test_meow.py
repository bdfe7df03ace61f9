"""MEOW: the worked numbers, losses and encoder in plain loops, and what weights must keep for every clustering."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.contrastive import unit_rows
from tamis.negatives import (
    MEOW,
    AdaMEOW,
    AdaptiveNegativeWeighting,
    HeteroContrastEncoder,
    HeteroGraph,
    cluster_negative_weights,
    pathsim_topk,
    proto_nce,
    prototype_concentration,
    weighted_info_nce,
)
from tamis.negatives.meow.encoder import GraphViews
from tamis.negatives.meow.graphs import mask_edges, mask_features, symmetric_normalisation
from tamis.randomness import child_seed
from tests.behaviour import LossCase

F64 = torch.float64
INF = math.inf
U = torch.tensor([[1, 0], [0.6, 0.8], [0, 1], [-0.8, 0.6]], dtype=F64)
V = torch.tensor([[0.8, 0.6], [1, 0], [-0.6, 0.8], [0, 1]], dtype=F64)
CLUSTERINGS = [torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 2, 2])]


def source(seed=0):
    return torch.Generator().manual_seed(seed)


def randn(*shape, seed=0, dtype=F64):
    return torch.randn(*shape, generator=source(seed), dtype=dtype)


def unit(*shape, seed=0):
    return unit_rows(randn(*shape, seed=seed))


def labels(n, k, seed=0):
    return torch.randint(k, (n,), generator=source(seed))


def make(seed: int) -> list:
    """The loss with cluster weights and with learned ones; the prototype loss."""
    u, v = unit(6, 4, seed=seed), unit(6, 4, seed=seed + 1)
    weights = cluster_negative_weights([torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([0, 1, 1, 2, 2, 0])]).double()
    centroids, phi = randn(3, 4, seed=seed + 2), torch.tensor([0.3, 0.4, 0.5], dtype=F64)

    def learned(u, v):
        network = AdaptiveNegativeWeighting(4, seed=seed).to(u.dtype)
        return weighted_info_nce(u, v, tau=1.0, include_positive=True, log_weights=network.log_weights(u, v))

    return [
        LossCase("weighted_info_nce", lambda u, v: weighted_info_nce(u, v, weights.to(u.dtype)), (u, v)),
        LossCase("weighted_info_nce learned weights", learned, (u, v)),
        LossCase(
            "weighted_info_nce weights", lambda w: weighted_info_nce(u.to(w.dtype), v.to(w.dtype), w), (weights + 0.1,)
        ),
        LossCase(
            "proto_nce",
            lambda z: proto_nce(z, centroids, torch.tensor([0, 1, 2, 0, 1, 2]), phi),
            (u,),
            (centroids, phi),
        ),
    ]


# --- worked numbers ---------------------------------------------------------------------------------------------------


def test_worked_weights_and_losses():
    """The weights of two clusterings, the four losses with them, their mean, and the mean without."""
    weights = cluster_negative_weights(CLUSTERINGS)
    assert weights.tolist() == [[0, 1, 2, 2], [1, 0, 2, 2], [2, 2, 0, 0], [2, 2, 0, 0]]
    rows = weighted_info_nce(U, V, weights.double(), 0.5, reduction="none")
    assert rows.tolist() == pytest.approx([0.7017, 1.8071, 0.5564, -0.7642], abs=5e-5)
    assert weighted_info_nce(U, V, weights.double(), 0.5).item() == pytest.approx(0.575263, abs=1e-6)
    plain = 1 - torch.eye(4, dtype=F64)
    for found in (weighted_info_nce(U, V, plain, 0.5), weighted_info_nce(U, V, tau=0.5)):
        assert found.item() == pytest.approx(0.913614, abs=1e-6)


@pytest.mark.parametrize("levels", [1, 3])
def test_all_apart_is_plain(levels):
    """Rows that are all in clusters of their own give the plain loss plus log M, and for M = 1 just that."""
    u, v = unit(7, 4), unit(7, 4, seed=1)
    weights = cluster_negative_weights([torch.arange(7)] * levels).double()
    assert weighted_info_nce(u, v, weights).item() == pytest.approx(
        weighted_info_nce(u, v).item() + math.log(levels), rel=1e-12
    )


def test_a_row_without_negatives_has_loss_zero():
    """A row whose negatives all share its cluster has loss 0 and finite gradients, and a warning says so."""
    weights = cluster_negative_weights([torch.zeros(4, dtype=torch.int64)]).double().requires_grad_()
    u = U.clone().requires_grad_()
    with pytest.warns(UserWarning, match="4 rows have no negative of any weight"):
        loss = weighted_info_nce(u, V, weights, 0.5)
    loss.backward()
    assert loss.item() == 0 and u.grad.eq(0).all() and weights.grad.isfinite().all()
    part = cluster_negative_weights([torch.tensor([0, 0, 0, 0])])
    part[0, 1] = 1.0
    with pytest.warns(UserWarning, match="3 rows"):
        rows = weighted_info_nce(U, V, part.double(), 0.5, reduction="none")
    assert rows[1:].eq(0).all() and rows[0] != 0


def test_worked_pathsim():
    """PathSim of the worked matrix, and the neighbours that are kept."""
    adj = torch.tensor([[2.0, 1.0], [1.0, 4.0]], dtype=F64)
    assert pathsim_topk(adj, 2)[0, 1].item() == pytest.approx(0.333333, abs=1e-6)
    assert pathsim_topk(adj, 1).tolist() == [[1.0, 0.0], [0.0, 1.0]]


def test_full_weights_are_infonce_with_the_positive():
    """A bias of plus infinity gives weights of one: InfoNCE with the positive; w is symmetric only for u = v."""
    network = AdaptiveNegativeWeighting(2).double()
    assert torch.allclose(network(U, U), network(U, U).T) and not torch.allclose(network(V, U), network(V, U).T)
    network.second_bias.data.fill_(INF)
    weights = network.log_weights(V, U)
    assert weights.eq(0).all()
    found = weighted_info_nce(V, U, tau=1.0, include_positive=True, log_weights=weights)
    assert found.item() == pytest.approx(F.cross_entropy(V @ U.T, torch.arange(4)).item(), rel=1e-12)


# --- the transcription ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("include", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_loss_equals_the_loops(include, seed):
    """Weights and loss of the loops, with and without the positive, from weights and from their logs."""
    u, v = unit(6, 4, seed=seed), unit(6, 4, seed=seed + 9)
    clusterings = [labels(6, k, seed=seed + k) for k in (3, 4, 5)]
    weights = torch.zeros(6, 6, dtype=F64)
    for i in range(6):
        for j in range(6):
            weights[i, j] = sum(int(c[i]) != int(c[j]) for c in clusterings)
    assert torch.equal(cluster_negative_weights(clusterings).double(), weights)
    weights += 0.1
    rows = []
    for i in range(6):
        terms = [float(weights[i, j]) * math.exp(float(u[i] @ v[j]) / 0.3) for j in range(6) if include or j != i]
        rows.append(-math.log(math.exp(float(u[i] @ v[i]) / 0.3) / sum(terms)))
    for given_weights in ({"weights": weights}, {"log_weights": weights.log()}):
        found = weighted_info_nce(u, v, tau=0.3, include_positive=include, reduction="none", **given_weights)
        assert found.tolist() == pytest.approx(rows, rel=1e-9)


def test_learned_weights_equal_the_official_repeat():
    """Adding up hidden units gives the network on all repeated sums v_i + u_j, value and gradients."""
    network = AdaptiveNegativeWeighting(4, 5, seed=3).double()
    u, v = unit(6, 4).requires_grad_(), unit(3, 4, seed=1).requires_grad_()
    parts = [network.first, network.first_bias, network.second, network.second_bias, u, v]
    repeated = v[:, None].expand(3, 6, 4) + u[None].expand(3, 6, 4)
    hidden = torch.tanh(repeated @ network.first + network.first_bias)
    slow = torch.sigmoid(hidden @ network.second + network.second_bias)
    fast = network(v, u)
    assert torch.allclose(fast, slow)
    upstream = randn(3, 6, seed=5)
    for one, other in zip(
        torch.autograd.grad((fast * upstream).sum(), parts),
        torch.autograd.grad((slow * upstream).sum(), parts),
        strict=True,
    ):
        assert torch.allclose(one, other)
    assert torch.autograd.gradcheck(network, (v, u))


def test_normalized_weights_have_mean_one():
    """Rows of normalised weights have mean one, and pushing all weights down changes nothing."""
    u, v = unit(6, 4), unit(6, 4, seed=1)
    safe = AdaptiveNegativeWeighting(4, normalize_weights=True).double()
    before = safe(u, v)
    assert torch.allclose(before.mean(1), torch.ones(6, dtype=F64))
    loss = weighted_info_nce(u, v, tau=1.0, include_positive=True, log_weights=safe.log_weights(u, v))
    safe.second_bias.data -= 50
    again = weighted_info_nce(u, v, tau=1.0, include_positive=True, log_weights=safe.log_weights(u, v))
    faithful = AdaptiveNegativeWeighting(4).double()
    losses = []
    for shift in (0, -50):
        faithful.second_bias.data += shift
        weights = faithful.log_weights(u, v)
        losses.append(weighted_info_nce(u, v, tau=1.0, include_positive=True, log_weights=weights).item())
    assert losses[1] < losses[0] - 45 and abs(loss.item() - again.item()) < 1


@pytest.mark.parametrize("measure", ["distance", "similarity"])
def test_prototypes_equal_the_loops(measure):
    """Concentrations and the prototype loss are those of loops over clusters and rows; the code's mean adds log N/K."""
    z, centroids, own = unit(12, 4), randn(5, 4, seed=1), labels(12, 4, seed=2)
    own[0] = 3
    own[own == 2] = 1
    own[5] = 2
    near = unit_rows(centroids)
    density = []
    for c in range(5):
        members = [i for i in range(12) if int(own[i]) == c]
        inner = [max(float(z[i] @ near[c]), 0.0) for i in members]
        far = [float((z[i] - near[c]).square().sum()) for i in members]
        roots = [math.sqrt(x) for x in (inner if measure == "similarity" else far)]
        density.append(np.mean(roots) / math.log(len(members) + 5) if len(members) > 1 else -1)
    density = np.array([d if d >= 0 else max(density) for d in density])
    density = density.clip(np.percentile(density, 10), np.percentile(density, 90))
    phi = prototype_concentration(z, centroids, own, tau=0.7, measure=measure)
    assert phi.tolist() == pytest.approx((0.7 * density / density.mean()).tolist(), rel=1e-9)
    rows = []
    for i in range(12):
        terms = [math.exp(float(z[i] @ near[c]) / float(phi[c])) for c in range(5)]
        rows.append(-math.log(terms[int(own[i])] / sum(terms)))
    loss = proto_nce(z, centroids, own, phi)
    assert loss.item() == pytest.approx(np.mean(rows), rel=1e-9)
    official = proto_nce(z, centroids, own, phi, denominator="mean_times_n")
    assert official.item() == pytest.approx(np.mean(rows) + math.log(12 / 5), rel=1e-9)
    on_the_spot = prototype_concentration(unit(2, 4), unit(2, 4), torch.arange(2), tau=0.7)
    assert on_the_spot.tolist() == pytest.approx([0.7, 0.7])


@pytest.mark.parametrize("seed", range(3))
def test_pathsim_and_normalisation_equal_the_loops(seed):
    """The k most alike neighbours by PathSim, and D^-1/2 A D^-1/2, of plain loops."""
    incidence = torch.randint(3, (7, 4), generator=source(seed)).double()
    adj = incidence @ incidence.T
    adj.diagonal().clamp_(min=1)
    kept = pathsim_topk(adj, 3)
    for i in range(7):
        alike = [2 * float(adj[i, j]) / float(adj[i, i] + adj[j, j]) for j in range(7)]
        best = sorted(range(7), key=lambda j: -alike[j])[:3]
        assert kept[i].tolist() == pytest.approx([a if j in best else 0 for j, a in enumerate(alike)])
    normal = symmetric_normalisation(kept)
    degree = [float(row.sum()) for row in kept]
    for i in range(7):
        for j in range(7):
            assert normal[i, j].item() == pytest.approx(float(kept[i, j]) / math.sqrt(degree[i] * degree[j]))
    assert symmetric_normalisation(torch.zeros(2, 2)).eq(0).all()


def test_masks():
    """Masks drop the given share, rounded down, of edges and of features, and keep self loops."""
    adj = torch.ones(6, 6)
    for share, left in ((0.0, 30), (0.25, 23), (1.0, 0)):
        masked = mask_edges(adj, share, source())
        assert int((masked > 0).sum()) == left + 6 and (masked.diagonal() > 0).all()
    assert torch.allclose(mask_edges(adj, 0.0, source()), symmetric_normalisation(adj))
    x = torch.tensor([[1.0, 0.0, 2.0], [3.0, 4.0, 0.0]])
    gone = mask_features(x, 0.5, source())
    assert int((gone != 0).sum()) == 2 and bool(((gone == x) | (gone == 0)).all())


def toy(n=12, seed=0):
    """Two classes, two meta-paths, contexts of two types, the second path by way of both."""
    kinds = torch.arange(n) % 2
    authors = ((torch.arange(6) % 2 == kinds[:, None]) & (torch.rand(n, 6, generator=source(seed)) < 0.7)).float()
    subjects = F.one_hot(kinds + 2 * labels(n, 2, seed), 4).float()
    features = F.one_hot(kinds, 2).float() @ randn(2, 5, dtype=torch.float32) + 0.3 * randn(
        n, 5, seed=seed + 1, dtype=torch.float32
    )
    others = {"author": randn(6, 3, dtype=torch.float32), "subject": randn(4, 2, dtype=torch.float32)}
    contexts = [[("author", authors)], [("author", authors), ("subject", subjects)]]
    loops = torch.eye(n)
    return HeteroGraph(features, [authors @ authors.T + loops, subjects @ subjects.T], contexts, others)


def test_encoder_equals_a_literal_one():
    """In evaluation mode the encoder is the paper's, node by node; the mean of no neighbours is zero."""
    graph = toy()
    graph.contexts[0][0][1][3] = 0
    views = GraphViews.of(graph, generator=source())
    encoder = HeteroContrastEncoder(5, {"author": 3, "subject": 2}, [["author"], ["author", "subject"]], hidden=4)
    coarse, fine = encoder.eval()(views)
    with torch.no_grad():
        own = [F.elu(encoder.target(x)) for x in (views.features, views.masked_features)]
        types = {name: F.elu(encoder.types[name](graph.others[name])) for name in graph.others}

        def convolved(x, adj):
            for layer, act in zip(encoder.convolutions, (encoder.slope, lambda y: y), strict=True):
                x = act(adj @ (x @ layer.weight.T))
            return (x - x.mean()) / (x.var(unbiased=False) + 1e-5).sqrt()

        embedded = []
        for p, path in enumerate(graph.contexts):
            seen = torch.zeros(12, 4)
            for i in range(12):
                for place, (name, incidence) in enumerate(path):
                    members = incidence[i].nonzero().flatten()
                    if len(members):
                        seen[i] += encoder.paths[p][place](types[name][members].mean(0))
            for x, adjacency in zip(own, (views.adjacencies[p], views.masked_adjacencies[p]), strict=True):
                embedded.append(unit_rows(convolved(F.elu(x + seen), adjacency)))
        scores = [torch.tanh(encoder.attention(z)).mean(0) @ encoder.attended for z in embedded]
        wanted = sum(z * b for z, b in zip(embedded, torch.stack(scores).softmax(0), strict=True))
        mean = (views.adjacencies[0] + views.adjacencies[1]) / 2
        assert torch.allclose(coarse, convolved(own[0], mean), atol=1e-5)
        assert torch.allclose(fine, wanted, atol=1e-5)
        assert torch.allclose(encoder.project(fine), unit_rows(torch.tanh(encoder.projection(fine))))
        assert encoder.train()(views, generator=source())[1].isfinite().all()


# --- invariants -------------------------------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 9), st.integers(1, 4))
def test_weights_count_the_clusterings_that_part(seed, n, levels):
    """Weights are symmetric, from 0 to M, 0 on the diagonal, indifferent to names; a finer clustering only raises."""
    rng = np.random.default_rng(seed)
    found = [torch.from_numpy(rng.integers(0, 4, n)) for _ in range(levels)]
    weights = cluster_negative_weights(found)
    assert torch.equal(weights, weights.T) and weights.diagonal().eq(0).all()
    assert weights.min() >= 0 and weights.max() <= levels
    renamed = torch.from_numpy(rng.permutation(4))
    assert torch.equal(weights, cluster_negative_weights([renamed[c] for c in found]))
    finer = [c * 2 + torch.from_numpy(rng.integers(0, 2, n)) for c in found]
    assert (cluster_negative_weights(finer) >= weights).all()


def test_no_gradient_where_none_belongs():
    """Neither concentrations nor centres carry one, and MEOW's weights come from labels, which cannot."""
    z, centroids = unit(6, 4).requires_grad_(), randn(3, 4, seed=1).requires_grad_()
    own = torch.tensor([0, 1, 2, 0, 1, 2])
    phi = prototype_concentration(z, centroids, own)
    assert not phi.requires_grad
    asking = phi.clone().requires_grad_()
    proto_nce(z, centroids, own, asking).backward()
    assert centroids.grad is None and asking.grad is None and z.grad.abs().sum() > 0
    assert not cluster_negative_weights([own]).requires_grad


# --- training ---------------------------------------------------------------------------------------------------------


def test_estimators_learn_and_repeat_themselves():
    """Both lower their loss, embed every node, give the same for a seed, and leave the global generator alone."""
    graph = toy()
    before = torch.get_rng_state()
    for build in (
        lambda: MEOW((2, 3), hidden=8, learning_rate=1e-2, epochs=12, warmup_epochs=3, patience=None, seed=1),
        lambda: AdaMEOW(hidden=8, learning_rate=1e-2, epochs=12, nei_max=4, edge_mask=(0.3, 0.2), seed=1),
    ):
        model, again = build().fit(graph), build().fit(graph)
        assert model.embedding_.shape == (12, 8) and model.embedding_.isfinite().all()
        assert not model.embedding_.requires_grad
        assert np.mean(model.losses_[-3:]) < np.mean(model.losses_[3:6])
        assert torch.equal(model.embedding_, again.embedding_) and model.losses_ == again.losses_
    assert torch.equal(before, torch.get_rng_state())


def test_anchors_and_options():
    """MEOW's anchor is the coarse view and AdaMEOW's the fine one; no clusters mean plain negatives."""
    graph = toy()
    plain = MEOW((), hidden=4, epochs=1, dropout=0.0, seed=2).fit(graph)
    ada = AdaMEOW(hidden=4, epochs=1, dropout=0.0, edge_mask=0.3, seed=2).fit(graph)
    views = GraphViews.of(graph, generator=source(child_seed(2, "meow")))
    encoder = HeteroContrastEncoder(
        5,
        {"author": 3, "subject": 2},
        [["author"], ["author", "subject"]],
        hidden=4,
        seed=child_seed(2, "meow encoder"),
        dropout=0.0,
    )
    coarse, fine = (encoder.project(z) for z in encoder(views))
    assert plain.losses_[0] == pytest.approx(weighted_info_nce(coarse, fine, tau=0.4).item(), rel=1e-5)
    weights = AdaptiveNegativeWeighting(4, seed=child_seed(2, "adameow weights")).log_weights(fine, coarse)
    wanted = weighted_info_nce(fine, coarse, tau=1.0, include_positive=True, log_weights=weights)
    assert ada.losses_[0] == pytest.approx(wanted.item(), rel=1e-5)


def test_patience():
    """Training stops after so many epochs without a lower loss, and the warm-up does not count."""
    graph = toy()
    model = MEOW((2,), hidden=4, learning_rate=1e-9, dropout=0.5, epochs=200, patience=3, warmup_epochs=5).fit(graph)
    counted = model.losses_[5:]
    assert 4 <= len(counted) < 195
    assert len(counted) - 1 - counted.index(min(counted)) == 3


# --- bad inputs -------------------------------------------------------------------------------------------------------


def test_bad_inputs():
    """Lengths that differ, tau, matrices that are not square, too many clusters, and the like are named."""
    graph, own = toy(), torch.tensor([0, 1, 2, 0])
    z = unit(4, 3)
    for call, message in (
        (lambda: cluster_negative_weights([torch.arange(3), torch.arange(4)]), "3 rows, 4 assignments"),
        (lambda: cluster_negative_weights([]), "assignments must hold at least one clustering"),
        (lambda: weighted_info_nce(U, V, tau=0.0), "temperature must be positive: got 0.0"),
        (lambda: weighted_info_nce(U, V[:3]), "other must have the shape of anchor"),
        (lambda: weighted_info_nce(U, V, torch.ones(4, 3)), "weights must have the shape of the pairs of rows"),
        (lambda: weighted_info_nce(U, V, -torch.ones(4, 4)), "weights must not be negative"),
        (
            lambda: weighted_info_nce(U, V, torch.ones(4, 4), log_weights=torch.ones(4, 4)),
            "give either weights or log_weights",
        ),
        (lambda: AdaptiveNegativeWeighting(3)(U, V), "anchor must have 3 columns"),
        (lambda: proto_nce(z, randn(5, 3), own, torch.ones(5)), "centroids must not outnumber .*: 4 rows, 5 centroids"),
        (lambda: proto_nce(z, randn(3, 3), own[:3], torch.ones(3)), "assignments must have one entry per row of z"),
        (
            lambda: proto_nce(z, randn(2, 3), own, torch.ones(2)),
            r"assignments must lie in 0..1, the centroids: got 0..2",
        ),
        (lambda: proto_nce(z, randn(3, 3), own, torch.zeros(3)), "concentration must be positive"),
        (lambda: prototype_concentration(z, randn(3, 3), own, tau=-1.0), "tau must be positive: got -1.0"),
        (lambda: pathsim_topk(torch.ones(2, 3), 1), r"adj must be square \(n, n\): got shape \(2, 3\)"),
        (lambda: pathsim_topk(-torch.ones(2, 2), 1), "adj must not be negative"),
        (lambda: pathsim_topk(torch.ones(2, 2), 0), "k must be at least 1: got 0"),
        (lambda: MEOW((13,), epochs=1).fit(graph), "clusters must be at most 12, the nodes of the graph: got 13"),
        (lambda: MEOW(tau=0), "tau must be positive: got 0"),
        (lambda: AdaMEOW(epochs=0), "epochs must be at least 1: got 0"),
        (lambda: MEOW((2,), edge_mask=(0.1,)).fit(graph), "edge_mask must have one entry per row of adjacencies"),
        (lambda: HeteroGraph(graph.features, []).check(), "adjacencies must hold at least one meta-path"),
        (lambda: HeteroGraph(graph.features, [torch.ones(3, 3)]).check(), "12 rows, 3 adjacencies"),
        (
            lambda: HeteroGraph(graph.features, graph.adjacencies[:1], graph.contexts[:1]).check(),
            "'author' lacks",
        ),
        (
            lambda: HeteroGraph(graph.features, graph.adjacencies, graph.contexts[:1], graph.others).check(),
            "contexts must have one entry per meta-path: 2 paths, 1 entries",
        ),
        (
            lambda: HeteroContrastEncoder(5, {}, [(), ()], hidden=4)(GraphViews.of(graph, generator=source())),
            "generator must be given in training mode",
        ),
    ):
        with pytest.raises(ValueError, match=message), warnings.catch_warnings():
            call()
