"""Reranking: drive a listwise reranker over a list that is longer than what it can read at once."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TypeVar

from tamis import checks

Item = TypeVar("Item")


def sliding_window_rerank(
    order_fn: Callable[[Sequence[Item]], Sequence[int]], items: Sequence[Item], *, window: int = 10, step: int = 5
) -> list[Item]:
    """Rerank in windows that slide from the end of the list to its head.

    The driver of CodeRankLLM (and of RankGPT before it): each window is put in order and the next one begins ``step``
    places nearer to the head, so that one pass carries the best ``window - step`` items of the list to its head.

    Args:
        order_fn: puts a window in order: gets up to ``window`` items, returns their places, best first.
        items: (n,) the list, best first by the first stage.
        window: items that the reranker reads at once.
        step: places by which the window moves, at most ``window``.

    Returns:
        (n,) the items in their new order.

    Raises:
        ValueError: for settings out of range, or an order that is not a permutation of the window.

    Example:
        >>> best_first = lambda window: sorted(range(len(window)), key=lambda place: -window[place])
        >>> sliding_window_rerank(best_first, range(20))[:6]
        [19, 18, 17, 16, 15, 4]
    """
    checks.at_least("step", step, 1)
    checks.at_least("window", window, step)
    ordered = list(items)
    stop = len(ordered)
    while stop > 0:
        start = max(0, stop - window)
        part = ordered[start:stop]
        order = [int(place) for place in order_fn(part)]
        checks.require(
            sorted(order) == list(range(len(part))),
            f"order_fn must return every place of its window once, 0 to {len(part) - 1}: got {order}; "
            "parse_listwise mends what a model writes.",
        )
        ordered[start:stop] = [part[place] for place in order]
        stop = 0 if start == 0 else stop - step
    return ordered


def parse_listwise(text: str, size: int) -> list[int]:
    """Read the order that a listwise reranker wrote, such as ``[3] > [1] > [2]``, as places from 0.

    Args:
        text: what the model wrote; numbers in brackets count from 1.
        size: how many items it was shown.

    Returns:
        (size,) places, best first: repeated numbers and numbers that were not shown are passed over, items that it
        left out follow in their old order.

    Example:
        >>> parse_listwise("[3] > [1] > [3] > [9]", 4)
        [2, 0, 1, 3]
    """
    named = (int(number) - 1 for number in re.findall(r"\[(\d+)\]", text))
    order = list(dict.fromkeys(place for place in named if 0 <= place < size))
    return order + [place for place in range(size) if place not in set(order)]
