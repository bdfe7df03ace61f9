"""Contrastive restoration: a restored image is pulled to the sharp truth and pushed from blurred copies of it.

An L1 loss is content with a blurred image, because blur is the mean of all sharp answers. Here blurred truths and the
bicubic image are the negatives, which differ from the truth in high frequency alone; the truth and sharpened copies of
it are the positives. All are compared in the features of a small discriminator that is trained on the task itself.
Gradients reach the restored image only: the discriminator is frozen and in eval mode for that pass. ``views`` makes the
positives and negatives, ``loss`` compares them, ``embedding`` holds the discriminator and the whole loss.
"""

from __future__ import annotations

from tamis.losses.pcl_sr.embedding import PCLSRLoss as PCLSRLoss
from tamis.losses.pcl_sr.embedding import TaskEmbeddingDiscriminator as TaskEmbeddingDiscriminator
from tamis.losses.pcl_sr.loss import dual_contrastive_loss as dual_contrastive_loss
from tamis.losses.pcl_sr.loss import pixel_cosine as pixel_cosine
from tamis.losses.pcl_sr.loss import restoration_info_nce as restoration_info_nce
from tamis.losses.pcl_sr.views import frequency_negatives as frequency_negatives
from tamis.losses.pcl_sr.views import haar_high_frequency as haar_high_frequency
from tamis.losses.pcl_sr.views import sharpened_positives as sharpened_positives
from tamis.method import Method

METHOD = Method(
    title="A Practical Contrastive Learning Framework for Single-Image Super-Resolution",
    paper="arXiv:2111.13924",
    year=2023,
    code="Aitical/PCL-SISR",
    claim="Blurred negatives make a super-resolution network restore high-frequency energy that L1 leaves out.",
    peers=("kornia",),
    deviations=(
        "features of the restored image carry gradient; the official code computes them without",
        "the discriminator is in eval mode for the contrastive pass, so batches neither mix nor move its statistics",
        "bicubic upsampling without aligned corners by default; align_corners=True is that of the official code",
        "blurred negatives are not rounded to 8 bits by default; quantize=True is that of the official code",
        "no adversarial term, no negatives from other images, no noise positives and no JPEG negatives",
        "the weight of the loss, not confirmed for the paper, is 0.001",
    ),
)
