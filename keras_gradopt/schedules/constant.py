"""Constant: one value at every step."""

from __future__ import annotations

from typing import Any, ClassVar

from keras import ops

from keras_gradopt.ranges import NON_NEGATIVE, Range
from keras_gradopt.schedules import Schedule

Tensor = Any


class Constant(Schedule):
    r"""The same value at every step.

    Use it where a schedule is asked for and nothing should change, and as the baseline that a decay
    has to beat; with it SGD comes only as near to a minimum as its gradient noise allows. With the
    value $a$, at step $t$:

    $$a$$

    Args:
        value: The value $a$, at least 0.

    Example:
        >>> [float(Constant(0.5)(t)) for t in (0, 1, 100)]
        [0.5, 0.5, 0.5]

    References:
        Bottou, Curtis, Nocedal. Optimization Methods for Large-Scale Machine Learning. SIAM Review
        2018, Theorem 4.6 (fixed stepsize).
    """

    ranges: ClassVar[dict[str, Range]] = {"value": NON_NEGATIVE.fixed()}

    def __init__(self, value: float) -> None:
        self.declare(value=value)

    def at(self, step: Tensor) -> Tensor:
        """The value at a step."""
        return ops.zeros_like(step) + self.value
