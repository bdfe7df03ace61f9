"""IDF-FLOPS: the worked numbers, transcriptions in loops, and what must not change."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.losses import (
    EnsembleTeacher,
    FlopsLoss,
    IDFQueryEncoder,
    KLDistillLoss,
    QuadraticRamp,
    bm25_idf,
    splade_pool,
)
from tests.behaviour import ArrayCase, LossCase

W = torch.tensor([[1.0, 0.0, 2.0], [3.0, 1.0, 0.0]])
IDF = torch.tensor([0.5, 2.0, 4.0])


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make(seed: int) -> list:
    """Cases for the shared checks: the penalty, the pooled weights, the distillation, and the table."""
    w, idf, logits = randn(6, 5, seed=seed).abs(), randn(5, seed=seed + 1).abs() + 0.1, randn(3, 4, 5, seed=seed + 2)
    student, teacher = randn(4, 6, seed=seed + 3), randn(4, 6, seed=seed + 4)
    mask = torch.ones(3, 4)
    return [
        LossCase("flops", FlopsLoss(), (w,)),
        LossCase("flops with idf and groups", FlopsLoss(idf, 1.0, 1, 2), (w,)),
        LossCase("flops of pooled logits", lambda x: FlopsLoss()(splade_pool(x, mask, prune_ratio=0.1)), (logits,)),
        LossCase("kl", lambda s: KLDistillLoss(2.0)(s, EnsembleTeacher()([teacher, -(teacher**3)])), (student,)),
        LossCase("kl with a fixed teacher", lambda s: KLDistillLoss()(s, teacher), (student,), (teacher,)),
        ArrayCase(
            "bm25_idf",
            lambda seed, df: bm25_idf(df, 100),
            (np.arange(1.0, 20.0),),
            empty=lambda: bm25_idf(np.zeros(0), 100),
            torch_too=True,
        ),
    ]


def test_flops_of_the_worked_numbers():
    """W gives 5.25; idf with power 1 gives 16.125; in the space of scores W * idf with power 1 it is 5.25 again."""
    assert FlopsLoss()(W).item() == pytest.approx(5.25)
    assert FlopsLoss(IDF, 1.0)(W).item() == pytest.approx(16.125)
    assert FlopsLoss(IDF, 1.0)(W * IDF).item() == pytest.approx(5.25)
    assert FlopsLoss(IDF)(W).item() == pytest.approx(5.25)


@pytest.mark.parametrize(("threshold", "expected"), [(2, 0.0), (1, 5.25), (0, 5.25), (None, 5.25)])
def test_short_documents_are_left_alone(threshold, expected):
    """Both rows of W have two terms: a threshold of 2 leaves nothing to press on, one of 1 leaves all."""
    assert FlopsLoss(l0_threshold=threshold)(W).item() == pytest.approx(expected)


def test_left_out_documents_count_in_the_mean():
    """One row of two is left alone: the other's mean is still over two."""
    weights = torch.tensor([[2.0, 0.0], [3.0, 1.0]])
    assert FlopsLoss(l0_threshold=1)(weights).item() == pytest.approx(1.5**2 + 0.5**2)


@pytest.mark.parametrize("group", [1, 2, 3])
@pytest.mark.parametrize("power", [0.0, 1.0, 0.5])
def test_flops_in_loops(group, power):
    """The sum over slots and terms of the squared mean over queries, by plain loops."""
    weights, idf, threshold = torch.relu(randn(12, 7)), randn(7, seed=1).abs() + 0.1, 2
    total = 0.0
    for slot in range(group):
        for j in range(7):
            column = [
                abs(row[j]) if sum(x > 0 for x in row) > threshold else 0.0 for row in weights[slot::group].tolist()
            ]
            total += (sum(column) / len(column) / idf[j].item() ** power) ** 2
    found = FlopsLoss(idf, power, threshold, group)(weights)
    assert found.item() == pytest.approx(total)


def test_query_scores_of_the_worked_numbers():
    """The query of tokens 0 and 1 scores the rows of W with 0.5 and 3.5."""
    query = IDFQueryEncoder(IDF)(torch.tensor([[0, 1]]))
    assert (query @ W.T).tolist() == [[0.5, 3.5]]


def test_queries_in_loops():
    """Each token that occurs has its idf once; special ones and padding have none."""
    rng = torch.Generator().manual_seed(0)
    ids, mask = torch.randint(0, 9, (20, 6), generator=rng), torch.rand(20, 6, generator=rng) < 0.7
    idf = torch.rand(9, generator=rng)
    found = IDFQueryEncoder(idf, [0, 4])(ids, mask)
    for row in range(20):
        tokens = {int(i) for i, real in zip(ids[row], mask[row], strict=True) if real} - {0, 4}
        assert found[row].tolist() == [float(idf[j]) if j in tokens else 0.0 for j in range(9)]


