"""ScheduleFreeSGD: gradient descent whose average needs no decaying rate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from keras import ops

from keras_gradopt.arguments import Hyperparameters, positive_int
from keras_gradopt.optimizer import Optimizer
from keras_gradopt.ranges import NON_NEGATIVE, Range
from keras_gradopt.slot import Slot

Tensor = Any


class ScheduleFreeSGD(Optimizer):
    r"""SGD with averaging in momentum's place, so that no decay of the rate is needed.

    Use it when the length of training is open; a constant rate, larger than SGD's, does what a
    decaying one would. Gradients are taken at $y_t$, which is in the model during training; the
    average $x_t$ is what is evaluated and saved. With rate $\gamma_t$ (after warmup), decay
    $\lambda$, largest rate so far $\bar\gamma_t$:

    $$y_t = (1 - \beta_1) z_t + \beta_1 x_t$$
    $$z_{t+1} = z_t - \gamma_t (\nabla f(y_t) + \lambda y_t)$$
    $$c_{t+1} = t^r \bar\gamma_t^p / \textstyle\sum_{i \le t} i^r \bar\gamma_i^p$$
    $$x_{t+1} = (1 - c_{t+1}) x_t + c_{t+1} z_{t+1}$$

    $x$ is in the model at the end of `fit`, and around evaluations and at the end of each epoch
    where the model is bound (`keras_gradopt.bind`) or has the callback `EvaluationWeights`; a
    shared slot says which is in. A model with BatchNormalization wants
    `keras_gradopt.update_batch_norm(model, x)` before it is used.

    Args:
        learning_rate: Step size $\gamma$, at least 0, constant after warmup: above SGD's
            usual. The peers' default of 1 suits networks with normalisation, and others diverge.
        beta_1: Weight $\beta_1$ of the average in $y$, in (0, 1): 0.9 to 0.98.
        warmup_steps: Steps over which the rate rises to $\gamma$, at least 0.
        weight_power: $r$, at least 0: above 0, late iterates count more in the average.
        rate_power: $p$, at least 0: iterates count by this power of their rate.
        **kwargs: Common arguments, see `keras_gradopt.Optimizer`; `weight_decay` acts at $y$.

    Example:
        >>> w = keras.Variable([1.0, -2.0])
        >>> optimizer = ScheduleFreeSGD(learning_rate=0.25)
        >>> for _ in range(2):
        ...     optimizer.apply([2 * w], [w])
        >>> optimizer.put_evaluation_weights([w])     # the mean of z: 0.5 and 0.25
        >>> show(w)
        [0.375, -0.75]

    References:
        Defazio, Yang, Khaled, Mishchenko, Mehta, Cutkosky. The Road Less Scheduled. NeurIPS 2024,
        equations (1) to (3), with the weights and the decay of Algorithm 1. The authors' package
        `schedulefree` and optax agree step for step.
    """

    elementwise = True
    decays_weights = True
    averages_weights = True
    ranges: ClassVar[dict[str, Range]] = {
        "beta_1": Range(
            0.0,
            1.0,
            low_included=False,
            high_included=False,
            scale="log(1-x)",
            usual="0.9 is usual",
            schedulable=False,
        ),
        "weight_power": NON_NEGATIVE,
        "rate_power": NON_NEGATIVE,
    }

    def __init__(
        self,
        learning_rate: Any = 0.1,
        beta_1: float = 0.9,
        warmup_steps: int = 0,
        weight_power: Any = 0.0,
        rate_power: Any = 2.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.declare(
            beta_1=beta_1,
            warmup_steps=positive_int("warmup_steps", warmup_steps, least=0),
            weight_power=weight_power,
            rate_power=rate_power,
        )

    def slots(self, shape: tuple[int, ...]) -> Sequence[Slot]:
        """The sequence of plain steps."""
        return (Slot("z", initial=lambda w: w),)

    def shared_slots(self) -> Sequence[Slot]:
        """The sum of the averaging weights, the largest rate so far."""
        return (Slot("weight_sum", shape=()), Slot("largest_rate", shape=()))

    def measure(
        self,
        ws: list[Tensor],
        gs: list[Tensor],
        slots: list[tuple[Tensor, ...]],
        shared: dict[str, Tensor],
        h: Hyperparameters,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The share that the newest iterate has in the average."""
        largest = ops.maximum(shared["largest_rate"], h.learning_rate * self._rate_factor(h))
        weight = ops.power(h.step, h.weight_power) * ops.power(largest, h.rate_power)
        total = shared["weight_sum"] + weight
        # While the rate is 0 nothing moves, and nothing need be averaged.
        c = ops.where(total > 0, weight / ops.where(total > 0, total, 1.0), 0.0)
        return {"c": c}, {**shared, "weight_sum": total, "largest_rate": largest}

    def _rate_factor(self, h: Hyperparameters) -> Any:
        """What the rate of a step is multiplied with: warmup."""
        if not self.warmup_steps:
            return 1.0
        return ops.minimum(ops.cast(h.step, "float32") / self.warmup_steps, 1.0)

    def update(self, w: Tensor, g: Tensor, *slots: Tensor, h: Hyperparameters) -> tuple:
        """One step for one variable."""
        (z,) = slots
        return self._stepped_average(w, z, g, h)

    def _stepped_average(self, y: Tensor, z: Tensor, d: Tensor, h: Hyperparameters) -> tuple:
        """New y and z after a step along d; x is eliminated, so it takes no memory."""
        rate, c = h.learning_rate * self._rate_factor(h), h.numbers["c"]
        d = d + h.weight_decay * y
        y = (1 - c) * y + c * z + rate * (h.beta_1 * (1 - c) - 1) * d
        return y, z - rate * d

    def evaluation_weights(self, w: Tensor, *slots: Tensor) -> tuple:
        """The average x, from y and z."""
        z = slots[0]
        return (z + (w - z) / self.beta_1, *slots)

    def training_weights(self, w: Tensor, *slots: Tensor) -> tuple:
        """Where gradients are taken, y, from x and z."""
        z = slots[0]
        return (z + (w - z) * self.beta_1, *slots)
