"""Batches: which batch-mates."""

from tamis.batches.ngame import NGAME_SCHEDULE as NGAME_SCHEDULE
from tamis.batches.ngame import ClusterBatchSampler as ClusterBatchSampler
from tamis.batches.ngame import TripletOHNM as TripletOHNM
from tamis.batches.ngame import multilabel_targets as multilabel_targets
from tamis.batches.ngame import triplet_ohnm as triplet_ohnm
from tamis.batches.no_duplicates import NoDuplicatesBatchSampler as NoDuplicatesBatchSampler
from tamis.batches.no_duplicates import text_keys as text_keys
