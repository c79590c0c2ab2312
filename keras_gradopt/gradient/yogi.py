"""Yogi: Adam whose second moment moves by small, bounded amounts."""

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


class Yogi(Optimizer):
    r"""Adam whose steps do not jump up when gradients become small.

    Use it for sparse or bursty gradients, after which Adam's second moment falls too fast. With
    gradient $g_t$, moments $m_t$, $v_t$ and rate $\eta$:

    $$m_t = \beta_1 m_{t-1} + (1-\beta_1) g_t$$
    $$v_t = v_{t-1} - (1-\beta_2)\, \mathrm{sign}(v_{t-1} - g_t^2)\, g_t^2$$
    $$w_t = w_{t-1} - \eta \frac{m_t / (1-\beta_1^t)}{\sqrt{v_t / (1-\beta_2^t)} + \epsilon}$$

    Args:
        learning_rate: Step size $\eta$, at least 0: a number or a schedule.
        beta_1: Decay $\beta_1$ of the first moment, in [0, 1).
        beta_2: Decay $\beta_2$ of the second moment, in [0, 1): it changes by $1-\beta_2$ of the
            squared gradient.
        epsilon: $\epsilon$ above 0, in units of the gradient; larger than Adam's.
        initial_accumulator_value: $v_0$, at least 0.
        bias_correction: Whether to divide the moments by $1-\beta^t$ as above. The paper does not.
        **kwargs: Common arguments, see `keras_gradopt.Optimizer`.

    Example:
        >>> w = keras.Variable([1.0, -2.0])
        >>> optimizer = Yogi(learning_rate=0.1)
        >>> optimizer.apply([2 * w], [w])      # 2 / (sqrt(4.001) + 0.001), 4 / (sqrt(16.001) + ...)
        >>> show(w)
        [0.9001, -1.9]

    References:
        Zaheer, Reddi, Sachan, Kale, Kumar. Adaptive Methods for Nonconvex Optimization. NeurIPS
        2018, Algorithm 2, which `bias_correction=False` follows; optax and pytorch-optimizer
        correct both moments. They also start the first one at v_0 instead of 0, which shows in the
        sixth digit.
    """

    elementwise = True
    ranges: ClassVar[dict[str, Range]] = {
        "beta_1": DECAY_RATE,
        "beta_2": DECAY_RATE,
        "epsilon": EPSILON,
        "initial_accumulator_value": NON_NEGATIVE.fixed(),
    }

    def __init__(
        self,
        learning_rate: Any = 0.01,
        beta_1: Any = 0.9,
        beta_2: Any = 0.999,
        epsilon: Any = 1e-3,
        initial_accumulator_value: float = 1e-6,
        bias_correction: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.declare(
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
            initial_accumulator_value=initial_accumulator_value,
            bias_correction=bias_correction,
        )

    def slots(self, shape: tuple[int, ...]) -> Sequence[Slot]:
        """Both moments."""
        return (Slot("momentum"), Slot("velocity", initial=self.initial_accumulator_value))

    def update(self, w: Tensor, g: Tensor, *slots: Tensor, h: Hyperparameters) -> tuple:
        """One step for one variable."""
        m, v = slots
        m = h.beta_1 * m + (1 - h.beta_1) * g
        # v stays at least 0: it falls by a part of g^2 only where it is larger than g^2.
        v = v - (1 - h.beta_2) * ops.sign(v - g * g) * g * g
        m_hat, v_hat = m, v
        if self.bias_correction:
            m_hat = m / one_minus_power(h.beta_1, h.step)
            v_hat = v / one_minus_power(h.beta_2, h.step)
        return w - h.learning_rate * m_hat / (ops.sqrt(v_hat) + h.epsilon), m, v
