"""BM25 and rank fusion: equal to the formulas written out in loops."""

from __future__ import annotations

import math
import re
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.lexical import LexicalIndex, lexical_top_k, reciprocal_rank_fusion

WORDS = ["fox", "rose", "snow", "river", "stone", "bird", "tree", "wind", "the", "of"]
STOPPED = {"the", "of"}


def texts(count: int, length: int, seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(0, length + 1))) for _ in range(count)]


def slow_bm25(query: str, passages: list[str]) -> list[float]:
    """Lucene's BM25 in plain loops, k1 = 1.5, b = 0.75."""

    def split(text: str) -> list[str]:
        return [word for word in re.findall(r"\b\w\w+\b", text.lower()) if word not in STOPPED]

    counts = [Counter(split(text)) for text in passages]
    mean = sum(sum(count.values()) for count in counts) / len(counts)
    scores = []
    for count in counts:
        total = 0.0
        for word in split(query):
            df = sum(word in other for other in counts)
            if count[word]:
                idf = math.log(1 + (len(counts) - df + 0.5) / (df + 0.5))
                length = sum(count.values())
                total += idf * count[word] / (count[word] + 1.5 * (1 - 0.75 + 0.75 * length / mean))
        scores.append(total)
    return scores


def slow_ranking(scores: list[float], k: int, barred: list[int]) -> list[int]:
    order = sorted((-round(score, 5), j) for j, score in enumerate(scores) if score > 0 and j not in barred)
    return [j for _, j in order[:k]] + [-1] * max(0, k - len(order))


@pytest.mark.parametrize(("count", "k"), [(30, 5), (400, 3), (3, 8)])
def test_equals_the_formula_in_loops(count, k):
    """Ranking and scores should be those of the formula, with ties by lower index and without excluded passages."""
    queries, passages = texts(12, 6, 1), texts(count, 9, 2)
    rng = np.random.default_rng(3)
    sets = [sorted(rng.choice(count, min(count, 2), replace=False).tolist()) if i % 2 else [] for i in range(12)]
    exclude = np.cumsum([0, *map(len, sets)]), np.array([j for row in sets for j in row])
    scores, indices = LexicalIndex(passages).top_k(queries, k, exclude=exclude)
    assert (scores.dtype, indices.dtype) == (np.float32, np.int64)
    for i, query in enumerate(queries):
        slow = slow_bm25(query, passages)
        assert indices[i].tolist() == slow_ranking(slow, k, sets[i])
        expected = [slow[j] if j >= 0 else -math.inf for j in indices[i]]
        np.testing.assert_allclose(scores[i], expected, rtol=1e-5)


def test_pair_scores_equal_the_formula():
    """Every pair should have the score of the formula; pairs without a common word have 0."""
    queries, passages = texts(8, 7, 4), texts(25, 8, 5)
    rows, columns = np.divmod(np.arange(200), 25)
    scores = LexicalIndex(passages).pair_scores(queries, rows, columns)
    slow = [slow_bm25(query, passages) for query in queries]
    np.testing.assert_allclose(scores, np.array(slow).ravel(), rtol=1e-5)
    assert scores.dtype == np.float32 and (scores == 0).any()


@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 200), k=st.integers(1, 12))
@settings(max_examples=20, deadline=None)
def test_pair_scores_equal_top_k_bit_for_bit(seed, count, k):
    """What top_k returns for a pair should be what pair_scores says of it, and rows should fall."""
    queries, passages = texts(6, 9, seed), texts(count, 9, seed + 1)
    index = LexicalIndex(passages)
    scores, indices = index.top_k(queries, k)
    rows, places = np.nonzero(indices >= 0)
    assert (index.pair_scores(queries, rows, indices[rows, places]) == scores[rows, places]).all()
    assert (scores[:, 1:] <= scores[:, :-1]).all()


def test_equals_bm25s_itself():
    """Scores should be those of the package, which ranks passages without a common word too."""
    bm25s = pytest.importorskip("bm25s")
    queries, passages = texts(20, 5, 6), texts(300, 12, 7)
    model = bm25s.BM25()
    model.index(bm25s.tokenize(passages, show_progress=False), show_progress=False)
    found = model.retrieve(bm25s.tokenize(queries, show_progress=False, return_ids=False), k=6, show_progress=False)
    scores, _ = lexical_top_k(queries, passages, 6)
    np.testing.assert_array_equal(np.maximum(scores, 0), found.scores)


def test_many_queries_span_blocks(monkeypatch):
    """Rows should not depend on how many queries are scored at once."""
    queries, passages = texts(50, 6, 8), texts(90, 9, 9)
    expected = lexical_top_k(queries, passages, 4)
    monkeypatch.setattr("tamis.lexical._SCORES", 200)
    assert all((a == b).all() for a, b in zip(lexical_top_k(queries, passages, 4), expected, strict=True))


