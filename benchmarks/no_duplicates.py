"""No-duplicate batches beside sentence-transformers' NoDuplicatesBatchSampler: one epoch of batch plans, no training.

    python benchmarks/no_duplicates.py [--pairs 100000] [--batch 128] [--limit 120] [--drop-last] [--million]

Pairs of texts in two kinds: 500 distinct positives with Zipf counts (class names), and every text once. Each sampler
starts from the texts and runs in a process of its own; one that is not done after the limit (CPU seconds) is cut, and
the share of rows it has placed by then is given. A plain loop checks that no batch of ours repeats a text.
"""

from __future__ import annotations

import argparse
import time
import warnings
from typing import Any

import measure
import numpy as np

from tamis.batches import NoDuplicatesBatchSampler, text_keys

SAMPLERS = {"sentence-transformers": "peer", "sentence-transformers, hashed": "hashed", "tamis": "tamis"}


def texts(pairs: int, kind: str) -> dict[str, list[str]]:
    rng = np.random.default_rng(0)
    words = np.array([f"word{i}" for i in range(5000)])
    anchors = [f"query {i} " + " ".join(row) for i, row in enumerate(words[rng.integers(0, 5000, (pairs, 8))])]
    if kind == "unique":
        positives = [f"passage {i} " + " ".join(row) for i, row in enumerate(words[rng.integers(0, 5000, (pairs, 40))])]
    else:
        weight = 1 / np.arange(1, 501)
        positives = [f"class number {i}" for i in rng.choice(500, pairs, p=weight / weight.sum())]
    return {"anchor": anchors, "positive": positives}


def cell(*, sampler: str, pairs: int, kind: str, batch: int, drop_last: bool, limit: float, threads: int) -> Any:
    """CPU and wall seconds from texts to the last batch (or the limit), rows placed, and memory above the texts."""
    measure.set_threads(threads)
    columns = texts(pairs, kind)
    dataset = None
    if sampler != "tamis":
        import datasets
        import torch
        from sentence_transformers.base.sampler import NoDuplicatesBatchSampler as Peer

        datasets.disable_progress_bars()
        dataset = datasets.Dataset.from_dict(columns)
    placed, done, began = [], True, time.process_time()
    with measure.PeakMemory() as memory, measure.Timer() as timer:
        if dataset is None:
            keys = text_keys(columns["anchor"], columns["positive"])
            with warnings.catch_warnings():  # of many small batches, which is what this data asks for
                warnings.simplefilter("ignore", UserWarning)
                batches = iter(NoDuplicatesBatchSampler(keys, batch, drop_last=drop_last))
                placed.append(next(batches))
        else:
            batches = iter(
                Peer(
                    dataset,
                    batch,
                    drop_last,
                    generator=torch.Generator().manual_seed(0),
                    precompute_hashes=sampler == "hashed",
                    precompute_num_proc=1 if sampler == "hashed" else None,
                )
            )
        for rows in batches:
            placed.append(rows)
            if time.process_time() - began > limit:
                done = False
                break
    sizes = np.array([len(rows) for rows in placed])
    distinct = len({row for rows in placed for row in rows})
    if sampler == "tamis":
        for rows in placed:
            said = [columns[name][row] for row in rows for name in columns]
            assert len(set(said)) == len(said), "a batch repeats a text"
    return {
        "cpu": timer.cpu,
        "wall": timer.wall,
        "mb": memory.above,
        "placed": distinct / pairs,
        "batches": len(sizes),
        "full": int((sizes == batch).sum()),
        "done": done,
    }


def table(kind: str, options: argparse.Namespace, pairs: int) -> None:
    shared = {"pairs": pairs, "kind": kind, "batch": options.batch, "drop_last": options.drop_last}
    rows = {
        name: measure.run_cell(__file__, sampler=sampler, limit=options.limit, threads=options.threads, **shared)
        for name, sampler in SAMPLERS.items()
    }
    what = "500 distinct positives, Zipf" if kind == "labels" else "every text once"
    print(
        f"\n{pairs:,} pairs, {what}, batch {options.batch}, {'full batches only' if options.drop_last else 'all rows'}"
    )
    ours = rows["tamis"]
    for name, row in rows.items():
        if name != "tamis" and "error" not in row and "error" not in ours:
            least = "" if row["done"] else "more than "
            cut = "" if row["done"] else f" (the peer had placed {row['placed']:.0%} of the rows when it was cut)"
            print(f"{least}{row['cpu'] / ours['cpu']:.1f}x less CPU time than {name}{cut}")
    print(f"{'':30} {'CPU s':>8} {'wall s':>8} {'MB above':>9} {'placed':>7} {'batches':>8} {'full':>6}")
    for name, row in rows.items():
        if "error" in row:
            print(f"{name:30} {row['error']}")
            continue
        numbers = f"{row['cpu']:8.2f} {row['wall']:8.2f} {row['mb']:9.1f} {row['placed']:7.1%}"
        print(f"{name:30} {numbers} {row['batches']:8} {row['full']:6}{'' if row['done'] else '  cut'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=100_000)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--limit", type=float, default=120.0, help="CPU seconds after which a sampler is cut")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--drop-last", action="store_true")
    parser.add_argument("--million", action="store_true", help="also a million pairs with every text once")
    options = parser.parse_args()
    table("labels", options, options.pairs)
    table("unique", options, options.pairs)
    if options.million:
        table("unique", options, 1_000_000)
    import sentence_transformers

    print(
        f"\n{measure.machine()}, sentence-transformers {sentence_transformers.__version__}, threads {options.threads}"
    )


if __name__ == "__main__":
    if measure.is_cell():
        measure.report(cell(**measure.cell_arguments()))
    else:
        main()
