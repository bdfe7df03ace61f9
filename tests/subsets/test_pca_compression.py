"""Prune, combine, augment: worked numbers, loops, crops that stay inside tiles, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tamis.subsets import (
    ClassBalancedSelector,
    CompressionRecipe,
    TileCrop,
    combine_grid,
    evaluate_compressed,
    storage_bytes,
    stratified_quotas,
)
from tests.behaviour import ArrayCase

SHORT = CompressionRecipe(steps=40, batch_size=16, learning_rate=0.05)


def constant(values, side=4) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32)[:, None, None].expand(-1, side, side).clone()


def make(seed: int) -> list:
    """Cases for the shared checks: the choice, the quotas and the mosaics."""
    rng = np.random.default_rng(seed)
    scores, labels = rng.random(24), np.repeat(np.arange(3), 8)
    images = rng.random((8, 4, 4))
    selector = ClassBalancedSelector(3, order="stratified", n_bins=4, seed=seed)
    return [
        ArrayCase(
            "ClassBalancedSelector",
            lambda s, v: ClassBalancedSelector(3, order="random", seed=s).select(v, labels),
            (scores,),
            empty=lambda: selector.select(np.empty(0), np.empty(0, dtype=int)),
            torch_too=True,
        ),
        ArrayCase("ClassBalancedSelector stratified", lambda s, v: selector.select(v, labels), (scores,)),
        ArrayCase(
            "combine_grid",
            lambda s, i: combine_grid(i, np.repeat([0, 1], 4), seed=s),
            (images,),
            empty=lambda: combine_grid(np.empty((0, 4, 4)), np.empty(0, dtype=int)),
            torch_too=True,
        ),
    ]


# Prune


def test_quotas_of_the_specification():
    """Strata should get what the paper's code gives them, and more than there is be everything."""
    assert stratified_quotas([1, 5, 10], 9).tolist() == [1, 4, 4]
    assert stratified_quotas([0, 2, 20], 12).tolist() == [0, 2, 10]
    assert stratified_quotas([3, 1], 9).tolist() == [3, 1]


