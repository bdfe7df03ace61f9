"""Parts side by side: everything is done once, failures stop the rest, and the caller's threads stay as they were."""

from __future__ import annotations

import threading

import pytest
import torch

from tamis.workers import side_by_side


@pytest.mark.parametrize(("size", "parts"), [(10, 1), (10, 3), (7, 7), (2, 5)])
def test_parts_cover_the_range_once(size, parts):
    """Every number of the range should be worked on exactly once, in as many parts as asked for."""
    seen: list[tuple[int, int]] = []
    side_by_side(lambda start, stop: [seen.append((start, stop))], size, parts)
    assert len(seen) == parts
    assert sorted(i for start, stop in seen for i in range(start, stop)) == list(range(size))


def test_threads_are_shared_out_and_given_back():
    """Each part should have its share of the threads; the caller and later threads should have all of them again."""
    before, inside, after = torch.get_num_threads(), [], []
    torch.set_num_threads(4)
    try:
        side_by_side(lambda *_: [inside.append(torch.get_num_threads())], 2, 2)
        later = threading.Thread(target=lambda: after.append(torch.get_num_threads()))
        later.start()
        later.join()
        assert inside == [2, 2]
        assert after == [4] and torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)


def test_a_failure_stops_the_other_parts():
    """The first error should come out, after the other part has stopped at its next step and not run to its end."""
    failed, steps = threading.Event(), []

    def work(start, stop):
        if start == 0:
            failed.set()
            raise RuntimeError("part one is out")
        failed.wait(5)
        for step in range(1_000_000):
            steps.append(step)
            yield

    with pytest.raises(RuntimeError, match="part one is out"):
        side_by_side(work, 2, 2)
    assert len(steps) < 1_000_000
