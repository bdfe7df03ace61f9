"""The verses of a public-domain book in three translations: a query, one positive that is seen, one that is hidden."""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path

import numpy as np

from tamis.data import RetrievalData, from_python

FILE = Path(__file__).parent / "fixtures" / "mark.tsv"


@cache
def rows() -> list[tuple[str, str, str, str]]:
    """(key, query, seen, hidden) per verse."""
    with FILE.open(encoding="utf-8") as file:
        return [(f"{r[0]}:{r[1]}", r[2], r[3], r[4]) for r in csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)]


@cache
def data(both: int = 0) -> RetrievalData:
    """All verses; the first ``both`` queries know both of their positives, the others one."""
    corpus = {f"kjv {k}": seen for k, _, seen, _ in rows()} | {f"asv {k}": hidden for k, _, _, hidden in rows()}
    queries = {k: q for k, q, _, _ in rows()}
    positives = {k: [f"kjv {k}", f"asv {k}"] if i < both else [f"kjv {k}"] for i, (k, _, _, _) in enumerate(rows())}
    return from_python(queries, corpus, positives, name="mark")


class LetterEncoder:
    """Counts of letter triples, folded into 256 dimensions as the salt says: no model, yet near texts are near."""

    name = "letters"

    def __init__(self, salt: int = 0) -> None:
        self.salt = salt
        self.calls = 0

    def encode(self, texts: list[str]) -> np.ndarray:
        self.calls += len(texts)
        out = np.zeros((len(texts), 256), np.float32)
        for row, text in enumerate(texts):
            letters = np.frombuffer(f"  {text.lower()}  ".encode("ascii", "replace"), np.uint8).astype(np.int64)
            codes = (letters[:-2] * 961 + letters[1:-1] * 31 + letters[2:]) * (self.salt + 1) % 255
            out[row] = np.sqrt(np.bincount(codes, minlength=256))
            out[row, 255] = 0.1
        return out
