"""The likelihood with a tracked partition function, and the noise-contrastive loss it is compared with."""

from __future__ import annotations

import math
import warnings
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tamis import checks
from tamis.contrastive import contrastive_loss
from tamis.indexed_ema import Estimator, IndexedEMA


class Partition(NamedTuple):
    """An estimate of a partition function.

    Args:
        log_z: scalar or (b,) its logarithm.
        effective_sample_size: scalar or (b,) how many equally weighted noise samples it is worth (Kish).
    """

    log_z: Tensor
    effective_sample_size: Tensor


class CompositionalNLLLoss(nn.Module):
    """The negative log-likelihood ``-mean l(x) + log u`` with ``u`` tracked over steps.

    MECO (Jiang et al., arXiv:2306.07485): the inner mean ``E_q exp(l(z) - log q(z))`` is a moving average over batches
    of noise, and the gradient is ``-mean grad l(x) + mean_z exp(l(z) - log q(z)) grad l(z) / u``. The value is the
    likelihood under ``u``; it is not what the gradient differentiates. The paper's average of gradients is the
    momentum of the optimiser (0.9 with dampening 0.9 is its beta of 0.1). With ``num_blocks`` above 1 every row has an
    average of its own. In evaluation mode nothing moves. When not to use: with noise narrower than the model, whose
    weights have no bounded variance, and with hundreds of noise samples, where the batch's own mean (``gamma=1``) does.

    Args:
        gamma: weight of the new batch in the average, in (0, 1]; 1 is the batch's own mean.
        num_blocks: how many partition functions there are, one for each anchor, say.
        estimator: "ema", or "storm", the variance-reduced average.
        log_weight_clip: the most that the logarithm of a noise sample's weight may be.

    Attributes:
        clipped: int64 buffer, how many weights were clipped so far.

    Raises:
        ValueError: gamma outside (0, 1], no blocks, unknown estimator, a clip that is not positive.

    Example:
        >>> loss, noise = CompositionalNLLLoss(gamma=0.5), torch.zeros(1)
        >>> values = [loss(torch.zeros(1), torch.tensor([g]).log(), noise).item() for g in (2.0, 3.0)]
        >>> [round(v, 6) for v in values]  # log 2 and log 2.5
        [0.693147, 0.916291]
    """

    clipped: Tensor
    updates: Tensor
    log_spread: Tensor

    def __init__(
        self,
        gamma: float = 0.1,
        num_blocks: int = 1,
        estimator: Estimator = "ema",
        log_weight_clip: float = 30.0,
    ) -> None:
        super().__init__()
        checks.positive("log_weight_clip", log_weight_clip)
        self.log_weight_clip = log_weight_clip
        self.average = IndexedEMA(num_blocks, gamma, estimator=estimator)
        self.register_buffer("clipped", torch.zeros((), dtype=torch.int64))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        self.register_buffer("log_spread", torch.tensor(-torch.inf))

    @property
    def log_u(self) -> Tensor:
        """(num_blocks,) float32, the logarithm of each tracked partition function; ``-inf`` before its first batch."""
        return self.average.log_u

    def forward(
        self,
        data_logp: Tensor,
        noise_logp: Tensor,
        noise_log_q: Tensor,
        index: Tensor | None = None,
        *,
        previous_noise_logp: Tensor | None = None,
        log_z: Tensor | None = None,
    ) -> Tensor:
        """The loss of a batch; in training mode the averages of its blocks move first.

        Args:
            data_logp: (n,) float, the unnormalised log-model at the data (minus the energy); with blocks (b,), one row
                per anchor.
            noise_logp: (m,) float, the same at the noise; with blocks (b, m). ``-inf`` has weight zero.
            noise_log_q: of the same shape, the log-density of the noise; ``+inf`` drops a sample. A missing constant
                shifts ``log_u`` alone. It takes no gradient.
            index: (b,) int64, the block of each row; needed when there are several.
            previous_noise_logp: shaped like noise_logp, the same noise under the old parameters, for "storm".
            log_z: scalar, or (b,) with blocks: the true logarithm of the partition function, in place of the average.

        Returns:
            scalar, the mean over rows, at least float32; a row whose noise is all dropped counts as 0.

        Raises:
            ValueError: shapes that do not fit, NaN, an index out of range, a missing ``previous_noise_logp``.

        Warns:
            UserWarning: when the only average is worth fewer than two noise samples.
        """
        many = index is not None or len(self.log_u) > 1
        data, noise, log_q = _checked(data_logp, noise_logp, noise_log_q, many)
        kept = ~(noise.isneginf() | log_q.isposinf())
        rows = kept.any(1)
        logs = _log_sum(noise.detach(), -log_q) - math.log(noise.shape[1])
        if log_z is not None:
            log_u = log_z.detach().to(noise).expand(len(noise))
        else:
            before = None
            if previous_noise_logp is not None:
                _, old, _ = _checked(data_logp, previous_noise_logp, noise_log_q, many)
                before = (_log_sum(old.detach(), -log_q) - math.log(noise.shape[1]))[rows]
            log_u = self._tracked(logs, rows, index, before)
        weights = (noise - log_q).detach() - log_u[:, None]
        if self.training:
            self.clipped += (kept & (weights > self.log_weight_clip)).sum()
        weights = weights.clamp(max=self.log_weight_clip).exp() / noise.shape[1]
        weights = torch.where(kept, weights, 0.0)
        # A sample of weight zero may have the log-probability -inf, and zero times that is NaN.
        pushed = (weights * noise.masked_fill(~kept, 0.0)).sum(1)
        value = torch.where(rows, -data + log_u + pushed - pushed.detach(), 0.0)
        if log_z is None and not many and self.training:
            self._watch(noise.detach() - log_q)
        return value.mean()

    def _tracked(self, logs: Tensor, rows: Tensor, index: Tensor | None, before: Tensor | None) -> Tensor:
        """The average of each row's block; a row without noise leaves it as it is."""
        log_u = torch.zeros_like(logs)
        own = index if index is None else index[rows] if index.shape == rows.shape else index
        if self.training:
            log_u[rows] = self.average.update(logs[rows], own, previous=before)
            return log_u
        of_rows = torch.zeros(int(rows.sum()), dtype=torch.int64, device=logs.device) if own is None else own
        stored = self.average.read(of_rows).to(logs)
        log_u[rows] = torch.where(stored.isneginf(), logs[rows], stored)
        return log_u

    def _watch(self, log_g: Tensor) -> None:
        """Warn when the average rests on fewer than two effective samples, its memory filled twice."""
        gamma = self.average.gamma if self.updates > 0 else 1.0
        keep = 2 * math.log1p(-gamma) if gamma < 1 else -math.inf
        new = _log_sum(2 * log_g, None)[0] + 2 * math.log(gamma / log_g.shape[1])
        self.log_spread.copy_(torch.logaddexp(keep + self.log_spread.to(new), new))
        self.updates += 1
        if bool(2 * self.log_u[0] - self.log_spread < math.log(2)) and int(self.updates) * self.average.gamma >= 2:
            warnings.warn(
                "the partition function rests on fewer than two effective noise samples: take wider noise, more "
                "samples or a smaller gamma.",
                stacklevel=3,
            )


