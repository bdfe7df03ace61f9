"""GISTEmbed: a guide decides which in-batch candidates may be negatives.

In-batch negatives are often answers that nobody labelled. A frozen guide model scores every pair of the batch, and a
candidate that it finds more similar to the anchor than the anchor's own positive leaves the softmax. This holds for
four blocks: anchors against positives, anchors, hard negatives, and positives against positives. The threshold is the
anchor's in every block, so the mask is not symmetric. The loss takes embeddings of student and guide, never a model.
"""

from __future__ import annotations

import warnings
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tamis import checks
from tamis.contrastive import Block, contrastive_loss, own_columns, similarity, to_logits, unit_rows
from tamis.guide_mask import Strategy
from tamis.guide_mask import false_negative_mask as false_negative_mask
from tamis.guide_mask import soft_false_negative_mask as soft_false_negative_mask
from tamis.method import Method
from tamis.recompute import by_rows

METHOD = Method(
    title="GISTEmbed: Guided In-sample Selection of Training Negatives for Text Embedding Fine-tuning",
    paper="arXiv:2402.16829",
    year=2024,
    code="avsolatorio/GISTEmbed",
    claim="The guide's mask beats plain in-batch negatives when batches hold false negatives.",
    peers=("sentence_transformers.losses.GISTEmbedLoss", "sentence_transformers.losses.CachedGISTEmbedLoss"),
    deviations=(
        "takes the guide's embeddings, not the guide",
        "mask_self=True also masks an anchor or positive against itself when the guide would keep it",
        "margins as in sentence-transformers; a relative one is absolute where the threshold is not positive",
        "chunked and cached variants, hard negatives of one anchor, further log-weights",
        "no temperature schedule and no guided-triplet term",
    ),
)


