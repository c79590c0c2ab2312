"""ASAM: SAM in a neighbourhood that is as large as the weights are."""

from __future__ import annotations

from typing import Any, ClassVar

from keras import ops

from keras_gradopt.arguments import Hyperparameters
from keras_gradopt.closure.sam import SAM
from keras_gradopt.ranges import NON_NEGATIVE, Range
from keras_gradopt.tensors import global_norm

Tensor = Any


class ASAM(SAM):
    r"""SAM whose neighbourhood scales with the weights, so that their scale does not matter.

    Use it where SAM helps and layers differ in scale, as with ReLU or normalisation, where weights
    can be scaled up and down without changing what the model computes; the model must be bound:
    `keras_gradopt.bind(model)`. With loss $L$ of the minibatch, $T_w = |w| + \eta$ for each
    coordinate and the Euclidean norm over all variables, the inner optimizer gets

    $$g = \nabla L\left(w + \rho \frac{T_w^2 \nabla L(w)}{\|T_w \nabla L(w)\|}\right)$$

    Args:
        inner: The optimizer that makes the step: an optimizer not used before, a name or a config.
        rho: Radius $\rho$ relative to the weights, at least 0: a number or a schedule. It is about
            ten times SAM's; 0 is the inner optimizer.
        eta: $\eta$, at least 0, in units of the weights: what a weight of 0 may still move by.
        **kwargs: `name` and `loss_scale_factor`; everything else goes to the inner optimizer.

    Example:
        >>> model = keras_gradopt.bind(model)
        >>> model.compile(optimizer=ASAM("sgd", rho=0.5), loss="mse")
        >>> history = model.fit(x, y, batch_size=16, verbose=0)
        >>> float(model.optimizer.evaluations)     # 4 steps of two gradients
        8.0

    References:
        Kwon, Kim, Park, Choi. ASAM: Adaptive Sharpness-Aware Minimization for Scale-Invariant
        Learning of Deep Neural Networks. ICML 2021, Algorithm 1 with p = 2. There biases may be
        left out of $T_w$; here all weights are alike.
    """

    ranges: ClassVar[dict[str, Range]] = {"rho": NON_NEGATIVE, "eta": NON_NEGATIVE}

    def __init__(self, inner: Any, rho: Any = 0.5, eta: Any = 0.01, **kwargs: Any) -> None:
        super().__init__(inner, rho, **kwargs)
        self.declare(eta=eta)

    def worst(self, ws: list[Tensor], gs: list[Tensor], h: Hyperparameters) -> list[Tensor]:
        """The worst point of the neighbourhood, to first order."""
        scales = [ops.abs(w) + ops.cast(h.eta, w.dtype) for w in ws]
        scaled = [t * g for t, g in zip(scales, gs, strict=True)]
        reach = h.rho / (global_norm(scaled) + 1e-12)
        return [
            w + ops.cast(reach, w.dtype) * t * s for w, t, s in zip(ws, scales, scaled, strict=True)
        ]
