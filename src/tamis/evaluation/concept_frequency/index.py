"""Where concepts occur: an index of the words of captions, and where text and image agree."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np

from tamis import checks
from tamis.ngrams import words

Array = np.ndarray[Any, Any]
Lemmatizer = Callable[[str], str | None]
Missing = Literal["skip", "strict"]
_BLOCK = 50_000


class ConceptIndex:
    """Which captions hold which words.

    The text index of arXiv:2404.04125. Words are runs of letters in lower case. When not to use: for words with several
    meanings; a crane is a bird and a machine.

    Args:
        lemmatizer: word -> lemma, or None for a word that does not count (no noun, say); called once per distinct word.
            Left out, words are their own lemmas.
        stop: lemmas that do not count.

    Example:
        >>> index = ConceptIndex().add(["a red dog", "cat", "dog and cat"])
        >>> index.frequency(["dog", "cat", "dog cat", "bird"]).tolist()
        [2, 2, 1, 0]
    """

    def __init__(self, lemmatizer: Lemmatizer | None = None, stop: Collection[str] | None = None) -> None:
        self._lemmatizer, self._stop = lemmatizer, frozenset(stop or ())
        self._lemma_of: dict[str, str | None] = {}
        self._numbers: dict[str, int] = {}
        self._blocks: list[tuple[Array, Array]] = []
        self._sorted: tuple[Array, Array] | None = None
        self._size = 0

    def __len__(self) -> int:
        """Captions."""
        return self._size

    def add(self, captions: Iterable[str]) -> Self:
        """Add captions; their numbers follow those of the captions before.

        Args:
            captions: texts; they are taken block by block and not kept.

        Returns:
            the index itself.
        """
        block: list[str] = []
        for caption in captions:
            block.append(caption)
            if len(block) == _BLOCK:
                self._take(block)
                block = []
        self._take(block)
        return self

    def merge(self, other: ConceptIndex) -> Self:
        """Add the captions of another index behind those of this one.

        Args:
            other: an index that was made in the same way.

        Returns:
            the index itself.
        """
        names = list(other._numbers)
        own = np.array([self._number(name) for name in names], dtype=np.int64)
        for lemmas, captions in other._blocks:
            self._blocks.append((own[lemmas], captions + self._size))
        self._size += other._size
        self._sorted = None
        return self

    def postings(self, concept: str, *, missing: Missing = "skip") -> Array:
        """The captions that hold every word of a concept, in any order and at any distance.

        Args:
            concept: one word or several, separated by spaces or underscores.
            missing: words that no caption holds are passed over ("skip", as the official code has it for large corpora)
                or leave nothing ("strict").

        Returns:
            (m,) int64, numbers of captions, ascending.
        """
        checks.one_of("missing", missing, ("skip", "strict"))
        lemmas, captions = self._table()
        found: Array | None = None
        for word in _letters(concept.replace("_", " ")).split():
            lemma = self._lemma(word)
            number = None if lemma is None else self._numbers.get(lemma)
            if number is None:
                if missing == "strict":
                    return np.zeros(0, dtype=np.int64)
                continue
            low, high = np.searchsorted(lemmas, [number, number + 1])
            hits = captions[low:high]
            found = hits if found is None else np.intersect1d(found, hits, assume_unique=True)
        return np.zeros(0, dtype=np.int64) if found is None else found

    def frequency(self, concepts: Sequence[str], *, missing: Missing = "skip") -> Array:
        """In how many captions each concept occurs.

        Args:
            concepts: k concepts.
            missing: see ``postings``.

        Returns:
            (k,) int64.
        """
        return np.array([len(self.postings(concept, missing=missing)) for concept in concepts], dtype=np.int64)

    def _take(self, captions: Sequence[str]) -> None:
        if not captions:
            return
        counts, found = words(captions)
        encoded = found.dictionary_encode()
        spelt = [value.as_py().decode() for value in encoded.dictionary]
        # A word may fall apart into several once what is no letter has gone.
        parts = [[self._number(lemma) for w in _letters(word).split() if (lemma := self._lemma(w))] for word in spelt]
        width = np.array([len(part) for part in parts], dtype=np.int64)
        flat = np.array([number for part in parts for number in part], dtype=np.int64)
        codes = np.asarray(encoded.indices, dtype=np.int64)
        owner = np.repeat(np.arange(len(captions)), counts)
        begins = np.cumsum(width) - width
        each = np.repeat(np.arange(len(codes)), width[codes])
        place = np.arange(len(each)) - np.repeat(np.cumsum(width[codes]) - width[codes], width[codes])
        lemmas = flat[begins[codes[each]] + place] if len(each) else np.zeros(0, dtype=np.int64)
        pairs = np.unique(np.stack([lemmas, owner[each]]), axis=1)
        self._blocks.append((pairs[0], pairs[1] + self._size))
        self._size += len(captions)
        self._sorted = None

    def _table(self) -> tuple[Array, Array]:
        """Lemmas and captions, sorted by lemma and then by caption."""
        if self._sorted is None:
            lemmas, captions = (np.concatenate([np.zeros(0, np.int64), *(b[i] for b in self._blocks)]) for i in (0, 1))
            order = np.lexsort((captions, lemmas))
            self._sorted = lemmas[order], captions[order]
        return self._sorted

    def _lemma(self, word: str) -> str | None:
        if word not in self._lemma_of:
            lemma = word if self._lemmatizer is None else self._lemmatizer(word)
            self._lemma_of[word] = None if lemma in self._stop else lemma
        return self._lemma_of[word]

    def _number(self, lemma: str) -> int:
        return self._numbers.setdefault(lemma, len(self._numbers))


@dataclass(frozen=True)
class Misalignment:
    """How often text and image of a sample have no concept in common.

    Args:
        rate: misaligned over the larger of ``with_text`` and ``with_image``.
        rate_of_corpus: misaligned over all samples; NaN where their number is not known.
        misaligned: samples with concepts on both sides and none in common.
        compared: samples with concepts on both sides.
        with_text: samples with a concept in the text.
        with_image: samples with a concept in the image.
    """

    rate: float
    rate_of_corpus: float
    misaligned: int
    compared: int
    with_text: int
    with_image: int


def integrated_frequency(
    text_index: ConceptIndex, image_index: ConceptIndex | Mapping[str, Sequence[int]], concepts: Sequence[str]
) -> Array:
    """In how many samples each concept occurs in the text and in the image.

    The integrated search of arXiv:2404.04125.

    Args:
        text_index: of the captions.
        image_index: of the images' tags, as captions; or for each concept the numbers of the images that show it.
        concepts: k concepts.

    Returns:
        (k,) int64.

    Example:
        >>> text = ConceptIndex().add(["a sieve", "no", "the sieve"])
        >>> integrated_frequency(text, {"sieve": [1, 2]}, ["sieve", "drum"]).tolist()
        [1, 0]
    """
    counts = []
    for concept in concepts:
        shown = image_index.postings(concept) if isinstance(image_index, ConceptIndex) else image_index.get(concept, ())
        counts.append(len(np.intersect1d(text_index.postings(concept), np.asarray(shown, dtype=np.int64))))
    return np.array(counts, dtype=np.int64)


def misalignment(
    text_tags: Mapping[Hashable, Collection[str]],
    image_tags: Mapping[Hashable, Collection[str]],
    *,
    corpus_size: int | None = None,
) -> Misalignment:
    """The misalignment degree of arXiv:2404.04125.

    Args:
        text_tags: for each sample the concepts of its text.
        image_tags: likewise of its image.
        corpus_size: all samples, those without any concept too.

    Returns:
        the counts and rates.

    Raises:
        ValueError: when no sample has a concept.

    Example:
        >>> misalignment({1: {"a"}, 2: {"b"}, 3: {"c"}}, {1: {"a"}, 2: {"c"}, 4: {"d"}}).misaligned
        1
    """
    texts = {key for key, tags in text_tags.items() if tags}
    images = {key for key, tags in image_tags.items() if tags}
    checks.require(bool(texts or images), "text_tags and image_tags must hold a concept: got none.")
    both = texts & images
    apart = sum(not set(text_tags[key]) & set(image_tags[key]) for key in both)
    of_corpus = float("nan") if corpus_size is None else apart / corpus_size
    return Misalignment(apart / max(len(texts), len(images)), of_corpus, apart, len(both), len(texts), len(images))


def _letters(text: str) -> str:
    """The text in lower case, what is neither letter nor space removed."""
    return "".join(c for c in text.casefold() if c.isalpha() or c.isspace())
