"""AdaBound: Adam whose step sizes close in on those of gradient descent."""

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


class AdaBound(Optimizer):
    r"""Adam at first, gradient descent with momentum in the end, without a switch between them.

    Use it where Adam starts well but gradient descent generalizes better, such as convolutional
    nets for images. With gradient $g_t$, moments $m_t$, $v_t$, rate $\eta_t$, final rate $\eta^*$,
    pace $\gamma$ and bounds that meet at $\eta^*_t$:

    $$m_t = \beta_1 m_{t-1} + (1-\beta_1) g_t, \qquad v_t = \beta_2 v_{t-1} + (1-\beta_2) g_t^2$$
    $$\eta^*_t = \eta^* \eta_t / \max_{s \le t} \eta_s$$
    $$a_t = \mathrm{clip}\Big(
      \frac{\eta_t / (1-\beta_1^t)}{\sqrt{v_t / (1-\beta_2^t)} + \epsilon},\
      \eta^*_t \big(1 - \tfrac{1}{\gamma t + 1}\big),\
      \eta^*_t \big(1 + \tfrac{1}{\gamma t}\big)\Big)$$
    $$w_t = w_{t-1} - a_t m_t$$

    Args:
        learning_rate: Step size $\eta_t$, at least 0: a number or a schedule. The bounds fall with
            it: they are those of the largest rate so far.
        beta_1: Decay $\beta_1$ of the first moment, in [0, 1).
        beta_2: Decay $\beta_2$ of the second moment, in [0, 1).
        final_learning_rate: $\eta^*$ above 0, the rate of gradient descent in the end.
        gamma: $\gamma$ above 0: after some $1/\gamma$ steps the bounds are near $\eta^*$.
        epsilon: $\epsilon$ above 0, in units of the gradient.
        amsbound: Whether $v_t$ is replaced by the largest so far.
        **kwargs: Common arguments, see `keras_gradopt.Optimizer`.

    Example:
        >>> w = keras.Variable([1.0, -2.0])
        >>> optimizer = AdaBound(learning_rate=0.1, gamma=1.0)  # bounds 0.05 and 0.2
        >>> optimizer.apply([2 * w], [w])      # Adam would take 0.5 and 0.25 times m = [0.2, -0.4]
        >>> show(w)
        [0.96, -1.92]

    References:
        Luo, Xiong, Liu, Sun. Adaptive Gradient Methods with Dynamic Bound of Learning Rate. ICLR
        2019, Algorithms 2 and 3 (amsbound), as in the authors' code and pytorch-optimizer: with
        Adam's bias correction, with gamma in the bounds where the paper has 1 - beta_2, and without
        the paper's division by the root of t, which is left to a schedule. Both refer the
        scheduled final rate to the rate at construction, here it is the largest so far: equal for
        schedules that only fall. The maximum is over uncorrected moments, unlike AMSGrad's here.
        Epsilon is added to the corrected root, theirs to the uncorrected one.
    """

    elementwise = True
    ranges: ClassVar[dict[str, Range]] = {
        "beta_1": DECAY_RATE,
        "beta_2": DECAY_RATE,
        "final_learning_rate": POSITIVE,
        "gamma": POSITIVE,
        "epsilon": EPSILON,
    }

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_1: Any = 0.9,
        beta_2: Any = 0.999,
        final_learning_rate: Any = 0.1,
        gamma: Any = 0.001,
        epsilon: Any = 1e-8,
        amsbound: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.declare(
            beta_1=beta_1,
            beta_2=beta_2,
            final_learning_rate=final_learning_rate,
            gamma=gamma,
            epsilon=epsilon,
            amsbound=amsbound,
        )

    def slots(self, shape: tuple[int, ...]) -> Sequence[Slot]:
        """Both moments, and the largest second moment for amsbound."""
        moments = (Slot("momentum"), Slot("velocity"))
        return (*moments, Slot("velocity_hat")) if self.amsbound else moments

    def shared_slots(self) -> Sequence[Slot]:
        """The largest rate so far."""
        return (Slot("largest_rate", shape=()),)

    def measure(
        self,
        ws: list[Tensor],
        gs: list[Tensor],
        slots: list[tuple[Tensor, ...]],
        shared: dict[str, Tensor],
        h: Hyperparameters,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Where the bounds will meet, at this step's rate."""
        largest = ops.maximum(shared["largest_rate"], h.learning_rate)
        # Before the first rate above 0 (a warmup's first step) nothing moves, whatever this is.
        share = h.learning_rate / ops.where(largest > 0, largest, 1.0)
        return {"final_rate": h.final_learning_rate * share}, {**shared, "largest_rate": largest}

    def update(self, w: Tensor, g: Tensor, *slots: Tensor, h: Hyperparameters) -> tuple:
        """One step for one variable."""
        m, v, *largest = slots
        m = h.beta_1 * m + (1 - h.beta_1) * g
        v = h.beta_2 * v + (1 - h.beta_2) * g * g
        if self.amsbound:
            largest = [ops.maximum(largest[0], v)]
        v_hat = (largest[0] if self.amsbound else v) / one_minus_power(h.beta_2, h.step)
        rate = h.learning_rate / one_minus_power(h.beta_1, h.step)
        final = h.numbers["final_rate"]
        pace = h.gamma * h.step
        # 1 - 1 / (pace + 1), which would lose the digits of a small pace.
        lower, upper = final * pace / (pace + 1), final * (1 + 1 / pace)
        a = ops.minimum(ops.maximum(rate / (ops.sqrt(v_hat) + h.epsilon), lower), upper)
        return (w - a * m, m, v, *largest)
