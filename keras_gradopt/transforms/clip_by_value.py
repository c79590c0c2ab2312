"""ClipByValue: bounds each entry of each gradient."""

from __future__ import annotations

from typing import Any, ClassVar

from keras import ops

from keras_gradopt.arguments import Hyperparameters
from keras_gradopt.ranges import POSITIVE, Range
from keras_gradopt.transforms import Transform

Tensor = Any


class ClipByValue(Transform):
    r"""Cuts every gradient entry to an interval around 0.

    Use it against single wild entries; it changes the direction of the step. Entry by entry:

    $$g \leftarrow \max(-c, \min(c, g))$$

    Args:
        value: The bound $c$, above 0: a number or a schedule.

    Example:
        >>> clip = ClipByValue(1.0)
        >>> gs, _ = clip.apply([ops.array([3.0, -0.5])], [], {}, h(value=1.0))
        >>> show(gs)
        [[1, -0.5]]

    References:
        Mikolov. Statistical language models based on neural networks. PhD thesis, Brno University
        of Technology, 2012, section 3.2.2.
    """

    sees_one_vector = True
    ranges: ClassVar[dict[str, Range]] = {"value": POSITIVE}

    def __init__(self, value: Any = 1.0) -> None:
        self.declare(value=value)

    def apply(
        self,
        gs: list[Tensor],
        ws: list[Tensor],
        shared: dict[str, Tensor],
        h: Hyperparameters,
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Cuts each entry of `gs`."""
        del ws
        bounds = [ops.cast(h.value, g.dtype) for g in gs]
        return [ops.clip(g, -b, b) for g, b in zip(gs, bounds, strict=True)], shared
