"""No-duplicate batches: no two rows of a batch share a text, so no in-batch negative is a copy of the positive.

In-batch losses take every other row's positive for a negative; where texts repeat (a class name as the positive, one
passage that answers many queries) that is wrong exactly where it hurts. Each row carries keys, the identities of its
texts, and rows that share a key are kept apart. When every row has at most one key that occurs elsewhere, the packing
is exact: it leaves out no more rows than it must, deals rows round-robin over the batches, and mixes the batches by
random trades. With several such keys a row goes to the first batch, in a random order of rows, that has room and none
of its keys, found by bit operations.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import torch

from tamis import checks
from tamis.method import Method
from tamis.randomness import child_seed
from tamis.sampling import Batches, EpochSampler

Array = np.ndarray[Any, Any]
Keys = Array | torch.Tensor | Sequence[Sequence[int]] | tuple[Array, Array]

METHOD = Method(
    title="No-duplicate batches: rows that share a text never share a batch",
    paper="staple",
    year=2026,
    claim="Batches without duplicates beat random batches for in-batch contrastive learning when positives repeat.",
    peers=("sentence_transformers.base.sampler.NoDuplicatesBatchSampler",),
)


class LeftOut(NamedTuple):
    """Rows that an epoch leaves out, and why.

    Args:
        rows: (m,) int64, ascending.
        reasons: how many rows for which reason; the counts add up to m.

    Example:
        >>> NoDuplicatesBatchSampler([0, 0, 0, 1], 2, drop_last=True).left_out.reasons
        {'its key has more rows than there are batches': 2}
    """

    rows: Array
    reasons: dict[str, int]


class NoDuplicatesBatchSampler(EpochSampler[list[int]]):
    """Batches in which no key occurs in two rows; every epoch another random packing.

    A key that has more rows than there are full batches forces a choice. By default no row is lost: as many batches as
    possible are full, and the rest are smaller ones, in all as many as the most common key has rows. With very common
    keys that is many small batches, which can be worse than random ones (the claim measures it), and a warning says so.
    ``drop_last=True`` packs as many rows as fit into full batches, ``min_batch_size`` as many as fit into batches no
    smaller, and the rows left out are others in every epoch. ``left_out`` and ``batch_sizes`` say what an epoch came
    to. Where rows have several keys that occur elsewhere the packing is greedy: it loses no row by default, but with a
    minimum it can leave out more than it must.

    Args:
        keys: the identities of each row's texts: (n,) or (n, c) int, a list of lists of ints, or CSR as a tuple
            ``(indptr (n + 1,), keys)``. Equal numbers are equal texts, in whichever column; a negative number is no
            key. ``text_keys`` makes them from texts.
        batch_size: rows per batch.
        drop_last: only full batches; the same as ``min_batch_size=batch_size``.
        min_batch_size: smallest batch, from 1 to ``batch_size``.
        seed: seed of the run.
        rank: which of the ``num_replicas`` processes this is.
        num_replicas: processes that share the batches; whole batches are dealt, see ``EpochSampler``.
        uneven: "drop" or "repeat" for an incomplete last round of batches, see ``EpochSampler``.

    Returns:
        a batch sampler for ``DataLoader(batch_sampler=...)``.

    Raises:
        ValueError: for no rows, sizes below 1, or a minimum above the batch size.
        TypeError: for keys that are not integers.

    Warns:
        UserWarning: when an epoch has more than twice the batches that full ones would be.

    Example:
        >>> sampler = NoDuplicatesBatchSampler([[0, 7], [1, 7], [2, 8], [3, 8]], batch_size=2)
        >>> sorted(len({i // 2 for i in batch}) for batch in sampler)
        [2, 2]
    """

    def __init__(
        self,
        keys: Keys,
        batch_size: int,
        *,
        drop_last: bool = False,
        min_batch_size: int = 1,
        seed: int = 0,
        rank: int = 0,
        num_replicas: int = 1,
        uneven: str = "drop",
    ) -> None:
        super().__init__(seed=seed, rank=rank, num_replicas=num_replicas, uneven=uneven)
        checks.at_least("batch_size", batch_size, 1)
        checks.between("min_batch_size", min_batch_size, 1, batch_size)
        # Not named batch_size: accelerate takes every batch that is shorter than that for the last one and deals only
        # full rounds; without the name it deals batches of any size whole.
        self.max_batch_size = batch_size
        self.drop_last = drop_last
        self.min_batch_size = batch_size if drop_last else min_batch_size
        self._indptr, self._keys = _shared_keys(*_as_csr(keys))

    def plan(self, epoch: int) -> _Packed:
        """All batches of an epoch, over all ranks, in random order.

        Args:
            epoch: number of the epoch, from 0.

        Returns:
            the batches, and the rows that are in none.
        """
        rng = np.random.default_rng(child_seed(self.seed, "no_duplicates", epoch))
        per_row = np.diff(self._indptr)
        if per_row.max() > 1:
            batch = _without_small(_first_fit(self._indptr, self._keys, self.max_batch_size, rng), self.min_batch_size)
            reasons = {f"fits no batch of at least {self.min_batch_size}": int((batch < 0).sum())}
        else:
            key = np.full(len(per_row), -1)
            key[per_row == 1] = self._keys
            batch, reasons = _exact(key, self.max_batch_size, self.min_batch_size, rng)
        packed = _packed(batch, reasons, rng)
        if len(packed) > 2 * -(-len(per_row) // self.max_batch_size):
            warnings.warn(
                f"keys repeat so often that an epoch has {len(packed)} batches of {packed.sizes.mean():.1f} rows on "
                f"average, where batch_size is {self.max_batch_size}: small batches teach little, so take "
                "drop_last=True or a min_batch_size, which leave out other rows in every epoch.",
                stacklevel=2,
            )
        return packed

    @property
    def left_out(self) -> LeftOut:
        """Rows that the current epoch leaves out. Batches that do not go round all ranks are not counted here."""
        packed = self._plan()
        assert isinstance(packed, _Packed)
        return packed.left_out

    @property
    def batch_sizes(self) -> Array:
        """(batches,) int, rows in each batch of the current epoch, over all ranks."""
        packed = self._plan()
        assert isinstance(packed, _Packed)
        return packed.sizes


def text_keys(*columns: Sequence[str | None]) -> Array:
    """Number texts so that equal texts, in whichever column, have equal numbers.

    Args:
        columns: the texts of each row, one sequence of length n per column (queries, positives, negatives); None is no
            text.

    Returns:
        (n, columns) int64, -1 for None.

    Raises:
        ValueError: for no column or columns of different lengths.

    Example:
        >>> text_keys(["a", "b"], ["x", "a"]).tolist()
        [[0, 2], [1, 0]]
    """
    checks.require(len(columns) > 0, "text_keys needs at least one column of texts.")
    numbers: dict[str, int] = {}
    for i, column in enumerate(columns):
        checks.require(not isinstance(column, str), f"column {i} must be a sequence of texts: got one text.")
        checks.same_length(f"column {i}", column, "column 0", columns[0])
    found = [[-1 if text is None else numbers.setdefault(text, len(numbers)) for text in column] for column in columns]
    return np.array(found, dtype=np.int64).T.copy()


class _Packed(Batches):
    """Batches with the rows that found no place."""

    def __init__(self, indices: Array, offsets: Array, left_out: LeftOut) -> None:
        super().__init__(indices, offsets)
        self.left_out = left_out


def _as_csr(keys: Keys) -> tuple[Array, Array]:
    if isinstance(keys, tuple) and len(keys) == 2 and all(isinstance(part, np.ndarray) for part in keys):
        indptr, flat = np.asarray(keys[0]), np.asarray(keys[1])
        checks.require(
            indptr.ndim == 1 and len(indptr) > 1 and indptr[0] == 0 and indptr[-1] == len(flat),
            f"keys as CSR must be (indptr, keys) with indptr from 0 to {len(flat)}: got {indptr[:1]} to {indptr[-1:]}.",
        )
    elif isinstance(keys, (np.ndarray, torch.Tensor)):
        table = np.asarray(keys)
        checks.require(table.ndim in (1, 2), f"keys must be (n,) or (n, c): got shape {table.shape}.")
        flat = table.reshape(-1)
        indptr = np.arange(len(table) + 1) * (table.shape[1] if table.ndim == 2 else 1)
    else:
        nested = [[row] if isinstance(row, (int, np.integer)) else row for row in keys]
        flat = np.array(list(chain.from_iterable(nested)) or np.empty(0, np.int64))
        indptr = np.concatenate([[0], np.cumsum([len(row) for row in nested], dtype=np.int64)])
    checks.require(len(indptr) > 1, "keys must have at least one row: got none.")
    if not np.issubdtype(flat.dtype, np.integer):
        raise TypeError(f"keys must be integers: got {flat.dtype}; text_keys turns texts into integers.")
    return indptr, flat


def _shared_keys(indptr: Array, flat: Array) -> tuple[Array, Array]:
    """CSR of the keys that occur in two rows or more, numbered 0, 1, ...: no other key can get in the way."""
    row = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))[flat >= 0]
    _, key = np.unique(flat[flat >= 0], return_inverse=True)
    width = int(key.max(initial=-1)) + 1
    row, key = np.divmod(np.unique(row * width + key), max(width, 1))
    shared = np.bincount(key, minlength=width) > 1
    row, key = row[shared[key]], (np.cumsum(shared) - 1)[key[shared[key]]]
    return np.searchsorted(row, np.arange(len(indptr))), key


def _exact(key: Array, most: int, least: int, rng: np.random.Generator) -> tuple[Array, dict[str, int]]:
    """Batch of each row (-1: left out) when rows have one key at most (-1: none), with the fewest rows left out.

    Within f batches a key has room for f of its rows, so g(f) = sum of min(count, f) rows fit; g is concave, so the
    most batches of ``least`` rows or more is the largest f with g(f) >= least * f.
    """
    n = len(key)
    key = np.append(rng.permutation(int(key.max()) + 1), -1)[key]
    count = np.bincount(key + 1)[1:]
    fitting = _fitting(key)
    enough = max(int(count.max(initial=0)), -(-n // most))
    batches = min(enough, _largest(n // least, lambda f: fitting(f) >= least * f))
    order = rng.permutation(n)
    order = order[np.argsort(key[order], kind="stable")]
    fits = (_place_in_group(key[order]) < batches) | (key[order] < 0)
    repeats, order = int((~fits).sum()), order[fits]
    spare = max(0, len(order) - most * batches)  # too few rows for one more batch: any will do
    order = np.delete(order, rng.choice(len(order), spare, replace=False))
    reasons = {"its key has more rows than there are batches": repeats, "no further batch can be filled": spare}

    # As many full batches as can be, and the rest of equal size.
    group, rows, fitting = key[order], len(order), _fitting(key[order])
    full = _largest(batches, lambda f: most * f <= fitting(f) and rows - most * f >= least * (batches - f))
    rest = batches - full
    # Of a key's rows some must go to the full batches, as no more than ``rest`` fit behind them, and some cannot.
    place, size = _place_in_group(group), np.bincount(group + 1)[group + 1]
    must = (rest == 0) | ((group >= 0) & (place < size - rest))
    may = ~must & ((group < 0) | (place < full))
    early = must.copy()
    early[rng.choice(np.flatnonzero(may), most * full - int(must.sum()), replace=False)] = True
    batch = np.full(n, -1)
    # Rows of a key stand side by side, no more of them than batches: dealt round, they meet different batches.
    batch[order[early]] = np.arange(most * full) % max(full, 1)
    batch[order[~early]] = full + np.arange(rows - most * full) % max(rest, 1)
    return _mixed(batch, key, batches, rng), reasons


def _fitting(key: Array) -> Callable[[int], int]:
    """How many rows fit into f batches of any size: the sum over keys of min(rows, f), and all rows without a key."""
    count = np.sort(np.bincount(key + 1)[1:])
    sums, free = np.concatenate([[0], np.cumsum(count)]), int((key < 0).sum())

    def fitting(batches: int) -> int:
        below = int(np.searchsorted(count, batches))
        return int(sums[below]) + batches * (len(count) - below) + (free if batches else 0)

    return fitting


def _largest(high: int, holds: Callable[[int], bool]) -> int:
    """The largest number from 0 to ``high`` for which ``holds`` is true; it is true up to there and false after."""
    low = 0
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low


def _place_in_group(group: Array) -> Array:
    """0, 1, ... within each run of equal values."""
    start = np.flatnonzero(np.diff(group, prepend=group[:1] - 1))
    return np.arange(len(group)) - np.repeat(start, np.diff(start, append=len(group)))


def _mixed(batch: Array, key: Array, batches: int, rng: np.random.Generator) -> Array:
    """Make a valid packing random: pairs of batches shuffle the rows whose key only one of the two has.

    These are the trades of the curveball algorithm (Strona et al. 2014), all pairs at once; after log2(batches) rounds
    a row has had the chance to be anywhere.
    """
    if batches < 2 or key.max() < 0:
        return batch
    rows = np.flatnonzero(batch >= 0)
    at, code = batch[rows], key[rows]
    keyed = np.flatnonzero(code >= 0)
    width = int(key.max()) + 1
    for _ in range(int(np.ceil(np.log2(batches)))):
        pair = (rng.permutation(batches) // 2)[at]
        joint = pair[keyed] * width + code[keyed]
        order = np.argsort(joint)
        twice = np.flatnonzero(joint[order][1:] == joint[order][:-1])
        moves = np.ones(len(at), dtype=bool)
        moves[keyed[order[twice]]] = moves[keyed[order[twice + 1]]] = False
        movers = np.flatnonzero(moves)
        shuffled = movers[rng.permutation(len(movers))]
        at[shuffled[np.argsort(pair[shuffled], kind="stable")]] = at[movers[np.argsort(pair[movers], kind="stable")]]
    mixed = batch.copy()
    mixed[rows] = at
    return mixed


def _first_fit(indptr: Array, keys: Array, most: int, rng: np.random.Generator) -> Array:
    """Batch of each row: the first that has room and none of the row's keys. Bit j stands for batch ``base + j``."""
    bounds, flat = indptr.tolist(), keys.tolist()
    holders = [0] * (int(keys.max()) + 1)  # batches with a row of this key, as bits above ``since``
    since = [0] * len(holders)
    sizes: list[int] = []
    batch = np.empty(len(indptr) - 1, dtype=np.int64)
    base = full = 0
    for row in rng.permutation(len(batch)).tolist():
        mine = flat[bounds[row] : bounds[row + 1]]
        taken = full
        for key in mine:
            taken |= holders[key] >> (base - since[key])
        bit = ~taken & (taken + 1)
        j = base + bit.bit_length() - 1
        batch[row] = j
        if j == len(sizes):
            sizes.append(0)
        sizes[j] += 1
        for key in mine:
            holders[key] = holders[key] >> (base - since[key]) | bit
            since[key] = base
        if sizes[j] == most:
            full |= bit
            if full & 1:  # batches full from the first on are done with
                done = (~full & (full + 1)).bit_length() - 1
                full >>= done
                base += done
    return batch


def _without_small(batch: Array, least: int) -> Array:
    """Leave out (-1) the rows of batches below the least size, and number the others 0, 1, ..."""
    large = np.bincount(batch) >= least
    return np.where(large[batch], np.cumsum(large)[batch] - 1, -1)


def _packed(batch: Array, reasons: dict[str, int], rng: np.random.Generator) -> _Packed:
    """The batches in random order, and their rows in random order."""
    rows = rng.permutation(len(batch))
    missing, rows = np.sort(rows[batch[rows] < 0]), rows[batch[rows] >= 0]
    number = rng.permutation(int(batch.max()) + 1)[batch[rows]]
    sizes = np.bincount(number)
    left_out = LeftOut(missing, {k: v for k, v in reasons.items() if v})
    return _Packed(rows[np.argsort(number, kind="stable")], np.concatenate([[0], np.cumsum(sizes)]), left_out)
