"""A simulated benchmark of 400 samples of 60 random tokens out of 2,000, and a corpus that holds parts of half of them.

A quarter of the samples has one piece of 40 tokens in the corpus, a quarter four scattered pieces of 10, each in a
document of its own; the model is right with probability 0.9 on the first and 0.5 on all others. The union of matches
(token-match) cannot tell the two quarters apart; the longest match can. Flags are compared at n = 8 and a threshold of
0.3, and at the threshold that each metric would choose. A random flag for as many samples as the longest match flags is
reported beside them. Then 13-grams and a least count of 2, which miss what is there, a model that gained nothing, and
the corpus with what gives a sample away taken out.
"""

import numpy as np

from tamis.claim import Claim, Gate
from tamis.evaluation import contamination_scores, decontaminate, select_threshold

CLAIM = Claim(
    metric="accuracy on flagged samples minus accuracy on clean ones, threshold 0.3; the baseline's is taken 1.6 times",
    method="gap_longest",
    baseline="gap_token_x1.6",
    at_least=0.0,
    seeds=20,
    gates=(
        Gate(says="the longest match flags 25 % of the samples within 3 points", higher="flagged_within",
             at_least=-0.03, every_seed=True),
        Gate(says="its z at the threshold it chooses is larger", higher="z_longest", lower="z_token"),
        Gate(says="a random flag shows no gap of the size", higher="gap_longest", lower="gap_random", at_least=0.3),
        Gate(says="13-grams miss every scattered piece", higher="scattered_missed_13", at_least=1.0, every_seed=True),
        Gate(says="a least count of 2 misses everything", higher="missed_mincount_2", at_least=1.0, every_seed=True),
        Gate(says="nothing gained: the p-value is not small on average", higher="null_p", at_least=0.4),
        Gate(says="nothing gained: nor large", higher="null_p_complement", at_least=0.4),
        Gate(says="after removal no sample reaches the threshold", higher="clean_after_removal", at_least=1.0,
             every_seed=True),
    ),
)  # fmt: skip
SAMPLES, LENGTH, VOCABULARY, N, THRESHOLD = 400, 60, 2000, 8, 0.3
LONG, SCATTERED = slice(200, 300), slice(300, 400)


def world(rng):
    """Samples, corpus, and whether the model is right."""
    samples = rng.integers(VOCABULARY, size=(SAMPLES, LENGTH))
    corpus = []
    for kind, length, starts in ((LONG, 40, [0]), (SCATTERED, 10, [0, 15, 30, 45])):
        for sample in samples[kind]:
            for start in starts:
                at = start + rng.integers(LENGTH // len(starts) - length + 1)
                text = rng.integers(VOCABULARY, size=120)
                place = rng.integers(len(text) - length)
                text[place : place + length] = sample[at : at + length]
                corpus.append(text)
    corpus += list(rng.integers(VOCABULARY, size=(500, 120)))
    chance = np.full(SAMPLES, 0.5)
    chance[LONG] = 0.9
    return samples.tolist(), [text.tolist() for text in corpus], (rng.random(SAMPLES) < chance).astype(float)


def gap(flagged, correct):
    return float(correct[flagged].mean() - correct[~flagged].mean())


def run(seed):
    rng = np.random.default_rng(seed)
    samples, corpus, correct = world(rng)
    longest, token = (
        contamination_scores(samples, corpus, metric=m, n=N, tokenizer=list) for m in ("longest", "token")
    )
    thirteen = contamination_scores(samples, corpus, metric="token", n=13, tokenizer=list)
    twice = contamination_scores(samples, corpus, metric="token", n=N, mincount=2, tokenizer=list)
    flags = {"longest": longest >= THRESHOLD, "token": token >= THRESHOLD}
    flags["random"] = rng.permutation(flags["longest"])
    gaps = {f"gap_{name}": gap(flag, correct) for name, flag in flags.items()}
    chosen = {
        name: select_threshold(s, correct, n_permutations=200) for name, s in (("longest", longest), ("token", token))
    }
    null = np.mean([
        select_threshold(longest, rng.permutation(correct), n_permutations=200, seed=i).p_value for i in range(10)
    ])  # fmt: skip
    kept = decontaminate(corpus, samples, n=N, threshold=THRESHOLD, tokenizer=list)
    after = contamination_scores(samples, [corpus[i] for i in kept.indices], n=N, tokenizer=list)
    return {
        **gaps,
        "gap_token_x1.6": 1.6 * gaps["gap_token"],
        "flagged_longest": flags["longest"].mean(),
        "flagged_token": flags["token"].mean(),
        "flagged_within": -abs(flags["longest"].mean() - 0.25),
        "epg_longest": flags["longest"].mean() * gaps["gap_longest"],
        "epg_token": flags["token"].mean() * gaps["gap_token"],
        "z_longest": chosen["longest"].z,
        "z_token": chosen["token"].z,
        "scattered_missed_13": float((thirteen[SCATTERED] == 0).mean()),
        "missed_mincount_2": float((twice == 0).mean()),
        "null_p": float(null),
        "null_p_complement": float(1 - null),
        "clean_after_removal": float((after < THRESHOLD).mean()),
        "texts_dropped": float(len(corpus) - len(kept.indices)),
    }
