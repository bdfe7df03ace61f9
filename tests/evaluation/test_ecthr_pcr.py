"""ECtHR-PCR: pools by date, citations, metrics per year, chunks, samplers that never look ahead, and the generator."""

from __future__ import annotations

import datetime
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis import ranking
from tamis.evaluation import (
    HierarchicalPooler,
    NegativeSampler,
    TemporalRetrievalBenchmark,
    bm25_scorer,
    dense_scorer,
    load_ecthr_pcr,
    popularity_scorer,
    search_scorer,
    split_chunks,
    synthetic_court,
)
from tamis.evaluation.ecthr_pcr.benchmark import yearly_slope
from tamis.lexical import LexicalIndex
from tamis.rank_correlation import spearman
from tests.behaviour import ArrayCase


def court(dates, citations, **options) -> TemporalRetrievalBenchmark:
    """Cases a, b, c, ... with the given years."""
    names = "abcdefghijklmnop"[: len(dates)]
    corpus = {name: {"facts": f"facts{name}", "law": [f"law{name}", "more"]} for name in names}
    return TemporalRetrievalBenchmark(corpus, citations, dict(zip(names, dates, strict=True)), **options)


def make(seed: int) -> list:
    """A case for the shared checks: the inner products of vectors."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(6, 3))
    return [
        ArrayCase(
            "dense_scorer",
            lambda s, q, d: dense_scorer(q, d)(np.arange(3)),
            (vectors, vectors + 1),
            empty=lambda: dense_scorer(vectors[:0], vectors),
        )
    ]


# Pools and citations


def test_pools_hold_what_is_strictly_earlier():
    """Cases of the same date should be left out unless asked for, the query itself always."""
    plain = court([2000, 2001, 2001, 2003], {"d": ["a"]})
    assert plain.candidates("d").tolist() == [True, True, True, False]
    assert plain.candidates("c").tolist() == [True, False, False, False]
    same_day = court([2000, 2001, 2001, 2003], {"d": ["a"]}, allow_same_day=True)
    assert same_day.candidates("c").tolist() == [True, True, False, False]
    days = court(["2001-03-02T10:00:00", datetime.date(2001, 3, 1), 2001, "2001-02-01"], {})
    assert days.ids == ["c", "d", "b", "a"]


def test_citations_that_cannot_be_met_are_counted():
    """Later and unknown cases should be dropped with a warning, and a query left without answers not be counted."""
    with pytest.warns(UserWarning, match="3 citations are of later or unknown cases"):
        made = court([2000, 2001, 2002, 2003], {"a": ["d"], "b": ["x", "a"], "c": ["c2"]})
    assert made.dropped == 3
    assert [rows.tolist() for rows in made.cited] == [[], [0], [], []]
    report = made.evaluate(lambda rows: np.zeros((len(rows), 4)), queries=np.arange(4), ks=[1])
    assert report.skipped == 3
    assert report.metrics["recall@1"] == 1.0
    asked = made.evaluate(lambda rows: np.zeros((len(rows), 4)), ks=[1])
    assert asked.skipped == 2  # a and c cite, and nothing that is there; d cites nothing
    assert asked.rows.tolist() == [1]


def test_a_number_means_the_version_before_the_query():
    """Of several versions of a case the latest that was there should be cited."""
    corpus = {name: {"facts": "x"} for name in ("1A", "1B", "1C", "2", "3")}
    dates = {"1A": 2000, "1B": 2002, "1C": 2004, "2": 2003, "3": 2001}
    made = TemporalRetrievalBenchmark(corpus, {"2": ["1"], "3": ["1"]}, dates)
    assert [made.ids[row] for row in made.cited[made.row("2")]] == ["1B"]
    assert [made.ids[row] for row in made.cited[made.row("3")]] == ["1A"]


def test_the_split_is_by_time():
    """Queries of the test should be later than those of the training; those without answers are in neither."""
    made = court([2000, 2001, 2002, 2003, 2004], {"b": ["a"], "c": ["a"], "e": ["b"]})
    parts = made.split(2001, 2003)
    assert [part.tolist() for part in (parts.train, parts.validation, parts.test)] == [[1], [2], [4]]


def test_views():
    """Facts, law and both should be what is asked for."""
    made = court([2000, 2001], {"b": ["a"]}, doc_view="law")
    assert made.query_texts == ["factsa", "factsb"]
    assert made.doc_texts == ["lawa more", "lawb more"]
    assert made.texts("facts+law")[0] == "factsa lawa more"


# Metrics


def test_recall_and_reciprocal_rank():
    """The numbers of the specification."""
    gains = np.array([[1.0, 0, 0, 1]])
    assert ranking.recall(gains, np.array([2]), 2).tolist() == [0.5]
    assert ranking.recall(gains, np.array([2]), 4).tolist() == [1.0]
    assert ranking.mrr(np.array([[0.0, 0, 1, 0]]), 4).tolist() == pytest.approx([1 / 3])
    assert yearly_slope([14, 15, 16], [0.6, 0.5, 0.4]) == pytest.approx(-0.1)
    assert spearman([14, 15, 16], [0.6, 0.5, 0.4]) == pytest.approx(-1)
    assert math.isnan(yearly_slope([14], [0.6]))


def test_means_are_over_queries_and_told_by_year():
    """A query should count once, however many answers it has; a year be the mean of its queries."""
    made = court([2000, 2000, 2001, 2002, 2002], {"c": ["a"], "d": ["a", "b"], "e": ["b"]})
    scores = np.tile([3.0, 2.0, 1.0, 0.0, 0.0], (5, 1))
    report = made.evaluate(lambda rows: scores[rows], ks=[1])
    assert report.each["recall@1"].tolist() == [1.0, 0.5, 0.0]
    assert report.metrics["recall@1"] == 0.5
    assert report.years.tolist() == [2001, 2002]
    assert report.queries.tolist() == [1, 2]
    assert report.by_year["recall@1"].tolist() == [1.0, 0.25]
    assert report.slope["recall@1"] == -0.75
    assert report.spearman["recall@1"] == -1.0
    assert report.each["mrr"].tolist() == [1.0, 1.0, 0.5]
    assert made.evaluate(lambda rows: scores[rows], queries=np.array([2, 3]), ks=[1]).metrics["recall@1"] == 0.75


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_evaluation_agrees_with_loops(seed):
    """Recall and reciprocal rank should be those of a sort of each pool; what lies outside should not matter."""
    made = synthetic_court(years=4, cases=6, issues=2, background=20, seed=seed)
    rng = np.random.default_rng(seed)
    scores = rng.permuted(np.tile(np.arange(len(made), dtype=float), (len(made), 1)), axis=1)
    report = made.evaluate(lambda rows: scores[rows], ks=[3])
    rows = [row for row in range(len(made)) if len(made.cited[row])]
    assert report.rows.tolist() == rows
    for place, row in enumerate(rows):
        pool = np.flatnonzero(made.candidates(made.ids[row]))
        ranked = sorted(pool.tolist(), key=lambda other: -scores[row, other])
        hits = [other in made.cited[row] for other in ranked]
        assert report.each["recall@3"][place] == pytest.approx(sum(hits[:3]) / len(made.cited[row]))
        assert report.each["mrr"][place] == pytest.approx(1 / (hits.index(True) + 1))
    outside = np.where(np.arange(len(made)) >= made.pool_sizes[:, None], 1e9, scores)
    assert made.evaluate(lambda rows: outside[rows], ks=[3]).metrics == report.metrics


def test_scorers():
    """Words should find words, popularity count only what was cited before, and what is not found not count."""
    made = court([2000, 2001, 2002, 2003], {"b": ["a"], "c": ["a"], "d": ["b"]})
    found = popularity_scorer(made)(np.array([2, 3]))
    assert found[:, 0].astype(int).tolist() == [1, 2]
    assert made.evaluate(bm25_scorer(made), ks=[4]).metrics["recall@4"] == 0.0  # facts share no word
    texts = {"a": {"facts": "sea law"}, "b": {"facts": "sand"}, "c": {"facts": "the law of the sea"}}
    words = TemporalRetrievalBenchmark(texts, {"c": ["a"]}, {"a": 1, "b": 2, "c": 3})
    assert words.evaluate(bm25_scorer(words), ks=[1]).metrics["mrr"] == 1.0


@given(seed=st.integers(0, 2**32 - 1), k=st.integers(1, 40), same_day=st.booleans())
@settings(max_examples=20, deadline=None)
def test_search_finds_the_best_of_each_pool(seed, k, same_day):
    """Exact search should give the products of the k best in the pool and nothing else, for tensors as for arrays."""
    rng = np.random.default_rng(seed)
    years = rng.integers(2000, 2004, 16)
    made = court(years.tolist(), {}, allow_same_day=same_day)
    vectors = rng.normal(size=(2, 16, 8)).astype(np.float32)
    rows = rng.permutation(16)[:5]
    found = search_scorer(made, *vectors, k=k)(rows)
    full = dense_scorer(*vectors)(rows)
    for place, row in enumerate(rows.tolist()):
        pool = np.flatnonzero(made.candidates(made.ids[row]))
        best = pool[np.argsort(-full[place, pool])][:k]
        assert np.flatnonzero(np.isfinite(found[place])).tolist() == sorted(best.tolist())
        assert found[place, best] == pytest.approx(full[place, best], abs=1e-5)
    again = search_scorer(made, *(torch.from_numpy(part) for part in vectors), k=k)(rows)
    assert np.array_equal(again, found)


def test_popularity_does_not_count_the_query():
    """With cases of the same day in the pool, a query's own citations should still not help to find its answers."""
    made = court([2000, 2000, 2001, 2001], {"c": ["b"], "d": ["a"]}, allow_same_day=True)
    assert popularity_scorer(made)(np.array([2, 3])).astype(int).tolist() == [[1, 0, 0, 0], [0, 1, 0, 0]]


