"""Second opinions: worked examples, a loop over queries as reference, invariants, resumption and bad input."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.negatives import filters, journal
from tamis.negatives.cross_encoder import PairScorer
from tamis.negatives.judge import Judge, as_probability, read_verdicts
from tamis.negatives.opinion_audit import planted_survival
from tamis.negatives.pair_consistency import consistency
from tamis.negatives.picking import Picker
from tamis.negatives.rules import Reference
from tamis.negatives.second_opinion import TOGETHER, Opinions, review, with_new_positives
from tamis.results import Candidates, Table

DROP = -np.inf


class Scores:
    """A scorer that looks up scores, notes every call, and can fail at one."""

    def __init__(self, table, *, fail_at=None, name="table"):
        self.table, self.calls, self.fail_at, self.name = table, [], fail_at, name

    def fingerprint(self):
        return self.name

    def predict(self, pairs):
        self.calls.append(list(pairs))
        if len(self.calls) == self.fail_at:
            raise RuntimeError("killed")
        return np.array([self.table[pair] for pair in pairs])

    @property
    def pairs(self):
        return [pair for call in self.calls for pair in call]


def pool(scores, indices=None):
    """Candidates with the given scores (q, k), NaN where none is; passages are numbered from 1, 0 is the positive."""
    scores = np.asarray(scores, np.float32)
    present = ~np.isnan(scores)
    columns = np.arange(scores.shape[1])[None] + np.zeros_like(scores, int)
    found = columns + 1 if indices is None else np.asarray(indices)
    return Candidates(
        np.where(present, found, -1), np.where(present, scores, -np.inf).astype(np.float32),
        np.where(present, columns + 1, 0).astype(np.int32), present.astype(np.uint8),
    )  # fmt: skip


def decider(found, negatives, how="top"):
    return lambda weights: Picker(negatives, how).pick(found, weights, seed=3)


def tables(queries, passages):
    return Table([f"q{i}" for i in range(queries)], [f"query {i}" for i in range(queries)]), Table(
        [f"p{i}" for i in range(passages)], [f"passage {i}" for i in range(passages)]
    )


def one_query(given, *, candidates=5, negatives=2, **more):
    """One query, positive 0, candidates 1 to 5 with falling similarity; ``given`` are the scores of passages 0 to 5."""
    found = pool([np.linspace(0.9, 0.5, candidates)])
    queries, corpus = tables(1, candidates + 1)
    scores = Scores({("query 0", f"passage {i}"): s for i, s in enumerate(given)})
    reference = Reference(np.array([0]), np.array([0.95], np.float32), None)
    start = np.zeros((1, candidates), np.float32)
    return scores, lambda **opinions: review(
        found, start, decider(found, negatives), reference, queries, corpus, Opinions(**more, **opinions)
    )


# Cross-encoder


def test_worked_cross_encoder():
    """Candidate 1 scores above the positive's -2 and 4 equals it: 1 goes, 3 comes in its place, no one asks for 4."""
    scores, run = one_query([-2.0, -1.0, -5.0, -3.0, -2.0, -9.0])
    seen = run(scorer=PairScorer(scores))
    assert seen.picks.tolist() == [[1, 2]]
    assert seen.log_weights.tolist() == [[DROP, 0, 0, 0, 0]]
    assert [len(call) for call in scores.calls] == [3, 1]
    assert np.array_equal(seen.scores, [[-1, -5, -3, np.nan, np.nan]], equal_nan=True)
    (decision,) = seen.decisions
    assert (decision.rule, decision.rival.tolist(), decision.rival_score.tolist()) == ("cross-encoder", [[0]], [[-2.0]])
    assert seen.report["cross_encoder"] | {"name": ""} == {
        "name": "", "margin": 0.0, "scale": "score", "budget": None, "pairs": 4, "dropped": 1, "picks_scored": 2,
        "picks_unscored": 0, "queries_emptied": 0,
    }  # fmt: skip
    assert seen.report["warnings"] == []


def test_margin_is_a_difference_of_scores():
    """A margin of 1.5 puts the ceiling for the positive's -2 at -3.5, and an equal score is dropped."""
    scores, run = one_query([-2.0, -1.0, -5.0, -3.5, -2.0, -9.0])
    assert run(scorer=PairScorer(scores, margin=1.5)).picks.tolist() == [[1, 4]]


