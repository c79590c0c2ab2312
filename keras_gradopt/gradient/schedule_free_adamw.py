"""ScheduleFreeAdamW: AdamW whose average needs no decaying rate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from keras import ops

from keras_gradopt.arguments import Hyperparameters
from keras_gradopt.gradient.schedule_free_sgd import ScheduleFreeSGD
from keras_gradopt.ranges import DECAY_RATE, EPSILON, Range
from keras_gradopt.slot import Slot
from keras_gradopt.tensors import one_minus_power

Tensor = Any


class ScheduleFreeAdamW(ScheduleFreeSGD):
    r"""AdamW with averaging in momentum's place, so that no decay of the rate is needed.

    Use it when the length of training is open: it won the self-tuning track of AlgoPerf, with a
    constant rate somewhat above Adam's. Gradients $g_t$ are taken at $y_t$, which is in the model
    during training; the average $x_t$ is what is evaluated and saved. With rate $\gamma$, decay
    $\lambda$, largest rate so far $\bar\gamma_t$:

    $$y_t = (1 - \beta_1) z_t + \beta_1 x_t$$
    $$v_t = \beta_2 v_{t-1} + (1 - \beta_2) g_t^2, \quad
      \gamma_t = \gamma \sqrt{1 - \beta_2^t}\, \min(1, t / T_{warmup})$$
    $$z_{t+1} = z_t - \gamma_t g_t / (\sqrt{v_t} + \epsilon) - \gamma_t \lambda y_t$$
    $$c_{t+1} = t^r \bar\gamma_t^p / \textstyle\sum_{i \le t} i^r \bar\gamma_i^p$$
    $$x_{t+1} = (1 - c_{t+1}) x_t + c_{t+1} z_{t+1}$$

    When $x$ is in the model: see `ScheduleFreeSGD`.

    Args:
        learning_rate: Step size $\gamma$, at least 0, constant after warmup.
        beta_1: Weight $\beta_1$ of the average in $y$, in (0, 1): 0.9 to 0.98.
        beta_2: Decay of the second moment, in [0, 1).
        epsilon: $\epsilon$ above 0, in units of the gradient.
        warmup_steps: Steps $T_{warmup}$ over which the rate rises to $\gamma$, at least 0.
        weight_power: $r$, at least 0: above 0, late iterates count more in the average.
        rate_power: $p$, at least 0: iterates count by this power of their rate.
        corrects: What the factor $\sqrt{1 - \beta_2^t}$ belongs to: `"rate"` as above, `"moment"`
            as in Adam, $v_t / (1 - \beta_2^t)$, where neither $\epsilon$, nor the decay, nor the
            average feels it.
        **kwargs: Common arguments, see `keras_gradopt.Optimizer`; `weight_decay` acts at $y$.

    Example:
        >>> w = keras.Variable([1.0, -2.0])
        >>> optimizer = ScheduleFreeAdamW(learning_rate=0.1)
        >>> optimizer.apply([2 * w], [w])      # the first step: the rate, along the sign
        >>> show(w)
        [0.9, -1.9]

    References:
        Defazio, Yang, Khaled, Mishchenko, Mehta, Cutkosky. The Road Less Scheduled. NeurIPS 2024,
        Algorithm 1. The authors' package `schedulefree` (since 1.3) and optax correct the moment
        (`corrects="moment"`), and agree with each other; Keras' class of this name leaves the decay
        out of z and y in the model after training.
    """

    ranges: ClassVar[dict[str, Range]] = {"beta_2": DECAY_RATE, "epsilon": EPSILON}

    def __init__(
        self,
        learning_rate: Any = 0.0025,
        beta_1: float = 0.9,
        beta_2: Any = 0.999,
        epsilon: Any = 1e-8,
        warmup_steps: int = 0,
        weight_power: Any = 0.0,
        rate_power: Any = 2.0,
        corrects: str = "rate",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            learning_rate=learning_rate,
            beta_1=beta_1,
            warmup_steps=warmup_steps,
            weight_power=weight_power,
            rate_power=rate_power,
            **kwargs,
        )
        if corrects not in ("rate", "moment"):
            raise ValueError(f"corrects must be 'rate' or 'moment', received {corrects!r}.")
        self.declare(beta_2=beta_2, epsilon=epsilon, corrects=corrects)

    def slots(self, shape: tuple[int, ...]) -> Sequence[Slot]:
        """The sequence of plain steps, the second moment."""
        return (*super().slots(shape), Slot("velocity"))

    def _rate_factor(self, h: Hyperparameters) -> Any:
        warmup = super()._rate_factor(h)
        if self.corrects == "moment":
            return warmup
        return warmup * ops.sqrt(one_minus_power(h.beta_2, h.step))

    def update(self, w: Tensor, g: Tensor, *slots: Tensor, h: Hyperparameters) -> tuple:
        """One step for one variable."""
        z, v = slots
        v = h.beta_2 * v + (1 - h.beta_2) * g * g
        corrected = v / one_minus_power(h.beta_2, h.step) if self.corrects == "moment" else v
        return (*self._stepped_average(w, z, g / (ops.sqrt(corrected) + h.epsilon), h), v)
