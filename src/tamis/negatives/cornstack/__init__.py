"""CoRNStack: clean pairs by mutual rank, hard negatives behind a guard, hardness that grows during training.

A pair is kept when its passage ranks among the first k for its own query and is similar enough; an embedder that is not
the one to be trained should judge (``consistency``). Of the other passages those that come close to the positive's
score are taken for false negatives and dropped (``guard``). The rest is drawn from without replacement, by a softmax
over the scores whose temperature falls as training goes on (``curriculum``). Texts are screened before (``quality``),
and a listwise reranker is driven in windows that slide from the end of a list to its head (``reranking``).
"""

from __future__ import annotations

from tamis.method import Method
from tamis.negatives.cornstack.consistency import ConsistencyFilter as ConsistencyFilter
from tamis.negatives.cornstack.consistency import consistency_filter as consistency_filter
from tamis.negatives.cornstack.consistency import consistency_ranks as consistency_ranks
from tamis.negatives.cornstack.curriculum import CurriculumNegatives as CurriculumNegatives
from tamis.negatives.cornstack.curriculum import curriculum_log_weights as curriculum_log_weights
from tamis.negatives.cornstack.guard import Guarded as Guarded
from tamis.negatives.cornstack.guard import guarded_candidates as guarded_candidates
from tamis.negatives.cornstack.quality import text_quality_reasons as text_quality_reasons
from tamis.negatives.cornstack.reranking import parse_listwise as parse_listwise
from tamis.negatives.cornstack.reranking import sliding_window_rerank as sliding_window_rerank

METHOD = Method(
    title="CoRNStack: High-Quality Contrastive Data for Better Code Ranking",
    paper="arXiv:2412.01007",
    year=2024,
    code="gangiswag/cornstack",
    claim="Rank and score together make noisy pairs clean, and guarded negatives are no worse than unguarded ones.",
    peers=("sentence_transformers.util.mine_hard_negatives",),
    deviations=(
        "ranks asked in both directions on request (ours)",
        "the score threshold may be a quantile (ours)",
        "English is judged by the share of ASCII letters unless a detector is given",
        "the numbers 0.7, 0.95, 0.05 to 0.001 and 8 are not confirmed by the authors' code",
    ),
)