def test_margin_of_probabilities():
    """With a sigmoid the logits 2 and 0 are 0.881 and 0.5: 0.3 below the positive is 0.581, which 0.5 passes."""
    scores, run = one_query([2.0, 0.0, 0.5, 0.0, -1.0, -1.0])
    seen = run(scorer=PairScorer(scores, margin=0.3, sigmoid=True))
    assert seen.picks.tolist() == [[0, 2]]
    assert seen.scores[0, :2].tolist() == pytest.approx([0.5, 0.6224593])
    assert run(scorer=PairScorer(scores, margin=0.3)).picks.tolist() == [[0, 1]]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(-8, 8), min_size=6, max_size=6))
def test_without_margin_only_the_order_counts(given_scores):
    """At the default margin logits and probabilities give the same picks."""
    plain, squashed = one_query(given_scores), one_query(given_scores)
    assert (
        plain[1](scorer=PairScorer(plain[0])).picks.tolist()
        == squashed[1](scorer=PairScorer(squashed[0], sigmoid=True)).picks.tolist()
    )


def test_extreme_logits_do_not_overflow():
    """Logits of a thousand become probabilities 0 and 1 without a warning."""
    scorer = PairScorer(lambda pairs: [1000.0, -1000.0], sigmoid=True)
    assert scorer.scores([("a", "b"), ("c", "d")]).tolist() == [1.0, 0.0]


def test_budget_leaves_picks_unscored_and_says_so():
    """With three pairs the two picks are scored and the replacement is not; the report says that one was not."""
    scores, run = one_query([-2.0, -1.0, -5.0, -3.0, -2.0, -9.0])
    seen = run(scorer=PairScorer(scores, budget=3))
    assert (seen.picks.tolist(), len(scores.pairs)) == ([[1, 2]], 3)
    assert seen.report["cross_encoder"]["picks_unscored"] == 1
    assert seen.report["warnings"] == [
        "The cross-encoder's budget of 3 pairs is spent: 1 of 2 picked negatives have no second opinion."
    ]


def test_budget_goes_to_the_most_suspicious():
    """Two pairs are one positive and one pick: the pick that is closest to its positive by the similarity."""
    found = pool([[0.5, 0.4], [0.8, 0.3]])
    queries, corpus = tables(2, 3)
    scores = Scores({(f"query {q}", f"passage {p}"): -float(p) for q in range(2) for p in range(3)})
    reference = Reference(np.zeros(2, int), np.full(2, 0.9, np.float32), None)
    seen = review(found, np.zeros((2, 2), np.float32), decider(found, 1), reference, queries, corpus,
                  Opinions(PairScorer(scores, budget=2)))  # fmt: skip
    assert {query for query, _ in scores.pairs} == {"query 1"} and len(scores.pairs) == 2
    assert np.isnan(seen.scores[0]).all()


def test_a_query_that_loses_everything_is_told():
    """Where every candidate beats the positive, the list is empty and the report points at the positive."""
    scores, run = one_query([-9.0, 1, 2, 3, 4, 5])
    seen = run(scorer=PairScorer(scores))
    assert (seen.picks == -1).all() and seen.report["cross_encoder"]["queries_emptied"] == 1
    assert seen.report["warnings"][0].startswith("1 queries lost every candidate to the cross-encoder")


# The whole loop against a plain transcription


