"""Compute again rather than remember: what bounds the memory of a backward pass.

``by_rows`` walks over the rows of a score matrix in chunks, ``cached_loss`` (GradCache) over the mini-batches of an
encoder. Both keep no activations of a chunk after its forward pass, compute the chunk again when its gradient is at
hand, and give the value and the gradients of the plain computation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tamis import checks

Batch = TypeVar("Batch")


def by_rows(
    function: Callable[[slice], tuple[Tensor, ...]], rows: int, chunk_rows: int | None = None
) -> tuple[Tensor, ...]:
    """Evaluate a row-wise function in chunks that are computed again in the backward pass.

    What a chunk allocates is freed before the next begins, in both passes. Value and gradients are those of one call.

    Args:
        function: takes a slice of rows, returns tensors with one entry per row; what it closes over gets gradients.
        rows: how many there are.
        chunk_rows: rows per chunk; None is one plain call.

    Returns:
        what the function returns for all rows.

    Raises:
        ValueError: when chunk_rows is less than one.

    Example:
        >>> x = torch.arange(4.0)
        >>> by_rows(lambda rows: (x[rows] ** 2,), 4, chunk_rows=3)
        (tensor([0., 1., 4., 9.]),)
    """
    checks.require(chunk_rows is None or chunk_rows >= 1, f"chunk_rows must be at least 1: got {chunk_rows}.")
    if chunk_rows is None or chunk_rows >= rows:
        return function(slice(0, rows))
    starts = range(0, rows, chunk_rows)
    parts = [checkpoint(function, slice(s, min(s + chunk_rows, rows)), use_reentrant=False) for s in starts]
    return tuple(torch.cat(column) for column in zip(*parts, strict=True))


def cached_loss(
    embed: Callable[[Batch], Tensor | tuple[Tensor, ...]], batches: Sequence[Batch], loss: Callable[..., Tensor]
) -> Tensor:
    """A loss over a large batch with the encoder's memory of one mini-batch (GradCache).

    GradCache (Gao et al., arXiv:2101.06983): embed without a graph, take the gradient of the loss with respect to
    the embeddings, embed each mini-batch again with a graph and hand it its part of the gradient. The second embedding
    draws the same random numbers (dropout) as the first, on the CPU and on every CUDA device. Here the two later steps
    happen inside ``backward()``, so loss scaling and parameters of the loss itself work as usual.

    Args:
        embed: mini-batch -> embeddings (n, d), or a tuple of them, say anchors and positives.
        batches: mini-batches; more of them need no more memory for activations, only for embeddings.
        loss: called with the embeddings of all mini-batches, one tensor for each that ``embed`` returns.

    Returns:
        what ``loss`` returns; its value and all gradients are those of the loss without a cache.

    Raises:
        ValueError: when there are no mini-batches.

    Example:
        >>> layer = torch.nn.Linear(3, 2, bias=False)
        >>> value = cached_loss(layer, torch.eye(3).split(2), lambda e: e.sum())
        >>> value.backward(); layer.weight.grad[0]
        tensor([1., 1., 1.])
    """
    checks.require(len(batches) > 0, "batches must hold at least one mini-batch: got none.")

    def columns(batch: Batch) -> tuple[Tensor, ...]:
        found = embed(batch)
        return (found,) if isinstance(found, Tensor) else tuple(found)

    # A checkpointed mini-batch is GradCache: its activations go at once and come back when its gradient is at hand.
    parts = [
        checkpoint(columns, b, use_reentrant=False, preserve_rng_state=False, context_fn=_same_randomness)
        for b in batches
    ]
    return loss(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _same_randomness() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    """Contexts for a first and a second computation, the second drawing the random numbers of the first."""
    # The states are taken here and not by checkpoint, which only sees devices of tensors among its arguments.
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    cpu, cuda = torch.get_rng_state(), [torch.cuda.get_rng_state(d) for d in devices]

    @contextmanager
    def replayed() -> Iterator[None]:
        with torch.random.fork_rng(devices):
            torch.set_rng_state(cpu)
            for device, state in zip(devices, cuda, strict=True):
                torch.cuda.set_rng_state(state, device)
            yield

    return nullcontext(), replayed()
