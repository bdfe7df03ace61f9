"""RTD: worked numbers of the loss, pseudo-tokens in their places, what trains and what does not, and CLIP itself."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tamis.batches import (
    RTDTrainer,
    TargetAnchoredContrastive,
    inject_pseudo_tokens,
    noisy_projection,
    refined_batch,
)
from tests.behaviour import LossCase, global_generators_untouched

QUERIES, TARGETS = torch.tensor([[0.8, 0.6], [0.6, 0.8]], dtype=torch.float64), torch.eye(2, dtype=torch.float64)
TRIPLETS = (["red cat", "blue dog", "red dog"], ["blue", "big", "old"], ["blue cat", "big blue dog", "old red dog"])


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make(seed: int) -> list:
    """Cases for the shared checks: both forms of the loss, and the refined batch in it."""
    a, b, z_t, z_r = (randn(3, 4, seed=seed + i) for i in range(4))
    ids = torch.tensor([5, 6, 5])
    loss = TargetAnchoredContrastive(temperature=0.5)
    return [
        LossCase("TargetAnchoredContrastive", lambda q, t: loss(q, t, target_ids=ids), (a, z_t)),
        LossCase("one-way", TargetAnchoredContrastive(temperature=0.5, symmetric=False), (a, z_t)),
        LossCase("refined_batch", lambda q, r: loss(*refined_batch(q, r, z_t.to(q), z_r.to(q))), (a, b)),
    ]


class Words:
    """A word-level tokenizer."""

    def __init__(self, eos=None):
        known = "<pad> <placeholder> photo that red blue big old very cat dog 5".split()
        self.ids, self.eos_token_id, self.asked = {word: i for i, word in enumerate(known)}, eos, []

    def add_tokens(self, tokens, special_tokens=False):
        for token in tokens:
            self.ids[token] = 90

    def convert_tokens_to_ids(self, token):
        return self.ids[token]

    def __call__(self, texts, *, padding, truncation, max_length, return_tensors):
        self.asked += texts
        rows = [[self.ids[word] for word in text.split()][:max_length] for text in texts]
        ids = nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
        return {"input_ids": ids, "attention_mask": (ids > 0).long()}


class Encoder(nn.Module):
    """Mean of token embeddings and a linear map."""

    def __init__(self, width=6, out=4):
        super().__init__()
        self.tokens, self.head = nn.Embedding(60, width), nn.Linear(width, out)
        self.seen = []

    def get_input_embeddings(self):
        return self.tokens

    def forward(self, input_ids, attention_mask):
        self.seen.append(input_ids)
        mask = attention_mask[:, :, None].float()
        return self.head(torch.tanh((self.tokens(input_ids) * mask).sum(1)))


def models(width=6, out=4, dropout=0.5):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        phi = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Dropout(dropout), nn.Linear(8, width))
        return Encoder(out=out), phi


def trainer_of(encoder=None, phi=None, **options):
    made = models()
    return RTDTrainer(
        encoder or made[0], phi or made[1], Words(), placeholder_id=1, template="photo [$] that {}", **options
    )


# The loss


def slow_nt_xent(queries, targets, tau, ids=None):
    """NT-Xent over the stacked rows, written out."""
    rows = [x / x.norm() for x in [*targets, *queries]]
    m, n = len(queries), 2 * len(queries)
    ids = list(range(m)) if ids is None else list(ids)
    total = 0.0
    for k in range(n):
        partner = (k + m) % n
        others = [j for j in range(n) if j != k and (j == partner or ids[j % m] != ids[k % m])]
        log_sum = math.log(sum(math.exp(float(rows[k] @ rows[j]) / tau) for j in others))
        total += log_sum - float(rows[k] @ rows[partner]) / tau
    return total / n


def test_worked_losses():
    """Two-sided .957474 and 1.221856, one-way .598139 and .055844, at temperatures 1 and .07."""
    for tau, both, one in ((1.0, 0.957474, 0.598139), (0.07, 1.221856, 0.055844)):
        two_sided = TargetAnchoredContrastive(temperature=tau)(QUERIES, TARGETS)
        assert two_sided.item() == pytest.approx(both, abs=5e-7)
        one_way = TargetAnchoredContrastive(temperature=tau, symmetric=False)(QUERIES, TARGETS)
        assert one_way.item() == pytest.approx(one, abs=5e-7)


def test_worked_extremes():
    """Four orthonormal pairs at .07: log(1 + 6 exp(-1 / .07)) = 3.749243e-06; four equal vectors: log 7 at any tau."""
    rows = torch.eye(4, dtype=torch.float64)
    assert TargetAnchoredContrastive()(rows, rows).item() == pytest.approx(3.749243e-06, abs=5e-13)
    same = torch.ones(4, 3, dtype=torch.float64)
    for tau in (0.01, 0.07, 1.0, 50.0):
        assert TargetAnchoredContrastive(temperature=tau)(same, same).item() == pytest.approx(1.945910, abs=5e-7)


@given(seed=st.integers(0, 999), m=st.integers(1, 6), tau=st.sampled_from([0.07, 0.5, 2.0]), same=st.booleans())
@settings(max_examples=60, deadline=None)
def test_loss_equals_the_plain_loops(seed, m, tau, same):
    """For any rows, with or without targets that are the same, the loss is that of the plain transcription."""
    queries, targets = randn(m, 4, seed=seed), randn(m, 4, seed=seed + 1)
    ids = torch.randint(3, (m,), generator=torch.Generator().manual_seed(seed)) if same else None
    got = TargetAnchoredContrastive(temperature=tau)(queries, targets, target_ids=ids)
    expected = slow_nt_xent(queries, targets, tau, None if ids is None else ids.tolist())
    assert got.item() == pytest.approx(expected, abs=1e-9)


@given(seed=st.integers(0, 999), m=st.integers(1, 6), symmetric=st.booleans())
@settings(max_examples=50, deadline=None)
def test_order_and_length_do_not_matter(seed, m, symmetric):
    """Permuting pairs leaves the loss, and so does scaling any row."""
    loss = TargetAnchoredContrastive(symmetric=symmetric)
    queries, targets = randn(m, 4, seed=seed), randn(m, 4, seed=seed + 1)
    base = loss(queries, targets).item()
    order = torch.randperm(m, generator=torch.Generator().manual_seed(seed))
    assert loss(queries[order], targets[order]).item() == pytest.approx(base, abs=1e-9)
    scaled = queries * (randn(m, 1, seed=seed + 2).abs() + 0.1)
    assert loss(scaled, 7 * targets).item() == pytest.approx(base, abs=1e-9)


def test_half_precision_does_not_overflow():
    """exp(1 / .07) is beyond half precision; the loss is finite in it and computed in float32."""
    rows = torch.eye(4).half()
    loss = TargetAnchoredContrastive()(rows, rows)
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(3.749243e-06, abs=5e-6)


# The batch


def test_refined_batch():
    """Two triplets give four queries and four targets, and a_0 meets its reference caption exactly once."""
    a, b, z_t, z_r = (randn(2, 4, seed=i) for i in range(4))
    queries, targets = refined_batch(a, b, z_t, z_r)
    assert queries.shape == targets.shape == (4, 4)
    assert torch.equal(queries, torch.cat([a, b])) and torch.equal(targets, torch.cat([z_t, z_r]))
    stacked = torch.cat([targets, queries])
    assert [i for i, row in enumerate(stacked) if torch.equal(row, z_r[0])] == [2]
    loss = TargetAnchoredContrastive()(queries, targets)
    assert loss.item() == pytest.approx(slow_nt_xent(queries, targets, 0.07), abs=1e-9)


def test_noise():
    """Without noise the projection is phi(z); with it, z + scale * u * eps of the generator, one u per row."""
    z, phi = randn(3, 4), nn.Identity()
    assert torch.equal(noisy_projection(z, phi, noise_scale=0.0), z)
    drawn = torch.Generator().manual_seed(7)
    u = torch.rand(3, 1, generator=drawn, dtype=z.dtype)
    eps = torch.randn(3, 4, generator=drawn, dtype=z.dtype)
    assert torch.equal(noisy_projection(z, phi, noise_scale=0.3, generator=7), z + 0.3 * u * eps)


def test_projector_is_in_evaluation_mode():
    """The projector's dropout is off for the call, its mode is as before afterwards, and it gets no gradient."""
    _, phi = models()
    z = randn(3, 4).float().requires_grad_()
    phi.train()
    with global_generators_untouched("noisy_projection"):
        v = noisy_projection(z, phi, noise_scale=0.0)
    assert phi.training and all(part.training for part in phi)
    assert not v.requires_grad
    torch.testing.assert_close(v, copy.deepcopy(phi).eval()(z).detach())


