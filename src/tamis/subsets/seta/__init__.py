"""SeTa and InfoBatch: each epoch trains on a part of the data, chosen by the losses that training computes anyway.

SeTa drops a random part, groups the rest by loss with k-means, and slides a window of groups from easy to hard as
epochs pass, so that the easiest or the hardest are left out for a while. InfoBatch drops a random part of the rows
whose loss is below the mean, and makes the rest of those count more, so that the expected gradient stays. Neither needs
a pass of its own for scores, and both end with a few epochs that do not look at losses. ``samplers`` holds the two,
``groups`` the k-means on a line.
"""

from __future__ import annotations

from tamis.method import Method
from tamis.subsets.seta.groups import loss_groups as loss_groups
from tamis.subsets.seta.samplers import IndexedDataset as IndexedDataset
from tamis.subsets.seta.samplers import InfoBatchSampler as InfoBatchSampler
from tamis.subsets.seta.samplers import SeTaSampler as SeTaSampler

METHOD = Method(
    title="Scale Efficient Training for Large Datasets",
    paper="arXiv:2503.13385",
    year=2025,
    code="mrazhou/SeTa",
    claim="SeTa loses at most 0.010 of accuracy at 60 % of the samples, InfoBatch at most 0.006 at 70 %.",
    peers=("infobatch.InfoBatch",),
    deviations=(
        "groups are the exact optimum of k-means on a line, which needs no seed; the official ones are scikit-learn's",
        "epochs are counted from 0, and floor(delta * num_epochs) of them prune, whether or not that is a whole number",
        "weights of InfoBatch are 1 in all later epochs; the official ones stay where delta * num_epochs is no integer",
        "prune_ratio is taken as it is, where the official code keeps a tenth at least without saying so",
        "losses that are NaN or infinite belong to the hardest group and are counted; InfoBatch keeps such rows, and "
        "those without a loss as yet",
        "an epoch is made of the losses known at its beginning, so it can be resumed; no DataLoader is patched",
        "no callback for transformers: its training step hides the losses of single rows",
    ),
)
