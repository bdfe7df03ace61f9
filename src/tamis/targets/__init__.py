"""Targets: what counts as positive."""

from tamis.targets.atss import AssignResult as AssignResult
from tamis.targets.atss import adaptive_threshold as adaptive_threshold
from tamis.targets.atss import atss_assign as atss_assign
from tamis.targets.atss import centerness_targets as centerness_targets
from tamis.targets.atss import iou_threshold_assign as iou_threshold_assign
from tamis.targets.pixel_hardness import HardnessHead as HardnessHead
from tamis.targets.pixel_hardness import HardnessLevelLoss as HardnessLevelLoss
from tamis.targets.pixel_hardness import HardnessLosses as HardnessLosses
from tamis.targets.pixel_hardness import hardness_weighted_loss as hardness_weighted_loss
from tamis.targets.sampling_free import GuidedLossScaling as GuidedLossScaling
from tamis.targets.sampling_free import adaptive_score_threshold as adaptive_score_threshold
from tamis.targets.sampling_free import estimate_prior as estimate_prior
from tamis.targets.sampling_free import guided_loss_scaling as guided_loss_scaling
from tamis.targets.sampling_free import imbalance_bias as imbalance_bias
from tamis.targets.sampling_free import init_classifier_bias_ as init_classifier_bias_
from tamis.targets.transductive_clustering import TransductiveClusterClassifier as TransductiveClusterClassifier
from tamis.targets.transductive_clustering import knn_affinity as knn_affinity
from tamis.targets.transductive_clustering import laplacian_bound_update as laplacian_bound_update
