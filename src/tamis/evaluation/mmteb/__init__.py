"""MMTEB: how little data still ranks models right.

Three decisions make a benchmark small. Tasks whose scores the other tasks predict can go, one after the other, as long
as every kind of task is kept. Of a retrieval corpus stay the judged documents and those that several systems rank high,
the hard negatives. And the scores that are left are added as Borda points, since a mean over unlike tasks means little.
``selection`` drops tasks, ``regression`` predicts them, ``pool`` cuts the corpus and says whom that favours, ``order``
counts points and tells how far the small benchmark agrees with the full one.
"""

from __future__ import annotations

from tamis.evaluation.mmteb.order import Agreement as Agreement
from tamis.evaluation.mmteb.order import Borda as Borda
from tamis.evaluation.mmteb.order import borda as borda
from tamis.evaluation.mmteb.order import rank_agreement as rank_agreement
from tamis.evaluation.mmteb.order import zero_shot_percentage as zero_shot_percentage
from tamis.evaluation.mmteb.pool import Pool as Pool
from tamis.evaluation.mmteb.pool import PoolBias as PoolBias
from tamis.evaluation.mmteb.pool import pool_bias as pool_bias
from tamis.evaluation.mmteb.pool import pool_corpus as pool_corpus
from tamis.evaluation.mmteb.pool import pool_ndcg as pool_ndcg
from tamis.evaluation.mmteb.regression import Predictability as Predictability
from tamis.evaluation.mmteb.regression import task_predictability as task_predictability
from tamis.evaluation.mmteb.selection import TaskSelection as TaskSelection
from tamis.evaluation.mmteb.selection import TaskStep as TaskStep
from tamis.evaluation.mmteb.selection import select_tasks as select_tasks
from tamis.method import Method

METHOD = Method(
    title="MMTEB: Massive Multilingual Text Embedding Benchmark",
    paper="arXiv:2502.13595",
    year=2025,
    code="embeddings-benchmark/mteb",
    claim="Three tasks of eighteen, one per skill, and a pool of hard negatives keep the scores better than chance.",
    peers=("mteb",),
    deviations=(
        "leaving a model out is solved in closed form; a ridge penalty for more tasks than models",
        "equally predictable tasks go by name; differences below 1e-9 standard deviations are ties",
        "the bias against systems outside the pool, and bootstrap intervals",
    ),
)
