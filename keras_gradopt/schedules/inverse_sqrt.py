"""InverseSqrt: falls as one over the square root of the number of steps."""

from __future__ import annotations

from typing import Any, ClassVar

from keras import ops

from keras_gradopt.arguments import positive_int
from keras_gradopt.ranges import NON_NEGATIVE, Range
from keras_gradopt.schedules import Schedule

Tensor = Any


class InverseSqrt(Schedule):
    r"""Falls as one over the square root of time: ever more slowly, and never to zero.

    Use it for transformers when the length of the run is open, with a cooldown at its end if there
    is one; for the schedule of the first transformers put it inside `Warmup` of the same length.
    With start $a$ and time scale $n$, at step $t$:

    $$\frac{a}{\sqrt{1 + t / n}}$$

    `Warmup(InverseSqrt(a, n), n)` is $a \min(t / n, \sqrt{n / t})$, the schedule of Vaswani and
    others, whose $a$ is $1 / \sqrt{n d}$ for width $d$, and whose steps begin at 1.

    Args:
        initial_learning_rate: Start $a$, at least 0 (of whatever hyper-parameter it schedules).
        decay_steps: Time scale $n$ in steps, at least 1; after $3n$ steps half of the start is
            left.

    Example:
        >>> [round(float(InverseSqrt(1.0, 4)(t)), 4) for t in (0, 5, 12, 60)]
        [1.0, 0.6667, 0.5, 0.25]
        >>> [round(float(Warmup(InverseSqrt(1.0, 4), 4)(t)), 4) for t in (0, 2, 4, 16)]
        [0.0, 0.5, 1.0, 0.5]

    References:
        Vaswani and others. Attention Is All You Need. NeurIPS 2017, equation (3).
        Zhai, Kolesnikov, Houlsby, Beyer. Scaling Vision Transformers. CVPR 2022, section 3.5
        (reciprocal square root with a time scale).
    """

    ranges: ClassVar[dict[str, Range]] = {"initial_learning_rate": NON_NEGATIVE.fixed()}

    def __init__(self, initial_learning_rate: float, decay_steps: int) -> None:
        self.declare(initial_learning_rate=initial_learning_rate)
        self.declare(decay_steps=positive_int("decay_steps", decay_steps))

    def at(self, step: Tensor) -> Tensor:
        """The value at a step."""
        # At least 1, as the step is not negative.
        return self.initial_learning_rate / ops.sqrt(1.0 + step / self.decay_steps)
