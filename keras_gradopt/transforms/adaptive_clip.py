"""AdaptiveClip: bounds each unit's gradient by the size of its weights."""

from __future__ import annotations

from typing import Any, ClassVar

from keras import ops

from keras_gradopt.arguments import Hyperparameters
from keras_gradopt.ranges import EPSILON, POSITIVE, Range
from keras_gradopt.transforms import Transform

Tensor = Any


class AdaptiveClip(Transform):
    r"""Scales each unit's gradient so that its norm stays a fraction of its weights' norm.

    Use it for deep nets without batch normalisation, at large batches and high rates: the bound
    follows each layer's own scale. A unit is what belongs to one output: of a kernel all entries
    with one index of the last axis; a vector or a scalar is one unit. With $\|w_i\|$ and $\|g_i\|$
    the Euclidean norms of unit $i$ of weights and gradient:

    $$g_i \leftarrow g_i \min\left(1, \frac{\lambda \max(\|w_i\|, \epsilon)}{\|g_i\|}\right)$$

    optax' `adaptive_grad_clip` has the same units, except in kernels with three axes, where it sums
    over the first only. All variables are clipped; the paper leaves out the last layer.

    Args:
        clipping: Largest ratio $\lambda$ of the two norms, above 0: a number or a schedule. 0.01 is
            for batches of thousands, up to 0.16 for small ones.
        epsilon: Least norm $\epsilon$ that weights count with, above 0, so that weights which
            start at 0 can leave it: a number or a schedule.

    Example:
        >>> clip = AdaptiveClip(0.1)
        >>> gs, ws = [ops.array([[3.0], [4.0]])], [ops.array([[0.6], [0.8]])]
        >>> gs, _ = clip.apply(gs, ws, {}, h(clipping=0.1, epsilon=1e-3))
        >>> show(gs)
        [[[0.06], [0.08]]]

    References:
        Brock, De, Smith, Simonyan. High-Performance Large-Scale Image Recognition Without
        Normalization. ICML 2021, equation (3).
    """

    ranges: ClassVar[dict[str, Range]] = {"clipping": POSITIVE, "epsilon": EPSILON}

    def __init__(self, clipping: Any = 0.01, epsilon: Any = 1e-3) -> None:
        self.declare(clipping=clipping, epsilon=epsilon)

    def apply(
        self,
        gs: list[Tensor],
        ws: list[Tensor],
        shared: dict[str, Tensor],
        h: Hyperparameters,
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Scales each unit of `gs`."""

        def clipped(g: Tensor, w: Tensor) -> Tensor:
            least = ops.cast(h.epsilon, w.dtype)
            bound = ops.cast(h.clipping, w.dtype) * ops.maximum(unit_norms(w), least)
            # The larger of norm and bound, so that a zero gradient divides by the bound.
            return g * (bound / ops.maximum(unit_norms(g), bound))  # (3)

        return [clipped(g, w) for g, w in zip(gs, ws, strict=True)], shared


def unit_norms(x: Tensor) -> Tensor:
    """Euclidean norms of the units of a weight or gradient, of a shape that fits it.

    Args:
        x: A tensor of any shape; one with at most one axis longer than 1 is a single unit.
    """
    single = sum(size > 1 for size in x.shape) <= 1
    axes = None if single else tuple(range(len(x.shape) - 1))
    return ops.sqrt(ops.sum(x * x, axis=axes, keepdims=not single))