def test_bm25_of_the_specification():
    """Scores should be those of the specification but for the constant factor k1 + 1, which changes no ranking."""
    index = LexicalIndex(["aa bb", "aa aa cc", "bb dd"], stop_words=[])  # words have two letters here
    scores, indices = index.top_k(["aa"], 3)
    assert indices[0].tolist() == [1, 0, -1]
    assert (2.5 * scores[0, :2]).tolist() == pytest.approx([0.614958, 0.502294], abs=1e-5)
    lengths = 1.5 * (1 - 0.75 + 0.75 * np.array([3, 2]) / (7 / 3))  # k1, b and the mean length
    counts = np.array([2, 1])
    assert (scores[0, :2] * (counts + lengths) / counts).tolist() == pytest.approx([0.470004] * 2, abs=1e-5)


# Long texts


def test_chunks_and_their_pooling():
    """The best pair, the mean and the learned mean by hand; a single chunk should be the plain encoder."""
    query, document = torch.eye(2)[None], torch.tensor([[[0.1, 0.3], [0.9, 0.2]]])
    assert HierarchicalPooler("max")(query, document).item() == pytest.approx(0.9)
    uneven = torch.tensor([[[1.0, 0], [0, 1.0], [0, 1.0]]])
    assert HierarchicalPooler("mean").pool(uneven, torch.tensor([[True, True, False]])).tolist() == [[0.5, 0.5]]
    vectors = torch.randn(4, 1, 8, generator=torch.Generator().manual_seed(0))
    learned = HierarchicalPooler("attention", dimension=8)
    with torch.no_grad():
        learned.weight.copy_(torch.arange(8.0))
    expected = vectors[:, 0] @ vectors[:, 0].T
    for pooler in (HierarchicalPooler("max"), HierarchicalPooler("mean"), learned):
        assert torch.allclose(pooler(vectors, vectors), expected, atol=1e-5)
    flat = torch.tensor([[1.0], [2.0], [6.0]])  # a text of three words in chunks of two and one
    means = torch.stack([flat[:2].mean(0), flat[2:].mean(0)])[None]
    assert HierarchicalPooler("mean").pool(means).item() != pytest.approx(flat.mean().item())
    even = torch.tensor([[1.0], [2.0], [6.0], [3.0]])
    means = torch.stack([even[:2].mean(0), even[2:].mean(0)])[None]
    assert HierarchicalPooler("mean").pool(means).item() == pytest.approx(even.mean().item())


