"""No-duplicate batches: no shared key, no lost row, exact where it says so, random, resumable."""

import itertools
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.batches import NoDuplicatesBatchSampler, text_keys
from tests.behaviour import SamplerCase

SMALL_BATCHES = "ignore:keys repeat so often:UserWarning"


def make(seed):
    keys = np.random.default_rng(seed).integers(0, 30, (200, 1))
    several = np.random.default_rng(seed).integers(0, 60, (200, 3))

    def build(rows):
        return lambda seed, rank, num_replicas: NoDuplicatesBatchSampler(
            rows, 8, seed=seed, rank=rank, num_replicas=num_replicas
        )

    return [
        SamplerCase(name="NoDuplicatesBatchSampler one key", build=build(keys)),
        SamplerCase(name="NoDuplicatesBatchSampler several keys", build=build(several)),
    ]


def verify(sampler, rows, batch_size, least=1):
    """The literal check: every row once or left out, no key twice in a batch, sizes in bounds, counts that agree."""
    placed = []
    for batch in sampler:
        assert least <= len(batch) <= batch_size
        for one, other in itertools.combinations(batch, 2):
            assert not {k for k in rows[one] if k >= 0} & {k for k in rows[other] if k >= 0}
        placed += batch
    left_out = sampler.left_out
    assert sorted([*placed, *left_out.rows.tolist()]) == list(range(len(rows)))
    assert sum(left_out.reasons.values()) == len(left_out.rows)
    assert sampler.batch_sizes.sum() == len(placed)
    return len(placed)


def most_rows(keys, batch_size, least):
    """The most rows with one key each that fit into batches of ``least`` to ``batch_size`` rows, by trying all numbers.

    f batches hold min(count, f) rows of a key and batch_size rows each; they can be filled evenly, so any number of
    rows from least * f up to that will do.
    """
    counts = np.bincount(keys)
    best = 0
    for f in range(1, len(keys) + 1):
        room = min(np.minimum(counts, f).sum(), batch_size * f)
        best = max(best, room if room >= least * f else 0)
    return best


