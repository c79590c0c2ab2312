"""NaturalGradient: the steepest descent in the space of distributions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from keras import ops

from keras_gradopt.arguments import Hyperparameters, positive_int
from keras_gradopt.closure import EvaluatesLoss
from keras_gradopt.krylov import conjugate_gradients
from keras_gradopt.landscape import Landscape, dot, norm
from keras_gradopt.ranges import DECAY_RATE, POSITIVE, Range
from keras_gradopt.slot import Slot
from keras_gradopt.tensors import all_finite

Tensor = Any


class NaturalGradient(EvaluatesLoss):
    r"""Multiplies the gradient with the inverse Fisher information, by conjugate gradients.

    Use it to follow the natural gradient itself, without a Kronecker or diagonal form, on models
    with a probabilistic loss and minibatches that are not small; the model must be bound:
    `keras_gradopt.bind(model)`. With gradient $g_t$, Fisher information $F_t$ of the minibatch and
    damping $\lambda$:

    $$n_t = (F_t + \lambda I)^{-1} g_t, \qquad
    c_t = \min\left(1, \sqrt{\frac{\kappa}{\eta^2 \langle n_t, F_t n_t \rangle}}\right)$$
    $$u_t = \mu u_{t-1} - \eta c_t n_t, \qquad w_t = w_{t-1} + u_t$$

    Args:
        learning_rate: $\eta$, at least 0.
        damping: $\lambda$ in units of the Fisher information, above 0: a number or a schedule.
        momentum: $\mu$, in [0, 1).
        max_divergence: $\kappa$, above 0: twice the Kullback-Leibler divergence, in nats, that one
            step may make of the model; None sets no limit.
        fisher: `"exact"` expectation over the model's own targets, `"mc"` one draw of them per
            example, or `"empirical"`, the targets of the data, for any loss.
        cg_iterations: Products at most, at least 1; each costs 2 gradients.
        seed: Of the draws, at least 0.
        **kwargs: Common arguments, see `keras_gradopt.Optimizer`. Clipping and other transforms see
            the natural gradient.

    Example:
        >>> model = keras_gradopt.bind(model)
        >>> model.compile(optimizer=NaturalGradient(0.3), loss="mse")
        >>> history = model.fit(x, y, batch_size=16, epochs=3, verbose=0)
        >>> history.history["loss"][-1] < history.history["loss"][0]
        True

    References:
        Amari. Natural Gradient Works Efficiently in Learning. Neural Computation 1998; by conjugate
        gradients as Pascanu, Bengio. Revisiting Natural Gradient for Deep Networks. ICLR 2014,
        section 3. The limit is that of Schulman et al. (2015) and of Ba et al. (2017).
    """

    gradient_evaluations_per_step = 21.0
    runs_eagerly = True
    elementwise = True
    ranges: ClassVar[dict[str, Range]] = {
        "damping": POSITIVE,
        "momentum": DECAY_RATE,
        "max_divergence": POSITIVE,
    }

    def __init__(
        self,
        learning_rate: Any = 0.1,
        damping: Any = 0.1,
        momentum: Any = 0.0,
        max_divergence: Any = None,
        fisher: Literal["exact", "mc", "empirical"] = "exact",
        cg_iterations: int = 10,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)
        if fisher not in ("exact", "mc", "empirical"):
            raise ValueError(f"fisher must be 'exact', 'mc' or 'empirical', received {fisher!r}.")
        self.declare(
            damping=damping,
            momentum=momentum,
            max_divergence=max_divergence,
            fisher=fisher,
            cg_iterations=positive_int("cg_iterations", cg_iterations),
            seed=positive_int("seed", seed, least=0),
        )

    def dearest_step(self) -> float:
        """All products, and the step's own gradient."""
        return 1.0 + 2.0 * self.cg_iterations

    def slots(self, shape: tuple[int, ...]) -> Sequence[Slot]:
        """The velocity."""
        return (Slot("velocity"),)

    def look(
        self,
        ws: list[Tensor],
        gs: list[Tensor],
        slots: list[tuple[Tensor, ...]],
        shared: dict[str, Tensor],
        h: Hyperparameters,
    ) -> tuple[list[Tensor], list[tuple[Tensor, ...]], dict[str, Tensor]]:
        """The natural gradient in the gradient's place."""
        landscape = Landscape(self.objective, ws)
        w, g = landscape.vector(ws), landscape.vector(gs)
        product = landscape.fisher_at(w, self.fisher, lambda s, n: h.normal(s, self.seed, n))
        damping = ops.cast(h.damping, w.dtype)
        solved = conjugate_gradients(
            landscape,
            lambda v: product(v) + damping * v,
            g,
            1e-4 * norm(g),
            min(self.cg_iterations, landscape.size),
        )
        n = solved.x
        if self.max_divergence is not None:
            metric = dot(n, solved.product) - damping * dot(n, n)
            length = ops.cast(h.learning_rate, w.dtype) ** 2 * ops.maximum(metric, 1e-30)
            n = n * ops.minimum(1.0, ops.sqrt(ops.cast(h.max_divergence, w.dtype) / length))
        found = landscape.tensors(n)
        finite = all_finite(found)
        return [ops.where(finite, f, g) for f, g in zip(found, gs, strict=True)], slots, shared

    def update(self, w: Tensor, g: Tensor, *slots: Tensor, h: Hyperparameters) -> tuple:
        """One step for one variable, along its natural gradient."""
        (u,) = slots
        u = h.momentum * u - h.learning_rate * g
        return w + u, u