def nce_loss(data_logits: Tensor, noise_logits: Tensor, nu: float | None = None) -> Tensor:
    """Noise-contrastive estimation: the logistic loss of data against noise.

    Gutmann and Hyvarinen (2010), the baseline of MECO (arXiv:2306.07485):
    ``mean softplus(log nu - s(x)) + nu mean softplus(s(z) - log nu)``.

    Args:
        data_logits: (n,) float, ``s(x) = l(x) - c - log q(x)`` with c a learned logarithm of the partition function.
        noise_logits: (m,) float, the same at the noise.
        nu: noise samples per data sample; None is ``m / n``.

    Returns:
        scalar, at least float32.

    Raises:
        ValueError: no samples, shapes that do not fit, nu not positive.

    Example:
        >>> round(nce_loss(torch.zeros(4), torch.zeros(4)).item(), 6)  # 2 log 2
        1.386294
    """
    for name, given in (("data_logits", data_logits), ("noise_logits", noise_logits)):
        checks.require(
            given.ndim == 1 and len(given) > 0, f"{name} must be (n,) with n > 0: got shape {tuple(given.shape)}."
        )
    nu = len(noise_logits) / len(data_logits) if nu is None else nu
    checks.positive("nu", nu)
    data, noise = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in (data_logits, noise_logits))
    return F.softplus(math.log(nu) - data).mean() + nu * F.softplus(noise - math.log(nu)).mean()


