"""StepDecay: falls by one factor at regular intervals."""

from __future__ import annotations

from typing import Any, ClassVar

from keras import ops

from keras_gradopt.arguments import positive_int
from keras_gradopt.ranges import NON_NEGATIVE, Range
from keras_gradopt.schedules import Schedule, power

Tensor = Any


class StepDecay(Schedule):
    r"""Stays constant, and falls by one factor every so many steps.

    Use it to repeat published recipes of convolutional nets, which divide the rate by 10 every few
    tens of epochs; where the drops are not equally far apart take `PiecewiseConstant`. With start
    $a$, interval $n$ and factor $\gamma$, at step $t$:

    $$a\, \gamma^{\lfloor t / n \rfloor}$$

    It is torch's `StepLR`, and `ExponentialDecay` with `staircase=True`.

    Args:
        initial_learning_rate: Start $a$, at least 0 (of whatever hyper-parameter it schedules).
        decay_steps: Interval $n$ in steps, at least 1.
        decay_rate: Factor $\gamma$ of each drop, in (0, 1].

    Example:
        >>> [float(StepDecay(1.0, 2, 0.5)(t)) for t in range(6)]
        [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]

    References:
        Ge, Kakade, Kidambi, Netrapalli. The Step Decay Schedule: A Near Optimal, Geometrically
        Decaying Learning Rate Procedure For Least Squares. NeurIPS 2019.
    """

    ranges: ClassVar[dict[str, Range]] = {
        "initial_learning_rate": NON_NEGATIVE.fixed(),
        "decay_rate": Range(0.0, 1.0, low_included=False, usual="0.1 is usual.").fixed(),
    }

    def __init__(
        self, initial_learning_rate: float, decay_steps: int, decay_rate: float = 0.1
    ) -> None:
        self.declare(initial_learning_rate=initial_learning_rate, decay_rate=decay_rate)
        self.declare(decay_steps=positive_int("decay_steps", decay_steps))

    def at(self, step: Tensor) -> Tensor:
        """The value at a step."""
        drops = ops.floor(step / self.decay_steps)
        return self.initial_learning_rate * power(self.decay_rate, drops)
