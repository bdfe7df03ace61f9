"""Near-duplicates: worked numbers, the rows one by one, invariants, and bad input."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.subsets import drop_near_duplicates, near_duplicate_pairs
from tamis.subsets import near_duplicates as module
from tests.behaviour import ArrayCase

ANGLES = np.deg2rad([0, 10, 20, 30, 200])
CIRCLE = np.stack([np.cos(ANGLES), np.sin(ANGLES)], 1)


def make(seed: int) -> list[ArrayCase]:
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((40, 3))
    return [
        ArrayCase(
            "drop_near_duplicates",
            lambda draw, x: drop_near_duplicates(x, threshold=0.8),
            (rows,),
            empty=lambda: drop_near_duplicates(np.empty((0, 3))),
            torch_too=True,
        ),
        ArrayCase(
            "near_duplicate_pairs",
            lambda draw, x, y: near_duplicate_pairs(x, y, threshold=0.8),
            (rows.astype(np.float32), rows[:7].astype(np.float32)),
            empty=lambda: near_duplicate_pairs([], ["a"]),
            torch_too=True,
        ),
    ]


def clustered(rng, rows, clusters, noise):
    centres = rng.standard_normal((clusters, 6))
    return centres[rng.integers(clusters, size=rows)] + noise * rng.standard_normal((rows, 6))


def one_by_one(similarity, threshold):
    """The definition: a row is dropped by the first kept row that reaches the threshold."""
    kept, rivals = [], {}
    for i in range(len(similarity)):
        rival = next((j for j in kept if similarity[i, j] >= threshold), None)
        if rival is None:
            kept.append(i)
        else:
            rivals[i] = rival
    return kept, rivals


def test_worked_numbers():
    """On a circle, ten degrees apart, cos 10 = 0.985 and cos 20 = 0.940: 0 drops 10, not 20; 20 drops 30."""
    found = drop_near_duplicates(CIRCLE, threshold=0.98)
    assert found.indices.tolist() == [0, 2, 4]
    assert found.reasons["row"].tolist() == [1, 3]
    assert found.reasons["rival"].tolist() == [0, 2]
    assert found.reasons["score"] == pytest.approx([np.cos(np.deg2rad(10))] * 2)
    assert found.reasons["rule"].tolist() == ["near-duplicate"] * 2
    assert found.log_weights.tolist() == [0, -np.inf, 0, -np.inf, 0]
    assert np.isnan(found.scores[[0, 2, 4]]).all()


def test_the_rival_is_the_first_kept_row():
    """At cos 20 the row at 20 degrees is near both 0 and 10; 10 is dropped, so 0 is the rival, and 30 is kept."""
    found = drop_near_duplicates(CIRCLE, threshold=0.93)
    assert found.indices.tolist() == [0, 3, 4]
    assert found.reasons["rival"].tolist() == [0, 0]


def test_texts():
    """Equal texts go with score 1; of 4 and 5 words, 2 of 3 runs are common; a dropped text's copy has its rival."""
    texts = ["a b c d", "x y z", "A, b c d!", "a b c d e", "a b c d  E", "x y"]
    found = drop_near_duplicates(texts, threshold=0.6)
    assert found.indices.tolist() == [0, 1, 5]
    assert found.reasons["row"].tolist() == [2, 3, 4]
    assert found.reasons["rival"].tolist() == [0, 0, 0]
    assert found.reasons["score"] == pytest.approx([1, 2 / 3, 2 / 3])
    assert drop_near_duplicates(texts, threshold=0.7).indices.tolist() == [0, 1, 3, 5]


@pytest.mark.parametrize("leaf", [2048, 8])
def test_equals_row_by_row(monkeypatch, leaf):
    """Halving gives exactly what the rows one by one give, with the same rivals and scores."""
    monkeypatch.setattr(module, "_LEAF", leaf)
    rng = np.random.default_rng(0)
    for threshold in (0.7, 0.9, 0.97):
        rows = clustered(rng, 150, 20, 0.4).astype(np.float32)
        pairs = near_duplicate_pairs(rows, rows, threshold=-1.0)
        similarity = pairs[2].reshape(150, 150)
        kept, rivals = one_by_one(similarity, threshold)
        found = drop_near_duplicates(rows, threshold=threshold)
        assert found.indices.tolist() == kept
        assert dict(zip(found.reasons["row"].tolist(), found.reasons["rival"].tolist(), strict=True)) == rivals
        assert found.reasons["score"].tolist() == [similarity[i, j] for i, j in rivals.items()]


