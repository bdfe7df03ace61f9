"""Five decisions about the same candidates, added up: on one batch in training, and on one mined set.

    python examples/compose_negatives.py

GISTEmbed's mask, CoRNStack's guard, CET's weights, NBPO's posterior and MEOW's cluster weights come from five papers
with five notations. Here each is a matrix of log-weights, 0 for "keep", -inf for "drop" and between them "counts less",
and their sum is what the loss or the sampler gets. Nothing knows of anything else, and the order does not matter.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from tamis.clustering import kmeans
from tamis.contrastive import drop, info_nce, similarity
from tamis.guide_mask import false_negative_mask
from tamis.negatives import (
    NoiseHead,
    SelectionModel,
    cluster_negative_weights,
    coupled_log_weights,
    false_negative_log_weights,
    guarded_candidates,
)


def gistembed(guide_queries: Tensor, guide_passages: Tensor, own: Tensor) -> Tensor:
    """What a guide finds more like the query than its own positive is dropped."""
    scores = similarity(guide_queries, guide_passages)
    return drop(false_negative_mask(scores, scores.gather(1, own[:, None])[:, 0], protect=own))


def cornstack(scores: Tensor, own: Tensor) -> Tensor:
    """What scores above 0.95 of the positive is dropped, and the positive is no negative of itself."""
    positive = scores.gather(1, own[:, None])[:, 0]
    found = guarded_candidates(scores.numpy(), positive.numpy(), positives=own.numpy())
    return torch.from_numpy(found.log_weights).float()


def cet(scores: Tensor, selection: Tensor, own: Tensor) -> Tensor:
    """What the labellers would hardly have looked at counts less."""
    return coupled_log_weights(scores, selection, target=own)[0]


def nbpo(scores: Tensor, noise: Tensor) -> Tensor:
    """What is as likely as an answer that was not recorded counts less."""
    return false_negative_log_weights(scores, noise)


def meow(guide_passages: Tensor, own: Tensor, sizes: tuple[int, ...] = (4, 8, 16)) -> Tensor:
    """What lies in the cluster of the positive counts less, and not at all when every clustering agrees."""
    clusterings = [kmeans(guide_passages, k, spherical=True, seed=0).labels for k in sizes]
    return (cluster_negative_weights(clusterings)[own] / len(sizes)).log()


def world(seed: int, queries: int = 24, d: int = 16) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, three passages that answer each (the first is known), and the row of the known one."""
    rng = torch.Generator().manual_seed(seed)
    topics = torch.randn(queries, d, generator=rng)
    asked = normalize(topics + 0.3 * torch.randn(queries, d, generator=rng), dim=1)
    passages = topics.repeat_interleave(3, 0) + 0.3 * torch.randn(3 * queries, d, generator=rng)
    return asked, normalize(passages, dim=1), 3 * torch.arange(queries)


def decisions(seed: int = 0) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """The five log-weights (q, n) of every passage for every query, the scores, and the known answers' rows."""
    queries, passages, own = world(seed)
    generator = torch.Generator().manual_seed(seed)
    guide = [normalize(x + 0.2 * torch.randn(x.shape, generator=generator), dim=1) for x in (queries, passages)]
    scores = queries @ passages.T
    features = torch.stack([scores, guide[0] @ guide[1].T], -1)
    with torch.no_grad():
        selection = SelectionModel(features.flatten(0, 1), seed=seed)(features)
        noise = NoiseHead(queries.shape[1], passages.shape[1], start=-2.0, seed=seed)(queries, passages)
    rules = {
        "gistembed": gistembed(guide[0], guide[1], own),
        "cornstack": cornstack(scores, own),
        "cet": cet(scores / 0.05, selection, own),
        "nbpo": nbpo(scores / 0.2, noise),
        "meow": meow(guide[1], own),
    }
    return rules, scores, own


def main() -> None:
    rules, scores, own = decisions()
    together = torch.stack(list(rules.values())).sum(0)
    hidden = torch.zeros_like(scores, dtype=torch.bool)
    for row, first in enumerate(own.tolist()):
        hidden[row, first + 1 : first + 3] = True
    others = ~hidden & ~torch.eye(len(scores), dtype=torch.bool).repeat_interleave(3, 1)
    print("mean weight of        hidden answers   other passages")
    for name, log_weights in {**rules, "together": together}.items():
        weight = log_weights.exp().clamp_max(1.0)
        print(f"  {name:16s}{weight[hidden].mean():18.3f}{weight[others].mean():17.3f}")

    # One batch: the sum is the log_weights of the loss.
    queries, passages, _ = world(0)
    plain = info_nce(queries, passages, positive_columns=own)
    weighed = info_nce(queries, passages, positive_columns=own, log_weights=together)
    print(f"loss of the batch, plain {plain:.4f}, weighed {weighed:.4f}")

    # One mined set: the same sum added to the scores, and the best four of each row are picked.
    barred = together.scatter(1, own[:, None], -torch.inf).numpy()
    for name, keys in (
        ("by score", scores.scatter(1, own[:, None], -torch.inf).numpy()),
        ("weighed", scores.numpy() / 0.05 + barred),
    ):
        picks = np.argsort(-keys, axis=1, kind="stable")[:, :4]
        false = np.take_along_axis(hidden.numpy(), picks, 1).mean()
        print(f"mined {name}: {false:.1%} of the negatives are hidden answers")


if __name__ == "__main__":
    main()
