"""SPN4CIR: for queries of an image and a text, more positives from captions, and every image there is as a negative.

Labelled triplets (reference, text, target) are few. More are made from captioned images: a pair at a middling
similarity, neither near-duplicate nor stranger, and a sentence that names the difference by their captions. A model
trained on them with in-batch negatives has seen few negatives per query, so a second stage freezes the image encoder,
encodes all images once, and contrasts each query with the whole bank while only the query side learns. It needs a
bank that is small enough to score and free of duplicates, and an image encoder that is good enough to be frozen.
"""

from __future__ import annotations

from tamis.extra_negatives import StaticBank as StaticBank
from tamis.method import Method
from tamis.negatives.spn4cir.bank import BankInfoNCE as BankInfoNCE
from tamis.negatives.spn4cir.bank import draw_bank_negatives as draw_bank_negatives
from tamis.negatives.spn4cir.positives import TEMPLATES as TEMPLATES
from tamis.negatives.spn4cir.positives import CaptionTriplets as CaptionTriplets
from tamis.negatives.spn4cir.positives import RankWindowPairs as RankWindowPairs
from tamis.negatives.spn4cir.positives import template_triplets as template_triplets

METHOD = Method(
    title="Improving Composed Image Retrieval via Contrastive Learning with Scaling Positives and Negatives",
    paper="arXiv:2404.11317",
    year=2024,
    code="BUAADreamer/SPN4CIR",
    claim="A second stage against the full frozen bank beats as many further steps with in-batch negatives.",
    peers=("pytorch_metric_learning.losses.CrossBatchMemory",),
    deviations=(
        "two rows of the bank with one id are never each other's negatives",
        "exclude_idx may take the query's own reference out of its negatives; the official code leaves it in",
        "log-weights of the bank; a log-sum-exp over chunks of the bank that is computed again in the backward pass",
        "rank 0 is always the image itself, and pairs whose captions say the same are dropped",
    ),
)
