"""Transductive clustering: a few labelled rows and all unlabelled ones decide together.

Each class has a prototype, each row a soft assignment; labelled rows are clamped to their class. Rows want to be near
their prototype and, over a k-nearest-neighbour graph, of the same class as their neighbours. A bound linearises the
graph's part, so all rows are updated at once in closed form, and the energy never rises: a step that would raise it is
shortened. With weight 0 this is soft k-means that starts from the labelled rows. Embeddings come from any frozen
encoder; the same object spreads a few seed labels over a pool.
"""

from __future__ import annotations

import math
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from tamis import checks, search
from tamis.method import Method

METHOD = Method(
    title="Transductive Few-Shot Learning: Clustering is All You Need?",
    paper="arXiv:2106.09516",
    year=2021,
    code="imtiazziko/LaplacianShot",
    claim="Clustering all queries of a few-shot task together beats the nearest prototype.",
    peers=("sklearn.semi_supervised.LabelSpreading",),
    deviations=(
        "the graph is made symmetric, which the bound asks for; symmetric=False is the official graph",
        "a step that would raise the energy is shortened, as graphs of neighbours are not positive semi-definite",
        "the energy that is reported is the one that is lowered, with the half that the official monitor leaves out",
        "without base classes the mean of the labelled rows is subtracted",
    ),
)

Array = np.ndarray[Any, Any]
Kind = TypeVar("Kind", Array, Tensor)
_TINY = 1e-20  # of the official code, inside the logarithm of an assignment


