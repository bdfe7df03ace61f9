"""Candidates of several views: merged as in plain loops, every source named, strangers placed where they would be."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis import cli, runs, trec
from tamis.data import from_python, write_beir
from tamis.lexical import LexicalIndex
from tamis.negatives import audit, calibration, candidates, filters
from tamis.negatives.mine import mine_negatives as mine
from tamis.results import SOURCES, source_name
from tests import verses

WORDS = ["fox", "rose", "snow", "river", "stone", "bird"]


def fixed(name, rows):
    """A view that is what it is given; its scores fall from 1."""
    indices = np.array(rows)
    scores = np.where(indices >= 0, 1 - np.arange(indices.shape[1]) / 10, -np.inf).astype(np.float32)
    nothing = lambda q, p: np.zeros(len(q), np.int32)  # noqa: E731
    return candidates.View(name, indices, scores, lambda q, p: -p.astype(np.float32), nothing, "similarity")


class World:
    """Small coarse data, so that scores are often equal: two encoders, BM25 and a run file, and what is ruled out."""

    def __init__(self, seed, queries=7, passages=23, depth=5):
        rng = np.random.default_rng(seed)
        self.q, self.n, self.depth = queries, passages, depth
        self.vectors = [
            tuple(rng.integers(-1, 2, (count, 3)).astype(np.float32) for count in (queries, passages)) for _ in range(2)
        ]
        self.texts = tuple(
            [" ".join(rng.choice(WORDS, rng.integers(0, 4))) for _ in range(count)] for count in (queries, passages)
        )
        self.barred = [sorted(rng.choice(passages, rng.integers(1, 5), replace=False).tolist()) for _ in range(queries)]
        pairs = np.flatnonzero(rng.random(queries * passages) < 0.6)
        scores = rng.integers(0, 6, len(pairs)).astype(np.float32)
        order = np.lexsort((pairs % passages, -scores, pairs // passages))
        self.run = trec.Run("a", pairs[order] // passages, pairs[order] % passages, scores[order])

    def views(self, names, barred=None):
        """The views of those names as the library makes them."""
        barred = self.barred if barred is None else barred
        exclude = np.cumsum([0, *map(len, barred)]), np.array([p for row in barred for p in row], np.int64)
        makers = {
            "one": lambda: candidates.dense(self.vectors[0], self.depth, exclude, name="one"),
            "two": lambda: candidates.dense(self.vectors[1], self.depth, exclude, name="two"),
            "bm25": lambda: candidates.bm25(self.texts, self.depth, exclude),
            "a": lambda: candidates.listed(self.run, self.q, self.n, self.depth, exclude),
        }
        return [makers[name]() for name in names]

    def slow_view(self, name, query, barred):
        """The candidates of one view, by sorting everything."""
        if name == "a":
            held = self.run.query == query
            return [p for p in self.run.passage[held].tolist() if p not in barred][: self.depth]
        if name == "bm25":
            every = np.arange(self.n)
            scores = LexicalIndex(self.texts[1]).pair_scores(self.texts[0], np.full(self.n, query), every)
        else:
            queries, passages = self.vectors["two" == name]
            scores = passages @ queries[query]
        found = [p for p in range(self.n) if p not in barred and (name != "bm25" or scores[p] > 0)]
        return sorted(found, key=lambda p: (-scores[p], p))[: self.depth]

    def slow_pool(self, names, query, barred):
        """The merged pool of one query as (passage, names of the views that hold it)."""
        lists = [self.slow_view(name, query, barred) for name in names]
        if len(names) == 1:
            return [(p, {names[0]}) for p in lists[0]]
        total, holders = {}, {}
        for name, row in zip(names, lists, strict=True):
            for rank, passage in enumerate(row, 1):
                total[passage] = total.get(passage, 0.0) + 1 / (60 + rank)
                holders.setdefault(passage, set()).add(name)
        order = sorted(total, key=lambda p: (-total[p], p))[: self.depth]
        return [(p, holders[p]) for p in order]


def test_three_views_merged_by_hand():
    """3 stands third, first and second (0.0484), 1 first and second (0.0325), then 5, 2 and 4 with one view each."""
    views = [fixed("a", [[1, 2, 3]]), fixed("b", [[3, 1, 4]]), fixed("c", [[5, 3, -1]])]
    found = candidates.find(views, 5).candidates
    assert found.indices.tolist() == [[3, 1, 5, 2, 4]]
    assert [source_name(bits, found.names) for bits in found.sources[0]] == ["a+b+c", "a+b", "c", "a", "b"]
    assert found.scores.tolist() == [[-3, -1, -5, -2, -4]]  # of the first view, for all
    assert found.ranks.tolist() == [[1, 2, 3, 4, 5]]


COMBINATIONS = [
    ("one",),
    ("bm25",),
    ("a",),
    ("one", "bm25"),
    ("one", "two"),
    ("one", "two", "bm25", "a"),
    ("bm25", "a"),
]


@pytest.mark.parametrize("names", COMBINATIONS)
def test_pool_equals_loops(names):
    """Candidates, order and sources are those of lists that are sorted, added up and cut in plain loops."""
    pytest.importorskip("bm25s")
    for seed in range(4):
        world = World(seed)
        found = candidates.find(world.views(names), world.depth).candidates
        for query in range(world.q):
            expected = world.slow_pool(names, query, world.barred[query])
            row = found.indices[query]
            assert row[row >= 0].tolist() == [p for p, _ in expected]
            for bits, (_, holders) in zip(found.sources[query], expected, strict=False):
                assert set(source_name(int(bits), found.names).split("+")) == holders


@pytest.mark.parametrize("names", COMBINATIONS)
def test_rank_of_equals_putting_the_passage_into_every_view(names):
    """The rank that is stated for a passage is the one it has when it is not ruled out and everything is done again."""
    pytest.importorskip("bm25s")
    for seed in range(4):
        world = World(seed)
        pool = candidates.find(world.views(names), world.depth)
        pairs = [(q, p) for q, row in enumerate(world.barred) for p in row]
        ranks = pool.rank_of(np.array([q for q, _ in pairs]), np.array([p for _, p in pairs]))
        expected = []
        for query, passage in pairs:
            left = [p for p in world.barred[query] if p != passage]
            order = [p for p, _ in world.slow_pool(names, query, left)]
            expected.append(order.index(passage) + 1 if passage in order else 0)
        assert ranks.tolist() == expected and 0 < np.count_nonzero(expected) < len(expected)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.permutations(["one", "two", "bm25", "a"]), st.integers(1, 4), st.integers(1, 30))
def test_source_bits_name_exactly_the_views_that_hold_a_passage(seed, order, count, depth):
    """Whatever the views and their order, a candidate's sources are the views in whose lists it stands, no other."""
    pytest.importorskip("bm25s")
    names = [name for name in order if name != "a"][: max(1, count - 1)] + ["a"] * (count > 1)
    world = World(seed, depth=depth)
    views = world.views(names)
    found = candidates.find(views, depth).candidates
    for query in range(world.q):
        row = found.indices[query]
        assert len(set(row[row >= 0])) == (row >= 0).sum() and not set(row) & set(world.barred[query])
        for passage, bits in zip(row, found.sources[query], strict=True):
            holders = [view.name for view in views if passage >= 0 and passage in view.indices[query]]
            assert sorted(filter(None, source_name(int(bits), found.names).split("+"))) == sorted(holders)


