"""SVRG: gradient descent whose minibatches are corrected by a full gradient of before."""

from __future__ import annotations

from typing import Any

from keras import ops

from keras_gradopt.arguments import Hyperparameters
from keras_gradopt.closure import TakesFullGradient
from keras_gradopt.tensors import all_finite

Tensor = Any


class SVRG(TakesFullGradient):
    r"""Gradient descent without the noise of minibatches, as far as convex problems go.

    Use it on convex or nearly convex problems (logistic and linear regression, the last layer of a
    network) that are to be solved to many digits: it converges linearly at a constant rate where
    SGD stalls at its noise. On deep networks the correction is soon of little worth (Defazio,
    Bottou 2019). The model must be bound with its data: `keras_gradopt.bind(model, dataset=(x,
    y))`. With the minibatch's loss $L_i$, the mean loss $L$ over the dataset, rate $\eta$, and the
    weights $\tilde w$ of the last full pass:

    $$v_t = \nabla L_i(w_{t-1}) - \nabla L_i(\tilde w) + \nabla L(\tilde w)$$
    $$w_t = w_{t-1} - \eta v_t$$

    $v_t$ is unbiased, and its variance vanishes as $w_t$ and $\tilde w$ near the minimum.

    Args:
        learning_rate: Step size $\eta$, at least 0: a number or a schedule. 0.1 / L with the
            largest curvature L of a minibatch's loss is safe.
        snapshot_interval: Steps from one full pass to the next, at least 1; None is two epochs.
        **kwargs: Common arguments, see `keras_gradopt.Optimizer`. Clipping and other transforms see
            $v_t$; decoupled weight decay is no part of it.

    Example:
        >>> model = keras_gradopt.bind(model, dataset=(x, y))
        >>> model.compile(optimizer=SVRG(0.05), loss="mse")
        >>> history = model.fit(x, y, batch_size=16, verbose=0)
        >>> float(model.optimizer.evaluations)     # a pass of 4 minibatches, 4 steps of 2 gradients
        12.0

    References:
        Johnson, Zhang. Accelerating Stochastic Gradient Descent using Predictive Variance
        Reduction. NeurIPS 2013, Procedure SVRG with option I and m = 2n for n minibatches. Both
        gradients of a step see the same minibatch, dropout masks included. Where the second one, or
        the full gradient, is not finite (float16), the minibatch's gradient is taken.
    """

    # Two in each step, and a pass in two epochs.
    gradient_evaluations_per_step = 2.5
    elementwise = True
    kept = ("snapshot", "full_gradient")
    passes_are_apart = 2

    def estimated(
        self,
        ws: list[Tensor],
        gs: list[Tensor],
        slots: list[tuple[Tensor, ...]],
        shared: dict[str, Tensor],
        h: Hyperparameters,
    ) -> tuple[list[Tensor], list[tuple[Tensor, ...]], dict[str, Tensor]]:
        """The minibatch's gradient, less what it was at the snapshot, and the full one there."""
        _, at_snapshot = self.objective.value_and_grad([snapshot for snapshot, _ in slots])
        is_sound = all_finite(at_snapshot) & (shared["has_full_gradient"] > 0)
        vs = [
            ops.where(is_sound, g - before + full, g)
            for g, before, (_, full) in zip(gs, at_snapshot, slots, strict=True)
        ]
        return vs, slots, {**shared, "steps_since_pass": shared["steps_since_pass"] + 1.0}
