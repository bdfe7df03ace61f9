"""Losses, masks and samplers on 2 and 4 processes (gloo): the values, gradients and batches of one process."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from tamis.batches import ClusterBatchSampler, NoDuplicatesBatchSampler, TripletOHNM, multilabel_targets
from tamis.contrastive import info_nce
from tamis.distributed import gather, mean_over_ranks, place, sum_over_ranks
from tamis.extra_negatives import FeatureQueue, extra_block, known_positive_log_weights
from tamis.losses import GISTEmbedLoss
from tamis.losses.stationary import hoc_loss
from tamis.negatives import weighted_softmax_ce
from tamis.recompute import cached_loss

pytestmark = pytest.mark.slow
B, D = 14, 6
SIZES = {1: [B], 2: [9, 5], 4: [5, 1, 4, 4]}
"""Rows of the batch per rank: uneven on purpose."""
EPOCHS, STEPS = 3, 2


class Model(nn.Module):
    """Embeds, and holds a temperature that learns."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(D, 5, dtype=torch.float64)
        self.log_temperature = nn.Parameter(torch.tensor(-1.0, dtype=torch.float64))
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for parameter in self.layer.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))

    def forward(self, *texts):
        """Embeddings of each tensor, and the temperature."""
        return *(self.layer(t) for t in texts), self.log_temperature.exp()


