"""Arrays in files: read in pieces that are given back, with the results of arrays in memory."""

from __future__ import annotations

import numpy as np
import pytest

from tamis import encoders, mapped, search


@pytest.fixture
def pair(tmp_path, monkeypatch):
    """The same matrix in memory and in a file, with pieces so small that it has many."""
    monkeypatch.setattr(mapped, "PIECE", 2**14)
    rows = np.random.default_rng(0).standard_normal((900, 48), dtype=np.float32)
    np.save(tmp_path / "rows.npy", rows)
    return rows, np.load(tmp_path / "rows.npy", mmap_mode="r")


def test_pieces_cover_the_rows_once(pair):
    """Every row should be in one piece, in order, for arrays in memory and in files."""
    for rows in pair:
        assert np.array_equal(np.concatenate([rows[piece] for piece in mapped.pieces(rows)]), pair[0])


def test_only_files_are_mapped(pair):
    """Views of a map count, copies and maps whose changes would be lost do not."""
    rows, file = pair
    assert mapped.is_mapped(file) and mapped.is_mapped(file[100:]) and mapped.is_mapped(np.asarray(file))
    assert not mapped.is_mapped(rows) and not mapped.is_mapped(np.array(file)) and not mapped.is_mapped(file[:2])
    assert not mapped.is_mapped(np.load(file.filename, mmap_mode="c"))


def test_released_rows_can_be_read_again(pair):
    """Giving pages back should lose nothing, whatever the rows, and do nothing to arrays in memory."""
    rows, file = pair
    for start, stop in ((0, None), (13, 500), (899, 1000)):
        mapped.release(file, start, stop)
        mapped.release(rows, start, stop)
    assert np.array_equal(file, rows)


def test_scratch_keeps_what_was_given_back():
    """Rows written into a scratch file should survive being given back."""
    made = mapped.scratch((300, 70))
    made[:] = np.arange(300)[:, None]
    mapped.release(made)
    assert np.array_equal(made[:, 0], np.arange(300))


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
def test_search_is_that_of_memory(pair, precision):
    """Top-k, range search and pair scores should have the same bytes for a file, on either side or both."""
    rows, file = pair
    expected = search.top_k(rows[:50], rows, 9), search.range_search(rows[:50], rows, 20.0)
    options = {"precision": precision, "max_memory": 200_000}
    found = search.top_k(rows[:50], file, 9, **options), search.range_search(rows[:50], file, 20.0, **options)
    for one, other in zip(expected, found, strict=True):
        assert all(a.tobytes() == b.tobytes() for a, b in zip(one, other, strict=True))
    q, p = np.random.default_rng(1).integers(0, 900, (2, 3000))
    scores = search.pair_scores(rows, rows, q, p)
    for sides in ((file, rows), (rows, file), (file, file)):
        assert search.pair_scores(*sides, q, p).tobytes() == scores.tobytes()


def test_unit_rows_of_a_file_are_in_a_file(pair):
    """Rows of a file should be scaled into a file, with the bytes that memory gives."""
    rows, file = pair
    units = encoders.unit_rows(file, "rows")
    assert mapped.is_mapped(units)
    assert units.tobytes() == encoders.unit_rows(rows, "rows").tobytes()
