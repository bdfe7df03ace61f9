"""Cross-encoder: scores of (query, passage) pairs that cost a forward pass each, so none is paid for twice.

Pairs go to the model sorted by length, the longest first: a batch pads little, and one that is too large fails at
once. Equal pairs of texts are one pair. With a folder the scores are kept under the fingerprint of the model, batch by
batch: a run that is killed does not score them again. The margin is in units of the score, because a share of a logit,
which may be negative or zero, means nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from torch import Tensor

from tamis import checks
from tamis.negatives import filters, journal

Array = np.ndarray[Any, Any]
Pair = tuple[str, str]
PROBE = 8  # pairs that tell one scorer from another when it has no fingerprint


@runtime_checkable
class Predicts(Protocol):
    """A model with ``predict(pairs) -> scores``, as sentence-transformers' CrossEncoder."""

    def predict(self, pairs: list[Pair], /) -> Any:
        """One score per pair."""
        ...


class PairScorer:
    """A cross-encoder with its margin, its budget and the scores that it has given.

    Args:
        scorer: ``scorer(pairs) -> scores``, or a model with ``predict(pairs)``; pairs are (query, passage) texts. One
            with ``fingerprint()`` is asked for it when there is a folder; else a few pairs tell whether it is the same.
        margin: what a candidate must stay below the positive, in units of the score. The default, 0, drops what is
            found at least as relevant as the positive: only the order counts, so logits and probabilities agree.
        sigmoid: turn logits into probabilities first, so that the margin is a difference of probabilities. It hides
            differences between two sure answers and those between two that are surely wrong.
        budget: pairs to score for picked negatives, at the most, stored ones included; None for as many as it takes.
        batch: pairs per call; the scores of a call are stored together.
        folder: keeps scores there.

    Example:
        >>> overlap = PairScorer(lambda pairs: [len(set(q.split()) & set(p.split())) for q, p in pairs])
        >>> overlap.scores([("a b", "b c"), ("a b", "a b"), ("a b", "b c")]), overlap.asked
        (array([1., 2., 1.], dtype=float32), 2)
    """

    def __init__(
        self,
        scorer: Callable[[list[Pair]], Any] | Predicts,
        *,
        margin: float = 0.0,
        sigmoid: bool = False,
        budget: int | None = None,
        batch: int = 256,
        folder: str | Path | None = None,
    ) -> None:
        checks.at_least("cross_encoder_margin", margin, 0)
        checks.at_least("cross_encoder_budget", 0 if budget is None else budget, 0)
        checks.at_least("batch", batch, 1)
        predict = scorer.predict if isinstance(scorer, Predicts) else scorer
        if not callable(predict):
            raise TypeError(
                "cross_encoder must be a function of a list of (query, passage) pairs or have predict(pairs): got "
                f"{type(scorer).__name__}."
            )
        self._predict, self._scorer = predict, scorer
        self.name = str(getattr(scorer, "name", "") or getattr(scorer, "__name__", "") or type(scorer).__name__)
        self.margin, self.sigmoid, self.budget, self.batch = float(margin), sigmoid, budget, batch
        self.folder = None if folder is None else Path(folder)
        self._known: dict[Pair, float] = {}
        self._stored: dict[str, float] | None = None
        self._path: Path | None = None

    @property
    def asked(self) -> int:
        """Distinct pairs whose score was needed so far, from the model or from the folder."""
        return len(self._known)

    @property
    def left(self) -> float:
        """Pairs that the budget still allows."""
        return np.inf if self.budget is None else max(0, self.budget - self.asked)

    def open(self, probe: Sequence[Pair]) -> None:
        """Find the scores of earlier runs; nothing happens without a folder, or the second time.

        Args:
            probe: pairs at hand, of which a few tell scorers apart that have no fingerprint.
        """
        if self.folder is None or self._stored is not None:
            return
        own = getattr(self._scorer, "fingerprint", None)
        if callable(own):
            content = str(own())
        else:
            pairs = list(dict.fromkeys(probe))
            pairs = sorted(pairs[:: max(1, -(-len(pairs) // PROBE))][: int(min(PROBE, self.left))], key=_shorter)
            self._known |= dict(zip(pairs, self._ask(pairs).tolist(), strict=True))
            content = repr((self.name, [f"{self._known[p]:.4g}" for p in pairs]))
        self._path = self.folder / f"scores-{hashlib.sha256(content.encode()).hexdigest()[:16]}.jsonl"
        rows = journal.read(self._path)
        self._stored = {r["pair"]: float(r["score"]) for r in rows if "pair" in r and "score" in r}

    def scores(self, pairs: Sequence[Pair]) -> Array:
        """Score pairs, each distinct one once.

        Args:
            pairs: m (query, passage) texts.

        Returns:
            (m,) float32, probabilities if ``sigmoid``.

        Raises:
            ValueError: when the model does not give one finite number per pair.
        """
        self.open(pairs)
        wanted = [pair for pair in dict.fromkeys(pairs) if pair not in self._known]
        if self._stored:
            found = {pair: self._stored.get(_digest(pair)) for pair in wanted}
            self._known |= {pair: score for pair, score in found.items() if score is not None}
            wanted = [pair for pair, score in found.items() if score is None]
        wanted.sort(key=_shorter)
        for start in range(0, len(wanted), self.batch):
            block = wanted[start : start + self.batch]
            given = self._ask(block).tolist()
            self._known |= dict(zip(block, given, strict=True))
            if self._path is not None:
                journal.add(self._path, ({"pair": _digest(p), "score": s} for p, s in zip(block, given, strict=True)))
        raw = np.array([self._known[pair] for pair in pairs], np.float32)
        # The hyperbolic tangent does not overflow, whatever the logit.
        return np.asarray(0.5 + 0.5 * np.tanh(0.5 * raw), np.float32) if self.sigmoid else raw

    def ceiling(self, positive_scores: Array) -> Array:
        """The score that a negative must stay below.

        Args:
            positive_scores: (m,) float32, scores of the positives, see ``scores``.

        Returns:
            (m,) float32.
        """
        return filters.margin_ceiling(positive_scores, absolute=self.margin)

    def _ask(self, pairs: list[Pair]) -> Array:
        """(m,) float32 from the model itself, checked."""
        if not pairs:
            return np.empty(0, np.float32)
        given = self._predict(list(pairs))
        try:
            scores = np.asarray(given.detach().float().cpu() if isinstance(given, Tensor) else given, np.float32)
        except (TypeError, ValueError):
            raise ValueError(f"the cross-encoder must give numbers: got {type(given).__name__}.") from None
        if scores.shape not in ((len(pairs),), (len(pairs), 1)):
            came = f"{len(scores)} scores" if scores.ndim == 1 else f"shape {scores.shape}"
            raise ValueError(f"the cross-encoder must give one score per pair: {len(pairs)} pairs, {came}.")
        scores = scores.reshape(-1)
        bad = np.flatnonzero(~np.isfinite(scores))
        if len(bad):
            query, passage = pairs[bad[0]]
            raise ValueError(
                f"the cross-encoder must give finite scores: got {scores[bad[0]]} for the query {query!r:.60} and the "
                f"passage {passage!r:.60}."
            )
        return scores


def _shorter(pair: Pair) -> int:
    return -len(pair[0]) - len(pair[1])


def _digest(pair: Pair) -> str:
    query = pair[0].encode("utf-8", "surrogatepass")
    passage = pair[1].encode("utf-8", "surrogatepass")
    return hashlib.sha256(len(query).to_bytes(8, "little") + query + passage).hexdigest()[:32]
