"""Exact search: equal to a literal sort whatever the block sizes, precision and formats."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis import rounding, scan
from tamis.search import _parts, pair_scores, range_search, top_k

PRECISIONS = ("float32", "bfloat16", "int8")
BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
SMALL = 6_000  # bytes: blocks of a few dozen passages
EMPTY = (np.zeros(0, np.int64),) * 2


def normal(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)


def signs(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    """Entries -1, 0 and 1: products are exact in float32 and full of ties."""
    return np.random.default_rng(seed).integers(-1, 2, (rows, columns)).astype(np.float32)


def csr(sets: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    columns = [column for row in sets for column in row]
    return np.cumsum([0, *map(len, sets)]), np.array(columns, dtype=np.int64)


def slow_top_k(queries, passages, k, exclude=None, ceiling=None):
    """The definition in plain loops: multiply, drop, sort by falling score and rising index."""
    scores, indices = np.full((len(queries), k), -np.inf), np.full((len(queries), k), -1)
    for i, query in enumerate(queries):
        pairs = []
        for j, passage in enumerate(passages):
            score = sum(float(a) * float(b) for a, b in zip(query, passage, strict=True))
            if exclude is not None and j in exclude[i]:
                continue
            if ceiling is None or score < ceiling[i]:
                pairs.append((-score, j))
        for place, (score, j) in enumerate(sorted(pairs)[:k]):
            scores[i, place], indices[i, place] = -score, j
    return scores, indices


def fast_top_k(queries, passages, k):
    """The same by a stable sort in float64, for larger inputs."""
    scores = queries.astype(np.float64) @ passages.astype(np.float64).T
    indices = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, indices, 1), indices


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("max_memory", [SMALL, 2**28])
def test_equals_the_literal_definition(precision, max_memory):
    """Indices and scores should be those of plain loops, with several blocks and with one."""
    queries, passages = normal(5, 7, 1), normal(90, 7, 2)
    scores, indices = top_k(queries, passages, 4, precision=precision, max_memory=max_memory)
    slow_scores, slow_indices = slow_top_k(queries, passages, 4)
    assert (indices == slow_indices).all()
    np.testing.assert_allclose(scores, slow_scores, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("max_memory", [40_000, 400_000, 2**28])
def test_equals_a_sort_in_float64(precision, max_memory):
    """The same should hold for thousands of passages, where groups, tiles and parts all come into play."""
    queries, passages = normal(70, 24, 3), normal(5000, 24, 4)
    scores, indices = top_k(queries, passages, 20, precision=precision, max_memory=max_memory)
    sorted_scores, sorted_indices = fast_top_k(queries, passages, 20)
    assert (indices == sorted_indices).all()
    np.testing.assert_allclose(scores, sorted_scores, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_ties_go_to_the_lower_index(precision):
    """Where products are exact, the order should be that of a stable sort, across blocks too."""
    queries, passages = signs(40, 6, 5), signs(700, 6, 6)
    for max_memory in (SMALL, 60_000, 2**28):
        scores, indices = top_k(queries, passages, 50, precision=precision, max_memory=max_memory)
        sorted_scores, sorted_indices = fast_top_k(queries, passages, 50)
        assert (indices == sorted_indices).all()
        assert (scores == sorted_scores).all()


def test_the_two_zeros_are_one_score():
    """0.0 and -0.0 should tie."""
    scores, indices = top_k(np.ones((1, 1), np.float32), np.array([[-0.0], [0.0], [-0.0]], np.float32), 3)
    assert indices.tolist() == [[0, 1, 2]] and (scores == 0).all()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_copies_of_a_passage_have_one_score(precision):
    """Equal rows should get equal bits wherever they lie, so that copies come in ascending order."""
    queries, originals = normal(9, 50, 7), normal(30, 50, 8)
    passages = originals[np.random.default_rng(9).integers(0, 30, 600)]
    scores, indices = top_k(queries, passages, 100, precision=precision, max_memory=50_000)
    tied = scores[:, 1:] == scores[:, :-1]
    assert tied.sum() > 700
    assert (indices[:, 1:] > indices[:, :-1])[tied].all()


@given(
    seed=st.integers(0, 2**32 - 1),
    sizes=st.tuples(st.integers(1, 40), st.integers(1, 300), st.integers(1, 20), st.integers(1, 60)),
    memory=st.integers(1, 100_000),
    precision=st.sampled_from(PRECISIONS),
    shift=st.sampled_from([0.0, 3.0]),
)
@settings(max_examples=40, deadline=None)
def test_result_does_not_depend_on_blocks_or_precision(seed, sizes, memory, precision, shift):
    """Every bit should be the same whatever the memory, the precision, and the offset of the data."""
    q, n, d, k = sizes
    queries, passages = normal(q, d, seed) + np.float32(shift), normal(n, d, seed + 1) + np.float32(shift)
    expected = top_k(queries, passages, k, precision="float32")
    found = top_k(queries, passages, k, precision=precision, max_memory=memory)
    assert (expected[0] == found[0]).all()
    assert (expected[1] == found[1]).all()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_excluded_passages_never_come_back(precision):
    """The search should equal one in which the excluded pairs do not exist, however uneven their number."""
    queries, passages = normal(6, 5, 10), normal(120, 5, 11)
    best = fast_top_k(queries, passages, 120)[1]
    sets = [[], best[1, :1].tolist(), best[2, :115].tolist(), list(range(120)), best[4, ::2].tolist(), [7, 7]]
    for max_memory in (SMALL, 2**28):
        scores, indices = top_k(queries, passages, 8, exclude=csr(sets), precision=precision, max_memory=max_memory)
        slow_scores, slow_indices = slow_top_k(queries, passages, 8, exclude=sets)
        assert (indices == slow_indices).all()
        np.testing.assert_allclose(scores, slow_scores, rtol=1e-5, atol=1e-5)
    assert (indices[3] == -1).all() and np.isneginf(scores[3]).all()
    assert (indices[2] >= 0).sum() == 5


def test_one_query_with_thousands_of_positives_widens_no_other():
    """A query with 5,001 excluded passages should cost the others nothing but its own groups."""
    queries, passages = normal(3, 8, 12), normal(6000, 8, 13)
    best = fast_top_k(queries, passages, 6000)[1]
    sets = [[], best[1, :5001].tolist(), []]
    _, indices = top_k(queries, passages, 10, exclude=csr(sets))
    assert (indices[1] == best[1, 5001:5011]).all()
    assert (indices[[0, 2]] == best[[0, 2], :10]).all()


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("level", [2.5, 0.5, -1.0, -50.0])
def test_only_scores_strictly_below_the_ceiling(precision, level):
    """High ceilings (few products above) and low ones (nearly all above) should both equal the literal definition."""
    queries, passages = normal(5, 6, 14), normal(200, 6, 15)
    ceiling = np.full(5, level, np.float32)
    ceiling[0] = np.inf
    for max_memory in (SMALL, 2**28):
        scores, indices = top_k(queries, passages, 5, ceiling=ceiling, precision=precision, max_memory=max_memory)
        slow_scores, slow_indices = slow_top_k(queries, passages, 5, ceiling=ceiling)
        assert (indices == slow_indices).all()
        np.testing.assert_allclose(scores, slow_scores, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_ceiling_at_a_score_leaves_it_out(precision):
    """A ceiling put at the score of the second best should give the third best first."""
    queries, passages = normal(8, 30, 16), normal(900, 30, 17)
    scores, indices = top_k(queries, passages, 6)
    below = top_k(queries, passages, 4, ceiling=scores[:, 1], precision=precision, max_memory=100_000)
    assert (below[0] == scores[:, 2:]).all()
    assert (below[1] == indices[:, 2:]).all()


def test_more_asked_for_than_there_is():
    """Rows should end in index -1 and score -inf when k exceeds the passages."""
    scores, indices = top_k(normal(2, 4), normal(3, 4, 1), 5)
    assert (np.sort(indices[:, :3], axis=1) == [0, 1, 2]).all()
    assert (indices[:, 3:] == -1).all() and np.isneginf(scores[:, 3:]).all()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_negative_scores_keep_their_order(precision):
    """Scores that are all below zero should be ranked like any others."""
    queries, passages = np.abs(normal(4, 9, 18)), -np.abs(normal(300, 9, 19))
    scores, indices = top_k(queries, passages, 7, precision=precision, max_memory=20_000)
    assert (indices == fast_top_k(queries, passages, 7)[1]).all()
    assert (scores < 0).all() and (np.diff(scores, axis=1) <= 0).all()


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("scale", [2.0**-73, 2.0**-40, 2.0**30])
def test_any_scale_is_exact(precision, scale):
    """Vectors of extreme length should be searched exactly, though coarse products of tiny ones vanish."""
    queries, passages = signs(5, 12, 20), signs(400, 12, 21)
    scaled = (queries * np.float32(scale), passages * np.float32(min(scale, 1.0)))
    _, indices = top_k(*scaled, 9, precision=precision, max_memory=30_000)
    expected = np.argsort(-(scaled[0] @ scaled[1].T), axis=1, kind="stable")[:, :9]
    assert (indices == expected).all()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_outliers_and_zeros(precision):
    """One passage a thousand times as long as the rest, and zero vectors, should not hide anything."""
    queries, passages = normal(6, 16, 22), normal(500, 16, 23)
    passages[77] *= 1000
    passages[100:110] = 0
    queries[2] = 0
    _, indices = top_k(queries, passages, 12, precision=precision, max_memory=60_000)
    assert (indices == fast_top_k(queries, passages, 12)[1]).all()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_memory_mapped_half_precision(tmp_path, precision):
    """A read-only float16 file should give what its float32 copy gives, without a warning."""
    rows = normal(400, 10, 24).astype(np.float16)
    np.save(tmp_path / "rows.npy", rows)
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    found = top_k(mapped[:20], mapped, 5, precision=precision, max_memory=30_000)
    expected = top_k(rows[:20].astype(np.float32), rows.astype(np.float32), 5)
    assert isinstance(mapped, np.memmap)
    assert all((a == b).all() for a, b in zip(found, expected, strict=True))


def test_tensors_in_tensors_out():
    """Tensors of every float format should give tensors, equal to the array result of the same values."""
    queries, passages = torch.from_numpy(normal(7, 12, 25)), torch.from_numpy(normal(90, 12, 26))
    for kind in (torch.float32, torch.float16, torch.bfloat16):
        q, p = queries.to(kind), passages.to(kind)
        scores, indices = top_k(q, p, 6)
        expected = top_k(q.float().numpy(), p.float().numpy(), 6)
        assert (scores.dtype, indices.dtype) == (torch.float32, torch.int64)
        assert (scores.numpy() == expected[0]).all() and (indices.numpy() == expected[1]).all()
    assert isinstance(top_k(queries, passages.numpy(), 2)[0], torch.Tensor)
    assert isinstance(top_k(queries.numpy(), passages, 2)[0], np.ndarray)


def test_awkward_memory_layouts():
    """Transposed, strided, reversed and big-endian inputs should be read as what they are."""
    queries, passages = normal(8, 12, 27), normal(64, 12, 28)
    expected = top_k(queries, passages, 5)[1]
    for other in (
        np.asfortranarray(passages),
        np.repeat(passages, 2, axis=1)[:, ::2],
        passages[::-1].copy()[::-1],
        passages.astype(">f4"),
    ):
        assert (top_k(queries, other, 5)[1] == expected).all()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_gradients_autocast_and_inputs_are_left_alone(precision):
    """Search should neither track gradients nor follow autocast, and write to no input."""
    queries, passages = (torch.from_numpy(normal(rows, 8, 41) + 50).requires_grad_() for rows in (5, 900))
    before = queries.detach().clone(), passages.detach().clone()
    options = {"exclude": (torch.arange(6), torch.arange(5)), "precision": precision, "max_memory": SMALL}
    expected = top_k(queries, passages, 3, **options)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = top_k(queries, passages, 3, **options)
    assert not expected[0].requires_grad
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert torch.equal(queries, before[0]) and torch.equal(passages, before[1])


def test_torch_defaults_do_not_matter():
    """Another default format of torch should change nothing."""
    queries, passages = normal(9, 8, 42), normal(90, 8, 43)
    expected = top_k(queries, passages, 3), range_search(queries, passages, 4.0)
    torch.set_default_dtype(torch.float64)
    try:
        for precision in PRECISIONS:
            found = (
                top_k(queries, passages, 3, precision=precision, max_memory=SMALL),
                range_search(queries, passages, 4.0, precision=precision, max_memory=SMALL),
            )
            for one, other in zip(expected, found, strict=True):
                assert all(a.dtype == b.dtype and (a == b).all() for a, b in zip(one, other, strict=True))
    finally:
        torch.set_default_dtype(torch.float32)


def test_global_generators_are_untouched():
    """A search should draw nothing from the global generators."""
    rounding.bfloat16_is_faster.cache_clear()
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    top_k(normal(40, 4), normal(30_000, 4), 2)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert (np.random.get_state()[1] == numpy_state).all()  # noqa: NPY002


def formats_used(monkeypatch) -> list[torch.dtype]:
    used = []

    def spy(passages, size, dtype, device, release, *, spread):
        used.append(dtype)
        return rounding.passage_blocks(passages, size, dtype, device, release, spread=spread)

    monkeypatch.setattr(scan, "passage_blocks", spy)
    monkeypatch.setattr(scan, "bfloat16_is_faster", lambda device: True)
    monkeypatch.setattr(scan, "int8_is_faster", lambda device: True)
    return used


def test_auto_takes_the_faster_format(monkeypatch):
    """Where coarse formats are faster, auto should take the coarsest that leaves few pairs, for large searches only."""
    used = formats_used(monkeypatch)
    queries, passages = normal(200, 16, 29), normal(6000, 16, 30)
    _, indices = top_k(queries, passages, 10)
    assert used == [torch.bfloat16]
    assert (indices == fast_top_k(queries, passages, 10)[1]).all()
    range_search(queries, passages, 40.0)
    assert used[1:] == [torch.int8]
    top_k(queries[:10], passages, 10)
    assert used[-1] == torch.float32


def test_auto_falls_back_where_the_bound_separates_nothing(monkeypatch):
    """Passages that differ by less than bfloat16 can tell should be searched in float32 instead, and exactly."""
    used = formats_used(monkeypatch)
    queries = normal(200, 16, 31)
    passages = np.where(np.arange(6000)[:, None] % 2, 1, -1) * normal(1, 16, 32) + 1e-4 * normal(6000, 16, 33)
    passages = passages.astype(np.float32)
    scores, _ = top_k(queries, passages, 10)
    assert used == [torch.bfloat16, torch.float32]
    np.testing.assert_allclose(scores, fast_top_k(queries, passages, 10)[0], rtol=1e-5, atol=1e-5)


def test_rounded_float32_products_cannot_hurt(monkeypatch):
    """If the device rounds the factors of float32 products, the bound should widen and the result stay the same."""
    queries, passages = normal(20, 32, 34), normal(2000, 32, 35)
    expected = top_k(queries, passages, 15, precision="float32")
    product = torch.mm

    def coarse(a, b, *, out):
        return out.copy_(product(a.bfloat16().float(), b.bfloat16().float()))

    monkeypatch.setattr(rounding, "float32_is_exact", lambda device: False)
    monkeypatch.setattr(scan.torch, "mm", coarse)
    found = top_k(queries, passages, 15, precision="float32")
    assert all((a == b).all() for a, b in zip(found, expected, strict=True))


def test_progress_counts_pairs():
    """Progress should rise to the number of pairs."""
    seen: list[tuple[int, int]] = []
    top_k(normal(40, 8), normal(500, 8, 1), 3, max_memory=SMALL, progress=lambda *step: seen.append(step))
    assert len(seen) > 2 and seen == sorted(seen)
    assert seen[-1] == (20_000, 20_000) and {total for _, total in seen} == {20_000}


@pytest.mark.parametrize("parts", [2, 5])
def test_parts_of_the_queries_side_by_side(monkeypatch, parts):
    """Parts in threads should give, bit for bit, what one part gives, with every option, and count every pair."""
    queries, passages = normal(53, 16, 39), normal(800, 16, 40)
    options = {"exclude": csr([[i, 2 * i] for i in range(53)]), "ceiling": np.linspace(1, 9, 53, dtype=np.float32)}
    expected = top_k(queries, passages, 9, **options), range_search(queries, passages, 8.0)
    monkeypatch.setattr("tamis.search._parts", lambda *_: parts)
    steps: list[int] = []
    options |= {"progress": lambda done, total: steps.append(done), "max_memory": 200_000}
    found = top_k(queries, passages, 9, **options), range_search(queries, passages, 8.0)
    for one, other in zip(expected, found, strict=True):
        assert all((a == b).all() for a, b in zip(one, other, strict=True))
    assert steps == sorted(steps) and steps[-1] == 53 * 800


def test_large_searches_are_divided(monkeypatch):
    """A search worth it should run in as many parts as there are threads, memory and queries for."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    large, small = torch.empty(2000, 1), torch.empty(600, 1)
    cpu = torch.device("cpu")
    assert _parts(large, large, cpu, 2**28) == 4
    assert _parts(large, large, cpu, 2**27) == 2
    assert _parts(small, torch.empty(10_000, 1), cpu, 2**28) == 2
    assert _parts(small, small, cpu, 2**28) == 1
    assert _parts(large, large, cpu, 1000) == 1


