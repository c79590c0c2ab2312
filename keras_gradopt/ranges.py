"""The values a hyper-parameter may take."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

Scale = Literal["linear", "log", "log(1-x)"]


@dataclasses.dataclass(frozen=True)
class Range:
    """An interval of real numbers, with the scale on which people search it.

    Args:
        low: Lower end.
        high: Upper end, possibly infinite.
        low_included: Whether `low` itself is allowed.
        high_included: Whether `high` itself is allowed.
        scale: `"linear"`, `"log"`, or `"log(1-x)"` for decay rates, where 0.9, 0.99 and 0.999 are
            equally far apart.
        usual: What people take, as text for error messages.
        schedulable: Whether a schedule may stand in the number's place.

    Example:
        >>> str(Range(0.0, 1.0, high_included=False))
        '[0, 1)'
        >>> 1.0 in Range(0.0, 1.0, high_included=False)
        False
    """

    low: float
    high: float = math.inf
    low_included: bool = True
    high_included: bool = True
    scale: Scale = "linear"
    usual: str = ""
    schedulable: bool = True

    def fixed(self) -> Range:
        """The same interval for a number that no schedule may replace."""
        return dataclasses.replace(self, schedulable=False)

    def __contains__(self, value: float) -> bool:
        above = value >= self.low if self.low_included else value > self.low
        below = value <= self.high if self.high_included else value < self.high
        return above and below and math.isfinite(value)

    def __str__(self) -> str:
        left = "[" if self.low_included else "("
        right = "]" if self.high_included and math.isfinite(self.high) else ")"
        return f"{left}{self.low:g}, {self.high:g}{right}"

    def check(self, name: str, value: float) -> None:
        """Raises `ValueError` where `value` lies outside.

        Args:
            name: The argument's name, for the message.
            value: What was received.
        """
        if value not in self:
            advice = f" {self.usual}" if self.usual else ""
            raise ValueError(f"{name} must be in {self}, received {value!r}.{advice}")


NON_NEGATIVE = Range(0.0, scale="log")
POSITIVE = Range(0.0, low_included=False, scale="log")
FRACTION = Range(0.0, 1.0)
DECAY_RATE = Range(
    0.0,
    1.0,
    high_included=False,
    scale="log(1-x)",
    usual="Values near 1 average over more steps; 0.9 to 0.999 is usual.",
)
LEARNING_RATE = Range(0.0, scale="log", usual="1e-4 to 1e-1 is usual.")
EPSILON = Range(0.0, low_included=False, scale="log", usual="1e-8 to 1e-3 is usual.")
