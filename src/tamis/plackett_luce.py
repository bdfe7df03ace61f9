"""Plackett-Luce: one strength per item from rankings or from wins in pairs.

A ranking is a row of choices: the first of all, then the first of those that are left, each in proportion to ``exp`` of
its strength. Two algorithms find the strengths that make what was seen likeliest. Iterative Luce spectral ranking moves
from losers to winners along a Markov chain and takes its stationary distribution; it needs few, dear rounds. The
minorise-maximise algorithm divides wins by expected chances, many cheap rounds, and is the faster one for long
rankings. With ``alpha`` both lean towards equal strengths in the same way, and items need not be connected.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from tamis import checks

Array = np.ndarray[Any, Any]
Rankings = Array | Sequence[Sequence[int]]

_BLOCK = 2**22  # numbers in a block
_ROUNDS = {"ilsr": 100, "mm": 10_000}


def plackett_luce(
    *,
    rankings: Rankings | None = None,
    wins: Array | None = None,
    items: int | None = None,
    method: Literal["ilsr", "mm"] = "ilsr",
    alpha: float = 0.0,
    max_iter: int | None = None,
    tol: float = 1e-8,
) -> Array:
    """The strengths that make rankings, or wins in pairs, likeliest (Maystre and Grossglauser 2015; Hunter 2004).

    ``P(i_1 > i_2 > ...) = prod_k exp(t_{i_k}) / sum_{l >= k} exp(t_{i_l})``; of two items that is Bradley and Terry's
    model. ``alpha`` adds ``alpha * n * sum(t - exp(t))`` to the logarithm of the likelihood, which is a constant rate
    between all items of the chain.

    Args:
        rankings: (r, l) int, best first, -1 after the last of a shorter one; or a list of sequences.
        wins: (n, n) float, how often the row's item won against the column's.
        items: how many there are; left out, the highest number in the rankings says.
        method: "ilsr" or "mm"; the result is the same.
        alpha: 0 for the maximum of the likelihood, more for strengths nearer to each other.
        max_iter: rounds, by default 100 for "ilsr" and 10,000 for "mm"; a warning says when they did not suffice.
        tol: largest change of a strength in the last round.

    Returns:
        (n,) float64, strengths with mean 0; the difference of two is the logarithm of the odds that one wins.

    Raises:
        ValueError: for malformed input, or items that are not connected by wins in both directions while alpha is 0.

    Example:
        >>> plackett_luce(wins=np.array([[0, 3], [1, 0]])).round(6).tolist()
        [0.549306, -0.549306]
        >>> plackett_luce(rankings=[(0, 1, 2), (0, 2, 1), (1, 0, 2), (2, 0, 1)]).round(4).tolist()
        [0.7829, -0.3915, -0.3915]
    """
    checks.one_of("method", method, ("ilsr", "mm"))
    checks.at_least("alpha", alpha, 0.0)
    rounds = _ROUNDS[method] if max_iter is None else max_iter
    checks.at_least("max_iter", rounds, 1)
    seen = _Seen(rankings, wins, items)
    if alpha == 0:
        _require_connected(seen)
    weights = np.ones(seen.items)
    change = np.inf
    for _ in range(rounds):
        new = _chain_step(seen, weights, alpha) if method == "ilsr" else _minorise_step(seen, weights, alpha)
        change, weights = float(np.abs(np.log(new / weights)).max()), new
        if change < tol:
            break
    else:
        if max_iter is None or max_iter > 1:
            warnings.warn(
                f"strengths still moved by {change:.1e} after {rounds} rounds of {method!r}: raise max_iter, or alpha.",
                RuntimeWarning,
                stacklevel=2,
            )
    strengths = np.log(weights)
    centred: Array = strengths - strengths.mean()
    return centred


def log_likelihood(
    strengths: Array | Sequence[float], *, rankings: Rankings | None = None, wins: Array | None = None
) -> float:
    """The logarithm of the probability of what was seen.

    Args:
        strengths: (n,) float.
        rankings: as in ``plackett_luce``.
        wins: as in ``plackett_luce``.

    Returns:
        natural logarithm, at most 0.

    Raises:
        ValueError: for malformed input.

    Example:
        >>> round(log_likelihood([1.0, 0.0, -1.0], rankings=[(0, 1, 2)]), 6)
        -0.720868
    """
    theta = np.asarray(strengths, dtype=np.float64)
    seen = _Seen(rankings, wins, len(theta))
    if seen.wins is not None:
        odds = np.logaddexp(0.0, theta[None, :] - theta[:, None])
        return float(-(seen.wins * odds).sum())
    weights, total = np.exp(theta - theta.max()), 0.0
    for block in seen.blocks:
        chosen = np.append(weights, 0.0)[block]
        left = np.cumsum(chosen[::-1], axis=0)[::-1]
        real = block >= 0
        total += float((np.log(chosen[real]) - np.log(left[real])).sum())
    return total


def standard_errors(
    strengths: Array, *, rankings: Rankings | None = None, wins: Array | None = None, alpha: float = 0.0
) -> Array:
    """Standard errors of strengths with mean 0, from the inverse of the information that the observations hold.

    They take the observations for independent. Pairs that come from one sample are not: resample samples instead.

    Args:
        strengths: (n,) float, of ``plackett_luce``.
        rankings: as in ``plackett_luce``.
        wins: as in ``plackett_luce``.
        alpha: as in ``plackett_luce``.

    Returns:
        (n,) float64.

    Raises:
        ValueError: for malformed input.

    Example:
        >>> wins = np.array([[0, 3], [1, 0]])
        >>> standard_errors(plackett_luce(wins=wins), wins=wins).round(4).tolist()
        [0.5774, 0.5774]
    """
    theta = np.asarray(strengths, dtype=np.float64)
    seen, weights = _Seen(rankings, wins, len(theta)), np.exp(theta - theta.mean())
    n = len(theta)
    if seen.wins is not None:
        share = weights[:, None] / (weights[:, None] + weights[None, :])
        off = (seen.wins + seen.wins.T) * share * share.T
        np.fill_diagonal(off, 0.0)
    else:
        off = np.zeros((n, n))
        for block in seen.blocks:
            squares = np.cumsum(_stages(block, weights) ** 2, axis=0)
            places, columns = np.nonzero(block >= 0)
            met = np.zeros((n, block.shape[1]))  # 0 for what a ranking leaves out, which no other met there
            met[block[places, columns], columns] = squares[places, columns]
            for i in range(n):
                off[i] += np.minimum(met[i], met).sum(1)
        off *= weights[:, None] * weights[None, :]
        np.fill_diagonal(off, 0.0)
    information = np.diag(off.sum(1) + alpha * n * weights) - off
    found: Array = np.sqrt(np.clip(np.diag(np.linalg.pinv(information, hermitian=True)), 0.0, None))
    return found


def strong_components(beats: Array) -> list[list[int]]:
    """Sets of items between which wins lead both ways, each ascending, in the order of their first items.

    Args:
        beats: (n, n) bool, whether the row's item ever won against the column's.

    Returns:
        lists of items.

    Raises:
        ValueError: for a matrix that is not square.

    Example:
        >>> strong_components(np.array([[0, 1, 1], [1, 0, 1], [0, 0, 0]], dtype=bool))
        [[0, 1], [2]]
    """
    edges = np.asarray(beats, dtype=bool)
    checks.require(edges.ndim == 2 and len(edges) == edges.shape[1], f"beats must be square: got shape {edges.shape}.")
    left, found = np.ones(len(edges), dtype=bool), []
    while left.any():
        first = int(left.argmax())
        mutual = _reached(edges, first) & _reached(edges.T, first)
        found.append(np.flatnonzero(mutual).tolist())
        left &= ~mutual
    return found


class _Seen:
    """Checked observations: wins, or rankings padded with -1."""

    def __init__(self, rankings: Rankings | None, wins: Array | None, items: int | None) -> None:
        checks.require((rankings is None) != (wins is None), "give either rankings or wins.")
        self.wins: Array | None = None
        self.rankings = np.empty((0, 0), dtype=np.int64)
        if wins is not None:
            table = np.array(wins, dtype=np.float64)
            checks.require(
                table.ndim == 2 and len(table) == table.shape[1] > 0, f"wins must be square: got shape {table.shape}."
            )
            checks.finite("wins", table)
            checks.require(bool((table >= 0).all()), f"wins must be counts, at least 0: got {table.min()}.")
            np.fill_diagonal(table, 0.0)
            self.wins, self.items = table, len(table)
            same = items is None or items == len(table)
            checks.require(same, f"items must be those of wins: {len(table)}, got {items}.")
            return
        assert rankings is not None
        self.rankings = _padded(rankings)
        most = int(self.rankings.max(initial=-1)) + 1
        self.items = most if items is None else items
        checks.require(self.items > 0, "rankings must hold at least one item.")
        checks.require(most <= self.items, f"rankings must hold items below {self.items}: got {most - 1}.")

    @functools.cached_property
    def blocks(self) -> list[Array]:
        """Rankings as columns, best first, a bounded number in each block: sums along them then add whole rows."""
        step = max(1, _BLOCK // max(1, self.items, self.rankings.shape[1]))
        starts = range(0, len(self.rankings), step)
        return [np.ascontiguousarray(self.rankings[start : start + step].T) for start in starts]

    @functools.cached_property
    def won(self) -> Array:
        """(n,) choices that each item won."""
        return np.bincount(self.rankings[:, :-1][self.rankings[:, 1:] >= 0], minlength=self.items)


def _padded(rankings: Rankings) -> Array:
    if isinstance(rankings, np.ndarray) and rankings.ndim == 2:
        checks.require(rankings.dtype.kind in "iu", f"rankings must hold integers: got {rankings.dtype}.")
        table = rankings.astype(np.int64)
    else:
        lengths = np.array([len(row) for row in rankings], dtype=np.int64)
        table = np.full((len(lengths), lengths.max(initial=0)), -1, dtype=np.int64)
        listed = np.fromiter((i for row in rankings for i in row), np.int64)
        table[np.arange(table.shape[1]) < lengths[:, None]] = listed
    short = (table < 0).cumsum(1) > 0
    checks.require(
        bool(((table >= 0) | (table == -1)).all()) and not bool((short & (table >= 0)).any()),
        "rankings must hold item numbers from 0, with -1 only after the last of a ranking.",
    )
    ordered = np.sort(table, axis=1)
    twice = ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any(1)
    first = int(twice.argmax()) if len(twice) else 0
    checks.require(not bool(twice.any()), f"rankings must name an item once: ranking {first} repeats one.")
    return table


def _stages(block: Array, weights: Array) -> Array:
    """For each place one over the sum of the weights that are left, 0 where nothing else is left."""
    left = np.cumsum(np.append(weights, 0.0).take(block[::-1]), axis=0)[::-1]
    rates = np.zeros_like(left)
    np.divide(1.0, left[:-1], out=rates[:-1], where=block[1:] >= 0)
    return rates


def _chain_step(seen: _Seen, weights: Array, alpha: float) -> Array:
    """The stationary distribution of the chain from losers to winners, at rates by the weights so far."""
    n = seen.items
    if seen.wins is not None:
        rates = seen.wins.T / (weights[:, None] + weights[None, :])
    else:
        # From each loser to the winner of its stage; places after the last have a number of their own, dropped below.
        flat = np.zeros((n + 1) ** 2)
        for block in seen.blocks:
            each, items = _stages(block, weights), block + 1
            for place in range(len(items) - 1):
                pairs = items[place + 1 :] * (n + 1) + items[place]
                rate = np.broadcast_to(each[place], pairs.shape)
                flat += np.bincount(pairs.ravel(), weights=rate.ravel(), minlength=len(flat))
        rates = flat.reshape(n + 1, n + 1)[1:, 1:]
    rates = rates + alpha
    np.fill_diagonal(rates, 0.0)
    balance = rates.T - np.diag(rates.sum(1))
    balance[0] = 1.0
    target = np.zeros(n)
    target[0] = n
    found: Array = np.linalg.solve(balance, target)
    return np.clip(found, np.finfo(np.float64).tiny, None)


def _minorise_step(seen: _Seen, weights: Array, alpha: float) -> Array:
    """Wins over expected chances to win, at the weights so far."""
    n = seen.items
    if seen.wins is not None:
        games = seen.wins + seen.wins.T
        won, chances = seen.wins.sum(1), (games / (weights[:, None] + weights[None, :])).sum(1)
    else:
        won, chances = seen.won, np.zeros(n)
        for block in seen.blocks:
            expected = np.cumsum(_stages(block, weights), axis=0)
            # Places after the last of a ranking are told apart by a number of their own, dropped at once.
            chances += np.bincount((block + 1).ravel(), weights=expected.ravel(), minlength=n + 1)[1:]
    new = (won + alpha * n) / np.where(chances + alpha * n > 0, chances + alpha * n, 1.0)
    scaled: Array = new * (n / new.sum())
    return scaled


def _require_connected(seen: _Seen) -> None:
    """Refuse items that have no finite strength, and say which."""
    if seen.wins is not None:
        beats = seen.wins > 0
    else:
        beats = np.zeros((seen.items, seen.items), dtype=bool)
        before, after = seen.rankings[:, :-1], seen.rankings[:, 1:]
        beats[before[after >= 0], after[after >= 0]] = True  # what follows from others need not be listed
    parts = strong_components(beats)
    if len(parts) == 1:
        return
    # Of the parts' graph, which has no cycle, at least one part has no way in from outside.
    top = next(part for part in parts if not np.delete(beats[:, part].any(1), part).any())
    shown = ", ".join(str(i) for i in top[:5]) + (", ..." if len(top) > 5 else "")
    raise ValueError(
        f"items must be connected by wins in both directions: they fall into {len(parts)} parts, and nothing outside "
        f"ever beats part [{shown}]; give alpha > 0, or rank the parts apart."
    )


def _reached(edges: Array, start: int) -> Array:
    """Items that a path from ``start`` leads to, itself included."""
    reached = np.zeros(len(edges), dtype=bool)
    reached[start], border = True, np.array([start])
    while len(border) > 0:
        new = edges[border].any(0) & ~reached
        reached |= new
        border = np.flatnonzero(new)
    return reached
