"""SAM: descends the worst loss in a neighbourhood."""

from __future__ import annotations

from typing import Any, ClassVar

from keras import ops

from keras_gradopt.arguments import Hyperparameters
from keras_gradopt.closure import EvaluatesLoss
from keras_gradopt.ranges import NON_NEGATIVE, Range
from keras_gradopt.tensors import all_finite, global_norm
from keras_gradopt.wrappers import Wrapper

Tensor = Any


class SAM(EvaluatesLoss, Wrapper):
    r"""Steps along the gradient at the worst point nearby, which prefers flat minima.

    Use it against overfitting and noisy labels, at twice the cost of a step; the model must be
    bound: `keras_gradopt.bind(model)`. With loss $L$ of the minibatch, radius $\rho$ and the
    Euclidean norm over all variables, the inner optimizer gets

    $$g = \nabla L\left(w + \rho \frac{\nabla L(w)}{\|\nabla L(w)\|}\right)$$

    Args:
        inner: The optimizer that makes the step: an optimizer not used before, a name or a config.
        rho: Radius $\rho$ in units of the weights, at least 0: a number or a schedule. 0.05 is
            usual; 0 is the inner optimizer.
        **kwargs: `name` and `loss_scale_factor`; everything else goes to the inner optimizer.

    Example:
        >>> model = keras_gradopt.bind(model)
        >>> model.compile(optimizer=SAM("sgd", rho=0.05), loss="mse")
        >>> history = model.fit(x, y, batch_size=16, verbose=0)
        >>> float(model.optimizer.evaluations)     # 4 steps of two gradients
        8.0

    References:
        Foret, Kleiner, Mobahi, Neyshabur. Sharpness-Aware Minimization for Efficiently Improving
        Generalization. ICLR 2021, Algorithm 1 with p = 2. BatchNorm statistics move with the first
        evaluation only. Where the second gradient is not finite (float16), the first one is taken.
    """

    gradient_evaluations_per_step = 2.0
    ranges: ClassVar[dict[str, Range]] = {"rho": NON_NEGATIVE}

    def __init__(self, inner: Any, rho: Any = 0.05, **kwargs: Any) -> None:
        super().__init__(inner, **kwargs)
        self.declare(rho=rho)

    def before(
        self,
        ws: list[Tensor],
        gs: list[Tensor],
        slots: list[tuple[Tensor, ...]],
        shared: dict[str, Tensor],
        h: Hyperparameters,
    ) -> list[Tensor]:
        """The gradients at the worst point of the neighbourhood, to first order."""
        del slots, shared
        worst = self.worst(ws, gs, h)
        _, sharp = self.objective.value_and_grad(worst)
        finite = all_finite(sharp)
        return [ops.where(finite, s, g) for s, g in zip(sharp, gs, strict=True)]

    def worst(self, ws: list[Tensor], gs: list[Tensor], h: Hyperparameters) -> list[Tensor]:
        """The worst point of the neighbourhood, to first order."""
        # At a stationary point there is no worst direction; 1e-12 keeps the quotient finite.
        reach = h.rho / (global_norm(gs) + 1e-12)
        return [w + ops.cast(reach, w.dtype) * g for w, g in zip(ws, gs, strict=True)]  # (2)
