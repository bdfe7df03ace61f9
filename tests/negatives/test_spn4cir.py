"""SPN4CIR: the worked numbers, banks, ranks and texts in plain loops, and who stays as it was."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.contrastive import info_nce
from tamis.negatives import (
    TEMPLATES,
    BankInfoNCE,
    RankWindowPairs,
    StaticBank,
    draw_bank_negatives,
    template_triplets,
)
from tests.behaviour import ArrayCase, LossCase

BANK = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8], [-1.0, 0.0]], dtype=torch.float64)
QUERIES = F.normalize(torch.tensor([[0.9, 0.1], [0.1, 0.9]], dtype=torch.float64), dim=1)
TARGETS = torch.tensor([0, 1])
CAPTIONS = ["a blue dress", "a red dress", "A  Blue dress", "long green boots with a heel"]


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def bank_of(n=9, d=4, seed=0, ids=None):
    return StaticBank(F.normalize(randn(n, d, seed=seed), dim=1), ids)


def make(seed: int) -> list:
    """The loss on a whole bank, in chunks, with decisions, and on a part; pairs and texts."""
    bank, queries, targets = bank_of(seed=seed), randn(5, 4, seed=seed + 1), torch.tensor([0, 3, 3, 8, 1])
    weights = -randn(5, 9, seed=seed + 2).abs()
    weights[2, 5] = -math.inf
    own = torch.tensor([[1, -1], [2, 4], [-1, -1], [0, 7], [5, 6]])

    def loss(name, chunk_size=None, exclude=None):
        module = BankInfoNCE(bank, temperature=0.1, chunk_size=chunk_size, exclude=exclude)
        return LossCase(name, lambda q: module(q, targets, own, log_weights=weights), (queries,), (weights,))

    # Drawing all that there is makes the draw the same every time.
    drawn = BankInfoNCE(bank, temperature=0.1, num_negatives=8)
    features = np.random.default_rng(seed).standard_normal((20, 6))
    pairs = np.array([[0, 1], [3, 1], [1, 3], [0, 2]])
    return [
        loss("BankInfoNCE"),
        loss("BankInfoNCE in chunks", chunk_size=4, exclude=torch.tensor([3, 6])),
        LossCase("BankInfoNCE drawn", lambda q: drawn(q, targets), (queries,)),
        ArrayCase(
            "RankWindowPairs",
            lambda seed, x: RankWindowPairs(x, low=3, high=12, k=2, seed=seed).draw(budget=0.5),
            (features,),
            empty=lambda: RankWindowPairs(features[:0], low=3, high=12),
            torch_too=True,
        ),
        ArrayCase(
            "template_triplets",
            lambda seed, p: template_triplets(CAPTIONS, p, templates=TEMPLATES, max_tokens=6),
            (pairs,),
            empty=lambda: template_triplets(CAPTIONS, pairs[:0]),
            torch_too=True,
        ),
    ]


def loop_losses(queries, vectors, ids, targets, temperature, excluded, barred, weights, drawn=None):
    """The loss of every query, one row of the bank after the other."""
    losses = []
    for i, query in enumerate(queries):
        unit = query / query.norm()
        scores = [float(unit @ (v / v.norm())) / temperature for v in vectors]
        t = int(targets[i])
        out = {int(ids[r]) for r in excluded[i] if r >= 0} | {int(ids[t])}
        total = math.exp(scores[t])
        for j in range(len(vectors)):
            if j == t or int(ids[j]) in out or j in barred or (drawn is not None and j not in drawn[i]):
                continue
            total += math.exp(scores[j] + float(weights[i, j]))
        losses.append(math.log(total) - scores[t])
    return losses


# --- worked numbers: the loss -----------------------------------------------------------------------------------------


def test_worked_losses():
    """.140171 at temperature .1, .000662 at .02, and .000146 against the batch's own two rows."""
    assert QUERIES.flatten().tolist() == pytest.approx([0.993884, 0.110432, 0.110432, 0.993884], abs=5e-7)
    losses = [BankInfoNCE(StaticBank(BANK), temperature=t)(QUERIES, TARGETS).item() for t in (0.1, 0.02)]
    assert losses == pytest.approx([0.140171, 0.000662], abs=5e-7)
    two = BankInfoNCE(StaticBank(BANK[:2]), temperature=0.1)(QUERIES, TARGETS)
    assert two.item() == pytest.approx(0.000146, abs=5e-7)
    assert BankInfoNCE(StaticBank(BANK)).temperature == 0.02


