"""``tamis explain``: the ranked story of one query, as a table in a terminal and as plain lines in a pipe."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tamis.cli.screen import say

if TYPE_CHECKING:
    from tamis.story import Story

STYLES = {"positive": "blue", "negative": "bold green", "passed over": "", "dropped": "yellow"}


def explain(mined: Path, query: str, *, limit: int = 20) -> None:
    """Say what became of every candidate of one query, in the order of their ranks, and why.

    Args:
        mined: folder that tamis mine wrote.
        query: id of the query.
        limit: the first so many candidates are told one by one, and every negative; the others are counted.
    """
    from tamis import runs

    story = runs.load(mined).explain(query, limit=limit)
    if sys.stdout.isatty():
        draw(story)
    else:
        say(str(story))


def draw(story: Story, *, width: int | None = None) -> None:
    """Show a story in a terminal.

    Args:
        story: see ``tamis.story.tell``.
        width: in characters; None for that of the terminal.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from tamis.story import HEAD, Gap, cells, shown

    # Texts are handed over as Text, so that nothing in them is taken for markup.
    console = Console(width=width, highlight=False)
    console.print(Text.assemble((f"Query {shown(story.name)}", "bold"), "\n", shown(story.query, 600)))
    console.print()
    console.print(Text(story.summary))
    console.print(Text(story.bound, style="dim"))
    table = Table(box=SIMPLE_HEAD, padding=(0, 1), header_style="dim", show_edge=False, pad_edge=False)
    for title in HEAD:
        numeric = title in ("rank", "score")
        table.add_column(
            title,
            justify="right" if numeric else "left",
            no_wrap=numeric,
            ratio=None if numeric else {"passage": 3, "verdict": 2}.get(title, 1),
        )
    for positive in story.positives:
        table.add_row(*(Text(cell, style=STYLES[positive.kind]) for cell in cells(positive)))
    if story.positives:
        table.add_section()
    for row in story.rows:
        if isinstance(row, Gap):
            table.add_row("", "", "", "", Text(f"\u2026 {row}", style="dim"))
        else:
            told = cells(row)
            style = STYLES[row.kind]
            table.add_row(*(Text(cell, style=style) for cell in told[:4]), Text(told[4]))
    console.print()
    console.print(table)
    for line in (story.brackets, *story.notes):
        if line:
            console.print(Text(f"\n{line}", style="dim"))
