"""Adan: Adam with Nesterov's look-ahead from differences of gradients."""

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


class Adan(Optimizer):
    r"""Adam that sees from the last two gradients where the next one is going.

    Use it for vision models and transformers with large batches, where it bears rates 5 to 10
    times Adam's; it keeps twice Adam's state. With gradient $g_t$, its average $m_t$, that of its
    changes $v_t$, of the squared look-ahead $n_t$, rate $\eta$, decay $\lambda$, $g_0 = g_1$:

    $$m_t = \beta_1 m_{t-1} + (1-\beta_1) g_t$$
    $$v_t = \beta_2 v_{t-1} + (1-\beta_2) (g_t - g_{t-1})$$
    $$n_t = \beta_3 n_{t-1} + (1-\beta_3) (g_t + \beta_2 (g_t - g_{t-1}))^2$$
    $$u_t = \frac{m_t / (1-\beta_1^t) + \beta_2 v_t / (1-\beta_2^t)}
      {\sqrt{n_t / (1-\beta_3^t)} + \epsilon}$$
    $$w_t = (w_{t-1} - \eta u_t) / (1 + \eta \lambda)$$

    Args:
        learning_rate: Step size $\eta$, at least 0: a number or a schedule.
        beta_1: Decay $\beta_1$ of the gradient's average, in [0, 1).
        beta_2: Decay $\beta_2$ of the average of its changes, in [0, 1).
        beta_3: Decay $\beta_3$ of the second moment, in [0, 1).
        epsilon: $\epsilon$ above 0, in units of the gradient.
        **kwargs: Common arguments, see `keras_gradopt.Optimizer`; `weight_decay` is $\lambda$.

    Example:
        >>> w = keras.Variable([1.0, -2.0])
        >>> optimizer = Adan(learning_rate=0.1, weight_decay=0.5)
        >>> optimizer.apply([2 * w], [w])      # a step of the rate, then divided by 1.05
        >>> show(w)
        [0.8571, -1.8095]

    References:
        Xie, Zhou, Li, Lin, Yan. Adan: Adaptive Nesterov Momentum Algorithm for Faster Optimizing
        Deep Models. 2022 (IEEE TPAMI 2024), Algorithm 1 without restarts, with its proximal weight
        decay. The paper's betas are one minus these. The corrections for starting at zero are the
        authors' code's; the paper starts at the first gradient instead. pytorch-optimizer matches.
        optax 0.2.8 weighs the change by $1-\beta_2$ in place of $\beta_2$ (its pull request 1715),
        adds 1e-8 inside the root unless told otherwise, and decays weights as AdamW does.
    """

    elementwise = True
    decays_weights = True
    ranges: ClassVar[dict[str, Range]] = {
        "beta_1": DECAY_RATE,
        "beta_2": DECAY_RATE,
        "beta_3": DECAY_RATE,
        "epsilon": EPSILON,
    }

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_1: Any = 0.98,
        beta_2: Any = 0.92,
        beta_3: Any = 0.99,
        epsilon: Any = 1e-8,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.declare(beta_1=beta_1, beta_2=beta_2, beta_3=beta_3, epsilon=epsilon)

    def slots(self, shape: tuple[int, ...]) -> Sequence[Slot]:
        """The three averages and the last gradient."""
        return (
            Slot("momentum"),
            Slot("momentum_of_changes"),
            Slot("velocity"),
            Slot("last_gradient"),
        )

    def update(self, w: Tensor, g: Tensor, *slots: Tensor, h: Hyperparameters) -> tuple:
        """One step for one variable."""
        m, v, n, last = slots
        change = ops.where(h.step > 1, g - last, 0.0)
        ahead = g + h.beta_2 * change
        m = h.beta_1 * m + (1 - h.beta_1) * g
        v = h.beta_2 * v + (1 - h.beta_2) * change
        n = h.beta_3 * n + (1 - h.beta_3) * ahead * ahead
        m_hat = m / one_minus_power(h.beta_1, h.step)
        v_hat = v / one_minus_power(h.beta_2, h.step)
        n_hat = n / one_minus_power(h.beta_3, h.step)
        u = (m_hat + h.beta_2 * v_hat) / (ops.sqrt(n_hat) + h.epsilon)
        w = (w - h.learning_rate * u) / (1 + h.learning_rate * h.weight_decay)
        return w, m, v, n, g