def test_a_bank_of_the_batch_is_in_batch():
    """With the batch's targets as the bank, value and gradient are those of in-batch InfoNCE."""
    queries, positives = randn(6, 4).requires_grad_(), randn(6, 4, seed=1)
    loss = BankInfoNCE(StaticBank(positives), temperature=0.1)(queries, torch.arange(6))
    plain = info_nce(queries, positives, temperature=0.1)
    assert loss.item() == pytest.approx(plain.item(), rel=1e-12)
    gradients = [torch.autograd.grad(x, queries)[0] for x in (loss, plain)]
    assert torch.allclose(*gradients, rtol=0, atol=1e-12)


@pytest.mark.parametrize("num_negatives", [None, 3])
@pytest.mark.parametrize("chunk_size", [1, 2, 4, 100])
def test_chunks_change_nothing(chunk_size, num_negatives):
    """Chunks of any size: value and gradients of queries and temperature to 1e-6, with all kinds of decisions."""
    bank = bank_of(ids=torch.tensor([5, 5, 2, 3, -1, -1, 6, 7, 8]))
    queries, targets = randn(3, 4, seed=1).requires_grad_(), torch.tensor([1, 4, 6])
    own, weights = torch.tensor([[3, -1], [5, 2], [-1, -1]]), -randn(3, 9, seed=2).abs()
    results = []
    for size in (None, chunk_size):
        tau = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
        loss = BankInfoNCE(
            bank, temperature=tau, num_negatives=num_negatives, chunk_size=size, exclude=torch.tensor([7]), seed=3
        )(queries, targets, own, log_weights=weights)
        results.append([loss.detach(), *torch.autograd.grad(loss, (queries, tau))])
    for plain, chunked in zip(*results, strict=True):
        assert torch.allclose(plain, chunked, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("chunk_size", "kept"), [(None, True), (50, False)])
def test_chunks_bound_what_is_kept(chunk_size, kept):
    """For the backward pass, chunks keep no tensor of queries by bank; without them there is one."""
    queries, sizes = randn(8, 4).requires_grad_(), []
    loss = BankInfoNCE(bank_of(1000), chunk_size=chunk_size)
    with torch.autograd.graph.saved_tensors_hooks(lambda x: (sizes.append(x.numel()), x)[1], lambda x: x):
        loss(queries, torch.arange(8)).backward()
    assert (max(sizes) >= 8 * 1000) == kept


def test_drawing_all_is_the_whole_bank():
    """num_negatives = M - 1 gives the loss of the whole bank, queries with one target or with several."""
    bank, queries, targets = bank_of(), randn(5, 4, seed=1), torch.tensor([0, 3, 3, 8, 1])
    whole = BankInfoNCE(bank, temperature=0.1)(queries, targets)
    drawn = BankInfoNCE(bank, temperature=0.1, num_negatives=8)(queries, targets)
    assert drawn.item() == pytest.approx(whole.item(), rel=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 40), st.data())
def test_a_draw_is_distinct_and_without_the_target(seed, n, data):
    """Rows are ascending, inside the bank, k of them, and none is the target."""
    k = data.draw(st.integers(1, n - 1))
    targets = torch.tensor(data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=5)))
    drawn = draw_bank_negatives(n, targets, k, seed=seed)
    assert drawn.shape == (len(targets), k) and drawn.dtype == torch.int64
    assert bool((drawn.diff(dim=1) > 0).all()) and int(drawn.min()) >= 0 and int(drawn.max()) < n
    assert not bool((drawn == targets[:, None]).any())