# Pseudo-tokens


def test_injection():
    """Every placeholder is replaced by its row's vector, two of one row too, and nothing else changes."""
    ids = torch.tensor([[5, 9, 2, 9], [9, 3, 2, 0]])
    embeddings, pseudo = randn(2, 4, 3).requires_grad_(), randn(2, 3, seed=1).requires_grad_()
    before = ids.clone()
    out = inject_pseudo_tokens(ids, embeddings, pseudo, 9)
    for i in range(2):
        for t in range(4):
            assert torch.equal(out[i, t], pseudo[i] if ids[i, t] == 9 else embeddings[i, t])
    assert torch.equal(ids, before) and ids.argmax(1).tolist() == [1, 0]
    out.sum().backward()
    assert pseudo.grad[0].tolist() == [2.0] * 3 and embeddings.grad[0, 1].tolist() == [0.0] * 3


def test_end_of_text_stays_where_it_is():
    """The encoder sees the placeholder in place of the pseudo-token, so the largest id is still the end of the text."""
    encoder, phi = models()
    trainer = trainer_of(encoder, phi)
    trainer.compose(torch.zeros(2, 6), ["blue", "very big"])
    (seen,) = encoder.seen
    assert seen[:, 1].tolist() == [1, 1] and int(seen.max()) < 60
    assert seen.shape == (2, 5) and seen[0, 4] == 0


