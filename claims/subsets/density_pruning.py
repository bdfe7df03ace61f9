"""Twenty concepts in 16 dimensions, fourteen narrow with one label each, six wide with four: 500 of 5,100 rows stay.

A narrow concept has 300 rows around its centre (0.05 per coordinate), a wide one 150 (0.15), whose label is the pair of
signs along two directions. Accuracy of the nearest neighbour by cosine, on 40 new rows of each concept, over all
concepts and over the wide ones alone. Budgets are equal: random rows, an equal share of every cluster, the ranking by
prototypes, and density-based pruning. Repeated random sampling has no meaning for a nearest neighbour, so a small
network is trained for 400 steps of 50 rows too: on fixed random rows, on pruned rows, and on fresh random rows every
epoch. Two more pools: one with 1,500 noisy copies of 30 rows, pruned with and without de-duplication before; and one
whose wide concepts are very wide (0.45) and all of whose labels are signs, where the hardest rows are outliers.
"""

import numpy as np
import torch

from tamis.claim import Claim, Gate
from tamis.subsets import DensityPruner, prototype_selection, semantic_dedup

CLAIM = Claim(
    metric="accuracy of the nearest neighbour among 500 of 5,100 rows, all concepts",
    method="hard",
    baseline="random",
    at_least=0.01,
    seeds=10,
    gates=(
        Gate(says="wide concepts gain more", higher="hard_wide", lower="random_wide", at_least=0.04),
        Gate(says="quotas by complexity are no worse than equal ones", higher="hard", lower="equal"),
        Gate(says="quota over size follows complexity (Spearman)", higher="spearman", at_least=0.75),
        Gate(says="the ranking by prototypes is far below", higher="hard", lower="prototypes", at_least=0.3),
    ),
    note="The clusters matter as much as the quotas: with one start of k-means (hard_one_start), as first run, "
    "two narrow concepts share a cluster in some seeds, their distance passes for complexity, and hard loses to "
    "random by 0.007; with the best of ten starts, now the default, it wins in every seed. Random rows of each cluster "
    "do almost as well as hard ones, and a network gains as much from either. Fresh random rows every epoch "
    "(network_rs2) give most of what pruning gains over fixed random ones. De-duplication first drops the planted "
    "copies and does not help here (copied_*). With very wide concepts hard loses badly to random (very_wide_*): it "
    "keeps the outliers.",
)
CONCEPTS, NARROW, DIM, BUDGET, STEPS, BATCH = 20, 14, 16, 500, 400, 50


def world(seed, *, wide=0.15, signs_everywhere=False):
    """Training rows, their concept and label, and the same of the test."""
    rng = np.random.default_rng(seed)
    centres = unit(rng.normal(size=(CONCEPTS, DIM)))
    axes = unit(rng.normal(size=(CONCEPTS, 2, DIM)))
    sigma = np.where(np.arange(CONCEPTS) < NARROW, 0.05, wide)
    parts = []
    for counts in (np.where(np.arange(CONCEPTS) < NARROW, 300, 150), np.full(CONCEPTS, 40)):
        concept = np.repeat(np.arange(CONCEPTS), counts)
        away = sigma[concept, None] * rng.normal(size=(len(concept), DIM))
        signs = np.einsum("nd,nad->na", away, axes[concept]) > 0
        quarter = signs @ [1, 2] if not signs_everywhere else signs[:, 0]
        label = 4 * concept + np.where((concept >= NARROW) | signs_everywhere, quarter, 0)
        parts += [unit(centres[concept] + away), concept, label]
    return parts


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def nearest(chosen, pool):
    """Accuracy over all concepts and over the wide ones."""
    rows, _, labels, test, concept, wanted = pool
    right = labels[chosen][(test @ rows[chosen].T).argmax(1)] == wanted
    return float(right.mean()), float(right[concept >= NARROW].mean())