@pytest.mark.parametrize("k", [2, 3])
def test_every_set_is_equally_likely(k):
    """Both ways of drawing, few of many and many of few: each of the sets of 5 rows comes equally often."""
    drawn = draw_bank_negatives(6, torch.full((20_000,), 2), k, seed=0)
    sets, counts = drawn.unique(dim=0, return_counts=True)
    share = 1 / math.comb(5, k)
    assert len(sets) == 10 and bool((sets != 2).all())
    assert float((counts / 20_000 - share).abs().max()) < 4 * math.sqrt(share * (1 - share) / 20_000)


# --- the frozen side --------------------------------------------------------------------------------------------------


def test_two_stages_leave_the_bank_and_its_encoder_alone():
    """A step against the bank moves the query side; the bank is unchanged, and the image encoder has no gradient."""
    torch_state = torch.get_rng_state()
    images = randn(12, 6, dtype=torch.float32)
    encoder, text_side = torch.nn.Linear(6, 4), torch.nn.Linear(3, 4)
    torch.set_rng_state(torch_state)
    bank = StaticBank.from_encoder(encoder, images.split(5))
    assert bank.vectors.dtype == torch.float16 and bank.vectors.shape == (12, 4)
    before, weights = bank.vectors.clone(), text_side.weight.detach().clone()
    loss = BankInfoNCE(bank, temperature=0.05)
    assert not list(loss.parameters()) and bank.vectors.requires_grad is False
    optimizer = torch.optim.SGD(text_side.parameters(), lr=0.1)
    texts = randn(4, 3, seed=1, dtype=torch.float32)
    references = bank.vectors[:4].float()
    loss(references + text_side(texts), torch.tensor([5, 6, 7, 8]), torch.arange(4)).backward()
    optimizer.step()
    assert torch.equal(bank.vectors, before) and bank.vectors.grad is None
    assert encoder.weight.grad is None and encoder.bias.grad is None
    assert not torch.equal(text_side.weight, weights)


def test_an_excluded_row_leaves_the_partition_function():
    """Row 2 excluded for query 0: the loss of the bank without it for that query, and of the whole for the other."""
    loss = BankInfoNCE(StaticBank(BANK), temperature=0.1, reduction="none")
    got = loss(QUERIES, TARGETS, torch.tensor([2, -1]))
    without = BankInfoNCE(StaticBank(BANK[[0, 1, 3]]), temperature=0.1, reduction="none")(QUERIES, TARGETS)
    assert got[0].item() == pytest.approx(without[0].item(), rel=1e-12)
    assert got[1].item() == pytest.approx(loss(QUERIES, TARGETS)[1].item(), rel=1e-12)
    assert bool(got.isfinite().all()) and got[0] < loss(QUERIES, TARGETS)[0]
    with pytest.raises(
        ValueError, match="exclude_idx must not name the target: it does for 1 queries, the first is qu"
    ):
        loss(QUERIES, TARGETS, torch.tensor([2, 1]))


def test_copies_of_the_target_are_no_negatives():
    """A second copy with the target's id changes nothing, with its own id it costs nearly log 2; -1 is nobody's id."""
    queries = F.normalize(BANK[:1] + 0.01, dim=1)
    doubled = torch.cat([BANK, BANK[:1]])
    plain = BankInfoNCE(StaticBank(BANK), temperature=0.02)(queries, TARGETS[:1]).item()

    def loss(ids):
        return BankInfoNCE(StaticBank(doubled, torch.tensor(ids)), temperature=0.02)(queries, TARGETS[:1]).item()

    assert loss([0, 1, 2, 3, 0]) == pytest.approx(plain, rel=1e-9)
    assert loss([0, 1, 2, 3, 4]) == pytest.approx(math.log(2), abs=0.01)
    assert loss([-1, -1, -1, -1, -1]) == pytest.approx(loss([0, 1, 2, 3, 4]), rel=1e-12)


def test_nothing_left_to_contrast():
    """With every other row excluded the loss and its gradient are 0."""
    queries = QUERIES.clone().requires_grad_()
    loss = BankInfoNCE(StaticBank(BANK), exclude=torch.arange(4), chunk_size=2)(queries, TARGETS)
    loss.backward()
    assert loss.item() == 0 and queries.grad.abs().max() == 0


