"""AdamW: Adam with decoupled weight decay."""

from __future__ import annotations

from typing import Any

from keras_gradopt.gradient.adam import Adam


class AdamW(Adam):
    r"""Adam whose weight decay does not pass through the moments.

    Use it for transformers and wherever Adam overfits. Before Adam's step, with rate $\eta$ and
    decay $\lambda$:

    $$w \leftarrow w - \eta \lambda w$$

    Args:
        learning_rate: Step size $\eta$, at least 0: a number or a schedule.
        weight_decay: $\lambda$, at least 0: a number or a schedule.
        beta_1: Decay of the first moment, in [0, 1).
        beta_2: Decay of the second moment, in [0, 1).
        epsilon: Added to the root, above 0, in units of the gradient.
        amsgrad: Whether to divide by the largest corrected second moment so far.
        **kwargs: Common arguments, see `keras_gradopt.Optimizer`.

    Example:
        >>> w = keras.Variable([1.0, -2.0])
        >>> optimizer = AdamW(learning_rate=0.1, weight_decay=0.5)
        >>> optimizer.apply([2 * w], [w])      # 5 % of decay, then Adam's first step
        >>> show(w)
        [0.85, -1.8]

    References:
        Loshchilov, Hutter. Decoupled Weight Decay Regularization. ICLR 2019, Algorithm 2, with the
        schedule multiplier inside the learning rate, as torch, optax and Keras have it.
    """

    def __init__(
        self,
        learning_rate: Any = 0.001,
        weight_decay: Any = 0.004,
        beta_1: Any = 0.9,
        beta_2: Any = 0.999,
        epsilon: Any = 1e-7,
        amsgrad: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            learning_rate=learning_rate,
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
            amsgrad=amsgrad,
            weight_decay=weight_decay,
            **kwargs,
        )
