"""The contrastive core: every switch against plain loops, and what must hold whatever the numbers are."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.contrastive import (
    contrastive_loss,
    drop,
    info_nce,
    own_columns,
    similarity,
    to_logits,
    unit_rows,
)

INF = math.inf


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def loop_loss(scores, own, weights, blocks, *, temperature, in_denominator, masked_is_zero):
    """The loss of every row by loops over single entries, in Python floats."""
    losses = []
    for i in range(len(scores)):
        positive = scores[i][own[i]] / temperature
        terms = [math.exp(positive)] if in_denominator else []
        for b, (block, log_weights) in enumerate([(scores, weights), *blocks]):
            for j in range(len(block[i])):
                if b == 0 and j == own[i]:
                    continue
                w = 0.0 if log_weights is None else log_weights[i][j]
                if w == -INF:
                    if masked_is_zero:
                        terms.append(1.0)
                else:
                    terms.append(math.exp(w) * math.exp(block[i][j] / temperature))
        losses.append(math.log(sum(terms)) - positive if terms else 0.0)
    return losses


def some_drops(rows, columns, seed):
    """Log-weights that keep, weigh and drop."""
    weights = randn(rows, columns, seed=seed)
    return weights.masked_fill(randn(rows, columns, seed=seed + 1) > 0.5, -INF)


# --- similarity -------------------------------------------------------------------------------------------------------


def test_similarity_is_the_cosine_of_every_pair():
    """Each entry is the inner product over the product of the lengths."""
    a, b = randn(4, 3), randn(5, 3, seed=1)
    got = similarity(a, b)
    for i in range(4):
        for j in range(5):
            assert got[i, j].item() == pytest.approx(float(F.cosine_similarity(a[i], b[j], dim=0)), abs=1e-12)


def test_dot_is_the_bare_inner_product():
    """With metric "dot" nothing is normalised."""
    a, b = randn(4, 3), randn(5, 3, seed=1)
    assert torch.equal(similarity(a, b, "dot"), a @ b.T)


@pytest.mark.parametrize("metric", ["cosine", "dot"])
def test_candidates_of_one_row_each(metric):
    """A (n, k, d) tensor gives row i the similarities to its own k candidates."""
    a, b = randn(3, 4), randn(3, 2, 4, seed=1)
    got = similarity(a, b, metric)
    for i in range(3):
        assert torch.allclose(got[i], similarity(a[i : i + 1], b[i], metric)[0])


def test_unit_rows_leave_zero_rows_at_zero_and_survive_half_precision():
    """A zero row gives zeros, and a float16 row whose squared norm overflows still gets length one."""
    x = torch.tensor([[0.0, 0.0], [300.0, 400.0]], dtype=torch.float16)
    unit = unit_rows(x)
    assert unit.dtype == torch.float16
    assert unit.tolist() == [[0.0, 0.0], [pytest.approx(0.6, abs=1e-3), pytest.approx(0.8, abs=1e-3)]]


def test_similarity_refuses_other_widths():
    """Different numbers of columns are an error with both shapes in it."""
    with pytest.raises(ValueError, match=r"b must be \(m, 3\) or \(2, k, 3\): got shape \(2, 4\)"):
        similarity(randn(2, 3), randn(2, 4))
    with pytest.raises(ValueError, match="metric must be one of 'cosine', 'dot': got 'euclid'"):
        similarity(randn(2, 3), randn(2, 3), "euclid")


# --- the loss against loops -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_denominator", [True, False])
@pytest.mark.parametrize("mask", ["-inf", "zero"])
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("chunk_rows", [None, 2])
def test_every_switch_equals_the_loops(in_denominator, mask, weighted, chunk_rows):
    """Positive in or out, masked as absent or as zero logit, with and without weights, whole or in chunks."""
    b, m, k = 5, 7, 3
    queries, candidates = randn(b, 4), randn(m, 4, seed=1)
    own = torch.tensor([6, 0, 3, 3, 1])
    weights = some_drops(b, m, 10) if weighted else None
    blocks = [(similarity(queries, randn(k, 4, seed=2)), some_drops(b, k, 20)), (randn(b, 2, seed=5), None)]
    got = info_nce(
        queries,
        candidates,
        positive_columns=own,
        temperature=0.7,
        log_weights=weights,
        blocks=blocks,
        positive_in_denominator=in_denominator,
        mask=mask,
        reduction="none",
        chunk_rows=chunk_rows,
    )
    want = loop_loss(
        similarity(queries, candidates).tolist(),
        own.tolist(),
        None if weights is None else weights.tolist(),
        [(s.tolist(), None if w is None else w.tolist()) for s, w in blocks],
        temperature=0.7,
        in_denominator=in_denominator,
        masked_is_zero=mask == "zero",
    )
    assert got.tolist() == pytest.approx(want, rel=1e-12)


def test_plain_info_nce_is_cross_entropy():
    """Without any switch it is cross-entropy of the scaled similarities, in value and gradient."""
    q, c = randn(6, 4).requires_grad_(), randn(9, 4, seed=1).requires_grad_()
    ours = info_nce(q, c, temperature=0.05)
    theirs = F.cross_entropy(F.normalize(q, dim=1) @ F.normalize(c, dim=1).T / 0.05, torch.arange(6))
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-12)
    for a, b in zip(torch.autograd.grad(ours, (q, c)), torch.autograd.grad(theirs, (q, c)), strict=True):
        assert torch.allclose(a, b, atol=1e-12)


def test_worked_number_of_decoupled_loss():
    """Positive 1, negatives 0 and 0: in the denominator log(1 + 2/e), out of it log 2 - 1."""
    positive, negatives = torch.tensor([1.0], dtype=torch.float64), torch.zeros(1, 2, dtype=torch.float64)
    inside = contrastive_loss(positive, [(negatives, None)])
    outside = contrastive_loss(positive, [(negatives, None)], positive_in_denominator=False)
    assert inside.item() == pytest.approx(math.log(1 + 2 / math.e), rel=1e-12)
    assert outside.item() == pytest.approx(math.log(2) - 1, rel=1e-12)


def test_reductions():
    """Mean and sum are those of the losses per row."""
    q, c = randn(4, 3), randn(4, 3, seed=1)
    rows = info_nce(q, c, reduction="none")
    assert rows.shape == (4,)
    assert torch.equal(info_nce(q, c), rows.mean())
    assert torch.equal(info_nce(q, c, reduction="sum"), rows.sum())


def test_scale_multiplies_where_temperature_divides():
    """A scale of 20 is a temperature of 1/20."""
    q, c = randn(4, 3), randn(4, 3, seed=1)
    assert info_nce(q, c, scale=20.0).item() == pytest.approx(info_nce(q, c, temperature=0.05).item(), rel=1e-12)


def test_a_temperature_may_learn():
    """The gradient of a tensor temperature is that of finite differences."""
    q, c = randn(4, 3), randn(4, 3, seed=1)
    temperature = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: info_nce(q, c, temperature=t), (temperature,))


@pytest.mark.parametrize("in_denominator", [True, False])
@pytest.mark.parametrize("mask", ["-inf", "zero"])
def test_gradcheck(in_denominator, mask):
    """Gradients of queries, candidates and finite log-weights are those of finite differences."""
    q, c = randn(3, 3).requires_grad_(), randn(4, 3, seed=1).requires_grad_()
    weights = randn(3, 4, seed=2).requires_grad_()
    gone = torch.tensor([[False, True, False, True]] * 3)

    def call(q, c, weights):
        return info_nce(
            q,
            c,
            temperature=0.5,
            log_weights=weights.masked_fill(gone, -INF),
            positive_in_denominator=in_denominator,
            mask=mask,
        )

    assert torch.autograd.gradcheck(call, (q, c, weights))


# --- protection, empty rows, extremes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", ["-inf", "zero"])
@pytest.mark.parametrize("value", [-INF, INF, math.nan, -3.0])
def test_the_positive_is_protected(mask, value):
    """Whatever the log-weights say of the positive's own column, value and gradient do not change."""
    q, c = randn(4, 3).requires_grad_(), randn(4, 3, seed=1)
    weights = some_drops(4, 4, 3)
    other = weights.clone()
    weights.fill_diagonal_(0.0)
    other.fill_diagonal_(value)
    a, b = (info_nce(q, c, log_weights=w, mask=mask) for w in (weights, other))
    assert torch.equal(a, b)
    assert torch.equal(*(torch.autograd.grad(x, q)[0] for x in (a, b)))


