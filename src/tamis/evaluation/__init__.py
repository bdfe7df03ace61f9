"""Evaluation: what to test on."""

from tamis.evaluation.generalization_difficulty import Complexity as Complexity
from tamis.evaluation.generalization_difficulty import TaskDifficulty as TaskDifficulty
from tamis.evaluation.generalization_difficulty import class_separation as class_separation
from tamis.evaluation.generalization_difficulty import inductive_bias_complexity as inductive_bias_complexity
from tamis.evaluation.generalization_difficulty import intrinsic_dimension as intrinsic_dimension
from tamis.evaluation.generalization_difficulty import task_difficulty as task_difficulty
