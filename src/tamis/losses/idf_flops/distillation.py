"""Teachers on one scale, and the divergence of a student from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from tamis import checks
from tamis.contrastive import contrastive_loss, to_logits


class EnsembleTeacher:
    """The mean of teachers whose scores were brought to 0 to 1 in each row, times a scale.

    The heterogeneous ensemble of Geng et al. (arXiv:2411.04403): ``scale mean_k (s - min s) / (max s - min s + 1e-6)``,
    so that a dense teacher with cosines and a sparse one with sums of weights count alike. The scale sets how sharp the
    target is: 30 puts nearly all of it on the best candidate, and the temperature of ``KLDistillLoss`` evens it out.

    Args:
        scale: of the result.
        norm: "minmax" over each row, or "none", the plain mean of scores.

    Raises:
        ValueError: scale not positive, unknown norm.

    Example:
        >>> teacher = EnsembleTeacher()
        >>> teacher([torch.tensor([[0.9, 0.7, 0.2]]), torch.tensor([[30.0, 10.0, 20.0]])])
        tensor([[30.0000, 10.7143,  7.5000]])
    """

    def __init__(self, scale: float = 30.0, norm: Literal["minmax", "none"] = "minmax") -> None:
        checks.positive("scale", scale)
        checks.one_of("norm", norm, ("minmax", "none"))
        self.scale, self.norm = scale, norm

    def __call__(self, scores: Sequence[Tensor]) -> Tensor:
        """The scores of the ensemble.

        Args:
            scores: per teacher (b, n) float, queries against the same n candidates, at least two.

        Returns:
            (b, n) float without gradient; zeros where every teacher scores all candidates of a row alike.

        Raises:
            ValueError: no teacher, shapes that differ, fewer than two candidates, NaN or infinity.
        """
        checks.require(len(scores) > 0, "scores must hold those of one teacher at least: got none.")
        total = torch.zeros_like(scores[0], dtype=torch.promote_types(scores[0].dtype, torch.float32))
        for given in scores:
            checks.matrix("scores", given)
            checks.same_shape("scores", given, "those of the first teacher", scores[0])
            checks.require(
                given.shape[1] >= 2, f"scores must be of two candidates or more: got shape {tuple(given.shape)}."
            )
            given = given.detach().to(total)
            checks.finite("scores", given)
            if self.norm == "minmax":
                low, high = given.amin(1, keepdim=True), given.amax(1, keepdim=True)
                given = (given - low) / (high - low + 1e-6)
            total = total + given
        return total * (self.scale / len(scores))


class KLDistillLoss(nn.Module):
    """The Kullback-Leibler divergence of the student's softmax over candidates from the teacher's, mean over queries.

    The distillation loss of Geng et al. (arXiv:2411.04403), ``KL(softmax(t / T) || softmax(s / T))``.

    Args:
        temperature: T, divides both; the gradient is not multiplied by its square.

    Raises:
        ValueError: temperature not positive.

    Example:
        >>> student, teacher = torch.tensor([[12.0, 9.0, 3.0]]), torch.tensor([[29.999978, 10.714270, 7.5]])
        >>> round(KLDistillLoss()(student, teacher).item(), 6)
        0.048705
    """

    def __init__(self, temperature: float = 1.0) -> None:
        super().__init__()
        checks.positive("temperature", temperature)
        self.temperature = temperature

    def forward(self, student: Tensor, teacher: Tensor, *, log_weights: Tensor | None = None) -> Tensor:
        """The loss of a batch.

        Args:
            student: (b, n) float scores.
            teacher: (b, n) float scores of the same candidates; they take no gradient.
            log_weights: (b, n) float, added to both after the temperature; ``-inf`` drops a candidate.

        Returns:
            scalar, at least float32; a row whose candidates are all dropped counts as 0.

        Raises:
            ValueError: shapes that differ.
        """
        checks.matrix("student", student)
        checks.same_shape("teacher", teacher, "student", student)
        logits, target = to_logits(student, self.temperature), to_logits(teacher.detach(), self.temperature)
        target = target.to(logits)
        lw = torch.zeros_like(logits) if log_weights is None else log_weights.to(logits)
        checks.same_shape("log_weights", lw, "student", student)

        def minus_expected(scores: Tensor, shares: Tensor) -> Tensor:
            """``log sum exp - sum_j p_j s_j`` of each row, the cross-entropy up to the log-weights."""
            return contrastive_loss(
                (shares * scores).sum(1), [(scores, lw)], positive_in_denominator=False, reduction="none"
            )

        log_sum = minus_expected(target, torch.zeros_like(target))
        shares = (target + lw - log_sum[:, None]).exp()
        # The log-weights are in both softmaxes and cancel.
        return (minus_expected(logits, shares) - minus_expected(target, shares)).mean()
