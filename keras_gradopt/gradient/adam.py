"""Adam: steps scaled by running moments of the gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from keras import ops

from keras_gradopt.arguments import Hyperparameters
from keras_gradopt.kernel import Kernel, Moments
from keras_gradopt.optimizer import Optimizer
from keras_gradopt.ranges import DECAY_RATE, EPSILON, Range
from keras_gradopt.slot import Slot
from keras_gradopt.tensors import one_minus_power

Tensor = Any


class Adam(Optimizer):
    r"""Steps of about the learning rate in every coordinate, whatever the gradient's scale.

    Use it first: it works on most models with little tuning. With gradient $g_t$, moments $m_t$,
    $v_t$ and rate $\eta$:

    $$m_t = \beta_1 m_{t-1} + (1-\beta_1) g_t$$
    $$v_t = \beta_2 v_{t-1} + (1-\beta_2) g_t^2$$
    $$w_t = w_{t-1} - \eta \frac{m_t / (1-\beta_1^t)}{\sqrt{v_t / (1-\beta_2^t)} + \epsilon}$$

    Args:
        learning_rate: Step size $\eta$, at least 0: a number or a schedule.
        beta_1: Decay $\beta_1$ of the first moment, in [0, 1).
        beta_2: Decay $\beta_2$ of the second moment, in [0, 1).
        epsilon: $\epsilon$ above 0, in units of the gradient.
        amsgrad: Whether to divide by the largest corrected second moment so far.
        **kwargs: Common arguments, see `keras_gradopt.Optimizer`.

    Example:
        >>> w = keras.Variable([1.0, -2.0])
        >>> optimizer = Adam(learning_rate=0.1)
        >>> optimizer.apply([2 * w], [w])      # the first step is the rate, in every coordinate
        >>> show(w)
        [0.9, -1.9]

    References:
        Kingma, Ba. Adam: A Method for Stochastic Optimization. ICLR 2015, Algorithm 1: epsilon
        outside the corrected root, as in torch and optax. Keras adds it to the uncorrected root,
        which differs where the root is of epsilon's size.
        Reddi, Kale, Kumar. On the Convergence of Adam and Beyond. ICLR 2018, Algorithm 2
        (amsgrad), with the maximum over corrected moments as in optax; torch and Keras take it
        over uncorrected ones.
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
        amsgrad: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.declare(beta_1=beta_1, beta_2=beta_2, epsilon=epsilon, amsgrad=amsgrad)

    def slots(self, shape: tuple[int, ...]) -> Sequence[Slot]:
        """Both moments, and the largest second moment for amsgrad."""
        moments = (Slot("momentum"), Slot("velocity"))
        return (*moments, Slot("velocity_hat")) if self.amsgrad else moments

    def kernel(self, h: Hyperparameters) -> Kernel | None:
        """Adam as it is; frameworks take another maximum for amsgrad."""
        if self.amsgrad:
            return None
        return Moments(h.beta_1, h.beta_2, h.epsilon)

    def update(self, w: Tensor, g: Tensor, *slots: Tensor, h: Hyperparameters) -> tuple:
        """One step for one variable."""
        m, v, *largest = slots
        m = h.beta_1 * m + (1 - h.beta_1) * g
        v = h.beta_2 * v + (1 - h.beta_2) * g * g
        m_hat = m / one_minus_power(h.beta_1, h.step)
        v_hat = v / one_minus_power(h.beta_2, h.step)
        if self.amsgrad:
            v_hat = ops.maximum(largest[0], v_hat)
            largest = [v_hat]
        w = w - h.learning_rate * m_hat / (ops.sqrt(v_hat) + h.epsilon)
        return (w, m, v, *largest)
