"""Objectives: the losses of this library in the one form that training on mined negatives takes.

An objective gets the embeddings of a batch (b queries, their b positives, m mined negatives that all queries share) and
the facts of the batch, and gives a scalar. Decisions that were taken before stay in force: a known answer of a query
never acts as its negative, and weights of ``tamis mine`` count. An objective that holds something to be learned or
counted is a module, and its parameters learn with the model's.
"""

from tamis.integrations.objectives.facts import BatchFacts as BatchFacts
from tamis.integrations.objectives.facts import Guide as Guide
from tamis.integrations.objectives.facts import KnownAnswers as KnownAnswers
from tamis.integrations.objectives.facts import Objective as Objective
from tamis.integrations.objectives.in_batch import BatchAttention as BatchAttention
from tamis.integrations.objectives.in_batch import Feedback as Feedback
from tamis.integrations.objectives.in_batch import Mixing as Mixing
from tamis.integrations.objectives.in_batch import Uncertainty as Uncertainty
from tamis.integrations.objectives.in_batch import contrastive as contrastive
from tamis.integrations.objectives.in_batch import gistembed as gistembed
from tamis.integrations.objectives.in_batch import target_anchored as target_anchored
from tamis.integrations.objectives.weighted import CoupledEstimation as CoupledEstimation
from tamis.integrations.objectives.weighted import NoisyNegatives as NoisyNegatives
from tamis.integrations.objectives.weighted import TrackedSums as TrackedSums
from tamis.integrations.objectives.weighted import cluster_weighted as cluster_weighted
from tamis.integrations.objectives.weighted import compatible as compatible
from tamis.integrations.objectives.whole_corpus import WholeBank as WholeBank
from tamis.integrations.objectives.whole_corpus import live_index as live_index
