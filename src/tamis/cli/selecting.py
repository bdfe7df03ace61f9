"""``tamis dedup`` and ``tamis select``: files of rows, less those that repeat or those that a budget leaves out."""

from __future__ import annotations

import json
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from tamis.cli.screen import say

if TYPE_CHECKING:
    from tamis.results import Selection
    from tamis.text_rows import TextRows

OUTPUTS = ("report.json", "dropped.parquet")
Output = Annotated[Path, Parameter(name=["--output", "-o"])]


def dedup(
    data: Path,
    *,
    output: Output,
    threshold: float = 0.9,
    unit: Literal["word", "character"] = "word",
    size: int = 3,
    encoder: str | None = None,
    embeddings: Path | None = None,
    columns: list[str] | None = None,
    split: str | None = None,
    show: int = 3,
) -> None:
    """Keep the first of every set of near-duplicate rows.

    Texts are compared by their shingles (runs of words), exactly; with --encoder or --embeddings by the cosine of their
    vectors instead. Written are the kept rows, in the form they came in, dropped.parquet, with the row that each
    dropped one repeats and how similar the two are, and report.json.

    Example: tamis dedup train.jsonl -o kept/ --threshold 0.8

    Args:
        data: saved dataset, or a JSONL, CSV, TSV or Parquet file.
        output: folder for the results.
        threshold: similarity from which on a row repeats another: Jaccard of shingles, or cosine of vectors.
        unit: of the shingles.
        size: units per shingle.
        encoder: name or folder of a sentence-transformers or model2vec model; compares vectors.
        embeddings: .npy or Parquet with one vector per row; compares vectors.
        columns: that hold the texts, may be given again; a row's texts are joined. Left out, the known ones.
        split: which split of a saved dataset.
        show: so many of the dropped rows are shown.
    """
    from tamis import checks
    from tamis.subsets import drop_near_duplicates

    checks.at_least("show", show, 0)
    started = time.perf_counter()
    rows = _Rows(data, columns, split)
    vectors = rows.vectors(encoder, embeddings) if encoder or embeddings else None
    given = rows.texts if vectors is None else vectors
    chosen = drop_near_duplicates(given, threshold=threshold, unit=unit, size=size)
    settings = {
        "data": str(data), "threshold": threshold, "unit": unit, "size": size, "encoder": encoder,
        "embeddings": None if embeddings is None else str(embeddings), "columns": columns, "split": split,
    }  # fmt: skip
    rows.write(chosen, output, settings, started)
    rows.tell(chosen, output, show)


