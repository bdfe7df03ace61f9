"""``tamis demo``: the whole job on real data whose false negatives are known."""

from __future__ import annotations

import copy
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from tamis.cli.mining import describe
from tamis.cli.screen import percent, progress, quiet_libraries, say, table
from tamis.results import MinedNegatives

if TYPE_CHECKING:
    from tamis.data import RetrievalData
    from tamis.retrieval import Evaluation

TASKS = {
    "cwe": "sentences of vulnerability reports -> the weaknesses that analysts filed them under",
    "esco": "descriptions of skills and occupations -> their labels",
}
SHOWN = 0.3  # share of the training queries that keep all their labels
NEGATIVES = 2


def demo(
    *,
    data: Literal["cwe", "esco"] = "cwe",
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    max_survival: float = 0.05,
    steps: int = 30,
    seed: int = 0,
    small: bool = False,
) -> None:
    """Mine, audit, train and evaluate on real data that is installed, and compare with two plain ways of training.

    The data sets name every known answer. The miner is shown one answer per query, and all of them for three queries in
    ten; the rest is kept back, and tells how many of the negatives are false.

    Args:
        data: CWE (vulnerability texts) or ESCO (skills).
        output: folder for results and report; left out, tamis-demo-cwe or tamis-demo-esco.
        max_survival: share of hidden positives that may become negatives.
        steps: training steps of each of the three models.
        seed: of everything that is drawn.
        small: a few queries and steps, to see that everything runs.
    """
    started = time.perf_counter()
    from tamis import encoders, retrieval, runs
    from tamis import sample_data as tasks
    from tamis.mining_report import write_page
    from tamis.negatives.audit import known_false
    from tamis.negatives.mine import default_depth, mine_negatives
    from tamis.plan import duration, plan_mining

    folder = output or Path(f"tamis-demo-{data}")
    quiet_libraries()
    whole = tasks.cwe() if data == "cwe" else tasks.esco()
    first = tasks.preferred_labels() if data == "esco" else None
    full, test = tasks.part(whole, "train"), tasks.part(whole, "test")
    if small:
        full, test, steps = tasks.take(full, list(range(240))), tasks.take(test, list(range(60))), min(steps, 3)
    seen = tasks.show_one(full, first=first, share=SHOWN, seed=seed)
    kept_back = sum(map(len, full.positives)) - sum(map(len, seen.positives))
    say(f"Data     {data.upper()}: {TASKS[data]}")
    say(
        f"  {len(full.queries):,} training queries, {len(test.queries):,} test queries, {len(full.corpus):,} passages; "
        f"{kept_back:,} known answers kept back as the truth"
    )
    encoder = _load(encoders.default_model())
    plan = plan_mining(
        seen.queries,
        seen.corpus,
        encoder=encoder,
        dimensions=0,
        depth=default_depth(NEGATIVES),
        block_bytes=256 * 2**20,
    )
    say(f"Plan     {plan}; then three trainings of {steps} steps")
    with runs.locked(folder):
        mined = mine_negatives(
            seen,
            encoder=encoder,
            negatives=NEGATIVES,
            max_survival=max_survival,
            seed=seed,
            folder=folder,
            progress=progress,
        )
        naive = mine_negatives(
            seen, encoder=encoder, negatives=NEGATIVES, max_survival=1.0, seed=seed, folder=folder, progress=progress
        )
        runs.save(mined, folder, key="demo")
        say(describe(mined))
        truth = {
            name: known_false(m.negatives["query"], m.negatives["negative"], full.positives)
            for name, m in (("naive top-k", naive), ("Tamis", mined))
        }
        say("Truth    negatives that are answers by the labels kept back")
        say(table([[name, f"{t['count']:,} of {t['n']:,}", percent(t["rate"])] for name, t in truth.items()]))
        say(
            f"Training MiniLM three times, {steps} steps each; {len(test.queries):,} test queries with all their labels"
        )
        results: dict[str, Evaluation] = {"before training": retrieval.evaluate(encoder, test)}
        for name, negatives, source in (
            ("in-batch negatives only", 0, mined),
            ("naive top-k negatives", NEGATIVES, naive),
            ("Tamis negatives", NEGATIVES, mined),
        ):
            results[name] = _trained(encoder, source, test, negatives, steps, seed, folder / "trainer")
            means = results[name].means()
            say(f"  {name}: nDCG@10 {means['nDCG@10']:.4f}, MRR@10 {means['MRR@10']:.4f}")
        rows = compare(results)
        say("Results  difference of nDCG@10 to Tamis negatives, paired bootstrap over the test queries")
        say(table([[r["model"], f"{r['nDCG@10']:.4f}", f"{r['MRR@10']:.4f}", r["interval"]] for r in rows],
                  header=("", "nDCG@10", "MRR@10", "Tamis minus this, 95 %")))  # fmt: skip
        say(verdict(rows))
        report = folder / "report.html"
        (folder / "demo.json").write_text(json.dumps({"truth": truth, "results": rows}, indent=1), encoding="utf-8")
        write_page(mined, report, training=rows, truth=truth, answers=full.positives)
    say(f"Report   {report}")
    say(f"Done in {duration(time.perf_counter() - started)}")


def compare(results: dict[str, Evaluation]) -> list[dict[str, Any]]:
    """Rows of the comparison: metrics of every model and how far Tamis is from it."""
    ours = results["Tamis negatives"]
    rows = []
    for name, result in results.items():
        gap = None if result is ours else ours.against(result)["nDCG@10"]
        interval = "" if gap is None else f"{gap['difference']:+.4f} ({gap['low']:+.4f} to {gap['high']:+.4f})"
        rows.append({"model": name, **result.means(), "gap": gap, "interval": interval})
    return rows


def verdict(rows: list[dict[str, Any]]) -> str:
    """What the comparison shows, in a sentence, whichever way it went."""
    sentences = []
    for row in rows:
        if row["gap"] is None:
            continue
        low, high = row["gap"]["low"], row["gap"]["high"]
        word = "better than" if low > 0 else "worse than" if high < 0 else "not to be told apart from"
        sentences.append(f"{word} {row['model']}")
    return "Verdict  On these test queries Tamis negatives are " + ", ".join(sentences) + "."


def _load(path: str) -> Any:
    from tamis.integrations.sentence_transformers import SentenceEncoder

    return SentenceEncoder.load(path, max_length=48)


def _trained(
    encoder: Any, mined: MinedNegatives, test: RetrievalData, negatives: int, steps: int, seed: int, folder: Path
) -> Evaluation:
    """A copy of the model, trained on the negatives and judged."""
    from tamis.batches import NoDuplicatesBatchSampler
    from tamis.integrations import objectives, training
    from tamis.integrations.sentence_transformers import SentenceEncoder
    from tamis.retrieval import evaluate

    rows = training.MinedRows(mined, negatives=negatives)
    model = copy.deepcopy(encoder.model)
    training.train(
        model,
        mined,
        objectives.contrastive(temperature=0.05),
        batch_sampler=NoDuplicatesBatchSampler(rows.keys(), 16, drop_last=True, seed=seed),
        output=folder,
        negatives=negatives,
        steps=steps,
        learning_rate=1e-4,
        freeze_layers=3,
        seed=seed,
    )
    return evaluate(SentenceEncoder(model, name=encoder.name), test)
