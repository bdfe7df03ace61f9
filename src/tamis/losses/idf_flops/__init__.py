"""IDF-FLOPS: which terms a document keeps when queries are not encoded, only looked up.

A learned sparse index of documents can be searched without any model at query time: a query is its tokens with their
inverse document frequencies (``encoding``). Pressure towards sparse documents (``sparsity``) then falls on frequent
terms rather than on informative ones, because those carry little of the score. The documents learn from several
teachers, dense and sparse, whose scores are put on one scale before they are averaged (``distillation``).
"""

from __future__ import annotations

from tamis.losses.idf_flops.distillation import EnsembleTeacher as EnsembleTeacher
from tamis.losses.idf_flops.distillation import KLDistillLoss as KLDistillLoss
from tamis.losses.idf_flops.encoding import IDFQueryEncoder as IDFQueryEncoder
from tamis.losses.idf_flops.encoding import bm25_idf as bm25_idf
from tamis.losses.idf_flops.encoding import splade_pool as splade_pool
from tamis.losses.idf_flops.sparsity import FlopsLoss as FlopsLoss
from tamis.losses.idf_flops.sparsity import QuadraticRamp as QuadraticRamp
from tamis.method import Method

METHOD = Method(
    title="Towards Competitive Search Relevance For Inference-Free Learned Sparse Retrievers",
    paper="arXiv:2411.04403",
    year=2024,
    code="opensearch-project/opensearch-sparse-model-tuning-sample",
    claim="With idf weights in the matching function documents shed frequent terms at equal precision.",
    peers=("sentence_transformers.sparse_encoder.losses.FlopsLoss",),
    deviations=(
        "idf_power divides the penalty by powers of the idf; 0, as in the official code, leaves it to the matching",
        'activation="log1p_log1p" and l0_threshold are of the follow-up arXiv:2504.14839, and in the same code',
        'unseen="max" gives tokens without a frequency the largest idf; the official code gives them 1',
    ),
)
