"""Inductive bias complexity: the official figures of four image sets, and difficulty on data whose dimension is known.

Two classes lie on two spheres, one around the other, of dimension 2 or 6, turned at random into 20 dimensions; rows,
radii and the distance of the spheres are the same. The difficulty should rise with the dimension, and fall with rows
and with the error that is asked for.
"""

from __future__ import annotations

import itertools

import numpy as np

from tamis.claim import Claim, Gate
from tamis.evaluation import inductive_bias_complexity, task_difficulty

OFFICIAL = (
    ((1e-3, 60_000, 14, 17.179045827183984, 10, 2.3987084824335305, 9), 1.484804e16),
    ((0.01, 73_257, 19, 53.86932485133339, 10, 1.5766998174969105, 9), 1.212903e31),
    ((0.01, 50_000, 27, 54.9156786783691, 10, 2.7506414616587023, 9), 3.437718e32),
    ((0.1, 1_280_901, 48, 943.5923, 1000, 65, 999), 3.583253e41),
)
CLAIM = Claim(
    metric="log2 of the bits, spheres of dimension 6 against 2",
    method="sphere_6",
    baseline="sphere_2",
    at_least=1.0,
    seeds=5,
    every_seed=True,
    gates=(
        Gate(says="the official bits to six digits", higher="tolerance", lower="official_error", every_seed=True),
        Gate(
            says="halving the separation costs 2^m to 2^(m + 0.6)", higher="halving_ok", at_least=1.0, every_seed=True
        ),
        Gate(says="the estimated dimension is within 15 %", higher="fifteen", lower="dimension_error", every_seed=True),
        Gate(says="more rows are easier", higher="sphere_2", lower="sphere_2_more_rows", every_seed=True),
        Gate(says="a larger error is easier", higher="sphere_2", lower="sphere_2_larger_error", every_seed=True),
    ),
)
ROWS, GAP = 1000, 0.25  # few enough that the data do not determine the function


def run(seed: int) -> dict[str, float]:
    errors = [abs(inductive_bias_complexity(*constants).bits / bits - 1) for constants, bits in OFFICIAL]
    finer = [inductive_bias_complexity(0.01, 100, 2, 1.0, 2, d, 1).bits for d in (0.5, 0.25, 0.125)]
    halving = all(2**2 <= b / a <= 2**2.6 for a, b in itertools.pairwise(finer))
    found = {m: task_difficulty(*spheres(m, ROWS, seed), 0.01, method="exact", resamples=0) for m in (2, 6)}
    more = task_difficulty(*spheres(2, 2 * ROWS, seed), 0.01, method="exact", resamples=0)
    easier = task_difficulty(*spheres(2, ROWS, seed), 0.1, method="exact", resamples=0)
    return {
        "sphere_6": found[6].complexity.log2_bits,
        "sphere_2": found[2].complexity.log2_bits,
        "sphere_2_more_rows": more.complexity.log2_bits,
        "sphere_2_larger_error": easier.complexity.log2_bits,
        "dimension_error": max(abs(found[m].intrinsic_dim / m - 1) for m in (2, 6)),
        "fifteen": 0.15,
        "official_error": max(errors),
        "tolerance": 5e-7,
        "halving_ok": float(halving),
    }


def spheres(m: int, rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two concentric m-spheres in 20 dimensions and which of the two a row is on."""
    rng = np.random.default_rng([seed, m, rows])
    points = rng.standard_normal((rows, m + 1))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    side = np.arange(rows) % 2
    basis = np.linalg.qr(rng.standard_normal((20, m + 1)))[0]
    return (1 + GAP * side)[:, None] * points @ basis.T, side
