"""Time to accuracy: what is compared when methods take different times."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right

import numpy as np

from tamis import checks

CLOCKS = ("seconds", "steps", "samples")


class TimeToAccuracy:
    """What a training had reached when: how long to a target, how much at equal time, and the area under the curve.

    The measure of arXiv:2305.18424. One recorder for each method; log the seconds with all that choosing rows cost, and
    without the evaluation. Between two measurements the earlier counts, and before the first one 0.

    Attributes:
        seconds, steps, samples, metrics: what was logged, in order.

    Example:
        >>> run = TimeToAccuracy()
        >>> run.log(step=10, samples=320, seconds=2.0, metric=0.6)
        >>> run.log(step=20, samples=640, seconds=4.0, metric=0.9)
        >>> run.time_to(0.8), run.time_to(0.8, by="steps"), run.metric_at(3.0), run.area()
        (4.0, 20.0, 0.6, 0.3)
    """

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.steps: list[float] = []
        self.samples: list[float] = []
        self.metrics: list[float] = []

    def log(self, step: int, samples: int, seconds: float, metric: float) -> None:
        """Note a measurement.

        Args:
            step: optimizer steps until now.
            samples: rows trained on until now, each as often as it was used.
            seconds: of training and choosing until now.
            metric: accuracy or another number from 0 on that is better when larger.

        Raises:
            ValueError: a number that is not finite, a negative metric, or a clock that runs backwards.
        """
        checks.require(0 <= metric < math.inf, f"metric must be finite and not negative: got {metric!r}.")
        now = {"seconds": seconds, "steps": step, "samples": samples}
        for clock, value in now.items():
            before = [0.0, *self._clock(clock)][-1]
            checks.require(
                before <= value < math.inf, f"{clock} must be finite and not fall: got {value!r} after {before!r}."
            )
        for clock, value in now.items():
            self._clock(clock).append(float(value))
        self.metrics.append(float(metric))

    def time_to(self, target: float, *, by: str = "seconds") -> float:
        """When the metric was first measured at the target or above.

        Args:
            target: of the metric.
            by: "seconds", "steps" or "samples".

        Returns:
            in units of ``by``; infinite when it never was.
        """
        times = self._clock(by)
        return next((t for t, metric in zip(times, self.metrics, strict=True) if metric >= target), math.inf)

    def metric_at(self, time: float, *, by: str = "seconds") -> float:
        """The metric that was measured last at or before a time, to compare methods at equal time.

        Args:
            time: in units of ``by``.
            by: "seconds", "steps" or "samples".

        Returns:
            the metric; 0 before the first measurement.
        """
        return [0.0, *self.metrics][bisect_right(self._clock(by), time)]

    def area(self, until: float | None = None, *, by: str = "seconds") -> float:
        """The mean over time of the metric that was measured last, from the start on.

        Args:
            until: end of the time, in units of ``by``; None for the last measurement. After it its metric goes on.
            by: "seconds", "steps" or "samples".

        Returns:
            the area under the curve divided by ``until``.

        Raises:
            ValueError: no time has passed.
        """
        times = self._clock(by)
        end = [0.0, *times][-1] if until is None else until
        checks.positive("until", end)
        inside = bisect_left(times, end)
        return float(np.diff([*times[:inside], end]) @ np.array(self.metrics[:inside])) / end

    def _clock(self, name: str) -> list[float]:
        checks.one_of("by", name, CLOCKS)
        return {"seconds": self.seconds, "steps": self.steps, "samples": self.samples}[name]
