"""The command line: one line and exit code 2 for a mistake, no traceback.

Commands are plain functions; their help comes from their docstrings. Only here is a name that a user typed turned into
a model, a loss or a sampler.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence

# Threads that wait sleep: where other programs want the processors too, spinning costs several times the work. It is
# read when torch is loaded, so it stands before every import that may load it.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import cyclopts

from tamis import __version__
from tamis.cli import catalog, decontaminate, demo, downsampling, explaining, mining, ranking, selecting, training

app = cyclopts.App(name="tamis", version=__version__, help="Tamis decides what a model learns from.")
app.command(demo.demo)
app.command(mining.mine)
app.command(mining.audit)
app.command(explaining.explain)
app.command(training.train)
app.command(training.evaluate)
app.command(mining.report)
app.command(mining.export)
app.command(selecting.dedup)
app.command(selecting.select)
app.command(decontaminate.decontaminate)
app.command(downsampling.downsample)
app.command(ranking.rank)
app.command(catalog.methods)
app.command(catalog.claims)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        arguments: instead of those of the process.

    Raises:
        SystemExit: with 2 and one line on stderr for a mistake of the user's.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name may hold what the terminal cannot show
    try:
        app(arguments if arguments is None else list(arguments), exit_on_error=False, print_error=False)
    except cyclopts.CycloptsError as error:
        _stop(" ".join(str(error).split()) + " (tamis --help shows the commands)")
    except (ValueError, TypeError, ImportError, OSError, MemoryError) as error:
        if os.environ.get("TAMIS_TRACEBACK") or (isinstance(error, ImportError) and "pip install" not in str(error)):
            raise
        said = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, OSError) and error.errno:
            said = f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)
        _stop(f"out of memory: {said}" if isinstance(error, MemoryError) else said)
    except KeyboardInterrupt:
        _stop("stopped; the same command goes on where it was", code=130)


def _stop(message: str, code: int = 2) -> None:
    print(f"tamis: {message}", file=sys.stderr)
    raise SystemExit(code)
