"""ECtHR-PCR: prior case retrieval as a court meets it, where a query may only find what was decided before it.

The query is the facts of a case, its answers are the cases it cites, and the pool is everything dated earlier, so each
query has a pool of its own and the split is by time. Scores are told per year, with their slope, because words change,
and lexical search keeps up with them better than a trained model does. Hard negatives are mostly cases that could have
been cited, and those from the top of a ranking do harm; so the ways to draw negatives are here side by side. Works on
any collection of dated texts that cite one another. ``benchmark`` holds pools, split and metrics, ``court`` the loader
and a generator of courts whose words drift, ``pooling`` the long texts, ``sampling`` the negatives, ``scorers`` search.
"""

from __future__ import annotations

from tamis.evaluation.ecthr_pcr.benchmark import TemporalReport as TemporalReport
from tamis.evaluation.ecthr_pcr.benchmark import TemporalRetrievalBenchmark as TemporalRetrievalBenchmark
from tamis.evaluation.ecthr_pcr.benchmark import TemporalSplit as TemporalSplit
from tamis.evaluation.ecthr_pcr.court import load_ecthr_pcr as load_ecthr_pcr
from tamis.evaluation.ecthr_pcr.court import synthetic_court as synthetic_court
from tamis.evaluation.ecthr_pcr.pooling import HierarchicalPooler as HierarchicalPooler
from tamis.evaluation.ecthr_pcr.pooling import split_chunks as split_chunks
from tamis.evaluation.ecthr_pcr.sampling import NegativeSampler as NegativeSampler
from tamis.evaluation.ecthr_pcr.scorers import bm25_scorer as bm25_scorer
from tamis.evaluation.ecthr_pcr.scorers import dense_scorer as dense_scorer
from tamis.evaluation.ecthr_pcr.scorers import popularity_scorer as popularity_scorer
from tamis.evaluation.ecthr_pcr.scorers import search_scorer as search_scorer
from tamis.method import Method

METHOD = Method(
    title="ECtHR-PCR: A Dataset for Precedent Understanding and Prior Case Retrieval in the European Court of Human "
    "Rights",
    paper="arXiv:2404.00596",
    year=2024,
    code="TUMLegalTech/ECHR-PCR",
    claim="Recall of a trained model falls with the years, BM25's at most half as fast; without drift neither falls.",
    peers=("beir", "pytrec_eval"),
    deviations=(
        "a generated court in place of the data, which a user may load",
        "citations to later or unknown cases are dropped and counted",
        "the most cited so far as a further baseline",
    ),
)
