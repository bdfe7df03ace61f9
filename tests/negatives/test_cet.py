"""CET: the worked numbers, weights and losses in plain loops, and who may move whom."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.negatives import (
    CoupledEstimationLoss,
    SelectionModel,
    coupled_log_weights,
    weighted_pair_logistic,
    weighted_softmax_ce,
)
from tests.behaviour import LossCase

INF = math.inf
F_SCORES = torch.tensor([[1.0, 0.5, 0.0]], dtype=torch.float64)
S = torch.tensor([[0.8, 0.5, 0.2]], dtype=torch.float64)
R = torch.tensor([[0.9, 0.6, 0.3]], dtype=torch.float64)


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def make(seed: int) -> list[LossCase]:
    """Both weightings and forms; the two weighted losses, whose weights take no gradient."""
    f, g = randn(4, 5, seed=seed), randn(4, 5, seed=seed + 1)
    further = -randn(4, 5, seed=seed + 2).abs()
    further[1, 3] = -INF
    weights = randn(4, 5, seed=seed + 3).abs()

    def case(weighting, form):
        loss = CoupledEstimationLoss(weighting=weighting, form=form)
        name = f"CoupledEstimationLoss {weighting} {form}"
        return LossCase(name, lambda f, g: loss(f, g, log_weights=further)[0], (f, g), (further,))

    return [
        *(case(weighting, form) for weighting in ("ratio", "posterior") for form in ("list", "pair")),
        LossCase("weighted_softmax_ce", lambda x: weighted_softmax_ce(x, weights, target=2), (f,), (weights,)),
        LossCase("weighted_pair_logistic", lambda x: weighted_pair_logistic(x, weights), (f,), (weights,)),
    ]


# --- worked numbers ---------------------------------------------------------------------------------------------------


def test_worked_ratio_weights():
    """S_i / S_+ and R_i / R_+ of the worked list, the positive at one."""
    of_relevance, of_selection = coupled_log_weights(R.log(), S.log())
    assert of_relevance.exp()[0].tolist() == pytest.approx([1, 0.625, 0.25])
    assert of_selection.exp()[0].tolist() == pytest.approx([1, 0.666667, 0.333333], abs=5e-7)


def test_worked_losses():
    """L_R = .385977, .680270 without weights, .423292 with the other model's weights."""
    of_relevance, of_selection = (w.exp() for w in coupled_log_weights(R.log(), S.log()))
    for weights, wanted in ((of_relevance, 0.385977), (torch.ones_like(S), 0.680270), (of_selection, 0.423292)):
        assert weighted_softmax_ce(F_SCORES, weights).item() == pytest.approx(wanted, abs=5e-7)


def test_worked_pair_logistic():
    """Pair losses .474077 and .313262 with weights .625 and .25: .374614, or .428130 over the sum of weights."""
    pairs = [weighted_pair_logistic(F_SCORES[:, [0, i]], torch.ones(1, 2), normalise=False).item() for i in (1, 2)]
    assert pairs == pytest.approx([0.474077, 0.313262], abs=5e-7)
    weights = torch.tensor([[1.0, 0.625, 0.25]])
    assert weighted_pair_logistic(F_SCORES, weights, normalise=False).item() == pytest.approx(0.374614, abs=5e-7)
    assert weighted_pair_logistic(F_SCORES, weights).item() == pytest.approx(0.428130, abs=5e-7)


def test_worked_posterior():
    """Bayes at R = (.9, .6, .3), S = (.8, .5, .2), each of the three in turn a negative."""
    wanted = ([0.357143, 0.571429, 0.744681], [0.714286, 0.714286, 0.851064])
    f, g = torch.logit(R), torch.logit(S)
    first, last = (coupled_log_weights(f, g, target=t, weighting="posterior") for t in (0, 2))
    for a, b, want in zip(first, last, wanted, strict=True):
        assert a[0, 1:].exp().tolist() == pytest.approx(want[1:], abs=5e-7)
        assert b[0, :2].exp().tolist() == pytest.approx(want[:2], abs=5e-7)
        assert a[0, 0] == b[0, 2] == 0


def test_a_flat_selection_is_plain_cross_entropy():
    """With constant scores of the other model all weights are one, for both models."""
    f = randn(4, 6)
    flat = torch.full_like(f, 0.7)
    target = torch.zeros(4, dtype=torch.int64)
    for a, b in ((f, flat), (flat, f)):
        loss, stats = CoupledEstimationLoss()(a, b)
        part = "relevance_loss" if a is f else "selection_loss"
        assert stats[part] == pytest.approx(F.cross_entropy(f, target).item(), abs=1e-12)
        assert loss.item() == pytest.approx(stats["relevance_loss"] + stats["selection_loss"])


