"""ONEBench: counting wins in loops, invariance to scales, intervals, and which samples and cells are chosen."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.evaluation import (
    ModelRanker,
    elo_scores,
    mean_scores,
    missing_sweep,
    next_cells,
    query_samples,
    results_table,
    to_pairwise,
)
from tamis.evaluation.onebench import pairwise
from tests.behaviour import ArrayCase

NAN = math.nan


def table(seed: int, models: int = 4, samples: int = 30, missing: float = 0.3) -> np.ndarray:
    """Results on few levels, so that some tie, of models that differ, with gaps."""
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 4, (models, samples)) + (
        rng.random((models, samples)) < np.arange(models)[:, None] / models
    )
    values = np.where(rng.random(values.shape) < missing, NAN, values.astype(float))
    values[:, :2] = np.stack([np.arange(models), -np.arange(models)], 1)  # all are connected
    return values


def make(seed: int) -> list:
    """Cases for the shared checks: wins, baselines, and the choice of cells."""
    values = table(seed)
    return [
        ArrayCase("to_pairwise", lambda s, v: to_pairwise(v), (values,), empty=lambda: to_pairwise(np.empty((0, 3)))),
        ArrayCase(
            "elo_scores", lambda s, v: elo_scores(v, seed=s), (values,), empty=lambda: elo_scores(np.empty((2, 0)))
        ),
        ArrayCase("mean_scores", lambda s, v: mean_scores(v), (values,)),
        ArrayCase("next_cells", lambda s, v: next_cells(v, 3), (values,)),
    ]


def loops(values: np.ndarray, tie: str) -> list[list[float]]:
    """Wins by their definition."""
    models, share = len(values), {"both": 1.0, "half": 0.5, "drop": 0.0}[tie]
    wins = [[0.0] * models for _ in range(models)]
    for column in values.T:
        for a, b in itertools.permutations(range(models), 2):
            if not math.isnan(column[a]) and not math.isnan(column[b]):
                wins[a][b] += 1.0 if column[a] > column[b] else share if column[a] == column[b] else 0.0
    return wins


@given(seed=st.integers(0, 2**32 - 1), tie=st.sampled_from(["both", "half", "drop"]), block=st.sampled_from([8, 2**24]))
@settings(max_examples=40, deadline=None)
def test_wins_agree_with_loops(seed, tie, block):
    """Wins should be counted within samples only, ties as asked, whatever the blocks."""
    values = table(seed)
    before, pairwise._BLOCK = pairwise._BLOCK, block
    try:
        assert to_pairwise(values, tie=tie).tolist() == loops(values, tie)
        down = np.arange(values.shape[1]) % 3 == 0
        flipped = np.where(down, -values, values)
        assert to_pairwise(flipped, tie=tie, higher_is_better=~down).tolist() == loops(values, tie)
        weights = np.random.default_rng(seed).integers(0, 3, (values.shape[1], 2))
        several = to_pairwise(values, tie=tie, weights=weights)
        for number in range(2):
            repeated = np.repeat(values, weights[:, number], axis=1)
            assert several[:, :, number].tolist() == loops(repeated, tie)
    finally:
        pairwise._BLOCK = before


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_scales_do_not_matter(seed):
    """Any increasing transform of each sample should leave strengths as they are, bit for bit."""
    values, rng = table(seed), np.random.default_rng(seed)
    plain = ModelRanker().fit(values)
    scaled = ModelRanker().fit(
        np.exp(values / 3) * rng.uniform(0.01, 100, values.shape[1]) + rng.normal(size=values.shape[1])
    )
    assert (plain.scores_ == scaled.scores_).all()
    order = rng.permutation(len(values))
    assert ModelRanker().fit(values[order]).scores_.tolist() == pytest.approx(plain.scores_[order].tolist(), abs=1e-7)
    assert (np.diff(plain.scores_[plain.ranking_]) <= 0).all()


def test_a_sample_on_which_all_tie_shrinks_strengths():
    """Added to a complete balanced table it should keep the order and bring strengths nearer to each other."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(5, 40)) + np.arange(5)[:, None]
    plain = ModelRanker().fit(values)
    tied = ModelRanker().fit(np.column_stack([values, np.ones((5, 10))]))
    assert (plain.ranking_ == tied.ranking_).all()
    assert np.ptp(tied.scores_) < np.ptp(plain.scores_)
    dropped = ModelRanker(tie="drop").fit(np.column_stack([values, np.ones((5, 10))]))
    assert (dropped.scores_ == plain.scores_).all()


def test_intervals_hold_the_truth():
    """Percentile intervals should hold true differences about as often as they say, and depend on the seed alone."""
    inside = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        truth = np.array([0.6, 0.0, -0.6])
        ranker = ModelRanker().fit(truth[:, None] + rng.gumbel(size=(3, 150)))
        low, high = ranker.confidence_interval(0.9, resamples=60, seed=1)
        inside += ((low <= truth) & (truth <= high)).tolist()
    assert 0.7 <= np.mean(inside) <= 1.0
    again = ranker.confidence_interval(0.9, resamples=60, seed=1)
    assert (low == again[0]).all()
    assert (high == again[1]).all()
    assert ranker.resample(7, seed=3).shape == (7, 3)


def test_a_draw_that_leaves_models_unconnected_is_still_ranked():
    """Few samples may be drawn so that one model never loses; that draw should count with finite strengths."""
    values = np.array([[1.0, 2, 0, 3], [0, 1, 1, 2]])
    draws = ModelRanker().fit(values).resample(50)
    assert np.isfinite(draws).all()


