"""Centralize: takes the mean out of each unit's gradient."""

from __future__ import annotations

import math
from typing import Any

from keras import ops

from keras_gradopt.arguments import Hyperparameters, positive_int
from keras_gradopt.transforms import Transform

Tensor = Any


class Centralize(Transform):
    r"""Subtracts from each unit's gradient its mean, so that the sum of its weights stays.

    Use it for convolutional nets, where it smooths and regularises training at no cost; it is no
    clipping and has nothing to tune. A unit is what belongs to one output: all entries with one
    index of the last axis. With $g_i$ the gradient of unit $i$, of $n$ entries $g_{ji}$:

    $$g_i \leftarrow g_i - \frac{1}{n} \sum_{j=1}^{n} g_{ji}$$

    A unit of one entry keeps its gradient, which would be 0. Embeddings have the shape of kernels:
    their mean is taken over the vocabulary, so all rows move; `least_rank=3` leaves them out.

    Args:
        least_rank: Number of axes from which on variables are centralised, at least 2; 3 leaves
            out dense layers and embeddings. Vectors and scalars never are.

    Example:
        >>> gs, _ = Centralize().apply([ops.array([[1.0, 5.0], [3.0, 5.0]])], [], {}, h())
        >>> show(gs)
        [[[-1.0, 0.0], [1.0, 0.0]]]

    References:
        Yong, Huang, Hua, Zhang. Gradient Centralization: A New Optimization Technique for Deep
        Neural Networks. ECCV 2020, equation (1).
    """

    least_rank: int

    def __init__(self, least_rank: int = 2) -> None:
        self.declare(least_rank=positive_int("least_rank", least_rank, least=2))

    def apply(
        self,
        gs: list[Tensor],
        ws: list[Tensor],
        shared: dict[str, Tensor],
        h: Hyperparameters,
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Centralises each unit of `gs`."""
        del ws, h
        return [self._centralized(g) for g in gs], shared

    def _centralized(self, g: Tensor) -> Tensor:
        entries = math.prod(g.shape[:-1])
        if len(g.shape) < self.least_rank or entries == 1:
            return g
        return g - ops.mean(g, axis=tuple(range(len(g.shape) - 1)), keepdims=True)  # (1)
