"""Matrix functions that several rules share."""

from __future__ import annotations

from typing import Any

from keras import ops

Tensor = Any


def inverse_root(matrix: Tensor, order: int) -> Tensor:
    r"""$M^{-1/p}$ of a symmetric positive definite matrix, by its eigenvalues.

    Eigenvalues that rounding made smaller than $10^{-12}$ of the largest count as that, so that
    the root stays finite.

    Args:
        matrix: Shape (n, n), symmetric.
        order: The root's order p, at least 1.

    Returns:
        Shape (n, n), symmetric.
    """
    values, vectors = ops.eigh(matrix)
    # eigh returns rising eigenvalues; float32 keeps about 7 digits, so tiny ones may come out <= 0.
    floor = ops.maximum(values[-1] * 1e-12, 1e-30)
    roots = ops.power(ops.maximum(values, floor), -1.0 / order)
    return ops.matmul(vectors * roots, ops.transpose(vectors))
