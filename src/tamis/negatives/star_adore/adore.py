"""ADORE: the query encoder against an index that stands still, with negatives of this very step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from tamis import checks
from tamis.contrastive import drop, similarity
from tamis.extra_negatives import NO_ID, DynamicIndex, known_positive_log_weights
from tamis.recompute import by_rows

Gain = Literal["mrr", "dcg"] | Callable[[Tensor], Tensor] | None
Reduction = Literal["mean", "sum", "none"]

_GATHERED = 2**24  # numbers of gathered documents at a time, 64 MB in float32


class LambdaPairLoss(nn.Module):
    """Logistic loss of every (positive, negative) pair of a ranked list, by what their exchange does to a metric.

    The loss of ADORE (arXiv:2104.08051) after LambdaRank: ``|g(r_i) - g(r_j)| softplus(-sigma (y_i - y_j))`` over
    positives i and negatives j, divided by the number of pairs of the list.

    Args:
        metric: gain g of a rank: "mrr" is 1 / r, "dcg" is 1 / log2(1 + r); a function of ranks (b, k) float, from 1,
            gives any other; None weighs all pairs alike.
        cut: g is 0 at ranks beyond; a query whose positive stands deeper then learns from the first ranks only.
        sigma: steepness of the logistic.

    Raises:
        ValueError: unknown metric, cut below 1 or without a metric, sigma not positive.

    Example:
        >>> scores, labels = torch.tensor([[3.0, 2.5, 2.0, 1.0]]), torch.tensor([[False, False, True, False]])
        >>> round(LambdaPairLoss()(scores, labels).item(), 6), round(LambdaPairLoss(cut=2)(scores, labels).item(), 6)
        (0.354653, 0.6001)
    """

    def __init__(self, metric: Gain = "mrr", *, cut: int | None = None, sigma: float = 1.0) -> None:
        super().__init__()
        if metric is not None and not callable(metric):
            checks.one_of("metric", metric, ("mrr", "dcg"))
        if cut is not None:
            checks.at_least("cut", cut, 1)
            checks.require(metric is not None, f"cut must be None where no metric is: got {cut}.")
        checks.positive("sigma", sigma)
        self.metric = metric
        self.cut = cut
        self.sigma = sigma

    def forward(
        self,
        scores: Tensor,
        labels: Tensor,
        *,
        ranks: Tensor | None = None,
        log_weights: Tensor | None = None,
        reduction: Reduction = "mean",
    ) -> Tensor:
        """The loss of lists in the order of their retrieval.

        Args:
            scores: (b, k) float, best first.
            labels: (b, k) bool or 0/1, which are positives.
            ranks: (b, k), from 1; default the position in the list. No gradient.
            log_weights: (b, k) float, -inf is a place without a document, a finite number lets one count as
                ``exp(log_weights)`` documents. No gradient.
            reduction: "mean" or "sum" over lists, or "none".

        Returns:
            scalar, or (b,) for "none". float32 for half-precision scores.

        Raises:
            ValueError: shapes that do not fit, NaN or infinity, ranks below 1, a list that is all positives or has
                none.
        """
        checks.one_of("reduction", reduction, ("mean", "sum", "none"))
        checks.matrix("scores", scores)
        checks.finite("scores", scores.detach())
        checks.same_shape("labels", labels, "scores", scores)
        scores = scores.float() if scores.dtype in (torch.float16, torch.bfloat16) else scores
        weights = torch.ones_like(scores)
        if log_weights is not None:
            checks.same_shape("log_weights", log_weights, "scores", scores)
            bad = log_weights.isnan() | log_weights.isposinf()
            checks.require(not bool(bad.any()), "log_weights must be numbers or -inf: got NaN or +inf.")
            weights = log_weights.detach().to(scores.dtype).exp()
        places = torch.arange(1, scores.shape[1] + 1, device=scores.device).expand(scores.shape)
        if ranks is not None:
            checks.same_shape("ranks", ranks, "scores", scores)
            checks.require(bool((ranks[weights > 0] >= 1).all()), "ranks must begin at 1: got a lower one.")
            places = ranks.clamp(min=1)
        right = labels.bool()
        of_positives, of_negatives = weights.masked_fill(~right, 0.0), weights.masked_fill(right, 0.0)
        for kind, total in (("positive", of_positives.sum(1)), ("negative", of_negatives.sum(1))):
            lost = (total <= 0).nonzero().flatten()
            checks.require(
                len(lost) == 0,
                f"labels must leave every list a {kind}: {len(lost)} have none, the first is row "
                f"{int(lost[0]) if len(lost) else 0}; ask for longer lists or leave the query out.",
            )
        # Positives are few: pairs are (b, positives of the longest row, k).
        columns = right.int().argsort(dim=1, descending=True, stable=True)[:, : int(right.sum(1).max())]
        losses = softplus(-self.sigma * (scores.gather(1, columns)[:, :, None] - scores[:, None, :]))
        pairs = of_positives.gather(1, columns)[:, :, None] * of_negatives[:, None, :]
        if self.metric is not None:
            gains = self._gains(places.to(scores.dtype))
            losses = losses * (gains.gather(1, columns)[:, :, None] - gains[:, None, :]).abs()
        values = (pairs * losses).sum((1, 2)) / (of_positives.sum(1) * of_negatives.sum(1))
        if reduction == "none":
            return values
        return values.mean() if reduction == "mean" else values.sum()

    def _gains(self, ranks: Tensor) -> Tensor:
        with torch.no_grad():
            if callable(self.metric):
                gains = self.metric(ranks)
                checks.same_shape("what metric returns", gains, "ranks", ranks)
            else:
                gains = 1 / ranks if self.metric == "mrr" else 1 / torch.log2(1 + ranks)
            return gains if self.cut is None else gains.masked_fill(ranks > self.cut, 0.0)


def adore_step(
    query_embeddings: Tensor,
    index: DynamicIndex,
    positives: Tensor,
    *,
    top_k: int = 200,
    metric: Gain = "mrr",
    metric_cut: int | None = None,
    sigma: float = 1.0,
    true_rank: bool = False,
) -> tuple[Tensor, dict[str, float]]:
    """One step of query-side training: search with these vectors, label, and weigh the pairs of the list.

    ADORE (arXiv:2104.08051): the top of the whole index under the current queries, scores with gradient, and
    ``LambdaPairLoss``. A query that retrieved none of its positives has all of them put at the end of its list. Give
    vectors of one forward pass: a second one with dropout would rank otherwise. Passages never learn here, so this is
    for the last phase; where unlabelled positives are many, the top of the index is full of them.

    Args:
        query_embeddings: (b, d) float, with gradient.
        index: of all passages; it takes no gradient.
        positives: (b,) or (b, r) int64, ids of each query's known positives in the index; -1 fills up shorter rows.
        top_k: documents retrieved per query; must exceed the positives.
        metric: see ``LambdaPairLoss``.
        metric_cut: ``cut`` of ``LambdaPairLoss``; the paper's runs have ``top_k``, which leaves appended positives
            without a gain.
        sigma: see ``LambdaPairLoss``.
        true_rank: weigh positives that were not retrieved by their rank in the whole index, at the cost of another
            pass over it. The official code gives them the next places of the list, top_k + 1 and so on.

    Returns:
        loss, a scalar, and a dict of means over queries: "mrr" within the retrieved list, "recall" of the known
        positives in it, and "appended", the share of queries that retrieved none.

    Raises:
        ValueError: top_k above the index, a query without positives, with one twice, or with one that the index does
            not hold; a list that is all positives; numbers that are not finite.

    Example:
        >>> index = DynamicIndex(torch.tensor([[3.0], [2.5], [2.0], [1.0]]))
        >>> loss, stats = adore_step(torch.ones(1, 1), index, torch.tensor([2]), top_k=4)
        >>> round(loss.item(), 6), round(stats["mrr"], 4)
        (0.354653, 0.3333)
    """
    checks.matrix("query_embeddings", query_embeddings, columns=index.vectors.shape[1])
    known = _known("positives", positives, len(query_embeddings)).to(index.ids.device)
    indptr, own_rows = index.rows_of(known.reshape(-1))
    absent = (indptr.diff().view(known.shape) == 0) & (known != NO_ID)
    indptr = indptr[:: known.shape[1]]
    in_index = indptr.diff()
    _no_row(absent.any(1), "positives must be ids of the index: {n} queries have one that it does not hold")
    queries = query_embeddings.detach()
    _, rows = index.search(queries.float() if queries.dtype == torch.float64 else queries, top_k)
    rows = rows.to(known.device)
    labels = known_positive_log_weights(known, index.ids[rows]).isneginf()
    missed = ~labels.any(1)
    ranks = torch.arange(1, top_k + 1, device=known.device).expand(rows.shape)
    hits = labels
    if bool(missed.any()):
        nth = torch.arange(int(in_index[missed].max()), device=known.device)
        there = missed[:, None] & (nth < in_index[:, None])
        extra = own_rows[torch.where(there, indptr[:-1, None] + nth, 0)]
        rows = torch.cat([rows, torch.where(there, extra, -1)], 1)
        labels = torch.cat([labels, there], 1)
        ranks = torch.cat([ranks, (top_k + 1 + nth).expand(there.shape)], 1)
    scores = _scores(query_embeddings, index, rows)
    if true_rank and bool(missed.any()):
        ranks = ranks.clone()
        ranks[missed, top_k:] = _true_ranks(queries[missed], index, rows[missed, top_k:], top_k)
    loss = LambdaPairLoss(metric, cut=metric_cut, sigma=sigma)(
        scores,
        labels.to(scores.device),
        ranks=ranks.to(scores.device),
        log_weights=drop((rows < 0).to(scores.device), dtype=scores.dtype),
    )
    first = torch.where(hits.any(1), 1 / (1 + hits.int().argmax(1)), 0.0)
    stats = {
        "mrr": float(first.mean()),
        "recall": float((hits.sum(1) / in_index).mean()),
        "appended": float(missed.float().mean()),
    }
    return loss, stats


def _known(name: str, ids: Tensor, rows: int) -> Tensor:
    """(b, r) ids, checked: every row has one, and none twice."""
    table = ids[:, None] if ids.ndim == 1 else ids
    checks.require(
        table.ndim == 2 and table.dtype == torch.int64 and len(table) == rows,
        f"{name} must be ({rows},) or ({rows}, r) int64 ids: got {tuple(ids.shape)} {ids.dtype}.",
    )
    _no_row((table == NO_ID).all(1), f"{name} must hold one or more for every query: {{n}} queries have none")
    ordered = table.sort(1).values
    twice = ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] != NO_ID)).any(1)
    _no_row(twice, f"{name} must name a passage once: {{n}} queries name one twice")
    return table


def _no_row(bad: Tensor, message: str) -> None:
    found = bad.nonzero().flatten()
    if len(found):
        raise ValueError(f"{message.format(n=len(found))}, the first is row {int(found[0])}.")


def _scores(queries: Tensor, index: DynamicIndex, rows: Tensor) -> Tensor:
    """Inner products (b, k) of each query with its own documents, a block of queries at a time."""
    places = rows.clamp(min=0)

    def block(part: slice) -> tuple[Tensor]:
        return (similarity(queries[part], index.vectors[places[part]].to(queries), "dot"),)

    (scores,) = by_rows(block, len(queries), max(1, _GATHERED // (rows.shape[1] * queries.shape[1])))
    return scores


def _true_ranks(queries: Tensor, index: DynamicIndex, rows: Tensor, top_k: int) -> Tensor:
    """(b, p): one more than the documents of the index that score higher, counted a block of documents at a time."""
    vectors = index.vectors
    places, wanted = rows.clamp(min=0).to(vectors.device), _scores(queries, index, rows).to(vectors.device)
    ranks = torch.ones_like(places)
    size = max(1, _GATHERED // max(len(queries), queries.shape[1]))
    for start in range(0, len(vectors), size):
        found = similarity(queries.to(vectors.device), vectors[start : start + size].to(queries.dtype), "dot")
        for column, score in enumerate(wanted.unbind(1)):
            above = found > score[:, None]
            # Rounding may put a document above itself, as its two scores come from different products.
            own = places[:, column] - start
            inside = (own >= 0) & (own < above.shape[1])
            above[inside.nonzero().flatten(), own[inside]] = False
            ranks[:, column] += above.sum(1)
    return ranks.clamp(min=top_k + 1).to(rows.device)
