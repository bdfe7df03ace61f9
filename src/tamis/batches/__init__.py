"""Batches: which batch-mates."""

from tamis.batches.batchformer import BatchFormer as BatchFormer
from tamis.batches.batchformer import BatchFormerV2 as BatchFormerV2
from tamis.batches.batchformer import cross_sample_gradient as cross_sample_gradient
from tamis.batches.batchformer import duplicate_targets as duplicate_targets
from tamis.batches.guarded_clusters import GuardedClusterSampler as GuardedClusterSampler
from tamis.batches.guarded_clusters import guarded_log_weights as guarded_log_weights
from tamis.batches.guarded_clusters import guide_judge as guide_judge
from tamis.batches.ngame import NGAME_SCHEDULE as NGAME_SCHEDULE
from tamis.batches.ngame import ClusterBatchSampler as ClusterBatchSampler
from tamis.batches.ngame import TripletOHNM as TripletOHNM
from tamis.batches.ngame import multilabel_targets as multilabel_targets
from tamis.batches.ngame import triplet_ohnm as triplet_ohnm
from tamis.batches.no_duplicates import NoDuplicatesBatchSampler as NoDuplicatesBatchSampler
from tamis.batches.no_duplicates import text_keys as text_keys
from tamis.batches.rtd import RTDTrainer as RTDTrainer
from tamis.batches.rtd import TargetAnchoredContrastive as TargetAnchoredContrastive
from tamis.batches.rtd import inject_pseudo_tokens as inject_pseudo_tokens
from tamis.batches.rtd import noisy_projection as noisy_projection
from tamis.batches.rtd import refined_batch as refined_batch
from tamis.batches.tas_balanced import DualSupervisionLoss as DualSupervisionLoss
from tamis.batches.tas_balanced import InBatchMarginMSELoss as InBatchMarginMSELoss
from tamis.batches.tas_balanced import MarginBins as MarginBins
from tamis.batches.tas_balanced import MarginMSELoss as MarginMSELoss
from tamis.batches.tas_balanced import TopicBatchSampler as TopicBatchSampler
from tamis.batches.tas_balanced import topics_of as topics_of