@pytest.mark.parametrize("form", ["list", "pair"])
def test_a_negative_never_selected_is_absent(form):
    """S_i near 0 gives the loss of the list without it, and no gradient at its score."""
    f, g = randn(3, 5).requires_grad_(), randn(3, 5, seed=1)
    g[:, 2] = -1e4
    loss, module = None, CoupledEstimationLoss(form=form)
    loss, stats = module(f, g)
    keep = [0, 1, 3, 4]
    assert stats["relevance_loss"] == pytest.approx(module(f[:, keep], g[:, keep])[1]["relevance_loss"], abs=1e-6)
    loss.backward()
    assert (f.grad[:, 2] == 0).all() and (f.grad[:, keep] != 0).all()


@pytest.mark.parametrize("weighting", ["ratio", "posterior"])
@pytest.mark.parametrize("form", ["list", "pair"])
def test_each_loss_moves_its_own_model_only(weighting, form):
    """The gradient of f is that of L_R with its weights as constants, and of g that of L_S: nothing crosses."""
    f, g = randn(3, 4).requires_grad_(), randn(3, 4, seed=1).requires_grad_()
    loss, _ = CoupledEstimationLoss(weighting=weighting, form=form)(f, g)
    found = torch.autograd.grad(loss, (f, g))
    of_relevance, of_selection = coupled_log_weights(f, g, weighting=weighting)
    assert not of_relevance.requires_grad and not of_selection.requires_grad
    one = weighted_softmax_ce if form == "list" else weighted_pair_logistic
    for x, weights, gradient in ((f, of_relevance, found[0]), (g, of_selection, found[1])):
        (wanted,) = torch.autograd.grad(one(x, weights.exp()), x)
        assert torch.allclose(gradient, wanted, atol=1e-12)
    weights = torch.ones(3, 4, dtype=torch.float64, requires_grad=True)
    one(f, weights).backward()
    assert weights.grad is None


# --- the transcription ------------------------------------------------------------------------------------------------


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def loop_losses(f, g, target, *, weighting, form, w_max, further):
    """L_R and L_S list after list, with softmaxes and sigmoids as they are written."""
    totals = [0.0, 0.0]
    for row, positive in enumerate(target):
        lists = f[row].tolist(), g[row].tolist()
        for which, (own, other) in enumerate((lists, lists[::-1])):
            shares = [math.exp(x) / sum(map(math.exp, other)) for x in other]
            negatives = [i for i in range(len(own)) if i != positive]
            weights = {}
            for i in negatives:
                if weighting == "ratio":
                    w = min(shares[i] / shares[positive], w_max)
                else:
                    mine, theirs = sigmoid(own[i]), sigmoid(other[i])
                    w = (1 - mine) / (1 - mine * theirs)
                weights[i] = w * math.exp(further[row, i])
            if form == "list":
                rest = sum(weights[i] * math.exp(own[i]) for i in negatives)
                totals[which] -= math.log(math.exp(own[positive]) / (math.exp(own[positive]) + rest))
            elif sum(weights.values()) > 0:
                pairs = [weights[i] * math.log1p(math.exp(own[i] - own[positive])) for i in negatives]
                totals[which] += sum(pairs) / sum(weights.values())
    return [t / len(target) for t in totals]


@pytest.mark.parametrize("weighting", ["ratio", "posterior"])
@pytest.mark.parametrize("form", ["list", "pair"])
@pytest.mark.parametrize("seed", range(3))
def test_equals_the_loops(weighting, form, seed):
    """Both losses of the loops, with labels in any column, a cap that binds and further decisions."""
    f, g = 2 * randn(5, 4, seed=seed), 2 * randn(5, 4, seed=seed + 10)
    target = torch.randint(4, (5,), generator=torch.Generator().manual_seed(seed))
    further = -randn(5, 4, seed=seed + 20).abs()
    further[0] = -INF
    further[1, 2] = -INF
    loss, stats = CoupledEstimationLoss(weighting=weighting, form=form, w_max=1.5)(
        f, g, F.one_hot(target, 4), log_weights=further
    )
    wanted = loop_losses(f, g, target.tolist(), weighting=weighting, form=form, w_max=1.5, further=further)
    assert [stats["relevance_loss"], stats["selection_loss"]] == pytest.approx(wanted, rel=1e-10)
    assert loss.item() == pytest.approx(sum(wanted), rel=1e-10)


