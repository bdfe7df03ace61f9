"""MoCHi with few classes (not of the paper): plain mixing, mixing that avoids probable false negatives, and none.

Ten classes: of 512 queued negatives about 51 are of the query's own class, and they are among the hardest. MoCo learns
from two views of samples of the ten classes; mixing begins at step 100. A guide, the encoder that a run without mixing
left behind, rates the queue; its similarities become NBPO's posterior of being a false negative, or a mask by margin,
and these weigh the partners of mixtures. Real negatives are the same in all gated arms. Measured on new samples of the
same classes: precision@10. Without a gate: partners by the true classes, and weights on the real negatives too.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn

from tamis.claim import Claim, Gate
from tamis.contrastive import drop, unit_rows
from tamis.guide_mask import false_negative_mask
from tamis.negatives import FeatureQueue, MoCHiLoss, false_negative_log_weights
from tamis.randomness import child_seed

CLASSES, STEPS, WARMUP, BATCH = 10, 500, 100, 128
ARMS = ("none", "plain", "posterior", "guide", "true_classes", "none_weighted", "posterior_everywhere")
CLAIM = Claim(
    metric="precision@10 by class, ten classes",
    method="posterior",
    baseline="plain",
    at_least=0.01,
    seeds=5,
    gates=(
        Gate(says="plain mixing is worse than none", higher="none", lower="plain", at_least=0.005),
        Gate(says="weighted mixing is no worse than none", higher="posterior", lower="none", at_least=-0.005),
        Gate(says="a guide's mask serves as well", higher="guide", lower="plain", at_least=0.01),
    ),
    note=(
        "The same weights on the real negatives, without any mixing (none_weighted), gain more than weighted mixing, "
        "and mixing on top of them (posterior_everywhere) loses a little: with few classes weigh first, mix last."
    ),
)


def network(generator: torch.Generator) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise((64, 256, 256, 32)):
        layer = nn.utils.skip_init(nn.Linear, before, after)
        for parameter in layer.parameters():
            nn.init.uniform_(parameter, -(before**-0.5), before**-0.5, generator=generator)
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def world(seed: int) -> dict[str, Tensor]:
    """Two views of every training sample (steps, batch, 64) and its class; queries and gallery of new samples."""
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    first, second = (randn(n, m) * 1.5 / math.sqrt(n) for n, m in ((16, 96), (96, 64)))
    classes = randn(CLASSES, 8)

    def view(content: Tensor) -> Tensor:
        x: Tensor = torch.tanh(torch.tanh(torch.cat([content, randn(*content.shape)], -1) @ first) @ second)
        return x + 0.05 * randn(*x.shape)

    labels = torch.randint(CLASSES, (STEPS, BATCH), generator=generator)
    new = torch.randint(CLASSES, (3000,), generator=generator)
    content = classes[labels] + 0.5 * randn(STEPS, BATCH, 8)
    test = view(classes[new] + 0.5 * randn(3000, 8))
    return {"one": view(content), "two": view(content), "labels": labels, "test": test, "new": new}


def train(data: dict[str, Tensor], arm: str, seed: int, guide: nn.Module | None) -> nn.Module:
    """The encoder of one arm."""
    start = torch.Generator().manual_seed(child_seed(seed, "mochi aware claim"))
    encoder, momentum = network(start), network(start)
    momentum.load_state_dict(encoder.state_dict())
    mixed = (64, 0, 0) if arm.startswith("none") else (64, 64, 16)
    queue, guided, loss_of = FeatureQueue(512, 32), FeatureQueue(512, 32), MoCHiLoss(0.2, *mixed, WARMUP, seed=seed)
    optimizer = torch.optim.Adam(encoder.parameters(), lr=1e-3)
    for step in range(STEPS):
        one, two, labels = data["one"][step], data["two"][step], data["labels"][step]
        with torch.no_grad():
            keys = unit_rows(momentum(two))
            rated = keys if guide is None else unit_rows(guide(two))
            weights = None
            if step >= WARMUP and guide is not None:
                # The queues are filled alike, so their rows belong together.
                near = rated @ guided.vectors.T
                if arm == "guide":
                    own = (unit_rows(guide(one)) * rated).sum(1)
                    weights = drop(false_negative_mask(near, own, margin=0.3))
                elif arm == "true_classes":
                    weights = drop(labels[:, None] == queue.ids)
                else:
                    # A logit of sharing a class from the guide; hardly any of those pairs is ever recorded.
                    weights = false_negative_log_weights((near - 0.5) / 0.1, torch.full_like(near, 4.0))
        if step:
            everywhere = weights if arm in ("none_weighted", "posterior_everywhere") else None
            partners = None if everywhere is not None else weights
            optimizer.zero_grad()
            loss_of(encoder(one), keys, queue.vectors, log_weights=everywhere, partner_log_weights=partners).backward()
            optimizer.step()
            with torch.no_grad():
                for slow, fast in zip(momentum.parameters(), encoder.parameters(), strict=True):
                    slow.lerp_(fast, 0.01)
        queue.push(keys, labels)
        guided.push(rated, labels)
    return encoder


def run(seed: int) -> dict[str, float]:
    torch.set_num_threads(1)
    data, out, guide = world(seed), {}, None
    for arm in ARMS:
        encoder = train(data, arm, seed, None if arm in ("none", "plain") else guide)
        guide = encoder if arm == "none" else guide
        with torch.no_grad():
            queries, gallery = unit_rows(encoder(data["test"])).split([1000, 2000])
        asked, kept = data["new"].split([1000, 2000])
        out[arm] = float((kept[(queries @ gallery.T).topk(10).indices] == asked[:, None]).float().mean())
    return out
