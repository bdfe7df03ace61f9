"""A mining run that is killed, at whatever moment, goes on where it was and ends with the same files."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from tamis import runs
from tamis.data import from_python, write_beir
from tests import verses

TABLES = [name for name in runs.OUTPUTS if name.endswith(".parquet")]
KILLS = 20

# A process that has made one run, so that everything is imported, and then forks a run of the command line for every
# line on stdin. It kills the run after a delay, or lets it kill itself when the n-th file is about to take its name.
MOTHER = """
import contextlib, json, os, pathlib, signal, sys, time
from tamis import cli, encoders, runs
from tests import verses

class Slow(verses.LetterEncoder):
    def fingerprint(self):
        return "letters"
    def encode(self, texts):
        time.sleep(0.005)
        if len(texts) == encoders.SHARD:
            os.write(2, b"encoded\\n")
        return super().encode(texts)

encoders.SHARD = 16
encoders.resolve = lambda _: Slow()
replace = pathlib.Path.replace

def kill_before(count):
    def counted(self, target):
        nonlocal count
        if pathlib.Path(target).name in (*runs.OUTPUTS, runs.MANIFEST):
            if count == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            count -= 1
        return replace(self, target)
    pathlib.Path.replace = counted

with contextlib.redirect_stdout(sys.stderr):
    try:
        cli.main(sys.argv[1:])
    except SystemExit as stop:
        assert not stop.code

for line in sys.stdin:
    order = json.loads(line)
    start = time.monotonic()
    child = os.fork()
    if child == 0:
        os.dup2(os.open(order["log"], os.O_CREAT | os.O_TRUNC | os.O_WRONLY), 2)
        os.dup2(2, 1)
        if order["names"] is not None:
            kill_before(order["names"])
        try:
            cli.main(order["command"])
            os._exit(0)
        except SystemExit as stop:
            os._exit(stop.code)
    ended = 0
    while not ended:
        time.sleep(0.001)
        if order["delay"] is not None and time.monotonic() - start > order["delay"]:
            os.kill(child, signal.SIGKILL)
        ended, status = os.waitpid(child, os.WNOHANG)
    print(json.dumps([os.waitstatus_to_exitcode(status), time.monotonic() - start]), flush=True)
"""


class Runner:
    """Runs of ``tamis mine`` that can be killed."""

    def __init__(self, folder):
        self.folder = folder
        self.log = folder / "log"
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        warm = ["mine", str(folder / "data"), "-o", str(folder / "warm")]
        with self.log.open("w") as log:
            self.mother = subprocess.Popen(
                [sys.executable, "-c", MOTHER, *warm],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=environment,
            )  # fmt: skip

    def mine(self, out, *, negatives=3, delay=None, names=None):
        """Exit code (negative for a signal) and seconds of a run; ``log`` holds what it said."""
        command = ["mine", str(self.folder / "data"), "-o", str(out), "--negatives", str(negatives)]
        order = {"command": command, "delay": delay, "names": names, "log": str(self.log)}
        self.mother.stdin.write(json.dumps(order) + "\n")
        self.mother.stdin.flush()
        answer = self.mother.stdout.readline()
        assert answer, self.log.read_text()
        return json.loads(answer)

    def encoded(self):
        """Full shards that the last run encoded."""
        return self.log.read_text().count("encoded\n")


@pytest.fixture(scope="module")
def runner(tmp_path_factory):
    """The verses in BEIR layout, and a process that mines them."""
    folder = tmp_path_factory.mktemp("killed")
    rows = verses.rows()[:150]
    corpus = {f"{k} {i}": text for k, *texts in rows for i, text in enumerate(texts[1:])}
    positives = {k: [f"{k} 0", f"{k} 1"][: 1 + i % 2] for i, (k, *_) in enumerate(rows)}
    write_beir(from_python({k: query for k, query, *_ in rows}, corpus, positives), folder / "data")
    runner = Runner(folder)
    yield runner
    runner.mother.communicate()


@pytest.fixture(scope="module")
def whole(runner):
    """Digests of the tables of a run in one go, its full shards, and the seconds of the shortest of three such runs."""
    times = []
    for i in range(3):
        out = runner.folder / f"whole {i}"
        code, seconds = runner.mine(out)
        assert code == 0, runner.log.read_text()
        times.append(seconds)
    return digests(out), runner.encoded(), min(times)


def digests(folder):
    return {name: runs.file_digest(folder / name) for name in TABLES}


def shards_done(folder):
    """Full shards of vectors that are finished, by the notes beside them."""
    notes = [folder / "embeddings" / f"{stem}.json" for stem in ("queries", "corpus")]
    return sum(json.loads(note.read_text())["done"] // 16 for note in notes if note.exists())


def phase(folder, shards):
    """How far a killed run has come, in a folder that was empty before it."""
    if (folder / runs.MANIFEST).exists():
        return "finished"
    done = shards_done(folder)
    return "reading" if done == 0 else "encoding" if done < shards else "choosing"


@pytest.mark.slow
def test_killed_at_random_moments(runner, whole):
    """After a kill at twenty moments spread over the whole run the next run repeats no finished shard and ends alike.

    Every second run starts in a folder that holds the finished results of other settings.
    """
    expected, shards, seconds = whole
    other = runner.folder / "other"
    assert runner.mine(other, negatives=2)[0] == 0
    assert digests(other) != expected
    over = runner.folder / "over"
    shutil.copytree(other, over)
    seconds = [seconds, runner.mine(over)[1]]  # of a run in an empty folder, and of one that finds the vectors there
    rng = np.random.default_rng(0)
    seen = set()
    for i in rng.permutation(KILLS):
        for _ in range(9):
            out = runner.folder / "killed"
            shutil.rmtree(out, ignore_errors=True)
            if i % 2:
                shutil.copytree(other, out)
            code, took = runner.mine(out, delay=seconds[i % 2] * (i + rng.uniform()) / KILLS)
            if code != 0:
                break
            seconds[i % 2] = min(seconds[i % 2], took)  # too late: the machine was slower when it was timed
        assert code == -9
        seen.add("over another" if i % 2 else phase(out, shards))
        done = shards_done(out)
        assert runner.mine(out)[0] == 0, runner.log.read_text()
        assert runner.encoded() == shards - done
        assert digests(out) == expected
        assert not list(out.glob("**/*.tmp"))
    assert {"reading", "encoding", "choosing"} <= seen


@pytest.mark.slow
@pytest.mark.parametrize("named", range(len(runs.OUTPUTS) + 1))
def test_killed_while_the_files_take_their_names(runner, whole, named):
    """When only some of the new files have their names, no run is taken for finished, and the next one ends alike."""
    out = runner.folder / f"named {named}"
    assert runner.mine(out, negatives=2)[0] == 0
    assert runner.mine(out, names=named)[0] == -9
    assert not (out / runs.MANIFEST).exists()
    assert runner.mine(out)[0] == 0, runner.log.read_text()
    assert digests(out) == whole[0] and runner.encoded() == 0


@pytest.mark.slow
def test_killed_again_and_again(runner, whole):
    """A run that never gets more than a part of its time still ends, with the same files."""
    expected, shards, seconds = whole
    out, encoded = runner.folder / "again", 0
    for turn in range(6):
        code, _ = runner.mine(out, delay=seconds * (0.4 + 0.1 * turn))
        encoded += runner.encoded()
        if code == 0:
            break
    assert runner.mine(out)[0] == 0
    # Each kill may cost the one shard that was under way.
    assert shards <= encoded + runner.encoded() <= shards + 6
    assert digests(out) == expected
