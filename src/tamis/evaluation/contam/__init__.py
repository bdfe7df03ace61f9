"""ConTAM: which test samples a training corpus has given away, judged by what a model gains on them.

A sample is scored by the n-grams it shares with the corpus: the share of its n-grams, of its tokens, of its tokens with
matches followed over a few differing ones, or the longest stretch that stands in one text of the corpus. A threshold
turns scores into a contaminated and a clean part; the estimated performance gain is how much better the model is on all
samples than on the clean ones. The threshold is chosen per model and benchmark where that gain is clearest, and a
permutation test pays for the choice. The other way round, training texts that give a sample away are taken out.
``scores`` holds the metrics, ``threshold`` the gain, ``removal`` the other direction, ``tamis.ngram_index`` the index.
"""

from __future__ import annotations

from tamis.evaluation.contam.removal import decontaminate as decontaminate
from tamis.evaluation.contam.scores import Contamination as Contamination
from tamis.evaluation.contam.scores import ContaminationAudit as ContaminationAudit
from tamis.evaluation.contam.scores import Leaks as Leaks
from tamis.evaluation.contam.scores import contamination_scores as contamination_scores
from tamis.evaluation.contam.scores import measure_contamination as measure_contamination
from tamis.evaluation.contam.threshold import ContamCurve as ContamCurve
from tamis.evaluation.contam.threshold import ThresholdChoice as ThresholdChoice
from tamis.evaluation.contam.threshold import contam_curve as contam_curve
from tamis.evaluation.contam.threshold import select_threshold as select_threshold
from tamis.method import Method
from tamis.ngram_index import NGramIndex as NGramIndex

METHOD = Method(
    title="Evaluation data contamination in LLMs: how do we measure it and (when) does it matter?",
    paper="arXiv:2411.03923",
    year=2024,
    claim="The longest match flags the samples a model gains on; a union of matches flags scattered phrases as well.",
    peers=("datatrove.pipeline.decont.NGramsDecontFilter", "lm_eval.decontamination.decontaminate"),
    deviations=(
        "the longest match lies in one text of the corpus by default; strict=False stitches matches of several",
        "skips are counted over the whole span on one diagonal of the two texts, and are not covered",
        "a permutation test over the choice of the threshold",
        "training texts are dropped by what they hold of one test sample; a short sample by a text that equals it",
        "either side may be indexed: the samples, past which the corpus streams, or the corpus",
    ),
)