def by_hand(found, weights, keys, reference, similarity, ce, truth, negatives, margin, budget):
    """The definition for an unbounded cross-encoder and a judge, one query after the other where that is possible."""
    q, k = found.indices.shape
    dropped = {(i, j) for i in range(q) for j in range(k) if not found.indices[i, j] >= 0 or weights[i, j] == DROP}

    def picks_of(i):
        left = sorted((j for j in range(k) if (i, j) not in dropped), key=lambda j: -keys[i, j])
        return left[:negatives]

    def settle():
        for i in range(q):
            while True:
                bad = [j for j in picks_of(i) if ce[i, found.indices[i, j]] >= ce[i, reference[i]] - margin]
                if not bad:
                    break
                dropped.update((i, j) for j in bad)

    judged = set()
    settle()
    while len(judged) < budget:
        open_picks = [(i, j) for i in range(q) for j in picks_of(i) if (i, j) not in judged]
        open_picks.sort(key=lambda at: ce[at[0], reference[at[0]]] - ce[at[0], found.indices[at]])
        batch = open_picks[: min(TOGETHER, budget - len(judged))]
        if not batch:
            break
        for at in batch:
            judged.add(at)
            if truth[at[0], found.indices[at]]:
                dropped.add(at)
        settle()
    return [picks_of(i) for i in range(q)], judged


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("how", ["top", "random"])
def test_plain_transcription(seed, how):
    """Cross-encoder and judge together pick what a loop over queries picks, and judge the same candidates."""
    rng = np.random.default_rng(seed)
    q, k, n, negatives = 14, 12, 40, 4
    indices = np.stack([rng.permutation(n - q)[:k] + q for _ in range(q)])
    scores = -np.sort(-rng.random((q, k)), axis=1)
    scores[rng.random((q, k)) < 0.1] = np.nan
    found = pool(scores, indices)
    weights = np.where(rng.random((q, k)) < 0.1, DROP, 0).astype(np.float32)
    ce = rng.permutation(q * n).reshape(q, n).astype(np.float32) / 100
    truth = rng.random((q, n)) < 0.3
    reference = Reference(np.arange(q), rng.random(q).astype(np.float32), None)
    queries, corpus = tables(q, n)
    names = {f"query {i}": i for i in range(q)}, {f"passage {i}": i for i in range(n)}
    asked = []

    def judge(query, passage, positive):
        asked.append((names[0][query], names[1][passage]))
        assert positive == f"passage {names[0][query]}"
        return bool(truth[asked[-1]])

    scorer = PairScorer(lambda pairs: [ce[names[0][a], names[1][b]] for a, b in pairs], margin=0.05)
    seen = review(found, weights, decider(found, negatives, how), reference, queries, corpus,
                  Opinions(scorer, Judge(judge, budget=50)))  # fmt: skip
    keys = Picker(negatives, how).keys(found.scores, found.ranks, 3)
    expected, judged = by_hand(found, weights, keys, np.arange(q), found.scores, ce, truth, negatives, 0.05, 50)
    assert [[c for c in row if c >= 0] for row in seen.picks.tolist()] == expected
    assert sorted(asked) == sorted((i, int(found.indices[i, j])) for i, j in judged)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_invariants(data):
    """No scored pick is above its ceiling, no budget is exceeded, no pair is scored twice, and the longest go first."""
    q, k, n = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 8)), 12
    rng = np.random.default_rng(data.draw(st.integers(0, 10_000)))
    budget = data.draw(st.none() | st.integers(0, 30))
    calls = data.draw(st.integers(0, 10))
    batch = data.draw(st.integers(1, 7))
    indices = np.stack([rng.permutation(n - 1)[:k] + 1 for _ in range(q)])
    found = pool(-np.sort(-rng.random((q, k)), axis=1), indices)
    queries = Table([f"q{i}" for i in range(q)], ["same query" if i < 2 else f"query {i}" for i in range(q)])
    corpus = Table([f"p{i}" for i in range(n)], ["x" * int(rng.integers(1, 9)) + str(i % 10) for i in range(n)])
    table = {(a, b): float(rng.normal()) for a in queries.texts for b in corpus.texts}
    scores = Scores(table)
    scorer = PairScorer(scores, margin=0.1, budget=budget, batch=batch)
    judged = []
    judge = Judge(lambda a, b, c: judged.append((a, b, c)) or rng.random() < 0.5, budget=calls)
    seen = review(found, np.zeros((q, k), np.float32), decider(found, 3),
                  Reference(np.zeros(q, int), np.ones(q, np.float32), None), queries, corpus,
                  Opinions(scorer, judge))  # fmt: skip
    rows, places = np.nonzero(seen.picks >= 0)
    columns = seen.picks[rows, places]
    for row, column in zip(rows, columns, strict=True):
        own = table[queries.texts[row], corpus.texts[found.indices[row, column]]]
        if not np.isnan(seen.scores[row, column]):
            assert np.float32(own) < np.float32(table[queries.texts[row], corpus.texts[0]] - 0.1)
        else:
            assert budget is not None
    assert not np.isneginf(seen.log_weights[rows, columns]).any()
    assert len(scores.pairs) == len(set(scores.pairs)) <= (math.inf if budget is None else budget)
    assert len(judged) == len(set(judged)) <= calls
    assert all(len(call) <= batch for call in scores.calls)
    lengths = [[len(a) + len(b) for a, b in call] for call in scores.calls]
    assert all(row == sorted(row, reverse=True) for row in lengths)
    weights = sum(d.log_weights for d in seen.decisions)
    assert np.array_equal(np.isneginf(weights), np.isneginf(seen.log_weights))


