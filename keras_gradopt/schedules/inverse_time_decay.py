"""InverseTimeDecay: falls as one over the number of steps."""

from __future__ import annotations

from typing import Any, ClassVar

from keras import ops

from keras_gradopt.arguments import positive_int
from keras_gradopt.ranges import NON_NEGATIVE, Range
from keras_gradopt.schedules import Schedule

Tensor = Any


class InverseTimeDecay(Schedule):
    r"""Falls as one over time: fast at first, and never to zero.

    Use it for strongly convex problems (linear and logistic regression with weight decay), where
    SGD with such a rate converges to the minimum itself; deep nets do better with `InverseSqrt` or
    a decay over a known budget. With start $a$, time scale $n$ and factor
    $\lambda$, at step $t$:

    $$\frac{a}{1 + \lambda\, t / n}, \qquad
      \text{staircase: } \frac{a}{1 + \lambda \lfloor t / n \rfloor}$$

    Keras' schedule of the same name is the same function.

    Args:
        initial_learning_rate: Start $a$, at least 0 (of whatever hyper-parameter it schedules).
        decay_steps: Time scale $n$ in steps, at least 1.
        decay_rate: Factor $\lambda$, at least 0.
        staircase: Whether to change once every $n$ steps only.

    Example:
        >>> [float(InverseTimeDecay(1.0, 1, 1.0)(t)) for t in (0, 1, 3, 7)]
        [1.0, 0.5, 0.25, 0.125]

    References:
        Robbins, Monro. A Stochastic Approximation Method. Annals of Mathematical Statistics, 1951.
        Bottou. Stochastic Gradient Descent Tricks. In: Neural Networks: Tricks of the Trade, 2012.
    """

    ranges: ClassVar[dict[str, Range]] = {
        "initial_learning_rate": NON_NEGATIVE.fixed(),
        "decay_rate": NON_NEGATIVE.fixed(),
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
        # At least 1, as neither the rate nor the step is negative.
        return self.initial_learning_rate / (1.0 + self.decay_rate * times)