# Training


def test_queries_and_templates():
    """With a condition the query is the whole template, without one it ends at the pseudo-token; texts are cleaned."""
    trainer = trainer_of()
    trainer.compose(torch.zeros(1, 6), ["  Blue $5 "])
    trainer.compose(torch.zeros(1, 6))
    assert trainer.tokenizer.asked == ["photo [$] that blue 5", "photo [$]"]


def test_pseudo_token_reaches_the_encoder():
    """What stands in the place of the pseudo-token is the vector that was handed in, and its gradient flows."""
    encoder, phi = models()
    trainer = trainer_of(encoder, phi)
    pseudo = torch.ones(1, 6, requires_grad=True)
    out = trainer.compose(pseudo, ["blue"])
    ids = trainer.tokenizer.ids
    words = [encoder.tokens.weight[ids[w]] for w in ("photo", "that", "blue")]
    expected = encoder.head(torch.tanh((sum(words) + pseudo[0])[None]))
    torch.testing.assert_close(out, expected)
    out.sum().backward()
    assert bool((pseudo.grad != 0).any())
    assert not encoder.tokens._forward_hooks


@pytest.mark.parametrize("refined", [True, False])
def test_only_the_text_encoder_learns(refined):
    """Gradients reach every weight of the encoder; anchor and projector get none, and stay as they were."""
    encoder, phi = models()
    trainer = trainer_of(encoder, phi, refined=refined)
    before = copy.deepcopy((phi.state_dict(), trainer.anchor.state_dict()))
    trainer.loss(*TRIPLETS).backward()
    assert all(p.grad is not None and bool((p.grad != 0).any()) for p in encoder.parameters())
    assert all(p.grad is None for m in (phi, trainer.anchor) for p in m.parameters())
    trainer.step(*TRIPLETS)
    after = phi.state_dict(), trainer.anchor.state_dict()
    for then, now in zip(before, after, strict=True):
        assert all(torch.equal(then[name], now[name]) for name in then)


