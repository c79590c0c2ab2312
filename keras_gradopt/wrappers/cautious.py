"""Cautious: leaves out the coordinates in which a step goes uphill."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from keras import ops

from keras_gradopt.arguments import Hyperparameters
from keras_gradopt.ranges import Range
from keras_gradopt.wrappers import Wrapper

Tensor = Any


class Cautious(Wrapper):
    r"""Moves only where the step and the present gradient agree.

    Use it around any optimizer with momentum, above all Adam, AdamW and Lion: it costs next to
    nothing and keeps momentum from carrying weights uphill. With the inner optimizer's step
    $u_t = w_t - w_{t-1}$, the gradient $g_t$ of the same step, and per tensor the mask $\phi_t$ of
    its $d$ coordinates:

    $$\phi_t = [u_t \odot g_t < 0]$$
    $$w_t = w_{t-1} + \frac{d}{\|\phi_t\|_1 + 1}\, u_t \odot \phi_t$$

    so that what is left out is made up for by the rest. The step counts whole, weight decay
    included. An average of the weights belongs around it (`WeightAveraging`): with `use_ema` the
    inner optimizer averages its own steps, before they are masked.

    Args:
        inner: The optimizer whose step is masked: an optimizer not used before, a name or a config.
        least_share: None scales as above, which shortens the steps of tensors of few coordinates.
            A number in (0, 1], or a schedule, scales by the inverse share of agreeing coordinates,
            no more than for this share: 0.001 in the authors' code.
        **kwargs: `name` and `loss_scale_factor`; everything else goes to the inner optimizer.

    Example:
        >>> w = keras.Variable([1.0, -1.0])
        >>> optimizer = Cautious(SGD(0.1, momentum=0.9), least_share=0.001)
        >>> optimizer.apply([ops.array([1.0, 1.0])], [w])     # all agree: w = [0.9, -1.1]
        >>> optimizer.apply([ops.array([1.0, -0.5])], [w])    # the second goes uphill: left out
        >>> show(w)
        [0.52, -1.1]

    References:
        Liang, Chen, Liu, Liu. Cautious Optimizers: Improving Training with One Line of Code. 2024,
        Algorithm 1. The paper masks the step without its decoupled decay; a wrapper sees both.
    """

    keeps_previous = True
    keeps_gradients = True
    ranges: ClassVar[dict[str, Range]] = {
        "least_share": Range(0.0, 1.0, low_included=False, scale="log")
    }

    def __init__(self, inner: Any, least_share: Any = None, **kwargs: Any) -> None:
        super().__init__(inner, **kwargs)
        self.declare(least_share=least_share)

    def after(
        self,
        old: list[Tensor],
        ws: list[Tensor],
        gs: list[Tensor],
        slots: list[tuple[Tensor, ...]],
        shared: dict[str, Tensor],
        h: Hyperparameters,
    ) -> tuple[list[Tensor], list[tuple[Tensor, ...]], dict[str, Tensor]]:
        """The masked step."""
        moved = []
        for before, w, g in zip(old, ws, gs, strict=True):
            u = w - before
            agrees = ops.cast(u * g < 0, w.dtype)
            if self.least_share is None:
                scale = math.prod(w.shape) / (ops.sum(agrees) + 1.0)
            else:
                scale = 1.0 / ops.maximum(ops.mean(agrees), ops.cast(h.least_share, w.dtype))
            moved.append(before + u * agrees * scale)
        return moved, slots, shared
