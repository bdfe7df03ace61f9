"""Approximate search: recall that is measured, exact scores, exclusions, and what is refused."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from tamis import approximate, cli, runs, search
from tamis.approximate import clustered_interval, default_probes, lists_of
from tamis.data import from_python, write_beir
from tamis.engine import HERE
from tamis.intervals import wilson
from tamis.mining_report import page_of
from tamis.negatives import mine_negatives

pytest.importorskip("faiss")


def clustered(seed, n=2000, q=60, d=16):
    """Passages in clusters of twenty, and queries near some of them; rows of length one."""
    rng = np.random.default_rng(seed)
    passages = np.repeat(rng.standard_normal((-(-n // 20), d)), 20, 0)[:n] + 0.3 * rng.standard_normal((n, d))
    positives = rng.permutation(n)[:q]
    queries = passages[positives] + 0.2 * rng.standard_normal((q, d))
    units = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (queries, passages)]
    return units[0].astype(np.float32), units[1].astype(np.float32), positives


def csr(rows):
    """Lists of columns as CSR."""
    return np.cumsum([0, *map(len, rows)]), np.array([c for row in rows for c in row], np.int64)


def data(seed, q=60):
    """Clustered vectors with texts, ready to mine."""
    queries, passages, positives = clustered(seed, q=q)
    texts = [f"passage number {i}" for i in range(len(passages))]
    found = from_python([f"question {i}" for i in range(q)], texts, [[int(p)] for p in positives])
    return found, queries, passages


def recall_by_hand(exact, indices):
    """Per query how many of the exact results are among the indices, in plain loops."""
    return [sum(1 for p in row if p in set(found.tolist())) for row, found in zip(exact, indices, strict=True)]


def test_all_lists_are_the_exact_search():
    """A search that looks into every list should return what the exact search returns, bit for bit."""
    queries, passages, positives = clustered(0)
    exclude = csr([[int(p)] for p in positives])
    exact = search.top_k(queries, passages, 30, exclude=exclude)
    scores, indices, recall = approximate.top_k(queries, passages, 30, exclude=exclude, probes=10**6)
    assert np.array_equal(indices, exact[1]) and np.array_equal(scores, exact[0])
    assert recall.rate == 1 and recall.probes == recall.lists == lists_of(2000)


@pytest.mark.parametrize("probes", [1, 2, 8])
def test_recall_is_that_of_a_count_by_hand(probes):
    """The recall should be the share of exact results that were found, counted in plain loops."""
    queries, passages, _ = clustered(1)
    exact = search.top_k(queries, passages, 20)[1]
    scores, indices, recall = approximate.top_k(queries, passages, 20, probes=probes, sample=1000)
    assert recall.found.tolist() == recall_by_hand(exact, indices) and recall.of.tolist() == [20] * 60
    again = search.pair_scores(queries, passages, np.repeat(np.arange(60), 20), np.maximum(indices, 0).ravel())
    assert np.array_equal(scores, np.where(indices >= 0, again.reshape(60, 20), -np.inf))
    assert (scores[:, :-1] >= scores[:, 1:]).all()


def test_more_lists_find_more():
    """Recall should be imperfect with one list, grow with the lists, and be high by default on clustered data."""
    queries, passages, _ = clustered(2)
    rates = [approximate.top_k(queries, passages, 100, probes=p)[2].rate for p in (1, 4, 16, None)]
    assert rates[0] < rates[1] < rates[2] <= 1 and rates[0] < 0.6 and rates[3] > 0.9


def test_the_sample_speaks_for_all_queries():
    """The interval of a sample should hold the recall over all queries."""
    queries, passages, _ = clustered(3, q=400)
    everyone = approximate.top_k(queries, passages, 20, probes=2, sample=400)[2]
    part = approximate.top_k(queries, passages, 20, probes=2, sample=100)[2]
    assert len(part.of) == 100
    low, high = part.interval
    assert low <= everyone.rate <= high


def test_exclusions_cost_no_results():
    """Excluded passages should never be found, and a row with many of them should still be full."""
    queries, passages, _ = clustered(4)
    nearest = search.top_k(queries, passages, 40)[1]
    exclude = csr([nearest[i, : (0, 1, 3, 40)[i % 4]].tolist() for i in range(60)])
    scores, indices, recall = approximate.top_k(queries, passages, 25, exclude=exclude, probes=10**6)
    assert np.array_equal(indices, search.top_k(queries, passages, 25, exclude=exclude)[1]) and recall.rate == 1
    few = approximate.top_k(queries, passages, 25, exclude=exclude, probes=2)[1]
    for i, row in enumerate(few):
        assert not set(row.tolist()) & set(exclude[1][exclude[0][i] : exclude[0][i + 1]].tolist())
    assert np.isfinite(scores).all()


def test_a_seed_gives_one_result():
    """Equal seeds should give equal results; the global generator should not move."""
    queries, passages, _ = clustered(5)
    np.random.seed(1)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    one, two = (approximate.top_k(queries, passages, 20, probes=2, seed=7) for _ in range(2))
    assert np.array_equal(one[0], two[0]) and np.array_equal(one[1], two[1]) and one[2].rate == two[2].rate
    assert np.array_equal(before, np.random.get_state()[1])  # noqa: NPY002


def test_vectors_in_a_file(tmp_path):
    """Memory-mapped and half-precision passages should be searched; the inputs should stay as they are."""
    queries, passages, _ = clustered(6)
    np.save(tmp_path / "p.npy", passages)
    mapped = np.load(tmp_path / "p.npy", mmap_mode="r")
    one, two = approximate.top_k(queries, passages, 9), approximate.top_k(queries, mapped, 9)
    assert np.array_equal(one[1], two[1]) and np.array_equal(mapped, passages)
    half = approximate.top_k(queries.astype(np.float16), passages.astype(np.float16), 9, probes=10**6)
    assert half[2].rate == 1 and half[0].dtype == np.float32


def test_ties_are_no_misses():
    """Another passage with the score of the last exact result should count as found."""
    exact = np.array([[3.0, 2.0], [1.0, -np.inf], [-np.inf, -np.inf]], np.float32)
    recall = approximate._recall(exact, np.array([[2.0, 2.0], [0.5, 0.1], [-np.inf] * 2], np.float32), 4, 2)
    assert recall.found.tolist() == [2, 0, 0] and recall.of.tolist() == [2, 1, 0]


def test_interval_knows_that_queries_miss_together():
    """Queries that miss all or nothing should count as one result each; independent misses nearly as all results."""
    of = np.full(50, 20)
    together = np.where(np.arange(50) < 40, 20, 0)
    assert clustered_interval(together, of) == pytest.approx(wilson(40, 50))
    rng = np.random.default_rng(0)
    low, high = clustered_interval(rng.binomial(20, 0.8, 50), of)
    assert high - low < 1.3 * np.subtract(*reversed(wilson(800, 1000)))
    assert clustered_interval(np.zeros(0, int), np.zeros(0, int)) == (0.0, 1.0)


def test_default_probes_hold_the_results():
    """The default should never ask for more lists than there are, and hold four times the results where it can."""
    for n in (1000, 5000, 10**6):
        for k in (1, 200, 5000):
            probes, lists = default_probes(n, k), lists_of(n)
            assert 1 <= probes <= lists and (probes == lists or probes * n / lists >= 4 * k)
            assert n / lists >= 40


def test_mining_reports_the_recall(tmp_path):
    """Mining with an index should keep known positives out, and store and show the recall; exact mining has none."""
    found, queries, passages = data(7)
    given = {"query_embeddings": queries, "corpus_embeddings": passages, "relative_margin": 0.05, "depth": 50}
    mined = mine_negatives(found, index="ivf", probes=3, **given)
    told = mined.summary["search"]
    low, high = told["interval"]
    assert told["probes"] == 3 and low <= told["rate"] <= high and told["queries"] == 60 and told["rate"] < 1
    positives = {(i, int(p[0])) for i, p in enumerate(found.positives)}
    assert not positives & set(zip(*(mined.negatives[c].tolist() for c in ("query", "negative")), strict=True))
    page = page_of(mined)
    assert any("recall" in fact for fact in page.subtitle)
    assert any(tile.label == "recall of the search" for tile in page.tiles)
    mined.report(tmp_path / "page.html")
    assert f"recall {told['rate']:.1%}" in (tmp_path / "page.html").read_text(encoding="utf-8")
    assert mine_negatives(found, **given).summary["search"] is None


def test_all_lists_mine_what_exact_mining_mines():
    """With every list probed, mining should pick the negatives of the exact search."""
    found, queries, passages = data(8)
    given = {"query_embeddings": queries, "corpus_embeddings": passages, "relative_margin": 0.05, "depth": 50}
    one, two = mine_negatives(found, **given), mine_negatives(found, index="ivf", probes=10**6, **given)
    for column in one.negatives:
        assert np.array_equal(one.negatives[column], two.negatives[column])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"k": 0}, "k must be at least 1"),
        ({"probes": 0}, "probes must be at least 1"),
        ({"sample": 0}, "sample must be at least 1"),
        ({"passages": np.zeros((999, 16), np.float32)}, "at least 1,000 passages to search: got 999; use index exact"),
        ({"queries": np.full((2, 16), np.nan, np.float32)}, "queries must be finite"),
        ({"queries": np.zeros((2, 15), np.float32)}, "columns"),
    ],
)
def test_bad_input(change, says):
    """Every bad input should be refused in one line."""
    queries, passages, _ = clustered(9)
    given = {"queries": queries, "passages": passages, "k": 5} | change
    with pytest.raises(ValueError, match=says):
        approximate.top_k(given.pop("queries"), given.pop("passages"), given.pop("k"), **given)


def test_what_is_refused_before_the_work(monkeypatch):
    """A cluster, no vectors, probes of an exact search, an unknown index and a missing package should be refused."""
    cases = [
        (("ivf", None), {"ray": True, "passages": 5000, "vectors": True}, "cannot go with engine ray"),
        (("ivf", None), {"ray": False, "passages": 5000, "vectors": False}, "searches vectors"),
        (("exact", 3), {"ray": False, "passages": 5000, "vectors": True}, "probes are for an approximate search"),
        (("hnsw", None), {"ray": False, "passages": 5000, "vectors": True}, "index"),
    ]
    for arguments, more, says in cases:
        with pytest.raises(ValueError, match=says):
            approximate.check(*arguments, **more)
    with pytest.raises(ValueError, match="cannot go with engine ray"):
        approximate.searcher("ivf", None, type("Other", (type(HERE),), {})(), seed=0, passages=5000, vectors=True)
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match=r'not installed: pip install "tamis\[faiss\]"'):
        approximate.check("ivf", None, ray=False, passages=5000, vectors=True)


def run(capsys, *arguments):
    """Exit code, stdout and stderr of a command."""
    try:
        cli.main([str(a) for a in arguments])
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    out = capsys.readouterr()
    return code, out.out, out.err


def test_command_line(capsys, tmp_path, monkeypatch):
    """The command should print and store the recall, and refuse a cluster, a missing package and a stray --probes."""
    found, queries, passages = data(10, q=100)
    write_beir(found, tmp_path / "beir")
    np.save(tmp_path / "q.npy", queries)
    np.save(tmp_path / "p.npy", passages)
    command = ["mine", tmp_path / "beir", "-o", tmp_path / "out", "--query-embeddings", tmp_path / "q.npy",
               "--corpus-embeddings", tmp_path / "p.npy", "--margin", 0.05, "--depth", 50]  # fmt: skip
    code, text, err = run(capsys, *command, "--index", "ivf", "--probes", 3)
    assert (code, err) == (0, "") and "Search   approximate search (3 of 50 lists): recall " in text
    stored = runs.load(tmp_path / "out").summary["search"]
    assert stored["probes"] == 3 and f"recall {stored['rate']:.1%}" in text
    for more, says in (
        (("--index", "ivf", "--engine", "ray"), "cannot go with engine ray"),
        (("--probes", 3), "probes are for an approximate search"),
    ):
        code, _, err = run(capsys, *command, *more)
        assert code == 2 and says in err and err.count("\n") == 1
    monkeypatch.setitem(sys.modules, "faiss", None)
    code, _, err = run(capsys, *command, "--index", "ivf")
    assert code == 2 and "tamis[faiss]" in err and err.count("\n") == 1
