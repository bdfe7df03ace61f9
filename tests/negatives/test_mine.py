"""Mining: worked numbers, a plain transcription of the whole chain, invariants, and bad input."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.negatives.mine import default_depth
from tamis.negatives.mine import mine_negatives as mine
from tests import verses
from tests.behaviour import ArrayCase

# Six passages on a circle; the query lies at 0 degrees, its positive at 20.
ANGLES = np.deg2rad([20, 5, 30, 50, 80, 120])
PASSAGES = np.stack([np.cos(ANGLES), np.sin(ANGLES)], 1).astype(np.float32)
QUERY = np.array([[1.0, 0.0]], np.float32)


def on_circle(**settings):
    return mine(["q"], list("abcdef"), [[0]], query_embeddings=QUERY, corpus_embeddings=PASSAGES, **settings)


def make(seed: int) -> list[ArrayCase]:
    rng = np.random.default_rng(seed)
    queries, passages = rng.standard_normal((6, 8)).astype(np.float32), rng.standard_normal((30, 8)).astype(np.float32)
    texts = [f"query {i}" for i in range(6)], [f"passage {i}" for i in range(30)]

    def call(draw: int, q: np.ndarray, p: np.ndarray):
        found = mine(texts[0], texts[1], [[i, i + 6] for i in range(6)], query_embeddings=q, corpus_embeddings=p,
                     negatives=3, relative_margin=0.1, pick="random", seed=draw)  # fmt: skip
        return found.negatives["query"], found.negatives["negative"], found.dropped["candidate"]

    return [ArrayCase("mine", call, (queries, passages), empty=lambda: mine([], [], [], percentage=0.9))]


def test_worked_numbers():
    """The positive scores cos 20 = 0.9397, so the 0.95 rule puts the ceiling at 0.8927: only cos 5 is above it."""
    found = on_circle(percentage=0.95, negatives=2)
    assert found.negatives["negative"].tolist() == [2, 3]
    assert found.negatives["rank"].tolist() == [2, 3]
    assert found.negatives["score"] == pytest.approx([0.8660254, 0.6427876])
    assert found.negatives["positive_score"] == pytest.approx([0.9396926] * 2)
    assert found.dropped["candidate"].tolist() == [1]
    assert (found.dropped["rule"].tolist(), found.dropped["rival"].tolist()) == (["margin"], [0])
    assert found.dropped["rival_score"] == pytest.approx([0.9396926])


@pytest.mark.parametrize(
    ("settings", "picked"),
    [
        ({"max_survival": 1.0}, [1, 2, 3, 4, 5]),
        ({"relative_margin": 0.0}, [2, 3, 4, 5]),
        ({"absolute_margin": 0.2}, [3, 4, 5]),
        ({"percentage": 0.5}, [4, 5]),
        ({"max_survival": 1.0, "first_rank": 2, "last_rank": 4}, [2, 3, 4]),
        ({"percentage": 0.95, "first_rank": 3}, [3, 4, 5]),
        ({"max_survival": 1.0, "max_score": 0.7, "min_score": 0.0}, [3, 4]),
    ],
)
def test_rules(settings, picked):
    """Each rule leaves what it should; the rank window counts ranks in the corpus whatever the margin drops."""
    assert on_circle(negatives=8, **settings).negatives["negative"].tolist() == picked


def test_short_lists_stay_short():
    """A query with fewer safe candidates than asked for gets fewer, never a positive and never filler."""
    found = on_circle(percentage=0.5, negatives=4)
    assert len(found) == 2 and not np.isin(found.negatives["negative"], [0]).any()
    assert found.summary["skew"]["per_query_least"] == 2


def test_plain_transcription():
    """On real verses the whole chain equals a loop over queries and passages written from the definitions."""
    data = verses.data(both=150)
    encoder = verses.LetterEncoder()
    found = mine(data, encoder=encoder, negatives=5, percentage=0.92, first_rank=2, last_rank=60, depth=80)
    units = [
        v / np.linalg.norm(v, axis=1, keepdims=True)
        for v in map(encoder.encode, (data.queries.texts, data.corpus.texts))
    ]
    letters = [t.lower() for t in data.corpus.texts]
    folded = ["".join(c if c.isalnum() else " " for c in t).split() for t in letters]
    expected = []
    for q in range(0, len(data.queries), 7):
        scores = units[1] @ units[0][q]
        banned = {p for p in range(len(data.corpus)) for own in data.positives[q] if folded[p] == folded[own]}
        ceiling = 0.92 * min(scores[p] for p in data.positives[q])
        ranking = [p for p in np.argsort(-scores, kind="stable") if p not in banned][:80]
        seen, mine_of_q = [], []
        for rank, p in enumerate(ranking, 1):
            new = folded[p] not in seen
            seen.append(folded[p])
            if new and scores[p] < ceiling and 2 <= rank <= 60:
                mine_of_q.append((q, int(p), rank))
        expected += mine_of_q[:5]
    rows = zip(*(found.negatives[c].tolist() for c in ("query", "negative", "rank")), strict=True)
    assert [row for row in rows if row[0] % 7 == 0] == expected


def test_copies_of_positives_are_evidence():
    """Passages with the text of a positive are never negatives, and the table says which kind of copy each is."""
    corpus = ["The sieve.", "the  SIEVE", "The sieve.", "a pan", "a pot"]
    vectors = np.eye(5, dtype=np.float32) + 0.1
    found = mine(["q"], corpus, [[0]], query_embeddings=vectors[:1], corpus_embeddings=vectors, relative_margin=0.0)
    assert set(found.negatives["negative"].tolist()) == {3, 4}
    by = dict(zip(found.dropped["candidate"].tolist(), found.dropped["rule"].tolist(), strict=True))
    assert by == {1: "same normalised text as a positive", 2: "same text as a positive"}
    assert found.dropped["rival"].tolist() == [0, 0]
    assert found.summary["funnel"][0] == {"step": "candidates", "count": 4}


def test_the_query_itself_is_no_negative():
    """A passage with the query's own text is dropped, and a text that repeats is taken once."""
    corpus = ["answer", "Where?", "other", "other"]
    vectors = np.array([[1, 0.2], [1, 0], [0.5, 1], [0.5, 1]], np.float32)
    found = mine(["where"], corpus, [[0]], query_embeddings=vectors[1:2], corpus_embeddings=vectors, max_survival=1.0)
    assert found.negatives["negative"].tolist() == [2]
    assert found.dropped["rule"].tolist() == ["same text as the query", "repeated text"]