@given(seed=st.integers(0, 2**32 - 1), kind=st.sampled_from(["max", "mean", "attention"]))
@settings(max_examples=30, deadline=None)
def test_pooling_agrees_with_loops_and_masks(seed, kind):
    """Scores should be their definition over the chunks that are there; what is masked should not matter."""
    g = torch.Generator().manual_seed(seed)
    q, d = torch.randn(3, 2, 4, generator=g), torch.randn(5, 3, 4, generator=g)
    own, other = torch.rand(3, 2, generator=g) < 0.7, torch.rand(5, 3, generator=g) < 0.7
    own[:, 0] = other[:, 1] = True
    pooler = HierarchicalPooler(kind, dimension=4)
    if kind == "attention":
        pooler.weight.data = torch.randn(4, generator=g)
    scores = pooler(q, d, own, other).detach()

    def vector(chunks):
        weight = torch.zeros(4) if pooler.weight is None else pooler.weight.detach()
        return ((chunks @ weight).softmax(0)[:, None] * chunks).sum(0)

    for i in range(3):
        for j in range(5):
            a, b = q[i][own[i]], d[j][other[j]]
            expected = (a @ b.T).max() if kind == "max" else vector(a) @ vector(b)
            assert scores[i, j].item() == pytest.approx(expected.item(), abs=1e-5)
    noise = torch.where(other[..., None], d, torch.full_like(d, 1e3))
    assert torch.equal(pooler(q, noise, own, other).detach(), scores)


