"""The pressure towards few terms, and how it is turned on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tamis import checks


class FlopsLoss(nn.Module):
    """The expected cost of a search: the squared mean weight of each term, summed over terms.

    FLOPS (Paria et al., arXiv:2004.05665), ``sum_j (mean_i |w_ij| / idf_j^p)^2``, as Geng et al. (arXiv:2411.04403)
    use it. With the idf in the matching function a frequent term already pays more per unit of score, and ``p`` is 0:
    in the space of scores ``u = idf * w`` that is the penalty with ``p = 1``. Groups have their means apart: slot s of
    every query (its positive, its first negative, ...) is one mean. When not to use: with encoded queries, penalise
    those too.

    Args:
        idf: (v,) float, needed for ``idf_power`` above 0, and then positive.
        idf_power: p; 0 is the official code, 1 presses on frequent terms twice when queries carry the idf already.
        l0_threshold: leave documents with at most so many terms alone; they still count in the mean. None leaves none.
        group_size: documents per query, which lie next to one another.

    Raises:
        ValueError: negative idf, idf of 0 with a power, negative power or threshold, group_size below 1.

    Example:
        >>> weights = torch.tensor([[1.0, 0.0, 2.0], [3.0, 1.0, 0.0]])
        >>> FlopsLoss()(weights).item(), FlopsLoss(torch.tensor([0.5, 2.0, 4.0]), idf_power=1.0)(weights).item()
        (5.25, 16.125)
    """

    idf: Tensor | None

    def __init__(
        self,
        idf: Tensor | None = None,
        idf_power: float = 0.0,
        l0_threshold: int | None = None,
        group_size: int = 1,
    ) -> None:
        super().__init__()
        checks.at_least("idf_power", idf_power, 0.0)
        checks.at_least("group_size", group_size, 1)
        if l0_threshold is not None:
            checks.at_least("l0_threshold", l0_threshold, 0)
        if idf is not None:
            checks.require(idf.ndim == 1, f"idf must be (v,), one per term: got shape {tuple(idf.shape)}.")
            bad = int((~(idf.isfinite() & (idf > 0 if idf_power > 0 else idf >= 0))).sum())
            what = "positive" if idf_power > 0 else "not negative"
            checks.require(bad == 0, f"idf must be finite and {what}: {bad} of {len(idf)} entries are not.")
            idf = idf.detach().clone()
        else:
            checks.require(idf_power == 0, f"idf must be given for an idf_power above 0: got idf_power={idf_power!r}.")
        self.idf_power, self.l0_threshold, self.group_size = idf_power, l0_threshold, group_size
        self.register_buffer("idf", idf)

    def forward(self, weights: Tensor) -> Tensor:
        """The penalty of a batch of documents.

        Args:
            weights: (n, v) float, the term weights of each document.

        Returns:
            scalar, at least float32.

        Raises:
            ValueError: another number of terms than the idf has, a number of documents that group_size does not divide.
        """
        checks.matrix("weights", weights, columns=None if self.idf is None else len(self.idf))
        n, v = weights.shape
        checks.require(n % self.group_size == 0, f"group_size must divide the documents: {n} by {self.group_size}.")
        weights = weights.to(torch.promote_types(weights.dtype, torch.float32)).abs()
        if self.l0_threshold is not None:
            few = (weights.detach() > 0).sum(1, keepdim=True) <= self.l0_threshold
            weights = weights.masked_fill(few, 0.0)
        means = weights.view(n // self.group_size, self.group_size, v).mean(0)
        if self.idf is not None and self.idf_power > 0:
            means = means / self.idf.to(means) ** self.idf_power
        return means.square().sum()


@dataclass(frozen=True)
class QuadraticRamp:
    """The weight of a penalty that grows with the square of the step, then stays: ``weight min(1, (t + 1) / T)^2``.

    The schedule of SPLADE that Geng et al. (arXiv:2411.04403) take; the defaults are those of the official code, whose
    configurations hold 0.002 over 200 steps for distillation and 0.05 over 200 for InfoNCE.

    Args:
        weight: at the end of the ramp.
        steps: T, how long the ramp is.

    Raises:
        ValueError: a negative weight, fewer than one step.

    Example:
        >>> ramp = QuadraticRamp(1e-3, 10_000)
        >>> ramp(4_999), ramp(20_000)
        (0.00025, 0.001)
    """

    weight: float = 1e-3
    steps: int = 10_000

    def __post_init__(self) -> None:
        checks.at_least("weight", self.weight, 0.0)
        checks.at_least("steps", self.steps, 1)

    def __call__(self, step: int) -> float:
        """The weight at a step.

        Args:
            step: counted from 0.

        Returns:
            the weight.

        Raises:
            ValueError: a negative step.
        """
        checks.at_least("step", step, 0)
        return self.weight * min(1.0, (step + 1) / self.steps) ** 2
