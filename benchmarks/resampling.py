"""SMOTE, Borderline-SMOTE and ADASYN beside imbalanced-learn: seconds, peak memory, and whether the rows are the same.

    python benchmarks/resampling.py                       # 200,000 x 64, a tenth of them of the small class
    python benchmarks/resampling.py --rows 50000 --dim 384 --dtype float32 --threads 1

Rows are drawn around centres, those of the small class a little apart, and both libraries bring it to the size of the
large one from the same seed. A cell is a process of its own; memory is what it takes above the rows themselves. Ratios
are imbalanced-learn over Tamis.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from typing import Any

import measure
import numpy as np

METHODS = ("SMOTE", "BorderlineSMOTE", "ADASYN")


def table(rows: int, dim: int, share: float, dtype: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    rng = np.random.default_rng(0)
    labels = (rng.random(rows) < share).astype(np.int64)
    centres = rng.normal(size=(20, dim))
    data = centres[rng.integers(20, size=rows)] + rng.normal(size=(rows, dim))
    data[labels == 1] += 0.1
    return data.astype(dtype), labels


def cell(*, library: str, method: str, rows: int, dim: int, share: float, dtype: str, threads: int) -> dict[str, Any]:
    """Seconds and memory of one resampling, and a digest of the rows."""
    measure.set_threads(threads)
    if library == "tamis":
        import tamis.subsets as home
    else:
        import imblearn.over_sampling as home
    sampler = getattr(home, method)
    sampler(random_state=0).fit_resample(*table(6000, dim, 0.3, dtype))  # what is loaded and made once
    X, y = table(rows, dim, share, dtype)
    with measure.PeakMemory() as memory, measure.Timer() as timer:
        more, labels = sampler(random_state=0).fit_resample(X, y)
    digest = hashlib.sha256(np.ascontiguousarray(more).tobytes() + labels.tobytes()).hexdigest()
    return {
        "cpu": timer.cpu, "wall": timer.wall, "megabytes": memory.above, "digest": digest,
        "few": int(y.sum()), "result": more.nbytes / 1e6,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--share", type=float, default=0.1, help="of the small class")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float64")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    chosen = parser.parse_args()
    print(measure.machine())
    print(f"\n{chosen.rows:,} x {chosen.dim} {chosen.dtype}, {chosen.share:.0%} small, {chosen.threads} threads\n")
    print("| | CPU ratio | wall ratio | memory ratio | CPU s | wall s | peak MB | result MB | same rows |")
    print("|---|---|---|---|---|---|---|---|---|")
    for method in chosen.methods:
        own, peer = (
            measure.run_cell(
                __file__, library=library, method=method, rows=chosen.rows, dim=chosen.dim, share=chosen.share,
                dtype=chosen.dtype, threads=chosen.threads,
            )
            for library in ("tamis", "imbalanced-learn")
        )  # fmt: skip
        if "error" in own or "error" in peer:
            print(f"| {method} | {own.get('error', '')} {peer.get('error', '')} |", flush=True)
            continue
        ratios = " | ".join(f"{peer[key] / own[key]:.1f}" for key in ("cpu", "wall", "megabytes"))
        pairs = " | ".join(f"{own[key]:,.{digits}f} / {peer[key]:,.{digits}f}" for key, digits in
                           (("cpu", 2), ("wall", 2), ("megabytes", 0)))  # fmt: skip
        same = "yes" if own["digest"] == peer["digest"] else "no"
        print(f"| {method} | {ratios} | {pairs} | {own['result']:,.0f} | {same} |", flush=True)


if __name__ == "__main__":
    if measure.is_cell():
        measure.report(cell(**measure.cell_arguments()))
    else:
        sys.exit(main())
