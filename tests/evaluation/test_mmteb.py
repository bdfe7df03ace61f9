"""MMTEB: worked numbers, literal transcriptions of regression, selection and counting, and what must not change."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.evaluation import (
    borda,
    pool_bias,
    pool_corpus,
    pool_ndcg,
    rank_agreement,
    select_tasks,
    task_predictability,
    zero_shot_percentage,
)
from tamis.evaluation.mmteb.regression import left_out
from tamis.rank_correlation import kendall, spearman
from tests.behaviour import ArrayCase

TABLE = [[0.9, 0.5, 0.7], [0.8, 0.6, 0.7], [0.7, 0.4, 0.9], [0.6, 0.6, 0.1]]


def skills(seed: int, n: int = 40, per_skill: int = 3) -> np.ndarray:
    """Scores of models on tasks of two skills, with noise."""
    rng = np.random.default_rng(seed)
    latent = np.repeat(rng.standard_normal((n, 2)), per_skill, axis=1)
    return latent + 0.3 * rng.standard_normal(latent.shape)


def task(seed: int, systems: int = 3, queries: int = 8, documents: int = 30):
    """Full rankings of several systems, the better the higher their number, and graded judgements."""
    rng = np.random.default_rng(seed)
    truth = rng.standard_normal((queries, documents))
    order = np.argsort(-truth, axis=1)
    qrels = {f"q{q}": {f"d{order[q, 0]}": 2.0, f"d{order[q, 1]}": 1.0, f"d{order[q, 9]}": 0.0} for q in range(queries)}
    runs = {}
    for s in range(systems):
        scores = truth + (systems - s) * 0.5 * rng.standard_normal(truth.shape)
        ranked = np.argsort(-scores, axis=1).tolist()
        runs[f"s{s}"] = {f"q{q}": [f"d{d}" for d in row] for q, row in enumerate(ranked)}
    return runs, qrels


def make(seed: int) -> list[ArrayCase]:
    """Everything that takes a table of scores."""
    scores = skills(seed)
    return [
        ArrayCase(
            "select_tasks",
            lambda s, x: np.array(select_tasks(x, threshold=0.7).kept),
            (scores,),
            empty=lambda: select_tasks(scores[:0]),
        ),
        ArrayCase(
            "task_predictability",
            lambda s, x: task_predictability(x, ridge=0.1).predictions,
            (scores,),
            empty=lambda: task_predictability(scores[:0]),
        ),
        ArrayCase("borda", lambda s, x: borda(x).totals, (scores,), empty=lambda: borda(scores[:0])),
        ArrayCase(
            "rank_agreement",
            lambda s, x, y: rank_agreement(x, y, samples=20, seed=s),
            (scores, scores[:, :3].copy()),
            empty=lambda: rank_agreement(scores[:0], scores[:0]),
        ),
    ]


# --- worked numbers ---------------------------------------------------------------------------------------------------


def test_borda_of_the_worked_table():
    """Points, sums and ranks of four models on three tasks, though three means are equal."""
    found = borda(TABLE)
    assert found.points.tolist() == [[3, 1, 1.5], [2, 2.5, 1.5], [1, 0, 3], [0, 2.5, 0]]
    assert found.totals.tolist() == [5.5, 6, 4, 2.5]
    assert found.ranks.tolist() == [2, 1, 3, 4]
    assert found.mean.round(6).tolist() == [0.7, 0.7, 0.666667, 0.433333]


def test_equal_totals_share_the_best_rank():
    """Two models at the top are both first, and the next is third."""
    assert borda([[1.0, 2.0], [2.0, 1.0], [0.0, 0.0]]).ranks.tolist() == [1, 1, 3]


def test_missing_scores_count_nothing_or_take_their_task_along():
    """A missing score gives no points and leaves the others theirs; dropped, its task counts for nobody."""
    table = np.array(TABLE)
    table[0, 0] = np.nan
    zero, drop = borda(table, missing="zero"), borda(table, missing="drop", tasks=["a", "b", "c"])
    assert zero.points[:, 0].tolist() == [0, 3, 2, 1]
    assert math.isnan(zero.mean[0]) and not np.isnan(zero.mean[1:]).any()
    assert drop.tasks == ["b", "c"] and drop.totals.tolist() == [2.5, 4, 3, 2.5] and drop.ranks.tolist() == [3, 1, 2, 3]
    table[:, 1] = np.nan
    assert borda(table, missing="zero").points[:, 1].tolist() == [0] * 4


def test_means_over_groups():
    """Each group weighs the same, however many tasks it has; groups go by name or in order."""
    found = borda(TABLE, tasks=["a", "b", "c"], groups={"c": "sts", "b": "retrieval", "a": "retrieval"})
    assert found.mean_of_groups == pytest.approx([0.7, 0.7, 0.725, 0.35])
    assert borda(TABLE, groups=["x", "x", "y"]).mean_of_groups.tolist() == found.mean_of_groups.tolist()
    gone = np.array(TABLE)
    gone[0, 1] = np.nan
    assert borda(gone, missing="drop", groups=["x", "x", "y"]).mean_of_groups == pytest.approx([0.8, 0.75, 0.8, 0.35])
    assert borda(TABLE).mean_of_groups.tolist() == borda(TABLE).mean.tolist()


def test_an_affine_copy_goes_first():
    """A task and its copy have Spearman 1; the first by name goes, the other stays."""
    a, b, c = np.random.default_rng(0).standard_normal((3, 30))
    scores = np.stack([c, 3 - 2 * a, b, a], 1)
    found = select_tasks(scores, tasks=["c", "z copy", "b", "a"])
    assert found.removed == ["a"] and found.kept == ["c", "z copy", "b"]
    first = found.trace[0]
    assert first.found.spearman[[1, 3]].tolist() == [1.0, 1.0] and first.value == 1.0
    assert first.found.pearson[3] == pytest.approx(1) and first.found.mse[3] == pytest.approx(0, abs=1e-20)
    assert found.trace[-1].removed is None and found.trace[-1].value < 0.8
    assert len(found.trace) == 2 and found.trace[1].found.tasks == found.kept


def test_copies_with_ties_are_copies():
    """Rounding of the regression does not break ties of the observed scores."""
    a = np.random.default_rng(1).integers(0, 4, 30).astype(float)
    scores = np.stack([a, 0.1 * a + 0.3, np.random.default_rng(2).random(30)], 1)
    assert task_predictability(scores).spearman[:2].tolist() == [1.0, 1.0]


def test_above_one_nothing_goes():
    """With a threshold above 1 all tasks stay, and with one of -1 all but the last go."""
    scores = skills(0)
    assert select_tasks(scores, threshold=1.01).removed == []
    assert len(select_tasks(scores, threshold=-1.0).kept) == 1


def test_tasks_to_keep_stay():
    """A task that is to be kept stays, however predictable; its copy goes in its place."""
    a, b = np.random.default_rng(0).standard_normal((2, 30))
    scores = np.stack([a, 2 * a, b], 1)
    assert select_tasks(scores, keep=[0]).kept == [0, 2]
    assert select_tasks(scores, keep=[0, 1]).removed == []


def test_the_last_task_of_a_group_stays():
    """Of every group one task is left, of several groups a task may be in, too."""
    scores = skills(3)
    kept = select_tasks(scores, threshold=-1.0, groups=["sts", "sts", "rr", "rr", "rr", "sts"]).kept
    assert len(kept) == 2 and len({t in (2, 3, 4) for t in kept}) == 2
    several = {0: ["sts", "sts de"], 1: ["sts", "sts en"], 2: "sts", 3: "rr", 4: ("rr", "rr en"), 5: "rr"}
    assert set(select_tasks(scores, threshold=-1.0, groups=several).kept) == {0, 1, 4}


def test_one_task_per_skill_is_left():
    """Of tasks in two skills those that repeat go."""
    kept = select_tasks(skills(0, n=60)).kept
    assert len(kept) == 2 and kept[0] < 3 <= kept[1]


def test_more_tasks_than_models_warns_and_a_penalty_helps():
    """25 models and 24 tasks of three factors: least squares finds nothing and says why; ridge finds the factors."""
    rng = np.random.default_rng(0)
    scores = np.repeat(rng.standard_normal((25, 3)), 8, axis=1) + 0.25 * rng.standard_normal((25, 24))
    with pytest.warns(UserWarning, match=r"24 tasks and only 25 models.*ridge=0.1"):
        assert select_tasks(scores).removed == []
    assert len(select_tasks(scores, ridge=0.1).kept) < 8
    with pytest.warns(UserWarning, match="24 tasks and only 25 models"):
        task_predictability(scores)
    assert select_tasks(np.vstack([scores, scores[:1] + 1]), threshold=2).removed == []  # 26 models are enough


def test_a_constant_task_is_not_predictable():
    """A task that ranks nobody has no correlation, stays, and is pointed out."""
    scores = np.column_stack([skills(0), np.full(40, 0.3)])
    with pytest.warns(UserWarning, match="1 tasks give every model one score and rank none, 6 first"):
        found = select_tasks(scores, threshold=-1.0)
    assert math.isnan(found.trace[0].found.spearman[6]) and 6 in found.kept


def test_zero_shot_percentage():
    """Rounded down, whatever else the model was trained on; all, none and a third."""
    assert zero_shot_percentage(["a", "x", "a"], ["a", "b", "c"]) == 66
    assert zero_shot_percentage([], ["a"]) == 100 and zero_shot_percentage(["a"], ["a"]) == 0
    assert zero_shot_percentage([f"t{i}" for i in range(29)], [f"t{i}" for i in range(41)]) == 29


# --- transcriptions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "d"), [(12, 4), (30, 3), (9, 9), (9, 8), (9, 7), (9, 20), (5, 1), (6, 0), (2, 2)])
def test_leaving_out_equals_fitting_anew(n, d):
    """The closed form gives the predictions of one shortest least-squares fit per left-out row, of any shape."""
    rng = np.random.default_rng(n * 100 + d)
    rows, targets = rng.standard_normal((n, d)), rng.standard_normal(n)
    assert left_out(rows, targets) == pytest.approx(refitted(rows, targets), abs=1e-7)


def refitted(rows, targets):
    """Centre, fit, predict, for one row after the other."""
    found = []
    for i in range(len(rows)):
        x, y = np.delete(rows, i, 0), np.delete(targets, i)
        slopes = np.linalg.pinv(x - x.mean(0)) @ (y - y.mean()) if x.shape[1] else np.zeros(0)
        found.append(y.mean() + (rows[i] - x.mean(0)) @ slopes)
    return np.array(found)


def test_leaving_out_with_dependent_columns_and_lone_rows():
    """Copies of columns, and a row that alone moves a column, are predicted as a fit on the others predicts them."""
    rng = np.random.default_rng(5)
    rows, targets = rng.standard_normal((12, 3)), rng.standard_normal(12)
    copied = np.column_stack([rows, 2 * rows[:, 0] - 1, rows[:, 1] + rows[:, 2]])
    assert left_out(copied, targets) == pytest.approx(refitted(copied, targets), abs=1e-9)
    lone = np.column_stack([rows, np.arange(12) == 4])
    assert left_out(lone, targets) == pytest.approx(refitted(lone, targets), abs=1e-9)
    assert left_out(np.ones((4, 2)), np.array([0.0, 1, 2, 3])) == pytest.approx([2, 5 / 3, 4 / 3, 1])


def test_equals_scikit_learn():
    """Linear regression and ridge are those of scikit-learn, given as an estimator."""
    linear = pytest.importorskip("sklearn.linear_model")
    scores = skills(4)
    one = task_predictability(scores)
    other = task_predictability(scores, estimator=linear.LinearRegression())
    assert one.predictions == pytest.approx(other.predictions, abs=1e-9)
    assert one.spearman.tolist() == other.spearman.tolist() and one.mse == pytest.approx(other.mse)
    assert select_tasks(scores).removed == select_tasks(scores, estimator=linear.LinearRegression()).removed
    rows, targets = scores[:, 1:], scores[:, 0]
    penalty = 0.3 * ((rows - rows.mean(0)) ** 2).sum() / rows.shape[1]
    model = linear.Ridge(alpha=penalty)
    expected = [model.fit(np.delete(rows, i, 0), np.delete(targets, i)).predict(rows[[i]])[0] for i in range(len(rows))]
    assert left_out(rows, targets, 0.3) == pytest.approx(expected, abs=1e-9)


def test_the_estimator_is_not_touched():
    """The estimator that was given is never fitted itself, and is asked for one model at a time."""

    class Mean:
        fitted = 0

        def fit(self, X, y):
            self.fitted += 1
            self.mean = y.mean()

        def predict(self, X):
            assert X.shape == (1, 2)
            return np.full((1, 1), self.mean)

    mean = Mean()
    found = task_predictability(np.random.default_rng(0).random((6, 3)), estimator=mean)
    assert mean.fitted == 0 and found.spearman.tolist() == [-1.0] * 3


def literal_selection(scores, threshold):
    """Remove the most predictable task as long as it is predictable; all by loops."""
    left = list(range(scores.shape[1]))
    while len(left) > 1:
        best = (-2.0, -1)
        for t in left:
            others = [u for u in left if u != t]
            value = spearman(scores[:, t], refitted(scores[:, others], scores[:, t]))
            best = max(best, (value, t))
        if best[0] < threshold:
            break
        left.remove(best[1])
    return left


@pytest.mark.parametrize("seed", range(5))
def test_selection_equals_the_loops(seed):
    """The same tasks stay as where everything is fitted anew."""
    scores = skills(seed, n=20)
    assert select_tasks(scores).kept == literal_selection(scores, 0.8)
    assert select_tasks(scores, threshold=0.9).kept == literal_selection(scores, 0.9)


def literal_borda(scores):
    """Models beaten, plus half of those tied with, pair by pair."""
    n, t = scores.shape
    return [
        [sum((scores[i, k] > scores[j, k]) + 0.5 * (scores[i, k] == scores[j, k]) for j in range(n) if j != i)
         for k in range(t)]
        for i in range(n)
    ]  # fmt: skip


scores_of_any = st.integers(2, 6).flatmap(
    lambda n: st.lists(st.lists(st.integers(0, 4), min_size=n, max_size=n), min_size=1, max_size=5)
)


@settings(max_examples=50, deadline=None)
@given(scores_of_any)
def test_borda_counts_pairs_and_sees_only_order(columns):
    """Points are pairs won; a task shares out n (n - 1) / 2; a rising transform of one task changes nothing."""
    scores = np.array(columns, dtype=float).T
    found = borda(scores)
    n = len(scores)
    assert found.points.tolist() == literal_borda(scores)
    assert (found.points.sum(0) == n * (n - 1) / 2).all()
    moved = scores.copy()
    moved[:, 0] = np.exp(moved[:, 0]) - 7
    assert borda(moved).totals.tolist() == found.totals.tolist()


# --- the pool ---------------------------------------------------------------------------------------------------------


def literal_pool(runs, qrels, depth):
    """Documents by sets."""
    found = {d for entry in qrels.values() for d, g in entry.items() if g > 0}
    for run in runs.values():
        for query in qrels:
            found |= set(run[query][:depth])
    return found


def literal_ndcg(run, qrels, documents):
    """nDCG@10 by the formula."""
    scores = []
    for query, entry in qrels.items():
        left = [d for d in run[query] if d in documents][:10]
        ideal = sorted((g for g in entry.values() if g > 0), reverse=True)
        gain = sum(entry.get(d, 0) / math.log2(r + 2) for r, d in enumerate(left))
        scores.append(gain / sum(g / math.log2(r + 2) for r, g in enumerate(ideal)))
    return scores


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 12))
def test_the_pool_equals_the_sets_and_lowers_no_score(seed, depth):
    """Relevant and highly ranked documents, no others; removing the rest never lowers nDCG@10."""
    runs, qrels = task(seed)
    pool = pool_corpus(runs, qrels, depth=depth)
    assert set(pool.documents) == literal_pool(runs, qrels, depth)
    full, small = pool_ndcg(runs, qrels), pool_ndcg(runs, qrels, pool.documents)
    for name, run in runs.items():
        assert small[name] == pytest.approx(literal_ndcg(run, qrels, set(pool.documents)))
        assert (small[name] >= full[name] - 1e-12).all()


def test_where_documents_come_from():
    """Relevant first; each names the systems that rank it and its best rank."""
    runs = {"one": {"q": ["a", "b", "c"]}, "two": {"q": ["b", "e", "a"]}}
    pool = pool_corpus(runs, {"q": {"e": 1, "c": 2, "a": 0}}, depth=2)
    assert pool.documents == ["e", "c", "a", "b"] and pool.systems == ["one", "two"]
    assert pool.relevant.tolist() == [True, True, False, False]
    assert pool.contributed.tolist() == [[False, True], [False, False], [True, False], [True, True]]
    assert pool.best_rank.tolist() == [2, 0, 1, 1]
    assert pool.without("one") == ["e", "c", "b"] and pool.without("two") == ["e", "c", "a", "b"]


def test_a_pool_as_deep_as_the_corpus_is_the_corpus():
    """Then every score is that of the full corpus."""
    runs, qrels = task(0)
    pool = pool_corpus(runs, qrels, depth=30)
    assert len(pool.documents) == 30
    full, small = pool_ndcg(runs, qrels), pool_ndcg(runs, qrels, pool.documents)
    assert all(full[name].tolist() == small[name].tolist() for name in runs)
    assert pool_bias(runs, qrels, pool).bias.tolist() == [0.0] * 3


def test_queries_are_drawn_by_the_seed():
    """At most so many, in their order, and of these alone the relevant documents stay."""
    runs, qrels = task(0, queries=20)
    qrels["nothing"] = {"d0": 0}
    pool = pool_corpus(runs, qrels, depth=1, max_queries=5, seed=1)
    assert len(pool.queries) == 5 and pool.queries == [q for q in qrels if q in pool.queries]
    assert pool.queries == pool_corpus(runs, qrels, depth=1, max_queries=5, seed=1).queries
    assert pool.queries != pool_corpus(runs, qrels, depth=1, max_queries=5, seed=2).queries
    assert pool.relevant.sum() == len({d for q in pool.queries for d, g in qrels[q].items() if g > 0})
    assert pool_corpus(runs, qrels, max_queries=None).queries == [q for q in qrels if q != "nothing"]


def test_the_bias_is_that_of_leaving_out():
    """Inside and outside are scores on the pool with and without a system's own documents; short runs are counted."""
    runs, qrels = task(2)
    pool = pool_corpus(runs, qrels, depth=6)
    found = pool_bias(runs, qrels, pool)
    for place, name in enumerate(runs):
        inside = np.mean(literal_ndcg(runs[name], qrels, set(pool.documents)))
        outside = np.mean(literal_ndcg(runs[name], qrels, set(pool.without(name))))
        assert found.inside[place] == pytest.approx(inside) and found.outside[place] == pytest.approx(outside)
        assert found.bias[place] == pytest.approx(outside - inside)
    assert (found.bias >= 0).all() and found.bias.max() > 0 and found.short.tolist() == [0, 0, 0]
    cut = {name: {q: row[:10] for q, row in run.items()} for name, run in runs.items()}
    assert (pool_bias(cut, qrels, pool).short > 0).all()


