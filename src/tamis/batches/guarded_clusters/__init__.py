"""Guarded clusters: batches as dense as clusters, without the false negatives that dense batches are full of.

What makes a cluster a good batch, that its rows are alike, also makes it the place where another row's positive answers
the query. A judge says for pairs of rows how much one counts as a negative of the other: a guide model, known ids, or
anything that gives log-weights. Rows are clustered, a few neighbouring clusters form a group, and inside each group
rows that are likely false negatives of each other are dealt to different batches; all others stay at home. What cannot
be kept apart keeps its log-weight, which ``guarded_log_weights`` hands to the loss.
"""

from __future__ import annotations

from tamis.batches.guarded_clusters.batches import GuardedClusterSampler as GuardedClusterSampler
from tamis.batches.guarded_clusters.judging import guarded_log_weights as guarded_log_weights
from tamis.batches.guarded_clusters.judging import guide_judge as guide_judge
from tamis.method import Method

METHOD = Method(
    title="Guarded clusters: batches of clusters in which likely false negatives are kept apart",
    paper="staple",
    year=2026,
    claim="Where labels have unknown twins, guarded clusters beat plain clusters and random batches in recall@4.",
    peers=(),
)