def test_texts_without_words():
    """Empty texts and stop words should be found by nothing and find nothing."""
    scores, indices = lexical_top_k(["", "the of", "fox", "unheard"], ["", "fox", "the"], 2)
    assert indices.tolist() == [[-1, -1], [-1, -1], [1, -1], [-1, -1]]
    assert np.isneginf(scores[indices < 0]).all()
    blank = LexicalIndex(["", "the"])
    assert (blank.top_k(["fox"], 3)[1] == -1).all()
    assert blank.pair_scores(["fox"], np.array([0]), np.array([1])).tolist() == [0.0]
    assert LexicalIndex(["fox"]).top_k([], 3)[1].shape == (0, 3)


def test_stop_words_can_be_chosen():
    """With no stop words, "the" should count; with one's own, they should not."""
    assert lexical_top_k(["the fox"], ["the", "fox"], 2, stop_words=[])[1].tolist() == [[0, 1]]
    assert lexical_top_k(["the fox"], ["the", "fox"], 2, stop_words=["fox"])[1].tolist() == [[0, -1]]


def test_bad_input_to_the_index():
    """No passages, k below 1, rows that are not there and a malformed exclude should be named."""
    with pytest.raises(ValueError, match="passage_texts must hold at least one text"):
        LexicalIndex([])
    index = LexicalIndex(["fox", "rose"])
    with pytest.raises(ValueError, match="k must be at least 1"):
        index.top_k(["fox"], 0)
    with pytest.raises(ValueError, match=r"exclude must be CSR .* indptr of 2 entries rising from 0 to 1, got 3"):
        index.top_k(["fox"], 1, exclude=(np.array([0, 1, 1]), np.array([0])))
    with pytest.raises(ValueError, match="passage_rows must be rows of the passages, 0 to 1: got 2 to 2"):
        index.pair_scores(["fox"], np.array([0]), np.array([2]))
    with pytest.raises(ValueError, match="query_rows must be rows of query_texts, 0 to 0: got 1 to 1"):
        index.pair_scores(["fox"], np.array([1]), np.array([0]))


def slow_fusion(rankings: list[np.ndarray], row: int, k: int, constant: float) -> list[tuple[int, float]]:
    total: dict[int, float] = {}
    for ranking in rankings:
        for rank, index in enumerate(ranking[row], start=1):
            if index >= 0:
                total[int(index)] = total.get(int(index), 0.0) + 1 / (constant + rank)
    best = sorted(total.items(), key=lambda item: (-item[1], item[0]))[:k]
    return best + [(-1, -math.inf)] * (k - len(best))


@given(seed=st.integers(0, 2**32 - 1), k=st.integers(1, 15), constant=st.sampled_from([0.0, 1.0, 60.0]))
@settings(max_examples=40, deadline=None)
def test_fusion_equals_the_formula_in_loops(seed, k, constant):
    """Fused rows should be those of the sum of reciprocal ranks, ties by lower index, for rows of any length."""
    rng = np.random.default_rng(seed)
    rankings = []
    for width in (4, 6, 1):
        ranking = np.stack([rng.permutation(9)[:width] for _ in range(5)])
        ranking[np.arange(width)[None] >= rng.integers(0, width + 1, 5)[:, None]] = -1
        rankings.append(ranking)
    indices, scores = reciprocal_rank_fusion(rankings, k, constant=constant)
    for row in range(5):
        expected = slow_fusion(rankings, row, k, constant)
        assert indices[row].tolist() == [index for index, _ in expected]
        np.testing.assert_allclose(scores[row], [score for _, score in expected], rtol=1e-12)


def test_fusion_worked_by_hand():
    """Second and first place should beat first place alone: 1/62 + 1/61 against 1/61."""
    indices, scores = reciprocal_rank_fusion([np.array([[7, 3]]), np.array([[3, 5]])], 4)
    assert indices.tolist() == [[3, 7, 5, -1]]
    np.testing.assert_allclose(scores[0, :3], [1 / 62 + 1 / 61, 1 / 61, 1 / 62], rtol=1e-15)


def test_fusion_of_tensors_and_bad_rankings():
    """Tensors should give tensors; rankings of different length or none should be refused."""
    indices, scores = reciprocal_rank_fusion([torch.tensor([[1, 2]]), torch.tensor([[2, -1]])], 2)
    assert isinstance(scores, torch.Tensor) and indices.tolist() == [[2, 1]]
    with pytest.raises(ValueError, match="rankings must hold at least one ranking"):
        reciprocal_rank_fusion([], 2)
    with pytest.raises(ValueError, match=r"rankings\[1\] must have one entry per row of rankings\[0\]: 1 rows, 2"):
        reciprocal_rank_fusion([np.zeros((1, 1), int), np.zeros((2, 1), int)], 2)
    with pytest.raises(ValueError, match=r"rankings\[0\] must be two-dimensional"):
        reciprocal_rank_fusion([np.zeros(3, int)], 2)
    with pytest.raises(ValueError, match="k must be at least 1"):
        reciprocal_rank_fusion([np.zeros((1, 1), int)], 0)
