"""CosineWarmRestarts: half cosines one after another."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from keras import ops

from keras_gradopt.arguments import positive_int
from keras_gradopt.ranges import FRACTION, NON_NEGATIVE, POSITIVE, Range
from keras_gradopt.schedules import Schedule, power

Tensor = Any

# Added to the number of cycles before it is rounded down: float32 may find 2.9999998 for 3, and the
# restart would come one step late. Early by this part of a cycle it cannot be seen.
_ROUNDING = 4e-6


class CosineWarmRestarts(Schedule):
    r"""Falls along half a cosine, jumps back up, and falls again, more slowly each time.

    Use it when the budget is not known, since the weights are good at the end of every cycle, or to
    collect several models from one run; for one known budget `CosineDecay` does better. With start
    $a$, first length $n$, factors $\tau$ of lengths and $\mu$ of heights, final fraction $\alpha$,
    at step $t$ in cycle $i$, which began at $s_i$:

    $$s_i = n\,(1 + \tau + \dots + \tau^{i-1}), \qquad c = (t - s_i) / (n \tau^i)$$
    $$a \left(\alpha + (1-\alpha)\, \mu^i\, \tfrac12 (1 + \cos(\pi c))\right)$$

    Keras' `CosineDecayRestarts` is the same function, but may find a restart one step late where
    its logarithm is rounded down. torch's `CosineAnnealingWarmRestarts` keeps the height.

    Args:
        initial_learning_rate: Start $a$, at least 0 (of whatever hyper-parameter it schedules).
        first_decay_steps: Length $n$ of the first cycle in steps, at least 1.
        t_mul: Factor $\tau$ from one cycle's length to the next, at least 1.
        m_mul: Factor $\mu$ from one cycle's height to the next, above 0.
        alpha: Lowest value as a fraction of the start, in [0, 1].

    Example:
        >>> [round(float(CosineWarmRestarts(1.0, 2)(t)), 4) for t in range(7)]
        [1.0, 0.5, 1.0, 0.8536, 0.5, 0.1464, 1.0]

    References:
        Loshchilov, Hutter. SGDR: Stochastic Gradient Descent with Warm Restarts. ICLR 2017,
        equation (5).
    """

    ranges: ClassVar[dict[str, Range]] = {
        "initial_learning_rate": NON_NEGATIVE.fixed(),
        "t_mul": Range(1.0, usual="1 or 2 is usual.").fixed(),
        "m_mul": POSITIVE.fixed(),
        "alpha": FRACTION.fixed(),
    }

    def __init__(
        self,
        initial_learning_rate: float,
        first_decay_steps: int,
        t_mul: float = 2.0,
        m_mul: float = 1.0,
        alpha: float = 0.0,
    ) -> None:
        self.declare(
            initial_learning_rate=initial_learning_rate, t_mul=t_mul, m_mul=m_mul, alpha=alpha
        )
        self.declare(first_decay_steps=positive_int("first_decay_steps", first_decay_steps))

    def at(self, step: Tensor) -> Tensor:
        """The value at a step."""
        cycle, done = self._cycle(step)
        cosine = 0.5 * (1.0 + ops.cos(math.pi * done))  # (5)
        height = power(self.m_mul, cycle) * cosine
        return self.initial_learning_rate * (self.alpha + (1.0 - self.alpha) * height)

    def _cycle(self, step: Tensor) -> tuple[Tensor, Tensor]:
        """Number of the cycle, 0 for the first, and the part of it that is done."""
        first = self.first_decay_steps
        if self.t_mul == 1.0:
            return ops.floor(step / first), ops.mod(step, float(first)) / first
        growth = self.t_mul - 1.0
        cycle = ops.floor(ops.log1p(growth / first * step) / math.log(self.t_mul) + _ROUNDING)
        factor = power(self.t_mul, cycle)
        began = (factor - 1.0) / growth  # in lengths of the first cycle
        return cycle, ops.clip((step / first - began) / factor, 0.0, 1.0)
