"""RTD on a world of six attributes: do text triplets alone teach a text encoder to compose?

An image is the sum of 64-dimensional vectors of its six attributes with noise, and a caption names them. A small
transformer is trained to match captions with images, a projector to turn a caption's noisy embedding into a
pseudo-token; both are frozen. RTD then trains on (caption, one new value, changed caption), texts only. It is judged
with images: 500 reference images with a change to find among 2,000, the own reference taken out. "anchored" leaves the
refined batch out, "trainable" trains the target encoder too; for both batches the share of queries whose first hit,
with the reference left in, is that reference.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from tamis.batches import RTDTrainer, TargetAnchoredContrastive, inject_pseudo_tokens, noisy_projection
from tamis.claim import Claim, Gate

CLAIM = Claim(
    metric="R@1 of 500 composed queries over 2,000 images",
    method="rtd",
    baseline="frozen",
    at_least=0.30,
    seeds=3,
    every_seed=True,
    gates=(
        Gate(says="frozen targets are no worse than trained ones", higher="anchored", lower="trainable"),
        Gate(
            says="with the refined batch no more queries answer with their own reference",
            higher="own_reference_anchored",
            lower="own_reference_rtd",
        ),
    ),
)
ATTRIBUTES, VALUES, DIM, QUERIES, GALLERY = 6, 6, 64, 500, 2000
WORDS = [f"{a}{v}" for a in ("hue", "size", "shape", "place", "light", "mood") for v in range(VALUES)]
TEMPLATE, NOISE = "photo [$] that {}", 0.05


class Words:
    """A tokenizer of words, with the few things that the trainer asks of one."""

    eos_token_id = None  # the encoder pools by the mean

    def __init__(self) -> None:
        self.ids = {word: i for i, word in enumerate(["<pad>", "<placeholder>", "photo", "that", *WORDS])}

    def add_tokens(self, tokens: list[str], special_tokens: bool = False) -> None:
        """New words get the next ids."""
        for token in tokens:
            self.ids.setdefault(token, len(self.ids))

    def convert_tokens_to_ids(self, token: str) -> int:
        """The id of one word."""
        return self.ids[token]

    def __call__(self, texts: list[str], **_: Any) -> dict[str, Tensor]:
        """Padded ids and their mask."""
        rows = [torch.tensor([self.ids[word] for word in text.split()]) for text in texts]
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        return {"input_ids": ids, "attention_mask": (ids > 0).long()}


class TextEncoder(nn.Module):
    """One transformer layer over tokens and positions, the mean of its outputs, one linear map, length one."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(4 + len(WORDS), DIM), nn.Embedding(10, DIM)
        self.layer = nn.TransformerEncoderLayer(DIM, 4, 128, dropout=0.0, batch_first=True)
        self.head = nn.Linear(DIM, DIM)

    def get_input_embeddings(self) -> nn.Module:
        """The table of tokens, where pseudo-tokens go in."""
        return self.tokens

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(n, DIM), of length one."""
        inputs = self.tokens(input_ids) + self.places.weight[: input_ids.shape[1]]
        out = self.layer(inputs, src_key_padding_mask=attention_mask == 0)
        mask = attention_mask[:, :, None].to(out.dtype)
        return normalize(self.head((out * mask).sum(1) / mask.sum(1)))


def caption(values: Tensor) -> list[str]:
    return [" ".join(WORDS[a * VALUES + v] for a, v in enumerate(row)) for row in values.tolist()]


class World:
    """Images of attribute values, changes to ask for, and the frozen encoder and projector."""

    def __init__(self, seed: int) -> None:
        self.rng = torch.Generator().manual_seed(seed)
        self.vectors = torch.randn(ATTRIBUTES, VALUES, DIM, generator=self.rng)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.encoder = TextEncoder()
            self.phi = nn.Sequential(nn.Linear(DIM, 256), nn.GELU(), nn.Linear(256, DIM))
        self.words = Words()
        self.pretrain()
        self.references, self.conditions, self.targets = self.triplets(QUERIES)
        others = self.draw(GALLERY - 2 * QUERIES)
        self.images = self.photograph(torch.cat([self.targets, self.references, others]))

    def draw(self, n: int) -> Tensor:
        """Attribute values (n, ATTRIBUTES)."""
        return torch.randint(VALUES, (n, ATTRIBUTES), generator=self.rng)

    def photograph(self, values: Tensor) -> Tensor:
        """Images (n, DIM), another noise every time."""
        clean = self.vectors[torch.arange(ATTRIBUTES), values].sum(1)
        return normalize(clean + 0.8 * torch.randn(clean.shape, generator=self.rng))

    def triplets(self, n: int) -> tuple[Tensor, list[str], Tensor]:
        """Values before, the word that names the change, values after."""
        before, rows = self.draw(n), torch.arange(n)
        which = torch.randint(ATTRIBUTES, (n,), generator=self.rng)
        after = before.clone()
        after[rows, which] = (before[rows, which] + torch.randint(1, VALUES, (n,), generator=self.rng)) % VALUES
        return before, [WORDS[a * VALUES + v] for a, v in zip(which, after[rows, which], strict=True)], after

    def pretrain(self) -> None:
        """Captions against their images, then pseudo-tokens against their captions."""
        loss = TargetAnchoredContrastive(symmetric=False)
        optimizer = torch.optim.Adam(self.encoder.parameters(), lr=1e-3)
        for _ in range(400):
            values = self.draw(64)
            texts, images = self.encoder(**self.words(caption(values))), self.photograph(values)
            optimizer.zero_grad()
            (loss(texts, images) + loss(images, texts)).backward()
            optimizer.step()
        self.encoder.requires_grad_(False)
        optimizer = torch.optim.Adam(self.phi.parameters(), lr=1e-3)
        ids = torch.tensor([[2, 1]]).expand(64, 2)  # "photo <placeholder>"
        for _ in range(400):
            z = self.encoder(**self.words(caption(self.draw(64))))
            noisy = noisy_projection(z, nn.Identity(), noise_scale=NOISE, generator=self.rng)
            found = self.spell(ids, self.phi(noisy))
            optimizer.zero_grad()
            (1 - (found * z).sum(1)).mean().backward()
            optimizer.step()
        self.encoder.requires_grad_(True)

    def spell(self, ids: Tensor, pseudo: Tensor) -> Tensor:
        """The frozen encoder with a pseudo-token in place of the placeholder."""
        hook = self.encoder.tokens.register_forward_hook(lambda m, i, out: inject_pseudo_tokens(ids, out, pseudo, 1))
        try:
            return self.encoder(ids, torch.ones_like(ids))
        finally:
            hook.remove()

    def judge(self, trainer: RTDTrainer) -> dict[str, float]:
        """R@1 and R@10 without the own reference, and how often it comes first when it stays."""
        rows = torch.arange(QUERIES)
        with torch.no_grad():
            scores = trainer.compose(self.phi(self.images[QUERIES : 2 * QUERIES]), self.conditions) @ self.images.T
        own = float((scores.argmax(1) == QUERIES + rows).float().mean())
        scores[rows, QUERIES + rows] = -torch.inf
        rank = (scores > scores[rows, rows][:, None]).sum(1)
        return {"r1": float((rank < 1).float().mean()), "r10": float((rank < 10).float().mean()), "own": own}


def run(seed: int) -> dict[str, float]:
    torch.set_num_threads(1)
    world, numbers = World(seed), {}
    before, conditions, after = world.triplets(300 * 64)
    texts = caption(before), conditions, caption(after)
    for name, steps, refined, frozen in (
        ("frozen", 0, False, True),
        ("anchored", 300, False, True),
        ("rtd", 300, True, True),
        ("trainable", 300, False, False),
    ):
        trainer = RTDTrainer(
            copy.deepcopy(world.encoder), world.phi, world.words, template=TEMPLATE, placeholder_id=1,
            noise_scale=NOISE, refined=refined, freeze_targets=frozen, lr=3e-4, weight_decay=0.0, seed=seed,
        )  # fmt: skip
        trainer.fit(*texts, steps=steps, batch_size=64)
        found = world.judge(trainer)
        numbers |= {name: found["r1"], f"{name}_r10": found["r10"], f"own_reference_{name}": found["own"]}
    return numbers
