"""Lion: the sign of an average of gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from keras import ops

from keras_gradopt.arguments import Hyperparameters
from keras_gradopt.optimizer import Optimizer
from keras_gradopt.ranges import DECAY_RATE, Range
from keras_gradopt.slot import Slot

Tensor = Any


class Lion(Optimizer):
    r"""Steps of exactly the learning rate in every coordinate, with half of Adam's memory.

    Use it with large batches and where memory is short, at a third to a tenth of AdamW's rate and
    3 to 10 times its weight decay; on small noisy batches its steps of one size shake. With
    gradient $g_t$, average $m_t$ and rate $\eta$:

    $$c_t = \beta_1 m_{t-1} + (1-\beta_1) g_t$$
    $$w_t = w_{t-1} - \eta\, \mathrm{sign}(c_t)$$
    $$m_t = \beta_2 m_{t-1} + (1-\beta_2) g_t$$

    Args:
        learning_rate: Step size $\eta$, at least 0: a number or a schedule.
        beta_1: Weight $\beta_1$ of the average in the step, in [0, 1).
        beta_2: Decay $\beta_2$ of the average, in [0, 1).
        **kwargs: Common arguments, see `keras_gradopt.Optimizer`.

    Example:
        >>> w = keras.Variable([1.0, -2.0])
        >>> optimizer = Lion(learning_rate=0.1)
        >>> optimizer.apply([2 * w], [w])      # whatever the gradients' sizes
        >>> show(w)
        [0.9, -1.9]

    References:
        Chen, Liang, Huang, Real, Wang, Liu, Pham, Dong, Luong, Hsieh, Lu, Le. Symbolic Discovery
        of Optimization Algorithms. NeurIPS 2023, Algorithm 2. Keras, optax and pytorch-optimizer
        match; optax decays weights by 1e-3 unless told otherwise. Where $c_t$ is of the size of
        its own rounding errors, implementations may take opposite steps.
    """

    elementwise = True
    # The step and the new slot both read the old slot, of which XLA keeps a copy.
    compiles = False
    ranges: ClassVar[dict[str, Range]] = {"beta_1": DECAY_RATE, "beta_2": DECAY_RATE}

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_1: Any = 0.9,
        beta_2: Any = 0.99,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.declare(beta_1=beta_1, beta_2=beta_2)

    def slots(self, shape: tuple[int, ...]) -> Sequence[Slot]:
        """The average."""
        return (Slot("momentum"),)

    def update(self, w: Tensor, g: Tensor, *slots: Tensor, h: Hyperparameters) -> tuple:
        """One step for one variable."""
        (m,) = slots
        c = h.beta_1 * m + (1 - h.beta_1) * g
        m = h.beta_2 * m + (1 - h.beta_2) * g
        return w - h.learning_rate * ops.sign(c), m