def test_capped_share_and_mean_weight_are_counted():
    """Statistics are over the relevance model's negatives."""
    _, stats = CoupledEstimationLoss(w_max=2.0)(torch.zeros(1, 4), torch.tensor([[0.0, 3.0, 0.0, -30.0]]))
    assert stats["capped"] == pytest.approx(1 / 3)
    assert stats["mean_weight"] == pytest.approx(1.0, abs=1e-6)


def test_gradcheck():
    """Gradients of the two weighted losses in float64 are those of finite differences."""
    weights = randn(3, 4, seed=2).abs()
    scores = randn(3, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: weighted_softmax_ce(x, weights, target=1), (scores,))
    assert torch.autograd.gradcheck(lambda x: weighted_pair_logistic(x, weights, target=1), (scores,))


def test_reductions_and_dtypes():
    """Sum and mean are of the unreduced rows, and half precision is computed in float32."""
    scores, weights = randn(3, 4), randn(3, 4, seed=1).abs()
    for loss in (weighted_softmax_ce, weighted_pair_logistic):
        rows = loss(scores, weights, reduction="none")
        assert rows.shape == (3,)
        assert loss(scores, weights, reduction="sum").item() == pytest.approx(rows.sum().item())
        assert loss(scores, weights).item() == pytest.approx(rows.mean().item())
        assert loss(scores.half(), weights).dtype == torch.float32
        empty = loss(scores, torch.zeros_like(weights), reduction="none")
        assert torch.equal(empty, torch.zeros(3, dtype=torch.float64))


def test_extreme_scores_are_finite():
    """Scores of any size give finite losses, weights within [0, w_max] and finite gradients."""
    for weighting in ("ratio", "posterior"):
        f = torch.tensor([[-1e4, 1e4, 0.0], [1e4, -1e4, 0.0]], requires_grad=True)
        g = f.detach().flip(0).requires_grad_()
        loss, _ = CoupledEstimationLoss(weighting=weighting)(f, g)
        assert loss.isfinite()
        assert all(x.isfinite().all() for x in torch.autograd.grad(loss, (f, g)))
        for weights in coupled_log_weights(f, g, weighting=weighting):
            assert not weights.isnan().any() and weights.max() <= math.log(10.0) + 1e-6


# --- invariants -------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 6), st.floats(-20, 20), st.floats(-20, 20))
def test_only_ratios_within_a_list_count(seed, m, shift_f, shift_g):
    """A constant added to a list's scores of either model changes neither loss under ratio weights."""
    f, g = randn(3, m, seed=seed), randn(3, m, seed=seed + 1)
    loss = CoupledEstimationLoss()
    one, other = loss(f, g)[0], loss(f + shift_f, g + shift_g)[0]
    assert one.item() == pytest.approx(other.item(), rel=1e-9, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 6))
def test_posteriors_are_probabilities_and_models_are_alike(seed, m):
    """Posterior weights are at most one, and swapping the models swaps them."""
    f, g = 3 * randn(3, m, seed=seed), 3 * randn(3, m, seed=seed + 1)
    one = coupled_log_weights(f, g, weighting="posterior")
    two = coupled_log_weights(g, f, weighting="posterior")
    assert all((w <= 0).all() for w in one)
    assert torch.allclose(one[0], two[1]) and torch.allclose(one[1], two[0])


# --- warm-up and the selection model ----------------------------------------------------------------------------------


def test_warm_up_counts_training_steps_and_survives_a_checkpoint():
    """For two steps f trains without weights while g has its own; the count is saved; evaluation does not count."""
    f, g = randn(3, 4), randn(3, 4, seed=1)
    plain, weighted = (
        weighted_softmax_ce(f, w).item() for w in (torch.ones_like(f), coupled_log_weights(f, g)[0].exp())
    )
    selection = weighted_softmax_ce(g, coupled_log_weights(f, g)[1].exp()).item()
    loss = CoupledEstimationLoss(warmup_steps=2)
    loss.eval()
    assert loss(f, g)[1]["relevance_loss"] == pytest.approx(weighted)
    loss.train()
    assert loss(f, g)[1]["relevance_loss"] == pytest.approx(plain)
    resumed = CoupledEstimationLoss(warmup_steps=2)
    resumed.load_state_dict(loss.state_dict())
    for module in (loss, resumed):
        stats = [module(f, g)[1] for _ in range(2)]
        assert [x["relevance_loss"] for x in stats] == pytest.approx([plain, weighted])
        assert [x["selection_loss"] for x in stats] == pytest.approx([selection, selection])


