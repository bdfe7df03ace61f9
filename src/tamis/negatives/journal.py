"""Journals: files of answers that cost something, one JSON object a line, only ever added to.

A run that is killed leaves at most one torn line at the end. It stays where it is: the next answer starts on a line of
its own, and lines that cannot be read are passed over, so that all it costs is one answer asked again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of a journal, in the order in which they were added; none when there is no file."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(row, dict):
                yield row


def add(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Add rows and bring them to the disk before anything else is done.

    Args:
        path: the file; it and its folder are made when they are not there.
        rows: JSON objects.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        torn = False
        if file.tell() > 0:
            file.seek(-1, os.SEEK_END)
            torn = file.read(1) != b"\n"
        file.write(b"\n" * torn + b"".join(json.dumps(row).encode() + b"\n" for row in rows))
        file.flush()
        os.fsync(file.fileno())