@pytest.mark.parametrize(("unseen", "expected"), [("one", 1.0), ("max", 4.0)])
def test_tokens_without_a_frequency(unseen, expected):
    """A token that the mapping lacks has 1, or the largest idf."""
    encode = IDFQueryEncoder({0: 0.5, 2: 4.0}, vocab_size=3, unseen=unseen)
    assert encode(torch.tensor([[0, 1, 2]])).tolist() == [[0.5, expected, 4.0]]


def test_a_trainable_table_learns_and_stays_positive():
    """Only occurring tokens have a gradient; an entry below zero counts as 0."""
    encode = IDFQueryEncoder(IDF, trainable=True)
    encode(torch.tensor([[0, 1]])).sum().backward()
    assert encode.idf.grad.tolist() == [1, 1, 0]
    with torch.no_grad():
        encode.idf[0] = -1
    assert encode(torch.tensor([[0]])).tolist() == [[0, 0, 0]]
    assert list(IDFQueryEncoder(IDF).parameters()) == []


@pytest.mark.parametrize(
    ("activation", "expected"),
    [("log1p", [0, 0.693147, 0, 1.791759]), ("log1p_log1p", [0, 0.526589, 0, 1.026672])],
)
def test_activations_of_the_worked_numbers(activation, expected):
    """x = [0, 1, -1, 5] after log1p, and after the doubled one."""
    logits = torch.tensor([[[0.0, 1.0, -1.0, 5.0]]])
    assert splade_pool(logits, torch.ones(1, 1), activation=activation)[0].tolist() == pytest.approx(expected, abs=1e-6)


def test_pooling_in_loops():
    """The largest logit over real tokens, whatever stands at the padding, cut below a share of the largest weight."""
    logits, mask = 3 * randn(4, 5, 6), torch.tensor([[1] * k + [0] * (5 - k) for k in (5, 3, 1, 0)])
    logits[3] = torch.inf
    found = splade_pool(logits, mask, prune_ratio=0.4)
    for i in range(4):
        plain = [
            math.log1p(max(0.0, *[logits[i, t, j].item() if mask[i, t] else 0.0 for t in range(5)])) for j in range(6)
        ]
        assert found[i].tolist() == pytest.approx([x if x > 0.4 * max(plain) else 0.0 for x in plain])


TEACHERS = [torch.tensor([[0.9, 0.7, 0.2]]), torch.tensor([[30.0, 10.0, 20.0]])]


def test_the_ensemble_of_the_worked_numbers():
    """Each teacher on 0 to 1, their mean times 30, and the student's divergence from it."""
    dense, sparse = (EnsembleTeacher(1.0)([t.double()])[0].tolist() for t in TEACHERS)
    assert dense == pytest.approx([0.999999, 0.714285, 0], abs=1.5e-6)
    assert sparse == pytest.approx([1, 0, 0.5], abs=1e-6)
    both = EnsembleTeacher()([t.double() for t in TEACHERS])
    assert both[0].tolist() == pytest.approx([29.999978, 10.714270, 7.5], abs=2e-6)
    student = torch.tensor([[12.0, 9.0, 3.0]], dtype=torch.float64)
    assert KLDistillLoss()(student, both).item() == pytest.approx(0.048705, abs=1e-6)


def test_without_normalisation_large_scores_rule():
    """norm="none" is the mean of the scores as they are."""
    assert EnsembleTeacher(2.0, "none")(TEACHERS)[0].tolist() == pytest.approx([30.9, 10.7, 20.2])


def test_a_teacher_without_an_opinion():
    """A constant row gives zeros and an even target, not NaN."""
    flat = EnsembleTeacher()([torch.full((1, 4), 7.0)])
    assert flat.tolist() == [[0, 0, 0, 0]]
    student = torch.zeros(1, 4, requires_grad=True)
    loss = KLDistillLoss()(student, flat)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert student.grad.abs().max().item() == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_the_divergence_in_loops(temperature):
    """Sum over kept candidates of p log(p / q), mean over queries, by plain loops."""
    student, teacher = randn(5, 6), 3 * randn(5, 6, seed=1)
    weights = randn(5, 6, seed=2)
    weights[0, 2] = weights[3, 0] = -torch.inf
    total = 0.0
    for s, t, w in zip(student.tolist(), teacher.tolist(), weights.tolist(), strict=True):
        p, q = ([math.exp(x / temperature + y) for x, y in zip(row, w, strict=True)] for row in (t, s))
        total += sum(a / sum(p) * math.log((a / sum(p)) / (b / sum(q))) for a, b in zip(p, q, strict=True) if a > 0)
    found = KLDistillLoss(temperature)(student, teacher, log_weights=weights)
    assert found.item() == pytest.approx(total / 5)


