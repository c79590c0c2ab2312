"""OnPlateau: the loss has stopped falling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from keras import ops

from keras_gradopt.arguments import positive_int
from keras_gradopt.ranges import NON_NEGATIVE, Range
from keras_gradopt.slot import Slot
from keras_gradopt.switches import Decision, Seen, State, Switch


class OnPlateau(Switch):
    r"""Hands over when the training loss has not reached a new low for some time.

    Use it when the first part is to go as far as it can. With the mean $\bar L_k$ of the losses of
    the $k$th $n$ steps and the best so far $L^*$,

    $$\text{better} \iff \bar L_k < L^* - r |L^*| - a,$$

    and the switch comes after $p$ means in a row that were not better. The losses are those of the
    minibatches, which a bound model hands over (`keras_gradopt.bind(model)`) or a training loop of
    your own by `optimizer.observe(loss)` before each `optimizer.apply`. In a bound model a step's
    loss is seen by the next step, after which the switch comes.

    Args:
        patience: Means $p$ in a row that are not better, at least 1.
        average_steps: Steps $n$ to a mean, at least 1: many, as single minibatches are noisy; an
            epoch's is usual.
        relative_delta: $r$ in [0, 1): how much of the best loss an improvement must take away.
        min_delta: $a$, at least 0, in units of the loss.

    Example:
        >>> w = keras.Variable([1.0])
        >>> optimizer = Hybrid(SGD(0.1), SGD(0.5), switch=OnPlateau(patience=2, average_steps=1))
        >>> for loss in (3.0, 2.0, 2.0, 2.0):
        ...     optimizer.observe(loss)
        ...     optimizer.apply([ops.ones((1,))], [w])
        >>> print(optimizer.switch_log()[0].reason)
        the mean loss of 1 step did not fall below 2 by enough 2 times in a row; the last was 2

    References:
        Prechelt. Early Stopping - But When? Neural Networks: Tricks of the Trade, 1998 (patience);
        the rule is that of `keras_gradopt.schedules.ReduceOnPlateau`.
    """

    follows_loss = True
    numbers = ("best", "mean", "waited")
    ranges: ClassVar[dict[str, Range]] = {
        "relative_delta": Range(0.0, 1.0, high_included=False).fixed(),
        "min_delta": NON_NEGATIVE.fixed(),
    }

    patience: int
    average_steps: int
    relative_delta: float
    min_delta: float

    def __init__(
        self,
        patience: int = 10,
        average_steps: int = 100,
        relative_delta: float = 1e-4,
        min_delta: float = 0.0,
    ) -> None:
        self.declare(relative_delta=relative_delta, min_delta=min_delta)
        self.declare(
            patience=positive_int("patience", patience),
            average_steps=positive_int("average_steps", average_steps),
        )

    def slots(self) -> Sequence[Slot]:
        """Best mean, means not better, and the mean in the making."""
        return (
            Slot("best", (), float("inf")),
            Slot("waited", ()),
            Slot("seen", ()),
            Slot("mean", ()),
        )

    def decide(self, seen: Seen, state: State) -> Decision:
        """Due when enough means were no better."""
        best, count = state["best"], state["seen"] + 1.0
        mean = state["mean"] + (seen.loss - state["mean"]) / count
        full = count >= self.average_steps
        # The first mean is better than none; a difference of infinities would be NaN.
        known = ops.isfinite(best)
        margin = self.relative_delta * ops.abs(ops.where(known, best, 0.0)) + self.min_delta
        better = mean < best - margin
        waited = ops.where(better, 0.0, state["waited"] + 1.0)
        new = {
            "best": ops.where(better, mean, best),
            "waited": waited,
            "seen": ops.zeros_like(count),
            "mean": ops.zeros_like(mean),
        }
        going_on = {**state, "seen": count, "mean": mean}
        state = {name: ops.where(full, new[name], going_on[name]) for name in new}
        numbers = {"best": best, "mean": mean, "waited": waited}
        return Decision(full & (waited >= self.patience), state, numbers)

    def reason(self, numbers: Mapping[str, float]) -> str:
        """The best mean and the last."""
        steps = f"{self.average_steps} step{'s' * (self.average_steps > 1)}"
        return (
            f"the mean loss of {steps} did not fall below {numbers['best']:.6g} by enough "
            f"{numbers['waited']:.0f} times in a row; the last was {numbers['mean']:.6g}"
        )