def test_blocks_change_nothing(monkeypatch):
    """Merging and placing a few rows at a time gives what all at once gives."""
    world = World(3)
    names = ("one", "two", "a")
    queries, passages = np.array([0, 3, 6]), np.array([world.barred[q][0] for q in (0, 3, 6)])
    whole = candidates.find(world.views(names), world.depth)
    expected = whole.rank_of(queries, passages)
    monkeypatch.setattr("tamis.negatives.merging._BLOCK", 8)
    parts = candidates.find(world.views(names), world.depth)
    assert np.array_equal(parts.candidates.indices, whole.candidates.indices)
    assert np.array_equal(parts.candidates.sources, whole.candidates.sources)
    assert np.array_equal(parts.rank_of(queries, passages), expected)


def test_a_run_has_no_score_for_what_it_does_not_hold():
    """Pairs that a run does not hold score -inf and reach nothing; an excluded passage keeps its place."""
    run = trec.Run("a", np.zeros(4, int), np.array([4, 2, 0, 3]), np.array([9, 8, 7, 6], np.float32))
    exclude = np.array([0, 2]), np.array([1, 2])
    view = candidates.listed(run, 1, 5, 2, exclude)
    assert view.indices.tolist() == [[4, 0]] and view.scores.tolist() == [[9, 7]]
    zeros = np.zeros(5, int)
    assert view.pair_scores(zeros, np.arange(5)).tolist() == [7, -np.inf, 8, 6, 9]
    # 2 would stand between 4 and 0; 3 comes third and the view holds two.
    assert view.rank_of(zeros, np.arange(5)).tolist() == [2, 0, 2, 0, 1]


