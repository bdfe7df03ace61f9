"""CaBaGe: how many queries make a model of your own extractable, and which inputs are worth a query.

A clone is trained on the answers of a model to inputs that generators make up, with no data at all. Which inputs are
asked decides how fast that goes: those the clones disagree on, spread evenly over the classes they predict, least
confident first, made by several generators; and hard pairs are replayed more often. The audit runs that against a model
in this process, within a budget of queries, and reports how well the clone agrees with it after each of them, so that a
limit on queries can be set from numbers. There is no client for remote services here, and the pieces serve honest ends
too: choosing what to label, replaying what is hard. ``losses`` trains generators, ``picking`` chooses queries,
``replay`` chooses what is learned again, ``audit`` is the whole.
"""

from __future__ import annotations

from tamis.evaluation.cabage.audit import AuditReport as AuditReport
from tamis.evaluation.cabage.audit import ExtractabilityAudit as ExtractabilityAudit
from tamis.evaluation.cabage.losses import disagreement_loss as disagreement_loss
from tamis.evaluation.cabage.losses import diversity_loss as diversity_loss
from tamis.evaluation.cabage.networks import expand_output_ as expand_output_
from tamis.evaluation.cabage.picking import class_balanced_hard_selection as class_balanced_hard_selection
from tamis.evaluation.cabage.replay import HardExampleReplay as HardExampleReplay
from tamis.method import Method

METHOD = Method(
    title="CaBaGe: Data-Free Model Extraction using ClAss BAlanced Generator Ensemble",
    paper="arXiv:2409.10643",
    year=2024,
    code="",
    claim="At an equal number of queries the clone agrees with the model more often, and its queries are balanced.",
    peers=("adversarial-robustness-toolbox KnockoffNets", "adversarial-robustness-toolbox CopycatCNN"),
    deviations=(
        "an audit of a model in this process: no remote victim",
        "the paper's additions are known from its abstract; their formulas are ours",
        "Adam for clones and generators by default, where the predecessor's code has stepped SGD for the clones",
    ),
)
