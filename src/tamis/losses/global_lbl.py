"""Global-batch load balancing: over which tokens the experts of a mixture must be used evenly.

The usual auxiliary loss of a mixture of experts multiplies, per expert, the share of tokens sent to it with its mean
probability, inside every micro-batch. A micro-batch holds a few sequences of one kind, so it forbids experts that
specialise. Here the shares are pooled over the global batch, over ranks and over steps of gradient accumulation, before
the loss is formed; the probabilities stay each rank's own. Because the shares are constants and the loss is linear in
the probabilities, only one integer per expert has to be communicated.
"""

from __future__ import annotations

from typing import Any, Literal, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from tamis import checks
from tamis.method import Method

Array = np.ndarray[Any, Any]
Kind = TypeVar("Kind", Array, Tensor)
Scope = Literal["micro", "sequence", "global"]
Scores = Literal["softmax", "sigmoid", "probabilities"]

METHOD = Method(
    title="Demons in the Detail: On Implementing Load Balancing Loss for Training Specialized Mixture-of-Expert Models",
    paper="arXiv:2501.11873",
    year=2025,
    claim="Balancing per micro-batch costs quality and specialisation; balancing globally costs less and balances.",
    peers=("transformers.models.mixtral.modeling_mixtral.load_balancing_loss_func",),
    deviations=(
        "weight_by_tokens makes the mean over ranks of uneven size exact",
        "counts are not taken in evaluation mode, nor when a checkpointed forward pass is computed again",
        "ties in the choice of experts go to the lower index",
    ),
)


