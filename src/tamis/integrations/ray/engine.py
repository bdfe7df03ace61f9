"""Ray: encoding and shard search on a cluster, with the rows that one machine gives.

Ray Data encodes the same batches of texts that one machine would, in the same order. Tasks search shards of the
passages; the driver keeps the best of each query, and tells every task the score below which nothing can enter any
more. A task whose worker dies is sent again from the driver's own rows, so a loss costs a retry. No more shards are on
their way than there are workers, no more texts than ``sharding.TEXT_BYTES``; what a worker takes is planned. Processors
of one kind give equal bits; torch may add up in another order on another kind.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import time
import warnings
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Any

import numpy as np
import torch

from tamis import checks
from tamis.best import Best
from tamis.integrations.ray.tasks import EncodeTexts, library, search_shard
from tamis.sharding import TEXT_BYTES, WORKER_BYTES, ShardPlan, divided, plan_shards

Array = np.ndarray[Any, Any]
_BATCHES = 16  # per worker, between two starts of the encoders


class RayEngine:
    """A cluster as the engine of a mining run (``tamis.engine.Engine``); it starts when it is first needed.

    Args:
        address: of a running cluster of which this machine is a node: "auto" or "host:port"; None starts one on this
            machine and ends it on leaving, unless the process is connected already.
        workers: how many tasks run at once; None for as many as the cluster has processors for.
        cpus: processors of one task.
        shard_rows: passages per shard; None, see ``tamis.sharding.plan_shards``.
        worker_bytes: what the process of a worker may take.
        retries: how often a shard, or a batch of texts, is sent again before the run gives up.

    What happened is counted in ``measured``: shards sent, retries, the most shards on their way at once, bytes of the
    search sent and received, CPU seconds and highest memory of workers, seconds of merging.

    Raises:
        ValueError: for numbers below 1.
        ImportError: when Ray is not installed; with the pip line that cures it.
    """

    def __init__(
        self,
        *,
        address: str | None = None,
        workers: int | None = None,
        cpus: int = 1,
        shard_rows: int | None = None,
        worker_bytes: int = WORKER_BYTES,
        retries: int = 3,
    ) -> None:
        for name, value in (("workers", workers or 1), ("cpus", cpus), ("shard_rows", shard_rows or 1)):
            checks.at_least(name, value, 1)
        checks.at_least("retries", retries, 0)
        self.address, self.cpus, self.retries = address, cpus, retries
        self.shard_rows, self.worker_bytes = shard_rows, worker_bytes
        self.measured = {
            "shards": 0, "retries": 0, "on_their_way": 0, "bytes_sent": 0, "bytes_received": 0,
            "worker_seconds": 0.0, "worker_peak_bytes": 0, "merge_seconds": 0.0,
        }  # fmt: skip
        self._workers = workers
        self._ray = library()
        self._connected = self._ray.is_initialized()
        self._ours = not self._connected

    def __enter__(self) -> RayEngine:
        return self

    def __exit__(self, *_: object) -> None:
        if self._connected and self._ours:
            self._ray.shutdown()
            self._connected = False

    @property
    def workers(self) -> int:
        """How many tasks run at once."""
        if self._workers is None and self.address is None and not self._connected:
            return max(1, (os.cpu_count() or 1) // self.cpus)
        return self._workers or max(1, int(self._start().cluster_resources().get("CPU", 1) // self.cpus))

    @property
    def share(self) -> float:
        """The time of a job on the cluster by that on this machine alone, if processors are of one kind."""
        return torch.get_num_threads() / (self.workers * self.cpus)

    def plan(self, queries: int, passages: int, dimensions: int, depth: int, *, max_memory: int) -> ShardPlan:
        """How a search is divided, and what it takes; refused where the cluster cannot hold it.

        Args:
            queries: how many.
            passages: how many.
            dimensions: of the vectors.
            depth: candidates per query.
            max_memory: bytes for the blocks of each search.

        Returns:
            the plan.

        Raises:
            ValueError: when no node has the memory of one worker, or the object stores are too small; with the cure.
        """
        if self.address is not None:
            self._start()
        plan = plan_shards(
            queries, passages, dimensions, depth,
            workers=self.workers, block_bytes=max_memory, shard_rows=self.shard_rows, worker_bytes=self.worker_bytes,
        )  # fmt: skip
        self._start(plan.store_bytes)
        have = self._ray.cluster_resources()
        for what, needed, there, cure in (
            ("memory on one node", plan.worker_bytes, self._largest("memory"), "lower worker_bytes of RayEngine"),
            ("object store", plan.store_bytes, have.get("object_store_memory", 0), "lower --shard-rows or --workers"),
        ):
            checks.require(
                there >= needed,
                f"the cluster must have {needed / 2**30:.2f} GB of {what}: it has {there / 2**30:.2f} GB; {cure}.",
            )
        return plan

    def encode(self, encoder: Any, batches: Iterable[list[str]], /) -> Iterator[Any]:
        """Vectors of each batch of texts, in order, by actors of Ray Data that hold a copy of the encoder.

        Args:
            encoder: object with ``encode(texts)`` that can be pickled.
            batches: lists of texts, taken as they are needed.

        Yields:
            one matrix per batch.

        Raises:
            TypeError: when the encoder cannot be sent.
            Exception: what the encoder raises.
        """
        ray = self._start()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of its own settings
            import ray.data as data
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        try:
            # In a list, since a bare reference is lost with the first actor.
            held = [ray.put(encoder)]
        except TypeError as error:
            raise TypeError(f"encoder must be one that can be pickled: {checks.one_line(error)}.") from None
        waiting = iter(batches)
        while wave := self._wave(waiting):
            dataset = data.from_items([{"texts": texts} for texts in wave], override_num_blocks=len(wave))
            options = dataset.context.execution_options
            options.preserve_order = True
            dataset.context.enable_progress_bars = False
            size = min(self.workers, len(wave))
            vectors = dataset.map(
                EncodeTexts, fn_constructor_args=(held,), compute=data.ActorPoolStrategy(size=size), num_cpus=self.cpus,
                max_restarts=self.retries, max_task_retries=self.retries,
            )  # fmt: skip
            with self._their_errors("a batch of texts"):
                for row in vectors.iter_rows():
                    found = pickle.loads(row["vectors"])
                    if isinstance(found, Exception):
                        raise found
                    yield found

    def top_k(
        self, queries: Array, passages: Array, k: int, *, exclude: tuple[Array, Array], max_memory: int
    ) -> tuple[Array, Array]:
        """What ``tamis.search.top_k`` returns, shard by shard.

        Args:
            queries: (q, d) float, finite.
            passages: (n, d) float, finite; a memory-mapped array is read shard by shard.
            k: passages per query.
            exclude: CSR (indptr (q + 1,), columns), passages that are not to be found for a query.
            max_memory: bytes for the blocks of each search.

        Returns:
            scores (q, k) float32 and indices (q, k) int64.

        Raises:
            ValueError: for what cannot be searched.
            ConnectionError: when one shard is lost again and again.
        """
        checks.matrix("queries", queries)
        checks.matrix("passages", passages, columns=queries.shape[1])
        plan = self.plan(len(queries), len(passages), passages.shape[1], k, max_memory=max_memory)
        indptr, columns = exclude
        bounds = np.append(np.arange(0, len(passages), plan.shard_rows), len(passages))
        scores, indices = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
        for start in range(0, len(queries), plan.query_rows):
            turn = slice(start, min(start + plan.query_rows, len(queries)))
            own = np.asarray(indptr[turn.start : turn.stop + 1], np.int64)
            barred = divided((own - own[0], columns[own[0] : own[-1]]), bounds)
            found = self._turn(np.ascontiguousarray(queries[turn]), passages, k, bounds, barred, plan, max_memory)
            scores[turn], indices[turn] = found
        return scores, indices

    def _turn(
        self, queries: Array, passages: Array, k: int, bounds: Array, barred: list[Any], plan: ShardPlan, blocks: int
    ) -> tuple[Array, Array]:
        """All shards for some of the queries; as many on their way as there are workers."""
        ray, best, lost = self._start(), Best(len(queries), k), np.zeros(len(barred), int)
        task = ray.remote(search_shard).options(num_cpus=self.cpus, memory=plan.worker_bytes, max_retries=0)
        asked, todo = ray.put(queries), list(range(len(barred)))[::-1]
        waiting: dict[Any, int] = {}
        try:
            while todo or waiting:
                while todo and len(waiting) < plan.workers:
                    shard = todo.pop()
                    rows = np.ascontiguousarray(passages[bounds[shard] : bounds[shard + 1]])
                    floors = best.floors
                    sent = ray.put((rows, floors, barred[shard]))
                    waiting[task.remote(asked, sent, k, blocks, self.cpus, int(bounds[shard]))] = shard
                    size = rows.nbytes + floors.nbytes + sum(a.nbytes for a in barred[shard])
                    self._count(shards=1, bytes_sent=size)
                    del rows, sent
                self.measured["on_their_way"] = max(self.measured["on_their_way"], len(waiting))
                reference = ray.wait(list(waiting), num_returns=1)[0][0]
                shard = waiting.pop(reference)
                try:
                    counts, columns, scores, seconds, peak = ray.get(reference)
                except ray.exceptions.RayTaskError as error:
                    raise (error.cause or error) from None
                except ray.exceptions.RayError as error:
                    lost[shard] += 1
                    self._count(retries=1)
                    if lost[shard] > self.retries:
                        raise ConnectionError(
                            f"shard {shard} of {len(barred)} was lost {lost[shard]} times, and with it the run: "
                            f"{checks.one_line(error)}; give workers more memory or take smaller --shard-rows."
                        ) from None
                    todo.append(shard)
                    continue
                del reference
                start = time.perf_counter()
                best.take(counts, columns.astype(np.int64) + bounds[shard], scores)
                self._count(
                    bytes_received=counts.nbytes + columns.nbytes + scores.nbytes,
                    worker_seconds=seconds,
                    merge_seconds=time.perf_counter() - start,
                )
                self.measured["worker_peak_bytes"] = max(self.measured["worker_peak_bytes"], peak)
                del counts, columns, scores  # they lie in the object store
        finally:
            for reference in waiting:
                ray.cancel(reference, force=True)
        return best.result()

    def _count(self, **more: float) -> None:
        for name, value in more.items():
            self.measured[name] += value

    def _wave(self, batches: Iterator[list[str]]) -> list[bytes]:
        """Texts for one round of the encoders, as bytes: their characters need not be valid Unicode."""
        wave: list[bytes] = []
        size = 0
        while len(wave) < _BATCHES * self.workers and size < TEXT_BYTES:
            batch = next(batches, None)
            if batch is None:
                break
            wave.append(pickle.dumps(batch))
            size += len(wave[-1])
        return wave

    def _start(self, store_bytes: int | None = None) -> ModuleType:
        """Ray, connected; a cluster that is started here gets an object store of the size that is planned."""
        if not self._connected:
            settings: dict[str, Any] = {"address": self.address}
            if self.address is None:
                size = None if store_bytes is None else int(1.2 * store_bytes) + 2**27
                slots = self.workers * self.cpus
                settings = {"address": "local", "num_cpus": slots, "object_store_memory": size}
                settings["include_dashboard"] = False
            with self._their_errors("the cluster"):
                self._ray.init(log_to_driver=False, logging_level=logging.ERROR, **settings)
            self._connected = True
        return self._ray

    def _largest(self, resource: str) -> float:
        """The most that one node has of a resource."""
        return max((n["Resources"].get(resource, 0.0) for n in self._ray.nodes() if n["Alive"]), default=0.0)

    @contextlib.contextmanager
    def _their_errors(self, what: str) -> Iterator[None]:
        """Errors of our own code as they were; those of Ray as one line."""
        try:
            yield
        except self._ray.exceptions.RayTaskError as error:
            raise ConnectionError(f"{what} failed: {checks.one_line(error)}.") from None
        except self._ray.exceptions.RayError as error:
            raise ConnectionError(f"{what} was lost {self.retries + 1} times: {checks.one_line(error)}.") from None
