"""The refined batch, the noisy stand-in for an image, and the loss against anchored targets."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tamis import checks
from tamis.contrastive import drop, info_nce
from tamis.extra_negatives import known_positive_log_weights
from tamis.randomness import torch_generator


class TargetAnchoredContrastive(nn.Module):
    """Contrastive loss of queries against fixed targets, row by row (arXiv:2406.09188, section 3.2).

    The official form is NT-Xent over all rows, targets and queries: each row's positive is its partner, and every other
    row is a negative, those of its own side too. Hand in targets without gradient: an encoder that trains on both sides
    drifts from the space of the images.

    Args:
        temperature: divides the cosines.
        symmetric: the official form; False is the cross-entropy of queries over targets alone.

    Raises:
        ValueError: for a temperature that is not positive.

    Example:
        >>> queries = torch.tensor([[0.8, 0.6], [0.6, 0.8]])
        >>> round(TargetAnchoredContrastive(temperature=1.0)(queries, torch.eye(2)).item(), 6)
        0.957474
    """

    def __init__(self, *, temperature: float = 0.07, symmetric: bool = True) -> None:
        super().__init__()
        checks.positive("temperature", temperature)
        self.temperature = temperature
        self.symmetric = symmetric

    def forward(self, queries: Tensor, targets: Tensor, *, target_ids: Tensor | None = None) -> Tensor:
        """The mean over rows.

        Args:
            queries: (m, d) float: rows need not be normalised.
            targets: (m, d) float; row i is the target of query i.
            target_ids: (m,) int64, equal for targets that are the same: these, and the queries that ask for them, are
                no negatives of one another. Default all different.

        Returns:
            scalar.

        Raises:
            ValueError: shapes that do not fit, an empty batch.
        """
        checks.matrix("queries", queries)
        checks.same_shape("targets", targets, "queries", queries)
        m = len(queries)
        ids = torch.arange(m, device=queries.device) if target_ids is None else target_ids
        checks.same_length("target_ids", ids, "queries", queries)
        if not self.symmetric:
            same = known_positive_log_weights(ids, ids, dtype=queries.dtype)
            return info_nce(queries, targets, temperature=self.temperature, log_weights=same)
        rows, ids = torch.cat([targets, queries]), torch.cat([ids, ids])
        same = known_positive_log_weights(ids, ids, dtype=queries.dtype)
        itself = torch.eye(2 * m, dtype=torch.bool, device=queries.device)
        partner = torch.arange(2 * m, device=queries.device).roll(m)
        return info_nce(
            rows, rows, positive_columns=partner, temperature=self.temperature, log_weights=drop(itself, same)
        )


def refined_batch(a: Tensor, b: Tensor, z_t: Tensor, z_r: Tensor) -> tuple[Tensor, Tensor]:
    """Queries and targets of the refined batch: each reference caption is a target too (arXiv:2406.09188, section 3.3).

    For a query with the condition its own reference caption is then a hard negative, and the query without the
    condition must find it. In the toy of its claim, where captions are short and exact, it costs some accuracy and
    saves queries from answering with their own reference.

    Args:
        a: (n, d) float, composed queries, reference and condition.
        b: (n, d) float, the same without the condition.
        z_t: (n, d) float, anchored embeddings of the target captions.
        z_r: (n, d) float, of the reference captions.

    Returns:
        queries (2 n, d), ``[a; b]``, and targets (2 n, d), ``[z_t; z_r]``.

    Raises:
        ValueError: shapes that differ.

    Example:
        >>> queries, targets = refined_batch(torch.ones(2, 3), torch.zeros(2, 3), torch.ones(2, 3), torch.zeros(2, 3))
        >>> queries.shape, bool((queries == targets).all())
        (torch.Size([4, 3]), True)
    """
    checks.matrix("a", a)
    for name, value in (("b", b), ("z_t", z_t), ("z_r", z_r)):
        checks.same_shape(name, value, "a", a)
    return torch.cat([a, b]), torch.cat([z_t, z_r])


def noisy_projection(
    z: Tensor, phi: nn.Module, *, noise_scale: float = 0.5, generator: int | torch.Generator = 0
) -> Tensor:
    """Pseudo-tokens from text embeddings: noise of a random size per row, then the frozen projector.

    The refined concatenation of arXiv:2406.09188, ``phi(z + noise_scale * u * eps)`` with u uniform on (0, 1) per row
    and eps normal. The scale is for CLIP's raw embeddings; those of length one want a tenth of it.

    Args:
        z: (n, p) float, embeddings of captions as the projector takes them.
        phi: (n, p) to (n, h), in evaluation mode for this call whatever its mode is; no gradient.
        noise_scale: not negative.
        generator: seed or generator.

    Returns:
        (n, h), without gradient.

    Raises:
        ValueError: for a negative scale or an empty batch.

    Example:
        >>> noisy_projection(torch.ones(1, 2), nn.Identity(), noise_scale=0.0)
        tensor([[1., 1.]])
    """
    checks.matrix("z", z)
    checks.at_least("noise_scale", noise_scale, 0)
    drawn = torch_generator(generator, z.device)
    training = phi.training
    phi.eval()
    try:
        with torch.no_grad():
            size = torch.rand(len(z), 1, generator=drawn, dtype=z.dtype, device=z.device)
            noise = torch.randn(z.shape, generator=drawn, dtype=z.dtype, device=z.device)
            projected: Tensor = phi(z + noise_scale * size * noise)
    finally:
        phi.train(training)
    return projected
