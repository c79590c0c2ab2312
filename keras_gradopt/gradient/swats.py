"""SWATS: Adam that goes over to SGD by itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from keras import ops

from keras_gradopt.arguments import Hyperparameters
from keras_gradopt.optimizer import Optimizer
from keras_gradopt.ranges import DECAY_RATE, EPSILON, NON_NEGATIVE, Range
from keras_gradopt.slot import Slot
from keras_gradopt.tensors import one_minus_power

Tensor = Any


class SWATS(Optimizer):
    r"""Begins as Adam and switches to SGD once the rate that SGD should have has settled.

    Use it where Adam starts well but SGD generalizes better, as on image classifiers, and nobody
    wants to tune SGD's rate. With gradient $g_t$, moments $m_t$, $v_t$ and rate $\eta$, first Adam:

    $$m_t = \beta_1 m_{t-1} + (1-\beta_1) g_t, \quad v_t = \beta_2 v_{t-1} + (1-\beta_2) g_t^2$$
    $$p_t = -\eta \frac{\sqrt{1-\beta_2^t}}{1-\beta_1^t} \frac{m_t}{\sqrt{v_t} + \epsilon}, \quad
      w_t = w_{t-1} + p_t$$

    where the rate at which a step along $-g_t$ projects onto $p_t$ is averaged over all weights:

    $$\gamma_t = \frac{p_t^\top p_t}{-p_t^\top g_t}, \quad
      \lambda_t = \beta_2 \lambda_{t-1} + (1-\beta_2) \gamma_t, \quad
      \Lambda = \lambda_t / (1-\beta_2^t)$$

    As soon as $|\Lambda - \gamma_t| < \tau$, from the next step on and for good, SGD at that rate:

    $$u_t = \beta_1 u_{t-1} + g_t, \quad w_t = w_{t-1} - (1-\beta_1) \Lambda u_t$$

    Args:
        learning_rate: Step size $\eta$ of Adam, at least 0: a number or a schedule. A schedule goes
            on after the switch: $\Lambda$ changes in proportion.
        beta_1: Decay of the first moment, in [0, 1); later SGD's momentum.
        beta_2: Decay of the second moment and of the averaged rate, in [0, 1).
        epsilon: $\epsilon$ above 0, in units of the gradient.
        switch_tolerance: $\tau$, at least 0, in units of the rate: the larger, the earlier is the
            switch; 0 never switches.
        **kwargs: Common arguments, see `keras_gradopt.Optimizer`.

    Example:
        >>> w = keras.Variable([1.0, -2.0])
        >>> optimizer = SWATS(learning_rate=0.1, switch_tolerance=1.0)
        >>> for _ in range(3):                  # Adam twice, then SGD
        ...     optimizer.apply([2 * w], [w])
        >>> show(w)
        [0.7949, -1.7878]

    References:
        Keskar, Socher. Improving Generalization Performance by Switching from Adam to SGD. 2017,
        Algorithm 1. The switch is one for all variables, as the algorithm has it; some
        implementations look at each variable alone. Differences: the tolerance, which the paper
        sets to epsilon, is an argument of its own, for its units are others; the switch waits for a
        positive rate, since SGD at a negative one climbs.
    """

    elementwise = True
    # The step and the new slots both read the old slots, of which XLA keeps copies.
    compiles = False
    ranges: ClassVar[dict[str, Range]] = {
        "beta_1": DECAY_RATE,
        "beta_2": DECAY_RATE,
        "epsilon": EPSILON,
        "switch_tolerance": NON_NEGATIVE,
    }

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_1: Any = 0.9,
        beta_2: Any = 0.999,
        epsilon: Any = 1e-9,
        switch_tolerance: Any = 1e-9,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.declare(
            beta_1=beta_1, beta_2=beta_2, epsilon=epsilon, switch_tolerance=switch_tolerance
        )

    def slots(self, shape: tuple[int, ...]) -> Sequence[Slot]:
        """Both moments; after the switch the first holds SGD's velocity."""
        return (Slot("momentum"), Slot("velocity"))

    def shared_slots(self) -> Sequence[Slot]:
        """The average of the projected rates, SGD's rate in units of Adam's, the switch."""
        return (
            Slot("projected_rate", shape=()),
            Slot("rate_factor", shape=()),
            Slot("switched", shape=()),
        )

    def measure(
        self,
        ws: list[Tensor],
        gs: list[Tensor],
        slots: list[tuple[Tensor, ...]],
        shared: dict[str, Tensor],
        h: Hyperparameters,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Whether all variables together have reached the switch, and the rate for SGD."""
        steps = [self._adam(g, *own, h=h)[0] for g, own in zip(gs, slots, strict=True)]
        descent = -sum(ops.sum(p * g) for p, g in zip(steps, gs, strict=True))
        known = ops.not_equal(descent, 0)
        gamma = sum(ops.sum(p * p) for p in steps) / ops.where(known, descent, 1.0)
        average = h.beta_2 * shared["projected_rate"] + (1 - h.beta_2) * gamma
        average = ops.where(known, average, shared["projected_rate"])
        rate = average / one_minus_power(h.beta_2, h.step)
        settled = ops.logical_and(ops.abs(rate - gamma) < h.switch_tolerance, rate > 0)
        # At the first step the average is the projected rate itself.
        due = ops.logical_and(ops.logical_and(known, h.step > 1), settled)
        in_sgd = shared["switched"] > 0
        due = ops.logical_and(due, ops.logical_not(in_sgd))
        # A step that is known to go down has a rate above 0.
        factor = rate / ops.where(due, h.learning_rate, 1.0)
        new = {
            "projected_rate": ops.where(in_sgd, shared["projected_rate"], average),
            "rate_factor": ops.where(due, factor, shared["rate_factor"]),
            "switched": ops.where(due, ops.ones_like(rate), shared["switched"]),
        }
        return {"was_switched": shared["switched"]}, {**shared, **new}

    def update(self, w: Tensor, g: Tensor, *slots: Tensor, h: Hyperparameters) -> tuple:
        """One step for one variable: Adam's or SGD's."""
        in_sgd, switched = h.numbers["was_switched"] > 0, h.shared["switched"] > 0
        p, m, v = self._adam(g, *slots, h=h)
        u = h.beta_1 * slots[0] + g
        rate = h.shared["rate_factor"] * h.learning_rate
        w = ops.where(in_sgd, w - (1 - h.beta_1) * rate * u, w + p)
        # SGD's velocity starts at 0 after the switch.
        m = ops.where(in_sgd, u, ops.where(switched, ops.zeros_like(m), m))
        v = ops.where(in_sgd, slots[1], v)
        return w, m, v

    def _adam(self, g: Tensor, m: Tensor, v: Tensor, *, h: Hyperparameters) -> tuple:
        """Adam's step and its new moments."""
        m = h.beta_1 * m + (1 - h.beta_1) * g
        v = h.beta_2 * v + (1 - h.beta_2) * g * g
        correction = ops.sqrt(one_minus_power(h.beta_2, h.step)) / one_minus_power(h.beta_1, h.step)
        return -h.learning_rate * correction * m / (ops.sqrt(v) + h.epsilon), m, v
