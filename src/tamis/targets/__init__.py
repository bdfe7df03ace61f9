"""Targets: what counts as positive."""

from tamis.targets.transductive_clustering import TransductiveClusterClassifier as TransductiveClusterClassifier
from tamis.targets.transductive_clustering import knn_affinity as knn_affinity
from tamis.targets.transductive_clustering import laplacian_bound_update as laplacian_bound_update
