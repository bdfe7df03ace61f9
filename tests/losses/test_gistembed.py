"""GISTEmbed: the worked numbers, a transcription in loops, and what must hold for every batch."""

from __future__ import annotations

import functools
import math
import warnings

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.contrastive import info_nce, similarity
from tamis.losses import GISTEmbedLoss
from tamis.losses.gistembed import false_negative_mask
from tamis.recompute import cached_loss
from tests.behaviour import LossCase

INF = math.inf
OFF = {"contrast_anchors": False, "contrast_positives": False}


def unit(rows):
    return F.normalize(torch.tensor(rows, dtype=torch.float64), dim=1)


A = unit([[1, 0], [0, 1], [1, 1]])
P = unit([[1, 0.2], [0.1, 1], [0.9, 1]])
GA = unit([[1, 0.1], [0, 1], [1, 0.2]])
GP = unit([[1, 0.4], [0.2, 1], [1, 0]])


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def batch(b, m, k, seed=0, own=False, d=4, g=3):
    """Random student and guide embeddings; the guide finds pairs alike more often than not."""
    anchors, guide_anchors = randn(b, d, seed=seed), randn(b, g, seed=seed + 1)
    guide_positives = randn(m, g, seed=seed + 2)
    guide_positives[m - b :] += guide_anchors
    shape = (b, k) if own else (k,)
    guide = {
        "guide_anchors": guide_anchors,
        "guide_positives": guide_positives,
        "guide_negatives": randn(*shape, g, seed=seed + 3) if k else None,
    }
    negatives = randn(*shape, d, seed=seed + 4) if k else None
    return (anchors, randn(m, d, seed=seed + 5), negatives), guide


def make(seed: int) -> list[LossCase]:
    """Cases for the shared checks: four blocks, whole and in chunks; all student tensors take a gradient."""
    students, guide = batch(6, 6, 5, seed=seed)

    def case(name: str, **options) -> LossCase:
        loss = GISTEmbedLoss(temperature=0.5, margin=0.05, warn_above=1.0, **options)
        return LossCase(name, lambda a, p, n, *_: loss(a, p, n, **guide), students, tuple(guide.values()))

    return [case("GISTEmbedLoss"), case("GISTEmbedLoss in chunks", chunk_rows=4)]


def loop_loss(
    students,
    guides,
    *,
    temperature,
    margin,
    softness,
    strategy,
    anchors_too,
    positives_too,
    mask_self,
    offset,
    weights,
):
    """The loss of every row and the entries the guide drops, one cosine after the other."""
    (a, p, n), (ga, gp, gn) = students, guides

    def cos(x, y):
        return float(x @ y / (x.norm() * y.norm()))

    losses, dropped = [], set()
    for i in range(len(a)):
        threshold = cos(ga[i], gp[offset + i])
        ceiling = threshold * (1 - margin) if strategy == "relative" and threshold > 0 else threshold - margin
        own_negatives = n is not None and n.ndim == 3
        candidates = [("ap", j, a[i], p[j], ga[i], gp[j], weights[0]) for j in range(len(p))]
        if anchors_too:
            candidates += [("aa", j, a[i], a[j], ga[i], ga[j], None) for j in range(len(a))]
        if positives_too:
            candidates += [("pp", j, p[offset + i], p[j], gp[offset + i], gp[j], None) for j in range(len(p))]
        if n is not None:
            rows = (n[i], gn[i]) if own_negatives else (n, gn)
            candidates += [("an", j, a[i], rows[0][j], ga[i], rows[1][j], weights[1]) for j in range(len(rows[0]))]
        total = 0.0
        for block, j, x, y, gx, gy, log_weights in candidates:
            exponential = math.exp(cos(x, y) / temperature)
            if block == "ap" and j == offset + i:
                positive = exponential
                total += exponential
                continue
            itself = (block == "aa" and j == i) or (block == "pp" and j == offset + i)
            if itself and mask_self:
                continue
            if cos(gx, gy) > ceiling:
                dropped.add((block, i, j))
                if not softness:
                    continue
                exponential *= math.exp(-(cos(gx, gy) - ceiling) / softness)
            total += exponential * (1.0 if log_weights is None else math.exp(float(log_weights[i, j])))
        losses.append(-math.log(positive / total))
    return losses, dropped


# --- worked numbers ---------------------------------------------------------------------------------------------------


