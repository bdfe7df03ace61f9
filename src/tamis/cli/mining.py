"""``tamis mine``, ``audit``, ``report`` and ``export``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from tamis.cli.cluster import engine as engine_of
from tamis.cli.screen import percent, progress, quiet_libraries, say, table
from tamis.results import MinedNegatives

Output = Annotated[Path, Parameter(name=["--output", "-o"])]


def mine(
    data: Path,
    *,
    output: Output,
    encoder: list[str] | None = None,
    query_embeddings: Path | None = None,
    corpus_embeddings: Path | None = None,
    query_prompt: str | None = None,
    passage_prompt: str | None = None,
    split: str | None = None,
    negatives: int = 8,
    max_survival: float | None = None,
    calibrate: Literal["odds", "margin"] = "odds",
    margin: float | None = None,
    absolute_margin: float | None = None,
    percentage: float | None = None,
    against: Literal["lowest", "highest"] = "lowest",
    candidates: Literal["dense", "bm25", "both", "runs"] = "dense",
    run: list[Path] | None = None,
    depth: int | None = None,
    first_rank: int = 1,
    last_rank: int | None = None,
    min_score: float | None = None,
    max_score: float | None = None,
    guide: str | None = None,
    guide_margin: float = 0.0,
    cross_encoder: str | None = None,
    cross_encoder_margin: float = 0.0,
    cross_encoder_sigmoid: bool = False,
    cross_encoder_budget: int | None = None,
    judge: str | None = None,
    judge_budget: int = 500,
    judge_confirmed: Literal["drop", "positive"] = "drop",
    consistent_within: int | None = None,
    near_duplicates: float = 0.9,
    pick: Literal["top", "random", "softmax"] = "top",
    pick_temperature: float = 0.05,
    seed: int = 0,
    max_memory: str | None = None,
    engine: Literal["local", "ray"] = "local",
    address: str | None = None,
    workers: int | None = None,
    shard_rows: int | None = None,
    index: Literal["exact", "ivf"] = "exact",
    probes: int | None = None,
) -> None:
    """Mine negatives that can be trusted, with an audit that says how far.

    Without a margin, --max-survival is 0.02: the margin is chosen so that at most that share of hidden positives would
    become negatives.

    Args:
        data: BEIR folder, saved dataset, or a JSONL, CSV or Parquet file of pairs or triplets.
        output: folder for the results; the same command goes on where it was stopped.
        encoder: name or folder of a sentence-transformers or model2vec model; left out, the MiniLM of [minilm]. Given
            several times, each finds candidates, and the first gives the scores that the margins judge.
        query_embeddings: .npy or Parquet with the queries' vectors, instead of an encoder (the first of several).
        corpus_embeddings: .npy or Parquet with the passages' vectors, instead of an encoder (the first of several).
        query_prompt: put before every query; left out, the encoder's own.
        passage_prompt: put before every passage; left out, the encoder's own.
        split: which judgements to mine for; left out, train.
        negatives: negatives per query, at the most.
        max_survival: share of hidden positives that may become negatives; 1 asks for no bound. Left out, 0.02 where
            positives can be planted; where queries have one each, what leaves 0.04 of the negatives false by the odds.
        calibrate: what keeps the bound: learned odds of being an answer, or a margin to the positive.
        margin: relative margin, a share of the positive's score.
        absolute_margin: margin in units of the score.
        percentage: share of the positive's score that a negative may reach, 0.95 for instance.
        against: the positive of several that the margin is measured from.
        candidates: where candidates come from; runs for the run files alone.
        run: TREC run file (query Q0 passage rank score tag), merged with the other candidates; may be given again.
        depth: candidates per query; left out, the larger of 200 and 20 times the negatives.
        first_rank: first rank in the corpus that may be picked; 11 skips ten.
        last_rank: last rank that may be picked.
        min_score: floor of the score.
        max_score: ceiling of the score.
        guide: second encoder; drops what it finds closer to the query than the positive.
        guide_margin: margin of the guide.
        cross_encoder: name or folder of a sentence-transformers cross-encoder; reads what would be picked and replaces
            what it finds at least as relevant as the positive; its scores are kept in the output folder.
        cross_encoder_margin: how far below the positive's score a negative must stay: a difference of logits, or of
            probabilities with --cross-encoder-sigmoid.
        cross_encoder_sigmoid: turn the logits into probabilities first.
        cross_encoder_budget: pairs to score at the most; left out, as many as it takes.
        judge: file of verdicts (query_id, passage_id, verdict; JSONL, CSV, TSV or Parquet), or module:function, a
            function of your own that is imported and asked (query, passage, positive); verdicts are kept in the output
            folder.
        judge_budget: verdicts to ask a function for at the most, the most suspicious negatives first.
        judge_confirmed: what happens to a negative that the judge calls an answer.
        consistent_within: drop the negatives of a query that has no positive among so many nearest passages.
        near_duplicates: least share of equal runs of three words (Jaccard) that makes a passage a copy of a positive,
            or a query another query; 0 compares equal texts only.
        pick: hardest first, at random, or drawn softly by score.
        pick_temperature: of the soft draw.
        seed: of everything that is drawn.
        max_memory: the most memory the run may take, 2GB for instance; a run that would need more is refused. Vectors
            in .npy files may be larger: they are read piece by piece. Left out, what the machine has.
        engine: where texts are encoded and vectors searched; the result is the same.
        address: of a running Ray cluster that this machine belongs to, "auto" or host:port; left out, one is started
            here.
        workers: tasks of the cluster at once; left out, one per processor.
        shard_rows: passages per task of the search; left out, 256 MB of vectors.
        index: how vectors are searched: exactly, or approximately by the lists of FAISS; the recall of an approximate
            search is measured against the exact one on 200 queries, printed, stored and shown in the report.
        probes: lists that a query of an approximate search looks into; left out, by the size of the corpus.
    """
    from tamis import approximate, encoders, runs
    from tamis.data import read
    from tamis.files import read_embeddings
    from tamis.mapped import is_mapped
    from tamis.negatives.mine import default_depth, mine_negatives
    from tamis.plan import duration, parse_bytes, plan_mining
    from tamis.search import DEFAULT_MEMORY

    found = read(data, split=split)
    by_vectors = candidates in ("dense", "both")
    approximate.check(index, probes, ray=engine != "local", passages=len(found.corpus), vectors=by_vectors)
    limit = None if max_memory is None else parse_bytes(max_memory)
    block = DEFAULT_MEMORY if limit is None else min(DEFAULT_MEMORY, limit // 8)
    vectors = [
        None if path is None else read_embeddings(path, table.ids)
        for path, table in ((query_embeddings, found.queries), (corpus_embeddings, found.corpus))
    ]
    whole = all(v is not None for v in vectors)
    names: list[Any] = ([*encoder] if encoder else [None]) if by_vectors else []
    quiet_libraries()
    models = [None if whole and number == 0 else encoders.resolve(name) for number, name in enumerate(names)]
    second = None if guide is None else encoders.resolve(guide)
    reader = None if cross_encoder is None else _cross_encoder(cross_encoder)
    asked, judge_digest = (None, None) if judge is None else _judge(judge)
    settings: dict[str, Any] = {
        "query_prompt": query_prompt, "passage_prompt": passage_prompt, "negatives": negatives,
        "max_survival": max_survival, "calibrate": calibrate, "relative_margin": margin,
        "absolute_margin": absolute_margin, "percentage": percentage, "against": against, "depth": depth,
        "candidates_from": [] if candidates == "runs" else candidates,
        "first_rank": first_rank, "last_rank": last_rank, "min_score": min_score, "max_score": max_score,
        "guide_margin": guide_margin, "cross_encoder_margin": cross_encoder_margin,
        "cross_encoder_sigmoid": cross_encoder_sigmoid, "cross_encoder_budget": cross_encoder_budget,
        "judge_budget": judge_budget, "judge_confirmed": judge_confirmed, "consistent_within": consistent_within,
        "near_duplicates": near_duplicates or None, "pick": pick, "pick_temperature": pick_temperature, "seed": seed,
        "index": index, "probes": probes,
    }  # fmt: skip
    prints = [
        None if m is None else (encoders.fingerprint(m, found.corpus.texts), encoders.prompts_of(m))
        for m in (*models, second)
    ]
    given = [None if p is None else runs.file_digest(p) for p in (query_embeddings, corpus_embeddings)]
    listed = [runs.file_digest(path) for path in run or ()]
    opinions = [None if reader is None else reader.fingerprint(), judge_digest]
    with runs.locked(output), engine_of(engine, address=address, workers=workers, shard_rows=shard_rows) as where:
        made_from = {"encoders": prints, "embeddings": given, "runs": listed, "opinions": opinions}
        key = runs.run_key(found, settings | made_from)
        if runs.is_current(output, key):
            say(f"Nothing changed since the last run: {output} is up to date.")
            mined = runs.load(output)
        else:
            wanted = depth or default_depth(negatives, last_rank)
            size = next((v.shape[1] for v in vectors if v is not None), 0)
            plans = [
                plan_mining(
                    found.queries,
                    found.corpus,
                    encoder=model,
                    dimensions=size,
                    depth=wanted,
                    block_bytes=block,
                    in_files=model is None and is_mapped(vectors[1]),
                    copied=index == "ivf",
                    words=candidates in ("bm25", "both"),
                )
                for model in models or [None]
            ]
            plan = replace(plans[0], seconds=sum(p.seconds for p in plans), peak_bytes=sum(p.peak_bytes for p in plans))
            say(f"Plan     {plan}")
            plan.refuse_unless_it_fits(limit)
            if engine != "local" and plan.dimensions:
                cluster = where.plan(plan.queries, plan.passages, plan.dimensions, wanted, max_memory=block)
                say(f"Cluster  {cluster}; about {duration(plan.seconds * where.share)} where processors are like these")
            mined = mine_negatives(
                found, encoder=models or None, query_embeddings=vectors[0], corpus_embeddings=vectors[1], guide=second,
                runs=run or (),
                cross_encoder=reader, judge=asked,
                max_memory=block, folder=output, progress=progress, engine=where, **settings,
            )  # fmt: skip
            mined.summary["peak_memory_mb"] = _peak_memory_mb()
            runs.save(mined, output, key=key)
    say(describe(mined))
    say(f"Written to {output}; look at it with: tamis report {output}")


def audit(mined: Path, *, truth: Path | None = None, split: str | None = None) -> None:
    """Say what leaks through a mined set: planted positives, duplicates, skew; with intervals.

    Args:
        mined: folder that tamis mine wrote.
        truth: data with fuller judgements; counts the negatives that they call positives.
        split: which judgements of the truth.
    """
    from tamis import runs
    from tamis.data import read
    from tamis.negatives.audit import duplicates, known_false
    from tamis.ngrams import text_groups

    found = runs.load(mined)
    say(describe_audit(found))
    groups = text_groups(found.corpus.texts)[0]
    query, negative = found.negatives["query"], found.negatives["negative"]
    say("Duplicates")
    say(table([[what, count] for what, count in duplicates(query, negative, found.positives, groups).items()]))
    skew = found.summary["skew"]
    say("Skew")
    say(
        table(
            [
                ["negatives per query, mean", f"{skew['per_query_mean']:.2f}"],
                ["queries without a negative", f"{skew['queries_without']:,}"],
                ["share of the corpus in use", percent(skew["share_of_corpus"])],
                ["share of all negatives that the most used 1 % of them take", percent(skew["top_1_percent_take"])],
                ["uses of the most used passage", f"{skew['most_used']:,}"],
            ]
        )
    )
    if truth is not None:
        full = read(truth, split=split)
        row = {name: i for i, name in enumerate(found.corpus.ids)}
        judged = dict(zip(full.queries.ids, full.positives, strict=True))
        from numpy import array, int64

        known = [
            array([row[full.corpus.ids[p]] for p in judged.get(name, ()) if full.corpus.ids[p] in row], int64)
            for name in found.queries.ids
        ]
        seen = known_false(query, negative, known)
        low, high = seen["interval"]
        say(f"Truth    {seen['count']:,} of {seen['n']:,} negatives are positives by {truth}: "
            f"{percent(seen['rate'])} ({percent(low)} to {percent(high)})")  # fmt: skip


def report(mined: Path, *, output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None) -> None:
    """Write one self-contained HTML page: funnel, scores, survival curve, examples to judge by eye.

    Args:
        mined: folder that tamis mine wrote.
        output: the page; left out, report.html in that folder.
    """
    from tamis import runs

    path = output or mined / "report.html"
    runs.load(mined).report(path)
    say(f"Report   {path}")


def export(
    mined: Path,
    *,
    output: Output,
    form: Literal[
        "triplet", "n-tuple", "labeled-pair", "labeled-list", "flagembedding", "tevatron", "msmarco"
    ] = "triplet",
) -> None:
    """Write mined negatives in the form that a trainer reads.

    Args:
        mined: folder that tamis mine wrote.
        output: the file.
        form: the first four are Parquet for sentence-transformers; then JSONL of FlagEmbedding and Tevatron, and TSV.
    """
    from tamis import export as exporting
    from tamis import runs

    count = exporting.write(runs.load(mined), form, output)
    say(f"{count:,} rows written to {output}")


def describe(mined: MinedNegatives) -> str:
    """The funnel and the audit as lines of text."""
    data = mined.summary["data"]
    head = f"Mined    {len(mined):,} negatives for {data['queries']:,} queries from {data['passages']:,} passages"
    candidates = max(1, mined.summary["funnel"][0]["count"])
    rows = [[row["step"], f"{row['count']:,}", percent(row["count"] / candidates)] for row in mined.summary["funnel"]]
    width = max(len(r[1]) for r in rows)
    lines = [head, table([[a, b.rjust(width), c.rjust(7)] for a, b, c in rows]), *_opinions(mined)]
    lines += [f"Search   {search['says']}" for search in [mined.summary.get("search")] if search]
    return "\n".join([*lines, describe_audit(mined)])


def describe_audit(mined: MinedNegatives) -> str:
    """The audit as lines of text."""
    found = mined.summary["audit"]
    lines = [f"Audit    {found['says']}"]
    margin = found.get("margin")
    if margin and margin["value"] is not None:
        chosen = found.get("target") not in (None, 1) and found["mode"] != "none"
        target = f", chosen for a survival of at most {found['target']:.3g}" if chosen else ""
        lines.append(f"  margin: {margin['kind']} {margin['value']:.4f}{target}")
    if found["mode"] == "positive odds":
        expected = percent(found["expected_false"])
        lines.append(f"  without a ceiling {expected} of the negatives would be false, as far as the odds can tell")
    kept = found.get("kept_by_rules")
    if kept and kept["rate"] is not None:
        low, high = kept["interval"]
        lines.append(
            f"  the rules alone would have let {percent(kept['rate'])} pass ({percent(low)} to {percent(high)})"
        )
    if found.get("cross_check", {}).get("rate") is not None:
        check = found["cross_check"]
        lines.append(f"  cross-check: {check['count']} of {check['n']} planted positives would have become negatives")
    lines += [f"  warning: {text}" for text in found["warnings"]]
    return "\n".join(lines)


def _opinions(mined: MinedNegatives) -> list[str]:
    """What cross-encoder and judge had to say, a line each."""
    found = mined.summary.get("second_opinions", {})
    lines = []
    if "cross_encoder" in found:
        seen = found["cross_encoder"]
        lines.append(
            f"Opinion  {seen['name']} read {seen['pairs']:,} pairs and dropped {seen['dropped']:,} candidates; "
            f"{seen['picks_unscored']:,} negatives are unread"
        )
    if "judge" in found:
        lines.append(f"Judge    {found['judge']['says']} {found['judge']['picks_unjudged']:,} negatives are unjudged.")
    return lines


def _cross_encoder(name: str) -> Any:
    """A cross-encoder by name or folder; code that a model brings along is not run."""
    from tamis.integrations.sentence_transformers import CrossEncoderScorer

    return CrossEncoderScorer.load(name)


def _judge(name: str) -> tuple[Any, str]:
    """A file of verdicts, or the function that ``module:function`` names; and a digest of either."""
    import hashlib
    import importlib
    import inspect
    import sys

    from tamis import runs

    if Path(name).exists():
        return Path(name), runs.file_digest(Path(name))
    module, colon, function = name.partition(":")
    if not colon or not all(part.isidentifier() for part in [*module.split("."), *function.split(".")]):
        raise ValueError(f"--judge must be a file of verdicts or module:function: there is no file {name!r}.")
    # A program that is installed does not look for modules where it is called.
    sys.path.insert(0, str(Path.cwd()))
    try:
        found: Any = importlib.import_module(module)
        for part in function.split("."):
            found = getattr(found, part)
    except Exception as error:
        what = str(error).splitlines()[0] if str(error) else "no message"
        raise ValueError(f"--judge {name} cannot be imported ({type(error).__name__}: {what}).") from error
    if not callable(found):
        raise ValueError(f"--judge {name} must be a function: got {type(found).__name__}.")
    own = getattr(found, "fingerprint", None)
    try:
        source = str(own()) if callable(own) else inspect.getsource(inspect.getmodule(found) or found)
    except (OSError, TypeError):
        source = ""
    return found, hashlib.sha256(f"{name}\n{source}".encode()).hexdigest()


def _peak_memory_mb() -> int | None:
    """The largest resident set so far, where the system tells."""
    try:
        import resource
    except ImportError:
        return None
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