# Resumption


def long_texts(n=20):
    queries, corpus = tables(n, n * 3)
    return replace(corpus, texts=[t + " word" * (i % 5) for i, t in enumerate(corpus.texts)]), queries


def many(scores, folder, **settings):
    """Twenty queries with ten candidates each."""
    corpus, queries = long_texts()
    rng = np.random.default_rng(0)
    found = pool(-np.sort(-rng.random((20, 10)), axis=1), np.stack([rng.permutation(40)[:10] + 20 for _ in range(20)]))
    return review(found, np.zeros((20, 10), np.float32), decider(found, 3),
                  Reference(np.arange(20), np.ones(20, np.float32), None), queries, corpus,
                  Opinions(PairScorer(scores, folder=folder, batch=8, **settings)))  # fmt: skip


def random_scores():
    corpus, queries = long_texts()
    rng = np.random.default_rng(1)
    return {(a, b): float(rng.normal()) for a in queries.texts for b in corpus.texts}


@pytest.mark.parametrize("budget", [None, 60])
def test_killed_in_the_middle(tmp_path, budget):
    """A run that dies at some call scores, when it is run again, exactly the pairs that were not stored."""
    whole = Scores(random_scores())
    expected = many(whole, None, budget=budget)
    dead = Scores(random_scores(), fail_at=6)
    with pytest.raises(RuntimeError, match="killed"):
        many(dead, tmp_path, budget=budget)
    stored = [pair for call in dead.calls[:-1] for pair in call]
    again = Scores(random_scores())
    seen = many(again, tmp_path, budget=budget)
    assert seen.picks.tolist() == expected.picks.tolist() and seen.report == expected.report
    assert not set(again.pairs) & set(stored) and set(again.pairs) | set(stored) == set(whole.pairs)
    third = Scores(random_scores())
    assert many(third, tmp_path, budget=budget).picks.tolist() == expected.picks.tolist() and third.calls == []


def test_a_torn_line_costs_one_pair(tmp_path):
    """A file cut off in the middle of a line loses that line alone, and the next lines stand on their own."""
    many(Scores(random_scores()), tmp_path)
    (path,) = tmp_path.iterdir()
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]) + lines[-1][:20])
    again = Scores(random_scores())
    many(again, tmp_path)
    assert len(again.pairs) == 1
    third = Scores(random_scores())
    many(third, tmp_path)
    assert third.calls == []
    journal.add(path, [{"a": 1}])
    assert list(journal.read(path))[-1] == {"a": 1}


def test_other_weights_are_scored_anew(tmp_path):
    """Scores are kept under the fingerprint; a function without one is told by a few of its scores."""
    many(Scores(random_scores()), tmp_path)
    other = Scores(random_scores(), name="other weights")
    many(other, tmp_path)
    assert len(other.pairs) > 50
    table, calls = random_scores(), []

    def plain(sign):
        def scorer(pairs):
            calls.append(len(pairs))
            return [sign * table[pair] for pair in pairs]

        return scorer

    folder = tmp_path / "plain"
    first = many(plain(1), folder)
    count = sum(calls)
    assert count == first.report["cross_encoder"]["pairs"]
    calls.clear()
    assert many(plain(1), folder).picks.tolist() == first.picks.tolist() and calls == [7]
    calls.clear()
    many(plain(-1), folder)
    assert sum(calls) > 50 and len(list(folder.iterdir())) == 2


# Judge


@pytest.mark.parametrize(
    ("verdict", "probability"),
    [(True, 1), (False, 0), (np.True_, 1), (0.25, 0.25), (1, 1), (" Positive ", 1), ("negative", 0), ("TRUE", 1),
     ("0.75", 0.75), ("unsure", math.nan), (np.float32(0.5), 0.5)],
)  # fmt: skip
def test_verdicts(verdict, probability):
    """A verdict is a bool, a probability or a word."""
    assert as_probability(verdict) == pytest.approx(probability, nan_ok=True)