def test_guide_similarities_and_masked_entries():
    """The guide drops (0,2) and (2,0) of ap and aa besides their diagonals, and only the diagonal of pp."""
    guide = similarity(GA, GP)
    want = [[0.960824, 0.292714, 0.995037], [0.371391, 0.980581, 0.0], [0.983282, 0.384615, 0.980581]]
    assert torch.allclose(guide, torch.tensor(want, dtype=torch.float64), atol=1e-6)
    threshold = guide.diagonal()
    ap = false_negative_mask(guide, threshold, protect=torch.arange(3))
    aa, pp = (false_negative_mask(similarity(x, x), threshold) for x in (GA, GP))
    assert ap.nonzero().tolist() == [[0, 2], [2, 0]]
    assert aa.nonzero().tolist() == [[0, 0], [0, 2], [1, 1], [2, 0], [2, 2]]
    assert pp.nonzero().tolist() == [[0, 0], [1, 1], [2, 2]]


@pytest.mark.parametrize(
    ("options", "value", "pp"),
    [
        ({}, 0.259450, 0.0),
        (OFF, 0.059524, None),
        ({"margin": 0.1}, 0.174100, 2 / 6),
        ({"margin": 0.05, "margin_strategy": "relative"}, 0.207963, 1 / 6),
    ],
)
@pytest.mark.parametrize("mask_self", [True, False])
@pytest.mark.parametrize("chunk_rows", [None, 1, 2])
def test_worked_losses(options, value, pp, mask_self, chunk_rows):
    """Four blocks, ap only, both margins; with them the share of positive-positive entries dropped."""
    loss = GISTEmbedLoss(temperature=0.1, mask_self=mask_self, chunk_rows=chunk_rows, **options)
    got, stats = loss(A, P, guide_anchors=GA, guide_positives=GP, return_stats=True)
    assert got.item() == pytest.approx(value, abs=5e-7)
    assert stats.get("positive_positive") == (None if pp is None else pytest.approx(pp))
    assert stats["anchor_positive"] == pytest.approx(2 / 6)


def test_worked_plain_loss():
    """Without the guide the anchor-positive block gives 0.126593."""
    assert info_nce(A, P, temperature=0.1).item() == pytest.approx(0.126593, abs=5e-7)


def test_relative_margin_is_row_wise():
    """With a relative margin of 0.05, (0,2) of the positive-positive block goes and (2,0) stays."""
    mask = false_negative_mask(similarity(GP, GP), similarity(GA, GP).diagonal(), 0.05, "relative")
    assert mask.nonzero().tolist() == [[0, 0], [0, 2], [1, 1], [2, 2]]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 8), st.sampled_from([0.05, 1.0]))
def test_a_guide_of_identities_masks_nothing(seed, b, temperature):
    """When the guide finds every pair alike and all else orthogonal, this is cross-entropy of the plain scores."""
    a, p = randn(b, 5, seed=seed), randn(b, 5, seed=seed + 1)
    eye = torch.eye(b, dtype=torch.float64)
    got = GISTEmbedLoss(temperature=temperature, **OFF)(a, p, guide_anchors=eye, guide_positives=eye)
    want = F.cross_entropy(similarity(a, p) / temperature, torch.arange(b))
    assert got.item() == pytest.approx(want.item(), abs=1e-9)


# --- the transcription ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("margin", "strategy", "softness"),
    [(0.0, "absolute", 0.0), (0.2, "absolute", 0.0), (0.2, "relative", 0.0), (0.2, "relative", 0.3)],
)
@pytest.mark.parametrize("flags", [(True, True), (False, True), (True, False)])
@pytest.mark.parametrize(("k", "own"), [(0, False), (7, False), (2, True)])
@pytest.mark.parametrize("chunk_rows", [None, 2])
def test_equals_the_loops(seed, margin, strategy, softness, flags, k, own, chunk_rows):
    """Gathered positives, any negatives, margins, flags and log-weights: value and masked shares of the loops."""
    b, m, offset = 4, 7, 3
    students, guide = batch(b, m, k, seed=100 * seed, own=own)
    weights = (randn(b, m, seed=7), randn(b, k, seed=8) if k else None)
    options = {"temperature": 0.3, "margin": margin, "margin_strategy": strategy, "mask_self": seed != 1}
    loss = GISTEmbedLoss(
        **options,
        softness=softness,
        contrast_anchors=flags[0],
        contrast_positives=flags[1],
        chunk_rows=chunk_rows,
        warn_above=1.0,
    )
    got, stats = loss(
        *students,
        **guide,
        positive_log_weights=weights[0],
        negative_log_weights=weights[1],
        rank_offset=offset,
        return_stats=True,
    )
    want, dropped = loop_loss(
        students,
        tuple(guide.values()),
        temperature=0.3,
        margin=margin,
        softness=softness,
        strategy=strategy,
        anchors_too=flags[0],
        positives_too=flags[1],
        mask_self=seed != 1,
        offset=offset,
        weights=weights,
    )
    assert got.item() == pytest.approx(sum(want) / b, rel=1e-10)
    sizes = {
        "ap": ("anchor_positive", b * (m - 1)),
        "aa": ("anchor_anchor", b * (b - 1)),
        "pp": ("positive_positive", b * (m - 1)),
        "an": ("anchor_negative", b * k),
    }
    for short, (name, size) in sizes.items():
        count = sum(x[0] == short and not (short in ("aa", "pp") and _itself(x, offset)) for x in dropped)
        if name in stats:
            assert stats[name] == pytest.approx(count / size)


