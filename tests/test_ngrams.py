"""Normalised texts and their words."""

from __future__ import annotations

import re
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tamis.ngrams import normalise, word_places, words


def cut(texts):
    """Words as a list of lists of strings."""
    counts, found = words(texts)
    flat = [word.decode("utf-8", "surrogatepass") for word in found.to_pylist()]
    ends = np.cumsum(counts)
    assert len(flat) == counts.sum()
    return [flat[end - count : end] for count, end in zip(counts, ends, strict=True)]


def expected(text):
    """Words one text at a time: those of the normalised text that are no punctuation."""
    return [] if re.fullmatch(r"[\W_]*", normalise(text)) else normalise(text).split(" ")


@given(st.lists(st.text(st.characters(codec=None) | st.sampled_from("aB1 _-\n\té²ß中"), max_size=12), max_size=5))
def test_words_are_those_of_the_normalised_text(texts):
    """Cutting many texts at once gives what cutting each by itself gives, whatever they hold."""
    assert cut(texts) == [expected(text) for text in texts]


def test_words_of_texts_of_every_kind():
    """Case, compatibility forms, underscores and line ends part or join words as in a normalised text."""
    texts = ["A snake_case\nname", "", "--- ...", "Straße ﬁn x²", "中文, 中", "\ud800 half", "tail "]
    assert cut(texts) == [
        ["a", "snake", "case", "name"], [], [], ["strasse", "fin", "x2"], ["中文", "中"], ["half"], ["tail"],
    ]  # fmt: skip


@given(st.text(st.characters(codec=None) | st.sampled_from("aB1 _-\n\té²ß中ﬁ℃½"), max_size=12))
def test_every_word_has_its_place(text):
    """There is a place for every word, in order, and what stands there holds it when it is normalised."""
    found, places = cut([text])[0], word_places(text)
    assert len(places) == len(found)
    for word, (start, end) in zip(found, places, strict=True):
        assert word in cut([text[start:end]])[0]
    assert all(a <= b for (a, _), (b, _) in pairwise(places))


def test_no_texts_have_no_words():
    """An empty list is no special case."""
    counts, found = words([])
    assert counts.tolist() == [] and len(found) == 0
