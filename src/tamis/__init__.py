"""Tamis decides what a model learns from: which negatives, batch-mates, subset, label, answer, update."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from tamis.negatives.mine import mine_negatives as mine
    from tamis.results import Candidates as Candidates
    from tamis.results import MinedNegatives as MinedNegatives
    from tamis.results import Selection as Selection

_FAMILIES = (
    "batches",
    "compression",
    "diffusion",
    "evaluation",
    "inference",
    "integrations",
    "losses",
    "negatives",
    "optim",
    "preference",
    "subsets",
    "targets",
)
_OBJECTS = {
    "Candidates": ("tamis.results", "Candidates"),
    "MinedNegatives": ("tamis.results", "MinedNegatives"),
    "Selection": ("tamis.results", "Selection"),
    "mine": ("tamis.negatives.mine", "mine_negatives"),
}
__all__ = ["Candidates", "MinedNegatives", "Selection", "__version__", "mine", *_FAMILIES]


def __getattr__(name: str) -> Any:
    """Load a family or a result type when it is first asked for."""
    if name in _FAMILIES:
        return importlib.import_module(f"tamis.{name}")
    if name in _OBJECTS:
        module, attribute = _OBJECTS[name]
        return getattr(importlib.import_module(module), attribute)
    raise AttributeError(f"module 'tamis' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
