"""ExponentialDecay: falls by the same factor in equal times."""

from __future__ import annotations

from typing import Any, ClassVar

from keras import ops

from keras_gradopt.arguments import positive_int
from keras_gradopt.ranges import NON_NEGATIVE, POSITIVE, Range
from keras_gradopt.schedules import Schedule, power

Tensor = Any


class ExponentialDecay(Schedule):
    r"""Falls (or rises) by the same factor in every stretch of the same length.

    Use it for runs whose length is not known, for annealing noise or damping, and with a rate above
    1 to sweep learning rates in a range test. With start $a$, length $n$ and factor $\gamma$, at
    step $t$:

    $$a\, \gamma^{t / n}, \qquad \text{staircase: } a\, \gamma^{\lfloor t / n \rfloor}$$

    Keras' schedule of the same name and optax' `exponential_decay` are the same function.

    Args:
        initial_learning_rate: Start $a$, at least 0 (of whatever hyper-parameter it schedules).
        decay_steps: Steps $n$ in which the value changes by the factor once, at least 1.
        decay_rate: Factor $\gamma$, above 0; above 1 the value rises.
        staircase: Whether to change once every $n$ steps only.

    Example:
        >>> [round(float(ExponentialDecay(1.0, 2, 0.25)(t)), 4) for t in range(5)]
        [1.0, 0.5, 0.25, 0.125, 0.0625]

    References:
        Li, Arora. An Exponential Learning Rate Schedule for Deep Learning. ICLR 2020.
    """

    ranges: ClassVar[dict[str, Range]] = {
        "initial_learning_rate": NON_NEGATIVE.fixed(),
        "decay_rate": POSITIVE.fixed(),
    }

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: int,
        decay_rate: float,
        staircase: bool = False,
    ) -> None:
        self.declare(initial_learning_rate=initial_learning_rate, decay_rate=decay_rate)
        self.declare(decay_steps=positive_int("decay_steps", decay_steps), staircase=staircase)

    def at(self, step: Tensor) -> Tensor:
        """The value at a step."""
        times = step / self.decay_steps
        if self.staircase:
            times = ops.floor(times)
        return self.initial_learning_rate * power(self.decay_rate, times)
