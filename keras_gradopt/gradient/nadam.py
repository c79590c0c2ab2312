"""Nadam: Adam with Nesterov's momentum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from keras import ops

from keras_gradopt.arguments import Hyperparameters
from keras_gradopt.optimizer import Optimizer
from keras_gradopt.ranges import DECAY_RATE, EPSILON, NON_NEGATIVE, Range
from keras_gradopt.slot import Slot
from keras_gradopt.tensors import one_minus_power

Tensor = Any


class Nadam(Optimizer):
    r"""Adam that looks one step ahead along its momentum, as Nesterov's method does.

    Use it where Adam works and should react sooner to the latest gradient. With gradient $g_t$,
    moments $m_t$, $v_t$, momentum $\mu_t$ that warms up from about $\beta_1 / 2$ to $\beta_1$ at
    pace $\psi$, and rate $\eta$:

    $$\mu_t = \beta_1 (1 - 0.5 \cdot 0.96^{\psi t})$$
    $$m_t = \beta_1 m_{t-1} + (1-\beta_1) g_t, \qquad v_t = \beta_2 v_{t-1} + (1-\beta_2) g_t^2$$
    $$\hat m_t = \frac{\mu_{t+1} m_t}{1 - \prod_{i=1}^{t+1} \mu_i}
      + \frac{(1-\mu_t) g_t}{1 - \prod_{i=1}^{t} \mu_i}$$
    $$w_t = w_{t-1} - \eta \frac{\hat m_t}{\sqrt{v_t / (1-\beta_2^t)} + \epsilon}$$

    Args:
        learning_rate: Step size $\eta$, at least 0: a number or a schedule.
        beta_1: Decay $\beta_1$ of the first moment and last value of the momentum, in [0, 1). Under
            a schedule $\mu_{t+1}$ takes its value at step $t$, and the product runs over the values
            that were taken.
        beta_2: Decay $\beta_2$ of the second moment, in [0, 1).
        epsilon: $\epsilon$ above 0, in units of the gradient.
        momentum_decay: Pace $\psi$ of the momentum's rise, at least 0. At 0.004 it takes thousands
            of steps, at 1 a hundred (Keras), from 1000 none (optax).
        **kwargs: Common arguments, see `keras_gradopt.Optimizer`.

    Example:
        >>> w = keras.Variable([1.0, -2.0])
        >>> optimizer = Nadam(learning_rate=0.1)
        >>> optimizer.apply([2 * w], [w])      # 0.45 * 0.1 / (1 - 0.45**2) more than Adam's step
        >>> show(w)
        [0.8944, -1.8944]

    References:
        Dozat. Incorporating Nesterov Momentum into Adam. ICLR Workshop 2016, Algorithm 2, in the
        form of torch's NAdam, which this follows step for step: the first moment decays by beta_1
        where the algorithm has mu_t, and the second lacks a further factor beta_2. Keras' Nadam is
        `momentum_decay=1`. optax has mu_t = beta_1 throughout, which is `momentum_decay=1000`.
    """

    elementwise = True
    ranges: ClassVar[dict[str, Range]] = {
        "beta_1": DECAY_RATE,
        "beta_2": DECAY_RATE,
        "epsilon": EPSILON,
        "momentum_decay": NON_NEGATIVE,
    }

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_1: Any = 0.9,
        beta_2: Any = 0.999,
        epsilon: Any = 1e-7,
        momentum_decay: Any = 0.004,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.declare(beta_1=beta_1, beta_2=beta_2, epsilon=epsilon, momentum_decay=momentum_decay)

    def slots(self, shape: tuple[int, ...]) -> Sequence[Slot]:
        """Both moments."""
        return (Slot("momentum"), Slot("velocity"))

    def shared_slots(self) -> Sequence[Slot]:
        """The product of the momenta so far, which has no closed form."""
        return (Slot("momentum_product", shape=(), initial=1.0),)

    def measure(
        self,
        ws: list[Tensor],
        gs: list[Tensor],
        slots: list[tuple[Tensor, ...]],
        shared: dict[str, Tensor],
        h: Hyperparameters,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The momenta of this step and the next, and their product up to this one."""
        mu, mu_next = (
            h.beta_1 * (1 - 0.5 * ops.power(0.96, h.momentum_decay * step))
            for step in (h.step, h.step + 1)
        )
        product = shared["momentum_product"] * mu
        return {"mu": mu, "mu_next": mu_next}, {**shared, "momentum_product": product}

    def update(self, w: Tensor, g: Tensor, *slots: Tensor, h: Hyperparameters) -> tuple:
        """One step for one variable."""
        m, v = slots
        mu, mu_next, product = h.numbers["mu"], h.numbers["mu_next"], h.shared["momentum_product"]
        m = h.beta_1 * m + (1 - h.beta_1) * g
        v = h.beta_2 * v + (1 - h.beta_2) * g * g
        m_hat = mu_next * m / (1 - product * mu_next) + (1 - mu) * g / (1 - product)
        v_hat = v / one_minus_power(h.beta_2, h.step)
        return w - h.learning_rate * m_hat / (ops.sqrt(v_hat) + h.epsilon), m, v