@pytest.mark.parametrize("in_denominator", [True, False])
@pytest.mark.parametrize("chunk_rows", [None, 1])
def test_a_row_without_negatives_costs_nothing(in_denominator, chunk_rows):
    """When everything else is dropped the row's loss is exactly 0 and its gradient 0, never NaN."""
    q, c = randn(3, 4).requires_grad_(), randn(3, 4, seed=1)
    weights = torch.zeros(3, 3, dtype=torch.float64)
    weights[1] = -INF
    blocks = [(randn(3, 2, seed=2), torch.tensor([[0.0, 0.0], [-INF, -INF], [0.0, 0.0]], dtype=torch.float64))]
    losses = info_nce(
        q,
        c,
        log_weights=weights,
        blocks=blocks,
        positive_in_denominator=in_denominator,
        reduction="none",
        chunk_rows=chunk_rows,
    )
    (gradient,) = torch.autograd.grad(losses.sum(), q)
    assert losses[1].item() == 0.0
    assert torch.equal(gradient[1], torch.zeros(4, dtype=torch.float64))
    assert torch.isfinite(losses).all() and torch.isfinite(gradient).all()
    assert (losses[[0, 2]] != 0).all() and (gradient[[0, 2]] != 0).any(1).all()


def test_a_batch_of_one_has_no_loss():
    """One query and its positive alone: nothing to tell apart."""
    q = randn(1, 4).requires_grad_()
    for in_denominator in (True, False):
        loss = info_nce(q, randn(1, 4, seed=1), positive_in_denominator=in_denominator)
        assert loss.item() == 0.0
        assert torch.equal(torch.autograd.grad(loss, q)[0], torch.zeros(1, 4, dtype=torch.float64))


