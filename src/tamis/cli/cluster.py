"""Which engine a command uses: this machine, or a cluster."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from tamis import checks
from tamis.engine import HERE


def engine(
    name: str, *, address: str | None, workers: int | None, shard_rows: int | None
) -> AbstractContextManager[Any]:
    """The engine of a name, ended with the block.

    Args:
        name: "local" or "ray".
        address: of a running cluster; None starts one on this machine.
        workers: how many tasks run at once.
        shard_rows: passages per task of the search.

    Returns:
        a context that gives the engine.

    Raises:
        ValueError: for settings of a cluster without one.
        ImportError: when Ray is not installed; with the pip line that cures it.
    """
    if name == "local":
        given = {"--address": address, "--workers": workers, "--shard-rows": shard_rows}
        first = next((option for option, value in given.items() if value is not None), None)
        checks.require(first is None, f"{first} is of a cluster: say --engine ray too, or leave it out.")
        return nullcontext(HERE)
    from tamis.integrations.ray import RayEngine

    return RayEngine(address=address, workers=workers, shard_rows=shard_rows)
