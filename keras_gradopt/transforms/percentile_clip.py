"""PercentileClip: bounds the norm of all gradients by those seen so far."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from keras import ops

from keras_gradopt.arguments import Hyperparameters, positive_int
from keras_gradopt.ranges import Range
from keras_gradopt.slot import Slot
from keras_gradopt.tensors import global_norm
from keras_gradopt.transforms import CommonFactor

Tensor = Any

# Norms are not negative: this one marks a place of the history that is still free.
_FREE = -1.0


class PercentileClip(CommonFactor):
    r"""Scales all gradients together so that their norm stays below a percentile of its history.

    Use it where the right bound of `ClipByGlobalNorm` is not known, or changes during training: the
    bound follows the gradients' own size. With $\|g_t\|$ the Euclidean norm over all variables at
    step $t$, and $c_t$ the $p$-th percentile of the last $n$ norms, this one included (between two
    of them, in a straight line):

    $$g_t \leftarrow g_t \min(1, c_t / \|g_t\|)$$

    The paper keeps all norms; the last 1000 follow the gradients at a fixed cost. Norms that are
    not finite are not kept. At low percentiles most steps are shortened: for SGD a lower rate.

    Args:
        percentile: Percentile $p$ of the norms, in [0, 100]: a number or a schedule. 100 never
            clips; the paper finds 10 best.
        history_length: Number $n$ of norms that are kept, at least 1.

    Example:
        >>> w = keras.Variable([0.0])
        >>> clip = PercentileClip(50.0)
        >>> optimizer = keras_gradopt.SGD(1.0, gradient_transforms=[clip])
        >>> optimizer.apply([ops.array([-1.0])], [w])
        >>> show(w)
        [1.0]
        >>> optimizer.apply([ops.array([-3.0])], [w])  # the median of 1 and 3 is 2
        >>> show(w)
        [3.0]

    References:
        Seetharaman, Wichern, Pardo, Le Roux. AutoClip: Adaptive Gradient Clipping for Source
        Separation Networks. MLSP 2020.
    """

    history_length: int
    sees_one_vector = True
    ranges: ClassVar[dict[str, Range]] = {"percentile": Range(0.0, 100.0, usual="10 is usual.")}

    def __init__(self, percentile: Any = 10.0, history_length: int = 1000) -> None:
        self.declare(percentile=percentile)
        self.declare(history_length=positive_int("history_length", history_length))

    def shared_slots(self) -> Sequence[Slot]:
        """The last norms, the newest at the end."""
        return (Slot("norms", (self.history_length,), initial=_FREE),)

    def factor(
        self, gs: list[Tensor], shared: dict[str, Tensor], h: Hyperparameters
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The percentile over the norm, at most 1; the norm joins the history."""
        norm = ops.cast(global_norm(gs), "float32")
        newest = ops.where(ops.isfinite(norm), norm, _FREE)
        norms = ops.concatenate([shared["norms"][1:], ops.reshape(newest, (1,))])
        bound = self._percentile(norms, h.percentile)
        above = norm > bound
        # Where it is not above, the norm may be 0.
        return ops.where(above, bound / ops.where(above, norm, 1.0), 1.0), {"norms": norms}

    def _percentile(self, norms: Tensor, percentile: Any) -> Tensor:
        """The percentile of the norms that are there, in a straight line between two of them."""
        rising = ops.sort(norms)  # the free places come first
        last = self.history_length - 1.0
        count = ops.sum(ops.cast(norms >= 0.0, "float32"))
        rank = percentile / 100.0 * ops.maximum(count - 1.0, 0.0)
        below = ops.floor(rank)
        # Within the history even where no finite norm was seen yet.
        place = ops.minimum(self.history_length - count + below, last)
        low = ops.take(rising, ops.cast(place, "int32"))
        high = ops.take(rising, ops.cast(ops.minimum(place + 1.0, last), "int32"))
        return low + (high - low) * (rank - below)
