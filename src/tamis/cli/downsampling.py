"""``tamis downsample``: a retrieval task made smaller by a pool of hard negatives, and how far it still ranks right."""

from __future__ import annotations

import json
import math
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from tamis.cli.screen import percent, say, table

if TYPE_CHECKING:
    import numpy as np

    from tamis.cli.retrievers import System
    from tamis.data import RetrievalData
    from tamis.evaluation import Agreement, Pool

    Array = np.ndarray[Any, Any]

CUTOFF = 10
_COMPARED = {
    "agreement": "Full task and small task",
    "agreement_same_queries": "Full corpus and small one",
    "agreement_random_corpus": "Full corpus and random one",
}
Output = Annotated[Path, Parameter(name=["--output", "-o"])]


def downsample(
    data: Path,
    *,
    output: Output,
    encoder: list[str] | None = None,
    run: list[Path] | None = None,
    bm25: bool = True,
    depth: int = 250,
    max_queries: int = 1000,
    split: str | None = None,
    samples: int = 1000,
    seed: int = 0,
) -> None:
    """Make a retrieval task smaller and say how well it still ranks models.

    Kept are at most so many queries, all documents judged relevant to them, and the hard negatives: what any retriever
    ranks within the depth. Written are a BEIR folder with lines as they came, dropped.parquet, with the reason for each
    document left out, and report.json: nDCG@10 of every retriever on the full and the small task, how far they agree,
    what a retriever outside the pool would gain, and the same for a random corpus of the same size.

    Example: tamis downsample beir/nq --encoder intfloat/multilingual-e5-large -o small/

    Args:
        data: folder in BEIR layout.
        output: folder for the small task.
        encoder: name or folder of a sentence-transformers or model2vec model; may be given again. Left out, and without
            a run, the MiniLM of [minilm].
        run: TREC run file of another retriever (query Q0 passage rank score tag); may be given again. It should be
            deeper than --depth: on a small corpus only those of its documents are left that are there.
        bm25: whether BM25 is one of the retrievers.
        depth: ranks of every retriever that are kept for every query.
        max_queries: more are drawn down to so many.
        split: which judgements; left out, test where there is one.
        samples: resamples of queries for the intervals.
        seed: of queries, random corpus and resamples.
    """
    import numpy as np

    from tamis import checks, runs
    from tamis.cli.retrievers import retrievers
    from tamis.data import read_beir, splits_of
    from tamis.evaluation import pool_corpus
    from tamis.files import choose_split

    started = time.perf_counter()
    for name, value in (("depth", depth), ("max_queries", max_queries), ("samples", samples)):
        checks.at_least(name, value, 1)
    checks.require(
        data.is_dir() and (data / "corpus.jsonl").exists(),
        f"{data} is no folder in BEIR layout (corpus.jsonl, queries.jsonl, qrels/*.tsv).",
    )
    checks.require(output.resolve() != data.resolve(), f"{output} is the data itself: name another output folder.")
    splits = splits_of(data)
    chosen = choose_split(splits, split or ("test" if "test" in splits else None), data)
    task = read_beir(data, split=chosen)
    with runs.locked(output):
        other = next((p for p in (output / "qrels").glob("*.tsv") if p.stem != chosen), None)
        checks.require(other is None, f"{other} is of an earlier run on another split: name another output folder.")
        systems = retrievers(task, encoder, run, bm25=bm25)
        rng = np.random.default_rng(seed)
        asked = len(task.queries)
        queries = np.arange(asked)
        if asked > max_queries:
            queries = np.sort(rng.choice(asked, max_queries, replace=False))
        pool = pool_corpus(_rankings(systems, queries, depth), _relevant(task, queries), depth=depth, max_queries=None)
        found = _Measured(task, systems, queries, pool, rng)
        report = found.report(samples, seed)
        report["settings"] = {
            "data": str(data), "split": chosen, "encoder": encoder, "bm25": bm25,
            "run": None if run is None else [str(path) for path in run],
            "depth": depth, "max_queries": max_queries, "samples": samples, "seed": seed,
        }  # fmt: skip
        report["seconds"] = round(time.perf_counter() - started, 2)
        _write(task, data, output, chosen, queries, found.kept, report)
    say(_describe(report))
    say(f"Written to {output}: corpus.jsonl, queries.jsonl, qrels/{chosen}.tsv, dropped.parquet, report.json")