def load_balancing_loss(
    router_probs_or_logits: Tensor,
    expert_indices: Tensor | None = None,
    *,
    num_experts: int,
    top_k: int,
    token_mask: Tensor | None = None,
    scope: Scope = "micro",
    segment_ids: Tensor | None = None,
    selection_frequency: Tensor | None = None,
    process_group: dist.ProcessGroup | None = None,
    normalize_by_top_k: bool = True,
    scores: Scores = "softmax",
    token_subset: Tensor | None = None,
    weight_by_tokens: bool = False,
) -> Tensor:
    """Load-balancing loss ``E sum_i f_i P_i``: f the share of selections, P the mean probability of each expert.

    The loss of Qiu et al. (arXiv:2501.11873) with f pooled as ``scope`` says. No gradient goes through f. The paper
    weighs it with 1e-2; adding the "micro" loss with 1 % of the weight of the "global" one evens out the steps. Average
    it over ranks and micro-batches as the main loss is averaged; where losses are summed per token instead, multiply
    it by the tokens it stands for.

    Args:
        router_probs_or_logits: (t, E) float, one row per token, see ``scores``.
        expert_indices: (t, top_k) int64, the experts each token goes to; None takes the most probable.
        num_experts: E.
        top_k: experts per token.
        token_mask: (t,) bool, True for tokens that count (not padding); None counts all.
        scope: "micro" pools f over these tokens; "sequence" makes one loss per segment and takes the mean; "global"
            pools f over the process group, or over these tokens where torch.distributed is not initialised.
        segment_ids: (t,) int64, the sequence of each token, for "sequence".
        selection_frequency: (E,) float with sum 1, f pooled by other means (``ExpertLoadTracker``), in place of f.
        process_group: for "global"; None is the default group. All of its ranks must call.
        normalize_by_top_k: f sums to 1, so perfect balance gives 1; False lets it sum to ``top_k``, as transformers
            does.
        scores: what the rows are: logits for a "softmax", logits for a "sigmoid" that is then divided by the row's
            sum, or "probabilities".
        token_subset: (t,) bool, count selections of these tokens alone, say a random subset of a global batch that is
            as large as a micro-batch; P keeps all tokens.
        weight_by_tokens: multiply by this rank's share of the group's tokens times the ranks, so that the mean over
            ranks is that of the whole batch when ranks hold unequal numbers of tokens.

    Returns:
        scalar, at least float32; 0 when no token counts.

    Raises:
        ValueError: top_k above num_experts, indices out of range, NaN, shapes or options that do not fit.

    Example:
        >>> probs = torch.tensor([[0.5, 0.3, 0.2], [0.6, 0.3, 0.1], [0.2, 0.2, 0.6], [0.4, 0.5, 0.1]])
        >>> round(load_balancing_loss(probs, num_experts=3, top_k=2, scores="probabilities").item(), 6)
        1.096875
    """
    checks.one_of("scope", scope, ("micro", "sequence", "global"))
    checks.one_of("scores", scores, ("softmax", "sigmoid", "probabilities"))
    checks.at_least("num_experts", num_experts, 1)
    checks.between("top_k", top_k, 1, num_experts)
    checks.matrix("router_probs_or_logits", router_probs_or_logits, columns=num_experts, allow_empty=True)
    t, device = len(router_probs_or_logits), router_probs_or_logits.device
    valid = _bool_mask("token_mask", token_mask, t, device)
    counted = valid & _bool_mask("token_subset", token_subset, t, device)
    checks.require(
        scope == "global" or not weight_by_tokens, f'weight_by_tokens needs scope="global": got scope={scope!r}.'
    )
    probs = _probabilities(router_probs_or_logits, scores, valid)
    if expert_indices is None:
        # A stable sort, because topk leaves open which of equal experts it takes.
        expert_indices = probs.detach().sort(dim=1, descending=True, stable=True).indices[:, :top_k]
    _check_indices(expert_indices, (t, top_k), num_experts, valid)

    segments, number = _segments(scope, segment_ids, valid)
    tokens = torch.bincount(segments[valid], minlength=number)
    places = segments[counted, None] * num_experts + expert_indices[counted]
    counts = torch.bincount(places.flatten(), minlength=number * num_experts).view(number, num_experts)
    weight: float | Tensor = 1.0
    if selection_frequency is not None:
        frequency = _given_frequency(selection_frequency, num_experts, scope, weight_by_tokens).to(probs.dtype)
    else:
        if scope == "global":
            pooled = _summed(torch.cat([counts[0], tokens]), process_group)
            counts = pooled[None, :-1]
            if weight_by_tokens:
                weight = (tokens[0] * _ranks(process_group)).to(probs.dtype) / pooled[-1].clamp(min=1)
        frequency = counts.to(probs.dtype) / counts.sum(1, keepdim=True).clamp(min=1)
    if not normalize_by_top_k:
        frequency = frequency * top_k
    sums = probs.new_zeros(number, num_experts).index_add(0, segments[valid], probs[valid])
    means = sums / tokens[:, None].clamp(min=1)
    # Without a token there is no segment under "sequence", and a mean of zeros otherwise.
    return num_experts * (frequency * means).sum() * weight / max(number, 1)


