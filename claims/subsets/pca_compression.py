"""Prune, combine, augment on digits: which one image per class teaches most, and what are mosaics worth?

Scores are EL2N averaged over three short runs on the pool. Sets of 1, 2 and 5 images per class are the easiest, random
or the hardest; a small convolutional network is trained on each for 300 steps and tested on 600 digits. Then four
images of a class are shrunk and tiled into one of the same size, so a set has as many bytes: random and easy tiles,
with the crop that takes tiles apart and without it. Repeated random sampling (rs2) gets as many fresh images of the
pool in each epoch, in as many steps, and so sees many more.
"""

from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from tamis.claim import Claim, Gate
from tamis.dynamics import el2n
from tamis.subsets import (
    ClassBalancedSelector,
    CompressionRecipe,
    TileCrop,
    combine_grid,
    evaluate_compressed,
    rs2_indices,
)

CLAIM = Claim(
    metric="accuracy with one image per class, easy against random",
    method="easy_1",
    baseline="random_1",
    at_least=0.12,
    seeds=5,
    gates=(
        Gate(says="easy is ahead with two per class", higher="easy_2", lower="random_2", at_least=0.04),
        *(
            Gate(says=f"hard is far behind with {n} per class", higher=f"random_{n}", lower=f"hard_{n}", at_least=0.2)
            for n in (1, 2, 5)
        ),
        Gate(says="random tiles beat random images", higher="random_tiles_1", lower="random_1", at_least=0.08),
        Gate(says="with two per class too", higher="random_tiles_2", lower="random_2", at_least=0.03),
        Gate(says="mosaics without the crop are useless", higher="quarter", lower="tiles_without_crop_1"),
    ),
    note=(
        "At five per class the hardest are 0.199 behind random ones, where 0.2 is asked for. Easy tiles are behind "
        "easy images: at this size half the resolution costs more than four images give. Repeated random sampling is "
        "ahead of every fixed set."
    ),
)
RECIPE = CompressionRecipe(steps=300, batch_size=32, learning_rate=2e-3)


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, stride=2, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(256, 10),
    )  # fmt: skip


def scores(x: Tensor, y: Tensor, seed: int) -> np.ndarray:
    """EL2N, averaged over three runs of 150 steps."""
    total = np.zeros(len(x))
    for number in range(3):
        rng = torch.Generator().manual_seed(1000 * seed + number)
        with torch.random.fork_rng():
            torch.manual_seed(1000 * seed + number)
            model = network()
        optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
        for _ in range(150):
            rows = torch.randint(len(x), (32,), generator=rng)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
        with torch.no_grad():
            total += el2n(model(x), y)
    return total / 3


def run(seed: int) -> dict[str, float]:
    torch.set_num_threads(1)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x / 16, dtype=torch.float32).view(-1, 1, 8, 8), torch.tensor(y)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    test, pool = (x[order[:600]], y[order[:600]]), order[600:]
    px, py = x[pool], y[pool]
    difficulty = scores(px, py, seed)

    def accuracy(images: Tensor, labels: Tensor, **more) -> float:
        return evaluate_compressed(images, labels, *test, network, RECIPE, seed=seed, **more)

    def chosen(count: int, way: str) -> Tensor:
        return torch.tensor(ClassBalancedSelector(count, order=way, seed=seed).select(difficulty, py.numpy()).indices)

    found = {"quarter": 0.25}
    for count in (1, 2, 5):
        for way in ("easy", "random", "hard"):
            rows = chosen(count, way)
            found[f"{way}_{count}"] = accuracy(px[rows], py[rows])
        size = 10 * count

        def fresh(step: int, size: int = size) -> Tensor:
            epoch, place = divmod(step, max(1, size // 32))
            rows = rs2_indices(len(px), size / len(px), epoch, seed)
            return torch.from_numpy(rows)[place * 32 : place * 32 + 32] if size >= 32 else torch.from_numpy(rows)

        found[f"rs2_{count}"] = accuracy(px, py, draw=fresh)
    for count in (1, 2):
        for way in ("random", "easy"):
            rows = chosen(4 * count, way)
            mosaics, labels, _ = combine_grid(px[rows], py[rows], seed=seed)
            crop = TileCrop(2, flip=False, seed=seed)
            found[f"{way}_tiles_{count}"] = accuracy(mosaics, labels, augment=crop)
            if way == "random":
                found[f"tiles_without_crop_{count}"] = accuracy(mosaics, labels)
    return found
