"""What a guide says of candidates: a frozen model's similarities against a threshold, as a mask or as a slope.

A candidate that the guide finds more similar to the anchor than the anchor's own positive is probably a false negative.
The mask drops it, however little it stands above the threshold; the slope lets it count less the further it stands
above, so that a small error of the guide has a small effect. A slope without width is the mask.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from tamis import checks

Strategy = Literal["absolute", "relative"]


def false_negative_mask(
    guide_sim: Tensor,
    threshold: Tensor,
    margin: float = 0.0,
    strategy: Strategy = "absolute",
    protect: Tensor | None = None,
) -> Tensor:
    """Which candidates a guide finds more similar to the anchor than the anchor's own positive.

    The selection rule of GISTEmbed (arXiv:2402.16829), with the margins of sentence-transformers. Strict: a candidate
    as similar as the threshold stays. Thresholds belong to rows, so the mask is not symmetric.

    Args:
        guide_sim: (b, m) float, the guide's similarities.
        threshold: (b,) float, the guide's similarity of each anchor and its own positive.
        margin: at least 0; lowers the threshold, so that more is dropped.
        strategy: "absolute" drops above ``threshold - margin``, "relative" above ``threshold * (1 - margin)``. A
            threshold that is not positive would move up by the factor, so there "relative" means "absolute".
        protect: (b,) int64, a column per row that is never dropped, or None.

    Returns:
        (b, m) bool, True where the candidate is probably a false negative.

    Raises:
        ValueError: unknown strategy, negative margin, or shapes that do not fit.

    Example:
        >>> false_negative_mask(torch.tensor([[0.8, 0.9, 0.7]]), torch.tensor([0.8]), margin=0.05)
        tensor([[ True,  True, False]])
    """
    mask = guide_sim > _ceiling(guide_sim, threshold, margin, strategy)
    return mask if protect is None else mask.scatter_(1, protect[:, None], False)


def soft_false_negative_mask(
    guide_sim: Tensor,
    threshold: Tensor,
    softness: float,
    margin: float = 0.0,
    strategy: Strategy = "absolute",
    protect: Tensor | None = None,
) -> Tensor:
    """Log-weights that fall with the guide's excess over the threshold: a slope where GISTEmbed has a cliff.

    Ours, after GISTEmbed (arXiv:2402.16829): ``-max(0, guide - ceiling) / softness``, where GISTEmbed has ``-inf``.
    What GISTEmbed keeps is untouched for every softness, and as softness goes to 0 the rest goes to ``-inf``.

    Args:
        guide_sim: (b, m) float, the guide's similarities.
        threshold: (b,) float, the guide's similarity of each anchor and its own positive.
        softness: the excess at which a candidate counts 1/e, in units of the similarity; 0 is ``false_negative_mask``.
        margin: see ``false_negative_mask``.
        strategy: see ``false_negative_mask``.
        protect: (b,) int64, a column per row that keeps its full weight, or None.

    Returns:
        (b, m) float log-weights, at most 0, without gradient.

    Raises:
        ValueError: negative softness, or as ``false_negative_mask``.

    Example:
        >>> soft_false_negative_mask(torch.tensor([[0.8, 0.9, 0.7]]), torch.tensor([0.8]), softness=0.1)
        tensor([[ 0.0000, -1.0000,  0.0000]])
    """
    checks.at_least("softness", softness, 0.0)
    guide_sim = guide_sim.detach()
    excess = (guide_sim - _ceiling(guide_sim, threshold.detach(), margin, strategy)).clamp(min=0)
    if softness > 0:
        log_weights = 0.0 - excess / softness
    else:
        log_weights = torch.zeros_like(excess).masked_fill(excess > 0, -torch.inf)
    return log_weights if protect is None else log_weights.scatter_(1, protect[:, None], 0.0)


def _ceiling(guide_sim: Tensor, threshold: Tensor, margin: float, strategy: Strategy) -> Tensor:
    """(b, 1), the similarity above which a candidate of each row is suspect."""
    checks.one_of("margin_strategy", strategy, ("absolute", "relative"))
    checks.at_least("margin", margin, 0.0)
    checks.matrix("guide_sim", guide_sim, allow_empty=True)
    checks.require(threshold.ndim == 1, f"threshold must be (b,), one per row: got shape {tuple(threshold.shape)}.")
    checks.same_length("threshold", threshold, "guide_sim", guide_sim)
    ceiling = threshold - margin
    if strategy == "relative":
        ceiling = torch.where(threshold > 0, threshold * (1 - margin), ceiling)
    return ceiling[:, None]
