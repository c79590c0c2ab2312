"""ClipByNorm: bounds the norm of each variable's gradient by itself."""

from __future__ import annotations

from typing import Any, ClassVar

from keras import ops

from keras_gradopt.arguments import Hyperparameters
from keras_gradopt.ranges import POSITIVE, Range
from keras_gradopt.transforms import Transform

Tensor = Any


class ClipByNorm(Transform):
    r"""Scales each variable's gradient so that its own norm stays bounded.

    Use it where single layers explode; it changes the direction of the joint step, which
    `ClipByGlobalNorm` keeps. For each variable, with $\|g\|$ its gradient's Euclidean norm:

    $$g \leftarrow g \min(1, c / \|g\|)$$

    Args:
        norm: The bound $c$, above 0: a number or a schedule.

    Example:
        >>> clip = ClipByNorm(1.0)
        >>> gs, _ = clip.apply([ops.array([3.0, 4.0]), ops.array([0.5])], [], {}, h(norm=1.0))
        >>> show(gs)
        [[0.6, 0.8], [0.5]]

    References:
        Pascanu, Mikolov, Bengio. On the difficulty of training recurrent neural networks.
        ICML 2013, Algorithm 1, applied to each variable.
    """

    ranges: ClassVar[dict[str, Range]] = {"norm": POSITIVE}

    def __init__(self, norm: Any = 1.0) -> None:
        self.declare(norm=norm)

    def apply(
        self,
        gs: list[Tensor],
        ws: list[Tensor],
        shared: dict[str, Tensor],
        h: Hyperparameters,
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Scales each of `gs`."""
        del ws
        norms = [ops.sqrt(ops.sum(g * g)) for g in gs]
        factors = [h.norm / ops.maximum(norm, h.norm) for norm in norms]
        return [g * ops.cast(f, g.dtype) for g, f in zip(gs, factors, strict=True)], shared
