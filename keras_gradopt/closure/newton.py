"""Newton: the whole Hessian, damped, with a way out of saddles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from keras import ops

from keras_gradopt.arguments import Hyperparameters, positive_int
from keras_gradopt.closure.bfgs import check_size
from keras_gradopt.closure.newton_cg import NewtonCG
from keras_gradopt.damping import Damping
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


class Newton(StepsAsVector):
    r"""Solves with the exact Hessian, and leaves saddles along its most negative direction.

    Use it on small smooth models, up to some thousand parameters, to the last digit; the model must
    be bound: `keras_gradopt.bind(model)`. With gradient $g$, Hessian $H$, its smallest eigenvalue
    $\lambda_1$ with eigenvector $v_1$, and damping $\mu$:

    $$p = -\left(H + (\mu + \max(0, -\lambda_1)) I\right)^{-1} g$$
    $$w \leftarrow w + t p \quad \text{or} \quad w \pm t v_1$$

    where the second way is for saddles: $\lambda_1 < 0$, $\|g\| \le 10^{-3}$, and the quadratic
    model promises more of it. $t = 1, \frac{1}{2}, \frac{1}{4}, \ldots$ is the first that lowers
    the loss enough. $\mu$ follows how well the model predicts.

    Args:
        learning_rate: First trial of $t$, at least 0: 1 is Newton's own step.
        damping: $\mu$ in units of the Hessian, above 0: a number where it begins, or a
            `keras_gradopt.Damping`.
        tolerance: Largest entry of the gradient, at least 0, at which nothing moves any more,
            unless there is negative curvature.
        max_parameters: Refuses models with more parameters: the Hessian takes that many
            Hessian-vector products, and its square in memory.
        **kwargs: Common arguments, see `keras_gradopt.Optimizer`; clipping, weight decay and rates
            of groups are refused.

    Raises:
        ValueError: The model has more than `max_parameters` parameters.

    Example:
        >>> model = keras_gradopt.bind(model)
        >>> model.compile(optimizer=Newton(damping=0.01), loss="mse")
        >>> history = model.fit(x, y, batch_size=64, epochs=5, verbose=0)
        >>> history.history["loss"][-1] < 0.1 * history.history["loss"][0]
        True

    References:
        Nocedal, Wright. Numerical Optimization. Springer 2006, section 3.4 (modified Newton by
        shifting the eigenvalues) with the damping of Levenberg and Marquardt; directions of
        negative curvature as Goldfarb. Curvilinear path steplength algorithms for minimization
        which use directions of negative curvature. Mathematical Programming 1980.
    """

    # About 50 parameters: each takes one Hessian-vector product of three gradients.
    gradient_evaluations_per_step = 150.0
    ranges: ClassVar[dict[str, Range]] = {"tolerance": NON_NEGATIVE.fixed()}

    def __init__(
        self,
        learning_rate: Any = 1.0,
        damping: Any = 1e-3,
        tolerance: float = 1e-7,
        max_parameters: int = 3000,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.damping = Damping.of(damping)
        self.declare(
            tolerance=tolerance, max_parameters=positive_int("max_parameters", max_parameters)
        )

    def vector_slots(self, size: int) -> Sequence[Slot]:
        """The damping."""
        del size
        return self.damping.slots()

    def dearest_step(self) -> float:
        """The Hessian, the search, and the step's own gradient and loss."""
        return 4 / 3 + 3 * self.size + SEARCH_EVALUATIONS / 3

    def _create_state(self, variables: list[Any]) -> None:
        check_size(self, variables, "needs the dense Hessian", NewtonCG)
        super()._create_state(variables)

    def descend(
        self,
        landscape: Landscape,
        w: Tensor,
        g: Tensor,
        shared: dict[str, Tensor],
        h: Hyperparameters,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """One step of damped Newton, or out of a saddle."""
        f = landscape.value(w)
        damping = self.damping.value(shared, h.step, w.dtype)
        hessian = landscape.matrix(landscape.hessian_at(w), cost=3.0)
        finite = ops.all(ops.isfinite(hessian))
        hessian = ops.where(finite, hessian, ops.eye(landscape.size, dtype=w.dtype))
        values, vectors = ops.eigh(hessian)
        # Smaller ones may be rounding.
        negative = (values[0] < -1e-5 * ops.max(ops.abs(values))) & (norm(g) <= STATIONARY)
        shift = damping + ops.maximum(-values[0], 0.0)
        along = combined(g, vectors)
        parts = -along / (values + shift)
        p = times(vectors, parts)
        newton = newton_like(p, g, ops.sum(values * parts * parts))
        way_out = escape(vectors[:, 0], g, values[0])
        proposal, escapes = better(newton, way_out, negative)
        first = ops.cast(h.learning_rate, w.dtype)
        found, ratio, exhausted = searched(landscape, w, f, proposal, first)
        still = exhausted | ((ops.max(ops.abs(g)) <= self.tolerance) & ~escapes)
        damping = ops.where(escapes | still, damping, self.damping.adapted(damping, ratio))
        moved = ops.where(still, w, found.w)
        finite = finite & ops.isfinite(f)
        outcome = outcome_of(still, found.success, finite, w.dtype)
        return moved, {**shared, **self.damping.kept(damping), **outcome}
