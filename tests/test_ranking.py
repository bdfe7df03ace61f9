"""The metrics of ranking.py, against trec_eval (by pytrec-eval), plain loops and invariants."""

from __future__ import annotations

import math

import numpy as np
import pytest
import pytrec_eval
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis import ranking

ORACLE = {
    "nDCG": "ndcg_cut",
    "recall": "recall",
    "precision": "P",
    "MAP": "map_cut",
    "success": "success",
}


def csr(judgements):
    """CSR arrays of a list of {column: grade}, one dict per query."""
    indptr = np.cumsum([0, *(len(j) for j in judgements)])
    columns = np.array([c for j in judgements for c in j], dtype=np.int64)
    grades = np.array([g for j in judgements for g in j.values()], dtype=np.float64)
    return indptr, columns, grades


def random_run(seed, *, queries=30, documents=40, depth=25, levels=6):
    """Results with many equal scores, short rows, and judgements with negative grades and empty queries."""
    rng = np.random.default_rng(seed)
    ids = [f"{i}" for i in rng.permutation(documents)]  # string order differs from row order: "10" < "9"
    tie_key = np.argsort(np.argsort(np.array(ids, dtype=object), kind="stable"))
    indices = np.stack([rng.permutation(documents)[:depth] for _ in range(queries)])
    scores = rng.integers(levels, size=indices.shape) / levels - 0.3
    indices = np.where(rng.random(indices.shape) < 0.2, -1, indices)
    scores = np.where(indices < 0, -np.inf, scores)
    judged = [
        {int(c): int(rng.choice([-1, 0, 0, 1, 1, 2, 3])) for c in rng.permutation(documents)[: rng.integers(1, 12)]}
        for _ in range(queries)
    ]
    judged[0] = {3: 0, 4: 0}
    judged[1] = {int(c): 1 for c in range(documents)}
    return ids, np.where(indices < 0, -1, tie_key[indices]), indices, scores, judged


def by_trec_eval(ids, indices, scores, judged, measures):
    """Per query metrics of pytrec-eval; queries without an entry are left out there."""
    qrel = {f"q{i}": {ids[c]: g for c, g in j.items()} for i, j in enumerate(judged)}
    run = {
        f"q{i}": {ids[c]: float(s) for c, s in zip(row, row_scores, strict=True) if c >= 0}
        for i, (row, row_scores) in enumerate(zip(indices, scores, strict=True))
    }
    return pytrec_eval.RelevanceEvaluator(qrel, measures).evaluate(run)


@pytest.mark.parametrize("seed", range(20))
def test_every_metric_equals_trec_eval_on_runs_full_of_ties(seed):
    """Graded, negative and missing judgements, ties and short rows: all as trec_eval has it."""
    ks = (1, 3, 10, 100)
    ids, tie_keys, indices, scores, judged = random_run(seed)
    cuts = ",".join(map(str, ks))
    oracle = by_trec_eval(
        ids, indices, scores, judged, {f"{m}.{cuts}" for m in ORACLE.values()} | {"recip_rank", "map", "ndcg"}
    )
    found = ranking.evaluate(indices, scores, csr(judged), ks=ks, tie_keys=tie_keys)
    for i in range(len(indices)):
        theirs = oracle[f"q{i}"]
        for ours, name in ORACLE.items():
            for k in ks:
                assert found[f"{ours}@{k}"][i] == pytest.approx(theirs[f"{name}_{k}"], abs=1e-12), (ours, k, i)
        for k in ks:
            expected = theirs["recip_rank"] if theirs["recip_rank"] >= 1 / k else 0.0
            assert found[f"MRR@{k}"][i] == pytest.approx(expected, abs=1e-12)
        assert found["MAP@100"][i] == pytest.approx(theirs["map"], abs=1e-12)
        assert found["nDCG@100"][i] == pytest.approx(theirs["ndcg"], abs=1e-12)


@pytest.mark.parametrize("gap", [0.0, 1e-9, 1e-8, 1e-7, 1e-6])
@pytest.mark.parametrize("higher", [0, 1])
def test_near_ties_are_judged_in_float32_as_in_trec_eval(gap, higher):
    """Scores that differ in float64 only are equal, and then the later id goes first."""
    scores = np.array([[0.7, 0.7]])
    scores[0, higher] += gap
    oracle = by_trec_eval(["a", "b"], np.array([[0, 1]]), scores, [{0: 1}], {"recip_rank"})["q0"]["recip_rank"]
    found = ranking.evaluate(np.array([[0, 1]]), scores, csr([{0: 1}]), tie_keys=np.array([[0, 1]]))
    assert found["MRR@10"][0] == oracle