class _Measured:
    """Every retriever on the full task, the small one, a random one, and the small one without its own documents."""

    def __init__(
        self, task: RetrievalData, systems: list[System], queries: Array, pool: Pool, rng: np.random.Generator
    ) -> None:
        import numpy as np

        self._task, self._systems, self._pool, self._queries = task, systems, pool, queries
        ids = np.array(task.corpus.ids, dtype=object)
        self._keys = np.argsort(np.argsort(ids, kind="stable"), kind="stable")  # trec_eval breaks ties by id
        self.kept = np.sort(np.array(pool.documents, np.int64))
        judged = np.array(pool.documents, np.int64)[pool.relevant]
        others = np.setdiff1d(np.arange(len(ids)), judged)
        drawn = rng.choice(others, len(self.kept) - len(judged), replace=False)
        everything = np.arange(len(task.queries))
        self.full = self._scores(everything, None)
        self.small = self._scores(queries, self.kept)
        chance = np.sort(np.concatenate([judged, drawn]))
        self.random = self._scores(queries, chance)
        left = [np.sort(np.array(pool.without(system.name), np.int64)) for system in systems]
        self.outside = np.array([self._ndcg(system, queries, rows) for system, rows in zip(systems, left, strict=True)])
        self.short = [
            max(self._short(system, rows) for rows in (self.kept, chance, without))
            for system, without in zip(systems, left, strict=True)
        ]

    def report(self, samples: int, seed: int) -> dict[str, Any]:
        """All of it in words and numbers, for JSON."""
        import numpy as np

        from tamis.evaluation import rank_agreement

        pool, queries = self._pool, self._queries
        same = self.full[:, queries]
        alone = pool.contributed & (pool.contributed.sum(1) == 1)[:, None] & ~pool.relevant[:, None]
        columns: dict[str, Any] = {
            "name": [system.name for system in self._systems],
            "kind": [system.kind for system in self._systems],
            "full": self.full.mean(1).tolist(),
            "full_same_queries": same.mean(1).tolist(),
            "small": self.small.mean(1).tolist(),
            "random": self.random.mean(1).tolist(),
            "small_without_its_own": self.outside.mean(1).tolist(),
            "bias_outside_the_pool": (self.outside - self.small).mean(1).tolist(),
            "documents": pool.contributed.sum(0).tolist(),
            "documents_of_its_own": alone.sum(0).tolist(),
            "queries_cut_short": self.short,
        }

        def agreement(one: Array, other: Array) -> dict[str, Any] | None:
            return _plain(rank_agreement(one, other, samples=samples, seed=seed)) if len(one) > 1 else None

        return {
            "documents": {
                "full": len(self._task.corpus),
                "small": len(self.kept),
                "judged": int(pool.relevant.sum()),
                "pooled": int((~pool.relevant).sum()),
            },
            "queries": {"full": self.full.shape[1], "small": len(queries)},
            "metric": f"nDCG@{CUTOFF}",
            "systems": [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)],
            "agreement": agreement(self.full, self.small),
            "agreement_same_queries": agreement(same, self.small),
            "agreement_random_corpus": agreement(same, self.random),
            "largest_change": float(np.abs((self.small - same).mean(1)).max()),
            "largest_change_random_corpus": float(np.abs((self.random - same).mean(1)).max()),
        }

    def _scores(self, queries: Array, documents: Array | None) -> Array:
        import numpy as np

        return np.array([self._ndcg(system, queries, documents) for system in self._systems])

    def _ndcg(self, system: System, queries: Array, documents: Array | None) -> Array:
        import numpy as np

        from tamis import ranking
        from tamis.sample_data import take

        # BM25 often gives many documents one score: a wide margin leaves room for ties, which the ids decide.
        scores, found = system.rank(queries, documents, 10 * CUTOFF)
        keys = np.where(found >= 0, self._keys[found], -1)
        qrels = take(self._task, queries.tolist()).qrels()
        return ranking.evaluate(found, scores, qrels, ks=(CUTOFF,), tie_keys=keys)[f"nDCG@{CUTOFF}"]

    def _short(self, system: System, documents: Array) -> int:
        """Queries of which a run, which cannot be asked for more, holds too few of the documents."""
        if system.kind != "run":
            return 0
        found = system.rank(self._queries, documents, CUTOFF)[1]
        return int(((found >= 0).sum(1) < min(CUTOFF, len(documents))).sum())


def _rankings(systems: list[System], queries: Array, depth: int) -> dict[str, dict[int, list[int]]]:
    """System -> query row -> corpus rows, as the pool wants them."""
    rankings = {}
    for system in systems:
        found = system.rank(queries, None, depth)[1].tolist()
        rankings[system.name] = {q: [d for d in row if d >= 0] for q, row in zip(queries.tolist(), found, strict=True)}
    return rankings


def _relevant(task: RetrievalData, queries: Array) -> dict[int, dict[int, float]]:
    return {q: dict(zip(task.positives[q].tolist(), task.grades[q].tolist(), strict=True)) for q in queries.tolist()}


