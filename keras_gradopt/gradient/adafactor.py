"""Adafactor: scaled steps from averages over rows and columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from keras import ops

from keras_gradopt.arguments import Hyperparameters
from keras_gradopt.optimizer import Optimizer
from keras_gradopt.ranges import POSITIVE, Range
from keras_gradopt.slot import Slot

Tensor = Any


class Adafactor(Optimizer):
    r"""RMSprop-like steps relative to each variable's size, with almost no memory.

    Use it for models whose optimizer state would not fit, such as large transformers; where
    memory is no concern Adam is as good. For a matrix with gradient $G_t$ of shape $(n, k)$, rows'
    and columns' averages $R_t$, $C_t$, rate $\eta$, $\beta_t = 1 - t^c$ and
    $\mathrm{rms}(x) = \|x\| / \sqrt{\text{entries}}$:

    $$R_t = \beta_t R_{t-1} + (1-\beta_t) \tfrac{1}{k} (G_t^2 + \epsilon_1) 1_k, \quad
      C_t = \beta_t C_{t-1} + (1-\beta_t) \tfrac{1}{n} 1_n^\top (G_t^2 + \epsilon_1)$$
    $$V_t = R_t C_t / \mathrm{mean}(R_t), \quad U_t = G_t / \sqrt{V_t}$$
    $$\alpha_t = \max(\epsilon_2, \mathrm{rms}(w_{t-1})) \min(\eta, 1/\sqrt{t})$$
    $$w_t = w_{t-1} - \alpha_t U_t / \max(1, \mathrm{rms}(U_t) / d)$$

    Of tensors of higher rank the two longest axes are rows and columns; vectors keep all of $V_t$.

    Args:
        learning_rate: Largest step $\eta$ relative to the variable's size, at least 0: a number or
            a schedule. The paper takes 0.01.
        beta_2_decay: Exponent $c$, in (-1, 0): how fast the averages' memory grows.
        epsilon_1: $\epsilon_1$ above 0, in squared units of the gradient.
        epsilon_2: $\epsilon_2$ above 0: the least size a variable counts as.
        clip_threshold: $d$ above 0: largest root mean square of a scaled gradient.
        relative_step: Whether the rate falls as $1/\sqrt{t}$ once that is below $\eta$; without it
            the rate is $\eta$.
        **kwargs: Common arguments, see `keras_gradopt.Optimizer`.

    Example:
        >>> w = keras.Variable([[1.0, -2.0], [2.0, -4.0]])
        >>> optimizer = Adafactor(learning_rate=0.1)
        >>> optimizer.apply([2 * w], [w])      # 0.1 of the weights' root mean square of 2.5
        >>> show(w)
        [[0.75, -1.75], [1.75, -3.75]]

    References:
        Shazeer, Stern. Adafactor: Adaptive Learning Rates with Sublinear Memory Cost. ICML 2018,
        Algorithms 4 to 6. Keras matches where the two longest axes are the last, and with
        `relative_step=True`: with False it still takes the smaller of both rates. torch.optim
        matches without weight decay (it measures the weights before their decay) where no gradient
        vanishes (it bounds $V_t$ instead of adding $\epsilon_1$). optax matches with
        `relative_step=False` and `min_dim_size_to_factor=1`, but does not multiply weight decay by
        the rate.
    """

    ranges: ClassVar[dict[str, Range]] = {
        "beta_2_decay": Range(
            -1.0, 0.0, low_included=False, high_included=False, usual="-0.8 is usual."
        ).fixed(),
        "epsilon_1": POSITIVE,
        "epsilon_2": POSITIVE,
        "clip_threshold": POSITIVE,
    }

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_2_decay: Any = -0.8,
        epsilon_1: Any = 1e-30,
        epsilon_2: Any = 1e-3,
        clip_threshold: Any = 1.0,
        relative_step: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.declare(
            beta_2_decay=beta_2_decay,
            epsilon_1=epsilon_1,
            epsilon_2=epsilon_2,
            clip_threshold=clip_threshold,
            relative_step=relative_step,
        )

    def slots(self, shape: tuple[int, ...]) -> Sequence[Slot]:
        """Rows' and columns' averages, of vectors and scalars the second moment."""
        if len(shape) < 2:
            return (Slot("velocity"),)
        row, column = _factored(shape)
        return (Slot("rows", _without(shape, column)), Slot("columns", _without(shape, row)))

    def update(self, w: Tensor, g: Tensor, *slots: Tensor, h: Hyperparameters) -> tuple:
        """One step for one variable."""
        fresh = h.step**h.beta_2_decay
        square = g * g + h.epsilon_1
        new: list[Tensor]
        if len(slots) == 1:
            v = (1 - fresh) * slots[0] + fresh * square
            new = [v]
            u = g / ops.sqrt(v)
        else:
            row, column = _factored(tuple(g.shape))
            r, c = slots
            r = (1 - fresh) * r + fresh * ops.mean(square, axis=column)
            c = (1 - fresh) * c + fresh * ops.mean(square, axis=row)
            new = [r, c]
            r, c = ops.expand_dims(r, column), ops.expand_dims(c, row)
            # Roots one by one: where a row and a column have had no gradient both hold epsilon_1,
            # whose square is below float32.
            u = g * (ops.sqrt(ops.mean(r, axis=row, keepdims=True)) / ops.sqrt(r)) / ops.sqrt(c)
        u = u / ops.maximum(1.0, _rms(u) / h.clip_threshold)
        rate = h.learning_rate
        if self.relative_step:
            rate = ops.minimum(rate, h.step**-0.5)
        return (w - ops.maximum(h.epsilon_2, _rms(w)) * rate * u, *new)


def _factored(shape: tuple[int, ...]) -> tuple[int, int]:
    """The two longest axes, in order; among equal ones the last."""
    by_length = sorted(range(len(shape)), key=lambda axis: shape[axis])
    row, column = sorted(by_length[-2:])
    return row, column


def _without(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return shape[:axis] + shape[axis + 1 :]


def _rms(x: Tensor) -> Tensor:
    return ops.sqrt(ops.mean(x * x))
