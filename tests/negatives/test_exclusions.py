"""Exclusions: what never becomes a negative, against the definitions one pair at a time, and the traps of real data."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.data import RetrievalData, from_python
from tamis.negatives import exclusions, partition
from tamis.negatives.mine import mine_negatives
from tamis.ngrams import normalise
from tests import verses

LONG = " ".join(f"word{i}" for i in range(60))
NEARLY = LONG + " more"  # 58 of 59 runs of three words are common


def rows_of(found: exclusions.Exclusions, query: int) -> list[int]:
    indptr, columns = found.exclude
    return columns[indptr[query] : indptr[query + 1]].tolist()


def told(found: exclusions.Exclusions) -> list[tuple[int, int, str, int]]:
    """(query, candidate, rule, rival) of the evidence."""
    names = [exclusions.RULES[rule] for rule in found.evidence["rule"]]
    columns = (found.evidence["query"].tolist(), found.evidence["candidate"].tolist(), names)
    return list(zip(*columns, found.evidence["rival"].tolist(), strict=True))


def mined(data: RetrievalData, seed: int = 0, **settings):
    """Mine with random vectors, no margin and all the negatives there are."""
    rng = np.random.default_rng(seed)
    vectors = [rng.standard_normal((len(table), 8)) for table in (data.queries, data.corpus)]
    return mine_negatives(data, query_embeddings=vectors[0], corpus_embeddings=vectors[1],
                          **{"max_survival": 1.0, "negatives": len(data.corpus)} | settings)  # fmt: skip


def pairs(found) -> set[tuple[int, int]]:
    return set(zip(found.negatives["query"].tolist(), found.negatives["negative"].tolist(), strict=True))


def test_copies_and_near_copies():
    """A copy to the letter, a normalised one and a near one are ruled out, each by its own rule and with its rival."""
    found = exclusions.find(from_python(["q"], [LONG, LONG, LONG.upper() + "!", NEARLY, "a pan"], [[0]]))
    assert rows_of(found, 0) == [0, 1, 2, 3]
    assert told(found) == [
        (0, 1, "same text as a positive", 0),
        (0, 2, "same normalised text as a positive", 0),
        (0, 3, "near-duplicate of a positive", 0),
    ]
    assert found.evidence["score"] == pytest.approx([1, 1, 58 / 59])


def test_near_copies_are_as_near_as_asked_for():
    """The threshold is inclusive, and None or a higher one leaves near copies in."""
    data = from_python(["q"], [LONG, NEARLY], [[0]])
    assert rows_of(exclusions.find(data, near_duplicates=58 / 59), 0) == [0, 1]
    assert rows_of(exclusions.find(data, near_duplicates=0.99), 0) == [0]
    assert rows_of(exclusions.find(data, near_duplicates=None), 0) == [0]


def test_short_texts_that_differ_in_one_word_stay():
    """Grade 2 is no copy of grade 4: short look-alikes are the negatives that are wanted most."""
    corpus = ["eeg with generalized slow activity grade 4", "eeg with generalized slow activity grade 2"]
    assert rows_of(exclusions.find(from_python(["q"], corpus, [[0]])), 0) == [0]


def test_equal_queries_share_their_positives():
    """What answers an equal query, or copies that answer, is no negative; another query keeps it."""
    corpus = ["answer one", "answer two", "Answer  TWO", "other", LONG, NEARLY]
    data = from_python(["Where?", "where", "who"], corpus, [[0], [1, 4], [3]])
    found = exclusions.find(data)
    assert [rows_of(found, q) for q in range(3)] == [[0, 1, 2, 4, 5], [0, 1, 2, 4, 5], [3]]
    assert [row for row in told(found) if row[0] == 0] == [
        (0, 1, "positive of an equal query", 1),
        (0, 2, "positive of an equal query", 1),
        (0, 4, "positive of an equal query", 4),
        (0, 5, "positive of an equal query", 4),
    ]
    assert (1, 0, "positive of an equal query", 0) in told(found)
    assert found.evidence["other"][found.evidence["query"] == 0].tolist() == [1] * 4


def test_near_equal_queries_share_their_positives():
    """A long query with a word added is the same question; its answers are named by that rule."""
    data = from_python([LONG, NEARLY, "short"], ["one", "two", "three"], [[0], [1], [2]])
    found = exclusions.find(data)
    assert told(found) == [(0, 1, "positive of a near-equal query", 1), (1, 0, "positive of a near-equal query", 0)]
    assert told(exclusions.find(data, near_duplicates=None)) == []


def test_groups():
    """Passages of a positive's document, and of the query's own, are ruled out; unlabelled ones never for that."""
    data = from_python(
        ["q", "r", "s"], list("abcdef"), [[0], [2], [5]],
        corpus_groups=["x", "x", "y", None, "z", None], query_groups=[None, "z", None],
    )  # fmt: skip
    found = exclusions.find(data)
    assert [rows_of(found, q) for q in range(3)] == [[0, 1], [2, 4], [5]]
    assert told(found) == [(0, 1, "same group as a positive", 0), (1, 4, "same group as the query", -1)]
    assert np.isnan(found.evidence["score"]).all()


def test_groups_reach_the_answers_of_equal_queries():
    """The document of an equal query's positive is as close as one's own; a group that no passage has does nothing."""
    data = from_python(["q", "Q!"], list("abcd"), [[0], [2]], corpus_groups=["x", "x", "y", "y"],
                       query_groups=["nowhere", None])  # fmt: skip
    assert rows_of(exclusions.find(data), 0) == [0, 1, 2, 3]


def test_groups_that_are_no_documents_are_refused(monkeypatch):
    """Pairs that would not fit into memory are refused with the cure."""
    monkeypatch.setattr(exclusions, "_MOST", 20)
    data = from_python(list("qrs"), list("abcdefgh"), [[0], [1], [2]], corpus_groups=["x"] * 8)
    with pytest.raises(ValueError, match="at most 20 pairs of query and passage: got 24; groups or repeated texts"):
        exclusions.find(data)


def literal(data: RetrievalData, threshold: float) -> list[set[int]]:
    """Every definition as a loop over queries, passages and positives."""

    def runs(text):
        words = normalise(text).split(" ")
        return {tuple(words[i : i + 3]) for i in range(max(1, len(words) - 2))}

    def near(one, other):
        return len(runs(one) & runs(other)) / len(runs(one) | runs(other)) >= threshold

    texts, asked = data.corpus.texts, data.queries.texts
    groups, own = data.corpus.groups or [None] * len(texts), data.queries.groups or [None] * len(asked)
    found = []
    for q in range(len(asked)):
        known = [p for other in range(len(asked)) if near(asked[q], asked[other]) for p in data.positives[other]]
        labels = {groups[p] for p in known} | {own[q]}
        found.append({
            c for c in range(len(texts))
            if any(near(texts[c], texts[p]) for p in known) or (groups[c] is not None and groups[c] in labels)
        })  # fmt: skip
    return found


@given(st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_equals_the_definitions(seed):
    """On texts full of copies, equal queries and groups, what is ruled out is what the definitions rule out."""
    rng = np.random.default_rng(seed)
    words = [" ".join(f"w{k}" for k in rng.integers(0, 2, rng.integers(1, 7))) for _ in range(26)]
    labels = [None if k == 0 else f"g{k}" for k in rng.integers(0, 12, 26)]
    data = from_python(
        words[:8], words[8:], [rng.choice(18, rng.integers(1, 3), replace=False).tolist() for _ in range(8)],
        query_groups=labels[:8], corpus_groups=labels[8:],
    )  # fmt: skip
    found = exclusions.find(data, near_duplicates=0.6)
    assert [set(rows_of(found, q)) for q in range(8)] == literal(data, 0.6)
    keys = found.evidence["query"] * 18 + found.evidence["candidate"]
    assert (np.diff(keys) > 0).all()
    owned = {q * 18 + int(p) for q in range(8) for p in data.positives[q]}
    assert set(keys.tolist()) == {q * 18 + c for q in range(8) for c in rows_of(found, q)} - owned


def test_repeated_verses_are_never_negatives():
    """In three translations of one book, no negative has the text of a positive, or nearly so, at any setting."""
    data = verses.data(both=200)
    found = mine_negatives(data, encoder=verses.LetterEncoder(), negatives=20, max_survival=1.0, near_duplicates=0.6)
    barred = exclusions.find(data, near_duplicates=0.6)
    assert "near-duplicate of a positive" in barred.counts()
    out = {(q, c) for q in range(len(data.queries)) for c in rows_of(barred, q)}
    assert not pairs(found) & out
    steps = {row["step"]: row["count"] for row in found.summary["funnel"]}
    assert steps["dropped: near-duplicate of a positive"] == barred.counts()["near-duplicate of a positive"]
    assert found.summary["settings"]["near_duplicates"] == 0.6


def test_dropped_rows_name_rule_and_rival():
    """The table of what was dropped holds what never entered the search, with the positive it was compared with."""
    data = from_python(["q"], [LONG, NEARLY, "a pan", "a pot"], [[0]])
    found = mined(data)
    assert sorted(found.negatives["negative"].tolist()) == [2, 3]
    at = found.dropped["rule"].tolist().index("near-duplicate of a positive")
    assert (found.dropped["candidate"][at], found.dropped["rival"][at], found.dropped["rank"][at] > 0) == (1, 0, True)


def test_of_a_group_only_what_would_be_a_candidate_is_told():
    """A document of hundreds of passages is ruled out whole and told only as far as the pool reaches."""
    data = from_python(["q"], [f"p {i}" for i in range(300)], [[0]], corpus_groups=["x"] * 200 + [None] * 100)
    found = mined(data, depth=10, negatives=5)
    assert len(exclusions.find(data).evidence["query"]) == 199
    rules = found.dropped["rule"].tolist()
    assert 0 < rules.count("same group as a positive") < 199
    assert (found.dropped["rank"] > 0).all()
    assert min(found.negatives["negative"]) >= 200


# Splits


def split_data(queries=("train", "test", None), corpus=None) -> RetrievalData:
    corpus = corpus or ["train"] * 10 + ["test"] * 10 + [None] * 10
    return from_python(
        [f"common q{i}" for i in range(6)], [f"common p{i}" for i in range(30)], [[0], [10], [20], [1], [11], [21]],
        query_splits=[*queries, *queries], corpus_splits=corpus,
    )  # fmt: skip


@pytest.mark.parametrize("source", ["dense", "bm25", "both"])
def test_splits_are_kept_apart(source):
    """A train query gets passages of train and of no split, a test query those of test, one without a split all."""
    data = split_data()
    found = mined(data, candidates_from=source)
    expected = {0: set(range(10)), 1: set(range(10, 20)), 2: set(range(20))}
    for q in range(6):
        own = set(found.negatives["negative"][found.negatives["query"] == q].tolist())
        assert own == (expected[q % 3] | set(range(20, 30))) - set(data.positives[q].tolist())


def test_a_split_search_is_the_search_without_the_others():
    """Ranks, scores and drops are those of a run over the passages that are free to the query."""
    data = split_data()
    rng = np.random.default_rng(1)
    q, p = rng.standard_normal((6, 8)), rng.standard_normal((30, 8))
    whole = mine_negatives(data, query_embeddings=q, corpus_embeddings=p, relative_margin=0.1, negatives=9)
    rows = np.r_[0:10, 20:30]
    part = from_python([data.queries.texts[i] for i in (0, 3)], [data.corpus.texts[i] for i in rows], [[0], [1]])
    alone = mine_negatives(
        part, query_embeddings=q[[0, 3]], corpus_embeddings=p[rows], relative_margin=0.1, negatives=9
    )
    of_train = np.isin(whole.negatives["query"], [0, 3])
    assert whole.negatives["negative"][of_train].tolist() == rows[alone.negatives["negative"]].tolist()
    for name in ("rank", "score", "positive_score"):
        assert whole.negatives[name][of_train].tolist() == alone.negatives[name].tolist()


def test_positives_of_another_split_are_scored_and_found_for_nobody():
    """A train query whose positive is a test passage has a score for it; no other train query may get it."""
    corpus = ["train"] * 10 + ["test"] * 10 + [None] * 10
    data = from_python(["a", "b"], [f"p {i}" for i in range(30)], [[15], [0]], query_splits=["train"] * 2,
                       corpus_splits=corpus)  # fmt: skip
    found = mined(data)
    assert np.isfinite(found.reference_scores).all()
    assert not {c for _, c in pairs(found)} & set(range(10, 20))


def test_splits_on_one_side_only():
    """Passages with splits and queries without: nothing is ruled out, and the report says so."""
    data = from_python(["a"], [f"p {i}" for i in range(4)], [[0]], corpus_splits=["train", "test", None, None])
    found = mined(data)
    assert len(found) == 3
    assert any("no query has one" in text for text in found.summary["audit"]["warnings"])


def test_splits_that_mean_nothing_are_refused(monkeypatch):
    """Where positives lie in other splits by the thousand, the splits are wrong, and one line says so."""
    monkeypatch.setattr(partition, "_MOST", 1)
    with pytest.raises(ValueError, match="positives must lie in the split of their query or in none: 2 of the queries"):
        mined(split_data(("test", "train", None)))


def test_parts_of_contiguous_rows_are_views():
    """Splits that stand together in the corpus are searched without a copy of the vectors."""
    parts = partition.parts_of(*(lambda d: (d.queries, d.corpus, d.positives))(split_data(("train", "train", "train"))))
    assert len(parts) == 1
    assert isinstance(partition._as_rows(np.arange(3, 9)), slice)
    assert not isinstance(partition._as_rows(np.array([1, 3])), slice)


# The audit


def test_hidden_positives_that_would_be_ruled_out_are_not_planted():
    """A hidden positive that its near copy, an equal query, its document or its split rules out never comes back."""
    same = {"max_survival": 1.0}
    near = from_python(["q", "r"], [LONG, NEARLY, "a pan", "a pot"], [[0, 1], [2, 3]])
    assert mined(near, **same).summary["audit"]["planted"] == 1
    assert mined(near, near_duplicates=None, **same).summary["audit"]["planted"] == 2
    equal = from_python(["q", "Q", "r"], ["a", "b", "c", "d"], [[0, 1], [0, 1], [2, 3]])
    assert mined(equal, **same).summary["audit"]["planted"] == 1
    document = from_python(["q", "r"], ["a", "b", "c", "d"], [[0, 1], [2, 3]], corpus_groups=["x", "x", "y", "z"])
    assert mined(document, **same).summary["audit"]["planted"] == 1
    split = from_python(["q", "r"], ["a", "b", "c", "d"], [[0, 1], [2, 3]], query_splits=["train", None],
                        corpus_splits=["train", "test", None, None])  # fmt: skip
    assert mined(split, **same).summary["audit"]["planted"] == 1


def test_a_shared_positive_of_equal_queries_is_not_planted_but_its_others_are():
    """Two equal queries share one positive and have another each, which the other query's knowledge rules out too."""
    data = from_python(["q", "Q"], list("abc"), [[0, 1], [0, 2]])
    found = exclusions.find(data)
    # Row 1 is known to the first query alone, so hiding it there makes it a stranger to both.
    assert [rows.tolist() for rows in found.hideable] == [[1], [2]]
    assert [rows_of(found, q) for q in range(2)] == [[0, 1, 2]] * 2


