"""BPO and NBPO: learn, pair by pair, how likely a sampled negative is a positive that nobody recorded.

Clicks show only what was seen, so an item without a click is a possible negative at best. BPO is the plain likelihood:
positives up, sampled items down. NBPO learns a second score beside the preference, the chance that a true positive goes
unrecorded, and pushes a sampled item down only as far as that leaves it a negative. Only the product of preference and
record is ever seen, so start and weight decay of the second score decide what it finds. The posterior of being a false
negative is a log-weight like any other and can stand in a softmax, a mask or a mining run.
"""

from __future__ import annotations

from tamis.method import Method
from tamis.negatives.nbpo.model import NoiseHead as NoiseHead
from tamis.negatives.nbpo.model import NoisyNegativeModel as NoisyNegativeModel
from tamis.negatives.nbpo.model import UniformNegativeSampler as UniformNegativeSampler
from tamis.negatives.nbpo.objectives import bpo_loss as bpo_loss
from tamis.negatives.nbpo.objectives import bpr_loss as bpr_loss
from tamis.negatives.nbpo.objectives import false_negative_log_weights as false_negative_log_weights
from tamis.negatives.nbpo.objectives import false_negative_posterior as false_negative_posterior
from tamis.negatives.nbpo.objectives import nbpo_loss as nbpo_loss

METHOD = Method(
    title="Sampler Design for Implicit Feedback Data by Noisy-label Robust Learning",
    paper="arXiv:2007.07204",
    year=2020,
    code="Wenhui-Yu/NBPO",
    claim="The likelihood with label noise ranks hidden positives above the plain one at equal weight decay.",
    peers=("recbole.model.general_recommender.BPR", "implicit.bpr.BayesianPersonalizedRanking"),
    deviations=(
        'default variant "likelihood": the final heuristic of the paper, "surrogate_gradient", was worse in our claim',
        "the log-likelihood in log-space, where the official code clips the sigmoid at 10 and adds 1e-10",
        "uniform negatives by rank among a user's free items: the distribution of rejection, without its loop",
        "repeat_positive=False, log-weights of the negatives, a noise head for embeddings of texts",
    ),
)