@pytest.mark.parametrize(("first", "second"), [("9", "10"), ("é", "z"), ("\U0001f600", "ﻮ"), ("a", "a b"), ("B", "a")])
def test_ties_go_by_the_ids_as_strings(first, second):
    """The order of Python strings is the order of trec_eval's bytes."""
    ids = [first, second]
    oracle = by_trec_eval(ids, np.array([[0, 1]]), np.full((1, 2), 0.5), [{0: 1}], {"recip_rank"})["q0"]["recip_rank"]
    places = np.array([[sorted(ids).index(i) for i in ids]])
    assert (
        ranking.evaluate(np.array([[0, 1]]), np.full((1, 2), 0.5), csr([{0: 1}]), tie_keys=places)["MRR@10"] == oracle
    )


def test_both_zeros_are_one_score():
    """-0.0 and 0.0 tie, in trec_eval and here."""
    order = ranking.rank_documents(np.array([[0.0, -0.0], [-0.0, 0.0]]), np.array([[0, 1], [0, 1]]))
    assert order.tolist() == [[1, 0], [1, 0]]


@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 12), st.integers(1, 14))
@settings(max_examples=60, deadline=None)
def test_the_order_is_that_of_a_plain_sort(seed, rows, width, depth):
    """Any depth gives the head of sorting (score, key) pairs from the highest down."""
    rng = np.random.default_rng(seed)
    scores = rng.choice([-np.inf, -1.5, -0.0, 0.0, 1e-30, 2.0, np.inf], size=(rows, width)).astype(np.float32)
    keys = np.stack([rng.permutation(2 * width)[:width] for _ in range(rows)])
    order = ranking.rank_documents(scores, keys, depth=depth)
    for i in range(rows):
        plain = sorted(range(width), key=lambda j: (float(scores[i, j]), int(keys[i, j])), reverse=True)
        assert order[i].tolist() == plain[:depth]


@pytest.mark.parametrize("depth", [1, 20, 449, 450, 451, 899, 900, 5000])
def test_blocks_and_rows_in_order_do_not_change_the_order(depth):
    """Rows in order, with few ties, with ties across every cut, and out of order are all sorted alike."""
    rng = np.random.default_rng(0)
    scores = rng.integers(50, size=(400, 900)).astype(np.float64)
    scores[::4] = rng.random((100, 900))
    scores[1::4] = rng.integers(20_000, size=(100, 900))
    scores[:300] = -np.sort(-scores[:300])
    keys = rng.permuted(np.tile(np.arange(900, dtype=np.int32), (400, 1)), axis=1)
    order = ranking.rank_documents(scores, keys, depth=depth)
    expected = np.lexsort((-keys, -scores.astype(np.float32)), axis=1)[:, :depth]
    np.testing.assert_array_equal(order, expected)


def plain_metrics(gains, judged, k):
    """nDCG, MRR, recall, precision, AP and success of one ranking, word for word."""
    dcg = sum(max(g, 0) / math.log2(1 + rank) for rank, g in enumerate(gains[:k], 1))
    best = sorted((max(g, 0) for g in judged), reverse=True)
    ideal = sum(g / math.log2(1 + rank) for rank, g in enumerate(best[:k], 1))
    relevant = sum(g > 0 for g in judged)
    ranks = [rank for rank, g in enumerate(gains[:k], 1) if g > 0]
    precisions = sum((n + 1) / rank for n, rank in enumerate(ranks))
    return (
        dcg / ideal if ideal else 0.0,
        1 / ranks[0] if ranks else 0.0,
        len(ranks) / relevant if relevant else 0.0,
        len(ranks) / k,
        precisions / relevant if relevant else 0.0,
        float(bool(ranks)),
    )


rankings = st.lists(
    st.tuples(st.sampled_from([-1.0, 0.0, 0.0, 0.5, 1.0, 2.0, 3.0]), st.booleans()), min_size=1, max_size=12
)


