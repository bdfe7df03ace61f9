"""The coarse loss on shaken targets, the fine loss on plain ones, and the schedule between them."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from tamis import checks
from tamis.contrastive import info_nce, unit_rows
from tamis.losses.cir_uncertainty.augment import GaussianFeatureAugmenter

Granularity = Literal["batch", "sample"]


def coarse_weight(progress: float, gamma_scale: float = 1.0) -> float:
    """How much the coarse loss counts: ``exp(-gamma_scale * progress)``.

    The schedule of MGUR (arXiv:2211.07394): at scale 1 it falls from 1 to .368, so the coarse loss never leaves.

    Args:
        progress: share of the training that is done, in [0, 1]; the number of an epoch is none.
        gamma_scale: at least 0; 0 keeps the coarse loss alone.

    Returns:
        the weight; the plain loss has the rest to 1.

    Raises:
        ValueError: progress outside [0, 1], gamma_scale negative.

    Example:
        >>> round(coarse_weight(0.5), 4)
        0.6065
    """
    checks.between("progress", progress, 0.0, 1.0)
    checks.at_least("gamma_scale", gamma_scale, 0.0)
    return math.exp(-gamma_scale * progress)


def uncertainty_regularized_loss(
    query: Tensor,
    target: Tensor,
    target_aug: Tensor,
    *,
    progress: float,
    gamma_scale: float = 1.0,
    scale: float = 1.0,
    granularity: Granularity = "batch",
    log_weights: Tensor | None = None,
) -> Tensor:
    """The coarse loss on shaken targets, regularised by their spread, and the plain loss, weighted by progress.

    The loss of MGUR (arXiv:2211.07394): ``g L_u + (1 - g) L_info`` with ``L_u = (exp(-s) CE(q t^') + s) / 2``, where s
    is the standard deviation (n - 1) of the shaken targets and both cross-entropies run from query to target.

    Args:
        query: (b, d) float, taken as it is: with unit rows and scale 1 no cross-entropy can become small.
        target: (b, d) float, row i the match of query i.
        target_aug: (b, d) float, from ``gaussian_feature_augment`` on ``scale * target``; it is not scaled again.
        progress: share of the training that is done, in [0, 1].
        gamma_scale: see ``coarse_weight``.
        scale: multiplies query and target, so that for unit rows the temperature is ``1 / scale ** 2``.
        granularity: "batch" takes one s over all entries (the official code), "sample" one for each row (the paper).
        log_weights: (b, b) float, decisions about the candidates, in both terms; they take no gradient.

    Returns:
        scalar.

    Raises:
        ValueError: shapes that differ, fewer than two features, progress outside [0, 1], scale not positive.

    Example:
        >>> query, target = torch.tensor([[0.2, 0.1], [0.1, 0.5]]), torch.tensor([[1.0, 2.0], [0.0, 4.0]])
        >>> round(uncertainty_regularized_loss(query, target, target, progress=0.0).item(), 4)
        0.9008
    """
    checks.one_of("granularity", granularity, ("batch", "sample"))
    checks.positive("scale", scale)
    gamma = coarse_weight(progress, gamma_scale)
    checks.matrix("query", query)
    checks.require(
        query.shape[1] >= 2, f"query must have at least 2 features, to have a spread: got shape {tuple(query.shape)}."
    )
    checks.same_shape("target", target, "query", query)
    checks.same_shape("target_aug", target_aug, "query", query)
    decided = None if log_weights is None else log_weights.detach()
    query, target = scale * query, scale * target
    coarse = info_nce(query, target_aug, temperature=1.0, metric="dot", log_weights=decided, reduction="none")
    spread = target_aug.to(coarse.dtype).std(None if granularity == "batch" else 1)
    regularised = 0.5 * (torch.exp(-spread) * coarse + spread).mean()
    if gamma == 1.0:
        return regularised
    fine = info_nce(query, target, temperature=1.0, metric="dot", log_weights=decided)
    return gamma * regularised + (1 - gamma) * fine


class MultiGrainedUncertaintyLoss(nn.Module):
    """MGUR as one module: normalises, shakes the targets, and follows the schedule from coarse to fine.

    The training loss of MGUR (arXiv:2211.07394). Call ``step()`` after each optimiser step (or each epoch, with
    total_steps epochs), or give ``progress``. The count is part of the state. Not for queries with one clear target,
    and not before the temperature is tuned: in our claim the plain loss at 1/4 beats this one at any temperature tried.

    Args:
        total_steps: how often ``step`` will be called.
        augmenter: shakes the targets; default ``GaussianFeatureAugmenter()``.
        scale: length of the normalised rows; 4, the paper's, is the temperature 1/16.
        gamma_scale: see ``coarse_weight``.
        granularity: see ``uncertainty_regularized_loss``.

    Raises:
        ValueError: total_steps below 1, scale not positive, gamma_scale negative, unknown granularity.

    Example:
        >>> loss = MultiGrainedUncertaintyLoss(10)
        >>> query = target = torch.eye(4)
        >>> round(loss(query, target, progress=1.0).item(), 2)
        0.67
    """

    steps_done: Tensor

    def __init__(
        self,
        total_steps: int,
        augmenter: nn.Module | None = None,
        *,
        scale: float = 4.0,
        gamma_scale: float = 1.0,
        granularity: Granularity = "batch",
    ) -> None:
        super().__init__()
        checks.at_least("total_steps", total_steps, 1)
        checks.positive("scale", scale)
        checks.at_least("gamma_scale", gamma_scale, 0.0)
        checks.one_of("granularity", granularity, ("batch", "sample"))
        self.total_steps = total_steps
        self.augmenter = GaussianFeatureAugmenter() if augmenter is None else augmenter
        self.scale = scale
        self.gamma_scale = gamma_scale
        self.granularity: Granularity = granularity
        self.register_buffer("steps_done", torch.tensor(0))

    @property
    def progress(self) -> float:
        """Share of the training that is done; 1 from total_steps on."""
        return min(1.0, int(self.steps_done) / self.total_steps)

    def step(self) -> None:
        """Say that one of total_steps is done."""
        self.steps_done += 1

    def forward(
        self, query: Tensor, target: Tensor, *, progress: float | None = None, log_weights: Tensor | None = None
    ) -> Tensor:
        """The loss of a batch of composed queries and their targets.

        Args:
            query: (b, d) float: rows need not be normalised.
            target: (b, d) float, row i the match of query i.
            progress: in [0, 1]; left out, that of ``step``.
            log_weights: (b, b) float, decisions about the candidates.

        Returns:
            scalar.
        """
        query, target = self.scale * unit_rows(query), self.scale * unit_rows(target)
        return uncertainty_regularized_loss(
            query,
            target,
            self.augmenter(target),
            progress=self.progress if progress is None else progress,
            gamma_scale=self.gamma_scale,
            granularity=self.granularity,
            log_weights=log_weights,
        )
