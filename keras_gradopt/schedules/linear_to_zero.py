"""LinearToZero: falls in a straight line."""

from __future__ import annotations

from typing import Any, ClassVar

from keras import ops

from keras_gradopt.arguments import positive_int
from keras_gradopt.ranges import NON_NEGATIVE, Range
from keras_gradopt.schedules import Schedule

Tensor = Any


class LinearToZero(Schedule):
    r"""Falls linearly from its start to 0 at the last step.

    Use it when the budget is known and the rate is near the largest that works. With start $a$ and
    length $n$, at step $t$:

    $$a \max(0, 1 - t / n)$$

    Args:
        initial: Start $a$, at least 0.
        total_steps: Length $n$ in steps, at least 1.

    Example:
        >>> [float(LinearToZero(1.0, 4)(t)) for t in (0, 1, 4, 5)]
        [1.0, 0.75, 0.0, 0.0]

    References:
        Defazio, Cutkosky, Mehta, Mishchenko. Optimal Linear Decay Learning Rate Schedules and
        Further Refinements. 2023, Corollary 2.
    """

    ranges: ClassVar[dict[str, Range]] = {"initial": NON_NEGATIVE.fixed()}

    def __init__(self, initial: float, total_steps: int) -> None:
        self.declare(initial=initial)
        self.declare(total_steps=positive_int("total_steps", total_steps))

    def at(self, step: Tensor) -> Tensor:
        """The value at a step."""
        return self.initial * ops.maximum(1.0 - step / self.total_steps, 0.0)