# --- transcription and invariants: the loss ---------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("num_negatives", [None, 4])
def test_loss_equals_the_loops(seed, num_negatives):
    """Ids that repeat, excluded rows, barred rows, log-weights, the whole bank or a part: the value of the loops."""
    ids = torch.tensor([0, 1, 1, 2, 3, 4, 2, 5, 6])
    bank = StaticBank(randn(9, 4, seed=seed), ids)
    queries, targets = randn(4, 4, seed=seed + 10), torch.tensor([0, 2, 8, 5])
    excluded, weights = [[1, -1], [3, 0], [-1, -1], [7, 8]], randn(4, 9, seed=seed + 20)
    module = BankInfoNCE(
        bank, temperature=0.3, num_negatives=num_negatives, exclude=torch.tensor([4, 2]), reduction="none", seed=seed
    )
    drawn = None if num_negatives is None else draw_bank_negatives(9, targets, num_negatives, seed=seed).tolist()
    got = module(queries, targets, torch.tensor(excluded), log_weights=weights)
    want = loop_losses(queries, bank.vectors, ids, targets, 0.3, excluded, {4, 2}, weights, drawn)
    assert got.tolist() == pytest.approx(want, rel=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.permutations(list(range(9))), st.integers(1, 9))
def test_the_order_of_the_bank_does_not_matter(seed, order, chunk_size):
    """A bank in another order gives the same loss; a larger bank never a smaller one."""
    vectors, queries = randn(9, 4, seed=seed), randn(3, 4, seed=seed + 1)
    targets = torch.tensor([0, 4, 2])
    loss = BankInfoNCE(StaticBank(vectors), temperature=0.2, chunk_size=chunk_size)(queries, targets).item()
    place = torch.tensor(order).argsort()
    moved = BankInfoNCE(StaticBank(vectors[order]), temperature=0.2)(queries, place[targets]).item()
    assert moved == pytest.approx(loss, rel=1e-9)
    assert BankInfoNCE(StaticBank(vectors[:5]), temperature=0.2)(queries, targets).item() <= loss + 1e-9


def test_half_precision_does_not_overflow():
    """cos / tau of 100 in half precision: finite and exact, in float32, for a float16 bank and queries."""
    bank = StaticBank(BANK.half())
    got = BankInfoNCE(bank, temperature=0.01)(-QUERIES.half(), TARGETS)
    want = BankInfoNCE(StaticBank(BANK), temperature=0.01)(-QUERIES, TARGETS)
    assert got.dtype == torch.float32 and got.item() == pytest.approx(want.item(), rel=2e-3) and want.item() > 50


def test_dot_products_are_taken_as_they_are():
    """With "dot" lengths count; with "cosine" they do not."""
    dot, cosine = (BankInfoNCE(StaticBank(3 * BANK), temperature=0.1, metric=m) for m in ("dot", "cosine"))
    assert dot(QUERIES, TARGETS).item() == pytest.approx(
        F.cross_entropy(QUERIES @ (3 * BANK).T / 0.1, TARGETS).item(), rel=1e-9
    )
    assert cosine(5 * QUERIES, TARGETS).item() == pytest.approx(0.140171, abs=5e-7)


def test_draws_move_on_and_repeat_with_the_seed():
    """Two calls draw different negatives; a second module of the same seed draws what the first one drew."""
    bank, queries, targets = bank_of(60), randn(3, 4, seed=1), torch.tensor([0, 3, 8])
    one, other = (BankInfoNCE(bank, temperature=0.1, num_negatives=5, seed=7) for _ in range(2))
    first = [one(queries, targets).item() for _ in range(2)]
    assert first[0] != first[1]
    assert [other(queries, targets).item() for _ in range(2)] == first


# --- pairs from a window of ranks -------------------------------------------------------------------------------------