def _itself(entry, offset):
    block, i, j = entry
    return j == (i if block == "aa" else offset + i)


# --- gradients --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk_rows", [None, 2])
@pytest.mark.parametrize("own", [False, True])
def test_gradcheck(chunk_rows, own):
    """Gradients of anchors, positives and negatives are those of finite differences."""
    students, guide = batch(3, 3, 2, own=own)
    loss = GISTEmbedLoss(temperature=0.5, chunk_rows=chunk_rows, warn_above=1.0)
    inputs = tuple(x.requires_grad_() for x in students)
    assert torch.autograd.gradcheck(functools.partial(loss, **guide), inputs)


def test_no_gradient_reaches_the_guide():
    """Guide embeddings that would take a gradient get none."""
    students, guide = batch(3, 3, 2)
    guide = {name: x.requires_grad_() for name, x in guide.items()}
    students[0].requires_grad_()
    GISTEmbedLoss(temperature=0.5, warn_above=1.0)(*students, **guide).backward()
    assert students[0].grad.abs().sum() > 0
    assert all(x.grad is None for x in guide.values())


@pytest.mark.parametrize("chunk_rows", [None, 3])
def test_cached_equals_uncached(chunk_rows):
    """Through the cache the encoder's gradients, with three columns and uneven mini-batches, are those without it."""
    (a, p, n), guide = batch(6, 6, 6, d=5)
    loss = functools.partial(GISTEmbedLoss(temperature=0.2, chunk_rows=chunk_rows, warn_above=1.0), **guide)
    encoder = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.Tanh(), torch.nn.Linear(8, 4)).double()
    plain = loss(encoder(a), encoder(p), encoder(n))
    plain.backward()
    want = [x.grad.clone() for x in encoder.parameters()]
    encoder.zero_grad()
    batches = list(zip(*(x.split([1, 3, 2]) for x in (a, p, n)), strict=True))
    cached = cached_loss(lambda columns: tuple(encoder(x) for x in columns), batches, loss)
    cached.backward()
    assert cached.item() == pytest.approx(plain.item(), rel=1e-12)
    for x, y in zip(want, encoder.parameters(), strict=True):
        assert torch.allclose(x, y.grad, atol=1e-12)


# --- invariants -------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 6), st.integers(0, 4), st.floats(0, 2), st.sampled_from([0.01, 1.0]))
def test_more_margin_never_costs(seed, b, k, margin, temperature):
    """The loss is finite and non-negative, a margin can only lower it, and a margin of two drops all: loss zero."""
    students, guide = batch(b, b, k, seed=seed)
    values = [
        GISTEmbedLoss(temperature=temperature, margin=m, warn_above=1.0)(*students, **guide).item()
        for m in (0.0, margin, 2.1)
    ]
    assert all(math.isfinite(v) for v in values)
    assert values[0] >= values[1] - 1e-9 >= values[2] - 2e-9
    assert values[2] == 0.0


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.permutations(list(range(5))))
def test_the_order_of_pairs_does_not_matter(seed, order):
    """Permuting the batch permutes nothing of the mean."""
    students, guide = batch(5, 5, 5, seed=seed)
    loss = GISTEmbedLoss(temperature=0.3, warn_above=1.0)
    permuted = loss(*(x[order] for x in students), **{name: x[order] for name, x in guide.items()})
    assert loss(*students, **guide).item() == pytest.approx(permuted.item(), rel=1e-9)


# --- pitfalls ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0, 3])
def test_the_positive_survives_a_margin_on_every_rank(offset):
    """With gathered positives and a margin the true positive stays, on later ranks too: the loss is finite."""
    students, guide = batch(3, 6, 0, seed=2)
    guide["guide_positives"][offset : offset + 3] = guide["guide_anchors"] + 0.1
    loss = GISTEmbedLoss(margin=0.3, temperature=0.1, warn_above=1.0)
    assert torch.isfinite(loss(*students, **guide, rank_offset=offset))