def test_a_block_without_columns_changes_nothing():
    """A block of shape (b, 0) is allowed and has no effect."""
    q, c = randn(3, 4), randn(3, 4, seed=1)
    assert torch.equal(info_nce(q, c), info_nce(q, c, blocks=[(torch.empty(3, 0, dtype=torch.float64), None)]))


def test_huge_logits_stay_finite():
    """Differences of 10,000 between logits give finite value and gradient in float32."""
    positive = torch.tensor([-1e4, 1e4]).requires_grad_()
    block = torch.tensor([[1e4, 0.0], [-1e4, 0.0]]).requires_grad_()
    loss = contrastive_loss(positive, [(block, None)], reduction="none")
    loss.sum().backward()
    assert loss.tolist() == [2e4, 0.0]
    assert torch.isfinite(positive.grad).all() and torch.isfinite(block.grad).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_gives_a_float32_loss(dtype):
    """The loss of half-precision rows is computed and returned in float32, gradients come in half precision."""
    q, c = randn(4, 8, dtype=torch.float32), randn(4, 8, seed=1, dtype=torch.float32)
    half = q.to(dtype).requires_grad_()
    loss = info_nce(half, c.to(dtype))
    loss.backward()
    assert loss.dtype == torch.float32 and half.grad.dtype == dtype
    assert loss.item() == pytest.approx(info_nce(q, c).item(), rel=0.05)


def test_weights_weigh_and_compose():
    """log w multiplies the exponential: two candidates of weight 1/2 count as one, and log-weights add up."""
    positive, half = torch.zeros(1, dtype=torch.float64), torch.full((1, 2), math.log(0.5), dtype=torch.float64)
    zeros = torch.zeros(1, 2, dtype=torch.float64)
    assert contrastive_loss(positive, [(zeros, half)]).item() == pytest.approx(math.log(2), rel=1e-12)
    assert contrastive_loss(positive, [(zeros, half + half)]).item() == pytest.approx(math.log(1.5), rel=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 6), st.integers(0, 4), st.booleans())
def test_invariants(seed, b, extra, in_denominator):
    """Adding a constant to all logits of a row changes nothing; dropping equals leaving out; dropping never costs."""
    positive, block = randn(b, seed=seed) * 5, randn(b, extra + 1, seed=seed + 1) * 5
    shift = randn(b, seed=seed + 2) * 100

    def loss(positive, block, weights=None):
        return contrastive_loss(positive, [(block, weights)], positive_in_denominator=in_denominator, reduction="none")

    plain = loss(positive, block)
    assert torch.allclose(plain, loss(positive + shift, block + shift[:, None]), atol=1e-9)
    weights = torch.zeros_like(block)
    weights[:, 0] = -INF
    assert torch.allclose(loss(positive, block, weights), loss(positive, block[:, 1:]), atol=1e-12)
    if in_denominator:
        assert (loss(positive, block, weights) <= plain).all() and (plain >= 0).all()


# --- where the positives are ------------------------------------------------------------------------------------------