def loop_ranks(features, metric="cosine"):
    """All images by similarity to each image, itself first, ties to the lower row."""
    rows = features / np.linalg.norm(features, axis=1, keepdims=True) if metric == "cosine" else features
    out = []
    for i in range(len(rows)):
        others = [j for j in range(len(rows)) if j != i]
        out.append([i, *sorted(others, key=lambda j: (-float(rows[i] @ rows[j]), j))])
    return out


@pytest.mark.parametrize("metric", ["cosine", "dot"])
@pytest.mark.parametrize(("low", "high", "k"), [(5, 11, 2), (0, 4, 3), (1, None, 1), (8, 9, 1), (0, 20, 19)])
def test_partners_lie_in_the_window(low, high, k, metric):
    """Each partner stands at its rank in the loops' ranking, inside the window; no image is its own partner."""
    features = np.random.default_rng(0).standard_normal((20, 6))
    pairs, ranks = RankWindowPairs(features, low=low, high=high, k=k, metric=metric).draw()
    ranking = loop_ranks(features, metric)
    assert pairs.shape == (20 * k, 2) and pairs.dtype == np.int64
    assert pairs[:, 0].tolist() == np.repeat(np.arange(20), k).tolist()
    assert ((ranks >= max(low, 1)) & (ranks < (20 if high is None else high))).all()
    assert [ranking[i][r] for (i, _), r in zip(pairs, ranks, strict=True)] == pairs[:, 1].tolist()
    assert (pairs[:, 0] != pairs[:, 1]).all() and len({tuple(p) for p in pairs.tolist()}) == len(pairs)


def test_ties_fall_to_the_lower_row():
    """Copies of one image: each ranks the others in their order, and itself first."""
    pairs, _ = RankWindowPairs(np.ones((5, 3)), low=1, high=2).draw()
    assert pairs.tolist() == [[0, 1], [1, 0], [2, 0], [3, 0], [4, 0]]


def test_partners_are_uniform_in_the_window():
    """Over many draws each rank of the window comes equally often."""
    draws = RankWindowPairs(np.random.default_rng(0).standard_normal((10, 3)), low=2, high=7, seed=1)
    ranks = np.concatenate([draws.draw(np.zeros(2000, dtype=np.int64))[1] for _ in range(5)])
    counts = np.bincount(ranks, minlength=10)
    assert counts[:2].sum() == 0 and counts[7:].sum() == 0
    assert np.abs(counts[2:7] / 10_000 - 0.2).max() < 4 * math.sqrt(0.16 / 10_000)


def test_references_and_budget():
    """Only the references that are named get partners; a budget keeps exactly so many pairs, in their order."""
    features = np.random.default_rng(0).standard_normal((30, 4))
    pairs, _ = RankWindowPairs(features, low=3, high=20, k=2).draw(np.array([7, 2]))
    assert pairs[:, 0].tolist() == [7, 7, 2, 2]
    for budget, count in ((11, 11), (0.25, 15), (1.0, 60), (0, 0)):
        pairs, ranks = RankWindowPairs(features, low=3, high=20, k=2).draw(budget=budget)
        assert len(pairs) == len(ranks) == count and (np.diff(pairs[:, 0]) >= 0).all()
    window = RankWindowPairs(features, low=3, high=20)
    assert window.draw()[0].tolist() != window.draw()[0].tolist()


def test_blocks_of_references_agree(monkeypatch):
    """The size of the blocks has no effect."""
    features = np.random.default_rng(0).standard_normal((30, 4)).astype(np.float32)
    whole = RankWindowPairs(features, low=3, high=20, k=2).draw()[0]
    monkeypatch.setattr("tamis.negatives.spn4cir.positives._SCORES", 70)
    assert RankWindowPairs(features, low=3, high=20, k=2).draw()[0].tolist() == whole.tolist()


# --- texts ------------------------------------------------------------------------------------------------------------


