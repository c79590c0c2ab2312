"""STORM: momentum that corrects itself by looking back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from keras import ops

from keras_gradopt.arguments import Hyperparameters
from keras_gradopt.closure import EstimatesGradient
from keras_gradopt.ranges import FRACTION, NON_NEGATIVE, POSITIVE, Range
from keras_gradopt.slot import Slot
from keras_gradopt.tensors import all_finite, global_norm

Tensor = Any


class STORM(EstimatesGradient):
    r"""Momentum without lag: old gradients are moved to the new weights before they are averaged.

    Use it in place of SGD with momentum where minibatches are small and noisy and full passes over
    the data are out of question; it sets its rate and its averaging by the gradients it meets. The
    model must be bound: `keras_gradopt.bind(model)`. With the minibatch's loss $L_t$ and the share
    $a_t$ of its plain gradient, $a_1 = 1$:

    $$d_t = \nabla L_t(w_t) + (1 - a_t) \left(d_{t-1} - \nabla L_t(w_{t-1})\right)$$
    $$\eta_t = \frac{k}{\left(\omega + \sum_{i \le t} \|\nabla L_i(w_i)\|^2\right)^{1/3}},
        \quad a_{t+1} = \min(1, c\, \eta_t^2)$$
    $$w_{t+1} = w_t - \eta_t d_t$$

    With a constant `share` the rate is plain: $\eta_t = k$.

    Args:
        learning_rate: $k$, at least 0: a number or a schedule. With `share` it is the step size.
        share: $a$ in [0, 1], a number or a schedule, from the second step on; None finds $a_t$ and
            the rate by the equations above. 1 is SGD.
        share_factor: $c$, at least 0: a small one keeps the errors of early minibatches for long,
            a large one is SGD; the paper tunes it in powers of 10. Without meaning where `share` is
            given.
        offset: $\omega$ above 0, in squared units of the gradient: it limits the first steps.
            Without meaning where `share` is given.
        **kwargs: Common arguments, see `keras_gradopt.Optimizer`. Clipping and other transforms see
            $d_t$; decoupled weight decay goes by $\eta_t$.

    Example:
        >>> model = keras_gradopt.bind(model)
        >>> model.compile(optimizer=STORM(0.1), loss="mse")
        >>> history = model.fit(x, y, batch_size=16, verbose=0)
        >>> float(model.optimizer.evaluations)     # 4 steps of two gradients
        8.0

    References:
        Cutkosky, Orabona. Momentum-Based Variance Reduction in Non-Convex SGD. NeurIPS 2019,
        Algorithm 1, with k and the offset of its experiments. There $c$ is small enough for $a$ to
        stay below 1; here it is cut. Both gradients of a step see the same minibatch, dropout masks
        included. Where the second one is not finite (float16), the minibatch's gradient is taken.
    """

    elementwise = True
    decays_weights = True
    ranges: ClassVar[dict[str, Range]] = {
        "share": FRACTION,
        "share_factor": NON_NEGATIVE,
        "offset": POSITIVE,
    }

    def __init__(
        self,
        learning_rate: Any = 0.1,
        share: Any = None,
        share_factor: Any = 100.0,
        offset: Any = 0.1,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.declare(share=share, share_factor=share_factor, offset=offset)

    def slots(self, shape: tuple[int, ...]) -> Sequence[Slot]:
        """The last weights, and the estimate there."""
        return (Slot("previous", initial=lambda w: w), Slot("estimate"))

    def shared_slots(self) -> Sequence[Slot]:
        """The sum of squared norms, and the next step's share."""
        return (Slot("squares", shape=()), Slot("next_share", shape=(), initial=1.0))

    def estimated(
        self,
        ws: list[Tensor],
        gs: list[Tensor],
        slots: list[tuple[Tensor, ...]],
        shared: dict[str, Tensor],
        h: Hyperparameters,
    ) -> tuple[list[Tensor], list[tuple[Tensor, ...]], dict[str, Tensor]]:
        """The average of the gradient here and of the estimate as it has moved here."""
        _, at_previous = self.objective.value_and_grad([previous for previous, _ in slots])
        is_sound = all_finite(at_previous)
        a = shared["next_share"]
        ds = [
            ops.where(is_sound, g + ops.cast(1.0 - a, g.dtype) * (d - before), g)
            for g, before, (_, d) in zip(gs, at_previous, slots, strict=True)
        ]
        squares = shared["squares"] + ops.cast(global_norm(gs), "float32") ** 2
        shared = {**shared, "squares": squares}
        rate = self.rate(h.replace(shared=shared))
        share = h.share if self.share is not None else ops.minimum(1.0, h.share_factor * rate**2)
        shared["next_share"] = ops.cast(share, "float32")
        return ds, [(ops.copy(w), d) for w, d in zip(ws, ds, strict=True)], shared

    def rate(self, h: Hyperparameters) -> Any:
        """The step size from the sum of squared norms, this step's included."""
        if self.share is not None:
            return h.learning_rate
        return h.learning_rate / ops.power(h.offset + h.shared["squares"], 1 / 3)

    def update(self, w: Tensor, g: Tensor, *slots: Tensor, h: Hyperparameters) -> tuple:
        """One step for one variable, along the estimate."""
        rate = self.rate(h)
        return (w - rate * (h.weight_decay * w + g), *slots)
