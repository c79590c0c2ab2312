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


def unfolding_square(g: Tensor, axis: int) -> Tensor:
    r"""$G^{(i)} G^{(i)\top}$ with the unfolding of a tensor along one axis.

    Args:
        g: Of any shape with at least one axis.
        axis: The axis $i$, of length n.

    Returns:
        Shape (n, n), symmetric.
    """
    unfolded = ops.reshape(ops.moveaxis(g, axis, 0), (g.shape[axis], -1))
    return ops.matmul(unfolded, ops.transpose(unfolded))


def along_axis(matrix: Tensor, g: Tensor, axis: int) -> Tensor:
    """Multiplies every fibre of a tensor along an axis by a square matrix.

    Args:
        matrix: Shape (n, n).
        g: A tensor whose axis has length n.
        axis: The axis.

    Returns:
        The shape of `g`.
    """
    moved = ops.moveaxis(g, axis, 0)
    product = ops.matmul(matrix, ops.reshape(moved, (g.shape[axis], -1)))
    return ops.moveaxis(ops.reshape(product, moved.shape), 0, axis)


def times(matrix: Tensor, v: Tensor) -> Tensor:
    """A matrix times a vector.

    Not by `ops.matmul`: Keras 3.15 turns float64 into float32 there on torch.

    Args:
        matrix: Shape (m, n).
        v: Shape (n,).

    Returns:
        Shape (m,).
    """
    return (matrix @ v[:, None])[:, 0]


def combined(v: Tensor, matrix: Tensor) -> Tensor:
    """The rows of a matrix, added up with factors.

    Args:
        v: The factors, shape (m,).
        matrix: Shape (m, n).

    Returns:
        Shape (n,).
    """
    return (v[None] @ matrix)[0]
