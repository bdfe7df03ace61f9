"""``tamis decontaminate``: training data without what gives a test set away, and test sets scored by what was given."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from tamis.cli.contamination import Job, TestText
from tamis.cli.screen import say

if TYPE_CHECKING:
    from tamis.text_rows import RowBlock, TextRows

OUTPUTS = ("report.json", "tests.parquet", "dropped.parquet")
Output = Annotated[Path, Parameter(name=["--output", "-o"])]


def decontaminate(
    train: Path,
    *,
    against: list[Path],
    output: Output,
    metric: Literal["longest", "token", "ngram", "extend"] = "longest",
    threshold: float = 0.3,
    n: int = 8,
    tokenizer: Literal["word", "character"] = "word",
    mincount: int = 1,
    skip_budget: int = 0,
    strict: bool = True,
    short: Literal["whole", "zero"] = "whole",
    columns: list[str] | None = None,
    against_columns: list[str] | None = None,
    split: str | None = None,
    against_split: str | None = None,
    show: int = 3,
) -> None:
    """Drop the training rows that give a test text away, and score the test texts by what the training data hold.

    The training data stream past an index of the test texts. Written are the rows that are kept, in the form they came
    in; dropped.parquet, with the test text, the scores and the match for each row that is not; tests.parquet, with all
    metrics and the longest match for each test text; and report.json.

    Example: tamis decontaminate train.jsonl --against beir/nfcorpus --against test.csv -o clean/

    Where train and test share a corpus: --columns query --against-columns query.

    Args:
        train: BEIR folder, saved dataset, or a JSONL, CSV, TSV or Parquet file.
        against: a test set, of the same forms; may be given again. Of a BEIR folder the queries and their positives.
        output: folder for the results.
        metric: what is held against the threshold, for a test text and one training row: the longest match, or the
            share of matched tokens, of matched n-grams, or of tokens in matches followed over the skips.
        threshold: share of a test text, above 0 and at most 1, from which on a training row is dropped.
        n: tokens per n-gram; larger ones miss contamination.
        tokenizer: words, or characters for languages without spaces.
        mincount: how often an n-gram must occur in the training data; above 1 they are read twice.
        skip_budget: differing tokens that a match may be followed over, for longest and extend.
        strict: the longest match is one run; otherwise matches are stitched over gaps of the skip budget.
        short: what becomes of test texts of fewer than n tokens: compared as a whole, or passed over.
        columns: that hold the training texts, may be given again; of a BEIR folder query and passage. Left out, the
            known ones (query, positive, text and their like; negatives are not among them).
        against_columns: that hold the test texts; of a BEIR folder query and positive.
        split: which training split of a folder; left out, train.
        against_split: which test split of a folder; left out, test.
        show: so many of the dropped rows are shown, the worst first.
    """
    from tamis import checks, runs
    from tamis.evaluation import ContaminationAudit
    from tamis.files import appearing

    started = time.perf_counter()
    checks.require(0 < threshold <= 1, f"threshold must lie between 0 (not included) and 1: got {threshold!r}.")
    checks.at_least("show", show, 0)
    tests = _tests(against, against_split, against_columns)
    audit = ContaminationAudit(
        [test.text for test in tests],
        n=n, tokenizer=tokenizer, mincount=mincount, skip_budget=skip_budget, strict=strict, short=short,
    )  # fmt: skip
    parts, judgements = _parts(train, split, columns)
    taken = next((part.target for part in parts if part.target in OUTPUTS), None)
    checks.require(taken is None, f"{train} is called as one of the results: rename it, {taken} is written here.")
    if mincount > 1:
        for part in parts:
            for block in _counted(part, "counting"):
                audit.count(block.texts)
    job = Job(audit, tests, metric, threshold, tokenizer, show)
    with runs.locked(output), ExitStack() as stack:
        # What enters first takes its name last.
        report = stack.enter_context(appearing(output / "report.json"))
        scored = stack.enter_context(appearing(output / "tests.parquet"))
        dropped = stack.enter_context(appearing(output / "dropped.parquet"))
        with job.evidence(dropped) as tell:
            for part in parts:
                target = output / part.target
                temporary = stack.enter_context(appearing(target))
                with part.writer(temporary) as write:
                    for block in _counted(part, "reading"):
                        write(block, job.take(part, block, tell))
        if judgements is not None:
            (output / "qrels").mkdir(exist_ok=True)
            _filter_judgements(judgements, stack.enter_context(appearing(output / "qrels" / judgements.name)), job)
            for name in {"corpus.jsonl", "queries.jsonl"} - {part.path.name for part in parts}:
                shutil.copyfile(train / name, stack.enter_context(appearing(output / name)))
        summary = job.score(scored)
        settings = {
            "train": str(train), "against": [str(path) for path in against], "metric": metric, "threshold": threshold,
            "n": n, "tokenizer": tokenizer, "mincount": mincount, "skip_budget": skip_budget, "strict": strict,
            "short": short, "columns": columns, "against_columns": against_columns, "split": split,
            "against_split": against_split,
        }  # fmt: skip
        summary |= {"settings": settings, "seconds": round(time.perf_counter() - started, 2)}
        report.write_text(json.dumps(summary, indent=1), encoding="utf-8")
    say(job.describe(summary, n, short))
    say(f"Written to {output}: " + ", ".join([*(part.target for part in parts), "dropped.parquet", "tests.parquet"]))


def _tests(paths: list[Path], split: str | None, columns: list[str] | None) -> list[TestText]:
    """The distinct texts of the test sets, in order."""
    from tamis.checks import require
    from tamis.data import read, splits_of
    from tamis.text_rows import TextRows

    found: dict[str, TestText] = {}
    for path in paths:
        name = path.resolve().name
        seen = 0
        if _is_beir(path):
            _check_columns(path, columns, ("query", "positive"))
            data = read(path, split=split or ("test" if "test" in splits_of(path) else None))
            judged = sorted({int(row) for rows in data.positives for row in rows})
            held = {
                "query": zip(data.queries.ids, data.queries.texts, strict=True),
                "positive": ((data.corpus.ids[row], data.corpus.texts[row]) for row in judged),
            }
            for column in columns or held:
                for key, text in held[column]:
                    seen += 1
                    found.setdefault(text, TestText(name, key, column, text))
        else:
            chosen = split or ("test" if (path / "test" / "state.json").exists() else None)
            for block in TextRows(path, columns=columns, split=chosen).blocks():
                for text, owner, column in zip(block.texts, block.owners.tolist(), block.columns, strict=True):
                    seen += 1
                    found.setdefault(text, TestText(name, block.ids[owner], column, text))
        require(seen > 0, f"{path} holds no test text.")
    return list(found.values())


def _parts(train: Path, split: str | None, columns: list[str] | None) -> tuple[list[TextRows], Path | None]:
    """The files of the training data that hold texts, and the judgements of a BEIR folder."""
    from tamis.files import choose_split, lines
    from tamis.text_rows import TextRows

    if not _is_beir(train):
        return [TextRows(train, columns=columns, split=split)], None
    _check_columns(train, columns, ("query", "passage"))
    found = [path.stem for path in (train / "qrels").glob("*.tsv")]
    judgements = train / "qrels" / f"{choose_split(found, split, train)}.tsv"
    judged = {line.split("\t", 1)[0] for line in lines(judgements)}
    names = {"query": ("queries.jsonl", judged), "passage": ("corpus.jsonl", None)}
    chosen = [names[column] for column in names if columns is None or column in columns]
    return [TextRows(train / name, columns=["text"], only=only) for name, only in chosen], judgements


def _filter_judgements(judgements: Path, target: Path, job: Job) -> None:
    """Write the judgements without those of dropped queries and passages."""
    from tamis.files import lines

    job.judgements = 0
    queries, passages = (job.gone.get(name, set()) for name in ("queries.jsonl", "corpus.jsonl"))
    with target.open("w", encoding="utf-8", newline="") as out:
        for line in lines(judgements):
            fields = line.rstrip("\r\n").split("\t")
            passage = fields[2] if len(fields) == 4 else fields[1] if len(fields) > 1 else ""
            if fields[0] in queries or passage in passages:
                job.judgements += 1
            else:
                out.write(line)


def _is_beir(path: Path) -> bool:
    return path.is_dir() and ((path / "corpus.jsonl").exists() or (path / "queries.jsonl").exists())


def _check_columns(path: Path, columns: list[str] | None, known: tuple[str, ...]) -> None:
    bad = next((column for column in columns or () if column not in known), None)
    if bad is not None:
        raise ValueError(f"{path} is a BEIR folder: its columns are {' and '.join(known)}, got {bad!r}.")


def _counted(part: TextRows, label: str) -> Iterator[RowBlock]:
    """The blocks of a file, with a bar on stderr."""
    from tqdm import tqdm

    with tqdm(desc=f"{label} {part.path.name}", unit=" rows", file=sys.stderr, disable=not sys.stderr.isatty(),
              leave=False) as bar:  # fmt: skip
        for block in part.blocks():
            yield block
            bar.update(len(block))
