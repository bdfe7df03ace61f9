"""Two views: worked numbers, plain transcriptions, what the odds must and must not do."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.two_views import Answers, PassageView, QueryView, Seen, _Logistic, best_two, nearest


def test_best_two_by_hand():
    """Key 0 holds 3, 1, 3 and key 2 holds 5 alone."""
    first, second = best_two(np.array([0, 2, 0, 0]), np.array([3.0, 5.0, 1.0, 3.0]), 3)
    assert first.tolist() == [3, -np.inf, 5]
    assert second.tolist() == [3, -np.inf, -np.inf]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.floats(-9, 9)), max_size=40))
def test_best_two_against_sorting(pairs):
    """The two numbers are the head of every key's sorted values."""
    first, second = best_two(np.array([k for k, _ in pairs], int), np.array([v for _, v in pairs], float), 6)
    for key in range(6):
        own = sorted((v for k, v in pairs if k == key), reverse=True) + [-np.inf] * 2
        assert (first[key], second[key]) == (own[0], own[1])


def test_nearest_against_a_loop():
    """The most similar known positive of the query is found, and its own score comes with it."""
    rng = np.random.default_rng(0)
    likeness = rng.random((20, 20))
    positives = [rng.choice(20, size=rng.integers(1, 5), replace=False) for _ in range(6)]
    query_scores = rng.random((6, 20)).astype(np.float32)
    answers = Answers.of(positives, lambda q, p: query_scores[q, p])
    query, passage = rng.integers(6, size=50), rng.integers(20, size=50)
    like, beside = nearest(query, passage, answers, lambda a, b: likeness[a, b])
    for q, p, x, s in zip(query, passage, like, beside, strict=True):
        best = max(positives[q], key=lambda i: likeness[i, p])
        assert (x, s) == pytest.approx((likeness[best, p], query_scores[q, best]))


def test_logistic_reaches_the_minimum_from_a_rare_class():
    """With one positive in two hundred a plain Newton step overshoots; the gradient at the answer is still zero."""
    rng = np.random.default_rng(1)
    x = np.concatenate([rng.normal(4, 0.3, (10, 3)), rng.normal(0, 1, (2000, 3))])
    target = np.repeat([1.0, 0.0], [10, 2000])
    model = _Logistic.fit_soft(x, target)
    z = np.c_[(x - x.mean(0)) / (x.std(0) + 1e-9), np.ones(len(x))]
    gradient = z.T @ (1 / (1 + np.exp(-model(x))) - target)
    gradient[:-1] += model.weights[:-1]
    assert np.abs(gradient).max() < 1e-2


def pairs(rng: np.random.Generator, queries: int, k: int):
    """Candidates of which one in five is an answer: it scores higher and is nearer to the known positive."""
    answer = rng.random((queries, k)) < 0.2
    score = rng.normal(0, 0.15, (queries, k)) + 0.4 * answer
    order = np.argsort(-score, 1)
    score, answer = np.take_along_axis(score, order, 1), np.take_along_axis(answer, order, 1)
    query = np.repeat(np.arange(queries), k)
    passage = np.arange(queries * k)
    return Seen(query, passage, score.ravel(), np.tile(np.arange(1, k + 1), queries)), answer.ravel()


def known(rng: np.random.Generator, queries: int, k: int) -> Seen:
    passage = queries * k + np.arange(queries)
    return Seen(np.arange(queries), passage, rng.normal(0.4, 0.15, queries), rng.integers(1, 6, queries))


def test_second_view_sharpens_the_first():
    """Candidates that both views like rank above those that only the query's view likes."""
    rng = np.random.default_rng(2)
    queries, k = 200, 30
    candidates, answer = pairs(rng, queries, k)
    own = known(rng, queries, k)
    size = queries * (k + 1)
    view = QueryView(candidates, own, queries, size, np.zeros(size, int))
    like = 0.3 * answer + rng.normal(0, 0.1, len(answer))
    answers = Answers(own.query, own.passage, own.score)
    odds = view.log_odds(candidates)
    second = PassageView(candidates, view.probability(odds), answers, lambda a, b: like[b], size)

    def area(values):
        ranks = np.argsort(np.argsort(values))
        return (ranks[answer].mean() - (answer.sum() - 1) / 2) / (~answer).sum()

    assert 1 - area(odds + second.log_ratios) < 0.8 * (1 - area(odds))
    again = second.log_ratio(candidates, answers)
    assert again == pytest.approx(second.log_ratios)


def test_labels_of_other_queries_never_raise_the_odds():
    """A passage that other queries own may look safer for it, never more like an answer: unknown ones have no label."""
    rng = np.random.default_rng(3)
    queries, k = 100, 20
    candidates, _ = pairs(rng, queries, k)
    own = known(rng, queries, k)
    size = queries * (k + 1)
    everywhere = np.zeros(size, int)
    everywhere[own.passage] = 5  # known positives are shared by many queries, candidates by none
    shared = QueryView(candidates, own, queries, size, everywhere)
    alone = QueryView(candidates, own, queries, size, np.zeros(size, int))
    assert shared.log_odds(candidates) == pytest.approx(alone.log_odds(candidates), abs=1e-3)
    exclusive = np.zeros(size, int)
    exclusive[own.passage] = 1
    exclusive[: len(candidates) : 4] = 1
    view = QueryView(candidates, own, queries, size, exclusive)
    free = view.log_odds(Seen(np.zeros(1, int), np.array([1]), np.array([0.3]), np.array([2])))
    owned = view.log_odds(Seen(np.zeros(1, int), np.array([4]), np.array([0.3]), np.array([2])))
    assert owned < free


def test_probability_is_that_of_elkan_and_noto():
    """At odds o of being labelled and a share c of answers labelled, the probability is o (1/c - 1)."""
    rng = np.random.default_rng(4)
    candidates, _ = pairs(rng, 50, 10)
    view = QueryView(candidates, known(rng, 50, 10), 50, 550, np.zeros(550, int))
    odds = np.array([-3.0, -5.0])
    assert view.probability(odds) == pytest.approx(np.exp(odds) * (1 / view.share_labelled - 1))


def test_too_few_known_positives():
    """One line says how many are needed."""
    rng = np.random.default_rng(5)
    candidates, _ = pairs(rng, 5, 4)
    one = Seen(np.array([0]), np.array([20]), np.array([0.4]), np.array([1]))
    with pytest.raises(ValueError, match="at least 2 known positives in the pool: got 1"):
        QueryView(candidates, one, 5, 25, np.zeros(25, int))
