"""No-duplicate batches on class names as positives: 64 classes, so a random batch of 64 holds many of them twice.

Texts and class names are noisy views of latent positions; one linear encoder is trained with the in-batch contrastive
loss in both directions (text to name and name to text), for the same number of steps and rows. Only the batches differ.
The one-way loss (text to name) is reported beside it: there, exact copies of the positive only add a constant to the
loss and shift the weight of classes, so little harm is expected.
"""

import numpy as np
import torch

from tamis.batches import NoDuplicatesBatchSampler
from tamis.claim import Claim, Gate
from tamis.sampling import Batches

CLAIM = Claim(
    metric="accuracy of 2,000 test texts over 64 classes, after 500 steps with the two-way loss",
    method="no_duplicates",
    baseline="random",
    at_least=0.01,
    seeds=5,
)
CLASSES, TRAIN, TEST, BATCH, STEPS = 64, 4000, 2000, 32, 500


def world(seed):
    """Features of texts and class names, and the class of each text: 8 groups of 8 classes."""
    rng = np.random.default_rng(seed)
    classes = np.repeat(rng.standard_normal((8, 16)), CLASSES // 8, axis=0) + 0.5 * rng.standard_normal((CLASSES, 16))
    owner = rng.integers(CLASSES, size=TRAIN + TEST)
    texts = classes[owner] + 0.4 * rng.standard_normal((TRAIN + TEST, 16))
    mixing = rng.standard_normal((16, 96)) / 4

    def view(latent):
        noisy = np.tanh(latent @ mixing) + 0.2 * rng.standard_normal((len(latent), 96))
        return torch.tensor(noisy, dtype=torch.float32)

    return view(texts), view(classes), owner


def random_epochs(seed):
    """Full batches of a random order, epoch after epoch."""
    rng = np.random.default_rng(seed)
    while True:
        yield from Batches.of_size(rng.permutation(TRAIN), BATCH, drop_last=True)


def distinct_epochs(owner, seed):
    """Full batches without a class twice, epoch after epoch."""
    sampler = NoDuplicatesBatchSampler(owner[:TRAIN], BATCH, drop_last=True, seed=seed)
    for epoch in range(STEPS):
        sampler.set_epoch(epoch)
        yield from sampler


def train(texts, names, owner, batches, two_way, seed):
    """Test accuracy after the given number of steps."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        encoder = torch.nn.Linear(96, 32)
    optimizer = torch.optim.Adam(encoder.parameters(), lr=3e-3)
    diagonal = torch.arange(BATCH)

    def embed(rows):
        return torch.nn.functional.normalize(encoder(rows))

    for _, batch in zip(range(STEPS), batches, strict=False):
        scores = embed(texts[batch]) @ embed(names[owner[batch]]).T / 0.05
        loss = torch.nn.functional.cross_entropy(scores, diagonal)
        if two_way:
            loss = (loss + torch.nn.functional.cross_entropy(scores.T, diagonal)) / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        found = (embed(texts[TRAIN:]) @ embed(names).T).argmax(dim=1)
    return float((found.numpy() == owner[TRAIN:]).mean())


def run(seed):
    torch.set_num_threads(1)
    texts, names, owner = world(seed)
    numbers = {}
    for two_way, suffix in ((True, ""), (False, "_one_way")):
        numbers["random" + suffix] = train(texts, names, owner, random_epochs(seed), two_way, seed)
        numbers["no_duplicates" + suffix] = train(texts, names, owner, distinct_epochs(owner, seed), two_way, seed)
    repeats = [1 - len(set(owner[batch])) / BATCH for batch, _ in zip(random_epochs(seed), range(100), strict=False)]
    return numbers | {"share_of_repeats_in_random_batches": float(np.mean(repeats))}
