"""Subsets: which part of the data."""

from tamis.subsets.amtrl_lasso import ActiveTaskSampler as ActiveTaskSampler
from tamis.subsets.amtrl_lasso import LinearMultiTask as LinearMultiTask
from tamis.subsets.amtrl_lasso import allocate as allocate
from tamis.subsets.amtrl_lasso import task_relevance as task_relevance
from tamis.subsets.density_pruning import DensityPruner as DensityPruner
from tamis.subsets.density_pruning import cluster_quotas as cluster_quotas
from tamis.subsets.density_pruning import complexity_shares as complexity_shares
from tamis.subsets.density_pruning import inter_cluster_distances as inter_cluster_distances
from tamis.subsets.density_pruning import prototype_selection as prototype_selection
from tamis.subsets.density_pruning import semantic_dedup as semantic_dedup
from tamis.subsets.near_duplicates import drop_near_duplicates as drop_near_duplicates
from tamis.subsets.near_duplicates import near_duplicate_pairs as near_duplicate_pairs
