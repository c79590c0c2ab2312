"""RMSprop: steps scaled by the recent size of the gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from keras import ops

from keras_gradopt.arguments import Hyperparameters
from keras_gradopt.optimizer import Optimizer
from keras_gradopt.ranges import DECAY_RATE, EPSILON, Range
from keras_gradopt.slot import Slot

Tensor = Any


class RMSprop(Optimizer):
    r"""Divides the gradient by a running root mean square of itself.

    Use it for recurrent nets and drifting data, where Adam's momentum lags. With gradient $g_t$,
    mean square $v_t$, mean $b_t$, velocity $u_t$, rate $\eta$, momentum $\mu$:

    $$v_t = \rho v_{t-1} + (1-\rho) g_t^2$$
    $$b_t = \rho b_{t-1} + (1-\rho) g_t, \quad s_t = v_t - b_t^2
      \quad \text{(centered; else } s_t = v_t)$$
    $$u_t = \mu u_{t-1} + \eta g_t / (\sqrt{s_t} + \epsilon), \quad w_t = w_{t-1} - u_t$$

    Args:
        learning_rate: Step size $\eta$, at least 0: a number or a schedule.
        rho: Decay $\rho$ of the averages, in [0, 1).
        momentum: $\mu$, in [0, 1). 0 keeps no velocity.
        epsilon: $\epsilon$ above 0, in units of the gradient.
        centered: Whether to divide by the standard deviation instead of the mean square's root.
        **kwargs: Common arguments, see `keras_gradopt.Optimizer`.

    Example:
        >>> w = keras.Variable([1.0, -2.0])
        >>> optimizer = RMSprop(learning_rate=0.1, rho=0.75)
        >>> optimizer.apply([2 * w], [w])      # the root of 0.25 g^2 is half of |g|
        >>> show(w)
        [0.8, -1.8]

    References:
        Hinton, Srivastava, Swersky. Neural Networks for Machine Learning, lecture 6e. 2012.
        Graves. Generating Sequences With Recurrent Neural Networks. 2013, equations (38) to (45)
        (centered, momentum). Epsilon outside the root, as in torch; Keras and optax put it inside.
        The velocity holds the rate, as in Keras; torch keeps it outside: equal at constant rate.
    """

    elementwise = True
    ranges: ClassVar[dict[str, Range]] = {
        "rho": DECAY_RATE,
        "momentum": DECAY_RATE,
        "epsilon": EPSILON,
    }

    def __init__(
        self,
        learning_rate: Any = 0.001,
        rho: Any = 0.9,
        momentum: Any = 0.0,
        epsilon: Any = 1e-7,
        centered: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.declare(rho=rho, momentum=momentum, epsilon=epsilon, centered=centered)

    @property
    def _has_velocity(self) -> bool:
        return self.momentum != 0.0

    def slots(self, shape: tuple[int, ...]) -> Sequence[Slot]:
        """The mean square, the mean if centered, the velocity if there is momentum."""
        slots = [Slot("velocity")]
        if self.centered:
            slots.append(Slot("average_gradient"))
        if self._has_velocity:
            slots.append(Slot("momentum"))
        return slots

    def update(self, w: Tensor, g: Tensor, *slots: Tensor, h: Hyperparameters) -> tuple:
        """One step for one variable."""
        v, *rest = slots
        v = h.rho * v + (1 - h.rho) * g * g
        new, s = [v], v
        if self.centered:
            b = h.rho * rest.pop(0) + (1 - h.rho) * g
            new.append(b)
            # A variance: rounding may leave it a little below 0.
            s = ops.maximum(v - b * b, 0.0)
        u = h.learning_rate * g / (ops.sqrt(s) + h.epsilon)
        if self._has_velocity:
            u = h.momentum * rest.pop(0) + u
            new.append(u)
        return (w - u, *new)
