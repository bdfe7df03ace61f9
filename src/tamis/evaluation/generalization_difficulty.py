"""Inductive bias complexity: how many bits beyond the training data a learner must bring to generalise on a task.

Of all functions on a sphere of the data's intrinsic dimension, up to the frequency that tells the classes apart, most
fit the training data and only few also generalise; minus the logarithm of that share is the difficulty. It depends on
the data through a handful of numbers: rows, intrinsic dimension, norm, separation of the classes, how many there are.
The bits are an upper bound and astronomical, so all is computed in logarithms; they compare data sets, sizes and label
sets under equal settings of the estimators, before anything is trained.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from tamis import checks, search
from tamis.method import Method
from tamis.randomness import Seed, as_generator

METHOD = Method(
    title="Model-agnostic Measure of Generalization Difficulty",
    paper="arXiv:2305.01034",
    year=2023,
    code="FieteLab/inductive-bias-complexity",
    claim="The official difficulties of four image sets come out to six digits, and difficulty grows with dimension.",
    peers=("scikit-dimension",),
    deviations=(
        "zero distances are left out of the estimate of the dimension",
        "supervised classification only: no formulas for reinforcement learning and meta-learning",
        "few data give fewer random pairs than 4,000,000, and then the extreme values are a smaller number",
    ),
)

Array = np.ndarray[Any, Any]
_LN2 = math.log(2)
_BLOCK = 2**22  # numbers in a block of distances


@dataclass(frozen=True)
class Complexity:
    """The difficulty of a task.

    Args:
        bits: needed beyond the data; 0 when the data determine the function, infinite beyond the range of a float.
        log2_bits: the logarithm of the bits to base 2, finite far beyond; ``-inf`` for none.
        data_determined: more equations than unknowns, or an error so large that nothing is asked.
        terms: what it is made of: degree K, ln_E, ln_W (distance of train and test), bracket (bits per unknown),
            ln_dim_theta, ln_dim_q.
    """

    bits: float
    log2_bits: float
    data_determined: bool
    terms: dict[str, float]


@dataclass(frozen=True)
class TaskDifficulty:
    """The difficulty of a data set, and what was measured for it.

    Args:
        complexity: at the measured separation.
        low: log2 of the bits, 2.5 % quantile over resampled rows.
        high: likewise, 97.5 %.
        intrinsic_dim: rounded, at least 1.
        radius: the largest norm.
        delta: the separation of the classes.
    """

    complexity: Complexity
    low: float
    high: float
    intrinsic_dim: int
    radius: float
    delta: float


def inductive_bias_complexity(
    error: float,
    n: int,
    intrinsic_dim: float,
    radius: float,
    n_discrete: int,
    delta: float,
    output_dim: int,
    bound: float = 1.0,
) -> Complexity:
    """Bits of inductive bias that generalising to an error asks for.

    The practical bound of arXiv:2305.01034, as in the official code. When not to use: to compare numbers that were made
    with different estimators of dimension or separation; the separation weighs more than anything else.

    Args:
        error: to be reached, over the Lipschitz constant of the loss.
        n: training rows.
        intrinsic_dim: of the data, at least 1.
        radius: the largest norm of a row, in the units of ``delta``.
        n_discrete: combinations of discrete features; the classes, for classification.
        delta: the least distance of two rows of different classes.
        output_dim: of the function; classes less one.
        bound: the largest value of the function.

    Returns:
        the difficulty.

    Raises:
        ValueError: for a number out of its range.

    Example:
        >>> round(inductive_bias_complexity(0.01, 100, 2, 1.0, 2, 0.5, 1).bits, 4)
        5226.0345
    """
    for name, value in (("error", error), ("radius", radius), ("delta", delta), ("bound", bound)):
        checks.positive(name, value)
    for name, value in (("n", n), ("intrinsic_dim", intrinsic_dim), ("n_discrete", n_discrete)):
        checks.at_least(name, value, 1)
    checks.at_least("output_dim", output_dim, 1)
    m, frequency = intrinsic_dim, 2 * math.pi * radius / delta
    # The root of K (K + m - 1) = M^2, written without the difference of two large numbers.
    degree = 2 * frequency**2 / (math.hypot(m - 1, 2 * frequency) + (m - 1))
    ln_harmonics = float(np.logaddexp(_ln_binomial(m + degree, m), _ln_binomial(m + degree - 1, m)))
    sphere = _LN2 + (m + 1) / 2 * math.log(math.pi) + math.log(n_discrete) - math.lgamma((m + 1) / 2)
    ln_distance = 0.5 * math.log(m / 6) + sphere / m + math.log(radius) - math.log(n) / m
    lipschitz = degree * math.sqrt(output_dim) / radius
    bracket = (
        math.log(bound) + 0.5 * math.log(output_dim) + 0.5 * math.log(n_discrete)
        - math.log(error) + math.log(lipschitz) + ln_distance
    ) / _LN2  # fmt: skip
    ln_unknowns = math.log(2 * output_dim * n_discrete) + ln_harmonics
    excess = ln_unknowns - math.log(n * output_dim)
    ln_free = ln_unknowns + math.log(-math.expm1(-excess)) if excess > 0 else -math.inf
    terms = {
        "K": degree, "ln_E": ln_harmonics, "ln_W": ln_distance, "bracket": bracket,
        "ln_dim_theta": ln_unknowns, "ln_dim_q": ln_free,
    }  # fmt: skip
    if excess <= 0 or bracket <= 0:
        return Complexity(0.0, -math.inf, True, terms)
    log2_bits = ln_free / _LN2 + math.log2(bracket)
    bits = math.exp(ln_free) * bracket if ln_free < 690 else math.inf
    return Complexity(bits, log2_bits, False, terms)


def intrinsic_dimension(X: Array, k: int = 5, n_samples: int = 10_000, *, seed: Seed = 0) -> float:
    """The intrinsic dimension of rows, from how fast their nearest neighbours move away.

    The maximum-likelihood estimate ``1 / mean(ln T_k - ln T_j)`` over sampled rows and j = 1 .. k - 1, as in the
    official code of arXiv:2305.01034. Noisy for small k.

    Args:
        X: (n, d) float.
        k: neighbours, the row itself not counted.
        n_samples: rows whose neighbours, among all rows, are looked up.
        seed: of the sample.

    Returns:
        the dimension, not rounded.

    Raises:
        ValueError: fewer than two neighbours, not more rows than neighbours, or no two distances that differ.

    Example:
        >>> line = np.outer(np.random.default_rng(0).random(2000), [3.0, 4.0, 12.0])
        >>> round(intrinsic_dimension(line), 1)
        1.0
    """
    rows = _rows(X)
    checks.at_least("n_samples", n_samples, 1)
    checks.require(2 <= k < len(rows), f"k must be at least 2 and below the {len(rows)} rows: got {k}.")
    rng = as_generator(seed)
    asked = np.arange(len(rows)) if n_samples >= len(rows) else rng.choice(len(rows), n_samples, replace=False)
    centred = rows - rows.mean(0)
    beside = np.concatenate([centred, -(centred**2).sum(1, keepdims=True) / 2], 1).astype(np.float32)
    ahead = np.concatenate([centred, np.ones((len(rows), 1))], 1).astype(np.float32)[asked]
    found = search.top_k(ahead, beside, k, exclude=(np.arange(len(asked) + 1), asked))[1]
    logs = []
    for block in _blocks(len(asked), k * rows.shape[1]):
        steps = rows[found[block]] - rows[asked[block], None]
        distances = np.sort(np.sqrt((steps**2).sum(2)), 1)
        near, far = distances[:, :-1], distances[:, -1:]
        logs.append(np.log(np.broadcast_to(far, near.shape)[near > 0]) - np.log(near[near > 0]))
    total = np.concatenate(logs)
    checks.require(
        total.sum() > 0, "X must have rows whose neighbours differ in distance: all are equally far or equal."
    )
    return float(1 / total.mean())


def class_separation(
    X: Array,
    y: Array,
    method: Literal["evt", "sample", "exact"] = "evt",
    *,
    n_pairs: int = 4_000_000,
    k: int = 2000,
    n_samples: int = 30_000,
    ignore_below: float = 0.0,
    seed: Seed = 0,
) -> float:
    """The least distance between rows of different classes, estimated or found.

    The three ways of arXiv:2305.01034. "evt" extrapolates from the nearest of random pairs to all pairs by extreme
    value theory (the moment estimator of Dekkers, Einmahl and de Haan, with the official code's scale, which leaves out
    the factor for negative indices), and is never above the nearest pair that it saw.

    Args:
        X: (n, d) float.
        y: (n,) int, classes.
        method: "evt", "sample" (the least within a random part of the rows) or "exact".
        n_pairs: random pairs of "evt".
        k: order statistics of "evt"; at most a tenth of the pairs.
        n_samples: rows of "sample".
        ignore_below: distances that do not count; the official code ignores those below 1, in units of 0..255 pixels.
        seed: of pairs and rows.

    Returns:
        the separation.

    Raises:
        ValueError: one class only, or two equal rows of different classes, which are named.

    Example:
        >>> class_separation(np.array([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0]]), np.array([0, 1, 0]), "exact")
        4.242640687119285
    """
    rows = _rows(X)
    labels = np.asarray(y)
    checks.require(labels.ndim == 1, f"y must be one-dimensional: got shape {labels.shape}.")
    checks.same_length("y", labels, "X", rows)
    checks.one_of("method", method, ("evt", "sample", "exact"))
    checks.at_least("n_pairs", n_pairs, 1)
    checks.at_least("k", k, 1)
    checks.at_least("ignore_below", ignore_below, 0.0)
    classes = np.unique(labels)
    checks.require(len(classes) > 1, f"y must hold at least two classes: got {classes.tolist()}.")
    rng = as_generator(seed)
    if method == "evt":
        return _extreme_value(rows, labels, len(classes), n_pairs, k, ignore_below, rng)
    part = np.arange(len(rows))
    if method == "sample" and n_samples < len(rows):
        part = np.sort(rng.choice(len(rows), n_samples, replace=False))
    best, pair = math.inf, (0, 0)
    for block in _blocks(len(part), len(part)):
        one = rows[part[block]]
        squares = (one**2).sum(1)[:, None] + (rows[part] ** 2).sum(1) - 2 * one @ rows[part].T
        squares[labels[part[block], None] == labels[part]] = math.inf
        # Rounding moves a square by less than this: what may be the least is measured once more.
        slack = 1e-12 * float((rows**2).sum(1).max())
        near = np.argwhere(
            squares <= max(squares[squares >= ignore_below**2 - slack].min(initial=math.inf), 0) + 2 * slack
        )
        i, j = part[block][near[:, 0]], part[near[:, 1]]
        distances = np.sqrt(((rows[i] - rows[j]) ** 2).sum(1))
        distances[distances < ignore_below] = math.inf
        if len(distances) and distances.min() < best:
            at = int(distances.argmin())
            best, pair = float(distances[at]), (int(i[at]), int(j[at]))
    _apart(best, pair)
    return best


def task_difficulty(
    X: Array,
    y: Array,
    error: float,
    *,
    method: Literal["evt", "sample", "exact"] = "evt",
    k: int = 5,
    resamples: int = 20,
    seed: int = 0,
) -> TaskDifficulty:
    """The difficulty of a classification data set, with the range that resampled rows give.

    The estimators and the bound of arXiv:2305.01034 together. The separation dominates, so look at the range.

    Args:
        X: (n, d) float.
        y: (n,) int, classes.
        error: to be reached.
        method: of ``class_separation``.
        k: neighbours of ``intrinsic_dimension``.
        resamples: random halves of the rows for the range, without repeats; 0 for none.
        seed: of all random choices.

    Returns:
        the difficulty and what was measured.

    Raises:
        ValueError: as ``class_separation`` and ``intrinsic_dimension``.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> X = rng.random((400, 3)); y = (X[:, 0] > 0.5).astype(int); X[y == 1, 0] += 0.2
        >>> task_difficulty(X, y, 0.01, method="exact", resamples=0).intrinsic_dim
        3
    """
    checks.at_least("resamples", resamples, 0)
    rows, labels = _rows(X), np.asarray(y)
    classes = len(np.unique(labels))
    dimension = max(1, round(intrinsic_dimension(rows, k, seed=seed)))
    radius = float(np.sqrt((rows**2).sum(1)).max())

    def at(part: Array, number: int) -> tuple[float, Complexity]:
        delta = class_separation(rows[part], labels[part], method, seed=seed + number)
        return delta, inductive_bias_complexity(error, len(rows), dimension, radius, classes, delta, classes - 1)

    delta, whole = at(np.arange(len(rows)), 0)
    rng = np.random.default_rng(seed)
    halves = [np.sort(rng.choice(len(rows), len(rows) // 2, replace=False)) for _ in range(resamples)]
    seen = [at(half, i + 1)[1].log2_bits for i, half in enumerate(halves)] or [whole.log2_bits]
    low, high = np.quantile(seen, [0.025, 0.975]) if np.isfinite(seen).all() else (min(seen), max(seen))
    return TaskDifficulty(whole, float(low), float(high), dimension, radius, delta)


def _extreme_value(
    rows: Array, labels: Array, classes: int, n_pairs: int, k: int, ignore_below: float, rng: np.random.Generator
) -> float:
    n_pairs = min(n_pairs, len(rows) * (len(rows) - 1))
    nearest, pair, inverse = math.inf, (0, 0), []
    for block in _blocks(n_pairs, rows.shape[1]):
        one, other = rng.integers(0, len(rows), (2, block.stop - block.start))
        differs = labels[one] != labels[other]
        one, other = one[differs], other[differs]
        distances = np.sqrt(((rows[one] - rows[other]) ** 2).sum(1))
        distances[distances < ignore_below] = math.inf
        if len(distances) and distances.min() < nearest:
            at = int(distances.argmin())
            nearest, pair = float(distances[at]), (int(one[at]), int(other[at]))
        with np.errstate(divide="ignore"):
            inverse.append(1 / distances)
    _apart(nearest, pair)
    ranked = np.sort(np.concatenate(inverse))[::-1]
    ranked = ranked[ranked > 0]
    k = max(1, min(k, len(ranked) // 10))
    if len(ranked) < 3:
        return nearest
    threshold = float(ranked[k])
    excess = np.log(ranked[:k] / threshold)
    first, second = float(excess.mean()), float((excess**2).mean())
    if second <= first**2:  # one value, or all equal: nothing to extrapolate
        return nearest
    index = first + 1 - 0.5 / (1 - first**2 / second)
    ln_ratio = math.log(k / len(ranked) * len(rows) ** 2 * (1 - 1 / classes))
    growth = ln_ratio if abs(index) < 1e-12 else math.expm1(index * ln_ratio) / index
    return min(nearest, 1 / (growth * threshold * first + threshold))


def _ln_binomial(a: float, m: float) -> float:
    """The logarithm of a generalised binomial coefficient; ``-inf`` where it is zero."""
    return -math.inf if a - m <= -1 else math.lgamma(a + 1) - math.lgamma(m + 1) - math.lgamma(a - m + 1)


def _apart(distance: float, pair: tuple[int, int]) -> None:
    checks.require(
        distance > 0,
        f"X must tell the classes apart: rows {pair[0]} and {pair[1]} are equal and have different classes; "
        "remove one of them.",
    )
    checks.require(
        math.isfinite(distance), "ignore_below must leave a pair of rows of different classes: it leaves none."
    )


def _blocks(rows: int, columns: int) -> list[slice]:
    step = max(1, _BLOCK // max(1, columns))
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]


def _rows(X: Array) -> Array:
    rows = np.asarray(X, dtype=np.float64)
    checks.matrix("X", rows)
    checks.finite("X", rows)
    return rows
