"""BBNLI-next: keep a benchmark hard for current models, and do not read brittleness as bias.

Lexical variations of an item are proposed (``variations``), an adversarial filter keeps those that fool a panel of
models (``filtering``), and people check that their labels still hold. A bias score is one number in which errors for
and against a stereotype cancel, and random errors pass for bias; the paired report keeps the kinds of error apart and
says how often a model changes its mind between variations of one item (``measures``).
"""

from __future__ import annotations

from tamis.evaluation.bbnli_next.filtering import AdversarialFilter as AdversarialFilter
from tamis.evaluation.bbnli_next.filtering import agreed as agreed
from tamis.evaluation.bbnli_next.measures import BiasScore as BiasScore
from tamis.evaluation.bbnli_next.measures import PairedBiasReport as PairedBiasReport
from tamis.evaluation.bbnli_next.measures import bias_score_bbq as bias_score_bbq
from tamis.evaluation.bbnli_next.measures import brittleness as brittleness
from tamis.evaluation.bbnli_next.measures import paired_bias_report as paired_bias_report
from tamis.evaluation.bbnli_next.variations import Variation as Variation
from tamis.evaluation.bbnli_next.variations import WordNetFill as WordNetFill
from tamis.evaluation.bbnli_next.variations import lexical_variations as lexical_variations
from tamis.method import Method

METHOD = Method(
    title="Keeping Up with the Language Models: Robustness-Bias Interplay in NLI Data and Models",
    paper="arXiv:2305.12620",
    year=2023,
    code="feyzaakyurek/bbnli",
    claim="Variations that fool two models are hard for two others; most of the drop is the choice of hard items.",
    peers=("textattack", "checklist"),
    deviations=(
        "the measures of errors for and against and of brittleness are ours; the paper gives them in words",
        "accuracy in the bias score counts the bias items alone, not the test items as in the official code",
        "no model is shipped: the fills are WordNet's, or any callable's",
        "no items are shipped",
    ),
)
