"""The adversarial filter: what fools a panel of models stays, and people have the last word."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np

from tamis import checks
from tamis.randomness import Seed, as_generator
from tamis.results import Selection

Array = np.ndarray[Any, Any]
Model = Callable[[Sequence[Any]], Sequence[Any]]


class AdversarialFilter:
    """Keep the items on which enough models of a panel err.

    The adversarial filter of arXiv:2305.12620. When not to use: to say how hard the kept items are for the very models
    of the panel, which is true by construction; measure on models that were not in it, and measure the source items of
    the kept ones too, as choosing hard items is most of the effect.

    Args:
        models: each takes items and gives one label per item.
        min_fooled: models that must err.
        max_per_source: items of one source that stay at most; None for no cap. Those that fool more models go first.
        seed: who stays among equals.

    Raises:
        ValueError: no models, or min_fooled outside 0..models.

    Example:
        >>> panel = [lambda items: [1 for _ in items], lambda items: [len(x) % 2 for x in items]]
        >>> AdversarialFilter(panel).filter(["ab", "abc", "abcd"], [1, 1, 0]).indices.tolist()
        [0, 2]
    """

    def __init__(
        self, models: Sequence[Model], min_fooled: int = 1, max_per_source: int | None = None, *, seed: Seed = 0
    ) -> None:
        checks.require(len(models) > 0, "models must hold at least one model: got none.")
        checks.between("min_fooled", min_fooled, 0, len(models))
        checks.at_least("max_per_source", 1 if max_per_source is None else max_per_source, 1)
        self.models, self.min_fooled, self.max_per_source, self.seed = models, min_fooled, max_per_source, seed

    def filter(
        self,
        items: Sequence[Hashable],
        labels: Sequence[Any],
        *,
        sources: Sequence[Hashable] | None = None,
        pairs: Sequence[Hashable] | None = None,
    ) -> Selection:
        """The items that stay, in their order, with the reason for each that does not.

        Args:
            items: n texts, or tuples of texts; of equal items with equal labels the first counts.
            labels: n gold labels, compared with ``==``.
            sources: n names of the base items they vary.
            pairs: n names of pairs (an item and its twin with the groups exchanged); a pair stays or goes as a whole,
                with the count of its most deceptive member. None for no pairs.

        Returns:
            the selection: scores are the models that err; reasons name a rule ("fools too few", "duplicate", "cap"),
            the item that it is a duplicate of or -1, and the models that err.

        Raises:
            ValueError: no items, columns of different lengths, or a model that gives another number of labels.
        """
        n = len(items)
        checks.require(n > 0, "items must hold at least one item: got none.")
        for name, column in (("labels", labels), ("sources", sources), ("pairs", pairs)):
            if column is not None:
                checks.same_length(name, column, "items", items)
        fooled = np.zeros(n, np.int64)
        for number, model in enumerate(self.models):
            answers = model(items)
            checks.require(
                len(answers) == n,
                f"models must give one label per item: {n} items, model {number} gave {len(answers)}.",
            )
            fooled += np.array([bool(a != b) for a, b in zip(answers, labels, strict=True)])
        group = _numbered(pairs if pairs is not None else range(n))
        strength = np.zeros(int(group.max()) + 1, np.int64)
        np.maximum.at(strength, group, fooled)

        first: dict[Any, int] = {}
        twin = np.array(
            [first.setdefault((item, label), i) for i, (item, label) in enumerate(zip(items, labels, strict=True))]
        )
        rule = np.full(n, "", object)
        rule[twin != np.arange(n)] = "duplicate"
        rule[(rule == "") & (strength[group] < self.min_fooled)] = "fools too few"
        if self.max_per_source is not None and sources is not None:
            self._cap(rule, strength, group, _numbered(sources), self.max_per_source)
        if pairs is not None:  # a pair of which one member went goes
            gone = np.unique(group[rule != ""])
            rule[np.isin(group, gone) & (rule == "")] = "twin left out"
        kept = rule == ""
        dropped = np.flatnonzero(~kept)
        return Selection(
            np.flatnonzero(kept),
            fooled.astype(np.float64),
            np.where(kept, 0.0, -np.inf),
            {
                "row": dropped,
                "rule": rule[dropped].astype(str),
                "rival": np.where(rule[dropped] == "duplicate", twin[dropped], -1),
                "score": fooled[dropped],
            },
        )

    def _cap(self, rule: Array, strength: Array, group: Array, source: Array, most: int) -> None:
        """Whole pairs are counted against the cap, the most deceptive first."""
        left = np.flatnonzero(rule == "")
        _, heads = np.unique(group[left], return_index=True)
        heads = left[heads]
        chance = as_generator(self.seed).random(len(heads))
        heads = heads[np.lexsort((chance, -strength[group[heads]], source[heads]))]
        begins = np.searchsorted(source[heads], source[heads])
        over = group[heads[np.arange(len(heads)) - begins >= most]]
        rule[np.isin(group, over) & (rule == "")] = "cap"


def agreed(votes: Array, labels: Sequence[int], at_least: int) -> Array:
    """Which items enough people label as they are meant.

    The human validation of arXiv:2305.12620.

    Args:
        votes: (n, p) int, the label each person gave; -1 where one gave none.
        labels: (n,) int, the labels that the items carry.
        at_least: people who must agree.

    Returns:
        (n,) bool.

    Raises:
        ValueError: shapes that do not fit, at_least outside 1..p.

    Example:
        >>> agreed(np.array([[1, 1, 0], [2, 1, 0]]), [1, 1], at_least=2).tolist()
        [True, False]
    """
    given = np.asarray(votes)
    checks.require(given.ndim == 2 and given.size > 0, f"votes must be (n, p), not empty: got shape {given.shape}.")
    checks.same_length("labels", labels, "votes", given)
    checks.between("at_least", at_least, 1, given.shape[1])
    enough: Array = (given == np.asarray(labels)[:, None]).sum(1) >= at_least
    return enough


def _numbered(names: Any) -> Array:
    numbers: dict[Any, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in names])
