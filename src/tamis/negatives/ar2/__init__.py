"""AR2: a retriever that looks for passages which fool the ranker, and a ranker that learns not to be fooled.

The retriever (two encoders) is the sampler of hard negatives, the ranker (a cross-encoder, say) tells the positive from
what was retrieved, and the two train in turn as a game. The ranker minimises a list-wise loss on fresh negatives; the
retriever takes the ranker's scores as soft targets and is drawn towards candidates that the ranker confuses with the
positive. After each round the corpus is searched again. ``objectives`` holds the losses on scores, ``alternating`` the
refresh of the lists and the loop. With clean labels and a ranker that is no better than the retriever nothing is won.
"""

from __future__ import annotations

from tamis.method import Method
from tamis.negatives.ar2.alternating import AlternatingTrainer as AlternatingTrainer
from tamis.negatives.ar2.alternating import CandidateLists as CandidateLists
from tamis.negatives.ar2.alternating import draw_lists as draw_lists
from tamis.negatives.ar2.alternating import refresh_topk as refresh_topk
from tamis.negatives.ar2.objectives import AdversarialRetrieverLoss as AdversarialRetrieverLoss
from tamis.negatives.ar2.objectives import RankerListwiseLoss as RankerListwiseLoss
from tamis.negatives.ar2.objectives import pairwise_rewards as pairwise_rewards

METHOD = Method(
    title="Adversarial Retriever-Ranker for dense text retrieval",
    paper="arXiv:2110.03611",
    year=2021,
    code="microsoft/AR2",
    claim="A ranker trained on ten times the queries improves the retriever beyond fresh hard negatives alone.",
    peers=("sentence_transformers.losses.DistillKLDivLoss",),
    deviations=(
        'both parts of the loss are means over queries; reduction="official" sums the adversarial part, so that there '
        "the balance hangs on the batch size",
        'estimator="official" sums over all candidates, the positive too, without their probability; "negatives" and '
        '"exact" (the expectation over the list\'s negatives) are closer to the paper',
        "log-softmax, where the official code takes log(p + 1e-7)",
        "log-weights for further decisions, and for lists that are short",
    ),
)
