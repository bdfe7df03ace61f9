"""Detached weights are detached: what only decides how much something counts takes no gradient from the loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from tamis import batches, losses, negatives
from tamis.contrastive import info_nce
from tamis.extra_negatives import DynamicIndex, FeatureQueue, StaticBank, extra_block

B, D = 8, 6


@dataclass(frozen=True)
class Case:
    """A loss of named leaves: those that learn, and those that only decide.

    Args:
        name: of the method.
        loss: the leaves -> a scalar.
        learns: shapes of the leaves that must get a gradient.
        decides: shapes of the leaves that must get none.
    """

    name: str
    loss: Callable[..., Tensor]
    learns: dict[str, tuple[int, ...]]
    decides: dict[str, tuple[int, ...]]


ROWS, PAIRS = (B, D), (B, B)


def gistembed(a: Tensor, p: Tensor, ga: Tensor, gp: Tensor) -> Tensor:
    loss = losses.GISTEmbedLoss(warn_above=1.0)
    return loss(a, p, guide_anchors=ga, guide_positives=gp)


def soft(a: Tensor, p: Tensor, ga: Tensor, gp: Tensor) -> Tensor:
    loss = losses.GISTEmbedLoss(softness=0.1, margin=0.5, warn_above=1.0)
    return loss(a, p, guide_anchors=ga, guide_positives=gp)


def tracked(q: Tensor, p: Tensor, log_q: Tensor) -> Tensor:
    """MECO with a partition function per row."""
    scores = q @ p.T
    return losses.CompositionalNLLLoss(0.5, B)(scores.diagonal(), scores, log_q, torch.arange(B))


def distilled(student: Tensor, teacher: Tensor) -> Tensor:
    return losses.KLDistillLoss()(student, teacher)


def restored(sr: Tensor, pos: Tensor, neg: Tensor) -> Tensor:
    return losses.restoration_info_nce([sr], [pos], [neg])


def coupled(q: Tensor, p: Tensor, selection: Tensor) -> Tensor:
    """CET's weights of the relevance model alone."""
    scores = q @ p.T
    weights, _ = negatives.coupled_log_weights(scores, selection, target=torch.arange(B))
    return info_nce(q, p, temperature=1.0, metric="dot", log_weights=weights)


def posterior(q: Tensor, p: Tensor, noise: Tensor) -> Tensor:
    """NBPO's posterior as a log-weight."""
    weights = negatives.false_negative_log_weights((q @ p.T).detach(), noise)
    return info_nce(q, p, log_weights=weights)


