"""BatchFormer: the samples of a batch see one another inside the network, while it trains.

A transformer layer attends along the batch axis, so the gradient of one sample's loss reaches the others, and frequent
classes lend to rare ones. Features with and without the layer go through one shared classifier and one loss on twice
the rows, so the classifier works without the layer too. At test time the layer is not there: features pass untouched,
and no prediction depends on its batch-mates. There is no position in a batch: permuting samples permutes the features.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from tamis import checks
from tamis.method import Method

Array = np.ndarray[Any, Any]
Kind = TypeVar("Kind", Array, Tensor)

METHOD = Method(
    title="BatchFormer: Learning to Explore Sample Relationships for Robust Representation Learning",
    paper="arXiv:2203.01522",
    year=2022,
    code="zhihou7/BatchFormer",
    claim="On top of a balanced softmax a slow BatchFormer does not lower long-tailed accuracy, and gradients cross.",
    peers=(),
    deviations=(
        "features without the layer come first, as in the readme; the long-tail code puts them last",
        "several layers start from different weights",
        "BatchFormerV2 (arXiv:2204.01254) for dense features; no contrastive or detection heads around it",
        "the layer computes in the precision of its own weights, whatever that of the features",
    ),
)


class BatchFormer(nn.Module):
    """A transformer encoder over the batch: each sample is one token (section 3.2 of arXiv:2203.01522).

    Put it between the backbone and the classifier. Not for a plain cross-entropy with a fast layer: on the long-tailed
    digits of its claim the gain is there with a re-balanced loss and a slow layer only (see ``param_group``). Under
    data parallelism samples see those of their own device; a last batch of a few samples has little to attend to, so
    leave it out. Synchronised batch norm mixes the batch a second time.

    Args:
        dim: C, features per sample.
        num_heads: heads of the attention; divides ``dim``.
        dim_feedforward: width inside the layer; default ``dim``.
        dropout: share, in the attention and the layer; drawn from torch's global generator while training, as every
            dropout is.
        num_layers: layers, each with weights of its own.
        shared_targets: also return the targets twice, for the doubled rows. False hands them back as they came.
        seed: of the weights.

    Raises:
        ValueError: when ``dim`` is not divisible by the heads, or a size is below 1.

    Example:
        >>> former = BatchFormer(8, dropout=0.0)
        >>> features, labels = former(torch.ones(3, 8), torch.tensor([0, 1, 1]))
        >>> features.shape, labels.tolist()
        (torch.Size([6, 8]), [0, 1, 1, 0, 1, 1])
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int = 4,
        dim_feedforward: int | None = None,
        dropout: float = 0.5,
        num_layers: int = 1,
        shared_targets: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.encoder = _layers(dim, num_heads, dim_feedforward, dropout, num_layers, seed)
        self.dim = dim
        self.shared_targets = shared_targets

    def forward(self, x: Tensor, *targets: Tensor) -> tuple[Tensor, ...]:
        """The batch twice, without and with the layer; in evaluation the batch as it came.

        Args:
            x: (n, C) float.
            targets: any number of tensors (n, ...): labels, mixup partners, ids, weights.

        Returns:
            features (2 n, C), whose first n rows are ``x``, and each target (2 n, ...). In evaluation mode the very
            tensors that came.

        Raises:
            ValueError: for an empty batch in training, another shape, or targets of another length.
        """
        if not self.training:
            return (x, *targets)
        checks.matrix("x", x, columns=self.dim)
        mixed = _mixed(self.encoder, x[:, None])[:, 0]
        return (torch.cat([x, mixed]), *_doubled(x, targets, self.shared_targets))

    def param_group(self, lr: float, **options: float) -> dict[str, Any]:
        """The weights as an optimiser group of their own: with the rate of the backbone the gain can vanish.

        Args:
            lr: learning rate; a fifth of the backbone's in the claim.
            options: further settings of the optimiser, ``weight_decay`` say.

        Returns:
            a group for ``torch.optim``.
        """
        return {"params": list(self.parameters()), "lr": lr, **options}


