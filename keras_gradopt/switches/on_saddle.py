"""OnSaddle: the gradient vanishes where the loss curves down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from keras import ops

from keras_gradopt.arguments import Hyperparameters, positive_int
from keras_gradopt.krylov import lanczos
from keras_gradopt.landscape import Landscape
from keras_gradopt.ranges import POSITIVE, Range
from keras_gradopt.slot import Slot
from keras_gradopt.switches import Decision, Seen, State, Switch
from keras_gradopt.tensors import global_norm

Tensor = Any


class OnSaddle(Switch):
    r"""Hands over at a saddle point: a small gradient, and a direction of negative curvature.

    Use it to let a method that knows the way off a saddle (saddle-free Newton, a search, noise)
    take over where a gradient method would creep; the model must be bound:
    `keras_gradopt.bind(model)`. The switch comes where the minibatch's gradient $g$ and the
    smallest and the largest eigenvalue of its Hessian, in size, fulfil

    $$\|g\| \le \epsilon \quad \text{and} \quad \lambda_{min} < -c \max_i |\lambda_i|,$$

    as far as $k$ Lanczos iterations from a random direction see them: $\lambda_{min}$ comes out too
    large, never too small. They are made only while the gradient is small, and then every $n$
    steps; each costs a Hessian-vector product, 3 gradients, at the step's minibatch.

    Args:
        gradient_norm: $\epsilon$, above 0, of all weights together, in units of the loss per unit
            of the weights.
        curvature: $c$, in (0, 1]: below some 1e-5 it is rounding.
        frequency: Steps $n$ between two looks, at least 1.
        iterations: $k$, at least 1; no more are made than there are weights.
        seed: Of the random directions, at least 0.

    Example:
        >>> model = keras_gradopt.bind(model)
        >>> saddle = OnSaddle(gradient_norm=1e-3, frequency=10)
        >>> model.compile(optimizer=Hybrid("sgd", "adam", switch=saddle), loss="mse")
        >>> history = model.fit(x, y, verbose=0)
        >>> model.optimizer.switch_log()           # the gradient is not small yet
        []

    References:
        Jin, Ge, Netrapalli, Kakade, Jordan. How to Escape Saddle Points Efficiently. ICML 2017,
        Definition 5 (second-order stationary points; there the bound on the curvature follows
        from its Lipschitz constant). Golub, Van Loan. Matrix Computations. 2013, algorithm 10.1.1.
    """

    reads_gradient = True
    needs_objective = True
    numbers = ("gradient_norm", "lowest", "largest")
    ranges: ClassVar[dict[str, Range]] = {
        "gradient_norm": POSITIVE.fixed(),
        "curvature": Range(0.0, 1.0, low_included=False, scale="log").fixed(),
    }

    gradient_norm: float
    curvature: float
    frequency: int
    iterations: int
    seed: int

    def __init__(
        self,
        gradient_norm: float = 1e-3,
        curvature: float = 0.01,
        frequency: int = 10,
        iterations: int = 10,
        seed: int = 0,
    ) -> None:
        self.declare(gradient_norm=gradient_norm, curvature=curvature)
        self.declare(
            frequency=positive_int("frequency", frequency),
            iterations=positive_int("iterations", iterations),
            seed=positive_int("seed", seed, least=0),
        )

    def slots(self) -> Sequence[Slot]:
        """Steps since the last look."""
        return (Slot("since", (), float("inf")),)

    def decide(self, seen: Seen, state: State) -> Decision:
        """Due where a look finds curvature that is negative enough."""
        norm = ops.cast(global_norm(seen.gs), "float32")
        since = state["since"] + 1.0
        looks = (norm <= self.gradient_norm) & (since >= self.frequency)
        assert seen.objective is not None  # it needs one
        lowest, largest = seen.objective.either(
            looks,
            lambda: self._curvature(seen),
            lambda: (ops.zeros((), "float32"), ops.zeros((), "float32")),
        )
        due = looks & (lowest < -self.curvature * largest)
        numbers = {"gradient_norm": norm, "lowest": lowest, "largest": largest}
        return Decision(due, {"since": ops.where(looks, 0.0, since)}, numbers)

    def _curvature(self, seen: Seen) -> tuple[Tensor, Tensor]:
        """The lowest eigenvalue, and the size of the largest."""
        assert seen.objective is not None
        landscape = Landscape(seen.objective, seen.ws)
        h = Hyperparameters(step=seen.step)
        start = ops.cast(h.normal((landscape.size,), self.seed), landscape.dtype)
        product = landscape.hessian_at(landscape.vector(seen.ws))
        values, _ = lanczos(landscape, product, start, min(self.iterations, landscape.size))
        found = ops.min(values), ops.max(ops.abs(values))
        return ops.cast(found[0], "float32"), ops.cast(found[1], "float32")

    def reason(self, numbers: Mapping[str, float]) -> str:
        """Norm and eigenvalues."""
        return (
            f"a saddle was found: the gradient's norm was {numbers['gradient_norm']:.3g}, the "
            f"lowest eigenvalue of the Hessian {numbers['lowest']:.3g} beside a largest of "
            f"{numbers['largest']:.3g} in size"
        )
