"""Refresh: negatives mined again with the model as it is now, between the epochs of its training.

Negatives are hard for the weights that found them. ANCE (arXiv:2007.00808) and ADORE (arXiv:2104.08051) mine again as
the weights move; a cache that does not see the move hands back the first negatives for ever. Here vectors are kept
under a digest of the weights in memory, the texts, the prompt and the truncation: equal weights cost no encoding,
changed weights are never answered with old vectors. Mining has the settings of the first mining; a margin that was
chosen from the data is chosen anew. What changed is counted, and both sets are judged by the new weights.
"""

from __future__ import annotations

import inspect
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tamis import checks, encoders
from tamis.data import RetrievalData
from tamis.negatives.mine import mine_negatives
from tamis.negatives.rules import Reference
from tamis.results import SOURCES, MinedNegatives
from tamis.search import pair_scores

Array = np.ndarray[Any, Any]
Progress = Callable[[Iterable[int], str], Iterable[int]]

RENAMED = {"absolute": "absolute_margin", "relative": "relative_margin"}
RESULTS = ("encoder", "guide", "runs", "calibrated", "score_ceiling", "odds_ceiling")
"""What the settings in a summary only name, or found: mining does not take it as it stands there."""


@dataclass(frozen=True)
class Refreshed:
    """Negatives under the weights of this moment.

    Args:
        mined: the new negatives, of the same queries, passages and positives.
        queries: (q, d) float32 vectors of the queries, as the model gives them.
        report: texts encoded and reused, what changed (see ``changed``), scores and slack (see ``hardness``), the
            margin before and after, what the audit says, seconds.
    """

    mined: MinedNegatives
    queries: Array
    report: dict[str, Any]


def refresh(
    mined: MinedNegatives,
    encoder: Any,
    *,
    prompts: tuple[str, str] | None = None,
    negatives: int | None = None,
    guide: Any = None,
    folder: Path | None = None,
    known: Path | None = None,
    progress: Progress | None = None,
) -> Refreshed:
    """Encode what changed and mine again with the settings of an earlier mining.

    Args:
        mined: the negatives so far; its summary has the settings.
        encoder: the model as it is now.
        prompts: put before queries and passages, those that the model is trained with; None takes those that mining
            was told, or else the encoder's own.
        negatives: of every query only so many, the first, are compared; None compares all.
        guide: the guide of the earlier mining, if there was one; its vectors are encoded once.
        folder: keeps the vectors of one generation; new weights replace them.
        known: folder of the first mining, read only: its vectors serve as long as the weights are equal.
        progress: wraps the encoding loop, ``progress(shards, label)``.

    Returns:
        the new negatives, the vectors of the queries, and the report.

    Raises:
        ValueError: when the earlier mining cannot be repeated with this model; see ``settings_of`` and ``check``.

    Example:
        >>> class Half:
        ...     def encode(self, texts):
        ...         return np.array([[1.0, len(t) / 4] for t in texts])
        >>> mined = mine_negatives(["a"], ["b", "cc", "ddd"], [[0]], encoder=Half(), percentage=1.0, negatives=1)
        >>> refresh(mined, Half()).report["changed"]["share"]
        0.0
    """
    started = time.perf_counter()
    check(mined, guide)
    arguments = settings_of(mined)
    live = _Counted(encoders.resolve(encoder))
    if prompts is None:
        told = {"query": arguments.get("query_prompt"), "passage": arguments.get("passage_prompt")}
        own = encoders.prompts_of(live.encoder) | {name: text for name, text in told.items() if text is not None}
        prompts = own["query"], own["passage"]
    kept = (mined.queries.texts, prompts[0], "queries"), (mined.corpus.texts, prompts[1], "corpus")
    sides = [_vectors(live, texts, prompt, stem, folder, known, progress) for texts, prompt, stem in kept]
    if guide is not None and folder is not None and known is not None and not (folder / "guide").exists():
        # The guide does not learn: what the first mining encoded is still right, and its key says so.
        if (known / "guide").is_dir():
            shutil.copytree(known / "guide", folder / "guide")
    encoded = time.perf_counter()
    name = str(mined.summary.get("data", {}).get("name", "data"))
    data = RetrievalData(
        mined.queries, mined.corpus, list(mined.positives), [np.ones(len(p)) for p in mined.positives], name
    )
    fresh = mine_negatives(
        data,
        query_embeddings=sides[0],
        corpus_embeddings=sides[1],
        guide=guide,
        folder=folder,
        progress=progress,
        **arguments,
    )
    fresh.summary["settings"] |= {"encoder": live.name, "guide": mined.summary["settings"].get("guide")}
    total = len(mined.queries) + len(mined.corpus)
    report = {
        "texts_encoded": live.encoded,
        "texts_reused": total - live.encoded,
        "changed": changed(mined, fresh, limit=negatives),
        "hardness": hardness(mined, fresh, (sides[0], sides[1]), limit=negatives),
        # A margin that is chosen anew can move more negatives than the weights do: both stand here.
        "margin": {name: m.summary["audit"].get("margin") for name, m in (("before", mined), ("after", fresh))},
        "audit": fresh.summary["audit"].get("says"),
        "warnings": fresh.summary["audit"].get("warnings", []),
        "seconds": {
            "encode": round(encoded - started, 3),
            "mine": round(time.perf_counter() - encoded, 3),
        },
    }
    return Refreshed(fresh, np.asarray(sides[0]), report)


