"""Quantity or quality: how much of a labelling budget to spend on cheap noisy labels, and how to learn from both.

``BudgetPlan`` turns a budget and a share of correct labels into numbers of labels, exactly. ``SequentialSFT`` trains on
the noisy ones first and on the correct ones after, each stage with its own optimiser, warm-up, validation part and best
checkpoint. ``uncertainty_sample`` says which items deserve a correct label, ``log_confidence_loss`` lets a model
disagree with noisy ones, ``few_shot_prompts`` shows it some labels in the prompt. ``pareto_frontier`` and ``regime``
read the results: small budgets want quantity, large ones quality, and often a mixture is best.
"""

from __future__ import annotations

from tamis.method import Method
from tamis.subsets.quantity_quality.confidence import LogConfidenceLoss as LogConfidenceLoss
from tamis.subsets.quantity_quality.confidence import log_confidence_loss as log_confidence_loss
from tamis.subsets.quantity_quality.plan import BudgetPlan as BudgetPlan
from tamis.subsets.quantity_quality.plan import calibrated_accuracy as calibrated_accuracy
from tamis.subsets.quantity_quality.plan import pareto_frontier as pareto_frontier
from tamis.subsets.quantity_quality.plan import regime as regime
from tamis.subsets.quantity_quality.prompts import few_shot_prompts as few_shot_prompts
from tamis.subsets.quantity_quality.stages import SequentialSFT as SequentialSFT
from tamis.subsets.quantity_quality.stages import Stage as Stage
from tamis.subsets.quantity_quality.uncertainty import uncertainty_sample as uncertainty_sample

METHOD = Method(
    title="Balancing Label Quantity and Quality for Scalable Elicitation",
    paper="arXiv:2410.13215",
    year=2024,
    code="EleutherAI/scalable-elicitation",
    claim="Cheap noisy labels win at small budgets, correct ones at large budgets, and both in turn beat either there.",
    peers=("modAL.uncertainty.entropy_sampling", "skactiveml.pool.UncertaintySampling"),
    deviations=(
        "numbers of labels from decimal arithmetic: in floating point 0.3 / 0.1 rounds down to 2",
        "entropy over its largest value, so that weights of more than two classes stay within 0 and 1",
        "a stage ends early after a number of epochs without gain, and may keep the model it began with",
        "no Gaussian process over the frontier, which is of measured points",
    ),
)