@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 4), order=st.sampled_from(["easy", "hard"]))
@settings(max_examples=40, deadline=None)
def test_each_class_keeps_its_end(seed, count, order):
    """Exactly so many rows of each class should come, and they be the easiest or hardest by a plain sort."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(3), 6)[rng.permutation(18)]
    scores = rng.integers(0, 5, 18).astype(float)
    chosen = ClassBalancedSelector(count, order=order).select(scores, labels).indices.tolist()
    for label in range(3):
        members = sorted(np.flatnonzero(labels == label).tolist(), key=lambda i: scores[i] * (-1) ** (order == "hard"))
        assert sorted(members[:count]) == [i for i in chosen if labels[i] == label]
    turned = ClassBalancedSelector(count, order=order).select(-scores, labels, higher_is_harder=False)
    assert turned.indices.tolist() == chosen


def test_strata_cover_every_difficulty():
    """From ten bins of equal width some of each should come, however many the easy ones are; infinity is hardest."""
    scores = np.r_[np.full(90, 0.01), np.linspace(0.1, 0.99, 9), math.inf]
    chosen = ClassBalancedSelector(10, order="stratified", n_bins=10).select(scores, np.zeros(100, dtype=int))
    assert len(chosen.indices) == 10
    assert (chosen.indices >= 90).sum() >= 8


def test_the_hardest_share_stays_out():
    """With beta the hardest should take no part, and say so."""
    chosen = ClassBalancedSelector(2, order="hard", beta=0.25).select(np.arange(8.0), np.zeros(8, dtype=int))
    assert chosen.indices.tolist() == [4, 5]
    rules = dict(zip(chosen.reasons["row"].tolist(), chosen.reasons["rule"].tolist(), strict=True))
    assert rules[7] == rules[6] == "hardest share of its class"
    assert rules[0] == "not among the hard of its class"


# Combine


def test_four_constant_images_make_four_blocks():
    """Tiles should stand row by row, labels and provenance tell which."""
    mosaics, labels, provenance = combine_grid(constant([1, 2, 3, 4]), torch.full((4,), 7))
    assert mosaics[0].tolist() == [[1, 1, 2, 2]] * 2 + [[3, 3, 4, 4]] * 2
    assert labels.tolist() == [7]
    assert provenance.tolist() == [[0, 1, 2, 3]]


@given(seed=st.integers(0, 2**32 - 1), factor=st.integers(1, 3), channels=st.integers(1, 2))
@settings(max_examples=30, deadline=None)
def test_mosaics_agree_with_loops(seed, factor, channels):
    """Each tile should be the mean-pooled image that provenance names, every image be used once, classes kept."""
    rng = np.random.default_rng(seed)
    labels = np.repeat([3, 1], factor**2)[rng.permutation(2 * factor**2)]
    images = rng.random((2 * factor**2, channels, 6, 6))
    mosaics, told, provenance = combine_grid(images, labels, factor=factor, seed=seed)
    size = 6 // factor
    for mosaic, label, sources in zip(mosaics, told, provenance, strict=True):
        for place, source in enumerate(sources.tolist()):
            row, column = divmod(place, factor)
            tile = mosaic[:, row * size : (row + 1) * size, column * size : (column + 1) * size]
            small = images[source].reshape(channels, size, factor, size, factor).mean((2, 4))
            assert np.allclose(tile, small)
            assert labels[source] == label
    assert sorted(provenance.ravel().tolist()) == list(range(len(images)))


def test_bytes_stay_bytes():
    """Images of uint8 should give mosaics of uint8, rounded."""
    images = np.full((4, 4, 4), 10, dtype=np.uint8)
    images[0, 0, 0] = 12  # a mean of 10.5
    mosaics, _, _ = combine_grid(images, np.zeros(4, dtype=int))
    assert mosaics.dtype == np.uint8
    assert mosaics.max() == 10


# Augment


def test_a_crop_without_jitter_is_one_tile():
    """Every crop should be constant, all tiles come, and about half of a gradient be mirrored."""
    mosaic = combine_grid(constant([1, 2, 3, 4], side=8), torch.zeros(4))[0][:, None]
    crops = TileCrop(2, jitter=0.0)(mosaic.expand(200, -1, -1, -1))
    values = crops.flatten(1)
    assert bool((values == values[:, :1]).all())
    assert set(values[:, 0].tolist()) == {1.0, 2.0, 3.0, 4.0}
    slope = torch.arange(8.0).expand(200, 1, 8, 8)
    rising = TileCrop(1, jitter=0.0)(slope)
    up = (rising[:, 0, 0, -1] > rising[:, 0, 0, 0]).double().mean()
    assert 0.35 < float(up) < 0.65
    assert torch.equal(TileCrop(1, jitter=0.0, flip=False)(slope), slope)


@given(seed=st.integers(0, 2**32 - 1), jitter=st.floats(0, 0.9), snap=st.booleans())
@settings(max_examples=30, deadline=None)
def test_crops_stay_within_the_image(seed, jitter, snap):
    """No crop should show a value that the image has not, shapes should stay, and seeds decide."""
    images = torch.rand(5, 2, 12, 8, generator=torch.Generator().manual_seed(seed))
    crops = TileCrop(2, jitter=jitter, snap_to_tile=snap, seed=seed)(images)
    assert crops.shape == images.shape
    assert float(crops.max()) <= float(images.max()) + 1e-6
    assert float(crops.min()) >= float(images.min()) - 1e-6
    assert torch.equal(crops, TileCrop(2, jitter=jitter, snap_to_tile=snap, seed=seed)(images))
    assert TileCrop(2, seed=seed)(images[0]).shape == images[0].shape


def test_the_area_of_a_crop_follows_the_jitter():
    """On a slope the span that a crop sees should be a tile's, more or less by the root of the jitter."""
    slope = torch.linspace(0, 1, 256).expand(300, 1, 256, 256)
    seen = TileCrop(2, jitter=0.4, flip=False)(slope)
    spans = seen[:, 0, 0, -1] - seen[:, 0, 0, 0]
    assert float(spans.min()) >= 0.5 * math.sqrt(0.6) - 0.02
    assert float(spans.max()) <= 0.5 * math.sqrt(1.4) + 0.02
    assert float(spans.max() - spans.min()) > 0.15


