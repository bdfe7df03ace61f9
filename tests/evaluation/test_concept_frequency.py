"""Concept frequency: worked numbers, brute-force counts, fits by the book, and images."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.evaluation import (
    ConceptIndex,
    class_balance,
    integrated_frequency,
    loglinear_fit,
    long_tail,
    misalignment,
    phash,
    phash_dedup,
)
from tests.behaviour import ArrayCase

CAPTIONS = ["a red dog", "two dogs run", "cat", "dog and cat"]
NOUNS = {"dog": "dog", "dogs": "dog", "cat": "cat"}
X = np.array([2.8, 7.8, 22.0, 61.5, 172.2, 482.1, 1350.0, 3780.2, 10585.4, 29641.4])
Y = np.array([12.11, 11.65, 16.56, 15.51, 23.52, 28.63, 35.22, 41.22, 39.28, 40.17])


def bars(seed: int, n: int = 6, side: int = 40):
    """Images of random blocks."""
    rng = np.random.default_rng(seed)
    return np.kron(rng.random((n, 8, 8)), np.ones((side // 8, side // 8))) * 255


def make(seed: int) -> list[ArrayCase]:
    """The fit, the hashes and the selections."""
    rng = np.random.default_rng(seed)
    frequency = np.exp(rng.uniform(0, 8, 60))
    images, labels = bars(seed), rng.integers(0, 4, 40)
    return [
        ArrayCase(
            "loglinear_fit",
            lambda s, f, p: np.array(loglinear_fit(f, p, samples=50, seed=s).unbinned_interval),
            (frequency, np.log(frequency) + rng.standard_normal(60)),
            empty=lambda: loglinear_fit(frequency[:0], frequency[:0]),
        ),
        ArrayCase("phash", lambda _, x: phash(x), (images,), empty=lambda: phash(images[:0])),
        ArrayCase("phash_dedup", lambda _, x: phash_dedup(x), (images,), empty=lambda: phash_dedup(images[:0])),
        ArrayCase(
            "class_balance", lambda s, y: class_balance(y, 5, seed=s), (labels,), empty=lambda: class_balance([], 5)
        ),
        ArrayCase("long_tail", lambda _, f: long_tail(f, 5), (frequency,), empty=lambda: long_tail(frequency[:0], 5)),
    ]


# --- worked numbers ---------------------------------------------------------------------------------------------------


def test_the_official_bins():
    """rho 0.965946, slope 8.584239 per decade, intercept 5.274773; with the two ends rho 0.902709."""
    fit = loglinear_fit(X, Y, n_bins=40, trim=(0, 0))  # narrow enough that every point is its own bin
    assert fit.bins["count"].tolist() == [1] * 10
    assert fit.rho == pytest.approx(0.965946, abs=5e-7)
    assert fit.slope_per_decade == pytest.approx(8.584239, abs=5e-6)
    assert fit.slope_per_decade / np.log(10) == pytest.approx(3.728087, abs=5e-6)
    assert fit.intercept == pytest.approx(5.274773, abs=5e-6)
    ends = loglinear_fit(np.r_[1.0, X, 83002.0], np.r_[4.31, Y, 29.25], n_bins=48, trim=(0, 0))
    assert ends.rho == pytest.approx(0.902709, abs=5e-7)
    trimmed = loglinear_fit(np.r_[1.0, X, 83002.0], np.r_[4.31, Y, 29.25], n_bins=48)
    assert trimmed.rho == pytest.approx(fit.rho, abs=1e-9)


def test_the_captions():
    """dog 3, cat 2, both 1, unknown 0; a word that no caption holds is passed over, or leaves nothing."""
    index = ConceptIndex(NOUNS.get).add(CAPTIONS)
    assert index.frequency(["dog", "cat", "dog cat", "unknown"]).tolist() == [3, 2, 1, 0]
    assert index.frequency(["red dog", "red_dog"]).tolist() == [3, 3]
    assert index.frequency(["red dog"], missing="strict").tolist() == [0]
    assert index.postings("Dogs").tolist() == [0, 1, 3]


def test_text_and_image():
    """Text hits 1, 2, 3 and image hits 2, 3, 4 agree on two; tags as captions do the same."""
    text = ConceptIndex().add(["no", "sieve", "sieve", "sieve", "no"])
    assert integrated_frequency(text, {"sieve": [2, 3, 4]}, ["sieve"]).tolist() == [2]
    shown = ConceptIndex().add(["", "", "sieve", "sieve", "sieve"])
    assert integrated_frequency(text, shown, ["sieve"]).tolist() == [2]


def test_misaligned_samples():
    """Two samples have both sides, one has nothing in common: a third of the larger side."""
    found = misalignment({1: {"a"}, 2: {"b"}, 3: {"c"}}, {1: {"a"}, 2: {"c"}, 4: {"d"}}, corpus_size=10)
    assert (found.misaligned, found.compared, found.with_text, found.with_image) == (1, 2, 3, 3)
    assert found.rate == pytest.approx(1 / 3) and found.rate_of_corpus == pytest.approx(0.1)


# --- transcriptions and invariants ------------------------------------------------------------------------------------

WORDS = st.text("ab Cé1-", max_size=12)


@settings(max_examples=60, deadline=None)
@given(st.lists(WORDS, max_size=12), st.lists(WORDS, max_size=6))
def test_counts_by_regex(captions, more):
    """Captions are counted as a scan of each finds them; two indexes merged are one of both, repeats counted."""
    index = ConceptIndex().add(captions)
    merged = ConceptIndex().add(captions).merge(ConceptIndex().add(more)).add(captions)
    whole = ConceptIndex().add([*captions, *more, *captions])
    assert len(merged) == len(whole)
    for concept in ("a", "b", "ab", "cé", "é", "a b"):
        terms = concept.split()
        kept = [[re.sub(r"[\d]", "", w) for w in re.split(r"[\s-]+", c.casefold())] for c in captions]
        assert index.frequency([concept], missing="strict")[0] == sum(all(t in c for t in terms) for c in kept)
        assert merged.postings(concept).tolist() == whole.postings(concept).tolist()


def test_stop_words_and_blocks(monkeypatch):
    """Stop words count nowhere; blocks are as good as one."""
    monkeypatch.setattr("tamis.evaluation.concept_frequency.index._BLOCK", 2)
    index = ConceptIndex(NOUNS.get, stop=["cat"]).add(CAPTIONS)
    assert index.frequency(["dog", "cat"]).tolist() == [3, 0]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31))
def test_the_fit_by_the_book(seed):
    """numpy's own correlation and line on bins made one concept at a time; an interval around the slope."""
    rng = np.random.default_rng(seed)
    f = np.exp(rng.uniform(0, 9, 80))
    p = np.log(f) + rng.standard_normal(80)
    fit = loglinear_fit(f, p, n_bins=8, trim=(1, 1), samples=200)
    edges = np.linspace(np.log(f).min(), np.log(f).max(), 9)
    bins = [
        [i for i in range(80) if edges[b] <= np.log(f[i]) and (np.log(f[i]) < edges[b + 1] or b == 7)] for b in range(8)
    ]
    bins = [b for b in bins if b][1:-1]
    x = np.array([np.log(f[b]).mean() for b in bins])
    y = np.array([p[b].mean() for b in bins])
    assert fit.rho == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert fit.slope_per_decade == pytest.approx(np.polyfit(x / np.log(10), y, 1)[0])
    assert fit.unbinned_rho == pytest.approx(np.corrcoef(np.log(f), p)[0, 1])
    assert fit.unbinned_slope == pytest.approx(np.polyfit(np.log10(f), p, 1)[0])
    assert fit.unbinned_interval[0] < fit.unbinned_slope < fit.unbinned_interval[1]
    assert fit.isotonic_r2 <= 1 + 1e-12 and fit.p_value < 0.05