@pytest.mark.slow
@pytest.mark.skipif(not (sys.platform == "linux" and BENCHMARKS.is_dir()), reason="reads peak memory from /proc")
def test_memory_stays_within_the_setting():
    """Peak memory above inputs and result should not exceed max_memory by more than the libraries' own scratch."""
    program = """
import sys; sys.path.insert(0, sys.argv[1])
import numpy as np, torch
from measure import PeakMemory
from tamis.search import top_k
torch.set_num_threads(1)
rng = np.random.default_rng(0)
q, p = (rng.standard_normal((rows, 64), dtype=np.float32) for rows in (1500, 150_000))
for precision in ("bfloat16", "float32"):
    top_k(q[:64], p[:4096], 10, precision=precision)
    with PeakMemory() as memory:
        top_k(q, p, 10, precision=precision, max_memory=64_000_000)
    print(memory.above)
"""
    done = subprocess.run([sys.executable, "-c", program, str(BENCHMARKS)], capture_output=True, text=True, check=True)
    assert all(float(line) < 80 for line in done.stdout.split())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 0}, "k must be at least 1: got 0"),
        ({"passages": normal(9, 5)}, r"passages must have 4 columns: got shape \(9, 5\)"),
        ({"queries": normal(3, 4)[0]}, r"queries must be two-dimensional \(n, d\)"),
        ({"queries": normal(0, 4)}, "queries must have at least one row"),
        ({"passages": normal(0, 4)}, "passages must have at least one row"),
        ({"precision": "int4"}, "precision must be one of 'auto', 'float32', 'bfloat16', 'int8': got 'int4'"),
        ({"max_memory": 0}, "max_memory must be positive: got 0"),
        ({"passages": np.array([[0, 0, 0, 1], [0, 0, 0, np.nan]], np.float32)}, "passages must be finite: row 1 holds"),
        ({"queries": np.array([[np.inf, 0, 0, 0]], np.float32)}, "queries must be finite: row 0 holds"),
        ({"queries": np.full((1, 4), 1e30, np.float32)}, "queries must have norms of at most 1e.18: row 0 is longer"),
        ({"ceiling": np.zeros(2, np.float32)}, r"ceiling must have one entry per query: 3, got \(2,\)"),
        ({"ceiling": np.full(3, np.nan, np.float32)}, "ceiling must hold no NaN"),
        (
            {"exclude": (np.array([0, 1]), np.array([0]))},
            "exclude must be CSR .* indptr of 4 entries from 0 to 1, got 2",
        ),
        ({"exclude": (np.array([0, 1, 0, 1]), np.array([0]))}, "exclude must be CSR .* indptr decreases"),
        ({"exclude": (np.array([0, 1, 1, 1]), np.array([0.5]))}, r"exclude\[1\] must hold integers: got float64"),
        ({"exclude": (np.array([0, 1, 1, 1]), np.array([9]))}, r"exclude\[1\] must be rows of passages, 0 to 8: got 9"),
    ],
)
def test_bad_values_are_named(change, message):
    """Every bad value should be refused in one line, before any work."""
    arguments = {"queries": normal(3, 4), "passages": normal(9, 4, 1), "k": 2} | change
    data = [arguments.pop(name) for name in ("queries", "passages", "k")]
    with pytest.raises(ValueError, match=message):
        top_k(*data, **arguments)


