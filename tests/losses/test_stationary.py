"""d-Simplex-HOC: the worked numbers, transcriptions in loops, and what must hold for simplices, losses and matrices."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.contrastive import drop, info_nce
from tamis.losses import (
    DSimplexClassifier,
    HOCLoss,
    average_accuracy,
    average_compatibility,
    compatibility_matrix,
    compatibility_report,
    d_simplex,
    hoc_loss,
)
from tests.behaviour import ArrayCase, LossCase

NAN = math.nan
OLD = torch.tensor([[1, 0], [0, 1], [1, 1]], dtype=torch.float64)
NEW = torch.tensor([[1, 0.2], [-0.2, 1], [0.5, 1]], dtype=torch.float64)
LABELS = torch.tensor([0, 1, 0])
MATRIX = np.array([[0.60, NAN, NAN], [0.58, 0.70, NAN], [0.61, 0.72, 0.80]])


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def drawn_labels(n, classes, seed=0):
    labels = torch.randint(classes, (n,), generator=torch.Generator().manual_seed(seed))
    labels[:classes] = torch.arange(classes)
    return labels


def make(seed: int) -> list:
    """Cases for the shared checks: classifier, contrastive term with both readings, matrix and report."""
    labels = drawn_labels(6, 3, seed)
    new, old = randn(6, 4, seed=seed), randn(6, 4, seed=seed + 1)
    classifier = DSimplexClassifier(5)
    rng = np.random.default_rng(seed)
    features, y = rng.normal(size=(2, 12, 3)), np.arange(12) % 4
    return [
        LossCase("DSimplexClassifier", lambda z: classifier.loss(z, labels), (new,)),
        LossCase("hoc_loss", lambda z: hoc_loss(z, old.to(z.dtype), labels), (new,), (old,)),
        LossCase(
            "HOCLoss zero_logit", lambda z: HOCLoss(same_class="zero_logit")(z, old.to(z.dtype), labels), (new,), (old,)
        ),
        ArrayCase(
            "compatibility_matrix",
            lambda seed, a, b, q, g: compatibility_matrix([a, b], [a, b], q, g, metric="recall@2", templates=True),
            (*features, y, y),
            empty=lambda: compatibility_matrix([np.empty((0, 3))], [features[0]], y[:0], y),
        ),
        ArrayCase(
            "compatibility_report",
            lambda seed, m: compatibility_report(m),
            (MATRIX,),
            empty=lambda: compatibility_report(np.empty((0, 0))),
        ),
    ]


def loop_hoc(new, old, labels, scale, same_class):
    """The loss of each item, one cosine after the other."""
    losses = []
    for i in range(len(new)):
        scores = [scale * float(old[i] @ n / (old[i].norm() * n.norm())) for n in new]
        total = 0.0
        for j, score in enumerate(scores):
            if labels[i] != labels[j]:
                total += math.exp(score)
            elif same_class == "zero_logit":
                total += 1.0
        losses.append(-scores[i] + math.log(total) if total else 0.0)
    return sum(losses) / len(losses)


def loop_matrix(queries, galleries, query_labels, gallery_labels, k, templates):
    """recall@k of every pair of versions by sorting cosines; k = 1 may take class means."""
    matrix = np.full((len(queries), len(queries)), NAN)
    for i in range(len(queries)):
        for j in range(i + 1):
            items = [(x / np.linalg.norm(x), y) for x, y in zip(galleries[j], gallery_labels, strict=True)]
            if templates:
                names = sorted(set(gallery_labels.tolist()))
                items = [(np.mean([x for x, y in items if y == name], axis=0), name) for name in names]
            hits = 0
            for x, y in zip(queries[i], query_labels, strict=True):
                cosines = [float(x @ t) / np.linalg.norm(t) for t, _ in items]
                best = sorted(range(len(items)), key=lambda n: -cosines[n])[:k]
                hits += any(items[n][1] == y for n in best)
            matrix[i, j] = hits / len(queries[i])
    return matrix


# --- worked numbers ---------------------------------------------------------------------------------------------------


def test_worked_simplices():
    """Corners for 2, 3 and 4 classes, in the order of the construction."""
    assert torch.allclose(d_simplex(2), torch.tensor([[1.0], [-1.0]]))
    three = [[0.965926, -0.258819], [-0.258819, 0.965926], [-0.707107, -0.707107]]
    assert torch.allclose(d_simplex(3), torch.tensor(three), atol=1e-6)
    four = d_simplex(4, dtype=torch.float64)
    want = torch.full((4, 3), -0.192450, dtype=torch.float64)
    want[range(3), range(3)] = 0.962250
    want[3] = -0.577350
    assert torch.allclose(four, want, atol=5e-7)
    gram = four @ four.T
    assert torch.allclose(gram[~torch.eye(4, dtype=torch.bool)], torch.tensor(-1 / 3, dtype=torch.float64), atol=1e-12)


@pytest.mark.parametrize(("k", "scale", "value"), [(4, 1.0, 0.582658), (10, 5.0, 0.034202)])
def test_worked_cross_entropy(k, scale, value):
    """Features on their own corners, at every class: log(1 + (K-1) exp(-s K/(K-1)))."""
    classifier = DSimplexClassifier(k)
    losses = classifier.loss(scale * d_simplex(k, dtype=torch.float64), torch.arange(k), reduction="none")
    assert losses.tolist() == pytest.approx([value] * k, abs=1e-6)


def test_worked_contrastive_terms():
    """Same class left out, counted as exp(0), and the InfoNCE reading with the positive in the denominator."""
    assert hoc_loss(NEW, OLD, LABELS).item() == pytest.approx(-5.522469, abs=5e-7)
    assert hoc_loss(NEW, OLD, LABELS, 10.0, "zero_logit").item() == pytest.approx(-4.612406, abs=5e-7)
    same = drop(LABELS[:, None] == LABELS, dtype=torch.float64)
    assert info_nce(OLD, NEW, scale=10.0, log_weights=same).item() == pytest.approx(0.123991, abs=5e-7)


def test_worked_averages():
    """AC 2/3 and AA 0.668333; equal values do not count as compatible."""
    assert average_compatibility(MATRIX) == pytest.approx(2 / 3)
    assert average_accuracy(MATRIX) == pytest.approx(0.668333, abs=5e-7)
    assert average_compatibility(np.array([[0.6, 0.0], [0.6, 0.7]])) == 0.0
    assert average_accuracy(np.array([[0.6, 0.0], [0.0, 0.7]])) == pytest.approx(1.3 / 3)
    assert average_accuracy(np.array([[0.6, 0.0], [0.0, 0.7]]), ignore_zeros=True) == pytest.approx(0.65)


def test_one_class_counts_nothing():
    """A batch of one class under "exclude": a warning, value 0, gradient 0; under "zero_logit" neither."""
    new = NEW.clone().requires_grad_()
    with pytest.warns(UserWarning, match="labels hold one class only, so the loss of the batch is 0"):
        loss = hoc_loss(new, OLD, torch.zeros(3, dtype=torch.int64))
    loss.backward()
    assert loss.item() == 0 and new.grad.abs().sum().item() == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        value = hoc_loss(NEW, OLD, torch.zeros(3, dtype=torch.int64), same_class="zero_logit").item()
    positives = 10 * torch.nn.functional.cosine_similarity(NEW, OLD)
    assert value == pytest.approx(math.log(3) - positives.mean().item(), rel=1e-12)


def test_the_corners_are_saved_and_never_learn():
    """No parameters; corners and class map are in the state, and loading brings a map back."""
    classifier = DSimplexClassifier(6, class_map=[5, 3, 4])
    assert not list(classifier.parameters()) and not classifier.weight.requires_grad
    state = classifier.state_dict()
    assert set(state) == {"weight", "class_map"}
    other = DSimplexClassifier(6, class_map=[0, 1, 2])
    other.load_state_dict(state)
    assert other.corners(torch.tensor([0, 2])).tolist() == [5, 4]


def test_a_thousand_corners_sum_to_nothing():
    """K = 1024 in float32: the rows sum to less than 1e-6 in every dimension, and have length one."""
    corners = d_simplex(1024)
    assert corners.shape == (1024, 1023) and corners.dtype == torch.float32
    assert corners.sum(0).abs().max().item() < 1e-6
    assert torch.allclose(corners.norm(dim=1), torch.ones(1024), atol=1e-6)


# --- the transcriptions -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("same_class", ["exclude", "zero_logit"])
@pytest.mark.parametrize("scale", [10.0, 0.5])
def test_contrastive_term_equals_the_loops(seed, same_class, scale):
    """Random features and labels: the value of the loops, by function and by module."""
    new, old, labels = randn(7, 3, seed=seed), randn(7, 3, seed=seed + 50), drawn_labels(7, 3, seed)
    want = pytest.approx(loop_hoc(new, old, labels, scale, same_class), rel=1e-10)
    assert hoc_loss(new, old, labels, scale, same_class).item() == want
    assert HOCLoss(scale, same_class=same_class)(new, old, labels).item() == want


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("class_map", [None, [4, 1, 2]])
def test_classifier_equals_the_loops(seed, class_map):
    """Cross-entropy over all corners, unseen ones too, against the mapped corner."""
    classifier = DSimplexClassifier(5, class_map=class_map)
    features, labels = randn(6, 4, seed=seed), drawn_labels(6, 3, seed)
    logits = classifier(features)
    losses = []
    for z, row, label in zip(features, logits, labels.tolist(), strict=True):
        products = [float(z @ w.double()) for w in classifier.weight]
        assert row.tolist() == pytest.approx(products, abs=1e-12)
        corner = label if class_map is None else class_map[label]
        losses.append(math.log(sum(math.exp(p) for p in products)) - products[corner])
    assert classifier.loss(features, labels).item() == pytest.approx(sum(losses) / 6, rel=1e-10)
    assert classifier.loss(features, labels, reduction="sum").item() == pytest.approx(sum(losses), rel=1e-10)


@pytest.mark.parametrize("templates", [False, True])
@pytest.mark.parametrize("k", [1, 3])
def test_matrix_equals_the_loops(templates, k):
    """Three versions, items or class means, recall at 1 and 3: the matrix of the loops, for arrays and tensors."""
    rng = np.random.default_rng(k)
    q_labels, g_labels = rng.permutation(np.arange(20) % 5), rng.permutation(np.arange(30) % 5)
    queries = [rng.normal(size=(20, 4)) + np.eye(5, 4)[q_labels] for _ in range(3)]
    galleries = [rng.normal(size=(30, 4)) + np.eye(5, 4)[g_labels] for _ in range(3)]
    want = loop_matrix(queries, galleries, q_labels, g_labels, k, templates)
    got = compatibility_matrix(queries, galleries, q_labels, g_labels, metric=f"recall@{k}", templates=templates)
    assert np.array_equal(got, want, equal_nan=True)
    tensors = [[torch.from_numpy(x) for x in xs] for xs in (queries, galleries)]
    again = compatibility_matrix(
        *tensors, torch.from_numpy(q_labels), torch.from_numpy(g_labels), metric=f"recall@{k}", templates=templates
    )
    assert np.array_equal(again, want, equal_nan=True)


def test_a_metric_of_ones_own():
    """A function gets features and labels of the right versions and fills the lower triangle."""
    versions = [np.full((2, 3), 1.0 + v) for v in range(3)]
    labels = np.arange(2)
    got = compatibility_matrix(versions, versions, labels, labels, metric=lambda q, g, yq, yg: q[0, 0] * 10 + g[0, 0])
    assert np.array_equal(got, [[11, NAN, NAN], [21, 22, NAN], [31, 32, 33]], equal_nan=True)


# --- invariants -------------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 80))
def test_simplices_are_regular(k):
    """For every K: unit rows, every two at -1/(K-1), sum zero."""
    corners = d_simplex(k, dtype=torch.float64)
    gram = torch.full((k, k), -1 / (k - 1), dtype=torch.float64).fill_diagonal_(1.0)
    assert torch.allclose(corners @ corners.T, gram, atol=1e-12)
    assert corners.sum(0).abs().max().item() < 1e-12


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.1, 10), st.sampled_from(["exclude", "zero_logit"]))
def test_only_directions_and_the_partition_matter(seed, factor, same_class):
    """Scaling features, renaming classes and permuting items leave the contrastive term."""
    new, old, labels = randn(6, 3, seed=seed), randn(6, 3, seed=seed + 1), drawn_labels(6, 3, seed)
    value = hoc_loss(new, old, labels, same_class=same_class).item()
    order = torch.randperm(6, generator=torch.Generator().manual_seed(seed))
    renamed = hoc_loss(factor * new[order], old[order] / factor, 7 - 3 * labels[order], same_class=same_class)
    assert renamed.item() == pytest.approx(value, rel=1e-9, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 5))
def test_reports_agree_with_themselves(seed, t):
    """AC is one minus the share of pairs that need a backfill, and what stands above the diagonal never matters."""
    rng = np.random.default_rng(seed)
    matrix = rng.integers(0, 4, (t, t)) / 4
    report = compatibility_report(matrix)
    pairs = t * (t - 1) / 2
    assert report.average_compatibility == pytest.approx(1 - report.backfill.sum() / pairs)
    assert report.average_accuracy == pytest.approx(average_accuracy(np.tril(matrix) - np.triu(np.ones((t, t)), 1)))
    assert np.isnan(report.gains[np.triu_indices(t)]).all() and not report.backfill[np.triu_indices(t)].any()


# --- pitfalls ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("same_class", ["exclude", "zero_logit"])
def test_gradients(same_class):
    """The new features' gradient is that of finite differences, and the old features get none."""
    new, old = NEW.clone().requires_grad_(), OLD.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: hoc_loss(z, OLD, LABELS, 2.0, same_class), new)
    hoc_loss(new, old, LABELS, 2.0, same_class).backward()
    assert new.grad.abs().sum() > 0 and old.grad is None