def test_rules_that_leave_most_queries_empty_are_warned_of():
    """When more than half of the queries get nothing, the report says so and names the cure."""
    warnings = on_circle(max_survival=1.0, max_score=-0.9).summary["audit"]["warnings"]
    assert any("1 of 1 queries got no negative" in w and "max_survival" in w for w in warnings)


def test_many_positives_of_one_query_cost_no_other_row():
    """With 300 positives in one query, every other query still gets its full pool and no positive appears."""
    rng = np.random.default_rng(0)
    passages, queries = rng.standard_normal((400, 16)), rng.standard_normal((4, 16))
    positives = [list(range(300)), [0], [1, 2], [399]]
    found = mine([f"q{i}" for i in range(4)], [f"p{i}" for i in range(400)], positives, query_embeddings=queries,
                 corpus_embeddings=passages, max_survival=1.0, negatives=50)  # fmt: skip
    for q, known in enumerate(positives):
        own = found.negatives["negative"][found.negatives["query"] == q]
        assert len(own) == 50 and not np.isin(own, known).any()


def test_against_lowest_or_highest():
    """The margin is measured from the lowest positive unless the highest is asked for."""
    settings = {"query_embeddings": QUERY, "corpus_embeddings": PASSAGES, "relative_margin": 0.0}
    lowest = mine(["q"], list("abcdef"), [[0, 3]], **settings)
    highest = mine(["q"], list("abcdef"), [[0, 3]], against="highest", **settings)
    assert lowest.negatives["negative"].tolist() == [4, 5]
    assert highest.negatives["negative"].tolist() == [2, 4, 5]


def test_guide_drops_what_it_finds_closer():
    """A guide that sees passage 3 nearer to the query than the positive takes it out, and says so."""

    class Guide:
        def encode(self, texts):
            return np.array([[1, 0] if t in ("q", "d") else [0.5, 1] if t == "a" else [0, 1] for t in texts], float)

    found = on_circle(max_survival=1.0, guide=Guide())
    assert found.negatives["negative"].tolist() == [1, 2, 4, 5]
    assert found.dropped["rule"].tolist() == ["guide"]


@pytest.mark.parametrize("pick", ["random", "softmax"])
def test_drawn_picks_follow_the_seed(pick):
    """One seed one result; another seed another; always within what the rules keep."""
    data = verses.data()
    runs = [
        mine(data, encoder=verses.LetterEncoder(), negatives=3, percentage=0.9, pick=pick, seed=s) for s in (0, 0, 1)
    ]
    picks = [r.negatives["negative"] for r in runs]
    assert np.array_equal(picks[0], picks[1]) and not np.array_equal(picks[0], picks[2])
    assert all((r.negatives["score"] < 0.9 * r.negatives["positive_score"]).all() for r in runs)


