"""HypergradientDescent: learns the learning rate while it trains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from keras import ops

from keras_gradopt.arguments import Hyperparameters, is_number
from keras_gradopt.ranges import NON_NEGATIVE, Range
from keras_gradopt.slot import Slot
from keras_gradopt.tensors import global_norm
from keras_gradopt.wrappers import Wrapper

Tensor = Any


class HypergradientDescent(Wrapper):
    r"""Raises any optimizer's rate while its steps go on downhill, lowers it when they overshoot.

    Use it where no good rate is known: from one far too small or somewhat too large it finds its
    way within tens to hundreds of steps. The inner optimizer's step is $w_t = w_{t-1} - \alpha_t
    u_t$, so $u_t = (w_{t-1} - w_t) / \alpha_t$ whatever the optimizer, and the loss after it
    changes with the rate as $-g_{t+1} \cdot u_t$. Descending along that derivative with the rate
    $\beta$, sums taken over all variables:

    $$\alpha_t = \alpha_{t-1} + \beta\, g_t \cdot u_{t-1}$$

    or, with `multiplicative`, by a factor that does not depend on the loss's scale:

    $$\alpha_t = \alpha_{t-1} \left(1 + \beta
      \frac{g_t \cdot u_{t-1}}{\|g_t\|\, \|u_{t-1}\|}\right)$$

    The rate stands in `learning_rate`, which callbacks read and which may be set; it is saved with
    the model. A sum that is not finite leaves it as it is. The first step is made with the inner
    optimizer's own rate; from a rate of 0, which moves nothing, there is nothing to learn.
    Around SGD it is the paper's SGD-HD, around Adam Adam-HD. SGD with momentum keeps steps of
    former rates in its velocity, which the paper's SGDN-HD does not: the two part slowly where the
    rate changes fast. $g_t$ is the gradient that the inner optimizer gets, before its clipping.

    Args:
        inner: The optimizer whose rate is learned: an optimizer not used before with a number for
            its rate, a name, or a config.
        hypergradient_learning_rate: $\beta$, at least 0: a number or a schedule. None is 1e-4, or
            0.02 for the multiplicative rule, which needs less choosing. The additive rule's is in
            units of the rate per squared gradient: the authors took 1e-3 to 1e-4 around SGD, 1e-7
            to 1e-8 around Adam, whose $u$ has an entry of about 1 for each weight.
        multiplicative: Whether the rate moves by a factor, at most $1 \pm \beta$ a step.
        least_rate: The rate goes no lower, at least 0: a number or a schedule. At 0 the additive
            rule keeps the last direction $u$, and starts again when it points downhill.
        **kwargs: `name` and `loss_scale_factor`; everything else goes to the inner optimizer.

    Raises:
        ValueError: The inner optimizer follows a schedule, or $\beta$ of the multiplicative rule is
            1 or more, which could make the rate negative.

    Example:
        >>> w = keras.Variable([1.0])
        >>> optimizer = HypergradientDescent(SGD(0.1), hypergradient_learning_rate=0.01)
        >>> optimizer.apply([2 * w], [w])      # w = 0.8 with the rate 0.1
        >>> optimizer.apply([2 * w], [w])      # rate 0.1 + 0.01 * 1.6 * 2 = 0.132
        >>> show(w)
        [0.5888]

    References:
        Baydin, Cornish, Martinez Rubio, Schmidt, Wood. Online Learning Rate Adaptation with
        Hypergradient Descent. ICLR 2018, Algorithms 4 (SGD-HD), 5 (SGDN-HD) and 6 (Adam-HD), and
        equations (8) and (9) (multiplicative). The lower bound and the guard against sums that are
        not finite are ours.
    """

    keeps_previous = True
    # Read by `rate`, and kept through accumulation for it.
    keeps_gradients = True
    sets_rate = True
    ranges: ClassVar[dict[str, Range]] = {
        "hypergradient_learning_rate": NON_NEGATIVE,
        "least_rate": NON_NEGATIVE,
    }

    def __init__(
        self,
        inner: Any,
        hypergradient_learning_rate: Any = None,
        multiplicative: bool = False,
        least_rate: Any = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(inner, **kwargs)
        if hypergradient_learning_rate is None:
            hypergradient_learning_rate = 0.02 if multiplicative else 1e-4
        self.declare(
            hypergradient_learning_rate=hypergradient_learning_rate,
            multiplicative=bool(multiplicative),
            least_rate=least_rate,
        )
        beta = self.hypergradient_learning_rate
        if self.multiplicative and is_number(beta) and beta >= 1.0:
            raise ValueError(
                "hypergradient_learning_rate must be below 1 with multiplicative=True, received "
                f"{beta!r}. It is the most by which a step changes the rate; 0.02 is usual."
            )

    def slots(self, shape: tuple[int, ...]) -> Sequence[Slot]:
        """The last step per unit of rate."""
        return (Slot("direction"),)

    def rate(self, gs: list[Tensor], slots: list[tuple[Tensor, ...]], h: Hyperparameters) -> Tensor:
        """The rate so far, moved along its own gradient."""
        alpha, beta = h.learning_rate, h.hypergradient_learning_rate
        us = [u for (u,) in slots]
        product = ops.cast(sum(ops.sum(g * u) for g, u in zip(gs, us, strict=True)), "float32")
        if self.multiplicative:
            norms = ops.cast(global_norm(gs) * global_norm(us), "float32")
            cosine = ops.where(norms > 0, product / ops.where(norms > 0, norms, 1.0), 0.0)
            moved = alpha * (1.0 + beta * cosine)
        else:
            moved = alpha + beta * product
        # A comparison with NaN is false, so the bound comes last.
        moved = ops.where(ops.isfinite(moved), moved, alpha)
        return ops.maximum(moved, h.least_rate)

    def after(
        self,
        old: list[Tensor],
        ws: list[Tensor],
        gs: list[Tensor],
        slots: list[tuple[Tensor, ...]],
        shared: dict[str, Tensor],
        h: Hyperparameters,
    ) -> tuple[list[Tensor], list[tuple[Tensor, ...]], dict[str, Tensor]]:
        """Keeps the step's direction; where there is none, or no finite one, the former."""
        moves = h.learning_rate > 0
        scale = ops.where(moves, 1.0 / ops.where(moves, h.learning_rate, 1.0), 0.0)
        kept = []
        for before, w, (u,) in zip(old, ws, slots, strict=True):
            new = (before - w) * ops.cast(scale, w.dtype)
            kept.append((ops.where(moves & ops.isfinite(new), new, u),))
        return ws, kept, shared
