"""Sophia: momentum over a diagonal curvature, clipped entry by entry."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from keras import ops

from keras_gradopt.arguments import Hyperparameters, positive_int
from keras_gradopt.closure import EvaluatesLoss, sampled_diagonal, signs
from keras_gradopt.ranges import DECAY_RATE, EPSILON, POSITIVE, Range
from keras_gradopt.slot import Slot
from keras_gradopt.tensors import all_finite

Tensor = Any


class Sophia(EvaluatesLoss):
    r"""Divides momentum by a diagonal curvature that is measured now and then, and clips.

    Use it to train language models, where curvatures differ by orders of magnitude between
    coordinates; the model must be bound: `keras_gradopt.bind(model)`. With gradient $g_t$ and an
    estimate $\hat h_t$ of the Hessian's diagonal at every $k$-th step:

    $$m_t = \beta_1 m_{t-1} + (1 - \beta_1) g_t$$
    $$h_t = \beta_2 h_{t-k} + (1 - \beta_2) \hat h_t$$
    $$w_t = w_{t-1} - \eta\, \mathrm{clip}\left(\frac{m_t}{\max(\gamma h_t, \epsilon)}, 1\right)$$

    Args:
        learning_rate: $\eta$, at least 0: the largest change of a weight in one step. The paper
            takes about 0.8 of AdamW's.
        beta_1: Decay of the momentum, in [0, 1).
        beta_2: Decay of the curvature, in [0, 1).
        gamma: $\gamma$, above 0: with larger ones more entries are clipped less. The paper takes
            0.01 for `"hutchinson"` and 0.05 for `"gauss_newton"`.
        epsilon: $\epsilon$ in units of the curvature, above 0.
        estimator: `"gauss_newton"` squares a gradient at targets drawn from the model itself,
            which needs a cross-entropy or another likelihood; `"hutchinson"` multiplies the Hessian
            with random signs, which any loss allows.
        interval: Steps $k$ between two estimates, at least 1.
        seed: Of the random numbers, at least 0.
        **kwargs: Common arguments, see `keras_gradopt.Optimizer`.

    Example:
        >>> model = keras_gradopt.bind(model)
        >>> model.compile(optimizer=Sophia(0.01), loss="mse")
        >>> history = model.fit(x, y, batch_size=16, verbose=0)
        >>> float(model.optimizer.evaluations)     # 4 steps, and one estimate of 3 gradients
        7.0

    References:
        Liu, Li, Hall, Liang, Ma. Sophia: A Scalable Stochastic Second-order Optimizer for Language
        Model Pre-training. ICLR 2024, Algorithms 1 to 3. Estimates that are not finite are
        left out.
    """

    # A tenth of a Hessian-vector product beside the gradient.
    gradient_evaluations_per_step = 1.3
    draws = True
    runs_eagerly = True
    elementwise = True
    ranges: ClassVar[dict[str, Range]] = {
        "beta_1": DECAY_RATE,
        "beta_2": DECAY_RATE,
        "gamma": POSITIVE,
        "epsilon": EPSILON,
    }

    def __init__(
        self,
        learning_rate: Any = 1e-3,
        beta_1: Any = 0.965,
        beta_2: Any = 0.99,
        gamma: Any = 0.01,
        epsilon: Any = 1e-12,
        estimator: Literal["hutchinson", "gauss_newton"] = "hutchinson",
        interval: int = 10,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)
        if estimator not in ("hutchinson", "gauss_newton"):
            raise ValueError(
                f"estimator must be 'hutchinson' or 'gauss_newton', received {estimator!r}."
            )
        self.declare(
            beta_1=beta_1,
            beta_2=beta_2,
            gamma=gamma,
            epsilon=epsilon,
            estimator=estimator,
            interval=positive_int("interval", interval),
            seed=positive_int("seed", seed, least=0),
        )

    def dearest_step(self) -> float:
        """One with an estimate of the curvature."""
        return 4.0

    def slots(self, shape: tuple[int, ...]) -> Sequence[Slot]:
        """Momentum and curvature."""
        return (Slot("momentum"), Slot("curvature"))

    def look(
        self,
        ws: list[Tensor],
        gs: list[Tensor],
        slots: list[tuple[Tensor, ...]],
        shared: dict[str, Tensor],
        h: Hyperparameters,
    ) -> tuple[list[Tensor], list[tuple[Tensor, ...]], dict[str, Tensor]]:
        """The curvature's running mean, with a new estimate at every `interval`-th step."""
        old = [curvature for _, curvature in slots]

        def estimated() -> list[Tensor]:
            if self.estimator == "gauss_newton":
                found = sampled_diagonal(self.objective, ws, h, self.seed)  # Algorithm 2
            else:
                us = signs(ws, h, self.seed)
                products = self.objective.hvp(ws, us)
                found = [u * p for u, p in zip(us, products, strict=True)]  # Algorithm 1
            finite = all_finite(found)
            means = [h.beta_2 * a + (1 - h.beta_2) * b for a, b in zip(old, found, strict=True)]
            return [ops.where(finite, b, a) for a, b in zip(old, means, strict=True)]

        due = ops.equal(ops.mod(h.step, float(self.interval)), 1.0 % self.interval)
        new = self.objective.either(due, estimated, lambda: old)
        slots = [(m, curvature) for (m, _), curvature in zip(slots, new, strict=True)]
        return gs, slots, shared

    def update(self, w: Tensor, g: Tensor, *slots: Tensor, h: Hyperparameters) -> tuple:
        """One step for one variable."""
        m, curvature = slots
        m = h.beta_1 * m + (1 - h.beta_1) * g
        ratio = m / ops.maximum(h.gamma * curvature, h.epsilon)
        return w - h.learning_rate * ops.clip(ratio, -1.0, 1.0), m, curvature
