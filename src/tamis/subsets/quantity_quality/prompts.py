"""Few-shot prompts: some labelled items before every text, in training as in use."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tamis import checks
from tamis.checks import ArrayLike
from tamis.randomness import Seed, as_generator
from tamis.results import as_array


def few_shot_prompts(
    texts: Sequence[str],
    shots: Sequence[str],
    labels: ArrayLike,
    *,
    k: int = 2,
    names: Sequence[str] = ("0", "1"),
    separator: str = "\n\n",
    seed: Seed = 0,
) -> list[str]:
    r"""Put k labelled shots before every text, drawn and shuffled anew for each, never the text itself.

    The prompts of few-shot fine-tuning in arXiv:2410.13215, which gained up to five points at an equal budget: a shot
    is its text, a new line and its label. Use the same k and shots from the training part at test time as well.

    Args:
        texts: n texts to be classified.
        shots: m texts with labels, from the training part only.
        labels: (m,) the class of each shot, or for two classes the probability of the second, cut at 0.5.
        k: shots per text, 2 or 32 in the paper.
        names: what the classes are called in the prompt.
        separator: between shots.
        seed: seed or generator.

    Returns:
        n prompts.

    Raises:
        ValueError: when a text has fewer than k shots other than itself, or a label has no name.

    Example:
        >>> few_shot_prompts(["is it?"], ["so good", "is it?", "so bad"], [0.9, 1, 0.2], k=2, names=("no", "yes"))
        ['so bad\nno\n\nso good\nyes\n\nis it?']
    """
    checks.same_length("labels", labels, "shots", shots)
    checks.at_least("k", k, 0)
    soft = as_array(labels)
    classes = (soft >= 0.5).astype(int) if soft.dtype.kind == "f" else soft.astype(int)
    outside = np.flatnonzero((classes < 0) | (classes >= len(names)))
    checks.require(
        len(outside) == 0,
        f"labels must each have one of the {len(names)} names: shot {outside[0] if len(outside) else ''} has not.",
    )
    rng, ready = as_generator(seed), [f"{text}\n{names[c]}" for text, c in zip(shots, classes.tolist(), strict=True)]
    rows_of: dict[str, list[int]] = {}
    for row, text in enumerate(shots):
        rows_of.setdefault(text, []).append(row)
    prompts = []
    for text in texts:
        own = rows_of.get(text, [])
        others = len(shots) - len(own)
        checks.require(others >= k, f"shots must hold {k} others for every text: there are {others} for {text[:40]!r}.")
        drawn = rng.choice(len(shots), k + len(own), replace=False).tolist()
        prompts.append(separator.join([*[ready[i] for i in drawn if i not in own][:k], text]))
    return prompts
