"""CoRNStack: the worked numbers, transcriptions in loops, and what must hold for every input."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.negatives.cornstack import (
    ConsistencyFilter,
    CurriculumNegatives,
    consistency_filter,
    consistency_ranks,
    curriculum_log_weights,
    guarded_candidates,
    parse_listwise,
    sliding_window_rerank,
    text_quality_reasons,
)
from tests.behaviour import ArrayCase

SCORES = np.array(
    [[0.8, 0.75, 0.2, 0.1], [0.7, 0.72, 0.9, 0.3], [0.1, 0.2, 0.65, 0.6], [0.3, 0.2, 0.5, 0.45]], dtype=np.float32
)


def unit(rng, n, d, dtype=np.float32):
    rows = rng.normal(size=(n, d))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(dtype)


def pairs(seed, n=40, d=8, noise=0.7):
    """Queries, and positives that resemble them more or less."""
    rng = np.random.default_rng(seed)
    queries = unit(rng, n, d)
    positives = queries + noise * rng.normal(size=queries.shape) * rng.random((n, 1))
    return queries, (positives / np.linalg.norm(positives, axis=1, keepdims=True)).astype(np.float32)


def make(seed: int) -> list[ArrayCase]:
    """Cases for the shared checks: the filter, the ranks, the guard with refill, and the curriculum."""
    queries, positives = pairs(seed)
    scores = queries @ positives.T
    found = np.argsort(-scores, axis=1)[:, :5]
    top, own = np.take_along_axis(scores, found, 1), np.diag(scores).copy()
    return [
        ArrayCase(
            "filter",
            lambda seed, q, p: consistency_filter(q, p, min_score=0.5, bidirectional=True),
            (queries, positives),
            lambda: consistency_filter(queries[:0], positives[:0]),
        ),
        ArrayCase(
            "ranks",
            lambda seed, q, p: consistency_ranks(q, p),
            (queries, positives),
            lambda: consistency_ranks(queries[:0], positives[:0]),
            torch_too=True,
        ),
        ArrayCase(
            "guard",
            lambda seed, s, p, i: guarded_candidates(s, p, indices=i, top_k=6, corpus_size=40, seed=seed),
            (top, own, found),
            lambda: guarded_candidates(top[:0], own[:0]),
        ),
        ArrayCase(
            "curriculum",
            lambda seed, s: CurriculumNegatives(s, n=3, seed=seed).sample(np.arange(len(s)), 0.3),
            (top,),
            lambda: CurriculumNegatives(top[:0]),
        ),
        ArrayCase("log-weights", lambda seed, s: curriculum_log_weights(s, 0.05), (scores,)),
    ]


# Consistency


def test_ranks_and_keep_of_the_worked_matrix():
    """Ranks 1, 2, 1, 2; k = 2 and 0.7 keep the first two, k = 1 the first alone."""
    found = consistency_filter(SCORES, np.eye(4, dtype=np.float32), similarity="dot")
    assert consistency_ranks(SCORES, np.eye(4, dtype=np.float32), similarity="dot")[0].tolist() == [1, 2, 1, 2]
    assert found.indices.tolist() == [0, 1]
    np.testing.assert_array_equal(found.scores, np.diag(SCORES))
    assert found.log_weights.tolist() == [0, 0, -np.inf, -np.inf]
    assert found.reasons["rule"].tolist() == ["score", "score"]
    assert found.reasons["row"].tolist() == [2, 3]
    one = consistency_filter(SCORES, np.eye(4, dtype=np.float32), k=1, similarity="dot")
    assert one.indices.tolist() == [0]
    assert one.reasons["rule"].tolist() == ["rank", "score", "rank"]
    assert one.reasons["rival"].tolist() == [2, 3, 2]
    assert one.reasons["rank"].tolist() == [2, 1, 2]
    np.testing.assert_array_equal(one.reasons["rival_score"], np.float32([0.9, 0.6, 0.5]))


def loop_ranks(scores):
    return [1 + sum(scores[i][j] > scores[i][i] for j in range(len(scores))) for i in range(len(scores))]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("shard_size", [None, 7, 40, 100])
def test_the_filter_equals_plain_loops(seed, shard_size):
    """Ranks, rivals, rules and evidence of every pair, one shard after the other, in both directions."""
    queries, positives = pairs(seed, noise=1.2)
    k, low, size = 2, 0.75, shard_size or 40
    rules, rivals, pools = [], [], []
    for i in range(40):
        shard = range(i // size * size, min(i // size * size + size, 40))
        own = float(queries[i] @ positives[i])
        forward = {j: float(queries[i] @ positives[j]) for j in shard}
        backward = {j: float(queries[j] @ positives[i]) for j in shard}
        rank, back = (1 + sum(s > own + 1e-7 for j, s in d.items() if j != i) for d in (forward, backward))
        rules.append("rank" if rank > k else "reverse rank" if back > k else "score" if own < low else "")
        from_side = backward if rules[-1] == "reverse rank" else forward
        rivals.append(max((j for j in shard if j != i), key=from_side.get, default=-1))
        pools.append(len(shard))
    found = consistency_filter(queries, positives, k=k, min_score=low, bidirectional=True, shard_size=shard_size)
    dropped = [i for i in range(40) if rules[i]]
    assert {"rank", "reverse rank", "score", ""} == set(rules) or shard_size == 7
    assert found.indices.tolist() == [i for i in range(40) if not rules[i]]
    assert found.reasons["row"].tolist() == dropped
    assert found.reasons["rule"].tolist() == [rules[i] for i in dropped]
    assert found.reasons["rival"].tolist() == [rivals[i] for i in dropped]
    assert found.reasons["pool"].tolist() == [pools[i] for i in dropped]


@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.sampled_from([4_000, 20_000, 100_000]))
@settings(max_examples=25, deadline=None)
def test_ranks_do_not_depend_on_the_blocks(seed, n, memory):
    """Any memory bound gives the ranks that counting in float64 gives, up to scores equal within rounding."""
    rng = np.random.default_rng(seed)
    queries, positives = unit(rng, n, 5), unit(rng, n, 5)
    positives[rng.integers(n, size=n // 3)] = positives[0]
    ranks, scores, rivals, rival_scores = consistency_ranks(queries, positives, max_memory=memory)
    exact = queries.astype(np.float64) @ positives.T.astype(np.float64)
    gap = exact - np.diag(exact)[:, None]
    np.testing.assert_allclose(scores, np.diag(exact), atol=1e-6)
    assert (ranks >= 1 + (gap > 1e-6).sum(1)).all()
    assert (ranks <= 1 + (gap > -1e-6).sum(1) - 1).all()
    np.fill_diagonal(exact, -np.inf)
    np.testing.assert_allclose(rival_scores, exact.max(1), atol=1e-6)
    assert (rivals != np.arange(n)).all()


@pytest.mark.parametrize("d", [3, 17, 384])
def test_copies_of_the_positive_tie_with_it_exactly(d):
    """A passage that stands in the corpus a hundred times does not push itself down, in any block."""
    rng = np.random.default_rng(d)
    queries, positives = unit(rng, 103, d), np.tile(unit(rng, 1, d), (103, 1))
    for memory in (50_000, 200_000, 2**28):
        assert (consistency_ranks(queries, positives, max_memory=memory)[0] == 1).all()


def test_tensors_come_back_as_tensors():
    """Ranks of tensors are tensors of the right kinds, equal to those of arrays, and carry no gradient."""
    queries, positives = pairs(0)
    arrays = consistency_ranks(queries, positives)
    tensors = consistency_ranks(torch.tensor(queries, requires_grad=True), torch.tensor(positives))
    assert [t.dtype for t in tensors] == [torch.int64, torch.float32, torch.int64, torch.float32]
    for ours, theirs in zip(arrays, tensors, strict=True):
        assert not theirs.requires_grad
        np.testing.assert_array_equal(ours, theirs.numpy())


def test_one_way_rank_lets_generic_passages_through_and_both_ways_do_not():
    """A passage that is near everything is the nearest of its query, but its query is not its nearest."""
    queries = np.eye(3, dtype=np.float32)
    generic = np.full(3, 3**-0.5, dtype=np.float32)
    positives = np.stack([generic, queries[1], queries[2]])
    queries = np.stack([generic * np.float32(0.8) + np.float32([0.35, -0.35, 0]), queries[1], queries[2]])
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    queries[1:] = generic
    one_way = consistency_filter(queries, positives, k=1, min_score=0.5)
    both = consistency_filter(queries, positives, k=1, min_score=0.5, bidirectional=True)
    assert 0 in one_way.indices.tolist()
    assert 0 not in both.indices.tolist()
    assert "reverse rank" in both.reasons["rule"].tolist()


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.2, 0.5, 1.0]))
@settings(max_examples=20, deadline=None)
def test_a_quantile_drops_that_share_by_score(seed, share):
    """With a rank that all pass, "quantile:s" keeps the scores at or above that quantile."""
    queries, positives = pairs(seed)
    found = consistency_filter(queries, positives, k=40, min_score=f"quantile:{share}")
    assert found.indices.tolist() == np.flatnonzero(found.scores >= np.quantile(found.scores, share)).tolist()


@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.floats(0, 1))
@settings(max_examples=10, deadline=None)
def test_a_stricter_filter_keeps_no_more(seed, k, low):
    """Lowering k or raising the score only takes pairs away, and both directions keep no more than one."""
    queries, positives = pairs(seed)
    kept = set(consistency_filter(queries, positives, k=k + 1, min_score=low).indices.tolist())
    assert kept >= set(consistency_filter(queries, positives, k=k, min_score=low).indices.tolist())
    assert kept >= set(consistency_filter(queries, positives, k=k + 1, min_score=low + 0.1).indices.tolist())
    both = consistency_filter(queries, positives, k=k + 1, min_score=low, bidirectional=True)
    assert kept >= set(both.indices.tolist())


def test_the_held_settings_give_mask_ranks_and_scores():
    """ConsistencyFilter is consistency_filter with its settings."""
    queries, positives = pairs(3)
    mask, ranks, scores = ConsistencyFilter(k=1, min_score=0.5, bidirectional=True).fit_transform(queries, positives)
    found = consistency_filter(queries, positives, k=1, min_score=0.5, bidirectional=True)
    assert np.flatnonzero(mask).tolist() == found.indices.tolist()
    np.testing.assert_array_equal(ranks, consistency_ranks(queries, positives)[0])
    np.testing.assert_array_equal(scores, found.scores)


def test_bad_pairs_are_answered_in_one_line():
    """Length, NaN, rows that are not of unit length, and settings out of range."""
    eye = np.eye(3, dtype=np.float32)
    with pytest.raises(ValueError, match="positives must have one entry per row of queries: 3 rows, 2 positives"):
        consistency_filter(eye, eye[:2])
    with pytest.raises(ValueError, match="queries must be finite: 1 rows hold NaN or infinity, the first is row 1"):
        consistency_filter(np.where([[0], [1], [0]], np.float32("nan"), eye), eye)
    with pytest.raises(ValueError, match=r"positives must have rows of unit length: row 0 has length 2; .*dot"):
        consistency_filter(eye, 2 * eye)
    with pytest.raises(ValueError, match="queries must have at least one row"):
        consistency_filter(eye[:0], eye[:0])
    with pytest.raises(ValueError, match="k must be at least 1: got 0"):
        consistency_filter(eye, eye, k=0)
    with pytest.raises(ValueError, match='min_score must be a number or "quantile:" with a share'):
        consistency_filter(eye, eye, min_score="quantil:0.2")
    with pytest.raises(ValueError, match="min_score must be finite: got nan"):
        consistency_filter(eye, eye, min_score=math.nan)
    with pytest.raises(ValueError, match="shard_size must be at least 1: got 0"):
        consistency_filter(eye, eye, shard_size=0)
    with pytest.raises(ValueError, match="similarity must be one of 'cosine', 'dot': got 'l2'"):
        consistency_filter(eye, eye, similarity="l2")
    with pytest.raises(TypeError, match=r"queries must be float32, float16 or bfloat16: got"):
        consistency_filter(eye.astype(np.float64), eye)


# Guard


def test_the_guard_of_the_worked_numbers():
    """With a positive at 0.8 and 0.95 of it, 0.77 is dropped and 0.75 stays; 0.76 itself is dropped."""
    found = guarded_candidates(np.array([[0.77, 0.76, 0.75]]), np.array([0.8]), positives=np.array([9]))
    assert found.log_weights.tolist() == [[-np.inf, -np.inf, 0]]
    assert found.indices.tolist() == [[2, -1, -1]]
    assert found.reasons["rule"].tolist() == ["guard", "guard"]
    assert found.reasons["rival"].tolist() == [9, 9]
    np.testing.assert_array_equal(found.reasons["rival_score"], [0.8, 0.8])


@pytest.mark.parametrize("seed", range(5))
def test_the_guard_equals_plain_loops(seed):
    """Positives first, then their copies, then close scores; the best of the rest in order."""
    rng = np.random.default_rng(seed)
    scores = rng.integers(-5, 10, size=(12, 30)) / 10
    groups = rng.integers(20, size=30)
    own = rng.integers(-5, 10, size=12) / 10
    positives = rng.integers(30, size=12)
    found = guarded_candidates(
        scores, own, positives=positives, text_groups=groups, relative=0.9, absolute=0.05, top_k=4
    )
    reasons = dict(
        zip(zip(found.reasons["row"], found.reasons["candidate"], strict=True), found.reasons["rule"], strict=True)
    )
    for i in range(12):
        kept = []
        for j in range(30):
            ceiling = np.float32(min(own[i] - 0.1 * abs(own[i]), own[i] - 0.05))
            if j == positives[i]:
                rule = "positive"
            elif groups[j] == groups[positives[i]]:
                rule = "same text"
            else:
                rule = "guard" if np.float32(scores[i, j]) >= ceiling else None
            assert reasons.get((i, j)) == rule
            assert found.log_weights[i, j] == (0 if rule is None else -np.inf)
            if rule is None:
                kept.append(j)
        kept = sorted(kept, key=lambda j: -scores[i, j])[:4]
        assert found.indices[i].tolist() == kept + [-1] * (4 - len(kept))
        assert found.scores[i].tolist() == [scores[i, j] for j in kept] + [-np.inf] * (4 - len(kept))
    assert not found.filled.any()


@given(st.integers(0, 2**32 - 1), st.integers(1, 8), st.integers(8, 60))
@settings(max_examples=40, deadline=None)
def test_a_refill_never_brings_back_what_was_ruled_out(seed, top_k, size):
    """Neither positives, nor their copies, nor candidates seen before; each once and flagged; full if it can be."""
    rng = np.random.default_rng(seed)
    n, m = 6, 5
    indices = np.stack([rng.permutation(size)[:m] for _ in range(n)])
    indices[rng.random((n, m)) < 0.2] = -1
    scores = np.where(indices < 0, -np.inf, rng.random((n, m)))
    positives = rng.integers(size, size=n)
    groups = rng.integers(size // 2, size=size)
    found = guarded_candidates(
        scores,
        rng.random(n),
        indices=indices,
        positives=positives,
        text_groups=groups,
        top_k=top_k,
        corpus_size=size,
        seed=seed % 1000,
    )
    assert found.indices.shape == found.filled.shape == found.scores.shape == (n, top_k)
    for i in range(n):
        row = found.indices[i]
        there = row[row >= 0]
        assert len(set(there.tolist())) == len(there)
        assert positives[i] not in there
        assert (groups[there] != groups[positives[i]]).all()
        drawn = found.indices[i][found.filled[i]]
        assert not set(drawn.tolist()) & set(indices[i].tolist())
        free = set(range(size)) - set(indices[i].tolist())
        free = {j for j in free if groups[j] != groups[positives[i]]}
        kept = int((found.log_weights[i] == 0).sum())
        if len(free) >= 2 * top_k:
            assert len(there) == top_k
        assert len(there) <= kept + len(free)
        listed = scores[i][np.isfinite(scores[i])]
        assert (found.scores[i][found.filled[i]] == (listed.min() if len(listed) else -1)).all()


def test_short_rows_raise_when_strict_and_bad_input_is_named():
    """Too few candidates behind the guard, NaN, and arrays that do not fit."""
    scores, own = np.array([[0.9, 0.2]]), np.array([0.9])
    with pytest.raises(ValueError, match=r"1 rows have fewer than top_k=2 candidates behind the guard.* row 0 with 1"):
        guarded_candidates(scores, own, top_k=2, strict=True)
    with pytest.raises(ValueError, match="scores must hold no NaN"):
        guarded_candidates(np.array([[np.nan]]), own)
    with pytest.raises(ValueError, match="positive_scores must be finite"):
        guarded_candidates(scores, np.array([np.nan]))
    with pytest.raises(ValueError, match="positive_scores must have one entry per row of scores: 1 rows, 2"):
        guarded_candidates(scores, np.ones(2))
    with pytest.raises(ValueError, match="indices must have the shape of scores"):
        guarded_candidates(scores, own, indices=np.array([[1]]))
    with pytest.raises(ValueError, match="relative must lie between 0 and 1: got 1.5"):
        guarded_candidates(scores, own, relative=1.5)
    with pytest.raises(ValueError, match="top_k must be at least 1: got 0"):
        guarded_candidates(scores, own, top_k=0)


# Curriculum

WORKED = np.array([[0.9, 0.8, 0.7, 0.6]])


@pytest.mark.parametrize(
    ("tau", "expected"),
    [
        (0.1, [0.643914, 0.236883, 0.087144, 0.032059]),
        (0.05, [0.864955, 0.117059, 0.015842, 0.002144]),
        (0.001, [1, 0, 0, 0]),
    ],
)
def test_probabilities_of_the_worked_scores(tau, expected):
    """The softmax over scores at three temperatures, without overflow at the smallest."""
    np.testing.assert_allclose(np.exp(curriculum_log_weights(WORKED, tau))[0], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("progress", "linear", "geometric"), [(0, 0.05, 0.05), (0.5, 0.0255, 0.007071), (1, 0.001, 0.001)]
)
def test_the_temperature_anneals_as_worked(progress, linear, geometric):
    """Linear and geometric annealing from 0.05 to 0.001."""
    assert CurriculumNegatives(WORKED).temperature(progress) == pytest.approx(linear, abs=1e-9)
    schedule = CurriculumNegatives(WORKED, schedule="geometric")
    assert schedule.temperature(progress) == pytest.approx(geometric, abs=1e-6)


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=9), st.floats(1e-3, 1), st.integers(0, 8))
@settings(max_examples=60, deadline=None)
def test_log_weights_are_a_softmax_in_plain_loops(scores, tau, missing):
    """Probabilities add to one and equal exp(s / tau) over their sum; missing candidates get -inf."""
    row = np.array([scores])
    row[0, missing:] = -np.inf
    found = curriculum_log_weights(row, tau)
    left = scores[:missing]
    for j, s in enumerate(scores):
        if j >= missing:
            assert found[0, j] == -np.inf
        else:
            total = sum(math.exp((other - s) / tau) for other in left) if max(left) - s < 600 * tau else math.inf
            assert math.exp(found[0, j]) == pytest.approx(1 / total, abs=1e-9)


@pytest.mark.parametrize("tau", [0.1, 0.05])
@pytest.mark.parametrize("vary", ["index", "step", "progress"])
def test_first_draws_follow_the_softmax(tau, vary):
    """Over 20,000 rows, steps or points of the training, first draws are within 3 standard errors of the softmax."""
    draws = 20_000
    expected = np.exp(curriculum_log_weights(WORKED, tau))[0]
    if vary == "index":
        rows = CurriculumNegatives(np.tile(WORKED, (draws, 1)), tau_start=tau, tau_end=tau, n=4)
        first = rows.sample(np.arange(draws), 0.5)[:, 0]
    else:
        negatives = CurriculumNegatives(WORKED, tau_start=tau, tau_end=tau, n=4)
        draws = 2_000
        at = [(0.5, i) if vary == "step" else (i / draws, 0) for i in range(draws)]
        first = np.array([negatives.sample(0, p, step=s)[0] for p, s in at])
    share = np.bincount(first, minlength=4) / draws
    assert (np.abs(share - expected) <= 3 * np.sqrt(expected * (1 - expected) / draws)).all()


def test_second_draws_follow_plackett_luce():
    """Given the first draw, the second follows the softmax over what is left."""
    draws = 20_000
    weights = np.exp(curriculum_log_weights(WORKED, 0.1))[0]
    rows = CurriculumNegatives(np.tile(WORKED, (draws, 1)), tau_start=0.1, tau_end=0.1, n=2, seed=5)
    first, second = rows.sample(np.arange(draws), 0.0).T
    for i in (0, 1):
        seconds = second[first == i]
        expected = np.delete(weights, i) / (1 - weights[i])
        share = np.delete(np.bincount(seconds, minlength=4), i) / len(seconds)
        assert (np.abs(share - expected) <= 3 * np.sqrt(expected * (1 - expected) / len(seconds))).all()


@given(st.integers(0, 2**32 - 1), st.floats(0, 1), st.integers(1, 12))
@settings(max_examples=40, deadline=None)
def test_draws_are_distinct_and_a_function_of_seed_index_and_progress(seed, progress, n):
    """No column twice, none that is missing, the same alone as in any batch, and -1 when a row runs out."""
    rng = np.random.default_rng(seed)
    scores = np.where(rng.random((9, 8)) < 0.3, -np.inf, rng.random((9, 8)))
    negatives = CurriculumNegatives(scores, n=n, seed=seed)
    order = rng.permutation(9)
    batch = negatives.sample(order, progress)
    assert batch.shape == (9, n)
    for i, row in zip(order, batch, strict=True):
        assert row.tolist() == negatives.sample(int(i), progress).tolist()
        there = row[row >= 0]
        assert len(set(there.tolist())) == len(there) == min(n, np.isfinite(scores[i]).sum())
        assert np.isfinite(scores[i][there]).all()
        assert (row[len(there) :] == -1).all()
    assert negatives.short.tolist() == [i for i in range(9) if np.isfinite(scores[i]).sum() < n]


def test_another_seed_step_or_progress_draws_anew():
    """Draws of 50 rows differ when any of the three does."""
    scores = np.random.default_rng(0).random((50, 20)) * 0.05
    rows, one = np.arange(50), CurriculumNegatives(scores, n=4, seed=1)
    base = one.sample(rows, 0.2)
    assert (base != CurriculumNegatives(scores, n=4, seed=2).sample(rows, 0.2)).any(1).mean() > 0.5
    assert (base != one.sample(rows, 0.2, step=1)).any(1).mean() > 0.5
    assert (base != one.sample(rows, 0.2000001)).any(1).mean() > 0.5


def test_draws_harden_as_training_goes_on():
    """The mean score of what is drawn rises with progress and ends at the hardest."""
    scores = np.random.default_rng(0).random((200, 50)) * 0.3
    negatives = CurriculumNegatives(scores, n=5)
    means = [np.take_along_axis(scores, negatives.sample(np.arange(200), p), 1).mean() for p in (0.0, 0.5, 0.9, 1.0)]
    assert means == sorted(means)
    assert means[-1] == pytest.approx(np.sort(scores, axis=1)[:, -5:].mean(), abs=1e-3)


def test_a_bad_curriculum_is_answered_in_one_line():
    """NaN, short rows when strict, and settings out of range."""
    with pytest.raises(ValueError, match="candidate_scores must be numbers, or -inf"):
        CurriculumNegatives(np.array([[np.nan]]))
    with pytest.raises(ValueError, match=r"candidate_scores must have n=8 candidates per row: 1 rows .* row 0"):
        CurriculumNegatives(WORKED, strict=True)
    with pytest.raises(ValueError, match="tau_end must be positive: got 0"):
        CurriculumNegatives(WORKED, tau_end=0)
    with pytest.raises(ValueError, match="schedule must be one of 'linear', 'geometric': got 'cosine'"):
        CurriculumNegatives(WORKED, schedule="cosine")
    with pytest.raises(ValueError, match="progress must lie between 0 and 1: got 1.5"):
        CurriculumNegatives(WORKED).sample(0, 1.5)
    with pytest.raises(ValueError, match=r"index must name rows of candidate_scores, 0 to 0: got \[-1\]"):
        CurriculumNegatives(WORKED).sample(-1, 0.5)
    with pytest.raises(ValueError, match="temperature must be positive"):
        curriculum_log_weights(WORKED, 0.0)


# Quality


@pytest.mark.parametrize(
    ("text", "reasons"),
    [
        ("Return the largest key of the mapping.", ()),
        ("A naïve search for the café that is still open.", ()),
        ("line one\n\tline two\r\nline three", ()),
        ("Compare a < b and c > d, or List<int> of them.", ()),
        ("Sort.", ("too short",)),
        ("", ("too short",)),
        ("See https://example.org for the details.", ("URL",)),
        ("See www.example.org for the details.", ("URL",)),
        ("Return a <b>bold</b> header line.", ("HTML",)),
        ('Return <a href="x">links</a> of it.', ("HTML",)),
        ("Bad bytes \ufffd in this text.", ("invalid character",)),
        ("A bell \x07 rings in here.", ("invalid character",)),
        ("A lone \ud800 surrogate stands here.", ("invalid character",)),
        ("Возвращает наибольший ключ словаря.", ("not English",)),
        ("返回 字典 中 最大 的 键", ("not English",)),
        ("1 + 2 = 3", ()),
    ],
)
def test_text_quality(text, reasons):
    """Each rule finds what it is for, and leaves code and accents alone."""
    assert text_quality_reasons(text) == reasons


def test_a_detector_replaces_the_count_of_letters():
    """With is_english given, letters are not counted."""
    assert text_quality_reasons("Gib den größten Schlüssel zurück", is_english=lambda text: False) == ("not English",)
    assert text_quality_reasons("Верни самый большой ключ", is_english=lambda text: True) == ()
    assert text_quality_reasons("one two", min_words=2) == ()


# Reranking


def best_first(window):
    return sorted(range(len(window)), key=lambda place: -window[place])


def test_the_best_of_the_tail_comes_to_the_head_in_one_pass():
    """Windows of 10 in steps of 5 over 20 items: three calls, from the end to the head."""
    calls = []

    def order(window):
        calls.append(list(window))
        return best_first(window)

    items = [1] * 10 + [0] * 9 + [99]
    assert sliding_window_rerank(order, items)[0] == 99
    assert [len(call) for call in calls] == [10, 10, 10]
    assert calls[0] == items[10:]


@given(st.lists(st.integers(), max_size=40), st.integers(1, 12), st.data())
@settings(max_examples=60, deadline=None)
def test_one_pass_is_a_permutation_that_lifts_the_best(items, window, data):
    """Nothing is lost, and with a true order the best window - step items lead the list (all in a single window)."""
    step = data.draw(st.integers(1, window))
    ordered = sliding_window_rerank(best_first, items, window=window, step=step)
    assert sorted(ordered) == sorted(items)
    lifted = len(items) if len(items) <= window else window - step
    assert ordered[:lifted] == sorted(items, reverse=True)[:lifted]


@pytest.mark.parametrize(
    ("text", "order"),
    [
        ("[2] > [1] > [3]", [1, 0, 2]),
        ("The order is [3]>[1].", [2, 0, 1]),
        ("[3] > [3] > [7] > [0] > [1]", [2, 0, 1]),
        ("no idea", [0, 1, 2]),
    ],
)
def test_what_a_model_writes_is_read_as_an_order(text, order):
    """Repeated and unknown numbers are passed over, and what is left out follows."""
    assert parse_listwise(text, 3) == order


def test_a_bad_order_is_answered_in_one_line():
    """An order that is not a permutation, a step beyond the window."""
    with pytest.raises(ValueError, match="order_fn must return every place of its window once, 0 to 2: got"):
        sliding_window_rerank(lambda window: [0, 0, 1], [1, 2, 3])
    with pytest.raises(ValueError, match="window must be at least 5: got 3"):
        sliding_window_rerank(best_first, [1], window=3, step=5)
    with pytest.raises(ValueError, match="step must be at least 1: got 0"):
        sliding_window_rerank(best_first, [1], step=0)
