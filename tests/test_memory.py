"""Peak memory of a run under ``--max-memory``, measured in a process of its own.

What counts is the peak resident set (``VmHWM``) of the whole process: interpreter, torch and pyarrow (a third of a
gigabyte and more, which differs between machines and is asked first), texts, blocks, candidates and evidence, and every
page of the mapped vectors while it is in memory. The system's file cache, which holds pages that the process gave back,
belongs to no process and does not count.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys

import numpy as np
import pytest

DIMENSIONS = 4096
WORK_MB = 320
"""The limit stands so far above what the process holds before any work; a corpus of a gigabyte or two is to fit."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="reads peak memory from /proc"),
]

PROGRAM = """
import re, sys
from pathlib import Path
from tamis.cli import main
sys.argv = ["tamis", *sys.argv[1:]]
try:
    main()
except SystemExit as end:
    code = end.code
else:
    code = 0
print("PEAK", re.search(r"VmHWM:\\\\s+(\\\\d+)", Path("/proc/self/status").read_text())[1])
sys.exit(code)
""".replace("\\\\", "\\")


@pytest.fixture(scope="module")
def limit(tmp_path_factory) -> int:
    """A limit in megabytes that leaves the same room for the work on every machine."""
    home = tmp_path_factory.mktemp("small")
    write(home, passages=600)
    done = mine(home, "64MB")
    return int(re.search(r"above the ([\d,]+) MB taken now", done.stderr)[1].replace(",", "")) + WORK_MB


@pytest.fixture(scope="module")
def folder(tmp_path_factory, limit):
    """Passages whose vectors take three times the limit."""
    home = tmp_path_factory.mktemp("memory")
    write(home, passages=3 * limit * 2**20 // (4 * DIMENSIONS) + 1)
    yield home
    (home / "p.npy").unlink()


def write(home, passages: int) -> None:
    """Vectors and a BEIR folder of so many passages and sixty queries."""
    rng = np.random.default_rng(0)
    block = rng.standard_normal((512, DIMENSIONS), dtype=np.float32)
    block /= np.linalg.norm(block, axis=1, keepdims=True)
    vectors = np.lib.format.open_memmap(home / "p.npy", "w+", np.float32, (passages, DIMENSIONS))
    for start in range(0, passages, 512):
        vectors[start : start + 512] = np.roll(block, start // 512, 1)[: passages - start]
    positives = np.arange(0, passages, passages // 60)[:60]
    np.save(home / "q.npy", vectors[positives] + 0.01 * rng.standard_normal((60, DIMENSIONS), dtype=np.float32))
    vectors.flush()
    beir = home / "beir"
    (beir / "qrels").mkdir(parents=True)
    (beir / "corpus.jsonl").write_text(
        "".join(json.dumps({"_id": f"d{i}", "title": "", "text": f"text {i}"}) + "\n" for i in range(passages))
    )
    (beir / "queries.jsonl").write_text(
        "".join(json.dumps({"_id": f"q{i}", "text": f"question {i}"}) + "\n" for i in range(60))
    )
    lines = "".join(f"q{i}\td{p}\t1\n" for i, p in enumerate(positives))
    (beir / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\n" + lines)


def mine(home, limit: str) -> subprocess.CompletedProcess[str]:
    vectors = ["--query-embeddings", str(home / "q.npy"), "--corpus-embeddings", str(home / "p.npy")]
    command = ["mine", str(home / "beir"), "-o", str(home / f"out-{limit}"), *vectors, "--max-memory", limit]
    return subprocess.run([sys.executable, "-c", PROGRAM, *command], capture_output=True, text=True, check=False)


def test_vectors_three_times_the_limit(folder, limit):
    """A corpus three times the limit should be mined, margins, odds and audit included, within the limit."""
    assert (folder / "p.npy").stat().st_size >= 3 * limit * 2**20
    done = mine(folder, f"{limit}MB")
    assert done.returncode == 0, done.stderr[-2000:]
    peak = int(re.search(r"PEAK (\d+)", done.stdout)[1]) / 1024
    assert peak < limit, f"{peak:.0f} MB"


@pytest.mark.parametrize("less", [128, 64])
def test_a_limit_is_kept_or_refused(folder, limit, less):
    """A tight limit should be kept, or refused in one line before the work."""
    limit -= less
    done = mine(folder, f"{limit}MB")
    if done.returncode == 0:
        assert int(re.search(r"PEAK (\d+)", done.stdout)[1]) / 1024 < limit
        return
    assert f"--max-memory is {limit} MB: raise it" in done.stderr
    assert done.stderr.startswith("tamis: ") and done.stderr.count("\n") == 1


def test_a_limit_below_the_process_is_refused(folder):
    """What the process holds before any work should count."""
    done = mine(folder, "64MB")
    assert done.returncode == 2 and "--max-memory is 64 MB: raise it" in done.stderr
