"""Which negatives are mixed, in what shares, and what the mixtures score."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tamis import checks
from tamis.contrastive import drop, similarity, to_logits, unit_rows
from tamis.randomness import torch_generator

_PAIRS = 1 << 22  # numbers of gathered rows at a time when pairs of negatives are compared


@dataclass(frozen=True)
class Mixtures:
    """Synthetic negatives as a recipe: rows of the negatives, and shares.

    Type 1 is ``a n_i + (1 - a) n_j``, type 2 ``b q + (1 - b) n_j``, both brought to length one (MoCHi,
    arXiv:2010.01028).

    Args:
        first: (b, s) int64, the rows i of type 1.
        second: (b, s) int64, the rows j of type 1.
        share: (b, s) float in [0, 1], a.
        partner: (b, t) int64, the rows j of type 2.
        query_share: (b, t) float in [0, 1), b.

    Example:
        >>> none, half = torch.empty(1, 0, dtype=torch.int64), torch.tensor([[0.5]])
        >>> recipe = Mixtures(torch.tensor([[0]]), torch.tensor([[1]]), half, none, none.float())
        >>> recipe.vectors(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.6, 0.8], [0.0, 1.0]]))
        tensor([[[0.3162, 0.9487]]])
    """

    first: Tensor
    second: Tensor
    share: Tensor
    partner: Tensor
    query_share: Tensor

    @torch.no_grad()
    def vectors(self, queries: Tensor, negatives: Tensor) -> Tensor:
        """The mixtures themselves.

        Args:
            queries: (b, d) float, of length one.
            negatives: (k, d) float, shared, or (b, k, d), each query's own; of length one.

        Returns:
            (b, s + t, d), of length one (norm floor 1e-12), without gradient; type 1 first.
        """
        rows, offsets = _flat(negatives)
        first, second, partner = (x + offsets for x in (self.first, self.second, self.partner))
        a, b, pairs = self.share.to(rows)[:, :, None], self.query_share.to(rows)[:, :, None], self.first.shape[1]
        out = rows.new_empty(len(queries), pairs + partner.shape[1], rows.shape[1])
        step = max(1, _PAIRS // max(1, out[:1].numel()))
        for part in (slice(start, start + step) for start in range(0, len(queries), step)):
            torch.lerp(rows[second[part]], rows[first[part]], a[part], out=out[part, :pairs])
            torch.lerp(rows[partner[part]], queries[part, None].to(rows), b[part], out=out[part, pairs:])
            out[part] /= torch.linalg.vector_norm(out[part], dim=2, keepdim=True).clamp_min_(1e-12)
        return out

    def scores(self, queries: Tensor, negatives: Tensor, similarities: Tensor | None = None) -> Tensor:
        """Similarities of queries and their mixtures, from similarities alone.

        ``q.h = (a q.n_i + (1 - a) q.n_j) / |h|``, and ``|h|`` follows from ``n_i.n_j``: no (b, s + t, d) tensor.
        The gradient is that of the vectors held fixed. A mixture shorter than 10 sqrt(eps), of two opposite parts,
        has no direction to speak of and is divided by that bound.

        Args:
            queries: (b, d) float, of length one; gradients pass to them.
            negatives: (k, d) float, shared, or (b, k, d), each query's own; of length one; no gradient passes.
            similarities: (b, k) float, of queries and negatives where they are known already. Their gradient is
                followed, so give those of detached negatives.

        Returns:
            (b, s + t), in the order of ``vectors``; float32 for half precision.
        """
        negatives = negatives.detach()
        if similarities is None:
            similarities = similarity(queries, negatives, "dot")
        similarities = similarities.to(torch.promote_types(similarities.dtype, torch.float32))
        a, b = self.share.to(similarities), self.query_share.to(similarities)
        floor = 10 * torch.finfo(similarities.dtype).eps ** 0.5
        own = (queries.detach() * queries).sum(1, keepdim=True).to(similarities)
        lone = similarities.gather(1, self.partner)
        between = _pair_products(negatives, self.first, self.second).to(similarities)
        mixed = a * similarities.gather(1, self.first) + (1 - a) * similarities.gather(1, self.second)
        with_query = b * own + (1 - b) * lone
        return torch.cat(
            [mixed / _length(a, between).clamp_min(floor), with_query / _length(b, lone.detach()).clamp_min(floor)], 1
        )


@torch.no_grad()
def draw_mixtures(
    similarities: Tensor,
    num_hard: int,
    num_pairs: int,
    num_query_mix: int,
    *,
    query_mix_max: float = 0.5,
    mask: Tensor | None = None,
    log_weights: Tensor | None = None,
    temperature: float = 0.2,
    generator: int | torch.Generator = 0,
    distinct: bool = False,
) -> Mixtures:
    """Draw what is mixed: partners among the hardest negatives of every query, and shares.

    The draw of MoCHi (arXiv:2010.01028): the N most similar negatives, partners uniform among them, shares uniform in
    (0, 1) and, for the query's, in (0, ``query_mix_max``). Beyond the paper, ``log_weights``: the hardest are those of
    highest ``similarity / temperature + log_weight``, their logits in a weighted softmax, and partners are drawn in
    proportion to ``exp(log_weight)``, so what is probably a false negative is seldom mixed.

    Args:
        similarities: (b, k) float, of queries and negatives.
        num_hard: N.
        num_pairs: s, mixtures of two negatives per query; may be 0.
        num_query_mix: t, mixtures of the query and a negative; may be 0.
        query_mix_max: the query's share stays below it; in [0, 1).
        mask: (b, k) bool, True for known positives and false negatives: never mixed.
        log_weights: (b, k) float, say of ``false_negative_log_weights`` or ``drop(false_negative_mask(guide))``;
            ``-inf`` is never mixed. Fewer than N may be left; then those are mixed.
        temperature: what a unit of similarity weighs against log-weights; of no effect without them.
        generator: seed or generator; a seed gives the same draw every time.
        distinct: never mix a negative with itself, which needs two of them.

    Returns:
        the recipe.

    Raises:
        ValueError: for counts or shares out of range, or fewer than N negatives that may be mixed.

    Example:
        >>> recipe = draw_mixtures(torch.tensor([[0.9, -0.5, 0.8, 0.1]]), 2, 3, 1)
        >>> sorted({*recipe.first[0].tolist(), *recipe.second[0].tolist(), *recipe.partner[0].tolist()})
        [0, 2]
    """
    checks.matrix("similarities", similarities)
    for name, count, least in (
        ("num_hard", num_hard, 1 + distinct),
        ("num_pairs", num_pairs, 0),
        ("num_query_mix", num_query_mix, 0),
    ):
        checks.at_least(name, count, least)
    checks.require(0 <= query_mix_max < 1, f"query_mix_max must lie in [0, 1): got {query_mix_max!r}.")
    logits = to_logits(similarities.detach(), temperature)
    free = logits.shape[1]
    if mask is not None:
        checks.same_shape("mask", mask, "similarities", similarities)
        log_weights = drop(mask, log_weights, dtype=logits.dtype)
        free -= int(mask.sum(1).max())
    checks.require(
        num_hard <= free,
        f"num_hard must be at most {free}, the negatives of a query that may be mixed: got {num_hard}; ask for fewer, "
        "or mix later, when the queue holds more.",
    )
    weights = None
    if log_weights is not None:
        checks.same_shape("log_weights", log_weights, "similarities", similarities)
        checks.require(
            not bool((log_weights.isnan() | log_weights.isposinf()).any()),
            "log_weights must be numbers or -inf: got NaN or +inf.",
        )
        weights = log_weights.detach().to(logits)
        logits = logits + weights
        left = int((weights > -torch.inf).sum(1).min())
        checks.require(
            left > distinct,
            f"log_weights must leave every query {1 + distinct} negatives to mix: one has {left}; leave it out.",
        )
    hardest = logits.topk(num_hard, dim=1).indices
    odds = torch.zeros_like(hardest, dtype=torch.float64) if weights is None else weights.gather(1, hardest).double()
    odds = (odds - odds.amax(1, keepdim=True)).exp()
    source = torch_generator(generator, similarities.device)

    def uniform(count: int) -> Tensor:
        shape = (len(similarities), count)
        # float64 throughout, so that a seed means one draw whatever the precision of the similarities.
        return torch.rand(shape, generator=source, device=similarities.device, dtype=torch.float64)

    first = _draw(odds, uniform(num_pairs))
    second = _draw(odds, uniform(num_pairs), avoid=first if distinct else None)
    partner = _draw(odds, uniform(num_query_mix))
    first, second, partner = (hardest.gather(1, places) for places in (first, second, partner))
    return Mixtures(first, second, uniform(num_pairs), partner, uniform(num_query_mix) * query_mix_max)


def mix_hard_negatives(
    query: Tensor,
    negatives: Tensor,
    num_hard: int,
    num_pairs: int,
    num_query_mix: int,
    *,
    query_mix_max: float = 0.5,
    mask: Tensor | None = None,
    log_weights: Tensor | None = None,
    temperature: float = 0.2,
    generator: int | torch.Generator = 0,
    distinct: bool = False,
    check: bool = False,
) -> Tensor:
    """Synthetic negatives for every query, mixed from its hardest ones.

    MoCHi (arXiv:2010.01028): normalised ``a n_i + (1 - a) n_j`` and ``b q + (1 - b) n_j``. ``MoCHiLoss`` does
    without these vectors. Do not use it where classes are few, unless a mask or log-weights say which of the hardest
    are false negatives.

    Args:
        query: (b, d) float, of length one.
        negatives: (k, d) float, shared, or (b, k, d), each query's own; of length one.
        num_hard: N, see ``draw_mixtures`` for this and all that follows.
        num_pairs: s.
        num_query_mix: t.
        query_mix_max: the query's share stays below it; in [0, 1).
        mask: (b, k) bool, True is never mixed.
        log_weights: (b, k) float, of the partners.
        temperature: what a unit of similarity weighs against log-weights.
        generator: seed or generator; give every step another seed, or one generator.
        distinct: never mix a negative with itself.
        check: require rows of length one, at the cost of reading them once more.

    Returns:
        (b, s + t, d) of the dtype of the negatives, of length one, without gradient.

    Raises:
        ValueError: see ``draw_mixtures``; for shapes that do not fit, and with ``check`` rows not of length one.

    Example:
        >>> mixed = mix_hard_negatives(torch.eye(3)[:1], torch.eye(3)[1:], 2, 4, 2)
        >>> mixed.shape, round(mixed.norm(dim=2).mean().item(), 6)
        (torch.Size([1, 6, 3]), 1.0)
    """
    if check:
        for name, rows in (("query", query), ("negatives", negatives)):
            off = (torch.linalg.vector_norm(rows.detach().float(), dim=-1) - 1).abs().amax()
            checks.require(
                bool(off <= 1e-3),
                f"{name} must have rows of length one: one is {float(off):.3g} off; normalise them first.",
            )
    scores = similarity(query.detach(), negatives.detach(), "dot")
    recipe = draw_mixtures(
        scores,
        num_hard,
        num_pairs,
        num_query_mix,
        query_mix_max=query_mix_max,
        mask=mask,
        log_weights=log_weights,
        temperature=temperature,
        generator=generator,
        distinct=distinct,
    )
    return recipe.vectors(unit_rows(query.detach()), negatives.detach())


def _draw(odds: Tensor, uniform: Tensor, avoid: Tensor | None = None) -> Tensor:
    """Places (b, s) in proportion to odds (b, n), by inverting the distribution; none equal to ``avoid`` (b, s)."""
    reached = odds.cumsum(1)
    target = uniform * reached[:, -1:]
    if avoid is not None:
        own = odds.gather(1, avoid)
        before = reached.gather(1, avoid) - own
        target = uniform * (reached[:, -1:] - own)
        target = torch.where(target >= before, target + own, target)
    # Rounding may reach the end of the distribution, and behind it stand places without any odds.
    last = (reached < reached[:, -1:]).sum(1, keepdim=True)
    places = torch.searchsorted(reached, target, right=True).minimum(last)
    if avoid is not None:
        # Rounding may land on the place to avoid: its neighbour is then as near as the number was to it.
        places = torch.where(places == avoid, (places + 1) % odds.shape[1], places)
    return places


def _length(share: Tensor, product: Tensor) -> Tensor:
    """Length of ``share x + (1 - share) y`` for rows of length one with this inner product."""
    rest = 1 - share
    return (share.square() + rest.square() + 2 * share * rest * product.clamp(-1, 1)).clamp_min(0).sqrt()


@torch.no_grad()
def _pair_products(negatives: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Inner products (b, s) of pairs of negatives, a bounded number of rows at a time."""
    rows, offsets = _flat(negatives)
    left, right = (first + offsets).flatten(), (second + offsets).flatten()
    step = max(1, _PAIRS // rows.shape[1])
    parts = [slice(start, start + step) for start in range(0, len(left), step)]
    wide = torch.promote_types(rows.dtype, torch.float32)
    products = [(rows[left[p]].to(wide) * rows[right[p]].to(wide)).sum(1) for p in parts]
    return torch.cat(products).view(first.shape) if products else first.new_empty(first.shape, dtype=wide)


def _flat(negatives: Tensor) -> tuple[Tensor, Tensor | int]:
    """Negatives as one matrix, and where in it each query's own begin."""
    if negatives.ndim == 2:
        return negatives, 0
    b, k, d = negatives.shape
    return negatives.reshape(b * k, d), torch.arange(b, device=negatives.device)[:, None] * k
