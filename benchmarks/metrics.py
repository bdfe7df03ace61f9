"""nDCG@10, MRR@10 and recall@100 of 10,000 queries with 1,000 documents each, against pytrec-eval.

    python benchmarks/metrics.py            # both sides in turn, ratio first
    python benchmarks/metrics.py --queries 1000

Both sides get the same result in the form they like best: pytrec-eval dictionaries that were built before the clock
starts (building them from arrays is timed on its own), Tamis arrays. Scores come in rank order, as search gives them,
and shuffled, which makes us sort. Both sides must agree to 1e-9 for every query, or the benchmark stops.
"""

from __future__ import annotations

import argparse

import measure
import numpy as np
import pytrec_eval

from tamis import ranking

METRICS = {"nDCG@10": "ndcg_cut_10", "recall@100": "recall_100"}
REPEATS = 5


def data(queries: int, documents: int, *, shuffled: bool, judged: int = 5, corpus: int = 100_000, seed: int = 0):
    """A result with scores of two decimals less than float32 has, so with ties, and graded judgements."""
    rng = np.random.default_rng(seed)
    start = rng.integers(corpus, size=(queries, 1))
    # 7 and the size of the corpus share no factor, so no document stands twice in a row.
    indices = rng.permutation(corpus)[(start + 7 * np.arange(documents)) % corpus]
    scores = -np.sort(-rng.random((queries, documents)).round(5)).astype(np.float32)
    relevant = np.take_along_axis(indices, rng.permuted(np.tile(np.arange(200), (queries, 1)), axis=1)[:, :judged], 1)
    relevant[:, -1] = corpus + start[:, 0]  # one is never found
    if shuffled:
        order = rng.permuted(np.tile(np.arange(documents), (queries, 1)), axis=1)
        indices, scores = np.take_along_axis(indices, order, 1), np.take_along_axis(scores, order, 1)
    grades = rng.integers(1, 4, size=relevant.shape)
    indptr = np.arange(queries + 1) * judged
    return indices, scores, (indptr, relevant.ravel(), grades.ravel().astype(float))


def ours(queries: int, documents: int, shuffled: bool, threads: int) -> dict[str, object]:
    indices, scores, qrels = data(queries, documents, shuffled=shuffled)
    ranking.evaluate(indices[:10], scores[:10], (qrels[0][:11], qrels[1][:50], qrels[2][:50]))
    times = []
    with measure.PeakMemory() as memory:
        for _ in range(REPEATS):
            with measure.Timer() as timer:
                found = ranking.evaluate(indices, scores, qrels, ks=(10, 100))
            times.append((timer.wall, timer.cpu))
    wall, cpu = np.min(times, axis=0)
    means = {name: float(found[name].mean()) for name in (*METRICS, "MRR@10")}
    return {"wall": wall, "cpu": cpu, "memory": memory.above, **means}


def theirs(queries: int, documents: int, shuffled: bool, threads: int) -> dict[str, object]:
    indices, scores, qrels = data(queries, documents, shuffled=shuffled)
    ids = [f"{i:07d}" for i in range(200_000)]
    with measure.Timer() as building:
        run = {
            f"{q}": {ids[i]: s for i, s in zip(row, row_scores, strict=True)}
            for q, (row, row_scores) in enumerate(zip(indices.tolist(), scores.tolist(), strict=True))
        }
        qrel: dict[str, dict[str, int]] = {f"{q}": {} for q in range(queries)}
        for q, column, grade in zip(np.repeat(np.arange(queries), np.diff(qrels[0])), *qrels[1:], strict=True):
            qrel[f"{q}"][ids[column]] = int(grade)
    judge = pytrec_eval.RelevanceEvaluator(qrel, {"ndcg_cut.10", "recip_rank", "recall.100"})
    times = []
    for _ in range(3):
        with measure.Timer() as timer:
            result = judge.evaluate(run)
        times.append((timer.wall, timer.cpu))
    wall, cpu = np.min(times, axis=0)
    found = ranking.evaluate(indices, scores, qrels, ks=(10, 100))
    reciprocal = np.array([result[f"{q}"]["recip_rank"] for q in range(queries)])
    expected = {"MRR@10": np.where(reciprocal >= 0.1, reciprocal, 0.0)}
    expected |= {name: np.array([result[f"{q}"][key] for q in range(queries)]) for name, key in METRICS.items()}
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, atol=1e-9)
    return {"wall": wall, "cpu": cpu, "building": building.wall, **{n: float(v.mean()) for n, v in expected.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--documents", type=int, default=1_000)
    arguments = vars(parser.parse_args())
    print(measure.machine())
    print(f"{arguments['queries']:,} queries x {arguments['documents']:,} documents, nDCG@10, MRR@10, recall@100")
    for shuffled in (False, True):
        mine = measure.run_cell(__file__, threads=1, side="ours", shuffled=shuffled, **arguments)
        peer = measure.run_cell(__file__, threads=1, side="theirs", shuffled=shuffled, **arguments)
        broken = [row["error"] for row in (mine, peer) if "error" in row]
        if broken:
            raise SystemExit(f"a side failed: {broken}")
        there, from_arrays = (seconds / mine["wall"] for seconds in (peer["wall"], peer["wall"] + peer["building"]))
        print(
            f"{'shuffled' if shuffled else 'in rank order'}: {from_arrays:.0f} times faster than pytrec-eval (arrays), "
            f"{there:.0f} times when its dictionaries are there: {mine['wall'] * 1e3:.0f} ms, {peer['wall']:.2f} s and "
            f"{peer['building']:.1f} s for dictionaries (CPU {mine['cpu']:.2f} s, {peer['cpu']:.2f} s), "
            f"{mine['memory']:.0f} MB above the inputs; nDCG@10 {mine['nDCG@10']:.6f} and {peer['nDCG@10']:.6f}"
        )


if __name__ == "__main__":
    if measure.is_cell():
        cell = measure.cell_arguments()
        side = {"ours": ours, "theirs": theirs}[cell.pop("side")]
        measure.report(side(**cell))
    else:
        main()
