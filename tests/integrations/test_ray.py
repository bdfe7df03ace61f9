"""The Ray engine: the rows of one machine, whatever the workers and shards, and whoever dies."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from tamis import cli, runs, search
from tamis.data import write_beir
from tamis.negatives import mine_negatives
from tests import verses

ray = pytest.importorskip("ray", reason='the tests of the cluster need Ray: pip install "tamis[ray]"')

from tamis import encoders  # noqa: E402
from tamis.integrations.ray import RayEngine  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("ray"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning"),
]
K, MEMORY = 10, 2**25


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """One local cluster of four slots for all tests: starting one is most of their cost."""
    with RayEngine(workers=4) as engine:
        engine.plan(20_000, 50_000, 16, K, max_memory=MEMORY)
        yield engine


@pytest.fixture(scope="module")
def problem():
    """20,000 queries, 50,000 passages with equal ones among them, exclusions, and what one machine finds."""
    rng = np.random.default_rng(0)
    queries, passages = (rng.standard_normal((n, 16), dtype=np.float32) for n in (20_000, 50_000))
    for rows in (queries, passages):
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    passages[30_000:32_000] = passages[:2_000]
    exclude = np.arange(20_001), rng.integers(0, 50_000, 20_000)
    return queries, passages, exclude, search.top_k(queries, passages, K, exclude=exclude)


def same(found, wanted):
    return all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize(("workers", "shard_rows"), [(1, 50_000), (2, 12_500), (2, 7_001), (4, 12_500), (4, 3_333)])
def test_rows_of_one_machine(problem, workers, shard_rows):
    """20,000 x 50,000: scores and indices equal to the bit, ties and exclusions too, for any workers and shards."""
    queries, passages, exclude, wanted = problem
    engine = RayEngine(workers=workers, shard_rows=shard_rows)
    assert same(engine.top_k(queries, passages, K, exclude=exclude, max_memory=MEMORY), wanted)
    assert engine.measured["shards"] == -(-50_000 // shard_rows) and engine.measured["retries"] == 0


def test_memory_and_network_stay_within_the_plan(problem):
    """No more shards than workers are on their way, a worker takes what is planned, and results shrink as it goes."""
    queries, passages, exclude, wanted = problem
    engine = RayEngine(workers=2, shard_rows=2_500, worker_bytes=2**29)
    plan = engine.plan(len(queries), *passages.shape, K, max_memory=MEMORY)
    assert same(engine.top_k(queries, passages, K, exclude=exclude, max_memory=MEMORY), wanted)
    seen = engine.measured
    assert seen["on_their_way"] == 2
    assert seen["worker_peak_bytes"] < plan.worker_bytes + plan.store_bytes
    assert seen["bytes_sent"] + seen["bytes_received"] < 1.1 * plan.network_bytes
    everything = 20 * 20_000 * K * 8
    assert seen["bytes_received"] < 0.45 * everything


def test_queries_take_turns(problem):
    """Where a worker's memory holds few queries, they take turns, and the rows are the same."""
    queries, passages, exclude, wanted = problem
    engine = RayEngine(workers=4, shard_rows=25_000, worker_bytes=440 * 2**20)
    assert engine.plan(len(queries), *passages.shape, K, max_memory=MEMORY).turns > 1
    assert same(engine.top_k(queries, passages, K, exclude=exclude, max_memory=MEMORY), wanted)


def test_fewer_passages_than_asked_for():
    """Rows end in -1 and -inf as on one machine, also where a shard is smaller than k."""
    rng = np.random.default_rng(1)
    queries, passages = (rng.standard_normal((n, 8), dtype=np.float32) for n in (3, 7))
    exclude = np.array([0, 1, 1, 3]), np.array([2, 0, 6])
    found = RayEngine(workers=2, shard_rows=2).top_k(queries, passages, 9, exclude=exclude, max_memory=MEMORY)
    assert same(found, search.top_k(queries, passages, 9, exclude=exclude))


