"""The loss: neighbours along edges as positives, meta-nodes as negatives; and the self-training target."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from tamis import checks
from tamis.contrastive import contrastive_loss, similarity
from tamis.negatives.pamc.graph import adjacency_power, check_edges

Assignment = Literal["hard", "soft"]
_FLOOR = math.log(1e-10)


def pamc_loss(
    z: Tensor,
    edge_index: Tensor,
    edge_weight: Tensor,
    assignments: Tensor,
    *,
    tau: float = 0.5,
    order_adjacency: int | None = None,
    assignment: Assignment = "hard",
    include_self: bool = True,
    log_weights: Tensor | None = None,
) -> Tensor:
    """Contrast of neighbours along edges against meta-nodes: ``-mean_i log p_i + mean_k log n_k``.

    The loss of PamC (arXiv:2209.14067) as in the official code: p_i sums ``gamma_ij exp(tau cos(z_i, z_j))`` over the
    edges of a node, a self loop with similarity 0, and log(p + 1e-10) is taken; n_k is that of ``metanode_negatives``.
    The two means are not of one size: log n over K meta-nodes is about log(N / K) below that over all N nodes.

    Args:
        z: (n, d) float, embeddings: rows need not be normalised, but the length of a row is its part in the meta-node.
        edge_index: (2, e) int64, edges from a node to its positives, say of ``normalised_adjacency``.
        edge_weight: (e,) float, gamma, not negative, taken without gradient.
        assignments: (n,) int64 cluster ids, or (n, k) float assignments.
        tau: multiplies similarities.
        order_adjacency: r, take ``A + A^2 + ... + A^r`` of these edges; None takes them as they are. In a loop call
            ``adjacency_power`` once instead.
        assignment: "hard" or "soft", see ``meta_nodes``.
        include_self: see ``metanode_negatives``.
        log_weights: see ``metanode_negatives``.

    Returns:
        scalar; of half-precision embeddings in float32.

    Raises:
        ValueError: for shapes that do not fit, ids or edges out of range, tau not positive, NaN or infinity.

    Example:
        >>> z, edges = torch.eye(2), torch.tensor([[0, 0, 1, 1], [0, 1, 0, 1]])
        >>> pamc_loss(z, edges, torch.full((4,), 0.5), torch.tensor([0, 1])).item()  # p = 1, n = 2
        0.6931471824645996
    """
    log_n = metanode_negatives(
        z, assignments, tau, assignment=assignment, include_self=include_self, log_weights=log_weights
    )
    check_edges(edge_index, edge_weight, len(z))
    if order_adjacency is not None:
        edge_index, edge_weight = adjacency_power(edge_index, edge_weight, order_adjacency, n_nodes=len(z))
    log_p = _log_positives(_unit_rows(_at_least_float32(z)), edge_index, edge_weight, tau)
    return log_n.mean() - log_p.mean()


def metanode_negatives(
    z: Tensor,
    assignments: Tensor,
    tau: float = 0.5,
    *,
    assignment: Assignment = "hard",
    include_self: bool = True,
    log_weights: Tensor | None = None,
) -> Tensor:
    """The negative term of each meta-node, ``log sum_l exp(tau cos(mu_k, mu_l))``.

    The second term of PamC's loss (arXiv:2209.14067). With every row a cluster of its own it is the dense term.

    Args:
        z: (n, d) float, embeddings.
        assignments: (n,) int64 cluster ids, or (n, k) float assignments.
        tau: multiplies similarities.
        assignment: "hard" or "soft", see ``meta_nodes``.
        include_self: a meta-node counts in its own sum with similarity 0, that is with 1, as in the official code.
            False is the paper's sum over the others; a lone cluster then has no term and gives 0.
        log_weights: (k, k) float or None, decisions on pairs of clusters by id: 0 keeps, ``-inf`` drops; without
            gradient, and without effect on the diagonal.

    Returns:
        (m,) float, of the m clusters that are not empty, in order of id: the logarithm, which no tau overflows.

    Raises:
        ValueError: for shapes that do not fit, ids out of range, tau not positive, numbers that are not finite.

    Example:
        >>> metanode_negatives(torch.eye(2), torch.tensor([0, 1])).exp()
        tensor([2., 2.])
    """
    checks.positive("tau", tau)
    present, nodes = _meta_nodes(z, assignments, assignment)
    unit = _unit_rows(nodes)
    logits = similarity(unit, unit, "dot") * tau
    if log_weights is None:
        weights = torch.zeros_like(logits)
    else:
        k = log_weights.shape[0]
        checks.matrix("log_weights", log_weights, columns=k)
        checks.require(
            int(present[-1]) < k,
            f"log_weights must have a row for every cluster: got {k} rows, and cluster {int(present[-1])}.",
        )
        bad = log_weights.isnan() | log_weights.isposinf()
        checks.require(not bool(bad.any()), "log_weights must be numbers or -inf: got NaN or +inf.")
        weights = log_weights.detach().to(logits.dtype)[present][:, present]
    # A meta-node beside itself has similarity 0: the positive of the core with the logit 0.
    others = weights.masked_fill(torch.eye(len(unit), dtype=torch.bool, device=unit.device), -torch.inf)
    return contrastive_loss(
        logits.new_zeros(len(unit)), [(logits, others)], positive_in_denominator=include_self, reduction="none"
    )


def meta_nodes(z: Tensor, assignments: Tensor, *, assignment: Assignment = "hard") -> Tensor:
    """The sum of the embeddings of each cluster; clusters that are empty are left out.

    The meta-nodes of PamC (arXiv:2209.14067). "hard" sums rows by id, or by the largest assignment, through which no
    gradient flows (the official code); "soft" is ``Q^T z`` (the paper's text), with gradients of both.

    Args:
        z: (n, d) float.
        assignments: (n,) int64 cluster ids, or (n, k) float, not negative.
        assignment: "hard" or "soft"; "soft" needs (n, k).

    Returns:
        (m, d) float, of the m clusters that are not empty, in order of id.

    Raises:
        ValueError: for shapes that do not fit, negative ids or assignments, numbers that are not finite.

    Example:
        >>> meta_nodes(torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0]]), torch.tensor([0, 0, 2]))
        tensor([[1., 1.],
                [2., 2.]])
    """
    return _meta_nodes(z, assignments, assignment)[1]


def student_t_assignment(z: Tensor, centres: Tensor, *, degrees: float = 1.0) -> Tensor:
    """Soft assignment of rows to centres by a Student-t kernel, rows summing to one.

    Equation 1 of DEC (arXiv:1511.06335), used by PamC: ``(1 + |z - c|^2 / v)^(-(v + 1) / 2)``, normalised.

    Args:
        z: (n, d) float.
        centres: (k, d) float.
        degrees: v, degrees of freedom.

    Returns:
        (n, k) float.

    Raises:
        ValueError: for shapes that do not fit, or degrees not positive.

    Example:
        >>> student_t_assignment(torch.tensor([[0.0]]), torch.tensor([[0.0], [1.0]]))
        tensor([[0.6667, 0.3333]])
    """
    checks.positive("degrees", degrees)
    checks.matrix("z", z)
    checks.matrix("centres", centres, columns=z.shape[1])
    z, centres = _at_least_float32(z), _at_least_float32(centres)
    squares = z.square().sum(1, keepdim=True) + centres.square().sum(1) - 2 * z @ centres.T
    kernel = (1 + squares.clamp_min(0) / degrees) ** (-(degrees + 1) / 2)
    return kernel / kernel.sum(1, keepdim=True)


def dec_target(q: Tensor) -> Tensor:
    """The sharpened target of self-training: ``q^2 / f`` with f the column sums, rows summing to one.

    Equation 3 of DEC (arXiv:1511.06335), used by PamC.

    Args:
        q: (n, k) float, soft assignments.

    Returns:
        (n, k) float, without gradient.

    Raises:
        ValueError: unless q is a matrix of finite numbers that are not negative, with a positive one in every row.

    Example:
        >>> dec_target(torch.tensor([[0.9, 0.1], [0.5, 0.5]]))
        tensor([[0.9720, 0.0280],
                [0.3000, 0.7000]])
    """
    _check_soft("q", q)
    q = _at_least_float32(q.detach())
    frequency = q.sum(0)
    sharpened = q.square() / torch.where(frequency > 0, frequency, torch.ones_like(frequency))
    return sharpened / sharpened.sum(1, keepdim=True)


def _meta_nodes(z: Tensor, assignments: Tensor, assignment: Assignment) -> tuple[Tensor, Tensor]:
    """Ids of the clusters that are not empty, and their sums."""
    checks.one_of("assignment", assignment, ("hard", "soft"))
    checks.matrix("z", z)
    checks.finite("z", z.detach())
    checks.same_length("assignments", assignments, "z", z)
    z = _at_least_float32(z)
    if assignments.ndim == 1:
        checks.require(assignment == "hard", "assignments must be (n, k) for soft meta-nodes: got cluster ids (n,).")
        checks.require(
            not assignments.is_floating_point() and int(assignments.min()) >= 0,
            f"assignments as ids must be integers from 0: got {assignments.min().item()} {assignments.dtype}.",
        )
        ids = assignments
    else:
        _check_soft("assignments", assignments)
        if assignment == "soft":
            present = torch.nonzero(assignments.detach().sum(0) > 0).flatten()
            return present, (assignments.to(z.dtype).T @ z)[present]
        ids = assignments.detach().argmax(1)
    present, place = ids.unique(return_inverse=True)  # type: ignore[no-untyped-call]
    return present, z.new_zeros(len(present), z.shape[1]).index_add(0, place, z)


def _log_positives(unit: Tensor, edge_index: Tensor, edge_weight: Tensor, tau: float) -> Tensor:
    """log(p + 1e-10) of every node, the sum over its edges taken around the largest term."""
    rows, columns = edge_index
    cosines = (unit[rows] * unit[columns]).sum(1)
    logits = tau * torch.where(rows == columns, torch.zeros_like(cosines), cosines)
    logits = logits + edge_weight.detach().to(unit.dtype).log()
    peak = logits.new_full((len(unit),), _FLOOR).scatter_reduce(0, rows, logits.detach(), "amax")
    floor = (_FLOOR - peak).exp()
    return floor.index_add(0, rows, (logits - peak[rows]).exp()).log() + peak


def _unit_rows(rows: Tensor) -> Tensor:
    """Rows of length one; those of length zero stay zero and take no gradient, which would be of size 1e12."""
    empty = (rows.detach() == 0).all(1, keepdim=True)
    return torch.nn.functional.normalize(rows.masked_fill(empty, 0.0), dim=1)


def _check_soft(name: str, q: Tensor) -> None:
    checks.matrix(name, q)
    checks.finite(name, q.detach())
    checks.require(
        q.is_floating_point() and float(q.detach().min()) >= 0,
        f"{name} must be floats, not negative: got {float(q.detach().min()):g} {q.dtype}.",
    )
    checks.require(
        bool((q.detach() > 0).any(1).all()), f"{name} must have a positive number in every row: a row has none."
    )


def _at_least_float32(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
