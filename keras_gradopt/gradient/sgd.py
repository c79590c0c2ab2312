"""SGD: gradient descent, with momentum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from keras_gradopt.arguments import Hyperparameters
from keras_gradopt.kernel import Kernel, Velocity
from keras_gradopt.optimizer import Optimizer
from keras_gradopt.ranges import DECAY_RATE, Range
from keras_gradopt.slot import Slot

Tensor = Any


class SGD(Optimizer):
    r"""Gradient descent, with heavy-ball or Nesterov momentum.

    Use it for convolutional nets with normalisation and long budgets, and wherever a tuned rate
    pays; it needs tuning more than adaptive rules do. The batch size makes it full-batch,
    stochastic or mini-batch. With gradient $g_t$, velocity $u_t$, rate $\eta$, momentum $\beta$:

    $$u_t = \beta u_{t-1} - \eta g_t$$
    $$w_t = w_{t-1} + u_t$$
    $$w_t = w_{t-1} + \beta u_t - \eta g_t \quad \text{(nesterov)}$$

    Args:
        learning_rate: Step size $\eta$, at least 0: a number or a schedule.
        momentum: $\beta$, in [0, 1): a number or a schedule. 0 keeps no velocity.
        nesterov: Whether to take Nesterov's step, in Sutskever's reformulation.
        **kwargs: Common arguments, see `keras_gradopt.Optimizer`.

    Example:
        >>> w = keras.Variable([1.0, -2.0])
        >>> optimizer = SGD(learning_rate=0.1, momentum=0.9)
        >>> for _ in range(3):
        ...     optimizer.apply([2 * w], [w])
        >>> show(w)
        [0.062, -0.124]

    References:
        Polyak. Some methods of speeding up the convergence of iteration methods. 1964.
        Sutskever, Martens, Dahl, Hinton. On the importance of initialization and momentum in deep
        learning. ICML 2013, equations (1) to (4). The velocity holds the rate, as in Keras; torch
        and optax keep it outside, which is the same at a constant rate only.
    """

    elementwise = True
    ranges: ClassVar[dict[str, Range]] = {"momentum": DECAY_RATE}

    def __init__(
        self,
        learning_rate: Any = 0.01,
        momentum: Any = 0.0,
        nesterov: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.declare(momentum=momentum, nesterov=nesterov)
        # A velocity moves weights that have no gradient.
        self.lazy = not self._has_velocity

    @property
    def _has_velocity(self) -> bool:
        return self.momentum != 0.0

    def slots(self, shape: tuple[int, ...]) -> Sequence[Slot]:
        """The velocity, unless momentum is the number 0."""
        return (Slot("velocity"),) if self._has_velocity else ()

    def kernel(self, h: Hyperparameters) -> Kernel | None:
        """Heavy-ball momentum; frameworks keep the rate out of Nesterov's velocity."""
        if self.nesterov or not self._has_velocity:
            return None
        return Velocity(h.momentum)

    def update(self, w: Tensor, g: Tensor, *slots: Tensor, h: Hyperparameters) -> tuple:
        """One step for one variable."""
        if not self._has_velocity:
            return (w - h.learning_rate * g,)
        (u,) = slots
        u = h.momentum * u - h.learning_rate * g  # (1)
        if self.nesterov:
            return w + h.momentum * u - h.learning_rate * g, u
        return w + u, u  # (2)