@given(st.lists(rankings, min_size=1, max_size=5), st.integers(1, 15))
@settings(max_examples=80, deadline=None)
def test_metrics_equal_plain_loops_and_stay_in_the_unit_interval(rows, k):
    """Every metric equals its transcription in loops and lies in [0, 1]."""
    width = max(map(len, rows))
    gains, judged = np.zeros((len(rows), width)), np.zeros((len(rows), width))
    for i, row in enumerate(rows):
        judged[i, : len(row)] = [g for g, _ in row]
        found = [g for g, seen in row if seen]
        gains[i, : len(found)] = found
    relevant = (judged > 0).sum(1)
    ours = np.stack(
        [
            ranking.ndcg(gains, judged, k),
            ranking.mrr(gains, k),
            ranking.recall(gains, relevant, k),
            ranking.precision(gains, k),
            ranking.average_precision(gains, relevant, k),
            ranking.success(gains, k),
        ],
        axis=1,
    )
    assert ours.dtype == np.float64
    expected = [plain_metrics(list(g), list(j), k) for g, j in zip(gains, judged, strict=True)]
    np.testing.assert_allclose(ours, expected, atol=1e-12)
    assert (ours >= 0).all()
    assert (ours <= 1).all()


@given(st.lists(st.integers(0, 4), min_size=1, max_size=20), st.integers(1, 25))
def test_a_perfect_ranking_scores_exactly_one(grades, k):
    """With the grades in descending order nDCG, MRR and success are 1, and recall and AP reach what k allows."""
    grades = [*grades, 1]
    gains = -np.sort(-np.array([grades], dtype=float))
    relevant = (gains > 0).sum(1)
    assert ranking.ndcg(gains, gains[:, ::-1], k) == 1.0
    assert ranking.mrr(gains, k) == ranking.success(gains, k) == 1.0
    assert ranking.recall(gains, relevant, k) == min(k, relevant[0]) / relevant[0]
    assert ranking.average_precision(gains, relevant) == pytest.approx(1.0)


@given(st.lists(st.integers(0, 3), min_size=2, max_size=12), st.integers(1, 14), st.data())
def test_moving_the_better_document_up_never_hurts(grades, k, data):
    """Swapping two places so that the higher grade comes first lowers no metric."""
    i, j = sorted(data.draw(st.lists(st.integers(0, len(grades) - 1), min_size=2, max_size=2, unique=True)))
    before = np.array([grades], dtype=float)
    after = before.copy()
    after[0, [i, j]] = max(grades[i], grades[j]), min(grades[i], grades[j])
    before[0, [i, j]] = after[0, [j, i]]
    relevant = (before > 0).sum(1)
    for metric in (
        lambda g: ranking.ndcg(g, before, k),
        lambda g: ranking.mrr(g, k),
        lambda g: ranking.recall(g, relevant, k),
        lambda g: ranking.precision(g, k),
        lambda g: ranking.average_precision(g, relevant, k),
        lambda g: ranking.success(g, k),
    ):
        assert metric(after)[0] >= metric(before)[0] - 1e-12


@pytest.mark.parametrize("seed", range(5))
def test_gains_are_looked_up_as_a_dictionary_would(seed):
    """gains_from gives the grade of the document at each rank, 0 for negative grades and strangers."""
    _, _, indices, _, judged = random_run(seed)
    expected = [[max(judged[i].get(int(c), 0), 0) for c in row] for i, row in enumerate(indices)]
    np.testing.assert_array_equal(ranking.gains_from(indices, csr(judged)), expected)


def test_ideal_gains_are_the_best_grades_in_order():
    """ideal_from sorts each query's grades, cuts at k and fills up with 0."""
    qrels = csr([{3: 1, 9: 3, 4: -1, 8: 2}, {}, {7: 2}])
    np.testing.assert_array_equal(ranking.ideal_from(qrels, 2), [[3, 2], [0, 0], [2, 0]])
    np.testing.assert_array_equal(ranking.ideal_from(qrels, 5)[0], [3, 2, 1, 0, 0])


def test_queries_without_relevant_documents_score_zero():
    """Unjudged, judged not relevant, and not answered: 0 in every metric, never NaN."""
    found = ranking.evaluate(
        np.array([[0, 1], [0, 1], [-1, -1]]),
        np.array([[0.2, 0.1], [0.2, 0.1], [-np.inf, -np.inf]]),
        csr([{}, {0: 0}, {0: 1}]),
    )
    assert len(found) == 12
    assert all((values == 0).all() for values in found.values())