def test_worked_template():
    """ "a blue dress" and "a red dress" give "a red dress instead of a blue dress", and so on for the other two."""
    made = template_triplets(CAPTIONS, np.array([[0, 1]]), templates=TEMPLATES)
    assert made.texts == (
        "a red dress instead of a blue dress",
        "Unlike a blue dress, I want a red dress",
        "a red dress",
    )
    assert made.references.tolist() == [0, 0, 0] and made.targets.tolist() == [1, 1, 1]
    assert made.templates.tolist() == [0, 1, 2]
    assert template_triplets(CAPTIONS, np.array([[0, 1]])).texts == made.texts[:2]


def test_long_texts_become_the_target():
    """What the tokenizer counts above the limit becomes the target's caption alone, and says so by template -1."""
    made = template_triplets(CAPTIONS, np.array([[0, 1], [1, 3]]), max_tokens=9)
    assert made.templates.tolist() == [0, 1, -1, -1]
    assert made.texts[2:] == (CAPTIONS[3], CAPTIONS[3])
    letters = template_triplets(CAPTIONS, np.array([[0, 1]]), max_tokens=35, tokenizer=list)
    assert letters.templates.tolist() == [0, -1]


def test_captions_that_say_the_same_are_dropped():
    """Equal captions, but for case and spaces, make no triplet; with features, neither do similar ones."""
    pairs = np.array([[0, 2], [0, 1], [3, 0]])
    made = template_triplets(CAPTIONS, pairs, templates=TEMPLATES[2:])
    assert made.targets.tolist() == [1, 0]
    dropped = {name: column.tolist() for name, column in made.dropped.items()}
    assert dropped == {"pair": [0], "rule": ["equal captions"], "score": [1.0]}
    features = np.array([[1.0, 0.0], [0.96, 0.28], [0.5, 1.0], [0.0, 1.0]])
    made = template_triplets(CAPTIONS, pairs, caption_features=torch.tensor(features))
    assert made.dropped["rule"].tolist() == ["equal captions", "similar captions"]
    assert made.dropped["score"].tolist() == pytest.approx([1.0, 0.96]) and made.targets.tolist() == [0, 0]
    looser = template_triplets(CAPTIONS, pairs, caption_features=features, max_similarity=0.97)
    assert looser.dropped["pair"].tolist() == [0]


def test_all_pairs_dropped():
    """Nothing left is an empty set of triplets, not an error: the pairs say why."""
    made = template_triplets(CAPTIONS, np.array([[2, 0]]))
    assert made.texts == () and made.references.shape == (0,) and made.references.dtype == np.int64


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 12), st.one_of(st.none(), st.integers(1, 12)))
def test_texts_name_their_target(seed, m, limit):
    """Each text holds the target's caption and, unless it was too long, keeps to the limit; no pair gets lost."""
    pairs = np.random.default_rng(seed).integers(4, size=(m, 2))
    made = template_triplets(CAPTIONS, pairs, max_tokens=limit)
    assert len(made.texts) == 2 * (m - len(made.dropped["pair"]))
    for text, target, number in zip(made.texts, made.targets, made.templates, strict=True):
        assert CAPTIONS[target] in text
        assert limit is None or number == -1 or len(text.split()) <= limit
        assert number >= 0 or text == CAPTIONS[target]


def test_from_features_to_loss():
    """The way through: pairs, texts, a bank, and a finite loss of queries that are sums of image and text."""
    features = randn(12, 4, dtype=torch.float32)
    captions = [f"picture number {i}" for i in range(12)]
    pairs, _ = RankWindowPairs(features, low=2, high=6, k=2).draw()
    made = template_triplets(captions, pairs, templates=TEMPLATES[:1])
    assert isinstance(made.targets, torch.Tensor) and len(made.texts) == 24
    bank = StaticBank.from_encoder(torch.nn.Identity(), features.split(5))
    queries = features[made.references] + randn(24, 4, seed=1, dtype=torch.float32)
    assert bool(BankInfoNCE(bank)(queries, made.targets, made.references).isfinite())


# --- bad input --------------------------------------------------------------------------------------------------------

