"""Asymmetrical-similarity learning: the cosine says that two items match, the lengths of their vectors say which way.

A crop is a copy of the picture and the picture is no copy of the crop, yet cosine gives both directions one score. The
direction is kept in the norm: the more original content a view holds, the longer its vector shall be, and a loss on
the ratio of norms within each source teaches that. A search runs on cosines as before; afterwards a match is dropped
when the query is longer than the reference. Such decisions are log-weights here, so they add to any others, and a
penalty in place of the drop is the same thing with a finite weight. ``ratio`` holds the loss, ``direction`` the filter,
``copies`` the metrics of copy detection.
"""

from __future__ import annotations

from tamis.losses.asl.copies import DirectedCopyBenchmark as DirectedCopyBenchmark
from tamis.losses.asl.copies import micro_average_precision as micro_average_precision
from tamis.losses.asl.copies import recall_at_precision as recall_at_precision
from tamis.losses.asl.direction import directed_similarity as directed_similarity
from tamis.losses.asl.direction import filter_by_norm_ratio as filter_by_norm_ratio
from tamis.losses.asl.direction import norm_ratio_log_weights as norm_ratio_log_weights
from tamis.losses.asl.ratio import AsymmetricSimilarityLoss as AsymmetricSimilarityLoss
from tamis.losses.asl.ratio import norm_ratio_loss as norm_ratio_loss
from tamis.method import Method

METHOD = Method(
    title="A Benchmark and Asymmetrical-Similarity Learning for Practical Image Copy Detection",
    paper="arXiv:2205.12358",
    year=2023,
    code="WangWenhao0716/ASL",
    claim="With the norm-ratio loss the norms tell an edit from its original, which cosine cannot.",
    peers=(),
    deviations=(
        'all unequal pairs of views of a source by default; pairs="sampled" draws one pair a source as the official '
        "code does, where a tie that is left after five draws adds a constant",
        "the weight of the loss, not in the official code, is 1",
        "a soft penalty in place of the filter, and a threshold other than 1",
    ),
)