@pytest.mark.parametrize("kind", [np.float64, np.int64])
def test_other_formats_are_refused_with_the_cure(kind):
    """A float64 or integer matrix should be refused with the call that converts it."""
    with pytest.raises(TypeError, match=r"passages must be float32, float16 or bfloat16: got .*; call passages.astype"):
        top_k(normal(3, 4), normal(9, 4).astype(kind), 2)
    with pytest.raises(TypeError, match=r"queries must be .*; call queries.float\(\)"):
        top_k(torch.zeros(3, 4, dtype=torch.float64), torch.zeros(9, 4), 2)
    with pytest.raises(TypeError, match="queries must be a tensor or an array: got list"):
        top_k([[1.0]], normal(9, 4), 2)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("max_memory", [SMALL, 2**28])
@pytest.mark.parametrize("threshold", [3.0, 0.0, -math.inf, 100.0])
def test_range_search_equals_the_definition(precision, max_memory, threshold):
    """All pairs of at least the threshold, it included, should come as CSR with ascending columns."""
    queries, passages = signs(9, 8, 36), signs(130, 8, 37)
    indptr, columns, scores = range_search(queries, passages, threshold, precision=precision, max_memory=max_memory)
    expected = queries @ passages.T
    rows, cells = np.nonzero(expected >= threshold)
    assert (columns == cells).all() and (scores == expected[rows, cells]).all()
    assert (np.diff(indptr) == np.bincount(rows, minlength=9)).all() and len(indptr) == 10