def test_ranks_together_are_the_whole_batch():
    """Without the anchors' own block, the mean over two ranks with offsets is the loss of the whole batch."""
    (a, p, n), guide = batch(6, 6, 4)
    loss = GISTEmbedLoss(temperature=0.3, margin=0.1, contrast_anchors=False, warn_above=1.0)
    ranks = [
        loss(a[o : o + 3], p, n, **{**guide, "guide_anchors": guide["guide_anchors"][o : o + 3]}, rank_offset=o)
        for o in (0, 3)
    ]
    assert (ranks[0] + ranks[1]).item() / 2 == pytest.approx(loss(a, p, n, **guide).item(), rel=1e-12)


def test_equal_texts_do_not_repel_themselves():
    """Anchor and positive the same text: the guide's threshold is 1, so only mask_self keeps the text off itself."""
    a = torch.eye(3, dtype=torch.float64)
    options = {"temperature": 1.0, "contrast_positives": False}
    masked = GISTEmbedLoss(**options)(a, a, guide_anchors=a, guide_positives=a)
    faithful = GISTEmbedLoss(**options, mask_self=False)(a, a, guide_anchors=a, guide_positives=a)
    assert masked.item() == pytest.approx(math.log(math.e + 4) - 1, rel=1e-12)
    assert faithful.item() == pytest.approx(math.log(2 * math.e + 4) - 1, rel=1e-12)


def test_half_precision_students_and_guides():
    """bfloat16 in: float32 loss near the exact one, gradient in bfloat16; the mask is made in float32."""
    students, guide = batch(4, 4, 3)
    exact = GISTEmbedLoss(temperature=0.5, warn_above=1.0)(*students, **guide)
    half = [x.bfloat16().requires_grad_() for x in students]
    got = GISTEmbedLoss(temperature=0.5, warn_above=1.0)(*half, **guide)
    got.backward()
    assert got.dtype == torch.float32 and half[0].grad.dtype == torch.bfloat16
    assert got.item() == pytest.approx(exact.item(), rel=0.02)


@pytest.mark.parametrize("chunk_rows", [None, 2])
def test_autocast_does_not_round_the_guide(chunk_rows):
    """Candidates that the guide rates 0.001 above the positive are dropped under bfloat16 autocast too."""
    angle = torch.tensor([[0.5], [0.499], [0.498], [0.497]])
    guide_positives = torch.cat([angle.cos(), angle.sin()], 1)
    guide_anchors = torch.tensor([[1.0, 0.0]] * 4)
    loss = GISTEmbedLoss(temperature=0.5, chunk_rows=chunk_rows, **OFF)
    students = [randn(4, 4, seed=s, dtype=torch.float32).requires_grad_() for s in (1, 2)]
    with torch.autocast("cpu", torch.bfloat16):
        value, stats = loss(*students, guide_anchors=guide_anchors, guide_positives=guide_positives, return_stats=True)
        value.backward()
    assert value.dtype == torch.float32
    assert stats["anchor_positive"] == 0.5  # three, two, one and none of the other three


def test_log_weights_compose_and_spare_the_positive():
    """A further decision drops a candidate as if it were not there; on the own positive it has no effect."""
    (a, p, n), guide = batch(4, 4, 3)
    loss = GISTEmbedLoss(temperature=0.5, contrast_positives=False, warn_above=1.0)
    drop_last = torch.zeros(4, 3, dtype=torch.float64)
    drop_last[:, 2] = -INF
    fewer = {**guide, "guide_negatives": guide["guide_negatives"][:2]}
    dropped = loss(a, p, n, **guide, negative_log_weights=drop_last)
    assert dropped.item() == pytest.approx(loss(a, p, n[:2], **fewer).item(), rel=1e-12)
    spare = torch.zeros(4, 4, dtype=torch.float64).fill_diagonal_(-INF)
    assert torch.equal(loss(a, p, n, **guide, positive_log_weights=spare), loss(a, p, n, **guide))


