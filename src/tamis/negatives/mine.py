"""Mine: negatives that can be trusted, with the evidence.

For every query the most similar passages are candidates. Known positives, their copies, and whatever a rule finds too
close to be safe are taken out; each rule is an array of log-weights, and they add up. The margin is given, or it is
chosen so that at most a share ``max_survival`` of planted positives would be kept (see ``audit``). Of what is left the
hardest, a random or a softly drawn part becomes the negatives, each with rank, score and source; what was dropped names
its rule, its rival and the score.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from platform import python_version
from typing import Any

import numpy as np

from tamis import __version__, checks, encoders
from tamis.data import RetrievalData, from_python
from tamis.method import Method
from tamis.negatives import audit, calibration, candidates, filters, picking
from tamis.negatives.rules import Reference, Rules
from tamis.ngrams import text_groups
from tamis.randomness import child_seed
from tamis.results import MinedNegatives
from tamis.search import pair_scores

METHOD = Method(
    title="Hard-negative mining with margins and an audit",
    paper="staple",
    year=2026,
    claim="A margin chosen on planted positives keeps hidden ones out at the rate it states; top-k does not.",
    peers=("sentence_transformers.util.mine_hard_negatives",),
    deviations=("conformal choice of the margin (ours)", "positives ruled out inside the search (ours)"),
)

Array = np.ndarray[Any, Any]
Progress = Callable[[Iterable[int], str], Iterable[int]]


def mine_negatives(
    queries: RetrievalData | Sequence[str] | Mapping[Any, str],
    corpus: Sequence[str] | Mapping[Any, str] | None = None,
    positives: Sequence[Any] | Mapping[Any, Any] | None = None,
    *,
    encoder: encoders.Encoder | str | Path | None = None,
    query_embeddings: Any = None,
    corpus_embeddings: Any = None,
    query_prompt: str | None = None,
    passage_prompt: str | None = None,
    similarity: str = "cosine",
    candidates_from: str = "dense",
    negatives: int = 8,
    depth: int | None = None,
    max_survival: float | None = None,
    absolute_margin: float | None = None,
    relative_margin: float | None = None,
    percentage: float | None = None,
    against: str = "lowest",
    first_rank: int = 1,
    last_rank: int | None = None,
    min_score: float | None = None,
    max_score: float | None = None,
    guide: encoders.Encoder | str | Path | None = None,
    guide_margin: float = 0.0,
    pick: str = "top",
    pick_temperature: float = 0.05,
    seed: int = 0,
    max_memory: int = 256 * 2**20,
    folder: str | Path | None = None,
    progress: Progress | None = None,
) -> MinedNegatives:
    """Mine negatives for every query, and measure how many of them would be false.

    A candidate with score s is kept when ``s < ceiling(p)`` with p the score of the query's positive and the ceiling of
    ``filters.margin_ceiling``. Without any margin, ``max_survival`` is 0.02 and the margin is chosen from the data,
    see ``calibration``.

    Args:
        queries: q texts, id -> text, or data read with ``tamis.data.read``.
        corpus: n texts or id -> text; None takes the positives' texts.
        positives: per query its known positives, see ``tamis.data.from_python``.
        encoder: object with ``encode(texts) -> (n, d)``, name or path of a model; None for the default MiniLM.
        query_embeddings: (q, d) float, instead of an encoder.
        corpus_embeddings: (n, d) float, instead of an encoder.
        query_prompt: put before every query; None takes the encoder's own prompt, if it has one.
        passage_prompt: put before every passage; likewise.
        similarity: "cosine", or "dot" for vectors as they are.
        candidates_from: "dense", "bm25", or "both" merged by reciprocal rank.
        negatives: how many per query at the most; a short list stays short.
        depth: candidates per query; None for ``default_depth(negatives, last_rank)``.
        max_survival: the share of hidden positives that may become negatives, in (0, 1]; chooses the margin; 1 asks
            for none.
        absolute_margin: see ``filters.margin_ceiling``.
        relative_margin: see ``filters.margin_ceiling``.
        percentage: see ``filters.margin_ceiling``.
        against: which positive of several the margin is measured from, "lowest" or "highest".
        first_rank: first rank in the corpus that may be picked; 11 skips ten.
        last_rank: last rank that may be picked.
        min_score: floor of the score.
        max_score: absolute ceiling of the score.
        guide: a second encoder; drops what it finds more similar than the positive.
        guide_margin: margin of the guide, in units of its score.
        pick: "top" (hardest first), "random", or "softmax" (Gumbel-softmax over the scores).
        pick_temperature: of the softmax, in units of the score.
        seed: of planting and picking.
        max_memory: bytes for the blocks of the search.
        folder: keeps vectors there and reuses them when nothing changed.
        progress: wraps the encoding loop, ``progress(shards, label)``.

    Returns:
        the negatives, what was dropped and why, and a report with the funnel and the audit.

    Raises:
        ValueError: for data or settings that cannot work; one line each.
        TypeError: when positives are missing or one string.

    Example:
        >>> import numpy as np
        >>> from tamis.negatives import mine_negatives
        >>> vectors = np.array([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]])
        >>> mined = mine_negatives(["q"], list("abcd"), [[0]], query_embeddings=vectors[:1], corpus_embeddings=vectors,
        ...                        percentage=0.75, negatives=1)
        >>> mined.negatives["negative"], mined.dropped["rule"].tolist()
        (array([2]), ['margin'])
    """
    started = time.perf_counter()
    if isinstance(queries, RetrievalData):
        data = queries
    elif positives is None:
        raise TypeError("positives are missing: mine(queries, corpus, positives) needs the known answers.")
    else:
        data = from_python(queries, corpus, positives)
    fixed = (absolute_margin, relative_margin, percentage)
    rules = Rules(
        absolute=absolute_margin,
        relative=relative_margin,
        percentage=percentage,
        max_survival=0.02 if max_survival is None and fixed == (None, None, None) else max_survival,
        against=against,
        first_rank=first_rank,
        last_rank=last_rank,
        min_score=min_score,
        max_score=max_score,
        guide_margin=guide_margin,
    )
    rules.check()
    picker = picking.Picker(negatives, pick, pick_temperature)
    picker.check()
    checks.one_of("similarity", similarity, ("cosine", "dot"))
    checks.require(depth is None or depth >= 1, f"depth must be at least 1: got {depth!r}.")
    depth = min(depth or default_depth(negatives, last_rank), len(data.corpus))
    cache = Path(folder) if folder is not None else None

    def embedded(model: Any, given: tuple[Any, Any], name: str) -> tuple[Array, Array]:
        """Unit vectors of queries and passages under one model."""
        sides = []
        own = {"query": "", "passage": ""} if model is None else encoders.prompts_of(model)
        for texts, vectors, prompt, stem in (
            (data.queries.texts, given[0], own["query"] if query_prompt is None else query_prompt, "queries"),
            (data.corpus.texts, given[1], own["passage"] if passage_prompt is None else passage_prompt, "corpus"),
        ):
            if vectors is None:
                where = cache / name if cache is not None else None
                vectors = encoders.encode(model, texts, prompt=prompt, folder=where, stem=stem, progress=progress)
            matrix = encoders.as_matrix(vectors, f"the embeddings of the {stem}")
            checks.same_length(f"embeddings of the {stem}", matrix, f"the {stem}", texts)
            sides.append(matrix if similarity == "dot" else encoders.unit_rows(matrix, f"the embeddings of the {stem}"))
        checks.matrix("the embeddings of the corpus", sides[1], columns=sides[0].shape[1])
        return sides[0], sides[1]

    vectors, encoder_name = None, None
    if candidates_from != "bm25":
        given = (query_embeddings, corpus_embeddings)
        whole = all(v is not None for v in given)
        model = None if whole else encoders.resolve(encoder)
        encoder_name = "given embeddings" if model is None else encoders.name_of(model)
        vectors = embedded(model, given, "embeddings")
    encoded = time.perf_counter()

    groups, query_groups = text_groups(data.corpus.texts, data.queries.texts)
    exclude, copies = picking.known_answers(data.positives, groups, data.corpus.texts)
    texts = (data.queries.texts, data.corpus.texts)
    pool = candidates.find(candidates_from, depth, exclude, vectors=vectors, texts=texts, max_memory=max_memory)
    found = pool.candidates
    searched = time.perf_counter()

    guide_name, scorer, guide_scores = None, None, None
    if guide is not None:
        second = encoders.resolve(guide)
        guide_name = encoders.name_of(second)
        seen = embedded(second, (None, None), "guide")

        def scorer(query_rows: Array, passage_rows: Array) -> Array:
            return np.asarray(pair_scores(*seen, query_rows, passage_rows))

        rows, columns = np.nonzero(found.present)
        guide_scores = np.full(found.indices.shape, -np.inf, np.float32)
        guide_scores[rows, columns] = scorer(rows, found.indices[rows, columns])
    everyone = np.arange(len(data.queries))
    reference = Reference.of(everyone, data.positives, pool.pair_scores, scorer, against)
    echo = found.present & (groups[found.indices] == query_groups[:, None])
    texts_alike = [
        filters.matches("same text as the query", echo, rival=np.full((1, 1), -1)),
        filters.repeated_text(found.indices, groups),
    ]
    shape = found.indices.shape
    others = rules.without_margin().decide(found.scores, found.ranks, reference, guide_scores)
    open_rivals = found.present & ~np.isneginf(filters.combine([*texts_alike, *others], shape)[0])
    trial = calibration.plant_and_place(data.positives, groups, pool, rules, picker, scorer, open_rivals, seed=seed)

    def own_positives() -> calibration.Trial:
        """Every query's own positive, taken for a stranger."""
        planted = audit.Planted(everyone, reference.row)
        return calibration.place(planted, None, pool, rules, picker, scorer, open_rivals, seed=seed)

    rules, measured = calibration.choose_margin(rules, trial, own_positives, seed=seed)
    decisions = [*texts_alike, *rules.decide(found.scores, found.ranks, reference, guide_scores)]
    log_weights, blame = filters.combine(decisions, shape)
    picks = picker.pick(found, log_weights, child_seed(seed, "pick"))
    columns_kept = picking.negative_columns(found, picks, log_weights, reference.score)
    columns_dropped = picking.dropped_columns(found, decisions, blame, copies, pool)
    done = time.perf_counter()
    skew = audit.skew(columns_kept["negative"], columns_kept["query"], len(data.queries), len(data.corpus))
    if 2 * skew["queries_without"] > len(data.queries):
        measured["warnings"].append(
            f"{skew['queries_without']:,} of {len(data.queries):,} queries got no negative: the rules are stricter "
            "than the candidates allow. Raise max_survival, give a margin, or look deeper (depth)."
        )
    summary = {
        "data": {
            "name": data.name,
            "queries": len(data.queries),
            "passages": len(data.corpus),
            "positives": sum(len(p) for p in data.positives),
            "queries_with_several": sum(len(p) > 1 for p in data.positives),
        },
        "settings": {
            "encoder": encoder_name,
            "query_prompt": query_prompt,
            "passage_prompt": passage_prompt,
            "similarity": similarity,
            "candidates_from": candidates_from,
            "negatives": negatives,
            "depth": depth,
            "guide": guide_name,
            "pick": pick,
            "pick_temperature": pick_temperature,
            "seed": seed,
            **rules.as_dict(),
        },
        "funnel": picking.funnel(found, decisions, blame, len(copies["query"]), len(columns_kept["query"])),
        "audit": measured,
        "skew": skew,
        "versions": {"tamis": __version__, "python": python_version(), "numpy": np.__version__},
        "seconds": {
            "encode": round(encoded - started, 3),
            "search": round(searched - encoded, 3),
            "choose": round(done - searched, 3),
        },
    }
    return MinedNegatives(
        queries=data.queries,
        corpus=data.corpus,
        positives=data.positives,
        negatives=columns_kept,
        dropped=columns_dropped,
        reference_scores=reference.score,
        summary=summary,
    )


def default_depth(negatives: int, last_rank: int | None = None) -> int:
    """Candidates per query: enough that a margin rarely leaves a list short.

    Args:
        negatives: wanted per query.
        last_rank: last rank that may be picked, if there is one.

    Returns:
        the larger of 200, 20 times the negatives, and the last rank.

    Example:
        >>> default_depth(8)
        200
    """
    return max(200, 20 * negatives, last_rank or 0)
