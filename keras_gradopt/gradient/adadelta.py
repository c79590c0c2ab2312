"""Adadelta: steps scaled by the steps before them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from keras import ops

from keras_gradopt.arguments import Hyperparameters
from keras_gradopt.optimizer import Optimizer
from keras_gradopt.ranges import DECAY_RATE, EPSILON, Range
from keras_gradopt.slot import Slot

Tensor = Any


class Adadelta(Optimizer):
    r"""Steps scaled by the steps before them, so that the rate is a factor and 1 a fair choice.

    Use it with `learning_rate=1` where no rate is known and a slow start does no harm; the default
    is Keras', a thousand times smaller. With gradient $g_t$, its mean square $v_t$, the steps' mean
    square $u_t$ and rate $\eta$:

    $$v_t = \rho v_{t-1} + (1-\rho) g_t^2$$
    $$d_t = \frac{\sqrt{u_{t-1} + \epsilon}}{\sqrt{v_t + \epsilon}}\, g_t$$
    $$u_t = \rho u_{t-1} + (1-\rho) d_t^2$$
    $$w_t = w_{t-1} - \eta d_t$$

    Args:
        learning_rate: Factor $\eta$ of the step, at least 0: a number or a schedule. 1 is the
            method as published.
        rho: Decay $\rho$ of both averages, in [0, 1).
        epsilon: $\epsilon$ above 0, in units of the squared gradient and of the squared step: its
            root over the gradient's size is the first step.
        **kwargs: Common arguments, see `keras_gradopt.Optimizer`.

    Example:
        >>> w = keras.Variable([1.0, -2.0])
        >>> optimizer = Adadelta(learning_rate=1.0, rho=0.75, epsilon=0.01)
        >>> optimizer.apply([2 * w], [w])      # 0.1 * 2 / sqrt(0.25 * 4 + 0.01)
        >>> show(w)
        [0.801, -1.8002]

    References:
        Zeiler. ADADELTA: An Adaptive Learning Rate Method. 2012, Algorithm 1, with a rate. Epsilon
        stands inside both roots, where it starts the method; so do Keras, torch and optax. Weight
        decay is decoupled as in Keras; torch and optax add it to the gradient.
    """

    elementwise = True
    # The step and the new slot both read the old slot, of which XLA keeps a copy.
    compiles = False
    ranges: ClassVar[dict[str, Range]] = {"rho": DECAY_RATE, "epsilon": EPSILON}

    def __init__(
        self,
        learning_rate: Any = 0.001,
        rho: Any = 0.95,
        epsilon: Any = 1e-7,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.declare(rho=rho, epsilon=epsilon)

    def slots(self, shape: tuple[int, ...]) -> Sequence[Slot]:
        """The mean squares of the gradient and of the step."""
        return (Slot("velocity"), Slot("squared_step"))

    def update(self, w: Tensor, g: Tensor, *slots: Tensor, h: Hyperparameters) -> tuple:
        """One step for one variable."""
        v, u = slots
        v = h.rho * v + (1 - h.rho) * g * g
        d = ops.sqrt(u + h.epsilon) / ops.sqrt(v + h.epsilon) * g
        u = h.rho * u + (1 - h.rho) * d * d
        return w - h.learning_rate * d, v, u
