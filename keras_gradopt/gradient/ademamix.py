"""AdEMAMix: Adam with a second, slow average of gradients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

from keras import ops

from keras_gradopt.arguments import Hyperparameters, positive_int
from keras_gradopt.optimizer import Optimizer
from keras_gradopt.ranges import DECAY_RATE, EPSILON, NON_NEGATIVE, Range
from keras_gradopt.slot import Slot
from keras_gradopt.tensors import one_minus_power

Tensor = Any


class AdEMAMix(Optimizer):
    r"""Adam that also remembers gradients of ten thousand steps ago.

    Use it for long trainings, of language models above all: it needs fewer samples there and
    forgets less of them. Set `warmup_steps` to the number of training steps. With gradient $g_t$,
    fast and slow average $m_t$, $s_t$, second moment $v_t$ and rate $\eta$:

    $$m_t = \beta_1 m_{t-1} + (1-\beta_1) g_t$$
    $$s_t = \beta_3(t)\, s_{t-1} + (1-\beta_3(t)) g_t$$
    $$v_t = \beta_2 v_{t-1} + (1-\beta_2) g_t^2$$
    $$w_t = w_{t-1} - \eta \frac{m_t / (1-\beta_1^t) + \alpha(t)\, s_t}
      {\sqrt{v_t / (1-\beta_2^t)} + \epsilon}$$

    where within $T$ warmup steps, with $\tau = \min(t/T, 1)$, the weight of the slow average grows
    evenly and so does its half-life, from that of the fast one:

    $$\alpha(t) = \tau \alpha, \qquad \ln \beta_3(t) =
      \left( \frac{1-\tau}{\ln \beta_1} + \frac{\tau}{\ln \beta_3} \right)^{-1}$$

    Args:
        learning_rate: Step size $\eta$, at least 0: a number or a schedule.
        beta_1: Decay $\beta_1$ of the fast average, in [0, 1).
        beta_2: Decay $\beta_2$ of the second moment, in [0, 1).
        beta_3: Decay $\beta_3$ of the slow average, in [0, 1), above `beta_1`.
        alpha: Weight $\alpha$ of the slow average, at least 0; the authors take 4 to 10.
        epsilon: $\epsilon$ above 0, in units of the gradient.
        warmup_steps: $T$, at least 1; None starts with $\alpha$ and $\beta_3$ themselves.
        **kwargs: Common arguments, see `keras_gradopt.Optimizer`.

    Example:
        >>> w = keras.Variable([1.0, -2.0])
        >>> optimizer = AdEMAMix(learning_rate=0.1, beta_3=0.9, alpha=2.0)
        >>> optimizer.apply([2 * w], [w])      # Adam's 0.1, and twice a tenth of it
        >>> show(w)
        [0.88, -1.88]

    References:
        Pagliardini, Ablin, Grangier. The AdEMAMix Optimizer: Better, Faster, Older. ICLR 2025,
        Algorithm 1 and the schedules of section 3. pytorch-optimizer matches, and optax without
        warmup; optax' schedules for alpha and beta_3 count from 0, the paper's from 1.
    """

    elementwise = True
    ranges: ClassVar[dict[str, Range]] = {
        "beta_1": DECAY_RATE,
        "beta_2": DECAY_RATE,
        "beta_3": DECAY_RATE,
        "alpha": NON_NEGATIVE,
        "epsilon": EPSILON,
    }

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_1: Any = 0.9,
        beta_2: Any = 0.999,
        beta_3: Any = 0.9999,
        alpha: Any = 5.0,
        epsilon: Any = 1e-8,
        warmup_steps: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.declare(beta_1=beta_1, beta_2=beta_2, beta_3=beta_3, alpha=alpha, epsilon=epsilon)
        self.declare(
            warmup_steps=None
            if warmup_steps is None
            else positive_int("warmup_steps", warmup_steps)
        )

    def slots(self, shape: tuple[int, ...]) -> Sequence[Slot]:
        """Both averages and the second moment."""
        return (Slot("momentum"), Slot("slow_momentum"), Slot("velocity"))

    def update(self, w: Tensor, g: Tensor, *slots: Tensor, h: Hyperparameters) -> tuple:
        """One step for one variable."""
        m, s, v = slots
        alpha, fresh = self._slow(h)
        m = h.beta_1 * m + (1 - h.beta_1) * g
        s = s + fresh * (g - s)
        v = h.beta_2 * v + (1 - h.beta_2) * g * g
        m_hat = m / one_minus_power(h.beta_1, h.step)
        v_hat = v / one_minus_power(h.beta_2, h.step)
        w = w - h.learning_rate * (m_hat + alpha * s) / (ops.sqrt(v_hat) + h.epsilon)
        return w, m, s, v

    def _slow(self, h: Hyperparameters) -> tuple[Any, Any]:
        """The slow average's weight in the step, and the gradient's weight in it."""
        if self.warmup_steps is None:
            return h.alpha, 1 - h.beta_3
        tau = ops.minimum(h.step / self.warmup_steps, 1.0)
        log_beta = 1 / ((1 - tau) / _log(h.beta_1) + tau / _log(h.beta_3))
        return tau * h.alpha, -ops.expm1(log_beta)


def _log(rate: Any) -> Any:
    """The logarithm of a decay rate, negative also for rate 0, exact to the last digits of 1."""
    if isinstance(rate, float):
        return math.log(max(rate, 1e-30))
    return ops.log(ops.maximum(rate, 1e-30))