class ExpertLoadTracker(nn.Module):
    """Counts of selections over the micro-steps of an optimizer step: the buffer of Algorithm 1.

    After Qiu et al. (arXiv:2501.11873). Each micro-step: ``update``, then ``load_balancing_loss`` with ``frequency()``
    as its ``selection_frequency``; after the optimizer step: ``reset``. Early micro-steps see less than the whole
    batch, as in the paper. One tracker per layer. Nothing is counted in evaluation mode, nor within a backward pass,
    where activation checkpointing computes the forward pass a second time.

    Args:
        num_experts: E.

    Raises:
        ValueError: fewer than one expert.

    Example:
        >>> tracker = ExpertLoadTracker(3)
        >>> tracker.update(torch.tensor([[0, 1], [0, 2]]))
        >>> tracker.frequency()
        tensor([0.5000, 0.2500, 0.2500])
    """

    def __init__(self, num_experts: int) -> None:
        super().__init__()
        checks.at_least("num_experts", num_experts, 1)
        self.num_experts = num_experts
        # No buffer: DistributedDataParallel copies buffers of rank 0 to all others, and these are each rank's own.
        self._counts = torch.zeros(num_experts, dtype=torch.int64)

    def update(self, expert_indices: Tensor, *, token_mask: Tensor | None = None) -> None:
        """Add the selections of a micro-batch.

        Args:
            expert_indices: (t, top_k) int64.
            token_mask: (t,) bool, True for tokens that count.

        Raises:
            ValueError: indices out of range, shapes that do not fit.
        """
        checks.matrix("expert_indices", expert_indices, allow_empty=True)
        counted = _bool_mask("token_mask", token_mask, len(expert_indices), expert_indices.device)
        _check_indices(expert_indices, tuple(expert_indices.shape), self.num_experts, counted)
        if not self.training or torch._C._current_graph_task_id() != -1:
            return
        counts = torch.bincount(expert_indices[counted].flatten(), minlength=self.num_experts)
        self._counts = self._counts.to(counts.device) + counts

    def frequency(self, process_group: dist.ProcessGroup | None = None) -> Tensor:
        """The share of each expert since the last reset, over all ranks of the group.

        Args:
            process_group: None is the default group, or this process alone where there is none.

        Returns:
            (E,) float32 with sum 1; zeros when nothing was counted.
        """
        counts = _summed(self._counts, process_group)
        return counts.float() / counts.sum().clamp(min=1)

    def reset(self) -> None:
        """Forget all counts: call it after each optimizer step."""
        self._counts = torch.zeros_like(self._counts)

    def get_extra_state(self) -> Tensor:
        """The counts (E,) int64 for ``state_dict``.

        Returns:
            (E,) int64.
        """
        return self._counts.clone()

    def set_extra_state(self, state: Tensor) -> None:
        """Counts from a ``state_dict``.

        Args:
            state: (E,) int64.

        Raises:
            ValueError: counts of another number of experts.
        """
        checks.require(
            tuple(state.shape) == (self.num_experts,),
            f"the state must hold {self.num_experts} counts, one per expert: got shape {tuple(state.shape)}.",
        )
        self._counts = state.clone()


def expert_specialization(expert_indices: Kind, domain_ids: Kind, *, num_experts: int | None = None) -> dict[str, Any]:
    """How much the choice of experts says about the domain of a token, and how even the load is.

    The two ends that Qiu et al. (arXiv:2501.11873) trade off: specialisation and balance.

    Args:
        expert_indices: (t, top_k) int64.
        domain_ids: (t,) int, the domain of each token.
        num_experts: E; None is the highest index plus one.

    Returns:
        "mutual_information" of domain and expert in nats over all selections; "max_load", E times the largest share of
        an expert, 1 for perfect balance; "per_domain" (domains, E) float64, the shares within each domain, rising ids.

    Raises:
        ValueError: no tokens, indices out of range, shapes that do not fit.

    Example:
        >>> found = expert_specialization(np.array([[0], [0], [1], [1]]), np.array([5, 5, 7, 7]))
        >>> round(found["mutual_information"], 4), found["max_load"]
        (0.6931, 1.0)
    """
    chosen, domains = (
        torch.as_tensor(np.array(x) if isinstance(x, np.ndarray) else x) for x in (expert_indices, domain_ids)
    )
    checks.matrix("expert_indices", chosen)
    checks.require(domains.ndim == 1, f"domain_ids must be (t,): got shape {tuple(domains.shape)}.")
    checks.same_length("domain_ids", domains, "expert_indices", chosen)
    experts = int(chosen.max()) + 1 if num_experts is None else num_experts
    _check_indices(chosen, tuple(chosen.shape), experts, _bool_mask("", None, len(chosen), chosen.device))
    names, rows = torch.unique(domains, return_inverse=True)
    places = rows[:, None] * experts + chosen
    counts = torch.bincount(places.flatten(), minlength=len(names) * experts).view(len(names), experts).double()
    joint = counts / counts.sum()
    of_domain, of_expert = joint.sum(1, keepdim=True), joint.sum(0, keepdim=True)
    terms = torch.special.xlogy(joint, joint) - torch.special.xlogy(joint, of_domain * of_expert)
    per_domain = counts / counts.sum(1, keepdim=True)
    return {
        "mutual_information": max(0.0, float(terms.sum())),
        "max_load": float(experts * of_expert.max()),
        "per_domain": per_domain.numpy() if isinstance(expert_indices, np.ndarray) else per_domain,
    }


