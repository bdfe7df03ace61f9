"""No-duplicate batches on class names as positives: 64 classes with Zipf counts, batches of 32.

Texts and class names are noisy views of latent positions; one linear encoder is trained with the in-batch contrastive
loss, the same number of steps and rows everywhere. Only the batches differ. What to expect is modest: an exact copy of
the positive among the negatives adds a constant to the loss of its row and shifts the weight of its class, so what
distinct batches bring is more distinct negatives and less weight on common classes; that is why every class counts the
same in the metric, and why the numbers for equally common classes are reported beside it. A third sampler keeps every
row of every epoch, which with so common a class means many small batches.
"""

import warnings

import numpy as np
import torch

from tamis.batches import NoDuplicatesBatchSampler
from tamis.claim import Claim, Gate
from tamis.sampling import Batches

CLAIM = Claim(
    metric="accuracy over 64 classes that count the same, after 200 steps of 32 rows of a two-way in-batch loss",
    method="no_duplicates",
    baseline="random",
    at_least=0.01,
    seeds=5,
    gates=(
        Gate(
            says="full batches of distinct classes beat keeping every row in batches as small as that needs",
            higher="no_duplicates",
            lower="no_duplicates_every_row",
        ),
        Gate(
            says="at least 30 % of the rows of a random batch have their own positive among the negatives",
            higher="rows_with_a_false_negative_random",
            at_least=0.3,
        ),
    ),
)
CLASSES, TRAIN, BATCH, STEPS = 64, 4000, 32, 200


def world(seed, zipf):
    """Features of texts and class names, and the class of each text: 8 groups of 8 classes; 50 test texts a class."""
    rng = np.random.default_rng(seed)
    classes = np.repeat(rng.standard_normal((8, 16)), CLASSES // 8, axis=0) + 0.5 * rng.standard_normal((CLASSES, 16))
    weight = 1 / (1 + rng.permutation(CLASSES)) ** zipf
    owner = np.concatenate([rng.choice(CLASSES, TRAIN, p=weight / weight.sum()), np.repeat(np.arange(CLASSES), 50)])
    texts = classes[owner] + 0.6 * rng.standard_normal((len(owner), 16))
    mixing = rng.standard_normal((16, 96)) / 4

    def view(latent):
        noisy = np.tanh(latent @ mixing) + 0.2 * rng.standard_normal((len(latent), 96))
        return torch.tensor(noisy, dtype=torch.float32)

    return view(texts), view(classes), owner


def random_epochs(seed):
    rng = np.random.default_rng(seed)
    while True:
        yield from Batches.of_size(rng.permutation(TRAIN), BATCH, drop_last=True)


def distinct_epochs(owner, seed, *, drop_last):
    sampler = NoDuplicatesBatchSampler(owner[:TRAIN], BATCH, drop_last=drop_last, seed=seed)
    epoch = 0
    while True:
        with warnings.catch_warnings():  # that every row needs many small batches is what is measured
            warnings.simplefilter("ignore", UserWarning)
            sampler.set_epoch(epoch)
            batches = list(sampler)
        yield from batches
        epoch += 1


def train(texts, names, owner, batches, two_way, seed):
    """Test accuracy after STEPS * BATCH rows."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        encoder = torch.nn.Linear(96, 32)
    optimizer, rows = torch.optim.Adam(encoder.parameters(), lr=3e-3), 0

    def embed(rows):
        return torch.nn.functional.normalize(encoder(rows))

    while rows < STEPS * BATCH:
        batch = next(batches)
        rows += len(batch)
        scores, diagonal = embed(texts[batch]) @ embed(names[owner[batch]]).T / 0.05, torch.arange(len(batch))
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
    texts, names, owner = world(seed, zipf=1.0)
    equal = world(seed, zipf=0.0)
    repeats = [np.bincount(owner[b], minlength=CLASSES)[owner[b]] > 1 for b in Batches.of_size(np.arange(TRAIN), BATCH)]
    return {
        "random": train(texts, names, owner, random_epochs(seed), True, seed),
        "no_duplicates": train(texts, names, owner, distinct_epochs(owner, seed, drop_last=True), True, seed),
        "no_duplicates_every_row": train(
            texts, names, owner, distinct_epochs(owner, seed, drop_last=False), True, seed
        ),
        "random_one_way": train(texts, names, owner, random_epochs(seed), False, seed),
        "no_duplicates_one_way": train(texts, names, owner, distinct_epochs(owner, seed, drop_last=True), False, seed),
        "random_equal_classes": train(*equal, random_epochs(seed), True, seed),
        "no_duplicates_equal_classes": train(*equal, distinct_epochs(equal[2], seed, drop_last=True), True, seed),
        "rows_with_a_false_negative_random": float(np.mean(np.concatenate(repeats))),
    }
