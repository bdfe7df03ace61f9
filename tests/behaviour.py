"""Cases for the checks that every public object goes through, by kind (see test_behaviour.py).

A method's test module offers ``make(seed) -> list`` of these.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class LossCase:
    """A loss on tensors: ``call(*inputs)`` gives a scalar; ``inputs`` are float64 tensors that take a gradient.

    ``others`` are further tensors that the call closes over by position after the inputs and that take none.
    """

    name: str
    call: Callable[..., torch.Tensor]
    inputs: tuple[torch.Tensor, ...]
    others: tuple[torch.Tensor, ...] = ()


@dataclass(frozen=True)
class SamplerCase:
    """A batch sampler: ``build(seed, rank, num_replicas)`` gives one with set_epoch, state_dict and load_state_dict."""

    name: str
    build: Callable[[int, int, int], Any]


@dataclass(frozen=True)
class ArrayCase:
    """A function of arrays: ``call(seed, *inputs)`` gives an array, a tuple or a dataclass of arrays.

    ``empty`` calls it on empty input and must raise a ValueError with a clear line. ``torch_too``: tensors in and out.
    ``budget``: ``(call, n)`` for selectors, where ``call(budget)`` returns the chosen indices out of n rows.
    """

    name: str
    call: Callable[..., Any]
    inputs: tuple[np.ndarray, ...]
    empty: Callable[[], Any] | None = None
    torch_too: bool = False
    budget: tuple[Callable[[float], Any], int] | None = None
