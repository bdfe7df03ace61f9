"""Near-duplicate removal beside semhash on the same embeddings, and beside datasketch's MinHash LSH on the same texts.

    python benchmarks/near_duplicates.py [--rows 100000] [--threshold 0.9] [--texts 20000] [--threads 1] [--no-check]

Texts of thirty words drawn by Zipf's law, a fifth of them copies of another with two words changed, under a static
embedding (the mean of one fixed random vector a word), 256 dimensions. Both start from the same embeddings: semhash
builds its index and removes duplicates, Tamis does the same exactly. A third cell takes every row in turn against all
kept rows in plain NumPy blocks; both are held against its rows. For texts, both start from the same lists.
"""

from __future__ import annotations

import argparse
from importlib.metadata import version
from typing import Any

import measure
import numpy as np

from tamis.subsets import drop_near_duplicates

WORDS, VOCABULARY, DIMENSIONS = 30, 20_000, 256


def tokens(rows: int) -> np.ndarray:
    """(rows, 30) numbers of words; the last fifth copies rows before it with two words changed."""
    rng = np.random.default_rng(0)
    weight = 1 / np.arange(1, VOCABULARY + 1)
    weight /= weight.sum()
    fresh = int(rows * 0.8)
    drawn = rng.choice(VOCABULARY, (fresh, WORDS), p=weight)
    copies = drawn[rng.integers(fresh, size=rows - fresh)].copy()
    for column in rng.integers(WORDS, size=(2, rows - fresh)):
        copies[np.arange(rows - fresh), column] = rng.choice(VOCABULARY, rows - fresh, p=weight)
    return np.concatenate([drawn, copies])


def texts(rows: int) -> list[str]:
    return [" ".join(f"w{word}" for word in row) for row in tokens(rows)]


def embeddings(rows: int) -> np.ndarray:
    table = np.random.default_rng(1).standard_normal((VOCABULARY, DIMENSIONS), dtype=np.float32)
    table *= np.log1p(np.arange(1, VOCABULARY + 1, dtype=np.float32))[:, None] / 10
    drawn = tokens(rows)
    return np.concatenate([table[drawn[i : i + 4096]].mean(1) for i in range(0, rows, 4096)])


def plain(vectors: np.ndarray, threshold: float) -> np.ndarray:
    """The rows kept, row by row, from blocks of a matrix product."""
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    kept = np.ones(len(units), bool)
    for start in range(0, len(units), 2048):
        block = units[start : start + 2048]
        hit = np.zeros(len(block), bool)
        for other in range(0, start, 16_384):
            stop = min(other + 16_384, start)
            hit |= ((block @ units[other:stop].T >= threshold) & kept[other:stop]).any(1)
        inside = np.tril(block @ block.T >= threshold, -1)
        for row in range(len(block)):
            kept[start + row] = not (hit[row] or (inside[row, :row] & kept[start : start + row]).any())
    return np.flatnonzero(kept)


def cell(*, what: str, rows: int, threshold: float, threads: int) -> Any:
    """CPU and wall seconds, memory above the inputs, and the rows kept."""
    measure.set_threads(threads)
    given: Any = texts(rows) if what in ("tamis, texts", "datasketch") else embeddings(rows)
    kept: list[int] = []
    with measure.PeakMemory() as memory, measure.Timer() as timer:
        if what == "tamis":
            kept = drop_near_duplicates(given, threshold=threshold).indices.tolist()
        elif what == "tamis, texts":
            kept = drop_near_duplicates(given, threshold=threshold, size=1).indices.tolist()
        elif what == "plain blocks":
            kept = plain(given, threshold).tolist()
        elif what == "semhash":
            from semhash import SemHash

            index = SemHash.from_embeddings(given, [str(i) for i in range(rows)], model=None)
            kept = [int(record) for record in index.self_deduplicate(threshold=threshold).selected]
        else:
            from datasketch import MinHash, MinHashLSH

            index = MinHashLSH(threshold=threshold, num_perm=128)
            for i, text in enumerate(given):
                sketch = MinHash(num_perm=128)
                sketch.update_batch([word.encode() for word in set(text.split())])
                if not index.query(sketch):
                    index.insert(str(i), sketch)
                    kept.append(i)
    return {"cpu": timer.cpu, "wall": timer.wall, "mb": memory.above, "kept": kept}


def table(names: list[str], rows: int, threshold: float, threads: int, title: str) -> None:
    found = {n: measure.run_cell(__file__, what=n, rows=rows, threshold=threshold, threads=threads) for n in names}
    print(f"\n{title}")
    ours = found[names[0]]
    for name, row in found.items():
        if name != names[0] and "error" not in row and "error" not in ours:
            ratios = f"{row['cpu'] / ours['cpu']:.1f}x less CPU time, {row['wall'] / ours['wall']:.1f}x less wall time"
            print(f"{ratios} than {name}; kept sets differ in {len(set(row['kept']) ^ set(ours['kept'])):,} rows")
    print(f"{'':14} {'CPU s':>8} {'wall s':>8} {'MB above':>9} {'kept':>9}")
    for name, row in found.items():
        if "error" in row:
            print(f"{name:14} {row['error']}")
            continue
        print(f"{name:14} {row['cpu']:8.2f} {row['wall']:8.2f} {row['mb']:9.1f} {len(row['kept']):9,}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--threshold", type=float, default=0.9)
    parser.add_argument("--texts", type=int, default=20_000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-check", action="store_true", help="without the plain blocks")
    options = parser.parse_args()
    names = ["tamis", "semhash", *([] if options.no_check else ["plain blocks"])]
    title = f"{options.rows:,} embeddings x {DIMENSIONS}, cosine >= {options.threshold:g}"
    table(names, options.rows, options.threshold, options.threads, title)
    title = f"{options.texts:,} texts, Jaccard of words >= 0.7"
    table(["tamis, texts", "datasketch"], options.texts, 0.7, options.threads, title)
    peers = ", ".join(f"{name} {version(name)}" for name in ("semhash", "datasketch"))
    print(f"\n{measure.machine()}, {peers}, threads {options.threads}")


if __name__ == "__main__":
    if measure.is_cell():
        measure.report(cell(**measure.cell_arguments()))
    else:
        main()