def test_ranks_together_are_the_whole_batch():
    """Losses of two ranks with gathered candidates and rank offsets are those of the whole batch on one device."""
    q, c = randn(6, 4), randn(6, 4, seed=1)
    weights = some_drops(6, 6, 3)
    whole = info_nce(q, c, log_weights=weights, reduction="none")
    ranks = [info_nce(q[o : o + 3], c, rank_offset=o, log_weights=weights[o : o + 3], reduction="none") for o in (0, 3)]
    assert torch.allclose(whole, torch.cat(ranks), atol=1e-12)


def test_offset_and_columns_mean_the_same():
    """An offset is short for explicit columns."""
    q, c = randn(3, 4), randn(8, 4, seed=1)
    assert torch.equal(info_nce(q, c, rank_offset=5), info_nce(q, c, positive_columns=torch.tensor([5, 6, 7])))


def test_misplaced_positives_are_refused():
    """Each way to place a positive outside the candidates says what came and what is possible."""
    with pytest.raises(ValueError, match=r"3 queries from rank_offset 2 need 5 rows, got 4"):
        info_nce(randn(3, 2), randn(4, 2), rank_offset=2)
    with pytest.raises(ValueError, match=r"positive_columns must lie in 0\.\.3, the candidates: got 0\.\.4"):
        own_columns(2, 4, positive_columns=torch.tensor([0, 4]))
    with pytest.raises(ValueError, match=r"positive_columns must be \(2,\) int64"):
        own_columns(2, 4, positive_columns=torch.tensor([0, 1, 2]))
    with pytest.raises(ValueError, match="rank_offset must be 0 when positive_columns are given"):
        own_columns(2, 4, positive_columns=torch.tensor([0, 1]), rank_offset=1)
    with pytest.raises(ValueError, match="rank_offset must not be negative: got -1"):
        own_columns(2, 4, rank_offset=-1)


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": 0.0}, "temperature must be positive: got 0.0"),
        ({"scale": -1.0}, "scale must be positive: got -1.0"),
        ({"metric": "euclid"}, "metric must be one of 'cosine', 'dot': got 'euclid'"),
        ({"mask": "drop"}, "mask must be one of '-inf', 'zero': got 'drop'"),
        ({"reduction": "max"}, "reduction must be one of 'mean', 'sum', 'none': got 'max'"),
        ({"log_weights": torch.zeros(3, 2)}, r"log_weights must have 3 columns: got shape \(3, 2\)"),
        ({"log_weights": torch.zeros(2, 3)}, "log_weights must have one entry per row of queries: 3 rows, 2"),
        ({"blocks": [(torch.zeros(2, 2), None)]}, "block must have one entry per row of queries: 3 rows, 2"),
        (
            {"blocks": [(torch.zeros(3, 2), torch.zeros(3, 1))]},
            r"log_weights must have the shape of block: \(3, 2\), got \(3, 1\)",
        ),
        ({"chunk_rows": 0}, "chunk_rows must be at least 1: got 0"),
    ],
)
def test_bad_arguments(arguments, message):
    """Each bad argument is named, with the requirement and what came."""
    with pytest.raises(ValueError, match=message):
        info_nce(randn(3, 2), randn(3, 2, seed=1), **arguments)


def test_bad_embeddings():
    """Empty batches and other widths are refused."""
    with pytest.raises(ValueError, match="queries must have at least one row"):
        info_nce(torch.empty(0, 2), randn(3, 2))
    with pytest.raises(ValueError, match="candidates must have 2 columns"):
        info_nce(randn(3, 2), randn(3, 4))
    with pytest.raises(ValueError, match="positive must have at least one row"):
        contrastive_loss(torch.empty(0), [])
    with pytest.raises(ValueError, match="block must have one row per positive: 2 positives, 3 rows"):
        contrastive_loss(torch.zeros(2), [(torch.zeros(3, 1), None)])


def test_to_logits_names_what_it_uses():
    """With a scale the temperature is not looked at."""
    assert to_logits(torch.ones(1), 0.0, scale=3.0).item() == 3.0


# --- masks ------------------------------------------------------------------------------------------------------------


def test_drop_adds_to_earlier_decisions():
    """A mask on top of log-weights keeps them where it does not drop, and does not write into them."""
    weights = torch.tensor([[-1.0, -2.0]])
    assert drop(torch.tensor([[True, False]]), weights).tolist() == [[-INF, -2.0]]
    assert weights.tolist() == [[-1.0, -2.0]]
    with pytest.raises(ValueError, match="log_weights must have the shape of mask"):
        drop(torch.tensor([[True]]), weights)
