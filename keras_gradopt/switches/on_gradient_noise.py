"""OnGradientNoise: the gradient is mostly noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from keras import ops

from keras_gradopt.arguments import positive_int
from keras_gradopt.ranges import POSITIVE, Range
from keras_gradopt.slot import Slot
from keras_gradopt.switches import Decision, Seen, State, Switch
from keras_gradopt.tensors import global_norm, one_minus_power


class OnGradientNoise(Switch):
    r"""Hands over when minibatches' gradients differ more than they point anywhere.

    Use it when the second part averages, lowers its rate, or takes steps that only pay where noise
    rules. Two averages over the steps, $m$ of the gradient $g$ and $V$ of its squared norm, both
    without their start at 0, tell the two apart: for gradients of mean $G$ and covariance $\Sigma$,
    independent from step to step, and with the sum $s_t$ of the squares of the average's weights,

    $$m_t = \beta m_{t-1} + (1 - \beta) g_t, \quad V_t = \beta V_{t-1} + (1 - \beta) \|g_t\|^2,
    \quad \hat m_t = \frac{m_t}{1 - \beta^t}, \quad \hat V_t = \frac{V_t}{1 - \beta^t}$$
    $$s_t = \frac{(1 - \beta)(1 + \beta^t)}{(1 + \beta)(1 - \beta^t)}, \quad
    E \|\hat m_t\|^2 = \|G\|^2 + s_t \operatorname{tr} \Sigma, \quad
    E \hat V_t = \|G\|^2 + \operatorname{tr} \Sigma$$

    which two equations give both without bias. Gradients are noise when
    $\operatorname{tr} \Sigma > R \|G\|^2$, and the switch comes after $p$ such steps in a row. A
    gradient that turns while it is averaged counts as noise, too. Costs no evaluation, and one copy
    of the weights.

    Args:
        ratio: $R$, above 0. Above $1 / s_t$, about $2 / (1 - \beta)$, the mean is lost in what is
            left of the noise in $m$, and no larger ratio can be told.
        decay: $\beta$, in (0, 1): 0.95 averages some 20 steps.
        patience: Steps $p$ in a row, at least 1.
        warmup_steps: Steps before the first that counts, at least 1.

    Example:
        >>> w = keras.Variable([1.0])
        >>> noisy = OnGradientNoise(ratio=2.0, decay=0.9, patience=1, warmup_steps=4)
        >>> optimizer = Hybrid(SGD(0.1), SGD(0.5), switch=noisy)
        >>> for g in (1.0, 1.0, 1.0, 1.0, -1.0, -1.0):
        ...     optimizer.apply([ops.array([g])], [w])
        >>> [record.step for record in optimizer.switch_log()]
        [5]

    References:
        Balles, Hennig. Dissecting Adam: The Sign, Magnitude and Variance of Stochastic Gradients.
        ICML 2018, Section 4: variance from two moving averages, there for each entry.
        McCandlish, Kaplan, Amodei, OpenAI Dota Team. An Empirical Model of Large-Batch Training.
        2018, Appendix A.1: both from two equations, there from two batch sizes.
    """

    reads_gradient = True
    numbers = ("noise", "signal", "in_a_row")
    ranges: ClassVar[dict[str, Range]] = {
        "ratio": POSITIVE.fixed(),
        "decay": Range(0.0, 1.0, low_included=False, high_included=False).fixed(),
    }

    ratio: float
    decay: float
    patience: int
    warmup_steps: int

    def __init__(
        self, ratio: float = 10.0, decay: float = 0.95, patience: int = 10, warmup_steps: int = 100
    ) -> None:
        self.declare(ratio=ratio, decay=decay)
        self.declare(
            patience=positive_int("patience", patience),
            warmup_steps=positive_int("warmup_steps", warmup_steps),
        )

    def slots(self) -> Sequence[Slot]:
        """The gradient's average beside each variable, that of its squared norm, noisy steps."""
        return (Slot("mean"), Slot("square", ()), Slot("in_a_row", ()))

    def decide(self, seen: Seen, state: State) -> Decision:
        """Due after enough steps whose gradients are noise."""
        beta = self.decay
        norm = ops.cast(global_norm(seen.gs), "float32")
        mean = [
            beta * m + (1.0 - beta) * ops.cast(g, m.dtype)
            for m, g in zip(state["mean"], seen.gs, strict=True)
        ]
        square = beta * state["square"] + (1.0 - beta) * norm * norm
        whole = one_minus_power(beta, seen.step)
        # Sum of the squares of the average's weights; at the first step 1, and nothing is known.
        s = (1.0 - beta) * (2.0 - whole) / ((1.0 + beta) * whole)
        length = ops.cast(global_norm(mean), "float32") / whole
        m2, v = length * length, square / whole
        left = ops.where(seen.step > 1, 1.0 - s, 1.0)
        noise, signal = (v - m2) / left, (m2 - s * v) / left
        # A NaN is neither; the first steps have seen too little.
        is_noise = (noise > 0) & (noise > self.ratio * signal) & (seen.step > self.warmup_steps)
        in_a_row = ops.where(is_noise, state["in_a_row"] + 1.0, 0.0)
        new = {"mean": mean, "square": square, "in_a_row": in_a_row}
        numbers = {"noise": noise, "signal": signal, "in_a_row": in_a_row}
        return Decision(in_a_row >= self.patience, new, numbers)

    def reason(self, numbers: Mapping[str, float]) -> str:
        """Variance and squared mean."""
        return (
            f"the gradient's variance, last {numbers['noise']:.3g}, was above {self.ratio:g} times "
            f"its squared mean, last {max(numbers['signal'], 0.0):.3g}, "
            f"{numbers['in_a_row']:.0f} steps in a row"
        )
