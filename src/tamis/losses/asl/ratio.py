"""The norm-ratio loss: views with more of the original get longer vectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from tamis import checks

Pairs = Literal["all", "sampled"]

_DRAWS = 5


def norm_ratio_loss(
    embeddings: Tensor,
    content: Tensor,
    groups: Tensor,
    *,
    pairs: Pairs = "all",
    margin: float = 1.0,
    min_norm: float = 1e-6,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Make views with more original content longer: ``exp(margin - |f_big| / |f_small|)`` within each source.

    The norm-ratio loss of ASL (arXiv:2205.12358). Only norms get a gradient, never directions. Hand over embeddings as
    the model gives them: after a normalisation the loss is constant. A source counts once, however many pairs it has.

    Args:
        embeddings: (n, d) float, not normalised.
        content: (n,) float in [0, 1], the share of the original that a view holds.
        groups: (n,) int, the source of each view.
        pairs: "all" is the mean over all pairs of a source with unequal content, and over sources that have one;
            "sampled" draws one pair a source, again up to four times while the contents are equal.
        margin: 1 in the paper.
        min_norm: a shorter vector divides as if it were this long; 0 refuses vectors of length zero.
        generator: for "sampled".

    Returns:
        scalar; 0 with a gradient of zero when no pair is left. float32 for half-precision embeddings.

    Raises:
        ValueError: content out of [0, 1], no source with two views, a vector of length zero where min_norm is 0,
            "sampled" without a generator, shapes that do not fit.

    Example:
        >>> views = torch.tensor([[3.0, 4.0], [0.0, 4.0]])  # norms 5 and 4
        >>> round(norm_ratio_loss(views, torch.tensor([1.0, 0.5]), torch.tensor([0, 0])).item(), 6)
        0.778801
    """
    checks.one_of("pairs", pairs, ("all", "sampled"))
    checks.at_least("min_norm", min_norm, 0.0)
    checks.matrix("embeddings", embeddings)
    for name, value in (("content", content), ("groups", groups)):
        checks.require(value.ndim == 1, f"{name} must be (n,), one per row: got shape {tuple(value.shape)}.")
        checks.same_length(name, value, "embeddings", embeddings)
    _check_content(content)
    _, source, sizes = torch.unique(groups, return_inverse=True, return_counts=True)
    checks.require(
        bool((sizes > 1).any()),
        f"groups must hold a source with two views or more: got {len(sizes)} sources of one view each.",
    )
    # In half precision the squares may overflow.
    norms = torch.linalg.vector_norm(embeddings, dim=1, dtype=torch.promote_types(embeddings.dtype, torch.float32))
    zero = int((norms == 0).sum())
    checks.require(
        min_norm > 0 or zero == 0,
        f"embeddings must not be zero: {zero} rows have length zero; a positive min_norm lets them pass.",
    )
    order = torch.argsort(source, stable=True)
    if pairs == "all":
        big, small, share = _all_pairs(order, sizes, content)
    else:
        if generator is None:
            raise ValueError('generator must be given for pairs="sampled": got None.')
        big, small, share = _sampled_pairs(order, sizes, content, generator)
    losses = torch.exp(margin - norms[big] / norms[small].clamp(min=min_norm))
    return (losses / share).sum()


class AsymmetricSimilarityLoss(nn.Module):
    """A loss for matching plus the norm-ratio loss for the direction of matches.

    The total loss of ASL (arXiv:2205.12358); the paper's base is classification and triplet loss over sources, where
    hard negatives (look-alikes) are further sources.

    Args:
        base_loss: called with embeddings (n, d) and groups (n,); gives a scalar.
        weight: of the norm-ratio loss; more of it costs accuracy of the symmetric match.
        pairs: "all" or "sampled", see ``norm_ratio_loss``.
        margin: 1 in the paper.

    Raises:
        ValueError: negative weight, unknown pairs.

    Example:
        >>> loss = AsymmetricSimilarityLoss(lambda embeddings, groups: embeddings.sum() * 0, weight=2.0)
        >>> round(loss(torch.tensor([[5.0], [4.0]]), torch.tensor([1.0, 0.5]), torch.tensor([0, 0])).item(), 6)
        1.557602
    """

    def __init__(
        self,
        base_loss: Callable[[Tensor, Tensor], Tensor],
        weight: float = 1.0,
        *,
        pairs: Pairs = "all",
        margin: float = 1.0,
    ) -> None:
        super().__init__()
        checks.at_least("weight", weight, 0.0)
        checks.one_of("pairs", pairs, ("all", "sampled"))
        self.base_loss = base_loss
        self.weight = weight
        self.pairs: Pairs = pairs
        self.margin = margin

    def forward(
        self, embeddings: Tensor, content: Tensor, groups: Tensor, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """The loss of a batch.

        Args:
            embeddings: (n, d) float, not normalised.
            content: (n,) float in [0, 1].
            groups: (n,) int, the source of each view.
            generator: for pairs "sampled".

        Returns:
            scalar.
        """
        ratio = norm_ratio_loss(embeddings, content, groups, pairs=self.pairs, margin=self.margin, generator=generator)
        return self.base_loss(embeddings, groups) + self.weight * ratio


def _all_pairs(order: Tensor, sizes: Tensor, content: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows with more and with less content of all unequal pairs within a source, and by what each is divided."""
    firsts = sizes.cumsum(0) - sizes
    widths = sizes.repeat_interleave(sizes)  # each row of ``order`` meets every row of its source
    left = torch.arange(len(order), device=order.device).repeat_interleave(widths)
    begin = widths.cumsum(0) - widths
    nth = torch.arange(len(left), device=order.device) - begin.repeat_interleave(widths)
    source = torch.arange(len(sizes), device=order.device).repeat_interleave(sizes)[left]
    big, small = order[left], order[firsts[source] + nth]
    keep = content[big] > content[small]
    big, small, source = big[keep], small[keep], source[keep]
    counts = torch.bincount(source, minlength=len(sizes))
    return big, small, counts[source] * (counts > 0).sum()


def _sampled_pairs(
    order: Tensor, sizes: Tensor, content: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """One pair a source, drawn with replacement: the first of five draws with unequal contents, else the last."""
    uniform = torch.rand(len(sizes), _DRAWS, 2, generator=generator, dtype=torch.float64, device=generator.device)
    uniform = uniform.to(order.device)
    # A uniform number just below one times a size may round up to the size.
    nth = torch.minimum((uniform * sizes[:, None, None]).long(), sizes[:, None, None] - 1)
    rows = order[(sizes.cumsum(0) - sizes)[:, None, None] + nth]
    unequal = content[rows[..., 0]] != content[rows[..., 1]]
    unequal[:, -1] = True
    first, second = rows[torch.arange(len(sizes), device=order.device), unequal.int().argmax(1)].unbind(1)
    big = torch.where(content[first] >= content[second], first, second)
    small = torch.where(content[first] > content[second], second, first)
    # Two views of equal content: as in the official code one stands in both places.
    return big, small, torch.full_like(sizes, len(sizes))


def _check_content(content: Tensor) -> None:
    outside = ~((content >= 0) & (content <= 1))
    if bool(outside.any()):
        row = int(outside.nonzero()[0])
        raise ValueError(
            f"content must lie between 0 and 1: {int(outside.sum())} rows do not, the first is row {row} with "
            f"{float(content[row]):.3g}."
        )