@pytest.mark.parametrize("verdict", [None, "maybe", "", 1.5, -0.1, math.nan, "2", [1]])
def test_bad_verdicts(verdict):
    """Anything else is refused."""
    with pytest.raises(ValueError, match="a verdict must be a bool, a number from 0 to 1, 'positive', 'negative' or"):
        as_probability(verdict)


def test_worked_judge():
    """Passages 1 and 3 are answers: 1 and 2 are judged, 3 takes the place of 1, is judged and goes, 4 is judged."""
    _, run = one_query([0] * 6)
    asked = []

    def judge(query, passage, positive):
        asked.append(passage)
        return {"passage 1": "positive", "passage 2": 0.5, "passage 3": 0.9, "passage 4": "negative"}[passage]

    seen = run(judge=Judge(judge, budget=10), confirmed="positive")
    assert asked == ["passage 1", "passage 2", "passage 3", "passage 4"]
    assert seen.picks.tolist() == [[1, 3]]
    assert [part.tolist() for part in seen.new_positives] == [[0, 0], [1, 3]]
    assert (seen.decisions[0].rule, seen.decisions[0].rival.tolist()) == ("judge", [[0]])
    counts = seen.report["judge"]
    assert (counts["positive"], counts["negative"], counts["unsure"], counts["picks_unjudged"]) == (2, 1, 1, 0)
    assert with_new_positives([np.array([0])], seen.new_positives)[0].tolist() == [0, 1, 3]


def test_judge_is_spent_on_the_most_suspicious():
    """By the cross-encoder passage 2 is closest to the positive, so a budget of one goes to it and not to 1."""
    scores, run = one_query([0.0, -5.0, -1.0, -9.0, -9.0, -9.0])
    asked = []
    seen = run(scorer=PairScorer(scores), judge=Judge(lambda q, p, y: asked.append(p) or False, budget=1))
    assert asked == ["passage 2"] and seen.report["judge"]["picks_unjudged"] == 1


def test_replacements_of_the_judge_meet_the_cross_encoder():
    """What takes the place of a confirmed answer is scored before it is a pick."""
    scores, run = one_query([-2.0, -5.0, -5.0, -1.0, -6.0, -6.0])
    seen = run(scorer=PairScorer(scores), judge=Judge(lambda q, p, y: p == "passage 1"))
    assert seen.picks.tolist() == [[1, 3]]
    _, blame = filters.combine(seen.decisions, (1, 5))
    assert blame.tolist() == [[1, -1, 0, -1, -1]]


def broken_judge(fail_at, asked):
    def judge(query, passage, positive):
        asked.append(passage)
        if len(asked) == fail_at:
            raise TimeoutError("no answer\nsecond line")
        return passage == "passage 1"

    return judge


def test_judge_that_fails_costs_nothing(tmp_path):
    """Verdicts before an exception are kept; the message is one line; the same call asks only what is open."""
    _, run = one_query([0] * 6)
    asked = []
    message = (
        r"^the judge failed on query 'q0', passage 'p2' \(TimeoutError: no answer\): 1 verdicts before it are kept "
        r"in .*, and the same call goes on from there\.$"
    )
    with pytest.raises(ValueError, match=message):
        run(judge=Judge(broken_judge(2, asked), folder=tmp_path))
    seen = run(judge=Judge(broken_judge(0, asked), folder=tmp_path))
    assert asked == ["passage 1", "passage 2", "passage 2", "passage 3"] and seen.picks.tolist() == [[1, 2]]
    (path,) = tmp_path.iterdir()
    query, passage, verdict = read_verdicts(path, ["q0"], [f"p{i}" for i in range(6)])
    assert (query.tolist(), passage.tolist(), verdict.tolist()) == ([0, 0, 0], [1, 2, 3], [1, 0, 0])


