"""NBPO: the worked numbers, objectives and sampler in plain loops, and what the posterior must keep for every pair."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.contrastive import drop, info_nce
from tamis.negatives import (
    NoiseHead,
    NoisyNegativeModel,
    UniformNegativeSampler,
    bpo_loss,
    bpr_loss,
    false_negative_log_weights,
    false_negative_posterior,
    nbpo_loss,
)
from tests.behaviour import ArrayCase, LossCase

INF = math.inf
VARIANTS = ("likelihood", "surrogate", "surrogate_gradient")
finite = st.floats(-30, 30)


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def batch(b=5, n=3, seed=0):
    """Preferences and noise of positives and negatives."""
    return randn(b, seed=seed), randn(b, n, seed=seed + 1), randn(b, seed=seed + 2), randn(b, n, seed=seed + 3)


def make(seed: int) -> list:
    """The three variants, BPO and BPR; posterior and log-weights; the sampler."""
    inputs = batch(seed=seed)
    weights = randn(5, 3, seed=seed + 9)
    weights[1, 2] = -INF

    def variant(name):
        return LossCase(
            name=f"nbpo_loss {name}",
            call=lambda p, n, pg, ng: nbpo_loss(p, n, pg, ng, variant=name, log_weights=weights),
            inputs=inputs,
            others=(weights,),
        )

    rng = np.random.default_rng(seed)
    pair = rng.standard_normal((3, 4)), rng.standard_normal((3, 4))
    sampler = UniformNegativeSampler([[0, 3], [1], []], 6)
    return [
        *(variant(name) for name in VARIANTS),
        LossCase("bpo_loss", lambda p, n: bpo_loss(p, n, log_weights=weights), inputs[:2], (weights,)),
        LossCase("bpr_loss", lambda p, n: bpr_loss(p, n, log_weights=weights), inputs[:2], (weights,)),
        ArrayCase("false_negative_posterior", lambda seed, r, g: false_negative_posterior(r, g), pair, torch_too=True),
        ArrayCase(
            "false_negative_log_weights", lambda seed, r, g: false_negative_log_weights(r, g), pair, torch_too=True
        ),
        ArrayCase(
            "UniformNegativeSampler",
            lambda seed, users: sampler(users, seed=seed),
            (np.array([0, 1, 2, 2]),),
            empty=lambda: UniformNegativeSampler([], 4),
            torch_too=True,
        ),
    ]


def one_pair(variant, *, scores=0.5, noise=-1.0):
    """Value and gradients (dR, dg) of the maximised term of a positive and of a negative with the same scores."""
    out = []
    for keep in ("pos", "neg"):
        inputs = [torch.full(shape, v, dtype=torch.float64) for shape, v in
                  (((1,), scores), ((1, 1), scores), ((1,), noise), ((1, 1), noise))]  # fmt: skip
        for x in inputs:
            x.requires_grad_()
        pair = nbpo_loss(*inputs, variant=variant, reduction="sum")
        # The other side's value is taken away by a pair whose negative is switched off (weight 0, pair present).
        alone = nbpo_loss(*inputs, variant=variant, log_weights=torch.full((1, 1), -800.0), reduction="sum")
        value = alone if keep == "pos" else pair - alone
        gradients = torch.autograd.grad(value, inputs)
        picked = (gradients[0], gradients[2]) if keep == "pos" else (gradients[1], gradients[3])
        out.append((-value.item(), *(-g.item() for g in picked)))
    return out


# --- worked numbers ---------------------------------------------------------------------------------------------------


def test_worked_likelihood():
    """At R = .5, g = -1 the log-likelihoods and their gradients are the worked ones."""
    positive, negative = one_pair("likelihood")
    assert positive == pytest.approx((-0.787339, 0.377541, -0.268941), abs=5e-7)
    assert negative == pytest.approx((-0.607069, -0.315263, 0.224578), abs=5e-7)


def test_worked_surrogate():
    """The surrogate is the likelihood itself; recorded and unrecorded sum to one."""
    positive, negative = one_pair("surrogate")
    assert positive == pytest.approx((0.455054, 0.171801, -0.122383), abs=5e-7)
    assert negative == pytest.approx((0.544946, -0.171801, 0.122383), abs=5e-7)
    assert positive[0] + negative[0] == pytest.approx(1.0, abs=1e-12)


def test_worked_surrogate_gradient():
    """Autograd of the form with constants gives the four terms of the final heuristic, and BPO its own."""
    positive, negative = one_pair("surrogate_gradient")
    assert positive[1:] == pytest.approx((0.276004, -0.167405), abs=1e-6)
    assert negative[1:] == pytest.approx((-0.520923, 0.455054), abs=1e-6)
    scores = torch.full((1, 1), 0.5, dtype=torch.float64, requires_grad=True)
    bpo_loss(torch.zeros(1, dtype=torch.float64), scores, reduction="sum").backward()
    assert -scores.grad.item() == pytest.approx(-0.622459, abs=5e-7)


def test_worked_posterior():
    """At (.5, -1) the posterior is .307196, and the log-weight is the log of the rest."""
    pair = torch.tensor([0.5], dtype=torch.float64), torch.tensor([-1.0], dtype=torch.float64)
    assert false_negative_posterior(*pair).item() == pytest.approx(0.307196, abs=5e-7)
    assert false_negative_log_weights(*pair).item() == pytest.approx(math.log(1 - 0.307196), abs=1e-6)


@pytest.mark.parametrize("variant", ["likelihood", "surrogate_gradient"])
def test_without_noise_this_is_bpo(variant):
    """As g goes to minus infinity the gradient in the preferences is BPO's, to the bit."""
    pos, neg, *_ = batch()
    found, wanted = [], []
    for out, loss in ((found, nbpo_loss), (wanted, bpo_loss)):
        inputs = [pos.clone().requires_grad_(), neg.clone().requires_grad_()]
        extra = (torch.full_like(pos, -800.0), torch.full_like(neg, -800.0)) if loss is nbpo_loss else ()
        options = {"variant": variant} if extra else {}
        out += torch.autograd.grad(loss(*inputs, *extra, reduction="sum", **options), inputs)
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_the_heuristic_is_no_gradient():
    """d(dR)/dg and d(dg)/dR of the heuristic's negative differ, so no function has it as gradient."""
    step, at = 1e-6, lambda r, g: one_pair("surrogate_gradient", scores=r, noise=g)[1][1:]
    across = (at(0.5, -1 + step)[0] - at(0.5, -1)[0]) / step
    back = (at(0.5 + step, -1)[1] - at(0.5, -1)[1]) / step
    s = torch.sigmoid
    r, g = torch.tensor(0.5, dtype=torch.float64), torch.tensor(-1.0, dtype=torch.float64)
    assert across == pytest.approx((s(g) * s(-g) * s(-r)).item(), abs=1e-5)
    assert back == pytest.approx((s(-g) * s(r) * s(-r)).item(), abs=1e-5)
    assert abs(across - back) > 0.05