def partition_estimate(noise_logp: Tensor, noise_log_q: Tensor, *, log_weights: Tensor | None = None) -> Partition:
    """The partition function of an unnormalised model by importance sampling, ``Z = E_q exp(l(z) - log q(z))``.

    The inner function of MECO (arXiv:2306.07485). Its expectation does not depend on the noise, its variance does.

    Args:
        noise_logp: (m,) or (b, m) float, the unnormalised log-model at the noise.
        noise_log_q: of the same shape, the log-density of the noise.
        log_weights: of the same shape, added to the samples' logarithms (0 keeps, ``-inf`` drops); the mean is then
            the weighted one, so a quadrature's log-weights will do. None weighs all alike.

    Returns:
        the logarithm and the effective sample size, one for each row.

    Raises:
        ValueError: shapes that do not fit, NaN.

    Example:
        >>> found = partition_estimate(torch.tensor([2.0, 4.0]).log(), torch.zeros(2))
        >>> round(found.log_z.exp().item(), 4), round(found.effective_sample_size.item(), 4)
        (3.0, 1.8)
    """
    one = noise_logp.ndim == 1
    _, noise, log_q = _checked(noise_logp.new_zeros(max(1, len(noise_logp))), noise_logp, noise_log_q, not one)
    weights = torch.zeros_like(noise) if log_weights is None else log_weights.to(noise).reshape(noise.shape)
    logs = noise - log_q + weights
    total = _log_sum(logs, None)
    found = Partition(total - _log_sum(weights, None), (2 * total - _log_sum(2 * logs, None)).exp())
    return Partition(found.log_z[0], found.effective_sample_size[0]) if one else found


def _log_sum(scores: Tensor, log_weights: Tensor | None) -> Tensor:
    """Per row the logarithm of the weighted sum of exponentials, ``-inf`` where nothing is left; the core's sum."""
    zeros = scores.new_zeros(len(scores))
    logs = contrastive_loss(zeros, [(scores, log_weights)], positive_in_denominator=False, reduction="none")
    left = scores if log_weights is None else scores + log_weights
    return logs.masked_fill(left.isneginf().all(1), -torch.inf)


def _checked(data: Tensor, noise: Tensor, log_q: Tensor, many: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Data (n,), noise and its log-density (rows, m), in float32 at least."""
    checks.require(
        data.ndim == 1 and len(data) > 0, f"data_logp must be (n,) with n > 0: got shape {tuple(data.shape)}."
    )
    checks.require(
        noise.ndim == (2 if many else 1) and noise.shape[-1] > 0,
        f"noise_logp must be {'(b, m)' if many else '(m,)'} with m > 0: got shape {tuple(noise.shape)}.",
    )
    checks.same_shape("noise_log_q", log_q, "noise_logp", noise)
    if many:
        checks.same_length("noise_logp", noise, "data_logp", data)
    for name, given, wrong in (
        ("data_logp", data, ~data.isfinite()),
        ("noise_logp", noise, noise.isnan() | noise.isposinf()),
        ("noise_log_q", log_q, log_q.isnan() | log_q.isneginf()),
    ):
        bad = int(wrong.sum())
        what = {"data_logp": "be finite", "noise_logp": "hold no NaN and no +inf"}.get(name, "hold no NaN and no -inf")
        checks.require(bad == 0, f"{name} must {what}: {bad} of {given.numel()} entries do not comply.")
    dtype = torch.promote_types(torch.promote_types(data.dtype, noise.dtype), torch.float32)
    rows = noise if many else noise[None]
    return data.to(dtype), rows.to(dtype), log_q.detach().to(dtype).reshape(rows.shape)