def network(chosen_of_epoch, pool, seed):
    """Accuracy of a small network after a fixed number of steps; the rows of an epoch may differ from the last."""
    rows, _, labels, test, _, wanted = pool
    x, y = torch.tensor(rows, dtype=torch.float32), torch.tensor(labels)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = torch.nn.Sequential(torch.nn.Linear(DIM, 64), torch.nn.ReLU(), torch.nn.Linear(64, 4 * CONCEPTS))
    optimizer, rng = torch.optim.Adam(model.parameters(), lr=1e-2), np.random.default_rng(seed)
    for epoch in range(STEPS * BATCH // BUDGET):
        for batch in rng.permutation(chosen_of_epoch(epoch)).reshape(-1, BATCH):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
    with torch.no_grad():
        return float((model(torch.tensor(test, dtype=torch.float32)).argmax(1).numpy() == wanted).mean())


def spearman(a, b):
    ranks = [np.argsort(np.argsort(x)) for x in (a, b)]
    return float(np.corrcoef(*ranks)[0, 1])


def pruner(which, seed, temperature=0.05, n_init=10):
    return DensityPruner(
        CONCEPTS, budget=BUDGET, temperature=temperature, n_neighbors=10, which=which, n_init=n_init, seed=seed
    )


def with_copies(pool, seed):
    """The pool with 50 noisy copies of 30 rows of narrow concepts; which rows are copies."""
    rows, concept, labels, *test = pool
    rng = np.random.default_rng([seed, 2])
    source = np.repeat(rng.choice(np.flatnonzero(concept < NARROW), 30, replace=False), 50)
    copies = unit(rows[source] + 0.004 * rng.normal(size=(len(source), DIM)))
    more = [np.concatenate(pair) for pair in ((rows, copies), (concept, concept[source]), (labels, labels[source]))]
    return [*more, *test], np.arange(len(more[0])) >= len(rows)


def run(seed):
    torch.set_num_threads(1)
    pool, rng = world(seed), np.random.default_rng([seed, 1])
    rows = pool[0]
    fresh = [rng.choice(len(rows), BUDGET, replace=False) for _ in range(STEPS * BATCH // BUDGET)]
    hard = pruner("hard", seed)
    arms = {
        "random": fresh[0],
        "hard": hard.fit_select(rows).indices,
        "hard_one_start": pruner("hard", seed, n_init=1).fit_select(rows).indices,
        "random_within": pruner("random", seed).fit_select(rows).indices,
        "equal": pruner("random", seed, np.inf).fit_select(rows).indices,
        "equal_hard": pruner("hard", seed, np.inf).fit_select(rows).indices,
        "prototypes": prototype_selection(rows, budget=BUDGET, n_clusters=CONCEPTS, seed=seed).indices,
    }
    numbers = {"spearman": spearman(hard.quota_ / hard.sizes_, hard.complexity_)}
    for name, chosen in arms.items():
        numbers[name], numbers[f"{name}_wide"] = nearest(chosen, pool)
    for name in ("random", "hard", "random_within"):
        numbers[f"network_{name}"] = network(lambda epoch, chosen=arms[name]: chosen, pool, seed)
    numbers["network_rs2"] = network(fresh.__getitem__, pool, seed)

    copied, is_copy = with_copies(pool, seed)
    kept = semantic_dedup(copied[0], eps=0.003, n_clusters=CONCEPTS, seed=seed)
    numbers["copies_dropped"] = float(np.isneginf(kept.log_weights[is_copy]).mean())
    numbers["others_dropped"] = float(np.isneginf(kept.log_weights[~is_copy]).mean())
    numbers["copied_random"], _ = nearest(rng.choice(len(copied[0]), BUDGET, replace=False), copied)
    numbers["copied_hard"], _ = nearest(pruner("hard", seed).fit_select(copied[0]).indices, copied)
    both = pruner("hard", seed).fit_select(copied[0], log_weights=kept.log_weights)
    numbers["copied_dedup_hard"], _ = nearest(both.indices, copied)

    noisy = world(seed, wide=0.45, signs_everywhere=True)
    numbers["very_wide_random"], _ = nearest(fresh[0], noisy)
    numbers["very_wide_hard"], _ = nearest(pruner("hard", seed).fit_select(noisy[0]).indices, noisy)
    numbers["very_wide_random_within"], _ = nearest(pruner("random", seed).fit_select(noisy[0]).indices, noisy)
    return numbers