def test_range_search_of_tensors_and_bad_thresholds():
    """Tensors should give tensors, the same for every memory, and NaN should be refused."""
    points = torch.from_numpy(normal(300, 20, 38))
    found = range_search(points, points, 12.0)
    again = range_search(points, points, 12.0, precision="bfloat16", max_memory=50_000)
    assert all(isinstance(value, torch.Tensor) for value in found)
    assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True))
    with pytest.raises(ValueError, match="threshold must be a number: got nan"):
        range_search(points, points, math.nan)


@given(seed=st.integers(0, 2**32 - 1), d=st.integers(1, 130), block=st.integers(1, 50))
@settings(max_examples=30, deadline=None)
def test_pair_scores_equal_top_k_bit_for_bit(seed, d, block):
    """The score of a pair should have the same bits in a search, in any block, and alone."""
    queries, passages = normal(6, d, seed), normal(40, d, seed + 1)
    scores, indices = top_k(queries, passages, 40, precision="bfloat16", max_memory=SMALL)
    rows = np.repeat(np.arange(6), 40)
    assert (pair_scores(queries, passages, rows, indices.ravel(), block=block) == scores.ravel()).all()
    alone = pair_scores(queries, passages, rows[:1], indices.ravel()[:1])
    assert alone[0] == scores[0, 0]
    slow = [float(np.dot(queries[i].astype(float), passages[j].astype(float))) for i, j in zip(rows, indices.ravel())]
    np.testing.assert_allclose(scores.ravel(), slow, rtol=1e-5, atol=1e-4)


