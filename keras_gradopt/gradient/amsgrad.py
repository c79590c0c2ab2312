"""AMSGrad: Adam that divides by the largest second moment so far."""

from __future__ import annotations

from typing import Any

from keras_gradopt.gradient.adam import Adam


class AMSGrad(Adam):
    r"""Adam that never forgets a large gradient: its division can only become stronger.

    Use it where Adam oscillates or diverges because informative gradients are rare. With gradient
    $g_t$, moments $m_t$, $v_t$, largest second moment $\hat v_t$ and rate $\eta$:

    $$m_t = \beta_1 m_{t-1} + (1-\beta_1) g_t$$
    $$v_t = \beta_2 v_{t-1} + (1-\beta_2) g_t^2$$
    $$\hat v_t = \max(\hat v_{t-1},\ v_t / (1-\beta_2^t))$$
    $$w_t = w_{t-1} - \eta \frac{m_t / (1-\beta_1^t)}{\sqrt{\hat v_t} + \epsilon}$$

    Args:
        learning_rate: Step size $\eta$, at least 0: a number or a schedule.
        beta_1: Decay $\beta_1$ of the first moment, in [0, 1).
        beta_2: Decay $\beta_2$ of the second moment, in [0, 1).
        epsilon: $\epsilon$ above 0, in units of the gradient.
        **kwargs: Common arguments, see `keras_gradopt.Optimizer`.

    Example:
        >>> w = keras.Variable([1.0, -2.0])
        >>> optimizer = AMSGrad(learning_rate=0.1, beta_1=0.0, beta_2=0.5)
        >>> optimizer.apply([ops.array([2.0, -4.0])], [w])
        >>> optimizer.apply([ops.array([1.0, -1.0])], [w])  # still divided by 2 and by 4
        >>> show(w)
        [0.85, -1.875]

    References:
        Reddi, Kale, Kumar. On the Convergence of Adam and Beyond. ICLR 2018, Algorithm 2, with
        Adam's bias correction and epsilon, of which the algorithm has neither. The maximum is over
        corrected moments as in optax, so that it never falls; torch and Keras (`amsgrad=True`)
        take it over uncorrected ones and correct it afterwards.
    """

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_1: Any = 0.9,
        beta_2: Any = 0.999,
        epsilon: Any = 1e-7,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            learning_rate=learning_rate,
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
            amsgrad=True,
            **kwargs,
        )