# --- the transcription ------------------------------------------------------------------------------------------------


def s(x):
    return 1 / (1 + math.exp(-x))


def loop_loss(pos, neg, pos_g, neg_g, *, variant, weights, repeat):
    """Pairs one after the other, probabilities as they stand in the paper; and the gradients of the official code."""
    total, pairs = 0.0, 0
    grads = [torch.zeros_like(x) for x in (pos, neg, pos_g, neg_g)]
    for i in range(len(pos)):
        r, g = pos[i].item(), pos_g[i].item()
        present = [j for j in range(neg.shape[1]) if weights[i, j] != -INF]
        for j in present:
            rj, gj, w = neg[i, j].item(), neg_g[i, j].item(), math.exp(weights[i, j])
            share = 1.0 if repeat else 1 / len(present)
            recorded, unrecorded = s(r) * s(-g), s(-rj) + s(gj) * s(rj)
            pairs += 1
            if variant == "bpo":
                total -= share * math.log(s(r)) + w * math.log(s(-rj))
                pushes = (s(-r), -s(rj), 0.0, 0.0)
            elif variant == "likelihood":
                total -= share * math.log(recorded) + w * math.log(unrecorded)
                d_r, d_g = (s(gj) - 1) * s(rj) * s(-rj) / unrecorded, s(gj) * s(-gj) * s(rj) / unrecorded
                pushes = (s(-r), d_r, -s(g), d_g)
            elif variant == "surrogate":
                total -= share * recorded + w * unrecorded
                d_r, d_g = (s(gj) - 1) * s(rj) * s(-rj), s(gj) * s(-gj) * s(rj)
                pushes = (s(-g) * s(r) * s(-r), d_r, -s(g) * s(-g) * s(r), d_g)
            else:
                pushes = (s(-g) * s(-r), s(gj) * s(-rj) - s(rj), -s(g) * s(r), s(-gj) * s(rj))
            for grad, place, push, scale in zip(
                grads, (i, (i, j), i, (i, j)), pushes, (share, w, share, w), strict=True
            ):
                grad[place] -= push * scale
    return total, pairs, grads