@pytest.mark.filterwarnings(SMALL_BATCHES)
@given(
    data=st.data(),
    n=st.integers(1, 60),
    batch_size=st.integers(1, 9),
    kinds=st.integers(1, 30),
    skew=st.floats(0, 2),
)
@settings(max_examples=150, deadline=None)
def test_one_key_a_row_is_packed_without_needless_loss(data, n, batch_size, kinds, skew):
    """With one key a row the number of rows placed is the most there is, and as many batches as can be are full."""
    least = data.draw(st.integers(1, batch_size))
    weight = 1 / np.arange(1, kinds + 1) ** skew
    keys = np.random.default_rng(data.draw(st.integers(0, 99))).choice(kinds, n, p=weight / weight.sum())
    sampler = NoDuplicatesBatchSampler(keys, batch_size, min_batch_size=least)
    placed = verify(sampler, keys[:, None], batch_size, least)
    assert placed == most_rows(keys, batch_size, least)
    if least == 1:
        assert placed == n
        assert len(sampler) == max(np.bincount(keys).max(), -(-n // batch_size))
        counts = np.bincount(keys)
        full = max(f for f in range(n + 1) if np.minimum(counts, f).sum() >= batch_size * f)
        slack = [n - batch_size * f >= len(sampler) - f for f in range(full + 1)]
        assert (sampler.batch_sizes == batch_size).sum() >= max(f for f, fits in enumerate(slack) if fits)


@given(data=st.data(), n=st.integers(1, 60), batch_size=st.integers(1, 9))
@settings(max_examples=80, deadline=None)
def test_drop_last_gives_the_most_full_batches(data, n, batch_size):
    """drop_last means full batches only, as many as there can be."""
    keys = np.random.default_rng(data.draw(st.integers(0, 99))).integers(0, data.draw(st.integers(1, 20)), n)
    sampler = NoDuplicatesBatchSampler(keys, batch_size, drop_last=True)
    placed = verify(sampler, keys[:, None], batch_size, batch_size)
    counts = np.bincount(keys)
    full = max(f for f in range(n + 1) if np.minimum(counts, f).sum() >= batch_size * f)
    assert placed == batch_size * full


@pytest.mark.filterwarnings(SMALL_BATCHES)
@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_any_layout_of_keys(data):
    """Rows with no, one, several or repeated keys never meet a shared key, and by default none is lost."""
    rows = data.draw(st.lists(st.lists(st.integers(-1, 25), max_size=4), min_size=1, max_size=50))
    batch_size = data.draw(st.integers(1, 8))
    least = data.draw(st.integers(1, batch_size))
    placed = verify(NoDuplicatesBatchSampler(rows, batch_size), rows, batch_size)
    assert placed == len(rows)
    verify(NoDuplicatesBatchSampler(rows, batch_size, min_batch_size=least, seed=1), rows, batch_size, least)


def slow_first_fit(rows, batch_size, order):
    """Each row in turn to the first batch that has room and none of its keys."""
    batches = []
    for row in order:
        for batch in batches:
            if len(batch) < batch_size and not any(set(rows[row]) & set(rows[other]) for other in batch):
                batch.append(row)
                break
        else:
            batches.append([row])
    return batches


@pytest.mark.parametrize("seed", range(5))
def test_several_keys_equal_the_plain_first_fit(seed):
    """The bit operations place rows as the plain loop over batches does."""
    rng = np.random.default_rng(seed)
    rows = [rng.integers(0, 40, 3).tolist() for _ in range(150)]
    sampler = NoDuplicatesBatchSampler(rows, 6, seed=seed)
    from tamis.batches.no_duplicates import _first_fit

    batch = _first_fit(sampler._indptr, sampler._keys, 6, np.random.default_rng(seed))
    expected = slow_first_fit(rows, 6, np.random.default_rng(seed).permutation(150).tolist())
    assert [sorted(b) for b in expected] == [np.flatnonzero(batch == j).tolist() for j in range(len(expected))]


@pytest.mark.filterwarnings(SMALL_BATCHES)
def test_zipf_labels_in_time():
    """100,000 pairs over 500 positives (Zipf), batch 128: all placed, 418 full batches (the most), under a second."""
    weight = 1 / np.arange(1, 501)
    labels = np.random.default_rng(0).choice(500, 100_000, p=weight / weight.sum())
    keys = np.stack([500 + np.arange(100_000), labels], axis=1)
    started = time.process_time()
    sampler = NoDuplicatesBatchSampler(keys, 128)
    batches = list(sampler)
    assert time.process_time() - started < 1
    assert len(sampler.left_out.rows) == 0
    assert len(batches) == np.bincount(labels).max()
    assert (sampler.batch_sizes == 128).sum() == 418
    assert np.minimum(np.bincount(labels), 419).sum() < 419 * 128
    batch_of = np.empty(100_000, dtype=int)
    for number, batch in enumerate(batches):
        batch_of[batch] = number
    assert len(np.unique(batch_of * 500 + labels)) == 100_000


def test_left_out_says_why():
    """Rows of a key that is too common, and rows that fill no further batch, are counted under their reason."""
    sampler = NoDuplicatesBatchSampler([0] * 6 + [1, 2, 3], 2, min_batch_size=2)
    assert sampler.left_out.reasons == {"its key has more rows than there are batches": 3}
    assert set(sampler.left_out.rows.tolist()) < set(range(6))
    sampler = NoDuplicatesBatchSampler(np.arange(5), 2, drop_last=True)
    assert sampler.left_out.reasons == {"no further batch can be filled": 1}
    sampler = NoDuplicatesBatchSampler([[0, 1], [0, 1], [0, 1]], 2, drop_last=True)
    assert sampler.left_out.reasons == {"fits no batch of at least 2": 3}
    assert len(sampler) == 0 and list(sampler) == []


def test_small_batches_are_warned_of():
    """Keys so common that an epoch has over twice the batches it should are told with numbers and a cure."""
    with pytest.warns(UserWarning, match="10 batches of 1.2 rows on average, where batch_size is 4.*drop_last"):
        list(NoDuplicatesBatchSampler([0] * 10 + [1, 2], 4))


def test_epochs_differ_and_repeat():
    """Another epoch packs other batches and leaves out other rows; the same epoch is the same on a new sampler."""
    keys = np.random.default_rng(0).choice(20, 300, p=np.arange(20, 0, -1) / 210)
    one, two = (NoDuplicatesBatchSampler(keys, 8, min_batch_size=8) for _ in range(2))
    first, left = list(one), one.left_out.rows.tolist()
    assert list(two) == first
    one.set_epoch(1)
    assert list(one) != first
    assert one.left_out.rows.tolist() != left


def test_batches_are_mixed():
    """Two rows of different keys share a batch about as often as chance has it, whatever their keys.

    With 40 keys of 10 rows in 40 batches of 10, chance is 9 / 390 for a pair of different keys.
    """
    keys = np.repeat(np.arange(40), 10)
    sampler = NoDuplicatesBatchSampler(keys, 10)
    together = np.zeros((400, 400))
    for epoch in range(300):
        sampler.set_epoch(epoch)
        batch_of = np.empty(400, dtype=int)
        for number, batch in enumerate(sampler):
            batch_of[batch] = number
        together += batch_of[:, None] == batch_of
    pairs = together.reshape(40, 10, 40, 10).mean(axis=(1, 3))[~np.eye(40, dtype=bool)] / 300
    assert pairs.mean() == pytest.approx(9 / 390, rel=1e-6)
    # 100 row pairs in 300 epochs: the mean of a key pair scatters by about 0.0009 if draws are independent.
    assert np.abs(pairs - 9 / 390).max() < 5 * 0.0009


def test_resume_and_shards():
    """A resumed sampler gives the rest of the epoch, and ranks share no row."""
    keys = np.random.default_rng(1).integers(0, 40, (200, 2))
    whole = NoDuplicatesBatchSampler(keys, 8, seed=3)
    batches, iterator = list(whole), iter(whole)
    for _ in range(3):
        next(iterator)
    fresh = NoDuplicatesBatchSampler(keys, 8)
    fresh.load_state_dict(whole.state_dict())
    assert list(fresh) == batches[3:]
    shards = [list(NoDuplicatesBatchSampler(keys, 8, seed=3, rank=r, num_replicas=3)) for r in range(3)]
    seen = [row for shard in shards for batch in shard for row in batch]
    assert len(seen) == len(set(seen))
    assert len({len(shard) for shard in shards}) == 1


def test_accelerate_deals_whole_batches():
    """Sharded by accelerate over two processes, every batch arrives once and whole, the short ones too."""
    data_loader = pytest.importorskip("accelerate.data_loader")
    keys = np.random.default_rng(0).integers(0, 50, 300)
    whole = list(NoDuplicatesBatchSampler(keys, 8))
    shards = [
        list(data_loader.BatchSamplerShard(NoDuplicatesBatchSampler(keys, 8), 2, process)) for process in range(2)
    ]
    assert len(whole) % 2 == 0 and {len(batch) for batch in whole} == {4, 8}
    assert [batch for round_ in zip(*shards, strict=True) for batch in round_] == whole


def test_keys_in_every_form_are_the_same():
    """A matrix, a tensor, nested lists and CSR give the same batches; keys are left as they were."""
    keys = np.random.default_rng(2).integers(0, 30, (60, 2))
    before = keys.copy()
    csr = np.arange(0, 121, 2), keys.reshape(-1)
    forms = [keys, torch.tensor(keys), keys.tolist(), csr]
    plans = [list(NoDuplicatesBatchSampler(form, 8)) for form in forms]
    assert all(plan == plans[0] for plan in plans)
    assert np.array_equal(before, keys)
    column = keys[:, 0]
    assert list(NoDuplicatesBatchSampler(column, 8)) == list(NoDuplicatesBatchSampler(column.tolist(), 8))


def test_unique_rows_are_plain_random_batches():
    """Without a repeated key the batches are slices of a random order, the last one short."""
    sampler = NoDuplicatesBatchSampler(np.arange(20).reshape(10, 2), 4)
    assert sorted(sampler.batch_sizes.tolist()) == [2, 4, 4]
    assert sorted(i for batch in sampler for i in batch) == list(range(10))


def test_text_keys():
    """Equal texts have equal numbers across columns; None is no key; rows without a text are free."""
    keys = text_keys(["a", "b", "a"], ["x", "a", None])
    assert keys.tolist() == [[0, 2], [1, 0], [0, -1]]
    assert keys.dtype == np.int64
    assert verify(NoDuplicatesBatchSampler(text_keys([None] * 5), 5), [[-1]] * 5, 5) == 5


def test_refuses_bad_input():
    """Messages name the argument, the requirement and what came."""
    with pytest.raises(ValueError, match="at least one row: got none"):
        NoDuplicatesBatchSampler([], 2)
    with pytest.raises(ValueError, match="at least one row: got none"):
        NoDuplicatesBatchSampler(np.empty((0, 2), int), 2)
    with pytest.raises(TypeError, match="keys must be integers: got float64; text_keys"):
        NoDuplicatesBatchSampler(np.ones(3), 2)
    with pytest.raises(TypeError, match="text_keys turns texts into integers"):
        NoDuplicatesBatchSampler([["a"], ["b"]], 2)
    with pytest.raises(ValueError, match=r"\(n,\) or \(n, c\)"):
        NoDuplicatesBatchSampler(np.ones((2, 2, 2), int), 2)
    with pytest.raises(ValueError, match="CSR must be"):
        NoDuplicatesBatchSampler((np.array([0, 2]), np.array([1, 2, 3])), 2)
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        NoDuplicatesBatchSampler([1], 0)
    with pytest.raises(ValueError, match="min_batch_size must lie between 1 and 2: got 3"):
        NoDuplicatesBatchSampler([1], 2, min_batch_size=3)
    with pytest.raises(ValueError, match="at least one column"):
        text_keys()
    with pytest.raises(ValueError, match="must be a sequence of texts"):
        text_keys("abc")
    with pytest.raises(ValueError, match="column 1 must have one entry per row of column 0: 2 rows, 1"):
        text_keys(["a", "b"], ["a"])
