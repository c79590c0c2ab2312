"""ADOPT: Adam that divides by the past second moment only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from keras import ops

from keras_gradopt.arguments import Hyperparameters
from keras_gradopt.optimizer import Optimizer
from keras_gradopt.ranges import DECAY_RATE, EPSILON, FRACTION, Range
from keras_gradopt.slot import Slot

Tensor = Any


class ADOPT(Optimizer):
    r"""Adam that converges whatever its second decay rate.

    Use it where Adam wanders because rare large gradients are averaged away, and instead of
    searching `beta_2`. It divides each gradient by a moment that has not seen it, before the
    average. With gradient $g_t$ ($g_0$ is that of the first call, which only sets $v_0 = g_0^2$
    and moves nothing), moments $m_t$, $v_t$, clipping exponent $p$ and rate $\eta$:

    $$m_t = \beta_1 m_{t-1} + (1-\beta_1)\,
      \mathrm{clip}(g_t / \max(\sqrt{v_{t-1}}, \epsilon),\ \pm t^p)$$
    $$w_t = w_{t-1} - \eta m_t$$
    $$v_t = \beta_2 v_{t-1} + (1-\beta_2) g_t^2$$

    Args:
        learning_rate: Step size $\eta$, at least 0: a number or a schedule.
        beta_1: Decay $\beta_1$ of the first moment, in [0, 1).
        beta_2: Decay $\beta_2$ of the second moment, in [0, 1).
        epsilon: Least divisor $\epsilon$, above 0, in units of the gradient.
        clip_exponent: $p$, in [0, 1]: how fast the bound on the divided gradient grows. None does
            not clip, which is unstable where first gradients are nearly 0.
        **kwargs: Common arguments, see `keras_gradopt.Optimizer`.

    Example:
        >>> w = keras.Variable([1.0, -2.0])
        >>> optimizer = ADOPT(learning_rate=0.1)
        >>> optimizer.apply([2 * w], [w])      # only looks
        >>> optimizer.apply([2 * w], [w])      # the average has a tenth of the first step
        >>> show(w)
        [0.99, -1.99]

    References:
        Taniguchi, Harada, Minegishi, Oshima, Jeong, Nagahara, Iiyama, Suzuki, Iwasawa, Matsuo.
        ADOPT: Modified Adam Can Converge with Any beta_2 with the Optimal Rate. NeurIPS 2024, the
        clipped algorithm; with `clip_exponent=None` the one without clipping. optax matches;
        pytorch-optimizer counts the bound's $t$ from the first call, so that it is one step ahead.
        Weights decay in the first call too, as in both.
    """

    elementwise = True
    ranges: ClassVar[dict[str, Range]] = {
        "beta_1": DECAY_RATE,
        "beta_2": DECAY_RATE,
        "epsilon": EPSILON,
        "clip_exponent": FRACTION,
    }

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_1: Any = 0.9,
        beta_2: Any = 0.9999,
        epsilon: Any = 1e-6,
        clip_exponent: Any = 0.25,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.declare(beta_1=beta_1, beta_2=beta_2, epsilon=epsilon, clip_exponent=clip_exponent)

    def slots(self, shape: tuple[int, ...]) -> Sequence[Slot]:
        """Both moments."""
        return (Slot("momentum"), Slot("velocity"))

    def update(self, w: Tensor, g: Tensor, *slots: Tensor, h: Hyperparameters) -> tuple:
        """One step for one variable."""
        m, v = slots
        first = h.step <= 1
        scaled = g / ops.maximum(ops.sqrt(v), h.epsilon)
        if self.clip_exponent is not None:
            bound = ops.maximum(h.step - 1.0, 1.0) ** h.clip_exponent
            scaled = ops.minimum(ops.maximum(scaled, -bound), bound)
        m = ops.where(first, m, h.beta_1 * m + (1 - h.beta_1) * scaled)
        v = ops.where(first, g * g, h.beta_2 * v + (1 - h.beta_2) * g * g)
        return w - h.learning_rate * m, m, v
