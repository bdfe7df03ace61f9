"""ConTAM: worked numbers, loops over every pair and every span, and what must hold of any corpus."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.evaluation import (
    ContaminationAudit,
    NGramIndex,
    contam_curve,
    contamination_scores,
    decontaminate,
    measure_contamination,
    select_threshold,
)
from tests.behaviour import ArrayCase

METRICS = ("longest", "token", "ngram", "extend")
SAMPLE, CORPUS = "a b c d e f g h i j", "x a b c d y f g h z"
SCORES, CORRECT = np.array([0, 0.2, 0.5, 0.9, 1.0]), np.array([0.0, 1, 0, 1, 1])
TEXTS = st.lists(st.lists(st.integers(0, 2), max_size=9), min_size=1, max_size=4)


def every(samples, corpus, **options):
    found = measure_contamination(samples, corpus, **options)
    return [getattr(found, metric).tolist() for metric in METRICS]


# Worked numbers


@pytest.mark.parametrize("indexed", [False, True])
def test_the_worked_sample(indexed):
    """Three of eight n-grams match; seven of ten tokens are covered; the longest run has four, seven over one skip."""
    corpus = NGramIndex([CORPUS], n=3) if indexed else [CORPUS]
    assert every([SAMPLE], corpus, n=3) == [[0.4], [0.7], [0.375], [0.7]]
    found = measure_contamination([SAMPLE], corpus, n=3, skip_budget=1)
    assert found.longest.tolist() == [0.7] and found.extend.tolist() == [0.7]
    assert {name: column.tolist() for name, column in found.matches.items()} == {
        "row": [0], "start": [0], "corpus_start": [1], "span": [8], "equal": [7],
    }  # fmt: skip
    bridged = measure_contamination([SAMPLE], corpus, n=3, skip_budget=1, strict=False)
    assert bridged.longest.tolist() == [0.7] and bridged.token.tolist() == [0.7]
    assert every([SAMPLE], corpus, n=3, mincount=2) == [[0.0]] * 4


@pytest.mark.parametrize(
    ("threshold", "share", "epg"), [(0.1, 0.8, 0.6), (0.4, 0.6, 0.1), (0.8, 0.4, 0.266667), (0.95, 0.2, 0.1)]
)
def test_the_worked_gain(threshold, share, epg):
    """The gain is the mean of all minus that of the clean, which is the share times the gap of the two parts."""
    curve = contam_curve(SCORES, CORRECT, [threshold])
    assert curve.share[0] == share and curve.epg[0] == pytest.approx(epg, abs=1e-6)
    flagged = threshold <= SCORES
    assert curve.epg[0] == pytest.approx(share * (CORRECT[flagged].mean() - CORRECT[~flagged].mean()))


def test_copies_score_one_and_strangers_zero():
    """An exact copy scores 1 by every metric, disjoint vocabularies 0."""
    assert every([SAMPLE], ["k l m", f"w {SAMPLE} z"], n=4) == [[1.0]] * 4
    assert every([SAMPLE], ["k l m n o p q r"], n=1) == [[0.0]] * 4


def test_short_samples_are_told():
    """A sample of fewer than n tokens scores 0 and is flagged, or is compared as a whole; an empty one scores 0."""
    samples, corpus = ["Red fox!", "", "the red fox runs"], ["red fox", "see the red fox"]
    found = measure_contamination(samples, corpus, n=3)
    assert found.too_short.tolist() == [True, True, False] and found.tokens.tolist() == [2, 0, 4]
    assert found.longest.tolist() == [0.0, 0.0, 0.75]
    assert every(samples, corpus, n=3, short="whole") == [[1.0, 0.0, 0.75]] * 2 + [[1.0, 0.0, 0.5], [1.0, 0.0, 0.75]]
    assert every(samples, NGramIndex(corpus, n=3), short="whole") == every(samples, corpus, n=3, short="whole")


def test_stitched_matches_are_longer():
    """Runs of two texts make one where a match need not lie in one text, and gaps of a token are bridged on request."""
    corpus = ["a b c", "c d e", "g h i"]
    assert contamination_scores([SAMPLE], corpus, n=3).tolist() == [0.3]
    assert contamination_scores([SAMPLE], corpus, n=3, strict=False).tolist() == [0.5]
    assert contamination_scores([SAMPLE], corpus, n=3, strict=False, skip_budget=1).tolist() == [0.8]


# A slow transcription


def spans(sample, text, seeds, n, budget):
    """All (start, start in the text, length, places that are equal) that a run of seeds within the budget explains."""
    found = []
    for shift in range(-len(text), len(sample)):
        places = [i for i in range(len(sample)) if 0 <= i - shift < len(text)]
        equal = {i: sample[i] == text[i - shift] for i in places}
        seeded = [i for i in places if i in seeds and all(equal.get(i + k) for k in range(n))]
        for a in places:
            for b in range(a + n, max(places) + 2):
                inside = range(a, b)
                if budget == 0:
                    good = all(i in seeded for i in range(a, b - n + 1))
                else:
                    good = equal[a] and equal[b - 1] and sum(not equal[i] for i in inside) <= budget
                    good = good and any(a <= i and i + n <= b for i in seeded)
                if good:
                    found.append((a, a - shift, b - a, [i for i in inside if equal[i]]))
    return found


def slow(samples, corpus, n, mincount, budget):
    """All four metrics, sample by sample and text by text."""
    grams = [tuple(t[i : i + n]) for t in corpus for i in range(len(t) - n + 1)]
    rows = []
    for sample in samples:
        seeds = {i for i in range(len(sample) - n + 1) if grams.count(tuple(sample[i : i + n])) >= mincount}
        covered = {i + k for i in seeds for k in range(n)}
        found = [span for text in corpus for span in spans(sample, text, seeds, n, budget)]
        extended = {i for span in found for i in span[3]}
        longest = max((len(span[3]) for span in found), default=0)
        length = max(1, len(sample))
        counts = (longest, len(covered), len(seeds) / max(1, len(sample) - n + 1) * length, len(extended))
        rows.append([count / length for count in counts])
    return np.array(rows).T


@settings(deadline=None, max_examples=60)
@given(TEXTS, TEXTS, st.integers(1, 3), st.integers(1, 2), st.integers(0, 2))
def test_all_metrics_agree_with_loops(samples, corpus, n, mincount, budget):
    """Streamed past indexed samples, or indexed, a corpus gives the scores of a literal transcription."""
    expected = slow(samples, corpus, n, mincount, budget)
    options = {"mincount": mincount, "skip_budget": budget}
    one = measure_contamination(samples, corpus, n=n, tokenizer=list, **options)
    two = measure_contamination(samples, NGramIndex(corpus, n=n, tokenizer=list), **options)
    for found in (one, two):
        assert np.allclose([getattr(found, metric) for metric in METRICS], expected)
    for name, column in one.matches.items():
        assert column.tolist() == two.matches[name].tolist(), name


@settings(deadline=None, max_examples=60)
@given(TEXTS, TEXTS, st.integers(1, 3), st.integers(0, 2), st.booleans())
def test_each_text_by_itself_is_a_corpus(samples, texts, n, budget, strict):
    """What a training text holds of a sample is the sample's contamination by that text alone."""
    options = {"n": n, "tokenizer": list, "skip_budget": budget, "strict": strict, "short": "whole"}
    leaks = ContaminationAudit(samples, **options).update(texts)
    for metric in METRICS:
        table = np.zeros((len(texts), len(samples)))
        table[leaks.rows, leaks.samples] = getattr(leaks, metric)
        alone = [contamination_scores(samples, [text], metric=metric, **options) for text in texts]
        assert np.allclose(table, alone), metric
        kept = decontaminate(texts, samples, metric=metric, threshold=0.5, **options)
        assert np.allclose(kept.scores, np.max(alone, 1))
        assert kept.indices.tolist() == np.flatnonzero(kept.scores < 0.5).tolist()
        for i, row in enumerate(kept.reasons["row"]):
            rival, score = kept.reasons["rival"][i], kept.reasons["score"][i]
            assert score == kept.scores[row] == table[row, rival]
            a, b, span = (int(kept.reasons[name][i]) for name in ("start", "rival_start", "span"))
            pairs = zip(texts[row][a : a + span], samples[rival][b : b + span], strict=True)
            assert sum(x == y for x, y in pairs) == kept.reasons["equal"][i]


