"""Diversify and conquer: the same budget for every cluster, quality inside, and rounds that move it to good clusters.

``KMeansQuality`` (kMQ) clusters embeddings, gives every cluster an equal quota and draws its rows by quality, so the
whole space is covered and the better rows come more often. ``IterativeClusterSelector`` spends the budget in rounds:
ask for rows, train, tell it how they scored, and the next round's budget moves to clusters that scored well, which
starves clusters of junk. The training loop stays the user's. ``clusters`` finds clusters and shares quotas, ``quality``
and ``rounds`` hold the two selectors.
"""

from __future__ import annotations

from tamis.method import Method
from tamis.subsets.diversify_conquer.clusters import cluster_rows as cluster_rows
from tamis.subsets.diversify_conquer.clusters import equal_quotas as equal_quotas
from tamis.subsets.diversify_conquer.quality import KMeansQuality as KMeansQuality
from tamis.subsets.diversify_conquer.quality import quality_probabilities as quality_probabilities
from tamis.subsets.diversify_conquer.rounds import IterativeClusterSelector as IterativeClusterSelector
from tamis.subsets.diversify_conquer.rounds import feedback_weights as feedback_weights

METHOD = Method(
    title="Diversify and Conquer: Diversity-Centric Data Selection with Iterative Refinement",
    paper="arXiv:2409.11378",
    year=2024,
    code="for-ai/iterative-data-selection",
    claim="Equal quotas beat random rows where classes are uneven; rounds of feedback trade accuracy for less junk.",
    peers=("faiss.Kmeans", "apricot"),
    deviations=(
        "the budget is met: what small clusters leave goes to the others in turn; fill=False is the official behaviour",
        "k-means on at most 256 rows per cluster, then one pass that assigns all rows",
        "rounds draw their whole share of the budget, which the official script divides by the clusters once more",
        "weights multiplied by scores, as in the paper, or by their exponential, as in the code (the default)",
        "a floor for the weights of clusters",
    ),
)
