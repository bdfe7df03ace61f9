"""Soft GIST: does a slope instead of a cliff cost less where the guide is poor, and what does it cost where it is good?

The world of the claim of GISTEmbed: 50 concepts, batches of 64 in which most anchors have another item of their own
concept, two linear encoders, precision@10 by concept. The good guide sees the items with little noise, and pairs are
two items of a concept. The poor guide sees them with five times the noise, and a pair is one item and itself: what it
finds alike is often a true negative. Both arms take a margin of 0.3; the slope is 0.1 wide.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tamis.claim import Claim, Gate
from tamis.contrastive import info_nce, similarity
from tamis.losses import GISTEmbedLoss

CLAIM = Claim(
    metric="precision@10 by concept, with a poor guide",
    method="soft_poor",
    baseline="cliff_poor",
    at_least=0.005,
    seeds=5,
    gates=(
        Gate(says="with a good guide the slope is no worse than GISTEmbed", higher="soft_good", lower="gist_good"),
        Gate(
            says="with a good guide the slope gains over in-batch", higher="soft_good", lower="info_good", at_least=0.03
        ),
        Gate(says="a slope without width is the cliff", higher="limit_equal", at_least=1.0, every_seed=True),
    ),
    note=(
        "A slope is an insurance. Measured without a gate: with the poor guide both arms stay below plain in-batch "
        "negatives (info_poor), with the good one the cliff of the same margin gains more (cliff_good)."
    ),
)
TEMPERATURE, MARGIN, SOFTNESS = 0.05, 0.3, 0.1


def guided(margin: float, softness: float) -> GISTEmbedLoss:
    return GISTEmbedLoss(
        temperature=TEMPERATURE, margin=margin, softness=softness,
        contrast_anchors=False, contrast_positives=False, warn_above=1.0,
    )  # fmt: skip


def run(seed: int) -> dict[str, float]:
    torch.set_num_threads(1)
    good = experiment(seed, 0.075, one_item=False, arms={
        "info": None, "gist": guided(0.0, 0.0), "cliff": guided(MARGIN, 0.0), "soft": guided(MARGIN, SOFTNESS),
    })  # fmt: skip
    poor = experiment(seed, 0.4, one_item=True, arms={
        "info": None, "cliff": guided(MARGIN, 0.0), "soft": guided(MARGIN, SOFTNESS), "limit": guided(MARGIN, 1e-9),
    })  # fmt: skip
    found = {f"{name}_good": value for name, value in good.items()}
    found |= {f"{name}_poor": value for name, value in poor.items() if name != "limit"}
    return found | {"limit_equal": float(poor["limit"] == poor["cliff"])}


def experiment(seed: int, noise: float, *, one_item: bool, arms: dict[str, GISTEmbedLoss | None]) -> dict[str, float]:
    """Train the two encoders by each loss from one start on the same batches, and look up."""
    rng = torch.Generator().manual_seed(seed)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng)

    def features(z: Tensor, into: Tensor) -> Tensor:
        return torch.tanh(2 * z @ into) + 0.3 * randn(len(z), 64)

    concepts = nn.functional.normalize(randn(50, 16), dim=1)
    into = randn(16, 64) / 4, randn(16, 64) / 4
    pair_labels, query_labels, document_labels = (torch.randint(50, (n,), generator=rng) for n in (2000, 500, 2000))
    asked, answer, z_queries, z_documents = (
        concepts[labels] + 0.175 * randn(len(labels), 16)
        for labels in (pair_labels, pair_labels, query_labels, document_labels)
    )
    sides = (asked, asked) if one_item else (asked, answer)
    train = [features(z, w) for z, w in zip(sides, into, strict=True)]
    guide = [nn.functional.normalize(z + noise * randn(2000, 16), dim=1) for z in sides]
    queries, documents = features(z_queries, into[0]), features(z_documents, into[1])
    order = torch.cat([torch.randperm(2000, generator=rng)[:1984] for _ in range(13)]).reshape(-1, 64)[:400]
    start = [(torch.rand(16, 65, generator=rng) * 2 - 1) / 8 for _ in range(2)]

    def precision_at_10(loss: GISTEmbedLoss | None) -> float:
        encoders = [nn.utils.skip_init(nn.Linear, 64, 16) for _ in range(2)]
        for encoder, values in zip(encoders, start, strict=True):
            encoder.load_state_dict({"weight": values[:, :64], "bias": values[:, 64]})
        optimizer = torch.optim.Adam([p for e in encoders for p in e.parameters()], lr=5e-3)
        for rows in order:
            q, d = (encoder(x[rows]) for encoder, x in zip(encoders, train, strict=True))
            optimizer.zero_grad()
            if loss is None:
                value = info_nce(q, d, temperature=TEMPERATURE)
            else:
                value = loss(q, d, guide_anchors=guide[0][rows], guide_positives=guide[1][rows])
            value.backward()
            optimizer.step()
        with torch.no_grad():
            found = similarity(encoders[0](queries), encoders[1](documents)).topk(10).indices
        return float((document_labels[found] == query_labels[:, None]).float().mean())

    return {name: precision_at_10(loss) for name, loss in arms.items()}
