"""Training dynamics: what a sample does while a model learns, from one row of logits per visit.

Functions score one look at a model; ``Dynamics`` remembers visits over epochs, in any order and any batches, in memory
of a few numbers per sample: how often a sample was learned and forgotten again, its mean margin, confidence with its
variability, EL2N and loss.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from tamis import checks
from tamis.results import as_array

Array = np.ndarray[Any, Any]
ArrayLike = Array | Tensor


def per_sample_loss(logits: ArrayLike, labels: ArrayLike) -> Array:
    """Cross-entropy of every sample.

    Args:
        logits: (n, c) float.
        labels: (n,) int, 0 to c - 1.

    Returns:
        (n,) float64, in nats.

    Raises:
        ValueError: for logits that are not finite, or labels outside the classes.

    Example:
        >>> per_sample_loss(np.array([[0.0, 0.0]]), np.array([1])).round(4).tolist()
        [0.6931]
    """
    z, y = _checked(logits, labels)
    top = z.max(1)
    found: Array = np.log(np.exp(z - top[:, None]).sum(1)) + top - z[np.arange(len(z)), y]
    return np.maximum(found, 0.0)


def el2n(logits: ArrayLike, labels: ArrayLike, *, probabilities: bool = False) -> Array:
    """The length of the error: ``||softmax(z) - onehot(y)||_2`` (Paul, Ganguli and Dziugaite 2021).

    Average it over a few early checkpoints or seeds; at the end of training it ranks memorised noise as easy.

    Args:
        logits: (n, c) float.
        labels: (n,) int, 0 to c - 1.
        probabilities: whether probabilities were given instead of logits.

    Returns:
        (n,) float64, 0 to the root of 2.

    Raises:
        ValueError: for logits that are not finite, probabilities that do not add up to 1, labels outside the classes.

    Example:
        >>> probs = np.array([[0.7, 0.2, 0.1], [0.7, 0.2, 0.1]])
        >>> el2n(probs, np.array([0, 2]), probabilities=True).round(6).tolist()
        [0.374166, 1.157584]
    """
    z, y = _checked(logits, labels)
    if probabilities:
        off = np.abs(z.sum(1) - 1) > 1e-3
        row = int(off.argmax()) if len(off) else 0
        checks.require(not off.any(), f"probabilities must add up to 1 in every row: row {row} does not.")
    p = z.copy() if probabilities else _softmax(z)
    p[np.arange(len(p)), y] -= 1.0
    found: Array = np.linalg.norm(p, axis=1)
    return found


def margin(logits: ArrayLike, labels: ArrayLike) -> Array:
    """The logit of the label less the largest other one; above 0 where the model is right.

    Args:
        logits: (n, c) float, at least two classes.
        labels: (n,) int, 0 to c - 1.

    Returns:
        (n,) float64.

    Raises:
        ValueError: for logits that are not finite, fewer than two classes, or labels outside them.

    Example:
        >>> margin(np.array([[2.0, 1.0, 0.0], [1.0, 3.0, 0.0]]), np.array([0, 0])).tolist()
        [1.0, -2.0]
    """
    z, y = _checked(logits, labels)
    checks.require(z.shape[1] > 1, f"logits must be of at least 2 classes: got shape {z.shape}.")
    rows = np.arange(len(z))
    others = z.copy()
    others[rows, y] = -np.inf
    found: Array = z[rows, y] - others.max(1)
    return found


class Dynamics:
    """What samples did over the epochs: hand over the logits of every batch, and ask in the end.

    A sample may come in any order, several times an epoch or not at all; its visits count in the order of the calls.

    Args:
        n: samples.

    Returns:
        a recorder; call ``record``.

    Raises:
        ValueError: for n < 1.

    Example:
        >>> dynamics = Dynamics(1)
        >>> for logits in ([[2.0, 1.0, 0.0]], [[1.0, 3.0, 0.0]]):
        ...     dynamics.record([0], np.array(logits), [0])
        >>> dynamics.aum.tolist(), dynamics.forgetting.tolist()
        ([-0.5], [1.0])
    """

    _SUMS = ("margin", "confidence", "confidence_squared", "el2n", "loss")

    def __init__(self, n: int) -> None:
        checks.at_least("n", n, 1)
        self.visits: Array = np.zeros(n, dtype=np.int64)
        self._right = np.zeros(n, dtype=bool)  # at the last visit
        self._learned = np.zeros(n, dtype=bool)  # at any visit
        self._forgotten = np.zeros(n, dtype=np.int64)
        self._sums = np.zeros((len(self._SUMS), n))

    def __len__(self) -> int:
        return len(self.visits)

    def record(self, indices: Any, logits: ArrayLike, labels: Any) -> None:
        """Take in a batch, before or after its step, but always the same.

        Args:
            indices: (b,) int, which samples; one may come twice, and then counts twice, in this order.
            logits: (b, c) float.
            labels: (b,) int, 0 to c - 1.

        Raises:
            ValueError: for indices outside the samples, or what ``margin`` refuses.
        """
        rows = as_array(indices).astype(np.int64)
        z, y = _checked(logits, labels)
        checks.same_length("indices", rows, "logits", z)
        if len(rows) == 0:
            return
        low, high = int(rows.min()), int(rows.max())
        checks.require(
            0 <= low and high < len(self), f"indices must be samples, 0 to {len(self) - 1}: got {low} to {high}."
        )
        gap, loss = margin(z, y), per_sample_loss(z, y)
        confidence = np.exp(-loss)
        for place, values in enumerate((gap, confidence, confidence**2, el2n(z, y), loss)):
            self._sums[place] += np.bincount(rows, weights=values, minlength=len(self))
        # Visits of one sample in order: each is held against the one before it, the first against the last batch.
        order = np.argsort(rows, kind="stable")
        sample, right = rows[order], gap[order] > 0
        first = np.r_[True, sample[1:] != sample[:-1]]
        before = np.r_[False, right[:-1]]
        before[first] = self._right[sample[first]]
        self._forgotten += np.bincount(sample[before & ~right], minlength=len(self))
        last = np.r_[first[1:], True]
        self._right[sample[last]] = right[last]
        self._learned[sample[right]] = True
        self.visits += np.bincount(rows, minlength=len(self))

    @property
    def forgetting(self) -> Array:
        """(n,) float64, falls from right to wrong (Toneva et al. 2019); infinite for what was never right."""
        return np.where(self._learned, self._forgotten, np.inf)

    @property
    def aum(self) -> Array:
        """(n,) float64, mean margin over the visits (Pleiss et al. 2020); low for wrong labels. NaN for no visit."""
        return self._mean("margin")

    @property
    def confidence(self) -> Array:
        """(n,) float64, mean probability of the label (Swayamdipta et al. 2020)."""
        return self._mean("confidence")

    @property
    def variability(self) -> Array:
        """(n,) float64, standard deviation of that probability over the visits; high for ambiguous samples."""
        variance = self._mean("confidence_squared") - self.confidence**2
        found: Array = np.sqrt(np.maximum(variance, 0.0))
        return found

    @property
    def mean_el2n(self) -> Array:
        """(n,) float64, EL2N averaged over the visits."""
        return self._mean("el2n")

    @property
    def mean_loss(self) -> Array:
        """(n,) float64, cross-entropy averaged over the visits."""
        return self._mean("loss")

    def state_dict(self) -> dict[str, Array]:
        """What is needed to go on from here.

        Returns:
            arrays, copies.
        """
        state = {"visits": self.visits, "right": self._right, "learned": self._learned, "forgotten": self._forgotten}
        return {name: array.copy() for name, array in (state | {"sums": self._sums}).items()}

    def load_state_dict(self, state: dict[str, Array]) -> None:
        """Go on from a saved state.

        Args:
            state: from ``state_dict``.

        Raises:
            ValueError: for a state of another number of samples.
        """
        checks.require(
            len(state["visits"]) == len(self), f"state must be of {len(self)} samples: got {len(state['visits'])}."
        )
        self.visits, self._right = np.array(state["visits"]), np.array(state["right"])
        self._learned, self._forgotten = np.array(state["learned"]), np.array(state["forgotten"])
        self._sums = np.array(state["sums"])

    def _mean(self, name: str) -> Array:
        sums, visits = self._sums[self._SUMS.index(name)], self.visits
        found: Array = np.divide(sums, visits, out=np.full(len(sums), np.nan), where=visits > 0)
        return found


def _softmax(z: Array) -> Array:
    e = np.exp(z - z.max(1, keepdims=True))
    found: Array = e / e.sum(1, keepdims=True)
    return found


def _checked(logits: ArrayLike, labels: Any) -> tuple[Array, Array]:
    z, y = as_array(logits).astype(np.float64), as_array(labels)
    checks.matrix("logits", z, allow_empty=True)
    checks.finite("logits", z)
    checks.same_length("labels", y, "logits", z)
    if len(y) > 0:
        checks.require(y.dtype.kind in "iu", f"labels must be integers: got {y.dtype}.")
        low, high = int(y.min()), int(y.max())
        checks.require(
            0 <= low and high < z.shape[1], f"labels must lie between 0 and {z.shape[1] - 1}: got {low} to {high}."
        )
    return z, y.astype(np.int64)
