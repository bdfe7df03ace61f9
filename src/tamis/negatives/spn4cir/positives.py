"""More positives: pairs of images from a window of ranks, and the text that leads from one to the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from tamis import checks
from tamis.contrastive import Metric, unit_rows
from tamis.negatives.spn4cir.draws import distinct_columns
from tamis.randomness import Seed, as_generator

Array = np.ndarray[Any, Any]
ArrayLike = Array | Tensor
Kind = TypeVar("Kind", Array, Tensor)

TEMPLATES = ("{target} instead of {reference}", "Unlike {reference}, I want {target}", "{target}")
"""The sentences of the official code, which takes the first two by default."""

_SCORES, _PAIRS = 4_000_000, 65_536  # entries of a block of similarities; pairs of captions in a block


class RankWindowPairs(Generic[Kind]):
    """Partners for images, drawn uniformly from a window of their ranking by similarity.

    The pair matching of SPN4CIR (arXiv:2404.11317). Rank 0 is the image itself, never a partner; equal similarities
    fall to the lower row. Windows of the paper: ranks 10,000 to 20,000 of FashionIQ's images, 10,000 to 15,000 of
    CIRR's. Drop duplicates first (``tamis.subsets``), or a low window is full of them.

    Args:
        features: (n, d) float of a separate encoder of one modality; the paper takes one for images.
        low: the first rank of the window; 0 begins after the image itself.
        high: the rank at which the window ends; None is n, the end of the ranking.
        k: partners of each reference, all different.
        metric: "cosine" or "dot".
        seed: seed or generator; every draw moves on.

    Raises:
        ValueError: features that are no finite matrix, a window beyond the images or narrower than k.

    Example:
        >>> features = np.array([[1.0, 0.0], [0.9, 0.1], [0.5, 0.5], [0.0, 1.0]])
        >>> pairs, ranks = RankWindowPairs(features, low=2, high=3).draw()
        >>> pairs.tolist(), ranks.tolist()
        ([[0, 2], [1, 2], [2, 0], [3, 1]], [2, 2, 2, 2])
    """

    def __init__(
        self,
        features: Kind,
        *,
        low: int,
        high: int | None = None,
        k: int = 1,
        metric: Metric = "cosine",
        seed: Seed = 0,
    ) -> None:
        checks.one_of("metric", metric, ("cosine", "dot"))
        checks.matrix("features", features)
        checks.finite("features", features)
        n = len(features)
        self.low, self.high, self.k = max(low, 1), n if high is None else high, k
        checks.at_least("low", low, 0)
        checks.require(
            self.high <= n, f"high must be at most {n}, the number of features: got {self.high}; narrow the window."
        )
        checks.require(
            1 <= k <= self.high - self.low,
            f"k must lie in 1..{self.high - self.low}, the ranks {self.low} to {self.high} of the window: got {k}.",
        )
        self.arrays = isinstance(features, np.ndarray)
        rows = _tensor(features).float()
        self.rows = unit_rows(rows) if metric == "cosine" else rows
        self.generator = as_generator(seed)

    def draw(self, references: ArrayLike | None = None, *, budget: float | None = None) -> tuple[Kind, Kind]:
        """Draw partners.

        Args:
            references: (r,) int64, the images that get partners, those that are references of labelled triplets say;
                default all. Partners come from all images.
            budget: a count or a share of the r * k pairs to keep, chosen at random; None keeps all.

        Returns:
            pairs (m, 2) int64, reference and target, and ranks (m,) int64 of the targets, both of the library of the
            features, in the order of the references.

        Raises:
            ValueError: references outside the images, a budget out of range.
        """
        n, device = len(self.rows), self.rows.device
        chosen = torch.arange(n) if references is None else _tensor(references).cpu()
        checks.require(
            chosen.ndim == 1 and chosen.dtype == torch.int64 and len(chosen) > 0,
            f"references must be a vector of rows, int64: got {tuple(chosen.shape)} {chosen.dtype}.",
        )
        checks.require(
            0 <= int(chosen.min()) and int(chosen.max()) < n,
            f"references must lie in 0..{n - 1}: got {int(chosen.min())}..{int(chosen.max())}.",
        )
        places = distinct_columns(len(chosen), self.high - self.low, self.k, self.generator)
        ranks = torch.from_numpy(places).to(device) + self.low
        chosen = chosen.to(device)
        block = max(1, _SCORES // n)
        partners = torch.cat(
            [self._ranked(chosen[s : s + block]).gather(1, ranks[s : s + block]) for s in range(0, len(chosen), block)]
        )
        pairs = torch.stack([chosen[:, None].expand_as(partners), partners], 2).reshape(-1, 2)
        ranks = ranks.reshape(-1)
        if budget is not None:
            kept = distinct_columns(1, len(pairs), checks.budget_count(budget, len(pairs)), self.generator)[0]
            kept = torch.from_numpy(kept).to(device)
            pairs, ranks = pairs[kept], ranks[kept]
        return self._like(pairs), self._like(ranks)

    def _ranked(self, references: Tensor) -> Tensor:
        """All images for each reference, itself first."""
        scores = self.rows[references] @ self.rows.T
        scores.scatter_(1, references[:, None], torch.inf)
        return scores.sort(dim=1, descending=True, stable=True).indices

    def _like(self, result: Tensor) -> Kind:
        return cast("Kind", result.cpu().numpy() if self.arrays else result)


@dataclass(frozen=True)
class CaptionTriplets(Generic[Kind]):
    """Synthetic triplets, to be appended to labelled ones, and the pairs that gave none.

    Args:
        references: (m,) int64, rows of the reference images.
        texts: m modification texts.
        targets: (m,) int64, rows of the target images.
        templates: (m,) int64, which template made the text; -1 where it was too long and the target's caption stands.
        dropped: of one length: pair (its row), rule (str, always an array), score (their similarity, 1 if equal).
    """

    references: Kind
    texts: tuple[str, ...]
    targets: Kind
    templates: Kind
    dropped: dict[str, ArrayLike]


def template_triplets(
    captions: Sequence[str],
    pairs: Kind,
    *,
    templates: Sequence[str] = TEMPLATES[:2],
    max_tokens: int | None = None,
    tokenizer: Callable[[str], Sequence[Any]] = str.split,
    caption_features: ArrayLike | None = None,
    max_similarity: float = 0.95,
) -> CaptionTriplets[Kind]:
    """Write the text of every pair from its two captions, once with every template.

    The modification texts of SPN4CIR (arXiv:2404.11317). A text that is too long for the encoder becomes the caption of
    the target alone. Pairs whose captions say the same would teach that the target is the reference: they are dropped.

    Args:
        captions: n texts, one for each image.
        pairs: (m, 2) int64, reference and target, from ``RankWindowPairs``.
        templates: with "{target}" in each, and "{reference}" where wanted.
        max_tokens: the longest text that the encoder takes; None for no limit.
        tokenizer: counts the tokens of a text by the length of what it returns; default words.
        caption_features: (n, d) float, embeddings of the captions; with them captions count as saying the same when
            their cosine is above max_similarity, without them only when they are equal but for case and spaces.
        max_similarity: see caption_features.

    Returns:
        the triplets, in the order of the pairs, the templates of a pair side by side.

    Raises:
        ValueError: pairs outside the captions, a template without "{target}" or with an unknown name.

    Example:
        >>> made = template_triplets(["a blue dress", "a red dress"], np.array([[0, 1]]), templates=TEMPLATES[:1])
        >>> made.texts, made.targets.tolist()
        (('a red dress instead of a blue dress',), [1])
    """
    rows = np.asarray(pairs.cpu() if isinstance(pairs, Tensor) else pairs)
    _check_pairs(rows, len(captions))
    _check_templates(templates)
    checks.require(max_tokens is None or max_tokens >= 1, f"max_tokens must be at least 1: got {max_tokens}.")
    plain = np.array([" ".join(caption.casefold().split()) for caption in captions], dtype=object)
    scores = (plain[rows[:, 0]] == plain[rows[:, 1]]).astype(np.float32)
    rules = np.where(scores > 0, "equal captions", "")
    if caption_features is not None:
        alike = _pair_cosines(caption_features, rows, len(captions))
        rules = np.where((rules == "") & (alike > max_similarity), "similar captions", rules)
        scores = np.where(rules == "equal captions", scores, alike)
    out = np.flatnonzero(rules != "")
    kept = rows[rules == ""]
    texts, made_by = [], []
    for reference, target in kept.tolist():
        for number, template in enumerate(templates):
            text = template.format(reference=captions[reference], target=captions[target])
            fits = max_tokens is None or len(tokenizer(text)) <= max_tokens
            texts.append(text if fits else captions[target])
            made_by.append(number if fits else -1)
    each = np.repeat(kept, len(templates), axis=0).astype(np.int64)
    columns = [each[:, 0], each[:, 1], np.array(made_by, dtype=np.int64), out, scores[out]]
    if isinstance(pairs, Tensor):
        columns = [torch.from_numpy(np.ascontiguousarray(column)).to(pairs.device) for column in columns]
    references, targets, numbers, pair, score = columns
    dropped = {"pair": pair, "rule": rules[out], "score": score}
    return CaptionTriplets(references, tuple(texts), targets, numbers, dropped)


def _tensor(x: ArrayLike) -> Tensor:
    # Arrays may be read-only, which a tensor that shares their memory cannot be.
    return x.detach() if isinstance(x, Tensor) else torch.tensor(x)


def _pair_cosines(features: ArrayLike, rows: Array, n: int) -> Array:
    checks.matrix("caption_features", features)
    checks.require(
        len(features) == n, f"caption_features must have one row per caption: {n} captions, {len(features)} rows."
    )
    checks.finite("caption_features", features)
    table = _tensor(features).float()
    at = _tensor(rows).to(table.device)
    parts = [at[s : s + _PAIRS] for s in range(0, len(at), _PAIRS)]
    alike = torch.cat([cosine_similarity(table[part[:, 0]], table[part[:, 1]]) for part in parts])
    return cast("Array", alike.cpu().numpy())


def _check_pairs(rows: Array, n: int) -> None:
    checks.require(
        rows.ndim == 2 and rows.shape[1] == 2 and len(rows) > 0 and rows.dtype.kind in "iu",
        f"pairs must be (m, 2) integers with at least one row, reference and target: got {rows.shape} {rows.dtype}.",
    )
    low, high = int(rows.min()), int(rows.max())
    checks.require(0 <= low and high < n, f"pairs must lie in 0..{n - 1}, the captions: got {low}..{high}.")


def _check_templates(templates: Sequence[str]) -> None:
    checks.require(
        not isinstance(templates, str) and len(templates) > 0, "templates must be a list of at least one template."
    )
    for template in templates:
        try:
            sound = "\0" in template.format(reference="", target="\0")
        except (KeyError, IndexError, ValueError):
            sound = False
        checks.require(
            sound,
            f"templates must hold {{target}}, and no names but it and {{reference}}: got {checks.shown(template)}.",
        )
