"""Plans: what a run will take, said before it starts, and refused with the cure if it cannot fit."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch

from tamis import encoders, mapped
from tamis.results import Table

# Measured as peaks of whole runs above what the process held when it was planned, and rounded up.
_LOADED_LATER = 96 * 2**20  # packages that are loaded when they are needed, and what the allocator does not give back
_PER_CANDIDATE = 240  # what the odds and the audit keep of each candidate, and the lists
_SEARCHED = 48  # of these, while the search runs: keys, scores, indices and their copies
_PER_CHARACTER = 6  # of the texts, runs of three words for near duplicates; as much again for BM25
_CHECKED = 2**26  # of a map, while its rows are checked
_SCALED = 5 * mapped.PIECE  # of a map, while its rows are brought to length one


@dataclass(frozen=True)
class Plan:
    """What a mining run will take.

    Args:
        queries: how many.
        passages: how many.
        dimensions: of the vectors, 0 without vectors.
        depth: candidates per query.
        block_bytes: memory for the blocks of the search.
        peak_bytes: of vectors, blocks and candidates together, above what is loaded now.
        seconds: rough time, encoding and search.
    """

    queries: int
    passages: int
    dimensions: int
    depth: int
    block_bytes: int
    peak_bytes: int
    seconds: float

    def __str__(self) -> str:
        work = f"{self.queries:,} queries x {self.passages:,} passages"
        if self.dimensions:
            work += f" x {self.dimensions} dimensions"
        return (
            f"{work}, {self.depth} candidates each; blocks of {self.block_bytes / 2**20:.0f} MB, "
            f"peak about {self.peak_bytes / 2**30:.2f} GB, about {duration(self.seconds)}"
        )

    def refuse_unless_it_fits(self, limit: int | None = None) -> None:
        """Stop before the work when the memory is not there.

        Args:
            limit: the most that the process may take, with what it takes now; None for what the machine has.

        Raises:
            ValueError: with what is needed, what is free, and what to change.
        """
        taken = resident_memory() if limit is not None else None
        if limit is not None and taken is not None and taken + self.peak_bytes > limit:
            raise ValueError(
                f"mining needs about {self.peak_bytes / 2**20:,.0f} MB above the {taken / 2**20:,.0f} MB taken now, "
                f"and --max-memory is {limit / 2**20:,.0f} MB: raise it, lower --depth ({self.depth}), or give "
                "vectors as .npy files, which are read piece by piece."
            )
        free = free_memory()
        if free is not None and self.peak_bytes > free:
            raise ValueError(
                f"mining needs about {self.peak_bytes / 2**30:.1f} GB and {free / 2**30:.1f} GB are free: lower "
                f"--depth ({self.depth}), or mine less."
            )


def plan_mining(
    queries: Table,
    corpus: Table,
    *,
    encoder: encoders.Encoder | None,
    dimensions: int,
    depth: int,
    block_bytes: int,
    in_files: bool = False,
    copied: bool = False,
    words: bool = False,
) -> Plan:
    """Estimate a mining run; an encoder is timed on 32 texts of the corpus.

    Args:
        queries: ids and texts.
        corpus: ids and texts.
        encoder: what will encode them, None when the vectors are there.
        dimensions: of the vectors that are there, 0 for none.
        depth: candidates per query.
        block_bytes: memory for the blocks of the search.
        in_files: that all vectors are memory-mapped, and read piece by piece.
        copied: that an index takes a copy of the passages' vectors, see ``approximate``.
        words: that BM25 indexes the texts.

    Returns:
        the plan.
    """
    q, n = len(queries), len(corpus)
    seconds = 0.0
    if encoder is not None:
        sample = list(corpus.texts[:: max(1, n // 32)][:32])
        encoder.encode(sample[:2])  # the first call sets things up and would be timed with it
        start = time.perf_counter()
        dimensions = encoders.as_matrix(encoder.encode(sample), "the encoder's output").shape[1]
        seconds += (time.perf_counter() - start) / len(sample) * (q + n)
    if dimensions:
        # Selection costs about as much as the products.
        seconds += 2 * 2.0 * q * n * dimensions / product_rate(dimensions)
    # Pages of a map count among the blocks of the search, so it takes all that it may.
    blocks = block_bytes if in_files else min(block_bytes, 8 * q * n + 4 * dimensions * (q + n))
    vectors = 0 if in_files else 2 * 4 * dimensions * (q + n)
    if copied:
        vectors += 8 * dimensions * n  # the copy, and at the most as much again that its centres are learned from
    found = q * min(depth, n)
    characters = sum(map(len, queries.texts)) + sum(map(len, corpus.texts))
    peak = _LOADED_LATER + vectors + (1 + words) * _PER_CHARACTER * characters
    scaled, checked = (_SCALED, _CHECKED) if in_files else (0, 0)
    peak += max(scaled, checked + blocks + _SEARCHED * found, _PER_CANDIDATE * found)  # one after the other
    return Plan(q, n, dimensions, min(depth, n), blocks, peak, seconds)


def product_rate(dimensions: int, *, rows: int = 1024) -> float:
    """Floating-point operations per second of a small float32 matrix product on this machine."""
    a, b = torch.ones(rows, dimensions), torch.ones(dimensions, rows)
    a @ b
    start = time.perf_counter()
    for _ in range(3):
        a @ b
    return 3 * 2.0 * rows * rows * dimensions / (time.perf_counter() - start)


def free_memory() -> int | None:
    """Bytes that can be had without swapping, or None where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")), None)


def resident_memory() -> int | None:
    """Bytes of this process in memory now, or None where the system does not tell."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS")), None)


def duration(seconds: float) -> str:
    """Seconds for people.

    Example:
        >>> duration(42.3), duration(125), duration(3700)
        ('42 s', '2 min 05 s', '1 h 02 min')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 600:
        return f"{round(seconds) // 60} min {round(seconds) % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def parse_bytes(text: str | int) -> int:
    """A memory size from a number of bytes or from text with a unit.

    Example:
        >>> parse_bytes("2GB") == 2 * 2**30
        True
    """
    if isinstance(text, int):
        return text
    units = {"": 1, "B": 1, "K": 2**10, "KB": 2**10, "M": 2**20, "MB": 2**20, "G": 2**30, "GB": 2**30}
    number = text.strip().upper().rstrip("KMGB")
    unit = text.strip().upper()[len(number) :]
    try:
        size = int(float(number) * units[unit.strip()])
    except (ValueError, KeyError):
        raise ValueError(f"max-memory must be a size like 512MB or 2GB: got {text!r}.") from None
    if size < 2**20:
        raise ValueError(f"max-memory must be at least 1MB: got {text!r}.")
    return size