class BatchFormerV2(nn.Module):
    """BatchFormer for dense features: at each of the L places the samples attend to one another (arXiv:2204.01254).

    The two streams, without and with the layer, go through all following layers, which they share. Not where places
    are padding: a padded place attends too.

    Args:
        dim: C, features per place.
        num_heads: heads of the attention; divides ``dim``.
        dim_feedforward: width inside the layer; default ``dim``.
        dropout: share, see ``BatchFormer``.
        num_layers: layers, each with weights of its own.
        shared_targets: also return the targets twice.
        batch_first: features are (n, L, C); False for (L, n, C).
        seed: of the weights; the same seed gives the weights of ``BatchFormer``, and states can be exchanged.

    Raises:
        ValueError: when ``dim`` is not divisible by the heads, or a size is below 1.

    Example:
        >>> (features,) = BatchFormerV2(8, dropout=0.0)(torch.ones(3, 5, 8))
        >>> features.shape
        torch.Size([6, 5, 8])
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int = 4,
        dim_feedforward: int | None = None,
        dropout: float = 0.5,
        num_layers: int = 1,
        shared_targets: bool = True,
        batch_first: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.encoder = _layers(dim, num_heads, dim_feedforward, dropout, num_layers, seed)
        self.dim = dim
        self.shared_targets = shared_targets
        self.batch_first = batch_first

    def forward(self, x: Tensor, *targets: Tensor) -> tuple[Tensor, ...]:
        """The batch twice, without and with the layer; in evaluation the batch as it came.

        Args:
            x: (n, L, C) float, or (L, n, C) without ``batch_first``.
            targets: any number of tensors (n, ...).

        Returns:
            features (2 n, L, C), or (L, 2 n, C), without the layer first, and each target (2 n, ...). In evaluation
            mode the very tensors that came.

        Raises:
            ValueError: for an empty batch in training, another shape, or targets of another length.
        """
        if not self.training:
            return (x, *targets)
        checks.require(
            x.ndim == 3 and x.shape[2] == self.dim and x.numel() > 0,
            f"x must be three-dimensional with {self.dim} features and not empty: got shape {tuple(x.shape)}.",
        )
        # The batch is the sequence that is attended over, whichever axis it stands in.
        rows = x if self.batch_first else x.transpose(0, 1)
        mixed = _mixed(self.encoder, rows)
        features = torch.cat(
            [x, mixed] if self.batch_first else [x, mixed.transpose(0, 1)], 0 if self.batch_first else 1
        )
        return (features, *_doubled(rows, targets, self.shared_targets))


def duplicate_targets(*tensors: Kind) -> tuple[Kind, ...]:
    """Each array after itself, for the doubled rows of BatchFormer: labels, mixup partners, contrastive ids.

    The duplication of section 3.3 of arXiv:2203.01522.

    Args:
        tensors: any number of (n, ...) arrays or tensors of one length.

    Returns:
        as many, (2 n, ...) each, of the same kind.

    Raises:
        ValueError: for no tensor, no rows, or different lengths.

    Example:
        >>> duplicate_targets(torch.tensor([3, 5]))
        (tensor([3, 5, 3, 5]),)
    """
    checks.require(len(tensors) > 0, "duplicate_targets needs at least one tensor: got none.")
    for i, tensor in enumerate(tensors):
        checks.require(tensor.ndim > 0 and len(tensor) > 0, f"target {i} must have at least one row: got none.")
        checks.same_length(f"target {i}", tensor, "target 0", tensors[0])
    return tuple(torch.cat([t, t]) if isinstance(t, Tensor) else np.concatenate([t, t]) for t in tensors)


def cross_sample_gradient(module: nn.Module, x: Tensor, *, losses: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """How strongly the loss of each sample pulls on each other sample: ``||d loss_i / d x_j||``.

    The mechanism of section 3.1 of arXiv:2203.01522: without the layer all but the diagonal is exactly 0. A
    diagnostic of n backward passes, for one batch; the module's dropout is on if the module is in training mode.

    Args:
        module: takes (n, ...) and gives features (n, ...) or (2 n, ...), alone or first of a tuple.
        x: (n, ...) float, the samples.
        losses: features to one loss per row of them; rows i and n + i belong to sample i. Default the log of the sum
            of exponentials, a cross-entropy's pull on features that are logits.

    Returns:
        (n, n) of the dtype of ``x``: row i is the loss, column j the sample. No gradient.

    Raises:
        ValueError: when the losses are not n or 2 n.

    Example:
        >>> pull = cross_sample_gradient(BatchFormer(4, dropout=0.0), torch.eye(4))
        >>> bool((pull > 0).all()), bool(cross_sample_gradient(BatchFormer(4).eval(), torch.eye(4))[0, 1] == 0)
        (True, True)
    """
    n = len(x)
    checks.require(n > 0, "x must have at least one row: got none.")
    with torch.random.fork_rng(), torch.enable_grad():
        x = x.detach().requires_grad_()
        out = module(x)
        features = out[0] if isinstance(out, tuple) else out
        values = features.flatten(1).logsumexp(1) if losses is None else losses(features)
        checks.require(
            values.ndim == 1 and len(values) in (n, 2 * n),
            f"losses must give one number per row of the features, {n} or {2 * n}: got shape {tuple(values.shape)}.",
        )
        per_sample = values.view(-1, n).sum(0)
        rows = [torch.autograd.grad(loss, x, retain_graph=True)[0].flatten(1).norm(dim=1) for loss in per_sample]
    return torch.stack(rows)


def _layers(
    dim: int, num_heads: int, dim_feedforward: int | None, dropout: float, num_layers: int, seed: int
) -> nn.Sequential:
    for name, value in (("dim", dim), ("num_heads", num_heads), ("num_layers", num_layers)):
        checks.at_least(name, value, 1)
    checks.require(dim % num_heads == 0, f"dim must be divisible by num_heads: got {dim} and {num_heads}.")
    checks.require(0 <= dropout < 1, f"dropout must lie in [0, 1): got {dropout!r}.")
    width = dim if dim_feedforward is None else dim_feedforward
    checks.at_least("dim_feedforward", width, 1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        # Sequence first: given one sample per sequence the layer would attend to nothing.
        return nn.Sequential(
            *(nn.TransformerEncoderLayer(dim, num_heads, width, dropout, batch_first=False) for _ in range(num_layers))
        )


def _mixed(encoder: nn.Module, x: Tensor) -> Tensor:
    """(n, L, C) attended over n, in the precision of the weights."""
    weights = next(encoder.parameters(), x)
    mixed: Tensor = encoder(x.to(weights.dtype))
    return mixed.to(x.dtype)


def _doubled(x: Tensor, targets: tuple[Tensor, ...], twice: bool) -> tuple[Tensor, ...]:
    for i, target in enumerate(targets):
        checks.same_length(f"target {i}", target, "x", x)
    return duplicate_targets(*targets) if twice and targets else targets
