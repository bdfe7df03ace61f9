"""ASL: the worked numbers, transcriptions in loops, and what must hold for every batch and every list of scores."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.contrastive import info_nce
from tamis.losses import (
    AsymmetricSimilarityLoss,
    DirectedCopyBenchmark,
    directed_similarity,
    filter_by_norm_ratio,
    micro_average_precision,
    norm_ratio_log_weights,
    norm_ratio_loss,
    recall_at_precision,
)
from tests.behaviour import ArrayCase, LossCase

INF = math.inf


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def batch(n, sources, seed=0, levels=4, d=3):
    """Random views of random sources; contents on a few levels, so that some tie."""
    g = torch.Generator().manual_seed(seed)
    content = torch.randint(levels, (n,), generator=g).double() / levels
    return randn(n, d, seed=seed + 1), content, torch.randint(sources, (n,), generator=g) * 7 - 5


def long(*norms):
    """Vectors of these lengths, in different directions."""
    directions = torch.nn.functional.normalize(randn(len(norms), 3), dim=1)
    return directions * torch.tensor(norms, dtype=torch.float64)[:, None]


def make(seed: int) -> list:
    """Cases for the shared checks: the loss by both ways of pairing, the filter and the two metrics."""
    embeddings, content, groups = batch(12, 3, seed=seed, levels=50)
    module = AsymmetricSimilarityLoss(lambda e, g: info_nce(e[:6], e[6:], temperature=0.5))
    rng = np.random.default_rng(seed)
    norms = rng.random(4), rng.random(6)
    scores, labels = rng.random((4, 6)), rng.random((4, 6)) < 0.3

    def sampled(e):
        return norm_ratio_loss(e, content, groups, pairs="sampled", generator=torch.Generator().manual_seed(seed))

    return [
        LossCase("norm_ratio_loss", lambda e: norm_ratio_loss(e, content, groups), (embeddings,), (content,)),
        LossCase("norm_ratio_loss sampled", sampled, (embeddings,), (content,)),
        LossCase("AsymmetricSimilarityLoss", lambda e: module(e, content, groups), (embeddings,), (content,)),
        ArrayCase(
            "filter_by_norm_ratio",
            lambda seed, s, q, r: filter_by_norm_ratio(s, q, r),
            (scores, *norms),
            torch_too=True,
        ),
        ArrayCase(
            "directed_similarity",
            lambda seed, q, r: directed_similarity(q, r),
            (rng.normal(size=(4, 3)), rng.normal(size=(6, 3))),
            empty=lambda: directed_similarity(np.empty((0, 3)), np.ones((1, 3))),
            torch_too=True,
        ),
        ArrayCase(
            "metrics of copies",
            lambda seed, s, y: (micro_average_precision(s, y, 30), recall_at_precision(s, y, 30, 0.5)),
            (scores, labels),
        ),
    ]


def loop_loss(embeddings, content, groups, margin=1.0):
    """The mean over sources of the mean over their unequal pairs, one pair after the other."""
    sources = []
    for source in sorted(set(groups.tolist())):
        rows = [i for i in range(len(groups)) if groups[i] == source]
        losses = []
        for i in rows:
            for j in rows:
                if content[i] > content[j]:
                    big = math.sqrt(sum(float(x) ** 2 for x in embeddings[i]))
                    small = math.sqrt(sum(float(x) ** 2 for x in embeddings[j]))
                    losses.append(math.exp(margin - big / max(small, 1e-6)))
        if losses:
            sources.append(sum(losses) / len(losses))
    return sum(sources) / len(sources) if sources else 0.0


def loop_metrics(scores, labels, num_positives, precision):
    """Both metrics, by walking down one list in which the wrong ones of equal score come first."""
    pairs = [(s, bool(y)) for s, y in zip(np.ravel(scores), np.ravel(labels), strict=True) if s != -INF]
    pairs.sort(key=lambda pair: (-pair[0], pair[1]))
    found, total, best = 0, 0.0, 0.0
    for rank, (_, right) in enumerate(pairs, 1):
        found += right
        if right:
            total += found / rank
        if found / rank >= precision:
            best = max(best, found / num_positives)
    return total / num_positives, best


# --- worked numbers ---------------------------------------------------------------------------------------------------

PAIR = (torch.tensor([1.0, 0.5]), torch.tensor([0, 0]))


@pytest.mark.parametrize(("norms", "value"), [((5, 4), 0.778801), ((4, 5), 1.221403), ((3, 3), 1.0)])
def test_worked_pairs(norms, value):
    """Norms 5 and 4 in the right order, in the wrong order, and equal."""
    assert norm_ratio_loss(long(*norms), *PAIR).item() == pytest.approx(value, abs=5e-7)


def test_worked_mean():
    """Two sources, one in the right and one in the wrong order: 1.000102."""
    content = torch.tensor([1.0, 0.5, 1.0, 0.5])
    got = norm_ratio_loss(long(5, 4, 4, 5), content, torch.tensor([0, 0, 1, 1]))
    assert got.item() == pytest.approx(1.000102, abs=5e-7)


def test_worked_gradients():
    """At (5, 4): -0.194700 on the longer norm and +0.243375 on the shorter, both along the vectors themselves."""
    embeddings = long(5, 4).requires_grad_()
    norm_ratio_loss(embeddings, *PAIR).backward()
    directions = torch.nn.functional.normalize(embeddings.detach(), dim=1)
    along = (embeddings.grad * directions).sum(1)
    assert along.tolist() == pytest.approx([-0.194700, 0.243375], abs=5e-7)
    assert torch.allclose(embeddings.grad, along[:, None] * directions, atol=1e-15)


def test_directed_masks_of_equal_norms():
    """The cosine is symmetric; equal norms are kept both ways, unequal ones one way."""
    a, b = torch.tensor([[3.0, 4.0], [1.0, 0.0]]), torch.tensor([[5.0, 0.0], [0.0, 2.0]])
    cosine, keep = directed_similarity(a, b)
    back, keep_back = directed_similarity(b, a)
    assert torch.equal(cosine, back.T)
    assert keep.tolist() == [[True, False], [True, True]]
    assert keep_back.tolist() == [[True, False], [True, False]]


@pytest.mark.parametrize("pairs", ["all", "sampled"])
def test_ties_have_no_gradient(pairs):
    """A batch with only ties gives 0 (all pairs) or the constant 1 (sampled) and a gradient of zero."""
    embeddings = long(1, 2, 3, 4).requires_grad_()
    loss = norm_ratio_loss(
        embeddings,
        torch.full((4,), 0.5),
        torch.tensor([0, 0, 1, 1]),
        pairs=pairs,
        generator=torch.Generator().manual_seed(0),
    )
    loss.backward()
    assert loss.item() == {"all": 0.0, "sampled": 1.0}[pairs]
    assert torch.equal(embeddings.grad, torch.zeros(4, 3, dtype=torch.float64))


def test_ties_count_nothing_beside_a_pair():
    """A tie within a source and a source of ties leave the loss of the one unequal pair as it is."""
    content = torch.tensor([1.0, 0.5, 0.5, 0.7, 0.7, 0.2])
    groups = torch.tensor([0, 0, 0, 1, 1, 2])
    got = norm_ratio_loss(long(5, 4, 4, 1, 9, 3), content, groups)
    assert got.item() == pytest.approx(math.exp(-0.25), rel=1e-12)


# --- the transcriptions -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("margin", [1.0, 0.3])
def test_equals_the_loops(seed, margin):
    """Uneven sources, ties, sources of one view: the value of the loops."""
    data = batch(17, 5, seed=10 * seed)
    got = norm_ratio_loss(*data, margin=margin)
    assert got.item() == pytest.approx(loop_loss(*data, margin=margin), rel=1e-12)


def test_sampled_pairs_average_to_all_pairs():
    """Where contents differ, the mean over many draws of one pair a source tends to that of all pairs."""
    embeddings, content, groups = long(*range(1, 9)), torch.arange(8) / 8, torch.arange(8) // 4
    generator = torch.Generator().manual_seed(0)
    draws = [norm_ratio_loss(embeddings, content, groups, pairs="sampled", generator=generator) for _ in range(800)]
    # Four of 4 x 4 draws are a view and itself; five such in a row leave a constant of one.
    tie = 0.25**5
    want = (1 - tie) * norm_ratio_loss(embeddings, content, groups).item() + tie
    got = torch.stack(draws)
    assert abs(got.mean().item() - want) < 4 * got.std().item() / math.sqrt(len(got))


def test_sampled_pairs_lie_within_a_source():
    """Sources of very different scale: a pair across them would leave the range that pairs within can give."""
    embeddings = long(1, 2, 1e4, 2e4, 1e8, 2e8)
    content, groups = torch.tensor([0.5, 1.0] * 3), torch.tensor([4, 4, 0, 0, 2, 2])
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        value = norm_ratio_loss(embeddings, content, groups, pairs="sampled", generator=generator).item()
        ties = (value - math.exp(-1)) / (1 - math.exp(-1)) * 3  # so many of three sources drew a tie five times
        assert ties == pytest.approx(round(ties), abs=1e-6) and 0 <= round(ties) <= 1


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([-INF, 0.1, 0.2, 0.3, 0.9]), st.booleans()), max_size=25),
    st.integers(0, 3),
    st.sampled_from([0.0, 0.5, 0.9, 1.0]),
)
def test_metrics_equal_the_loops(pairs, missing, precision):
    """Ties, filtered pairs and copies that nobody predicted: both metrics of the walk down the list."""
    scores, labels = np.array([s for s, _ in pairs], dtype=float), np.array([y for _, y in pairs], dtype=bool)
    positives = max(1, int(labels.sum()) + missing)
    want = loop_metrics(scores, labels, positives, precision)
    assert micro_average_precision(scores, labels, positives) == pytest.approx(want[0], abs=1e-12)
    assert recall_at_precision(scores, labels, positives, precision) == pytest.approx(want[1], abs=1e-12)


@pytest.mark.parametrize("penalty", [INF, 0.7])
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("threshold", [1.0, 1.3])
def test_log_weights_equal_the_loops(penalty, own, threshold):
    """Norms of all references or of those found, dropped or with a penalty: one pair after the other."""
    rng = np.random.default_rng(0)
    q, r = rng.random(5), rng.random((5, 4) if own else 4)
    got = norm_ratio_log_weights(q, r, threshold=threshold, penalty=penalty)
    for i in range(5):
        for j in range(4):
            ratio = q[i] / (r[i, j] if own else r[j])
            want = 0.0 if ratio <= threshold else -penalty * math.log(ratio / threshold)
            assert got[i, j] == pytest.approx(want, rel=1e-9)


# --- invariants -------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.floats(1e-3, 1e3))
def test_scale_does_not_matter_and_gradients_are_radial(seed, scale):
    """A common factor leaves the loss; every gradient is parallel to its vector, so no cosine moves."""
    embeddings, content, groups = batch(9, 3, seed=seed)
    embeddings.requires_grad_()
    loss = norm_ratio_loss(embeddings, content, groups)
    assert norm_ratio_loss(scale * embeddings, content, groups).item() == pytest.approx(loss.item(), rel=1e-9)
    assert 0 <= loss.item() < math.e
    loss.backward()
    direction = torch.nn.functional.normalize(embeddings.detach(), dim=1)
    across = embeddings.grad - (embeddings.grad * direction).sum(1, keepdim=True) * direction
    assert across.abs().max().item() < 1e-9


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([torch.float32, torch.float64]))
def test_masks_of_both_directions_are_complements(seed, dtype):
    """Keep masks of (q, r) and (r, q) are complements; only equal norms are in both."""
    q, r = randn(4, 3, seed=seed, dtype=dtype), randn(5, 3, seed=seed + 1, dtype=dtype)
    r[0] = q[0].flip(0) * torch.tensor([1, -1, 1], dtype=dtype)
    r[1] = q[1]
    one, other = directed_similarity(q, r)[1], directed_similarity(r, q)[1].T
    equal = q.norm(dim=1)[:, None] == r.norm(dim=1)[None, :]
    assert torch.equal(one & other, equal)
    assert bool((one | other).all()) and bool(equal[1, 1])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.permutations(list(range(9))))
def test_the_order_of_rows_does_not_matter(seed, order):
    """Permuting the views, or naming sources otherwise, leaves the loss."""
    embeddings, content, groups = batch(9, 3, seed=seed)
    permuted = norm_ratio_loss(embeddings[order], content[order], -3 * groups[order])
    assert norm_ratio_loss(embeddings, content, groups).item() == pytest.approx(permuted.item(), rel=1e-9)


# --- pitfalls ---------------------------------------------------------------------------------------------------------


def test_gradcheck():
    """The gradient is that of finite differences."""
    embeddings, content, groups = batch(8, 2)
    assert torch.autograd.gradcheck(lambda e: norm_ratio_loss(e, content, groups), embeddings.requires_grad_())


def test_the_base_loss_and_the_weight():
    """The module adds the base loss and the weighted norm-ratio loss, and trains the parameters of a base module."""

    class Base(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.bias = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))

        def forward(self, embeddings, groups):
            return embeddings[groups == 2].sum() + self.bias

    embeddings, content, groups = batch(9, 3)
    loss = AsymmetricSimilarityLoss(Base(), weight=0.3, margin=0.5)
    want = embeddings[groups == 2].sum() + 0.3 * norm_ratio_loss(embeddings, content, groups, margin=0.5)
    assert loss(embeddings, content, groups).item() == pytest.approx(want.item(), rel=1e-12)
    assert [name for name, _ in loss.named_parameters()] == ["base_loss.bias"]


def test_a_vector_of_length_zero():
    """With the least norm a zero vector gives a finite loss and gradient in either role."""
    for zero in (0, 1):
        embeddings = long(5, 4)
        embeddings[zero] = 0
        embeddings.requires_grad_()
        loss = norm_ratio_loss(embeddings, *PAIR)
        loss.backward()
        assert loss.item() == pytest.approx(math.e if zero == 0 else 0.0)
        assert bool(embeddings.grad.isfinite().all())


def test_half_precision():
    """float16 norms whose squares overflow: the exact loss, in float32, and a gradient in float16."""
    embeddings = (long(5, 4) * 100).half().requires_grad_()
    loss = norm_ratio_loss(embeddings, *PAIR)
    loss.backward()
    assert loss.dtype == torch.float32 and embeddings.grad.dtype == torch.float16
    assert loss.item() == pytest.approx(0.778801, abs=1e-3)
    keep = directed_similarity(embeddings.detach(), embeddings.detach())[1]
    assert keep.tolist() == [[True, False], [True, True]]


def test_filters_add_to_other_decisions():
    """Log-weights of the norms add to other log-weights; an excess that rounds to nothing is dropped, not NaN."""
    other = np.array([[0.0, -INF, -1.0]])
    weights = norm_ratio_log_weights(np.array([2.0]), np.array([1.0, 3.0, 2.0]))
    assert (weights + other).tolist() == [[-INF, -INF, -1.0]]
    one = np.float32(1e6)
    assert norm_ratio_log_weights(np.array([np.nextafter(one, INF, dtype=np.float32)]), np.array([one])) == -INF
    assert norm_ratio_log_weights(np.zeros(1), np.zeros(1)).tolist() == [[0.0]]
    assert norm_ratio_log_weights(np.ones(1), np.zeros(1), penalty=0.5).tolist() == [[-INF]]


def test_no_gradient_reaches_the_norms():
    """Scores keep their gradient through the filter; norms that ask for one get none."""
    scores, norms = randn(2, 3).requires_grad_(), [randn(n, seed=n).abs().requires_grad_() for n in (2, 3)]
    weights = norm_ratio_log_weights(*norms, penalty=0.5)
    filter_by_norm_ratio(scores, *norms, penalty=0.5).sum().backward()
    assert not weights.requires_grad and all(x.grad is None for x in norms)
    assert torch.equal(scores.grad, torch.ones(2, 3, dtype=torch.float64))


def test_read_only_and_reversed_arrays():
    """Memory-mapped and reversed norms pass without a warning."""
    norms = np.array([3.0, 2.0, 1.0])
    norms.flags.writeable = False
    assert norm_ratio_log_weights(norms[:1], norms[::-1]).tolist() == [[-INF, -INF, 0.0]]


def test_the_benchmark():
    """Two edits and a look-alike: filtering the look-alike by norms lifts both metrics to one."""
    benchmark = DirectedCopyBenchmark(np.array([0, 1, -1]))
    scores = np.array([[0.9, 0.1], [0.2, 0.8], [0.85, 0.3]])
    plain = benchmark.evaluate(scores)
    assert plain == {"micro_average_precision": pytest.approx((1 + 2 / 3) / 2), "recall_at_precision": 0.5}
    filtered = filter_by_norm_ratio(scores, np.array([1.0, 1.0, 3.0]), np.array([2.0, 2.0]))
    assert benchmark.evaluate(filtered) == {"micro_average_precision": 1.0, "recall_at_precision": 1.0}
    found = np.argsort(-scores, axis=1)
    assert benchmark.evaluate(np.take_along_axis(scores, found, 1), found) == plain


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"content": torch.tensor([1.0, 1.5])}, "content must lie between 0 and 1: 1 rows do not, the first is row 1"),
        ({"content": torch.tensor([float("nan"), 0.5])}, r"content must lie between 0 and 1: .* row 0 with nan"),
        ({"content": torch.tensor([1.0])}, "content must have one entry per row of embeddings: 2 rows, 1 content"),
        ({"groups": torch.tensor([0])}, "groups must have one entry per row of embeddings: 2 rows, 1 groups"),
        ({"groups": torch.tensor([0, 1])}, "groups must hold a source with two views or more: got 2 sources of one"),
        ({"groups": torch.tensor([[0, 0]])}, r"groups must be \(n,\), one per row: got shape \(1, 2\)"),
        ({"embeddings": torch.empty(0, 3)}, r"embeddings must have at least one row: got shape \(0, 3\)"),
        ({"embeddings": torch.zeros(2, 3), "min_norm": 0.0}, "embeddings must not be zero: 2 rows have length zero"),
        ({"pairs": "some"}, "pairs must be one of 'all', 'sampled': got 'some'"),
        ({"pairs": "sampled"}, 'generator must be given for pairs="sampled": got None'),
        ({"min_norm": -1.0}, "min_norm must be at least 0.0: got -1.0"),
    ],
)
def test_bad_input_of_the_loss(changes, message):
    """Content out of range, sources of one view, zero vectors without a least norm, shapes, options."""
    arguments = {"embeddings": long(5, 4), "content": PAIR[0], "groups": PAIR[1], **changes}
    with pytest.raises(ValueError, match=message):
        norm_ratio_loss(**arguments)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: AsymmetricSimilarityLoss(len, weight=-1.0), "weight must be at least 0.0: got -1.0"),
        (lambda: AsymmetricSimilarityLoss(len, pairs="x"), "pairs must be one of 'all', 'sampled'"),
        (lambda: norm_ratio_log_weights(np.ones(2), -np.ones(2)), "reference_norms must be lengths, at least 0"),
        (lambda: norm_ratio_log_weights(np.array([np.nan]), np.ones(2)), "query_norms must be lengths"),
        (
            lambda: norm_ratio_log_weights(np.ones((2, 1)), np.ones(2)),
            r"query_norms must be \(n,\): got shape \(2, 1\)",
        ),
        (
            lambda: norm_ratio_log_weights(np.ones(2), np.ones((3, 2))),
            r"reference_norms must be \(m,\) or \(2, k\): got shape \(3, 2\)",
        ),
        (lambda: norm_ratio_log_weights(np.ones(2), np.ones(2, dtype=int)), "must be floating-point numbers"),
        (lambda: norm_ratio_log_weights(np.ones(2), np.ones(2), threshold=0.0), "threshold must be positive: got 0.0"),
        (lambda: norm_ratio_log_weights(np.ones(2), np.ones(2), penalty=0.0), "penalty must be positive: got 0.0"),
        (
            lambda: filter_by_norm_ratio(np.ones((2, 3)), np.ones(2), np.ones(2)),
            r"scores must have the shape of the norms' log-weights: \(2, 2\), got \(2, 3\)",
        ),
        (lambda: directed_similarity(np.ones((2, 3)), np.ones((2, 4))), "reference must have 3 columns"),
        (lambda: micro_average_precision(np.ones(2), np.ones(2), 2), "labels must be bool: got float64"),
        (
            lambda: micro_average_precision(np.ones(2), np.ones(3, dtype=bool), 2),
            r"labels must have the shape of scores: \(2,\), got \(3,\)",
        ),
        (
            lambda: micro_average_precision(np.array([np.nan]), np.ones(1, dtype=bool), 2),
            "scores must hold no NaN",
        ),
        (
            lambda: micro_average_precision(np.ones(3), np.ones(3, dtype=bool), 2),
            "num_positives must count all copies: 2, and 3 are predicted",
        ),
        (lambda: recall_at_precision(np.ones(1), np.ones(1, dtype=bool), 0), "num_positives must be at least 1: got 0"),
        (
            lambda: recall_at_precision(np.ones(1), np.ones(1, dtype=bool), 1, precision=2),
            "precision must lie between 0.0 and 1.0: got 2",
        ),
        (
            lambda: DirectedCopyBenchmark(np.array([0, 1])).evaluate(np.ones((3, 2))),
            "scores must have one entry per row of sources: 2 rows, 3 scores",
        ),
        (
            lambda: DirectedCopyBenchmark(np.array([-1])).evaluate(np.ones((1, 2))),
            "num_positives must be at least 1: got 0",
        ),
    ],
)
def test_bad_input_elsewhere(call, message):
    """Options out of range and arrays that do not fit are named."""
    with pytest.raises(ValueError, match=message):
        call()
