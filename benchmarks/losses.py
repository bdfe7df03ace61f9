"""Every loss beside a plain InfoNCE over as many scores: time and memory of forward and backward, and the neighbours'.

    python benchmarks/losses.py [--batch 1024] [--columns 384] [--only mochi meow]

The yardstick of a loss is ``tamis.contrastive.info_nce`` with the same blocks: a loss with a bank of 8,192 is held
against InfoNCE with that bank as one more block, a loss over lists against the softmax over these lists. Each runs in a
process of its own with one thread. The target is three times its yardstick at the most, in time and in memory.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import measure
import torch
from torch import Tensor

BANK, LIST, DRAWN = 8192, 64, 256
Run = Callable[[], Tensor]


def rows(count: int, columns: int, seed: int, *, learns: bool = True) -> Tensor:
    found = torch.randn(count, columns, generator=torch.Generator().manual_seed(seed))
    return found.requires_grad_() if learns else found


def yardsticks(b: int, d: int) -> dict[str, Run]:
    """InfoNCE over the blocks that the losses use."""
    from tamis.contrastive import contrastive_loss, info_nce, similarity

    q, p = rows(b, d, 0), rows(b, d, 1)
    bank, scores = rows(BANK, d, 2, learns=False), rows(b, 1 + LIST, 3)
    weights = torch.zeros(b, b)
    return {
        "batch": lambda: info_nce(q, p),
        "batch, weights": lambda: info_nce(q, p, log_weights=weights),
        "batch twice": lambda: info_nce(q, p) + info_nce(p, q),
        "batch, 3 blocks": lambda: info_nce(q, p, blocks=[(similarity(q, q), weights), (similarity(p, p), weights)]),
        "batch and bank": lambda: info_nce(q, p, blocks=[(similarity(q, bank), None)]),
        "lists": lambda: contrastive_loss(scores[:, 0], [(scores[:, 1:], None)]),
    }


def ours(b: int, d: int) -> dict[str, tuple[str, Run]]:
    """Each loss with the name of its yardstick."""
    from tamis import batches, losses, negatives
    from tamis.extra_negatives import DynamicIndex, StaticBank

    q, p = rows(b, d, 0), rows(b, d, 1)
    bank = rows(BANK, d, 2, learns=False)
    scores, others = rows(b, 1 + LIST, 3), rows(b, 1 + LIST, 4)
    own, guides = torch.arange(b), [rows(b, d, s, learns=False) for s in (5, 6)]
    labels = own // 2
    gist = losses.GISTEmbedLoss(temperature=0.05, warn_above=1.0)
    noise = negatives.NoiseHead(d, d)
    augmented = losses.MultiGrainedUncertaintyLoss(10)
    static, index = StaticBank(bank), DynamicIndex(bank)
    clusters = [own // 4, own // 16, own // 64]
    amounts, pairs = torch.tensor([[3, 0]]).expand(b, 2), torch.stack([q.detach(), p.detach()], 1).requires_grad_()
    eye = torch.eye(b, dtype=torch.bool)

    def nbpo() -> Tensor:
        found, g = q @ p.T / 20, noise(q, p)
        return negatives.nbpo_loss(found.diagonal(), found, g.diagonal(), g)

    def lol() -> Tensor:
        return losses.LoLLoss()(losses.reformulation_loss(pairs, p, eye), amounts)

    def meow() -> Tensor:
        unit = torch.nn.functional.normalize
        return negatives.weighted_info_nce(unit(q, dim=1), unit(p, dim=1), negatives.cluster_negative_weights(clusters))

    def dual() -> Tensor:
        positive, negative = q @ p.T, q @ bank[:b].T
        teacher = guides[0] @ guides[1].T
        return batches.DualSupervisionLoss()(positive, negative, teacher.diagonal(), teacher, teacher)

    tracked = losses.CompositionalNLLLoss(0.9, b)

    def meco() -> Tensor:
        found = q @ p.T / 20
        return tracked(found.diagonal(), found, torch.zeros_like(found), own)

    soft = losses.GISTEmbedLoss(temperature=0.05, margin=0.1, softness=0.1, warn_above=1.0)
    return {
        "gistembed, soft": ("batch, 3 blocks", lambda: soft(q, p, guide_anchors=guides[0], guide_positives=guides[1])),
        "compositional_nce": ("batch, weights", meco),
        "idf_flops, FLOPS and KL": (
            "batch",
            lambda: losses.FlopsLoss()(q) + losses.KLDistillLoss()(q @ p.T / 20, guides[0] @ guides[1].T),
        ),
        "gistembed": ("batch, 3 blocks", lambda: gist(q, p, guide_anchors=guides[0], guide_positives=guides[1])),
        "cet": ("lists", lambda: negatives.CoupledEstimationLoss()(scores, others)[0]),
        "ar2": ("lists", lambda: negatives.AdversarialRetrieverLoss()(scores, others.detach())),
        "nbpo": ("batch, weights", nbpo),
        "meow": ("batch, weights", meow),
        "mochi, 1,024 + 128 mixtures": (
            "batch and bank",
            lambda: negatives.MoCHiLoss()(q, p, bank, log_weights=torch.zeros(b, BANK)),
        ),
        "mochi, 64 mixtures of 256": (
            "batch and bank",
            lambda: negatives.MoCHiLoss(num_hard=256, num_pairs=48, num_query_mix=16)(
                q, p, bank, log_weights=torch.zeros(b, BANK)
            ),
        ),
        "spn4cir": ("batch and bank", lambda: negatives.BankInfoNCE(static)(q, own)),
        "spn4cir, chunks of 1,024": ("batch and bank", lambda: negatives.BankInfoNCE(static, chunk_size=1024)(q, own)),
        "star": ("batch and bank", lambda: negatives.STARLoss()(q, p, bank)),
        "adore, top 200": ("batch and bank", lambda: negatives.adore_step(q, index, own)[0]),
        "rtd": ("batch, 3 blocks", lambda: batches.TargetAnchoredContrastive()(q, p.detach())),
        "tas_balanced": ("batch and bank", dual),
        "ngame": ("batch", lambda: batches.TripletOHNM()(q, p)),
        "cir_uncertainty": ("batch twice", lambda: augmented(q, p, progress=0.5)),
        "stationary": ("batch", lambda: losses.hoc_loss(q, guides[0], labels)),
        "lol, 2 revisions": ("batch twice", lol),
        "asl": ("batch", lambda: losses.norm_ratio_loss(q, guides[0].mean(1).sigmoid(), labels)),
    }


def peers(b: int, d: int) -> dict[str, tuple[str, Run]]:
    """What the neighbours have, with the name of the loss of ours that it is held against."""
    from pytorch_metric_learning.losses import CrossBatchMemory, NTXentLoss

    q, p = rows(b, d, 0), rows(b, d, 1)
    labels = torch.arange(b)
    memory = CrossBatchMemory(NTXentLoss(0.05), d, memory_size=BANK)
    memory.embedding_memory, memory.label_memory = rows(BANK, d, 2, learns=False), torch.arange(BANK) + 10 * b
    memory.has_been_filled = True
    both = torch.cat([labels, labels])
    return {
        "pytorch-metric-learning NTXentLoss": ("rtd", lambda: NTXentLoss(0.07)(torch.cat([q, p]), both)),
        "pytorch-metric-learning CrossBatchMemory": ("spn4cir", lambda: memory(torch.cat([q, p]), both)),
    }


def cell(*, kind: str, name: str, batch: int, columns: int, repeats: int, threads: int) -> dict[str, Any]:
    """Least CPU seconds of forward and backward, and the highest memory above what was there before."""
    measure.set_threads(threads)
    table = {"yardstick": yardsticks, "ours": ours, "peer": peers}[kind]

    def of(size: int) -> Run:
        found = table(size, columns)[name]
        return found if callable(found) else found[1]

    of(16 if kind == "peer" else DRAWN)().backward()  # first-call costs are not the loss
    run, times = of(batch), []
    with measure.PeakMemory() as memory:
        for _ in range(repeats):
            with measure.Timer() as timer:
                run().backward()
            times.append(timer.cpu)
    return {"cpu": min(times), "mb": memory.above}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--columns", type=int, default=384)
    parser.add_argument("--only", nargs="+", default=[])
    chosen = parser.parse_args()
    size = {"batch": chosen.batch, "columns": chosen.columns, "repeats": 3, "threads": 1}
    print(measure.machine())
    print("| loss | yardstick | CPU s | times | MB | times |\n|---|---|---|---|---|---|")
    base = {name: measure.run_cell(__file__, kind="yardstick", name=name, **size) for name in yardsticks(16, 8)}
    found: dict[str, dict[str, Any]] = {}

    def line(name: str, against: str, got: dict[str, Any], yardstick: dict[str, Any]) -> None:
        if "error" in got:
            print(f"| {name} | {against} | {got['error']} |", flush=True)
            return
        time, memory = got["cpu"] / yardstick["cpu"], got["mb"] / max(1.0, yardstick["mb"])
        print(
            f"| {name} | {against} | {got['cpu']:.3f} | **{time:.2f}** | {got['mb']:.0f} | **{memory:.2f}** |",
            flush=True,
        )

    for name, (against, _) in ours(DRAWN, 8).items():
        if not chosen.only or any(word in name for word in chosen.only):
            found[name] = measure.run_cell(__file__, kind="ours", name=name, **size)
            line(name, against, found[name], base[against])
    for name, against in (
        ("pytorch-metric-learning NTXentLoss", "rtd"),
        ("pytorch-metric-learning CrossBatchMemory", "spn4cir"),
    ):
        for batch in (chosen.batch, chosen.batch // 4) if against in found else ():
            small = size | {"batch": batch}
            mine = (
                found[against]
                if batch == chosen.batch
                else measure.run_cell(__file__, kind="ours", name=against, **small)
            )
            line(
                f"{name}, batch {batch:,}",
                f"ours: {against}",
                measure.run_cell(__file__, kind="peer", name=name, **small),
                mine,
            )


if __name__ == "__main__":
    if measure.is_cell():
        measure.report(cell(**measure.cell_arguments()))
    else:
        main()
