"""The contrast of rows with the centres of their clusters."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from tamis import checks
from tamis.contrastive import contrastive_loss, unit_rows


def proto_nce(
    z: Tensor,
    centroids: Tensor,
    assignments: Tensor,
    concentration: Tensor,
    *,
    denominator: Literal["sum", "mean_times_n"] = "sum",
) -> Tensor:
    """Every row against all centres, its own in the numerator, each centre with its temperature.

    The prototype loss of MEOW (arXiv:2212.13847), ProtoNCE of PCL (arXiv:2005.04966, equation 11), for one clustering;
    take the mean over several.

    Args:
        z: (n, d) float, of length one; gradients pass to it alone.
        centroids: (k, d) float: rows need not be normalised.
        assignments: (n,) int64, the centre of every row.
        concentration: (k,) float, positive, the temperature of every centre.
        denominator: "sum" over centres, or the official code's mean over them times n, larger by log(n / k), which no
            gradient sees.

    Returns:
        scalar, the mean over rows.

    Raises:
        ValueError: for shapes that do not fit, more centres than rows, a temperature that is not positive.

    Example:
        >>> z, one = torch.eye(2), torch.ones(2)
        >>> round(proto_nce(z, z, torch.tensor([0, 1]), one).item(), 4)  # log(1 + 1 / e)
        0.3133
    """
    checks.one_of("denominator", denominator, ("sum", "mean_times_n"))
    checks.matrix("z", z)
    checks.matrix("centroids", centroids, columns=z.shape[1])
    n, k = len(z), len(centroids)
    checks.require(k <= n, f"centroids must not outnumber the rows of z: {n} rows, {k} centroids; ask for fewer.")
    checks.same_length("assignments", assignments, "z", z)
    checks.same_length("concentration", concentration, "centroids", centroids)
    checks.require(bool((concentration > 0).all()), "concentration must be positive for every centroid.")
    low, high = int(assignments.min()), int(assignments.max())
    checks.require(0 <= low and high < k, f"assignments must lie in 0..{k - 1}, the centroids: got {low}..{high}.")
    logits = z @ unit_rows(centroids.detach().to(z)).T / concentration.detach().to(z)
    own = assignments[:, None]
    others = logits.scatter(1, own, -torch.inf)
    loss = contrastive_loss(logits.gather(1, own).squeeze(1), [(others, None)])
    return loss if denominator == "sum" else loss + math.log(n / k)


@torch.no_grad()
def prototype_concentration(
    z: Tensor,
    centroids: Tensor,
    assignments: Tensor,
    *,
    tau: float = 0.4,
    smoothing: float = 5.0,
    measure: Literal["distance", "similarity"] = "distance",
) -> Tensor:
    """A temperature for every centre: small where its rows lie close, on average tau.

    ``phi_k = mean(sqrt(d)) / log(n_k + 5)``; centres of at most one row get the largest; cut at the 10th and 90th
    percentile; scaled to the mean tau (MEOW, arXiv:2212.13847, after PCL, arXiv:2005.04966, equation 12).

    Args:
        z: (n, d) float, of length one.
        centroids: (k, d) float: rows need not be normalised.
        assignments: (n,) int64.
        tau: the mean.
        smoothing: the 5; PCL has 10.
        measure: "distance" takes squared distances for d, as PCL does; "similarity" inner products, as the official
            code of MEOW, by which a tight cluster gets the larger temperature.

    Returns:
        (k,) float, without gradient.

    Raises:
        ValueError: for tau not positive or shapes that do not fit.

    Example:
        >>> z = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.6, 0.8], [0.8, -0.6]])
        >>> phi = prototype_concentration(z, torch.tensor([[1.0, 0.0], [1.0, 0.1]]), torch.tensor([0, 0, 1, 1]))
        >>> bool(phi[0] < phi[1]), round(phi.mean().item(), 4)
        (True, 0.4)
    """
    checks.positive("tau", tau)
    checks.one_of("measure", measure, ("distance", "similarity"))
    checks.matrix("z", z)
    checks.matrix("centroids", centroids, columns=z.shape[1])
    checks.same_length("assignments", assignments, "z", z)
    k = len(centroids)
    near = (z * unit_rows(centroids.to(z))[assignments]).sum(1)
    # Of rows of length one the squared distance is 2 - 2 cos.
    root = (near if measure == "similarity" else 2 - 2 * near).clamp_min(0).sqrt()
    count = torch.bincount(assignments, minlength=k).to(z)
    phi = z.new_zeros(k).index_add(0, assignments, root) / count.clamp_min(1) / (count + smoothing).log()
    phi = torch.where(count > 1, phi, torch.zeros_like(phi))
    phi = torch.where(count > 1, phi, phi.max())
    ends = torch.quantile(phi, torch.tensor([0.1, 0.9], dtype=phi.dtype, device=phi.device))
    phi = phi.clamp(ends[0], ends[1])
    mean = phi.mean()
    # Rows that all lie on their centres say nothing of temperatures.
    return tau * phi / mean if bool(mean > 1e-12) else torch.full_like(phi, tau)
