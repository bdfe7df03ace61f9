"""The k best passages of each query, by floors that are guessed and then verified.

Worth scoring is what may be among the k best of all passages, and how much those score is known only in the end. So
passages are met in blocks that are spread over all of them. A floor is guessed from the blocks so far, which are a fair
sample: they hold about ``k * share`` of the k best of all, so a place a little lower than that among their best stands
in for the k-th of all (``tamis.scan.stand_in``). Where k pairs reach the highest floor that a query was held to,
nothing was missed; the few queries where fewer do are searched again without a guess.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from tamis.ranked_keys import NOTHING, keys_of, merge, scores_of
from tamis.scan import Found, scan, stand_in

_FEW = 64  # queries for which rounding the passages takes longer than their products in float32


def best_pairs(
    queries: Tensor,
    passages: Tensor,
    keys: Tensor,
    *,
    barred: tuple[Tensor, Tensor] | None = None,
    ceiling: Tensor | None = None,
    precision: str = "auto",
    max_memory: int = 2**28,
    advance: Callable[[int], object] | None = None,
    release: Callable[[int, int], object] | None = None,
) -> Iterator[None]:
    """Fill in the keys of the k best passages of every query.

    Args:
        queries: (q, d) float, finite.
        passages: (n, d) float, finite.
        keys: (q, k) int64 of ``tamis.ranked_keys``, every place empty; filled in place.
        barred: CSR (indptr, columns) of pairs that do not count.
        ceiling: (q,) float32; only scores below it count.
        precision: as in ``scan``.
        max_memory: as in ``scan``.
        advance: as in ``scan``.
        release: as in ``scan``; where it is given, passages are read in their order and nothing is guessed.

    Yields:
        nothing, now and then: a moment to stop at.

    Example:
        >>> keys = torch.full((1, 2), NOTHING)
        >>> for _ in best_pairs(torch.eye(3)[1:2], torch.eye(3), keys):
        ...     pass
        >>> scores_of(keys).tolist()
        [[1.0, 0.0]]
    """
    floors = torch.full((len(keys),), -math.inf, dtype=torch.float32, device=keys.device)
    look = functools.partial(scan, max_memory=max_memory, count=keys.shape[1], release=release)
    spread = release is None
    found = look(
        queries, passages, floors, precision=precision, barred=barred, ceiling=ceiling, advance=advance, spread=spread
    )
    yield from _merged(found, keys, floors, ceiling, spread)
    known = scores_of(keys[:, -1])
    missed = (known < floors).nonzero()[:, 0]
    if len(missed) == 0:
        return
    again, floors = keys.new_full((len(missed), keys.shape[1]), NOTHING), known[missed]
    ceiling = None if ceiling is None else ceiling[missed]
    barred = None if barred is None else _rows(barred, missed)
    precision = "float32" if len(missed) < _FEW else precision
    own = queries[missed.to(queries.device)]
    found = look(own, passages, floors, precision=precision, barred=barred, ceiling=ceiling)
    yield from _merged(found, again, floors, ceiling, False)
    keys[missed] = again


def _merged(
    found: Iterator[Found], keys: Tensor, floors: Tensor, ceiling: Tensor | None, spread: bool
) -> Iterator[None]:
    """Let pairs compete for their places, and raise the floors after each block."""
    for some in found:
        rows, new, span = some.rows, keys_of(some.scores, some.columns), slice(some.start, some.stop)
        if ceiling is not None:
            kept = some.scores < ceiling[span][rows]
            rows, new = rows[kept], new[kept]
        merge(keys[span], rows, new)
        place = stand_in(keys.shape[1], some.share if spread else 1.0)
        floors[span] = torch.maximum(floors[span], scores_of(keys[span, place - 1]))
        yield


def _rows(csr: tuple[Tensor, Tensor], rows: Tensor) -> tuple[Tensor, Tensor]:
    """Some rows of a sparse matrix."""
    indptr, columns = csr
    sizes = indptr.diff()[rows]
    ends = torch.cat([indptr.new_zeros(1), sizes.cumsum(0)])
    places = torch.repeat_interleave(indptr[rows] - ends[:-1], sizes) + torch.arange(int(ends[-1]), device=rows.device)
    return ends, columns[places]
