"""MoCHi: negatives that nobody wrote, mixed from the hardest real ones.

For every query the hardest negatives are mixed with each other, and with the query itself, and the mixtures join the
denominator. They lie where the softmax still has something to learn, and cost a fraction of a larger queue. A mixture
is two indices and a share, its similarity follows from the similarities of its parts, and no vector of it is needed.
What is mixed from a false negative is one itself, and with few classes most of the hardest are false: log-weights, the
posterior of NBPO or a guide's mask, say which partners to draw. Without them do not use it where classes are few.
"""

from __future__ import annotations

from tamis.extra_negatives import FeatureQueue as FeatureQueue
from tamis.method import Method
from tamis.negatives.mochi.diagnostics import alignment as alignment
from tamis.negatives.mochi.diagnostics import proxy_accuracy as proxy_accuracy
from tamis.negatives.mochi.diagnostics import uniformity as uniformity
from tamis.negatives.mochi.mixing import Mixtures as Mixtures
from tamis.negatives.mochi.mixing import draw_mixtures as draw_mixtures
from tamis.negatives.mochi.mixing import mix_hard_negatives as mix_hard_negatives
from tamis.negatives.mochi.objective import MoCHiLoss as MoCHiLoss

METHOD = Method(
    title="Hard Negative Mixing for Contrastive Learning",
    paper="arXiv:2010.01028",
    year=2020,
    code="",
    claim="With many classes mixing makes the task harder and spreads the embeddings, and costs no recall.",
    peers=("pytorch_metric_learning.losses.CrossBatchMemory", "lightly.loss.NTXentLoss"),
    deviations=(
        "the similarities of mixtures from those of their parts, without the vectors of the mixtures",
        "log-weights of the partners: probable false negatives are seldom mixed (claim mochi_aware)",
        "distinct=True never mixes a negative with itself, which the paper's draw allows",
        "a FeatureQueue begins empty, so mixing can only begin once it holds num_hard rows",
    ),
)
