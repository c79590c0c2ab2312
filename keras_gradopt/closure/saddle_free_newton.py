"""SaddleFreeNewton: Newton's step with the curvatures' absolute values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from keras import ops

from keras_gradopt.arguments import Hyperparameters, positive_int
from keras_gradopt.damping import Damping
from keras_gradopt.krylov import lanczos
from keras_gradopt.landscape import Landscape, norm
from keras_gradopt.linalg import combined, times
from keras_gradopt.quadratic import (
    SEARCH_EVALUATIONS,
    STATIONARY,
    better,
    escape,
    newton_like,
    searched,
)
from keras_gradopt.ranges import NON_NEGATIVE, Range
from keras_gradopt.slot import Slot
from keras_gradopt.vector_rule import StepsAsVector, outcome_of

Tensor = Any


class SaddleFreeNewton(StepsAsVector):
    r"""Newton's step with $|H|$ for the Hessian, which saddles repel.

    Use it where training stalls at saddles: deep networks without normalisation, recurrent ones, on
    large minibatches; the model must be bound: `keras_gradopt.bind(model)`. With gradient $g$, the
    Ritz values $\theta_i$ and vectors $v_i$ of the Hessian in a Krylov subspace, and damping
    $\lambda$:

    $$p = -\sum_i \frac{\langle v_i, g \rangle}{|\theta_i| + \lambda} v_i,
    \qquad w \leftarrow w + t p$$

    with the first $t = 1, \frac{1}{2}, \frac{1}{4}, \ldots$ that lowers the loss enough. At a
    saddle itself, $\|g\| \le 10^{-3}$, the gradient does not see where the curvature is negative,
    and the step goes along that direction.
    $\lambda$ follows how well the quadratic model predicts.

    Args:
        learning_rate: First trial of $t$, at least 0.
        subspace: Dimension of the Krylov subspace, at least 1; each costs 3 gradients.
        damping: $\lambda$ in units of the Hessian, above 0: a number where it begins, or a
            `keras_gradopt.Damping`.
        tolerance: Largest entry of the gradient, at least 0, at which nothing moves any more,
            unless there is negative curvature.
        **kwargs: Common arguments, see `keras_gradopt.Optimizer`; clipping, weight decay and rates
            of groups are refused.

    Example:
        >>> model = keras_gradopt.bind(model)
        >>> model.compile(optimizer=SaddleFreeNewton(damping=0.1), loss="mse")
        >>> history = model.fit(x, y, batch_size=64, epochs=5, verbose=0)
        >>> history.history["loss"][-1] < 0.1 * history.history["loss"][0]
        True

    References:
        Dauphin, Pascanu, Gulcehre, Cho, Ganguli, Bengio. Identifying and attacking the saddle point
        problem in high-dimensional non-convex optimization. NeurIPS 2014, Algorithm 1. The subspace
        begins at the gradient with one percent of noise, so that directions which the gradient
        does not see are found; the step along them is ours.
    """

    gradient_evaluations_per_step = 63.0
    draws = True
    ranges: ClassVar[dict[str, Range]] = {"tolerance": NON_NEGATIVE.fixed()}

    def __init__(
        self,
        learning_rate: Any = 1.0,
        subspace: int = 20,
        damping: Any = 0.1,
        tolerance: float = 1e-7,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.damping = Damping.of(damping)
        self.declare(subspace=positive_int("subspace", subspace), tolerance=tolerance)

    def vector_slots(self, size: int) -> Sequence[Slot]:
        """The damping."""
        del size
        return self.damping.slots()

    def dearest_step(self) -> float:
        """All products, the search, and the step's own gradient and loss."""
        return 4 / 3 + 3.0 * min(self.subspace, self.size) + SEARCH_EVALUATIONS / 3

    def descend(
        self,
        landscape: Landscape,
        w: Tensor,
        g: Tensor,
        shared: dict[str, Tensor],
        h: Hyperparameters,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """One step in the Krylov subspace."""
        f = landscape.value(w)
        damping = self.damping.value(shared, h.step, w.dtype)
        noise = ops.cast(h.normal((landscape.size,), seed=0), w.dtype)
        noise = noise / norm(noise)
        length = norm(g)
        start = ops.where(length > 0, g / ops.where(length > 0, length, 1.0) + 0.01 * noise, noise)
        size = min(self.subspace, landscape.size)
        values, vectors = lanczos(landscape, landscape.hessian_at(w), start, size)
        parts = -times(vectors, g) / (ops.abs(values) + damping)
        p = combined(parts, vectors)
        newton = newton_like(p, g, ops.sum(values * parts * parts))
        # Smaller ones may be rounding.
        negative = (values[0] < -1e-5 * ops.max(ops.abs(values))) & (length <= STATIONARY)
        proposal, escapes = better(newton, escape(vectors[0], g, values[0]), negative)
        first = ops.cast(h.learning_rate, w.dtype)
        found, ratio, exhausted = searched(landscape, w, f, proposal, first)
        still = exhausted | ((ops.max(ops.abs(g)) <= self.tolerance) & ~escapes)
        damping = ops.where(escapes | still, damping, self.damping.adapted(damping, ratio))
        moved = ops.where(still, w, found.w)
        outcome = outcome_of(still, found.success, ops.isfinite(f), w.dtype)
        return moved, {**shared, **self.damping.kept(damping), **outcome}
