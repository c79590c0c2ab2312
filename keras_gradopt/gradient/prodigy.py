"""Prodigy: Adam that finds its own step size."""

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


class Prodigy(Optimizer):
    r"""Adam whose rate is an estimate of the distance to the solution.

    Use it when there is no time to tune a rate; leave `learning_rate` at 1 and give it a schedule
    that ends at 0. With gradient $g_t$, start $w_0$, distance estimate $d_t$, schedule $\gamma_t$
    and $\beta_3 = \sqrt{\beta_2}$:

    $$m_t = \beta_1 m_{t-1} + (1-\beta_1) d_t g_t$$
    $$v_t = \beta_2 v_{t-1} + (1-\beta_2) d_t^2 g_t^2$$
    $$r_t = \beta_3 r_{t-1} + \gamma_t d_t^2 \langle g_t, w_0 - w_t \rangle$$
    $$s_t = \beta_3 s_{t-1} + \gamma_t d_t^2 g_t$$
    $$d_{t+1} = \max(d_t, c\, r_t / \|s_t\|_1)$$
    $$w_{t+1} = w_t - \gamma_t d_t\, m_t / (\sqrt{v_t} + d_{t+1} \epsilon)$$

    Args:
        learning_rate: Multiplier $\gamma$ of the step, 1 unless scheduled.
        beta_1: Decay of the first moment, in [0, 1).
        beta_2: Decay of the second moment, in [0, 1).
        beta_3: Decay of $r$ and $s$, in [0, 1); None is the root of `beta_2`.
        epsilon: $\epsilon$ above 0, in units of the gradient.
        initial_distance: $d_0$, above 0: too small is safe, it grows.
        distance_coefficient: $c$, above 0: 0.5 to 2 to make the method more or less cautious.
        bias_correction: Whether to correct the moments as Adam does.
        safeguard_warmup: Whether to leave $\gamma$ out of $s$, for schedules that start at 0.
        **kwargs: Common arguments, see `keras_gradopt.Optimizer`.

    Example:
        >>> w = keras.Variable([1.0, -2.0])
        >>> optimizer = Prodigy(initial_distance=0.1)
        >>> optimizer.apply([2 * w], [w])      # 0.1 * 0.1 / sqrt(0.001): no correction
        >>> show(w)
        [0.6838, -1.6838]

    References:
        Mishchenko, Defazio. Prodigy: An Expeditiously Adaptive Parameter-Free Learner. ICML 2024,
        Algorithm 4, with the details of the authors' package `prodigyopt` (which this follows step
        for step): the new distance in epsilon's place, r and s divided by d_0.
    """

    elementwise = True
    decays_weights = True
    finds_its_rate = True
    ranges: ClassVar[dict[str, Range]] = {
        "beta_1": DECAY_RATE,
        "beta_2": DECAY_RATE,
        "beta_3": DECAY_RATE,
        "epsilon": EPSILON,
        "initial_distance": POSITIVE.fixed(),
        "distance_coefficient": POSITIVE,
    }

    def __init__(
        self,
        learning_rate: Any = 1.0,
        beta_1: Any = 0.9,
        beta_2: Any = 0.999,
        beta_3: Any = None,
        epsilon: Any = 1e-8,
        initial_distance: float = 1e-6,
        distance_coefficient: Any = 1.0,
        bias_correction: bool = False,
        safeguard_warmup: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.declare(
            beta_1=beta_1,
            beta_2=beta_2,
            beta_3=beta_3,
            epsilon=epsilon,
            initial_distance=initial_distance,
            distance_coefficient=distance_coefficient,
            bias_correction=bias_correction,
            safeguard_warmup=safeguard_warmup,
        )

    def slots(self, shape: tuple[int, ...]) -> Sequence[Slot]:
        """Both moments, the weighted gradient sum, the start."""
        return (
            Slot("momentum"),
            Slot("velocity"),
            Slot("gradient_sum"),
            Slot("start", initial=lambda w: w),
        )

    def shared_slots(self) -> Sequence[Slot]:
        """The distance, the largest estimate so far, the numerator."""
        return (
            Slot("distance", shape=(), initial=self.initial_distance),
            Slot("largest_distance", shape=(), initial=self.initial_distance),
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
        d, largest = shared["distance"], shared["largest_distance"]
        rate = d * h.learning_rate * self._correction(h)
        towards_start = sum(
            ops.sum(g * (start - w)) for w, g, (_, _, _, start) in zip(ws, gs, slots, strict=True)
        )
        r = self._beta_3(h) * shared["numerator"] + d / h.initial_distance * rate * towards_start
        size = sum(
            ops.sum(ops.abs(self._gradient_sum(s, g, d, rate, h)))
            for g, (_, _, s, _) in zip(gs, slots, strict=True)
        )
        # With no gradient at all the sum is 0, and nothing was learned about the distance.
        moved = size > 0
        estimate = h.distance_coefficient * r / ops.where(moved, size, 1.0)
        largest_new = ops.maximum(largest, estimate)
        d_new = ops.where(moved, ops.maximum(d, largest_new), d)
        new = {
            "distance": d_new,
            "largest_distance": ops.where(moved, largest_new, largest),
            "numerator": r,
        }
        return {"distance": d, "rate": rate}, {**shared, **new}

    def update(self, w: Tensor, g: Tensor, *slots: Tensor, h: Hyperparameters) -> tuple:
        """One step for one variable."""
        m, v, s, start = slots
        d, rate, d_new = h.numbers["distance"], h.numbers["rate"], h.shared["distance"]
        m = h.beta_1 * m + d * (1 - h.beta_1) * g
        v = h.beta_2 * v + d * d * (1 - h.beta_2) * g * g
        s = self._gradient_sum(s, g, d, rate, h)
        w = w - w * (h.weight_decay * rate)
        w = w - rate * m / (ops.sqrt(v) + d_new * h.epsilon)
        return w, m, v, s, start

    def _gradient_sum(
        self, s: Tensor, g: Tensor, d: Tensor, rate: Tensor, h: Hyperparameters
    ) -> Tensor:
        weight = d / h.initial_distance * (d if self.safeguard_warmup else rate)
        return self._beta_3(h) * s + weight * g

    def _beta_3(self, h: Hyperparameters) -> Any:
        return h.beta_2**0.5 if self.beta_3 is None else h.beta_3

    def _correction(self, h: Hyperparameters) -> Any:
        if not self.bias_correction:
            return 1.0
        v_part = ops.sqrt(one_minus_power(h.beta_2, h.step))
        return v_part / one_minus_power(h.beta_1, h.step)