def test_bm25_and_both():
    """Lexical candidates come without an encoder; a merged pool names both sources and keeps dense scores."""
    pytest.importorskip("bm25s")
    data = verses.data()
    lexical = mine(data, candidates_from="bm25", negatives=3, percentage=0.8)
    assert len(lexical) > 1000 and (lexical.negatives["source"] == 2).all()
    bounded = mine(data, candidates_from="bm25", negatives=3, max_survival=0.05, calibrate="margin")
    assert bounded.summary["audit"]["margin"]["value"] > 0  # a positive that shares no word is no candidate
    merged = mine(data, encoder=verses.LetterEncoder(), candidates_from="both", negatives=3, percentage=0.95)
    assert set(np.unique(merged.negatives["source"]).tolist()) <= {1, 2, 3} and (merged.negatives["source"] == 3).any()
    assert (merged.negatives["score"] <= 1).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.floats(0, 0.5), st.integers(1, 6), st.sampled_from(["top", "random", "softmax"]))
def test_no_positive_and_nothing_above_the_ceiling(seed, margin, negatives, pick):
    """Whatever the data and the settings, no negative is a known positive, above its ceiling, or there twice."""
    rng = np.random.default_rng(seed)
    queries, passages = rng.standard_normal((8, 5)), rng.standard_normal((25, 5))
    positives = [rng.choice(25, rng.integers(1, 5), replace=False).tolist() for _ in range(8)]
    texts = [f"q{i}" for i in range(8)], [f"p{i}" for i in rng.integers(0, 20, 25)]
    found = mine(texts[0], dict(enumerate(texts[1])), positives, query_embeddings=queries, corpus_embeddings=passages,
                 relative_margin=margin, negatives=negatives, pick=pick, seed=seed)  # fmt: skip
    columns = found.negatives
    for q in range(8):
        own = columns["negative"][columns["query"] == q].tolist()
        assert len(own) == len(set(own)) <= negatives
        assert not {texts[1][n] for n in own} & {texts[1][p] for p in positives[q]}
    ceiling = columns["positive_score"] - margin * np.abs(columns["positive_score"])
    assert (columns["score"] <= ceiling + 1e-6).all()
    assert found.summary["funnel"][-1]["count"] == len(found)


def test_embeddings_are_kept_and_never_stale(tmp_path):
    """Vectors in a folder are reused as they are, and encoded again when the encoder or a text changes."""
    data = verses.data()
    first = verses.LetterEncoder()
    one = mine(data, encoder=first, percentage=0.9, folder=tmp_path)
    again = verses.LetterEncoder()
    two = mine(data, encoder=again, percentage=0.9, folder=tmp_path)
    assert again.calls <= 32 < first.calls  # a probe of 16 texts per side, no more
    assert np.array_equal(one.negatives["negative"], two.negatives["negative"])
    changed = verses.LetterEncoder(salt=5)
    mine(data, encoder=changed, percentage=0.9, folder=tmp_path)
    assert changed.calls > len(data.corpus)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"negatives": 0}, "negatives must be at least 1: got 0"),
        ({"max_survival": 0.0}, "max_survival must lie between 0"),
        ({"max_survival": 0.1, "percentage": 0.9}, "max_survival chooses the margin: leave out percentage"),
        ({"percentage": 95}, "percentage must lie between 0 and 1"),
        ({"pick": "best"}, "pick must be one of 'top', 'random', 'softmax': got 'best'"),
        ({"candidates_from": "web"}, "candidates must be one of 'dense', 'bm25', 'both': got 'web'"),
        ({"against": "mean"}, "against must be one of 'lowest', 'highest'"),
        ({"first_rank": 0}, "first rank must be at least 1"),
        ({"depth": 0}, "depth must be at least 1: got 0"),
        ({"similarity": "l2"}, "similarity must be one of 'cosine', 'dot'"),
        ({"pick_temperature": 0}, "pick_temperature must be positive"),
        ({"query_embeddings": np.ones((2, 2))}, "one entry per row of the queries: 1 rows, 2 embeddings"),
        ({"query_embeddings": np.ones((1, 3))}, "must have 3 columns"),
        ({"query_embeddings": np.array([[np.nan, 1]])}, "embeddings of the queries must be finite"),
        ({"query_embeddings": np.zeros((1, 2))}, "must not hold zero vectors: row 0 is zero"),
        ({"query_embeddings": np.ones(2)}, "must be two-dimensional"),
    ],
)
def test_bad_settings(settings, says):
    """A setting that cannot work is refused in one line before any work."""
    given = {"query_embeddings": QUERY, "corpus_embeddings": PASSAGES, **settings}
    with pytest.raises(ValueError, match=says):
        mine(["q"], list("abcdef"), [[0]], **given)


def test_missing_positives():
    """Queries without known answers are refused by name."""
    with pytest.raises(TypeError, match="positives are missing"):
        mine(["q"], ["a"])


def test_default_depth():
    """The pool grows with the number of negatives and the rank window."""
    assert [default_depth(8), default_depth(20), default_depth(2, 500)] == [200, 400, 500]
