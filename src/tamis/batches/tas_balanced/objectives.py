"""Margin-MSE on pairs, inside the batch, and both: the student copies margins, never scores."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tamis import checks


class MarginMSELoss(nn.Module):
    """Squared error between the student's and the teacher's margin of a (positive, negative) pair.

    The pairwise loss of TAS-Balanced (arXiv:2104.06967, equation 5; Margin-MSE of arXiv:2010.02666). A constant added
    to all scores of a query, the student's or the teacher's, changes nothing.

    Example:
        >>> loss = MarginMSELoss()
        >>> loss(torch.tensor([5.0, 4.0]), torch.tensor([3.0, 4.5]), torch.tensor([3.0, 0.5])).item()
        1.0
    """

    def forward(self, positives: Tensor, negatives: Tensor, teacher_margins: Tensor) -> Tensor:
        """The mean over pairs.

        Args:
            positives: (b,) float, the student's score of each query's positive.
            negatives: (b,) float, of its negative.
            teacher_margins: (b,) float, the teacher's score of the positive less that of the negative. No gradient.

        Returns:
            scalar.

        Raises:
            ValueError: shapes that do not fit, an empty batch.
        """
        checks.require(
            positives.ndim == 1 and len(positives) > 0,
            f"positives must be (b,) and not empty: got shape {tuple(positives.shape)}.",
        )
        checks.same_shape("negatives", negatives, "positives", positives)
        checks.same_shape("teacher_margins", teacher_margins, "positives", positives)
        margins = teacher_margins.detach().to(positives.dtype)
        return (positives - negatives - margins).square().mean()


class InBatchMarginMSELoss(nn.Module):
    """Margin-MSE of each query's positive against every passage of the other queries, taught by an in-batch teacher.

    The in-batch loss of TAS-Balanced (arXiv:2104.06967, equation 6), as in its code: half the mean over others'
    positives plus half the mean over others' negatives, off the diagonal. The teacher handles a passage that answers
    two queries; do not turn this into a softmax over hard labels without masking those.

    Example:
        >>> s_pos, s_neg = torch.tensor([[5.0, 2.0], [1.0, 4.0]]), torch.tensor([[3.0, 1.0], [2.0, 4.5]])
        >>> t_pos, t_neg = torch.tensor([[9.0, 3.0], [2.0, 8.0]]), torch.tensor([[6.0, 2.0], [3.0, 7.0]])
        >>> InBatchMarginMSELoss()(s_pos, s_neg, t_pos, t_neg).item()
        9.0
    """

    def forward(
        self,
        positives: Tensor,
        negatives: Tensor,
        teacher_positives: Tensor,
        teacher_negatives: Tensor,
        log_weights: Tensor | None = None,
    ) -> Tensor:
        """The mean over queries and other queries' passages.

        Args:
            positives: (b, b) float, the student's scores of queries (rows) with positives (columns); the diagonal is
                each query's own.
            negatives: (b, b) float, with the negatives.
            teacher_positives: (b, b) float, the teacher's scores of the positives. No gradient.
            teacher_negatives: (b, b) float, of the negatives. No gradient.
            log_weights: (b, 2 b) float, over positives and then negatives: ``-inf`` leaves a passage out, a finite
                number weighs its term in the mean. No gradient.

        Returns:
            scalar.

        Raises:
            ValueError: shapes that do not fit, or fewer than two queries.
        """
        checks.matrix("positives", positives)
        b = len(positives)
        checks.require(
            b > 1 and positives.shape[1] == b,
            f"positives must be (b, b) with b at least 2: got shape {tuple(positives.shape)}.",
        )
        for name, table in (
            ("negatives", negatives),
            ("teacher_positives", teacher_positives),
            ("teacher_negatives", teacher_negatives),
        ):
            checks.same_shape(name, table, "positives", positives)
        weights = torch.ones(b, 2 * b, dtype=positives.dtype, device=positives.device)
        if log_weights is not None:
            checks.require(
                log_weights.shape == weights.shape,
                f"log_weights must be ({b}, {2 * b}), positives and then negatives: got {tuple(log_weights.shape)}.",
            )
            weights = log_weights.detach().to(positives.dtype).exp()
        own = torch.eye(b, dtype=torch.bool, device=positives.device)
        own_teacher = teacher_positives.detach().to(positives.dtype).diagonal()[:, None]
        total = positives.new_zeros(())
        for scores, teacher, w in (
            (positives, teacher_positives, weights[:, :b]),
            (negatives, teacher_negatives, weights[:, b:]),
        ):
            w = w.masked_fill(own, 0)
            wanted = own_teacher - teacher.detach().to(positives.dtype)
            # Masked and not only multiplied by zero: what is left out may be infinite.
            errors = (positives.diagonal()[:, None] - scores - wanted).masked_fill(w == 0, 0)
            total = total + (errors.square() * w).sum() / w.sum().clamp_min(torch.finfo(w.dtype).tiny)
        return total / 2


class DualSupervisionLoss(nn.Module):
    """Both teachers at once: ``lambda_pair`` times the pairwise loss plus ``lambda_in_batch`` times the in-batch one.

    Equation 7 of TAS-Balanced (arXiv:2104.06967) with the weights of its configuration. The two teachers live on
    scales of their own; margins are never mixed, only the losses are added. The in-batch teacher scores b x 2 b pairs,
    so it must be a late-interaction or a two-tower model. In its claim a cold student learnt ranking no better from
    single-topic batches; start from a trained one.

    Args:
        lambda_pair: weight of the pairwise loss, not negative.
        lambda_in_batch: weight of the in-batch loss, not negative.

    Raises:
        ValueError: for a negative weight.

    Example:
        >>> s_pos, s_neg = torch.tensor([[5.0, 2.0], [1.0, 4.0]]), torch.tensor([[3.0, 1.0], [2.0, 4.5]])
        >>> t_pos, t_neg = torch.tensor([[9.0, 3.0], [2.0, 8.0]]), torch.tensor([[6.0, 2.0], [3.0, 7.0]])
        >>> DualSupervisionLoss()(s_pos, s_neg, torch.tensor([3.0, 0.5]), t_pos, t_neg).item()
        7.75
    """

    def __init__(self, *, lambda_pair: float = 1.0, lambda_in_batch: float = 0.75) -> None:
        super().__init__()
        checks.at_least("lambda_pair", lambda_pair, 0)
        checks.at_least("lambda_in_batch", lambda_in_batch, 0)
        self.lambda_pair = lambda_pair
        self.lambda_in_batch = lambda_in_batch
        self.pairwise = MarginMSELoss()
        self.in_batch = InBatchMarginMSELoss()

    def forward(
        self,
        positives: Tensor,
        negatives: Tensor,
        teacher_margins: Tensor,
        teacher_positives: Tensor,
        teacher_negatives: Tensor,
        log_weights: Tensor | None = None,
    ) -> Tensor:
        """The weighted sum of the two losses.

        Args:
            positives: (b, b) float, the student's scores of queries with positives; the diagonal makes the pairs.
            negatives: (b, b) float, with negatives.
            teacher_margins: (b,) float, the pairwise teacher's margins. No gradient.
            teacher_positives: (b, b) float, the in-batch teacher's scores of the positives. No gradient.
            teacher_negatives: (b, b) float, of the negatives. No gradient.
            log_weights: (b, 2 b) float, see ``InBatchMarginMSELoss``; the pairs keep weight one.

        Returns:
            scalar.

        Raises:
            ValueError: shapes that do not fit, or fewer than two queries.
        """
        in_batch: Tensor = self.in_batch(positives, negatives, teacher_positives, teacher_negatives, log_weights)
        pairwise: Tensor = self.pairwise(positives.diagonal(), negatives.diagonal(), teacher_margins)
        return self.lambda_pair * pairwise + self.lambda_in_batch * in_batch
