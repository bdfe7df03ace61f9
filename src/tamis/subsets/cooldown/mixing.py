"""How often each domain is drawn, and what its losses weigh: numbers per domain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tamis import checks
from tamis.allocation import water_filling
from tamis.results import as_array

Array = np.ndarray[Any, Any]
Numbers = Array | Sequence[float] | Tensor


def temperature_probs(sizes: Numbers, temperature: float) -> Any:
    """How often to draw each domain, ``sizes ** (1 / temperature)`` over their sum.

    Temperature sampling of arXiv:2410.04579: 1 is in proportion to size, infinity is uniform.

    Args:
        sizes: (k,) positive: rows of each domain, or tokens where the loss is a mean over tokens.
        temperature: above 0; may be infinite.

    Returns:
        (k,) float64 with sum 1; a tensor, in the dtype of ``sizes`` if that is a float, for a tensor.

    Raises:
        ValueError: no domains, a size or a temperature that is not positive.

    Example:
        >>> temperature_probs([900, 100], 2).round(4).tolist()
        [0.75, 0.25]
    """
    return _like(_probs(_positive("sizes", sizes), temperature), sizes)


def scalarization_weights(sizes: Numbers, temperature: float, *, drawn: Numbers | None = None) -> Any:
    """What to multiply losses by, per domain, so that the mean gradient is that of drawing with a temperature.

    Scalarization of arXiv:2410.04579, ``p_temperature / p_drawn``. Take the plain mean of the weighted losses: over the
    sum of the weights it would be another mean. When not to use: beside drawing with a temperature, which would count
    small domains twice; or where domains can be drawn, which has less variance.

    Args:
        sizes: (k,) positive, rows or tokens of each domain.
        temperature: above 0; may be infinite.
        drawn: (k,) positive with sum 1, how often each domain is drawn; None for in proportion to size.

    Returns:
        (k,) float64; a tensor, in the dtype of ``sizes`` if that is a float, for a tensor.

    Raises:
        ValueError: as ``temperature_probs``, or probabilities that are not positive or have another sum.

    Example:
        >>> scalarization_weights([900, 100], 2).round(4).tolist()
        [0.8333, 2.5]
    """
    size = _positive("sizes", sizes)
    rate = _probs(size, 1.0) if drawn is None else _positive("drawn", drawn)
    checks.same_length("drawn", rate, "sizes", size)
    checks.require(abs(rate.sum() - 1) < 1e-6, f"drawn must add up to 1: got {rate.sum():g}.")
    return _like(_probs(size, temperature) / rate, sizes)


def gradient_variance_gap(p_target: Numbers, q: Numbers, second_moments: Numbers) -> float:
    """How much more the gradient of one row varies when losses are weighed than when domains are drawn.

    ``sum_i p_i (p_i / q_i - 1) G_i^2`` for drawing with q and weighing with p / q, against drawing with p; the means
    are equal, so the gap of second moments is that of variances, summed over parameters. For equal G^2 it is G^2 times
    chi-square of p against q, never negative; a q that visits domains of large gradients more often makes it so.

    Args:
        p_target: (k,) with sum 1, how much each domain should count.
        q: (k,) with sum 1, how often it is drawn; positive where ``p_target`` is.
        second_moments: (k,) not negative, the mean squared norm of gradients of rows of each domain.

    Returns:
        the gap for one row; a mean over b independent rows has this divided by b.

    Raises:
        ValueError: shapes that differ, a negative number, sums other than 1, or a domain that counts and is not drawn.

    Example:
        >>> round(gradient_variance_gap([0.75, 0.25], [0.9, 0.1], [1, 1]), 6)
        0.25
    """
    p, rate = _not_negative("p_target", p_target), _not_negative("q", q)
    moments = _not_negative("second_moments", second_moments)
    for name, values in (("q", rate), ("second_moments", moments)):
        checks.same_length(name, values, "p_target", p)
    for name, values in (("p_target", p), ("q", rate)):
        checks.require(abs(values.sum() - 1) < 1e-6, f"{name} must add up to 1: got {values.sum():g}.")
    counts = p > 0
    checks.require(bool((rate[counts] > 0).all()), "q must be positive wherever p_target is: a domain is never drawn.")
    p, rate, moments = p[counts], rate[counts], moments[counts]
    return float(p @ ((p / rate - 1) * moments))


def unimax_probs(sizes: Numbers, budget: float, *, max_epochs: float) -> Any:
    """How often to draw each domain by UniMax: uniformly, but no domain for more than ``max_epochs`` passes.

    Chung et al. (ICLR 2023): small domains first, each gets an equal share of what is left or its cap.

    Args:
        sizes: (k,) positive, rows or tokens of each domain.
        budget: rows or tokens of the whole training.
        max_epochs: passes over a domain at most.

    Returns:
        (k,) float64 with sum 1; a tensor, in the dtype of ``sizes`` if that is a float, for a tensor.

    Raises:
        ValueError: no domains, a number that is not positive, or a budget that the caps do not allow.

    Example:
        >>> unimax_probs([1000, 200, 10], 300, max_epochs=2).round(4).tolist()
        [0.4667, 0.4667, 0.0667]
    """
    size = _positive("sizes", sizes)
    checks.positive("budget", budget)
    checks.positive("max_epochs", max_epochs)
    most = max_epochs * float(size.sum())
    checks.require(
        budget <= most,
        f"budget must be at most max_epochs passes over all domains, {most:g}: got {budget!r}; allow more passes.",
    )
    return _like(water_filling(np.ones(len(size)), budget, upper=max_epochs * size) / budget, sizes)


def _probs(sizes: Array, temperature: float) -> Array:
    checks.positive("temperature", temperature)
    logs = np.log(sizes)
    with np.errstate(over="ignore"):  # next to 0 only the largest domains are drawn
        powers = np.exp((logs - logs.max()) / temperature)
    probs: Array = powers / powers.sum()
    return probs


def _not_negative(name: str, values: Numbers) -> Array:
    array = as_array(values).astype(np.float64)
    checks.require(
        array.ndim == 1 and len(array) > 0, f"{name} must hold one number per domain: got shape {array.shape}."
    )
    checks.finite(name, array)
    checks.require(bool((array >= 0).all()), f"{name} must not be negative: the lowest is {array.min():g}.")
    return array


def _positive(name: str, values: Numbers) -> Array:
    array = _not_negative(name, values)
    checks.require(bool((array > 0).all()), f"{name} must be positive: domain {int(array.argmin())} has 0.")
    return array


def _like(values: Array, given: Numbers) -> Any:
    if not isinstance(given, Tensor):
        return values
    return torch.from_numpy(values).to(given.device, given.dtype if given.is_floating_point() else torch.float64)
