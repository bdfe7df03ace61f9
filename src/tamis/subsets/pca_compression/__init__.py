"""Prune, combine, augment: a tiny training set with hard labels, made of real images.

(PCA is the paper's name for it; principal components play no part.) Where only a few images of a class are kept, easy
ones teach most. Several are made small and tiled into one stored image of the original size, and an augmentation that
crops about one tile at a time takes them apart again in training; without it the mosaic is useless. What such a set is
worth is told by training a fresh model for a fixed number of steps. ``pruning`` chooses per class by any score of
``tamis.dynamics``, ``tiles`` combines and crops, ``recipe`` trains, tests and counts bytes.
"""

from __future__ import annotations

from tamis.method import Method
from tamis.subsets.pca_compression.pruning import ClassBalancedSelector as ClassBalancedSelector
from tamis.subsets.pca_compression.pruning import stratified_quotas as stratified_quotas
from tamis.subsets.pca_compression.recipe import CompressionRecipe as CompressionRecipe
from tamis.subsets.pca_compression.recipe import evaluate_compressed as evaluate_compressed
from tamis.subsets.pca_compression.recipe import storage_bytes as storage_bytes
from tamis.subsets.pca_compression.tiles import TileCrop as TileCrop
from tamis.subsets.pca_compression.tiles import combine_grid as combine_grid

METHOD = Method(
    title="Rethinking Large-scale Dataset Compression: Shifting Focus From Labels to Images",
    paper="arXiv:2502.06434",
    year=2025,
    code="ArmandXiao/Rethinking-Dataset-Compression",
    claim="With one image per class easy ones beat random ones by far, and mosaics teach only when tiles are cropped.",
    peers=("DeepCore", "RDED"),
    deviations=(
        "the official code leaves the method out: the range of the crop and its alignment with tiles are ours",
        "a fixed number of steps in place of epochs, so that sets of different size compare",
    ),
)
