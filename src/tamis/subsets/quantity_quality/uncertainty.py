"""Uncertainty sampling: which items deserve a correct label."""

from __future__ import annotations

from typing import Any

import numpy as np

from tamis import checks
from tamis.checks import ArrayLike
from tamis.randomness import Seed, as_generator, gumbel
from tamis.results import Selection, as_array, selection_like

Array = np.ndarray[Any, Any]


def uncertainty_sample(
    probs: ArrayLike,
    *,
    budget: float,
    temperature: float = 1.0,
    most_confident: bool = False,
    weights: str = "entropy",
    seed: Seed = 0,
) -> Selection:
    """Draw items without replacement, the more likely the less sure a model is of them.

    The paper's rule for the correct labels of the second stage: ``P(i) ~ w_i^(1 / temperature)`` with w the entropy of
    the first stage's prediction, or how near its two best classes are. Temperature 0 takes the highest weights exactly,
    in random order. ``most_confident`` turns weights around, to keep the noisy labels that are likeliest right.

    Args:
        probs: (n, c) float, predicted class probabilities, c at least 2.
        budget: items to draw, a count or a share.
        temperature: from 0; infinity draws evenly.
        most_confident: draw by ``1 - w``.
        weights: "entropy" (in units of its largest value, which is bits for two classes), or "margin", one minus half
            the distance of the two highest probabilities.
        seed: seed or generator.

    Returns:
        indices in order of the draw, exactly the budget (items of weight 0 come last); scores (n,), the weights;
        log_weights (n,), 0 or -inf; reasons of the others: row, rule, rival (-1), score. Tensors for a tensor.

    Raises:
        ValueError: for probabilities that are not (n, c), do not sum to 1 or are negative, or a negative temperature.

    Example:
        >>> drawn = uncertainty_sample(np.array([[0.9, 0.1], [0.5, 0.5], [0.3, 0.7]]), budget=2, temperature=0)
        >>> sorted(drawn.indices.tolist()), drawn.scores.round(4).tolist()
        ([1, 2], [0.469, 1.0, 0.8813])
    """
    checks.matrix("probs", probs)
    checks.one_of("weights", weights, ("entropy", "margin"))
    checks.at_least("temperature", temperature, 0)
    given = as_array(probs)
    shares = given.astype(np.float64)
    checks.finite("probs", shares)
    checks.at_least("columns of probs", shares.shape[1], 2)
    sums = shares.sum(1)
    off = np.flatnonzero((shares < 0).any(1) | (np.abs(sums - 1) > 1e-2))
    checks.require(
        len(off) == 0,
        f"probs must be probabilities: {len(off)} rows are negative or do not sum to 1, the first is row "
        f"{off[0] if len(off) else ''}; take a softmax.",
    )
    weight = _entropy(shares / sums[:, None]) if weights == "entropy" else _closeness(shares)
    weight = np.clip(1 - weight if most_confident else weight, 0, 1)
    count, rng = checks.budget_count(budget, len(weight)), as_generator(seed)
    noise = gumbel(weight.shape, rng)
    with np.errstate(divide="ignore"):
        log_weight = np.log(weight)
    if temperature == 0:
        first = np.lexsort((-noise, -weight))[:count]
        drawn = rng.permutation(first)
    else:
        # The order of log-weights plus Gumbel noise is that of draws without replacement; nothing but noise orders 0s.
        drawn = np.lexsort((-noise, -(log_weight / temperature + noise)))[:count]
    kept = np.zeros(len(weight), dtype=bool)
    kept[drawn] = True
    dropped = np.flatnonzero(~kept)
    scores = weight.astype(given.dtype if given.dtype.kind == "f" else np.float64)
    selection = Selection(
        indices=drawn,
        scores=scores,
        log_weights=np.where(kept, 0.0, -np.inf).astype(scores.dtype),
        reasons={
            "row": dropped,
            "rule": np.full(len(dropped), "not drawn", dtype=object),
            "rival": np.full(len(dropped), -1),
            "score": scores[dropped],
        },
    )
    return selection_like(selection, probs)


def _entropy(shares: Array) -> Array:
    """(n,) entropy over that of the uniform distribution."""
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(shares > 0, -shares * np.log2(shares), 0.0)
    entropy: Array = terms.sum(1) / np.log2(shares.shape[1])
    return entropy


def _closeness(shares: Array) -> Array:
    """(n,) one minus half the distance of the two highest probabilities: ``1 - |p - 0.5|`` for two classes."""
    top = np.partition(shares, -2, axis=1)[:, -2:]
    closeness: Array = 1 - (top[:, 1] - top[:, 0]) / 2
    return closeness
