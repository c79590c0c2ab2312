"""NAG: Nesterov's accelerated gradient as he wrote it, with the gradient ahead of the weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from keras import ops

from keras_gradopt.arguments import Hyperparameters
from keras_gradopt.closure import EvaluatesLoss
from keras_gradopt.ranges import DECAY_RATE, Range
from keras_gradopt.slot import Slot
from keras_gradopt.tensors import all_finite

Tensor = Any


class NAG(EvaluatesLoss):
    r"""Looks ahead along its velocity, and takes the gradient there.

    Use it where the gradient is meant to be the one at the point ahead: to study the method, or
    with evaluations at the weights themselves. `SGD(momentum=..., nesterov=True)` takes the same
    path in other variables, $w_t + \beta u_t$, for half the work, and is the one to train with. The
    model must be bound: `keras_gradopt.bind(model)`. With the minibatch's loss $L$, velocity $u_t$,
    rate $\eta$ and momentum $\beta$:

    $$u_t = \beta u_{t-1} - \eta \nabla L(w_{t-1} + \beta u_{t-1})$$
    $$w_t = w_{t-1} + u_t$$

    Args:
        learning_rate: Step size $\eta$, at least 0: a number or a schedule.
        momentum: $\beta$, in [0, 1): a number or a schedule.
        **kwargs: Common arguments, see `keras_gradopt.Optimizer`. Clipping and other transforms see
            the gradient ahead; decoupled weight decay pulls at the weights themselves.

    Example:
        >>> model = keras_gradopt.bind(model)
        >>> model.compile(optimizer=NAG(0.05, momentum=0.9), loss="mse")
        >>> history = model.fit(x, y, batch_size=16, verbose=0)
        >>> float(model.optimizer.evaluations)     # 4 steps of two gradients
        8.0

    References:
        Nesterov. A method for solving the convex programming problem with convergence rate
        O(1/k^2). 1983, in the form of Sutskever, Martens, Dahl, Hinton. On the importance of
        initialization and momentum in deep learning. ICML 2013, equations (3) and (4). Nesterov's
        own sequence of momenta is a schedule. Where the gradient ahead is not finite (float16), the
        one at the weights is taken.
    """

    gradient_evaluations_per_step = 2.0
    elementwise = True
    ranges: ClassVar[dict[str, Range]] = {"momentum": DECAY_RATE}

    def __init__(self, learning_rate: Any = 0.01, momentum: Any = 0.9, **kwargs: Any) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.declare(momentum=momentum)

    def slots(self, shape: tuple[int, ...]) -> Sequence[Slot]:
        """The velocity."""
        return (Slot("velocity"),)

    def look(
        self,
        ws: list[Tensor],
        gs: list[Tensor],
        slots: list[tuple[Tensor, ...]],
        shared: dict[str, Tensor],
        h: Hyperparameters,
    ) -> tuple[list[Tensor], list[tuple[Tensor, ...]], dict[str, Tensor]]:
        """The gradient at the point ahead."""
        ahead = [w + ops.cast(h.momentum, w.dtype) * u for w, (u,) in zip(ws, slots, strict=True)]
        _, found = self.objective.value_and_grad(ahead)  # (3)
        finite = all_finite(found)
        gs = [ops.where(finite, f, g) for f, g in zip(found, gs, strict=True)]
        return gs, slots, shared

    def update(self, w: Tensor, g: Tensor, *slots: Tensor, h: Hyperparameters) -> tuple:
        """One step for one variable, by the gradient ahead of it."""
        (u,) = slots
        u = h.momentum * u - h.learning_rate * g
        return w + u, u  # (4)
