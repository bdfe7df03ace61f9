"""LoL: the worked numbers, transcriptions in loops, and what must hold for every batch of revisions."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.losses import (
    LoLLoss,
    Rocchio,
    VectorPRF,
    comparative_regularization,
    nested_feedback,
    reformulation_loss,
)
from tests.behaviour import ArrayCase, LossCase

LOSSES = torch.tensor([[1.0, 1.3, 0.7], [0.5, 0.2, 0.9]], dtype=torch.float64)
AMOUNTS = torch.tensor([[5, 3, 0], [5, 3, 0]])


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def drawn_amounts(b, r, high=5, seed=0):
    return torch.randint(high, (b, r), generator=torch.Generator().manual_seed(seed))


def ranking_batch(b=3, r=2, m=6, d=4, seed=0):
    """Revisions, passages, which passages answer (at least one per query)."""
    positives = torch.rand(b, m, generator=torch.Generator().manual_seed(seed)) < 0.3
    positives[torch.arange(b), torch.arange(b)] = True
    return randn(b, r, d, seed=seed + 1), randn(m, d, seed=seed + 2), positives


def make(seed: int) -> list:
    """Cases for the shared checks: regulariser, total, ranking loss, a whole step of feedback, the draw of sizes."""
    losses, amounts = randn(5, 3, seed=seed), drawn_amounts(5, 3, seed=seed)
    revisions, passages, positives = ranking_batch(seed=seed)
    weights = randn(3, 6, seed=seed + 3)
    queries, feedback, sizes = randn(3, 4, seed=seed), randn(3, 5, 4, seed=seed + 1), drawn_amounts(3, 2, seed=seed) + 1

    def step(q, f, p):
        prf = VectorPRF(4).to(q.dtype)
        return LoLLoss(0.5)(reformulation_loss(prf(q, f, sizes), p, positives), sizes)

    return [
        LossCase("comparative_regularization", lambda x: comparative_regularization(x, amounts), (losses,)),
        LossCase("LoLLoss", lambda x: LoLLoss(0.5, margin=0.1, detach_less=True)(x, amounts), (losses,)),
        LossCase(
            "reformulation_loss",
            lambda q, p: reformulation_loss(q, p, positives, log_weights=weights.to(q.dtype)).mean(),
            (revisions, passages),
            (weights,),
        ),
        LossCase("VectorPRF", step, (queries, feedback, passages)),
        ArrayCase("nested_feedback", lambda seed: nested_feedback(5, 3, seed, rows=7, shuffle=True), ()),
    ]


def loop_hinges(losses, amounts, margin):
    """All hinges of revisions that saw more against those that saw less, one after the other."""
    hinges = []
    for row, sizes in zip(losses.tolist(), amounts.tolist(), strict=True):
        for i in range(len(row)):
            for j in range(len(row)):
                if sizes[i] > sizes[j]:
                    hinges.append(max(0.0, margin + row[i] - row[j]))
    return hinges


def loop_ranking(revisions, passages, positives, weights, temperature):
    """The ranking loss of each revision, one exponential after the other."""
    out = []
    for b in range(len(revisions)):
        row = []
        for vector in revisions[b]:
            scores = [float(vector @ p) / temperature for p in passages]
            target = min((j for j in range(len(passages)) if positives[b, j]), key=lambda j: scores[j])
            total = math.exp(scores[target])
            for j, score in enumerate(scores):
                if not positives[b, j]:
                    total += math.exp(score + (0.0 if weights is None else float(weights[b, j])))
            row.append(-math.log(math.exp(scores[target]) / total))
        out.append(row)
    return out


# --- worked numbers ---------------------------------------------------------------------------------------------------


def test_worked_hinges_and_total():
    """Hinges 0, .3, .6 and .3, 0, 0 for 5v3, 5v0, 3v0; mean 0.2; with weight 1 the total is 0.966667."""
    hinges = comparative_regularization(LOSSES, AMOUNTS, reduction="none")
    pairs = [[float(hinges[b, i, j]) for i, j in ((0, 1), (0, 2), (1, 2))] for b in range(2)]
    assert pairs == [pytest.approx([0, 0.3, 0.6]), pytest.approx([0.3, 0, 0])]
    assert comparative_regularization(LOSSES, AMOUNTS).item() == pytest.approx(0.2, abs=1e-12)
    assert comparative_regularization(LOSSES, AMOUNTS, reduction="sum").item() == pytest.approx(1.2, abs=1e-12)
    assert LoLLoss(lambda_cr=1.0)(LOSSES, AMOUNTS).item() == pytest.approx(0.966667, abs=5e-7)
    assert hinges.sum().item() == pytest.approx(1.2, abs=1e-12)  # nothing beyond the pairs above


def test_equal_amounts_form_no_pair():
    """Revisions with equal amounts are not compared: a batch of those has 0, and 0 gradient."""
    losses = torch.tensor([[3.0, 1.0]], dtype=torch.float64, requires_grad=True)
    loss = comparative_regularization(losses, torch.tensor([[2, 2]]), margin=1.0)
    loss.backward()
    assert loss.item() == 0 and losses.grad.tolist() == [[0.0, 0.0]]
    mixed = comparative_regularization(torch.tensor([[3.0, 1.0], [2.0, 1.0]]), torch.tensor([[2, 2], [1, 0]]))
    assert mixed.item() == pytest.approx(1.0)


@pytest.mark.parametrize("values", [[0.5, 0.7, 0.9], [0.5, 0.5, 0.5]])
def test_losses_that_do_not_rise_cost_nothing(values):
    """Losses that fall, or stay, as feedback grows: value 0 and gradient 0."""
    losses = torch.tensor([values], dtype=torch.float64, requires_grad=True)
    loss = comparative_regularization(losses, torch.tensor([[5, 3, 0]]))
    loss.backward()
    assert loss.item() == 0 and losses.grad.abs().sum().item() == 0


@pytest.mark.parametrize("detach_less", [False, True])
def test_worked_gradient_of_a_violating_pair(detach_less):
    """A violating pair of six pairs: +1/6 on the loss with more feedback, and -1/6 on the other unless detached."""
    losses = torch.tensor([[1.0, 0.9, 1.5], [0.1, 0.2, 0.3]], dtype=torch.float64, requires_grad=True)
    comparative_regularization(losses, AMOUNTS, detach_less=detach_less).backward()
    assert losses.grad.flatten().tolist() == pytest.approx([1 / 6, 0.0 if detach_less else -1 / 6, 0, 0, 0, 0])


def test_worked_share_of_original_queries():
    """With sizes 0 to 5 and two revisions the original query is among them in a third of the draws."""
    amounts, _ = nested_feedback(5, 2, 0, rows=20_000)
    share = (amounts == 0).any(1).mean()
    assert abs(share - 1 / 3) < 4 * math.sqrt(2 / 9 / 20_000)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 6), st.data(), st.booleans())
def test_feedback_is_nested(seed, n_max, data, shuffle):
    """Sizes are distinct, fall and lie in 0..n_max; every smaller set is a prefix of the larger; no place is twice."""
    n_revisions = data.draw(st.integers(1, n_max + 1))
    amounts, places = nested_feedback(n_max, n_revisions, seed, rows=4, shuffle=shuffle)
    assert amounts.shape == (4, n_revisions) and places.shape == (4, n_revisions, n_max)
    assert (np.diff(amounts, axis=1) < 0).all() and amounts.min() >= 0 and amounts.max() <= n_max
    for sizes, sets in zip(amounts.tolist(), places.tolist(), strict=True):
        largest = sets[0][: sizes[0]]
        assert len(set(largest)) == sizes[0] and all(0 <= place < n_max for place in largest)
        for size, chosen in zip(sizes, sets, strict=True):
            assert chosen == largest[:size] + [-1] * (n_max - size)
            assert shuffle or chosen[:size] == list(range(size))


def test_shuffled_feedback_is_uniform():
    """Shuffled, each of five places comes first equally often."""
    amounts, places = nested_feedback(5, 1, 0, rows=20_000, shuffle=True)
    first = places[amounts[:, 0] > 0, 0, 0]
    counts = np.bincount(first, minlength=5)
    assert np.abs(counts / len(first) - 0.2).max() < 4 * math.sqrt(0.16 / len(first))


# --- the transcriptions -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("margin", [0.0, 0.4, -0.2])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_hinges_equal_the_loops(seed, margin, reduction):
    """Random losses and amounts with ties: the value of the loops."""
    losses, amounts = randn(6, 4, seed=seed), drawn_amounts(6, 4, seed=seed)
    hinges = loop_hinges(losses, amounts, margin)
    got = comparative_regularization(losses, amounts, margin=margin, reduction=reduction)
    assert got.item() == pytest.approx(sum(hinges) / (len(hinges) if reduction == "mean" else 1), rel=1e-12)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("temperature", [1.0, 0.3])
@pytest.mark.parametrize("weighted", [False, True])
def test_ranking_loss_equals_the_loops(seed, temperature, weighted):
    """Several positives, other positives left out, the lowest one as target, log-weights: the value of the loops."""
    batch = ranking_batch(4, 3, 9, seed=10 * seed)
    weights = randn(4, 9, seed=3) if weighted else None
    got = reformulation_loss(*batch, temperature=temperature, log_weights=weights)
    want = loop_ranking(*batch, weights, temperature)
    assert torch.allclose(got, torch.tensor(want, dtype=torch.float64), atol=1e-12)


def test_reformulators_equal_the_loops():
    """Both reformulators, one query and one passage after the other."""
    queries, feedback, amounts = randn(3, 4), randn(3, 5, 4, seed=1), torch.tensor([[5, 0], [2, 1], [4, 3]])
    prf, rocchio = VectorPRF(4, hidden=6, seed=3).double(), Rocchio(0.8, 0.5)
    with torch.no_grad():
        prf.log_scale.fill_(0.3)
    got, mean = prf(queries, feedback, amounts), rocchio(queries, feedback, amounts)
    weight = torch.cat([prf.of_query.weight, prf.of_passage.weight, prf.of_score.weight], 1)
    for b in range(3):
        for r in range(2):
            total, summed = queries[b].clone(), torch.zeros(4, dtype=torch.float64)
            for f in feedback[b, : amounts[b, r]]:
                features = torch.cat([queries[b], f, (queries[b] @ f)[None]])
                gate = prf.gate(torch.relu(weight @ features + prf.of_query.bias)).sigmoid()
                total = total + math.exp(0.3) * gate * f
                summed = summed + f
            centre = 0.8 * queries[b] + 0.5 * summed / max(int(amounts[b, r]), 1)
            assert torch.allclose(got[b, r], total / total.norm(), atol=1e-12)
            assert torch.allclose(mean[b, r], centre / centre.norm(), atol=1e-12)


# --- invariants -------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.permutations(list(range(4))), st.floats(-5, 5))
def test_order_and_offsets_do_not_matter(seed, order, offset):
    """Columns may be permuted with their amounts, and a constant added to all losses of a row; the value is >= 0."""
    losses, amounts = randn(3, 4, seed=seed), drawn_amounts(3, 4, seed=seed)
    value = comparative_regularization(losses, amounts).item()
    assert value >= 0
    assert comparative_regularization(losses[:, order], amounts[:, order]).item() == pytest.approx(value, abs=1e-12)
    shifted = losses + offset * torch.arange(3)[:, None]
    assert comparative_regularization(shifted, 3 * amounts + 2).item() == pytest.approx(value, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31))
def test_detaching_changes_gradients_only(seed):
    """detach_less leaves the value; no gradient is negative then, and without it gradients of a row sum to zero."""
    losses, amounts = randn(3, 4, seed=seed).requires_grad_(), drawn_amounts(3, 4, seed=seed)
    values, gradients = [], []
    for detach in (False, True):
        loss = comparative_regularization(losses, amounts, detach_less=detach)
        values.append(loss.item())
        gradients.append(torch.autograd.grad(loss, losses)[0])
    assert values[0] == values[1]
    assert gradients[0].sum(1).abs().max().item() < 1e-12
    assert bool((gradients[1] >= 0).all())
    assert bool((gradients[1][amounts == amounts.amin(1, keepdim=True)] == 0).all())


# --- pitfalls ---------------------------------------------------------------------------------------------------------


def test_gradcheck():
    """Gradients of the ranking loss through both arguments are those of finite differences."""
    revisions, passages, positives = ranking_batch(2, 2, 5)
    inputs = (revisions.requires_grad_(), passages.requires_grad_())
    assert torch.autograd.gradcheck(lambda q, p: reformulation_loss(q, p, positives), inputs)


def test_no_gradient_reaches_log_weights():
    """Log-weights that ask for a gradient get none, and on the target they have no effect."""
    revisions, passages, positives = ranking_batch()
    weights = randn(3, 6, seed=5).requires_grad_()
    losses = reformulation_loss(revisions.requires_grad_(), passages, positives, log_weights=weights)
    losses.sum().backward()
    assert weights.grad is None and revisions.grad.abs().sum() > 0
    spared = weights.detach().masked_fill(positives, -math.inf)
    assert torch.equal(reformulation_loss(revisions, passages, positives, log_weights=spared), losses)


def test_one_revision_warns():
    """One revision and a positive weight: a warning and the plain mean; no warning at weight 0."""
    losses = torch.tensor([[1.0], [2.0]], requires_grad=True)
    with pytest.warns(UserWarning, match="losses hold one revision per row, so there is nothing to compare"):
        loss = LoLLoss()(losses, torch.tensor([[5], [3]]))
    loss.backward()
    assert loss.item() == 1.5 and losses.grad.tolist() == [[0.5], [0.5]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert LoLLoss(0.0)(losses, torch.tensor([[5], [3]])).item() == 1.5


def test_half_precision():
    """bfloat16 losses: the exact value in float32, the gradient in bfloat16."""
    losses = LOSSES.bfloat16().requires_grad_()
    value = LoLLoss()(losses, AMOUNTS)
    value.backward()
    assert value.dtype == torch.float32 and losses.grad.dtype == torch.bfloat16
    assert value.item() == pytest.approx(0.966667, abs=0.01)


def test_the_scores_are_not_written_to():
    """Masking other positives leaves passages and positives as they were, for revisions in any precision."""
    revisions, passages, positives = ranking_batch()
    before = passages.clone(), positives.clone()
    losses = reformulation_loss(revisions.bfloat16(), passages.bfloat16(), positives)
    assert losses.dtype == torch.float32 and bool(losses.isfinite().all())
    assert torch.equal(passages, before[0]) and torch.equal(positives, before[1])


def test_no_feedback_is_the_query():
    """With amount 0 both reformulators return the query, of length one, whatever the feedback."""
    queries, feedback = randn(2, 4), randn(2, 3, 4, seed=1)
    for module in (VectorPRF(4).double(), Rocchio(2.0, 0.5)):
        got = module(queries, feedback, torch.zeros(2, 1, dtype=torch.int64))[:, 0]
        assert torch.allclose(got, torch.nn.functional.normalize(queries), atol=1e-12)


def test_first_weights_come_from_the_seed():
    """Same seed same weights, another seed others, and the global generator stays where it stood."""
    before = torch.get_rng_state()
    one, same, other = (VectorPRF(4, seed=s).gate.weight for s in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one, same) and not torch.equal(one, other)


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: comparative_regularization(LOSSES, AMOUNTS[:, :2]),
            r"amounts must have the shape of losses: \(2, 3\), got \(2, 2\)",
        ),
        (
            lambda: comparative_regularization(LOSSES * torch.tensor([[1.0], [float("nan")]]), AMOUNTS),
            "losses must be finite: 1 rows hold NaN or infinity, the first is row 1",
        ),
        (lambda: comparative_regularization(LOSSES[0], AMOUNTS[0]), r"losses must be two-dimensional .*got shape \(3,"),
        (lambda: comparative_regularization(LOSSES[:0], AMOUNTS[:0]), "losses must have at least one row"),
        (
            lambda: comparative_regularization(LOSSES, AMOUNTS, reduction="max"),
            "reduction must be one of 'mean', 'sum', 'none': got 'max'",
        ),
        (lambda: LoLLoss(-1.0), "lambda_cr must be at least 0.0: got -1.0"),
        (lambda: nested_feedback(2, 4, 0), "n_revisions must lie between 1 and 3: got 4"),
        (lambda: nested_feedback(0, 1, 0), "n_max must be at least 1: got 0"),
        (lambda: nested_feedback(3, 1, 0, rows=0), "rows must be at least 1: got 0"),
        (lambda: nested_feedback(3, 1, -1), "seed must be a non-negative integer or a numpy Generator: got -1"),
        (lambda: VectorPRF(0), "dim must be at least 1: got 0"),
        (
            lambda: Rocchio()(randn(2, 4), randn(3, 5, 4), torch.ones(2, 1)),
            r"feedback must be \(2, k, 4\): got shape \(3, 5, 4\)",
        ),
        (
            lambda: Rocchio()(randn(2, 4), randn(2, 5, 4), torch.full((2, 1), 6)),
            "amounts must lie between 0 and 5, the passages of feedback: got 6 to 6",
        ),
        (
            lambda: VectorPRF(4)(randn(2, 4), randn(2, 5, 4), torch.ones(3, 1)),
            "amounts must have one entry per row of queries: 2 rows, 3 amounts",
        ),
    ],
)
def test_bad_input(call, message):
    """Shapes that differ, NaN, options out of range."""
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"revisions": randn(3, 4)}, r"revisions must be \(b, r, d\): got shape \(3, 4\)"),
        ({"passages": randn(6, 5)}, r"passages must have 4 columns: got shape \(6, 5\)"),
        (
            {"positives": torch.ones(3, 5, dtype=torch.bool)},
            r"positives must be \(3, 6\) bool: got \(3, 5\) torch.bool",
        ),
        ({"positives": torch.ones(3, 6)}, r"positives must be \(3, 6\) bool: got \(3, 6\) torch.float32"),
        (
            {"positives": torch.zeros(3, 6, dtype=torch.bool)},
            "positives must name a passage for every query: 3 queries have none, the first is 0",
        ),
        ({"temperature": 0.0}, "temperature must be positive: got 0.0"),
        ({"metric": "l2"}, "metric must be one of 'cosine', 'dot': got 'l2'"),
        ({"log_weights": randn(2, 6)}, r"log_weights must have the shape of mask: \(3, 6\), got \(2, 6\)"),
    ],
)
def test_bad_ranking_input(changes, message):
    """A query without a positive, shapes and options of the ranking loss."""
    revisions, passages, positives = ranking_batch()
    arguments = {"revisions": revisions, "passages": passages, "positives": positives, **changes}
    with pytest.raises(ValueError, match=message):
        reformulation_loss(**arguments)