def test_selection_model_standardises_and_starts_from_a_seed():
    """Units of the features do not matter, a constant feature does no harm, and no global generator moves."""
    features = randn(50, 3, dtype=torch.float32)
    features[:, 2] = 4.0
    before = torch.get_rng_state()
    one, two, other = (SelectionModel(features, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    lists = features[:12].reshape(4, 3, 3)
    assert one(lists).shape == (4, 3)
    assert torch.equal(one(lists), two(lists)) and not torch.equal(one(lists), other(lists))
    scale, shift = torch.tensor([100.0, 0.01, 7.0]), torch.tensor([-3.0, 2.0, 1.0])
    rescaled = SelectionModel(features * scale + shift, seed=0)
    assert torch.allclose(rescaled(lists * scale + shift), one(lists), atol=1e-4)
    one(lists).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in one.parameters())
    assert SelectionModel(features, hidden=())(features).shape == (50,)


# --- bad inputs -------------------------------------------------------------------------------------------------------


def test_bad_inputs():
    """Negative weights, rows without a positive, NaN and caps that are not positive are named."""
    f, g, loss = randn(2, 3), randn(2, 3, seed=1), CoupledEstimationLoss()
    nan = f.clone()
    nan[1, 2] = math.nan
    for call, message in (
        (lambda: weighted_softmax_ce(f, -torch.ones_like(f)), "weights must not be negative: got -1"),
        (lambda: weighted_pair_logistic(f, -torch.ones_like(f)), "weights must not be negative: got -1"),
        (lambda: weighted_softmax_ce(f, torch.ones_like(f) * math.nan), "weights must be finite"),
        (lambda: weighted_softmax_ce(f, torch.ones(2, 2)), "weights must have the shape of scores"),
        (lambda: weighted_softmax_ce(nan, torch.ones_like(f)), "scores must be finite.*row 1"),
        (lambda: weighted_softmax_ce(f, torch.ones_like(f), target=3), r"target must lie in 0\.\.2"),
        (lambda: weighted_softmax_ce(f, torch.ones_like(f), target=torch.zeros(3).long()), "target must be an int or"),
        (lambda: weighted_softmax_ce(f, torch.ones_like(f), reduction="max"), "reduction must be one of"),
        (lambda: weighted_softmax_ce(f[:, :1], torch.ones(2, 1)), "must have a positive and negatives"),
        (lambda: loss(f, nan), "sel_scores must be finite: 1 rows .* row 1"),
        (lambda: loss(nan, f), "rel_scores must be finite"),
        (lambda: loss(f, g[:, :2]), "sel_scores must have the shape of rel_scores"),
        (lambda: loss(f[:0], g[:0]), "must have at least one row"),
        (
            lambda: loss(f, g, torch.tensor([[1, 0, 0], [0, 0, 0]])),
            "labels must mark one positive per row: row 1 has 0",
        ),
        (
            lambda: loss(f, g, torch.tensor([[1, 1, 0], [0, 1, 0]])),
            "labels must mark one positive per row: row 0 has 2",
        ),
        (lambda: loss(f, g, torch.ones(2, 2)), "labels must have the shape of rel_scores"),
        (lambda: loss(f, g, log_weights=torch.zeros(2, 2)), "log_weights must have the shape of rel_scores"),
        (lambda: loss(f, g, log_weights=nan), "log_weights must be numbers or -inf"),
        (lambda: CoupledEstimationLoss(w_max=0.0), "w_max must be positive: got 0.0"),
        (lambda: coupled_log_weights(f, g, w_max=-1.0), "w_max must be positive"),
        (lambda: CoupledEstimationLoss(warmup_steps=-1), "warmup_steps must be at least 0"),
        (lambda: CoupledEstimationLoss(weighting="odds"), "weighting must be one of 'ratio', 'posterior'"),
        (lambda: CoupledEstimationLoss(form="triple"), "form must be one of"),
        (lambda: SelectionModel(nan), "features must be finite"),
        (lambda: SelectionModel(f)(g[:, :2]), "features must have 3 columns"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
