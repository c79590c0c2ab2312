"""Landscape: an Objective over all its weights as one vector."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from keras import ops

from keras_gradopt import backend
from keras_gradopt.likelihood import Normal
from keras_gradopt.objective import Fisher, Objective
from keras_gradopt.tensors import is_double

Tensor = Any
# From a vector to one of the same size, linear.
Product = Callable[[Tensor], Tensor]


class Landscape:
    """The loss of one minibatch over a vector: what searches, conjugate gradients and Lanczos see.

    Args:
        objective: The loss over the variables.
        ws: Their values.
        moving: Positions of those that the vector holds; the others stay as they are.

    Attributes:
        size: Entries of the vector.
        dtype: In which it is computed.
    """

    def __init__(
        self, objective: Objective, ws: Sequence[Tensor], moving: Sequence[int] | None = None
    ) -> None:
        self._objective = objective
        self._ws = list(ws)
        self._moving = list(range(len(ws))) if moving is None else list(moving)
        double = any(is_double(w) for w in ws)
        self.dtype = "float64" if double else "float32"
        self._shapes = [tuple(ws[i].shape) for i in self._moving]
        self._sizes = [math.prod(shape) for shape in self._shapes]
        self.size = sum(self._sizes)
        self.loop = objective.loop
        self.either = objective.either

    def vector(self, xs: Sequence[Tensor]) -> Tensor:
        """The moving ones of a list like the weights, as one vector."""
        parts = [ops.cast(ops.reshape(xs[i], (-1,)), self.dtype) for i in self._moving]
        return ops.concatenate(parts) if len(parts) > 1 else parts[0]

    def tensors(self, vector: Tensor, rest: Sequence[Tensor] | None = None) -> list[Tensor]:
        """A list like the weights from a vector.

        Args:
            vector: Shape (size,).
            rest: Where the others come from; None are the weights.
        """
        found = list(self._ws if rest is None else rest)
        start = 0
        for i, shape, size in zip(self._moving, self._shapes, self._sizes, strict=True):
            part = ops.reshape(vector[start : start + size], shape)
            found[i] = ops.cast(part, self._ws[i].dtype)
            start += size
        return found

    def value(self, w: Tensor) -> Tensor:
        """The loss, in the vector's dtype."""
        return ops.cast(self._objective.value(self.tensors(w)), self.dtype)

    def values(self, points: Tensor) -> Tensor:
        """The losses at points of shape (points, size), in the vector's dtype."""
        return ops.cast(self._objective.values(self._stacked(points)), self.dtype)

    def halves(self, points: Tensor) -> Tensor:
        """The losses at points on either half of the minibatch, shape (2, points)."""
        found = self._objective.values_on_halves(self._stacked(points))
        return ops.cast(found, self.dtype)

    def _stacked(self, points: Tensor) -> list[Tensor]:
        """Points as weights with a leading axis."""
        many = int(points.shape[0])
        found = [ops.broadcast_to(w, (many, *w.shape)) for w in self._ws]
        start = 0
        for i, shape, size in zip(self._moving, self._shapes, self._sizes, strict=True):
            part = ops.reshape(points[:, start : start + size], (many, *shape))
            found[i] = ops.cast(part, self._ws[i].dtype)
            start += size
        return found

    def value_and_grad(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """The loss and its gradient, shape (size,)."""
        value, gs = self._objective.value_and_grad(self.tensors(w))
        return ops.cast(value, self.dtype), self.vector(gs)

    def hessian_at(self, w: Tensor) -> Product:
        """The Hessian at `w` as a function of vectors."""
        return self._product(self._objective.hessian_at(self.tensors(w)))

    def gauss_newton_at(self, w: Tensor) -> Product:
        """The generalised Gauss-Newton matrix at `w` as a function of vectors."""
        return self._product(self._objective.gauss_newton_at(self.tensors(w)))

    def fisher_at(self, w: Tensor, fisher: Fisher, normal: Normal | None) -> Product:
        """The Fisher information at `w` as a function of vectors: see `Objective.fvp`."""
        return self._product(self._objective.fisher_at(self.tensors(w), fisher, normal))

    def matrix(self, product: Product, cost: float) -> Tensor:
        """A symmetric matrix from its products with the unit vectors.

        Args:
            product: The matrix times a vector.
            cost: Of one product, in gradients.

        Returns:
            Shape (size, size).
        """
        before = self._objective.evaluations
        found = backend.mapped(product, ops.eye(self.size, dtype=self.dtype))
        self._objective.evaluations = before + cost * self.size
        return 0.5 * (found + ops.transpose(found))

    def _product(self, times: Callable[[list[Tensor]], list[Tensor]]) -> Product:
        zeros = [ops.zeros_like(x) for x in self._ws]
        return lambda v: self.vector(times(self.tensors(v, zeros)))


def dot(a: Tensor, b: Tensor) -> Tensor:
    """The inner product of two vectors."""
    return ops.sum(a * b)


def norm(a: Tensor) -> Tensor:
    """The Euclidean norm of a vector."""
    return ops.sqrt(ops.sum(a * a))