LOSS = BankInfoNCE(StaticBank(BANK))
FEATURES = np.random.default_rng(0).standard_normal((6, 3))
PAIR = np.array([[0, 1]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: BankInfoNCE(StaticBank(BANK), temperature=0.0), "temperature must be positive: got 0.0"),
        (lambda: BankInfoNCE(StaticBank(BANK), num_negatives=4), r"num_negatives must lie in 1..3, the bank without"),
        (lambda: BankInfoNCE(StaticBank(BANK), chunk_size=0), "chunk_size must be at least 1"),
        (lambda: BankInfoNCE(StaticBank(BANK), metric="l2"), "metric must be one of 'cosine', 'dot'"),
        (lambda: BankInfoNCE(StaticBank(BANK), exclude=torch.tensor([4])), r"exclude must lie in 0..3, the rows of"),
        (lambda: LOSS(QUERIES[:, :1], TARGETS), "queries must have 2 columns"),
        (lambda: LOSS(QUERIES, TARGETS[:1]), "target_idx must have one entry per row of queries: 2 rows, 1 target_idx"),
        (lambda: LOSS(QUERIES, torch.tensor([0, 4])), r"target_idx must lie in 0..3, the rows of the bank: got 0..4"),
        (lambda: LOSS(QUERIES, torch.tensor([0.0, 1.0])), "target_idx must be one-dimensional int64"),
        (lambda: LOSS(QUERIES, TARGETS, torch.tensor([2])), r"exclude_idx must be \(2,\) or \(2, r\) int64"),
        (lambda: LOSS(QUERIES, TARGETS, torch.tensor([2, 9])), r"exclude_idx must lie in 0..3"),
        (
            lambda: LOSS(QUERIES, TARGETS, log_weights=torch.zeros(2, 3)),
            r"log_weights must be \(2, 4\), queries by row",
        ),
        (lambda: LOSS(QUERIES[:0], TARGETS[:0]), "queries must have at least one row"),
        (lambda: draw_bank_negatives(4, TARGETS, 4, seed=0), r"k must lie in 1..3, the bank without the target: got 4"),
        (lambda: RankWindowPairs(FEATURES, low=2, high=7), "high must be at most 6, the number of features: got 7"),
        (lambda: RankWindowPairs(FEATURES, low=6), r"k must lie in 1..0, the ranks 6 to 6 of the window: got 1"),
        (lambda: RankWindowPairs(FEATURES, low=4, high=6, k=3), r"k must lie in 1..2, the ranks 4 to 6"),
        (lambda: RankWindowPairs(FEATURES, low=-1), "low must be at least 0: got -1"),
        (lambda: RankWindowPairs(FEATURES * np.nan, low=1), "features must be finite"),
        (lambda: RankWindowPairs(FEATURES, low=1).draw(np.array([6])), r"references must lie in 0..5: got 6..6"),
        (lambda: RankWindowPairs(FEATURES, low=1).draw(np.array([0.5])), "references must be a vector of rows, int64"),
        (lambda: RankWindowPairs(FEATURES, low=1).draw(budget=7), "budget must be a count between 0 and 6"),
        (lambda: template_triplets(CAPTIONS, np.array([[0, 4]])), r"pairs must lie in 0..3, the captions: got 0..4"),
        (lambda: template_triplets(CAPTIONS, np.array([0, 1])), r"pairs must be \(m, 2\) integers"),
        (lambda: template_triplets(CAPTIONS, PAIR, templates=["no {reference}"]), r"templates must hold \{target\}"),
        (lambda: template_triplets(CAPTIONS, PAIR, templates=["{target} {x}"]), r"templates must hold \{target\}"),
        (lambda: template_triplets(CAPTIONS, PAIR, templates="{target}"), "templates must be a list of at least one"),
        (lambda: template_triplets(CAPTIONS, PAIR, max_tokens=0), "max_tokens must be at least 1: got 0"),
        (
            lambda: template_triplets(CAPTIONS, PAIR, caption_features=FEATURES),
            "caption_features must have one row per",
        ),
    ],
)
def test_bad_input(call, message):
    """Bad input is answered with the argument, what it must be, and what came."""
    with pytest.raises(ValueError, match=message):
        call()
