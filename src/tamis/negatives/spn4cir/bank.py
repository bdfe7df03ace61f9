"""InfoNCE against a whole bank of frozen candidates, and the draw of a part of it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tamis import checks
from tamis.contrastive import Metric, Reduction, contrastive_loss, drop, similarity, to_logits
from tamis.extra_negatives import NO_ID, StaticBank, known_positive_log_weights
from tamis.negatives.spn4cir.draws import distinct_columns
from tamis.randomness import Seed, as_generator
from tamis.recompute import by_rows


class BankInfoNCE(nn.Module):
    """Cross-entropy of each query over every candidate of a static bank, its target among them.

    The second stage of SPN4CIR (arXiv:2404.11317): only the queries take a gradient. Freeze the encoder that made the
    bank, or make the bank anew when it has moved. For the official "negplus", append unlabelled rows to the bank.
    Not where duplicates stand in the bank under several ids: they are false negatives that no query can beat.

    Args:
        bank: every candidate, from ``StaticBank.from_encoder``, say. Rows with the id of the target are no negatives.
        temperature: divides the similarities; .02 or .01 in the paper; a tensor may learn.
        num_negatives: contrast each query with so many rows drawn without replacement, its target not among them;
            None takes all. Of those drawn, excluded rows drop out.
        exclude: (k,) int64, rows of the bank that are nobody's negative.
        chunk_size: score so many rows of the bank at a time, again in the backward pass, so that memory grows with
            ``b * chunk_size`` and not with the bank; value and gradients are the same.
        metric: "cosine" or "dot".
        reduction: "mean", "sum" or "none".
        seed: of the draws; only used with num_negatives.

    Raises:
        ValueError: temperature not positive, more negatives than the bank has, rows outside the bank.

    Example:
        >>> loss = BankInfoNCE(StaticBank(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])), temperature=0.1)
        >>> round(loss(torch.tensor([[0.9, 0.1], [0.1, 0.9]]), torch.tensor([0, 1])).item(), 4)
        0.1402
    """

    barred: Tensor

    def __init__(
        self,
        bank: StaticBank,
        *,
        temperature: float | Tensor = 0.02,
        num_negatives: int | None = None,
        exclude: Tensor | None = None,
        chunk_size: int | None = None,
        metric: Metric = "cosine",
        reduction: Reduction = "mean",
        seed: Seed = 0,
    ) -> None:
        super().__init__()
        checks.positive("temperature", float(torch.as_tensor(temperature).detach()))
        checks.require(
            num_negatives is None or 1 <= num_negatives < len(bank),
            f"num_negatives must lie in 1..{len(bank) - 1}, the bank without the target: got {num_negatives}.",
        )
        checks.require(chunk_size is None or chunk_size >= 1, f"chunk_size must be at least 1: got {chunk_size}.")
        checks.one_of("metric", metric, ("cosine", "dot"))
        checks.one_of("reduction", reduction, ("mean", "sum", "none"))
        barred = torch.zeros(len(bank), dtype=torch.bool, device=bank.vectors.device)
        if exclude is not None:
            barred[_rows("exclude", exclude, len(bank))] = True
        self.bank = bank
        self.temperature = temperature
        self.num_negatives = num_negatives
        self.chunk_size = chunk_size
        self.metric: Metric = metric
        self.reduction: Reduction = reduction
        self.generator = as_generator(seed)
        self.register_buffer("barred", barred, persistent=False)

    def forward(
        self,
        queries: Tensor,
        target_idx: Tensor,
        exclude_idx: Tensor | None = None,
        *,
        log_weights: Tensor | None = None,
    ) -> Tensor:
        """The loss of a batch of queries.

        Args:
            queries: (b, d) float: rows need not be normalised for "cosine".
            target_idx: (b,) int64, the row of the bank that is each query's positive.
            exclude_idx: (b,) or (b, r) int64, rows that are no negatives of a query, its reference say; -1 fills up.
            log_weights: (b, n) float, further decisions about the bank; they take no gradient, and what they say of
                the target is not used.

        Returns:
            scalar, or (b,) for the reduction "none".

        Raises:
            ValueError: shapes that do not fit, rows outside the bank, a target that is excluded.
        """
        n, vectors = len(self.bank), self.bank.vectors
        checks.matrix("queries", queries, columns=vectors.shape[1])
        checks.same_length("target_idx", target_idx, "queries", queries)
        target = _rows("target_idx", target_idx, n).to(vectors.device)
        ids = _own_ids(self.bank.ids)
        known = ids[target][:, None]
        if exclude_idx is not None:
            known = torch.cat([known, _excluded(exclude_idx, target, ids)], 1)
        if log_weights is not None:
            checks.require(
                tuple(log_weights.shape) == (len(queries), n),
                f"log_weights must be ({len(queries)}, {n}), queries by rows of the bank: got "
                f"{tuple(log_weights.shape)}.",
            )
            log_weights = log_weights.detach()
        pool, place = self._pool(target)
        queries = queries.float() if queries.dtype in (torch.float16, torch.bfloat16) else queries

        def mass(part: slice) -> tuple[Tensor, Tensor]:
            """Log of the sum of exponentials over a part of the pool, and which queries have any term there."""
            rows = part if pool is None else pool[part]
            weights = known_positive_log_weights(known, ids[rows], dtype=queries.dtype)
            weights = weights.masked_fill(self.barred[rows], -torch.inf)
            if place is not None:
                weights = drop(~_inside(place, part), weights)
            if log_weights is not None:
                weights = weights + log_weights[:, rows].to(weights)
            weights = weights.to(queries.device)  # the bank may lie in the memory of another device
            logits = to_logits(similarity(queries, vectors[rows].to(queries), self.metric), self.temperature)
            nothing = logits.new_zeros(len(logits))
            total = contrastive_loss(nothing, [(logits, weights)], positive_in_denominator=False, reduction="none")
            return total[None], (weights > -torch.inf).any(1)[None]

        # The sum over the bank is the sum over its parts, so each part is one candidate with the logit of its mass.
        masses, present = by_rows(mass, n if pool is None else len(pool), self.chunk_size)
        own = similarity(queries, vectors[target].to(queries)[:, None, :], self.metric).squeeze(1)
        return contrastive_loss(
            to_logits(own, self.temperature),
            [(masses.T, drop(~present.T, dtype=masses.dtype))],
            reduction=self.reduction,
        )

    def _pool(self, target: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Rows that any query has drawn, and (b, num_negatives) where each query's are in them; None for all rows."""
        if self.num_negatives is None:
            return None, None
        drawn = draw_bank_negatives(len(self.bank), target, self.num_negatives, seed=self.generator)
        pool, place = torch.unique(drawn, return_inverse=True)
        return pool, place


