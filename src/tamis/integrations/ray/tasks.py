"""What runs on the workers: an actor that encodes, and a task that searches one shard."""

from __future__ import annotations

import os
import pickle
import resource
import time
from types import ModuleType
from typing import Any

import numpy as np
import torch

from tamis import checks, encoders, search
from tamis.best import above

Array = np.ndarray[Any, Any]


def library() -> ModuleType:
    """Ray, or how to install it."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anybody
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    return checks.package("ray")


class EncodeTexts:
    """One actor: an encoder, loaded once."""

    def __init__(self, held: list[Any]) -> None:
        self.encoder = library().get(held[0])

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Vectors of one batch of texts, or the error that stands in their place."""
        found: Any
        try:
            found = encoders.as_matrix(self.encoder.encode(pickle.loads(row["texts"])), "the encoder's output")
        except Exception as error:  # Ray Data would keep its words and lose its type
            found = error if _returns(error) else RuntimeError(f"{type(error).__name__}: {error}")
        return {"vectors": pickle.dumps(found)}


def _returns(error: Exception) -> bool:
    """Whether an exception survives the way from a worker to the driver."""
    try:
        return type(pickle.loads(pickle.dumps(error))) is type(error)
    except Exception:
        return False


def search_shard(queries: Array, sent: tuple[Any, ...], k: int, blocks: int, cpus: int, start: int) -> tuple[Any, ...]:
    """What one shard has for the best of each query, with CPU seconds and highest memory; runs on a worker."""
    torch.set_num_threads(cpus)
    began = time.process_time()
    passages, floors, (rows, columns) = sent
    exclude = np.searchsorted(rows, np.arange(len(queries) + 1)), columns
    try:
        scores, indices = search.top_k(queries, passages, min(k, len(passages)), exclude=exclude, max_memory=blocks)
    except ValueError as error:
        raise ValueError(f"{error} (rows of passages counted from row {start})") from None
    counts, columns, kept = above(scores, indices, floors)
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return counts, columns, kept, time.process_time() - began, peak
