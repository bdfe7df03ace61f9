"""Two views: the odds that a candidate is an unknown answer, learned from known answers alone.

A corpus with one known positive per query hides others among the candidates, and no label says which. But a hidden
positive reached the query as the known one did, so the known positives, put among the candidates as strangers, show how
an answer looks from the *query*: its rank, its score, how much better another query fits it. A logistic regression of
known against unlabelled pairs gives the odds of being labelled; divided by the share of answers that are labelled these
are the odds of being an answer (Elkan and Noto 2008, "Learning classifiers from only positive and unlabeled data").

A known positive cannot show how an answer looks from another *passage*, from the positive of its query: it would be
compared with itself. The second view learns that from the first one's opinion. With y for "is an answer", u for the
query's view and v for the passage's view, and both independent given y,

    log P(y=1 | u, v) / P(y=0 | u, v)  =  log P(y=1 | u) / P(y=0 | u)  +  log P(v | y=1) / P(v | y=0),

and since P(v | y) is the average of P(v | u) weighted by P(y | u), the last term is what a logistic regression of the
passage's view on the *soft* labels P(y=1 | u) learns, less the log-odds of their mean (the two views of co-training,
Blum and Mitchell 1998). A candidate that both views find like an answer is one; a hard negative looks like one to the
query only. Where the views are not independent the sum overstates both ways, which moves no candidate past another of
the same kind and is why thresholds are calibrated on whole outcomes (``negatives/calibration``) and not on this number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tamis import checks

Array = np.ndarray[Any, Any]
PairScores = Callable[[Array, Array], Array]

SURE = 0.9  # quantile of the known positives' probability of being labelled that counts as certainly an answer
NEAREST = 8  # known positives of a query that a candidate is compared with
RIDGE = 1.0
BLOCK = 2**18  # pairs looked at together; a power of two, since numpy rounds rows at an odd end otherwise
LEARN = 2000  # queries whose pairs teach; more move a handful of weights by nothing that shows


@dataclass(frozen=True)
class Seen:
    """Pairs of a query and a passage as the search sees them.

    Args:
        query: (p,) int64 query rows.
        passage: (p,) int64 corpus rows.
        score: (p,) float, similarity of the pair.
        rank: (p,) int, rank of the passage for its query among all others, known positives included; 1 is the best.

    Millions of pairs are kept in half the memory by int32 and float32; blocks of them are worked on in 64 bits.
    """

    query: Array
    passage: Array
    score: Array
    rank: Array

    def __len__(self) -> int:
        return len(self.query)

    def part(self, which: slice | Array) -> Seen:
        """Some of the pairs, in 64 bits."""
        whole = (part[which].astype(np.int64, copy=False) for part in (self.query, self.passage, self.rank))
        query, passage, rank = whole
        return Seen(query, passage, self.score[which].astype(np.float64, copy=False), rank)

    def narrow(self) -> Seen:
        """The pairs in 32 bits; scores must come from float32."""
        integers = (part.astype(np.int32) for part in (self.query, self.passage, self.rank))
        query, passage, rank = integers
        return Seen(query, passage, self.score.astype(np.float32), rank)

    @classmethod
    def joined(cls, parts: Sequence[Seen]) -> Seen:
        """Several lists of pairs as one."""
        columns = ([getattr(part, name) for part in parts] for name in ("query", "passage", "score", "rank"))
        return cls(*(np.concatenate(column) for column in columns))


@dataclass(frozen=True)
class Answers:
    """Known positives as a ragged array.

    Args:
        query: (p,) int64 query rows, ascending.
        passage: (p,) int64 corpus rows.
        score: (p,) float32 similarity of the pair.
    """

    query: Array
    passage: Array
    score: Array

    @classmethod
    def of(cls, positives: Sequence[Array], pair_scores: PairScores) -> Answers:
        """Flatten per-query rows and score them.

        Args:
            positives: per query corpus rows, none empty.
            pair_scores: similarity of given (query rows, corpus rows).

        Returns:
            the known positives.
        """
        query = np.repeat(np.arange(len(positives)), [len(p) for p in positives])
        passage = np.concatenate([np.empty(0, np.int64), *positives])
        return cls(query, passage, pair_scores(query, passage))


class QueryView:
    """How pairs look from the query, and the odds that they are answers.

    Args:
        candidates: unlabelled pairs, those that the search found.
        answers: the known positives as strangers; only those that the search would have found.
        queries: how many there are.
        passages: how many there are.
        owners: (n,) int, for how many queries a passage is a known positive.
    """

    def __init__(self, candidates: Seen, answers: Seen, queries: int, passages: int, owners: Array) -> None:
        checks.require(len(answers) >= 2, f"two views need at least 2 known positives in the pool: got {len(answers)}.")
        checks.require(len(candidates) >= 2, f"two views need at least 2 candidates: got {len(candidates)}.")
        self._center, self._spread = _by_query(candidates, queries)
        both = [(candidates.passage, candidates.score), (answers.passage, answers.score)]
        self._first, self._second = _best_two(both, passages)
        self._floor = _lowest(candidates, candidates.score, queries)
        self._owners = owners
        # Every so many queries teach it: all of their pairs, so that the share of known ones stays what it is.
        stride = -(-queries // LEARN)
        features = self._features(_some(answers, stride), 1), self._features(_some(candidates, stride), 0)
        self._use = np.ones(features[0].shape[1], bool)
        self._model = _Logistic.fit(*features)
        if self._model.weights[-2] > 0:
            # Whether another query owns a passage is known from labels, and unknown answers have none. It may speak
            # for a candidate's being a negative (passages answer one query each) and never for its being an answer.
            self._use[-1] = False
            self._model = _Logistic.fit(features[0][:, self._use], features[1][:, self._use])
        labelled = _sigmoid(self.log_odds(answers, known=True))
        self.share_labelled = float(np.clip(np.quantile(labelled, SURE), 1e-6, 1 - 1e-6))

    def _features(self, pairs: Seen, own: int) -> Array:
        best_other = np.where(
            pairs.score >= self._first[pairs.passage] - 1e-6, self._second[pairs.passage], self._first[pairs.passage]
        )
        ahead = pairs.score - np.where(np.isneginf(best_other), self._floor, best_other)
        owned = self._owners[pairs.passage] - own > 0
        columns = (
            np.log(np.maximum(pairs.rank, 1)),
            (pairs.score - self._center[pairs.query]) / self._spread[pairs.query],
            pairs.score,
            np.maximum(ahead, 0),
            np.minimum(ahead, 0),
            owned,
        )
        return np.stack([np.asarray(c, np.float64) for c in columns], 1)

    def log_odds(self, pairs: Seen, *, known: bool = False) -> Array:
        """(p,) float64 log-odds of being labelled; monotone in the odds of being an answer.

        Args:
            pairs: as the search sees them.
            known: whether these are known positives, whose own label is then left out of what the pair looks like.
        """
        log_odds = np.empty(len(pairs))
        for rows in _slices(len(pairs)):
            log_odds[rows] = self._model(self._features(pairs.part(rows), int(known))[:, self._use])
        return log_odds

    def probability(self, log_odds: Array) -> Array:
        """(p,) float64, that an unlabelled pair with these log-odds is an answer (Elkan and Noto, equation 3)."""
        return np.clip(np.exp(np.minimum(log_odds, 30)) * (1 / self.share_labelled - 1), 0, 1 - 1e-3)


class PassageView:
    """How a candidate looks from the known positives of its query, and what that says of its being an answer.

    Args:
        candidates: the unlabelled pairs.
        probability: (p,) float, the query view's opinion of them.
        answers: the known positives.
        passage_scores: similarity of given (corpus rows, corpus rows).
        passages: how many there are.
    """

    def __init__(
        self, candidates: Seen, probability: Array, answers: Answers, passage_scores: PairScores, passages: int
    ) -> None:
        self._passage_scores = passage_scores
        likeness, beside = np.empty(len(candidates)), np.empty(len(candidates))
        for rows in _slices(len(candidates)):
            some = candidates.part(rows)
            likeness[rows], beside[rows] = nearest(some.query, some.passage, answers, passage_scores)
        self._first, self._second = best_two(candidates.passage, likeness, passages)
        self._floor = _lowest(candidates, likeness, int(candidates.query.max()) + 1)
        taught = candidates.query % -(-(int(candidates.query.max()) + 1) // LEARN) == 0
        mean = float(np.clip(probability[taught].mean(), 1e-9, 1 - 1e-9))
        self._base = float(np.log(mean / (1 - mean)))
        examples = self._features(candidates.part(taught), likeness[taught], beside[taught])
        self._model = _Logistic.fit_soft(examples, probability[taught])
        self.log_ratios = np.empty(len(candidates))
        for rows in _slices(len(candidates)):
            columns = self._features(candidates.part(rows), likeness[rows], beside[rows])
            self.log_ratios[rows] = self._model(columns) - self._base

    def _features(self, pairs: Seen, likeness: Array, beside: Array) -> Array:
        best_other = np.where(
            likeness >= self._first[pairs.passage] - 1e-6, self._second[pairs.passage], self._first[pairs.passage]
        )
        ahead = likeness - np.where(np.isneginf(best_other), self._floor, best_other)
        columns = (likeness, likeness - beside, np.maximum(ahead, 0), np.minimum(ahead, 0), pairs.score - beside)
        return np.stack([np.asarray(c, np.float64) for c in columns], 1)

    def log_ratio(self, pairs: Seen, answers: Answers) -> Array:
        """(p,) float64 ``log P(v | answer) - log P(v | no answer)`` of other pairs.

        Args:
            pairs: as the search sees them.
            answers: what they are compared with; rows of ``pairs.query`` name its queries.
        """
        likeness, beside = nearest(pairs.query, pairs.passage, answers, self._passage_scores)
        return self._model(self._features(pairs, likeness, beside)) - self._base


def updated(probability: Array, log_ratio: Array) -> Array:
    """A probability after evidence with this log-ratio of likelihoods (Bayes' rule).

    Args:
        probability: (p,) float in [0, 1).
        log_ratio: (p,) float ``log P(v | answer) - log P(v | no answer)``.

    Returns:
        (p,) float64.

    Example:
        >>> updated(np.array([0.2]), np.log([4.0])).round(6).tolist()
        [0.5]
    """
    with np.errstate(divide="ignore"):
        return _sigmoid(np.log(probability) - np.log1p(-probability) + log_ratio)


def best_two(keys: Array, values: Array, size: int) -> tuple[Array, Array]:
    """The best and the second best value of every key.

    Args:
        keys: (p,) int below ``size``.
        values: (p,) float.
        size: how many keys there are.

    Returns:
        two arrays (size,), ``-inf`` where there is none.

    Example:
        >>> best_two(np.array([0, 1, 0]), np.array([1.0, 5.0, 2.0]), 2)
        (array([2., 5.]), array([  1., -inf]))
    """
    return _best_two([(keys, values)], size)


def nearest(query: Array, passage: Array, answers: Answers, passage_scores: PairScores) -> tuple[Array, Array]:
    """The known positive of a query that a passage is most like.

    Args:
        query: (p,) int64 query rows.
        passage: (p,) int64 corpus rows.
        answers: the known positives; of more than ``NEAREST`` per query the most similar to it are compared with.
        passage_scores: similarity of given (corpus rows, corpus rows).

    Returns:
        (p,) float64 similarity to it, and its own similarity to the query; 0 for queries without any.
    """
    order = np.lexsort((-answers.score, answers.query))
    owner, row, score = answers.query[order], answers.passage[order], answers.score[order]
    starts, ends = np.searchsorted(owner, query, "left"), np.searchsorted(owner, query, "right")
    likeness, beside = np.full(len(query), -np.inf), np.zeros(len(query))
    for place in range(min(NEAREST, int((ends - starts).max(initial=0)))):
        has = np.flatnonzero(starts + place < ends)
        one = starts[has] + place
        like = passage_scores(row[one], passage[has])
        closer = like > likeness[has]
        likeness[has[closer]], beside[has[closer]] = like[closer], score[one[closer]]
    return np.where(np.isneginf(likeness), 0.0, likeness), beside


@dataclass(frozen=True)
class _Logistic:
    """Ridge logistic regression on standardised columns, by Newton's method."""

    center: Array
    spread: Array
    weights: Array

    @classmethod
    def fit(cls, positive: Array, unlabelled: Array) -> _Logistic:
        x = np.concatenate([positive, unlabelled])
        return cls._solve(x, np.repeat([1.0, 0.0], [len(positive), len(unlabelled)]))

    @classmethod
    def fit_soft(cls, x: Array, target: Array) -> _Logistic:
        return cls._solve(x, target)

    @classmethod
    def _solve(cls, x: Array, target: Array) -> _Logistic:
        center, spread = x.mean(0), x.std(0) + 1e-9
        z = np.concatenate([(x - center) / spread, np.ones((len(x), 1))], 1)
        ridge = RIDGE * np.eye(z.shape[1])
        ridge[-1, -1] = 1e-6
        weights = np.zeros(z.shape[1])

        def cost(w: Array) -> float:
            y = z @ w
            return float((np.logaddexp(0, y) - target * y).sum() + 0.5 * w @ ridge @ w)

        reached = cost(weights)
        for _ in range(100):
            p = _sigmoid(z @ weights)
            step = np.linalg.solve((z * (p * (1 - p))[:, None]).T @ z + ridge, z.T @ (target - p) - ridge @ weights)
            # A full Newton step can overshoot where most probabilities are near 0; half of it never does for long.
            size = 1.0
            while size > 1e-6 and (now := cost(weights + size * step)) > reached:
                size /= 2
            if size <= 1e-6 or reached - now <= 1e-10 * max(1.0, abs(reached)):
                break
            weights, reached = weights + size * step, now
        return cls(center, spread, weights)

    def __call__(self, x: Array) -> Array:
        if len(x) == 1:  # as one of several rows, which numpy may add up in another order
            return self(x.repeat(2, 0))[:1]
        return np.asarray((x - self.center) / self.spread @ self.weights[:-1] + self.weights[-1])


def _slices(pairs: int) -> list[slice]:
    """Pairs in blocks; a last single one joins its neighbours, because one row is multiplied in another order."""
    ends = [*range(BLOCK, pairs - 1, BLOCK), pairs]
    return [slice(start, stop) for start, stop in zip([0, *ends[:-1]], ends, strict=True)]


def _best_two(lists: Sequence[tuple[Array, Array]], size: int) -> tuple[Array, Array]:
    """``best_two`` of several lists of keys and values, block by block."""
    first, second, ties = np.full(size, -np.inf), np.full(size, -np.inf), np.zeros(size, np.int64)
    blocks = [(keys[rows], values[rows]) for keys, values in lists for rows in _slices(len(keys))]
    for keys, values in blocks:
        np.maximum.at(first, keys, values)
    for keys, values in blocks:
        best = values == first[keys]
        np.maximum.at(second, keys[~best], values[~best])
        ties += np.bincount(keys[best], minlength=size)
    return first, np.where(ties > 1, first, second)


def _sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-np.clip(x, -50, 50))))


