"""The data: a loader for the published schema, and a court whose words drift, to try things on."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from tamis import checks
from tamis.evaluation.ecthr_pcr.benchmark import TemporalRetrievalBenchmark, View
from tamis.files import parsing
from tamis.randomness import Seed, as_generator

Array = np.ndarray[Any, Any]


def load_ecthr_pcr(
    path: str | Path, *, query_view: View = "facts", doc_view: View = "facts+law"
) -> TemporalRetrievalBenchmark:
    """Read the data set from a file that the user has: application number to facts, law, date and citations.

    Args:
        path: JSON, one object for all cases.
        query_view: what of a case is the query.
        doc_view: what of a case is found.

    Returns:
        the benchmark; citations of a case by itself are left out with a warning.

    Raises:
        ValueError: for a file of another schema; names the case.

    Example:
        >>> import tempfile
        >>> case = {"facts": ["A fell."], "law": [], "date": "2000-05-04", "citations": []}
        >>> with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        ...     _ = file.write(json.dumps({"1/00": case})) + file.seek(0)
        ...     load_ecthr_pcr(file.name).years.tolist()
        [2000]
    """
    with parsing(path, "JSON file"):
        cases = json.loads(Path(path).read_text(encoding="utf-8"))
    checks.require(isinstance(cases, dict) and bool(cases), f"{path} must hold one JSON object with a case per name.")
    corpus, citations, dates = {}, {}, {}
    for name, case in cases.items():
        checks.require(isinstance(case, dict), f"{path}: case {name!r} must be an object: got {checks.shown(case)}.")
        for part, kinds in (("facts", (list, str)), ("law", (list, str)), ("date", str), ("citations", list)):
            came = case.get(part)
            checks.require(
                isinstance(came, kinds), f"{path}: case {name!r} must hold {part!r}: got {checks.shown(came)}."
            )
        corpus[name] = {part: [str(sentence) for sentence in _listed(case[part])] for part in ("facts", "law")}
        citations[name] = [str(other) for other in case["citations"]]
        dates[name] = case["date"]
    own = [name for name, others in citations.items() if name in others]
    if own:
        warnings.warn(
            f"{path}: citations of a case by itself are left out: {len(own)} cases, {own[0]!r} first.",
            UserWarning,
            stacklevel=2,
        )
        citations |= {name: [other for other in citations[name] if other != name] for name in own}
    return TemporalRetrievalBenchmark(corpus, citations, dates, query_view=query_view, doc_view=doc_view)


def synthetic_court(
    *,
    years: int = 20,
    cases: int = 100,
    issues: int = 30,
    issue_words: int = 15,
    drift: float = 0.06,
    topics: int = 4,
    facts_words: int = 40,
    law_words: int = 30,
    background: int = 1000,
    citations: int = 5,
    fading: float = 4.0,
    seed: Seed = 0,
) -> TemporalRetrievalBenchmark:
    """A court in which what cases are about stays and the words for it change.

    Every case is about one issue and, within it, one topic that some of its words prefer. Each year some words of an
    issue give way to new ones that all its later cases share. Facts mix the issue's words with common ones; the law has
    such words and names the themes of what it cites. A case cites earlier cases of its issue, recent ones and those of
    its topic more often, and only a few of them: most cases of the topic could have been cited and are not.

    Args:
        years: numbered from 2000.
        cases: in a year.
        issues: how many.
        issue_words: words of an issue at any time.
        drift: share of them that is replaced each year; 0 is the control.
        topics: within an issue.
        facts_words: words of the facts; three in five are of the issue.
        law_words: words of the law.
        background: common words, by Zipf's law.
        citations: most that a case makes.
        fading: years after which an earlier case is cited 1/e as often.
        seed: of everything drawn.

    Returns:
        the benchmark.

    Raises:
        ValueError: for a drift outside [0, 1] or a number below 1.

    Example:
        >>> court = synthetic_court(years=3, cases=10, issues=2)
        >>> len(court), court.years.tolist()[::10]
        (30, [2000, 2001, 2002])
    """
    for name, value in (("years", years), ("cases", cases), ("issues", issues), ("topics", topics)):
        checks.at_least(name, value, 1)
    checks.between("drift", drift, 0.0, 1.0)
    rng = as_generator(seed)
    common = 1.0 / np.arange(1, background + 1)
    common /= common.sum()
    words = [[f"issue{i}word{j}" for j in range(issue_words)] for i in range(issues)]
    # A topic prefers some of the places of an issue's words, whatever word is there by now.
    taste = rng.dirichlet(np.full(issue_words, 0.5), size=(issues, topics))
    corpus: dict[str, dict[str, str]] = {}
    cites: dict[str, list[str]] = {}
    dates: dict[str, str] = {}
    about: list[tuple[str, int, int, int]] = []  # name, year, issue, topic
    made = issue_words
    for year in range(years):
        if year > 0:
            replaced = rng.random((issues, issue_words)) < drift
            for issue, place in zip(*np.nonzero(replaced), strict=True):
                words[issue][place] = f"issue{issue}word{made}"
                made += 1
        earlier = list(about)
        for number in range(cases):
            issue, topic = int(rng.integers(issues)), int(rng.integers(topics))
            name = f"{year:03d}-{number:04d}"
            cited = _cited(earlier, year, issue, topic, citations, fading, rng)
            themes = [f"theme{i}x{t}" for _, _, i, t in cited]
            corpus[name] = {
                "facts": _spoken(words[issue], taste[issue, topic], common, facts_words, rng),
                "law": " ".join([_spoken(words[issue], taste[issue, topic], common, law_words, rng), *themes]),
            }
            cites[name] = [other for other, *_ in cited]
            dates[name] = f"{2000 + year}-{1 + number * 12 // cases:02d}-01"
            about.append((name, year, issue, topic))
    return TemporalRetrievalBenchmark(corpus, cites, dates)


def _spoken(words: list[str], taste: Array, common: Array, count: int, rng: np.random.Generator) -> str:
    own = rng.choice(len(words), round(0.6 * count), p=taste)
    other = rng.choice(len(common), count - len(own), p=common)
    return " ".join([*(words[place] for place in own), *(f"common{place}" for place in other)])


def _cited(
    earlier: list[tuple[str, int, int, int]],
    year: int,
    issue: int,
    topic: int,
    most: int,
    fading: float,
    rng: np.random.Generator,
) -> list[tuple[str, int, int, int]]:
    """Up to ``most`` earlier cases of the issue; those of the topic eight times as often."""
    known = [case for case in earlier if case[2] == issue]
    if not known:
        return []
    weights = np.array([np.exp(-(year - when) / fading) * (8.0 if t == topic else 1.0) for _, when, _, t in known])
    count = min(most, len(known))
    chosen = rng.choice(len(known), count, replace=False, p=weights / weights.sum())
    return [known[place] for place in chosen.tolist()]


def _listed(part: str | list[str]) -> list[str]:
    return [part] if isinstance(part, str) else part
