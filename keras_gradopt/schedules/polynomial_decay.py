"""PolynomialDecay: falls along a power of the time that is left."""

from __future__ import annotations

from typing import Any, ClassVar

from keras import ops

from keras_gradopt.arguments import positive_int
from keras_gradopt.ranges import NON_NEGATIVE, POSITIVE, Range
from keras_gradopt.schedules import Schedule

Tensor = Any


class PolynomialDecay(Schedule):
    r"""Falls to its end along a power of the time that is left.

    Use it for segmentation recipes (power 0.9) and for fine-tuning (power 1, a straight line to a
    small end value). With start $a$, end $b$, length $n$ and power $p$, at step $t$:

    $$b + (a - b)\,(1 - \min(t, n) / n)^p$$

    With `cycle` the length is stretched to $n \lceil t / n \rceil$ whenever it is over, so the
    value jumps up and falls again. Keras' schedule of the same name is the same function; optax'
    `polynomial_schedule` is without cycles.

    Args:
        initial_learning_rate: Start $a$, at least 0 (of whatever hyper-parameter it schedules).
        decay_steps: Length $n$ in steps, at least 1.
        end_learning_rate: End $b$, at least 0.
        power: Power $p$, above 0.
        cycle: Whether to start again on a longer fall each time the end is reached.

    Example:
        >>> [float(PolynomialDecay(1.0, 4, 0.0, power=2.0)(t)) for t in (0, 1, 2, 4, 5)]
        [1.0, 0.5625, 0.25, 0.0, 0.0]

    References:
        Chen, Papandreou, Kokkinos, Murphy, Yuille. DeepLab: Semantic Image Segmentation with Deep
        Convolutional Nets, Atrous Convolution, and Fully Connected CRFs. TPAMI 2018 ("poly").
    """

    ranges: ClassVar[dict[str, Range]] = {
        "initial_learning_rate": NON_NEGATIVE.fixed(),
        "end_learning_rate": NON_NEGATIVE.fixed(),
        "power": POSITIVE.fixed(),
    }

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: int,
        end_learning_rate: float = 0.0001,
        power: float = 1.0,
        cycle: bool = False,
    ) -> None:
        self.declare(
            initial_learning_rate=initial_learning_rate,
            end_learning_rate=end_learning_rate,
            power=power,
        )
        self.declare(decay_steps=positive_int("decay_steps", decay_steps), cycle=cycle)

    def at(self, step: Tensor) -> Tensor:
        """The value at a step."""
        done = step / self.decay_steps
        if self.cycle:
            done = done / ops.maximum(ops.ceil(done), 1.0)
        # Never below 0, where powers that are no whole numbers do not exist.
        left = ops.power(1.0 - ops.clip(done, 0.0, 1.0), self.power)
        return self.end_learning_rate + (self.initial_learning_rate - self.end_learning_rate) * left
