"""SPN4CIR's second stage on a synthetic composed retrieval: the whole frozen bank against as many steps in-batch.

An image has 12 attributes with 6 values each; its vector is the sum of theirs with a little noise. A query is a
reference image and a text that gives 5 attributes of the target; all else is as in the reference. Each of the 3,000
images of the bank is the target of one query; 600 of them are held out. A query network learns from the others for 300
steps in-batch (stage 1), and from there for 300 more steps on the same batches: in-batch (control), against the whole
bank, and against 15 or 255 images drawn from it. Without a gate: what synthetic triplets from captioned pairs of
images add to 100 labelled triplets, in stage 1 and after stage 2.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from tamis.claim import Claim, Gate
from tamis.contrastive import info_nce, similarity, unit_rows
from tamis.negatives import TEMPLATES, BankInfoNCE, RankWindowPairs, StaticBank, template_triplets
from tamis.randomness import child_seed, torch_generator

CLAIM = Claim(
    metric="recall@10 among 3,000 images",
    method="bank",
    baseline="control",
    at_least=0.02,
    seeds=5,
    gates=(
        Gate(
            says="0.02 above the control in every seed", higher="bank", lower="control", at_least=0.02, every_seed=True
        ),
        Gate(says="255 negatives are no worse than 15", higher="drawn_255", lower="drawn_15", at_least=-0.01),
        Gate(says="the whole bank is no worse than 255 negatives", higher="bank", lower="drawn_255", at_least=-0.01),
    ),
    note=(
        "Held-out targets stand in the bank, where training pushes queries away from them, and are found all the same. "
        "A first version of this script drew new queries for every step and held no target out: there the control came "
        "to 0.983, and the gap of 0.017 missed the gate. The more targets training sees, the less the bank adds."
    ),
)
ATTRIBUTES, VALUES, DIM, NAMED, IMAGES, HELD_OUT = 12, 6, 32, 5, 3000, 600
STEPS, BATCH, TEMPERATURE = 300, 16, 0.05
Batch = tuple[Tensor, Tensor, Tensor]  # reference vectors, texts, rows of the targets
WORDS = [f"{a}={v}" for a in range(ATTRIBUTES) for v in range(VALUES)]


class World:
    """Images, and queries for them; all the randomness of one seed."""

    def __init__(self, seed: int) -> None:
        self.rng = torch_generator(child_seed(seed, "world"))
        self.meaning = torch.randn(ATTRIBUTES, VALUES, DIM, generator=self.rng)
        self.values = torch.randint(VALUES, (IMAGES, ATTRIBUTES), generator=self.rng)
        self.pictures = self.draw(self.values)
        # The frozen image encoder sees pictures as they are; the bank brings them to length one.
        self.bank = StaticBank.from_encoder(nn.Identity().eval(), self.pictures.split(256))
        self.triplets = self.queries()

    def draw(self, values: Tensor) -> Tensor:
        """Pictures of images with these attributes, (n, d)."""
        clean = self.meaning[torch.arange(ATTRIBUTES), values].sum(1)
        return unit_rows(clean + 0.3 * torch.randn(clean.shape, generator=self.rng))

    def named(self, n: int) -> Tensor:
        """(n, 12) bool, which attributes a text names."""
        return torch.rand(n, ATTRIBUTES, generator=self.rng).argsort(1) < NAMED

    def queries(self) -> Batch:
        """One labelled triplet per image: its reference has the named attributes redrawn."""
        named = self.named(IMAGES)
        other = torch.where(named, torch.randint(VALUES, named.shape, generator=self.rng), self.values)
        texts = nn.functional.one_hot(self.values, VALUES) * named[:, :, None]
        return self.draw(other), texts.flatten(1).float(), torch.arange(IMAGES)

    def synthetic(self, seed: int) -> Batch:
        """Triplets made of pairs at a middling rank, with texts from captions that name a few attributes."""
        named = self.named(IMAGES)
        captions = [
            " ".join(f"{a}={v}" for a, v in enumerate(row) if keep[a])
            for row, keep in zip(self.values.tolist(), named.tolist(), strict=True)
        ]
        pairs, _ = RankWindowPairs(self.pictures, low=10, high=300, seed=seed).draw()
        made = template_triplets(captions, pairs, templates=TEMPLATES[:1])
        # A bag of the words that are asked for is all the text encoder that this world needs.
        place = {word: i for i, word in enumerate(WORDS)}
        texts = torch.zeros(len(made.texts), len(WORDS))
        for row, text in enumerate(made.texts):
            texts[row, [place[word] for word in text.split(" instead of ")[0].split()]] = 1.0
        return self.pictures[made.references], texts, made.targets


def train(start: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], given: Iterator[Batch]) -> nn.Module:
    network = copy.deepcopy(start)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    for references, texts, targets in given:
        value = loss(network(torch.cat([references, texts], 1)), targets)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    return network


@torch.no_grad()
def recall(network: nn.Module, world: World) -> float:
    references, texts, targets = (part[:HELD_OUT] for part in world.triplets)
    found = similarity(network(torch.cat([references, texts], 1)), world.pictures).topk(10).indices
    return float((found == targets[:, None]).any(1).double().mean())


def batches(triplets: Batch, seed: int) -> Iterator[Batch]:
    rng = torch_generator(seed)
    for _ in range(STEPS):
        rows = torch.randint(len(triplets[2]), (BATCH,), generator=rng)
        yield tuple(part[rows] for part in triplets)


def run(seed: int) -> dict[str, float]:
    torch.set_num_threads(1)
    world = World(seed)
    one, two = child_seed(seed, "stage 1"), child_seed(seed, "stage 2")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(child_seed(seed, "weights"))
        start = nn.Sequential(nn.Linear(DIM + len(WORDS), 128), nn.ReLU(), nn.Linear(128, DIM))

    def plain(queries: Tensor, targets: Tensor) -> Tensor:
        return info_nce(queries, world.pictures[targets], temperature=TEMPERATURE)

    def against_bank(drawn: int | None = None) -> BankInfoNCE:
        return BankInfoNCE(world.bank, temperature=TEMPERATURE, num_negatives=drawn, seed=seed)

    labelled = tuple(part[HELD_OUT:] for part in world.triplets)
    stage1 = train(start, plain, batches(labelled, one))
    arms = {"control": plain, "drawn_15": against_bank(15), "drawn_255": against_bank(255), "bank": against_bank()}
    out = {"stage1": recall(stage1, world)}
    out |= {name: recall(train(stage1, loss, batches(labelled, two)), world) for name, loss in arms.items()}

    few = tuple(part[:100] for part in labelled)
    made = world.synthetic(child_seed(seed, "pairs"))
    both = tuple(torch.cat(parts) for parts in zip(few, made, strict=True))
    for name, triplets in (("few", few), ("scaled", both)):
        network = train(start, plain, batches(triplets, one))
        out[f"{name}_stage1"] = recall(network, world)
        out[f"{name}_bank"] = recall(train(network, against_bank(), batches(triplets, two)), world)
    return out
