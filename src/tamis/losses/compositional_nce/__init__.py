"""MECO: the likelihood of a model that does not sum to one, with its partition function tracked over steps.

The negative log-likelihood of an unnormalised model has the logarithm of a mean over all that could have been seen. A
batch of noise estimates the mean without bias and its logarithm with much, the more the smaller the batch. Here the
estimate is a moving average over steps, and a noise sample's gradient is weighed by its value against that average
(``likelihood``). With one average per anchor it is a contrastive loss whose negatives are not only those of the batch.
"""

from __future__ import annotations

from tamis.losses.compositional_nce.likelihood import CompositionalNLLLoss as CompositionalNLLLoss
from tamis.losses.compositional_nce.likelihood import Partition as Partition
from tamis.losses.compositional_nce.likelihood import nce_loss as nce_loss
from tamis.losses.compositional_nce.likelihood import partition_estimate as partition_estimate
from tamis.method import Method

METHOD = Method(
    title="Learning Unnormalized Statistical Models via Compositional Optimization",
    paper="arXiv:2306.07485",
    year=2023,
    claim="With two noise samples per step the tracked partition function learns where the batch's own diverges, and "
    "sooner than noise-contrastive estimation.",
    peers=(),
    deviations=(
        "the average is kept as a logarithm, and log-weights of noise samples are clipped",
        "the value of the loss is the estimate of the likelihood; its gradient is the paper's",
        "the average of gradients is left to the optimiser's momentum",
        "one average per anchor, and the average over the samples of all ranks",
    ),
)
