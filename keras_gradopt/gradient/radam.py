"""RAdam: Adam that rectifies the variance of its early steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

from keras import ops

from keras_gradopt.arguments import Hyperparameters
from keras_gradopt.optimizer import Optimizer
from keras_gradopt.ranges import DECAY_RATE, EPSILON, Range
from keras_gradopt.slot import Slot
from keras_gradopt.tensors import one_minus_power

Tensor = Any


class RAdam(Optimizer):
    r"""Adam with its own warmup: steps grow as the second moment gathers gradients.

    Use it where Adam needs a warmup and its length is not known. With gradient $g_t$, moments
    $m_t$, $v_t$, their corrected values $\hat m_t = m_t / (1-\beta_1^t)$,
    $\hat v_t = v_t / (1-\beta_2^t)$, number $\rho_t$ of gradients that the second one stands for,
    threshold $\rho_{\min}$ and rate $\eta$:

    $$m_t = \beta_1 m_{t-1} + (1-\beta_1) g_t, \qquad v_t = \beta_2 v_{t-1} + (1-\beta_2) g_t^2$$
    $$\rho_\infty = \frac{2}{1-\beta_2} - 1, \qquad
      \rho_t = \rho_\infty - \frac{2 t \beta_2^t}{1-\beta_2^t}$$
    $$r_t = \sqrt{\frac{(\rho_t-4)(\rho_t-2)\rho_\infty}{(\rho_\infty-4)(\rho_\infty-2)\rho_t}}$$
    $$w_t = w_{t-1} - \eta r_t \frac{\hat m_t}{\sqrt{\hat v_t} + \epsilon}
      \quad (\rho_t > \rho_{\min}), \qquad w_t = w_{t-1} - \eta \hat m_t \quad \text{(else)}$$

    Args:
        learning_rate: Step size $\eta$, at least 0: a number or a schedule.
        beta_1: Decay $\beta_1$ of the first moment, in [0, 1).
        beta_2: Decay $\beta_2$ of the second moment, in [0, 1). Up to 0.6 nothing is adapted.
        epsilon: $\epsilon$ above 0, in units of the gradient.
        threshold: $\rho_{\min}$, at least 4, above which steps are adapted. The first steps up to
            it (5 of them by default) have the gradient's own size.
        **kwargs: Common arguments, see `keras_gradopt.Optimizer`.

    Example:
        >>> w = keras.Variable([1.0, -2.0])
        >>> optimizer = RAdam(learning_rate=0.1)
        >>> optimizer.apply([2 * w], [w])      # the first steps are those of momentum alone
        >>> show(w)
        [0.8, -1.6]

    References:
        Liu, Jiang, He, Chen, Liu, Gao, Han. On the Variance of the Adaptive Learning Rate and
        Beyond. ICLR 2020, Algorithm 2. The algorithm's threshold is 4; the authors' code, torch and
        optax take 5, the default here. Epsilon is added to the corrected root as in optax; torch
        adds it to the uncorrected one.
    """

    elementwise = True
    ranges: ClassVar[dict[str, Range]] = {
        "beta_1": DECAY_RATE,
        "beta_2": DECAY_RATE,
        "epsilon": EPSILON,
        "threshold": Range(4.0, usual="5 is usual, 4 is the paper's."),
    }

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_1: Any = 0.9,
        beta_2: Any = 0.999,
        epsilon: Any = 1e-8,
        threshold: Any = 5.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.declare(beta_1=beta_1, beta_2=beta_2, epsilon=epsilon, threshold=threshold)

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
        limit, rho = _average_lengths(h.beta_2, h.step)
        adapted = rho > h.threshold
        # Where nothing is adapted, any lengths above 4 will do: their factor is not used.
        limit, rho = (ops.where(adapted, n, other) for n, other in ((limit, 6.0), (rho, 5.0)))
        r = ops.sqrt((rho - 4) * (rho - 2) * limit / ((limit - 4) * (limit - 2) * rho))
        step = ops.where(adapted, r * m_hat / (ops.sqrt(v_hat) + h.epsilon), m_hat)
        return w - h.learning_rate * step, m, v


def _average_lengths(beta_2: Any, step: Any) -> tuple[Tensor, Tensor]:
    r"""$\rho_\infty$ and $\rho_t$ without the difference of two numbers near $2 / (1-\beta_2)$.

    That difference would cost the first adapted steps three digits in float32. With
    $x = -\ln \beta_2$ and $f(y) = 1 + 1/y - \coth y$ the same numbers are
    $\rho_\infty = 1 - f(x/2) + 2/x$ and $\rho_t = 1 - f(x/2) + t f(t x/2)$.

    Args:
        beta_2: In [0, 1), a number or a scalar tensor.
        step: $t$, at least 1, a number or a scalar tensor.
    """
    if isinstance(beta_2, float):
        x = -math.log(max(beta_2, 1e-30))
    else:
        x = -ops.log(ops.maximum(beta_2, 1e-30))
    x = x + 0 * step  # of the step's dtype: TensorFlow mixes none
    first = 1 - _f(x / 2)
    return first + 2 / x, first + step * _f(step * x / 2)


def _f(y: Any) -> Tensor:
    r"""$1 + 1/y - \coth y$ for $y > 0$: its series up to 0.5 (error 5e-8), else directly."""
    near = ops.minimum(y, 0.5)
    far = ops.maximum(y, 0.5)
    s = near * near
    series = 1 - near * (1 / 3 - s * (1 / 45 - s * (2 / 945 - s / 4725)))
    return ops.where(y < 0.5, series, 1 / far - 2 / ops.expm1(2 * far))
