"""Semantic de-duplication and density-based pruning of a file of vectors, beside k-means of scikit-learn and NumPy.

    python benchmarks/pruning.py                      # 1,000,000 x 256
    python benchmarks/pruning.py --rows 100000 --duplicate-clusters 105

Rows are drawn around centres of different widths, a tenth of them again with a little noise, and written to a .npy file
that every cell opens as a memory map. ``semantic_dedup`` finds the noisy copies, ``DensityPruner`` keeps 30 % of the
rest. The baseline does the same in the plain way: ``MiniBatchKMeans`` on the rows in memory, cosines of each cluster at
once, and quotas and selection in NumPy. A cell is a process of its own; memory is what it takes above the map.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import measure
import numpy as np

Array = np.ndarray[Any, Any]

EPS, KEEP, TEMPERATURE, NEIGHBOURS = 0.02, 0.3, 0.1, 20
BLOCK = 50_000


def write_rows(path: Path, rows: int, dim: int, centres: int) -> Array:
    """Rows around centres, a tenth of them copies with noise; returns which row each is a copy of, -1 for none."""
    rng = np.random.default_rng(0)
    middle = rng.standard_normal((centres, dim), dtype=np.float32)
    width = rng.uniform(0.2, 1.2, centres).astype(np.float32)
    out = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(rows, dim))
    fresh = rows - rows // 10
    for start in range(0, fresh, BLOCK):
        stop = min(start + BLOCK, fresh)
        which = rng.integers(centres, size=stop - start)
        noise = rng.standard_normal((stop - start, dim), dtype=np.float32)
        out[start:stop] = middle[which] + width[which, None] * noise
    source = np.full(rows, -1)
    source[fresh:] = rng.choice(fresh, rows - fresh, replace=False)
    for start in range(fresh, rows, BLOCK):
        stop = min(start + BLOCK, rows)
        original = np.asarray(out[source[start:stop]])
        scale = np.linalg.norm(original, axis=1, keepdims=True) / np.sqrt(dim)
        out[start:stop] = original + 0.05 * scale * rng.standard_normal(original.shape, dtype=np.float32)
    out.flush()
    return source


def cell(*, kind: str, path: str, duplicate_clusters: int, clusters: int, threads: int) -> dict[str, float]:
    """Seconds and memory of both stages, and which rows each dropped."""
    measure.set_threads(threads)
    rows = np.load(path, mmap_mode="r")
    stages = tamis_stages if kind == "tamis" else plain_stages
    with measure.PeakMemory() as memory:
        with measure.Timer() as dedup:
            kept, log_weights = next(running := stages(rows, duplicate_clusters, clusters))
        with measure.Timer() as prune:
            chosen, _ = next(running)
    copies = np.load(Path(path).with_suffix(".source.npy"))
    dropped = np.isneginf(log_weights)
    pairs = copies >= 0
    found = dropped[pairs] | dropped[copies[pairs]]
    return {
        "dedup_cpu": dedup.cpu, "dedup_wall": dedup.wall, "prune_cpu": prune.cpu, "prune_wall": prune.wall,
        "megabytes": memory.above, "kept": len(kept), "chosen": len(chosen), "copies_found": float(found.mean()),
        "others_dropped": float((len(dropped) - len(kept) - found.sum()) / len(dropped)),
    }  # fmt: skip


def tamis_stages(rows: Array, duplicate_clusters: int, clusters: int) -> Any:
    from tamis.subsets import DensityPruner, semantic_dedup

    kept = semantic_dedup(rows, eps=EPS, n_clusters=duplicate_clusters)
    yield kept.indices, kept.log_weights
    pruner = DensityPruner(clusters, budget=KEEP, temperature=TEMPERATURE, n_neighbors=NEIGHBOURS)
    chosen = pruner.fit_select(rows, log_weights=kept.log_weights)
    yield chosen.indices, chosen.log_weights


def plain_stages(rows: Array, duplicate_clusters: int, clusters: int) -> Any:
    from sklearn.cluster import MiniBatchKMeans

    def clustered(units: Array, k: int) -> tuple[Array, Array]:
        found = MiniBatchKMeans(k, random_state=0, n_init=1).fit(units)
        centres = found.cluster_centers_
        return found.labels_, centres / np.linalg.norm(centres, axis=1, keepdims=True)

    units = np.asarray(rows) / np.linalg.norm(rows, axis=1, keepdims=True)
    labels, centres = clustered(units, duplicate_clusters)
    dropped = np.zeros(len(units), dtype=bool)
    for cluster in range(duplicate_clusters):
        members = np.flatnonzero(labels == cluster)
        members = members[np.argsort(units[members] @ centres[cluster], kind="stable")]
        cosine = np.triu(units[members] @ units[members].T, k=1)
        if len(members):
            dropped[members] = cosine.max(axis=0) > 1 - EPS
    kept = np.flatnonzero(~dropped)
    yield kept, np.where(dropped, -np.inf, 0.0)

    rest = units[kept]
    labels, centres = clustered(rest, clusters)
    distance = 1 - np.einsum("nd,nd->n", rest, centres[labels])
    sizes = np.bincount(labels, minlength=clusters)
    intra = np.bincount(labels, distance, minlength=clusters) / np.maximum(sizes, 1)
    inter = 1 - np.sort(centres @ centres.T, axis=1)[:, -NEIGHBOURS - 1 : -1].mean(axis=1)
    share = np.exp(intra * inter / TEMPERATURE)
    total = round(KEEP * len(kept))
    low, high = -float(total), float(total)
    for _ in range(100):
        middle = (low + high) / 2
        quota = np.clip(total * share / share.sum() + middle, np.minimum(1, sizes), sizes)
        low, high = (middle, high) if quota.sum() < total else (low, middle)
    parts = []
    for cluster, count in enumerate(np.rint(quota).astype(int)):
        members = np.flatnonzero(labels == cluster)
        parts.append(members[np.argsort(-distance[members], kind="stable")[:count]])
    yield kept[np.concatenate(parts)], np.zeros(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--duplicate-clusters", type=int, default=333)
    parser.add_argument("--clusters", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=("tamis", "plain"))
    chosen = parser.parse_args()
    print(measure.machine())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.npy"
        np.save(path.with_suffix(".source.npy"), write_rows(path, chosen.rows, chosen.dim, chosen.clusters))
        print(
            f"\n{chosen.rows:,} x {chosen.dim} float32 in a file, {chosen.threads} threads; de-duplication in "
            f"{chosen.duplicate_clusters:,} clusters, pruning to {KEEP:.0%} by {chosen.clusters} clusters\n"
        )
        print("| | de-duplication CPU s | wall s | pruning CPU s | wall s | peak MB | copies found | others dropped |")
        print("|---|---|---|---|---|---|---|---|")
        for kind in ("tamis", "plain") if chosen.only is None else (chosen.only,):
            row = measure.run_cell(
                __file__, kind=kind, path=str(path), duplicate_clusters=chosen.duplicate_clusters,
                clusters=chosen.clusters, threads=chosen.threads,
            )  # fmt: skip
            name = "tamis" if kind == "tamis" else "MiniBatchKMeans and NumPy"
            if "error" in row:
                print(f"| {name} | {row['error']} |", flush=True)
                continue
            print(
                f"| {name} | {row['dedup_cpu']:.1f} | {row['dedup_wall']:.1f} | {row['prune_cpu']:.1f} | "
                f"{row['prune_wall']:.1f} | {row['megabytes']:,.0f} | {row['copies_found']:.1%} | "
                f"{row['others_dropped']:.2%} |",
                flush=True,
            )


if __name__ == "__main__":
    if measure.is_cell():
        measure.report(cell(**measure.cell_arguments()))
    else:
        sys.exit(main())
