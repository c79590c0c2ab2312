"""OnSlowProgress: the loss still falls, but slowly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from keras import ops

from keras_gradopt.arguments import positive_int
from keras_gradopt.ranges import NON_NEGATIVE, Range
from keras_gradopt.slot import Slot
from keras_gradopt.switches import Decision, Seen, State, Switch


class OnSlowProgress(Switch):
    r"""Hands over when the training loss falls by too small a share per step.

    Use it when the first part is good at the beginning only, such as a search that finds the
    valley and a method that goes down in it: it does not wait until nothing moves any more. With
    the mean $\bar L_k$ of the losses of the $k$th $n$ steps, progress is slow when

    $$r_k = \frac{\bar L_{k-1} - \bar L_k}{n\, |\bar L_{k-1}|} < r,$$

    and the switch comes after $p$ slow ones in a row. The losses come as for `OnPlateau`: from a
    bound model, or by `optimizer.observe(loss)`.

    Args:
        rate: $r$, at least 0: the share of the loss that a step must take away. 0.001 is one
            percent in ten steps.
        patience: Slow means $p$ in a row, at least 1.
        average_steps: Steps $n$ to a mean, at least 1: enough for the mean's noise to be small
            beside $n r$ of the loss.

    Example:
        >>> w = keras.Variable([1.0])
        >>> optimizer = Hybrid(SGD(0.1), SGD(0.5), switch=OnSlowProgress(0.1, 1, 1))
        >>> for loss in (3.0, 2.0, 1.9):
        ...     optimizer.observe(loss)
        ...     optimizer.apply([ops.ones((1,))], [w])
        >>> print(optimizer.switch_log()[0].reason)
        the loss fell by 0.05 of itself per step, less than 0.1: from 2 to 1.9 within 1 step

    References:
        Prechelt. Early Stopping - But When? Neural Networks: Tricks of the Trade, 1998: training
        progress on strips of steps, there against the strip's lowest loss.
    """

    follows_loss = True
    numbers = ("rate", "before", "mean")
    ranges: ClassVar[dict[str, Range]] = {"rate": NON_NEGATIVE.fixed()}

    rate: float
    patience: int
    average_steps: int

    def __init__(self, rate: float = 1e-4, patience: int = 1, average_steps: int = 100) -> None:
        self.declare(rate=rate)
        self.declare(
            patience=positive_int("patience", patience),
            average_steps=positive_int("average_steps", average_steps),
        )

    def slots(self) -> Sequence[Slot]:
        """The mean before (infinite for none), slow ones in a row, the mean in the making."""
        return (
            Slot("before", (), float("inf")),
            Slot("slow", ()),
            Slot("seen", ()),
            Slot("mean", ()),
        )

    def decide(self, seen: Seen, state: State) -> Decision:
        """Due after enough slow means."""
        before, count = state["before"], state["seen"] + 1.0
        mean = state["mean"] + (seen.loss - state["mean"]) / count
        full = count >= self.average_steps
        known = ops.isfinite(before)
        start = ops.where(known, before, 0.0)
        # From a loss of exactly 0 there is no share to speak of: nothing is slower.
        size = ops.where(start != 0, ops.abs(start), 1.0)
        rate = ops.where(start != 0, (start - mean) / size / self.average_steps, 0.0)
        # A loss that is not a number is no progress.
        slow = known & ~(rate >= self.rate)
        in_a_row = ops.where(slow, state["slow"] + 1.0, 0.0)
        new = {
            "before": ops.where(ops.isfinite(mean), mean, before),
            "slow": in_a_row,
            "seen": ops.zeros_like(count),
            "mean": ops.zeros_like(mean),
        }
        going_on = {**state, "seen": count, "mean": mean}
        state = {name: ops.where(full, new[name], going_on[name]) for name in new}
        numbers = {"rate": rate, "before": before, "mean": mean}
        return Decision(full & (in_a_row >= self.patience), state, numbers)

    def reason(self, numbers: Mapping[str, float]) -> str:
        """The rate, and the two means that it is of."""
        steps = f"{self.average_steps} step{'s' * (self.average_steps > 1)}"
        return (
            f"the loss fell by {numbers['rate']:.3g} of itself per step, less than "
            f"{self.rate:.3g}: from {numbers['before']:.6g} to {numbers['mean']:.6g} within {steps}"
        )
