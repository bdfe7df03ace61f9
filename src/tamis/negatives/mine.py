"""Mine: negatives that can be trusted, with the evidence.

For every query the most similar passages are candidates. Known positives, their copies, and whatever a rule finds too
close to be safe are taken out; each rule is an array of log-weights, and they add up. The margin is given, or it is
chosen so that at most a share ``max_survival`` of planted positives would be kept (see ``audit``). Of what is left the
hardest, a random or a softly drawn part becomes the negatives, each with rank, score and source; what was dropped names
its rule, its rival and the score.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from platform import python_version
from typing import Any

import numpy as np

from tamis import __version__, approximate, checks, encoders
from tamis.data import RetrievalData, from_python
from tamis.engine import HERE, Engine
from tamis.method import Method
from tamis.negatives import (
    audit,
    candidates,
    choosing,
    exclusions,
    filters,
    opinion_audit,
    pair_consistency,
    partition,
    picking,
    second_opinion,
)
from tamis.negatives.odds import passage_scores
from tamis.negatives.rules import Reference, Rules
from tamis.negatives.vectors import Embedder, Model, Progress
from tamis.randomness import child_seed
from tamis.results import MinedNegatives
from tamis.search import pair_scores
from tamis.trec import read_run

METHOD = Method(
    title="Hard-negative mining with margins and an audit",
    paper="staple",
    year=2026,
    claim="A margin chosen on planted positives keeps hidden ones out at the rate it states; top-k does not.",
    peers=("sentence_transformers.util.mine_hard_negatives",),
    deviations=("conformal choice of the margin (ours)", "positives ruled out inside the search (ours)"),
)

Array = np.ndarray[Any, Any]


def mine_negatives(
    queries: RetrievalData | Sequence[str] | Mapping[Any, str],
    corpus: Sequence[str] | Mapping[Any, str] | None = None,
    positives: Sequence[Any] | Mapping[Any, Any] | None = None,
    *,
    encoder: Model | Sequence[Model] = None,
    query_embeddings: Any = None,
    corpus_embeddings: Any = None,
    query_prompt: str | None = None,
    passage_prompt: str | None = None,
    similarity: str = "cosine",
    candidates_from: str | Sequence[str] = "dense",
    runs: str | Path | Sequence[str | Path] = (),
    negatives: int = 8,
    depth: int | None = None,
    max_survival: float | None = None,
    calibrate: str = "odds",
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
    cross_encoder: Any = None,
    cross_encoder_margin: float = 0.0,
    cross_encoder_sigmoid: bool = False,
    cross_encoder_budget: int | None = None,
    judge: Callable[[str, str, str], Any] | str | Path | None = None,
    judge_budget: int | None = 500,
    judge_confirmed: str = "drop",
    near_duplicates: float | None = 0.9,
    consistent_within: int | None = None,
    pick: str = "top",
    pick_temperature: float = 0.05,
    seed: int = 0,
    max_memory: int = 256 * 2**20,
    folder: str | Path | None = None,
    progress: Progress | None = None,
    engine: Engine = HERE,
    index: str = "exact",
    probes: int | None = None,
) -> MinedNegatives:
    """Mine negatives for every query, and measure how many of them would be false.

    A candidate with score s is kept when ``s < ceiling(p)`` with p the score of the query's positive and the ceiling of
    ``filters.margin_ceiling``. Without any margin, the odds that it is an unknown answer are learned from the data
    (``two_views``) and the highest odds that are kept are chosen by ``max_survival`` (``calibration``).

    Args:
        queries: q texts, id -> text, or data read with ``tamis.data.read``.
        corpus: n texts or id -> text; None takes the positives' texts.
        positives: per query its known positives, see ``tamis.data.from_python``.
        encoder: object with ``encode(texts) -> (n, d)``, name or path of a model; None for the default MiniLM. A list
            of them finds candidates with each; the first gives the scores that the margins judge.
        query_embeddings: (q, d) float, instead of an encoder (the first of several).
        corpus_embeddings: (n, d) float, likewise.
        query_prompt: put before every query; None takes the encoder's own prompt, if it has one.
        passage_prompt: put before every passage; likewise.
        similarity: "cosine", or "dot" for vectors as they are.
        candidates_from: "dense", "bm25", or "both" merged by reciprocal rank; or a list of "dense" and "bm25", empty
            for run files alone.
        runs: TREC run files, merged with the others. Alone, the first gives the scores; a positive that it does not
            hold lies below all that it holds, so a margin leaves that query nothing.
        negatives: how many per query at the most; a short list stays short.
        depth: candidates per query; None for ``default_depth(negatives, last_rank)``.
        max_survival: the share of hidden positives that may become negatives, in (0, 1]; 1 asks for no bound. Without
            it and without a margin, 0.02 where 98 positives can be planted, 0.05 where 38 can, else (queries have one
            each) the bound from 0.05 to 1/3 that leaves 0.04 of the negatives false, as far as the odds can tell.
        calibrate: what the bound is kept with: "odds" of being an answer, or a "margin" to the positive.
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
        cross_encoder: function of a list of (query, passage) texts, or a model with ``predict(pairs)``; scores what
            would be picked, and the next candidate takes the place of what it finds as relevant as the positive.
        cross_encoder_margin: how far below the positive's score a negative must stay, in units of that score.
        cross_encoder_sigmoid: turn its logits into probabilities first.
        cross_encoder_budget: pairs to score at the most, None for as many as it takes.
        judge: function of (query, passage, positive) texts that gives a verdict, see ``judge``; or a file of verdicts.
        judge_budget: verdicts to ask for at the most, the most suspicious picks first; None for all picks.
        judge_confirmed: whether an answer among the picks is to "drop" or becomes a "positive".
        near_duplicates: least Jaccard similarity (of runs of three words) at which a passage counts as a copy of a
            positive, and a query as another; None for equal texts only, see ``exclusions``.
        consistent_within: drop the negatives of a query of which no positive ranks so high; None asks for nothing.
        pick: "top" (hardest first), "random", or "softmax" (Gumbel-softmax over the scores).
        pick_temperature: of the softmax, in units of the score.
        seed: of planting and picking.
        max_memory: bytes for the blocks of the search.
        folder: keeps vectors there and reuses them when nothing changed.
        progress: wraps the encoding loop, ``progress(shards, label)``.
        engine: where texts are encoded and vectors searched: this machine, or ``tamis.integrations.ray.RayEngine``.
        index: "exact", or "ivf" for an approximate search by FAISS, whose recall is measured and reported. Odds and
            margins are learned on the pool that was found; a planted positive counts as found by the index.
        probes: lists that a query looks into, for "ivf"; None for ``approximate.default_probes``.

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
    free = (absolute_margin, relative_margin, percentage) == (None, None, None)
    rules = Rules(
        absolute=absolute_margin,
        relative=relative_margin,
        percentage=percentage,
        max_survival=max_survival,
        calibrated=free and max_survival != 1,
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
    checks.one_of("calibrate", calibrate, ("odds", "margin"))
    checks.require(depth is None or depth >= 1, f"depth must be at least 1: got {depth!r}.")
    depth = min(depth or default_depth(negatives, last_rank), len(data.corpus))
    cache = Path(folder) if folder is not None else None
    if consistent_within is not None:
        pair_consistency.check(consistent_within, depth)
    opinions = second_opinion.Opinions.of(
        cross_encoder,
        judge,
        data.queries,
        data.corpus,
        margin=cross_encoder_margin,
        sigmoid=cross_encoder_sigmoid,
        cross_encoder_budget=cross_encoder_budget,
        judge_budget=judge_budget,
        confirmed=judge_confirmed,
        folder=cache / "second_opinions" if cache is not None else None,
    )
    files = [runs] if isinstance(runs, (str, Path)) else list(runs)
    by_vectors, by_words = candidates.kinds(candidates_from, len(files))
    searcher = approximate.searcher(index, probes, engine, seed=seed, passages=len(data.corpus), vectors=by_vectors)
    read_runs = [read_run(path, data.queries.ids, data.corpus.ids) for path in files]

    embedder = Embedder(data, query_prompt, passage_prompt, similarity, cache, progress, engine)
    checks.require(encoder != [], "encoder must be one or several: got an empty list.")
    models = encoder if by_vectors else ()
    vectors, encoder_names = embedder.under_each(models, (query_embeddings, corpus_embeddings))
    encoded = time.perf_counter()

    barred = exclusions.find(data, near_duplicates=near_duplicates)
    groups, query_groups = barred.groups, barred.query_groups
    parts = partition.parts_of(data.queries, data.corpus, data.positives)

    def searched_by(part: partition.Searched) -> list[candidates.View]:
        return candidates.views(
            depth,
            part.exclude,
            vectors=[(q[part.queries], p[part.passages]) for q, p in vectors],
            encoders=encoder_names,
            texts=(part.of(data.queries.texts, part.queries), part.of(data.corpus.texts, part.passages))
            if by_words
            else None,
            runs=part.runs,
            shape=part.shape,
            max_memory=max_memory,
            engine=searcher or engine,
        )

    whole = (len(data.queries), len(data.corpus))
    pool = candidates.find(partition.search(parts, whole, barred.exclude, read_runs, searched_by), depth)
    found = pool.candidates
    searched = time.perf_counter()

    guide_name, scorer, guide_scores = None, None, None
    if guide is not None:
        second = encoders.resolve(guide)
        guide_name = encoders.name_of(second)
        seen = embedder.both(second, (None, None), "guide")

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
    chosen = choosing.choose(
        rules,
        picker,
        pool,
        data.positives,
        reference=reference,
        earlier=texts_alike,
        hideable=barred.hideable,
        kin=barred.kin,
        passages=len(data.corpus),
        passage_scores=passage_scores(vectors, data.corpus.texts, by_words),
        by_odds=calibrate == "odds",
        guide=scorer,
        guide_scores=guide_scores,
        seed=seed,
    )
    rules, trial, measured, decisions = chosen.rules, chosen.trial, chosen.report, chosen.decisions
    if consistent_within is not None:
        decisions.append(
            pair_consistency.consistency(
                data.positives, pool.rank_of, pool.pair_scores, within=consistent_within, depth=depth
            )[0]
        )

    def decide(weights: Array) -> Array:
        return picker.pick(found, weights, child_seed(seed, "pick"))

    reviewed = second_opinion.review(
        found, filters.combine(decisions, shape)[0], decide, reference, data.queries, data.corpus, opinions
    )
    both = (data.queries.texts, data.corpus.texts)
    opinion_audit.add_to_audit(measured, opinions, reviewed, trial, rules, both, seed=seed)
    decisions += reviewed.decisions
    log_weights, blame = filters.combine(decisions, shape)
    picks = reviewed.picks
    columns_kept = picking.negative_columns(found, picks, log_weights, reference.score)
    out = picking.kept_out(barred.evidence, pool)
    columns_dropped = picking.dropped_columns(found, decisions, blame, out, pool)
    columns_passed_over = picking.passed_over_columns(found, picks, blame)
    columns_known = picking.known_columns(data.positives, pool)
    measured["warnings"] += [*barred.notes, *pool.warnings(reference.score)]
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
            "encoder": " and ".join(encoder_names) or None,
            "query_prompt": query_prompt,
            "passage_prompt": passage_prompt,
            "similarity": similarity,
            "candidates_from": candidates_from if isinstance(candidates_from, str) else list(candidates_from),
            "runs": [run.name for run in read_runs] or None,
            "negatives": negatives,
            "depth": depth,
            "guide": guide_name,
            "near_duplicates": near_duplicates,
            "calibrate": calibrate,
            "consistent_within": consistent_within,
            "pick": pick,
            "pick_temperature": pick_temperature,
            "seed": seed,
            "index": index,
            "probes": probes,
            **rules.as_dict(),
        },
        "funnel": picking.funnel(found, decisions, blame, out, len(columns_kept["query"])),
        "audit": measured,
        "second_opinions": reviewed.report | {"new_positives": len(reviewed.new_positives[0])},
        "skew": skew,
        "search": None if searcher is None else searcher.report(),
        "sources": list(found.names),
        "score": pool.score,
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
        positives=second_opinion.with_new_positives(data.positives, reviewed.new_positives),
        negatives=columns_kept,
        dropped=columns_dropped,
        reference_scores=reference.score,
        summary=summary,
        passed_over=columns_passed_over,
        known=columns_known,
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