# Train and count


def test_soft_labels_and_samplers():
    """A teacher should teach without labels, a drawer decide the batches, and seeds the outcome."""
    x = torch.randn(80, 2, generator=torch.Generator().manual_seed(0))
    y = (x[:, 0] > 0).long()

    def linear():
        return nn.Linear(2, 2)

    def teacher(batch):
        return torch.stack([-20 * batch[:, 0], 20 * batch[:, 0]], 1)

    wrong = 1 - y
    fast = CompressionRecipe(steps=80, batch_size=16, learning_rate=0.5)  # soft labels at 20 degrees teach slowly
    assert evaluate_compressed(x, wrong, x, y, linear, fast, teacher=teacher) > 0.9
    seen = []

    def draw(step):
        seen.append(step)
        return torch.arange(16)

    one = evaluate_compressed(x, y, x, y, linear, SHORT, draw=draw)
    assert seen == list(range(40))
    assert one == evaluate_compressed(x, y, x, y, linear, SHORT, draw=draw)
    sgd = CompressionRecipe(steps=40, batch_size=16, optimizer="sgd", learning_rate=0.1, weight_decay=1e-4)
    assert evaluate_compressed(x, y, x, y, linear, sgd, augment=lambda batch: batch + 0.01) > 0.9


def test_soft_labels_weigh_more_than_images():
    """Bytes should be those of a count by hand."""
    assert storage_bytes(10, (3, 8, 8)) == 10 * (192 + 2)
    assert storage_bytes(10, (3, 8, 8), classes=1000, views=300) == 10 * (192 + 600_000)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: ClassBalancedSelector(3).select(np.zeros(5), np.array([0, 0, 0, 1, 1])),
            "n_per_class must be at most the rows of every class: class 1 has 2, 3 are asked for",
        ),
        (lambda: ClassBalancedSelector(1).select(np.array([math.nan]), np.zeros(1)), "scores must hold no NaN"),
        (lambda: ClassBalancedSelector(1).select(np.zeros(2), np.zeros(1)), "labels must have one entry per row"),
        (lambda: ClassBalancedSelector(0), "n_per_class must be at least 1"),
        (lambda: ClassBalancedSelector(1, order="best"), "order must be one of"),
        (lambda: ClassBalancedSelector(1, beta=1.0), "beta must be a share"),
        (lambda: combine_grid(constant([1, 2, 3, 4], side=5), torch.zeros(4)), "factor must divide both sides"),
        (lambda: combine_grid(constant([1, 2, 3]), torch.zeros(3)), "a multiple of 4 images to fill mosaics"),
        (lambda: combine_grid(torch.zeros(4), torch.zeros(4)), "images must be"),
        (lambda: TileCrop(2, jitter=1.0), "jitter must lie from 0"),
        (lambda: TileCrop(2)(torch.zeros(4, 4)), "images must be"),
        (lambda: stratified_quotas([-1], 1), "sizes must be at least 0"),
        (
            lambda: evaluate_compressed(
                torch.zeros(0, 2), torch.zeros(0), torch.zeros(1, 2), torch.zeros(1), nn.Flatten
            ),
            "images and test_images must have at least one row",
        ),
    ],
)
def test_bad_input_is_refused(call, message):
    """Each mistake should be answered in a line that names the argument."""
    with pytest.raises(ValueError, match=message):
        call()
