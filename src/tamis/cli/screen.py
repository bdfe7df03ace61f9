"""What the commands print: progress on stderr, tables of plain text on stdout."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from tqdm import tqdm


def progress(steps: Iterable[int], label: str) -> Iterable[int]:
    """A progress bar on stderr, silent when stderr is not a terminal."""
    bar: Iterable[int] = tqdm(steps, desc=label, file=sys.stderr, disable=not sys.stderr.isatty(), leave=False)
    return bar


def quiet_libraries() -> None:
    """Keep the loading bars and notices of the model libraries off the screen."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        from transformers.utils import logging as transformers_logging
    except ImportError:
        return
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()


def say(text: str = "") -> None:
    """A line on stdout, at once."""
    print(text, flush=True)


def table(rows: Sequence[Sequence[Any]], *, header: Sequence[str] | None = None, indent: str = "  ") -> str:
    """Rows as aligned columns; numbers to the right.

    Args:
        rows: cells; anything with ``str``.
        header: names of the columns.
        indent: before every line.

    Returns:
        the lines.

    Example:
        >>> print(table([["kept", 12], ["dropped", 3]]))
          kept     12
          dropped   3
    """
    cells = [[c if isinstance(c, str) else f"{c:,}" if isinstance(c, int) else str(c) for c in row] for row in rows]
    lines = [list(header), *cells] if header else cells
    if not lines:
        return ""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    right = [bool(rows) and not isinstance(rows[0][i], str) for i in range(len(widths))]
    text = [
        indent
        + "  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in zip(line, widths, right, strict=True)).rstrip()
        for line in lines
    ]
    return "\n".join(text)


def percent(share: float | None) -> str:
    """A share for people; a dash where there is none."""
    return "-" if share is None else f"{100 * share:.1f} %"