def test_loss_by_hand():
    """The loss of a batch is that of the refined batch made by hand: one v for both queries, anchored targets."""
    trainer = trainer_of(noise_scale=0.0, mask_duplicates=False)
    anchor = trainer.anchor
    z_t, z_r = trainer._encode(anchor, TRIPLETS[2]), trainer._encode(anchor, TRIPLETS[0])
    v = noisy_projection(z_r, trainer.projector, noise_scale=0.0)
    expected = TargetAnchoredContrastive()(
        *refined_batch(trainer.compose(v, TRIPLETS[1]), trainer.compose(v), z_t, z_r)
    )
    assert trainer.loss(*TRIPLETS).item() == pytest.approx(expected.item(), abs=1e-6)
    plain = trainer_of(noise_scale=0.0, refined=False)
    expected = TargetAnchoredContrastive()(plain.compose(v, TRIPLETS[1]), z_t)
    assert plain.loss(*TRIPLETS).item() == pytest.approx(expected.item(), abs=1e-6)


def test_equal_captions_are_no_negatives():
    """A condition that changes nothing makes target and reference one caption: masked, it is no negative of itself."""
    triplets = (["red cat", "blue dog"], ["red", "big"], ["Red cat", "big blue dog"])
    one, two = trainer_of(noise_scale=0.0), trainer_of(noise_scale=0.0, mask_duplicates=False)
    z_t, z_r = one._encode(one.anchor, ["red cat", "big blue dog"]), one._encode(one.anchor, triplets[0])
    v = noisy_projection(z_r, one.projector, noise_scale=0.0)
    batch = refined_batch(one.compose(v, triplets[1]), one.compose(v), z_t, z_r)
    masked = slow_nt_xent(*(x.detach().double() for x in batch), 0.07, [0, 1, 0, 2])
    assert one.loss(*triplets).item() == pytest.approx(masked, abs=1e-4)
    assert one.loss(*triplets).item() < two.loss(*triplets).item()


def test_targets_can_be_trained_for_comparison():
    """With freeze_targets=False the gradient runs through the targets too, which is another gradient."""
    grads = []
    for frozen in (True, False):
        encoder, phi = models()
        trainer_of(encoder, phi, freeze_targets=frozen, noise_scale=0.0).loss(*TRIPLETS).backward()
        grads.append(encoder.head.weight.grad)
    assert not torch.allclose(*grads)


def test_training_lowers_the_loss_and_repeats():
    """Steps lower the loss, and the same seed gives the same steps; the caller's tokenizer is not changed."""
    found = []
    for _ in range(2):
        encoder, phi = models()
        words = Words()
        trainer = RTDTrainer(encoder, phi, words, placeholder_id=1, template="photo [$] that {}", lr=1e-2, seed=3)
        with global_generators_untouched("RTDTrainer"):
            found.append(trainer.fit(*TRIPLETS, steps=30, batch_size=3))
        assert "[$]" not in words.ids and words.asked == []
    assert found[0] == found[1] and len(found[0]) == 30
    assert np.mean(found[0][-5:]) < np.mean(found[0][:5]) / 2


def test_batches_of_fit():
    """Each triplet comes once before any comes again, in full batches; fewer triplets than a batch make one."""
    trainer, batches = trainer_of(), []
    trainer.step = lambda r, c, t: batches.append(list(r)) or 0.0
    names = [f"word{i}" for i in range(10)]
    trainer.fit(names, names, names, steps=5, batch_size=3)
    assert [len(b) for b in batches] == [3] * 5 and len({w for b in batches[:3] for w in b}) == 9
    batches.clear()
    trainer.fit(names[:2], names[:2], names[:2], steps=2, batch_size=3)
    assert [sorted(b) for b in batches] == [names[:2]] * 2


