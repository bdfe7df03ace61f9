"""ONEBench: which model is better, from a large sparse table of results in different metrics.

Results on one sample can be compared whatever the metric, results of two samples cannot. So every sample says only
which of the models that ran on it did better, and a Plackett-Luce model finds the strengths that make those comparisons
likeliest. Most of the table may be missing, and metrics may be of any scale. Uncertainty comes from resampling samples,
for comparisons within one depend on each other. The table can be cut to the samples near a question, and the cells that
are worth filling next can be asked for. ``pairwise`` makes comparisons, ``ranker`` ranks, ``baselines`` holds what that
is compared with, ``samples`` chooses samples and cells.
"""

from __future__ import annotations

from tamis.evaluation.onebench.baselines import elo_scores as elo_scores
from tamis.evaluation.onebench.baselines import mean_scores as mean_scores
from tamis.evaluation.onebench.pairwise import results_table as results_table
from tamis.evaluation.onebench.pairwise import to_pairwise as to_pairwise
from tamis.evaluation.onebench.ranker import ModelRanker as ModelRanker
from tamis.evaluation.onebench.samples import missing_sweep as missing_sweep
from tamis.evaluation.onebench.samples import next_cells as next_cells
from tamis.evaluation.onebench.samples import query_samples as query_samples
from tamis.method import Method

METHOD = Method(
    title="ONEBench to Test Them All: Sample-Level Benchmarking Over Open-Ended Capabilities",
    paper="arXiv:2412.06745",
    year=2025,
    code="bethgelab/onebench",
    claim="With 95 % of the cells missing, Plackett-Luce still finds the order that the mean of the scores has lost.",
    peers=("choix", "evalica"),
    deviations=(
        'a tie counts as a win of both, as in the code; tie="half" counts it as one game, "drop" leaves it out',
        "intervals by resampling samples, and which cells to fill next",
        "unconnected models are an error that names them, unless alpha > 0",
    ),
)
