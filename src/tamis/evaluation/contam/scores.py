"""Contamination scores: how much of a sample stands in a corpus, by four metrics, with the match that says so."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from tamis import checks
from tamis.evaluation.contam.coverage import Coverage, pair_coverage
from tamis.ngram_index import Matches, NGramIndex
from tamis.tokens import Tokenizer, text_blocks

Array = np.ndarray[Any, Any]

METRICS = ("longest", "token", "ngram", "extend")
SHORT = ("zero", "whole")


@dataclass(frozen=True)
class Contamination:
    """What a corpus holds of every sample; all metrics are shares in [0, 1], 0 for an empty sample.

    Args:
        longest: (n,) float64, equal tokens of the longest match, of all tokens.
        token: (n,) float64, tokens in a matched n-gram, of all tokens.
        ngram: (n,) float64, matched n-grams, of all n-grams.
        extend: (n,) float64, tokens in a match followed over the budget of skips, of all tokens.
        too_short: (n,) bool, samples of fewer tokens than an n-gram has.
        tokens: (n,) int64, tokens of the sample.
        matches: the longest match of each sample within one text, (n,) int64 each: ``row`` of the corpus, -1 for none,
            ``start`` and ``corpus_start``, its first token in both, ``span``, its tokens with the skips, and ``equal``,
            without them.
    """

    longest: Array
    token: Array
    ngram: Array
    extend: Array
    too_short: Array
    tokens: Array
    matches: dict[str, Array]


@dataclass(frozen=True)
class Leaks:
    """What single texts hold of single samples, one row per pair that has a match, by text, then by sample.

    Args:
        rows: (p,) int64, row of the text.
        samples: (p,) int64, row of the sample.
        longest: (p,) float64, as in ``Contamination``, for a corpus of this one text.
        token: (p,) float64, likewise.
        ngram: (p,) float64, likewise.
        extend: (p,) float64, likewise.
        starts: (p,) int64, first token of the longest match in the text.
        sample_starts: (p,) int64, first token of it in the sample.
        spans: (p,) int64, its tokens with the skips.
        equal: (p,) int64, its equal tokens.

    Example:
        >>> leaks = ContaminationAudit(["a b c", "b c d e"], n=2).update(["a b c d"])
        >>> leaks.longest.tolist(), leaks.best().samples.tolist()
        ([1.0, 0.75], [0])
    """

    rows: Array
    samples: Array
    longest: Array
    token: Array
    ngram: Array
    extend: Array
    starts: Array
    sample_starts: Array
    spans: Array
    equal: Array

    def best(self, metric: str = "longest") -> Leaks:
        """Of every text the sample of which it holds the largest share; the first of several.

        Args:
            metric: "longest", "token", "ngram" or "extend".

        Returns:
            the leaks, one per text.
        """
        checks.one_of("metric", metric, METRICS)
        order = np.lexsort((self.samples, -self.equal, -getattr(self, metric), self.rows))
        first = order[np.flatnonzero(np.diff(self.rows[order], prepend=-1))]
        return self.take(first)

    def take(self, which: Array) -> Leaks:
        """Some of the leaks.

        Args:
            which: (k,) int, numbers of leaks, or (p,) bool.

        Returns:
            those.
        """
        return Leaks(*(getattr(self, field.name)[which] for field in fields(self)))

    @classmethod
    def joined(cls, parts: Sequence[Leaks]) -> Leaks:
        """Several leaks one after the other.

        Args:
            parts: any number of them.

        Returns:
            all of them.
        """
        none = (np.empty(0, kind) for kind in (*[np.int64] * 2, *[np.float64] * 4, *[np.int64] * 4))
        columns = ([getattr(part, field.name) for part in parts] for field in fields(cls))
        return cls(*(np.concatenate([empty, *column]) for empty, column in zip(none, columns, strict=True)))


class ContaminationAudit:
    """Samples past which a corpus streams: what it holds of each, and what each text of it gives away.

    The metrics of ConTAM (arXiv:2411.03923). The samples are indexed and held, the corpus is not: memory
    goes by the samples and by a block of texts. A ``mincount`` above 1 asks for a first pass, by ``count``.

    Args:
        samples: n texts, the test set.
        n: tokens per n-gram.
        tokenizer: "word", "character", or a function from a text to tokens; ``list`` for lists of tokens.
        mincount: how often an n-gram must occur in the corpus to count as matched.
        skip_budget: differing tokens that a match may be followed over, in all, for "longest" and "extend".
        strict: the longest match lies in one text of the corpus; otherwise matched n-grams of several are stitched, and
            gaps of at most ``skip_budget`` tokens bridged.
        short: samples of fewer than n tokens score "zero", or are compared as a "whole" with texts as short.

    Example:
        >>> audit = ContaminationAudit(["a b c d e f g h i j"], n=3, skip_budget=1)
        >>> audit.update(["x a b c d y f g h z"]).longest.tolist(), audit.result().token.tolist()
        ([0.7], [0.7])
    """

    def __init__(
        self,
        samples: Iterable[Any],
        *,
        n: int = 8,
        tokenizer: Tokenizer = "word",
        mincount: int = 1,
        skip_budget: int = 0,
        strict: bool = True,
        short: str = "zero",
    ) -> None:
        _check(mincount, skip_budget, short)
        self.index = NGramIndex(samples, n=n, tokenizer=tokenizer)
        checks.require(len(self.index) > 0, "samples must hold at least one text: got none.")
        self._mincount, self._budget, self._strict, self._short = mincount, skip_budget, strict, short
        self._counts: Array | None = None
        self._rows = 0
        self._coverage = Coverage(self.index.lengths, self.index.n)

    def count(self, texts: Iterable[Any]) -> None:
        """The first pass over the corpus, for ``mincount`` above 1; may be called for one part after the other.

        Args:
            texts: texts of the corpus.
        """
        for block in text_blocks(texts):
            counts = self.index.tally(block)
            self._counts = counts if self._counts is None else self._counts + counts

    def update(self, texts: Iterable[Any]) -> Leaks:
        """Take further texts of the corpus in.

        Args:
            texts: the texts; their rows go on from those before.

        Returns:
            what each of them holds of the samples, as large as there are such pairs.

        Raises:
            ValueError: when ``mincount`` asks for a first pass and there was none.
        """
        if self._mincount > 1 and self._counts is None:
            raise ValueError(f"mincount {self._mincount} needs a first pass: call count with all texts before update.")
        wanted = None if self._counts is None else self._counts >= self._mincount
        found = []
        for block in text_blocks(texts):
            for matches in self.index.matches(block, skip_budget=self._budget, wanted=wanted):
                here = _counted(matches, self.index.n, self._short)
                here = replace(here, rows=here.rows + self._rows)
                self._coverage.add(here.swapped())
                found.append(Leaks(**pair_coverage(here, self.index.lengths, self.index.n, self._bridged)))
            self._rows += len(block)
        return Leaks.joined(found)

    @property
    def holders(self) -> Array:
        """(n,) int64, the text that holds the longest match of each sample so far, -1 for none."""
        return self._coverage.holders

    def result(self) -> Contamination:
        """The scores of the samples by all that was taken in.

        Returns:
            the scores.
        """
        return Contamination(**self._coverage.result(self._bridged))

    @property
    def _bridged(self) -> int | None:
        return None if self._strict else self._budget


def measure_contamination(
    samples: Iterable[Any],
    corpus: NGramIndex | Iterable[Any],
    *,
    n: int = 8,
    tokenizer: Tokenizer = "word",
    mincount: int = 1,
    skip_budget: int = 0,
    strict: bool = True,
    short: str = "zero",
) -> Contamination:
    """Score samples by what a corpus holds of them, by all four metrics of ConTAM (arXiv:2411.03923).

    Args:
        samples: n texts, the test set.
        corpus: texts, as a list or a stream, or their index, whose ``n`` and ``tokenizer`` then hold.
        n: tokens per n-gram; larger ones miss contamination.
        tokenizer: as for ``ContaminationAudit``, like the arguments that follow.
        mincount: how often an n-gram must occur in the corpus; above 1 the corpus is read twice, and misses more.
        skip_budget: differing tokens that a match may be followed over.
        strict: whether the longest match lies in one text of the corpus.
        short: what becomes of samples of fewer than n tokens, "zero" or "whole".

    Returns:
        the scores, and the longest match of each sample.

    Raises:
        ValueError: for no samples, numbers out of their range, or a stream that cannot be read twice.
        TypeError: for texts that are no strings where the tokenizer asks for them.

    Example:
        >>> found = measure_contamination(["a b c d e f g h i j"], ["x a b c d y f g h z"], n=3)
        >>> [getattr(found, metric).tolist() for metric in ("longest", "token", "ngram")]
        [[0.4], [0.7], [0.375]]
    """
    if not isinstance(corpus, NGramIndex):
        audit = ContaminationAudit(
            samples, n=n, tokenizer=tokenizer, mincount=mincount, skip_budget=skip_budget, strict=strict, short=short
        )
        for block in _passes(audit, corpus, mincount):
            audit.update(block)
        return audit.result()
    _check(mincount, skip_budget, short)
    held = list(samples)
    checks.require(bool(held), "samples must hold at least one text: got none.")
    coverage = Coverage(corpus.token_counts(held), corpus.n)
    done = 0
    wanted = corpus.occurrences >= mincount
    for block in text_blocks(held):
        for matches in corpus.matches(block, skip_budget=skip_budget, wanted=wanted):
            here = _counted(matches, corpus.n, short)
            coverage.add(replace(here, rows=here.rows + done))
        done += len(block)
    return Contamination(**coverage.result(None if strict else skip_budget))


def contamination_scores(
    samples: Iterable[Any],
    corpus: NGramIndex | Iterable[Any],
    *,
    metric: str = "longest",
    n: int = 8,
    tokenizer: Tokenizer = "word",
    mincount: int = 1,
    skip_budget: int = 0,
    strict: bool = True,
    short: str = "zero",
) -> Array:
    """One metric of ``measure_contamination``.

    Do not use "token", "ngram" or "extend" to tell copies from common phrases: they add up what is scattered.

    Args:
        samples: n texts, the test set.
        corpus: texts, or their index.
        metric: "longest", "token", "ngram" or "extend".
        n: as for ``measure_contamination``, like the arguments that follow.
        tokenizer: likewise.
        mincount: likewise.
        skip_budget: likewise.
        strict: likewise.
        short: likewise.

    Returns:
        (n,) float64 scores in [0, 1].

    Raises:
        ValueError: as ``measure_contamination``, and for an unknown metric.

    Example:
        >>> contamination_scores([[1, 2, 3, 4]], [[9, 2, 3]], n=2, tokenizer=list).tolist()
        [0.5]
    """
    checks.one_of("metric", metric, METRICS)
    found = measure_contamination(
        samples,
        corpus,
        n=n,
        tokenizer=tokenizer,
        mincount=mincount,
        skip_budget=skip_budget,
        strict=strict,
        short=short,
    )
    return np.asarray(getattr(found, metric))


def _passes(audit: ContaminationAudit, corpus: Iterable[Any], mincount: int) -> Iterator[list[Any]]:
    """The blocks of a corpus, after a first pass where one is needed."""
    if mincount > 1:
        checks.require(
            iter(corpus) is not iter(corpus), f"corpus must be readable twice for mincount {mincount}: give a list."
        )
        audit.count(corpus)
        if audit._counts is None:
            return
    yield from text_blocks(corpus)


def _check(mincount: int, skip_budget: int, short: str) -> None:
    checks.at_least("mincount", mincount, 1)
    checks.at_least("skip_budget", skip_budget, 0)
    checks.one_of("short", short, SHORT)


def _counted(matches: Matches, n: int, short: str) -> Matches:
    """The matches that count: those of short texts only where they are compared as a whole."""
    return matches if short == "whole" else matches.take(matches.lengths >= n)
