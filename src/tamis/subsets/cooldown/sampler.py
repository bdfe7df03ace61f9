"""The sampler: domains by probability, rows of a domain pass after pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple
from itertools import pairwise
from typing import Any

import numpy as np

from tamis import checks
from tamis.randomness import child_seed
from tamis.results import as_array
from tamis.sampling import EpochSampler
from tamis.subsets.cooldown.mixing import Numbers, temperature_probs
from tamis.subsets.cooldown.schedule import Cooldown

Array = np.ndarray[Any, Any]

_GIVEN = 0.0  # in place of a temperature: the probabilities that the user gave
_BLOCK = 4096  # rows of a small domain that are shuffled at once, many passes together


class TemperatureSampler(EpochSampler[int]):
    """Rows for ``DataLoader(sampler=...)``: for each its domain is drawn by temperature, then the domain's next row.

    Temperature sampling and Cooldown of arXiv:2410.04579. Every domain is a stream of its own: all its rows in random
    order, then all again in another, on through epochs, so repeats are as few as can be. When not to use: with a high
    temperature to the end, which overfits the small domains; see ``Cooldown`` and ``CooldownSwitch``.

    Args:
        domain_sizes: (k,) sizes that the temperature works on. Without ``domain_ids`` they are numbers of rows, and the
            data are the domains one after the other. None counts the ids.
        num_samples: rows in an epoch, over all ranks.
        temperature: one number above 0, or a ``Cooldown`` over the steps of all epochs.
        probabilities: (k,) with sum 1, to draw with in place of a temperature (``unimax_probs``, say).
        domain_ids: (n,) int from 0 to k - 1, the domain of each row.
        num_epochs: epochs of the whole training.
        batch_size: rows of a training step over all ranks; in a step the temperature of a ``Cooldown`` is one.
        seed: seed of the run.
        rank: which of the ``num_replicas`` processes this is.
        num_replicas: processes that share the rows, see ``EpochSampler``.
        uneven: "drop" or "repeat" for an incomplete last round, see ``EpochSampler``.

    Attributes:
        domain_rows: (k,) int64, rows of each domain.
        steps: training steps of all epochs.

    Raises:
        ValueError: a domain without a row, ids outside the domains, or an option outside its range.

    Example:
        >>> sampler = TemperatureSampler([8, 2], 12, temperature=5.0)
        >>> rows = list(sampler)
        >>> sum(row >= 8 for row in rows), sampler.epochs_seen_.tolist()
        (3, [1.125, 1.5])
    """

    def __init__(
        self,
        domain_sizes: Numbers | None,
        num_samples: int,
        *,
        temperature: float | Cooldown = 1.0,
        probabilities: Numbers | None = None,
        domain_ids: Numbers | None = None,
        num_epochs: int = 1,
        batch_size: int = 1,
        seed: int = 0,
        rank: int = 0,
        num_replicas: int = 1,
        uneven: str = "drop",
    ) -> None:
        super().__init__(seed=seed, rank=rank, num_replicas=num_replicas, uneven=uneven)
        checks.at_least("num_samples", num_samples, 1)
        checks.at_least("num_epochs", num_epochs, 1)
        checks.at_least("batch_size", batch_size, 1)
        self.num_samples, self.num_epochs, self.batch_size = int(num_samples), num_epochs, batch_size
        self._sizes, self.domain_rows, self._rows = _domains_of(domain_sizes, domain_ids)
        self._offsets = np.cumsum(self.domain_rows) - self.domain_rows
        if not isinstance(temperature, Cooldown):
            checks.positive("temperature", temperature)
        self._schedule = temperature
        self._probabilities = None if probabilities is None else _shares(probabilities, len(self._sizes))
        self.steps = self._epoch_steps * num_epochs
        # Temperatures that were set by hand, each with the draw (counted through all epochs) from which on it holds.
        self._changes: list[tuple[int, float]] = []
        self._before = 0, np.zeros(len(self._sizes), dtype=np.int64)  # an epoch, and draws per domain before it
        self._drawn: tuple[int, Array] | None = None
        self._shuffled: dict[int, tuple[int, Array]] = {}

    def plan(self, epoch: int) -> list[int]:
        """All rows of an epoch, over all ranks; for an epoch far ahead those before it are counted first.

        Args:
            epoch: number of the epoch, from 0.

        Returns:
            rows in the order of training.
        """
        before, domains = self._draws_before(epoch), self._domains(epoch)
        order = np.argsort(domains, kind="stable")
        counts = np.bincount(domains, minlength=len(before))
        rows = np.empty(self.num_samples, dtype=np.int64)
        rows[order] = np.concatenate([self._stream(i, before[i], counts[i]) for i in np.flatnonzero(counts).tolist()])
        planned: list[int] = (rows if self._rows is None else self._rows[rows]).tolist()
        return planned

    @property
    def temperature(self) -> float | None:
        """The temperature of the next row; None for given probabilities."""
        epoch, place = divmod(self.epoch * self.num_samples + self._taken, self.num_samples)
        now = float(self._temperatures(epoch)[place])
        return None if now == _GIVEN else now

    @property
    def epochs_seen_(self) -> Array:
        """(k,) float64, passes over each domain until now, by the rows that all ranks have been handed."""
        now = np.bincount(self._domains(self.epoch)[: self._taken], minlength=len(self.domain_rows))
        seen: Array = (self._draws_before(self.epoch) + now) / self.domain_rows
        return seen

    def set_step(self, step: int) -> None:
        """Go to a training step, without a saved state: the next iteration gives the rest of its epoch.

        Args:
            step: training steps that are done, through all epochs; an epoch has ``num_samples / batch_size``, rounded
                up.
        """
        checks.at_least("step", step, 0)
        epoch, place = divmod(int(step), self._epoch_steps)
        self.set_epoch(epoch)
        self._start = self._began = self._taken = place * self.batch_size

    def set_temperature(self, temperature: float) -> None:
        """Draw with another temperature from the next row on, also in an iteration that is running.

        What a loader has fetched ahead stays. All ranks must call this at the same step.

        Args:
            temperature: above 0; it holds until it is set again, whatever the schedule says.
        """
        checks.positive("temperature", temperature)
        if temperature == self.temperature:
            return
        now = self.epoch * self.num_samples + self._taken
        self._changes = [(place, t) for place, t in self._changes if place < now] + [(now, float(temperature))]
        self._drawn = None
        if self._before[0] > self.epoch:
            self._before = 0, np.zeros_like(self._before[1])
        if self._planned is not None and self._planned[0] == (self.seed, self.epoch):
            # In place, because a running iteration holds this very list.
            plan: Any = self._planned[1]
            plan[self._taken :] = self.plan(self.epoch)[self._taken :]
        else:
            self._planned = None

    @property
    def _epoch_steps(self) -> int:
        return -(-self.num_samples // self.batch_size)

    def _temperatures(self, epoch: int) -> Array:
        """The temperature of every draw of an epoch."""
        if self._probabilities is not None:
            found = np.full(self.num_samples, _GIVEN)
        elif isinstance(self._schedule, Cooldown):
            steps = epoch * self._epoch_steps + np.arange(self._epoch_steps)
            found = np.repeat(self._schedule(steps, self.steps), self.batch_size)[: self.num_samples]
        else:
            found = np.full(self.num_samples, float(self._schedule))
        for place, temperature in self._changes:
            found[max(place - epoch * self.num_samples, 0) :] = temperature
        return found

    def _domains(self, epoch: int) -> Array:
        """The domain of every draw of an epoch."""
        if self._drawn is None or self._drawn[0] != epoch:
            luck = np.random.default_rng(child_seed(self.seed, "cooldown", int(epoch))).random(self.num_samples)
            heat = self._temperatures(epoch)
            domains = np.empty(self.num_samples, dtype=np.int64)
            edges = [0, *(np.flatnonzero(heat[1:] != heat[:-1]) + 1).tolist(), self.num_samples]
            for begin, end in pairwise(edges):
                given = self._probabilities if heat[begin] == _GIVEN else None
                sums = np.cumsum(temperature_probs(self._sizes, heat[begin]) if given is None else given)
                domains[begin:end] = np.searchsorted(sums / sums[-1], luck[begin:end], side="right")
            self._drawn = epoch, domains
        return self._drawn[1]

    def _draws_before(self, epoch: int) -> Array:
        """(k,) int64, how often each domain was drawn in all epochs before this one."""
        known, counts = self._before if self._before[0] <= epoch else (0, np.zeros_like(self._before[1]))
        for earlier in range(known, epoch):
            counts = counts + np.bincount(self._domains(earlier), minlength=len(counts))
        self._before = epoch, counts
        return counts

    def _stream(self, domain: int, begin: int, count: int) -> Array:
        """Rows that a domain gives from its draw ``begin`` on."""
        rows = int(self.domain_rows[domain])
        passes = max(1, _BLOCK // rows)
        first, last = begin // (passes * rows), (begin + count - 1) // (passes * rows)
        blocks = [self._block(domain, number, passes) for number in range(first, last + 1)]
        skipped = begin - first * passes * rows
        return np.concatenate(blocks)[skipped : skipped + count]

    def _block(self, domain: int, number: int, passes: int) -> Array:
        """So many passes over the rows of a domain, each in an order of its own."""
        if domain in self._shuffled and self._shuffled[domain][0] == number:
            return self._shuffled[domain][1]
        rows = np.arange(self.domain_rows[domain]) + self._offsets[domain]
        rng = np.random.default_rng(child_seed(self.seed, "stream", domain, number))
        if passes > 1:
            many: Array = rng.permuted(np.tile(rows, (passes, 1)), axis=1).ravel()
            return many
        self._shuffled[domain] = number, rng.permutation(rows)  # large, and several epochs may share it
        return self._shuffled[domain][1]

    def _replan(self) -> None:
        super()._replan()
        self._drawn = None
        self._shuffled = {}

    def _more_state(self) -> dict[str, Any]:
        schedule = self._schedule
        settings = {
            "domain_sizes": self._sizes.tolist(),
            "domain_rows": self.domain_rows.tolist(),
            "temperature": list(astuple(schedule)) if isinstance(schedule, Cooldown) else float(schedule),
            "probabilities": None if self._probabilities is None else self._probabilities.tolist(),
            "num_epochs": self.num_epochs,
            "batch_size": self.batch_size,
        }
        before = self.epoch, self._draws_before(self.epoch).tolist()
        return {"settings": settings, "before": before, "changes": list(self._changes)}

    def _load_more_state(self, state: Mapping[str, Any]) -> None:
        for name, here in self._more_state()["settings"].items():
            there = state["settings"][name]
            checks.require(
                there == here,
                f"state must belong to a sampler like this one: {name} was {checks.shown(there)} and is "
                f"{checks.shown(here)}.",
            )
        epoch, counts = state["before"]
        self._before = int(epoch), np.array(counts, dtype=np.int64)
        self._changes = [(int(place), float(temperature)) for place, temperature in state["changes"]]


def _domains_of(domain_sizes: Numbers | None, domain_ids: Numbers | None) -> tuple[Array, Array, Array | None]:
    """Sizes for the temperature, rows of each domain, and the rows domain after domain (None: as they are)."""
    if domain_ids is None:
        checks.require(domain_sizes is not None, "domain_sizes or domain_ids must be given: both are None.")
        sizes = as_array(domain_sizes)
        temperature_probs(sizes, 1.0)  # complains of sizes that are none
        rows = sizes.astype(np.int64)
        checks.require(
            bool((rows == sizes).all()),
            "domain_sizes must be whole numbers of rows: give domain_ids beside them where they are something else.",
        )
        return sizes.astype(np.float64), rows, None
    ids = as_array(domain_ids)
    checks.require(ids.ndim == 1 and len(ids) > 0, f"domain_ids must be (n,) and not empty: got shape {ids.shape}.")
    if ids.dtype.kind not in "iu":
        raise TypeError(f"domain_ids must be integers: got {ids.dtype}.")
    checks.require(int(ids.min()) >= 0, f"domain_ids must be 0 or more: the lowest is {int(ids.min())}.")
    counts = np.bincount(ids)
    sizes = counts if domain_sizes is None else as_array(domain_sizes)
    checks.require(
        len(counts) <= len(sizes),
        f"domain_ids must be below the {len(sizes)} domains: the highest is {len(counts) - 1}.",
    )
    counts = np.bincount(ids, minlength=len(sizes))
    empty = np.flatnonzero(counts == 0).tolist()
    checks.require(not empty, f"domain_ids must give every domain a row: domain {empty[:1]} has none.")
    temperature_probs(sizes, 1.0)
    return sizes.astype(np.float64), counts, np.argsort(ids, kind="stable")


def _shares(probabilities: Numbers, domains: int) -> Array:
    shares = as_array(probabilities).astype(np.float64)
    good = shares.shape == (domains,) and bool((shares >= 0).all()) and abs(shares.sum() - 1) < 1e-6
    checks.require(
        good, f"probabilities must be one for each of the {domains} domains with sum 1: got {checks.shown(shares)}."
    )
    return shares
