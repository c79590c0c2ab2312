"""PiecewiseConstant: jumps between listed values."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from keras import ops

from keras_gradopt.arguments import is_number, positive_int
from keras_gradopt.ranges import NON_NEGATIVE
from keras_gradopt.schedules import Schedule

Tensor = Any


class PiecewiseConstant(Schedule):
    r"""Listed values, each up to its boundary.

    Use it to repeat published recipes, or for a momentum that jumps from 0.5 to 0.9 once the first
    steps are over. With values $v_0, v_1, \dots$ and boundaries $b_1 < b_2 < \dots$, at step $t$:

    $$v_i \quad \text{for the largest } i \text{ with } b_i < t, \text{ else } v_0$$

    The boundary step itself still has the earlier value, as in Keras' `PiecewiseConstantDecay`;
    optax' `piecewise_constant_schedule`, torch's `MultiStepLR` and our `Sequential` change one step
    earlier.

    Args:
        boundaries: Last steps of all values but the last: rising, at least 0.
        values: Numbers of at least 0, one more than boundaries.

    Example:
        >>> [float(PiecewiseConstant([1, 3], [1.0, 0.5, 0.25])(t)) for t in range(6)]
        [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]

    References:
        He, Zhang, Ren, Sun. Deep Residual Learning for Image Recognition. CVPR 2016, section 4.2
        (drops after 32,000 and 48,000 iterations).
    """

    def __init__(self, boundaries: Sequence[int], values: Sequence[float]) -> None:
        for v in values:
            if not is_number(v):
                raise ValueError(f"values must be numbers in {NON_NEGATIVE}, received {v!r}.")
            NON_NEGATIVE.check("values", float(v))
        steps = [positive_int("boundaries", b, least=0) for b in boundaries]
        if len(steps) != len(values) - 1 or any(a >= b for a, b in itertools.pairwise(steps)):
            raise ValueError(
                "boundaries must rise and be one fewer than values, received boundaries "
                f"{list(boundaries)} and values {list(values)}."
            )
        self.declare(boundaries=steps, values=[float(v) for v in values])

    def at(self, step: Tensor) -> Tensor:
        """The value at a step."""
        value = ops.zeros_like(step) + self.values[0]
        for boundary, later in zip(self.boundaries, self.values[1:], strict=True):
            value = ops.where(step > boundary, later, value)
        return value
