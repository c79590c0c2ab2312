"""Shampoo: a matrix preconditioner along each axis of each variable."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from keras import ops

from keras_gradopt.arguments import Hyperparameters, positive_int
from keras_gradopt.gradient.adagrad import Adagrad
from keras_gradopt.linalg import along_axis, inverse_root, unfolding_square
from keras_gradopt.optimizer import Optimizer
from keras_gradopt.ranges import DECAY_RATE, EPSILON, Range
from keras_gradopt.slot import Slot
from keras_gradopt.tensors import either

Tensor = Any


class Shampoo(Optimizer):
    r"""Preconditions matrices along rows and columns, tensors along every axis.

    Use it where curvature is badly scaled across directions and steps are worth more than
    seconds: it won the AlgoPerf benchmark. For a gradient $G_t$ with $k$ axes, $G^{(i)}$ its
    unfolding along axis $i$, statistics $H_i$, rate $\eta$, momentum $\mu$:

    $$H_{i,t} = H_{i,t-1} + G_t^{(i)} G_t^{(i)\top} \quad \text{or} \quad
      \beta_2 H_{i,t-1} + (1-\beta_2) G_t^{(i)} G_t^{(i)\top}$$
    $$P_t = G_t \times_1 H_{1,t}^{-1/2k} \cdots \times_k H_{k,t}^{-1/2k}$$
    $$u_t = \mu u_{t-1} + P_t \|D_t\| / \|P_t\|, \quad w_t = w_{t-1} - \eta u_t$$

    where $D_t$ is the step of the method grafted on: its size is kept, only the direction is
    Shampoo's. Axes longer than `max_preconditioner_dim` are left as they are.

    Args:
        learning_rate: Step size $\eta$, at least 0; with grafting, that of the grafted method.
        momentum: $\mu$, in [0, 1). 0 keeps no velocity.
        beta_2: Decay of the statistics, in [0, 1); None sums them, as the paper does.
        epsilon: First value of the statistics' diagonal, above 0, in squared gradient units.
        grafting: Whose step size to take: True is `Adagrad`, any optimizer that keeps state per
            variable is that one (its own rate does not count), False is Shampoo's own.
        preconditioner_interval: Steps between two computations of the roots, at least 1.
        start_preconditioning_step: Steps before which the grafted method moves alone, at least 1;
            without grafting the plain gradient does.
        max_preconditioner_dim: Longest axis that is preconditioned.
        **kwargs: Common arguments, see `keras_gradopt.Optimizer`.

    Example:
        >>> w = keras.Variable([[2.0, 0.0], [0.0, 1.0]])
        >>> optimizer = Shampoo(learning_rate=0.1, grafting=False, epsilon=1e-9)
        >>> optimizer.apply([w.value * 1.0], [w])  # first step: the gradient's orthogonal part
        >>> show(w)
        [[1.9, 0], [0, 0.9]]

    References:
        Gupta, Koren, Singer. Shampoo: Preconditioned Stochastic Tensor Optimization. ICML 2018,
        Algorithm 2. Anil, Gupta, Koren, Regan, Singer. Scalable Second Order Optimization for Deep
        Learning. 2020, section 4 (grafting, delayed roots, long axes).
    """

    ranges: ClassVar[dict[str, Range]] = {
        "momentum": DECAY_RATE,
        "beta_2": DECAY_RATE,
        "epsilon": EPSILON.fixed(),
    }

    def __init__(
        self,
        learning_rate: Any = 0.01,
        momentum: Any = 0.0,
        beta_2: Any = None,
        epsilon: Any = 1e-6,
        grafting: Optimizer | bool = True,
        preconditioner_interval: int = 1,
        start_preconditioning_step: int = 1,
        max_preconditioner_dim: int = 1024,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.declare(momentum=momentum, beta_2=beta_2, epsilon=epsilon)
        self.declare(
            grafting=_graft(grafting),
            preconditioner_interval=positive_int(
                "preconditioner_interval", preconditioner_interval
            ),
            start_preconditioning_step=positive_int(
                "start_preconditioning_step", start_preconditioning_step
            ),
            max_preconditioner_dim=positive_int("max_preconditioner_dim", max_preconditioner_dim),
        )

    @property
    def _has_velocity(self) -> bool:
        return self.momentum != 0.0

    def _axes(self, shape: tuple[int, ...]) -> list[int]:
        return [i for i, n in enumerate(shape) if n <= self.max_preconditioner_dim]

    def slots(self, shape: tuple[int, ...]) -> Sequence[Slot]:
        """Per axis the statistics and their root; the grafted method's sum; the velocity."""
        slots = []
        for axis in self._axes(shape):
            n = shape[axis]
            slots.append(Slot(f"statistics_{axis}", (n, n), _scaled_eye(n, self.epsilon)))
            slots.append(Slot(f"root_{axis}", (n, n), _scaled_eye(n, 1.0)))
        if self.grafting:
            graft_slots = self.grafting.slots(shape)
            slots += [dataclasses.replace(s, name=f"graft_{s.name}") for s in graft_slots]
        if self._has_velocity:
            slots.append(Slot("velocity"))
        return slots

    def update(self, w: Tensor, g: Tensor, *slots: Tensor, h: Hyperparameters) -> tuple:
        """One step for one variable."""
        rest = list(slots)
        axes = self._axes(tuple(w.shape))
        pairs = [(rest.pop(0), rest.pop(0)) for _ in axes]
        statistics = [
            self._gathered(s, unfolding_square(g, axis), h)
            for axis, (s, _) in zip(axes, pairs, strict=True)
        ]
        roots = self._roots(statistics, [root for _, root in pairs], len(w.shape), h)
        new = [x for pair in zip(statistics, roots, strict=True) for x in pair]

        p = g
        for axis, root in zip(axes, roots, strict=True):
            p = along_axis(root, p, axis)
        d = g
        if self.grafting:
            count = len(self.grafting.slots(tuple(w.shape)))
            unit = self.grafting.hyperparameters(h.step, learning_rate=1.0)
            moved, *graft_slots = self.grafting.update(ops.zeros_like(w), g, *rest[:count], h=unit)
            d, rest = -moved, rest[count:]
            new += graft_slots
            p = p * (_norm(d) / ops.maximum(_norm(p), 1e-30))
        started = h.step >= self.start_preconditioning_step
        u = ops.where(started, p, d)
        if self._has_velocity:
            u = h.momentum * rest.pop(0) + u
            new.append(u)
        return (w - h.learning_rate * u, *new)

    def _gathered(self, statistics: Tensor, square: Tensor, h: Hyperparameters) -> Tensor:
        if self.beta_2 is None:
            return statistics + square
        return h.beta_2 * statistics + (1 - h.beta_2) * square

    def _roots(
        self, statistics: list[Tensor], old: list[Tensor], axes: int, h: Hyperparameters
    ) -> list[Tensor]:
        def computed() -> list[Tensor]:
            return [inverse_root(s, 2 * axes) for s in statistics]

        if self.preconditioner_interval == 1 or not statistics:
            return computed()
        due = ops.equal(ops.mod(h.step - 1.0, float(self.preconditioner_interval)), 0.0)
        return either(due, computed, lambda: old)


def _scaled_eye(n: int, scale: float) -> Callable[[Tensor], Tensor]:
    return lambda w: scale * ops.eye(n)


def _graft(value: Any) -> Optimizer | bool:
    if value is True:
        return Adagrad(initial_accumulator_value=0.0)
    if value is False or (
        isinstance(value, Optimizer) and value.needs == "gradient" and not value.shared_slots()
    ):
        return value
    raise ValueError(
        "grafting must be True, False or an optimizer of keras_gradopt whose state is all per "
        f"variable (such as SGD or Adam), received {value!r}."
    )


def _norm(x: Tensor) -> Tensor:
    return ops.sqrt(ops.sum(x * x))