def test_half_precision():
    """float16 features with large logits: finite float32 values near the exact ones."""
    for same_class in ("exclude", "zero_logit"):
        new = NEW.half().requires_grad_()
        value = hoc_loss(new, OLD.half(), LABELS, 10.0, same_class)
        value.backward()
        assert value.dtype == torch.float32 and new.grad.dtype == torch.float16
        assert value.item() == pytest.approx(hoc_loss(NEW, OLD, LABELS, 10.0, same_class).item(), abs=0.02)
    assert DSimplexClassifier(4)(randn(2, 3).bfloat16()).dtype == torch.bfloat16


def test_a_permuted_class_map_breaks_compatibility_and_a_stored_one_keeps_it():
    """Features on corners: with one map versions search each other's galleries, with another they find nothing."""
    labels = torch.arange(4)
    one, two = DSimplexClassifier(5), DSimplexClassifier(5, class_map=[1, 2, 3, 0])
    features = [c.weight[c.corners(labels)] for c in (one, one, two)]
    matrix = compatibility_matrix(features, features, labels, labels)
    assert np.array_equal(matrix, [[1, NAN, NAN], [1, 1, NAN], [0, 0, 1]], equal_nan=True)


def test_the_report_in_words():
    """Every pair with its score, its gain and the verdict."""
    report = compatibility_report(MATRIX, ["a", "b", "c"])
    assert str(report).splitlines() == [
        "AC 0.667, AA 0.668",
        "b queries in the gallery of a: 0.580 (-0.020), backfill needed",
        "c queries in the gallery of a: 0.610 (+0.010), keep the gallery",
        "c queries in the gallery of b: 0.720 (+0.020), keep the gallery",
    ]
    assert report.backfill.tolist() == [[False] * 3, [True, False, False], [False] * 3]


