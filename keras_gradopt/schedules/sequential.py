"""Sequential: one schedule after another."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from keras import ops

from keras_gradopt.arguments import is_number, positive_int
from keras_gradopt.ranges import NON_NEGATIVE
from keras_gradopt.schedules import Schedule, as_schedule, value_of

Tensor = Any


class Sequential(Schedule):
    r"""Runs schedules one after another, each from its own step 0.

    Use it to compose what no ready schedule offers. With schedules $f_0, f_1, \dots$ and boundaries
    $b_1 < b_2 < \dots$ (and $b_0 = 0$), at step $t$:

    $$f_i(t - b_i) \quad \text{for the largest } i \text{ with } b_i \le t$$

    Args:
        schedules: At least one schedule or number (at least 0).
        boundaries: Steps at which the second, third, ... begin: rising, one fewer than schedules.

    Example:
        >>> parts = Sequential([1.0, LinearToZero(1.0, 2)], [2])
        >>> [float(parts(t)) for t in range(5)]
        [1.0, 1.0, 1.0, 0.5, 0.0]

    References:
        Composition as in optax' `join_schedules` and torch's `SequentialLR`, 2021.
    """

    def __init__(self, schedules: Sequence[Any], boundaries: Sequence[int]) -> None:
        made = [as_schedule(s) for s in schedules]
        for s in made:
            if is_number(s):
                NON_NEGATIVE.check("schedules", float(s))
            elif not callable(s):
                raise ValueError(f"schedules must be schedules or numbers, received {s!r}.")
        steps = [positive_int("boundaries", b) for b in boundaries]
        if len(steps) != len(made) - 1 or any(a >= b for a, b in itertools.pairwise(steps)):
            raise ValueError(
                "boundaries must rise and be one fewer than schedules, received "
                f"{len(made)} schedules and boundaries {list(boundaries)}."
            )
        self.declare(schedules=made, boundaries=steps)

    def at(self, step: Tensor) -> Tensor:
        """The value at a step."""
        value = value_of(self.schedules[0], step)
        for schedule, start in zip(self.schedules[1:], self.boundaries, strict=True):
            later = value_of(schedule, ops.maximum(step - start, 0.0))
            value = ops.where(step >= start, later, value)
        return value