def _probabilities(rows: Tensor, scores: Scores, valid: Tensor) -> Tensor:
    """Probabilities (t, E) in float32 at least: a softmax in half precision would round the loss."""
    bad = int(rows.detach().isnan().any(1).sum())
    checks.require(bad == 0, f"router_probs_or_logits must hold no NaN: {bad} rows do.")
    rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
    if scores == "softmax":
        return torch.softmax(rows, 1)
    if scores == "sigmoid":
        gates = torch.sigmoid(rows)
        return gates / (gates.sum(1, keepdim=True) + 1e-20)
    given = rows.detach()[valid]
    off = int(((given < 0).any(1) | ((given.sum(1) - 1).abs() > 0.02)).sum())
    checks.require(
        off == 0,
        f"router_probs_or_logits must be rows of probabilities with sum 1: {off} rows are not; for logits take "
        'scores="softmax" or "sigmoid".',
    )
    return rows


def _segments(scope: Scope, segment_ids: Tensor | None, valid: Tensor) -> tuple[Tensor, int]:
    """The segment of each token, from 0 without gaps among the valid ones, and how many there are."""
    if scope != "sequence":
        return torch.zeros(len(valid), dtype=torch.int64, device=valid.device), 1
    if segment_ids is None:
        raise ValueError('segment_ids must be given for scope="sequence": got None.')
    checks.require(
        segment_ids.ndim == 1 and len(segment_ids) == len(valid),
        f"segment_ids must be ({len(valid)},), one per token: got shape {tuple(segment_ids.shape)}.",
    )
    names, inverse = torch.unique(segment_ids[valid], return_inverse=True)
    segments = torch.zeros(len(valid), dtype=torch.int64, device=valid.device)
    segments[valid] = inverse
    return segments, len(names)


def _given_frequency(frequency: Tensor, num_experts: int, scope: Scope, weight_by_tokens: bool) -> Tensor:
    checks.require(scope != "sequence", 'selection_frequency cannot be used with scope="sequence".')
    checks.require(not weight_by_tokens, "selection_frequency cannot be used with weight_by_tokens.")
    frequency = frequency.detach()
    checks.require(
        tuple(frequency.shape) == (num_experts,),
        f"selection_frequency must be ({num_experts},), one per expert: got shape {tuple(frequency.shape)}.",
    )
    total = float(frequency.sum())
    checks.require(
        bool((frequency >= 0).all()) and (abs(total - 1) < 1e-3 or total == 0),
        f"selection_frequency must be shares with sum 1: got the sum {total:.4g}.",
    )
    return frequency


def _summed(counts: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """Integer counts over the group; a copy, and without a group the counts themselves."""
    total = counts.clone()
    if _grouped():
        dist.all_reduce(total, group=group)
    return total


def _ranks(group: dist.ProcessGroup | None) -> int:
    return dist.get_world_size(group) if _grouped() else 1


def _grouped() -> bool:
    return dist.is_available() and dist.is_initialized()


def _check_indices(indices: Tensor, shape: tuple[int, ...], num_experts: int, valid: Tensor) -> None:
    checks.require(
        tuple(indices.shape) == shape and not indices.is_floating_point() and indices.dtype != torch.bool,
        f"expert_indices must be {shape} integers: got {tuple(indices.shape)} {indices.dtype}.",
    )
    looked_at = indices[valid]
    low, high = (int(looked_at.min()), int(looked_at.max())) if looked_at.numel() else (0, 0)
    checks.require(
        0 <= low and high < num_experts,
        f"expert_indices must lie in 0..{num_experts - 1}, the experts: got {low}..{high}.",
    )


def _bool_mask(name: str, mask: Tensor | None, t: int, device: torch.device) -> Tensor:
    if mask is None:
        return torch.ones(t, dtype=torch.bool, device=device)
    checks.require(
        tuple(mask.shape) == (t,) and mask.dtype == torch.bool,
        f"{name} must be ({t},) bool, one per token: got {tuple(mask.shape)} {mask.dtype}.",
    )
    return mask
