"""What the temperature is when: by a schedule, or by a switch that watches a small domain."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tamis import checks

Array = np.ndarray[Any, Any]

KINDS = ("step", "linear", "cosine", "exponential")
_SLACK = 1e-9  # step 3 of 10 is the one at 0.3, whichever way that rounds


@dataclass(frozen=True)
class Cooldown:
    """A temperature that falls from ``start`` to ``end`` until a share of the steps is over, and stays there.

    The schedule of arXiv:2410.04579 is the step; the others fall gradually on the way to ``at``.

    Args:
        start: temperature at first, at least ``end``; infinite for uniform, with the step only.
        end: temperature at last, above 0; 1 is in proportion to size.
        at: share of the steps after which ``end`` holds, in [0, 1].
        kind: "step", "linear", "cosine" or "exponential".

    Raises:
        ValueError: an increasing schedule, or an argument outside its range.

    Example:
        >>> [Cooldown()(step, 10) for step in range(5)]
        [5.0, 5.0, 5.0, 1.0, 1.0]
    """

    start: float = 5.0
    end: float = 1.0
    at: float = 0.3
    kind: str = "step"

    def __post_init__(self) -> None:
        checks.positive("end", self.end)
        checks.require(
            self.start >= self.end, f"start must be at least end, {self.end!r}, to cool down: got {self.start!r}."
        )
        checks.between("at", self.at, 0, 1)
        checks.one_of("kind", self.kind, KINDS)
        checks.require(
            self.kind == "step" or self.start < math.inf, f"start must be finite to fall {self.kind}: got {self.start}."
        )

    def __call__(self, step: Any, steps: int) -> Any:
        """The temperature at a step.

        Args:
            step: number of the step, from 0; or an array (n,) of such.
            steps: of the whole training.

        Returns:
            a float, or (n,) float64.

        Raises:
            ValueError: no steps, or a negative one.
        """
        checks.at_least("steps", steps, 1)
        place = np.asarray(step, dtype=np.float64)
        checks.require(bool((place >= 0).all()), f"step must not be negative: got {checks.shown(step)}.")
        over = place >= (self.at - _SLACK) * steps
        way = np.where(over, 1.0, place / max(self.at * steps, _SLACK))
        if self.kind == "step":
            falling = np.full(place.shape, self.start)
        elif self.kind == "linear":
            falling = self.start + (self.end - self.start) * way
        elif self.kind == "cosine":
            falling = self.end + (self.start - self.end) * (1 + np.cos(math.pi * way)) / 2
        else:
            falling = self.start * (self.end / self.start) ** way
        temperature = np.where(over, self.end, falling)
        return temperature if isinstance(step, np.ndarray) else float(temperature)


class CooldownSwitch:
    """Cools when a small domain begins to overfit: its validation loss rises, or it has been seen too often.

    An addition to arXiv:2410.04579, which sets the step by hand. Tell it of every check, ask it for the temperature and
    hand that to ``TemperatureSampler.set_temperature``. It cools once and for good. When not to use: without validation
    rows of the small domain that are its own; on a few rows the loss rises by chance.

    Args:
        start: temperature until it cools, at least ``end``.
        end: temperature from then on, above 0.
        patience: checks in a row with a loss above the lowest so far that cool.
        max_epochs: passes over the small domain that may be exceeded before it cools; infinite for any number.

    Attributes:
        reason: why it has cooled, "loss" or "epochs"; "" while it has not.
        told: checks that it was told of until it cooled.

    Example:
        >>> switch = CooldownSwitch(patience=2)
        >>> for loss in (0.60, 0.45, 0.47, 0.46):
        ...     switch.tell(loss, epochs_seen=1.5)
        >>> switch.ask(), switch.reason, switch.told
        (1.0, 'loss', 4)
    """

    def __init__(self, *, start: float = 5.0, end: float = 1.0, patience: int = 3, max_epochs: float = 4.0) -> None:
        checks.positive("end", end)
        checks.require(start >= end, f"start must be at least end, {end!r}, to cool down: got {start!r}.")
        checks.at_least("patience", patience, 1)
        checks.positive("max_epochs", max_epochs)
        self.start, self.end, self.patience, self.max_epochs = start, end, patience, max_epochs
        self.reason, self.told = "", 0
        self._lowest, self._above = math.inf, 0

    def ask(self) -> float:
        """Ask for the temperature to draw with from now on.

        Returns:
            ``start``, or ``end`` once it has cooled.
        """
        return self.end if self.reason else self.start

    def tell(self, loss: float, *, epochs_seen: float = 0.0) -> None:
        """Report a check.

        Args:
            loss: of the small domain, on validation rows; NaN counts as above the lowest.
            epochs_seen: passes over the small domain until now, of ``TemperatureSampler.epochs_seen_``.

        Raises:
            ValueError: when ``epochs_seen`` is negative.
        """
        checks.at_least("epochs_seen", epochs_seen, 0)
        if self.reason:
            return
        self.told += 1
        self._above = 0 if loss <= self._lowest else self._above + 1
        if loss <= self._lowest:
            self._lowest = float(loss)
        if self._above >= self.patience:
            self.reason = "loss"
        elif epochs_seen > self.max_epochs:
            self.reason = "epochs"

    def state_dict(self) -> dict[str, Any]:
        """What it has seen, for a run that resumes.

        Returns:
            reason, told, and the lowest loss with the checks above it since.
        """
        return {"reason": self.reason, "told": self.told, "lowest": self._lowest, "above": self._above}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what it has seen.

        Args:
            state: what ``state_dict`` returned.
        """
        self.reason, self.told = str(state["reason"]), int(state["told"])
        self._lowest, self._above = float(state["lowest"]), int(state["above"])