# --- agreement --------------------------------------------------------------------------------------------------------


def test_agreement_is_that_of_the_tools():
    """Correlations and differences of the means, systems in any order where they have names."""
    rng = np.random.default_rng(0)
    full, small = rng.random((6, 40)), rng.random((6, 25))
    found = rank_agreement(full, small, samples=200)
    one, other = full.mean(1), small.mean(1)
    assert found.spearman == spearman(one, other) and found.kendall == kendall(one, other)
    assert found.max_abs_diff == np.abs(one - other).max() and found.mean_abs_diff == np.abs(one - other).mean()
    assert found.spearman_interval[0] <= found.spearman <= found.spearman_interval[1]
    names = "abcdef"
    by_name = rank_agreement(
        dict(zip(names, full, strict=True)), dict(zip(names[::-1], small[::-1], strict=True)), samples=200
    )
    assert by_name == found
    assert rank_agreement(one, other, samples=50, seed=1) == rank_agreement(one, other, samples=50, seed=1)


def test_paired_queries_are_resampled_together():
    """A task against itself agrees in every resample; unpaired queries do not."""
    full = np.random.default_rng(0).random((8, 50))
    same = rank_agreement(full, full, samples=100)
    assert same.spearman_interval == (1.0, 1.0) and same.max_abs_diff == 0 and same.defined == 1
    assert rank_agreement(full, full[:, :49], samples=100).spearman_interval[0] < 1