class TransductiveClusterClassifier:
    """Classify unlabelled rows all at once, from a few labelled ones and the shape of the whole.

    The objective and bound optimiser of arXiv:2106.09516: ``sum y d(x, P) / temperature - weight / 2 sum w <y, y> +
    sum y log y`` over soft assignments y and prototypes P. When not to use: on strongly unequal classes without
    clustering in the features; the nearest prototype is safer there.

    Args:
        n_neighbors: of the graph over the unlabelled rows, the row itself counted as in the official code: 3 are two
            others. 1 is no graph.
        laplacian_weight: of the graph; the official code tunes it in 0.1 to 1.5.
        prototype: "mean" (k-means), "mode" (k-modes, a Gaussian kernel) or "fixed", the means of the labelled rows.
        temperature: divides the distances; unit rows want about 0.1.
        normalize: "cl2n" subtracts a mean and scales to unit length, "l2n" only scales, None takes rows as they are.
        rectify: move the unlabelled rows onto the mean of the labelled ones first, and start from prototypes that
            count both.
        symmetric: make the graph symmetric.
        max_outer: rounds of assignments and prototypes.
        max_inner: updates of the assignments in a round.
        tol: relative change of the energy that ends either.

    Attributes:
        assignments_: (n_s + n_q, c) float, labelled rows first, each on the simplex.
        prototypes_: (c, d) float, in the space after ``normalize``.
        energies_: list of floats, after every update; never rises.
        n_iter_: rounds.
        classes_: (c,) the labels, sorted.

    Raises:
        ValueError: an option out of its range.

    Example:
        >>> seeds, rows = np.array([[0.0], [4.0]]), np.array([[1.0], [1.5], [2.5], [3.0]])
        >>> model = TransductiveClusterClassifier(n_neighbors=2, normalize=None)
        >>> model.fit_predict(seeds, np.array([0, 1]), rows).tolist()
        [0, 0, 1, 1]
    """

    assignments_: Any
    prototypes_: Any
    energies_: list[float]
    n_iter_: int
    classes_: Any

    def __init__(
        self,
        *,
        n_neighbors: int = 3,
        laplacian_weight: float = 1.0,
        prototype: Literal["mean", "mode", "fixed"] = "mean",
        temperature: float = 1.0,
        normalize: Literal["cl2n", "l2n"] | None = "cl2n",
        rectify: bool = False,
        symmetric: bool = True,
        max_outer: int = 20,
        max_inner: int = 20,
        tol: float = 1e-6,
    ) -> None:
        checks.at_least("n_neighbors", n_neighbors, 1)
        checks.at_least("laplacian_weight", laplacian_weight, 0.0)
        checks.one_of("prototype", prototype, ("mean", "mode", "fixed"))
        checks.positive("temperature", temperature)
        checks.one_of("normalize", normalize, ("cl2n", "l2n", None))
        checks.at_least("max_outer", max_outer, 1)
        checks.at_least("max_inner", max_inner, 1)
        checks.at_least("tol", tol, 0.0)
        self.n_neighbors, self.laplacian_weight, self.prototype = n_neighbors, laplacian_weight, prototype
        self.temperature, self.normalize, self.rectify, self.symmetric = temperature, normalize, rectify, symmetric
        self.max_outer, self.max_inner, self.tol = max_outer, max_inner, tol

    def fit_predict(
        self,
        X_support: Kind,
        y_support: Kind,
        X_query: Kind,
        *,
        base_mean: Kind | None = None,
        affinity: Kind | None = None,
    ) -> Kind:
        """The classes of the unlabelled rows.

        Args:
            X_support: (n_s, d) float, labelled rows.
            y_support: (n_s,) int, their labels.
            X_query: (n_q, d) float, unlabelled rows.
            base_mean: (d,) float, subtracted by "cl2n"; left out, the mean of the labelled rows.
            affinity: a graph over the unlabelled rows that you have, see ``laplacian_bound_update``; left out, that of
                their nearest neighbours.

        Returns:
            (n_q,) labels, of the kind of ``X_query``.

        Raises:
            ValueError: shapes that do not fit, values that are not finite, n_neighbors not below the unlabelled rows.
        """
        support, query = _rows("X_support", X_support), _rows("X_query", X_query)
        checks.matrix("X_query", query, columns=support.shape[1])
        labels = _plain(y_support)
        checks.require(
            labels.ndim == 1 and not labels.is_floating_point(),
            f"y_support must be (n,) integers: got shape {tuple(labels.shape)} {labels.dtype}.",
        )
        checks.same_length("y_support", labels, "X_support", support)
        classes, own = torch.unique(labels.to(support.device), return_inverse=True)
        support, query = self._normalized(support, query, base_mean)
        if self.rectify:
            query = query + (support.mean(0) - query.mean(0))
        rows = torch.cat([support, query])
        clamp = torch.cat([own, own.new_full((len(query),), -1)])
        hard = torch.nn.functional.one_hot(own, len(classes)).to(support)
        prototypes = _means(support, hard)
        if self.rectify:
            prototypes = _rectified(rows, hard, prototypes)
        edges = self._edges(query, affinity, len(support), len(rows))
        bandwidth = float(_distances(support, prototypes).gather(1, own[:, None]).mean()) or float(
            _distances(rows, prototypes).min(1).values.mean()
        )
        assignments, self.energies_ = None, []
        for outer in range(self.max_outer):
            self.n_iter_ = outer + 1
            unary = self._unary(rows, prototypes, bandwidth) / self.temperature
            before = self.energies_[-1] if self.energies_ else math.inf
            assignments, energies = laplacian_bound_update(
                unary, edges, self.laplacian_weight, clamp, start=assignments, max_iter=self.max_inner, tol=self.tol
            )
            self.energies_ += energies.tolist()
            if self.prototype == "fixed" or before - self.energies_[-1] <= self.tol * abs(self.energies_[-1]):
                break
            prototypes = self._moved(rows, assignments, prototypes, bandwidth)
        assert assignments is not None
        like = X_query
        self.assignments_, self.prototypes_ = _like(assignments, like), _like(prototypes, like)
        self.classes_ = _like(classes, like)
        found: Kind = _like(classes[assignments[len(support) :].argmax(1)], like)
        return found

    def _normalized(self, support: Tensor, query: Tensor, base_mean: Any) -> tuple[Tensor, Tensor]:
        if self.normalize == "cl2n":
            mean = support.mean(0) if base_mean is None else _plain(base_mean).to(support)
            checks.require(
                mean.shape == support.shape[1:],
                f"base_mean must have one entry per column: {support.shape[1]}, got shape {tuple(mean.shape)}.",
            )
            support, query = support - mean, query - mean
        if self.normalize is not None:
            support, query = (
                x / torch.linalg.vector_norm(x, dim=1, keepdim=True).clamp(min=1e-12) for x in (support, query)
            )
        return support, query

    def _edges(self, query: Tensor, affinity: Any, shift: int, size: int) -> Tensor:
        """The graph over all rows; that of the unlabelled ones begins at ``shift``."""
        if affinity is None:
            if self.laplacian_weight == 0 or self.n_neighbors == 1:
                return torch.empty(2, 0, dtype=torch.int64, device=query.device)
            return knn_affinity(query, self.n_neighbors, symmetric=self.symmetric) + shift
        graph = _plain(affinity).to(query.device)
        if not graph.is_floating_point():
            _check_edges(graph, size - shift)
            return graph.long() + shift
        checks.require(
            graph.shape == (size - shift, size - shift),
            f"affinity must be ({size - shift}, {size - shift}) float or (2, m) int: got shape {tuple(graph.shape)}.",
        )
        whole = query.new_zeros(size, size)
        whole[shift:, shift:] = graph
        return whole

    def _unary(self, rows: Tensor, prototypes: Tensor, bandwidth: float) -> Tensor:
        distances = _distances(rows, prototypes)
        return -torch.exp(-distances / (2 * bandwidth)) if self.prototype == "mode" else distances

    def _moved(self, rows: Tensor, assignments: Tensor, prototypes: Tensor, bandwidth: float) -> Tensor:
        if self.prototype == "mode":  # one step of the mean shift, which cannot lower the kernel's sum
            return _means(rows, assignments * torch.exp(-_distances(rows, prototypes) / (2 * bandwidth)))
        return _means(rows, assignments)


