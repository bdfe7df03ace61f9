"""The n-gram index against loops over every pair of texts and every diagonal."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis import ngram_index
from tamis.ngram_index import Matches, NGramIndex

TEXTS = st.lists(st.lists(st.integers(0, 2), max_size=9), min_size=1, max_size=4)


def runs(text, other, n, wanted=lambda ngram: True):
    """Maximal runs of equal tokens of two texts, (start, other start, length), diagonal by diagonal."""
    if len(text) < n or len(other) < n:
        return [(0, 0, len(text))] if text == other and text and wanted(tuple(text)) else []
    found = []
    for shift in range(-len(other), len(text) + 1):
        start = None
        for i in range(len(text) - n + 2):
            j = i - shift
            inside = 0 <= j <= len(other) - n and i <= len(text) - n
            same = inside and text[i : i + n] == other[j : j + n] and wanted(tuple(text[i : i + n]))
            if same and start is None:
                start = i
            if not same and start is not None:
                found.append((start, start - shift, i - 1 - start + n))
                start = None
    return sorted(found)


def joined(pieces, skips=0):
    """All matches as one."""
    empty = [np.empty((0, skips + 1) if f.name in ("left", "right") else 0, np.int64) for f in fields(Matches)]
    parts = [[getattr(p, f.name) for f in fields(Matches)] for p in pieces]
    return Matches(*(np.concatenate(column) for column in zip(empty, *parts, strict=True)))


def listed(matches):
    columns = (matches.rows, matches.others, matches.starts, matches.other_starts, matches.lengths)
    return list(zip(*(c.tolist() for c in columns), strict=True))


def expected(texts, corpus, n, **options):
    return [
        (row, other, *run)
        for row, text in enumerate(texts)
        for other, held in enumerate(corpus)
        for run in runs(text, held, n, **options)
    ]


@settings(deadline=None)
@given(TEXTS, TEXTS, st.integers(1, 4))
def test_matches_are_the_maximal_runs(texts, corpus, n):
    """Every run of n or more equal tokens is found whole, once, and nothing else; no run reaches over a border."""
    found = joined(NGramIndex(corpus, n=n, tokenizer=list).matches(texts))
    assert listed(found) == sorted(expected(texts, corpus, n))


@settings(deadline=None)
@given(TEXTS, TEXTS, st.integers(1, 3))
def test_unwanted_ngrams_part_runs(texts, corpus, n):
    """Of n-grams that do not count none is matched, and a run ends where one begins."""
    index = NGramIndex(corpus, n=n, tokenizer=list)
    grams = [tuple(t[i : i + n]) for t in corpus for i in range(len(t) - n + 1)]
    whole = [tuple(t) for t in corpus if 0 < len(t) < n]
    counted = {g: (grams + whole).count(g) for g in grams + whole}
    found = joined(index.matches(texts, wanted=index.occurrences >= 2))
    assert listed(found) == sorted(expected(texts, corpus, n, wanted=lambda g: counted.get(g, 0) >= 2))


@settings(deadline=None)
@given(TEXTS, TEXTS, st.integers(1, 3))
def test_counts_are_those_of_a_dictionary(corpus, others, n):
    """Occurrences, count and tally agree with counting in a loop; adding in parts is adding at once."""
    index = NGramIndex(corpus[:1], n=n, tokenizer=list)
    assert len(index.add(corpus[1:])) == len(corpus) and index.lengths.tolist() == [len(t) for t in corpus]

    def count(texts):
        grams = [tuple(t[i : i + n]) for t in texts for i in range(len(t) - n + 1)]
        grams += [tuple(t) for t in texts if 0 < len(t) < n]
        return {g: grams.count(g) for g in grams}

    inside, outside = count(corpus), count(others)
    assert sorted(index.occurrences.tolist()) == sorted(inside.values())
    for gram in {*inside, *outside}:
        if len(gram) == n:
            assert index.count(list(gram)) == inside.get(gram, 0)
    shared = {g: c for g, c in outside.items() if g in inside}
    assert index.tally(others).sum() == sum(shared.values())
    pairs = zip(index.occurrences.tolist(), index.tally(others).tolist(), strict=True)
    assert sorted(pairs) == sorted((c, outside.get(g, 0)) for g, c in inside.items())


def follow(text, other, at, there, step, budget):
    """Equal tokens from two places on, between one skipped token and the next."""
    stretches = [0] * (budget + 1)
    k = 0
    while 0 <= at < len(text) and 0 <= there < len(other) and k <= budget:
        if text[at] == other[there]:
            stretches[k] += 1
        else:
            k += 1
        at, there = at + step, there + step
    return stretches


@settings(deadline=None)
@given(TEXTS, TEXTS, st.integers(1, 3), st.integers(1, 3))
def test_runs_are_followed_over_differing_tokens(texts, corpus, n, budget):
    """Stretches on both sides, the best span and all that is reached agree with a walk token by token."""
    matches = joined(NGramIndex(corpus, n=n, tokenizer=list).matches(texts, skip_budget=budget), budget)
    equal, before, span = matches.best()
    reached = [set() for _ in range(len(matches))]
    for number, start, other, length in zip(*(c.tolist() for c in matches.stretches()), strict=True):
        reached[number] |= {(start + k, other + k) for k in range(length)}
    for m, (row, other, i, j, length) in enumerate(listed(matches)):
        text, held = texts[row], corpus[other]
        assert matches.left[m].tolist() == follow(text, held, i - 1, j - 1, -1, budget)
        assert matches.right[m].tolist() == follow(text, held, i + length, j + length, 1, budget)
        low, high = max(-i, -j), min(len(text) - i, len(held) - j)
        same = {k: text[i + k] == held[j + k] for k in range(low, high)}
        spans = [
            (a, b)
            for a in range(low, 1)
            for b in range(length, high + 1)
            if same[a] and same[b - 1] and sum(not same[k] for k in range(a, b)) <= budget
        ]
        most = max(sum(same[k] for k in range(a, b)) for a, b in spans)
        assert equal[m] == most
        assert (-before[m], -before[m] + span[m]) in spans
        assert sum(same[k] for k in range(-before[m], span[m] - before[m])) == most
        assert reached[m] == {(i + k, j + k) for a, b in spans for k in range(a, b) if same[k]}


def test_a_hash_that_collides_is_replaced_or_checked(monkeypatch):
    """Distinct n-grams of the index never share a hash, and an n-gram of another text that does is no match."""
    rng = np.random.default_rng(0)
    corpus, texts = rng.integers(0, 4, (6, 10)).tolist(), rng.integers(0, 4, (30, 12)).tolist()
    right = listed(joined(NGramIndex(corpus, n=4, tokenizer=list).matches(texts)))
    good = ngram_index._hashes

    def weak(tokens, n, salt):
        return good(tokens, n, salt) % np.uint64(7 if salt == 0 else 2048)

    monkeypatch.setattr(ngram_index, "_hashes", weak)
    index = NGramIndex(corpus, n=4, tokenizer=list)
    assert listed(joined(index.matches(texts))) == right and right
    assert index._table.salt > 0


def test_no_hash_is_an_error(monkeypatch):
    """An index whose n-grams cannot be told apart is not built."""
    monkeypatch.setattr(ngram_index, "_hashes", lambda tokens, n, salt: np.zeros(len(tokens) - n + 1, np.uint64))
    with pytest.raises(RuntimeError, match="no hash tells"):
        NGramIndex(["a b c"], n=2).count("a b")


def test_many_pairs_come_in_pieces(monkeypatch):
    """Pieces of pairs give what one piece gives, and part no text."""
    texts, corpus = [["a"] * 4, ["b", "a", "a"], ["a"] * 3], [["a"] * 5, ["a", "a"]]
    whole = list(NGramIndex(corpus, n=2, tokenizer=list).matches(texts))
    monkeypatch.setattr(ngram_index, "_PAIRS", 1)
    pieces = list(NGramIndex(corpus, n=2, tokenizer=list).matches(texts))
    assert len(whole) == 1 and len(pieces) == 3
    assert listed(joined(pieces)) == listed(whole[0])
    assert all(len(set(piece.rows.tolist())) == 1 for piece in pieces)


def test_short_texts_match_as_a_whole():
    """A text of fewer than n tokens matches its equal, not a part of a longer one, nor a shorter one's beginning."""
    index = NGramIndex(["red fox", "the red fox runs", "red", ""], n=3)
    found = joined(index.matches(["Red fox!", "a red fox", "fox", "", "red"]))
    assert listed(found) == [(0, 0, 0, 0, 2), (4, 2, 0, 0, 1)]


