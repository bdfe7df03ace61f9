"""Judge: someone who says whether a passage answers a query, a language model or a person, and is dear to ask.

A verdict is ``True``, ``"positive"`` or a probability above one half when the passage does answer the query, so that it
must not be a negative; ``False``, ``"negative"`` or less when it does not; ``"unsure"`` or exactly one half when it
cannot be told, and then the passage stays. A function is asked within a budget, and with a folder its verdicts are kept
one by one, in a file that can be given as a file of verdicts later. A file of verdicts costs nothing.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tamis import checks
from tamis.files import read_csv, read_jsonl, read_parquet
from tamis.negatives import journal

Array = np.ndarray[Any, Any]
Ask = Callable[[str, str, str], Any]
BUDGET = 500
WORDS = {"positive": 1.0, "true": 1.0, "negative": 0.0, "false": 0.0, "unsure": math.nan}
COLUMNS = ("query_id", "passage_id", "verdict")


class Judge:
    """A judge with a budget and the verdicts that it has given.

    Args:
        ask: ``ask(query, passage, positive) -> verdict``, texts in.
        budget: how many (query, passage, positive) to judge at the most, stored ones included; None for all picks.
        folder: keeps verdicts there. They belong to ``ask.fingerprint()`` if it has one, else to its name: name another
            folder when the judge changes under the same name.

    Example:
        >>> judge = Judge(lambda query, passage, positive: query in passage)
        >>> judge.verdict("tea", "green tea", "black tea"), judge.verdict("tea", "coffee", "black tea"), judge.asked
        (1.0, 0.0, 2)
    """

    def __init__(self, ask: Ask, *, budget: int | None = BUDGET, folder: str | Path | None = None) -> None:
        if not callable(ask):
            raise TypeError(
                "judge must be a function of (query, passage, positive) or a file of verdicts: got "
                f"{type(ask).__name__}."
            )
        checks.at_least("judge_budget", 0 if budget is None else budget, 0)
        self._ask, self.budget = ask, budget
        own = getattr(ask, "__qualname__", type(ask).__qualname__)
        self.name = str(getattr(ask, "name", "") or f"{getattr(ask, '__module__', '')}.{own}")
        self.folder = None if folder is None else Path(folder)
        self._given: dict[str, float] = {}
        self._path, self._stored = None, {}
        if self.folder is not None:
            print_of = getattr(ask, "fingerprint", None)
            content = str(print_of()) if callable(print_of) else self.name
            self._path = self.folder / f"verdicts-{hashlib.sha256(content.encode()).hexdigest()[:16]}.jsonl"
            rows = journal.read(self._path)
            self._stored = {r["case"]: as_probability(r["verdict"]) for r in rows if "case" in r and "verdict" in r}

    @property
    def asked(self) -> int:
        """Distinct cases whose verdict was needed so far, from the judge or from the folder."""
        return len(self._given)

    @property
    def left(self) -> float:
        """Cases that the budget still allows."""
        return np.inf if self.budget is None else max(0, self.budget - self.asked)

    def verdict(self, query: str, passage: str, positive: str, *, ids: tuple[str, str] = ("", "")) -> float:
        """Ask, unless this was asked before.

        Args:
            query: text.
            passage: text of the candidate.
            positive: text of the query's positive, for comparison.
            ids: of query and passage, for the file and for messages.

        Returns:
            probability that the passage answers the query; NaN when the judge is not sure.

        Raises:
            ValueError: when the judge fails or says what is no verdict; one line.
        """
        case = _digest(query, passage, positive)
        if case not in self._given:
            if case in self._stored:
                self._given[case] = self._stored[case]
            else:
                self._given[case] = self._answer(query, passage, positive, ids)
                if self._path is not None:
                    known = self._given[case]
                    row = dict(zip(COLUMNS, (*ids, "unsure" if math.isnan(known) else known), strict=True))
                    journal.add(self._path, [{"case": case, **row}])
        return self._given[case]

    def _answer(self, query: str, passage: str, positive: str, ids: tuple[str, str]) -> float:
        try:
            return as_probability(self._ask(query, passage, positive))
        except Exception as error:
            what = str(error).splitlines()[0][:200] if str(error) else "no message"
            kept = f"{self.asked} verdicts before it are kept"
            where = f" in {self.folder}, and the same call goes on from there" if self.folder is not None else ""
            raise ValueError(
                f"the judge failed on query {ids[0]!r}, passage {ids[1]!r} ({type(error).__name__}: {what}): {kept}"
                f"{where}."
            ) from error


def as_probability(verdict: Any) -> float:
    """A verdict as the probability that the passage answers the query.

    Args:
        verdict: a bool, a number between 0 and 1, or "positive", "negative", "true", "false", "unsure".

    Returns:
        1, 0, the number, or NaN for "unsure".

    Raises:
        ValueError: for anything else.

    Example:
        >>> as_probability(True), as_probability("negative"), as_probability("0.8"), as_probability("unsure")
        (1.0, 0.0, 0.8, nan)
    """
    if isinstance(verdict, str):
        word = verdict.strip().lower()
        if word in WORDS:
            return WORDS[word]
        try:
            number = float(word)
        except ValueError:
            number = math.nan
    elif isinstance(verdict, (bool, np.bool_, int, float, np.integer, np.floating)):
        number = float(verdict)
    else:
        number = math.nan
    if not 0 <= number <= 1:
        raise ValueError(
            f"a verdict must be a bool, a number from 0 to 1, 'positive', 'negative' or 'unsure': got {verdict!r:.60}."
        )
    return number


def read_verdicts(path: str | Path, query_ids: Sequence[str], passage_ids: Sequence[str]) -> tuple[Array, Array, Array]:
    """Read a file of verdicts: JSONL, CSV, TSV or Parquet with query_id, passage_id and verdict.

    Args:
        path: the file; other columns are passed over.
        query_ids: ids of the queries, in order.
        passage_ids: ids of the corpus, in order.

    Returns:
        query rows (m,) int64, passage rows (m,) int64, and probabilities (m,) float32, NaN for "unsure".

    Raises:
        ValueError: for a missing column, an unknown id or verdict, or two verdicts that differ; names the line.
    """
    path = Path(path)
    checks.require(path.exists(), f"{path} does not exist: it should hold verdicts.")
    query_row = {name: i for i, name in enumerate(query_ids)}
    passage_row = {name: i for i, name in enumerate(passage_ids)}
    seen: dict[tuple[int, int], float] = {}
    for number, row in _rows(path):
        where = f"{path}, {'row' if path.suffix == '.parquet' else 'line'} {number}"
        missing = next((c for c in COLUMNS if row.get(c) is None), None)
        checks.require(missing is None, f"{where}: {missing!r} is missing: verdicts need {', '.join(COLUMNS)}.")
        query, passage = str(row["query_id"]), str(row["passage_id"])
        checks.require(query in query_row, f"{where}: query_id {query!r} is not among the queries.")
        checks.require(passage in passage_row, f"{where}: passage_id {passage!r} is not in the corpus.")
        try:
            verdict = as_probability(row["verdict"])
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        known = seen.setdefault((query_row[query], passage_row[passage]), verdict)
        same = known == verdict or (math.isnan(known) and math.isnan(verdict))
        checks.require(same, f"{where}: another verdict on query {query!r} and passage {passage!r} stands before it.")
    pairs = np.array(list(seen), np.int64).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1], np.array(list(seen.values()), np.float32)


def _rows(path: Path) -> Iterable[tuple[int, dict[str, Any]]]:
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return enumerate(read_parquet(path).to_pylist(), 1)
    if suffix == ".jsonl":
        return read_jsonl(path)
    if suffix in (".csv", ".tsv"):
        return read_csv(path, "\t" if suffix == ".tsv" else ",")
    raise ValueError(f"{path} must end in .jsonl, .csv, .tsv or .parquet: got {suffix or 'no suffix'!r}.")


def _digest(*texts: str) -> str:
    digest = hashlib.sha256()
    for text in texts:
        raw = text.encode("utf-8", "surrogatepass")
        digest.update(len(raw).to_bytes(8, "little") + raw)
    return digest.hexdigest()[:32]
