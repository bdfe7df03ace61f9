"""Evaluation of an encoder: the array path equals trec_eval's own numbers, ties and grades included."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest

from tamis import encoders, plan, retrieval, sample_data, search
from tamis.data import from_python
from tamis.results import Table
from tests import verses


class Rounded(verses.LetterEncoder):
    """Vectors so coarse that many passages tie."""

    def encode(self, texts):
        return np.round(super().encode(texts)[:, :24]) + 0.001


def graded():
    rng = np.random.default_rng(0)
    data = verses.data()
    ids = data.corpus.ids[:300]
    corpus = dict(zip(ids, data.corpus.texts[:300], strict=True))
    queries = dict(zip(data.queries.ids[:80], data.queries.texts[:80], strict=True))
    judged = {
        q: {str(i): int(g) for i, g in zip(rng.choice(ids, 4, replace=False), (1, 1, 2, 3), strict=True)}
        for q in queries
    }
    return from_python(queries, corpus, judged)


def test_metrics_equal_trec_eval():
    """nDCG, MRR, recall and MAP of a coarse encoder equal pytrec_eval's on the same scores."""
    pytrec_eval = pytest.importorskip("pytrec_eval")
    data = graded()
    found = retrieval.evaluate(Rounded(), data)
    encoded = map(Rounded().encode, (data.queries.texts, data.corpus.texts))
    units = [encoders.unit_rows(v, "vectors") for v in encoded]
    scores, indices = search.top_k(units[0], units[1], len(data.corpus))
    assert np.mean(np.diff(scores, axis=1) == 0) > 0.02  # there are ties to break
    run = {
        q: {data.corpus.ids[i]: float(s) for i, s in zip(rows, own, strict=True)}
        for q, rows, own in zip(data.queries.ids, indices, scores, strict=True)
    }
    qrels = {
        q: {data.corpus.ids[r]: int(g) for r, g in zip(rows, grades, strict=True)}
        for q, rows, grades in zip(data.queries.ids, data.positives, data.grades, strict=True)
    }
    theirs = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut.10", "recall.10", "map_cut.100"}).evaluate(run)
    for ours, name in (("nDCG@10", "ndcg_cut_10"), ("recall@10", "recall_10"), ("MAP@100", "map_cut_100")):
        expected = [theirs[q][name] for q in data.queries.ids]
        assert found.per_query[ours] == pytest.approx(np.array(expected), abs=1e-6), ours


def test_perfect_and_written(tmp_path):
    """Letters find most verses; an encoder does not differ from itself; the per-query file has a row per query."""
    data = verses.data()
    found = retrieval.evaluate(verses.LetterEncoder(), data)
    assert found.means()["nDCG@10"] > 0.7
    same = found.against(found)["nDCG@10"]
    assert (same["difference"], same["low"], same["high"], same["ties"]) == (0, 0, 0, len(data.queries))
    found.write(tmp_path / "x.parquet")
    table = pq.read_table(tmp_path / "x.parquet")
    assert table.num_rows == len(data.queries) and table.column_names == ["query_id", *retrieval.HEADLINE]


def test_plan_counts_and_refuses(monkeypatch):
    """The plan grows with the work and is refused with the cure when memory is short."""
    table = Table([str(i) for i in range(1000)], ["text"] * 1000)
    small = plan.plan_mining(table, table, encoder=None, dimensions=64, depth=10, block_bytes=2**20)
    large = plan.plan_mining(table, table, encoder=None, dimensions=640, depth=100, block_bytes=2**28)
    assert large.peak_bytes > small.peak_bytes > 0 and "1,000 queries x 1,000 passages x 64 dimensions" in str(small)
    small.refuse_unless_it_fits()
    monkeypatch.setattr(plan, "free_memory", lambda: 1000)
    with pytest.raises(ValueError, match="mining needs about .* GB are free: lower --depth"):
        small.refuse_unless_it_fits()
    timed = plan.plan_mining(table, table, encoder=verses.LetterEncoder(), dimensions=0, depth=10, block_bytes=2**20)
    assert timed.dimensions == 256 and timed.seconds > 0


@pytest.mark.parametrize(("text", "size"), [("512MB", 2**29), ("2GB", 2**31), ("1.5g", 3 * 2**29), (2**20, 2**20)])
def test_memory_sizes(text, size):
    """Sizes come with units."""
    assert plan.parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "GB", "2 bags", "-1MB", "10"])
def test_bad_memory_sizes(text):
    """What is no size, or too little to work with, is refused."""
    with pytest.raises(ValueError, match="max-memory must be"):
        plan.parse_bytes(text)


def test_one_positive_shown():
    """One positive for most queries, all of them for a share of the queries, never one that is not known."""
    full = verses.data(both=600)
    seen = sample_data.show_one(full, share=0.3)
    counts = [len(p) for p in seen.positives[:600]]
    assert 0.22 < np.mean([c == 2 for c in counts]) < 0.38
    assert all(set(s) <= set(f) for s, f in zip(seen.positives, full.positives, strict=True))
    parts = [len(sample_data.part(full, s).queries) for s in sample_data.SPLITS]
    assert sum(parts) == len(full.queries) and parts[0] > parts[2] > parts[1]