def batch(rank: int, world: int) -> dict[str, torch.Tensor]:
    """This rank's part of one batch; some passages answer several queries."""
    generator = torch.Generator().manual_seed(7)

    def randn(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    whole = {
        "queries": randn(B, D), "positives": randn(B, D), "negatives": randn(B, D),
        "guide_queries": randn(B, 4), "guide_positives": randn(B, 4), "guide_negatives": randn(B, 4),
        "ids": torch.tensor([0, 1, 2, 0, 3, 4, 1, 5, 6, 7, 2, 8, 9, 1]),
        "also": torch.tensor([5, -1, 3, -1, 0, -1, -1, 9, -1, 2, -1, -1, 1, -1]),
        "scores": randn(B, 8), "weights": randn(B, 8),
    }  # fmt: skip
    start = sum(SIZES[world][:rank])
    return {name: value[start : start + SIZES[world][rank]] for name, value in whole.items()}


def of_known(part, ids):
    """Log-weights that leave out what is known to answer a query, by ids of the whole batch."""
    known = torch.stack([part["ids"], part["also"]], 1)
    return known_positive_log_weights(known, ids, dtype=torch.float64)


def by_info_nce(embed, part, chunk_rows=None):
    """Own rows against all columns, known answers of any rank masked, hard negatives of all ranks beside them."""
    queries, positives, negatives, temperature = embed(part["queries"], part["positives"], part["negatives"])
    everyone, others = gather(positives), gather(negatives)
    losses = info_nce(
        queries,
        torch.cat([everyone.rows, others.rows]),
        rank_offset=everyone.offset,
        temperature=temperature,
        log_weights=torch.cat([of_known(part, gather(part["ids"]).rows), torch.zeros(len(queries), B)], 1),
        reduction="none",
        chunk_rows=chunk_rows,
    )
    return mean_over_ranks(losses)


def by_chunks(embed, part):
    """The same, computed again in the backward pass, three rows at a time."""
    return by_info_nce(embed, part, chunk_rows=3)


def by_gistembed(embed, part):
    """All four blocks of GISTEmbed against what all ranks hold, with the ids of all ranks in the mask."""
    queries, positives, negatives, _ = embed(part["queries"], part["positives"], part["negatives"])
    everyone = gather(positives)
    loss = GISTEmbedLoss(temperature=0.3, margin=0.1, warn_above=1.0)(
        queries,
        everyone.rows,
        gather(negatives).rows,
        guide_anchors=part["guide_queries"],
        guide_positives=gather(part["guide_positives"]).rows,
        guide_negatives=gather(part["guide_negatives"]).rows,
        all_anchors=gather(queries).rows,
        guide_all_anchors=gather(part["guide_queries"]).rows,
        positive_log_weights=of_known(part, gather(part["ids"]).rows),
        rank_offset=everyone.offset,
    )
    return mean_over_ranks(loss, rows=len(queries))


def by_gistembed_everywhere(embed, part):
    """The whole batch on every rank: no offset, no mean over ranks, the same loss."""
    queries, positives, negatives, _ = embed(part["queries"], part["positives"], part["negatives"])
    everything = {name: gather(value).rows for name, value in part.items()}
    return GISTEmbedLoss(temperature=0.3, margin=0.1, warn_above=1.0)(
        gather(queries).rows,
        gather(positives).rows,
        gather(negatives).rows,
        guide_anchors=everything["guide_queries"],
        guide_positives=everything["guide_positives"],
        guide_negatives=everything["guide_negatives"],
        positive_log_weights=of_known(everything, everything["ids"]),
    )


def by_hoc(embed, part):
    """A loss that knows nothing of ranks, on every rank: labels of all ranks say who is of one class."""
    queries, positives, _ = embed(part["queries"], part["positives"])
    return hoc_loss(gather(positives).rows, gather(queries).rows.detach(), gather(part["ids"] % 3).rows)


def by_triplets(embed, part):
    """Online hard negatives over the whole batch, multi-label targets from the ids of all ranks."""
    queries, positives, _ = embed(part["queries"], part["positives"])
    ids, also = gather(part["ids"]).rows, gather(part["also"]).rows
    targets = multilabel_targets(ids, [sorted({int(i), int(a)} - {-1}) for i, a in zip(ids, also, strict=True)])
    return TripletOHNM(num_negatives=3)(gather(queries).rows, gather(positives).rows, targets)


def by_lists(embed, part):
    """A loss of one query at a time needs the mean over ranks and nothing else."""
    (scores, temperature) = embed(part["scores"][:, :D])
    losses = weighted_softmax_ce(scores / temperature, part["weights"][:, :5].exp(), reduction="none")
    return mean_over_ranks(losses)


def by_queue(embed, part):
    """A queue that every rank fills with the rows of all ranks, in the order of ranks, and masks by their ids."""
    queries, positives, temperature = embed(part["queries"], part["positives"])
    queue = FeatureQueue(20, 5).double()
    for shift in (1.0, -0.5):
        queue.push(gather(positives.detach() + shift).rows, gather(part["ids"]).rows)
    everyone = gather(positives)
    losses = info_nce(
        queries,
        everyone.rows,
        rank_offset=everyone.offset,
        temperature=temperature,
        log_weights=of_known(part, gather(part["ids"]).rows),
        blocks=[extra_block(queries, queue.vectors, queue.ids, torch.stack([part["ids"], part["also"]], 1))],
        reduction="none",
    )
    return mean_over_ranks(losses)


def by_cache(embed, part):
    """GradCache: the encoder runs twice on mini-batches, the gathering once."""

    def loss(queries, positives):
        everyone = gather(positives)
        return mean_over_ranks(info_nce(queries, everyone.rows, rank_offset=everyone.offset, reduction="none"))

    pairs = list(zip(part["queries"].split(2), part["positives"].split(2), strict=True))
    return cached_loss(lambda pair: embed(*pair)[:2], pairs, loss)


CASES = (
    by_info_nce, by_chunks, by_gistembed, by_gistembed_everywhere, by_hoc, by_triplets, by_lists, by_queue, by_cache,
)  # fmt: skip


def outcome(case, rank: int, world: int) -> dict[str, torch.Tensor]:
    """Value, and gradients as a trainer makes them: summed over own rows, averaged over ranks."""
    model = Model()
    # The trainer's own wrapper for all but GradCache, whose second forward pass it cannot see.
    averaged = world > 1 and case is not by_cache
    wrapped = DistributedDataParallel(model, find_unused_parameters=True) if averaged else model
    value = case(wrapped, batch(rank, world))
    value.backward()
    gradients = {}
    for name, parameter in model.named_parameters():
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
        if wrapped is model and world > 1:
            dist.all_reduce(gradient)
            gradient /= world
        gradients[name] = gradient
    return {"value": value.detach(), **gradients}


def samplers(rank: int, world: int):
    """Samplers of both kinds, each with its part of the plan."""
    rng = np.random.default_rng(5)
    keys = rng.integers(0, 40, (60, 1))
    alike = ClusterBatchSampler(60, 4, cluster_size=6, schedule={}, seed=2, rank=rank, num_replicas=world)
    alike.update(rng.standard_normal((60, 3)), 0)
    return {
        "no_duplicates": NoDuplicatesBatchSampler(keys, 4, seed=2, rank=rank, num_replicas=world),
        "ngame": alike,
    }


def dealt(rank: int, world: int, states=None) -> dict[str, object]:
    """What one rank is dealt: whole epochs, a broken one with its state, and what is left of one broken elsewhere."""
    found: dict[str, object] = {}
    for name, sampler in samplers(rank, world).items():
        epochs, lengths = [], []
        for epoch in range(EPOCHS):
            sampler.set_epoch(epoch)
            lengths.append(len(sampler))
            epochs.append(list(sampler))
        sampler.set_epoch(1)
        steps = iter(sampler)
        broken = [next(steps) for _ in range(STEPS)]
        found[name] = {"epochs": epochs, "lengths": lengths, "broken": broken, "state": sampler.state_dict()}
        if states is not None:
            sampler.load_state_dict(states[name]["state"])
            sampler.set_epoch(1)
            found[name]["rest"] = list(sampler)
    return found


def work(rank: int, world: int, folder: str) -> None:
    """What one process of a world does."""
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"file://{folder}/store{world}", rank=rank, world_size=world)
    other = Path(folder) / "2-0.pt"
    states = torch.load(other, weights_only=False)["dealt"] if world == 4 else None
    found = {case.__name__: outcome(case, rank, world) for case in CASES}
    found["dealt"] = dealt(*place(), states)
    found["sum"] = sum_over_ranks(torch.tensor([rank, 1])).tolist()
    found["refused"] = refusals(rank)
    torch.save(found, f"{folder}/{world}-{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def refusals(rank: int) -> list[str]:
    """What is said to ranks whose rows do not fit."""
    said = []
    for rows in (torch.zeros(2, 3 + rank % 2), torch.zeros(2, dtype=torch.float32 if rank else torch.float64)):
        try:
            gather(rows)
        except ValueError as error:
            said.append(str(error))
    # After a refusal the group goes on, and a rank without rows takes part.
    total = gather(torch.arange(rank)).rows
    return [*said, str(total.tolist())]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Per number of processes what each rank found; the four go on where the two broke off."""
    folder = tmp_path_factory.mktemp("ranks")
    # A server that has everything imported forks each process: to import torch takes longer than all tests.
    mp.get_context("forkserver").set_forkserver_preload(["torch._dynamo", "tamis.losses.gistembed", "tamis.negatives"])
    for world in (2, 4):
        mp.start_processes(work, (world, str(folder)), nprocs=world, start_method="forkserver")
    return {w: [torch.load(folder / f"{w}-{r}.pt", weights_only=False) for r in range(w)] for w in (2, 4)}


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_values_and_gradients_are_those_of_the_whole_batch(found, case, world):
    """Under DistributedDataParallel, with unequal parts: value and all gradients of one process, on every rank."""
    whole = outcome(case, 0, 1)
    assert float(whole["layer.weight"].abs().max()) > 1e-3
    for rank in found[world]:
        for name, value in whole.items():
            torch.testing.assert_close(rank[case.__name__][name], value, rtol=1e-10, atol=1e-12, msg=f"{name} differs")


def test_a_gather_without_gradients_would_be_found_out():
    """The check above can fail: with the others' columns detached the gradients are not those of the whole batch."""
    whole = outcome(by_info_nce, 0, 1)
    model = Model()
    parts = [batch(rank, 2) for rank in range(2)]
    losses = []
    for rank, part in enumerate(parts):
        queries, *_, temperature = model(part["queries"])
        columns = [model(p["positives"])[0] for p in parts] + [model(p["negatives"])[0] for p in parts]
        columns = [c if i % 2 == rank else c.detach() for i, c in enumerate(columns)]
        losses.append(
            info_nce(
                queries, torch.cat(columns), rank_offset=sum(SIZES[2][:rank]), temperature=temperature,
                log_weights=torch.cat([of_known(part, batch(0, 1)["ids"]), torch.zeros(len(queries), B)], 1),
                reduction="none",
            )
        )  # fmt: skip
    value = torch.cat(losses).mean()
    value.backward()
    torch.testing.assert_close(value.detach(), whole["value"])
    assert not torch.allclose(model.layer.weight.grad, whole["layer.weight"], rtol=1e-2)


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("name", ["no_duplicates", "ngame"])
def test_samplers_share_every_epoch_out(found, name, world):
    """Epoch after epoch: equal lengths, no row on two ranks, and dealt in turns the batches of one process."""
    alone = samplers(0, 1)[name]
    ranks = [rank["dealt"][name] for rank in found[world]]
    for epoch in range(EPOCHS):
        alone.set_epoch(epoch)
        whole = list(alone)
        got = [rank["epochs"][epoch] for rank in ranks]
        assert {len(batches) for batches in got} == {rank["lengths"][epoch] for rank in ranks} == {len(whole) // world}
        assert [b for turn in zip(*got, strict=True) for b in turn] == whole[: len(whole) // world * world]
        rows = [row for batches in got for b in batches for row in b]
        assert len(rows) == len(set(rows))
    assert ranks[0]["epochs"][0] != ranks[0]["epochs"][1]


@pytest.mark.parametrize("name", ["no_duplicates", "ngame"])
def test_an_epoch_broken_off_by_two_is_finished_by_four(found, name):
    """Mid-epoch state of two processes, loaded by four: together exactly the epoch, no batch twice, none lost but the
    last incomplete turn; and the other way round."""
    alone = samplers(0, 1)[name]
    alone.set_epoch(1)
    whole = list(alone)
    two, four = ([rank["dealt"][name] for rank in found[world]] for world in (2, 4))
    assert all(rank["state"]["position"] == 2 * STEPS for rank in two)
    before = [b for turn in zip(*[rank["broken"] for rank in two], strict=True) for b in turn]
    after = [b for turn in zip(*[rank["rest"] for rank in four], strict=True) for b in turn]
    assert before == whole[: 2 * STEPS]
    assert after == whole[2 * STEPS :][: (len(whole) - 2 * STEPS) // 4 * 4] and len(after) >= 4
    resumed = [samplers(rank, 2)[name] for rank in range(2)]
    for sampler in resumed:
        sampler.load_state_dict(four[3]["state"])
        sampler.set_epoch(1)
    rest = [b for turn in zip(*[list(sampler) for sampler in resumed], strict=True) for b in turn]
    left = whole[4 * STEPS :]
    assert rest == left[: len(left) // 2 * 2] and len(rest) >= 2


def test_ranks_that_do_not_fit_are_refused(found):
    """Other shapes or types on another rank give one line on every rank, and no rank waits for ever."""
    shape, kind, rows = found[2][0]["refused"]
    assert shape == (
        "rows must differ between ranks only in their number: rank 0 has (2, 3) torch.float32, "
        "rank 1 has (2, 4) torch.float32."
    )
    assert "rank 0 has (2,) torch.float64, rank 1 has (2,) torch.float32" in kind and rows == "[0]"
    assert "rank 1 has (2, 4) torch.float32, rank 0 has (2, 3)" in found[2][1]["refused"][0]
    assert found[4][2]["refused"][-1] == "[0, 0, 1, 0, 1, 2]"


@pytest.mark.parametrize("world", [2, 4])
def test_counts_of_all_ranks_are_added_up(found, world):
    """Every rank should know the sum over all."""
    assert [rank["sum"] for rank in found[world]] == [[world * (world - 1) // 2, world]] * world


def test_one_process_needs_no_group():
    """Without torch.distributed rows come back as they are, and means are plain means."""
    rows = torch.ones(3, 2, requires_grad=True)
    assert gather(rows).rows is rows and gather(rows).offset == 0 and place() == (0, 1)
    losses = torch.tensor([1.0, 2.0, 6.0], requires_grad=True)
    mean_over_ranks(losses).backward()
    assert losses.grad.tolist() == pytest.approx([1 / 3] * 3)
    assert mean_over_ranks(losses.mean(), rows=3).item() == 3.0


def test_refuses_bad_input():
    """Messages name the argument, the requirement and what came."""
    with pytest.raises(ValueError, match="rows must have a first dimension: got a scalar"):
        gather(torch.tensor(1.0))
    with pytest.raises(ValueError, match=r"losses must be \(b,\) or a scalar: got shape \(2, 2\)"):
        mean_over_ranks(torch.zeros(2, 2))
    with pytest.raises(ValueError, match="rows must be given with a scalar"):
        mean_over_ranks(torch.tensor(1.0))
    with pytest.raises(ValueError, match="losses must have at least one row on some rank"):
        mean_over_ranks(torch.zeros(0))
