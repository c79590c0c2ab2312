"""Slot: one piece of state that a rule keeps."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from keras import ops

Tensor = Any


@dataclasses.dataclass(frozen=True)
class Slot:
    """State kept per variable, or once per optimizer.

    Args:
        name: What the rule calls it; part of the Keras variable's name.
        shape: Its shape; None is the shape of the variable it belongs to, `()` a scalar.
        initial: First value: a number for all entries, or a function from the variable's value
            (float32) to the slot's.

    Example:
        >>> Slot("slow", initial=lambda w: w).start(ops.ones((2,)))
        [1, 1]
    """

    name: str
    shape: tuple[int, ...] | None = None
    initial: float | Callable[[Tensor], Tensor] = 0.0

    def shape_for(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The slot's shape beside a variable of shape `shape`."""
        return tuple(shape) if self.shape is None else tuple(self.shape)

    def start(self, w: Tensor | None) -> Tensor:
        """First value beside a variable whose value is `w` (None for shared slots)."""
        if callable(self.initial):
            # A copy: two Keras variables over one buffer break JAX' donation in `fit`.
            return ops.copy(self.initial(w))
        shape = self.shape_for(() if w is None else w.shape)
        dtype = "float32" if w is None else w.dtype
        return ops.full(shape, self.initial, dtype=dtype)
