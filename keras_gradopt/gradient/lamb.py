"""Lamb: Adam's steps, as long as a fraction of each variable."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from keras import ops

from keras_gradopt.arguments import Hyperparameters
from keras_gradopt.optimizer import Optimizer
from keras_gradopt.ranges import DECAY_RATE, EPSILON, Range
from keras_gradopt.slot import Slot
from keras_gradopt.tensors import global_norm, one_minus_power

Tensor = Any


class Lamb(Optimizer):
    r"""Adam whose step moves every variable by the same fraction of its norm.

    Use it for batches of thousands, for which it was made: the rate grows with the batch and no
    layer is torn away. With gradient $g_t$, moments $m_t$, $v_t$, rate $\eta$ and decay $\lambda$:

    $$m_t = \beta_1 m_{t-1} + (1-\beta_1) g_t$$
    $$v_t = \beta_2 v_{t-1} + (1-\beta_2) g_t^2$$
    $$r_t = \frac{m_t / (1-\beta_1^t)}{\sqrt{v_t / (1-\beta_2^t)} + \epsilon} + \lambda w_{t-1}$$
    $$w_t = w_{t-1} - \eta \frac{\|w_{t-1}\|}{\|r_t\|} r_t$$

    with norms over one variable; where one of them is 0 their ratio is taken as 1.

    Args:
        learning_rate: $\eta$, at least 0: the fraction of a variable's norm that a step has, a
            number or a schedule.
        beta_1: Decay $\beta_1$ of the first moment, in [0, 1).
        beta_2: Decay $\beta_2$ of the second moment, in [0, 1).
        epsilon: $\epsilon$ above 0, in units of the gradient.
        **kwargs: Common arguments, see `keras_gradopt.Optimizer`; `weight_decay` is $\lambda$.

    Example:
        >>> w = keras.Variable([3.0, -4.0])
        >>> optimizer = Lamb(learning_rate=0.1)
        >>> optimizer.apply([2 * w], [w])      # length 0.1 * 5, along Adam's (1, -1)
        >>> show(w)
        [2.6464, -3.6464]

    References:
        You, Li, Reddi, Hseu, Kumar, Bhojanapalli, Song, Demmel, Keutzer, Hsieh. Large Batch
        Optimization for Deep Learning: Training BERT in 76 minutes. ICLR 2020, Algorithm 2 with
        the identity as scaling function. optax matches; Keras does without weight decay, which it
        leaves out of the ratio. pytorch-optimizer does not correct the moments, takes norms above
        10 for 10 and decays weights outside the ratio.
    """

    decays_weights = True
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
        """Both moments."""
        return (Slot("momentum"), Slot("velocity"))

    def update(self, w: Tensor, g: Tensor, *slots: Tensor, h: Hyperparameters) -> tuple:
        """One step for one variable."""
        m, v = slots
        m = h.beta_1 * m + (1 - h.beta_1) * g
        v = h.beta_2 * v + (1 - h.beta_2) * g * g
        m_hat = m / one_minus_power(h.beta_1, h.step)
        v_hat = v / one_minus_power(h.beta_2, h.step)
        r = m_hat / (ops.sqrt(v_hat) + h.epsilon) + h.weight_decay * w
        w_norm, r_norm = global_norm([w]), global_norm([r])
        safe = ops.logical_and(w_norm > 0, r_norm > 0)
        ratio = ops.where(safe, w_norm / ops.where(safe, r_norm, 1.0), 1.0)
        return w - h.learning_rate * ratio * r, m, v
