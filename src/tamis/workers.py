"""Workers: parts of one job side by side, each on processor threads of its own.

Torch splits every operation over its threads and waits for the slowest of them. A job of many short operations then
spends its time waiting as soon as anything else runs on the machine. Parts that share nothing, each with its share of
the threads, need not wait for one another before the end.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed

import torch


def side_by_side(work: Callable[[int, int], Iterable[object]], size: int, parts: int) -> None:
    """Run ``work`` on parts of ``range(size)`` in threads, each with an equal share of torch's threads.

    Args:
        work: called with (start, stop); whenever it yields it may be stopped, because another part has failed.
        size: what is divided.
        parts: how many parts; one runs in the thread of the caller.

    Raises:
        BaseException: the first that a part raises, once all have stopped.

    Example:
        >>> seen = []
        >>> side_by_side(lambda start, stop: [seen.append((start, stop))], 10, 2)
        >>> sorted(seen)
        [(0, 5), (5, 10)]
    """
    if parts <= 1:
        for _ in work(0, size):
            pass
        return
    threads, stopped = torch.get_num_threads(), threading.Event()
    share = max(1, threads // parts)

    def run(part: int) -> None:
        torch.set_num_threads(share)  # the caller's own number stays what it is
        for _ in work(size * part // parts, size * (part + 1) // parts):
            if stopped.is_set():
                return

    with ThreadPoolExecutor(parts) as pool:
        try:
            for done in as_completed([pool.submit(run, part) for part in range(parts)]):
                done.result()
        except BaseException:
            stopped.set()
            raise
        finally:
            torch.set_num_threads(threads)  # for threads that start later
