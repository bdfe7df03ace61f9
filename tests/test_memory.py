"""Peak memory of a run under ``--max-memory``, measured in a process of its own.

What counts is the peak resident set (``VmHWM``) of the whole process: interpreter, torch and pyarrow (about a third of
a gigabyte), texts, blocks, candidates and evidence, and every page of the mapped vectors while it is in memory. The
system's file cache, which holds pages that the process gave back, belongs to no process and does not count.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys

import numpy as np
import pytest

LIMIT_MB, DIMENSIONS = 640, 4096
PASSAGES = 3 * LIMIT_MB * 2**20 // (4 * DIMENSIONS)

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
def folder(tmp_path_factory):
    """Passages whose vectors take three times the limit."""
    home = tmp_path_factory.mktemp("memory")
    rng = np.random.default_rng(0)
    block = rng.standard_normal((512, DIMENSIONS), dtype=np.float32)
    block /= np.linalg.norm(block, axis=1, keepdims=True)
    passages = np.lib.format.open_memmap(home / "p.npy", "w+", np.float32, (PASSAGES, DIMENSIONS))
    for start in range(0, PASSAGES, 512):
        passages[start : start + 512] = np.roll(block, start // 512, 1)[: PASSAGES - start]
    positives = np.arange(0, PASSAGES, PASSAGES // 60)[:60]
    np.save(home / "q.npy", passages[positives] + 0.01 * rng.standard_normal((60, DIMENSIONS), dtype=np.float32))
    passages.flush()
    beir = home / "beir"
    (beir / "qrels").mkdir(parents=True)
    (beir / "corpus.jsonl").write_text(
        "".join(json.dumps({"_id": f"d{i}", "title": "", "text": f"text {i}"}) + "\n" for i in range(PASSAGES))
    )
    (beir / "queries.jsonl").write_text(
        "".join(json.dumps({"_id": f"q{i}", "text": f"question {i}"}) + "\n" for i in range(60))
    )
    lines = "".join(f"q{i}\td{p}\t1\n" for i, p in enumerate(positives))
    (beir / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\n" + lines)
    yield home
    (home / "p.npy").unlink()


def mine(home, limit: str) -> subprocess.CompletedProcess[str]:
    vectors = ["--query-embeddings", str(home / "q.npy"), "--corpus-embeddings", str(home / "p.npy")]
    command = ["mine", str(home / "beir"), "-o", str(home / f"out-{limit}"), *vectors, "--max-memory", limit]
    return subprocess.run([sys.executable, "-c", PROGRAM, *command], capture_output=True, text=True, check=False)


def test_vectors_three_times_the_limit(folder):
    """A corpus three times the limit should be mined, margins, odds and audit included, within the limit."""
    assert (folder / "p.npy").stat().st_size >= 3 * LIMIT_MB * 2**20
    done = mine(folder, f"{LIMIT_MB}MB")
    assert done.returncode == 0, done.stderr[-2000:]
    peak = int(re.search(r"PEAK (\d+)", done.stdout)[1]) / 1024
    assert peak < LIMIT_MB, f"{peak:.0f} MB"


@pytest.mark.parametrize("limit", [512, 576])
def test_a_limit_is_kept_or_refused(folder, limit):
    """A tight limit should be kept, or refused in one line before the work."""
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
