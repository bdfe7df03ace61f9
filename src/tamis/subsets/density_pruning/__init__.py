"""Density-based pruning: keep more of the wide, far-off concepts and less of the dense ones, after dropping copies.

Embeddings are clustered into concepts. ``semantic_dedup`` drops every row that nearly repeats an earlier one of its
cluster, so that copies do not pass for dense concepts. ``DensityPruner`` then measures how wide each cluster is and how
far from its neighbours, takes the product for its complexity, shares the budget out by a softmax of complexity within
what clusters hold, and keeps the rows farthest from each centroid. ``prototype_selection`` is the ranking over all
clusters at once that it improves upon, which can delete whole concepts.
"""

from __future__ import annotations

from tamis.method import Method
from tamis.subsets.density_pruning.deduplication import semantic_dedup as semantic_dedup
from tamis.subsets.density_pruning.pruning import DensityPruner as DensityPruner
from tamis.subsets.density_pruning.pruning import prototype_selection as prototype_selection
from tamis.subsets.density_pruning.quotas import cluster_quotas as cluster_quotas
from tamis.subsets.density_pruning.quotas import complexity_shares as complexity_shares
from tamis.subsets.density_pruning.quotas import inter_cluster_distances as inter_cluster_distances

METHOD = Method(
    title="Effective pruning of web-scale datasets based on complexity of concept clusters",
    paper="arXiv:2401.04578",
    year=2024,
    code="amro-kamal/effective_pruning",
    claim="Quotas by complexity, hardest rows first, beat random and equal quotas where concepts differ in width.",
    peers=("nemo_curator.SemanticDeduplicationWorkflow", "semhash.SemHash.self_deduplicate"),
    deviations=(
        "quotas are the exact solution of the quadratic program, made whole without missing the budget",
        "centroids have length one, also as neighbours of one another, which keeps distances positive",
        "k-means on at most 256 rows per cluster, then one pass that assigns all rows",
    ),
)
