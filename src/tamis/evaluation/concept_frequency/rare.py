"""A test of rare concepts: which they are, images without near-copies, as many of each class."""

from __future__ import annotations

from typing import Any

import numpy as np

from tamis import checks
from tamis.randomness import Seed, as_generator
from tamis.results import Selection

Array = np.ndarray[Any, Any]
_SIDE, _LOW = 32, 8


def long_tail(frequencies: Array, k: int) -> Array:
    """The rarest concepts.

    The first step to the test set of arXiv:2404.04125, which takes 290.

    Args:
        frequencies: (n,) float or int.
        k: how many.

    Returns:
        (k,) int64, rarest first; equal ones by number.

    Raises:
        ValueError: k outside 1..n, NaN.

    Example:
        >>> long_tail(np.array([5, 0, 9, 1]), 2).tolist()
        [1, 3]
    """
    counts = np.asarray(frequencies)
    checks.require(counts.ndim == 1 and len(counts) > 0, f"frequencies must be (n,), not empty: got {counts.shape}.")
    checks.finite("frequencies", counts)
    checks.between("k", k, 1, len(counts))
    return np.argsort(counts, kind="stable")[:k]


def phash(images: Array) -> Array:
    """Perceptual hashes: the signs of the 64 lowest cosine frequencies against their median.

    The hash that arXiv:2404.04125 removes copies with: 32 x 32 in grey, DCT-II, the 8 x 8 lowest.

    Args:
        images: (n, h, w) or (n, h, w, 3), numbers; at least 32 pixels wide and high, or exactly 32 after averaging.

    Returns:
        (n,) uint64.

    Raises:
        ValueError: another shape, no images, values that are not finite.

    Example:
        >>> image = 255 * np.random.default_rng(0).random((1, 64, 48))
        >>> int(np.bitwise_count(phash(image) ^ phash(image + 10))[0]) <= 4
        True
    """
    grey = np.asarray(images, dtype=np.float64)
    if grey.ndim == 4 and grey.shape[-1] == 3:
        grey = grey @ np.array([0.299, 0.587, 0.114])
    checks.require(
        grey.ndim == 3 and len(grey) > 0 and min(grey.shape[1:]) >= _SIDE,
        f"images must be (n, h, w) or (n, h, w, 3), at least {_SIDE} x {_SIDE}: got shape {np.shape(images)}.",
    )
    checks.require(bool(np.isfinite(grey).all()), "images must be finite.")
    small = _averaged(_averaged(grey, 1), 2)
    places = np.arange(_SIDE)
    cosines = np.cos(np.pi * np.arange(_LOW)[:, None] * (2 * places + 1) / (2 * _SIDE))
    low = (cosines @ small @ cosines.T).reshape(len(grey), -1)
    bits = low > np.median(low, axis=1, keepdims=True)
    hashes: Array = (bits.astype(np.uint64) << np.arange(64, dtype=np.uint64)).sum(1, dtype=np.uint64)
    return hashes


def phash_dedup(images: Array, max_distance: int = 10) -> Selection:
    """Keep the first of every set of images whose hashes differ in few bits.

    The removal of near-copies of arXiv:2404.04125; run it class by class.

    Args:
        images: see ``phash``.
        max_distance: bits of 64 up to which an image is a copy of a kept one.

    Returns:
        indices of the kept images; scores (n,), bits to the nearest kept image before, 64 for none; log_weights;
        reasons: row, rule, rival, score (bits).

    Raises:
        ValueError: a distance outside 0..64, or as ``phash``.

    Example:
        >>> image = np.random.default_rng(0).random((1, 32, 32))
        >>> phash_dedup(np.concatenate([image, 1 - image, image + 0.01])).indices.tolist()
        [0, 1]
    """
    checks.between("max_distance", max_distance, 0, 64)
    hashes = phash(images)
    kept: list[int] = []
    scores, rivals = np.full(len(hashes), 64.0), np.full(len(hashes), -1)
    for row, own in enumerate(hashes):
        if kept:
            bits = np.bitwise_count(hashes[kept] ^ own)
            nearest = int(bits.argmin())
            scores[row], rivals[row] = bits[nearest], kept[nearest]
        if not kept or scores[row] > max_distance:
            kept.append(row)
    stays = np.zeros(len(hashes), dtype=bool)
    stays[kept] = True
    dropped = np.flatnonzero(~stays)
    rules = np.full(len(dropped), "near copy", dtype=object)
    reasons = {"row": dropped, "rule": rules, "rival": rivals[dropped], "score": scores[dropped]}
    return Selection(np.array(kept, dtype=np.int64), scores, np.where(stays, 0.0, -np.inf), reasons)


def class_balance(labels: Array, n: int, *, seed: Seed = 0) -> Selection:
    """Exactly n rows of every class that has them; smaller classes go.

    The last step of arXiv:2404.04125, with 450 images a class.

    Args:
        labels: (m,) int.
        n: rows of each class.
        seed: which rows of the larger classes.

    Returns:
        indices of the kept rows, ascending; scores (m,), rows of the class; log_weights; reasons: row, rule ("class too
        small" or "not drawn"), rival (-1), score.

    Raises:
        ValueError: no labels, n below 1, no class with n rows.

    Example:
        >>> class_balance(np.array([0, 1, 0, 1, 0, 2]), 2).indices.size
        4
    """
    own = np.asarray(labels)
    checks.require(own.ndim == 1 and len(own) > 0, f"labels must be (m,), not empty: got shape {own.shape}.")
    checks.at_least("n", n, 1)
    _, number, sizes = np.unique(own, return_inverse=True, return_counts=True)
    checks.require(bool((sizes >= n).any()), f"n must be at most {sizes.max()}, the largest class: got {n}.")
    order = np.lexsort((as_generator(seed).random(len(own)), number))
    rank = np.empty(len(own), dtype=np.int64)
    rank[order] = np.arange(len(own)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    large = sizes[number] >= n
    stays = large & (rank < n)
    dropped = np.flatnonzero(~stays)
    rules = np.where(large[dropped], np.array("not drawn", dtype=object), "class too small")
    held = sizes[number].astype(np.float64)
    reasons = {"row": dropped, "rule": rules, "rival": np.full(len(dropped), -1), "score": held[dropped]}
    return Selection(np.flatnonzero(stays), held, np.where(stays, 0.0, -np.inf), reasons)


def _averaged(images: Array, axis: int) -> Array:
    """One axis cut into 32 pieces of nearly equal length, each its mean."""
    edges = np.linspace(0, images.shape[axis], _SIDE + 1).round().astype(np.int64)
    sums = np.add.reduceat(images, edges[:-1], axis=axis)
    shape = [1, 1, 1]
    shape[axis] = _SIDE
    means: Array = sums / np.diff(edges).reshape(shape)
    return means
