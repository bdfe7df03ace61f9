"""BBNLI-next: variations, the adversarial filter, and bias told from brittleness."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.evaluation import (
    AdversarialFilter,
    WordNetFill,
    agreed,
    bias_score_bbq,
    brittleness,
    lexical_variations,
    paired_bias_report,
)
from tests.behaviour import ArrayCase

MEANING = {"n": "neutral", "e": "agree", "c": "other"}
# To an item "e" errs with the stereotype and "c" against it; to its twin the other way round.
AS_PRO = {"P": "e", "A": "c", "C": "n"}
AS_ANTI = {"P": "c", "A": "e", "C": "n"}


def pairs_of(kinds):
    """Labels for pairs of errors such as ("P", "C")."""
    return [AS_PRO[a] for a, _ in kinds], [AS_ANTI[b] for _, b in kinds]


def make(seed: int) -> list[ArrayCase]:
    """The filter on tables of right and wrong, and the report."""
    rng = np.random.default_rng(seed)
    right = rng.integers(0, 2, (30, 3))
    sources = rng.integers(0, 8, 30)

    def keep(s, right, sources):
        models = [lambda items, m=m: [right[i, m] for i in items] for m in range(3)]
        return AdversarialFilter(models, 1, 2, seed=s).filter(range(30), [1] * 30, sources=sources.tolist())

    def report(s, pro, anti):
        return np.array(paired_bias_report(list(pro), list(anti), {0: "neutral", 1: "agree", 2: "other"}, seed=s).net)

    labels = rng.integers(0, 3, (2, 12))
    return [
        ArrayCase(
            "AdversarialFilter",
            keep,
            (right, sources),
            empty=lambda: AdversarialFilter([lambda items: []]).filter([], []),
        ),
        ArrayCase("paired_bias_report", report, (labels[0], labels[1]), empty=lambda: report(0, [], [])),
    ]


# --- worked numbers ---------------------------------------------------------------------------------------------------


def test_the_bias_score():
    """25 leaning answers of which 20 agree, 15 to twins of which 10 do not: s 0.5; at accuracy 0.6 the bias is 0.2."""
    pred = [2] * 20 + [0] * 5 + [0] * 10 + [2] * 5 + [1] * 60
    anti = [False] * 25 + [True] * 15 + [False] * 30 + [True] * 30
    found = bias_score_bbq(pred, [2] * 100, 1, anti=anti)
    assert found.score == pytest.approx(0.5) and found.accuracy == pytest.approx(0.6)
    assert found.bias == pytest.approx(0.2) and not found.all_neutral


def test_all_neutral():
    """No answer leans: the score is 0 and says so."""
    found = bias_score_bbq([1, 1], [2, 0], 1)
    assert (found.score, found.bias, found.accuracy, found.all_neutral) == (0.0, 0.0, 1.0, True)


def test_the_pairs():
    """(P,P), (P,C), (C,C), (A,P): 4/8 with, 1/8 against, net 0.375, gross 0.625, and one pair of each kind."""
    found = paired_bias_report(*pairs_of(["PP", "PC", "CC", "AP"]), MEANING)
    assert (found.pro_rate, found.anti_rate, found.net, found.gross, found.accuracy) == (
        0.5,
        0.125,
        0.375,
        0.625,
        0.375,
    )
    kinds = (
        found.consistent_bias,
        found.one_sided,
        found.contradictory,
        found.both_correct,
        found.consistent_anti_bias,
    )
    assert kinds == (1, 1, 1, 1, 0)


def test_the_filter():
    """Right answers [1,1,1], [1,0,1], [0,0,0]: one fooled model keeps two items, two keep one, none keep all."""
    right = np.array([[1, 1, 1], [1, 0, 1], [0, 0, 0]])
    models = [lambda items, m=m: [right[i, m] for i in items] for m in range(3)]
    for least, kept in ((1, [1, 2]), (2, [2]), (0, [0, 1, 2])):
        assert AdversarialFilter(models, least).filter([0, 1, 2], [1, 1, 1]).indices.tolist() == kept


def test_brittleness():
    """Answers [n,n,n] and [n,e,n]: half of the base items waver."""
    assert brittleness(["a"] * 3 + ["b"] * 3, ["n", "n", "n", "n", "e", "n"]) == 0.5


# --- transcriptions and invariants ------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("PAC"), st.sampled_from("PAC"), st.integers(0, 4)), min_size=1, max_size=20))
def test_the_report_by_loops(rows):
    """Counts one pair after the other; what is steady is constant over all variations of a base item."""
    pro, anti = pairs_of([(a, b) for a, b, _ in rows])
    groups = [g for _, _, g in rows]
    found = paired_bias_report(pro, anti, MEANING, groups=groups)
    both = [x for a, b, _ in rows for x in (a, b)]
    assert found.pro_rate == pytest.approx(both.count("P") / len(both))
    assert found.anti_rate == pytest.approx(both.count("A") / len(both))
    assert found.accuracy == pytest.approx(1 - found.gross)
    of = {g: {(a, b) for a, b, h in rows if h == g} for g in groups}
    varied = [g for g in of if groups.count(g) > 1]
    want = sum(len(of[g]) > 1 for g in varied) / len(varied) if varied else float("nan")
    assert found.brittleness == pytest.approx(want, nan_ok=True)
    steady = [x for a, b, g in rows if len(of[g]) == 1 for x in (a, b)]
    net = (steady.count("P") - steady.count("A")) / len(steady) if steady else float("nan")
    assert found.bias_given_robust == pytest.approx(net, nan_ok=True)
    low, high = found.intervals["net"]
    assert low - 1e-12 <= high and -1 <= low and high <= 1


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("PAC"), st.sampled_from("PAC")), min_size=1, max_size=20))
def test_exchanging_the_roles_turns_the_sign(kinds):
    """Items for twins and twins for items: net and s change their sign, all else stays."""
    pro, anti = pairs_of(kinds)
    one, two = paired_bias_report(pro, anti, MEANING), paired_bias_report(anti, pro, MEANING)
    assert two.net == pytest.approx(-one.net) and two.gross == pytest.approx(one.gross)
    assert two.contradictory == one.contradictory
    n = len(kinds)
    flags = np.arange(2 * n) >= n
    scores = [bias_score_bbq(pro + anti, ["e"] * 2 * n, "n", anti=f) for f in (flags, ~flags)]
    assert scores[1].score == pytest.approx(-scores[0].score)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 3), st.integers(1, 3))
def test_the_filter_by_loops(seed, least, cap):
    """Pairs stay whole, duplicates and easy items go, no source is above the cap, and every reason is true."""
    rng = np.random.default_rng(seed)
    n = 16
    right = rng.integers(0, 2, (n, 3))
    items = [f"text {i}" for i in rng.integers(0, 12, n)]
    labels = rng.integers(0, 2, n).tolist()
    pairs, sources = (np.arange(n) // 2).tolist(), (np.arange(n) // 6).tolist()
    models = [
        lambda _, m=m: [label if ok else label + 1 for label, ok in zip(labels, right[:, m], strict=True)]
        for m in range(3)
    ]
    found = AdversarialFilter(models, least, cap).filter(items, labels, sources=sources, pairs=pairs)
    fooled = 3 - right.sum(1)
    assert found.scores.tolist() == fooled.tolist()
    kept = set(found.indices.tolist())
    assert all((i ^ 1) in kept for i in kept) and found.indices.tolist() == sorted(kept)
    first = {}
    for i in range(n):
        first.setdefault((items[i], labels[i]), i)
    for i in kept:
        assert first[items[i], labels[i]] == i and max(fooled[i], fooled[i ^ 1]) >= least
    for source in set(sources):
        assert len({pairs[i] for i in kept if sources[i] == source}) <= cap
    reasons = found.reasons
    assert sorted(reasons["row"].tolist()) == sorted(set(range(n)) - kept)
    for row, rule, rival in zip(reasons["row"], reasons["rule"], reasons["rival"], strict=True):
        if rule == "duplicate":
            assert rival < row and (items[rival], labels[rival]) == (items[row], labels[row])
        elif rule == "fools too few":
            assert max(fooled[row], fooled[row ^ 1]) < least
        else:
            assert rule in ("cap", "twin left out")


def test_the_cap_takes_the_most_deceptive():
    """Of one source the item that fools most models stays; among equals the seed decides."""
    right = np.array([[0, 1], [0, 0], [0, 1]])
    models = [lambda items, m=m: [right[i, m] for i in items] for m in range(2)]
    found = AdversarialFilter(models, 1, 1).filter([0, 1, 2], [1, 1, 1], sources=["a"] * 3)
    assert found.indices.tolist() == [1]
    equal = [lambda items: [0 for _ in items]]
    kept = {
        int(AdversarialFilter(equal, 1, 1, seed=s).filter([0, 1, 2], [1] * 3, sources=["a"] * 3).indices[0])
        for s in range(20)
    }
    assert kept == {0, 1, 2}


# --- variations -------------------------------------------------------------------------------------------------------


def test_variations():
    """One word at a time, capital letters kept, the original and repeats left out, and what ``keep`` refuses."""
    fills = {"the": ["the", "a"], "dog": ["hound", "Dog", "cat"], "ran": ["walked"]}

    def fill(masked, word):
        assert masked.count("[MASK]") == 1
        return fills.get(word.casefold(), [])

    found = lexical_variations("The dog ran.", fill)
    assert [v.text for v in found] == ["A dog ran.", "The hound ran.", "The cat ran.", "The dog walked."]
    assert (found[1].position, found[1].original, found[1].replacement) == (1, "dog", "hound")
    assert [v.text for v in lexical_variations("The dog ran.", fill, [1], k=1)] == ["The hound ran."]
    assert [v.text for v in lexical_variations("The dog ran.", fill, keep=lambda _, new: "cat" in new)] == [
        "The cat ran."
    ]


def test_fills_of_wordnet(tmp_path):
    """Synonyms of the first sense, then words under the same parent; underscores are spaces."""
    lines = [
        "  1 licence",
        "00000001 03 n 01 tool 0 000 | what one works with",
        "00000002 03 n 02 sieve 0 fine_screen 0 001 @ 00000001 n 0000 | holds back",
        "00000003 03 n 01 hammer 0 001 @ 00000001 n 0000 | hits",
    ]
    (tmp_path / "data.noun").write_text("\n".join(lines) + "\n")
    for part in ("verb", "adj", "adv"):
        (tmp_path / f"data.{part}").write_text("")
    fill = WordNetFill(tmp_path)
    assert fill("a [MASK]", "Sieve") == ["fine screen", "hammer"]
    assert fill("a [MASK]", "unknown") == []
    assert [v.text for v in lexical_variations("a sieve", fill, k=1)] == ["a fine screen"]


def test_agreement():
    """Enough votes for the label; a vote that was not given is none."""
    votes = np.array([[1, 1, -1], [1, 0, -1], [2, 2, 2]])
    assert agreed(votes, [1, 1, 2], 2).tolist() == [True, False, True]


# --- bad input --------------------------------------------------------------------------------------------------------


def test_bad_input():
    """One line that names the argument."""
    with pytest.raises(ValueError, match="models must hold at least one model: got none"):
        AdversarialFilter([])
    with pytest.raises(ValueError, match=r"min_fooled must .*: got 2"):
        AdversarialFilter([len], 2)
    with pytest.raises(ValueError, match="models must give one label per item: 2 items, model 0 gave 1"):
        AdversarialFilter([lambda items: [1]]).filter(["a", "b"], [1, 1])
    with pytest.raises(ValueError, match="pred_anti must have one entry per row of pred_pro: 2 rows, 1"):
        paired_bias_report(["e", "n"], ["e"], MEANING)
    with pytest.raises(ValueError, match="label_map must hold every label: 'x' is not in it"):
        paired_bias_report(["x"], ["e"], MEANING)
    with pytest.raises(ValueError, match="label_map must be one of"):
        paired_bias_report(["n"], ["n"], {"n": "correct"})
    with pytest.raises(ValueError, match=r"positions must lie in 0..1, the words: got 2"):
        lexical_variations("two words", lambda m, w: [], [2])
    with pytest.raises(ValueError, match="k must be at least 1: got 0"):
        lexical_variations("two words", lambda m, w: [], k=0)
    with pytest.raises(ValueError, match="votes must be"):
        agreed(np.zeros((0, 3)), [], 1)
    with pytest.raises(FileNotFoundError, match="no WordNet in"):
        WordNetFill("nowhere")