def test_the_first_run_scores_the_others():
    """Of several runs alone, lines that the first does not hold are left out with a note, and without that refused."""
    one = trec.Run("one", np.zeros(2, int), np.array([0, 1]), np.array([2, 1], np.float32))
    two = trec.Run("two", np.zeros(3, int), np.array([3, 1, 0]), np.array([3, 2, 1], np.float32), foreign=5, missing=1)
    nothing = np.array([0, 0]), np.empty(0, np.int64)
    views = candidates.views(4, nothing, runs=[one, two], shape=(1, 4))
    pool = candidates.find(views, 4)
    assert pool.candidates.indices.tolist() == [[0, 1, -1, -1]] and pool.score == "score of one"
    assert pool.candidates.scores.tolist() == [[2, 1, -np.inf, -np.inf]]
    says = " ".join(pool.notes)
    assert "1 lines of the run two have no score in the first run" in says
    assert "5 lines of the run two are of other queries" in says and "holds nothing for 1 of 1 queries" in says
    with pytest.raises(ValueError, match="first view must score every candidate: one has none for 1"):
        candidates.find([candidates.listed(run, 1, 4, 4, nothing) for run in (one, two)], 4)


def test_bad_views():
    """No view, too many, two of one name, and unknown sources are refused in one line."""
    with pytest.raises(ValueError, match="views must hold at least one"):
        candidates.find([], 3)
    with pytest.raises(ValueError, match="views must be at most 8: got 9"):
        candidates.find([fixed(f"v{i}", [[0]]) for i in range(9)], 3)
    with pytest.raises(ValueError, match="views must have distinct names: got a, a"):
        candidates.find([fixed("a", [[0]]), fixed("a", [[0]])], 3)
    with pytest.raises(ValueError, match="candidates must be one of 'dense', 'bm25': got 'web'"):
        candidates.kinds(["dense", "web"], 0)
    with pytest.raises(ValueError, match="candidates must come from somewhere"):
        candidates.kinds([], 0)
    assert candidates.kinds([], 1) == (False, False) and candidates.kinds("both", 0) == (True, True)
    assert candidates.named(["bm25", "bm25", "bm25-2", "a+b"]) == ["bm25", "bm25-2", "bm25-2-2", "a-b"]


def test_a_positive_without_a_score_leaves_nothing_below_it():
    """A positive at -inf has a ceiling of -inf under any margin, and is survived by none."""
    none = np.array([-np.inf, 0.5])
    for margin in ({"relative": 0.0}, {"relative": 0.1}, {"absolute": 0.0}, {"percentage": 1.0}):
        ceiling = filters.margin_ceiling(none, **margin)
        assert ceiling[0] == -np.inf and np.isfinite(ceiling[1])
    assert filters.margin_ceiling(none).tolist() == [np.inf, np.inf]
    assert audit.slack(np.array([0.2, 0.4]), none) == pytest.approx([-np.inf, 0.2])


class Beginnings(verses.LetterEncoder):
    """Another encoder: it reads only the beginning of a text."""

    name = "models/other"

    def __init__(self, letters=25):
        super().__init__()
        self.letters = letters

    def encode(self, texts):
        return super().encode([text[: self.letters] for text in texts])


def small(both=40, count=120):
    """The first verses, with ids that can stand in a run file, and the vectors' scores as a run file."""
    rows = verses.rows()[:count]
    corpus = {f"k{i}": seen for i, (_, _, seen, _) in enumerate(rows)} | {
        f"a{i}": hidden for i, (_, _, _, hidden) in enumerate(rows)
    }
    positives = [[f"k{i}", f"a{i}"] if i < both else [f"k{i}"] for i in range(count)]
    return from_python({f"q{i}": q for i, (_, q, _, _) in enumerate(rows)}, corpus, dict(zip(
        [f"q{i}" for i in range(count)], positives, strict=True)))  # fmt: skip


def write_ranking(path, data, encoder, depth):
    """The best passages of every query as a run file, known positives among them."""
    sides = [encoder.encode(table.texts) for table in (data.queries, data.corpus)]
    units = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in sides]
    scores = units[0] @ units[1].T
    order = np.argsort(-scores, axis=1, kind="stable")[:, :depth]
    trec.write_run(path, data.queries.ids, data.corpus.ids, order, np.take_along_axis(scores, order, 1))
    return path


