"""Krylov methods on vectors inside a step: conjugate gradients and Lanczos."""

from __future__ import annotations

import dataclasses
from typing import Any

from keras import ops

from keras_gradopt.landscape import Landscape, Product, dot, norm
from keras_gradopt.linalg import combined, times

Tensor = Any


@dataclasses.dataclass(frozen=True)
class Solved:
    """What conjugate gradients found.

    Attributes:
        x: The solution, as far as it got.
        product: The matrix times it.
        indefinite: Whether a direction without positive curvature ended it.
        direction: That direction, else the last one.
        curvature: The direction's curvature, its square length times an eigenvalue's bound.
        iterations: Products taken.
    """

    x: Tensor
    product: Tensor
    indefinite: Tensor
    direction: Tensor
    curvature: Tensor
    iterations: Tensor


def conjugate_gradients(
    landscape: Landscape,
    product: Product,
    b: Tensor,
    tolerance: Tensor,
    iterations: int,
    scale: Tensor | None = None,
) -> Solved:
    r"""Solves $Ax = b$ for a symmetric $A$, until it meets curvature that is not positive.

    Args:
        landscape: Counts what the products evaluate.
        product: $A$ times a vector.
        b: Right-hand side.
        tolerance: Norm of the residual at which it ends.
        iterations: Products at most, at least 1.
        scale: Diagonal of a preconditioner that is near $A$, positive; None is the identity.

    References:
        Nocedal, Wright. Numerical Optimization. Springer 2006, algorithms 5.3 and 7.1.
    """

    def solved(r: Tensor) -> Tensor:
        return r if scale is None else r / scale

    def body(k: Any, bad: Any, x: Any, r: Any, d: Any, rz: Any, along: Any) -> tuple:
        del bad, along
        times = product(d)
        curvature = dot(d, times)
        bad = ~(curvature > 1e-10 * dot(d, d))
        alpha = ops.where(bad, 0.0, rz / ops.where(bad, 1.0, curvature))
        x, r = x + alpha * d, r - alpha * times
        z = solved(r)
        new = dot(r, z)
        beta = ops.where(rz > 0, new / ops.where(rz > 0, rz, 1.0), 0.0)
        return k + 1, bad, x, r, ops.where(bad, d, z + beta * d), new, curvature

    def going(k: Any, bad: Any, x: Any, r: Any, *rest: Any) -> Tensor:
        del x, rest
        return (k < iterations) & ~bad & (norm(r) > tolerance)

    z = solved(b)
    start = (
        ops.convert_to_tensor(0, "int32"),
        ops.convert_to_tensor(False, "bool"),
        ops.zeros_like(b),
        b,
        z,
        dot(b, z),
        ops.ones_like(dot(b, z)),
    )
    k, bad, x, r, d, _, curvature = landscape.loop(going, body, start)
    return Solved(x, b - r, bad, d, curvature, k)


def lanczos(
    landscape: Landscape, product: Product, start: Tensor, size: int
) -> tuple[Tensor, Tensor]:
    """Ritz values and vectors of a symmetric matrix in a Krylov subspace.

    Every new vector is made orthogonal to all before, twice: in float32 the subspace would lose
    its orthogonality within some ten steps.

    Args:
        landscape: Counts what the products evaluate.
        product: The matrix times a vector.
        start: Where the subspace begins.
        size: Its dimension, at least 1 and at most the vector's.

    Returns:
        The values, rising, shape (size,), and the vectors, shape (size, entries). Where the
        subspace ends early, values of 0 with vectors of zeros are among them.

    References:
        Golub, Van Loan. Matrix Computations. Johns Hopkins 2013, algorithm 10.1.1.
    """
    rows = ops.arange(size)

    def body(k: Any, basis: Any, q: Any, diagonal: Any, beside: Any) -> tuple:
        here = ops.cast(ops.equal(rows, k), q.dtype)
        basis = basis + here[:, None] * q[None]
        r = product(q)
        diagonal = diagonal + here * dot(q, r)
        for _ in range(2):
            r = r - combined(times(basis, r), basis)
        length = norm(r)
        # Below this the rest is rounding: the subspace is invariant.
        goes_on = length > 1e-5 * ops.max(ops.abs(diagonal)) + 1e-30
        beside = beside + here * ops.where(goes_on, length, 0.0)
        q = ops.where(goes_on, r / ops.where(goes_on, length, 1.0), ops.zeros_like(r))
        return k + 1, basis, q, diagonal, beside

    length = norm(start)
    q = start / ops.where(length > 0, length, 1.0)
    zeros = ops.zeros((size,), dtype=q.dtype)
    state = (
        ops.convert_to_tensor(0, "int32"),
        ops.zeros((size, int(q.shape[0])), dtype=q.dtype),
        q,
        zeros,
        zeros,
    )
    _, basis, _, diagonal, beside = landscape.loop(lambda k, *_: k < size, body, state)
    matrix = ops.diag(diagonal)
    if size > 1:
        off = ops.diag(beside[:-1], k=1)
        matrix = matrix + off + ops.transpose(off)
    values, vectors = ops.eigh(matrix)
    return values, ops.transpose(vectors) @ basis