@given(st.integers(0, 10_000))
@settings(max_examples=15, deadline=None)
def test_what_is_hidden_would_come_back(seed):
    """Taking one hideable positive out of the judgements, with its kin left alone, brings it back into the search."""
    rng = np.random.default_rng(seed)
    words = [" ".join(f"w{k}" for k in rng.integers(0, 3, rng.integers(1, 5))) for _ in range(20)]
    labels = [None if k < 6 else f"g{k}" for k in rng.integers(0, 12, 20)]
    data = from_python(words[:6], words[6:], [rng.choice(14, 3, replace=False).tolist() for _ in range(6)],
                       query_groups=labels[:6], corpus_groups=labels[6:])  # fmt: skip
    found = exclusions.find(data, near_duplicates=0.6)
    for q in range(6):
        if len(found.hideable[q]) < 2:
            continue
        hidden = int(found.hideable[q][0])
        left = [p for p in data.positives[q] if found.kin[p] != found.kin[hidden]]
        if not left:
            continue
        positives = [*data.positives]
        positives[q] = np.array(left)
        again = exclusions.find(RetrievalData(data.queries, data.corpus, positives, data.grades), near_duplicates=0.6)
        assert hidden not in rows_of(again, q)


@pytest.mark.parametrize("threshold", [0.0, 1.1, float("nan")])
def test_bad_thresholds(threshold):
    """A threshold out of its range is named with what came."""
    with pytest.raises(ValueError, match=r"near_duplicates must lie in \(0, 1\], or be None for equal texts: got"):
        exclusions.find(from_python(["q"], ["a"], [[0]]), near_duplicates=threshold)