def test_judge_that_fails_without_a_folder():
    """Without a folder the verdicts so far are used and the report says what happened; with none it is an error."""
    _, run = one_query([0] * 6)
    seen = run(judge=Judge(broken_judge(2, [])))
    assert seen.picks.tolist() == [[1, 2]]
    assert seen.report["warnings"] == [
        "The judge failed on query 'q0', passage 'p2' (TimeoutError: no answer): 1 verdicts before it are kept. The "
        "others were not asked."
    ]
    with pytest.raises(ValueError, match="the judge failed on query 'q0', passage 'p1'"):
        run(judge=Judge(broken_judge(1, [])))
    with pytest.raises(ValueError, match=r"ValueError: a verdict must be .*got 'maybe'"):
        run(judge=Judge(lambda q, p, y: "maybe"))


def test_budget_counts_stored_verdicts(tmp_path):
    """The same budget again asks nothing; a larger one asks the difference."""
    for budget, calls in ((2, 2), (2, 0), (3, 1)):
        asked = []
        one_query([0] * 6, negatives=5)[1](judge=Judge(broken_judge(0, asked), budget=budget, folder=tmp_path))
        assert len(asked) == calls


def test_verdicts_of_a_file(tmp_path):
    """A file drops what it calls answers before anyone is asked, and counts pairs that are no candidates."""
    rows = [("q0", "p1", "positive"), ("q0", "p5", "0.9"), ("q0", "p2", "unsure"), ("q0", "p0", "negative")]
    columns = dict(zip(("query_id", "passage_id", "verdict"), map(list, zip(*rows, strict=True)), strict=True))
    (tmp_path / "v.jsonl").write_text(
        "".join(json.dumps(dict(zip(columns, r, strict=True))) + "\n" for r in rows), encoding="utf-8"
    )
    (tmp_path / "v.csv").write_text(
        "verdict,note,query_id,passage_id\n" + "".join(f"{v},x,{q},{p}\n" for q, p, v in rows), encoding="utf-8"
    )
    pq.write_table(pa.table(columns), tmp_path / "v.parquet")
    ids = ["q0"], [f"p{i}" for i in range(6)]
    read = [read_verdicts(tmp_path / f"v.{end}", *ids) for end in ("jsonl", "csv", "parquet")]
    for found in read:
        assert [part.tolist() for part in found[:2]] == [[0] * 4, [1, 5, 2, 0]]
        assert found[2] == pytest.approx([1, 0.9, math.nan, 0], nan_ok=True)
    scores, run = one_query([0.0, 9.0, -1.0, -1.0, -1.0, -1.0])
    seen = run(scorer=PairScorer(scores), verdicts=read[0], confirmed="positive")
    assert seen.picks.tolist() == [[1, 2]] and ("query 0", "passage 1") not in scores.pairs
    assert seen.new_positives[1].tolist() == [1, 5]
    assert (seen.report["judge"]["not_candidates"], seen.report["judge"]["verdicts"]) == (1, 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"query_id": "q9", "passage_id": "p1", "verdict": 1}', "line 1: query_id 'q9' is not among the queries"),
        ('{"query_id": "q0", "passage_id": "x", "verdict": 1}', "line 1: passage_id 'x' is not in the corpus"),
        ('{"query_id": "q0", "passage_id": "p1", "verdict": "perhaps"}', "line 1: a verdict must be .* got 'perhaps'"),
        ('{"query_id": "q0", "passage_id": "p1"}', "line 1: 'verdict' is missing: verdicts need query_id, passage_id"),
        ('{"query_id": "q0", "passage_id": "p1", "verdict": 1}\n{"query_id": "q0", "passage_id": "p1", "verdict": 0}',
         "line 2: another verdict on query 'q0' and passage 'p1' stands before it"),
    ],
)  # fmt: skip
def test_bad_verdict_files(tmp_path, text, message):
    """An unknown id or word, a missing column or a contradiction is told with its line."""
    path = tmp_path / "v.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_verdicts(path, ["q0"], ["p0", "p1"])


def test_bad_verdict_paths(tmp_path):
    """A file that is not there or of an unknown kind is told."""
    with pytest.raises(ValueError, match="does not exist: it should hold verdicts"):
        read_verdicts(tmp_path / "v.jsonl", [], [])
    (tmp_path / "v.txt").write_text("")
    with pytest.raises(ValueError, match=r"must end in .jsonl, .csv, .tsv or .parquet: got '.txt'"):
        read_verdicts(tmp_path / "v.txt", [], [])


