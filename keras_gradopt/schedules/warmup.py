"""Warmup: rises linearly to where another schedule begins."""

from __future__ import annotations

from typing import Any, ClassVar

from keras import ops

from keras_gradopt.arguments import positive_int
from keras_gradopt.ranges import NON_NEGATIVE, Range
from keras_gradopt.schedules import Schedule, value_of

Tensor = Any


class Warmup(Schedule):
    r"""A linear rise in front of any schedule or constant.

    Use it for transformers, large batches and high rates, where the first steps would diverge. With
    $n$ warmup steps, start $a$ and the schedule $f$ that follows, at step $t$:

    $$a + (f(0) - a)\, t / n \quad (t < n), \qquad f(t - n) \quad (t \ge n)$$

    Args:
        schedule: What follows: a schedule or a number, at least 0.
        warmup_steps: Steps $n$ of the rise, at least 1.
        initial: First value $a$, at least 0.

    Example:
        >>> [float(Warmup(0.4, 4)(t)) for t in range(5)]
        [0.0, 0.1, 0.2, 0.3, 0.4]

    References:
        Goyal and others. Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour. 2017,
        section 2.2 (gradual warmup).
    """

    ranges: ClassVar[dict[str, Range]] = {"schedule": NON_NEGATIVE, "initial": NON_NEGATIVE.fixed()}

    def __init__(self, schedule: Any, warmup_steps: int, initial: float = 0.0) -> None:
        self.declare(schedule=schedule, initial=initial)
        self.declare(warmup_steps=positive_int("warmup_steps", warmup_steps))

    def at(self, step: Tensor) -> Tensor:
        """The value at a step."""
        target = value_of(self.schedule, ops.zeros_like(step))
        rise = self.initial + (target - self.initial) * step / self.warmup_steps
        after = value_of(self.schedule, ops.maximum(step - self.warmup_steps, 0.0))
        return ops.where(step < self.warmup_steps, rise, after)