@pytest.mark.parametrize("variant", [*VARIANTS, "bpo"])
@pytest.mark.parametrize("repeat", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_equals_the_loops(variant, repeat, seed):
    """Value and gradients of the loops, with weighted and with absent negatives, as sum and as mean over pairs."""
    inputs = batch(b=4, n=3, seed=10 * seed)
    weights = randn(4, 3, seed=seed + 50)
    weights[0, 1] = weights[2, 0] = weights[2, 1] = weights[2, 2] = -INF
    total, pairs, grads = loop_loss(*inputs, variant=variant, weights=weights, repeat=repeat)
    for reduction, size in (("sum", 1), ("mean", pairs)):
        asked = [x.clone().requires_grad_() for x in inputs]
        options = {"log_weights": weights, "repeat_positive": repeat, "reduction": reduction}
        if variant == "bpo":
            value, asked = bpo_loss(*asked[:2], **options), asked[:2]
        else:
            value = nbpo_loss(*asked, variant=variant, **options)
        found = torch.autograd.grad(value, asked)
        if variant != "surrogate_gradient":
            assert value.item() == pytest.approx(total / size, rel=1e-10)
        for one, other in zip(found, grads, strict=False):
            assert torch.allclose(one, other / size, atol=1e-10)
    assert pairs == 8


def test_pairs_are_what_is_reduced():
    """Unreduced losses are (b, n), absent pairs 0, and sum and mean are theirs; BPR is the loop over pairs."""
    inputs, weights = batch(b=2, n=2), torch.tensor([[0.0, -INF], [-1.0, 0.0]], dtype=torch.float64)
    pairs = nbpo_loss(*inputs, log_weights=weights, reduction="none")
    assert pairs.shape == (2, 2) and pairs[0, 1] == 0
    assert nbpo_loss(*inputs, log_weights=weights).item() == pytest.approx(pairs.sum().item() / 3)
    found = bpr_loss(*inputs[:2], log_weights=weights, reduction="sum").item()
    wanted = sum(
        -math.exp(weights[i, j]) * math.log(s(inputs[0][i] - inputs[1][i, j]))
        for i in range(2)
        for j in range(2)
        if weights[i, j] != -INF
    )
    assert found == pytest.approx(wanted, rel=1e-10)


def test_all_absent_is_zero():
    """A batch without any pair has loss 0 and gradient 0."""
    inputs = [x.requires_grad_() for x in batch(b=2, n=2)]
    value = nbpo_loss(*inputs, log_weights=torch.full((2, 2), -INF))
    value.backward()
    assert value.item() == 0
    assert all((x.grad == 0).all() for x in inputs)


@pytest.mark.parametrize("variant", ["likelihood", "surrogate"])
def test_gradcheck(variant):
    """Gradients in float64 are those of finite differences."""
    inputs = tuple(x.requires_grad_() for x in batch(b=3, n=2))
    assert torch.autograd.gradcheck(lambda *x: nbpo_loss(*x, variant=variant), inputs)


def test_no_gradient_leaks():
    """Log-weights take no gradient, and neither posterior nor log-weights carry one."""
    pos, neg, pos_g, neg_g = (x.requires_grad_() for x in batch())
    decided = false_negative_log_weights(neg, neg_g)
    assert not decided.requires_grad and not false_negative_posterior(neg, neg_g).requires_grad
    weights = torch.zeros_like(neg).requires_grad_()
    nbpo_loss(pos, neg, pos_g, neg_g, log_weights=weights).backward()
    assert weights.grad is None


def test_scores_of_any_size_are_finite():
    """Scores far beyond where the sigmoid rounds to 0 or 1 give finite losses and gradients, also in float32."""
    for r in (-3e4, 3e4):
        for g in (-3e4, 3e4):
            inputs = [torch.full(shape, v, requires_grad=True) for shape, v in
                      (((1,), r), ((1, 1), r), ((1,), g), ((1, 1), g))]  # fmt: skip
            for variant in VARIANTS:
                value = nbpo_loss(*inputs, variant=variant)
                assert value.isfinite()
                assert all(x.isfinite().all() for x in torch.autograd.grad(value, inputs))
    half = [x.half() for x in batch()]
    assert nbpo_loss(*half).dtype == torch.float32


# --- the posterior ----------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(finite, finite, st.floats(0, 5))
def test_posterior_is_bayes(r, g, more):
    """It is P(positive and unrecorded) over P(unrecorded), and grows with preference and with noise."""
    scores, noise = np.array([r, r + more, r]), np.array([g, g, g + more])
    posterior = false_negative_posterior(scores, noise)
    assert posterior[0] == pytest.approx(s(g) * s(r) / (s(-r) + s(g) * s(r)), rel=1e-9, abs=1e-300)
    assert posterior[1] >= posterior[0] and posterior[2] >= posterior[0]
    weights = false_negative_log_weights(scores, noise)
    assert (weights <= 0).all()
    assert np.allclose(np.exp(weights), 1 - posterior)


def test_posterior_adds_to_other_decisions():
    """As a log-weight it adds to a mask in the contrastive core and lowers what a likely false negative costs."""
    rows = randn(4, 6)
    rows[1] = rows[0] + 0.01
    scores = rows @ rows.T
    weights = false_negative_log_weights(scores, torch.full_like(scores, 2.0))
    masked = drop(torch.eye(4, dtype=torch.bool).roll(2, 1), weights)
    plain, lighter, lightest = (
        info_nce(rows, rows, log_weights=w, temperature=1.0).item() for w in (None, weights, masked)
    )
    assert plain > lighter > lightest
    assert torch.isneginf(masked).sum() == 4


# --- model, head, sampler ---------------------------------------------------------------------------------------------


def test_the_start_is_the_papers():
    """U, V lie in [0, 1) / sqrt(50), P in [0, 5) / sqrt(50), Q in (-5, 0] / sqrt(50), so g is near -6.25."""
    model = NoisyNegativeModel(200, 300)
    for table, low, high in (
        (model.users, 0, 1),
        (model.items, 0, 1),
        (model.noise_users, 0, 5),
        (model.noise_items, -5, 0),
    ):
        scaled = table.detach() * math.sqrt(50)
        assert low - 1e-5 <= scaled.min() < low + 0.01 * (high - low)
        assert high - 0.01 * (high - low) < scaled.max() <= high + 1e-5
    _, noise = model(torch.arange(200), torch.arange(200))
    assert noise.mean().item() == pytest.approx(-6.25, abs=0.2)


def test_model_scores_pairs():
    """Scores are products of the rows of the tables, one item or several per user; a seed fixes the start."""
    model, users, items = NoisyNegativeModel(4, 5, dim=3, noise_dim=2, seed=1), torch.tensor([3, 0]), torch.tensor(
        [[1, 4, 4], [0, 2, 1]]
    )  # fmt: skip
    scores, noise = model(users, items)
    for i in range(2):
        for j in range(3):
            assert scores[i, j].item() == pytest.approx((model.users[users[i]] @ model.items[items[i, j]]).item())
            wanted = model.noise_users[users[i]] @ model.noise_items[items[i, j]]
            assert noise[i, j].item() == pytest.approx(wanted.item())
    assert torch.equal(model(users, items[:, 1])[0], scores[:, 1])
    assert torch.allclose(model.preferences(users).gather(1, items), scores)
    again = NoisyNegativeModel(4, 5, dim=3, noise_dim=2, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    with pytest.raises(ValueError, match="items must have one entry per row of users: 2 rows, 1 items"):
        model(users, items[:1])
    with pytest.raises(ValueError, match="dim must be at least 1: got 0"):
        NoisyNegativeModel(2, 2, dim=0)


def test_one_step_is_the_official_update():
    """SGD with the groups on the sum over pairs is X + eta (dX - lambda X), lambda_r and lambda_phi apart."""
    model = NoisyNegativeModel(2, 3, dim=2, noise_dim=2)
    before = {name: x.detach().clone() for name, x in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameter_groups(0.5, 3.0), lr=0.1)
    users, items = torch.tensor([0, 1]), torch.tensor([[0, 1], [1, 2]])
    (pos, pos_g), (neg, neg_g) = model(users, items[:, 0]), model(users, items)
    nbpo_loss(pos, neg, pos_g, neg_g, reduction="sum").backward()
    optimizer.step()
    for name, x in model.named_parameters():
        decay = 3.0 if name.startswith("noise") else 0.5
        assert torch.allclose(x, before[name] + 0.1 * (-x.grad - decay * before[name]), atol=1e-6)


def test_head_scores_texts_and_leaves_the_encoder_alone():
    """Every query with every passage, or with its own; a gradient reaches the head and not the embeddings."""
    head = NoiseHead(5, 4, dim=3).double()
    queries, passages = randn(2, 5).requires_grad_(), randn(6, 4)
    full = head(queries, passages)
    assert full.shape == (2, 6)
    assert torch.allclose(head(queries, passages.reshape(2, 3, 4))[1], full[1, 3:])
    wanted = (queries @ head.query_map @ head.passage_map.T @ passages.T) - 6.25
    assert torch.allclose(full, wanted)
    full.sum().backward()
    assert queries.grad is None and head.query_map.grad.abs().sum() > 0


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sets(st.integers(0, 7), max_size=7), min_size=1, max_size=6), st.integers(0, 2**31))
def test_no_recorded_item_is_drawn(positives, seed):
    """Every draw is an item and none that the user recorded; all draws of one free item are that item."""
    users = np.arange(len(positives)).repeat(3)
    drawn = UniformNegativeSampler([sorted(p) for p in positives], 8, n_negatives=5)(users, seed=seed)
    assert drawn.shape == (len(users), 5)
    assert all(set(row) <= set(range(8)) - positives[user] for user, row in zip(users, drawn.tolist(), strict=True))


