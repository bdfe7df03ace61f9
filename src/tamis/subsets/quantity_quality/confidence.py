"""The log-confidence loss: a model that grows sure of itself may disagree with noisy labels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tamis import checks


def log_confidence_loss(
    logits: Tensor, labels: Tensor, step: int, *, warmup_steps: int = 200, aux_coef: float = 0.5
) -> Tensor:
    """Cross-entropy with the labels, mixed with cross-entropy with the model's own hard predictions.

    The auxiliary confidence loss of Burns et al. 2023 (arXiv:2312.09390) for two classes:
    ``(1 - a) CE(p, labels) + a CE(p, hard)``, where ``a`` rises to ``aux_coef`` and the hard predictions cut the batch
    where the share of positives is that of the labels, so that the model cannot drift to one class. No gradient goes
    through the cut.

    When not to use: where the model is wrong more often than the labels; it then teaches itself its errors.

    Args:
        logits: (b, 2) float.
        labels: (b,) 0 or 1, or float in between, the probability of class 1.
        step: of the training, from 0.
        warmup_steps: until a has risen to ``aux_coef``; 0 for from the start.
        aux_coef: largest a, from 0 to 1.

    Returns:
        scalar.

    Raises:
        ValueError: for logits that are not (b, 2), labels outside 0 to 1, or an argument outside its range.

    Example:
        >>> round(log_confidence_loss(torch.zeros(1, 2), torch.ones(1), step=0).item(), 6)
        0.693147
    """
    checks.matrix("logits", logits, columns=2)
    checks.same_length("labels", labels, "logits", logits)
    checks.require(labels.ndim == 1, f"labels must be one number per row (b,): got shape {tuple(labels.shape)}.")
    checks.require(bool(((labels >= 0) & (labels <= 1)).all()), "labels must lie between 0 and 1.")
    checks.at_least("step", step, 0)
    checks.at_least("warmup_steps", warmup_steps, 0)
    checks.between("aux_coef", aux_coef, 0, 1)
    mix = aux_coef * (min(1.0, step / warmup_steps) if warmup_steps else 1.0)
    one = labels.detach().to(logits.dtype)
    if mix > 0:
        with torch.no_grad():
            wide = torch.promote_types(logits.dtype, torch.float32)
            first = torch.softmax(logits.to(wide), dim=1)[:, 0]
            hard = first < torch.quantile(first, one.to(wide).mean())
        one = (1 - mix) * one + mix * hard.to(logits.dtype)
    log_probs = torch.log_softmax(logits, dim=1)
    return -((1 - one) * log_probs[:, 0] + one * log_probs[:, 1]).mean()


class LogConfidenceLoss(nn.Module):
    """``log_confidence_loss`` that counts its steps: one more for every call while training, kept in the state.

    Args:
        warmup_steps: calls until the model's own predictions count fully.
        aux_coef: how much they count then, from 0 to 1.

    Example:
        >>> loss = LogConfidenceLoss(warmup_steps=1)
        >>> logits, labels = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([1.0, 0.0])
        >>> [round(loss(logits, labels).item(), 4) for _ in range(2)]
        [1.7201, 0.9701]
    """

    step: Tensor

    def __init__(self, *, warmup_steps: int = 200, aux_coef: float = 0.5) -> None:
        super().__init__()
        checks.at_least("warmup_steps", warmup_steps, 0)
        checks.between("aux_coef", aux_coef, 0, 1)
        self.warmup_steps, self.aux_coef = warmup_steps, aux_coef
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss of a batch.

        Args:
            logits: (b, 2) float.
            labels: (b,) 0 or 1, or float in between.

        Returns:
            scalar.
        """
        loss = log_confidence_loss(
            logits, labels, int(self.step), warmup_steps=self.warmup_steps, aux_coef=self.aux_coef
        )
        if self.training:
            self.step += 1
        return loss