def test_systems_are_resampled_where_there_are_no_queries():
    """Then resamples of one system alone have no order, and are counted."""
    found = rank_agreement([0.1, 0.2], [0.3, 0.4], samples=400)
    assert found.spearman_interval == (1.0, 1.0) and 0.4 < found.defined < 0.6
    assert math.isnan(rank_agreement([0.1, 0.1], [0.3, 0.4], samples=9).spearman_interval[0])


def test_data_frames():
    """pandas gives names of models and tasks, and systems are matched by them."""
    pandas = pytest.importorskip("pandas")
    scores = skills(0)
    frame = pandas.DataFrame(scores, index=[f"m{i}" for i in range(40)], columns=list("abcdef"))
    assert select_tasks(frame).kept == ["abcdef"[t] for t in select_tasks(scores).kept]
    assert borda(frame).models[:2] == ["m0", "m1"] and borda(frame).tasks == list("abcdef")
    assert borda(frame).totals.tolist() == borda(scores).totals.tolist()
    found = rank_agreement(frame.mean(axis=1), frame[["a", "d"]].mean(axis=1).iloc[::-1], samples=10)
    assert found.spearman == spearman(scores.mean(1), scores[:, [0, 3]].mean(1))


# --- mistakes ---------------------------------------------------------------------------------------------------------

