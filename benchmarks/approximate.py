"""Approximate search against the exact one: CPU seconds and recall, by how many lists a query looks into.

    python benchmarks/approximate.py                                        # 500 x 20,000 x 64
    python benchmarks/approximate.py --queries 2000 --passages 500000 --dimensions 384 --probes 8 32 128

Passages lie in clusters of twenty and a query is a noisy copy of one, as in `mining.py`. Seconds are those of all
threads together, the best of three, and hold the building of the index and the exact search of the sample; the recall
is that of all queries, next to the interval that the sample of 200 gave.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from tamis import approximate, search


def vectors(queries: int, passages: int, dimensions: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((-(-passages // 20), dimensions), dtype=np.float32)
    p = np.repeat(centres, 20, 0)[:passages] + 0.5 * rng.standard_normal((passages, dimensions), dtype=np.float32)
    q = p[rng.integers(0, passages, queries)] + 0.5 * rng.standard_normal((queries, dimensions), dtype=np.float32)
    return tuple(x / np.linalg.norm(x, axis=1, keepdims=True) for x in (q, p))  # type: ignore[return-value]


def timed(work: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """CPU seconds, the least of several, and what came out."""
    seconds, out = [], None
    for _ in range(repeats):
        start = time.process_time()
        out = work()
        seconds.append(time.process_time() - start)
    return min(seconds), out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("queries", 500), ("passages", 20_000), ("dimensions", 64), ("depth", 200), ("repeats", 3)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--probes", type=int, nargs="*", default=[], help="besides the default")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    q, p = vectors(asked.queries, asked.passages, asked.dimensions, asked.seed)
    seconds, (_, exact) = timed(lambda: search.top_k(q, p, asked.depth), asked.repeats)
    print(f"exact{seconds:>32.2f} s")
    for probes in (None, *asked.probes):
        seconds, (_, found, recall) = timed(
            lambda probes=probes: approximate.top_k(q, p, asked.depth, probes=probes, seed=asked.seed), asked.repeats
        )
        hits = [len(np.intersect1d(one, two)) for one, two in zip(exact, found, strict=True)]
        low, high = recall.interval
        print(
            f"{recall.probes:>5,} of {recall.lists:,} lists{seconds:>18.2f} s   "
            f"recall {np.mean(hits) / asked.depth:.3f} (sample: {recall.rate:.3f}, {low:.3f} to {high:.3f})"
        )


if __name__ == "__main__":
    main()
