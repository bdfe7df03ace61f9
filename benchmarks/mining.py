"""Mining hard negatives, side by side with sentence-transformers in one run; vectors are given, no model is timed.

    python benchmarks/mining.py                                        # 20,000 x 200,000 x 384, needs about 6 GB
    python benchmarks/mining.py --queries 4000 --passages 40000 --threads 1

Every cell mines five negatives per query under a relative margin of 0.05 and ends with the same triplets as a
`datasets.Dataset`. Passages lie in clusters of twenty and a query is a noisy copy of its positive. The peer's time
and memory do not count the look-up of vectors that stands for its encoder. The floor is what the machine's own best
matrix product would take for the same scores.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

import measure
import numpy as np
import torch

NEGATIVES, MARGIN, DIMENSIONS = 5, 0.05, 384
DEPTH = 10 * NEGATIVES + 1  # candidates per query, the peer's own choice
CELLS = {
    "sbert_matrix": "sentence-transformers, matrix path, chunk 1,024",
    "sbert_faiss": "sentence-transformers, FAISS flat path",
    "tamis": "tamis.mine, with evidence and audit",
    "tamis_search": "tamis.search.top_k, margin, first five",
}
PEERS = ("sbert_matrix", "sbert_faiss")


def vectors(queries: int, passages: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors; the positive of query i is passage i."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((max(1, passages // 20), DIMENSIONS), dtype=np.float32)
    p = rng.standard_normal((passages, DIMENSIONS), dtype=np.float32)
    p *= 0.7
    p += centres[rng.integers(0, len(centres), size=passages)]
    q = p[:queries] + 0.6 * rng.standard_normal((queries, DIMENSIONS), dtype=np.float32)
    for rows in (q, p):
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return q, p


class VectorModel:
    """Stands in for a SentenceTransformer: to encode a text is to look its vector up, timed apart."""

    def __init__(self, table: dict[str, np.ndarray]) -> None:
        self.table, self.device = table, torch.device("cpu")
        self.wall = self.cpu = self.megabytes = 0.0

    def encode(self, texts: list[str], **_: Any) -> np.ndarray:
        """The vectors of texts."""
        with measure.Timer() as timer:
            found = np.stack([self.table[text] for text in texts])
        self.wall, self.cpu = self.wall + timer.wall, self.cpu + timer.cpu
        self.megabytes += found.nbytes / 1e6
        return found

    encode_query = encode_document = encode

    def get_embedding_dimension(self) -> int:
        """Columns of the vectors."""
        return DIMENSIONS

    get_sentence_embedding_dimension = get_embedding_dimension

    @staticmethod
    def similarity(a: Any, b: Any) -> torch.Tensor:
        """All cosines."""
        from sentence_transformers.util import cos_sim

        return cos_sim(a, b)

    @staticmethod
    def similarity_pairwise(a: Any, b: Any) -> torch.Tensor:
        """Cosines row by row."""
        from sentence_transformers.util import pairwise_cos_sim

        return pairwise_cos_sim(a, b)


def mine_sbert(
    q: np.ndarray, p: np.ndarray, texts: tuple[list[str], list[str]], *, use_faiss: bool
) -> tuple[Any, Any, Any]:
    from datasets import Dataset
    from sentence_transformers.util import mine_hard_negatives

    model = VectorModel(dict(zip(texts[0], q, strict=True)) | dict(zip(texts[1], p, strict=True)))
    pairs = Dataset.from_dict({"query": texts[0], "passage": texts[1][: len(q)]})
    with measure.PeakMemory() as memory, measure.Timer() as timer:
        mined = mine_hard_negatives(
            pairs,
            model,
            corpus=texts[1],
            relative_margin=MARGIN,
            num_negatives=NEGATIVES,
            output_format="triplet",
            use_faiss=use_faiss,
            faiss_batch_size=16_384 if use_faiss else 1024,
            verbose=False,
        )
    timer.wall, timer.cpu = timer.wall - model.wall, timer.cpu - model.cpu
    memory.above -= model.megabytes
    return mined, timer, memory


def mine_search(q: np.ndarray, p: np.ndarray, texts: tuple[list[str], list[str]]) -> tuple[Any, Any, Any]:
    from datasets import Dataset

    from tamis import search

    own = np.arange(len(q))
    with measure.PeakMemory() as memory, measure.Timer() as timer:
        scores, found = search.top_k(q, p, DEPTH, exclude=(np.arange(len(q) + 1), own))
        positive = search.pair_scores(q, p, own, own)
        allowed = scores <= (positive - MARGIN * np.abs(positive))[:, None]
        allowed &= (found >= 0) & (allowed.cumsum(1) <= NEGATIVES)
        rows, places = np.nonzero(allowed)
        mined = Dataset.from_dict(
            {
                "query": [texts[0][row] for row in rows],
                "passage": [texts[1][row] for row in rows],
                "negative": [texts[1][column] for column in found[rows, places]],
            }
        )
    return mined, timer, memory


def mine_tamis(q: np.ndarray, p: np.ndarray, texts: tuple[list[str], list[str]]) -> tuple[Any, Any, Any]:
    from tamis.negatives import mine_negatives

    with measure.PeakMemory() as memory, measure.Timer() as timer:
        found = mine_negatives(
            texts[0],
            texts[1],
            list(range(len(q))),
            query_embeddings=q,
            corpus_embeddings=p,
            negatives=NEGATIVES,
            depth=DEPTH,
            relative_margin=MARGIN,
        )
        mined = found.to_dataset("triplet").rename_column("anchor", "query")
    return mined, timer, memory


def cell(name: str, queries: int, passages: int, threads: int, folder: str) -> dict[str, Any]:
    measure.set_threads(threads)
    if name == "product":
        rates = {str(kind): measure.product_rate(kind, DIMENSIONS) for kind in (torch.float32, torch.bfloat16)}
        return {key.removeprefix("torch."): 2 * queries * passages * DIMENSIONS / rate for key, rate in rates.items()}
    q, p = vectors(queries, passages)
    if name == "compare":
        return {peer: equal_picks(q, p, Path(folder), peer) for peer in PEERS}
    texts = [f"query {i}" for i in range(queries)], [f"passage {i}" for i in range(passages)]
    if name in ("tamis", "tamis_search"):
        mined, timer, memory = (mine_tamis if name == "tamis" else mine_search)(q, p, texts)
    else:
        mined, timer, memory = mine_sbert(q, p, texts, use_faiss=name == "sbert_faiss")
    picks = np.full((queries, NEGATIVES), -1)
    rows = np.array([int(text.split()[1]) for text in mined["query"]])
    rank = np.arange(len(rows)) - np.searchsorted(rows, rows)
    picks[rows, rank] = [int(text.split()[1]) for text in mined["negative"]]
    np.save(Path(folder) / f"{name}.npy", picks)
    return {"wall": timer.wall, "cpu": timer.cpu, "memory": memory.above, "triplets": len(mined)}


def equal_picks(q: np.ndarray, p: np.ndarray, folder: Path, peer: str) -> float:
    """Share of picks that are the peer's, rank by rank; two passages of one score count as equal."""
    ours, theirs = np.load(folder / "tamis.npy"), np.load(folder / f"{peer}.npy")
    differ = np.nonzero(ours != theirs)
    scores = [
        np.where(picks[differ] < 0, -np.inf, np.einsum("md,md->m", q[differ[0]].astype(np.float64), p[picks[differ]]))
        for picks in (ours, theirs)
    ]
    tied = np.isclose(*scores, rtol=0.0, atol=1e-6)
    return 1.0 - float((~tied).sum()) / ours.size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=20_000)
    parser.add_argument("--passages", type=int, default=200_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=1, help="runs per cell; the median counts")
    options = parser.parse_args()
    size = {"queries": options.queries, "passages": options.passages, "threads": options.threads}
    print(f"{measure.machine()}, {options.threads} threads")
    print(f"{options.queries:,} queries x {options.passages:,} passages x {DIMENSIONS}, {options.repeats} run(s)\n")
    results: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        # Cells take turns, so that a busy minute of the machine does not fall on one of them alone.
        turns = [
            {name: measure.run_cell(__file__, name=name, folder=folder, **size) for name in CELLS}
            for _ in range(options.repeats)
        ]
        for name in CELLS:
            runs = [turn[name] for turn in turns]
            failed = [run["error"] for run in runs if "error" in run]
            if failed:
                print(f"{CELLS[name]}: {failed[0]}")
                continue
            results[name] = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        product = measure.run_cell(__file__, name="product", folder=folder, **size)
        equal = measure.run_cell(__file__, name="compare", folder=folder, **size) if len(results) == len(CELLS) else {}
    ours = results["tamis"]
    for peer in (name for name in PEERS if name in results):
        theirs = results[peer]
        print(
            f"{CELLS[peer]}: takes {theirs['wall'] / ours['wall']:.2f} x the time of Tamis "
            f"({theirs['cpu'] / ours['cpu']:.2f} x the CPU time)"
        )
    for peer, share in equal.items():
        print(f"picks equal to {CELLS[peer]}: {share:.4%}")
    print()
    for name, row in results.items():
        print(
            f"{CELLS[name]:<52} {row['wall']:8.2f} s {row['cpu']:8.2f} CPU s "
            f"{row['memory']:8.0f} MB above inputs {row['triplets']:10,.0f} triplets"
        )
    for kind, seconds in product.items():
        print(f"{'best matrix product of the machine, ' + kind:<52} {seconds:8.2f} s")


if __name__ == "__main__":
    if measure.is_cell():
        measure.report(cell(**measure.cell_arguments()))
    else:
        main()
