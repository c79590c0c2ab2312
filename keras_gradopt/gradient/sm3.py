"""SM3: Adagrad that keeps one number per row and column."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, ClassVar

from keras import ops

from keras_gradopt.arguments import Hyperparameters
from keras_gradopt.optimizer import Optimizer
from keras_gradopt.ranges import DECAY_RATE, Range
from keras_gradopt.slot import Slot

Tensor = Any


class SM3(Optimizer):
    r"""Adagrad in the memory of momentum alone, or of almost nothing.

    Use it for large embedding tables and where memory decides the batch size; like Adagrad its
    steps only get shorter. For a variable with gradient $g_t$, one accumulator $a_r$ for each
    index $r$ along each axis, $i \in r$ the entries with that index, average $m_t$, rate $\eta$:

    $$\nu_t(i) = \min_{r \ni i} a_{r,t-1} + g_t(i)^2$$
    $$a_{r,t} = \max_{i \in r} \nu_t(i)$$
    $$m_t = \beta m_{t-1} + (1-\beta)\, g_t / \sqrt{\nu_t}$$
    $$w_t = w_{t-1} - \eta m_t$$

    with $0/0 = 0$. Of vectors the accumulator is Adagrad's.

    Args:
        learning_rate: Step size $\eta$, at least 0: a number or a schedule.
        momentum: $\beta$, in [0, 1): a number or a schedule. 0 keeps no average.
        **kwargs: Common arguments, see `keras_gradopt.Optimizer`.

    Example:
        >>> w = keras.Variable([[2.0, 0.0], [0.0, 1.0]])
        >>> optimizer = SM3(learning_rate=0.1, momentum=0.0)
        >>> for _ in range(2):
        ...     optimizer.apply([ops.ones((2, 2))], [w])   # 0.1, then 0.1 / sqrt(2)
        >>> show(w)
        [[1.8293, -0.1707], [-0.1707, 0.8293]]

    References:
        Anil, Gupta, Koren, Singer. Memory-Efficient Adaptive Optimization. NeurIPS 2019, algorithm
        SM3-II with slices along axes as the cover, and the averaging of the authors' code.
        pytorch-optimizer matches; optax adds 1e-8 to $\nu_t$, which differs where gradients are
        small, and can replace the sums by averages, which is not in the paper.
    """

    ranges: ClassVar[dict[str, Range]] = {"momentum": DECAY_RATE}

    def __init__(
        self,
        learning_rate: Any = 0.1,
        momentum: Any = 0.9,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.declare(momentum=momentum)

    @property
    def _has_average(self) -> bool:
        return self.momentum != 0.0

    def slots(self, shape: tuple[int, ...]) -> Sequence[Slot]:
        """One accumulator per axis, of the axis' length; the average."""
        accumulators = [Slot(f"accumulator_{axis}", (n,)) for axis, n in enumerate(shape)]
        # A scalar has no axis, and itself as its only slice.
        accumulators = accumulators or [Slot("accumulator")]
        return (*accumulators, Slot("momentum")) if self._has_average else accumulators

    def update(self, w: Tensor, g: Tensor, *slots: Tensor, h: Hyperparameters) -> tuple:
        """One step for one variable."""
        accumulators = list(slots[: max(1, len(g.shape))])
        bounds = [_along(a, axis, len(g.shape)) for axis, a in enumerate(accumulators)]
        nu = functools.reduce(ops.minimum, bounds) + g * g
        accumulators = [_largest_per_index(nu, axis) for axis in range(len(accumulators))]
        # Where nu is 0 so is the gradient (or its square, below float32): the step is 0 too.
        step = g / ops.sqrt(ops.where(nu > 0, nu, 1.0))
        if not self._has_average:
            return (w - h.learning_rate * step, *accumulators)
        m = h.momentum * slots[-1] + (1 - h.momentum) * step
        return (w - h.learning_rate * m, *accumulators, m)


def _along(accumulator: Tensor, axis: int, rank: int) -> Tensor:
    """The accumulator of an axis, shaped so that it broadcasts over the other axes."""
    if rank < 2:
        return accumulator
    return ops.reshape(accumulator, [-1 if i == axis else 1 for i in range(rank)])


def _largest_per_index(nu: Tensor, axis: int) -> Tensor:
    others = tuple(i for i in range(len(nu.shape)) if i != axis)
    return ops.max(nu, axis=others) if others else nu
