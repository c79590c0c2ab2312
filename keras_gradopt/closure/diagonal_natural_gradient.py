"""DiagonalNaturalGradient: the natural gradient with the Fisher information's diagonal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from keras import ops

from keras_gradopt.arguments import Hyperparameters, positive_int
from keras_gradopt.closure import EvaluatesLoss, sampled_diagonal
from keras_gradopt.ranges import DECAY_RATE, POSITIVE, Range
from keras_gradopt.slot import Slot
from keras_gradopt.tensors import all_finite, one_minus_power

Tensor = Any


class DiagonalNaturalGradient(EvaluatesLoss):
    r"""Divides the gradient by the diagonal of the Fisher information.

    Use it to precondition a model with a probabilistic loss for the price of one more gradient,
    with steps that shrink where the model is sure of itself; the model must be bound:
    `keras_gradopt.bind(model)`. With the minibatch's gradient $g_t$, the gradient $\hat g_t$ at
    $n$ targets drawn from the model's own distribution, and damping $\lambda$:

    $$f_t = \beta f_{t-1} + (1 - \beta)\, n\, \hat g_t^2$$
    $$w_t = w_{t-1} - \eta\, \frac{g_t}{f_t / (1 - \beta^t) + \lambda}$$

    Args:
        learning_rate: $\eta$, at least 0.
        beta: Decay of the diagonal, in [0, 1).
        damping: $\lambda$ in units of the Fisher information, above 0.
        seed: Of the draws, at least 0.
        **kwargs: Common arguments, see `keras_gradopt.Optimizer`.

    Example:
        >>> model = keras_gradopt.bind(model)
        >>> model.compile(optimizer=DiagonalNaturalGradient(0.05), loss="mse")
        >>> history = model.fit(x, y, batch_size=16, verbose=0)
        >>> float(model.optimizer.evaluations)     # 4 steps of two gradients
        8.0

    References:
        Amari. Natural Gradient Works Efficiently in Learning. Neural Computation 1998; the diagonal
        from one draw per example as in Liu et al. (Sophia, ICLR 2024), Algorithm 2. Unlike Adam,
        which takes the root of squared gradients of the data, it divides by the information itself.
    """

    gradient_evaluations_per_step = 2.0
    draws = True
    runs_eagerly = True
    elementwise = True
    ranges: ClassVar[dict[str, Range]] = {"beta": DECAY_RATE, "damping": POSITIVE}

    def __init__(
        self,
        learning_rate: Any = 0.01,
        beta: Any = 0.95,
        damping: Any = 0.1,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.declare(beta=beta, damping=damping, seed=positive_int("seed", seed, least=0))

    def slots(self, shape: tuple[int, ...]) -> Sequence[Slot]:
        """The diagonal's running mean."""
        return (Slot("fisher"),)

    def look(
        self,
        ws: list[Tensor],
        gs: list[Tensor],
        slots: list[tuple[Tensor, ...]],
        shared: dict[str, Tensor],
        h: Hyperparameters,
    ) -> tuple[list[Tensor], list[tuple[Tensor, ...]], dict[str, Tensor]]:
        """The diagonal with one more draw."""
        found = sampled_diagonal(self.objective, ws, h, self.seed)
        finite = all_finite(found)
        means = [h.beta * f + (1 - h.beta) * d for (f,), d in zip(slots, found, strict=True)]
        slots = [(ops.where(finite, a, f),) for a, (f,) in zip(means, slots, strict=True)]
        return gs, slots, shared

    def update(self, w: Tensor, g: Tensor, *slots: Tensor, h: Hyperparameters) -> tuple:
        """One step for one variable."""
        (f,) = slots
        scale = f / one_minus_power(h.beta, h.step) + h.damping
        return w - h.learning_rate * g / scale, f
