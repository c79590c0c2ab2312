"""ClipByGlobalNorm: bounds the norm of all gradients together."""

from __future__ import annotations

from typing import Any, ClassVar

from keras import ops

from keras_gradopt.arguments import Hyperparameters
from keras_gradopt.ranges import POSITIVE, Range
from keras_gradopt.tensors import global_norm
from keras_gradopt.transforms import CommonFactor

Tensor = Any


class ClipByGlobalNorm(CommonFactor):
    r"""Scales all gradients by one factor so that their joint norm stays bounded.

    Use it where gradients explode now and then (recurrent nets, attention, high rates): the
    direction of the step is kept. With $\|g\|$ the Euclidean norm over all variables:

    $$g \leftarrow g \min(1, c / \|g\|)$$

    Args:
        norm: The bound $c$, above 0: a number or a schedule.

    Example:
        >>> clip = ClipByGlobalNorm(1.0)
        >>> gs, _ = clip.apply([ops.array([3.0]), ops.array([4.0])], [], {}, h(norm=1.0))
        >>> show(gs)
        [[0.6], [0.8]]

    References:
        Pascanu, Mikolov, Bengio. On the difficulty of training recurrent neural networks.
        ICML 2013, Algorithm 1.
    """

    sees_one_vector = True
    ranges: ClassVar[dict[str, Range]] = {"norm": POSITIVE}

    def __init__(self, norm: Any = 1.0) -> None:
        self.declare(norm=norm)

    def factor(
        self, gs: list[Tensor], shared: dict[str, Tensor], h: Hyperparameters
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The bound over the norm, at most 1."""
        # The larger of norm and bound, so that a zero gradient divides by the bound.
        return h.norm / ops.maximum(global_norm(gs), h.norm), shared