def test_without_tie_keys_the_input_order_does_not_matter():
    """The row of the corpus stands for the id, so that a shuffled result scores the same."""
    rng = np.random.default_rng(0)
    _, _, indices, scores, judged = random_run(3)
    perm = rng.permuted(np.tile(np.arange(indices.shape[1]), (len(indices), 1)), axis=1)
    one = ranking.evaluate(indices, scores, csr(judged))
    two = ranking.evaluate(np.take_along_axis(indices, perm, 1), np.take_along_axis(scores, perm, 1), csr(judged))
    for name, values in one.items():
        np.testing.assert_array_equal(values, two[name])


def test_no_queries_and_no_results_are_fine():
    """Zero queries give empty metrics; zero columns give zeros."""
    assert ranking.evaluate(np.empty((0, 5), int), np.empty((0, 5)), csr([]))["nDCG@10"].shape == (0,)
    assert ranking.evaluate(np.empty((2, 0), int), np.empty((2, 0)), csr([{1: 1}, {}]))["MAP@10"].tolist() == [0, 0]


def test_inputs_are_not_written_to():
    """Read-only arrays pass through every function."""
    _, tie_keys, indices, scores, judged = random_run(1)
    arrays = [tie_keys, indices, scores, *csr(judged)]
    for array in arrays:
        array.flags.writeable = False
    ranking.evaluate(indices, scores, tuple(arrays[3:]), tie_keys=tie_keys)


def test_bad_input_is_answered_in_one_line():
    """Each message names the argument and what came."""
    two, one = np.array([[0, 1]]), csr([{0: 1}])
    scores = np.array([[0.5, 0.4]])
    with pytest.raises(ValueError, match="scores must hold no NaN"):
        ranking.evaluate(two, np.array([[0.5, np.nan]]), one)
    with pytest.raises(ValueError, match="scores must hold no NaN"):
        ranking.rank_documents(np.array([[np.nan]]), np.array([[0]]))
    with pytest.raises(ValueError, match=r"scores must have the shape of indices: \(1, 2\), got \(1, 1\)"):
        ranking.evaluate(two, np.array([[0.5]]), one)
    with pytest.raises(ValueError, match="tie_keys must have the shape of scores"):
        ranking.evaluate(two, scores, one, tie_keys=np.array([[1]]))
    with pytest.raises(ValueError, match="tie_keys must be places of ids"):
        ranking.evaluate(two, scores[:, ::-1], one, tie_keys=np.array([[-2, 0]]))
    with pytest.raises(ValueError, match=r"ks must be cutoffs of at least 1: got \(0,\)"):
        ranking.evaluate(two, scores, one, ks=(0,))
    with pytest.raises(ValueError, match="indptr of 2 entries"):
        ranking.evaluate(two, scores, csr([{0: 1}, {}]))
    with pytest.raises(ValueError, match=r"qrels must have 1 columns and grades \(indptr\[-1\]\): got 1 and 2"):
        ranking.evaluate(two, scores, (np.array([0, 1]), np.array([0]), np.ones(2)))
    with pytest.raises(ValueError, match=r"qrels must judge a document once per query: query 0 judges document 3"):
        ranking.gains_from(two, (np.array([0, 2]), np.array([3, 3]), np.ones(2)))
    with pytest.raises(
        ValueError, match=r"indices must name a document once per query: query 0 names document 1 twice"
    ):
        ranking.gains_from(np.array([[1, 1]]), csr([{1: 1}]))
    with pytest.raises(ValueError, match="grades that are numbers"):
        ranking.gains_from(two, (np.array([0, 1]), np.array([0]), np.array([np.nan])))
    with pytest.raises(ValueError, match="columns of at least 0"):
        ranking.gains_from(two, csr([{-1: 1}]))
    with pytest.raises(ValueError, match=r"ideal_gains must hold all judged grades: query 0"):
        ranking.ndcg(np.array([[2.0]]), np.array([[1.0]]), 5)
    with pytest.raises(ValueError, match=r"num_relevant must count all: query 0 has 1, its ranking 2"):
        ranking.recall(np.ones((1, 2)), np.array([1]), 5)
    with pytest.raises(ValueError, match="k must be at least 1: got 0"):
        ranking.mrr(np.ones((1, 2)), 0)
    with pytest.raises(ValueError, match="gains must be two-dimensional"):
        ranking.precision(np.ones(3), 1)
    with pytest.raises(ValueError, match="gains must hold no NaN"):
        ranking.success(np.array([[np.nan]]), 1)
