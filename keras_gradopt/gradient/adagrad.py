"""Adagrad: steps that shrink with the gradients seen so far."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from keras import ops

from keras_gradopt.arguments import Hyperparameters
from keras_gradopt.kernel import Kernel, SquaredSum
from keras_gradopt.optimizer import Optimizer
from keras_gradopt.ranges import EPSILON, NON_NEGATIVE, Range
from keras_gradopt.slot import Slot

Tensor = Any


class Adagrad(Optimizer):
    r"""Large steps for coordinates that rarely get a gradient, small ones for the rest.

    Use it for sparse features and embeddings; its steps only shrink, so long trainings stall. With
    gradient $g_t$, accumulator $a_t$ and rate $\eta$:

    $$a_t = a_{t-1} + g_t^2$$
    $$w_t = w_{t-1} - \eta g_t / (\sqrt{a_t} + \epsilon)$$

    Args:
        learning_rate: Step size $\eta$, at least 0: a number or a schedule.
        initial_accumulator_value: $a_0$, at least 0: damps the first steps.
        epsilon: $\epsilon$ above 0, in units of the gradient.
        **kwargs: Common arguments, see `keras_gradopt.Optimizer`.

    Example:
        >>> w = keras.Variable([1.0, -2.0])
        >>> optimizer = Adagrad(learning_rate=0.1, initial_accumulator_value=0.0)
        >>> optimizer.apply([2 * w], [w])
        >>> show(w)
        [0.9, -1.9]

    References:
        Duchi, Hazan, Singer. Adaptive Subgradient Methods for Online Learning and Stochastic
        Optimization. JMLR 2011, Figure 1 (diagonal). Epsilon outside the root, as in torch; Keras
        and optax put it inside.
    """

    elementwise = True
    lazy = True
    ranges: ClassVar[dict[str, Range]] = {
        "initial_accumulator_value": NON_NEGATIVE.fixed(),
        "epsilon": EPSILON,
    }

    def __init__(
        self,
        learning_rate: Any = 0.001,
        initial_accumulator_value: float = 0.1,
        epsilon: Any = 1e-7,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.declare(initial_accumulator_value=initial_accumulator_value, epsilon=epsilon)

    def slots(self, shape: tuple[int, ...]) -> Sequence[Slot]:
        """The sum of squared gradients."""
        return (Slot("accumulator", initial=self.initial_accumulator_value),)

    def kernel(self, h: Hyperparameters) -> Kernel | None:
        """Adagrad as it is."""
        return SquaredSum(h.epsilon)

    def update(self, w: Tensor, g: Tensor, *slots: Tensor, h: Hyperparameters) -> tuple:
        """One step for one variable."""
        (a,) = slots
        a = a + g * g
        return w - h.learning_rate * g / (ops.sqrt(a) + h.epsilon), a