# Invariants


@settings(deadline=None)
@given(TEXTS, TEXTS, st.integers(1, 3))
def test_what_always_holds(samples, corpus, n):
    """Tokens cover at least the longest match and the n-grams; larger n or mincount never adds, more texts never take.

    Skips never take either.
    """
    options = {"tokenizer": list}
    longest, token, ngram, extend = now = np.array(every(samples, corpus, n=n, **options))
    assert (token >= longest).all() and (token >= ngram - 1e-12).all() and (extend == token).all()
    assert (now <= 1).all() and (now >= 0).all()
    assert (np.array(every(samples, corpus, n=n + 1, **options)) <= now + 1e-12).all()
    assert (np.array(every(samples, corpus, n=n, mincount=2, **options)) <= now).all()
    assert (np.array(every(samples, [*corpus, samples[0]], n=n, **options)) >= now).all()
    skipped = np.array(every(samples, corpus, n=n, skip_budget=1, **options))
    assert (skipped >= now).all() and (skipped[0] <= skipped[3]).all()


# Thresholds


def test_the_curve_by_default_has_every_score_above_the_lowest():
    """No threshold of the default leaves nothing clean."""
    curve = contam_curve(SCORES, CORRECT)
    assert curve.threshold.tolist() == [0.2, 0.5, 0.9, 1.0] and np.isfinite(curve.epg).all()