def test_texts_are_words_or_characters():
    """The same texts match by the unit that the index has."""
    assert joined(NGramIndex(["fine mesh"], n=4, tokenizer="character").matches(["a mesh"])).lengths.tolist() == [5]
    assert len(joined(NGramIndex(["fine mesh"], n=2).matches(["a mesh"]))) == 0
    assert NGramIndex(["fine mesh"]).token_counts(["a b", "", "c"]).tolist() == [2, 0, 1]


def test_swapped_and_taken():
    """Exchanging the sides twice changes nothing; rows can be picked."""
    matches = joined(NGramIndex(["a b c", "b c d"], n=2).matches(["x b c"]))
    back = matches.swapped().swapped()
    assert listed(back) == listed(matches) and matches.swapped().rows.tolist() == matches.others.tolist()
    assert listed(matches.take(matches.others == 1)) == listed(matches)[1:]


def test_an_empty_index_matches_nothing():
    """Without texts there is nothing to find, and that is no mistake."""
    index = NGramIndex(n=2)
    assert len(index) == 0 and index.count("a b") == 0 and len(joined(index.matches(["a b c"]))) == 0
    assert len(joined(NGramIndex(["a b"], n=2).matches([]))) == 0


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: NGramIndex(n=0), ValueError, "n must be at least 1: got 0"),
        (lambda: NGramIndex(tokenizer="bpe"), ValueError, "tokenizer must be one of 'word', 'character': got 'bpe'"),
        (lambda: NGramIndex("abc"), TypeError, "got a single string"),
        (lambda: NGramIndex(["a b"], n=2).count("a"), ValueError, "ngram must have 2 tokens: got 1, 'a'"),
        (lambda: NGramIndex(["a", None]), TypeError, "row 1 holds None"),
    ],
)
def test_bad_input_is_named(call, error, says):
    """Each mistake gets its line."""
    with pytest.raises(error, match=says):
        call()