@pytest.mark.parametrize("leaf", [2048, 5])
def test_texts_equal_row_by_row(monkeypatch, leaf):
    """The same for texts, with copies to the letter among them."""
    monkeypatch.setattr(module, "_LEAF", leaf)
    rng = np.random.default_rng(1)
    texts = [" ".join(f"w{k}" for k in rng.integers(0, 3, rng.integers(1, 9))) for _ in range(120)]
    runs = [{tuple(t.split()[i : i + 2]) for i in range(max(1, len(t.split()) - 1))} for t in texts]
    similarity = np.array([[len(a & b) / len(a | b) for a in runs] for b in runs])
    kept, rivals = one_by_one(similarity, 0.5)
    found = drop_near_duplicates(texts, threshold=0.5, size=2)
    assert found.indices.tolist() == kept
    assert dict(zip(found.reasons["row"].tolist(), found.reasons["rival"].tolist(), strict=True)) == rivals
    assert found.reasons["score"].tolist() == [similarity[i, j] for i, j in rivals.items()]
    a, b, s = near_duplicate_pairs(texts, threshold=0.5, size=2)
    expected = [(i, j) for i in range(120) for j in range(i + 1, 120) if similarity[i, j] >= 0.5]
    assert list(zip(a.tolist(), b.tolist(), strict=True)) == expected
    assert s.tolist() == [similarity[i, j] for i, j in expected]


@given(st.integers(0, 10_000), st.integers(1, 60), st.sampled_from([0.5, 0.8, 0.95]))
@settings(max_examples=40, deadline=None)
def test_invariants(seed, rows, threshold):
    """No two kept rows reach the threshold; every dropped row reaches it with an earlier row that is kept."""
    x = clustered(np.random.default_rng(seed), rows, 5, 0.5)
    found = drop_near_duplicates(x, threshold=threshold)
    kept = x[found.indices]
    assert len(near_duplicate_pairs(kept, threshold=threshold)[0]) == 0
    units = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    for row, rival, score in zip(*(found.reasons[k].tolist() for k in ("row", "rival", "score")), strict=True):
        assert rival < row and rival in found.indices
        assert score >= threshold and score == pytest.approx(float(units[row] @ units[rival]), abs=1e-6)
    assert sorted([*found.indices, *found.reasons["row"]]) == list(range(rows))


def test_all_alike_and_none_alike():
    """Thousands of equal rows leave one without their pairs being held; rows at right angles all stay."""
    assert drop_near_duplicates(np.ones((9000, 2))).indices.tolist() == [0]
    assert drop_near_duplicates(["same"] * 9000).indices.tolist() == [0]
    assert len(drop_near_duplicates(np.eye(50)).indices) == 50


def test_a_chain_is_not_one_cluster():
    """Each row is near the next only: every second one is kept, as dropped rows drop nothing."""
    angles = np.deg2rad(np.arange(0, 90, 1.0))
    rows = np.stack([np.cos(angles), np.sin(angles)], 1)
    assert drop_near_duplicates(rows, threshold=float(np.cos(np.deg2rad(1.5)))).indices.tolist() == list(
        range(0, 90, 2)
    )


def test_tensors():
    """Tensors give tensors of their dtype, with the rows that arrays give."""
    rows = clustered(np.random.default_rng(3), 60, 8, 0.3)
    found = drop_near_duplicates(torch.from_numpy(rows).to(torch.bfloat16), threshold=0.9)
    same = drop_near_duplicates(torch.from_numpy(rows).to(torch.bfloat16).float().numpy(), threshold=0.9)
    assert found.scores.dtype == torch.bfloat16
    assert found.indices.tolist() == same.indices.tolist()


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        (np.zeros((2, 2)), ValueError, "rows must not hold zero vectors: row 0 is zero"),
        (torch.zeros(2, 2), ValueError, "rows must not hold zero vectors"),
        (np.array([[np.nan, 1.0]]), ValueError, "rows must be finite"),
        (np.ones(3), ValueError, r"rows must be two-dimensional \(n, d\)"),
        ([], ValueError, "rows must hold at least one text: got none"),
        ("one text", TypeError, r"rows must be embeddings \(n, d\) or a list of texts: got str"),
        ([1, 2], TypeError, "rows must be embeddings"),
    ],
)
def test_bad_rows(rows, error, message):
    """What is neither embeddings nor texts is named."""
    with pytest.raises(error, match=message):
        drop_near_duplicates(rows)


def test_bad_settings():
    """Thresholds out of range and two kinds of rows are answered in one line."""
    with pytest.raises(ValueError, match="threshold must lie between -1 and 1: got 2"):
        drop_near_duplicates(CIRCLE, threshold=2)
    with pytest.raises(ValueError, match=r"threshold must lie between 0 \(not included\) and 1: got 0"):
        drop_near_duplicates(["a"], threshold=0)
    with pytest.raises(TypeError, match="left and right must both be embeddings or both be texts"):
        near_duplicate_pairs(CIRCLE, ["a"])
