"""CoRNStack on the Python standard library: does the filter find wrong pairs, do guard and curriculum help?

Pairs are (docstring, function without it). In the training set of 1,500 pairs 30 % of the docstrings belong to another
of those pairs. (a) Rank and score of a TF-IDF over word parts judge each pair. (b) Two linear encoders learn from the
noisy set with random, hardest, guarded, or curriculum negatives and are tested on 300 clean pairs. Their learning rate
is the one of three (3e-4, 1e-3, 3e-3) that served random negatives best on seeds 100 to 102.
"""

from __future__ import annotations

import ast
import functools
import re
import sysconfig
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from tamis.claim import Claim, Gate
from tamis.contrastive import info_nce
from tamis.negatives import CurriculumNegatives, consistency_filter, consistency_ranks, guarded_candidates

CLAIM = Claim(
    metric="share of clean pairs",
    method="clean_share",
    baseline="clean_share_before",
    at_least=0.29,
    seeds=3,
    every_seed=True,
    gates=(
        Gate(says="at least 99 % of what is kept is clean", higher="clean_share", at_least=0.99, every_seed=True),
        Gate(says="at least half of the clean pairs are kept", higher="recall", at_least=0.5, every_seed=True),
        Gate(says="guarded negatives are no worse than the hardest (MRR)", higher="mrr_guarded", lower="mrr_hardest"),
        Gate(says="the curriculum is no worse than random (MRR)", higher="mrr_curriculum", lower="mrr_random"),
    ),
    note=(
        "Curriculum against random is close: at a learning rate of 1e-3, tried first on these seeds, training fits the "
        "noise (MRR 0.02 to 0.03 lower) and the curriculum was 0.005 below. Guarded beat hardest at every rate tried."
    ),
)
Draw = Callable[[np.ndarray, float], np.ndarray]
TRAIN, TEST, NOISE, BATCH, EPOCHS, NEGATIVES = 1500, 300, 450, 64, 10, 8


@functools.cache
def pairs() -> list[tuple[str, str]]:
    """(docstring, function without docstring) of the standard library, docstrings of 40 to 600 characters."""
    found, root = [], Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        skipped = {"test", "tests", "idle_test", "site-packages"} & set(path.relative_to(root).parts)
        for node in ast.walk(ast.parse(b"" if skipped else path.read_bytes())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and len(node.body) > 1:
                text, node.body = ast.get_docstring(node) or "", node.body[1:]
                if 40 <= len(text) <= 600:
                    found.append((text, ast.unparse(node)))
    return found


def words(text: str) -> list[str]:
    """Parts of identifiers in lower case: split at _ and at capitals."""
    return [part.lower() for part in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+", text)]


def run(seed: int) -> dict[str, float]:
    torch.set_num_threads(1)
    rng = np.random.default_rng(seed)
    chosen = rng.choice(len(pairs()), TRAIN + TEST, replace=False)
    texts, codes = (np.array([pairs()[i][side] for i in chosen], dtype=object) for side in (0, 1))
    noisy = rng.choice(TRAIN, NOISE, replace=False)
    texts[noisy] = texts[np.roll(noisy, 1)]
    clean = ~np.isin(np.arange(TRAIN), noisy)
    tfidf = TfidfVectorizer(analyzer=words, sublinear_tf=True, min_df=2, dtype=np.float32)
    tfidf.fit([*texts[:TRAIN], *codes[:TRAIN]])
    sides = [tfidf.transform(side) for side in (texts, codes)]
    queries, positives = (np.asarray(side[:TRAIN].todense()) for side in sides)
    found = {"pairs": len(pairs()), "clean_share_before": clean.mean()}
    for name, k, low in (("", 2, 0.1), ("_score_only", TRAIN, 0.2), ("_rank_10", 10, 0.1)):
        kept = consistency_filter(queries, positives, k=k, min_score=low, similarity="dot").indices
        found |= {f"clean_share{name}": clean[kept].mean(), f"recall{name}": clean[kept].sum() / clean.sum()}
    svd = TruncatedSVD(256, random_state=seed).fit(np.concatenate([queries, positives]))
    vectors = [torch.from_numpy(svd.transform(side).astype(np.float32)) for side in sides]
    for arm, draw in arms(queries @ positives.T, seed).items():
        found[f"mrr_{arm}"] = train_and_test(vectors, draw, seed)
    return {key: float(value) for key, value in found.items()}


def arms(scores: np.ndarray, seed: int) -> dict[str, Draw]:
    """Ways to draw negatives for some rows at a point of the training, as rows of the corpus, -1 for none."""
    hardest, guarded = (guarded_candidates(scores, np.diag(scores), relative=r, top_k=100) for r in (None, 0.95))
    uniform = CurriculumNegatives(np.zeros_like(scores), n=NEGATIVES, seed=seed)
    curriculum = CurriculumNegatives(guarded.scores, n=NEGATIVES, seed=seed)

    def drawn(rows: np.ndarray, progress: float) -> np.ndarray:
        places = curriculum.sample(rows, progress)
        return np.where(places < 0, -1, np.take_along_axis(guarded.indices[rows], places, 1))

    return {
        "random": lambda rows, progress: uniform.sample(rows, progress),
        "hardest": lambda rows, progress: hardest.indices[rows, :NEGATIVES],
        "guarded": lambda rows, progress: guarded.indices[rows, :NEGATIVES],
        "curriculum": drawn,
    }


def train_and_test(vectors: list[torch.Tensor], draw: Draw, seed: int) -> float:
    """Train two linear encoders with in-batch and drawn negatives; MRR of the held-out texts among held-out codes."""
    weights = [torch.eye(256, requires_grad=True) for _ in vectors]
    optimizer = torch.optim.Adam(weights, lr=3e-4)
    rng = np.random.default_rng([seed, 1])
    batches = [b for _ in range(EPOCHS) for b in np.array_split(rng.permutation(TRAIN), TRAIN // BATCH + 1)]
    for step, rows in enumerate(batches):
        drawn = np.setdiff1d(draw(rows, step / len(batches)), [-1, *rows])
        candidates = torch.from_numpy(np.concatenate([rows, drawn]))
        optimizer.zero_grad()
        info_nce(vectors[0][rows] @ weights[0], vectors[1][candidates] @ weights[1], temperature=0.05).backward()
        optimizer.step()
    q, c = (torch.nn.functional.normalize(v[TRAIN:] @ w.detach()) for v, w in zip(vectors, weights, strict=True))
    return float((1 / consistency_ranks(q, c)[0]).mean())