def test_a_threshold_without_clean_samples_warns():
    """Its gain is NaN; one that nothing reaches has no gain."""
    with pytest.warns(UserWarning, match="threshold -1 leaves no clean samples: its gain is NaN"):
        curve = contam_curve(SCORES, CORRECT, [-1.0, 2.0])
    assert math.isnan(curve.epg[0]) and curve.epg[1] == 0 and np.isnan(curve.z).all()


def test_z_is_that_of_two_means():
    """The closed standard error is the share times that of the gap of two means; the bootstrap's is near it."""
    rng = np.random.default_rng(0)
    scores = rng.random(400)
    correct = (rng.random(400) < 0.5 + 0.3 * (scores > 0.7)).astype(float)
    curve = contam_curve(scores, correct, [0.7])
    one, two = correct[scores >= 0.7], correct[scores < 0.7]
    error = np.sqrt(one.var(ddof=1) / len(one) + two.var(ddof=1) / len(two))
    assert curve.z[0] == pytest.approx((one.mean() - two.mean()) / error)
    drawn = contam_curve(scores, correct, [0.7], error="bootstrap", resamples=4000)
    assert drawn.epg == curve.epg and drawn.z[0] == pytest.approx(curve.z[0], rel=0.1)


def test_the_bootstrap_error_is_that_of_resampling():
    """The spread of the gain over resamples drawn one by one."""
    rng = np.random.default_rng(1)
    scores, correct = rng.random(60), rng.random(60)
    gains = []
    for _ in range(3000):
        rows = rng.integers(60, size=60)
        gains.append(correct[rows].mean() - correct[rows][scores[rows] < 0.5].mean())
    curve = contam_curve(scores, correct, [0.5], error="bootstrap", resamples=3000)
    assert curve.epg[0] / curve.z[0] == pytest.approx(np.std(gains), rel=0.08)


def test_the_choice_is_the_clearest_or_the_largest():
    """max_z takes the largest z, max_epg the largest significant gain; both leave enough clean samples."""
    rng = np.random.default_rng(2)
    scores = np.repeat([0.0, 0.3, 0.6], [200, 100, 100])
    correct = (rng.random(400) < np.repeat([0.4, 0.6, 0.95], [200, 100, 100])).astype(float)
    curve = contam_curve(scores, correct)
    by_z = select_threshold(scores, correct, n_permutations=200)
    by_epg = select_threshold(scores, correct, method="max_epg", n_permutations=200)
    assert by_z.threshold == curve.threshold[np.argmax(curve.z)] == 0.6 and by_z.z == curve.z.max()
    assert by_epg.threshold == curve.threshold[np.argmax(curve.epg)] == 0.3 and by_epg.epg == curve.epg.max()
    assert by_z.p_value == by_epg.p_value == pytest.approx(1 / 201)
    assert select_threshold(scores, correct, least_clean=250).threshold == 0.6
    assert select_threshold(scores, correct, method="max_epg", least_clean_share=0.7).threshold == 0.6