def draw_bank_negatives(n: int, target_idx: Tensor, k: int, *, seed: Seed) -> Tensor:
    """Draw k rows of a bank for every query, without replacement and without its target.

    The partial bank of SPN4CIR (arXiv:2404.11317), with a shifted draw where the official code makes a list of the
    whole bank for every query.

    Args:
        n: rows of the bank.
        target_idx: (b,) int64, the target of each query.
        k: from 1 to n - 1.
        seed: seed or generator.

    Returns:
        (b, k) int64, ascending in each row.

    Raises:
        ValueError: k or a target outside its range.

    Example:
        >>> draw_bank_negatives(4, torch.tensor([0, 2]), 3, seed=0)
        tensor([[1, 2, 3],
                [0, 1, 3]])
    """
    checks.require(1 <= k < n, f"k must lie in 1..{n - 1}, the bank without the target: got {k}.")
    target = _rows("target_idx", target_idx, n)
    drawn = torch.from_numpy(distinct_columns(len(target), n - 1, k, as_generator(seed))).to(target.device)
    return drawn + (drawn >= target[:, None])


def _inside(place: Tensor, part: slice) -> Tensor:
    """(b, rows of the part) bool, which of them a query has drawn."""
    width = part.stop - part.start
    here = place - part.start
    here = torch.where((here >= 0) & (here < width), here, width)
    chosen = torch.zeros(len(place), width + 1, dtype=torch.bool, device=place.device)
    return chosen.scatter_(1, here, True)[:, :width]


def _own_ids(ids: Tensor) -> Tensor:
    """Ids under which rows that are nobody's known positive are told apart too."""
    strangers = ids.min() - 1 - torch.arange(len(ids), device=ids.device)
    return torch.where(ids == NO_ID, strangers, ids)


def _excluded(exclude_idx: Tensor, target: Tensor, ids: Tensor) -> Tensor:
    """The ids of excluded rows, (b, r), -1 where there is none."""
    rows = exclude_idx[:, None] if exclude_idx.ndim == 1 else exclude_idx
    checks.require(
        rows.ndim == 2 and len(rows) == len(target) and rows.dtype == torch.int64,
        f"exclude_idx must be ({len(target)},) or ({len(target)}, r) int64: got {tuple(exclude_idx.shape)} "
        f"{exclude_idx.dtype}.",
    )
    rows = rows.to(target.device)
    wrong = (rows < -1) | (rows >= len(ids))
    checks.require(
        not bool(wrong.any()), f"exclude_idx must lie in 0..{len(ids) - 1}, the rows of the bank, or be -1 for none."
    )
    clash = torch.nonzero((rows == target[:, None]).any(1)).flatten()
    checks.require(
        len(clash) == 0,
        f"exclude_idx must not name the target: it does for {len(clash)} queries, the first is query "
        f"{int(clash[0]) if len(clash) else ''}.",
    )
    return torch.where(rows >= 0, ids[rows.clamp(min=0)], NO_ID)


def _rows(name: str, rows: Tensor, n: int) -> Tensor:
    checks.require(
        rows.ndim == 1 and rows.dtype == torch.int64,
        f"{name} must be one-dimensional int64, rows of the bank: got {tuple(rows.shape)} {rows.dtype}.",
    )
    checks.require(len(rows) > 0, f"{name} must name at least one row: got none.")
    low, high = int(rows.min()), int(rows.max())
    checks.require(0 <= low and high < n, f"{name} must lie in 0..{n - 1}, the rows of the bank: got {low}..{high}.")
    return rows
