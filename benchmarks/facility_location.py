"""Facility location, side by side with apricot and submodlib in one run: the same kernel, budget and value.

    python benchmarks/facility_location.py                     # 10,000 rows, 500 kept
    python benchmarks/facility_location.py --rows 2000 --budget 100

Rows lie around 50 centres; the kernel is their cosines, made beforehand and given to all. Each library runs in a
process of its own, one thread; apricot once before the clock starts, for it compiles. CPU seconds count.
"""

from __future__ import annotations

import argparse
from typing import Any

import measure
import numpy as np

NAMES = {"tamis": "facility_location_greedy", "apricot": "apricot, lazy", "submodlib": "submodlib, LazyGreedy"}


def kernel(rows: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    centres = 3 * rng.standard_normal((50, 64))
    points = centres[rng.integers(50, size=rows)] + rng.standard_normal((rows, 64))
    points = (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)
    return np.maximum(points @ points.T, 0)


def chosen(name: str, similarities: np.ndarray, budget: int) -> np.ndarray:
    if name == "tamis":
        from tamis.subsets import facility_location_greedy

        return facility_location_greedy(similarities=similarities, budget=budget).indices
    if name == "apricot":
        from apricot import FacilityLocationSelection

        selector = FacilityLocationSelection(budget, metric="precomputed", optimizer="lazy")
        return selector.fit(similarities).ranking
    from submodlib import FacilityLocationFunction

    function = FacilityLocationFunction(n=len(similarities), mode="dense", sijs=similarities, separate_rep=False)
    picks = function.maximize(budget=budget, optimizer="LazyGreedy", show_progress=False)
    return np.array([row for row, _ in picks])


def cell(*, name: str, rows: int, budget: int, threads: int) -> dict[str, Any]:
    measure.set_threads(threads)
    similarities = kernel(rows)
    chosen(name, similarities[:200, :200].copy(), 10)
    with measure.PeakMemory() as memory, measure.Timer() as timer:
        picks = chosen(name, similarities, budget)
    value = float(similarities[:, picks].max(1).sum(dtype=np.float64))
    return {"cpu": timer.cpu, "wall": timer.wall, "megabytes": memory.above, "value": value, "rows": len(set(picks))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--budget", type=int, default=500)
    options = parser.parse_args()
    size = {"rows": options.rows, "budget": options.budget, "threads": 1}
    print(f"{measure.machine()}, 1 thread; {options.budget:,} of {options.rows:,} rows")
    results = {name: measure.run_cell(__file__, name=name, **size) for name in NAMES}
    ours = results["tamis"]
    for name, row in results.items():
        if "cpu" not in row:
            print(f"{NAMES[name]}: {row}")
            continue
        ratio = "" if name == "tamis" else f"{row['cpu'] / ours['cpu']:6.1f}x the CPU time of Tamis; "
        print(
            f"{NAMES[name]:<26} {ratio}{row['cpu']:.2f} CPU s, {row['wall']:.2f} s, +{row['megabytes']:.0f} MB, "
            f"value {row['value']:.3f}"
        )


if __name__ == "__main__":
    if measure.is_cell():
        measure.report(cell(**measure.cell_arguments()))
    else:
        main()