def _some(pairs: Seen, stride: int) -> Seen:
    """The pairs of every so many queries; all of them where that would leave too few."""
    taken = pairs.query % stride == 0
    if taken.sum() < 2:
        return pairs.part(slice(None))
    return pairs.part(taken)


def _lowest(pairs: Seen, values: Array, queries: int) -> float:
    """What a pair that no search found has at the most, or nearly: the middle of the lowest value of every query."""
    least = np.full(queries, np.inf)
    for rows in _slices(len(pairs)):
        np.minimum.at(least, pairs.query[rows], values[rows])
    return float(np.median(least[np.isfinite(least)]))


def _by_query(pairs: Seen, queries: int) -> tuple[Array, Array]:
    """Middle score and spread of scores of every query's candidates."""
    count = np.maximum(np.bincount(pairs.query, minlength=queries), 1)
    total, squares = np.zeros(queries), np.zeros(queries)
    for rows in _slices(len(pairs)):
        some = pairs.part(rows)
        # Added up one after the other, as in one block.
        np.add.at(total, some.query, some.score)
        np.add.at(squares, some.query, some.score**2.0)
    mean = total / count
    variance = squares / count - mean**2
    spread = np.sqrt(np.maximum(variance, 0))
    return mean, np.where(spread > 1e-9, spread, 1.0)
