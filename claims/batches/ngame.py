"""NGAME on a small extreme-classification world: clusters of a batch's size against random batches.

1,024 labels in 64 clusters, 6,000 documents with one label each. One linear encoder for documents and labels is trained
with the triplet loss over the ten hardest in-batch negatives; only the batches differ.
"""

import numpy as np
import torch

from tamis.batches import ClusterBatchSampler, TripletOHNM, multilabel_targets
from tamis.claim import Claim, Gate

CLAIM = Claim(
    metric="P@1 of 1,000 test documents over 1,024 labels, after 8 epochs",
    method="clusters_of_64",
    baseline="random",
    at_least=0.02,
    seeds=5,
    gates=(
        Gate(
            says="the hardest in-batch negatives are harder than in random batches, for every seed",
            higher="hardest_negative_clusters_of_64",
            lower="hardest_negative_random",
            at_least=1e-6,
            every_seed=True,
        ),
    ),
)
LABELS, TRAIN, TEST, BATCH, EPOCHS = 1024, 6000, 1000, 64, 8


def world(seed):
    """Features of documents and labels, and the label of each document: noisy views of latent positions."""
    rng = np.random.default_rng(seed)
    centres = np.repeat(rng.standard_normal((64, 24)), LABELS // 64, axis=0)
    labels = centres + 0.35 * rng.standard_normal((LABELS, 24))
    owner = rng.integers(LABELS, size=TRAIN + TEST)
    documents = labels[owner] + 0.25 * rng.standard_normal((TRAIN + TEST, 24))
    mixing = rng.standard_normal((24, 96)) / 5

    def view(latent):
        noisy = np.tanh(latent @ mixing) + 0.2 * rng.standard_normal((len(latent), 96))
        return torch.tensor(noisy, dtype=torch.float32)

    return view(documents), view(labels), owner


def train(documents, labels, owner, cluster_size, seed):
    """P@1 after 2 epochs and at the end, and the mean cosine of the hardest in-batch negative after the first epoch."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        encoder = torch.nn.Linear(96, 32)
    optimizer = torch.optim.Adam(encoder.parameters(), lr=3e-3)
    loss = TripletOHNM(num_negatives=10, temperature=0.1, margin=0.3, masked_softmax=True)
    # ceil(n / 64) clusters of 63 or 64 rows: a cluster is a batch, which a power of two would not give here.
    sampler = ClusterBatchSampler(
        TRAIN, BATCH, cluster_size=cluster_size, schedule={}, power_of_two=False, drop_last=True, seed=seed
    )
    accuracy, hardest = [], []
    for epoch in range(EPOCHS):
        sampler.set_epoch(epoch)
        if epoch > 0 and cluster_size > 1:
            with torch.no_grad():
                sampler.update(encoder(documents[:TRAIN]), epoch)
        for batch in sampler:
            ids = owner[batch]
            targets = torch.from_numpy(multilabel_targets(ids, ids[:, None].tolist()))
            queries, passages = encoder(documents[batch]), encoder(labels[ids])
            optimizer.zero_grad()
            loss(queries, passages, targets).backward()
            optimizer.step()
            if epoch > 0:
                with torch.no_grad():
                    cosine = torch.nn.functional.normalize(queries) @ torch.nn.functional.normalize(passages).T
                    hardest.append(cosine.masked_fill(targets, -1).max(dim=1).values.mean().item())
        with torch.no_grad():
            found = (encoder(documents[TRAIN:]) @ torch.nn.functional.normalize(encoder(labels)).T).argmax(dim=1)
        accuracy.append(float((found.numpy() == owner[TRAIN:]).mean()))
    return accuracy[1], accuracy[-1], float(np.mean(hardest))


def run(seed):
    torch.set_num_threads(1)
    documents, labels, owner = world(seed)
    numbers = {}
    for name, size in (("random", 1), ("clusters_of_4", 4), ("clusters_of_16", 16), ("clusters_of_64", 64)):
        early, final, hardest = train(documents, labels, owner, size, seed)
        numbers |= {name: final, f"{name}_after_2_epochs": early, f"hardest_negative_{name}": hardest}
    return numbers
