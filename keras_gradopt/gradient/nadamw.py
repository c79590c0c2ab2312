"""NadamW: Nadam with decoupled weight decay."""

from __future__ import annotations

from typing import Any

from keras_gradopt.gradient.nadam import Nadam


class NadamW(Nadam):
    r"""Nadam whose weight decay does not pass through the moments.

    Use it where AdamW works: with tuned settings it is a strong baseline across tasks. Before
    Nadam's step, with rate $\eta$ and decay $\lambda$:

    $$w \leftarrow w - \eta \lambda w$$

    Args:
        learning_rate: Step size $\eta$, at least 0: a number or a schedule.
        weight_decay: $\lambda$, at least 0: a number or a schedule.
        beta_1: Decay of the first moment and last value of the momentum, in [0, 1).
        beta_2: Decay of the second moment, in [0, 1).
        epsilon: Added to the root, above 0, in units of the gradient.
        momentum_decay: Pace of the momentum's rise, at least 0: see Nadam.
        **kwargs: Common arguments, see `keras_gradopt.Optimizer`.

    Example:
        >>> w = keras.Variable([1.0, -2.0])
        >>> optimizer = NadamW(learning_rate=0.1, weight_decay=0.5)
        >>> optimizer.apply([2 * w], [w])      # 5 % of decay, then Nadam's first step
        >>> show(w)
        [0.8444, -1.7944]

    References:
        Loshchilov, Hutter. Decoupled Weight Decay Regularization. ICLR 2019, Algorithm 2, around
        the step of Dozat. Incorporating Nesterov Momentum into Adam. ICLR Workshop 2016, as in
        torch (NAdam with `decoupled_weight_decay`) and, at `momentum_decay=1000`, optax.
        Dahl and others. Benchmarking Neural Network Training Algorithms. 2023: the baseline of
        AlgoPerf.
    """

    def __init__(
        self,
        learning_rate: Any = 0.001,
        weight_decay: Any = 0.004,
        beta_1: Any = 0.9,
        beta_2: Any = 0.999,
        epsilon: Any = 1e-7,
        momentum_decay: Any = 0.004,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            learning_rate=learning_rate,
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
            momentum_decay=momentum_decay,
            weight_decay=weight_decay,
            **kwargs,
        )