@settings(max_examples=30, deadline=None)
@given(st.floats(-50, 50), st.floats(0.1, 20), st.integers(0, 1000))
def test_a_teacher_s_scale_does_not_matter(shift, scale, seed):
    """Minmax scores are those of any shifted and stretched teacher, and lie between 0 and the scale."""
    scores = randn(3, 5, seed=seed)
    plain, other = EnsembleTeacher()([scores]), EnsembleTeacher()([scale * scores + shift])
    assert torch.allclose(plain, other, atol=0.01)
    assert float(plain.min()) >= 0
    assert float(plain.max()) <= 30


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 6))
def test_grouping_never_costs_less(seed, group):
    """Means apart are squared apart: by Jensen the mean over slots is at least the penalty of the flat batch."""
    weights = randn(group * 4, 5, seed=seed).abs()
    assert FlopsLoss(group_size=group)(weights).item() / group >= FlopsLoss()(weights).item() - 1e-9


def test_the_ramp():
    """Step 4,999 of 10,000 has a quarter of the weight, 9,999 and later all of it."""
    ramp = QuadraticRamp(1e-3, 10_000)
    assert [ramp(t) for t in (4_999, 9_999, 50_000)] == pytest.approx([0.00025, 0.001, 0.001], abs=1e-12)
    assert ramp == QuadraticRamp()


def test_frequencies_of_the_worked_numbers():
    """N=1000 and df = 1, 10, 500."""
    found = bm25_idf(np.array([1, 10, 500]), 1000)
    assert found.tolist() == pytest.approx([6.503290, 4.557380, 0.693147], abs=1e-6)


def zeros(*shape):
    return torch.zeros(*shape)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: FlopsLoss(-IDF), "idf must be finite and not negative"),
        (lambda: FlopsLoss(zeros(3), 1.0), "idf must be finite and positive"),
        (lambda: FlopsLoss(idf_power=1.0), "idf must be given for an idf_power above 0"),
        (lambda: FlopsLoss(IDF)(zeros(2, 4)), "weights must have 3 columns"),
        (lambda: FlopsLoss(l0_threshold=-1), "l0_threshold must be at least 0"),
        (lambda: FlopsLoss(group_size=2)(zeros(3, 4)), "group_size must divide the documents: 3 by 2"),
        (lambda: FlopsLoss(group_size=0), "group_size must be at least 1"),
        (lambda: FlopsLoss()(zeros(0, 3)), "weights must have at least one row"),
        (lambda: IDFQueryEncoder(-IDF), "idf must be finite and not negative"),
        (lambda: IDFQueryEncoder(IDF, [3]), r"special_ids must hold ids in 0\.\.2"),
        (lambda: IDFQueryEncoder(IDF)(torch.tensor([[3]])), r"input_ids must hold ids in 0\.\.2"),
        (lambda: IDFQueryEncoder(IDF)(zeros(1, 2)), r"input_ids must be \(n, t\) int64"),
        (lambda: IDFQueryEncoder({0: 1.0}), "vocab_size must be given with a mapping"),
        (lambda: IDFQueryEncoder(IDF, vocab_size=4), "vocab_size must be the length of idf, 3"),
        (lambda: splade_pool(zeros(2, 3), zeros(2, 3)), r"logits must be \(n, t, v\)"),
        (lambda: splade_pool(zeros(2, 3, 4), zeros(2, 4)), r"mask must be \(2, 3\)"),
        (lambda: splade_pool(zeros(2, 3, 4), zeros(2, 3), prune_ratio=2.0), "prune_ratio must lie between"),
        (lambda: EnsembleTeacher()([]), "scores must hold those of one teacher"),
        (lambda: EnsembleTeacher()([zeros(2, 1)]), "scores must be of two candidates or more"),
        (lambda: EnsembleTeacher()([zeros(2, 3), zeros(2, 4)]), "scores must have the shape of"),
        (lambda: EnsembleTeacher(0.0), "scale must be positive"),
        (lambda: KLDistillLoss(0.0), "temperature must be positive"),
        (lambda: KLDistillLoss()(zeros(2, 3), zeros(2, 4)), "teacher must have the shape of student"),
        (lambda: QuadraticRamp(steps=0), "steps must be at least 1"),
        (lambda: QuadraticRamp()(-1), "step must be at least 0"),
        (lambda: bm25_idf(np.array([5]), 4), "df must lie between 0 and n_docs = 4"),
    ],
)
def test_bad_input(call, message):
    """Bad arguments are answered with what they must be."""
    with pytest.raises(ValueError, match=message):
        call()