class GISTEmbedLoss(nn.Module):
    """Contrastive loss over the batch without the candidates that a guide takes for false negatives.

    The guided contrastive loss of GISTEmbed (arXiv:2402.16829): cross-entropy of the anchor's own positive over the
    blocks anchor-positive, anchor-anchor, positive-positive and anchor-negative, cosines divided by the temperature.

    For a batch that the encoder cannot hold, hand the loss to ``tamis.recompute.cached_loss``.

    Args:
        temperature: divides the cosines; 0.01 as in sentence-transformers.
        margin_strategy: "absolute" or "relative", see ``false_negative_mask``.
        margin: lowers the guide's threshold; 0 is the paper.
        softness: a candidate above the threshold counts less the further it stands above, 1/e at this excess, instead
            of not at all; 0 is the paper. See ``soft_false_negative_mask``.
        contrast_anchors: use the anchor-anchor block.
        contrast_positives: use the positive-positive block.
        mask_self: always mask an anchor and a positive against themselves. False is the paper, where it is left to
            the guide, which keeps them when anchor and positive are the same text.
        chunk_rows: compute this many rows of scores at a time, so that memory grows with the rows of a chunk; value
            and gradients are the same.
        warn_above: warn, once, when the guide suspects more than this share of the candidates; 1.0 never warns.

    Raises:
        ValueError: temperature not positive, margin or softness negative, strategy unknown.

    Example:
        >>> anchors, positives = torch.eye(3), torch.eye(3)
        >>> loss = GISTEmbedLoss(temperature=1.0, contrast_anchors=False, contrast_positives=False)
        >>> round(float(loss(anchors, positives, guide_anchors=anchors, guide_positives=positives)), 4)
        0.5514
    """

    def __init__(
        self,
        *,
        temperature: float = 0.01,
        margin_strategy: Strategy = "absolute",
        margin: float = 0.0,
        softness: float = 0.0,
        contrast_anchors: bool = True,
        contrast_positives: bool = True,
        mask_self: bool = True,
        chunk_rows: int | None = None,
        warn_above: float = 0.5,
    ) -> None:
        super().__init__()
        checks.positive("temperature", temperature)
        checks.one_of("margin_strategy", margin_strategy, ("absolute", "relative"))
        checks.at_least("margin", margin, 0.0)
        checks.at_least("softness", softness, 0.0)
        checks.at_least("chunk_rows", 1 if chunk_rows is None else chunk_rows, 1)
        checks.between("warn_above", warn_above, 0.0, 1.0)
        self.temperature = temperature
        self.margin_strategy = margin_strategy
        self.margin = margin
        self.softness = softness
        self.contrast_anchors = contrast_anchors
        self.contrast_positives = contrast_positives
        self.mask_self = mask_self
        self.chunk_rows = chunk_rows
        self.warn_above = warn_above
        self._warned = False

    def forward(
        self,
        anchors: Tensor,
        positives: Tensor,
        negatives: Tensor | None = None,
        *,
        guide_anchors: Tensor,
        guide_positives: Tensor,
        guide_negatives: Tensor | None = None,
        all_anchors: Tensor | None = None,
        guide_all_anchors: Tensor | None = None,
        positive_log_weights: Tensor | None = None,
        negative_log_weights: Tensor | None = None,
        rank_offset: int = 0,
        return_stats: bool = False,
    ) -> Tensor | tuple[Tensor, dict[str, float]]:
        """The loss of a batch. No gradient reaches the guide.

        The guided contrastive loss of GISTEmbed (arXiv:2402.16829).

        Args:
            anchors: (b, d) float: rows need not be normalised.
            positives: (m, d) float, m >= b: row ``rank_offset + i`` answers anchor i; m > b when gathered over devices.
            negatives: (k, d) hard negatives that every anchor meets, or (b, k, d), each anchor's own.
            guide_anchors: (b, g) float, the guide's embeddings of the same texts.
            guide_positives: (m, g) float.
            guide_negatives: (k, g) or (b, k, g) float.
            all_anchors: (m, d) float, the anchors gathered over devices as the positives are, for the anchor-anchor
                block; None takes this device's own, which leaves out what the whole batch would have there.
            guide_all_anchors: (m, g) float, likewise.
            positive_log_weights: (b, m) float, further decisions on the anchor-positive block; the anchor's own
                positive is protected from them.
            negative_log_weights: (b, k) float, further decisions on the anchor-negative block.
            rank_offset: where this device's positives begin among gathered ones.
            return_stats: also return the share of candidates that the guide finds above the threshold.

        Returns:
            scalar; with ``return_stats`` also a dict of shares in [0, 1] by block ("anchor_positive",
            "anchor_anchor", "positive_positive", "anchor_negative") and over "all", the positive itself not counted.

        Raises:
            ValueError: shapes that do not fit; only one of negatives and guide_negatives.

        Example:
            >>> loss, x = GISTEmbedLoss(temperature=1.0), torch.eye(2)
            >>> guide = torch.tensor([[1.0, 0.0], [1.0, 0.1]])  # finds the two pairs alike
            >>> loss(x, x, guide_anchors=guide, guide_positives=guide, return_stats=True)[1]["all"]
            0.0
        """
        _check(anchors, positives, negatives, guide_anchors, guide_positives, guide_negatives)
        _check_all_anchors(all_anchors, guide_all_anchors, positives, anchors, guide_anchors)
        b = len(anchors)
        own = own_columns(b, len(positives), rank_offset=rank_offset, device=anchors.device)
        a, p = unit_rows(anchors), unit_rows(positives)
        ga, gp = _guide_rows(guide_anchors), _guide_rows(guide_positives)
        _check_log_weights("positive_log_weights", positive_log_weights, anchors, positives)
        _check_log_weights("negative_log_weights", negative_log_weights, anchors, negatives)
        blocks = [_Block("anchor_positive", a, p, ga, gp, own, positive_log_weights)]
        if self.contrast_anchors:
            if all_anchors is None or guide_all_anchors is None:
                blocks.append(_Block("anchor_anchor", a, a, ga, ga, own - rank_offset))
            else:
                others = unit_rows(all_anchors), _guide_rows(guide_all_anchors)
                blocks.append(_Block("anchor_anchor", a, others[0], ga, others[1], own))
        if self.contrast_positives:
            local = slice(rank_offset, rank_offset + b)
            blocks.append(_Block("positive_positive", p[local], p, gp[local], gp, own))
        if negatives is not None and guide_negatives is not None:
            n, gn = unit_rows(negatives), _guide_rows(guide_negatives)
            blocks.append(_Block("anchor_negative", a, n, ga, gn, None, negative_log_weights))
        losses, dropped = by_rows(lambda rows: self._losses(blocks, rows), b, self.chunk_rows)
        loss = losses.mean()
        if not return_stats and (self._warned or self.warn_above >= 1.0):
            return loss
        stats = _shares(blocks, dropped)
        if stats["all"] > self.warn_above and not self._warned:
            self._warned = True
            warnings.warn(
                f"the guide takes {stats['all']:.0%} of the candidates for false negatives, more than "
                f"{self.warn_above:.0%}: use a smaller margin or a guide that knows the task "
                "(return_stats=True gives the share of each block).",
                stacklevel=4,  # the caller of the module, past the two frames of nn.Module
            )
        return (loss, stats) if return_stats else loss

    def _losses(self, blocks: list[_Block], rows: slice) -> tuple[Tensor, Tensor]:
        """Losses (r,) of some rows, and how many candidates of each block the guide suspects (r, blocks)."""
        with torch.autocast(blocks[0].left.device.type, enabled=False):  # it would round the guide's products
            guides = [_scores(block.guide_left, block.guide_right, rows) for block in blocks]
        logits = [to_logits(_scores(block.left, block.right, rows), self.temperature) for block in blocks]
        itself = [None if block.own is None else block.own[rows, None] for block in blocks]
        assert itself[0] is not None
        threshold, positive = (scores.gather(1, itself[0]).squeeze(1) for scores in (guides[0], logits[0]))
        terms: list[Block] = []
        counts = []
        for i, block in enumerate(blocks):
            weights = soft_false_negative_mask(
                guides[i], threshold, self.softness, self.margin, self.margin_strategy
            ).to(logits[i].dtype)
            suspect = weights < 0
            count = suspect.sum(1)
            own = itself[i]
            if own is not None:
                count = count - suspect.gather(1, own).squeeze(1).long()
                if i == 0 or self.mask_self:  # the positive stands beside the blocks, not in one
                    weights = weights.scatter(1, own, -torch.inf)
            if block.log_weights is not None:
                weights = weights + block.log_weights[rows]
            terms.append((logits[i], weights))
            counts.append(count)
        return contrastive_loss(positive, terms, reduction="none"), torch.stack(counts, 1)