def settings_of(mined: MinedNegatives) -> dict[str, Any]:
    """The arguments of ``mine_negatives`` that repeat a mining run, from its summary.

    Encoder, embeddings and guide are no part of them, nor are the seconds and bytes it may take. A margin that was
    chosen from the data is left out: it was found under the old weights.

    Args:
        mined: negatives with their summary.

    Returns:
        keyword arguments.

    Raises:
        ValueError: when the summary has no settings, or one that mining does not know.
    """
    found = mined.summary.get("settings")
    checks.require(
        isinstance(found, Mapping) and "negatives" in found,
        "mined must come from tamis.mine to be refreshed: its summary has no settings of a mining run.",
    )
    assert found is not None
    arguments = {RENAMED.get(name, name): value for name, value in found.items() if name not in RESULTS}
    if arguments.get("max_survival") is not None or found.get("calibrated"):
        arguments |= {"absolute_margin": None, "relative_margin": None, "percentage": None}
    strange = sorted(set(arguments) - set(inspect.signature(mine_negatives).parameters))
    checks.require(
        not strange,
        f"mined cannot be refreshed: this version of mining does not know the settings {', '.join(strange)}.",
    )
    return arguments


def check(mined: MinedNegatives, guide: Any) -> None:
    """Say in one line why these negatives cannot be refreshed.

    Args:
        mined: the negatives.
        guide: the guide that is at hand.

    Raises:
        ValueError: when the summary does not tell how they were mined, no model found the candidates, or the guide is
            missing or one too many.
    """
    settings_of(mined)
    settings = mined.summary["settings"]
    source = settings.get("candidates_from", "dense")
    sources = [source] if isinstance(source, str) else list(source)
    checks.require(
        "dense" in sources or "both" in sources,
        f"refresh_every needs candidates that the model finds: these were mined with candidates from "
        f"{', '.join(map(str, sources))} alone.",
    )
    opinions = mined.summary.get("second_opinions", {})
    other = not settings.get("runs") and not set(mined.summary.get("sources", SOURCES)) <= set(SOURCES)
    more = {
        "run files": settings.get("runs"),
        "several encoders": other,
        "a cross-encoder": opinions.get("cross_encoder"),
        "a judge": opinions.get("judge"),
    }
    named = [what for what, there in more.items() if there]
    checks.require(
        not named,
        f"refresh_every cannot repeat this mining: it had {' and '.join(named)}, which its summary only names.",
    )
    used = settings.get("guide")
    if used is not None and guide is None:
        raise ValueError(f"guide must be given: these negatives were mined with the guide {used!r}.")
    if used is None and guide is not None:
        raise ValueError("guide must be left out: these negatives were mined without one.")


