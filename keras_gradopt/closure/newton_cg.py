"""NewtonCG: Hessian-free optimization, Newton's step by products alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from keras import ops

from keras_gradopt.arguments import Hyperparameters, positive_int
from keras_gradopt.damping import Damping
from keras_gradopt.krylov import Solved, conjugate_gradients, lanczos
from keras_gradopt.landscape import Landscape, Product, dot, norm
from keras_gradopt.quadratic import (
    SEARCH_EVALUATIONS,
    STATIONARY,
    Proposal,
    better,
    escape,
    newton_like,
    searched,
)
from keras_gradopt.ranges import NON_NEGATIVE, Range
from keras_gradopt.slot import Slot
from keras_gradopt.vector_rule import StepsAsVector, outcome_of

Tensor = Any
_LANCZOS = 20


class NewtonCG(StepsAsVector):
    r"""Newton's step by conjugate gradients, which need products with the curvature only.

    Use it on deep or badly conditioned networks with the whole data, or large minibatches; the
    model must be bound: `keras_gradopt.bind(model)`. With gradient $g$, curvature $B$ (the Hessian
    or the Gauss-Newton matrix), damping $\lambda$ and $f$ the minibatch's loss, conjugate gradients
    solve

    $$(B + \lambda I)\, p = -g, \qquad w \leftarrow w + t p$$

    to a residual of $\min(\frac{1}{2}, \sqrt{\|g\|})\, \|g\|$, or as far as they get;
    $t = 1, \frac{1}{2}, \frac{1}{4}, \ldots$ is the first that lowers the loss enough, and
    $\lambda$ follows how well the quadratic model predicts. Where the Hessian has negative
    curvature, the step goes along it if the model promises more of that; where
    $\|g\| \le 10^{-3}$, Lanczos looks for it.

    Args:
        learning_rate: First trial of $t$, at least 0.
        curvature: `"gauss_newton"`, which is never negative, or `"hessian"`.
        damping: $\lambda$ in units of the curvature, above 0: a number where it begins, or a
            `keras_gradopt.Damping`.
        cg_iterations: Products at most, at least 1; each costs 2 gradients, 3 with the Hessian.
        precondition: Whether conjugate gradients are scaled by $(\bar g^2 + \lambda)^{3/4}$ with
            the running mean of squared gradients, as in the paper; helps deep networks.
        tolerance: Largest entry of the gradient, at least 0, at which nothing moves any more,
            unless there is negative curvature.
        **kwargs: Common arguments, see `keras_gradopt.Optimizer`; clipping, weight decay and rates
            of groups are refused.

    Example:
        >>> model = keras_gradopt.bind(model)
        >>> model.compile(optimizer=NewtonCG(damping=0.1), loss="mse")
        >>> history = model.fit(x, y, batch_size=64, epochs=5, verbose=0)
        >>> history.history["loss"][-1] < 0.1 * history.history["loss"][0]
        True

    References:
        Martens. Deep learning via Hessian-free optimization. ICML 2010, Algorithm 2; without its
        warm start, and with the forcing sequence of Nocedal, Wright. Numerical Optimization.
        Springer 2006, algorithm 7.1, in the place of its test of progress. Its preconditioner
        squares the gradients of single examples; here those of minibatches.
    """

    # Twenty products with the Gauss-Newton matrix, and a few values.
    gradient_evaluations_per_step = 42.0
    ranges: ClassVar[dict[str, Range]] = {"tolerance": NON_NEGATIVE.fixed()}

    def __init__(
        self,
        learning_rate: Any = 1.0,
        curvature: Literal["gauss_newton", "hessian"] = "gauss_newton",
        damping: Any = 1.0,
        cg_iterations: int = 50,
        precondition: bool = False,
        tolerance: float = 1e-7,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)
        if curvature not in ("gauss_newton", "hessian"):
            raise ValueError(
                f"curvature must be 'gauss_newton' or 'hessian', received {curvature!r}."
            )
        self.damping = Damping.of(damping)
        self.declare(
            curvature=curvature,
            cg_iterations=positive_int("cg_iterations", cg_iterations),
            precondition=precondition,
            tolerance=tolerance,
        )

    def vector_slots(self, size: int) -> Sequence[Slot]:
        """The damping, and the mean of squared gradients where it scales."""
        squares = (Slot("squares", shape=(size,)),) if self.precondition else ()
        return (*self.damping.slots(), *squares)

    def dearest_step(self) -> float:
        """All products, the search, and the step's own gradient and loss."""
        products = 2.0 * min(self.cg_iterations, self.size)
        if self.curvature == "hessian":
            # What Lanczos may ask for comes on top.
            products = 1.5 * products + 3.0 * min(_LANCZOS, self.size)
        return 4 / 3 + products + SEARCH_EVALUATIONS / 3

    def descend(
        self,
        landscape: Landscape,
        w: Tensor,
        g: Tensor,
        shared: dict[str, Tensor],
        h: Hyperparameters,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """One step of truncated Newton, or along negative curvature."""
        f = landscape.value(w)
        damping = self.damping.value(shared, h.step, w.dtype)
        kept: dict[str, Tensor] = {}
        scale = None
        if self.precondition:
            squares = 0.95 * shared["squares"] + 0.05 * g * g
            kept["squares"] = squares
            mean = squares / (1.0 - 0.95 ** ops.cast(h.step, w.dtype))
            scale = ops.power(mean + damping, 0.75)
        gauss_newton = self.curvature == "gauss_newton"
        times = landscape.gauss_newton_at(w) if gauss_newton else landscape.hessian_at(w)
        size = norm(g)
        solved = conjugate_gradients(
            landscape,
            lambda v: times(v) + damping * v,
            -g,
            ops.minimum(0.5, ops.sqrt(size)) * size,
            min(self.cg_iterations, landscape.size),
            scale,
        )
        x = solved.x
        curved = dot(x, solved.product) - damping * dot(x, x)
        # Where the first direction was not curved upwards, there is the steepest descent.
        began = dot(x, x) > 0
        newton = newton_like(ops.where(began, x, -g), g, ops.where(began, curved, 0.0))
        proposal, escapes = newton, ops.zeros_like(solved.indefinite)
        if self.curvature == "hessian":
            way_out = self._way_out(landscape, times, g, solved, damping, h)
            proposal, escapes = better(newton, way_out, way_out.curvature < 0)
        first = ops.cast(h.learning_rate, w.dtype)
        found, ratio, exhausted = searched(landscape, w, f, proposal, first)
        still = exhausted | ((ops.max(ops.abs(g)) <= self.tolerance) & ~escapes)
        damping = ops.where(escapes | still, damping, self.damping.adapted(damping, ratio))
        moved = ops.where(still, w, found.w)
        outcome = outcome_of(still, found.success, ops.isfinite(f), w.dtype)
        return moved, {**shared, **kept, **self.damping.kept(damping), **outcome}

    def _way_out(
        self,
        landscape: Landscape,
        times: Product,
        g: Tensor,
        solved: Solved,
        damping: Tensor,
        h: Hyperparameters,
    ) -> Proposal:
        """A direction of negative curvature; its curvature is 0 where none was found."""
        d = solved.direction
        square = ops.maximum(dot(d, d), 1e-30)
        met = solved.indefinite & (square > 1e-30)
        theirs = ops.where(met, solved.curvature / square - damping, 0.0)

        def looked() -> tuple[Tensor, Tensor]:
            start = ops.cast(h.normal((landscape.size,), seed=0), g.dtype)
            size = min(_LANCZOS, landscape.size)
            values, vectors = lanczos(landscape, times, start, size)
            # Smaller ones may be rounding.
            real = values[0] < -1e-5 * ops.max(ops.abs(values))
            return vectors[0], ops.where(real, values[0], 0.0)

        stationary = ~met & (norm(g) <= STATIONARY)
        u, value = landscape.either(stationary, looked, lambda: (d, theirs))
        return escape(u, g, value)
