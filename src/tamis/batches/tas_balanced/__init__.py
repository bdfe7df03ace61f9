"""TAS-Balanced: one topic per batch, pairs spread over the teacher's margins, two teachers.

Queries are clustered once with a baseline's embeddings, and a batch is filled from one cluster (or a few), so the
passages of its other queries are informative negatives. Each query comes with one (positive, negative) pair, drawn
evenly over the range of the teacher's margins, so that the many easy pairs do not drown the few hard ones. No label is
hard: a cross-encoder gives the margin of the pair and a late-interaction teacher the margins inside the batch, and the
student learns both by squared error. ``batches`` holds the sampler, ``bins`` the pairs, ``objectives`` the losses.
"""

from __future__ import annotations

from tamis.batches.tas_balanced.batches import TopicBatchSampler as TopicBatchSampler
from tamis.batches.tas_balanced.batches import topics_of as topics_of
from tamis.batches.tas_balanced.bins import MarginBins as MarginBins
from tamis.batches.tas_balanced.objectives import DualSupervisionLoss as DualSupervisionLoss
from tamis.batches.tas_balanced.objectives import InBatchMarginMSELoss as InBatchMarginMSELoss
from tamis.batches.tas_balanced.objectives import MarginMSELoss as MarginMSELoss
from tamis.method import Method

METHOD = Method(
    title="Efficiently Teaching an Effective Dense Retriever with Balanced Topic Aware Sampling",
    paper="arXiv:2104.06967",
    year=2021,
    code="sebastian-hofstaetter/tas-balanced-dense-retrieval",
    claim="Batches of one topic take away more than half of the in-batch margins, and beat random batches in P@1.",
    peers=("sentence_transformers.losses.MarginMSELoss",),
    deviations=(
        "a batch takes each cluster once, so no query twice; redraw_clusters=True may, as the official loader",
        'weight="size" draws clusters by their size; the paper draws them alike, which favours queries of small ones',
        "an epoch is a count of batches, by default one pass's worth; the official stream has no end",
        "equal margins all go to bin 0, where the official bins have no width",
        "log-weights of in-batch candidates; no other loss than Margin-MSE",
    ),
)
