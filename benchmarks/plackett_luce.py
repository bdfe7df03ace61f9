"""Plackett-Luce, side by side with choix in one run: 20,000 rankings of 200 items, and wins in pairs.

    python benchmarks/plackett_luce.py
    python benchmarks/plackett_luce.py --rankings 2000

Rankings are drawn from known strengths; each holds ten of the items, or all. Strengths must agree to a millionth.
choix is timed over as many of its rounds as it needs, in CPU seconds.
"""

from __future__ import annotations

import argparse

import choix
import measure
import numpy as np

from tamis.plackett_luce import plackett_luce


def timed(call, repeats: int = 1) -> tuple[np.ndarray, float]:
    """Strengths with mean 0, and the fewest CPU seconds they took."""
    seconds = []
    for _ in range(repeats):
        with measure.Timer() as timer:
            found = call()
        seconds.append(timer.cpu)
    return found - found.mean(), min(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=200)
    parser.add_argument("--rankings", type=int, default=20_000)
    parser.add_argument("--lengths", type=int, nargs="*", default=[10], help="items per ranking")
    options = parser.parse_args()
    measure.set_threads(1)
    print(f"{measure.machine()}, 1 thread")
    rng, n = np.random.default_rng(0), options.items
    strengths = rng.normal(size=n)
    for length in options.lengths:
        kept = rng.random((options.rankings, n)).argsort(1)[:, :length]
        order = (-(strengths[kept] + rng.gumbel(size=kept.shape))).argsort(1)
        rankings = np.take_along_axis(kept, order, 1)
        theirs, seconds = timed(lambda: choix.ilsr_rankings(n, rankings.tolist(), tol=1e-8))  # noqa: B023
        for method in ("mm", "ilsr"):
            ours, own = timed(lambda: plackett_luce(rankings=rankings, method=method))  # noqa: B023
            difference = np.abs(ours - theirs).max()
            print(
                f"{seconds / own:6.1f}x  {options.rankings:,} rankings of {length} of {n} items, {method}: "
                f"{own:.2f} CPU s, choix ilsr_rankings {seconds:.2f} CPU s, largest difference {difference:.1e}"
            )
    chance = 1 / (1 + np.exp(strengths[None, :] - strengths[:, None]))
    wins = np.triu(rng.binomial(50, chance), 1).astype(float)
    wins += np.tril(50 - wins.T, -1)
    theirs, seconds = timed(lambda: choix.ilsr_pairwise_dense(wins, tol=1e-8), 20)
    ours, own = timed(lambda: plackett_luce(wins=wins), 20)
    print(
        f"{seconds / own:6.1f}x  wins of {n} items in pairs: {own:.3f} CPU s, choix ilsr_pairwise_dense {seconds:.3f} "
        f"CPU s, largest difference {np.abs(ours - theirs).max():.1e}"
    )


if __name__ == "__main__":
    main()
