"""Arithmetic on lists of tensors that several rules share."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from keras_gradopt import backend

Tensor = Any


def global_norm(xs: Sequence[Tensor]) -> Tensor:
    """The Euclidean norm of all entries of all tensors, a scalar."""
    return backend.global_norm(xs)


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


def either(condition: Tensor, yes: Callable[[], Any], no: Callable[[], Any]) -> Any:
    """`ops.cond`, which outside of compiled steps runs the branch in question and nothing else.

    There JAX would compile both branches anew at every step: closures are no key to its cache.

    Args:
        condition: A boolean scalar.
        yes: What to compute where it holds.
        no: What to compute elsewhere, of the same structure, shapes and dtypes.
    """
    try:
        known = bool(condition)
    except TypeError:  # traced, by JAX or TensorFlow
        return ops.cond(condition, yes, no)
    return yes() if known else no()


def on_host(f: Callable, like: Sequence[Tensor], *inputs: Tensor) -> list[Tensor]:
    """A pure function of NumPy arrays within a step, compiled or not.

    A rule that calls it says so by `host_step = True`.

    Args:
        f: From arrays to a sequence of arrays. It must call NumPy alone, nothing of the backend.
        like: Tensors of the results' shapes and dtypes.
        *inputs: What it gets.
    """
    found: list[Tensor] = backend.on_host(f, like, inputs)
    return found


# Bits of float32's mantissa that a half-precision type drops.
HALF_DROPS = {"bfloat16": 16, "float16": 13}


def split_half(w: Tensor, dtype: str) -> tuple[Tensor, Tensor]:
    """A float32 tensor as what `dtype` can hold, rounded to nearest, and what is lost by that.

    By the bits: compilers take a conversion to half precision and back for none at all.

    Args:
        w: float32.
        dtype: "bfloat16" or "float16".

    Returns:
        `(high, low)`, both float32, with `high + low == w`; a conversion of `high` to `dtype` is
        exact within the range of its normal numbers.
    """
    drops = HALF_DROPS[dtype]
    bits = ops.view(w, "int32")
    odd = ops.bitwise_and(ops.right_shift(bits, drops), 1)
    # Half of the last kept digit, ties to even.
    up = bits + (2 ** (drops - 1) - 1) + odd
    high = ops.view(ops.bitwise_and(up, -(2**drops)), "float32")
    high = ops.where(ops.isfinite(w), high, w)
    return high, ops.where(ops.isfinite(w), w - high, 0.0)


def is_double(tensor: Tensor) -> bool:
    """Whether a tensor or variable is float64."""
    return bool(keras.backend.standardize_dtype(tensor.dtype) == "float64")
