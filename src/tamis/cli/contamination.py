"""What ``tamis decontaminate`` keeps and tells while training rows stream past the test texts."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tamis.cli.screen import percent, table

if TYPE_CHECKING:
    from tamis.evaluation import ContaminationAudit, Leaks
    from tamis.text_rows import RowBlock, TextRows

METRICS = ("longest", "token", "ngram", "extend")


@dataclass(frozen=True)
class TestText:
    """A test text and where it comes from; the place of an equal text is that of the first."""

    set: str
    id: str
    column: str
    text: str


@dataclass
class Job:
    """What is counted and kept while the training rows stream past."""

    audit: ContaminationAudit
    tests: list[TestText]
    metric: str
    threshold: float
    tokenizer: str
    show: int
    rows: int = 0
    texts: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    gone: dict[str, set[str]] = field(default_factory=dict)
    shared: int = 0
    judgements: int | None = None
    holders: dict[int, dict[str, Any]] = field(default_factory=dict)
    worst: list[tuple[float, int, int, dict[str, Any]]] = field(default_factory=list)

    def evidence(self, path: Path) -> Any:
        """A Parquet writer for ``dropped.parquet``."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        text, number = pa.string(), pa.int64()
        kinds = [
            ("file", text), ("row", number), ("id", text), ("column", text), ("text", text), ("rule", text),
            ("test_set", text), ("test_id", text), ("test_column", text), ("test_text", text),
            *((metric, pa.float64()) for metric in METRICS), ("match", text), ("test_match", text),
            *((name, number) for name in ("start", "test_start", "span", "equal")),
        ]  # fmt: skip
        return pq.ParquetWriter(path, pa.schema(kinds))

    def take(self, part: TextRows, block: RowBlock, tell: Any) -> Any:
        """Take a block in and tell the evidence: (r,) bool, the rows that are kept."""
        import numpy as np
        import pyarrow as pa

        leaks = self.audit.update(block.texts)
        leaks = replace(leaks, rows=leaks.rows - self.texts)
        self._remember_holders(part, block, leaks)
        best = leaks.best(self.metric)
        best = best.take(getattr(best, self.metric) >= self.threshold)
        order = np.lexsort((best.rows, -best.equal, -getattr(best, self.metric), block.owners[best.rows]))
        best = best.take(order[np.flatnonzero(np.diff(block.owners[best.rows][order], prepend=-1))])
        kept = np.ones(len(block), dtype=bool)
        kept[block.owners[best.rows]] = False
        rows = [self._row(part, block, best, i) for i in range(len(best.rows))]
        if rows:
            tell.write_table(pa.Table.from_pylist(rows, schema=tell.schema))
        for row in rows:
            self.dropped[row["column"]] = self.dropped.get(row["column"], 0) + 1
            self.gone.setdefault(part.path.name, set()).add(row["id"])
            self.shared += row["id"] == row["test_id"] and row["text"] == row["test_text"]
            # The count tells entries apart, the earlier before the later.
            entry = (row[self.metric], row["equal"], -sum(self.dropped.values()), row)
            if not any(seen[3]["test_text"] == row["test_text"] for seen in self.worst):
                heapq.heappush(self.worst, entry)
                if len(self.worst) > self.show:
                    heapq.heappop(self.worst)
        self.rows += len(block)
        self.texts += len(block.texts)
        return kept

    def _row(self, part: TextRows, block: RowBlock, leaks: Leaks, i: int) -> dict[str, Any]:
        """The evidence for one dropped row."""
        place, test = int(leaks.rows[i]), self.tests[int(leaks.samples[i])]
        start, other, span, equal = (int(x[i]) for x in (leaks.starts, leaks.sample_starts, leaks.spans, leaks.equal))
        owner = int(block.owners[place])
        return {
            "file": part.target, "row": block.numbers[owner], "id": block.ids[owner],
            "column": _column(part, block.columns[place]), "text": block.texts[place],
            "rule": "equal" if equal < self.audit.index.n else self.metric,
            "test_set": test.set, "test_id": test.id, "test_column": test.column, "test_text": test.text,
            **{metric: float(getattr(leaks, metric)[i]) for metric in METRICS},
            "match": _cut(block.texts[place], start, span, self.tokenizer)[1],
            "test_match": _cut(test.text, other, span, self.tokenizer)[1],
            "start": start, "test_start": other, "span": span, "equal": equal,
        }  # fmt: skip

    def _remember_holders(self, part: TextRows, block: RowBlock, leaks: Leaks) -> None:
        """Keep the training texts that hold the longest match of a test text so far."""
        import numpy as np

        holders = self.audit.holders
        new = np.unique(leaks.samples[holders[leaks.samples] == leaks.rows + self.texts])
        for sample in new.tolist():
            place = int(holders[sample]) - self.texts
            owner = int(block.owners[place])
            self.holders[sample] = {
                "file": part.target, "row": block.numbers[owner], "id": block.ids[owner],
                "column": _column(part, block.columns[place]), "text": block.texts[place],
            }  # fmt: skip

    def score(self, path: Path) -> dict[str, Any]:
        """Write ``tests.parquet``; what the report says."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        found = self.audit.result()
        scores = getattr(found, self.metric)
        found_in = scores >= self.threshold
        train = [self.holders.get(i, {}) for i in range(len(self.tests))]
        spans = zip(found.matches["start"].tolist(), found.matches["corpus_start"].tolist(),
                    found.matches["span"].tolist(), strict=True)  # fmt: skip
        matches = [
            (_cut(test.text, start, span, self.tokenizer)[1], _cut(held["text"], other, span, self.tokenizer)[1])
            if held
            else (None, None)
            for test, held, (start, other, span) in zip(self.tests, train, spans, strict=True)
        ]
        text = pa.string()
        columns: dict[str, Any] = {
            **{f"test_{name}": pa.array([getattr(t, name) for t in self.tests], text)
               for name in ("set", "id", "column", "text")},
            "tokens": found.tokens, "too_short": found.too_short,
            **{metric: getattr(found, metric) for metric in METRICS}, "contaminated": found_in,
            **{name: pa.array([held.get(name) for held in train], pa.int64() if name == "row" else text)
               for name in ("file", "row", "id", "column", "text")},
            "test_match": pa.array([pair[0] for pair in matches], text),
            "match": pa.array([pair[1] for pair in matches], text),
            **{name: found.matches[name] for name in ("span", "equal")},
        }  # fmt: skip
        pq.write_table(pa.table(columns), path)
        sets: dict[str, dict[str, int]] = {}
        for test, short, hit in zip(self.tests, found.too_short.tolist(), found_in.tolist(), strict=True):
            row = sets.setdefault(f"{test.set}, {test.column}", {"texts": 0, "too_short": 0, "contaminated": 0})
            row["texts"] += 1
            row["too_short"] += short
            row["contaminated"] += hit
        return {
            "rows": self.rows,
            "texts": self.texts,
            "dropped": sum(self.dropped.values()),
            "dropped_by_column": self.dropped,
            "judgements_dropped": self.judgements,
            "tests": sets,
        }

    def describe(self, summary: dict[str, Any], n: int, short: str) -> str:
        """The outcome as lines of text."""
        dropped = summary["dropped"]
        by = ", ".join(f"{count:,} by {column}" for column, count in self.dropped.items())
        lines = [f"Train    {self.rows:,} rows, {dropped:,} dropped ({percent(dropped / max(1, self.rows))})"]
        lines[0] += f": {by}" if by else ""
        if self.judgements is not None:
            lines.append(f"  and {self.judgements:,} judgements with them")
        lines.append("Tests    texts by what the training data hold of them")
        rows = [
            [name, f"{row['texts']:,}", f"{row['contaminated']:,}", percent(row["contaminated"] / row["texts"])]
            for name, row in summary["tests"].items()
        ]
        lines.append(table(rows, header=("test set", "texts", "contaminated", "")))
        few = sum(row["too_short"] for row in summary["tests"].values())
        if few:
            rule = "found only where a whole training text equals them" if short == "whole" else "passed over"
            lines.append(f"  {few:,} have fewer than {n} tokens: {rule}")
        if self.shared:
            lines.append(
                f"  warning: {self.shared:,} dropped rows have id and text of a test text: where train and test share "
                "a corpus, give --columns query --against-columns query"
            )
        if self.worst:
            lines.append("Matches  the longest, between brackets")
        for *_, row in sorted(self.worst, key=lambda entry: entry[:3], reverse=True):
            share = percent(row[self.metric])
            lines.append(f"  {row['file']}, row {row['row']}, {row['column']}: {share} of the test text")
            for name, text, start in (
                ("train", row["text"], row["start"]),
                ("test", row["test_text"], row["test_start"]),
            ):
                lines.append(f"    {name:5}  {_excerpt(text, start, row['span'], self.tokenizer)}")
        return "\n".join(lines)


def _column(part: TextRows, column: str) -> str:
    """What a column is called: that of a BEIR file by the file."""
    names = {"queries.jsonl": "query", "corpus.jsonl": "passage"}
    return names.get(part.path.name, column) if column == "text" else column


def _cut(text: str, start: int, span: int, tokenizer: str) -> tuple[str, str, str]:
    """A text before, in and after a run of its tokens."""
    from tamis.ngrams import normalise, word_places

    if tokenizer == "character":
        text = normalise(text)
        return text[:start], text[start : start + span], text[start + span :]
    places = word_places(text)[start : start + span]
    low, high = (places[0][0], places[-1][1]) if places else (0, 0)
    return text[:low], text[low:high], text[high:]


def _excerpt(text: str, start: int, span: int, tokenizer: str) -> str:
    """A match between brackets with some of what stands around it, on one line."""
    before, match, after = (" ".join(piece.split()) for piece in _cut(text, start, span, tokenizer))
    before = f"\u2026{before[-40:]}" if len(before) > 40 else before
    after = f"{after[:40]}\u2026" if len(after) > 40 else after
    match = f"{match[:120]} \u2026 {match[-120:]}" if len(match) > 250 else match
    return f"{before} [{match}] {after}".strip()
