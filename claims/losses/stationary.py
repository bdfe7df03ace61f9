"""d-Simplex-HOC on handwritten digits: can a new model search the gallery that an old one embedded?

Three versions of a small network are trained from scratch on the digits 0-3, 0-5 and 0-7, with a free linear head, with
the fixed simplex (20 corners), and with simplex and contrastive term to the version before. Scores are those of the
nearest neighbour by cosine among all ten digits: queries of version i against the gallery of version j. The network and
its training are the same in all arms.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from tamis.claim import Claim, Gate
from tamis.contrastive import info_nce
from tamis.losses import DSimplexClassifier, average_compatibility, compatibility_matrix, hoc_loss

CORNERS, VERSIONS = 20, (4, 6, 8)
CROSS, OWN = ("10", "20", "21"), ("00", "11", "22")

CLAIM = Claim(
    metric="1-NN accuracy across versions",
    method="simplex_cross",
    baseline="free_cross",
    at_least=0.3,
    seeds=5,
    every_seed=True,
    gates=(
        Gate(says="version 1 in the gallery of 0", higher="simplex_10", lower="free_10", at_least=0.3),
        Gate(says="version 2 in the gallery of 0", higher="simplex_20", lower="free_20", at_least=0.3),
        Gate(says="version 2 in the gallery of 1", higher="simplex_21", lower="free_21", at_least=0.3),
        Gate(says="version 0 by itself is no worse", higher="simplex_00", lower="free_00", at_least=-0.02),
        Gate(says="version 1 by itself is no worse", higher="simplex_11", lower="free_11", at_least=-0.02),
        Gate(says="version 2 by itself is no worse", higher="simplex_22", lower="free_22", at_least=-0.02),
        Gate(says="the contrastive term does not lower AC", higher="hoc_ac", lower="simplex_ac"),
    ),
)


def train(x: Tensor, y: Tensor, arm: str, old: nn.Module | None, seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        sizes = (64, 128, 128, CORNERS - 1)
        layers = [nn.Sequential(nn.Linear(a, b), nn.ReLU()) for a, b in itertools.pairwise(sizes[:-1])]
        model = nn.Sequential(*layers, nn.Linear(*sizes[-2:]))
        free = nn.Linear(CORNERS - 1, CORNERS, bias=False)
    simplex = DSimplexClassifier(CORNERS)
    optimizer = torch.optim.Adam([*model.parameters(), *(free.parameters() if arm == "free" else ())], lr=1e-3)
    rng = torch.Generator().manual_seed(seed)
    for _ in range(30):
        for rows in torch.randperm(len(x), generator=rng).split(64):
            features = model(x[rows])
            if arm == "free":
                loss = info_nce(features, free.weight, positive_columns=y[rows], temperature=1.0, metric="dot")
            else:
                loss = simplex.loss(features, y[rows])
            if arm == "hoc" and old is not None:
                with torch.no_grad():
                    before = old(x[rows])
                loss = 0.1 * loss + 0.9 * hoc_loss(features, before, y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model


def run(seed: int) -> dict[str, float]:
    torch.set_num_threads(1)
    digits = load_digits()
    order = np.random.default_rng(seed).permutation(len(digits.target))
    x, y = (torch.from_numpy(part[order]) for part in (digits.data.astype(np.float32) / 16, digits.target))
    half = (len(x) - 1200) // 2
    query, gallery = slice(1200, 1200 + half), slice(1200 + half, None)
    found = {}
    for arm in ("free", "simplex", "hoc"):
        models: list[nn.Module] = []
        for version, classes in enumerate(VERSIONS):
            known = y[:1200] < classes
            old = models[-1] if models else None
            models.append(train(x[:1200][known], y[:1200][known], arm, old, 10 * seed + version))
        with torch.no_grad():
            queries, galleries = ([model(x[part]) for model in models] for part in (query, gallery))
        matrix = compatibility_matrix(queries, galleries, y[query], y[gallery])
        found |= {f"{arm}_{cell}": float(matrix[int(cell[0]), int(cell[1])]) for cell in (*OWN, *CROSS)}
        found[f"{arm}_ac"] = average_compatibility(matrix)
        found[f"{arm}_cross"] = float(np.mean([found[f"{arm}_{cell}"] for cell in CROSS]))
    return found