# --- bad input --------------------------------------------------------------------------------------------------------

X = randn(4, 3).numpy()
Y = np.array([0, 1, 0, 1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: d_simplex(1), "num_classes must be at least 2: got 1"),
        (lambda: DSimplexClassifier(1), "num_classes must be at least 2: got 1"),
        (lambda: DSimplexClassifier(3, class_map=[0, 3]), r"class_map must lie in 0..2, the corners: got 0..3"),
        (lambda: DSimplexClassifier(3, class_map=[1, 1]), "every label its own corner: 1 labels share one"),
        (
            lambda: DSimplexClassifier(3, class_map=[0.5]),
            r"class_map must be \(c,\) integers: got \(1,\) torch.float32",
        ),
        (
            lambda: DSimplexClassifier(4).loss(randn(2, 3), torch.tensor([0, 4])),
            r"labels must lie in 0..3, the labels that class_map knows: got 0..4",
        ),
        (
            lambda: DSimplexClassifier(4, class_map=[3, 2]).loss(randn(2, 3), torch.tensor([0, 2])),
            r"labels must lie in 0..1, the labels that class_map knows: got 0..2",
        ),
        (
            lambda: DSimplexClassifier(5)(randn(2, 3)),
            r"features must have 4 columns for 5 corners: got shape \(2, 3\); end the backbone with nn.Linear\(3, 4,",
        ),
        (
            lambda: DSimplexClassifier(4).loss(randn(2, 3), torch.tensor([0])),
            "labels must have one entry per row of features: 2 rows, 1 labels",
        ),
        (
            lambda: DSimplexClassifier(4).corners(torch.ones(2)),
            r"labels must be \(b,\) int64: got \(2,\) torch.float32",
        ),
        (lambda: HOCLoss(0.0), "scale must be positive: got 0.0"),
        (lambda: hoc_loss(NEW, OLD, LABELS, -1.0), "scale must be positive: got -1.0"),
        (
            lambda: hoc_loss(NEW, OLD, LABELS, same_class="x"),
            "same_class must be one of 'exclude', 'zero_logit': got 'x'",
        ),
        (lambda: hoc_loss(NEW, OLD[:2], LABELS), r"old_features must have the shape of new_features: \(3, 2\), got"),
        (lambda: hoc_loss(NEW, OLD, LABELS[:2]), "labels must have one entry per row of new_features: 3 rows, 2"),
        (lambda: hoc_loss(NEW[:0], OLD[:0], LABELS[:0]), "new_features must have at least one row"),
        (lambda: average_compatibility(np.ones((1, 1))), r"a row per version, at least 2: got shape \(1, 1\)"),
        (lambda: average_accuracy(np.ones((2, 3))), r"matrix must be square with a row per version"),
        (lambda: average_accuracy(np.full((2, 2), NAN)), "on and below the diagonal: 3 entries are NaN"),
        (lambda: compatibility_report(MATRIX, ["a"]), "names must have one entry per row of matrix: 3 rows, 1 names"),
        (lambda: compatibility_matrix([], [], Y, Y), "query_features must hold one array per version: got none"),
        (
            lambda: compatibility_matrix([X], [X, X], Y, Y),
            "gallery_features must have one entry per row of query_features",
        ),
        (
            lambda: compatibility_matrix([X], [X], Y[:3], Y),
            "query_features must have one entry per row of query_labels",
        ),
        (lambda: compatibility_matrix([X], [X[:, :2]], Y, Y), "gallery_features must have 3 columns"),
        (lambda: compatibility_matrix([X], [X * NAN], Y, Y), "gallery_features must be finite: 4 rows"),
        (lambda: compatibility_matrix([X], [X], Y, Y, metric="ndcg"), "metric must be \"recall@k\" .*: got 'ndcg'"),
        (lambda: compatibility_matrix([X], [X], Y, Y, metric="recall@9"), "k of the metric must lie between 1 and 4"),
    ],
)
def test_bad_input(call, message):
    """Labels without a corner, features of the wrong width, matrices that are not filled, options out of range."""
    with pytest.raises(ValueError, match=message):
        call()
