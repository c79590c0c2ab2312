"""MARS: variance reduction in front of any optimizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from keras import ops

from keras_gradopt.arguments import Hyperparameters
from keras_gradopt.closure import EvaluatesLoss
from keras_gradopt.ranges import DECAY_RATE, NON_NEGATIVE, POSITIVE, Range
from keras_gradopt.slot import Slot
from keras_gradopt.tensors import all_finite, global_norm
from keras_gradopt.wrappers import Wrapper

Tensor = Any


class MARS(EvaluatesLoss, Wrapper):
    r"""Corrects gradients by how they have changed since the last step, for adaptive optimizers.

    Use it around AdamW, Lion or another optimizer with momentum, above all for language models: it
    takes part of the minibatches' noise out of the momentum, by default at the cost of an
    optimizer's slot. With the minibatch's loss $L_t$, the inner optimizer's momentum $\beta_1$ and
    strength $\gamma$ the inner optimizer gets, of each variable,

    $$c_t = \nabla L_t(w_t) + \gamma \frac{\beta_1}{1 - \beta_1}
        \left(\nabla L_t(w_t) - \nabla L_t(w_{t-1})\right)$$
    $$\tilde c_t = c_t \min\left(1, \frac{1}{\|c_t\|}\right)$$

    The default takes the last minibatch's gradient, $\nabla L_{t-1}(w_{t-1})$, for the second one.
    `exact=True` evaluates it, on this minibatch: the model must be bound, `keras_gradopt.bind
    (model)`, and a step takes two gradients.

    Args:
        inner: The optimizer that makes the step: an optimizer not used before, a name or a config.
        gamma: Strength $\gamma$ of the correction, at least 0: a number or a schedule. 0.025 is
            usual; 0 is the inner optimizer with clipped gradients.
        beta_1: $\beta_1$ in [0, 1): the inner optimizer's decay of its first moment.
        max_norm: The largest norm of one variable's corrected gradient, above 0: 1 in the paper.
            None clips nothing.
        exact: Whether to evaluate the gradient at the last weights.
        **kwargs: `name` and `loss_scale_factor`; everything else goes to the inner optimizer.

    Example:
        >>> w = keras.Variable([1.0])
        >>> optimizer = MARS(SGD(0.1), gamma=0.1, beta_1=0.9, max_norm=None)
        >>> optimizer.apply([ops.array([1.0])], [w])     # 1 + 0.9 (1 - 0) = 1.9
        >>> optimizer.apply([ops.array([0.5])], [w])     # 0.5 + 0.9 (0.5 - 1) = 0.05
        >>> show(w)
        [0.805]

    References:
        Yuan, Liu, Wu, Zhou, Gu. MARS: Unleashing the Power of Variance Reduction for Training Large
        Models. 2024, Algorithm 1 (`exact`) and Algorithm 2. As in the authors' code norms are those
        of single variables and the gradient before the first is 0; there vectors may be left to a
        plain AdamW, here all variables are alike. Where the gradient at the last weights is not
        finite (float16), nothing is corrected.
    """

    ranges: ClassVar[dict[str, Range]] = {
        "gamma": NON_NEGATIVE,
        "beta_1": DECAY_RATE,
        "max_norm": POSITIVE,
    }

    def __init__(
        self,
        inner: Any,
        gamma: Any = 0.025,
        beta_1: Any = 0.95,
        max_norm: Any = 1.0,
        exact: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(inner, **kwargs)
        self.declare(gamma=gamma, beta_1=beta_1, max_norm=max_norm, exact=bool(exact))
        # The class says what an instance may need at most.
        self.needs = "closure" if self.exact else "gradient"
        self.gradient_evaluations_per_step = 2.0 if self.exact else 1.0

    def slots(self, shape: tuple[int, ...]) -> Sequence[Slot]:
        """The last weights, or the last minibatch's gradient."""
        return (Slot("previous", initial=lambda w: w) if self.exact else Slot("last_gradient"),)

    def before(
        self,
        ws: list[Tensor],
        gs: list[Tensor],
        slots: list[tuple[Tensor, ...]],
        shared: dict[str, Tensor],
        h: Hyperparameters,
    ) -> list[Tensor]:
        """The corrected and clipped gradients."""
        kept = [own for (own,) in slots]
        strength: Any = h.gamma * h.beta_1 / (1.0 - h.beta_1)
        if self.exact:
            _, kept = self.objective.value_and_grad(kept)
            strength = ops.where(all_finite(kept), strength, 0.0)
            kept = [ops.where(ops.isfinite(k), k, 0.0) for k in kept]
        # What `after` keeps: copies of what the step may overwrite.
        h.numbers["kept"] = [ops.copy(x) for x in (ws if self.exact else gs)]
        cs = [g + ops.cast(strength, g.dtype) * (g - k) for g, k in zip(gs, kept, strict=True)]
        return cs if self.max_norm is None else [self._clipped(c, h) for c in cs]

    def _clipped(self, c: Tensor, h: Hyperparameters) -> Tensor:
        limit = ops.cast(h.max_norm, c.dtype)
        return c * (limit / ops.maximum(global_norm([c]), limit))

    def after(
        self,
        old: list[Tensor],
        ws: list[Tensor],
        gs: list[Tensor],
        slots: list[tuple[Tensor, ...]],
        shared: dict[str, Tensor],
        h: Hyperparameters,
    ) -> tuple[list[Tensor], list[tuple[Tensor, ...]], dict[str, Tensor]]:
        """Keeps the weights or the gradients that the step started from."""
        return ws, [(kept,) for kept in h.numbers["kept"]], shared

    def _apply_dense(self, grads: list[Tensor], variables: list[Any]) -> None:
        if self.exact:
            super()._apply_dense(grads, variables)
        else:
            super(EvaluatesLoss, self)._apply_dense(grads, variables)
            self.evaluations.assign_add(1.0)