def laplacian_bound_update(
    unary: Kind,
    affinity: Kind,
    weight: float,
    clamp: Kind | None = None,
    *,
    start: Kind | None = None,
    max_iter: int = 20,
    tol: float = 1e-6,
) -> tuple[Kind, Kind]:
    """Soft assignments that lower the energy, all rows at once, until it stands still.

    The update ``y <- softmax(-unary + weight W y)`` of arXiv:2106.09516. It minimises a bound where W is symmetric and
    positive semi-definite; where it would raise the energy all the same, the step is halved until it does not.

    Args:
        unary: (n, c) float, cost of every class for every row.
        affinity: (2, m) int, pairs of rows that pull at each other with weight 1, both directions listed; or (n, n)
            float, not negative.
        weight: of the graph, at least 0.
        clamp: (n,) int, the class of rows whose assignment is fixed, -1 for free rows; None for none.
        start: (n, c) float, assignments to begin from; left out, ``softmax(-unary)``.
        max_iter: updates at the most.
        tol: relative change of the energy that ends.

    Returns:
        assignments (n, c), and energies (t,), at the start and after every update; in the dtype of ``unary``.

    Raises:
        ValueError: shapes that do not fit, a negative weight or affinity, values that are not finite.

    Example:
        >>> unary = np.array([[1.0, 9.0], [2.25, 6.25], [6.25, 2.25], [9.0, 1.0]])
        >>> pairs = np.array([[0, 1, 2, 3], [1, 0, 3, 2]])
        >>> laplacian_bound_update(unary, pairs, 1.0, max_iter=1)[0][:, 0].round(6).tolist()
        [0.999872, 0.993303, 0.006697, 0.000128]
    """
    checks.at_least("weight", weight, 0.0)
    checks.at_least("max_iter", max_iter, 1)
    cost = _rows("unary", unary)
    n, c = cost.shape
    graph = _plain(affinity).to(cost.device)
    if graph.is_floating_point():
        checks.require(graph.shape == (n, n), f"affinity must be ({n}, {n}): got shape {tuple(graph.shape)}.")
        checks.require(bool((graph >= 0).all()), "affinity must be finite and not negative.")
        graph = graph.to(cost)
    else:
        _check_edges(graph, n)
    fixed = None
    if clamp is not None:
        given = _plain(clamp).to(cost.device)
        checks.same_length("clamp", given, "unary", cost)
        checks.require(
            bool(((given >= -1) & (given < c)).all()),
            f"clamp must lie in -1..{c - 1}, the classes: got {given.tolist()}.",
        )
        held = given >= 0
        fixed = held, torch.nn.functional.one_hot(given[held].long(), c).to(cost)
    assignments = torch.softmax(-cost, 1) if start is None else _rows("start", start).clone()
    checks.same_shape("start", assignments, "unary", cost)
    if fixed is not None:
        assignments[fixed[0]] = fixed[1]
    pulled = _pull(graph, assignments)
    energies = [_energy(cost, assignments, pulled, weight)]
    for _ in range(max_iter):
        wanted = torch.softmax(-cost + weight * pulled, 1)
        if fixed is not None:
            wanted[fixed[0]] = fixed[1]
        step, energy = 1.0, math.inf
        while step > 1e-9:
            new = wanted if step == 1.0 else torch.lerp(assignments, wanted, step)
            its = _pull(graph, new)
            energy = _energy(cost, new, its, weight)
            if energy <= energies[-1]:
                break
            step /= 2
        if energy > energies[-1]:
            break
        assignments, pulled = new, its
        energies.append(energy)
        if energies[-2] - energy <= tol * abs(energy):
            break
    return _like(assignments, unary), _like(torch.tensor(energies, dtype=torch.float64, device=cost.device), unary)


