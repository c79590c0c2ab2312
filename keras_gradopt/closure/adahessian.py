"""AdaHessian: Adam with the Hessian's diagonal in the place of squared gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from keras import ops

from keras_gradopt.arguments import Hyperparameters, positive_int
from keras_gradopt.closure import EvaluatesLoss, signs
from keras_gradopt.ranges import DECAY_RATE, EPSILON, FRACTION, Range
from keras_gradopt.slot import Slot
from keras_gradopt.tensors import all_finite, one_minus_power

Tensor = Any


class AdaHessian(EvaluatesLoss):
    r"""Adam whose second moment is of the Hessian's diagonal, measured at each step.

    Use it where a rate that fits many problems matters more than four times the cost of a step;
    the model must be bound: `keras_gradopt.bind(model)`. With gradient $g_t$, Hessian $H_t$ and
    random signs $z$, averaged over each convolution kernel's window:

    $$D_t = \overline{z \odot H_t z}$$
    $$m_t = \beta_1 m_{t-1} + (1 - \beta_1) g_t, \qquad
    v_t = \beta_2 v_{t-1} + (1 - \beta_2) D_t^2$$
    $$w_t = w_{t-1} - \eta\, \frac{m_t / (1 - \beta_1^t)}
    {\left(v_t / (1 - \beta_2^t)\right)^{k/2} + \epsilon}$$

    Args:
        learning_rate: $\eta$, at least 0.
        beta_1: Decay of the momentum, in [0, 1).
        beta_2: Decay of the squared curvature, in [0, 1).
        epsilon: $\epsilon$ in units of the curvature to the power `hessian_power`, above 0.
        hessian_power: $k$, in [0, 1]: 1 is Newton's scaling, 0 is momentum.
        interval: Steps between two measurements, at least 1; the paper finds up to 5 harmless.
        seed: Of the random signs, at least 0.
        **kwargs: Common arguments, see `keras_gradopt.Optimizer`.

    Example:
        >>> model = keras_gradopt.bind(model)
        >>> model.compile(optimizer=AdaHessian(0.1), loss="mse")
        >>> history = model.fit(x, y, batch_size=16, verbose=0)
        >>> float(model.optimizer.evaluations)     # 4 steps of a gradient and a product
        16.0

    References:
        Yao, Gholami, Shen, Mustafa, Keutzer, Mahoney. ADAHESSIAN: An Adaptive Second Order
        Optimizer for Machine Learning. AAAI 2021, Algorithm 1, with (10) for convolutions: the mean
        is over the window, at magnitude of the entries. An estimate that is not finite is left out.
    """

    gradient_evaluations_per_step = 4.0
    draws = True
    runs_eagerly = True
    elementwise = True
    ranges: ClassVar[dict[str, Range]] = {
        "beta_1": DECAY_RATE,
        "beta_2": DECAY_RATE,
        "epsilon": EPSILON,
        "hessian_power": FRACTION,
    }

    def __init__(
        self,
        learning_rate: Any = 0.1,
        beta_1: Any = 0.9,
        beta_2: Any = 0.999,
        epsilon: Any = 1e-8,
        hessian_power: Any = 1.0,
        interval: int = 1,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.declare(
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
            hessian_power=hessian_power,
            interval=positive_int("interval", interval),
            seed=positive_int("seed", seed, least=0),
        )

    def slots(self, shape: tuple[int, ...]) -> Sequence[Slot]:
        """Momentum and mean squared curvature."""
        return (Slot("momentum"), Slot("squared_curvature"))

    def shared_slots(self) -> Sequence[Slot]:
        """How often the curvature was measured."""
        return (Slot("measurements", shape=()),)

    def look(
        self,
        ws: list[Tensor],
        gs: list[Tensor],
        slots: list[tuple[Tensor, ...]],
        shared: dict[str, Tensor],
        h: Hyperparameters,
    ) -> tuple[list[Tensor], list[tuple[Tensor, ...]], dict[str, Tensor]]:
        """The squared curvature's running mean."""
        old, count = [v for _, v in slots], shared["measurements"]

        def measured() -> tuple[list[Tensor], Tensor]:
            zs = signs(ws, h, self.seed)
            products = self.objective.hvp(ws, zs)
            diagonals = [_smoothed(z * p) for z, p in zip(zs, products, strict=True)]
            means = [
                h.beta_2 * v + (1 - h.beta_2) * d * d for v, d in zip(old, diagonals, strict=True)
            ]
            finite = all_finite(means)
            kept = [ops.where(finite, b, a) for a, b in zip(old, means, strict=True)]
            return kept, ops.where(finite, count + 1, count)

        due = ops.equal(ops.mod(h.step, float(self.interval)), 1.0 % self.interval)
        new, count = self.objective.either(due, measured, lambda: (old, count))
        slots = [(m, v) for (m, _), v in zip(slots, new, strict=True)]
        return gs, slots, {**shared, "measurements": count}

    def measure(
        self,
        ws: list[Tensor],
        gs: list[Tensor],
        slots: list[tuple[Tensor, ...]],
        shared: dict[str, Tensor],
        h: Hyperparameters,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The corrections of both means' bias."""
        del ws, gs, slots
        # Before anything was measured the curvature counts as 0 and the correction as 1.
        count = ops.maximum(shared["measurements"], 1.0)
        return {"bias_2": one_minus_power(h.beta_2, count)}, shared

    def update(self, w: Tensor, g: Tensor, *slots: Tensor, h: Hyperparameters) -> tuple:
        """One step for one variable."""
        m, v = slots
        m = h.beta_1 * m + (1 - h.beta_1) * g
        curvature = ops.power(ops.maximum(v / h.numbers["bias_2"], 1e-30), 0.5 * h.hessian_power)
        step = m / one_minus_power(h.beta_1, h.step) / (curvature + h.epsilon)
        return w - h.learning_rate * step, m, v


def _smoothed(diagonal: Tensor) -> Tensor:
    """The mean of magnitudes over a convolution's window, whose axes come first in Keras."""
    axes = tuple(range(len(diagonal.shape) - 2))
    if not axes:
        return ops.abs(diagonal)
    return ops.zeros_like(diagonal) + ops.mean(ops.abs(diagonal), axis=axes, keepdims=True)
