"""Quantity or quality: worked numbers, plain loops, laws of the draws, the loop of stages, bad input."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.subsets import (
    BudgetPlan,
    LogConfidenceLoss,
    SequentialSFT,
    Stage,
    calibrated_accuracy,
    few_shot_prompts,
    log_confidence_loss,
    pareto_frontier,
    regime,
    uncertainty_sample,
)
from tests.behaviour import ArrayCase, LossCase

BINARY = np.array([[0.5, 0.5], [0.9, 0.1], [0.99, 0.01]])


def make(seed):
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.ones(3), 30)
    labels = torch.tensor(rng.random(8))
    logits = torch.tensor(rng.normal(size=(8, 2)))
    return [
        ArrayCase(
            name="uncertainty_sample",
            call=lambda seed, probs: uncertainty_sample(probs, budget=7, seed=seed),
            inputs=(probs,),
            empty=lambda: uncertainty_sample(probs[:0], budget=0),
            torch_too=True,
            budget=(lambda budget: uncertainty_sample(probs, budget=budget).indices, 30),
        ),
        ArrayCase(
            name="pareto_frontier",
            call=lambda seed, costs, scores: pareto_frontier(costs, scores),
            inputs=(rng.random(9), rng.random(9)),
            empty=lambda: pareto_frontier(np.zeros(0), np.zeros(0)),
        ),
        LossCase(
            name="log_confidence_loss",
            call=lambda logits: log_confidence_loss(logits, labels, 100),
            inputs=(logits,),
            others=(labels,),
        ),
    ]


# Budgets


def test_grids_worked_numbers():
    """Shares of two budgets buy the numbers of labels worked out by hand."""
    shares = [0.8, 0.6, 0.4, 0.2, 0.05]
    assert BudgetPlan(16).grid(shares) == [(40, 12), (70, 9), (100, 6), (130, 3), (160, 0)]
    assert BudgetPlan(64).grid(shares) == [(130, 51), (260, 38), (390, 25), (520, 12), (610, 3)]
    assert BudgetPlan(16).grid([0, 1]) == [(160, 0), (0, 16)]


def test_decimals_are_taken_as_they_are_written():
    """0.3 buys three labels at 0.1, which floating point rounds down to two."""
    assert int(0.3 / 0.1) == 2
    assert BudgetPlan(0.3, oracle_cost=10).counts(0) == (3, 0)
    assert BudgetPlan(100, weak_cost=0.7, oracle_cost=7).counts(0.7) == (42, 10)


@given(
    st.floats(0.1, 1e4).map(lambda x: round(x, 2)),
    st.floats(0.01, 5).map(lambda x: round(x, 2)),
    st.floats(0.1, 9).map(lambda x: round(x, 2)),
    st.floats(0, 1),
)
@settings(deadline=None)
def test_a_plan_spends_the_budget_up_to_one_label(budget, weak, oracle, share):
    """Nothing is overspent, another noisy label would be too dear, and correct labels take no more than their share."""
    plan = BudgetPlan(budget, weak_cost=weak, oracle_cost=oracle)
    n_weak, n_oracle = plan.counts(share)
    spent = n_weak * Fraction(str(weak)) + n_oracle * Fraction(str(oracle))
    assert spent <= Fraction(str(budget)) < spent + Fraction(str(weak))
    assert n_oracle * oracle <= share * budget * (1 + 1e-12)
    assert plan.cost(n_weak, n_oracle) == pytest.approx(float(spent))


def test_pareto_worked_numbers():
    """The third of four results costs more than the second and scores less."""
    assert pareto_frontier([1, 2, 3, 4], [0.6, 0.7, 0.65, 0.9]).tolist() == [True, True, False, True]


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=12))
@settings(deadline=None)
def test_pareto_is_the_plain_loop(points):
    """A result stands exactly if no other one dominates it; equal ones share their fate."""
    expected = [
        not any(c <= cost and s >= score and (c < cost or s > score) for c, s in points) for cost, score in points
    ]
    costs, scores = np.array(points).T
    assert pareto_frontier(costs, scores).tolist() == expected


def test_regimes():
    """The best way within the budget names the regime; mixtures must clear their margin, dear results do not count."""
    plan = BudgetPlan(64)
    pure = {(640, 0): 0.858, (0, 64): 0.845}
    assert regime(plan, pure) == "quantity"
    assert regime(plan, {(640, 0): 0.8, (0, 64): 0.845}) == "quality"
    assert regime(plan, {(640, 0): 0.8, (0, 64): 0.8}) == "quality"
    assert regime(plan, pure | {(130, 51): 0.866}) == "mixed"
    assert regime(plan, pure | {(130, 51): 0.866}, margin=0.01) == "quantity"
    assert regime(plan, pure | {(640, 64): 0.99}) == "quantity"


def test_calibrated_accuracy_forgives_the_cut():
    """Scores that rank perfectly are right whatever their level; one swapped pair costs two items."""
    scores, labels = np.array([0.9, 0.8, 0.7, 0.6, 0.55]), np.array([1, 1, 0, 0, 0])
    assert ((scores > 0.5) == labels).mean() == 0.4
    assert calibrated_accuracy(scores, labels) == 1.0
    assert calibrated_accuracy(scores, np.array([1, 0, 1, 0, 0])) == pytest.approx(0.6)
    assert calibrated_accuracy(scores, np.ones(5)) == calibrated_accuracy(scores, np.zeros(5)) == 1.0


# Uncertainty


def law(weight, temperature, confident):
    """The probability of each item to be drawn first, in plain words."""
    weight = [1 - w for w in weight] if confident else list(weight)
    power = [(w / sum(weight)) ** (1 / temperature) for w in weight]
    return [p / sum(power) for p in power]


def test_entropies_and_laws_worked_numbers():
    """Entropies in bits, and the first draw at temperature 0.25 by either rule, are those worked out by hand."""
    entropy = uncertainty_sample(BINARY, budget=0).scores
    assert entropy == pytest.approx([1, 0.468996, 0.080793], abs=1e-6)
    assert law(entropy, 0.25, confident=False) == pytest.approx([0.953813, 0.046146, 0.000041], abs=1e-6)
    assert law(entropy, 0.25, confident=True) == pytest.approx([0, 0.100204, 0.899796], abs=1e-6)
    assert uncertainty_sample(BINARY, budget=0, weights="margin").scores == pytest.approx([1, 0.6, 0.51])


@pytest.mark.parametrize("confident", [False, True])
@pytest.mark.parametrize("temperature", [0.25, 1.0])
def test_draws_follow_their_law(confident, temperature):
    """Over 4,000 draws the first item is each one as often as its weight says, within four standard errors."""
    entropy = uncertainty_sample(BINARY, budget=0).scores
    rng = np.random.default_rng(0)
    count = np.zeros(3)
    for _ in range(4000):
        found = uncertainty_sample(BINARY, budget=1, temperature=temperature, most_confident=confident, seed=rng)
        count[found.indices[0]] += 1
    expected = np.array(law(entropy, temperature, confident))
    assert (np.abs(count / 4000 - expected) <= 4 * np.sqrt(expected * (1 - expected) / 4000) + 1e-9).all()


def test_temperature_zero_takes_the_top_in_random_order():
    """The two highest entropies are drawn every time, in both orders over some seeds."""
    orders = {tuple(uncertainty_sample(BINARY, budget=2, temperature=0, seed=s).indices.tolist()) for s in range(20)}
    assert orders == {(0, 1), (1, 0)}


def test_infinite_temperature_draws_evenly_and_zero_weights_come_last():
    """Without a preference every item is first equally often; sure items are drawn only once the rest is gone."""
    first = [uncertainty_sample(BINARY, budget=1, temperature=np.inf, seed=s).indices[0] for s in range(600)]
    assert np.bincount(first, minlength=3).min() > 150
    sure = np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0], [0.7, 0.3]])
    drawn = [uncertainty_sample(sure, budget=4, seed=s).indices.tolist() for s in range(30)]
    assert all(set(order[:2]) == {1, 3} for order in drawn)
    assert {order[2] for order in drawn} == {0, 2}


@given(st.integers(2, 6), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=40)
def test_weights_lie_between_zero_and_one(classes, seed):
    """However many classes there are, even ones weigh 1 and one minus a weight is a weight too."""
    probs = np.random.default_rng(seed).dirichlet(np.full(classes, 0.3), 12)
    probs[0] = 1 / classes
    for kind in ("entropy", "margin"):
        one = uncertainty_sample(probs, budget=3, weights=kind).scores
        assert ((one >= 0) & (one <= 1)).all()
        assert one[0] == pytest.approx(1)
        other = uncertainty_sample(probs, budget=3, weights=kind, most_confident=True).scores
        np.testing.assert_allclose(one + other, 1, atol=1e-12)


def test_reasons_cover_what_was_not_drawn():
    """Every row is chosen or has its reason, and log-weights say the same."""
    found = uncertainty_sample(BINARY, budget=2)
    assert sorted([*found.indices.tolist(), *found.reasons["row"].tolist()]) == [0, 1, 2]
    assert np.flatnonzero(found.log_weights == 0).tolist() == sorted(found.indices.tolist())
    assert found.reasons["score"].tolist() == found.scores[found.reasons["row"]].tolist()


# The loss


def slow_log_confidence(logits, labels, mix):
    """The loss in plain loops: the cut is where the share of positives is that of the labels."""
    shares = [math.exp(a) / (math.exp(a) + math.exp(b)) for a, b in logits]
    place = sum(labels) / len(labels) * (len(shares) - 1)
    ranked = sorted(shares)
    low = ranked[math.floor(place)]
    cut = low + (ranked[math.ceil(place)] - low) * (place - math.floor(place))
    total = 0.0
    for (a, b), share, label in zip(logits, shares, labels, strict=True):
        target = (1 - mix) * label + mix * (1.0 if share < cut else 0.0)
        total -= (1 - target) * math.log(share) + target * (b - a + math.log(share))
    return total / len(logits)


def test_without_its_own_predictions_it_is_cross_entropy():
    """At step 0, or with coefficient 0, the loss is plain cross-entropy; two equal logits cost log 2."""
    logits, labels = torch.tensor([[0.3, -1.0], [2.0, 0.5], [0.0, 0.1]]), torch.tensor([0, 1, 1])
    plain = torch.nn.functional.cross_entropy(logits, labels)
    assert log_confidence_loss(logits, labels, 0).item() == pytest.approx(plain.item())
    assert log_confidence_loss(logits, labels, 999, aux_coef=0).item() == pytest.approx(plain.item())
    assert log_confidence_loss(torch.zeros(1, 2), torch.ones(1), 0).item() == pytest.approx(0.693147, abs=1e-6)


@given(st.integers(2, 12), st.integers(0, 2**32 - 1), st.integers(0, 300))
@settings(deadline=None, max_examples=50)
def test_loss_is_the_plain_loop(n, seed, step):
    """On random logits, soft labels and steps the loss is that of plain loops."""
    rng = np.random.default_rng(seed)
    logits, labels = rng.normal(size=(n, 2)), rng.random(n)
    found = log_confidence_loss(torch.tensor(logits), torch.tensor(labels), step)
    assert found.item() == pytest.approx(
        slow_log_confidence(logits.tolist(), labels.tolist(), 0.5 * min(1, step / 200))
    )


def test_the_cut_keeps_the_share_of_positives():
    """Confident logits that all say one class are still split as the labels are, so the model cannot drift."""
    logits = torch.stack([torch.linspace(5, 9, 20), torch.zeros(20)], 1)
    labels = torch.tensor([1.0] * 5 + [0.0] * 15)
    pulled = logits.clone().requires_grad_()
    log_confidence_loss(pulled, labels, 200, aux_coef=1.0).backward()
    assert (pulled.grad[:, 1] < 0).sum() == 5  # towards class 1: the five least sure of class 0
    assert (pulled.grad[:5, 1] < 0).all()


def test_module_counts_training_steps_and_keeps_them():
    """Only calls while training count, the count is in the state, and a loaded module goes on from it."""
    loss, logits, labels = (
        LogConfidenceLoss(warmup_steps=4),
        torch.tensor([[2.0, 0.0], [0.0, 1.0]]),
        torch.tensor([1, 0]),
    )
    for _ in range(3):
        loss(logits, labels)
    other = LogConfidenceLoss(warmup_steps=4)
    other.load_state_dict(loss.state_dict())
    other.eval()
    other(logits, labels)
    assert int(other.step) == 3
    assert other(logits, labels).item() == log_confidence_loss(logits, labels, 3, warmup_steps=4).item()


# Prompts


def test_prompts_hold_k_labelled_others():
    """Each text ends its prompt, k shots with hard labels stand before it, and never the text itself."""
    shots = [f"shot {i}" for i in range(6)]
    labels = np.array([0.1, 0.5, 0.9, 0.49, 1.0, 0.0])
    texts = [*shots, "new"]
    prompts = few_shot_prompts(texts, shots, labels, k=3, names=("no", "yes"))
    word = dict(zip(shots, ["no", "yes", "yes", "no", "yes", "no"], strict=True))
    for text, prompt in zip(texts, prompts, strict=True):
        *before, last = prompt.split("\n\n")
        assert last == text
        pairs = [part.split("\n") for part in before]
        assert len({shot for shot, _ in pairs} - {text}) == 3
        assert all(word[shot] == answer for shot, answer in pairs)


def test_prompts_draw_every_shot_alike():
    """Over many texts each other shot comes first equally often, and a repeated text is left out wholly."""
    shots = ["a", "b", "c", "a"]
    prompts = few_shot_prompts(["a"] * 600, shots, [0, 1, 0, 1], k=1)
    first = np.array([prompt.split("\n")[0] for prompt in prompts])
    assert set(first) == {"b", "c"}
    assert 250 < (first == "b").sum() < 350
    assert few_shot_prompts(["t"], [], np.zeros(0, int), k=0) == ["t"]


# Stages


def problem(seed=0, n=60):
    rng = np.random.default_rng(seed)
    x = torch.tensor(rng.normal(size=(n, 3)), dtype=torch.float32)
    y = (x[:, 0] > 0).float()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = torch.nn.Linear(3, 1)

    def loss(rows):
        return torch.nn.functional.binary_cross_entropy_with_logits(model(x[rows])[:, 0], y[rows])

    return model, loss, lambda rows: -loss(rows).item(), x, y


def test_plans_follow_the_recipe():
    """A fifth but at least two rows validate; epochs and warm-up follow the size; empty stages are left out."""
    stages = [Stage("weak", np.arange(2000)), Stage("oracle", np.arange(2000, 2007)), Stage("none", np.zeros(0, int))]
    weak, oracle = SequentialSFT(stages).plans
    assert (len(weak.train), len(weak.validation), weak.epochs, weak.warmup_steps) == (1600, 400, 15, 40)
    assert (len(oracle.train), len(oracle.validation), oracle.epochs, oracle.warmup_steps) == (5, 2, 4285, 2)
    assert sorted([*weak.train.tolist(), *weak.validation.tolist()]) == list(range(2000))
    large = SequentialSFT([Stage("all", np.arange(40_000))], validation=0).plans[0]
    assert (len(large.train), large.epochs) == (40_000, 1)


def test_tiny_stages_train_once_without_validation():
    """Three rows cannot spare two: they train for one epoch and the last model is kept."""
    model, loss, score, _, _ = problem()
    run = SequentialSFT([Stage("weak", np.arange(20)), Stage("oracle", np.arange(20, 23))], max_examples=200)
    reports = run.fit(model, optimizer=lambda: torch.optim.SGD(model.parameters(), 0.1), loss=loss, score=score)
    assert [r.name for r in reports] == ["weak", "oracle"]
    assert (reports[1].steps, reports[1].scores, reports[1].best_epoch) == (1, [], 1)


def test_the_best_checkpoint_is_kept_and_a_stage_ends_early():
    """After a diverging stage the model is the one with the best validation score, not the last."""
    model, loss, score, _, _ = problem()
    run = SequentialSFT([Stage("weak", np.arange(40))], patience=3, max_examples=40 * 100)
    (report,) = run.fit(model, optimizer=lambda: torch.optim.SGD(model.parameters(), 500.0), loss=loss, score=score)
    assert score(torch.from_numpy(run.plans[0].validation)) == pytest.approx(max(report.scores[1:]))
    assert report.scores[report.best_epoch] == max(report.scores[1:])
    assert len(report.scores) - 1 == report.best_epoch + 3


def test_a_stage_may_decline():
    """Where every epoch makes the model worse, keep_start brings back what the stage began with."""
    for keep in (True, False):
        model, loss, score, _, _ = problem()
        before = model.weight.detach().clone()
        run = SequentialSFT([Stage("oracle", np.arange(20))], patience=2, keep_start=keep, max_examples=100)
        worse = lambda rows: -loss(rows)  # noqa: E731
        (report,) = run.fit(model, optimizer=lambda: torch.optim.SGD(model.parameters(), 1.0), loss=worse, score=score)
        assert torch.equal(model.weight, before) is keep
        assert report.best_epoch == (0 if keep else 1)


def test_stages_warm_up_with_fresh_optimisers():
    """Every stage asks for an optimiser of its own, and its rate rises in equal steps to the full one."""
    model, loss, _, _, _ = problem()
    rates, made = [], []

    def optimizer():
        made.append(torch.optim.SGD(model.parameters(), 0.8))
        return made[-1]

    def watched(rows):
        rates.append(made[-1].param_groups[0]["lr"])
        return loss(rows)

    stages = [Stage("weak", np.arange(32)), Stage("oracle", np.arange(32, 40))]
    run = SequentialSFT(stages, batch_size=8, validation=0, max_examples=40)
    reports = run.fit(model, optimizer=optimizer, loss=watched)
    assert len(made) == 2
    assert [r.steps for r in reports] == [4, 5]
    assert rates == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.4, 0.8, 0.8, 0.8, 0.8])


def test_every_epoch_sees_every_training_row_once():
    """Batches of an epoch are a permutation of the training rows, another one in the next; validation rows stay out."""
    model, loss, score, _, _ = problem()
    seen = []
    run = SequentialSFT([Stage("weak", np.arange(30))], batch_size=7, patience=None, max_examples=90)
    run.fit(
        model,
        optimizer=lambda: torch.optim.SGD(model.parameters(), 0.1),
        loss=lambda rows: seen.append(rows) or loss(rows),
        score=score,
    )
    train = run.plans[0].train.tolist()
    epochs = [torch.cat(seen[i : i + 4]).tolist() for i in range(0, 12, 4)]
    assert len(seen) == 12
    assert all(sorted(epoch) == train for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_runs_repeat_and_leave_global_generators_alone():
    """The same seed trains the same model."""
    weights = []
    for _ in range(2):
        model, loss, score, _, _ = problem()
        state = torch.get_rng_state()
        run = SequentialSFT([Stage("weak", np.arange(40))], max_examples=400)
        run.fit(model, optimizer=lambda m=model: torch.optim.Adam(m.parameters(), 0.1), loss=loss, score=score)
        assert torch.equal(state, torch.get_rng_state())
        weights.append(model.weight.detach())
    assert torch.equal(*weights)


STAGES = [Stage("weak", np.arange(5)), Stage("oracle", np.arange(5, 9))]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: BudgetPlan(0), "budget must be positive: got 0"),
        (lambda: BudgetPlan(1, weak_cost=-1), "weak_cost must be positive: got -1"),
        (lambda: BudgetPlan(np.inf), "budget must be finite"),
        (lambda: BudgetPlan(1).counts(1.5), "share must lie between 0 and 1: got 1.5"),
        (
            lambda: regime(BudgetPlan(8), {(80, 0): 0.5}),
            "results must hold correct labels alone within the budget of 8",
        ),
        (lambda: regime(BudgetPlan(8), {(80, 0): np.nan}), "results must not be NaN"),
        (lambda: pareto_frontier([1, 2], [1]), "scores must have one entry per row of costs: 2 rows, 1"),
        (lambda: calibrated_accuracy([0.1, 0.2], [0, 2]), "labels must be 0 or 1"),
        (lambda: uncertainty_sample(BINARY, budget=4), "budget must be a count between 0 and 3"),
        (lambda: uncertainty_sample(BINARY[0], budget=1), "probs must be two-dimensional"),
        (lambda: uncertainty_sample(2 * BINARY, budget=1), "probs must be probabilities: 3 rows .* take a softmax"),
        (lambda: uncertainty_sample(BINARY[:, :1], budget=1), "columns of probs must be at least 2: got 1"),
        (lambda: uncertainty_sample(BINARY, budget=1, temperature=-1), "temperature must be at least 0: got -1"),
        (lambda: log_confidence_loss(torch.zeros(2, 3), torch.zeros(2), 0), "logits must have 2 columns"),
        (lambda: log_confidence_loss(torch.zeros(2, 2), torch.zeros(3), 0), "labels must have one entry per row"),
        (lambda: log_confidence_loss(torch.zeros(2, 2), torch.tensor([0, 2]), 0), "labels must lie between 0 and 1"),
        (lambda: LogConfidenceLoss(aux_coef=2), "aux_coef must lie between 0 and 1: got 2"),
        (lambda: few_shot_prompts(["a"], ["a", "b"], [0, 1], k=2), "shots must hold 2 others .* there are 1 for 'a'"),
        (lambda: few_shot_prompts(["a"], ["b"], [2], k=1), "labels must each have one of the 2 names: shot 0"),
        (
            lambda: SequentialSFT([STAGES[0], Stage("more", np.array([4]))]),
            "stages must not share rows: row 4 is in weak",
        ),
        (lambda: SequentialSFT([Stage("none", np.zeros(0, int))]), "stages must hold at least one row"),
        (lambda: SequentialSFT(STAGES, validation=1), "validation must be a share from 0 to below 1"),
        (lambda: SequentialSFT(STAGES, patience=0), "patience must be at least 1"),
        (
            lambda: SequentialSFT(STAGES).fit(problem()[0], optimizer=None, loss=None),
            "score must be given where rows are",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    """What cannot be planned, drawn or trained is refused in one line that says why."""
    with pytest.raises(ValueError, match=message):
        call()


def test_a_nan_score_is_named():
    """A validation score that is not a number stops the stage with its name."""
    model, loss, _, _, _ = problem()
    run = SequentialSFT(STAGES)
    with pytest.raises(ValueError, match="score must be a number: it is NaN in the stage weak"):
        run.fit(
            model, optimizer=lambda: torch.optim.SGD(model.parameters(), 1.0), loss=loss, score=lambda rows: math.nan
        )
