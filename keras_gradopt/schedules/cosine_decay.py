"""CosineDecay: falls along half a cosine."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from keras import ops

from keras_gradopt.arguments import positive_int
from keras_gradopt.ranges import FRACTION, NON_NEGATIVE, Range
from keras_gradopt.schedules import Schedule

Tensor = Any


class CosineDecay(Schedule):
    r"""Falls slowly, then fast, then slowly, to a fraction of its start.

    Use it for long budgets with a rate near the largest that works; on short budgets or low rates a
    late cooldown (`WarmupStableDecay`) does better. For warmup put it inside `Warmup`. With start
    $a$, length $n$ and final fraction $\alpha$, at step $t$:

    $$a \left(\alpha + (1-\alpha) \tfrac12 (1 + \cos(\pi \min(t, n) / n))\right)$$

    Args:
        initial_learning_rate: Start $a$, at least 0 (of whatever hyper-parameter it schedules).
        decay_steps: Length $n$ in steps, at least 1.
        alpha: Final value as a fraction of the start, in [0, 1].

    Example:
        >>> [round(float(CosineDecay(1.0, 4)(t)), 4) for t in (0, 2, 4, 9)]
        [1.0, 0.5, 0.0, 0.0]

    References:
        Loshchilov, Hutter. SGDR: Stochastic Gradient Descent with Warm Restarts. ICLR 2017,
        equation (5), without restarts.
    """

    ranges: ClassVar[dict[str, Range]] = {
        "initial_learning_rate": NON_NEGATIVE.fixed(),
        "alpha": FRACTION.fixed(),
    }

    def __init__(self, initial_learning_rate: float, decay_steps: int, alpha: float = 0.0) -> None:
        self.declare(initial_learning_rate=initial_learning_rate, alpha=alpha)
        self.declare(decay_steps=positive_int("decay_steps", decay_steps))

    def at(self, step: Tensor) -> Tensor:
        """The value at a step."""
        done = ops.clip(step / self.decay_steps, 0.0, 1.0)
        cosine = 0.5 * (1.0 + ops.cos(math.pi * done))  # (5)
        return self.initial_learning_rate * (self.alpha + (1.0 - self.alpha) * cosine)
