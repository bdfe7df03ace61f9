"""The other direction: training texts that hold a test sample are taken out, each with the sample and the match."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from tamis import checks
from tamis.evaluation.contam.scores import METRICS, ContaminationAudit, Leaks
from tamis.results import Selection
from tamis.tokens import Tokenizer, text_blocks

Array = np.ndarray[Any, Any]


def decontaminate(
    train: Iterable[Any],
    samples: Iterable[Any],
    *,
    metric: str = "longest",
    threshold: float = 0.3,
    n: int = 8,
    tokenizer: Tokenizer = "word",
    mincount: int = 1,
    skip_budget: int = 0,
    strict: bool = True,
    short: str = "whole",
) -> Selection:
    """Drop the training texts that give a test sample away.

    A text is dropped when the contamination score of a sample, by a corpus of this one text, reaches the threshold: by
    default when three tenths of a sample or more stand in it in one piece (arXiv:2411.03923, the other way
    round). A sample of fewer than n tokens is given away by a text that equals it. Do not use on paraphrases or
    translations of a test set: they share no n-grams.

    Args:
        train: n texts, the training set; may be a stream, of which nothing is held but rows.
        samples: m texts, the test set.
        metric: "longest", "token", "ngram" or "extend", see ``Contamination``.
        threshold: in (0, 1]; 1 drops whole copies alone.
        n: tokens per n-gram.
        tokenizer: as for ``ContaminationAudit``, like the arguments that follow.
        mincount: how often an n-gram of a sample must occur in ``train``.
        skip_budget: differing tokens that a match may be followed over.
        strict: whether the longest match is one run of tokens.
        short: "whole" compares short samples as a whole, "zero" passes them over.

    Returns:
        indices (k,) of the kept texts, ascending; scores (n,), the largest of any sample, 0 for none; log_weights
        (n,), 0 or -inf; reasons of the dropped texts: row, rule ("longest", ...; "equal" where short texts are equal),
        rival (row of the sample), score, start and rival_start (first token of the longest match in both), span (its
        tokens with the skips) and equal (without).

    Raises:
        ValueError: for no training texts, no samples, or numbers out of their range.
        TypeError: for texts that are no strings where the tokenizer asks for them.

    Example:
        >>> kept = decontaminate(["so a b c d it is", "a c b d"], ["a b c d e"], n=3)
        >>> kept.indices.tolist(), kept.reasons["score"].tolist(), kept.reasons["start"].tolist()
        ([1], [0.8], [1])
    """
    checks.one_of("metric", metric, METRICS)
    checks.require(0 < threshold <= 1, f"threshold must lie between 0 (not included) and 1: got {threshold!r}.")
    audit = ContaminationAudit(
        samples, n=n, tokenizer=tokenizer, mincount=mincount, skip_budget=skip_budget, strict=strict, short=short
    )
    if mincount > 1:
        checks.require(
            iter(train) is not iter(train), f"train must be readable twice for mincount {mincount}: give a list."
        )
        audit.count(train)
    rows, found = 0, []
    for block in text_blocks(train):
        found.append(audit.update(block).best(metric))
        rows += len(block)
    checks.require(rows > 0, "train must hold at least one text: got none.")
    leaks = Leaks.joined(found)
    scores = np.zeros(rows)
    scores[leaks.rows] = getattr(leaks, metric)
    worst = leaks.take(getattr(leaks, metric) >= threshold)
    kept = np.ones(rows, dtype=bool)
    kept[worst.rows] = False
    return Selection(
        indices=np.flatnonzero(kept),
        scores=scores,
        log_weights=np.where(kept, 0.0, -np.inf),
        reasons={
            "row": worst.rows,
            "rule": np.where(worst.equal < audit.index.n, "equal", metric).astype(object),
            "rival": worst.samples,
            "score": getattr(worst, metric),
            "start": worst.starts,
            "rival_start": worst.sample_starts,
            "span": worst.spans,
            "equal": worst.equal,
        },
    )
