"""Arithmetic on lists of tensors that several rules share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from keras import ops

Tensor = Any


def global_norm(xs: Sequence[Tensor]) -> Tensor:
    """The Euclidean norm of all entries of all tensors, a scalar."""
    return ops.sqrt(sum(ops.sum(x * x) for x in xs))


def all_finite(xs: Sequence[Tensor]) -> Tensor:
    """Whether every entry of every tensor is finite, a boolean scalar."""
    return ops.all(ops.stack([ops.all(ops.isfinite(x)) for x in xs]))


def one_minus_power(rate: Any, step: Any) -> Tensor:
    r"""$1 - \mathrm{rate}^{\mathrm{step}}$ without losing digits for rates near 1.

    In float32 `1 - 0.999**1` is off by 1.3e-5 of itself, which Adam's first step would inherit.

    Args:
        rate: In [0, 1), a number or a scalar tensor.
        step: At least 1, a number or a scalar tensor.
    """
    if isinstance(rate, float):
        if rate == 0.0:
            return 1.0
        log_rate = math.log(rate)
    else:
        # A traced rate may be 0, where the logarithm is -inf; 1e-30**step is 0 in float32 as well.
        log_rate = ops.log(ops.maximum(rate, 1e-30))
    return -ops.expm1(step * log_rate)


def flatten(xs: Sequence[Tensor]) -> Tensor:
    """All entries of all tensors as one vector, in order."""
    return ops.concatenate([ops.reshape(x, (-1,)) for x in xs])


def unflatten(vector: Tensor, shapes: Sequence[Sequence[int]]) -> list[Tensor]:
    """Cuts a vector into tensors of the given shapes: the inverse of `flatten`."""
    pieces, start = [], 0
    for shape in shapes:
        size = math.prod(shape)
        pieces.append(ops.reshape(vector[start : start + size], tuple(shape)))
        start += size
    return pieces