def test_windows_cover_everything():
    """Windows should overlap as asked, leave nothing out, and a short text be one."""
    assert split_chunks(list(range(7)), 4, 3) == [[0, 1, 2, 3], [3, 4, 5, 6]]
    assert split_chunks(list(range(8)), 4, 3) == [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7]]
    assert split_chunks("ab", 4) == ["ab"]
    assert split_chunks([], 4) == [[]]


# Negatives


@pytest.mark.parametrize("kind", ["random", "bm25", "dynamic", "curriculum", "graph"])
def test_negatives_are_earlier_and_not_cited(kind):
    """In 1,000 draws no cited case, no later one, not the query and none twice should come."""
    made = synthetic_court(years=6, cases=15, issues=3, background=50, seed=1)
    rows = np.array([row for row in range(len(made)) if made.pool_sizes[row] >= 30])
    scorer = bm25_scorer(made) if kind in ("bm25", "dynamic", "curriculum") else None
    sampler = NegativeSampler(made, kind, scorer=scorer, depth=12, seed=3)
    for step in range(-(-1000 // len(rows))):
        drawn = sampler.draw(rows, 5, step=step, progress=min(1.0, step / 10))
        for row, negatives in zip(rows.tolist(), drawn.tolist(), strict=True):
            assert len(set(negatives)) == 5
            assert not set(negatives) & {*made.cited[row].tolist(), row}
            assert max(negatives) < made.pool_sizes[row]
    assert (sampler.draw(rows, 5, step=0) == sampler.draw(rows, 5, step=0)).all()
    assert (sampler.draw(rows, 5, step=0) != sampler.draw(rows, 5, step=1)).any()


def test_difficulty_is_as_said():
    """Hard negatives should be near the top of a ranking, a curriculum move up it, and a refresh change it."""
    made = synthetic_court(years=4, cases=25, issues=2, background=50, seed=2)
    row = np.array([len(made) - 1])
    scores = np.tile(np.arange(len(made), dtype=float), (len(made), 1))

    def scorer(rows):
        return scores[rows]

    hard = NegativeSampler(made, "bm25", scorer=scorer, depth=8).draw(row, 4)
    assert hard.min() >= made.pool_sizes[row[0]] - 8 - len(made.cited[row[0]])
    gradual = NegativeSampler(made, "curriculum", scorer=scorer, depth=8)
    assert gradual.draw(row, 4, progress=0.0).max() < 20 < gradual.draw(row, 4, progress=1.0).min()
    moving = NegativeSampler(made, "dynamic", scorer=scorer, depth=8)
    moving.draw(row, 4)
    moving.refresh(lambda rows: -scores[rows])
    assert moving.draw(row, 4).max() < 20
    near = NegativeSampler(made, "graph").draw(row, 3)
    citing = [r for r in range(row[0]) if set(made.cited[r]) & set(made.cited[row[0]])]
    around = {*citing, *(c for r in citing for c in made.cited[r].tolist())}
    assert set(near[0].tolist()) <= around


def test_the_graph_ends_before_the_query():
    """Citations by later cases should not tell what is near: b is cited with a, but only after g."""
    made = court(list(range(2000, 2008)), {"c": ["a", "b"], "g": ["a"]})
    near = {tuple(NegativeSampler(made, "graph", seed=s).draw(np.array([6]), 2)[0].tolist()) for s in range(20)}
    assert near == {(1, 2), (2, 1)}
    later = court(list(range(2000, 2008)), {"h": ["a", "b"], "g": ["a"]})
    drawn = [NegativeSampler(later, "graph", seed=s).draw(np.array([6]), 1)[0, 0] for s in range(60)]
    plain = [NegativeSampler(later, "random", seed=s).draw(np.array([6]), 1)[0, 0] for s in range(60)]
    assert drawn == plain  # nothing is near, so all are drawn by chance


@pytest.mark.parametrize("kind", ["bm25", "dynamic"])
def test_rankings_are_kept_no_deeper_than_they_are_drawn_from(kind):
    """Of a ranking the depth should be kept and no more, however large the pool is."""
    made = court(list(range(2000, 2016)), {})
    sampler = NegativeSampler(made, kind, scorer=lambda rows: np.tile(np.arange(16.0), (len(rows), 1)), depth=3)
    sampler.draw(np.array([10, 15]), 2)
    assert [sampler._known[row].tolist() for row in (10, 15)] == [[9, 8, 7], [14, 13, 12]]


# The data


def test_the_loader_reads_the_published_schema(tmp_path):
    """Facts, law, dates and citations of a file should make the benchmark; another schema be refused by name."""
    cases = {
        "1/00": {"facts": ["A fell.", "B saw."], "law": ["Article 3."], "date": "2000-05-04", "citations": []},
        "2/01": {"facts": ["C fell."], "law": [], "date": "2001-05-04", "citations": ["1/00", "2/01"]},
    }
    path = tmp_path / "cases.json"
    path.write_text(json.dumps(cases))
    with pytest.warns(UserWarning, match="citations of a case by itself are left out: 1 cases, '2/01' first"):
        made = load_ecthr_pcr(path)
    assert made.doc_texts[0] == "A fell. B saw. Article 3."
    assert made.cited[1].tolist() == [0]
    del cases["2/01"]["date"]
    path.write_text(json.dumps(cases))
    with pytest.raises(ValueError, match="case '2/01' must hold 'date'"):
        load_ecthr_pcr(path)
    path.write_text("{")
    with pytest.raises(ValueError, match="is not a readable JSON file"):
        load_ecthr_pcr(path)


def test_the_generated_court_drifts():
    """Words of an issue should change with drift alone, citations stay within an issue, and seeds decide."""
    drifting, still = synthetic_court(drift=0.3, seed=0, years=8), synthetic_court(drift=0.0, seed=0, years=8)

    def words(made, year):
        return {w for text, y in zip(made.query_texts, made.years, strict=True) if y == year for w in text.split()}

    for made, changed in ((drifting, True), (still, False)):
        new = {w for w in words(made, 2007) - words(made, 2000) if w.startswith("issue")}
        assert (len(new) > 100) == changed
        assert all(len(rows) <= 5 for rows in made.cited)
    assert synthetic_court(years=2, seed=4).query_texts == synthetic_court(years=2, seed=4).query_texts
    assert synthetic_court(years=2, seed=4).query_texts != synthetic_court(years=2, seed=5).query_texts


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: court([2000, None], {}), "dates must name every case: 'b' has none"),
        (lambda: court([2000, "May"], {}), "dates must be ISO dates or years: 'b' has 'May'"),
        (lambda: court([2000, 2001], {"b": ["b"]}), "a case cannot cite itself: 'b' does"),
        (
            lambda: TemporalRetrievalBenchmark({"a": {"facts": " "}}, {}, {"a": 1}),
            "every case: 'a' has none",
        ),
        (lambda: TemporalRetrievalBenchmark({}, {}, {}), "corpus must hold at least one case"),
        (lambda: court([1, 2], {}, query_view="title"), "query_view must be one of"),
        (lambda: court([1, 2], {}).candidates("z"), "no case is called 'z'"),
        (lambda: court([1, 2], {}).split(5, 5), "val_until must be later"),
        (lambda: court([1, 2], {}).evaluate(dense_scorer(np.eye(2), np.eye(2))), "at least one that cites"),
        (
            lambda: court([1, 2], {"b": ["a"]}).evaluate(lambda rows: np.zeros((1, 3))),
            "must return scores of shape",
        ),
        (lambda: court([1, 2], {"b": ["a"]}).evaluate(lambda rows: np.full((1, 2), math.nan)), "must return no NaN"),
        (lambda: court([1, 2], {"b": ["a"]}).evaluate(lambda rows: np.zeros((1, 2)), ks=[0]), "ks must be at least 1"),
        (lambda: NegativeSampler(court([1, 2], {}), "bm25"), "scorer must be given for 'bm25'"),
        (lambda: NegativeSampler(court([1, 2], {})).draw(np.array([1]), 2), "'b' has 1, 2 are asked for"),
        (lambda: split_chunks("abc", 2, 3), "stride must lie between 1 and 2"),
        (lambda: HierarchicalPooler("attention"), "dimension must be given"),
        (lambda: HierarchicalPooler("max").pool(torch.ones(1, 1, 1)), "one vector per text needs"),
        (lambda: HierarchicalPooler("mean")(torch.ones(2, 2), torch.ones(2, 2)), "chunks must be"),
        (lambda: HierarchicalPooler("mean").pool(torch.ones(1, 2, 3), torch.zeros(1, 2)), "leave every text a chunk"),
        (lambda: search_scorer(court([1, 2], {}), np.eye(3), np.eye(2)), "query_embeddings must have one row per case"),
        (lambda: search_scorer(court([1, 2], {}), np.eye(2), np.eye(2), k=0), "k must be at least 1"),
        (lambda: synthetic_court(drift=2.0), "drift must lie between 0.0 and 1.0"),
    ],
)
def test_bad_input_is_refused(call, message):
    """Each mistake should be answered in a line that names the argument or the case."""
    with pytest.raises(ValueError, match=message):
        call()
