"""MGUR: while a query may mean many targets, blur the target and believe the blurred loss less; sharpen with time.

Coarse feedback ("something brighter") fits many passages, yet the contrastive loss names one and pushes all others
away. Here the target's features are shaken by Gaussian noise of their own mean and spread, and the loss on shaken
targets counts less the wider they spread. Early in training that coarse loss leads; it gives way, on a fixed schedule,
to the usual in-batch loss on the plain targets. Nothing is left of it at inference. In our claim it gains at the
paper's temperature of 1/16, and the plain loss at 1/4 gains far more: tune the temperature first.
"""

from __future__ import annotations

from tamis.losses.cir_uncertainty.augment import GaussianFeatureAugmenter as GaussianFeatureAugmenter
from tamis.losses.cir_uncertainty.augment import apply_fluctuation as apply_fluctuation
from tamis.losses.cir_uncertainty.augment import gaussian_feature_augment as gaussian_feature_augment
from tamis.losses.cir_uncertainty.objective import MultiGrainedUncertaintyLoss as MultiGrainedUncertaintyLoss
from tamis.losses.cir_uncertainty.objective import coarse_weight as coarse_weight
from tamis.losses.cir_uncertainty.objective import uncertainty_regularized_loss as uncertainty_regularized_loss
from tamis.method import Method

METHOD = Method(
    title="Composed Image Retrieval with Text Feedback via Multi-grained Uncertainty Regularization",
    paper="arXiv:2211.07394",
    year=2022,
    code="Monoxide-Chen/uncertainty_retrieval",
    claim="Annealed from blurred to plain targets, training finds the exact target among the first 50 more often.",
    peers=("sentence_transformers.losses.MultipleNegativesRankingLoss",),
    deviations=(
        'granularity "batch", one spread for the whole batch as in the official code; the paper\'s is "sample"',
        "rows are normalised over their features by layer_norm, which is what the official instance norm does",
        "progress may advance with every step; the official code advances it with every epoch",
        "log-weights of the candidates, in both terms",
    ),
)
