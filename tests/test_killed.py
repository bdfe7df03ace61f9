"""A mining run that is killed goes on where it was and ends with the same files."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tamis import runs
from tamis.data import write_beir
from tests import verses

# The command line with an encoder that is slow enough to be killed in the middle of its work.
SLOW = """
import sys, time
from tests import verses
from tamis import cli, encoders

class Slow(verses.LetterEncoder):
    def fingerprint(self):
        return "letters"
    def encode(self, texts):
        time.sleep(0.02)
        print("encoded", len(texts), file=sys.stderr, flush=True)
        return super().encode(texts)

encoders.SHARD = 64
encoders.resolve = lambda _: Slow()
cli.main(sys.argv[1:])
"""


@pytest.mark.slow
def test_killed_at_random_moments(tmp_path):
    """Whatever the moment of the kill, the next run finishes, repeats no finished shard, and the tables are equal."""
    write_beir(verses.data(both=300), tmp_path / "data")

    def start(out):
        command = [sys.executable, "-c", SLOW, "mine", str(tmp_path / "data"), "-o", str(out), "--negatives", "3"]
        return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)

    whole = start(tmp_path / "whole")
    _, noise = whole.communicate()
    assert whole.returncode == 0, noise
    tables = [name for name in runs.OUTPUTS if name.endswith(".parquet")]
    expected = {name: runs.file_digest(tmp_path / "whole" / name) for name in tables}
    shards = noise.count("encoded 64")
    rng = np.random.default_rng(0)
    killed, seen = start(tmp_path / "killed"), 0
    for _ in range(5):
        stop_after = int(rng.integers(1, 8))
        for _ in range(stop_after):
            line = killed.stderr.readline()
            seen += "encoded 64" in line
        time.sleep(float(rng.uniform(0, 0.02)))
        killed.send_signal(signal.SIGKILL)
        seen += killed.communicate()[1].count("encoded 64")
        killed = start(tmp_path / "killed")
    _, rest = killed.communicate()
    assert killed.returncode == 0, rest
    # Each kill may cost the one shard that was under way.
    assert shards <= seen + rest.count("encoded 64") <= shards + 2 * 5
    assert {name: runs.file_digest(tmp_path / "killed" / name) for name in tables} == expected