def test_a_whole_run_mines_what_its_vectors_mine(tmp_path):
    """A run of the whole corpus is worth its vectors: margin, audit and negatives are the same but for rounding."""
    data = small()
    path = write_ranking(tmp_path / "letters.trec.gz", data, verses.LetterEncoder(), len(data.corpus))
    by_run = mine(data, candidates_from=[], runs=path, negatives=3, max_survival=0.1)  # one file needs no list
    by_vectors = mine(data, encoder=verses.LetterEncoder(), negatives=3, max_survival=0.1)
    assert len(by_run) > 100
    assert np.array_equal(by_run.negatives["negative"], by_vectors.negatives["negative"])
    assert by_run.negatives["score"] == pytest.approx(by_vectors.negatives["score"], abs=1e-6)
    assert by_run.summary["audit"]["verification"] == by_vectors.summary["audit"]["verification"]
    assert by_run.sources == ("letters",) and set(by_run.negatives["source"].tolist()) == {1}
    assert by_run.summary["score"] == "score of letters" and by_run.summary["settings"]["encoder"] is None


def test_positives_that_a_run_does_not_hold_leave_their_queries_empty(tmp_path):
    """With a margin such queries get nothing and the report says how many; without one they keep their candidates."""
    data = small(both=0)
    cut = write_ranking(tmp_path / "cut.trec", data, verses.LetterEncoder(), 12)
    found = mine(data, candidates_from=[], runs=[cut], negatives=3, percentage=1.0)
    lacking = np.flatnonzero(np.isneginf(found.reference_scores))
    assert 0 < len(lacking) < len(data.queries)
    assert not np.isin(found.negatives["query"], lacking).any() and np.isfinite(found.negatives["score"]).all()
    says = " ".join(found.summary["audit"]["warnings"])
    assert f"missing for a positive of {len(lacking)} of {len(data.queries)} queries" in says
    free = mine(data, candidates_from=[], runs=[cut], negatives=3, max_survival=1.0)
    assert np.isin(lacking, free.negatives["query"]).all()
    chosen = mine(data, candidates_from=[], runs=[cut], negatives=3, max_survival=0.2)  # the margin is chosen all right
    assert not np.isin(chosen.negatives["query"], lacking).any() and len(chosen) > 0


def test_ensembles_from_end_to_end(tmp_path):
    """Two encoders, BM25 and a run: one margin by the first encoder, every negative named, and all of it read back."""
    pytest.importorskip("bm25s")
    data = small()
    one, two = verses.LetterEncoder(), Beginnings()
    path = write_ranking(tmp_path / "third.run", data, Beginnings(10), 50)
    found = mine(data, encoder=[one, two], candidates_from="both", runs=[path], percentage=0.95, depth=40,
                 folder=tmp_path / "cache")  # fmt: skip
    assert found.sources == ("letters", "other", "bm25", "third")
    assert (found.negatives["score"] < 0.95 * found.negatives["positive_score"]).all()
    every = np.concatenate([found.negatives["source"], found.passed_over["source"]])
    named = {source_name(bits, found.sources) for bits in np.unique(every).tolist()}
    assert "letters+other+bm25+third" in named and len(named) > 5
    found.save(tmp_path / "run")
    again = runs.load(tmp_path / "run")
    assert again.sources == found.sources and np.array_equal(again.negatives["source"], found.negatives["source"])
    assert np.array_equal(again.dropped["source"], found.dropped["source"])
    # The vectors of each encoder are kept in their own place.
    assert sorted(p.name for p in (tmp_path / "cache").iterdir() if p.is_dir()) == ["embeddings", "embeddings-2"]
    calls = two.calls
    mine(data, encoder=[one, two], candidates_from="both", runs=[path], percentage=0.9, folder=tmp_path / "cache")
    assert two.calls - calls <= 32


def test_given_embeddings_are_those_of_the_first_encoder():
    """Vectors stand for the first encoder of a list, and the second still finds candidates of its own."""
    data = small(both=0)
    first, second = verses.LetterEncoder(), Beginnings()
    vectors = [first.encode(table.texts) for table in (data.queries, data.corpus)]
    settings_ = {"percentage": 0.95, "depth": 30}
    named = mine(data, encoder=[first, second], **settings_)
    given_ = mine(data, encoder=[None, second], query_embeddings=vectors[0], corpus_embeddings=vectors[1], **settings_)
    assert np.array_equal(named.negatives["negative"], given_.negatives["negative"])
    assert given_.sources == ("given embeddings", "other") and named.sources == ("letters", "other")
    with pytest.raises(ValueError, match="encoder must be one or several: got an empty list"):
        mine(data, encoder=[])


