"""Tiles: several small images in one, and a crop that takes them apart again."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tamis import checks
from tamis.randomness import Seed, as_generator, torch_generator
from tamis.results import as_array


def combine_grid(images: Any, labels: Any, *, factor: int = 2, seed: Seed | None = None) -> tuple[Any, Any, Any]:
    """Shrink images and tile ``factor x factor`` of one class into one of the original size (C of arXiv:2502.06434).

    Args:
        images: (n, channels, h, w) or (n, h, w), float or uint8; sides divisible by factor.
        labels: (n,) int; of every class a multiple of ``factor**2`` images.
        factor: tiles on a side.
        seed: of which images of a class share a mosaic; left out, they are taken in their order.

    Returns:
        mosaics (m, ...) of the dtype of images, tiles row by row; labels (m,); provenance (m, factor**2) int64, the
        image in each tile. Of the kind of images.

    Raises:
        ValueError: for sides that factor does not divide, or a class whose images do not come out even.

    Example:
        >>> images = torch.arange(1.0, 5.0)[:, None, None].expand(4, 4, 4)
        >>> mosaics, labels, provenance = combine_grid(images, torch.zeros(4, dtype=torch.int64))
        >>> mosaics[0, ::2, ::2].tolist(), provenance.tolist()
        ([[1.0, 2.0], [3.0, 4.0]], [[0, 1, 2, 3]])
    """
    checks.at_least("factor", factor, 1)
    tensor = images if isinstance(images, Tensor) else torch.from_numpy(np.array(images))
    shape = tuple(tensor.shape)
    checks.require(len(shape) in (3, 4) and shape[0] > 0, f"images must be (n, h, w) or (n, c, h, w): got {shape}.")
    height, width = tensor.shape[-2:]
    checks.require(
        height % factor == 0 and width % factor == 0,
        f"factor must divide both sides of the images: {height} x {width}, factor {factor}.",
    )
    y = as_array(labels)
    checks.same_length("labels", y, "images", tensor)
    rows, per = [], factor**2
    rng = None if seed is None else as_generator(seed)
    for label in np.unique(y):
        members = np.flatnonzero(y == label)
        checks.require(
            len(members) % per == 0,
            f"every class must have a multiple of {per} images to fill mosaics: class {label} has {len(members)}.",
        )
        rows.append((members if rng is None else rng.permutation(members)).reshape(-1, per))
    provenance = np.concatenate(rows)
    whole = tensor if tensor.ndim == 4 else tensor[:, None]
    small = F.avg_pool2d(whole.float() if not whole.is_floating_point() else whole, factor)
    small = small if whole.is_floating_point() else small.round().to(whole.dtype)
    tiles = small[torch.from_numpy(provenance.ravel()).to(small.device)]
    channels, h, w = tiles.shape[1:]
    grid = tiles.view(-1, factor, factor, channels, h, w).permute(0, 3, 1, 4, 2, 5)
    mosaics = grid.reshape(-1, channels, height, width)
    mosaics = mosaics if tensor.ndim == 4 else mosaics[:, 0]
    told = y[provenance[:, 0]]
    if not isinstance(images, Tensor):
        return mosaics.numpy(), told, provenance
    return mosaics, torch.from_numpy(told).to(images.device), torch.from_numpy(provenance).to(images.device)


class TileCrop(nn.Module):
    """Crop about one tile of each mosaic and blow it up to the full size (A of arXiv:2502.06434).

    Args:
        factor: tiles on a side.
        jitter: by how much the area of the crop, as a share of a tile's, and its place, as a share of half a tile, may
            differ; 0 crops exactly one tile.
        flip: mirror half of the crops.
        snap_to_tile: keep crops to the tiles; without it they lie anywhere.
        seed: of the crops.

    Returns:
        images of the input's shape.

    Raises:
        ValueError: for a factor below 1 or a jitter outside [0, 1).

    Example:
        >>> mosaic = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).repeat_interleave(4, 0).repeat_interleave(4, 1)[None, None]
        >>> crop = TileCrop(2, jitter=0.0)(mosaic)
        >>> crop.shape, bool((crop == crop[0, 0, 0, 0]).all())
        (torch.Size([1, 1, 8, 8]), True)
    """

    def __init__(
        self,
        factor: int = 2,
        *,
        jitter: float = 0.2,
        flip: bool = True,
        snap_to_tile: bool = True,
        seed: int | torch.Generator = 0,
    ) -> None:
        super().__init__()
        checks.at_least("factor", factor, 1)
        checks.require(0 <= jitter < 1, f"jitter must lie from 0 to below 1: got {jitter!r}.")
        self.factor, self.jitter, self.flip, self.snap_to_tile = factor, jitter, flip, snap_to_tile
        self.generator = torch_generator(seed)

    def forward(self, images: Tensor) -> Tensor:
        """Crop each image by itself.

        Args:
            images: (b, c, h, w) or (c, h, w) float.

        Returns:
            of the same shape.
        """
        checks.require(images.ndim in (3, 4), f"images must be (b, c, h, w): got shape {tuple(images.shape)}.")
        batch = images if images.ndim == 4 else images[None]
        draw = torch.rand(len(batch), 6, generator=self.generator, dtype=torch.float64)
        draw = draw.to(batch.device)
        side = ((1 + self.jitter * (2 * draw[:, :1] - 1)) ** 0.5 / self.factor).clamp(max=1.0)  # of the image's
        if self.snap_to_tile:
            tile = (draw[:, 1:3] * self.factor).floor()
            start = (tile + 0.5) / self.factor - side / 2
            start = start + self.jitter * (draw[:, 3:5] - 0.5) / self.factor
        else:
            start = draw[:, 1:3] * (1 - side)
        start = torch.minimum(start.clamp(min=0), 1 - side)
        grids = []
        for axis, length in ((1, batch.shape[-1]), (0, batch.shape[-2])):
            first, span = start[:, axis : axis + 1] * length, side * length
            centres = (torch.arange(length, dtype=torch.float64, device=batch.device) + 0.5) / length
            # Points between pixels would see the next tile; they stay between the first and the last pixel inside.
            at = first + torch.minimum((centres * span).clamp(min=0.5), (span - 0.5).clamp(min=0.5))
            grids.append(2 * at / length - 1)
        if self.flip:
            mirrored = draw[:, 5:] < 0.5
            grids[0] = torch.where(mirrored, grids[0].flip(1), grids[0])
        x, y = grids
        across, down = x[:, None, :].expand(-1, y.shape[1], -1), y[:, :, None].expand(-1, -1, x.shape[1])
        places = torch.stack([across, down], -1).to(batch.dtype)
        found = F.grid_sample(batch, places, mode="bilinear", padding_mode="border", align_corners=False)
        return found if images.ndim == 4 else found[0]