def test_the_p_value_is_uniform_where_nothing_is_gained():
    """Over many worlds without contamination it is as often small as large."""
    rng = np.random.default_rng(3)
    drawn = [
        select_threshold(rng.integers(0, 8, 120) / 8, rng.random(120), n_permutations=99, seed=seed).p_value
        for seed in range(200)
    ]
    assert abs(np.mean(drawn) - 0.5) < 0.06 and abs(np.mean(np.array(drawn) <= 0.1) - 0.1) < 0.06


def test_constant_results_gain_nothing():
    """Where every sample is right there is no gain and no evidence."""
    choice = select_threshold(np.repeat([0.0, 1.0], 60), np.ones(120), n_permutations=20)
    assert (choice.epg, choice.z, choice.p_value) == (0.0, 0.0, 1.0)


def test_tensors_give_tensors():
    """The curve of tensors has their dtype and the numbers of arrays."""
    curve = contam_curve(torch.tensor(SCORES, dtype=torch.float32), torch.tensor(CORRECT), [0.8])
    assert curve.epg.dtype == torch.float32 and curve.epg.item() == pytest.approx(0.266667, abs=1e-6)


# Streams


def test_a_stream_is_read_once_and_in_parts():
    """A generator will do; parts taken in one by one are the whole; rows go on from part to part."""
    corpus = ["k l m", CORPUS, SAMPLE]
    whole = measure_contamination([SAMPLE], iter(corpus), n=3)
    audit = ContaminationAudit([SAMPLE], n=3)
    rows = [audit.update([text]).rows.tolist() for text in corpus]
    assert rows == [[], [1], [2]] and audit.result().matches["row"].tolist() == [2]
    assert audit.result().longest.tolist() == whole.longest.tolist() == [1.0]


def test_mincount_takes_two_passes():
    """An n-gram counts from its second occurrence on; what cannot be read twice is refused."""
    corpus = ["a b c d", "z b c d", "a b c q"]
    assert every(["a b c d e"], corpus, n=3, mincount=2)[:3] == [[0.8], [0.8], [2 / 3]]
    assert every(["a b c d e"], NGramIndex(corpus, n=3), mincount=3)[0] == [0.0]
    kept = decontaminate(corpus, ["a b c d e"], n=3, mincount=2, threshold=0.7)
    assert kept.indices.tolist() == [1, 2]
    with pytest.raises(ValueError, match="corpus must be readable twice for mincount 2: give a list"):
        measure_contamination(["a b c"], iter(corpus), mincount=2)
    with pytest.raises(ValueError, match="train must be readable twice for mincount 2: give a list"):
        decontaminate(iter(corpus), ["a b c"], mincount=2)
    with pytest.raises(ValueError, match="mincount 2 needs a first pass: call count with all texts before update"):
        ContaminationAudit(["a b c"], mincount=2).update(corpus)
    assert measure_contamination(["a b c"], [], mincount=2).longest.tolist() == [0.0]


def test_a_dropped_text_names_its_sample():
    """Evidence of each drop: rule, sample, score and where the match stands in both; short texts by equality."""
    train = ["nothing here at all", "we say a b c d e f g", "RED fox.", "red fox hunts"]
    kept = decontaminate(train, ["red fox", "a b c d e f q"], n=4, threshold=0.5)
    reasons = {name: column.tolist() for name, column in kept.reasons.items()}
    assert kept.indices.tolist() == [0, 3] and kept.log_weights.tolist() == [0, -math.inf, -math.inf, 0]
    assert reasons == {
        "row": [1, 2], "rule": ["longest", "equal"], "rival": [1, 0], "score": [6 / 7, 1.0],
        "start": [2, 0], "rival_start": [0, 0], "span": [6, 2], "equal": [6, 2],
    }  # fmt: skip
    assert decontaminate(train, ["red fox"], n=4, short="zero").indices.tolist() == [0, 1, 2, 3]