def test_draws_are_uniform_and_any_form_of_positives_will_do():
    """Each free item comes as often as another; repeats and order of positives do not count; CSR gives the same."""
    positives = [[5, 1, 1, 0], [], [2]]
    sampler = UniformNegativeSampler(positives, 6, n_negatives=3)
    users = np.zeros(20_000, dtype=np.int64)
    counts = np.bincount(sampler(users, seed=0).ravel(), minlength=6)
    assert counts[[0, 1, 5]].sum() == 0
    assert np.abs(counts[[2, 3, 4]] - 20_000).max() < 5 * math.sqrt(60_000 * 2 / 9)
    csr = UniformNegativeSampler((np.array([0, 4, 4, 5]), np.array([5, 1, 1, 0, 2])), 6, n_negatives=3)
    some = np.array([0, 2, 1])
    assert np.array_equal(csr(some, seed=4), sampler(some, seed=4))
    generator = np.random.default_rng(0)
    assert not np.array_equal(sampler(users, seed=generator), sampler(users, seed=generator))


# --- bad inputs -------------------------------------------------------------------------------------------------------


def test_bad_scores():
    """Shapes that differ, NaN, infinity and unknown options are named."""
    pos, neg, pos_g, neg_g = batch(b=3, n=2)
    for call, message in (
        (lambda: nbpo_loss(pos, neg, pos_g[:2], neg_g), r"pos_noise must have the shape of pos_scores: \(3,\)"),
        (lambda: nbpo_loss(pos, neg, pos_g, neg_g[:, :1]), r"neg_noise must have the shape of neg_scores: \(3, 2\)"),
        (lambda: bpo_loss(pos[:2], neg), "pos_scores must have one entry per row of neg_scores: 3 rows, 2"),
        (lambda: bpr_loss(neg, neg), r"pos_scores must be \(b,\): got shape \(3, 2\)"),
        (lambda: bpo_loss(pos, neg[:, :0]), "at least one negative per positive"),
        (lambda: bpo_loss(pos[:0], neg[:0]), "neg_scores must have at least one row"),
        (lambda: bpo_loss(pos * torch.tensor([1, math.nan, 1]), neg), "pos_scores must be finite.*row 1"),
        (lambda: nbpo_loss(pos, neg, pos_g, neg_g * math.nan), "neg_noise must be finite"),
        (lambda: nbpo_loss(pos, neg, pos_g, neg_g, variant="paper"), "variant must be one of 'likelihood'"),
        (lambda: bpo_loss(pos, neg, reduction="max"), "reduction must be one of"),
        (lambda: bpo_loss(pos, neg, log_weights=neg[:2]), "log_weights must have the shape of neg_scores"),
        (lambda: bpo_loss(pos, neg, log_weights=neg * math.nan), "log_weights must be numbers or -inf"),
        (lambda: false_negative_posterior(neg, neg_g[:2]), "neg_noise must have the shape of neg_scores"),
        (lambda: false_negative_posterior(neg * math.nan, neg_g), "neg_scores must be finite"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize(
    ("positives", "n_items", "message"),
    [
        ([[0], [2, 0, 1]], 3, "must leave every user an item: 1 users have all 3, the first is 1; leave them out"),
        ([[3]], 3, r"user_positives must lie in 0\.\.2: got 3\.\.3"),
        ([[-1]], 3, r"user_positives must lie in 0\.\.2"),
        ([[0.5]], 3, "user_positives must hold integers"),
        ([], 3, "user_positives must have at least one user"),
        ((np.array([0, 2]), np.array([1])), 3, "user_positives as CSR must go from 0 to its 1 items"),
        ((np.array([0, 2, 1]), np.array([1])), 3, "user_positives as CSR"),
        ([[0]], 0, "n_items must be at least 1"),
    ],
)
def test_bad_positives(positives, n_items, message):
    """A user who has everything would be drawn for without end; that and other unusable positives are refused."""
    with pytest.raises(ValueError, match=message):
        UniformNegativeSampler(positives, n_items)


def test_bad_users():
    """Users that the sampler does not know are refused."""
    with pytest.raises(ValueError, match=r"users must lie in 0\.\.0: got 1\.\.1"):
        UniformNegativeSampler([[0]], 3)(np.array([1]), seed=0)