def test_survival_of_a_merged_pool_equals_mining_with_the_positive_really_hidden():
    """The survival rate of an ensemble is what comes out when each positive is hidden in earnest."""
    rng = np.random.default_rng(5)
    n, d = 24, 16
    concepts = rng.standard_normal((10, d))[rng.integers(10, size=n)] + 0.9 * rng.standard_normal((n, d))
    owner = np.repeat(np.arange(n), 2)
    spread = rng.uniform(0.3, 3.0, (2 * n, 1))
    sides = [
        (concepts + 0.5 * rng.standard_normal((n, d)), concepts[owner] + spread * rng.standard_normal((2 * n, d)))
        for _ in range(2)
    ]

    class Second:
        def encode(self, texts):
            rows = [int(text[1:]) for text in texts]
            return sides[1][texts[0][0] == "p"][rows]

    positives = [[2 * i, 2 * i + 1] for i in range(n)]
    texts = {"queries": [f"q{i}" for i in range(n)], "corpus": [f"p{i}" for i in range(2 * n)]}
    first = {"query_embeddings": sides[0][0], "corpus_embeddings": sides[0][1]}
    world = texts | first | {"encoder": [None, Second()]}
    settings_ = {"negatives": 2, "depth": 4}
    stated = mine(**world, positives=positives, percentage=0.9, **settings_).summary["audit"]["verification"]
    rng = calibration.as_generator(calibration.child_seed(0, "plant"))
    planted = audit.plant([np.array(p) for p in positives], np.arange(2 * n), seed=rng)
    survived = reached = 0
    for q, hidden in zip(planted.query, planted.passage, strict=True):
        known = [p if i != q else [r for r in p if r != hidden] for i, p in enumerate(positives)]
        one = mine(**world, positives=known, percentage=0.9, **settings_)
        rows = [one.negatives["negative"][one.negatives["query"] == q]]
        rows += [t["candidate"][t["query"] == q] for t in (one.dropped, one.passed_over)]
        reached += hidden in np.concatenate(rows)
        survived += hidden in rows[0]
    assert 0 < survived < reached < n
    assert (stated["count"], stated["n"]) == (survived, reached)


def test_command_line(capsys, tmp_path):
    """Run files come by --run, alone or beside vectors; a changed file is noticed, a bad one costs one line."""
    data = small(both=0)
    write_beir(data, tmp_path / "data")
    for name, table in (("q", data.queries), ("c", data.corpus)):
        np.save(tmp_path / f"{name}.npy", verses.LetterEncoder().encode(table.texts))
    path = write_ranking(tmp_path / "first.trec", data, verses.LetterEncoder(), 60)
    other = write_ranking(tmp_path / "other.trec", data, Beginnings(), 60)

    def command(*arguments):
        code = 0
        try:
            cli.main(["mine", *map(str, (tmp_path / "data", "-o", tmp_path / "out", "--percentage", 0.9, *arguments))])
        except SystemExit as stop:
            code = int(stop.code or 0)
        return code, "".join(capsys.readouterr())

    alone = ("--candidates", "runs", "--run", path, "--run", other)
    assert command(*alone)[0] == 0 and runs.load(tmp_path / "out").sources == ("first", "other")
    again = command(*alone)
    assert again[0] == 0 and "Nothing changed" in again[1]
    write_ranking(path, data, verses.LetterEncoder(), 50)
    assert "Nothing changed" not in command(*alone)[1]
    vectors = ("--query-embeddings", tmp_path / "q.npy", "--corpus-embeddings", tmp_path / "c.npy")
    assert command(*vectors, "--run", other)[0] == 0 and runs.load(tmp_path / "out").sources == ("dense", "other")
    path.write_text("q0 Q0 k0 1 5 x\nq0 Q0 k999 2 4 x\n")
    code, says = command(*alone)
    assert code == 2 and says.splitlines()[-1].startswith("tamis: ")
    assert "first.trec, line 2: the passage 'k999' is not in the corpus" in says.splitlines()[-1]
    code, says = command("--candidates", "runs")
    assert code == 2 and "candidates must come from somewhere" in says


def test_folders_of_earlier_versions_still_load(tmp_path):
    """Without names of sources, and without the tables of rows, a folder reads as it always did."""
    found = mine(small(both=0), encoder=verses.LetterEncoder(), percentage=0.9)
    found.save(tmp_path / "run")
    for name in runs.ROWS:
        (tmp_path / "run" / name).unlink()
    summary = json.loads((tmp_path / "run" / "report.json").read_text())
    (tmp_path / "run" / "report.json").write_text(json.dumps({k: v for k, v in summary.items() if k != "sources"}))
    again = runs.load(tmp_path / "run")
    assert again.sources == SOURCES and again.passed_over == {} == again.known
    assert np.array_equal(again.negatives["source"], found.negatives["source"])
    assert replace(again, summary=found.summary).sources == found.sources
