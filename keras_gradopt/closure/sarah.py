"""SARAH: gradient descent along a gradient that is carried from point to point."""

from __future__ import annotations

from typing import Any

from keras import ops

from keras_gradopt.arguments import Hyperparameters
from keras_gradopt.closure import TakesFullGradient
from keras_gradopt.tensors import all_finite, global_norm

Tensor = Any


class SARAH(TakesFullGradient):
    r"""Carries the full gradient along its path by the changes that minibatches see.

    Use it where SVRG is used: its estimate stays close to the last point instead of an old one, so
    it is steadier within an epoch; in return it is biased. `normalized=True` is SPIDER, for losses
    that are not convex: its steps are short enough for the estimate to follow. The model must be
    bound with its data: `keras_gradopt.bind(model, dataset=(x, y))`. With the minibatch's loss
    $L_i$, the mean loss $L$ over the dataset, and rate $\eta$:

    $$v_0 = \nabla L(w_0)$$
    $$v_t = \nabla L_i(w_t) - \nabla L_i(w_{t-1}) + v_{t-1}$$
    $$w_{t+1} = w_t - \eta v_t \quad\text{(SPIDER:}\ w_{t+1} = w_t - \eta v_t / \|v_t\|\text{)}$$

    and after `snapshot_interval` steps from the top, where it is.

    Args:
        learning_rate: Step size $\eta$, at least 0: a number or a schedule. With `normalized` it
            is the length of the step of all weights together, in units of the weights.
        snapshot_interval: Steps from one full pass to the next, at least 1; None is an epoch.
        normalized: Whether steps have the length of the rate whatever the gradient (SPIDER).
        **kwargs: Common arguments, see `keras_gradopt.Optimizer`. Clipping and other transforms see
            $v_t$; decoupled weight decay is no part of it.

    Example:
        >>> model = keras_gradopt.bind(model, dataset=(x, y))
        >>> model.compile(optimizer=SARAH(0.05), loss="mse")
        >>> history = model.fit(x, y, batch_size=16, verbose=0)
        >>> float(model.optimizer.evaluations)     # a pass of 4 minibatches, 4 steps of 2 gradients
        12.0

    References:
        Nguyen, Liu, Scheinberg, Takáč. SARAH: A Novel Method for Machine Learning Problems Using
        Stochastic Recursive Gradient. ICML 2017, Algorithm 1; the next outer loop starts from the
        last weights, as its practical variant does, not from random ones of the loop.
        Fang, Li, Lin, Zhang. SPIDER: Near-Optimal Non-Convex Optimization via Stochastic
        Path-Integrated Differential Estimator. NeurIPS 2018, Algorithm 1, option I's step.
        Both gradients of a step see the same minibatch, dropout masks included. Where the second
        one is not finite (float16), the minibatch's gradient is taken.
    """

    # Two in each step, and a pass in each epoch.
    gradient_evaluations_per_step = 3.0
    elementwise = True
    kept = ("previous", "estimate")
    passes_are_apart = 1

    def __init__(
        self,
        learning_rate: Any = 0.1,
        snapshot_interval: int | None = None,
        normalized: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, snapshot_interval, **kwargs)
        self.declare(normalized=bool(normalized))

    def estimated(
        self,
        ws: list[Tensor],
        gs: list[Tensor],
        slots: list[tuple[Tensor, ...]],
        shared: dict[str, Tensor],
        h: Hyperparameters,
    ) -> tuple[list[Tensor], list[tuple[Tensor, ...]], dict[str, Tensor]]:
        """The estimate at the last weights, and the change that this minibatch sees since."""
        # Right after a full pass both points are one: the difference is nought, and v_0 is left.
        _, at_previous = self.objective.value_and_grad([previous for previous, _ in slots])
        is_sound = all_finite(at_previous) & (shared["has_full_gradient"] > 0)
        vs = [
            ops.where(is_sound, g - before + v, g)
            for g, before, (_, v) in zip(gs, at_previous, slots, strict=True)
        ]
        slots = [(ops.copy(w), v) for w, v in zip(ws, vs, strict=True)]
        return vs, slots, {**shared, "steps_since_pass": shared["steps_since_pass"] + 1.0}

    def measure(
        self,
        ws: list[Tensor],
        gs: list[Tensor],
        slots: list[tuple[Tensor, ...]],
        shared: dict[str, Tensor],
        h: Hyperparameters,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """What steps are divided by: the estimate's norm over all variables, for SPIDER."""
        # At a stationary point there is no direction; 1e-12 keeps the quotient finite.
        return ({"norm": global_norm(gs) + 1e-12} if self.normalized else {}), shared

    def update(self, w: Tensor, g: Tensor, *slots: Tensor, h: Hyperparameters) -> tuple:
        """One step for one variable, along the estimate."""
        if self.normalized:
            g = g / h.numbers["norm"]
        return (w - h.learning_rate * g, *slots)
