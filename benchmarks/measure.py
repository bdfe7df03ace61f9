"""What every benchmark needs: wall and CPU seconds, peak memory, one cell per process, the machine in one line.

A cell is one measurement in a process of its own, so that neither peak memory nor warm caches leak into the next:

    if measure.is_cell():                # python script.py cell '{"queries": 1000}'
        measure.report(run(**measure.cell_arguments()))
    else:
        row = measure.run_cell(__file__, queries=1000)
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch


class Timer:
    """Wall seconds and CPU seconds (user + system, all threads and ended children) of a with-block.

    CPU seconds of one thread compare on a busy machine; wall seconds need a calm one.
    """

    wall: float = 0.0
    cpu: float = 0.0

    def __enter__(self) -> Timer:
        self._start = time.perf_counter(), _cpu_seconds()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall, self.cpu = time.perf_counter() - self._start[0], _cpu_seconds() - self._start[1]


class PeakMemory:
    """Highest resident memory inside a with-block above what was resident when it began, in megabytes (10^6 bytes)."""

    above: float = 0.0

    def __enter__(self) -> PeakMemory:
        # Linux forgets the old peak on request; elsewhere the peak since the start of the process must do.
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
        self._before = _status_mb("VmRSS")
        return self

    def __exit__(self, *_: object) -> None:
        self.above = _status_mb("VmHWM") - self._before


def _cpu_seconds() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _status_mb(name: str) -> float:
    found = re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(found.group(1)) * 1024 / 1e6 if found else 0.0


def set_threads(count: int) -> None:
    """Let torch, faiss and the numerical libraries beneath them use ``count`` threads."""
    torch.set_num_threads(count)
    with contextlib.suppress(ImportError):
        import faiss

        faiss.omp_set_num_threads(count)


def is_cell() -> bool:
    """Whether this process was started by ``run_cell``."""
    return len(sys.argv) > 2 and sys.argv[1] == "cell"


def cell_arguments() -> dict[str, Any]:
    """The keyword arguments that ``run_cell`` was called with."""
    return json.loads(sys.argv[2])


def report(result: dict[str, Any]) -> None:
    """Hand the numbers of a cell back to ``run_cell``."""
    print("RESULT " + json.dumps(result))


def run_cell(script: str, *, threads: int, **arguments: Any) -> dict[str, Any]:
    """Run a script as one cell in a fresh process and return what it reported.

    A cell that dies (out of memory, say) gives ``{"error": its last line}``, and the other cells go on.
    """
    environment = dict(os.environ)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        environment[name] = str(threads)
    command = [sys.executable, script, "cell", json.dumps({"threads": threads, **arguments})]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    for line in done.stdout.splitlines():
        if line.startswith("RESULT "):
            return json.loads(line.removeprefix("RESULT "))
    last = (done.stderr.strip().splitlines() or ["no output"])[-1]
    return {"error": f"exit {done.returncode}: {last}"}


def machine() -> str:
    """Processor, cores, memory, load and versions in one line, to stand above every table."""
    cpu, memory = platform.processor() or platform.machine(), 0.0
    with contextlib.suppress(OSError):
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
        cpu = found.group(1) if found else cpu
        memory = int(Path("/proc/meminfo").read_text().split()[1]) * 1024 / 1e9
    load = os.getloadavg()[0]
    versions = f"python {platform.python_version()}, torch {torch.__version__}"
    return f"{cpu}, {os.cpu_count()} cores, {memory:.1f} GB, load {load:.1f}, {versions}"


def product_rate(dtype: torch.dtype, columns: int = 384, *, repeats: int = 20) -> float:
    """The machine's own best rate of matrix products in floating-point operations per second.

    Args:
        dtype: of the two factors and the product.
        columns: the inner dimension.
        repeats: products per shape; the fastest of all shapes and repeats counts.
    """
    best = 0.0
    for rows, others in ((256, 1024), (512, 2048), (512, 4096), (1024, 2048), (1024, 4096), (2048, 8192)):
        left = torch.randn(rows, columns).to(dtype)
        right = torch.randn(others, columns).to(dtype)
        out = torch.empty(rows, others, dtype=dtype)
        for _ in range(repeats + 1):
            with Timer() as timer:
                torch.mm(left, right.T, out=out)
            best = max(best, 2 * rows * others * columns / timer.wall)
    return best