def test_zeros():
    """Concepts that never occur are left out and counted, or taken as one."""
    f, p = np.r_[0.0, X], np.r_[0.0, Y]
    assert loglinear_fit(f, p, trim=(0, 0)).dropped == 1
    assert loglinear_fit(f, p, trim=(0, 0), zeros="log1p").dropped == 0


def test_nothing_to_find():
    """Performance that has nothing to do with frequency has no small p-value."""
    rng = np.random.default_rng(1)
    assert loglinear_fit(np.exp(rng.uniform(0, 9, 200)), rng.random(200)).p_value > 0.05


# --- images -----------------------------------------------------------------------------------------------------------


def test_hashes():
    """The same image has the same hash, a brighter or slightly noisy one nearly; half of the bits are set."""
    images = bars(0)
    noisy = images + 10 + np.random.default_rng(1).normal(0, 2, images.shape)
    distance = np.bitwise_count(phash(images) ^ phash(noisy))
    assert (phash(images) == phash(images.copy())).all() and (distance <= 4).all()
    assert np.bitwise_count(phash(images)).tolist() == [32] * 6
    colour = np.repeat(images[..., None], 3, axis=3)
    assert (np.bitwise_count(phash(colour) ^ phash(images)) <= 2).all()


def test_near_copies():
    """Copies go with their rival and distance, others stay."""
    images = bars(2, 3)
    found = phash_dedup(np.concatenate([images, images[1:2] + 5]))
    assert found.indices.tolist() == [0, 1, 2]
    assert found.reasons["row"].tolist() == [3] and found.reasons["rival"].tolist() == [1]
    assert found.reasons["score"][0] <= 10 and found.log_weights.tolist() == [0, 0, 0, -np.inf]


def test_balance():
    """Exactly n of every class that has them; a class with fewer goes whole."""
    labels = np.array([0] * 5 + [1] * 3 + [2] * 2)
    found = class_balance(labels, 3, seed=4)
    assert np.bincount(labels[found.indices]).tolist() == [3, 3]
    rules = dict(zip(found.reasons["row"].tolist(), found.reasons["rule"].tolist(), strict=True))
    assert rules[8] == rules[9] == "class too small" and list(rules.values()).count("not drawn") == 2


def test_bad_input():
    """One line that names the argument."""
    with pytest.raises(ValueError, match="frequency must be positive for at least 3 concepts: it is for 2"):
        loglinear_fit(np.array([0, 1, 2]), np.ones(3))
    with pytest.raises(ValueError, match="n_bins and trim must leave at least 3 bins: 2 are left of 4"):
        loglinear_fit(np.array([1.0, 10, 100, 1000]), np.ones(4), n_bins=4)
    with pytest.raises(ValueError, match="performance must have one entry per row of frequency: 3 rows, 2"):
        loglinear_fit(np.ones(3), np.ones(2))
    with pytest.raises(ValueError, match="images must be"):
        phash(np.zeros((2, 8, 8)))
    with pytest.raises(ValueError, match="n must be at most 2, the largest class: got 3"):
        class_balance(np.array([0, 0, 1]), 3)
    with pytest.raises(ValueError, match="must hold a concept: got none"):
        misalignment({1: set()}, {})
    with pytest.raises(ValueError, match="missing must be one of 'skip', 'strict': got 'zero'"):
        ConceptIndex().add(["a"]).postings("a", missing="zero")
