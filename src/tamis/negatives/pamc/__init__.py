"""PamC: negatives between clusters instead of nodes.

Contrast over a graph pulls neighbours together and pushes all other nodes apart, which costs N x N similarities. PamC
sums the nodes of each cluster to a meta-node and takes negatives between the K meta-nodes only, so the cost is that of
the edges and K x K; nothing is learned for it and nothing is sampled. The clusters are those of the model itself, which
a self-training target (DEC) sharpens from epoch to epoch. The temperature multiplies similarities here. The negative
term is a plain function of embeddings and cluster ids and serves any set of embeddings, graph or not.
"""

from __future__ import annotations

from tamis.method import Method
from tamis.negatives.pamc.estimator import MetaNodeGraphClustering as MetaNodeGraphClustering
from tamis.negatives.pamc.graph import adjacency_power as adjacency_power
from tamis.negatives.pamc.graph import knn_graph as knn_graph
from tamis.negatives.pamc.graph import normalised_adjacency as normalised_adjacency
from tamis.negatives.pamc.objective import dec_target as dec_target
from tamis.negatives.pamc.objective import meta_nodes as meta_nodes
from tamis.negatives.pamc.objective import metanode_negatives as metanode_negatives
from tamis.negatives.pamc.objective import pamc_loss as pamc_loss
from tamis.negatives.pamc.objective import student_t_assignment as student_t_assignment

METHOD = Method(
    title="Efficient block contrastive learning via parameter-free meta-node approximation",
    paper="arXiv:2209.14067",
    year=2022,
    code="gayanku/PAMC",
    claim="Negatives between meta-nodes cluster as well as negatives between all nodes, at a fraction of the time.",
    deviations=(
        "empty clusters are left out, where the official code divides zero by zero",
        'include_self=True and assignment="hard" as in the official code; the paper leaves a meta-node out of its own '
        "sum and speaks of soft assignments",
        "log n without the 1e-10 of the code; a lone cluster without itself has log n = 0",
        "log-weights of pairs of clusters; contrast='dense' for comparison",
    ),
)
