"""Claims: a paper's effect as a program that anyone can run again.

A claim script holds ``CLAIM = Claim(...)`` and ``run(seed) -> dict[str, float]``. The runner pairs the numbers by seed,
gives the mean difference with a bootstrap interval, judges the gates that the script states, and writes what came out,
whether it holds or not.
"""

from __future__ import annotations

import importlib.util
import json
import platform
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tamis import intervals
from tamis.method import FAMILIES, claims_root


@dataclass(frozen=True, kw_only=True)
class Gate:
    """A further requirement on the means over seeds: ``mean(higher) - mean(lower) >= at_least`` (lower None is 0).

    Args:
        says: the requirement in words.
        higher: key of the number that should be the larger.
        lower: key of the number it is compared with, or None for a bare threshold.
        at_least: the least difference that counts as met.
        every_seed: ask it of every seed, not only of the mean.
    """

    says: str
    higher: str
    lower: str | None = None
    at_least: float = 0.0
    every_seed: bool = False


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What a claim script measures and what must come out.

    Args:
        metric: name and unit of the number, larger is better.
        method: key of the method's number in what ``run`` returns.
        baseline: key of the baseline's number.
        at_least: the least mean difference, method minus baseline.
        seeds: how many seeds are run: 0, 1, ..., seeds - 1. Never picked.
        every_seed: the difference must be above zero for every seed too.
        gates: further requirements.
        note: what a reader should know of the outcome (why a gate fails, say).
    """

    metric: str
    method: str
    baseline: str
    at_least: float
    seeds: int = 5
    every_seed: bool = False
    gates: tuple[Gate, ...] = ()
    note: str = ""


def load_script(path: Path) -> tuple[Claim, Callable[[int], Mapping[str, float]]]:
    """The ``CLAIM`` and the ``run`` of a claim script."""
    spec = importlib.util.spec_from_file_location(f"tamis_claim_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} is not a Python file.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.CLAIM, module.run


def find_scripts(name: str | None = None, root: Path | None = None) -> list[Path]:
    """All claim scripts, or the one of a method; a dash in a name counts as an underscore.

    Raises:
        ValueError: when no script has that name.
    """
    root = root or claims_root()
    scripts = sorted(p for family in FAMILIES for p in (root / family).glob("*.py") if p.stem != "__init__")
    if name is None:
        return scripts
    found = [p for p in scripts if p.stem == name.replace("-", "_")]
    if not found:
        raise ValueError(f"no claim is called {name!r}; there are: {', '.join(p.stem for p in scripts)}.")
    return found


def judge(claim: Claim, rows: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Compare method and baseline over the seeds and judge every gate.

    Args:
        claim: what must come out.
        rows: what ``run`` returned, one mapping per seed.

    Returns:
        status ("holds" when all gates are met, "holds in part" when the main one is, else "fails"), mean difference,
        its 95 % bootstrap interval over seeds, wins, means and the verdict of each gate.
    """
    values = {key: np.array([row[key] for row in rows], dtype=np.float64) for key in rows[0]}
    difference = values[claim.method] - values[claim.baseline]
    low, high = intervals.bootstrap_mean(difference, seed=0)
    main_met = bool(difference.mean() >= claim.at_least and (not claim.every_seed or (difference > 0).all()))
    gates = []
    for gate in claim.gates:
        gap = values[gate.higher] - (values[gate.lower] if gate.lower else 0.0)
        met = bool((gap >= gate.at_least).all() if gate.every_seed else gap.mean() >= gate.at_least)
        gates.append({**asdict(gate), "measured": float(gap.mean()), "met": met})
    all_met = main_met and all(g["met"] for g in gates)
    return {
        "status": "holds" if all_met else "holds in part" if main_met else "fails",
        "metric": claim.metric,
        "method": claim.method,
        "baseline": claim.baseline,
        "at_least": claim.at_least,
        "every_seed": claim.every_seed,
        "mean_difference": float(difference.mean()),
        "interval": [low, high],
        "wins": int((difference > 0).sum()),
        "seeds": len(rows),
        "means": {key: float(v.mean()) for key, v in values.items()},
        "gates": gates,
        "note": claim.note,
        "rows": [dict(row) for row in rows],
    }


def run_script(path: Path, *, seeds: int | None = None, write: bool = True, root: Path | None = None) -> dict[str, Any]:
    """Run one claim with its seeds and write ``results/<name>.json``.

    Args:
        path: the claim script.
        seeds: fewer seeds for a quick look; then nothing is written.
        write: write the result.
        root: folder of the claims.

    Returns:
        the result of ``judge`` with seconds, versions and commit.
    """
    claim, run = load_script(path)
    started = time.perf_counter()
    rows = [dict(run(seed)) for seed in range(seeds or claim.seeds)]
    result = {
        "claim": path.stem,
        **judge(claim, rows),
        "seconds": round(time.perf_counter() - started, 1),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
        "commit": commit_of(path.parent),
    }
    if write and (seeds is None or seeds == claim.seeds):
        folder = (root or claims_root()) / "results"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{path.stem}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


def commit_of(folder: Path) -> str:
    """The commit the checkout stands at, or "" outside a checkout."""
    try:
        done = subprocess.run(
            ["git", "rev-parse", "--short=12", "HEAD"], cwd=folder, capture_output=True, text=True, check=False
        )
    except OSError:
        return ""
    return done.stdout.strip()
