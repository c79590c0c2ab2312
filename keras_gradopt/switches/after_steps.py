"""AfterSteps: a number of steps for the first part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keras_gradopt.arguments import positive_int
from keras_gradopt.switches import Decision, Seen, State, Switch


class AfterSteps(Switch):
    r"""Hands over after a fixed number of steps.

    Use it when a budget is split beforehand, or where runs must be comparable. With the number $t$
    of steps that the first part made, the switch comes when

    $$t = n.$$

    Args:
        steps: $n$, at least 1: the first part's steps, whole ones where it accumulates gradients. A
            bare number as a hybrid's `switch` is the same.

    Example:
        >>> w = keras.Variable([1.0])
        >>> optimizer = Hybrid(SGD(0.1), SGD(0.5), switch=AfterSteps(2))
        >>> for _ in range(3):
        ...     optimizer.apply([ops.ones((1,))], [w])      # 0.9, 0.8, 0.3
        >>> show(w)
        [0.3]

    References:
        Lu, Meng, Mao, Karniadakis. DeepXDE: A deep learning library for solving differential
        equations. SIAM Review 63(1), 2021: Adam for a number of steps, then L-BFGS.
    """

    numbers = ("steps",)

    steps: int

    def __init__(self, steps: int) -> None:
        self.declare(steps=positive_int("switch", steps))

    def decide(self, seen: Seen, state: State) -> Decision:
        """Due at the last of the steps."""
        return Decision(seen.step >= self.steps, state, {"steps": seen.step})

    def reason(self, numbers: Mapping[str, float]) -> str:
        """The number of steps."""
        del numbers
        return f"{self.steps} steps were asked for"

    def get_config(self) -> dict[str, Any]:
        """The number of steps."""
        return {"steps": self.steps}
