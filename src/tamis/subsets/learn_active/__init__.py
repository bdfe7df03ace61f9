"""Learned active policies: which question to ask next, by a policy trained in simulation to be near the best.

When only a few dozen questions can be asked, guarantees of hand-made strategies are loose, and a policy trained under a
prior is good on average and bad on what the prior leaves out. Here problems are put into classes of difficulty, the
complexity of a lower bound; for each class there is a best policy, and the one that is wanted has the least regret
against these over all classes. ``complexity`` measures problems, ``simulation`` runs policies on many at once,
``choosing`` takes the best of a finite family or a mixture, ``training`` trains a network against adversarial problems.
"""

from __future__ import annotations

from tamis.method import Method
from tamis.subsets.learn_active.choosing import RegretChoice as RegretChoice
from tamis.subsets.learn_active.choosing import loss_table as loss_table
from tamis.subsets.learn_active.choosing import minimax_regret as minimax_regret
from tamis.subsets.learn_active.complexity import problem_complexity as problem_complexity
from tamis.subsets.learn_active.complexity import scaled_to_complexity as scaled_to_complexity
from tamis.subsets.learn_active.policies import IndexPolicy as IndexPolicy
from tamis.subsets.learn_active.policies import LUCBPolicy as LUCBPolicy
from tamis.subsets.learn_active.policies import NetworkPolicy as NetworkPolicy
from tamis.subsets.learn_active.policies import PolicySession as PolicySession
from tamis.subsets.learn_active.policies import UCBPolicy as UCBPolicy
from tamis.subsets.learn_active.simulation import BanditProblem as BanditProblem
from tamis.subsets.learn_active.simulation import TransductiveProblem as TransductiveProblem
from tamis.subsets.learn_active.training import RobustPolicyTrainer as RobustPolicyTrainer

METHOD = Method(
    title="Learning to Actively Learn: A Robust Approach",
    paper="arXiv:2010.15382",
    year=2020,
    code="",
    claim="A policy chosen or trained for least regret over classes of difficulty is near the best in each.",
    peers=("modAL", "scikit-activeml"),
    deviations=(
        "problems are kept in their class by scaling, exactly, in place of a barrier",
        "particles move by the score of the observations alone, along their class",
        "the network starts from an index policy that it imitates",
    ),
)