# Bad scorers


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([1.0], "must give one score per pair: 2 pairs, 1 scores"),
        (np.zeros((2, 3)), r"must give one score per pair: 2 pairs, shape \(2, 3\)"),
        ([1.0, math.nan], "must give finite scores: got nan for the query 'b' and the passage 'x'"),
        ([1.0, math.inf], "must give finite scores: got inf for the query 'b'"),
        (["a", "b"], "must give numbers: got list"),
        (None, "one score per pair: 2 pairs, shape"),
    ],
)
def test_bad_scores(scores, message):
    """A wrong number of scores and scores that are no numbers are told before anything is built on them."""
    with pytest.raises(ValueError, match=message):
        PairScorer(lambda pairs: scores).scores([("aa", "xx"), ("b", "x")])


def test_bad_settings():
    """What cannot work is told at once."""
    with pytest.raises(TypeError, match=r"cross_encoder must be a function .* or have predict\(pairs\): got int"):
        PairScorer(3)
    with pytest.raises(ValueError, match="cross_encoder_margin must be at least 0"):
        PairScorer(len, margin=-1)
    with pytest.raises(ValueError, match="cross_encoder_budget must be at least 0"):
        PairScorer(len, budget=-1)
    with pytest.raises(TypeError, match="judge must be a function of .* got int"):
        Judge(3)
    with pytest.raises(ValueError, match="judge_budget must be at least 0"):
        Judge(len, budget=-1)


# Consistency and the audit


def test_consistency():
    """The best positive counts; a rank of 0 is beyond the depth; the evidence is that positive and its score."""
    ranks = {(0, 0): 5, (0, 1): 2, (1, 2): 0, (2, 3): 3}
    call = {"within": 2, "depth": 10}

    def rank_of(query, passage):
        return np.array([ranks[pair] for pair in zip(query.tolist(), passage.tolist(), strict=True)])

    positives = [np.array([0, 1]), np.array([2]), np.array([3])]
    rule, best = consistency(positives, rank_of, lambda q, p: p / 10, **call)
    assert best.tolist() == [2, 0, 3]
    assert rule.log_weights[:, 0].tolist() == [0, DROP, DROP] and rule.rule == "positive not in top 2"
    assert rule.rival[:, 0].tolist() == [1, 2, 3] and rule.rival_score[:, 0] == pytest.approx([0.1, 0.2, 0.3])
    softer, _ = consistency(positives, rank_of, lambda q, p: p / 10, log_weight=-1.0, **call)
    total, blame = filters.combine([rule, softer], (3, 4))
    assert total[0].tolist() == [0] * 4 and softer.log_weights[:, 0].tolist() == [0, -1, -1]
    assert blame.tolist() == [[-1] * 4, [0] * 4, [0] * 4]
    with pytest.raises(ValueError, match="consistent_within must be at least 1"):
        consistency(positives, rank_of, rank_of, within=0, depth=10)
    with pytest.raises(ValueError, match="consistent_within must not be more than the candidates per query: got 11"):
        consistency(positives, rank_of, rank_of, within=11, depth=10)
    with pytest.raises(ValueError, match="log_weight must be at most 0"):
        consistency(positives, rank_of, rank_of, within=1, depth=10, log_weight=0.5)


def test_planted_survival():
    """Of three hidden positives that would be picked the cross-encoder rejects the two that beat their references."""
    texts = ["q0", "q1", "q2"], ["a", "b", "c", "d"]
    table = {(q, p): float(i * 0.1 + j) for i, q in enumerate(texts[0]) for j, p in enumerate(texts[1])}
    pairs, reference = (np.array([0, 1, 2]), np.array([1, 0, 3])), np.array([0, 2, 3])
    seen = planted_survival(PairScorer(Scores(table)), pairs, reference, texts, 10)
    assert seen["rejected"]["count"] == 2 and seen["survival"]["rate"] == 0.1 and seen["pairs"] == 5
    assert seen["says"].startswith("The cross-encoder rejects 2 of the 3 hidden positives")
    more = planted_survival(PairScorer(Scores(table)), pairs, reference, texts, 10, unscored=7)
    assert "7 picks" in more["says"]
    assert planted_survival(None, pairs, reference, texts, 10) == {
        "measured": False,
        "says": "The second opinion is not in the survival rate: no cross-encoder was asked.",
    }
