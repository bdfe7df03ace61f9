"""How much every negative counts: weights from clusterings, learned weights, and the loss that takes them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tamis import checks
from tamis.contrastive import contrastive_loss, similarity, to_logits
from tamis.randomness import torch_generator


def cluster_negative_weights(assignments: Sequence[Tensor]) -> Tensor:
    """In how many clusterings two rows lie apart.

    The hard weights of MEOW (arXiv:2212.13847): ``w_ij = sum_m [c_m(i) != c_m(j)]``.

    Args:
        assignments: M clusterings of the same n rows, each (n,) int64.

    Returns:
        (n, n) float32 in 0..M, symmetric, 0 on the diagonal. Its log is a log-weight.

    Raises:
        ValueError: for no clustering, or clusterings of different lengths.

    Example:
        >>> cluster_negative_weights([torch.tensor([0, 0, 1]), torch.tensor([0, 1, 2])])
        tensor([[0., 1., 2.],
                [1., 0., 2.],
                [2., 2., 0.]])
    """
    checks.require(len(assignments) > 0, "assignments must hold at least one clustering: got none.")
    first = assignments[0]
    weights = torch.zeros(len(first), len(first), device=first.device)
    for labels in assignments:
        checks.require(labels.ndim == 1, f"assignments must be (n,) each: got shape {tuple(labels.shape)}.")
        checks.same_length("assignments", labels, "the first of them", first)
        weights += labels[:, None] != labels[None]
    return weights


def weighted_info_nce(
    anchor: Tensor,
    other: Tensor,
    weights: Tensor | None = None,
    tau: float = 0.4,
    include_positive: bool = False,
    *,
    log_weights: Tensor | None = None,
    reduction: Literal["mean", "sum", "none"] = "mean",
) -> Tensor:
    """InfoNCE of two views of the same rows, every negative with its weight.

    The losses of MEOW, ``-log(exp(u_i.v_i / tau) / sum_j w_ij exp(u_i.v_j / tau))`` over j other than i, which may be
    negative, and of AdaMEOW, over all j (``include_positive``), of arXiv:2212.13847. MEOW's anchor is the coarse view,
    AdaMEOW's the fine one. Gradients pass to the weights, so detach those that are decided elsewhere.

    Args:
        anchor: (n, d) float, of length one.
        other: (n, d) float, of length one.
        weights: (n, n) float, not negative; None is ones.
        tau: temperature.
        include_positive: keep j = i in the denominator, with the weight that it has.
        log_weights: (n, n) float, the logs of the weights, instead of them.
        reduction: "mean" or "sum" over rows, or "none".

    Returns:
        scalar, or (n,) for "none". A row whose negatives all weigh nothing has loss 0.

    Raises:
        ValueError: for tau not positive, shapes that do not fit, negative weights, or weights in both forms.

    Warns:
        UserWarning: when rows have no negative of any weight.

    Example:
        >>> u = v = torch.eye(2)
        >>> weighted_info_nce(u, v, torch.ones(2, 2), tau=0.5).item()  # log exp(0 - 1 / 0.5)
        -2.0
    """
    checks.matrix("anchor", anchor)
    checks.same_shape("other", other, "anchor", anchor)
    checks.require(weights is None or log_weights is None, "give either weights or log_weights, and not both.")
    logits = to_logits(similarity(anchor, other, "dot"), tau)
    if weights is not None:
        checks.same_shape("weights", weights, "the pairs of rows", logits)
        checks.require(bool((weights.detach() >= 0).all()), "weights must not be negative, nor NaN: give 0 to drop.")
        # The log of an absent one is taken of 1, so that no gradient of the log of 0 arises.
        absent = weights == 0
        log_weights = weights.masked_fill(absent, 1.0).log().masked_fill(absent, -torch.inf)
    elif log_weights is not None:
        checks.same_shape("log_weights", log_weights, "the pairs of rows", logits)
    negatives, own = logits, torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    if not include_positive:
        negatives = logits.masked_fill(own, -torch.inf)
        log_weights = None if log_weights is None else log_weights.masked_fill(own, 0.0)
    terms = negatives.detach() if log_weights is None else negatives.detach() + log_weights.detach()
    alone = int((terms == -torch.inf).all(1).sum())
    if alone:
        warnings.warn(f"{alone} rows have no negative of any weight; their loss is 0.", stacklevel=2)
    return contrastive_loss(
        logits.diagonal(), [(negatives, log_weights)], positive_in_denominator=False, reduction=reduction
    )


class AdaptiveNegativeWeighting(nn.Module):
    """A weight in (0, 1) for every pair, from the sum of its two embeddings.

    The network of AdaMEOW (arXiv:2212.13847): ``w_ij = sigmoid(MLP(v_i + u_j))`` with one tanh layer. The first layer
    is linear, so it is applied to rows and not to pairs, and hidden units are added up one at a time: memory is that of
    the (n, m) weights. Trained with the loss alone, it can lower it by shrinking all weights; ``normalize_weights``
    takes that route away.

    Args:
        dim: d.
        hidden: hidden units.
        normalize_weights: divide every row by its mean. False in the paper.
        seed: seed or torch generator of the start.

    Raises:
        ValueError: for sizes below 1.

    Example:
        >>> AdaptiveNegativeWeighting(4)(torch.eye(4), torch.eye(4)).shape
        torch.Size([4, 4])
    """

    def __init__(
        self,
        dim: int,
        hidden: int = 16,
        *,
        normalize_weights: bool = False,
        seed: int | torch.Generator = 0,
    ) -> None:
        super().__init__()
        checks.at_least("dim", dim, 1)
        checks.at_least("hidden", hidden, 1)
        self.normalize_weights = normalize_weights
        generator = torch_generator(seed)

        def start(*shape: int, fan_in: int) -> nn.Parameter:
            return nn.Parameter((torch.rand(*shape, generator=generator) * 2 - 1) * fan_in**-0.5)

        self.first, self.first_bias = start(dim, hidden, fan_in=dim), start(hidden, fan_in=dim)
        self.second, self.second_bias = start(hidden, fan_in=hidden), start(1, fan_in=hidden)

    def forward(self, anchor: Tensor, other: Tensor) -> Tensor:
        """The weights.

        Args:
            anchor: (n, d) float.
            other: (m, d) float.

        Returns:
            (n, m) float, with gradient.
        """
        return self.log_weights(anchor, other).exp()

    def log_weights(self, anchor: Tensor, other: Tensor) -> Tensor:
        """The logs of the weights, exact where a weight rounds to 0.

        Args:
            anchor: (n, d) float.
            other: (m, d) float.

        Returns:
            (n, m) float, with gradient.
        """
        checks.matrix("anchor", anchor, columns=len(self.first))
        checks.matrix("other", other, columns=len(self.first))
        left, right = anchor @ self.first + self.first_bias, other @ self.first
        pairs: Tensor = _TanhPairs.apply(left, right, self.second)  # type: ignore[no-untyped-call]
        log_weights = F.logsigmoid(pairs + self.second_bias)
        if not self.normalize_weights:
            return log_weights
        # A mean in the log domain; no softmax of scores.
        peak = log_weights.detach().amax(1, keepdim=True)
        return log_weights - peak - (log_weights - peak).exp().mean(1, keepdim=True).log()


class _TanhPairs(torch.autograd.Function):
    """``sum_h w_h tanh(a_ih + c_jh)``: one hidden unit at a time, computed again in the backward pass."""

    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(left, right, scale)
        total = left.new_zeros(len(left), len(right))
        for a, c, w in zip(left.unbind(1), right.unbind(1), scale.unbind(0), strict=True):
            total += w * torch.tanh(a[:, None] + c)
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        left, right, scale = ctx.saved_tensors
        of_left, of_right, of_scale = torch.empty_like(left), torch.empty_like(right), torch.empty_like(scale)
        for h, (a, c) in enumerate(zip(left.unbind(1), right.unbind(1), strict=True)):
            unit = torch.tanh(a[:, None] + c)
            of_scale[h] = (grad * unit).sum()
            slope = grad * (1 - unit * unit) * scale[h]
            of_left[:, h], of_right[:, h] = slope.sum(1), slope.sum(0)
        return of_left, of_right, of_scale