def test_pair_scores_of_nothing_and_of_wrong_rows():
    """No pairs should give no scores; rows outside the data should be refused."""
    points = normal(4, 3)
    assert pair_scores(points, points, *EMPTY).shape == (0,)
    assert isinstance(pair_scores(torch.from_numpy(points), points, [0], [1]), torch.Tensor)
    with pytest.raises(ValueError, match="passage_rows must be rows of passages, 0 to 3: got 4 to 4"):
        pair_scores(points, points, np.array([0]), np.array([4]))
    with pytest.raises(ValueError, match="query_rows must be rows of queries, 0 to 3: got -1 to 0"):
        pair_scores(points, points, np.array([0, -1]), np.array([0, 0]))
    with pytest.raises(ValueError, match="passage_rows must have one entry per row of query_rows"):
        pair_scores(points, points, np.array([0, 1]), np.array([0]))
    with pytest.raises(ValueError, match="block must be at least 1"):
        pair_scores(points, points, *EMPTY, block=0)


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
@pytest.mark.parametrize("sign", [-1, 1])
def test_scores_of_one_sign(precision, sign):
    """Where all scores of a query are negative, or all positive, coarse products should find the same passages."""
    queries, passages = np.abs(normal(40, 24, 51)), np.float32(sign) * np.abs(normal(4000, 24, 52))
    expected = top_k(queries, passages, 30, precision="float32")
    for options in ({}, {"max_memory": 300_000}, {"ceiling": np.full(40, np.inf, np.float32)}):
        found = top_k(queries, passages, 30, precision=precision, **options)
        assert all((a == b).all() for a, b in zip(found, expected, strict=True))
