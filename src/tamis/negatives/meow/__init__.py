"""MEOW: negatives of one's own cluster count less, by clusterings or by a small network that learns it.

In a batch of nodes, or of texts, some negatives are of the anchor's kind. MEOW clusters the embeddings at several
granularities and gives a negative the number of clusterings that part it from its anchor: none, and it is dropped.
AdaMEOW learns a weight for every pair instead. Around the weighting stands the paper's system: two views of a
heterogeneous graph, one from meta-paths alone and one with the nodes along them, and a contrast with cluster centres.
Clusters of an untrained encoder are noise: begin with plain negatives. On small graphs hard weights lost a little.
"""

from __future__ import annotations

from tamis.method import Method
from tamis.negatives.meow.encoder import HeteroContrastEncoder as HeteroContrastEncoder
from tamis.negatives.meow.estimators import MEOW as MEOW
from tamis.negatives.meow.estimators import AdaMEOW as AdaMEOW
from tamis.negatives.meow.graphs import HeteroGraph as HeteroGraph
from tamis.negatives.meow.graphs import pathsim_topk as pathsim_topk
from tamis.negatives.meow.prototypes import proto_nce as proto_nce
from tamis.negatives.meow.prototypes import prototype_concentration as prototype_concentration
from tamis.negatives.meow.weighting import AdaptiveNegativeWeighting as AdaptiveNegativeWeighting
from tamis.negatives.meow.weighting import cluster_negative_weights as cluster_negative_weights
from tamis.negatives.meow.weighting import weighted_info_nce as weighted_info_nce

METHOD = Method(
    title="Heterogeneous Graph Contrastive Learning with Meta-path Contexts and Adaptively Weighted Negative Samples",
    paper="arXiv:2212.13847",
    year=2022,
    code="jianxiangyu/MEOW",
    claim="Cluster weights take a third of the softmax mass off same-class samples and raise precision.",
    peers=(),
    deviations=(
        "warmup_epochs of plain negatives before the first clustering",
        'concentration from distances, as PCL has it; measure="similarity" is the official code',
        "the learned weights of pairs in memory of the order of pairs, where the code repeats every row n times",
        "normalize_weights=True holds the mean of a row's learned weights at 1, so that they cannot all shrink",
        "embeddings after training come from a pass without dropout, the official ones from the last training pass",
    ),
)
