"""What one shard takes on the Ray engine, and from it what 1 M to 1 B passages take: the table of docs/scale.md.

    python benchmarks/ray_shards.py                      # about 6 CPU minutes and 3 GB
    python benchmarks/ray_shards.py --price 0.03         # per core and hour

Measured are, in CPU seconds of one core each: one full-sized shard searched for some queries, the same shard after the
floors are known, the merge on the driver, texts encoded by the default MiniLM, and what stays on the driver (texts,
copies, near-copies, filters, audit) at two sizes. The rest of the table is these figures times the numbers of rows.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import measure
import numpy as np

from tamis.engine import ThisMachine
from tamis.sharding import SHARD_BYTES, plan_shards

DIMENSIONS, DEPTH, BLOCKS = 384, 200, 2**28
WORDS = 60  # of a passage
SIZES = (10**6, 10**7, 10**8, 10**9)


def unit_rows(rows: int, columns: int, seed: int) -> np.ndarray:
    found = np.random.default_rng(seed).standard_normal((rows, columns), dtype=np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def search_cell(queries: int, shards: int) -> dict[str, Any]:
    """Full-sized shards one after the other on one worker: the first finds everything, later ones little."""
    from tamis.integrations.ray import RayEngine

    rows = SHARD_BYTES // (4 * DIMENSIONS)
    q, p = unit_rows(queries, DIMENSIONS, 0), unit_rows(rows * shards, DIMENSIONS, 1)
    nothing = np.zeros(queries + 1, np.int64), np.empty(0, np.int64)
    with RayEngine(workers=1, shard_rows=rows) as engine:
        plan = engine.plan(queries, len(p), DIMENSIONS, DEPTH, max_memory=BLOCKS)
        engine.top_k(q[:8], p[:1000], 10, exclude=(nothing[0][:9], nothing[1]), max_memory=BLOCKS)  # imports
        before = dict(engine.measured)
        with measure.Timer() as timer:
            engine.top_k(q, p, DEPTH, exclude=nothing, max_memory=BLOCKS)
        found = {name: engine.measured[name] - before[name] for name in before}
        return {
            **found, "wall": timer.wall, "rows": rows, "queries": queries,
            "worker_peak_bytes": engine.measured["worker_peak_bytes"], "planned_bytes": plan.worker_bytes,
            "shared_bytes": rows * 4 * DIMENSIONS + queries * 4 * DIMENSIONS,
        }  # fmt: skip


def encode_cell(texts: int) -> dict[str, Any]:
    """The default encoder on passages of the words of the CWE data."""
    from tamis import encoders, sample_data

    encoder = encoders.resolve(None)
    reports = sample_data.cwe().queries.texts
    some = [" ".join(" ".join(reports[i : i + 8]).split()[:WORDS]) for i in range(0, 8 * texts, 8)]
    encoder.encode(some[:64])
    with measure.Timer() as timer:
        encoder.encode(some)
    return {"cpu": timer.cpu / len(some), "letters": float(np.mean([len(text) for text in some])), "texts": len(some)}


class Apart(ThisMachine):
    """This machine, with the CPU seconds of the search kept apart."""

    seconds = 0.0

    def top_k(self, *given: Any, **settings: Any) -> Any:
        """The search, timed."""
        with measure.Timer() as timer:
            found = super().top_k(*given, **settings)
        self.seconds += timer.cpu
        return found


def central_cell(passages: int, queries: int) -> dict[str, Any]:
    """A whole mining run from files with given vectors, less its search: what the driver does whatever the engine."""
    from tamis.data import read
    from tamis.negatives import mine_negatives

    rng = np.random.default_rng(2)
    words = np.array([f"w{i:x}" for i in range(30_000)])
    vectors, engine = unit_rows(passages, 8, 3), Apart()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "qrels").mkdir()
        with (folder / "corpus.jsonl").open("w") as corpus:
            for i in range(passages):
                text = " ".join(words[(rng.pareto(1.0, WORDS) * 20).astype(int) % len(words)])
                corpus.write(json.dumps({"_id": f"p{i}", "text": text}) + "\n")
        (folder / "queries.jsonl").write_text(
            "".join(json.dumps({"_id": f"q{i}", "text": f"what is {i}"}) + "\n" for i in range(queries))
        )
        (folder / "qrels" / "train.tsv").write_text(
            "query-id\tcorpus-id\tscore\n" + "".join(f"q{i}\tp{i}\t1\n" for i in range(queries))
        )
        with measure.PeakMemory() as memory, measure.Timer() as timer:
            data = read(folder)
            mine_negatives(data, query_embeddings=vectors[:queries], corpus_embeddings=vectors, engine=engine)
    return {"cpu": timer.cpu - engine.seconds, "megabytes": memory.above}


CELLS = {"search": search_cell, "encode": encode_cell, "central": central_cell}


def table(figures: dict[str, Any], *, queries: int, workers: int, price: float) -> list[list[str]]:
    """Rows of the table: one per size."""
    shard, encode, (small, large, asked) = figures["search"], figures["encode"], figures["central"]
    per_pair = shard["worker_seconds"] / (shard["shards"] * shard["rows"] * shard["queries"])
    step = large["passages"] - small["passages"]
    per_passage = {name: (large[name] - small[name]) / step for name in ("cpu", "megabytes")}
    more = asked["queries"] - small["queries"]
    per_query = {name: (asked[name] - small[name]) / more for name in ("cpu", "megabytes")}
    rows = []
    for passages in SIZES:
        plan = plan_shards(queries, passages, DIMENSIONS, DEPTH, workers=workers, block_bytes=BLOCKS)
        encoded, searched = (encode["cpu"] * (passages + queries) / 3600, per_pair * passages * queries / 3600)
        cores = encoded + searched
        central = {name: per_passage[name] * passages + per_query[name] * queries for name in per_query}
        sent = plan.network_bytes + (encode["letters"] + 4 * DIMENSIONS) * passages
        rows.append(
            [
                f"{passages:,}",
                f"{plan.shards:,} x {plan.turns}",
                f"{plan.worker_bytes / 2**30:.1f} GB",
                f"{sent / 1e12:.2f} TB",
                f"{encoded:,.0f} + {searched:,.1f}",
                f"{cores / workers:,.1f} h",
                f"{central['cpu'] / 3600:,.1f} h",
                f"{central['megabytes'] / 1e3 + plan.driver_bytes / 1e9:,.0f} GB",
                f"{passages * 4 * DIMENSIONS / 1e9:,.0f} GB",
                f"{cores * price:,.0f}",
            ]
        )
    return rows


HEADER = (
    "passages", "shards x turns", "per worker", "network", "core hours: encode + search", "on the workers",
    "driver alone", "driver memory", "driver disk", "price",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=100_000, help="queries of the table")
    parser.add_argument("--workers", type=int, default=64, help="cores of the table")
    parser.add_argument("--price", type=float, default=0.04, help="of a core for an hour, with 4 GB of memory")
    parser.add_argument("--shard-queries", type=int, default=2000, help="queries that the shards are timed with")
    options = parser.parse_args()
    print(measure.machine())
    figures: dict[str, Any] = {
        "search": measure.run_cell(__file__, threads=1, name="search", queries=options.shard_queries, shards=3),
        "encode": measure.run_cell(__file__, threads=1, name="encode", texts=256),
        "central": [
            {
                "passages": n,
                "queries": q,
                **measure.run_cell(__file__, threads=1, name="central", passages=n, queries=q),
            }
            for n, q in ((200_000, 2_000), (800_000, 2_000), (200_000, 10_000))
        ],
    }
    print(json.dumps(figures, indent=1))
    rows = table(figures, queries=options.queries, workers=options.workers, price=options.price)
    print(f"\n{options.queries:,} queries, {DEPTH} candidates, {DIMENSIONS} dimensions, {options.workers} workers\n")
    print("| " + " | ".join(HEADER) + " |\n|" + "---|" * len(HEADER))
    print("\n".join("| " + " | ".join(row) + " |" for row in rows))


if __name__ == "__main__":
    if measure.is_cell():
        arguments = measure.cell_arguments()
        measure.set_threads(arguments.pop("threads"))
        measure.report(CELLS[arguments.pop("name")](**arguments))
    else:
        main()
