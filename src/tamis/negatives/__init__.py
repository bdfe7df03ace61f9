"""Negatives: which negatives."""

from tamis.negatives.cornstack import ConsistencyFilter as ConsistencyFilter
from tamis.negatives.cornstack import CurriculumNegatives as CurriculumNegatives
from tamis.negatives.cornstack import consistency_filter as consistency_filter
from tamis.negatives.cornstack import consistency_ranks as consistency_ranks
from tamis.negatives.cornstack import curriculum_log_weights as curriculum_log_weights
from tamis.negatives.cornstack import guarded_candidates as guarded_candidates
from tamis.negatives.cornstack import parse_listwise as parse_listwise
from tamis.negatives.cornstack import sliding_window_rerank as sliding_window_rerank
from tamis.negatives.cornstack import text_quality_reasons as text_quality_reasons
from tamis.negatives.mine import default_depth as default_depth
from tamis.negatives.mine import mine_negatives as mine_negatives