def changed(before: MinedNegatives, after: MinedNegatives, *, limit: int | None = None) -> dict[str, Any]:
    """How far two sets of negatives of the same queries differ.

    Args:
        before: the old negatives.
        after: the new ones.
        limit: of every query only so many, the first, are compared.

    Returns:
        before, after (negatives in each), gone, new (in one of them only), share (of the larger set that the other does
        not hold; None when both are empty), jaccard (mean over the queries that have a negative in either), queries
        (how many differ), queries_without (that have none now).
    """
    passages = len(before.corpus)
    old, new = (q * passages + n for q, n in (_first(m, limit) for m in (before, after)))
    both = np.intersect1d(old, new)
    counts = [np.bincount(pairs // passages, minlength=len(before.queries)) for pairs in (old, new, both)]
    union = counts[0] + counts[1] - counts[2]
    some = union > 0
    return {
        "before": len(old),
        "after": len(new),
        "gone": len(old) - len(both),
        "new": len(new) - len(both),
        "share": 1 - len(both) / max(len(old), len(new)) if some.any() else None,
        "jaccard": float((counts[2][some] / union[some]).mean()) if some.any() else None,
        "queries": int((union > counts[2]).sum()),
        "queries_without": int((counts[1] == 0).sum()),
    }


def hardness(
    before: MinedNegatives, after: MinedNegatives, vectors: tuple[Array, Array], *, limit: int | None = None
) -> dict[str, dict[str, float | None]]:
    """How hard the old and the new negatives are for the weights of this moment.

    Args:
        before: the old negatives.
        after: the new ones, mined under these weights.
        vectors: (q, d) of the queries and (n, d) of the passages, under these weights.
        limit: of every query only so many, the first, count.

    Returns:
        per set ("before", "after"): score (mean similarity to the query) and slack (mean of what the query's positive,
        the one that the margin is measured from, scores above it); None for an empty set.
    """
    settings = after.summary["settings"]
    if settings.get("similarity", "cosine") == "cosine":
        vectors = encoders.unit_rows(vectors[0], "the queries' vectors"), encoders.unit_rows(vectors[1], "the corpus's")

    def similarity(query_rows: Array, passage_rows: Array) -> Array:
        return np.asarray(pair_scores(*vectors, query_rows, passage_rows))

    everyone, against = np.arange(len(after.queries)), settings.get("against", "lowest")
    reference = Reference.of(everyone, after.positives, similarity, None, against).score
    found: dict[str, dict[str, float | None]] = {}
    for name, mined in (("before", before), ("after", after)):
        query, negative = _first(mined, limit)
        scores = similarity(query, negative).astype(np.float64)
        slack = reference[query] - scores
        some = len(scores) > 0
        found[name] = {
            "score": float(scores.mean()) if some else None,
            "slack": float(slack.mean()) if some else None,
        }
    return found


def line(report: Mapping[str, Any], *, queries: int) -> str:
    """A refresh in one line for people.

    Args:
        report: see ``Refreshed``, with the epoch and the step that it came after.
        queries: how many there are.

    Returns:
        the line.
    """
    change, hard = report["changed"], report["hardness"]
    seconds = sum(report["seconds"].values())
    parts = [f"Refresh  after epoch {report['epoch']}, step {report['step']}"]
    share = "no" if change["share"] is None else f"{100 * change['share']:.1f} % of the"
    parts.append(f"{report['texts_encoded']:,} texts encoded again, {share} negatives changed")
    if change["jaccard"] is not None:
        parts[-1] += f" ({change['queries']:,} of {queries:,} queries, Jaccard {change['jaccard']:.3f})"
    for name in ("score", "slack"):
        values = [f"{hard[side][name]:.3f}" if hard[side][name] is not None else "-" for side in ("before", "after")]
        parts.append(f"mean {name} {values[0]} -> {values[1]}")
    margins = [_margin(report["margin"][side]) for side in ("before", "after")]
    moved = f"; margin {margins[0]} -> {margins[1]}" if margins[0] != margins[1] else ""
    return f"{parts[0]}: {parts[1]}; under these weights {parts[2]}, {parts[3]}{moved}; {seconds:.0f} s"


def _margin(margin: Mapping[str, Any] | None) -> str:
    """A margin of an audit in two words."""
    return "none" if margin is None or margin["value"] is None else f"{margin['kind']} {margin['value']:.4f}"


class _Counted:
    """An encoder whose weights stand still for the length of a refresh: digested once, texts counted."""

    def __init__(self, encoder: encoders.Encoder) -> None:
        self.encoder = encoder
        self.name = encoders.name_of(encoder)
        self.encoded = 0
        self.digest = ""

    def encode(self, texts: list[str]) -> Any:
        self.encoded += len(texts)
        return self.encoder.encode(texts)

    def digest_for(self, texts: Sequence[str]) -> None:
        """Take the fingerprint, of the encoder itself and not of this wrapper, so that keys fit those of mining."""
        if not self.digest or not callable(getattr(self.encoder, "fingerprint", None)):
            self.digest = encoders.fingerprint(self.encoder, texts)

    def fingerprint(self) -> str:
        return self.digest


def _vectors(
    live: _Counted,
    texts: Sequence[str],
    prompt: str,
    stem: str,
    folder: Path | None,
    known: Path | None,
    progress: Progress | None,
) -> Array:
    """Vectors of one side: those that are there under the right key, else encoded."""
    live.digest_for(texts)
    if known is not None:
        found = encoders.stored(live, texts, prompt=prompt, folder=known / "embeddings", stem=stem)
        if found is not None:
            return found
    own = None if folder is None else folder / "embeddings"
    return encoders.encode(live, texts, prompt=prompt, folder=own, stem=stem, progress=progress)


def _first(mined: MinedNegatives, limit: int | None) -> tuple[Array, Array]:
    """Query and corpus rows of the negatives, the first ``limit`` of every query."""
    order = np.argsort(mined.negatives["query"], kind="stable")
    query, negative = mined.negatives["query"][order], mined.negatives["negative"][order]
    if limit is None:
        return query, negative
    place = np.arange(len(query)) - np.searchsorted(query, query)
    return query[place < limit], negative[place < limit]
