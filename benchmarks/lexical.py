"""BM25 of ours beside bm25s' own retrieval, on the index that bm25s builds in both.

    python benchmarks/lexical.py [--passages 200000] [--queries 5000] [--k 100]

Texts are draws from a Zipf law over 50,000 words, passages of 40 words and queries of 8. Both search one thread wide;
every search runs in a process of its own. Scores must agree rank by rank.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import measure
import numpy as np

SEARCHES = {"bm25s": "bm25s.retrieve", "tamis": "tamis.lexical.LexicalIndex.top_k"}


def texts(count: int, words: int, seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    weight = 1 / np.arange(1, 50_001)
    drawn = rng.choice(50_000, (count, words), p=weight / weight.sum())
    return [" ".join(f"w{w}" for w in row) for row in drawn.tolist()]


def cell(*, search: str, passages: int, queries: int, k: int, folder: str, threads: int) -> dict[str, Any]:
    """Seconds of building and of searching, and memory above the texts."""
    import bm25s

    from tamis.lexical import LexicalIndex

    measure.set_threads(threads)
    corpus, asked = texts(passages, 40, 0), texts(queries, 8, 1)
    with measure.PeakMemory() as memory:
        with measure.Timer() as build:
            if search == "tamis":
                index = LexicalIndex(corpus)
            else:
                index = bm25s.BM25()
                index.index(bm25s.tokenize(corpus, show_progress=False), show_progress=False)
        with measure.Timer() as timer:
            if search == "tamis":
                scores = index.top_k(asked, k)[0]
            else:
                tokens = bm25s.tokenize(asked, show_progress=False)
                scores = index.retrieve(tokens, k=k, show_progress=False, n_threads=1).scores
    np.save(Path(folder) / f"{search}.npy", np.where(np.isfinite(scores), scores, 0))
    return {"build": build.cpu, "cpu": timer.cpu, "wall": timer.wall, "mb": memory.above}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passages", type=int, default=200_000)
    parser.add_argument("--queries", type=int, default=5_000)
    parser.add_argument("--k", type=int, default=100)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        got = {
            name: measure.run_cell(__file__, threads=1, search=name, folder=folder, **vars(options))
            for name in SEARCHES
        }
        one, other = (np.load(Path(folder) / f"{name}.npy") for name in SEARCHES)
    print(measure.machine())
    print(f"{got['bm25s']['cpu'] / got['tamis']['cpu']:.1f}x less CPU time than bm25s")
    print(f"largest difference of scores: {np.abs(one - other).max():.2g}")
    for name, what in SEARCHES.items():
        row = got[name]
        print(f"{what:34} build {row['build']:6.2f} CPU s, search {row['cpu']:6.2f} CPU s, {row['mb']:,.0f} MB above")


if __name__ == "__main__":
    if measure.is_cell():
        measure.report(cell(**measure.cell_arguments()))
    else:
        main()
