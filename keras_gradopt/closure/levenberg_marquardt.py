"""LevenbergMarquardt: least squares by the damped Gauss-Newton step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from keras import ops

from keras_gradopt.arguments import Hyperparameters, positive_int
from keras_gradopt.closure.bfgs import check_size
from keras_gradopt.closure.newton_cg import NewtonCG
from keras_gradopt.damping import Damping
from keras_gradopt.landscape import Landscape, dot
from keras_gradopt.linalg import times
from keras_gradopt.linesearch import rounding
from keras_gradopt.ranges import NON_NEGATIVE, Range
from keras_gradopt.slot import Slot
from keras_gradopt.vector_rule import StepsAsVector, outcome_of

Tensor = Any


class LevenbergMarquardt(StepsAsVector):
    r"""Fits least squares by Gauss-Newton steps, damped until one lowers the loss.

    Use it to fit small models, up to some thousand parameters, under a mean squared error, with all
    data as one minibatch: curves, physical models, small networks; the model must be bound:
    `keras_gradopt.bind(model)`. With the Jacobian $J$ of the residuals, $G = c J^T J$ scaled as the
    mean is, its gradient $g$ and damping $\lambda$:

    $$(G + \lambda\, \mathrm{diag}(G))\, p = -g, \qquad w \leftarrow w + p$$

    if that lowers the loss; else $\lambda$ grows and the step is computed again. $\lambda$ shrinks
    where the quadratic model predicted well.

    Args:
        damping: $\lambda$, a multiple of the curvature, above 0: a number where it begins, or a
            `keras_gradopt.Damping`.
        attempts: Steps tried on one minibatch, at least 1; each costs one loss value.
        tolerance: Largest entry of the gradient, at least 0, at which nothing moves any more.
        max_parameters: Refuses models with more parameters: $G$ takes that many products of two
            gradients each, and its square in memory.
        **kwargs: Common arguments, see `keras_gradopt.Optimizer`; clipping, weight decay and rates
            of groups are refused.

    Raises:
        ValueError: The loss is no mean squared error, or the model has too many parameters.

    Example:
        >>> model = keras_gradopt.bind(model)
        >>> model.compile(optimizer=LevenbergMarquardt(), loss="mse")
        >>> history = model.fit(x, y, batch_size=64, epochs=5, verbose=0)
        >>> history.history["loss"][-1] < 0.1 * history.history["loss"][0]
        True

    References:
        Marquardt. An Algorithm for Least-Squares Estimation of Nonlinear Parameters. SIAM J. Appl.
        Math. 1963; the damping's rule as in Moré. The Levenberg-Marquardt algorithm:
        implementation and theory. 1978, with factors of 10.
    """

    # About 50 parameters: each takes one product of two gradients.
    gradient_evaluations_per_step = 100.0
    ranges: ClassVar[dict[str, Range]] = {"tolerance": NON_NEGATIVE.fixed()}

    def __init__(
        self,
        damping: Any = 1e-3,
        attempts: int = 10,
        tolerance: float = 1e-7,
        max_parameters: int = 3000,
        **kwargs: Any,
    ) -> None:
        # The damping alone decides how long steps are.
        kwargs.setdefault("learning_rate", 1.0)
        super().__init__(**kwargs)
        if not isinstance(damping, Damping) and not callable(damping):
            damping = Damping(damping, minimum=1e-12, maximum=1e12, factor=10.0)
        self.damping = Damping.of(damping)
        self.declare(
            attempts=positive_int("attempts", attempts),
            tolerance=tolerance,
            max_parameters=positive_int("max_parameters", max_parameters),
        )

    def vector_slots(self, size: int) -> Sequence[Slot]:
        """The damping."""
        del size
        return self.damping.slots()

    def dearest_step(self) -> float:
        """The matrix, every attempt, and the step's own gradient and loss."""
        return 4 / 3 + 2 * self.size + self.attempts / 3

    def _create_state(self, variables: list[Any]) -> None:
        check_size(self, variables, "needs a dense matrix", NewtonCG)
        super()._create_state(variables)

    def descend(
        self,
        landscape: Landscape,
        w: Tensor,
        g: Tensor,
        shared: dict[str, Tensor],
        h: Hyperparameters,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """One Gauss-Newton matrix, and as many damped steps as it takes."""
        if not self.objective.is_least_squares():
            raise ValueError(
                f"{type(self).__name__} fits least squares and needs loss='mse' for every output. "
                f"Other losses have that curvature too: take keras_gradopt.{NewtonCG.__name__}."
            )
        f = landscape.value(w)
        matrix = landscape.matrix(landscape.gauss_newton_at(w), cost=2.0)
        diagonal = ops.diagonal(matrix)
        # A weight that moves no output keeps a little of the largest curvature, and its place.
        scale = ops.maximum(diagonal, 1e-6 * ops.max(diagonal) + 1e-30)

        def body(k: Any, done: Any, damping: Any, p: Any, value: Any) -> tuple:
            del done, p, value
            p = -ops.solve(matrix + ops.diag(damping * scale), g[:, None])[:, 0]
            value = landscape.value(w + p)
            change = dot(g, p) + 0.5 * dot(p, times(matrix, p))
            ratio = (value - f) / ops.where(change < 0, change, -1.0)
            good = ops.isfinite(value) & (value < f)
            ratio = ops.where(good, ratio, -1.0)
            return k + 1, good, self.damping.adapted(damping, ratio), p, value

        def going(k: Any, done: Any, *rest: Any) -> Tensor:
            del rest
            return (k < self.attempts) & ~done

        still = ops.max(ops.abs(g)) <= self.tolerance
        start = (
            ops.convert_to_tensor(0, "int32"),
            still,
            self.damping.value(shared, h.step, w.dtype),
            ops.zeros_like(w),
            f,
        )
        _, done, damping, p, _ = landscape.loop(going, body, start)
        moved = ops.where(done, w + p, w)
        # What the last step promised is rounding.
        still = still | (~done & (ops.abs(dot(g, p)) <= 1e2 * rounding(f)))
        outcome = outcome_of(still, done, ops.isfinite(f), w.dtype)
        return moved, {**shared, **self.damping.kept(damping), **outcome}
