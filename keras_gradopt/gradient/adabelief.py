"""AdaBelief: steps scaled by how far gradients stray from their average."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

from keras import ops

from keras_gradopt.arguments import Hyperparameters
from keras_gradopt.optimizer import Optimizer
from keras_gradopt.ranges import DECAY_RATE, EPSILON, Range
from keras_gradopt.slot import Slot
from keras_gradopt.tensors import one_minus_power

Tensor = Any


class AdaBelief(Optimizer):
    r"""Adam that takes large steps where gradients agree, small ones where they surprise.

    Use it where Adam trains fast but generalizes worse than gradient descent, or is unstable. With
    gradient $g_t$, moment $m_t$, mean square $s_t$ of the surprise and rate $\eta$:

    $$m_t = \beta_1 m_{t-1} + (1-\beta_1) g_t$$
    $$s_t = \beta_2 s_{t-1} + (1-\beta_2) (g_t - m_t)^2 + \epsilon$$
    $$w_t = w_{t-1} - \eta \frac{m_t / (1-\beta_1^t)}{\sqrt{s_t / (1-\beta_2^t)} + \epsilon}$$

    Args:
        learning_rate: Step size $\eta$, at least 0: a number or a schedule.
        beta_1: Decay $\beta_1$ of the first moment, in [0, 1).
        beta_2: Decay $\beta_2$ of the mean square, in [0, 1).
        epsilon: $\epsilon$ above 0, in units of the squared gradient in $s_t$, where it adds up to
            $\epsilon / (1-\beta_2)$. Smaller than Adam's: its root is what limits the step.
        **kwargs: Common arguments, see `keras_gradopt.Optimizer`.

    Example:
        >>> w = keras.Variable([1.0, -2.0])
        >>> optimizer = AdaBelief(learning_rate=0.1)
        >>> optimizer.apply([2 * w], [w])      # 0.1 / 0.9: the surprise is 0.9 of the gradient
        >>> show(w)
        [0.8889, -1.8889]

    References:
        Zhuang, Tang, Ding, Tatikonda, Dvornek, Papademetris, Duncan. AdaBelief Optimizer: Adapting
        Stepsizes by the Belief in Observed Gradients. NeurIPS 2020, Algorithm 2, with the default
        epsilon of the authors' code. optax (`eps` and `eps_root` alike) and pytorch-optimizer have
        the same rule.
    """

    elementwise = True
    ranges: ClassVar[dict[str, Range]] = {
        "beta_1": DECAY_RATE,
        "beta_2": DECAY_RATE,
        "epsilon": dataclasses.replace(EPSILON, usual="1e-16 to 1e-8 is usual."),
    }

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_1: Any = 0.9,
        beta_2: Any = 0.999,
        epsilon: Any = 1e-16,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.declare(beta_1=beta_1, beta_2=beta_2, epsilon=epsilon)

    def slots(self, shape: tuple[int, ...]) -> Sequence[Slot]:
        """The first moment and the mean square of the surprise."""
        return (Slot("momentum"), Slot("variance"))

    def update(self, w: Tensor, g: Tensor, *slots: Tensor, h: Hyperparameters) -> tuple:
        """One step for one variable."""
        m, s = slots
        m = h.beta_1 * m + (1 - h.beta_1) * g
        s = h.beta_2 * s + (1 - h.beta_2) * (g - m) * (g - m) + h.epsilon
        m_hat = m / one_minus_power(h.beta_1, h.step)
        s_hat = s / one_minus_power(h.beta_2, h.step)
        return w - h.learning_rate * m_hat / (ops.sqrt(s_hat) + h.epsilon), m, s
