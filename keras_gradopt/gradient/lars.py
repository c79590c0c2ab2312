"""LARS: gradient steps, as long as a fraction of each variable."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from keras import ops

from keras_gradopt.arguments import Hyperparameters
from keras_gradopt.optimizer import Optimizer
from keras_gradopt.ranges import DECAY_RATE, POSITIVE, Range
from keras_gradopt.slot import Slot
from keras_gradopt.tensors import global_norm

Tensor = Any


class LARS(Optimizer):
    r"""Gradient descent whose step moves every variable by the same fraction of its norm.

    Use it for convolutional networks on batches of thousands, with warmup. With gradient $g_t$,
    velocity $u_t$, rate $\eta$, trust $\tau$, momentum $\beta$ and decay $\lambda$:

    $$\rho_t = \tau \frac{\|w_{t-1}\|}{\|g_t\| + \lambda \|w_{t-1}\|}$$
    $$u_t = \beta u_{t-1} + \eta \rho_t (g_t + \lambda w_{t-1})$$
    $$w_t = w_{t-1} - u_t$$

    with norms over one variable; where the weights or the divisor are 0 their ratio is taken as 1.

    Args:
        learning_rate: Global rate $\eta$, at least 0: a number or a schedule. 1 to 10 is usual.
        momentum: $\beta$, in [0, 1): a number or a schedule. 0 keeps no velocity.
        trust_coefficient: $\tau$ above 0: with $\eta$ it is the fraction of a variable's norm that
            a step has.
        **kwargs: Common arguments, see `keras_gradopt.Optimizer`; `weight_decay` is $\lambda$.

    Example:
        >>> w = keras.Variable([3.0, -4.0])
        >>> optimizer = LARS(learning_rate=1.0, trust_coefficient=0.1)
        >>> optimizer.apply([2 * w], [w])      # length 0.1 * 5, along the gradient
        >>> show(w)
        [2.7, -3.6]

    References:
        You, Gitman, Ginsburg. Large Batch Training of Convolutional Networks. 2017, Algorithm 1,
        which writes $\gamma$, $\eta$, $m$, $\beta$ for $\eta$, $\tau$, $\beta$, $\lambda$. By the
        paper alone a variable that starts at 0 stays there; optax and pytorch-optimizer take
        $\rho_t = 1$ for it, which without warmup throws biases far off at the rates that so small
        a $\tau$ asks for. Otherwise optax matches without weight decay; with it, optax divides by
        $\|g_t + \lambda w_{t-1}\|$. pytorch-optimizer keeps the rate outside the velocity, equal
        at a constant rate only, and treats vectors by plain momentum.
    """

    decays_weights = True
    ranges: ClassVar[dict[str, Range]] = {
        "momentum": DECAY_RATE,
        "trust_coefficient": POSITIVE,
    }

    def __init__(
        self,
        learning_rate: Any = 1.0,
        momentum: Any = 0.9,
        trust_coefficient: Any = 0.001,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.declare(momentum=momentum, trust_coefficient=trust_coefficient)

    @property
    def _has_velocity(self) -> bool:
        return self.momentum != 0.0

    def slots(self, shape: tuple[int, ...]) -> Sequence[Slot]:
        """The velocity, unless momentum is the number 0."""
        return (Slot("velocity"),) if self._has_velocity else ()

    def update(self, w: Tensor, g: Tensor, *slots: Tensor, h: Hyperparameters) -> tuple:
        """One step for one variable."""
        w_norm = global_norm([w])
        divisor = global_norm([g]) + h.weight_decay * w_norm
        safe = ops.logical_and(w_norm > 0, divisor > 0)
        ratio = ops.where(safe, w_norm / ops.where(safe, divisor, 1.0), 1.0)
        u = h.learning_rate * h.trust_coefficient * ratio * (g + h.weight_decay * w)
        if not self._has_velocity:
            return (w - u,)
        u = h.momentum * slots[0] + u
        return w - u, u