def knn_affinity(X: Kind, k: int, *, symmetric: bool = True) -> Kind:
    """The pairs of a k-nearest-neighbour graph under Euclidean distance.

    The affinity of LaplacianShot, which arXiv:2106.09516 builds on. The search is exact in float32.

    Args:
        X: (n, d) float.
        k: neighbours, the row itself counted: 3 are two others.
        symmetric: list a pair in both directions when either row has the other among its neighbours, each once.

    Returns:
        (2, m) int64: rows and their neighbours, sorted.

    Raises:
        ValueError: k below 2 or not below n.

    Example:
        >>> knn_affinity(np.array([[1.0], [1.5], [2.5], [3.0]]), 2).tolist()
        [[0, 1, 2, 3], [1, 0, 3, 2]]
    """
    rows = _rows("X", X)
    checks.require(2 <= k < len(rows), f"n_neighbors must be at least 2 and below the {len(rows)} rows: got {k}.")
    centred = (rows - rows.mean(0)).float()
    # The largest of x y - |y|^2 / 2 over y is the nearest to x.
    beside = torch.cat([centred, -centred.square().sum(1, keepdim=True) / 2], 1)
    asked = torch.cat([centred, torch.ones_like(centred[:, :1])], 1)
    each = torch.arange(len(rows), device=rows.device)
    itself = torch.arange(len(rows) + 1, device=rows.device), each
    found = search.top_k(asked, beside, k - 1, exclude=itself)[1]
    edges = torch.stack([each.repeat_interleave(k - 1), found.flatten()])
    if symmetric:
        edges = torch.cat([edges, edges.flip(0)], 1)
    pairs: Kind = _like(torch.unique(edges, dim=1), X)
    return pairs


def _rectified(rows: Tensor, hard: Tensor, prototypes: Tensor) -> Tensor:
    """Prototypes over all rows, weighted by the softmax of ten times the cosine; labelled rows keep their class."""
    cosines = torch.nn.functional.normalize(rows, dim=1) @ torch.nn.functional.normalize(prototypes, dim=1).T
    weights = torch.softmax(10 * cosines, 1)
    weights[: len(hard)] = hard
    return _means(rows, weights)


def _energy(unary: Tensor, assignments: Tensor, pulled: Tensor, weight: float) -> float:
    entropy = assignments * assignments.clamp(min=_TINY).log()
    return float((assignments * unary - weight / 2 * assignments * pulled + entropy).sum())


def _pull(graph: Tensor, assignments: Tensor) -> Tensor:
    """(n, c), the sum of the neighbours' assignments."""
    if graph.is_floating_point():
        return graph @ assignments
    return torch.zeros_like(assignments).index_add_(0, graph[0], assignments[graph[1]])


def _means(rows: Tensor, weights: Tensor) -> Tensor:
    return weights.T @ rows / weights.sum(0)[:, None]


def _distances(rows: Tensor, prototypes: Tensor) -> Tensor:
    """(n, c) squared Euclidean distances."""
    cross = rows.square().sum(1, keepdim=True) - 2 * rows @ prototypes.T + prototypes.square().sum(1)
    return cross.clamp(min=0)


def _check_edges(graph: Tensor, n: int) -> None:
    checks.require(
        graph.ndim == 2 and len(graph) == 2 and bool(((graph >= 0) & (graph < n)).all()),
        f"affinity must be (2, m) rows from 0 to {n - 1}: got shape {tuple(graph.shape)}.",
    )


def _rows(name: str, value: Any) -> Tensor:
    rows = value.detach() if isinstance(value, Tensor) else torch.from_numpy(np.array(value, dtype=np.float64))
    checks.matrix(name, rows)
    checks.finite(name, rows)
    return rows.double()


def _plain(value: Any) -> Tensor:
    """A tensor as it is, anything else copied: what is read-only must not be shared."""
    return value.detach() if isinstance(value, Tensor) else torch.from_numpy(np.array(value))


def _like(value: Tensor, source: Any) -> Any:
    """A result of the kind of the input, floats in its dtype; all is computed in float64."""
    given = (
        source.dtype if isinstance(source, Tensor) else torch.from_numpy(np.empty(0, np.asarray(source).dtype)).dtype
    )
    made = value.to(given) if value.is_floating_point() and given.is_floating_point else value
    return made if isinstance(source, Tensor) else made.numpy()