def clustered(q: Tensor, p: Tensor) -> Tensor:
    """MEOW's cluster weights."""
    weights = negatives.cluster_negative_weights([torch.arange(B) // 2, torch.arange(B) // 4])
    return negatives.weighted_info_nce(q, p, weights)


def queued(q: Tensor, p: Tensor, stored: Tensor) -> Tensor:
    queue = FeatureQueue(B, D)
    queue.push(stored, torch.arange(B))
    return info_nce(q, p, blocks=[extra_block(q, queue.vectors, queue.ids, torch.arange(B))])


def mixed(q: Tensor, p: Tensor, n: Tensor, w: Tensor) -> Tensor:
    loss = negatives.MoCHiLoss(num_hard=4, num_pairs=3, num_query_mix=2)
    return loss(q, p, n, partner_log_weights=w)


def banked(q: Tensor, bank: Tensor) -> Tensor:
    return negatives.BankInfoNCE(StaticBank(bank))(q, torch.arange(B))


def searched(q: Tensor, index: Tensor) -> Tensor:
    return negatives.adore_step(q, DynamicIndex(index), torch.arange(B), top_k=4)[0]


def tripled(q: Tensor, p: Tensor, weights: Tensor) -> Tensor:
    return negatives.STARLoss()(q, p[: B // 2].repeat(2, 1), p[B // 2 :], log_weights=weights)


def dual(positives: Tensor, others: Tensor, margins: Tensor, t_pos: Tensor, t_neg: Tensor) -> Tensor:
    return batches.DualSupervisionLoss()(positives, others, margins, t_pos, t_neg)


def guarded(q: Tensor, p: Tensor, gq: Tensor, gp: Tensor) -> Tensor:
    weights = batches.guarded_log_weights(batches.guide_judge(gq, gp), list(range(B)))
    return info_nce(q, p, log_weights=weights)


CASES = [
    Case("gistembed", gistembed, {"a": ROWS, "p": ROWS}, {"ga": ROWS, "gp": ROWS}),
    Case("gistembed, soft", soft, {"a": ROWS, "p": ROWS}, {"ga": ROWS, "gp": ROWS}),
    Case("compositional_nce", tracked, {"q": ROWS, "p": ROWS}, {"log_q": PAIRS}),
    Case("idf_flops", distilled, {"student": PAIRS}, {"teacher": PAIRS}),
    Case("pcl_sr", restored, {"sr": (2, 3, 4, 4)}, {"pos": (2, 2, 3, 4, 4), "neg": (3, 2, 3, 4, 4)}),
    Case("cet", coupled, {"q": ROWS, "p": ROWS}, {"selection": PAIRS}),
    Case("nbpo", posterior, {"q": ROWS, "p": ROWS}, {"noise": PAIRS}),
    Case(
        "nbpo: further decisions",
        lambda s, g, w: negatives.nbpo_loss(s[:, 0], s, g[:, 0], g, log_weights=w),
        {"s": PAIRS, "g": PAIRS},
        {"w": PAIRS},
    ),
    Case("meow", clustered, {"q": ROWS, "p": ROWS}, {}),
    Case("queue", queued, {"q": ROWS, "p": ROWS}, {"stored": ROWS}),
    Case("mochi", mixed, {"q": ROWS, "p": ROWS, "n": (12, D)}, {"w": (B, 12)}),
    Case("spn4cir", banked, {"q": ROWS}, {"bank": (12, D)}),
    Case("star_adore: index", searched, {"q": ROWS}, {"index": (12, D)}),
    Case("star_adore: pairs", tripled, {"q": ROWS, "p": ROWS}, {"weights": PAIRS}),
    Case("ar2", lambda s, r: negatives.AdversarialRetrieverLoss()(s, r), {"s": PAIRS}, {"r": PAIRS}),
    Case("tas_balanced", dual, {"positives": PAIRS, "others": PAIRS},
         {"margins": (B,), "t_pos": PAIRS, "t_neg": PAIRS}),
    Case("guarded_clusters", guarded, {"q": ROWS, "p": ROWS}, {"gq": ROWS, "gp": ROWS}),
    Case("ngame", lambda q, p, w: batches.TripletOHNM(num_negatives=3)(q, p, log_weights=w), {"q": ROWS, "p": ROWS},
         {"w": PAIRS}),
    Case("stationary", lambda n, o: losses.hoc_loss(n, o, torch.arange(B)), {"n": ROWS}, {"o": ROWS}),
    Case("asl", lambda e, c: losses.norm_ratio_loss(e, c.sigmoid(), torch.arange(B) // 2), {"e": ROWS}, {"c": (B,)}),
    Case("lol: decisions",
         lambda r, p, w: losses.reformulation_loss(r, p, torch.eye(B, dtype=torch.bool), log_weights=w),
         {"r": (B, 2, D), "p": ROWS}, {"w": PAIRS}),
    Case("cir_uncertainty",
         lambda q, t, w: losses.MultiGrainedUncertaintyLoss(10)(q, t, progress=0.5, log_weights=w),
         {"q": ROWS, "t": ROWS}, {"w": PAIRS}),
]  # fmt: skip


def leaf(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).requires_grad_()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_decides_takes_no_gradient(case):
    """Every leaf that learns gets a gradient that is not zero, every leaf that decides gets none at all."""
    leaves = {name: leaf(shape, seed) for seed, (name, shape) in enumerate({**case.learns, **case.decides}.items())}
    case.loss(**leaves).sum().backward()
    for name in case.learns:
        gradient = leaves[name].grad
        assert gradient is not None and bool(gradient.any()), f"{name} does not learn"
    for name in case.decides:
        gradient = leaves[name].grad
        assert gradient is None or not bool(gradient.any()), f"{name} leaks"
