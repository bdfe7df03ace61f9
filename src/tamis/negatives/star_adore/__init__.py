"""STAR and ADORE: hard negatives that stay hard, first cheaply for both encoders, then truly for the query encoder.

Random negatives lower the errors of all pairs; hard ones lower those at the top of the ranking, which is what users
see. Negatives mined once go stale and can lead training astray, so STAR mixes them with the batch's own passages and
trains both encoders. ADORE then freezes the passages: with an index that stands still, the true top of the ranking is
searched anew at every step, and each pair counts by what its exchange would do to the metric. Losses take vectors and
scores; the index is ``tamis.extra_negatives.DynamicIndex``.
"""

from __future__ import annotations

from tamis.extra_negatives import DynamicIndex as DynamicIndex
from tamis.method import Method
from tamis.negatives.star_adore.adore import LambdaPairLoss as LambdaPairLoss
from tamis.negatives.star_adore.adore import adore_step as adore_step
from tamis.negatives.star_adore.star import STARLoss as STARLoss
from tamis.negatives.star_adore.star import mine_static as mine_static

METHOD = Method(
    title="Optimizing Dense Retrieval Model Training with Hard Negatives",
    paper="arXiv:2104.08051",
    year=2021,
    code="jingtaozhan/DRhard",
    claim="With negatives of a weak miner, static ones fall behind, STAR repairs them, and ADORE beats both.",
    peers=("sentence_transformers.util.mine_hard_negatives",),
    deviations=(
        'STAR pools all pairs as the official code does (alpha="pooled"); a number is the weighted sum of two means',
        "softplus, where the official code takes log(1 + exp(x))",
        "true_rank gives positives that were not retrieved their rank in the index; the official code puts them last",
        "gains of DCG, uniform weights and gains by a function; log-weights for further decisions",
    ),
)