class _Block(NamedTuple):
    """Rows against candidates, for student and guide, and which candidate is the row's own positive or itself."""

    name: str
    left: Tensor
    right: Tensor
    guide_left: Tensor
    guide_right: Tensor
    own: Tensor | None
    log_weights: Tensor | None = None


def _scores(left: Tensor, right: Tensor, rows: slice) -> Tensor:
    return similarity(left[rows], right if right.ndim == 2 else right[rows], "dot")


def _guide_rows(embeddings: Tensor) -> Tensor:
    """Unit rows without a graph, in float32 at least: rounding in half precision makes ties with the threshold."""
    x = embeddings.detach()
    return unit_rows(x if x.dtype == torch.float64 else x.float())


def _shares(blocks: list[_Block], dropped: Tensor) -> dict[str, float]:
    counts = dropped.sum(0).tolist()
    sizes = [len(dropped) * (block.right.shape[-2] - (block.own is not None)) for block in blocks]
    shares = {block.name: c / max(n, 1) for block, c, n in zip(blocks, counts, sizes, strict=True)}
    return {**shares, "all": sum(counts) / max(sum(sizes), 1)}


def _check(
    anchors: Tensor,
    positives: Tensor,
    negatives: Tensor | None,
    guide_anchors: Tensor,
    guide_positives: Tensor,
    guide_negatives: Tensor | None,
) -> None:
    checks.matrix("anchors", anchors)
    checks.matrix("positives", positives, columns=anchors.shape[1])
    checks.matrix("guide_anchors", guide_anchors)
    checks.matrix("guide_positives", guide_positives, columns=guide_anchors.shape[1])
    pairs = [("anchors", anchors, guide_anchors), ("positives", positives, guide_positives)]
    if negatives is None or guide_negatives is None:
        checks.require(
            negatives is guide_negatives,
            f"negatives and guide_negatives must come together: got {_shape(negatives)} and {_shape(guide_negatives)}.",
        )
    else:
        for name, value, columns in (
            ("negatives", negatives, anchors.shape[1]),
            ("guide_negatives", guide_negatives, guide_anchors.shape[1]),
        ):
            checks.require(
                value.shape[-1] == columns and (value.ndim == 2 or (value.ndim == 3 and len(value) == len(anchors))),
                f"{name} must be (k, {columns}) or ({len(anchors)}, k, {columns}): got {_shape(value)}.",
            )
        pairs.append(("negatives", negatives, guide_negatives))
    for name, student, guide in pairs:
        checks.require(
            student.shape[:-1] == guide.shape[:-1],
            f"guide_{name} must have one row per row of {name}: {name} {_shape(student)}, "
            f"guide_{name} {_shape(guide)}.",
        )


def _check_all_anchors(
    anchors: Tensor | None, guide: Tensor | None, positives: Tensor, own: Tensor, guide_own: Tensor
) -> None:
    checks.require(
        (anchors is None) == (guide is None),
        f"all_anchors and guide_all_anchors must come together: got {_shape(anchors)} and {_shape(guide)}.",
    )
    for name, value, of in (("all_anchors", anchors, own), ("guide_all_anchors", guide, guide_own)):
        if value is not None:
            checks.matrix(name, value, columns=of.shape[1])
            checks.same_length(name, value, "positives", positives)


def _check_log_weights(name: str, log_weights: Tensor | None, anchors: Tensor, candidates: Tensor | None) -> None:
    shape = None if candidates is None else (len(anchors), candidates.shape[-2])
    checks.require(
        log_weights is None or tuple(log_weights.shape) == shape,
        f"{name} must have the shape of the scores {shape}: got {_shape(log_weights)}.",
    )


def _shape(value: Tensor | None) -> str:
    return "None" if value is None else str(tuple(value.shape))
