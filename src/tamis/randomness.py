"""Randomness: every draw comes from a seed or generator that the caller hands in; global ones stay untouched."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch

Seed = int | np.random.Generator
Array = np.ndarray[Any, Any]


def as_generator(seed: Seed) -> np.random.Generator:
    """A NumPy generator from a seed; a generator is passed through and advances as it is used.

    Example:
        >>> int(as_generator(0).integers(100))
        85
    """
    if isinstance(seed, np.random.Generator):
        return seed
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise ValueError(f"seed must be a non-negative integer or a numpy Generator: got {seed!r}.")
    return np.random.default_rng(int(seed))


def torch_generator(seed: int | torch.Generator, device: str | torch.device = "cpu") -> torch.Generator:
    """A torch generator on ``device`` from a seed; a generator is passed through."""
    if isinstance(seed, torch.Generator):
        return seed
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise ValueError(f"seed must be a non-negative integer or a torch.Generator: got {seed!r}.")
    return torch.Generator(device=device).manual_seed(int(seed))


def child_seed(seed: int, *names: object) -> int:
    """A seed for one named part of a run (an epoch, a rank, a stage), so that parts do not disturb one another.

    Args:
        seed: the seed of the whole.
        names: what the part is called; any objects with a stable ``repr``.

    Returns:
        a 63-bit seed that depends on the seed and on every name.

    Example:
        >>> child_seed(0, "epoch", 1), child_seed(0, "epoch", 1) == child_seed(0, "epoch", 2)
        (3808558412218152728, False)
    """
    digest = hashlib.sha256(repr((int(seed), *names)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def gumbel(shape: tuple[int, ...], generator: np.random.Generator) -> Array:
    """Standard Gumbel noise, ``-log(-log(u))``, as float64."""
    return generator.gumbel(size=shape)


def gumbel_top_k(log_weights: Array, k: int, seed: Seed) -> Array:
    """Draw up to ``k`` columns per row without replacement, with probability proportional to ``exp(log_weights)``.

    Adding Gumbel noise and taking the k largest is sampling without replacement from the softmax, in Plackett-Luce
    order (Vieira 2014; Kool, van Hoof and Welling 2019, section 2.3).

    Args:
        log_weights: (n, m) float; ``-inf`` is never drawn.
        k: how many columns to draw per row, at least 1.
        seed: seed or generator.

    Returns:
        (n, min(k, m)) int64, in order of the draw; ``-1`` where a row has run out of columns.

    Example:
        >>> gumbel_top_k(np.array([[0.0, -np.inf, -np.inf]]), 2, seed=0)
        array([[ 0, -1]])
    """
    if log_weights.ndim != 2:
        raise ValueError(f"log_weights must be two-dimensional (n, m): got shape {log_weights.shape}.")
    if k < 1:
        raise ValueError(f"k must be at least 1: got {k}.")
    k = min(k, log_weights.shape[1])
    keys = log_weights + gumbel(log_weights.shape, as_generator(seed))
    drawn = np.argsort(-keys, axis=1, kind="stable")[:, :k]
    return np.where(np.isneginf(np.take_along_axis(keys, drawn, 1)), -1, drawn)
