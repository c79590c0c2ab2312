"""Adamax: steps scaled by the largest recent gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from keras import ops

from keras_gradopt.arguments import Hyperparameters
from keras_gradopt.optimizer import Optimizer
from keras_gradopt.ranges import DECAY_RATE, EPSILON, Range
from keras_gradopt.slot import Slot
from keras_gradopt.tensors import one_minus_power

Tensor = Any


class Adamax(Optimizer):
    r"""Adam that divides by the largest recent gradient: no step exceeds the rate by much.

    Use it for sparse or bursty gradients such as those of embeddings, which a mean square forgets.
    With gradient $g_t$, moment $m_t$, decayed maximum $u_t$ and rate $\eta$:

    $$m_t = \beta_1 m_{t-1} + (1-\beta_1) g_t$$
    $$u_t = \max(\beta_2 u_{t-1},\ |g_t|)$$
    $$w_t = w_{t-1} - \eta \frac{m_t / (1-\beta_1^t)}{u_t + \epsilon}$$

    Args:
        learning_rate: Step size $\eta$, at least 0: a number or a schedule.
        beta_1: Decay $\beta_1$ of the moment, in [0, 1).
        beta_2: Decay $\beta_2$ of the maximum, in [0, 1).
        epsilon: $\epsilon$ above 0, in units of the gradient.
        **kwargs: Common arguments, see `keras_gradopt.Optimizer`.

    Example:
        >>> w = keras.Variable([1.0, -2.0])
        >>> optimizer = Adamax(learning_rate=0.1)
        >>> optimizer.apply([2 * w], [w])      # the first step is the rate, in every coordinate
        >>> show(w)
        [0.9, -1.9]

    References:
        Kingma, Ba. Adam: A Method for Stochastic Optimization. ICLR 2015, Algorithm 2, with epsilon
        added to the maximum as in Keras. torch and optax add it to the gradient's size inside the
        maximum, which differs where that is of epsilon's size.
    """

    elementwise = True
    ranges: ClassVar[dict[str, Range]] = {
        "beta_1": DECAY_RATE,
        "beta_2": DECAY_RATE,
        "epsilon": EPSILON,
    }

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_1: Any = 0.9,
        beta_2: Any = 0.999,
        epsilon: Any = 1e-7,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.declare(beta_1=beta_1, beta_2=beta_2, epsilon=epsilon)

    def slots(self, shape: tuple[int, ...]) -> Sequence[Slot]:
        """The first moment and the decayed maximum."""
        return (Slot("momentum"), Slot("norm"))

    def update(self, w: Tensor, g: Tensor, *slots: Tensor, h: Hyperparameters) -> tuple:
        """One step for one variable."""
        m, u = slots
        m = h.beta_1 * m + (1 - h.beta_1) * g
        u = ops.maximum(h.beta_2 * u, ops.abs(g))
        m_hat = m / one_minus_power(h.beta_1, h.step)
        return w - h.learning_rate * m_hat / (u + h.epsilon), m, u
