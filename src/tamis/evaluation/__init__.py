"""Evaluation: what to test on."""

from tamis.evaluation.contam import ContamCurve as ContamCurve
from tamis.evaluation.contam import Contamination as Contamination
from tamis.evaluation.contam import ContaminationAudit as ContaminationAudit
from tamis.evaluation.contam import Leaks as Leaks
from tamis.evaluation.contam import NGramIndex as NGramIndex
from tamis.evaluation.contam import ThresholdChoice as ThresholdChoice
from tamis.evaluation.contam import contam_curve as contam_curve
from tamis.evaluation.contam import contamination_scores as contamination_scores
from tamis.evaluation.contam import decontaminate as decontaminate
from tamis.evaluation.contam import measure_contamination as measure_contamination
from tamis.evaluation.contam import select_threshold as select_threshold
from tamis.evaluation.generalization_difficulty import Complexity as Complexity
from tamis.evaluation.generalization_difficulty import TaskDifficulty as TaskDifficulty
from tamis.evaluation.generalization_difficulty import class_separation as class_separation
from tamis.evaluation.generalization_difficulty import inductive_bias_complexity as inductive_bias_complexity
from tamis.evaluation.generalization_difficulty import intrinsic_dimension as intrinsic_dimension
from tamis.evaluation.generalization_difficulty import task_difficulty as task_difficulty
