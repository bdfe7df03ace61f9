"""Equitable sampling: split a budget for collecting data over groups, so that what is learnt serves all of them.

A group's error falls with its number of samples, fast at first and more slowly later, and a sample has a price.
``optimal_allocation`` finds the split that is best for a stated aim (mean, worst group, or between) when these curves
are known; ``AdaptiveAllocator`` finds nearly the same split without knowing them, by measuring errors as it collects
and spending each batch where a curve through the measurements promises most. ``interacting_allocation`` is for groups
that learn from one another.
"""

from __future__ import annotations

from tamis.method import Method
from tamis.subsets.equitable_sampling.adaptive import AdaptiveAllocator as AdaptiveAllocator
from tamis.subsets.equitable_sampling.adaptive import subsample_sizes as subsample_sizes
from tamis.subsets.equitable_sampling.curves import PowerLawCurve as PowerLawCurve
from tamis.subsets.equitable_sampling.interacting import interacting_allocation as interacting_allocation
from tamis.subsets.equitable_sampling.optimal import optimal_allocation as optimal_allocation

METHOD = Method(
    title="Adaptive Sampling Strategies to Construct Equitable Training Datasets",
    paper="arXiv:2202.01327",
    year=2022,
    claim="Without knowing the learning curves, adaptive collection comes within 2% of the best split of a budget.",
    peers=(),
    deviations=(
        "utilities are the sum, the worst group, and alpha-fair ones between: the paper leaves the choice open",
        "the gain of a batch from a power law fitted to all errors measured so far, not from the last difference",
    ),
)
