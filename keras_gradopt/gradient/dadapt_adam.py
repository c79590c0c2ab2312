"""D-Adapted Adam: Adam that finds its step size from a lower bound of the distance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from keras import ops

from keras_gradopt.arguments import Hyperparameters
from keras_gradopt.optimizer import Optimizer
from keras_gradopt.ranges import DECAY_RATE, EPSILON, POSITIVE, Range
from keras_gradopt.slot import Slot
from keras_gradopt.tensors import one_minus_power

Tensor = Any


class DAdaptAdam(Optimizer):
    r"""Adam whose rate is a lower bound of the distance to the solution, which only grows.

    Use it when there is no time to tune a rate, beside Prodigy as a second opinion; leave
    `learning_rate` at 1 and give it a schedule that ends at 0. With gradient $g_t$, distance
    estimate $d_t$, schedule $\gamma_t$, rate $\lambda_t = d_t \gamma_t$ and
    $\beta_3 = \sqrt{\beta_2}$:

    $$m_t = \beta_1 m_{t-1} + (1-\beta_1) \lambda_t g_t$$
    $$v_t = \beta_2 v_{t-1} + (1-\beta_2) g_t^2$$
    $$r_t = \beta_3 r_{t-1} + (1-\beta_3) \lambda_t
      \langle g_t, s_{t-1} / (\sqrt{v_{t-1}} + \epsilon) \rangle$$
    $$s_t = \beta_3 s_{t-1} + (1-\beta_3) \lambda_t g_t$$
    $$d_{t+1} = \max(d_t, r_t / ((1-\beta_3) \|s_t\|_1))$$
    $$w_{t+1} = w_t - m_t / (\sqrt{v_t} + \epsilon)$$

    Args:
        learning_rate: Multiplier $\gamma$ of the step, 1 unless scheduled.
        beta_1: Decay of the first moment, in [0, 1).
        beta_2: Decay of the second moment, in [0, 1); its root is that of $r$ and $s$.
        epsilon: $\epsilon$ above 0, in units of the gradient.
        initial_distance: $d_0$, above 0: too small is safe, it grows.
        growth_rate: Largest factor by which $d$ grows in a step, at least 1; 1.02 makes a warmup,
            None bounds nothing.
        bias_correction: Whether $\lambda_t$ has the factor
            $\sqrt{1-\beta_2^t} / (1-\beta_1^t)$, as in Adam.
        **kwargs: Common arguments, see `keras_gradopt.Optimizer`.

    Example:
        >>> w = keras.Variable([1.0, -2.0])
        >>> optimizer = DAdaptAdam(initial_distance=0.1)
        >>> optimizer.apply([2 * w], [w])      # the first step is the initial distance
        >>> show(w)
        [0.9, -1.9]

    References:
        Defazio, Mishchenko. Learning-Rate-Free Learning by D-Adaptation. ICML 2023, Algorithm 5,
        with the details of the authors' package `dadaptation`, version 3: r weighs by the second
        moment before this gradient. Moments are corrected, as in optax and not by default in the
        package: without it the first steps are several times too long. Weight decay is decoupled,
        at the rate $\lambda_t$.
    """

    elementwise = True
    decays_weights = True
    finds_its_rate = True
    ranges: ClassVar[dict[str, Range]] = {
        "beta_1": DECAY_RATE,
        "beta_2": DECAY_RATE,
        "epsilon": EPSILON,
        "initial_distance": POSITIVE.fixed(),
        "growth_rate": Range(1.0, scale="log"),
    }

    def __init__(
        self,
        learning_rate: Any = 1.0,
        beta_1: Any = 0.9,
        beta_2: Any = 0.999,
        epsilon: Any = 1e-8,
        initial_distance: float = 1e-6,
        growth_rate: Any = None,
        bias_correction: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.declare(
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
            initial_distance=initial_distance,
            growth_rate=growth_rate,
            bias_correction=bias_correction,
        )

    def slots(self, shape: tuple[int, ...]) -> Sequence[Slot]:
        """Both moments, the weighted gradient sum."""
        return (Slot("momentum"), Slot("velocity"), Slot("gradient_sum"))

    def shared_slots(self) -> Sequence[Slot]:
        """The distance, and the numerator of its estimate."""
        return (
            Slot("distance", shape=(), initial=self.initial_distance),
            Slot("numerator", shape=()),
        )

    def measure(
        self,
        ws: list[Tensor],
        gs: list[Tensor],
        slots: list[tuple[Tensor, ...]],
        shared: dict[str, Tensor],
        h: Hyperparameters,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The new distance from all variables together."""
        d, weight = shared["distance"], self._weight(h)
        rate = d * h.learning_rate * self._correction(h)
        along = sum(
            ops.sum(g * s / (ops.sqrt(v) + h.epsilon))
            for g, (_, v, s) in zip(gs, slots, strict=True)
        )
        r = h.beta_2**0.5 * shared["numerator"] + weight * rate * along
        size = sum(
            ops.sum(ops.abs(self._gradient_sum(s, g, rate, h)))
            for g, (_, _, s) in zip(gs, slots, strict=True)
        )
        # With no gradient at all the sum is 0, and nothing was learned about the distance.
        moved = size > 0
        estimate = ops.where(moved, r / (weight * ops.where(moved, size, 1.0)), d)
        if self.growth_rate is not None:
            estimate = ops.minimum(estimate, d * h.growth_rate)
        new = {"distance": ops.maximum(d, estimate), "numerator": r}
        return {"rate": rate}, {**shared, **new}

    def update(self, w: Tensor, g: Tensor, *slots: Tensor, h: Hyperparameters) -> tuple:
        """One step for one variable."""
        m, v, s = slots
        rate = h.numbers["rate"]
        m = h.beta_1 * m + (1 - h.beta_1) * rate * g
        v = h.beta_2 * v + (1 - h.beta_2) * g * g
        s = self._gradient_sum(s, g, rate, h)
        w = w - w * (h.weight_decay * rate)
        w = w - m / (ops.sqrt(v) + h.epsilon)
        return w, m, v, s

    def _gradient_sum(self, s: Tensor, g: Tensor, rate: Tensor, h: Hyperparameters) -> Tensor:
        return h.beta_2**0.5 * s + self._weight(h) * rate * g

    def _weight(self, h: Hyperparameters) -> Any:
        # 1 - sqrt(beta_2), which would lose digits where a schedule gives beta_2 in float32.
        return (1 - h.beta_2) / (1 + h.beta_2**0.5)

    def _correction(self, h: Hyperparameters) -> Any:
        if not self.bias_correction:
            return 1.0
        v_part = ops.sqrt(one_minus_power(h.beta_2, h.step))
        return v_part / one_minus_power(h.beta_1, h.step)
