"""Clustering beside its neighbours: balanced bisection alone, k-means beside scikit-learn and FAISS at equal inertia.

    python benchmarks/clustering.py             # 200,000 x 64 rows, 1,000 clusters; bisection of 1,000,000 x 256
    python benchmarks/clustering.py --rows 50000 --clusters 200 --bisect-rows 100000

Rows are drawn around as many centres as there are clusters. Each k-means runs in a process of its own with its default
settings; ours then gets the fewest rounds after which its inertia is no higher, so the ratio compares equal results.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import measure
import numpy as np

ROUNDS = (1, 2, 3, 4, 6, 8, 12, 16, 25, 50, 100)


def rows_of(rows: int, dim: int, centres: int) -> np.ndarray[Any, Any]:
    """(rows, dim) float32 around centres of one spread."""
    rng = np.random.default_rng(0)
    middle = rng.standard_normal((centres, dim), dtype=np.float32)
    points = middle[rng.integers(centres, size=rows)]
    points += np.float32(0.7) * rng.standard_normal((rows, dim), dtype=np.float32)
    return points


def cell(*, kind: str, rows: int, dim: int, clusters: int, rounds: int, threads: int) -> dict[str, float]:
    """Seconds, memory and inertia of one clustering."""
    measure.set_threads(threads)
    points = rows_of(rows, dim, clusters)
    with measure.PeakMemory() as memory, measure.Timer() as timer:
        if kind == "tamis bisection":
            from tamis.clustering import balanced_bisect

            labels = balanced_bisect(points, cluster_size=clusters)
            sizes = np.bincount(labels)
        elif kind == "tamis":
            from tamis.clustering import kmeans

            centroids = kmeans(points, clusters, iterations=rounds).centroids
        elif kind == "scikit-learn MiniBatchKMeans":
            from sklearn.cluster import MiniBatchKMeans

            centroids = MiniBatchKMeans(clusters, random_state=0, n_init=1).fit(points).cluster_centers_
        else:
            import faiss

            found = faiss.Kmeans(dim, clusters, niter=25, seed=1234)
            found.train(points)
            centroids = found.centroids
    result = {"wall": timer.wall, "cpu": timer.cpu, "megabytes": memory.above}
    if kind == "tamis bisection":
        return result | {"largest": int(sizes.max()), "smallest": int(sizes.min()), "clusters": len(sizes)}
    return result | {"inertia": inertia_of(points, np.asarray(centroids, np.float32))}


def inertia_of(points: np.ndarray[Any, Any], centroids: np.ndarray[Any, Any]) -> float:
    """Sum of squared distances to the nearest centroid, the same for all."""
    half, total = (centroids**2).sum(1) / 2, 0.0
    for start in range(0, len(points), 4096):
        block = points[start : start + 4096]
        nearest = (half - block @ centroids.T).argmin(1)
        total += float(((block - centroids[nearest]).astype(np.float64) ** 2).sum())
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--clusters", type=int, default=1000)
    parser.add_argument("--bisect-rows", type=int, default=1_000_000)
    parser.add_argument("--bisect-dim", type=int, default=256)
    parser.add_argument("--cluster-size", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args()
    print(measure.machine())
    setting = {"rows": chosen.rows, "dim": chosen.dim, "clusters": chosen.clusters, "threads": chosen.threads}
    print(f"\nk-means, {chosen.rows:,} x {chosen.dim}, k = {chosen.clusters:,}, {chosen.threads} threads\n")
    print("| neighbour | its CPU s | tamis CPU s at equal inertia | times less | rounds | its inertia | tamis |")
    print("|---|---|---|---|---|---|---|")
    ours: dict[int, dict[str, Any]] = {}
    for kind in ("scikit-learn MiniBatchKMeans", "faiss.Kmeans"):
        theirs = measure.run_cell(__file__, kind=kind, rounds=0, **setting)
        if "error" in theirs:
            print(f"| {kind} | {theirs['error']} |", flush=True)
            continue
        for rounds in ROUNDS:
            if rounds not in ours:
                ours[rounds] = measure.run_cell(__file__, kind="tamis", rounds=rounds, **setting)
            if ours[rounds]["inertia"] <= theirs["inertia"]:
                break
        got = ours[rounds]
        reached = "" if got["inertia"] <= theirs["inertia"] else " (not reached)"
        print(
            f"| {kind} | {theirs['cpu']:.1f} | {got['cpu']:.1f} | **{theirs['cpu'] / got['cpu']:.1f}**{reached} | "
            f"{rounds} | {theirs['inertia']:.4g} | {got['inertia']:.4g} |",
            flush=True,
        )
    rows, dim, size = chosen.bisect_rows, chosen.bisect_dim, chosen.cluster_size
    found = measure.run_cell(
        __file__, kind="tamis bisection", rows=rows, dim=dim, clusters=size, rounds=0, threads=chosen.threads
    )
    print(f"\nBalanced bisection of {rows:,} x {dim} into clusters of {size}: {found}")


if __name__ == "__main__":
    if measure.is_cell():
        measure.report(cell(**measure.cell_arguments()))
    else:
        sys.exit(main())