@pytest.mark.slow
def test_clip_of_transformers():
    """CLIPTextModelWithProjection with a tokenizer of transformers composes, trains, and pools at the end of text."""
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, pre_tokenizers, processors
    from tokenizers import models as tokenizer_models

    vocabulary = ["<unk>", "$", "a", "photo", "of", "that", *"red blue big old cat dog".split(), "<bos>", "<eos>"]
    ids = {word: i for i, word in enumerate(vocabulary)}
    raw = Tokenizer(tokenizer_models.WordLevel(ids, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    ends = [("<bos>", ids["<bos>"]), ("<eos>", ids["<eos>"])]
    raw.post_processor = processors.TemplateProcessing(single="<bos> $A <eos>", special_tokens=ends)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<bos>", eos_token="<eos>", pad_token="<eos>", unk_token="<unk>"
    )
    config = transformers.CLIPTextConfig(
        vocab_size=len(ids), hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        projection_dim=4, max_position_embeddings=16, bos_token_id=ids["<bos>"], eos_token_id=ids["<eos>"],
        pad_token_id=ids["<eos>"],
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder, phi = transformers.CLIPTextModelWithProjection(config), nn.Linear(4, 8)
    trainer = RTDTrainer(encoder, phi, tokenizer, placeholder_id=1, max_length=16, lr=1e-2)
    assert len(tokenizer) == len(ids)
    one, two = trainer.compose(torch.zeros(2, 8), ["red", "blue"])
    other = trainer.compose(torch.arange(8.0)[None], ["red"])[0]  # layer norm takes a constant away
    assert one.shape == (4,) and not torch.allclose(one, two) and not torch.allclose(one, other)
    # The vector of a known token in place of the pseudo-token is the text with that token.
    known = encoder.get_input_embeddings().weight[ids["cat"]][None]
    text = tokenizer(["a photo of cat that red"], return_tensors="pt")
    inputs = {name: text[name] for name in ("input_ids", "attention_mask")}
    torch.testing.assert_close(trainer.compose(known, ["red"]), encoder(**inputs).text_embeds)
    losses = trainer.fit(*TRIPLETS, steps=20, batch_size=3)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: TargetAnchoredContrastive(temperature=0.0), "temperature must be positive: got 0.0"),
        (lambda: TargetAnchoredContrastive()(QUERIES, TARGETS[:1]), "targets must have the shape of queries"),
        (lambda: TargetAnchoredContrastive()(QUERIES[:0], TARGETS[:0]), "queries must have at least one row"),
        (
            lambda: TargetAnchoredContrastive()(QUERIES, TARGETS, target_ids=torch.arange(3)),
            "target_ids must have one entry per row of queries",
        ),
        (lambda: refined_batch(QUERIES, QUERIES, TARGETS, TARGETS[:1]), "z_r must have the shape of a"),
        (lambda: noisy_projection(QUERIES, nn.Identity(), noise_scale=-1), "noise_scale must be at least 0"),
        (
            lambda: inject_pseudo_tokens(torch.tensor([[1, 2], [2, 2]]), torch.zeros(2, 2, 3), torch.zeros(2, 3), 1),
            "input_ids must hold the placeholder 1 in every sequence: 1 do not, the first is row 1",
        ),
        (
            lambda: inject_pseudo_tokens(torch.tensor([[1]]), torch.zeros(1, 1, 3), torch.zeros(1, 4), 1),
            "pseudo must have the width of the token embeddings: 3, got 4",
        ),
        (
            lambda: inject_pseudo_tokens(torch.tensor([[1]]), torch.zeros(1, 2, 3), torch.zeros(1, 3), 1),
            r"embeddings must be \(n, l, h\) with \(n, l\) = \(1, 1\)",
        ),
        (lambda: trainer_of(phi=nn.Linear(4, 5)).loss(*TRIPLETS), "the projector does not fit this encoder"),
        (
            lambda: trainer_of().loss(TRIPLETS[0], TRIPLETS[1][:2], TRIPLETS[2]),
            "conditions must have one entry per row",
        ),
        (lambda: trainer_of().loss(*TRIPLETS[:2], TRIPLETS[2][:1]), "targets must have one entry per row"),
        (lambda: trainer_of().loss([], [], []), "references must hold at least one triplet"),
        (lambda: trainer_of().fit([], [], []), "references must hold at least one triplet"),
        (lambda: trainer_of(temperature=-1.0), "temperature must be positive"),
        (lambda: RTDTrainer(*models(), Words(), template="photo that {}"), r"template must hold \[\$\] once"),
        (lambda: RTDTrainer(*models(), Words()), "placeholder_id must lie between 0 and 59: got 259"),
        (lambda: RTDTrainer(*models(), Words(eos=9), placeholder_id=10), "must be below the end-of-text id 9"),
        (lambda: trainer_of().compose(torch.zeros(2, 6), ["red"]), "conditions must have one entry per row of pseudo"),
    ],
)
def test_bad_input(call, message):
    """What cannot be is answered in one line."""
    with pytest.raises(ValueError, match=message):
        call()