def select(
    data: Path,
    *,
    budget: str,
    output: Output,
    method: Literal[
        "density_pruning", "diversify_conquer", "facility_location", "k_center", "random"
    ] = "density_pruning",
    clusters: int | None = None,
    encoder: str | None = None,
    embeddings: Path | None = None,
    columns: list[str] | None = None,
    split: str | None = None,
    seed: int = 0,
    show: int = 3,
) -> None:
    """Keep a part of the data, exactly as large as asked for.

    Written are the kept rows, in the form they came in, dropped.parquet, with the reason for each that was not kept,
    and report.json. Random rows are the baseline that any other method has to beat on your data.

    Example: tamis select train.jsonl --budget 0.3 -o kept/

    Args:
        data: saved dataset, or a JSONL, CSV, TSV or Parquet file.
        budget: rows to keep: a whole number is a count, a number with a point a share.
        output: folder for the results.
        method: density_pruning keeps more of wide, far-off clusters; run tamis dedup first, copies pass for dense
            clusters. diversify_conquer keeps equally many rows of every cluster, facility_location what represents all
            rows best, k_center what leaves no row far away. random takes any.
        clusters: of density_pruning and diversify_conquer; left out, 100, or a tenth of the rows where that is less.
        encoder: name or folder of a sentence-transformers or model2vec model; left out, the MiniLM of [minilm].
        embeddings: .npy or Parquet with one vector per row, instead of an encoder.
        columns: that hold the texts, may be given again; a row's texts are joined. Left out, the known ones.
        split: which split of a saved dataset.
        seed: of all random choices.
        show: so many of the dropped rows are shown.
    """
    from tamis import checks
    from tamis.subsets import DensityPruner, KMeansQuality, facility_location_greedy, k_center_greedy

    checks.at_least("show", show, 0)
    started = time.perf_counter()
    rows = _Rows(data, columns, split)
    count = checks.budget_count(_number(budget), len(rows.texts))
    if method == "random":
        chosen = _random(len(rows.texts), count, seed)
    elif method == "facility_location":
        chosen = facility_location_greedy(rows.vectors(encoder, embeddings), budget=count)
    elif method == "k_center":
        chosen = k_center_greedy(rows.vectors(encoder, embeddings), budget=count)
    else:
        clusters = max(2, min(100, len(rows.texts) // 10)) if clusters is None else clusters
        checks.between("clusters", clusters, 2, len(rows.texts))
        vectors = rows.vectors(encoder, embeddings)
        if method == "diversify_conquer":
            chosen = KMeansQuality(clusters, budget=count, spherical=True, seed=seed).fit_select(vectors)
        else:
            pruner = DensityPruner(clusters, budget=count, n_neighbors=min(20, clusters - 1), seed=seed)
            chosen = pruner.fit_select(vectors)
    settings = {
        "data": str(data), "budget": budget, "method": method, "clusters": clusters, "encoder": encoder,
        "embeddings": None if embeddings is None else str(embeddings), "columns": columns, "split": split, "seed": seed,
    }  # fmt: skip
    rows.write(chosen, output, settings, started)
    rows.tell(chosen, output, show)


class _Rows:
    """The rows of a file with one text each, read once to choose and once to write."""

    def __init__(self, data: Path, columns: list[str] | None, split: str | None) -> None:
        from tamis.text_rows import TextRows

        if data.is_dir() and (data / "corpus.jsonl").exists():
            raise ValueError(f"{data} is a BEIR folder: give one of its files, {data / 'corpus.jsonl'} for instance.")
        self.file: TextRows = TextRows(data, columns=columns, split=split)
        if self.file.target in OUTPUTS:
            raise ValueError(f"{data} is called as one of the results: rename it, {self.file.target} is written here.")
        self.texts: list[str] = []
        self.ids: list[str] = []
        for block in self.file.blocks():
            parts: list[list[str]] = [[] for _ in range(len(block))]
            for text, owner in zip(block.texts, block.owners.tolist(), strict=True):
                parts[owner].append(text)
            self.texts += [" ".join(part) for part in parts]
            self.ids += block.ids

    def vectors(self, encoder: str | None, embeddings: Path | None) -> Any:
        from tamis import checks, encoders
        from tamis.cli.screen import quiet_libraries
        from tamis.files import read_embeddings

        checks.require(
            encoder is None or embeddings is None, f"encoder and embeddings exclude each other: got {encoder!r} too."
        )
        if embeddings is not None:
            found = read_embeddings(embeddings, self.ids)
            checks.same_length("embeddings", found, "data", self.texts)
            return found
        quiet_libraries()
        return encoders.encode(encoders.resolve(encoder), self.texts)

    def write(self, chosen: Selection, output: Path, settings: dict[str, Any], started: float) -> None:
        """Kept rows, evidence and report; each file appears whole, and the report last."""
        import numpy as np
        import pyarrow as pa
        import pyarrow.parquet as pq

        from tamis import runs
        from tamis.files import appearing

        kept = np.zeros(len(self.texts), dtype=bool)
        kept[chosen.indices] = True
        reasons = chosen.reasons
        rivals = reasons["rival"].tolist()
        evidence: dict[str, Any] = {
            "row": [row + 1 for row in reasons["row"].tolist()],
            "id": [self.ids[row] for row in reasons["row"].tolist()],
            "text": [self.texts[row] for row in reasons["row"].tolist()],
            "rule": [str(rule) for rule in reasons["rule"].tolist()],
            "rival": [rival + 1 if rival >= 0 else None for rival in rivals],
            "rival_id": [self.ids[rival] if rival >= 0 else None for rival in rivals],
            "rival_text": [self.texts[rival] if rival >= 0 else None for rival in rivals],
            "score": np.asarray(reasons["score"], dtype=np.float64),
        }
        with runs.locked(output), ExitStack() as stack:
            report = stack.enter_context(appearing(output / "report.json"))
            pq.write_table(pa.table(evidence), stack.enter_context(appearing(output / "dropped.parquet")))
            temporary = stack.enter_context(appearing(output / self.file.target))
            with self.file.writer(temporary) as write:
                start = 0
                for block in self.file.blocks():
                    write(block, kept[start : start + len(block)])
                    start += len(block)
            summary = {
                "rows": len(kept), "kept": int(kept.sum()), "rules": dict(Counter(evidence["rule"])),
                "settings": settings, "seconds": round(time.perf_counter() - started, 2),
            }  # fmt: skip
            report.write_text(json.dumps(summary, indent=1), encoding="utf-8")

    def tell(self, chosen: Selection, output: Path, show: int) -> None:
        """How many stayed, and the dropped rows nearest to what they lost against."""
        import numpy as np

        total, kept = len(self.texts), len(chosen.indices)
        say(f"{kept:,} of {total:,} rows kept ({kept / total:.1%})")
        reasons = chosen.reasons
        scores = np.asarray(reasons["score"], dtype=np.float64)
        for place in np.argsort(-np.nan_to_num(scores, nan=-np.inf), kind="stable")[:show].tolist():
            row, rival = int(reasons["row"][place]), int(reasons["rival"][place])
            score = "" if np.isnan(scores[place]) else f", {scores[place]:.3f}"
            say(f"  row {row + 1}, {reasons['rule'][place]}{score}: {_short(self.texts[row])}")
            if rival >= 0:
                say(f"    kept, row {rival + 1}: {_short(self.texts[rival])}")
        say(f"Written to {output}: {self.file.target}, dropped.parquet, report.json")


def _number(budget: str) -> float:
    try:
        return int(budget) if budget.lstrip("+-").isdigit() else float(budget)
    except ValueError:
        raise ValueError(f"budget must be a count, 5000 say, or a share, 0.3 say: got {budget!r}.") from None


def _random(n: int, count: int, seed: int) -> Selection:
    import numpy as np

    from tamis.results import Selection

    kept = np.sort(np.random.default_rng(seed).choice(n, count, replace=False))
    dropped = np.setdiff1d(np.arange(n), kept)
    weights = np.full(n, -np.inf)
    weights[kept] = 0.0
    nothing = np.full(len(dropped), np.nan)
    rules = np.full(len(dropped), "not drawn", dtype=object)
    reasons = {"row": dropped, "rule": rules, "rival": np.full(len(dropped), -1), "score": nothing}
    return Selection(kept, np.full(n, np.nan), weights, reasons)


def _short(text: str, most: int = 100) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 1]}…"