def workers_at(name: str) -> list[int]:
    """Processes of this test's cluster that are running a task of a name."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if f"ray::{name}" in (entry / "cmdline").read_text() and _is_ours(int(entry.name)):
                found.append(int(entry.name))
        except (OSError, ValueError):
            continue
    return found


def _is_ours(process: int) -> bool:
    while process > 1:
        if process == os.getpid():
            return True
        process = int((Path("/proc") / str(process) / "stat").read_text().rsplit(")", 1)[1].split()[1])
    return False


def test_a_killed_worker_costs_a_retry(problem):
    """A worker that is killed while it searches is replaced, the shard is sent again, and the rows are the same."""
    queries, passages, exclude, wanted = problem
    killed = []

    def kill() -> None:
        deadline = time.monotonic() + 30
        while not killed and time.monotonic() < deadline:
            for process in workers_at("search_shard")[:1]:
                os.kill(process, signal.SIGKILL)
                killed.append(process)
            time.sleep(0.005)

    engine, killer = RayEngine(workers=2, shard_rows=12_500), threading.Thread(target=kill)
    killer.start()
    found = engine.top_k(queries, passages, K, exclude=exclude, max_memory=MEMORY)
    killer.join()
    assert len(killed) == 1 and engine.measured["retries"] == 1
    assert same(found, wanted)


class Letters(verses.LetterEncoder):
    """Dies, once, on the first worker that encodes; ``mark`` is where it leaves word."""

    def __init__(self, mark: Path | None = None, home: int = 0) -> None:
        super().__init__()
        self.mark, self.home = mark, home

    def fingerprint(self) -> str:
        return "letters"

    def encode(self, texts):
        if self.mark is not None and os.getpid() != self.home and not self.mark.exists():
            self.mark.write_text("died")
            os.kill(os.getpid(), signal.SIGKILL)
        if "fail" in texts:
            raise ValueError("texts must not fail.")
        return super().encode(texts)


def test_mining_with_a_killed_encoder(tmp_path, monkeypatch):
    """Vectors and every table of a run are those of one machine, though the encoder's worker was killed once."""
    monkeypatch.setattr(encoders, "SHARD", 128)
    data = verses.data(both=300)
    here = mine_negatives(data, encoder=Letters(), negatives=4, folder=tmp_path / "here")
    killed = tmp_path / "killed"
    engine = RayEngine(workers=2, shard_rows=500)
    there = mine_negatives(
        data, encoder=Letters(killed, os.getpid()), negatives=4, folder=tmp_path / "there", engine=engine
    )
    assert killed.read_text() == "died"
    for name in ("queries.npy", "corpus.npy"):
        one, other = (tmp_path / where / "embeddings" / name for where in ("here", "there"))
        assert one.read_bytes() == other.read_bytes()
    for table in ("negatives", "dropped", "passed_over", "known"):
        one, other = getattr(here, table), getattr(there, table)
        np.testing.assert_equal(one, other)
    assert here.summary["audit"] == there.summary["audit"]


def test_errors_of_the_encoder_come_through():
    """What an encoder raises on a worker is raised here as it was; one that cannot be sent is refused."""
    with pytest.raises(ValueError, match="^texts must not fail.$"):
        list(RayEngine(workers=1).encode(Letters(), [["fail"]]))
    stuck = Letters()
    stuck.lock = threading.Lock()
    with pytest.raises(TypeError, match="encoder must be one that can be pickled"):
        list(RayEngine(workers=1).encode(stuck, [["a"]]))


def test_refuses_what_the_cluster_cannot_hold():
    """A plan that no node has the memory for is refused with the cure; a bad row is named."""
    with pytest.raises(ValueError, match="GB of memory on one node.*lower worker_bytes"):
        RayEngine(workers=1, worker_bytes=2**50).plan(10**9, 10**6, 64, 1000, max_memory=2**45)
    with pytest.raises(ValueError, match="GB of object store.*lower --shard-rows or --workers"):
        RayEngine(workers=4, shard_rows=10**7).plan(10, 10**8, 64, 10, max_memory=MEMORY)
    with pytest.raises(ValueError, match="worker memory must hold the process and the blocks"):
        RayEngine(workers=1, worker_bytes=2**20).plan(10, 10, 8, 5, max_memory=MEMORY)
    with pytest.raises(ValueError, match="workers must be at least 1: got -1"):
        RayEngine(workers=-1)
    passages = np.ones((10, 4), np.float32)
    passages[7] = np.nan
    nothing = np.zeros(3, np.int64), np.empty(0, np.int64)
    with pytest.raises(ValueError, match="row 2 holds NaN.*counted from row 5"):
        RayEngine(workers=1, shard_rows=5).top_k(passages[:2], passages, 2, exclude=nothing, max_memory=MEMORY)


def test_command_line(capsys, tmp_path):
    """``--engine ray`` prints the plan of the cluster and writes the files that the command without it writes."""
    data = verses.data(both=300)
    write_beir(data, tmp_path / "data")
    encoder = verses.LetterEncoder()
    np.save(tmp_path / "q.npy", encoder.encode(data.queries.texts))
    np.save(tmp_path / "c.npy", encoder.encode(data.corpus.texts))
    vectors = "--query-embeddings", tmp_path / "q.npy", "--corpus-embeddings", tmp_path / "c.npy"
    for out, more in (("here", ()), ("there", ("--engine", "ray", "--workers", 2, "--shard-rows", 300))):
        with pytest.raises(SystemExit) as stop:
            cli.main([str(a) for a in ("mine", tmp_path / "data", "-o", tmp_path / out, *vectors, *more)])
        assert not stop.value.code
    said = capsys.readouterr().out
    assert said.count("Cluster ") == 1 and "shards of 300 passages on 2 workers" in said
    for name in runs.OUTPUTS:
        if name.endswith(".parquet"):
            assert (tmp_path / "here" / name).read_bytes() == (tmp_path / "there" / name).read_bytes()


def test_threads_of_the_caller_are_left_alone():
    """A worker sets its own threads, not those of the driver."""
    before = torch.get_num_threads()
    RayEngine(workers=1).top_k(*[np.eye(3, dtype=np.float32)] * 2, 1, exclude=(np.zeros(4, int), np.empty(0, int)),
                               max_memory=MEMORY)  # fmt: skip
    assert torch.get_num_threads() == before