# Mistakes


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: measure_contamination(["a"], ["a"], n=0), "n must be at least 1: got 0"),
        (lambda: measure_contamination([], ["a"]), "samples must hold at least one text: got none"),
        (lambda: measure_contamination([], NGramIndex(["a"])), "samples must hold at least one text: got none"),
        (lambda: measure_contamination(["a"], ["a"], mincount=0), "mincount must be at least 1: got 0"),
        (lambda: measure_contamination(["a"], NGramIndex(["a"]), skip_budget=-1), "skip_budget must be at least 0"),
        (lambda: measure_contamination(["a"], ["a"], short="half"), "short must be one of 'zero', 'whole'"),
        (lambda: contamination_scores(["a"], ["a"], metric="bleu"), "metric must be one of 'longest', 'token'"),
        (lambda: contam_curve(SCORES, CORRECT[:4]), "correct must have one entry per row of scores: 5 rows, 4"),
        (lambda: contam_curve(np.array([0, np.nan]), np.zeros(2)), "scores must be finite: 1 rows"),
        (lambda: contam_curve([], []), "scores must hold at least one sample: got none"),
        (lambda: contam_curve(np.zeros((2, 2)), np.zeros(2)), r"scores must be a vector \(n,\): got shape \(2, 2\)"),
        (lambda: contam_curve(SCORES, CORRECT, error="guess"), "error must be one of 'closed', 'bootstrap'"),
        (lambda: contam_curve(SCORES, CORRECT, resamples=1), "resamples must be at least 2"),
        (lambda: select_threshold(SCORES, CORRECT), "no threshold leaves 50 clean samples and two contaminated ones"),
        (lambda: select_threshold(SCORES, CORRECT, method="max"), "method must be one of 'max_z', 'max_epg'"),
        (lambda: select_threshold(SCORES, CORRECT, n_permutations=0), "n_permutations must be at least 1"),
        (lambda: decontaminate([], ["a"]), "train must hold at least one text: got none"),
        (lambda: decontaminate(["a"], []), "samples must hold at least one text: got none"),
        (lambda: decontaminate(["a"], ["a"], threshold=0), r"threshold must lie between 0 \(not included\) and 1"),
        (lambda: decontaminate(["a"], ["a"], metric="bleu"), "metric must be one of"),
    ],
)
def test_bad_input_is_named(call, says):
    """Each mistake gets one line that names the argument."""
    with pytest.raises(ValueError, match=says):
        call()


def test_no_warning_on_good_input():
    """Empty samples, constant scores and an empty corpus pass without a word."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert measure_contamination(["", "a"], []).longest.tolist() == [0.0, 0.0]
        assert contam_curve(np.zeros(3), np.zeros(3)).epg.tolist() == []


def make(seed: int) -> list:
    """Cases for the common checks."""
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 6, 150) / 6
    correct = (rng.random(150) < 0.4 + 0.4 * scores).astype(np.float64)
    tokens = rng.integers(0, 3, (12, 20))

    def audit(_, samples, corpus):
        return measure_contamination(samples, corpus, n=4, tokenizer=list, skip_budget=1)

    def curve(number, scores, correct):
        return contam_curve(scores, correct, error="bootstrap", resamples=20, seed=number)

    def choice(number, scores, correct):
        return select_threshold(scores, correct, n_permutations=20, seed=number)

    return [
        ArrayCase("contam_curve", curve, (scores, correct), lambda: contam_curve(scores[:0], correct[:0]), True),
        ArrayCase("select_threshold", choice, (scores, correct), lambda: select_threshold(scores[:0], correct[:0])),
        ArrayCase("measure_contamination", audit, (tokens[:4], tokens[4:]), lambda: measure_contamination([], ["a"])),
        ArrayCase(
            "decontaminate",
            lambda _, train, samples: decontaminate(train, samples, n=4, tokenizer=list),
            (tokens[4:], tokens[:4]),
            lambda: decontaminate([], ["a"]),
        ),
    ]