def test_a_guide_that_drops_most_warns_once():
    """Above the threshold the first batch warns with the share, later ones are silent; 1.0 never warns."""
    a = randn(4, 3)
    guide = {"guide_anchors": randn(4, 3, seed=1), "guide_positives": -randn(4, 3, seed=1)}
    loss = GISTEmbedLoss()
    with pytest.warns(UserWarning, match=r"the guide takes 100% of the candidates for false negatives, more than 50%"):
        loss(a, randn(4, 3, seed=2), **guide)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss(a, randn(4, 3, seed=2), **guide)
        GISTEmbedLoss(warn_above=1.0)(a, randn(4, 3, seed=2), **guide)


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "temperature must be positive: got 0.0"),
        ({"temperature": -1.0}, "temperature must be positive: got -1.0"),
        ({"margin_strategy": "share"}, "margin_strategy must be one of 'absolute', 'relative': got 'share'"),
        ({"margin": -0.1}, "margin must be at least 0.0: got -0.1"),
        ({"warn_above": 2.0}, "warn_above must lie between 0.0 and 1.0: got 2.0"),
        ({"chunk_rows": 0}, "chunk_rows must be at least 1: got 0"),
    ],
)
def test_bad_options(options, message):
    """Each option out of its range is named."""
    with pytest.raises(ValueError, match=message):
        GISTEmbedLoss(**options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"guide_anchors": randn(4, 3)}, r"row of anchors: anchors \(3, 4\), guide_anchors \(4, 3\)"),
        ({"guide_positives": randn(2, 3)}, r"row of positives: positives \(3, 4\), guide_positives \(2, 3\)"),
        ({"guide_positives": randn(3, 2)}, r"guide_positives must have 3 columns: got shape \(3, 2\)"),
        ({"guide_negatives": None}, r"negatives and guide_negatives must come together: got \(2, 4\) and None"),
        ({"negatives": None}, r"negatives and guide_negatives must come together: got None and \(2, 3\)"),
        ({"guide_negatives": randn(5, 3)}, r"row of negatives: negatives \(2, 4\), guide_negatives \(5, 3\)"),
        ({"negatives": randn(2, 2, 4)}, r"negatives must be \(k, 4\) or \(3, k, 4\): got \(2, 2, 4\)"),
        ({"positives": randn(3, 5)}, r"positives must have 4 columns: got shape \(3, 5\)"),
        ({"anchors": torch.empty(0, 4)}, r"anchors must have at least one row: got shape \(0, 4\)"),
        ({"positive_log_weights": randn(3, 2)}, r"positive_log_weights must have the shape of the scores \(3, 3\)"),
        ({"negative_log_weights": randn(2, 2)}, r"negative_log_weights must have the shape of the scores \(3, 2\)"),
        ({"rank_offset": 1}, r"3 queries from rank_offset 1 need 4 rows, got 3"),
    ],
)
def test_bad_input(changes, message):
    """Tensors that do not fit are named with both shapes."""
    (a, p, n), guide = batch(3, 3, 2)
    arguments = {"anchors": a, "positives": p, "negatives": n, **guide, **changes}
    with pytest.raises(ValueError, match=message):
        GISTEmbedLoss()(**arguments)


# --- the peer ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"margin": 0.1}, {"margin": 0.2, "margin_strategy": "relative"}, OFF])
def test_equals_sentence_transformers(options, monkeypatch):
    """At batch 64 with all four blocks, value and gradients are those of sentence-transformers' loss."""
    pytest.importorskip("sentence_transformers", minversion="6")
    import sentence_transformers.sentence_transformer.losses.gist_embed as peer
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    class Given(torch.nn.Module):
        """A model whose embeddings are handed to it."""

        tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a")))
        max_seq_length = 8

        def __init__(self, column):
            super().__init__()
            self.column = column

        def forward(self, features):
            return {"sentence_embedding": features[self.column]}

    monkeypatch.setattr(peer, "embed_columns", lambda model, f: [model(x)["sentence_embedding"] for x in f])
    concepts = randn(16, 8, dtype=torch.float32)[torch.arange(64) % 16]  # pairs in the batch that the guide confuses
    students = [randn(64, 32, seed=s, dtype=torch.float32).requires_grad_() for s in (1, 2, 3)]
    guides = [concepts + 0.3 * randn(64, 8, seed=s, dtype=torch.float32) for s in (4, 5)]
    guides.append(randn(64, 8, seed=6, dtype=torch.float32))
    theirs = peer.GISTEmbedLoss(Given("student"), Given("guide"), temperature=0.05, **options)
    features = [{"student": s, "guide": g} for s, g in zip(students, guides, strict=True)]
    want = theirs(features, torch.empty(0))
    ours = GISTEmbedLoss(temperature=0.05, mask_self=False, **options)
    names = ("guide_anchors", "guide_positives", "guide_negatives")
    got, stats = ours(*students, **dict(zip(names, guides, strict=True)), return_stats=True)
    assert stats["anchor_positive"] > 0.01
    assert got.item() == pytest.approx(want.item(), rel=1e-5)
    for x, y in zip(torch.autograd.grad(got, students), torch.autograd.grad(want, students), strict=True):
        assert torch.allclose(x, y, rtol=1e-4, atol=1e-6)