NAN = [[0.1, 0.2], [np.nan, 0.3], [0.2, 0.1]]
RUNS, QRELS = {"a": {"q": ["x", "y"]}}, {"q": {"x": 1}}


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: borda(NAN), r"scores must be there: model 1 has none on task 0; say missing='zero' or"),
        (lambda: borda([[np.nan], [0.1]], missing="drop"), "leaves no task"),
        (lambda: borda(TABLE, missing="mean"), "missing must be one of None, 'zero', 'drop': got 'mean'"),
        (lambda: borda([[0.1, np.inf], [0.1, 0.2]]), "must not be infinite"),
        (lambda: borda([[0.1, 0.2]]), "at least two models"),
        (lambda: borda(np.zeros((2, 0))), "at least one task"),
        (lambda: borda([["a"], ["b"]]), "scores must be numbers"),
        (lambda: borda(TABLE, groups=["a"]), "one entry per task: 3 tasks, 1 groups"),
        (lambda: borda(TABLE, groups={0: "a", 1: "a"}), "name every task: 2 has none"),
        (lambda: borda(TABLE, models=["a"]), "models must name each row of scores: 4 rows, 1 names"),
        (lambda: borda(TABLE, tasks=["a", "b", "a"]), "distinct names: 'a' stands twice"),
        (lambda: select_tasks(NAN), "scores must be finite: model 1 has nan on task 0"),
        (lambda: select_tasks([[0.1, 0.2]]), "at least two models"),
        (lambda: select_tasks(skills(0), keep=["x"]), "keep must name tasks of scores: 'x' is none"),
        (lambda: select_tasks(skills(0), groups=dict.fromkeys(range(7), "a")), "6 is none of them"),
        (lambda: select_tasks(skills(0), metric="mse"), "metric must be one of 'spearman', 'pearson'"),
        (lambda: select_tasks(skills(0), threshold=float("nan")), "threshold must be a number"),
        (lambda: select_tasks(skills(0), ridge=-1), "ridge must be at least 0"),
        (lambda: select_tasks(skills(0), estimator=object(), ridge=1), "ridge is asked only of the built-in"),
        (lambda: task_predictability(skills(0)[:, :1]), "at least two tasks"),
        (lambda: rank_agreement([0.1], [0.2]), "the number of systems must be at least 2"),
        (lambda: rank_agreement([0.1, 0.2], [0.2]), "small must have one entry per row of full"),
        (lambda: rank_agreement({"a": 1, "b": 2}, {"a": 1, "c": 2}), "small must hold the systems of full"),
        (lambda: rank_agreement([0.1, np.nan], [0.2, 0.1]), "full must be finite"),
        (lambda: rank_agreement([[0.1, 0.2], [0.3]], [0.2, 0.1]), "full must be numbers, equally many"),
        (lambda: rank_agreement([0.1, 0.2], [0.2, 0.1], confidence=1), "confidence must lie between"),
        (lambda: zero_shot_percentage(["a"], []), "tasks must name at least one task"),
        (lambda: pool_corpus({}, QRELS), "runs must hold at least one system"),
        (lambda: pool_corpus(RUNS, {"q": {"x": 0}}), "none of 1 has one"),
        (lambda: pool_corpus(RUNS, [("q", "x")]), "qrels must map queries"),
        (lambda: pool_corpus({"a": {"p": ["x"]}}, QRELS), "'a' names none of them"),
        (lambda: pool_corpus({"a": {"q": ["x", "x"]}}, QRELS), "'a' ranks one twice for query number 0"),
        (lambda: pool_corpus(RUNS, QRELS, depth=0), "depth must be at least 1"),
        (lambda: pool_corpus(RUNS, QRELS, max_queries=0), "max_queries must be at least 1"),
        (lambda: pool_ndcg({}, QRELS), "runs must hold at least one system"),
        (lambda: pool_bias({"b": RUNS["a"]}, QRELS, pool_corpus(RUNS, QRELS)), "'a' is missing"),
        (lambda: pool_bias(RUNS, {"p": ["x"]}, pool_corpus(RUNS, QRELS)), "judge the queries of the pool: 'q'"),
        (lambda: pool_corpus(RUNS, QRELS).without("b"), "system must be one of 'a'"),
    ],
)
def test_mistakes_are_named(call, says):
    """Every mistake is a ValueError of one line that says what is wrong."""
    with pytest.raises(ValueError, match=says) as error:
        call()
    assert "\n" not in str(error.value)


def test_an_estimator_must_predict_one_number():
    """Two numbers for one model, or none that is finite, are refused."""

    class Bad:
        def fit(self, X, y):
            pass

        def predict(self, X):
            return [1.0, 2.0]

    with pytest.raises(ValueError, match="one finite number per row"):
        task_predictability(skills(0), estimator=Bad())


def test_equal_values_go_by_name():
    """Of three copies the first two names go, whatever the order of the columns."""
    a, b = np.random.default_rng(0).standard_normal((2, 20))
    for order in itertools.permutations(["x", "y", "z"]):
        table = np.stack([a, 2 * a, 3 * a, b], 1)
        assert select_tasks(table, tasks=[*order, "b"]).removed == ["x", "y"]