def test_long_tables_become_matrices():
    """Rows in any order should find their places, and a result given twice be named."""
    values, models, samples = results_table(["b", "a", "b"], [7, 7, 9], [0.5, 1.0, 2.0])
    assert (models, samples) == (["b", "a"], [7, 9])
    assert values[0].tolist() == [0.5, 2.0]
    assert math.isnan(values[1, 1])
    with pytest.raises(ValueError, match="'a' has 2 on 'x'"):
        results_table(["a", "a"], ["x", "x"], [1.0, 2.0])


def test_elo_and_means():
    """Elo should keep its mean and find a clear order; means be scaled by group, NaN where nothing is."""
    values = np.arange(4)[:, None] + np.random.default_rng(0).normal(size=(4, 600))
    ratings = elo_scores(values, seed=3)
    assert ratings.mean() == pytest.approx(1000)
    assert ratings.argsort().tolist() == [0, 1, 2, 3]
    assert elo_scores(values, seed=3).tolist() == ratings.tolist()
    assert elo_scores(values, seed=4).tolist() != ratings.tolist()
    part = np.array([[1.0, 3.0, 10.0], [3.0, NAN, 20.0], [NAN, NAN, NAN]])
    assert mean_scores(part)[:2].tolist() == [14 / 3, 11.5]
    assert mean_scores(part, groups=["a", "a", "b"])[:2].tolist() == [0.25, 1.0]
    assert math.isnan(mean_scores(part)[2])


def test_samples_of_a_capability():
    """The nearest by cosine should come first, by count, by threshold, and of the right kind only."""
    rows = np.array([[1.0, 0], [5, 5], [0, 2], [-1, 0]], dtype=np.float32)
    assert query_samples(rows, np.array([1.0, 0.1]), k=2).tolist() == [0, 1]
    assert query_samples(rows, np.array([1.0, 0.1]), threshold=0.05).tolist() == [0, 1, 2]
    assert query_samples(rows, np.array([1.0, 0.1]), k=3, where=[False, True, False, True]).tolist() == [1, 3]
    assert query_samples(rows, np.array([1.0, 0.1]), k=3, where=[False] * 4).tolist() == []


def test_cells_that_settle_the_order_come_first():
    """Only missing cells should be asked for, and a near pair be worth more than a far one."""
    rng = np.random.default_rng(0)
    values = np.array([[3.0], [0.1], [0.0]]) + rng.normal(size=(3, 80))
    values[2, 40:] = NAN
    values[0, 60:] = NAN
    models, samples = next_cells(values, 1000)
    assert sorted(zip(models.tolist(), samples.tolist(), strict=True)) == sorted(
        zip(*np.nonzero(np.isnan(values)), strict=True)
    )
    assert models[0] == 2  # against model 1, from which it is hard to tell
    assert 40 <= samples[0] < 60  # where both others ran


def test_sweep_says_what_missing_cells_cost():
    """With scales of their own for each sample, the order should survive missing cells better than means do."""
    rng = np.random.default_rng(0)
    values = (0.4 * np.arange(12)[:, None] + rng.gumbel(size=(12, 1000))) * 10 ** rng.uniform(-2, 2, 1000)
    found = missing_sweep(values, np.arange(12), missing=(0, 0.9))
    assert found["plackett_luce"][0] == 1
    assert found["plackett_luce"][1] > found["mean"][1] + 0.1
    assert missing_sweep(values, np.arange(12), missing=(0.5,), drop="samples")["plackett_luce"][0] > 0.9


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: to_pairwise([[1.0, 2.0]]), "values must be of at least 2 models"),
        (lambda: to_pairwise([[1.0, math.inf], [1, 2]]), "values must be finite or NaN"),
        (lambda: to_pairwise([[1.0, 2], [1, 2]], tie="win"), "tie must be one of"),
        (lambda: to_pairwise([[1.0, 2], [1, 2]], higher_is_better=[True]), "higher_is_better must have one entry"),
        (lambda: ModelRanker().fit([[1.0], [NAN]], models=["a", "b"]), "every model must have a result: b has none"),
        (
            lambda: ModelRanker().fit([[1.0, 2], [0, 1]], models=["a", "b"]),
            "they fall into 2 parts, and no other ever beats a; give alpha",
        ),
        (lambda: ModelRanker().resample(), "nothing is ranked yet"),
        (lambda: ModelRanker().fit(table(0)).confidence_interval(1.0), "confidence must lie between 0 and 1"),
        (lambda: mean_scores(table(0), groups=[1]), "groups must name 30 samples"),
        (lambda: elo_scores(table(0), k=0), "k must be positive"),
        (lambda: results_table([], [], []), "values must hold at least one result"),
        (lambda: results_table(["a"], [], [1.0]), "samples must have one entry per row of values"),
        (lambda: query_samples(np.eye(2), np.ones(2)), "give k, how many samples"),
        (lambda: query_samples(np.eye(2), np.ones(3), k=1), "query must be"),
        (lambda: next_cells(table(0), 0), "k must be at least 1"),
        (lambda: missing_sweep(table(0), np.arange(4), missing=[1.0]), "missing must hold shares"),
    ],
)
def test_bad_input_is_refused(call, message):
    """Each mistake should be answered in a line that names the argument."""
    with pytest.raises(ValueError, match=message):
        call()