def _write(
    task: RetrievalData, data: Path, output: Path, split: str, queries: Array, kept: Array, report: dict[str, Any]
) -> None:
    """The small task, the evidence, and the report, which learns how many judgements there were and are."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from tamis.files import appearing, lines, read_jsonl

    ids = task.corpus.ids
    there = np.zeros(len(ids), dtype=bool)
    there[kept] = True
    asked = {task.queries.ids[i] for i in queries.tolist()}
    held = {ids[i] for i in kept.tolist()}
    gone = np.flatnonzero(~there).tolist()
    of: dict[int, str] = {}
    for query, rows in zip(task.queries.ids, task.positives, strict=True):
        if query not in asked:
            for row in rows.tolist():
                of.setdefault(row, query)
    evidence = {
        "row": [row + 1 for row in gone],
        "id": [ids[row] for row in gone],
        "rule": ["query dropped" if row in of else "not ranked" for row in gone],
        "query_id": pa.array([of.get(row) for row in gone], pa.string()),
        "text": pa.array([task.corpus.texts[row] for row in gone], pa.large_string()),
    }
    (output / "qrels").mkdir(exist_ok=True)
    counts = report["judgements"] = {"full": 0, "small": 0}
    with ExitStack() as stack:
        told = stack.enter_context(appearing(output / "report.json"))  # what enters first takes its name last
        pq.write_table(pa.table(evidence), stack.enter_context(appearing(output / "dropped.parquet")))
        names = {"corpus.jsonl": held, "queries.jsonl": asked}
        for name, wanted in names.items():
            temporary = stack.enter_context(appearing(output / name))
            keys = (str(row.get("_id", row.get("id"))) for _, row in read_jsonl(data / name))
            with temporary.open("w", encoding="utf-8", errors="replace", newline="") as out:
                for line in lines(data / name):
                    if line.strip() and next(keys) in wanted:
                        out.write(line.rstrip("\r\n") + "\n")
        path = data / "qrels" / f"{split}.tsv"
        with stack.enter_context(appearing(output / "qrels" / path.name)).open("w", encoding="utf-8") as out:
            for number, line in enumerate(lines(path), 1):
                fields = line.rstrip("\r\n").split("\t")
                judged = fields[0], fields[2] if len(fields) == 4 else fields[1] if len(fields) > 1 else ""
                header = number == 1 and fields[-1].strip().lower() in ("score", "relevance", "grade")
                counts["full"] += bool(line.strip()) and not header
                if header or (judged[0] in asked and judged[1] in held):
                    counts["small"] += not header
                    out.write(line.rstrip("\r\n") + "\n")
        told.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _plain(agreement: Agreement) -> dict[str, Any]:
    """For JSON, which has no NaN."""
    return {
        name: [None if math.isnan(v) else v for v in value] if isinstance(value, tuple)
        else None if math.isnan(value) else value
        for name, value in asdict(agreement).items()
    }  # fmt: skip


def _describe(report: dict[str, Any]) -> str:
    """What the report says, for the screen."""
    documents, queries, systems = report["documents"], report["queries"], report["systems"]
    columns = ("full_same_queries", "small", "random", "small_without_its_own")
    rows = [
        [system["name"], *(f"{system[key]:.4f}" for key in columns), f"{system['bias_outside_the_pool']:+.4f}"]
        for system in systems
    ]
    lines = [
        f"Documents  {documents['full']:,} -> {documents['small']:,} "
        f"({percent(documents['small'] / documents['full'])}): {documents['judged']:,} judged relevant, "
        f"{documents['pooled']:,} hard negatives",
        f"Queries    {queries['full']:,} -> {queries['small']:,}",
        f"{report['metric']} of the kept queries on the full corpus, the small one, a random one of its size, and the",
        "small one without the retriever's own documents, with what it gains by that",
        table(rows, header=["retriever", "full", "small", "random", "outside", "gain"]),
    ]
    for key, what in _COMPARED.items():
        found = report[key]
        # Where no query was drawn the task differs from the full one by its corpus alone.
        if found is not None and (key != "agreement_same_queries" or queries["small"] < queries["full"]):
            order, pairs = _with_interval(found, "spearman"), _with_interval(found, "kendall")
            lines.append(f"{what}: Spearman {order}, Kendall {pairs}, largest change {found['max_abs_diff']:.4f}")
    if len(systems) < 2:
        lines.append("One retriever has no order to keep: give a second one to see whether the small task ranks alike.")
    if documents["small"] == documents["full"]:
        lines.append("Every document is kept: a lower --depth makes the task smaller.")
    lines += [
        f"The run {system['name']} is short: of {system['queries_cut_short']:,} queries fewer than {CUTOFF} of its "
        "documents are left on one of the small corpora, where it scores too low; a deeper run cures it."
        for system in systems
        if system["queries_cut_short"]
    ]
    worst = max(systems, key=lambda system: float(system["bias_outside_the_pool"]))
    if worst["bias_outside_the_pool"] > 0:
        lines.append(
            f"A retriever that is not in the pool may score too high: {worst['name']} would gain "
            f"{worst['bias_outside_the_pool']:.4f}."
        )
    return "\n".join(lines)


def _with_interval(found: dict[str, Any], name: str) -> str:
    if found[name] is None:
        return "undefined"
    low, high = found[f"{name}_interval"]
    return f"{found[name]:.3f}" + ("" if low is None else f" [{low:.3f}, {high:.3f}]")
