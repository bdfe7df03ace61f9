"""Exact search, side by side with sentence-transformers and FAISS in one run, and with the machine's own products.

    python benchmarks/search.py                              # 2,000 x 50,000 x 384
    python benchmarks/search.py --full --threads 2           # 20,000 x 200,000 x 384, needs about 6 GB

Passages lie in clusters of twenty and a query is a noisy copy of its positive, as in `mining.py`. Every search runs in
a process of its own and returns the k best passages of every query. Picks are equal when the index is the same or the
score is, to a millionth. The rates are the best of several shapes; shares say how much of that rate a search reaches.
CPU seconds of one thread compare on a busy machine, wall seconds need a calm one.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import measure
import mining
import numpy as np
import torch

DIMENSIONS = mining.DIMENSIONS


def search_tamis(q: np.ndarray, p: np.ndarray, k: int) -> np.ndarray:
    from tamis import search

    return search.top_k(q, p, k)[1]


def search_sbert(q: np.ndarray, p: np.ndarray, k: int) -> np.ndarray:
    from sentence_transformers.util import dot_score, semantic_search

    hits = semantic_search(
        torch.from_numpy(q), torch.from_numpy(p), query_chunk_size=1024, corpus_chunk_size=len(p), top_k=k,
        score_function=dot_score,
    )  # fmt: skip
    return np.array([[hit["corpus_id"] for hit in row] for row in hits])


def search_matrix(q: np.ndarray, p: np.ndarray, k: int) -> np.ndarray:
    """What the matrix path of `mine_hard_negatives` does, without the dictionaries of `semantic_search`."""
    from sentence_transformers.util import dot_score

    passages, found = torch.from_numpy(p), []
    for start in range(0, len(q), 1024):
        found.append(dot_score(torch.from_numpy(q[start : start + 1024]), passages).topk(k).indices)
    return torch.cat(found).numpy()


def search_faiss(q: np.ndarray, p: np.ndarray, k: int) -> np.ndarray:
    import faiss

    index = faiss.IndexFlatIP(p.shape[1])
    index.add(p)
    return np.concatenate([index.search(q[start : start + 16_384], k)[1] for start in range(0, len(q), 16_384)])


SEARCHES = {"tamis": search_tamis, "sbert_matrix": search_sbert, "matrix": search_matrix, "faiss": search_faiss}
CELLS = {
    "tamis": "tamis.search.top_k",
    "matrix": "sentence-transformers, matrix path, chunk 1,024",
    "sbert_matrix": "sentence-transformers semantic_search, chunk 1,024",
    "faiss": "FAISS flat index, the FAISS path's search",
}


def integer_rate(repeats: int = 20) -> float:
    """The best rate of int8 products, 0 where torch has none."""
    from tamis.rounding import int8_is_faster, integer_products

    best = 0.0
    for rows, others in ((256, 2048), (512, 2048), (512, 4096), (1024, 2048)) if int8_is_faster("cpu") else ():
        left, right = (torch.randint(-127, 128, (n, DIMENSIONS), dtype=torch.int8) for n in (rows, others))
        out = torch.empty(rows, others, dtype=torch.int32)
        for _ in range(repeats + 1):
            with measure.Timer() as timer:
                integer_products(left, right, out=out)
            best = max(best, 2 * rows * others * DIMENSIONS / timer.wall)
    return best


def cell(name: str, queries: int, passages: int, k: int, threads: int, repeats: int, folder: str) -> dict[str, Any]:
    measure.set_threads(threads)
    if name == "rates":
        rates = {str(kind): measure.product_rate(kind, DIMENSIONS) for kind in (torch.float32, torch.bfloat16)}
        return {key.removeprefix("torch."): rate for key, rate in rates.items()} | {"int8": integer_rate()}
    q, p = (np.load(Path(folder) / f"{side}.npy", mmap_mode=None) for side in "qp")
    if name == "compare":
        return {other: equal_picks(q, p, Path(folder), other) for other in CELLS if other != "tamis"}
    search = SEARCHES[name]
    search(q[:64], p[:4096], k)  # what is set up or measured once is not timed
    wall, cpu, memory = [], [], 0.0
    for _ in range(repeats):
        with measure.PeakMemory() as peak, measure.Timer() as timer:
            found = search(q, p, k)
        wall, cpu, memory = [*wall, timer.wall], [*cpu, timer.cpu], max(memory, peak.above)
    np.save(Path(folder) / f"{name}.npy", found)
    return {"wall": min(wall), "cpu": min(cpu), "memory": memory}


def equal_picks(q: np.ndarray, p: np.ndarray, folder: Path, other: str) -> float:
    """Share of picks that are the neighbour's, rank by rank; two passages of one score count as equal."""
    ours, theirs = np.load(folder / "tamis.npy"), np.load(folder / f"{other}.npy")
    rows, ranks = np.nonzero(ours != theirs)
    a, b = (np.einsum("md,md->m", q[rows].astype(np.float64), p[picks[rows, ranks]]) for picks in (ours, theirs))
    return 1.0 - float((np.abs(a - b) > 1e-6).sum()) / ours.size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="20,000 x 200,000")
    parser.add_argument("--queries", type=int, default=2000)
    parser.add_argument("--passages", type=int, default=50_000)
    parser.add_argument("--k", type=int, default=mining.DEPTH, help="passages per query")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3, help="runs per search; the fastest counts")
    parser.add_argument("--only", nargs="*", default=list(CELLS), choices=list(CELLS), help="searches to run")
    options = parser.parse_args()
    queries, passages = (20_000, 200_000) if options.full else (options.queries, options.passages)
    size = {"queries": queries, "passages": passages, "k": options.k}
    size |= {"threads": options.threads, "repeats": options.repeats}
    print(f"{measure.machine()}, {options.threads} threads")
    print(f"{queries:,} queries x {passages:,} passages x {DIMENSIONS}, {options.k} best, {options.repeats} run(s)\n")
    with tempfile.TemporaryDirectory() as folder:
        for side, rows in zip("qp", mining.vectors(queries, passages), strict=True):
            np.save(Path(folder) / f"{side}.npy", rows)
        before = measure.run_cell(__file__, name="rates", folder=folder, **size)
        results = {name: measure.run_cell(__file__, name=name, folder=folder, **size) for name in options.only}
        after = measure.run_cell(__file__, name="rates", folder=folder, **size)
        whole = set(options.only) == set(CELLS)
        equal = measure.run_cell(__file__, name="compare", folder=folder, **size) if whole else {}
    ours = results["tamis"]
    for name, row in results.items():
        if name != "tamis" and "error" not in row:
            ratio = f"{row['wall'] / ours['wall']:.2f} x the time of Tamis ({row['cpu'] / ours['cpu']:.2f} x CPU)"
            print(f"{CELLS[name]}: {ratio}, picks equal {equal.get(name, float('nan')):.4%}")
    for kind in ("int8", "bfloat16", "float32"):
        rate = max(before[kind], after[kind])
        if rate > 0:
            seconds = 2 * queries * passages * DIMENSIONS / rate
            print(
                f"share of the machine's {kind} product rate ({rate / 1e9:.0f} GFLOP/s, {seconds:.2f} s): "
                f"{seconds / ours['wall']:.1%} of wall, {options.threads * seconds / ours['cpu']:.1%} of CPU"
            )
    print()
    for name, row in results.items():
        numbers = "{wall:8.2f} s {cpu:8.2f} CPU s {memory:8.0f} MB above inputs".format(**row) if "wall" in row else row
        print(f"{CELLS[name]:<52} {numbers}")


if __name__ == "__main__":
    if measure.is_cell():
        measure.report(cell(**measure.cell_arguments()))
    else:
        main()
