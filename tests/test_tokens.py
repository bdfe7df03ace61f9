"""Tokens of texts, numbered and laid end to end."""

from __future__ import annotations

import numpy as np
import pytest

from tamis import tokens
from tamis.tokens import TokenRows, Vocabulary, text_blocks, tokenise


def test_blocks_are_bounded_in_rows_and_letters(monkeypatch):
    """A block is closed before it grows too large, and a longer text is a block of its own."""
    monkeypatch.setattr(tokens, "_ROWS", 3)
    monkeypatch.setattr(tokens, "_STEP", 1)
    monkeypatch.setattr(tokens, "_LETTERS", 10)
    assert list(text_blocks(["a", "b", "c", "d"])) == [["a", "b", "c"], ["d"]]
    assert list(text_blocks(iter(["a" * 6, "b" * 6, "c" * 20, "d"]))) == [["a" * 6], ["b" * 6], ["c" * 20], ["d"]]
    assert list(text_blocks([])) == []


def test_a_single_string_is_no_list_of_texts():
    """A string would be taken for a list of one-letter texts."""
    with pytest.raises(TypeError, match="texts must be a list or a stream of texts: got a single string"):
        list(text_blocks("abc"))


def test_characters_are_those_of_the_normalised_text():
    """Spaces between words count, case and punctuation do not."""
    counts, found = tokenise(["A, b!", "", "é"], "character")
    assert counts.tolist() == [3, 0, 1] and found.to_pylist() == [ord("a"), ord(" "), ord("b"), ord("é")]


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ([[3, 1], [], [2]], [3, 1, 2]),
        ([["x", "\ud800"], [], ["y"]], [b"x", b"\xed\xa0\x80", b"y"]),
        ([np.array([3, 1], np.uint16), [], np.array([2], np.int8)], [3, 1, 2]),
        ([[], [], []], []),
    ],
)
def test_a_function_may_give_integers_or_strings(texts, expected):
    """Lists of tokens pass through ``list``, of whatever integer type."""
    counts, found = tokenise(texts, list)
    assert counts.tolist() == [len(text) for text in texts] and found.to_pylist() == expected


@pytest.mark.parametrize(
    ("texts", "tokenizer", "says"),
    [
        (["a", None], "word", "texts must be strings: row 1 holds None; give a tokenizer"),
        (["a", 3], "character", "row 1 holds 3"),
        ([[1.5]], list, "tokenizer must give integers or strings"),
        ([[None, 1]], list, "tokenizer must give integers or strings"),
        ([["a", 1]], list, "tokenizer must give integers or strings"),
        ([[2**70]], list, "tokenizer must give integers or strings"),
        ([[[1]]], list, "tokenizer must give integers or strings"),
    ],
)
def test_other_tokens_are_refused(texts, tokenizer, says):
    """What is neither text nor token is named."""
    with pytest.raises(TypeError, match=says):
        tokenise(texts, tokenizer)


def numbers(vocabulary, *texts, grow=True):
    return vocabulary.numbers(tokenise(texts, "word")[1], grow=grow).tolist()


def test_equal_tokens_have_equal_numbers_and_no_others():
    """Numbers stay when the vocabulary grows; a token that is not added has one number with all others like it."""
    vocabulary = Vocabulary()
    first = numbers(vocabulary, "b a b")
    assert first[0] == first[2] != first[1]
    assert numbers(vocabulary, "c a b")[1:] == [first[1], first[0]]
    known = numbers(vocabulary, "x b y", grow=False)
    assert known[1] == first[0] and known[0] == known[2] not in first
    assert numbers(vocabulary) == []


def test_two_kinds_of_tokens_do_not_mix():
    """Integers and strings could never be equal, so asking is a mistake."""
    vocabulary = Vocabulary()
    numbers(vocabulary, "a")
    with pytest.raises(TypeError, match="tokenizer must give one kind of tokens: got large_binary and then int64"):
        vocabulary.numbers(tokenise([[1]], list)[1], grow=False)


def test_layout_has_borders_and_fills_short_texts_up():
    """A border stands around every text; a short text has one window, an empty one none; blocks join."""
    lengths = np.array([4, 2, 0])
    one = TokenRows.of(lengths, np.array([5, 6, 7, 8, 5, 6], np.int32), 3)
    assert one.tokens.tolist() == [0, 5, 6, 7, 8, 0, 5, 6, 0, 0, 0, 0, 0, 0]
    assert one.windows.tolist() == [2, 1, 0] and one.owner(np.array([1, 4, 6, 7])).tolist() == [0, 0, 1, 1]
    two = TokenRows.joined([one, TokenRows.of(np.array([3]), np.array([9, 9, 9], np.int32), 3)], 3)
    whole = TokenRows.of(np.append(lengths, 3), np.array([5, 6, 7, 8, 5, 6, 9, 9, 9], np.int32), 3)
    for name in ("tokens", "starts", "lengths", "windows"):
        assert getattr(two, name).tolist() == getattr(whole, name).tolist(), name
