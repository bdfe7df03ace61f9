"""Samplers whose epochs are plans: sharding, length, resuming, also on another number of ranks."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.randomness import child_seed
from tamis.sampling import Batches, EpochSampler


class Shuffled(EpochSampler[list[int]]):
    """Rows in random order, in batches."""

    def __init__(self, n, batch_size, **place):
        super().__init__(**place)
        self.n, self.batch_size, self.drop_last = n, batch_size, False

    def plan(self, epoch):
        rng = np.random.default_rng(child_seed(self.seed, "shuffled", epoch))
        return Batches.of_size(rng.permutation(self.n), self.batch_size)


def ranks(world, n=23, batch_size=2, **kwargs):
    return [Shuffled(n, batch_size, rank=rank, num_replicas=world, **kwargs) for rank in range(world)]


def test_batches_are_a_sequence_of_lists():
    """Batches index, slice, count and iterate like a list of lists of ints."""
    batches = Batches(np.array([4, 0, 2, 7]), np.array([0, 2, 3, 4]))
    assert list(batches) == [[4, 0], [2], [7]]
    assert batches[-1] == [7] and batches[:2] == [[4, 0], [2]]
    assert batches.sizes.tolist() == [2, 1, 1]
    assert type(batches[0][0]) is int
    with pytest.raises(IndexError):
        batches[3]


@pytest.mark.parametrize(("n", "drop_last", "sizes"), [(5, False, [2, 2, 1]), (5, True, [2, 2]), (4, False, [2, 2])])
def test_batches_of_size(n, drop_last, sizes):
    """Slices are full but for the last, which can be dropped."""
    batches = Batches.of_size(np.arange(n), 2, drop_last=drop_last)
    assert batches.sizes.tolist() == sizes
    assert [i for batch in batches for i in batch] == list(range(sum(sizes)))


def test_an_epoch_is_the_same_however_often_it_is_read():
    """Iterating twice gives the same batches, also after a loop that broke off; another epoch or seed gives others."""
    sampler = Shuffled(23, 2)
    first = list(sampler)
    next(iter(sampler))
    assert list(sampler) == first
    sampler.set_epoch(1)
    other = list(sampler)
    assert other != first
    sampler.set_epoch(0)
    assert list(sampler) == first
    assert list(Shuffled(23, 2, seed=1)) != first


@given(
    n=st.integers(1, 60),
    world=st.integers(1, 5),
    uneven=st.sampled_from(["drop", "repeat"]),
)
@settings(max_examples=80, deadline=None)
def test_shards_are_equal_and_do_not_overlap(n, world, uneven):
    """All ranks have len(sampler) batches; without repeating, no row is on two ranks and fewer than a round is lost."""
    whole = list(Shuffled(n, 2))
    shards = ranks(world, n, uneven=uneven)
    if uneven == "drop" and len(whole) < world:
        with pytest.raises(ValueError, match="a batch for every rank"):
            len(shards[0])
        return
    got = [list(shard) for shard in shards]
    assert len({len(shard) for shard in shards}) == 1
    assert all(len(shard) == len(batches) for shard, batches in zip(shards, got, strict=True))
    dealt = [batch for round_ in zip(*got, strict=True) for batch in round_]
    if uneven == "drop":
        assert dealt == whole[: len(whole) // world * world]
    else:
        assert dealt[: len(whole)] == whole
        assert dealt[len(whole) :] == [whole[i % len(whole)] for i in range(len(dealt) - len(whole))]


@given(done=st.integers(0, 6), before=st.integers(1, 3), after=st.integers(1, 3), epoch=st.integers(0, 2))
@settings(max_examples=80, deadline=None)
def test_resume_on_any_number_of_ranks(done, before, after, epoch):
    """What is left of the epoch after ``done`` steps comes out, on as many ranks as there are now; then the next."""
    n = 48  # 24 batches: whole rounds for 1, 2 and 3 ranks
    whole = Shuffled(n, 2)
    whole.set_epoch(epoch)
    plan = list(whole)
    states = []
    for sampler in ranks(before, n):
        sampler.set_epoch(epoch)
        batches = iter(sampler)
        for _ in range(done):
            next(batches)
        states.append(sampler.state_dict())
    assert all(state == states[0] for state in states)
    resumed = ranks(after, n, seed=9)
    for sampler in resumed:
        sampler.load_state_dict(states[0])
        sampler.set_epoch(epoch)  # a trainer says it again, and the place must survive
    left = plan[done * before :]
    rounds = len(left) // after
    assert all(len(sampler) == rounds for sampler in resumed)
    got = [list(sampler) for sampler in resumed]
    assert [batch for round_ in zip(*got, strict=True) for batch in round_] == left[: rounds * after]
    for sampler in (*resumed, whole):
        sampler.set_epoch(epoch + 1)
    assert list(whole)[: 24 // after * after] == [
        batch for round_ in zip(*[list(s) for s in resumed], strict=True) for batch in round_
    ]


def test_a_resumed_epoch_that_is_read_again():
    """A loop that breaks off after a resume starts there again; once it is finished, epochs are whole again."""
    sampler = Shuffled(10, 2)
    plan = list(sampler)
    state = {**sampler.state_dict(), "position": 2}
    sampler.load_state_dict(state)
    next(iter(sampler))
    assert list(sampler) == plan[2:]
    assert list(sampler) == plan


def test_the_end_of_an_epoch_resumes_to_nothing():
    """A state saved with the last batch leaves nothing of that epoch, also where the last round was dropped."""
    sampler = Shuffled(10, 2, num_replicas=2)
    batches = list(sampler)
    assert len(batches) == 2
    state = sampler.state_dict()
    fresh = Shuffled(10, 2, num_replicas=2)
    fresh.load_state_dict(state)
    assert len(fresh) == 0 and list(fresh) == []
    fresh.set_epoch(1)
    assert len(list(fresh)) == 2


def test_used_counts_from_the_last_start():
    """With workers that fetch ahead, ``used`` says how far training really came, also after a resume."""
    sampler = Shuffled(40, 2)
    plan = list(sampler)
    sampler.load_state_dict(sampler.state_dict(used=5))
    assert list(sampler) == plan[5:]
    assert sampler.state_dict(used=3)["position"] == 8
    with pytest.raises(ValueError, match="used must be at least 0"):
        sampler.state_dict(used=-1)


def test_state_survives_torch_save(tmp_path):
    """The state is plain numbers: it loads with weights_only."""
    sampler = Shuffled(10, 2)
    next(iter(sampler))
    torch.save(sampler.state_dict(), tmp_path / "state.pt")
    assert torch.load(tmp_path / "state.pt", weights_only=True) == sampler.state_dict()


def test_data_loader_takes_it():
    """A DataLoader uses it as a batch sampler and knows its length."""
    data = torch.arange(23)
    loader = torch.utils.data.DataLoader(data, batch_sampler=Shuffled(23, 4))
    assert len(loader) == 6
    assert sorted(torch.cat(list(loader)).tolist()) == list(range(23))


def test_refuses_bad_input():
    """Messages name the argument, the requirement and what came."""
    with pytest.raises(ValueError, match="rank must lie between 0 and 1: got 2"):
        Shuffled(4, 2, rank=2, num_replicas=2)
    with pytest.raises(ValueError, match="num_replicas must be at least 1"):
        Shuffled(4, 2, num_replicas=0)
    with pytest.raises(ValueError, match="seed must be a non-negative integer: got -1"):
        Shuffled(4, 2, seed=-1)
    with pytest.raises(ValueError, match="uneven must be one of"):
        Shuffled(4, 2, uneven="pad")
    with pytest.raises(ValueError, match="epoch must be at least 0"):
        Shuffled(4, 2).set_epoch(-1)
    with pytest.raises(NotImplementedError, match="EpochSampler must define plan"):
        len(EpochSampler())


def test_a_state_of_other_data_is_refused_and_changes_nothing():
    """Loading a state that was saved for another number of batches fails and leaves the sampler as it was."""
    sampler = Shuffled(10, 2)
    plan = list(sampler)
    with pytest.raises(ValueError, match="saved for 10 batches an epoch, there are 5"):
        sampler.load_state_dict({**Shuffled(20, 2, seed=3).state_dict(), "position": 4})
    assert list(sampler) == plan
